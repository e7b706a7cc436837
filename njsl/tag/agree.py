"""``mode=agree``: how far labels of the same documents agree, pair by pair."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from itertools import combinations
from typing import Any, cast

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from njsl.core.config import LabelledConfig
from njsl.core.run import Run, write_atomic
from njsl.core.types import ConfigError, DataError
from njsl.tag import labelled

AGREEMENT, CONFUSION = "agreement.csv", "confusion.csv"
MEASURES = ("accuracy", "kappa", "macro_f1")
_RESAMPLES = 2000
_TAILS = (0.025, 0.975)

Labels = Mapping[str, Mapping[Hashable, str]]


def agree(labels: Labels, *, seed: int = 0, resamples: int = _RESAMPLES) -> pd.DataFrame:
    """Agreement of every pair of labelers, with 95 % percentile bootstrap intervals over documents.

    Args:
        labels: labeler to document to label.
        seed: of the resampling; a pair's intervals do not depend on the other pairs.
        resamples: of the documents.

    Returns:
        A row per pair: ``first``, ``second``, ``n`` [common documents], and each of ``accuracy`` (0..1), ``kappa``
        (Cohen's, -1..1; NaN where both give one and the same label throughout) and ``macro_f1`` (0..1; mean over the
        classes that either gives), with its ``_low`` and ``_high``. All are NaN without common documents.
    """
    rows = []
    for first, second in combinations(labels, 2):
        counts = _counts(labels[first], labels[second])[1]
        n = int(counts.sum())
        name = hashlib.sha256(f"{first}\0{second}".encode()).digest()
        draws = np.random.default_rng([seed, int.from_bytes(name[:8], "big")])
        # Resampling documents is drawing the cells of their confusion matrix.
        many = (
            draws.multinomial(n, (counts / max(n, 1)).ravel(), size=resamples).reshape(-1, *counts.shape) if n else None
        )
        row: dict[str, object] = {"first": first, "second": second, "n": n}
        for measure, function in zip(MEASURES, (_accuracy, _kappa, _macro_f1), strict=True):
            row[measure] = float(function(counts[None])[0]) if n else np.nan
            low, high = _interval(function(many)) if many is not None else (np.nan, np.nan)
            row |= {f"{measure}_low": low, f"{measure}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def confusion(labels: Labels) -> pd.DataFrame:
    """The confusion matrices of all pairs: ``first``, ``second``, ``first_label``, ``second_label``, ``n`` [documents].

    Every combination of the labels that a pair gives has a row, with 0 where it does not occur.
    """
    rows = []
    for first, second in combinations(labels, 2):
        classes, counts = _counts(labels[first], labels[second])
        for i, mine in enumerate(classes):
            rows += [(first, second, mine, theirs, int(counts[i, j])) for j, theirs in enumerate(classes)]
    return pd.DataFrame(rows, columns=["first", "second", "first_label", "second_label", "n"])


def agree_mode(cfg: DictConfig, run: Run) -> None:
    """``tag.py mode=agree``: writes ``agreement.csv`` and ``confusion.csv``, and shows the first.

    Documents are matched by id; a source without ``id_field`` has the hash of the text as id. Of a document that is
    labelled twice in one source the first label counts.

    Args:
        cfg: a checked ``TagConfig``; ``agree`` and ``seed`` are read.
        run: its folder, not yet claimed.

    Raises:
        ConfigError: less than two sources.
        DataError: a source cannot be read, or a pair has no document in common.
    """
    console = Console()
    wanted = cfg.agree.labels
    if len(wanted) < 2:
        raise ConfigError(
            f"agree.labels: {len(wanted)} given, at least two are compared, e.g. "
            "'+agree.labels={a:{path:A.csv},b:{path:B.csv}}'"
        )
    sources = {}
    for name in wanted:
        where = f"agree.labels.{name}"
        sources[str(name)] = labelled.read(
            cast(LabelledConfig, wanted[name]), seed=cfg.seed, where=where, need_text=False
        )
    labels: dict[str, dict[Hashable, str]] = {name: {} for name in sources}
    for name, source in sources.items():
        for key, label in zip(source.ids, source.labels, strict=True):
            labels[name].setdefault(key, label)
    table = agree(labels, seed=cfg.seed)
    for pair in table[table.n == 0].itertuples():
        raise DataError(
            f"agree.labels: {pair.first} and {pair.second} have no document in common; they are matched by id, or by "
            "text where neither has an id_field"
        )
    inputs: dict[str, Any] = {f"labels_{name}": source.sha256 for name, source in sources.items()}
    run.claim(**inputs)
    if not run.finished:
        run.record(
            labels={
                name: {
                    "documents": len(labels[name]),
                    "repeated": len(source) - len(labels[name]),
                    "without_label": source.dropped,
                    "sha256": source.sha256,
                }
                for name, source in sources.items()
            }
        )
        write_atomic(run.output / CONFUSION, confusion(labels).to_csv(index=False))
        write_atomic(run.output / AGREEMENT, table.to_csv(index=False))
    for name, source in sources.items():
        parts = [f"{len(labels[name]):,} documents"]
        parts += [f"{source.dropped:,} rows without label left out"] if source.dropped else []
        repeated = len(source) - len(labels[name])
        parts += [f"{repeated:,} labelled again, the first label counts"] if repeated else []
        console.print(f"{name}: {', '.join(parts)}", highlight=False, markup=False)
    console.print(_shown(table))
    console.print(f"{run.output / AGREEMENT}, {CONFUSION}", highlight=False, markup=False, soft_wrap=True)


def _counts(first: Mapping[Hashable, str], second: Mapping[Hashable, str]) -> tuple[list[str], np.ndarray]:
    """The labels that either gives to a common document, sorted, and how often each meets each [first, second]."""
    pairs = [(label, second[key]) for key, label in first.items() if key in second]
    classes = sorted({label for pair in pairs for label in pair})
    number = {label: i for i, label in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for mine, theirs in pairs:
        counts[number[mine], number[theirs]] += 1
    return classes, counts


def _accuracy(counts_BKK: np.ndarray) -> np.ndarray:
    return np.trace(counts_BKK, axis1=1, axis2=2) / counts_BKK.sum(axis=(1, 2))


def _kappa(counts_BKK: np.ndarray) -> np.ndarray:
    n_B = counts_BKK.sum(axis=(1, 2))
    chance_B = (counts_BKK.sum(axis=1) * counts_BKK.sum(axis=2)).sum(axis=1) / n_B**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance_B < 1, (_accuracy(counts_BKK) - chance_B) / (1 - chance_B), np.nan)


def _macro_f1(counts_BKK: np.ndarray) -> np.ndarray:
    hits_BK = np.diagonal(counts_BKK, axis1=1, axis2=2)
    given_BK = counts_BKK.sum(axis=1) + counts_BKK.sum(axis=2)
    # A class that neither gives in a resample is not one of its classes.
    return (2 * hits_BK / np.maximum(given_BK, 1)).sum(axis=1) / (given_BK > 0).sum(axis=1)


def _interval(values: np.ndarray) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return np.nan, np.nan
    low, high = np.quantile(defined, _TAILS)
    return float(low), float(high)


def _shown(frame: pd.DataFrame) -> Table:
    table = Table(title="agreement, with 95 % bootstrap intervals over documents", box=box.SIMPLE)
    for name in ("first", "second"):
        table.add_column(name)
    for name in ("n", *MEASURES):
        table.add_column(name, justify="right", no_wrap=True)
    for row in frame.to_dict("records"):
        figures = [f"{row[name]:.3f}\n{row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f}" for name in MEASURES]
        table.add_row(row["first"], row["second"], f"{row['n']:,}", *figures)
    return table
