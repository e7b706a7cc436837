"""Forward selection: nested sees training rows alone, the paper's is a conversation about scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import KFold

from njsl.predict.predictors.ridge import Ridge
from njsl.predict.predictors.xgboost import XGBoost
from njsl.predict.select_nested import NestedSelection
from njsl.predict.select_paper import PaperSelection
from njsl.predict.tune import Recipe, search
from njsl.store.tasks import find_tasks

TASK = find_tasks("hellaswag")[0]
RIDGE = Recipe("ridge", Ridge, {"alpha": [0.1, 1.0]})
FIXED = Recipe("ridge", Ridge, {"alpha": 0.1})
TREES = Recipe("xgboost", XGBoost, {"learning_rate": [0.3], "max_depth": [2, 3], "n_estimators": [10, 20]})
NAMES = ["size", "noise1", "planted", "noise2", "weak"]
TRAIN = np.arange(0, 60, 2)
INNER = list(KFold(3, shuffle=True, random_state=0).split(TRAIN))


def made() -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(4)
    pool = pd.DataFrame(random.normal(size=(60, 5)), columns=NAMES)
    y = 0.10 * pool["size"] + 0.20 * pool["planted"] + 0.04 * pool["weak"] + 0.01 * random.normal(size=60)
    return pool, y.to_numpy(copy=True)


def choose(
    recipe: Recipe, pool: pd.DataFrame, y: np.ndarray, steps: int = 8, gain: float = 1e-3
) -> tuple[list[str], list[dict[str, object]]]:
    selection = NestedSelection(("noise1", "planted", "noise2", "weak"), steps, gain)
    return selection.choose(recipe, ["size"], pool, y, TRAIN, INNER, 0, TASK)


def test_planted_features_are_found_in_order_of_their_weight() -> None:
    pool, y = made()
    columns, history = choose(RIDGE, pool, y)
    assert columns == ["size", "planted", "weak"]
    assert [step["feature"] for step in history] == ["planted", "weak"]
    reached = search(RIDGE, pool.iloc[TRAIN][["size"]], y[TRAIN], INNER, 0, TASK)[1]
    for length, step in enumerate(history, start=2):
        assert step["mae_before"] == pytest.approx(reached)
        reached = search(RIDGE, pool.iloc[TRAIN][columns[:length]], y[TRAIN], INNER, 0, TASK)[1]
        assert step["mae_after"] == pytest.approx(reached)


@pytest.mark.parametrize("recipe", [FIXED, TREES], ids=["ridge", "xgboost"])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -1e6])
def test_rows_outside_training_are_never_read(recipe: Recipe, poison: float) -> None:
    pool, y = made()
    expected = choose(recipe, pool, y)
    assert expected[1]
    others = np.setdiff1d(np.arange(60), TRAIN)
    pool.iloc[others] = poison
    y[others] = poison
    assert choose(recipe, pool, y) == expected


def test_limits() -> None:
    pool, y = made()
    columns, history = choose(FIXED, pool, y)
    assert columns == ["size", "planted", "weak"]
    assert choose(FIXED, pool, y, steps=0) == (["size"], [])
    assert choose(FIXED, pool, y, steps=1)[0] == ["size", "planted"]
    assert choose(FIXED, pool, y, gain=1.0) == (["size"], [])
    gain = history[1]["mae_before"] - history[1]["mae_after"]  # type: ignore[operator]
    assert choose(FIXED, pool, y, gain=gain * 1.001)[0] == ["size", "planted"]
    assert choose(FIXED, pool, y, gain=gain * 0.999)[0] == ["size", "planted", "weak"]


def test_candidates_already_there_are_not_added_again() -> None:
    assert NestedSelection(("a", "b", "c"), 1, 0.0).added_to(["b", "z"]) == ["a", "c"]


def test_the_papers_search_by_hand() -> None:
    talk = PaperSelection(("n", "d"), ("a", "d", "b", "c"), 8, 0.01)
    assert talk.asks() == [("n", "d")]
    talk.told({("n", "d"): 0.50})
    assert talk.asks() == [("n", "d", "a"), ("n", "d", "b"), ("n", "d", "c")]  # d is there already
    talk.told({("n", "d", "a"): 0.45, ("n", "d", "b"): 0.40, ("n", "d", "c"): 0.40})  # a tie goes to the first
    assert talk.chosen == ("n", "d", "b")
    assert talk.asks() == [("n", "d", "b", "a"), ("n", "d", "b", "c")]
    talk.told({("n", "d", "b", "a"): 0.391, ("n", "d", "b", "c"): 0.395})  # 0.009 is too little
    assert talk.done and talk.asks() == []
    assert (talk.chosen, talk.reached) == (("n", "d", "b"), 0.40)
    assert talk.history == [{"feature": "b", "mae_before": 0.50, "mae_after": 0.40}]


def test_the_papers_search_ends() -> None:
    limited = PaperSelection(("n",), ("a", "b", "c"), 1, 0.0)
    limited.told({("n",): 0.5})
    assert not limited.done
    limited.told({("n", "a"): 0.4, ("n", "b"): 0.3, ("n", "c"): 0.45})
    assert (limited.done, limited.chosen) == (True, ("n", "b"))
    exhausted = PaperSelection(("n",), ("a",), 8, 0.0)
    exhausted.told({("n",): 0.5})
    exhausted.told({("n", "a"): 0.4})
    assert exhausted.done
    unmoved = PaperSelection(("n",), ("a",), 0, 0.0)  # no step: the start is scored, and that is all
    unmoved.told({("n",): 0.5})
    assert (unmoved.done, unmoved.chosen, unmoved.reached) == (True, ("n",), 0.5)


def test_an_exact_gain_is_not_more() -> None:
    talk = PaperSelection(("n",), ("a",), 8, 0.25)
    talk.told({("n",): 0.5})
    talk.told({("n", "a"): 0.25})
    assert talk.chosen == ("n",)
