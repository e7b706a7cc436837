"""How a run's tokens fall into optimiser steps, sequences and micro-batches over its processes."""

from __future__ import annotations

from dataclasses import dataclass

from njsl.core.types import ConfigError


@dataclass(frozen=True)
class Schedule:
    """The arithmetic of a run. What it trains on depends on ``sequence_tokens`` and ``step_sequences`` alone.

    Attributes:
        steps: optimiser steps of the whole run.
        sequence_tokens: tokens of one sequence.
        step_sequences: sequences per optimiser step, over all processes.
        micro_sequences: sequences per forward pass of one process.
        processes: of the run.
    """

    steps: int
    sequence_tokens: int
    step_sequences: int
    micro_sequences: int
    processes: int

    @classmethod
    def plan(cls, tokens: int, batch_tokens: int, sequence_tokens: int, micro: int | None, processes: int) -> Schedule:
        """The schedule of ``tokens``, rounded up to whole steps.

        Args:
            tokens, batch_tokens: of the run and of a step.
            sequence_tokens: the model's sequence length.
            micro: sequences per forward pass of one process; None takes a step's share in one.
            processes: of the run.

        Raises:
            ConfigError: the numbers do not divide.
        """
        if tokens < 1:
            raise ConfigError(f"tokens: {tokens}; at least 1 is accepted")
        if batch_tokens < 1 or batch_tokens % sequence_tokens:
            raise ConfigError(
                f"batch_tokens: {batch_tokens} is no multiple of model.sequence_length {sequence_tokens}; "
                f"{_near(batch_tokens, sequence_tokens)} would be"
            )
        sequences = batch_tokens // sequence_tokens
        if sequences % processes:
            raise ConfigError(
                f"batch_tokens: {batch_tokens} is {sequences} sequences, which {processes} processes cannot share; "
                f"{_near(batch_tokens, sequence_tokens * processes)} would do"
            )
        share = sequences // processes
        if micro is None:
            micro = share
        if micro < 1 or share % micro:
            raise ConfigError(
                f"trainer.micro_batch_sequences: {micro} does not divide the {share} sequences of a step per process; "
                f"accepted: {', '.join(str(n) for n in range(1, share + 1) if share % n == 0)}"
            )
        return cls(-(-tokens // batch_tokens), sequence_tokens, sequences, micro, processes)

    @property
    def step_tokens(self) -> int:
        """Tokens per optimiser step."""
        return self.step_sequences * self.sequence_tokens

    @property
    def tokens(self) -> int:
        """Tokens of the whole run."""
        return self.steps * self.step_tokens

    @property
    def samples(self) -> int:
        """Sequences of the whole run."""
        return self.steps * self.step_sequences

    @property
    def accumulate(self) -> int:
        """Forward passes of one process per optimiser step."""
        return self.step_sequences // (self.processes * self.micro_sequences)

    def every(self, tokens: int, step: int) -> bool:
        """Whether the step numbered ``step`` (from 1) passes a multiple of ``tokens``."""
        return step * self.step_tokens // tokens > (step - 1) * self.step_tokens // tokens


def _near(value: int, unit: int) -> int:
    return max(unit, round(value / unit) * unit)
