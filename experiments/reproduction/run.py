"""njsl's `cv=paper` against the paper's own program, seed by seed.

The reference table holds the MAE of the paper's protocol per task, feature set and seed, measured with its own pinned
packages (columns task, setting, metric, featset, seed, mae). It is read from $NJSL_PAPER_DATA/paper_protocol_mae.csv.

    NJSL_PAPER_DATA=DIR python experiments/reproduction/run.py
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
NAMES = {"SL": "scale", "SEL": "selected", "ALL": "all"}
TOLERANCE = 2e-4


def predict(folder: Path, *words: str) -> pd.DataFrame:
    """Run predict.py into ``folder`` and read its metrics."""
    command = [
        sys.executable,
        str(ROOT / "predict.py"),
        "store=paper",
        *words,
        "explain=false",
        f"hydra.run.dir={folder}",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return pd.read_csv(folder / "metrics.csv")


def main() -> None:
    """Print the largest difference per feature set, and the second encoding's check on ARC."""
    reference = pd.read_csv(Path(os.environ["NJSL_PAPER_DATA"]) / "paper_protocol_mae.csv")
    reference["features"] = reference["featset"].map(NAMES)
    key = ["task", "setting", "metric", "features", "seed"]
    with tempfile.TemporaryDirectory() as scratch:
        ours = predict(Path(scratch) / "all", "seeds=[0,1,2,3,4,5,42]", "features=[scale,selected,all]")
        second = predict(
            Path(scratch) / "second",
            *("tasks=arc_challenge", "features=selected", "select=paper", "selection.max_steps=0"),
            *("seeds=[0,1,2,3,4,5,6,7,8,9]", "selection.seeds=[0]"),
        )
    both = ours.merge(reference.dropna(subset="features"), on=key, suffixes=("", "_reference"), validate="1:1")
    both["difference"] = (both["mae"] - both["mae_reference"]).abs()
    print(f"{'features':10} {'rows':>5} {'<= 0.0002':>9} {'largest diff.':>13} {'mean MAE':>9} {'reference':>10}")
    for name, rows in both.groupby("features", sort=False):
        print(
            f"{name:10} {len(rows):5} {(rows['difference'] <= TOLERANCE).sum():9} {rows['difference'].max():13.1e} "
            f"{rows['mae'].mean():9.4f} {rows['mae_reference'].mean():10.4f}"
        )
    print(f"largest difference of the median baseline: {(both['mae_median'] - both['mae_med']).abs().max():.1e}")
    print(f"ARC, the paper's list, its second encoding, seeds 0-9: {second['mae'].mean():.4f} (paper: 0.0348)")


if __name__ == "__main__":
    main()
