"""Build, check and time njsl's models on one GPU, in one call; without a GPU, a self-test at toy sizes.

experiments/gpu/run.sh [--sections machine numerics ...] [--seconds 480] [--minutes 10] [--out FOLDER] [--selftest]
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# One GPU, whatever there is: with more, Trainer would use them all. Before torch, which reads it once.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")

import torch
from bench import PAPER, TOY, Bench, Report, timed
from numerics import check
from plain import plain
from pretrain import pretrain
from throughput import ablation, fsdp, throughput

# Shares of --seconds; what a section leaves goes to those after it. Pretraining has --minutes of its own.
SECTIONS: dict[str, float] = {
    "machine": 0.04,
    "numerics": 0.16,
    "throughput": 0.38,
    "plain": 0.14,
    "fsdp": 0.12,
    "ablation": 0.16,
    "pretrain": 0.0,
}


def machine(bench: Bench) -> None:
    """What it runs on, and the two ceilings as measured: matrix products and copies."""
    facts = {"python": platform.python_version(), "torch": torch.__version__, "cuda": str(torch.version.cuda)}
    if bench.gpu:
        properties = torch.cuda.get_device_properties(0)
        facts |= {"device": properties.name, "memory_gib": f"{properties.total_memory / 2**30:.0f}"}
        facts |= {"multiprocessors": str(properties.multi_processor_count), "driver": _driver()}
        facts |= {"cudnn": str(torch.backends.cudnn.version())}
    else:
        facts["device"] = "cpu"
    bench.report.row("machine", **facts)
    with bench.report.attempt("ceilings"):
        side, dtype = (8192, torch.bfloat16) if bench.gpu else (64, torch.float32)
        # Random inputs: on zeros the same product runs faster.
        left, right = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
        ms = min(timed(bench, lambda number: torch.mm(left, right)))
        what, rate = f"{side}^3 matrix product, {str(dtype)[6:]}", 2e-9 * side**3 / ms
        bench.report.row("ceilings", what=what, rate=rate, unit="TFLOP/s")
        source = torch.randn(2**30 if bench.gpu else 2**12, device=bench.device)
        target = torch.empty_like(source)
        ms = min(timed(bench, lambda number: target.copy_(source)))
        moved = 2 * source.numel() * source.element_size()
        bench.report.row("ceilings", what="copy, bytes read and written", rate=moved / ms / 1e9, unit="TB/s")


def main() -> int:
    """Run the sections asked for; 1 if a number is not finite, out of its bound, or a section failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--seconds", type=float, default=480, help="of all sections but pretrain")
    parser.add_argument("--minutes", type=float, default=10, help="of pretrain")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "outputs/gpu")))
    parser.add_argument("--selftest", action="store_true", help="toy sizes on the CPU: figures mean nothing")
    asked = parser.parse_args()
    gpu = torch.cuda.is_available() and not asked.selftest
    if not gpu:
        why = "self-test" if asked.selftest else "no GPU is at hand"
        print(f"{why}: every section runs at toy sizes on the CPU; the figures for a GPU are owed", flush=True)
    report = Report(asked.out)
    if gpu:
        bench = Bench(torch.device("cuda", 0), report, PAPER, 2048, 32_000, (16, 32, 8), 3, 10, {})
    else:
        torch.set_num_threads(1)
        bench = Bench(torch.device("cpu"), report, TOY, 32, 128, (2, 1), 1, 2, {"backend": "eager"})
    minutes, most_mib, rows = (asked.minutes, 400, 32) if gpu else (1, 1, 2)
    run: dict[str, Callable[[Bench], None]] = {
        "machine": machine,
        "numerics": check,
        "throughput": throughput,
        "plain": plain,
        "fsdp": fsdp,
        "ablation": ablation,
        "pretrain": lambda bench: pretrain(bench, minutes, most_mib, rows),
    }
    sections = [name for name in SECTIONS if name in asked.sections]
    deadline = time.monotonic()
    for name in sections:
        deadline += asked.seconds * SECTIONS[name] / max(sum(SECTIONS[other] for other in sections), 1e-9)
        bench.deadline = deadline
        begin = time.monotonic()
        with report.attempt(name):
            run[name](bench)
        report.row("seconds", section=name, seconds=time.monotonic() - begin)
    (report.folder / "tables.txt").write_text(report.tables())
    print(f"\n{report.tables('kernels')}\n{report.faults} faults; written to {report.folder}")
    return 1 if report.faults else 0


def _driver() -> str:
    """The driver's version, as it says itself."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "not known"


if __name__ == "__main__":
    sys.exit(main())
