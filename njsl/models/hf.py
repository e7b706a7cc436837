"""Checkpoints in Hugging Face's layout: what Llama can say as LlamaForCausalLM, every other switch as ``njsl`` models.

Importing this file imports transformers and makes ``njsl`` models known to AutoConfig and AutoModelForCausalLM; so
import it inside functions.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GenerationMixin,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutput

from njsl.core.types import DataError
from njsl.models.attention import Sdpa
from njsl.models.llama import Llama

# Inside a transformers model our Llama is one module of this name, and so its parameters' prefix.
_INNER = "llama"


class NjslConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Config of a model whose switches LlamaConfig cannot express.

    Args:
        architecture: ``Llama.architecture()``.
        vocab_size: number of ids.
        kwargs: what every transformers config takes, e.g. eos_token_id.
    """

    model_type = "njsl"

    def __init__(self, architecture: dict[str, Any] | None = None, vocab_size: int = 0, **kwargs: Any) -> None:
        self.architecture = architecture or {}
        self.vocab_size = vocab_size
        # By the names that transformers and lm-evaluation-harness read.
        self.hidden_size = self.architecture.get("hidden_size", 0)
        self.num_hidden_layers = self.architecture.get("n_layers", 0)
        self.num_attention_heads = self.architecture.get("n_heads", 0)
        self.max_position_embeddings = self.architecture.get("sequence_length", 0)
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
            kwargs.pop(name, None)
        # A tied head is tied inside; transformers has nothing to tie.
        super().__init__(**{**kwargs, "tie_word_embeddings": False, "use_cache": False})


class NjslForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """Llama with any switches, as transformers wants a causal language model; it keeps no cache of keys and values."""

    config_class = NjslConfig
    base_model_prefix = _INNER
    _supports_sdpa = True
    _no_split_modules = ["_Block"]  # noqa: RUF012

    def __init__(self, config: NjslConfig) -> None:
        super().__init__(config)
        attention = Sdpa(document_mask=True, allow_dense_mask=True)
        self.llama = Llama(**config.architecture, vocab_size=config.vocab_size, attention=attention)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Logits, and the mean nll of ``labels`` shifted by one.

        Args:
            input_ids: ids [B, T].
            attention_mask: 0 where padded, on either side.
            labels: ids [B, T], -100 where none counts.
            kwargs: of generate(), e.g. use_cache, which change nothing here.
        """
        padded = attention_mask is not None and not bool(attention_mask.all())
        # Padding is a document of its own: never attended to, and positions start after it.
        logits = self.llama(input_ids, documents_BT=attention_mask if padded else None)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, *unread: Any, **kwargs: Any) -> dict[str, Any]:
        """All tokens anew for every one that is generated."""
        return {"input_ids": input_ids, "attention_mask": kwargs.get("attention_mask")}

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of tokens."""
        return self.llama.model.embed_tokens

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """transformers asks this of modules whose weights a checkpoint lacks."""
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, (nn.Linear, nn.Embedding)) and name == "weight":
                parameter.normal_(0.0, 0.02)
            else:
                parameter.fill_(1.0 if name == "weight" else 0.0)


AutoConfig.register("njsl", NjslConfig, exist_ok=True)
AutoModelForCausalLM.register(NjslConfig, NjslForCausalLM, exist_ok=True)


def is_llama(model: Llama) -> bool:
    """Whether transformers' LlamaForCausalLM computes the same."""
    return (model.positions, model.norm, model.mlp, model.block) == ("rope", "rmsnorm", "swiglu", "sequential")


def export(state: Mapping[str, Tensor], model: Llama, folder: Path, tokenizer: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint that ``AutoModelForCausalLM.from_pretrained`` and ``load`` read.

    It is written beside and renamed; a checkpoint that stands there is replaced.

    Args:
        state: all weights, unsharded, by the names of ``model.state_dict()``.
        model: says the architecture; its own weights are not read, so it may be on meta.
        folder: of the checkpoint.
        tokenizer: a tokenizer's folder, whose files are taken along.
        dtype: of the weights as written.

    Raises:
        DataError: the state is not this architecture's.
    """
    _check_state(state, model)
    prefix = "" if is_llama(model) else f"{_INNER}."
    weights = {prefix + name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    special = AutoTokenizer.from_pretrained(tokenizer)
    ids = {"bos_token_id": special.bos_token_id, "eos_token_id": special.eos_token_id}
    config = _config(model, {**ids, "pad_token_id": special.pad_token_id, "dtype": dtype})
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in tokenizer.iterdir():
        if file.is_file():
            shutil.copyfile(file, partial / file.name)
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(partial)
    shutil.copymode(partial / "config.json", partial / "model.safetensors")  # safetensors lets only the owner read
    generation: Any = GenerationConfig
    generation(**ids, use_cache=is_llama(model)).save_pretrained(partial)
    replaced = folder.with_name(folder.name + ".replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model from a Hugging Face folder, ours or another's, in evaluation mode.

    Raises:
        DataError: the folder holds none, or weights are missing.
    """
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "output_loading_info": True}
    loaded: Any = AutoModelForCausalLM
    try:
        model, found = loaded.from_pretrained(folder, **options)
    except (OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{folder}: no causal language model in Hugging Face's layout: {lines[0]}") from error
    if found["missing_keys"]:  # transformers would only warn, and leave them random
        raise DataError(f"{folder}: weight {min(found['missing_keys'])} is missing")
    return model.to(device).eval()


def _config(model: Llama, common: dict[str, Any]) -> PreTrainedConfig:
    if not is_llama(model):
        return NjslConfig(
            architecture=model.architecture(),
            vocab_size=model.vocab_size,
            architectures=[NjslForCausalLM.__name__],
            **common,
        )
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.n_layers,
        num_attention_heads=model.n_heads,
        num_key_value_heads=model.n_kv_heads,
        head_dim=model.head_dim,
        max_position_embeddings=model.sequence_length,
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        rms_norm_eps=model.norm_eps,
        attention_bias=model.biases,
        mlp_bias=model.biases,
        initializer_range=model.init_std,
        tie_word_embeddings=model.tied_head,
        **common,
    )


def _check_state(state: Mapping[str, Tensor], model: Llama) -> None:
    own = model.state_dict()
    for name in [*own, *state]:
        if name not in state or name not in own:
            fault = "is missing" if name in own else "is none of the model's"
            raise DataError(f"export: weight {name} {fault}: the checkpoint is of another architecture")
        if state[name].shape != own[name].shape:
            shapes = f"{tuple(state[name].shape)}, the model has {tuple(own[name].shape)}"
            raise DataError(f"export: weight {name} is {shapes}: the checkpoint is of another architecture")
