"""Free generations from a Hugging Face causal language model."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from njsl.core.types import ConfigError, DataError
from njsl.tag import hf_models

if TYPE_CHECKING:
    import torch

# Tensors: B generations, T positions, V vocabulary.
_WHERE = "generator"


class HuggingFace:
    """Texts sampled token by token.

    Generation ``i`` draws its random numbers from (seed, i) alone, so it does not depend on its batch beyond what
    float rounding does to the logits; batches that start at the same index repeat to the byte.

    Args:
        checkpoint: a folder, or a name on the hub; an export of train.py is such a folder.
        revision: a branch, tag or commit on the hub; null is its main branch.
        prompt: what every text goes on from, as the model's tokenizer reads it; empty is BOS alone (without one, EOS).
        count: how many texts.
        temperature: divides the logits, >= 0; 0 always takes the likeliest token.
        top_p: only the likeliest tokens that together reach this probability are sampled from, 0..1 without 0.
        max_new_tokens: a text that has not ended by then is cut there.
        min_new_tokens: before so many tokens a text does not end.
        batch_size: texts that are written at once.
        device: ``auto`` is a GPU where there is one.
        dtype: what the model computes in.
    """

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        revision: str | None = None,
        prompt: str = "",
        count: int = 1000,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 255,
        min_new_tokens: int = 1,
        batch_size: int = 20,
        device: hf_models.Device = "auto",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        self.checkpoint = checkpoint
        self.revision = revision
        self.prompt = prompt
        self.count = count
        self.temperature = temperature
        self.top_p = top_p
        self.max_new_tokens = max_new_tokens
        self.min_new_tokens = min_new_tokens
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype

    def identity(self) -> dict[str, Any]:
        """What the texts depend on beside the seed, fit for JSON: the model's name and hash, parameters, versions.

        Raises:
            ConfigError: a parameter that cannot be, or no checkpoint.
        """
        folder = self._check()
        named = ("prompt", "temperature", "top_p", "max_new_tokens", "min_new_tokens", "batch_size", "dtype")
        return {
            "checkpoint": self.checkpoint,
            "revision": self.revision,
            "sha256": hf_models.fingerprint(folder),
            "parameters": {name: getattr(self, name) for name in named},
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")},
        }

    def load(self) -> None:
        """Read the model.

        Raises:
            ConfigError: it is not there, or a parameter does not fit it.
            DataError: the folder holds no whole causal language model.
        """
        self._model, self._tokenizer = hf_models.load(
            "AutoModelForCausalLM", self._check(), where=f"{_WHERE}.checkpoint", device=self.device, dtype=self.dtype
        )
        self._stops = hf_models.stop_ids(self._model, self._tokenizer)
        ids = list(self._tokenizer(self.prompt, verbose=False)["input_ids"]) if self.prompt else []
        self._prompt = ids or [hf_models.prefix_id(self._model, self._tokenizer, f"{_WHERE}.checkpoint")]
        room = hf_models.window(self._model, self._tokenizer) - len(self._prompt)
        if self.max_new_tokens > room:
            raise ConfigError(
                f"{_WHERE}.max_new_tokens: {self.max_new_tokens}; after a prompt of {len(self._prompt)} tokens "
                f"{self.checkpoint} has room for {max(room, 0)}"
            )

    def generate(self, first: int, count: int, seed: int) -> list[dict[str, Any]]:
        """Write texts number ``first`` to ``first + count - 1``, in batches from ``first`` on.

        Returns:
            Per text ``id`` (its number), ``text`` (without the prompt), ``finish_reason`` (``stop``: it ended;
            ``length``: it was cut) and ``n_tokens`` (without the token that ends it).

        Raises:
            DataError: the model's logits are not finite.
        """
        records = []
        for start in range(first, first + count, self.batch_size):
            numbers = range(start, min(start + self.batch_size, first + count))
            for number, ids in zip(numbers, self._sample(numbers, seed), strict=True):
                ended = bool(ids) and ids[-1] in self._stops
                kept = ids[:-1] if ended else ids
                records.append(
                    {
                        "id": str(number),
                        "text": self._tokenizer.decode(
                            kept, skip_special_tokens=True, clean_up_tokenization_spaces=False
                        ),
                        "finish_reason": "stop" if ended else "length",
                        "n_tokens": len(kept),
                    }
                )
        return records

    def _sample(self, numbers: Sequence[int], seed: int) -> list[list[int]]:
        """The tokens of each text; one that has ended holds the token that ended it."""
        import torch

        draws_BT = torch.stack(
            [torch.from_numpy(np.random.default_rng([seed, number]).random(self.max_new_tokens)) for number in numbers]
        )
        texts: list[list[int]] = [[] for _ in numbers]
        going = list(range(len(numbers)))
        feed_BT = torch.tensor([self._prompt] * len(numbers))
        cache = None
        with torch.inference_mode():
            for step in range(self.max_new_tokens):
                out = self._model(input_ids=feed_BT.to(self._model.device), past_key_values=cache, use_cache=True)
                cache = getattr(out, "past_key_values", None)
                logits_BV = out.logits[:, -1].double().cpu()  # on a GPU sums have no fixed order
                if not logits_BV.isfinite().all():
                    raise DataError(f"{_WHERE}.checkpoint: {self.checkpoint} gives logits that are not finite")
                if step < self.min_new_tokens:
                    logits_BV[:, self._stops] = -torch.inf
                chosen_B = self._choose(logits_BV, draws_BT[going, step])
                for text, token in zip(going, chosen_B.tolist(), strict=True):
                    texts[text].append(token)
                rows = [row for row, token in enumerate(chosen_B.tolist()) if token not in self._stops]
                if not rows:
                    break
                # A model without a cache of keys and values reads all anew.
                feed_BT = chosen_B[:, None] if cache is not None else torch.cat([feed_BT, chosen_B[:, None]], dim=1)
                if len(rows) < len(going):
                    going, feed_BT = [going[row] for row in rows], feed_BT[rows]
                    if cache is not None:
                        cache.batch_select_indices(torch.tensor(rows, device=self._model.device))
        return texts

    def _choose(self, logits_BV: torch.Tensor, draws_B: torch.Tensor) -> torch.Tensor:
        """The token where each draw (0..1) falls when tokens lie side by side, as wide as they are probable."""
        import torch

        if self.temperature == 0:
            return logits_BV.argmax(dim=-1)
        p_BV = (logits_BV / self.temperature).softmax(dim=-1)
        if self.top_p < 1:
            sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True, stable=True)
            before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
            p_BV = p_BV.scatter(1, order_BV, sorted_BV.where(before_BV < self.top_p, 0.0))
        # In the order of their ids: sorted by probability, rounding could swap tokens.
        ends_BV = p_BV.cumsum(dim=-1)
        total_B = ends_BV[:, -1]
        at_B = torch.minimum(draws_B * total_B, total_B.nextafter(torch.zeros_like(total_B)))
        return torch.searchsorted(ends_BV, at_B[:, None], right=True)[:, 0]

    def _check(self) -> Any:
        """The checkpoint's folder, once every parameter can be."""
        if self.checkpoint is None:
            raise ConfigError(
                f"{_WHERE}.checkpoint: null; mode=generate needs a Hugging Face causal language model, a folder or a "
                "name on the hub"
            )
        lowest = {"temperature": 0, "max_new_tokens": 1, "min_new_tokens": 0, "batch_size": 1}
        for name, least in lowest.items():
            if not getattr(self, name) >= least:
                raise ConfigError(f"{_WHERE}.{name}: {getattr(self, name)}; at least {least} is accepted")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"{_WHERE}.top_p: {self.top_p}; accepted: above 0, up to 1")
        if self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(f"{_WHERE}.min_new_tokens: {self.min_new_tokens}; at most max_new_tokens is accepted")
        return hf_models.find(self.checkpoint, self.revision, f"{_WHERE}.checkpoint")
