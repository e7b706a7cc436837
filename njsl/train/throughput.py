"""What a device could do, to say how much of it a run uses."""

from __future__ import annotations

import time

import torch

# Dense bf16 peaks [FLOP/s] from the vendors' data sheets, by a part of the device's name; the first that fits counts.
BF16_PEAK = {
    "B200": 2250e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A6000": 154.8e12,
    "RTX 4090": 165.2e12,
}
_SIDE = {"cpu": 1024, "cuda": 8192}


def peak_flops(device: torch.device, precision: str) -> tuple[float, str]:
    """Peak matrix-product rate of one device [FLOP/s], and where the figure is from.

    In bf16 the data sheet's, where the device is known; else the rate of a large matrix product, measured here.
    """
    if device.type == "cuda" and precision == "bf16-mixed":
        name = torch.cuda.get_device_name(device)
        for part, peak in BF16_PEAK.items():
            if part in name:
                return peak, f"{name}, dense bf16, data sheet"
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    return measured_flops(device, dtype), "matrix product measured here"


def measured_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Rate of a large square matrix product [FLOP/s]: the best within a second or so, since others may be busy too."""
    side = _SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + 1.0
    while time.perf_counter() < end:
        _synchronize(device)
        begin = time.perf_counter()
        torch.mm(left, right)
        _synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
