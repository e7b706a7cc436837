"""Onto disk: a DuckDB file written beside and renamed, under a lock; an export folder; Parquet."""

from __future__ import annotations

import datetime
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from njsl.core.types import StoreError
from njsl.store import schema
from njsl.store.edit import Editor
from njsl.store.load import first_line, load, quoted, upgrade

if TYPE_CHECKING:
    import duckdb

CSV = "FORMAT 'csv', header true, delimiter ',', quote '\"', escape '\"', nullstr ''"


@contextmanager
def editing(path: Path, *, save: bool = True) -> Iterator[Editor]:
    """Change a database file: everything done in the block is saved at its end, or nothing is.

    The file is replaced whole, so readers see the old database until then, and a run that dies leaves it.

    Args:
        path: an existing DuckDB file, or a link to one, which stays a link; with a change, an older layout is brought
            to this one.
        save: False for a dry run.

    Raises:
        StoreError: it cannot be opened, another writer has it, or it cannot be written.
    """
    with _locked(path):
        path = path.resolve()
        connection, version = load(path)
        today = datetime.date.today()
        upgrade(connection, version, path.resolve().name, today)
        editor = Editor(connection, today)
        yield editor
        if save and editor.changed:
            editor.flush()
            _replace(connection, path)
        connection.close()


def create(path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    """Write a new database file from the tables in memory.

    Raises:
        StoreError: there is something already, or it cannot be written; the connection is closed then.
    """
    check_new(path)
    _replace(connection, path, new=True)


def check_new(path: Path) -> None:
    """That a database file can be made there.

    Raises:
        StoreError: there is something already.
    """
    if os.path.lexists(path):
        raise StoreError(f"{path}: exists; a new file is accepted")
    _no_journal(path)


def export(connection: duckdb.DuckDBPyConnection, tables: tuple[str, ...], folder: Path, kind: str = "csv") -> None:
    """Write an export folder as ``IMPORT DATABASE`` reads it: ``schema.sql``, ``load.sql``, a file per table.

    Rows keep their order, so the same database gives the same bytes.

    Args:
        connection: with the tables.
        tables: their names, those that are referred to first.
        folder: a new folder.
        kind: ``csv`` (which AnalysisStore reads again) or ``parquet``.

    Raises:
        StoreError: the folder exists, or cannot be written.
    """
    import duckdb

    options = "FORMAT 'parquet'" if kind == "parquet" else CSV
    if os.path.lexists(folder):
        raise StoreError(f"{folder}: exists; a new folder is accepted")
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for table in tables:
            target = quoted(beside / f"{table}.{kind}")
            connection.execute(f"COPY (SELECT * FROM {table} ORDER BY rowid) TO {target} ({options})")
        (beside / "schema.sql").write_text(schema.ddl() + "\n", encoding="utf-8")
        lines = [f"COPY {table} FROM '{table}.{kind}' ({options});\n" for table in tables]
        (beside / "load.sql").write_text("".join(lines), encoding="utf-8")
        beside.rename(folder)
    except (OSError, duckdb.Error) as error:
        raise StoreError(f"{folder}: cannot be written: {first_line(error)}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time. The lock is on the file itself, which a writer replaces: so look again once it is held."""
    while True:
        try:
            if not path.is_file():  # opening a pipe would wait for its writer
                raise FileNotFoundError(errno.ENOENT, "no such file")
            file = path.open("rb")
        except OSError as error:
            raise StoreError(
                f"{path}: {error.strerror}; a database file is accepted: python -m njsl.store create {path}"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(f"{path}: another process is changing it; try again when that is done") from error
            try:
                same = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                same = False
            if same:
                _no_journal(path.resolve())
                for left in _parts(path.resolve()):  # of writers that were killed: the lock is ours
                    left.unlink(missing_ok=True)
                yield
                return


def _parts(path: Path, pid: str = "[0-9]+") -> list[Path]:
    """What writers of this very database left beside it; another's name may begin or end like it."""
    name = re.compile(rf"\.{re.escape(path.name)}\.{pid}\.part(\.wal)?")
    return [found for found in path.parent.iterdir() if name.fullmatch(found.name)]


def _no_journal(path: Path) -> None:
    """DuckDB reads a journal beside a database as part of it, and refuses a database that it does not fit."""
    journal = path.with_name(f"{path.name}.wal")
    if os.path.lexists(journal):
        raise StoreError(
            f"{journal}: changes by DuckDB that are not in the database yet; open and close it with DuckDB, then try "
            "again"
        )


def _replace(connection: duckdb.DuckDBPyConnection, path: Path, *, new: bool = False) -> None:
    import duckdb

    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            _write(connection, beside)
            if new:
                os.link(beside, path)  # fails where another writer was first
            else:
                shutil.copymode(path, beside)
                beside.replace(path)
        finally:
            for left in (beside, beside.with_name(f"{beside.name}.wal")):
                left.unlink(missing_ok=True)
    except (OSError, duckdb.Error) as error:
        raise StoreError(f"{path}: cannot be written, nothing is changed: {first_line(error)}") from error


def _write(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """All tables into a new file, which is on the disk when this returns."""
    try:
        connection.execute(f"ATTACH {quoted(path)} AS target")
        connection.execute("BEGIN")
        connection.execute("USE target")
        connection.execute(schema.ddl())
        connection.execute("USE memory")
        for table in schema.tables():
            connection.execute(f"INSERT INTO target.{table} SELECT * FROM memory.{table} ORDER BY rowid")
        connection.execute("COMMIT")
        connection.execute("CHECKPOINT target")
        connection.execute("DETACH target")
    except BaseException:
        connection.close()  # lets go of the file; a transaction that failed allows nothing else
        raise
    with path.open("rb") as file:
        os.fsync(file.fileno())
