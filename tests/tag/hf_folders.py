"""Small models of real architectures, saved as Hugging Face folders; and text to feed them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

END = "<|endoftext|>"
WORDS = "the quick brown fox jumps over a lazy dog while seven wizards teach algebra to children in the old library"
TEXTS = [
    "The quick brown fox.",
    "Seven wizards teach algebra to children in the library, while the dog jumps over the fox. " * 3,
    "a",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich 🙂",
    "the old dog\x00 \n\n  over",
    "שלום עולם",
    "Teach the children algebra.",
    "   ",
]


def classifier(folder: Path, labels: list[str] | None = None, padding: bool = True) -> Path:
    """A BertForSequenceClassification, FineWeb-Edu's architecture, of 48 positions; by default with one output."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = [*special, *sorted(set(WORDS.split())), *letters, *(f"##{letter}" for letter in letters)]
    ids = {word: at for at, word in enumerate(dict.fromkeys(vocabulary))}
    inner = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    names |= {"pad_token": "[PAD]"} if padding else {}
    PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=48, **names).save_pretrained(folder)
    outputs: dict[str, Any] = {"num_labels": 1} if labels is None else {"id2label": dict(enumerate(labels))}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(ids),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=48,
        initializer_range=0.3,
        **outputs,
    )
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


def language_model(folder: Path, *, positions: int = 24, kind: str = "llama", seed: int = 0) -> Path:
    """A LlamaForCausalLM, or with ``kind=gpt2`` a model with learned positions, and a byte-level tokenizer."""
    tokenizer(folder)
    size = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    torch.manual_seed(seed)
    common: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": size, "initializer_range": 0.4}
    model: Any
    if kind == "llama":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        config: Any = LlamaConfig(**sizes, intermediate_size=48, max_position_embeddings=positions, **common)
        model = LlamaForCausalLM(config)
    else:
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=positions, **common))
    model.eval().save_pretrained(folder)
    return folder


def tokenizer(folder: Path) -> Path:
    """A byte-level BPE of 280 ids; id 0 begins and ends texts."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=[END], initial_alphabet=alphabet, min_frequency=1, show_progress=False
    )
    inner.train_from_iterator([WORDS, *TEXTS], trainer)
    names = {"bos_token": END, "eos_token": END}
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)
    return folder
