"""Files of text to documents: jsonl and json (plain, gz, zst), parquet and arrow; what is broken is counted."""

from __future__ import annotations

import codecs
import glob
import gzip
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from njsl.core.types import DataError, Document

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
LINES = tuple(name + packed for name in (".jsonl", ".json") for packed in ("", *COMPRESSED))
SUFFIXES = (*LINES, ".parquet", ".arrow")
# ``resps`` is what a model answered in the samples of lm-evaluation-harness, ``doc_id`` names the question there.
TEXT_FIELDS = ("text", "content", "resps")
LANG_FIELDS = ("lang",)
_ID_FIELDS = ("doc_id",)

_CHUNK = 1 << 20  # bytes of uncompressed text read at once
_ROWS = 256  # records read at once from parquet; documents may be of megabytes
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")


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


@dataclass(frozen=True)
class Fields:
    """What a record calls its parts.

    Attributes:
        text: the text; None takes the first of ``TEXT_FIELDS`` that a record has. A list in it, as the samples of
            lm-evaluation-harness have, is followed to its first element.
        id: the id, a string or an integer; a record without one is named after its folder, file and place there.
        group: the group, a string or an integer; None makes the id the group.
    """

    text: str | None
    id: str = "id"
    group: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Fields that may hold the text, the first wins."""
        return TEXT_FIELDS if self.text is None else (self.text,)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Columns worth reading."""
        return (*self.texts, self.id, *_ID_FIELDS, *([] if self.group is None else [self.group]), *LANG_FIELDS)


@dataclass(frozen=True)
class Block:
    """Some records of one file, as they lie there; ``documents`` reads them.

    Attributes:
        path: the file.
        first: number of the first record, from 1; of a file of lines, the line.
        count: records, or lines.
        payload: whole lines, or a record batch.
        nbytes: size of the payload [byte].
        position: bytes of the file that were read up to its end.
    """

    path: Path
    first: int
    count: int
    payload: bytes | pa.RecordBatch
    nbytes: int
    position: int


def blocks(path: Path, fields: Fields) -> Iterator[Block]:
    """Cut one file into blocks of about a MiB, in its order; memory does not grow with the file.

    The cuts depend on the file alone. A block is larger where one record is.

    Args:
        path: a file that ends in one of ``SUFFIXES``.
        fields: names of the columns worth reading.

    Raises:
        DataError: the file is truncated, damaged or of another kind, or has no column with the text.
    """
    path = Path(path)
    try:
        yield from _line_blocks(path) if path.name.endswith(LINES) else _row_blocks(path, fields)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read, truncated or damaged? {_first_line(error)}") from error


def documents(
    block: Block,
    fields: Fields,
    broken: Broken,
    *,
    keep_empty: bool = False,
    repair: Callable[[str], str] | None = None,
) -> Iterator[Document]:
    """The documents of a block.

    A broken record is left out and counted: a line that is no JSON object in UTF-8, a text that is missing, no string
    or no valid Unicode, a missing group. Blank lines are no records.

    Args:
        block: from ``blocks``.
        fields: what a record calls its parts.
        broken: counts the broken ones.
        keep_empty: give empty texts too, which are else left out.
        repair: is applied to every text before it is judged.
    """
    path = block.path
    records = _lines(block, broken) if isinstance(block.payload, bytes) else _rows(block, fields)
    noun = "line" if isinstance(block.payload, bytes) else "record"
    for number, record in records:
        place = f"{noun} {number}"
        held = next((name for name in fields.texts if name in record), fields.texts[0])
        text = _first_text(record.get(held))
        if text is None:
            named = repr(held) if len(fields.texts) == 1 or held in record else " or ".join(map(repr, fields.texts))
            broken.add(path, place, f"{'no string in' if held in record else 'no field'} {named}")
            continue
        if repair is not None:
            text = repair(text)
        if not is_unicode(text):
            broken.add(path, place, f"{held!r} is not valid Unicode")
            continue
        if not text and not keep_empty:
            continue
        ids = (_name(record.get(name)) for name in (fields.id, *_ID_FIELDS))
        name = next((found for found in ids if found), None) or f"{path.parent.name}/{path.name}:{number}"
        group = _name(record.get(fields.group)) if fields.group is not None else name
        if group is None:
            broken.add(path, place, f"no string or integer in {fields.group!r}")
            continue
        lang = next((value for key in LANG_FIELDS if isinstance(value := record.get(key), str) and value), None)
        yield Document(text, name, group, lang)


def read(
    path: Path, *, text_field: str | None, id_field: str = "id", group_field: str | None = None, broken: Broken
) -> Iterator[Document]:
    """Stream the documents of one file, in its order: its ``blocks`` through ``documents``, without empty texts.

    Args:
        path: a file that ends in one of ``SUFFIXES``.
        text_field, id_field, group_field: see ``Fields``.
        broken: counts what is left out.

    Raises:
        DataError: the file is truncated, damaged or of another kind, or has no column with the text.
    """
    fields = Fields(text_field, id_field, group_field)
    for block in blocks(Path(path), fields):
        yield from documents(block, fields, broken)


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


def _line_blocks(path: Path) -> Iterator[Block]:
    """Whole lines; a file that holds one JSON array gives a line per element."""
    with pa.OSFile(str(path)) as raw:
        packed = COMPRESSED.get(path.suffix)
        stream = pa.CompressedInputStream(raw, packed) if packed else raw
        number, rest = 1, list[bytes]()
        chunks = _chunks(stream)
        start = next(chunks, b"").removeprefix(_BOM)
        whole: Iterator[bytes] = itertools.chain([start], chunks)
        if ".json" in path.suffixes and start.lstrip()[:1] == b"[":
            whole = _elements(whole)
        for chunk in whole:
            head, newline, tail = chunk.rpartition(b"\n")
            if not newline:
                rest.append(chunk)
                continue
            payload = b"".join((*rest, head, newline))
            rest = [tail]
            count = payload.count(b"\n")
            yield Block(path, number, count, payload, len(payload), raw.tell())
            number += count
        if payload := b"".join(rest):
            yield Block(path, number, 1, payload, len(payload), raw.tell())


def _chunks(stream: Any) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


def _elements(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The elements of one JSON array, a line each; what does not parse is given as it stands."""
    decoder, decode = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")("surrogateescape")
    text, need = "", 0
    opened = False
    for chunk in itertools.chain(chunks, [b""]):
        text += decode.decode(chunk, not chunk)
        if chunk and len(text) < need:
            continue
        place, lines = 0, []
        while True:
            place = _SPACE.match(text, place).end()  # type: ignore[union-attr]  # it matches the empty string
            if text[place : place + 1] == "]" or place == len(text):
                break
            if not opened or text[place] == ",":
                opened, place = True, place + 1
                continue
            try:
                _, end = decoder.raw_decode(text, place)
            except (ValueError, RecursionError):
                break
            if end == len(text) and chunk:
                break  # a number may go on
            lines.append(text[place:end].replace("\n", " ").replace("\r", " "))
            place = end
        text = text[place:]
        # An element larger than a chunk is tried again only when as much again is there.
        need = 0 if lines else 2 * len(text)
        if not chunk and text.strip() not in ("", "]"):
            lines.append(text.strip().replace("\n", " "))
        if lines:
            yield "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")


def _lines(block: Block, broken: Broken) -> Iterator[tuple[int, dict[str, Any]]]:
    assert isinstance(block.payload, bytes)
    for number, line in enumerate(block.payload.split(b"\n"), start=block.first):
        if not line.strip():
            continue
        try:
            # Not json.loads(line): it guesses UTF-16 and lets broken UTF-8 pass.
            record = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            broken.add(block.path, f"line {number}", f"no JSON in UTF-8, {_first_line(error)}")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            broken.add(block.path, f"line {number}", "no JSON object")


def _row_blocks(path: Path, fields: Fields) -> Iterator[Block]:
    number = 1
    size = path.stat().st_size
    rows = 0
    for batch, total in _batches(path, fields):
        rows += batch.num_rows
        # What a slice of a larger batch holds, not what it points to.
        nbytes = batch.get_total_buffer_size() if path.suffix == ".parquet" else batch.nbytes
        yield Block(path, number, batch.num_rows, batch, nbytes, size * rows // max(total, rows, 1))
        number += batch.num_rows


def _rows(block: Block, fields: Fields) -> Iterator[tuple[int, dict[str, Any]]]:
    batch = block.payload
    assert isinstance(batch, pa.RecordBatch)
    columns = {name: _values(batch.column(name)) for name in dict.fromkeys(fields.wanted) if name in batch.schema.names}
    for number, values in enumerate(zip(*columns.values(), strict=True), start=block.first):
        yield number, dict(zip(columns, values, strict=True))


def _batches(path: Path, fields: Fields) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Batches of at most ``_ROWS`` records, each with the number of records in the file, 0 where it is not known."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            names = _check_columns(path, file.schema_arrow, fields)
            for batch in file.iter_batches(_ROWS, columns=names, use_threads=False):
                yield batch, file.metadata.num_rows
        return
    with pa.memory_map(str(path)) as source:
        # Datasets' own files are streams; Feather's are files with an index at their end.
        if source.read(6) == b"ARROW1":
            with pa.ipc.open_file(source) as file:
                names = _check_columns(path, file.schema, fields)
                for i in range(file.num_record_batches):
                    for batch in _sliced(file.get_batch(i)):
                        yield batch.select(names), 0
        else:
            source.seek(0)
            with pa.ipc.open_stream(source) as stream:
                names = _check_columns(path, stream.schema, fields)
                for whole in stream:
                    for batch in _sliced(whole):
                        yield batch.select(names), 0


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


def _check_columns(path: Path, schema: pa.Schema, fields: Fields) -> list[str]:
    """The columns to read; the one with the text must be there and hold strings, or lists of them."""
    held = next((name for name in fields.texts if name in schema.names), None)
    if held is None:
        wanted = " or ".join(map(repr, fields.texts))
        raise DataError(f"{path}: no column {wanted}; it has: {', '.join(schema.names)}.")
    kind = schema.field(held).type
    while pa.types.is_dictionary(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise DataError(f"{path}: column {held!r} holds {kind}; expected strings.")
    return [name for name in dict.fromkeys(fields.wanted) if name in schema.names]


def _first_text(value: Any) -> str | None:
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else None


def _name(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    name = str(value)
    return name if name and is_unicode(name) else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
