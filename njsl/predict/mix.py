"""``predict.py mode=mix``: which data mix is best for an objective, by mixture laws fitted on proxies."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from rich.console import Console

from njsl.core.check import build, meant, resolved
from njsl.core.run import Run, code_sha256
from njsl.core.types import ConfigError
from njsl.predict import ledger, mix_report
from njsl.predict.intervals import LEVELS, Conformal, attainable
from njsl.predict.law import Law, agreement, leave_one_mix_out, of_mixes
from njsl.predict.proxies import Proxies, needed, read_proxies
from njsl.predict.simplex import Space, weights
from njsl.predict.whatif import say_again
from njsl.store.store import open_store
from njsl.store.tasks import Task, task_table

OBJECTIVE = "objective"
LEFT_OUT, HELD_OUT = "left_out", "held_out"
BEST, UNIFORM, NATURAL, PROXY, RANDOM = "best", "uniform", "natural", "best_proxy", "random"
DRAWS = 100  # of a law, for the expected regret
PLACES = 512  # mixes among which the best of each draw is sought, beside the named ones


@dataclass(frozen=True)
class Objective:
    """What a mix is to be good for.

    Attributes:
        tasks: rows of the task table.
        weights: of the tasks, summing to 1.
    """

    tasks: tuple[Task, ...]
    weights: np.ndarray

    @property
    def sign(self) -> int:
        """1 where less is better, -1 where more is: what turns scores into losses."""
        return -1 if self.tasks[0].higher_is_better else 1

    @property
    def names(self) -> list[str]:
        """Of its tasks."""
        return [task.key.task for task in self.tasks]

    def __str__(self) -> str:
        return " + ".join(f"{weight:.3g} {name}" for weight, name in zip(self.weights, self.names, strict=True))


@dataclass(frozen=True)
class Comparison:
    """How well every law predicts mixes it has not seen.

    Attributes:
        table: a row per law, ``scored``, and ``target`` (a task or the objective). Rows ``left_out`` score every mix by
            laws fitted on all others; the law of the lowest error there is ``chosen``. Rows ``held_out`` repeat the
            whole with part of the mixes put aside: laws are fitted and one is chosen on the others alone, and scored on
            what was put aside.
        left_out: by law the predictions [mixes, tasks + 1] behind the former.
        held_out: by law those behind the latter, NaN where the mix was not put aside.
    """

    table: pd.DataFrame
    left_out: Mapping[str, np.ndarray]
    held_out: Mapping[str, np.ndarray]

    @property
    def chosen(self) -> str:
        """The law that is taken."""
        return str(self.table.loc[(self.table["scored"] == LEFT_OUT) & self.table["chosen"], "law"].iloc[0])


@dataclass(frozen=True)
class Fitted:
    """A law, fitted for every task of the objective on all proxies.

    Attributes:
        name: of the law.
        objective: what for.
        laws: one per task.
        conformal: what makes intervals, of every task and the objective, from mixes left out; empty without.
        levels: of the intervals that so many mixes give ends.
    """

    name: str
    objective: Objective
    laws: tuple[Law, ...]
    conformal: tuple[Conformal, ...] = ()
    levels: tuple[float, ...] = ()

    def scores(self, shares: np.ndarray) -> np.ndarray:
        """Predicted scores [mixes, tasks], the objective last."""
        found = self.objective.sign * np.column_stack([law.predict(shares) for law in self.laws])
        return np.column_stack([found, found @ self.objective.weights])

    def loss(self, shares: np.ndarray) -> np.ndarray:
        """Predicted objective [mixes], lower for the better."""
        return np.asarray(self.objective.sign * self.scores(shares)[:, -1])

    def intervals(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), each [levels, mixes, tasks + 1], of ``scores``: where one more such run is expected."""
        ends = [each.interval(scores[:, k]) for k, each in enumerate(self.conformal)]
        known = [LEVELS.index(level) for level in self.levels]
        low, high = (np.stack(sides, axis=-1)[known] for sides in zip(*ends, strict=True))
        return low, high

    def regret(self, named: np.ndarray, others: np.ndarray, mixes: int, seed: int) -> np.ndarray:
        """Expected regret [named]: how much worse than the best mix of all, in the mean over draws of the law.

        Args:
            named: mixes [named, corpora].
            others: mixes [mixes, corpora] among which the best may be, beside the named.
            mixes: fitted mixes.
            seed: of the draws.
        """
        random = np.random.default_rng(seed)
        times = random.multinomial(mixes, np.full(mixes, 1 / mixes), DRAWS)
        places = np.vstack([named, others])
        parts = [law.draws(places, times, random) for law in self.laws]
        drawn = np.tensordot(self.objective.weights, np.stack(parts), axes=1)
        result: np.ndarray = (drawn[:, : len(named)] - drawn.min(axis=1, keepdims=True)).mean(axis=0)
        return result


def run(cfg: DictConfig, run: Run) -> None:
    """Choose a law, search the best mix, and set it beside references.

    Args:
        cfg: a checked ``PredictConfig`` with ``mode=mix``.
        run: its folder, not yet claimed.

    Raises:
        NjslError: the config, the data or the folder are not what they should be.
    """
    console = Console()
    if not 0 <= cfg.mix.heldout_frac <= 0.5:
        raise ConfigError(f"mix.heldout_frac: {cfg.mix.heldout_frac:g}; 0 to 0.5 is accepted")
    if cfg.mix.candidates < 1 or cfg.mix.seed < 0:
        raise ConfigError(
            f"mix.candidates, mix.seed: {cfg.mix.candidates}, {cfg.mix.seed}; from 1 and from 0 on is accepted"
        )
    given = resolved(cfg.mix)
    objective = read_objective(given["objective"])
    store, where = open_store(cfg.store)
    with store:
        proxies = read_proxies(store, cfg.store.view, objective.tasks, cfg.mix.like)
        database, known = store.sha256, set(store.table("models")["id"])
    space = Space.of(proxies.corpora, given["bounds"])
    run.claim(database=database)
    if run.finished:
        say_again(run.output, console)
        return
    makers = {name: functools.partial(build, resolved(node)) for name, node in cfg.mixture_law.items()}
    tested = compare(makers, proxies, objective, cfg.mix.heldout_frac, cfg.mix.seed, cfg.workers)
    chosen = tested.chosen
    fitted = fit(chosen, makers[chosen], proxies, objective, tested.left_out[chosen])
    tried = space.sample(cfg.mix.candidates, np.random.default_rng([cfg.mix.seed, 0]))
    best = space.best(fitted.loss, tried, cfg.mix.seed)
    named, absent = references(best, proxies, objective, space, cfg.mix.seed)
    others = space.sample(PLACES, np.random.default_rng([cfg.mix.seed, 1]))
    regret = fitted.regret(np.stack(list(named.values())), others, proxies.mixes, cfg.mix.seed)
    table = prediction_rows(named, fitted, proxies.corpora).assign(expected_regret=regret)
    lines = [_line(cfg, row, fitted, proxies, database, known) for row in table.to_dict("records")]
    table.insert(1, "plan", [line["plan"]["name"] for line in lines])
    told = mix_report.told(console, where, proxies, objective, tested, table, absent)
    mix_report.write(run, proxies, tested, table, tried, fitted)
    ledger.append(Path(cfg.plan.ledger).expanduser(), lines)
    run.record(database={"sha256": database, "view": cfg.store.view}, plans=[line["id"] for line in lines])
    told.say(
        f"{len(lines)} plans appended to {cfg.plan.ledger}; tables are in {run.output}; to train on one of the mixes: "
        f"python train.py --config-dir={run.output} data_mix={BEST}"
    )
    told.write(run.output)


def read_objective(given: Any) -> Objective:
    """What ``mix.objective`` asks for: a task, a list of tasks, or weights by task.

    Raises:
        ConfigError: none of these, a task that does not exist, a weight that is not above 0, or both directions.
    """
    asked = {given: 1.0} if isinstance(given, str) else given
    if isinstance(asked, list):
        asked = dict.fromkeys(asked, 1.0)
    if not isinstance(asked, dict) or not asked:
        raise ConfigError(
            f"mix.objective: {given!r}; a task, a list of tasks or weights by task is accepted, e.g. "
            "'{code_bpb: 0.7, prose_bpb: 0.3}'"
        )
    table = task_table()
    for name, weight in asked.items():
        if name not in table:
            raise ConfigError(f"mix.objective: {name!r} is no task{meant(name, list(table))}; see tasks.csv")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < np.inf:
            raise ConfigError(f"mix.objective.{name}: {weight!r}; a weight above 0 is accepted")
    tasks = tuple(table[name] for name in asked)
    if len({task.higher_is_better for task in tasks}) > 1:
        raise ConfigError(
            f"mix.objective: of {', '.join(asked)} some are better higher, some lower; one way is accepted"
        )
    shares = np.array(list(asked.values()), dtype="float64")
    return Objective(tasks, shares / shares.sum())


def unseen_scores(
    make: Callable[[], Law], shares: np.ndarray, scores: np.ndarray, mix: np.ndarray, objective: Objective
) -> np.ndarray:
    """Predicted scores [mixes, tasks], the objective last, of every mix by laws that saw none of its runs.

    Args:
        make: a law, not fitted.
        shares: [runs, corpora].
        scores: [runs, tasks].
        mix: number of each run's mix [runs], 0 and up.
        objective: weights of the tasks.
    """
    losses = {name: objective.sign * scores[:, k] for k, name in enumerate(objective.names)}
    found = objective.sign * np.column_stack(list(leave_one_mix_out(make, shares, losses, mix).values()))
    return np.column_stack([found, found @ objective.weights])


def compare(
    makers: Mapping[str, Callable[[], Law]],
    proxies: Proxies,
    objective: Objective,
    heldout_frac: float,
    seed: int,
    workers: int | None,
) -> Comparison:
    """Fit every law without each mix in turn, and without the held-out mixes.

    Args:
        makers: laws by name, not fitted.
        proxies: what they are fitted on.
        objective: what they are judged by.
        heldout_frac: share of the mixes put aside; none at 0, and where too few would remain for a fit.
        seed: of that choice and of the bootstrap.
        workers: processes; None is one per core.
    """
    import joblib

    scores = proxies.scores[objective.names].to_numpy("float64")
    count = round(heldout_frac * proxies.mixes)
    count = count if proxies.mixes - count >= needed(len(proxies.corpora)) else 0
    aside = np.random.default_rng([seed, 2]).permutation(proxies.mixes)[:count]
    seen = ~np.isin(proxies.mix, aside)
    parts = [np.ones(len(seen), dtype=bool), *([seen] if len(aside) else [])]
    jobs = [
        joblib.delayed(unseen_scores)(
            make, proxies.shares[part], scores[part], np.unique(proxies.mix[part], return_inverse=True)[1], objective
        )
        for part in parts
        for make in makers.values()
    ]
    found = joblib.Parallel(n_jobs=min(workers or joblib.cpu_count(), len(jobs)))(jobs)
    left_out = dict(zip(makers, found[: len(makers)], strict=True))
    measured = of_mixes(np.column_stack([scores, scores @ objective.weights]), proxies.mix)
    rows = _agreement_rows(LEFT_OUT, left_out, measured, objective, seed, _first(left_out, measured))
    held_out: dict[str, np.ndarray] = {}
    if len(aside):
        inner = dict(zip(makers, found[len(makers) :], strict=True))
        choice = _first(inner, np.delete(measured, aside, axis=0))
        at = of_mixes(proxies.shares, proxies.mix)[aside]
        outer = {
            name: _fit(name, make, proxies.shares[seen], scores[seen], proxies.mix[seen], objective).scores(at)
            for name, make in makers.items()
        }
        rows += _agreement_rows(HELD_OUT, outer, measured[aside], objective, seed, choice)
        for name, values in outer.items():
            held_out[name] = np.full(measured.shape, np.nan)
            held_out[name][aside] = values
    return Comparison(pd.DataFrame(rows), left_out, held_out)


def fit(name: str, make: Callable[[], Law], proxies: Proxies, objective: Objective, unseen: np.ndarray) -> Fitted:
    """A law on all proxies.

    Args:
        name, make: the law.
        proxies, objective: on what, for what.
        unseen: predictions [mixes, tasks + 1] of left-out mixes: their errors for every run make the intervals.
    """
    scores = proxies.scores[objective.names].to_numpy("float64")
    measured = np.column_stack([scores, scores @ objective.weights])
    if (seeds := proxies.shared_seeds) > 1:
        # The laws know what the S seeds have in common; a run with another one lies further from their mean: the
        # variance of its distance is (1 + 1/S) where theirs is (1 - 1/S) of that over seeds.
        means = of_mixes(measured, proxies.mix)[proxies.mix]
        measured = means + np.sqrt((seeds + 1) / (seeds - 1)) * (measured - means)
    predicted = unseen[proxies.mix]
    conformal = [
        Conformal(-np.inf, np.inf).fit(predicted[:, k], measured[:, k], proxies.mix) for k in range(measured.shape[1])
    ]
    fitted = _fit(name, make, proxies.shares, scores, proxies.mix, objective)
    return replace(fitted, conformal=tuple(conformal), levels=attainable(proxies.mixes))


def references(
    best: np.ndarray, proxies: Proxies, objective: Objective, space: Space, seed: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The mixes [corpora] by name that are predicted, the best first; and which are not there, in words.

    Args:
        best: the mix that was found.
        proxies: for the best measured mix, and for what the corpora hold.
        objective: what is best.
        space: only mixes within it are named.
        seed: of the random one.
    """
    scores = proxies.scores[objective.names].to_numpy("float64")
    losses = objective.sign * of_mixes(scores @ objective.weights, proxies.mix)
    measured = of_mixes(proxies.shares, proxies.mix)
    found = {BEST: best, UNIFORM: np.full(len(best), 1 / len(best))}
    absent = []
    if proxies.sizes is None:
        absent.append(f"{NATURAL} (the store does not say how much each corpus holds)")
    else:
        sizes = np.array([proxies.sizes[name] for name in proxies.corpora])
        found[NATURAL] = sizes / sizes.sum()
    inside = [k for k in np.argsort(losses, kind="stable") if space.holds(measured[k])]
    if inside:
        found[PROXY] = measured[inside[0]]
    else:
        absent.append(f"{PROXY} (no proxy is within mix.bounds)")
    found[RANDOM] = space.sample(1, np.random.default_rng([seed, 3]))[-1]
    absent += [f"{name} (outside mix.bounds)" for name, shares in found.items() if not space.holds(shares)]
    return {name: space.rounded(shares) for name, shares in found.items() if space.holds(shares)}, absent


def prediction_rows(named: Mapping[str, np.ndarray], fitted: Fitted, corpora: Sequence[str]) -> pd.DataFrame:
    """A row per mix: shares, predicted scores of the tasks and the objective, their intervals."""
    shares = np.stack(list(named.values()))
    scores = fitted.scores(shares)
    targets = [*fitted.objective.names, OBJECTIVE]
    lows, highs = fitted.intervals(scores)
    columns: dict[str, Any] = {"mix": list(named)}
    columns |= {f"share_{name}": shares[:, k] for k, name in enumerate(corpora)}
    for k, name in enumerate(targets):
        columns[name] = scores[:, k]
        for level, low, high in zip(fitted.levels, lows[:, :, k], highs[:, :, k], strict=True):
            columns |= {f"{name}_low_{100 * level:.0f}": low, f"{name}_high_{100 * level:.0f}": high}
    return pd.DataFrame(columns)


def _fit(
    name: str, make: Callable[[], Law], shares: np.ndarray, scores: np.ndarray, mix: np.ndarray, objective: Objective
) -> Fitted:
    numbers = np.unique(mix, return_inverse=True)[1]
    laws = [make().fit(shares, objective.sign * scores[:, k], numbers) for k in range(scores.shape[1])]
    return Fitted(name, objective, tuple(laws))


def _first(unseen: Mapping[str, np.ndarray], measured: np.ndarray) -> str:
    """The law of the lowest mean absolute error in the objective."""
    return min(unseen, key=lambda name: float(np.abs(unseen[name][:, -1] - measured[:, -1]).mean()))


def _agreement_rows(
    scored: str, found: Mapping[str, np.ndarray], measured: np.ndarray, objective: Objective, seed: int, choice: str
) -> list[dict[str, Any]]:
    return [
        {"law": law, "scored": scored, "target": target, "chosen": law == choice}
        | agreement(values[:, k], measured[:, k], seed)
        for law, values in found.items()
        for k, target in enumerate([*objective.names, OBJECTIVE])
    ]


def _line(
    cfg: DictConfig, row: Mapping[str, Any], fitted: Fitted, proxies: Proxies, database: str, known: Collection[str]
) -> dict[str, Any]:
    """The ledger's line of a named mix: what a model like the proxies, trained on it, is predicted to score."""
    mix = weights(proxies.corpora, np.array([row[f"share_{name}"] for name in proxies.corpora]))
    plan = {"mix": mix, "total_params": proxies.params, "total_tokens_billions": proxies.tokens / 1e9}
    name = f"mix/{row['mix']}-{_sha256(plan)[: ledger.ID_LENGTH // 2]}"

    def predicted(target: str) -> dict[str, Any]:
        ends = {end: [row[f"{target}_{end}_{100 * level:.0f}"] for level in fitted.levels] for end in ("low", "high")}
        return {"n": proxies.mixes, "yhat": row[target], **ends}

    node = resolved(cfg.mixture_law[fitted.name])
    return ledger.dated(
        {
            "database": {"sha256": database, "view": cfg.store.view},
            "predictor": {"name": fitted.name, "sha256": _sha256(node), "params": node, "seed": cfg.mix.seed},
            "code": code_sha256(),
            "plan": {"name": name, **plan},
            "known": name in known,
            "levels": list(fitted.levels),
            "predictions": [{"task": task, "features": "shares", **predicted(task)} for task in fitted.objective.names],
            "objective": {
                "weights": dict(zip(fitted.objective.names, fitted.objective.weights.tolist(), strict=True)),
                **predicted(OBJECTIVE),
                "expected_regret": row["expected_regret"],
            },
        }
    )


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
