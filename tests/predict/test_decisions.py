"""Which of two models is better: by hand, against a plain loop, and what must hold."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.predict.decisions import MEAN_TASK, MIXES, NEAR, NOISE_Z, decisions, mixes, mixes_figure, model_facts
from njsl.predict.figures import save
from njsl.store import AnalysisStore
from njsl.store.tasks import find_tasks, task_table
from njsl.store.views import TaskFrame, task_frames


def table(
    y: list[float],
    yhat: list[float],
    orgs: str,
    *,
    metric: str = "accuracy",
    task: str = "hellaswag",
    folds: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    names = [f"m/{number}" for number in range(len(y))]
    rows = {
        "task": task,
        "metric": metric,
        "model": names,
        "org": list(orgs),
        "family": list(orgs),
        "fold": list(folds or orgs),
    }
    method = {"predictor": "p", "features": "scale", "cv": "leave_org_out", "select": "none", "seed": seed}
    return pd.DataFrame(rows | method | {"y": y, "yhat": yhat})


def facts_of(
    flops: list[float], stderr: list[float] | None = None, tasks: tuple[str, ...] = ("hellaswag",)
) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([tasks, [f"m/{n}" for n in range(len(flops))]], names=["task", "model"])
    known = [np.nan] * len(flops) if stderr is None else stderr
    return pd.DataFrame({"flops": flops * len(tasks), "stderr": known * len(tasks)}, index=index)


def scopes(found: pd.DataFrame, task: str = "hellaswag") -> pd.DataFrame:
    return found[found["task"] == task].set_index("scope")


def test_by_hand() -> None:
    #         0 and 1 the wrong way round, all others right: 5 of 6
    y, yhat = [0.2, 0.3, 0.5, 0.9], [0.31, 0.3, 0.4, 0.5]
    found = scopes(decisions(table(y, yhat, "aabb"), facts_of([1.0, 1.5, 1.6, 9.0], [0.02, 0.06, 0.0, 0.0])))
    row = found.loc["all"]
    assert (row["n_models"], row["n_pairs"], row["n_tied"]) == (4, 6, 0)
    assert row["accuracy"] == pytest.approx(5 / 6)
    assert row["regret_pair"] == pytest.approx(0.1 / 6) and row["regret_best"] == 0.0
    # 1.96 * sqrt(0.02^2 + 0.06^2) = 0.124 > 0.1: the pair that is wrong is not beyond noise
    assert (row["n_beyond_noise"], row["accuracy_beyond_noise"], row["n_noise_unknown"]) == (5, 1.0, 0)
    assert found.loc["same_fold", ["n_pairs", "accuracy"]].tolist() == [2, 0.5]
    assert found.loc["compute_1.5x", ["n_pairs", "accuracy"]].tolist() == [2, 0.5]  # 1 and 1.5; 1.5 and 1.6
    assert np.isnan(found.loc["compute_1.5x", "regret_best"])


def test_lower_brier_is_better() -> None:
    y, yhat = [0.9, 0.5, 0.7], [0.9, 0.5, 0.4]
    up = scopes(decisions(table(y, yhat, "abc"), facts_of([1.0] * 3))).loc["all"]
    down = scopes(decisions(table(y, yhat, "abc", metric="brier_score"), facts_of([1.0] * 3))).loc["all"]
    assert up["accuracy"] == down["accuracy"] == pytest.approx(2 / 3)
    assert up["regret_best"] == 0.0 and down["regret_best"] == pytest.approx(0.2)
    assert up["n_noise_unknown"] == 3 and np.isnan(up["accuracy_beyond_noise"])


def test_ties() -> None:
    """Measured equal: no pair. Predicted equal: a coin, for pairs and for the best."""
    row = scopes(decisions(table([0.4, 0.4, 0.8], [0.5, 0.5, 0.5], "abc"), facts_of([1.0] * 3))).loc["all"]
    assert (row["n_pairs"], row["n_tied"], row["accuracy"]) == (2, 1, 0.5)
    assert row["regret_pair"] == pytest.approx(0.2)
    assert row["regret_best"] == pytest.approx(0.8 - 1.6 / 3)


def test_seeds_are_averaged_and_tasks_meaned() -> None:
    y = [0.1, 0.2, 0.3]
    right, wrong = [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]
    both = pd.concat([table(y, right, "abc"), table(y, wrong, "abc", seed=1), table(y, right, "abc", task="mathqa")])
    found = decisions(both, facts_of([1.0] * 3, tasks=("hellaswag", "mathqa"))).set_index(["task", "scope"])
    assert found.loc[("hellaswag", "all"), "accuracy"] == 0.5 and found.loc[("hellaswag", "all"), "n_pairs"] == 3
    assert found.loc[(MEAN_TASK, "all"), "accuracy"] == 0.75
    # No two models share a fold: no pair, and no number.
    assert found.loc[(MEAN_TASK, "same_fold"), "n_pairs"] == 0 and np.isnan(
        found.loc[(MEAN_TASK, "same_fold"), "accuracy"]
    )


def test_the_interval_is_over_organisations() -> None:
    random = np.random.default_rng(0)
    y = list(random.uniform(size=24))
    yhat = [value + 0.3 * random.normal() for value in y]
    one = scopes(decisions(table(y, yhat, "a" * 24), facts_of([1.0] * 24))).loc["all"]
    assert np.isnan(one["accuracy_low"]) and np.isnan(one["accuracy_high"])
    orgs = "aaaaaaaaaaaabcdefghijklm"
    many = scopes(decisions(table(y, yhat, orgs), facts_of([1.0] * 24))).loc["all"]
    # The same bootstrap by drawing organisations and building the pairs anew.
    rng, draws = np.random.default_rng(5), []
    names = sorted(set(orgs))
    for _ in range(1500):
        rows = [n for org in rng.choice(names, len(names)) for n in range(24) if orgs[n] == org]
        pairs = [(i, j) for i, j in itertools.combinations(rows, 2) if i != j]
        draws.append(np.mean([(y[i] > y[j]) == (yhat[i] > yhat[j]) for i, j in pairs]))
    assert [many["accuracy_low"], many["accuracy_high"]] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)
    assert many["accuracy"] == one["accuracy"]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[float], list[float], str, list[float], list[float]]:
    count = draw(st.integers(2, 9))
    lists = [
        draw(st.lists(one, min_size=count, max_size=count))
        for one in (
            st.sampled_from([0.1, 0.25, 0.5, 0.9]),
            st.sampled_from([0.1, 0.25, 0.5, 0.9]),
            st.sampled_from("abc"),
            st.sampled_from([1.0, 1.4, 2.0, 9.0]),
            st.sampled_from([0.01, 0.1, np.nan]),
        )
    ]
    return lists[0], lists[1], "".join(lists[2]), lists[3], lists[4]


@given(cases(), st.sampled_from(["accuracy", "brier_score"]))
@settings(deadline=None, max_examples=25)
def test_against_a_plain_loop(
    case: tuple[list[float], list[float], str, list[float], list[float]], metric: str
) -> None:
    y, yhat, orgs, flops, stderr = case
    found = scopes(decisions(table(y, yhat, orgs, metric=metric), facts_of(flops, stderr)))
    sign = 1 if metric == "accuracy" else -1
    for scope in found.index:
        hits, beyond, tied, lost = [], [], 0, []
        for i, j in itertools.combinations(range(len(y)), 2):
            ratio = max(flops[i], flops[j]) / min(flops[i], flops[j])
            if (scope == "same_fold" and orgs[i] != orgs[j]) or (scope == "compute_1.5x" and ratio > NEAR):
                continue
            if y[i] == y[j]:
                tied += 1
                continue
            better, worse = (i, j) if sign * y[i] > sign * y[j] else (j, i)
            hit = 0.5 if yhat[i] == yhat[j] else float(sign * yhat[better] > sign * yhat[worse])
            hits.append(hit)
            lost.append((1 - hit) * abs(y[i] - y[j]))
            if abs(y[i] - y[j]) > NOISE_Z * np.hypot(stderr[i], stderr[j]):
                beyond.append(hit)
        row = found.loc[scope]
        assert (row["n_pairs"], row["n_tied"], row["n_beyond_noise"]) == (len(hits), tied, len(beyond))
        for name, values in (("accuracy", hits), ("accuracy_beyond_noise", beyond), ("regret_pair", lost)):
            assert row[name] == pytest.approx(np.mean(values) if values else np.nan, nan_ok=True), (scope, name)


def test_facts_of_frames() -> None:
    features = pd.DataFrame(
        {"total_params": [1e9, 2e9], "total_tokens_billions": [100.0, np.nan]}, index=["m/0", "m/1"]
    )
    orgs = np.array(["a", "b"], dtype=object)
    frame = TaskFrame(task_table()["hellaswag"], features, np.zeros(2), orgs, orgs, np.array([0.01, np.nan]))
    found = model_facts([frame])
    assert found.loc[("hellaswag", "m/0")].tolist() == [6e20, 0.01]
    assert found.loc[("hellaswag", "m/1")].isna().all()


def test_mixes_are_one_organisations_models(tmp_path: Path) -> None:
    rows = table([0.1, 0.2, 0.3], [0.1, 0.3, 0.2], "abb").replace({"org": {"b": MIXES}})
    again = rows.assign(seed=1, yhat=rows["yhat"] + 0.2)
    ends = {"low80": 0.0, "high80": 0.5, "low90": 0.0, "high90": 0.6}
    found = mixes(pd.concat([rows, again]).assign(**ends))
    assert found["model"].tolist() == ["m/1", "m/2"] and found["yhat"].tolist() == pytest.approx([0.4, 0.3])
    assert found["high90"].tolist() == [0.6, 0.6]
    assert mixes(rows, "nobody").empty
    save(tmp_path / "mixes.png", mixes_figure(found))
    assert (tmp_path / "mixes.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.data
def test_decisions_on_the_papers_labels(paper_store: AnalysisStore) -> None:
    """Who predicts what was measured is always right; who predicts the reverse never is; the mixes are six."""
    frames = task_frames(paper_store, "raw", find_tasks(["hellaswag", "anli"]), freegen=False)
    parts = []
    for frame in frames:
        for name, sign in (("oracle", 1.0), ("reverse", -1.0)):
            rows = {"task": frame.task.key.task, "metric": frame.task.key.metric, "model": frame.ids, "org": frame.org}
            method = {"predictor": name, "features": "scale", "cv": "leave_org_out", "select": "none", "seed": 0}
            parts.append(pd.DataFrame(rows | method | {"fold": frame.org, "y": frame.y, "yhat": sign * frame.y}))
    found = decisions(pd.concat(parts), model_facts(frames))
    assert (found.loc[found["predictor"] == "oracle", "accuracy"] == 1.0).all()
    assert (found.loc[found["predictor"] == "reverse", "accuracy"] == 0.0).all()
    hellaswag = found[(found["task"] == "hellaswag") & (found["scope"] == "all")].iloc[0]
    assert hellaswag["n_pairs"] + hellaswag["n_tied"] == 92 * 91 / 2
    assert 0 < hellaswag["n_beyond_noise"] < hellaswag["n_pairs"] and hellaswag["n_noise_unknown"] == 0
    assert mixes(pd.concat(parts)).groupby("task")["model"].nunique().to_dict() == {"hellaswag": 5, "anli": 6}
