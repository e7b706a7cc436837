"""What the entry files share: one line per error instead of a traceback, and the way from a config to a verb.

Nothing heavy is imported here, so ``--help`` costs Hydra and no more.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from njsl.core import config
from njsl.core.check import check, meant, unknown
from njsl.core.types import ConfigError, NjslError

USER_ERRORS = (NjslError, HydraException, OmegaConfBaseException, OSError, yaml.YAMLError)
# Fits are spread over processes; threads inside each would only fight over the same cores.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_full_error = False


def one_line_errors(main: Callable[[], None]) -> None:
    """Run a Hydra main; what a user can mend is one line on stderr and exit code 1, a bug is a traceback.

    With ``HYDRA_FULL_ERROR=1`` in the environment everything is a traceback.

    Args:
        main: a function decorated with ``hydra.main``.
    """
    global _full_error
    ConfigStore.instance().__deepcopy__ = _same_store  # type: ignore[attr-defined]
    for name in _THREADS:
        os.environ.setdefault(name, "1")
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        _full_error = True
        main()
        return
    # Hydra then raises instead of printing a traceback of its own and exiting.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    show_usage, argparse.ArgumentParser.error = argparse.ArgumentParser.error, _raise_usage  # type: ignore[method-assign]
    try:
        main()
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)
    except Exception as error:
        if not getattr(error, "reported", False):
            if not isinstance(error, USER_ERRORS) and not _raised_by_hydra(error):
                raise
            _say(one_line(error))
        sys.exit(1)
    finally:
        argparse.ArgumentParser.error = show_usage  # type: ignore[method-assign]


def verb(name: str, cfg: DictConfig) -> None:
    """Check a config, open its run folder and run the verb.

    Args:
        name: a key of ``config.SCHEMAS``; its package has ``run.run(cfg, run)``.
        cfg: the composed config.
    """
    hydra_cfg = HydraConfig.get()
    try:
        check(cfg, config.SCHEMAS[name])
        from njsl.core.run import Run

        story = importlib.import_module(f"njsl.{name}.run")
        with Run(cfg) as run:
            story.run(cfg, run)
    except Exception as error:
        _remove_if_empty(Path(hydra_cfg.runtime.output_dir))
        mendable = isinstance(error, USER_ERRORS)
        if hydra_cfg.mode == RunMode.MULTIRUN and not _full_error:
            # The other jobs still run, and of all errors Hydra raises only the first, at the end: so this is said now.
            _say(f"job {hydra_cfg.job.num} ({hydra_cfg.job.override_dirname}): {one_line(error)}")
            if not mendable:
                traceback.print_exc()
            error.reported = True  # type: ignore[attr-defined]
            raise
        if _full_error or not mendable:
            raise
        # Hydra writes a line of its own about an exception, but lets an exit pass.
        _say(one_line(error))
        sys.exit(1)


def one_line(error: BaseException) -> str:
    """An error's message as one line, without what only helps Hydra's own developers."""
    cause = error.__cause__
    if isinstance(error, HydraException) and isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
        parent = cause.parent_node
        if isinstance(parent, DictConfig) and cause.full_key:
            path, _, key = str(cause.full_key).rpartition(".")
            return str(unknown(path, key, [str(known) for known in parent if path or known != "hydra"]))
    text = str(error)
    if isinstance(error, (FileExistsError, NotADirectoryError)) and error.filename and _raised_by_hydra(error):
        key = "hydra.sweep.dir" if {"-m", "--multirun"} & set(sys.argv) else "hydra.run.dir"
        return f"{key}: {error.filename!r} cannot be a folder, a file is in its place; choose another {key}"
    if isinstance(error, HydraException):
        if (missing := _missing_option(text)) is not None:
            return missing
        merging = re.match(r"(In '[^']+': )\w+ raised while composing config:\n(.*)", text, re.DOTALL)
        if merging is not None:
            return merging[1] + _merge_fault(merging[2])
        text = re.sub(r"Config search path:.*", "", text, flags=re.DOTALL)
        text = re.sub(r"Set the environment variable HYDRA_FULL_ERROR.*|See https?://\S+ for details", "", text)
        if isinstance(cause, OmegaConfBaseException):
            text = f"{text}: {_without_types(str(cause))}"
    elif isinstance(error, OmegaConfBaseException):
        text = _without_types(text)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(text.split()) or type(error).__name__


def _missing_option(text: str) -> str | None:
    """An option that does not exist, with those that do: Hydra lists them for ``group=x`` but not ``group=[x]``."""
    missing = re.search(r"Could not (?:find|load) '([\w/]+)/([^'/]+)'", text)
    if missing is None:
        return None
    folders = [Path(folder) / missing[1] for folder in re.findall(r"path=file://(\S+)", text)]
    told = re.findall(r"^\t([\w\-]+)$", text.partition("Available options")[2], flags=re.MULTILINE)
    options = sorted({*told, *(file.stem for folder in folders for file in folder.glob("*.yaml"))})
    listed = f"accepted: {', '.join(options)}" if options else "the group has no options"
    return f"{missing[1]}: there is no {missing[2]!r}{meant(missing[2], options)}; {listed}"


def _merge_fault(text: str) -> str:
    """A yaml that does not fit the schema: Hydra gives OmegaConf's message as text."""
    found = re.match(r"Key '([^']+)' not in '(\w+)'\s+full_key: (\S+)", text)
    schema = getattr(config, found[2], None) if found else None
    if found is None or not dataclasses.is_dataclass(schema):
        return _without_types(text)
    path = found[3].rpartition(".")[0]
    return str(unknown(path, found[1], [field.name for field in dataclasses.fields(schema)]))


def _without_types(text: str) -> str:
    """OmegaConf's message with the key in front and without the lines about its own types."""
    lines = text.splitlines()
    keys = [line.partition(":")[2].strip() for line in lines if line.strip().startswith("full_key:")]
    message = " ".join(line.strip() for line in lines if not re.match(r"\s*(full_key:|\w+_type=)", line))
    message = re.sub(r"\w+ is not a ListConfig, list or tuple", "expected a list", message)
    return f"{keys[0]}: {message}" if keys and keys[0] else message


def _raised_by_hydra(error: BaseException) -> bool:
    """Whether Hydra itself raised this: Hydra reports some bad overrides as a bare ValueError."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    package = str(Path(hydra.__file__).parent)
    # A folder that cannot be made fails inside pathlib, called by Hydra: the last frame outside the library counts.
    outside = [frame for frame in frames if Path(frame).stem not in ("pathlib", "os", "<frozen os>")]
    return bool(outside) and outside[-1].startswith(package)


def _raise_usage(self: argparse.ArgumentParser, message: str) -> NoReturn:
    hint = " (options such as --config-dir come after all overrides)" if "unrecognized" in message else ""
    raise ConfigError(f"{message}{hint}; see --help")


def _same_store(memo: dict[int, object]) -> ConfigStore:
    """A copy of Hydra's store of schemas: itself.

    For ``--help`` Hydra copies it once per config group, half of the time that took. There is one store per process,
    filled before main starts, and it copies what it hands out.
    """
    return ConfigStore.instance()


def _remove_if_empty(folder: Path) -> None:
    """Hydra makes the run folder before the config is checked: a refused start leaves none."""
    with contextlib.suppress(OSError):  # not empty, or not there
        folder.rmdir()


def _say(message: str) -> None:
    sys.stdout.flush()
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
