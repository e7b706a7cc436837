"""Entropies of the next token given the n tokens before it, exact in bounded memory.

Occurrences of (context, next token, group) become sorted integers with counts. What does not fit into memory goes to
disk in parts, each with all occurrences of its contexts.

All figures are exact sums over counts, so they can be had without each group of documents in turn (the jackknife) from
the counts that the group changes. With f(x) = x log2 x, a context c seen N_c times and followed n_cv times by v:
H_c = (f(N_c) - sum_v f(n_cv)) / N_c bits; the weighted mean is sum_c N_c H_c / sum_c N_c. The corrected one has
x G(x) / ln 2 for the inner f, G being Grassberger's function: Miller and Madow's correction (K - 1) / 2 N gives nothing
for a context that was seen once, the most frequent kind, while the bias of Grassberger's estimate falls exponentially
with N_c p_v. And it is a sum over counts like the plug-in.

Source: Grassberger 2003, "Entropy estimates from insufficient samplings", arXiv physics/0307138; Busing, Meijer and van
der Leeden 1999, "Delete-m jackknife for unequal m".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from njsl.tag.hashes import mix

QUANTILES = {"p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9}
_ROW_BYTES = 200  # memory per distinct occurrence while figures are made, as measured; 32 more per further word
_BLOCK_ROWS = 1 << 18
_TABLE = 1 << 16  # counts up to it are looked up


@dataclass(frozen=True)
class Keys:
    """How n context tokens, the next token and the group are packed into unsigned integers.

    The last word holds, from its low end, the group, the next token and as many of the context's last tokens as fit;
    the words before it hold the rest of the context.

    Attributes:
        n: tokens per context.
        token_bits: per token.
        group_bits: for the group.
    """

    n: int
    token_bits: int
    group_bits: int

    @classmethod
    def of(cls, n: int, vocab_size: int, groups: int) -> Keys:
        """For token ids below ``vocab_size`` and groups below ``groups``."""
        return cls(n, max(1, (vocab_size - 1).bit_length()), max(1, (groups - 1).bit_length()))

    @property
    def last(self) -> int:
        """Context tokens in the last word."""
        return min(self.n, (64 - self.group_bits) // self.token_bits - 1)

    @property
    def words(self) -> int:
        """Unsigned 64-bit integers per key."""
        return 1 - (-(self.n - self.last) // (64 // self.token_bits))

    def pack(self, tokens: np.ndarray, lengths: np.ndarray, groups: np.ndarray) -> Iterator[np.ndarray]:
        """Keys [words, occurrences] of all tokens with n tokens before them in their document, some at a time.

        Args:
            tokens: of several documents, one after the other.
            lengths: tokens per document.
            groups: per document.
        """
        owner = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        per_word = 64 // self.token_bits
        for start in range(0, len(tokens) - self.n, _BLOCK_ROWS):
            values = tokens[start : start + _BLOCK_ROWS + self.n].astype(np.uint64)
            owners = owner[start : start + _BLOCK_ROWS + self.n]
            rows = len(values) - self.n
            keys = np.zeros((self.words, rows), np.uint64)
            for offset in range(self.n + 1):
                before = self.n - self.last - offset  # context tokens from here to the last word
                word = keys[self.words - 1 - -(-max(before, 0) // per_word)]
                word <<= np.uint64(self.token_bits)
                word |= values[offset : offset + rows]
            keys[-1] <<= np.uint64(self.group_bits)
            keys[-1] |= groups.astype(np.uint64)[owners[:rows]]
            yield keys[:, owners[:rows] == owners[self.n :]]

    def groups(self, keys: np.ndarray) -> np.ndarray:
        """The group of each key."""
        return (keys[-1] & np.uint64((1 << self.group_bits) - 1)).astype(np.int64)

    def pairs(self, keys: np.ndarray) -> np.ndarray:
        """Keys [words, rows] without their groups."""
        return np.concatenate([keys[:-1], keys[-1:] >> np.uint64(self.group_bits)])

    def contexts(self, keys: np.ndarray) -> np.ndarray:
        """Keys [words, rows] without their groups and next tokens."""
        # A shift by all 64 bits is undefined: in two steps each is smaller.
        return np.concatenate([keys[:-1], keys[-1:] >> np.uint64(self.group_bits) >> np.uint64(self.token_bits)])


def counted(keys: np.ndarray, counts: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys [words, rows] in ascending order, and how often each occurs.

    Args:
        keys: [words, rows].
        counts: of each; None counts each once.
    """
    if counts is None and len(keys) == 1:
        keys = np.sort(keys, axis=1)
    else:
        order = np.argsort(keys[0], kind="stable") if len(keys) == 1 else np.lexsort(keys[::-1])
        keys, counts = keys[:, order], None if counts is None else counts[order]
    starts = _starts(keys)
    if counts is None:
        return keys[:, starts], np.diff(starts, append=keys.shape[1])
    return keys[:, starts], np.add.reduceat(counts, starts) if len(starts) else counts


def _starts(keys: np.ndarray) -> np.ndarray:
    """Where in sorted keys [words, rows] another one begins."""
    new = np.ones(keys.shape[1], bool)
    new[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0) if len(keys) > 1 else keys[0, 1:] != keys[0, :-1]
    return np.flatnonzero(new)


class Occurrences:
    """Counts occurrences, in memory or in parts on disk.

    Args:
        keys: how they are packed.
        rows: how many there will be at most.
        memory_mib: for them, while figures are made [MiB].
        folder: for what does not fit.
    """

    def __init__(self, keys: Keys, rows: int, memory_mib: int, folder: Path) -> None:
        self._keys, self._folder = keys, folder
        self._room = max(1, memory_mib * 2**20 // (_ROW_BYTES + 32 * (keys.words - 1)))
        self._parts = -(-rows // self._room) if rows else 1
        self._memory: list[np.ndarray] = []

    def add(self, keys: np.ndarray) -> None:
        """Add keys [words, rows] of any number of occurrences."""
        if self._parts == 1:
            self._memory.append(keys)
            return
        # Counted first: of frequent contexts little is left to write.
        keys, counts = counted(keys)
        home = np.zeros(keys.shape[1], np.uint64)
        for word in self._keys.contexts(keys):
            home = mix(home + word + np.uint64(1))
        home %= np.uint64(self._parts)
        order = np.argsort(home, kind="stable")
        rows = np.concatenate([keys, counts[np.newaxis].astype(np.uint64)]).T[order]
        ends = np.searchsorted(home[order], np.arange(self._parts), side="right")
        for part, (start, end) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)):
            if end > start:
                with open(self._path(part), "ab") as file:
                    rows[start:end].tofile(file)

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Distinct keys, sorted, and counts; all of a context in one part. Can be had once."""
        if self._parts == 1:
            blocks, self._memory = self._memory, []
            keys = np.concatenate(blocks, axis=1) if blocks else np.zeros((self._keys.words, 0), np.uint64)
            blocks.clear()
            yield counted(keys)
            return
        for part in range(self._parts):
            if self._path(part).exists():
                yield self._read(self._path(part))
                self._path(part).unlink()

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        width = self._keys.words + 1
        keys, counts = np.zeros((width - 1, 0), np.uint64), np.zeros(0, np.int64)
        with open(path, "rb") as file:
            # In blocks that grow with what there is: rows on disk may be many times the distinct ones.
            while len(rows := np.fromfile(file, np.uint64, max(_BLOCK_ROWS, len(counts)) * width)):
                rows = rows.reshape(-1, width).T
                keys, counts = counted(
                    np.concatenate([keys, rows[:-1]], axis=1), np.concatenate([counts, rows[-1].astype(np.int64)])
                )
        return keys, counts

    def _path(self, part: int) -> Path:
        return self._folder / f"part{part}.u64"


class Sums:
    """What the figures are made of: sums over all occurrences, and what each group adds to them.

    Attributes:
        occurrences: N.
        contexts: distinct ones.
    """

    def __init__(self, groups: int) -> None:
        self.occurrences = self.contexts = 0
        self._sums = np.zeros(3)  # of H_c, of N_c H_c, of N_c H_c corrected
        self._lost = np.zeros((groups, 3))  # what they lose without the group
        self._lost_occurrences = np.zeros(groups, np.int64)
        self._lost_contexts = np.zeros(groups, np.int64)
        self._values: list[tuple[np.ndarray, np.ndarray]] = []  # entropies of contexts and their numbers

    def add(self, keys: np.ndarray, counts: np.ndarray, packing: Keys) -> None:
        """Add all occurrences of some contexts: distinct keys, sorted, and their counts."""
        if not len(counts):
            return
        groups = packing.groups(keys)
        pair_starts = _starts(packing.pairs(keys))
        pair_of = _numbers(pair_starts, len(counts))
        context_starts = _starts(packing.contexts(keys[:, pair_starts]))
        context_of = _numbers(context_starts, len(pair_starts))
        pairs = np.add.reduceat(counts, pair_starts)
        contexts = np.add.reduceat(pairs, context_starts)
        plug_in, corrected = x_log_x(pairs), x_g_x(pairs)
        inner = np.add.reduceat(plug_in, context_starts)
        outer = x_log_x(contexts)
        kinds = np.diff(context_starts, append=len(pairs))
        entropies = np.where(kinds == 1, 0.0, (outer - inner) / contexts)
        self.occurrences += int(contexts.sum())
        self.contexts += len(contexts)
        self._sums += [entropies.sum(), outer.sum() - inner.sum(), outer.sum() - corrected.sum()]
        self._values.append(np.unique(entropies, return_counts=True))

        # Without a group: only pairs and contexts that it holds change. Rows by group, then context.
        order = np.argsort(groups.astype(np.uint16), kind="stable")
        rows, pair = counts[order], pair_of[order]
        left = pairs[pair] - rows
        group, context = groups[order], context_of[pair]
        starts = _starts((group * len(contexts) + context)[np.newaxis])
        group, context = group[starts], context[starts]
        lost_rows = np.add.reduceat(rows, starts)
        lost_inner = np.add.reduceat(plug_in[pair] - x_log_x(left), starts)
        lost_corrected = np.add.reduceat(corrected[pair] - x_g_x(left), starts)
        lost_kinds = np.add.reduceat((left == 0).astype(np.int64), starts)
        rest = contexts[context] - lost_rows
        lost_outer = outer[context] - x_log_x(rest)
        several = kinds[context] - lost_kinds > 1
        without = np.zeros(len(rest))
        without[several] = ((outer - inner)[context] - (lost_outer - lost_inner))[several] / rest[several]
        losses = (entropies[context] - without, lost_outer - lost_inner, lost_outer - lost_corrected)
        size = len(self._lost)
        self._lost += np.stack([np.bincount(group, loss, size) for loss in losses], axis=1)
        self._lost_occurrences += np.bincount(groups, counts, size).astype(np.int64)
        self._lost_contexts += np.bincount(group[rest == 0], minlength=size)

    def means(self) -> np.ndarray:
        """Mean over contexts, weighted mean, corrected weighted mean [bits]; NaN without contexts."""
        if not self.contexts:
            return np.full(3, math.nan)
        return self._sums / [self.contexts, self.occurrences, self.occurrences]

    def intervals(self) -> np.ndarray:
        """95 % intervals [3, low and high] of ``means`` [bits]; NaN with fewer than two groups.

        The delete-m jackknife for groups of unequal size, with Student's t.
        """
        from scipy.special import stdtrit

        used = np.flatnonzero(self._lost_occurrences)
        contexts = self.contexts - self._lost_contexts[used]
        if len(used) < 2 or not contexts.all():
            return np.full((3, 2), math.nan)
        sizes = np.stack([contexts, *[self.occurrences - self._lost_occurrences[used]] * 2], axis=1)
        means, without = self.means(), (self._sums - self._lost[used]) / sizes
        ratio = (self.occurrences / self._lost_occurrences[used])[:, np.newaxis]
        centre = len(used) * means - ((1 - 1 / ratio) * without).sum(axis=0)
        variance = ((ratio * means - (ratio - 1) * without - centre) ** 2 / (ratio - 1)).mean(axis=0)
        half = stdtrit(len(used) - 1, 0.975) * np.sqrt(variance)
        return np.stack([means - half, means + half], axis=1)

    def quantiles(self) -> dict[str, float]:
        """Quantiles of the entropies of contexts [bits], with linear interpolation; NaN without contexts."""
        if not self.contexts:
            return dict.fromkeys(QUANTILES, math.nan)
        values = np.concatenate([values for values, _ in self._values])
        order = np.argsort(values, kind="stable")
        last = np.cumsum(np.concatenate([counts for _, counts in self._values])[order]) - 1
        quantiles = {}
        for name, share in QUANTILES.items():
            place = share * (self.contexts - 1)
            low, high = values[order[np.searchsorted(last, [math.floor(place), math.ceil(place)])]]
            quantiles[name] = float(low + (high - low) * (place - math.floor(place)))
        return quantiles


def _numbers(starts: np.ndarray, length: int) -> np.ndarray:
    """The number of the run that each of ``length`` rows lies in."""
    return np.repeat(np.arange(len(starts)), np.diff(starts, append=length))


def x_log_x(counts: np.ndarray) -> np.ndarray:
    """x log2 x; 0 for 0."""
    return _looked_up(counts, lambda x: x * np.log2(np.maximum(x, 1)))


def x_g_x(counts: np.ndarray) -> np.ndarray:
    """x G(x) / ln 2; 0 for 0.

    G(2 m) = G(2 m + 1) = digamma(m + 1/2) + ln 2, which are Grassberger's sums in closed form.
    """
    from scipy.special import digamma

    return _looked_up(counts, lambda x: x * (digamma(x // 2 + 0.5) / math.log(2) + 1))


def _looked_up(counts: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A function of counts, worked out once for each small one."""
    top = min(int(counts.max(initial=0)), _TABLE)
    values = function(np.arange(top + 1))[np.minimum(counts, top)]
    if (large := counts > top).any():
        values[large] = function(counts[large])
    return values
