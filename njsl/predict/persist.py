"""What was fitted, as data: a tree of plain values and arrays in one file, and never a pickle.

A file holds no code: it names classes, and only those of the modules below are looked up, built without their
constructors and given their attributes back. Its checksum is compared before anything is read. What cannot be told in
these terms is refused when written, so that its owner fits it anew.

skops, which does the like, was measured and left: its import takes longer than a whole answer may, it reads a forest
no faster than scikit-learn grows it, and it refuses an XGBoost booster.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from njsl.core.types import NjslError

MAGIC = b"njsl fitted 1\n"
# By their first word or words; a class of any other module is neither written nor looked up.
MODULES = ("njsl.predict.", "sklearn.", "scipy.interpolate.", "scipy.stats.")
TYPES = ("numpy.", "builtins.float", "builtins.int", "builtins.str", "builtins.bool", "builtins.object")
_ALIGN = 16


class CannotPersist(NjslError):
    """A value of a kind this file format has no words for."""


class BrokenFile(NjslError):
    """Cut short, changed, or of another version."""


def dumps(value: Any) -> bytes:
    """A value as bytes.

    Raises:
        CannotPersist: it holds something other than plain values, NumPy arrays, pandas tables, estimators of
            scikit-learn and njsl, and boosters of XGBoost and LightGBM.
    """
    writer = _Writer()
    try:
        tree = writer.tree(value)
    except RecursionError as error:
        raise CannotPersist(f"{type(value).__name__}: refers to itself") from error
    head = json.dumps({"tree": tree, "dtypes": writer.dtypes, "arrays": writer.arrays}).encode()
    body = len(head).to_bytes(8, "little") + head + b"".join(writer.chunks)
    return MAGIC + hashlib.sha256(body).digest() + body


def loads(content: bytes) -> Any:
    """The value back.

    Raises:
        BrokenFile: not what ``dumps`` wrote, or written for other classes than there are.
    """
    start = check(content)
    end = start + 8 + int.from_bytes(content[start : start + 8], "little")
    try:
        head = json.loads(content[start + 8 : end])
        return _Reader(head, bytearray(content[end:])).value(head["tree"])
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise BrokenFile(f"{type(error).__name__}: {error}") from error


def check(content: bytes) -> int:
    """Compare the checksum; returns where what it is of begins [byte].

    Raises:
        BrokenFile: cut short, changed, or no file of this kind.
    """
    start = len(MAGIC) + 32
    if content[: len(MAGIC)] != MAGIC or hashlib.sha256(content[start:]).digest() != content[len(MAGIC) : start]:
        raise BrokenFile("cut short or changed since it was written")
    return start


def read(path: Path) -> Any:
    """The value of a file; ``BrokenFile`` as ``loads``, ``OSError`` where it cannot be read."""
    return loads(path.read_bytes())


class _Writer:
    """Builds the tree; every node is a plain JSON value or a list ``[kind, ...]``."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.arrays: list[list[Any]] = []
        self.dtypes: list[Any] = []
        self._known: dict[Any, int] = {}
        self._size = 0

    def tree(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, str)) or type(value) in (int, float):
            return value
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, np.generic):
            return ["scalar", self._array(np.asarray(value))]
        if type(value) in (list, tuple, set, frozenset):
            return [type(value).__name__, *(self.tree(item) for item in value)]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return ["named", _name(type(value), MODULES), *(self.tree(item) for item in value)]
        if isinstance(value, dict):
            return self._dict(value)
        if isinstance(value, slice):
            return ["slice", *(self.tree(item) for item in (value.start, value.stop, value.step))]
        if isinstance(value, (bytes, bytearray)):
            return ["bytes", self._array(np.frombuffer(bytes(value), np.uint8))]
        if isinstance(value, np.dtype):
            return ["dtype", _plain_dtype(value)]
        if isinstance(value, type) or inspect.isfunction(value) or isinstance(value, np.ufunc):
            return ["name", _name(value, (*MODULES, *TYPES))]
        if type(value).__module__.startswith("pandas"):
            return self._pandas(value)
        return self._object(value)

    def _dict(self, value: dict[Any, Any]) -> Any:
        if type(value) is not dict and _full_name(type(value)) != "sklearn.utils._bunch.Bunch":
            raise CannotPersist(f"{_full_name(type(value))}: no plain dictionary")
        kind = "dict" if type(value) is dict else "bunch"
        return [kind, *([self.tree(key), self.tree(item)] for key, item in value.items())]

    def _array(self, value: np.ndarray) -> Any:
        if value.dtype.hasobject:
            if value.dtype.names:
                raise CannotPersist("a structured array of objects")
            return ["objects", list(value.shape), *(self.tree(item) for item in value.ravel().tolist())]
        key = str(value.dtype)
        if key not in self._known:
            self._known[key] = len(self.dtypes)
            self.dtypes.append(_plain_dtype(value.dtype))
        data = np.ascontiguousarray(value).tobytes()
        data += b"\0" * (-len(data) % _ALIGN)
        fortran = value.ndim > 1 and value.flags.f_contiguous and not value.flags.c_contiguous
        self.arrays.append([self._known[key], list(value.shape), self._size, int(fortran)])
        self.chunks.append(data)
        self._size += len(data)
        return ["array", len(self.arrays) - 1]

    def _pandas(self, value: Any) -> Any:
        if isinstance(value, pd.MultiIndex):
            raise CannotPersist("an index of several levels")
        if isinstance(value, pd.CategoricalDtype):
            return ["categories", self.tree(value.categories), bool(value.ordered)]
        if isinstance(value, pd.Index):
            return ["index", self.tree(value.to_numpy()), str(value.dtype), self.tree(value.name)]
        if isinstance(value, pd.Categorical):
            return ["categorical", self._array(np.asarray(value.codes)), self.tree(value.dtype)]
        if isinstance(value, pd.Series):
            inner = value.array if isinstance(value.dtype, pd.CategoricalDtype) else value.to_numpy()
            return ["series", self.tree(inner), str(value.dtype), self.tree(value.index), self.tree(value.name)]
        if isinstance(value, pd.DataFrame):
            return ["frame", self.tree(value.index), self.tree(value.columns), *(self.tree(value[n]) for n in value)]
        raise CannotPersist(f"{_full_name(type(value))}: no words for it")

    def _object(self, value: Any) -> Any:
        name = _full_name(type(value))
        if name == "xgboost.core.Booster":
            return ["xgboost", self._array(np.frombuffer(bytes(value.save_raw("ubj")), np.uint8))]
        if name == "lightgbm.basic.Booster":
            return ["lightgbm", value.model_to_string()]
        if isinstance(value, np.random.RandomState):
            return ["random", self.tree(value.get_state(legacy=False))]
        if isinstance(value, np.random.Generator):
            return ["generator", self.tree(value.bit_generator.state)]
        name = _name(type(value), MODULES)
        # Compiled classes of scikit-learn say how to build them: a class, its arguments, a state.
        if not hasattr(value, "__dict__"):
            made = value.__reduce__()
            if not isinstance(made, tuple) or len(made) < 2 or not isinstance(made[0], type):
                raise CannotPersist(f"{name}: does not say how to build it")
            state = made[2] if len(made) > 2 else None
            return ["built", _name(made[0], MODULES), self.tree(list(made[1])), self.tree(state)]
        state = value.__getstate__() if hasattr(value, "__getstate__") else value.__dict__
        if not isinstance(state, dict):
            raise CannotPersist(f"{name}: its state is no dictionary")
        return ["object", name, self._dict(dict(state))]


class _Reader:
    def __init__(self, head: dict[str, Any], data: bytearray) -> None:
        self._dtypes = [_dtype(entry) for entry in head["dtypes"]]
        self._arrays = head["arrays"]
        self._data = data
        self._named_before: dict[tuple[str, tuple[str, ...]], Any] = {}

    def _look_up(self, name: str, accepted: tuple[str, ...]) -> Any:
        key = (name, accepted)
        if key not in self._named_before:
            self._named_before[key] = _found(name, accepted)
        return self._named_before[key]

    def _class(self, name: str) -> Any:
        found = self._look_up(name, MODULES)
        if not isinstance(found, type):
            raise BrokenFile(f"{name}: no class")
        return found

    def value(self, node: Any) -> Any:
        if not isinstance(node, list):
            return node
        kind, *rest = node
        result: Any = getattr(self, f"_{kind}")(*rest)
        return result

    def _values(self, nodes: tuple[Any, ...]) -> list[Any]:
        return [self.value(node) for node in nodes]

    def _array(self, number: int) -> np.ndarray:
        kind, shape, offset, fortran = self._arrays[number]
        count = math.prod(shape)
        found = (
            np.frombuffer(self._data, self._dtypes[kind], count, offset) if count else np.empty(0, self._dtypes[kind])
        )
        found = found.reshape(shape)
        return np.asfortranarray(found) if fortran else found

    def _scalar(self, node: Any) -> Any:
        return self.value(node)[()]

    def _objects(self, shape: list[int], *nodes: Any) -> np.ndarray:
        made = np.empty(len(nodes), dtype=object)
        made[:] = self._values(nodes)
        return made.reshape(shape)

    def _list(self, *nodes: Any) -> list[Any]:
        return self._values(nodes)

    def _tuple(self, *nodes: Any) -> tuple[Any, ...]:
        return tuple(self._values(nodes))

    def _named(self, name: str, *nodes: Any) -> Any:
        return self._class(name)(*self._values(nodes))

    def _set(self, *nodes: Any) -> set[Any]:
        return set(self._values(nodes))

    def _frozenset(self, *nodes: Any) -> frozenset[Any]:
        return frozenset(self._values(nodes))

    def _dict(self, *pairs: Any) -> dict[Any, Any]:
        return {self.value(key): self.value(item) for key, item in pairs}

    def _bunch(self, *pairs: Any) -> Any:
        from sklearn.utils import Bunch

        return Bunch(**self._dict(*pairs))

    def _slice(self, *nodes: Any) -> slice:
        return slice(*self._values(nodes))

    def _bytes(self, node: Any) -> bytes:
        return self.value(node).tobytes()

    def _dtype(self, entry: Any) -> np.dtype:
        return _dtype(entry)

    def _name(self, name: str) -> Any:
        return self._look_up(name, (*MODULES, *TYPES))

    def _categories(self, categories: Any, ordered: bool) -> pd.CategoricalDtype:
        return pd.CategoricalDtype(self.value(categories), ordered)

    def _index(self, values: Any, kind: str, name: Any) -> pd.Index:
        return pd.Index(self.value(values), dtype=kind, name=self.value(name))

    def _categorical(self, codes: Any, kind: Any) -> pd.Categorical:
        return pd.Categorical.from_codes(self.value(codes), dtype=self.value(kind))

    def _series(self, values: Any, kind: str, index: Any, name: Any) -> pd.Series:
        inner = self.value(values)
        named = None if kind == "category" else kind
        return pd.Series(inner, index=self.value(index), name=self.value(name), dtype=named)

    def _frame(self, index: Any, columns: Any, *series: Any) -> pd.DataFrame:
        names = self.value(columns)
        made = dict(enumerate(self._values(series)))
        return pd.DataFrame(made, index=self.value(index)).set_axis(names, axis=1)

    def _xgboost(self, node: Any) -> Any:
        import xgboost

        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(bytearray(self.value(node).tobytes()))
        return booster

    def _lightgbm(self, text: str) -> Any:
        import lightgbm

        return lightgbm.Booster(model_str=text)

    def _random(self, state: Any) -> np.random.RandomState:
        made = np.random.RandomState()
        made.set_state(self.value(state))
        return made

    def _generator(self, state: Any) -> np.random.Generator:
        told = self.value(state)
        if told["bit_generator"] != "PCG64":
            raise BrokenFile(f"{told['bit_generator']}: no generator that is read")
        made = np.random.PCG64()
        made.state = told
        return np.random.Generator(made)

    def _built(self, name: str, arguments: Any, state: Any) -> Any:
        made = self._class(name)(*self.value(arguments))
        told = self.value(state)
        if told is not None:
            made.__setstate__(told)
        return made

    def _object(self, name: str, state: Any) -> Any:
        kind = self._class(name)
        made = kind.__new__(kind)
        told = self._dict(*state[1:])
        if hasattr(kind, "__setstate__"):
            made.__setstate__(told)
        else:
            made.__dict__.update(told)
        return made


def _full_name(kind: Any) -> str:
    return f"numpy.{kind.__name__}" if isinstance(kind, np.ufunc) else f"{kind.__module__}.{kind.__qualname__}"


def _name(kind: Any, accepted: tuple[str, ...]) -> str:
    """The dotted name of a class or function that can be found by it again."""
    name = _full_name(kind)
    if "<" in name or not name.startswith(accepted):
        raise CannotPersist(f"{name}: no words for it")
    return name


def _found(name: str, accepted: tuple[str, ...]) -> Any:
    """The class or function of this name, defined in the module the name says and not merely seen there."""
    if not name.startswith(accepted):
        raise BrokenFile(f"{name}: not among the classes that are read")
    module, _, last = name.rpartition(".")
    found = getattr(importlib.import_module(module), last)
    if (not isinstance(found, (type, np.ufunc)) and not inspect.isroutine(found)) or _full_name(found) != name:
        raise BrokenFile(f"{name}: no class or function of its module")
    return found


def _plain_dtype(kind: np.dtype) -> Any:
    """A text, or the layout of a structure: its gaps are part of it."""
    if kind.names is None:
        return kind.str
    parts = [kind.fields[name] for name in kind.names] if kind.fields else []
    return {
        "names": list(kind.names),
        "formats": [_plain_dtype(part[0]) for part in parts],
        "offsets": [part[1] for part in parts],
        "itemsize": kind.itemsize,
    }


def _dtype(entry: Any) -> np.dtype:
    if isinstance(entry, str):
        return np.dtype(entry)
    layout: Any = {**entry, "formats": [_dtype(part) for part in entry["formats"]]}
    return np.dtype(layout)
