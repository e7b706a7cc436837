"""A configuration alone or beside its weights: ids, counts of headers, and files that are refused."""

from __future__ import annotations

import datetime
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError
from njsl.store.checkpoints import read_config
from njsl.store.sources import model_id, parse_json, read_json

TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 10,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}
# Table and head 2*80; a block 4*64 + 3*96 + 2*8 = 560; a last norm of 8.
TOTAL = 2 * 80 + 2 * 560 + 8
SHAPES: dict[str, list[int]] = {
    "model.embed_tokens.weight": [10, 8],
    "lm_head.weight": [10, 8],
    "model.norm.weight": [8],
}
for block in range(2):
    inside = {"self_attn.q_proj": [8, 8], "self_attn.k_proj": [8, 8], "self_attn.v_proj": [8, 8]}
    inside |= {"self_attn.o_proj": [8, 8], "mlp.gate_proj": [12, 8], "mlp.up_proj": [12, 8], "mlp.down_proj": [8, 12]}
    inside |= {"input_layernorm": [8], "post_attention_layernorm": [8]}
    SHAPES |= {f"model.layers.{block}.{name}.weight": shape for name, shape in inside.items()}


def safetensors(path: Path, shapes: dict[str, list[int]], dtype: str = "BF16") -> None:
    """A file of which only the header is there."""
    tensors = {name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    body = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    path.write_bytes(struct.pack("<Q", len(body)) + body)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with its configuration."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    return tmp_path


def test_a_file_alone(folder: Path) -> None:
    path = folder / "config.json"
    os.utime(path, (0, 86400 * 365))
    records = read_config(path, "org__tiny")
    assert records.tables["models"] == [{"id": "org/tiny"}]
    (row,) = records.tables["model_annotations"]
    assert (row["id"], row["total_params"], row["embedding_params"]) == ("org/tiny", TOTAL, 160)
    assert (row["num_layers"], row["attention_variant"], row["mlp_ratio"]) == (2, "full", 1.5)
    assert "num_experts" not in row
    assert records.origin is not None
    assert (records.origin.source, records.origin.confidence) == ("config.json", "measured")
    assert records.origin.stated_on == datetime.date(1971, 1, 1)
    assert (records.origins, records.left_out) == ({}, [])


def test_source_and_day_by_hand(folder: Path) -> None:
    safetensors(folder / "model.safetensors", SHAPES)
    day = datetime.date(2024, 2, 29)
    records = read_config(folder, "tiny", source="https://example.org/tiny", stated_on=day)
    assert records.origin is not None
    assert (records.origin.source, records.origin.stated_on) == ("https://example.org/tiny", day)
    assert records.origins == {}


def test_measured_weights(folder: Path) -> None:
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": [2],
        "h.0.attn.bias": [1, 1, 9, 9],
        "h.0.attn.masked_bias": [],
    }
    safetensors(folder / "model.safetensors", {**SHAPES, **buffers})
    records = read_config(folder, "org/tiny")
    (key,) = records.origins
    assert key == ("model_annotations", "org/tiny", "total_params")
    assert records.origins[key].source == "model.safetensors"


def test_shards_by_their_index(folder: Path) -> None:
    names = list(SHAPES)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, held in parts.items():
        safetensors(folder / file, {name: SHAPES[name] for name in held})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, held in parts.items() for name in held}}))
    assert read_config(folder, "org/tiny").left_out == []
    (folder / "b.safetensors").unlink()
    with pytest.raises(DataError, match=r"b\.safetensors: missing"):
        read_config(folder, "org/tiny")
    (folder / "a.safetensors").unlink()
    records = read_config(folder, "org/tiny")
    assert "none of its files is here" in records.left_out[0]
    index.write_text(json.dumps({"weight_map": {"x": "../../etc/passwd.safetensors"}}))
    with pytest.raises(DataError, match="weight_map"):
        read_config(folder, "org/tiny")


def test_a_tied_head_stored_twice_counts_once(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**TINY, "tie_word_embeddings": True}))
    safetensors(folder / "model.safetensors", SHAPES)
    (row,) = read_config(folder, "org/tiny").tables["model_annotations"]
    assert (row["total_params"], row["weight_tying"]) == (TOTAL - 80, True)


def test_a_mismatch_says_both_counts(folder: Path) -> None:
    safetensors(folder / "model.safetensors", {**SHAPES, "extra.weight": [3]})
    with pytest.raises(DataError, match=rf"{TOTAL + 3} parameters.* {TOTAL};"):
        read_config(folder, "org/tiny")


def test_packed_weights_are_not_counted(folder: Path) -> None:
    safetensors(folder / "model.safetensors", {"model.embed_tokens.weight": [1]}, "U8")
    records = read_config(folder, "org/tiny")
    assert "packed" in records.left_out[0]
    assert records.tables["model_annotations"][0]["total_params"] == TOTAL


@pytest.mark.parametrize(
    "body", [b"", b"1234567", struct.pack("<Q", 2**60), struct.pack("<Q", 9) + b"{}", b"\xff" * 64]
)
def test_a_broken_header_is_refused(folder: Path, body: bytes) -> None:
    (folder / "model.safetensors").write_bytes(body)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        read_config(folder, "org/tiny")


@pytest.mark.parametrize("tensor", [5, {}, {"dtype": "F32", "shape": [-1]}, {"dtype": "F32", "shape": [True]}])
def test_a_broken_tensor_is_refused(folder: Path, tensor: Any) -> None:
    body = json.dumps({"x\n": tensor}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(body)) + body)
    with pytest.raises(DataError, match="dtype and a shape") as error:
        read_config(folder, "org/tiny")
    assert "\n" not in str(error.value)


def test_the_id_comes_from_the_caller_or_the_configuration(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**TINY, "_name_or_path": "org/tiny"}))
    assert read_config(path).tables["models"] == [{"id": "org/tiny"}]
    assert read_config(path, "mine").tables["models"] == [{"id": "mine"}]
    for name in (None, 5, "", "tiny", "/scratch/tiny", "../tiny", "a/b/c", "org/tiny; DROP TABLE models"):
        path.write_text(json.dumps({**TINY, "_name_or_path": name}))
        with pytest.raises(DataError, match="says no model id"):
            read_config(path)
    with pytest.raises(DataError, match="id "):
        read_config(path, "'; DROP TABLE models; --")


def test_an_activation_without_a_name_is_left_out(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**TINY, "hidden_act": "relu"}))
    records = read_config(folder, "org/tiny")
    assert records.left_out == ["activation 'relu': no name for it here"]
    assert "activation" not in records.tables["model_annotations"][0]


def test_totals_beyond_the_column_are_refused(folder: Path) -> None:
    huge = {"vocab_size": 2**31 - 1, "hidden_size": 2**30, "intermediate_size": 2**31 - 1}
    (folder / "config.json").write_text(json.dumps({**TINY, **huge, "num_hidden_layers": 2**31 - 1}))
    with pytest.raises(DataError, match="total_params: a huge number"):
        read_config(folder, "org/tiny")


@pytest.mark.parametrize(
    "switches", [{}, {"tied_head": True, "n_kv_heads": 2}, {"positions": "learned", "biases": True}]
)
def test_an_export_of_training(tmp_path: Path, switches: dict[str, Any]) -> None:
    import torch
    from models.build import llama
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from njsl.models.hf import export

    words = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "a": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|endoftext|>").save_pretrained(tmp_path / "tokenizer")
    model = llama(**switches)
    export(model.state_dict(), model, tmp_path / "hf", tmp_path / "tokenizer", torch.bfloat16)
    records = read_config(tmp_path / "hf", "mine/tiny")
    counted = model.n_params()
    (row,) = records.tables["model_annotations"]
    assert row["total_params"] == counted["total"]
    assert row["embedding_params"] == counted["total"] - counted["non_embedding"]
    assert row["weight_tying"] == model.tied_head
    assert records.origins["model_annotations", "mine/tiny", "total_params"].source == "model.safetensors"


BODIES = {
    "empty": b"",
    "not UTF-8": b'{"id": "\xff"}',
    "a list": b"[]",
    "a number": b"7",
    "NaN": b'{"x": NaN}',
    "Infinity": b'{"x": -Infinity}',
    "beyond floats": b'{"x": 1e999}',
    "a huge number": b'{"x": ' + b"9" * 5000 + b"}",
    "deep": b"[" * 100_000,
    "a key twice": b'{"x": 1, "x": 2}',
    "cut short": b'{"x": 1',
    "two objects": b"{}{}",
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_json_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(BODIES[name])
    with pytest.raises(DataError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 200


def test_other_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / "a\0b"):
        with pytest.raises(DataError):
            read_json(path)
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(DataError, match="larger than"):
        read_json(large)


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"x": 1}')
    assert read_json(tmp_path / "x.json") == {"x": 1}


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_refused(body: bytes) -> None:
    try:
        assert isinstance(parse_json(body, "x"), dict)
    except DataError as error:
        assert "\n" not in str(error)


def test_ids() -> None:
    assert model_id("org__name") == "org/name"
    assert model_id("org/name__x") == "org/name__x"
    assert model_id("gpt2") == "gpt2"
    for bad in (
        None,
        5,
        "",
        " gpt2",
        "a/b/c",
        "a//b",
        "/a",
        "a/",
        "..",
        "a/..",
        "a..b",
        "a b",
        "a;b",
        "é/x",
        "a" * 201,
    ):
        assert model_id(bad) is None
