"""How far words are from what governs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from njsl.tag import english
from njsl.tag.base import Batch, Column, Tagger

_NAN = float("nan")


def distances(heads: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Per word how many places off its head stands, 0 for a root, and how many its sentence's root.

    The second counts places in the text, not steps in the tree: so the paper has it.

    Args:
        heads: per sentence and word the position of its head; the root's is its own.
    """
    to_head, to_root = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for sentence in heads:
        places, head = np.arange(len(sentence)), np.asarray(sentence)
        to_head.append(np.abs(places - head))
        to_root.append(np.abs(places - places[places == head][0]))
    return np.concatenate(to_head), np.concatenate(to_root)


class SyntaxDependency(Tagger):
    """Distances of words to their heads and to the roots of their sentences; English.

    spaCy's heads are re-attached in the manner of Universal Dependencies, which the published figures follow;
    ``njsl.tag.english`` says what still differs from stanza. Documents in other languages are read as if they were
    English.

    Args:
        max_chars: so much of a document is read [characters], 1 .. 1,000,000; ``dep_truncated`` says where that is
            less. With ``content_function``'s value both taggers share one parse.
    """

    columns: ClassVar[dict[str, Column]] = {
        "dep_head_dist_median": Column(
            "float64", "words", "median distance to the head", _NAN, "dep_parse_dep_head_dist_median"
        ),
        "dep_head_dist_90p": Column(
            "float64", "words", "90th percentile of the distance to the head", _NAN, "dep_parse_dep_head_dist_90p"
        ),
        "dep_head_dist_max": Column(
            "float64", "words", "longest distance to a head", _NAN, "dep_parse_dep_head_dist_max"
        ),
        "dep_root_dist_median": Column(
            "float64", "words", "median distance to the root", _NAN, "dep_parse_dep_root_dist_median"
        ),
        "dep_root_dist_mean": Column(
            "float64", "words", "mean distance to the root", _NAN, "dep_parse_dep_root_dist_mean"
        ),
        "dep_root_dist_max": Column(
            "float64", "words", "longest distance to a root", _NAN, "dep_parse_dep_root_dist_max"
        ),
        "dep_truncated": Column("int64", "1", "1 where only the start of the document was read", 0),
    }

    def __init__(self, *, max_chars: int = 30_000) -> None:
        self.max_chars = max_chars

    def load(self) -> None:
        """Load the English pipeline.

        Raises:
            ConfigError: it is not installed, or ``max_chars`` is out of range.
        """
        english.check_max_chars(self.max_chars, "tagger.syntax_dependency.max_chars")
        english.pipeline()

    def tag_batch(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """The columns of a batch."""
        rows = [_row(parse) for parse in english.parses(batch, self.max_chars)]
        return dict(zip(self.columns, map(list, zip(*rows, strict=True)), strict=True))


def _row(parse: english.Parse) -> tuple[float, ...]:
    head, root = distances(parse.heads)
    if not head.size:
        return (*[_NAN] * 6, int(parse.truncated))
    figures = (np.median(head), np.percentile(head, 90), head.max(), np.median(root), root.mean(), root.max())
    return (*map(float, figures), int(parse.truncated))
