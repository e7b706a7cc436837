"""Result files of every known layout become the same rows, and what is unusable is refused in one line."""

from __future__ import annotations

import copy
import csv
import datetime
import importlib.metadata
import importlib.util
import json
import math
import os
import time
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError
from njsl.store import schema
from njsl.store.evals import default_shots, read_evals, result_files
from njsl.store.layouts.scores import assumed_shots
from njsl.store.layouts.values import MAX_BYTES
from njsl.store.overlay import curated

TABLE = "evaluation_results"
KEY = ("benchmark", "setting", "metric")

MODERN: dict[str, Any] = {
    "results": {
        "gsm8k": {
            "exact_match_stderr,strict-match": 0.01,
            "alias": "gsm8k",
            "exact_match,strict-match": 0.5,
            "exact_match,flexible-extract": 0.625,
            "exact_match_stderr,flexible-extract": "N/A",
        },
        "pair": {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "pair"},
        "pair_a": {"acc,none": 0.25, "acc_stderr,none": 0.2, "alias": " - pair_a"},
        "pair_b": {"acc,none": 0.75, "acc_norm,none": 0.5, "alias": " - pair_b"},
    },
    "groups": {"pair": {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "pair"}},
    "group_subtasks": {"pair": ["pair_a", "pair_b"], "gsm8k": []},
    "configs": {
        "gsm8k": {"doc_to_text": "Q: {{q}}", "num_fewshot": 5, "metadata": {"version": 3.0}},
        "pair_a": {"doc_to_text": "{{a}}", "metadata": {"version": 1.0}},
        "pair_b": {"doc_to_text": "{{a}}", "metadata": {"version": 2}},
    },
    "versions": {"gsm8k": 3.0, "pair": "N/A", "pair_a": 1.0},
    "n-shot": {"gsm8k": 5, "pair": 0, "pair_a": 0, "pair_b": 0},
    "n-samples": {"gsm8k": {"original": 1319, "effective": 1319}},
    "config": {
        "model": "hf",
        "model_args": "pretrained=org/Base-7B,dtype=float16,revision=main",
        "model_dtype": "torch.bfloat16",
        "model_sha": "0123abc",
        "limit": None,
    },
    "git_hash": "74d23b2",
    "date": 1739471861.32,  # 2025-02-13 18:37:41 UTC
    "lm_eval_version": "0.4.9",
    "task_hashes": {"gsm8k": "2330f4"},
    "model_name": "org/Base-7B",
    "chat_template_sha": None,
    "system_instruction_sha": None,
    "fewshot_as_multiturn": False,
}
OLD: dict[str, Any] = {
    "results": {
        "hendrycksTest-anatomy": {"acc": 0.25, "acc_stderr": 0.0374, "acc_norm": 0.2, "acc_norm_stderr": 0.03},
        "wikitext": {"word_perplexity": 12.5, "bits_per_byte": 0.7},
    },
    "versions": {"hendrycksTest-anatomy": 1},
    "config": {
        "model": "hf-causal",
        "model_args": "pretrained=org/old,peft=org/adapter,dtype=float32",
        "num_fewshot": 5,
        "limit": None,
    },
}
NESTED: dict[str, Any] = {
    "model_name": "org__Small_1",
    "last_updated": "2024-12-04 11:23:34.423788",
    "results": {
        "harness": {
            "arc:challenge": {"25-shot": {"acc": 0.5, "acc_stderr": 0.125, "timestamp": "2023-08-25T18-42-07.989702"}},
            "gsm8k": {"exact_match": 0.25, "exact_match_stderr": 0.0625, "timestamp": "2024-11-27T11-17-20.652776"},
            "fld": {"x-shot": {"exact_match": "0.0091", "acc_stderr": "0.0026", "timestamp": "2024-04-23 21:12:24.25"}},
            "xnli_de": {"brier_score": 0.75, "brier_score_stderr": "N/A"},
        }
    },
}
LEADERBOARD: dict[str, Any] = {
    "config_general": {
        "lighteval_sha": "494ee1",
        "model_name": "org/board-7b",
        "model_sha": "8443",
        "model_dtype": "torch.bfloat16",
        "start_time": 1781075.6,
    },
    "results": {
        "all": {"acc": 0.4, "mc1": 0.3},
        "harness|arc:challenge|25": {"acc": 0.5, "acc_stderr": 0.01, "acc_norm": 0.55, "acc_norm_stderr": 0.02},
        "harness|truthfulqa:mc|0": {"mc1": 0.3, "mc1_stderr": 0.02, "mc2": math.nan, "mc2_stderr": 0.03},
    },
    "versions": {"all": 0, "harness|arc:challenge|25": 0, "harness|truthfulqa:mc|0": 1},
    "summary_tasks": {"harness|arc:challenge|25": {"hashes": {"hash_examples": "17b0cae357c0259e"}}},
}
BASES = {"modern": MODERN, "old": OLD, "nested": NESTED, "leaderboard": LEADERBOARD}


def write(folder: Path, data: Any, name: str = "results.json") -> Path:
    """A result file in a folder; text and bytes are written as they are."""
    path = folder / name
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def changed(base: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """A copy with other values at dotted places, ``__`` for the dot."""
    data = copy.deepcopy(base)
    for place, value in parts.items():
        *way, last = place.split("__")
        at = data
        for name in way:
            at = at[name]
        at[last] = value
    return data


def scores(path: Path, **options: Any) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The rows of a file by benchmark, setting and metric."""
    return {tuple(row[name] for name in KEY): row for row in read_evals(path, **options).tables[TABLE]}  # type: ignore[misc]


def one_line(path: Path, **options: Any) -> str:
    """The refusal of a file, without the file's name."""
    with pytest.raises(DataError) as caught:
        read_evals(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 600
    return message.removeprefix(f"{path}: ")


def task(results: dict[str, Any]) -> dict[str, Any]:
    """A modern file with one task of the given results."""
    return {"results": {"t": results}, "n-shot": {"t": 0}, "model_name": "org/m"}


# -------------------------------------------------------------------------------------------------------------- layouts


def test_lm_eval_4(tmp_path: Path) -> None:
    folder = tmp_path / "org__Base-7B"
    folder.mkdir()
    records = read_evals(write(folder, MODERN, "results_2025-02-13T18-31-13.501753.json"))
    assert records.left_out == ["aggregate pair: its 2 parts are in the file"]
    assert set(records.tables) == {TABLE} and records.origin.stated_on == datetime.date(2025, 2, 13)
    found = {(row["benchmark"], row["metric"]): row for row in records.tables[TABLE]}
    assert {key: (row["metric_value"], row["metric_stderr"], row["setting"]) for key, row in found.items()} == {
        ("gsm8k", "accuracy"): (0.5, 0.01, "5-shot"),
        ("gsm8k", "accuracy,flexible-extract"): (0.625, None, "5-shot"),
        ("pair_a", "accuracy"): (0.25, 0.2, "0-shot"),
        ("pair_b", "accuracy"): (0.75, None, "0-shot"),
        ("pair_b", "acc_norm"): (0.5, None, "0-shot"),
    }
    row = found["gsm8k", "accuracy"]
    assert {name: row[name] for name in row.keys() - {*KEY, "metric_value", "metric_stderr", "prompt"}} == {
        "id": "org/Base-7B",
        "task_version": "3.0",
        "shots_assumed": False,
        "harness": "lm-eval",
        "harness_version": "0.4.9",
        "task_hash": "2330f4",
        "model_dtype": "bfloat16",
        "model_revision": "0123abc",
        "num_samples": 1319,
        "evaluated_on": datetime.date(2025, 2, 13),
        "source": "org__Base-7B/results_2025-02-13T18-31-13.501753.json",
    }
    # sha256 of {"doc_to_text":"Q: {{q}}"}, reckoned with sha256sum
    assert row["prompt"] == "634ed97c905f"
    assert found["pair_b", "accuracy"]["task_version"] == "2"  # of its config: versions does not name it
    assert found["pair_a", "accuracy"]["prompt"] == found["pair_b", "accuracy"]["prompt"] != row["prompt"]


def test_groups_before_they_were_written_down_are_told_by_their_indentation(tmp_path: Path) -> None:
    data = {
        "results": {
            "anli": {"acc,none": 0.3, "alias": "anli"},
            "anli_r1": {"acc,none": 0.2, "alias": " - anli_r1"},
            "anli_r2": {"acc,none": 0.4, "alias": " - anli_r2"},
            "mathqa": {"acc,none": 0.5, "alias": "mathqa"},
            "alone": {"acc,none": 0.6, "alias": "alone"},
        },
        "groups": {"anli": {"acc,none": 0.3}, "alone": {"acc,none": 0.6}},
        "configs": {name: {"num_fewshot": 0} for name in ("anli_r1", "anli_r2", "mathqa")},
        "n-shot": dict.fromkeys(("anli", "anli_r1", "anli_r2", "mathqa", "alone"), 0),
        "config": {"model_args": "pretrained=org/m,dtype=auto"},
        "git_hash": "8d612ac",
    }
    records = read_evals(write(tmp_path, data))
    assert records.left_out == ["aggregate anli: its 2 parts are in the file"]
    rows = records.tables[TABLE]
    # A group none of whose parts is in the file is the only figure there is.
    assert [row["benchmark"] for row in rows] == ["anli_r1", "anli_r2", "mathqa", "alone"]
    assert {row["harness_version"] for row in rows} == {"git 8d612ac"}
    assert rows[0]["model_dtype"] is None


def test_groups_of_groups(tmp_path: Path) -> None:
    data = {
        "results": {
            "leaderboard": {" ": " ", "alias": "leaderboard"},
            "bbh": {"acc_norm,none": 0.5},
            "bbh_x": {"acc_norm,none": 0.25},
            "bbh_y": {"acc_norm,none": 0.75},
        },
        "group_subtasks": {"leaderboard": ["bbh"], "bbh": ["bbh_x", "bbh_y", "leaderboard"]},  # a circle as well
        "n-shot": {"bbh_x": 3, "bbh_y": 3},
        "model_name": "org/m",
    }
    records = read_evals(write(tmp_path, data))
    assert [row["benchmark"] for row in records.tables[TABLE]] == ["bbh_x", "bbh_y"]
    assert records.left_out == ["aggregate bbh: its 2 parts are in the file"]


def test_lm_eval_3(tmp_path: Path) -> None:
    found = scores(write(tmp_path, OLD, "gpt.json"))
    assert {key: (row["metric_value"], row["metric_stderr"]) for key, row in found.items()} == {
        ("hendrycksTest-anatomy", "5-shot", "accuracy"): (0.25, 0.0374),
        ("hendrycksTest-anatomy", "5-shot", "acc_norm"): (0.2, 0.03),
        ("wikitext", "5-shot", "word_perplexity"): (12.5, None),
        ("wikitext", "5-shot", "bits_per_byte"): (0.7, None),
    }
    row = found["hendrycksTest-anatomy", "5-shot", "accuracy"]
    assert (row["id"], row["task_version"], row["prompt"], row["source"]) == (
        "org/adapter",
        "1",
        "unrecorded",
        "gpt.json",
    )
    assert (row["model_dtype"], row["evaluated_on"], row["shots_assumed"]) == ("float32", None, False)


def test_the_papers_layout(tmp_path: Path) -> None:
    found = scores(write(tmp_path, NESTED))
    day = datetime.date
    assert {
        key: (*(row[n] for n in ("metric_value", "metric_stderr", "shots_assumed", "evaluated_on")),)
        for key, row in found.items()
    } == {
        ("arc:challenge", "25-shot", "accuracy"): (0.5, 0.125, False, day(2023, 8, 25)),
        ("gsm8k", "5-shot", "accuracy"): (0.25, 0.0625, True, day(2024, 11, 27)),
        ("fld", "0-shot", "accuracy"): (0.0091, 0.0026, True, day(2024, 4, 23)),
        ("xnli_de", "0-shot", "brier_score"): (0.75, None, True, day(2024, 12, 4)),
    }
    assert {row["id"] for row in found.values()} == {"org/Small_1"}
    assert (
        {row["task_version"] for row in found.values()} == {row["prompt"] for row in found.values()} == {"unrecorded"}
    )


@pytest.mark.parametrize("later_first", [False, True])
@pytest.mark.parametrize("way", ["a name twice", "both in one task"])
def test_of_two_runs_of_a_task_the_later_is_stored(tmp_path: Path, later_first: bool, way: str) -> None:
    old = '"5-shot": {"acc": 0.5, "acc_stderr": 0.1, "timestamp": "2023-12-03T17-58-16.188347"}'
    new = '"exact_match": 0.25, "exact_match_stderr": 0.2, "timestamp": "2024-06-07T18-26-10.294093"'
    first, last = (new, old) if later_first else (old, new)
    tasks = f'"gsm8k": {{{first}}}, "gsm8k": {{{last}}}' if way == "a name twice" else f'"gsm8k": {{{first}, {last}}}'
    path = write(tmp_path, f'{{"model_name": "org/m", "results": {{"harness": {{{tasks}}}}}}}')
    records = read_evals(path)
    (row,) = records.tables[TABLE]
    assert (row["metric_value"], row["metric_stderr"], row["shots_assumed"]) == (0.25, 0.2, True)
    assert records.left_out == [
        "1 score of an earlier run: the later one is stored, "
        "e.g. gsm8k 5-shot accuracy of 2023-12-03, now of 2024-06-07",
        "shots assumed, which the file does not say: 5-shot (1); --shots TASK=N says otherwise",
    ]


def test_two_runs_of_one_time_are_refused_unless_they_say_the_same(tmp_path: Path) -> None:
    text = '{"model_name": "m", "results": {"harness": {"gsm8k": {"acc": 0.5}, "gsm8k": {"acc": %s}}}}'
    assert len(read_evals(write(tmp_path, text % 0.5)).tables[TABLE]) == 1
    assert "stands twice, and no time says" in one_line(write(tmp_path, text % 0.25))


def test_the_leaderboard_and_lighteval(tmp_path: Path) -> None:
    records = read_evals(write(tmp_path, LEADERBOARD, "results_2023-11-05T07-12-25.json"))
    rows = {(row["benchmark"], row["metric"]): row for row in records.tables[TABLE]}
    assert {key: (row["metric_value"], row["setting"]) for key, row in rows.items()} == {
        ("arc:challenge", "accuracy"): (0.5, "25-shot"),
        ("arc:challenge", "acc_norm"): (0.55, "25-shot"),
        ("truthfulqa:mc", "mc1"): (0.3, "0-shot"),
    }
    assert records.left_out == [
        "1 averages over tasks, e.g. all",
        "1 score without a value (NaN, N/A, null or infinite), e.g. truthfulqa:mc mc2",
    ]
    row = rows["arc:challenge", "accuracy"]
    assert (row["harness"], row["harness_version"], row["task_hash"]) == (
        *("open-llm-leaderboard", "git 494ee1", "17b0cae357c0259e"),
    )
    assert (row["model_dtype"], row["model_revision"], row["task_version"]) == ("bfloat16", "8443", "0")
    assert row["evaluated_on"] == datetime.date(2023, 11, 5)
    light = {
        "config_general": {"lighteval_sha": "?", "model_config": {"model_name": "org/l", "dtype": "float16"}},
        "results": {
            "leaderboard|mmlu:anatomy|5": {"acc": 0.5, "acc_stderr": 0.1},
            "leaderboard|mmlu:_average|5": {"acc": 0.5},
            "lighteval|gsm8k|5|0": {"qem": 0.25, "qem_stderr": 0.1},
            "math_500|0": {"pass@k:k=1&n=1": 0.75},
        },
        "config_tasks": {"lighteval|gsm8k": {"effective_num_docs": 1319}},
    }
    found = scores(write(tmp_path, light))
    assert list(found) == [
        ("leaderboard|mmlu:anatomy", "5-shot", "accuracy"),
        ("lighteval|gsm8k", "5-shot", "qem"),
        ("math_500", "0-shot", "pass@k:k=1&n=1"),
    ]
    assert found["lighteval|gsm8k", "5-shot", "qem"]["num_samples"] == 1319
    assert {(row["id"], row["harness"], row["model_dtype"]) for row in found.values()} == {
        ("org/l", "lighteval", "float16")
    }


@pytest.mark.parametrize(
    "results, expected",
    [
        ({"acc,none": 0.1, "exact_match,none": 0.2}, {"accuracy": 0.1, "exact_match": 0.2}),
        ({"exact_match,none": 0.2, "acc,none": 0.1}, {"accuracy": 0.1, "exact_match": 0.2}),
        (
            {"exact_match,create_test": 0.1, "exact_match,strict-match": 0.2, "exact_match,none": 0.3},
            {"accuracy": 0.3, "exact_match,strict-match": 0.2, "exact_match,create_test": 0.1},
        ),
        ({"exact_match,remove_whitespace": 0.5, "f1,get-answer": 0.25}, {"accuracy": 0.5, "f1,get-answer": 0.25}),
        ({"pass@1,create_test": 0.5, "pass@10,create_test": 0.75}, {"accuracy": 0.5, "pass@10": 0.75}),
        ({"acc,flex": 0.1, "exact_match,flex": 0.2}, {"accuracy,flex": 0.1, "exact_match,flex": 0.2}),
        ({"acc_norm,none": 0.1, "acc_norm,strict-match": 0.2}, {"acc_norm": 0.1, "acc_norm,strict-match": 0.2}),
        ({"bypass,none": 999, "bypass_stderr,none": "N/A", "acc,none": 0.5}, {"accuracy": 0.5}),
    ],
)
def test_names_of_metrics(tmp_path: Path, results: dict[str, float], expected: dict[str, float]) -> None:
    found = scores(write(tmp_path, task(results)))
    assert {metric: row["metric_value"] for (_, _, metric), row in found.items()} == expected


def test_an_error_belongs_to_its_own_metric(tmp_path: Path) -> None:
    results = {"acc_stderr,none": 0.1, "exact_match_stderr,none": 0.2, "exact_match,none": 0.5, "acc,none": 0.25}
    found = scores(write(tmp_path, task(results)))
    assert {metric: (row["metric_value"], row["metric_stderr"]) for (_, _, metric), row in found.items()} == {
        "accuracy": (0.25, 0.1),
        "exact_match": (0.5, 0.2),
    }
    alone = read_evals(write(tmp_path, task({"f1_stderr,none": 0.1, "acc,none": 0.5, "words": 7})))
    assert alone.left_out == [
        "1 entry without a filter in its name is no metric, e.g. t words",
        "1 standard error without a value beside it, e.g. t f1_stderr,none",
    ]
    assert alone.tables[TABLE][0]["metric_stderr"] is None


def test_scores_over_a_part_of_the_documents_are_told(tmp_path: Path) -> None:
    data = changed(MODERN, config__limit=8)
    data["n-samples"]["gsm8k"]["effective"] = 8
    records = read_evals(write(tmp_path, data))
    assert records.left_out[-1] == "documents beyond a limit in 3 tasks, e.g. gsm8k (config.limit 8)"
    assert records.tables[TABLE][0]["num_samples"] == 8


# -------------------------------------------------------------------------------------------------------------- prompts


def prompt(folder: Path, config: dict[str, Any], **top: Any) -> str:
    data = {**task({"acc,none": 0.5}), "configs": {"t": config}, **top}
    (row,) = read_evals(write(folder, data)).tables[TABLE]
    return str(row["prompt"])


def test_the_same_prompt_has_one_checksum_in_all_versions_of_the_harness(tmp_path: Path) -> None:
    source = "def text(doc):\n    return doc['q']\n"
    early = {"doc_to_text": source, "doc_to_target": "{{a}}", "description": "", "fewshot_delimiter": "\n\n"}
    late = {
        **early,
        "gen_prefix": None,
        "unsafe_code": False,
        "num_fewshot": 7,  # has a column of its own
        "fewshot_config": {
            "sampler": "default",
            "samples": None,
            "doc_to_text": "<function text at 0x7f498a388fe0>",
            "doc_to_target": "{{a}}",
            "fewshot_delimiter": "\n\n",
        },
    }
    same = prompt(tmp_path, early)
    assert len(same) == 12 and set(same) <= set("0123456789abcdef")
    assert (
        same == prompt(tmp_path, late) == prompt(tmp_path, late, fewshot_as_multiturn=True, system_instruction_sha=None)
    )
    address = {"doc_to_text": "functools.partial(<function f at 0x7f49>, n=1)"}
    assert prompt(tmp_path, address) == prompt(tmp_path, {"doc_to_text": address["doc_to_text"].replace("7f49", "5a")})


def test_whatever_changes_a_prompt_changes_its_checksum(tmp_path: Path) -> None:
    config = {"doc_to_text": "{{q}}", "doc_to_choice": ["a", "b"], "fewshot_config": {"sampler": "first_n"}}
    variants = [
        prompt(tmp_path, config),
        *(prompt(tmp_path, {**config, name: "x"}) for name in ("doc_to_text", "doc_to_target", "description")),
        *(prompt(tmp_path, {**config, name: "x"}) for name in ("target_delimiter", "fewshot_delimiter", "gen_prefix")),
        prompt(tmp_path, {**config, "doc_to_choice": ["b", "a"]}),
        prompt(tmp_path, {**config, "fewshot_config": {"sampler": "default"}}),
        prompt(tmp_path, {**config, "fewshot_config": {"sampler": "first_n", "doc_to_text": "Q"}}),
        prompt(tmp_path, config, system_instruction_sha="ab"),
        prompt(tmp_path, config, chat_template_sha="ab"),
        prompt(tmp_path, config, chat_template_sha="ab", fewshot_as_multiturn=True),
    ]
    assert len(set(variants)) == len(variants)


# ------------------------------------------------------------------------------------------------------ shots and names


def test_shots_that_are_not_said(tmp_path: Path) -> None:
    path = write(tmp_path, {"model_name": "m", "results": {"harness": {"piqa": {"acc": 0.5}, "mmlu_x": {"acc": 0.5}}}})
    assert one_line(path) == "results: piqa does not say its shots; give them with --shots TASK=N"
    rows = scores(path, shots={"p*": 1, "pi*": 2, "mmlu_x": 3})
    assert list(rows) == [("piqa", "2-shot", "accuracy"), ("mmlu_x", "3-shot", "accuracy")]
    assert all(row["shots_assumed"] for row in rows.values())
    said = changed(NESTED)
    assert ("arc:challenge", "25-shot", "accuracy") in scores(write(tmp_path, said), shots={"arc:challenge": 1})


def test_the_table_of_shots() -> None:
    table = default_shots()
    assert all(0 <= shots <= 25 for shots in table.values()) and len(table) == 21
    with (Path(schema.__file__).parent / "data/shots.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(table) and all(row["source"] for row in rows)


@pytest.mark.parametrize(
    "written, stored",
    [
        ("org/Name-1.5_x", "org/Name-1.5_x"),
        ("org__name", "org/name"),
        ("org__name__v2", "org/name__v2"),
        ("org/name__v2", "org/name__v2"),
        ("llama2_220M", "llama2_220M"),
        ("/data/run/llama", "/data/run/llama"),
        ("__data__run__llama", "/data/run/llama"),
        (" org/m ", "org/m"),
    ],
)
def test_names_of_models(tmp_path: Path, written: str, stored: str) -> None:
    assert {row["id"] for row in scores(write(tmp_path, changed(NESTED, model_name=written))).values()} == {stored}
    other = scores(write(tmp_path, changed(NESTED, model_name="x/y")), identity=written.strip())
    assert {row["id"] for row in other.values()} == {stored}


@pytest.mark.parametrize(
    "name",
    [
        *(
            "model_name",
            "None",
            "../../etc/passwd",
            "a/../b",
            "org/na me",
            "org/\x1b[31m",
            "o" * 201,
            "a'; DROP TABLE x",
        ),
        *("org/\u202eevil", "org/", "org//m", "\ud800", "C:\\models"),
    ],
)
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    assert "--id" in one_line(write(tmp_path, changed(NESTED, model_name=name)))
    assert scores(write(tmp_path, changed(NESTED, model_name=name)), identity="org/m")
    with pytest.raises(DataError, match="--id"):
        read_evals(write(tmp_path, NESTED), identity=name)


def test_no_name(tmp_path: Path) -> None:
    data = changed(NESTED)
    del data["model_name"]
    assert one_line(write(tmp_path, data)) == "model_name: missing; give it with --id"


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "results, words",
    [
        ({"acc,none": 1.25}, "results.t.acc,none: 1.25; 0..1 is accepted; percentages are not"),
        ({"acc,none": 62.5}, "results.t.acc,none: 62.5; 0..1 is accepted; percentages are not"),
        ({"exact_match,flexible-extract": 62.5}, "0..1 is accepted; percentages are not"),
        ({"prompt_level_strict_acc,none": 2}, "0..1 is accepted"),
        ({"acc,none": -0.1}, "results.t.acc,none: -0.1; 0..1 is accepted"),
        ({"acc,none": math.inf}, "results.t.acc,none: inf; 0..1 is accepted"),
        ({"brier_score,none": 2.5}, "0..2 is accepted"),
        ({"word_perplexity,none": 0.5}, "1..inf is accepted"),
        ({"acc,none": 0.5, "acc_stderr,none": -0.5}, "results.t.acc_stderr,none: -0.5; a number from 0 is accepted"),
        ({"acc,none": 0.5, "acc_stderr,none": [0.5]}, "results.t.acc_stderr,none: a list; a number is accepted"),
        ({"acc,none": True}, "results.t.acc,none: True; a number is accepted"),
        ({"acc,none": "half"}, "results.t.acc,none: 'half'; a number is accepted"),
        ({"acc,none": {}}, "results.t.acc,none: an object; a number is accepted"),
        ({"acc,none": 10**400}, "results.t.acc,none: a huge number; a number is accepted"),
        ({"acc,none": math.nan}, "results: no scores, 1 score without a value"),
        ({"acc,none": None}, "results: no scores, 1 score without a value"),
        ({"word_perplexity,none": math.inf}, "results: no scores, 1 score without a value"),
        ({"a\nb,none": 0.5}, "a printable name is accepted"),
        ({}, "results: empty"),
    ],
)
def test_values_that_cannot_be(tmp_path: Path, results: dict[str, Any], words: str) -> None:
    assert words in one_line(write(tmp_path, task(results)))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "not JSON"),
        (b"[]", "a list; an object with results is accepted"),
        (b"null", "None; an object with results is accepted"),
        (b'{"results": ', "line 1: not JSON, truncated or damaged"),
        (b'{"results": "\xff"}', "not UTF-8"),
        (json.dumps(MODERN).encode("utf-16"), "not UTF-8"),
        (b'{"results": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"results": {"t": {"acc,none": 1' + b"0" * 5000 + b"}}}", "not JSON"),
        (b'{"results": {"harness": {}}, "model_name": "m"}', "results: empty"),
        (b'{"results": {}, "config": {}}', "results: empty"),
        (b'{"results": []}', "results: a list; "),
        (b'{"model": 1}', "results: missing; "),
        (b'{"results": {"t": {"acc": 1}}}', "results: unknown layout; "),
        (b'{"results": {"t": {"acc,none": 1}, "t": {"acc,none": 0}}}', "t: stands twice in one object"),
        (b'{"results": {"harness": {"t": {"acc": 1, "acc": 0}}}}', "acc: stands twice in one object"),
        (b'{"results": {"harness": {"t": {"five-shot": {"acc": 1}}}}}', "K-shot or x-shot is accepted"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in one_line(write(tmp_path, content))


def test_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    assert scores(write(tmp_path, b"\xef\xbb\xbf" + json.dumps(OLD).encode())) == scores(write(tmp_path, OLD))


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    assert "no such file" in one_line(tmp_path)
    assert "no such file" in one_line(tmp_path / "no.json")
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert "are accepted" in one_line(large)
    odd = write(tmp_path, NESTED, "a\nb.json")
    with pytest.raises(DataError) as caught:
        read_evals(odd)
    assert "\n" not in str(caught.value)
    locked = write(tmp_path, NESTED, "locked.json")
    locked.chmod(0)
    if not os.access(locked, os.R_OK):
        assert "cannot be read (PermissionError)" in one_line(locked)


PLACES = st.integers(0, 10**6)
JUNK = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just(10**400), st.just("x" * 3000)),
    *(
        st.just([]),
        st.just({}),
        st.just({"acc": 0.5}),
        st.just(["a", 1]),
        st.sampled_from(["5-shot", "0.5", "N/A", "../x"]),
    ),
)


def places(data: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values of a JSON document, the whole included."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [way, *(place for name, part in inner for place in places(part, (*way, name)))]


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    base=st.sampled_from(sorted(BASES)),
    steps=st.lists(st.tuples(PLACES, st.sampled_from(["swap", "drop", "name"]), JUNK), min_size=1, max_size=4),
)
def test_a_damaged_file_is_read_rightly_or_refused_in_one_line(
    tmp_path: Path, base: str, steps: list[tuple[int, str, Any]]
) -> None:
    data: Any = copy.deepcopy(BASES[base])
    for place, what, given_junk in steps:
        junk = copy.deepcopy(given_junk)
        ways = places(data)
        way = ways[place % len(ways)]
        if not way:
            data = junk if what == "swap" else data
            continue
        holder = data
        for name in way[:-1]:
            holder = holder[name]
        if what == "swap":
            holder[way[-1]] = junk
        elif what == "drop":
            del holder[way[-1]]
        elif isinstance(holder, dict):
            holder[str(junk)] = holder.pop(way[-1])
    path = write(tmp_path, data)
    try:
        records = read_evals(path)
    except DataError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error) and str(error).isprintable()
        return
    rows = records.tables.pop(TABLE)
    assert rows and not records.tables and all(line.isprintable() for line in records.left_out)
    for row in rows:
        schema.check_whole(TABLE, schema.check_row(TABLE, row))
    assert len({tuple(row[name] for name in schema.keys(TABLE)) for row in rows}) == len(rows)
    schema.check_row("models", {"id": rows[0]["id"]})
    assert str(tmp_path) not in json.dumps([row["source"] for row in rows])


# ---------------------------------------------------------------------------------------------------- folders and speed


def test_result_files_of_a_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "runs", tmp_path / "outside"
    (folder / "b").mkdir(parents=True)
    outside.mkdir()
    write(outside, MODERN, "results_far.json")
    wanted = [
        write(folder, "broken", "results_2.json"),  # by its name, so that its damage is told
        write(folder, NESTED, "scores.json"),  # by what it holds
        write(folder / "b", MODERN, "results_1.json"),
    ]
    write(folder, {"architectures": ["Llama"]}, "config.json")
    write(folder, {"results": [1, 2]}, "other.json")
    write(folder, "{", "half.json")
    write(folder, MODERN, "samples_gsm8k.jsonl")
    (folder / "results_far.json").symlink_to(outside / "results_far.json")
    (folder / "far").symlink_to(outside)
    (folder / "results_again.json").symlink_to(folder / "b" / "results_1.json")
    found = result_files(folder)
    assert found == sorted(found) and {path.resolve() for path in found} == set(wanted) and len(found) == 3
    assert result_files(wanted[0]) == [wanted[0]]
    for missing in (tmp_path / "no", outside.parent / "outside" / "empty"):
        with pytest.raises(DataError, match="no such file or folder"):
            result_files(missing)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no result files"):
        result_files(tmp_path / "empty")


def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    names = [f"task_{number}" for number in range(50_000)]
    one = {"acc,none": 0.25, "acc_stderr,none": 0.1, "acc_norm,none": 0.5, "acc_norm_stderr,none": 0.1, "alias": "x"}
    data = {
        "results": dict.fromkeys(names, one),
        "n-shot": dict.fromkeys(names, 5),
        "versions": dict.fromkeys(names, 1.0),
        "model_name": "org/m",
    }
    path = write(tmp_path, data)
    start = time.process_time()
    rows = read_evals(path).tables[TABLE]
    used = time.process_time() - start
    print(f"{len(rows)} rows in {used:.2f} CPU-s")
    assert len(rows) == 100_000
    assert used < 4, f"{used:.2f} CPU-s"  # 1.2 where it was measured; room for a busier machine


# ----------------------------------------------------------------------------------------------- what writes such files


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
def test_a_file_of_the_installed_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import lm_eval.evaluator
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)  # it would ask for a network
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(lm_eval.evaluator, "add_tokenizer_info", lambda *_: None)  # and so would the dummy's tokenizer
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")  # a dozen processes
    documents = "".join(json.dumps({"q": f"2+{i}=", "a": i % 2, "t": str(i + 2)}) + "\n" for i in range(8))
    write(tmp_path, documents, "documents.jsonl")
    write(tmp_path, 'def text(doc):\n    return doc["q"] + " "\n', "parts.py")
    common = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/documents.jsonl}}}}\ntest_split: test\n"
    )
    write(
        tmp_path,
        f"""task: tiny_choice
{common}output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: ["3", "4"]
doc_to_target: a
metric_list:
  - {{metric: acc}}
  - {{metric: brier_score, aggregation: brier_score, higher_is_better: false}}
metadata: {{version: 1.0}}
""",
        "choice.yaml",
    )
    write(
        tmp_path,
        f"""task: tiny_text
{common}fewshot_split: test
num_fewshot: 2
output_type: generate_until
doc_to_text: !function parts.text
doc_to_target: "{{{{t}}}}"
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
filter_list:
  - {{name: strict-match, filter: [{{function: take_first}}]}}
  - {{name: flexible-extract, filter: [{{function: regex, regex_pattern: "([0-9]+)"}}, {{function: take_first}}]}}
metadata: {{version: 3}}
""",
        "text.yaml",
    )
    write(
        tmp_path,
        "group: tiny\ntask: [tiny_choice, tiny_text]\naggregate_metric_list: [{metric: acc, filter_list: none}]\n",
        "group.yaml",
    )
    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    answer = lm_eval.simple_evaluate(
        model="dummy",
        model_args="pretrained=org/tiny,dtype=bfloat16",
        tasks=["tiny"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        evaluation_tracker=tracker,
        bootstrap_iters=10,
        limit=6,
    )
    tracker.save_results_aggregated(answer, answer.pop("samples"))
    (path,) = result_files(tmp_path / "out")
    written = json.loads(path.read_text(encoding="utf-8"))
    records = read_evals(path)
    rows = {tuple(row[name] for name in KEY): row for row in records.tables[TABLE]}
    choice, text = written["results"]["tiny_choice"], written["results"]["tiny_text"]
    assert {key: (row["metric_value"], row["metric_stderr"]) for key, row in rows.items()} == {
        ("tiny_choice", "0-shot", "accuracy"): (choice["acc,none"], choice["acc_stderr,none"]),
        ("tiny_choice", "0-shot", "brier_score"): (choice["brier_score,none"], None),
        ("tiny_text", "2-shot", "accuracy"): (text["exact_match,strict-match"], 0.0),
        ("tiny_text", "2-shot", "accuracy,flexible-extract"): (text["exact_match,flexible-extract"], 0.0),
    }
    assert records.left_out == [
        "aggregate tiny: its 2 parts are in the file",
        "documents beyond a limit in 2 tasks, e.g. tiny_choice (config.limit 6)",
    ]
    row = rows["tiny_choice", "0-shot", "accuracy"]
    assert (row["id"], row["num_samples"], row["task_version"], row["model_dtype"]) == (
        "org/tiny",
        6,
        "1.0",
        "bfloat16",
    )
    assert row["harness_version"] == importlib.metadata.version("lm_eval")
    assert row["task_hash"] == written["task_hashes"]["tiny_choice"]
    assert row["source"] == f"org__tiny/{path.name}"
    for row in rows.values():
        schema.check_whole(TABLE, schema.check_row(TABLE, row))
    # What the harness writes for functions of the examples is an address, and no part of the checksum.
    assert "<function text at 0x" in path.read_text(encoding="utf-8")
    before = path.read_text(encoding="utf-8").replace(" at 0x", " at 0x1")
    assert (
        scores(write(tmp_path, before))["tiny_text", "2-shot", "accuracy"]["prompt"]
        == (rows["tiny_text", "2-shot", "accuracy"]["prompt"])
    )


def test_what_train_evaluates(tmp_path: Path) -> None:
    from njsl.train.evaluate import Measure, _results

    model = SimpleNamespace(
        num_parameters=lambda: 10, dtype="torch.float32", device=SimpleNamespace(type="cpu"), config=None
    )
    scorer: Any = SimpleNamespace(folder=tmp_path / "my-model", model=model, window=128, stride=64)
    cfg: Any = SimpleNamespace(batch_size=1, limit=None)
    measure = Measure(
        task="bpb_web",
        key="heldout/web",
        values={"bits_per_byte": 1.5, "loss_nats": 3.0},
        stderrs={"bits_per_byte": None},
        documents=9,
        scored=7,
        sha256="ab" * 32,
        config={"output_type": "loglikelihood_rolling"},
    )
    tasks = {part: MODERN[part] for part in ("results", "configs", "versions", "n-shot", "group_subtasks")}
    found = scores(write(tmp_path, _results([measure], tasks, scorer, cfg)))
    row = found["bpb_web", "0-shot", "bits_per_byte"]
    assert (row["metric_value"], row["id"], row["harness"], row["num_samples"]) == (1.5, "my-model", "njsl", 7)
    assert (row["task_version"], row["task_hash"], row["model_dtype"]) == ("1", "ab" * 32, "float32")
    assert found["gsm8k", "5-shot", "accuracy"]["harness"] == "lm-eval"


# ------------------------------------------------------------------------------------------------------------ the paper


def database(paper_data: Path) -> dict[tuple[str, str, str], dict[str, tuple[float, float | None]]]:
    """The paper's scores and standard errors by model, benchmark and metric, then by setting; NaN where empty."""
    found: dict[tuple[str, str, str], dict[str, tuple[float, float | None]]] = defaultdict(dict)
    with (paper_data / "njsl_2025_03_03" / "evaluation_results.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            stderr = float(row["metric_stderr"]) if row["metric_stderr"] not in ("", "NaN", "nan") else None
            value = float(row["metric_value"] or "nan")
            found[row["id"], row["benchmark"], row["metric"]][row["setting"]] = value, stderr
    return found


@pytest.fixture(scope="session")
def paper_files(paper_data: Path) -> tuple[dict[str, list[dict[str, Any]]], Counter[str], list[str]]:
    """Rows by file of the paper's score files, the refusals, and what was left out."""
    taken: dict[str, list[dict[str, Any]]] = {}
    refused: Counter[str] = Counter()
    left_out = []
    for path in result_files(paper_data / "lm_eval_results"):
        try:
            records = read_evals(path)
        except DataError as error:
            assert "\n" not in str(error)
            refused[str(error).removeprefix(f"{path}: ").split(";")[0]] += 1
            continue
        taken[path.name] = records.tables[TABLE]
        left_out += [line for line in records.left_out if not line.startswith("shots assumed")]
        for row in taken[path.name]:
            schema.check_whole(TABLE, schema.check_row(TABLE, row))
            assert "/" not in row["source"] and row["source"] == path.name
    return taken, refused, left_out


PaperFiles = tuple[dict[str, list[dict[str, Any]]], Counter[str], list[str]]


@pytest.mark.data
def test_the_papers_files_are_taken_or_refused(paper_files: PaperFiles) -> None:
    taken, refused, left_out = paper_files
    assert refused == {
        "results: empty": 17,
        "model_name: 'model_name' is a placeholder": 1,
    }
    assert (len(taken), sum(map(len, taken.values()))) == (107, 12_484)
    assert left_out == [
        "23 scores without a value (NaN, N/A, null or infinite), e.g. anli_r2 brier_score",
        "1 score of an earlier run: the later one is stored, "
        "e.g. gsm8k 5-shot accuracy of 2023-12-03, now of 2024-06-07",
    ]


@pytest.mark.data
def test_the_papers_files_against_its_database(paper_files: PaperFiles, paper_data: Path) -> None:
    taken, table = paper_files[0], database(paper_data)
    assert all(assumed_shots(benchmark, default_shots()) is not None for _, benchmark, _ in table)
    aliases = {entry["old"]: entry["new"] for entry in curated()["model_aliases"]}
    elsewhere: dict[tuple[str, str, str], set[tuple[str, float]]] = defaultdict(set)
    for name, rows in taken.items():
        for row in rows:
            elsewhere[row["id"], row["benchmark"], row["metric"]].add((name, row["metric_value"]))
    classes: Counter[str] = Counter()
    for name, rows in taken.items():
        for row in rows:
            classes[_compare(name, row, table, elsewhere, aliases)] += 1
    another = "the database has another run, in none of the files"
    assert classes == {
        "equal": 11_548,
        "equal, database lacks the error": 276,
        "path, equal": 34,
        # Stored under another metric.
        "em of drop stands as accuracy, equal": 31,
        # MMLU whose shots are assumed to be 0, as in the database; see the test below.
        "mmlu, the database's 0-shot is another run; its 5-shot is this": 177,
        "mmlu, the database's 0-shot is another run; its 5-shot is near": 140,
        "path, mmlu, the database's 0-shot is another run; its 5-shot is this": 106,
        # HellaSwag, Winogrande, GSM8K: one name in the leaderboard's runs and in later ones, and the database has one.
        "the database has the value of the model's other file": 56,
        "the database has the leaderboard's run, whose file is not here": 25,
        f"{another}: EleutherAI/gpt-neo-125M": 1,
        # The paper's own models were evaluated more than once.
        f"{another}: llama2_220M_nl_0_code_100": 20,
        f"{another}: llama2_220M_nl_20_code_80": 20,
        f"{another}: llama2_220M_nl_40_code_60": 19,
        f"path, {another}: llama2_220M_nl_code_shuf-hf": 8,
        f"path, {another}: llama2_220M_nl_only_shuf-hf": 7,
        "path, cell not in the database: llama2_220M_nl_code_shuf-hf": 16,
    }


@pytest.mark.data
def test_the_papers_bare_mmlu_scores_are_of_five_shots(paper_files: PaperFiles, paper_data: Path) -> None:
    """The files do not say the shots and the database says 0; runs whose shots are known say 5."""
    table = database(paper_data)

    def distance(rows: list[dict[str, Any]], name: str, setting: str) -> float | None:
        pairs = [
            (row["metric_value"], table[identity, row["benchmark"].replace("mmlu_", name), "accuracy"][setting][0])
            for row in rows
            for identity in (row["id"], row["id"].rsplit("/", 1)[-1], row["id"].replace("-410M", "-410m"))
            if setting in table.get((identity, row["benchmark"].replace("mmlu_", name), "accuracy"), {})
        ]
        return sum(abs(a - b) for a, b in pairs) / len(pairs) if pairs else None

    told, contradicted = [], []
    for rows in paper_files[0].values():
        bare = [row for row in rows if row["benchmark"].startswith("mmlu_")]
        assert len(bare) in (0, 57) and all(row["shots_assumed"] for row in bare)
        board, five, zero = (
            distance(bare, name, setting)
            for name, setting in (("hendrycksTest-", "5-shot"), ("mmlu_", "5-shot"), ("mmlu_", "0-shot"))
        )
        if board is not None:
            told.append(board)
        if five is not None and zero is not None and zero > 1e-9:
            contradicted.append((five, zero))
    # Against the leaderboard's 5-shot runs of the same models; 0 and 5 shots lie 0.04 apart in the median.
    assert len(told) == 25 and sorted(told)[12] < 0.0065 and sum(one < 0.025 for one in told) == 23
    # Wherever the database has both settings and its 0-shot run is not this very one, this one is the 5-shot run.
    assert len(contradicted) == 9 and all(five < 0.5 * zero for five, zero in contradicted)


def _compare(name: str, row: dict[str, Any], table: Any, elsewhere: Any, aliases: dict[str, str]) -> str:
    """Which of the listed classes a cell of the paper's files belongs to, next to the paper's database."""
    benchmark, metric, setting, value = (row[key] for key in ("benchmark", "metric", "setting", "metric_value"))
    names = [row["id"], aliases.get(row["id"], row["id"]), row["id"].rsplit("/", 1)[-1]]
    identity = next((one for one in names if (one, benchmark, metric) in table), row["id"])
    path = "path, " if row["id"].startswith("/") and identity != row["id"] else ""
    there = table.get((identity, benchmark, metric), {})
    if setting in there:
        stored, error = there[setting]
        if abs(stored - value) <= 1e-9:
            lacks = row["metric_stderr"] is not None and error is None
            same = lacks or error == row["metric_stderr"] or abs(error - row["metric_stderr"]) <= 1e-9
            return path + ("equal" if same else "equal, another standard error") + ", database lacks the error" * lacks
        if any(
            other != name and abs(stored - found) <= 1e-9 for other, found in elsewhere[row["id"], benchmark, metric]
        ):
            return "the database has the value of the model's other file"
        if benchmark.startswith("mmlu_"):
            return f"{path}mmlu, the database's 0-shot is another run; its 5-shot " + (
                "is this"
                if abs(there["5-shot"][0] - value) <= 1e-9
                else "is near"
                if "5-shot" in there
                else "is not there"
            )
        if (identity, "arc:challenge", "accuracy") in table and benchmark in ("hellaswag", "winogrande", "gsm8k"):
            return "the database has the leaderboard's run, whose file is not here"
        return f"{path}the database has another run, in none of the files: {identity}"
    if benchmark == "drop" and metric == "em":
        stored = table[identity, "drop", "accuracy"]["3-shot"][0]
        return "em of drop stands as accuracy" + (", equal" if abs(stored - value) <= 1e-9 else ", other")
    known = {key[0] for key in table}
    path, name = "path, " * row["id"].startswith("/"), names[-1]
    return (
        f"{path}cell not in the database: {name}" if set(names) & known else f"{path}model not in the database: {name}"
    )
