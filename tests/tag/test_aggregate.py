"""Features with n and standard error, against values by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from njsl.core.types import ConfigError, DataError, Document
from njsl.corpora.readers import Fields
from njsl.tag import aggregate
from njsl.tag.base import Column, Tagger
from njsl.tag.features import PUBLISHED
from njsl.tag.shards import Shard, Stage, _write
from tag.conftest import Words


class Given(Tagger):
    columns: ClassVar[dict[str, Column]] = {
        "length": Column("int64", "characters", "length", 0, "char_len"),
        "hits": Column("int64", "matches", "hits", 0, "numbers_ratio", per="length", scale=100.0),
        "score": Column("float64", "1", "score", math.nan, "ttr"),
        "topic": Column("string", "label", "topic", None, shares={"web": "web_pct", "book": "book_pct"}),
        "language": Column("string", "label", "language", "un", shares={"en": "english_pct", "*": ""}),
    }


def run_folder(folder: Path, rows: list[dict[str, Any]], *, shards: int = 1, sha256: str = "0" * 64) -> Path:
    """A finished run of one corpus with these rows: ``id`` and ``group`` beside the columns."""
    stage = Stage(Words(), {"given": Given()}, {}, {}, Fields(None), False, folder)
    for number, part in enumerate(np.array_split(np.arange(len(rows)), shards)):
        chosen = [rows[i] for i in part]
        documents = [Document("", row["id"], row["group"]) for row in chosen]
        values = {name: [[row[name] for row in chosen]] for name in Given.columns}
        _write(stage, Shard("c", number, ()), documents, values)
    figure = {"value": 2.5, "unit": "bits", "meaning": "entropy", "feature": "entropy_mean"}
    ends = {"low": {**figure, "feature": None, "value": 2.0}, "high": {**figure, "feature": None, "value": 3.5}}
    facts = {"documents": len(rows), "figures": {"entropy": {**figure, "interval": ["low", "high"]}, **ends}}
    record = {"tokenizer": {"name": "words", "sha256": sha256}, "corpora": {"c": facts}}
    (folder / aggregate.CORPORA).write_text(json.dumps(record))
    return folder


NAN = math.nan
ROWS = [
    {"id": "1", "group": "1", "length": 10, "hits": 1, "score": 0.5, "topic": "web", "language": "en"},
    {"id": "2", "group": "2", "length": 20, "hits": 0, "score": NAN, "topic": "book", "language": "de"},
    {"id": "3", "group": "3", "length": 60, "hits": 5, "score": 0.7, "topic": "unknown", "language": "en"},
    {"id": "4", "group": "4", "length": 30, "hits": 0, "score": 0.9, "topic": "web", "language": "un"},
    {"id": "5", "group": "5", "length": 30, "hits": 0, "score": 0.7, "topic": None, "language": "en"},
]


def by_feature(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["feature"]: row for row in aggregate.features(folder, {}).to_dict("records")}


@pytest.mark.parametrize("shards", [1, 3])
def test_values_by_hand(tmp_path: Path, shards: int) -> None:
    found = by_feature(run_folder(tmp_path, ROWS, shards=shards))
    length = found["char_len_mean"]
    # 10 20 60 30 30: mean 30, squared deviations 400 + 100 + 900 = 1400, std sqrt(1400 / 4), se std / sqrt(5).
    assert (length["value"], length["n"], length["groups"]) == (30, 5, 5)
    assert length["std"] == pytest.approx(math.sqrt(350))
    assert length["se"] == pytest.approx(math.sqrt(350 / 5))
    # 6 hits in 150 characters; not the mean of the documents' ratios, which is (10 + 0 + 25/3) / 5.
    pooled = found["numbers_ratio"]
    assert pooled["value"] == pytest.approx(4)
    # Residuals 100 x - 4 y: 60, -80, 260, -120, -120.
    squares = 60**2 + 80**2 + 260**2 + 2 * 120**2
    assert pooled["se"] == pytest.approx(math.sqrt(squares * 5 / 4) / 150)
    assert math.isnan(pooled["std"])
    # Over the four documents that have one.
    assert (found["ttr_mean"]["value"], found["ttr_mean"]["n"]) == (pytest.approx(0.7), 4)
    assert found["ttr_mean"]["std"] == pytest.approx(math.sqrt(0.08 / 3))
    # unknown and none are out of the total; all languages are in it.
    assert found["web_pct"]["value"] == pytest.approx(200 / 3)
    assert found["web_pct"]["n"] == 3
    # p (1 - p) of 2/3 and n = 3, with n / (n - 1): sqrt(2/9 / 2).
    assert found["web_pct"]["se"] == pytest.approx(100 * math.sqrt(1 / 9))
    assert found["book_pct"]["value"] == pytest.approx(100 / 3)
    assert found["english_pct"]["value"] == pytest.approx(60)
    assert [found["entropy_mean"][name] for name in ("value", "low", "high")] == [2.5, 2.0, 3.5]
    assert [row["feature"] for row in found.values()] == list(found)


def test_documents_of_one_group_are_one_independent_unit(tmp_path: Path) -> None:
    """Every document twice: the same mean and, by groups, the same standard error as every document once."""
    once = by_feature(run_folder(tmp_path / "once", ROWS))
    twice = [row | {"id": f"{row['id']}/{copy}"} for row in ROWS for copy in "ab"]
    copied = by_feature(run_folder(tmp_path / "twice", twice, shards=2))
    for feature in ("char_len_mean", "numbers_ratio", "ttr_mean", "web_pct", "english_pct"):
        assert copied[feature]["value"] == pytest.approx(once[feature]["value"])
        assert copied[feature]["se"] == pytest.approx(once[feature]["se"])
        assert copied[feature]["groups"] == once[feature]["groups"]
        assert copied[feature]["n"] == 2 * once[feature]["n"]


def test_a_corpus_without_documents_has_undefined_features(tmp_path: Path) -> None:
    found = by_feature(run_folder(tmp_path, []))
    assert math.isnan(found["char_len_mean"]["value"]) and found["char_len_mean"]["n"] == 0


def test_the_wide_table_has_the_published_names_first(tmp_path: Path) -> None:
    table = aggregate.wide(aggregate.features(run_folder(tmp_path, ROWS), {"c": "my model"}))
    names = list(table)
    assert names[0] == "id" and table["id"].tolist() == ["my model"]
    published = [name for name in names if name in PUBLISHED]
    assert published == ["char_len_mean", "entropy_mean", "ttr_mean", "char_len_std", "ttr_std", "numbers_ratio"]
    assert names == ["id", *published, "web_pct", "book_pct", "english_pct"]


def test_several_runs(tmp_path: Path) -> None:
    runs = [str(run_folder(tmp_path / name, ROWS)) for name in ("a", "b")]
    with pytest.raises(DataError, match=r"aggregate\.ids: 'c' would name two rows"):
        aggregate.collect(runs, {})
    long = aggregate.collect(runs, {"a/c": "first", "c": "second"})
    aggregate.write(long, tmp_path)
    assert long["id"].unique().tolist() == ["first", "second"]
    table = pd.read_csv(tmp_path / aggregate.FEATURES)
    assert table["id"].tolist() == ["first", "second"] and table["char_len_mean"].tolist() == [30, 30]
    with pytest.raises(ConfigError, match=r"aggregate\.runs: expected at least one folder"):
        aggregate.collect([], {})
    with pytest.raises(DataError, match=r"aggregate\.runs: nowhere is no folder"):
        aggregate.collect(["nowhere"], {})
    other = str(run_folder(tmp_path / "other", ROWS, sha256="1" * 64))
    with pytest.raises(DataError, match="tagged with different tokenizers, which do not compare: words"):
        aggregate.collect([runs[0], other], {})
