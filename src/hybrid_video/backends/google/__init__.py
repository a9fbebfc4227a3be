"""Google's paid tier on its two roads: Gemini Omni by API key, Veo 3.1 on Google Cloud by OAuth."""

from hybrid_video.backends.google.gemini import GeminiBackend
from hybrid_video.backends.google.veo import VeoBackend

__all__ = ["GeminiBackend", "VeoBackend"]
