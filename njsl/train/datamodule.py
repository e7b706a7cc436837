"""The training loader: sample numbers to micro-batches of tokens, starting wherever a checkpoint left off."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from njsl.train.mix import SampleOrder
from njsl.train.schedule import Schedule


class Windows(Protocol):
    """What the loader reads: token shards, or a Megatron corpus."""

    def gather(self, window_N: np.ndarray, length: int) -> np.ndarray:
        """Windows of ``length + 1`` tokens, int64 [N, length + 1]."""


class MicroBatches(Dataset[torch.Tensor]):
    """The micro-batches of one process, from a given step to the end of the run.

    Which samples a step trains on follows from its number alone; processes and micro-batches only share them out.

    Args:
        corpora: by name.
        order: sample number to corpus and window.
        schedule: of the run.
        rank: of this process.
        start: optimiser steps already done.

    Attributes:
        seconds: time spent reading so far [s].
    """

    def __init__(
        self, corpora: Mapping[str, Windows], order: SampleOrder, schedule: Schedule, rank: int, start: int
    ) -> None:
        self._corpora = list(corpora.values())
        self._order, self._schedule, self._rank, self._start = order, schedule, rank, start
        self.seconds = 0.0

    def __len__(self) -> int:
        return (self._schedule.steps - self._start) * self._schedule.accumulate

    def __getitem__(self, number: int) -> torch.Tensor:
        """Micro-batch ``number``: int64 [micro_sequences, sequence_tokens + 1]."""
        begin = time.perf_counter()
        plan = self._schedule
        step, part = divmod(number, plan.accumulate)
        first = (self._start + step) * plan.step_sequences
        first += (part * plan.processes + self._rank) * plan.micro_sequences
        corpus_N, window_N = self._order.locate(np.arange(first, first + plan.micro_sequences))
        batch = np.empty((plan.micro_sequences, plan.sequence_tokens + 1), np.int64)
        for corpus in np.unique(corpus_N):
            rows = corpus_N == corpus
            batch[rows] = self._corpora[corpus].gather(window_N[rows], plan.sequence_tokens)
        self.seconds += time.perf_counter() - begin
        return torch.from_numpy(batch)


class TokenData(lightning.LightningDataModule):
    """Hands ``MicroBatches`` to Lightning. Reading a memory map needs no worker processes.

    Args:
        batches: of this process.
    """

    def __init__(self, batches: MicroBatches) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(self.batches, batch_size=None, shuffle=False, pin_memory=torch.cuda.is_available())
