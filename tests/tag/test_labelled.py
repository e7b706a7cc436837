"""Labelled documents from every kind of source; what is wrong is one line."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from njsl.core.config import LabelledConfig
from njsl.core.types import DataError
from njsl.tag.labelled import Labelled, read

TEXTS = ["null", 'two\n"lines", one cell', "third", "fourth"]
LABELS = ["web", "books", None, "NA"]
KEPT = ([TEXTS[0], TEXTS[1], TEXTS[3]], ["web", "books", "NA"])


def write(folder: Path, kind: str) -> Path:
    path = folder / f"documents.{kind}"
    table = pa.table({"text": TEXTS, "prediction": LABELS, "number": [7, 8, 9, 10]})
    if kind == "csv":
        table.to_pandas().to_csv(path, index=False)
    elif kind == "parquet":
        pq.write_table(table, path)
    elif kind == "arrow":
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
        path.write_bytes(gzip.compress(lines) if kind.endswith(".gz") else lines)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "jsonl.gz", "parquet", "arrow"])
def test_every_kind_gives_the_same(tmp_path: Path, kind: str) -> None:
    found = read(LabelledConfig(path=str(write(tmp_path, kind))), seed=0)
    assert (found.texts, found.labels, found.dropped) == (*KEPT, 1)
    assert found.ids == [hashlib.sha256(text.encode()).hexdigest() for text in found.texts]
    assert len(found) == 3 and len(found.sha256) == 64


def test_feather_ids_and_one_label_for_all(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    pyarrow.feather.write_feather(pa.table({"body": ["a", "b"], "number": [1, 2]}), path)
    cfg = LabelledConfig(path=str(path), text_field="body", label="code", id_field="number")
    assert read(cfg, seed=0) == Labelled(["1", "2"], ["a", "b"], ["code", "code"], 0, read(cfg, seed=1).sha256)


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"text": "2", "prediction": "web"}\n\n')
    (tmp_path / "a.csv").write_text("prediction,text\nbooks,1\n")
    (tmp_path / ".hidden.csv").write_text("nothing\n")
    assert read(LabelledConfig(path=str(tmp_path)), seed=0).texts == ["1", "2"]


def test_a_run_is_matched_by_id(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    for corpus in ("code", "nl"):
        (tmp_path / "documents" / corpus).mkdir(parents=True)
        table = pa.table({"id": ["x", "y"], "domain_llm": [corpus, None]})
        pq.write_table(table, tmp_path / "documents" / corpus / "0000.parquet")
    cfg = LabelledConfig(path=str(tmp_path), label_field="domain_llm")
    found = read(cfg, seed=0, need_text=False)
    assert (found.ids, found.texts, found.labels, found.dropped) == (["code/x", "nl/x"], ["", ""], ["code", "nl"], 2)
    with pytest.raises(DataError, match=r"distil\.labelled\.a\.path: .* holds no texts"):
        read(cfg, seed=0, where="distil.labelled.a")


def test_samples_of_two_files_hold_the_same_documents(tmp_path: Path) -> None:
    rows = [(f"text {number}", "web" if number % 2 else "books") for number in range(50)]
    for name, order in (("a", rows), ("b", rows[::-1])):
        (tmp_path / f"{name}.csv").write_text("text,prediction\n" + "".join(f"{t},{label}\n" for t, label in order))
    first, second = (read(LabelledConfig(path=str(tmp_path / f"{n}.csv"), max_documents=20), seed=3) for n in "ab")
    assert first.ids == second.ids[::-1] and len(first) == 20
    assert first.texts == [text for text, _ in rows if text in first.texts]
    other = read(LabelledConfig(path=str(tmp_path / "a.csv"), max_documents=20), seed=4)
    assert set(other.ids) != set(first.ids)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", None, "does not exist; expected a file, a folder or a run"),
        ("a.txt", "x", r"unknown kind; expected a file that ends in \.csv, \.jsonl"),
        ("a.csv", "", "is no csv with a header line"),
        ("a.csv", 'text,prediction\n"open', "is no csv with a header line"),
        ("a.csv", "text,label\nx,y\n", "has no column 'prediction'; it has: text, label"),
        ("a.jsonl", '{"body": "x", "prediction": "web"}\n', "has no column 'text'; it has: body, prediction"),
        ("a.jsonl", '{"text": "x", "prediction": "web"}\n{"te', "line 2: no JSON in UTF-8"),
        ("a.jsonl", "[1]\n", "line 1: no JSON object"),
        ("a.csv", "text,prediction\nx,\n,web\n", r"no row with a label \(2 rows without are left out\)"),
        ("a.parquet", "PAR1", "cannot be read, damaged"),
        ("a.jsonl.gz", "no gzip", "cannot be read, damaged"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read(LabelledConfig(path=str(tmp_path / name)), seed=0, where="agree.labels.a")
    assert str(caught.value).startswith("agree.labels.a") and "\n" not in str(caught.value)


def test_labels_need_a_column_or_a_word(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected label_field"):
        read(LabelledConfig(path=str(write(tmp_path, "csv")), label_field=None), seed=0)
