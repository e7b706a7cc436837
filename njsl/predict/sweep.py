"""One table for a multirun: the summaries of all its jobs, with what each job overrode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

FILE = "comparison.csv"


class Comparison(Callback):
    """A Hydra callback that keeps ``comparison.csv`` in the sweep's folder up to date and prints it at the end.

    It is rewritten whenever a job ends, so that a sweep with a failed job has it too.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """After each job; a single run has no sweep to compare."""
        if config.hydra.mode is not None and config.hydra.mode.name == "MULTIRUN":
            write(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """After the last job."""
        folder = Path(config.hydra.sweep.dir)
        if write(folder):
            from rich.console import Console

            show(folder, Console())


def write(folder: Path) -> bool:
    """Write ``comparison.csv`` from the finished jobs below ``folder``; False if none has finished.

    Columns: ``job`` (its folder), ``overrides``, then those of ``summary.csv``.
    """
    import pandas as pd

    from njsl.core.run import write_atomic

    parts = []
    for summary in sorted(folder.glob("*/summary.csv"), key=lambda path: (len(path.parent.name), path.parent.name)):
        record = json.loads((summary.parent / "run.json").read_text(encoding="utf-8"))
        table = pd.read_csv(summary)
        table.insert(0, "job", summary.parent.name)
        table.insert(1, "overrides", " ".join(record["overrides"]))
        parts.append(table)
    if parts:
        write_atomic(folder / FILE, pd.concat(parts, ignore_index=True).to_csv(index=False, lineterminator="\n"))
    return bool(parts)


def show(folder: Path, console: Any) -> None:
    """Print the means of all jobs, accuracy and Brier apart."""
    import pandas as pd
    from rich import box
    from rich.table import Table

    from njsl.predict.metrics import MEAN_TASK
    from njsl.predict.report import METRIC_NAMES, wide

    table = pd.read_csv(folder / FILE, dtype={"job": str})
    means = table[table["task"] == MEAN_TASK]
    shown = Table(title="MAE in points of score", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("job", "predictor", "cv", "features", "tasks", "n", "MAE", "median", "log-lin.", "change [95 %]"):
        shown.add_column(
            name, justify="left" if name in ("predictor", "cv", "features", "tasks") else "right", no_wrap=True
        )
    for row in means.itertuples():
        change = ""
        if pd.notna(row.rel_change_vs_scale):
            low, high = 100 * row.rel_change_low, 100 * row.rel_change_high
            change = f"{100 * row.rel_change_vs_scale:+.0f} % [{low:+.0f}, {high:+.0f}]"
        maes = (f"{100 * value:.2f}" for value in (row.mae, row.mae_median, row.mae_loglinear))
        tasks = f"{METRIC_NAMES[row.metric]}, {row.setting}"
        shown.add_row(row.job, row.predictor, row.cv, row.features, tasks, f"{row.n:.0f}", *maes, change)
    wide(console).print(shown)
    console.print(f"written to {folder / FILE}", highlight=False, soft_wrap=True)
