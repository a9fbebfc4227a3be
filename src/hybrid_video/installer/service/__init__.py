"""What keeps an installed ComfyUI running: systemd, launchd, Windows' task scheduler, or a supervised process.

Each does without sudo or an administrator and starts ComfyUI on 127.0.0.1 only.
"""

from hybrid_video.installer.service.base import Launch, Service, service_name
from hybrid_video.installer.service.choosing import choose_service, service_of

__all__ = ["Launch", "Service", "choose_service", "service_name", "service_of"]
