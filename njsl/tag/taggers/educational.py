"""Educational value: the score of FineWeb-Edu's classifier, or of any sequence classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from njsl.core.types import ConfigError, DataError
from njsl.tag import hf_models
from njsl.tag.base import Batch, Column, Tagger

_WHERE = "tagger.educational"
_CHARS_PER_TOKEN = 64


class Educational(Tagger):
    """The raw output of a regression head, or the probability of one label.

    A document is read up to ``max_tokens``, as the classifier was trained, and of its text at most 64 characters per
    token of that limit are looked at. Scores are rounded to 0.001, and do not depend on what else is in a batch.

    Args:
        model: a folder, or a name on the hub.
        revision: a branch, tag or commit on the hub; null is its main branch.
        label: of a classifier with several labels the one whose probability is the score; null with a single output.
        max_tokens: longer documents are truncated [tokens, special ones included]; null is the model's own limit.
        batch_tokens: at most so many tokens per forward pass, padding included; null is 1,024 on a CPU and 16,384 on a
            GPU.
        device: ``auto`` is a GPU where there is one.

    Source: Penedo et al. 2024, "The FineWeb Datasets", arXiv:2406.17557, section 4: 0 (none) to 5 (outstanding).
    """

    columns: ClassVar[dict[str, Column]] = {
        "educational": Column(
            "float64",
            "score",
            "educational value as the classifier says it: FineWeb-Edu's raw score, about 0..5, or a probability",
            float("nan"),
            feature="edu_classifier",
        ),
        "educational_tokens_read": Column(
            "int64", "tokens", "tokens of the text that the classifier read, by its own tokenizer", 0
        ),
    }

    def __init__(
        self,
        *,
        model: str = "HuggingFaceTB/fineweb-edu-classifier",
        revision: str | None = None,
        label: str | None = None,
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
        device: hf_models.Device = "auto",
    ) -> None:
        self.model = model
        self.revision = revision
        self.label = label
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens
        self.device = device

    def inputs(self) -> Sequence[Path]:
        """The model's files."""
        return hf_models.files(hf_models.find(self.model, self.revision, f"{_WHERE}.model"))

    def load(self) -> None:
        """Read the classifier.

        Raises:
            ConfigError: it is not there, or a parameter does not fit it.
            DataError: the folder holds no whole sequence classifier.
        """
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ConfigError(f"{_WHERE}.batch_tokens: {self.batch_tokens}; at least 1 is accepted")
        folder = hf_models.find(self.model, self.revision, f"{_WHERE}.model")
        self._model, self._tokenizer = hf_models.load(
            "AutoModelForSequenceClassification", folder, where=_WHERE, device=self.device
        )
        self._at_once = self.batch_tokens or hf_models.BATCH_TOKENS[self._model.device.type]
        self._output = self._chosen_output()
        self._special = int(self._tokenizer.num_special_tokens_to_add())
        own = int(self._tokenizer.model_max_length)
        longest = min(own, hf_models.window(self._model, self._tokenizer))
        self._limit = longest if self.max_tokens is None else self.max_tokens
        if not self._special < self._limit <= longest:
            raise ConfigError(
                f"{_WHERE}.max_tokens: {self.max_tokens}; accepted: {self._special + 1} to {longest}, or null"
            )

    def tag_batch(self, batch: Batch) -> Mapping[str, Sequence[Any] | np.ndarray]:
        """Scores, and how much of each document they rest on."""
        texts = [text[: _CHARS_PER_TOKEN * self._limit] for text in batch.texts]
        encoded = self._tokenizer(texts, truncation=True, max_length=self._limit, verbose=False)
        rows = [{name: encoded[name][at] for name in encoded} for at in range(len(texts))]
        lengths = [len(row["input_ids"]) for row in rows]
        read = np.array([length - self._special for length in lengths], dtype=np.int64)
        scores = np.full(len(texts), np.nan)
        filled = np.flatnonzero(read > 0)
        # Without a token to pad with, documents go one by one.
        at_once = self._at_once if self._tokenizer.pad_token_id is not None else 1
        for chosen in hf_models.batches([lengths[at] for at in filled], at_once):
            places = filled[chosen]
            scores[places] = self._scores([rows[at] for at in places])
            if not np.isfinite(scores[places]).all():
                raise DataError(
                    f"{_WHERE}.model: {self.model} gives scores that are not finite; expected a trained model"
                )
            for at in places:
                if len(places) > 1 and hf_models.may_round_either_way(scores[at]):
                    scores[at] = self._scores([rows[at]])[0]
        return {"educational": scores.round(hf_models.DECIMALS), "educational_tokens_read": read}

    def _scores(self, rows: Sequence[dict[str, list[int]]]) -> np.ndarray:
        import torch

        if len(rows) > 1:
            inputs = self._tokenizer.pad(rows, return_tensors="pt", verbose=False)
        else:
            inputs = {name: torch.tensor([ids]) for name, ids in rows[0].items()}
        with torch.inference_mode():
            logits_BL = self._model(**{name: ids.to(self._model.device) for name, ids in inputs.items()}).logits.float()
            if logits_BL.shape[1] > 1:
                several = self._model.config.problem_type == "multi_label_classification"
                logits_BL = logits_BL.sigmoid() if several else logits_BL.softmax(dim=-1)
        return logits_BL[:, self._output].double().cpu().numpy()

    def _chosen_output(self) -> int:
        labels = {str(name): int(at) for at, name in self._model.config.id2label.items()}
        if self.label is None and len(labels) == 1:
            return 0
        if self.label is None:
            raise ConfigError(f"{_WHERE}.label: {self.model} has several labels; accepted: {', '.join(labels)}")
        if len(labels) == 1 or self.label not in labels:
            accepted = "null, it has a single output" if len(labels) == 1 else ", ".join(labels)
            raise ConfigError(f"{_WHERE}.label: {self.label!r} is no label of {self.model}; accepted: {accepted}")
        return labels[self.label]
