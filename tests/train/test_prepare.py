"""Preparation: what is left out, who is held out, and that a kill costs nothing."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from njsl.core.config import CorporaConfig, DataMixConfig, SourceConfig, TrainConfig
from njsl.core.types import ConfigError, DataError
from njsl.corpora.tokenizer import HuggingFace, Tokenizer, TrainedBPE
from njsl.train import prepare as module
from njsl.train import split as splitting
from njsl.train.corpus import TokenCorpus, open_corpus
from njsl.train.prepare import SPLITS, Prepared, find_prepared, prepare

WORDS = ["the", "model", "reads", "text", "def", "return", "self", "import", "values", "corpus", "order", "counts"]
ROOT = Path(__file__).parents[2]


def write(path: Path, records: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def documents(count: int, groups: int, seed: int, words: int = 40) -> list[dict[str, object]]:
    random_ = random.Random(seed)
    return [
        {"text": f"{seed}:{number} " + " ".join(random_.choices(WORDS, k=words)), "repo": f"g{number % groups}"}
        for number in range(count)
    ]


def config(path: Path, weights: dict[str, float] | None = None, **corpora: object) -> TrainConfig:
    named = {"kind": "files", "path": str(path), "group_field": "repo", "heldout_frac": 0.2} | corpora
    return TrainConfig(corpora=CorporaConfig(**named), data_mix=DataMixConfig(weights or {"nl": 0.8, "code": 0.2}))  # type: ignore[arg-type]


BPE = TrainedBPE(vocab_size=300, sample_mib=0.05)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write(folder / "nl" / "a.jsonl", documents(60, 20, 1))
    write(folder / "nl" / "b.jsonl.gz", documents(60, 20, 2))
    write(folder / "code" / "c.jsonl", documents(40, 20, 3))
    return folder


def texts(prepared: Prepared, name: str, split: str) -> list[str]:
    """The documents of a split, decoded from its shards."""
    tokenizer = Tokenizer.load(prepared.tokenizer)
    corpus = TokenCorpus(prepared.corpora[name] / split, tokenizer_sha256=tokenizer.sha256, verify=True)
    found = [corpus.document(index) for index in range(corpus.documents)]
    assert all(ids[-1] == tokenizer.eos_id and tokenizer.eos_id not in ids[:-1] for ids in found)
    decoded = [tokenizer.decode(ids[:-1]) for ids in found]
    assert [corpus.document_bytes(index) for index in range(len(found))] == [len(text.encode()) for text in decoded]
    return decoded


def facts(prepared: Prepared, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((prepared.corpora[name] / "corpus.json").read_text())
    return found


def group_of(text: str) -> str:
    return f"g{int(text.split()[0].split(':')[1]) % 20}"


def test_every_document_is_in_one_split_and_no_group_in_both(data: Path, tmp_path: Path) -> None:
    with Progress(disable=True) as progress:
        prepared = prepare(config(data), BPE, tmp_path / "cache", progress)
    held: dict[str, set[str]] = {}
    for name, count in (("nl", 120), ("code", 40)):
        train, heldout = texts(prepared, name, "train"), texts(prepared, name, "heldout")
        assert len(train) + len(heldout) == len({*train, *heldout}) == count
        held[name] = {group_of(text) for text in heldout}
        assert held[name] and not held[name] & {group_of(text) for text in train}
        found = facts(prepared, name)
        assert found == found | {"documents": count, "duplicates_removed": 0, "too_long": 0, "broken_records": 0}
        assert (found["groups"], found["heldout_groups"]) == (20, len(held[name]))
        lines = gzip.decompress((prepared.corpora[name] / "heldout.jsonl.gz").read_bytes()).splitlines()
        assert [json.loads(line)["text"] for line in lines] == heldout
        assert {json.loads(line)["group"] for line in lines} == held[name]
    # A group is held out by its name, in every corpus, and by the documented rule.
    limit = 0.2 * 2**64

    def number(group: str) -> int:
        return int.from_bytes(hashlib.blake2b(f"0\0{group}".encode(), digest_size=8).digest(), "little")

    assert held["nl"] == held["code"] == {f"g{n}" for n in range(20) if number(f"g{n}") <= limit}


def test_duplicates(data: Path, tmp_path: Path) -> None:
    plain = prepare(config(data), BPE, tmp_path / "plain", None)
    held, kept = texts(plain, "nl", "heldout")[0], texts(plain, "nl", "train")[:2]
    group = group_of(kept[0])
    # Copies of held-out text in a group for training: within the corpus and in the other one; of training text too.
    write(data / "nl" / "z.jsonl", [{"text": text, "repo": group} for text in (held, kept[0], kept[0])])
    write(data / "code" / "z.jsonl", [{"text": text, "repo": group} for text in (held, kept[1])])
    prepared = prepare(config(data), BPE, tmp_path / "cache", None)
    for name in ("nl", "code"):
        train = texts(prepared, name, "train")
        assert held not in train and len(train) == len(set(train))
    assert texts(prepared, "nl", "heldout").count(held) == 1
    assert texts(prepared, "nl", "train")[:2] == kept
    assert facts(prepared, "nl")["duplicates_removed"] == 3
    # The same text in the training parts of two corpora is no leak: one may contain the other.
    assert kept[1] in texts(prepared, "code", "train") and facts(prepared, "code")["duplicates_removed"] == 1


def test_too_long_and_broken(data: Path, tmp_path: Path) -> None:
    write(data / "code" / "d.jsonl", [{"text": "x" * 1001, "repo": "g1"}, {"txt": "no text", "repo": "g1"}])
    with (data / "code" / "d.jsonl").open("a") as file:
        file.write('{"text": "cut off\n')
    prepared = prepare(config(data, max_document_chars=1000), BPE, tmp_path / "cache", None)
    found = facts(prepared, "code")
    assert found == found | {"documents": 41, "too_long": 1, "broken_records": 2, "duplicates_removed": 0}
    assert "line 2: no field 'text'" in str(found["broken_reason"])
    assert max(map(len, texts(prepared, "code", "train"))) < 1000


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "prepare.lock"}


def test_a_second_run_does_nothing(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert find_prepared(config(data), BPE, cache) is None
    first = prepare(config(data), BPE, cache, None)
    before = stamps(cache)
    assert prepare(config(data), BPE, cache, None) == first
    # Another mix of the same corpora shares everything.
    assert prepare(config(data, {"nl": 0.0, "code": 1.0}), BPE, cache, None) == first
    assert find_prepared(config(data), BPE, cache) == first
    assert stamps(cache) == before
    assert Prepared.of(str(first.tokenizer), first.folders()) == first
    # A cache may be moved.
    cache.rename(tmp_path / "moved")
    moved = find_prepared(config(data), BPE, tmp_path / "moved")
    assert moved is not None and texts(moved, "code", "train")


def test_what_makes_it_new(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = prepare(config(data), BPE, cache, None)
    found = [first]
    for changed in ({"seed": 1}, {"heldout_frac": 0.3}, {"max_document_chars": 10_000}, {"group_field": None}):
        found.append(prepare(config(data, **changed), BPE, cache, None))
    found.append(prepare(config(data), TrainedBPE(vocab_size=310, sample_mib=0.05), cache, None))
    found.append(prepare(config(data), HuggingFace(path=str(first.tokenizer)), cache, None))
    write(data / "code" / "c.jsonl", documents(41, 20, 3))
    found.append(prepare(config(data), BPE, cache, None))
    assert len({prepared.corpora["code"] for prepared in found}) == len(found) - 1
    # The same tokenizer by another way gives the same tokens.
    assert found[6].corpora == first.corpora
    assert facts(found[-1], "code")["documents"] == 41 and facts(first, "code")["documents"] == 40


def test_shards_in_processes_are_those_of_one_process(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHARD_BYTES", 3000)
    alone = prepare(config(data), BPE, tmp_path / "alone", None)
    monkeypatch.setattr(splitting, "_WORTH_READING", 0)
    monkeypatch.setattr(module, "_WORTH_TOKENISING", 0)
    prepare(config(data), BPE, tmp_path / "together", None)
    assert contents(tmp_path / "alone") == contents(tmp_path / "together")
    sizes = [len(path.read_bytes()) for path in sorted((alone.corpora["nl"] / "train").glob("*.bin"))]
    assert len(sizes) > 5 and max(sizes) < 2 * min(sizes)  # cut evenly, across the two files
    order = [text.split()[0] for text in texts(alone, "nl", "train")]
    everything = [f"{seed}:{number}" for seed in (1, 2) for number in range(60)]
    assert order == [name for name in everything if name in set(order)]  # files' order, wherever shards end


def contents(cache: Path) -> dict[str, bytes]:
    made = ("corpora", "tokenizers", "splits", "prepared")
    return {
        path.relative_to(cache).as_posix(): path.read_bytes()
        for folder in made
        for path in (cache / folder).rglob("*")
        if path.is_file()
    }


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from train.test_prepare import config, module, splitting, TrainedBPE
from njsl.train.prepare import prepare
module._SHARD_BYTES, splitting._WORTH_READING, module._WORTH_TOKENISING = 20_000, 0, 0
if __name__ == "__main__":
    prepare(config(Path(sys.argv[1])), TrainedBPE(vocab_size=300, sample_mib=0.05), Path(sys.argv[2]), None)
"""


def children(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def begin(script: Path, data: Path, cache: Path) -> tuple[subprocess.Popen[str], set[int]]:
    """Start a preparation in its own process group, and wait until it has some shards but not all."""
    process = subprocess.Popen(
        [sys.executable, str(script), str(data), str(cache)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
    )
    until(lambda: process.poll() is not None or len(list(cache.glob("corpora/*/*/train/*.bin"))) >= 2)
    return process, children(process.pid)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """About 1.5 MB of text, and a script that prepares it in processes."""
    for name, seed in (("nl", 1), ("code", 2)):
        write(tmp_path / "data" / name / "all.jsonl.gz", documents(300, 40, seed, words=400))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests")))
    yield tmp_path / "data", script


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_kill_and_run_again(large: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, script = large
    cache = tmp_path / "cache"
    process, workers = begin(script, data, cache)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert workers, "nothing ran in processes"
    until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in workers), 20)  # they end with their parent
    done = {path: path.stat().st_mtime_ns for path in cache.glob("corpora/*/*/*/*.bin")}
    assert not list(cache.glob("corpora/*/*/corpus.json"))
    monkeypatch.setattr(module, "_SHARD_BYTES", 20_000)
    bpe = TrainedBPE(vocab_size=300, sample_mib=0.05)
    assert find_prepared(config(data), bpe, cache) is None
    prepared = prepare(config(data), bpe, cache, None)
    assert {path: path.stat().st_mtime_ns for path in done} == done  # what was there is kept
    prepare(config(data), bpe, tmp_path / "whole", None)
    assert contents(cache) == contents(tmp_path / "whole")
    assert not list(cache.rglob("*.tmp"))
    train, heldout = (texts(prepared, "nl", split) for split in SPLITS)
    assert len(train) + len(heldout) == len({*train, *heldout}) == 300  # nothing twice


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_ctrl_c(large: tuple[Path, Path], tmp_path: Path) -> None:
    process, workers = begin(large[1], large[0], tmp_path / "cache")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and workers
    assert errors.count("Traceback") == 1 and errors.strip().endswith("KeyboardInterrupt")
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in workers)


def test_bad_corpora(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def fault(cfg: TrainConfig, kind: type[Exception], message: str) -> None:
        with pytest.raises(kind, match=message) as error:
            prepare(cfg, BPE, cache, None)
        assert "\n" not in str(error.value)

    fault(config(data, {"nl": 0.8, "code": 0.3}), ConfigError, r"data_mix.weights: .* a sum of 1.1")
    fault(config(data, {"nl": 0.8, "web": 0.2}), ConfigError, r"data_mix.weights.web: no such corpus")
    fault(config(data, heldout_frac=0.0), ConfigError, r"corpora.heldout_frac: expected a share between 0 and 1")
    fault(config(tmp_path / "nowhere"), DataError, "nowhere")
    write(data / "one" / "a.jsonl", [{"text": f"text {n}", "repo": "same"} for n in range(5)])
    fault(config(data, {"one": 1.0}), DataError, r"one/a.jsonl: corpus one has 1 group")
    write(data / "empty" / "a.jsonl", [{"text": "", "repo": "a"}, {"body": "x", "repo": "b"}])
    fault(
        config(data, {"empty": 1.0}), DataError, r"empty/a.jsonl: corpus empty is empty: .* 1 broken .*no field 'text'"
    )
    packed = data / "nl" / "b.jsonl.gz"
    packed.write_bytes(packed.read_bytes()[:-300])
    fault(config(data), DataError, r"nl/b.jsonl.gz: .*truncated")


def test_a_group_is_always_held_out(tmp_path: Path) -> None:
    # With two groups and a small share, no group's hash may be low enough: the lowest one is taken.
    write(tmp_path / "data" / "nl" / "a.jsonl", documents(40, 2, 1))
    prepared = prepare(config(tmp_path / "data", {"nl": 1.0}, heldout_frac=1e-6), BPE, tmp_path / "cache", None)
    assert len(texts(prepared, "nl", "heldout")) == len(texts(prepared, "nl", "train")) == 20


def test_megatron(data: Path, tmp_path: Path) -> None:
    tokenizer = prepare(config(data), BPE, tmp_path / "cache", None).tokenizer
    sizes = [5] * 10
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 10, 11)
    index = struct.pack("<10i", *sizes) + struct.pack("<10q", *range(0, 100, 10)) + struct.pack("<11q", *range(11))
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "nl_text_document.idx").write_bytes(header + index)
    (tmp_path / "tokens" / "nl_text_document.bin").write_bytes(np.arange(50, dtype="<u2").tobytes())
    sources = {"nl": SourceConfig(files=["nl_text_document"])}
    cfg = config(tmp_path / "tokens", {"nl": 1.0}, kind="megatron", sources=sources, heldout_frac=0.3)
    prepared = prepare(cfg, HuggingFace(path=str(tokenizer)), tmp_path / "cache", None)
    assert find_prepared(cfg, HuggingFace(path=str(tokenizer)), tmp_path / "cache") == prepared
    assert prepared.heldout_texts() == {}
    ranges = {"train": range(35), "heldout": range(35, 50)}
    for split, expected in ranges.items():
        corpus = open_corpus(prepared.corpora["nl"], split, tokenizer_sha256=None, vocab_size=300, verify=True)
        assert np.concatenate([corpus.document(i) for i in range(corpus.documents)]).tolist() == list(expected)
    before = prepared.manifests()
    (tmp_path / "tokens" / "nl_text_document.idx").write_bytes(header + index[:-8] + struct.pack("<q", 9))
    with pytest.raises(DataError, match=r"nl_text_document.idx: its documents do not lie"):
        prepare(cfg, HuggingFace(path=str(tokenizer)), tmp_path / "cache", None)
    assert prepared.manifests() == before
    with pytest.raises(ConfigError, match="tokenizer: corpora=megatron holds no text"):
        prepare(cfg, BPE, tmp_path / "cache", None)
