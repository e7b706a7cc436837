"""Contributions: a model's facts as reviewable YAML, its configuration and result files in a folder beside it.

``contrib/OWNER__NAME.yaml`` holds the facts of the model OWNER/NAME, the folder ``contrib/OWNER__NAME/`` the files it
names. The keys are the columns of ``data/fields.csv`` in short spelling; ``python -m njsl.store.contrib`` prints their
JSON Schema, which is kept in ``data/contribution.schema.json`` for editors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from njsl.core.types import DataError
from njsl.store.records import Origin, Records, row_key
from njsl.store.schema import ID_LENGTH, SHARE_TOLERANCE, Field, accepts, check_value, check_whole, tables
from njsl.store.strict_yaml import Place, load, one_line, short

LIMIT_BYTES = 100_000  # some fifty times a usual contribution
SECTIONS = {"architecture": "model_annotations", "pretraining": "dataset_info"}
ORIGIN = {"source": "source", "date": "stated_on", "confidence": "confidence"}  # by key, the column of provenance
REQUIRED = ("id", *ORIGIN)
TEXT_LENGTH = 2000
SAYS_NOTHING = ("", "-", "?", "N/A", "n/a", "NA", "None", "none", "null", "nan", "unknown", "Unknown")
_NAME = "[A-Za-z0-9][A-Za-z0-9_.+-]*"
# A bare name with two underscores would be the file name of another model.
_ID = (rf"^(?!.*\.\.)({_NAME}/{_NAME}|(?!.*__){_NAME})$", "a Hugging Face OWNER/NAME, or a bare name, is accepted")
_FILE = (rf"^{_NAME}\.json$", "NAME.json, a file of the contribution's own folder, is accepted")
# By column, what text it takes beyond fields.csv. Sources: a machine's path says nothing to others.
PATTERNS = {
    "id": _ID,
    "parent": _ID,
    "source": (
        r"^(https?://\S+|[^/\s]([^/\r\n]*[^/\s])?)$",
        "an address https://... or a file's name without its folder is accepted",
    ),
}


@dataclass(frozen=True)
class Contribution:
    """One model as somebody contributed it.

    Attributes:
        path: of the YAML.
        id: the model's id.
        records: its facts.
        config: path of the model's ``config.json``, or None.
        results: paths of its evaluation results, sorted.
    """

    path: Path
    id: str
    records: Records
    config: Path | None
    results: tuple[Path, ...]


def read_facts(path: str | Path) -> Records:
    """The facts of one YAML file; the files it names are not looked at.

    Args:
        path: at most ``LIMIT_BYTES`` of UTF-8, YAML as in ``strict_yaml``.

    Raises:
        DataError: no such file, no YAML, a key that does not exist or stands twice, a value its column does not
            accept, a required key left out, or shares that do not sum up.
    """
    return _parse(Path(path)).records


def contributions(folder: str | Path) -> list[Contribution]:
    """All contributions of a folder, in the order of their file names.

    Names that begin with a dot are passed over, as is ``README.md``; everything else has to belong to a contribution.

    Raises:
        DataError: no such folder, nothing in it, a file that cannot be read (``read_facts``), has another name than
            its model, is named and not there, is there and not named, or is a link.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{one_line(folder)}: no such folder; one of OWNER__NAME.yaml files is accepted")
    entries = _entries(folder)
    found = [_contribution(path) for path in entries if path.suffix == ".yaml"]
    stems = {contribution.path.stem for contribution in found}
    for path in entries:
        if path.suffix != ".yaml" and not (path.is_dir() and path.name in stems):
            raise DataError(
                f"{one_line(path)}: belongs to no contribution; OWNER__NAME.yaml, and a folder OWNER__NAME with the "
                "files it names, are accepted"
            )
    if not found:
        raise DataError(f"{one_line(folder)}: holds no contribution; OWNER__NAME.yaml files are accepted")
    return found


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a contribution, made from ``data/fields.csv``.

    It says all that a single value can show; sums of shares and the names of files are left to this module's readers.
    """
    provenance = tables()["provenance"]
    about = {
        "source": "address the values come from, or a file's name without its folder",
        "date": "day the source said so; where it shows none, the day it was read",
        "confidence": provenance["confidence"].description,
    }
    said = {key: {"description": about[key], **_plain_schema(provenance[ORIGIN[key]])} for key in ORIGIN}
    name = _plain_schema(tables()["datasets"]["name"])
    file = {"type": "string", "pattern": _FILE[0], "maxLength": ID_LENGTH}
    identity = tables()["models"]["id"]
    text = {"type": "string", "maxLength": TEXT_LENGTH, "not": {"enum": list(SAYS_NOTHING)}}
    stage = _block_schema("training_stages", said)
    stage["properties"]["datasets"] = {
        "description": "by name of the data set, its share in the stage's tokens; empty where the share is not known",
        "type": ["object", "null"],
        "propertyNames": name,
        "additionalProperties": _value_schema(tables()["stage_datasets"]["share_pct"]),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A model contributed to njsl",
        "type": "object",
        "required": list(REQUIRED),
        "additionalProperties": False,
        "properties": {
            "id": {"description": identity.description, **_plain_schema(identity)},
            **_block_schema("models", said)["properties"],
            "config": {
                "description": "the model's config.json, in the folder beside",
                **file,
                "type": ["string", "null"],
            },
            **{key: {**_block_schema(table, said), "type": ["object", "null"]} for key, table in SECTIONS.items()},
            "datasets": {
                "description": "what is known of data sets, by name",
                "type": ["object", "null"],
                "propertyNames": name,
                "additionalProperties": {**_block_schema("datasets", said), "type": ["object", "null"]},
            },
            "stages": {
                "description": "stages of training, the first one first",
                "type": ["array", "null"],
                "items": {**stage, "minProperties": 1},
            },
            "results": {
                "description": "result files of lm-eval, in the folder beside",
                "type": ["array", "null"],
                "uniqueItems": True,
                "items": file,
            },
        },
        "$defs": {
            "text": {**text, "pattern": r"^\S(.*\S)?$"},
            "id": {**text, "pattern": _ID[0], "maxLength": ID_LENGTH},
            "source": {**text, "pattern": PATTERNS["source"][0]},
            "stated": {
                "description": "a value with an origin of its own",
                "type": "object",
                "required": ["value"],
                "additionalProperties": False,
                "properties": {"value": {}, **said},
            },
        },
    }


@dataclass(frozen=True)
class _Parsed:
    id: str
    records: Records
    config: Place | None
    results: list[Place]


def _parse(path: Path) -> _Parsed:
    top = load(path, LIMIT_BYTES)
    entries = top.mapping((*REQUIRED, *_fields("models"), "config", *SECTIONS, "datasets", "stages", "results"), _meant)
    for key in REQUIRED:
        if key not in entries or entries[key].empty():
            raise top.error(f"missing; {', '.join(REQUIRED)} are required", key)
    identity = _single(entries["id"], tables()["models"]["id"])
    origin = _origin(entries, None)
    records = Records({}, origin)
    _row(records, "models", {"id": identity}, top, entries, origin)
    if records.tables["models"][0].get("parent") == identity:
        raise entries["parent"].error(f"{short(identity)}; another model than itself is accepted")
    for key, table in SECTIONS.items():
        if key in entries:
            _block(records, table, {"id": identity}, entries[key])
    if "datasets" in entries:
        for name, at in entries["datasets"].mapping().items():
            _block(records, "datasets", {"name": _name(at, name)}, at)
    if "stages" in entries:
        for number, at in enumerate(entries["stages"].sequence(), start=1):
            _stage(records, {"id": identity, "stage": number}, at)
    config = entries.get("config")
    config = None if config is None or config.empty() else config
    results = entries["results"].sequence() if "results" in entries else []
    seen: set[Any] = set()
    for at in [*([config] if config else []), *results]:
        _fits(at, *_FILE)
        if at.scalar() in seen:
            raise at.error(f"{at.shown()} stands twice; once is accepted")
        seen.add(at.scalar())
    return _Parsed(identity, records, config, results)


def _block(records: Records, table: str, key: dict[str, Any], at: Place, *also: str) -> tuple[dict[str, Place], Origin]:
    """Take in the values of a block, whose own source, date and confidence hold for all of it."""
    entries = at.mapping((*_fields(table), *ORIGIN, *also), _meant)
    origin = _origin(entries, records.origin)
    _row(records, table, key, at, entries, origin)
    return entries, origin


def _stage(records: Records, key: dict[str, Any], at: Place) -> None:
    entries, origin = _block(records, "training_stages", key, at, "datasets")
    if not entries:
        raise at.error("an empty stage; one with a name, for instance, is accepted")
    if "datasets" not in entries:
        return
    total = 0.0
    known = {row["name"] for row in records.tables.get("datasets", [])}
    for name, share in entries["datasets"].mapping().items():
        row = {**key, "dataset": _name(share, name)}
        value, stated = _value(share, tables()["stage_datasets"]["share_pct"], origin)
        if value is not None:
            row["share_pct"] = value
            total += value
            if stated != records.origin:
                records.origins["stage_datasets", row_key(*key.values(), name), "share_pct"] = stated
        records.tables.setdefault("stage_datasets", []).append(row)
        if name not in known:  # not described here, but the database wants a row for it
            records.tables.setdefault("datasets", []).append({"name": name})
    if total > 100 + SHARE_TOLERANCE:
        raise entries["datasets"].error(f"the shares sum to {total:g}; 100 +- {SHARE_TOLERANCE:g} or less is accepted")


def _row(
    records: Records, table: str, key: dict[str, Any], at: Place, entries: dict[str, Place], origin: Origin
) -> None:
    row = dict(key)
    for name, field in _fields(table).items():
        if name in entries:
            value, stated = _value(entries[name], field, origin)
            if value is not None:
                row[field.name] = value
                if stated != records.origin:
                    records.origins[table, row_key(*key.values()), field.name] = stated
    try:
        check_whole(table, row)
    except DataError as error:
        message = str(error).removeprefix(table).lstrip(".: ").replace("shares_partial", "partial: true")
        raise at.error(message) from error
    if len(row) > len(key) or table not in SECTIONS.values():
        records.tables.setdefault(table, []).append(row)


def _value(at: Place, field: Field, origin: Origin) -> tuple[Any, Origin]:
    """A value, plain or with an origin of its own; None where nothing is said."""
    if not at.is_mapping:
        return (None if at.empty() else _single(at, field)), origin
    entries = at.mapping(("value", *ORIGIN), _meant)
    if "value" not in entries or entries["value"].empty():
        raise at.error(f"missing; {accepts(field)}", "value")
    return _single(entries["value"], field), _origin(entries, origin)


def _origin(entries: dict[str, Place], default: Origin | None) -> Origin:
    said = {} if default is None else dict(vars(default))
    for key, column in ORIGIN.items():
        if key in entries:
            said[column] = _single(entries[key], tables()["provenance"][column])
    return Origin(**said)


def _single(at: Place, field: Field) -> Any:
    """The value in the type of its column."""
    value = at.scalar()
    if isinstance(value, float) and field.type in ("INTEGER", "BIGINT") and value.is_integer():
        value = int(value)  # 2e9
    if value is None or (isinstance(value, str) and field.type == "VARCHAR" and not field.accepted):
        if value is None or value in SAYS_NOTHING:
            raise at.error(f"{at.shown()} says nothing; {accepts(field)}, or no such line")
        _fits(at, *PATTERNS.get(field.name, ("", "")))
    return _checked(at, field, value)


def _checked(at: Place, field: Field, value: Any) -> Any:
    try:
        return check_value(field, value)
    except DataError as error:
        near = get_close_matches(str(value), field.accepted, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise at.error(f"{short(value)}; {accepts(field)}{hint}") from error


def _name(at: Place, name: str) -> str:
    """The name of a data set, which stands as a key."""
    if name in SAYS_NOTHING:
        raise at.error("says nothing; a data set's name is accepted")
    _checked(at, tables()["datasets"]["name"], name)
    return name


def _fits(at: Place, pattern: str, accepted: str) -> None:
    value = at.scalar()
    if pattern and not (isinstance(value, str) and re.match(pattern, value) and "\n" not in value):
        raise at.error(f"{at.shown()}; {accepted}")


def _contribution(path: Path) -> Contribution:
    parsed = _parse(path)
    stem = parsed.id.replace("/", "__")
    if path.name != f"{stem}.yaml":
        raise DataError(f"{one_line(path)}: id: {short(parsed.id)}; a file named {stem}.yaml is accepted for it")
    folder = path.parent / stem
    there = {entry.name: entry for entry in _entries(folder)} if folder.is_dir() else {}
    named = [*([parsed.config] if parsed.config else []), *parsed.results]
    for at in named:
        if at.scalar() not in there or not there[str(at.scalar())].is_file():
            raise at.error(f"{at.shown()}: no such file; one in {one_line(folder)} is accepted")
    for name in sorted(there.keys() - {at.scalar() for at in named}):
        raise DataError(f"{one_line(there[name])}: nowhere named; {path.name} lists files under config: or results:")
    config = there[str(parsed.config.scalar())] if parsed.config else None
    results = sorted(there[str(at.scalar())] for at in parsed.results)
    return Contribution(path, parsed.id, parsed.records, config, tuple(results))


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted, without dot files and its README."""
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "README.md")
    except OSError as error:
        raise DataError(f"{one_line(folder)}: {error.strerror}; a folder that can be read is accepted") from error
    for path in found:
        if path.is_symlink():
            raise DataError(f"{one_line(path)}: a link; the file or folder itself is accepted")
    return found


@cache
def _fields(table: str) -> dict[str, Field]:
    """The columns a contributor fills in, by the key of the YAML."""
    fields = tables()[table].values()
    return {_spelled(field.name): field for field in fields if field.need != "key" and field.type != "JSON"}


def _spelled(column: str) -> str:
    """``pretraining_summary_percentage_web`` is ``web_pct``: the section says the rest."""
    column = column.removeprefix("pretraining_summary_")
    if column.startswith("percentage_"):
        return column.removeprefix("percentage_") + "_pct"
    return "partial" if column == "shares_partial" else column


def _meant(key: str, accepted: Collection[str]) -> str:
    """What was probably meant: a key of this place, one of another section, or else all there are."""
    near = get_close_matches(_spelled(key), accepted, n=1, cutoff=0.7)
    if not near:
        places = {**SECTIONS, "stages": "training_stages"}
        near = [f"{place}.{key}" for place, table in places.items() if key in _fields(table)]
    return f"did you mean {near[0]}?" if near else f"accepted are {', '.join(accepted)}"


def _block_schema(table: str, also: dict[str, Any]) -> dict[str, Any]:
    values = {key: {"description": field.description, **_value_schema(field)} for key, field in _fields(table).items()}
    return {"type": "object", "additionalProperties": False, "properties": {**values, **also}}


def _value_schema(field: Field) -> dict[str, Any]:
    plain = _plain_schema(field)
    return {"anyOf": [{"type": "null"}, plain, {"$ref": "#/$defs/stated", "properties": {"value": plain}}]}


def _plain_schema(field: Field) -> dict[str, Any]:
    if field.accepted:
        return {"enum": list(field.accepted)}
    if field.type == "BOOLEAN":
        return {"type": "boolean"}
    if field.type == "DATE":
        return {"type": "string", "format": "date", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
    if field.type == "VARCHAR":
        return {"$ref": "#/$defs/" + {"parent": "id"}.get(field.name, field.name if field.name in PATTERNS else "text")}
    high = field.high if field.high is not None else {"INTEGER": 2**31 - 1, "BIGINT": 2**63 - 1}.get(field.type)
    limits = {"minimum": field.low, "maximum": high}
    kind = "number" if field.type == "DOUBLE" else "integer"
    whole = {name: int(limit) if limit == int(limit) else limit for name, limit in limits.items() if limit is not None}
    return {"type": kind, **whole}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
