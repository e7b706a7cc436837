"""What a result file may hold at any one place, told in one line where it does not."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from njsl.core.types import DataError
from njsl.store import schema

MAX_BYTES = 64 * 2**20  # the largest result files known are a hundredth of this
_MISSING = ("", "n/a", "na", "nan", "none", "null")
_NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?", re.ASCII)
_STAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d)[-:](\d\d)[-:](\d\d)(?:\.(\d{1,9}))?(?:Z|[+-]\d\d:?\d\d)?)?", re.ASCII
)
_NAME_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)T\d\d[-:]\d\d[-:]\d\d", re.ASCII)
_NO_NAMES = ("model_name", "none", "null", "n/a")  # a template's own words
# Seconds since 1970 between the years 2000 and 2100; outside, a number is no date.
_EPOCHS = (946_684_800, 4_102_444_800)


class Repeated(dict[str, Any]):
    """An object of a JSON file in which a name stands more than once; as a mapping it has the last of each.

    Attributes:
        pairs: all names and values in the order of the file.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def read_json(path: Path) -> tuple[dict[str, Any], list[Repeated]]:
    """The object a JSON file holds, and the objects in it that repeat a name.

    Raises:
        DataError: it is no readable file, too large, too deep, not UTF-8, not JSON or no object.
    """
    try:
        if not path.is_file():
            raise DataError("no such file; a result file (.json) is accepted")
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path.stat().st_size} bytes; result files up to {MAX_BYTES} bytes are accepted")
        raw = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that holds a null byte
        raise DataError(f"cannot be read ({type(error).__name__}); a readable file is accepted") from error
    repeated: list[Repeated] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        repeated.append(Repeated(pairs))
        return repeated[-1]

    try:
        data = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=keep)
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start}: not UTF-8; JSON in UTF-8 is accepted") from error
    except RecursionError as error:
        raise DataError("nested too deeply; JSON of a result file is accepted") from error
    except ValueError as error:
        place = f"line {error.lineno}: " if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{place}not JSON, truncated or damaged; a result file is accepted") from error
    if not isinstance(data, dict):
        raise DataError(f"the whole: {shown(data)}; an object with results is accepted")
    return data, repeated


def shown(value: Any) -> str:
    """A value as a message may show it: one line, short, ASCII."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a huge number"
    text = ascii(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def label(text: str) -> str:
    """A name of the file as a message or a line may show it."""
    return text if len(text) <= 80 and text.isprintable() else shown(text)


# A place in a file, as the names on the way to it: cheap to make for a hundred thousand values, joined for one message.
Place = tuple[str, ...]


def at(place: Place) -> str:
    """A place as a message shows it."""
    return ".".join(label(name) for name in place)


def mapping(data: Mapping[str, Any], key: str, *place: str) -> dict[str, Any]:
    """The object under a key of the object at a place; empty where there is none.

    Raises:
        DataError: there is something else.
    """
    value = data.get(key)
    if isinstance(value, dict):
        return value
    if value is None:
        return {}
    raise DataError(f"{at((*place, key))}: {shown(value)}; an object is accepted")


def text(value: Any, *place: str) -> str | None:
    """A text without surrounding blanks, or None where nothing is said.

    Raises:
        DataError: it is something else.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError(f"{at(place)}: {shown(value)}; text is accepted")
    return value.strip() or None


def number(value: Any, place: Place) -> float | None:
    """A number, also written as text; None for null, N/A and NaN. Infinity stays.

    Raises:
        DataError: it is something else, or beyond every float.
    """
    if type(value) is float:
        return None if value != value else value
    if value is None:
        return None
    if isinstance(value, str):
        plain = value.strip()
        if plain.lower() in _MISSING:
            return None
        if _NUMBER.fullmatch(plain):
            return float(plain)
    elif isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    raise DataError(f"{at(place)}: {shown(value)}; a number is accepted")


def count(value: Any, *place: str, low: int = 0) -> int | None:
    """A whole number, or None for null and N/A.

    Raises:
        DataError: it is something else, or smaller than ``low``.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in _MISSING):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**63:
        return value
    raise DataError(f"{at(place)}: {shown(value)}; a whole number from {low} is accepted")


def version(value: Any, *place: str) -> str | None:
    """A task's version as text, or None where nothing is said.

    Raises:
        DataError: it is neither a number nor text.
    """
    if value is None or value == "N/A" or value != value:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise DataError(f"{at(place)}: {shown(value)}; a number or text is accepted")
    return str(value).strip() or None


def stamp(value: Any, *place: str) -> tuple[datetime.date, tuple[int, ...]] | None:
    """A time like ``2024-11-27T11-17-20.65``, ``2024-04-09 12:15:59`` or ``2023-11-13``: its day, and what sorts it.

    Raises:
        DataError: it is something else.
    """
    if value is None:
        return None
    found = _STAMP.fullmatch(value) if isinstance(value, str) else None
    day = _day(found[1]) if found else None
    if found is None or day is None:
        raise DataError(f"{at(place)}: {shown(value)}; a time like 2024-11-27T11-17-20 is accepted")
    clock = tuple(int(part or 0) for part in found.groups()[1:4])
    return day, (day.toordinal(), *clock, int((found[5] or "0").ljust(9, "0")))


def epoch(value: Any, *place: str) -> datetime.date | None:
    """The day, in UTC, of seconds since 1970.

    Raises:
        DataError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and _EPOCHS[0] <= value <= _EPOCHS[1]:
        return datetime.datetime.fromtimestamp(value, datetime.UTC).date()
    raise DataError(f"{at(place)}: {shown(value)}; seconds since 1970 are accepted")


def name_day(path: Path) -> datetime.date | None:
    """The day in a file's name, as in ``results_2025-02-13T18-31-13.501753.json``."""
    found = _NAME_STAMP.search(path.name)
    return _day(found[1]) if found else None


def _day(written: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(written)
    except ValueError:
        return None


def source_name(path: Path) -> str:
    """A file as a source: its name, with its folder's name where all such files are called alike."""
    path = path.absolute()
    if re.fullmatch(r"(results|features|features_long)(_[0-9T:.\-]+)?\.(json|csv)", path.name):
        return f"{path.parent.name}/{path.name}"
    return path.name


def model_id(name: str, where: str) -> str:
    """A model's name as the database has it: ``org__name`` is ``org/name``, and a path in that spelling is a path.

    Raises:
        DataError: it is no name, a placeholder, too long, or holds what no name holds.
    """
    if "/" not in name and "__" in name:
        # A folder's sanitised path starts with its separator; else only the owner stands before one.
        name = name.replace("__", "/") if name.startswith("__") else name.replace("__", "/", 1)
    if name.lower() in _NO_NAMES:
        raise DataError(f"{where}: {shown(name)} is a placeholder; the model's name is accepted, or give it with --id")
    try:
        schema.check_row("evaluation_results", {"id": name})
    except DataError as error:
        raise DataError(
            f"{where}: {shown(name)}; owner/name of letters, digits and _.+- up to {schema.ID_LENGTH} characters is "
            "accepted, or give it with --id"
        ) from error
    return name
