"""Text to tokenised shards: hash every document, hold groups out, drop duplicates, tokenise on all cores.

Everything lies in the cache, in folders named after what went in, each file written beside its place and then renamed:
what is there is whole and is not made again, so a preparation that was killed goes on, and a second run does nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import heapq
import json
import os
import signal
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from njsl.core.config import CorporaConfig, SourceConfig, TrainConfig
from njsl.core.run import write_atomic
from njsl.core.types import ConfigError, DataError, Document
from njsl.corpora import readers
from njsl.train import corpus as shards_
from njsl.train.corpus import MANIFEST, MegatronCorpus
from njsl.train.mix import check_mix
from njsl.train.tokenizer import Tokenizer

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from rich.progress import Progress

VERSION = 1
CORPUS, HELDOUT_TEXT = "corpus.json", "heldout.jsonl.gz"
SPLITS = ("train", "heldout")
_DROPPED, _TRAIN, _HELDOUT = 0, 1, 2
# Bytes of text per shard; a corpus has at most so many shards, which are the larger then.
_SHARD_BYTES, _MAX_SHARDS = 8 * 2**20, 256
_BATCH_BYTES = 2**20
# Below so many bytes of files or text, work is done before another process has started.
_WORTH_READING, _WORTH_TOKENISING = 32 * 2**20, 2 * 2**20


class MakesTokenizer(Protocol):
    """A component of the group ``tokenizer``."""

    needs_text: Any

    def identity(self) -> str: ...

    def make(self, texts: Callable[[], Iterator[str]], folder: Path, progress: Progress | None) -> None: ...


@dataclass(frozen=True)
class Prepared:
    """What training and evaluation read.

    Attributes:
        tokenizer: a Hugging Face tokenizer folder.
        corpora: a folder per corpus: ``corpus.json``, and unless it is Megatron's ``train/`` and ``heldout/`` (token
            shards) and ``heldout.jsonl.gz``, the text of the latter.
    """

    tokenizer: Path
    corpora: dict[str, Path]

    @classmethod
    def of(cls, tokenizer: str, corpora: Mapping[str, str]) -> Prepared:
        """The inverse of ``tokenizer`` and ``folders`` as strings."""
        return cls(Path(tokenizer), {name: Path(folder) for name, folder in corpora.items()})

    def folders(self) -> dict[str, str]:
        """The corpora's folders as strings."""
        return {name: str(folder) for name, folder in self.corpora.items()}

    def heldout_texts(self) -> dict[str, Path]:
        """Held-out text by corpus; none of Megatron's, which have no text."""
        files = {name: folder / HELDOUT_TEXT for name, folder in self.corpora.items()}
        return {name: file for name, file in files.items() if file.is_file()}

    def manifests(self) -> dict[str, str]:
        """What names the training tokens of each corpus: it holds their hashes, of Megatron's the index' hash."""
        named = {}
        for name, folder in self.corpora.items():
            manifest = folder / "train" / MANIFEST
            named[name] = (manifest if manifest.is_file() else folder / CORPUS).read_text(encoding="utf-8")
        return named


def prepare(cfg: TrainConfig, tokenizer: MakesTokenizer, cache: Path, progress: Progress | None) -> Prepared:
    """Bring the corpora of the mix and the tokenizer into the cache, as far as they are not there yet.

    Only one process at a time works in a cache; others wait for it.

    Args:
        cfg: ``corpora`` and ``data_mix`` are read; of the weights only the names, so that all mixes of the same corpora
            share tokenizer and shards.
        tokenizer: makes the tokenizer folder.
        cache: a folder.
        progress: shows what is done.

    Raises:
        ConfigError: a corpus that does not exist, or a value that cannot be.
        DataError: a corpus is missing, damaged, empty, or cannot be split.
    """
    from njsl.corpora import texts  # not at the top: every worker process would wait for what it imports

    corpora = cfg.corpora
    if not 0 < corpora.heldout_frac < 1:
        raise ConfigError(f"corpora.heldout_frac: expected a share between 0 and 1, got {corpora.heldout_frac:g}")
    check_mix(cfg.data_mix, texts.corpus_names(corpora))
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache, progress):
        if corpora.kind == "megatron":
            prepared = _megatron(cfg, tokenizer, cache, progress)
        else:
            prepared = _from_text(cfg, tokenizer, cache, progress)
        record = {
            "tokenizer": str(prepared.tokenizer.relative_to(cache)),
            "corpora": {name: str(folder.relative_to(cache)) for name, folder in prepared.corpora.items()},
        }
        _write_changed(_record(cfg, tokenizer, cache), json.dumps(record, indent=1, ensure_ascii=False))
    return prepared


def find_prepared(cfg: TrainConfig, tokenizer: MakesTokenizer, cache: Path) -> Prepared | None:
    """What ``prepare`` last made of the same config, without looking at the sources; None if there is nothing.

    Raises:
        ConfigError: weights that cannot be.
    """
    check_mix(cfg.data_mix, cfg.data_mix.weights)
    path = _record(cfg, tokenizer, cache)
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    found = Prepared(cache / record["tokenizer"], {name: cache / folder for name, folder in record["corpora"].items()})
    whole = found.tokenizer.is_dir() and all((folder / CORPUS).is_file() for folder in found.corpora.values())
    return found if whole else None


# ---------------------------------------------------------------------------------------------------------- the stages


def _from_text(cfg: TrainConfig, tokenizer: MakesTokenizer, cache: Path, progress: Progress | None) -> Prepared:
    from njsl.corpora import texts

    names = sorted(cfg.data_mix.weights)
    files = texts.text_files(cfg.corpora, names, cache / "text", progress)
    hashes = _hashes({path for paths in files.values() for path in paths}, cache, progress)
    fields = Fields.of(cfg.corpora)
    split_key = _key(fields.key(), {name: [[_label(path), hashes[path]] for path in files[name]] for name in names})
    with _Workers(progress) as workers:
        split = _Split(cache / "splits" / split_key, {name: files[name] for name in names}, fields, workers)
        folder = _tokenizer(tokenizer, split.training_texts, split_key, cache, progress)
        sha256 = Tokenizer.load(folder).sha256
        corpora = {name: cache / "corpora" / _key(split_key, sha256) / name for name in names}
        if not all((path / CORPUS).is_file() for path in corpora.values()):
            _tokenise_all(split, corpora, folder, sha256, hashes, workers)
    return Prepared(folder, corpora)


def _megatron(cfg: TrainConfig, tokenizer: MakesTokenizer, cache: Path, progress: Progress | None) -> Prepared:
    corpora = cfg.corpora
    if tokenizer.needs_text:
        raise ConfigError(
            "tokenizer: corpora=megatron holds no text to train one on; choose the corpora's own with tokenizer=hf or "
            "tokenizer=sentencepiece"
        )
    if corpora.path is None:
        raise ConfigError("corpora.path: a value is required: the folder with the .bin and .idx files")
    folder = _tokenizer(tokenizer, lambda: iter(()), "", cache, progress)
    vocab_size = Tokenizer.load(folder).vocab_size
    found = {}
    for name in cfg.data_mix.weights:
        prefixes = [Path(corpora.path).expanduser().resolve() / prefix for prefix in corpora.sources[name].files]
        if not prefixes:
            raise ConfigError(f"corpora.sources.{name}.files: expected prefixes of .bin/.idx files, got none")
        for part in ((0.0, 1 - corpora.heldout_frac), (1 - corpora.heldout_frac, 1.0)):
            MegatronCorpus(*prefixes, documents=part, vocab_size=vocab_size)
        indices = [prefix.with_name(prefix.name + ".idx") for prefix in prefixes]
        hashes = _hashes(set(indices), cache, progress)
        facts = {
            "prefixes": [str(prefix) for prefix in prefixes],
            "heldout_frac": corpora.heldout_frac,
            "index_sha256": [hashes[index] for index in indices],
        }
        found[name] = cache / "corpora" / _key(facts) / name
        found[name].mkdir(parents=True, exist_ok=True)
        _write_changed(found[name] / CORPUS, json.dumps({"megatron": facts}, indent=1, ensure_ascii=False))
    return Prepared(folder, found)


def _tokenizer(
    tokenizer: MakesTokenizer,
    training_texts: Callable[[], Iterator[str]],
    split_key: str,
    cache: Path,
    progress: Progress | None,
) -> Path:
    folder = cache / "tokenizers" / _key(tokenizer.identity(), split_key if tokenizer.needs_text else "")
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.make(training_texts, folder, progress)
    return folder


@dataclass(frozen=True)
class Fields:
    """How a source file is read and split; what of the config decides about the documents.

    Attributes:
        text, group: fields of a record.
        max_chars: longer documents are left out.
        heldout_frac: share of the groups held out.
        seed: of their choice.
    """

    text: str
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
        return _key(dataclasses.asdict(self))

    def read(self, path: Path, broken: readers.Broken) -> Iterator[Document]:
        return readers.read(path, text_field=self.text, group_field=self.group, broken=broken)


@dataclass(frozen=True)
class _Scan:
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
    def load(cls, path: Path) -> _Scan:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in ("high", "low", "group", "size", "long")}
            return cls(**arrays, broken=int(found["broken"]), reason=str(found["reason"]))


class _Split:
    """What becomes of each document: training, held out, or left out. Nothing is read before it is asked for."""

    def __init__(self, folder: Path, files: dict[str, list[Path]], fields: Fields, workers: _Workers) -> None:
        self.folder, self.files, self.fields = folder, files, fields
        self._workers = workers

    @functools.cached_property
    def scans(self) -> dict[str, list[_Scan]]:
        """By corpus and file."""
        jobs = []
        for name, paths in self.files.items():
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            jobs += [(path, self._scan(name, number), self.fields) for number, path in enumerate(paths)]
        jobs = [job for job in jobs if not job[1].is_file()]
        sizes = [source.stat().st_size for source, _, _ in jobs]
        self._workers.run(_Scan.make, jobs, sizes, "documents: hashing", _WORTH_READING)
        return {
            name: [_Scan.load(self._scan(name, number)) for number in range(len(paths))]
            for name, paths in self.files.items()
        }

    @functools.cached_property
    def fates(self) -> dict[str, list[np.ndarray]]:
        """``_DROPPED``, ``_TRAIN`` or ``_HELDOUT`` by corpus, file and document."""
        joined = {name: _joined(scans) for name, scans in self.scans.items()}
        heldout = {name: self._heldout(name, scan) & ~scan.long for name, scan in joined.items()}
        seen = [np.concatenate([getattr(joined[name], half)[heldout[name]] for name in joined]) for half in _HALVES]
        fates = {}
        for name, scan in joined.items():
            fate = np.full(len(scan.size), _DROPPED, np.uint8)
            ours = np.flatnonzero(heldout[name])
            fate[ours[_first(scan.high[ours], scan.low[ours])]] = _HELDOUT
            # What is held out in any corpus comes first, so that a copy of it is never new.
            others = np.flatnonzero(~heldout[name] & ~scan.long)
            new = _first(np.concatenate([seen[0], scan.high[others]]), np.concatenate([seen[1], scan.low[others]]))
            fate[others[new[len(seen[0]) :]]] = _TRAIN
            if not (fate == _TRAIN).any():
                raise DataError(
                    f"corpora.sources.{name}: no training document is left of {len(fate)} in {len(self.files[name])} "
                    f"files ({self.files[name][0]}, ...): they are held out, too long, or copies of held-out ones"
                )
            ends = np.cumsum([len(part.size) for part in self.scans[name]])
            fates[name] = np.split(fate, ends[:-1])
        return fates

    def _heldout(self, name: str, scan: _Scan) -> np.ndarray:
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
            return hashlib.blake2b(f"{self.fields.seed}\0{_label(self.files[name][number])}".encode()).digest()

        order = sorted(range(len(self.files[name])), key=place)
        for quarter in range(4):
            for number in order:
                wanted = self.fates[name][number] == _TRAIN
                wanted &= self.scans[name][number].low % np.uint64(4) == quarter
                for document in _chosen(self.files[name][number], wanted, self.fields):
                    yield document.text

    def heldout_texts(self) -> dict[str, list[Path]]:
        """Files with the held-out documents, by corpus."""
        jobs: list[tuple[Path, np.ndarray, Fields, Path]] = []
        found: dict[str, list[Path]] = {}
        for name, paths in self.files.items():
            found[name] = []
            for number, path in enumerate(paths):
                wanted = self.fates[name][number] == _HELDOUT
                if wanted.any():
                    target = self.folder / name / f"{number:05d}.{HELDOUT_TEXT}"
                    found[name].append(target)
                    jobs.append((path, wanted, self.fields, target))
        jobs = [job for job in jobs if not job[-1].is_file()]
        sizes = [job[0].stat().st_size for job in jobs]
        self._workers.run(_write_chosen, jobs, sizes, "documents: holding out", _WORTH_READING)
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
            "duplicates_removed": int((~scan.long & (fate == _DROPPED)).sum()),
            "groups": len(np.unique(scan.group[~scan.long])),
            "heldout_groups": len(np.unique(scan.group[fate == _HELDOUT])),
        }

    def _scan(self, name: str, number: int) -> Path:
        return self.folder / name / f"{number:05d}.npz"


_HALVES = ("high", "low")


def _tokenise_all(
    split: _Split,
    corpora: Mapping[str, Path],
    tokenizer: Path,
    sha256: str,
    hashes: Mapping[Path, str],
    workers: _Workers,
) -> None:
    """Everything below the corpora's folders, ``corpus.json`` last."""
    pieces = split.heldout_texts()
    planned: dict[Path, list[_Shard]] = {}
    for name, folder in corpora.items():
        for kind in SPLITS:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        text = folder / HELDOUT_TEXT
        if not text.is_file():
            own = Fields("text", "group", None, 0, 0)
            broken = readers.Broken()
            readers.write(text, (document for piece in pieces[name] for document in own.read(piece, broken)), "gzip")
        kept = [fate == _TRAIN for fate in split.fates[name]]
        sizes = [scan.size for scan in split.scans[name]]
        planned[folder / "train"] = _plan(split.files[name], kept, sizes)
        held = np.concatenate(
            [scan.size[fate == _HELDOUT] for scan, fate in zip(split.scans[name], split.fates[name], strict=True)]
        )
        planned[folder / "heldout"] = _plan([text], [np.ones(len(held), bool)], [held])
    jobs, job_sizes = [], []
    for folder, shards in planned.items():
        fields = split.fields if folder.name == "train" else Fields("text", "group", None, 0, 0)
        missing = [(number, shard) for number, shard in enumerate(shards) if not _is_there(folder, number)]
        # A process takes neighbours, so that it reads a file on from where it stands.
        per_job = max(1, len(missing) // (8 * workers.count))
        for start in range(0, len(missing), per_job):
            chunk = missing[start : start + per_job]
            jobs.append((folder, chunk, fields, tokenizer))
            job_sizes.append(sum(shard.size for _, shard in chunk))
    largest_first = sorted(range(len(jobs)), key=lambda index: -job_sizes[index])
    jobs, job_sizes = [jobs[i] for i in largest_first], [job_sizes[i] for i in largest_first]
    workers.run(_tokenise, jobs, job_sizes, "documents: tokenising", _WORTH_TOKENISING)
    vocab_size = Tokenizer.load(tokenizer).vocab_size
    for name, folder in corpora.items():
        facts = split.counts(name)
        for kind in SPLITS:
            if not (folder / kind / MANIFEST).is_file():
                shards_.finish(
                    folder / kind,
                    shards=len(planned[folder / kind]),
                    dtype=shards_.dtype_for(vocab_size),
                    tokenizer_sha256=sha256,
                    sources={_label(path): hashes[path] for path in split.files[name]},
                )
            manifest = json.loads((folder / kind / MANIFEST).read_text(encoding="utf-8"))
            facts[kind] = {key: manifest[key] for key in ("tokens", "documents", "bytes")}
        _write_changed(folder / CORPUS, json.dumps(facts, indent=1, ensure_ascii=False))


# ------------------------------------------------------------------------------------------------------- jobs and files


@dataclass(frozen=True)
class _Shard:
    """The documents of one shard.

    Attributes:
        slices: file, first document, and which of those from there on are taken.
        size: UTF-8 bytes of text.
    """

    slices: list[tuple[Path, int, np.ndarray]]
    size: int


def _plan(files: Sequence[Path], kept: Sequence[np.ndarray], sizes: Sequence[np.ndarray]) -> list[_Shard]:
    """Cut a corpus into shards of about equal text, wherever its files begin; only the documents decide."""
    total = sum(int(size[keep].sum()) for keep, size in zip(kept, sizes, strict=True))
    count = min(_MAX_SHARDS, max(1, -(-total // _SHARD_BYTES)))
    slices: dict[int, list[tuple[Path, int, np.ndarray]]] = {}
    bytes_of: dict[int, int] = {}
    before = 0
    for path, keep, size in zip(files, kept, sizes, strict=True):
        taken = np.where(keep, size, 0)
        shard_of = np.minimum((before + np.cumsum(taken) - taken) * count // max(total, 1), count - 1)
        before += int(taken.sum())
        for shard in np.unique(shard_of[keep]):
            within = np.flatnonzero(keep & (shard_of == shard))
            first, last = int(within[0]), int(within[-1])
            slices.setdefault(int(shard), []).append((path, first, keep[first : last + 1]))
            bytes_of[int(shard)] = bytes_of.get(int(shard), 0) + int(taken[first : last + 1].sum())
    # One document may be larger than a shard and leave the next one nothing.
    return [_Shard(slices[shard], bytes_of[shard]) for shard in sorted(slices)]


def _tokenise(job: tuple[Path, list[tuple[int, _Shard]], Fields, Path]) -> None:
    """Write some shards of one folder."""
    folder, shards, fields, tokenizer_folder = job
    tokenizer = Tokenizer.load(tokenizer_folder)
    dtype = shards_.dtype_for(tokenizer.vocab_size)
    reader = _Reader(fields)
    for number, shard in shards:
        documents = _encoded(reader.texts(shard), tokenizer)
        shards_.write_shard(folder, number, documents, dtype=dtype, eos_id=tokenizer.eos_id)


def _encoded(documents: Iterator[str], tokenizer: Tokenizer) -> Iterator[tuple[np.ndarray, int]]:
    """Tokens and UTF-8 bytes of each document, encoded in batches."""
    batch: list[str] = []
    sizes: list[int] = []
    for text in documents:
        batch.append(text)
        sizes.append(len(text.encode()))
        if sum(sizes) >= _BATCH_BYTES or len(batch) >= 4096:
            yield from zip(tokenizer.encode(batch), sizes, strict=True)
            batch, sizes = [], []
    yield from zip(tokenizer.encode(batch), sizes, strict=True)


class _Reader:
    """Reads slices of files; the next slice of the same file is read on from where the last one ended."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._path: Path | None = None
        self._next = 0
        self._stream: Iterator[Document] = iter(())

    def texts(self, shard: _Shard) -> Iterator[str]:
        for path, first, keep in shard.slices:
            if path != self._path or first < self._next:
                self._path, self._next = path, 0
                self._stream = self._fields.read(path, readers.Broken())
            while self._next < first:
                self._take()
            for wanted in keep:
                document = self._take()
                if wanted:
                    yield document.text

    def _take(self) -> Document:
        document = next(self._stream, None)
        if document is None:
            raise DataError(f"{self._path}: changed during preparation: it has only {self._next} documents now")
        self._next += 1
        return document


def _chosen(path: Path, wanted: np.ndarray, fields: Fields) -> Iterator[Document]:
    """Some documents of a file; it is read no further than to the last of them."""
    left = int(wanted.sum())
    if left:
        for document, chosen in zip(fields.read(path, readers.Broken()), wanted, strict=False):
            if chosen:
                yield document
                left -= 1
                if not left:
                    return


def _write_chosen(job: tuple[Path, np.ndarray, Fields, Path]) -> None:
    source, wanted, fields, target = job
    readers.write(target, _chosen(source, wanted, fields), "gzip")


def _is_there(folder: Path, number: int) -> bool:
    return shards_.part(folder, number, shards_.PARTS[-1]).is_file()


def _joined(scans: Sequence[_Scan]) -> _Scan:
    """All files of a corpus as one."""
    arrays = {
        name: np.concatenate([getattr(scan, name) for scan in scans])
        for name in ("high", "low", "group", "size", "long")
    }
    return _Scan(**arrays, broken=sum(scan.broken for scan in scans), reason="")


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


def _label(path: Path) -> str:
    """A file's name wherever the cache lies."""
    return f"{path.parent.name}/{path.name}"


def _key(*parts: Any) -> str:
    """A short name for content."""
    packed = json.dumps([VERSION, *parts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(packed.encode()).hexdigest()[:16]


def _record(cfg: TrainConfig, tokenizer: MakesTokenizer, cache: Path) -> Path:
    """Where ``prepare`` notes what it made of a config."""

    def plain(value: Any, schema: type) -> dict[str, Any]:
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(schema)}

    corpora = plain(cfg.corpora, CorporaConfig)
    corpora["sources"] = {
        name: {**plain(source, SourceConfig), "files": list(source.files)}
        for name, source in cfg.corpora.sources.items()
    }
    return cache / "prepared" / f"{_key(corpora, sorted(cfg.data_mix.weights), tokenizer.identity())}.json"


def _hashes(paths: set[Path], cache: Path, progress: Progress | None) -> dict[Path, str]:
    """SHA-256 of files; a file of the same name, size and time of change is not read again."""
    from njsl.corpora import texts

    record = cache / "sources.json"
    known: dict[str, list[Any]] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    found = {}
    task = None if progress is None else progress.add_task("sources: hashing", total=len(paths))
    for path in sorted(paths):
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        old = known.get(str(path), [])
        if old[:2] != stamp:
            known[str(path)] = [*stamp, texts.file_sha256(path)]
        found[path] = str(known[str(path)][2])
        if progress is not None and task is not None:
            progress.advance(task)
    if progress is not None and task is not None:
        progress.remove_task(task)
    _write_changed(record, json.dumps(known, indent=1, ensure_ascii=False))
    return found


def _write_changed(path: Path, content: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)


@contextmanager
def _alone(cache: Path, progress: Progress | None) -> Iterator[None]:
    """Hold the cache; the system lets go of it if the process is killed."""
    from filelock import FileLock, Timeout

    lock = FileLock(cache / "prepare.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if progress is not None:
            progress.console.print(f"waiting for another process that prepares in {cache}", markup=False)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# ------------------------------------------------------------------------------------------------------------ processes


class _Workers:
    """Processes for jobs whose results are files; use it as a context manager.

    They start when they are first worth it, hold one thread each, ignore Ctrl-C, and end at once when this process
    ends, is killed, or leaves the context by an exception: all of them read a pipe that closes then.
    """

    def __init__(self, progress: Progress | None) -> None:
        self.count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._progress = progress
        self._pool: ProcessPoolExecutor | None = None
        self._leave = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            if kind is not None:
                self._leave.close()
            self._pool.shutdown(cancel_futures=kind is not None)
        self._leave.close()

    def run(
        self, function: Callable[[Any], None], jobs: Sequence[Any], sizes: Sequence[int], title: str, worth: int
    ) -> None:
        """Do all jobs, in any order.

        Args:
            function: of a module's top level.
            jobs: its arguments.
            sizes: of the jobs [byte], for the progress shown.
            title: what is shown.
            worth: with less than so many bytes in all, the jobs are done in this process.
        """
        if not jobs:
            return
        task = None if self._progress is None else self._progress.add_task(title, total=sum(sizes))
        for index in self._done(function, jobs, sum(sizes) < worth or len(jobs) == 1):
            if self._progress is not None and task is not None:
                self._progress.advance(task, sizes[index])

    def _done(self, function: Callable[[Any], None], jobs: Sequence[Any], here: bool) -> Iterator[int]:
        if here or self.count == 1:
            for index, job in enumerate(jobs):
                function(job)
                yield index
            return
        try:
            with _interrupt_ignored():  # processes start as jobs are submitted
                pool = self._started()
                futures = {pool.submit(function, job): index for index, job in enumerate(jobs)}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as error:
            raise DataError(
                "stages: a process of the preparation was killed, perhaps for memory; what is done is kept, run again"
            ) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            import multiprocessing

            # Not forked: this process may hold threads and locks of tokenizers and torch.
            context = multiprocessing.get_context("spawn")
            theirs, ours = context.Pipe(duplex=False)
            self._leave.callback(ours.close)
            self._pool = ProcessPoolExecutor(self.count, context, _begin, (theirs,))
        return self._pool


def _begin(pipe: Connection) -> None:
    """In a new process: one thread for the tokenizer, and an end when the parent's end of the pipe is closed."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        pipe.poll(None)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _interrupt_ignored() -> Iterator[None]:
    """Processes started within are born ignoring Ctrl-C, which a terminal sends to all of them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
