"""Syntax trees of code: how deep they are, and how far a use is from what it uses."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from njsl.core.types import ConfigError, Document
from njsl.tag import grammars
from njsl.tag.base import Batch, Column, Tagger
from njsl.tag.grammars import CALL, FUNCTION, VARIABLE, Grammar

if TYPE_CHECKING:
    from tree_sitter import Node

_ERROR = 65535  # the kind of a node that stands for what could not be parsed, in every grammar
_NAN = float("nan")
# Of each byte, how many brackets it opens.
_BRACKETS = np.zeros(256, np.int8)
_BRACKETS[list(b"([{")] = 1
_BRACKETS[list(b")]}")] = -1


@dataclass(frozen=True)
class Shape:
    """What is measured of one tree.

    Attributes:
        widths: number of named nodes by depth [edges], the root's at 0.
        distances: of each use of a known name [bytes], in the order of the text.
        errors: number of nodes that stand for what could not be parsed.
    """

    widths: list[int]
    distances: list[int]
    errors: int


def shape(source: bytes, grammar: Grammar) -> Shape:
    """Measure a syntax tree as the paper does.

    Only named nodes count. Where a node defines a function, calls one or defines a variable, its direct children of
    the kind of a name are taken for the name: so ``b`` in ``a = b`` is taken for defined, and what is called through
    an attribute, a parameter with a default and a tuple's targets are not seen. Any other name whose text is that of
    a defined variable is a use of it. A call or use is measured from the end of the last name defined before it, else
    of the first one, which gives a distance below 0.
    """
    # Level by level: no recursion, and no chain of Python objects that would be freed by recursion in C. For the same
    # reason nothing may hold on to the root.
    level = [grammar.parser.parse(source).root_node]
    outer, uses = grammar.outer, grammar.uses
    names: tuple[list[Node], list[Node], list[Node]] = ([], [], [])
    users: list[Node] = []
    widths, errors = [], 0
    while level:
        widths.append(len(level))
        below: list[Node] = []
        for node in level:
            kind = node.kind_id
            if kind == _ERROR:
                errors += 1
            if not node.named_child_count:
                continue
            children = node.named_children
            below += children
            if kind in outer:
                role, named = outer[kind]
                names[role].extend(child for child in children if child.kind_id in named)
        users += [node for node in below if node.kind_id in uses]
        level = below
    taken = {node.id for role in names for node in role}
    others = [node for node in users if node.id not in taken]
    pairs = _pairs(source, names[FUNCTION], names[CALL]) + _pairs(source, names[VARIABLE], others)
    return Shape(widths, [distance for _, distance in sorted(pairs)], errors)


def _pairs(source: bytes, definitions: list[Node], uses: list[Node]) -> list[tuple[int, int]]:
    """Where each use of a defined name starts, and how far that is from the definition [bytes]."""
    ends: dict[bytes, list[int]] = {}
    for node in definitions:
        end = node.end_byte
        ends.setdefault(source[node.start_byte : end], []).append(end)
    for found in ends.values():
        found.sort()
    pairs = []
    for node in uses:
        start = node.start_byte
        known = ends.get(source[start : node.end_byte])
        if known is not None:
            pairs.append((start, start - known[max(bisect_left(known, start) - 1, 0)]))
    return pairs


class CodeAst(Tagger):
    """Size and depth of syntax trees, and distances from uses to definitions, in twelve languages.

    The paper keeps these values per node and publishes no column of them; here they are drawn together per document.
    The depth of the tree as far as a node, which the paper has as well, ends at ``code_depth_max``. Documents of no
    known language, and empty ones, have no values; so has a distance where nothing defined is used.

    Args:
        lang: language of documents whose record and suffix name none; null leaves them out.
        max_bytes: so much of a document is read [bytes of UTF-8], > 0. On text that is no code of its language a
            parser's time can grow with the square of this.
        max_open_brackets: a document is read up to where so many brackets are open, > 0; ``code_truncated`` says
            where either limit was met.

    Source: the paper's features of code; ``njsl.tag.grammars`` has the kinds of nodes.
    """

    columns: ClassVar[dict[str, Column]] = {
        "code_lang": Column("string", "label", "language whose grammar was used", None),
        "code_nodes": Column("float64", "nodes", "named nodes of the syntax tree", _NAN, "code_num_nodes"),
        "code_depth_max": Column("float64", "edges", "depth of the deepest node", _NAN, "code_tree_depth_max"),
        "code_depth_mean": Column("float64", "edges", "mean depth of the nodes", _NAN, "code_node_depth_mean"),
        "code_uses": Column("float64", "uses", "uses and calls of a name that is defined", _NAN, "code_num_uses"),
        "code_def_use_median": Column(
            "float64", "bytes", "median distance from a definition to its use", _NAN, "code_def_use_dist_median"
        ),
        "code_def_use_mean": Column(
            "float64", "bytes", "mean distance from a definition to its use", _NAN, "code_def_use_dist_mean"
        ),
        "code_error_frac": Column(
            "float64", "1", "share of the nodes that stand for what could not be parsed", _NAN, "code_error_ratio"
        ),
        "code_truncated": Column("int64", "1", "1 where only the start of the document was read", 0),
    }

    def __init__(self, *, lang: str | None = None, max_bytes: int = 65536, max_open_brackets: int = 10000) -> None:
        self.lang = lang
        self.max_bytes = max_bytes
        self.max_open_brackets = max_open_brackets

    def load(self) -> None:
        """Load the grammars.

        Raises:
            ConfigError: a parameter is out of range, or a package is missing.
        """
        self._default = grammars.spelled(self.lang) if self.lang is not None else None
        if self.lang is not None and self._default is None:
            accepted = ", ".join(grammars.PATHS)
            raise ConfigError(f"tagger.code_ast.lang: {self.lang!r} is not known; accepted: {accepted}, or null")
        for name in ("max_bytes", "max_open_brackets"):
            if getattr(self, name) < 1:
                raise ConfigError(f"tagger.code_ast.{name}: {getattr(self, name)}; at least 1 is accepted")
        self._grammars = {name: grammars.grammar(name) for name in grammars.PATHS}

    def tag_batch(self, batch: Batch) -> Mapping[str, Sequence[Any] | np.ndarray]:
        """The columns of a batch."""
        rows = [self._row(document) for document in batch.documents]
        return dict(zip(self.columns, map(list, zip(*rows, strict=True)), strict=True))

    def _row(self, document: Document) -> tuple[str | float | None, ...]:
        lang = grammars.language(document, self._default) if document.text else None
        if lang is None:
            return tuple(column.empty for column in self.columns.values())
        source, truncated = self._source(document.text)
        found = shape(source, self._grammars[lang])
        nodes = sum(found.widths)
        depths = sum(depth * width for depth, width in enumerate(found.widths))
        median, mean = _middle(found.distances)
        return (
            lang,
            float(nodes),
            float(len(found.widths) - 1),
            depths / nodes,
            float(len(found.distances)),
            median,
            mean,
            found.errors / nodes,
            int(truncated),
        )

    def _source(self, text: str) -> tuple[bytes, bool]:
        """The part of the text that is read, as UTF-8 of whole characters, and whether that is less than all."""
        source = text[: self.max_bytes].encode(errors="replace")
        end = min(self.max_bytes, _closing(source, self.max_open_brackets))
        if len(source) <= end:
            return source, len(text) > self.max_bytes
        return source[:end].decode(errors="ignore").encode(), True


def _closing(source: bytes, limit: int) -> int:
    """How far to read so that no more than ``limit`` brackets are open [bytes]; those in strings count too."""
    if len(source) <= limit:
        return len(source)
    steps = _BRACKETS[np.frombuffer(source, np.uint8)]
    over = np.flatnonzero(np.cumsum(steps, dtype=np.int64) > limit)
    return int(over[0]) if over.size else len(source)


def _middle(values: list[int]) -> tuple[float, float]:
    """Median and mean; NaN of nothing."""
    if not values:
        return _NAN, _NAN
    ranked, half = sorted(values), len(values) // 2
    return (ranked[half] + ranked[~half]) / 2, sum(values) / len(values)
