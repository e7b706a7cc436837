"""Grammars of twelve programming languages: whose documents are whose, and where definitions and uses stand in a tree.

Source: the languages and the kinds of nodes are those of the paper's table of syntax paths, which was written for
tree-sitter-languages 1.10. Of it, Kotlin's ``simple_identifier`` is ``identifier`` here, and that a Ruby parameter is
an instance, class or global variable is left out: the grammars of today rename the one and rule out the other.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from njsl.core.types import ConfigError, Document

if TYPE_CHECKING:
    from tree_sitter import Parser

FUNCTION, CALL, VARIABLE = range(3)


class Paths(NamedTuple):
    """Kinds of nodes, separated by blanks where there are several.

    Attributes:
        module: package of the grammar, with the function that returns it.
        function, call, variable: what defines a function, calls one, defines a variable.
        name: the child that names the function, in a definition and in a call.
        variable_name: the child that names the variable, and what a use of one is.
        suffixes: of files.
        spellings: further names of the language, in lower case.
    """

    module: str
    function: str
    call: str
    variable: str
    suffixes: str
    name: str = "identifier"
    variable_name: str = "identifier"
    spellings: str = ""


PATHS = {
    "javascript": Paths(
        module="tree_sitter_javascript.language",
        function="function_declaration",
        call="call_expression",
        variable="variable_declarator formal_parameters",
        suffixes=".js .jsx .mjs .cjs",
        spellings="js jsx ecmascript node nodejs",
    ),
    "java": Paths(
        module="tree_sitter_java.language",
        function="method_declaration",
        call="method_invocation",
        variable="variable_declarator formal_parameter",
        suffixes=".java",
    ),
    "python": Paths(
        module="tree_sitter_python.language",
        function="function_definition",
        call="call",
        variable="assignment parameters",
        suffixes=".py .pyi .pyw",
        spellings="py python3 python2",
    ),
    "php": Paths(
        module="tree_sitter_php.language_php",
        function="function_definition",
        call="function_call_expression",
        variable="assignment_expression simple_parameter",
        suffixes=".php .phtml",
        name="name",
        variable_name="variable_name",
    ),
    "c_sharp": Paths(
        module="tree_sitter_c_sharp.language",
        function="local_function_statement",
        call="invocation_expression",
        variable="variable_declarator parameter",
        suffixes=".cs",
        spellings="c# csharp cs c-sharp",
    ),
    "c": Paths(
        module="tree_sitter_c.language",
        function="function_declarator",
        call="call_expression",
        variable="init_declarator array_declarator",
        suffixes=".c .h",
    ),
    "typescript": Paths(
        module="tree_sitter_typescript.language_typescript",
        function="function_declaration",
        call="call_expression",
        variable="variable_declarator required_parameter optional_parameter",
        suffixes=".ts .mts .cts",
        spellings="ts",
    ),
    "cpp": Paths(
        module="tree_sitter_cpp.language",
        function="function_declarator",
        call="call_expression",
        variable="init_declarator array_declarator",
        suffixes=".cpp .cc .cxx .hpp .hh .hxx",
        spellings="c++ cplusplus cxx",
    ),
    "go": Paths(
        module="tree_sitter_go.language",
        function="function_declaration",
        call="call_expression",
        variable="var_spec parameter_declaration",
        suffixes=".go",
        spellings="golang",
    ),
    "ruby": Paths(
        module="tree_sitter_ruby.language",
        function="method",
        call="call",
        variable="assignment method_parameters",
        suffixes=".rb",
        variable_name="identifier instance_variable class_variable global_variable",
        spellings="rb",
    ),
    "kotlin": Paths(
        module="tree_sitter_kotlin.language",
        function="function_declaration",
        call="call_expression",
        variable="variable_declaration parameter",
        suffixes=".kt .kts",
        spellings="kt",
    ),
    "scala": Paths(
        module="tree_sitter_scala.language",
        function="function_definition",
        call="call_expression",
        variable="var_definition val_definition parameter",
        suffixes=".scala .sc",
    ),
}
SPELLINGS = {spelling: name for name, paths in PATHS.items() for spelling in (name, *paths.spellings.split())}
SUFFIXES = {suffix: name for name, paths in PATHS.items() for suffix in paths.suffixes.split()}


@dataclass(frozen=True)
class Grammar:
    """A parser, and its tree's kinds of nodes as numbers.

    Attributes:
        parser: of one language.
        outer: a node of this kind holds a name: as what (``FUNCTION``, ``CALL``, ``VARIABLE``), and the kinds of its
            direct children that are the name.
        uses: kinds of nodes that may use a variable.
    """

    parser: Parser
    outer: dict[int, tuple[int, frozenset[int]]]
    uses: frozenset[int]


def spelled(lang: str) -> str | None:
    """The name of a language that is known under this spelling; None where none is."""
    return SPELLINGS.get(lang.strip().lower())


def language(document: Document, default: str | None) -> str | None:
    """Which language a document is in: as its record says, else by the suffix of its id, else ``default``.

    A record that names a language not known here keeps ``default`` away, as it says that the document is in another.
    """
    named = spelled(document.lang) if document.lang else None
    if named is None:
        named = SUFFIXES.get(PurePosixPath(document.id).suffix.lower())
    return default if named is None and not document.lang else named


def grammar(name: str) -> Grammar:
    """Load one of ``PATHS``.

    Raises:
        ConfigError: a package is missing, or a grammar of another time has other kinds of nodes.
    """
    paths = PATHS[name]
    module, _, function = paths.module.partition(".")
    try:
        from tree_sitter import Language, Parser

        tongue = Language(getattr(importlib.import_module(module), function)())
    except ImportError as error:
        package = module.replace("_", "-")
        raise ConfigError(f"tagger.code_ast: {error}; `pip install tree-sitter {package}` brings it") from error
    ids: dict[str, set[int]] = {}
    for number in range(tongue.node_kind_count):
        kind = tongue.node_kind_for_id(number)
        if kind is not None and tongue.node_kind_is_named(number):
            ids.setdefault(kind, set()).add(number)

    def numbers(kinds: str) -> frozenset[int]:
        absent = [kind for kind in kinds.split() if kind not in ids]
        if absent:
            raise ConfigError(f"tagger.code_ast: this version of {module} has no nodes {', '.join(absent)}")
        return frozenset().union(*(ids[kind] for kind in kinds.split()))

    roles = ((FUNCTION, paths.function, paths.name), (CALL, paths.call, paths.name))
    outer = {
        number: (role, numbers(names))
        for role, kinds, names in (*roles, (VARIABLE, paths.variable, paths.variable_name))
        for number in numbers(kinds)
    }
    return Grammar(Parser(tongue), outer, numbers(paths.variable_name))
