"""The backends agree with each other and with a loop over single positions; what cannot run says so."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from njsl.core.types import ConfigError
from njsl.models.attention import (
    Attention,
    FlashAttn,
    Flex,
    Math,
    Sdpa,
    alibi_slopes,
    found_flash,
    sequence_starts,
)

CPU = torch.device("cpu")
DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2, 2], [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]])
CASES = [
    (document_mask, alibi, groups) for document_mask in (False, True) for alibi in (False, True) for groups in (1, 2)
]
QUESTION: dict[str, Any] = {"device": CPU, "dtype": torch.float32, "head_dim": 8, "sequence_length": 10, "alibi": False}


def inputs(kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 10, 8, generator=generator) for heads in (4, kv_heads, kv_heads))
    return q, k, v


def by_hand(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None, slopes: Tensor | None) -> Tensor:
    """One query at a time, over the keys it may see, in fp64."""
    q, k, v = (x.double() for x in (q, k, v))
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            g = h // (q.shape[1] // k.shape[1])
            for i in range(q.shape[2]):
                seen = [j for j in range(i + 1) if documents is None or documents[b, j] == documents[b, i]]
                scores = torch.stack([q[b, h, i] @ k[b, g, j] / 8**0.5 for j in seen])
                if slopes is not None:
                    scores -= torch.tensor([float(slopes[h]) * (i - j) for j in seen])
                out[b, h, i] = torch.softmax(scores, 0) @ v[b, g, seen]
    return out


@pytest.mark.parametrize(("document_mask", "alibi", "groups"), CASES)
@pytest.mark.parametrize("name", ["sdpa", "flex", "math"])
def test_backends_agree_with_a_loop(name: str, document_mask: bool, alibi: bool, groups: int) -> None:
    backends: dict[str, Attention] = {
        "sdpa": Sdpa(document_mask=document_mask, allow_dense_mask=True),
        "flex": Flex(document_mask=document_mask, allow_eager=True),
        "math": Math(document_mask=document_mask),
    }
    q, k, v = inputs(4 // groups)
    slopes = torch.tensor([0.25, 0.0625, 0.015625, 0.00390625]) if alibi else None
    out = backends[name](q, k, v, DOCUMENTS, slopes)
    expected = by_hand(q, k, v, DOCUMENTS if document_mask else None, slopes)
    assert (out.double() - expected).abs().max() < 1e-5


@pytest.mark.slow
def test_compiled_flex_agrees_with_math() -> None:
    q, k, v = inputs(2)
    out = Flex(document_mask=True, allow_eager=False)(q, k, v, DOCUMENTS)
    assert (out - Math(document_mask=True)(q, k, v, DOCUMENTS)).abs().max() < 1e-5


@pytest.mark.parametrize("alibi", [False, True])
def test_gradients_of_sdpa_and_math_agree(alibi: bool) -> None:
    slopes = alibi_slopes(4) if alibi else None
    gradients = []
    for backend in (Sdpa(document_mask=True, allow_dense_mask=True), Math(document_mask=True)):
        leaves = [x.requires_grad_() for x in inputs(2)]
        out = backend(*leaves, DOCUMENTS, slopes)
        gradients.append(torch.autograd.grad(out.square().sum(), leaves))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_math_computes_in_fp32_under_autocast() -> None:
    q, k, v = inputs(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = Math(document_mask=False)(q, k, v)
    assert (out.double() - by_hand(q, k, v, None, None)).abs().max() < 1e-5


def test_slopes_are_the_papers() -> None:
    # Press et al. 2022: 1/2 .. 1/256 for 8 heads; for 12, those and 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5.
    eight = [2.0**-h for h in range(1, 9)]
    assert alibi_slopes(8).tolist() == eight
    assert alibi_slopes(12).tolist() == pytest.approx([*eight, *(2.0 ** -(h + 0.5) for h in range(4))])
    assert alibi_slopes(1).tolist() == [2.0**-8]


def test_sdpa_refuses_a_dense_mask_unless_it_is_allowed() -> None:
    with pytest.raises(
        ConfigError, match=r"document_mask without materialising.*attention=flex.*allow_dense_mask=true"
    ):
        Sdpa(document_mask=True, allow_dense_mask=False).check(**QUESTION)
    with pytest.raises(ConfigError, match="positions=alibi without materialising"):
        Sdpa(document_mask=False, allow_dense_mask=False).check(**{**QUESTION, "alibi": True})
    with pytest.raises(ConfigError, match="beyond 4096 positions, got 8192"):
        Sdpa(document_mask=True, allow_dense_mask=True).check(**{**QUESTION, "sequence_length": 8192})


def test_sdpa_says_which_kernel_runs() -> None:
    backend = Sdpa(document_mask=False, allow_dense_mask=False)
    backend.check(**QUESTION)
    assert backend.resolved == "sdpa: cpu flash"


def test_flex_refuses_what_torch_cannot_train() -> None:
    with pytest.raises(ConfigError, match=r"cannot train on cpu.*use attention=math"):
        Flex(document_mask=False, allow_eager=True).check(**QUESTION)
    Flex(document_mask=False, allow_eager=True).check(**QUESTION, training=False)


def test_flex_without_a_compiler_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"no-such-compiler was not found.*allow_eager=true"):
        Flex(document_mask=False, allow_eager=False).check(**QUESTION, training=False)


@pytest.mark.parametrize("impl", ["auto", "fa4", "fa3", "fa2", "torch"])
def test_flash_on_a_cpu_names_what_was_looked_for(impl: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        FlashAttn(impl=impl, document_mask=False).check(**QUESTION)
    message = str(caught.value)
    assert message.startswith(f"attention=flash_attn (impl={impl}) cannot run on cpu")
    assert message.endswith("use attention=sdpa")
    assert "\n" not in message
    for looked in ("fa4", "fa3", "fa2", "torch") if impl == "auto" else (impl,):
        assert f"{looked} (" in message
    if impl in ("auto", "torch"):
        assert f"torch {torch.__version__}" in message


def test_flash_attn_4_alone_is_not_flash_attn_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The wheel of FlashAttention 4 brings flash_attn/cute but no flash_attn/__init__.py.
    cute = tmp_path / "flash_attn" / "cute"
    cute.mkdir(parents=True)
    (cute / "__init__.py").touch()
    (cute / "interface.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "flash_attn"]:
        monkeypatch.delitem(sys.modules, name)
    assert found_flash("fa4")[1] is None
    assert found_flash("fa2")[1] == "no module flash_attn_2_cuda"
    (tmp_path / "flash_attn_2_cuda.py").touch()
    assert found_flash("fa2")[1] == "no flash_attn.flash_attn_func"
    (tmp_path / "flash_attn" / "__init__.py").write_text("flash_attn_func = print")
    monkeypatch.delitem(sys.modules, "flash_attn")
    assert found_flash("fa2")[1] is None
    for name in [name for name in sys.modules if name.split(".")[0] == "flash_attn"]:
        monkeypatch.delitem(sys.modules, name)


def test_sequence_starts() -> None:
    assert sequence_starts(DOCUMENTS).tolist() == [0, 3, 5, 10, 11, 20]
    assert sequence_starts(DOCUMENTS).dtype == torch.int32


def packed_by_hand(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, slopes: Tensor | None) -> Tensor:
    """Causal attention within each sequence of a packed [N, H, D]."""
    whole = [x.transpose(0, 1)[None] for x in (q, k, v)]
    ids = torch.bucketize(torch.arange(len(q)), starts[1:-1].long(), right=True)
    return by_hand(*whole, ids[None], slopes)[0].transpose(0, 1).to(q.dtype)


@pytest.mark.parametrize("chosen", ["fa2", "torch"])
def test_flash_packs_documents_as_sequences(chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernels need a GPU; stand-ins with their signatures show what they would be handed.
    def fa2(q: Any, k: Any, v: Any, a: Any, b: Any, n: int, m: int, *, causal: bool, alibi_slopes: Any) -> Tensor:
        assert causal and n == m == 10 and a is b
        return packed_by_hand(q, k, v, a, alibi_slopes)

    def varlen(
        q: Any, k: Any, v: Any, a: Any, b: Any, n: int, m: int, *, window_size: Any = (-1, -1), enable_gqa: bool = False
    ) -> Tensor:
        assert window_size == (-1, 0) and enable_gqa and n == m == 10 and a is b
        return packed_by_hand(q, k, v, a, None)

    import torch.nn.attention.varlen as own

    monkeypatch.setattr(own, "varlen_attn", varlen)
    package = types.ModuleType("flash_attn")
    package.flash_attn_varlen_func = fa2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    backend = FlashAttn(impl="auto", document_mask=True)
    backend._chosen = chosen
    slopes = alibi_slopes(4) if chosen == "fa2" else None
    q, k, v = inputs(2)
    out = backend(q, k, v, DOCUMENTS, slopes)
    assert (out.double() - by_hand(q, k, v, DOCUMENTS, slopes)).abs().max() < 1e-5
