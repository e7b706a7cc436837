"""Scores of a domain classifier with intervals, and its reliability diagram."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CV = "cross_validation"
OURS, TFIDF, ALWAYS = "domain", "tfidf", "always"
_RESAMPLES, _TAILS, _BINS = 2000, (2.5, 97.5), 10
Row = dict[str, Any]


def score_rows(
    name: str,
    labels: np.ndarray,
    decided: Mapping[str, np.ndarray],
    probabilities: np.ndarray,
    classes: Sequence[str],
    seed: int,
) -> list[Row]:
    """A row per method, measure and class, with a 95 % percentile bootstrap interval over the documents.

    Args:
        name: of the documents.
        labels: [documents] numbers of the true classes.
        decided: by method [documents] numbers of the classes found; one of them is ``OURS``.
        probabilities: [documents, classes] of ``OURS``.
        classes: their names.
        seed: of the resampling; all methods are resampled alike.

    Returns:
        Rows with ``set``, ``method``, ``measure``, ``label`` (empty for measures of all classes), ``value``, ``low``,
        ``high``, ``n`` [documents of the class] and ``n_all``. ``precision``, ``recall``, ``f1``, ``macro_f1``,
        ``accuracy`` and ``ece`` lie in 0..1, ``brier`` (sum over classes) in 0..2.
    """
    size, n_classes = len(labels), len(classes)
    drawn = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=_RESAMPLES).astype(np.float64)
    weights = np.vstack([np.ones(size), drawn])  # the first is the sample itself
    rows: list[Row] = []

    def add(method: str, measure: str, values: np.ndarray, label: str = "", n: int = size) -> None:
        low, high = np.percentile(values[1:], _TAILS)
        row = {"set": name, "method": method, "measure": measure, "label": label, "value": values[0]}
        rows.append(row | {"low": low, "high": high, "n": n, "n_all": size})

    for method, found in decided.items():
        cells = np.zeros((size, n_classes**2))
        cells[np.arange(size), labels * n_classes + found] = 1
        tables = (weights @ cells).reshape(-1, n_classes, n_classes)
        hits, true, named = np.diagonal(tables, axis1=1, axis2=2), tables.sum(axis=2), tables.sum(axis=1)
        f1 = 2 * hits / np.maximum(true + named, 1)
        for number, label in enumerate(classes):
            n = int((labels == number).sum())
            add(method, "precision", hits[:, number] / np.maximum(named[:, number], 1), label, n)
            add(method, "recall", hits[:, number] / np.maximum(true[:, number], 1), label, n)
            add(method, "f1", f1[:, number], label, n)
        add(method, "macro_f1", f1.mean(axis=1))
        add(method, "accuracy", hits.sum(axis=1) / size)
    add(OURS, "ece", _calibration_error(labels, probabilities, weights))
    add(OURS, "brier", weights @ ((probabilities - np.eye(n_classes)[labels]) ** 2).sum(axis=1) / size)
    return rows


def confusion_rows(
    name: str, labels: np.ndarray, decided: Mapping[str, np.ndarray], classes: Sequence[str]
) -> list[Row]:
    """A row per method, true class (``label``) and class found, with ``n`` [documents]."""
    return [
        {"set": name, "method": method, "label": label, "found": other, "n": int(((labels == i) & (found == j)).sum())}
        for method, found in decided.items()
        for i, label in enumerate(classes)
        for j, other in enumerate(classes)
    ]


def draw_reliability(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], classes: Sequence[str]) -> bytes:
    """A PNG: how often a class is true where its calibrated probability is so much, for each set of documents."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(curves), 4.5), layout="constrained")
    for axes, (name, (labels, p)) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for number, label in enumerate(classes):
            bins = np.minimum((p[:, number] * _BINS).astype(int), _BINS - 1)
            counts = np.bincount(bins, minlength=_BINS)
            full = counts >= 5
            mean = np.bincount(bins, p[:, number], _BINS)[full] / counts[full]
            axes.plot(mean, np.bincount(bins, labels == number, _BINS)[full] / counts[full], marker="o", label=label)
        axes.set(title=f"{name}, n = {len(labels)}", xlabel="calibrated probability", ylabel="share of documents")
        axes.legend()
    packed = io.BytesIO()
    figure.savefig(packed, format="png", dpi=110, metadata={"Software": None})
    return packed.getvalue()


def _calibration_error(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error of the likeliest class over ten equal bins, per row of weights.

    Source: Naeini, Cooper, Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning", AAAI.
    """
    best = probabilities.max(axis=1)
    gap = best - (probabilities.argmax(axis=1) == labels)
    bins = np.eye(_BINS)[np.minimum((best * _BINS).astype(int), _BINS - 1)]
    return np.abs(weights @ (bins * gap[:, None])).sum(axis=1) / weights.sum(axis=1)
