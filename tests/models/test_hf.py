"""Checkpoints in Hugging Face's layout: parity with LlamaForCausalLM, round trips, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from models.build import llama, tokens
from njsl.core.types import DataError
from njsl.models.hf import NjslForCausalLM, export, load

CPU = torch.device("cpu")
LLAMAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"n_kv_heads": 2},
    "one_kv_head": {"n_kv_heads": 1, "rope_theta": 500.0},
    "tied": {"tied_head": True},
    "biases": {"biases": True, "n_kv_heads": 2, "norm_eps": 1e-2},
}
OTHERS: dict[str, dict[str, Any]] = {
    "learned": {"positions": "learned", "biases": True},
    "alibi": {"positions": "alibi", "n_kv_heads": 2},
    "layernorm": {"norm": "layernorm", "biases": True},
    "gelu": {"mlp": "gelu", "tied_head": True},
    "parallel": {"block": "parallel"},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    words = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "a": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|endoftext|>").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", LLAMAS)
def test_logits_and_gradients_equal_transformers(name: str, tokenizer: Path, tmp_path: Path) -> None:
    model = llama(**LLAMAS[name])
    export(model.state_dict(), model, tmp_path / "hf", tokenizer, torch.float32)
    other = load(tmp_path / "hf", CPU, torch.float32)
    assert type(other) is LlamaForCausalLM
    ids, targets = tokens(3, 24), tokens(3, 24, seed=1)
    targets[0, :7] = -100
    assert (model(ids) - other(ids).logits).abs().max() < 1e-5
    loss = model(ids, targets)
    full = F.cross_entropy(other(ids).logits.flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(full.item(), abs=1e-5)
    loss.backward()
    full.backward()
    theirs = dict(other.named_parameters())
    assert set(theirs) == {name for name, _ in model.named_parameters()}
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[key].grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [*LLAMAS, *OTHERS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bit_equal(name: str, dtype: torch.dtype, tokenizer: Path, tmp_path: Path) -> None:
    model = llama(**{**LLAMAS, **OTHERS}[name])
    export(model.state_dict(), model, tmp_path / "hf", tokenizer, dtype)
    other = load(tmp_path / "hf", CPU, dtype)
    loaded = {key.removeprefix("llama."): value for key, value in other.state_dict().items()}
    for key, value in model.state_dict().items():
        assert torch.equal(loaded[key], value.to(dtype))
    assert other.config.eos_token_id == other.generation_config.eos_token_id == 0
    assert other.config.max_position_embeddings == 24
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").eos_token == "<|endoftext|>"
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("name", ["grouped", *OTHERS])
def test_generation_is_greedy_decoding_of_our_logits(name: str, tokenizer: Path, tmp_path: Path) -> None:
    model = llama(**{**LLAMAS, **OTHERS}[name])
    export(model.state_dict(), model, tmp_path / "hf", tokenizer, torch.float32)
    other = load(tmp_path / "hf", CPU, torch.float32)
    assert isinstance(other, NjslForCausalLM) == (name in OTHERS)
    ids = tokens(2, 6)
    expected = ids
    for _ in range(8):
        expected = torch.cat([expected, model(expected)[:, -1].argmax(-1, keepdim=True)], dim=1)
    got = other.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, eos_token_id=-1)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("name", OTHERS)
def test_padding_changes_nothing(name: str, tokenizer: Path, tmp_path: Path) -> None:
    model = llama(**OTHERS[name])
    export(model.state_dict(), model, tmp_path / "hf", tokenizer, torch.float32)
    other = load(tmp_path / "hf", CPU, torch.float32)
    ids, mask = tokens(2, 10), torch.ones(2, 10, dtype=torch.long)
    mask[0, :4] = 0
    mask[1, 7:] = 0
    logits = other(ids, attention_mask=mask).logits
    torch.testing.assert_close(logits[0, 4:], model(ids[:1, 4:])[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[1, :7], model(ids[1:, :7])[0], atol=1e-5, rtol=0)
    labels = ids.masked_fill(mask == 0, -100)
    nll = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert other(ids, attention_mask=mask, labels=labels).loss.item() == pytest.approx(nll.item())


def test_export_replaces_and_refuses_another_architecture(tokenizer: Path, tmp_path: Path) -> None:
    model = llama()
    folder = tmp_path / "hf"
    export(model.state_dict(), model, folder, tokenizer, torch.float32)
    (folder / "left-over").touch()
    export(llama(tied_head=True).state_dict(), llama(tied_head=True), folder, tokenizer, torch.float32)
    assert not (folder / "left-over").exists()
    with pytest.raises(DataError, match=r"lm_head\.weight is missing"):
        export(llama(tied_head=True).state_dict(), model, folder, tokenizer, torch.float32)
    with pytest.raises(DataError, match=r"q_proj\.bias is none of the model's"):
        export(llama(biases=True).state_dict(), model, folder, tokenizer, torch.float32)
    with pytest.raises(DataError, match=r"gate_proj\.weight is \(40, 32\), the model has \(48, 32\)"):
        export(llama(intermediate_size=40).state_dict(), model, folder, tokenizer, torch.float32)
    assert load(folder, CPU, torch.float32).config.tie_word_embeddings


def test_load_refuses_what_is_no_checkpoint(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no causal language model") as caught:
        load(tmp_path, CPU, torch.float32)
    assert "\n" not in str(caught.value)
    model = llama()
    export(model.state_dict(), model, tmp_path / "hf", tokenizer, torch.float32)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "hf" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        load(tmp_path / "hf", CPU, torch.float32)
