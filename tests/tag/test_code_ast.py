"""code_ast against trees derived by hand, against a second implementation, and on input that breaks parsers."""

import json
import math
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from njsl.core.types import ConfigError, Document
from njsl.tag import grammars
from njsl.tag.base import Batch
from njsl.tag.taggers.code_ast import CodeAst, shape

# Per language: source; named nodes per depth; distances in the order of the text. Every sample defines a function f
# with a parameter a, a variable x, and calls f(x). Positions are bytes from 0; a distance is start of use - end of the
# defined name.
SAMPLES = {
    "javascript": (
        "function f(a) { return a; }\nlet x = 1;\nf(x);\n",
        # program | function_declaration, lexical_declaration, expression_statement | f, formal_parameters,
        # statement_block, variable_declarator, call_expression | a, return_statement, x, 1, f, arguments | a, x
        [1, 3, 5, 6, 2],
        # a 23 - 12; f 39 - 10; x 41 - 33
        [11, 29, 8],
    ),
    "java": (
        "class A {\n  int f(int a) { return a; }\n  int g() { int x = 1; return f(x); }\n}\n",
        # program | class_declaration | A, class_body | 2 method_declaration | int, f, formal_parameters, block; int, g,
        # formal_parameters, block | formal_parameter, return_statement, local_variable_declaration, return_statement
        # | int, a, a, int, variable_declarator, method_invocation | x, 1, f, argument_list | x
        [1, 1, 2, 2, 8, 4, 6, 4, 1],
        # a 34 - 23; f 69 - 17; x 71 - 56
        [11, 52, 15],
    ),
    "python": (
        "\ndef f(x):\n    return x\na = 1\na += f(a)\n",
        # module | function_definition, 2 expression_statement | f, parameters, block, assignment, augmented_assignment
        # | x, return_statement, a, 1, a, call | x, f, argument_list | a
        [1, 3, 5, 6, 3, 1],
        # x 22 - 8; a 30 - 25; f 35 - 6; a 37 - 25
        [14, 5, 29, 12],
    ),
    "php": (
        "<?php\nfunction f($a) { return $a; }\n$x = 1;\nf($x);\n",
        # program | php_tag, function_definition, 2 expression_statement | f, formal_parameters, compound_statement,
        # assignment_expression, function_call_expression | simple_parameter, return_statement, $x, 1, f, arguments |
        # $a, $a, name x, argument | name a, name a, $x | name x: $a and $x hold a name each, which is no use
        [1, 4, 5, 6, 4, 3, 1],
        # $a 30 - 19; f 44 - 16; $x 46 - 38
        [11, 28, 8],
    ),
    "c_sharp": (
        "int f(int a) { return a; }\nint x = 1;\nf(x);\n",
        # compilation_unit | 3 global_statement | local_function_statement, local_declaration_statement,
        # expression_statement | int, f, parameter_list, block, variable_declaration, invocation_expression | parameter,
        # return_statement, int, variable_declarator, f, argument_list | int, a, a, x, 1, argument | x
        [1, 3, 3, 6, 6, 6, 1],
        # a 22 - 11; f 38 - 5; x 40 - 32
        [11, 33, 8],
    ),
    "c": (
        "int f(int a) { return a; }\nint main() { int x = 1; return f(x); }\n",
        # translation_unit | 2 function_definition | int, function_declarator, compound_statement, twice | f,
        # parameter_list, return_statement; main, parameter_list, declaration, return_statement | parameter_declaration,
        # a, int, init_declarator, call_expression | int, a, x, 1, f, argument_list | x
        [1, 2, 6, 7, 5, 6, 1],
        # parameters of C are not in the table; f 58 - 5; x 60 - 45
        [53, 15],
    ),
    "typescript": (
        "function f(a: number) { return a; }\nlet x = 1;\nf(x);\n",
        # as JavaScript's, but a is below required_parameter, beside type_annotation with predefined_type
        [1, 3, 5, 6, 4, 1],
        # a 31 - 12; f 47 - 10; x 49 - 41
        [19, 37, 8],
    ),
    "cpp": (
        "int f(int a) { return a; }\nint main() { int x = 1; return f(x); }\n",
        [1, 2, 6, 7, 5, 6, 1],  # as C's
        [53, 15],
    ),
    "go": (
        "package p\nfunc f(a int) int { return a }\nvar x = 1\nvar y = f(x)\n",
        # source_file | package_clause, function_declaration, 2 var_declaration | p, f, parameter_list, int, block, 2
        # var_spec | parameter_declaration, statement_list, x, expression_list, y, expression_list | a, int,
        # return_statement, 1, call_expression | expression_list, f, argument_list | a, x
        [1, 4, 7, 6, 5, 3, 2],
        # a 37 - 18; f 59 - 16; x 61 - 46
        [19, 43, 15],
    ),
    "ruby": (
        "def f(a)\n  a\nend\nx = 1\nf(x)\n",
        # program | method, assignment, call | f, method_parameters, body_statement, x, 1, f, argument_list | a, a, x
        [1, 3, 7, 3],
        # a 11 - 7; f 23 - 5; x 25 - 18
        [4, 18, 7],
    ),
    "kotlin": (
        "fun f(a: Int): Int { return a }\nval x = 1\nval y = f(x)\n",
        # source_file | function_declaration, 2 property_declaration | f, function_value_parameters, user_type,
        # function_body; variable_declaration, 1; variable_declaration, call_expression | parameter, Int, block, x, y,
        # f, value_arguments | a, user_type, return_expression, value_argument | Int, a, x
        [1, 3, 8, 7, 4, 3],
        # a 28 - 7; f 50 - 5; x 52 - 37
        [21, 45, 15],
    ),
    "scala": (
        "def f(a: Int): Int = { a }\nval x = 1\nval y = f(x)\n",
        # compilation_unit | function_definition, 2 val_definition | f, parameters, Int, block; x, 1; y,
        # call_expression | parameter, a, f, arguments | a, Int, x
        [1, 3, 8, 4, 3],
        # a 23 - 7; f 45 - 5; x 47 - 32
        [16, 40, 15],
    ),
}


@pytest.fixture(scope="module")
def tagger():
    made = pickle.loads(pickle.dumps(CodeAst()))
    made.load()
    return made


def document(text, lang=None, name="1"):
    return Document(text, name, name, lang)


def by_queries(source, lang):
    """The paper's way: recursion over named nodes, and a query for each pair of kinds."""
    from tree_sitter import Query, QueryCursor

    paths = grammars.PATHS[lang]
    parser = grammars.grammar(lang).parser
    tree = parser.parse(source)

    def walk(node, depth):
        yield node, depth
        for child in node.named_children:
            yield from walk(child, depth + 1)

    def captured(pattern):
        found = QueryCursor(Query(parser.language, pattern)).captures(tree.root_node)
        return {node.id: node for node in found.get("n", [])}

    def below(outer, inner):
        kinds = [(a, b) for a in outer.split() for b in inner.split()]
        # Rules that the grammar cannot meet.
        kinds = [(a, b) for a, b in kinds if a != "method_parameters" or b == "identifier"]
        return {name: node for a, b in kinds for name, node in captured(f"({a} ({b}) @n)").items()}

    functions, calls = below(paths.function, paths.name), below(paths.call, paths.name)
    variables = below(paths.variable, paths.variable_name)
    known = {node.text for node in variables.values()}
    uses = {name: node for kind in paths.variable_name.split() for name, node in captured(f"({kind}) @n").items()}
    uses = {
        name: node
        for name, node in uses.items()
        if node.text in known and not any(name in taken for taken in (functions, calls, variables))
    }
    distances = {}
    for users, definitions in ((calls, functions), (uses, variables)):
        for name, user in users.items():
            same = sorted(node.end_byte for node in definitions.values() if node.text == user.text)
            if same:
                before = [end for end in same if end < user.start_byte]
                distances[name] = user.start_byte - (before[-1] if before else same[0])
    nodes = list(walk(tree.root_node, 0))
    depths = [depth for _, depth in nodes]
    widths = [depths.count(depth) for depth in range(max(depths) + 1)]
    return widths, [distances[node.id] for node, _ in nodes if node.id in distances]


@pytest.mark.parametrize("lang", SAMPLES)
def test_twelve_languages_by_hand(lang):
    source, widths, distances = SAMPLES[lang]
    found = shape(source.encode(), grammars.grammar(lang))
    assert found.widths == widths
    assert found.distances == distances
    assert found.errors == 0
    assert by_queries(source.encode(), lang) == (widths, distances)


def test_real_code_equals_the_paper_s_way():
    for path in (json.decoder.__file__, json.encoder.__file__, np.__file__):
        source = Path(path).read_bytes()
        found = shape(source, grammars.grammar("python"))
        assert (found.widths, found.distances) == by_queries(source, "python")


def test_columns_by_hand(tagger):
    found = tagger.tag(document(SAMPLES["python"][0], "Python"), None)
    assert found == {
        "code_lang": "python",
        "code_nodes": 19.0,  # 1 + 3 + 5 + 6 + 3 + 1
        "code_depth_max": 5.0,
        "code_depth_mean": (3 * 1 + 5 * 2 + 6 * 3 + 3 * 4 + 5) / 19,
        "code_uses": 4.0,
        "code_def_use_median": 13.0,  # of 5, 12, 14, 29
        "code_def_use_mean": 15.0,
        "code_error_frac": 0.0,
        "code_truncated": 0,
    }


def test_the_last_definition_before_the_use_counts_else_the_first():
    source = b"f(x)\nx = 1\nx = 2\nf(x)\nx = 3\n"
    # Definitions of x end at 6, 12 and 23. The use at 2 is before all of them: 2 - 6; the one at 19 is after the
    # second: 19 - 12.
    assert shape(source, grammars.grammar("python")).distances == [-4, 7]


def test_what_the_paper_s_rule_misses_and_takes_in():
    python = grammars.grammar("python")
    # Called through an attribute, a default, a type, a tuple: none of them is seen.
    assert shape(b"def f(): pass\no.f()\n", python).distances == []
    assert shape(b"def g(a=1, b: int = 2): return a\n", python).distances == []
    assert shape(b"a, b = 1, 2\nprint(a)\n", python).distances == []
    # y in "x = y" is taken for defined: the y of the last line is a use of it.
    assert shape(b"x = y\nprint(y)\n", python).distances == [12 - 5]


def test_bytes_not_characters():
    # Four bytes of U+1F600 in quotes before the use: "s = '....'\n" is 11 bytes, print( 6 more.
    assert shape("s = '\U0001f600'\nprint(s)\n".encode(), grammars.grammar("python")).distances == [17 - 1]


def test_syntax_errors_are_counted(tagger):
    found = tagger.tag(document("a b c (", "py"), None)
    assert found["code_error_frac"] > 0
    assert tagger.tag(document("a = 1", "py"), None)["code_error_frac"] == 0


@pytest.mark.parametrize(
    ("lang", "name", "expected"),
    [
        ("Python", "1", "python"),
        ("C++", "1", "cpp"),
        ("C#", "1", "c_sharp"),
        (" TypeScript ", "1", "typescript"),
        ("golang", "1", "go"),
        (None, "pkg/a.PY", "python"),
        (None, "a.kt", "kotlin"),
        (None, "a/b.py/readme", None),
        ("en", "a.rb", "ruby"),
        ("Rust", "1", None),
    ],
)
def test_language_of_a_document(lang, name, expected):
    assert grammars.language(document("x", lang, name), None) == expected


def test_default_language_is_for_documents_that_name_none(tagger):
    assert grammars.language(document("x"), "java") == "java"
    assert grammars.language(document("x", "en"), "java") is None
    assert grammars.language(document("x", None, "a.py"), "java") == "python"
    other = CodeAst(lang="C#")
    other.load()
    assert other.tag(document("int x = 1;"), None)["code_lang"] == "c_sharp"


@pytest.mark.parametrize("given", [document(""), document("", "py"), document("Some prose."), document("x", "Cobol")])
def test_no_code_has_no_values(tagger, given):
    found = tagger.tag(given, None)
    assert set(found) == set(CodeAst.columns)
    for name, column in CodeAst.columns.items():
        assert found[name] == column.empty or (math.isnan(found[name]) and math.isnan(column.empty))


@pytest.mark.parametrize(
    "text", ["x", "\0", "a = 1\0\nb = a\n", "\u05d0 = 1\nprint(\u05d0)\n", "\ud800", "(" * 100_000, "{[" * 50_000]
)
def test_awkward_text_passes(tagger, text):
    texts = [document(text, lang) for lang in grammars.PATHS]
    found = tagger.tag_batch(Batch(texts, None))
    assert list(found["code_lang"]) == list(grammars.PATHS)
    assert all(nodes >= 1 for nodes in found["code_nodes"])


def test_deep_nesting_by_hand():
    depth = 100_000
    found = shape(b"(" * depth + b"1" + b")" * depth, grammars.grammar("python"))
    # module, expression_statement, a parenthesized_expression per bracket, integer
    assert found.widths == [1] * (depth + 3)


def test_open_brackets_are_limited():
    few = CodeAst(lang="py", max_open_brackets=3)
    few.load()
    assert few.tag(document("(((1)))\n" * 9), None)["code_truncated"] == 0
    found = few.tag(document("a = 1\n((((1))))\n"), None)
    assert found["code_truncated"] == 1


def test_long_documents_are_read_up_to_the_limit(tagger):
    short = CodeAst(lang="py", max_bytes=10)
    short.load()
    # 10 bytes hold "a = 1\nb =" and half of the next character, which is left out.
    assert short.tag(document("a = 1\nb =\u05d0"), None)["code_truncated"] == 1
    assert short.tag(document("a = 1\nb = "), None)["code_truncated"] == 0
    found = tagger.tag(document("a = 1\n" * 8_400_000, "py"), None)  # 50.4 MB
    assert found["code_truncated"] == 1
    # 2**16 bytes are 10,922 lines of 6 bytes and "a = "; a line is a statement with an assignment of 1 to a.
    assert found["code_nodes"] >= 1 + 4 * 10_922


def test_batch_mates_do_not_matter(tagger):
    documents = [document(source, lang) for lang, (source, _, _) in SAMPLES.items()]
    together = tagger.tag_batch(Batch(documents, None))
    for at, one in enumerate(documents):
        assert tagger.tag(one, None) == {name: values[at] for name, values in together.items()}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [({"lang": "Rust"}, "tagger.code_ast.lang: 'Rust'"), ({"max_bytes": 0}, "tagger.code_ast.max_bytes: 0")],
)
def test_errors_say_what_is_accepted(parameters, words):
    with pytest.raises(ConfigError, match=words):
        CodeAst(**parameters).load()


def test_missing_grammar(monkeypatch):
    monkeypatch.setitem(sys.modules, "tree_sitter_go", None)
    with pytest.raises(ConfigError, match="pip install tree-sitter tree-sitter-go"):
        grammars.grammar("go")


def test_every_path_exists_in_the_grammars():
    for name in grammars.PATHS:
        assert grammars.grammar(name).outer
