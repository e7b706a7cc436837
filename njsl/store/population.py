"""What a population of own models is made of, in two lines: said before anything is fitted on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from njsl.store.views import CATEGORICAL, FLAGS, models

if TYPE_CHECKING:
    from njsl.store.store import AnalysisStore

SAME_MIX = 2.0  # [percentage points] as far as shares of one mix may lie apart, trained for a few hundred steps
SHAPE = ("dimension", "num_layers")  # of a size: its parameters differ with the switches


def described(store: AnalysisStore, view: str) -> list[str]:
    """Sizes, tokens, mixes, switches and repeats of the models that can be regressed on; computed, not asserted.

    Args:
        store: an open store.
        view: ``raw`` or ``curated``.

    Returns:
        Nothing where the database does not say what its models were trained on, corpus by corpus.
    """
    if "stage_datasets" not in store.tables:
        return []
    base = models(store, view, freegen=False)
    shares = store.table("stage_datasets").pivot_table(index="id", columns="dataset", values="share_pct", aggfunc="sum")
    shares = shares[shares.index.isin(base.index)].fillna(0.0)
    if shares.empty:
        return []
    annotations = store.table("model_annotations").set_index("id").reindex(base.index)
    own = annotations["total_params"] - annotations["embedding_params"].fillna(0)
    sizes = len(annotations[list(SHAPE)].drop_duplicates())
    budgets = (
        base[["total_tokens_billions"]].map(lambda value: float(f"{value:.1e}"))["total_tokens_billions"].nunique()
    )
    mixes = _groups(shares.to_numpy())
    corpora = ", ".join(f"{name} {_range(shares[name])} %" for name in shares)
    switches = [name for name in (*CATEGORICAL, *FLAGS) if base[name].nunique() > 1]
    repeats = base["family"].value_counts()
    repeats = repeats[repeats > 1]
    return [
        f"{len(base)} models of {base['family'].nunique()} configurations: {sizes} sizes of "
        f"{_range(own / 1e6)} million parameters without embeddings, {budgets} budgets of "
        f"{_range(1e3 * base['total_tokens_billions'])} million tokens, {mixes} mixes ({corpora})",
        f"switched: {', '.join(switches) or 'nothing'}; trained with several seeds: "
        + (f"{len(repeats)} configurations, {_range(repeats)} each" if len(repeats) else "none"),
    ]


def _groups(shares: np.ndarray) -> int:
    """How many mixes there are among shares [models, corpora], in percent: groups no wider than ``SAME_MIX``."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(shares) < 2:
        return len(shares)
    tree = linkage(shares, "complete", "chebyshev")
    return int(fcluster(tree, SAME_MIX, "distance").max())


def _range(values: pd.Series) -> str:
    low, high = (f"{value:.3g}" for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"
