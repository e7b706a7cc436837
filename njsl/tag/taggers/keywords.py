"""Words that ask, order, join and instruct, and numbers: one definition for corpora and generations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from njsl.tag.base import Batch, Column, Tagger
from njsl.tag.keywords import CHARACTERS, count, counted

_VERBS = (
    "apply|build|check|consider|create|do|ensure|find|get|go|keep|leave|make|move|put|run|start|stop|take|try|turn|use"
)
# Where a sentence or a line begins, perhaps after a list's mark.
_OPENING = r"(?:^|[\n.!?:;]\s|\n\s*(?:[-*•]|\d+[.)]))\s*"

PATTERNS = {
    "question_words": r"\b(?:how|what|when|where|which|who|whom|whose|why)\b",
    "imperative_verbs": rf"{_OPENING}(?:please\s+)?(?:{_VERBS})\b",
    "conjunctions": r"\b(?:although|and|because|but|however|or|so|therefore|yet)\b",
    "instruction_markers": r"\b(?:answer|assistant|instruction|question|response|user|[qa]):(?:\s|$)",
    # 3.14, 1,000, 5 % and 42 are one number each.
    "numbers": r"\b\d+(?:[.,]\d+)*\b",
}


class Keywords(Tagger):
    """Matches of five patterns, whose features are matches per 100,000 characters, pooled over documents.

    English. Against the paper's patterns (``keywords_paper``): a number with a decimal point or thousands is one
    number; a verb counts as imperative where a sentence, a line or a list's entry begins with it; an instruction marker
    begins a word and ends with a colon before a space, so ``FAQ:`` and ``a:b`` are none.
    """

    columns: ClassVar[dict[str, Column]] = {
        "keyword_characters": CHARACTERS,
        "keyword_question_words": counted("question words", "keyword_question_words_ratio"),
        "keyword_imperative_verbs": counted("sentences that begin with a verb", "keyword_imperative_verbs_ratio"),
        "keyword_conjunctions": counted("conjunctions", "keyword_conjunctions_ratio"),
        "keyword_instruction_markers": counted("markers such as Q: and User:", "keyword_instruction_markers_ratio"),
        "keyword_numbers": counted("numbers", "keyword_numbers_ratio"),
    }

    def tag_batch(self, batch: Batch) -> Mapping[str, np.ndarray]:
        found = count(batch, {f"keyword_{name}": pattern for name, pattern in PATTERNS.items()})
        return {"keyword_characters": np.array([len(text) for text in batch.texts], np.int64), **found}
