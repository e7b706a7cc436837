"""Types and errors shared by every room of the house."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class NjslError(Exception):
    """An error a user can mend: its message is one line that says where, what, and what would be accepted."""


class ConfigError(NjslError):
    """The user wrote it: an unknown key, a wrong type, an option that does not exist."""


class DataError(NjslError):
    """The input is wrong: a missing file, too few rows, a column of another type."""


class StoreError(NjslError):
    """A database cannot be opened, is not what it claims to be, or conflicts with what is there."""


class Preempted(SystemExit):
    """The machine was wanted back: the run stopped at a checkpoint and can go on from there.

    Its exit code is 128 + the signal, as shells have it.
    """


class ScoreKey(NamedTuple):
    """What names one label: a task, its shots and its metric.

    Attributes:
        task: a name of the task table, e.g. ``mmlu_5-shot``.
        setting: shots as the evaluation harness writes them, e.g. ``5-shot``.
        metric: ``accuracy`` (higher is better) or ``brier_score`` (lower is better).
    """

    task: str
    setting: str
    metric: str


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a corpus.

    Attributes:
        text: not empty.
        id: stable and unique within its corpus: the record's own, else file and line.
        group: what a held-out split must keep together, e.g. the package a file comes from; the id where nothing is.
        lang: the language its record names, natural or of programming; None where it names none.
    """

    text: str
    id: str
    group: str
    lang: str | None = None
