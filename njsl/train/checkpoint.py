"""Checkpoints: a folder each, written beside its place, sealed with every file's SHA-256, then renamed.

``step_00000100/`` holds ``state`` (Lightning's checkpoint: a file, or under FSDP2 a folder with a file per process)
and ``manifest.json``, written last: what is not sealed, or not what its seal says, is torn.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from njsl.core.run import write_atomic
from njsl.core.types import ConfigError, DataError

if TYPE_CHECKING:
    import torch

STATE, MANIFEST = "state", "manifest.json"
_NAME = re.compile(r"step_(\d{8,})")
# How the module's own name for its network begins the keys of a state.
_PREFIX = "network."


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimiser steps lies."""
    return folder / f"step_{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Optimiser steps done at a checkpoint."""
    found = _NAME.fullmatch(checkpoint.name)
    assert found is not None, checkpoint
    return int(found[1])


def existing(folder: Path) -> list[Path]:
    """All checkpoints of a run, newest first, whether whole or torn."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=step_of, reverse=True)


def files(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint, its manifest aside, in a fixed order."""
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path != checkpoint / MANIFEST)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(beside: Path, final: Path, digests: Mapping[str, str], identity: Mapping[str, Any]) -> None:
    """Write the manifest of a checkpoint that lies complete in ``beside``, and put it in its place.

    Args:
        beside, final: where it was written, and where it belongs.
        digests: SHA-256 by file name relative to the checkpoint.
        identity: what a run must share to go on from here.
    """
    sizes = {name: (beside / name).stat().st_size for name in digests}
    listed = {name: {"bytes": sizes[name], "sha256": digests[name]} for name in sorted(digests)}
    content = {"version": 1, "step": step_of(final), "identity": identity, "files": listed}
    write_atomic(beside / MANIFEST, json.dumps(content, indent=1) + "\n")
    if final.exists():
        shutil.rmtree(final)
    beside.rename(final)


def manifest(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's manifest.

    Raises:
        DataError: it has none that can be read.
    """
    try:
        content = json.loads((checkpoint / MANIFEST).read_text())
        assert isinstance(content, dict) and {"identity", "files"} <= content.keys()
    except (OSError, ValueError, AssertionError) as error:
        raise DataError(f"{checkpoint}: no readable {MANIFEST}: the checkpoint was not finished") from error
    return content


def verify(checkpoint: Path) -> None:
    """Hold every file to the manifest.

    Raises:
        DataError: a file is missing, or not what was written; the message names it.
    """
    listed = manifest(checkpoint)["files"]

    def fault(name: str) -> str | None:
        path, wanted = checkpoint / name, listed[name]
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != wanted["bytes"]:
            return f"{name} has {size} of {wanted['bytes']} bytes"
        return None if digest(path) == wanted["sha256"] else f"{name} is not what was written"

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(fault, listed):
            if found is not None:
                raise DataError(f"{checkpoint}: {found}")


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole.

    Returns:
        The checkpoint, None where there is none; and what is wrong with each newer one.

    Raises:
        DataError: there are checkpoints, but none is whole.
    """
    torn: list[str] = []
    for checkpoint in existing(folder):
        try:
            verify(checkpoint)
        except DataError as error:
            torn.append(str(error))
            continue
        return checkpoint, torn
    if torn:
        raise DataError(f"{folder}: none of {len(torn)} checkpoints is whole ({torn[0]}); delete them to start anew")
    return None, []


def check_identity(checkpoint: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another model, mix or tokenizer.

    Raises:
        ConfigError: with the first thing that differs.
    """
    theirs = manifest(checkpoint)["identity"]
    for name, ours in json.loads(json.dumps(identity)).items():
        if theirs.get(name) != ours:
            raise ConfigError(
                f"{checkpoint}: a checkpoint of another run: {name} is {_short(theirs.get(name))} there and "
                f"{_short(ours)} here; choose another hydra.run.dir"
            )


def keep_newest(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints."""
    for old in existing(folder)[keep:]:
        shutil.rmtree(old)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The model's full weights under their Hugging Face names, from a file or put together from shards.

    Raises:
        DataError: the checkpoint holds no model.
    """
    import torch

    state = checkpoint / STATE
    if state.is_dir():
        values = _from_shards(state)
    else:
        values = torch.load(state, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    found = {name.removeprefix(_PREFIX): value for name, value in values.items() if name.startswith(_PREFIX)}
    if not found:
        raise DataError(f"{checkpoint}: holds no model of njsl")
    return found


def _from_shards(state: Path) -> dict[str, torch.Tensor]:
    """Read a sharded state in one process, the optimiser's part left where it is."""
    import torch
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(str(state))
    listed = reader.read_metadata().state_dict_metadata
    prefix = f"state_dict.{_PREFIX}"
    values: dict[str, Any] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in listed.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }
    load(values, storage_reader=reader, no_dist=True)
    return {name.removeprefix("state_dict."): value for name, value in values.items()}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def relative(paths: Iterable[Path], root: Path) -> list[str]:
    """File names relative to a checkpoint, as manifests have them."""
    return [path.relative_to(root).as_posix() for path in paths]
