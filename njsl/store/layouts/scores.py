"""A task's results under a harness' names to rows under the database's."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from njsl.core.types import DataError
from njsl.store import schema
from njsl.store.layouts.values import Place, at, label, number, shown

# What the paper calls accuracy. Where a task has several of them, the first of this list is it.
ACCURACIES = ("accuracy", "acc", "exact_match", "pass@1")
# Filters that are part of a task's ordinary scoring; where several would give one metric, the first of this list does.
PLAIN_FILTERS = ("none", "strict-match", "create_test", "remove_whitespace")
_UNSCORED = ("bypass",)  # lm-eval's stand-in where nothing was scored
# Beside the metrics in a task's results.
_BOOKKEEPING = ("alias", "name", "sample_len", "sample_count", "samples", "timestamp", " ")
_FRACTION = (0.0, 1.0)
_ORDINARY = re.compile(r"[\w:|.+-]{1,200}", re.ASCII).fullmatch  # a name that needs no closer look
TABLE = "evaluation_results"


@dataclass
class Entry:
    """One task of a file in one setting.

    Attributes:
        benchmark, place: its name, and where it stands in the file.
        values: its results as the file has them; standard errors are called ``METRIC_stderr``.
        facts: further columns of ``evaluation_results``; None says nothing.
        order: what sorts runs of one task in time; None where no time is said.
    """

    benchmark: str
    place: Place
    values: Mapping[str, Any]
    facts: dict[str, Any]
    order: tuple[int, ...] | None = None


@dataclass
class Found:
    """What a layout's reader makes of a file.

    Attributes:
        entries: the tasks.
        model: the model's name and where it stands; None where there is none.
        facts: columns of ``evaluation_results`` for all entries that do not say otherwise.
        filtered: whether metrics are called ``METRIC,FILTER``; else by their bare names.
        left_out: see ``Records``.
    """

    entries: list[Entry]
    model: tuple[str, str] | None
    facts: dict[str, Any] = field(default_factory=dict)
    filtered: bool = False
    left_out: list[str] = field(default_factory=list)


class Metric(NamedTuple):
    """A metric's name in the database, and the keys of its value and standard error in the file."""

    name: str
    value: str
    stderr: str | None
    range: tuple[float, float]


class Metrics(NamedTuple):
    """What a task's results hold: metrics, standard errors that belong to none, and keys that are neither."""

    pairs: list[Metric]
    alone: list[str]
    unknown: list[str]


def rows(found: Found, identity: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a file's entries, and lines for what is left out of them.

    Where a task stands twice with one metric, the later run wins.

    Raises:
        DataError: a value of the wrong type or out of its range, or two runs of one task with nothing to choose by.
    """
    kept: dict[tuple[str, ...], tuple[dict[str, Any], tuple[int, ...] | None]] = {}
    missing, orphans, strangers, twice = _Tally(), _Tally(), _Tally(), _Tally()
    of_all = {"id": identity, "task_version": schema.UNRECORDED, "prompt": schema.UNRECORDED, **found.facts}
    good: dict[str, set[Any]] = defaultdict(set)
    for name, value in of_all.items():
        _check(name, value, ("the whole",), good)
    for entry in found.entries:
        shared = _shared(entry, of_all, good)
        key = (entry.benchmark, shared["setting"], shared["task_version"], shared["prompt"])
        pairs, alone, unknown = metrics(tuple(entry.values), found.filtered)
        for name in alone:
            orphans.add((entry.benchmark, name))
        for name in unknown:
            strangers.add((entry.benchmark, name))
        for pair in pairs:
            place = (*entry.place, pair.value)
            value = _in_range(number(entry.values[pair.value], place), pair.range, place)
            if value is None:
                missing.add((entry.benchmark, pair.name))
                continue
            stderr = None
            if pair.stderr is not None:
                stderr = number(entry.values[pair.stderr], (*entry.place, pair.stderr))
                if stderr is not None and not 0 <= stderr < math.inf:
                    raise DataError(f"{at((*entry.place, pair.stderr))}: {stderr:g}; a number from 0 is accepted")
            run = ({**shared, "metric": pair.name, "metric_value": value, "metric_stderr": stderr}, entry.order)
            earlier = kept.get((*key, pair.name))
            kept[*key, pair.name] = run if earlier is None else _later(earlier, run, place, twice)
    lines = [
        *missing.line("without a value (NaN, N/A, null or infinite)", "score", "scores"),
        *strangers.line("without a filter in its name is no metric", "entry", "entries"),
        *orphans.line("without a value beside it", "standard error", "standard errors"),
        *twice.line("of an earlier run: the later one is stored", "score", "scores"),
    ]
    return [row for row, _ in kept.values()], lines


def _shared(entry: Entry, of_all: Mapping[str, Any], good: dict[str, set[Any]]) -> dict[str, Any]:
    """The columns all rows of an entry share; ``good`` holds those that have been checked."""
    shared = {**of_all, "benchmark": entry.benchmark}
    if not _ORDINARY(entry.benchmark):
        _check("benchmark", entry.benchmark, entry.place, good)
    for name, value in entry.facts.items():
        if value is not None:
            shared[name] = value
            if value not in good[name]:
                _check(name, value, entry.place, good)
    return shared


def _check(name: str, value: Any, place: Place, good: dict[str, set[Any]]) -> None:
    try:
        schema.check_row(TABLE, {name: value})
    except DataError as error:
        raise DataError(f"{at(place)}: {str(error).removeprefix(f'{TABLE}.')}") from error
    good[name].add(value)


def _later(
    one: tuple[dict[str, Any], tuple[int, ...] | None],
    other: tuple[dict[str, Any], tuple[int, ...] | None],
    place: Place,
    twice: _Tally,
) -> tuple[dict[str, Any], tuple[int, ...] | None]:
    same = all(one[0][name] == other[0][name] for name in ("metric_value", "metric_stderr"))
    if same and one[1] == other[1]:
        return one
    if one[1] is None or other[1] is None or one[1] == other[1]:
        raise DataError(f"{at(place)}: stands twice, and no time says which is later; one of them is accepted")
    first, last = sorted((one, other), key=lambda run: run[1] or ())
    days = [str(run[0]["evaluated_on"]) for run in (first, last)]
    twice.add((*(last[0][name] for name in ("benchmark", "setting", "metric")), f"of {days[0]}, now of {days[1]}"))
    return last


def _in_range(value: float | None, limits: tuple[float, float], place: Place) -> float | None:
    if value is None:
        return None
    if not limits[0] <= value <= limits[1]:
        percent = "; percentages are not" if limits == _FRACTION and 1 < value <= 100 else ""
        raise DataError(f"{at(place)}: {value:g}; {limits[0]:g}..{limits[1]:g} is accepted{percent}")
    return None if math.isinf(value) else value


def _limits(metric: str) -> tuple[float, float]:
    """The closed range of a metric of the harness; anything where it is not known."""
    if metric in schema.METRIC_RANGES:
        return schema.METRIC_RANGES[metric]
    if metric.startswith(("acc_", "pass@")) or metric.endswith("_acc") or metric in ACCURACIES:
        return _FRACTION
    return schema.METRIC_RANGES["perplexity"] if metric.endswith("_perplexity") else (-math.inf, math.inf)


@lru_cache(maxsize=10_000)
def metrics(keys: tuple[str, ...], filtered: bool) -> Metrics:
    """The metrics among the keys of a task's results, under the database's names.

    Args:
        keys: in the order of the file.
        filtered: whether a metric's key names its filter.

    Raises:
        DataError: a name that the database does not accept.
    """
    parts: dict[str, tuple[str, str]] = {}
    unknown = []
    for key in keys:
        metric, comma, kind = key.partition(",") if filtered else (key, "", "")
        if key in _BOOKKEEPING or metric.removesuffix("_stderr") in _UNSCORED:
            continue
        if filtered and not comma:
            unknown.append(key)
        else:
            parts[key] = metric, kind or "none"
    errors = {key: (metric.removesuffix("_stderr"), kind) for key, (metric, kind) in parts.items() if _is_error(metric)}
    values = {key: part for key, part in parts.items() if key not in errors}
    names = _names(values)
    of_value: dict[str, str] = {}
    by_part = {part: key for key, part in values.items()}
    alone = []
    for key, part in errors.items():
        if part in by_part:
            of_value[by_part[part]] = key
        else:
            alone.append(key)
    for key in tuple(alone):  # some files call the error of an exact match acc_stderr
        bare = [value for value, name in names.items() if name == _name(*errors[key]) and value not in of_value]
        if bare:
            of_value[bare[0]] = key
            alone.remove(key)
    for name in names.values():
        try:
            schema.check_row(TABLE, {"metric": name})
        except DataError as error:
            raise DataError(f"metric: {shown(name)}; a printable name is accepted") from error
    pairs = [Metric(name, key, of_value.get(key), _limits(values[key][0])) for key, name in names.items()]
    return Metrics(pairs, alone, unknown)


def _names(values: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """The database's name of each metric; where several would have one, the later ones keep the harness' name."""
    rivals: dict[str, list[str]] = {}
    for key, part in values.items():
        rivals.setdefault(_name(*part), []).append(key)
    names = {}
    for name, keys in rivals.items():
        first = min(keys, key=lambda key: (_rank(PLAIN_FILTERS, values[key][1]), _rank(ACCURACIES, values[key][0])))
        for key in keys:
            metric, kind = values[key]
            names[key] = name if key == first else metric if kind == "none" else f"{metric},{kind}"
    return names


def _is_error(metric: str) -> bool:
    return metric.endswith("_stderr")


def _name(metric: str, kind: str) -> str:
    name = "accuracy" if metric in ACCURACIES else metric
    return name if kind in PLAIN_FILTERS else f"{name},{kind}"


def _rank(order: tuple[str, ...], name: str) -> int:
    return order.index(name) if name in order else len(order)


class _Tally:
    """Counts cases of one kind and remembers the first."""

    def __init__(self) -> None:
        self._total = 0
        self._first: tuple[str, ...] = ()

    def add(self, case: tuple[str, ...]) -> None:
        self._first = self._first or case
        self._total += 1

    def line(self, why: str, one: str, many: str) -> Iterable[str]:
        if self._total:
            yield f"{self._total} {one if self._total == 1 else many} {why}, e.g. {' '.join(map(label, self._first))}"


def assumed_shots(task: str, *tables: Mapping[str, int]) -> int | None:
    """The shots the first table that knows a task has for it; ``*`` at a name's end stands for any ending."""
    for table in tables:
        if task in table:
            return table[task]
        prefixes = [name for name in table if name.endswith("*") and task.startswith(name[:-1])]
        if prefixes:
            return table[max(prefixes, key=len)]
    return None
