"""Training compute against hand counts, published models and the model's own count."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError
from njsl.predict.compute import six_nd, training_compute

TINY = {
    "dimension": 4,
    "num_layers": 3,
    "num_heads": 2,
    "num_kv_heads": 1,
    "ffn_dimension": 10,
    "activation": "swiglu",
    "vocab_size": 7,
    "sequence_length": 5,
}
# Layers, and what the configuration on Hugging Face says besides: total parameters, dimension, layers, heads, key-value
# heads, feed-forward, vocabulary (rows of the table), length, tied, activation, positions.
PUBLISHED = {
    "llama-2-7b": (6738415616, 4096, 32, 32, 32, 11008, 32000, 4096, False, "swiglu", "rope"),
    "llama-2-70b": (68976648192, 8192, 80, 64, 8, 28672, 32000, 4096, False, "swiglu", "rope"),
    "llama-3-8b": (8030261248, 4096, 32, 32, 8, 14336, 128256, 8192, False, "swiglu", "rope"),
    "pythia-1b": (1011781632, 2048, 16, 8, 8, 8192, 50304, 2048, False, "gelu", "rope"),
    "pythia-160m": (162322944, 768, 12, 12, 12, 3072, 50304, 2048, False, "gelu", "rope"),
    "gpt2": (124439808, 768, 12, 12, 12, 3072, 50257, 1024, True, "gelu_new", "learned"),
    "mpt-7b": (6649286656, 4096, 32, 32, 32, 16384, 50432, 2048, True, "gelu", "alibi"),
}
NAMES = (
    *("total_params", "dimension", "num_layers", "num_heads", "num_kv_heads", "ffn_dimension", "vocab_size"),
    *("sequence_length", "weight_tying", "activation", "positional_embeddings"),
)


def published(name: str, *without: str) -> dict[str, Any]:
    return {key: value for key, value in zip(NAMES, PUBLISHED[name], strict=True) if key not in without}


def test_by_hand() -> None:
    # A layer: queries 16, keys and values 8 + 8, output 16, feed-forward 3 * 40 = 168 entries; the head 28.
    weights = 3 * 168 + 28
    # Each of 5 scores takes 4 multiplications, each sum of values as many: 2 * 2 * 4 * 5 FLOP, three passes, 3 layers.
    attention = 3 * (2 * 2 * 4 * 5) * 3
    found = training_compute({**TINY, "total_params": 600}, tokens=10)
    assert found.six_nd == 6 * 600 * 10
    assert found.exact == 10 * (6 * weights + attention)
    assert (
        found.attention
        == 10 * attention
        == 2 * training_compute({**TINY, "total_params": 6}, 10, causal=True).attention
    )
    assert (found.source, found.derived, found.reason) == ("matrices", (), "")
    wider = training_compute({**TINY, "head_dimension": 3, "total_params": 600}, tokens=10)
    assert wider.exact == 10 * (6 * (3 * (4 * 6 + 4 * 6 + 6 * 4 + 120) + 28) + attention * 6 / 4)
    assert training_compute({**TINY, "weight_tying": True}, 1).six_nd == 6 * weights
    assert training_compute({**TINY, "weight_tying": False}, 1).six_nd == 6 * (weights + 28)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("kv", "mlp", "positions"), [(None, "swiglu", "rope"), (1, "gelu", "learned")])
def test_equals_the_count_of_the_model_itself(tied: bool, kv: int | None, mlp: str, positions: str) -> None:
    import torch

    from njsl.models.attention import Sdpa
    from njsl.models.llama import Llama

    with torch.device("meta"):
        model = Llama(
            hidden_size=64,
            intermediate_size=96,
            n_layers=3,
            n_heads=4,
            n_kv_heads=kv,
            sequence_length=32,
            tied_head=tied,
            positions=positions,
            norm="rmsnorm",
            mlp=mlp,
            block="sequential",
            biases=False,
            rope_theta=10000.0,
            norm_eps=1e-5,
            init_std=0.02,
            vocab_size=512,
            attention=Sdpa(document_mask=False, allow_dense_mask=False),
        )
    facts = {
        "dimension": 64,
        "ffn_dimension": 96,
        "num_layers": 3,
        "num_heads": 4,
        "num_kv_heads": kv or 4,
        "sequence_length": 32,
        "weight_tying": tied,
        "positional_embeddings": positions,
        "activation": mlp,
        "vocab_size": 512,
        "total_params": model.n_params()["total"],
    }
    found = training_compute(facts, tokens=1e6)
    assert found.exact == model.flops_per_token(32) * 1e6
    assert found.six_nd == 6 * model.n_params()["total"] * 1e6
    again = training_compute({key: value for key, value in facts.items() if key != "num_layers"}, tokens=1e6)
    assert again.exact == found.exact and again.derived == ("num_layers",)
    # Without the feed-forward size all parameters but the tables stand in, and with them seven norms.
    rest = training_compute({key: value for key, value in facts.items() if key != "ffn_dimension"}, tokens=1e6)
    assert rest.source == "total" and rest.exact == found.exact + 6 * 7 * 64 * 1e6


@pytest.mark.parametrize("name", PUBLISHED)
def test_layers_of_published_models_come_out_whole(name: str) -> None:
    found = training_compute(published(name, "num_layers"), 1e9)
    assert found.derived == ("num_layers",)
    assert found == found.__class__(**{**vars(training_compute(published(name), 1e9)), "derived": ("num_layers",)})
    total = training_compute(published(name, "ffn_dimension"), 1e9)
    assert total.source == "total" and total.exact == pytest.approx(found.exact, rel=0.005)


def test_a_wrong_table_gives_no_layers_rather_than_wrong_ones() -> None:
    wrong = {**published("llama-2-7b", "num_layers"), "vocab_size": 50257}
    assert training_compute(wrong, 1e9).exact is None
    assert training_compute(wrong, 1e9).reason == "not known: num_layers"


def test_llama_2_7b_as_published() -> None:
    found = training_compute(published("llama-2-7b"), 2e12)
    assert found.six_nd == pytest.approx(8.086e22, rel=1e-3)
    # 6 (6738415616 - 131072000 - 65 norms of 4096) + 12 * 32 * 4096 * 4096 per token
    assert found.exact == 2e12 * (6 * 6607077376 + 6442450944)


@pytest.mark.parametrize("lost", ["dimension", "num_layers", "sequence_length", "vocab_size"])
def test_what_is_unknown_is_named(lost: str) -> None:
    for gap in (None, math.nan, pd.NA):
        facts = {**TINY, "total_params": 600, lost: gap}
        found = training_compute(facts, 10)
        assert (found.six_nd, found.exact, found.attention) == (36000, None, None)
        assert lost in found.reason and found.reason.startswith("not known: ")


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"num_experts": 8}, "experts"),
        ({"attention_variant": "mla"}, "latent"),
        ({"attention_variant": "local,full"}, "window"),
    ],
)
def test_what_the_formula_does_not_fit_is_refused(facts: dict[str, Any], reason: str) -> None:
    found = training_compute({**TINY, "total_params": 600, **facts}, 10)
    assert found.six_nd == 36000 and found.exact is None and reason in found.reason


@pytest.mark.parametrize(
    ("facts", "tokens", "message"),
    [
        ({"total_params": -1}, 1, "total_params=-1"),
        ({"total_params": 5, "num_layers": 0}, 1, "num_layers=0"),
        ({"total_params": 5}, 0, "tokens=0"),
        ({"dimension": 5}, 1, "give total_params"),
    ],
)
def test_errors(facts: dict[str, Any], tokens: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        training_compute(facts, tokens)


def test_frames_at_once() -> None:
    features = pd.DataFrame({"total_params": [2e9, 1.0, np.nan], "total_tokens_billions": [3.0, np.nan, 1.0]})
    np.testing.assert_array_equal(six_nd(features), [3.6e19, np.nan, np.nan])


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 64).map(lambda heads: 8 * heads),
    st.integers(1, 40),
    st.integers(8, 4096),
    st.integers(16, 10**5),
    st.sampled_from(["swiglu", "gelu"]),
    st.booleans(),
)
def test_the_two_counts_differ_by_table_and_attention(
    dimension: int, layers: int, length: int, vocabulary: int, activation: str, tied: bool
) -> None:
    facts = {
        "dimension": dimension,
        "num_layers": layers,
        "sequence_length": length,
        "vocab_size": vocabulary,
        "activation": activation,
        "num_heads": dimension // 8,
        "num_kv_heads": 1,
        "mlp_ratio": 4.0,
        "weight_tying": tied,
    }
    found = training_compute(facts, 3.0)
    table = 0 if tied else 6 * vocabulary * dimension * 3.0
    assert found.exact == pytest.approx(found.six_nd - table + 12 * layers * dimension * length * 3.0, rel=1e-12)
    half = training_compute(facts, 3.0, causal=True)
    assert half.attention == found.attention / 2 and half.exact == pytest.approx(found.exact - half.attention)
    assert training_compute(facts, 6.0).exact == pytest.approx(2 * found.exact)
