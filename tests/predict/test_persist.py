"""Fitted predictors as data: every one comes back the same, and a file that was touched is refused."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError
from njsl.predict import persist
from njsl.predict.tune import Recipe
from njsl.store.tasks import task_table

ROOT = Path(__file__).parents[2]
PREDICTORS = sorted(path.stem for path in (ROOT / "conf/predictor").glob("*.yaml"))


def training() -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(0)
    X = pd.DataFrame({f"x{number}": random.normal(size=40) for number in range(3)})
    X.insert(0, "ln_total_params", random.uniform(18, 24, 40))
    X.insert(1, "ln_total_tokens_billions", random.uniform(3, 9, 40))
    X["kind"] = pd.Categorical(random.choice(["a", "b"], 40), ["a", "b", "c"])
    X.iloc[::5, 2] = np.nan
    X.iloc[3, 5] = np.nan
    X.index = [f"org{number % 8}/m{number}" for number in range(40)]
    return X, 0.3 + 0.05 * X["ln_total_params"].to_numpy() / 20 + 0.05 * random.normal(size=40)


@pytest.mark.parametrize("name", PREDICTORS)
def test_every_predictor_comes_back_the_same(name: str) -> None:
    ((_, node),) = yaml.safe_load((ROOT / f"conf/predictor/{name}.yaml").read_text()).items()
    module, _, kind = node.pop("_target_").rpartition(".")
    recipe = Recipe(name, getattr(importlib.import_module(module), kind), node)
    X, y = training()
    try:
        model = recipe.make(recipe.grid[0], 0, task_table()["hellaswag"]).fit(X, y)
    except DataError as error:
        pytest.skip(str(error))
    again = persist.loads(persist.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.get_params() == model.get_params()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@settings(deadline=None, max_examples=100)
@given(PLAIN)
def test_plain_values(value: Any) -> None:
    again = persist.loads(persist.dumps(value))
    assert again == value
    assert repr(again) == repr(value)


def test_arrays_and_tables_keep_types_and_order() -> None:
    table = pd.DataFrame(
        {"a": [1.5, np.nan], "b": pd.Categorical(["x", None], ["x", "y"]), "c": ["t", None]}, index=pd.Index(["m", "n"])
    )
    pd.testing.assert_frame_equal(persist.loads(persist.dumps(table)), table)
    for array in (
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([], dtype=np.int64),
        np.array(3.5),
        np.array(["x", None, 3], dtype=object),
        np.array([(1, 2.5)], dtype=np.dtype({"names": ["i", "f"], "formats": ["<i4", "<f8"], "itemsize": 32})),
    ):
        again = persist.loads(persist.dumps(array))
        np.testing.assert_array_equal(again, array)
        assert again.dtype == array.dtype and again.flags.writeable
        assert again.flags.f_contiguous == array.flags.f_contiguous
    assert type(persist.loads(persist.dumps(np.float32(2)))) is np.float32


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_changed_or_cut_file_is_refused(data: st.DataObject) -> None:
    content = bytearray(persist.dumps({"a": np.arange(5.0), "b": [1, "x"]}))
    place = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(persist.BrokenFile):
        persist.loads(bytes(content[:place]))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(persist.BrokenFile):
        persist.loads(bytes(content))


class Elsewhere:
    pass


@pytest.mark.parametrize("value", [Elsewhere(), Elsewhere, lambda: 0, open, os.system, {"a": [Elsewhere()]}])
def test_what_is_no_data_is_not_written(value: Any) -> None:
    with pytest.raises(persist.CannotPersist):
        persist.dumps(value)


def test_what_refers_to_itself_is_not_written() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(persist.CannotPersist):
        persist.dumps(value)


@pytest.mark.parametrize(
    "tree",
    [
        ["object", "os._Environ", ["dict"]],
        ["name", "os.system"],
        ["name", "njsl.predict.persist.importlib"],
        ["built", "njsl.predict.persist.read", ["list", "/etc/passwd"], None],
        ["built", "sklearn.externals.joblib.load", ["list", "x"], None],
        ["object", "njsl.predict.persist.Path", ["dict"]],
        ["unheard of"],
    ],
)
def test_a_file_cannot_name_what_is_not_read(tree: Any) -> None:
    import hashlib
    import json

    head = json.dumps({"tree": tree, "dtypes": [], "arrays": []}).encode()
    body = len(head).to_bytes(8, "little") + head
    with pytest.raises(persist.BrokenFile):
        persist.loads(persist.MAGIC + hashlib.sha256(body).digest() + body)
