"""What becomes of each document of a corpus: training, held out by group, or left out as a copy or too long."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import heapq
import json
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from njsl.core.config import CorporaConfig
from njsl.core.types import DataError, Document
from njsl.core.workers import Workers
from njsl.corpora import readers

HELDOUT_TEXT = "heldout.jsonl.gz"
DROPPED, TRAIN, HELDOUT = 0, 1, 2
_VERSION = 1  # of everything that is made of text; part of every key
# Below so many bytes of files, work is done before another process has started.
_WORTH_READING = 32 * 2**20
_HALVES = ("high", "low")


@dataclass(frozen=True)
class Fields:
    """How a source file is read and split; what of the config decides about the documents.

    Attributes:
        text, group: fields of a record.
        max_chars: longer documents are left out.
        heldout_frac: share of the groups held out.
        seed: of their choice.
    """

    text: str | None
    group: str | None
    max_chars: int | None
    heldout_frac: float
    seed: int

    @classmethod
    def of(cls, corpora: CorporaConfig) -> Fields:
        return cls(
            corpora.text_field, corpora.group_field, corpora.max_document_chars, corpora.heldout_frac, corpora.seed
        )

    def key(self) -> str:
        return content_key(dataclasses.asdict(self))

    def read(self, path: Path, broken: readers.Broken) -> Iterator[Document]:
        return readers.read(path, text_field=self.text, group_field=self.group, broken=broken)


@dataclass(frozen=True)
class Scan:
    """The documents of one source file, in its order.

    Attributes:
        high, low: halves of the text's 16-byte hash [documents].
        group: hash of the group [documents].
        size: UTF-8 bytes of the text [documents].
        long: longer than ``max_document_chars`` [documents].
        broken: records that could not be read.
        reason: why the first of them could not.
    """

    high: np.ndarray
    low: np.ndarray
    group: np.ndarray
    size: np.ndarray
    long: np.ndarray
    broken: int
    reason: str

    @classmethod
    def make(cls, job: tuple[Path, Path, Fields]) -> None:
        """Hash one source file into another file."""
        source, target, fields = job
        broken = readers.Broken()
        digests, groups, sizes, long = bytearray(), array("Q"), array("q"), array("b")
        for document in fields.read(source, broken):
            text = document.text.encode()
            digests += hashlib.blake2b(text, digest_size=16).digest()
            groups.append(_group_hash(document.group, fields.seed))
            sizes.append(len(text))
            long.append(fields.max_chars is not None and len(document.text) > fields.max_chars)
        halves = np.frombuffer(digests, "<u8").reshape(-1, 2)
        beside = target.with_name(f".{target.name}.tmp")
        with beside.open("wb") as file:
            np.savez(
                file,
                high=halves[:, 0],
                low=halves[:, 1],
                group=np.array(groups, "<u8"),
                size=np.array(sizes, "<i8"),
                long=np.array(long, bool),
                broken=broken.total,
                reason=str(broken) if broken.total else "",
            )
        os.replace(beside, target)

    @classmethod
    def load(cls, path: Path) -> Scan:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in ("high", "low", "group", "size", "long")}
            return cls(**arrays, broken=int(found["broken"]), reason=str(found["reason"]))


class Split:
    """What becomes of each document: training, held out, or left out. Nothing is read before it is asked for."""

    def __init__(self, folder: Path, files: dict[str, list[Path]], fields: Fields, workers: Workers) -> None:
        self.folder, self.files, self.fields = folder, files, fields
        self._workers = workers

    @functools.cached_property
    def scans(self) -> dict[str, list[Scan]]:
        """By corpus and file."""
        jobs = []
        for name, paths in self.files.items():
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            jobs += [(path, self._scan(name, number), self.fields) for number, path in enumerate(paths)]
        jobs = [job for job in jobs if not job[1].is_file()]
        sizes = [source.stat().st_size for source, _, _ in jobs]
        self._workers.run(Scan.make, jobs, sizes, "documents: hashing", _WORTH_READING)
        return {
            name: [Scan.load(self._scan(name, number)) for number in range(len(paths))]
            for name, paths in self.files.items()
        }

    @functools.cached_property
    def fates(self) -> dict[str, list[np.ndarray]]:
        """``DROPPED``, ``TRAIN`` or ``HELDOUT`` by corpus, file and document."""
        joined = {name: _joined(scans) for name, scans in self.scans.items()}
        heldout = {name: self._heldout(name, scan) & ~scan.long for name, scan in joined.items()}
        seen = [np.concatenate([getattr(joined[name], half)[heldout[name]] for name in joined]) for half in _HALVES]
        fates = {}
        for name, scan in joined.items():
            fate = np.full(len(scan.size), DROPPED, np.uint8)
            ours = np.flatnonzero(heldout[name])
            fate[ours[_first(scan.high[ours], scan.low[ours])]] = HELDOUT
            # What is held out in any corpus comes first, so that a copy of it is never new.
            others = np.flatnonzero(~heldout[name] & ~scan.long)
            new = _first(np.concatenate([seen[0], scan.high[others]]), np.concatenate([seen[1], scan.low[others]]))
            fate[others[new[len(seen[0]) :]]] = TRAIN
            if not (fate == TRAIN).any():
                raise DataError(
                    f"corpora.sources.{name}: no training document is left of {len(fate)} in {len(self.files[name])} "
                    f"files ({self.files[name][0]}, ...): they are held out, too long, or copies of held-out ones"
                )
            ends = np.cumsum([len(part.size) for part in self.scans[name]])
            fates[name] = np.split(fate, ends[:-1])
        return fates

    def _heldout(self, name: str, scan: Scan) -> np.ndarray:
        """Documents of the groups whose hash is among the lowest; at least of one group."""
        if not len(scan.size):
            broken = sum(part.broken for part in self.scans[name])
            reason = next((f"; {part.reason}" for part in self.scans[name] if part.broken), "")
            raise DataError(
                f"{self.files[name][0]}: corpus {name} is empty: no document in {len(self.files[name])} files, "
                f"{broken} broken records{reason}"
            )
        groups = np.unique(scan.group[~scan.long])
        if len(groups) < 2:
            raise DataError(
                f"{self.files[name][0]}: corpus {name} has {len(groups)} group of documents to split, "
                f"{scan.long.sum()} of its {len(scan.long)} documents being too long; at least 2 are needed: set "
                "corpora.group_field=null, or to a finer field"
            )
        limit = min(int(self.fields.heldout_frac * 2**64), 2**64 - 1)
        return scan.group <= np.uint64(max(limit, int(groups[0])))

    def training_texts(self) -> Iterator[str]:
        """Texts to train a tokenizer on, the same number of bytes of each corpus at any time, all in the end."""
        streams = {name: self._training_texts(name) for name in self.files}
        queue = [(0, name) for name in streams]
        while queue:
            size, name = heapq.heappop(queue)
            text = next(streams[name], None)
            if text is not None:
                yield text
                heapq.heappush(queue, (size + len(text.encode()), name))

    def _training_texts(self, name: str) -> Iterator[str]:
        """Every fourth document of files in random order, then the next quarter."""

        def place(number: int) -> bytes:
            return hashlib.blake2b(f"{self.fields.seed}\0{label(self.files[name][number])}".encode()).digest()

        order = sorted(range(len(self.files[name])), key=place)
        for quarter in range(4):
            for number in order:
                wanted = self.fates[name][number] == TRAIN
                wanted &= self.scans[name][number].low % np.uint64(4) == quarter
                for document in chosen(self.files[name][number], wanted, self.fields):
                    yield document.text

    def heldout_texts(self) -> dict[str, list[Path]]:
        """Files with the held-out documents, by corpus."""
        jobs: list[tuple[Path, np.ndarray, Fields, Path]] = []
        found: dict[str, list[Path]] = {}
        for name, paths in self.files.items():
            found[name] = []
            for number, path in enumerate(paths):
                wanted = self.fates[name][number] == HELDOUT
                if wanted.any():
                    target = self.folder / name / f"{number:05d}.{HELDOUT_TEXT}"
                    found[name].append(target)
                    jobs.append((path, wanted, self.fields, target))
        jobs = [job for job in jobs if not job[-1].is_file()]
        sizes = [job[0].stat().st_size for job in jobs]
        self._workers.run(write_chosen, jobs, sizes, "documents: holding out", _WORTH_READING)
        return found

    def counts(self, name: str) -> dict[str, Any]:
        """What ``corpus.json`` says about the documents."""
        scan, fate = _joined(self.scans[name]), np.concatenate(self.fates[name])
        broken = [part for part in self.scans[name] if part.broken]
        return {
            "documents": len(fate),
            "broken_records": sum(part.broken for part in broken),
            "broken_reason": broken[0].reason if broken else None,
            "too_long": int(scan.long.sum()),
            "duplicates_removed": int((~scan.long & (fate == DROPPED)).sum()),
            "groups": len(np.unique(scan.group[~scan.long])),
            "heldout_groups": len(np.unique(scan.group[fate == HELDOUT])),
        }

    def _scan(self, name: str, number: int) -> Path:
        return self.folder / name / f"{number:05d}.npz"


def chosen(path: Path, wanted: np.ndarray, fields: Fields) -> Iterator[Document]:
    """Some documents of a file; it is read no further than to the last of them."""
    left = int(wanted.sum())
    if left:
        for document, chosen in zip(fields.read(path, readers.Broken()), wanted, strict=False):
            if chosen:
                yield document
                left -= 1
                if not left:
                    return


def write_chosen(job: tuple[Path, np.ndarray, Fields, Path]) -> None:
    source, wanted, fields, target = job
    readers.write(target, chosen(source, wanted, fields), "gzip")


def _joined(scans: Sequence[Scan]) -> Scan:
    """All files of a corpus as one."""
    arrays = {
        name: np.concatenate([getattr(scan, name) for scan in scans])
        for name in ("high", "low", "group", "size", "long")
    }
    return Scan(**arrays, broken=sum(scan.broken for scan in scans), reason="")


def _first(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Whether each 128-bit hash is the first of its value: bool, as long as the halves."""
    order = np.lexsort((low, high))  # stable: equal ones stay in their order
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    first = np.empty(len(order), bool)
    first[order] = new
    return first


def _group_hash(group: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{group}".encode(), digest_size=8).digest(), "little")


def label(path: Path) -> str:
    """A file's name wherever the cache lies."""
    return f"{path.parent.name}/{path.name}"


def content_key(*parts: Any) -> str:
    """A short name for content."""
    packed = json.dumps([_VERSION, *parts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(packed.encode()).hexdigest()[:16]
