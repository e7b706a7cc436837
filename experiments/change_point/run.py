"""How often does the change-point test err? Scores are made up on the real models, with and without a change point.

python experiments/change_point/run.py [--draws 400] [--task hellaswag]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from collections.abc import Callable
from dataclasses import replace

import joblib
import numpy as np

from njsl.core.config import StoreConfig
from njsl.predict.change_point import Fit, Rows, bend
from njsl.store import open_store
from njsl.store.tasks import find_tasks
from njsl.store.views import task_frames

SPREAD = 0.04  # of a score about what scale says, a fraction
BOOTSTRAPS = 299
LEVEL = 0.05
Noise = Callable[[Rows, np.random.Generator], np.ndarray]


def family(rows: Rows, random: np.random.Generator, heavy: bool = False) -> np.ndarray:
    """One standard value per family [models], normal or Student's t with 3 degrees of freedom."""
    count = rows.family_of.max() + 1
    return (random.standard_t(3, count) / 3**0.5 if heavy else random.standard_normal(count))[rows.family_of]


def own(rows: Rows, random: np.random.Generator) -> np.ndarray:
    """One standard normal value per model [models]."""
    return random.standard_normal(len(rows.y))


def owners(rows: Rows, random: np.random.Generator) -> np.ndarray:
    """One standard normal value per organisation [models]."""
    org = rows.frame.org[np.isin(rows.frame.ids, rows.ids)]
    _, number = np.unique(org, return_inverse=True)
    return random.standard_normal(number.max() + 1)[number]


def floored(rows: Rows) -> np.ndarray:
    """A score [models] that leaves its floor only at large scale."""
    return (0.25 + 0.5 / (1 + np.exp(0.8 - rows.scale[:, 1] - 0.8 * rows.scale[:, 2]))) / SPREAD


SCENARIOS: dict[str, Noise] = {
    "no family part": own,
    "half is the family's": lambda r, g: 0.71 * family(r, g) + 0.71 * own(r, g),
    "nine tenths are the family's": lambda r, g: 0.95 * family(r, g) + 0.32 * own(r, g),
    "heavy-tailed families": lambda r, g: 0.8 * family(r, g, heavy=True) + 0.6 * own(r, g),
    "organisations too": lambda r, g: 0.6 * owners(r, g) + 0.5 * family(r, g) + 0.6 * own(r, g),
    "a spread of its own per family": lambda r, g: 0.6 * family(r, g) + np.exp(0.6 * family(r, g)) * 0.7 * own(r, g),
    "a slope in scale per family": lambda r, g: (
        0.6 * family(r, g) + 0.4 * family(r, g) * r.scale[:, 1] + 0.6 * own(r, g)
    ),
    "a slope in code per family": lambda r, g: (
        0.6 * family(r, g) + 0.4 * family(r, g) * (r.code - r.code.mean()) / r.code.std() + 0.6 * own(r, g)
    ),
    "scores at the floor": lambda r, g: floored(r) + 0.8 * family(r, g) + 0.6 * own(r, g),
}


def null(rows: Rows, noise: Noise, seed: int) -> tuple[bool, bool]:
    """Whether the line and the bend are called significant where neither is there."""
    random = np.random.default_rng(seed)
    y, signs = SPREAD * noise(rows, random), rows.signs(BOOTSTRAPS)
    straight = Fit(rows, rows.scale, rows.code[:, None]).p_value(y, signs)
    bent = Fit(rows, rows.linear, rows.bends(rows.candidates)).p_value(y, signs)
    return straight <= LEVEL, bent <= LEVEL


def found(rows: Rows, change: float, at: float, seed: int) -> tuple[bool, bool, float, bool, bool, bool]:
    """Power; whether the place is covered, and its width; whether slopes below, above and their difference are."""
    random = np.random.default_rng(seed)
    y = SPREAD * SCENARIOS["half is the family's"](rows, random) + change / 100 * rows.bends(at)[:, 0]
    row = bend(replace(rows, y=y), rows.signs(BOOTSTRAPS))
    slopes = {"slope_below": 0.0, "slope_above": change, "slope_change": change}
    below, above, difference = (row[f"{name}_low"] <= true <= row[f"{name}_high"] for name, true in slopes.items())
    return (
        row["p_hinge"] <= LEVEL,
        row["change_low"] <= at <= row["change_high"],
        row["change_high"] - row["change_low"],
        below,
        above,
        difference,
    )


def main() -> None:
    """Print false-positive rates by scenario, then power and coverage by size and place of the change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--workers", type=int, default=-1)
    parser.add_argument("--task", default="hellaswag")
    arguments = parser.parse_args()
    store, where = open_store(StoreConfig(name="paper", path=None, view="raw"))
    (frame,) = task_frames(store, "raw", find_tasks(arguments.task), freegen=False)
    rows = Rows.of(frame)
    parallel = joblib.Parallel(n_jobs=arguments.workers)
    print(f"store: {where}")
    print(
        f"{arguments.task}: n = {len(rows.y)} in {len(set(rows.family))} families; "
        f"{arguments.draws} made-up score vectors"
    )
    print(f"candidates {rows.candidates[0]:.0f} to {rows.candidates[-1]:.0f} %; nominal 5 %")
    print(f"{'no association':34} {'line found':>11} {'bend found':>11}")
    # Names, not functions, go to the workers: lambdas do not pickle.
    for name in SCENARIOS:
        rates = parallel(joblib.delayed(_null)(rows, name, seed) for seed in range(arguments.draws))
        straight, bent = 100 * np.mean(rates, axis=0)
        print(f"{name:34} {straight:10.1f}% {bent:10.1f}%", flush=True)
    print(
        f"\n{'change of slope [points/%]':>26} {'at [%]':>7} {'found':>7} {'place covered':>14} {'width [%]':>10}"
        f" {'slope below, above and change covered':>38}"
    )
    for change in (0.2, 0.4, 0.6):
        for at in (15.0, 30.0):
            results = parallel(joblib.delayed(found)(rows, change, at, seed) for seed in range(arguments.draws // 2))
            power, place, width, *slopes = np.mean(np.array(results, dtype=float), axis=0)
            print(
                f"{change:26.1f} {at:7.0f} {100 * power:6.0f}% {100 * place:13.0f}% {width:10.0f}"
                + "".join(f" {100 * slope:11.0f}%" for slope in slopes),
                flush=True,
            )


def _null(rows: Rows, name: str, seed: int) -> tuple[bool, bool]:
    return null(rows, SCENARIOS[name], seed)


if __name__ == "__main__":
    main()
