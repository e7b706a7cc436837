"""Parts of the training loop: the bar and the logged numbers, held-out loss, checkpoints."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import lightning
import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text
from torch.distributed.checkpoint.api import CheckpointException

from njsl.core.logger import Logger
from njsl.core.types import ConfigError, DataError
from njsl.train import checkpoint
from njsl.train.corpus import Corpus
from njsl.train.datamodule import MicroBatches
from njsl.train.mix import SampleOrder
from njsl.train.module import NEVER, Pretraining
from njsl.train.preempt import Preemption
from njsl.train.schedule import Schedule
from njsl.train.throughput import peak_flops

_LINES = 10  # about so many lines of progress where there is no terminal for a bar
_BATCH_TOKENS = 16_384  # of a held-out forward pass, without gradients


@dataclass
class Context:
    """What the callbacks of one process share.

    Attributes:
        schedule, order, batches: of the run and of this process.
        heldout: held-out corpora by name.
        identity: what a checkpoint belongs to.
        checkpoints: their folder.
        logger, console: of rank 0; elsewhere they are silent.
        rank: of this process.
        preemption: knows whether the run was asked to make room.
        aside_sec: time the callbacks took for themselves [s], which is no training.
        preempted: whether the run was asked to make room, and stopped at a checkpoint.
    """

    schedule: Schedule
    order: SampleOrder
    batches: MicroBatches
    heldout: Mapping[str, Corpus]
    identity: Mapping[str, Any]
    checkpoints: Path
    logger: Logger
    console: Console
    rank: int
    preemption: Preemption
    aside_sec: float = 0.0
    preempted: bool = False
    last_metrics: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Time spent within is not counted as training."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.aside_sec += time.perf_counter() - begin


class StepCallback(lightning.Callback):
    """A callback that is called once per optimiser step.

    Args:
        context: given by the run.
    """

    supplied: ClassVar[tuple[str, ...]] = ("context",)

    def __init__(self, *, context: Context) -> None:
        self.context = context

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.context.schedule.accumulate == 0:
            assert isinstance(module, Pretraining)
            self.on_step(trainer, module, trainer.global_step)

    def on_step(self, trainer: lightning.Trainer, module: Pretraining, step: int) -> None:
        """After the optimiser step numbered ``step``, from 1."""


class Progress(StepCallback):
    """The progress bar with loss, tokens/s, MFU and time left, and the same numbers in the logger.

    Logged are ``train/loss_nats`` (of that very step), ``train/lr``, ``train/grad_norm``, ``train/tokens``,
    ``train/tokens_per_sec``, ``train/mfu_frac``, ``train/loader_frac`` (share of the time spent reading) and per corpus
    ``data/NAME_tokens`` and ``data/NAME_epochs``. MFU counts 6N + 12LdT operations per token, see ``Llama``.

    Args:
        context: given by the run.
        log_every_steps: reading the numbers makes the device wait, so on a GPU not every step.
    """

    def __init__(self, *, context: Context, log_every_steps: int = 10) -> None:
        super().__init__(context=context)
        if log_every_steps < 1:
            raise ConfigError(f"callbacks.progress.log_every_steps: {log_every_steps}; at least 1 is accepted")
        self._every = log_every_steps
        self._bar: Bar | None = None
        self._task: Any = None
        self._flops = self._peak = 0.0
        self._since = self._aside = self._read = 0.0
        self._step = 0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, Pretraining) and module.network is not None
        plan, context = self.context.schedule, self.context
        self._flops = module.network.flops_per_token(plan.sequence_tokens)
        peak, source = peak_flops(module.device, module.hardware.precision)
        self._peak = peak * plan.processes
        context.logger.summary(
            {
                "run/peak_tflops_per_device": peak / 1e12,
                "run/peak_source": source,
                "run/flops_per_token": self._flops,
                "run/attention": module.network.attention.resolved,
            }
        )
        if context.rank == 0 and context.console.is_terminal:
            columns = (TextColumn("training"), BarColumn(), TextColumn("{task.fields[numbers]}"), _TimeLeft())
            self._bar = Bar(*columns, console=context.console, transient=True)
            self._task = self._bar.add_task("", total=plan.tokens, numbers="", left=None)
            self._bar.start()
        self._restart_clock(trainer.global_step)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % self.context.schedule.accumulate == 0:
            assert isinstance(module, Pretraining)
            module.loss_sum.zero_()

    def on_step(self, trainer: lightning.Trainer, module: Pretraining, step: int) -> None:
        plan, context = self.context.schedule, self.context
        last = step == plan.steps
        if step % self._every and not last:
            return
        mean = trainer.strategy.reduce(module.loss_sum / plan.accumulate, reduce_op="mean")
        stop_unless_finite(trainer, module, context)
        loss = float(mean)
        seconds = time.perf_counter() - self._since - (context.aside_sec - self._aside)
        tokens_per_sec = (step - self._step) * plan.step_tokens / max(seconds, 1e-9)
        done = step * plan.step_tokens
        metrics = {
            "train/loss_nats": loss,
            "train/lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "train/grad_norm": float(module.grad_norm),
            "train/tokens": float(done),
            "train/tokens_per_sec": tokens_per_sec,
            "train/mfu_frac": tokens_per_sec * self._flops / self._peak,
            "train/loader_frac": (context.batches.seconds - self._read) / max(seconds, 1e-9),
        }
        taken, epochs = (
            context.order.taken(step * plan.step_sequences),
            context.order.epochs(step * plan.step_sequences),
        )
        for name in taken:
            metrics[f"data/{name}_tokens"] = float(taken[name] * plan.sequence_tokens)
            metrics[f"data/{name}_epochs"] = float(epochs[name])
        context.logger.log(step, metrics)
        context.last_metrics = metrics
        left = (plan.tokens - done) / max(tokens_per_sec, 1e-9)
        mfu = 100 * metrics["train/mfu_frac"]
        numbers = f"loss {loss:.3f}  {_short(tokens_per_sec)} tokens/s  MFU {mfu:.0f} %  {_short(done)} tokens"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, numbers=numbers, left=left)
        elif last or done * _LINES // plan.tokens > self._step * plan.step_tokens * _LINES // plan.tokens:
            context.console.print(f"step {step}  {numbers}", highlight=False, soft_wrap=True)
        self._restart_clock(step)

    def _restart_clock(self, step: int) -> None:
        self._step, self._since = step, time.perf_counter()
        self._aside, self._read = self.context.aside_sec, self.context.batches.seconds

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._close()


class Heldout(StepCallback):
    """Held-out loss and bits per byte per corpus, now and then and at the end.

    Logged are ``heldout/NAME_loss_nats`` and ``heldout/NAME_bpb``: over windows spread evenly over the held-out tokens.
    Bytes are those the corpus has per token on average, so with few windows bits per byte are an estimate; the stage
    ``evaluate`` gives the exact figure. A Megatron corpus does not know its bytes and has the loss alone.

    Args:
        context: given by the run.
        every_tokens: how often [training tokens].
        max_tokens: at most so many held-out tokens per corpus, rounded to whole windows.
    """

    def __init__(self, *, context: Context, every_tokens: int, max_tokens: int) -> None:
        super().__init__(context=context)
        if every_tokens < 1 or max_tokens < 1:
            raise ConfigError("callbacks.heldout: every_tokens and max_tokens are at least 1")
        self._every, self._max = every_tokens, max_tokens

    def on_step(self, trainer: lightning.Trainer, module: Pretraining, step: int) -> None:
        if not (self.context.schedule.every(self._every, step) or step == self.context.schedule.steps):
            return
        with self.context.aside():
            metrics: dict[str, float] = {}
            for name, corpus in self.context.heldout.items():
                loss = self._loss(trainer, module, corpus)
                metrics[f"heldout/{name}_loss_nats"] = loss
                if corpus.bytes is not None:
                    metrics[f"heldout/{name}_bpb"] = loss / math.log(2) * corpus.tokens / corpus.bytes
            self.context.logger.log(step, metrics)

    def _loss(self, trainer: lightning.Trainer, module: Pretraining, corpus: Corpus) -> float:
        """Mean loss [nats per token] over the windows, which the processes share."""
        plan = self.context.schedule
        length = plan.sequence_tokens
        windows = corpus.windows(length)
        wanted = max(plan.processes, min(windows, self._max // length))
        # Shards must run forward together: all processes take equally many windows, some perhaps twice.
        share = math.ceil(wanted / plan.processes)
        numbers = np.linspace(0, windows - 1, share * plan.processes).round().astype(np.int64)
        mine = numbers[self.context.rank :: plan.processes]
        total = torch.zeros(2, dtype=torch.float64, device=module.device)
        rows = max(1, _BATCH_TOKENS // length)
        module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for first in range(0, len(mine), rows):
                batch = torch.from_numpy(corpus.gather(mine[first : first + rows], length)).to(module.device)
                nll_BT = module.loss(batch, reduction="none")
                total += torch.stack([nll_BT.double().sum(), torch.tensor(nll_BT.numel(), device=module.device)])
        module.train()
        total = trainer.strategy.reduce(total, reduce_op="sum")
        return float(total[0] / total[1])


class Checkpoints(StepCallback):
    """Checkpoints to resume from: now and then, at the end, and when the machine wants its place back.

    Args:
        context: given by the run.
        every_tokens: how often [training tokens].
        keep: the newest so many are kept.
    """

    def __init__(self, *, context: Context, every_tokens: int, keep: int = 2) -> None:
        super().__init__(context=context)
        if every_tokens < 1 or keep < 1:
            raise ConfigError("callbacks.checkpoints: every_tokens and keep are at least 1")
        self._every, self._keep = every_tokens, keep

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        # Only now: Lightning puts handlers of its own in place when the fit begins.
        self.context.preemption.install()

    def on_step(self, trainer: lightning.Trainer, module: Pretraining, step: int) -> None:
        asked = self.context.preemption.agreed(torch.device("cpu"))
        if not (asked or self.context.schedule.every(self._every, step) or step == self.context.schedule.steps):
            return
        with self.context.aside():
            stop_unless_finite(trainer, module, self.context)
            self.save(trainer, step)
        if asked and step < self.context.schedule.steps:
            self.context.preempted = True
            trainer.should_stop = True

    def save(self, trainer: lightning.Trainer, step: int) -> None:
        """Write the checkpoint of ``step``, sealed and in its place, on all processes together.

        Raises:
            DataError: it could not be written; the last good one is named.
        """
        final = checkpoint.place(self.context.checkpoints, step)
        beside = final.with_name(f".{final.name}.tmp")
        try:
            if self.context.rank == 0:
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir(parents=True)
            trainer.strategy.barrier()
            trainer.save_checkpoint(beside / checkpoint.STATE)
            trainer.strategy.barrier()
            # Every process reads a share of the files.
            listed = checkpoint.files(beside)[self.context.rank :: self.context.schedule.processes]
            mine = {path.relative_to(beside).as_posix(): checkpoint.digest(path) for path in listed}
            digests = _gathered(mine)
            if self.context.rank == 0:
                checkpoint.seal(beside, final, digests, self.context.identity)
                checkpoint.keep_newest(self.context.checkpoints, self._keep)
            trainer.strategy.barrier()
        except (OSError, RuntimeError, CheckpointException) as error:
            if self.context.rank == 0:
                shutil.rmtree(beside, ignore_errors=True)
            raise DataError(
                f"{final}: the checkpoint could not be written: {_reason(error)}; {_last_good(self.context)}; "
                "make room and run again with the same hydra.run.dir"
            ) from error


def stop_unless_finite(trainer: lightning.Trainer, module: Pretraining, context: Context) -> None:
    """Stop all processes where the loss or the gradient of a step was not finite.

    Raises:
        DataError: with the step and the last good checkpoint.
    """
    first = module.first_bad_step
    if dist.is_initialized():
        first = first.clone()
        dist.all_reduce(first, op=dist.ReduceOp.MIN)
    if (step := int(first)) < NEVER:
        raise DataError(
            f"loss: not finite at step {step} of {context.schedule.steps}; {_last_good(context)}; "
            "a lower optim.lr or a longer optim.warmup_tokens is what usually helps"
        )


def _last_good(context: Context) -> str:
    for path in checkpoint.existing(context.checkpoints):
        with contextlib.suppress(DataError):
            checkpoint.verify(path)
            return f"the last good checkpoint is {path}"
    return "there is no checkpoint yet"


def _gathered(mine: dict[str, str]) -> dict[str, str]:
    if not dist.is_initialized():
        return mine
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return {name: value for part in parts for name, value in part.items()}


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause."""
    if isinstance(error, CheckpointException):
        first = next(iter(error.failures.values()))
        error = first[0] if isinstance(first, tuple) else first
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _short(number: float) -> str:
    for unit, word in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{word}"
    return f"{number:.0f}"


class _TimeLeft(ProgressColumn):
    """Time left at the speed of the last steps."""

    def render(self, task: Task) -> Text:
        left = task.fields["left"]
        if left is None:
            return Text("")
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        return Text(f"{hours}:{minutes:02d}:{seconds:02d} left" if hours else f"{minutes}:{seconds:02d} left")
