"""The task table: a row per task in ``data/tasks.csv``, never a file per variant.

A label is the mean score over the benchmarks a row names (``*`` at the end stands for any ending; the 57 subjects of
MMLU stand by name, source arXiv 2009.03300, appendix B, so that other tasks of the same prefix never join them).
``chance`` is the score of guessing: 1/K for K choices under accuracy, 1 - 1/K under the Brier score summed over K
classes, 8 in bits per byte. TruthfulQA's questions have 2 to 13 choices, and its second score is a probability mass:
0.25 is a floor below every label there.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from njsl.core.types import ConfigError, ScoreKey
from njsl.store.metrics import METRICS, Metric


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Attributes:
        key: task, setting and metric.
        benchmarks: names or prefixes ending in ``*``; the label is the mean over those a model has.
        chance: score of guessing, in the metric's unit.
        sets: names of the sets it belongs to.
    """

    key: ScoreKey
    benchmarks: tuple[str, ...]
    chance: float
    sets: tuple[str, ...]

    @property
    def metric(self) -> Metric:
        """What its scores mean."""
        return METRICS[self.key.metric]

    @property
    def higher_is_better(self) -> bool:
        """Which way is better."""
        return self.metric.higher_is_better

    @property
    def floor(self) -> float:
        """Score of a model without any skill."""
        return self.metric.without_skill * self.chance

    @property
    def perfect(self) -> float:
        """Score of a model without any error."""
        return self.metric.perfect


def task_table() -> dict[str, Task]:
    """All tasks by name, in the table's order."""
    with files("njsl.store").joinpath("data/tasks.csv").open(encoding="utf-8") as file:
        return {
            row["task"]: Task(
                ScoreKey(row["task"], row["setting"], row["metric"]),
                tuple(row["benchmarks"].split()),
                float(row["chance"]),
                tuple(row["sets"].split()),
            )
            for row in csv.DictReader(file)
        }


def find_tasks(asked: Any) -> list[Task]:
    """The tasks of a set's name, a task's name, or a list of either, each once, in the order asked for.

    Raises:
        ConfigError: a name that is neither, or nothing asked for.
    """
    table = task_table()
    names = [asked] if isinstance(asked, str) else list(asked) if isinstance(asked, Iterable) else []
    found: dict[str, Task] = {}
    for name in names:
        members = [task for task in table.values() if name == task.key.task or name in task.sets]
        if not members:
            sets = sorted({s for task in table.values() for s in task.sets})
            close = difflib.get_close_matches(str(name), [*table, *sets], 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"tasks: {name!r} is no task or set; {hint}accepted: {', '.join([*sets, *table])}")
        found |= {task.key.task: task for task in members}
    if not found:
        raise ConfigError(f"tasks: {asked!r}; a set's name, a task's name or a list of them is accepted")
    return list(found.values())
