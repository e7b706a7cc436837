"""Figures of a run, one file per predictor, protocol and feature set; every title carries n and the protocol."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from njsl.core.run import write_atomic
from njsl.predict.base import LN_PARAMS, LN_TOKENS
from njsl.predict.features import tag
from njsl.store.metrics import METRICS, hundredths
from njsl.store.views import CATEGORICAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHOD = ["predictor", "cv", "features"]
# Scale is set apart: it would hide in the other groups what they say beyond it.
GROUP_COLORS = {
    "[A] parameters": "#99bbdd",
    "[D] tokens": "#f4b0b8",
    "[A] architecture": "#4477aa",
    "[D] data mix": "#ee6677",
    "[F] free generation": "#228833",
}
GROUP_OF = {"[A]": "[A] architecture", "[D]": "[D] data mix", "[F]": "[F] free generation"}
GROUP_OF_SCALE = {LN_PARAMS: "[A] parameters", LN_TOKENS: "[D] tokens"}
CODE = "code_pct"
MAX_BEESWARM = 18
MAX_FAMILIES = 44  # rows of a figure that stay legible; as many as the paper's models have
DPI = 110
# A file, what draws it, and from which rows.
Job = tuple[Path, Callable[[pd.DataFrame], "Figure"], pd.DataFrame]


def draw(
    folder: Path,
    predicted: pd.DataFrame,
    shap: pd.DataFrame | None,
    importances: pd.DataFrame | None,
    bands: pd.DataFrame | None,
    changes: tuple[pd.DataFrame, pd.DataFrame] | None,
    more: Iterable[Job],
    workers: int | None,
) -> list[Path]:
    """Draw everything the tables hold, in parallel processes; returns the files in a fixed order.

    Args:
        folder: made if absent.
        predicted, shap, importances: the tables of ``metrics``; the latter two, and what follows, are None without
            ``explain``.
        bands: of ``stability.shap_bands``.
        changes: of ``change_point.change_points``.
        more: figures of other tables.
        workers: processes; None is one per core.
    """
    import joblib

    from njsl.predict import change_point, stability

    folder.mkdir(exist_ok=True)
    jobs: list[Job] = []
    for names, rows in predicted.groupby(METHOD, sort=False):
        stem = "__".join(names)
        jobs.append((folder / f"predicted__{stem}.png", predicted_against_actual, rows))
        jobs.append((folder / f"residuals__{stem}.png", residuals_by_family, rows))
    if shap is not None and importances is not None:
        for names, rows in importances.groupby(METHOD, sort=False):
            jobs.append((folder / f"importances__{'__'.join(names)}.png", importances_by_group, rows))
        for names, rows in shap.groupby(METHOD, sort=False):
            stem = "__".join(names)
            if (rows["feature"] == CODE).any():
                jobs.append((folder / f"shap_code_pct__{stem}.png", shap_against_code, rows[rows["feature"] == CODE]))
            for task, part in rows.groupby("task", sort=False):
                jobs.append((folder / f"shap__{stem}__{task}.png", beeswarm, part))
    if bands is not None and shap is not None:
        for names, rows in bands[bands["feature"] == CODE].groupby(METHOD, sort=False):
            mine = shap[(shap[METHOD] == list(names)).all(axis=1) & (shap["feature"] == CODE)]
            path = folder / f"shap_bands_code_pct__{'__'.join(names)}.png"
            jobs.append((path, functools.partial(stability.draw, shap=mine), rows))
    if changes is not None:
        table, points = changes
        jobs.append((folder / "change_points.png", functools.partial(change_point.draw, points=points), table))
    jobs += more
    parallel = joblib.Parallel(n_jobs=min(workers or joblib.cpu_count(), len(jobs)))
    parallel(joblib.delayed(_draw)(*job) for job in jobs)
    return [path for path, *_ in jobs]


def _draw(path: Path, figure: Callable[[pd.DataFrame], Figure], rows: pd.DataFrame) -> None:
    save(path, figure(rows))


def save(path: Path, figure: Figure) -> None:
    """Write a figure with a constrained layout as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write_atomic(path, buffer.getvalue())


def predicted_against_actual(rows: pd.DataFrame) -> Figure:
    """Held-out predictions against measured scores, a panel per task: mean over seeds, bars from lowest to highest."""
    figure, panels = _grid(rows, 3.0)
    for (task, part), axes in zip(rows.groupby("task", sort=False), panels, strict=True):
        models = part.groupby("model", sort=True).agg(
            y=("y", "first"), mid=("yhat", "mean"), low=("yhat", "min"), high=("yhat", "max")
        )
        spread = np.abs(models[["low", "high"]].sub(models["mid"], axis=0).to_numpy().T)
        axes.errorbar(models["y"], models["mid"], yerr=spread, fmt="o", ms=3, lw=0.6, color="#4477aa", alpha=0.7)
        both = np.concatenate([models["y"], models["low"], models["high"]])
        ends = [both.min(), both.max()]
        axes.plot(ends, ends, color="black", lw=0.8)
        mae = 100 * (part["yhat"] - part["y"]).abs().mean()
        axes.set_title(f"{task}: n = {len(models)}, MAE {mae:.2f} {hundredths(part['metric'])}", fontsize=8)
    _label(figure, panels, "measured score", "predicted, held out")
    _title(figure, rows, "held-out predictions; dots: mean over seeds, bars: range over seeds")
    return figure


def residuals_by_family(rows: pd.DataFrame) -> Figure:
    """Signed error per model family: every model of every task, mean over seeds; every metric apart.

    Of more families than are legible those whose errors are largest, each metric's in units of its own mean.
    """
    from matplotlib.figure import Figure

    off = (rows["yhat"] - rows["y"]).groupby([rows["metric"], rows["family"]]).mean().abs().unstack("metric")
    families = sorted((off / off.mean()).mean(axis=1).nlargest(MAX_FAMILIES, keep="first").index, reverse=True)
    shown = "" if len(families) == len(off) else f", the {len(families)} of {len(off)} that are off most"
    rows = rows[rows["family"].isin(families)]
    parts = list(rows.groupby("metric", sort=False))
    figure = Figure(figsize=(4.6 * len(parts), 0.19 * len(families) + 1.2), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(parts), sharey=True))
    jitter = np.random.default_rng(0)
    counts = rows.groupby("family")["model"].nunique()
    for (metric, part), axes in zip(parts, panels, strict=True):
        error = (
            part.assign(error=100 * (part["yhat"] - part["y"]))
            .groupby(["family", "task", "model"])["error"]
            .mean()
            .reset_index()
        )
        height = error["family"].map({name: place for place, name in enumerate(families)}).to_numpy(dtype=float)
        axes.scatter(
            error["error"], height + jitter.uniform(-0.25, 0.25, len(height)), s=5, alpha=0.5, color="#4477aa", lw=0
        )
        middle = error.groupby("family")["error"].mean()
        axes.scatter(middle, [families.index(name) for name in middle.index], marker="|", s=70, color="#ee6677", lw=2)
        axes.axvline(0, color="black", lw=0.8)
        axes.set_yticks(range(len(families)), [f"{name} ({counts[name]})" for name in families], fontsize=7)
        axes.set_title(f"{metric}: {part['task'].nunique()} tasks, {part['model'].nunique()} models", fontsize=8)
        axes.set_xlabel(f"predicted - measured [{METRICS[str(metric)].unit}]", fontsize=8)
    _title(figure, rows, f"residuals by family (models){shown}; red: family mean")
    return figure


def importances_by_group(rows: pd.DataFrame) -> Figure:
    """Share of mean |SHAP| by feature group, a bar per task, and the share of gain beside it where there is one."""
    from matplotlib.figure import Figure

    tasks = list(rows["task"].unique())[::-1]
    grouped = rows.assign(group=rows["feature"].map(GROUP_OF_SCALE).fillna(rows["tag"].map(GROUP_OF)))
    columns = ["shap_abs", *(["gain"] if rows["gain"].notna().any() else [])]
    figure = Figure(figsize=(4.6 * len(columns), 0.26 * len(tasks) + 1.3), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(columns), sharey=True))
    for column, axes in zip(columns, panels, strict=True):
        shares = grouped.pivot_table(index="task", columns="group", values=column, aggfunc="sum").reindex(tasks)
        shares = 100 * shares.div(shares.sum(axis=1).replace(0.0, 1.0), axis=0)
        left = np.zeros(len(tasks))
        for name in [name for name in GROUP_COLORS if name in shares]:
            axes.barh(tasks, shares[name].fillna(0.0), left=left, color=GROUP_COLORS[name], label=name)
            left += shares[name].fillna(0.0).to_numpy()
        axes.set_xlabel("share of mean |SHAP| [%]" if column == "shap_abs" else "share of gain [%]", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_xlim(0, 100)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7)
    models = f"n = {rows['n'].min()} to {rows['n'].max()} held-out models, {rows['n_seeds'].max()} seeds"
    _title(figure, rows, f"what the predictor uses, by feature group; {models}")
    return figure


def shap_against_code(rows: pd.DataFrame) -> Figure:
    """SHAP value of percent code against percent code, a panel per task: mean over seeds, bars the range."""
    figure, panels = _grid(rows, 3.0)
    for (task, part), axes in zip(rows.groupby("task", sort=False), panels, strict=True):
        models = part.groupby("model").agg(
            value=("value", "first"), mid=("shap", "mean"), low=("shap", "min"), high=("shap", "max")
        )
        known = models[models["value"].notna()]
        spread = 100 * np.abs(known[["low", "high"]].sub(known["mid"], axis=0).to_numpy().T)
        axes.errorbar(
            known["value"], 100 * known["mid"], yerr=spread, fmt="o", ms=3, lw=0.6, color="#ee6677", alpha=0.7
        )
        axes.axhline(0, color="black", lw=0.8)
        axes.set_title(f"{task}: {len(known)} of {len(models)} models known", fontsize=8)
    _label(figure, panels, "code in pretraining data [%]", f"SHAP [{hundredths(rows['metric'])}]")
    _title(figure, rows, "association of percent code with the prediction; bars: range over seeds")
    return figure


def beeswarm(rows: pd.DataFrame) -> Figure:
    """SHAP values of one task's held-out models, mean over seeds; grey dots are missing values."""
    from njsl.predict.explain import beeswarm as draw_beeswarm

    # What is known of no model explains nothing, and has no colour.
    features = list(rows.loc[rows["value"].notna(), "feature"].unique())
    rows = rows[rows["feature"].isin(features)]
    values = rows.pivot_table(index="model", columns="feature", values="value", aggfunc="first", dropna=False)[features]
    # A feature that a fold did not select explains nothing there.
    shap = 100 * rows.pivot_table(index="model", columns="feature", values="shap", aggfunc="sum")[features].fillna(0.0)
    shap /= rows["seed"].nunique()
    labels = [f"{tag(name)} {name}" + (" (rank)" if name in CATEGORICAL else "") for name in features]
    figure = draw_beeswarm(shap.to_numpy(), values.loc[shap.index].to_numpy(dtype="float64"), labels, MAX_BEESWARM)
    figure.axes[0].set_xlabel(f"SHAP value [{METRICS[rows['metric'].iloc[0]].unit} of score]", fontsize=8)
    _title(figure, rows, f"{rows['task'].iloc[0]}, n = {len(shap)} held-out models")
    return figure


def _grid(rows: pd.DataFrame, size: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    count = rows["task"].nunique()
    width = min(4, count)
    height = -(-count // width)
    figure = Figure(figsize=(size * width, size * 0.9 * height + 0.4), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(height, width)).ravel())
    for axes in panels[count:]:
        axes.remove()
    for axes in panels[:count]:
        axes.tick_params(labelsize=7)
    return figure, panels[:count]


def _label(figure: Figure, panels: list[Axes], x: str, y: str) -> None:
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)


def _title(figure: Figure, rows: pd.DataFrame, text: str) -> None:
    first = rows.iloc[0]
    seeds = f", {rows['seed'].nunique()} seeds" if "seed" in rows else ""
    figure.suptitle(f"{text}\n{first['predictor']}, features {first['features']}, cv {first['cv']}{seeds}", fontsize=9)
