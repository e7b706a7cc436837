"""What the sections share: the models, a training step, its timing, the time they may take, and where rows go."""

from __future__ import annotations

import gc
import itertools
import json
import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from njsl.models.attention import Attention, Sdpa
from njsl.models.llama import Llama

PEAK_FLOPS = 989e12  # H100 and H200, dense bf16, data sheet
GIB = 2**30
SEED = 0


@dataclass(frozen=True)
class Shape:
    """A model's size; the rest is the paper's Llama."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int

    def flops_per_token(self, vocabulary: int, length: int) -> float:
        """Forward and backward: 6 per weight of a matrix product, head included, and 12 L C T of attention.

        Source: Chowdhery et al. 2022 (PaLM), arXiv 2204.02311, appendix B.
        """
        block = 4 * self.hidden**2 + 3 * self.hidden * self.intermediate
        products = self.layers * block + vocabulary * self.hidden
        return 6 * products + 12 * self.layers * self.hidden * length


# conf/model/llama_*.yaml, without Hydra to read them.
PAPER = (Shape("220M", 1024, 4096, 12, 8), Shape("460M", 1536, 4128, 14, 12), Shape("1B", 2048, 4096, 24, 16))
TOY = (Shape("toy", 64, 96, 2, 2),)


class Report:
    """Rows by section, written to results.json as they come, so that a run cut off keeps what it has.

    Attributes:
        sections: the rows so far.
        faults: how many rows failed or hold a number that is not finite.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sections: dict[str, list[dict[str, Any]]] = {}
        self.faults = 0
        folder.mkdir(parents=True, exist_ok=True)

    def row(self, section: str, /, **values: Any) -> None:
        """Keep, write and print one row."""
        wrong = [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
        if wrong:
            values["fault"] = f"not finite: {', '.join(wrong)}"
        self.faults += "fault" in values
        self.sections.setdefault(section, []).append(values)
        beside = self.folder / "results.json.part"
        beside.write_text(json.dumps(self.sections, indent=1, allow_nan=True) + "\n")
        beside.replace(self.folder / "results.json")
        print(f"[{section}] " + "  ".join(f"{k}={_text(v)}" for k, v in values.items() if k != "trace"), flush=True)

    def tables(self, *without: str) -> str:
        """All rows, a table per section, but for the sections named."""
        parts = []
        for section, rows in self.sections.items():
            if section in without:
                continue
            names = list(dict.fromkeys(name for row in rows for name in row if name != "trace"))
            cells = [names, *([_text(row.get(name, "")) for name in names] for row in rows)]
            widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
            lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells]
            parts.append("\n".join([f"== {section}", *lines]))
        return "\n\n".join(parts) + "\n"

    @contextmanager
    def attempt(self, section: str, /, **labels: Any) -> Iterator[None]:
        """Turn what goes wrong inside into a row, so that the sections after it still run."""
        try:
            yield
        except torch.OutOfMemoryError:
            self.row(section, **labels, note="out of memory")
        except Exception as error:
            trace = traceback.format_exc()
            fault = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            self.row(section, **labels, fault=fault[:200], trace=trace)


class Budget:
    """The time of a section: a case starts only if one as long as the longest so far would end in it."""

    def __init__(self, deadline: float, first_guess: float) -> None:
        self._deadline, self._longest, self._begun = deadline, first_guess, 0.0

    def begin(self) -> bool:
        """Whether there is time for one more case, which starts now."""
        self._begun = time.monotonic()
        return self._begun + self._longest <= self._deadline

    def end(self) -> None:
        """A case is over."""
        self._longest = max(self._longest, time.monotonic() - self._begun)


@dataclass
class Bench:
    """What every section is given.

    Attributes:
        compile_options: of ``block.compile``.
        warm_up, steps: untimed and timed training steps of a case.
        micro_batches: sequences of a step; the first is the one that all cases can be compared at.
    """

    device: torch.device
    report: Report
    shapes: tuple[Shape, ...]
    length: int
    vocabulary: int
    micro_batches: tuple[int, ...]
    warm_up: int
    steps: int
    compile_options: dict[str, Any]
    deadline: float = math.inf

    @property
    def gpu(self) -> bool:
        """Whether figures mean anything."""
        return self.device.type == "cuda"

    def autocast(self) -> torch.autocast:
        """bf16 mixed precision on a GPU; fp32 in the self-test."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.gpu)

    def budget(self, first_guess: float) -> Budget:
        """Of the section at hand; ``first_guess`` [s] is a case's length, until one has run."""
        return Budget(self.deadline, first_guess if self.gpu else 0.0)

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.gpu:
            torch.cuda.synchronize()

    def fresh(self, forget: bool = True) -> None:
        """Give cached memory back and, unless a case may use it again, ``forget`` compiled code."""
        if forget:
            torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()

    def build(self, shape: Shape, attention: Attention | None = None, vocabulary: int | None = None) -> Llama:
        """A model with seeded random weights."""
        with torch.device(self.device):
            model = Llama(
                hidden_size=shape.hidden,
                intermediate_size=shape.intermediate,
                n_layers=shape.layers,
                n_heads=shape.heads,
                n_kv_heads=None,
                sequence_length=self.length,
                tied_head=False,
                positions="rope",
                norm="rmsnorm",
                mlp="swiglu",
                block="sequential",
                biases=False,
                rope_theta=10_000.0,
                norm_eps=1e-5,
                init_std=0.02,
                vocab_size=vocabulary or self.vocabulary,
                attention=attention or Sdpa(document_mask=False, allow_dense_mask=False),
            )
        model.init_weights(SEED)
        return model

    def compile(self, model: Llama) -> Llama:
        """Compile each block, as the training program does."""
        for block in model.blocks():
            block.compile(**self.compile_options)
        return model

    def mfu_percent(self, shape: Shape, tokens_per_s: float) -> float:
        """Model FLOPs over the data sheet's peak."""
        return 100 * tokens_per_s * shape.flops_per_token(self.vocabulary, self.length) / PEAK_FLOPS

    def batches(self, rows: int, count: int = 4) -> list[Tensor]:
        """Random token windows [rows, length + 1] on the device, several, so that none stays in the cache."""
        generator = torch.Generator(self.device).manual_seed(SEED)
        size = (rows, self.length + 1)
        return [torch.randint(self.vocabulary, size, device=self.device, generator=generator) for _ in range(count)]


def adamw(model: torch.nn.Module, lr: float = 3e-4, **kind: bool) -> torch.optim.AdamW:
    """AdamW as the training program has it; ``kind``: fused or foreach."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), **(kind or {"fused": True}))


Loss = Callable[[Llama, Tensor], Tensor]


def chunked_loss(model: Llama, batch_BT: Tensor) -> Tensor:
    """The model's own loss: logits in chunks."""
    return model(batch_BT[:, :-1], batch_BT[:, 1:])


@dataclass
class Training:
    """A model in training."""

    bench: Bench
    model: Llama
    optimiser: torch.optim.Optimizer
    loss: Loss = chunked_loss
    losses: list[Tensor] = field(default_factory=list)

    def step(self, batch_BT: Tensor) -> None:
        """Forward, backward, clip, update; nothing waits for the device."""
        with self.bench.autocast():
            loss = self.loss(self.model, batch_BT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.losses.append(loss.detach())


def timed(bench: Bench, step: Callable[[int], object]) -> list[float]:
    """Milliseconds of each timed step, by CUDA events between steps; warm-up and compilation left out."""
    for number in range(bench.warm_up):
        step(number)
    bench.synchronise()
    if not bench.gpu:
        marks = [time.perf_counter()]
        for number in range(bench.steps):
            step(number)
            marks.append(time.perf_counter())
        return [1e3 * (after - before) for before, after in itertools.pairwise(marks)]
    torch.cuda.reset_peak_memory_stats()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(bench.steps + 1)]
    events[0].record()
    for number in range(bench.steps):
        step(number)
        events[number + 1].record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in itertools.pairwise(events)]


def speed(bench: Bench, training: Training, shape: Shape, rows: int) -> dict[str, Any]:
    """Time a training's steps.

    Returns:
        ms (median of the steps) and spread_ms (half of what lies between their quartiles), tokens_per_s, mfu_percent,
        peak_gib of memory, loss of the last step, and what the compiler made: graphs and breaks.
    """
    batches = bench.batches(rows)
    times = timed(bench, lambda number: training.step(batches[number % len(batches)]))
    ms = statistics.median(times)
    quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [ms] * 3
    tokens_per_s = rows * bench.length / ms * 1e3
    counters = torch._dynamo.utils.counters
    values: dict[str, Any] = {"ms": ms, "spread_ms": (quartiles[2] - quartiles[0]) / 2, "tokens_per_s": tokens_per_s}
    values["mfu_percent"] = bench.mfu_percent(shape, tokens_per_s)
    values["peak_gib"] = torch.cuda.max_memory_allocated() / GIB if bench.gpu else 0.0
    values["loss"] = float(torch.stack(training.losses)[-1])
    values["graphs"] = int(counters["stats"]["unique_graphs"])
    values["breaks"] = sum(counters["graph_break"].values())
    return values


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return str(value)
