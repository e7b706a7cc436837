"""``mode=distil``: fit the local domain classifier, and say how good it is on documents it was not fitted on."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from njsl.core.config import LabelledConfig
from njsl.core.run import Run, write_atomic
from njsl.core.types import ConfigError, DataError
from njsl.tag import labelled
from njsl.tag.distil_scores import ALWAYS, CV, OURS, TFIDF, confusion_rows, draw_reliability, score_rows
from njsl.tag.domain_features import Features, features
from njsl.tag.domain_model import ARRAYS, CLASSES, FACTS, INNER_FOLDS, MAX_CHARS, DomainModel, fit, folder_of, macro_f1

SCORES, CONFUSION, RELIABILITY = "scores.csv", "confusion.csv", "reliability.png"
FOLDED = {"media": "reference"}  # as the paper does before it counts
_EXAMPLE = "e.g. '+distil.labelled={judged:{path:FILE}}'"
_ROLES = ("labelled", "source_labelled", "heldout")
_SPEED_CHARS, _SPEED_DOCUMENTS = 1500, 1000


@dataclass(frozen=True)
class Set:
    """Documents of one role: texts, numbers of their classes, and what was left out."""

    texts: list[str]
    labels: np.ndarray
    facts: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a classifier made of documents it was not fitted on.

    Attributes:
        decided: [documents] numbers of the classes by method.
        probabilities: [documents, classes] calibrated ones of our classifier.
    """

    decided: dict[str, np.ndarray]
    probabilities: np.ndarray


def distil_mode(cfg: DictConfig, run: Run) -> None:
    """``tag.py mode=distil``: writes the classifier to the run's folder and to the cache, with its scores.

    Documents are cross-validated whole; whatever looks at labels (weights, calibration, thresholds) is fitted on the
    training folds alone. Documents labelled by their source train in every fold and are never scored on. A text that
    occurs twice counts once, and one that was trained on is left out of ``heldout``.

    Args:
        cfg: a checked ``TagConfig``; ``distil`` and ``paths`` are read.
        run: its folder, not yet claimed.

    Raises:
        ConfigError: no labelled documents are named, or a value of ``distil`` is out of range.
        DataError: a source cannot be read, or a class has too few documents.
    """
    console, wanted = Console(), cfg.distil
    classes = _checked(wanted)
    sources = {
        role: {
            str(name): labelled.read(cast(LabelledConfig, entry), seed=wanted.seed, where=f"distil.{role}.{name}")
            for name, entry in wanted[role].items()
        }
        for role in _ROLES
    }
    seen: set[str] = set()
    judged = _set(sources["labelled"], classes, seen)
    further = _set(sources["source_labelled"], classes, seen)
    heldout = {name: _set({name: source}, classes, set(seen)) for name, source in sources["heldout"].items()}
    _enough(judged, classes, wanted.folds)
    hashes: dict[str, Any] = {
        f"{role}_{name}": source.sha256 for role, named in sources.items() for name, source in named.items()
    }
    run.claim(**hashes)
    target = folder_of(cfg.paths.cache, wanted.name)
    if not run.finished:
        facts = {
            name: one.facts for name, one in [("labelled", judged), ("source_labelled", further), *heldout.items()]
        }
        run.record(documents=facts)
        found = features(judged.texts, MAX_CHARS)
        more = (features(further.texts, MAX_CHARS), further.labels) if further.texts else None
        _cross_validate(wanted, classes, judged, found, more, heldout, run, hashes | {"documents": facts}, console)
    target.mkdir(parents=True, exist_ok=True)
    for name in (ARRAYS, FACTS):
        write_atomic(target / name, (run.output / name).read_bytes())
    _show(run.output, classes, console)
    console.print(f"classifier: {target}", highlight=False, markup=False, soft_wrap=True)


def _cross_validate(
    wanted: DictConfig,
    classes: list[str],
    judged: Set,
    found: Features,
    more: tuple[Features, np.ndarray] | None,
    heldout: Mapping[str, Set],
    run: Run,
    facts: dict[str, Any],
    console: Console,
) -> None:
    """Score out of fold, fit on everything, score on what is held out, write it all."""

    def fitted(rows: np.ndarray) -> DomainModel:
        return fit(
            found[rows],
            judged.labels[rows],
            classes,
            seed=wanted.seed,
            further=more,
            further_weight=wanted.source_weight,
        )

    outcomes = []
    for repeat in range(wanted.repeats):
        console.print(f"cross-validation {repeat + 1} of {wanted.repeats}", highlight=False, markup=False)
        outcomes.append(_out_of_fold(judged, found, fitted, wanted.folds, wanted.seed + repeat, len(classes)))
    everything = fitted(np.arange(len(judged.labels)))
    rows = score_rows(CV, judged.labels, outcomes[0].decided, outcomes[0].probabilities, classes, wanted.seed)
    for repeat, outcome in enumerate(outcomes):
        for method, decided in outcome.decided.items():
            value = macro_f1(judged.labels, decided, len(classes))
            rows.append({"set": CV, "method": method, "measure": f"macro_f1_repeat_{repeat}", "value": value})
    crosses = confusion_rows(CV, judged.labels, outcomes[0].decided, classes)
    curves = {CV: (judged.labels, outcomes[0].probabilities)}
    for name, one in heldout.items():
        p = everything.probabilities(one.texts)
        methods = {OURS: everything.decide(p)} | _baselines(judged.texts, judged.labels, one.texts)
        rows += score_rows(name, one.labels, methods, p, classes, wanted.seed)
        crosses += confusion_rows(name, one.labels, methods, classes)
        curves[name] = (one.labels, p)
    run.record(documents_per_cpu_sec=_speed(everything, judged.texts))
    write_atomic(run.output / SCORES, pd.DataFrame(rows).to_csv(index=False))
    write_atomic(run.output / CONFUSION, pd.DataFrame(crosses).to_csv(index=False))
    write_atomic(run.output / RELIABILITY, draw_reliability(curves, classes))
    everything.save(
        run.output,
        {
            "confusion": _table(judged.labels, outcomes[0].decided[OURS], len(classes)).tolist(),
            "macro_f1": macro_f1(judged.labels, outcomes[0].decided[OURS], len(classes)),
            "fitted_on": facts,
            "config": {key: wanted[key] for key in ("source_weight", "folds", "repeats", "seed")},
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
        },
    )


def _out_of_fold(judged: Set, found: Features, fitted: Any, folds: int, seed: int, n_classes: int) -> Outcome:
    from sklearn.model_selection import StratifiedKFold

    size = len(judged.labels)
    p = np.empty((size, n_classes))
    decided = {method: np.empty(size, np.int64) for method in (OURS, TFIDF, ALWAYS)}
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(judged.labels, judged.labels):
        model = fitted(train)
        p[test] = model.from_features(found[test])
        decided[OURS][test] = model.decide(p[test])
        texts = [[judged.texts[row] for row in rows] for rows in (train, test)]
        for method, numbers in _baselines(texts[0], judged.labels[train], texts[1]).items():
            decided[method][test] = numbers
    return Outcome(decided, p)


def _baselines(texts: Sequence[str], labels: np.ndarray, others: Sequence[str]) -> dict[str, np.ndarray]:
    """What TF-IDF with a class-balanced linear SVM says of ``others``; and the most frequent class."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    words = TfidfVectorizer()
    model = LinearSVC(class_weight="balanced", random_state=0).fit(words.fit_transform(texts), labels)
    often = np.full(len(others), np.bincount(labels).argmax())
    return {TFIDF: model.predict(words.transform(others)), ALWAYS: often}


def _checked(wanted: DictConfig) -> list[str]:
    """The classes, after a look at every value of ``distil``."""
    classes = list(wanted.classes)
    if not wanted.labelled:
        raise ConfigError(f"distil.labelled: none given; expected labelled documents by name, {_EXAMPLE}")
    if unknown := [label for label in classes if label not in CLASSES]:
        raise ConfigError(f"distil.classes: {unknown[0]!r} is none of {', '.join(CLASSES)}")
    if len(set(classes)) < 2 or len(set(classes)) < len(classes):
        raise ConfigError(f"distil.classes: {classes}; at least two different ones are accepted")
    for name, least in (("folds", 2), ("repeats", 1), ("seed", 0)):
        if wanted[name] < least:
            raise ConfigError(f"distil.{name}: {wanted[name]}; at least {least} is accepted")
    if wanted.source_weight <= 0:
        raise ConfigError(f"distil.source_weight: {wanted.source_weight}; more than 0 is accepted")
    for name in wanted.heldout:
        if name in (CV, *_ROLES):
            raise ConfigError(f"distil.heldout.{name}: the name is taken; any other is accepted")
    if not re.fullmatch(r"\w[\w.-]*", wanted.name):
        raise ConfigError(f"distil.name: {wanted.name!r}; letters, digits, '.', '-' and '_' are accepted")
    return classes


def _set(sources: Mapping[str, labelled.Labelled], classes: list[str], seen: set[str]) -> Set:
    """The documents of some sources; ``seen`` holds hashes of texts that are left out, and gets theirs."""
    texts, labels, outside, repeated = [], [], 0, 0
    for source in sources.values():
        for text, label in zip(source.texts, source.labels, strict=True):
            label = FOLDED.get(label, label)
            key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
            if label not in classes:
                outside += 1
            elif key in seen:
                repeated += 1
            else:
                seen.add(key)
                texts.append(text)
                labels.append(classes.index(label))
    counts = np.bincount(np.array(labels, np.int64), minlength=len(classes)).tolist()
    facts = {
        "used": len(texts),
        "by_class": dict(zip(classes, counts, strict=True)),
        "other_labels": outside,
        "repeated": repeated,
        "without_label_or_text": sum(source.dropped for source in sources.values()),
        "sha256": {name: source.sha256 for name, source in sources.items()},
    }
    return Set(texts, np.array(labels, np.int64), facts)


def _enough(judged: Set, classes: list[str], folds: int) -> None:
    # Each class must be in all inner folds of a training set that has lost one fold.
    least = max(folds, int(np.ceil(INNER_FOLDS * folds / (folds - 1))) + 1)
    for number, label in enumerate(classes):
        if (count := int((judged.labels == number).sum())) < least:
            raise DataError(
                f"distil.labelled: {count} documents labelled {label}; at least {least} of each of distil.classes are "
                f"needed with distil.folds={folds}"
            )


def _table(labels: np.ndarray, decided: np.ndarray, n_classes: int) -> np.ndarray:
    return np.bincount(labels * n_classes + decided, minlength=n_classes**2).reshape(n_classes, n_classes)


def _speed(model: DomainModel, texts: Sequence[str]) -> float:
    """Documents of 1.5 KB per CPU-second, features included."""
    pieces = [text[:_SPEED_CHARS] for text in texts if len(text) >= _SPEED_CHARS][:_SPEED_DOCUMENTS]
    pieces = pieces or list(texts[:_SPEED_DOCUMENTS])
    model.probabilities(pieces[:50])
    start = time.process_time()
    model.decide(model.probabilities(pieces))
    return round(len(pieces) / max(time.process_time() - start, 1e-9))


def _show(folder: Path, classes: list[str], console: Console) -> None:
    scores = pd.read_csv(folder / SCORES)
    crosses = pd.read_csv(folder / CONFUSION)
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))["facts"]
    for name, rows in scores.groupby("set", sort=False):
        ours = rows[rows.method == OURS].set_index(["measure", "label"])
        n = int(ours.loc[("f1", classes[0]), "n_all"])
        kept = rows.measure.isin(["macro_f1", "accuracy"])
        table = Table(title=f"{name}: {n:,} documents, 95 % intervals over documents", title_justify="left")
        for title in ("", "precision", "recall", "F1", "n"):
            table.add_column(title, justify="left" if not title else "right")
        for label in classes:
            shown = [_interval(ours.loc[(measure, label)]) for measure in ("precision", "recall", "f1")]
            table.add_row(label, *shown, str(int(ours.loc[("f1", label), "n"])))
        console.print(table)
        for row in rows[kept].itertuples():
            console.print(
                f"  {row.method:10} {row.measure:9} {row.value:.3f} [{row.low:.3f}, {row.high:.3f}]", markup=False
            )
        again = rows[(rows.method == OURS) & rows.measure.str.startswith("macro_f1_repeat")].value
        if len(again):
            console.print(
                f"  macro-F1 over {len(again)} cross-validations: {again.mean():.3f}, "
                f"{again.min():.3f} to {again.max():.3f}"
            )
        for measure in ("ece", "brier"):
            row = rows[(rows.method == OURS) & (rows.measure == measure)].iloc[0]
            console.print(f"  {measure:20} {row.value:.3f} [{row.low:.3f}, {row.high:.3f}]", markup=False)
        matrix = Table(title=f"{name}: true class by row, found class by column", title_justify="left")
        for title in ("", *classes):
            matrix.add_column(title, justify="left" if not title else "right")
        mine = crosses[(crosses.set == name) & (crosses.method == OURS)].set_index(["label", "found"]).n
        for label in classes:
            matrix.add_row(label, *(str(mine[label, other]) for other in classes))
        console.print(matrix)
    left = {name: one["other_labels"] for name, one in facts["documents"].items() if one["other_labels"]}
    for name, count in left.items():
        console.print(f"{name}: {count} documents with other labels than distil.classes are left out", markup=False)
    console.print(f"{facts['documents_per_cpu_sec']:,} documents of 1.5 KB per CPU-second", markup=False)


def _interval(row: pd.Series) -> str:
    return f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]"
