"""How predictable the next token is from the ones before it, by n-gram counts over a whole corpus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from njsl.core.types import ConfigError
from njsl.tag.base import Batch, Encoder, Figure, Measure
from njsl.tag.entropy import Keys, Occurrences, Sums
from njsl.tag.hashes import text_hash

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 1024  # documents read at once
_GROUPS = 1 << 16


def _of(name: str) -> tuple[str, tuple[str, str]]:
    """A figure's feature, and the ends of its interval."""
    return name, (f"{name}_low", f"{name}_high")


class NgramEntropy(Measure):
    """Entropy of the next token given the ``n`` tokens before it [bits], within documents.

    ``entropy_mean`` is the paper's figure: the plain mean over distinct contexts. It falls as a corpus grows, since
    most contexts are seen once and have the entropy 0, so corpora compare only at the same number of tokens:
    ``budget_tokens`` are taken of each, documents in the order of a hash of their id and text, the last one cut.
    Which ones does not depend on the order of documents, on files or on workers. ``entropy_budget_reached`` is 0
    where a corpus has fewer.

    The weighted mean, each context by its occurrences, is the conditional entropy; its bias, downwards as well, is
    corrected by Grassberger's estimate for each context, see ``njsl.tag.entropy``.

    The intervals tell what another sample of documents would have given: 95 %, by leaving out groups of documents.
    A document's group is that of its ``group``, so what belongs together, e.g. files of a package, stays together.

    Memory is bounded by ``memory_mib`` for the counts, and 16 bytes per document within the budget. What is kept
    takes 4 bytes per token of the corpus.
    """

    figures: ClassVar[dict[str, Figure]] = {
        "entropy_mean": Figure("bits", "mean over distinct contexts of the next token's entropy", *_of("entropy_mean")),
        "entropy_mean_low": Figure("bits", "lower end of its 95 % interval"),
        "entropy_mean_high": Figure("bits", "upper end of its 95 % interval"),
        "entropy_p10": Figure("bits", "10 % of the distinct contexts have a lower entropy"),
        "entropy_p25": Figure("bits", "25 % of the distinct contexts have a lower entropy"),
        "entropy_median": Figure("bits", "half of the distinct contexts have a lower entropy"),
        "entropy_p75": Figure("bits", "75 % of the distinct contexts have a lower entropy"),
        "entropy_p90": Figure("bits", "90 % of the distinct contexts have a lower entropy"),
        "entropy_weighted": Figure(
            "bits", "conditional entropy: mean over occurrences of contexts", *_of("entropy_weighted")
        ),
        "entropy_weighted_low": Figure("bits", "lower end of its 95 % interval"),
        "entropy_weighted_high": Figure("bits", "upper end of its 95 % interval"),
        "entropy_corrected": Figure(
            "bits", "conditional entropy, corrected for the bias of small counts", *_of("entropy_corrected")
        ),
        "entropy_corrected_low": Figure("bits", "lower end of its 95 % interval"),
        "entropy_corrected_high": Figure("bits", "upper end of its 95 % interval"),
        "entropy_contexts": Figure("contexts", "distinct contexts"),
        "entropy_contexts_total": Figure("contexts", "occurrences of contexts"),
        "entropy_tokens": Figure("tokens", "tokens that count, those within the budget"),
        "entropy_documents": Figure("documents", "documents that count, in whole or in part"),
        "entropy_corpus_tokens": Figure("tokens", "tokens of the whole corpus"),
        "entropy_budget_reached": Figure(
            "1", "1 if the corpus has as many tokens as the budget, or there is none; else 0", "entropy_budget_reached"
        ),
    }

    def __init__(
        self,
        *,
        n: int = 1,
        budget_tokens: int | None = 1_000_000,
        groups: int = 20,
        memory_mib: int = 256,
        seed: int = 0,
    ) -> None:
        """Args:
            n: tokens per context, >= 1.
            budget_tokens: tokens that count per corpus, >= 1; null is all.
            groups: of documents, left out in turn for the intervals, 2 to 65536.
            memory_mib: for the counts, >= 1 [MiB]; what needs more goes through files.
            seed: of the order of documents and of the groups, >= 0.

        Raises:
            ConfigError: one is out of its range.
        """
        here = "tagger.ngram_entropy"
        least = (("n", n, 1), ("budget_tokens", budget_tokens, 1), ("memory_mib", memory_mib, 1), ("seed", seed, 0))
        for name, value, minimum in least:
            if value is not None and value < minimum:
                raise ConfigError(f"{here}.{name}: expected at least {minimum}, got {value}")
        if not 2 <= groups <= _GROUPS:
            raise ConfigError(f"{here}.groups: expected 2 to {_GROUPS}, got {groups}")
        if seed >= 2**63:
            raise ConfigError(f"{here}.seed: expected a seed below 2**63, got {seed}")
        self.n, self.budget_tokens, self.groups = n, budget_tokens, groups
        self.memory_mib, self.seed = memory_mib, seed

    def keep(self, batch: Batch) -> pa.RecordBatch:
        """Each document's place in the order, its group, its number of tokens, and the tokens."""
        import pyarrow as pa

        lengths = np.array([len(tokens) for tokens in batch.tokens], np.int32)
        tokens = np.concatenate(batch.tokens).astype(np.int32)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        ranks = [text_hash(document.id, document.text, seed=self.seed) for document in batch.documents]
        groups = [text_hash(document.group, seed=self.seed) % self.groups for document in batch.documents]
        columns = {
            "rank": pa.array(np.array(ranks, np.uint64)),
            "group": pa.array(np.array(groups, np.uint16)),
            "length": pa.array(lengths),
            "tokens": pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens)),
        }
        return pa.RecordBatch.from_pydict(columns)

    def measure(self, parts: Sequence[Path], folder: Path, encoder: Encoder) -> dict[str, float | int]:
        """The figures; those without a value, as of a corpus without contexts, are NaN."""
        choice = _Choice(parts, self.budget_tokens, self.n)
        packing = Keys.of(self.n, encoder.vocab_size, self.groups)
        occurrences = Occurrences(packing, choice.occurrences, self.memory_mib, folder)
        for tokens, lengths, groups in choice.blocks(parts):
            for keys in packing.pack(tokens, lengths, groups):
                occurrences.add(keys)
        sums = Sums(self.groups)
        for keys, counts in occurrences.parts():
            sums.add(keys, counts, packing)
        found: dict[str, float | int] = {}
        for name, mean, (low, high) in zip(
            ("mean", "weighted", "corrected"), sums.means().tolist(), sums.intervals().tolist(), strict=True
        ):
            found |= {f"entropy_{name}": mean, f"entropy_{name}_low": low, f"entropy_{name}_high": high}
        found |= {f"entropy_{name}": value for name, value in sums.quantiles().items()}
        found |= {
            "entropy_contexts": sums.contexts,
            "entropy_contexts_total": sums.occurrences,
            "entropy_tokens": choice.tokens,
            "entropy_documents": choice.documents,
            "entropy_corpus_tokens": choice.corpus_tokens,
            "entropy_budget_reached": int(self.budget_tokens is None or choice.corpus_tokens >= self.budget_tokens),
        }
        return {name: found[name] for name in self.figures}


class _Choice:
    """The documents within the budget, found by their ranks and lengths alone.

    Attributes:
        documents, tokens: that count.
        occurrences: of contexts in them.
        corpus_tokens: of all documents.
    """

    def __init__(self, parts: Sequence[Path], budget: int | None, n: int) -> None:
        self._last: np.uint64 | None = None  # the highest rank that counts; None is all
        self._last_tokens = 0  # of the documents of that rank
        self.documents = self.tokens = self.occurrences = self.corpus_tokens = 0
        ranks, lengths = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        waiting: list[tuple[np.ndarray, np.ndarray]] = []
        gathered = 0
        for part in parts:
            for rank, length in _ranks(part):
                self.corpus_tokens += int(length.sum())
                if budget is None:
                    self.documents += len(length)
                    self.occurrences += int(np.maximum(length - n, 0).sum())
                    continue
                waiting.append((rank, length))
                gathered += len(rank)
                # Sorted when there are twice as many, so that sorting costs little per document.
                if gathered > max(len(ranks), 1 << 16):
                    ranks, lengths = _first([(ranks, lengths), *waiting], budget)
                    waiting, gathered = [], 0
        if budget is None:
            self.tokens = self.corpus_tokens
            return
        ranks, lengths = _first([(ranks, lengths), *waiting], budget)
        self.documents, self.tokens = len(ranks), min(int(lengths.sum()), budget)
        if len(ranks):
            lengths[-1] -= int(lengths.sum()) - self.tokens
            # Documents of equal rank are the same text, so it does not matter which of them is cut.
            self._last, self._last_tokens = ranks[-1], int(lengths[ranks == ranks[-1]].sum())
        self.occurrences = int(np.maximum(lengths - n, 0).sum())

    def blocks(self, parts: Sequence[Path]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Tokens of several documents, one after the other; their lengths; their groups."""
        left = self._last_tokens
        for part in parts if self.documents else ():
            for ranks, groups, lists in _kept(part, self._last):
                lengths = np.diff(lists.offsets.to_numpy()).astype(np.int64)
                tokens = lists.flatten().to_numpy()
                places = np.flatnonzero(ranks == self._last) if self._last is not None else np.zeros(0, np.int64)
                if len(places):
                    whole = lengths.copy()
                    for place in places.tolist():
                        lengths[place] = min(int(whole[place]), left)
                        left -= int(lengths[place])
                    inside = np.arange(len(tokens)) - np.repeat(np.cumsum(whole) - whole, whole)
                    tokens = tokens[inside < np.repeat(lengths, whole)]
                yield tokens, lengths, groups


def _first(columns: list[tuple[np.ndarray, np.ndarray]], budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks and lengths of the documents that are needed to reach a budget of tokens, by rank."""
    ranks = np.concatenate([rank for rank, _ in columns])
    lengths = np.concatenate([length for _, length in columns])
    order = np.argsort(ranks, kind="stable")
    needed = int(np.searchsorted(np.cumsum(lengths[order]), budget)) + 1
    return ranks[order[:needed]], lengths[order[:needed]]


def _ranks(part: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ranks and lengths of documents with any tokens."""
    import pyarrow.parquet as pq

    for rows in pq.ParquetFile(part).iter_batches(columns=["rank", "length"]):
        lengths = rows["length"].to_numpy().astype(np.int64)
        yield rows["rank"].to_numpy()[lengths > 0], lengths[lengths > 0]


def _kept(part: Path, last: np.uint64 | None) -> Iterator[tuple[np.ndarray, np.ndarray, pa.ListArray]]:
    """Ranks, groups and tokens of documents up to the rank ``last``."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(part)
    for number in range(file.num_row_groups):
        if last is not None and not (file.read_row_group(number, ["rank"])["rank"].to_numpy() <= last).any():
            continue
        for rows in file.iter_batches(_ROWS, [number], ["rank", "group", "tokens"]):
            if last is not None:
                rows = rows.take(np.flatnonzero(rows["rank"].to_numpy() <= last))
            yield rows["rank"].to_numpy(), rows["group"].to_numpy(), rows["tokens"]
