"""The database's layout, version 2: one table of fields, ``data/fields.csv``, from which DDL and checks are made.

Version 1 is the paper's three tables (``schema_1.sql``); ``upgrade_1_to_2.sql`` brings such a database here. A later
version adds its step beside it and raises ``VERSION``.
"""

from __future__ import annotations

import csv
import datetime
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from njsl.core.types import DataError
from njsl.store.metrics import METRICS

VERSION = 2
UNRECORDED = "unrecorded"  # a key cannot be missing: task_version and prompt where the source is silent
ID_LENGTH = 200
ID_PATTERN = "/?[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*"
SETTING_PATTERN = "[0-9]{1,4}-shot"
SHARES = ("web", "code", "books", "reference", "academic")
SHARE_TOLERANCE = 1.0  # [percent]
METRIC_RANGES = {name: (metric.low, metric.high) for name, metric in METRICS.items()}
_INTEGERS = {"INTEGER": 2**31 - 1, "BIGINT": 2**63 - 1}
_SHARE_PREFIX = {"dataset_info": "pretraining_summary_percentage_", "datasets": "percentage_"}
_TEXT_LENGTH = 2000


@dataclass(frozen=True)
class Field:
    """One column.

    Attributes:
        table, name: where.
        type: DuckDB's name of the type.
        need: ``key`` (part of the primary key), ``required``, ``flag`` (false where nothing is said) or empty.
        low, high: closed range of a number, or None.
        accepted: the values of an enumeration, or empty.
        description: with its [unit].
    """

    table: str
    name: str
    type: str
    need: str
    low: float | None
    high: float | None
    accepted: tuple[str, ...]
    description: str


@cache
def tables() -> dict[str, dict[str, Field]]:
    """All fields by table and name, in the order of the columns; a table stands after those it refers to."""
    found: dict[str, dict[str, Field]] = {}
    with files("njsl.store").joinpath("data/fields.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            low, high = (float(row[name]) if row[name] else None for name in ("low", "high"))
            found.setdefault(row["table"], {})[row["field"]] = Field(
                row["table"],
                row["field"],
                row["type"],
                row["need"],
                low,
                high,
                tuple(row["accepted"].split()),
                row["description"],
            )
    return found


@cache
def keys(table: str) -> tuple[str, ...]:
    """The columns of a table's primary key."""
    return tuple(field.name for field in tables()[table].values() if field.need == "key")


@cache
def flags(table: str) -> tuple[str, ...]:
    """Its columns that are false where nothing is said."""
    return tuple(field.name for field in tables()[table].values() if field.need == "flag")


@cache
def facts(table: str) -> tuple[str, ...]:
    """Its columns beside the key."""
    return tuple(name for name in tables()[table] if name not in keys(table))


def ddl() -> str:
    """``CREATE TABLE`` for every table, with its keys, ranges, enumerations and references."""
    return "\n".join(_create(table, fields) for table, fields in tables().items())


def check_row(table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with every value in its column's type, None where nothing is said.

    Args:
        table: a table of the database.
        row: values by column.

    Raises:
        DataError: an unknown column, or a value that the column does not accept: ``table.field: value; accepted``.
    """
    fields = tables()[table]
    unknown = row.keys() - fields.keys()
    if unknown:
        raise DataError(f"{table}.{min(map(str, unknown))}: unknown; accepted: {', '.join(fields)}")
    checked: dict[str, Any] = {}
    for name, value in row.items():
        if value is None:
            continue
        if type(value) is float:  # seldom twice the same, so not worth remembering
            checked[name] = check_value(fields[name], value)
            continue
        try:
            checked[name] = _remembered(table, name, type(value).__name__, value)
        except TypeError:  # a list or a mapping has no hash
            checked[name] = check_value(fields[name], value)
    return checked


def check_value(field: Field, value: Any) -> Any:
    """The value in the column's type.

    Raises:
        DataError: another type, or outside the range, enumeration or pattern.
    """
    kind = field.type
    if type(value) is float and kind == "DOUBLE" and field.low is None and field.high is None and math.isfinite(value):
        return value
    if kind == "JSON":
        return _json(field, value)
    if kind == "BOOLEAN":
        good = isinstance(value, bool)
    elif kind in _INTEGERS:
        good = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _INTEGERS[kind]
    elif kind == "DOUBLE":
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and _finite(value)
        value = float(value) if good else value
    elif kind == "DATE":
        value = _date(value)
        good = isinstance(value, datetime.date)
    else:
        good = isinstance(value, str) and _plain(value) and _pattern_fits(field, value)
    if good and field.accepted:
        good = value in field.accepted
    if good and field.low is not None:
        good = value >= field.low
    if good and field.high is not None:
        good = value <= field.high
    if not good:
        raise DataError(f"{field.table}.{field.name}: {_short(value)}; {accepts(field)}")
    return value


def check_whole(table: str, row: Mapping[str, Any]) -> None:
    """What only a row as a whole shows: its key, its sums, and a score's range.

    Raises:
        DataError: a key's part is missing, shares do not sum to 100 +- 1, a part is larger than its whole.
    """
    for name in _required(table):
        if row.get(name) is None:
            raise DataError(f"{table}.{name}: missing; {accepts(tables()[table][name])}")
    if table == "evaluation_results":
        low, high = METRIC_RANGES.get(row["metric"], (-math.inf, math.inf))
        value = row.get("metric_value")
        if value is not None and not low <= value <= high:
            where = f"{row['benchmark']} {row['setting']} {row['metric']}"
            raise DataError(f"{table}: {where}: {value:g}; {low:g}..{high:g} is accepted")
    elif table in _SHARE_PREFIX:
        known = _known_shares(table, row)
        if known and not shares_are_whole(table, row) and not row.get("shares_partial"):
            raise DataError(
                f"{table}: the shares {', '.join(SHARES)} sum to {sum(known):g} with {len(known)} of 5 known; "
                "100 +- 1 is accepted, or shares_partial"
            )
    elif table == "model_annotations":
        total, embedding = row.get("total_params"), row.get("embedding_params")
        if total is not None and embedding is not None and embedding > total:
            raise DataError(f"{table}.embedding_params: {embedding}; a part of total_params, {total}, is accepted")


def shares_are_whole(table: str, row: Mapping[str, Any]) -> bool:
    """Whether all five shares are known and sum to 100 +- 1."""
    known = _known_shares(table, row)
    return len(known) == len(SHARES) and abs(sum(known) - 100) <= SHARE_TOLERANCE


def accepts(field: Field) -> str:
    """What a column accepts, in words."""
    if field.accepted:
        return f"{', '.join(field.accepted)} are accepted"
    low, high = field.low, field.high
    kind = {"DOUBLE": "a number", "BOOLEAN": "true or false", "DATE": "a date YYYY-MM-DD", "VARCHAR": "text"}.get(
        field.type, "a whole number" if field.type in _INTEGERS else "JSON"
    )
    if _pattern(field):
        return f"text like {_pattern(field)} is accepted"
    if low is not None and high is not None:
        return f"{kind} {low:g}..{high:g} is accepted"
    return f"{kind} from {low:g} is accepted" if low is not None else f"{kind} is accepted"


def _create(table: str, fields: dict[str, Field]) -> str:
    lines = [f"    {_column(field)}" for field in fields.values()]
    lines.append(f"    PRIMARY KEY ({', '.join(keys(table))})")
    if "id" in fields and table not in ("models", "stage_datasets"):
        lines.append("    FOREIGN KEY (id) REFERENCES models (id)")
    if table == "stage_datasets":
        lines.append("    FOREIGN KEY (id, stage) REFERENCES training_stages (id, stage)")
        lines.append("    FOREIGN KEY (dataset) REFERENCES datasets (name)")
    if table in _SHARE_PREFIX:
        shares = [_SHARE_PREFIX[table] + name for name in SHARES]
        none = " AND ".join(f"{name} IS NULL" for name in shares)
        total = " + ".join(shares)
        lines.append(
            f"    CHECK (shares_partial OR ({none}) OR coalesce(abs({total} - 100) <= {SHARE_TOLERANCE}, false))"
        )
    if table == "model_annotations":
        lines.append("    CHECK (embedding_params <= total_params)")
    if table == "evaluation_results":
        cases = " ".join(
            f"WHEN '{metric}' THEN metric_value >= {low}" + ("" if math.isinf(high) else f" AND metric_value <= {high}")
            for metric, (low, high) in METRIC_RANGES.items()
        )
        lines.append(f"    CHECK (CASE metric {cases} ELSE true END)")
    return f"CREATE TABLE {table} (\n" + ",\n".join(lines) + "\n);"


def _column(field: Field) -> str:
    words = [field.name, field.type]
    if field.need:
        words.append("NOT NULL DEFAULT false" if field.need == "flag" else "NOT NULL")
    rules = []
    if field.type == "DOUBLE":
        rules.append(f"isfinite({field.name})")  # one spelling of missing
    refers = field.name == "id" and field.table != "models"  # what it refers to has been checked
    if field.type == "VARCHAR" and not refers:
        rules.append(f"{field.name} <> ''")
    if field.low is not None:
        rules.append(f"{field.name} >= {field.low:.10g}")
    if field.high is not None:
        rules.append(f"{field.name} <= {field.high:.10g}")
    if field.accepted:
        rules.append(f"{field.name} IN ({', '.join(repr(value) for value in field.accepted)})")
    if _pattern(field) and not refers:
        rules.append(f"regexp_full_match({field.name}, '{_pattern(field)}')")
    if _pattern(field) == ID_PATTERN and not refers:
        rules.append(f"NOT contains({field.name}, '..') AND length({field.name}) <= {ID_LENGTH}")
    if rules:
        words.append(f"CHECK ({' AND '.join(rules)})")
    return " ".join(words)


def _pattern(field: Field) -> str:
    if field.name in ("id", "parent"):
        return ID_PATTERN
    return SETTING_PATTERN if field.name == "setting" else ""


def _pattern_fits(field: Field, value: str) -> bool:
    pattern = _pattern(field)
    if not pattern:
        return True
    if pattern == ID_PATTERN and (".." in value or len(value) > ID_LENGTH):
        return False
    return re.fullmatch(pattern, value) is not None


def _known_shares(table: str, row: Mapping[str, Any]) -> list[float]:
    shares = (row.get(_SHARE_PREFIX[table] + name) for name in SHARES)
    return [share for share in shares if share is not None]


@cache
def _required(table: str) -> tuple[str, ...]:
    return tuple(name for name, field in tables()[table].items() if field.need in ("key", "required"))


@lru_cache(maxsize=1 << 16)
def _remembered(table: str, name: str, kind: str, value: Any) -> Any:
    """``check_value``; ``kind`` is in the key because True, 1 and 1.0 are one to a dictionary."""
    return check_value(tables()[table][name], value)


def _plain(value: str) -> bool:
    """Printable (so no control characters and no lone surrogates), no surrounding blanks, not empty, not endless."""
    return 0 < len(value) <= _TEXT_LENGTH and value.isprintable() and value == value.strip()


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _date(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        try:
            return datetime.date.fromisoformat(value)
        except ValueError:
            return value
    return value


def _json(field: Field, value: Any) -> str:
    """JSON in one spelling: keys sorted, no lone surrogates."""
    try:
        text = json.dumps(json.loads(value) if isinstance(value, str) else value, sort_keys=True, ensure_ascii=False)
        text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{field.table}.{field.name}: {_short(value)}; JSON is accepted") from error
    return text


def _short(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) else type(value).__name__ if isinstance(value, (dict, list)) else ""
    text = text or ascii(value) if not isinstance(value, int) or abs(value) < 2**63 else "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."
