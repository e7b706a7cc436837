"""From the config of corpora to the files that hold their text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from njsl.core.config import CorporaConfig
from njsl.core.types import ConfigError, DataError
from njsl.corpora import hub, python_env
from njsl.corpora.readers import SUFFIXES, TEXT_FIELDS, find


def text_files(
    cfg: CorporaConfig, names: Sequence[str], cache: Path, progress: Progress | None = None
) -> dict[str, list[Path]]:
    """The files of text of each corpus, made where they are not there yet.

    ``readers.read(file, text_field=cfg.text_field, group_field=cfg.group_field, ...)`` reads them, whatever the kind.

    Args:
        cfg: the corpora at hand.
        names: those of the mix.
        cache: where extracted and streamed text lies, by content.
        progress: shows what takes long.

    Returns:
        By corpus its files, sorted.

    Raises:
        ConfigError: an unknown corpus, a source without what its kind needs, or ``kind=megatron``, which has no text.
        DataError: a path is missing, or a corpus has no files.
    """
    if cfg.kind == "megatron":
        raise ConfigError("corpora.kind: megatron holds tokens and no text; with text: python_env, files, hf.")
    known = corpus_names(cfg)
    for name in names:
        if name not in known:
            raise ConfigError(f"data_mix.weights.{name}: no such corpus; corpora has: {', '.join(known)}.")
    if cfg.kind == "python_env":
        return _python_env(cfg, names, cache, progress)
    if cfg.kind == "files":
        return {name: _files(cfg, name) for name in names}
    if cfg.kind == "hf":
        return {name: _stream(cfg, name, cache, progress) for name in names}
    raise ConfigError(f"corpora.kind: {cfg.kind}; accepted: python_env, files, hf, megatron.")


def corpus_names(cfg: CorporaConfig) -> list[str]:
    """The names of the corpora at hand, sorted: the sources', else those of the subfolders of ``path``, else its own.

    Raises:
        ConfigError: there are no sources and no path to look in.
        DataError: the path is missing.
    """
    if cfg.sources:
        return sorted(str(name) for name in cfg.sources)
    if cfg.kind != "files":
        raise ConfigError(f"corpora.sources: kind={cfg.kind} needs at least one, e.g. sources={{nl: {{...}}}}.")
    path = _path(cfg)
    if path.is_file():
        return [path.name.partition(".")[0] or path.name]
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and entry.name[0] != ".")
    return names or [path.resolve().name]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes [hex]; it is read anew each time.

    Raises:
        DataError: there is no such file.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"{path}: no such file; its SHA-256 was to be taken.") from error


def _python_env(
    cfg: CorporaConfig, names: Sequence[str], cache: Path, progress: Progress | None
) -> dict[str, list[Path]]:
    if cfg.text_field not in (None, "text") or cfg.group_field != "group":
        raise ConfigError(
            f"corpora: kind=python_env is split by package, with text_field=text and group_field=group; "
            f"got {cfg.text_field} and {cfg.group_field}."
        )
    limits: dict[str, float | None] = {}
    for name in names:
        source = cfg.sources[name]
        if source.part not in python_env.PARTS:
            raise ConfigError(f"corpora.sources.{name}.part: {source.part}; accepted: {', '.join(python_env.PARTS)}.")
        if limits.setdefault(source.part, source.max_mib) != source.max_mib:
            raise ConfigError(f"corpora.sources.{name}.max_mib: {source.max_mib}, but {limits[source.part]} elsewhere.")
    only = None if cfg.packages is None else list(cfg.packages)
    files = python_env.extract(cache / "python_env", parts=limits, seed=cfg.seed, only=only, progress=progress)
    return {name: files[str(cfg.sources[name].part)] for name in names}


def _files(cfg: CorporaConfig, name: str) -> list[Path]:
    if not cfg.sources:
        path = _path(cfg)
        if path.is_file():
            if not path.name.endswith(SUFFIXES):
                raise DataError(f"corpora.path: {cfg.path} ends in none of {', '.join(SUFFIXES)}.")
            return [path]
        return find(path / name if (path / name).is_dir() else path, ["**"])
    patterns = cfg.sources[name].files
    if not patterns:
        raise ConfigError(f'corpora.sources.{name}.files: none; expected globs below corpora.path, e.g. ["{name}/**"].')
    return find(_folder(cfg), list(patterns))


def _stream(cfg: CorporaConfig, name: str, cache: Path, progress: Progress | None) -> list[Path]:
    source = cfg.sources[name]
    text_field = cfg.text_field or TEXT_FIELDS[0]
    fields = [source.text_field, text_field, cfg.group_field]
    asked = [source.dataset, source.subset, source.split, source.max_mib, *fields]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    return hub.stream(cache / "hf" / key, source, text_field, progress, group_field=cfg.group_field)


def _folder(cfg: CorporaConfig) -> Path:
    folder = _path(cfg)
    if not folder.is_dir():
        raise DataError(f"corpora.path: {cfg.path} is a file; corpora.sources look below a folder.")
    return folder


def _path(cfg: CorporaConfig) -> Path:
    if not cfg.path:
        raise ConfigError("corpora.path: missing; kind=files needs a folder or a file.")
    path = Path(cfg.path).expanduser()
    if not path.exists():
        raise DataError(f"corpora.path: {cfg.path} is neither folder nor file; expected one with text.")
    return path
