"""A decoder in one vocabulary for all architectures, and the one formula that counts its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_GELUS = {"gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new"}
_UNGATED = {**_GELUS, "gelu_fast": "gelu_fast", "relu": "relu", "relu2": "relu2", "silu": "silu", "swish": "silu"}
_GATED = {"silu": "swiglu", "swish": "swiglu", "gelu_fast": "geglu", **dict.fromkeys(_GELUS, "geglu")}


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention: keys and values, and maybe queries, pass through a narrow layer.

    Source: DeepSeek-V2, arXiv 2405.04434, section 2.1.
    """

    query_rank: int | None
    rank: int
    unrotated: int
    rotated: int
    value: int


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in some of the layers.

    Attributes:
        number, per_token: experts of a layer, and those used for a token.
        width: feed-forward size of one.
        layers: layers that have them; the others are dense.
        shared_width: feed-forward size of what every token passes besides; 0 for none.
        shared_gate: whether that is weighted by a gate of its own.
    """

    number: int
    per_token: int | None
    width: int
    layers: int
    shared_width: int = 0
    shared_gate: bool = False


@dataclass(frozen=True)
class Design:
    """A decoder in one vocabulary for all architectures.

    Attributes:
        width: feed-forward size of a dense layer.
        activation: the configuration's word for it.
        norm: ``rmsnorm``, ``layernorm`` (weights and biases), ``unbiased`` (weights) or ``bare`` (neither).
        norms: of hidden size in one block.
        qk_norm: parameters of the norms of queries and keys in one block.
        last_norm, first_norm: whether one stands after the blocks, or right after the embedding.
        position_rows: learned positions.
        embedding_width: of token table and head, where it is not the hidden size.
        turns: local and full attention take turns among the layers.
    """

    dimension: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    width: int
    vocabulary: int
    length: int | None
    tied: bool
    activation: str
    gated: bool
    norm: str
    positions: str
    norms: int = 2
    qk_norm: int = 0
    last_norm: bool = True
    first_norm: bool = False
    position_rows: int = 0
    embedding_width: int | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    parallel: bool = False
    turns: bool = False
    latent: Latent | None = None
    experts: Experts | None = None

    def embedding_params(self) -> int:
        """Of token table, learned positions and an untied head."""
        tables = (1 if self.tied else 2) * self.vocabulary * (self.embedding_width or self.dimension)
        return tables + self.position_rows * self.dimension + self.head_bias * self.vocabulary

    def total_params(self) -> int:
        """Of everything, a tied head once."""
        block = self._attention() + self.norms * self._norm() + self.qk_norm
        sparse = self.experts.layers if self.experts else 0
        projections = 2 * self.embedding_width * self.dimension if self.embedding_width else 0
        return (
            self.embedding_params()
            + projections
            + self.layers * block
            + (self.layers - sparse) * self._feed_forward(self.width)
            + (sparse * self._mixture(self.experts) if self.experts else 0)
            + (self.last_norm + self.first_norm) * self._norm()
        )

    def _norm(self) -> int:
        return self.dimension * {"rmsnorm": 1, "layernorm": 2, "unbiased": 1, "bare": 0}[self.norm]

    def _attention(self) -> int:
        if self.latent is not None:
            return self._latent_attention(self.latent)
        queries, pair = self.heads * self.head, 2 * self.kv_heads * self.head
        weights = self.dimension * (queries + pair) + queries * self.dimension
        return weights + self.qkv_bias * (queries + pair) + self.out_bias * self.dimension

    def _latent_attention(self, latent: Latent) -> int:
        size = self.heads * (latent.unrotated + latent.rotated)
        queries, rank = self.dimension * size, latent.query_rank
        if rank is not None:  # down, norm, up
            queries = self.dimension * rank + self.qkv_bias * rank + rank + rank * size
        down = latent.rank + latent.rotated
        pairs = self.dimension * down + self.qkv_bias * down + latent.rank
        pairs += latent.rank * self.heads * (latent.unrotated + latent.value)
        return queries + pairs + self.heads * latent.value * self.dimension + self.out_bias * self.dimension

    def _feed_forward(self, width: int) -> int:
        matrices = 3 if self.gated else 2
        return matrices * self.dimension * width + self.mlp_bias * ((matrices - 1) * width + self.dimension)

    def _mixture(self, experts: Experts) -> int:
        shared = self._feed_forward(experts.shared_width) if experts.shared_width else 0
        router = self.dimension * (experts.number + experts.shared_gate)
        return router + experts.number * self._feed_forward(experts.width) + shared

    def row(self) -> dict[str, Any]:
        """The fields of ``model_annotations``; an activation that has no name there is None."""
        width = self.experts.width if self.experts else self.width
        return {
            "dimension": self.dimension,
            "num_heads": self.heads,
            "num_kv_heads": None if self.latent else self.kv_heads,
            "head_dimension": self.head,
            "num_layers": self.layers,
            "ffn_dimension": width,
            "mlp_ratio": width / self.dimension,
            "layer_norm_type": {"rmsnorm": "rmsnorm", "bare": "non-parametric"}.get(self.norm, "parametric"),
            "positional_embeddings": self.positions,
            "attention_variant": self._variant(),
            "biases": self._biases(),
            "block_type": "parallel" if self.parallel else "sequential",
            "activation": (_GATED if self.gated else _UNGATED).get(self.activation),
            "sequence_length": self.length,
            "vocab_size": self.vocabulary,
            "weight_tying": self.tied,
            "num_experts": self.experts.number if self.experts else None,
            "experts_per_token": self.experts.per_token if self.experts else None,
            "total_params": self.total_params(),
            "embedding_params": self.embedding_params(),
        }

    def _variant(self) -> str:
        if self.latent is not None:
            return "mla"
        if self.turns:
            return "local,full"
        if self.kv_heads == self.heads:
            return "full"
        return "mqa" if self.kv_heads == 1 else "gqa"

    def _biases(self) -> str:
        attention, norm = self.qkv_bias or self.out_bias, self.norm == "layernorm"
        if not (attention or norm or self.mlp_bias):
            return "none"
        if not self.mlp_bias and attention != norm:
            return "attn_only" if attention else "ln_only"
        # An RMSNorm and a bare norm cannot carry one.
        everywhere = self.qkv_bias and self.out_bias and self.mlp_bias and self.norm != "unbiased"
        return "all" if everywhere else "some"
