"""The chunked loss is the full cross-entropy, and so are its gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.models import loss
from njsl.models.loss import linear_cross_entropy


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    size=st.integers(1, 9),
    vocabulary=st.integers(1, 50),
    per_chunk=st.integers(1, 400),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
    scale=st.sampled_from([0.1, 3.0, 30.0]),
    seed=st.integers(0, 2**31),
)
def test_equals_full_cross_entropy(
    n: int, size: int, vocabulary: int, per_chunk: int, ignored: float, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = (scale * torch.randn(n, size, generator=generator)).requires_grad_()
    weight = torch.randn(vocabulary, size, generator=generator).requires_grad_()
    targets = torch.randint(vocabulary, (n,), generator=generator)
    targets[torch.rand(n, generator=generator) < ignored] = -100
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(loss.CHUNK_LOGITS, "cpu", per_chunk)
        mean = linear_cross_entropy(hidden, weight, targets, "mean")
        each = linear_cross_entropy(hidden, weight, targets, "none")
        gradients = torch.autograd.grad(3.0 * mean, (hidden, weight))
        with torch.no_grad():
            assert torch.equal(linear_cross_entropy(hidden, weight, targets, "mean"), mean)
    # In fp64, and 0 where no target counts (torch's own mean of nothing is NaN).
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    nll = F.cross_entropy(exact[0] @ exact[1].t(), targets, reduction="none")
    full = nll.sum() / max(1, int((targets != -100).sum()))
    expected = torch.autograd.grad(3.0 * full, exact)
    torch.testing.assert_close(mean.double(), full, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(each.double(), nll, atol=1e-4, rtol=1e-5)
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got.double(), want, atol=1e-4, rtol=1e-4)


def test_gradient_of_single_losses() -> None:
    hidden, weight = torch.randn(5, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    targets, share = torch.tensor([1, 2, -100, 0, 6]), torch.rand(5)
    got = torch.autograd.grad((linear_cross_entropy(hidden, weight, targets, "none") * share).sum(), (hidden, weight))
    full = F.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    for one, other in zip(got, torch.autograd.grad((full * share).sum(), (hidden, weight)), strict=True):
        torch.testing.assert_close(one, other)


def test_bf16_autocast_stays_near_fp32_and_returns_the_parameters_dtype() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(300, 32, requires_grad=True), (0.3 * torch.randn(100, 32)).requires_grad_()
    targets = torch.randint(100, (300,))
    full = F.cross_entropy(hidden @ weight.t(), targets)
    expected = torch.autograd.grad(full, (hidden, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mean = linear_cross_entropy(hidden, weight, targets, "mean")
    assert mean.dtype == torch.float32
    assert mean.item() == pytest.approx(full.item(), rel=2e-3)
    for got, want in zip(torch.autograd.grad(mean, (hidden, weight)), expected, strict=True):
        assert got.dtype == torch.float32
        assert (got - want).norm() < 0.01 * want.norm()


def test_logits_never_stand_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = torch.log_softmax

    def spy(logits: torch.Tensor, **options: object) -> torch.Tensor:
        seen.append(tuple(logits.shape))
        return original(logits, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(torch, "log_softmax", spy)
    monkeypatch.setitem(loss.CHUNK_LOGITS, "cpu", 100)
    linear_cross_entropy(torch.randn(25, 4), torch.randn(10, 4), torch.zeros(25, dtype=torch.long), "mean")
    assert seen == [(10, 10), (10, 10), (5, 10)]
