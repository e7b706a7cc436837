"""Training speed: the three models, the loader beside them, FSDP2 on one device, and what each change gives."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from bench import Bench, Loss, Shape, Training, adamw, chunked_loss, speed
from numerics import available, restore
from torch import Tensor

import njsl.models.llama
import njsl.models.loss
from njsl.models.attention import Attention
from njsl.models.llama import Llama

TOP_KERNELS = 14
BUG_PERCENT = 25  # MFU under which something is wrong, not slow


def throughput(bench: Bench) -> None:
    """Each model at the first micro-batch, then the other backends, then the other micro-batches."""
    budget = bench.budget(40)
    backends = dict(available(bench))
    first, *others = bench.micro_batches
    cases = [(shape, first, "sdpa") for shape in bench.shapes]
    cases += [(shape, first, name) for shape in bench.shapes for name in backends if name != "sdpa"]
    cases += [(shape, rows, "sdpa") for rows in others for shape in bench.shapes]
    for shape, rows, name in cases:
        labels = {"model": shape.name, "micro_batch": rows, "attention": name}
        if not budget.begin():
            bench.report.row("throughput", **labels, note="not run: out of time")
            continue
        with bench.report.attempt("throughput", **labels):
            _train(bench, shape, rows, backends[name], labels)
        restore()
        budget.end()
    _loader(bench)


def _train(bench: Bench, shape: Shape, rows: int, attention: Attention, labels: dict[str, Any]) -> None:
    # The backend settles on its kernel, as in the training program before its first step.
    attention.check(
        device=bench.device,
        dtype=torch.bfloat16 if bench.gpu else torch.float32,
        head_dim=shape.hidden // shape.heads,
        sequence_length=bench.length,
        alibi=False,
    )
    bench.fresh()
    model = bench.compile(bench.build(shape, attention))
    training = Training(bench, model, adamw(model))
    begin = time.perf_counter()
    values = speed(bench, training, shape, rows)
    values["seconds_in_all"] = time.perf_counter() - begin
    if bench.gpu and values["mfu_percent"] < BUG_PERCENT:
        values["note"] = f"below {BUG_PERCENT} % MFU: a bug"
    bench.report.row("throughput", **labels, **values)
    if (rows, labels["attention"]) == (bench.micro_batches[0], "sdpa"):
        _kernels(bench, training, shape, rows, values["ms"])


def _kernels(bench: Bench, training: Training, shape: Shape, rows: int, ms: float) -> None:
    """Where a step's time goes: the kernels that take most of it, and how long the device is busy at all."""
    activity = torch.profiler.ProfilerActivity.CUDA if bench.gpu else torch.profiler.ProfilerActivity.CPU
    batch = bench.batches(rows, 1)[0]
    with torch.profiler.profile(activities=[activity]) as profile:
        training.step(batch)
        bench.synchronise()
    which = "self_device_time_total" if bench.gpu else "self_cpu_time_total"
    # Annotations span kernels and would count them twice.
    averages = [event for event in profile.key_averages() if not getattr(event, "is_user_annotation", False)]
    events = [(getattr(event, which) / 1e3, event.count, event.key) for event in averages]
    events = sorted((event for event in events if event[0] > 0), reverse=True)
    label = {"model": shape.name}
    total = sum(event[0] for event in events)
    bench.report.row("kernels", **label, ms=total, percent=100 * total / ms, calls=0, kernel="all")
    for taken, count, name in events[:TOP_KERNELS]:
        bench.report.row(
            "kernels", **label, ms=taken, percent=100 * taken / ms, calls=count, kernel=" ".join(name.split())[:90]
        )


def _loader(bench: Bench) -> None:
    """The loader's time per batch, in the foreground, as a share of the steps measured."""
    try:
        from njsl.train.corpus import TokenCorpus, dtype_for, finish, write_shard
        from njsl.train.mix import SampleOrder
    except ImportError as error:
        bench.report.row("loader", note=f"not timed: njsl.train.mix cannot be imported ({error})")
        return
    rows, dtype, rng = bench.micro_batches[0], dtype_for(bench.vocabulary), np.random.default_rng(0)
    documents, tokens = (20_000, 1_000) if bench.gpu else (20, 50)
    with bench.report.attempt("loader"), tempfile.TemporaryDirectory() as folder:
        made = ((rng.integers(1, bench.vocabulary, tokens), 4 * tokens) for _ in range(documents))
        write_shard(Path(folder), 0, made, dtype=dtype, eos_id=0)
        finish(Path(folder), shards=1, dtype=dtype, tokenizer_sha256="0" * 64, sources={})
        corpus = TokenCorpus(Path(folder), tokenizer_sha256=None, verify=False)
        order = SampleOrder(0, {"random": 1.0}, {"random": corpus.windows(bench.length)})
        times = []
        for batch in range(20):
            begin = time.perf_counter()
            _, window_N = order.locate(np.arange(batch * rows, (batch + 1) * rows))
            ids = torch.from_numpy(corpus.gather(window_N, bench.length))
            (ids.pin_memory() if bench.gpu else ids).to(bench.device, non_blocking=True)
            bench.synchronise()
            times.append(1e3 * (time.perf_counter() - begin))
        ms = statistics.median(times)
        for row in bench.report.sections["throughput"]:
            if (row["micro_batch"], row["attention"]) == (rows, "sdpa") and "ms" in row:
                share = 100 * ms / row["ms"]
                bench.report.row("loader", model=row["model"], micro_batch=rows, ms=ms, percent_of_step=share)


def fsdp(bench: Bench) -> None:
    """FSDP2 with one process against none at all: speed, memory, and losses over the first steps."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy

    budget = bench.budget(30)
    # One process talks to nobody, yet NCCL wants an interface, and the loopback is always there.
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    backend = "nccl" if bench.gpu else "gloo"
    with bench.report.attempt("fsdp"):
        store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        mesh = init_device_mesh(bench.device.type, (1,))
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if bench.gpu else None
        options: dict[str, Any] = {"mesh": mesh, **({"mp_policy": policy} if policy else {})}
        # The largest model gains or loses most by it; the smallest shows the calls' own cost.
        for shape in dict.fromkeys((bench.shapes[-1], bench.shapes[0])):
            first: list[float] = []
            for strategy in ("single", "fsdp2"):
                labels = {"model": shape.name, "strategy": strategy}
                if not budget.begin():
                    bench.report.row("fsdp", **labels, note="not run: out of time")
                    continue
                with bench.report.attempt("fsdp", **labels):
                    values, losses = _sharded(bench, shape, options if strategy == "fsdp2" else None)
                    if strategy == "single":
                        first = losses
                    elif first:
                        apart = [abs(a - b) for a, b in zip(first, losses, strict=True)]
                        values |= {"first_loss_apart": apart[0], "most_apart": max(apart)}
                        # Parameters in bf16 put the residual stream in bf16 too, so losses part by rounding.
                        if not apart[0] < (1e-2 if bench.gpu else 1e-5):
                            values["fault"] = "not the loss of a model without shards"
                    bench.report.row("fsdp", **labels, **values)
                budget.end()
        dist.destroy_process_group()


def _sharded(bench: Bench, shape: Shape, options: dict[str, Any] | None) -> tuple[dict[str, Any], list[float]]:
    """Speed and all losses, with FSDP2 by these options or without."""
    from torch.distributed.fsdp import fully_shard

    bench.fresh()
    model = bench.compile(bench.build(shape))
    if options is not None:
        for part in (*model.blocks(), model):
            fully_shard(part, **options)
    training = Training(bench, model, adamw(model))
    values = speed(bench, training, shape, bench.micro_batches[0])
    return values, torch.stack(training.losses).tolist()


def ablation(bench: Bench) -> None:
    """What each part of the speed gives: the smallest model with one thing changed at a time."""
    budget = bench.budget(40)
    shape, rows = bench.shapes[0], bench.micro_batches[0]
    reference: float | None = None
    bench.fresh()
    for change, training, patched in _changes(bench, shape):
        if not budget.begin():
            bench.report.row("ablation", change=change, note="not run: out of time")
            continue
        with bench.report.attempt("ablation", change=change), patched:
            # Compiled code is kept: most changes leave the blocks as they are, and the compiler sees which do not.
            bench.fresh(forget=False)
            values = speed(bench, training(), shape, rows)
            reference = reference or values["tokens_per_s"]
            percent = 100 * (values["tokens_per_s"] / reference - 1)
            bench.report.row("ablation", change=change, percent=percent, **values)
        budget.end()


def _changes(bench: Bench, shape: Shape) -> Iterator[tuple[str, Callable[[], Training], Any]]:
    """Name, what makes the training, and the context it is made and timed in."""

    def training(
        compiled: bool = True,
        loss: Loss = chunked_loss,
        residual: torch.dtype | None = None,
        recomputed: bool = False,
        **kind: bool,
    ) -> Training:
        model = bench.build(shape)
        if recomputed:
            model.checkpoint_activations()
        if residual is not None:
            model.model.embed_tokens.register_forward_hook(lambda module, args, out: out.to(residual))
        if compiled:
            bench.compile(model)
        return Training(bench, model, adamw(model, **kind), loss)

    def swap(name: str, function: Callable[..., Any]) -> Any:
        return patch.object(njsl.models.llama, name, function)

    llama, head = njsl.models.llama, njsl.models.loss
    yield "none", training, nullcontext()
    yield "blocks not compiled", partial(training, compiled=False), nullcontext()
    yield "whole logits in the loss", partial(training, loss=whole_logits), nullcontext()
    rope = torch.compiler.disable(llama._rotated)
    yield "RoPE outside the compiled block", training, swap("_rotated", rope)
    yield "q, k, v and gate, up apart", training, swap("_joint", _apart)
    loss = torch.compile(head.linear_cross_entropy, dynamic=False, **bench.compile_options)
    yield "chunked loss compiled", training, swap("linear_cross_entropy", loss)
    yield (
        "residual stream in bf16",
        partial(training, residual=torch.bfloat16 if bench.gpu else torch.float32),
        (nullcontext()),
    )
    yield "activation checkpointing", partial(training, recomputed=True), nullcontext()
    yield "AdamW foreach, not fused", partial(training, foreach=True), nullcontext()
    for bits in (25, 26, 28):
        yield f"2^{bits} logits a chunk", training, patch.dict(head.CHUNK_LOGITS, {bench.device.type: 2**bits})


def whole_logits(model: Llama, batch_BT: Tensor) -> Tensor:
    """The loss as one would write it first."""
    logits_BTV = model(batch_BT[:, :-1])
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), batch_BT[:, 1:].flatten())


def _apart(x_BTC: Tensor, *layers: torch.nn.Linear) -> Tensor:
    """A product per layer, then side by side."""
    return torch.cat([layer(x_BTC) for layer in layers], dim=-1)
