"""``tag.py`` on small real text: in this process, or as a user starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from njsl.core import config
from njsl.core.check import check
from njsl.core.run import Run

ROOT = Path(__file__).parents[2]
# Text of the standard library that every Python has.
MODULES = ("argparse", "ast", "csv", "decimal", "difflib", "doctest", "enum", "heapq", "inspect", "json", "tarfile")
Tag = Callable[..., DictConfig]


class Words:
    """An encoder whose tokens are the words between blanks, numbered by their spelling's first two letters."""

    name, sha256, vocab_size = "words", "0" * 64, 2**16

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array([_id(word) for word in text.split()], np.int64) for text in texts]


def _id(word: str) -> int:
    return int.from_bytes(word.encode()[:2], "big")


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpora ``code``, one document per module, and ``nl``, a docstring per document."""
    folder = tmp_path_factory.mktemp("text")
    code, prose = [], []
    for name in MODULES:
        module = __import__(name)
        code.append({"id": f"{name}.py", "text": Path(str(module.__file__)).read_text(encoding="utf-8")})
        documented = ((key, getattr(value, "__doc__", None)) for key, value in sorted(vars(module).items()))
        prose += [{"id": f"{name}.{key}", "text": words} for key, words in documented if isinstance(words, str)]
    for corpus, records in (("code", code), ("nl", prose)):
        (folder / corpus).mkdir()
        (folder / corpus / "0.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture
def tag(tmp_path: Path) -> Iterator[Tag]:
    """Runs the verb in this process: ``tag(folder, *overrides)``; errors come as they are."""
    config.register()

    def tagged(folder: Path, *overrides: str) -> DictConfig:
        from njsl.tag import run as story

        given = [f"hydra.runtime.output_dir={folder}", f"paths.cache={tmp_path / 'cache'}", "workers=1", *overrides]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("tag", overrides=given, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        check(cfg, config.SCHEMAS["tag"])
        with Run(cfg) as run:
            story.run(cfg, run)
        return cfg

    yield tagged
    HydraConfig.instance().cfg = None


def command(*overrides: str | Path) -> list[str]:
    """``tag.py`` as a user starts it."""
    return [sys.executable, str(ROOT / "tag.py"), *map(str, overrides)]


def environment() -> dict[str, str]:
    """Of a process of its own, without what another test or a user has left."""
    dropped = ("NJSL_CACHE", "HYDRA_FULL_ERROR", "OPENAI_API_KEY")
    return {name: value for name, value in os.environ.items() if name not in dropped} | {"OMP_NUM_THREADS": "1"}


def start(*overrides: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command to its end."""
    return subprocess.run(
        command(*overrides), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
