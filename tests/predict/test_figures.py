"""Figures with more rows than are legible: which are shown, and that it is said."""

from __future__ import annotations

import numpy as np
import pandas as pd

from njsl.predict.figures import MAX_FAMILIES, residuals_by_family


def test_of_many_families_those_that_are_off_most_are_shown() -> None:
    count = MAX_FAMILIES + 6
    names = [f"f{number:02d}" for number in range(count)]
    rows = pd.DataFrame({"family": names, "model": names, "task": "t", "metric": "accuracy", "seed": 0, "y": 0.0})
    rows = rows.assign(yhat=np.linspace(0.5, 0.01, count), predictor="p", features="all", cv="c")
    figure = residuals_by_family(rows)
    shown = [text.get_text().split()[0] for text in figure.axes[0].get_yticklabels()]
    assert sorted(shown) == names[:MAX_FAMILIES]
    assert f"the {MAX_FAMILIES} of {count} that are off most" in figure.get_suptitle()
    few = residuals_by_family(rows.head(3))
    assert "off most" not in few.get_suptitle()
