"""What looks wrong in a database: findings for a person to judge, nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from njsl.store.overlay import MISSING, RAW_ALIASES, Overlay, renamed
from njsl.store.schema import METRIC_RANGES, SHARE_TOLERANCE
from njsl.store.versions import CELL, VARIANT, Versions
from njsl.store.views import NUMERIC, known_groups, labels, measured_tasks, models, owner

if TYPE_CHECKING:
    from njsl.store.store import AnalysisStore

SHARES = ("web_pct", "code_pct", "books_pct", "reference_pct", "academic_pct")
RANGES = METRIC_RANGES | {"perplexity": (1.0, 1e6)}  # more than any vocabulary has words


ERRORS = ("range", "parent")  # what is wrong wherever it stands; the rest is odd, and for a person to judge


class Finding(NamedTuple):
    """One row of ``AnalysisStore.verify()``.

    Attributes:
        check: ``orphan``, ``alias``, ``shares``, ``range``, ``nan``, ``zero``, ``missing_eval``, ``parent`` or
            ``versions``.
        table, id, field: where; ``id`` is empty where the finding is not about one model.
        value: what is there.
        message: what is odd about it.
    """

    check: str
    table: str
    id: str
    field: str
    value: str
    message: str


def findings(store: AnalysisStore) -> pd.DataFrame:
    """All findings, ordered by check and id."""
    annotations, datasets = store.table("model_annotations"), store.table("dataset_info")
    scores = store.table("evaluation_results")
    found = [
        *_orphans(annotations, datasets, scores),
        *_aliases(annotations, scores),
        *_shares(datasets),
        *_ranges(annotations, datasets, scores),
        *_broken(scores),
        *_missing(store),
        *(_parents(store.table("models")) if store.version > 1 else ()),
        *(_stages(store.table("stage_datasets")) if store.version > 1 else ()),
        *(_versions(scores) if store.version > 1 else ()),
    ]
    return pd.DataFrame(found, columns=list(Finding._fields)).sort_values(
        ["check", "id", "field"], ignore_index=True, kind="stable"
    )


def _orphans(annotations: pd.DataFrame, datasets: pd.DataFrame, scores: pd.DataFrame) -> Iterator[Finding]:
    known, scored = set(annotations["id"]), set(scores["id"])
    for name in sorted(scored - known):
        yield Finding("orphan", "evaluation_results", name, "id", name, "evaluated, but not in model_annotations")
    for name in sorted(known - scored):
        yield Finding("orphan", "model_annotations", name, "id", name, "annotated, but without any evaluation")
    for name in sorted(set(datasets["id"]) - known):
        yield Finding("orphan", "dataset_info", name, "id", name, "has a data composition, but no annotation")


def _aliases(annotations: pd.DataFrame, scores: pd.DataFrame) -> Iterator[Finding]:
    """Ids that differ only in owner, letter case or a ``-hf`` ending; benchmarks under an old and a new spelling."""
    names = pd.Series(sorted(set(annotations["id"]) | set(scores["id"])))
    plain = names.str.rsplit("/", n=1).str[-1].str.lower().str.removesuffix("-hf")
    for _, group in names.groupby(plain):
        owners = {owner(name) for name in group} - {owner("no-owner")}
        if len(group) > 1 and len(owners) <= 1:
            for name in group:
                others = ", ".join(other for other in group if other != name)
                yield Finding("alias", "evaluation_results", name, "id", name, f"looks like the same model as {others}")
    spelled = scores.assign(new=renamed(scores["benchmark"], list(RAW_ALIASES)))
    twice = spelled.duplicated(["id", "new", "setting", "metric"], keep=False)
    old = spelled[twice & (spelled["benchmark"] != spelled["new"])]
    for name, rows in old.groupby("id"):
        message = f"{len(rows)} rows also stand under the new spelling; the first row of the file is read"
        yield Finding("alias", "evaluation_results", str(name), "benchmark", rows["benchmark"].iloc[0], message)


def _shares(datasets: pd.DataFrame) -> Iterator[Finding]:
    table = datasets.set_index("id")[[NUMERIC[name] for name in SHARES]]
    table = table.mask(table == MISSING)
    for name, row in table.iterrows():
        known = row.notna().sum()
        if 0 < known < len(SHARES):
            yield Finding(
                "shares", "dataset_info", str(name), "shares", f"{row.sum():g}", f"only {known} of {len(SHARES)} known"
            )
        elif known and abs(row.sum() - 100) > SHARE_TOLERANCE:
            yield Finding("shares", "dataset_info", str(name), "shares", f"{row.sum():g}", "sum is not 100 +- 1")


def _ranges(annotations: pd.DataFrame, datasets: pd.DataFrame, scores: pd.DataFrame) -> Iterator[Finding]:
    for name, column in NUMERIC.items():
        table, title = (annotations, "model_annotations") if column in annotations else (datasets, "dataset_info")
        values = table[column].astype("float64")
        high = 100.0 if name.endswith("_pct") else np.finfo(float).max
        low_ok = values >= 0 if name.endswith("_pct") else values > 0
        for place in table.index[values.notna() & (values != MISSING) & ~(low_ok & (values <= high))]:
            yield Finding("range", title, table.at[place, "id"], column, f"{values[place]:g}", "impossible value")
    for metric, (low, high) in RANGES.items():
        rows = scores[(scores["metric"] == metric) & scores["metric_value"].notna()]
        for row in rows[~rows["metric_value"].between(low, high)].itertuples():
            where = f"{row.benchmark} {row.setting} {metric}"
            yield Finding(
                "range", "evaluation_results", row.id, where, f"{row.metric_value:g}", f"outside {low:g}..{high:g}"
            )


def _broken(scores: pd.DataFrame) -> Iterator[Finding]:
    """Scores that are missing, and exact zeros where most of the family scores."""
    groups = known_groups()
    scores = scores.assign(family=[groups.get(name, (owner(name), owner(name)))[1] for name in scores["id"]])
    for row in scores[scores["metric_value"].isna()].itertuples():
        yield Finding(
            "nan", "evaluation_results", row.id, f"{row.benchmark} {row.setting} {row.metric}", "NaN", "no value"
        )
    accuracy = scores[scores["metric"] == "accuracy"]
    middle = accuracy.groupby(["family", "benchmark", "setting"])["metric_value"].transform("median")
    for row in accuracy[(accuracy["metric_value"] == 0) & (middle > 0)].itertuples():
        where = f"{row.benchmark} {row.setting} accuracy"
        yield Finding(
            "zero",
            "evaluation_results",
            row.id,
            where,
            "0",
            f"family {row.family} scores {middle[row.Index]:.3g} in the median",
        )


def _missing(store: AnalysisStore) -> Iterator[Finding]:
    """Tasks of the table that a model which could be regressed on has no label for."""
    base = models(store, "raw", freegen=False)
    overlay = Overlay.load("raw")
    scores = overlay.scores(
        store.table("evaluation_results"),
        strict=False,
        choose=Versions("newest").choose,
    )
    for task in measured_tasks(scores, overlay):
        for name in base.index.difference(labels(scores, overlay, task).index):
            where = f"{task.key.task} {task.key.setting} {task.key.metric}"
            yield Finding("missing_eval", "evaluation_results", str(name), where, "", "no label for this task")


def _parents(models: pd.DataFrame) -> Iterator[Finding]:
    """Parents that are not there, and models that descend from themselves."""
    parent = dict(models.dropna(subset="parent")[["id", "parent"]].itertuples(index=False))
    known = set(models["id"])
    for name in sorted(parent):
        line, last = {name}, parent[name]
        while last in parent and last not in line:
            line.add(last)
            last = parent[last]
        if last == name:
            yield Finding("parent", "models", name, "parent", parent[name], "descends from itself")
        elif parent[name] not in known:
            yield Finding("orphan", "models", name, "parent", parent[name], "its parent is not in the database")


def _stages(mixes: pd.DataFrame) -> Iterator[Finding]:
    total = mixes.groupby(["id", "stage"])["share_pct"].sum()
    for (name, stage), value in total[total > 100 + SHARE_TOLERANCE].items():
        yield Finding("range", "stage_datasets", name, f"stage {stage} share_pct", f"{value:g}", "sum is above 100")


def _versions(scores: pd.DataFrame) -> Iterator[Finding]:
    """Benchmarks whose scores do not come from one task version and prompt."""
    variants = scores.drop_duplicates([*CELL, *VARIANT]).groupby(CELL, sort=True).size()
    for cell, number in variants[variants > 1].items():
        message = "task versions or prompts: labels need store.versions=newest or store.pinned"
        yield Finding("versions", "evaluation_results", "", " ".join(cell), str(number), message)
