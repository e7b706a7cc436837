"""Decontamination: by hand, every kind of benchmark file, and bad input."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.progress import Progress

from njsl.core.types import ConfigError, DataError, Document
from njsl.tag.base import Batch
from njsl.tag.filters.decontaminate import Decontaminate

WORDS = [f"w{i}" for i in range(40)]


class NoTokens:
    name, sha256, vocab_size = "none", "", 1

    def encode(self, texts: object) -> list[np.ndarray]:
        raise AssertionError("filters count no tokens")


def prepared(folder: Path, files: Sequence[Path], **parameters: int) -> Decontaminate:
    own = folder / "own"
    own.mkdir(exist_ok=True)
    filter_ = Decontaminate(files=[str(file) for file in files], **parameters)
    with Progress(disable=True) as progress:
        filter_.prepare({}, own, progress)
    filter_.load(own)
    return filter_


def reasons(filter_: Decontaminate, *texts: str) -> list[str | None]:
    return filter_.reasons(Batch([Document(text, str(i), "g") for i, text in enumerate(texts)], NoTokens()), "corpus")


def write(folder: Path, *texts: str) -> Path:
    path = folder / "benchmark.jsonl"
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def test_by_hand(tmp_path: Path) -> None:
    filter_ = prepared(tmp_path, [write(tmp_path, " ".join(WORDS[:20]))])
    inside = " ".join(WORDS[3:16])  # 13 words
    assert (
        reasons(
            filter_,
            inside,
            " ".join(WORDS[3:15]),  # 12 words of it
            "before " * 10 + inside.upper().replace(" ", ", ") + " after" * 7,
            " ".join(WORDS[0:12] + WORDS[13:25]),  # interrupted
            " ".join(WORDS[2:18]),  # 16 words: 4 runs
            "",
            "\0",
        )
        == [
            "benchmark text: 1 matching word runs of 1 > 0",
            None,
            "benchmark text: 1 matching word runs of 18 > 0",
            None,
            "benchmark text: 4 matching word runs of 4 > 0",
            None,
            None,
        ]
    )
    assert reasons(filter_, " ".join(WORDS[:12]), WORDS[12]) == [None, None]  # two documents are not one


def test_max_matches(tmp_path: Path) -> None:
    filter_ = prepared(tmp_path, [write(tmp_path, " ".join(WORDS))], max_matches=3)
    assert reasons(filter_, " ".join(WORDS[:15]), " ".join(WORDS[:16])) == [
        None,
        "benchmark text: 4 matching word runs of 4 > 3",
    ]


def test_short_items_match_as_a_whole(tmp_path: Path) -> None:
    short = " ".join(WORDS[:9])
    filter_ = prepared(tmp_path, [write(tmp_path, short, "yes", " ".join(WORDS[20:27]))])
    found = reasons(filter_, f"so {short} it is", " ".join(WORDS[:8]), "yes", " ".join(WORDS[20:27]))
    assert found == ["benchmark text: 1 matching word runs of 1 > 0", None, None, None]


def test_every_kind_of_file(tmp_path: Path) -> None:
    texts = [" ".join(f"{kind}{i}" for i in range(14)) for kind in "abcdefg"]
    record = {"id": 3, "question": "short", "choices": [{"text": texts[0]}, None, 2.5]}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n\n" + json.dumps("x") + "\n")
    with gzip.open(tmp_path / "b.JSONL.gz", "wt") as file:
        file.write(json.dumps([texts[1]]))
    (tmp_path / "c.json").write_text("\ufeff" + json.dumps({"data": [{"context": texts[2]}]}), encoding="utf-8")
    with gzip.open(tmp_path / "d.json.gz", "wt") as file:
        file.write(json.dumps({"x": {"y": texts[3]}}))
    (tmp_path / "e.csv").write_text(f'name,text\n1,"{texts[4]}\nNA"\n')
    (tmp_path / "f.txt").write_text(texts[5])
    pq.write_table(pa.table({"n": [1], "rows": [[{"text": texts[6]}]]}), tmp_path / "g.parquet")
    files = sorted(path for path in tmp_path.iterdir())
    filter_ = prepared(tmp_path, files)
    assert [reason is not None for reason in reasons(filter_, *texts, "x " * 20)] == [True] * 7 + [False]


def test_equals_a_set_of_tuples(tmp_path: Path) -> None:
    draw = random.Random(0)
    vocabulary = ["a", "b", "c"]
    benchmarks = [" ".join(draw.choices(vocabulary, k=draw.randint(0, 12))) for _ in range(30)]
    documents = [" ".join(draw.choices(vocabulary, k=draw.randint(0, 40))) for _ in range(300)]
    filter_ = prepared(tmp_path, [write(tmp_path, *benchmarks)], n=6, min_words=4, max_matches=1)

    def runs(words: list[str], n: int) -> list[tuple[str, ...]]:
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    known = {run for text in benchmarks for run in runs(text.split(), 6)}
    known |= {tuple(text.split()) for text in benchmarks if 4 <= len(text.split()) < 6}
    for text, reason in zip(documents, reasons(filter_, *documents), strict=True):
        count = sum(run in known for n in (4, 5, 6) for run in runs(text.split(), n))
        total = max(len(text.split()) - 5, 1)
        assert reason == (f"benchmark text: {count} matching word runs of {total} > 1" if count > 1 else None)


def test_resume_uses_what_is_there(tmp_path: Path) -> None:
    path = write(tmp_path, " ".join(WORDS))
    prepared(tmp_path, [path])
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "own").iterdir()}
    assert reasons(prepared(tmp_path, [path]), " ".join(WORDS[:13])) != [None]
    assert before == {file.name: file.stat().st_mtime_ns for file in (tmp_path / "own").iterdir()}
    write(tmp_path, "other")
    with pytest.raises(ConfigError, match=r"filter\.decontaminate\.files: they have changed since this run began"):
        prepared(tmp_path, [path])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text"', "a.jsonl, line 2: no JSON: "),
        ("a.json", b"[" * 100_000, "a.json: no JSON: "),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz: cannot be read: "),
        ("a.parquet", b"no parquet", "a.parquet: no Parquet: "),
        ("a.csv", b"", "a.csv: no CSV: "),
        ("a.txt", b"\xff\xfe\xff", "a.txt: cannot be read: "),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        prepared(tmp_path, [tmp_path / name])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_parameters(tmp_path: Path) -> None:
    def refused(message: str, **parameters: object) -> None:
        with pytest.raises(ConfigError) as error:
            Decontaminate(**{"files": ["a.txt"], **parameters})
        assert message in str(error.value)

    refused("filter.decontaminate.files: at least one file of a benchmark is required", files=[])
    refused("filter.decontaminate.files[1]: b.pdf: expected a name that ends in .txt, .jsonl", files=["a.txt", "b.pdf"])
    refused("filter.decontaminate.n: expected at least 1, got 0", n=0)
    refused("filter.decontaminate.min_words: expected 1 to n=13, got 14", min_words=14)
    refused("filter.decontaminate.max_matches: expected at least 0, got -1", max_matches=-1)
    with pytest.raises(ConfigError, match=r"filter\.decontaminate\.files\[0\]: .*nowhere\.txt: no such file"):
        prepared(tmp_path, [tmp_path / "nowhere.txt"])
    with pytest.raises(ConfigError, match="no text in them has min_words=8 words"):
        prepared(tmp_path, [write(tmp_path, "yes", "no")])
