"""What a Hugging Face configuration says of its model, and how many parameters that makes: exact, without loading it.

Every architecture is a row of ``ARCHITECTURES``: the differences from one of two shapes, ``_modern`` (Llama's) and
``_classic`` (GPT's). All rows are counted by the same formula. Absent keys have the defaults of transformers'
configuration classes; the sizes that make a model (hidden size, layers, heads, vocabulary, feed-forward) must be there.

Rules of naming: a gated feed-forward is ``swiglu`` with SiLU and ``geglu`` with any GELU; ``silu`` and ``gelu`` are
ungated. ``gelu_pytorch_tanh`` is the same function as ``gelu_new`` and goes by that name. In a mixture of experts the
feed-forward size is one expert's. Embedding parameters are those of the token table, learned positions, an untied head
and a head's bias; a projection between embedding and hidden size (OPT) is none.

Source: transformers 5.23, ``models/*/configuration_*.py`` and ``modeling_*.py``; for ``qwen`` the code beside
Qwen/Qwen-7B; for the switches of ``mpt`` that transformers ignores, llm-foundry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from njsl.core.types import DataError
from njsl.store.design import Design, Experts, Latent
from njsl.store.sources import Keys, shown


def _design(
    c: Keys,
    *,
    kv: int | None = None,
    head: int | None = None,
    grouped: bool,
    free_head: bool = False,
    width: int | None = None,
    width_per_dimension: int | None = None,
    length: int | None,
    tied: bool,
    activation: tuple[str, str],
    **parts: Any,
) -> Design:
    """A row's sizes, read by whichever name its configuration class has for them.

    Args:
        c: the configuration.
        kv: key-value heads where the configuration is silent; None: as many as heads, which null means as well.
        head: size of one head where it is silent; None: hidden size / heads.
        grouped: the class knows ``num_key_value_heads``.
        free_head: the class knows ``head_dim``.
        width: of the feed-forward layer, whatever the configuration says.
        width_per_dimension: width / hidden size where it is silent; None: it must say.
        length, tied: where it is silent.
        activation: its key, and the value where it is silent.
        parts: further fields of the design.
    """
    dimension = c.size("hidden_size", "n_embd", "d_model", "n_embed")
    heads = c.size("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads")
    kv_heads = parts.pop("kv_heads", None) or (_kv_heads(c, heads, kv) if grouped else heads)
    if heads % kv_heads:
        raise c.refused("num_key_value_heads", f"a divisor of the {heads} heads")
    own_head = (c.maybe_size("head_dim") if free_head else None) or head
    if own_head is None and dimension % heads:
        raise c.refused("hidden_size", f"a multiple of the {heads} heads")
    widths = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
    default_width = dimension * width_per_dimension if width_per_dimension else None
    return Design(
        dimension=dimension,
        layers=c.size("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head=own_head or dimension // heads,
        width=width or c.size(*widths, default=default_width),
        vocabulary=c.size("vocab_size"),
        length=parts.pop("own_length", None)
        or c.maybe_size("max_position_embeddings", "n_positions", "max_seq_len")
        or length,
        tied=c.switch("tie_word_embeddings", tied),
        activation=c.word(*activation),
        **parts,
    )


def _modern(c: Keys, **parts: Any) -> Design:
    """Llama's shape: RMSNorm, rotary positions, a gated feed-forward layer, no biases unless said."""
    usual: dict[str, Any] = {
        "grouped": True,
        "length": 2048,
        "tied": False,
        "activation": ("hidden_act", "silu"),
        "gated": True,
        "norm": "rmsnorm",
        "positions": "rope",
    }
    return _design(c, **(usual | parts))


def _classic(c: Keys, **parts: Any) -> Design:
    """GPT's shape: LayerNorm, two matrices of feed-forward, biases unless said."""
    usual: dict[str, Any] = {
        "grouped": False,
        "length": 2048,
        "tied": True,
        "activation": ("activation_function", "gelu_new"),
        "gated": False,
        "norm": "layernorm",
        "positions": "learned",
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
    }
    return _design(c, **(usual | parts))


def _kv_heads(c: Keys, heads: int, kv: int | None = None) -> int:
    return c.size("num_key_value_heads", default=heads if kv is None or c.has("num_key_value_heads") else kv)


def _attention_bias(c: Keys, name: str = "attention_bias", default: bool = False) -> dict[str, bool]:
    said = c.switch(name, default)
    return {"qkv_bias": said, "out_bias": said}


def _turns(c: Keys, default: bool) -> bool:
    """Whether the layers' kinds of attention differ: as listed, or by the class' own rule."""
    listed = c.items("layer_types")
    return default if listed is None else len({str(kind) for kind in listed}) > 1


def _layers(c: Keys) -> int:
    return c.size("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def _head(c: Keys, default: int | None = None) -> int:
    dimension, heads = c.size("hidden_size"), c.size("num_attention_heads")
    return c.maybe_size("head_dim") or default or dimension // heads


def _late_window(c: Keys) -> bool:
    """Qwen's rule: from some layer on, attention is local."""
    said = c.maybe_size("sliding_window") is not None or not c.has("sliding_window")  # null is none, silence is 4096
    windowed = c.switch("use_sliding_window", False) and said
    from_layer = c.maybe_size("max_window_layers", low=0)
    return _turns(c, windowed and 0 < (28 if from_layer is None else from_layer) < _layers(c))


def _llama(c: Keys) -> Design:
    return _modern(c, free_head=True, mlp_bias=c.switch("mlp_bias", False), **_attention_bias(c))


def _experts(number: int, per_token: int | None, width: int, layers: int, **shared: Any) -> Experts | None:
    return Experts(number, per_token, width, layers, **shared) if layers else None


def _mixtral(c: Keys) -> Design:
    number = c.size("num_local_experts", "num_experts", default=8)
    per_token, width = c.size("num_experts_per_tok", default=2), c.size("intermediate_size")
    experts = _experts(number, per_token, width, _layers(c))
    return _modern(c, free_head=True, kv=8, length=131072, experts=experts)


def _sparse_layers(c: Keys) -> int:
    """Layers with experts, by Qwen's two switches."""
    step, layers = c.size("decoder_sparse_step", default=1), _layers(c)
    dense = {layer for layer in c.items("mlp_only_layers") or [] if type(layer) is int and 0 <= layer < layers}
    return layers // step - sum(1 for layer in dense if (layer + 1) % step == 0)


def _qwen2_moe(c: Keys) -> Design:
    experts = _experts(
        number=c.size("num_experts", default=60),
        per_token=c.size("num_experts_per_tok", default=4),
        width=c.size("moe_intermediate_size", default=1408),
        layers=_sparse_layers(c),
        shared_width=c.size("shared_expert_intermediate_size", default=5632),
        shared_gate=True,
    )
    windowed = c.switch("use_sliding_window", False) and c.maybe_size("max_window_layers", low=0) != 0
    turns = _turns(c, windowed and _layers(c) > 1)
    bias = c.switch("qkv_bias", True)
    return _modern(c, free_head=True, kv=16, length=32768, qkv_bias=bias, turns=turns, experts=experts)


def _qwen3_moe(c: Keys) -> Design:
    experts = _experts(
        number=c.size("num_experts", "num_local_experts", default=128),
        per_token=c.size("num_experts_per_tok", default=8),
        width=c.size("moe_intermediate_size", default=768),
        layers=_sparse_layers(c),
    )
    parts = {"kv": 4, "length": 32768, "qk_norm": 2 * _head(c), "experts": experts, **_attention_bias(c)}
    return _modern(c, free_head=True, **parts)


def _qwen(c: Keys) -> Design:
    """Its ``intermediate_size`` counts both halves of the gated layer."""
    heads, head = c.size("num_attention_heads"), c.size("kv_channels", default=128)
    bias = not c.switch("no_bias", True)
    if heads * head != c.size("hidden_size"):
        raise c.refused("kv_channels", f"hidden_size / {heads} heads")
    return _modern(
        c,
        grouped=False,
        head=head,
        width=c.size("intermediate_size") // 2,
        own_length=c.maybe_size("seq_length"),
        length=8192,
        activation=("", "silu"),
        qkv_bias=True,
        out_bias=bias,
        mlp_bias=bias,
    )


def _gemma(c: Keys, **parts: Any) -> Design:
    usual = {"head": 256, "length": 8192, "tied": True, "activation": ("hidden_activation", "gelu_pytorch_tanh")}
    return _modern(c, free_head=True, **(usual | _attention_bias(c) | parts))


def _gemma3(c: Keys) -> Design:
    every = c.size("sliding_window_pattern", default=6)
    turns = _turns(c, 1 < every <= _layers(c))
    return _gemma(c, kv=4, length=131072, norms=4, qk_norm=2 * _head(c, 256), turns=turns)


def _gpt_neo(c: Keys) -> Design:
    kinds = c.items("attention_layers")
    if kinds is None:
        try:
            kinds = [kind for group, times in c.items("attention_types") or [] if times for kind in group]
        except (TypeError, ValueError) as error:
            raise c.refused("attention_types", 'a list of [["global", "local"], times]') from error
    # The class' own default is twelve times global, local.
    turns = len({str(kind) for kind in kinds}) > 1 if kinds else True
    rows = c.size("max_position_embeddings", default=2048)
    return _classic(c, width_per_dimension=4, qkv_bias=False, position_rows=rows, turns=turns)


def _gptj(c: Keys) -> Design:
    no_bias = {"qkv_bias": False, "out_bias": False}
    parts = {"positions": "rope", "norms": 1, "parallel": True, "head_bias": True, "tied": False, **no_bias}
    return _classic(c, width_per_dimension=4, **parts)


def _gpt2(c: Keys, **parts: Any) -> Design:
    rows = c.size("n_positions", "max_position_embeddings", default=1024)
    return _classic(c, width_per_dimension=4, position_rows=rows, length=1024, **parts)


def _opt(c: Keys) -> Design:
    dimension = c.size("hidden_size")
    width = c.size("word_embed_proj_dim", default=768)
    bias = c.switch("enable_bias", True)
    norm = "layernorm" if c.switch("layer_norm_elementwise_affine", True) else "bare"
    last = c.switch("do_layer_norm_before", True) and not c.switch("_remove_final_layer_norm", False)
    rows = c.size("max_position_embeddings", default=2048) + 2  # the first two stand for padding
    return _classic(
        c,
        activation=("activation_function", "relu"),
        norm=norm,
        last_norm=last,
        position_rows=rows,
        embedding_width=width if width != dimension else None,
        mlp_bias=bias,
        **_attention_bias(c, "enable_bias", True),
    )


def _bloom(c: Keys) -> Design:
    width = 4 * c.size("hidden_size", "n_embed")
    parts = {"positions": "alibi", "first_norm": True, "own_length": c.maybe_size("seq_length"), "length": None}
    return _classic(c, width=width, activation=("", "gelu_fast"), **parts)


def _falcon(c: Keys) -> Design:
    heads = c.size("num_attention_heads", "n_head")
    new, bias = c.switch("new_decoder_architecture", False), c.switch("bias", False)
    side_by_side = c.switch("parallel_attn", True)
    kv_heads = heads
    if new:
        kv_heads = c.size("num_kv_heads", "n_head_kv", default=heads)
    elif c.switch("multi_query", True):
        kv_heads = 1
    first_norms = c.size("num_ln_in_parallel_attn", default=2 if new else 1)
    return _classic(
        c,
        kv_heads=kv_heads,
        width_per_dimension=4,
        activation=("activation", "gelu"),
        positions="alibi" if c.switch("alibi", False) else "rope",
        norms=2 if not side_by_side or first_norms == 2 else 1,
        parallel=new or side_by_side,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
    )


def _mpt(c: Keys) -> Design:
    attention = c.section("attn_config")
    if attention.word("attn_type", "multihead_attention") != "multihead_attention":
        raise attention.refused("attn_type", "multihead_attention")
    norm = c.word("norm_type", "low_precision_layernorm")
    if norm not in ("low_precision_layernorm", "layernorm"):
        raise c.refused("norm_type", "low_precision_layernorm or layernorm")
    dimension, bias = c.size("d_model", "hidden_size"), not c.switch("no_bias", True)
    alibi = attention.switch("alibi", True)
    learned = not alibi and c.switch("learned_pos_emb", True)
    one_norm = 2 * dimension if bias else dimension
    return _classic(
        c,
        width=c.size("expansion_ratio", default=4) * dimension,
        activation=("", "gelu"),
        norm="layernorm" if bias else "unbiased",
        qk_norm=2 * one_norm if attention.switch("qk_ln", False) else 0,
        positions="alibi" if alibi else "learned" if learned else "none",
        position_rows=c.size("max_seq_len", default=2048) if learned else 0,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
    )


def _gpt_neox(c: Keys) -> Design:
    parts = {"positions": "rope", "tied": False, "activation": ("hidden_act", "gelu")}
    return _classic(c, parallel=c.switch("use_parallel_residual", True), **parts, **_attention_bias(c, default=True))


def _phi(c: Keys) -> Design:
    parts = {"positions": "rope", "tied": False, "activation": ("hidden_act", "gelu_new"), "norms": 1}
    qk_norm = 4 * _head(c) if c.switch("qk_layernorm", False) else 0
    return _classic(c, grouped=True, free_head=True, parallel=True, head_bias=True, qk_norm=qk_norm, **parts)


def _starcoder2(c: Keys) -> Design:
    bias = c.switch("use_bias", True)
    parts = {
        "grouped": True,
        "positions": "rope",
        "kv": 2,
        "length": 4096,
        "activation": ("hidden_act", "gelu_pytorch_tanh"),
    }
    return _classic(c, mlp_bias=bias, **parts, **_attention_bias(c, "use_bias", True))


def _qk_sizes(c: Keys, kv: int | None = None) -> int:
    """Norms over all queries and all keys of a token."""
    heads = c.size("num_attention_heads")
    return (heads + _kv_heads(c, heads, kv)) * (c.size("hidden_size") // heads)


def _stablelm(c: Keys) -> Design:
    side_by_side = c.switch("use_parallel_residual", False)
    return _modern(
        c,
        kv=32,
        length=4096,
        norm="layernorm",
        norms=1 if side_by_side else 2,
        parallel=side_by_side,
        qkv_bias=c.switch("use_qkv_bias", False),
        qk_norm=_qk_sizes(c, 32) if c.switch("qk_layernorm", False) else 0,
    )


def _cohere(c: Keys) -> Design:
    qk_norm = _qk_sizes(c) if c.switch("use_qk_norm", False) else 0
    parts = {"norm": "unbiased", "norms": 1, "parallel": True, "tied": True, "length": 8192}
    return _modern(c, qk_norm=qk_norm, **parts, **_attention_bias(c))


def _deepseek(c: Keys, **default: int) -> Design:
    if c.switch("mlp_bias", False):
        raise c.refused("mlp_bias", "false")
    latent = Latent(
        query_rank=c.maybe_size("q_lora_rank") if c.has("q_lora_rank") else 1536,
        rank=c.size("kv_lora_rank", default=512),
        unrotated=c.size("qk_nope_head_dim", default=128),
        rotated=c.size("qk_rope_head_dim", default=64),
        value=c.size("v_head_dim", default=128),
    )
    dense = c.maybe_size("first_k_dense_replace", low=0)
    width = c.size("moe_intermediate_size", default=default["width"])
    experts = _experts(
        number=c.size("n_routed_experts", default=default["number"]),
        per_token=c.maybe_size("num_experts_per_tok") or default.get("per_token"),
        width=width,
        layers=max(0, _layers(c) - (default["dense"] if dense is None else dense)),
        shared_width=c.size("n_shared_experts", default=default["shared"]) * width,
    )
    head = latent.unrotated + latent.rotated
    return _modern(c, head=head, length=default["length"], latent=latent, experts=experts, **_attention_bias(c))


def _njsl(c: Keys) -> Design:
    """What train.py exports where Llama's class cannot say it."""
    own = c.section("architecture")
    bias, norm = own.switch("biases", False), own.word("norm", "rmsnorm")
    positions, length = own.word("positions", "rope"), own.size("sequence_length")
    side_by_side, layernorm = own.word("block", "sequential") == "parallel", "layernorm" if bias else "unbiased"
    dimension, heads = own.size("hidden_size"), own.size("n_heads")
    gated = own.word("mlp", "swiglu") == "swiglu"
    return Design(
        dimension=dimension,
        layers=own.size("n_layers"),
        heads=heads,
        kv_heads=own.size("n_kv_heads", default=heads),
        head=dimension // heads,
        width=own.size("intermediate_size"),
        vocabulary=c.size("vocab_size"),
        length=length,
        tied=own.switch("tied_head", False),
        activation="silu" if gated else "gelu",
        gated=gated,
        norm="rmsnorm" if norm == "rmsnorm" else layernorm,
        norms=1 if side_by_side else 2,
        positions=positions,
        position_rows=length if positions == "learned" else 0,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        parallel=side_by_side,
    )


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        classes: names that ``auto_map`` and ``architectures`` may give its configuration and its model.
        design: from the configuration.
    """

    classes: tuple[str, ...]
    design: Callable[[Keys], Design]


def _row(stem: str, design: Callable[[Keys], Design], *others: str) -> Architecture:
    return Architecture((f"{stem}Config", f"{stem}ForCausalLM", *others), design)


def _late(c: Keys) -> dict[str, Any]:
    return {"free_head": True, "kv": 32, "length": 32768, "turns": _late_window(c)}


ARCHITECTURES = {
    "bloom": _row("Bloom", _bloom),
    "codegen": _row("CodeGen", _gptj),
    "cohere": _row("Cohere", _cohere),
    "deepseek_v2": _row("DeepseekV2", lambda c: _deepseek(c, width=1407, number=64, shared=2, dense=0, length=2048)),
    "deepseek_v3": _row(
        "DeepseekV3", lambda c: _deepseek(c, width=2048, number=256, shared=1, dense=3, per_token=8, length=4096)
    ),
    "falcon": _row("Falcon", _falcon),
    "gemma": _row("Gemma", lambda c: _gemma(c, kv=16, activation=("hidden_act", "gelu_pytorch_tanh"))),
    "gemma2": _row("Gemma2", lambda c: _gemma(c, kv=4, norms=4, turns=_turns(c, _layers(c) > 1))),
    "gemma3_text": _row("Gemma3Text", _gemma3, "Gemma3ForCausalLM"),
    "gpt2": _row("GPT2", _gpt2, "GPT2LMHeadModel"),
    "gpt_bigcode": _row(
        "GPTBigCode",
        lambda c: _gpt2(
            c,
            kv_heads=1 if c.switch("multi_query", True) else None,
            activation=("activation_function", "gelu_pytorch_tanh"),
        ),
    ),
    "gpt_neo": _row("GPTNeo", _gpt_neo),
    "gpt_neox": _row("GPTNeoX", _gpt_neox),
    "gptj": _row("GPTJ", _gptj),
    "llama": _row("Llama", _llama, "LLaMAForCausalLM"),
    "mistral": _row("Mistral", lambda c: _modern(c, free_head=True, kv=8, length=131072)),
    "mixtral": _row("Mixtral", _mixtral),
    "mpt": _row("Mpt", _mpt, "MPTConfig", "MPTForCausalLM"),
    "njsl": _row("Njsl", _njsl),
    "olmo": _row("Olmo", lambda c: _modern(c, norm="bare", **_attention_bias(c))),
    "olmo2": _row("Olmo2", lambda c: _modern(c, qk_norm=_qk_sizes(c), **_attention_bias(c))),
    "opt": _row("OPT", _opt),
    "phi": _row("Phi", _phi),
    "phi3": _row("Phi3", lambda c: _modern(c, free_head=True, length=4096)),
    "qwen": _row("QWen", _qwen, "QWenLMHeadModel"),
    "qwen2": _row("Qwen2", lambda c: _modern(c, qkv_bias=True, **_late(c))),
    "qwen2_moe": _row("Qwen2Moe", _qwen2_moe),
    "qwen3": _row("Qwen3", lambda c: _modern(c, head=128, qk_norm=2 * _head(c, 128), **_late(c), **_attention_bias(c))),
    "qwen3_moe": _row("Qwen3Moe", _qwen3_moe),
    "stablelm": _row("StableLm", _stablelm),
    "starcoder2": _row("Starcoder2", _starcoder2),
    "xglm": _row("XGLM", lambda c: _classic(c, positions="sinusoidal", activation=("activation_function", "gelu"))),
}


def read_design(values: Mapping[str, Any], where: str) -> Design:
    """What a configuration says.

    Args:
        values: the object of a ``config.json``.
        where: its name in messages.

    Raises:
        DataError: an unknown ``model_type``, remote code or a head that is not the known one, a size missing or of
            another type or range, or sizes that do not fit each other.
    """
    c = Keys(values, where)
    name = values.get("model_type")
    known = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if known is None:
        raise c.refused("model_type", ", ".join(ARCHITECTURES))
    remote = c.section("auto_map")
    named = [remote.word(key, "") for key in ("AutoConfig", "AutoModelForCausalLM") if remote.has(key)]
    for said in [*named, *(c.items("architectures") or [])]:
        # e.g. tiiuae/falcon-7b--modeling_falcon.FalconForCausalLM
        if not isinstance(said, str) or said.rpartition(".")[2] not in known.classes:
            raise DataError(
                f"{where}: {name} with the class {shown(said)}: its parameters are unknown; "
                f"{', '.join(known.classes)} are accepted"
            )
    return known.design(c)
