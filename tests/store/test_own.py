"""Models of one's own in a database: written twice, in any order, side by side, and by processes that are killed."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError, StoreError
from njsl.store import own, save
from njsl.store.load import load
from njsl.store.own import OwnModel
from njsl.store.schema import SHARES, keys, tables
from njsl.store.store import AnalysisStore

DAY = datetime.date(2024, 2, 29)
DOMAINS = {"code": "code", "docs": "reference", "prose": "web"}
KINDS = ("x.duckdb", "x")


def model(name: str = "a", **changed: Any) -> OwnModel:
    """A model of 6,000 tokens."""
    facts: dict[str, Any] = {
        "id": f"local/{name}",
        "family": f"local/family_{name[0]}",
        "sha256": f"{ord(name[0]):064x}",
        "architecture": {"num_layers": len(name), "total_params": 1000},
        "stage": {"name": "pretraining", "learning_rate": 0.01},
        "tokens": {"code": 1000, "docs": 2000, "prose": 3000},
        "domains": DOMAINS,
        "metadata": {"seed": 0, "corpora": {"code": {"epochs": 0.1 + 0.2}}},
        "source": f"run of {name}",
        "day": DAY,
    }
    return OwnModel(**(facts | changed))


def contents(path: Path, ordered: bool = True) -> dict[str, list[dict[str, Any]]]:
    """All rows; sorted by their keys unless their order counts."""
    connection, _ = load(path)
    with connection:
        found = {}
        for table in tables():
            answer = connection.execute(
                f"SELECT * FROM {table} ORDER BY {'rowid' if ordered else ', '.join(keys(table))}"
            )
            names = [column[0] for column in answer.description]
            found[table] = [dict(zip(names, values, strict=True)) for values in answer.fetchall()]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_made_and_read_again(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "deep" / kind
    assert own.write(target, model().records()) > 0
    assert target.is_file() == kind.endswith(".duckdb")
    with AnalysisStore.from_existing(target) as store:
        (row,) = store.table("dataset_info").to_dict("records")
    shares = [row[f"pretraining_summary_percentage_{name}"] for name in SHARES]
    assert shares == pytest.approx([50, 100 / 6, 0, 100 / 3, 0]) and not row["shares_partial"]
    assert row["pretraining_summary_total_tokens_billions"] == pytest.approx(6e-6)
    assert sorted(path.name for path in target.parent.iterdir()) == [kind]  # nothing is left beside


def test_shares_are_exact_and_zero_is_said(tmp_path: Path) -> None:
    own.write(tmp_path / "x", model(tokens={"code": 1000, "docs": 0, "prose": 2000}).records())
    shares = {row["dataset"]: row["share_pct"] for row in contents(tmp_path / "x")["stage_datasets"]}
    assert shares == {"code": 100 / 3, "docs": 0.0, "prose": 200 / 3}


def test_a_corpus_of_no_domain_leaves_the_shares_partial(tmp_path: Path) -> None:
    own.write(tmp_path / "x", model(domains={"code": "code", "docs": None, "prose": "web"}).records())
    (info,) = contents(tmp_path / "x")["dataset_info"]
    shares = [info[f"pretraining_summary_percentage_{name}"] for name in SHARES]
    assert shares == [pytest.approx(50), pytest.approx(100 / 6), None, None, None] and info["shares_partial"]


def test_a_corpus_of_no_domain_that_was_not_read_does_not(tmp_path: Path) -> None:
    tokens = {"code": 1000, "docs": 0, "prose": 3000}
    own.write(tmp_path / "x", model(tokens=tokens, domains={"code": "code", "prose": "web"}).records())
    (info,) = contents(tmp_path / "x")["dataset_info"]
    assert [info[f"pretraining_summary_percentage_{name}"] for name in SHARES] == [75.0, 25.0, 0.0, 0.0, 0.0]
    assert not info["shares_partial"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None)
@given(names=st.lists(st.sampled_from(["a", "a2", "b", "c"]), min_size=1, max_size=4))
def test_twice_is_once_and_any_order_gives_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, kind: str, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("own")
    for number, name in enumerate(names):
        new = own.write(folder / f"1{kind}", model(name).records())
        assert (new == 0) == (name in names[:number])
    for name in sorted(set(names), reverse=True):
        own.write(folder / f"2{kind}", model(name).records())
    first = contents(folder / f"1{kind}", ordered=False)
    assert first == contents(folder / f"2{kind}", ordered=False)
    assert [row["id"] for row in first["models"]] == sorted(f"local/{name}" for name in set(names))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_there_already_leaves_every_byte(tmp_path: Path, kind: str) -> None:
    target = tmp_path / kind
    own.write(target, model().records())
    before = target.stat()
    assert own.write(target, model().records()) == 0
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_another_run_of_the_same_id_is_refused_in_one_line(tmp_path: Path) -> None:
    own.write(tmp_path / "x", model().records())
    before = contents(tmp_path / "x")
    other = model(metadata={"seed": 0, "corpora": {"code": {"epochs": 0.5}}})
    with pytest.raises(StoreError) as caught:
        own.write(tmp_path / "x", [*model("b").records(), *other.records()])
    assert str(caught.value) == (
        f"{tmp_path / 'x'}: another run has written this: dataset_info local/a metadata.corpora.code.epochs: "
        "0.30000000000000004 there, 0.5 here; another store.id, or another store.write, is accepted"
    )
    assert contents(tmp_path / "x") == before  # of b nothing either
    own.check(tmp_path / "x", "local/a", model().sha256)
    own.check(tmp_path / "x", "local/new", "0" * 64)
    with pytest.raises(
        StoreError, match=r"holds another model as local/a \(model_sha256 0{12} there, f{12} here\); another"
    ):
        own.check(tmp_path / "x", "local/a", "f" * 20)
    with pytest.raises(DataError, match=r"two words.*is accepted$"):
        own.check(tmp_path / "nowhere", "two words", "0" * 64)


@pytest.mark.parametrize("stranger", ["notes.txt", ".hidden"])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, stranger: str) -> None:
    own.write(tmp_path / "x", model().records())
    (tmp_path / "x" / stranger).write_text("mine")
    with pytest.raises(
        StoreError, match=rf"'{stranger}' is no part of an export folder; a folder of its own is accepted$"
    ):
        own.write(tmp_path / "x", model("b").records())
    assert (tmp_path / "x" / stranger).read_text() == "mine"


def test_the_published_layout_stays_as_it_is(tmp_path: Path, export: Path) -> None:
    with pytest.raises(StoreError, match=r"layout version 1 stays as it is; python -m njsl.store create FILE --from"):
        own.write(export, model().records())


@pytest.mark.parametrize("kind", KINDS)
def test_another_writer_is_waited_for_and_not_for_ever(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / kind
    own.write(target, model().records())
    monkeypatch.setattr(own, "PATIENCE_SEC", 0.3)
    with save.editing(target), pytest.raises(StoreError, match="another process is changing it"):
        own.write(target, model("b").records())
    assert own.write(target, model("b").records()) > 0


# ---- processes

WRITER = """
import sys
from pathlib import Path
from store.test_own import model, own
print("ready", flush=True)
sys.stdin.readline()
for name in sys.argv[2:]:
    own.write(Path(sys.argv[1]), model(name).records())
    print(name, flush=True)
"""


def writer(target: Path, *names: str) -> subprocess.Popen[str]:
    """A process that writes models one by one, once it is told to; it says each when it is written."""
    folder = str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target), *names],
        env=os.environ | {"PYTHONPATH": folder},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("kind", KINDS)
def test_processes_side_by_side_lose_nothing(tmp_path: Path, kind: str) -> None:
    names = [[f"{letter}{'x' * number}" for number in range(2)] for letter in "ab"]
    processes = [writer(tmp_path / kind, *some) for some in names]
    for process in processes:
        go(process)
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    for name in itertools.chain(*names):
        own.write(tmp_path / f"alone {kind}", model(name).records())
    assert contents(tmp_path / kind, ordered=False) == contents(tmp_path / f"alone {kind}", ordered=False)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment_it_holds_whole_models(tmp_path: Path, kind: str) -> None:
    """Killed after more and more milliseconds; each time what is there are the models that were said, or one more."""
    target, names = tmp_path / kind, [f"m{'x' * number}" for number in range(20)]
    own.write(target, model(names[0]).records())
    done = 1
    for delay_sec in (0.01, 0.06, 0.17, 0.35):
        process = writer(target, *names[done:])
        go(process)
        time.sleep(delay_sec)
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[0].split()
        found = contents(target)
        there = [row["id"].removeprefix("local/") for row in found["models"]]
        assert there[: done + len(said)] == names[: done + len(said)] and len(there) <= done + len(said) + 1
        for table in ("model_annotations", "dataset_info", "training_stages"):
            assert [row["id"] for row in found[table]] == [row["id"] for row in found["models"]]
        done = len(there)
    own.write(target, model("last").records())  # and the next writer clears up
    assert sorted(path.name for path in tmp_path.iterdir()) == [kind]
    for name in [*names[:done], "last"]:
        own.write(tmp_path / f"alone {kind}", model(name).records())
    assert contents(target) == contents(tmp_path / f"alone {kind}")


def test_scores_come_through_the_importer_under_a_name_that_no_folder_changes(tmp_path: Path) -> None:
    from store.inputs import results

    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        own.write(tmp_path / f"{folder}.duckdb", model(results=results(tmp_path / folder / "results.json")).records())
    found = contents(tmp_path / "one.duckdb")
    assert found["evaluation_results"] == contents(tmp_path / "two.duckdb")["evaluation_results"]
    scores = {row["benchmark"]: (row["id"], row["metric_value"], row["source"]) for row in found["evaluation_results"]}
    assert scores["hellaswag"] == ("local/a", 0.5, "run of a/results.json")
    assert json.loads(found["dataset_info"][0]["metadata"])["model_sha256"] == model().sha256
