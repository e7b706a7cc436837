"""A synthetic population of small models, as sweeps of train.py leave one: layout 2, known formulas, no real scores.

Every label follows parameters, tokens, the mix and the switches by ``truth``, plus noise of ``NOISE``, so that a test
knows what there is to find and how near it can come. Everything is drawn from one seed.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from njsl.store import schema
from njsl.store.edit import Editor
from njsl.store.load import empty
from njsl.store.records import Origin, Records
from njsl.store.save import export

CORPORA = ("code", "docs", "prose")
DOMAINS = {"code": "code", "docs": "reference", "prose": "web"}
SIZES = {100_000: (64, 4, 2), 330_000: (96, 4, 3), 930_000: (128, 8, 5)}  # parameters: width, heads, layers
TOKENS = (150_000, 300_000, 700_000, 1_500_000)
CODE = (0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)
SWITCHES: dict[str, tuple[Any, Any]] = {  # the usual value, then the other one, which costs COST
    "positional_embeddings": ("rope", "alibi"),
    "layer_norm_type": ("rmsnorm", "parametric"),
    "activation": ("swiglu", "gelu"),
    "block_type": ("sequential", "parallel"),
    "biases": ("none", "all"),
    "weight_tying": (True, False),
}
COST = {"positional_embeddings": 0.05, "layer_norm_type": 0.0, "activation": 0.03, "block_type": 0.02, "biases": 0.0}
COST["weight_tying"] = -0.04
VOCABULARY = 2000
NOISE = 0.01  # standard deviation of every label's noise; of shares of tokens and words a tenth of it
POINTS = 66
REPEATS = 3  # further seeds at each of the first two points
DAY = datetime.date(2026, 1, 1)


def truth(params: float, tokens: float, shares: dict[str, float], switches: dict[str, Any]) -> dict[str, float]:
    """Bits per byte of each corpus without noise.

    Args:
        params: without embeddings.
        tokens: trained on.
        shares: fractions by corpus.
        switches: by name in ``SWITCHES``.
    """
    scale = 1.2 + 0.5 * (params / 1e6) ** -0.25 + 0.6 * (tokens / 1e6) ** -0.3
    cost = sum(COST[name] * (value != SWITCHES[name][0]) for name, value in switches.items())
    return {corpus: scale + cost - 0.6 * np.sqrt(shares[corpus]) for corpus in CORPORA}


def write(folder: Path, points: int = POINTS, repeats: int = REPEATS) -> Path:
    """Write the export of ``points + 2 * repeats`` models into a new folder.

    Args:
        folder: a new one.
        points: of the design, a family each.
        repeats: further seeds at the first two points.
    """
    random = np.random.default_rng(0)
    cells = list(itertools.product(SIZES, TOKENS, CODE))
    order = random.permutation(len(cells))
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in schema.tables()}
    tables["datasets"] = [{"name": corpus} for corpus in CORPORA]
    for point in range(points):
        params, tokens, code = cells[order[point % len(cells)]]
        docs = (1 - code) * random.choice([0.25, 0.5, 0.75])
        shares = dict(zip(CORPORA, (code, docs, 1 - code - docs), strict=True))
        switches = {name: values[int(random.random() < 0.4)] for name, values in SWITCHES.items()}
        for seed in range(1 + repeats * (point < 2)):
            for table, rows in _model(random, point, seed, params, tokens, shares, switches).items():
                tables[table] += rows
    with empty() as connection:
        editor = Editor(connection, DAY)
        (outcome,) = editor.add([Records(tables, Origin("a sweep of train.py", DAY, "measured"))])
        assert outcome.reason is None, outcome.reason
        editor.flush()
        export(connection, tuple(schema.tables()), folder)
    return folder


def _model(
    random: np.random.Generator,
    point: int,
    seed: int,
    params: int,
    tokens: int,
    shares: dict[str, float],
    switches: dict[str, Any],
) -> dict[str, list[dict[str, Any]]]:
    """The rows of one model, by table."""
    family = hashlib.sha256(f"point {point}".encode()).hexdigest()[:12]
    sha256 = hashlib.sha256(f"point {point} seed {seed}".encode()).hexdigest()
    name, (dimension, heads, layers) = f"micro/{sha256[:12]}", SIZES[params]
    embedding = VOCABULARY * dimension * (1 if switches["weight_tying"] else 2)
    ffn = dimension * (3 if switches["activation"] == "swiglu" else 4)
    percent = {f"pretraining_summary_percentage_{domain}": 0.0 for domain in schema.SHARES}
    percent |= {f"pretraining_summary_percentage_{DOMAINS[corpus]}": 100 * share for corpus, share in shares.items()}
    measured = {
        corpus: value + random.normal(0, NOISE) for corpus, value in truth(params, tokens, shares, switches).items()
    }
    scores = {}
    for corpus, bits in measured.items():
        scores[f"heldout_{corpus}", "bits_per_byte"] = bits
        scores[f"heldout_{corpus}", "loss_nats"] = bits * 2.2
        scores[f"heldout_{corpus}", "top1"] = float(np.clip(0.9 - 0.25 * bits + random.normal(0, NOISE / 10), 0, 1))
        scores[f"last_word_{corpus}", "accuracy"] = max(0.0, 0.3 - 0.1 * bits + random.normal(0, NOISE / 10))
    scores["human_eval_bpb", "bits_per_byte"] = measured["code"] + 0.3 + random.normal(0, NOISE)
    scores["human_eval_bpb", "top1"] = 0.85 - 0.25 * measured["code"] + random.normal(0, NOISE / 10)
    return {
        "models": [{"id": name, "family": f"micro/{family}"}],
        "model_annotations": [
            {
                "id": name,
                **switches,
                "dimension": dimension,
                "num_heads": heads,
                "num_kv_heads": heads,
                "head_dimension": dimension // heads,
                "num_layers": layers,
                "ffn_dimension": ffn,
                "mlp_ratio": ffn / dimension,
                "sequence_length": 256,
                "attention_variant": "full",
                "vocab_size": VOCABULARY,
                "batch_tokens": 4096,
                "batch_instances": 16,
                "is_instruction_tuned": False,
                "total_params": params + embedding,
                "embedding_params": embedding,
            }
        ],
        "dataset_info": [
            {
                "id": name,
                "pretraining_summary_total_tokens_billions": tokens / 1e9,
                **percent,
                "metadata": json.dumps({"seed": seed, "model_sha256": sha256}),
            }
        ],
        "training_stages": [
            {"id": name, "stage": 1, "name": "pretraining", "total_tokens_billions": tokens / 1e9, "optimizer": "adamw"}
        ],
        "stage_datasets": [
            {"id": name, "stage": 1, "dataset": corpus, "share_pct": 100 * share} for corpus, share in shares.items()
        ],
        "evaluation_results": [
            {
                "id": name,
                "benchmark": benchmark,
                "setting": "0-shot",
                "metric": metric,
                "metric_value": value,
                "metric_stderr": 0.005 if metric != "accuracy" else 0.002,
                "task_version": schema.UNRECORDED,
                "prompt": schema.UNRECORDED,
                "harness": "njsl",
            }
            for (benchmark, metric), value in scores.items()
        ],
    }
