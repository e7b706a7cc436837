"""A population of models: a seeded design that fills the space of decisions, swept by ``train.py -m``, resumable.

``conf/experiment/population.yaml`` names factors and levels; ``${point:NAME}`` anywhere in its config is what the
swept ``population.point`` has of a factor. Points come from a scrambled Sobol' sequence (Owen 1998), whose beginnings
fill the space evenly too: a longer design begins with the shorter one.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from njsl.core.check import meant
from njsl.core.entry import one_line
from njsl.core.run import RECORD, config_sha256, write_atomic
from njsl.core.types import ConfigError

STATUS = "status.csv"
_LOCKS = ".locks"
# What a model is does not depend on these; ``model_sha256`` leaves them out.
_NOT_THE_MODEL = ("stages", "strategy", "trainer", "callbacks", "evaluate", "store", "population")
_DESIGN = ("models", "seed", "factors", "shared_seeds", "repeats")  # what ``design`` reads
_SHARE_DIGITS = 4  # of a drawn mix


def register() -> None:
    """Make ``${point:NAME}`` and ``${point_folder:}`` known to OmegaConf."""
    OmegaConf.register_new_resolver("point", _value, replace=True)
    OmegaConf.register_new_resolver("point_folder", _folder, replace=True)


def design(population: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All points, each the levels of all factors by name, and ``seed``.

    The first ``models`` points are the design's, each with a seed of its own, or, with ``shared_seeds``, all with the
    first of these, then all with the next; then the points that ``repeats`` names come again with further seeds.

    Args:
        population: ``PopulationConfig`` as plain values.

    Raises:
        ConfigError: a factor without levels, a shared seed given twice, or a repeat of a point that is not there.
    """
    return _design(json.dumps(population, sort_keys=True, default=str))


@lru_cache(maxsize=4)
def _design(packed: str) -> list[dict[str, Any]]:
    from scipy.stats import gamma, qmc

    population = json.loads(packed)
    models, factors = population["models"], population["factors"]
    if models < 1:
        raise ConfigError(f"population.models: {models}; at least 1 is accepted")
    widths = {name: _width(name, levels) for name, levels in factors.items()}
    uniform_PD = qmc.Sobol(sum(widths.values()), rng=population["seed"]).random_base2(math.ceil(math.log2(models)))
    points = []
    for number, uniform_D in enumerate(uniform_PD[:models]):
        point: dict[str, Any] = {"seed": number}
        at = 0
        for name, levels in factors.items():
            drawn, at = uniform_D[at : at + widths[name]], at + widths[name]
            if (alphas := _dirichlet(levels)) is not None:
                gammas = [gamma.ppf(u, alpha) for u, alpha in zip(drawn, alphas.values(), strict=True)]
                point[name] = _rounded(dict(zip(alphas, gammas, strict=True)))
            else:
                point[name] = levels[min(int(drawn[0] * len(levels)), len(levels) - 1)]
        points.append(point)
    if shared := population["shared_seeds"]:
        if len(set(shared)) < len(shared) or min(shared) < 0:
            raise ConfigError(f"population.shared_seeds: {shared}; different seeds from 0 on are accepted")
        points = [point | {"seed": seed} for seed in shared for point in points]
    first = max(point["seed"] for point in points) + 1
    for number, repeated in enumerate(population["repeats"], first):
        if not 0 <= repeated < models:
            raise ConfigError(f"population.repeats: point {repeated}; accepted: 0 to {models - 1}")
        points.append(points[repeated] | {"seed": number})
    return points


def _dirichlet(levels: Sequence[Any]) -> Mapping[str, float] | None:
    """The concentrations by corpus, where a factor is drawn and no list of levels."""
    one = levels[0] if len(levels) == 1 else None
    return one["dirichlet"] if isinstance(one, Mapping) and set(one) == {"dirichlet"} else None


def _width(name: str, levels: Any) -> int:
    """How many coordinates of the design a factor takes."""
    if isinstance(levels, list) and levels:
        alphas = _dirichlet(levels)
        if alphas is None:
            return 1
        if isinstance(alphas, Mapping) and len(alphas) > 1 and all(alpha > 0 for alpha in alphas.values()):
            return len(alphas)
    raise ConfigError(
        f"population.factors.{name}: a list of levels, or [dirichlet: {{corpus: concentration, ...}}], above 0, is "
        "accepted"
    )


def _rounded(amounts: Mapping[str, float]) -> dict[str, float]:
    """Shares of four digits that sum to 1: the largest takes what rounding leaves."""
    total = sum(amounts.values())
    shares = {name: round(float(amount / total), _SHARE_DIGITS) for name, amount in amounts.items()}
    largest = max(shares, key=lambda name: shares[name])
    shares[largest] = round(1 - sum(share for name, share in shares.items() if name != largest), _SHARE_DIGITS)
    return shares


def _plain(root: DictConfig) -> dict[str, Any]:
    # Not the swept number: whichever point is asked for, the design is the same.
    values = OmegaConf.to_container(root.population, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key in _DESIGN}


def _value(name: str, *, _root_: DictConfig) -> Any:
    points, number = design(_plain(_root_)), _root_.population.point
    if not 0 <= number < len(points):
        raise ConfigError(f"population.point: {number}; accepted: 0 to {len(points) - 1}")
    value: Any = points[number]
    for word in name.split("."):
        if not isinstance(value, Mapping) or word not in value:
            known = list(value) if isinstance(value, Mapping) else []
            raise ConfigError(f"population.factors: no {name!r}{meant(word, known)}; accepted: {', '.join(known)}")
        value = value[word]
    return value


def _folder(*, _root_: DictConfig) -> str:
    return folder_of(_root_)


def folder_of(cfg: DictConfig) -> str:
    """The name of a point's run folder: its number and what the model is."""
    return f"{cfg.population.point:03d}_{model_sha256(cfg)[:12]}"


def model_sha256(cfg: DictConfig) -> str:
    """What names a model: SHA-256 [hex] of all that it learns from, not of what it is computed on or measured with."""
    return config_sha256(cfg, without=_NOT_THE_MODEL)


def family_sha256(cfg: DictConfig) -> str:
    """What a model's repetitions with other seeds share: the same without the seed."""
    return config_sha256(cfg, without=(*_NOT_THE_MODEL, "seed"))


@contextmanager
def alone(output: Path) -> Iterator[bool]:
    """Whether this process has the run folder for itself: several may work on one sweep, each on points of its own."""
    locks = output.parent / _LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / output.name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def over_budget(cfg: DictConfig, sweep: Path) -> str | None:
    """Why this point is not begun: the budget that the points before it, or the hours so far, have used up."""
    population = cfg.population
    if population.budget_tokens is not None:
        before = sum(point.get("tokens", cfg.tokens) for point in design(_plain(cfg))[: population.point + 1])
        if before > population.budget_tokens:
            return f"{before:,} tokens up to here, population.budget_tokens is {population.budget_tokens:,}"
    if population.budget_hours is not None:
        used = sum(_hours(record) for record in _records(sweep).values())
        if used >= population.budget_hours:
            return f"{used:.2f} hours used, population.budget_hours is {population.budget_hours:g}"
    return None


def _hours(record: Mapping[str, Any]) -> float:
    return float(record.get("facts", {}).get("training_sec", 0.0)) / 3600


def finished(output: Path) -> bool:
    """Whether the folder holds a run that ended well; its name says that it is this one's."""
    return _state(_record(output))[0] == "finished"


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        found = str(error)
    if isinstance(found, dict):
        return found
    # The run itself refuses such a folder; the table says so too.
    return {"state": "failed", "exit_reason": f"failed: {RECORD} is no run's record; remove the folder"}


def _records(sweep: Path) -> dict[str, dict[str, Any]]:
    found = {path.parent.name: _record(path.parent) for path in sorted(sweep.glob(f"*/{RECORD}"))}
    return {name: record for name, record in found.items() if record is not None}


def _state(record: Mapping[str, Any] | None) -> tuple[str, str]:
    if record is None:
        return "waiting", ""
    return str(record.get("state")), str(record.get("exit_reason") or "")


def status(cfg: DictConfig, sweep: Path, refused: Mapping[int, str] = MappingProxyType({})) -> list[dict[str, Any]]:
    """A row per point of the design: its levels, its folder, its state and why it ended.

    A state is ``waiting``, ``running`` (also of a run that was killed), ``finished``, ``failed`` or ``interrupted``.

    Args:
        cfg: of any point.
        sweep: the folder of all run folders.
        refused: why points failed before they had a folder, by point.
    """
    records = _records(sweep)
    rows = []
    for number, point in enumerate(design(_plain(cfg))):
        names = [name for name in records if name.startswith(f"{number:03d}_")]
        name = names[-1] if names else ""
        state, reason = _state(records.get(name))
        if state != "finished" and number in refused:
            state, reason = "failed", refused[number]
        row = {
            "point": number,
            "folder": name,
            "state": state,
            "hours": None,
            "reason": reason if state == "failed" else "",
        }
        if name:
            row["hours"] = round(_hours(records[name]), 4)
        rows.append(
            row | {f"{key}": json.dumps(value) if isinstance(value, dict) else value for key, value in point.items()}
        )
    return rows


class Status(Callback):
    """Keeps ``status.csv`` in a population's folder up to date and at the end says what is left."""

    def __init__(self) -> None:
        self._refused: dict[int, str] = {}
        self._told = False

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """After each job of a population's sweep."""
        if config.hydra.mode is None or config.hydra.mode.name != "MULTIRUN" or config.population.models is None:
            return
        if job_return.status == JobStatus.FAILED and isinstance(job_return._return_value, Exception):
            self._refused[config.population.point] = one_line(job_return._return_value)
        sweep = Path(config.hydra.sweep.dir)
        rows = status(config, sweep, self._refused)
        _write(rows, sweep)
        # Hydra raises the first failure after the last job, and then nothing more is called.
        if config.population.point == len(rows) - 1:
            self._tell(rows, sweep)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """After the last job, where none failed."""
        sweep = Path(config.hydra.sweep.dir)
        if config.population.models is not None and sweep.is_dir() and not self._told:
            self._tell(status(config, sweep, self._refused), sweep)

    def _tell(self, rows: list[dict[str, Any]], sweep: Path) -> None:
        self._told = True
        counts = Counter(row["state"] for row in rows)
        hours = sum(row["hours"] or 0 for row in rows)
        listed = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        print(f"population: {listed}; {hours:.2f} hours of training; {sweep / STATUS}")
        for row in rows:
            if row["state"] == "failed":
                print(f"  point {row['point']}: {row['reason']} ({row['folder'] or 'no folder'})")


def _write(rows: list[dict[str, Any]], sweep: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(sweep / STATUS, text.getvalue())
