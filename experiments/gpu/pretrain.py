"""Minutes of real pretraining: the smallest model on the bytes of this Python environment's source files."""

from __future__ import annotations

import csv
import hashlib
import math
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from bench import Bench, Training, adamw
from torch import Tensor

EOS = 256  # after the 256 bytes
VOCABULARY = 320  # a multiple of 64, which matrix units like
HELDOUT_SHARE, HELDOUT_PACKAGES, HELDOUT_WINDOWS, EVERY_SECONDS = 0.02, 8, 128, 20
LR, MIN_LR, WARMUP_STEPS = 1e-3, 1e-4, 200
FIELDS = ("step", "seconds", "tokens", "lr", "train_loss", "heldout_loss")


def pretrain(bench: Bench, minutes: float, most_mib: int, rows: int) -> None:
    """Train for ``minutes``, with the held-out loss every 20 seconds, into loss.csv and loss.png.

    Args:
        bench: as for every section.
        minutes: of training, compilation included.
        most_mib: of source text.
        rows: sequences of a step.
    """
    with bench.report.attempt("pretrain"):
        begin = time.perf_counter()
        train, heldout, packages = _texts(most_mib)
        unigram = _unigram(train, heldout)
        bench.report.row(
            "pretrain_data",
            seconds=time.perf_counter() - begin,
            train_tokens=len(train),
            heldout_tokens=len(heldout),
            packages=packages[0],
            heldout_packages=packages[1],
            heldout_unigram_nats=unigram,
        )
        bench.fresh()
        model = bench.compile(bench.build(bench.shapes[0], vocabulary=VOCABULARY))
        training = Training(bench, model, adamw(model, LR))
        curve, steps_per_s = _train(bench, training, train, heldout, minutes, rows)
        last = curve[-1]
        values = {"model": bench.shapes[0].name, "steps": last["step"], "tokens": last["tokens"]}
        values |= {"seconds": last["seconds"], "tokens_per_s": steps_per_s * rows * bench.length}
        values |= {"train_loss": last["train_loss"], "heldout_loss": last["heldout_loss"]}
        # Bytes and ends of documents are both tokens: bits per token are bits per byte but for one in a file.
        values |= {"heldout_bits_per_byte": last["heldout_loss"] / math.log(2), "unigram_nats": unigram}
        if bench.gpu and not last["heldout_loss"] < unigram:
            values["fault"] = "held-out loss is not below the unigram entropy"
        bench.report.row("pretrain", **values)
        _draw(curve, unigram, bench.report.folder / "loss.png")


def _train(
    bench: Bench, training: Training, train: np.ndarray, heldout: np.ndarray, minutes: float, rows: int
) -> tuple[list[dict[str, float]], float]:
    train_T = torch.from_numpy(train.view(np.int16)).to(bench.device)
    heldout_T = torch.from_numpy(heldout.view(np.int16)).to(bench.device)
    windows = (len(train) - 1) // bench.length
    order = np.random.default_rng(0).permutation(windows)
    spread = np.linspace(0, (len(heldout) - 1) // bench.length - 1, HELDOUT_WINDOWS if bench.gpu else 2).astype(int)
    curve: list[dict[str, float]] = []
    seconds, evaluating, step, limit = 0.0, 0.0, 0, 60 * minutes
    next_look: float = EVERY_SECONDS
    begin = time.perf_counter()
    counted_from: tuple[int, float] | None = None
    while True:
        # Reading the clock does not wait for the device; looking at the loss does, so the two run apart for at most
        # the time between looks.
        seconds = time.perf_counter() - begin
        if seconds >= next_look or seconds >= limit or (not bench.gpu and step == bench.steps):
            bench.synchronise()
            seconds = time.perf_counter() - begin
            done = seconds >= limit or (not bench.gpu and step == bench.steps)
            looked: dict[str, float] = {"step": step, "seconds": seconds, "tokens": step * rows * bench.length}
            looked |= {"lr": _lr(step, seconds / limit), "train_loss": float(torch.stack(training.losses).mean())}
            training.losses.clear()
            before = time.perf_counter()
            looked["heldout_loss"] = _evaluate(bench, training, heldout_T, spread, rows)
            evaluating += time.perf_counter() - before
            curve.append(looked)
            _write(curve, bench.report.folder / "loss.csv")
            print("  ".join(f"{name}={value:.5g}" for name, value in looked.items()), flush=True)
            if not math.isfinite(looked["train_loss"] + looked["heldout_loss"]):
                raise FloatingPointError(f"loss is not finite at step {step}")
            if done:
                break
            next_look = seconds + EVERY_SECONDS
        chosen = order.take(np.arange(step * rows, (step + 1) * rows), mode="wrap")
        for group in training.optimiser.param_groups:
            group["lr"] = _lr(step, seconds / limit)
        training.step(_gather(train_T, chosen, bench.length))
        step += 1
        if step == bench.warm_up:
            bench.synchronise()
            counted_from = (step, time.perf_counter())
            evaluating = 0.0
        elif step % 10 == 0:
            bench.synchronise()  # so that the queue of steps never outruns the limit
    if counted_from is None or step == counted_from[0]:
        raise TimeoutError(f"{minutes} minutes ended within {step} steps")
    spent = time.perf_counter() - counted_from[1] - evaluating
    return curve, (step - counted_from[0]) / spent


def _lr(step: int, done: float) -> float:
    """Linear warm-up in steps, then a cosine over the time allowed."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * (MIN_LR + (LR - MIN_LR) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def _gather(tokens_T: Tensor, windows: np.ndarray, length: int) -> Tensor:
    """Windows of ``length + 1`` tokens, each beginning at a multiple of ``length``, int64."""
    starts = torch.from_numpy(windows * length).to(tokens_T.device)
    return tokens_T[starts[:, None] + torch.arange(length + 1, device=tokens_T.device)].long()


@torch.no_grad()
def _evaluate(bench: Bench, training: Training, heldout_T: Tensor, spread: np.ndarray, rows: int) -> float:
    """Mean nll [nats per token] of the same held-out windows every time."""
    parts = [spread[at : at + rows] for at in range(0, len(spread), rows)]
    total = torch.zeros((), device=bench.device)
    with bench.autocast():
        for part in parts:
            total += training.loss(training.model, _gather(heldout_T, part, bench.length)) * len(part)
    return float(total) / len(spread)


def _texts(most_mib: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Bytes of .py files with an end after each, uint16: for training, held out, and the packages of both.

    Whole packages are held out, chosen by the hash of their names. The same environment gives the same tokens.
    """
    packages: dict[str, list[Path]] = {}
    for root in dict.fromkeys(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")):
        for top in sorted(Path(root).iterdir()):
            if top.name in ("site-packages", "dist-packages", "__pycache__"):
                continue
            files = sorted(top.rglob("*.py")) if top.is_dir() else [top] if top.suffix == ".py" else []
            packages.setdefault(top.stem, []).extend(files)
    packages = {name: [file for file in files if file.is_file()] for name, files in packages.items()}
    packages = {name: files for name, files in packages.items() if files}
    # By hash, so that a bound on the size samples whole packages instead of the alphabet's beginning.
    names = iter(sorted(packages, key=lambda name: hashlib.blake2b(name.encode()).digest()))
    most = most_mib * 2**20
    # A large package must not be all that is held out.
    heldout, heldout_packages = _read(packages, names, most * HELDOUT_SHARE, most * HELDOUT_SHARE / HELDOUT_PACKAGES)
    train, train_packages = _read(packages, names, most, most)
    return train, heldout, (train_packages, heldout_packages)


def _read(
    packages: dict[str, list[Path]], names: Iterator[str], most: float, most_each: float
) -> tuple[np.ndarray, int]:
    """Tokens of the next packages, and how many they were, until there are ``most`` bytes."""
    parts: list[np.ndarray] = []
    total = count = 0
    for name in names:
        size = 0
        for file in packages[name]:
            data = np.frombuffer(file.read_bytes(), np.uint8)
            parts.append(np.append(data.astype(np.uint16), np.uint16(EOS)))
            size += len(data)
            if size >= most_each or total + size >= most:
                break
        total, count = total + size, count + 1
        if total >= most:
            break
    return np.concatenate(parts), count


def _unigram(train: np.ndarray, heldout: np.ndarray) -> float:
    """Cross-entropy [nats per token] of the held-out tokens under their frequencies in training, add-one smoothed."""
    counts = np.bincount(train, minlength=VOCABULARY) + 1
    return float(-np.log(counts / counts.sum())[heldout].mean())


def _write(curve: list[dict[str, float]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(curve)


def _draw(curve: list[dict[str, float]], unigram: float, path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print("no loss.png: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    tokens = [point["tokens"] / 1e6 for point in curve]
    axes.plot(tokens, [point["train_loss"] for point in curve], label="training, mean since the last point")
    axes.plot(tokens, [point["heldout_loss"] for point in curve], label="held-out packages")
    axes.axhline(unigram, color="grey", linestyle=":", label="unigram")
    axes.set(xlabel="tokens (bytes) [million]", ylabel="loss [nats per token]")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
