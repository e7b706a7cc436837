"""What a database holds: its tables, one model's profile, and which tasks which models have a label for."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from njsl.core.types import DataError
from njsl.store.overlay import Overlay
from njsl.store.tasks import find_tasks
from njsl.store.versions import Versions
from njsl.store.views import facts, labels, measured_tasks

if TYPE_CHECKING:
    from njsl.store.store import AnalysisStore


def overview(store: AnalysisStore) -> list[dict[str, Any]]:
    """Every table with its number of rows and its columns."""
    found = []
    for name in store.tables:
        columns = store.sql(f"DESCRIBE {name}")["column_name"].tolist()
        rows = int(store.sql(f"SELECT count(*) AS n FROM {name}")["n"].iloc[0])
        found.append({"table": name, "rows": rows, "columns": columns})
    return found


def profile(store: AnalysisStore, identity: str, view: str) -> dict[str, Any]:
    """All that is known of one model: facts with their sources, training stages, labels, scores, features.

    Raises:
        DataError: no such model; close names are offered.
    """
    known = facts(store, view).set_index("id")
    scores = store.scores(view)
    ids = {*known.index, *scores["id"]}
    if identity not in ids:
        close = difflib.get_close_matches(identity, sorted(ids), 3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"{len(ids)} models are there"
        raise DataError(f"{store.source}: no model {identity!r}; {hint}")
    row = known.loc[identity].dropna() if identity in known.index else pd.Series(dtype=object)
    told = {str(name): _plain(value) for name, value in row.items()}
    rows = scores[scores["id"] == identity].drop(columns="id")
    mean = {task: float(value) for task, of_ids in _labels(store, view, None, identity).items() for value in of_ids}
    found: dict[str, Any] = {"id": identity, "facts": told, "labels": mean, "scores": _records(rows)}
    if store.version > 1:
        origins = store.table("provenance")
        of_models = origins["subject"] != "datasets"  # which may bear a model's name
        mine = origins[of_models & (origins["row_key"].str.split("#").str[0] == identity)]
        found["provenance"] = _records(mine.drop(columns="row_key"))
        for name in ("training_stages", "stage_datasets", "model_features"):
            frame = store.table(name)
            found[name] = _records(frame[frame["id"] == identity].drop(columns="id"))
        aliases = store.table("aliases")
        found["aliases"] = aliases.loc[aliases["name"] == identity, "alias"].tolist()
    return found


def coverage(store: AnalysisStore, view: str, tasks: str | list[str] | None = None) -> pd.DataFrame:
    """Labels [models, tasks] of all models, tuned ones too, NaN where one is missing; each score in its newest version.

    Args:
        store: an open store.
        view: ``raw`` or ``curated``.
        tasks: a set's name, a task's name or a list of them; None: the sets that the store has scores of.

    Raises:
        ConfigError: a task that does not exist.
    """
    columns = _labels(store, view, tasks)
    ids = {name for column in columns.values() for name in column.index}
    return pd.DataFrame(columns, index=pd.Index(sorted(ids.union(facts(store, view)["id"])), name="id"))


def _labels(
    store: AnalysisStore, view: str, tasks: str | list[str] | None, identity: str | None = None
) -> dict[str, pd.Series]:
    """Labels by task and id, of all models or of one."""
    overlay = Overlay.load(view)
    rows = overlay.scores(store.label_rows(), strict=store.published, choose=Versions("newest").choose)
    rows = rows if identity is None else rows[rows["id"] == identity]
    chosen = measured_tasks(rows, overlay) if tasks is None else find_tasks(tasks)
    return {task.key.task: labels(rows, overlay, task) for task in chosen}


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(name): _plain(value) for name, value in row.items() if not pd.isna(value)}
        for row in frame.to_dict(orient="records")
    ]


def _plain(value: Any) -> Any:
    """A value that JSON has: no numpy, no day with a time."""
    if isinstance(value, pd.Timestamp):
        return value.date().isoformat()
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
