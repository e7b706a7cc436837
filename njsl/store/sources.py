"""What every importer does first: read a small JSON document that strangers wrote, and spell a model's id one way."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from njsl.core.types import DataError

LARGEST_BYTES = 16 * 2**20  # of a configuration or a model card; real ones have a few kB
LARGEST_SIZE = 2**31 - 1  # of a dimension or a count of things: DuckDB's INTEGER
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})  # safetensors' names of what weights are stored in
ACCEPTED_ID = "owner/name of letters, digits, '_', '.' and '-', or a bare name"
_PART = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


def read_json(path: Path, largest_bytes: int = LARGEST_BYTES) -> dict[str, Any]:
    """A file's JSON object; numbers are finite, keys stand once.

    Args:
        path: a file, UTF-8 with or without a byte order mark.
        largest_bytes: what is read at most.

    Raises:
        DataError: no such file, too large, not UTF-8, no JSON, nested too deeply, a key twice, or no object.
    """
    try:
        with path.open("rb") as file:
            body = file.read(largest_bytes + 1)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; a JSON file is accepted") from error
    except ValueError as error:  # a null byte in the name
        raise DataError(f"{str(path)!r}: {error}; a JSON file is accepted") from error
    if len(body) > largest_bytes:
        raise DataError(f"{path}: larger than {largest_bytes} bytes; a JSON file up to that is accepted")
    return parse_json(body, str(path))


def parse_json(body: bytes, where: str) -> dict[str, Any]:
    """A JSON object from its bytes, as ``read_json`` does.

    Raises:
        DataError: as ``read_json``.
    """
    try:
        found = json.loads(
            body.decode("utf-8-sig"), object_pairs_hook=_once, parse_constant=_refused, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise DataError(f"{where}: {why}; a JSON object in UTF-8 is accepted") from error
    if not isinstance(found, dict):
        raise DataError(f"{where}: a {type(found).__name__}; a JSON object is accepted")
    return found


def model_id(text: object) -> str | None:
    """The id as this database spells it, or None where the text is none: ``org__name`` becomes ``org/name``."""
    if not isinstance(text, str):
        return None
    if "/" not in text:
        text = text.replace("__", "/", 1)
    fits = re.fullmatch(rf"{_PART}(/{_PART})?", text) and ".." not in text and len(text) <= 200
    return text if fits else None


def is_address(text: object) -> bool:
    """Whether a text is an address on the web, and one that fits a line."""
    return isinstance(text, str) and re.fullmatch(r"https?://[!-~]{1,1000}", text) is not None


def shown(value: object) -> str:
    """A stranger's value, fit for one line of a message."""
    text = ascii(value) if isinstance(value, (str, float, bool)) or value is None else f"a {type(value).__name__}"
    if isinstance(value, int) and not isinstance(value, bool):
        text = str(value) if abs(value) < 2**64 else "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."


class Keys:
    """The keys of a JSON object, each read in its type; null is absent.

    Args:
        values: the JSON object.
        where: its name in messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where

    def size(self, *names: str, default: int | None = None) -> int:
        """A whole number from 1 by the first of its names.

        Raises:
            DataError: absent without a default, another value, or two names that differ.
        """
        found = self.maybe_size(*names)
        if found is None and default is None:
            raise DataError(f"{self._where}: {names[0]}: missing; a whole number from 1 is accepted")
        return default if found is None else found  # type: ignore[return-value]

    def maybe_size(self, *names: str, low: int = 1) -> int | None:
        """A whole number by the first of its names, or None.

        Raises:
            DataError: another value, or two names that differ.
        """
        found: dict[str, int] = {}
        for name in names:
            value = self._values.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= LARGEST_SIZE:
                raise self.refused(name, f"a whole number {low}..{LARGEST_SIZE}")
            found[name] = value
        if len(set(found.values())) > 1:
            both = " and ".join(f"{name}={value}" for name, value in found.items())
            raise DataError(f"{self._where}: {both}: two names of one size; equal values are accepted")
        return next(iter(found.values()), None)

    def has(self, name: str) -> bool:
        """Whether the key is there, be it null."""
        return name in self._values

    def switch(self, name: str, default: bool) -> bool:
        """True or false.

        Raises:
            DataError: another value.
        """
        return bool(self._typed(name, default, bool, "true or false"))

    def word(self, name: str, default: str) -> str:
        """A text.

        Raises:
            DataError: another value.
        """
        return str(self._typed(name, default, str, "text"))

    def items(self, name: str) -> list[Any] | None:
        """A list, or None.

        Raises:
            DataError: another value.
        """
        return None if self._values.get(name) is None else list(self._typed(name, [], list, "a list"))

    def section(self, name: str) -> Keys:
        """An object inside; empty where absent.

        Raises:
            DataError: another value.
        """
        return Keys(self._typed(name, {}, dict, "an object"), f"{self._where}: {name}")

    def refused(self, name: str, accepted: str) -> DataError:
        """The error that this key's value is none of those accepted."""
        return DataError(f"{self._where}: {name}: {shown(self._values.get(name))}; {accepted} is accepted")

    def _typed(self, name: str, default: Any, kind: type, accepted: str) -> Any:
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise self.refused(name, accepted)
        return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {shown(next(name for name in names if names.count(name) > 1))} stands twice")
    return found


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond every number")
    return value
