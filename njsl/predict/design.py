"""``predict.py mode=design``: which size, number of tokens and data mix a given compute is predicted to spend best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from njsl.core.run import Run
from njsl.core.types import ConfigError
from njsl.predict import ledger
from njsl.predict.compute import FLOPS_PER_PARAM_TOKEN
from njsl.predict.forecast import Forecast, Forecaster
from njsl.predict.intervals import LEVELS
from njsl.predict.nearest import Neighbours, tokens_per_param
from njsl.predict.plan import OF_SIZE, SHARES, Plan, read_plan
from njsl.predict.whatif import Told, csv, interval, say_again
from njsl.store.metrics import POINTS

BATCH = 32  # plans predicted at once: a forest takes little longer for many rows than for one
SHOWN = 10  # of a Pareto set, spread along the first objective
BEST = 5  # shown of a single objective
AT_BOUND = 0.01  # of the range, of logarithms for size and tokens
SCALE = ("total_params", "total_tokens_billions")


@dataclass(frozen=True)
class Space:
    """What is searched.

    Attributes:
        base: what is known of the plan beside size, tokens and mix.
        flops: 6 N D.
        params: smallest and largest size [parameters] for which size, tokens and tokens per parameter are within those
            of known models.
        shares: smallest and largest share of known models [percent], by name; empty if no feature set reads them.
    """

    base: Plan
    flops: float
    params: tuple[float, float]
    shares: Mapping[str, tuple[float, float]]

    @property
    def names(self) -> list[str]:
        """The coordinates, each from 0 to 1."""
        return ["size", *list(self.shares)[:-1]]

    def plan(self, place: Sequence[float]) -> Plan:
        """The plan at a place of the unit cube: the shares sum to 100 and every one is within its bounds."""
        low, high = np.log(self.params)
        params = round(float(np.exp(low + place[0] * (high - low))))
        tokens = self.flops / (FLOPS_PER_PARAM_TOKEN * params) / 1e9
        shares = mix(place[1:], list(self.shares.values())) if self.shares else []
        return self.base.with_values(
            total_params=params, total_tokens_billions=tokens, **dict(zip(self.shares, shares, strict=True))
        )


def mix(place: Sequence[float], bounds: Sequence[tuple[float, float]]) -> list[float]:
    """Shares that sum to 100 and keep their bounds, from one coordinate (0..1) for each but the last.

    Every share in turn is placed between what the ones after it can still make up for.

    Args:
        place: coordinates.
        bounds: smallest and largest share, as many as coordinates and one more; their sums enclose 100.
    """
    left, shares = 100.0, []
    for number, (low, high) in enumerate(bounds[:-1]):
        after = bounds[number + 1 :]
        low = max(low, left - sum(bound[1] for bound in after))
        high = min(high, left - sum(bound[0] for bound in after))
        shares.append(float(low + place[number] * (high - low)))
        left -= shares[-1]
    return [*shares, left]


@dataclass(frozen=True)
class Objective:
    """One thing to be good at.

    Attributes:
        name: a task, or a metric for all tasks of it.
        tasks: whose mean it is.
        higher_is_better: which way is better.
        unit: of a hundredth of its score.
    """

    name: str
    tasks: tuple[str, ...]
    higher_is_better: bool
    unit: str = POINTS


def run(cfg: DictConfig, run: Run) -> None:
    """Search plans of a given compute.

    Args:
        cfg: a checked ``PredictConfig`` with ``mode=design``.
        run: its folder, not yet claimed.

    Raises:
        NjslError: the config, the plan, the data or the folder are not what they should be.
    """
    console = Console()
    if cfg.design.flops is None or not cfg.design.flops > 0:
        raise ConfigError(f"design.flops: {cfg.design.flops}; a positive number is accepted, e.g. 1e21")
    if cfg.design.trials < 1:
        raise ConfigError(f"design.trials: {cfg.design.trials}; at least 1 is accepted")
    base = Plan(f"design-{cfg.design.flops:g}") if cfg.plan.file is None else read_plan(cfg.plan.file)
    forecaster = Forecaster(cfg, console)
    goals = objectives(cfg, forecaster)
    neighbours = Neighbours(forecaster.known.base)
    space = _space(cfg.design.flops, base, forecaster, neighbours)
    run.claim(database=forecaster.known.database, plan=base.sha256)
    if run.finished:
        say_again(run.output, console)
        return
    plans, found = search(space, goals, forecaster, cfg.design.trials, forecaster.seed)
    chosen = pareto(found, goals) if len(goals) > 1 else ranked(plans, found[0], goals[0])[:BEST]
    out = Told(console)
    trials = _rows(plans, goals, found)
    csv(run.output / "trials.csv", trials)
    flags = ["; ".join([*at_bounds(plans[k], space, neighbours), *neighbours.reach(plans[k]).flags]) for k in chosen]
    csv(run.output / "pareto.csv", trials.loc[chosen].assign(flags=flags))
    _report(out, cfg, forecaster, space, goals, plans, found, chosen, flags)
    named = [Plan(f"{base.name}#{plans[k].sha256[:8]}", base.org, base.family, plans[k].values) for k in chosen]
    predictions = forecaster.forecasts(named)
    lines = [
        ledger.entry(plan, forecaster, cfg.store.view, {key: each.of(k) for key, each in predictions.items()})
        for k, plan in enumerate(named)
    ]
    ledger.append(Path(cfg.plan.ledger).expanduser(), lines)
    run.record(database={"sha256": forecaster.known.database, "view": cfg.store.view})
    out.say(f"{len(lines)} plans appended to {cfg.plan.ledger}; trials.csv and pareto.csv are in {run.output}")
    out.write(run.output)


def objectives(cfg: DictConfig, forecaster: Forecaster) -> list[Objective]:
    """What ``design.objective`` asks for.

    Raises:
        ConfigError: an objective that is neither a task of the run nor a metric of several, one given twice, or none.
    """
    given: Any = cfg.design.objective
    given = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    asked = [given] if isinstance(given, str) else given
    tasks = {task.key.task: task for task in forecaster.tasks}
    of_metric: dict[str, list[str]] = {}
    for name, task in tasks.items():
        of_metric.setdefault(task.key.metric, []).append(name)
    accepted = [*of_metric, *tasks]
    if not isinstance(asked, list) or not asked or len({str(name) for name in asked}) < len(asked):
        raise ConfigError(f"design.objective: {given!r}; one or a list of several of {', '.join(accepted)} is accepted")
    found = []
    for name in asked:
        if name not in accepted:
            raise ConfigError(
                f"design.objective: {name!r} is none of this run's tasks; accepted: {', '.join(accepted)} (see tasks=)"
            )
        members = tuple(of_metric.get(name, [name]))
        metric = tasks[members[0]].metric
        found.append(Objective(name, members, metric.higher_is_better, metric.unit))
    return found


def search(
    space: Space, goals: Sequence[Objective], forecaster: Forecaster, trials: int, seed: int
) -> tuple[list[Plan], list[Forecast]]:
    """Plans that were tried, and their forecasts by objective [plans]; the same seed tries the same plans.

    Args:
        space: what is searched.
        goals: what for.
        forecaster: predicts with its full feature set.
        trials: plans.
        seed: of the sampler, a tree-structured Parzen estimator.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        directions=["maximize" if goal.higher_is_better else "minimize" for goal in goals],
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=2 * BATCH),
    )
    ranges: dict[str, Any] = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in space.names}
    plans: list[Plan] = []
    parts: list[list[Forecast]] = [[] for _ in goals]
    while len(plans) < trials:
        asked = [study.ask(ranges) for _ in range(min(BATCH, trials - len(plans)))]
        batch = [space.plan([trial.params[name] for name in space.names]) for trial in asked]
        for part, goal in zip(parts, goals, strict=True):
            part.append(forecaster.mean(batch, goal.tasks, forecaster.full))
        for number, trial in enumerate(asked):
            study.tell(trial, [float(part[-1].yhat[number]) for part in parts])
        plans += batch
    return plans, [_joined(part) for part in parts]


def pareto(found: Sequence[Forecast], goals: Sequence[Objective]) -> list[int]:
    """Places of the plans that no other beats in every objective, by the first one; of equal plans the first tried."""
    values = np.column_stack(
        [each.yhat if goal.higher_is_better else -each.yhat for each, goal in zip(found, goals, strict=True)]
    )
    kept = []
    for k, row in enumerate(values):
        dominated = ((values >= row).all(axis=1) & (values > row).any(axis=1)).any()
        if not dominated and not (values[:k] == row).all(axis=1).any():
            kept.append(k)
    return sorted(kept, key=lambda k: tuple(-values[k]))


def ranked(plans: Sequence[Plan], found: Forecast, goal: Objective) -> list[int]:
    """Places of the plans, the best first, of plans predicted alike the one tried first."""
    values = found.yhat if goal.higher_is_better else -found.yhat
    order = np.argsort(-values, kind="stable")
    _, first = np.unique(values[order], return_index=True)
    return [int(order[k]) for k in sorted(first)]


def at_bounds(plan: Plan, space: Space, neighbours: Neighbours) -> list[str]:
    """What of a plan lies at an end of what known models have, in words."""
    flags = []
    ratio = neighbours.tokens_per_param()
    ends = {name: neighbours.bounds(name) for name in (*SCALE, *space.shares)}
    ends["tokens per parameter"] = (float(ratio.min()), float(ratio.max()))
    for name, (low, high) in ends.items():
        value = tokens_per_param(plan) if name not in (*SCALE, *SHARES) else plan.number(name)
        if name not in SHARES:
            low, high, value = np.log(low), np.log(high), np.log(value)
        place = (value - low) / (high - low) if high > low else 0.5
        if place < AT_BOUND:
            flags.append(f"{name} at the lower end of the data")
        elif place > 1 - AT_BOUND:
            flags.append(f"{name} at the upper end of the data")
    return flags


def verdict(goal: Objective, found: Forecast, chosen: Sequence[int]) -> str:
    """Whether the search found more than the interval of a prediction, in words."""
    best = max if goal.higher_is_better else min
    gain = abs(float(best(found.yhat)) - float(np.median(found.yhat)))
    spread = float(np.ptp(found.yhat[list(chosen)]))
    width = float((found.high[0] - found.low[0])[list(chosen)].mean())
    parts = [f"the best of {len(found.yhat)} is {100 * gain:.1f} {goal.unit} from the median plan"]
    if len(chosen) > 1:
        parts.append(f"those shown differ by up to {100 * spread:.1f}")
    said = f"{goal.name}: {', '.join(parts)}; the {100 * LEVELS[0]:.0f} % interval is {100 * width:.1f} wide"
    if max(gain, spread) < width:
        return f"{said}: differences below the interval, not distinguishable"
    return f"{said}: " + ("the gain exceeds it" if gain >= width else "the difference exceeds it")


def _space(flops: float, base: Plan, forecaster: Forecaster, neighbours: Neighbours) -> Space:
    sizes, tokens = neighbours.bounds("total_params"), neighbours.bounds("total_tokens_billions")
    ratio = neighbours.tokens_per_param()
    per_token = FLOPS_PER_PARAM_TOKEN * 1e9
    low = max(sizes[0], flops / (per_token * tokens[1]), float(np.sqrt(flops / FLOPS_PER_PARAM_TOKEN / ratio.max())))
    high = min(sizes[1], flops / (per_token * tokens[0]), float(np.sqrt(flops / FLOPS_PER_PARAM_TOKEN / ratio.min())))
    if low > high:
        raise ConfigError(
            f"design.flops: {flops:.3g} cannot be spent within the sizes, tokens and tokens per parameter of the known "
            f"models, whose 6 N D is from "
            f"{neighbours.six_nd().min():.3g} to {neighbours.six_nd().max():.3g}"
        )
    read = any(forecaster.reads(name) for name in SHARES)
    shares = (
        {name: neighbours.bounds(name) for name in SHARES if not neighbours.base[name].isna().all()} if read else {}
    )
    if shares and not sum(b[0] for b in shares.values()) <= 100 <= sum(b[1] for b in shares.values()):
        shares = {}
    return Space(base.without((*OF_SIZE, *SHARES)), flops, (low, high), shares)


def _joined(parts: Sequence[Forecast]) -> Forecast:
    return Forecast(
        np.concatenate([part.yhat for part in parts]),
        np.concatenate([part.low for part in parts], axis=1),
        np.concatenate([part.high for part in parts], axis=1),
        parts[0].n,
    )


def _rows(plans: Sequence[Plan], goals: Sequence[Objective], found: Sequence[Forecast]) -> pd.DataFrame:
    """``trials.csv``: a row per plan; predictions and bounds are fractions."""
    columns: dict[str, Any] = {name: [plan.number(name) for plan in plans] for name in (*SCALE, *SHARES)}
    for goal, each in zip(goals, found, strict=True):
        columns[goal.name] = each.yhat
        for level, low, high in zip(LEVELS, each.low, each.high, strict=True):
            columns |= {f"{goal.name}_low_{100 * level:.0f}": low, f"{goal.name}_high_{100 * level:.0f}": high}
    return pd.DataFrame(columns).rename_axis("trial").reset_index()


def _report(
    out: Told,
    cfg: DictConfig,
    forecaster: Forecaster,
    space: Space,
    goals: Sequence[Objective],
    plans: Sequence[Plan],
    found: Sequence[Forecast],
    chosen: Sequence[int],
    flags: Sequence[str],
) -> None:
    kind = "Pareto set" if len(goals) > 1 else "best plans"
    ends = f"{space.params[0]:.3g} to {space.params[1]:.3g}"
    out.say(
        f"{cfg.design.flops:g} floating-point operations (6 N D), {len(plans)} plans tried, seed {forecaster.seed}, "
        f"sizes {ends}{', shares within those of known models' if space.shares else ''}; "
        f"predictor {forecaster.recipe.name} on {forecaster.full}"
    )
    if dropped := [name for name in OF_SIZE if name in read_values(cfg)]:
        out.say(f"{', '.join(dropped)} of the plan go with its size, which is searched here: left unknown")
    places = np.unique(np.linspace(0, len(chosen) - 1, min(SHOWN, len(chosen))).round().astype(int))
    unit = ", ".join(dict.fromkeys(goal.unit for goal in goals))
    table = Table(
        title=f"{kind}: {len(places)} of {len(chosen)}; expected score and {100 * LEVELS[0]:.0f} % interval \\[{unit}]",
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    for name in ("#", "parameters", "1e9 tokens", *(name.removesuffix("_pct") for name in space.shares)):
        table.add_column(name, justify="right", no_wrap=True)
    for goal in goals:
        table.add_column(goal.name, justify="right", no_wrap=True)
        table.add_column("80 %", justify="right", no_wrap=True)
    for place in places:
        plan = plans[chosen[place]]
        cells = [str(place + 1), f"{plan.number('total_params'):.3g}", f"{plan.number('total_tokens_billions'):.4g}"]
        cells += [f"{plan.number(name):.1f}" for name in space.shares]
        for each in found:
            cells += [f"{100 * each.yhat[chosen[place]]:.1f}", interval(each, 0, chosen[place])]
        table.add_row(*cells)
    out.table(table)
    for place in places:
        if flags[place]:
            out.say(f"#{place + 1}: {flags[place]}")
    for goal, each in zip(goals, found, strict=True):
        out.say(verdict(goal, each, chosen))
    out.say(forecaster.protocol())


def read_values(cfg: DictConfig) -> Mapping[str, Any]:
    """What the plan's file says, if there is one."""
    return {} if cfg.plan.file is None else read_plan(cfg.plan.file).values
