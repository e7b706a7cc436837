"""Attention backends against fp32 math: outputs and gradients, and the time of each kernel."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from unittest.mock import patch

import torch
from bench import Bench, timed
from torch import Tensor
from torch.nn.attention import SDPBackend

import njsl.models.attention
from njsl.models.attention import Attention, FlashAttn, FlashImpl, Flex, Math, Sdpa

HEAD_DIM = 128
# ||out - ref|| / ||ref||: bf16 operands give 1e-3 to 1e-2, fp32 stays far below.
BOUND = {torch.bfloat16: 1e-2, torch.float32: 1e-5}
FLASH: tuple[FlashImpl, ...] = ("torch", "fa2", "fa3", "fa4")


def check(bench: Bench) -> None:
    """Numerics with and without grouped heads and document masks; then each kernel's time without either."""
    budget = bench.budget(8)
    dtype = torch.bfloat16 if bench.gpu else torch.float32
    cases = [
        (name, groups, attention)
        for document_mask in (False, True)
        for groups in (8, 2)
        for name, attention in _backends(document_mask, bench.gpu)
    ]
    # What compiles for long comes last.
    cases.sort(key=lambda case: case[0] == "flex")
    told: set[tuple[str, str]] = set()
    for name, groups, attention in cases:
        labels = {"backend": name, "kv_heads": groups, "documents": attention.document_mask}
        if not budget.begin():
            bench.report.row("numerics", **labels, note="not run: out of time")
            continue
        with bench.report.attempt("numerics", **labels):
            reason = _reason(bench, attention, dtype, training=False)
            if reason is None:
                _compare(bench, attention, labels, groups, dtype)
            elif (name, reason) not in told:
                told.add((name, reason))
                bench.report.row("backends_missing", backend=name, note=reason)
        restore()
        budget.end()
    for name, attention in _kernels(bench.gpu):
        if _reason(bench, attention, dtype, training=True) is not None:
            continue
        if not budget.begin():
            bench.report.row("attention_time", backend=name, note="not run: out of time")
            continue
        with bench.report.attempt("attention_time", backend=name):
            _time(bench, name, attention, dtype)
        restore()
        budget.end()


def available(bench: Bench, document_mask: bool = False) -> list[tuple[str, Attention]]:
    """The backends that can train here."""
    found = []
    for name, attention in _backends(document_mask, bench.gpu):
        dtype = torch.bfloat16 if bench.gpu else torch.float32
        if _reason(bench, attention, dtype, training=True) is None:
            found.append((name, attention))
        restore()
    return found


def restore() -> None:
    """Give torch its own flash kernel back: fa3 and fa4 replace it for the whole process."""
    current = getattr(torch.nn.attention, "current_flash_attention_impl", None)
    if current is not None and current() is not None:
        torch.nn.attention.restore_flash_attention_impl()


def _backends(document_mask: bool, gpu: bool) -> Iterator[tuple[str, Attention]]:
    yield "sdpa", Sdpa(document_mask=document_mask, allow_dense_mask=document_mask)
    yield "flex", Flex(document_mask=document_mask, allow_eager=not gpu)
    for impl in FLASH:
        yield f"flash_attn {impl}", FlashAttn(impl=impl, document_mask=document_mask)


def _kernels(gpu: bool) -> Iterator[tuple[str, Attention]]:
    """Each backend, and sdpa held to one of torch's kernels at a time."""
    if gpu:
        for kernel in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
            with patch.object(njsl.models.attention, "CUDA_ORDER", [kernel]):
                yield (
                    f"sdpa {kernel.name.removesuffix('_ATTENTION').lower()}",
                    Sdpa(document_mask=False, allow_dense_mask=False),
                )
    yield from _backends(False, gpu)


def _reason(bench: Bench, attention: Attention, dtype: torch.dtype, *, training: bool) -> str | None:
    return attention.supported(
        device=bench.device,
        dtype=dtype,
        head_dim=HEAD_DIM,
        sequence_length=bench.length,
        alibi=False,
        training=training,
    )


def _compare(bench: Bench, attention: Attention, labels: dict[str, object], groups: int, dtype: torch.dtype) -> None:
    gradients = _reason(bench, attention, dtype, training=True) is None
    # Fresh inputs for every case: a right function is right on all.
    inputs = [torch.randn(2, heads, bench.length, HEAD_DIM, device=bench.device) for heads in (8, groups, groups)]
    weight = torch.randn_like(inputs[0])
    lengths = torch.randint(1, bench.length // 2, (64,), device=bench.device)
    lengths[1] = 1  # a document of one token
    ends = lengths.cumsum(0)
    at = torch.arange(bench.length, device=bench.device)
    documents = torch.stack([torch.searchsorted(ends, at, right=True), torch.searchsorted(ends, at + 7, right=True)])
    reference = Math(document_mask=attention.document_mask)
    rounded = [x.to(dtype) for x in inputs]
    expected = _run(reference, [x.float() for x in rounded], weight, documents, gradients)
    got = _run(attention, rounded, weight.to(dtype), documents, gradients)
    errors = {
        name: float(((out.float() - ref).norm() / ref.norm()).detach())
        for name, out, ref in zip(("out", "d_q", "d_k", "d_v"), got, expected, strict=False)
    }
    # Written so that NaN fails.
    fine = all(error < BOUND[dtype] for error in errors.values())
    row = {**labels, **errors, "resolved": attention.resolved}
    if not gradients:
        row["note"] = "forward only"
    if not fine:
        row["fault"] = f"above {BOUND[dtype]}"
    bench.report.row("numerics", **row)


def _run(
    attention: Attention, inputs: list[Tensor], weight: Tensor, documents: Tensor, gradients: bool
) -> list[Tensor]:
    """Output, and the inputs' gradients of its product with ``weight``."""
    q, k, v = (x.clone().requires_grad_(gradients) for x in inputs)
    out = attention(q, k, v, documents)
    return [out, *torch.autograd.grad((out * weight.to(out.dtype)).sum(), (q, k, v))] if gradients else [out]


def _time(bench: Bench, name: str, attention: Attention, dtype: torch.dtype) -> None:
    rows, heads = (16, 16) if bench.gpu else (1, 2)
    sets = [
        [torch.randn(rows, bench.length, heads, HEAD_DIM, device=bench.device, dtype=dtype) for _ in range(4)]
        for _ in range(2)
    ]

    def step(number: int) -> None:
        # Positions before heads in memory, as the projections leave them.
        q, k, v, weight = (x.transpose(1, 2) for x in sets[number % 2])
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        attention(q, k, v).backward(weight)

    ms = statistics.median(timed(bench, step))
    # 2 matrix products forward and 5 backward, of 2 T^2 D FLOPs each, half of which causality leaves out.
    flops = 7 * rows * heads * bench.length**2 * HEAD_DIM
    bench.report.row("attention_time", backend=name, ms=ms, tflops=flops / ms / 1e9, resolved=attention.resolved)
