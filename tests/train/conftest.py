"""A small real corpus, prepared once, and ``train.py`` on it: in this process, or as a user starts it."""

from __future__ import annotations

import csv
import inspect
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from njsl.core import config
from njsl.core.check import check
from njsl.core.run import Run

ROOT = Path(__file__).parents[2]
LOSS = "train/loss_nats"
# Text of the standard library that every Python has, in its own words and in code.
MODULES = ("argparse", "ast", "csv", "decimal", "difflib", "doctest", "enum", "heapq", "inspect", "json", "locale")
MODULES += ("logging", "mailbox", "pathlib", "pickle", "random", "shutil", "statistics", "string", "tarfile", "turtle")
SMALL = [
    "corpora=jsonl",
    "corpora.heldout_frac=0.2",
    "tokenizer.vocab_size=512",
    "tokenizer.sample_mib=0.2",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.n_layers=2",
    "model.n_heads=2",
    "model.sequence_length=64",
    "batch_tokens=1024",
    "tokens=12288",
    "optim.lr=0.01",
    "optim.warmup_tokens=2048",
    "callbacks.progress.log_every_steps=1",
    "callbacks.heldout.every_tokens=6144",
    "callbacks.heldout.max_tokens=1024",
    "callbacks.checkpoints.every_tokens=3072",
    "callbacks.checkpoints.keep=9",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "evaluate.heldout_mib=0.01",
    "evaluate.last_words=5",
    "evaluate.human_eval=false",
]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpora ``code`` and ``nl``."""
    folder = tmp_path_factory.mktemp("text")
    code, prose = [], []
    for name in MODULES:
        module = __import__(name)
        code.append({"id": name, "text": Path(str(module.__file__)).read_text(encoding="utf-8")})
        for key, value in sorted(vars(module).items()):
            words = inspect.getdoc(value) if callable(value) else None
            if words and len(words) > 200:
                prose.append({"id": f"{name}.{key}", "text": textwrap.dedent(words)})
    for corpus, records in (("code", code), ("nl", prose)):
        (folder / corpus).mkdir()
        (folder / corpus / "0.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where that corpus is prepared."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def words(text: Path, cache: Path) -> list[str]:
    """The overrides of a run of 12 steps in a second or two."""
    return [*SMALL, f"corpora.path={text}", f"paths.cache={cache}"]


Train = Callable[..., DictConfig]


@pytest.fixture
def train(words: list[str]) -> Iterator[Train]:
    """Runs the verb in this process: ``train(folder, *overrides)``; errors come as they are."""
    config.register()

    def trained(folder: Path, *overrides: str) -> DictConfig:
        from njsl.train import run as story

        given = [f"hydra.runtime.output_dir={folder}", *words, *overrides]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", overrides=given, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        check(cfg, config.SCHEMAS["train"])
        with Run(cfg) as run:
            story.run(cfg, run)
        return cfg

    yield trained
    HydraConfig.instance().cfg = None


def command(*overrides: str | Path) -> list[str]:
    """``train.py`` as a user starts it."""
    return [sys.executable, str(ROOT / "train.py"), *map(str, overrides)]


def environment() -> dict[str, str]:
    """Of a process of its own, without what another test or a user has left."""
    dropped = ("NJSL_CACHE", "NJSL_TRAIN_PLAN", "HYDRA_FULL_ERROR", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in dropped} | {"OMP_NUM_THREADS": "1"}


def start(*overrides: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command to its end."""
    return subprocess.run(
        command(*overrides), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


def logged(folder: Path, name: str = LOSS) -> dict[int, str]:
    """A metric by step, as it stands in ``log.csv``."""
    with (folder / "log.csv").open(newline="") as file:
        return {int(row["step"]): row["value"] for row in csv.DictReader(file) if row["step"] and row["name"] == name}
