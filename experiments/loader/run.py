"""Tokens per second of the training loader on one core: sample order and memory-mapped windows, to int64 tensors.

python experiments/loader/run.py
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from njsl.train.corpus import TokenCorpus, dtype_for, finish, write_shard
from njsl.train.mix import SampleOrder

H200_MTOK_PER_SEC = 0.25  # what one H200 takes of the smallest model (220M) at 43 % MFU
FACTOR = 5
VOCAB_SIZE, DOCUMENT_TOKENS, SHARD_DOCUMENTS = 32_000, 1_000, 10_000


def make(folder: Path, tokens: int, rng: np.random.Generator) -> TokenCorpus:
    """A corpus of random ids in shards of ten million tokens."""

    def documents(count: int) -> Iterator[tuple[np.ndarray, int]]:
        for _ in range(count):
            yield rng.integers(1, VOCAB_SIZE, DOCUMENT_TOKENS - 1), 4 * DOCUMENT_TOKENS

    folder.mkdir(parents=True)
    shards = -(-tokens // (DOCUMENT_TOKENS * SHARD_DOCUMENTS))
    for number in range(shards):
        write_shard(folder, number, documents(SHARD_DOCUMENTS), dtype=dtype_for(VOCAB_SIZE), eos_id=0)
    finish(folder, shards=shards, dtype=dtype_for(VOCAB_SIZE), tokenizer_sha256="0" * 64, sources={})
    return TokenCorpus(folder, tokenizer_sha256=None, verify=False)


def measure(corpora: dict[str, TokenCorpus], weights: dict[str, float], rows: int, length: int, batches: int) -> None:
    """Print wall and CPU throughput and the shares of the two steps."""
    order = SampleOrder(0, weights, {name: corpus.windows(length) for name, corpus in corpora.items()})
    locating = 0.0
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in range(batches):
        begin = time.perf_counter()
        corpus_N, window_N = order.locate(np.arange(batch * rows, (batch + 1) * rows))
        locating += time.perf_counter() - begin
        tokens_NT = np.empty((rows, length + 1), np.int64)
        for corpus in np.unique(corpus_N):
            chosen = corpus_N == corpus
            tokens_NT[chosen] = corpora[order.names[corpus]].gather(window_N[chosen], length)
        torch.from_numpy(tokens_NT)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    mtok = batches * rows * length / 1e6
    print(
        f"{len(corpora)} corpora, {batches} batches of {rows} x {length + 1}: {mtok / wall:.1f} Mtok/s wall, ", end=""
    )
    print(f"{mtok / cpu:.1f} Mtok per CPU second; {locating / wall:.0%} of it sample order")
    times = mtok / wall / H200_MTOK_PER_SEC
    print(f"  {times:.0f} times what one H200 takes: {'met' if times >= FACTOR else 'MISSED'}, {FACTOR} are asked for")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mtok", type=float, default=200, help="size of the corpus [million tokens]")
    parser.add_argument("--batches", type=int, default=1000)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        corpora = {
            name: make(Path(folder) / name, int(share * arguments.mtok * 1e6), rng)
            for name, share in (("nl", 0.8), ("code", 0.2))
        }
        total = sum(corpus.tokens for corpus in corpora.values())
        print(f"{total / 1e6:.0f} Mtok written in {time.perf_counter() - start:.1f} s")
        measure({"nl": corpora["nl"]}, {"nl": 1.0}, 16, 2048, arguments.batches)
        measure(corpora, {"nl": 0.8, "code": 0.2}, 16, 2048, arguments.batches)


if __name__ == "__main__":
    main()
