"""What the values of a metric mean: its range, which way is better, and how tables name it. The one home of that."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

POINTS = "points"


@dataclass(frozen=True)
class Metric:
    """One metric of a score.

    Attributes:
        title: its name in tables and figures.
        low, high: closed range of its values.
        higher_is_better: which way is better.
        without_skill: score of a model without any skill, as a multiple of the score of guessing. Under the Brier score
            who guesses among k options scores 1 - 1/k with even probabilities, and 2 * (1 - 1/k) with all of it on one
            option, as a confident model does.
        unit: what a hundredth is called on an axis, where errors are drawn times 100.
        hundredth: the same in a sentence.
    """

    title: str
    low: float = 0.0
    high: float = 1.0
    higher_is_better: bool = True
    without_skill: float = 1.0
    unit: str = POINTS
    hundredth: str = "a hundredth of the score"

    @property
    def perfect(self) -> float:
        """Score of a model without any error."""
        return self.high if self.higher_is_better else self.low

    @property
    def remark(self) -> str:
        """What to say behind a task's name: nothing where more is better, as everybody expects."""
        return "" if self.higher_is_better else f" ({self.title}, lower is better)"


METRICS = {
    "accuracy": Metric("accuracy"),
    "acc_norm": Metric("normalised accuracy"),
    "mc1": Metric("mc1"),
    "mc2": Metric("mc2"),
    "top1": Metric("top-1 accuracy"),  # share of tokens that are the likeliest one
    "brier_score": Metric("Brier", high=2.0, higher_is_better=False, without_skill=2.0),  # summed over classes
    "bits_per_byte": Metric(
        "bits per byte",
        high=math.inf,
        higher_is_better=False,
        unit="0.01 bits/byte",
        hundredth="a hundredth of a bit per byte",
    ),
    "loss_nats": Metric(
        "loss", high=math.inf, higher_is_better=False, unit="0.01 nats", hundredth="a hundredth of a nat per token"
    ),
    "perplexity": Metric(
        "perplexity", low=1.0, high=math.inf, higher_is_better=False, unit="0.01", hundredth="a hundredth of it"
    ),
}


def hundredths(metrics: Iterable[str]) -> str:
    """What a hundredth of these metrics' values is called on an axis they share."""
    return ", ".join(dict.fromkeys(METRICS[name].unit for name in metrics))
