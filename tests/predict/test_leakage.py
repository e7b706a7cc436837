"""Nothing of a held-out model's scores reaches its prediction: for every predictor, under every protocol.

Two guards. Scores of models outside the training rows are replaced by garbage, and no prediction may change. And on
labels without meaning no procedure may beat the median that they are drawn about. Both are shown to fail where a
procedure does look: a guard that cannot fail guards nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from njsl.predict.base import Predictor
from njsl.predict.evaluate import Unit, context_of, evaluate
from njsl.predict.features import design
from njsl.predict.intervals import conformal
from njsl.predict.predictors.ridge import Ridge
from njsl.predict.select_nested import NestedSelection
from njsl.predict.splits import Fold, LeaveGroupOut, RandomFolds, Splitter
from njsl.predict.tune import Recipe
from njsl.store.tasks import task_table
from njsl.store.views import TaskFrame

CONF = Path(__file__).parents[2] / "conf"
PREDICTORS = sorted(file.stem for file in (CONF / "predictor").glob("*.yaml"))
PROTOCOLS = sorted(file.stem for file in (CONF / "cv").glob("*.yaml"))
NEEDS = {"tabpfn": "tabpfn"}  # optional packages
QUICK = {"n_estimators": 4, "n_starts": 1}  # leaks do not hide in size
SECONDS_A_FIT = ("stack",)  # it fits all others
COLUMNS = ("total_params", "total_tokens_billions", "code_pct", "activation")
TASK = "hellaswag"
SMALL_STACK = "two members"  # of which one reads other tasks' scores, and one is tuned


@cache
def models(count: int = 40) -> TaskFrame:
    """6 organisations of 2 families each; scores follow scale and family."""
    random = np.random.default_rng(0)
    family = np.arange(count) % 12
    features = pd.DataFrame(
        {
            "total_params": np.exp(random.uniform(17, 25, count)),
            "total_tokens_billions": np.exp(random.uniform(3, 9, count)),
            "code_pct": random.uniform(0, 60, count),
            "activation": pd.Categorical(random.choice(["gelu", "silu"], count)),
        },
        index=[f"model-{number:02}" for number in range(count)],
    ).rename_axis("id")
    features.loc[features.index[::7], "code_pct"] = np.nan
    line = 0.03 * np.log(features["total_params"] / 1e9) + 0.02 * np.log(features["total_tokens_billions"] / 500)
    y = (0.45 + line + 0.05 * random.standard_normal(12)[family] + 0.01 * random.standard_normal(count)).to_numpy()
    names = {kind: np.array([f"{kind}-{n}" for n in of], dtype=object) for kind, of in _groups(family).items()}
    return TaskFrame(task_table()[TASK], features, np.clip(y, 0.05, 0.95), names["org"], names["family"])


def _groups(family: np.ndarray) -> dict[str, np.ndarray]:
    return {"org": family // 2, "family": family}


def labels(frame: TaskFrame) -> pd.DataFrame:
    """The task's scores and two other tasks' that go with them, a third of those unknown."""
    random = np.random.default_rng(1)
    table = {TASK: frame.y}
    for name, slope in (("arc_challenge", 0.8), ("winogrande", 0.5)):
        other = 0.2 + slope * frame.y + 0.02 * random.standard_normal(len(frame.y))
        table[name] = np.where(random.random(len(frame.y)) < 1 / 3, np.nan, other)
    return pd.DataFrame(table, index=frame.features.index)


def component(group: str, name: str) -> tuple[type, dict[str, Any]]:
    values = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())[name]
    module, _, kind = values.pop("_target_").rpartition(".")
    return getattr(import_module(module), kind), values


def recipe(name: str, axes_tuned: int = 1) -> Recipe:
    """The predictor as configured, sized down, with two values on its first axes of tuning and one on the others."""
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    kind, values = component("predictor", "stack" if name == SMALL_STACK else name)
    if name == SMALL_STACK:
        at = "njsl.predict.predictors"
        others = {"_target_": f"{at}.multitask.MultiTask", "rank": 1}
        line = {"_target_": f"{at}.ridge.Ridge", "alpha": [0.1, 10.0]}
        members = {"others": (["scale"], others), "line": (["scale", "data"], line)}
        values |= {
            "folds": 2,
            "members": {key: {"features": groups, "predictor": made} for key, (groups, made) in members.items()},
        }
    axes = 0
    for key, value in values.items():
        if isinstance(value, list):
            axes += 1
            values[key] = value[:2] if axes <= axes_tuned else value[0]
    quick = {key: small for key, small in QUICK.items() if key in values}
    return Recipe(name, kind, {**values, **quick})


def guarded(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in SECONDS_A_FIT else name for name in names]


class Lines(Predictor):
    """Least squares on the numbers among the features, gaps at their means: quick."""

    def pack(self, X: pd.DataFrame, y: np.ndarray | None = None, context: Any = None) -> Any:
        return X.select_dtypes("number").to_numpy(), y

    def fit_packed(self, packed: Any) -> Self:
        x, y = packed
        self.means_, self.level_ = np.nanmean(x, axis=0), y.mean()
        self.slopes_ = np.linalg.lstsq(np.nan_to_num(x - self.means_), y - self.level_, rcond=None)[0]
        return self

    def predict_path(self, packed: Any, values: Any) -> list[np.ndarray]:
        return [self.level_ + np.nan_to_num(packed[0] - self.means_) @ self.slopes_]

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        return self.predict_path(self.pack(X), [None])[0]


class OneColumn(Lines):
    """Least squares on the column with this number: what to tune, if not to learn."""

    def __init__(self, *, number: int) -> None:
        self.number = number

    def pack(self, X: pd.DataFrame, y: np.ndarray | None = None, context: Any = None) -> Any:
        return X.to_numpy(), y

    def fit_packed(self, packed: Any) -> Self:
        return super().fit_packed((packed[0][:, [self.number]], packed[1]))

    def predict_path(self, packed: Any, values: Any) -> list[np.ndarray]:
        return super().predict_path((packed[0][:, [self.number]], None), values)


class Only:
    """A protocol's fold number ``which``, alone."""

    def __init__(self, cv: Splitter, which: int) -> None:
        self._cv, self._which = cv, which
        self.average, self.encoding, self.whole = cv.average, cv.encoding, cv.whole

    def outer(self, frame: TaskFrame, seed: int) -> list[Fold]:
        return [self._cv.outer(frame, seed)[self._which]]

    def inner(self, frame: TaskFrame, train: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return self._cv.inner(frame, train, seed)


def protocol(name: str) -> Splitter:
    kind, values = component("cv", name)
    return kind(**values)


def unit(asked: Recipe, cv: Splitter, frame: TaskFrame | None = None, **changes: Any) -> Unit:
    frame = models() if frame is None else frame
    made = Unit(frame, asked, "cv", cv, "mine", "none", COLUMNS, cv.encoding, 0, None, False, labels(frame))
    return replace(made, **changes)


def poisoned(asked: Unit) -> Unit:
    """Garbage for the score, on every task, of every model outside the training rows of the one fold.

    Some of it is NaN: what does arithmetic on it becomes NaN, what passes over missing scores meets the rest.
    """
    frame, table = asked.frame, asked.labels.copy()
    (fold,) = asked.cv.outer(frame, asked.seed)
    outside = np.setdiff1d(np.arange(len(frame.y)), fold.train)
    assert set(fold.test) <= set(outside)
    random = np.random.default_rng(2)
    y = frame.y.copy()
    y[outside] = np.where(np.arange(len(outside)) % 2, np.nan, random.uniform(3, 9, len(outside)))
    table.iloc[outside] = random.uniform(3, 9, (len(outside), table.shape[1]))
    table[TASK] = y
    return replace(asked, frame=replace(frame, y=y), labels=table)


def assert_blind(asked: Unit) -> None:
    """No prediction of the fold changes when scores outside its training rows do."""
    (before,), (after,) = evaluate(asked).folds, evaluate(poisoned(asked)).folds
    assert before.test == after.test and before.columns == after.columns
    assert before.yhat == after.yhat, "held-out scores reach predictions"


@pytest.mark.parametrize("cv", PROTOCOLS)
@pytest.mark.parametrize("predictor", guarded([*PREDICTORS, SMALL_STACK]))
def test_no_predictor_sees_held_out_scores(predictor: str, cv: str) -> None:
    splitter = protocol(cv)
    # Tuning is one function for all protocols; one of them shows what it sees.
    asked = recipe(predictor, 1 if cv == "leave_org_out" else 0)
    assert_blind(unit(asked, Only(splitter, len(splitter.outer(models(), 0)) // 2)))


@pytest.mark.parametrize("cv", PROTOCOLS)
def test_nested_selection_does_not_see_them(cv: str) -> None:
    nested = NestedSelection(("code_pct", "activation"), 1, -1.0)
    assert_blind(unit(Recipe("lines", Lines, {}), Only(protocol(cv), 0), columns=COLUMNS[:2], nested=nested))


@pytest.mark.parametrize(
    "predictor", guarded([name for name in PREDICTORS if "link" in component("predictor", name)[1]])
)
@pytest.mark.parametrize("link", ["identity", "chance", "logit"])
def test_no_link_sees_them(predictor: str, link: str) -> None:
    asked = recipe(predictor)
    assert_blind(unit(replace(asked, params={**asked.params, "link": link}), Only(protocol("leave_org_out"), 1)))


@pytest.mark.parametrize("cv", ["nested", "leave_org_out", "known_sibling"])
def test_conformal_intervals_do_not_see_them(cv: str) -> None:
    def interval(asked: Unit) -> np.ndarray:
        frame = asked.frame
        (fold,) = asked.cv.outer(frame, 0)
        X = design(frame.features, list(asked.columns), asked.encoding)
        train, y = X.iloc[fold.train], frame.y[fold.train]
        context = context_of(asked).only(train.index)
        model = asked.recipe.make({}, 0, frame.task).fit(train, y, context)
        band = conformal(asked.recipe, {}, train, y, context, 0, frame.task)
        return np.stack(band.interval(model.predict(X.iloc[fold.test])))

    asked = unit(Recipe("lines", Lines, {}), Only(protocol(cv), 0))
    np.testing.assert_array_equal(interval(asked), interval(poisoned(asked)))
    # What should move them does.
    y = asked.frame.y.copy()
    y[asked.cv.outer(asked.frame, 0)[0].train] *= 0.5
    assert not np.array_equal(interval(asked), interval(replace(asked, frame=replace(asked.frame, y=y))))


class Peeking(Ridge):
    """Ridge that ends its predictions at the lowest and highest score of all models, as a link fitted too early would.

    ``seen`` is filled from outside by ``unit_of_a_peek``.
    """

    seen: ClassVar[Callable[[], np.ndarray]]

    def fit(self, X: pd.DataFrame, y: np.ndarray, context: Any = None) -> Self:
        super().fit(X, y, context)
        everyone = type(self).seen()
        self.range_ = np.nanmin(everyone), np.nanmax(everyone)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        low, high = self.range_
        return low + (high - low) * super().predict(X)


class Remembering:
    """A protocol that shows ``Peeking`` the frame's scores when it makes folds."""

    def __init__(self, cv: Splitter) -> None:
        self._cv = cv
        self.average, self.encoding, self.whole = cv.average, cv.encoding, cv.whole

    def outer(self, frame: TaskFrame, seed: int) -> list[Fold]:
        Peeking.seen = lambda: frame.y
        return self._cv.outer(frame, seed)

    def inner(self, frame: TaskFrame, train: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return self._cv.inner(frame, train, seed)


def test_a_peek_at_the_range_of_all_scores_is_caught() -> None:
    with pytest.raises(AssertionError, match="held-out scores reach"):
        assert_blind(unit(Recipe("peeking", Peeking, {"alpha": 1.0}), Remembering(Only(protocol("nested"), 0))))


def test_garbage_in_the_training_rows_does_change_predictions() -> None:
    asked = unit(recipe("ridge"), Only(protocol("leave_org_out"), 0))
    y = asked.frame.y.copy()
    y[asked.cv.outer(asked.frame, 0)[0].train[::3]] = 3.0
    changed = replace(asked, frame=replace(asked.frame, y=y))
    assert evaluate(asked).folds[0].yhat != evaluate(changed).folds[0].yhat


# Labels without meaning: drawn one by one, so that the median they are drawn about is as good as it gets. Shuffled
# scores would not do: the mean of the others can be better than their median, and what is left to be predicted lies
# opposite to what was seen.
NOISE = tuple(f"noise_{number:03}" for number in range(200))
FEW = 12  # where all are tried one by one
MIDDLE, SPREAD = 0.5, 0.1
LEVEL = 0.001  # of one test; there are dozens
CVS: dict[str, Splitter] = {
    "nested": RandomFolds(folds=3, inner_folds=3, discard_frac=0.0, encoding="native"),
    "leave_org_out": LeaveGroupOut(group="org", inner_folds=3),
}


@cache
def meaningless(draw: int) -> TaskFrame:
    """The models with scores and columns of noise."""
    frame, random = models(60), np.random.default_rng(100 + draw)
    noise = pd.DataFrame(random.standard_normal((60, len(NOISE))), frame.features.index, NOISE)
    y = MIDDLE + SPREAD * random.standard_normal(60).clip(-2.4, 2.4)
    return replace(frame, features=pd.concat([frame.features, noise], axis=1), y=y)


def gain(yhat: list[np.ndarray], folds: list[Fold], y: np.ndarray) -> float:
    """By how much the error pooled over models is under that of the median labels are drawn about, relative to it."""
    truth = np.concatenate([y[fold.test] for fold in folds])
    least = np.abs(truth - MIDDLE).mean()
    return float(1 - np.abs(truth - np.concatenate(yhat)).mean() / least)


def honest(asked: Unit) -> float:
    """What ``evaluate`` reaches."""
    folds = asked.cv.outer(asked.frame, asked.seed)
    return gain([np.array(fold.yhat) for fold in evaluate(asked).folds], folds, asked.frame.y)


def selected(frame: TaskFrame, cv: Splitter) -> float:
    start = unit(Recipe("lines", Lines, {}), cv, frame, columns=NOISE[:1])
    return honest(replace(start, nested=NestedSelection(NOISE[1:5], 1, 0.0)))


def selected_on_all(frame: TaskFrame, cv: Splitter) -> float:
    """The leak: the columns that go best with the scores of all models, then honest folds."""
    strength = [abs(np.corrcoef(frame.features[name], frame.y)[0, 1]) for name in NOISE]
    best = tuple(NOISE[number] for number in np.argsort(strength)[-4:])
    return honest(unit(Recipe("lines", Lines, {}), cv, frame, columns=best))


def tuned(frame: TaskFrame, cv: Splitter) -> float:
    return honest(unit(Recipe("one", OneColumn, {"number": list(range(FEW))}), cv, frame, columns=NOISE[:FEW]))


def tuned_on_held_out(frame: TaskFrame, cv: Splitter) -> float:
    """The leak: in every fold the column with the least error on the models held out."""
    return _by_held_out(frame, cv, lambda yhat, truth: yhat[np.abs(yhat - truth).mean(axis=1).argmin()])


def stacked_on_held_out(frame: TaskFrame, cv: Splitter) -> float:
    """The leak: weights of a stack learnt from the very predictions that are scored."""
    from scipy.optimize import nnls

    def combine(yhat: np.ndarray, truth: np.ndarray) -> np.ndarray:
        weights, _ = nnls(yhat.T, truth)
        return weights @ yhat

    return _by_held_out(frame, cv, combine)


def _by_held_out(frame: TaskFrame, cv: Splitter, choose: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    X, folds, chosen = design(frame.features, list(NOISE[:FEW]), "native"), cv.outer(frame, 0), []
    for fold in folds:
        train, y = X.iloc[fold.train], frame.y[fold.train]
        fits = [OneColumn(number=number).fit(train, y) for number in range(FEW)]
        chosen.append(choose(np.stack([fit.predict(X.iloc[fold.test]) for fit in fits]), frame.y[fold.test]))
    return gain(chosen, folds, frame.y)


def assert_no_gain(procedure: Callable[[TaskFrame, Splitter], float], cv: str, draws: int = 16) -> None:
    """One-sided t-test of the mean gain over draws of the labels.

    Whoever has not seen a label can at best name its median, so the expected gain is never above 0, whatever the
    procedure: an exact null hypothesis.
    """
    gains = np.array([procedure(meaningless(draw), CVS[cv]) for draw in range(draws)])
    found = stats.ttest_1samp(gains, 0.0, alternative="greater")
    said = f"{100 * gains.mean():.1f} % (p = {found.pvalue:.1g})"
    assert found.pvalue > LEVEL, f"better than the best constant by {said} on labels without meaning"


@pytest.mark.parametrize("cv", CVS)
@pytest.mark.parametrize("procedure", [selected, tuned])
def test_an_honest_procedure_gains_nothing_from_noise(procedure: Callable[..., float], cv: str) -> None:
    assert_no_gain(procedure, cv)


@pytest.mark.parametrize("cv", CVS)
@pytest.mark.parametrize("procedure", [selected_on_all, tuned_on_held_out, stacked_on_held_out])
def test_a_leak_is_caught(procedure: Callable[..., float], cv: str) -> None:
    with pytest.raises(AssertionError, match="better than the best constant"):
        assert_no_gain(procedure, cv)


@pytest.mark.slow
@pytest.mark.parametrize("predictor", [*PREDICTORS, SMALL_STACK])
def test_no_predictor_gains_from_noise(predictor: str) -> None:
    """Whatever it tunes, stacks or links inside; other tasks' scores go with the task's own."""
    asked = recipe(predictor)
    assert_no_gain(lambda frame, cv: honest(unit(asked, cv, frame, columns=(*COLUMNS, *NOISE[:6]))), "leave_org_out")
