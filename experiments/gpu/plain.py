"""The same shapes in transformers, as its own Trainer trains them."""

from __future__ import annotations

import importlib.util
import itertools
import os
import statistics
import tempfile
import time
from typing import Any

import torch
from bench import GIB, Bench, Shape, Training, adamw, speed
from torch import Tensor, nn
from torch.utils.data import Dataset

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def plain(bench: Bench) -> None:
    """Each model under the plain Trainer; then the smallest once more with Trainer's torch_compile=True.

    Without accelerate, which Trainer needs, a plain loop over LlamaForCausalLM stands in, and the row says so.
    """
    if importlib.util.find_spec("transformers") is None:
        bench.report.row("plain", note="not run: transformers is not installed")
        return
    trainer = importlib.util.find_spec("accelerate") is not None
    program = "transformers Trainer" if trainer else "LlamaForCausalLM in a plain loop (accelerate is not installed)"
    budget = bench.budget(25)
    rows = bench.micro_batches[0]
    cases = [(shape, False) for shape in bench.shapes]
    if trainer and bench.gpu:
        cases.append((bench.shapes[0], True))
    for shape, compiled in cases:
        labels = {"model": shape.name, "micro_batch": rows, "program": program, "torch_compile": compiled}
        if not budget.begin():
            bench.report.row("plain", **labels, note="not run: out of time")
            continue
        with bench.report.attempt("plain", **labels):
            bench.fresh()
            values = _trainer(bench, shape, rows, compiled) if trainer else _loop(bench, shape, rows)
            ours = _ours(bench, shape, rows)
            if ours is not None:
                values["njsl_over_this"] = ours / values["tokens_per_s"]
            bench.report.row("plain", **labels, **values)
        budget.end()


def _ours(bench: Bench, shape: Shape, rows: int) -> float | None:
    """Our tokens per second at this shape with sdpa, measured before in the same call."""
    for row in bench.report.sections.get("throughput", []):
        if (row["model"], row["micro_batch"], row["attention"]) == (shape.name, rows, "sdpa"):
            return row.get("tokens_per_s")
    return None


def _model(bench: Bench, shape: Shape) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device(bench.device):
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=bench.vocabulary,
                hidden_size=shape.hidden,
                intermediate_size=shape.intermediate,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.heads,
                max_position_embeddings=bench.length,
                rms_norm_eps=1e-5,
                tie_word_embeddings=False,
                use_cache=False,
                attn_implementation="sdpa",
            )
        )


class _Windows(Dataset[dict[str, Tensor]]):
    """Random token windows in memory."""

    def __init__(self, vocabulary: int, count: int, length: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(vocabulary, (count, length), generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def _trainer(bench: Bench, shape: Shape, rows: int, compiled: bool) -> dict[str, Any]:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    marks: list[float] = []

    class Clock(TrainerCallback):
        """A mark per step, from the warm-up's end on."""

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step < bench.warm_up:
                return
            bench.synchronise()
            if state.global_step == bench.warm_up and bench.gpu:
                torch.cuda.reset_peak_memory_stats()
            marks.append(time.perf_counter())

    steps = bench.warm_up + bench.steps
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=rows,
            bf16=bench.gpu,
            use_cpu=not bench.gpu,
            torch_compile=compiled,
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=_model(bench, shape),
            args=arguments,
            train_dataset=_Windows(bench.vocabulary, rows * steps, bench.length),
            callbacks=[Clock()],
        )
        loss = trainer.train().training_loss
    ms = statistics.median(1e3 * (after - before) for before, after in itertools.pairwise(marks))
    peak = torch.cuda.max_memory_allocated() / GIB if bench.gpu else 0.0
    tokens_per_s = rows * bench.length / ms * 1e3
    values = {"ms": ms, "tokens_per_s": tokens_per_s, "mfu_percent": bench.mfu_percent(shape, tokens_per_s)}
    return {**values, "peak_gib": peak, "loss": float(loss)}


def _loop(bench: Bench, shape: Shape, rows: int) -> dict[str, Any]:
    model = _model(bench, shape)

    def loss(network: Any, batch_BT: Tensor) -> Tensor:
        # The library shifts labels itself.
        ids = batch_BT[:, :-1]
        return network(input_ids=ids, labels=ids).loss

    return speed(bench, Training(bench, model, adamw(model), loss), shape, rows)
