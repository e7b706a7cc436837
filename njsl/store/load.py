"""Into memory: an export folder or a DuckDB file of any version so far; nothing of it is executed or changed."""

from __future__ import annotations

import csv
import datetime
import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from njsl.core.types import StoreError
from njsl.store import schema

if TYPE_CHECKING:
    import duckdb

PUBLISHED = ("model_annotations", "dataset_info", "evaluation_results")  # version 1: the paper's tables


def load(path: Path) -> tuple[duckdb.DuckDBPyConnection, int]:
    """A DuckDB in memory with the tables of an export folder or a file, rows in their order, and its version.

    Raises:
        StoreError: it is neither, it is newer than this code, a table or column is missing, a value has the wrong type,
            a row is cut short, a key stands twice, a rule of the layout is broken, or a writer holds the file.
    """
    import duckdb

    connection = duckdb.connect(
        ":memory:",  # no extension may be fetched or loaded because a file is of another format
        config={"threads": "1", "autoinstall_known_extensions": "false", "autoload_known_extensions": "false"},
    )
    try:
        if path.is_dir():
            version = _load_folder(connection, path)
        elif path.is_file():
            version = _load_file(connection, path)
        else:
            raise StoreError(f"{path}: no such folder or file; an export folder or a DuckDB file is accepted")
    except (OSError, duckdb.Error) as error:
        raise StoreError(f"{path}: {first_line(error)}") from error
    return connection, version


def empty() -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory with the tables of this layout, without rows."""
    import duckdb

    connection = duckdb.connect(":memory:", config={"threads": "1"})
    connection.execute(schema.ddl())
    connection.execute(f"INSERT INTO schema_version VALUES ({schema.VERSION})")
    return connection


def upgrade(connection: duckdb.DuckDBPyConnection, version: int, source: str, stated_on: datetime.date) -> None:
    """Bring a loaded database to this code's version, in memory.

    Args:
        connection: as ``load`` gives it.
        version: of its layout.
        source: what the values of version 1, which has no provenance, are said to come from.
        stated_on: and since when.

    Raises:
        StoreError: its values break a rule of the newer layout.
    """
    import duckdb

    if version == schema.VERSION:
        return
    try:
        connection.execute("CREATE SCHEMA old")
        for table in PUBLISHED:  # a primary key does not move between schemas, but rows do
            connection.execute(f"CREATE TABLE old.{table} AS SELECT * FROM {table} ORDER BY rowid")
            connection.execute(f"DROP TABLE {table}")
        connection.execute(schema.ddl())
        connection.execute(files("njsl.store").joinpath("upgrade_1_to_2.sql").read_text(encoding="utf-8"))
        connection.execute("DROP SCHEMA old CASCADE")
        for table in ("model_annotations", "dataset_info"):
            for name in [name for name in schema.facts(table) if name not in schema.flags(table)]:
                connection.execute(
                    f"INSERT INTO provenance SELECT '{table}', id, '{name}', ?, ?, 'reported' FROM {table} "
                    f"WHERE {name} IS NOT NULL",
                    [source, stated_on],
                )
        connection.execute("UPDATE evaluation_results SET source = ?", [source])
    except duckdb.Error as error:
        raise StoreError(f"version 1 to {schema.VERSION}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of a DuckDB message."""
    return str(error).strip().splitlines()[0]


def quoted(path: Path) -> str:
    """A path as DuckDB's SQL writes it.

    Raises:
        StoreError: it is no UTF-8, which is all that DuckDB takes.
    """
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"{text!a}: not UTF-8; a path in UTF-8 is accepted") from error
    return "'" + text.replace("'", "''") + "'"


def _load_folder(connection: duckdb.DuckDBPyConnection, folder: Path) -> int:
    import duckdb

    version = _folder_version(folder)
    names = PUBLISHED if version == 1 else tuple(schema.tables())
    missing = [
        name for name in ("schema.sql", "load.sql", *(f"{t}.csv" for t in names)) if not (folder / name).exists()
    ]
    if missing:
        raise StoreError(f"{folder}: not an export folder, it lacks {', '.join(missing)}")
    connection.execute(_layout(version))
    for table in names:
        path = folder / f"{table}.csv"
        try:
            _load_csv(connection, table, path)
        except duckdb.Error as error:
            raise StoreError(f"{path}: {first_line(error)}") from error
    return version


def _layout(version: int) -> str:
    return files("njsl.store").joinpath("schema_1.sql").read_text(encoding="utf-8") if version == 1 else schema.ddl()


def _folder_version(folder: Path) -> int:
    path = folder / "schema_version.csv"
    if not path.exists():
        return 1
    with path.open(encoding="utf-8", errors="replace") as file:
        rows = file.read(100).split()
    if len(rows) != 2 or not re.fullmatch("[0-9]{1,9}", rows[1]):
        raise StoreError(f"{path}: a header and one whole number are accepted")
    return _known(path, int(rows[1]))


def _known(path: Path, version: int) -> int:
    if not 1 <= version <= schema.VERSION:
        raise StoreError(
            f"{path}: layout version {version}, written by a newer njsl; versions up to {schema.VERSION} are accepted: "
            "update njsl"
        )
    return version


def _load_csv(connection: duckdb.DuckDBPyConnection, table: str, path: Path) -> None:
    """Read everything as text first, so that a bad value is reported with its line, column and accepted type."""
    types = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE {table}").fetchall()}
    with path.open("rb") as file:
        header = file.readline(100_000).decode("utf-8", "replace").strip()
        file.seek(0, 2)
        if file.tell() == 0:
            raise StoreError(f"{path}: empty; the header {','.join(types)} and a row per line are accepted")
        file.seek(-1, 2)
        if file.read(1) != b"\n":
            raise StoreError(f"{path}: ends in the middle of a line (truncated); fetch or export it again")
    found = next(csv.reader([header]))
    if found != list(types):
        wrong = [name for name in types if name not in found] or [name for name in found if name not in types] or found
        raise StoreError(f"{path}: column {wrong[0]!r} is missing, unknown or misplaced; accepted: {','.join(types)}")
    text = dict.fromkeys(types, "VARCHAR")
    connection.execute(
        f"CREATE TEMP TABLE text AS SELECT * FROM read_csv({quoted(path)}, columns={text}, header=true, "
        "delim=',', quote='\"', escape='\"', nullstr='', null_padding=false, ignore_errors=false, parallel=false)"
    )
    bad = {name: _wrong_type(name, kind) for name, kind in types.items() if kind != "VARCHAR"}
    if bad and connection.execute(f"SELECT count(*) FROM text WHERE {' OR '.join(bad.values())}").fetchall()[0][0]:
        for name, rule in bad.items():
            rows = connection.execute(
                f'SELECT rowid, "{name}" FROM text WHERE {rule} ORDER BY rowid LIMIT 1'
            ).fetchall()
            for place, value in rows:
                raise StoreError(f"{path}: data row {place + 1}, column {name!r}: {value!r}; {types[name]} is accepted")
    connection.execute(f"INSERT INTO {table} SELECT * FROM text ORDER BY rowid")
    connection.execute("DROP TABLE text")


def _wrong_type(name: str, kind: str) -> str:
    rule = f'TRY_CAST("{name}" AS {kind}) IS NULL'
    if kind in ("INTEGER", "BIGINT"):  # a cast would round 1.5 and say nothing
        rule += f' OR TRY_CAST("{name}" AS DOUBLE) <> TRY_CAST("{name}" AS {kind})'
    return f'("{name}" IS NOT NULL AND ({rule}))'


def _load_file(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    import duckdb

    try:
        connection.execute(f"ATTACH {quoted(path)} AS source (READ_ONLY, TYPE duckdb)")
    except duckdb.IOException as error:
        if "lock" in str(error).lower():
            raise StoreError(f"{path}: another process has it open for writing; close that, or export it") from error
        raise StoreError(f"{path}: not a DuckDB file this DuckDB can read: {first_line(error)}") from error
    found = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'source' AND schema_name = 'main'"
    there = {name for (name,) in connection.execute(found).fetchall()}  # no views: reading one would execute it
    version = 1
    if "schema_version" in there:
        rows = connection.execute("SELECT version FROM source.schema_version LIMIT 2").fetchall()
        if len(rows) != 1 or not isinstance(rows[0][0], int):
            raise StoreError(f"{path}: table schema_version: one row with a whole number is accepted")
        version = _known(path, rows[0][0])
    missing = [name for name in (PUBLISHED if version == 1 else schema.tables()) if name not in there]
    if missing:
        raise StoreError(f"{path}: no table {', '.join(missing)}; a database of these tables is accepted")
    if version == 1:
        connection.execute(_layout(1))
        for table in PUBLISHED:
            columns = ", ".join(f'"{name}"' for name, *_ in connection.execute(f"DESCRIBE {table}").fetchall())
            connection.execute(f"INSERT INTO {table} SELECT {columns} FROM source.{table} ORDER BY rowid")
    else:  # the file holds the rules itself; checking them again on every look would take most of the time
        for table, fields in schema.tables().items():
            columns = ", ".join(f"CAST({name} AS {field.type}) AS {name}" for name, field in fields.items())
            connection.execute(f"CREATE TABLE {table} AS SELECT {columns} FROM source.{table} ORDER BY rowid")
    connection.execute("DETACH source")
    return version
