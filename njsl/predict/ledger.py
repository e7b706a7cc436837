"""The ledger of plans: what was predicted, when, from which data, by what; and later what came of it.

A file of JSON lines that only grows. A line ``plan`` is one plan with its predictions; a line ``truth`` refers to one
by its id and holds measured scores. Of several truths for a plan and task the last one counts.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from njsl.core.types import DataError

if TYPE_CHECKING:
    from njsl.predict.forecast import Forecast, Forecaster
    from njsl.predict.plan import Plan

ID_LENGTH = 12
_FIELDS = {
    "plan": {"id", "date", "database", "predictor", "plan", "levels", "predictions"},
    "truth": {"plan", "date", "scores", "source"},
}


def entry(
    plan: Plan, forecaster: Forecaster, view: str, predictions: Mapping[tuple[str, str], Forecast]
) -> dict[str, Any]:
    """The line of one plan.

    Args:
        plan: one plan.
        forecaster: that predicted it.
        view: of the store.
        predictions: by task and feature set, of this plan alone.
    """
    from njsl.predict.forecast import code_sha256
    from njsl.predict.intervals import LEVELS

    line = {
        "database": {"sha256": forecaster.known.database, "view": view},
        "predictor": {
            "name": forecaster.recipe.name,
            "sha256": forecaster.predictor_sha256,
            "params": dict(forecaster.recipe.params),
            "seed": forecaster.seed,
        },
        "code": code_sha256(),
        "plan": plan.as_json(),
        # A model that was already measured is no plan any more, and does not count as one predicted.
        "known": plan.name in forecaster.known.base.index,
        "levels": list(LEVELS),
        "predictions": [
            {
                "task": task,
                "features": features,
                "n": found.n,
                "yhat": float(found.yhat[0]),
                "low": found.low[:, 0].tolist(),
                "high": found.high[:, 0].tolist(),
            }
            for (task, features), found in predictions.items()
        ],
    }
    return dated(line)


def dated(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The line of a plan with these facts, as predicted now; the id is a checksum of all of it."""
    line = {"kind": "plan", "date": now(), **facts}
    text = json.dumps(line, sort_keys=True)
    return {"kind": "plan", "id": hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH], **line}


def now() -> str:
    """The time, UTC, to the microsecond: no two predictions share it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Append lines, all of them or none, one writer at a time; they are on the disk when this returns.

    Raises:
        DataError: the file cannot be written.
    """
    content = b"".join(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n" for line in lines)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            whole = _whole(file.fileno())
            # Whoever left half a line is dead: the lock is ours.
            file.truncate(whole)
            try:
                left = memoryview(content)
                while left:
                    left = left[os.write(file.fileno(), left) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(whole)
                raise
    except OSError as error:
        raise DataError(f"plan.ledger: {path}: {error.strerror}; nothing is appended") from error


def read(path: Path) -> list[dict[str, Any]]:
    """All lines in order; half a line at the end, of a writer that was killed, is passed over.

    Raises:
        DataError: no such file, or a line that is none of the ledger's.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            content = file.read()
    except OSError as error:
        raise DataError(
            f"plan.ledger: {path}: {error.strerror}; a ledger that mode=whatif has written is accepted"
        ) from error
    lines = []
    for number, text in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise DataError(f"plan.ledger: {path}: line {number}: no JSON ({error})") from error
        kind = line.get("kind") if isinstance(line, dict) else None
        if kind not in _FIELDS or not _FIELDS[kind] <= line.keys():
            raise DataError(
                f"plan.ledger: {path}: line {number}: neither a plan nor a truth; lines that njsl wrote are accepted"
            )
        lines.append(line)
    return lines


def _whole(file: int) -> int:
    """Size of the file up to its last line's end [byte]."""
    size = os.fstat(file).st_size
    step = 1 << 16
    end = size
    while end > 0:
        start = max(0, end - step)
        place = os.pread(file, end - start, start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        end = start
    return 0
