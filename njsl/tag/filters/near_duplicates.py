"""Leaves out documents that are the same as an earlier one, or nearly so."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from rich.progress import Progress

from njsl.core.types import ConfigError, DataError, Document
from njsl.tag.base import Batch, Filter, Texts
from njsl.tag.hashes import mix, text_hash, word_hashes

_RESULT = "left_out.arrow"  # sorted by key; what it is a duplicate of beside it
_PACK_CHARS, _PACK_DOCUMENTS = 4 << 20, 4096  # read at once
_PAIRS = 1 << 14  # verified at once
_NEIGHBOURS = 16  # all pairs of a boilerplate that a million documents share would be too many
_IDS, _SIGNATURES, _KEYS, _BAND, _ROOTS = "ids.parquet", "signatures.u32", "keys.u64", "band{}.u64", "roots.i64"
_SCHEMA = pa.schema([("corpus", pa.string()), ("id", pa.string())])


class NearDuplicates(Filter):
    """Keeps the first document of each cluster of near-duplicates, in the order of the corpora.

    Two documents are near-duplicates if their sets of ``words``-word runs (case, punctuation and white space do not
    count, see ``njsl.tag.hashes``) have a Jaccard similarity of at least ``threshold``, as estimated from MinHash
    signatures; the estimate's standard error is at most sqrt(J (1 - J) / permutations), 0.035 for 0.8 and 128. A
    cluster is all that such pairs link, directly or not. Exact duplicates are among them, whatever their length.

    Candidates are documents that agree in one band of ``rows`` numbers of their signatures. ``rows`` is the largest
    with which a pair right at the threshold is one with a probability of at least ``recall``; more similar ones are
    more likely. Of the documents that agree in a band, each is compared with the first and with the 16 before it.

    On disk it needs about 4 * permutations + 8 * bands bytes per document while it works, afterwards those left out.

    Source: Broder 1997, "On the resemblance and containment of documents"; bands as in Leskovec, Rajaraman and
    Ullman, "Mining of Massive Datasets", chapter 3.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.8,
        words: int = 5,
        permutations: int = 128,
        recall: float = 0.95,
        across: bool = True,
        seed: int = 0,
        memory_mib: int = 256,
    ) -> None:
        """Args:
            threshold: Jaccard similarity, above 0, up to 1.
            words: per run, >= 1; a shorter document is one run.
            permutations: numbers in a signature, >= 2.
            recall: probability that a pair at the threshold is looked at, above 0, below 1.
            across: whether a document that another corpus holds already is left out as well.
            seed: of the permutations, 0..2**32-1.
            memory_mib: for sorting, >= 1 [MiB].

        Raises:
            ConfigError: one is out of its range, or no bands reach ``recall``.
        """
        here = "filter.near_duplicates"
        if not 0 < threshold <= 1:
            raise ConfigError(f"{here}.threshold: expected a similarity above 0, up to 1, got {threshold:g}")
        if not 0 < recall < 1:
            raise ConfigError(f"{here}.recall: expected a probability above 0 and below 1, got {recall:g}")
        least = (
            ("words", words, 1),
            ("permutations", permutations, 2),
            ("memory_mib", memory_mib, 1),
            ("seed", seed, 0),
        )
        for name, value, minimum in least:
            if value < minimum:
                raise ConfigError(f"{here}.{name}: expected at least {minimum}, got {value}")
        if seed >= 2**32:
            raise ConfigError(f"{here}.seed: expected a seed below 2**32, got {seed}")
        self.threshold, self.words, self.permutations, self.recall = threshold, words, permutations, recall
        self.across, self.seed, self.memory_mib = across, seed, memory_mib
        self.bands, self.rows = bands_and_rows(threshold, permutations, recall)

    def prepare(self, corpora: Mapping[str, Texts], folder: Path, progress: Progress) -> None:
        """Find the documents to leave out.

        Raises:
            DataError: two documents of a corpus share an id, and one of them is to be left out.
        """
        if (folder / _RESULT).exists():
            return
        count = self._sign(corpora, folder, progress)
        roots = np.memmap(folder / _ROOTS, np.int64, "w+", shape=(count + 1,))[:count]
        for start in range(0, count, self._block()):
            end = min(start + self._block(), count)
            roots[start:end] = np.arange(start, end)
        if count:
            self._unite(roots, folder, progress)
        self._write(roots, folder)

    def _sign(self, corpora: Mapping[str, Texts], folder: Path, progress: Progress) -> int:
        """Write keys, ids, signatures and bands of all documents to files of their own; returns their number."""
        import pyarrow.parquet as pq

        names = [_SIGNATURES, _KEYS, *(_BAND.format(band) for band in range(self.bands))]
        files = {name: open(folder / name, "wb") for name in names}  # noqa: SIM115
        count = 0
        try:
            with pq.ParquetWriter(folder / _IDS, _SCHEMA) as ids:
                for number, (corpus, texts) in enumerate(corpora.items()):
                    task = progress.add_task(f"near_duplicates: reading {corpus}", total=None)
                    for pack in _packs(texts()):
                        signatures = self._signatures([document.text for document in pack])
                        signatures.tofile(files[_SIGNATURES])
                        _keys(pack, corpus).tofile(files[_KEYS])
                        for band, keys in enumerate(self._band_keys(signatures, 0 if self.across else number)):
                            keys.tofile(files[_BAND.format(band)])
                        columns = [pa.array([corpus] * len(pack)), pa.array([document.id for document in pack])]
                        ids.write_batch(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))
                        count += len(pack)
                        progress.advance(task, len(pack))
        finally:
            for file in files.values():
                file.close()
        return count

    def _signatures(self, texts: list[str]) -> np.ndarray:
        """MinHash signatures [documents, permutations], uint32."""
        from rensa import RMinHash

        words = word_hashes(texts)
        hashes, owner = words.runs(self.words)
        # What is too short for a run of its own is one; without any word, the text as it is.
        whole, short = words.whole(self.words)
        none = np.flatnonzero(words.counts == 0)
        hashes = np.concatenate([hashes, whole, np.array([text_hash(texts[index]) for index in none], np.uint64)])
        owner = np.concatenate([owner, short, none])
        hashes = hashes[np.argsort(owner, kind="stable")]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(texts)))])
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, offsets.astype(np.uint64), self.permutations, self.seed
        )
        return np.array(matrix.to_rows(), np.uint32).reshape(len(texts), self.permutations)

    def _band_keys(self, signatures: np.ndarray, salt: int) -> Iterator[np.ndarray]:
        """Per band a hash of each document's numbers in it, uint64."""
        for band in range(self.bands):
            keys = np.full(len(signatures), salt, np.uint64)
            for column in range(band * self.rows, (band + 1) * self.rows):
                keys = mix(keys + signatures[:, column].astype(np.uint64) + np.uint64(1))
            yield keys

    def _unite(self, roots: np.ndarray, folder: Path, progress: Progress) -> None:
        """Make the first document of its cluster the root of each document."""
        task = progress.add_task("near_duplicates: comparing", total=self.bands)
        with open(folder / _SIGNATURES, "rb") as signatures:
            for band in range(self.bands):
                for first, second in self._candidates(np.memmap(folder / _BAND.format(band), np.uint64, "r")):
                    apart = _find(roots, first) != _find(roots, second)
                    first, second = first[apart], second[apart]
                    similar = self._similarity(signatures, first, second) >= self.threshold
                    _link(roots, first[similar], second[similar])
                for start in range(0, len(roots), self._block()):
                    roots[start : start + self._block()] = _find(roots, roots[start : start + self._block()])
                progress.advance(task)

    def _similarity(self, signatures: BinaryIO, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Estimated Jaccard similarities 0..1 of pairs of documents."""
        size = 4 * self.permutations
        # Read, not mapped: pages of a map would count as this process' memory.
        data = b"".join(
            os.pread(signatures.fileno(), size, size * place) for place in np.concatenate([first, second]).tolist()
        )
        numbers = np.frombuffer(data, np.uint32).reshape(2, len(first), self.permutations)
        return (numbers[0] == numbers[1]).mean(axis=1)

    def _block(self) -> int:
        """Documents whose keys are sorted at once: key, place, and as much again for the sort."""
        return max(1, self.memory_mib * 2**20 // 32)

    def _candidates(self, keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs of documents with equal keys: each with the first of its kind and with some before it."""
        parts = -(-len(keys) // self._block())
        for part in range(parts):
            places = np.concatenate(
                [
                    start + np.flatnonzero(keys[start : start + self._block()] % np.uint64(parts) == part)
                    for start in range(0, len(keys), self._block())
                ]
            )
            chosen = keys[places]
            order = np.argsort(chosen, kind="stable")
            places, chosen = places[order], chosen[order]
            new = np.concatenate([[True], chosen[1:] != chosen[:-1]])
            starts = np.flatnonzero(new)
            firsts = np.repeat(starts, np.diff(starts, append=len(places)))
            again = np.flatnonzero(~new)
            for some in _blocks(again):
                yield places[firsts[some]], places[some]
            for lag in range(1, _NEIGHBOURS + 1):
                # The first has had its turn.
                again = again[again - lag > firsts[again]]
                for some in _blocks(again):
                    yield places[some - lag], places[some]

    def _write(self, roots: np.ndarray, folder: Path) -> None:
        """Write the result, and remove what was needed for it."""
        import pyarrow.parquet as pq

        left_out = np.zeros(0, np.int64)
        for start in range(0, len(roots), self._block()):
            block = roots[start : start + self._block()]
            left_out = np.append(left_out, start + np.flatnonzero(block != np.arange(start, start + len(block))))
        kept = np.unique(roots[left_out])
        names, start = [], 0
        for rows in pq.ParquetFile(folder / _IDS).iter_batches():
            low, high = np.searchsorted(kept, [start, start + len(rows)])
            names.append(rows.take(pa.array(kept[low:high] - start)))
            start += len(rows)
        table = pa.Table.from_batches(names, _SCHEMA)
        keys = np.memmap(folder / _KEYS, np.uint64, "r") if start else np.zeros(0, np.uint64)
        left_out = left_out[np.argsort(keys[left_out], kind="stable")]
        self._check_ids(keys, left_out, roots, folder)
        beside = folder / f".{_RESULT}.tmp"
        schema = pa.schema([("key", pa.uint64()), *_SCHEMA])
        with pa.OSFile(str(beside), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for start in range(0, len(left_out), _PACK_DOCUMENTS):
                some = left_out[start : start + _PACK_DOCUMENTS]
                of = table.take(pa.array(np.searchsorted(kept, roots[some]))).combine_chunks()
                writer.write_table(of.add_column(0, schema.field(0), pa.array(keys[some])))
        os.replace(beside, folder / _RESULT)
        for path in folder.iterdir():
            if path.name != _RESULT:
                path.unlink()

    def _check_ids(self, keys: np.ndarray, left_out: np.ndarray, roots: np.ndarray, folder: Path) -> None:
        """Refuse ids that would leave out a document that is to be kept."""
        import pyarrow.parquet as pq

        chosen = keys[left_out]
        for start in range(0, len(keys) if len(chosen) else 0, self._block()):
            block = keys[start : start + self._block()]
            known = chosen[np.minimum(np.searchsorted(chosen, block), len(chosen) - 1)] == block
            twice = start + np.flatnonzero(
                known & (roots[start : start + len(block)] == np.arange(start, start + len(block)))
            )
            if len(twice):
                row = pq.read_table(folder / _IDS).slice(int(twice[0]), 1).to_pylist()[0]
                raise DataError(
                    f"{row['corpus']}: several documents have the id {row['id']!r}, so near-duplicates cannot be told "
                    "apart; expected ids that are unique within a corpus"
                )

    def load(self, folder: Path) -> None:
        """Map the result into memory."""
        self._of = pa.ipc.open_file(pa.memory_map(str(folder / _RESULT))).read_all()
        self._left_out = self._of["key"].to_numpy()

    def reasons(self, batch: Batch, corpus: str) -> list[str | None]:
        """Per document the id of the one that is kept instead, with its corpus if that is another."""
        keys = _keys(batch.documents, corpus)
        places = np.searchsorted(self._left_out, keys)
        reasons: list[str | None] = [None] * len(batch)
        for index in np.flatnonzero(places < len(self._left_out)).tolist():
            place = int(places[index])
            if self._left_out[place] == keys[index]:
                other = self._of["corpus"][place].as_py()
                where = "" if other == corpus else f" of {other}"
                reasons[index] = f"near-duplicate of {self._of['id'][place].as_py()}{where}"
        return reasons


def bands_and_rows(threshold: float, permutations: int, recall: float) -> tuple[int, int]:
    """Bands and rows per band: the most rows with which 1 - (1 - threshold**rows)**bands is at least ``recall``.

    Raises:
        ConfigError: not even one row per band is enough.
    """
    for rows in range(permutations, 0, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= recall:
            return bands, rows
    raise ConfigError(
        f"filter.near_duplicates.recall: {permutations} permutations find a pair of similarity {threshold:g} with a "
        f"probability of at most {1 - (1 - threshold) ** permutations:.2f}, not {recall:g}; take more permutations"
    )


def _packs(documents: Iterator[Document]) -> Iterator[list[Document]]:
    pack: list[Document] = []
    chars = 0
    for document in documents:
        pack.append(document)
        chars += len(document.text)
        if chars >= _PACK_CHARS or len(pack) == _PACK_DOCUMENTS:
            yield pack
            pack, chars = [], 0
    if pack:
        yield pack


def _keys(documents: Iterable[Document], corpus: str) -> np.ndarray:
    return np.array([text_hash(corpus, document.id) for document in documents], np.uint64)


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _PAIRS):
        yield rows[start : start + _PAIRS]


def _find(roots: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The root of each of some places."""
    while True:
        above = roots[places]
        if np.array_equal(above, places):
            return above
        places = above


def _link(roots: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Join the clusters of pairs; the smallest place becomes the root of all."""
    while True:
        first, second = _find(roots, first), _find(roots, second)
        apart = first != second
        if not apart.any():
            return
        first, second = first[apart], second[apart]
        np.minimum.at(roots, np.maximum(first, second), np.minimum(first, second))
