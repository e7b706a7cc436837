"""Synthetic labelled text whose classes differ in words and in style, with some of it labelled wrongly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

_SENTENCES = {
    "web": ("Click here to share this post with us!", "Posted by admin at 10:32.", "Buy now for $20, free shipping!"),
    "reference": (
        "A lake is a body of water.",
        "The term refers to a type of stone.",
        "It includes three definitions.",
    ),
    "books": ("“Where were you?” she asked him.", "He looked away and said nothing.", "Her hand felt cold."),
    "academic": (
        "Smith et al. (2004) observed a significant effect [12].",
        "The results suggest that the hypothesis holds, p < 0.05.",
        "Methods and data are described in Fig. 3.",
    ),
}
COUNTS = {"web": 80, "reference": 30, "books": 25, "academic": 12}
WRONG_FRAC = 0.1


def documents(seed: int) -> pd.DataFrame:
    """``COUNTS`` documents of each class, ten sentences each: seven of its own, three of any; shuffled."""
    rng = np.random.default_rng(seed)
    labels = list(_SENTENCES)
    rows = []
    for label, count in COUNTS.items():
        for _ in range(count):
            kinds = [label] * 7 + list(rng.choice(labels, 3))
            text = " ".join(f"{_SENTENCES[kind][rng.integers(3)]} {rng.integers(10**6)}" for kind in kinds)
            rows.append((text, rng.choice(labels) if rng.random() < WRONG_FRAC else label))
    rows += [("nobody knows what this is", "unknown"), ("the media", "media")]
    return pd.DataFrame(rows, columns=["text", "prediction"]).sample(frac=1, random_state=seed)


def write(path: Path, seed: int = 0) -> Path:
    documents(seed).to_csv(path, index=False)
    return path
