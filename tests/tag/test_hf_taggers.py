"""Educational value and perplexity on models built here: against direct loops, and whatever the batch."""

from __future__ import annotations

import math
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BertModel

from njsl.core.types import ConfigError, DataError, Document
from njsl.tag import hf_models
from njsl.tag.base import Batch
from njsl.tag.taggers.educational import Educational
from njsl.tag.taggers.perplexity import Perplexity
from tag.hf_folders import END, TEXTS, classifier, language_model

LONG = " ".join(TEXTS) * 3


class NoEncoder:
    """These taggers bring their own tokenizers."""

    name, sha256, vocab_size = "none", "", 0

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        raise AssertionError


def batch(*texts: str) -> Batch:
    return Batch([Document(text, str(at), str(at)) for at, text in enumerate(texts)], NoEncoder())


def loaded(tagger: Any) -> Any:
    tagger = pickle.loads(pickle.dumps(tagger))
    tagger.load()
    return tagger


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_model(tmp_path_factory.mktemp("llama"))


# ------------------------------------------------------------------------------------------------------------ batching


def test_batches_hold_alike_lengths_and_their_limit() -> None:
    assert list(hf_models.batches([3, 9, 1, 4, 4], 8)) == [[1], [3, 4], [0, 2]]
    assert list(hf_models.batches([], 8)) == []
    assert list(hf_models.batches([5, 5], 1)) == [[0], [1]]


@pytest.mark.parametrize(
    ("value", "either_way"),
    [
        (0.0005, True),
        (0.00051, True),
        (0.00053, False),
        (0.0, False),
        (-0.0005, True),
        (2.12349, True),
        (2.1234, False),
    ],
)
def test_only_values_near_a_rounding_point_may_round_either_way(value: float, either_way: bool) -> None:
    assert hf_models.may_round_either_way(value) == either_way
    assert (round(value - 2e-5, 3) != round(value + 2e-5, 3)) == either_way


# --------------------------------------------------------------------------------------------------- educational value


def direct_scores(folder: Path, texts: Sequence[str], limit: int = 48) -> list[float]:
    """As FineWeb-Edu's model card runs it: one document at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder)
    scores = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=limit)
        with torch.no_grad():
            scores.append(model(**inputs).logits.squeeze(-1).float().item())
    return scores


def test_scores_are_those_of_a_direct_loop(bert: Path) -> None:
    values = loaded(Educational(model=str(bert), device="cpu")).tag_batch(batch(*TEXTS[:-1], LONG))
    expected = direct_scores(bert, [*TEXTS[:-1], LONG])
    np.testing.assert_allclose(values["educational"], expected, atol=0.0005 + 1e-5)
    assert max(expected) - min(expected) > 0.1
    # "a" is one token; of the long text [CLS] and [SEP] leave 46 of 48.
    assert (values["educational_tokens_read"][2], values["educational_tokens_read"][-1]) == (1, 46)


def test_scores_do_not_depend_on_the_batch(bert: Path) -> None:
    texts = [LONG[at : at + 7 * length] for at in range(0, 60, 2) for length in (1, 3, 8, 40)]
    whole = loaded(Educational(model=str(bert), device="cpu"))
    few = loaded(Educational(model=str(bert), device="cpu", batch_tokens=70))
    alone = [whole.tag(Document(text, "0", "0"), NoEncoder()) for text in texts]
    for tagger in (whole, few):
        values = tagger.tag_batch(batch(*texts))
        for name in Educational.columns:
            assert values[name].tolist() == [one[name] for one in alone]
    backwards = whole.tag_batch(batch(*texts[::-1]))
    assert backwards["educational"].tolist() == [one["educational"] for one in alone][::-1]


def test_a_value_that_may_round_either_way_is_computed_alone(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tagger = loaded(Educational(model=str(bert), device="cpu"))
    monkeypatch.setattr(hf_models, "may_round_either_way", lambda value: True)
    sizes: list[int] = []
    inner = tagger._scores
    monkeypatch.setattr(tagger, "_scores", lambda rows: (sizes.append(len(rows)), inner(rows))[1])
    tagger.tag_batch(batch(*TEXTS[:4]))
    assert sizes == [4, 1, 1, 1, 1]


def test_truncation_is_where_it_was_asked_for(bert: Path) -> None:
    values = loaded(Educational(model=str(bert), max_tokens=10, device="cpu")).tag_batch(batch(LONG))
    assert values["educational_tokens_read"].tolist() == [8]
    assert values["educational"][0] == pytest.approx(direct_scores(bert, [LONG], 10)[0], abs=0.00051)
    for wrong in (2, 49):
        with pytest.raises(ConfigError, match=r"tagger.educational.max_tokens: \d+; accepted: 3 to 48, or null"):
            loaded(Educational(model=str(bert), max_tokens=wrong, device="cpu"))


def test_text_without_a_token_has_no_score(bert: Path) -> None:
    values = loaded(Educational(model=str(bert), device="cpu")).tag_batch(batch("", "  \n", "dog"))
    assert np.isnan(values["educational"]).tolist() == [True, True, False]
    assert values["educational_tokens_read"].tolist() == [0, 0, 1]
    assert np.isnan(Educational.columns["educational"].empty)  # type: ignore[arg-type]


def test_fifty_megabytes_are_read_only_as_far_as_they_count(bert: Path) -> None:
    tagger = loaded(Educational(model=str(bert), device="cpu"))
    huge = "the quick brown fox " * 2_500_000
    assert tagger.tag_batch(batch(huge))["educational"] == tagger.tag_batch(batch(huge[:2000]))["educational"]


def test_without_a_padding_token_documents_go_one_by_one(tmp_path: Path, bert: Path) -> None:
    bare = loaded(Educational(model=str(classifier(tmp_path / "bare", padding=False)), device="cpu"))
    padded = loaded(Educational(model=str(bert), device="cpu"))
    assert bare.tag_batch(batch(*TEXTS))["educational"][:-1].tolist() == (
        padded.tag_batch(batch(*TEXTS))["educational"][:-1].tolist()
    )


def test_of_several_labels_one_is_named(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "three", ["low", "medium", "high"])
    with pytest.raises(ConfigError, match=r"tagger.educational.label: .* several labels; accepted: low, medium, high"):
        loaded(Educational(model=str(folder), device="cpu"))
    with pytest.raises(ConfigError, match=r"tagger.educational.label: 'hi' is no label"):
        loaded(Educational(model=str(folder), label="hi", device="cpu"))
    shares = [
        loaded(Educational(model=str(folder), label=label, device="cpu")).tag_batch(batch(*TEXTS[:4]))["educational"]
        for label in ("low", "medium", "high")
    ]
    np.testing.assert_allclose(np.sum(shares, axis=0), 1, atol=0.002)
    assert np.std(shares) > 0.05


def test_a_label_for_a_single_output_is_refused(bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"tagger.educational.label: 'high' .* null, it has a single output"):
        loaded(Educational(model=str(bert), label="high", device="cpu"))


# ---------------------------------------------------------------------------------------------------------- perplexity


def direct_nats(folder: Path, text: str, window: int, stride: int) -> list[float]:
    """Token by token, each from a forward pass of its own over what it may see."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder).double()
    # Position k of the inputs is the token before token k of the text.
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    inputs, nats = [tokenizer.bos_token_id, *ids], []
    for at, token in enumerate(ids):
        moved = 0 if at < window else (at - window) // stride + 1
        end = min(len(ids), window + moved * stride)  # of the window that scores this token
        seen = inputs[max(0, end - window) : at + 1]
        with torch.no_grad():
            logits = model(torch.tensor([seen])).logits[0, -1]
        nats.append(-logits.log_softmax(-1)[token].item())
    return nats


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(("window", "stride"), [(None, None), (8, 8), (9, 2), (5, 1), (1, 1)])
def test_every_token_is_scored_once_with_its_context(
    kind: str, window: int | None, stride: int | None, tmp_path: Path
) -> None:
    folder = language_model(tmp_path / kind, kind=kind)
    text = TEXTS[1][:70] + f" {END} " + TEXTS[3]
    tagger = loaded(Perplexity(model=str(folder), window=window, stride=stride, batch_tokens=60, device="cpu"))
    values = tagger.tag_batch(batch(text, "fox"))
    nats = direct_nats(folder, text, window or 24, stride or 12)
    assert values["lm_tokens"][0] == len(nats) > 48
    assert values["lm_bytes"][0] == len(text.encode()) > len(text)
    assert values["lm_nll_nats"][0] == pytest.approx(sum(nats) / len(nats), abs=0.00051)
    assert values["lm_bits_per_byte"][0] == pytest.approx(sum(nats) / math.log(2) / len(text.encode()), abs=0.00051)


def test_less_stride_leaves_more_context(llama: Path) -> None:
    few, many = (direct_nats(llama, TEXTS[1], 8, stride) for stride in (8, 1))
    assert few[:8] == many[:8] and few[9:] != many[9:]


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 11, 12, 13, 50])
def test_windows_partition_a_text(length: int) -> None:
    tagger = Perplexity(model="none")
    tagger._window, tagger._stride = 8, 3
    windows = list(tagger._windows(0, length))
    assert [at for _, _, first, end in windows for at in range(first, end)] == list(range(length))
    # All but a shorter text's fill the window, and all but the first score at most a stride.
    assert all(end - start == min(8, length) and start <= first for _, start, first, end in windows)
    assert all(end - first <= 3 for _, _, first, end in windows[1:])


def test_perplexity_does_not_depend_on_the_batch(llama: Path) -> None:
    texts = [LONG[at : at + 9 * length] for at in range(0, 60, 4) for length in (1, 2, 5, 30)]
    whole = loaded(Perplexity(model=str(llama), device="cpu"))
    few = loaded(Perplexity(model=str(llama), device="cpu", batch_tokens=50))
    alone = [whole.tag(Document(text, "0", "0"), NoEncoder()) for text in texts]
    for tagger in (whole, few):
        values = tagger.tag_batch(batch(*texts))
        for name in Perplexity.columns:
            assert values[name].tolist() == [one[name] for one in alone]


def test_empty_and_odd_texts(llama: Path) -> None:
    values = loaded(Perplexity(model=str(llama), device="cpu")).tag_batch(batch("", "a", "\x00", "שלום", END))
    assert np.isnan(values["lm_nll_nats"]).tolist() == [True, False, False, False, False]
    assert np.isnan(values["lm_bits_per_byte"]).tolist() == [True, False, False, False, False]
    assert values["lm_tokens"].tolist()[:3] == [0, 1, 1]
    assert values["lm_tokens"][4] > 1  # what looks like a special token is text
    assert values["lm_bytes"].tolist() == [0, 1, 1, 8, len(END)]


def test_only_the_start_of_a_long_text_is_scored(llama: Path) -> None:
    tagger = loaded(Perplexity(model=str(llama), max_chars=100, device="cpu"))
    values = tagger.tag_batch(batch(LONG, LONG[:100]))
    assert values["lm_bytes"].tolist() == [len(LONG[:100].encode())] * 2
    assert values["lm_nll_nats"][0] == values["lm_nll_nats"][1]


def test_an_encoder_is_no_causal_model(bert: Path) -> None:
    with pytest.raises(DataError, match=r"tagger.perplexity: .* (lacks|no causal language model)"):
        loaded(Perplexity(model=str(bert), device="cpu"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window": 25}, r"tagger.perplexity.window: 25; accepted: 1 to 24, or null"),
        ({"stride": 25}, r"tagger.perplexity.stride: 25; accepted: 1 to 24, or null"),
        ({"stride": 0}, r"tagger.perplexity.stride: 0; accepted: 1 to 24, or null"),
        ({"max_chars": 0}, r"tagger.perplexity.max_chars: 0; at least 1 is accepted"),
        ({"revision": "main"}, r"tagger.perplexity.model: .* is a folder, and revision=main names one on the hub"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(wrong: dict[str, Any], message: str, llama: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(Perplexity(**{"model": str(llama), "device": "cpu", **wrong}))


# ------------------------------------------------------------------------------------------------------ absent weights


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub out of reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize("tagger", [Educational(), Perplexity(model="org/absent")], ids=["educational", "perplexity"])
def test_absent_weights_say_how_to_get_them(tagger: Any, no_hub: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tagger)
    message, name = str(caught.value), type(tagger).__name__.lower()
    assert message.startswith(f"tagger.{name}.model: {tagger.model} is no folder")
    assert f"tagger.{name}.model=FOLDER" in message and f"hf download {tagger.model}" in message
    assert "\n" not in message


def test_a_missing_folder_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tagger.perplexity.model: .*/absent: no such folder; expected"):
        loaded(Perplexity(model=str(tmp_path / "absent")))


def test_what_the_cache_holds_needs_no_hub(bert: Path, no_hub: Path) -> None:
    cached = no_hub / "models--some--classifier"
    shutil.copytree(bert, cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    by_name = loaded(Educational(model="some/classifier", device="cpu")).tag_batch(batch(*TEXTS[:3]))
    by_folder = loaded(Educational(model=str(bert), device="cpu")).tag_batch(batch(*TEXTS[:3]))
    assert by_name["educational"].tolist() == by_folder["educational"].tolist()


def test_broken_folders_are_one_line(bert: Path, llama: Path, tmp_path: Path) -> None:
    def copied(name: str, source: Path, without: str) -> str:
        shutil.copytree(source, tmp_path / name)
        (tmp_path / name / without).unlink()
        return str(tmp_path / name)

    (tmp_path / "empty").mkdir()
    # An encoder alone: transformers would invent the head.
    headless = classifier(tmp_path / "headless")
    full: Any = BertModel.from_pretrained(headless)
    full.save_pretrained(headless)
    cut = tmp_path / "cut"
    shutil.copytree(llama, cut)
    (cut / "model.safetensors").write_bytes((llama / "model.safetensors").read_bytes()[:1000])
    for tagger in (
        Educational(model=str(tmp_path / "empty")),
        Educational(model=copied("no_weights", bert, "model.safetensors")),
        Educational(model=copied("no_tokenizer", bert, "tokenizer.json")),
        Educational(model=str(headless)),
        Perplexity(model=copied("no_config", llama, "config.json")),
        Perplexity(model=copied("no_words", llama, "tokenizer.json")),
        Perplexity(model=str(cut)),
    ):
        with pytest.raises(DataError) as caught:
            tagger.load()
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"tagger.{type(tagger).__name__.lower()}: {tagger.model}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error(bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"tagger.educational.device: cuda, .* accepted: auto, cpu"):
        loaded(Educational(model=str(bert), device="cuda"))


def test_a_fingerprint_is_of_names_and_bytes(llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "same")
    (tmp_path / "same" / "README.md").write_text("does not count")
    assert hf_models.fingerprint(tmp_path / "same") == hf_models.fingerprint(llama)
    (tmp_path / "same" / "config.json").write_text("{}")
    assert hf_models.fingerprint(tmp_path / "same") != hf_models.fingerprint(llama)
