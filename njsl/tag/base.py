"""What a tagger, a measure and a filter are, and the batch of documents they read.

A plug-in is one file in ``taggers/`` or ``filters/`` and one yaml of the same name; nothing imports it by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np

from njsl.core.types import Document

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.progress import Progress

Dtype = Literal["int64", "float64", "string"]
T = TypeVar("T")


@dataclass(frozen=True)
class Column:
    """One value per document.

    Attributes:
        dtype: of its Parquet column; a float that is undefined for a document is NaN, a string None.
        unit: ``characters``, ``tokens``, ``edges``, ``bits``, ``1`` for ratios 0..1, ``label`` ...
        meaning: one sentence.
        empty: the value for the empty text.
        feature: the feature's name without ``_mean`` and ``_std``, the published table's where the two are the same;
            None keeps it out of the features.
        per: the feature is pooled instead of averaged: ``scale`` * sum of this column / sum of the column ``per``.
        scale: see ``per``.
        shares: the column holds labels, whose shares [%] are features: label to the feature's full name. Labels that
            are not named are left out of the total; ``*`` names all others, and an empty name counts in the total only.
    """

    dtype: Dtype
    unit: str
    meaning: str
    empty: float | int | str | None
    feature: str | None = None
    per: str | None = None
    scale: float = 1.0
    shares: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Figure:
    """One value per corpus.

    Attributes:
        unit: as a column's.
        meaning: one sentence.
        feature: the full name of its feature, e.g. ``entropy_mean``; None keeps it out of the features.
        interval: the figures that are the ends of its 95 % interval.
    """

    unit: str
    meaning: str
    feature: str | None = None
    interval: tuple[str, str] | None = None


class Encoder(Protocol):
    """A fixed tokenizer at work.

    Attributes:
        name: what people call it.
        sha256: of its vocabulary, in hexadecimal.
        vocab_size: ids are below it.
    """

    name: str
    sha256: str
    vocab_size: int

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, int64, without special tokens; text that looks like one stays text."""


class Batch:
    """Documents that go through all taggers together.

    Attributes:
        documents: in the order of the corpus; at least one.
        encoder: counts tokens.
    """

    def __init__(self, documents: Sequence[Document], encoder: Encoder) -> None:
        self.documents = documents
        self.encoder = encoder
        self._memo: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.documents)

    @cached_property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [document.text for document in self.documents]

    @cached_property
    def tokens(self) -> list[np.ndarray]:
        """Token ids of each document, int64."""
        return self.encoder.encode(self.texts)

    def shared(self, name: str, make: Callable[[], T]) -> T:
        """What several taggers need of the same batch, made once, e.g. its parse."""
        if name not in self._memo:
            self._memo[name] = make()
        return self._memo[name]


class Tagger:
    """Values of each document.

    The constructor is keyword-only and stores; what is heavy is loaded in ``load``, once per process. Taggers are
    picklable before ``load``, pure, and do no I/O of their own after it, those with ``main_process`` apart.

    Attributes:
        columns: name in the Parquet file to what it holds; unique over all taggers.
        main_process: it waits for a server: it is run in the main process, a whole shard in one batch.
        operational: parameters that say how it works and not what it computes; they may differ when a run is resumed.
    """

    columns: ClassVar[dict[str, Column]]
    main_process: ClassVar[bool] = False
    operational: ClassVar[tuple[str, ...]] = ()

    def inputs(self) -> Sequence[Path]:
        """Files and folders whose content decides the values; they belong to the run's identity."""
        return ()

    def load(self) -> None:
        """Get ready to tag.

        Raises:
            ConfigError: a model or a package is missing; the message says how to get it.
        """

    def tag_batch(self, batch: Batch) -> Mapping[str, Sequence[Any] | np.ndarray]:
        """The columns of a batch, each with one value per document."""
        raise NotImplementedError

    def described(self) -> Mapping[str, Column]:
        """The columns as they are after ``load``: a label that a model does not know is no share."""
        return self.columns

    def corrected(self, column: str, counts: Mapping[str, int]) -> dict[str, tuple[Figure, float]]:
        """Figures of a corpus that follow from how often each label stands in one of the columns with ``shares``."""
        return {}

    def tag(self, document: Document, encoder: Encoder) -> dict[str, Any]:
        """The values of one document, as Python's own types."""
        values = self.tag_batch(Batch([document], encoder))
        return {
            name: column.tolist()[0] if isinstance(column, np.ndarray) else column[0] for name, column in values.items()
        }


class Measure:
    """Values of a whole corpus, from what is kept of each document.

    The same rules as for a tagger.

    Attributes:
        figures: name to what it is.
    """

    figures: ClassVar[dict[str, Figure]]

    def load(self) -> None:
        """Get ready to keep."""

    def keep(self, batch: Batch) -> pa.RecordBatch:
        """What is kept of a batch; it is written to one Parquet file per shard."""
        raise NotImplementedError

    def measure(self, parts: Sequence[Path], folder: Path, encoder: Encoder) -> dict[str, float | int]:
        """The figures of a corpus.

        Args:
            parts: the Parquet files of its shards, in the order of the corpus.
            folder: an empty folder for what does not fit into memory.
            encoder: the tokenizer whose tokens were kept.
        """
        raise NotImplementedError


Texts = Callable[[], Iterator[Document]]


class Filter:
    """Which documents are left out, and why.

    Filters run before the taggers, in the order in which they are named; the first reason counts.
    """

    def inputs(self) -> Sequence[Path]:
        """Files and folders whose content decides; they belong to the run's identity."""
        return ()

    def prepare(self, corpora: Mapping[str, Texts], folder: Path, progress: Progress) -> None:
        """Look at all corpora before the pass, in the main process; what is found goes to files in ``folder``.

        Args:
            corpora: by name, what reads its documents from the start.
            folder: this filter's own; on resume it holds what an earlier call has left.
            progress: shows how far it is.
        """

    def load(self, folder: Path) -> None:
        """Get ready, once per process; ``folder`` holds what ``prepare`` has left."""

    def reasons(self, batch: Batch, corpus: str) -> list[str | None]:
        """Per document None, or in a few words with its figure why it is left out."""
        raise NotImplementedError
