"""Domain by the local classifier that ``mode=distil`` has fitted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from njsl.core.types import ConfigError
from njsl.tag.base import Batch, Column, Figure, Tagger
from njsl.tag.domain_model import ARRAYS, CLASSES, FACTS, folder_of, load
from njsl.tag.prevalence import corrected_shares

_WHERE = "tagger.domain.classifier"
_REMEDY = "fit it with python tag.py mode=distil '+distil.labelled={NAME:{path:FILE}}'"
_DIGITS = 6  # of a probability: the last ones of a float depend on how many documents are computed together


class Domain(Tagger):
    """The likeliest domain, and how likely each is.

    The classifier reads a document's first characters only, 8,000 unless it was fitted otherwise. A blank document
    has no domain. Probabilities, rounded to 1e-6, are calibrated for the class shares of the documents that the
    classifier was fitted on; the label favours rare classes, so it is not always the one of the highest probability.
    Shares counted from labels carry the classifier's confusions; beside them stand corrected ones with an interval.

    Args:
        classifier: a name that ``distil.name`` gave, or a folder that holds one.
        cache: the folder below which named ones lie; null is the user's cache folder.
    """

    columns: ClassVar[dict[str, Column]] = {
        "domain": Column(
            "string",
            "label",
            "domain by the local classifier; null for a blank document",
            None,
            shares={label: f"domain_{label}_pct_mean" for label in CLASSES},
        ),
        **{
            f"domain_p_{label}": Column(
                "float64",
                "1",
                f"calibrated probability of the domain {label}; NaN if the classifier does not know it",
                float("nan"),
            )
            for label in CLASSES
        },
        "domain_chars_read": Column("int64", "characters", "characters of the text that the classifier read", 0),
    }

    def __init__(self, *, classifier: str = "default", cache: str | None = None) -> None:
        self.classifier = classifier
        self.cache = cache

    def inputs(self) -> Sequence[Path]:
        """The classifier's files."""
        folder = self._folder()
        self._require(folder)
        return [folder / FACTS, folder / ARRAYS]

    def load(self) -> None:
        """Read the classifier.

        Raises:
            ConfigError: there is none of this name.
            DataError: it is damaged, or was fitted by another version.
        """
        self._model, facts = load(self._folder(), _WHERE, _REMEDY)
        self._confusion = np.array(facts["confusion"])

    def tag_batch(self, batch: Batch) -> Mapping[str, Sequence[Any] | np.ndarray]:
        """Label and probabilities of each document."""
        probabilities = self._model.probabilities(batch.texts)
        blank = np.array([not text.strip() for text in batch.texts])
        names = [self._model.classes[number] for number in self._model.decide(probabilities)]
        values: dict[str, Sequence[Any] | np.ndarray] = {
            "domain": [None if empty else name for empty, name in zip(blank, names, strict=True)],
            "domain_chars_read": np.array([min(len(text), self._model.max_chars) for text in batch.texts], np.int64),
        }
        for label in CLASSES:
            column = np.full(len(batch), np.nan)
            if label in self._model.classes:
                column[~blank] = probabilities[~blank, self._model.classes.index(label)].round(_DIGITS)
            values[f"domain_p_{label}"] = column
        return values

    def described(self) -> Mapping[str, Column]:
        """With the shares of the classes that the classifier knows."""
        shares = self.columns["domain"].shares or {}
        known = {label: feature for label, feature in shares.items() if label in self._model.classes}
        return {**self.columns, "domain": dataclasses.replace(self.columns["domain"], shares=known)}

    def corrected(self, column: str, counts: Mapping[str, int]) -> dict[str, tuple[Figure, float]]:
        """Shares corrected for the confusion matrix, each with the ends of its 95 % interval."""
        table = corrected_shares(counts, self._confusion, self._model.classes, seed=0)
        figures = {}
        for row in table.itertuples():
            name = f"domain_{row.label}_pct_corrected"
            about = f"share of {row.label}, corrected for the classifier's confusions"
            low, high = f"{name}_low", f"{name}_high"
            figures[name] = Figure("%", about, name, (low, high)), row.share_pct
            figures[low] = Figure("%", f"{about}: lower end of the 95 % interval"), row.low_pct
            figures[high] = Figure("%", f"{about}: upper end of the 95 % interval"), row.high_pct
        return {key: (figure, float(value)) for key, (figure, value) in figures.items()}

    def _folder(self) -> Path:
        given = Path(self.classifier).expanduser()
        return given if given.is_dir() else folder_of(self.cache, self.classifier)

    def _require(self, folder: Path) -> None:
        if not (folder / FACTS).is_file() or not (folder / ARRAYS).is_file():
            raise ConfigError(f"{_WHERE}: no classifier in {folder}; {_REMEDY}")
