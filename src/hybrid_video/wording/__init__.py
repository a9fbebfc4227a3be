"""Every word the dashboard shows, in one place per language, and how numbers are said.

The texts are data (`en.toml`, `th.toml`); a test holds both to the same keys and the same placeholders.
Sentences that come from elsewhere in the package (errors, reasons of a decision, remedies) stay as they are.
"""

from hybrid_video.wording.amounts import Amounts
from hybrid_video.wording.texts import LANGUAGES, Words, catalogue

__all__ = ["LANGUAGES", "Amounts", "Words", "catalogue"]
