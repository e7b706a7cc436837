"""The story of a pretraining run: corpora -> tokens -> plan -> training -> export -> evaluation."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from njsl.core.check import build
from njsl.core.config import TrainConfig
from njsl.core.logger import NullLogger
from njsl.core.run import Run, cache_folder
from njsl.core.types import ConfigError
from njsl.corpora.tokenizer import Tokenizer
from njsl.models.llama import Llama
from njsl.train import checkpoint, population, record, report
from njsl.train.callbacks import Context
from njsl.train.corpus import Corpus, open_corpus
from njsl.train.datamodule import MicroBatches, TokenData
from njsl.train.evaluate import evaluate
from njsl.train.launch import refuse_unsafe_multirun
from njsl.train.mix import SampleOrder
from njsl.train.module import Pretraining
from njsl.train.optim import AdamW
from njsl.train.preempt import Preemption
from njsl.train.prepare import Prepared, find_prepared, prepare
from njsl.train.processes import Processes
from njsl.train.schedule import Schedule
from njsl.train.strategy import Single
from njsl.train.trainer import Hardware

# What a run computes on, and what it looks at, may change when it is resumed; what it learns from may not.
# A run of weeks outlives a mended line of code: such changes are recorded, not refused.
_FREE = ("stages", "strategy", "trainer", "callbacks", "evaluate", "store", "population", "code", "versions")


@dataclass
class Parts:
    """The components of a run, built from its config."""

    hardware: Hardware
    strategy: Single
    optim: AdamW
    schedule: Schedule


def run(cfg: DictConfig, run: Run) -> None:
    """``train.py``.

    Args:
        cfg: a checked ``TrainConfig``.
        run: its folder, not yet claimed.

    Raises:
        NjslError: the config, the data or the folder are not what they should be.
    """
    _quiet()
    parts = _parts(cfg)
    if cfg.population.models is None:
        _run(cfg, run, parts)
        return
    point = f"point {cfg.population.point} ({run.output.name})"
    with population.alone(run.output) as mine:
        if not mine:
            print(f"{point}: another process is at it")
        elif "train" in cfg.stages and population.finished(run.output):
            print(f"{point}: finished, skipped")
            if cfg.store.write is not None:  # which may have been asked for since
                record.write(cfg, run, _prepared(cfg, Console(quiet=True)), Console())
        elif reason := population.over_budget(cfg, run.output.parent):
            print(f"{point}: over budget: {reason}")
        else:
            print(point)
            _run(cfg, run, parts)


def _run(cfg: DictConfig, run: Run, parts: Parts) -> None:
    with Processes(parts.hardware, parts.strategy) as processes:
        console = Console(quiet=processes.rank > 0)
        if processes.rank == 0:
            record.check(cfg)
            prepared = _prepared(cfg, console)
            step = _claim(cfg, run, prepared, parts, console)
            processes.tell({"step": step, "tokenizer": str(prepared.tokenizer), "corpora": prepared.folders()})
        else:
            plan = processes.hear()
            prepared, step = Prepared.of(plan["tokenizer"], plan["corpora"]), plan["step"]
        if "train" in cfg.stages and (step or 0) < parts.schedule.steps:
            _train(cfg, run, parts, prepared, step, processes, console)
    if processes.rank > 0:
        return
    if "export" in cfg.stages:
        _export(cfg, run, prepared, console)
    if "evaluate" in cfg.stages:
        _evaluate(cfg, run, prepared, parts, console)
    if cfg.store.write is not None:
        record.write(cfg, run, prepared, console)


def _parts(cfg: DictConfig) -> Parts:
    """Build what the config names and hold it together before anything is prepared."""
    if not cfg.stages:
        raise ConfigError("stages: at least one of prepare, train, export, evaluate is required")
    hardware: Hardware = build(cfg.trainer)
    strategy: Single = build(cfg.strategy)
    hardware.check()
    strategy.check(hardware)
    refuse_unsafe_multirun(HydraConfig.get(), hardware.processes)
    torch.set_num_threads(hardware.threads)
    optim: AdamW = build(cfg.optim)
    schedule = Schedule.plan(
        cfg.tokens, cfg.batch_tokens, cfg.model.sequence_length, hardware.micro_batch_sequences, hardware.processes
    )
    if "train" in cfg.stages:
        _check_attention(cfg, hardware)
    return Parts(hardware, strategy, optim, schedule)


def _check_attention(cfg: DictConfig, hardware: Hardware) -> None:
    """Refuse an attention that this device cannot do, before hours of preparation."""
    with torch.device("meta"):
        model = _model(cfg, vocab_size=2)
    dtype = torch.bfloat16 if hardware.precision == "bf16-mixed" else torch.float32
    model.attention.check(
        device=torch.device(hardware.kind),
        dtype=dtype,
        head_dim=model.head_dim,
        sequence_length=model.sequence_length,
        alibi=model.positions == "alibi",
    )


def _model(cfg: DictConfig, vocab_size: int) -> Llama:
    model = build(cfg.model, vocab_size=vocab_size, attention=build(cfg.attention))
    assert isinstance(model, Llama)
    return model


def _prepared(cfg: DictConfig, console: Console) -> Prepared:
    """Tokenised corpora, from the cache or made now."""
    tokenizer, cache = build(cfg.tokenizer), cache_folder(cfg.paths.cache)
    with _bar(console) as bar:
        if "prepare" in cfg.stages:
            return prepare(cast(TrainConfig, cfg), tokenizer, cache, bar)
        found = find_prepared(cast(TrainConfig, cfg), tokenizer, cache)
    if found is None:
        raise ConfigError("stages: these corpora are not prepared yet; add prepare to stages")
    return found


def _claim(cfg: DictConfig, run: Run, prepared: Prepared, parts: Parts, console: Console) -> int | None:
    """Hold the plan against the corpora, find the checkpoint to go on from, and claim the folder.

    Returns:
        The step of that checkpoint; None begins anew.
    """
    train = _open(prepared, "train", verify=True)
    order = _order(cfg, parts, train)
    order.check_epochs(parts.schedule.samples, cfg.data_mix.max_epochs)
    folder, torn = checkpoint.newest_whole(run.output / "checkpoints")
    for line in torn:
        console.print(f"torn checkpoint, left aside: {line}", soft_wrap=True, highlight=False, markup=False)
    step = None if folder is None else checkpoint.step_of(folder)
    if torn:
        console.print(f"going on from {folder}", soft_wrap=True, highlight=False, markup=False)
    sha256 = Tokenizer.load(prepared.tokenizer).sha256
    run.claim(free=_FREE, step=step, reopen=True, tokenizer=sha256, corpora=_digest(prepared))
    if folder is not None:
        checkpoint.check_identity(folder, _identity(cfg, sha256))
    run.record(
        steps=parts.schedule.steps,
        tokens=parts.schedule.tokens,
        resumed_at_step=step,
        corpora={name: {"tokens": corpus.tokens, "documents": corpus.documents} for name, corpus in train.items()},
        taken_tokens={
            name: count * parts.schedule.sequence_tokens for name, count in order.taken(parts.schedule.samples).items()
        },
        epochs=order.epochs(parts.schedule.samples),
        model_sha256=population.model_sha256(cfg),
        model_id=record.model_id(cfg),
    )
    if (step or 0) < parts.schedule.steps:
        run.record(device=parts.hardware.name)
    return step


def _open(prepared: Prepared, split: str, verify: bool = False) -> dict[str, Corpus]:
    tokenizer = Tokenizer.load(prepared.tokenizer)
    return {
        name: open_corpus(
            folder, split, tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, verify=verify
        )
        for name, folder in prepared.corpora.items()
    }


def _digest(prepared: Prepared) -> str:
    """What names the tokens trained on: the manifests of all corpora, which hold their shards' hashes."""
    digest = hashlib.sha256()
    for name, manifest in sorted(prepared.manifests().items()):
        digest.update(f"{name}\0{manifest}\0".encode())
    return digest.hexdigest()


def _identity(cfg: DictConfig, tokenizer_sha256: str) -> dict[str, Any]:
    """What a checkpoint belongs to."""
    identity = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("model", "data_mix", "optim")}
    return identity | {"tokenizer": tokenizer_sha256, "batch_tokens": cfg.batch_tokens, "seed": cfg.seed}


def _order(cfg: DictConfig, parts: Parts, train: dict[str, Corpus]) -> SampleOrder:
    windows = {name: corpus.windows(parts.schedule.sequence_tokens) for name, corpus in train.items()}
    return SampleOrder(cfg.seed, {name: cfg.data_mix.weights[name] for name in windows}, windows)


def _train(
    cfg: DictConfig,
    run: Run,
    parts: Parts,
    prepared: Prepared,
    step: int | None,
    processes: Processes,
    console: Console,
) -> None:
    """Train from ``step`` to the end, or to where the machine is wanted back."""
    tokenizer = Tokenizer.load(prepared.tokenizer)
    train = _open(prepared, "train")
    order = _order(cfg, parts, train)
    batches = MicroBatches(train, order, parts.schedule, processes.rank, step or 0)
    folder = run.output / "checkpoints"
    preemption = Preemption(run.output)
    context = Context(
        schedule=parts.schedule,
        order=order,
        batches=batches,
        heldout=_open(prepared, "heldout"),
        identity=_identity(cfg, tokenizer.sha256),
        checkpoints=folder,
        logger=run.logger if processes.rank == 0 else NullLogger(),
        console=console,
        rank=processes.rank,
        preemption=preemption,
    )
    module = Pretraining(
        lambda: _model(cfg, tokenizer.vocab_size),
        cfg.seed,
        tokenizer.eos_id,
        parts.optim,
        parts.schedule,
        parts.strategy,
        parts.hardware,
    )
    trainer = lightning.Trainer(
        accelerator="cpu" if parts.hardware.kind == "cpu" else "gpu",
        devices=parts.hardware.devices,
        num_nodes=parts.hardware.num_nodes,
        strategy=parts.strategy.build(parts.hardware),
        plugins=[processes.environment],
        precision=parts.hardware.precision,
        max_steps=parts.schedule.steps,
        accumulate_grad_batches=parts.schedule.accumulate,
        callbacks=[build(node, context=context) for node in cfg.callbacks.values()],
        default_root_dir=str(run.output),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        barebones=False,
    )
    start = None if step is None else checkpoint.place(folder, step) / checkpoint.STATE
    began = time.monotonic()
    with _interruptible(), preemption:
        trainer.fit(module, datamodule=TokenData(batches), ckpt_path=start, weights_only=True)
        if context.preempted:
            preemption.leave()
    if processes.rank == 0:
        run.record(training=context.last_metrics, training_sec=time.monotonic() - began)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Turn the exit that Lightning makes of Ctrl-C back into Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _export(cfg: DictConfig, run: Run, prepared: Prepared, console: Console) -> None:
    """The newest checkpoint as a Hugging Face folder."""
    from njsl.models import hf

    folder, _ = checkpoint.newest_whole(run.output / "checkpoints")
    if folder is None:
        raise ConfigError(f"stages: nothing to export: {run.output} has no checkpoint; add train to stages")
    target = run.output / "hf"
    with torch.device("meta"):
        model = _model(cfg, Tokenizer.load(prepared.tokenizer).vocab_size)
    hf.export(checkpoint.weights(folder), model, target, prepared.tokenizer, torch.float32)
    counts = model.n_params()
    run.record(n_params=counts, export={"step": checkpoint.step_of(folder)})
    console.print(
        f"exported: {target} ({counts['total']:,} parameters, {counts['non_embedding']:,} without embeddings)",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _evaluate(cfg: DictConfig, run: Run, prepared: Prepared, parts: Parts, console: Console) -> None:
    """Measure the exported model, or whichever was named."""
    named = cfg.evaluate.checkpoint
    folder = Path(named).expanduser() if named else run.output / "hf"
    if not named and not folder.is_dir():
        raise ConfigError(f"evaluate.checkpoint: {folder} is not there yet; add export to stages, or name a folder")
    with _bar(console) as bar:
        metrics = evaluate(
            folder, prepared.heldout_texts(), cfg.evaluate, run.output, torch.device(parts.hardware.kind), bar
        )
    run.record(evaluated={"step": None if named else record.exported_step(run.output)})
    run.logger.summary(metrics)
    report.show(run.output, console)


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _quiet() -> None:
    """Keep Lightning's and transformers' own talk off the screen; what is wrong is still said."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        r".*does not have many workers.*",
        r".*resuming from a checkpoint that ended before the epoch ended.*",
        r".*`srun` command is available.*",
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message)
