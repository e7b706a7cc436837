"""The model against a plain reference, its switches, its documents, its counts, and its initialisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from models.build import SDPA, VOCABULARY, llama, tokens
from njsl.core.types import ConfigError
from njsl.models.attention import Flex, Math, Sdpa
from njsl.models.llama import Llama, document_ids

CONF = Path(__file__).parents[2] / "conf" / "model"
SWITCHES: list[dict[str, Any]] = [
    {},
    {"n_kv_heads": 2},
    {"tied_head": True},
    {"positions": "learned"},
    {"positions": "alibi", "n_kv_heads": 2},
    {"norm": "layernorm"},
    {"norm": "layernorm", "biases": True},
    {"mlp": "gelu"},
    {"block": "parallel"},
    {"biases": True},
    {"block": "parallel", "mlp": "gelu", "norm": "layernorm", "positions": "alibi", "biases": True, "tied_head": True},
]


def reference(model: Llama, w: dict[str, Tensor], row: Tensor) -> Tensor:
    """Logits of one row in fp64 from fp64 weights ``w``, one head at a time."""
    D = model.head_dim
    turn = torch.tensor([model.rope_theta ** (-2 * i / D) for i in range(D // 2)], dtype=torch.float64)

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].t() + w.get(f"{name}.bias", torch.zeros(()))

    def norm(name: str, x: Tensor) -> Tensor:
        if model.norm == "layernorm":
            x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + model.norm_eps).sqrt() * w[f"{name}.weight"]
        return x + w.get(f"{name}.bias", torch.zeros(()))

    def rotated(x: Tensor) -> Tensor:
        pairs = torch.complex(x[:, : D // 2], x[:, D // 2 :])
        angles = torch.arange(len(x), dtype=torch.float64)[:, None] * turn
        pairs = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([pairs.real, pairs.imag], dim=1)

    def attention(name: str, x: Tensor) -> Tensor:
        q, k, v = (linear(f"{name}.{part}_proj", x) for part in "qkv")
        heads = []
        for h in range(model.n_heads):
            g = h * model.n_kv_heads // model.n_heads
            qh, kh, vh = q[:, h * D : h * D + D], k[:, g * D : g * D + D], v[:, g * D : g * D + D]
            if model.positions == "rope":
                qh, kh = rotated(qh), rotated(kh)
            scores = qh @ kh.t() / D**0.5
            ages = torch.tensor([[i - j for j in range(len(x))] for i in range(len(x))])
            if model.positions == "alibi":
                scores = scores - 2.0 ** (-8 * (h + 1) / model.n_heads) * ages
            heads.append(torch.softmax(scores.masked_fill(ages < 0, float("-inf")), 1) @ vh)
        return linear(f"{name}.o_proj", torch.cat(heads, 1))

    def mlp(name: str, x: Tensor) -> Tensor:
        up = linear(f"{name}.up_proj", x)
        if model.mlp == "gelu":
            return linear(f"{name}.down_proj", up * 0.5 * (1 + torch.erf(up / 2**0.5)))
        gate = linear(f"{name}.gate_proj", x)
        return linear(f"{name}.down_proj", gate / (1 + torch.exp(-gate)) * up)

    h = w["model.embed_tokens.weight"][row]
    if model.positions == "learned":
        h = h + w["model.embed_positions.weight"][: len(row)]
    for layer in range(model.n_layers):
        at = f"model.layers.{layer}"
        x = norm(f"{at}.input_layernorm", h)
        if model.block == "parallel":
            h = h + attention(f"{at}.self_attn", x) + mlp(f"{at}.mlp", x)
        else:
            h = h + attention(f"{at}.self_attn", x)
            h = h + mlp(f"{at}.mlp", norm(f"{at}.post_attention_layernorm", h))
    head = w["model.embed_tokens.weight" if model.tied_head else "lm_head.weight"]
    return norm("model.norm", h) @ head.t()


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_switch_equals_the_reference(switches: dict[str, Any]) -> None:
    model, ids, targets = llama(**switches), tokens(2, 13), tokens(2, 13, seed=1)
    exact = {name: value.double().requires_grad_() for name, value in model.state_dict().items()}
    logits = torch.stack([reference(model, exact, row) for row in ids])
    torch.testing.assert_close(model(ids).double(), logits, atol=2e-5, rtol=1e-5)
    gradients = torch.autograd.grad(F.cross_entropy(logits.flatten(0, 1), targets.flatten()), list(exact.values()))
    model(ids, targets).backward()
    parameters = dict(model.named_parameters())
    assert parameters.keys() == exact.keys()
    for name, want in zip(exact, gradients, strict=True):
        torch.testing.assert_close(parameters[name].grad.double(), want, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("backend", ["sdpa", "flex", "math"])
@pytest.mark.parametrize("switches", [{}, {"n_kv_heads": 2}, {"positions": "learned"}, {"positions": "alibi"}], ids=str)
@torch.no_grad()
def test_document_mask_separates_documents(backend: str, switches: dict[str, Any]) -> None:
    attention = {
        "sdpa": Sdpa(document_mask=True, allow_dense_mask=True),
        "flex": Flex(document_mask=True, allow_eager=True),
        "math": Math(document_mask=True),
    }[backend]
    model = llama(attention, **switches)
    ids = tokens(1, 20)
    documents = torch.tensor([[0] * 7 + [1] * 9 + [2] * 4])
    logits = model(ids, documents_BT=documents)
    changed = ids.clone()
    changed[0, :7] = (changed[0, :7] + 1) % VOCABULARY
    others = model(changed, documents_BT=documents)
    assert torch.equal(logits[:, 7:], others[:, 7:])
    assert not torch.allclose(logits[:, :7], others[:, :7])
    alone = torch.cat([model(part) for part in ids.split([7, 9, 4], dim=1)], dim=1)
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=0)
    # Without the mask, documents are not read.
    assert torch.equal(llama(**switches)(ids, documents_BT=documents), llama(**switches)(ids))


def test_document_ids_number_from_the_end_of_text() -> None:
    ids = torch.tensor([[5, 0, 6, 7, 0, 0, 8], [0, 1, 2, 3, 4, 5, 6]])
    assert document_ids(ids, eos_id=0).tolist() == [[0, 0, 1, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1, 1]]


@torch.no_grad()
def test_no_position_sees_what_follows() -> None:
    model, ids = llama(), tokens(1, 20)
    changed = ids.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % VOCABULARY
    torch.testing.assert_close(model(ids)[:, :12], model(changed)[:, :12], atol=1e-6, rtol=0)


def test_losses_are_those_of_the_logits() -> None:
    model, ids, targets = llama(), tokens(3, 11), tokens(3, 11, seed=1)
    targets[1, 4:] = -100
    nll = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), reduction="none").view(3, 11)
    torch.testing.assert_close(model(ids, targets, reduction="none"), nll)
    torch.testing.assert_close(model(ids, targets), nll.sum() / (targets != -100).sum())


@pytest.mark.parametrize(
    ("name", "total", "non_embedding", "without_one", "gflop"),
    [
        # reference table of the paper's models; GFLOP per token at 2,048 positions
        ("llama_220m", 266_888_192, 201_352_192, 234_120_192, 1.707),
        ("llama_460m", 496_774_656, 398_470_656, 447_622_656, 3.214),
        ("llama_1b", 1_137_805_312, 1_006_733_312, 1_072_269_312, 7.641),
    ],
)
def test_sizes_are_the_papers(name: str, total: int, non_embedding: int, without_one: int, gflop: float) -> None:
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    values.pop("_target_")
    with torch.device("meta"):
        model = Llama(**values, vocab_size=32_000, attention=SDPA)
    counts = model.n_params()
    norms = (2 * values["n_layers"] + 1) * values["hidden_size"]
    assert counts == {
        "total": total,
        "non_embedding": non_embedding,
        "without_one_embedding": without_one,
        "matmul": without_one - norms,
    }
    assert round(model.flops_per_token(2048) / 1e9, 3) == gflop
    assert model.architecture() == {**values, "n_kv_heads": values["n_heads"]}


def test_counts_of_a_tied_model_with_learned_positions() -> None:
    model = llama(tied_head=True, positions="learned")
    one, layer = VOCABULARY * 32, 4 * 32 * 32 + 3 * 32 * 48
    assert model.n_params() == {
        "total": one + 24 * 32 + 2 * (layer + 64) + 32,
        "non_embedding": 2 * (layer + 64) + 32,
        "without_one_embedding": 24 * 32 + 2 * (layer + 64) + 32,
        "matmul": 2 * layer + one,
    }


@pytest.mark.parametrize("switches", [{}, {"tied_head": True, "positions": "learned", "biases": True}], ids=str)
def test_a_meta_model_made_real_is_the_same_model(switches: dict[str, Any]) -> None:
    plain = llama(**switches)
    plain.init_weights(7)
    with torch.device("meta"):
        model = Llama(**plain.architecture(), vocab_size=VOCABULARY, attention=SDPA)
    model = model.to_empty(device="cpu")
    model.init_weights(7)
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    ids = tokens(2, 8)
    assert torch.equal(model(ids), plain(ids))
    model.init_weights(8)
    assert not torch.equal(model(ids), plain(ids))


def test_initial_weights_have_the_stated_spread() -> None:
    model = llama(init_std=0.02, hidden_size=128, intermediate_size=256, n_layers=8, biases=True)
    model.init_weights(0)
    for name, value in model.named_parameters():
        if name.endswith("norm.weight"):
            assert torch.equal(value, torch.ones_like(value))
        elif name.endswith("bias"):
            assert not value.any()
        else:
            # sqrt(2 * 8 layers) = 4
            std = 0.005 if "o_proj" in name or "down_proj" in name else 0.02
            assert value.std().item() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"n_heads": 5}, "model.n_heads: 5 does not divide model.hidden_size=32"),
        ({"n_kv_heads": 3}, "model.n_kv_heads: 3 does not divide model.n_heads=4"),
        ({"n_kv_heads": 0}, "model.n_kv_heads: 0; accepted: at least 1"),
        ({"n_heads": 32}, "model.positions: rope needs an even head dimension, got 1"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(switches: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        llama(**switches)


def test_learned_positions_have_an_end() -> None:
    with pytest.raises(ConfigError, match="learned positions reach 24, rows have 25"):
        llama(positions="learned")(tokens(1, 25))


def test_bf16_autocast_trains_near_fp32() -> None:
    model, ids, targets = llama(n_kv_heads=2, init_std=0.05), tokens(4, 20), tokens(4, 20, seed=1)
    exact = torch.autograd.grad(model(ids, targets), list(model.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(ids, targets)
    assert loss.dtype == torch.float32
    for got, want in zip(torch.autograd.grad(loss, list(model.parameters())), exact, strict=True):
        assert got.dtype == torch.float32
        assert (got - want).norm() < 0.05 * want.norm()


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    plain, recomputed, ids, targets = llama(), llama(), tokens(2, 12), tokens(2, 12, seed=1)
    recomputed.checkpoint_activations()
    kept: list[int] = []
    gradients = []
    for model in (plain, recomputed):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: (sizes.append(x.numel()), x)[1], lambda x: x
        ):
            loss = model(ids, targets)
        kept.append(sum(sizes))
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    assert kept[1] < kept[0] / 2
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_compiled_model_gives_the_same_loss_and_gradients() -> None:
    model, ids, targets = llama(n_kv_heads=2), tokens(2, 16), tokens(2, 16, seed=1)
    compiled = torch.compile(model)
    results = []
    for run in (model, compiled):
        loss = run(ids, targets)
        results.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
