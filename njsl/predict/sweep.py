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
    for summary in sorted(folder.rglob("summary.csv"), key=lambda path: (len(str(path)), str(path))):
        record = json.loads((summary.parent / "run.json").read_text(encoding="utf-8"))
        table = pd.read_csv(summary)
        table.insert(0, "job", summary.parent.relative_to(folder).as_posix())
        table.insert(1, "overrides", " ".join(record["overrides"]))
        parts.append(table)
    if parts:
        write_atomic(folder / FILE, pd.concat(parts, ignore_index=True).to_csv(index=False, lineterminator="\n"))
    return bool(parts)


def show(folder: Path, console: Any) -> None:
    """Print the means of all jobs, a row per metric."""
    import pandas as pd
    from rich import box
    from rich.table import Table

    from njsl.predict.metrics import MEAN_TASK
    from njsl.predict.report import change, wide
    from njsl.store.metrics import METRICS, hundredths

    table = pd.read_csv(folder / FILE, dtype={"job": str})
    means = table[table["task"] == MEAN_TASK]
    words = table.drop_duplicates("job")["overrides"].str.split()
    common = set.intersection(*map(set, words))
    shown = Table(title=f"MAE in {hundredths(means['metric'])} of score", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("job", "differs in", "predictor", "cv", "features", "tasks"):
        shown.add_column(name, no_wrap=True)
    for name in ("MAE", "median", "log-lin.", "change [95 %]"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in means.itertuples():
        differs = [word for word in row.overrides.split() if word not in common]
        differs = [word for word in differs if word.partition("=")[0] not in ("predictor", "cv", "features")]
        maes = (f"{100 * value:.2f}" for value in (row.mae, row.mae_median, row.mae_loglinear))
        tasks = f"mean {METRICS[row.metric].title}, {row.setting}"
        shown.add_row(row.job, " ".join(differs), row.predictor, row.cv, row.features, tasks, *maes, change(row))
    wide(console).print(shown)
    console.print(f"written to {folder / FILE}", highlight=False, soft_wrap=True, markup=False)
