"""store.write: what was measured of a model's writing becomes that model's features, once, under its own name."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from njsl.core.types import ConfigError, NjslError
from njsl.store.store import AnalysisStore
from tag.conftest import Tag
from tag.hf_folders import language_model

ID = "local/0123456789ab"
GENERATE = ["mode=generate", "generator.count=20", "generator.max_new_tokens=12", "generator.device=cpu"]
GENERATE += ["tokenizer=hf", "tagger=[lengths]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of train.py leaves: an export, and a record that says its model's id."""
    folder = tmp_path_factory.mktemp("train") / "run"
    language_model(folder / "hf", positions=48)
    (folder / "run.json").write_text(json.dumps({"facts": {"model_id": ID}}))
    return folder


def generate(trained: Path) -> list[str]:
    return [*GENERATE, f"generator.checkpoint={trained / 'hf'}", f"tokenizer.path={trained / 'hf'}"]


def features(database: Path) -> dict[tuple[str, str], float]:
    with AnalysisStore.from_existing(database) as store:
        rows = store.table("model_features")
    return {(row.id, row.feature): row.value for row in rows.itertuples()}


def written(folder: Path, name: str) -> dict[tuple[str, str], float]:
    """The one row of features.csv."""
    with (folder / "features.csv").open() as file:
        (row,) = csv.DictReader(file)
    return {(name, feature): float(value) for feature, value in row.items() if feature != "id"}


def test_generations_become_features_of_the_run_that_made_the_model(
    tag: Tag, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "x.duckdb"
    tag(tmp_path / "tag", *generate(trained), f"store.write={database}")
    found = features(database)
    assert found == written(tmp_path / "tag", ID) and (ID, "char_len_mean") in found
    assert f"stored: features of {ID}" in capsys.readouterr().out
    before = database.read_bytes()
    tag(tmp_path / "tag", *generate(trained), f"store.write={database}")
    assert database.read_bytes() == before
    # A finished run is not made again to be written elsewhere, under another name.
    texts = {path: path.stat().st_mtime_ns for path in (tmp_path / "tag" / "generations").rglob("*.jsonl")}
    tag(tmp_path / "tag", *generate(trained), f"store.write={tmp_path / 'folder'}", "store.id=me/mine")
    assert features(tmp_path / "folder") == written(tmp_path / "tag", "me/mine")
    assert texts == {path: path.stat().st_mtime_ns for path in texts}
    with pytest.raises(
        NjslError, match=rf"another run has written this: model_features {ID} .* value: .* is accepted$"
    ):
        tag(tmp_path / "other", *generate(trained), f"store.write={database}", "seed=1")


def test_text_of_a_model_by_its_name(tag: Tag, text: Path, tmp_path: Path) -> None:
    words = ["corpora=jsonl", f"corpora.path={text / 'nl'}", "tagger=[lengths]", "tokenizer=tiktoken"]
    tag(tmp_path / "tag", *words, f"store.write={tmp_path / 'x.duckdb'}", "store.id=me/mine")
    assert features(tmp_path / "x.duckdb") == written(tmp_path / "tag", "me/mine")
    database = f"store.write={tmp_path / 'y'}"
    run = f"aggregate.runs=[{tmp_path / 'tag'}]"
    tag(tmp_path / "named", "mode=aggregate", run, "+aggregate.ids={nl: me/named}", database)
    assert features(tmp_path / "y") == written(tmp_path / "tag", "me/named")
    with pytest.raises(NjslError, match="no features of models; its 1 names are corpora"):
        tag(tmp_path / "unnamed", "mode=aggregate", run, database)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["corpora=jsonl", "corpora.path=TEXT"], r"^store.write: 2 corpora, code, nl; one, .* is accepted$"),
        (["corpora=jsonl", "corpora.path=TEXT/nl"], r"^store.id: .* is required with store.write and mode=tag$"),
        (["corpora=jsonl", "corpora.path=TEXT/nl", "store.id=two words"], r"^store.id: .*two words"),
        (
            [*GENERATE, "generator.checkpoint=TEXT", "tokenizer.path=TEXT"],
            r"^store.id: .* since generator.checkpoint is no export of train.py$",
        ),
        (["mode=aggregate", "store.id=a/b"], r"^store.id: a/b; with mode=aggregate models are named by aggregate.ids$"),
        (["mode=agree"], r"^store.write: mode=agree measures no model; accepted with: generate, tag, aggregate$"),
    ],
)
def test_without_a_model_it_is_refused_at_once(
    tag: Tag, text: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    given = [word.replace("TEXT", str(text)) for word in overrides]
    with pytest.raises(ConfigError, match=message):
        tag(tmp_path / "tag", f"store.write={tmp_path / 'x.duckdb'}", *given)
    assert not (tmp_path / "tag").exists() and not (tmp_path / "x.duckdb").exists()
