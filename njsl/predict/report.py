"""What a run leaves behind: tables, figures, and the table on the terminal."""

from __future__ import annotations

import functools
import io
import math
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from njsl.core.run import Run, write_atomic
from njsl.predict import change_point, metrics, stability
from njsl.predict.coverage import coverage, coverage_figure
from njsl.predict.decisions import MIXES, decisions, mixes, mixes_figure, model_facts
from njsl.predict.evaluate import Result, Unit
from njsl.predict.noise import noise_floor
from njsl.predict.significance import significance as significance_table
from njsl.store.metrics import METRICS, POINTS

MIN_WIDTH = 118  # [characters] three feature sets side by side
PROTOCOL = {
    "none": "",
    "paper": "features selected on the models that are scored: optimistic",
    "nested": "features selected inside every training fold",
}


def write(
    run: Run,
    pairs: list[tuple[Unit, Result]],
    histories: list[tuple[Unit, list[list[dict[str, Any]]]]],
    select: str,
    view: str,
    *,
    significance: bool,
) -> None:
    """Write every table and figure of a run into its folder and send the summary to its logger.

    Args:
        run: the claimed run.
        pairs: all units with their results, in order.
        histories: what forward selection did; see ``metrics.selection_table``.
        select, view: as configured, for the tables' columns.
        significance: also ``significance.csv``.
    """
    table = metrics.metrics(pairs, view)
    predicted = metrics.predictions(pairs)
    bootstrap = metrics.FamilyBootstrap(predicted)
    summary = metrics.summary(table, bootstrap)
    _csv(run.output / "metrics.csv", table)
    _csv(run.output / "summary.csv", summary)
    frames = list({unit.frame.task.key.task: unit.frame for unit, _ in pairs}.values())
    facts = model_facts(frames)
    drawn = [(own := mixes(predicted), "mixes", mixes_figure)]
    if pairs[0][0].intervals:
        drawn.append((coverage(predicted), "coverage", coverage_figure))
        _csv(run.output / "coverage.csv", drawn[-1][0])
    _csv(run.output / "noise.csv", noise_floor(frames))
    _csv(run.output / "decisions.csv", decisions(predicted, facts))
    if len(own):
        _csv(run.output / "mixes.csv", own)
        _csv(run.output / "mixes_decisions.csv", decisions(predicted[predicted["org"] == MIXES], facts))
    # Where features were selected, scale-only without selection is there for comparison and stays in the tables above.
    pairs_asked = [(unit, result) for unit, result in pairs if unit.select == select]
    predicted = predicted[predicted["select"] == select].drop(columns="select")
    _parquet(run.output / "predictions.parquet", predicted)
    if significance and metrics.is_baseline(table).any():
        _csv(run.output / "significance.csv", significance_table(pairs, table, bootstrap))
    if select != "none":
        _csv(run.output / "selection.csv", stability.selection_shares(metrics.selection_table(histories)))
    shap = gains = bands = changes = None
    if pairs[0][0].explain:
        shap = metrics.shap_table(pairs_asked)
        gains = metrics.importances(pairs_asked, shap)
        _parquet(run.output / "shap.parquet", shap)
        _csv(run.output / "importances.csv", gains)
        bands = stability.shap_bands(shap, predicted, workers=run.cfg.workers)
        _csv(run.output / "shap_bands.csv", bands)
        changes = change_point.change_points(frames, workers=run.cfg.workers)
        _csv(run.output / "change_points.csv", changes[0])
    if select == "nested" or shap is not None:
        _csv(run.output / "stability.csv", stability.stability(histories, pairs_asked, shap))
    from njsl.predict import figures

    folder = run.output / "figures"
    more = [
        (folder / f"{stem}__{'__'.join(names)}.png", figure, rows)
        for rows_of, stem, figure in drawn
        for names, rows in rows_of[rows_of["select"] == select].groupby(["predictor", "cv", "features"], sort=False)
    ]
    for path in figures.draw(folder, predicted, shap, gains, bands, changes, more, run.cfg.workers):
        run.logger.image(path.stem, path)
    for row in summary.itertuples():
        name = f"{row.cv}/{row.predictor}/{row.features}/{row.metric}/{row.task}"
        run.logger.summary({f"{name}/mae": row.mae, f"{name}/rel_change_vs_scale": row.rel_change_vs_scale})


def show(folder: Path, console: Console) -> None:
    """Print the summary of a finished run: errors in hundredths of the score, n and protocol beside them."""
    summary = pd.read_csv(folder / "summary.csv", dtype={"task": str})
    console = wide(console)
    for (predictor, cv, select, view), rows in summary.groupby(metrics.METHOD, sort=False):
        seeds = int(rows["n_seeds"].max())
        note = "; ".join(part for part in (f"{seeds} seed{'s' * (seeds > 1)}, view {view}", PROTOCOL[select]) if part)
        console.print(_table(rows, f"{predictor}, cv {cv} ({note})"))
    say = functools.partial(console.print, highlight=False, soft_wrap=True, markup=False)
    metric_names = list(dict.fromkeys(summary["metric"]))
    say("MAE in points of score on held-out models, mean over seeds; lower is better. change: against scale-only, of")
    say("errors pooled over models, with the 95 % interval of a paired bootstrap over families. Associations only.")
    for metric in (METRICS[name] for name in metric_names if METRICS[name].unit != POINTS):
        say(f"A point of {metric.title} is {metric.hundredth}.")
    features = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["features"]
    shown = set(summary["features"])
    listed = [name for name, wanted in features.items() if "selected" in wanted["groups"] and name in shown]
    for name in listed:
        say(f"{name}: the paper's list per task, chosen on the very models that are scored here: optimistic.")
    say(f"written to {folder}")


def wide(console: Console) -> Console:
    """The same console, wide enough for a whole table: a cut number is worse than a wrapped line."""
    return Console(file=console.file, width=max(console.width, MIN_WIDTH))


def _table(rows: pd.DataFrame, title: str) -> Table:
    sets = list(dict.fromkeys(rows["features"]))
    known = rows.groupby("features")["rel_change_vs_scale"].first().notna()
    compared = [name for name in sets if known[name] and not metrics.is_baseline(rows[rows["features"] == name]).all()]
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("task", no_wrap=True)
    for name in ("n", "median", "log-lin."):
        table.add_column(name, justify="right", no_wrap=True)
    for name in sets:
        width = rows.loc[rows["features"] == name, "n_features"]
        size = f"{width.min():.0f}" if width.min() == width.max() else f"{width.min():.0f}-{width.max():.0f}"
        table.add_column(f"{name}\n({size})", justify="right", no_wrap=True)
        if name in compared:
            table.add_column("change\n[95 %]", justify="right", no_wrap=True)
    for metric, part in ((str(name), part) for name, part in rows.groupby("metric", sort=False)):
        for task, cells in ((str(name), cells) for name, cells in part.groupby("task", sort=False)):
            cell = cells.set_index("features")
            first = cell.iloc[0]
            label = (
                f"mean {METRICS[metric].title}, {first.setting}" if task == metrics.MEAN_TASK else _label(first, task)
            )
            values = [
                label,
                _models(part, task, first.n),
                *(_points(first[name]) for name in ("mae_median", "mae_loglinear")),
            ]
            for name in sets:
                values += [_points(cell.at[name, "mae"]), *([change(cell.loc[name])] if name in compared else [])]
            table.add_row(*values, style="bold" if task == metrics.MEAN_TASK else None)
        table.add_section()
    return table


def _label(row: pd.Series, task: str) -> str:
    return f"{task.removesuffix('_' + row.setting)} ({row.setting})"


def _models(rows: pd.DataFrame, task: str, n: float) -> str:
    """Models scored; for a mean over tasks the fewest and the most."""
    if task != metrics.MEAN_TASK:
        return f"{n:.0f}"
    sizes = rows.loc[rows["task"] != metrics.MEAN_TASK, "n"]
    return f"{sizes.min():.0f}" if sizes.min() == sizes.max() else f"{sizes.min():.0f}-{sizes.max():.0f}"


def _points(value: float) -> str:
    return f"{100 * value:.2f}"


def change(row: Any) -> str:
    """A relative change with its interval, in percent; empty without scale-only."""
    if math.isnan(row.rel_change_pooled):
        return ""
    return f"{100 * row.rel_change_pooled:+.0f} % [{100 * row.rel_change_low:+.0f}, {100 * row.rel_change_high:+.0f}]"


def _csv(path: Path, table: pd.DataFrame) -> None:
    write_atomic(path, table.to_csv(index=False, lineterminator="\n"))


def _parquet(path: Path, table: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomic(path, buffer.getvalue())
