"""Tokenizers: text stays text, ids are those of their originals, and the folders open in transformers."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import ConfigError, DataError
from njsl.corpora.tiktoken import Tiktoken
from njsl.corpora.tokenizer import HuggingFace, SentencePiece, Tokenizer, TrainedBPE

SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "<|endoftext|>", "<0x0A>"]
LITERAL = "x = '</s>'\n# <s> and <|endoftext|> and <unk> here, <0x0A> too\n"
ODD = [
    *SPECIAL,
    "  ",
    " ",
    "\n",
    "\t",
    "▁",
    "a",
    "b",
    "def ",
    "return",
    "0",
    "12",
    "é",
    "日本",
    "ﬁ",
    "①",
    "\u00a0",
    "🙂",
    "\u200b",
]


@pytest.fixture(scope="module")
def sources() -> list[str]:
    """Python files of the standard library's json and email packages: real text, about 0.4 MiB."""
    import email
    import json as package

    folders = [Path(str(module.__file__)).parent for module in (email, package)]
    return [path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.glob("*.py"))]


@pytest.fixture(scope="module")
def bpe(sources: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bpe") / "made"
    TrainedBPE(vocab_size=600, sample_mib=0.3).make(lambda: iter([LITERAL, *sources]), folder, None)
    return folder


@pytest.fixture(scope="module", params=["llama", "default", "bare"])
def model(request: pytest.FixtureRequest, sources: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece BPE model: of Llama-2's kind, with the library's defaults, or without the leading space."""
    import sentencepiece

    text = [" ".join(source.split("\n")) for source in sources[:12]]
    kind = {
        "llama": {
            "byte_fallback": True,
            "split_digits": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "allow_whitespace_only_pieces": True,
        },
        "default": {},
        "bare": {"add_dummy_prefix": False, "byte_fallback": True, "normalization_rule_name": "nfkc"},
    }[request.param]
    prefix = tmp_path_factory.mktemp("sp") / request.param
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=700,
        minloglevel=2,
        max_sentence_length=10**6,
        **kind,
    )
    return prefix.with_suffix(".model")


def test_trained_bpe(bpe: Path, sources: list[str], tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bpe)
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (600, 0)
    ids = tokenizer.encode(sources)
    assert all(part.dtype == np.int64 and part.max() < 600 for part in ids)
    assert [tokenizer.decode(part) for part in ids] == sources
    assert sum(map(len, ids)) < sum(map(len, sources)) / 2  # it compresses
    digits = tokenizer.encode(["1234567890"])[0]
    assert len(digits) == 10
    # The same text gives the same tokenizer, another text another one.
    for texts, same in (([LITERAL, *sources], True), (sources[:3], False)):
        folder = tmp_path / str(same)
        TrainedBPE(vocab_size=600, sample_mib=0.3).make(lambda texts=texts: iter(texts), folder, None)
        assert (Tokenizer.load(folder).sha256 == tokenizer.sha256) == same


@settings(deadline=None, max_examples=150)
@given(text=st.text() | st.lists(st.sampled_from(ODD)).map("".join))
def test_any_text_round_trips_and_never_ends(bpe: Path, text: str) -> None:
    tokenizer = Tokenizer.load(bpe)
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_id not in ids


def test_no_more_text_is_read_than_asked_for(tmp_path: Path) -> None:
    read: list[str] = []

    def texts() -> Iterator[str]:
        for number in range(1000):
            read.append(f"text number {number} " * 50)
            yield read[-1]

    TrainedBPE(vocab_size=300, sample_mib=0.01).make(texts, tmp_path / "made", None)
    assert sum(map(len, read[:-1])) < 0.01 * 2**20 <= sum(map(len, read))


def test_transformers_opens_it(bpe: Path) -> None:
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(bpe), Tokenizer.load(bpe)
    text = "def f(x):\n    return 12 ** x  # é日🙂\n"
    assert theirs(text)["input_ids"] == ours.encode([text])[0].tolist()
    assert theirs.eos_token_id == ours.eos_id == theirs.bos_token_id
    assert len(theirs) == ours.vocab_size


def test_sentencepiece_gives_its_own_ids(model: Path, sources: list[str], tmp_path: Path) -> None:
    import sentencepiece
    from transformers import AutoTokenizer

    own = sentencepiece.SentencePieceProcessor(model_file=str(model))
    SentencePiece(path=str(model)).make(lambda: iter(()), tmp_path / "made", None)
    ours = Tokenizer.load(tmp_path / "made")
    assert (ours.vocab_size, ours.eos_id) == (own.vocab_size(), own.eos_id()) == (700, 2)
    random_ = random.Random(0)
    texts = ["".join(random_.choices(ODD, k=random_.randint(0, 12))) for _ in range(3000)]
    texts += [*sources, LITERAL, "", " ", "  two  spaces  ", "▁", "\n\n"]
    for text, ids in zip(texts, ours.encode(texts), strict=True):
        assert ids.tolist() == own.encode(text), text
        assert not set(ids) & {own.bos_id(), own.eos_id()}
    theirs = AutoTokenizer.from_pretrained(tmp_path / "made")
    plain = [text for text in texts if not any(name in text for name in SPECIAL)]
    for text in plain[:300] + plain[-10:]:
        assert theirs(text)["input_ids"] == own.encode(text), text
    if "llama" in model.name:
        (ids,) = ours.encode(["日 é 🙂"])
        assert "<0xF0>" in [own.id_to_piece(int(token)) for token in ids]
        assert ours.decode(ids) == own.decode(ids.tolist()) == "日 é 🙂"


def test_a_sentencepiece_model_without_an_equal(sources: list[str], tmp_path: Path) -> None:
    import sentencepiece

    for kind, fault in (
        ({"model_type": "unigram"}, "is no BPE model"),
        ({"user_defined_symbols": ["[X]"]}, "user-defined"),
    ):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sources[0].split("\n")),
            model_prefix=str(tmp_path / "m"),
            vocab_size=200,
            minloglevel=2,
            hard_vocab_limit=False,
            **{"model_type": "bpe"} | kind,
        )
        with pytest.raises(DataError, match=rf"m.model: this SentencePiece model .*{fault}"):
            SentencePiece(path=str(tmp_path / "m.model")).make(lambda: iter(()), tmp_path / "made", None)
    (tmp_path / "text.model").write_text("no model at all")
    with pytest.raises(DataError, match=r"text.model: no SentencePiece model"):
        SentencePiece(path=str(tmp_path / "text.model")).make(lambda: iter(()), tmp_path / "made", None)
    assert not (tmp_path / "made").exists()


def test_hugging_face_by_path(bpe: Path, tmp_path: Path) -> None:
    given_folder = tmp_path / "given"
    given_folder.mkdir()
    content = json.loads((bpe / "tokenizer.json").read_text())
    # As files of the hub come: cut to a length, filled up, and with an end of documents that is no special token.
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    content["added_tokens"][0]["special"] = False
    (given_folder / "tokenizer.json").write_text(json.dumps(content))
    for path in (given_folder, given_folder / "tokenizer.json"):
        made = tmp_path / f"made-{path.suffix}"
        HuggingFace(path=str(path)).make(lambda: iter(()), made, None)
        tokenizer = Tokenizer.load(made)
        text = "one two three <|endoftext|> four"
        (ids,) = tokenizer.encode([text])
        assert tokenizer.decode(ids) == text and tokenizer.eos_id not in ids
        assert ids.tolist() == Tokenizer.load(bpe).encode([text])[0].tolist()
    component = HuggingFace(path=str(given_folder))
    before = component.identity()
    (given_folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "a"}}')
    assert component.identity() != before
    # A piece of ordinary text as the end of documents can be nobody's intention.
    with pytest.raises(DataError, match="the text 'a' would end a document"):
        component.make(lambda: iter(()), tmp_path / "bad", None)


def test_what_names_a_tokenizer(bpe: Path, model: Path) -> None:
    makers = [
        TrainedBPE(vocab_size=300, sample_mib=1),
        TrainedBPE(vocab_size=301, sample_mib=1),
        TrainedBPE(vocab_size=300, sample_mib=2),
        HuggingFace(path=str(bpe)),
        SentencePiece(path=str(model)),
    ]
    assert len({maker.identity() for maker in makers}) == len(makers)
    assert makers[0].identity() == TrainedBPE(vocab_size=300, sample_mib=1).identity()
    assert [maker.needs_text for maker in makers] == [True, True, True, False, False]


def test_bad_configs_and_folders(bpe: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer.vocab_size: expected at least 257, got 256"):
        TrainedBPE(vocab_size=256, sample_mib=1)
    with pytest.raises(ConfigError, match=r"tokenizer.sample_mib: expected a number above 0, got 0"):
        TrainedBPE(vocab_size=300, sample_mib=0)
    with pytest.raises(ConfigError, match=r"tokenizer.path: no tokenizer.json at .*tokenizer=sentencepiece"):
        HuggingFace(path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"tokenizer.path: no file"):
        SentencePiece(path=str(tmp_path))
    with pytest.raises(DataError, match="tokenizer: no text to train on"):
        TrainedBPE(vocab_size=300, sample_mib=1).make(lambda: iter(()), tmp_path / "made", None)
    with pytest.raises(DataError, match=r"tokenizer.json: missing"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer.json: no tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((bpe / "tokenizer.json").read_bytes())
    with pytest.raises(DataError, match=r"tokenizer_config.json: eos_token None is no token"):
        Tokenizer.load(tmp_path)


def test_tiktoken_is_the_published_vocabulary_and_counts_special_text_as_text(tmp_path: Path) -> None:
    encoder = Tiktoken(name="cl100k_base").encoder(tmp_path)
    assert (encoder.name, encoder.vocab_size) == ("cl100k_base", 100_277)
    # From OpenAI's own examples: "tiktoken is great!" is six tokens of cl100k_base.
    texts = ["tiktoken is great!", "", "<|endoftext|>"]
    ids = encoder.encode(texts)
    assert ids[0].tolist() == [83, 1609, 5963, 374, 2294, 0]
    assert ids[1].size == 0 and 100_257 not in ids[2]
    assert pickle.loads(pickle.dumps(encoder)).encode(texts[:1])[0].tolist() == ids[0].tolist()
    with pytest.raises(ConfigError, match=r"tokenizer: tiktoken counts tokens in tag\.py"):
        Tiktoken(name="cl100k_base").make(lambda: iter(()), tmp_path / "x", None)


def test_a_file_s_tokenizer_counts_for_tag(tmp_path: Path) -> None:
    trained = TrainedBPE(vocab_size=300, sample_mib=1)
    trained.make(lambda: iter(["low lower lowest " * 50]), tmp_path / "mine", None)
    encoder = HuggingFace(path=str(tmp_path / "mine")).encoder(tmp_path / "cache")
    assert encoder.name == "mine" and len(encoder.sha256) == 64
    again = pickle.loads(pickle.dumps(encoder))
    assert again.encode(["lowest"])[0].tolist() == encoder.encode(["lowest"])[0].tolist()
    with pytest.raises(ConfigError, match="counts with a tokenizer that is there"):
        trained.encoder(tmp_path)
