"""``mode=generate``: a model writes, and what it writes lies as a corpus of files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig
from rich.progress import Progress

from njsl.core.check import build
from njsl.core.run import Run, write_atomic
from njsl.core.types import ConfigError

FOLDER, MANIFEST = "generations", "generations.json"
# A shard is of whole batches, about so many texts: what a kill costs at most.
_SHARD = 100
EXPORT = "hf"  # the folder in which train.py leaves every model


class Generator(Protocol):
    """A component of the group ``generator``.

    Attributes:
        count: how many texts are wanted.
        prompt: what they go on from.
        batch_size: how many it writes at once.
    """

    count: int
    prompt: str
    batch_size: int

    def identity(self) -> dict[str, Any]:
        """What the texts depend on beside the seed, fit for JSON."""

    def load(self) -> None:
        """Get ready to write."""

    def generate(self, first: int, count: int, seed: int) -> list[dict[str, Any]]:
        """Texts number ``first`` to ``first + count - 1``: ``id``, ``text``, ``finish_reason``, ``n_tokens``."""


def identity(cfg: DictConfig) -> str:
    """SHA-256 of all that the texts depend on, the model's files included.

    Raises:
        NjslError: the generator cannot be used; said here, before a folder is claimed for it.
    """
    generator = _built(cfg)
    said = _manifest(cfg, generator)
    generator.load()
    return hashlib.sha256(said.encode()).hexdigest()


def generate(cfg: DictConfig, run: Run, progress: Progress) -> dict[str, list[Path]]:
    """Let the configured generator write ``count`` texts; what is there already is not written again.

    They lie in ``generations/<model>/NNNNN.jsonl`` with the fields ``id``, ``text``, ``prompt``, ``finish_reason`` and
    ``n_tokens``; ``generations.json`` says all that they depend on.

    Args:
        cfg: ``generator`` and ``seed`` are read.
        run: its folder, claimed with ``identity``.
        progress: shows how far it is.

    Returns:
        The files, under the model's name.

    Raises:
        ConfigError: the generator cannot be used.
    """
    generator = _built(cfg)
    folder = run.output / FOLDER / model_name(cfg.generator)
    write_atomic(run.output / MANIFEST, _manifest(cfg, generator))
    folder.mkdir(parents=True, exist_ok=True)
    size = generator.batch_size * max(1, _SHARD // generator.batch_size)
    shards = {folder / f"{at // size:05}.jsonl": at for at in range(0, generator.count, size)}
    missing = {path: first for path, first in shards.items() if not path.exists()}
    if missing:
        done = generator.count - sum(min(size, generator.count - first) for first in missing.values())
        task = progress.add_task(f"{folder.name} writes", total=generator.count, completed=done)
        generator.load()
    for path, first in missing.items():
        last = min(first + size, generator.count)
        records: list[dict[str, Any]] = []
        for start in range(first, last, generator.batch_size):
            written = min(generator.batch_size, last - start)
            records += generator.generate(start, written, int(cfg.seed))
            progress.advance(task, written)
        write_atomic(path, _lines({**record, "prompt": generator.prompt} for record in records))
    return {folder.name: list(shards)}


def model_name(node: DictConfig) -> str:
    """What a generator's model is called: the last part of its name or folder; of an export of train.py its run's."""
    path = Path(str(node.get("checkpoint") or node.get("model") or "generations")).expanduser()
    if path.name in (EXPORT, "", "..") and path.exists():
        path = path.resolve()
        path = path.parent if path.name == EXPORT else path
    return re.sub(r"[^\w.-]", "_", path.name) or "generations"


def _built(cfg: DictConfig) -> Generator:
    generator: Generator = build(cfg.generator)
    if generator.count < 1:
        raise ConfigError(f"generator.count: {generator.count}; at least 1 is accepted")
    return generator


def _manifest(cfg: DictConfig, generator: Generator) -> str:
    said = {"name": model_name(cfg.generator), "count": generator.count, "seed": int(cfg.seed), **generator.identity()}
    return json.dumps(said, indent=2, ensure_ascii=False) + "\n"


def _lines(records: Iterable[dict[str, Any]]) -> str:
    order = ("id", "text", "prompt", "finish_reason", "n_tokens")
    return "".join(json.dumps({key: one[key] for key in order}, ensure_ascii=False) + "\n" for one in records)
