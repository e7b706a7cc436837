"""The check of a composed config: an unknown key, an unknown option or a wrong type is an error with its dotted path.

Hydra alone lets much through: ``+sead=3``, a typo inside a component's yaml, any ``_target_`` at all. So every verb
runs ``check`` after composing. It reads and imports, and builds nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from njsl.core.types import ConfigError

MISSING = "???"
# Under these root fields a list given for a scalar parameter is a grid axis.
GRID_FIELDS = ("predictor",)
_WORDS = {int: "an int", float: "a number", str: "a string", bool: "true or false", type(None): "null"}
_SEED_LIMIT = 2**32  # numpy's and scikit-learn's seeds are unsigned 32-bit integers


def check(cfg: DictConfig, schema: type) -> None:
    """Hold a composed config to its schema and to the signatures of its components.

    Args:
        cfg: the composed config, without Hydra's own node.
        schema: the dataclass of the verb's config.

    Raises:
        ConfigError: with the dotted path of the first fault and what would be accepted there.
    """
    _check_dataclass(resolved(cfg), schema, "")


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain values with every interpolation followed; missing values stay ``???``.

    Raises:
        ConfigError: an interpolation leads nowhere.
    """
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        where = error.full_key or "config"
        raise ConfigError(f"{where}: {str(error.msg or error).splitlines()[0]}") from error
    assert isinstance(values, dict)
    return typing.cast(dict[str, Any], values)


def build(node: Mapping[str, Any] | DictConfig, **extra: Any) -> Any:
    """Instantiate one checked component.

    Args:
        node: ``_target_`` and named parameters, grid axes already reduced to one value each.
        extra: further arguments that the program supplies; they win over the node's.

    Raises:
        ConfigError: the node is no component, or its target cannot be imported.
    """
    values = resolved(node) if isinstance(node, DictConfig) else {str(key): value for key, value in node.items()}
    if "_target_" not in values:
        raise ConfigError("a component needs _target_, the dotted name of a class in njsl")
    target = locate(values.pop("_target_"), "_target_")
    return target(**{**values, **extra})


def locate(name: Any, path: str) -> Callable[..., Any]:
    """Import the class or function that ``name`` says.

    Raises:
        ConfigError: it is not in njsl, cannot be imported, or is neither a class nor a function.
    """
    if not isinstance(name, str) or not re.fullmatch(r"njsl(\.[A-Za-z_]\w*)+", name):
        raise ConfigError(f"{path}: {name!r} is refused: a target is the dotted name of a class in njsl")
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ConfigError(f"{path}: cannot import {module}: {error}") from error
    if found is None:
        classes = [key for key, value in vars(importlib.import_module(module)).items() if inspect.isclass(value)]
        raise ConfigError(f"{path}: {module} has no {attribute!r}{meant(attribute, classes)}")
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not found.__module__.startswith("njsl."):
        raise ConfigError(f"{path}: {name!r} is refused: it is no class or function of njsl's own")
    return found


def supplied(target: Callable[..., Any]) -> tuple[str, ...]:
    """Parameters that the program gives to a component itself: its class attribute ``supplied``, else none."""
    return tuple(getattr(target, "supplied", ()))


def unknown(path: str, key: str, accepted: Iterable[str]) -> ConfigError:
    """The error for a key that does not exist."""
    names = list(accepted)
    listed = f"accepted: {', '.join(names)}" if names else "nothing is accepted here"
    return ConfigError(f"{_join(path, key)}: unknown key{meant(key, names)}; {listed}")


def _check_dataclass(value: Any, schema: type, path: str) -> None:
    if not isinstance(value, dict):
        raise _wrong(path, "named values", value)
    fields = {field.name: field for field in dataclasses.fields(schema)}
    hints = typing.get_type_hints(schema)
    for key in value:
        if key not in fields:
            raise unknown(path, str(key), fields)
    for name, field in fields.items():
        where = _join(path, name)
        if name not in value:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise ConfigError(f"{where}: a value is required")
            continue
        if field.metadata.get("plain") or (field.metadata.get("may_be_empty") and value[name] == {}):
            continue  # plain values of any shape are judged by the code that reads them
        _check_field(value[name], hints[name], where, field.metadata.get("accepted"))


def _check_field(value: Any, hint: Any, path: str, accepted: Sequence[str] | None) -> None:
    if value == MISSING:
        raise ConfigError(f"{path}: a value is required" + (f": {', '.join(accepted)}" if accepted else ""))
    if accepted is not None and isinstance(value, list):
        for index, item in enumerate(value):
            _check_field(item, str, f"{path}[{index}]", accepted)
        return
    if accepted is not None and value not in accepted:
        raise ConfigError(f"{path}: {value!r} is not known{meant(value, accepted)}; accepted: {', '.join(accepted)}")
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        _check_dataclass(value, hint, path)
    elif hint is Any:
        # A dict in a free field can only be a component; plain values are judged by the code that reads them.
        if isinstance(value, dict):
            _check_component(value, path)
    elif typing.get_origin(hint) is Mapping:
        _check_component(value, path)
    elif typing.get_origin(hint) is dict:
        _check_parts(value, typing.get_args(hint)[1], path)
    else:
        fault = _fault(value, hint, path)
        if fault is not None:
            raise fault
        if path.rpartition(".")[2] == "seeds":
            _check_seeds(value, path)


def _check_parts(value: Any, hint: Any, path: str) -> None:
    """A multi-select group: named parts, at least one."""
    if not isinstance(value, dict):
        raise _wrong(path, "named parts", value)
    if not value:
        raise ConfigError(f"{path}: at least one is required, e.g. {path}=[NAME]; `--help` lists the names")
    for key, part in value.items():
        where = _join(path, str(key))
        if hint is Any:
            _check_component(part, where)
        else:
            _check_field(part, hint, where, None)


def _check_seeds(value: list[int], path: str) -> None:
    if not value:
        raise ConfigError(f"{path}: at least one seed is required, e.g. {path}=[0,1,2]")
    twice = sorted({seed for seed in value if value.count(seed) > 1})
    if twice:
        raise ConfigError(f"{path}: {twice[0]} is given twice; every seed counts once")
    for index, seed in enumerate(value):
        if not 0 <= seed < _SEED_LIMIT:
            raise ConfigError(f"{path}[{index}]: expected a seed from 0 to 2**32 - 1, got {seed}")


def _check_component(value: Any, path: str) -> None:
    if not isinstance(value, dict):
        raise _wrong(path, "a component with _target_ and named parameters", value)
    if "_target_" not in value:
        raise ConfigError(f"{path}._target_: a value is required: the dotted name of a class in njsl")
    target = locate(value["_target_"], f"{path}._target_")
    parameters = inspect.signature(target).parameters
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            # Nothing could be checked against such a signature.
            raise ConfigError(f"{path}._target_: {value['_target_']} is refused: it takes *args or **kwargs")
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    own = supplied(target)
    open_names = [name for name in parameters if name not in own]
    grid = any(part in GRID_FIELDS for part in path.split(".")[:2])
    for key, given in value.items():
        where = _join(path, str(key))
        if key == "_target_":
            continue
        if key in own:
            raise ConfigError(f"{where}: is set by the program and cannot be given")
        if key not in open_names:
            raise unknown(path, str(key), open_names)
        _check_argument(given, hints.get(key, Any), where, grid)
    for name in open_names:
        if name not in value and parameters[name].default is inspect.Parameter.empty:
            raise ConfigError(f"{_join(path, name)}: a value is required: {_describe(hints.get(name, Any))}")


def _check_argument(value: Any, hint: Any, path: str, grid: bool) -> None:
    if value == MISSING:
        raise ConfigError(f"{path}: a value is required: {_describe(hint)}")
    if typing.get_origin(hint) is dict and dataclasses.is_dataclass(typing.get_args(hint)[1]):
        if value == {}:
            raise ConfigError(f"{path}: at least one is required")
        _check_parts(value, typing.get_args(hint)[1], path)
        return
    fault = _fault(value, hint, path)
    if fault is None:
        return
    if not grid or not isinstance(value, list) or _takes_list(hint):
        raise fault
    if not value:
        raise ConfigError(f"{path}: an empty grid axis; give one value or a list of values, each {_describe(hint)}")
    for index, item in enumerate(value):
        fault = _fault(item, hint, f"{path}[{index}]")
        if fault is not None:
            raise fault


def _fault(value: Any, hint: Any, path: str) -> ConfigError | None:
    """What is wrong with ``value`` under the annotation ``hint``; None if nothing is."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    wrong = _wrong(path, _describe(hint), value)
    if hint is Any or hint is object:
        return None
    if origin is typing.Annotated:
        return _fault(value, args[0], path)
    if origin in (typing.Union, types.UnionType):
        faults = [_fault(value, option, path) for option in args]
        return None if None in faults else wrong
    if origin is typing.Literal:
        if any(value == option and type(value) is type(option) for option in args):
            return None
        names = [str(option) for option in args]
        return ConfigError(f"{path}: {value!r} is not known{meant(value, names)}; accepted: {', '.join(names)}")
    kind = origin or hint
    if kind in (list, tuple, Sequence, set, frozenset, Iterable):
        if not isinstance(value, list):
            return wrong
        fixed = kind is tuple and args and args[-1] is not Ellipsis
        if fixed and len(value) != len(args):
            return wrong
        options = args if fixed else [args[0] if args else Any] * len(value)
        return _first(_fault(item, options[index], f"{path}[{index}]") for index, item in enumerate(value))
    if kind in (dict, Mapping):
        if not isinstance(value, dict):
            return wrong
        option = args[1] if args else Any
        return _first(_fault(item, option, _join(path, str(key))) for key, item in value.items())
    if hint in (None, type(None)):
        return None if value is None else wrong
    if hint is float:
        return None if isinstance(value, (int, float)) and not isinstance(value, bool) else wrong
    if hint is int:
        return None if isinstance(value, int) and not isinstance(value, bool) else wrong
    if hint is Path:
        return None if isinstance(value, str) else wrong
    # Left are str and bool, and classes that no yaml value can be an instance of.
    return None if hint in (str, bool) and isinstance(value, hint) else wrong


def _first(faults: Iterable[ConfigError | None]) -> ConfigError | None:
    return next((fault for fault in faults if fault is not None), None)


def _takes_list(hint: Any) -> bool:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_takes_list(option) for option in typing.get_args(hint))
    return (typing.get_origin(hint) or hint) in (list, tuple, Sequence, set, frozenset, Iterable)


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return "any value"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in args)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is tuple and args and args[-1] is not Ellipsis:
        return f"a list of {len(args)}: " + ", ".join(_describe(option) for option in args)
    if (origin or hint) in (list, tuple, Sequence, set, frozenset, Iterable):
        return "a list" + (f", each {_describe(args[0])}" if args else "")
    if (origin or hint) in (dict, Mapping):
        return "named values"
    return _WORDS.get(hint, "a string" if hint is Path else getattr(hint, "__name__", str(hint)))


def _wrong(path: str, expected: str, value: Any) -> ConfigError:
    got = "null" if value is None else f"{value!r} ({type(value).__name__})"
    return ConfigError(f"{path}: expected {expected}, got {got}")


def meant(value: Any, accepted: Sequence[str]) -> str:
    """A guess at what was meant, to follow what was given; empty if nothing is close."""
    close = difflib.get_close_matches(str(value), list(accepted), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
