"""Compute of pretraining in floating-point operations: 6 N D, and beside it what the matrix products come to.

Both count a multiplication and an addition as two, forward once and backward twice. 6 N D (Kaplan et al. 2020, arXiv
2001.08361, section 2.1) takes every parameter for a multiplication and leaves out attention over positions. The exact
count leaves out the input table, which is looked up, keeps the output head, tied or not, and adds attention (Chowdhery
et al. 2022, arXiv 2204.02311, appendix B; Hoffmann et al. 2022, arXiv 2203.15556, appendix F). It is of dense decoders
with full attention. What it needs and is not known is named, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from njsl.core.types import DataError

FLOPS_PER_PARAM_TOKEN = 6  # a multiplication and an addition, in the forward pass and twice in the backward pass
GATED = ("swiglu", "geglu")  # three matrices of feed-forward, two elsewhere; njsl.store.architectures has the names
WHOLE = 0.03  # layers; a derived number further than this from a whole one contradicts what it is derived from


@dataclass(frozen=True)
class Compute:
    """Training compute of one model.

    Attributes:
        six_nd: 6 N D [FLOP].
        exact: of the matrix products [FLOP]; None where something it needs is not known.
        attention: the part of ``exact`` spent on scores between positions and their sums of values [FLOP], or None.
        source: ``matrices`` if every matrix was counted; ``total`` if the matrices of the layers are all parameters but
            the tables, which counts norms and biases with them (under 0.5 %); empty without ``exact``.
        derived: names of what was worked out from the rest.
        reason: why ``exact`` is None, in words; else empty.
    """

    six_nd: float
    exact: float | None = None
    attention: float | None = None
    source: str = ""
    derived: tuple[str, ...] = ()
    reason: str = ""


def six_nd(features: pd.DataFrame) -> np.ndarray:
    """6 N D [models] in FLOP.

    Args:
        features: ``TaskFrame.features``, of which ``total_params`` [parameters] and ``total_tokens_billions`` [1e9
            tokens] are read; NaN where one is missing.
    """
    params, billions = (features[name].to_numpy("float64") for name in ("total_params", "total_tokens_billions"))
    return FLOPS_PER_PARAM_TOKEN * params * billions * 1e9


def training_compute(facts: Mapping[str, Any], tokens: float, *, causal: bool = False) -> Compute:
    """Both counts for one model.

    Args:
        facts: columns of ``model_annotations``; absent, None and NaN are unknown. Read are ``total_params``,
            ``dimension``, ``num_layers``, ``sequence_length`` [tokens], ``vocab_size``, ``num_heads``,
            ``num_kv_heads`` (or ``attention_variant`` full or mqa), ``head_dimension`` (dimension / heads if unknown),
            ``ffn_dimension`` or ``mlp_ratio``, ``activation``, ``weight_tying`` and ``num_experts``.
        tokens: trained on.
        causal: count attention over the positions before a token alone, half of a row. False is the usual convention,
            and Llama's ``flops_per_token`` here.

    Raises:
        DataError: neither parameters nor an architecture that says how many, or a number that is not positive.
    """
    known = _known(facts)
    if not tokens > 0:
        raise DataError(f"compute: tokens={tokens}; a positive number is accepted")
    derived: tuple[str, ...] = ()
    layer = _layer_weights(known)
    if "num_layers" not in known and layer is not None:
        layers = _layers(known, layer)
        if layers is not None:
            known, derived = known | {"num_layers": layers}, ("num_layers",)
    weights, source, lacking = _weights(known, layer)
    params = known.get("total_params")
    if params is None:
        if weights is None or "weight_tying" not in known:
            raise DataError("compute: total_params is not known, and the architecture does not say; give total_params")
        params = weights + (0 if known["weight_tying"] else known["vocab_size"] * known["dimension"])
    whole = FLOPS_PER_PARAM_TOKEN * params * tokens
    reason = _refusal(known) or (f"not known: {', '.join(lacking)}" if lacking else "")
    if weights is None or reason:
        return Compute(whole, reason=reason)
    heads = known.get("num_heads")
    width = heads * known["head_dimension"] if heads and "head_dimension" in known else known["dimension"]
    attention = (6 if causal else 12) * known["num_layers"] * width * known["sequence_length"] * tokens
    exact = FLOPS_PER_PARAM_TOKEN * weights * tokens + attention
    return Compute(whole, exact, attention, source, derived)


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    known = {str(name): value for name, value in facts.items() if value is not None and not pd.isna(value)}
    for name in (
        *("total_params", "dimension", "num_layers", "sequence_length", "vocab_size", "num_heads", "num_kv_heads"),
        *("head_dimension", "ffn_dimension", "mlp_ratio", "num_experts"),
    ):
        if name in known and not known[name] > 0:
            raise DataError(f"compute: {name}={known[name]}; a positive number is accepted, or none if unknown")
    if "num_heads" in known and "num_kv_heads" not in known:
        same = {"full": known["num_heads"], "mqa": 1}.get(known.get("attention_variant", ""))
        known |= {} if same is None else {"num_kv_heads": same}
    if "dimension" in known and "mlp_ratio" in known:
        known.setdefault("ffn_dimension", round(known["mlp_ratio"] * known["dimension"]))
    return known


def _refusal(known: dict[str, Any]) -> str:
    variant = str(known.get("attention_variant", ""))
    if known.get("num_experts", 1) > 1:
        return "a mixture of experts: a token passes only some of its parameters"
    if variant == "mla":
        return "latent attention: its ranks are not among the facts"
    return "local attention: its window is not among the facts" if "local" in variant else ""


def _layer_weights(known: dict[str, Any]) -> float | None:
    """Entries of one layer's matrices, or None."""
    if not {"dimension", "num_heads", "num_kv_heads", "ffn_dimension", "activation"} <= known.keys():
        return None
    dimension, heads = known["dimension"], known["num_heads"]
    head = known.get("head_dimension", dimension / heads)
    attention = 2 * dimension * head * (heads + known["num_kv_heads"])
    return attention + (3 if known["activation"] in GATED else 2) * dimension * known["ffn_dimension"]


def _layers(known: dict[str, Any], layer: float) -> int | None:
    """Layers that make up the parameters, or None where tables are unknown or no whole number of layers fits."""
    if not {"total_params", "vocab_size", "weight_tying"} <= known.keys():
        return None
    layers = (known["total_params"] - _tables(known)) / layer
    return round(layers) if round(layers) and abs(layers - round(layers)) <= WHOLE * max(1, layers / 32) else None


def _tables(known: dict[str, Any]) -> float:
    learned = known.get("sequence_length", 0) if known.get("positional_embeddings") == "learned" else 0
    return ((1 if known["weight_tying"] else 2) * known["vocab_size"] + learned) * known["dimension"]


def _weights(known: dict[str, Any], layer: float | None) -> tuple[float | None, str, list[str]]:
    """Entries of all matrices that multiply, how they were counted, and what is lacking for the exact compute."""
    attention = ("dimension", "num_layers", "sequence_length")
    counted, whole = ("vocab_size",), ("vocab_size", "total_params", "weight_tying")
    if layer is not None and {*attention, *counted} <= known.keys():
        return known["num_layers"] * layer + known["vocab_size"] * known["dimension"], "matrices", []
    lacking = [name for name in (*attention, *(counted if layer is not None else whole)) if name not in known]
    if lacking:
        return None, "", lacking
    return known["total_params"] - _tables(known) + known["vocab_size"] * known["dimension"], "total", []
