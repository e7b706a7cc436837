"""The paper's keyword patterns as its published features were made, for comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from njsl.tag.base import Batch, Column, Tagger
from njsl.tag.keywords import CHARACTERS, count, counted

PATTERNS = {
    "question_words": r"\b(?:how|what|why|when|where|who|which|whose)\b",
    "imperative_verbs": r"\b(?:do|make|consider|take|use|ensure|check|build|apply|run|create|find|go|try|turn|start"
    r"|stop|put|keep|leave|get|move)\b",
    "conjunctions": r"\b(?:and|but|or|so|because|although|however|therefore|yet)\b",
    # No word boundary before: FAQ: holds a match, and so does data:.
    "instructions_words": r"(?:question|answer|instruction|user|assistant|q|a):",
    # The paper's alternatives for decimals and percents never win: 3.14 is two numbers, 5% is one.
    "numbers": r"\b\d+\b",
}


class KeywordsPaper(Tagger):
    """Matches of the paper's five patterns; the features carry the published names.

    Source: the published table's ``*_ratio`` columns and the paper's repository at commit 5404713.
    """

    columns: ClassVar[dict[str, Column]] = {
        "paper_keyword_characters": CHARACTERS,
        **{
            f"paper_{name}": dataclasses.replace(
                counted(f"matches of the paper's pattern for {name}", f"{name}_ratio"), per="paper_keyword_characters"
            )
            for name in PATTERNS
        },
    }

    def tag_batch(self, batch: Batch) -> Mapping[str, np.ndarray]:
        found = count(batch, {f"paper_{name}": pattern for name, pattern in PATTERNS.items()})
        return {"paper_keyword_characters": np.array([len(text) for text in batch.texts], np.int64), **found}
