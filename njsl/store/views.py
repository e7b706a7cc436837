"""Frames for prediction: features with missing values kept, labels per task, and the groups models belong to."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from njsl.core.types import DataError
from njsl.store.overlay import MISSING, Overlay
from njsl.store.tasks import Task, task_table
from njsl.store.versions import KEY

if TYPE_CHECKING:
    from njsl.store.store import AnalysisStore

# Names in frames <- columns of the export, in the order that decides ties between equal splits
# (specs of the paper's protocol: arXiv 2503.03862 and its public code).
NUMERIC = {
    "total_params": "total_params",  # [parameters]
    "dimension": "dimension",
    "num_heads": "num_heads",
    "mlp_ratio": "mlp_ratio",
    "sequence_length": "sequence_length",  # [tokens]
    "total_tokens_billions": "pretraining_summary_total_tokens_billions",  # [1e9 tokens]
    "web_pct": "pretraining_summary_percentage_web",  # [0..100], like the next five
    "code_pct": "pretraining_summary_percentage_code",
    "books_pct": "pretraining_summary_percentage_books",
    "reference_pct": "pretraining_summary_percentage_reference",
    "academic_pct": "pretraining_summary_percentage_academic",
    "english_pct": "pretraining_summary_percentage_english",
}
CATEGORICAL = (
    "activation",
    "attention_variant",
    "biases",
    "block_type",
    "layer_norm_type",
    "positional_embeddings",
)
FLAGS = ("weight_tying",)  # 0 or 1, NaN = missing; in none of the paper's feature sets
MIN_MODELS = 30
NO_OWNER = "(none)"


@dataclass(frozen=True)
class TaskFrame:
    """What one task's regressions read; rows are models in the order of their ids.

    Attributes:
        task: the row of the task table.
        features: [models, features]: floats in the export's units (NaN = missing) and ``category`` columns, whose
            categories are the sorted labels of the whole view.
        y: label [models], in the unit of the task's metric, mostly a fraction.
        org, family: group names [models].
        stderr: standard error of the label [models], in its unit, NaN = unknown (see ``stderrs``); None: not read.
    """

    task: Task
    features: pd.DataFrame
    y: np.ndarray
    org: np.ndarray
    family: np.ndarray
    stderr: np.ndarray | None = None

    @property
    def ids(self) -> np.ndarray:
        """Model ids [models]."""
        return self.features.index.to_numpy()


def facts(store: AnalysisStore, view: str) -> pd.DataFrame:
    """All that is known of every model, a row each, sorted by id; missing numbers are NaN.

    Args:
        store: an open store.
        view: ``raw`` or ``curated``.

    Raises:
        StoreError: the overlay does not fit the database.
    """
    overlay = Overlay.load(view)
    annotations = overlay.correct(store.table("model_annotations"), "model_annotations", strict=store.published)
    datasets = overlay.correct(store.table("dataset_info"), "dataset_info", strict=store.published)
    joined = annotations.merge(datasets, on="id", how="outer")
    if "models" in store.tables:
        joined = store.table("models").merge(joined, on="id", how="left")
    numbers = [name for name in joined if pd.api.types.is_numeric_dtype(joined[name]) and joined[name].dtype != bool]
    joined[numbers] = joined[numbers].mask(joined[numbers] == MISSING)
    return joined.sort_values("id", ignore_index=True)


def models(store: AnalysisStore, view: str, *, freegen: bool) -> pd.DataFrame:
    """Base models that can be regressed on, by id: features, ``org`` and ``family``.

    Eligible is who has a positive parameter count and token count and is not marked as instruction-tuned; an unmarked
    model counts as a base model, as in the paper.

    Args:
        store: an open store.
        view: ``raw`` or ``curated``.
        freegen: join the free-generation features too; models without them have NaN there.

    Raises:
        DataError: free-generation features are asked for and the store has none.
        StoreError: the overlay does not fit the database.
    """
    joined = facts(store, view).set_index("id")
    tuned = joined["is_instruction_tuned"].fillna(False).astype(bool)
    numbers = joined[list(NUMERIC.values())].set_axis(list(NUMERIC), axis=1).astype("float64")
    eligible = ~tuned & (numbers["total_params"] > 0) & (numbers["total_tokens_billions"] > 0)
    frame, joined = numbers[eligible].copy(), joined[eligible]
    for name in CATEGORICAL:
        frame[name] = pd.Categorical(joined[name], categories=sorted(joined[name].dropna().unique()))
    for name in FLAGS:
        frame[name] = joined[name].astype("boolean").astype("Float64").to_numpy("float64", na_value=np.nan)
    if freegen:
        features = store.freegen_features()
        frame = frame.join(features.where(np.isfinite(features)), how="left")
    groups = known_groups()
    if "family" in joined:  # what the database says itself, for models the overlay does not know
        told = joined["family"].dropna().items()
        groups = {str(name): (owner(str(name)), family) for name, family in told} | groups
    # Who is in neither is grouped by owner, all its unknown models together.
    frame["org"] = [groups[name][0] if name in groups else owner(name) for name in frame.index]
    frame["family"] = [groups[name][1] if name in groups else owner(name) for name in frame.index]
    return frame


def labels(scores: pd.DataFrame, overlay: Overlay, task: Task) -> pd.Series:
    """One label per model id, sorted by id: the mean over the task's benchmarks.

    ``raw`` follows the paper: old and new spellings of a benchmark are one, the first row of the file wins, and the
    mean is over whichever benchmarks a model has. ``curated`` takes the overlay's aliases, drops broken scores, and
    gives a label only to models that have every benchmark of the one definition.

    Args:
        scores: what ``Overlay.scores`` returns.
        overlay: the view's.
        task: a row of the task table.
    """
    rows = scores[_wanted(scores, overlay, task)]
    grouped = rows.groupby("id", sort=True, observed=True)["metric_value"]
    mean = grouped.mean()
    if overlay.complete:
        exact = [name for name in overlay.definition(task) if not name.endswith("*")]
        mean = mean[grouped.count() == len(set(exact) | set(rows["benchmark"]))]
    return mean.dropna()


def measured_tasks(scores: pd.DataFrame, overlay: Overlay) -> list[Task]:
    """The tasks of all sets that these scores measure something of; those of ``core`` where they measure nothing.

    Args:
        scores: what ``Overlay.scores`` returns.
        overlay: the view's.
    """
    table = task_table().values()
    measured = {name for task in table if len(labels(scores, overlay, task)) for name in task.sets} or {"core"}
    return [task for task in table if measured & set(task.sets)]


def stderrs(scores: pd.DataFrame, overlay: Overlay, task: Task) -> pd.Series:
    """Standard error of every label by model id, as a fraction; NaN where one benchmark of the label has none.

    A label is the mean of k scores, so its error is sqrt(sum of squares) / k where their items are drawn independently.
    Benchmarks that ask the same items twice (LAMBADA's two texts, TruthfulQA's two scores, XNLI's languages) are
    positively correlated, and the error is then up to sqrt(k) times this.

    Args:
        scores: what ``Overlay.scores`` returns, with ``metric_stderr``.
        overlay: the view's.
        task: a row of the task table.
    """
    rows = scores[_wanted(scores, overlay, task)].dropna(subset="metric_value")
    known = rows["metric_stderr"].where(np.isfinite(rows["metric_stderr"]) & (rows["metric_stderr"] >= 0))
    grouped = (known**2).groupby(rows["id"], sort=True, observed=True)
    return (np.sqrt(grouped.sum()) / grouped.size()).where(grouped.count() == grouped.size())


def _wanted(scores: pd.DataFrame, overlay: Overlay, task: Task) -> pd.Series:
    """[rows] bool: what a task's label is the mean of."""
    prefixes = tuple(name[:-1] for name in overlay.definition(task) if name.endswith("*"))
    names = [
        name
        for name in scores["benchmark"].unique()
        if name in overlay.definition(task) or (prefixes and name.startswith(prefixes))
    ]
    return (
        (scores["setting"] == task.key.setting)
        & (scores["metric"] == task.key.metric)
        & scores["benchmark"].isin(names)
    )


def labelled(store: AnalysisStore, view: str, tasks: list[Task], *, freegen: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Base models, and their labels: a column per task [models, tasks], NaN where a model has none.

    Raises:
        DataError: labels would mix task versions or prompts (``AnalysisStore.versions``).
        StoreError: the overlay does not fit the database.
    """
    base, of_task, _ = _measured(store, view, tasks, freegen=freegen)
    return base, of_task


def _measured(
    store: AnalysisStore, view: str, tasks: list[Task], *, freegen: bool
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """What ``labelled`` returns, and the labels' standard errors [models, tasks]."""
    base = models(store, view, freegen=freegen)
    overlay = Overlay.load(view)

    def relevant(scores: pd.DataFrame) -> pd.Series:
        found = pd.Series(False, index=scores.index)
        for task in tasks:
            found |= _wanted(scores, overlay, task)
        return found & scores["id"].isin(base.index)

    scores = overlay.scores(
        store.label_rows(), strict=store.published, choose=lambda rows: store.versions.choose(rows, relevant)
    )
    columns = [*KEY, "metric_value", "metric_stderr"]
    scores = scores.loc[scores["id"].isin(base.index)].reindex(columns=columns).astype(dict.fromkeys(KEY, "category"))
    of_task, error = (
        pd.DataFrame({task.key.task: measure(scores, overlay, task) for task in tasks}, index=base.index)
        for measure in (labels, stderrs)
    )
    return base, of_task, error


def task_frames(store: AnalysisStore, view: str, tasks: list[Task], *, freegen: bool) -> list[TaskFrame]:
    """A frame per task.

    Raises:
        DataError: fewer than 30 models have a label for a task, or ``labelled`` refuses.
    """
    base, y_of_task, error = _measured(store, view, tasks, freegen=freegen)
    frames = []
    for task in tasks:
        y = y_of_task[task.key.task].dropna()
        rows = base.loc[y.index]
        if len(rows) < MIN_MODELS:
            raise DataError(
                f"task {task.key.task} ({task.key.setting}, {task.key.metric}): {len(rows)} models have a label in "
                f"{store.source} (view {view}), at least {MIN_MODELS} are needed; leave it out of tasks=[...]"
            )
        frames.append(
            TaskFrame(
                task,
                rows.drop(columns=["org", "family"]),
                y.to_numpy("float64"),
                rows["org"].to_numpy(dtype=object),
                rows["family"].to_numpy(dtype=object),
                error.loc[y.index, task.key.task].to_numpy("float64"),
            )
        )
    return frames


def widest_group(table: pd.DataFrame) -> Literal["org", "family"]:
    """What models are independent by: organisations, or families where all models are of one organisation.

    Args:
        table: with the columns ``org`` and ``family``.
    """
    return "org" if table["org"].nunique() > 1 else "family"


def known_groups() -> dict[str, tuple[str, str]]:
    """(org, family) of the models the overlay knows, by id: derivatives stand with their parent."""
    with files("njsl.store").joinpath("data/families.csv").open(encoding="utf-8") as file:
        return {row["id"]: (row["org"], row["family"]) for row in csv.DictReader(file)}


def owner(identity: str) -> str:
    """The Hugging Face owner of an id; ids without one are one owner."""
    return identity.split("/")[0] if "/" in identity else NO_OWNER
