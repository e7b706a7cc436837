"""The Open LLM Leaderboard's first result files, and lighteval's: ``results["SUITE|TASK|SHOTS"].METRIC``.

The leaderboard's second version writes lm-evaluation-harness's own layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from njsl.core.types import DataError
from njsl.store.layouts.scores import Entry, Found
from njsl.store.layouts.values import count, label, mapping, name_day, shown, text, version

# lighteval has written: suite|task|shots, the same with |0 for cutting examples off, and, without suites, task|shots.
_TASK = re.compile(r"(?:([^|]+)\|)?([^|]+)\|(\d{1,4})(?:\|[01])?", re.ASCII)
_LEADERBOARD = "harness"  # the suite of the leaderboard's tasks
_AVERAGE = ":_average"


def is_leaderboard(data: Mapping[str, Any]) -> bool:
    """Whether a file has this layout."""
    return "config_general" in data


def read(data: Mapping[str, Any], path: Path) -> Found:
    """The tasks of a file; averages over tasks are left out.

    Raises:
        DataError: a part has the wrong type.
    """
    general = mapping(data, "config_general")
    model = mapping(general, "model_config", "config_general")
    versions, summaries, configs = (mapping(data, name) for name in ("versions", "summary_tasks", "config_tasks"))
    found = Found([], None, _of_all(general, model) | {"evaluated_on": name_day(path)})
    for holder, where in ((general, "config_general"), (model, "config_general.model_config")):
        name = text(holder.get("model_name"), f"{where}.model_name")
        if name is not None:
            found.model = name, f"{where}.model_name"
            break
    averages = []
    for key, metrics in mapping(data, "results").items():
        if not isinstance(metrics, dict):
            raise DataError(f"results.{label(key)}: {shown(metrics)}; an object with metrics is accepted")
        parts = _TASK.fullmatch(key)
        if key == "all" or (parts is not None and parts[2].endswith(_AVERAGE)):
            averages.append(key)
            continue
        if parts is None:
            raise DataError(f"results.{label(key)}: SUITE|TASK|SHOTS is accepted")
        suite, task, shots = parts.groups()
        hashes = mapping(mapping(summaries, key, "summary_tasks"), "hashes", "summary_tasks", key)
        about = configs.get(f"{suite}|{task}")
        facts: dict[str, Any] = {
            "setting": f"{int(shots)}-shot",
            "task_version": version(versions.get(key), "versions", key),
            "harness": "open-llm-leaderboard" if suite == _LEADERBOARD else "lighteval",
            "task_hash": text(hashes.get("hash_examples"), "summary_tasks", key, "hashes", "hash_examples"),
        }
        if isinstance(about, dict):
            scored = count(about.get("effective_num_docs"), "config_tasks", key, "effective_num_docs", low=-1)
            facts["num_samples"] = None if scored == -1 else scored  # -1: not counted
        # A suite's task of the same name is another task, except for the leaderboard's: they are lm-eval's.
        benchmark = task if suite in (None, _LEADERBOARD) else f"{suite}|{task}"
        found.entries.append(Entry(benchmark, ("results", key), metrics, facts))
    if averages:
        found.left_out.append(f"{len(averages)} averages over tasks, e.g. {label(averages[0])}")
    return found


def _of_all(general: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    commit = text(general.get("lighteval_sha"), "config_general", "lighteval_sha")
    dtype = text(general.get("model_dtype"), "config_general", "model_dtype")
    dtype = dtype or text(model.get("dtype"), "config_general", "model_config", "dtype")
    revision = text(general.get("model_sha"), "config_general", "model_sha")
    return {
        "harness_version": None if commit in (None, "?") else f"git {commit}",
        "model_dtype": None if dtype is None else dtype.removeprefix("torch."),
        "model_revision": None if revision == "main" else revision,
    }
