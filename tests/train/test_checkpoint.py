"""Checkpoints on disk: sealed, verified, the one before a torn one, and of this run alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from njsl.core.types import ConfigError, DataError
from njsl.train import checkpoint


def sealed(folder: Path, step: int, content: bytes = b"weights") -> Path:
    final = checkpoint.place(folder, step)
    beside = folder / f".{final.name}.tmp"
    (beside / "state").mkdir(parents=True)
    (beside / "state" / "0").write_bytes(content)
    (beside / "state" / "1").write_bytes(content[::-1])
    digests = {path.relative_to(beside).as_posix(): checkpoint.digest(path) for path in checkpoint.files(beside)}
    checkpoint.seal(beside, final, digests, {"seed": 1})
    return final


def test_the_newest_whole_one(tmp_path: Path) -> None:
    assert checkpoint.newest_whole(tmp_path / "none") == (None, [])
    first, second = sealed(tmp_path, 5), sealed(tmp_path, 100_000_000)
    assert checkpoint.newest_whole(tmp_path) == (second, [])
    checkpoint.keep_newest(tmp_path, 1)
    assert checkpoint.existing(tmp_path) == [second] and not first.exists()


@pytest.mark.parametrize("how", ["cut", "changed", "gone", "unsealed", "seal cut", "not renamed"])
def test_a_torn_one_is_passed_over(tmp_path: Path, how: str) -> None:
    first, second = sealed(tmp_path, 5), sealed(tmp_path, 6)
    file = second / "state" / "1"
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif how == "changed":
        file.write_bytes(b"sthgieW")
    elif how == "gone":
        file.unlink()
    elif how == "unsealed":
        (second / "manifest.json").unlink()
    elif how == "seal cut":
        (second / "manifest.json").write_text((second / "manifest.json").read_text()[:40])
    else:
        second.rename(tmp_path / f".{second.name}.tmp")
    found, torn = checkpoint.newest_whole(tmp_path)
    assert found == first
    assert len(torn) == (how != "not renamed") and all(str(second) in line and "\n" not in line for line in torn)


def test_none_is_whole(tmp_path: Path) -> None:
    (sealed(tmp_path, 5) / "state" / "0").unlink()
    with pytest.raises(DataError, match=r"none of 1 checkpoints is whole .*state/0 is missing"):
        checkpoint.newest_whole(tmp_path)


def test_a_checkpoint_of_another_run(tmp_path: Path) -> None:
    checkpoint.check_identity(sealed(tmp_path, 5), {"seed": 1})
    with pytest.raises(ConfigError, match="seed is 1 there and 2 here"):
        checkpoint.check_identity(checkpoint.place(tmp_path, 5), {"seed": 2})
