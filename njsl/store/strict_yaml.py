"""YAML that strangers write and editors check: read by the rules of YAML 1.2, every value with its place in the file.

3e-4 is a number, ``no`` and 2024-10-31 are text. Anchors, aliases, tags and keys that stand twice are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from njsl.core.types import DataError


@dataclass(frozen=True)
class Place:
    """A value of a file, with where it stands.

    Attributes:
        file: name of the file, for messages.
        path: dotted path within it, empty for the whole.
        node: as composed by YAML.
    """

    file: str
    path: str
    node: yaml.Node

    def error(self, what: str, key: str = "") -> DataError:
        """One line: file, line, dotted path (of one of its keys), and what is wrong."""
        where = [self.file, f"line {self.node.start_mark.line + 1}", self._dotted(key) if key else self.path, what]
        return DataError(": ".join(filter(None, where)))

    @property
    def is_mapping(self) -> bool:
        """Whether keys with values stand here."""
        return isinstance(self.node, yaml.MappingNode)

    def empty(self) -> bool:
        """Whether nothing is said: no text, ``~`` or ``null``."""
        return self.node.tag == "tag:yaml.org,2002:null"

    def mapping(
        self, accepted: Collection[str] | None = None, hint: Callable[[str, Collection[str]], str] | None = None
    ) -> dict[str, Place]:
        """The values by key, in the order of the file; none where nothing is said.

        Args:
            accepted: the keys there are; None where any name may stand.
            hint: what to say of another key, given it and those accepted.

        Raises:
            DataError: no mapping, a key that is not accepted, or one that stands twice.
        """
        if self.empty():
            return {}
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"{self.shown()}; keys with values are accepted")
        found: dict[str, Place] = {}
        for key, value in self.node.value:
            at_key = Place(self.file, self.path, key)
            if not isinstance(key, yaml.ScalarNode) or not key.value:
                raise at_key.error("a key that is no text; a name is accepted")
            if accepted is not None and key.value not in accepted:
                meant = hint(key.value, accepted) if hint else f"accepted are {', '.join(accepted)}"
                raise at_key.error(f"no such key; {meant}", key.value)
            if key.value in found:
                raise at_key.error("stands twice; once is accepted", key.value)
            found[key.value] = Place(self.file, self._dotted(key.value), value)
        return found

    def sequence(self) -> list[Place]:
        """The items of a list; none where nothing is said.

        Raises:
            DataError: no list.
        """
        if self.empty():
            return []
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"{self.shown()}; a list is accepted")
        return [Place(self.file, f"{self.path}[{number}]", node) for number, node in enumerate(self.node.value)]

    def scalar(self) -> str | int | float | bool | None:
        """The single value; an infinite number where it is beyond any.

        Raises:
            DataError: a list or a mapping.
        """
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error(f"{self.shown()}; a single value is accepted")
        text: str = self.node.value
        kind = self.node.tag.removeprefix("tag:yaml.org,2002:")
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return int(text) if len(text) < 100 else float(text)
        return float(text) if kind == "float" else text

    def shown(self) -> str:
        """What stands here, in a few words."""
        if isinstance(self.node, yaml.ScalarNode):
            return short(self.scalar())
        return "keys with values" if self.is_mapping else "a list"

    def _dotted(self, key: str) -> str:
        key = key if key.isprintable() and len(key) <= 60 else short(key)
        return f"{self.path}.{key}" if self.path else key


def load(path: Path, limit_bytes: int) -> Place:
    """The whole of a YAML file.

    Raises:
        DataError: no file, too large, no UTF-8, empty, no YAML, several documents, or what this YAML does without.
    """
    file = one_line(path)
    try:
        if not path.is_file():
            raise DataError(f"{file}: {'a folder' if path.is_dir() else 'no such file'}; a YAML file is accepted")
        with path.open("rb") as stream:
            data = stream.read(limit_bytes + 1)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}; a YAML file that can be read is accepted") from error
    if len(data) > limit_bytes:
        raise DataError(f"{file}: more than {limit_bytes:,} bytes; smaller YAML files are accepted")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: byte {error.start}: no UTF-8; UTF-8 text is accepted") from error
    try:
        node: Any = yaml.compose(text, _Loader)
    except RecursionError as error:
        raise DataError(f"{file}: nested too deeply; a few levels are accepted") from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        hint = "spaces are accepted" if r"'\t'" in str(error.problem) else "one document of plain YAML is accepted"
        raise DataError(f"{file}: {line}{one_line(error.problem)}; {hint}") from error
    except yaml.reader.ReaderError as error:
        line = f"line {text.count(chr(10), 0, error.position) + 1}"
        raise DataError(f"{file}: {line}: {short(chr(error.character))}; plain text is accepted") from error
    if node is None:
        raise DataError(f"{file}: empty; keys with values are accepted")
    return Place(file, "", node)


def short(value: object) -> str:
    """A value for a message: quoted, on one line, at most 60 characters."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(text: object) -> str:
    """A path or a foreign message without what is not printable."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise yaml.MarkedYAMLError(problem="an anchor or an alias", problem_mark=event.start_mark)
        if event.tag is not None:
            raise yaml.MarkedYAMLError(problem="a tag", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {}  # those of YAML 1.1
for _kind, _regexp, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"\A(?:{_regexp})\Z"), _first)
