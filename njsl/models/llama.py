"""The whole Llama in one file, with the study's design decisions as switches.

Parameters bear Hugging Face's names, so that an export renames nothing.
Shapes: B batch, T positions, C hidden size, F intermediate size, H query heads, G key-value heads, D head dimension,
V vocabulary.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from njsl.core.types import ConfigError
from njsl.models.attention import Attention, alibi_slopes
from njsl.models.loss import linear_cross_entropy

Positions = Literal["rope", "learned", "alibi"]


@dataclass(frozen=True)
class Shared:
    """What all layers of one forward pass share.

    A plain dataclass on purpose: FSDP2 casts tensors that it finds among a layer's arguments, and these stay fp32.

    Attributes:
        plan: of the attention backend.
        cos, sin: RoPE's tables, fp32 [1 or B, T, 1, D/2]; None without RoPE.
    """

    plan: Any
    cos: Tensor | None
    sin: Tensor | None


class Llama(nn.Module):
    """Llama 2's shape (Touvron et al. 2023, arXiv 2307.09288), pre-norm, without dropout.

    Args:
        hidden_size: C.
        intermediate_size: F.
        n_layers: blocks.
        n_heads: H; divides the hidden size.
        n_kv_heads: G, divides H; null is H, no grouping.
        sequence_length: positions the model is trained on; ``learned`` knows no more than these.
        tied_head: the head is the embedding, transposed.
        positions: ``rope`` (half-rotation, as Hugging Face), ``learned`` embeddings, or ``alibi``.
        norm: ``rmsnorm`` or ``layernorm``.
        mlp: ``swiglu`` (three matrices) or ``gelu`` (two).
        block: ``sequential``, or ``parallel``: attention and mlp read the same norm's output and are added together.
        biases: of every linear layer but the head, and of layernorm.
        rope_theta: RoPE's base.
        norm_eps: added to the variance.
        init_std: of the normal initialisation; residual outputs have init_std / sqrt(2 n_layers).
        vocab_size: V; the program supplies it.
        attention: the backend; the program supplies it.

    Raises:
        ConfigError: sizes do not divide.
    """

    supplied: ClassVar[tuple[str, ...]] = ("vocab_size", "attention")

    def __init__(
        self,
        *,
        hidden_size: int,
        intermediate_size: int,
        n_layers: int,
        n_heads: int,
        n_kv_heads: int | None,
        sequence_length: int,
        tied_head: bool,
        positions: Positions,
        norm: Literal["rmsnorm", "layernorm"],
        mlp: Literal["swiglu", "gelu"],
        block: Literal["sequential", "parallel"],
        biases: bool,
        rope_theta: float,
        norm_eps: float,
        init_std: float,
        vocab_size: int,
        attention: Attention,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        self.sequence_length = sequence_length
        self.tied_head = tied_head
        self.positions = positions
        self.norm = norm
        self.mlp = mlp
        self.block = block
        self.biases = biases
        self.rope_theta = rope_theta
        self.norm_eps = norm_eps
        self.init_std = init_std
        self.vocab_size = vocab_size
        self.attention = attention
        self._check_sizes()
        self.head_dim = hidden_size // n_heads
        self.model = _Trunk(self)
        # A tied head has no parameter of its own: two names for one would part when a meta model is made real.
        self.lm_head = None if tied_head else nn.Linear(hidden_size, vocab_size, bias=False)

    def _check_sizes(self) -> None:
        for name in ("hidden_size", "intermediate_size", "n_layers", "n_heads", "n_kv_heads", "sequence_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}: {getattr(self, name)}; accepted: at least 1")
        if self.hidden_size % self.n_heads:
            raise ConfigError(f"model.n_heads: {self.n_heads} does not divide model.hidden_size={self.hidden_size}")
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(f"model.n_kv_heads: {self.n_kv_heads} does not divide model.n_heads={self.n_heads}")
        if self.positions == "rope" and self.hidden_size // self.n_heads % 2:
            raise ConfigError(
                f"model.positions: rope needs an even head dimension, got {self.hidden_size // self.n_heads}"
            )

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        reduction: Literal["mean", "none"] = "mean",
    ) -> Tensor:
        """Logits, or the loss of the targets.

        Args:
            tokens_BT: ids.
            targets_BT: the id that should follow each position, or -100 where none counts.
            documents_BT: ids of documents (``document_ids``); read if the attention has ``document_mask``: positions
                then start anew in each. None: each row is one document.
            reduction: of the loss.

        Returns:
            logits_BTV without targets; else the mean nll [nats], 0-d, or with ``none`` nll_BT (0 where ignored); fp32.

        Raises:
            ConfigError: rows are longer than learned positions reach.
        """
        hidden_BTC = self.model(tokens_BT, documents_BT)
        # Read here and not through the head's forward: FSDP2 gathers the root's parameters for this function.
        weight_VC = self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        if targets_BT is None:
            return F.linear(hidden_BTC, weight_VC)
        nll = linear_cross_entropy(hidden_BTC.flatten(0, 1), weight_VC, targets_BT.flatten(), reduction)
        return nll if reduction == "mean" else nll.view_as(targets_BT)

    def architecture(self) -> dict[str, Any]:
        """The constructor's arguments besides those that the program supplies."""
        return {name: getattr(self, name) for name in inspect.signature(Llama).parameters if name not in self.supplied}

    def blocks(self) -> nn.ModuleList:
        """The layers, for sharding and compiling."""
        return self.model.layers

    def checkpoint_activations(self) -> None:
        """From now on keep of each layer its input alone, and compute the rest again in the backward pass."""
        for block in self.blocks():
            assert isinstance(block, _Block)
            block.recomputed = True

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw all parameters anew; call it before sharding. Same seed and device type, same weights.

        Args:
            seed: 0 .. 2**63 - 1.
        """
        residual_std = self.init_std / (2 * self.n_layers) ** 0.5
        generator = torch.Generator(next(self.parameters()).device).manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                # Depth-scaled residual outputs: Radford et al. 2019 (GPT-2), section 2.3; Megatron's default too.
                scaled = name.endswith(("o_proj.weight", "down_proj.weight"))
                parameter.normal_(0.0, residual_std if scaled else self.init_std, generator=generator)

    def n_params(self) -> dict[str, int]:
        """Counts under four conventions, also of a model on meta.

        Returns:
            total: all.
            non_embedding: without embedding, learned positions and head (a tied head is the embedding).
            without_one_embedding: all but one matrix of V*C.
            matmul: the weights of matrix products, head included; what FLOPs are counted from.
        """
        total = sum(parameter.numel() for parameter in self.parameters())
        one = self.vocab_size * self.hidden_size
        learned = self.sequence_length * self.hidden_size if self.positions == "learned" else 0
        in_blocks = sum(parameter.numel() for parameter in self.blocks().parameters() if parameter.dim() == 2)
        return {
            "total": total,
            "non_embedding": total - one * (1 if self.tied_head else 2) - learned,
            "without_one_embedding": total - one,
            "matmul": in_blocks + one,
        }

    def flops_per_token(self, sequence_length: int) -> float:
        """FLOPs of forward and backward per token: 6 per matmul parameter, and 12 L C T of attention, not halved for
        causality.

        Source: Chowdhery et al. 2022 (PaLM), arXiv 2204.02311, appendix B.
        """
        return 6 * self.n_params()["matmul"] + 12 * self.n_layers * self.hidden_size * sequence_length


def document_ids(tokens_BT: Tensor, eos_id: int) -> Tensor:
    """Number each row's documents from 0, int64 [B, T]; ``eos_id`` is the last token of a document."""
    ended_BT = (tokens_BT == eos_id).cumsum(1)
    return F.pad(ended_BT[:, :-1], (1, 0))


class _Trunk(nn.Module):
    """Embedding, blocks and last norm: what Hugging Face calls ``model``."""

    def __init__(self, llama: Llama) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(llama.vocab_size, llama.hidden_size)
        self.embed_positions: nn.Embedding | None = None
        if llama.positions == "learned":
            self.embed_positions = nn.Embedding(llama.sequence_length, llama.hidden_size)
        self.layers = nn.ModuleList(_Block(llama) for _ in range(llama.n_layers))
        self.norm = _norm(llama)
        self.attention = llama.attention
        self.positions = llama.positions
        self.n_heads = llama.n_heads
        self.head_dim = llama.head_dim
        self.rope_theta = llama.rope_theta

    def forward(self, tokens_BT: Tensor, documents_BT: Tensor | None) -> Tensor:
        """hidden_BTC after the last norm."""
        documents_BT = documents_BT if self.attention.document_mask else None
        h_BTC = self.embed_tokens(tokens_BT)
        T, device = tokens_BT.shape[1], tokens_BT.device
        at = torch.arange(T, device=device)[None]
        if documents_BT is not None:
            first_BT = F.pad(documents_BT[:, 1:] != documents_BT[:, :-1], (1, 0))
            at = at - (first_BT * at).cummax(1).values
        if self.embed_positions is not None:
            reach = self.embed_positions.num_embeddings
            if reach < T:
                raise ConfigError(f"model.sequence_length: learned positions reach {reach}, rows have {T}")
            h_BTC = h_BTC + self.embed_positions(at)
        alibi_H = alibi_slopes(self.n_heads).to(device) if self.positions == "alibi" else None
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else h_BTC.dtype
        plan = self.attention.plan(documents_BT, alibi_H, T, device, dtype)
        shared = Shared(plan, *(self._rope(at) if self.positions == "rope" else (None, None)))
        for layer in self.layers:
            h_BTC = layer(h_BTC, shared)
        return self.norm(h_BTC)

    def _rope(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of every position's angles. Made anew in each forward, which costs microseconds: a buffer would
        have to survive meta devices, sharding and casts. Source: Su et al. 2021, arXiv 2104.09864.
        """
        frequencies = self.rope_theta ** -(torch.arange(0, self.head_dim, 2, device=at.device).float() / self.head_dim)
        angles = at[..., None, None].float() * frequencies
        return angles.cos(), angles.sin()


class _Block(nn.Module):
    """One layer."""

    def __init__(self, llama: Llama) -> None:
        super().__init__()
        self.self_attn = _SelfAttention(llama)
        self.mlp = _SwiGLU(llama) if llama.mlp == "swiglu" else _GELU(llama)
        self.input_layernorm = _norm(llama)
        self.post_attention_layernorm = _norm(llama) if llama.block == "sequential" else None
        self.recomputed = False

    def forward(self, h_BTC: Tensor, shared: Shared) -> Tensor:
        if self.recomputed and torch.is_grad_enabled():
            # Within the layer, so that compilation and FSDP2, which wrap it, see one layer as ever.
            return checkpoint(self._layer, h_BTC, shared, use_reentrant=False)
        return self._layer(h_BTC, shared)

    def _layer(self, h_BTC: Tensor, shared: Shared) -> Tensor:
        x_BTC = self.input_layernorm(h_BTC)
        if self.post_attention_layernorm is None:
            return h_BTC + self.self_attn(x_BTC, shared) + self.mlp(x_BTC)
        h_BTC = h_BTC + self.self_attn(x_BTC, shared)
        return h_BTC + self.mlp(self.post_attention_layernorm(h_BTC))


class _SelfAttention(nn.Module):
    """Projections, positions, attention, output."""

    def __init__(self, llama: Llama) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = llama.n_heads, llama.n_kv_heads, llama.head_dim
        inner, outer = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        self.q_proj = nn.Linear(llama.hidden_size, inner, bias=llama.biases)
        self.k_proj = nn.Linear(llama.hidden_size, outer, bias=llama.biases)
        self.v_proj = nn.Linear(llama.hidden_size, outer, bias=llama.biases)
        self.o_proj = nn.Linear(inner, llama.hidden_size, bias=llama.biases)
        self.attention = llama.attention

    def forward(self, x_BTC: Tensor, shared: Shared) -> Tensor:
        B, T, _ = x_BTC.shape
        H, G = self.n_heads, self.n_kv_heads
        qkv = _joint(x_BTC, self.q_proj, self.k_proj, self.v_proj).view(B, T, H + 2 * G, self.head_dim)
        if shared.cos is None or shared.sin is None:
            q, k, v = torch.split(qkv, [H, G, G], dim=2)
        elif torch.compiler.is_compiling():
            q, k, v = torch.split(qkv, [H, G, G], dim=2)
            q, k = _rotated(q, shared.cos, shared.sin), _rotated(k, shared.cos, shared.sin)
        else:
            q, k, v = _RotateSplit.apply(qkv, shared.cos, shared.sin, H, G)  # type: ignore[no-untyped-call]
        out_BHTD = self.attention.attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), shared.plan)
        return self.o_proj(out_BHTD.transpose(1, 2).flatten(2))


class _SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)); Shazeer 2020, arXiv 2002.05202."""

    def __init__(self, llama: Llama) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(llama.hidden_size, llama.intermediate_size, bias=llama.biases)
        self.up_proj = nn.Linear(llama.hidden_size, llama.intermediate_size, bias=llama.biases)
        self.down_proj = nn.Linear(llama.intermediate_size, llama.hidden_size, bias=llama.biases)

    def forward(self, x_BTC: Tensor) -> Tensor:
        both = _joint(x_BTC, self.gate_proj, self.up_proj)
        if torch.compiler.is_compiling():
            gate, up = both.chunk(2, dim=-1)
            return self.down_proj(F.silu(gate) * up)
        return self.down_proj(_Gate.apply(both))  # type: ignore[no-untyped-call]


def _joint(x_BTC: Tensor, *layers: nn.Linear) -> Tensor:
    """What several linear layers make of the same input, side by side.

    One wide product for all: joining the weights costs a copy of them, far smaller than the passes over the tokens
    that it saves, forward and backward.
    """
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return F.linear(x_BTC, torch.cat([layer.weight for layer in layers]), bias)


# The functions below are eager mode's: each writes its gradient into one buffer and keeps as little as can be. A
# compiler does as well from the plain formulas.


class _RotateSplit(torch.autograd.Function):
    """RoPE on queries and keys, then queries, keys and values apart."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, H: int, G: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        qk = torch.empty_like(qkv[:, :, : H + G])
        _rotate_into(qk, qkv[:, :, : H + G], cos, sin)
        return qk[:, :, :H], qk[:, :, H:], qkv[:, :, H + G :]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        d_q, d_k, d_v = gradients
        cos, sin = ctx.saved_tensors
        H, G = d_q.shape[2], d_k.shape[2]
        d_qkv = d_q.new_empty(*d_q.shape[:2], H + 2 * G, d_q.shape[3])
        # The gradient turns back by the same angle.
        _rotate_into(d_qkv[:, :, :H], d_q, cos, -sin)
        _rotate_into(d_qkv[:, :, H : H + G], d_k, cos, -sin)
        d_qkv[:, :, H + G :] = d_v
        return d_qkv, None, None, None, None


def _rotate_into(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> None:
    (left, right), (out_left, out_right) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(left, cos, out=out_left).addcmul_(right, sin, value=-1)
    torch.mul(right, cos, out=out_right).addcmul_(left, sin)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair (x[i], x[i + D/2]) turned by its angle."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1).to(x.dtype)


class _Gate(torch.autograd.Function):
    """silu(first half) * second half."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=-1)
        opened = F.silu(gate)
        ctx.save_for_backward(both, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        both, opened = ctx.saved_tensors
        gate, up = both.chunk(2, dim=-1)
        d_both = torch.empty_like(both)
        d_gate, d_up = d_both.chunk(2, dim=-1)
        torch.mul(gradients[0], opened, out=d_up)
        torch.ops.aten.silu_backward.grad_input(gradients[0] * up, gate, grad_input=d_gate)
        return d_both


class _RMSNorm(torch.autograd.Function):
    """RMSNorm on a CPU, where torch 2.13 has no fused kernel and a matrix-vector product is the fastest row sum."""

    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, weight_C: Tensor, eps: float) -> Tensor:
        x = x_BTC.flatten(0, -2)
        scale = torch.mv(x * x, torch.full_like(weight_C, 1 / len(weight_C))).add_(eps).rsqrt_()[:, None]
        ctx.save_for_backward(x, weight_C, scale)
        return (x * scale).mul_(weight_C).view_as(x_BTC)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight_C, scale = ctx.saved_tensors
        d_out = gradients[0].reshape(x.shape)
        unit = x * scale
        d_weighted = d_out * unit
        along = torch.mv(d_weighted, weight_C / -len(weight_C))[:, None]
        d_x = unit.mul_(along).addcmul_(d_out, weight_C).mul_(scale)
        return d_x.view_as(gradients[0]), d_weighted.sum(0), None


class _GELU(nn.Module):
    """down(gelu(up(x)))."""

    def __init__(self, llama: Llama) -> None:
        super().__init__()
        self.up_proj = nn.Linear(llama.hidden_size, llama.intermediate_size, bias=llama.biases)
        self.down_proj = nn.Linear(llama.intermediate_size, llama.hidden_size, bias=llama.biases)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(x_BTC)))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight; Zhang and Sennrich 2019, arXiv 1910.07467."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_BTC: Tensor) -> Tensor:
        plain = x_BTC.is_cpu and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
        if plain and x_BTC.dtype == self.weight.dtype:
            return _RMSNorm.apply(x_BTC, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return F.rms_norm(x_BTC, self.weight.shape, self.weight, self.eps)


def _norm(llama: Llama) -> nn.Module:
    if llama.norm == "rmsnorm":
        return RMSNorm(llama.hidden_size, llama.norm_eps)
    return nn.LayerNorm(llama.hidden_size, eps=llama.norm_eps, bias=llama.biases)
