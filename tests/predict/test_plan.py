"""Plans: what a user may write, how a share is varied on the simplex, and how a plan becomes a row."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import ConfigError, DataError
from njsl.predict.plan import ADDED, MULTIPLIED, SHARES, Plan, read_plan, rows, steps, varied
from njsl.store.views import CATEGORICAL, NUMERIC

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_plan_is_read_with_unknowns_left_out(tmp_path: Path) -> None:
    plan = read_plan(
        write(
            tmp_path,
            "name: acme/one\norg: acme\nfamily:\narchitecture: {total_params: 1.3e9, biases: none, dimension: null}\n"
            "pretraining: {total_tokens_billions: 300, code_pct: 20}\n",
        )
    )
    assert (plan.name, plan.org, plan.family) == ("acme/one", "acme", None)
    known = {"total_params": 1_300_000_000, "biases": "none", "total_tokens_billions": 300.0, "code_pct": 20.0}
    assert plan.values == known
    assert isinstance(plan.values["total_params"], int)
    assert math.isnan(plan.number("dimension"))
    assert plan.as_json() == {"name": "acme/one", "org": "acme", **known}


def test_a_plan_without_a_name_is_named_after_its_file(tmp_path: Path) -> None:
    assert read_plan(write(tmp_path, "pretraining: {code_pct: 20}")).name == "plan"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("architecture: {total_parms: 1e9}", "architecture.total_parms: no such key; did you mean total_params"),
        ("total_params: 1e9", "did you mean architecture.total_params?"),
        ("pretraining: {code_pct: -1}", "-1; a number 0..100 is accepted"),
        ("pretraining: {code_pct: a lot}", "a number 0..100 is accepted"),
        ("architecture: {total_params: -5}", "a whole number from 1 is accepted"),
        ("architecture: {total_params: 1.3B}", "a whole number from 1 is accepted"),
        ("architecture: {total_params: 1.5}", "a whole number from 1 is accepted"),
        ("architecture: {total_params: 1e400}", "a whole number from 1 is accepted"),
        ("architecture: {activation: swigloo}", "did you mean swiglu?"),
        ("architecture: {activation: swiglu, activation: gelu}", "stands twice"),
        ("pretraining: {web_pct: 80, code_pct: 40}", "web_pct, code_pct sum to 120; at most 100 +- 1"),
        ("name: [a]\npretraining: {code_pct: 1}", "a single value is accepted"),
        ('name: "a\\nb"\npretraining: {code_pct: 1}', "a name on one line"),
        ("architecture: 3", "keys with values are accepted"),
        ("name: nothing", "nothing is known of this plan"),
        ("", "empty"),
        ("a: &x 1", "an anchor"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError) as error:
        read_plan(write(tmp_path, text))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_shares_may_sum_to_a_little_over_100(tmp_path: Path) -> None:
    assert read_plan(write(tmp_path, "pretraining: {web_pct: 80.5, code_pct: 20.5}")).number("web_pct") == 80.5


def test_the_example_is_a_plan() -> None:
    plan = read_plan(ROOT / "experiments/plan_example/my_model.yaml")
    assert set(plan.values) >= {*NUMERIC, *CATEGORICAL}
    assert sum(plan.number(name) for name in SHARES) == 100


def test_steps_add_for_percentages_and_multiply_for_sizes() -> None:
    assert steps("code_pct", [0, 60, 20]) == [0, 20, 40, 60]
    assert steps("code_pct", [0, 50, 20]) == [0, 20, 40]
    assert steps("total_params", [1e8, 1e10, 10]) == pytest.approx([1e8, 1e9, 1e10])
    assert steps("code_pct", [0, 0.3, 0.1]) == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("code_pct", [0, 60]),
        ("code_pct", [60, 0, 5]),
        ("code_pct", [0, 101, 5]),
        ("code_pct", [0, 60, 0]),
        ("code_pct", [0, 60, 0.01]),
        ("total_params", [1e8, 1e10, 1]),
        ("total_params", [0, 1e10, 2]),
        ("code_pct", [0, math.nan, 2]),
    ],
)
def test_steps_that_lead_nowhere(name: str, asked: list[float]) -> None:
    with pytest.raises(ConfigError, match=f"vary.{name}: "):
        steps(name, asked)


def test_other_shares_keep_their_ratios() -> None:
    plan = Plan("p", values={"web_pct": 60.0, "code_pct": 20.0, "books_pct": 15.0, "academic_pct": 5.0})
    (made,) = varied(plan, "code_pct", [60])
    assert {name: made.number(name) for name in ("web_pct", "code_pct", "books_pct", "academic_pct")} == pytest.approx(
        {"web_pct": 30, "code_pct": 60, "books_pct": 7.5, "academic_pct": 2.5}
    )
    assert math.isnan(made.number("reference_pct"))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.floats(0.01, 100), min_size=5, max_size=5),
    st.sampled_from(SHARES),
    st.floats(0, 1),
    st.floats(80, 101),
)
def test_the_simplex_is_kept(raw: list[float], name: str, place: float, total: float) -> None:
    shares = {key: value * total / sum(raw) for key, value in zip(SHARES, raw, strict=True)}
    (made,) = varied(Plan("p", values=shares), name, [place * total])
    assert made.number(name) == place * total
    assert sum(made.number(key) for key in SHARES) == pytest.approx(total)
    assert all(made.number(key) >= 0 for key in SHARES)
    others = [key for key in SHARES if key != name]
    factors = [made.number(key) / shares[key] for key in others]
    assert factors == pytest.approx([factors[0]] * 4)


def test_a_share_the_plan_does_not_say_leaves_100_in_all() -> None:
    (made,) = varied(Plan("p", values={"web_pct": 50.0, "books_pct": 10.0}), "code_pct", [40])
    assert (made.number("web_pct"), made.number("books_pct")) == pytest.approx((50, 10))
    (alone,) = varied(Plan("p", values={"total_params": 1}), "code_pct", [40])
    assert alone.values == {"total_params": 1, "code_pct": 40}


def test_shares_without_room_are_refused() -> None:
    with pytest.raises(DataError, match="more than the 90"):
        varied(Plan("p", values={"web_pct": 60.0, "code_pct": 30.0}), "code_pct", [95])
    with pytest.raises(DataError, match="are all 0"):
        varied(Plan("p", values={"web_pct": 0.0, "code_pct": 100.0}), "code_pct", [50])


def test_another_size_leaves_what_goes_with_it_unknown() -> None:
    (made,) = varied(Plan("p", values={"total_params": 10, "dimension": 4, "biases": "none"}), "total_params", [20.4])
    assert made.values == {"total_params": 20, "biases": "none"}
    (made,) = varied(Plan("p", values={"total_params": 10, "dimension": 4}), "total_tokens_billions", [20.4])
    assert made.values == {"total_params": 10, "dimension": 4, "total_tokens_billions": 20.4}


def test_rows_have_the_known_models_columns_and_labels() -> None:
    like = pd.DataFrame({"total_params": [1.0], "biases": pd.Categorical(["none"], ["all", "none"])})
    made = rows([Plan("a", values={"biases": "all"}), Plan("b", values={"total_params": 3, "biases": "some"})], like)
    assert list(made.columns) == list(like.columns)
    assert made["biases"].dtype == like["biases"].dtype
    assert made["biases"].cat.codes.tolist() == [0, -1]  # no known model has "some"
    np.testing.assert_array_equal(made["total_params"], [np.nan, 3.0])


def test_all_that_may_be_varied_has_a_field_in_the_config() -> None:
    from njsl.core.config import VaryConfig

    assert set(vars(VaryConfig())) == {*ADDED, *MULTIPLIED}
