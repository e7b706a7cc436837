"""lm-evaluation-harness on a loaded model: standard tasks, and task files of one's own without a hub."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from njsl.core.config import EvaluateConfig
from njsl.core.types import ConfigError, DataError
from njsl.train.scoring import Scorer, quiet

# The parts of the harness's answer that name tasks; the rest describes the machine.
PARTS = ("results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples")
# Draws for the standard errors that have no closed form, e.g. of a perplexity.
BOOTSTRAP = 1000


def find_tasks(cfg: EvaluateConfig) -> Any:
    """The harness's index of tasks, in which every task of ``cfg.tasks`` stands.

    The harness's own thousands of task files are read only where ``cfg.task_path`` does not hold all tasks asked for.

    Raises:
        ConfigError: the harness is not installed, ``task_path`` is no folder, or a task is unknown.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("evaluate.tasks: needs lm-eval, which is not installed; pip install 'njsl[eval]', or set []")
    folder = None if cfg.task_path is None else Path(cfg.task_path)
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"evaluate.task_path: {folder} is no folder; expected one with task files (.yaml)")
    with quiet():
        from lm_eval.tasks import TaskManager

        if folder is not None:
            own = TaskManager(include_path=str(folder), include_defaults=False)
            # A group of one's own may name tasks of the harness.
            if set(cfg.tasks) <= set(own.all_subtasks):
                return own
        index = TaskManager(include_path=None if folder is None else str(folder))
    for name in cfg.tasks:
        if name not in index.all_tasks:
            close = difflib.get_close_matches(name, index.all_tasks, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(close)}?" if close else "`lm-eval ls tasks` lists them"
            raise ConfigError(f"evaluate.tasks: no task {name!r}; {hint}")
    return index


def run_tasks(scorer: Scorer, index: Any, cfg: EvaluateConfig) -> dict[str, Any]:
    """Run ``cfg.tasks`` and give the harness's answer, as far as it tells of tasks.

    Args:
        scorer: the loaded model.
        index: from ``find_tasks``.
        cfg: relative paths in the files of ``task_path`` start at that folder.

    Returns:
        The harness's ``PARTS`` and ``task_hashes``, as plain JSON values: NaN is null, and the folders of this machine
        are cut from paths.

    Raises:
        ConfigError: the harness cannot run here, e.g. for want of a package.
        DataError: a task cannot be loaded or run.
    """
    import lm_eval.evaluator

    # It would start a dozen processes to describe the machine and the folder it stands in; neither is kept.
    undescribed = mock.patch.multiple("lm_eval.evaluator", add_env_info=mock.DEFAULT, get_git_commit_hash=mock.DEFAULT)
    with quiet(), _uncounted(), undescribed, contextlib.chdir(cfg.task_path or "."):
        try:
            from lm_eval.models.huggingface import HFLM

            model = HFLM(
                pretrained=scorer.model,
                tokenizer=scorer.tokenizer,
                max_length=scorer.window,
                batch_size=cfg.batch_size,
            )
        except ImportError as error:
            raise ConfigError(f"evaluate.tasks: {error}; pip install 'njsl[eval]', or set []") from error
        try:
            answer = lm_eval.simple_evaluate(
                model=model,
                tasks=list(cfg.tasks),
                task_manager=index,
                num_fewshot=cfg.num_fewshot,
                limit=cfg.limit,
                bootstrap_iters=BOOTSTRAP,
            )
        # Task files are code and data of others: what is wrong in them comes out as nearly any error.
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise DataError(
                f"evaluate.tasks: the harness cannot run {', '.join(cfg.tasks)} ({type(error).__name__}: {text})"
            ) from error
        from lm_eval.utils import handle_non_serializable, hash_string
    hashes = {
        # The harness's own recipe, see its EvaluationTracker.
        task: hash_string("".join(one["doc_hash"] + one["prompt_hash"] + one["target_hash"] for one in samples))
        for task, samples in answer["samples"].items()
    }
    parts = {part: answer[part] for part in PARTS if part in answer} | {"task_hashes": hashes}
    plain = json.loads(json.dumps(parts, default=handle_non_serializable))
    folders = [Path(lm_eval.__file__).parent, scorer.folder, *([Path(cfg.task_path)] if cfg.task_path else [])]
    return _public(plain, _spellings([*folders, Path.cwd(), Path.home()]))


def flat(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """``harness/TASK_METRIC`` for every number; a filter other than ``none`` is added to the metric."""
    metrics = {}
    for task, values in results.items():
        for name, value in values.items():
            metric, _, kind = name.partition(",")
            if kind and isinstance(value, int | float):
                metrics[f"harness/{task}_{metric}" + (f"_{kind}" if kind != "none" else "")] = float(value)
    return metrics


@contextlib.contextmanager
def _uncounted() -> Iterator[None]:
    """Within, ``datasets`` tells its makers nothing: a local file is no reason to ask for a network."""
    import datasets

    counted = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counted


def _spellings(folders: Sequence[Path]) -> list[str]:
    """The folders as they may stand in a text, the longest first."""
    found = {path for folder in folders for path in (folder.absolute(), folder.resolve()) if path != path.parent}
    return sorted((f"{path}/" for path in found), key=lambda path: (-len(path), path))


def _public(value: Any, folders: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {key: _public(item, folders) for key, item in value.items()}
    if isinstance(value, list):
        return [_public(item, folders) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if not isinstance(value, str):
        return value
    for folder in folders:
        value = value.replace(folder, "")
    return Path(value).name if re.fullmatch(r"(/[^/\s]+){2,}", value) else value
