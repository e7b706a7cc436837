"""Scores of different task versions or prompts are not one population: which of them a view may put together."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from njsl.core.types import DataError
from njsl.store.schema import UNRECORDED

if TYPE_CHECKING:
    import pandas as pd

CELL = ["benchmark", "setting", "metric"]
KEY = ["id", *CELL]
VARIANT = ["task_version", "prompt"]


@dataclass(frozen=True)
class Versions:
    """The rule of ``store.versions`` and ``store.pinned``.

    Attributes:
        rule: ``one`` refuses a benchmark whose scores come from several task versions or prompts; ``newest`` takes each
            model's newest score, whatever its version.
        pinned: by benchmark (``*`` at the end stands for any ending) the version whose scores are read, all others are
            left out: ``1.0``, or ``1.0/<prompt>`` where its prompts differ too; ``unrecorded`` is a version.
    """

    rule: str = "one"
    pinned: Mapping[str, str] = field(default_factory=dict)

    def choose(self, scores: pd.DataFrame, relevant: Callable[[pd.DataFrame], pd.Series] | None = None) -> pd.DataFrame:
        """The scores a view may read, at most one version per benchmark or per model.

        Args:
            scores: rows of ``evaluation_results`` under the view's spellings; older layouts record no versions.
            relevant: of rows, which a label will be made of [rows] bool; the rest is not judged. None: all are.

        Raises:
            DataError: relevant scores of one benchmark stand in several versions and the rule does not say which.
        """
        if VARIANT[0] not in scores:
            if self.pinned:
                raise DataError("store.pinned: this database is of an older layout, which records no task versions")
            return scores
        for name, wanted in self.pinned.items():
            named = scores["benchmark"].str.startswith(name[:-1]) if name.endswith("*") else scores["benchmark"] == name
            fits = (scores["task_version"] == wanted) | (scores["task_version"] + "/" + scores["prompt"] == wanted)
            if not (named & fits).any():
                raise DataError(f"store.pinned.{name}: no score of version {wanted!r}; {_present(scores[named])}")
            scores = scores[~named | fits]
        if len(scores[VARIANT].drop_duplicates()) <= 1:
            return scores
        if self.rule == "newest":
            ranks = {version: rank for rank, version in enumerate(sorted(set(scores["task_version"]), key=_age))}
            scored = scores.dropna(subset="metric_value")
            order = scored.assign(rank=scored["task_version"].map(ranks), place=range(len(scored), 0, -1)).sort_values(
                ["evaluated_on", "rank", "place"], na_position="first", kind="stable"
            )
            newest = order.drop_duplicates(KEY, keep="last")[[*KEY, *VARIANT, "evaluated_on"]]
            # Two spellings of one score are both left: which of them counts is for the view to say.
            return scores.loc[scores.assign(place=scores.index).merge(newest)["place"]]
        judged = scores[relevant(scores)] if relevant else scores
        several = judged.drop_duplicates([*CELL, *VARIANT]).duplicated(CELL)
        if several.any():
            cell = judged.loc[several.index[several][0], CELL]
            rows = judged[(judged[CELL] == cell).all(axis=1)]
            first = rows.loc[rows["task_version"] == rows["task_version"].iloc[0], VARIANT].drop_duplicates()
            pin = "/".join(first.iloc[0]) if len(first) > 1 else first["task_version"].iloc[0]
            raise DataError(
                f"{' '.join(cell)}: scores of several versions or prompts: {_present(rows)}; accepted: "
                f"store.versions=newest (each model's newest), or a pinned one: "
                f"'+store.pinned={{{cell['benchmark']}: {pin}}}'"
            )
        return scores


def _age(version: str) -> tuple[object, ...]:
    """Orders versions by their numbers, 9 before 10; what is not recorded is the oldest."""
    numbers = [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", version)]
    return version != UNRECORDED, *numbers


def _present(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "there is none of any version"
    counts = rows.drop_duplicates(["id", *VARIANT]).groupby(VARIANT, sort=True).size()
    return "there are " + ", ".join(f"{version}/{prompt} ({n} models)" for (version, prompt), n in counts.items())
