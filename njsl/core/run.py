"""The folder of a run: what was asked for, what came of it, and whether the folder may be continued.

A folder belongs to one identity: the resolved config, the inputs, the code and the versions of what computes. The same
identity resumes it; any other is refused, and then not a byte of the folder changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

import njsl
from njsl.core.check import build, locate, supplied
from njsl.core.logger import Logger, NullLogger
from njsl.core.types import ConfigError, Preempted

RECORD, CONFIG = "run.json", "config.yaml"
# Names of which one is installed; the record says under which.
_ALTERNATIVES = {"xgboost": ("xgboost-cpu", "xgboost")}
_LEARNERS = ("scikit-learn", "xgboost", "lightgbm", "shap", "optuna")
_NUMERIC = ("duckdb", "numpy", "pandas", "pyarrow", "scipy", "matplotlib", *_LEARNERS)
_OTHER = ("hydra-core", "omegaconf", "wandb", "torch", "lightning", "transformers", "tokenizers")
_CODE_SUFFIXES = (".py", ".sql", ".yaml", ".csv", ".json", ".parquet")
# Where a run writes and how many processes it uses do not change what it computes.
_NOT_IDENTITY = ("paths", "workers", "logger")
_SECRET_NAME = r"(?:\w*_)?(?:key|token|secret|password)"
_HIDDEN = "***"


class Run:
    """A run's folder and its record ``run.json``; use it as a context manager.

    Entering looks at the folder and builds the logger; nothing is written before ``claim``. Leaving closes the logger
    and records how the run ended.

    Attributes:
        output: the folder.
        logger: where metrics go; it logs nothing before ``claim``.
        finished: whether the claimed folder holds a run that has ended well already; then nothing more is written.

    Raises:
        ConfigError: the folder is a file or holds something else than a run, or the logger cannot be used.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.output = Path(cfg.paths.output)
        self.logger: Logger = NullLogger()
        self.finished = False
        self._configured: Logger = NullLogger()
        self._facts: dict[str, Any] = {}
        self._record: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        self._read()
        node = self.cfg.logger
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise ConfigError("logger: expected a component with _target_; choose one with logger=NAME, see --help")
        wanted = supplied(locate(node["_target_"], "logger._target_"))
        gifts = {"output": self.output, "config": public_config(self.cfg)}
        self._configured = build(node, **{name: gifts[name] for name in wanted})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state, reason = _ending(error)
        try:
            self.logger.close(failed=error is not None and state != "finished")
        finally:
            if self._record is not None and not self.finished:
                self._record |= {"state": state, "exit_reason": reason, "end": _now()}
                self._write()

    def claim(
        self,
        *,
        free: Collection[str] = (),
        step: int | None = None,
        reopen: bool = False,
        **inputs: str | None,
    ) -> None:
        """Make the folder this run's own, or resume it; then start the logger.

        Args:
            free: what may differ when the run is resumed: fields of the config, by their dotted path, that do not
                change what is computed, and ``code`` and ``versions``, whose changes are recorded then.
            step: the step the run goes on from; what the logger has of later ones is dropped. None starts anew.
            reopen: go on in a folder that holds a finished run, too.
            inputs: what names the inputs' content, e.g. ``database=<sha256>``.

        Raises:
            ConfigError: the folder belongs to another identity, or the logger cannot start.
        """
        config = public_config(self.cfg)
        identity = {
            "config": _without(config, {*_NOT_IDENTITY, *free}),
            "inputs": dict(sorted(inputs.items())),
            "code": code_sha256(),
            "versions": {"python": platform.python_version(), **_versions(_NUMERIC)},
        }
        earlier = self._read()
        if earlier is None:
            self.output.mkdir(parents=True, exist_ok=True)
            self._record = self._start(identity)
        else:
            now, then = json.loads(json.dumps(identity)), earlier.get("identity", {})
            bound = [{name: part for name, part in whole.items() if name not in free} for whole in (then, now)]
            changed = list(_differences(bound[0], bound[1]))
            if changed:
                more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
                raise ConfigError(
                    f"hydra.run.dir: {self.output} holds another run ({'; '.join(changed[:3])}{more}); "
                    "choose another hydra.run.dir"
                )
            self._record = earlier
            self.finished = earlier.get("state") == "finished" and not reopen
            if self.finished:
                return
            self._record |= {"state": "running", "exit_reason": None, "end": None}
            self._record.setdefault("resumed_at", []).append(_now())
            if drifted := list(_differences(then, now)):
                self._record.setdefault("changed_at_resume", []).append(drifted)
        self.record()
        if not (self.output / CONFIG).exists():
            # Without the folder's own name: the same inputs give the same bytes wherever they are written.
            shown = {key: value for key, value in config.items() if key != "paths"}
            write_atomic(self.output / CONFIG, OmegaConf.to_yaml(OmegaConf.create(shown)))
        self.logger = self._configured
        self.logger.open(step)

    def record(self, **facts: Any) -> None:
        """Add facts to ``run.json``; those recorded before ``claim`` are written by it."""
        self._facts |= facts
        if self._record is not None and not self.finished:
            self._record["facts"] = self._record.get("facts", {}) | self._facts
            self._write()

    def _start(self, identity: dict[str, Any]) -> dict[str, Any]:
        choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
        overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
        seeds = self.cfg.get("seeds")
        return {
            "argv": [redact(word) for word in sys.argv],
            "overrides": [redact(word) for word in overrides],
            "choices": {str(group): choice for group, choice in choices.items()},
            "git": git_state(),
            "versions": {"python": platform.python_version(), **_versions(_NUMERIC + _OTHER)},
            "seeds": None if seeds is None else list(seeds),
            "start": _now(),
            "end": None,
            "state": "running",
            "exit_reason": None,
            "facts": {},
            "identity": identity,
        }

    def _read(self) -> dict[str, Any] | None:
        """The folder's record; None if the folder is new or empty."""
        if self.output.exists() and not self.output.is_dir():
            raise ConfigError(f"hydra.run.dir: {self.output} is a file; choose another hydra.run.dir")
        path = self.output / RECORD
        if not path.exists():
            # What a kill during the very first write left behind is no content.
            if self.output.exists() and {entry.name for entry in self.output.iterdir()} - {_beside(path).name}:
                raise ConfigError(
                    f"hydra.run.dir: {self.output} is not empty and no run folder (it has no {RECORD}); "
                    "choose another hydra.run.dir"
                )
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"hydra.run.dir: {path} is broken ({error}); choose another hydra.run.dir") from error
        if not isinstance(record, dict):
            raise ConfigError(f"hydra.run.dir: {path} is no run's record; choose another hydra.run.dir")
        return record

    def _write(self) -> None:
        write_atomic(self.output / RECORD, json.dumps(self._record, indent=2, ensure_ascii=False) + "\n")


def cache_folder(given: str | None) -> Path:
    """Where prepared corpora, tokenizers, classifiers and paid answers lie; None is the user's cache folder."""
    if given:
        return Path(given).expanduser().resolve()
    import platformdirs

    return platformdirs.user_cache_path("njsl")


def _without(config: Mapping[str, Any], paths: Collection[str]) -> dict[str, Any]:
    """The config without some fields, given by their dotted paths."""
    inner: dict[str, list[str]] = {}
    for path in paths:
        head, _, rest = path.partition(".")
        inner.setdefault(head, []).append(rest)
    left = {}
    for key, value in config.items():
        taken = inner.get(key, [])
        if "" not in taken:
            left[key] = _without(value, taken) if taken and isinstance(value, Mapping) else value
    return left


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: beside its place first, then renamed.

    Args:
        path: the file; its folder exists.
        content: text, written as UTF-8, or bytes.
    """
    path = Path(path)
    beside = _beside(path)
    beside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    os.replace(beside, path)


def _beside(path: Path) -> Path:
    # One fixed name, so that what a kill leaves behind is overwritten by the next run, not collected.
    return path.with_name(f".{path.name}.tmp")


def public_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain values, fit to be written down: what comes from the environment is only named."""
    plain = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))  # untyped: a name may stand for a number
    with _named_environment():
        values = OmegaConf.to_container(plain, resolve=True)
    assert isinstance(values, dict)
    return _without_secrets(values)


@contextlib.contextmanager
def _named_environment() -> Iterator[None]:
    """Within, ``${oc.env:NAME}`` yields ``$NAME`` instead of the variable's value."""
    OmegaConf.register_new_resolver("oc.env", lambda name, *default: f"${name}", replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _HIDDEN if item and re.fullmatch(_SECRET_NAME, str(key), re.IGNORECASE) else _without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return _without_environment(value) if isinstance(value, str) else value


def redact(text: str) -> str:
    """A word of the command line, or a message, without secrets.

    Hidden are values whose key's last dotted word is, or ends in ``_`` and, one of key, token, secret, password
    (``total_tokens`` is none), and every value of an environment variable of such a name.
    """
    pattern = rf"(?i)(?<!\w)({_SECRET_NAME})(\s*[=:]\s*)"
    if re.match(rf"(?i)[+~\-]*(?:[\w@/\-]+\.)*{_SECRET_NAME}=", text):
        return text.partition("=")[0] + "=" + _HIDDEN
    return _without_environment(re.sub(pattern + r"(\"[^\"]*\"|'[^']*'|[^\s,}\]]+)", rf"\1\2{_HIDDEN}", text))


def _without_environment(text: str) -> str:
    for name, value in os.environ.items():
        # Shorter values would blot out ordinary words.
        if len(value) >= 8 and re.fullmatch(_SECRET_NAME, name, re.IGNORECASE):
            text = text.replace(value, _HIDDEN)
    return text


def config_sha256(cfg: DictConfig, *, without: Collection[str] = ()) -> str:
    """SHA-256 [hex] of the resolved config, but for where a run writes, its logger and its processes.

    Null is as good as absent, so that a field that njsl adds later changes no checksum.

    Args:
        cfg: the composed config, with Hydra's own part or without.
        without: further fields of the top level that do not count.
    """
    left_out = {"hydra", *_NOT_IDENTITY, *without}
    plain = {
        str(key): OmegaConf.to_container(cfg[key], resolve=True) if OmegaConf.is_config(cfg[key]) else cfg[key]
        for key in cfg
        if key not in left_out
    }
    return hashlib.sha256(json.dumps(_without_null(plain), sort_keys=True).encode()).hexdigest()


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_null(item) for key, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value


def code_sha256() -> str:
    """SHA-256 over the names and bytes of the installed package: its code and the data shipped with it."""
    root = Path(njsl.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix()):
        if path.suffix in _CODE_SUFFIXES and path.is_file():
            digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the repository that tracks the code; None for both outside git."""
    folder = Path(njsl.__file__).parent

    def git(*words: str) -> str | None:
        command = ["git", "--no-optional-locks", "-C", str(folder), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    # A package installed into some project's virtual environment is not tracked by that project.
    if git("ls-files", "--error-unmatch", "__init__.py") is None or (sha := git("rev-parse", "HEAD")) is None:
        return {"sha": None, "dirty": None}
    status = git("status", "--porcelain")
    return {"sha": sha.strip(), "dirty": None if status is None else bool(status.strip())}


def _versions(names: tuple[str, ...]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in names:
        found[name] = None
        for distribution in _ALTERNATIVES.get(name, (name,)):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(distribution)
                break
    return found


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """What differs between two identities, as dotted paths with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*new, *(key for key in old if key not in new)]:
            # The config's own paths are what a user knows; the other parts keep their names.
            inner = f"{path}.{key}" if path else ("" if key in ("config", "inputs") else str(key))
            yield from _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), inner)
    elif old != new:
        yield path if path == "code" else f"{path}: {_short(old)} -> {_short(new)}"


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    if re.fullmatch(r"[0-9a-f]{40,64}", text):
        return text[:12]
    return text if len(text) <= 60 else text[:57] + "..."


def _ending(error: BaseException | None) -> tuple[str, str]:
    """State and exit reason for the exception a run ended with."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "finished", "finished"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "interrupted"
    if isinstance(error, Preempted):
        return "interrupted", "stopped at a checkpoint to make room"
    text = " ".join(str(error).split())
    name = "" if type(error).__module__ == "njsl.core.types" else f"{type(error).__name__}: "
    return "failed", redact(f"failed: {name}{text}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
