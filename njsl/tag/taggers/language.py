"""Which language a document is in, by CLD2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from njsl.core.types import ConfigError
from njsl.tag.base import Batch, Column, Tagger

UNKNOWN = "un"


class Language(Tagger):
    """The main language of a document's beginning.

    Its feature is the share of English among all documents, those without a recognised language included.
    """

    columns: ClassVar[dict[str, Column]] = {
        "language": Column(
            "string",
            "label",
            "code of the main language by CLD2; un where none was found",
            UNKNOWN,
            shares={"en": "pct_english_mean", "*": ""},
        ),
    }

    def __init__(self, *, max_characters: int) -> None:
        """Args:
            max_characters: so much of a document's beginning is looked at; the paper looks at 10,000.

        Raises:
            ConfigError: fewer than 1.
        """
        if max_characters < 1:
            raise ConfigError(f"tagger.language.max_characters: expected at least 1, got {max_characters}")
        self.max_characters = max_characters

    def tag_batch(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        return {"language": [self._language(text[: self.max_characters]) for text in batch.texts]}

    def _language(self, text: str) -> str:
        import pycld2

        try:
            _, _, details = pycld2.detect(text)
        except pycld2.error:
            # It takes no control characters, NUL among them, and no noncharacters.
            _, _, details = pycld2.detect(text.translate(_REFUSED))
        return str(details[0][1])


_CONTROLS = (*range(9), 11, *range(14, 32), *range(127, 160))
_NONCHARACTERS = (
    *range(0xFDD0, 0xFDF0),
    *(plane + last for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF)),
)
_REFUSED = dict.fromkeys((*_CONTROLS, *_NONCHARACTERS), " ")
