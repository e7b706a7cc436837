"""The optimiser and its learning rate, a pure function of the tokens seen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from njsl.core.types import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn


class AdamW:
    """AdamW with decoupled weight decay on matrices only, linear warm-up and cosine decay in tokens.

    Args:
        lr, min_lr: learning rate after warm-up and at the end of the run.
        warmup_tokens: length of the warm-up [tokens].
        weight_decay: of matrices, embeddings included; norms and biases have none.
        betas, eps: of Adam.
        clip_norm: gradients are scaled down to this global norm; null leaves them.

    Raises:
        ConfigError: a value out of its range.
    """

    def __init__(
        self,
        *,
        lr: float,
        min_lr: float = 0.0,
        warmup_tokens: int = 0,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        clip_norm: float | None = 1.0,
    ) -> None:
        if not lr > 0 or not 0 <= min_lr <= lr:
            raise ConfigError(f"optim: lr {lr} and min_lr {min_lr}; accepted: 0 <= min_lr <= lr, and lr above 0")
        if warmup_tokens < 0 or weight_decay < 0 or not eps > 0:
            raise ConfigError("optim: warmup_tokens and weight_decay are at least 0, eps is above 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"optim.betas: {list(betas)}; each is at least 0 and below 1")
        if clip_norm is not None and not clip_norm > 0:
            raise ConfigError(f"optim.clip_norm: {clip_norm}; above 0, or null for no clipping")
        self.lr, self.min_lr, self.warmup_tokens = lr, min_lr, warmup_tokens
        self.weight_decay, self.betas, self.eps, self.clip_norm = weight_decay, tuple(betas), eps, clip_norm

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
        """The fused torch optimiser over ``parameters``, with and without weight decay."""
        import torch

        trained = [parameter for parameter in parameters if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        betas = (self.betas[0], self.betas[1])
        return torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=self.lr, betas=betas, eps=self.eps, fused=True
        )

    def lr_at(self, tokens: int, total_tokens: int) -> float:
        """Learning rate of the step that ends at ``tokens`` of a run of ``total_tokens``."""
        if tokens < self.warmup_tokens:
            return self.lr * tokens / self.warmup_tokens
        span = max(1, total_tokens - self.warmup_tokens)
        done = min(1.0, (tokens - self.warmup_tokens) / span)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1.0 + math.cos(math.pi * done))
