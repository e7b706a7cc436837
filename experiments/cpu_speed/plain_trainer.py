"""The same model in a plain `transformers` Trainer: the yardstick of the speed benchmark.

python experiments/cpu_speed/plain_trainer.py JOB.json

JOB.json holds `model` (arguments of LlamaConfig), `windows` (an .npy file, int64 [sequences, tokens]),
`step_sequences`, `micro_sequences`, `steps`, `first` (steps not measured, and the warm-up), `threads`, `compile`, the
optimiser's `lr`, `weight_decay`, `betas` and `clip_norm`, and `output`, where the result is written.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Windows of tokens; the model shifts the labels itself."""

    def __init__(self, path: str) -> None:
        self._windows = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        tokens = torch.tensor(self._windows[number])
        return {"input_ids": tokens, "labels": tokens}


class Clock(TrainerCallback):
    """When the steps that are not measured ended, and when the last did [s]."""

    def __init__(self, first: int) -> None:
        self._first = first
        self.begin = self.end = 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.end = time.perf_counter()
        if state.global_step == self._first:
            self.begin = self.end


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    windows, clock = Windows(job["windows"]), Clock(job["first"])
    trainer = Trainer(
        model=LlamaForCausalLM(LlamaConfig(**job["model"])),
        args=TrainingArguments(
            output_dir=str(Path(job["output"]).parent),
            per_device_train_batch_size=job["micro_sequences"],
            gradient_accumulation_steps=job["step_sequences"] // job["micro_sequences"],
            max_steps=job["steps"],
            logging_steps=job["first"],
            learning_rate=job["lr"],
            lr_scheduler_type="cosine",
            warmup_steps=job["first"],
            weight_decay=job["weight_decay"],
            adam_beta1=job["betas"][0],
            adam_beta2=job["betas"][1],
            max_grad_norm=job["clip_norm"],
            use_cpu=True,
            torch_compile=job["compile"],
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=windows,
        callbacks=[clock],
    )
    trainer.train()
    tokens = (job["steps"] - job["first"]) * job["step_sequences"] * len(windows[0]["input_ids"])
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    result = {"tokens_per_sec": tokens / (clock.end - clock.begin), "loss_nats": losses[-1]}
    Path(job["output"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
