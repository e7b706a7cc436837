"""``predict.py mode=score``: what came of the plans in the ledger, and whether the intervals kept their word."""

from __future__ import annotations

import csv as csv_file
import hashlib
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from njsl.core.run import Run
from njsl.core.types import ConfigError, DataError
from njsl.predict import ledger
from njsl.predict.figures import save
from njsl.predict.intervals import possible
from njsl.predict.plan import LIMIT_BYTES
from njsl.predict.whatif import Told, csv, say_again
from njsl.store.metrics import POINTS, hundredths
from njsl.store.store import open_store
from njsl.store.strict_yaml import load, one_line
from njsl.store.tasks import find_tasks, task_table
from njsl.store.views import labelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL_TASKS = "(all)"
Truth = dict[str, dict[str, float]]  # plan's name or id -> task -> score


def run(cfg: DictConfig, run: Run) -> None:
    """Fill measured scores into the ledger, and draw calibration.

    Args:
        cfg: a checked ``PredictConfig`` with ``mode=score``.
        run: its folder, not yet claimed.

    Raises:
        NjslError: the config, the ledger, the truth or the folder are not what they should be.
    """
    console = Console()
    path = Path(cfg.plan.ledger).expanduser()
    lines = ledger.read(path)
    plans = [line for line in lines if line["kind"] == "plan"]
    if cfg.score.truth is None:
        truth, source, content = _of_store(cfg, plans)
    else:
        file = Path(cfg.score.truth).expanduser()
        truth, source = read_truth(file), file.name
        content = hashlib.sha256(file.read_bytes()).hexdigest()
    new = fill(plans, [line for line in lines if line["kind"] == "truth"], truth, source)
    scored = joined([*lines, *new])
    if scored.empty:
        raise DataError(
            f"plan.ledger: {path}: none of its {len(plans)} plans has a measured score; score.truth=FILE is accepted, "
            "or a store that holds a model by a plan's name"
        )
    digest = hashlib.sha256(json.dumps(lines).encode()).hexdigest()
    run.claim(ledger=digest, truth=content)
    if run.finished:
        say_again(run.output, console)
        return
    ledger.append(path, new)
    table = calibration(scored)
    csv(run.output / "scored.csv", scored)
    csv(run.output / "calibration.csv", table)
    picture = run.output / "calibration.png"
    save(picture, calibration_figure(scored))
    run.logger.image(picture.stem, picture)
    out = Told(console)
    _report(out, table, scored, plans, new)
    out.say(f"{len(new)} lines of truth appended to {cfg.plan.ledger}; tables and the figure are in {run.output}")
    out.write(run.output)


def read_truth(path: Path) -> Truth:
    """Measured scores, fractions, by a plan's name or id and task.

    Args:
        path: YAML (``plan: {task: score}``) or, by its ending, CSV (columns plan, task, score).

    Raises:
        DataError: it is neither, a task that does not exist, or a score that cannot be.
    """
    return _of_csv(path) if path.suffix == ".csv" else _of_yaml(path)


def fill(
    plans: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]], truth: Truth, source: str
) -> list[dict[str, Any]]:
    """The lines of truth to append: what the ledger does not say already.

    Args:
        plans: the ledger's lines of plans.
        known: its lines of truth.
        truth: by a plan's name or id.
        source: where it is from.

    Raises:
        DataError: no such plan, or a name that several different plans bear.
    """
    said: Truth = {}
    for line in known:
        said.setdefault(line["plan"], {}).update(line["scores"])
    new = []
    for asked, scores in truth.items():
        found = [line for line in plans if asked in (line["id"], line["plan"]["name"])]
        if not found:
            names = list(dict.fromkeys(line["plan"]["name"] for line in plans))
            near = get_close_matches(asked, names, 3) or names[:10]
            raise DataError(f"score.truth: {one_line(asked)} is no plan of the ledger; accepted: {', '.join(near)}")
        different = {json.dumps(line["plan"], sort_keys=True) for line in found}
        if len(different) > 1:
            ids = ", ".join(line["id"] for line in found)
            raise DataError(
                f"score.truth: {len(different)} different plans of the ledger are named {one_line(asked)}; the id of "
                f"the one that was trained is accepted: {ids}"
            )
        for line in found:
            before = said.get(line["id"], {})
            fresh = {task: value for task, value in scores.items() if before.get(task) != value}
            if fresh:
                new.append(
                    {"kind": "truth", "plan": line["id"], "date": ledger.now(), "source": source, "scores": fresh}
                )
    return new


def joined(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per prediction with a measured score; fractions.

    A model that was known when it was predicted does not count; a plan predicted several times by the same predictor
    counts once, as it was first.
    """
    truth: Truth = {}
    for line in lines:
        if line["kind"] == "truth":
            truth.setdefault(line["plan"], {}).update(line["scores"])
    rows = []
    for line in lines:
        if line["kind"] != "plan" or line.get("known"):
            continue
        scores = truth.get(line["id"], {})
        for found in line["predictions"]:
            if found["task"] not in scores:
                continue
            bounds: dict[str, float] = {}
            for level, low, high in zip(line["levels"], found["low"], found["high"], strict=True):
                bounds |= {f"low_{100 * level:.0f}": low, f"high_{100 * level:.0f}": high}
            rows.append(
                {
                    "id": line["id"],
                    "date": line["date"],
                    "plan": line["plan"]["name"],
                    "text": json.dumps(line["plan"], sort_keys=True),
                    "predictor": line["predictor"]["name"],
                    "settings": line["predictor"]["sha256"],
                    "features": found["features"],
                    "task": found["task"],
                    "y": scores[found["task"]],
                    "yhat": found["yhat"],
                    **bounds,
                }
            )
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    same = ["text", "settings", "features", "task"]
    return table.sort_values("date", kind="stable").drop_duplicates(same).drop(columns=["text", "settings"])


def calibration(scored: pd.DataFrame) -> pd.DataFrame:
    """A row per predictor, feature set and task, and over all tasks: n, plans, error, coverage and width.

    ``mae``, ``bias`` (predicted - measured) and widths are fractions; ``coverage_80`` is the share of measured scores
    within the 80 % interval.
    """
    levels = [name.removeprefix("low_") for name in scored.columns if name.startswith("low_")]
    rows = []
    for (predictor, features), part in scored.groupby(["predictor", "features"], sort=False):
        for task, cells in [*part.groupby("task", sort=False), (ALL_TASKS, part)]:
            error = cells["yhat"] - cells["y"]
            row: dict[str, Any] = {"predictor": predictor, "features": features, "task": task, "n": len(cells)}
            row |= {"plans": cells["plan"].nunique(), "mae": error.abs().mean(), "bias": error.mean()}
            for level in levels:
                bounded = cells[cells[f"low_{level}"].notna()]  # few proxies give no interval at a high level
                low, high = bounded[f"low_{level}"], bounded[f"high_{level}"]
                row[f"coverage_{level}"] = ((low <= bounded["y"]) & (bounded["y"] <= high)).mean()
                row[f"width_{level}"] = (high - low).mean()
            rows.append(row)
    return pd.DataFrame(rows)


def calibration_figure(scored: pd.DataFrame) -> Figure:
    """Predicted against measured scores with their intervals, a panel per predictor and feature set."""
    from matplotlib.figure import Figure

    parts = list(scored.groupby(["predictor", "features"], sort=False))
    points = hundredths(task_table()[str(name)].key.metric for name in scored["task"].unique())
    figure = Figure(figsize=(4.4 * len(parts), 4.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(parts), sharex=True, sharey=True))
    levels = sorted((name.removeprefix("low_") for name in scored.columns if name.startswith("low_")), reverse=True)
    ends = [100 * float(scored["y"].min()) - 3, 100 * float(scored["y"].max()) + 3]
    for ((predictor, features), part), axes in zip(parts, panels, strict=True):
        for level, width in zip(levels, (1.0, 3.0), strict=False):
            axes.vlines(
                100 * part["y"], 100 * part[f"low_{level}"], 100 * part[f"high_{level}"],
                lw=width, color="#4477aa", alpha=0.35, label=f"{level} % interval",
            )  # fmt: skip
        axes.plot(100 * part["y"], 100 * part["yhat"], "o", ms=4, color="#ee6677", label="predicted")
        axes.plot(ends, ends, color="black", lw=0.8)
        covered = ", ".join(
            f"{100 * ((part[f'low_{x}'] <= part['y']) & (part['y'] <= part[f'high_{x}'])).mean():.0f} % within {x} %"
            for x in reversed(levels)
        )
        error = 100 * (part["yhat"] - part["y"]).abs().mean()
        axes.set_title(f"{predictor}, {features}: n = {len(part)}\nMAE {error:.2f} {points}; {covered}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_xlabel(f"measured score [{points}]", fontsize=8)
    panels[0].set_ylabel(f"predicted before it was trained [{points}]", fontsize=8)
    panels[0].legend(fontsize=7, loc="upper left")
    figure.suptitle(f"plans: {scored['plan'].nunique()}, tasks: {scored['task'].nunique()}", fontsize=9)
    return figure


def _of_yaml(path: Path) -> Truth:
    truth: Truth = {}
    for name, plan in load(path, LIMIT_BYTES).mapping().items():
        for task, at in plan.mapping().items():
            if not at.empty():
                value = at.scalar()
                where = f"{one_line(path)}: line {at.node.start_mark.line + 1}: {one_line(name)}.{one_line(task)}"
                truth.setdefault(name, {})[task] = _score(task, value, where)
    if not truth:
        raise DataError(f"{one_line(path)}: no score; plan: {{task: score}} is accepted")
    return truth


def _of_csv(path: Path) -> Truth:
    truth: Truth = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv_file.DictReader(file)
            if reader.fieldnames is None or set(reader.fieldnames) != {"plan", "task", "score"}:
                raise DataError(f"{one_line(path)}: columns plan, task, score are accepted")
            for row in reader:
                where = f"{one_line(path)}: line {reader.line_num}"
                if None in row.values() or None in row:
                    raise DataError(f"{where}: plan, task, score are accepted")
                if row["task"] in truth.get(row["plan"], {}):
                    raise DataError(f"{where}: {one_line(row['plan'])}, {row['task']} stands twice; once is accepted")
                truth.setdefault(row["plan"], {})[row["task"]] = _score(row["task"], row["score"], where)
    except OSError as error:
        raise DataError(f"{one_line(path)}: {error.strerror}; a CSV or YAML file is accepted") from error
    except (UnicodeDecodeError, csv_file.Error) as error:
        raise DataError(f"{one_line(path)}: no CSV in UTF-8; columns plan, task, score are accepted") from error
    if not truth:
        raise DataError(f"{one_line(path)}: no score; a line per plan and task is accepted")
    return truth


def _score(task: str, value: Any, where: str) -> float:
    tasks = task_table()
    if task not in tasks:
        near = get_close_matches(task, tasks, 3) or list(tasks)
        raise DataError(f"{where}: no such task {one_line(task)!r}; accepted: {', '.join(near)}")
    low, high = possible(tasks[task])
    try:
        number = float(value) if not isinstance(value, bool) else float("nan")
    except (TypeError, ValueError):
        number = float("nan")
    if not low <= number <= high:
        kind = "a fraction" if tasks[task].metric.unit == POINTS else f"{tasks[task].metric.title}"
        raise DataError(f"{where}: {value!r}; {kind} from {low:g} to {high:g} is accepted")
    return number


def _of_store(cfg: DictConfig, plans: Sequence[Mapping[str, Any]]) -> tuple[Truth, str, str]:
    """Scores of models in the store that bear a plan's name; source and checksum of the store."""
    if not plans:
        raise ConfigError(f"plan.ledger: {cfg.plan.ledger}: no plan; mode=whatif appends one")
    named = list(dict.fromkeys(found["task"] for line in plans for found in line["predictions"]))
    store, _ = open_store(cfg.store)
    with store:
        _, labels = labelled(store, cfg.store.view, find_tasks(named), freegen=False)
        sha256 = store.sha256
    truth: Truth = {}
    for line in plans:
        name = line["plan"]["name"]
        if name in labels.index and not line.get("known"):
            scores = {str(task): float(value) for task, value in labels.loc[name].dropna().items()}
            if scores:
                # By id: of plans that share the name each is compared with what became of it.
                truth[line["id"]] = scores
    return truth, f"store {sha256[:12]}, view {cfg.store.view}", sha256


def _report(
    out: Told, table: pd.DataFrame, scored: pd.DataFrame, plans: Sequence[Mapping[str, Any]], new: Sequence[Any]
) -> None:
    levels = [name.removeprefix("coverage_") for name in table.columns if name.startswith("coverage_")]
    points = hundredths(task_table()[str(name)].key.metric for name in scored["task"].unique())
    for (predictor, features), part in table.groupby(["predictor", "features"], sort=False):
        total = part[part["task"] == ALL_TASKS].iloc[0]
        shown = Table(
            title=f"{predictor}, {features}: plans: {total['plans']}, n = {total['n']} scores \\[{points}]",
            title_justify="left",
            header_style="bold",
            box=box.SIMPLE_HEAD,
            padding=(0, 1),
        )
        shown.add_column("task", no_wrap=True)
        for name in ("n", "MAE", "bias", *(f"within {x} %" for x in levels), *(f"width {x} %" for x in levels)):
            shown.add_column(name, justify="right", no_wrap=True)
        for row in part.to_dict("records"):
            cells = [str(row["task"]), str(row["n"]), f"{100 * row['mae']:.2f}", f"{100 * row['bias']:+.2f}"]
            cells += [f"{100 * row[f'coverage_{x}']:.0f} %" for x in levels]
            cells += [f"{100 * row[f'width_{x}']:.1f}" for x in levels]
            shown.add_row(*cells, style="bold" if row["task"] == ALL_TASKS else None)
        out.table(shown)
    count = scored["plan"].nunique()
    out.say(
        f"{count} of {len({line['plan']['name'] for line in plans})} plans have measured scores. Scores of one plan on "
        "several tasks go together, so n plans say less than n scores; with few plans coverage says little."
    )
    if known := {line["plan"]["name"] for line in plans if line.get("known")}:
        out.say(f"not counted, known when they were predicted: {', '.join(sorted(known))}")
