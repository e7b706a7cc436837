"""N-gram entropy: by hand, against plain counters, and where the truth is known."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import ConfigError, Document
from njsl.tag.base import Batch
from njsl.tag.entropy import Keys, Occurrences, Sums, x_g_x
from njsl.tag.taggers.ngram_entropy import NgramEntropy


class Numbers:
    """A tokenizer of texts that are numbers: each is a token."""

    name, sha256 = "numbers", "0" * 64

    def __init__(self, vocab_size: int = 1000) -> None:
        self.vocab_size = vocab_size

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(text.split(), np.int64) for text in texts]


def document(tokens: Sequence[int], name: str, group: str | None = None) -> Document:
    return Document(" ".join(map(str, tokens)), name, group or name)


def measured(
    folder: Path,
    documents: Sequence[Document],
    *,
    measure: NgramEntropy,
    batch: int = 3,
    shard: int = 5,
    encoder: Numbers | None = None,
) -> dict[str, float | int]:
    """The figures of documents in shards of so many, read in batches of so many."""
    encoder = encoder or Numbers()
    parts = []
    for start in range(0, len(documents), shard):
        some = documents[start : start + shard]
        kept = [measure.keep(Batch(some[i : i + batch], encoder)) for i in range(0, len(some), batch)]
        parts.append(folder / f"part{start}.parquet")
        pq.write_table(pa.Table.from_batches(kept), parts[-1], row_group_size=4)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    figures = measure.measure(parts, scratch, encoder)
    assert list(figures) == list(measure.figures)
    assert not list(scratch.iterdir())
    return figures


def brute(documents: Sequence[Sequence[int]], n: int) -> tuple[list[float], float, int]:
    """Entropies of contexts, the conditional entropy, and the number of occurrences, by plain counting."""
    after: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for tokens in documents:
        for i in range(n, len(tokens)):
            after[tuple(tokens[i - n : i])][tokens[i]] += 1
    entropies, weights = [], []
    for counts in after.values():
        total = sum(counts.values())
        entropies.append(-sum(c / total * math.log2(c / total) for c in counts.values()))
        weights.append(total)
    total = sum(weights)
    weighted = sum(h * w for h, w in zip(entropies, weights, strict=True)) / total if total else math.nan
    return entropies, weighted, total


def test_by_hand(tmp_path: Path) -> None:
    # 1 2 1 3 1 2: after 1 come 2, 3, 2; after 2 comes 1; after 3 comes 1.
    figures = measured(tmp_path, [document([1, 2, 1, 3, 1, 2], "a")], measure=NgramEntropy())
    one = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert figures["entropy_contexts"] == 3
    assert figures["entropy_contexts_total"] == 5
    assert figures["entropy_tokens"] == figures["entropy_corpus_tokens"] == 6
    assert figures["entropy_documents"] == 1
    assert figures["entropy_mean"] == pytest.approx(one / 3, abs=1e-12)
    assert figures["entropy_weighted"] == pytest.approx(3 * one / 5, abs=1e-12)
    assert figures["entropy_median"] == figures["entropy_p25"] == 0
    assert figures["entropy_p90"] == pytest.approx(0.8 * one, abs=1e-12)  # place 1.8 of 0, 0, one
    assert figures["entropy_budget_reached"] == 0
    assert math.isnan(figures["entropy_mean_low"])  # one group tells nothing of the others


def test_contexts_end_with_documents(tmp_path: Path) -> None:
    # Joined, 2 -> 1 and 3 -> 1 would be contexts as well.
    figures = measured(
        tmp_path, [document([1, 2], "a"), document([1, 3], "b"), document([1], "c")], measure=NgramEntropy()
    )
    assert (figures["entropy_contexts"], figures["entropy_contexts_total"]) == (1, 2)
    assert figures["entropy_mean"] == 1


@pytest.mark.parametrize("documents", [[], [document([], "a")], [document([1], "a"), document([2], "b")]])
def test_without_contexts(tmp_path: Path, documents: list[Document]) -> None:
    for budget in (None, 1, 100):
        figures = measured(tmp_path, documents, measure=NgramEntropy(budget_tokens=budget))
        assert figures["entropy_contexts"] == figures["entropy_contexts_total"] == 0
        for name, figure in NgramEntropy.figures.items():
            assert math.isnan(figures[name]) == (figure.unit == "bits")


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=12),
    n=st.integers(1, 3),
    vocab_size=st.sampled_from([4, 100_000, 2**31]),
    memory=st.sampled_from([1, 0]),
)
def test_equals_plain_counting(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], n: int, vocab_size: int, memory: int
) -> None:
    folder = tmp_path_factory.mktemp("plain")
    measure = NgramEntropy(n=n, budget_tokens=None, groups=4)
    measure.memory_mib = memory  # 0: a row at a time, so everything goes through files
    given_documents = [document(tokens, str(i)) for i, tokens in enumerate(documents)]
    figures = measured(folder, given_documents, measure=measure, encoder=Numbers(vocab_size))
    entropies, weighted, total = brute(documents, n)
    assert figures["entropy_contexts"] == len(entropies)
    assert figures["entropy_contexts_total"] == total
    assert figures["entropy_tokens"] == sum(map(len, documents))
    if total:
        assert figures["entropy_mean"] == pytest.approx(np.mean(entropies), abs=1e-9)
        assert figures["entropy_weighted"] == pytest.approx(weighted, abs=1e-9)
        for name, share in (("p10", 0.1), ("p25", 0.25), ("median", 0.5), ("p75", 0.75), ("p90", 0.9)):
            assert figures[f"entropy_{name}"] == pytest.approx(np.quantile(entropies, share), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=10), min_size=3, max_size=10),
    n=st.integers(1, 2),
)
def test_jackknife_equals_leaving_out(documents: list[list[int]], n: int) -> None:
    packing, groups = Keys.of(n, 4, 3), np.arange(len(documents)) % 3

    def sums(left_out: int | None) -> Sums:
        some = [i for i in range(len(documents)) if groups[i] != left_out]
        tokens = np.concatenate([np.array(documents[i]) for i in some])
        occurrences = Occurrences(packing, 0, 64, Path())
        for keys in packing.pack(tokens, np.array([len(documents[i]) for i in some]), groups[some]):
            occurrences.add(keys)
        result = Sums(3)
        for keys, counts in occurrences.parts():
            result.add(keys, counts, packing)
        return result

    everything, without = sums(None), [sums(group) for group in range(3)]
    # The estimates of Busing et al., written out.
    if all(part.contexts and part.occurrences < everything.occurrences for part in without):
        theta, n_all = everything.means(), everything.occurrences
        h = [n_all / (n_all - part.occurrences) for part in without]
        pseudo = [hj * theta - (hj - 1) * part.means() for hj, part in zip(h, without, strict=True)]
        centre = 3 * theta - sum((1 - 1 / hj) * part.means() for hj, part in zip(h, without, strict=True))
        variance = sum((p - centre) ** 2 / (hj - 1) for p, hj in zip(pseudo, h, strict=True)) / 3
        half = 4.302652729911275 * np.sqrt(variance)  # Student's t, 2 degrees of freedom, 0.975
        assert np.allclose(everything.intervals(), np.stack([theta - half, theta + half], 1), atol=1e-8)


def corpus(seed: int, documents: int, length: int, vocab: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.zipf(1.3, rng.integers(1, length)).clip(1, vocab).astype(int).tolist() for _ in range(documents)]


def test_blocks_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [document(tokens, str(i)) for i, tokens in enumerate(corpus(5, 30, 100, 9))]
    for n in (1, 2):
        expected = repr(measured(tmp_path, documents, measure=NgramEntropy(n=n)))
        with monkeypatch.context() as patch:
            patch.setattr("njsl.tag.entropy._BLOCK_ROWS", 7)
            assert repr(measured(tmp_path, documents, measure=NgramEntropy(n=n))) == expected


@pytest.mark.parametrize("budget", [None, 1, 777, 5000])
@pytest.mark.parametrize("n", [1, 3])
def test_order_shards_and_batches_do_not_matter(tmp_path: Path, n: int, budget: int | None) -> None:
    texts = corpus(1, 60, 400, 50)
    documents = [document(tokens, str(i), str(i % 25)) for i, tokens in enumerate(texts)]
    documents += [documents[3]] * 4  # the same text and id several times
    measure = NgramEntropy(n=n, budget_tokens=budget)
    results = []
    for index, (batch, shard) in enumerate([(1, 64), (7, 10), (64, 3)]):
        shuffled = [documents[i] for i in np.random.default_rng(index).permutation(len(documents))]
        (tmp_path / str(index)).mkdir()
        results.append(repr(measured(tmp_path / str(index), shuffled, measure=measure, batch=batch, shard=shard)))
    assert len(set(results)) == 1


def test_budget_is_exact(tmp_path: Path) -> None:
    texts = corpus(2, 40, 100, 50)
    documents = [document(tokens, str(i)) for i, tokens in enumerate(texts)]
    ranks = [NgramEntropy().keep(Batch([d], Numbers()))["rank"][0].as_py() for d in documents]
    total = sum(map(len, texts))
    for budget in (1, 2, 50, 500, total - 1, total, total + 1):
        left, chosen = budget, []
        for i in np.argsort(np.array(ranks, np.uint64)):
            if left:
                chosen.append(texts[i][:left])
                left -= len(chosen[-1])
        figures = measured(tmp_path, documents, measure=NgramEntropy(budget_tokens=budget))
        entropies, weighted, count = brute(chosen, 1)
        assert figures["entropy_tokens"] == min(budget, total)
        assert figures["entropy_corpus_tokens"] == total
        assert figures["entropy_documents"] == len(chosen)
        assert figures["entropy_budget_reached"] == int(budget <= total)
        assert figures["entropy_contexts_total"] == count
        if count:
            assert figures["entropy_mean"] == pytest.approx(np.mean(entropies), abs=1e-9)
            assert figures["entropy_weighted"] == pytest.approx(weighted, abs=1e-9)


def test_grassberger_by_hand() -> None:
    # G(1) = -gamma - ln 2, G(2) = G(3) = 2 + G(1), G(4) = G(2) + 2/3.
    g1 = -0.5772156649015329 - math.log(2)
    expected = [0, g1, 2 * (g1 + 2), 3 * (g1 + 2), 4 * (g1 + 2 + 2 / 3)]
    assert np.allclose(x_g_x(np.arange(5)) * math.log(2), expected, atol=1e-12)


def chain(seed: int, states: int) -> tuple[np.ndarray, float]:
    """A Markov chain's transition probabilities and its entropy rate [bits]."""
    rng = np.random.default_rng(seed)
    zipf = 1 / np.arange(1, states + 1)
    matrix = np.stack([rng.permutation(zipf) for _ in range(states)])
    matrix /= matrix.sum(axis=1, keepdims=True)
    values, vectors = np.linalg.eig(matrix.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary /= stationary.sum()
    return matrix, float(-(stationary[:, None] * matrix * np.log2(matrix)).sum())


def sample(matrix: np.ndarray, documents: int, length: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    edges = matrix.cumsum(axis=1)
    state = rng.integers(0, len(matrix), documents)
    columns = []
    for _ in range(length + 20):  # the first steps are forgotten, so that the start does not count
        state = np.minimum((edges[state] < rng.random(documents)[:, None]).sum(axis=1), len(matrix) - 1)
        columns.append(state)
    return np.stack(columns[20:], axis=1).tolist()


@pytest.mark.parametrize(("states", "tokens"), [(50, 2_000), (50, 20_000), (300, 10_000), (300, 100_000)])
def test_correction_is_nearer_to_the_truth(tmp_path: Path, states: int, tokens: int) -> None:
    matrix, rate = chain(0, states)
    texts = sample(matrix, tokens // 100, 100, 1)
    documents = [document(t, str(i)) for i, t in enumerate(texts)]
    figures = measured(tmp_path, documents, measure=NgramEntropy(), batch=100, shard=1000)
    plug_in, corrected = figures["entropy_weighted"], figures["entropy_corrected"]
    # Miller and Madow: (K - 1) / 2 N per context, in bits.
    after: dict[int, Counter[int]] = defaultdict(Counter)
    for text in texts:
        for left, right in pairwise(text):
            after[left][right] += 1
    total = sum(c.total() for c in after.values())
    miller_madow = plug_in + sum(len(c) - 1 for c in after.values()) / (2 * total * math.log(2))
    print(f"{states} {tokens}: true {rate:.3f} plug-in {plug_in:.3f} MM {miller_madow:.3f} corrected {corrected:.3f}")
    assert abs(corrected - rate) < abs(miller_madow - rate) < abs(plug_in - rate)


def test_intervals_cover_the_truth(tmp_path: Path) -> None:
    # The corrected estimate is nearly unbiased here, so its interval covers the rate in about 95 of 100 samples.
    matrix, rate = chain(3, 20)
    covered = 0
    for seed in range(100):
        documents = [document(t, str(i)) for i, t in enumerate(sample(matrix, 60, 100, seed))]
        figures = measured(tmp_path, documents, measure=NgramEntropy(seed=seed), batch=60, shard=60)
        covered += figures["entropy_corrected_low"] <= rate <= figures["entropy_corrected_high"]
    print("covered", covered)
    assert covered >= 88  # 95 +- 3 standard errors of 2.2


BOUNDED = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from njsl.tag.taggers.ngram_entropy import NgramEntropy
import scipy.special
folder, tokens, n, memory = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
class Encoder: vocab_size = 100_000
rng = np.random.default_rng(0)
parts = []
for part in range(tokens // 1_000_000):
    values = pa.array((rng.zipf(1.2, 1_000_000) % 100_000).astype(np.int32))
    columns = {"rank": pa.array(rng.integers(0, 2**63, 1000).astype(np.uint64)),
               "group": pa.array(rng.integers(0, 20, 1000).astype(np.uint16)),
               "length": pa.array(np.full(1000, 1000, np.int32)),
               "tokens": pa.ListArray.from_arrays(pa.array(np.arange(0, 1_000_001, 1000, dtype=np.int32)), values)}
    parts.append(folder / f"{part}.parquet")
    pq.write_table(pa.table(columns), parts[-1])
del values, columns
def peak():  # of this program alone; ru_maxrss would start from what the process was before it became this program
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
before = peak()
(folder / "scratch").mkdir()
figures = NgramEntropy(n=n, budget_tokens=None, memory_mib=memory).measure(parts, folder / "scratch", Encoder())
print(before // 1024, peak() // 1024, figures["entropy_contexts_total"],
      figures["entropy_contexts"], figures["entropy_mean"])
"""


@pytest.mark.parametrize("n", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_memory_is_bounded(tmp_path: Path, n: int) -> None:
    results = {}
    for memory in (32, 4096):
        folder = tmp_path / str(memory)
        folder.mkdir()
        command = [sys.executable, "-c", BOUNDED, str(folder), "3000000", str(n), str(memory)]
        results[memory] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    print(results)
    (before, after, total, *figures), in_memory = results[32], results[4096]
    assert int(total) == 3000 * (1000 - n) == int(in_memory[2])
    assert figures[0] == in_memory[3]
    assert float(figures[1]) == pytest.approx(float(in_memory[4]), rel=1e-12)
    # Half as much again for what is read and counted before it goes to disk; in memory it needs a hundred and more.
    assert int(after) - int(before) < 32 + 64
    assert int(in_memory[1]) - int(in_memory[0]) > 110


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n": 0}, "tagger.ngram_entropy.n: expected at least 1, got 0"),
        ({"budget_tokens": 0}, "tagger.ngram_entropy.budget_tokens: expected at least 1, got 0"),
        ({"groups": 1}, "tagger.ngram_entropy.groups: expected 2 to 65536, got 1"),
        ({"seed": -1}, "tagger.ngram_entropy.seed: expected at least 0, got -1"),
        ({"memory_mib": 0}, "tagger.ngram_entropy.memory_mib: expected at least 1, got 0"),
    ],
)
def test_bad_parameters(parameters: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        NgramEntropy(**parameters)
    assert str(error.value) == message
