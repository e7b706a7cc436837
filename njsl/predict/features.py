"""Feature sets, their order, and how categories reach a predictor."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from njsl.core.types import ConfigError, DataError
from njsl.predict.base import LN_PARAMS, LN_TOKENS
from njsl.store.views import CATEGORICAL, FLAGS, NUMERIC

if TYPE_CHECKING:
    from njsl.core.config import FeatureSet
    from njsl.store.store import AnalysisStore
    from njsl.store.tasks import Task

GROUPS: dict[str, tuple[str, ...]] = {
    "scale": ("total_params", "total_tokens_billions"),
    "arch": ("dimension", "num_heads", "mlp_ratio", "sequence_length", *CATEGORICAL),
    "tied": FLAGS,
    "data": ("web_pct", "code_pct", "books_pct", "reference_pct", "academic_pct", "english_pct"),
}
# Numbers before categories, in the paper's order: equal splits of a tree go to the first column.
ORDER = (*NUMERIC, *CATEGORICAL, *FLAGS)
LOGGED = {"total_params": LN_PARAMS, "total_tokens_billions": LN_TOKENS}
PUBLISHED = {column: name for name, column in NUMERIC.items()}
Encoding = Literal["ordinal", "ordinal_missing", "native"]


class FeatureTable:
    """Which columns a feature set stands for, in a given store.

    Args:
        store: asked for its free-generation columns and its selected lists only where a set needs them.
    """

    def __init__(self, store: AnalysisStore) -> None:
        self._store = store
        self._freegen: tuple[str, ...] | None = None

    @property
    def freegen(self) -> tuple[str, ...]:
        """Free-generation columns in the file's order; DataError where the store has none."""
        if self._freegen is None:
            self._freegen = tuple(self._store.freegen_features().columns)
        return self._freegen

    def columns(self, name: str, wanted: FeatureSet, task: Task) -> list[str]:
        """Columns of a set for a task: the paper's list in its own order first, the others in the table's order.

        Raises:
            ConfigError: an unknown group or column, or nothing left.
            DataError: the store lacks the files the set needs, or has no selected list for the task.
        """
        where = f"features.{name}"
        listed: list[str] = []
        chosen: set[str] = set()
        for group in wanted.groups:
            if group == "selected":
                listed = self._selected(task)
            elif group == "freegen":
                chosen |= set(self.freegen)
            elif group in GROUPS:
                chosen |= set(GROUPS[group])
            else:
                accepted = ", ".join([*GROUPS, "freegen", "selected"])
                raise ConfigError(f"{where}.groups: {group!r} is no group; accepted: {accepted}")
        for column in [*wanted.columns, *wanted.drop]:
            if column not in ORDER:
                offered = [*ORDER, *(self.freegen if self._store.freegen else ())]
                if column not in offered:
                    close = difflib.get_close_matches(column, offered, 3) or offered
                    raise ConfigError(f"{where}: {column!r} is no feature of this store; accepted: {', '.join(close)}")
        chosen |= set(wanted.columns)
        known = [*ORDER, *(self.freegen if chosen - set(ORDER) else ())]
        result = listed + [column for column in known if column in chosen and column not in listed]
        result = [column for column in result if column not in wanted.drop]
        if not result:
            raise ConfigError(f"{where}: no column is left; name groups or columns")
        return result

    def candidate_set(self, names: list[str]) -> FeatureSet:
        """``selection.candidates`` as a feature set: each name is a group or a column."""
        from njsl.core.config import FeatureSet

        groups = [name for name in names if name in GROUPS or name == "freegen"]
        return FeatureSet(groups=groups, columns=[name for name in names if name not in groups])

    def needs_freegen(self, sets: dict[str, FeatureSet], tasks: list[Task]) -> bool:
        """Whether any set holds a free-generation column for any task."""
        return any(
            set(self.columns(name, wanted, task)) - set(ORDER) for name, wanted in sets.items() for task in tasks
        )

    def _selected(self, task: Task) -> list[str]:
        lists = self._store.selected_features()
        published = lists.get((task.key.task, task.key.setting))
        if published is None:
            raise DataError(f"features.selected: the paper selected nothing for {task.key.task} ({task.key.setting})")
        return [PUBLISHED.get(column, column) for column in published]


def in_groups(columns: Iterable[str], groups: Iterable[str]) -> list[str]:
    """Those of a design matrix's columns that belong to the groups, in their order.

    Args:
        columns: names as in ``design``'s result.
        groups: ``scale``, ``arch``, ``data``, ``freegen``.

    Raises:
        ConfigError: there is no such group.
    """
    chosen: set[str] = set()
    columns = list(columns)
    for group in groups:
        if group in GROUPS:
            chosen |= {LOGGED.get(name, name) for name in GROUPS[group]}
        elif group == "freegen":
            chosen |= {name for name in columns if tag(name) == "[F]"}
        else:
            raise ConfigError(f"features: {group!r} is no group; accepted: {', '.join([*GROUPS, 'freegen'])}")
    return [name for name in columns if name in chosen]


def tag(column: str) -> str:
    """``[A]`` architecture, ``[D]`` data or ``[F]`` free generation, for tables and figures."""
    column = {logged: raw for raw, logged in LOGGED.items()}.get(column, column)
    if column == "total_tokens_billions" or column in GROUPS["data"]:
        return "[D]"
    return "[A]" if column in ORDER else "[F]"


def design(features: pd.DataFrame, columns: list[str], encoding: Encoding) -> pd.DataFrame:
    """The design matrix: ``columns`` of a task's features, ln of parameters and tokens, categories encoded.

    Args:
        features: ``TaskFrame.features`` [models, features].
        columns: which, in order.
        encoding: ``native`` keeps ``category`` columns; ``ordinal`` replaces them by the rank of their sorted label,
            missing stays missing (the paper's first encoding; the -1 it writes is what its booster is told to read as
            missing); ``ordinal_missing`` ranks a label "missing" among the others (its second encoding).
    """
    frame = features[columns].copy()
    for name in columns:
        if name in LOGGED:
            frame[name] = np.log(frame[name])
        elif encoding != "native" and name in CATEGORICAL:
            frame[name] = _ranks(frame[name], missing_is_label=encoding == "ordinal_missing")
    return frame.rename(columns=LOGGED)


def _ranks(column: pd.Series, *, missing_is_label: bool) -> pd.Series:
    labels = list(column.cat.categories)
    if missing_is_label:
        labels = sorted([*labels, "missing"])
        column = column.cat.add_categories(["missing"]).fillna("missing")
    return column.astype(object).map({label: float(rank) for rank, label in enumerate(labels)}).astype("float64")
