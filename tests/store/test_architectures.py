"""Parameters by formula equal those of the model that transformers builds, and published counts."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError
from njsl.models.llama import Llama
from njsl.store.architectures import ARCHITECTURES, read_design

# The keys of a small model by architecture: sizes under the class' own names, then its switches.
GPT2 = {"n_embd": "dimension", "n_layer": "layers", "n_head": "heads", "n_positions": "length"}
USUAL = {
    "hidden_size": "dimension",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "max_position_embeddings": "length",
}
GROUPED = {**USUAL, "num_key_value_heads": "kv_heads", "intermediate_size": "width"}
LATENT = {
    "q_lora_rank": "rank",
    "kv_lora_rank": "other_rank",
    "qk_nope_head_dim": "head",
    "qk_rope_head_dim": "even",
    "v_head_dim": "other_head",
    "n_routed_experts": "experts",
    "num_experts_per_tok": "one",
    "n_group": "one",
    "topk_group": "one",
    "moe_intermediate_size": "other_width",
    "n_shared_experts": "few",
    "first_k_dense_replace": "few",
}
SPARSE = {
    "num_experts_per_tok": "one",
    "moe_intermediate_size": "other_width",
    "decoder_sparse_step": "few",
}
SIZES: dict[str, dict[str, str]] = {
    "bloom": {"hidden_size": "dimension", "n_layer": "layers", "n_head": "heads"},
    "codegen": {**GPT2, "rotary_dim": "even", "n_inner": "width"},
    "cohere": GROUPED,
    "deepseek_v2": {**GROUPED, **LATENT},
    "deepseek_v3": {**GROUPED, **LATENT},
    "falcon": {**USUAL, "num_kv_heads": "kv_heads", "ffn_hidden_size": "width"},
    "gemma": {**GROUPED, "head_dim": "head"},
    "gemma2": {**GROUPED, "head_dim": "head"},
    "gemma3_text": {**GROUPED, "head_dim": "head"},
    "gpt2": {**GPT2, "n_inner": "width"},
    "gpt_bigcode": {**GPT2, "n_inner": "width"},
    "gpt_neo": {
        "hidden_size": "dimension",
        "num_layers": "layers",
        "num_heads": "heads",
        "max_position_embeddings": "length",
        "intermediate_size": "width",
    },
    "gpt_neox": {**USUAL, "intermediate_size": "width"},
    "gptj": {**GPT2, "rotary_dim": "even", "n_inner": "width"},
    "llama": {**GROUPED, "head_dim": "head"},
    "mistral": {**GROUPED, "head_dim": "head"},
    "mixtral": {**GROUPED, "head_dim": "head", "num_local_experts": "experts", "num_experts_per_tok": "one"},
    "mpt": {"d_model": "dimension", "n_layers": "layers", "n_heads": "heads", "max_seq_len": "length"},
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "opt": {**USUAL, "ffn_dim": "width", "word_embed_proj_dim": "narrow"},
    "phi": GROUPED,
    "phi3": GROUPED,
    "qwen2": GROUPED,
    "qwen2_moe": {**GROUPED, **SPARSE, "num_experts": "experts", "shared_expert_intermediate_size": "width"},
    "qwen3": {**GROUPED, "head_dim": "head"},
    "qwen3_moe": {**GROUPED, **SPARSE, "num_local_experts": "experts", "head_dim": "head"},
    "stablelm": GROUPED,
    "starcoder2": GROUPED,
    "xglm": {
        "d_model": "dimension",
        "num_layers": "layers",
        "attention_heads": "heads",
        "max_position_embeddings": "length",
        "ffn_dim": "width",
    },
}
SWITCHES: dict[str, dict[str, list[Any]]] = {
    "cohere": {"attention_bias": [False, True], "use_qk_norm": [False, True]},
    "deepseek_v2": {"attention_bias": [False, True], "q_lora_rank": [None, 5]},
    "deepseek_v3": {"attention_bias": [False, True]},
    "falcon": {
        "new_decoder_architecture": [False, True],
        "multi_query": [False, True],
        "parallel_attn": [False, True],
        "bias": [False, True],
        "alibi": [False, True],
        "num_ln_in_parallel_attn": [None, 1, 2],
        "ffn_hidden_size": [None, 24],
    },
    "gemma": {"attention_bias": [False, True]},
    "gemma2": {"attention_bias": [False, True]},
    "gemma3_text": {"attention_bias": [False, True], "sliding_window_pattern": [1, 2, 6]},
    "gpt2": {"n_inner": [None, 24], "activation_function": ["gelu_new", "relu"]},
    "gpt_bigcode": {"multi_query": [False, True], "n_inner": [None, 24]},
    "gpt_neo": {"intermediate_size": [None, 24]},
    "gpt_neox": {"attention_bias": [False, True], "use_parallel_residual": [False, True]},
    "llama": {"attention_bias": [False, True], "mlp_bias": [False, True], "head_dim": [None, 6]},
    "mistral": {"head_dim": [None, 6]},
    "mixtral": {"head_dim": [None, 6]},
    "olmo": {"attention_bias": [False, True]},
    "olmo2": {"attention_bias": [False, True]},
    "opt": {
        "do_layer_norm_before": [False, True],
        "enable_bias": [False, True],
        "layer_norm_elementwise_affine": [False, True],
        "_remove_final_layer_norm": [False, True],
    },
    "phi": {"qk_layernorm": [False, True]},
    "qwen2": {"use_sliding_window": [False, True], "sliding_window": [None, 8], "max_window_layers": [0, 1, 9]},
    "qwen2_moe": {
        "qkv_bias": [False, True],
        "mlp_only_layers": [[], [0]],
        "use_sliding_window": [False, True],
        "max_window_layers": [0, 1, 9],
    },
    "qwen3": {"attention_bias": [False, True], "use_sliding_window": [False, True], "sliding_window": [None, 8]},
    "qwen3_moe": {"attention_bias": [False, True], "mlp_only_layers": [[], [0]]},
    "stablelm": {
        "use_qkv_bias": [False, True],
        "qk_layernorm": [False, True],
        "use_parallel_residual": [False, True],
    },
    "starcoder2": {"use_bias": [False, True]},
}


def built(config: dict[str, Any]) -> tuple[int, int, Any, str]:
    """Total and embedding parameters of the model that transformers builds, its configuration, where biases stand."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    logging.getLogger("transformers").setLevel(logging.ERROR)
    own = AutoConfig.for_model(**json.loads(json.dumps(config)), pad_token_id=0, bos_token_id=0, eos_token_id=0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(own)
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    tables += [module for name, module in model.named_modules() if name.endswith(("wpe", "embed_positions"))]
    embedding = {id(parameter): parameter.numel() for table in tables for parameter in table.parameters()}
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, sum(embedding.values()), own, biases(dict(model.named_parameters()))


def biases(parameters: dict[str, Any]) -> str:
    """Which layers of the first block carry biases, from the names and shapes of what is there."""
    parts: dict[str, set[bool]] = {"attention": set(), "norm": set(), "mlp": set()}
    for name, parameter in parameters.items():
        if ".0." not in name or not name.endswith("weight") or "gate.weight" in name or "shared_expert_gate" in name:
            continue
        if parameter.ndim == 2 and "norm" not in name:
            part = "attention" if "attn" in name or "attention" in name else "mlp"
            parts[part].add(name.removesuffix("weight") + "bias" in parameters)
        elif name.removesuffix("weight") + "bias" in parameters:
            parts["norm"].add(True)
    carrying = {part for part, found in parts.items() if True in found}
    if len(carrying) < 2 and carrying != {"mlp"}:
        return {"": "none", "attention": "attn_only", "norm": "ln_only"}["".join(carrying)]
    return "all" if all(False not in found for found in parts.values()) and "mlp" in carrying else "some"


@st.composite
def configs(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """A small configuration of an architecture, with any of its switches said or not."""
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    heads = kv_heads * draw(st.sampled_from([1, 2]))
    drawn = {
        "dimension": heads * 4 * draw(st.integers(1, 3)),
        "layers": draw(st.integers(1, 3)),
        "heads": heads,
        "kv_heads": kv_heads,
        "length": draw(st.integers(1, 9)),
        "width": draw(st.integers(1, 20)),
        "other_width": draw(st.integers(1, 9)),
        "narrow": draw(st.integers(1, 12)),
        "head": 2 * draw(st.integers(1, 4)),
        "other_head": draw(st.integers(1, 5)),
        "even": 2,
        "rank": draw(st.integers(1, 7)),
        "other_rank": draw(st.integers(1, 7)),
        "experts": draw(st.integers(2, 5)),
        "few": draw(st.integers(1, 2)),
        "one": 1,
    }
    config = {"model_type": name, "vocab_size": draw(st.integers(2, 30))}
    config |= {key: drawn[size] for key, size in SIZES[name].items()}
    if name == "gpt_neo":  # the class wants as many kinds as layers
        kinds = draw(st.sampled_from([["global", "local"], ["global"], ["local"]]))
        config |= {"attention_types": [[kinds, drawn["layers"]]], "num_layers": len(kinds) * drawn["layers"]}
    switches = {**SWITCHES.get(name, {}), "tie_word_embeddings": [False, True]}
    for key, values in switches.items():
        value = draw(st.sampled_from(["silent", *values]))
        if value != "silent":
            config[key] = value
    return config


@pytest.mark.parametrize("name", sorted(SIZES))
def test_counts_are_those_of_transformers(name: str) -> None:
    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(configs(name))
    def check(config: dict[str, Any]) -> None:
        total, embedding, own, carrying = built(config)
        row = read_design(config, "config.json").row()
        assert (row["total_params"], row["embedding_params"]) == (total, embedding)
        assert row["dimension"] == own.hidden_size
        assert row["num_layers"] == own.num_hidden_layers
        assert row["num_heads"] == own.num_attention_heads
        assert row["vocab_size"] == own.vocab_size
        assert row["weight_tying"] == own.tie_word_embeddings
        assert row["sequence_length"] == getattr(own, "max_position_embeddings", getattr(own, "max_seq_len", None))
        assert row["biases"] == carrying
        kinds = getattr(own, "layer_types", None) or getattr(own, "attention_layers", ["full"])
        assert (row["attention_variant"] == "local,full") == (len(set(kinds)) > 1)
        head = getattr(own, "head_dim", None) or own.hidden_size // own.num_attention_heads
        assert row["head_dimension"] == (getattr(own, "qk_head_dim", None) or head)

    check()


@pytest.mark.parametrize("name", sorted(SIZES))
def test_silence_means_what_transformers_takes_it_for(name: str) -> None:
    """Only what is needed is said: hidden size, layers, heads, vocabulary and, where it is not derived, width."""
    from transformers import AutoConfig

    usual = AutoConfig.for_model(name)
    needed = {key for key, size in SIZES[name].items() if size in ("dimension", "layers", "heads")}
    needed |= {"vocab_size", "intermediate_size", "ffn_dim"} & usual.to_dict().keys()
    config = {"model_type": name, **{key: getattr(usual, key) for key in needed if getattr(usual, key) is not None}}
    total, embedding, own, carrying = built(config)
    design = read_design(config, "config.json")
    row = design.row()
    assert (row["total_params"], row["embedding_params"], row["biases"]) == (total, embedding, carrying)
    assert row["sequence_length"] == getattr(own, "max_position_embeddings", getattr(own, "max_seq_len", None))
    kv_heads = getattr(own, "num_key_value_heads", row["num_kv_heads"])
    assert row["num_kv_heads"] == (None if design.latent else kv_heads)
    words = [
        getattr(own, key, None) for key in ("hidden_activation", "hidden_act", "activation_function", "activation")
    ]
    assert design.activation in words or name in ("bloom", "mpt")
    assert row["experts_per_token"] == getattr(own, "num_experts_per_tok", None)


def test_every_architecture_is_compared() -> None:
    """All but the two that transformers does not have: the old Qwen, and our own."""
    assert set(SIZES) | {"qwen", "njsl"} == set(ARCHITECTURES)


def _published() -> dict[str, tuple[int, dict[str, Any]]]:
    """The counts that the hub shows for these models (buffers apart), with what their config.json says."""
    lines = Path(__file__).with_name("published_counts.jsonl").read_text().splitlines()
    return {row["model"]: (row["total_params"], row["config"]) for row in map(json.loads, lines)}


PUBLISHED = _published()


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_counts(model: str) -> None:
    total, config = PUBLISHED[model]
    assert read_design(config, model).total_params() == total


def test_embeddings_of_published_models() -> None:
    """By hand: a tied table and positions; table and head; a factorised table."""
    embedding = {model: read_design(config, model).embedding_params() for model, (_, config) in PUBLISHED.items()}
    assert embedding["GPT-2"] == 50257 * 768 + 1024 * 768
    assert embedding["Llama-2-7B"] == 2 * 32000 * 4096
    assert embedding["OPT-350m"] == 50272 * 512 + 2050 * 1024
    assert embedding["GPT-J-6B"] == 2 * 50400 * 4096 + 50400


def _of(name: str, hidden: int, layers: int, heads: int, vocabulary: int, width: int, **others: Any) -> dict[str, Any]:
    keys = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {"model_type": name, "vocab_size": vocabulary, **keys, "intermediate_size": width, **others}


@pytest.mark.data
def test_counts_of_the_papers_cards(paper_data: Path) -> None:
    """The cards' safetensors counts; what they hold besides is a table of rotary frequencies or of masks."""
    sea_lion = {"attn_config": {"alibi": False, "qk_ln": True}, "no_bias": False, "vocab_size": 256000}
    sizes = {"d_model": 2048, "num_layers": 48, "attention_heads": 16, "ffn_dim": 16384, "vocab_size": 256008}
    others = {
        "SEA-LION-7B": {"model_type": "mpt", "d_model": 4096, "n_layers": 32, "n_heads": 32, **sea_lion},
        "XGLM-4.5B": {"model_type": "xglm", **sizes},
        "Pythia-70m": _of("gpt_neox", 512, 6, 8, 50304, 2048),
        "Pythia-410m": _of("gpt_neox", 1024, 24, 16, 50304, 4096),
        "Pythia-1b": _of("gpt_neox", 2048, 16, 8, 50304, 8192),
        "Pythia-2.8b": _of("gpt_neox", 2560, 32, 32, 50304, 10240),
        "Yi-34B": _of("llama", 7168, 60, 56, 64000, 20480, num_key_value_heads=8),
    }
    configs = {**{model: config for model, (_, config) in PUBLISHED.items()}, **others}
    besides = {
        "openai-community_gpt2": ("GPT-2", 12 * 1024 * 1024),
        "facebook_xglm-4.5B": ("XGLM-4.5B", 256008 * 2048),  # the tied head is stored as well
        "EleutherAI_gpt-neox-20b": ("GPT-NeoX-20B", 44 * 12),
        "EleutherAI_pythia-70m": ("Pythia-70m", 6 * 8),
        "EleutherAI_pythia-160m": ("Pythia-160m", 12 * 8),
        "EleutherAI_pythia-410m": ("Pythia-410m", 24 * 8),
        "EleutherAI_pythia-1b": ("Pythia-1b", 16 * 32),
        "EleutherAI_pythia-1.4b": ("Pythia-1.4b", 24 * 16),
        "EleutherAI_pythia-2.8b": ("Pythia-2.8b", 32 * 10),
        "huggyllama_llama-7b": ("Llama-2-7B", 32 * 64),
        "meta-llama_Llama-2-70b-hf": ("Llama-2-70B", 80 * 64),
        "01-ai_Yi-34B": ("Yi-34B", 0),
        "LLM360_Amber": ("Llama-2-7B", 0),
        "Qwen_Qwen-7B": ("Qwen-7B", 0),
        "TinyLlama_TinyLlama-1.1B-Chat-v1.0": ("TinyLlama-1.1B", 0),
        "aisingapore_sea-lion-7b": ("SEA-LION-7B", 0),
        "allenai_OLMo-7B": ("OLMo-7B", 0),
        "bigscience_bloom-7b1": ("BLOOM-7b1", 0),
        "jisukim8873_falcon-7B-case-0": ("Falcon-7B", 0),
        "EleutherAI_gpt-neo-125M": ("GPT-Neo-125M", 0),
        "EleutherAI_gpt-neo-1.3B": ("GPT-Neo-1.3B", 0),
        "EleutherAI_gpt-neo-2.7B": ("GPT-Neo-2.7B", 0),
        "CohereForAI_c4ai-command-r-v01": ("Command R", 0),
        "CohereForAI_c4ai-command-r-plus": ("Command R+", 0),
        "meta-llama_Meta-Llama-3-8B": ("Llama-3-8B", 0),
        "mistralai_Mistral-7B-v0.1": ("Mistral-7B", 0),
        "mistralai_Mixtral-8x7B-v0.1": ("Mixtral-8x7B", 0),
    }
    for card, (model, more) in besides.items():
        counts = json.loads((paper_data / f"model_cards/{card}.json").read_text())["safetensors"]["parameters"]
        floats = sum(count for kind, count in counts.items() if kind.startswith(("F", "BF")))
        assert read_design(configs[model], model).total_params() + more == floats, card


SWITCHED: list[dict[str, Any]] = [
    {},
    {"positions": "learned", "biases": True, "norm": "layernorm"},
    {"positions": "alibi", "n_kv_heads": 2, "tied_head": True},
    {"norm": "layernorm", "mlp": "gelu", "block": "parallel"},
]


@pytest.mark.parametrize("switches", SWITCHED)
def test_own_architecture_counts_as_the_model_does(switches: dict[str, Any]) -> None:
    import torch

    from njsl.models.attention import Sdpa

    usual = {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "block": "sequential", "biases": False}
    numbers = {"hidden_size": 16, "intermediate_size": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": None}
    others = {"sequence_length": 8, "tied_head": False, "rope_theta": 1e4, "norm_eps": 1e-5, "init_std": 0.02}
    with torch.device("meta"):
        settings: dict[str, Any] = {**usual, **numbers, **others, **switches}
        model = Llama(**settings, vocab_size=11, attention=Sdpa(document_mask=False, allow_dense_mask=True))
    architecture = model.architecture()
    design = read_design({"model_type": "njsl", "vocab_size": 11, "architecture": architecture}, "config.json")
    counted = model.n_params()
    assert design.total_params() == counted["total"]
    assert design.embedding_params() == counted["total"] - counted["non_embedding"]


LLAMA = {**PUBLISHED["Llama-2-7B"][1], "architectures": ["LlamaForCausalLM"]}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({**LLAMA, "model_type": "mamba"}, ["model_type: 'mamba'", "llama", "gpt_neox"]),
        ({**LLAMA, "model_type": None}, ["model_type"]),
        ({**LLAMA, "model_type": ["llama"]}, ["model_type", "a list"]),
        ({**LLAMA, "hidden_size": None}, ["hidden_size: missing"]),
        ({**LLAMA, "hidden_size": 0}, ["hidden_size: 0"]),
        ({**LLAMA, "hidden_size": True}, ["hidden_size: True"]),
        ({**LLAMA, "hidden_size": 10**400}, ["hidden_size: a huge number"]),
        ({**LLAMA, "hidden_size": "4096"}, ["hidden_size: '4096'"]),
        ({**LLAMA, "hidden_size": 4095}, ["hidden_size: 4095", "multiple of the 32 heads"]),
        ({**LLAMA, "n_embd": 1}, ["hidden_size=4096 and n_embd=1"]),
        ({**LLAMA, "num_key_value_heads": 5}, ["num_key_value_heads: 5", "divisor of the 32 heads"]),
        ({**LLAMA, "attention_bias": 1}, ["attention_bias: 1"]),
        ({**LLAMA, "hidden_act": 5}, ["hidden_act: 5"]),
        ({**LLAMA, "architectures": ["LlamaForSequenceClassification"]}, ["LlamaForSequenceClassification"]),
        ({**LLAMA, "auto_map": {"AutoConfig": "configuration_decilm.DeciLMConfig"}}, ["DeciLMConfig", "LlamaConfig"]),
        ({**LLAMA, "auto_map": {"AutoModelForCausalLM": "m.Evil\nLlama"}}, ["Evil"]),
        ({**LLAMA, "auto_map": []}, ["auto_map"]),
        ({**PUBLISHED["MPT-7B"][1], "attn_config": {"attn_type": "multiquery_attention"}}, ["multiquery_attention"]),
        ({**PUBLISHED["GPT-Neo-125M"][1], "attention_types": [7]}, ["attention_types"]),
    ],
)
def test_refused(config: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(DataError) as error:
        read_design(config, "config.json")
    assert str(error.value).startswith("config.json: ")
    assert "\n" not in str(error.value)
    for part in named:
        assert part in str(error.value)


@pytest.mark.parametrize("model", PUBLISHED)
def test_endless_sizes_are_counted_at_once(model: str) -> None:
    config = dict(PUBLISHED[model][1])
    layers = next(key for key in ("num_hidden_layers", "n_layer", "num_layers", "n_layers") if key in config)
    config |= {layers: 2**31 - 1, "attention_types": [[["global", "local"], 2**30]]}
    assert read_design(config, model).total_params() > 2**31


def test_known_remote_code_is_taken() -> None:
    remote = {"AutoConfig": "tiiuae/falcon-7b--configuration_falcon.FalconConfig"}
    total, config = PUBLISHED["Falcon-7B"]
    assert read_design({**config, "auto_map": remote}, "config.json").total_params() == total


@settings(deadline=None)
@given(
    st.sampled_from(sorted(PUBLISHED)),
    st.dictionaries(
        st.sampled_from(sorted({key for _, config in PUBLISHED.values() for key in config})),
        st.none() | st.booleans() | st.integers(-2, 10**6) | st.text(max_size=5) | st.lists(st.integers(), max_size=2),
        max_size=4,
    ),
)
def test_any_value_is_read_or_refused(model: str, changed: dict[str, Any]) -> None:
    try:
        row = read_design({**PUBLISHED[model][1], **changed}, "config.json").row()
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert 0 < row["embedding_params"] < row["total_params"]


FACTS: dict[str, dict[str, Any]] = {
    "Llama-3-8B": {
        "activation": "swiglu",
        "attention_variant": "gqa",
        "positional_embeddings": "rope",
        "mlp_ratio": 3.5,
    },
    "Gemma-2B": {"activation": "geglu", "attention_variant": "mqa", "weight_tying": True, "head_dimension": 256},
    "Gemma-2-2B": {"attention_variant": "local,full", "num_kv_heads": 4},
    "GPT-Neo-1.3B": {"attention_variant": "local,full", "activation": "gelu_new", "biases": "some"},
    "GPT-2": {"positional_embeddings": "learned", "biases": "all", "layer_norm_type": "parametric"},
    "Falcon-7B": {"attention_variant": "mqa", "biases": "ln_only", "block_type": "parallel", "ffn_dimension": 18176},
    "OLMo-7B": {"layer_norm_type": "non-parametric", "biases": "none", "block_type": "sequential"},
    "Qwen-7B": {"biases": "attn_only", "ffn_dimension": 11008, "layer_norm_type": "rmsnorm"},
    "MPT-7B": {"positional_embeddings": "alibi", "biases": "none", "activation": "gelu"},
    "XGLM-564M": {"positional_embeddings": "sinusoidal", "attention_variant": "full"},
    "Mixtral-8x7B": {"num_experts": 8, "experts_per_token": 2, "ffn_dimension": 14336, "mlp_ratio": 3.5},
    "DeepSeek-V3": {"attention_variant": "mla", "num_kv_heads": None, "num_experts": 256, "ffn_dimension": 2048},
    "StarCoder": {"attention_variant": "mqa", "num_kv_heads": 1, "activation": "gelu_new"},
}


@pytest.mark.parametrize("model", FACTS)
def test_facts(model: str) -> None:
    row = read_design(PUBLISHED[model][1], model).row()
    assert {name: row[name] for name in FACTS[model]} == FACTS[model]
