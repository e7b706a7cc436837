"""What an importer hands to the database: rows by table, each value with where it came from."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any

from njsl.store.schema import UNRECORDED


@dataclass(frozen=True)
class Origin:
    """Where a value came from.

    Attributes:
        source: an address, or a file's name without its folder.
        stated_on: the day the source said so.
        confidence: ``measured`` (computed from weights or configuration), ``reported`` (the makers say so) or
            ``inferred`` (a judgement).
    """

    source: str
    stated_on: datetime.date
    confidence: str


@dataclass
class Records:
    """Rows to be imported, and what the importer left out.

    Attributes:
        tables: rows by table of ``data/fields.csv``; a field that is absent or None says nothing.
        origin: of every value of ``models``, ``model_annotations``, ``dataset_info``, ``datasets``,
            ``training_stages`` and ``stage_datasets`` that has none of its own; None where nobody says. Scores and
            features carry their origin in columns of their row.
        origins: of single values, by (table, key, field); the key as in ``row_key``.
        left_out: a line for each part of a usable source that is deliberately not imported, or rests on an assumption.
        checked: every row has been through ``schema.check_row``.
    """

    tables: dict[str, list[dict[str, Any]]]
    origin: Origin | None
    origins: dict[tuple[str, str, str], Origin] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    checked: bool = False

    @property
    def source(self) -> str | None:
        """What ``history`` names as the source of a value that replaced another."""
        if self.origin is not None:
            return self.origin.source
        rows = (row for table in ("evaluation_results", "model_features") for row in self.tables.get(table, []))
        return next((str(row["source"]) for row in rows if row.get("source")), None)


def row_key(*parts: object) -> str:
    """The key of a row as text, as ``provenance`` and ``history`` name it: ``owner/name`` or ``owner/name#1``."""
    return "#".join(str(part) for part in parts)


def shown_key(table: str, key: str) -> str:
    """A row's place as a person reads it."""
    return f"{table} {key.replace('#' + UNRECORDED, '').replace('#', ' ')}"
