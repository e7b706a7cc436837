"""The whole loop: train models on mixes, measure them, let them write, store it all, choose a mix, train that one.

Every step is a verb as a user would start it, and goes on where it was: the same command resumes the loop.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TASKS = ("code_bpb", "prose_bpb")
OBJECTIVE = "[" + ",".join(TASKS) + "]"
# Two layers of 64, on little text of two domains of the Python environment.
SMALL = [
    "corpora.sources.code.max_mib=2",
    "corpora.sources.prose.max_mib=1",
    "data_mix.weights.docs=0",
    "batch_tokens=2048",
    "trainer.threads=2",
]
CHOSEN = ["experiment=mix_target", "model.hidden_size=64", "model.intermediate_size=176", "model.n_layers=2"]
CHOSEN += ["model.n_heads=2"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/loop"), help="where everything goes")
    parser.add_argument("--cache", type=Path, help="prepared text; the user's cache by default")
    parser.add_argument("--models", type=int, default=6, help="mixes; a law of two corpora needs 6")
    parser.add_argument("--tokens", type=int, default=800_000, help="per model")
    given = parser.parse_args()
    output, began = given.output.absolute(), time.monotonic()
    cache = [] if given.cache is None else [f"paths.cache={given.cache.absolute()}"]
    store, sweep = output / "loop.duckdb", output / "train"

    design = [f"population.models={given.models}", "population.shared_seeds=[0]"]
    design += ["population.factors.mix=[{dirichlet: {code: 1.0, prose: 1.0}}]"]
    design += [f"population.factors.tokens=[{given.tokens}]", f"population.point=range(0,{given.models})"]
    run(
        "train.py",
        "-m",
        "experiment=proxies",
        *design,
        *SMALL,
        *cache,
        f"hydra.sweep.dir={sweep}",
        f"store.write={store}",
    )
    for folder in sorted(path.parent for path in sweep.glob("*/run.json")):
        writes = ["mode=generate", f"generator.checkpoint={folder / 'hf'}", "generator.count=60"]
        writes += [
            "generator.max_new_tokens=100",
            "tagger=[lengths,keywords]",
            f"hydra.run.dir={output / 'tag' / folder.name}",
        ]
        run("tag.py", *writes, *cache, f"store.write={store}")
    question = ["mode=mix", "store=folder", f"store.path={store}", f"mix.objective={OBJECTIVE}"]
    question += [f"plan.ledger={output / 'plans.jsonl'}"]
    run("predict.py", *question, f"hydra.run.dir={output / 'predict'}", *cache)
    best = yaml.safe_load((output / "predict" / "data_mix" / "best.yaml").read_text(encoding="utf-8"))
    weights = "data_mix.weights={" + ", ".join(f"{name}: {share}" for name, share in best["weights"].items()) + "}"
    chosen = [*CHOSEN, f"tokens={given.tokens}", weights, f"hydra.run.dir={output / 'best'}"]
    run("train.py", *chosen, *SMALL, *cache)

    found = compared(output)
    (output / "loop.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    shares = ", ".join(f"{share:.0%} {name}" for name, share in best["weights"].items())
    print(f"\nbest of {given.models} proxies: {found['best_proxy']:.4f}; predicted best mix, {shares}:")
    interval = f"[{found['low']:.4f}, {found['high']:.4f}]"
    print(f"  predicted {found['predicted']:.4f} {interval} (80 %), trained {found['trained']:.4f}")
    print(f"mean bits per byte of {', '.join(TASKS)}; one seed; {(time.monotonic() - began) / 60:.1f} minutes; {store}")


def compared(output: Path) -> dict[str, Any]:
    """The chosen mix, as predicted with its 80 % interval and as trained, beside the best proxy."""
    with (output / "predict" / "mixes.csv").open(encoding="utf-8") as file:
        (row,) = (row for row in csv.DictReader(file) if row["mix"] == "best")
    with (output / "predict" / "proxies.csv").open(encoding="utf-8") as file:
        proxies = [float(proxy["objective"]) for proxy in csv.DictReader(file)]
    results = json.loads((output / "best" / "results.json").read_text(encoding="utf-8"))["results"]
    measured = [results[f"heldout_{task.removesuffix('_bpb')}"]["bits_per_byte,none"] for task in TASKS]
    return {
        "mix": {name.removeprefix("share_"): float(value) for name, value in row.items() if name.startswith("share_")},
        "predicted": float(row["objective"]),
        "low": float(row["objective_low_80"]),
        "high": float(row["objective_high_80"]),
        "trained": sum(measured) / len(measured),
        "best_proxy": min(proxies),
        "proxies": len(proxies),
    }


def run(*words: str) -> None:
    """One verb to its end.

    Raises:
        SystemExit: it failed; what it said stands above.
    """
    print("$ python", " ".join(words), flush=True)
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
