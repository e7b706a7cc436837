"""Onto disk: a DuckDB file or an export folder, written beside and put in its place, under a lock; Parquet."""

from __future__ import annotations

import ctypes
import datetime
import errno
import fcntl
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from njsl.core.types import StoreError
from njsl.store import schema
from njsl.store.edit import Editor
from njsl.store.load import empty, first_line, load, quoted, upgrade

if TYPE_CHECKING:
    import duckdb

_WAIT_SEC = (0.05, 0.5)  # between looks at a database that another process is changing: drawn, so that many take turns
CSV = "FORMAT 'csv', header true, delimiter ',', quote '\"', escape '\"', nullstr ''"


@contextmanager
def editing(path: Path, *, save: bool = True, patience_sec: float = 0.0) -> Iterator[Editor]:
    """Change a database: everything done in the block is saved at its end, or nothing is.

    It is replaced whole, so readers see the old database until then, and a run that dies leaves it.

    Args:
        path: an existing DuckDB file, or a link to one, which stays a link; with a change, an older layout is brought
            to this one. Or an export folder of this layout that holds nothing else.
        save: False for a dry run.
        patience_sec: so long it waits for another writer.

    Raises:
        StoreError: it cannot be opened, another writer has it, or it cannot be written.
    """
    with _locked(path, patience_sec):
        path = path.resolve()
        if path.is_dir():
            _check_folder(path)
        connection, version = load(path)
        today = datetime.date.today()
        upgrade(connection, version, path.resolve().name, today)
        editor = Editor(connection, today)
        yield editor
        if save and editor.changed:
            editor.flush()
            (_replace_folder if path.is_dir() else _replace)(connection, path)
        connection.close()


def ensure(path: Path) -> None:
    """Make an empty database where there is none: a DuckDB file if its name ends in ``.duckdb``, else an export folder.

    Raises:
        StoreError: it cannot be made.
    """
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with empty() as connection:
            if path.suffix == ".duckdb":
                create(path, connection)
            else:
                export(connection, tuple(schema.tables()), path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be made: {first_line(error)}") from error
    except StoreError:
        if not path.exists():  # else another process was first
            raise


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
    if os.path.lexists(folder):
        raise StoreError(f"{folder}: exists; a new folder is accepted")
    with _exported(connection, tables, folder, kind) as beside:
        beside.rename(folder)


@contextmanager
def _locked(path: Path, patience_sec: float) -> Iterator[None]:
    """One writer at a time. The lock is on the database, which a writer replaces: so look again once it is held."""
    until = time.monotonic() + patience_sec
    while True:
        try:
            if not (path.is_file() or (path / "load.sql").is_file()):  # opening a pipe would wait for its writer
                raise FileNotFoundError(errno.ENOENT, "no such file or export folder")
            handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise StoreError(
                f"{path}: {error.strerror}; a database file is accepted: python -m njsl.store create {path}"
            ) from error
        try:
            if not _taken(handle):
                if time.monotonic() >= until:
                    raise StoreError(f"{path}: another process is changing it; try again when that is done")
                time.sleep(random.SystemRandom().uniform(*_WAIT_SEC))
            elif _is(handle, path):
                _no_journal(path.resolve())
                for left in _parts(path.resolve()):  # of writers that were killed: the lock is ours
                    _remove(left)
                yield
                return
        finally:
            os.close(handle)


def _taken(handle: int) -> bool:
    """Whether the lock could be had."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(handle: int, path: Path) -> bool:
    """Whether what was opened still stands there."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _check_folder(folder: Path) -> None:
    """That nothing is lost when an export folder is replaced by one."""
    if (folder / "model_annotations.csv").exists() and not (folder / "schema_version.csv").exists():
        raise StoreError(
            f"{folder}: layout version 1 stays as it is; python -m njsl.store create FILE --from {folder} makes a "
            "database that can be changed"
        )
    ours = {"schema.sql", "load.sql", *(f"{table}.csv" for table in schema.tables())}
    strangers = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours)
    if strangers:
        raise StoreError(f"{folder}: {strangers[0]!a} is no part of an export folder; a folder of its own is accepted")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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


@contextmanager
def _exported(
    connection: duckdb.DuckDBPyConnection, tables: tuple[str, ...], folder: Path, kind: str
) -> Iterator[Path]:
    """An export folder beside its place, to be put there in the block; what lies beside at its end is removed."""
    import duckdb

    options = "FORMAT 'parquet'" if kind == "parquet" else CSV
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
        yield beside
    except (OSError, duckdb.Error) as error:
        raise StoreError(f"{folder}: cannot be written: {first_line(error)}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _replace_folder(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    with _exported(connection, tuple(schema.tables()), folder, "csv") as beside:
        shutil.copymode(folder, beside)
        _exchange(beside, folder)


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step: a rename does not replace a folder that holds something.

    Raises:
        OSError: the system or the file system has no such step.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renameat2"):  # Linux: AT_FDCWD is -100, RENAME_EXCHANGE 2
        failed = libc.renameat2(-100, names[0], -100, names[1], 2)
    elif hasattr(libc, "renamex_np"):  # macOS: RENAME_SWAP is 2
        failed = libc.renamex_np(*names, 2)
    else:
        raise OSError(errno.ENOTSUP, f"{sys.platform} cannot swap folders; a name that ends in .duckdb is accepted")
    if failed:
        why = os.strerror(ctypes.get_errno())
        raise OSError(
            ctypes.get_errno(), f"folders cannot be swapped here ({why}); a name that ends in .duckdb is accepted"
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
