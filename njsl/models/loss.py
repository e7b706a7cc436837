"""Cross-entropy of a linear head in chunks of tokens, so that the logits never stand whole.

Shapes: N tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # targets that do not count; torch's and transformers' own convention
# Logits per chunk: on a CPU they should stay in the cache, on a GPU fill it and stay small beside the model.
CHUNK_LOGITS = {"cpu": 2**20, "cuda": 2**27}


def linear_cross_entropy(
    hidden_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, reduction: Literal["mean", "none"]
) -> Tensor:
    """-log softmax(hidden weight')[target].

    For the mean the gradients are made chunk by chunk along with the loss, so nothing is computed twice and only
    they are kept. Under autocast the products run in its dtype; softmax and loss are fp32 always.

    Args:
        hidden_NC: inputs of the head.
        weight_VC: the head.
        targets_N: token ids, or -100 for positions that do not count.
        reduction: ``mean`` over the positions that count, or ``none``.

    Returns:
        fp32 [nats], 0-d for ``mean`` (0 if no position counts) and nll_N (0 where ignored) for ``none``.
    """
    if reduction == "none":
        chunks = zip(*(torch.split(x, _rows(weight_VC)) for x in (hidden_NC, targets_N)), strict=True)
        return torch.cat(
            [
                F.cross_entropy(F.linear(h, weight_VC).float(), t, ignore_index=IGNORE, reduction="none")
                for h, t in chunks
            ]
        )
    loss = _Mean.apply(hidden_NC, weight_VC, targets_N, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    assert isinstance(loss, Tensor)
    return loss


class _Mean(torch.autograd.Function):
    """The mean and its gradients in one pass over the chunks."""

    @staticmethod
    def forward(ctx: Any, hidden_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, with_gradients: bool) -> Tensor:
        device = hidden_NC.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_NC.dtype
        valid_N = targets_N != IGNORE
        # With ignored rows zeroed here, they add nothing to the head's gradient, whatever their softmax is.
        rows_NC = hidden_NC.to(dtype) * valid_N[:, None]
        at_N = targets_N.clamp(min=0)
        weight = weight_VC.to(dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden_NC.device)
        d_hidden_NC = torch.empty_like(rows_NC) if with_gradients else None
        d_weight_VC = torch.zeros_like(weight, dtype=torch.float32) if with_gradients else None
        step = _rows(weight_VC)
        with torch.autocast(device, enabled=False):
            for start in range(0, len(rows_NC), step):
                part = slice(start, start + step)
                rows, at = rows_NC[part], at_N[part, None]
                logits = rows @ weight.t()
                logp = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
                picked = logp.gather(1, at)
                total -= (picked[:, 0] * valid_N[part]).sum()
                if d_hidden_NC is None or d_weight_VC is None:
                    continue
                # The logits' gradient is softmax - one_hot; expm1 keeps the target's digits where it is sure.
                gradient = torch.exp(logp, out=logits)
                gradient.scatter_(1, at, torch.expm1(picked).to(dtype))
                torch.mm(gradient, weight, out=d_hidden_NC[part])
                if dtype == torch.float32:
                    d_weight_VC.addmm_(gradient.t(), rows)
                else:
                    d_weight_VC += gradient.t() @ rows
        count = valid_N.sum().clamp(min=1)
        if with_gradients:
            scale_N = valid_N / count
            ctx.save_for_backward(d_hidden_NC, d_weight_VC, scale_N)
            ctx.dtypes = hidden_NC.dtype, weight_VC.dtype
            ctx.count = count
        return total / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        d_hidden_NC, d_weight_VC, scale_N = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        d_hidden = d_hidden_NC * (gradient * scale_N)[:, None]
        d_weight = d_weight_VC * (gradient / ctx.count)
        return d_hidden.to(hidden_dtype), d_weight.to(weight_dtype), None, None


def _rows(weight_VC: Tensor) -> int:
    """Tokens per chunk."""
    return max(1, CHUNK_LOGITS.get(weight_VC.device.type, CHUNK_LOGITS["cuda"]) // len(weight_VC))
