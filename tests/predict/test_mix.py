"""``predict.py mode=mix``: which runs are proxies, what is held out, what it finds, and what it refuses."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import mixes
import numpy as np
import pandas as pd
import pytest
import yaml

from njsl.core.types import ConfigError, DataError
from njsl.predict import ledger, mix
from njsl.predict.mixture_laws.mixing_law import MixingLaw
from njsl.predict.mixture_laws.regmix_linear import RegMixLinear
from njsl.predict.proxies import Proxies, SeedDeviation, read_proxies
from njsl.predict.simplex import Space
from njsl.store import AnalysisStore
from njsl.store.tasks import find_tasks

ROOT = Path(__file__).parents[2]
UNSET = ("NJSL_PAPER_DATA", "NJSL_CACHE", "HYDRA_FULL_ERROR", "NETRC")
TASKS = ["code_bpb", "docs_bpb", "prose_bpb"]
WEIGHTS = np.array([0.5, 0.2, 0.3])
OBJECTIVE = "mix.objective={code_bpb: 0.5, docs_bpb: 0.2, prose_bpb: 0.3}"


def call(cwd: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in UNSET and not name.startswith("WANDB_")}
    command = [sys.executable, str(ROOT / "predict.py"), "mode=mix", "store=folder", *map(str, words)]
    environment = {**kept, "OMP_NUM_THREADS": "1", "NJSL_CACHE": str(cwd / "cache")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def read(path: Path, like: str | None = None, tasks: list[str] = TASKS) -> Proxies:
    with AnalysisStore.from_existing(path) as store:
        return read_proxies(store, "raw", find_tasks(tasks), like)


def objective(**asked: float) -> mix.Objective:
    return mix.read_objective(asked)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 mixes of three corpora, one of them with three seeds."""
    return mixes.write(tmp_path_factory.mktemp("mixes") / "db.duckdb", mixes.drawn(24), repeats=[3])


class TestProxies:
    def test_they_are_read_with_shares_scores_and_what_corpora_hold(self, database: Path) -> None:
        found = read(database)
        assert found.corpora == mixes.CORPORA and (found.params, found.tokens) == (1, 500_000)
        assert found.sizes == mixes.TRAIN_TOKENS
        assert list(found.scores) == TASKS and len(found.ids) == 26
        number = found.ids.index("local/p1m05-s0")
        assert found.shares[number] == pytest.approx(mixes.drawn(24)[5])

    def test_seeds_of_a_mix_are_one_mix_though_their_shares_differ(self, database: Path) -> None:
        found = read(database)
        assert found.mixes == 24
        same = {found.mix[found.ids.index(f"local/p1m03-s{seed}")] for seed in range(3)}
        assert len(same) == 1 and (found.mix == same.pop()).sum() == 3

    def test_other_sizes_are_other_proxies(self, tmp_path: Path) -> None:
        path = mixes.write(tmp_path / "db.duckdb", mixes.drawn(12), params=[1, 9])
        with pytest.raises(
            ConfigError, match=r"2 groups of proxies .*mix.like=local/p1m00-s0 \(12 mixes, 1 parameters"
        ):
            read(path)
        found = read(path, like="local/p9m04-s0")
        assert (found.params, found.mixes, found.others) == (9, 12, 12)
        with pytest.raises(ConfigError, match=r"mix\.like: local/p2: no base model"):
            read(path, like="local/p2")

    def test_one_corpus_alone_is_refused(self, tmp_path: Path) -> None:
        path = mixes.write(tmp_path / "db.duckdb", np.ones((12, 1)))
        with pytest.raises(DataError):
            read(path)
        with pytest.raises(DataError, match="all of one corpus, code"):
            read(path, like="local/p1m00-s0")

    def test_too_few_mixes_are_refused(self, tmp_path: Path) -> None:
        path = mixes.write(tmp_path / "db.duckdb", mixes.drawn(7), repeats=range(7))
        with pytest.raises(DataError, match=r"at most 7 mixes .* at least 6 are needed"):
            read(path)
        with pytest.raises(DataError, match=r"7 mixes of models alike .* at least 8 are needed for 3 corpora"):
            read(path, like="local/p1m00-s0")

    def test_seeds_that_all_mixes_share(self, database: Path, tmp_path: Path) -> None:
        assert read(database).shared_seeds == 0
        assert read(mixes.write(tmp_path / "one.duckdb", mixes.drawn(12))).shared_seeds == 1
        found = read(mixes.write(tmp_path / "three.duckdb", mixes.drawn(12), repeats=range(12)))
        assert found.shared_seeds == 3
        assert dataclasses.replace(found, seeds=(0, 1, 3, *found.seeds[3:])).shared_seeds == 0
        assert dataclasses.replace(found, seeds=(None, *found.seeds[1:])).shared_seeds == 0

    def test_the_deviation_over_seeds_by_hand(self, tmp_path: Path) -> None:
        """Seeds that are 1 apart in all mixes, but for one run that is 6 off."""
        found = read(mixes.write(tmp_path / "db.duckdb", mixes.drawn(12), repeats=range(12)))
        values = 10.0 * found.mix + np.array([seed or 0 for seed in found.seeds])
        whole = found.seed_deviation(values)
        assert whole is not None and (whole.freedom, whole.between_freedom) == (2, 22)
        assert (whole.whole, whole.between) == pytest.approx((1.0, 0.0), abs=1e-9)
        values[0] += 6.0
        # Twelve rows of three: what is left of a single outlier is 6 (1 - 1/12) (1 - 1/3) of it, squared and summed.
        rest = 36 * (11 / 12) * (2 / 3) / 22
        assert found.seed_deviation(values).between == pytest.approx(np.sqrt(rest))  # type: ignore[union-attr]
        own = dataclasses.replace(found, seeds=tuple(range(36)))
        assert own.seed_deviation(10.0 * found.mix) == SeedDeviation(0.0, 24, None, None)
        alone = read(mixes.write(tmp_path / "one.duckdb", mixes.drawn(12)))
        assert alone.seed_deviation(np.arange(12.0)) is None

    def test_a_database_without_shares_is_refused(self, export: Path) -> None:
        with pytest.raises(DataError, match="without shares per corpus"):
            read(export, tasks=["hellaswag"])

    def test_a_task_that_was_not_measured_is_refused(self, database: Path) -> None:
        with pytest.raises(DataError, match="at most 0 mixes"):
            read(database, tasks=["code_top1"])


class TestObjective:
    def test_weights_sum_to_one(self) -> None:
        assert objective(code_bpb=3, prose_bpb=1).weights.tolist() == [0.75, 0.25]
        assert mix.read_objective(["code_bpb", "docs_bpb"]).weights.tolist() == [0.5, 0.5]
        assert mix.read_objective("code_bpb").names == ["code_bpb"]

    def test_scores_of_which_more_is_better_are_losses_with_a_sign(self) -> None:
        assert (objective(code_top1=1).sign, objective(code_bpb=1).sign) == (-1, 1)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (None, "a task, a list of tasks or weights by task is accepted"),
            ({}, "weights by task is accepted"),
            ("code_bbp", r"'code_bbp' is no task \(did you mean 'code_bpb'\?\)"),
            ({"code_bpb": 0}, "mix.objective.code_bpb: 0; a weight above 0"),
            ({"code_bpb": "much"}, "a weight above 0"),
            ({"code_bpb": 1, "code_top1": 1}, "some are better higher, some lower"),
        ],
    )
    def test_what_is_none(self, given: object, said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            mix.read_objective(given)


class TestComparison:
    def test_held_out_mixes_are_predicted_by_fits_without_them(self, database: Path) -> None:
        proxies, goal = read(database), objective(code_bpb=1)
        makers = {"regmix_linear": RegMixLinear}
        found = mix.compare(makers, proxies, goal, 0.25, 0, 1)
        aside = np.flatnonzero(~np.isnan(found.held_out["regmix_linear"][:, 0]))
        assert len(aside) == 6
        seen = ~np.isin(proxies.mix, aside)
        y = proxies.scores["code_bpb"].to_numpy()
        line = np.linalg.lstsq(proxies.shares[seen], y[seen], rcond=None)[0]
        for number in aside:
            at = proxies.shares[proxies.mix == number].mean(axis=0)
            assert found.held_out["regmix_linear"][number, 0] == pytest.approx(at @ line)

    def test_scores_of_held_out_mixes_choose_nothing(self, database: Path) -> None:
        proxies, goal = read(database), objective(code_bpb=1)
        makers = {"regmix_linear": RegMixLinear, "mixing_law": MixingLaw}
        before = mix.compare(makers, proxies, goal, 0.25, 0, 1)
        aside = np.flatnonzero(~np.isnan(before.held_out["mixing_law"][:, 0]))
        scores = proxies.scores.copy()
        scores.loc[np.isin(proxies.mix, aside), "code_bpb"] = 9.0
        after = mix.compare(makers, dataclasses.replace(proxies, scores=scores), goal, 0.25, 0, 1)
        for law in makers:
            assert np.array_equal(before.held_out[law], after.held_out[law], equal_nan=True)
        chosen = [
            each.table.loc[(each.table["scored"] == mix.HELD_OUT) & each.table["chosen"], "law"].iloc[0]
            for each in (before, after)
        ]
        assert chosen[0] == chosen[1] == "mixing_law"

    def test_the_law_of_the_lowest_error_is_chosen(self, database: Path) -> None:
        makers = {"regmix_linear": RegMixLinear, "mixing_law": MixingLaw}
        found = mix.compare(makers, read(database), objective(code_bpb=1), 0, 0, 1)
        assert found.chosen == "mixing_law" and not found.held_out
        error = found.table.set_index(["law", "target"])["mae"]
        assert error["mixing_law", "objective"] < error["regmix_linear", "objective"]

    def test_a_score_of_which_more_is_better_is_predicted_as_its_mirror_image(self, database: Path) -> None:
        proxies = read(database)
        y = proxies.scores["code_bpb"].to_numpy()[:, None]
        up = mix.unseen_scores(MixingLaw, proxies.shares, 1 - y / 9, proxies.mix, objective(code_top1=1))
        down = mix.unseen_scores(MixingLaw, proxies.shares, y, proxies.mix, objective(code_bpb=1))
        assert up == pytest.approx(1 - down / 9, abs=1e-4)


@pytest.fixture(scope="module")
def fitted(database: Path) -> tuple[Proxies, mix.Fitted]:
    """The mixing law on all proxies."""
    proxies, goal = read(database), objective(code_bpb=0.5, docs_bpb=0.2, prose_bpb=0.3)
    unseen = mix.unseen_scores(MixingLaw, proxies.shares, proxies.scores.to_numpy(), proxies.mix, goal)
    return proxies, mix.fit("mixing_law", MixingLaw, proxies, goal, unseen)


class TestChoice:
    def test_the_best_mix_is_the_best_of_the_law_behind_the_data(self, fitted: tuple[Proxies, mix.Fitted]) -> None:
        space = Space.of(mixes.CORPORA, {})
        best = space.best(fitted[1].loss, space.sample(256, np.random.default_rng(0)), 0)
        steps = np.array([(a, b, 200 - a - b) for a in range(201) for b in range(201 - a)]) / 200
        true = mixes.losses(steps) @ WEIGHTS
        assert mixes.losses(best[None])[0] @ WEIGHTS < true.min() + 0.003
        assert best == pytest.approx(steps[true.argmin()], abs=0.08)

    def test_regret_is_small_for_the_best_and_what_it_is_for_a_bad_mix(
        self, fitted: tuple[Proxies, mix.Fitted]
    ) -> None:
        proxies, law = fitted
        space = Space.of(mixes.CORPORA, {})
        best = space.best(law.loss, space.sample(256, np.random.default_rng(0)), 0)
        named = np.stack([best, [0.0, 0.0, 1.0]])
        regret = law.regret(named, space.sample(256, np.random.default_rng(1)), proxies.mixes, 0)
        lost = (mixes.losses(named[1:]) - mixes.losses(best[None]))[0] @ WEIGHTS
        assert 0 <= regret[0] < 0.01
        assert regret[1] == pytest.approx(lost, abs=0.02)

    def test_intervals_hold_about_what_they_promise(self, fitted: tuple[Proxies, mix.Fitted]) -> None:
        at = mixes.drawn(400, seed=5)
        low, high = fitted[1].intervals(fitted[1].scores(at))
        y = mixes.losses(at) + 0.005 * np.random.default_rng(2).standard_normal((400, 3))
        measured = np.column_stack([y, y @ WEIGHTS])
        # Of 24 mixes, so that a single target's coverage has a standard deviation of 0.08 over such databases.
        assert ((low <= measured) & (measured <= high)).mean(axis=(1, 2)) == pytest.approx([0.8, 0.9], abs=0.12)

    def test_seeds_that_all_mixes_share_do_not_make_intervals_narrow(self, tmp_path: Path) -> None:
        """Three seeds 0.1 apart: a fourth one is to be expected sqrt(4 / 2) as far from their mean as they are."""
        path = mixes.write(tmp_path / "db.duckdb", mixes.drawn(24), repeats=range(24), noise=1e-4, seed_effect=0.1)
        proxies, goal = read(path), objective(code_bpb=1)
        unseen = mix.unseen_scores(
            MixingLaw, proxies.shares, proxies.scores[["code_bpb"]].to_numpy(), proxies.mix, goal
        )
        found = mix.fit("mixing_law", MixingLaw, proxies, goal, unseen)
        low, high = found.intervals(found.scores(mixes.drawn(50, seed=5)))
        assert (high - low)[1, :, 0] / 2 == pytest.approx(np.full(50, 0.1 * np.sqrt(2)), rel=0.15)

    def test_references(self, fitted: tuple[Proxies, mix.Fitted]) -> None:
        proxies, law = fitted
        best = np.array([0.6, 0.1, 0.3])
        found, absent = mix.references(best, proxies, law.objective, Space.of(mixes.CORPORA, {}), 0)
        assert list(found) == ["best", "uniform", "natural", "best_proxy", "random"] and not absent
        assert found["natural"].tolist() == [0.3, 0.2, 0.5]
        least = int((proxies.scores @ WEIGHTS).to_numpy().argmin())
        assert found["best_proxy"] == pytest.approx(proxies.shares[least], abs=0.002)
        capped = Space.of(mixes.CORPORA, {"prose": [0, 0.4]})
        found, absent = mix.references(best, dataclasses.replace(proxies, sizes=None), law.objective, capped, 0)
        assert "natural" not in found and absent == ["natural (the store does not say how much each corpus holds)"]
        assert all(capped.holds(shares) for shares in found.values())


def test_the_whole_of_it(database: Path, tmp_path: Path) -> None:
    words = [f"store.path={database}", OBJECTIVE, "mixture_law=[regmix_linear,mixing_law]", "workers=1"]
    done = call(tmp_path, *words, "hydra.run.dir=run", "+mix.bounds={docs: [0.05, 1]}")
    assert done.returncode == 0, done.stderr
    assert "26 proxies of 24 mixes" in done.stdout and "law: mixing_law" in done.stdout
    table = pd.read_csv(tmp_path / "run/mixes.csv").set_index("mix")
    best = table.loc["best", ["share_code", "share_docs", "share_prose"]].to_numpy(float)
    assert best.sum() == pytest.approx(1) and best[1] >= 0.05
    steps = np.array([(a, b, 100 - a - b) for a in range(101) for b in range(5, 101 - a)]) / 100
    assert mixes.losses(best[None])[0] @ WEIGHTS < (mixes.losses(steps) @ WEIGHTS).min() + 0.005
    assert (table["objective_low_80"] < table["objective"]).all() and table["expected_regret"].idxmin() == "best"
    mixed = yaml.safe_load((tmp_path / "run/data_mix/best.yaml").read_text())
    assert mixed == {"weights": dict(zip(mixes.CORPORA, best.tolist(), strict=True))}
    laws = pd.read_csv(tmp_path / "run/laws.csv")
    assert len(laws) == 2 * 2 * 4 and laws.groupby("scored")["n_mixes"].first().to_dict() == {
        "held_out": 8,
        "left_out": 24,
    }
    for name in ("proxies.csv", "candidates.csv", "mix.png", "report.txt"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    lines = ledger.read(tmp_path / "outputs/predict/plans.jsonl")
    assert [line["plan"]["name"] for line in lines] == table["plan"].tolist()
    # A finished run says the same again and predicts nothing anew; another folder gets the same bytes.
    again = call(tmp_path, *words, "hydra.run.dir=run", "+mix.bounds={docs: [0.05, 1]}")
    assert again.returncode == 0 and "rank correlation" in again.stdout
    other = call(tmp_path, *words, "hydra.run.dir=other", "+mix.bounds={docs: [0.05, 1]}", "plan.ledger=other.jsonl")
    assert other.returncode == 0, other.stderr
    for name in ("mixes.csv", "laws.csv", "proxies.csv", "candidates.csv", "mix.png"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert len(ledger.read(tmp_path / "outputs/predict/plans.jsonl")) == len(lines)
    # What came of a plan: a score by its name.
    (tmp_path / "truth.csv").write_text(f"plan,task,score\n{table.at['best', 'plan']},code_bpb,2.4\n")
    command = [sys.executable, str(ROOT / "predict.py"), "mode=score", "score.truth=truth.csv", "hydra.run.dir=score"]
    scored = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert scored.returncode == 0, scored.stderr
    row = pd.read_csv(tmp_path / "score/scored.csv").iloc[0]
    assert (row["predictor"], row["task"], row["y"]) == ("mixing_law", "code_bpb", 2.4)


def test_six_mixes_of_two_corpora_are_enough(tmp_path: Path) -> None:
    """Too few to put some aside, and for an interval of 90 %: neither is made up."""
    path = mixes.write(tmp_path / "db.duckdb", mixes.drawn(6, corpora=2))
    words = [f"store.path={path}", "mix.objective=[code_bpb,docs_bpb]", "workers=1", "hydra.run.dir=run"]
    done = call(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "6 proxies of 6 mixes of code, docs" in done.stdout and "no mixes were put aside" in done.stdout
    assert "without a law, by the mean of the other mixes" in done.stdout and "no law is better" not in done.stdout
    assert "every mix was trained with the same seed" in done.stdout and "90 %: so few mixes" in done.stdout
    table = pd.read_csv(tmp_path / "run/mixes.csv")
    assert (table["objective_low_80"] < table["objective_high_80"]).all() and "objective_low_90" not in table
    lines = ledger.read(tmp_path / "outputs/predict/plans.jsonl")
    assert all(line["levels"] == [0.8] and len(line["objective"]["low"]) == 1 for line in lines)


def test_proxies_that_do_not_tell_mixes_apart_are_said_to_be_such(tmp_path: Path) -> None:
    path = mixes.write(tmp_path / "db.duckdb", mixes.drawn(8, corpora=2), noise=0.5)
    words = [f"store.path={path}", "mix.objective=code_bpb", "mixture_law=regmix_linear", "hydra.run.dir=run"]
    done = call(tmp_path, *words, "workers=1")
    assert done.returncode == 0, done.stderr
    with AnalysisStore.from_existing(path) as store:
        y = store.frame(tasks=["code_bpb"])["code_bpb"].to_numpy()
    error = np.mean([abs(y[k] - np.delete(y, k).mean()) for k in range(8)])
    assert f"the MAE on left-out mixes is {error:.4f}: no law is better" in done.stdout


def test_train_takes_the_mix_as_it_is_written(database: Path, tmp_path: Path) -> None:
    (tmp_path / "run/data_mix").mkdir(parents=True)
    (tmp_path / "run/data_mix/best.yaml").write_text("weights:\n  code: 0.602\n  docs: 0\n  prose: 0.398\n")
    words = ["--config-dir=run", "data_mix=best", "corpora=python_env_domains", "--cfg", "job"]
    command = [sys.executable, str(ROOT / "train.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["data_mix"]["weights"] == {"code": 0.602, "docs": 0, "prose": 0.398}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "mix.objective: None; a task, a list of tasks or weights by task is accepted"),
        (["mix.objective=code_bbp"], "mix.objective: 'code_bbp' is no task (did you mean 'code_bpb'?)"),
        ([OBJECTIVE, "+mix.bounds={code: [0.9, 1], docs: [0.9, 1]}"], "mix.bounds: no mix keeps them"),
        ([OBJECTIVE, "+mix.bounds={books: [0, 1]}"], "mix.bounds.books: no corpus of the proxies"),
        ([OBJECTIVE, "mix.heldout_frac=0.9"], "mix.heldout_frac: 0.9; 0 to 0.5 is accepted"),
        ([OBJECTIVE, "mix.candidates=0"], "mix.candidates, mix.seed: 0, 0; from 1 and from 0 on is accepted"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    words: list[str], said: str, database: Path, tmp_path: Path
) -> None:
    done = call(tmp_path, f"store.path={database}", "hydra.run.dir=run", *words)
    assert done.returncode == 1
    assert said in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("*"))
