"""A model of one's own as rows of the database: what the run that made it knows, exact and with what reproduces it.

Rows of a model depend on its run alone; in which order several runs write decides the order of rows and nothing else.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from njsl.core.types import DataError, StoreError
from njsl.store import schema
from njsl.store.edit import Conflict, Outcome
from njsl.store.evals import read_evals
from njsl.store.records import Origin, Records, shown_key
from njsl.store.save import editing, ensure

PATIENCE_SEC = 60.0  # runs of a sweep end side by side, and each writes for a second
_SHA256 = "model_sha256"  # in dataset_info.metadata
_INFO, _SHARE = "pretraining_summary_", "percentage_"
_SHOWN, _DIGITS = 60, 12  # characters of a value in a message, and of a checksum


@dataclass(frozen=True, kw_only=True)
class OwnModel:
    """What is known of a model and its run.

    Attributes:
        id: the model's id.
        family: what its repetitions with other seeds share.
        sha256: names what the model learnt from.
        architecture: fields of ``model_annotations``.
        stage: fields of ``training_stages``, for the one stage there is.
        tokens: trained on, by corpus; 0 of one that was there and not read.
        domains: what a corpus counts as, one of web, code, books, reference, academic; None where nobody says.
        metadata: what reproduces it, fit for JSON.
        source: of the facts, as provenance names it.
        day: of that source.
        results: a result file; None where nothing was measured.
    """

    id: str
    family: str
    sha256: str
    architecture: Mapping[str, Any]
    stage: Mapping[str, Any]
    tokens: Mapping[str, int]
    domains: Mapping[str, str | None]
    metadata: Mapping[str, Any]
    source: str
    day: datetime.date
    results: Path | None = None

    def records(self) -> list[Records]:
        """Its rows: corpora, which other models share, facts, scores.

        Raises:
            DataError: the result file is unusable.
        """
        total = sum(self.tokens.values())
        shares = {name: 100.0 * count / total for name, count in self.tokens.items()}
        stage = {"id": self.id, "stage": 1}
        info = {f"{_INFO}{_SHARE}{domain}": share for domain, share in self._domain_shares(shares).items()}
        tables = {
            "models": [{"id": self.id, "family": self.family}],
            "model_annotations": [{"id": self.id, **self.architecture}],
            "dataset_info": [
                {
                    "id": self.id,
                    f"{_INFO}total_tokens_billions": total / 1e9,
                    **info,
                    "metadata": {**self.metadata, _SHA256: self.sha256},
                    "shares_partial": len(info) < len(schema.SHARES),
                }
            ],
            "training_stages": [{**stage, "total_tokens_billions": total / 1e9, **self.stage}],
            "stage_datasets": [{**stage, "dataset": name, "share_pct": share} for name, share in shares.items()],
        }
        # Without an origin, since it would be that of whichever model came first.
        corpora = Records({"datasets": [self._corpus(name) for name in self.tokens]}, None)
        found = [corpora, Records(tables, Origin(f"{self.source}/run.json", self.day, "measured"))]
        if self.results is not None:
            scores = read_evals(self.results, identity=self.id)
            source = f"{self.source}/{self.results.name}"
            rows = [row | {"source": source} for row in scores.tables["evaluation_results"]]
            found.append(replace(scores, tables={"evaluation_results": rows}))
        return found

    def _domain_shares(self, shares: Mapping[str, float]) -> dict[str, float]:
        """Percent by domain: of all five if every corpus that was read counts as one, else of those that are named."""
        known: dict[str, float] = {}
        for name, share in shares.items():
            domain = self.domains.get(name)
            if domain is not None:
                known[domain] = known.get(domain, 0.0) + share
        whole = all(self.domains.get(name) is not None for name, share in shares.items() if share > 0)
        return {domain: known.get(domain, 0.0) for domain in schema.SHARES if whole or domain in known}

    def _corpus(self, name: str) -> dict[str, Any]:
        domain = self.domains.get(name)
        if domain is None:
            return {"name": name}
        return {"name": name} | {f"{_SHARE}{one}": 100.0 * (one == domain) for one in schema.SHARES}


def check(target: Path, identity: str, sha256: str) -> None:
    """That a model can be written there: said before it is trained.

    Args:
        target: see ``write``.
        identity, sha256: the model's.

    Raises:
        StoreError: the database cannot be changed, or has another model of this id.
        DataError: the id is none.
    """
    schema.check_row("models", {"id": identity})
    if not target.exists():
        return
    with editing(target, save=False, patience_sec=PATIENCE_SEC) as editor:
        query = "SELECT metadata FROM dataset_info WHERE id = ?"
        found = editor.connection.execute(query, [identity]).fetchone()
    if found is None:
        return
    there = (json.loads(found[0]) or {}).get(_SHA256) if found[0] else None
    if there != sha256:
        raise StoreError(
            f"{target}: holds another model as {identity} ({_SHA256} {str(there)[:_DIGITS]} there, "
            f"{sha256[:_DIGITS]} here); another store.id, or another store.write, is accepted"
        )


def write(target: Path, records: Sequence[Records]) -> int:
    """Add all of it in one transaction; what is there already stays as it is.

    An export folder is read file by file, so look into one when no writer is at it; a DuckDB file at any time.

    Args:
        target: a DuckDB file if its name ends in ``.duckdb``, else an export folder; made if missing. Another writer is
            waited for.
        records: as ``OwnModel.records`` or an importer gives them.

    Returns:
        How many values were not there.

    Raises:
        StoreError: it cannot be opened or written, or has other values; nothing is changed then.
    """
    ensure(target)
    with editing(target, patience_sec=PATIENCE_SEC) as editor:
        outcomes = list(editor.add(records))
        _refuse(target, outcomes)
    return sum(outcome.new for outcome in outcomes)


def _refuse(target: Path, outcomes: Iterable[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.conflicts:
            more = len(outcome.conflicts) - 1
            others = f" (and {more} more)" if more else ""
            raise StoreError(
                f"{target}: another run has written this: {_said(outcome.conflicts[0])}{others}; another store.id, or "
                "another store.write, is accepted"
            )
        if outcome.reason is not None:
            raise DataError(f"{target}: {outcome.reason}")


def _said(conflict: Conflict) -> str:
    """The values that differ, in one line; of metadata the first entry that does."""
    name, old, new = conflict.field, conflict.old, conflict.new
    if name == "metadata":
        old, new = json.loads(old), json.loads(new)
    while isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in [*new, *old] if old.get(key) != new.get(key))
        name, old, new = f"{name}.{key}", old.get(key), new.get(key)
    return f"{shown_key(conflict.table, conflict.key)} {name}: {_cut(old)} there, {_cut(new)} here"


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
