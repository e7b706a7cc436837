"""The share of words that carry content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from njsl.tag import english
from njsl.tag.base import Batch, Column, Tagger

_CONTENT = frozenset(("NOUN", "VERB", "ADJ", "ADV"))


class ContentFunction(Tagger):
    """Nouns, verbs, adjectives and adverbs as a share of all words, punctuation included; English.

    The paper takes the word classes from stanza, this from spaCy: both are universal parts of speech, and proper nouns
    and auxiliaries are no content in either. Documents in other languages are read as if they were English.

    Args:
        max_chars: so much of a document is read [characters], 1 .. 1,000,000; ``content_function_truncated`` says where
            that is less. With ``syntax_dependency``'s value both taggers share one parse.
    """

    columns: ClassVar[dict[str, Column]] = {
        "content_function": Column(
            "float64", "1", "content words / words with punctuation", float("nan"), "content_function_ratio"
        ),
        "content_function_truncated": Column("int64", "1", "1 where only the start of the document was read", 0),
    }

    def __init__(self, *, max_chars: int = 30_000) -> None:
        self.max_chars = max_chars

    def load(self) -> None:
        """Load the English pipeline.

        Raises:
            ConfigError: it is not installed, or ``max_chars`` is out of range.
        """
        english.check_max_chars(self.max_chars, "tagger.content_function.max_chars")
        english.pipeline()

    def tag_batch(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """The columns of a batch."""
        parses = english.parses(batch, self.max_chars)
        return {
            "content_function": [_share(parse.classes) for parse in parses],
            "content_function_truncated": [int(parse.truncated) for parse in parses],
        }


def _share(classes: list[str]) -> float:
    return sum(name in _CONTENT for name in classes) / len(classes) if classes else float("nan")
