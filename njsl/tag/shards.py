"""One shard of a corpus: its blocks through filters and taggers into Parquet, in any process."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from njsl.core.run import write_atomic
from njsl.core.types import Document
from njsl.corpora import readers
from njsl.corpora.readers import Block, Broken, Fields
from njsl.tag.base import Batch, Encoder, Filter, Measure, Tagger

DOCUMENTS, REMOVED, WORK = "documents", "removed", "work"
# A corpus is cut into about so many shards, that all processes are busy to the end; each of so many bytes of records:
# enough to be worth a process' while, and little enough to hold several.
_SHARDS = 256
_SHARD_BYTES = (4 * 2**20, 64 * 2**20)
_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 256, 2**21
_TYPES: dict[str, pa.DataType] = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string()}


@dataclass(frozen=True)
class Stage:
    """What every document goes through; picklable before ``load``.

    Attributes:
        encoder: counts tokens.
        taggers, measures, filters: by name, in their order.
        fields: what the records call their parts.
        repair: mend texts first.
        output: the run's folder.
    """

    encoder: Encoder
    taggers: Mapping[str, Tagger]
    measures: Mapping[str, Measure]
    filters: Mapping[str, Filter]
    fields: Fields
    repair: bool
    output: Path

    @property
    def main_process(self) -> bool:
        """Whether a tagger waits for a server."""
        return any(tagger.main_process for tagger in self.taggers.values())

    def load(self) -> None:
        """Get taggers and measures ready.

        Raises:
            ConfigError: what one of them needs is missing.
        """
        parts: list[Tagger | Measure] = [*self.taggers.values(), *self.measures.values()]
        for part in parts:
            part.load()

    def load_filters(self) -> None:
        """Get the filters ready, once they have prepared."""
        for name, part in self.filters.items():
            part.load(self.filter_folder(name))

    def filter_folder(self, name: str) -> Path:
        """Where a filter keeps what it has prepared."""
        return self.output / WORK / "filters" / name

    def schema(self) -> pa.Schema:
        """Of the document files, once loaded: id, group, then each tagger's columns with unit, meaning and feature."""
        fields = [pa.field("id", pa.string()), pa.field("group", pa.string())]
        for name, tagger in self.taggers.items():
            for column, what in tagger.described().items():
                about = {key: value for key, value in asdict(what).items() if key not in ("dtype", "empty")}
                about["tagger"] = name
                metadata = {key: json.dumps(value) for key, value in about.items()}
                fields.append(pa.field(column, _TYPES[what.dtype], metadata=metadata))
        tokenizer = {"tokenizer": self.encoder.name, "tokenizer_sha256": self.encoder.sha256}
        return pa.schema(fields, metadata=tokenizer)


@dataclass(frozen=True)
class Shard:
    """Neighbouring records of one corpus.

    Attributes:
        corpus: its name.
        number: of the shard in its corpus, from 0.
        blocks: the records.
    """

    corpus: str
    number: int
    blocks: Sequence[Block]

    def file(self, output: Path, kind: str, suffix: str) -> Path:
        """Where something of this shard lies."""
        return output / kind / self.corpus / f"{self.number:05d}{suffix}"

    def done(self, output: Path) -> Path:
        """Its marker: written last, it holds the counts."""
        return self.file(output, f"{WORK}/done", ".json")


@dataclass
class Counts:
    """What became of the records of a shard, or of several.

    Attributes:
        documents: tagged.
        empty: of them, without text.
        characters: of the tagged ones.
        removed: by filter.
        broken: what could not be read.
    """

    documents: int = 0
    empty: int = 0
    characters: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    broken: Broken = field(default_factory=Broken)

    def add(self, other: Counts) -> None:
        """Count what became of other records as well."""
        self.documents += other.documents
        self.empty += other.empty
        self.characters += other.characters
        for name, count in other.removed.items():
            self.removed[name] = self.removed.get(name, 0) + count
        self.broken.merge(other.broken)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Counts:
        values = json.loads(text)
        return cls(**values | {"broken": Broken(**values["broken"])})


def cut(corpus: str, files: Sequence[Path], fields: Fields) -> Iterator[Shard]:
    """The shards of a corpus, which depend on its files alone; they never reach over the end of a file.

    Raises:
        DataError: a file cannot be read.
    """
    size = min(max(sum(path.stat().st_size for path in files) // _SHARDS, _SHARD_BYTES[0]), _SHARD_BYTES[1])
    number = 0
    for path in files:
        waiting: list[Block] = []
        for block in readers.blocks(path, fields):
            if waiting and sum(held.nbytes for held in waiting) + block.nbytes > size:
                yield Shard(corpus, number, tuple(waiting))
                number, waiting = number + 1, []
            waiting.append(block)
        if waiting:
            yield Shard(corpus, number, tuple(waiting))
            number += 1


def documents(stage: Stage, shard: Shard, broken: Broken) -> Iterator[Document]:
    """The documents of a shard, empty ones too; what cannot be read is counted in ``broken``."""
    mended = repair if stage.repair else None
    for block in shard.blocks:
        yield from readers.documents(block, stage.fields, broken, keep_empty=True, repair=mended)


def repair(text: str) -> str:
    """A text with broken encoding mended (ftfy), in NFKC and without NUL."""
    import unicodedata

    import ftfy

    return unicodedata.normalize("NFKC", ftfy.fix_text(text)).replace("\0", "")


@dataclass(frozen=True)
class Job:
    """A shard and what it goes through; the stage travels pickled, and a process opens it once.

    Attributes:
        stage: a pickled ``Stage``.
        shard: to be tagged.
    """

    stage: bytes
    shard: Shard


def tag_shard(job: Job) -> tuple[str, int, Counts]:
    """Tag one shard: all its files, each whole or not at all, the marker last.

    Returns:
        Its corpus, number and counts.
    """
    stage, shard = _opened(job.stage), job.shard
    counts = Counts()
    tagged: list[Document] = []
    removed: list[dict[str, Any]] = []
    values: dict[str, list[Any]] = {name: [] for name in stage.schema().names[2:]}
    kept: dict[str, list[pa.RecordBatch]] = {name: [] for name in stage.measures}
    for batch in batches(documents(stage, shard, counts.broken), stage):
        left = filtered(batch, stage, shard.corpus, counts, removed)
        if left is None:
            continue
        for tagger in stage.taggers.values():
            columns = tagger.tag_batch(left)
            assert set(columns) == set(tagger.columns), f"{type(tagger).__name__} gave {sorted(columns)}"
            for name, column in columns.items():
                assert len(column) == len(left), f"{name}: {len(column)} values for {len(left)} documents"
                values[name].append(column)
        for name, measure in stage.measures.items():
            kept[name].append(measure.keep(left))
        tagged += [Document("", document.id, document.group) for document in left.documents]
        counts.documents += len(left)
        counts.empty += sum(not text for text in left.texts)
        counts.characters += sum(map(len, left.texts))
    _write(stage, shard, tagged, values)
    for name, held in kept.items():
        if held:
            _parquet(shard.file(stage.output, f"{WORK}/kept/{name}", ".parquet"), pa.Table.from_batches(held), "none")
    if removed:
        path = shard.file(stage.output, REMOVED, ".jsonl.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        readers.write_records(path, removed)
    done = shard.done(stage.output)
    done.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(done, counts.to_json())
    return shard.corpus, shard.number, counts


@dataclass
class _Opened:
    """The stage that this process has open."""

    pickled: bytes
    stage: Stage
    filters: bool = False


_open: _Opened | None = None


def prime(pickled: bytes) -> None:
    """Load a stage's taggers and measures in this process, which the first shard then finds ready.

    Raises:
        ConfigError: what one of them needs is missing.
    """
    global _open
    if _open is None or _open.pickled != pickled:
        stage = pickle.loads(pickled)
        stage.load()
        _open = _Opened(pickled, stage)


def _opened(pickled: bytes) -> Stage:
    """The stage, loaded once per process."""
    prime(pickled)
    assert _open is not None
    if not _open.filters:
        _open.stage.load_filters()
        _open.filters = True
    return _open.stage


def batches(found: Iterator[Document], stage: Stage) -> Iterator[Batch]:
    """Documents in batches of a size that memory bears; where a tagger waits for a server all are one batch."""
    waiting: list[Document] = []
    characters = 0
    for document in found:
        full = len(waiting) >= _BATCH_DOCUMENTS or characters + len(document.text) > _BATCH_CHARACTERS
        if waiting and full and not stage.main_process:
            yield Batch(waiting, stage.encoder)
            waiting, characters = [], 0
        waiting.append(document)
        characters += len(document.text)
    if waiting:
        yield Batch(waiting, stage.encoder)


def filtered(batch: Batch, stage: Stage, corpus: str, counts: Counts, removed: list[dict[str, Any]]) -> Batch | None:
    """What all filters leave of a batch, None if nothing; the rest goes to ``counts`` and ``removed``."""
    left = batch
    for name, part in stage.filters.items():
        reasons = part.reasons(left, corpus)
        assert len(reasons) == len(left), f"{name}: {len(reasons)} reasons for {len(left)} documents"
        out = [(document, reason) for document, reason in zip(left.documents, reasons, strict=True) if reason]
        if not out:
            continue
        counts.removed[name] = counts.removed.get(name, 0) + len(out)
        removed += [
            {"id": document.id, "filter": name, "reason": reason, "text": document.text} for document, reason in out
        ]
        staying = [document for document, reason in zip(left.documents, reasons, strict=True) if not reason]
        if not staying:
            return None
        left = Batch(staying, stage.encoder)
    return left


def _write(stage: Stage, shard: Shard, tagged: Sequence[Document], values: Mapping[str, list[Any]]) -> None:
    schema = stage.schema()
    arrays = [pa.array([document.id for document in tagged], pa.string())]
    arrays.append(pa.array([document.group for document in tagged], pa.string()))
    for column in list(schema)[2:]:
        parts = [pa.array(part, column.type, from_pandas=False) for part in values[column.name]]
        arrays.append(pa.concat_arrays(parts) if parts else pa.array([], column.type))
    _parquet(shard.file(stage.output, DOCUMENTS, ".parquet"), pa.Table.from_arrays(arrays, schema=schema))


def _parquet(path: Path, table: pa.Table, compression: str = "zstd") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, beside, compression=compression)
    beside.replace(path)
