"""Which columns a feature set is, in which order, and how categories are written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import FREEGEN

from njsl.core.config import FeatureSet
from njsl.core.types import ConfigError, DataError
from njsl.predict.features import FeatureTable, design, tag
from njsl.store import AnalysisStore
from njsl.store.tasks import find_tasks

CONF = Path(__file__).parents[2] / "conf" / "features"
SCALE = ["total_params", "total_tokens_billions"]
CATEGORIES = ["activation", "attention_variant", "biases", "block_type", "layer_norm_type", "positional_embeddings"]
SHARES = ["web_pct", "code_pct", "books_pct", "reference_pct", "academic_pct", "english_pct"]
ALL = [
    "total_params",
    "dimension",
    "num_heads",
    "mlp_ratio",
    "sequence_length",
    "total_tokens_billions",
    *SHARES,
    *CATEGORIES,
]
SETS = {
    "scale": SCALE,
    "arch": ["dimension", "num_heads", "mlp_ratio", "sequence_length", *CATEGORIES],
    "data": SHARES,
    "freegen": FREEGEN,
    "non_scale": ["mlp_ratio", *SHARES, *CATEGORIES],
    "all": ALL,
    "all_freegen": [*ALL, *FREEGEN],
    "scale_data": [*SCALE, *SHARES],
    "scale_arch": [
        "total_params",
        "dimension",
        "num_heads",
        "mlp_ratio",
        "sequence_length",
        "total_tokens_billions",
        *CATEGORIES,
    ],
}
ARC, HELLASWAG = find_tasks(["arc_challenge", "hellaswag"])


def shipped(name: str) -> FeatureSet:
    """A set as its yaml has it."""
    content: dict[str, Any] = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return FeatureSet(**content.get(name, content))


@pytest.fixture
def table(store: AnalysisStore) -> FeatureTable:
    return FeatureTable(store)


@pytest.mark.parametrize("name", SETS)
def test_columns_and_their_order(table: FeatureTable, name: str) -> None:
    assert table.columns(name, shipped(name), ARC) == SETS[name]


def test_counts_of_the_reference() -> None:
    assert {name: len(columns) for name, columns in SETS.items() if not name.startswith("scale_")} == {
        **{"scale": 2, "arch": 10, "data": 6, "freegen": 61, "non_scale": 13, "all": 18, "all_freegen": 79}
    }


def test_selected_keeps_the_order_of_its_list(table: FeatureTable) -> None:
    expected = [*SCALE, "biases", "code_pct", "freegen_07"]
    assert table.columns("selected", shipped("selected"), ARC) == expected
    union = FeatureSet(groups=["data", "selected"], columns=["dimension"])
    assert table.columns("mine", union, ARC) == [
        *expected,
        "dimension",
        *(name for name in SHARES if name != "code_pct"),
    ]
    with pytest.raises(DataError, match=r"the paper selected nothing for hellaswag \(10-shot\)"):
        table.columns("selected", shipped("selected"), HELLASWAG)


def test_single_columns_and_dropped_ones(table: FeatureTable) -> None:
    mine = FeatureSet(groups=["scale"], columns=["activation", "freegen_03", "code_pct"], drop=["total_params"])
    assert table.columns("mine", mine, ARC) == ["total_tokens_billions", "code_pct", "activation", "freegen_03"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (
            FeatureSet(groups=["architecture"]),
            "features.mine.groups: 'architecture' is no group; accepted: scale, arch, tied, data, freegen, selected",
        ),
        (FeatureSet(columns=["code_pc"]), "features.mine: 'code_pc' is no feature of this store; accepted: code_pct"),
        (
            FeatureSet(groups=["scale"], drop=["totl_params"]),
            "'totl_params' is no feature of this store; accepted: total_params",
        ),
        (FeatureSet(columns=["freegen_7"]), "'freegen_7' is no feature of this store; accepted: freegen_"),
        (FeatureSet(columns=["qqqq"]), "'qqqq' is no feature of this store; accepted: total_params, dimension"),
        (FeatureSet(groups=["scale"], drop=SCALE), "features.mine: no column is left"),
    ],
)
def test_unknown_names(table: FeatureTable, wanted: FeatureSet, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        table.columns("mine", wanted, ARC)
    assert expected in str(caught.value)


def test_sets_that_need_a_file_the_store_lacks(export: Path) -> None:
    with AnalysisStore.from_existing(export) as opened:
        table = FeatureTable(opened)
        assert table.columns("all", shipped("all"), ARC) == ALL
        for name, file in [("all_freegen", "ratios.csv"), ("selected", "forward_generation_results_303.csv")]:
            with pytest.raises(DataError, match=file):
                table.columns(name, shipped(name), ARC)


def test_free_generation_is_read_only_where_it_is_needed(table: FeatureTable) -> None:
    assert not table.needs_freegen({"all": shipped("all"), "scale": shipped("scale")}, [ARC, HELLASWAG])
    assert table.needs_freegen({"all": shipped("all"), "all_freegen": shipped("all_freegen")}, [ARC])
    assert table.needs_freegen({"selected": shipped("selected")}, [ARC])  # freegen_07 is on its list


def test_candidates_are_groups_and_columns(table: FeatureTable) -> None:
    wanted = table.candidate_set(["data", "activation", "freegen"])
    assert wanted == FeatureSet(groups=["data", "freegen"], columns=["activation"])


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("total_params", "[A]"),
        ("ln_total_params", "[A]"),
        ("ln_total_tokens_billions", "[D]"),
        ("code_pct", "[D]"),
        ("biases", "[A]"),
        ("freegen_07", "[F]"),
    ],
)
def test_tags(column: str, expected: str) -> None:
    assert tag(column) == expected


FEATURES = pd.DataFrame(
    {
        "total_params": [1e9, np.e * 1e9],
        "total_tokens_billions": [1.0, np.nan],
        "web_pct": [np.nan, 40.0],
        "biases": pd.Categorical(["some", None], categories=["attn_only", "ln_only", "none", "some"]),
        "activation": pd.Categorical(["silu", "gelu"], categories=["gelu", "silu"]),
    },
    index=pd.Index(["a/x", "b/y"], name="id"),
)


def test_encodings_by_hand() -> None:
    columns = ["biases", "total_params", "total_tokens_billions", "activation", "web_pct"]
    names = ["biases", "ln_total_params", "ln_total_tokens_billions", "activation", "web_pct"]
    numbers = [np.log(1e9), 0.0], [np.log(1e9) + 1, np.nan]
    ordinal = design(FEATURES, columns, "ordinal")
    assert list(ordinal.columns) == names
    np.testing.assert_allclose(ordinal.to_numpy(), [[3, *numbers[0], 1, np.nan], [np.nan, *numbers[1], 0, 40]])
    # attn_only, ln_only, missing, none, some; gelu, missing, silu
    second = design(FEATURES, columns, "ordinal_missing")
    np.testing.assert_allclose(second.to_numpy(), [[4, *numbers[0], 2, np.nan], [2, *numbers[1], 0, 40]])
    native = design(FEATURES, columns, "native")
    assert list(native.columns) == names
    assert native["biases"].tolist()[0] == "some" and pd.isna(native["biases"].iloc[1])
    assert list(native["biases"].cat.categories) == ["attn_only", "ln_only", "none", "some"]
    np.testing.assert_allclose(
        native[["ln_total_params", "ln_total_tokens_billions"]].to_numpy(), np.array(numbers)[:, :2]
    )
    assert FEATURES.columns.tolist()[0] == "total_params" and FEATURES["total_params"].iloc[0] == 1e9  # left as it was


@pytest.mark.data
def test_published_lists_and_columns(paper_store: AnalysisStore) -> None:
    table = FeatureTable(paper_store)
    assert len(table.freegen) == 61
    assert table.columns("selected", shipped("selected"), ARC) == [
        *SCALE,
        "reference_pct",
        "code_pct",
        "biases",
        "positional_embeddings",
        "web_pct",
    ]
    for task in find_tasks("core"):
        assert len(table.columns("all_freegen", shipped("all_freegen"), task)) == 79
        assert table.columns("selected", shipped("selected"), task)[:2] == SCALE
