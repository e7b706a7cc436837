"""Tokenised corpora: shards of token ids on disk, read through memory maps.

A folder holds, per shard, ``00000.bin`` (the ids of all documents in a row, little-endian uint16, or uint32 from 65,536
ids on; every document ends in the end-of-document id), ``00000.docs.npy`` (int64 [documents + 1], where each begins)
and ``00000.bytes.npy`` (int64 [documents], UTF-8 bytes of its text), and ``manifest.json``, written last. Corpora of
Megatron (``.bin/.idx``) are read where they lie.

Shape suffixes: N windows, T tokens.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from njsl.core.run import write_atomic
from njsl.core.types import DataError

VERSION = 1
MANIFEST = "manifest.json"
PARTS = ("docs.npy", "bytes.npy", "bin")  # in the order in which they are put in place: the .bin says that all is there
_MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
_MEGATRON_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_PROBES, _PROBE_TOKENS = 64, 4096


def dtype_for(vocab_size: int) -> np.dtype:
    """The type of a token on disk, for ids below ``vocab_size``."""
    return np.dtype("<u2" if vocab_size <= 65_535 else "<u4")


def part(folder: Path, number: int, name: str) -> Path:
    """The path of one of a shard's ``PARTS``."""
    return folder / f"{number:05d}.{name}"


def write_shard(
    folder: Path, number: int, documents: Iterable[tuple[np.ndarray, int]], *, dtype: np.dtype, eos_id: int
) -> None:
    """Write one shard, whole or not at all, in the memory of one document.

    Args:
        folder: where; it exists.
        number: of the shard, 0 .. 99999.
        documents: token ids, without an end, and the UTF-8 bytes of the text they stand for.
        dtype: of a token, see ``dtype_for``.
        eos_id: ends every document.
    """
    offsets, sizes = [0], []
    beside = {name: folder / f".{number:05d}.{name}.tmp" for name in PARTS}
    with beside["bin"].open("wb") as file:
        for tokens, size in documents:
            ended = np.empty(len(tokens) + 1, dtype)
            ended[:-1], ended[-1] = tokens, eos_id
            file.write(ended.data)
            offsets.append(offsets[-1] + len(ended))
            sizes.append(size)
    for name, values in (("docs.npy", offsets), ("bytes.npy", sizes)):
        with beside[name].open("wb") as file:
            np.save(file, np.array(values, "<i8"))
    for name in PARTS:
        os.replace(beside[name], part(folder, number, name))


def finish(folder: Path, *, shards: int, dtype: np.dtype, tokenizer_sha256: str, sources: Mapping[str, str]) -> None:
    """Write the manifest of a folder whose shards are all there.

    Args:
        folder: with the shards 0 .. ``shards`` - 1.
        shards: how many.
        dtype: of a token.
        tokenizer_sha256: of the tokenizer that made them.
        sources: SHA-256 of each file of text, by its name.
    """
    facts: list[dict[str, Any]] = []
    for number, digests in enumerate(_digests(folder, shards)):
        offsets, sizes = (np.load(part(folder, number, name)) for name in PARTS[:2])
        facts.append(
            {"tokens": int(offsets[-1]), "documents": len(sizes), "bytes": int(sizes.sum()), "sha256": digests}
        )
    manifest = {
        "version": VERSION,
        "dtype": dtype.name,
        "tokenizer_sha256": tokenizer_sha256,
        "sources_sha256": dict(sources),
        **{key: sum(shard[key] for shard in facts) for key in ("tokens", "documents", "bytes")},
        "shards": facts,
    }
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


class Corpus(ABC):
    """Token ids in documents, to be read by window or by document.

    Attributes:
        tokens: how many, ends of documents included.
        documents: how many.
        bytes: UTF-8 bytes of the text; None where only token ids are known.
        dtype: of a token on disk.
    """

    tokens: int
    documents: int
    bytes: int | None
    dtype: np.dtype

    def __init__(self, shards: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """Args:
        shards: token ids [T] and where each of its documents begins and the last one ends [documents + 1].
        """
        self._tokens = [tokens for tokens, _ in shards]
        self._offsets = [offsets for _, offsets in shards]
        self._document_ends = np.cumsum([len(offsets) - 1 for offsets in self._offsets])
        self._views: dict[int, tuple[np.ndarray, list[np.ndarray]]] = {}
        self.tokens = sum(len(tokens) for tokens in self._tokens)
        self.documents = int(self._document_ends[-1])
        self.dtype = self._tokens[0].dtype

    @abstractmethod
    def __reduce__(self) -> Any:
        """Memory maps are opened anew in another process; pickled, they would be read whole."""

    def windows(self, length: int) -> int:
        """Windows of ``length`` + 1 tokens; each begins with the last token of the one before it, within a shard."""
        return int(self._windows(length)[0][-1])

    def gather(self, window_N: np.ndarray, length: int) -> np.ndarray:
        """The tokens of windows, int64 [N, length + 1].

        Args:
            window_N: 0 .. ``windows(length)`` - 1.
            length: tokens per training sequence.
        """
        ends, views = self._windows(length)
        window_N = np.asarray(window_N, np.int64)
        tokens_NT = np.empty((len(window_N), length + 1), np.int64)
        shard_N = np.searchsorted(ends, window_N, side="right")
        for shard in np.unique(shard_N):
            chosen = shard_N == shard
            tokens_NT[chosen] = views[shard][window_N[chosen] - ends[shard] + len(views[shard])]
        return tokens_NT

    def document(self, index: int) -> np.ndarray:
        """The tokens of one document with its end, int64 [T]."""
        shard, within = self._place(index)
        first, last = self._offsets[shard][within : within + 2]
        return self._tokens[shard][first:last].astype(np.int64)

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self.documents:
            raise IndexError(f"document {index} of {self.documents}")
        shard = int(np.searchsorted(self._document_ends, index, side="right"))
        return shard, index - (int(self._document_ends[shard - 1]) if shard else 0)

    def _windows(self, length: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Where the windows of each shard end in the count of all, and the windows themselves, overlapping views."""
        if length not in self._views:
            views = []
            for tokens in self._tokens:
                shape = (max(0, (len(tokens) - 1) // length), length + 1)
                strides = (length * tokens.itemsize, tokens.itemsize)
                views.append(np.lib.stride_tricks.as_strided(tokens, shape, strides, writeable=False))
            self._views[length] = np.cumsum([len(view) for view in views]), views
        return self._views[length]


class TokenCorpus(Corpus):
    """Shards that ``write_shard`` and ``finish`` wrote."""

    bytes: int

    def __init__(self, folder: Path, *, tokenizer_sha256: str | None, verify: bool) -> None:
        """Args:
            folder: with a manifest.
            tokenizer_sha256: the tokenizer it must be of; None takes any.
            verify: read every shard and compare its SHA-256. Sizes are always compared.

        Raises:
            DataError: with the file that is missing, torn, of another tokenizer or empty.
        """
        self._folder = Path(folder)
        manifest = _manifest(self._folder)
        self.tokenizer_sha256 = str(manifest["tokenizer_sha256"])
        if tokenizer_sha256 not in (None, self.tokenizer_sha256):
            raise DataError(
                f"{self._folder / MANIFEST}: tokenised by another tokenizer (sha256 {self.tokenizer_sha256[:12]}) than "
                f"the run's ({str(tokenizer_sha256)[:12]}); prepare it again, or choose its tokenizer"
            )
        if not manifest["tokens"]:
            raise DataError(f"{self._folder}: an empty corpus: no tokens in {len(manifest['shards'])} shards")
        dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
        super().__init__(
            [_open_shard(self._folder, number, facts, dtype) for number, facts in enumerate(manifest["shards"])]
        )
        self.bytes = int(manifest["bytes"])
        if verify:
            self._verify(manifest["shards"])

    def __reduce__(self) -> Any:
        opened = functools.partial(TokenCorpus, tokenizer_sha256=self.tokenizer_sha256, verify=False)
        return opened, (self._folder,)

    def document_bytes(self, index: int) -> int:
        """UTF-8 bytes of the text of one document."""
        shard, within = self._place(index)
        return int(np.load(part(self._folder, shard, "bytes.npy"), mmap_mode="r")[within])

    def _verify(self, shards: Sequence[Mapping[str, Any]]) -> None:
        for number, found in enumerate(_digests(self._folder, len(shards))):
            for name in PARTS:
                if found[name] != shards[number]["sha256"][name]:
                    raise DataError(
                        f"{part(self._folder, number, name)}: its SHA-256 is {found[name][:12]}, its manifest says "
                        f"{shards[number]['sha256'][name][:12]}; delete {self._folder} and prepare it again"
                    )


class MegatronCorpus(Corpus):
    """Corpora in the memory-mapped format of Megatron-LM, ``PREFIX.bin`` and ``PREFIX.idx``, used in place.

    The text's bytes are not known. Source: ``megatron/core/datasets/indexed_dataset.py``, index version 1.
    """

    bytes: None = None

    def __init__(
        self, *prefixes: Path, documents: tuple[float, float] = (0.0, 1.0), vocab_size: int | None = None
    ) -> None:
        """Args:
            prefixes: paths without ``.bin`` and ``.idx``.
            documents: which part of each prefix' documents, as fractions of their number (0..1).
            vocab_size: ids of the run's tokenizer; samples of the tokens are held to it, None takes any.

        Raises:
            DataError: with the file that is missing, torn, in another format, of another tokenizer or empty.
        """
        self._opened = functools.partial(MegatronCorpus, documents=documents, vocab_size=vocab_size), prefixes
        super().__init__([_open_megatron(Path(prefix), documents) for prefix in prefixes])
        if not self.tokens:
            raise DataError(f"{prefixes[0]}.bin: an empty corpus: no tokens in its documents {documents}")
        for prefix, tokens in zip(prefixes, self._tokens, strict=True):
            if vocab_size is None or not len(tokens):
                continue
            probes = np.linspace(0, max(0, len(tokens) - _PROBE_TOKENS), _PROBES, dtype=np.int64)
            highest = max(int(tokens[start : start + _PROBE_TOKENS].max()) for start in probes)
            if highest >= vocab_size:
                raise DataError(
                    f"{prefix}.bin: tokenised by another tokenizer: it holds the id {highest}, the run's tokenizer has "
                    f"{vocab_size} ids; choose the tokenizer it was made with"
                )

    def __reduce__(self) -> Any:
        return self._opened


def open_corpus(
    folder: Path, split: str, *, tokenizer_sha256: str | None, vocab_size: int | None, verify: bool
) -> Corpus:
    """Open one split of a prepared corpus, whatever its kind.

    Args:
        folder: a corpus' folder as ``prepare`` leaves it, with ``corpus.json``.
        split: ``train`` or ``heldout``.
        tokenizer_sha256, vocab_size: of the run's tokenizer.
        verify: read and hash every shard first.

    Raises:
        DataError: see the classes.
    """
    megatron = _json(Path(folder) / "corpus.json").get("megatron")
    if megatron is None:
        return TokenCorpus(Path(folder) / split, tokenizer_sha256=tokenizer_sha256, verify=verify)
    documents = {"train": (0.0, 1 - megatron["heldout_frac"]), "heldout": (1 - megatron["heldout_frac"], 1.0)}[split]
    return MegatronCorpus(*map(Path, megatron["prefixes"]), documents=documents, vocab_size=vocab_size)


def _open_shard(folder: Path, number: int, facts: Mapping[str, Any], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    path = part(folder, number, "bin")
    _expect_size(path, facts["tokens"] * dtype.itemsize)
    offsets = _load(part(folder, number, "docs.npy"), facts["documents"] + 1)
    _load(part(folder, number, "bytes.npy"), facts["documents"])
    if offsets[0] != 0 or offsets[-1] != facts["tokens"]:
        raise DataError(f"{part(folder, number, 'docs.npy')}: does not end with its shard's {facts['tokens']} tokens")
    return _map(path, dtype), offsets


def _load(path: Path, length: int) -> np.ndarray:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: missing or broken ({error}); delete its folder and prepare it again") from error
    if values.shape != (length,) or values.dtype != np.dtype("<i8"):
        raise DataError(f"{path}: expected {length} numbers int64, got {values.shape} {values.dtype}; prepare it again")
    return values


def _open_megatron(prefix: Path, fractions: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and document offsets of a part of a prefix' documents."""
    index, data = prefix.with_name(prefix.name + ".idx"), prefix.with_name(prefix.name + ".bin")
    header = struct.Struct("<9sQBQQ")
    for path in (index, data):
        if not path.is_file():
            raise DataError(
                f"{path}: missing; expected a corpus of Megatron, {prefix.name}.bin beside {prefix.name}.idx"
            )
    with index.open("rb") as file:
        head = file.read(header.size)
    if len(head) < header.size or not head.startswith(_MEGATRON_MAGIC):
        raise DataError(f"{index}: no index of Megatron's memory-mapped format: it must begin with MMIDIDX")
    _, version, code, sequences, boundaries = header.unpack(head)
    if version != 1 or code not in _MEGATRON_DTYPES:
        raise DataError(f"{index}: version {version}, type {code}; read are version 1 and integers, types 1-5 and 8")
    _expect_size(index, header.size + 12 * sequences + 8 * boundaries)
    dtype = np.dtype(_MEGATRON_DTYPES[code])
    sizes = np.memmap(index, "<i4", "r", header.size, (sequences,)).astype(np.int64) if sequences else np.zeros(0, int)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    _expect_size(data, int(starts[-1]) * dtype.itemsize)
    pointers = np.fromfile(index, "<i8", sequences, offset=header.size + 4 * sequences)
    first_sequences = np.fromfile(index, "<i8", boundaries, offset=header.size + 12 * sequences)
    in_order = len(first_sequences) > 0 and first_sequences[0] == 0 and first_sequences[-1] == sequences
    if not in_order or (np.diff(first_sequences) < 0).any() or (pointers != starts[:-1] * dtype.itemsize).any():
        raise DataError(f"{index}: its documents do not lie one after the other in {data.name}, without gaps")
    first, last = (round(fraction * (boundaries - 1)) for fraction in fractions)
    offsets = starts[first_sequences[first : last + 1]]
    return _map(data, dtype)[offsets[0] : offsets[-1]], offsets - offsets[0]


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    """A file as an array; nothing can be mapped of an empty one."""
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)


def _expect_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise DataError(f"{path}: missing, though its index names it; delete its folder and prepare it again")
    if path.stat().st_size != size:
        raise DataError(f"{path}: {path.stat().st_size} bytes, its index says {size}: torn; prepare it again")


def _digests(folder: Path, shards: int) -> list[dict[str, str]]:
    """SHA-256 of every part of every shard; hashing frees the interpreter, so threads use all cores."""

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        shas = list(threads.map(digest, [part(folder, number, name) for number in range(shards) for name in PARTS]))
    return [dict(zip(PARTS, group, strict=True)) for group in zip(*[iter(shas)] * len(PARTS), strict=True)]


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{path}: missing: no tokenised corpus, or its preparation did not end; prepare it again")
    manifest = _json(path)
    if manifest.get("version") != VERSION:
        raise DataError(f"{path}: version {manifest.get('version')!r}; this program reads version {VERSION}")
    missing = {"dtype", "tokenizer_sha256", "tokens", "documents", "bytes", "shards"} - manifest.keys()
    if missing or manifest["dtype"] not in ("uint16", "uint32") or not isinstance(manifest["shards"], list):
        raise DataError(f"{path}: broken: {', '.join(sorted(missing)) or 'dtype or shards'}; prepare it again")
    return manifest


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: missing or broken ({error}); prepare it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: broken: expected named values; prepare it again")
    return value
