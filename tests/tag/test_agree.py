"""Agreement of labels, against figures by hand and scikit-learn, and the mode as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf
from sklearn.metrics import cohen_kappa_score, f1_score

from njsl.core.config import LabelledConfig, TagConfig
from njsl.core.run import Run
from njsl.core.types import ConfigError, DataError
from njsl.tag.agree import agree, agree_mode, confusion

A = {1: "web", 2: "web", 3: "books", 4: "books", 5: "web"}
B = {1: "web", 2: "books", 3: "books", 4: "books", 6: "academic"}


def test_by_hand() -> None:
    row = agree({"a": A, "b": B}).iloc[0]
    # Common: 1 to 4. a: 2 web, 2 books; b: 1 web, 3 books; they agree on 3 of 4.
    # Chance: 2/4 * 1/4 + 2/4 * 3/4 = 1/2, so kappa = (3/4 - 1/2) / (1/2).
    # F1 of web: 2 * 1 / (2 + 1); of books: 2 * 2 / (2 + 3).
    assert (row["first"], row["second"], row.n) == ("a", "b", 4)
    assert (row.accuracy, row.kappa) == (0.75, 0.5)
    assert row.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    matrix = confusion({"a": A, "b": B})
    assert matrix.to_numpy().tolist() == [
        ["a", "b", "books", "books", 2],
        ["a", "b", "books", "web", 0],
        ["a", "b", "web", "books", 1],
        ["a", "b", "web", "web", 1],
    ]


def test_as_scikit_learn_has_it_and_intervals_as_a_bootstrap_of_documents_gives_them() -> None:
    rng = np.random.default_rng(0)
    first = rng.choice(["w", "b", "r", "x"], size=300, p=[0.6, 0.2, 0.15, 0.05])
    second = np.where(rng.random(300) < 0.7, first, rng.choice(["w", "b", "r"], size=300))
    row = agree({"a": dict(enumerate(first)), "b": dict(enumerate(second))}, seed=1).iloc[0]
    assert row.kappa == pytest.approx(cohen_kappa_score(first, second))
    assert row.macro_f1 == pytest.approx(f1_score(first, second, average="macro"))
    drawn = [rng.integers(0, 300, 300) for _ in range(400)]
    kappas = [cohen_kappa_score(first[some], second[some]) for some in drawn]
    f1s = [f1_score(first[some], second[some], average="macro") for some in drawn]
    accuracies = [(first[some] == second[some]).mean() for some in drawn]
    for name, values in (("kappa", kappas), ("macro_f1", f1s), ("accuracy", accuracies)):
        assert [row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)


def test_every_pair_and_what_is_not_defined() -> None:
    table = agree({"a": {1: "x", 2: "x"}, "b": {1: "x", 2: "x"}, "c": {9: "x"}})
    assert list(zip(table["first"], table["second"], table.n, strict=True)) == [
        ("a", "b", 2),
        ("a", "c", 0),
        ("b", "c", 0),
    ]
    assert table.loc[0, ["accuracy", "macro_f1"]].tolist() == [1.0, 1.0] and np.isnan(table.loc[0, "kappa"])
    assert table.loc[1:, "accuracy":].isna().all(axis=None)


def test_intervals_repeat_with_the_seed_and_do_not_depend_on_other_pairs() -> None:
    many = {number: "xyz"[number % 3] for number in range(50)}
    other = {number: "xyz"[number % 3 if number % 5 else 0] for number in range(50)}
    pair, three = agree({"a": many, "b": other}), agree({"c": other, "a": many, "b": other})
    pd.testing.assert_series_equal(pair.iloc[0], three.iloc[2], check_names=False)
    assert not pair.equals(agree({"a": many, "b": other}, seed=1))


def configured(folder: Path, labels: dict[str, LabelledConfig]) -> DictConfig:
    cfg = OmegaConf.structured(TagConfig(mode="agree"))
    cfg.agree.labels = labels
    cfg.paths.output = str(folder / "run")
    cfg.logger = {"_target_": "njsl.core.logger.NullLogger"}
    return cfg


def test_the_mode_compares_files_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("name,text,prediction\n" + "".join(f"d{k},t{k},{v}\n" for k, v in A.items()))
    folder = tmp_path / "tagged"
    (folder / "documents" / "nl").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    table = pa.table({"id": [f"d{key}" for key in (*B, 1, 8)], "domain_llm": [*B.values(), "books", None]})
    pq.write_table(table, folder / "documents" / "nl" / "0.parquet")
    labels = {
        "judge": LabelledConfig(path=str(tmp_path / "a.csv"), id_field="name"),
        "model": LabelledConfig(path=str(folder), label_field="domain_llm"),
    }
    cfg = configured(tmp_path, labels)
    for _ in range(2):  # the second time the folder holds the run already
        with Run(cfg) as run:
            agree_mode(cfg, run)
        shown = capsys.readouterr().out
        assert "model: 5 documents, 1 rows without label left out, 1 labelled again" in shown and "0.750" in shown
    row = pd.read_csv(tmp_path / "run" / "agreement.csv").iloc[0]
    assert (row["first"], row["second"], row.n, row.accuracy, row.kappa) == ("judge", "model", 4, 0.75, 0.5)
    assert pd.read_csv(tmp_path / "run" / "confusion.csv").n.tolist() == [2, 0, 1, 1]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["state"] == "finished" and set(record["identity"]["inputs"]) == {"labels_judge", "labels_model"}
    assert record["facts"]["labels"]["model"]["without_label"] == 1


def test_too_few_sources_and_no_common_document_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,prediction\none,web\n")
    (tmp_path / "b.csv").write_text("text,prediction\ntwo,web\n")
    one = {"a": LabelledConfig(path=str(tmp_path / "a.csv"))}
    for labels, kind, message in (
        (one, ConfigError, "agree.labels: 1 given, at least two are compared"),
        (one | {"b": LabelledConfig(path=str(tmp_path / "b.csv"))}, DataError, "a and b have no document in common"),
        (one | {"b": LabelledConfig(path=str(tmp_path / "c.csv"))}, DataError, r"agree\.labels\.b\.path: .* not exist"),
    ):
        cfg = configured(tmp_path, labels)
        with pytest.raises(kind, match=message), Run(cfg) as run:
            agree_mode(cfg, run)
        assert not (tmp_path / "run").exists()
