"""Does the mix that mixture laws choose on small proxies hold at a larger size? One command, resumable at any point.

python experiments/mixture_validation/run.py [--output DIR] [--seeds 3] [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from report import CHOICE, LEDGER, PLANS, SCORE, TARGET, TARGETS, report

ROOT = Path(__file__).parents[2]
OBJECTIVE = "{code_bpb: 0.5, docs_bpb: 0.2, prose_bpb: 0.3}"
FRESH_SEED = 1000  # of the models that put the predictions at the proxies' size to the test: no proxy has it


def main(output: Path, seeds: int, workers: int) -> None:
    """Proxies, choice, what came of the predictions at the proxies' size, the same mixes at the larger size, report.

    Args:
        output: folder of everything; what is finished there is not done again.
        seeds: of every mix at the larger size.
        workers: trainings side by side, a thread each.
    """
    store = output / "proxies.duckdb"
    sweep = ("-m", "experiment=proxies", f"store.write={store}", f"hydra.sweep.dir={output / 'proxies'}")
    side_by_side(workers, [("train.py", *sweep)] * workers)
    # Made once: a choice that saw what was trained after it would be none.
    once("predict.py", output / CHOICE, "mode=mix", "store=folder", f"store.path={store}", f"mix.objective={OBJECTIVE}",
         f"plan.ledger={output / LEDGER}")  # fmt: skip
    table = pd.read_csv(output / CHOICE / "mixes.csv").set_index("mix")
    shares = {
        mix: {name.removeprefix("share_"): row[name] for name in table if name.startswith("share_")}
        for mix, row in table.to_dict("index").items()
    }
    side_by_side(
        workers,
        [
            ("train.py", "experiment=proxies", "population.point=0", f"seed={FRESH_SEED}", weights(shares[mix]),
             f"store.write={output / PLANS}", f"store.id={plan}", f"hydra.run.dir={output / 'plans' / mix}")
            for mix, plan in table["plan"].items()
        ],
    )  # fmt: skip
    once("predict.py", output / SCORE, "mode=score", "store=folder", f"store.path={output / PLANS}",
         f"plan.ledger={output / LEDGER}")  # fmt: skip
    side_by_side(
        workers,
        [
            ("train.py", "experiment=mix_target", f"seed={seed}", weights(of_mix), f"store.write={output / TARGETS}",
             f"store.id={TARGET}/{mix}-s{seed}", f"hydra.run.dir={output / TARGET / f'{mix}-s{seed}'}")
            for seed in range(seeds)
            for mix, of_mix in shares.items()
        ],
    )  # fmt: skip
    print(report(output))


def weights(shares: Mapping[str, float]) -> str:
    """A mix as an override."""
    return "data_mix.weights={" + ", ".join(f"{name}: {share:g}" for name, share in shares.items()) + "}"


def once(entry: str, folder: Path, *words: str) -> None:
    """A run, unless its folder holds it finished."""
    if not finished(folder):
        call(entry, *words, f"hydra.run.dir={folder}")


def finished(folder: Path) -> bool:
    """Whether a run's folder says that it ended well."""
    record = folder / "run.json"
    return record.is_file() and json.loads(record.read_text(encoding="utf-8"))["state"] == "finished"


def side_by_side(workers: int, commands: Iterable[tuple[str, ...]]) -> None:
    """Trainings, so many at a time; those whose folder holds them finished are passed over."""

    def train(words: tuple[str, ...]) -> None:
        folder = Path(words[-1].partition("=")[2])
        if words[1] == "-m" or not finished(folder):
            call(*words, "trainer.threads=1")

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(train, commands))


def call(*words: str) -> None:
    """One of the verbs; what it refuses ends this run too."""
    print("+ python", *words, flush=True)
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/experiments/mixture_validation"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    main(given.output.absolute(), given.seeds, given.workers)
