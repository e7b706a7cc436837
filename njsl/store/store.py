"""AnalysisStore: an export folder or a DuckDB file, opened read-only and held in memory."""

from __future__ import annotations

import ast
import csv
import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Self

from njsl.core.types import ConfigError, DataError, StoreError
from njsl.store import schema
from njsl.store.load import PUBLISHED, first_line, load
from njsl.store.versions import KEY, VARIANT, Versions

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

    from njsl.core.config import StoreConfig

MICRO = Path(str(files("njsl.store").joinpath("data/micro")))  # the population that ships with njsl: its export folder


@dataclass(frozen=True, eq=False)
class AnalysisStore:
    """A database of models in memory: the paper's three tables (version 1) or all of this layout (version 2).

    Nothing on disk is ever changed, and no SQL of a folder is executed: its ``schema.sql`` and ``load.sql`` mark it as
    an export, the columns and types are those of ``njsl/store/data/fields.csv``.

    Attributes:
        source: the folder or file it was read from.
        connection: DuckDB in memory, cut off from the file system.
        version: of the layout it was read in.
        freegen: path of the free-generation features, a row per model, or None: those of the database, if any.
        selected: path of the features the paper selected per task, or None.
        published: the files were checked against the published checksums.
        versions: which task versions and prompts labels may be made of.
    """

    source: Path
    connection: duckdb.DuckDBPyConnection
    version: int
    freegen: Path | None = None
    selected: Path | None = None
    published: bool = False
    versions: Versions = field(default_factory=Versions)

    @classmethod
    def from_existing(
        cls,
        path: str | Path,
        freegen: Path | None = None,
        selected: Path | None = None,
        *,
        published: bool = False,
        versions: Versions | None = None,
    ) -> Self:
        """Open an export folder (``schema.sql``, ``load.sql``, a CSV per table) or a DuckDB file.

        Raises:
            StoreError: see ``njsl.store.load.load``.
        """
        path = Path(os.path.expanduser(path))
        connection, version = load(path)
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return cls(path, connection, version, freegen, selected, published, versions or Versions())

    @classmethod
    def open(cls, source: str) -> Self:
        """Open ``micro`` (what ships with njsl), ``paper`` (the published database, wherever it is found), or a path.

        Raises:
            StoreError: see ``from_existing`` and ``njsl.store.paper.locate``.
        """
        if source != "paper":
            return cls.from_existing(MICRO if source == "micro" else source)
        from njsl.store.paper import locate

        paper = locate(None)
        return cls.from_existing(paper.export, paper.freegen, paper.selected, published=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of its tables."""
        return PUBLISHED if self.version == 1 else tuple(schema.tables())

    def table(self, name: str) -> pd.DataFrame:
        """One table as it stands in the file, in the file's row order."""
        if name not in self.tables:
            raise StoreError(f"table {name!r}: accepted are {', '.join(self.tables)}")
        return self.connection.execute(f"SELECT * FROM {name} ORDER BY rowid").df()

    def label_rows(self) -> pd.DataFrame:
        """``evaluation_results`` with the columns that labels are made of, in the file's row order."""
        columns = [*KEY, "metric_value", "metric_stderr", *([] if self.version == 1 else [*VARIANT, "evaluated_on"])]
        return self.connection.execute(f"SELECT {', '.join(columns)} FROM evaluation_results ORDER BY rowid").df()

    def models(self, view: str = "raw", *, arrow: bool = False) -> pd.DataFrame | pa.Table:
        """What is known of every model, a row each by id: annotations, data composition, family; missing is NaN.

        Args:
            view: ``raw``, or ``curated`` with the reviewed corrections.
            arrow: an Arrow table instead of pandas.

        Raises:
            StoreError: the corrections do not fit the published database.
        """
        from njsl.store.views import facts

        return _as(facts(self, view), arrow)

    def scores(self, view: str = "raw", *, arrow: bool = False) -> pd.DataFrame | pa.Table:
        """``evaluation_results`` under the view's spellings, every version of a task a row of its own.

        Args:
            view: ``raw``, or ``curated`` with aliases applied and broken scores taken out.
            arrow: an Arrow table instead of pandas.

        Raises:
            StoreError: the corrections do not fit the published database.
        """
        from njsl.store.overlay import Overlay

        rows = Overlay.load(view).scores(self.table("evaluation_results"), strict=self.published)
        return _as(rows.reset_index(drop=True), arrow)

    def features(self, *, arrow: bool = False) -> pd.DataFrame | pa.Table:
        """Free-generation features, a row per model by ``id``; columns as published.

        Raises:
            DataError: the store has none.
        """
        return _as(self.freegen_features().reset_index(), arrow)

    def frame(
        self, tasks: str | list[str] = "core", view: str = "raw", *, freegen: bool = False, arrow: bool = False
    ) -> pd.DataFrame | pa.Table:
        """Base models that can be regressed on, by ``id``: features, ``org``, ``family``, and a label column per task.

        Args:
            tasks: a set's name, a task's name, or a list of them.
            view: ``raw`` or ``curated``.
            freegen: with the free-generation features.
            arrow: an Arrow table instead of pandas.

        Raises:
            ConfigError: a task that does not exist.
            DataError: labels would mix task versions or prompts (see ``versions``), or there are no such features.
        """
        from njsl.store.tasks import find_tasks
        from njsl.store.views import labelled

        base, labels = labelled(self, view, find_tasks(tasks), freegen=freegen)
        return _as(base.join(labels).reset_index(), arrow)

    def sql(self, query: str, *, arrow: bool = False) -> pd.DataFrame | pa.Table:
        """The answer to one SELECT over the tables as they stand; DuckDB's SQL.

        Raises:
            StoreError: no single SELECT, or one that DuckDB refuses.
        """
        import duckdb

        try:
            statements = self.connection.extract_statements(query)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise StoreError("sql: one SELECT is accepted; a store is read-only")
            self.connection.execute("BEGIN TRANSACTION READ ONLY")  # WITH may hold a DELETE
            try:
                answer = self.connection.sql(query)
                return answer.to_arrow_table() if arrow else answer.df()
            finally:
                self.connection.execute("ROLLBACK")
        except (duckdb.Error, UnicodeEncodeError) as error:
            raise StoreError(f"sql: {first_line(error)}") from error

    def freegen_features(self) -> pd.DataFrame:
        """Free-generation features, indexed by model id; columns as published.

        Raises:
            DataError: the store has none, or a column is not numeric.
        """
        import pandas as pd

        if self.freegen is None:
            return self._own_features()
        frame = pd.read_csv(self.freegen, index_col="id")
        for name in frame.columns:
            if frame[name].dtype.kind not in "fi":
                raise DataError(f"{self.freegen}: column {name!r} holds text; numbers are accepted")
        if frame.index.has_duplicates:
            raise DataError(f"{self.freegen}: id {frame.index[frame.index.duplicated()][0]!r} stands twice")
        return frame.astype("float64")

    def _own_features(self) -> pd.DataFrame:
        rows = self.table("model_features") if "model_features" in self.tables else None
        if rows is None or rows.empty:
            raise DataError(
                f"{self.source}: free-generation features need the file "
                "performance_prediction/all_models_feature_stats_3_03_with_ratios.csv; with store=paper name the root "
                "of a clone of the paper's repository as store.path; into a database of yours: python -m njsl.store "
                "import-features"
            )
        order = list(dict.fromkeys(rows["feature"]))
        return rows.pivot(index="id", columns="feature", values="value")[order].rename_axis(columns=None)

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
        tables = [self.source / f"{name}.csv" for name in self.tables] if self.source.is_dir() else [self.source]
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
    versions = Versions(config.versions, dict(config.pinned))
    if config.name == "paper":
        from njsl.store.paper import locate

        paper = locate(config.path)
        store = AnalysisStore.from_existing(
            paper.export, paper.freegen, paper.selected, published=True, versions=versions
        )
        return store, f"{paper.export} ({paper.way})"
    if config.name == "micro" and config.path is None:
        return AnalysisStore.from_existing(MICRO, versions=versions), "micro (ships with njsl)"
    if config.path is None:
        raise ConfigError("store.path: a value is required with store=folder: an export folder or a DuckDB file")
    return AnalysisStore.from_existing(config.path, versions=versions), f"{config.path} (store.path, unchecked)"


def _as(frame: pd.DataFrame, arrow: bool) -> pd.DataFrame | pa.Table:
    if not arrow:
        return frame
    import pyarrow as pa

    return pa.Table.from_pandas(frame, preserve_index=False)
