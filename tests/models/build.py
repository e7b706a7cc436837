"""Small models for the tests of this folder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from njsl.models.attention import Attention, Sdpa
from njsl.models.llama import Llama

VOCABULARY = 53
SDPA = Sdpa(document_mask=False, allow_dense_mask=True)


def llama(attention: Attention = SDPA, **switches: Any) -> Llama:
    """A model of two layers with four heads of 8; weights large enough that every part matters, biases and norms not
    at their initial 0 and 1."""
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": None,
        "sequence_length": 24,
        "tied_head": False,
        "positions": "rope",
        "norm": "rmsnorm",
        "mlp": "swiglu",
        "block": "sequential",
        "biases": False,
        "rope_theta": 10000.0,
        "norm_eps": 1e-5,
        "init_std": 0.2,
        "vocab_size": VOCABULARY,
    }
    model = Llama(**{**sizes, **switches}, attention=attention)
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    """Random ids [rows, length]."""
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
