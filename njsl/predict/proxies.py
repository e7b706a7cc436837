"""Proxies: models of a store that are alike in everything but data mix and seed, with their shares and scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from njsl.core.types import ConfigError, DataError
from njsl.predict.law import of_mixes
from njsl.store.schema import SHARE_TOLERANCE, tables
from njsl.store.tasks import Task
from njsl.store.views import NUMERIC, facts, labelled

if TYPE_CHECKING:
    from njsl.store.store import AnalysisStore

TOKENS = NUMERIC["total_tokens_billions"]
SAME_MIX = 0.001  # fractions so near each other are one share
HOW = "train.py -m experiment=proxies store.write=DB trains such models"


@dataclass(frozen=True)
class Proxies:
    """Runs that differ in mix and seed alone, sorted by id.

    Attributes:
        ids: of the runs [runs].
        corpora: names, sorted.
        shares: of the tokens trained on [runs, corpora], fractions that sum to 1.
        mix: number of each run's mix [runs], 0 and up; seeds of one mix have one number.
        seeds: of the runs [runs], as the store's metadata say them, None where they do not.
        scores: [runs, tasks], as the store has them.
        params: [parameters], all of them.
        tokens: [tokens], rounded to three digits.
        sizes: tokens that each corpus holds for training, or None where the store does not say it of all.
        others: how many models of the store are none of them.
    """

    ids: tuple[str, ...]
    corpora: tuple[str, ...]
    shares: np.ndarray
    mix: np.ndarray
    seeds: tuple[int | None, ...]
    scores: pd.DataFrame
    params: int
    tokens: float
    sizes: Mapping[str, float] | None
    others: int

    @property
    def mixes(self) -> int:
        """How many different mixes there are."""
        return int(self.mix.max()) + 1

    @property
    def shared_seeds(self) -> int:
        """How many seeds there are where every mix has a run with each of them; 0 where mixes have seeds of their own.

        What a seed does to all mixes alike is then in no difference between them.
        """
        if None in self.seeds:
            return 0
        runs = sorted(zip(self.mix.tolist(), self.seeds, strict=True))
        of_first = [seed for mix, seed in runs if mix == 0]
        shared = runs == [(mix, seed) for mix in range(self.mixes) for seed in of_first]
        return len(of_first) if shared and len(set(of_first)) == len(of_first) else 0

    def seed_deviation(self, values: np.ndarray) -> SeedDeviation | None:
        """How far runs of one mix lie apart; None where no mix has two.

        Args:
            values: of the runs [runs].
        """
        apart = values - of_mixes(values, self.mix)[self.mix]
        freedom = len(values) - self.mixes
        if not freedom:
            return None
        whole = float(np.sqrt(np.square(apart).sum() / freedom))
        if self.shared_seeds < 2:
            return SeedDeviation(whole, freedom, None, None)
        seeds = np.unique(np.array(self.seeds), return_inverse=True)[1]
        rest = apart - of_mixes(apart, seeds)[seeds]
        between = freedom - (self.shared_seeds - 1)
        left = float(np.sqrt(np.square(rest).sum() / between))
        return SeedDeviation(whole, self.shared_seeds - 1, left, between)


@dataclass(frozen=True)
class SeedDeviation:
    """Standard deviations over seeds, pooled over mixes.

    Attributes:
        whole: of runs of one mix.
        freedom: its degrees of freedom; where all mixes share their seeds, those of the seeds.
        between: what is left of it in differences between mixes of the same seeds; None where none are shared.
        between_freedom: its degrees of freedom.
    """

    whole: float
    freedom: int
    between: float | None
    between_freedom: int | None


def needed(corpora: int) -> int:
    """Fewest mixes a law is fitted on: twice as many as the exponential one has parameters."""
    return 2 * (corpora + 1)


def read_proxies(store: AnalysisStore, view: str, tasks: Sequence[Task], like: str | None) -> Proxies:
    """The proxies of a store that have a score in every task.

    Args:
        store: an open store.
        view: ``raw`` or ``curated``.
        tasks: what they must have been scored on.
        like: id of one of them; None: the one group of proxies there is.

    Raises:
        ConfigError: there are several groups and ``like`` is None, or it is no model that has shares and scores.
        DataError: no group is large enough, or all its mixes are of one corpus.
    """
    if "stage_datasets" not in store.tables:
        raise DataError(f"{store.source}: an older layout without shares per corpus; {HOW}")
    _, labels = labelled(store, view, list(tasks), freegen=False)
    known = facts(store, view).set_index("id")
    shares = _shares(store)
    usable = labels.dropna().index.intersection(shares.index)
    stages = store.table("training_stages").set_index("id")
    keys = _alike(known, stages, usable)
    groups = {key: list(members.index) for key, members in keys.groupby(keys, sort=False)}
    if like is not None:
        if like not in keys.index:
            raise ConfigError(
                f"mix.like: {like}: no base model of {store.source} with shares per corpus and scores in "
                f"{', '.join(task.key.task for task in tasks)}; the id of one that has them is accepted"
            )
        ids = groups[keys[like]]
    else:
        ids = _only(store, known, shares, groups)
    own = shares.loc[ids]
    own = own.loc[:, (own > 0).any()]
    mix = _mixes(own.to_numpy(), known.loc[ids, "family"].to_numpy(dtype=object))
    if own.shape[1] < 2:
        raise DataError(
            f"{store.source}: the proxies are all of one corpus, {own.columns[0]}; two or more are accepted"
        )
    if mix.max() + 1 < needed(own.shape[1]):
        raise DataError(
            f"{store.source}: {mix.max() + 1} mixes of models alike {ids[0]}; at least {needed(own.shape[1])} are "
            f"needed for {own.shape[1]} corpora; {HOW}"
        )
    first = known.loc[ids[0]]
    return Proxies(
        tuple(ids),
        tuple(own.columns),
        own.to_numpy(),
        mix,
        tuple(_seed(text) for text in known.loc[ids, "metadata"]),
        labels.loc[ids],
        int(first["total_params"]),
        _rounded(first[TOKENS]) * 1e9,
        _sizes(known.loc[ids], list(own.columns)),
        len(known) - len(ids),
    )


def _shares(store: AnalysisStore) -> pd.DataFrame:
    """Fractions [models, corpora], both sorted, of models that were trained in one stage and whose shares are whole."""
    rows = store.table("stage_datasets")
    single = rows.groupby("id")["stage"].transform("nunique") == 1
    table = rows[single].pivot(index="id", columns="dataset", values="share_pct").astype("float64").fillna(0.0)
    total = table.sum(axis=1)
    whole = (total - 100).abs() <= SHARE_TOLERANCE
    return table[whole].div(total[whole], axis=0).sort_index().sort_index(axis=1)


def _alike(known: pd.DataFrame, stages: pd.DataFrame, ids: pd.Index) -> pd.Series:
    """By id a text of all that must be the same: architecture, tokens, optimiser, schedule, tokenizer."""
    columns = [name for name in tables()["model_annotations"] if name in known]
    rows = known.loc[ids, columns].copy()
    rows["tokens"] = known.loc[ids, TOKENS].map(_rounded)
    rows["tokenizer"] = [_told(text).get("tokenizer_sha256") for text in known.loc[ids, "metadata"]]
    first = stages[stages["stage"] == 1].drop(columns=["stage", "total_tokens_billions"])
    rows = rows.join(first.add_prefix("stage_"), how="left")
    return pd.Series(["\t".join(map(str, row)) for row in rows.itertuples(index=False)], index=ids, dtype=object)


def _only(
    store: AnalysisStore, known: pd.DataFrame, shares: pd.DataFrame, groups: Mapping[str, list[str]]
) -> list[str]:
    """The members of the one group that has mixes enough."""
    counted = []
    for ids in groups.values():
        own = shares.loc[ids]
        mixes = int(_mixes(own.to_numpy(), known.loc[ids, "family"].to_numpy(dtype=object)).max()) + 1
        counted.append((mixes, mixes >= needed(int((own > 0).any().sum())), ids))
    counted.sort(key=lambda group: -group[0])
    enough = [ids for _, many, ids in counted if many]
    if not enough:
        most = counted[0][0] if counted else 0
        raise DataError(
            f"{store.source}: at most {most} mixes of models that are alike otherwise and have these scores; at least "
            f"{needed(2)} are needed; {HOW}"
        )
    if len(enough) > 1:
        listed = ", ".join(
            f"mix.like={ids[0]} ({mixes} mixes, {known.at[ids[0], 'total_params']:,.0f} parameters, "
            f"{_rounded(known.at[ids[0], TOKENS]) * 1e9:,.0f} tokens)"
            for mixes, many, ids in counted
            if many
        )
        raise ConfigError(f"mix.like: {len(enough)} groups of proxies in {store.source}; accepted: {listed}")
    return enough[0]


def _mixes(shares: np.ndarray, family: np.ndarray) -> np.ndarray:
    """Number of each run's mix [runs]: of one mix are runs of one family, and runs whose shares are equal.

    The exact shares of two seeds may differ by the samples of a block that was not finished, so the family, which is
    everything but the seed, says it first.
    """
    numbers = np.arange(len(shares))
    for k in range(len(shares)):
        same = np.abs(shares - shares[k]).max(axis=1) <= SAME_MIX
        same |= (family == family[k]) & bool(family[k] == family[k] and family[k])
        numbers[np.isin(numbers, numbers[same])] = numbers[same].min()
    return np.unique(numbers, return_inverse=True)[1]


def _sizes(known: pd.DataFrame, corpora: Sequence[str]) -> dict[str, float] | None:
    """Tokens that each corpus holds for training, as the metadata of runs that read it say: those taken per epoch."""
    found: dict[str, float] = {}
    for text in known["metadata"]:
        for name, corpus in _told(text).get("corpora", {}).items():
            if corpus["epochs"] > 0:
                found[name] = corpus["tokens_taken"] / corpus["epochs"]
    return {name: found[name] for name in corpora} if set(corpora) <= found.keys() else None


def _told(metadata: Any) -> dict[str, Any]:
    """A model's metadata; nothing where there is none that can be read."""
    try:
        value = json.loads(metadata) if isinstance(metadata, str) else metadata
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _seed(metadata: Any) -> int | None:
    """The seed that a model's metadata say; None where they say none, or something else by that name."""
    seed = _told(metadata).get("seed")
    return seed if isinstance(seed, int) else None


def _rounded(value: float) -> float:
    """To three digits: runs end with the step that reaches their tokens."""
    return float(f"{value:.3g}")
