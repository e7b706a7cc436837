"""``python -m njsl.store``: exit codes, one line for what is wrong, JSON for scripts, and a dry run that is one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.store.__main__ import main
from store.inputs import FACTS, ROOT, command, config, database, environment, features, results, store

VERBS = ("create", "show", "add-model", "import-evals", "import-features", "alias", "check", "diff", "export", "build")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process, in a folder with the small sources: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    small()

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return (code, *capfd.readouterr())

    return run


def small() -> None:
    """The sources in the current folder, and x.duckdb with a result file."""
    results(Path("results_1.json"))
    config(Path("config.json"))
    Path("facts.yaml").write_text(FACTS)
    features(Path("features.csv"), length_mean=1.5, entropy_mean=2.25)
    Path("contrib").mkdir()
    Path("contrib/org__base.yaml").write_text(FACTS)
    Path("x.duckdb").write_bytes(database())


def strict(text: str) -> Any:
    """JSON without what JSON has not."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def rows(path: str, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(path, read_only=True) as connection:
        return connection.execute(query).fetchall()


def refused(answer: tuple[int, str, str]) -> str:
    """The one line of a command that was refused."""
    code, _, said = answer
    assert code == 1 and len(said.splitlines()) == 1 and said.endswith("\n"), answer
    assert "Traceback" not in said and said.strip()
    return said.strip()


# ---- help


def test_help_of_every_verb_is_quick_and_light(tmp_path: Path) -> None:
    light = f"""
import contextlib, io, resource, sys
from njsl.store.__main__ import main
for verb in {("", *VERBS)!r}:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            main([verb, "--help"] if verb else ["--help"])
        except SystemExit as end:
            assert end.code == 0
    assert said.getvalue().startswith("usage: python -m njsl.store " + verb), said.getvalue()
    assert not verb or "--json" in said.getvalue()
heavy = {{"pandas", "numpy", "duckdb", "torch", "pyarrow", "yaml", "transformers"}} & sys.modules.keys()
used = resource.getrusage(resource.RUSAGE_SELF)
print(heavy, used.ru_utime + used.ru_stime)
"""
    done = subprocess.run(
        [sys.executable, "-c", light], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    heavy, seconds = done.stdout.rsplit(maxsplit=1)
    assert heavy == "set()"
    assert float(seconds) < 1  # 0.2 where it was measured


@pytest.mark.parametrize(
    "words",
    [
        ("add-model", "x.duckdb", "--id", "org/base", "config.json"),
        ("add-model", "--id", "org/base", "x.duckdb", "config.json"),
        ("add-model", "x.duckdb", "config.json", "--id", "org/base"),
        ("import-evals", "--shots", "a=1", "x.duckdb", "--json", "results_1.json"),
        ("show", "x.duckdb", "--view", "raw", "org/base"),
        ("show", "--json", "x.duckdb", "org/base"),
    ],
)
def test_options_stand_anywhere(run: Run, words: tuple[str, ...]) -> None:
    code, said, wrong = run(*words)
    assert (code, wrong) == (0, "") and ("org/base" in said or "results_1.json" in said)


def test_a_score_without_a_standard_error_is_one_value(run: Run) -> None:
    results(Path("results_2.json"), arc_challenge=0.5)
    text = Path("results_2.json").read_text().replace(', "acc_stderr,none": 0.01', "")
    Path("results_2.json").write_text(text)
    for new, equal in ((1, 0), (0, 1)):
        code, said, _ = run("import-evals", "x.duckdb", "results_2.json")
        assert code == 0 and f"{new} new, {equal} equal" in said and "None" not in said


def test_help_names_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(verb in said for verb in VERBS)
    assert all(f"{code} " in said for code in (0, 1, 3, 130))


# ---- every verb, in words and in JSON


def test_every_verb_answers_in_json(run: Run) -> None:
    """Each verb in turn on one database; codes and figures as the sources have them."""

    def answer(*words: str, code: int = 0) -> Any:
        found, said, wrong = run(*words, "--json")
        assert (found, wrong) == (code, ""), (words, wrong)
        return strict(said)

    assert answer("create", "y.duckdb", "--from", "x.duckdb")["rows"]["evaluation_results"] == 2
    tables = answer("show", "y.duckdb")
    assert tables["version"] == 2 and [table["rows"] for table in tables["tables"] if table["table"] == "models"] == [1]
    (added,) = answer("add-model", "y.duckdb", "config.json", "--id", "org/base")["sources"]
    assert added["status"] == "imported" and "model_annotations org/base num_layers = 2" in added["added"]
    assert added["new"] == len(added["added"]) > 10
    assert answer("add-model", "y.duckdb", "--facts", "facts.yaml")["sources"][0]["added"] == [
        "models org/base family = base"
    ]
    (scores,) = answer("import-evals", "y.duckdb", "results_1.json")["sources"]
    assert (scores["new"], scores["equal"], scores["conflicts"]) == (0, 4, [])
    assert answer("import-features", "y.duckdb", "features.csv")["sources"][0]["new"] == 2
    model = answer("show", "y.duckdb", "org/base")
    assert model["facts"]["family"] == "base" and model["facts"]["num_layers"] == 2
    assert {score["benchmark"]: score["metric_value"] for score in model["scores"]} == {
        "hellaswag": 0.5,
        "winogrande": 0.625,
    }
    assert answer("show", "y.duckdb", "--coverage")["labels"] == {"org/base": {"winogrande": 0.625}}
    assert answer("alias", "y.duckdb", "benchmark", "winogrande", "winogrande_xl")["refused"] == 0
    assert answer("check", "y.duckdb")["wrong"] == 0
    differ = answer("diff", "x.duckdb", "y.duckdb", code=3)
    assert {"table", "key", "field", "left", "right"} == set(differ[0])
    assert answer("diff", "x.duckdb", "x.duckdb") == []
    assert answer("export", "y.duckdb", "folder")["folder"] == "folder"
    assert answer("build", "contrib", "z.duckdb")["sources"][0]["status"] == "imported"
    assert rows("z.duckdb", "SELECT id, family FROM models") == [("org/base", "base")]


def test_every_verb_answers_in_words(run: Run) -> None:
    for words, last in (
        (("create", "y.duckdb", "--from", "x.duckdb"), "y.duckdb: 1 models, 2 evaluation_results"),
        (("create", "empty.duckdb"), "empty.duckdb: empty"),
        (("add-model", "y.duckdb", "config.json", "--id", "org/base"), "y.duckdb: 1 of 1 sources imported; saved"),
        (("import-features", "y.duckdb", "features.csv"), "y.duckdb: 1 of 1 sources imported; saved"),
        (("alias", "y.duckdb", "benchmark", "a", "b"), "y.duckdb: 1 of 1 sources imported; saved"),
        (("show", "y.duckdb", "org/base"), "config.json"),
        (("check", "y.duckdb"), "y.duckdb: 0 findings are wrong"),
        (("diff", "x.duckdb", "x.duckdb"), "0 differences"),
        (("export", "y.duckdb", "folder"), "folder: 12 tables"),
        (("build", "contrib", "z.duckdb"), "z.duckdb: 1 of 1 sources imported; saved"),
    ):
        code, said, wrong = run(*words)
        assert (code, wrong) == (0, "") and last in said.splitlines()[-1], (words, said, wrong)


def test_what_is_wrong_and_what_differs_is_3(run: Run) -> None:
    for name in ("org/base", "org/other"):
        parent = "org/other" if name == "org/base" else "org/base"
        Path("facts.yaml").write_text(FACTS.replace("org/base", name) + f"parent: {parent}\n")
        assert run("add-model", "x.duckdb", "--facts", "facts.yaml")[0] == 0
    code, said, wrong = run("check", "x.duckdb")
    assert (code, wrong) == (3, "") and "parent: 2 (wrong)" in said and "2 findings are wrong" in said
    run("create", "y.duckdb")
    code, said, wrong = run("diff", "x.duckdb", "y.duckdb")
    assert (code, wrong) == (3, "") and "models org/base (row): there | -" in said


# ---- one line for what is wrong

LONG = "a" * 300
BAD: tuple[tuple[tuple[str, ...], str], ...] = (
    ((), "VERB"),
    (("shwo",), "shwo"),
    (("--nonsense",), "VERB"),
    (("show",), "database"),
    (("show", "x.duckdb", "--json", "--view", "cooked"), "cooked"),
    (("show", "nowhere"), "nowhere: no such folder or file"),
    (("show", LONG), "File name too long"),
    (("show", "x.duckdb", "org/bass"), "did you mean org/base?"),
    (("show", "facts.yaml"), "not a DuckDB file"),
    (("show", "contrib"), "not an export folder"),
    (("show", "broken\udcff.duckdb"), "broken"),
    (("create",), "database"),
    (("create", "x.duckdb"), "x.duckdb: exists; a new file is accepted"),
    (("create", "contrib"), "contrib: exists"),
    (("create", "."), "exists"),
    (("create", "nowhere/y.duckdb"), "nowhere/y.duckdb: cannot be written"),
    (("create", "x.duckdb/y.duckdb"), "cannot be written"),
    (("create", LONG), "cannot be written"),
    (("create", "broken\udcff.duckdb"), "not UTF-8"),
    (("create", "y.duckdb", "--from", "nowhere"), "nowhere: no such folder or file"),
    (("create", "y.duckdb", "--from", "~no_such_user/x"), "~no_such_user/x: no such folder or file"),
    (("create", "y.duckdb", "--from", "facts.yaml"), "not a DuckDB file"),
    (("add-model", "x.duckdb"), "nothing to add"),
    (("add-model", "x.duckdb", "nowhere", "--id", "a/b"), "nowhere"),
    (("add-model", "x.duckdb", "contrib"), "neither config.json nor model cards"),
    (("add-model", "x.duckdb", "config.json"), "id"),
    (("add-model", "x.duckdb", "config.json", "--id", "../../etc/passwd"), "etc/passwd"),
    (("add-model", "x.duckdb", "config.json", "--id", "x'; DROP TABLE models; --"), "DROP TABLE"),
    (("add-model", "x.duckdb", "--facts", "nowhere.yaml"), "nowhere.yaml: no such file"),
    (("add-model", "x.duckdb", "--facts", "contrib"), "a folder"),
    (("add-model", "x.duckdb", "--facts", "config.json", "--id", "a/b"), "config.json"),
    (("add-model", "x.duckdb", "--name", "nonsense", "config.json"), "NAME=VALUE"),
    (("add-model", "nowhere.duckdb", "config.json", "--id", "a/b"), "nowhere.duckdb: no such file"),
    (("import-evals", "x.duckdb"), "PATH"),
    (("import-evals", "x.duckdb", "contrib"), "no result files"),
    (("import-evals", "x.duckdb", LONG), "File name too long"),
    (("import-evals", "x.duckdb", "config.json"), "results: missing"),
    (("import-evals", "x.duckdb", "results_1.json", "--id", "a b"), "a b"),
    (("import-evals", "x.duckdb", "results_1.json", "--shots", "x"), "NAME=VALUE"),
    (("import-evals", "x.duckdb", "results_1.json", "--shots", "x=many"), "up to 4 digits"),
    (("import-evals", "x.duckdb", "results_1.json", "--shots", "x=" + "9" * 5000), "up to 4 digits"),
    (("import-evals", "x.duckdb", "results_1.json", "--on-conflict", "guess"), "guess"),
    (("import-evals", "nowhere.duckdb", "results_1.json"), "python -m njsl.store create nowhere.duckdb"),
    (("import-evals", "contrib", "results_1.json"), "contrib: no such file"),
    (("import-evals", "facts.yaml", "results_1.json"), "not a DuckDB file"),
    (("import-features", "x.duckdb", "nowhere.csv"), "nowhere.csv"),
    (("import-features", "x.duckdb", "config.json"), "config.json"),
    (("import-features", "x.duckdb", LONG), "File name too long"),
    (("alias", "x.duckdb", "owner", "a", "b"), "owner"),
    (("alias", "x.duckdb", "model", "a/b", "c/d"), "neither 'a/b' nor 'c/d'"),
    (("alias", "x.duckdb", "model", "org/base", "org/base"), "another name"),
    (("alias", "x.duckdb", "model", "org/base", "../x"), "../x"),
    (("alias", "x.duckdb", "benchmark", "a\nb", "c"), "aliases"),
    (("alias", LONG, "benchmark", "a", "b"), "File name too long"),
    (("check", "nowhere"), "nowhere"),
    (("diff", "x.duckdb"), "SOURCE"),
    (("diff", "x.duckdb", "nowhere"), "nowhere"),
    (("diff", "x.duckdb@cooked", "x.duckdb"), "@raw and @curated"),
    (("export", "x.duckdb", "contrib"), "contrib: exists; a new folder is accepted"),
    (("export", "x.duckdb", "facts.yaml/new"), "cannot be written"),
    (("export", "x.duckdb", LONG), "cannot be written"),
    (("export", "nowhere", "folder"), "nowhere"),
    (("build", "nowhere", "y.duckdb"), "nowhere"),
    (("build", "contrib", "x.duckdb"), "x.duckdb: exists; a new file is accepted"),
    (("build", "contrib", "x.duckdb", "--dry-run"), "x.duckdb: exists; a new file is accepted"),
    (("build", "contrib", "y.duckdb", "--from", "nowhere"), "nowhere"),
)


def snapshot() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


def test_what_is_refused_is_one_line_and_changes_nothing(run: Run) -> None:
    before = snapshot()
    for number, (words, part) in enumerate(BAD):
        line = refused(run(*words, *(("--json",) if number % 2 else ())))
        assert part in line, (words, line)
    assert snapshot() == before


WORDS = (
    "--json --from --dry-run --on-conflict keep replace --id org/base --facts --view --coverage --parquet --shots a=1 "
    "--name = x.duckdb x.duckdb@curated config.json contrib facts.yaml features.csv results_1.json . - -- -1 ' ü "
    "model benchmark folder new ../new --help"
)
WORD = st.sampled_from([*VERBS, *WORDS.split(), "", " ", "\n", "\udcff", LONG])


def test_no_command_line_ends_in_a_traceback(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path.with_name(f"{tmp_path.name}-kept")
    shutil.copytree(tmp_path, kept)

    @settings(max_examples=80, deadline=None)
    @given(verb=st.sampled_from(VERBS), words=st.lists(WORD, max_size=5))
    def never(verb: str, words: list[str]) -> None:
        for left in (path for path in (tmp_path, tmp_path.parent / "new") if path.exists()):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        shutil.copytree(kept, tmp_path)
        os.chdir(tmp_path)
        try:
            code = main([verb, *words])
        except SystemExit as end:
            assert end.code == 0 and "--help" in words
            return
        finally:
            _, said = capfd.readouterr()
        assert code in (0, 1, 3) and len(said.splitlines()) == (code == 1), (words, code, said)

    never()


def test_a_file_of_another_kind_is_not_waited_for(run: Run, tmp_path: Path) -> None:
    os.mkfifo("pipe")
    assert "pipe: no such file" in refused(run("alias", "pipe", "benchmark", "a", "b"))
    assert "pipe: no such folder or file" in refused(run("show", "pipe"))


# ---- a dry run


@pytest.mark.parametrize("rule", [None, "keep", "replace"])
def test_a_dry_run_says_the_same_and_changes_nothing(run: Run, rule: str | None) -> None:
    config(Path("other.json"), num_hidden_layers=3, id=None)
    results(Path("results_2.json"), hellaswag=0.75, arc_challenge=0.25)
    features(Path("features_2.csv"), length_mean=2.5, other_mean=1.0)
    assert run("add-model", "x.duckdb", "config.json", "--id", "org/base")[0] == 0
    assert run("import-features", "x.duckdb", "features.csv")[0] == 0
    chosen = () if rule is None else ("--on-conflict", rule)
    for words in (
        ("add-model", "x.duckdb", "other.json", "--id", "org/base", "--facts", "facts.yaml"),
        ("import-evals", "x.duckdb", "results_1.json", "results_2.json"),
        ("import-features", "x.duckdb", "features_2.csv"),
        ("alias", "x.duckdb", "benchmark", "hellaswag", "hella"),
    ):
        before, time_ns = Path("x.duckdb").read_bytes(), os.stat("x.duckdb").st_mtime_ns
        dry, dry_said, dry_wrong = run(*words, *chosen, "--dry-run", "--json")
        assert Path("x.duckdb").read_bytes() == before and os.stat("x.duckdb").st_mtime_ns == time_ns
        code, said, wrong = run(*words, *chosen, "--json")
        assert (dry, dry_wrong) == (code, wrong)
        assert strict(dry_said) == strict(said) | {"dry_run": True}
        assert code == (1 if rule is None and words[0] != "alias" else 0)
        assert ("--on-conflict" in wrong) if code else (Path("x.duckdb").read_bytes() != before)


def test_a_dry_run_says_so(run: Run) -> None:
    for words in (("results_1.json",), ("results_2.json",)):
        results(Path("results_2.json"), "org/two", hellaswag=0.75)
        dry = run("import-evals", "x.duckdb", *words, "--dry-run")
        real = run("import-evals", "x.duckdb", *words)
        assert dry[1].splitlines()[:-1] == real[1].splitlines()[:-1] and (dry[0], dry[2]) == (real[0], real[2])
        assert dry[1].splitlines()[-1].endswith("; dry run, nothing is changed")


def test_a_dry_build_makes_nothing(run: Run) -> None:
    code, said, _ = run("build", "contrib", "y.duckdb", "--dry-run")
    assert code == 0 and said.splitlines()[-1] == "y.duckdb: 1 of 1 sources imported; dry run, nothing is changed"
    assert not Path("y.duckdb").exists()
    assert run("build", "contrib", "y.duckdb")[1].splitlines()[:-1] == said.splitlines()[:-1]


# ---- conflicts

VALUES = "SELECT benchmark, metric_value FROM evaluation_results ORDER BY benchmark"
# Of the value itself; its circumstances, such as its source, are replaced with it.
HISTORY = (
    "SELECT subject, row_key, old, new, source, replaced_on = current_date FROM history "
    "WHERE field = 'metric_value' ORDER BY number"
)


def test_a_conflict_is_refused_kept_or_replaced(run: Run) -> None:
    results(Path("results_2.json"), hellaswag=0.75, arc_challenge=0.25)
    before = Path("x.duckdb").read_bytes()
    line = refused(run("import-evals", "x.duckdb", "results_2.json"))
    assert "0.5 there, 0.75 here" in line and line.endswith("--on-conflict=keep or --on-conflict=replace")
    assert Path("x.duckdb").read_bytes() == before

    code, said, _ = run("import-evals", "x.duckdb", "results_2.json", "--on-conflict=keep")
    assert code == 0 and "1 differ (keep)" in said
    kept = [("arc_challenge", 0.25), ("hellaswag", 0.5), ("winogrande", 0.625)]
    assert rows("x.duckdb", VALUES) == kept and rows("x.duckdb", HISTORY) == []

    code, said, _ = run("import-evals", "x.duckdb", "results_2.json", "--on-conflict=replace")
    assert code == 0 and "1 differ (replace)" in said
    assert rows("x.duckdb", VALUES) == [(name, 0.75 if name == "hellaswag" else value) for name, value in kept]
    ((table, key, *values),) = rows("x.duckdb", HISTORY)
    assert table == "evaluation_results" and key.startswith("org/base#hellaswag#5-shot#accuracy#1.0#")
    assert values == ["0.5", "0.75", f"{Path.cwd().name}/results_2.json", True]
    assert run("import-evals", "x.duckdb", "results_1.json", "--on-conflict=replace")[0] == 0
    assert [row[2:4] for row in rows("x.duckdb", HISTORY)] == [("0.5", "0.75"), ("0.75", "0.5")]


def test_the_good_files_of_a_folder_are_imported_and_the_bad_ones_named(run: Run) -> None:
    folder = Path("results")
    (folder / "deep").mkdir(parents=True)
    results(folder / "results_b.json", "org/two", hellaswag=0.5)
    results(folder / "deep" / "results_a.json", "org/three", hellaswag=0.25)
    results(folder / "results_impossible.json", "org/four", hellaswag=1.5)
    (folder / "results_empty.json").write_text('{"results": {}}')
    (folder / "results_cut.json").write_text('{"results": {"hell')
    (folder / "notes.json").write_text("{}")
    (folder / "notes.txt").write_text("none")
    for option in ((), ("--json",)):
        answer = run("import-evals", "x.duckdb", "results", *option)
        assert "x.duckdb: 3 of 5 sources refused; results/results_cut.json: " in refused(answer)
        if not option:
            assert "x.duckdb: 2 of 5 sources imported; saved" in answer[1]
            for name in ("empty", "cut", "impossible"):
                assert f"results/results_{name}.json: refused: " in answer[1]
        else:
            found = {Path(source["source"]).stem: source for source in strict(answer[1])["sources"]}
            assert {name for name, source in found.items() if source["reason"]} == {
                *("results_empty", "results_cut", "results_impossible")
            }
            assert found["results_a"]["equal"] == 2 and not found["results_a"]["added"]
    assert {name for (name,) in rows("x.duckdb", "SELECT id FROM models")} == {"org/base", "org/two", "org/three"}


def test_a_build_is_whole_or_nothing(run: Run) -> None:
    Path("contrib/org__bad.yaml").write_text(FACTS.replace("org/base", "org/bad") + "architecture: {num_layers: 0}\n")
    answer = run("build", "contrib", "y.duckdb")
    assert "num_layers" in refused(answer)
    Path("contrib/org__bad.yaml").write_text(
        FACTS.replace("org/base", "org/bad") + "architecture: {num_layers: 2}\nresults: [results_1.json]\n"
    )
    Path("contrib/org__bad").mkdir()
    results(Path("contrib/org__bad/results_1.json"), "org/bad", hellaswag=7.0)
    answer = run("build", "contrib", "y.duckdb")
    assert "1 of 3 sources refused; contrib/org__bad/results_1.json: " in refused(answer)
    assert answer[1].splitlines()[-1] == "y.duckdb: 2 of 3 sources imported; nothing is changed"
    assert not list(Path().glob("*y.duckdb*"))
    results(Path("contrib/org__bad/results_1.json"), "org/bad", hellaswag=0.5)
    assert run("build", "contrib", "y.duckdb", "--from", "x.duckdb")[0] == 0
    assert rows("y.duckdb", "SELECT id, benchmark FROM evaluation_results ORDER BY ALL") == [
        ("org/bad", "hellaswag"),
        ("org/base", "hellaswag"),
        ("org/base", "winogrande"),
    ]


# ---- where the answer goes


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, export: Path) -> Path:
    path = tmp_path_factory.mktemp("wide") / "x.duckdb"
    assert main(["create", str(path), "--from", str(export)]) == 0
    return path


def test_a_reader_that_has_seen_enough(wide: Path) -> None:
    """As ``| head`` does: it reads a little and goes."""
    process = subprocess.Popen(
        command("show", wide, "--coverage", "--json"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # before anything comes: the pipe would hold it all
    said = process.stderr.read()
    assert process.wait(60) == 1 and said == b""


def test_a_full_disk_behind_the_answer(wide: Path, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = store("show", wide, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 1 and done.stderr == "output: No space left on device\n"


def test_names_that_are_no_utf_8_are_shown(run: Run, tmp_path: Path) -> None:
    name = os.fsdecode(b"results_\xff.json")
    results(Path(name), "org/two", hellaswag=0.5)
    done = store("import-evals", "x.duckdb", name, cwd=tmp_path)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 1
    assert r"results_\udcff.json" in done.stdout


def test_the_readmes_contributions_build(run: Run) -> None:
    code, said, wrong = run("build", str(ROOT / "contrib"), "y.duckdb")
    assert (code, wrong) == (0, "") and "saved" in said
    assert run("check", "y.duckdb")[0] == 0
