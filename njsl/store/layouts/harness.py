"""lm-evaluation-harness, from 0.3 on, and what ``train.py`` writes in its layout."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from njsl.core.types import DataError
from njsl.store.layouts.scores import Entry, Found, metrics
from njsl.store.layouts.values import count, epoch, label, mapping, name_day, shown, text, version

# In this order, as the harness itself names a run: an adapter before the model it is put on.
_MODEL_ARGUMENTS = ("peft", "delta", "pretrained", "model", "path", "engine")
_PROMPT = (
    *("doc_to_text", "doc_to_choice", "doc_to_target", "description", "target_delimiter", "fewshot_delimiter"),
    *("gen_prefix", "use_prompt"),
)
_SAMPLER = ("sampler", "samples", "fewshot_indices")
_OVERRIDES = ("doc_to_text", "doc_to_choice", "doc_to_target", "target_delimiter", "fewshot_delimiter", "gen_prefix")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PROMPT_DIGITS = 12
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_OWN = {"harness": "njsl"}  # the measures of train.py evaluate, which slide a window

Shots = Callable[[str], int]


def is_modern(data: Mapping[str, Any]) -> bool:
    """Whether a file is of lm-eval 0.4 or later: its metrics name their filter."""
    tasks = data.get("results")
    named = any("," in name for task in tasks.values() if isinstance(task, dict) for name in task) if tasks else False
    return named or "configs" in data or "n-shot" in data


def is_old(data: Mapping[str, Any]) -> bool:
    """Whether a file is of lm-eval 0.3: bare metrics beside a config."""
    return "config" in data


def read(data: Mapping[str, Any], path: Path, assume: Shots) -> Found:
    """The tasks of a file of lm-evaluation-harness.

    A group's score is left out where the file has scores of its parts.

    Args:
        data: the file.
        path: it.
        assume: the shots of a task of which the file does not say them.

    Raises:
        DataError: a part has the wrong type.
    """
    reader = _Reader(data, assume)
    day = epoch(data.get("date"), "date") or name_day(path)
    found = Found([], _model(data, reader.config), reader.of_all | {"evaluated_on": day}, is_modern(data))
    partial = []
    parts = _group_parts(data)
    for task, results in mapping(data, "results").items():
        if not isinstance(results, dict):
            raise DataError(f"results.{label(task)}: {shown(results)}; an object with metrics is accepted")
        if not any(metrics(tuple(results), found.filtered)):
            continue
        if task not in parts:
            facts, is_partial = reader.facts(task)
            partial += [task] * is_partial
            found.entries.append(Entry(task, ("results", task), results, facts))
        else:
            found.left_out.append(f"aggregate {label(task)}: its {len(parts[task])} parts are in the file")
    if partial:
        told = f"config.limit {shown(reader.config.get('limit'))}"
        found.left_out.append(f"documents beyond a limit in {len(partial)} tasks, e.g. {label(partial[0])} ({told})")
    return found


class _Reader:
    """The parts of a file that tell of its tasks."""

    def __init__(self, data: Mapping[str, Any], assume: Shots) -> None:
        self.config = mapping(data, "config")
        self._data = data
        self._assume = assume
        self._configs = mapping(data, "configs")
        self._shots = mapping(data, "n-shot")
        self._versions = mapping(data, "versions")
        self._samples = mapping(data, "n-samples")
        self._hashes = mapping(data, "task_hashes")
        arguments = _arguments(self.config)
        dtype = text(self.config.get("model_dtype"), "config", "model_dtype") or arguments.get("dtype")
        dtype = None if dtype is None else dtype.removeprefix("torch.")
        revision = text(self.config.get("model_sha"), "config", "model_sha") or arguments.get("revision")
        revision = revision or text(self.config.get("model_revision"), "config", "model_revision")
        self.of_all = {
            "model_dtype": None if dtype == "auto" else dtype,
            "model_revision": None if revision == "main" else revision,  # a branch moves
        }
        released = text(data.get("lm_eval_version"), "lm_eval_version")
        commit = text(data.get("git_hash"), "git_hash")
        if "lm_eval_version" not in data and commit is not None:  # since it is said, the commit is the user's own
            released = f"git {commit}"
        self._harness = {"harness": "lm-eval", "harness_version": released}
        self._chat = text(data.get("chat_template_sha"), "chat_template_sha")
        self._system = text(data.get("system_instruction_sha"), "system_instruction_sha")

    def facts(self, task: str) -> tuple[dict[str, Any], bool]:
        """What the file says of a task beside its scores, and whether only some of its documents were scored."""
        config = mapping(self._configs, task, "configs")
        shots = count(self._shots.get(task), "n-shot", task)
        if shots is None:
            shots = count(config.get("num_fewshot"), "configs", task, "num_fewshot")
        if shots is None and not self._configs:
            shots = count(self.config.get("num_fewshot"), "config", "num_fewshot")
        scored = total = None
        if task in self._samples:
            samples = mapping(self._samples, task, "n-samples")
            scored = count(samples.get("effective"), "n-samples", task, "effective", low=1)
            total = count(samples.get("original"), "n-samples", task, "original")
        metadata = config.get("metadata")
        released = version(self._versions.get(task), "versions", task)
        if released is None and isinstance(metadata, dict):
            released = version(metadata.get("version"), "configs", task, "metadata", "version")
        facts = {
            "setting": f"{self._assume(task) if shots is None else shots}-shot",
            "shots_assumed": shots is None,
            "task_version": released,
            "prompt": self._prompt(config) if config else None,
            "task_hash": text(self._hashes.get(task), "task_hashes", task),
            "num_samples": scored,
            **(_OWN if "window_tokens" in config and "stride_tokens" in config else self._harness),
        }
        limited = self.config.get("limit") is not None if scored is None or total is None else scored < total
        return facts, limited

    def _prompt(self, config: Mapping[str, Any]) -> str:
        """Checksum of what makes a task's prompt, but for the number of shots.

        The first 12 hex digits of the SHA-256 over canonical JSON (sorted keys, no blanks, ASCII) of the task's
        ``doc_to_*``, description, delimiters and ``gen_prefix``, of how its examples are chosen, of what their prompt
        has otherwise than the task's, and of the checksums of chat template and system instruction. Nulls, empty texts
        and the plain sampler count as absent; whether examples are turns of a chat counts with a chat template only;
        functions keep their source or name but not their address in memory. So the same prompt has the same checksum
        in all versions of the harness that record it.
        """
        parts = {name: config[name] for name in _PROMPT if name in config}
        examples = config.get("fewshot_config")
        if isinstance(examples, dict):
            parts |= {name: examples.get(name) for name in _SAMPLER if examples.get(name) != "default"}
            for name in _OVERRIDES:
                if not _alike(examples.get(name), config.get(name)):
                    parts[f"fewshot_{name}"] = examples.get(name)
        parts |= {"chat_template": self._chat, "system_instruction": self._system}
        if self._chat is not None:
            parts["fewshot_as_multiturn"] = self._data.get("fewshot_as_multiturn")
        said = {name: value for name, value in parts.items() if value is not None and value != ""}
        # The same task stands in file after file; but 1 and True are one to a dictionary, so only texts are remembered.
        plain = all(type(value) is str for value in said.values())
        return _checksum(tuple(said.items())) if plain else _checksum.__wrapped__(said.items())


@lru_cache(maxsize=1 << 14)
def _checksum(said: Iterable[tuple[str, Any]]) -> str:
    canonical = _ADDRESS.sub("", _CANONICAL.encode(dict(said)))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:_PROMPT_DIGITS]


def _alike(examples: Any, own: Any) -> bool:
    """Whether a setting of the examples is the task's own; of a function the harness writes the source only once."""
    function = re.match(r"<function (\w+) at 0x", examples) if isinstance(examples, str) else None
    return examples == own or (function is not None and isinstance(own, str) and f"def {function[1]}(" in own)


def _group_parts(data: Mapping[str, Any]) -> dict[str, list[str]]:
    """Groups among the results, each with those of its tasks that are there too."""
    results, configs, groups = (mapping(data, name) for name in ("results", "configs", "groups"))
    subtasks = mapping(data, "group_subtasks")
    found: dict[str, list[str]] = {}
    for name in results:
        if subtasks.get(name):
            parts = list(_leaves(name, subtasks))
        elif name in groups and name not in configs:
            parts = _indented_below(name, results)  # before 0.4.3 only the printed table tells
        else:
            continue
        parts = [part for part in parts if part in results and part != name]
        if parts:
            found[name] = parts
    return found


def _leaves(group: str, subtasks: Mapping[str, Any]) -> Iterator[str]:
    seen = {group}
    waiting = [group]
    while waiting:
        name = waiting.pop()
        parts = subtasks.get(name)
        if parts is not None and not (isinstance(parts, list) and all(isinstance(part, str) for part in parts)):
            raise DataError(f"group_subtasks.{label(name)}: {shown(parts)}; a list of names is accepted")
        if not parts:
            yield name
        for part in reversed(parts or []):
            if part not in seen:
                seen.add(part)
                waiting.append(part)


def _indented_below(group: str, results: Mapping[str, Any]) -> list[str]:
    names = list(results)
    first = _indent(results[group])
    below = []
    for name in names[names.index(group) + 1 :]:
        if _indent(results[name]) <= first:
            break
        below.append(name)
    return below


def _indent(results: Any) -> int:
    alias = results.get("alias") if isinstance(results, dict) else None
    return len(alias) - len(alias.lstrip(" ")) if isinstance(alias, str) else 0


def _model(data: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[str, str] | None:
    for holder, name, where in ((data, "model_name", "model_name"), (config, "model_name", "config.model_name")):
        found = text(holder.get(name), where)
        if found is not None:
            return found, where
    arguments = _arguments(config)
    for name in _MODEL_ARGUMENTS:
        if arguments.get(name):
            return arguments[name], f"config.model_args.{name}"
    return None


def _arguments(config: Mapping[str, Any]) -> dict[str, str]:
    given = config.get("model_args")
    if isinstance(given, dict):
        return {name: value for name, value in given.items() if isinstance(value, str)}
    written = text(given, "config", "model_args") or ""
    pairs = (part.partition("=") for part in written.split(","))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}
