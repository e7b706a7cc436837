"""A database on disk: written whole or not at all, and an export is read back, here and by DuckDB, byte for byte."""

from __future__ import annotations

import csv
import datetime
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError, StoreError
from njsl.store import AnalysisStore, save, schema
from njsl.store.__main__ import main
from njsl.store.edit import Editor
from njsl.store.load import PUBLISHED, load, quoted
from njsl.store.records import Origin, Records

TABLES = tuple(schema.tables())
DAY = datetime.date(2024, 2, 29)
JOIN = (
    "SELECT a.id, e.benchmark, e.metric_value, d.pretraining_summary_total_tokens_billions FROM model_annotations a "
    "LEFT JOIN dataset_info d ON a.id = d.id LEFT JOIN evaluation_results e ON a.id = e.id"
)
IMPORT = f"""
import duckdb, json, os, sys
os.chdir("/")
made = []
for folder in sys.argv[1:]:
    with duckdb.connect() as connection:
        connection.execute("IMPORT DATABASE '" + folder.replace("'", "''") + "'")
        tables = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
        columns = {{name: [row[:2] for row in connection.execute("DESCRIBE " + name).fetchall()] for name in tables}}
        rows = {{name: connection.execute("SELECT * FROM " + name + " ORDER BY rowid").fetchall() for name in tables}}
        joined = connection.execute({JOIN!r}).fetchall()
        made.append({{"columns": columns, "rows": rows, "joined": len(joined)}})
print(json.dumps({{"version": duckdb.__version__, "made": made}}, default=str))
"""


def memory() -> duckdb.DuckDBPyConnection:
    """An empty database in memory."""
    connection = duckdb.connect(":memory:", config={"threads": "1"})
    connection.execute(schema.ddl())
    connection.execute(f"INSERT INTO schema_version VALUES ({schema.VERSION})")
    return connection


def put(connection: duckdb.DuckDBPyConnection, table: str, **row: Any) -> None:
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))


def contents(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of a file or folder."""
    connection, _ = load(path)
    with connection:
        return {name: connection.execute(f"SELECT * FROM {name} ORDER BY rowid").fetchall() for name in TABLES}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def beside(path: Path) -> list[str]:
    """What stands in a file's folder, hidden files too."""
    return sorted(found.name for found in path.parent.iterdir())


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database of three models, in a folder of its own."""
    folder = tmp_path / "place"
    folder.mkdir()
    connection = memory()
    for name in ("a/one", "a/two", "three"):
        put(connection, "models", id=name)
        put(
            connection,
            "evaluation_results",
            id=name,
            benchmark="hellaswag",
            setting="10-shot",
            metric="accuracy",
            metric_value=0.5,
            task_version="1",
            prompt=schema.UNRECORDED,
        )
    editor = Editor(connection, DAY)
    assert [found.reason for found in editor.add([layers("a/one", 12), layers("three", 12)])] == [None, None]
    editor.flush()
    save.create(folder / "x.duckdb", connection)
    return folder / "x.duckdb"


def layers(identity: str, number: int) -> Records:
    origin = Origin("config.json", DAY, "measured")
    return Records({"model_annotations": [{"id": identity, "num_layers": number}]}, origin)


def change(path: Path, identity: str = "b/new", number: int = 24) -> None:
    with save.editing(path) as editor:
        assert [outcome.reason for outcome in editor.add([layers(identity, number)])] == [None]


# ---- the round trip

AWKWARD = (
    *(
        "NULL",
        "null",
        "true",
        "1e5",
        "0x10",
        "-0",
        "nan",
        " ",
        '"',
        '""',
        '","',
        "'",
        "\\",
        "\\N",
        "#",
        "# x",
        ";",
        "a,b",
    ),
    *(
        "=1+1",
        "a\nb",
        "a\r\nb",
        "\r",
        "\n",
        "\t",
        "ü😀",
        "{}",
        "2024-01-01",
        "\ufeff",
        "\x1b[31m",
        "'; DROP TABLE models; --",
    ),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
TEXT |= st.sampled_from(AWKWARD)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
FREE = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
IDENTITY = st.from_regex(r"[A-Za-z0-9_+-]{1,8}(/[A-Za-z0-9_+-]{1,8})?", fullmatch=True)
WHOLE = {"INTEGER": 2**31 - 1, "BIGINT": 2**63 - 1}


def value(field: schema.Field) -> st.SearchStrategy[Any]:
    """Whatever a column accepts."""
    if field.accepted:
        return st.sampled_from(field.accepted)
    if field.name in ("id", "parent"):
        return IDENTITY
    if field.name == "setting":
        return st.from_regex("[0-9]{1,4}-shot", fullmatch=True)
    if field.type == "VARCHAR":
        return TEXT.filter(lambda text: text not in schema.METRIC_RANGES)
    if field.type in WHOLE:
        low, high = field.low, field.high
        return st.integers(
            -WHOLE[field.type] if low is None else int(low), WHOLE[field.type] if high is None else int(high)
        )
    if field.type == "DOUBLE":
        return st.floats(field.low, field.high, allow_nan=False, allow_infinity=False)
    kinds = {"BOOLEAN": st.booleans(), "DATE": st.dates(), "JSON": FREE.map(json.dumps)}
    return kinds[field.type]


def rows(table: str, size: int, **known: Any) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Rows of a table: ``known`` are columns that are given, or left out where None."""
    fields = [field for field in schema.tables()[table].values() if field.name not in known]
    given = {name: st.just(one) for name, one in known.items() if one is not None}
    needed = {field.name: value(field) for field in fields if field.need}
    row = st.fixed_dictionaries(
        given | needed, optional={field.name: value(field) for field in fields if not field.need}
    )
    return st.lists(row, max_size=size, unique_by=lambda found: tuple(found[name] for name in schema.keys(table)))


@st.composite
def databases(draw: st.DrawFn) -> dict[str, list[dict[str, Any]]]:
    """Rows for every table, all rules of the layout kept."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    found["models"] = draw(rows("models", 3))
    found["datasets"] = draw(rows("datasets", 2, shares_partial=True))
    for name in [row["id"] for row in found["models"]]:
        found["model_annotations"] += draw(rows("model_annotations", 1, id=name, embedding_params=None))
        found["dataset_info"] += draw(rows("dataset_info", 1, id=name, shares_partial=True))
        found["evaluation_results"] += draw(rows("evaluation_results", 8, id=name))
        found["model_features"] += draw(rows("model_features", 2, id=name))
        stages = draw(rows("training_stages", 2, id=name))
        found["training_stages"] += stages
        for stage, used in zip(stages, found["datasets"], strict=False):
            found["stage_datasets"] += draw(
                rows("stage_datasets", 1, id=name, stage=stage["stage"], dataset=used["name"])
            )
    for name in ("aliases", "provenance", "history"):
        found[name] = draw(rows(name, 3))
    return found


def stored(connection: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[Any, ...]]]:
    return {name: connection.execute(f"SELECT * FROM {name} ORDER BY rowid").fetchall() for name in TABLES}


@settings(max_examples=6, deadline=None)
@given(made=databases())
def test_every_database_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, list[dict[str, Any]]]
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    connection = memory()
    for table, of_table in made.items():
        for row in of_table:
            put(connection, table, **row)
    before = stored(connection)
    assert {name: len(of_table) for name, of_table in before.items() if name != "schema_version"} == {
        name: len(of_table) for name, of_table in made.items() if name != "schema_version"
    }
    save.export(connection, TABLES, folder / "first")
    save.create(folder / "from.duckdb", load(folder / "first")[0])
    assert contents(folder / "from.duckdb") == before
    save.export(load(folder / "from.duckdb")[0], TABLES, folder / "second")
    assert files(folder / "second") == files(folder / "first")
    assert len(files(folder / "first")) == len(TABLES) + 2
    save.export(connection, TABLES, folder / "parquet", "parquet")
    for table in TABLES:
        path = quoted(folder / "parquet" / f"{table}.parquet")
        assert connection.execute(f"SELECT * FROM read_parquet({path})").fetchall() == before[table]
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def awkward(tmp_path_factory: pytest.TempPathFactory, export: Path) -> dict[str, Path]:
    """Export folders by name: synthetic data and awkward text, as CSV and as Parquet."""
    folder = tmp_path_factory.mktemp('it\'s "awkward", ü')
    assert main(["create", str(folder / "synthetic.duckdb"), "--from", str(export)]) == 0
    connection = memory()
    put(connection, "models", id="a/b", family="a")
    put(connection, "model_annotations", id="a/b", total_params=2**63 - 1)
    put(connection, "dataset_info", id="a/b", metadata=json.dumps(AWKWARD))
    for number, name in enumerate(AWKWARD):
        score = {"metric_value": float(f"{-1.7 + number / 7}e{20 * number - 300}"), "shots_assumed": number % 2 == 0}
        text = {"benchmark": name, "metric": name, "task_version": name, "prompt": name, "source": name}
        put(connection, "evaluation_results", id="a/b", setting="0-shot", evaluated_on=DAY, **text, **score)
        put(
            connection,
            "provenance",
            subject=name,
            row_key=name,
            field=name,
            source=name,
            stated_on=DAY,
            confidence="reported",
        )
    save.create(folder / "awkward.duckdb", connection)
    made = {}
    for name in ("synthetic", "awkward"):
        for kind, option in (("csv", []), ("parquet", ["--parquet"])):
            made[f"{name} {kind}"] = folder / f"{name} {kind}"
            assert main(["export", str(folder / f"{name}.duckdb"), str(made[f"{name} {kind}"]), *option]) == 0
    return made


def imported(python: str, folders: Iterable[Path]) -> tuple[str, list[dict[str, Any]]]:
    """What IMPORT DATABASE makes of export folders, in a process of its own and far from them."""
    done = subprocess.run(
        [python, "-c", IMPORT, *(str(folder.resolve()) for folder in folders)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return answer["version"], answer["made"]


@pytest.mark.parametrize("variable", [None, "NJSL_DUCKDB_1"])
def test_duckdb_imports_what_was_exported(awkward: dict[str, Path], variable: str | None) -> None:
    python = os.environ.get(variable or "", sys.executable)
    if variable is not None and variable not in os.environ:
        pytest.skip(f"{variable} names no Python with DuckDB 1")
    version, made = imported(python, awkward.values())
    assert version.split(".")[0] == ("1" if variable else duckdb.__version__.split(".")[0])
    for name, found in zip(awkward, made, strict=True):
        rows_there = contents(awkward[name].with_name(f"{name.split()[0]}.duckdb"))
        assert found["rows"] == json.loads(json.dumps(rows_there, default=str)), name
        expected = {
            table: [[field.name, field.type] for field in fields.values()] for table, fields in schema.tables().items()
        }
        assert found["columns"] == expected
        scored = {row[0] for row in rows_there["evaluation_results"]}
        annotated = [row[0] for row in rows_there["model_annotations"]]
        scores = sum(row[0] in annotated for row in rows_there["evaluation_results"])
        assert found["joined"] == scores + sum(name not in scored for name in annotated) > 20


@pytest.mark.parametrize("name", ["synthetic", "awkward"])
def test_a_second_export_has_the_same_bytes(awkward: dict[str, Path], tmp_path: Path, name: str) -> None:
    first = awkward[f"{name} csv"]
    for number, source in enumerate((first, first.with_name(f"{name}.duckdb"))):
        assert main(["create", str(tmp_path / f"{number}.duckdb"), "--from", str(source)]) == 0
        assert main(["export", str(tmp_path / f"{number}.duckdb"), str(tmp_path / f"{number}")]) == 0
        assert files(tmp_path / f"{number}") == files(first)
    assert main(["export", str(first), str(tmp_path / "straight")]) == 0
    assert files(tmp_path / "straight") == files(first)


@pytest.mark.data
def test_the_papers_database_survives_the_round_trip(paper_data: Path, tmp_path: Path) -> None:
    for number, source in enumerate(("paper", str(tmp_path / "e0"))):
        assert main(["create", str(tmp_path / f"{number}.duckdb"), "--from", source]) == 0
        assert main(["export", str(tmp_path / f"{number}.duckdb"), str(tmp_path / f"e{number}")]) == 0
    assert files(tmp_path / "e0") == files(tmp_path / "e1")
    ((_, (found,)),) = [imported(sys.executable, [tmp_path / "e0"])]
    assert len(found["rows"]["evaluation_results"]) == 27150  # as evaluation_results.csv has rows
    assert found["rows"] == json.loads(json.dumps(contents(tmp_path / "0.duckdb"), default=str))
    # Annotated models alone: their scores, and a row for each without any.
    scores = paper_data / "njsl_2025_03_03"
    with (scores / "model_annotations.csv").open(newline="") as file:
        annotated = [row["id"] for row in csv.DictReader(file)]
    with (scores / "evaluation_results.csv").open(newline="") as file:
        scored = Counter(row["id"] for row in csv.DictReader(file))
    assert found["joined"] == sum(max(1, scored[name]) for name in annotated)


# ---- a folder that is there, a disk that is full


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_export_is_whole_or_not_there(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = memory()
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for there in (tmp_path / "folder", tmp_path / "file", tmp_path / "link"):
        with pytest.raises(StoreError, match=r"exists; a new folder is accepted$"):
            save.export(connection, TABLES, there, kind)
    assert not list((tmp_path / "folder").iterdir())
    before = beside(tmp_path / "x")
    with pytest.raises(StoreError, match="cannot be written"):
        save.export(connection, (*TABLES, "no_such_table"), tmp_path / "new", kind)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(StoreError, match="No space left"):
            save.export(connection, TABLES, tmp_path / "new", kind)
        patched.setattr(Path, "rename", failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            save.export(connection, TABLES, tmp_path / "new", kind)
    assert beside(tmp_path / "x") == before
    save.export(connection, TABLES, tmp_path / "new", kind)
    assert len(files(tmp_path / "new")) == len(TABLES) + 2


# ---- one file, replaced whole


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


class Fails:
    """A connection whose statement number ``at`` raises."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, at: int, error: BaseException) -> None:
        self.connection, self.left, self.error = connection, at, error

    def execute(self, *words: Any) -> duckdb.DuckDBPyConnection:
        if self.left == 0:
            raise self.error
        self.left -= 1
        return self.connection.execute(*words)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


ERRORS = (
    duckdb.IOException("IO Error: no space left"),
    OSError(errno.ENOSPC, "No space left on device"),
    KeyboardInterrupt(),
    MemoryError(),
    RuntimeError("Query interrupted"),
)


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_failure_at_any_statement_changes_nothing(database: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    before, names = database.read_bytes(), beside(database)
    failures = 0
    for at in range(0, 200, step):
        error = ERRORS[failures % len(ERRORS)]

        def loaded(path: Path, at: int = at, error: BaseException = error) -> tuple[Any, int]:
            connection, version = load(path)
            return Fails(connection, at, error), version

        with monkeypatch.context() as patched:
            patched.setattr(save, "load", loaded)
            try:
                change(database)
                break
            except (StoreError, type(error)):
                failures += 1
        assert database.read_bytes() == before, at
        assert beside(database) == names, at
    assert failures * step > len(TABLES) + 8  # every table's rows and the steps around them
    place = list(schema.tables()["model_annotations"]).index("num_layers")
    assert [(row[0], row[place]) for row in contents(database)["model_annotations"]] == [
        ("a/one", 12),
        ("three", 12),
        ("b/new", 24),
    ]
    assert beside(database) == names


@pytest.mark.parametrize("where", ["os.fsync", "shutil.copymode", "pathlib.Path.replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_on_the_way_to_the_disk_changes_nothing(
    database: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    before, names = database.read_bytes(), beside(database)
    with monkeypatch.context() as patched:
        patched.setattr(where, failing(error))
        with pytest.raises((StoreError, KeyboardInterrupt)) as caught:
            change(database)
    assert isinstance(error, KeyboardInterrupt) or "nothing is changed: [Errno 28] No space left" in str(caught.value)
    assert database.read_bytes() == before and beside(database) == names
    change(database)
    assert len(contents(database)["models"]) == 4


def test_what_killed_writers_left_is_cleaned_by_the_next(database: Path) -> None:
    ours = [".x.duckdb.1.part", ".x.duckdb.4711.part.wal"]
    others = [".x.1.part", ".x.duckdb.old.1.part", ".xyduckdb.1.part", "x.duckdb.1.part", ".x.duckdb.part", "y.duckdb"]
    for name in (*ours, *others):
        (database.parent / name).write_bytes(b"half")
    before = database.read_bytes()
    with pytest.raises(DataError), save.editing(database):
        raise DataError("a source is bad")
    assert database.read_bytes() == before
    assert beside(database) == sorted([*others, "x.duckdb"])
    change(database)
    assert beside(database) == sorted([*others, "x.duckdb"])


def test_a_name_with_wildcards_meets_only_its_own(tmp_path: Path) -> None:
    save.create(tmp_path / "[x]*.duckdb", memory())
    for name in (".x1.duckdb.1.part", ".[x]*.duckdb.1.part"):
        (tmp_path / name).touch()
    change(tmp_path / "[x]*.duckdb")
    assert beside(tmp_path / "x") == [".x1.duckdb.1.part", "[x]*.duckdb"]


def test_a_change_keeps_mode_and_links(database: Path, tmp_path: Path) -> None:
    database.chmod(0o640)
    link = tmp_path / "link.duckdb"
    link.symlink_to(database)
    change(link)
    assert link.is_symlink() and beside(link) == ["link.duckdb", "place"] and beside(database) == ["x.duckdb"]
    assert database.stat().st_mode & 0o777 == 0o640
    assert len(contents(database)["models"]) == 4 and contents(link) == contents(database)


def test_without_a_change_nothing_is_written(database: Path) -> None:
    before = database.stat()
    with save.editing(database) as editor:
        assert [outcome.equal for outcome in editor.add([layers("a/one", 12)])] == [1]
        assert [outcome.reason is None for outcome in editor.add([layers("a/one", 13)])] == [False]
    with save.editing(database, save=False) as editor:
        assert [outcome.new for outcome in editor.add([layers("b/new", 12)])] == [2]
    after = database.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_one_writer_at_a_time(database: Path) -> None:
    before = database.read_bytes()
    with save.editing(database, save=False):
        for again in (database, database.parent / ".." / "place" / "x.duckdb"):
            with pytest.raises(
                StoreError, match=r"x.duckdb: another process is changing it; try again when that is done$"
            ):
                change(again)
        assert len(contents(database)["models"]) == 3  # readers do not wait
    assert database.read_bytes() == before
    change(database)


def test_a_writer_that_waited_sees_what_the_first_wrote(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and the lock on it another writer replaced the file: the lock is on one long gone."""
    real, calls = fcntl.flock, []

    def late(file: Any, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            monkeypatch.setattr(fcntl, "flock", real)
            change(database, "b/first")
            monkeypatch.setattr(fcntl, "flock", late)
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    change(database, "b/second")
    assert len(calls) == 2
    assert {"b/first", "b/second"} <= {row[0] for row in contents(database)["models"]}


def test_a_new_file_never_replaces_one(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = database.read_bytes()
    (database.parent / "link").symlink_to("nowhere")
    for there in (database, database.parent, database.parent / "link"):
        with pytest.raises(StoreError, match=r"exists; a new file is accepted$"):
            save.create(there, memory())
    late = database.parent / "late.duckdb"
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (real(file), late.write_bytes(b"another's"))[0])
    with pytest.raises(StoreError, match=r"cannot be written, nothing is changed: .*File exists"):
        save.create(late, memory())
    assert late.read_bytes() == b"another's" and database.read_bytes() == before
    assert beside(database) == ["late.duckdb", "link", "x.duckdb"]


def test_duckdbs_journal_is_not_torn_from_its_database(database: Path) -> None:
    """A file replaced beside its journal could not be opened any more, and what is in the journal would be lost."""
    insert = (
        f"import duckdb, os; c = duckdb.connect({str(database)!r}); "
        "c.execute('PRAGMA disable_checkpoint_on_shutdown'); "
        "c.execute(\"INSERT INTO models (id) VALUES ('by/hand')\"); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", insert], check=True)
    assert beside(database) == ["x.duckdb", "x.duckdb.wal"]
    before = files(database.parent)
    assert len(contents(database)["models"]) == 4  # readers see it
    with pytest.raises(StoreError, match=r"x.duckdb.wal: .*open and close it with DuckDB"):
        change(database)
    assert files(database.parent) == before
    duckdb.connect(str(database)).close()
    assert beside(database) == ["x.duckdb"]
    change(database)
    assert {"by/hand", "b/new"} <= {row[0] for row in contents(database)["models"]}


# ---- the paper's layout


@pytest.fixture
def old(tmp_path: Path, export: Path) -> Path:
    """A DuckDB file in version 1, the paper's layout."""
    folder = tmp_path / "old"
    folder.mkdir()
    with duckdb.connect(str(folder / "old.duckdb")) as connection:
        connection.execute(files_of_njsl("schema_1.sql"))
        for table in PUBLISHED:
            connection.execute(f"COPY {table} FROM '{export}/{table}.csv' (HEADER)")
    return folder / "old.duckdb"


def files_of_njsl(name: str) -> str:
    return (Path(schema.__file__).parent / name).read_text()


def test_an_older_layout_is_brought_up_with_the_first_change_and_not_before(old: Path) -> None:
    before = old.read_bytes()
    with save.editing(old) as editor:
        assert all(outcome.reason for outcome in editor.add([layers("bad id", 12)]))
    with save.editing(old, save=False) as editor:
        list(editor.add([layers("acme/model-0", 12)]))
    assert old.read_bytes() == before
    with AnalysisStore.from_existing(old) as store:
        assert store.version == 1
        scores = store.table("evaluation_results")
    change(old, "acme/model-0")
    with AnalysisStore.from_existing(old) as store:
        assert store.version == schema.VERSION
        assert store.table("evaluation_results")["benchmark"].tolist() == scores["benchmark"].tolist()
        assert set(store.table("evaluation_results")["source"]) == {"old.duckdb"}
    assert beside(old) == ["old.duckdb"]


def test_an_older_layout_takes_every_kind_of_change(old: Path) -> None:
    with save.editing(old) as editor:
        replaced = Records(
            {
                "model_annotations": [{"id": "acme/model-0", "sequence_length": 77}],
                "models": [{"id": "acme/model-0", "family": "f"}],
            },
            Origin("config.json", DAY, "measured"),
        )
        assert [outcome.reason for outcome in editor.add([replaced], "replace")] == [None]
        assert editor.alias("model", "boreal/model-1", "boreal/renamed").reason is None
        assert editor.alias("benchmark", "winogrande", "winogrande_xl").reason is None
    found = contents(old)
    assert ("acme/model-0", "f") in [row[:2] for row in found["models"]]
    names = {row[0] for row in found["model_annotations"]}
    assert "boreal/renamed" in names and "boreal/model-1" not in names
    assert not [row for row in found["evaluation_results"] if row[0] == "boreal/model-1" or row[1] == "winogrande"]
    assert [row[1:4] for row in found["history"]] == [("model_annotations", "acme/model-0", "sequence_length")]
