"""Small sources for a database: a result file, a configuration, facts, features."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
FACTS = """\
id: org/base
source: https://example.org/base
date: 2024-05-06
confidence: reported
family: base
"""


def results(path: Path, model: str = "org/base", **scores: float) -> Path:
    """A result file of lm-evaluation-harness: 5 shots, task version 1."""
    scores = scores or {"hellaswag": 0.5, "winogrande": 0.625}
    document = {
        "results": {
            task: {"alias": task, "acc,none": value, "acc_stderr,none": 0.01} for task, value in scores.items()
        },
        "configs": {task: {"task": task, "num_fewshot": 5, "metadata": {"version": 1.0}} for task in scores},
        "versions": dict.fromkeys(scores, 1.0),
        "n-shot": dict.fromkeys(scores, 5),
        "config": {"model": "hf", "model_args": f"pretrained={model}"},
        "model_name": model,
    }
    path.write_text(json.dumps(document))
    return path


def config(path: Path, **changed: Any) -> Path:
    """A configuration of the Llama kind; what is None is left out."""
    document = {name: value for name, value in (CONFIG | changed).items() if value is not None}
    path.write_text(json.dumps(document))
    return path


def features(path: Path, **values: float) -> Path:
    """A table of features of org/base."""
    path.write_text(f"id,{','.join(values)}\norg/base,{','.join(str(value) for value in values.values())}\n")
    return path


@cache
def database() -> bytes:
    """A database file with the scores of ``results`` and nothing else."""
    from njsl.store.__main__ import main

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.duckdb")
        for words in (["create", path], ["import-evals", path, results(Path(folder, "results_1.json"))]):
            if main([str(word) for word in words]) != 0:
                raise RuntimeError(f"{words}: refused")
        return path.read_bytes()


def environment() -> dict[str, str]:
    """As a user's, one thread each."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command(*words: str | Path) -> list[str]:
    """The command line of ``python -m njsl.store``."""
    return [sys.executable, "-m", "njsl.store", *map(str, words)]


def store(*words: str | Path, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    options = {"capture_output": True, "timeout": 120} | options
    return subprocess.run(command(*words), cwd=cwd, env=environment(), text=True, check=False, **options)
