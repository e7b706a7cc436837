"""``predict.py mode=whatif``: what is to be expected of a model that nobody has trained yet."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from njsl.core.run import Run, write_atomic
from njsl.core.types import ConfigError, DataError
from njsl.predict import ledger
from njsl.predict.compute import training_compute
from njsl.predict.figures import save
from njsl.predict.forecast import Forecast, Forecaster
from njsl.predict.intervals import LEVELS
from njsl.predict.nearest import HOW, Neighbours, Reach
from njsl.predict.plan import ADDED, MULTIPLIED, OF_SIZE, Plan, read_plan, steps, varied
from njsl.store.metrics import METRICS, hundredths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEAREST = 5
WIDTH = 240  # [characters] a table is as wide as it must be: a cut number is worse than a wrapped line
REPORT = "report.txt"
Predictions = Mapping[tuple[str, str], Forecast]


def run(cfg: DictConfig, run: Run) -> None:
    """Predict one plan, and its variations.

    Args:
        cfg: a checked ``PredictConfig`` with ``mode=whatif``.
        run: its folder, not yet claimed.

    Raises:
        NjslError: the config, the plan, the data or the folder are not what they should be.
    """
    console = Console()
    if cfg.plan.file is None:
        raise ConfigError("plan.file: a value is required with mode=whatif: a YAML file, see experiments/plan_example")
    plan = read_plan(cfg.plan.file)
    asked = {name: steps(name, list(cfg.vary[name])) for name in (*ADDED, *MULTIPLIED) if cfg.vary[name] is not None}
    curves = {name: varied(plan, name, values) for name, values in asked.items()}
    forecaster = Forecaster(cfg, console)
    predictions, moved = _predicted(forecaster, plan, curves)
    run.claim(database=forecaster.known.database, plan=plan.sha256)
    if run.finished:
        say_again(run.output, console)
        return
    out = Told(console)
    reach = Neighbours(forecaster.known.base).reach(plan)
    _print_plan(out, cfg, plan, forecaster)
    out.table(_predictions_table(plan, forecaster, predictions))
    out.say(forecaster.protocol())
    _print_reach(out, plan, forecaster, reach)
    table = prediction_rows([plan], forecaster, predictions)
    csv(run.output / "predictions.csv", table)
    csv(run.output / "neighbours.csv", neighbour_rows(forecaster, reach))
    for name, found in moved.items():
        values = asked[name]
        rows = prediction_rows(curves[name], forecaster, found)
        rows.insert(1, name, np.tile(values, len(rows) // len(values)))
        csv(run.output / f"vary_{name}.csv", rows)
        picture = run.output / f"vary_{name}.png"
        save(picture, curve_figure(name, values, plan, forecaster, found))
        run.logger.image(picture.stem, picture)
        for said in verdict(name, values, forecaster, found):
            out.say(said)
    line = ledger.entry(plan, forecaster, cfg.store.view, predictions)
    ledger.append(Path(cfg.plan.ledger).expanduser(), [line])
    run.record(database={"sha256": forecaster.known.database, "view": cfg.store.view}, plan=line["id"])
    out.say(f"plan {line['id']} appended to {cfg.plan.ledger}; tables are in {run.output}")
    out.write(run.output)


class Told:
    """Prints, and keeps what was printed: a finished run says it again.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = Console(file=console.file, width=max(console.width, WIDTH))
        self._kept = Console(file=io.StringIO(), width=WIDTH)

    def say(self, text: str) -> None:
        """One line."""
        for console in (self._console, self._kept):
            console.print(text, highlight=False, soft_wrap=True, markup=False)

    def table(self, table: Table) -> None:
        """A table."""
        for console in (self._console, self._kept):
            console.print(table, highlight=False)

    def write(self, folder: Path) -> None:
        """Keep it in the run's folder."""
        assert isinstance(self._kept.file, io.StringIO)
        write_atomic(folder / REPORT, self._kept.file.getvalue())


def say_again(folder: Path, console: Console) -> None:
    """Print what a finished run has said."""
    console.print(f"{folder} holds this run, finished; its report:", highlight=False, markup=False, soft_wrap=True)
    console.print((folder / REPORT).read_text(encoding="utf-8"), highlight=False, markup=False, soft_wrap=True)


def _predicted(
    forecaster: Forecaster, plan: Plan, curves: Mapping[str, Sequence[Plan]]
) -> tuple[Predictions, dict[str, Predictions]]:
    """Predictions of the plan and of its curves, all of them asked at once."""
    found = forecaster.forecasts([plan, *itertools.chain.from_iterable(curves.values())])
    moved: dict[str, Predictions] = {}
    start = 1
    for name, plans in curves.items():
        moved[name] = {key: each.of(start, len(plans)) for key, each in found.items()}
        start += len(plans)
    return {key: each.of(0) for key, each in found.items()}, moved


def prediction_rows(plans: Sequence[Plan], forecaster: Forecaster, predictions: Predictions) -> pd.DataFrame:
    """A row per task, feature set and plan; ``yhat`` and the bounds are fractions."""
    parts = []
    metrics = {task.key.task: task.key.metric for task in forecaster.tasks}
    for (task, name), found in predictions.items():
        bounds: dict[str, np.ndarray] = {}
        for level, low, high in zip(LEVELS, found.low, found.high, strict=True):
            bounds |= {f"low_{100 * level:.0f}": low, f"high_{100 * level:.0f}": high}
        facts = {"task": task, "metric": metrics[task], "predictor": forecaster.recipe.name, "features": name}
        parts.append(
            pd.DataFrame({"plan": [plan.name for plan in plans], **facts, "n": found.n, "yhat": found.yhat, **bounds})
        )
    return pd.concat(parts, ignore_index=True)


def neighbour_rows(forecaster: Forecaster, reach: Reach) -> pd.DataFrame:
    """The nearest known models, the nearest first, with features and scores."""
    ids = reach.nearest.index[:NEAREST]
    known = forecaster.known
    rows = known.base.loc[ids].join(known.labels)
    rows.insert(0, "distance", reach.nearest.loc[ids])
    return rows.rename_axis("model").reset_index()


def verdict(name: str, values: Sequence[float], forecaster: Forecaster, predictions: Predictions) -> list[str]:
    """Whether a curve's change is larger than the interval of its predictions, in words."""
    small: list[str] = []
    large: list[str] = []
    for task in (task.key.task for task in forecaster.tasks):
        found = predictions[task, forecaster.full]
        change = float(found.yhat.max() - found.yhat.min())
        width = float((found.high[0] - found.low[0]).mean())
        text = f"{task} {100 * change:.1f} of {100 * width:.1f}"
        (small if change < width else large).append(text)
    where = f"{name} {values[0]:g} to {values[-1]:g}, {forecaster.full}"
    said = hundredths(task.key.metric for task in forecaster.tasks)
    lines = []
    if name == "total_params":
        lines.append(f"{name}: at other sizes {', '.join(OF_SIZE)} are left unknown")
    if small:
        lines.append(
            f"{where}: the whole change is below the width of the {100 * LEVELS[0]:.0f} % interval, not "
            f"distinguishable from none, in {len(small)} of {len(small) + len(large)} tasks [{said}]: "
            f"{', '.join(small)}"
        )
    if large:
        lines.append(f"{where}: the change exceeds the width of the interval [{said}]: {', '.join(large)}")
    return lines


def curve_figure(
    name: str, values: Sequence[float], plan: Plan, forecaster: Forecaster, predictions: Predictions
) -> Figure:
    """Prediction with both bands against the varied value, a panel per task; scale-only as a line beside it."""
    from matplotlib.figure import Figure

    tasks, metrics = zip(*((task.key.task, task.key.metric) for task in forecaster.tasks), strict=True)
    width = min(4, len(tasks))
    height = -(-len(tasks) // width)
    figure = Figure(figsize=(3.1 * width, 2.6 * height + 0.9), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(height, width)).ravel())
    for axes in panels[len(tasks) :]:
        axes.remove()
    low, high = Neighbours(forecaster.known.base).bounds(name)
    for task, metric, axes in zip(tasks, metrics, panels, strict=False):
        found = predictions[task, forecaster.full]
        for level, (below, above) in reversed(list(enumerate(zip(found.low, found.high, strict=True)))):
            axes.fill_between(
                values, 100 * below, 100 * above, color="#4477aa", alpha=(0.30, 0.16)[level], lw=0,
                label=f"{100 * LEVELS[level]:.0f} % interval",
            )  # fmt: skip
        axes.plot(values, 100 * found.yhat, color="#4477aa", lw=1.6, label=forecaster.full)
        if forecaster.full != "scale":
            axes.plot(
                values, 100 * predictions[task, "scale"].yhat, color="#ee6677", lw=1.2, ls="--", label="scale-only"
            )
        for bound in (low, high):
            if min(values) < bound < max(values):
                axes.axvline(bound, color="black", lw=0.7, ls=":")
        axes.set_title(f"{task}{METRICS[metric].remark}, n = {found.n}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_xlabel(name, fontsize=8)
        if name in MULTIPLIED:
            axes.set_xscale("log")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    label = f"{name}; dotted: ends of the known models' range" if _crosses(values, low, high) else name
    article = "an" if forecaster.known.whole == "org" else "a"
    figure.supylabel(f"score [{hundredths(metrics)}]", fontsize=9)
    figure.suptitle(
        f"{plan.name}: prediction against {label}\n"
        f"{forecaster.recipe.name}, associations only; "
        f"intervals: a model of {article} {forecaster.known.group} never seen",
        fontsize=9,
    )
    return figure


def csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table whole or not at all."""
    write_atomic(path, table.to_csv(index=False, lineterminator="\n"))


def compute_line(plan: Plan) -> str:
    """6 N D and the exact count of a plan's training compute, in words."""
    tokens = plan.number("total_tokens_billions") * 1e9
    if math.isnan(tokens):
        return "compute: not known without total_tokens_billions"
    try:
        found = training_compute(dict(plan.values), tokens)
    except DataError as error:
        return str(error)
    exact = (
        f"the matrix products come to {found.exact:.3g} ({found.exact / found.six_nd - 1:+.0%}; attention over "
        f"positions {(found.attention or 0) / found.exact:.0%})"
        if found.exact is not None
        else f"the exact count is open: {found.reason}"
    )
    return f"compute: 6 N D is {found.six_nd:.3g} floating-point operations; {exact}"


def shown(value: Any) -> str:
    """A value of a plan, short."""
    return (
        f"{value:.6g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int) and value is not True
        else str(value)
    )


def interval(found: Forecast, level: int, place: int = 0) -> str:
    """An interval in hundredths of the score."""
    return f"{100 * found.low[level, place]:.1f} .. {100 * found.high[level, place]:.1f}"


def _crosses(values: Sequence[float], low: float, high: float) -> bool:
    return any(min(values) < bound < max(values) for bound in (low, high))


def _print_plan(out: Told, cfg: DictConfig, plan: Plan, forecaster: Forecaster) -> None:
    said = ", ".join(f"{name} {shown(value)}" for name, value in plan.values.items())
    group = ", ".join(f"{name} {value}" for name, value in (("org", plan.org), ("family", plan.family)) if value)
    out.say(f"plan {plan.name} ({group or 'organisation unknown'}): {said}")
    out.say(compute_line(plan))
    known = forecaster.known
    out.say(f"store: {known.where}, view {cfg.store.view}, sha256 {known.database[:12]}")
    if plan.name in known.base.index:
        out.say(f"{plan.name} is among the known models: this is no forecast, and mode=score will not count it")


def _predictions_table(plan: Plan, forecaster: Forecaster, predictions: Predictions) -> Table:
    unit = hundredths(task.key.metric for task in forecaster.tasks)
    table = Table(
        title=f"{plan.name}: expected scores \\[{unit}], {forecaster.recipe.name}",
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column("task", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for name in forecaster.sets:
        table.add_column("scale-only" if name == "scale" else name, justify="right", no_wrap=True)
        for level in LEVELS:
            table.add_column(f"{100 * level:.0f} %", justify="right", no_wrap=True)
    last = ""
    for task in forecaster.tasks:
        if last and task.key.metric != last:
            table.add_section()
        last = task.key.metric
        cells = [f"{task.key.task}{task.metric.remark}"]
        cells.append(str(predictions[task.key.task, forecaster.sets[0]].n))
        for name in forecaster.sets:
            found = predictions[task.key.task, name]
            cells += [f"{100 * found.yhat[0]:.1f}", *(interval(found, level) for level in range(len(LEVELS)))]
        table.add_row(*cells)
    return table


def _print_reach(out: Told, plan: Plan, forecaster: Forecaster, reach: Reach) -> None:
    known = forecaster.known
    ids = list(reach.nearest.index[:NEAREST])
    if ids:
        unit = hundredths(task.key.metric for task in forecaster.tasks)
        table = Table(
            title=f"nearest known models and their scores \\[{unit}]",
            title_justify="left",
            header_style="bold",
            box=box.SIMPLE_HEAD,
            padding=(0, 1),
        )
        table.add_column("", no_wrap=True)
        for name in ids:
            owner, _, short = str(name).rpartition("/")
            table.add_column(f"{owner}/\n{short}" if owner else short, justify="right")
        table.add_row("distance", *(f"{reach.nearest[name]:.2f}" for name in ids))
        for fact in ("total_params", "total_tokens_billions", "code_pct"):
            table.add_row(fact, *(_cell(known.base.at[name, fact], 1) for name in ids), end_section=fact == "code_pct")
        for task in forecaster.tasks:
            table.add_row(task.key.task, *(_cell(known.labels.at[name, task.key.task], 100) for name in ids))
        out.table(table)
        usual = reach.usual
        out.say(f"distance: {HOW}. On the {len(reach.known)} features here: {', '.join(reach.known)}.")
        out.say(
            f"the nearest is {reach.nearest.iloc[0]:.2f} away; known models are {usual.min():.2f} to {usual.max():.2f} "
            f"(median {usual.median():.2f}) from their nearest of another {known.group}"
        )
    for flag in reach.flags:
        out.say(f"outside the data: {flag}")
    if not reach.flags:
        out.say("nothing of the plan lies outside the range of the known models")


def _cell(value: float, factor: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.4g}" if factor == 1 else f"{factor * value:.1f}"
