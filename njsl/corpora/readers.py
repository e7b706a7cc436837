"""Files of text to a stream of documents: jsonl (plain, gz, zst), parquet and arrow; what is broken is counted."""

from __future__ import annotations

import glob
import gzip
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from njsl.core.types import DataError, Document

_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_LINES = tuple(name + packed for name in (".jsonl", ".json") for packed in ("", *_COMPRESSED))
SUFFIXES = (*_LINES, ".parquet", ".arrow")

_CHUNK = 1 << 20  # bytes of uncompressed text read at once
_ROWS = 256  # records read at once from parquet; documents may be of megabytes
_BOM = b"\xef\xbb\xbf"


@dataclass
class Broken:
    """What could not be read as a document, by file.

    Attributes:
        counts: file to its number of broken lines or records.
        reasons: file to what was wrong with the first of them.
    """

    counts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, path: Path, place: str, reason: str) -> None:
        """Count one; ``place`` says where in the file it stands, e.g. ``line 12``."""
        name = str(path)
        self.counts[name] = self.counts.get(name, 0) + 1
        self.reasons.setdefault(name, f"{place}: {reason}")

    def merge(self, other: Broken) -> None:
        """Count what another reader found as well."""
        for name, count in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
            self.reasons.setdefault(name, other.reasons[name])

    @property
    def total(self) -> int:
        """Broken lines and records of all files."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        if not self.counts:
            return "no broken records"
        name = min(self.counts)
        return f"{self.total} broken records in {len(self.counts)} files; {name}, {self.reasons[name]}"


def find(path: Path, patterns: Sequence[str]) -> list[Path]:
    """The readable files below a folder.

    Args:
        path: a folder.
        patterns: globs relative to it; ``**`` is any depth, and takes in the files there.

    Returns:
        Files that end in one of ``SUFFIXES``, each once, sorted; hidden ones are left out.

    Raises:
        DataError: the folder is not there, or a pattern finds no such file.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected one with files that end in {', '.join(SUFFIXES)}.")
    found: set[Path] = set()
    for pattern in patterns:
        names = (path / name for name in glob.iglob(pattern, root_dir=path, recursive=True))
        files = {file for file in names if file.name.endswith(SUFFIXES) and file.is_file()}
        if not files:
            kinds = ", ".join(SUFFIXES)
            raise DataError(f"{path}: {pattern!r} finds no file that ends in {kinds}; NAME/** takes in a folder.")
        found |= files
    return sorted(found)


def read(
    path: Path, *, text_field: str, id_field: str = "id", group_field: str | None = None, broken: Broken
) -> Iterator[Document]:
    """Stream the documents of one file, in its order; memory does not grow with the file.

    A broken record is left out and counted: a line that is no JSON object in UTF-8, a text that is missing, no string
    or no valid Unicode, a missing group. Blank lines and empty texts are left out as they are.

    Args:
        path: a file that ends in one of ``SUFFIXES``.
        text_field: name of the field with the text.
        id_field: name of the field with the id; a record without one is named after its folder, file and place there.
        group_field: name of the field with the group, a string or an integer; without it the group is the id.
        broken: counts the broken ones.

    Raises:
        DataError: the file is truncated, damaged or of another kind, or has no column ``text_field``.
    """
    path = Path(path)
    records = _lines(path, broken) if path.name.endswith(_LINES) else _rows(path, text_field, id_field, group_field)
    try:
        for number, record in records:
            place = f"{'line' if path.name.endswith(_LINES) else 'record'} {number}"
            text = record.get(text_field)
            if not isinstance(text, str):
                wrong = "no field" if text_field not in record else "no string in"
                broken.add(path, place, f"{wrong} {text_field!r}")
                continue
            if not is_unicode(text):
                broken.add(path, place, f"{text_field!r} is not valid Unicode")
                continue
            if not text:
                continue
            name = _name(record.get(id_field)) or f"{path.parent.name}/{path.name}:{number}"
            group = _name(record.get(group_field)) if group_field is not None else name
            if group is None:
                broken.add(path, place, f"no string or integer in {group_field!r}")
                continue
            yield Document(text, name, group)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read, truncated or damaged? {_first_line(error)}") from error


def write(path: Path, documents: Iterable[Document], compression: str | None = "gzip") -> None:
    """Write documents as jsonl with the fields ``id``, ``group`` and ``text``, whole or not at all.

    The same documents give the same bytes.

    Args:
        path: the file; its folder exists.
        documents: in their order.
        compression: ``gzip`` or None.
    """
    write_records(path, ({"id": d.id, "group": d.group, "text": d.text} for d in documents), compression)


def write_records(path: Path, records: Iterable[dict[str, Any]], compression: str | None = "gzip") -> None:
    """Write records as jsonl, one JSON object per line, as ``write`` does."""
    if compression not in (None, "gzip"):
        raise ValueError(f"compression={compression!r}; accepted: gzip, None")
    # One fixed name, so that what a kill leaves behind is overwritten by the next run, not collected.
    beside = path.with_name(f".{path.name}.tmp")
    with open(beside, "wb") as file:
        # Neither name nor time in the header: the same text gives the same bytes.
        packed = gzip.GzipFile("", "wb", 4, file, mtime=0) if compression else file
        for record in records:
            packed.write(json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n")
        if packed is not file:
            packed.close()
    os.replace(beside, path)


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8, that is, holds no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _lines(path: Path, broken: Broken) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_split(path), start=1):
        if not line.strip():
            continue
        try:
            # Not json.loads(line): it guesses UTF-16 and lets broken UTF-8 pass.
            record = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            broken.add(path, f"line {number}", f"no JSON in UTF-8, {_first_line(error)}")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            broken.add(path, f"line {number}", "no JSON object")


def _split(path: Path) -> Iterator[bytes]:
    with pa.input_stream(str(path), compression=_COMPRESSED.get(path.suffix)) as stream:
        rest = b""
        first = True
        while chunk := stream.read(_CHUNK):
            *lines, tail = chunk.split(b"\n")
            if lines:
                lines[0] = rest + lines[0]
                rest = tail
            else:
                rest += tail
            if first and lines:
                lines[0], first = lines[0].removeprefix(_BOM), False
            yield from lines
        if rest:
            yield rest.removeprefix(_BOM) if first else rest


def _rows(path: Path, text_field: str, id_field: str, group_field: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    wanted = [text_field, id_field, *([] if group_field is None else [group_field])]
    for batch in _batches(path, wanted, text_field):
        columns = {name: _values(batch.column(name)) for name in wanted if name in batch.schema.names}
        for values in zip(*columns.values(), strict=True):
            number += 1
            yield number, dict(zip(columns, values, strict=True))


def _batches(path: Path, wanted: Sequence[str], text_field: str) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            _check_column(path, file.schema_arrow, text_field)
            yield from file.iter_batches(_ROWS, columns=[name for name in wanted if name in file.schema_arrow.names])
        return
    with pa.memory_map(str(path)) as source:
        # Datasets' own files are streams; Feather's are files with an index at their end.
        if source.read(6) == b"ARROW1":
            with pa.ipc.open_file(source) as file:
                _check_column(path, file.schema, text_field)
                for i in range(file.num_record_batches):
                    yield from _sliced(file.get_batch(i))
        else:
            source.seek(0)
            with pa.ipc.open_stream(source) as stream:
                _check_column(path, stream.schema, text_field)
                for batch in stream:
                    yield from _sliced(batch)


def _sliced(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    return (batch.slice(start, _ROWS) for start in range(0, batch.num_rows, _ROWS))


def _values(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:  # a file may hold bytes that are no UTF-8 in a column of strings
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return None


def _check_column(path: Path, schema: pa.Schema, text_field: str) -> None:
    if text_field not in schema.names:
        raise DataError(f"{path}: no column {text_field!r}; it has: {', '.join(schema.names)}.")
    kind = schema.field(text_field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise DataError(f"{path}: column {text_field!r} holds {kind}; expected strings.")


def _name(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    name = str(value)
    return name if name and is_unicode(name) else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
