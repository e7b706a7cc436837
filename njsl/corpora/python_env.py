"""Text of the Python environment at hand, without a network: code without its docstrings, and natural language.

Natural language (``nl``) is docstrings (``docs``) and the descriptions of packages with the language reference
(``prose``). Parsing all of an environment
takes minutes, so a seeded sample of its packages is taken. What a package gives is a pure function of the package and
the seed, and packages count in a seeded order: the same environment and seed give the same bytes, whatever the number
of processes, and each part is the same with or without the others.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import sysconfig
import tokenize
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import joblib
from rich.progress import Progress, TaskID

from njsl.core.run import write_atomic
from njsl.core.types import DataError, Document
from njsl.corpora.readers import is_unicode, write

PARTS = ("nl", "code", "docs", "prose")
_FROM_DOCSTRINGS, _FROM_DESCRIPTIONS = ("nl", "docs"), ("nl", "prose")
MIN_CHARS = 200  # shorter docstrings and descriptions say little in sentences
# At most this share of a part comes from one package. Documentation lies in few packages, so there it is larger.
SHARES = {"nl": 0.10, "code": 0.05, "docs": 0.10, "prose": 0.10}
MIN_RICH = 0.1  # share of long strings in a file that is parsed for its docstrings
MAX_FILE = 1_000_000  # [bytes]; what is larger is generated

_VERSION = 1  # of what is extracted; another one makes cached files stale
_MIB = 1 << 20
_FILE_BYTES = 2 * _MIB  # text per written file, so that all cores find work afterwards
# Not code to learn from: tests, and copies of other packages, which would stand on both sides of a split.
_LEFT_OUT = {"__pycache__", "test", "tests", "_vendor", "site-packages", "dist-packages", "pydoc_data"}
_SITES = ("site-packages", "dist-packages")
_REFERENCE = "pydoc_data"
_OWN = "njsl"
_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")
_File = tuple[str, str, int]  # id, path, size [bytes]
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Package:
    """One group: a distribution, or a top-level module of the standard library.

    Attributes:
        group: its name.
        files: id, path and size [bytes] of its Python files.
        texts: id and text of what it has in natural language outside its files.
        versions: names and versions of its distributions.
    """

    group: str
    files: list[_File] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)


def extract(
    folder: Path,
    *,
    parts: Mapping[str, float | None],
    seed: int,
    only: Collection[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, list[Path]]:
    """Write text of the environment as jsonl.gz files of documents, on all cores.

    Each part lies in a folder of its own below ``folder``, named after all that it depends on; one that is complete is
    only looked up. An interrupted part is written anew, with the same bytes.

    Args:
        folder: made where it is missing.
        parts: any of ``PARTS``, to the most text that is taken [MiB], None for all.
        seed: of the sample of packages.
        only: names of packages; no others are looked at, so that others do not change the sample. None is all.
        progress: shows how much text is there.

    Returns:
        By part its files, in order; a document's group is its package.

    Raises:
        DataError: the environment has no text of a part, or lacks a package that is named.
    """
    packages = _packages()
    if only is not None:
        missing_names = sorted(set(only) - {package.group for package in packages})
        if missing_names:
            raise DataError(
                f"corpora.packages: not in this environment: {', '.join(missing_names)}; "
                "names of installed packages are accepted"
            )
        packages = [package for package in packages if package.group in only]
    identity = _identity(packages)
    writers = {}
    for part, max_mib in parts.items():
        key = hashlib.sha256(json.dumps([_VERSION, identity, part, max_mib, seed]).encode()).hexdigest()
        writers[part] = _Part(Path(folder) / f"{part}-{key[:16]}", part, max_mib, progress)
    missing = {part: writer for part, writer in writers.items() if not writer.complete()}
    if missing:
        _extract(packages, missing, seed)
    return {part: writer.files() for part, writer in writers.items()}


def fingerprint() -> str:
    """A cheap identity of the environment's text, as SHA-256 [hex]: names and versions, names and sizes of files."""
    return _identity(_packages())


def without_docstrings(source: str, tree: ast.Module) -> str:
    """A source with its docstrings taken out and unchanged otherwise.

    A body that held nothing else gets ``pass``; a module may be left empty.

    Args:
        source: with ``\\n`` at the end of its lines.
        tree: what ``ast.parse(source)`` gives.

    Raises:
        ValueError: a docstring is followed by a line continuation, so that it cannot be cut out.
    """
    lines = [line.encode("utf-8") for line in source.split("\n")]  # ast counts columns in UTF-8 bytes
    # Last first, so that the places of those before stay what they are.
    for node in sorted(_documented(tree), key=lambda node: node.body[0].lineno, reverse=True):
        _cut(lines, node)
    return b"\n".join(lines).decode("utf-8")


def _cut(lines: list[bytes], node: _Documented) -> None:
    doc = node.body[0]
    assert doc.end_lineno is not None and doc.end_col_offset is not None
    first, last = doc.lineno - 1, doc.end_lineno - 1
    before, after = lines[first][: doc.col_offset], lines[last][doc.end_col_offset :]
    code = after.strip()
    if len(node.body) == 1 and not isinstance(node, ast.Module):
        lines[first : last + 1] = [before + b"pass" + after]
        return
    if code.startswith(b";"):
        after = code[1:].lstrip()
        code = after
    if code.startswith(b"\\"):
        raise ValueError(f"line {last + 1}: a docstring with a line continuation after it")
    lines[first : last + 1] = [before + after] if before.strip() or code else []


def _documented(tree: ast.Module) -> Iterator[_Documented]:
    """The modules, classes and functions that have a docstring; only statements hold such."""
    nodes: list[Any] = [tree]
    while nodes:
        node = nodes.pop()
        for name in node._fields:
            if name in _BODIES:
                nodes.extend(getattr(node, name))
        if isinstance(node, _Documented) and node.body:
            match node.body[0]:
                case ast.Expr(value=ast.Constant(value=str())):
                    yield node


class _Part:
    """The files of one part, in the making or complete.

    Attributes:
        limit: the most text [bytes], None for all.
        full: whether no more text is taken.
    """

    def __init__(self, folder: Path, part: str, max_mib: float | None, progress: Progress | None) -> None:
        self.folder, self.part, self.full = folder, part, False
        self.limit = None if max_mib is None else int(max_mib * _MIB)
        self._counts: Counter[str] = Counter()
        self._groups: dict[str, int] = {}
        self._progress, self._total = progress, max_mib
        self._task: TaskID | None = None
        self._waiting: list[Document] = []
        self._waiting_bytes = self._bytes = 0
        self._names: list[str] = []

    @property
    def _manifest(self) -> Path:
        return self.folder / "manifest.json"

    def complete(self) -> bool:
        """Whether all files are there in their full size; the manifest is written last."""
        if not self._manifest.exists():
            return False
        files = json.loads(self._manifest.read_text("utf-8"))["files"]
        paths = {self.folder / name: size for name, size in files.items()}
        return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())

    def files(self) -> list[Path]:
        """The files of a complete part, in order."""
        return [self.folder / name for name in json.loads(self._manifest.read_text("utf-8"))["files"]]

    def begin(self) -> None:
        """Make the folder, and take away what an earlier attempt left there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._manifest.unlink(missing_ok=True)
        for path in self.folder.iterdir():
            path.unlink()
        if self._progress is not None:
            self._task = self._progress.add_task(f"text of this Python environment: {self.part}", total=self._total)

    def add(self, share: _Share) -> None:
        """Take what a package gives, as far as it fits."""
        for document, size in zip(share.documents, share.sizes, strict=True):
            if self.limit is not None and self._bytes + size > self.limit:
                self.full = True
                continue
            self._waiting.append(document)
            self._waiting_bytes += size
            self._bytes += size
            self._groups[document.group] = self._groups.get(document.group, 0) + size
        self._counts.update(share.counts)
        if self._waiting_bytes >= _FILE_BYTES:
            self._flush()
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._bytes / _MIB)

    def finish(self) -> None:
        """Write what waits, then the manifest.

        Raises:
            DataError: there is no text.
        """
        if self._waiting:
            self._flush()
        if not self._names:
            raise DataError(
                f"corpora.sources: kind=python_env finds no text of part={self.part} in this environment that fits; "
                f"expected packages below {', '.join(map(str, _roots()[1]))} and a larger max_mib."
            )
        manifest = {
            "part": self.part,
            "files": {name: (self.folder / name).stat().st_size for name in self._names},
            "bytes": self._bytes,
            "counts": dict(sorted(self._counts.items())),
            "groups": self._groups,
        }
        write_atomic(self._manifest, json.dumps(manifest, indent=1) + "\n")
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=self._bytes / _MIB, completed=self._bytes / _MIB)

    def _flush(self) -> None:
        name = f"{len(self._names):05d}.jsonl.gz"
        write(self.folder / name, self._waiting)
        self._names.append(name)
        self._waiting, self._waiting_bytes = [], 0


def _extract(packages: Sequence[Package], parts: Mapping[str, _Part], seed: int) -> None:
    for part in parts.values():
        part.begin()

    def jobs() -> Iterator[Any]:
        for package in packages:
            limits = {name: part.limit for name, part in parts.items() if not part.full}
            if not limits:
                return
            yield joblib.delayed(_package)(package, limits, seed)

    # The language reference comes first, so that it is in every sample.
    packages = sorted(packages, key=lambda p: (p.group != _REFERENCE, _hash(seed, p.group)))
    parallel = joblib.Parallel(n_jobs=joblib.cpu_count(), return_as="generator", pre_dispatch="2*n_jobs", batch_size=1)
    for shares in parallel(jobs()):
        for name, share in shares.items():
            if not parts[name].full:
                parts[name].add(share)
    for part in parts.values():
        part.finish()


def _package(package: Package, limits: Mapping[str, int | None], seed: int) -> dict[str, _Share]:
    """What one package gives to each part; either is the same with or without the other.

    Code is the files that fit into the share by their size, in a seeded order. Natural language comes from files rich
    in docstrings: first from those that code takes too and are parsed anyway, then from the richest.

    Args:
        limits: by part its whole limit [bytes], or None.
    """
    shares = {name: _Share(package.group, _part_of(limit, SHARES[name])) for name, limit in limits.items()}
    files = sorted(package.files, key=lambda file: _hash(seed, file[0]))
    taken = {name: _fitting(files, _part_of(limit, SHARES["code"])) for name, limit in limits.items()}
    rich: list[_File] = []
    for part in limits.keys() & _FROM_DESCRIPTIONS:
        for name, text in sorted(package.texts, key=lambda text: _hash(seed, text[0])):
            shares[part].add(name, text)
    if "prose" in limits:
        taken["prose"] = set()
    documented = [part for part in _FROM_DOCSTRINGS if part in limits]
    if documented:
        rich = _rich(files)
    for part in documented:
        taken[part] &= {file[0] for file in rich}
    # Trees hold no cycles, and looking for some takes a third of the time.
    gc.disable()
    try:
        for file in files:
            _parse(file, {name: share for name, share in shares.items() if file[0] in taken[name]})
        for file in rich:
            _parse(file, {part: shares[part] for part in documented if file[0] not in taken[part]})
    finally:
        gc.enable()
    return shares


class _Share:
    """What one package gives to one part.

    Attributes:
        documents, sizes: its documents, and the UTF-8 bytes of each.
        counts: files that were parsed, and that could not be.
        full: whether a document did not fit any more.
    """

    def __init__(self, group: str, limit: int | None) -> None:
        self.group, self.full = group, False
        self.documents: list[Document] = []
        self.sizes: list[int] = []
        self.counts: Counter[str] = Counter()
        self._room = sys.maxsize if limit is None else limit

    def add(self, name: str, text: str) -> None:
        """Take a document, if it still fits; a text without valid Unicode or without a word is none."""
        if self.full or not text.strip() or not is_unicode(text):
            return
        size = len(text.encode("utf-8"))
        self.full = size > self._room
        if not self.full:
            self.documents.append(Document(text, name, self.group))
            self.sizes.append(size)
            self._room -= size


def _parse(file: _File, takers: Mapping[str, _Share]) -> None:
    """Give what a file has to those that still take something."""
    name, path, _ = file
    takers = {part: share for part, share in takers.items() if not share.full}
    if not takers:
        return
    raw = Path(path).read_bytes()
    try:
        source = _decode(raw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in other people's strings
            tree = ast.parse(source)
        code = without_docstrings(source, tree) if "code" in takers else ""
    # Some files are templates, or written for another Python, or nested too deep.
    except (SyntaxError, ValueError, LookupError, RecursionError, MemoryError):
        for share in takers.values():
            share.counts["not parsable"] += 1
        return
    for share in takers.values():
        share.counts["parsed"] += 1
    if "code" in takers:
        takers["code"].add(name, code)
    documented = [takers[part] for part in _FROM_DOCSTRINGS if part in takers]
    if documented:
        # In the order of the source; its place names a docstring, since names may be defined twice.
        for node in sorted(_documented(tree), key=_place):
            text = ast.get_docstring(node) or ""
            if len(text) > MIN_CHARS:
                line, column = _place(node)
                for share in documented:
                    share.add(f"{name}:{line}:{column}", text)


def _place(node: _Documented) -> tuple[int, int]:
    return node.body[0].lineno, node.body[0].col_offset


def _decode(raw: bytes) -> str:
    """The text of a Python source, with the newlines that Python sees."""
    encoding, _ = tokenize.detect_encoding(BytesIO(raw).readline)
    return raw.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def _fitting(files: Sequence[_File], room: int | None) -> set[str]:
    """The ids of the files that fit into so many bytes, the first first."""
    room = sys.maxsize if room is None else room
    ids = set()
    for name, _, size in files:
        if size <= room:
            ids.add(name)
            room -= size
    return ids


def _rich(files: Sequence[_File]) -> list[_File]:
    """The files of which long triple-quoted strings are at least a share of ``MIN_RICH``, the richest first."""
    shares = []
    for _, path, size in files:
        raw = Path(path).read_bytes()
        quoted = (sum(len(s) for s in raw.split(q)[1::2] if len(s) > MIN_CHARS) for q in (b'"""', b"'''"))
        shares.append(max(quoted) / size)
    order = sorted(range(len(files)), key=lambda i: -shares[i])  # stable: ties stay in the seeded order
    return [files[i] for i in order if shares[i] >= MIN_RICH]


def _part_of(limit: int | None, share: float) -> int | None:
    return None if limit is None else int(limit * share)


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()


def _packages() -> list[Package]:
    """All packages of the environment, by name."""
    packages: dict[str, Package] = {}

    def package(group: str) -> Package:
        return packages.setdefault(group, Package(group))

    library, sites = _roots()
    reference = package(_REFERENCE)
    reference.texts = [(f"{_REFERENCE}/{name}", text) for name, text in sorted(topics.items())]
    reference.versions = [sys.version]
    for entry in _entries(library):
        top = entry.name.removesuffix(".py")
        package(f"stdlib/{top}").files += _files(entry, f"stdlib/{entry.name}")
    # The first folder wins, as in an import.
    tops: dict[str, os.DirEntry[str]] = {}
    owners: dict[str, str] = {}
    for site in sites:
        for entry in _entries(site):
            tops.setdefault(entry.name, entry)
    distributions = {_canonical(d.metadata["Name"] or ""): d for d in _distributions(sites)}
    for name in sorted(distributions):
        for top in _top_level(distributions[name]):
            owners.setdefault(top, name)
    for top, entry in tops.items():
        name = top.removesuffix(".py")
        package(owners.get(top, _canonical(name))).files += _files(entry, f"site-packages/{top}")
    for name, distribution in distributions.items():
        # Distributions that share a folder, as those of a namespace do, are one group.
        group = min((owners[top] for top in _top_level(distribution) & tops.keys()), default=name)
        package(group).versions.append(f"{name} {distribution.version}")
        text = _description(distribution)
        if len(text) > MIN_CHARS:
            package(group).texts.append((f"description/{name}", text))
    packages.pop(_OWN, None)
    return [packages[group] for group in sorted(packages)]


def _roots() -> tuple[Path, list[Path]]:
    """The standard library's folder, and every site-packages that Python imports from."""
    sites = dict.fromkeys(Path(path).resolve() for path in sys.path if Path(path).name in _SITES)
    return Path(sysconfig.get_path("stdlib")).resolve(), [site for site in sites if site.is_dir()]


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """The folders and Python files that code may come from, by name."""
    with os.scandir(folder) as entries:
        return sorted(
            (e for e in entries if e.name not in _LEFT_OUT and (e.name.endswith(".py") or e.is_dir())),
            key=lambda e: e.name,
        )


def _files(entry: os.DirEntry[str], name: str) -> list[_File]:
    """The Python files of one module or folder, in a fixed order, named by their place."""
    if entry.is_dir():
        if entry.is_symlink():  # may lead in a circle
            return []
        return [file for e in _entries(entry.path) for file in _files(e, f"{name}/{e.name}")]
    if not entry.is_file() or not 0 < (size := entry.stat().st_size) <= MAX_FILE:
        return []
    return [(name, entry.path, size)]


def _distributions(sites: Sequence[Path]) -> Iterator[importlib.metadata.Distribution]:
    # Last first, so that the first folder's wins in a dict.
    for site in reversed(sites):
        yield from importlib.metadata.distributions(path=[str(site)])


def _top_level(distribution: importlib.metadata.Distribution) -> set[str]:
    """What a distribution puts into site-packages, by its list of files; without one, its own name."""
    record = distribution.read_text("RECORD")
    if record is None:
        listed = (distribution.read_text("top_level.txt") or distribution.metadata["Name"] or "").split()
        return {name + suffix for name in listed for suffix in ("", ".py")}
    return {line.split("/", 1)[0].split(",", 1)[0] for line in record.splitlines()} - {"..", "__pycache__"}


def _description(distribution: importlib.metadata.Distribution) -> str:
    payload = distribution.metadata.get_payload()  # type: ignore[attr-defined]
    text = payload if isinstance(payload, str) and payload.strip() else distribution.metadata["Description"]
    return (text or "").replace("\r\n", "\n").strip()


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _identity(packages: Sequence[Package]) -> str:
    digest = hashlib.sha256(f"{_VERSION} {sys.version}\n".encode())
    for package in packages:
        files = [(name, size) for name, _, size in package.files]
        texts = [(name, len(text)) for name, text in package.texts]
        digest.update(json.dumps([package.group, package.versions, files, texts]).encode())
    return digest.hexdigest()
