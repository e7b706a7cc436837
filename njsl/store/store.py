"""AnalysisStore: an export folder or a DuckDB file, opened read-only and held in memory."""

from __future__ import annotations

import ast
import csv
import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Self

from njsl.core.types import ConfigError, DataError, StoreError

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

    from njsl.core.config import StoreConfig

TABLES = ("model_annotations", "dataset_info", "evaluation_results")


@dataclass(frozen=True)
class AnalysisStore:
    """The three tables of the paper's kind, plus its two optional files.

    Nothing on disk is ever changed, and no SQL of the folder is executed: its ``schema.sql`` and ``load.sql`` mark it
    as an export, the columns and types are those of ``njsl/store/schema.sql``.

    Attributes:
        source: the folder or file it was read from.
        connection: DuckDB in memory, cut off from the file system.
        freegen: path of the free-generation features, a row per model, or None.
        selected: path of the features the paper selected per task, or None.
        published: the files were checked against the published checksums.
    """

    source: Path
    connection: duckdb.DuckDBPyConnection
    freegen: Path | None = None
    selected: Path | None = None
    published: bool = False

    @classmethod
    def from_existing(
        cls,
        path: str | Path,
        freegen: Path | None = None,
        selected: Path | None = None,
        *,
        published: bool = False,
    ) -> Self:
        """Open an export folder (``schema.sql``, ``load.sql``, a CSV per table) or a DuckDB file.

        Raises:
            StoreError: it is neither, a table or column is missing, a value has the wrong type, a row is cut short, a
                key stands twice, or a writer holds the file.
        """
        import duckdb

        path = Path(path).expanduser()
        connection = duckdb.connect(":memory:", config={"threads": "1"})
        connection.execute(files("njsl.store").joinpath("schema.sql").read_text())
        try:
            if path.is_dir():
                _load_folder(connection, path)
            elif path.is_file():
                _load_file(connection, path)
            else:
                raise StoreError(f"{path}: no such folder or file; an export folder or a DuckDB file is accepted")
        except duckdb.Error as error:
            raise StoreError(f"{path}: {_first_line(error)}") from error
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return cls(path, connection, freegen, selected, published)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def table(self, name: str) -> pd.DataFrame:
        """One of the three tables as it stands in the file, in the file's row order."""
        if name not in TABLES:
            raise StoreError(f"table {name!r}: accepted are {', '.join(TABLES)}")
        return self.connection.execute(f"SELECT * FROM {name} ORDER BY rowid").df()

    def freegen_features(self) -> pd.DataFrame:
        """Free-generation features, indexed by model id; columns as published.

        Raises:
            DataError: the store has none, or a column is not numeric.
        """
        import pandas as pd

        if self.freegen is None:
            raise DataError(
                f"{self.source}: free-generation features need the file "
                "performance_prediction/all_models_feature_stats_3_03_with_ratios.csv; with store=paper name the root "
                "of a clone of the paper's repository as store.path"
            )
        frame = pd.read_csv(self.freegen, index_col="id")
        for name in frame.columns:
            if frame[name].dtype.kind not in "fi":
                raise DataError(f"{self.freegen}: column {name!r} holds text; numbers are accepted")
        if frame.index.has_duplicates:
            raise DataError(f"{self.freegen}: id {frame.index[frame.index.duplicated()][0]!r} stands twice")
        return frame.astype("float64")

    def selected_features(self) -> dict[tuple[str, str], list[str]]:
        """The paper's feature list for each (task, setting), in its own order, under the database's column names.

        Raises:
            DataError: the store has none, or a list cannot be read.
        """
        if self.selected is None:
            raise DataError(
                f"{self.source}: features=selected needs the file "
                "performance_prediction/selected_feats/forward_generation_results_303.csv; with store=paper name the "
                "root of a clone of the paper's repository as store.path"
            )
        with self.selected.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        try:
            return {(row["task"], row["setting"]): list(ast.literal_eval(row["selected_features"])) for row in rows}
        except (KeyError, ValueError, SyntaxError, TypeError) as error:
            raise DataError(
                f"{self.selected}: columns task, setting and selected_features (a list of names) are accepted"
            ) from error

    @cached_property
    def sha256(self) -> str:
        """One checksum over everything the store was read from, independent of where it lies."""
        digest = hashlib.sha256()
        tables = [self.source / f"{name}.csv" for name in TABLES] if self.source.is_dir() else [self.source]
        for path in [*tables, self.freegen, self.selected]:
            digest.update(b"-" if path is None else hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def verify(self) -> pd.DataFrame:
        """What looks wrong, a row each: ``check, table, id, field, value, message``; see ``njsl.store.verify``."""
        from njsl.store.verify import findings

        return findings(self)


def open_store(config: StoreConfig) -> tuple[AnalysisStore, str]:
    """The store a config asks for, and a line that says where it was found.

    Raises:
        ConfigError: ``name=folder`` without a path.
        StoreError: see ``AnalysisStore.from_existing`` and ``njsl.store.paper.locate``.
    """
    if config.name == "paper":
        from njsl.store.paper import locate

        paper = locate(config.path)
        store = AnalysisStore.from_existing(paper.export, paper.freegen, paper.selected, published=True)
        return store, f"{paper.export} ({paper.way})"
    if config.path is None:
        raise ConfigError("store.path: a value is required with store=folder: an export folder or a DuckDB file")
    return AnalysisStore.from_existing(config.path), f"{config.path} (store.path, unchecked)"


def _load_folder(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    import duckdb

    missing = [
        name for name in ("schema.sql", "load.sql", *(f"{t}.csv" for t in TABLES)) if not (folder / name).exists()
    ]
    if missing:
        raise StoreError(f"{folder}: not an export folder, it lacks {', '.join(missing)}")
    for table in TABLES:
        path = folder / f"{table}.csv"
        try:
            _load_csv(connection, table, path)
        except duckdb.Error as error:
            raise StoreError(f"{path}: {_first_line(error)}") from error


def _load_csv(connection: duckdb.DuckDBPyConnection, table: str, path: Path) -> None:
    """Read everything as text first, so that a bad value is reported with its line, column and accepted type."""
    types = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE {table}").fetchall()}
    with path.open("rb") as file:
        header = file.readline().decode("utf-8", "replace").strip()
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
        f"CREATE TEMP TABLE text AS SELECT * FROM read_csv(?, header=true, delim=',', quote='\"', escape='\"', "
        f"columns={text}, nullstr='', null_padding=false, ignore_errors=false, parallel=false)",
        [str(path)],
    )
    for name, kind in types.items():
        wrong_type = f'TRY_CAST("{name}" AS {kind}) IS NULL'
        if kind in ("INTEGER", "BIGINT"):  # a cast would round 1.5 and say nothing
            wrong_type += f' OR TRY_CAST("{name}" AS DOUBLE) <> TRY_CAST("{name}" AS {kind})'
        bad = connection.execute(
            f'SELECT rowid, "{name}" FROM text WHERE "{name}" IS NOT NULL AND ({wrong_type}) ORDER BY rowid LIMIT 1'
        ).fetchone()
        if bad:
            raise StoreError(f"{path}: data row {bad[0] + 1}, column {name!r}: {bad[1]!r}; {kind} is accepted")
    connection.execute(f"INSERT INTO {table} SELECT * FROM text ORDER BY rowid")
    connection.execute("DROP TABLE text")


def _load_file(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    import duckdb

    try:
        connection.execute(f"ATTACH '{str(path).replace(chr(39), chr(39) * 2)}' AS source (READ_ONLY)")
    except duckdb.IOException as error:
        if "lock" in str(error).lower():
            raise StoreError(f"{path}: another process has it open for writing; close that, or export it") from error
        raise StoreError(f"{path}: not a DuckDB file this DuckDB can read: {_first_line(error)}") from error
    for table in TABLES:
        columns = ", ".join(f'"{name}"' for name, *_ in connection.execute(f"DESCRIBE {table}").fetchall())
        connection.execute(f"INSERT INTO {table} SELECT {columns} FROM source.{table} ORDER BY rowid")
    connection.execute("DETACH source")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
