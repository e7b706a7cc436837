"""What differs between two databases, or two views of one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from njsl.store import schema
from njsl.store.edit import TOLERANCE
from njsl.store.overlay import MISSING, Overlay
from njsl.store.records import row_key, shown_key

if TYPE_CHECKING:
    from njsl.store.store import AnalysisStore

ROW = "(row)"
DESCRIBED = ("model_annotations", "dataset_info")  # where version 1 spells missing -1 too


class Difference(NamedTuple):
    """A cell that differs, or a row that only one has (``field`` is ``(row)``).

    Attributes:
        table, key, field: where; parts of a key are joined by ``#``.
        left, right: what stands there, as text; empty where nothing does.
    """

    table: str
    key: str
    field: str
    left: str
    right: str

    def __str__(self) -> str:
        return f"{shown_key(self.table, self.key)} {self.field}: {self.left or '-'} | {self.right or '-'}"


def differences(
    left: AnalysisStore, right: AnalysisStore, left_view: str | None = None, right_view: str | None = None
) -> list[Difference]:
    """All differences in the tables and columns that both have, in the order of tables and keys.

    Args:
        left, right: open stores.
        left_view, right_view: ``raw`` or ``curated``, of each; None compares the tables as they stand.

    Raises:
        StoreError: an overlay does not fit its database.
    """
    found: list[Difference] = []
    for table in schema.tables():
        if table in left.tables and table in right.tables and table != "schema_version":
            found += _of_table(table, _read(left, table, left_view), _read(right, table, right_view))
    return found


def _read(store: AnalysisStore, table: str, view: str | None) -> pd.DataFrame:
    rows = store.table(table)
    if view is not None:
        overlay = Overlay.load(view)
        correct = overlay.scores if table == "evaluation_results" else partial(overlay.correct, name=table)
        rows = correct(rows, strict=store.published)
    for name in ("task_version", "prompt") if table == "evaluation_results" else ():
        rows[name] = rows.get(name, schema.UNRECORDED)
    return rows.set_index(list(schema.keys(table)))


def _of_table(table: str, left: pd.DataFrame, right: pd.DataFrame) -> Iterator[Difference]:
    keys = schema.keys(table)

    def key(index: object) -> str:
        return row_key(*(index if len(keys) > 1 and isinstance(index, tuple) else (index,)))

    for index in left.index.difference(right.index):
        yield Difference(table, key(index), ROW, "there", "")
    for index in right.index.difference(left.index):
        yield Difference(table, key(index), ROW, "", "there")
    both = left.index.intersection(right.index)
    left, right = left.loc[both], right.loc[both]
    for name in [name for name in left if name in right]:
        a, b = _known(table, left[name]), _known(table, right[name])
        if pd.api.types.is_numeric_dtype(a) and pd.api.types.is_numeric_dtype(b):
            same = (a == b) | ((a - b).abs() <= TOLERANCE * a.abs().clip(lower=1e-3).where(np.isfinite(a), 0.0))
        else:
            same = (a == b).fillna(False)
        for index in both[~(same.astype(bool) | (a.isna() & b.isna())).to_numpy()]:
            yield Difference(table, key(index), name, _text(a[index]), _text(b[index]))


def _known(table: str, values: pd.Series) -> pd.Series:
    if values.dtype == bool:
        return values.astype(object)
    if pd.api.types.is_numeric_dtype(values):
        values = values.astype("float64")
        return values.mask(values == MISSING) if table in DESCRIBED else values
    return values


def _text(value: object) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, pd.Timestamp):
        return value.date().isoformat()
    return f"{value:.10g}" if isinstance(value, float) else str(value)
