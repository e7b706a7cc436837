"""The local domain classifier: a linear model on words and style, calibrated, with its own thresholds."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from njsl.core.run import cache_folder, write_atomic
from njsl.core.types import ConfigError, DataError
from njsl.tag.domain_features import VERSION, Features, features

ARRAYS, FACTS = "classifier.npz", "classifier.json"
CLASSES = ("academic", "books", "code", "reference", "web")  # what a classifier may tell apart
MAX_CHARS = 8000
_INVERSE_PENALTY = 3.0  # scikit-learn's C; 1 to 10 score the same within the noise, experiments/domain_classifier
_MIN_DOCUMENTS = 2  # a word that fewer training documents have is left out
_CLIP = 3.0  # standard deviations
INNER_FOLDS = 5
_OFFSETS = np.linspace(-3, 3, 25)  # nats
_BATCH = 256


@dataclass(frozen=True)
class DomainModel:
    """A fitted classifier.

    Attributes:
        classes: in the order of all arrays.
        max_chars: of a document so many characters are read.
        arrays: ``words`` and ``idf`` [words]; ``mean`` and ``spread`` [style]; ``weights``
            [words + style, classes]; ``bias`` [classes]; ``scale`` and ``shift`` [classes], which make
            probabilities of the scores; ``offset`` [classes], which is added to their logarithms for the decision.
    """

    classes: tuple[str, ...]
    max_chars: int
    arrays: dict[str, np.ndarray]

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Calibrated probabilities [texts, classes] under the class shares of the judged training documents."""
        parts = [
            self.from_features(features(texts[start : start + _BATCH], self.max_chars))
            for start in range(0, len(texts), _BATCH)
        ]
        return np.concatenate(parts) if parts else np.empty((0, len(self.classes)))

    def from_features(self, found: Features) -> np.ndarray:
        """``probabilities`` from features that were made with this ``max_chars``."""
        return _softmax(self.scores(found) * self.arrays["scale"] + self.arrays["shift"])

    def scores(self, found: Features) -> np.ndarray:
        """Log probabilities [documents, classes] before calibration, the classes weighing the same."""
        inputs = _inputs(found, self.arrays)
        # Row by row, so that a document's values do not depend on its batch mates.
        return _log_softmax(inputs @ self.arrays["weights"] + self.arrays["bias"])

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Number of the class [documents]: the likeliest after the offsets, which favour the rare ones."""
        return np.argmax(np.log(np.maximum(probabilities, 1e-300)) + self.arrays["offset"], axis=1)

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write arrays and facts; the facts come last and name the arrays' hash, so that a torn write is noticed."""
        folder.mkdir(parents=True, exist_ok=True)
        packed = _npz(self.arrays)
        write_atomic(folder / ARRAYS, packed)
        own = {
            "classes": list(self.classes),
            "max_chars": self.max_chars,
            "features": VERSION,
            "arrays_sha256": hashlib.sha256(packed).hexdigest(),
        }
        write_atomic(folder / FACTS, json.dumps(own | facts, indent=1, ensure_ascii=False) + "\n")


def folder_of(cache: str | None, name: str) -> Path:
    """Where the classifier of this name lies; null is the user's cache folder."""
    return cache_folder(cache) / "domain_classifier" / name


def load(folder: Path, where: str, remedy: str) -> tuple[DomainModel, dict[str, Any]]:
    """A saved classifier and its facts.

    Args:
        folder: where ``DomainModel.save`` wrote it.
        where: the dotted config path that names it, for messages.
        remedy: how to get one.

    Raises:
        ConfigError: there is none.
        DataError: it is damaged, or was fitted for other features than this version makes.
    """
    if not (folder / FACTS).is_file() or not (folder / ARRAYS).is_file():
        raise ConfigError(f"{where}: no classifier in {folder}; {remedy}")
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        packed = (folder / ARRAYS).read_bytes()
        if hashlib.sha256(packed).hexdigest() != facts["arrays_sha256"]:
            raise ValueError(f"{ARRAYS} is not the file that {FACTS} names")
        if facts["features"] != VERSION:
            raise ValueError(f"it was fitted on version {facts['features']} of the features, this is {VERSION}")
        with np.load(io.BytesIO(packed), allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        return DomainModel(tuple(facts["classes"]), int(facts["max_chars"]), arrays), facts
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{where}: the classifier in {folder} cannot be used: {error}; {remedy}") from error


def fit(
    found: Features,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    seed: int,
    further: tuple[Features, np.ndarray] | None = None,
    further_weight: float = 0.1,
    max_chars: int = MAX_CHARS,
) -> DomainModel:
    """Fit the classifier. Calibration and thresholds come from a cross-validation within these documents.

    Args:
        found: of the judged documents.
        labels: [documents] numbers of their classes; each class has at least ``INNER_FOLDS`` documents.
        classes: their names.
        seed: of the inner folds.
        further: documents labelled by their source; neither calibration nor thresholds look at them.
        further_weight: of each of those, against 1 for a judged document.
        max_chars: that ``found`` was made with.
    """
    from sklearn.model_selection import StratifiedKFold

    inner = np.empty((len(labels), len(classes)))
    for train, test in StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=seed).split(labels, labels):
        linear = _fit_linear(found[train], labels[train], len(classes), further, further_weight)
        inner[test] = DomainModel(tuple(classes), max_chars, linear).scores(found[test])
    arrays = _fit_linear(found, labels, len(classes), further, further_weight)
    arrays |= _calibration(inner, labels)
    log_p = _log_softmax(inner * arrays["scale"] + arrays["shift"])
    return DomainModel(tuple(classes), max_chars, arrays | {"offset": _offsets(log_p, labels)})


def macro_f1(labels: np.ndarray, decided: np.ndarray, n_classes: int) -> float:
    """Mean over the classes of F1 (0..1); a class that is neither given nor found counts 0."""
    table = np.bincount(labels * n_classes + decided, minlength=n_classes**2).reshape(n_classes, n_classes)
    return float(np.mean(2 * np.diag(table) / np.maximum(table.sum(0) + table.sum(1), 1)))


# ------------------------------------------------------------------------------------------------------------- fitting


def _fit_linear(
    found: Features,
    labels: np.ndarray,
    n_classes: int,
    further: tuple[Features, np.ndarray] | None,
    further_weight: float,
) -> dict[str, np.ndarray]:
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

    words, in_documents = np.unique(found.hashes, return_counts=True)
    kept = in_documents >= _MIN_DOCUMENTS
    arrays = {"words": words[kept], "idf": np.log((1 + len(found)) / (1 + in_documents[kept])) + 1}
    arrays |= {"mean": found.style.mean(axis=0), "spread": np.maximum(found.style.std(axis=0), 1e-6)}
    inputs, weight = _inputs(found, arrays), np.ones(len(labels))
    if further is not None:
        inputs = sparse.vstack([inputs, _inputs(further[0], arrays)]).tocsr()
        labels = np.concatenate([labels, further[1]])
        weight = np.concatenate([weight, np.full(len(further[1]), further_weight)])
    weight = weight / np.bincount(labels, weight, n_classes)[labels]  # every class weighs the same
    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=1000, tol=1e-3)
    model.fit(inputs, labels, sample_weight=weight * len(labels) / n_classes)
    coef, bias = model.coef_, model.intercept_
    if n_classes == 2:  # scikit-learn keeps the second class' only
        coef, bias = np.vstack([-coef / 2, coef / 2]), np.concatenate([-bias / 2, bias / 2])
    return arrays | {"weights": np.ascontiguousarray(coef.T), "bias": bias}


def _inputs(found: Features, arrays: dict[str, np.ndarray]) -> Any:
    """The linear model's input [documents, words + style], a CSR matrix: two parts of like norm."""
    from scipy import sparse

    words = found.columns(arrays["words"])
    words.data = (1 + np.log(words.data)) * arrays["idf"][words.indices]
    squares = np.add.reduceat(np.append(words.data**2, 0.0), words.indptr[:-1]) * (np.diff(words.indptr) > 0)
    words.data /= np.repeat(np.sqrt(np.maximum(squares, 1e-12)), np.diff(words.indptr))
    style = np.clip((found.style - arrays["mean"]) / arrays["spread"], -_CLIP, _CLIP) / np.sqrt(found.style.shape[1])
    return sparse.hstack([words, sparse.csr_matrix(style)]).tocsr()


def _calibration(scores: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """One scale for all classes and a shift for each, by maximum likelihood.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", ICML: temperature scaling. The shifts give back
    the class shares, which the balanced fit has taken away.
    """
    from scipy.optimize import minimize

    n_classes = scores.shape[1]
    truth = np.eye(n_classes)[labels]

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        log_p = _log_softmax(scores * np.exp(values[0]) + values[1:])
        wrong = (np.exp(log_p) - truth) / len(labels)
        # A small penalty: the shifts are defined up to a constant, and separable scores have no finite best scale.
        gradient = np.append(np.sum(wrong * scores) * np.exp(values[0]), wrong.sum(axis=0)) + 2e-4 * values
        return float(-log_p[truth > 0].mean() + 1e-4 * values @ values), gradient

    best = minimize(loss, np.zeros(1 + n_classes), jac=True, method="BFGS").x
    return {"scale": np.full(n_classes, np.exp(best[0])), "shift": best[1:]}


def _offsets(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Offsets of the decision with the best macro-F1, class by class; the best of three neighbours' mean, for noise."""
    n_classes = log_p.shape[1]
    offset = np.zeros(n_classes)
    for _ in range(3):
        for number in range(1, n_classes):
            scores = []
            for value in _OFFSETS:
                offset[number] = value
                scores.append(macro_f1(labels, np.argmax(log_p + offset, axis=1), n_classes))
            smooth = np.convolve(np.pad(scores, 1, "edge"), np.ones(3) / 3, "valid")
            offset[number] = _OFFSETS[np.argmax(smooth)]
    return offset


def _log_softmax(values: np.ndarray) -> np.ndarray:
    values = values - values.max(axis=1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


def _softmax(values: np.ndarray) -> np.ndarray:
    return np.exp(_log_softmax(values))


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    """The arrays as a compressed .npz; the same arrays give the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            one = io.BytesIO()
            np.lib.format.write_array(one, np.asarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), one.getvalue(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()
