"""How long documents are, and how varied their tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from njsl.tag.base import Batch, Column, Tagger


class Lengths(Tagger):
    """Characters, tokens, distinct tokens and their ratio; tokens are the configured tokenizer's."""

    columns: ClassVar[dict[str, Column]] = {
        "characters": Column("int64", "characters", "Unicode code points", 0, "char_len"),
        "tokens": Column("int64", "tokens", "tokens of the tokenizer", 0, "num_tokens"),
        "unique_tokens": Column("int64", "tokens", "distinct tokens", 0, "unique_tokens"),
        "type_token_ratio": Column("float64", "1", "distinct tokens / tokens", float("nan"), "ttr"),
    }

    def tag_batch(self, batch: Batch) -> Mapping[str, np.ndarray]:
        characters = np.array([len(text) for text in batch.texts], np.int64)
        tokens = np.array([len(ids) for ids in batch.tokens], np.int64)
        unique = _distinct(batch.tokens, tokens)
        with np.errstate(invalid="ignore"):
            ratio = np.where(tokens > 0, unique / tokens, np.nan)
        return {"characters": characters, "tokens": tokens, "unique_tokens": unique, "type_token_ratio": ratio}


def _distinct(documents: list[np.ndarray], lengths: np.ndarray) -> np.ndarray:
    """Distinct ids of each document, int64: one sort for the whole batch."""
    number = np.repeat(np.arange(len(documents), dtype=np.int64), lengths)
    keys = (number << 32) | np.concatenate(documents)
    keys.sort()
    new = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    return np.bincount(keys[new] >> 32, minlength=len(documents))
