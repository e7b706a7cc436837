"""Text to tokenised shards: hash every document, hold groups out, drop duplicates, tokenise on all cores.

Everything lies in the cache, in folders named after what went in, each file written beside its place and then renamed:
what is there is whole and is not made again, so a preparation that was killed goes on, and a second run does nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from njsl.core.config import CorporaConfig, SourceConfig, TrainConfig
from njsl.core.run import write_atomic
from njsl.core.types import ConfigError, DataError, Document
from njsl.core.workers import Workers
from njsl.corpora import readers
from njsl.corpora.tokenizer import Tokenizer
from njsl.train import corpus as shards_
from njsl.train.corpus import MANIFEST, MegatronCorpus
from njsl.train.mix import check_mix
from njsl.train.split import HELDOUT, HELDOUT_TEXT, TRAIN, Fields, Split, content_key, label

if TYPE_CHECKING:
    from rich.progress import Progress

CORPUS = "corpus.json"
SPLITS = ("train", "heldout")
# Bytes of text per shard; a corpus has at most so many shards, which are the larger then.
_SHARD_BYTES, _MAX_SHARDS = 8 * 2**20, 256
_BATCH_BYTES = 2**20
# Below so many bytes of text, work is done before another process has started.
_WORTH_TOKENISING = 2 * 2**20


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

    def manifests(self, split: str = "train") -> dict[str, str]:
        """What names the tokens of each corpus' split: it holds their hashes, of Megatron's the index' hash."""
        named = {}
        for name, folder in self.corpora.items():
            manifest = folder / split / MANIFEST
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
    sources = {name: [[label(path), hashes[path]] for path in files[name]] for name in names}
    split_key = content_key(fields.key(), sources)
    with Workers(progress) as workers:
        split = Split(cache / "splits" / split_key, {name: files[name] for name in names}, fields, workers)
        folder = _tokenizer(tokenizer, split.training_texts, split_key, cache, progress)
        sha256 = Tokenizer.load(folder).sha256
        corpora = {name: cache / "corpora" / content_key(split_key, sha256) / name for name in names}
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
        found[name] = cache / "corpora" / content_key(facts) / name
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
    folder = cache / "tokenizers" / content_key(tokenizer.identity(), split_key if tokenizer.needs_text else "")
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.make(training_texts, folder, progress)
    return folder


def _tokenise_all(
    split: Split,
    corpora: Mapping[str, Path],
    tokenizer: Path,
    sha256: str,
    hashes: Mapping[Path, str],
    workers: Workers,
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
        kept = [fate == TRAIN for fate in split.fates[name]]
        sizes = [scan.size for scan in split.scans[name]]
        planned[folder / "train"] = _plan(split.files[name], kept, sizes)
        held = np.concatenate(
            [scan.size[fate == HELDOUT] for scan, fate in zip(split.scans[name], split.fates[name], strict=True)]
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
                    sources={label(path): hashes[path] for path in split.files[name]},
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


def _is_there(folder: Path, number: int) -> bool:
    return shards_.part(folder, number, shards_.PARTS[-1]).is_file()


def _record(cfg: TrainConfig, tokenizer: MakesTokenizer, cache: Path) -> Path:
    """Where ``prepare`` notes what it made of a config."""

    def plain(value: Any, schema: type) -> dict[str, Any]:
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(schema)}

    corpora = plain(cfg.corpora, CorporaConfig)
    corpora["packages"] = None if cfg.corpora.packages is None else list(cfg.corpora.packages)
    corpora["sources"] = {
        name: {**plain(source, SourceConfig), "files": list(source.files), "domain": None}  # which names no other text
        for name, source in cfg.corpora.sources.items()
    }
    return cache / "prepared" / f"{content_key(corpora, sorted(cfg.data_mix.weights), tokenizer.identity())}.json"


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
