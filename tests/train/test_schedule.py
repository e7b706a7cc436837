"""The arithmetic of a run, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from njsl.core.types import ConfigError
from njsl.train.optim import AdamW
from njsl.train.schedule import Schedule


def test_a_run_by_hand() -> None:
    plan = Schedule.plan(tokens=98_000_000_000, batch_tokens=1_048_576, sequence_tokens=2048, micro=16, processes=8)
    # 98e9 / 1,048,576 is 93,460.08; 512 sequences over 8 processes in micro-batches of 16 are 4 forward passes.
    assert (plan.steps, plan.step_sequences, plan.accumulate) == (93_461, 512, 4)
    assert plan.tokens == 93_461 * 1_048_576 and plan.samples == 93_461 * 512


def test_without_a_micro_batch_a_step_is_one_pass() -> None:
    plan = Schedule.plan(tokens=1, batch_tokens=512, sequence_tokens=64, micro=None, processes=2)
    assert (plan.steps, plan.micro_sequences, plan.accumulate) == (1, 4, 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tokens": 0}, "tokens: 0; at least 1"),
        ({"batch_tokens": 1000}, "no multiple of model.sequence_length 64; 1024 would be"),
        ({"processes": 3}, "16 sequences, which 3 processes cannot share; 960 would do"),
        ({"micro": 5}, "5 does not divide the 16 sequences of a step per process; accepted: 1, 2, 4, 8, 16"),
        ({"micro": 0}, "0 does not divide"),
    ],
)
def test_numbers_that_do_not_divide(given: dict[str, int], said: str) -> None:
    right = {"tokens": 4096, "batch_tokens": 1024, "sequence_tokens": 64, "micro": None, "processes": 1}
    with pytest.raises(ConfigError, match=said):
        Schedule.plan(**{**right, **given})


@given(st.integers(1, 5000), st.integers(1, 60))
def test_every_so_many_tokens(every: int, steps: int) -> None:
    plan = Schedule.plan(tokens=steps * 256, batch_tokens=256, sequence_tokens=64, micro=None, processes=1)
    passed = [step for step in range(1, steps + 1) if plan.every(every, step)]
    by_hand = [
        step for step in range(1, steps + 1) if any(t % every == 0 for t in range((step - 1) * 256 + 1, step * 256 + 1))
    ]
    assert passed == by_hand


def test_the_learning_rate_by_hand() -> None:
    optim = AdamW(lr=1.0, min_lr=0.1, warmup_tokens=100)
    # Half-way through the warm-up, at its end, half-way down the cosine, at the end, and beyond it.
    assert [optim.lr_at(tokens, 1100) for tokens in (50, 100, 600, 1100, 9999)] == pytest.approx(
        [0.5, 1, 0.55, 0.1, 0.1]
    )
    assert AdamW(lr=1.0).lr_at(0, 10) == 1.0


@pytest.mark.parametrize(
    "wrong",
    [{"lr": 0.0}, {"lr": 1.0, "min_lr": 2.0}, {"lr": 1.0, "betas": (0.9, 1.0)}, {"lr": 1.0, "clip_norm": 0.0}],
)
def test_an_optimiser_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="optim"):
        AdamW(**wrong)  # type: ignore[arg-type]


def test_only_matrices_decay() -> None:
    import torch

    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    groups = AdamW(lr=1.0, weight_decay=0.3).build([matrix, vector]).param_groups
    assert [(group["weight_decay"], group["params"]) for group in groups] == [(0.3, [matrix]), (0.0, [vector])]
