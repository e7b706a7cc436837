"""Documents with a label each: a csv, jsonl, parquet or arrow file, a folder of them, or a run of ``tag.py``."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from njsl.core.config import LabelledConfig
from njsl.core.run import RECORD
from njsl.core.types import DataError
from njsl.corpora import readers

SUFFIXES = (".csv", *readers.SUFFIXES)


@dataclass(frozen=True)
class Labelled:
    """Labelled documents, in the order of their files.

    Attributes:
        ids: what names a document: the value of ``id_field``; in a run of ``tag.py`` its id, after ``CORPUS/`` if the
            run has several corpora; else the SHA-256 of its text. Not always unique.
        texts: empty strings where the source has none.
        labels: one per document.
        dropped: rows left out because label, text or id is missing or empty.
        sha256: of the files' bytes, in hexadecimal.
    """

    ids: list[str]
    texts: list[str]
    labels: list[str]
    dropped: int
    sha256: str

    def __len__(self) -> int:
        return len(self.ids)


def read(cfg: LabelledConfig, *, seed: int, where: str = "labelled", need_text: bool = True) -> Labelled:
    """Read labelled documents.

    A sample (``max_documents``) takes the documents whose id has the smallest hash: two files of the same documents
    give the same sample.

    Args:
        cfg: what to read.
        seed: of the sample.
        where: the dotted config path of ``cfg``, for messages.
        need_text: whether a source without texts is an error; without it ids suffice.

    Raises:
        DataError: no such file, a file that cannot be read, a missing column, or no row with a label.
    """
    files, is_run = _files(cfg.path, where)
    if is_run and need_text:
        raise DataError(f"{where}.path: {cfg.path} is a run of tag.py, which holds no texts; expected files with texts")
    id_field = cfg.id_field or ("id" if is_run else None)
    label_field = None if cfg.label is not None else cfg.label_field
    if cfg.label is None and label_field is None:
        raise DataError(f"{where}: expected label_field, the column with the labels, or label, the label of all")
    text_field = cfg.text_field if need_text or id_field is None else None
    wanted = {"text": text_field, "label": label_field, "id": id_field}
    several = len({path.parent for path in files}) > 1
    rows: list[tuple[str, str, str]] = []
    dropped = 0
    for path in files:
        prefix = f"{path.parent.name}/" if is_run and several else ""
        for row in _rows(path, [name for name in wanted.values() if name is not None], where):
            text = "" if text_field is None else _string(row[text_field])
            label = cfg.label if label_field is None else _string(row[label_field])
            name = _string(row[id_field]) if id_field is not None else text and _sha256(text)
            if not label or not name or (text_field is not None and not text):
                dropped += 1
            else:
                rows.append((prefix + name, text, label))
    if not rows:
        raise DataError(f"{where}.path: {cfg.path} has no row with a label ({dropped} rows without are left out)")
    if cfg.max_documents is not None and len(rows) > cfg.max_documents:
        ranked = sorted(range(len(rows)), key=lambda number: (_sha256(f"{seed}\0{rows[number][0]}"), number))
        rows = [rows[number] for number in sorted(ranked[: cfg.max_documents])]
    ids, texts, labels = (list(column) for column in zip(*rows, strict=True))
    return Labelled(ids, texts, labels, dropped, _digest(files))


def _files(name: str, where: str) -> tuple[list[Path], bool]:
    """The files to read, and whether they are those of a run of ``tag.py``."""
    path, accepted = Path(name).expanduser(), ", ".join(SUFFIXES)
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise DataError(f"{where}.path: {path} is of an unknown kind; expected a file that ends in {accepted}")
        return [path], False
    if not path.is_dir():
        raise DataError(f"{where}.path: {path} does not exist; expected a file, a folder or a run of tag.py")
    if (path / RECORD).is_file() and (path / "documents").is_dir():
        files = sorted((path / "documents").glob("*/*.parquet"))
        if not files:
            raise DataError(f"{where}.path: the run {path} has no documents/CORPUS/*.parquet; has it finished?")
        return files, True
    files = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not files:
        raise DataError(f"{where}.path: {path} holds no file that ends in {accepted}, and is no run of tag.py")
    return files, False


def _rows(path: Path, wanted: Sequence[str], where: str) -> Iterator[dict[str, Any]]:
    try:
        if path.suffix == ".csv":
            yield from _csv(path, wanted, where)
        elif path.name.endswith(readers.LINES):
            yield from _lines(path, wanted, where)
        else:
            table = _table(path, wanted, where)
            for batch in table.to_batches(max_chunksize=1024):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}.path: {path} cannot be read, damaged? {_first_line(error)}") from error


def _csv(path: Path, wanted: Sequence[str], where: str) -> Iterator[dict[str, Any]]:
    import pandas as pd

    try:
        # As strings and with nothing taken for missing: "null" and "NA" are words that documents hold.
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=lambda name: name in wanted)
        present = list(pd.read_csv(path, nrows=0).columns) if len(frame.columns) < len(set(wanted)) else wanted
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{where}.path: {path} is no csv with a header line: {_first_line(error)}") from error
    _check_columns(path, wanted, present, where)
    for values in frame[list(dict.fromkeys(wanted))].itertuples(index=False, name=None):
        yield dict(zip(dict.fromkeys(wanted), values, strict=True))


def _lines(path: Path, wanted: Sequence[str], where: str) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    with pa.input_stream(str(path), compression=readers.COMPRESSED.get(path.suffix)) as stream:
        for number, line in enumerate(io.BufferedReader(stream), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                place = f"{where}.path: {path}, line {number}"
                raise DataError(f"{place}: no JSON in UTF-8, {_first_line(error)}") from error
            if not isinstance(record, dict):
                raise DataError(f"{where}.path: {path}, line {number}: no JSON object")
            seen.update(record)
            yield {name: record.get(name) for name in wanted}
    if seen:  # a field may be absent from single records, and none of them has a wrong name
        _check_columns(path, wanted, sorted(seen), where)


def _table(path: Path, wanted: Sequence[str], where: str) -> pa.Table:
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            _check_columns(path, wanted, file.schema_arrow.names, where)
            return file.read(columns=list(dict.fromkeys(wanted)))
    with pa.memory_map(str(path)) as source:
        # Datasets' own files are streams; Feather's are files with an index at their end.
        indexed = source.read(6) == b"ARROW1"
        source.seek(0)
        with pa.ipc.open_file(source) if indexed else pa.ipc.open_stream(source) as reader:
            _check_columns(path, wanted, reader.schema.names, where)
            return reader.read_all().select(list(dict.fromkeys(wanted)))


def _check_columns(path: Path, wanted: Sequence[str], present: Sequence[str], where: str) -> None:
    for name in wanted:
        if name not in present:
            raise DataError(f"{where}: {path} has no column {name!r}; it has: {', '.join(present)}")


def _string(value: Any) -> str:
    """A cell as text; empty where it is missing (null, NaN)."""
    if value is None or value != value:
        return ""
    return value if isinstance(value, str) else str(value)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _digest(files: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
