"""``tag.py`` from the command line to the files: workers, kill and resume, samples, broken records, bad input."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from njsl.core.types import ConfigError, DataError
from njsl.tag import aggregate
from tag.conftest import Tag, command, environment, start

CHEAP = "tagger=[lengths,keywords,keywords_paper,language,ngram_entropy]"


def many_files(text: Path, folder: Path, copies: int = 4) -> Path:
    """The two corpora in many files, each of which is a shard: jsonl, gzipped, zstd and Parquet."""
    for corpus in ("code", "nl"):
        (folder / corpus).mkdir(parents=True)
        records = [json.loads(line) for line in (text / corpus / "0.jsonl").read_text().splitlines()]
        for copy in range(copies):
            part = [record | {"id": f"{copy}/{record['id']}"} for record in records[copy::copies]]
            lines = "".join(json.dumps(record) + "\n" for record in part)
            (folder / corpus / f"{copy}.jsonl").write_text(lines)
            (folder / corpus / f"{copy}-packed.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
            pd.DataFrame(part).to_parquet(folder / corpus / f"{copy}-rows.parquet")
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """Every file of a run but what tells of the run itself."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    apart = ("run.json", "config.yaml")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name not in apart}


@pytest.fixture(scope="module")
def shards(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_files(text, tmp_path_factory.mktemp("shards") / "text")


@pytest.fixture(scope="module")
def uninterrupted(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes of them."""
    folder = tmp_path_factory.mktemp("one")
    done = start(*words(shards, folder), "workers=1", cwd=folder)
    assert done.returncode == 0, done.stderr
    return results(folder / "run")


def words(shards: Path, folder: Path) -> list[str]:
    given = ["corpora=jsonl", f"corpora.path={shards}", CHEAP, "filter=[repetition]", "filter.repetition.min_chars=20"]
    return [*given, f"hydra.run.dir={folder / 'run'}", f"paths.cache={folder / 'cache'}"]


def test_two_workers_write_the_bytes_of_one(shards: Path, uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    assert any(name.startswith("documents/nl/") for name in uninterrupted)
    assert any(name.startswith("removed/nl/") for name in uninterrupted)
    assert not any(name.startswith("work/") for name in uninterrupted)
    done = start(*words(shards, tmp_path), "workers=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "run") == uninterrupted


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on(workers: int, shards: Path, uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    given = [*words(shards, tmp_path), f"workers={workers}"]
    enough = random.Random(workers).randrange(3, 12)
    process = subprocess.Popen(
        command(*given), cwd=tmp_path, env=environment() | {"PYTHONHASHSEED": "1"}, stdout=subprocess.DEVNULL
    )
    markers = tmp_path / "run" / "work" / "done"
    while process.poll() is None and len(list(markers.rglob("*.json"))) < enough:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / aggregate.CORPORA).exists(), "it was over before it was killed"
    time.sleep(0.3)  # its processes end with it
    before = {path: path.stat().st_mtime_ns for path in markers.rglob("*.json")}
    assert before
    done = start(*given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "run") == uninterrupted
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["state"] == "finished" and len(record["resumed_at"]) == 1


def test_a_finished_run_is_shown_again_and_not_touched(text: Path, tag: Tag, tmp_path: Path) -> None:
    given = ["corpora=jsonl", f"corpora.path={text}", "tagger=[lengths]"]
    tag(tmp_path / "run", *given)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    tag(tmp_path / "run", *given)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    with pytest.raises(ConfigError, match="holds another run"):
        tag(tmp_path / "run", *given, "repair=true")


def test_what_stands_in_the_files(text: Path, tag: Tag, tmp_path: Path) -> None:
    tag(tmp_path / "run", "corpora=jsonl", f"corpora.path={text}", "tagger=[lengths,language]")
    texts = [json.loads(line) for line in (text / "nl" / "0.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "run" / "documents" / "nl" / "00000.parquet")
    assert table["id"].to_pylist() == [record["id"] for record in texts]
    assert table["characters"].to_pylist() == [len(record["text"]) for record in texts]
    about = {key.decode(): json.loads(value) for key, value in table.schema.field("tokens").metadata.items()}
    assert about["unit"] == "tokens" and about["tagger"] == "lengths"
    assert table.schema.metadata[b"tokenizer"] == b"cl100k_base"
    assert len(table.schema.metadata[b"tokenizer_sha256"]) == 64
    record = json.loads((tmp_path / "run" / aggregate.CORPORA).read_text())
    assert record["tokenizer"]["name"] == "cl100k_base"
    assert record["corpora"]["nl"]["documents"] == len(texts)
    logged = pd.read_csv(tmp_path / "run" / "log.csv").set_index("name")["value"]
    wide = pd.read_csv(tmp_path / "run" / aggregate.FEATURES).set_index("id")
    assert float(logged["nl/char_len_mean"]) == pytest.approx(wide.loc["nl", "char_len_mean"])
    assert wide.loc["nl", "char_len_mean"] == pytest.approx(sum(len(r["text"]) for r in texts) / len(texts))


def test_records_of_every_kind(tag: Tag, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One corpus per layout; what is broken is counted, and named."""
    texts = ["one text", "", "another text"]

    def lines(*records: Any) -> bytes:
        return b"".join(json.dumps(record).encode() + b"\n" for record in records)

    layouts: dict[str, tuple[str, bytes, int, int]] = {
        "content": ("a.jsonl", lines(*({"content": text} for text in texts)), 3, 0),
        "samples": ("a.jsonl", lines(*({"doc_id": i, "resps": [[text]]} for i, text in enumerate(texts))), 3, 0),
        "array": (
            "a.json",
            json.dumps([{"id": i, "text": text} for i, text in enumerate(texts)], indent=2).encode(),
            3,
            0,
        ),
        "broken": (
            "a.jsonl",
            lines({"text": "fine"}, {"text": 3}, {"text": None}, ["list"], {"words": "x"})
            + b'{"text": "\xff\xfe"}\n{"text": "cut\n{"text": "\\ud83d"}\n\n',
            1,
            7,
        ),
    }
    for name, (file, content, _, _) in layouts.items():
        (tmp_path / "text" / name).mkdir(parents=True)
        (tmp_path / "text" / name / file).write_bytes(content)
    tag(tmp_path / "run", "corpora=jsonl", f"corpora.path={tmp_path / 'text'}", "tagger=[lengths]")
    record = json.loads((tmp_path / "run" / aggregate.CORPORA).read_text())["corpora"]
    for name, (_, _, documents, broken) in layouts.items():
        assert (record[name]["documents"], record[name]["broken"]) == (documents, broken), name
    assert record["content"]["empty"] == 1
    ids = pq.read_table(tmp_path / "run" / "documents" / "samples" / "00000.parquet")["id"].to_pylist()
    assert ids == ["0", "1", "2"]
    said = capsys.readouterr().out
    assert "broken: 1 documents, 4 characters; 7 broken records left out in 1 files" in said
    assert "line 2: no string in 'text'" in said


def test_repair(tag: Tag, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    # UTF-8 read as Latin-1; a ligature; a NUL; half of a surrogate pair.
    path.write_text('{"text": "cafÃ© ﬁn\\u0000"}\n{"text": "\\ud83d!"}\n')
    given = ["corpora=jsonl", f"corpora.path={path}", "tagger=[lengths]"]
    tag(tmp_path / "raw", *given)
    tag(tmp_path / "mended", *given, "repair=true")
    sizes = [
        pq.read_table(tmp_path / run / "documents" / "text" / "00000.parquet")["characters"].to_pylist()
        for run in ("raw", "mended")
    ]
    assert sizes == [[9], [len("café fin"), len("\ufffd!")]]


def test_a_sample_is_seeded_and_simple(text: Path, tag: Tag, tmp_path: Path) -> None:
    given = ["corpora=jsonl", f"corpora.path={text}", "tagger=[lengths]", "sample=20"]
    ids = {}
    for run, *more in (("a",), ("b",), ("c", "seed=1")):
        tag(tmp_path / run, *given, *more)
        ids[run] = pq.read_table(tmp_path / run / "documents" / "nl" / "00000.parquet")["id"].to_pylist()
    assert ids["a"] == ids["b"] != ids["c"]
    everything = [json.loads(line)["id"] for line in (text / "nl" / "0.jsonl").read_text().splitlines()]
    assert len(set(ids["a"])) == 20 and [name for name in everything if name in set(ids["a"])] == ids["a"]
    record = json.loads((tmp_path / "a" / aggregate.CORPORA).read_text())["corpora"]
    assert record["nl"]["documents_in_corpus"] == len(everything)
    # Fewer than asked for are all of them.
    assert record["code"]["documents"] == record["code"]["documents_in_corpus"] == 11


def test_every_document_has_the_same_chance() -> None:
    """Of 20 documents 5 are drawn 800 times: each 200 times, give or take 5 standard errors."""
    import tempfile

    from njsl.corpora.readers import Fields, read
    from njsl.tag.sample import reservoir

    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "all.jsonl", Path(name) / "some.jsonl.gz"
        source.write_text("".join(json.dumps({"id": i, "text": f"text {i}"}) + "\n" for i in range(20)))
        drawn = [0] * 20
        from njsl.corpora.readers import Broken

        for seed in range(800):
            reservoir([source], Fields(None), target, size=5, seed=str(seed), repaired=False)
            for document in read(target, text_field="text", broken=Broken()):
                drawn[int(document.id)] += 1
    assert sum(drawn) == 4000
    assert all(abs(count - 200) < 5 * (800 * 0.25 * 0.75) ** 0.5 for count in drawn)


def test_aggregate_of_finished_runs(text: Path, tag: Tag, tmp_path: Path) -> None:
    for corpus in ("code", "nl"):
        tag(tmp_path / corpus, "corpora=jsonl", f"corpora.path={text / corpus}", "tagger=[lengths]")
    runs = f"aggregate.runs=[{tmp_path / 'code'},{tmp_path / 'nl'}]"
    tag(tmp_path / "all", "mode=aggregate", runs, "+aggregate.ids={nl: prose}")
    wide = pd.read_csv(tmp_path / "all" / aggregate.FEATURES)
    assert wide["id"].tolist() == ["code", "prose"]
    alone = pd.read_csv(tmp_path / "nl" / aggregate.FEATURES)
    assert wide.loc[1, "num_tokens_mean"] == alone.loc[0, "num_tokens_mean"]


def test_the_store_reads_the_features(text: Path, tag: Tag, tmp_path: Path, export: Path) -> None:
    from njsl.store import AnalysisStore

    tag(tmp_path / "run", "corpora=jsonl", f"corpora.path={text}", "tagger=[lengths,keywords_paper]")
    with AnalysisStore.from_existing(export, tmp_path / "run" / aggregate.FEATURES) as store:
        features = store.freegen_features()
    assert set(features.index) == {"code", "nl"} and "question_words_ratio" in features


Prepare = Callable[[Path], None]


def truncated(folder: Path) -> None:
    (folder / "t.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 9999)[:-20])


def locked(folder: Path) -> None:
    (folder / "t.parquet").write_bytes(b"PAR1 no parquet")


def no_text(folder: Path) -> None:
    pd.DataFrame({"words": ["x"]}).to_parquet(folder / "t.parquet")


def nothing(folder: Path) -> None:
    (folder / "readme.md").write_text("no text here")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (truncated, r"t\.jsonl\.gz: cannot be read, truncated or damaged\?"),
        (locked, r"t\.parquet: cannot be read, truncated or damaged\?"),
        (no_text, r"t\.parquet: no column 'text' or 'content' or 'resps'; it has: words\."),
        (nothing, r"finds no file that ends in \.jsonl"),
    ],
)
def test_bad_files(prepare: Prepare, message: str, tag: Tag, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    prepare(tmp_path / "text")
    with pytest.raises(DataError, match=message):
        tag(tmp_path / "run", "corpora=jsonl", f"corpora.path={tmp_path / 'text'}", "tagger=[lengths]")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["tagger=[lenghts]"], "lengths"),
        (["tagger=[]"], "tagger: at least one is required"),
        (["mode=tagg"], "mode: 'tagg' is not known (did you mean 'tag'?); accepted: tag, generate"),
        (["corpora=jsonl"], "corpora.path: "),
        (["corpora=jsonl", "corpora.path=nowhere"], "corpora.path: nowhere is neither folder nor file"),
        (["corpora=megatron", "corpora.path=nowhere"], "megatron holds tokens and no text"),
        (["workers=0"], "workers: expected at least 1, or null"),
        (["sample=0"], "sample: expected at least 1 document, or null"),
        (
            ["tagger=[domain_llm,domain]", "tagger.domain_llm.model=m"],
            "domain_llm gives feature domain_academic_pct_mean too",
        ),
        (["tokenizer=bpe"], "tokenizer: tag.py counts with a tokenizer that is there"),
        (["tokenizer.name=p50k_base"], "tokenizer.name: 'p50k_base' is not known; accepted: cl100k_base"),
        (["tokenizer=hf", "tokenizer.path=nowhere"], "tokenizer.path: no tokenizer.json at nowhere"),
        (["mode=aggregate"], "aggregate.runs: expected at least one folder"),
        (["mode=aggregate", "aggregate.runs=[nowhere]"], "aggregate.runs: nowhere is no folder"),
        (["tagger=[domain]"], "tagger.domain.classifier: "),
        (["tagger=[perplexity]"], "tagger.perplexity.model: "),
        (["mode=generate"], "generator.checkpoint: "),
        (["mode=agree"], "agree.labels: "),
        (["mode=distil"], "distil.labelled: "),
        (["+smaple=3"], "smaple: unknown key (did you mean 'sample'?)"),
    ],
)
def test_bad_overrides(overrides: list[str], said: str, tmp_path: Path) -> None:
    done = start(*overrides, f"hydra.run.dir={tmp_path / 'run'}", f"paths.cache={tmp_path / 'cache'}", cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "run").exists()


def test_a_filter_that_leaves_nothing(text: Path, tag: Tag, tmp_path: Path) -> None:
    given = [
        "corpora=jsonl",
        f"corpora.path={text}",
        CHEAP,
        "filter=[repetition]",
        "filter.repetition.min_chars=9999999",
    ]
    tag(tmp_path / "run", *given)
    record = json.loads((tmp_path / "run" / aggregate.CORPORA).read_text())["corpora"]["nl"]
    assert record["documents"] == 0 and record["removed"]["repetition"] > 0
    wide = pd.read_csv(tmp_path / "run" / aggregate.FEATURES)
    assert wide["id"].tolist() == ["code", "nl"] and wide["char_len_mean"].isna().all()


def test_ctrl_c(shards: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(*words(shards, tmp_path), "workers=2"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # The folder is claimed, its processes are about to start: all that is left of the run takes seconds.
    while process.poll() is None and not (tmp_path / "run" / "config.yaml").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.strip() == "tag.py: interrupted"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "interrupted"


@pytest.mark.slow
def test_documents_of_50_mb(tag: Tag, tmp_path: Path) -> None:
    size = 50_000_000
    with open(tmp_path / "big.jsonl", "w") as file:
        for piece in ("The committee will meet again. ", "a", "([", "\\u05d0 "):
            shown = len(json.loads(f'"{piece}"'))
            file.write('{"text": "' + piece * (size // shown) + '"}\n')
    given = ["corpora=jsonl", f"corpora.path={tmp_path / 'big.jsonl'}"]
    tag(tmp_path / "tagged", *given, CHEAP)
    tag(tmp_path / "filtered", *given, CHEAP, "filter=[repetition]")
    tagged, filtered = (
        json.loads((tmp_path / run / aggregate.CORPORA).read_text())["corpora"]["big"] for run in ("tagged", "filtered")
    )
    assert tagged["documents"] == 4 and tagged["characters"] > 3.99 * size
    assert filtered["removed"] == {"repetition": 4}
