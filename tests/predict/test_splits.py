"""Who is held out, and on whom a predictor is tuned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.model_selection import KFold, train_test_split

from njsl.core.types import ConfigError, DataError
from njsl.predict.splits import Extrapolate, KnownSibling, LeaveGroupOut, RandomFolds
from njsl.store import AnalysisStore
from njsl.store.tasks import find_tasks
from njsl.store.views import TaskFrame, task_frames


@pytest.fixture(scope="module")
def frame(store: AnalysisStore) -> TaskFrame:
    return task_frames(store, "raw", find_tasks("hellaswag"), freegen=False)[0]


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_paper_protocol_by_hand(frame: TaskFrame, seed: int) -> None:
    cv = RandomFolds(folds=3, inner_folds=3, discard_frac=0.2, encoding="ordinal")
    everyone = np.arange(len(frame.y))
    folds = cv.outer(frame, seed)
    assert [fold.name for fold in folds] == ["0", "1", "2"]
    for fold, (train, test) in zip(folds, KFold(3, shuffle=True, random_state=seed).split(everyone), strict=True):
        kept, discarded = train_test_split(train, test_size=0.2, random_state=seed)
        np.testing.assert_array_equal(fold.test, test)
        np.testing.assert_array_equal(fold.train, kept)  # the order too: inner folds depend on it
        assert len(discarded) == 6  # a fifth of 27 or 28, rounded up
        assert not set(fold.train) & set(fold.test)
        inner = cv.inner(frame, fold.train, seed)
        for (fit, score), (a, b) in zip(inner, KFold(3, shuffle=True, random_state=seed).split(kept), strict=True):
            np.testing.assert_array_equal(fit, a)
            np.testing.assert_array_equal(score, b)
    assert cv.average == "folds"


def test_nested_uses_every_training_row(frame: TaskFrame) -> None:
    cv = RandomFolds(folds=4, inner_folds=2, discard_frac=0.0, encoding="native")
    folds = cv.outer(frame, 3)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(frame.y)))
    for fold in folds:
        assert sorted([*fold.train, *fold.test]) == list(range(len(frame.y)))
        assert len(cv.inner(frame, fold.train, 3)) == 2


@pytest.mark.parametrize(("group", "count"), [("org", 8), ("family", 12)])
def test_no_group_on_both_sides(frame: TaskFrame, group: str, count: int) -> None:
    groups = np.array(getattr(frame, group))
    cv = LeaveGroupOut(group=group, inner_folds=3)  # type: ignore[arg-type]
    folds = cv.outer(frame, 0)
    assert [fold.name for fold in folds] == sorted(set(groups))
    assert len(folds) == count
    assert cv.average == "pooled"
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(frame.y)))
    for fold in folds:
        assert set(groups[fold.test]) == {fold.name}
        assert not set(groups[fold.train]) & set(groups[fold.test])
        assert len(fold.train) + len(fold.test) == len(frame.y)
        scored = []
        for fit, score in cv.inner(frame, fold.train, 0):
            assert not set(groups[fold.train[fit]]) & set(groups[fold.train[score]])
            scored += list(score)
        assert sorted(scored) == list(range(len(fold.train)))
        for (a, b), (c, d) in zip(cv.inner(frame, fold.train, 0), cv.inner(frame, fold.train, 9), strict=True):
            assert np.array_equal(a, c) and np.array_equal(b, d)  # the seed is the learner's


def test_too_few_groups(frame: TaskFrame) -> None:
    lone = replace(frame, org=np.where(frame.org == "Qwen", "Qwen", "other").astype(object))
    cv = LeaveGroupOut(group="org", inner_folds=3)
    with pytest.raises(DataError, match=r"task hellaswag: 1 groups \(org\) for 3 inner folds"):
        cv.inner(lone, cv.outer(lone, 0)[0].train, 0)


def test_extrapolate_to_a_threshold(frame: TaskFrame) -> None:
    size = frame.features["total_params"].to_numpy()
    below = float(np.sort(size)[24])
    (fold,) = Extrapolate(by="params", below=below, inner_folds=3).outer(frame, 0)
    assert len(fold.train) == 25 and len(fold.test) == len(size) - 25
    assert size[fold.train].max() == below < size[fold.test].min()  # a model at the threshold is trained on
    assert fold.name == f"params>{below:.3g}"


def test_extrapolate_by_compute_takes_the_largest_fifth(frame: TaskFrame) -> None:
    flops = [
        6.0 * n * d * 1e9
        for n, d in zip(frame.features["total_params"], frame.features["total_tokens_billions"], strict=True)
    ]
    cv = Extrapolate(by="flops", below=None, inner_folds=3)
    (fold,) = cv.outer(frame, 0)
    largest = sorted(range(len(flops)), key=lambda place: flops[place])[-8:]  # of 41: the 80th percentile is the 33rd
    assert sorted(fold.test) == sorted(largest)
    assert len(fold.train) == 33
    inner = cv.inner(frame, fold.train, 1)
    assert sorted(np.concatenate([score for _, score in inner])) == list(range(33))


@pytest.mark.parametrize("below", [1e3, 1e15])
def test_extrapolate_with_nobody_on_one_side(frame: TaskFrame, below: float) -> None:
    with pytest.raises(
        DataError,
        match=r"task hellaswag: params <= 1e\+\d+ leaves \d+ models to train on and \d+ to score; params ranges from",
    ):
        Extrapolate(by="params", below=below, inner_folds=3).outer(frame, 0)


@pytest.mark.parametrize(("factor", "least"), [(2.0, 2), (10.0, 10)])
def test_extrapolate_by_a_factor(frame: TaskFrame, factor: float, least: int) -> None:
    flops = 6e9 * (frame.features["total_params"] * frame.features["total_tokens_billions"]).to_numpy()
    cv = Extrapolate(by="flops", below=None, share=0.5, factor=factor, inner_folds=3)
    (fold,) = cv.outer(frame, 0)
    middle = np.sort(flops)[20]  # of 41
    assert sorted(fold.train) == sorted(np.flatnonzero(flops <= middle))
    assert sorted(fold.test) == [row for row in range(41) if flops[row] / middle >= least]
    assert 0 < len(fold.test) < 20 and fold.name == f"flops>={least}x{middle:.3g}"


def test_a_factor_of_one_is_no_factor(frame: TaskFrame) -> None:
    one = Extrapolate(by="flops", below=None, factor=1.0, inner_folds=3).outer(frame, 0)[0]
    none = Extrapolate(by="flops", below=None, inner_folds=3).outer(frame, 0)[0]
    assert one.name == none.name and np.array_equal(one.train, none.train) and np.array_equal(one.test, none.test)


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.0}, {"factor": 0.5}, {"factor": np.inf}])
def test_extrapolate_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="accepted: a share between 0 and 1, a factor of at least 1"):
        Extrapolate(by="flops", below=None, inner_folds=3, **wrong)


def grouped(frame: TaskFrame, org: list[str], family: list[str], size: list[float]) -> TaskFrame:
    """The first models of a frame under planted groups and sizes."""
    kept = frame.features.iloc[: len(org)].copy()
    kept["total_params"] = size
    return replace(
        frame, features=kept, y=frame.y[: len(org)], org=np.array(org, object), family=np.array(family, object)
    )


def test_known_sibling_by_hand(frame: TaskFrame) -> None:
    org = ["a", "a", "a", "a", "b", "c", "c", "c", "d"]
    family = ["p", "p", "p", "q", "r", "s", "s", "s", "t"]
    ids = frame.features.index[:9]
    planted = grouped(frame, org, family, [3.0, 1.0, 2.0, 5.0, 1.0, 7.0, 4.0, 4.0, 9.0])
    folds = KnownSibling(inner_folds=2).outer(planted, 0)
    tied = [6, 7] if ids[6] < ids[7] else [7, 6]
    # Orgs b and d have no family of two, and q is alone in its org.
    assert [fold.name for fold in folds] == ["a", "c"]
    assert folds[0].train.tolist() == [1, 4, 5, 6, 7, 8] and folds[0].test.tolist() == [0, 2]
    assert folds[1].train.tolist() == sorted([0, 1, 2, 3, 4, tied[0], 8])
    assert folds[1].test.tolist() == sorted([5, tied[1]])
    # Within the first fold's training rows only org c has a family of two, so one inner fold is left.
    ((fit, score),) = KnownSibling(inner_folds=2).inner(planted, folds[0].train, 0)
    assert set(folds[0].train[score]) == {5, tied[1]}
    assert tied[0] in folds[0].train[fit] and not set(fit) & set(score)


def test_known_sibling_scores_whom_it_knows_a_sibling_of(frame: TaskFrame) -> None:
    cv = KnownSibling(inner_folds=3)
    size, family = frame.features["total_params"].to_numpy(), np.array(frame.family)
    whole = {fold.name: fold for fold in LeaveGroupOut(group="org", inner_folds=3).outer(frame, 0)}
    folds = cv.outer(frame, 0)
    assert folds and (cv.average, cv.whole) == ("pooled", "org")
    for fold in folds:
        parts = [(fold.train, fold.test, whole[fold.name].train)]
        parts += [(fold.train[a], fold.train[b], fold.train[a]) for a, b in cv.inner(frame, fold.train, 0)]
        for train, test, others in parts:
            assert not set(train) & set(test)
            for row in test:
                (sibling,) = set(train[family[train] == family[row]])
                assert size[sibling] <= size[row]
            assert set(others) <= set(train)
        added = set(fold.train) - set(whole[fold.name].train)
        assert sorted(family[list(added)]) == sorted(set(family[fold.test]))


def test_known_sibling_without_siblings(frame: TaskFrame) -> None:
    alone = grouped(frame, list("abcd"), list("pqrs"), [1.0, 2.0, 3.0, 4.0])
    with pytest.raises(DataError, match="task hellaswag: no org has a family of two models; use cv=leave_org_out"):
        KnownSibling(inner_folds=2).outer(alone, 0)
    with pytest.raises(DataError, match="no org of the training models has a family of two models"):
        KnownSibling(inner_folds=2).inner(alone, np.arange(4), 0)


@pytest.mark.data
def test_both_sides_of_the_extrapolations_hold_models(paper_store: AnalysisStore) -> None:
    """The paper's own models: every protocol trains on a third of a task's models or more, and scores more than ten."""
    for frame in task_frames(paper_store, "raw", find_tasks("core"), freegen=False):
        for factor in (2.0, 10.0):
            (fold,) = Extrapolate(by="flops", below=None, share=0.5, factor=factor, inner_folds=3).outer(frame, 0)
            assert len(fold.train) > len(frame.y) / 3 and len(fold.test) > 10
