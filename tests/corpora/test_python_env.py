"""The text of a Python environment, on hand-made environments and hand-written sources."""

from __future__ import annotations

import ast
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import joblib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError
from njsl.corpora import python_env

DOC = "Words of a docstring that goes on for long enough to be taken as natural language. " * 4


def stripped(source: str) -> str:
    return python_env.without_docstrings(source, ast.parse(source))


class Without(ast.NodeTransformer):
    """Docstrings out by Python's own idea of what one is; a body left empty gets ``pass``, a module's does not."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
            if not node.body and not isinstance(node, ast.Module):
                node.body.append(ast.Pass())
        return node


def same_tree(source: str, result: str) -> bool:
    return ast.dump(ast.parse(result)) == ast.dump(Without().visit(ast.parse(source)))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""Module."""\nx = 1\n', "x = 1\n"),
        ('"""Only."""\n', ""),
        ('# first\n"""Module."""  # why\nx = 1\n', "# first\n  # why\nx = 1\n"),
        ('def f():\n    """Doc."""\n    return 1\n', "def f():\n    return 1\n"),
        ('def f():\n    """Doc."""\n', "def f():\n    pass\n"),
        ('def f():\n    """Doc\n    goes on."""  # why\n', "def f():\n    pass  # why\n"),
        ("def f(): 'doc'\n", "def f(): pass\n"),
        ("def f(): 'doc'; return 1\n", "def f(): return 1\n"),
        ("def f():\n    'doc'; x = 1; return x\n", "def f():\n    x = 1; return x\n"),
        ("def f():\n    'doc';\n    return 1\n", "def f():\n    return 1\n"),
        ("def f(): 'doc';\n", "def f(): pass;\n"),
        ("'a'; 'b'\n", "'b'\n"),
        ("async def f():\n    'doc'\n    await g()\n", "async def f():\n    await g()\n"),
        ("class A:\n    'doc'\n    x = 'no doc'\n", "class A:\n    x = 'no doc'\n"),
        ("class A:\n  'A'\n  def f(self):\n    'f'\n  class B: 'B'\n",
         "class A:\n  def f(self):\n    pass\n  class B: pass\n"),
        ("def f():\n    ('in '\n     'parentheses')\n    return 1\n", "def f():\n    return 1\n"),
        ("def f():\n    'one' \\\n    'two'\n    return 1\n", "def f():\n    return 1\n"),
        ("def f():\n    'é'; x = 'ü'\n", "def f():\n    x = 'ü'\n"),
        ("def f():\n\x0c    'doc'\n    return 1\n", "def f():\n    return 1\n"),
        ("if x:\n  try:\n    def f():\n      'doc'\n  except E:\n    def f():\n      'doc'\n      return 1\n",
         "if x:\n  try:\n    def f():\n      pass\n  except E:\n    def f():\n      return 1\n"),
        ("match x:\n  case 1:\n    def f(): 'doc'\n", "match x:\n  case 1:\n    def f(): pass\n"),
        ("def f():\n    f'no {doc}'\n    b'none'\n", "def f():\n    f'no {doc}'\n    b'none'\n"),
        ("x = 1\n'no doc'\n", "x = 1\n'no doc'\n"),
        ("def f():\n    'doc'\n    # last\n", "def f():\n    pass\n    # last\n"),
        ("def f():\n\t'doc'\n\treturn 1", "def f():\n\treturn 1"),
    ],
)  # fmt: skip
def test_docstrings_go_and_nothing_else(source: str, expected: str) -> None:
    assert stripped(source) == expected
    assert same_tree(source, expected)


def test_a_continued_docstring_is_refused() -> None:
    source = "def f():\n    'doc' \\\n\n    return 1\n"
    with pytest.raises(ValueError, match="line 2: a docstring with a line continuation"):
        stripped(source)


QUOTED = st.sampled_from(["'d'", '"""d\n\n  e"""', "r'\\d'", "u'é\u2028'", "'a' 'b'", "('a'\n'b')", "f'{x}'", "b'd'"])
ENDS = st.sampled_from(["", ";", "  # why", " ; # why", "; y = 'ä'", ";z=1;"])


@st.composite
def blocks(draw: st.DrawFn, depth: int = 0) -> list[str]:
    """Lines of a body: perhaps a docstring, then statements, some with bodies of their own."""
    lines = [f"{draw(QUOTED)}{draw(ENDS)}"] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0 if lines else 1, 3))):
        head = draw(st.sampled_from(["def f():", "async def g(a='x'):", "class A:", "if x:", "x = 1", "'text'", ""]))
        if not head.endswith(":"):
            lines.append(head or "pass  # \x0c")
        elif draw(st.booleans()) or depth > 2:
            lines.append(f"{head} {draw(QUOTED)}{draw(ENDS)}")
        else:
            inner = "\n".join(draw(blocks(depth=depth + 1)))
            lines += [head, *("    " + line for line in inner.split("\n"))]
    return lines


@given(blocks())
@settings(max_examples=80, deadline=None)
def test_the_tree_is_that_without_docstrings(lines: list[str]) -> None:
    source = "\n".join(lines) + "\n"
    assert same_tree(source, stripped(source))


def test_the_tree_is_that_without_docstrings_in_the_standard_library() -> None:
    library = Path(sysconfig.get_path("stdlib"))
    paths = [path for name in ("asyncio", "json") for path in sorted((library / name).rglob("*.py"))]
    assert len(paths) > 30
    for path in paths:
        source = python_env._decode(path.read_bytes())
        assert same_tree(source, stripped(source)), path


# ------------------------------------------------------------------------------------------------ whole environments


def distribution(site: Path, name: str, files: dict[str, bytes], description: str = "") -> None:
    for place, content in files.items():
        (site / place).parent.mkdir(parents=True, exist_ok=True)
        (site / place).write_bytes(content)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\n{description}", "utf-8")
    (info / "RECORD").write_text("".join(f"{place},,\n" for place in files), "utf-8")


def module(name: str, n: int, doc: str = DOC) -> bytes:
    functions = (f'def {name}_{i}():\n    """{i} {doc}"""\n    return "{name}", {i}\n\n\n' for i in range(n))
    return "".join(functions).encode()


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three distributions, a module without one, and a standard library of one module; in one process."""
    library, site = tmp_path / "lib", tmp_path / "site-packages"
    library.mkdir(), site.mkdir()
    (library / "tool.py").write_bytes(b"def tool():\n    return 0\n")
    (library / "test").mkdir()
    (library / "test" / "test_tool.py").write_bytes(b"x = 'left out'\n")
    distribution(
        site,
        "Latin_Pack",
        {
            "latin/__init__.py": b"",
            "latin/cookie.py": "# -*- coding: latin-1 -*-\r\n'''Docstring'''\r\nx = 'caf\u00e9'\r\n".encode("latin-1"),
            "latin/bom.py": b"\xef\xbb\xbfx = 'bom'\n",
            "latin/broken.py": b"print 'two'\n",
            "latin/null.py": b"x = 1\0\n",
            "latin/codec.py": b"# coding: hex\nx = 1\n",
            "latin/bytes.py": b"x = '\xff'\n",
            "latin/deep.py": b"(" * 500 + b")" * 500 + b"\n",
            "latin/big.py": b"x = 1\n" * 200_000,
            "latin/tests/test_latin.py": b"x = 'left out'\n",
            "latin/_vendor/copy.py": b"x = 'left out'\n",
        },
        description="# Latin\n" + "What this package is for. " * 20,
    )
    distribution(site, "njsl", {"njsl/__init__.py": module("own", 3)}, description=DOC)
    distribution(site, "docs", {f"docs/m{i}.py": module(f"m{i}", 6) for i in range(12)})
    (site / "single.py").write_bytes(module("single", 2))
    monkeypatch.setattr(python_env, "_roots", lambda: (library, [site]))
    monkeypatch.setattr(python_env, "topics", {"if": "The if statement. " * 5})
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    return tmp_path


def records(paths: list[Path]) -> list[dict[str, str]]:
    return [json.loads(line) for path in paths for line in gzip.open(path, "rb").read().splitlines()]


def extract(folder: Path, nl: float | None = None, code: float | None = None, seed: int = 0) -> dict[str, list[Path]]:
    return python_env.extract(folder, parts={"nl": nl, "code": code}, seed=seed)


def test_everything_is_taken_without_a_limit(environment: Path) -> None:
    files = extract(environment / "out")
    code = {record["id"]: record for record in records(files["code"])}
    assert set(code) == {
        "stdlib/tool.py",
        "site-packages/single.py",
        "site-packages/latin/cookie.py",
        "site-packages/latin/bom.py",
        *(f"site-packages/docs/m{i}.py" for i in range(12)),
    }
    assert code["site-packages/latin/cookie.py"] == {
        "id": "site-packages/latin/cookie.py",
        "group": "latin-pack",
        "text": "# -*- coding: latin-1 -*-\nx = 'caf\u00e9'\n",
    }
    assert code["site-packages/latin/bom.py"]["text"] == "x = 'bom'\n"
    assert {code[name]["group"] for name in ("stdlib/tool.py", "site-packages/single.py")} == {"stdlib/tool", "single"}
    assert DOC[:40] not in "".join(record["text"] for record in code.values())
    nl = {record["id"]: record for record in records(files["nl"])}
    assert len(nl) == 1 + 1 + 12 * 6 + 2
    assert nl["pydoc_data/if"]["text"] == "The if statement. " * 5
    assert nl["description/latin-pack"]["text"].startswith("# Latin\nWhat this")
    assert nl["site-packages/docs/m3.py:2:4"]["text"] == f"0 {DOC}"
    counts = json.loads((files["code"][0].parent / "manifest.json").read_text())["counts"]
    assert counts == {"not parsable": 5, "parsed": 16}  # broken, null, codec, bytes, deep


def test_short_docstrings_stay_out(environment: Path) -> None:
    site = environment / "site-packages"
    exact = "x" * 200
    body = f'def f():\n    """{exact}"""\n\ndef g():\n    """\n    {exact}y\n    """\n'
    distribution(site, "edge", {"edge.py": body.encode()})
    texts = [r["text"] for r in records(extract(environment / "out")["nl"]) if r["group"] == "edge"]
    assert texts == [exact + "y"]


def test_limits_and_shares_hold(environment: Path) -> None:
    for i in range(30):
        files = {f"p{i}/c{j}.py": b"x = 1\n" * 20 for j in range(12)}
        distribution(environment / "site-packages", f"p{i}", {f"p{i}/m.py": module(f"p{i}", 10), **files})
    extracted = extract(environment / "out", nl=0.03, code=0.015)
    for part, limit in (("nl", 0.03 * 2**20), ("code", 0.015 * 2**20)):
        sizes: dict[str, int] = {}
        for record in records(extracted[part]):
            sizes[record["group"]] = sizes.get(record["group"], 0) + len(record["text"].encode())
        assert 0.9 * limit < sum(sizes.values()) <= limit
        assert max(sizes.values()) <= python_env.SHARES[part] * limit
    seeds = [{r["group"] for r in records(extract(environment / "out", 0.03, 0.015, seed)["nl"])} for seed in (0, 1)]
    assert seeds[0] != seeds[1]
    assert "pydoc_data" in seeds[0] & seeds[1]


def test_either_part_is_the_same_without_the_other(environment: Path) -> None:
    both = extract(environment / "a", nl=0.01, code=0.02)
    for part, limit in (("nl", 0.01), ("code", 0.02)):
        alone = python_env.extract(environment / "b", parts={part: limit}, seed=0)[part]
        assert [p.read_bytes() for p in alone] == [p.read_bytes() for p in both[part]]
        manifests = [files[0].parent / "manifest.json" for files in (alone, both[part])]
        assert manifests[0].read_bytes() == manifests[1].read_bytes()


def test_docs_and_prose_are_the_two_halves_of_nl(environment: Path) -> None:
    parts = python_env.extract(environment / "out", parts=dict.fromkeys(("nl", "docs", "prose", "code")), seed=0)
    nl, docs, prose = (records(parts[part]) for part in ("nl", "docs", "prose"))
    assert {record["id"] for record in prose} == {"pydoc_data/if", "description/latin-pack"}
    assert len(docs) == 12 * 6 + 2 and all(re.search(r"\.py:\d+:\d+$", record["id"]) for record in docs)
    assert sorted(nl, key=lambda r: r["id"]) == sorted(docs + prose, key=lambda r: r["id"])


@pytest.mark.parametrize("part", ["docs", "prose"])
def test_each_half_is_the_same_without_the_others(environment: Path, part: str) -> None:
    parts = {"nl": 0.01, "docs": 0.008, "prose": 0.01, "code": 0.02}
    alone = python_env.extract(environment / "a", parts={part: parts[part]}, seed=0)[part]
    together = python_env.extract(environment / "b", parts=parts, seed=0)[part]
    assert [path.read_bytes() for path in alone] == [path.read_bytes() for path in together]


def test_packages_that_are_not_named_do_not_matter(environment: Path) -> None:
    def named(folder: str) -> list[bytes]:
        files = python_env.extract(
            environment / folder, parts={"nl": None, "code": None}, seed=0, only=["docs", "single"]
        )
        assert {record["group"] for paths in files.values() for record in records(paths)} == {"docs", "single"}
        return [path.read_bytes() for paths in files.values() for path in paths]

    before = named("a")
    distribution(environment / "site-packages", "another", {"another/m.py": module("another", 9)}, description=DOC)
    assert named("b") == before


def test_a_named_package_that_is_not_there_is_an_error(environment: Path) -> None:
    with pytest.raises(DataError, match=r"corpora\.packages: not in this environment: absent, gone; names of"):
        python_env.extract(environment / "out", parts={"code": None}, seed=0, only=["docs", "gone", "absent"])


def test_a_complete_part_is_only_looked_up(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = extract(environment / "out")
    monkeypatch.setattr(python_env, "_package", None)
    assert extract(environment / "out") == files


def test_a_changed_environment_is_extracted_anew(environment: Path) -> None:
    before, files = python_env.fingerprint(), extract(environment / "out")
    assert python_env.fingerprint() == before
    (environment / "site-packages" / "single.py").write_bytes(module("single", 3))
    assert python_env.fingerprint() != before
    again = extract(environment / "out")
    assert not set(again["code"]) & set(files["code"])
    assert "site-packages/single.py:12:4" in {record["id"] for record in records(again["nl"])}


def test_what_an_interrupted_run_left_does_not_matter(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_env, "_FILE_BYTES", 4000)
    files = extract(environment / "out")["nl"]
    whole = [path.read_bytes() for path in files]
    assert len(files) > 1
    folder = files[0].parent
    (folder / "manifest.json").unlink()
    files[0].write_bytes(whole[0][:100])
    files[1].unlink()
    (folder / ".00001.jsonl.gz.tmp").write_bytes(b"half")
    (folder / "00099.jsonl.gz").write_bytes(b"of another time")
    assert [path.read_bytes() for path in extract(environment / "out")["nl"]] == whole
    assert {path.name for path in folder.iterdir()} == {"manifest.json", *(path.name for path in files)}
    files[1].write_bytes(whole[1][:-1])  # and a file that lost a byte after all was complete
    assert [path.read_bytes() for path in extract(environment / "out")["nl"]] == whole


SCRIPT = """
import os, signal, sys
from pathlib import Path
import joblib
from njsl.corpora import python_env
root, out, workers, kill = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
python_env._roots = lambda: (root / "lib", [root / "site-packages"])
python_env.topics = {"if": "The if statement. " * 5}
python_env._FILE_BYTES = 4000
joblib.cpu_count = lambda: workers
write = python_env.write
def once(path, documents):
    if kill and path.name == "00001.jsonl.gz":
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, documents)
python_env.write = once
python_env.extract(out, parts={"nl": None, "code": None}, seed=0)
"""


def test_killed_and_run_again_with_other_workers_and_hashes_gives_the_same(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: str, workers: int, kill: int, hashes: str) -> int:
        script = environment / "script.py"
        script.write_text(textwrap.dedent(SCRIPT))
        command = [sys.executable, str(script), str(environment), str(environment / out), str(workers), str(kill)]
        return subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": hashes}, check=False).returncode

    def content(out: str) -> dict[str, bytes]:
        return {str(p.relative_to(environment / out)): p.read_bytes() for p in (environment / out).rglob("*.*")}

    assert run("killed", 1, 1, "1") == -signal.SIGKILL
    assert content("killed")
    assert run("killed", 2, 0, "2") == 0
    monkeypatch.setattr(python_env, "_FILE_BYTES", 4000)
    extract(environment / "whole")
    assert content("killed") == content("whole")


def test_no_text_is_an_error(environment: Path) -> None:
    with pytest.raises(DataError, match="no text of part=code in this environment that fits"):
        python_env.extract(environment / "out", parts={"code": 1e-5}, seed=0)


def test_lone_surrogates_are_no_text(environment: Path) -> None:
    source = b'def f():\n    "' + b"x" * 300 + b'\\ud800"\n\ndef g():\n    """' + b"y" * 300 + b'"""\n'
    distribution(environment / "site-packages", "odd", {"odd.py": source})
    found = [r["text"] for r in records(extract(environment / "out")["nl"]) if r["group"] == "odd"]
    assert found == ["y" * 300]


def test_this_environment_has_packages() -> None:
    packages = {package.group: package for package in python_env._packages()}
    assert "njsl" not in packages
    assert {"numpy", "scikit-learn", "stdlib/asyncio", "pydoc_data"} <= set(packages)
    assert any(name.startswith("site-packages/sklearn/") for name, _, _ in packages["scikit-learn"].files)
    names = [name for package in packages.values() for name, _, _ in package.files]
    assert len(names) == len(set(names))
    texts = [name for package in packages.values() for name, _ in package.texts]
    assert len(texts) == len(set(texts)) > 80
