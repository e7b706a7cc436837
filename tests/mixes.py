"""A synthetic database of proxies: models alike in all but mix and seed, whose losses follow a known law.

Loss of corpus i in bits per byte: ``FLOOR + exp(sum_j EXPONENTS[i][j] * share_j)``, plus normal noise per run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np

from njsl.store import save, schema

CORPORA = ("code", "docs", "prose")
FLOOR = 2.0
EXPONENTS = np.array([[-1.8, -0.2, 0.1], [-0.3, -2.0, -0.5], [0.2, -0.4, -1.5]])
TRAIN_TOKENS = {"code": 3_000_000, "docs": 2_000_000, "prose": 5_000_000}


def losses(shares: np.ndarray) -> np.ndarray:
    """Bits per byte without noise [mixes, corpora]."""
    return FLOOR + np.exp(shares @ EXPONENTS[:, : shares.shape[1]].T)


def drawn(mixes: int, corpora: int = 3, seed: int = 0) -> np.ndarray:
    """Mixes [mixes, corpora], uniform on the simplex."""
    return np.random.default_rng(seed).dirichlet(np.ones(corpora), mixes)


def write(
    path: Path,
    shares: np.ndarray,
    *,
    repeats: Sequence[int] = (),
    noise: float = 0.005,
    seed_effect: float = 0.0,
    params: Sequence[int] = (1,),
    names: Sequence[str] | None = None,
) -> Path:
    """A DuckDB file of models ``NAME-s<seed>``.

    Args:
        path: a new file.
        shares: of the mixes [mixes, corpora]; with fewer than three corpora the last ones are not there.
        repeats: numbers of mixes that have three seeds; the others have one.
        noise: standard deviation over runs [bits per byte].
        seed_effect: what each further seed adds to every loss [bits per byte].
        params: sizes [parameters]; every one is a group of proxies.
        names: of the mixes, for one size; None: ``local/p<params>m<mix>``.
    """
    random = np.random.default_rng(1)
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in schema.tables()}
    rows["schema_version"].append({"version": schema.VERSION})
    corpora = CORPORA[: shares.shape[1]]
    rows["datasets"] += [{"name": name, "shares_partial": False} for name in corpora]
    taken = {c: {"tokens_taken": 0.5 * TRAIN_TOKENS[c], "epochs": 0.5} for c in corpora}
    metadata = {"tokenizer_sha256": "0" * 64, "corpora": taken}
    for size in params:
        for number, mix in enumerate(shares):
            family = f"local/p{size}m{number:02d}" if names is None else names[number]
            for seed in range(3 if number in repeats else 1):
                name = f"{family}-s{seed}"
                rows["models"].append({"id": name, "family": family})
                rows["model_annotations"].append({"id": name, "total_params": size, "is_instruction_tuned": False})
                rows["dataset_info"].append(
                    {
                        "id": name,
                        "pretraining_summary_total_tokens_billions": 0.0005,
                        "metadata": json.dumps(metadata | {"seed": seed}),
                        "shares_partial": False,
                    }
                )
                rows["training_stages"].append({"id": name, "stage": 1, "name": "pretraining", "optimizer": "adamw"})
                # Two seeds' exact shares may differ by the samples of a block that was not finished.
                exact = mix + 0.002 * seed * (np.arange(len(mix)) == mix.argmin())
                for corpus, share in zip(corpora, exact / exact.sum(), strict=True):
                    rows["stage_datasets"].append(
                        {"id": name, "stage": 1, "dataset": corpus, "share_pct": float(100 * share)}
                    )
                for corpus, loss in zip(CORPORA, losses(mix[None])[0], strict=True):
                    rows["evaluation_results"].append(
                        {
                            "id": name,
                            "benchmark": f"heldout_{corpus}",
                            "setting": "0-shot",
                            "metric": "bits_per_byte",
                            "metric_value": float(loss + seed_effect * seed + noise * random.standard_normal()),
                            "task_version": schema.UNRECORDED,
                            "prompt": schema.UNRECORDED,
                            "shots_assumed": False,
                        }
                    )
    connection = duckdb.connect()
    connection.execute(schema.ddl())
    for table, of_table in rows.items():
        for row in of_table:
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))
    save.create(path, connection)
    return path
