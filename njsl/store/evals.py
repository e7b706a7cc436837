"""Result files of evaluation harnesses -> rows of ``evaluation_results``."""

from __future__ import annotations

import csv
import datetime
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from njsl.core.types import DataError
from njsl.store.layouts import harness, leaderboard, nested
from njsl.store.layouts.scores import TABLE, Found, assumed_shots, rows
from njsl.store.layouts.values import Repeated, label, model_id, read_json, shown, source_name
from njsl.store.records import Origin, Records

_LAYOUTS = (
    "results of lm-evaluation-harness 0.3 and later, of the Open LLM Leaderboard, of lighteval, and the paper's "
    "results.harness are accepted"
)


def result_files(path: Path) -> list[Path]:
    """The result files a path names: itself, or those below a folder, in the order of their paths.

    A file ``*.json`` is one by its name, ``results*.json``, or by what it holds. Links that lead out of the folder are
    not followed.

    Raises:
        DataError: no such path, or a folder without result files.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{_shown(path)}: no such file or folder; a result file or a folder of them is accepted")
    root = Path(os.path.realpath(path))
    found: dict[Path, Path] = {}
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            real = Path(os.path.realpath(file))  # a loop of links is no file, where Path.resolve raises
            if file.suffix == ".json" and real.is_file() and real.is_relative_to(root) and _is_result(file):
                found.setdefault(real, file)
    if not found:
        raise DataError(f"{_shown(path)}: no result files in it; {_LAYOUTS}")
    return sorted(found.values())


def read_evals(
    path: Path,
    *,
    identity: str | None = None,
    shots: Mapping[str, int] = MappingProxyType({}),
) -> Records:
    """The scores of one result file.

    Args:
        path: the file.
        identity: the model's id; else the file's own name for it, with ``org__name`` as ``org/name``. A name that is a
            path stays one.
        shots: of tasks of which the file does not say them, by name or by ``prefix*``; else ``data/shots.csv`` has
            them. Such rows say ``shots_assumed``.

    Returns:
        Rows of ``evaluation_results``: accuracies as fractions, with everything the file says of how they came about.
        ``acc``, ``exact_match`` and ``pass@1`` are ``accuracy``; a filter beside the ordinary ones is part of the
        metric's name, ``accuracy,flexible-extract``. Left out, with a line each, are aggregates whose parts are there,
        scores without a value, and earlier runs of a task that stands twice.

    Raises:
        DataError: the file is unusable, or a value of it: one line with the place. Nothing is imported then.
    """
    try:
        return _read(path, identity, shots)
    except DataError as error:
        raise DataError(f"{_shown(path)}: {error}") from error
    except RecursionError as error:
        raise DataError(f"{_shown(path)}: nested too deeply; JSON of a result file is accepted") from error


def _read(path: Path, identity: str | None, shots: Mapping[str, int]) -> Records:
    data, repeated = read_json(path)
    _refuse_repeats(data, repeated)

    def assume(task: str) -> int:
        known = assumed_shots(task, shots, default_shots())
        if known is None:
            raise DataError(f"results: {label(task)} does not say its shots; give them with --shots TASK=N")
        return known

    found = _found(data, path, assume)
    if not found.entries:
        raise DataError(f"results: empty{_aside(found)}; {_LAYOUTS}")
    if identity is not None:
        name = model_id(identity, "--id")
    elif found.model is not None:
        name = model_id(*found.model)
    else:
        raise DataError("model_name: missing; give it with --id")
    scores, lines = rows(found, name)
    if not scores:
        raise DataError(f"results: no scores, {lines[0]}; {_LAYOUTS}")
    source = source_name(path)
    if not source.isprintable():
        raise DataError(f"{shown(source)}: a printable file name is accepted")
    for row in scores:
        row["source"] = source
    days = [row["evaluated_on"] for row in scores if row.get("evaluated_on") is not None]
    written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).date()
    origin = Origin(source, max(days, default=written), "measured")
    return Records({TABLE: scores}, origin, left_out=found.left_out + lines + _assumed(scores), checked=True)


def _assumed(scores: list[dict[str, Any]]) -> list[str]:
    """A line on the scores whose shots the file does not say, by how many were assumed."""
    settings = Counter(row["setting"] for row in scores if row.get("shots_assumed"))
    told = ", ".join(f"{setting} ({count})" for setting, count in sorted(settings.items()))
    return [f"shots assumed, which the file does not say: {told}; --shots TASK=N says otherwise"] if settings else []


def _found(data: Mapping[str, Any], path: Path, assume: harness.Shots) -> Found:
    if not isinstance(data.get("results"), dict):
        raise DataError(f"results: {shown(data['results']) if 'results' in data else 'missing'}; {_LAYOUTS}")
    if nested.is_nested(data):
        return nested.read(data, assume)
    if leaderboard.is_leaderboard(data):
        return leaderboard.read(data, path)
    if harness.is_modern(data) or harness.is_old(data):
        return harness.read(data, path, assume)
    raise DataError(f"results: unknown layout; {_LAYOUTS}")


def _refuse_repeats(data: Mapping[str, Any], repeated: list[Repeated]) -> None:
    """Only the paper's files name a task twice on purpose, and there the later run is the one to store."""
    results = data.get("results")
    allowed = results.get("harness") if isinstance(results, dict) and nested.is_nested(data) else None
    for found in repeated:
        if found is not allowed:
            names = [name for name, _ in found.pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{label(twice)}: stands twice in one object; once is accepted")


def _aside(found: Found) -> str:
    return f" ({found.left_out[0]})" if found.left_out else ""


@cache
def default_shots() -> Mapping[str, int]:
    """The shots of ``data/shots.csv``, by task or ``prefix*``."""
    with files("njsl.store").joinpath("data/shots.csv").open(encoding="utf-8") as file:
        return {row["benchmark"]: int(row["shots"]) for row in csv.DictReader(file)}


def _is_result(path: Path) -> bool:
    """Whether a file is a result file by its name or, failing that, its content."""
    if path.name.startswith("results"):
        return True
    try:
        data, _ = read_json(path)
    except DataError:
        return False  # any other JSON of the folder
    results = data.get("results")
    whole = isinstance(results, dict) and all(isinstance(part, dict) for part in results.values())
    return whole and any(test(data) for test in _tests())


def _tests() -> Iterator[Any]:
    yield from (nested.is_nested, leaderboard.is_leaderboard, harness.is_modern, harness.is_old)


def _shown(path: Path) -> str:
    return str(path) if str(path).isprintable() else ascii(str(path))
