"""Free generations: greedy as transformers has it, sampled as the softmax has it, and the same bytes however made."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.build import llama as own_llama
from omegaconf import DictConfig, OmegaConf
from rich.progress import Progress
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from njsl.core.run import Run
from njsl.core.types import ConfigError, DataError
from njsl.models.hf import export
from njsl.tag.generate import generate, identity, model_name
from njsl.tag.generators.hf import HuggingFace
from tag.hf_folders import language_model, tokenizer

PROMPT = "the lazy dog"
WRITE = """
import sys
from omegaconf import OmegaConf
from rich.progress import Progress
from njsl.core.run import Run
from njsl.tag.generate import generate
cfg = OmegaConf.create(sys.argv[1])
with Progress(disable=True) as progress:
    generate(cfg, Run(cfg), progress)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_model(tmp_path_factory.mktemp("model") / "writer", positions=48)


def writer(folder: Path, **parameters: Any) -> HuggingFace:
    generator = HuggingFace(**{"checkpoint": str(folder), "device": "cpu", "max_new_tokens": 20, **parameters})
    generator.load()
    return generator


def first_token(folder: Path, prompt: str) -> np.ndarray:
    """Probabilities of the next token, from one plain forward pass."""
    ids = AutoTokenizer.from_pretrained(folder)(prompt)["input_ids"] or [0]
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return loaded(torch.tensor([ids])).logits[0, -1].double().softmax(-1).numpy()


# -------------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("prompt", ["", PROMPT])
@pytest.mark.parametrize("temperature", [0.0, 1e-4])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_cold_it_is_greedy_search(prompt: str, temperature: float, kind: str, tmp_path: Path) -> None:
    folder = language_model(tmp_path / kind, positions=48, kind=kind, seed=3)
    tokens = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokens(prompt)["input_ids"] or [0]])
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder)
    out = loaded.generate(ids, do_sample=False, max_new_tokens=20, min_new_tokens=20, pad_token_id=0)
    mine = writer(folder, prompt=prompt, temperature=temperature, min_new_tokens=20).generate(0, 3, seed=0)
    assert [one["text"] for one in mine] == [tokens.decode(out[0, ids.shape[1] :])] * 3
    assert {(one["finish_reason"], one["n_tokens"]) for one in mine} == {("length", 20)}


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.6), (2.0, 0.9)])
def test_the_first_token_is_drawn_as_the_softmax_says(temperature: float, top_p: float, model: Path) -> None:
    p = first_token(model, PROMPT) ** (1 / temperature)
    p /= p.sum()
    nucleus, mass = [], 0.0
    for token in np.argsort(-p):  # the smallest set of the likeliest that reaches top_p
        if mass >= top_p:
            break
        nucleus.append(token)
        mass += p[token]
    expected = np.zeros_like(p)
    expected[nucleus] = p[nucleus] / mass
    generator = writer(
        model, prompt=PROMPT, temperature=temperature, top_p=top_p, max_new_tokens=1, min_new_tokens=0, batch_size=500
    )
    draws = Counter(ids[0] for at in range(0, 5000, 500) for ids in generator._sample(range(at, at + 500), 1))
    seen = np.array([draws[token] for token in range(len(p))])
    assert not seen[expected == 0].any()
    often = expected * 5000 >= 5
    observed = np.append(seen[often], seen[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum()) * 5000
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    assert len(wanted) > 5
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    assert statistic < stats.chi2.ppf(0.999, len(wanted) - 1)


def test_draws_at_the_borders_hit_a_token_that_can_be() -> None:
    generator = HuggingFace(checkpoint="none")
    # Probabilities 0, 1/4, 1/2, 1/4, 0.
    logits = torch.tensor([[-torch.inf, 0.0, np.log(2), 0.0, -torch.inf]], dtype=torch.float64)
    below = np.nextafter(1.0, 0.0)
    for draw, token in [(0.0, 1), (0.2499, 1), (0.2501, 2), (0.7499, 2), (0.7501, 3), (below, 3)]:
        assert generator._choose(logits, torch.tensor([draw], dtype=torch.float64)).tolist() == [token]
    narrow = HuggingFace(checkpoint="none", top_p=0.5)
    assert {narrow._choose(logits, torch.tensor([draw]).double()).item() for draw in (0.0, 0.5, below)} == {2}


def test_texts_end_where_the_model_ends_them(model: Path) -> None:
    records = writer(model, max_new_tokens=40, batch_size=50, temperature=1.5).generate(0, 200, seed=0)
    reasons = Counter(one["finish_reason"] for one in records)
    assert min(reasons["stop"], reasons["length"]) > 10
    assert all(one["n_tokens"] == 40 for one in records if one["finish_reason"] == "length")
    assert all(1 <= one["n_tokens"] < 40 for one in records if one["finish_reason"] == "stop")
    assert not any("<|endoftext|>" in one["text"] for one in records)
    late = writer(model, max_new_tokens=40, min_new_tokens=30, batch_size=50, temperature=1.5).generate(0, 200, seed=0)
    assert min(one["n_tokens"] for one in late) >= 30


# -------------------------------------------------------------------------------------------------------- independence


def test_a_text_depends_on_seed_and_number_alone(model: Path) -> None:
    one, eight = writer(model, batch_size=1), writer(model, batch_size=8)
    all_at_once = eight.generate(0, 24, seed=5)
    assert one.generate(0, 24, seed=5) == all_at_once
    assert eight.generate(13, 4, seed=5) == all_at_once[13:17]
    assert len({record["text"] for record in all_at_once}) > 20
    assert [record["id"] for record in all_at_once] == [str(number) for number in range(24)]
    other = eight.generate(0, 24, seed=6)
    assert sum(a["text"] == b["text"] for a, b in zip(other, all_at_once, strict=True)) < 3


def test_a_model_without_a_cache_writes_as_well(tmp_path: Path) -> None:
    size = len(AutoTokenizer.from_pretrained(tokenizer(tmp_path / "words")))
    switches = {"positions": "alibi", "vocab_size": size, "sequence_length": 24}
    inner = own_llama(**switches)
    export(inner.state_dict(), inner, tmp_path / "hf", tmp_path / "words", torch.float32)
    records = writer(tmp_path / "hf", batch_size=8, max_new_tokens=12).generate(0, 8, seed=0)
    assert writer(tmp_path / "hf", batch_size=1, max_new_tokens=12).generate(0, 8, seed=0) == records
    # Step by step, by hand: the token of draw u is the first whose cumulative probability passes it.
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    draws, ids = np.random.default_rng([0, 3]).random(12), [0]
    for step in range(12):
        with torch.no_grad():
            p = loaded(torch.tensor([ids])).logits[0, -1].double().softmax(-1).numpy()
        p[0] = p[0] if step else 0  # at least one token
        ids.append(int(np.flatnonzero(p.cumsum() > draws[step] * p.sum())[0]))
        if ids[-1] == 0:
            break
    text = AutoTokenizer.from_pretrained(tmp_path / "hf").decode(ids[1:], skip_special_tokens=True)
    assert records[3]["text"] == text


# -------------------------------------------------------------------------------------------------------------- shards


def config(model: Path | None, output: Path, **parameters: Any) -> DictConfig:
    generator = {
        "checkpoint": None if model is None else str(model),
        "device": "cpu",
        "max_new_tokens": 12,
        **parameters,
    }
    node = {"_target_": "njsl.tag.generators.hf.HuggingFace", **generator}
    return OmegaConf.create({"seed": 0, "generator": node, "paths": {"output": str(output)}})


def written(cfg: DictConfig) -> Path:
    output = Path(cfg.paths.output)
    output.mkdir(parents=True, exist_ok=True)
    with Progress(disable=True) as progress:
        ((name, files),) = generate(cfg, Run(cfg), progress).items()
    assert files == sorted((output / "generations" / name).iterdir())
    return output / "generations" / name


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shards_and_manifest(model: Path, tmp_path: Path) -> None:
    folder = written(config(model, tmp_path / "run", count=230, prompt=PROMPT, batch_size=30))
    assert folder == tmp_path / "run" / "generations" / "writer"
    # Shards are of whole batches: 3 of 30.
    assert {path.name: path.read_bytes().count(b"\n") for path in folder.iterdir()} == {
        "00000.jsonl": 90,
        "00001.jsonl": 90,
        "00002.jsonl": 50,
    }
    records = [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]
    assert [record["id"] for record in records] == [str(number) for number in range(230)]
    assert list(records[0]) == ["id", "text", "prompt", "finish_reason", "n_tokens"]
    assert {record["prompt"] for record in records} == {PROMPT}
    said = json.loads((tmp_path / "run" / "generations.json").read_text())
    assert (said["name"], said["count"], said["seed"], said["checkpoint"]) == ("writer", 230, 0, str(model))
    assert len(said["sha256"]) == 64 and said["parameters"]["top_p"] == 1.0 and "torch" in said["versions"]


def test_finished_shards_are_not_written_again(model: Path, tmp_path: Path) -> None:
    cfg = config(model, tmp_path / "run", count=200, batch_size=50)
    folder = written(cfg)
    before = contents(tmp_path / "run")
    (folder / "00001.jsonl").unlink()
    stamp = (folder / "00000.jsonl").stat().st_mtime_ns
    assert written(cfg) == folder
    assert contents(tmp_path / "run") == before
    assert (folder / "00000.jsonl").stat().st_mtime_ns == stamp


def test_bytes_are_the_same_for_other_batches(model: Path, tmp_path: Path) -> None:
    texts = [
        contents(written(config(model, tmp_path / str(size), count=100, batch_size=size))) for size in (1, 10, 100)
    ]
    assert texts[0] == texts[1] == texts[2]


def test_a_killed_run_goes_on_to_the_same_bytes(model: Path, tmp_path: Path) -> None:
    cfg = config(model, tmp_path / "whole", count=300, batch_size=20, max_new_tokens=20)
    written(cfg)
    cfg.paths.output = str(tmp_path / "killed")
    (tmp_path / "killed").mkdir()
    process = subprocess.Popen([sys.executable, "-c", WRITE, OmegaConf.to_yaml(cfg)])
    folder = tmp_path / "killed" / "generations" / "writer"
    deadline = time.monotonic() + 120
    while not (folder / "00000.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(list(folder.glob("*.jsonl"))) < 3
    written(cfg)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_the_identity_is_of_all_that_the_texts_depend_on(model: Path, tmp_path: Path) -> None:
    own = identity(config(model, tmp_path, count=10))
    assert identity(config(model, tmp_path / "elsewhere", count=10)) == own
    other = language_model(tmp_path / "writer", positions=48, seed=1)
    changed = [config(model, tmp_path, count=10, **change) for change in ({"temperature": 0.5}, {"prompt": "a"})]
    changed += [config(model, tmp_path, count=11), config(other, tmp_path, count=10)]
    changed.append(OmegaConf.merge(changed[0], {"seed": 1}))  # type: ignore[arg-type]
    assert len({own, *map(identity, changed)}) == 6


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"checkpoint": None}, r"generator.checkpoint: null; mode=generate needs"),
        ({"checkpoint": "./absent"}, r"generator.checkpoint: ./absent: no such folder"),
        ({"count": 0}, r"generator.count: 0; at least 1"),
        ({"batch_size": 0}, r"generator.batch_size: 0; at least 1"),
        ({"temperature": -1.0}, r"generator.temperature: -1.0; at least 0"),
        ({"temperature": float("nan")}, r"generator.temperature: nan; at least 0"),
        ({"top_p": 0.0}, r"generator.top_p: 0.0; accepted: above 0, up to 1"),
        ({"min_new_tokens": 13}, r"generator.min_new_tokens: 13; at most max_new_tokens"),
        ({"max_new_tokens": 48}, r"generator.max_new_tokens: 48; after a prompt of 1 tokens .* has room for 47"),
        ({"device": "cuda"}, r"generator.checkpoint.device|generator.device: cuda"),
    ],
)
def test_what_cannot_be_is_one_line(wrong: dict[str, Any], message: str, model: Path, tmp_path: Path) -> None:
    if wrong.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=message):
        identity(config(model, tmp_path / "run", **{"count": 10, **wrong}))
    with pytest.raises(ConfigError, match=message) as caught:
        written(config(model, tmp_path / "run", **{"count": 10, **wrong}))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "run").rglob("*.jsonl"))


def test_a_broken_model_says_so(model: Path, tmp_path: Path) -> None:
    loaded: Any = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        loaded.lm_head.weight.fill_(torch.nan)
    loaded.save_pretrained(tmp_path / "nan")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "nan")
    with pytest.raises(DataError, match=r"generator.checkpoint: .*not finite"):
        writer(tmp_path / "nan").generate(0, 1, seed=0)


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ({"checkpoint": "EleutherAI/pythia-160m"}, "pythia-160m"),
        ({"checkpoint": "models/mine/"}, "mine"),
        ({"model": "gpt 4o:mini"}, "gpt_4o_mini"),
    ],
)
def test_the_corpus_is_named_after_the_model(node: dict[str, str], name: str) -> None:
    assert model_name(OmegaConf.create(node)) == name


def test_an_export_of_train_is_named_after_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nl80_code20" / "hf").mkdir(parents=True)
    assert model_name(OmegaConf.create({"checkpoint": str(tmp_path / "nl80_code20" / "hf")})) == "nl80_code20"
    monkeypatch.chdir(tmp_path / "nl80_code20" / "hf")
    assert model_name(OmegaConf.create({"checkpoint": "."})) == "nl80_code20"
