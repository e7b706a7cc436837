"""Plans from config to ledger, in this process, on a synthetic export: forecasts, variations, design, and scoring."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, open_dict
from rich.console import Console

from njsl.core import config
from njsl.core.check import check
from njsl.core.run import Run
from njsl.core.types import ConfigError, DataError
from njsl.predict import forecast, ledger
from njsl.predict.calibration import calibration, fill, joined, read_truth
from njsl.predict.design import Objective, mix, pareto, ranked, verdict
from njsl.predict.forecast import Forecast, Forecaster, plan_groups, plan_id
from njsl.predict.nearest import Neighbours
from njsl.predict.plan import Plan
from njsl.predict.run import run as story

ROOT = Path(__file__).parents[2]
PLAN = """
name: acme/next
architecture: {total_params: 1.2e9, dimension: 2048, num_heads: 16, activation: swiglu}
pretraining: {total_tokens_billions: 600, web_pct: 60, code_pct: 20, books_pct: 10, reference_pct: 5, academic_pct: 5}
"""
Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("plans")
    (made / "plan.yaml").write_text(PLAN)
    return made


@pytest.fixture(scope="module")
def configured(export: Path, folder: Path) -> Iterator[Compose]:
    """Composes predict.py's config for ridge on two tasks, one cache and one ledger for all."""
    config.register()

    def composed(output: str, *overrides: str) -> DictConfig:
        words = [
            *("store=folder", f"store.path={export}", "tasks=[hellaswag,winogrande,xnli]"),
            *("predictor=ridge", "predictor.ridge.alpha=1.0"),
            *(
                "workers=1",
                "logger=none",
                f"plan.file={folder / 'plan.yaml'}",
                f"plan.ledger={folder / 'ledger.jsonl'}",
            ),
            *(f"hydra.runtime.output_dir={folder / output}", f"paths.cache={folder / 'cache'}"),
        ]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("predict", overrides=[*words, *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        check(cfg, config.PredictConfig)
        return cfg

    yield composed
    HydraConfig.instance().cfg = None


def predict(cfg: DictConfig) -> Path:
    with Run(cfg) as run:
        story(cfg, run)
    return Path(cfg.paths.output)


@pytest.fixture(scope="module")
def forecaster(configured: Compose) -> Forecaster:
    return Forecaster(configured("unused", "mode=whatif"), Console(quiet=True))


@pytest.fixture(scope="module")
def told(configured: Compose) -> Path:
    return predict(configured("whatif", "mode=whatif", "vary.code_pct=[0,40,20]"))


def test_a_forecast_is_the_fit_on_all_known_models(forecaster: Forecaster) -> None:
    from njsl.predict.features import design
    from njsl.predict.plan import rows
    from njsl.predict.predictors.ridge import Ridge

    plan = Plan("p", values={"total_params": 10**9, "total_tokens_billions": 300.0, "code_pct": 30.0})
    frame = forecaster.known.frames["hellaswag"]
    columns = ["total_params", "total_tokens_billions"]
    point = forecaster.point("hellaswag", "scale")
    model = Ridge(**point).fit(design(frame.features, columns, "native"), frame.y)
    expected = model.predict(design(rows([plan], frame.features), columns, "native"))
    found = forecaster.forecast([plan], "hellaswag", "scale")
    np.testing.assert_allclose(found.yhat, expected, rtol=1e-12)
    assert found.n == len(frame.y)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_intervals_hold_their_prediction_and_each_other(forecaster: Forecaster, data: st.DataObject) -> None:
    unknown = st.none()
    values = {
        "total_params": data.draw(st.integers(1, 10**13)),
        "total_tokens_billions": data.draw(st.floats(0.001, 1e5)),
        "code_pct": data.draw(unknown | st.floats(0, 100)),
        "activation": data.draw(unknown | st.sampled_from(["swiglu", "geglu"])),
    }
    plan = Plan("p", values={name: value for name, value in values.items() if value is not None})
    for task in ("hellaswag", "xnli"):
        found = forecaster.forecast([plan], task, "all")
        (low, lower), (high, higher) = found.low[:, 0], found.high[:, 0]
        assert 0 <= lower <= low <= found.yhat[0] <= high <= higher <= (2 if task == "xnli" else 1)


def test_plans_do_not_see_each_other(forecaster: Forecaster) -> None:
    plans = [Plan("p", values={"total_params": size, "total_tokens_billions": 300.0}) for size in (10**8, 10**10)]
    both = forecaster.forecast(plans, "hellaswag", "all")
    for place, plan in enumerate(plans):
        alone = forecaster.forecast([plan], "hellaswag", "all")
        assert alone.yhat[0] == pytest.approx(both.yhat[place], rel=1e-12)
        np.testing.assert_allclose(alone.low[:, 0], both.low[:, place])


def test_the_mean_of_tasks_has_an_interval_of_its_own(forecaster: Forecaster) -> None:
    plan = Plan("p", values={"total_params": 10**9, "total_tokens_billions": 300.0})
    parts = [forecaster.forecast([plan], task, "all") for task in ("hellaswag", "winogrande")]
    found = forecaster.mean([plan], ("hellaswag", "winogrande"), "all")
    assert found.yhat[0] == pytest.approx(np.mean([part.yhat[0] for part in parts]))
    widths = [float(part.high[0, 0] - part.low[0, 0]) for part in parts]
    assert 0 < found.high[0, 0] - found.low[0, 0] <= 1.2 * max(widths)
    assert forecaster.mean([plan], ("hellaswag",), "all").low.tolist() == parts[0].low.tolist()


def test_groups_hold_every_organisation_a_plan_may_name(forecaster: Forecaster) -> None:
    groups = plan_groups(forecaster.known.base)
    assert groups.index.is_unique

    def of(plan: Plan) -> list[str]:
        return groups.loc[plan_id(plan, groups)].tolist()

    assert of(Plan("p")) == ["(new)", "(new)"]
    assert of(Plan("p", org="nobody", family="none")) == ["(new)", "(new)"]
    assert of(Plan("p", org="Qwen")) == ["Qwen", "(new)"]
    family = forecaster.known.base.loc["EleutherAI/pythia-1b", "family"]
    assert of(Plan("p", org="EleutherAI", family=family)) == ["EleutherAI", family]
    assert of(Plan("p", family=family)) == ["EleutherAI", family]


def test_what_is_written(told: Path, folder: Path, forecaster: Forecaster) -> None:
    table = pd.read_csv(told / "predictions.csv")
    assert table.groupby("features", sort=False)["task"].apply(list).to_dict() == {
        name: ["hellaswag", "winogrande", "xnli"] for name in ("scale", "all")
    }
    assert (table.low_90 <= table.low_80).all() and (table.low_80 <= table.yhat).all()
    assert (table.yhat <= table.high_80).all() and (table.high_80 <= table.high_90).all()
    curve = pd.read_csv(told / "vary_code_pct.csv")
    assert len(curve) == 3 * 2 * 3 and curve.code_pct.unique().tolist() == [0, 20, 40]
    same = curve[curve.code_pct == 20].set_index(["task", "features"]).yhat
    assert same.sort_index().tolist() == pytest.approx(table.set_index(["task", "features"]).yhat.sort_index().tolist())
    assert (told / "vary_code_pct.png").read_bytes()[:4] == b"\x89PNG"
    near = pd.read_csv(told / "neighbours.csv")
    assert len(near) == 5 and near.distance.is_monotonic_increasing
    line = ledger.read(folder / "ledger.jsonl")[0]
    assert line["plan"]["name"] == "acme/next" and line["database"]["sha256"] == forecaster.known.database
    assert [found["yhat"] for found in line["predictions"]] == pytest.approx(
        [float(forecaster.forecast([plan_of(line)], f["task"], f["features"]).yhat[0]) for f in line["predictions"]]
    )
    said = (told / "report.txt").read_text()
    for text in (
        "organisation never seen",
        "associations",
        "scale-only",
        "6 N D is 4.32e+21",
        "distance:",
        "code_pct 0 to 40, all",
        line["id"],
    ):
        assert text in said


def plan_of(line: dict[str, dict[str, object]]) -> Plan:
    values = {key: value for key, value in line["plan"].items() if key not in ("name", "org", "family")}
    return Plan("p", values=values)


def test_a_finished_run_says_it_again_and_appends_nothing(
    told: Path, configured: Compose, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "ledger.jsonl").read_bytes()
    predict(configured("whatif", "mode=whatif", "vary.code_pct=[0,40,20]"))
    assert "expected scores [points]" in capsys.readouterr().out
    assert (folder / "ledger.jsonl").read_bytes() == before


def test_a_broken_cache_is_said_and_fitted_anew(
    configured: Compose, folder: Path, forecaster: Forecaster, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configured("broken", "mode=whatif", f"paths.cache={folder / 'other'}", "tasks=[hellaswag]")
    plan = Plan("p", values={"total_params": 10**9, "total_tokens_billions": 300.0})
    first = Forecaster(cfg, Console()).forecast([plan], "hellaswag", "all")
    files = sorted((folder / "other").rglob("*.njsl"))
    assert len(files) == 3
    for file in files:
        file.write_bytes(file.read_bytes()[:-1])
    capsys.readouterr()
    again = Forecaster(cfg, Console()).forecast([plan], "hellaswag", "all")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cache: ")]
    assert len(said) == 3 and sum("fitted anew" in line for line in said) == 2
    assert again.yhat == first.yhat and again.low.tolist() == first.low.tolist()


def test_a_predictor_that_is_no_data_is_fitted_when_asked(
    configured: Compose, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = configured("refit", "mode=whatif", f"paths.cache={folder / 'third'}", "tasks=[hellaswag]", "seeds=[3]")
    plan = Plan("p", values={"total_params": 10**9, "total_tokens_billions": 300.0})
    kept = Forecaster(cfg, Console(quiet=True)).forecast([plan], "hellaswag", "all")
    whole = forecast.persist.dumps

    def refuse(value: object) -> bytes:
        if isinstance(value, forecast.Fit) and value.model is not None:
            raise forecast.persist.CannotPersist("no words")
        return whole(value)

    monkeypatch.setattr(forecast.persist, "dumps", refuse)
    cfg.paths.cache = str(folder / "fourth")
    anew = Forecaster(cfg, Console(quiet=True)).forecast([plan], "hellaswag", "all")
    assert anew.yhat == kept.yhat and anew.high.tolist() == kept.high.tolist()


@pytest.mark.parametrize(
    "other",
    ["seeds=[7]", "store.view=curated", "predictor.ridge.alpha=3.0", "tasks=[hellaswag]", "features=[scale,data]"],
)
def test_the_cache_is_keyed_by_what_goes_in(
    configured: Compose, forecaster: Forecaster, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def stop(job: forecast.Job) -> None:
        asked.append(job.features)
        raise DataError("fitted")

    monkeypatch.setattr(forecast, "fit_to_file", stop)
    cfg = configured("key", "mode=whatif", other)
    with pytest.raises(DataError, match="fitted"):
        Forecaster(cfg, Console(quiet=True))
    assert asked == ["data" if other.startswith("features") else "scale"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan.file=null"], "plan.file: a value is required"),
        (["predictor=[ridge,xgboost]"], "mode=whatif takes one"),
        (["vary.code_pct=[0,200,5]"], "vary.code_pct: from 0 to 200"),
        (["vary.web_pct=[0,100,5]", "tasks=nothing"], "tasks: 'nothing'"),
    ],
)
def test_a_config_that_cannot_be_leaves_nothing(configured: Compose, folder: Path, words: list[str], said: str) -> None:
    before = (folder / "ledger.jsonl").read_bytes() if (folder / "ledger.jsonl").exists() else None
    with pytest.raises(ConfigError) as error:
        predict(configured("refused", "mode=whatif", *words))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (folder / "refused").exists()
    assert ((folder / "ledger.jsonl").read_bytes() if (folder / "ledger.jsonl").exists() else None) == before


# --- how far a plan is ---


def base(**columns: list[object]) -> pd.DataFrame:
    """Known models of organisations a, b, c with some features, all others unknown."""
    from njsl.store.views import CATEGORICAL, NUMERIC

    frame = pd.DataFrame(index=["a/1", "b/1", "c/1"])
    for name in NUMERIC:
        frame[name] = np.array(columns.get(name, [np.nan] * 3), dtype="float64")
    for name in CATEGORICAL:
        labels = columns.get(name, [None] * 3)
        frame[name] = pd.Categorical(labels, sorted({str(x) for x in labels if x is not None}))
    return frame.assign(org=["a", "b", "c"], family=["a", "b", "c"])


def test_distances_by_hand() -> None:
    # code: 0, 10, 20 has deviation sqrt(200/3); a plan at 10 is 10 / 8.165 = 1.2247 from the outer two.
    # silent: c does not tell its web share; the plan's 50 is 1 deviation from both others, so c counts 1 as well.
    known = Neighbours(base(code_pct=[0, 10, 20], web_pct=[40, 60, None]))
    reach = known.reach(Plan("p", values={"code_pct": 10.0, "web_pct": 50.0}))
    assert reach.nearest.index.tolist() == ["b/1", "a/1", "c/1"]
    assert reach.nearest.tolist() == pytest.approx([np.sqrt(0.5), np.sqrt((1.5 + 1) / 2), np.sqrt((1.5 + 1) / 2)])
    assert reach.known == ["web_pct", "code_pct"] and reach.flags == []
    labels = Neighbours(base(code_pct=[0, 10, 20], biases=["none", "all", None]))
    reach = labels.reach(Plan("p", values={"biases": "none"}))
    assert reach.nearest.to_dict() == pytest.approx({"a/1": 0, "c/1": np.sqrt(0.5), "b/1": 1})


def test_what_is_outside_the_data_is_flagged() -> None:
    known = Neighbours(base(code_pct=[0, 10, 20], biases=["none", "all", None]))
    flags = known.reach(Plan("p", values={"code_pct": 40.0, "biases": "some"})).flags
    assert flags[0] == "code_pct: 40; known models have 0 to 20 (n = 3)"
    assert flags[1].startswith("biases: no known model has some, so it is read as unknown; known models have none, all")
    # 20 / 8.165 = 2.45 from the nearest, while known models are 10 / 8.165 from theirs.
    assert flags[2].startswith("the combination: the nearest known model is 2.45 away")
    assert "than 1.22 " in flags[2]
    assert len(flags) == 3


def test_a_plan_may_know_no_feature() -> None:
    reach = Neighbours(base(code_pct=[0, 10, 20])).reach(Plan("p", values={"num_layers": 3}))
    assert reach.nearest.empty and reach.known == [] and reach.flags == []


# --- design ---


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_mix_sums_to_100_within_its_bounds(data: st.DataObject) -> None:
    lows = data.draw(st.lists(st.floats(0, 20), min_size=5, max_size=5))
    bounds = [(low, low + data.draw(st.floats(0, 80))) for low in lows]
    if sum(high for _, high in bounds) < 100 or sum(lows) > 100:
        return
    shares = mix(data.draw(st.lists(st.floats(0, 1), min_size=4, max_size=4)), bounds)
    assert sum(shares) == pytest.approx(100)
    for share, (low, high) in zip(shares, bounds, strict=True):
        assert low - 1e-9 <= share <= high + 1e-9


def of(*yhat: float) -> Forecast:
    values = np.array(yhat)
    return Forecast(values, np.stack([values - 0.05] * 2), np.stack([values + 0.05] * 2), 40)


def test_pareto_sets_by_hand() -> None:
    up, down = Objective("a", ("a",), True), Objective("b", ("b",), False)
    assert pareto([of(1, 2, 3, 2, 3), of(1, 1, 3, 0.5, 3)], [up, down]) == [2, 3]
    assert pareto([of(1, 2)], [up]) == [1]
    plans = [Plan(str(k)) for k in range(4)]
    assert ranked(plans, of(0.2, 0.4, 0.4, 0.1), up) == [1, 0, 3]
    assert ranked(plans, of(0.2, 0.4, 0.4, 0.1), down) == [3, 0, 1]


def test_differences_below_the_interval_are_said() -> None:
    goal = Objective("a", ("a",), True)
    assert verdict(goal, of(0.30, 0.31, 0.35), [2]).endswith("differences below the interval, not distinguishable")
    assert "the gain exceeds it" in verdict(goal, of(0.30, 0.31, 0.45), [2])


def test_a_search_stays_within_the_data_and_repeats_itself(configured: Compose, folder: Path) -> None:
    words = [
        "mode=design",
        "design.flops=1e21",
        "design.objective=[hellaswag,xnli]",
        "design.trials=48",
        "plan.file=null",
    ]
    tables = []
    for name in ("design", "design_again"):
        output = predict(configured(name, *words))
        tables.append(pd.read_csv(output / "trials.csv"))
        found = pd.read_csv(output / "pareto.csv")
    pd.testing.assert_frame_equal(*tables)
    table = tables[0]
    assert len(table) == 48
    np.testing.assert_allclose(6e9 * table.total_params * table.total_tokens_billions, 1e21, rtol=1e-9)
    shares = table[[name for name in table if name.endswith("_pct")]]
    np.testing.assert_allclose(shares.sum(axis=1), 100)
    known = Forecaster(configured("x", *words), Console(quiet=True)).known.base
    for name in ("total_params", "total_tokens_billions", *shares):
        assert known[name].min() * (1 - 1e-6) <= table[name].min()
        assert table[name].max() <= known[name].max() * (1 + 1e-6)
    best = table[(table.hellaswag >= table.hellaswag.max()) | (table.xnli <= table.xnli.min())]
    assert set(found.trial) & set(best.trial)
    for row in found.itertuples():
        better = (table.hellaswag >= row.hellaswag) & (table.xnli <= row.xnli)
        strictly = (table.hellaswag > row.hellaswag) | (table.xnli < row.xnli)
        assert not (better & strictly).any()
    named = [line["plan"]["name"] for line in ledger.read(folder / "ledger.jsonl") if "design" in line["plan"]["name"]]
    assert len(named) == 2 * len(found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["design.flops=null"], "design.flops: None; a positive number"),
        (["design.flops=1e40"], "cannot be spent within"),
        (
            ["design.flops=1e21", "design.objective=helaswag"],
            "none of this run's tasks; accepted: accuracy, brier_score, hellaswag",
        ),
        (["design.flops=1e21", "design.objective=[xnli,xnli]"], "one or a list"),
        (["design.flops=1e21", "design.trials=0"], "design.trials: 0"),
    ],
)
def test_a_design_that_cannot_be(configured: Compose, folder: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        predict(configured("refused", "mode=design", *words))
    assert said in str(error.value)
    assert not (folder / "refused").exists()


# --- scoring ---


def line(name: str, date: str, yhat: float, **more: object) -> dict[str, object]:
    found = {"task": "hellaswag", "features": "all", "n": 9, "yhat": yhat}
    found |= {"low": [yhat - 0.1, yhat - 0.2], "high": [yhat + 0.1, yhat + 0.2]}
    predictor = {"name": "ridge", "sha256": "s"}
    whole = {"kind": "plan", "id": name + date, "date": date, "database": {}, "predictor": predictor}
    return {**whole, "plan": {"name": name}, "levels": [0.8, 0.9], "predictions": [found], "known": False, **more}


def test_calibration_by_hand() -> None:
    plans = [
        line("a", "1", 0.5),
        line("a", "2", 0.9),
        line("b", "1", 0.3),
        line("c", "1", 0.4),
        line("k", "1", 0, known=True),
    ]
    truth = {"a": {"hellaswag": 0.55}, "b": {"hellaswag": 0.15}, "c": {"hellaswag": 0.9}, "k": {"hellaswag": 0.5}}
    new = fill(plans, [], truth, "t")
    assert [entry["plan"] for entry in new] == ["a1", "a2", "b1", "c1", "k1"]
    assert fill(plans, new, truth, "t") == []
    later = {"kind": "truth", "plan": "c1", "date": "", "scores": {"hellaswag": 0.4}, "source": ""}
    scored = joined([*plans, *new, later])
    # a counts as it was first predicted; k was known; c's last truth counts.
    assert scored[["id", "y"]].to_numpy().tolist() == [["a1", 0.55], ["b1", 0.15], ["c1", 0.4]]
    whole = calibration(scored).set_index("task").loc["(all)"]
    assert (whole["n"], whole["plans"]) == (3, 3)
    assert whole[["mae", "bias"]].tolist() == pytest.approx([(0.05 + 0.15) / 3, (-0.05 + 0.15) / 3])
    assert whole[["coverage_80", "coverage_90"]].tolist() == pytest.approx([2 / 3, 1])
    assert whole[["width_80", "width_90"]].tolist() == pytest.approx([0.2, 0.4])


def test_truth_that_fits_no_plan() -> None:
    plans = [
        line("acme/one", "1", 0.5),
        line("x", "1", 0.5),
        {**line("x", "2", 0.5), "plan": {"name": "x", "code_pct": 3}},
    ]
    with pytest.raises(DataError, match="is no plan of the ledger; accepted: acme/one"):
        fill(plans, [], {"acme/on": {}}, "t")
    with pytest.raises(DataError, match=r"2 different plans .* accepted: x1, x2"):
        fill(plans, [], {"x": {"hellaswag": 0.5}}, "t")
    assert [entry["plan"] for entry in fill(plans, [], {"x2": {"hellaswag": 0.5}}, "t")] == ["x2"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.yaml", "a: {helaswag: 0.5}", "line 1: a.helaswag: no such task 'helaswag'; accepted: hellaswag"),
        ("t.yaml", "a: {hellaswag: 50}", "a fraction from 0 to 1 is accepted"),
        ("t.yaml", "a: {hellaswag: true}", "a fraction from 0 to 1"),
        ("t.yaml", "a: 0.5", "keys with values are accepted"),
        ("t.yaml", "a:", "no score"),
        ("t.csv", "plan,task\na,hellaswag\n", "columns plan, task, score are accepted"),
        ("t.csv", "plan,task,score\na,hellaswag\n", "line 2: plan, task, score"),
        ("t.csv", "plan,task,score\na,hellaswag,x\n", "line 2: 'x'; a fraction"),
        ("t.csv", "plan,task,score\na,hellaswag,.5\na,hellaswag,.6\n", "line 3: a, hellaswag stands twice"),
        ("t.csv", "plan,task,score\na,xnli,2.5\n", "a fraction from 0 to 2"),
        ("t.csv", "plan,task,score\n", "no score"),
    ],
)
def test_truth_that_cannot_be(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as error:
        read_truth(tmp_path / name)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_truth_in_both_spellings(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("a/b: {hellaswag: 0.5, xnli: 1.2}\n")
    (tmp_path / "t.csv").write_text("plan,task,score\na/b,hellaswag,0.5\na/b,xnli,1.2\n")
    assert read_truth(tmp_path / "t.yaml") == read_truth(tmp_path / "t.csv") == {"a/b": {"hellaswag": 0.5, "xnli": 1.2}}


def test_plans_are_scored_by_file_and_by_store(configured: Compose, folder: Path, told: Path) -> None:
    (folder / "truth.yaml").write_text("acme/next: {hellaswag: 0.6, xnli: 0.6}\n")
    lines = ledger.read(folder / "ledger.jsonl")
    # As if it had been predicted before the store knew it.
    (own,) = [found for found in lines if found["plan"]["name"] == "acme/next"]
    later = replace(plan_of(own), name="EleutherAI/pythia-1b").as_json()
    ledger.append(folder / "scored.jsonl", [own, {**own, "id": "later", "plan": later}])
    words = ["mode=score", f"plan.ledger={folder / 'scored.jsonl'}"]
    output = predict(configured("score", *words, f"score.truth={folder / 'truth.yaml'}"))
    assert pd.read_csv(output / "scored.csv").task.value_counts().to_dict() == {"hellaswag": 2, "xnli": 2}
    assert (output / "calibration.png").read_bytes()[:4] == b"\x89PNG"
    output = predict(configured("score_store", *words))
    by_store = pd.read_csv(output / "scored.csv")
    assert len(by_store) == 4 + 6
    labels = Forecaster(configured("x", "mode=whatif"), Console(quiet=True)).known.labels
    scores = by_store[by_store.id == "later"].groupby("task").y.first()
    assert scores.to_dict() == pytest.approx(labels.loc["EleutherAI/pythia-1b"].to_dict())
    truths = [found for found in ledger.read(folder / "scored.jsonl") if found["kind"] == "truth"]
    assert [found["plan"] for found in truths] == [own["id"], "later"]
    assert json.loads((output / "run.json").read_text())["state"] == "finished"


def test_a_ledger_without_truth_says_so(configured: Compose, folder: Path, told: Path) -> None:
    with pytest.raises(DataError, match="has a measured score"):
        predict(configured("no_truth", "mode=score"))
    with pytest.raises(DataError, match=r"plan\.ledger: .*No such file"):
        predict(configured("no_truth", "mode=score", f"plan.ledger={folder / 'nothing'}"))
    assert not (folder / "no_truth").exists()
