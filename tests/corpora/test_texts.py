"""From a config to files of text: every kind, and every way to ask for what is not there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import joblib
import pytest
from omegaconf import OmegaConf

from njsl.core.config import CorporaConfig, SourceConfig
from njsl.core.types import ConfigError, DataError, Document
from njsl.corpora import hub, python_env, readers
from njsl.corpora.readers import Broken, read, write
from njsl.corpora.texts import corpus_names, file_sha256, text_files


def folder(path: Path, *names: str) -> CorporaConfig:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        write(path / name, [Document(f"text of {name}", name, name)])
    return CorporaConfig(kind="files", path=str(path))


def test_each_subfolder_is_a_corpus(tmp_path: Path) -> None:
    cfg = folder(tmp_path, "nl/a.jsonl.gz", "nl/deep/b.jsonl.gz", "code/c.jsonl.gz", ".cache/d.jsonl.gz")
    assert corpus_names(cfg) == ["code", "nl"]
    files = text_files(cfg, ["nl"], tmp_path / "cache")
    assert files == {"nl": [tmp_path / "nl/a.jsonl.gz", tmp_path / "nl/deep/b.jsonl.gz"]}


def test_sources_name_files(tmp_path: Path) -> None:
    cfg = folder(tmp_path, "x/a.jsonl.gz", "y/b.jsonl.gz")
    cfg.sources = {"x": SourceConfig(files=["x/**"]), "all": SourceConfig(files=["x/**", "y/*.gz"])}
    for config in (cfg, OmegaConf.structured(cfg)):  # as in tests, and as Hydra gives it
        files = text_files(config, ["all", "x"], tmp_path / "cache")
        assert files == {
            "all": [tmp_path / "x/a.jsonl.gz", tmp_path / "y/b.jsonl.gz"],
            "x": [tmp_path / "x/a.jsonl.gz"],
        }


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    cfg = folder(tmp_path, "nl/a.jsonl.gz")
    (tmp_path / "empty").mkdir()

    def ask(cfg: CorporaConfig, *names: str) -> None:
        text_files(cfg, names, tmp_path / "cache")

    with pytest.raises(ConfigError, match=r"data_mix\.weights\.cod: no such corpus; corpora has: empty, nl\."):
        ask(cfg, "nl", "cod")
    with pytest.raises(DataError, match="empty: '\\*\\*' finds no file"):
        ask(cfg, "empty")
    with pytest.raises(DataError, match=r"corpora\.path: .*gone is neither folder nor file"):
        ask(CorporaConfig(kind="files", path=str(tmp_path / "gone")), "nl")
    with pytest.raises(ConfigError, match=r"corpora\.path: missing"):
        ask(CorporaConfig(kind="files"), "nl")
    with pytest.raises(DataError, match=r"is a file; corpora\.sources look below a folder"):
        sources = {"nl": SourceConfig(files=["*"])}
        ask(CorporaConfig(kind="files", path=str(tmp_path / "nl/a.jsonl.gz"), sources=sources), "nl")
    (tmp_path / "notes.txt").write_text("no records")
    with pytest.raises(DataError, match=r"notes\.txt ends in none of \.jsonl"):
        ask(CorporaConfig(kind="files", path=str(tmp_path / "notes.txt")), "notes")
    with pytest.raises(ConfigError, match=r"corpora\.sources\.nl\.files: none"):
        ask(CorporaConfig(kind="files", path=str(tmp_path), sources={"nl": SourceConfig()}), "nl")
    with pytest.raises(ConfigError, match="megatron holds tokens and no text"):
        ask(CorporaConfig(kind="megatron", path=str(tmp_path), sources={"nl": SourceConfig(files=["nl"])}), "nl")
    with pytest.raises(ConfigError, match="kind=hf needs at least one"):
        ask(CorporaConfig(kind="hf"), "nl")
    with pytest.raises(ConfigError, match="needs dataset=NAME"):
        ask(CorporaConfig(kind="hf", sources={"nl": SourceConfig()}), "nl")
    with pytest.raises(ConfigError, match=r"corpora\.kind: tar; accepted: python_env"):
        ask(CorporaConfig(kind="tar", sources={"nl": SourceConfig()}), "nl")
    assert not (tmp_path / "cache" / "python_env").exists()


def test_one_folder_or_one_file_is_a_corpus_of_its_name(tmp_path: Path) -> None:
    folder(tmp_path, "nl/a.jsonl.gz", "nl/b.jsonl.gz")
    cfg = CorporaConfig(kind="files", path=str(tmp_path / "nl"))
    assert corpus_names(cfg) == ["nl"]
    assert text_files(cfg, ["nl"], tmp_path) == {"nl": [tmp_path / "nl/a.jsonl.gz", tmp_path / "nl/b.jsonl.gz"]}
    cfg = CorporaConfig(kind="files", path=str(tmp_path / "nl/b.jsonl.gz"))
    assert corpus_names(cfg) == ["b"]
    assert text_files(cfg, ["b"], tmp_path) == {"b": [tmp_path / "nl/b.jsonl.gz"]}


def test_a_python_environment_is_read_by_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site-packages"
    site.mkdir()
    (site / "one.py").write_text('def f():\n    """Doc."""\n    return 1\n')
    monkeypatch.setattr(python_env, "_roots", lambda: (site, [site]))
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    sources = {"code": SourceConfig(part="code"), "again": SourceConfig(part="code"), "nl": SourceConfig(part="nl")}
    cfg = CorporaConfig(kind="python_env", sources=sources, group_field="group")
    files = text_files(cfg, ["code", "again"], tmp_path / "cache")
    assert files["code"] == files["again"]
    broken = Broken()
    found = list(read(files["code"][0], text_field=cfg.text_field, group_field=cfg.group_field, broken=broken))
    assert Document("def f():\n    return 1\n", "site-packages/one.py", "one") in found
    sources["again"].max_mib = 1.0
    with pytest.raises(ConfigError, match=r"corpora\.sources\.again\.max_mib: 1\.0, but None elsewhere"):
        text_files(cfg, ["code", "again"], tmp_path / "cache")
    sources["nl"].part = "poems"
    with pytest.raises(ConfigError, match=r"corpora\.sources\.nl\.part: poems; accepted: nl, code, docs, prose"):
        text_files(cfg, ["nl"], tmp_path / "cache")
    with pytest.raises(ConfigError, match="split by package"):
        text_files(CorporaConfig(kind="python_env", sources=sources), ["code"], tmp_path / "cache")


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    for name in ("no", "."):
        with pytest.raises(DataError, match="no such file"):
            file_sha256(tmp_path / name)


# ---------------------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two local files of twenty records of 1000 bytes each, one of which has no text."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    rows = [{"content": f"{i:04d}" * 250, "repo": f"r{i % 3}", "id": f"n{i}"} for i in range(40)]
    rows[7]["content"] = None
    path = tmp_path / "data"
    path.mkdir()
    for name, part in (("a.jsonl", rows[:20]), ("b.jsonl", rows[20:])):
        (path / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    return path


def test_a_dataset_is_streamed_once(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {"code": SourceConfig(dataset=str(dataset), max_mib=30_500 / 2**20)}
    cfg = CorporaConfig(kind="hf", sources=sources, text_field="content", group_field="repo")
    [path] = text_files(cfg, ["code"], tmp_path / "cache")["code"]
    broken = Broken()
    found = list(read(path, text_field="content", group_field="repo", broken=broken))
    assert [d.id for d in found] == [f"n{i}" for i in range(31) if i != 7]
    assert found[8] == Document("0009" * 250, "n9", "r0")
    assert broken.total == 0
    state = json.loads((path.parent / "stream.json").read_text())
    assert (state["records"], state["left_out"], state["bytes"]) == (31, 1, 30_000)
    monkeypatch.setattr(hub, "_open", None)
    assert text_files(cfg, ["code"], tmp_path / "cache")["code"] == [path]


def test_a_dataset_with_another_name_for_its_text(dataset: Path, tmp_path: Path) -> None:
    named = SourceConfig(dataset=str(dataset), text_field="content")
    (plain,) = hub.stream(tmp_path / "plain", SourceConfig(dataset=str(dataset)), "content")
    (renamed,) = hub.stream(tmp_path / "renamed", named, "text")
    read = [
        list(readers.read(path, text_field=field, broken=readers.Broken()))
        for path, field in ((plain, "content"), (renamed, "text"))
    ]
    assert read[0] == read[1] and len(read[0]) > 1


def test_a_broken_stream_is_taken_up(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_FILE_BYTES", 6_000)
    source = SourceConfig(dataset=str(dataset))
    whole = hub.stream(tmp_path / "whole", source, "content")
    assert len(whole) == 7  # 39 texts, 6 to a file
    write_records = hub.write_records

    def third(path: Path, part: object) -> None:
        if path.name == "00002.jsonl.gz":
            path.with_name(".00002.jsonl.gz.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        write_records(path, part)

    monkeypatch.setattr(hub, "write_records", third)
    with pytest.raises(KeyboardInterrupt):
        hub.stream(tmp_path / "cut", source, "content")
    written: list[str] = []
    monkeypatch.setattr(hub, "write_records", lambda path, part: (written.append(path.name), write_records(path, part)))
    again = hub.stream(tmp_path / "cut", source, "content")
    assert written == [f"{i:05d}.jsonl.gz" for i in range(2, 7)]
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in whole]


def test_what_the_hub_has_not_is_one_line(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def ask(text_field: str = "content", **source: str) -> str:
        with pytest.raises(DataError) as error:
            hub.stream(tmp_path / "out", SourceConfig(**source), text_field)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "record 0 has no field 'text'; it has: content, repo, id" in ask("text", dataset=str(dataset))
    (dataset / "c.parquet").touch()
    assert "expected files of one kind" in ask(dataset=str(dataset))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    said = ask(dataset="njsl/nowhere", subset="some", split="train")
    assert said.startswith("corpora.sources: dataset njsl/nowhere, subset some, split train: cannot be streamed, ")
    assert "corpora=python_env and corpora=jsonl need neither" in said

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert "ConnectionError: Couldn't reach the hub; expected" in ask(dataset="njsl/nowhere")


def test_a_dataset_without_text_is_an_error(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of its 0 records has a text"):
        hub.stream(tmp_path / "out", SourceConfig(dataset=str(dataset), max_mib=1e-6), "content")
