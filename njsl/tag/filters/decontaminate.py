"""Leaves out documents that hold text of benchmarks."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from njsl.core.run import write_atomic
from njsl.core.types import ConfigError, DataError
from njsl.corpora.texts import file_sha256
from njsl.tag.base import Batch, Filter, Texts
from njsl.tag.hashes import word_hashes

_TEXT, _LINES = (".txt",), (".jsonl", ".jsonl.gz")
_SUFFIXES = (*_TEXT, *_LINES, ".json", ".json.gz", ".csv", ".parquet")
_STRINGS = 4096  # hashed at once
_HASHES, _MANIFEST = "hashes.npy", "benchmarks.json"
_SLOT_BITS = 24  # at most 16 MiB per process for the table that tells most word runs at once to be clean


class Decontaminate(Filter):
    """Leaves out a document that shares more than ``max_matches`` runs of ``n`` words with the benchmarks.

    A document with one long copied passage and one with many short ones count the same: by their runs. Case,
    punctuation and white space do not count, see ``njsl.tag.hashes``. A text of a benchmark that is shorter than
    ``n`` words counts as one run of its own length, if it has at least ``min_words``; shorter ones, such as the
    answers of a multiple choice, say nothing and are not looked for.

    A clean run matches by chance with a probability of about (runs of the benchmarks) / 2**64: for 10 million runs
    of benchmarks, one run in a trillion or two.

    Source: Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C, for runs of 8 to 13 words.
    """

    def __init__(self, *, files: Sequence[str], n: int = 13, min_words: int = 8, max_matches: int = 0) -> None:
        """Args:
            files: benchmarks: jsonl(.gz) and json(.gz), csv and parquet, of which each string in each record is a
                text, and txt, which is one text.
            n: words per run, >= 1.
            min_words: the shortest text that is looked for, 1 to ``n`` [words].
            max_matches: matching runs a document may have, each occurrence counted, >= 0.

        Raises:
            ConfigError: a parameter is out of range, or a file's name ends in nothing known.
        """
        here = "filter.decontaminate"
        if not files:
            raise ConfigError(f"{here}.files: at least one file of a benchmark is required")
        for index, file in enumerate(files):
            if not file.lower().endswith(_SUFFIXES):
                raise ConfigError(f"{here}.files[{index}]: {file}: expected a name that ends in {', '.join(_SUFFIXES)}")
        if n < 1:
            raise ConfigError(f"{here}.n: expected at least 1, got {n}")
        if not 1 <= min_words <= n:
            raise ConfigError(f"{here}.min_words: expected 1 to n={n}, got {min_words}")
        if max_matches < 0:
            raise ConfigError(f"{here}.max_matches: expected at least 0, got {max_matches}")
        self.files, self.n, self.min_words, self.max_matches = list(files), n, min_words, max_matches

    def prepare(self, corpora: Mapping[str, Texts], folder: Path, progress: Progress) -> None:
        """Hash the benchmarks' runs.

        Raises:
            ConfigError: a file is missing, has changed since an earlier call, or no text of them is long enough.
            DataError: a file cannot be read as what its name says.
        """
        digests = []
        for index, file in enumerate(self.files):
            if not Path(file).is_file():
                raise ConfigError(f"filter.decontaminate.files[{index}]: {file}: no such file")
            digests.append(file_sha256(Path(file)))
        manifest = folder / _MANIFEST
        if manifest.exists():
            if json.loads(manifest.read_text(encoding="utf-8"))["sha256"] != digests:
                raise ConfigError("filter.decontaminate.files: they have changed since this run began; start a new one")
            return
        task = progress.add_task("decontaminate: reading benchmarks", total=len(self.files))
        found, lengths = [], set[int]()
        for file in self.files:
            for texts in _packs(_strings(Path(file))):
                hashes, used = self._runs(texts)
                found.append(hashes)
                lengths |= used
            progress.advance(task)
        if not lengths:
            raise ConfigError(
                f"filter.decontaminate.files: no text in them has min_words={self.min_words} words; nothing to look for"
            )
        hashes = np.unique(np.concatenate(found))
        buffer = BytesIO()
        np.save(buffer, hashes)
        write_atomic(folder / _HASHES, buffer.getvalue())
        write_atomic(manifest, json.dumps({"sha256": digests, "lengths": sorted(lengths), "runs": len(hashes)}) + "\n")

    def _runs(self, texts: list[str]) -> tuple[np.ndarray, set[int]]:
        """Hashes of what is looked for in texts of benchmarks, and their lengths [words]."""
        words = word_hashes(texts)
        hashes, _ = words.runs(self.n)
        whole, owner = words.whole(self.n, self.min_words)
        lengths = set(words.counts[owner].tolist()) | ({self.n} if len(hashes) else set())
        return np.concatenate([hashes, whole]), lengths

    def load(self, folder: Path) -> None:
        """Map the hashes into memory, and mark where they lie."""
        self._lengths = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["lengths"]
        self._hashes = np.load(folder / _HASHES, mmap_mode="r")
        # About one slot in sixteen is taken, so that one look tells of most runs that they are clean.
        bits = min(_SLOT_BITS, (16 * len(self._hashes)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._taken = np.zeros(1 << bits, bool)
        self._taken[self._hashes >> self._shift] = True

    def reasons(self, batch: Batch, corpus: str) -> list[str | None]:
        """Per document how many of its runs the benchmarks hold, if they are too many."""
        words = word_hashes(batch.texts)
        matches = np.zeros(len(batch), np.int64)
        for length in self._lengths:
            hashes, owner = words.runs(length)
            maybe = np.flatnonzero(self._taken[hashes >> self._shift])
            places = np.minimum(np.searchsorted(self._hashes, hashes[maybe]), len(self._hashes) - 1)
            certain = maybe[self._hashes[places] == hashes[maybe]]
            matches += np.bincount(owner[certain], minlength=len(batch))
        runs = np.maximum(words.counts - self.n + 1, 1)
        return [
            f"benchmark text: {count} matching word runs of {total} > {self.max_matches}"
            if count > self.max_matches
            else None
            for count, total in zip(matches.tolist(), runs.tolist(), strict=True)
        ]


def _packs(strings: Iterable[str]) -> Iterator[list[str]]:
    pack: list[str] = []
    for string in strings:
        pack.append(string)
        if len(pack) == _STRINGS:
            yield pack
            pack = []
    if pack:
        yield pack


def _strings(path: Path) -> Iterator[str]:
    """Every string of a benchmark file, in order.

    Raises:
        DataError: it cannot be read as what its name says.
    """
    name = path.name.lower()
    try:
        if name.endswith(_TEXT):
            yield path.read_text(encoding="utf-8-sig")
        elif name.endswith(".parquet"):
            yield from _parquet(path)
        elif name.endswith(".csv"):
            yield from _csv(path)
        else:
            with gzip.open(path, "rb") if name.endswith(".gz") else open(path, "rb") as file:
                if name.endswith(_LINES):
                    for number, line in enumerate(file, 1):
                        if line.strip():
                            yield from _inside(_json(line, f"{path}, line {number}"))
                else:
                    yield from _inside(_json(file.read(), str(path)))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _json(data: bytes, place: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: no JSON: {error}") from error


def _inside(record: Any) -> Iterator[str]:
    """The strings of a record; names of fields do not count."""
    left = [record]
    while left:
        item = left.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            left.extend(reversed(item.values()))
        elif isinstance(item, list):
            left.extend(reversed(item))


def _csv(path: Path) -> Iterator[str]:
    import pandas as pd

    try:
        # Rows that lack cells are as good as any: only what stands in them is looked at.
        for frame in pd.read_csv(path, dtype=str, keep_default_na=False, chunksize=_STRINGS):
            for row in frame.itertuples(index=False):
                yield from (cell for cell in row if isinstance(cell, str))
    except (ValueError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path}: no CSV: {' '.join(str(error).split())}") from error


def _parquet(path: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for rows in pq.ParquetFile(path).iter_batches(batch_size=_STRINGS):
            yield from _inside(rows.to_pylist())
    except pa.ArrowException as error:
        raise DataError(f"{path}: no Parquet: {' '.join(str(error).split())}") from error
