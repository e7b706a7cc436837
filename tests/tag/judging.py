"""Documents for a judge, a judge without patience, and a way to kill one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from njsl.core.types import Document
from njsl.tag.base import Batch
from njsl.tag.taggers.domain_llm import DomainLLM
from tag.openai_server import Server

ROOT = Path(__file__).parents[2]
LABELS = ("web", "books", "reference", "academic", "code", "specific_datasets", "unknown", "incoherent")


class Quarter:
    """A token per four characters."""

    name, sha256, vocab_size = "quarter", "0" * 64, 1

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.zeros(len(text) // 4, np.int64) for text in texts]


def text(number: int, label: str) -> str:
    return f"doc-{number:03d} label={label} " + "words that fill the page up " * 3


def batch_of(count: int) -> Batch:
    return Batch([Document(text(i, LABELS[i % 8]), f"id{i}", f"id{i}") for i in range(count)], Quarter())


def tagger(server: Server, folder: Path, **more: Any) -> DomainLLM:
    quick = {"backoff_sec": 0.01, "timeout_sec": 0.4, "retries": 3, "poll_sec": 0.01, "model": "judge"}
    made = DomainLLM(**{**quick, "base_url": server.url, "cache": str(folder / "cache"), **more})
    made.load()
    return made


def tag(tagger: DomainLLM, batch: Batch) -> list[tuple[str | None, str | None]]:
    found = tagger.tag_batch(batch)
    assert set(found) == set(tagger.columns)
    return list(zip(found["domain_llm"], found["domain_llm_failed"], strict=True))


def kill(server: Server, folder: Path, count: int, more: str, when: Callable[[], bool]) -> None:
    """Tag ``count`` documents in a process of its own, and kill that with -9."""
    program = f"""
from tag.judging import DomainLLM, batch_of
made = DomainLLM(model="judge", base_url={server.url!r}, cache={str(folder / "cache")!r}, {more})
made.load()
made.tag_batch(batch_of({count}))
"""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=folder)
    deadline = time.monotonic() + 60
    while not when() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
