"""Epoch AI's table of models, as downloaded, as rows: only the models asked for, for the table knows no hub ids.

Columns as of 2024 to 2026: https://epoch.ai/data/ai-models, files ``all_ai_models.csv`` and ``notable_ai_models.csv``.
"""

from __future__ import annotations

import csv
import datetime
import difflib
import math
import re
from collections.abc import Mapping
from pathlib import Path

from njsl.core.types import DataError
from njsl.store.records import Origin, Records, row_key
from njsl.store.schema import check_value, tables
from njsl.store.sources import ACCEPTED_ID, LARGEST_BYTES, is_address, model_id, shown

NAMES = ("Model", "System")  # System until 2024
# One quantity under three names; the table has no column for its unit.
SIZES = ("Training dataset size (total)", "Training dataset size (datapoints)", "Training dataset size (gradients)")
NEEDED = ("Publication date", "Parameters", "Confidence")
CONFIDENCE = {"Confident": "reported"}  # Likely, Speculative and silence are Epoch's own judgement
_SCALE = {"": 1.0, "k": 1e3, "thousand": 1e3, "m": 1e6, "million": 1e6, "b": 1e9, "billion": 1e9}
_SCALE |= {"t": 1e12, "trillion": 1e12}
# "18T tokens", "300 billion training tokens", "1,000,000 tokens"
_TOKENS = re.compile(
    r"(?<![\d,.])(\d[\d,]{0,30}(?:\.\d{1,15})?(?:e\+?\d{1,2})?)\s*(thousand|million|billion|trillion|[kmbt])?[\s-]+(?:[a-z]+\s+){0,2}tokens?\b",
    re.IGNORECASE,
)
_TOLERANCE = 0.01  # notes round
_LONGEST = 2**20  # [characters] of one cell; csv's own limit is an eighth of it


def read_epoch(path: Path, names: Mapping[str, str]) -> Records:
    """What the table says of some models: parameters, tokens, day of the announcement, base model.

    Parameters are often rounded. A data set's size is taken where the notes beside it name the same number of tokens,
    the table says one epoch or none, and no base model: the table has other units too, and a base model's share would
    be unknown. The day is that of the announcement, a judgement on when the weights came out.

    Args:
        path: a CSV file of Epoch AI.
        names: ids of this database by the table's names of models.

    Returns:
        rows of ``models``, ``model_annotations`` and ``dataset_info``; each value's source is the row's link.

    Raises:
        DataError: the file cannot be read or is no such table, a name is not in it or stands twice, or an id is none.
    """
    ids = _ids(names, path)
    rows, name_column, size_column = _rows(path, ids)
    written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).date()
    origin = Origin(path.name, written, "inferred")
    records = Records({"models": []}, origin)
    for name, identity in ids.items():
        row = {column: (value or "").strip() for column, value in rows[name].items()}
        _Row(row, row[name_column], size_column, identity, ids, records, origin).read()
    return records


def _ids(names: Mapping[str, str], path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, said in names.items():
        identity = model_id(said)
        if identity is None:
            raise DataError(f"{path}: {shown(name)}: id {shown(said)}; {ACCEPTED_ID} is accepted")
        if identity in found.values():
            raise DataError(f"{path}: {shown(name)}: id {identity} has another name as well; one is accepted")
        found[name.strip()] = identity
    if not found:
        raise DataError(f"{path}: no model is asked for; the table's names with ids are accepted")
    return found


def _rows(path: Path, ids: Mapping[str, str]) -> tuple[dict[str, dict[str, str | None]], str, str | None]:
    """The rows asked for by name, the column of names, and that of sizes if there is one."""
    found: dict[str, dict[str, str | None]] = {}
    known: list[str] = []
    longest = csv.field_size_limit(_LONGEST)
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; a table of at most {LARGEST_BYTES} is accepted")
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            missing = [column for column in NEEDED if column not in columns]
            name_column = next((column for column in NAMES if column in columns), None)
            if name_column is None or missing or len(set(columns)) < len(columns):
                lacks = ", ".join([*([] if name_column else ["Model"]), *missing]) or "a column stands twice"
                raise DataError(f"{path}: {lacks}: no table of Epoch AI; all_ai_models.csv or the like is accepted")
            for row in reader:
                name = (row[name_column] or "").strip()
                known.append(name)
                if name not in ids:
                    continue
                if name in found:
                    raise DataError(f"{path}: line {reader.line_num}: {shown(name)} stands twice; one row is accepted")
                if None in row or None in row.values():  # too many cells, or too few
                    raise DataError(f"{path}: line {reader.line_num}: {len(columns)} cells are accepted")
                found[name] = row
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: {str(error).splitlines()[0]}; a CSV file in UTF-8 is accepted") from error
    finally:
        csv.field_size_limit(longest)
    for name in ids:
        if name not in found:
            near = difflib.get_close_matches(name, set(known), n=3, cutoff=0.5)
            raise DataError(
                f"{path}: {shown(name)}: no such model; {', '.join(map(shown, sorted(near))) or 'a name of the table'} "
                "is accepted"
            )
    return found, name_column, next((column for column in SIZES if column in columns), None)


class _Row:
    """One row on its way into records."""

    def __init__(
        self,
        row: Mapping[str, str],
        name: str,
        size_column: str | None,
        identity: str,
        ids: Mapping[str, str],
        records: Records,
        origin: Origin,
    ) -> None:
        self.row = row
        self.name = name
        self.size = row.get(size_column, "") if size_column else ""
        self.identity = identity
        self.ids = ids
        self.records = records
        link = row.get("Link", "")
        self.source = link if is_address(link) else origin.source
        self.day = _day(row.get("Last modified", "")[:10]) or origin.stated_on
        self.confidence = CONFIDENCE.get(row["Confidence"], "inferred")

    def read(self) -> None:
        """Put every value that is understood into the records."""
        self._put("models", "id", self.identity)
        self._release()
        self._parent()
        parameters = self._number("Parameters", self.row["Parameters"])
        if parameters is not None:
            self._put("model_annotations", "total_params", round(parameters))
        self._tokens()

    def _release(self) -> None:
        text = self.row["Publication date"]
        day = _day(text)
        if day is not None:
            self._put("models", "release_date", day, confidence="inferred")
            self._leave(f"Publication date {day}: the announcement, taken for the release of the weights")
        elif text:
            self._leave(f"Publication date: {shown(text)}; a date YYYY-MM-DD is accepted")

    def _parent(self) -> None:
        base = self.row.get("Base model", "")
        if not base:
            return
        if self.ids.get(base, self.identity) != self.identity:
            self._put("models", "parent", self.ids[base])
        else:
            self._leave(f"Base model: {shown(base)}: no id is given for it")

    def _tokens(self) -> None:
        size = self._number("dataset size", self.size)
        if size is None:
            return
        notes, epochs = self.row.get("Dataset size notes", ""), self.row.get("Epochs", "")
        if not any(math.isclose(size, tokens, rel_tol=_TOLERANCE) for tokens in _quantities(notes)):
            self._leave(f"dataset size {size:g}: the notes name no such number of tokens, so its unit is unknown")
        elif self.row.get("Base model"):
            self._leave(f"dataset size {size:g}: with or without the base model's is unknown")
        elif epochs and self._number("Epochs", epochs) != 1:
            self._leave(f"dataset size {size:g}: {shown(epochs)} epochs, so the tokens trained on are others")
        else:
            self._put("dataset_info", "pretraining_summary_total_tokens_billions", size / 1e9)

    def _number(self, column: str, text: str) -> float | None:
        try:
            value = float(text.replace(",", "")) if text else None
        except ValueError:
            value = math.nan
        if value is None or (math.isfinite(value) and 1 <= value < 2**63):
            return value
        self._leave(f"{column}: {shown(text)}; a number from 1 is accepted")
        return None

    def _put(self, table: str, field: str, value: object, confidence: str | None = None) -> None:
        try:
            value = check_value(tables()[table][field], value)
        except DataError as error:
            self._leave(str(error))
            return
        rows = self.records.tables.setdefault(table, [])
        if not rows or rows[-1]["id"] != self.identity:
            rows.append({"id": self.identity})
        rows[-1][field] = value
        if field != "id":
            origin = Origin(self.source, self.day, confidence or self.confidence)
            self.records.origins[table, row_key(self.identity), field] = origin

    def _leave(self, line: str) -> None:
        self.records.left_out.append(f"{self.identity}: {line}")


def _quantities(notes: str) -> list[float]:
    """Numbers of tokens that a text names."""
    return [float(number.replace(",", "")) * _SCALE[scale.lower()] for number, scale in _TOKENS.findall(notes)]


def _day(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) else None
    except ValueError:
        return None
