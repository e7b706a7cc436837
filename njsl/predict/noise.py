"""The noise floor: how far off a prediction must be because the score itself was measured on finitely many items."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from njsl.store.views import TaskFrame

MEAN_ABS = np.sqrt(2 / np.pi)  # E|e| of a normal error e with standard deviation 1


def noise_floor(frames: Iterable[TaskFrame]) -> pd.DataFrame:
    """``noise.csv``: a row per task.

    ``mae_floor`` is the mean absolute error, as a fraction, of who knows every model's true score: the mean over models
    of sqrt(2 / pi) times the label's standard error, the expected absolute value of a normal error. It is over the
    models whose standard error is known, ``n_unknown`` are not, and NaN where none is. Of labels whose benchmarks ask
    the same items twice it is too low (``njsl.store.views.stderrs``).
    """
    rows = []
    for frame in frames:
        stderr = np.full(len(frame.y), np.nan) if frame.stderr is None else frame.stderr
        known = stderr[~np.isnan(stderr)]
        rows.append(
            {
                **frame.task.key._asdict(),
                "n": len(stderr),
                "n_unknown": len(stderr) - len(known),
                "stderr_mean": known.mean() if len(known) else np.nan,
                "stderr_max": known.max() if len(known) else np.nan,
                "mae_floor": MEAN_ABS * known.mean() if len(known) else np.nan,
            }
        )
    columns = ["task", "setting", "metric", "n", "n_unknown", "stderr_mean", "stderr_max", "mae_floor"]
    return pd.DataFrame(rows, columns=columns)
