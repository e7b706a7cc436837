"""Change a database: compare what an importer brings with what is there, apply it, keep what was replaced.

A change is made in memory and saved whole (``njsl.store.save``), so a file is always the old or the new database.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from njsl.core.types import DataError, StoreError
from njsl.store import schema
from njsl.store.load import first_line
from njsl.store.records import Origin, Records, row_key, shown_key

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]
Key = tuple[Any, ...]

# Of a score or a feature, the fields that say what was measured; the rest say how, and fill gaps without a conflict.
MEASURED = {"evaluation_results": ("metric_value", "metric_stderr"), "model_features": ("value",)}
TOLERANCE = 1e-9  # relative: values written with other digits are equal
RULES = ("keep", "replace")


@dataclass(frozen=True)
class Conflict:
    """A value that differs from the one in the database."""

    table: str
    key: str
    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{shown_key(self.table, self.key)} {self.field}: {_text(self.old)} there, {_text(self.new)} here"


@dataclass
class Outcome:
    """What became of one source.

    Attributes:
        added: what was not there: table, row and the fields that are new; none of them for a bare row.
        equal: how many values were there already.
        conflicts: values that differ; under ``keep`` and ``replace`` they are settled.
        reason: why the source was refused, or None.
        left_out: what the importer left out of it.
    """

    added: list[tuple[str, Row, list[str]]] = field(default_factory=list)
    equal: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    reason: str | None = None
    left_out: list[str] = field(default_factory=list)

    @property
    def new(self) -> int:
        """How many values were not there; a bare row counts as one."""
        return sum(max(1, len(names)) for _, _, names in self.added)


class Editor:
    """A loaded database that takes records.

    Args:
        connection: DuckDB in memory with the tables of this layout.
        today: the day that history and provenance name.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, today: datetime.date) -> None:
        self.connection = connection
        self.today = today
        self._rows: dict[str, dict[Key, Row]] = {}  # by table: what was looked up, with the changes so far
        self._there: dict[str, set[Key]] = {}  # by table: the keys that were looked up and found
        self._touched: dict[str, dict[Key, None]] = {}  # in the order of arrival
        self._loaded: set[str] = set()
        self._known = {name for (name,) in connection.execute("SELECT id FROM models").fetchall()}
        self._aliases: dict[tuple[str, str], str] = {
            (kind, alias): name
            for kind, alias, name in connection.execute("SELECT kind, alias, name FROM aliases").fetchall()
        }

    def add(self, records: Iterable[Records], rule: str | None = None) -> Iterator[Outcome]:
        """Take each source whole, or refuse it whole.

        Args:
            records: one per source; a later one is compared with what the earlier ones brought.
            rule: what becomes of a value that differs: None refuses the source, ``keep`` leaves what is there,
                ``replace`` takes the new one and keeps the old one in ``history``.
        """
        sources = list(records)
        self._look_up(
            {str(row["id"]) for source in sources for rows in source.tables.values() for row in rows if "id" in row}
        )
        for source in sources:
            try:
                yield self._add(source, rule)
            except DataError as error:
                yield Outcome(reason=str(error), left_out=source.left_out)

    def _add(self, source: Records, rule: str | None) -> Outcome:
        outcome = Outcome(left_out=source.left_out)
        tables = self._whole(source)
        pending: dict[str, dict[Key, Row]] = {}
        for table, rows in tables.items():
            of_table = pending.setdefault(table, {})
            for row in rows:
                key = tuple(row.get(name) for name in schema.keys(table))
                if key in of_table:
                    raise DataError(f"{table} {row_key(*key)}: stands twice in the source")
                merged, conflicts = _merge(table, self._rows[table].get(key), row, rule, outcome)
                schema.check_whole(table, merged)
                outcome.conflicts += conflicts
                of_table[key] = merged
        if outcome.conflicts and rule is None:
            outcome.reason = (
                f"{differing(len(outcome.conflicts))} from the database's, the first at {outcome.conflicts[0]}; "
                "accepted: --on-conflict=keep or --on-conflict=replace"
            )
            return outcome
        replaced = list(self._lost(pending)) if rule == "replace" else []
        places = {(old.table, old.key, old.field) for old in replaced}
        origins = dict(self._origins(source, tables, pending, places))  # may refuse, so before anything is put
        for table, rows_by_key in [*pending.items(), ("provenance", origins)]:
            for key, row in rows_by_key.items():
                if row != self._rows[table].get(key):
                    self._put(table, key, row)
        self._note_history(replaced, source.source)
        return outcome

    def alias(self, kind: str, alias: str, name: str, rule: str | None = None) -> Outcome:
        """From now on ``alias`` means ``name``; rows that stand under it move, with the same rule for conflicts.

        Raises:
            DataError: an unknown kind, a name that is itself an alias, or a model ``name`` nobody knows.
        """
        given = schema.check_row("aliases", {"kind": kind, "alias": alias, "name": name})
        pairs = [pair for (of, *_), pair in zip(self._aliases, self._aliases.items(), strict=True) if of == kind]
        if any(old == name for (_, old), _ in pairs) or any(new == alias for _, new in pairs):
            raise DataError(f"aliases: {kind}: {alias!r} has aliases itself, or {name!r} is one; one step is accepted")
        if alias == name:
            raise DataError(f"aliases: {kind} {alias!r}: another name is accepted")
        if kind == "model" and name not in self._known and alias not in self._known:
            raise DataError(f"aliases: neither {alias!r} nor {name!r} is a model of this database")
        meant = self._aliases.get((kind, alias), name)
        if meant != name and rule != "replace":
            raise DataError(f"aliases: {kind} {alias!r} is {meant!r} already; accepted: --on-conflict=replace")
        children = self.connection.execute("SELECT id FROM models WHERE parent = ?", [alias]).fetchall()
        self._look_up({alias, name, *(child for (child,) in children)} if kind == "model" else self._known)
        column = "id" if kind == "model" else "benchmark"
        moved = Records({}, None)
        gone: list[tuple[str, Key]] = []
        for table, fields in schema.tables().items():
            for key, there in self._rows[table].items() if column in fields else ():
                if there[column] == alias:
                    moved.tables.setdefault(table, []).append({**there, column: name})
                    gone.append((table, key))
        for place, row in self._rows["provenance"].items():
            first, *rest = place[1].split("#")
            if kind == "model" and first == alias and "id" in schema.tables()[place[0]]:  # not a data set of that name
                origin = Origin(row["source"], row["stated_on"], row["confidence"])
                moved.origins[place[0], row_key(name, *rest), place[2]] = origin
                gone.append(("provenance", place))
        outcome = self._add(moved, rule)
        if outcome.reason is None:
            self._aliases[kind, alias] = name
            if self._rows["aliases"].get((kind, alias)) != given:
                self._put("aliases", (kind, alias), given)
            if rule == "keep":  # what stood under the alias goes
                lost = [Conflict(old.table, old.key, old.field, old.new, old.old) for old in outcome.conflicts]
                self._note_history(lost, f"{kind} {alias}")
            if meant != name:
                self._note_history([Conflict("aliases", row_key(kind, alias), "name", meant, name)], None)
            for table, key in gone:
                self._remove(table, key)
            for key, row in list(self._rows["models"].items()) if kind == "model" else ():
                if row.get("parent") == alias:
                    self._put("models", key, {**row, "parent": name})
            self._known -= {alias} if kind == "model" else set()
        return outcome

    def flush(self) -> None:
        """Write all changes into the connection's tables.

        Raises:
            StoreError: a rule of the layout is broken after all.
        """
        import duckdb

        try:
            for table in reversed(schema.tables()):  # what refers to a row goes before it
                gone = [key for key in self._touched.get(table, ()) if key not in self._rows[table]]
                if gone:
                    names = schema.keys(table)
                    self._stage(table, {name: [key[i] for key in gone] for i, name in enumerate(names)})
                    self.connection.execute(f"DELETE FROM {table} AS old USING staged WHERE {_same_key(table)}")
            for table, fields in schema.tables().items():
                if table not in self._touched:
                    continue
                there, rows = self._there[table], self._rows[table]
                touched = [key for key in self._touched[table] if key in rows]
                cast = {name: f"CAST(staged.{name} AS {field.type})" for name, field in fields.items()}
                values = ", ".join(f"{name} = {cast[name]}" for name in fields if name not in schema.keys(table))
                changed = [rows[key] for key in touched if key in there]
                if changed and values:
                    self._stage(table, {name: [row.get(name) for row in changed] for name in fields})
                    self.connection.execute(f"UPDATE {table} AS old SET {values} FROM staged WHERE {_same_key(table)}")
                new = [rows[key] for key in touched if key not in there]
                if new:
                    self._stage(table, {name: [row.get(name) for row in new] for name in fields})
                    self.connection.execute(f"INSERT INTO {table} SELECT {', '.join(cast.values())} FROM staged")
        except duckdb.Error as error:
            raise StoreError(first_line(error)) from error
        for table, keys in self._touched.items():
            self._there[table] = self._there[table].difference(keys).union(self._rows[table].keys() & keys.keys())
        self._touched.clear()

    def _stage(self, table: str, columns: dict[str, list[Any]]) -> None:
        import pyarrow as pa

        arrays = {}
        for name, values in columns.items():
            kind = getattr(pa, _ARROW[schema.tables()[table][name].type])()
            same = all(value is values[0] for value in values)  # as much of how a file's scores came about is
            arrays[name] = pa.repeat(pa.scalar(values[0], kind), len(values)) if same else pa.array(values, kind)
        self.connection.register("staged", pa.table(arrays))

    @property
    def changed(self) -> bool:
        """Whether anything is to be saved."""
        return bool(self._touched)

    def _whole(self, source: Records) -> dict[str, list[Row]]:
        """The source's rows, checked, under this database's spellings; and the bare rows they refer to."""
        unknown = source.tables.keys() - schema.tables().keys()
        if unknown:
            raise DataError(f"{min(unknown)}: no table; accepted: {', '.join(schema.tables())}")
        tables = {
            table: [self._named(table, _said(row) if source.checked else schema.check_row(table, row)) for row in rows]
            for table, rows in source.tables.items()
        }
        told = {row.get("id") for row in tables.get("models", [])}
        for name in dict.fromkeys(row["id"] for rows in tables.values() for row in rows if "id" in row):
            if name not in self._known and name.startswith("/"):
                raise DataError(
                    f"{name!a}: a file's path is no model's name; accepted: --id OWNER/NAME, or an alias "
                    "(python -m njsl.store alias)"
                )
            if name not in told and name not in self._known:
                tables.setdefault("models", []).append({"id": name})
        stages = {(row.get("id"), row.get("stage")) for row in tables.get("training_stages", [])}
        for stage in dict.fromkeys((row.get("id"), row.get("stage")) for row in tables.get("stage_datasets", [])):
            if stage not in stages and stage not in self._rows["training_stages"]:
                tables.setdefault("training_stages", []).append({"id": stage[0], "stage": stage[1]})
        listed = {row.get("name") for row in tables.get("datasets", [])} | {key[0] for key in self._rows["datasets"]}
        for name in dict.fromkeys(row.get("dataset") for row in tables.get("stage_datasets", [])):
            if name not in listed:
                tables.setdefault("datasets", []).append({"name": name})
        return {table: tables[table] for table in schema.tables() if table in tables}

    def _named(self, table: str, row: Row) -> Row:
        """The row under this database's spellings; keys that a source may leave open are filled."""
        if "id" in row:
            row["id"] = self._aliases.get(("model", row["id"]), row["id"])
        if "parent" in row:
            row["parent"] = self._aliases.get(("model", row["parent"]), row["parent"])
        if table == "evaluation_results":
            if "benchmark" in row:
                row["benchmark"] = self._aliases.get(("benchmark", row["benchmark"]), row["benchmark"])
            row.setdefault("task_version", schema.UNRECORDED)
            row.setdefault("prompt", schema.UNRECORDED)
        return row

    def _look_up(self, ids: set[Any]) -> None:
        """Read the rows that a change may meet: all of small tables, those of the models in question of others."""
        wanted = sorted({str(name) for name in ids} | {self._aliases.get(("model", str(name)), "") for name in ids})
        wanted = [name for name in wanted if name not in self._loaded]
        self._loaded.update(wanted)
        for table, fields in schema.tables().items():
            by_id = "id" in fields
            if table in self._rows and not (by_id and wanted):
                continue
            where = " WHERE id IN (SELECT unnest(?))" if by_id else ""
            answer = self.connection.execute(
                f"SELECT * FROM {table}{where} ORDER BY rowid", [wanted] if by_id else None
            )
            names = list(fields)
            keys = [names.index(name) for name in schema.keys(table)]
            rows, there = self._rows.setdefault(table, {}), self._there.setdefault(table, set())
            for values in answer.fetchall():
                key = tuple(values[i] for i in keys)
                rows[key] = dict(zip(names, values, strict=True))
                there.add(key)

    def _put(self, table: str, key: Key, row: Row) -> None:
        self._rows[table][key] = row
        self._touched.setdefault(table, {})[key] = None
        if table == "models":
            self._known.add(key[0])

    def _remove(self, table: str, key: Key) -> None:
        del self._rows[table][key]
        self._touched.setdefault(table, {})[key] = None

    def _origins(
        self,
        source: Records,
        tables: Mapping[str, list[Row]],
        pending: Mapping[str, Mapping[Key, Row]],
        replaced: set[tuple[str, str, str]],
    ) -> Iterator[tuple[Key, Row]]:
        """Where the values came from that will stand as this source gave them, and had no origin or another value."""
        own = {}  # origins of single values, under this database's spellings
        for (table, text, name), said_by in source.origins.items():
            first, sign, rest = text.partition("#")
            first = self._aliases.get(("model", first), first) if "id" in schema.tables()[table] else first
            own[table, first + sign + rest, name] = said_by
        for table, rows in tables.items():
            if table in MEASURED or table == "aliases":
                continue
            keys = schema.keys(table)
            for row in rows:
                key = tuple(row[name] for name in keys)
                for name, value in row.items():
                    place = (table, row_key(*key), name)
                    origin = own.get(place, source.origin)
                    said = name not in keys and (value or name not in schema.flags(table))
                    stands = said and _equal(pending[table][key].get(name), value)
                    if stands and origin and (place not in self._rows["provenance"] or place in replaced):
                        values = (*place, origin.source, origin.stated_on, origin.confidence)
                        entry = dict(zip(schema.tables()["provenance"], values, strict=True))
                        yield place, schema.check_row("provenance", entry)

    def _lost(self, pending: Mapping[str, Mapping[Key, Row]]) -> Iterator[Conflict]:
        """The values that a change takes away: those that differ, and with a measurement its circumstances."""
        for table, rows in pending.items():
            for key, row in rows.items():
                there = self._rows[table].get(key, {})
                for name in schema.facts(table):
                    old, new = there.get(name), row.get(name)
                    if old is not None and name not in schema.flags(table) and not _equal(old, new):
                        yield Conflict(table, row_key(*key), name, old, new)

    def _note_history(self, replaced: list[Conflict], source: str | None) -> None:
        last = max((key[0] for key in self._rows["history"]), default=0)
        for number, old in enumerate(replaced, last + 1):
            row = {
                "number": number,
                "subject": old.table,
                "row_key": old.key,
                "field": old.field,
                "old": _text(old.old),
                "new": _text(old.new),
                "source": source,
                "replaced_on": self.today,
            }
            self._put("history", (number,), row)


def _merge(table: str, there: Row | None, row: Row, rule: str | None, outcome: Outcome) -> tuple[Row, list[Conflict]]:
    """What a row becomes, and the values that differ; ``there`` is not changed."""
    keys = schema.keys(table)
    if there is None:
        told = MEASURED[table] if table in MEASURED else schema.facts(table)
        outcome.added.append((table, row, [name for name in told if name in row]))
        return _settled(table, row), []
    given = {name: value for name, value in row.items() if name not in keys}
    flags = schema.flags(table)
    measured = MEASURED.get(table) or [name for name in given if name not in flags]
    text = row_key(*(row[name] for name in keys))
    differ = [
        Conflict(table, text, name, there[name], given[name])
        for name in measured
        if name in given and there.get(name) is not None and not _equal(there[name], given[name])
    ]
    if table in MEASURED and differ:  # another measurement: its value, its error and its circumstances go together
        return (_settled(table, {**dict.fromkeys(there), **row}) if rule == "replace" else there), differ
    merged = dict(there)
    new = [name for name in given if there.get(name) is None]
    merged |= {name: given[name] for name in new}
    if any(name in measured for name in new):
        outcome.added.append((table, merged, [name for name in new if name in measured]))
    outcome.equal += sum(name in given and there.get(name) is not None for name in measured) - len(differ)
    if rule == "replace":
        merged |= {conflict.field: conflict.new for conflict in differ}
    if table not in MEASURED:
        merged |= {name: there[name] or given.get(name, False) for name in flags}
    return _settled(table, merged), differ


def _said(row: Row) -> Row:
    """A row of its own without the fields that say nothing, as ``check_row`` gives it."""
    return {name: value for name, value in row.items() if value is not None}


def _settled(table: str, row: Row) -> Row:
    """Flags have no third state, and shares that have become whole are partial no more."""
    for name in schema.flags(table):
        row[name] = bool(row.get(name)) and not (name == "shares_partial" and schema.shares_are_whole(table, row))
    return row


def _same_key(table: str) -> str:
    return " AND ".join(f"old.{name} = staged.{name}" for name in schema.keys(table))


def differing(count: int) -> str:
    """How many values differ, in words."""
    return "1 value differs" if count == 1 else f"{count} values differ"


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=1e-12)
    return bool(old == new)


def _text(value: Any) -> str | None:
    return None if value is None else f"{value!r}" if isinstance(value, float) else str(value)


_ARROW = {
    "VARCHAR": "string",
    "JSON": "string",
    "INTEGER": "int32",
    "BIGINT": "int64",
    "DOUBLE": "float64",
    "BOOLEAN": "bool_",
    "DATE": "date32",
}
