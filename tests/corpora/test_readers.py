"""Files of documents: every format there and back, and everything that can be wrong with one."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError, Document
from njsl.corpora import readers
from njsl.corpora.readers import Broken, Fields, blocks, find, read, write

TEXTS = ["one", "two\nlines\r\n", "drei ü 字 \u2028 😀", "four\x00"]
RECORDS = [{"id": f"d{i}", "group": "ab"[i % 2], "text": text} for i, text in enumerate(TEXTS)]
DOCUMENTS = [Document(r["text"], r["id"], r["group"]) for r in RECORDS]


def documents(path: Path, **options: Any) -> tuple[list[Document], Broken]:
    broken = Broken()
    return list(read(path, **{"text_field": "text", "group_field": "group", **options}, broken=broken)), broken


def save(path: Path, content: bytes) -> Path:
    packed = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    with pa.output_stream(str(path), compression=packed) as stream:
        stream.write(content)
    return path


def table(path: Path, columns: dict[str, Any]) -> Path:
    data = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(data, path)
    else:
        opened = pa.ipc.new_file if path.name.startswith("feather") else pa.ipc.new_stream
        with opened(str(path), data.schema) as writer:
            writer.write_table(data, max_chunksize=3)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json", "a.json.gz", "a.json.zst"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_lines_come_back(tmp_path: Path, name: str, end: bytes, bom: bytes) -> None:
    lines = [json.dumps(record, ensure_ascii=False).encode() for record in RECORDS]
    for content in (end.join(lines), end.join(lines) + end, (end + end).join(lines)):
        assert documents(save(tmp_path / name, bom + content)) == (DOCUMENTS, Broken())


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "feather.arrow"])
def test_tables_come_back(tmp_path: Path, name: str) -> None:
    columns = {key: [record[key] for record in RECORDS] for key in ("group", "text", "id")}
    path = table(tmp_path / name, {"other": [[1]] * 4, **columns})
    assert documents(path) == (DOCUMENTS, Broken())
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        path = table(tmp_path / name, {**columns, "text": pa.array(TEXTS).cast(kind)})
        assert documents(path)[0] == DOCUMENTS


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.jsonl.gz"
    wanted = [Document(*row) for row in rows]
    write(path, wanted)
    assert documents(path) == (wanted, Broken())


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.gz", DOCUMENTS)
    write(tmp_path / "b.jsonl.gz", iter(DOCUMENTS), "gzip")
    write(tmp_path / "c.jsonl", DOCUMENTS, None)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == (tmp_path / "c.jsonl").read_bytes()
    with pytest.raises(ValueError, match="accepted: gzip, None"):
        write(tmp_path / "d", DOCUMENTS, "zstd")


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    def halfway():
        yield DOCUMENTS[0]
        raise KeyboardInterrupt

    path = tmp_path / "a.jsonl.gz"
    write(path, DOCUMENTS)
    with pytest.raises(KeyboardInterrupt):
        write(path, halfway())
    assert documents(path)[0] == DOCUMENTS


def test_broken_lines_are_counted(tmp_path: Path) -> None:
    lines = [
        b'{"text": "kept", "group": "g"}',
        b'{"text": "cut off',
        b'{"text": 7, "group": "g"}',
        b'{"other": "x", "group": "g"}',
        b'"a string"',
        b'{"text": "\\ud800", "group": "g"}',
        b'{"text": "\xff", "group": "g"}',
        b'{"text": "no group"}',
        b"[" * 100_000,
        b'{"text": "", "group": "empty is not broken"}',
        b"   ",
        b'{"text": "kept", "group": 3, "id": 17}',
    ]
    path = save(tmp_path / "a.jsonl", b"\n".join(lines))
    found, broken = documents(path)
    assert found == [Document("kept", f"{tmp_path.name}/a.jsonl:1", "g"), Document("kept", "17", "3")]
    assert broken.counts == {str(path): 8}
    assert broken.total == 8
    assert broken.reasons[str(path)].startswith("line 2: no JSON in UTF-8, Unterminated string")
    other = Broken()
    other.add(path, "line 1", "later")
    other.add(tmp_path / "b", "line 9", "other")
    broken.merge(other)
    assert broken.total == 10
    assert "8" not in str(Broken()) and "10 broken records in 2 files" in str(broken)


def test_broken_records_of_tables_are_counted(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    texts = pa.chunked_array([pa.array(["kept", None, ""]), bad])
    path = table(tmp_path / "a.arrow", {"text": texts, "group": ["g", "g", "g", "g"]})
    found, broken = documents(path)
    assert [document.text for document in found] == ["kept"]
    assert broken.counts == {str(path): 2}
    assert broken.reasons[str(path)] == "record 2: no string in 'text'"


def test_ids_are_stable_and_unique(tmp_path: Path) -> None:
    ids = ["a", None, True, {}, "", 5]
    path = save(tmp_path / "a.jsonl", b"\n".join(json.dumps({"text": "t", "id": i}).encode() for i in ids))
    found, _ = documents(path, group_field=None)
    here = f"{tmp_path.name}/a.jsonl"
    assert [d.id for d in found] == ["a", f"{here}:2", f"{here}:3", f"{here}:4", f"{here}:5", "5"]
    assert [d.group for d in found] == [d.id for d in found]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.arrow", "feather.arrow"])
def test_a_truncated_file_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = [{"text": f"{i} {i * i}", "group": "g"} for i in range(2000)]
    if path.suffix in (".gz", ".zst"):
        save(path, b"\n".join(json.dumps(row).encode() for row in rows))
    else:
        table(path, {key: [row[key] for row in rows] for key in ("text", "group")})
    content = path.read_bytes()
    for size in (len(content) // 2, len(content) - 5, 7):
        path.write_bytes(content[:size])
        if name == "a.arrow" and size == len(content) - 5:
            continue  # only the mark of the end is cut
        with pytest.raises(DataError, match=r"cannot be read, truncated or damaged\?") as error:
            documents(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_gz_of_several_members_is_read_whole(tmp_path: Path) -> None:
    halves = [b'{"text": "a", "group": "g"}\n', b'{"text": "b", "group": "g"}\n']
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(gzip.compress(half) for half in halves))
    assert [document.text for document in documents(tmp_path / "a.jsonl.gz")[0]] == ["a", "b"]


def test_a_table_without_the_column_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'text'; it has: content, group"):
        documents(table(tmp_path / "a.parquet", {"content": ["x"], "group": ["g"]}))
    with pytest.raises(DataError, match="column 'text' holds int64; expected strings"):
        documents(table(tmp_path / "a.arrow", {"text": [1], "group": ["g"]}))


def test_memory_stays_flat(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    write(path, (Document("x" * 1000, str(i), "g") for i in range(20_000)))  # 20 MB
    tracemalloc.start()
    assert sum(1 for _ in read(path, text_field="text", broken=Broken())) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # a few chunks of 1 MiB


def test_lines_longer_than_a_chunk_come_whole(tmp_path: Path) -> None:
    long = [Document(letter * 3_000_000, letter, "g") for letter in "abc"]
    write(tmp_path / "a.jsonl", long, None)
    assert documents(tmp_path / "a.jsonl")[0] == long


def test_find_takes_readable_files(tmp_path: Path) -> None:
    for name in ("c/a.jsonl", "c/deep/er/b.json.gz", "c/x.txt", "c/.hidden.jsonl", "d/e.parquet", "d/f.arrow"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def names(*patterns: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in find(tmp_path, patterns)]

    assert names("c/**") == ["c/a.jsonl", "c/deep/er/b.json.gz"]
    assert names("**") == ["c/a.jsonl", "c/deep/er/b.json.gz", "d/e.parquet", "d/f.arrow"]
    assert names("d/*", "**/*.arrow") == ["d/e.parquet", "d/f.arrow"]
    with pytest.raises(DataError, match=r"'\*\.jsonl' finds no file that ends in \.jsonl, "):
        find(tmp_path, ["c/**", "*.jsonl"])
    with pytest.raises(DataError, match="no such folder"):
        find(tmp_path / "no", ["**"])


def test_the_first_text_field_that_a_record_has_is_taken(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"id": "a", "text": "one", "content": "not this"},
        {"id": "b", "content": "two"},
        {"doc_id": 7, "resps": [["three", "and a second answer"]], "lang": "python"},
        {"doc_id": 8, "resps": [[]]},
        {"id": "c", "words": "none"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    broken = Broken()
    found = list(read(tmp_path / "a.jsonl", text_field=None, broken=broken))
    assert [(one.id, one.text, one.lang) for one in found] == [
        ("a", "one", None),
        ("b", "two", None),
        ("7", "three", "python"),
    ]
    assert broken.total == 2 and "line 4: no string in 'resps'" in str(broken)
    table = pa.table({"doc_id": [1, 2], "resps": [[["x", "y"]], [["z"]]]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = list(read(tmp_path / "a.parquet", text_field=None, broken=broken))
    assert [(one.id, one.text) for one in found] == [("1", "x"), ("2", "z")]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [7, 64, 1 << 20])
def test_a_json_array_is_read_as_its_elements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, chunk: int
) -> None:
    monkeypatch.setattr(readers, "_CHUNK", chunk)
    texts = ["plain", 'quotes " and ] brackets [', "line\nbreaks", "é 😀 \u2028", "x" * 500]
    records: list[Any] = [{"id": i, "text": text, "more": {"a": [1, 2.5e3]}} for i, text in enumerate(texts)]
    (tmp_path / "a.json").write_text(json.dumps([*records, 12, "no object"], indent=indent, ensure_ascii=False))
    broken = Broken()
    found = list(read(tmp_path / "a.json", text_field="text", broken=broken))
    assert [(one.id, one.text) for one in found] == [(str(i), text) for i, text in enumerate(texts)]
    assert broken.total == 2


def test_a_cut_json_array_loses_its_last_element_only(tmp_path: Path) -> None:
    whole = json.dumps([{"id": i, "text": f"text {i}"} for i in range(3)])
    (tmp_path / "a.json").write_text(whole[:-6])
    broken = Broken()
    assert [one.id for one in read(tmp_path / "a.json", text_field="text", broken=broken)] == ["0", "1"]
    assert broken.total == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_blocks_are_cut_by_the_file_alone_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    records = [{"id": str(i), "text": f"text {i} " * (i % 7)} for i in range(1000)]
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        lines = "".join(json.dumps(record) + "\n" for record in records).encode()
        path.write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
    monkeypatch.setattr(readers, "_CHUNK", 999)
    fields = Fields(None)
    cut = list(blocks(path, fields))
    assert len(cut) > 3 and sum(block.count for block in cut) == 1000
    assert [block.first for block in cut] == [1 + sum(b.count for b in cut[:i]) for i in range(len(cut))]
    assert cut[-1].position == path.stat().st_size
    found = [one for block in cut for one in readers.documents(block, fields, Broken(), keep_empty=True)]
    assert [(one.id, one.text) for one in found] == [(record["id"], record["text"]) for record in records]
    without = [one for block in cut for one in readers.documents(block, fields, Broken())]
    assert len(without) == sum(bool(record["text"]) for record in records)
