"""Attention backends behind one protocol, causal always; asked for and unavailable is an error, never a fallback.

Shapes: B batch, T positions, H query heads, G key-value heads (H is a multiple of G), D head dimension.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from njsl.core.types import ConfigError

# A dense mask beyond this many positions would be larger than the activations it masks.
DENSE_MASK_LIMIT = 4096
# On Hopper cuDNN's kernel is the fastest that torch ships; torch's own order puts it last.
CUDA_ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class Attention(ABC):
    """What every backend offers.

    A forward pass calls ``plan`` once and ``attend`` in every layer; calling the object does both.

    Attributes:
        name: what ``attention=`` is called.
        document_mask: no position sees another document of its row.
        resolved: what runs in the end, for the log; set by ``check`` or by the first ``plan``.
    """

    name: str
    document_mask: bool
    resolved: str

    def __call__(
        self,
        q_BHTD: Tensor,
        k_BGTD: Tensor,
        v_BGTD: Tensor,
        documents_BT: Tensor | None = None,
        alibi_H: Tensor | None = None,
    ) -> Tensor:
        """softmax(q k' / sqrt(D) + bias) v over positions at or before one's own.

        Args:
            q_BHTD: queries.
            k_BGTD: keys; head g serves the H/G query heads from g*H/G on.
            v_BGTD: values.
            documents_BT: ids of documents; read if ``document_mask``. None: each row is one document.
            alibi_H: slopes [1/position] of a bias that falls linearly with distance; None: no bias.

        Returns:
            out_BHTD.
        """
        plan = self.plan(documents_BT, alibi_H, q_BHTD.shape[2], q_BHTD.device, q_BHTD.dtype)
        return self.attend(q_BHTD, k_BGTD, v_BGTD, plan)

    @abstractmethod
    def supported(
        self,
        *,
        device: torch.device,
        dtype: torch.dtype,
        head_dim: int,
        sequence_length: int,
        alibi: bool,
        training: bool = True,
    ) -> str | None:
        """Why this cannot be computed, with the override to use instead; None if it can."""

    @abstractmethod
    def plan(
        self,
        documents_BT: Tensor | None,
        alibi_H: Tensor | None,
        length: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Any:
        """What all layers of one forward pass share, e.g. the mask."""

    @abstractmethod
    def attend(self, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, plan: Any) -> Tensor:
        """One layer's attention, out_BHTD."""

    def check(
        self,
        *,
        device: torch.device,
        dtype: torch.dtype,
        head_dim: int,
        sequence_length: int,
        alibi: bool,
        training: bool = True,
    ) -> None:
        """Hold the choice to what the machine can do, before the first step.

        Raises:
            ConfigError: it is not supported; the message names what was looked for and the override to use.
        """
        reason = self.supported(
            device=device,
            dtype=dtype,
            head_dim=head_dim,
            sequence_length=sequence_length,
            alibi=alibi,
            training=training,
        )
        if reason is not None:
            raise ConfigError(reason)


class Sdpa(Attention):
    """torch's scaled_dot_product_attention: on a GPU the first usable of cuDNN, flash, efficient and math.

    Args:
        document_mask: block attention across documents; needs a dense mask.
        allow_dense_mask: let document masks and ALiBi be dense, O(B T^2) and O(H T^2) memory, up to 4,096 positions.
    """

    name = "sdpa"

    def __init__(self, *, document_mask: bool, allow_dense_mask: bool) -> None:
        self.document_mask = document_mask
        self.allow_dense_mask = allow_dense_mask
        self.resolved = "sdpa"

    def supported(
        self,
        *,
        device: torch.device,
        dtype: torch.dtype,
        head_dim: int,
        sequence_length: int,
        alibi: bool,
        training: bool = True,
    ) -> str | None:
        """See ``Attention``."""
        asked = "document_mask" if self.document_mask else "positions=alibi" if alibi else None
        if asked and not self.allow_dense_mask:
            return (
                f"attention=sdpa cannot do {asked} without materialising a dense mask; use attention=flex, "
                f"{'attention=flash_attn, ' if self.document_mask else ''}or attention.allow_dense_mask=true"
            )
        if asked and sequence_length > DENSE_MASK_LIMIT:
            return (
                f"attention=sdpa: a dense mask for {asked} is refused beyond {DENSE_MASK_LIMIT} positions, got "
                f"{sequence_length}; use attention=flex"
            )
        self.resolved = f"sdpa: {device.type} {_sdpa_kernel_name(device, dtype, head_dim, dense=asked is not None)}"
        return None

    def plan(
        self,
        documents_BT: Tensor | None,
        alibi_H: Tensor | None,
        length: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor | None:
        """See ``Attention``."""
        documents_BT = documents_BT if self.document_mask else None
        if documents_BT is None and alibi_H is None:
            return None
        allowed = _allowed(documents_BT, length, device)
        if alibi_H is None:
            return allowed
        return _bias(alibi_H, length).masked_fill(~allowed, float("-inf")).to(dtype)

    def attend(self, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, plan: Tensor | None) -> Tensor:
        """See ``Attention``."""
        if q_BHTD.is_cuda:
            with sdpa_kernel(CUDA_ORDER, set_priority=True):
                return _sdpa(q_BHTD, k_BGTD, v_BGTD, plan)
        return _sdpa(q_BHTD, k_BGTD, v_BGTD, plan)


class Math(Attention):
    """The reference: scores and softmax in fp32, nothing fused, O(B H T^2) memory.

    Args:
        document_mask: block attention across documents.
    """

    name = "math"

    def __init__(self, *, document_mask: bool) -> None:
        self.document_mask = document_mask
        self.resolved = "math: fp32"

    def supported(
        self,
        *,
        device: torch.device,
        dtype: torch.dtype,
        head_dim: int,
        sequence_length: int,
        alibi: bool,
        training: bool = True,
    ) -> str | None:
        """See ``Attention``; it runs everywhere."""
        return None

    def plan(
        self,
        documents_BT: Tensor | None,
        alibi_H: Tensor | None,
        length: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:
        """See ``Attention``."""
        allowed = _allowed(documents_BT if self.document_mask else None, length, device)
        zero = torch.zeros((), device=device) if alibi_H is None else _bias(alibi_H, length)
        return zero.masked_fill(~allowed, float("-inf"))

    def attend(self, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, plan: Tensor) -> Tensor:
        """See ``Attention``."""
        groups = q_BHTD.shape[1] // k_BGTD.shape[1]
        with torch.autocast(q_BHTD.device.type, enabled=False):
            k = k_BGTD.float().repeat_interleave(groups, dim=1)
            v = v_BGTD.float().repeat_interleave(groups, dim=1)
            scores = q_BHTD.float() @ k.transpose(2, 3) * q_BHTD.shape[3] ** -0.5
            return (torch.softmax(scores + plan, dim=-1) @ v).to(q_BHTD.dtype)


class Flex(Attention):
    """torch's flex_attention, compiled: document masks and ALiBi without a dense mask.

    Args:
        document_mask: block attention across documents.
        allow_eager: run it uncompiled, which materialises the scores; for machines without a compiler.
    """

    name = "flex"

    def __init__(self, *, document_mask: bool, allow_eager: bool) -> None:
        self.document_mask = document_mask
        self.allow_eager = allow_eager
        self.resolved = "flex: eager" if allow_eager else "flex: compiled"

    def supported(
        self,
        *,
        device: torch.device,
        dtype: torch.dtype,
        head_dim: int,
        sequence_length: int,
        alibi: bool,
        training: bool = True,
    ) -> str | None:
        """See ``Attention``."""
        if training and device.type != "cuda":
            # Its own words in torch 2.13: "FlexAttention does not support backward on CPU".
            return (
                f"attention=flex cannot train on {device.type}: torch {torch.__version__} has its backward pass on "
                "cuda only; use attention=math or attention=sdpa (document_mask: attention.allow_dense_mask=true)"
            )
        if not self.allow_eager:
            compiler = os.environ.get("CXX", "c++") if device.type == "cpu" else "triton"
            found = shutil.which(compiler) if device.type == "cpu" else importlib.util.find_spec(compiler)
            if found is None:
                return (
                    f"attention=flex must be compiled, and {compiler} was not found; install it, or use "
                    "attention=sdpa or attention.allow_eager=true"
                )
        return None

    def plan(
        self,
        documents_BT: Tensor | None,
        alibi_H: Tensor | None,
        length: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> tuple[Any, Callable[..., Tensor] | None]:
        """See ``Attention``."""
        documents_BT = documents_BT if self.document_mask else None
        mask = _causal_blocks(length, device) if documents_BT is None else _document_blocks(documents_BT)
        if alibi_H is None:
            return mask, None

        def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + alibi_H[h] * (j - i)

        return mask, biased

    def attend(self, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, plan: tuple[Any, Any]) -> Tensor:
        """See ``Attention``."""
        from torch.nn.attention.flex_attention import flex_attention

        mask, biased = plan
        # Within a compiled layer it is compiled along with the rest.
        eager = self.allow_eager or torch.compiler.is_compiling()
        run: Any = flex_attention if eager else _compiled_flex()
        grouped = q_BHTD.shape[1] != k_BGTD.shape[1]
        out = run(q_BHTD, k_BGTD, v_BGTD, score_mod=biased, block_mask=mask, enable_gqa=grouped)
        assert isinstance(out, Tensor)
        return out


FlashImpl = Literal["fa4", "fa3", "fa2", "torch"]
# Each impl's module: what proves that it is there. Source: the packages' own import names.
_FLASH_MODULES: dict[FlashImpl, tuple[str, str]] = {
    # flash-attn-4 installs flash_attn/cute without flash_attn/__init__.py, so `import flash_attn` proves nothing.
    "fa4": ("flash_attn.cute.interface", "flash-attn-4"),
    "fa3": ("flash_attn_interface", "flash-attn-3"),
    "fa2": ("flash_attn_2_cuda", "flash-attn"),
    "torch": ("torch", "torch"),
}


class FlashAttn(Attention):
    """FlashAttention on a GPU, in fp16 or bf16.

    Args:
        impl: ``fa4`` (package flash-attn-4), ``fa3``, ``fa2`` (flash-attn, the only one with ALiBi), ``torch`` (torch's
            own flash kernel), or ``auto``: the first of them that is there.
        document_mask: block attention across documents, by packing them as sequences of their own.
    """

    name = "flash_attn"

    def __init__(self, *, impl: Literal["auto", "fa4", "fa3", "fa2", "torch"], document_mask: bool) -> None:
        self.impl = impl
        self.document_mask = document_mask
        self.resolved = f"flash_attn: {impl}"
        self._chosen: FlashImpl | None = None

    def supported(
        self,
        *,
        device: torch.device,
        dtype: torch.dtype,
        head_dim: int,
        sequence_length: int,
        alibi: bool,
        training: bool = True,
    ) -> str | None:
        """See ``Attention``."""
        order: list[FlashImpl] = ["fa4", "fa3", "fa2", "torch"] if self.impl == "auto" else [self.impl]
        faults = {impl: self._fault(impl, device, dtype, head_dim, alibi) for impl in order}
        usable = [impl for impl, fault in faults.items() if fault is None]
        if usable:
            self._choose(usable[0])
            return None
        looked = "; ".join(f"{impl} ({found_flash(impl)[0]}): {fault}" for impl, fault in faults.items())
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return f"attention=flash_attn (impl={self.impl}) cannot run on {name}; looked for {looked}; use attention=sdpa"

    def _fault(
        self, impl: FlashImpl, device: torch.device, dtype: torch.dtype, head_dim: int, alibi: bool
    ) -> str | None:
        """Why ``impl`` cannot be used; None if it can."""
        _, missing = found_flash(impl)
        if missing is not None:
            return missing
        if device.type != "cuda":
            return "needs a CUDA device"
        if dtype not in (torch.float16, torch.bfloat16):
            return f"needs fp16 or bf16, got {str(dtype).removeprefix('torch.')}"
        major = torch.cuda.get_device_capability(device)[0]
        if impl == "fa4" and major not in (9, 10):
            return f"needs compute capability 9 or 10, got {major}"
        if impl == "fa3" and major != 9:
            return f"needs compute capability 9, got {major}"
        if major < 8:
            return f"needs compute capability 8 or above, got {major}"
        if head_dim > (128 if impl == "fa4" else 256):
            return f"head dimension {head_dim} is too large"
        if alibi and impl != "fa2":
            return "has no ALiBi"
        if self.document_mask and impl != "fa2" and importlib.util.find_spec("torch.nn.attention.varlen") is None:
            return f"torch {torch.__version__} has no varlen_attn for document_mask"
        return None

    def _choose(self, impl: FlashImpl) -> None:
        if impl in ("fa4", "fa3"):
            from torch.nn.attention import activate_flash_attention_impl

            activate_flash_attention_impl(impl.upper())
        self._chosen = impl
        self.resolved = f"flash_attn: {impl} ({found_flash(impl)[0]})"

    def plan(
        self,
        documents_BT: Tensor | None,
        alibi_H: Tensor | None,
        length: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> tuple[Tensor | None, Tensor | None]:
        """See ``Attention``."""
        if self._chosen is None:
            self.check(device=device, dtype=dtype, head_dim=1, sequence_length=length, alibi=alibi_H is not None)
        if documents_BT is None or not self.document_mask:
            return None, alibi_H
        return sequence_starts(documents_BT), alibi_H

    def attend(
        self, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, plan: tuple[Tensor | None, Tensor | None]
    ) -> Tensor:
        """See ``Attention``."""
        starts, alibi_H = plan
        if starts is None and self._chosen != "fa2":
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return _sdpa(q_BHTD, k_BGTD, v_BGTD, None)
        B, _, T, _ = q_BHTD.shape
        # The kernels take positions before heads.
        q, k, v = (x.transpose(1, 2) for x in (q_BHTD, k_BGTD, v_BGTD))
        if starts is None:
            from flash_attn import flash_attn_func

            return flash_attn_func(q, k, v, causal=True, alibi_slopes=alibi_H).transpose(1, 2)
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        if self._chosen == "fa2":
            from flash_attn import flash_attn_varlen_func

            out = flash_attn_varlen_func(q, k, v, starts, starts, T, T, causal=True, alibi_slopes=alibi_H)
        else:
            out = _varlen(q, k, v, starts, T)
        return out.unflatten(0, (B, T)).transpose(1, 2)


def found_flash(impl: FlashImpl) -> tuple[str, str | None]:
    """Look for one implementation of FlashAttention.

    Returns:
        package and version as found, and why it cannot be imported; None if it can.
    """
    module, package = _FLASH_MODULES[impl]
    if impl == "torch":
        built = torch.version.cuda or torch.version.hip
        return f"torch {torch.__version__}", None if built else "built without CUDA"
    try:
        version = f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        version = f"{package} not installed"
    try:
        missing = None if importlib.util.find_spec(module) else f"no module {module}"
        if impl == "fa2" and missing is None and not hasattr(importlib.import_module("flash_attn"), "flash_attn_func"):
            missing = "no flash_attn.flash_attn_func"
    except ImportError as error:
        missing = f"{module}: {error}"
    if missing is None and impl in ("fa4", "fa3") and not hasattr(torch.nn.attention, "activate_flash_attention_impl"):
        missing = f"torch {torch.__version__} cannot activate it"
    return version, missing


def sequence_starts(documents_BT: Tensor) -> Tensor:
    """Offsets of the documents in the flattened batch [positions], int32, with 0 first and B*T last."""
    first_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    first_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    starts = first_BT.flatten().nonzero().flatten()
    return F.pad(starts, (0, 1), value=documents_BT.numel()).to(torch.int32)


def alibi_slopes(n_heads: int) -> Tensor:
    """ALiBi's slopes, fp32 [n_heads]: 2**(-8 h / n_heads) for a power of two, else those of the power below, filled
    up with every second slope of the power above.

    Source: Press et al. 2022, arXiv 2108.12409, section 3, and the rule for other head counts in their code.
    """
    below = 1 << (n_heads.bit_length() - 1)

    def geometric(n: int) -> list[float]:
        return [2.0 ** (-8 * h / n) for h in range(1, n + 1)]

    return torch.tensor(geometric(below) + geometric(2 * below)[0::2][: n_heads - below])


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)


def _sdpa_kernel_name(device: torch.device, dtype: torch.dtype, head_dim: int, *, dense: bool) -> str:
    """The kernel torch takes for such inputs, in words."""
    if device.type == "meta":
        return "any"
    x = torch.empty(1, 1, 128, head_dim, device=device, dtype=dtype)
    mask = torch.ones(128, 128, device=device, dtype=torch.bool) if dense else None
    with sdpa_kernel(CUDA_ORDER, set_priority=True):
        choice = torch._fused_sdp_choice(x, x, x, mask, is_causal=mask is None)
    return SDPBackend(choice).name.removesuffix("_ATTENTION").lower()


def _allowed(documents_BT: Tensor | None, length: int, device: torch.device) -> Tensor:
    """Which key (last axis) each query may see, bool [1 or B, 1, T, T]."""
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
    if documents_BT is None:
        return causal
    return causal & (documents_BT[:, None, :, None] == documents_BT[:, None, None, :])


def _bias(alibi_H: Tensor, length: int) -> Tensor:
    """ALiBi's bias -slope * distance, fp32 [1, H, T, T]; positive, and masked, for keys ahead."""
    at = torch.arange(length, device=alibi_H.device)
    return (alibi_H.float()[:, None, None] * (at[None, None, :] - at[None, :, None]))[None]


@cache
def _causal_blocks(length: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(lambda b, h, i, j: i >= j, None, None, length, length, device=str(device))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _document_blocks(documents_BT: Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (documents_BT[b, i] == documents_BT[b, j])

    B, T = documents_BT.shape
    return create_block_mask(visible, B, None, T, T, device=str(documents_BT.device))


@cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _varlen(q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, starts: Tensor, longest: int) -> Tensor:
    """torch's varlen_attn, whose signature differs between releases."""
    from torch.nn.attention.varlen import varlen_attn

    accepted = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in accepted else {"is_causal": True}
    if q_NHD.shape[1] != k_NGD.shape[1]:
        if "enable_gqa" in accepted:
            options["enable_gqa"] = True
        else:
            groups = q_NHD.shape[1] // k_NGD.shape[1]
            k_NGD, v_NGD = (x.repeat_interleave(groups, dim=1) for x in (k_NGD, v_NGD))
    out = varlen_attn(q_NHD, k_NGD, v_NGD, starts, starts, longest, longest, **options)
    assert isinstance(out, Tensor)
    return out
