"""What TabPFN is handed, and what is said where it cannot run; its network is not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import pytest

from njsl.core.types import DataError
from njsl.predict.predictors.tabpfn import TabPFN


class Recorded:
    """Keeps what it is given and predicts row numbers."""

    last: ClassVar[Recorded]

    def __init__(self, **params: Any) -> None:
        self.params = params
        Recorded.last = self

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        self.X, self.y = X, y
        return self

    def predict(self, X: np.ndarray, *, output_type: str) -> np.ndarray:
        self.asked, self.output_type = X, output_type
        return np.arange(len(X), dtype=np.float32)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of weights, and a stand-in for the package."""
    package = ModuleType("tabpfn")
    package.TabPFNRegressor = Recorded  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tabpfn", package)
    file = tmp_path / "regressor.ckpt"
    file.write_bytes(b"weights")
    return str(file)


def rows() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "size": [1.0, np.nan, 3.0],
            "never": [np.nan] * 3,
            "kind": pd.Categorical(["b", None, "a"], categories=["a", "b", "c"]),
        }
    )


Y = np.array([0.1, 0.2, 0.3])


def test_gaps_and_categories_go_in_as_such(weights: str) -> None:
    model = TabPFN(weights=weights, n_estimators=4, random_state=7).fit(rows(), Y)
    nan = np.nan
    np.testing.assert_array_equal(Recorded.last.X, [[1, 1], [nan, nan], [3, 0]])  # size and kind; never is left out
    np.testing.assert_array_equal(Recorded.last.y, Y)
    params = Recorded.last.params
    assert params["categorical_features_indices"] == [1]
    assert (params["model_path"], params["n_estimators"], params["random_state"]) == (weights, 4, 7)
    new = rows().assign(never=5.0, kind=pd.Categorical(["c", "new", "b"], categories=["new", "c", "b"]))
    predicted = model.predict(new)
    # A category keeps its number, whatever the order of a later table's; one never heard of is missing.
    np.testing.assert_array_equal(Recorded.last.asked, [[1, 2], [nan, nan], [3, 1]])
    assert Recorded.last.output_type == "median"
    assert predicted.dtype == np.float64 and predicted.tolist() == [0, 1, 2]


def test_nothing_to_learn_from(weights: str) -> None:
    assert TabPFN(weights=weights).fit(rows(), np.full(3, 0.4)).predict(rows()).tolist() == [0.4] * 3
    empty = rows()[["never"]]
    assert TabPFN(weights=weights).fit(empty, Y).predict(empty).tolist() == [np.median(Y)] * 3


def test_without_weights_nothing_is_imported_or_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tabpfn", None)  # an import of it fails
    for absent in (None, str(tmp_path / "none.ckpt")):
        with pytest.raises(DataError, match=r"^TabPFN: weights=.* is no file; name the file of a regressor's weights"):
            TabPFN(weights=absent).fit(rows(), Y)


def test_without_the_package(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tabpfn", None)
    with pytest.raises(DataError, match=r"the package tabpfn is not installed; `pip install njsl\[tabpfn\]`") as caught:
        TabPFN(weights=weights).fit(rows(), Y)
    assert "\n" not in str(caught.value)


def test_a_regressor_of_the_package_takes_these_parameters(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the package itself, where it is installed."""
    monkeypatch.delitem(sys.modules, "tabpfn")
    regressor = pytest.importorskip("tabpfn").TabPFNRegressor
    monkeypatch.setattr("tabpfn.TabPFNRegressor", Recorded)
    TabPFN(weights=weights).fit(rows(), Y)
    regressor(**Recorded.last.params)
