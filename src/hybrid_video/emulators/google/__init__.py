"""Google's video services as a local server: Gemini Omni (Interactions) and Veo, on the API-key road and on Cloud."""

from hybrid_video.emulators.google.service import GoogleEmulator

__all__ = ["GoogleEmulator"]
