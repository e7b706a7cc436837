"""A synthetic export of the paper's kind: its layout and its quirks, none of its data.

48 models of 8 owners and 12 families; scores follow parameters, tokens and the share of code, so that a test knows what
there is to find. Everything is drawn from one seed.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from njsl.store.overlay import Overlay
from njsl.store.tasks import task_table

KNOWN = (  # of owners with several families; njsl/store/data/families.csv says which
    *(f"EleutherAI/pythia-{size}" for size in ("70m", "160m", "410m", "1b", "2.8b")),
    *(f"EleutherAI/gpt-neo-{size}" for size in ("125m", "1.3B", "2.7B")),
    "EleutherAI/gpt-neox-20b",
    *(f"Qwen/Qwen1.5-{size}" for size in ("14B", "32B", "110B")),
    "Qwen/Qwen2-72B",
    *(f"Qwen/Qwen2.5-{size}" for size in ("3B", "14B", "32B")),
)
OWNERS = ("acme/", "boreal/", "cobalt/", "delta/", "ember/", "")
MODELS = 48
SHARES = ("web", "code", "books", "reference", "academic")
SUBJECTS = tuple(name.removeprefix("mmlu_") for name in Overlay.load("curated").definition(task_table()["mmlu_5-shot"]))
CATEGORIES = {
    "layer_norm_type": ("rmsnorm", "parametric", "non-parametric"),
    "positional_embeddings": ("rope", "alibi", "learned"),
    "attention_variant": ("gqa", "full", "local,full", "mqa"),
    "biases": ("none", "attn_only", "some", "ln_only"),
    "block_type": ("sequential", "parallel"),
    "activation": ("silu", "swiglu", "gelu", "relu"),
}
ANNOTATIONS = [
    *("id", "dimension", "num_heads", "mlp_ratio", *CATEGORIES, "sequence_length", "batch_instances", "batch_tokens"),
    *("weight_tying", "is_instruction_tuned", "is_preference_tuned", "total_params"),
]
SUMMARY = "pretraining_summary_"
TOKENS = f"{SUMMARY}total_tokens_billions"
DATASETS = ["id", TOKENS, *(f"{SUMMARY}percentage_{name}" for name in (*SHARES, "english")), "metadata"]
SCORES = ["id", "benchmark", "setting", "metric", "metric_value", "metric_stderr"]
# benchmark, setting, metric, score of guessing
BENCHMARKS = (
    ("arc_challenge", "25-shot", "accuracy", 0.25),
    ("hellaswag", "10-shot", "accuracy", 0.25),
    *((f"mmlu_{name}", shots, "accuracy", 0.25) for shots in ("0-shot", "5-shot") for name in SUBJECTS),
    ("truthfulqa_mc1", "0-shot", "accuracy", 0.2),
    ("truthfulqa_mc2", "0-shot", "accuracy", 0.3),
    ("winogrande", "5-shot", "accuracy", 0.5),
    ("lambada_openai", "0-shot", "accuracy", 0.0),
    ("lambada_standard", "0-shot", "accuracy", 0.0),
    ("gsm8k", "5-shot", "accuracy", 0.0),
    ("humaneval", "0-shot", "accuracy", 0.0),
    *((f"anli_r{number}", "0-shot", "brier_score", 0.7) for number in (1, 2, 3)),
    ("logiqa2", "0-shot", "brier_score", 0.8),
    *((name, "0-shot", "brier_score", 0.7) for name in Overlay.load("curated").definition(task_table()["xnli"])),
    ("mathqa", "0-shot", "brier_score", 0.8),
)


def tables() -> dict[str, pd.DataFrame]:
    """The three tables, the caller's own copies; see ``_tables``."""
    return {name: table.copy() for name, table in _tables().items()}


@cache
def _tables() -> dict[str, pd.DataFrame]:
    """By the position of a model (``position`` below):

    0 and 1 have no token count (NULL, -1), 2 no parameter count, 3 and 4 are instruction-tuned, every fifth is not
    marked either way; 5 has no evaluation; 6 has no data composition; 7 knows only its share of code.
    """
    random = np.random.default_rng(0)
    own = [f"{OWNERS[number % len(OWNERS)]}model-{number}" for number in range(MODELS - len(KNOWN))]
    ids = [*own, *KNOWN]
    annotations, datasets, scores = [], [], []
    for position, name in enumerate(ids):
        params = int(np.exp(random.uniform(np.log(5e7), np.log(1e11))))
        tokens = float(np.round(np.exp(random.uniform(np.log(50), np.log(8000))), 1))
        shares = np.round(random.dirichlet([4, 1.5, 1, 1, 1]) * 100, 2)
        shares[0] = np.round(100 - shares[1:].sum(), 2)
        heads = int(random.choice([8, 16, 32, 64]))
        annotations.append(
            {
                "id": name,
                "dimension": heads * 128,
                "num_heads": heads,
                "mlp_ratio": -1.0 if position % 9 == 8 else float(random.choice([2.6875, 3.5, 4.0])),
                **{
                    key: None if random.random() < 0.3 else str(random.choice(labels))
                    for key, labels in CATEGORIES.items()
                },
                "sequence_length": int(random.choice([2048, 4096])),
                "batch_instances": None if position % 3 else 1024,
                "batch_tokens": None,
                "weight_tying": bool(position % 2),
                "is_instruction_tuned": True if position in (3, 4) else None if position % 5 == 0 else False,
                "is_preference_tuned": False,
                "total_params": None if position == 2 else params,
            }
        )
        if position != 6:
            known = dict(zip(SHARES, shares, strict=True))
            if position == 7:
                known = dict.fromkeys(SHARES, -1.0) | {"code": known["code"]}
            datasets.append(
                {
                    "id": name,
                    TOKENS: {0: None, 1: -1.0}.get(position, tokens),
                    **{f"{SUMMARY}percentage_{key}": float(value) for key, value in known.items()},
                    f"{SUMMARY}percentage_english": float(np.round(random.uniform(30, 100), 2)),
                    "metadata": None,
                }
            )
        if position != 5:
            ability = 0.5 * (np.log(params) - 21.5) + 0.35 * (np.log(tokens) - 6.4)
            scores += _evaluations(random, position, name, ability, shares[1])
    scores += [
        (name, "winogrande", "5-shot", "accuracy", 0.61, 0.01) for name in ("ghost/unknown", "EleutherAI/pythia-410M")
    ]
    datasets.append({"id": "ghost/data-only", TOKENS: 100.0})
    order = random.permutation(len(scores))
    kinds = dict.fromkeys(
        ("dimension", "num_heads", "sequence_length", "batch_instances", "batch_tokens", "total_params"), "Int64"
    )
    kinds |= dict.fromkeys(("weight_tying", "is_instruction_tuned", "is_preference_tuned"), "boolean")
    return {
        "model_annotations": _shuffled(pd.DataFrame(annotations, columns=ANNOTATIONS).astype(kinds), random),
        "dataset_info": _shuffled(pd.DataFrame(datasets, columns=DATASETS), random),
        "evaluation_results": pd.DataFrame([scores[place] for place in order], columns=SCORES),
    }


def write(folder: Path, **changed: pd.DataFrame) -> Path:
    """Write an export into ``folder``, with tables of ``changed`` in place of the synthetic ones."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schema.sql").write_text("CREATE TABLE model_annotations(id VARCHAR PRIMARY KEY);\n")
    (folder / "load.sql").write_text(
        "COPY model_annotations FROM '/nowhere/model_annotations.csv' (FORMAT 'csv', header 1);\n"
    )
    for name, table in (tables() | changed).items():
        text = table.copy()
        for column in text:
            if text[column].dtype == "boolean":
                text[column] = text[column].map({True: "true", False: "false"})
        text.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    return folder


def write_extras(folder: Path, columns: list[str], selected: list[str]) -> tuple[Path, Path]:
    """The two optional files: free-generation features for all but three models, and one selected list for ARC."""
    random = np.random.default_rng(1)
    ids = tables()["model_annotations"]["id"].sort_values().iloc[:-3]
    features = pd.DataFrame(
        random.normal(size=(len(ids), len(columns))), index=pd.Index(ids, name="id"), columns=columns
    )
    features.iloc[::7, :5] = np.nan
    features.iloc[:, -1] = np.nan
    features.to_csv(folder / "freegen.csv")
    lists = pd.DataFrame({"selected_features": [repr(selected)], "task": ["arc_challenge"], "setting": ["25-shot"]})
    lists.to_csv(folder / "selected.csv", index=False)
    return folder / "freegen.csv", folder / "selected.csv"


def _evaluations(
    random: np.random.Generator, position: int, name: str, ability: float, code: float
) -> list[tuple[object, ...]]:
    """One model's rows. Old spellings: alone where position is 0 (mod 4), beside the new ones where it is 1."""
    rows: list[tuple[object, ...]] = []
    for benchmark, setting, metric, chance in BENCHMARKS:
        lift = 1 / (1 + np.exp(-(ability + 0.03 * code + random.normal(0, 0.15))))
        value = chance + (0.95 - chance) * lift if metric == "accuracy" else chance * (1 - 0.6 * lift)
        if metric == "brier_score" and position in (10, 11):
            value = None
        old = {"arc_challenge": "arc:challenge"}.get(benchmark, benchmark.replace("mmlu_", "hendrycksTest-"))
        if old != benchmark and position % 4 == 0:
            benchmark = old
        elif old != benchmark and position % 4 == 1:
            rows.append((name, old, setting, metric, value + 0.02, 0.01))
        if benchmark.startswith("truthfulqa") and position % 7 == 0:
            rows.append((name, "truthfulqa:mc", setting, benchmark.split("_")[1], value, None))
            continue
        rows.append((name, benchmark, setting, metric, value, 0.01))
        if benchmark in ("arc_challenge", "hellaswag"):
            rows.append((name, benchmark, setting, "acc_norm", value + 0.03, 0.01))
        if benchmark.startswith("lambada"):
            rows.append((name, benchmark, setting, "perplexity", float(np.exp(3 - ability)) + 1, 0.1))
        if benchmark == "gsm8k" and position % 2:
            rows.append((name, "gsm8k_cot", setting, metric, value + 0.04, 0.01))
        if benchmark == "xnli_fr" and position % 3 == 0:
            rows.append((name, "xnli_eu", setting, metric, value + 0.1, 0.01))
    return rows


def _shuffled(table: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    return table.iloc[random.permutation(len(table))].reset_index(drop=True)
