"""Token shards and Megatron's files: what is written is read, what is torn is named."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError
from njsl.train.corpus import MegatronCorpus, TokenCorpus, dtype_for, finish, open_corpus, write_shard

EOS = 0
SHA = "a" * 64


def make(folder: Path, shards: list[list[list[int]]], vocab_size: int = 100) -> Path:
    """Shards of documents of ids; a document has 3 bytes per token."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = dtype_for(vocab_size)
    for number, documents in enumerate(shards):
        pairs = ((np.array(ids, np.int64), 3 * len(ids)) for ids in documents)
        write_shard(folder, number, pairs, dtype=dtype, eos_id=EOS)
    finish(folder, shards=len(shards), dtype=dtype, tokenizer_sha256=SHA, sources={"a.jsonl": "b" * 64})
    return folder


def opened(folder: Path, verify: bool = True, sha256: str | None = SHA) -> TokenCorpus:
    return TokenCorpus(folder, tokenizer_sha256=sha256, verify=verify)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "made", [[[1, 2, 3], [4], []], [[5, 6, 7, 8, 9, 10]]])


def test_bytes_on_disk(folder: Path) -> None:
    assert (folder / "00000.bin").read_bytes() == bytes([1, 0, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0])
    assert np.load(folder / "00000.docs.npy").tolist() == [0, 4, 6, 7]
    assert np.load(folder / "00000.bytes.npy").tolist() == [9, 3, 0]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {key: manifest[key] for key in ("version", "dtype", "tokenizer_sha256", "tokens", "documents", "bytes")} == {
        "version": 1,
        "dtype": "uint16",
        "tokenizer_sha256": SHA,
        "tokens": 14,
        "documents": 4,
        "bytes": 30,
    }
    assert manifest["sources_sha256"] == {"a.jsonl": "b" * 64}
    digest = hashlib.sha256((folder / "00001.bin").read_bytes()).hexdigest()
    assert manifest["shards"][1]["sha256"]["bin"] == digest
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"0000{n}.{part}" for n in (0, 1) for part in ("bin", "bytes.npy", "docs.npy")),
        "manifest.json",
    ]


def test_reading(folder: Path) -> None:
    corpus = opened(folder)
    assert (corpus.tokens, corpus.documents, corpus.bytes, corpus.dtype) == (14, 4, 30, np.dtype("<u2"))
    assert [corpus.document(index).tolist() for index in range(4)] == [
        [1, 2, 3, 0],
        [4, 0],
        [0],
        [5, 6, 7, 8, 9, 10, 0],
    ]
    assert [corpus.document_bytes(index) for index in range(4)] == [9, 3, 0, 18]
    # Shards of 7 tokens each: windows of 3 + 1 begin at 0 and 3, and none reaches into the next shard.
    assert corpus.windows(3) == 4
    windows = corpus.gather(np.array([3, 0, 2, 1, 3]), 3)
    assert windows.dtype == np.int64
    assert windows.tolist() == [[8, 9, 10, 0], [1, 2, 3, 0], [5, 6, 7, 8], [0, 4, 0, 0], [8, 9, 10, 0]]
    assert (corpus.windows(6), corpus.windows(7)) == (2, 0)
    with pytest.raises(IndexError):
        corpus.document(4)


@settings(deadline=None, max_examples=30)
@given(
    shards=st.lists(st.lists(st.lists(st.integers(0, 70_000), max_size=9), max_size=5), min_size=1, max_size=4),
    length=st.integers(1, 12),
    data=st.data(),
)
def test_windows_are_slices(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[list[int]]], length: int, data: st.DataObject
) -> None:
    flat = [[token for document in shard for token in [*document, EOS]] for shard in shards]
    expected = [
        tokens[start : start + length + 1]
        for tokens in flat
        for start in range(0, len(tokens), length)
        if start + length < len(tokens)
    ]
    folder = make(tmp_path_factory.mktemp("shards"), shards, vocab_size=70_001)
    if not any(flat):
        with pytest.raises(DataError, match="an empty corpus"):
            opened(folder)
        return
    corpus = opened(folder)
    assert corpus.dtype == np.dtype("<u4")
    assert corpus.windows(length) == len(expected)
    chosen = data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=6)) if expected else []
    assert corpus.gather(np.array(chosen, int), length).tolist() == [expected[index] for index in chosen]
    documents = [[*document, EOS] for shard in shards for document in shard]
    assert [corpus.document(index).tolist() for index in range(corpus.documents)] == documents


def test_ids_from_65535_on_take_four_bytes(tmp_path: Path) -> None:
    assert (dtype_for(65_535), dtype_for(65_536)) == (np.dtype("<u2"), np.dtype("<u4"))
    folder = make(tmp_path / "large", [[[65_535, 131_072]]], vocab_size=131_073)
    assert (folder / "00000.bin").read_bytes() == struct.pack("<3I", 65_535, 131_072, EOS)
    assert opened(folder).gather(np.array([0]), 2).tolist() == [[65_535, 131_072, EOS]]


def test_another_process_opens_it_anew(folder: Path) -> None:
    packed = pickle.dumps(opened(folder))
    assert len(packed) < 1000  # a path, not the tokens
    assert pickle.loads(packed).document(1).tolist() == [4, 0]


def rewrite(folder: Path, **values: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_changed_byte_is_found(folder: Path) -> None:
    for name in ("00001.bin", "00000.bytes.npy"):
        path = folder / name
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        opened(folder, verify=False)
        with pytest.raises(DataError, match=rf"{name}: its SHA-256 is .* its manifest says"):
            opened(folder)
        path.write_bytes(before)
    opened(folder)


@pytest.mark.parametrize("name", ["00001.bin", "00000.docs.npy", "00000.bytes.npy", "manifest.json"])
@pytest.mark.parametrize("left", [None, 0, -2])
def test_a_torn_or_missing_file_is_always_found(folder: Path, name: str, left: int | None) -> None:
    path = folder / name
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DataError, match=name) as error:
        opened(folder, verify=False)
    assert "\n" not in str(error.value)


def test_another_tokenizer_version_or_format(folder: Path) -> None:
    with pytest.raises(DataError, match=r"manifest.json: tokenised by another tokenizer \(sha256 aaaaaaaaaaaa\)"):
        opened(folder, sha256="c" * 64)
    assert opened(folder, sha256=None).tokens == 14
    rewrite(folder, version=2)
    with pytest.raises(DataError, match=r"manifest.json: version 2; this program reads version 1"):
        opened(folder)
    rewrite(folder, version=1, dtype="float16")
    with pytest.raises(DataError, match=r"manifest.json: broken"):
        opened(folder)
    rewrite(folder, dtype="uint32")
    with pytest.raises(DataError, match=r"00000.bin: 14 bytes, its index says 28"):
        opened(folder)


def test_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty: an empty corpus"):
        opened(make(tmp_path / "empty", [[]]))


def test_a_failed_shard_leaves_nothing_in_place(tmp_path: Path) -> None:
    def documents() -> object:
        yield np.array([1]), 1
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_shard(tmp_path, 0, documents(), dtype=dtype_for(9), eos_id=EOS)  # type: ignore[arg-type]
    assert not (tmp_path / "00000.bin").exists()


# Megatron


def megatron(prefix: Path, sequences: list[list[int]], documents: list[int], code: int = 8, dtype: str = "<u2") -> Path:
    """Write the format by hand: ``documents`` are the first sequences of each, and the number of all."""
    sizes = [len(ids) for ids in sequences]
    itemsize = np.dtype(dtype).itemsize
    pointers = [itemsize * sum(sizes[:number]) for number in range(len(sizes))]
    index = b"MMIDIDX\x00\x00" + struct.pack("<QB", 1, code) + struct.pack("<QQ", len(sizes), len(documents))
    index += struct.pack(f"<{len(sizes)}i", *sizes) + struct.pack(f"<{len(sizes)}q", *pointers)
    index += struct.pack(f"<{len(documents)}q", *documents)
    prefix.with_name(prefix.name + ".idx").write_bytes(index)
    prefix.with_name(prefix.name + ".bin").write_bytes(np.concatenate(sequences).astype(dtype).tobytes())
    return prefix


@pytest.mark.parametrize(("code", "dtype"), [(8, "<u2"), (4, "<i4"), (5, "<i8")])
def test_megatron_in_place(tmp_path: Path, code: int, dtype: str) -> None:
    # Four documents, the second of two sequences.
    prefix = megatron(
        tmp_path / "nl_text_document", [[1, 2, 0], [3], [4, 0], [5, 6, 7, 0], [8, 0]], [0, 1, 3, 4, 5], code, dtype
    )
    whole = MegatronCorpus(prefix, vocab_size=9)
    assert (whole.tokens, whole.documents, whole.bytes, whole.dtype) == (12, 4, None, np.dtype(dtype))
    documents = [[1, 2, 0], [3, 4, 0], [5, 6, 7, 0], [8, 0]]
    assert [whole.document(index).tolist() for index in range(4)] == documents
    assert whole.gather(np.array([1, 0]), 5).tolist() == [[0, 5, 6, 7, 0, 8], [1, 2, 0, 3, 4, 0]]
    train, heldout = (MegatronCorpus(prefix, documents=part) for part in ((0.0, 0.75), (0.75, 1.0)))
    assert [train.document(index).tolist() for index in range(train.documents)] == documents[:3]
    assert heldout.gather(np.array([0]), 1).tolist() == [[8, 0]]
    assert (train.tokens, heldout.tokens) == (10, 2)
    again = pickle.loads(pickle.dumps(heldout))
    assert again.document(0).tolist() == [8, 0]


def test_several_prefixes_are_one_corpus(tmp_path: Path) -> None:
    prefixes = [
        megatron(tmp_path / name, [[first, 0], [first + 1, 0]], [0, 1, 2]) for name, first in (("a", 1), ("b", 3))
    ]
    assert [MegatronCorpus(*prefixes).document(index).tolist() for index in range(4)] == [
        [1, 0],
        [2, 0],
        [3, 0],
        [4, 0],
    ]
    (tmp_path / "corpus.json").write_text(
        json.dumps({"megatron": {"prefixes": list(map(str, prefixes)), "heldout_frac": 0.5}})
    )
    for split, firsts in (("train", [1, 3]), ("heldout", [2, 4])):
        corpus = open_corpus(tmp_path, split, tokenizer_sha256=SHA, vocab_size=5, verify=True)
        assert [corpus.document(index)[0] for index in range(corpus.documents)] == firsts


def test_bad_megatron_files(tmp_path: Path) -> None:
    prefix = megatron(tmp_path / "x", [[1, 2, 0], [9, 0]], [0, 1, 2])
    index, data = tmp_path / "x.idx", tmp_path / "x.bin"
    whole_index, whole_data = index.read_bytes(), data.read_bytes()

    def fault(path: Path, content: bytes, message: str) -> None:
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            MegatronCorpus(prefix)
        path.write_bytes(before)

    fault(data, whole_data[:-1], r"x.bin: 9 bytes, its index says 10")
    fault(index, whole_index[:-1], r"x.idx: .* torn")
    fault(index, b"TNTIDX" + whole_index, "x.idx: no index of Megatron's memory-mapped format")
    fault(index, whole_index[:5], "x.idx: no index of Megatron's memory-mapped format")
    fault(index, whole_index.replace(struct.pack("<QB", 1, 8), struct.pack("<QB", 1, 6)), "x.idx: version 1, type 6")
    fault(index, whole_index[:-8] + struct.pack("<q", 1), "x.idx: its documents do not lie one after the other")
    with pytest.raises(DataError, match=r"x.bin: tokenised by another tokenizer: it holds the id 9, .* has 9 ids"):
        MegatronCorpus(prefix, vocab_size=9)
    with pytest.raises(DataError, match=r"x.bin: an empty corpus"):
        MegatronCorpus(prefix, documents=(0.9, 1.0))
    data.unlink()
    with pytest.raises(DataError, match=r"x.bin: missing"):
        MegatronCorpus(prefix)
