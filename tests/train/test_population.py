"""The design of a population by hand and by its properties, and a sweep of real runs that is killed and goes on."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from njsl.core import config
from njsl.core.types import ConfigError
from njsl.store import AnalysisStore
from njsl.train import population
from train.conftest import ROOT, SMALL, environment


def plain(**more: Any) -> dict[str, Any]:
    return {
        "models": 64,
        "seed": 0,
        "factors": {"a": [1, 2, 3, 4], "b": ["x", "y"]},
        "shared_seeds": [],
        "repeats": [],
    } | more


def experiment(name: str, *overrides: str) -> DictConfig:
    config.register()
    population.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return compose("train", [f"experiment={name}", *overrides])


# ------------------------------------------------------------------------------------------------------- the design


def test_levels_of_a_full_design_are_even() -> None:
    """Of 2**k points of a Sobol' sequence every dyadic interval holds the same number, in each coordinate alone."""
    points = population.design(plain())
    for name, levels in (("a", [1, 2, 3, 4]), ("b", ["x", "y"])):
        counts = [sum(point[name] == level for point in points) for level in levels]
        assert counts == [64 // len(levels)] * len(levels)
    # And in two coordinates together: each of the 8 cells.
    cells = {(a, b): sum(point["a"] == a and point["b"] == b for point in points) for a in range(1, 5) for b in "xy"}
    assert set(cells.values()) == {8}


def test_a_shorter_design_begins_a_longer_one() -> None:
    assert population.design(plain(models=100))[:37] == population.design(plain(models=37))


def test_the_seed_draws_another_design() -> None:
    assert population.design(plain(seed=1)) != population.design(plain())


def test_repeats_have_the_levels_and_another_seed() -> None:
    points = population.design(plain(repeats=[3, 3]))
    assert len(points) == 66
    assert [point["seed"] for point in points] == list(range(66))
    assert points[64] == points[3] | {"seed": 64} and points[65] == points[3] | {"seed": 65}


def test_shared_seeds_train_the_whole_design_with_each() -> None:
    points = population.design(plain(shared_seeds=[5, 2], repeats=[3]))
    assert [point["seed"] for point in points] == [5] * 64 + [2] * 64 + [6]
    own = [point | {"seed": None} for point in population.design(plain())]
    assert [point | {"seed": None} for point in points] == [*own, *own, own[3]]


def test_dirichlet_mixes_are_on_the_simplex_and_have_its_moments() -> None:
    alphas = {"code": 1.0, "docs": 2.0, "prose": 3.0}
    points = population.design(plain(models=512, factors={"mix": [{"dirichlet": alphas}]}))
    shares = np.array([[point["mix"][name] for name in alphas] for point in points])
    assert (shares >= 0).all() and np.allclose(shares.sum(1), 1, atol=1e-9)
    # A Dirichlet's mean is alpha / 6, its variance mean (1 - mean) / 7.
    means = np.array([1, 2, 3]) / 6
    assert np.allclose(shares.mean(0), means, atol=0.005)
    assert np.allclose(shares.var(0), means * (1 - means) / 7, rtol=0.05)
    assert all(len(f"{share:.9f}".rstrip("0").partition(".")[2]) <= 4 for row in shares for share in row)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"models": 0}, r"population\.models: 0; at least 1"),
        ({"repeats": [64]}, r"population\.repeats: point 64; accepted: 0 to 63"),
        ({"shared_seeds": [1, 1]}, r"population\.shared_seeds: \[1, 1\]; different seeds from 0 on"),
        ({"shared_seeds": [-1]}, r"population\.shared_seeds: \[-1\]; different seeds from 0 on"),
        ({"factors": {"a": []}}, r"population\.factors\.a: a list of levels, or \[dirichlet"),
        ({"factors": {"a": 3}}, r"population\.factors\.a: a list of levels"),
        ({"factors": {"a": [{"dirichlet": {"x": 1.0}}]}}, r"population\.factors\.a: a list of levels"),
        ({"factors": {"a": [{"dirichlet": {"x": 1.0, "y": 0.0}}]}}, r"above 0, is accepted"),
    ],
)
def test_a_design_that_cannot_be_is_one_line(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        population.design(plain(**more))


# --------------------------------------------------------------------------------------------------- the experiments


def test_the_shipped_population_is_wide_enough() -> None:
    """What is asked of it: 64 models, sizes and tokens over a factor of 10, 8 mixes from 0 to 100 % code, 3 seeds."""
    points = population.design(OmegaConf.to_container(experiment("population").population))  # type: ignore[arg-type]
    assert len(points) >= 64
    shares = {point["mix"]["code"] for point in points}
    assert len(shares) >= 8 and min(shares) == 0 and max(shares) == 1
    tokens = {point["tokens"] for point in points}
    assert len(tokens) >= 4 and max(tokens) >= 10 * min(tokens)
    assert len({point["size"]["hidden_size"] for point in points}) >= 3
    switches = ("positions", "norm", "mlp", "block", "biases", "tied_head")
    assert sum(len({point[name] for point in points}) > 1 for name in switches) >= 4
    same = [json.dumps({key: value for key, value in point.items() if key != "seed"}) for point in points]
    assert max(same.count(one) for one in same) >= 3
    assert all(abs(sum(point["mix"].values()) - 1) < 1e-9 for point in points)


@pytest.mark.parametrize("name", ["population", "proxies"])
def test_the_sweep_goes_over_all_points(name: str) -> None:
    cfg = experiment(name)
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        whole = compose("train", [f"experiment={name}"], return_hydra_config=True)
    points = population.design(OmegaConf.to_container(cfg.population))  # type: ignore[arg-type]
    assert whole.hydra.sweeper.params["population.point"] == f"range(0,{len(points)})"


def test_a_point_is_what_is_trained() -> None:
    cfg = experiment("population", "population.point=5")
    point = population.design(OmegaConf.to_container(cfg.population))[5]  # type: ignore[arg-type]
    assert cfg.tokens == point["tokens"] and cfg.seed == 5
    assert dict(cfg.data_mix.weights) == point["mix"]
    assert {key: cfg.model[key] for key in point["size"]} == point["size"]
    assert [cfg.model[key] for key in ("positions", "tied_head")] == [point["positions"], point["tied_head"]]


def test_a_model_is_named_by_what_it_learns_from() -> None:
    def name(*overrides: str, of: str = "population") -> str:
        return population.model_sha256(experiment(of, *overrides))

    first = name()
    assert name("trainer.threads=2", "evaluate.last_words=5", "stages=[train]", "population.models=80") == first
    assert (
        len({first, name("population.point=1"), name("seed=7"), name("optim.lr=0.1"), name("data_mix.max_epochs=5")})
        == 5
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("population.point=99", "population.point: 99; accepted: 0 to 75"),
        ("tokens=${point:tokns}", "population.factors: no 'tokns' (did you mean 'tokens'?)"),
        ("tokens=${point:mix.cod}", "population.factors: no 'mix.cod' (did you mean 'code'?)"),
    ],
)
def test_a_wrong_point_is_one_line(override: str, said: str, tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "train.py"), "experiment=population", override, f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1 and said in done.stderr and len(done.stderr.splitlines()) == 1


# --------------------------------------------------------------------------------------------------------- the sweep

POINTS = 3
SWEEP = [
    "-m",
    *SMALL,
    "population.models=2",
    "population.repeats=[1]",
    "+population.factors={mix: [{nl: 0.8, code: 0.2}, {nl: 0.3, code: 0.7}], positions: [rope, learned]}",
    "data_mix.weights={nl: '${point:mix.nl}', code: '${point:mix.code}'}",
    "model.positions=${point:positions}",
    "seed=${point:seed}",
    f"population.point=range(0,{POINTS})",
    "hydra.sweep.subdir=${point_folder:}",
    "+hydra.callbacks.status._target_=njsl.train.population.Status",
    "store.id=sweep/${point_folder:}",
]


def sweep(folder: Path, text: Path, cache: Path, *more: str) -> list[str]:
    where = [f"corpora.path={text}", f"paths.cache={cache}", f"hydra.sweep.dir={folder}"]
    where += [f"store.write={folder}.duckdb"]
    return [sys.executable, str(ROOT / "train.py"), *SWEEP, *where, *more]


def finish(folder: Path, text: Path, cache: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = sweep(folder, text, cache, *more)
    return subprocess.run(
        words, cwd=folder.parent, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


def results(folder: Path) -> dict[str, Any]:
    """What was measured, by run folder; the day of it apart."""
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/results.json"))}
    return {name: result["results"] for name, result in found.items()}


def rows(folder: Path) -> dict[str, list[str]]:
    """Every row of the sweep's store by table, but for the days on which it came about; the order apart."""
    with AnalysisStore.from_existing(f"{folder}.duckdb") as store:
        tables = {name: store.table(name) for name in store.tables}
    days = ["evaluated_on", "stated_on", "measured_on"]
    return {
        name: sorted(row.to_json() for _, row in table.drop(columns=days, errors="ignore").iterrows())
        for name, table in tables.items()
    }


@pytest.fixture(scope="module")
def whole(text: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    done = finish(folder, text, cache)
    assert done.returncode == 0, done.stderr
    assert f"population: {POINTS} finished; " in done.stdout
    return folder


def test_a_status_row_per_point(whole: Path) -> None:
    points = list(csv.DictReader((whole / population.STATUS).open()))
    assert [point["point"] for point in points] == ["0", "1", "2"]
    assert {point["state"] for point in points} == {"finished"}
    assert len(results(whole)) == POINTS
    assert points[1]["mix"] == points[2]["mix"] and points[1]["seed"] != points[2]["seed"]
    assert results(whole)[points[1]["folder"]] != results(whole)[points[2]["folder"]]


def test_the_store_has_every_point(whole: Path) -> None:
    points = list(csv.DictReader((whole / population.STATUS).open()))
    with AnalysisStore.from_existing(f"{whole}.duckdb") as store:
        models, scores = store.models().set_index("id"), store.scores()
    assert sorted(models.index) == sorted(f"sweep/{point['folder']}" for point in points)
    # Two seeds of one point are one family; another point is another.
    assert models.loc[f"sweep/{points[1]['folder']}", "family"] == models.loc[f"sweep/{points[2]['folder']}", "family"]
    assert models["family"].nunique() == 2
    for folder, measured in results(whole).items():
        mine = scores[(scores["id"] == f"sweep/{folder}") & (scores["benchmark"] == "heldout_code")]
        stored = dict(zip(mine["metric"], mine["metric_value"], strict=True))
        assert stored["bits_per_byte"] == measured["heldout_code"]["bits_per_byte,none"]


def test_a_broken_record_is_a_failure_in_the_table(tmp_path: Path) -> None:
    cfg = experiment("population")
    (tmp_path / "002_abc").mkdir()
    (tmp_path / "002_abc" / "run.json").write_text('{"state": "fini')
    points = population.status(cfg, tmp_path)
    assert [point["state"] for point in points[:4]] == ["waiting", "waiting", "failed", "waiting"]
    assert "run.json is no run's record" in points[2]["reason"]
    assert not population.finished(tmp_path / "002_abc")


def test_finished_points_are_skipped(whole: Path, text: Path, cache: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(whole.glob("[0-9]*/*"))}
    stored = rows(whole)
    done = finish(whole, text, cache)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished, skipped") == POINTS
    assert {path: path.stat().st_mtime_ns for path in sorted(whole.glob("[0-9]*/*"))} == before
    assert rows(whole) == stored


def test_a_budget_in_tokens_ends_the_sweep(text: Path, cache: Path, tmp_path: Path) -> None:
    done = finish(tmp_path / "sweep", text, cache, "population.budget_tokens=20000", "stages=[prepare,train]")
    assert done.returncode == 0, done.stderr
    assert "point 1" in done.stdout and "over budget: 24,576 tokens up to here" in done.stdout
    states = [row["state"] for row in csv.DictReader((tmp_path / "sweep" / population.STATUS).open())]
    assert states == ["finished", "waiting", "waiting"]


def test_a_failure_is_listed_and_the_others_run(text: Path, cache: Path, tmp_path: Path) -> None:
    # Point 0 or 1 asks for positions that do not exist.
    factors = "+population.factors={mix: [{nl: 0.8, code: 0.2}], positions: [rope, spiral]}"
    words = [word for word in sweep(tmp_path / "sweep", text, cache) if "population.factors" not in word]
    done = subprocess.run(
        [*words, factors], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert "spiral" in done.stderr and "Traceback" not in done.stderr
    states = [row["state"] for row in csv.DictReader((tmp_path / "sweep" / population.STATUS).open())]
    assert set(states) == {"finished", "failed"}
    assert re.search(r"population: \d failed, \d finished; .*\n  point \d: .*spiral.* accepted: rope", done.stdout)


@pytest.mark.slow
def test_killed_and_shared_by_two_it_ends_the_same(whole: Path, text: Path, cache: Path, tmp_path: Path) -> None:
    """kill -9 at some moments, then two processes side by side: the same results and store, to the last bit."""
    folder = tmp_path / "sweep"
    for wait in np.random.default_rng(0).uniform(6, 14, 3):
        process = subprocess.Popen(
            sweep(folder, text, cache),
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    pair = [
        subprocess.Popen(sweep(folder, text, cache), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    if len(results(folder)) < POINTS:  # one left its last point to the other, which ended before
        assert finish(folder, text, cache).returncode == 0
    assert results(folder) == results(whole)
    assert rows(folder) == rows(whole)
