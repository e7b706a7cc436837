"""The task table says what a label is, and names are resolved or refused with help."""

from __future__ import annotations

import pytest

from njsl.core.types import ConfigError
from njsl.store.tasks import find_tasks, task_table

# The paper's 13 task/shot pairs.
CORE = {
    "arc_challenge": ("25-shot", "accuracy"),
    "hellaswag": ("10-shot", "accuracy"),
    "mmlu_0-shot": ("0-shot", "accuracy"),
    "mmlu_5-shot": ("5-shot", "accuracy"),
    "truthfulqa": ("0-shot", "accuracy"),
    "winogrande": ("5-shot", "accuracy"),
    "lambada": ("0-shot", "accuracy"),
    "gsm8k": ("5-shot", "accuracy"),
    "humaneval": ("0-shot", "accuracy"),
    "anli": ("0-shot", "brier_score"),
    "logiqa2": ("0-shot", "brier_score"),
    "xnli": ("0-shot", "brier_score"),
    "mathqa": ("0-shot", "brier_score"),
}
# Choices of each task; none where the answer is written out. Guessing scores 1/K, or 1 - 1/K as a Brier score.
CHOICES = {"arc_challenge": 4, "hellaswag": 4, "mmlu_0-shot": 4, "mmlu_5-shot": 4, "winogrande": 2}
CHOICES |= {"anli": 3, "xnli": 3, "logiqa2": 4, "mathqa": 5}


MICRO = [
    *("code_bpb", "docs_bpb", "prose_bpb", "human_eval_bpb", "code_top1", "docs_top1", "prose_top1"),
    "human_eval_top1",
]
LAST_WORDS = ["code_last_word", "docs_last_word", "prose_last_word"]


def names(asked: object) -> list[str]:
    return [task.key.task for task in find_tasks(asked)]


def test_core_is_the_papers_thirteen() -> None:
    assert {task.key.task: (task.key.setting, task.key.metric) for task in find_tasks("core")} == CORE


def test_direction_follows_the_metric() -> None:
    assert {name: task.higher_is_better for name, task in task_table().items()} == {
        **{name: metric == "accuracy" for name, (_, metric) in CORE.items()},
        **{name: not name.endswith("_bpb") for name in [*MICRO, *LAST_WORDS]},
    }


def test_floor_and_perfect_score() -> None:
    """Accuracy from guessing to 1; Brier from confident guessing among k, 2 (1 - 1/k), to 0; bits from 8 to 0."""
    ends = {name: (task.floor, task.perfect) for name, task in task_table().items()}
    assert ends["winogrande"] == (0.5, 1.0) and ends["code_top1"] == (0.0, 1.0)
    assert ends["logiqa2"] == (1.5, 0.0) and ends["code_bpb"] == (8.0, 0.0)


def test_own_models_are_measured_on_their_corpora() -> None:
    assert names("micro") == MICRO and names("last_words") == LAST_WORDS
    assert {(task.key.setting, *task.benchmarks) for task in find_tasks(["micro", "last_words"])} == {
        *(("0-shot", f"{kind}_{corpus}") for kind in ("heldout", "last_word") for corpus in ("code", "docs", "prose")),
        ("0-shot", "human_eval_bpb"),
    }


@pytest.mark.parametrize("name", CHOICES)
def test_score_of_guessing(name: str) -> None:
    task = task_table()[name]
    expected = 1 / CHOICES[name] if task.higher_is_better else 1 - 1 / CHOICES[name]
    assert task.chance == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["lambada", "gsm8k", "humaneval"])
def test_written_answers_have_no_chance(name: str) -> None:
    assert task_table()[name].chance == 0.0


def test_one_name_a_list_and_a_mix_of_both() -> None:
    assert names("hellaswag") == ["hellaswag"]
    assert names(["mmlu_0-shot", "arc_challenge"]) == ["mmlu_0-shot", "arc_challenge"]
    assert names(["lambada", "core"]) == ["lambada", *(name for name in CORE if name != "lambada")]
    assert names(["xnli", "xnli"]) == ["xnli"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (
            "helaswag",
            [
                "'helaswag' is no task or set",
                "did you mean 'hellaswag'?",
                "accepted: core, last_words, micro, arc_challenge",
            ],
        ),
        (["hellaswag", "mmlu"], ["'mmlu' is no task or set", "mmlu_5-shot"]),
        ("qqqq", ["'qqqq' is no task or set; accepted:"]),
        ([], ["a set's name, a task's name or a list"]),
        (3, ["a set's name, a task's name or a list"]),
        (["hellaswag", 5], ["5 is no task or set"]),
    ],
)
def test_what_is_no_task(asked: object, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        find_tasks(asked)
    for part in expected:
        assert part in str(caught.value)
