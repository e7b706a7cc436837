"""How deep constituency trees are, and how long sentences."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from njsl.core.types import ConfigError
from njsl.tag.base import Batch, Column, Tagger

_WHERE = "tagger.syntax_constituency"
_PROCESSORS = "tokenize,pos,constituency"
_NAN = float("nan")
_FIGURES = (
    "const_tree_depth_max",
    "const_tree_depth_mean",
    "const_word_depth_mean",
    "const_word_depth_std",
    "const_words_per_sentence_mean",
    "const_words_per_sentence_std",
)


def word_depths(tree: Any) -> list[int]:
    """Depth of each word of a tree [edges], in the order of the text, below the top phrase.

    Args:
        tree: anything whose ``children`` are trees; a word is a node without. The topmost node, ROOT, is passed over.
    """
    # No recursion: trees of long lists are deeper than Python's stack.
    depths, waiting = [], [(child, 0) for child in tree.children[:1]]
    while waiting:
        node, depth = waiting.pop()
        if node.children:
            waiting += [(child, depth + 1) for child in reversed(node.children)]
        else:
            depths.append(depth)
    return depths


def measures(sentences: Sequence[Sequence[int]]) -> dict[str, float | int]:
    """The columns of a document but for ``const_truncated``.

    Means and deviations of tree depth and sentence length go over words, as the paper has it: a sentence counts as
    often as it has words. Deviations divide by n.

    Args:
        sentences: depth of each word of each sentence.
    """
    lengths = np.array([len(depths) for depths in sentences if depths], np.int64)
    if not lengths.size:
        return {**dict.fromkeys(_FIGURES, _NAN), "const_words": 0, "const_sentences": 0}
    words = np.concatenate([np.asarray(depths, np.int64) for depths in sentences if depths])
    trees = np.repeat([max(depths) for depths in sentences if depths], lengths)
    per_word = np.repeat(lengths, lengths)
    means = (trees.max(), trees.mean(), words.mean(), words.std(), per_word.mean(), per_word.std())
    figures = dict(zip(_FIGURES, map(float, means), strict=True))
    return {**figures, "const_words": int(lengths.sum()), "const_sentences": int(lengths.size)}


class SyntaxConstituency(Tagger):
    """Depths of constituency trees and lengths of sentences; English.

    Tokenizer, part-of-speech tagger and parser are stanza's, read from a folder; nothing is downloaded. Documents in
    other languages are read as if they were English. Documents are parsed one by one, so that their values do not
    depend on each other; the sentences of one go together.

    Args:
        path: stanza's folder of models; null is the environment's ``STANZA_RESOURCES_DIR``, else its own default.
        package: which of English's packages in ``resources.json``.
        max_chars: so much of a document is read [characters], > 0; ``const_truncated`` says where that is less.
        batch_sentences: sentences per forward pass of the parser, > 0.
        device: ``auto`` is a GPU where there is one.

    Source: Qi et al. 2020, "Stanza", ACL 2020 demos; the measures are the paper's.
    """

    columns: ClassVar[dict[str, Column]] = {
        "const_tree_depth_max": Column(
            "float64", "edges", "depth of the deepest tree", _NAN, "const_parse_const_tree_depth_max"
        ),
        "const_tree_depth_mean": Column(
            "float64", "edges", "mean over words of their tree's depth", _NAN, "const_parse_const_tree_depth_mean"
        ),
        "const_word_depth_mean": Column(
            "float64", "edges", "mean depth of the words", _NAN, "const_parse_const_word_depth_mean"
        ),
        "const_word_depth_std": Column(
            "float64", "edges", "standard deviation of it", _NAN, "const_parse_const_word_depth_std"
        ),
        "const_words_per_sentence_mean": Column(
            "float64", "words", "mean over words of their sentence's length", _NAN, "const_parse_words_per_sent_mean"
        ),
        "const_words_per_sentence_std": Column(
            "float64", "words", "standard deviation of it", _NAN, "const_parse_words_per_sent_std"
        ),
        "const_words": Column("int64", "words", "words with punctuation", 0, "const_parse_num_words"),
        "const_sentences": Column("int64", "sentences", "sentences", 0, "const_parse_num_sentences"),
        "const_truncated": Column("int64", "1", "1 where only the start of the document was read", 0),
    }

    def __init__(
        self,
        *,
        path: str | None = None,
        package: str = "default",
        max_chars: int = 30_000,
        batch_sentences: int = 50,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> None:
        self.path = path
        self.package = package
        self.max_chars = max_chars
        self.batch_sentences = batch_sentences
        self.device = device

    def load(self) -> None:
        """Read the models.

        Raises:
            ConfigError: stanza or a model is missing, or a parameter is out of range.
        """
        for name in ("max_chars", "batch_sentences"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{_WHERE}.{name}: {getattr(self, name)}; at least 1 is accepted")
        try:
            import stanza
            from stanza.pipeline.core import PipelineRequirementsException
            from stanza.resources.common import DEFAULT_MODEL_DIR
        except ImportError as error:
            raise ConfigError(f"{_WHERE}: {error}; `pip install stanza` brings it") from error
        folder = Path(self.path or DEFAULT_MODEL_DIR).expanduser()
        fetch = (
            f"where there is a network, `python -c \"import stanza; stanza.download('en', '{folder}', "
            f"package='{self.package}', processors='{_PROCESSORS}')\"` fetches them"
        )
        if not (folder / "resources.json").is_file():
            raise ConfigError(f"{_WHERE}.path: no stanza models in {folder} (no resources.json); {fetch}")
        try:
            self._pipeline = stanza.Pipeline(
                "en",
                dir=str(folder),
                package=self.package,
                processors=_PROCESSORS,
                download_method=None,
                device=None if self.device == "auto" else self.device,
                constituency_batch_size=self.batch_sentences,
                verbose=False,
            )
        # What stanza and torch raise for absent and broken files, unknown packages and missing processors.
        except (
            OSError,
            EOFError,
            KeyError,
            ValueError,
            RuntimeError,
            pickle.UnpicklingError,
            PipelineRequirementsException,
        ) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConfigError(f"{_WHERE}.path: cannot load the models in {folder}: {reason}; {fetch}") from error

    def tag_batch(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """The columns of a batch."""
        rows = [self._row(text) for text in batch.texts]
        return {name: [row[name] for row in rows] for name in self.columns}

    def _row(self, text: str) -> dict[str, float | int]:
        read = text[: self.max_chars]
        # stanza takes a text without a word for an error.
        sentences = self._pipeline(read).sentences if read.strip() else []
        found = measures([word_depths(sentence.constituency) for sentence in sentences])
        return {**found, "const_truncated": int(len(text) > self.max_chars)}
