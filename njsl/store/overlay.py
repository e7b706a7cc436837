"""The reviewed corrections of the curated view, kept as data in ``data/curated.yaml``; raw data are never touched."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pandas as pd

from njsl.core.types import StoreError
from njsl.store.versions import KEY, VARIANT

if TYPE_CHECKING:
    from njsl.store.tasks import Task

log = logging.getLogger(__name__)

# What the paper's own code renames before it joins: the old harness's spellings. The first row of the file wins.
RAW_ALIASES = ({"old": "hendrycksTest-*", "new": "mmlu_*"}, {"old": "arc:challenge", "new": "arc_challenge"})
MISSING = -1  # the export spells missing NULL and -1


@dataclass(frozen=True)
class Overlay:
    """What a view changes.

    Attributes:
        view: ``raw`` (only the paper's own renaming) or ``curated``.
        entries: the sections of ``curated.yaml``: ``model_aliases``, ``benchmark_aliases``, ``labels``, ``scores``,
            ``values`` and ``flags`` (noted, not applied).
    """

    view: str
    entries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def load(cls, view: str) -> Overlay:
        """The overlay of a view."""
        return cls(view, curated() if view == "curated" else {})

    @property
    def complete(self) -> bool:
        """Whether a label needs every benchmark of its task's definition."""
        return self.view == "curated"

    def correct(self, table: pd.DataFrame, name: str, *, strict: bool) -> pd.DataFrame:
        """The table with the corrections of its values.

        Args:
            table: ``model_annotations`` or ``dataset_info``.
            name: which of them.
            strict: every correction must meet the old value it was reviewed against, as in the published database;
                elsewhere those that do not are left out, with a warning that counts them.

        Raises:
            StoreError: strict, and a correction meets another value.
        """
        entries = [entry for entry in self.entries.get("values", []) if entry["table"] == name]
        if not entries:
            return table
        table = table.set_index("id")
        misfits = []
        for entry in entries:
            identity, column = entry["id"], entry["field"]
            if identity in table.index and _same(table.at[identity, column], entry["old"]):
                table.at[identity, column] = entry["new"]
            else:
                misfits.append(f"{identity}.{column}")
        _report(misfits, name, strict=strict)
        return table.reset_index()

    def scores(
        self, table: pd.DataFrame, *, strict: bool, choose: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    ) -> pd.DataFrame:
        """``evaluation_results`` with one spelling per model and benchmark, and broken scores taken out.

        Where two rows become one, the row that already had the right spelling wins in ``curated``; in ``raw`` the
        first row of the file does, as in the paper.

        Args:
            table: the rows.
            strict: every correction must meet the old value it was reviewed against.
            choose: picks one task version per score, under the right spellings; without it all versions stay.

        Raises:
            StoreError: strict, and a correction meets another value.
            DataError: whatever ``choose`` raises.
        """
        table = table.copy()
        misfits = _apply(table, self.entries.get("scores", []))
        _report([f"{entry['id']}/{entry['benchmark']}" for entry in misfits], "evaluation_results", strict=strict)
        key = KEY if choose else KEY + [name for name in VARIANT if name in table]
        right = table[KEY].copy()
        if self.view == "raw":
            table["benchmark"] = renamed(table["benchmark"], list(RAW_ALIASES))
            return (choose(table) if choose else table).drop_duplicates(key)
        table["id"] = renamed(table["id"], self.entries["model_aliases"])
        aliases = self.entries["benchmark_aliases"]
        table["benchmark"] = renamed(table["benchmark"], [entry for entry in aliases if entry["field"] == "benchmark"])
        for entry in aliases:
            if entry["field"] == "benchmark,metric":
                (old_benchmark, old_metric), (benchmark, metric) = entry["old"].split(","), entry["new"].split(",")
                rows = (table["benchmark"] == old_benchmark) & (table["metric"] == old_metric)
                table.loc[rows, ["benchmark", "metric"]] = [benchmark, metric]
        arrived = (table[KEY] != right).any(axis=1)
        table = choose(table) if choose else table
        arrived = arrived[table.index]
        return table.loc[arrived.sort_values(kind="stable").index].drop_duplicates(key).sort_index()

    def definition(self, task: Task) -> tuple[str, ...]:
        """The benchmarks a task's label is the mean of."""
        for entry in self.entries.get("labels", []):
            if entry["task"] == task.key.task:
                return tuple(entry["new"])
        return task.benchmarks


@cache
def curated() -> dict[str, list[dict[str, Any]]]:
    """The sections of ``data/curated.yaml``; treat as read-only."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries: dict[str, list[dict[str, Any]]] = yaml.load(
        files("njsl.store").joinpath("data/curated.yaml").read_text(encoding="utf-8"), Loader=loader
    )
    return entries


def _apply(table: pd.DataFrame, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Correct single scores, or all that a ``*`` at the end of the benchmark covers.

    Args:
        table: all scores; changed in place.
        entries: the corrections, in order.

    Returns:
        The entries that met nothing to correct.
    """
    if not entries:
        return []
    columns = {name: table[name].to_numpy(object, copy=True) for name in {*KEY, *(entry["field"] for entry in entries)}}
    places = table.groupby("id", sort=False).indices  # a look at all rows per entry is slow
    misfits = []
    for entry in entries:
        field = entry["field"]
        wanted = [(name, str(entry[name])) for name in KEY[1:] if name in entry and name != field]
        met = [
            place
            for place in places.get(entry["id"], ())
            if all(_named(columns[name][place], pattern) for name, pattern in wanted)
            and (entry["old"] == "*" or _same(columns[field][place], entry["old"]))
        ]
        columns[field][met] = float("nan") if entry["new"] is None else entry["new"]
        if not met:
            misfits.append(entry)
    for field in {entry["field"] for entry in entries}:
        table[field] = pd.Series(columns[field], index=table.index).astype(table[field].dtype)
    return misfits


def _named(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def renamed(names: pd.Series, aliases: list[dict[str, Any]]) -> pd.Series:
    """Replace whole names; a ``*`` at the end keeps the ending, one at the start stands for any beginning."""
    for alias in aliases:
        old, new = alias["old"], alias["new"]
        if old.endswith("*"):
            names = names.mask(names.str.startswith(old[:-1]).astype(bool), new[:-1] + names.str.slice(len(old) - 1))
        elif old.startswith("*"):
            names = names.mask(names.str.endswith(old[1:]).astype(bool), new)
        else:
            names = names.mask(names == old, new)
    return names


def _same(found: Any, old: Any) -> bool:
    if old is None or pd.isna(found):  # the paper spells missing -1 too, this layout does not
        return old in (None, MISSING) and bool(pd.isna(found))
    if isinstance(old, (int, float)) and not isinstance(old, bool):
        return abs(float(found) - old) <= 1e-9 * max(1.0, abs(old))
    return bool(found == old)


def _report(misfits: list[str], table: str, *, strict: bool) -> None:
    if misfits and strict:
        raise StoreError(
            f"the curated overlay does not fit {table}: {len(misfits)} corrections meet another value than the one "
            f"reviewed, the first at {misfits[0]}"
        )
    if misfits:
        log.warning("curated view: %d corrections do not apply to this database's %s", len(misfits), table)
