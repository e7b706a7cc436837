"""Counting what matches a pattern, over a batch at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from njsl.tag.base import Batch, Column

_PER_CHARACTERS = 100_000


def counted(meaning: str, feature: str) -> Column:
    """A column of matches whose feature is matches per 100,000 characters, pooled over all documents."""
    return Column("int64", "matches", meaning, 0, feature, per="keyword_characters", scale=_PER_CHARACTERS)


CHARACTERS = Column("int64", "characters", "Unicode code points in which keywords were looked for", 0)


def count(batch: Batch, patterns: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Matches of each pattern in each document, int64.

    Args:
        batch: the documents.
        patterns: column to regular expression in Rust's syntax; case does not matter. Matches do not overlap.
    """
    import polars

    texts = batch.shared("polars", lambda: polars.Series(batch.texts, dtype=polars.String))
    return {
        name: texts.str.count_matches(f"(?i){pattern}").to_numpy().astype(np.int64)
        for name, pattern in patterns.items()
    }
