"""Tables of features of what models write -> rows of ``model_features``."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from njsl.core.types import DataError
from njsl.store import schema
from njsl.store.layouts.values import MAX_BYTES, label, model_id, number, shown, source_name, stamp
from njsl.store.records import Origin, Records

TABLE = "model_features"
# As tag.py names them: a row per model, and a row per model and feature.
WIDE, LONG, RECORD = "features.csv", "features_long.csv", "run.json"
_LONG_COLUMNS = ("id", "corpus", "feature", "value")
_WITHOUT_STD = ("entropy_mean",)  # a figure of the whole corpus
_ACCEPTED = "what `tag.py mode=aggregate` writes is accepted: id and a column per feature"


def read_features(path: Path, names: Mapping[str, str] = MappingProxyType({})) -> Records:
    """The features of a table of ``tag.py mode=aggregate``, or of the paper's.

    ``features.csv`` has a row per name and does not say what a name stands for: a model, whose generations were tagged,
    or a corpus. ``features_long.csv``, which ``tag.py`` writes beside it, does: a run's corpus becomes a model by being
    given the model's name (``aggregate.ids``). So a row that still has its corpus' own name is of a corpus and is left
    out, with a line. Where no ``features_long.csv`` lies beside a table, as with the paper's, every row is a model.

    Args:
        path: ``features.csv``, ``features_long.csv``, any table in the form of the first, or a folder with one.
        names: a model's id by the corpus that is its writing.

    Returns:
        Rows of ``model_features`` in the table's order; empty cells and NaN are no rows. ``measured_on`` is the day
        the run beside the table ended (``run.json``), None where there is none.

    Raises:
        DataError: the table is unusable, or a cell of it: one line with the place. Nothing is imported then.
    """
    if path.is_dir():
        path = path / WIDE
    try:
        return _read(path, names)
    except DataError as error:
        name = str(path) if str(path).isprintable() else ascii(str(path))
        raise DataError(f"{name}: {error}") from error


def _read(path: Path, models: Mapping[str, str]) -> Records:
    table = _table(path)
    header = table[0]
    tall = tuple(header[: len(_LONG_COLUMNS)]) == _LONG_COLUMNS
    beside = path.with_name(LONG)
    told = table if tall else _table(beside) if path.name == WIDE and beside.is_file() else None
    corpora = (set() if told is None else _corpora(told)) - models.keys()
    source, day = source_name(path), _day(path.with_name(RECORD))
    rows: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    empty = set(header[1:]) if not tall else set()
    seen: set[tuple[str, str]] = set()
    for name, feature, value in _long_cells(table) if tall else _wide_cells(table):
        if name in corpora:
            continue
        identity = names.get(name) or names.setdefault(name, model_id(models.get(name, name), "id"))
        if (identity, feature) in seen:
            raise DataError(f"{label(identity)} {label(feature)}: stands twice; once is accepted")
        seen.add((identity, feature))
        if value is None:
            continue
        empty.discard(feature)
        rows.append({"id": identity, "feature": feature, "value": value, "source": source, "measured_on": day})
    if not rows:
        aside = f"; its {len(corpora)} names are corpora, aggregate.ids can name a model" if corpora else ""
        raise DataError(f"no features of models{aside}; {_ACCEPTED}")
    for feature in {row["feature"] for row in rows}:
        try:
            schema.check_row(TABLE, {"feature": feature, "source": source})
        except DataError as error:
            raise DataError(str(error).removeprefix(f"{TABLE}.")) from error
    lines = [f"corpus {label(name)}: no model, aggregate.ids can name one" for name in sorted(corpora)]
    if empty:
        lines.append(f"{len(empty)} columns without a value, e.g. {label(min(empty))}")
    written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).date()
    return Records({TABLE: rows}, Origin(source, day or written, "measured"), left_out=lines)


def _table(path: Path) -> list[list[str]]:
    """The header and the rows of a CSV file, all of one length."""
    try:
        if not path.is_file():
            raise DataError(f"no such file; {_ACCEPTED}")
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path.stat().st_size} bytes; tables up to {MAX_BYTES} bytes are accepted")
        written = path.read_bytes().decode("utf-8-sig")
        table = [row for row in csv.reader(io.StringIO(written, newline=""), strict=True) if row]
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start}: not UTF-8; a CSV table in UTF-8 is accepted") from error
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot be read ({type(error).__name__}), truncated or damaged? {_ACCEPTED}") from error
    if not table or table[0][0] != "id" or len(table[0]) < 2:
        raise DataError(f"header: {shown(','.join(table[0])) if table else 'missing'}; {_ACCEPTED}")
    header = table[0]
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"header: {label(twice)} stands twice; once is accepted")
    for line, row in enumerate(table[1:], start=1):
        if len(row) != len(header):
            raise DataError(f"row {line}: {len(row)} cells; {len(header)} are accepted")
    return table


def _wide_cells(table: list[list[str]]) -> Iterator[tuple[str, str, float | None]]:
    features = table[0][1:]
    for line, (name, *cells) in enumerate(table[1:], start=1):
        for feature, cell in zip(features, cells, strict=True):
            yield name, feature, _value(cell, f"row {line}, {label(feature)}")


def _long_cells(table: list[list[str]]) -> Iterator[tuple[str, str, float | None]]:
    """A mean's standard deviation over documents is a feature too, as in the wide form."""
    std = table[0].index("std") if "std" in table[0] else None
    for line, row in enumerate(table[1:], start=1):
        name, _, feature, value = row[: len(_LONG_COLUMNS)]
        place = f"row {line}, {label(feature)}"
        yield name, feature, _value(value, place)
        if std is not None and feature.endswith("_mean") and feature not in _WITHOUT_STD:
            spread = _value(row[std], f"{place} std")
            if spread is not None:
                yield name, feature.removesuffix("_mean") + "_std", spread


def _value(cell: str, place: str) -> float | None:
    value = number(cell, (place,))
    if value is not None and math.isinf(value):
        raise DataError(f"{place}: {shown(cell)}; a finite number is accepted")
    return value


def _corpora(table: list[list[str]]) -> set[str]:
    """Names of rows that are a corpus' own."""
    if tuple(table[0][: len(_LONG_COLUMNS)]) != _LONG_COLUMNS:
        raise DataError(f"{LONG}: header: {shown(','.join(table[0]))}; {','.join(_LONG_COLUMNS)} are accepted")
    return {row[0] for row in table[1:] if row[0] == row[1]}


def _day(record: Path) -> datetime.date | None:
    """The day a run ended, or began where it does not say; None where no run's record is at hand."""
    if not record.is_file():
        return None
    try:
        run = json.loads(record.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{RECORD}: not JSON, truncated or damaged; the run's record is accepted") from error
    if not isinstance(run, dict):
        raise DataError(f"{RECORD}: {shown(run)}; the run's record is accepted")
    time = stamp(run.get("end"), RECORD, "end") or stamp(run.get("start"), RECORD, "start")
    return None if time is None else time[0]
