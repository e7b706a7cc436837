"""The paper's own score files: ``results.harness.TASK.K-shot.METRIC`` or ``results.harness.TASK.METRIC``.

Source: the public repository of arXiv 2503.03862, where older runs (of the Open LLM Leaderboard) are nested under
their shots and newer ones are not; ``x-shot`` says that the shots were not written down.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from njsl.core.types import DataError
from njsl.store.layouts.scores import Entry, Found, metrics
from njsl.store.layouts.values import Place, Repeated, at, label, mapping, shown, stamp, text

_SHOTS = re.compile(r"(\d{1,4}|x)-shot", re.ASCII)
_TIME = "timestamp"


def is_nested(data: Mapping[str, Any]) -> bool:
    """Whether a file has this layout."""
    results = data.get("results")
    return isinstance(results, dict) and isinstance(results.get("harness"), dict) and "config" not in data


def read(data: Mapping[str, Any], assume: Callable[[str], int]) -> Found:
    """The tasks of a file; one that stands several times gives several entries.

    Args:
        data: the file.
        assume: the shots of a task of which the file does not say them.

    Raises:
        DataError: a part has the wrong type.
    """
    name = text(data.get("model_name"), "model_name")
    day = stamp(data.get("last_updated"), "last_updated")
    found = Found([], None if name is None else (name, "model_name"))
    found.facts = {"harness": "lm-eval", "evaluated_on": None if day is None else day[0]}
    results = mapping(data, "results")
    found.left_out += [f"results.{label(other)}: not of the harness" for other in results if other != "harness"]
    harness = mapping(results, "harness", "results")
    for task, parts in harness.pairs if isinstance(harness, Repeated) else list(harness.items()):
        place = ("results", "harness", task)
        if not isinstance(parts, dict):
            raise DataError(f"{at(place)}: {shown(parts)}; an object with metrics is accepted")
        found.entries += _entries(task, parts, place, assume)
    return found


def _entries(task: str, parts: Mapping[str, Any], place: Place, assume: Callable[[str], int]) -> Iterator[Entry]:
    bare = {}
    for key, value in parts.items():
        if not isinstance(value, dict):
            bare[key] = value
            continue
        shots = _SHOTS.fullmatch(key)
        if shots is None:
            raise DataError(f"{at(place)}.{label(key)}: an object; K-shot or x-shot is accepted")
        yield from _entry(task, value, (*place, key), None if shots[1] == "x" else int(shots[1]), assume)
    yield from _entry(task, bare, place, None, assume)


def _entry(
    task: str, results: Mapping[str, Any], place: Place, shots: int | None, assume: Callable[[str], int]
) -> Iterator[Entry]:
    if not any(metrics(tuple(results), False)):
        return
    time = stamp(results.get(_TIME), *place, _TIME)
    facts = {
        "setting": f"{assume(task) if shots is None else shots}-shot",
        "shots_assumed": shots is None,
        "evaluated_on": None if time is None else time[0],
    }
    yield Entry(task, place, results, facts, None if time is None else time[1])
