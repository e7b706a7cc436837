"""The schema of every verb: what a config may hold, of which type, and what each value means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


def choice(*accepted: str, default: str = MISSING) -> Any:
    """A string field that takes one of ``accepted``; ``core.check`` holds it to that."""
    return field(default=default, metadata={"accepted": accepted})


@dataclass
class StoreConfig:
    """Where the database of models lies, and which view of it is read.

    Attributes:
        name: ``paper`` looks for the published database and checks every file's SHA-256; ``folder`` opens any export.
        path: a folder; with ``name=paper`` optional, see ``njsl.store.paper``.
        view: ``raw`` is what the files say; ``curated`` applies the reviewed overlay ``njsl/store/data/curated.yaml``.
    """

    name: str = choice("paper", "folder")
    path: str | None = None
    view: str = choice("raw", "curated", default="raw")


@dataclass
class FeatureSet:
    """One set of features: columns of groups and single columns, in the order of the paper's table.

    Attributes:
        groups: any of ``scale``, ``arch``, ``data``, ``freegen``, ``selected`` (the paper's list per task).
        columns: further single columns.
        drop: columns taken out again.
    """

    groups: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)


@dataclass
class SelectionConfig:
    """Forward selection; read when ``select`` is not ``none``.

    Attributes:
        candidates: feature groups and single columns that may be added to each feature set.
        seeds: seeds over which the score of a candidate is averaged by ``select=paper``.
        max_steps: at most so many features are added; 0 scores the start as it is.
        min_gain: a feature is added if it lowers the MAE by more than this, as a fraction.
    """

    candidates: list[str] = field(default_factory=lambda: ["arch", "data"])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    max_steps: int = 8
    min_gain: float = 1e-4


@dataclass
class PathsConfig:
    """Folders. ``output`` is the run's own folder: ``hydra.run.dir``, or the job's folder in a multirun."""

    output: str = MISSING


@dataclass
class PredictConfig:
    """``predict.py``.

    Attributes:
        mode: ``fit`` scores predictors on held-out models.
        tasks: a set's name (``core``), a task's name, or a list of them, from the task table.
        features, predictor, cv: one or several named parts each; every combination is run.
        select: ``paper`` selects on the models that are scored (optimistic), ``nested`` inside every training fold.
        seeds: they shuffle the folds; seeds are not independent samples.
        significance, explain: also test against scale-only; also compute SHAP values and importances.
        workers: processes; null is one per core.
    """

    mode: str = choice("fit", default="fit")
    store: StoreConfig = field(default_factory=StoreConfig)
    tasks: Any = "core"
    features: dict[str, FeatureSet] = field(default_factory=dict)
    predictor: dict[str, Any] = field(default_factory=dict)
    cv: dict[str, Any] = field(default_factory=dict)
    select: str = choice("none", "paper", "nested", default="none")
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    significance: bool = True
    explain: bool = True
    workers: int | None = None
    logger: Any = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)


SCHEMAS: dict[str, type] = {"predict": PredictConfig}


def register() -> None:
    """Make the schemas known to Hydra under ``<verb>_schema``."""
    for verb, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{verb}_schema", node=schema)
