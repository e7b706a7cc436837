"""The ledger: nothing is lost under two writers, half a line is mended, and only what it is said to hold is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError
from njsl.predict import ledger

TRUTH = {"kind": "truth", "plan": "abc", "date": "2026-01-01", "scores": {"hellaswag": 0.5}, "source": "x"}
WRITER = """
import sys
from pathlib import Path
from njsl.predict import ledger
for number in range(40):
    line = {"kind": "truth", "plan": f"{sys.argv[2]}-{number}", "date": "", "scores": {}, "source": "x" * 20000}
    ledger.append(Path(sys.argv[1]), [line, line])
"""


def test_no_line_is_lost_under_two_writers(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in ("a", "b")]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    named = [line["plan"] for line in ledger.read(path)]
    assert sorted(named) == sorted(f"{name}-{number}" for name in "ab" for number in range(40) for _ in range(2))
    # The two lines of one call stand together, and every writer's calls in its own order.
    assert named[::2] == named[1::2]
    assert [name for name in named[::2] if name.startswith("a")] == [f"a-{number}" for number in range(40)]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 200), st.integers(0, 3))
def test_half_a_line_of_a_killed_writer_is_mended(
    tmp_path_factory: pytest.TempPathFactory, cut: int, before: int
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    ledger.append(path, [TRUTH] * before)
    whole = path.read_bytes()
    half = json.dumps(TRUTH).encode()[:cut]
    path.write_bytes(whole + half)
    assert ledger.read(path) == [TRUTH] * before
    ledger.append(path, [TRUTH])
    assert path.read_bytes() == whole + json.dumps(TRUTH).encode() + b"\n"


def test_what_cannot_be_written_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.append(path, [TRUTH])
    before = path.read_bytes()
    with pytest.raises(ValueError):
        ledger.append(path, [TRUTH, {"kind": "truth", "value": float("nan")}])
    assert path.read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"plan\.ledger: .*nothing is appended"):
        ledger.append(tmp_path / "file" / "ledger.jsonl", [TRUTH])
    with pytest.raises(DataError, match=r"plan\.ledger"):
        ledger.append(tmp_path, [TRUTH])


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "plan"}', '{"kind": "other"}', "3"])
def test_a_line_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(json.dumps(TRUTH) + "\n" + text + "\n")
    with pytest.raises(DataError, match="line 2"):
        ledger.read(path)
