"""How well a causal language model foresees each document."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from njsl.core.types import ConfigError, DataError
from njsl.tag import hf_models
from njsl.tag.base import Batch, Column, Tagger

# Tensors: B windows, T positions, V vocabulary.
_WHERE = "tagger.perplexity"


class _Window(NamedTuple):
    """A piece of a text: the model sees ``start`` to ``end`` and scores ``first`` to ``end`` [tokens]."""

    text: int
    start: int
    first: int
    end: int


class Perplexity(Tagger):
    """Negative log-likelihood of a document; perplexity is e to the power of its nats per token.

    The model sees BOS (where it has none, EOS) before a text's first token, so every token of the text is scored; the
    end of the text is not. A text longer than the window is read in windows: the first scores all that it holds, each
    further one the next ``stride`` tokens, with as many tokens before them as still fit. Every token counts once.
    Nats per token compare within one tokenizer only; bits per byte compare across models. Both are rounded to 0.001
    and in float32 do not depend on what else is in a batch.

    Args:
        model: a folder, or a name on the hub.
        revision: a branch, tag or commit on the hub; null is its main branch.
        window: longest input [tokens]; null is the model's own limit, but at most 4096.
        stride: by how much the window moves [tokens], up to ``window``; null is half of it. Smaller is slower and
            leaves more context.
        max_chars: of a longer text only its start is scored [characters]; null is all.
        batch_tokens: at most so many tokens per forward pass, padding included; null is 1,024 on a CPU and 16,384 on a
            GPU.
        device: ``auto`` is a GPU where there is one.
        dtype: what the model computes in; with bfloat16 the last digit may depend on the batch.
    """

    columns: ClassVar[dict[str, Column]] = {
        "lm_nll_nats": Column(
            "float64",
            "nats/token",
            "mean negative log-likelihood of its tokens",
            float("nan"),
            feature="perplexity_nats_per_token",
        ),
        "lm_bits_per_byte": Column(
            "float64",
            "bits/byte",
            "negative log-likelihood per byte of its UTF-8 text",
            float("nan"),
            feature="perplexity_bits_per_byte",
        ),
        "lm_tokens": Column("int64", "tokens", "tokens that were scored, by the model's own tokenizer", 0),
        "lm_bytes": Column("int64", "bytes", "length of the text that was scored, in UTF-8", 0),
    }

    def __init__(
        self,
        *,
        model: str,
        revision: str | None = None,
        window: int | None = None,
        stride: int | None = None,
        max_chars: int | None = 20_000,
        batch_tokens: int | None = None,
        device: hf_models.Device = "auto",
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        self.model = model
        self.revision = revision
        self.window = window
        self.stride = stride
        self.max_chars = max_chars
        self.batch_tokens = batch_tokens
        self.device = device
        self.dtype = dtype

    def inputs(self) -> Sequence[Path]:
        """The model's files."""
        return hf_models.files(hf_models.find(self.model, self.revision, f"{_WHERE}.model"))

    def load(self) -> None:
        """Read the model.

        Raises:
            ConfigError: it is not there, or a parameter does not fit it.
            DataError: the folder holds no whole causal language model.
        """
        for name in ("max_chars", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{_WHERE}.{name}: {value}; at least 1 is accepted")
        folder = hf_models.find(self.model, self.revision, f"{_WHERE}.model")
        self._model, self._tokenizer = hf_models.load(
            "AutoModelForCausalLM", folder, where=_WHERE, device=self.device, dtype=self.dtype
        )
        self._at_once = self.batch_tokens or hf_models.BATCH_TOKENS[self._model.device.type]
        longest = hf_models.window(self._model, self._tokenizer)
        self._window = min(longest, hf_models.LONGEST_WINDOW) if self.window is None else self.window
        if not 1 <= self._window <= longest:
            raise ConfigError(f"{_WHERE}.window: {self.window}; accepted: 1 to {longest}, or null")
        self._stride = max(1, self._window // 2) if self.stride is None else self.stride
        if not 1 <= self._stride <= self._window:
            raise ConfigError(f"{_WHERE}.stride: {self.stride}; accepted: 1 to {self._window}, or null")
        self._prefix = hf_models.prefix_id(self._model, self._tokenizer, f"{_WHERE}.model")

    def tag_batch(self, batch: Batch) -> Mapping[str, Sequence[Any] | np.ndarray]:
        """Both measures, and how much of each document they rest on."""
        texts = [text if self.max_chars is None else text[: self.max_chars] for text in batch.texts]
        # What looks like a special token in a text is text.
        ids = self._tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        n_bytes = np.array([len(text.encode("utf-8")) for text in texts], dtype=np.int64)
        n_tokens = np.array([len(one) for one in ids], dtype=np.int64)
        per_token, per_byte = np.full(len(texts), np.nan), np.full(len(texts), np.nan)
        together = self._nats(ids, batched=True)
        for at in np.flatnonzero(n_tokens):
            units = np.array([n_tokens[at], n_bytes[at] * math.log(2)])
            values = together[at] / units
            if any(map(hf_models.may_round_either_way, values)):
                values = self._nats([ids[at]], batched=False)[0] / units
            per_token[at], per_byte[at] = values.round(hf_models.DECIMALS)
        return {"lm_nll_nats": per_token, "lm_bits_per_byte": per_byte, "lm_tokens": n_tokens, "lm_bytes": n_bytes}

    def _nats(self, ids: Sequence[Sequence[int]], *, batched: bool) -> list[float]:
        """Negative log-likelihood of each text, the sum over its tokens."""
        import torch

        windows = [window for text, one in enumerate(ids) for window in self._windows(text, len(one))]
        vocabulary = self._model.get_input_embeddings().num_embeddings
        at_once = min(self._at_once, hf_models.MOST_LOGITS // vocabulary) if batched else 1
        nats = [np.zeros(len(one)) for one in ids]
        for chosen in hf_models.batches([window.end - window.start for window in windows], at_once):
            batch = [windows[at] for at in chosen]
            shape = (len(batch), max(window.end - window.start for window in batch))
            # Padding stands on the right, where nothing that counts can see it: no mask is needed.
            inputs_BT, targets_BT = (torch.full(shape, self._prefix) for _ in range(2))
            for row, (text, start, _, end) in enumerate(batch):
                targets_BT[row, : end - start] = torch.tensor(ids[text][start:end])
                inputs_BT[row, 1 : end - start] = targets_BT[row, : end - start - 1]
                if start > 0:
                    inputs_BT[row, 0] = ids[text][start - 1]
            nll_BT = self._nll(inputs_BT, targets_BT)
            for row, (text, start, first, end) in enumerate(batch):
                nats[text][first:end] = nll_BT[row, first - start : end - start]
        sums = [float(one.sum()) for one in nats]
        if not np.isfinite(sums).all():
            raise DataError(f"{_WHERE}.model: {self.model} gives no finite probabilities; expected a trained model")
        return sums

    def _nll(self, inputs_BT: Any, targets_BT: Any) -> np.ndarray:
        import torch
        from torch.nn import functional as F

        with torch.inference_mode():
            logits_BTV = self._model(input_ids=inputs_BT.to(self._model.device), use_cache=False).logits
            # Row by row, so that no second copy of all logits is made.
            rows = zip(logits_BTV, targets_BT.to(logits_BTV.device), strict=True)
            nll = [F.cross_entropy(logits_TV.float(), targets_T, reduction="none") for logits_TV, targets_T in rows]
            return torch.stack(nll).double().cpu().numpy()

    def _windows(self, text: int, length: int) -> Iterator[_Window]:
        """The windows over a text of ``length`` tokens; what they score partitions it."""
        first = 0
        while first < length:
            end = min(length, self._window if first == 0 else first + self._stride)
            yield _Window(text, max(0, end - self._window), first, end)
            first = end
