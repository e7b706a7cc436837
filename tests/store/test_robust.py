"""Whatever happens to a command or comes from strangers: one line, and the database is the old or the new one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from njsl.core.types import StoreError
from njsl.store import AnalysisStore, schema
from njsl.store.__main__ import main
from njsl.store.load import load
from store import inputs
from store.inputs import FACTS, command, config, environment, results, store

# What a process does before the command: let Ctrl-C through, as a shell does for a command in the foreground.
HEARS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
GO = "import sys; from njsl.store.__main__ import main; sys.exit(main(sys.argv[1:]))\n"


def start(code: str, *words: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """The command line after some Python."""
    return subprocess.Popen(
        [sys.executable, "-c", code + GO, *map(str, words)],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        said, wrong = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, said, wrong


def one_line(wrong: str, *parts: str) -> None:
    assert len(wrong.splitlines()) == 1 and "Traceback" not in wrong, wrong
    assert all(part in wrong for part in parts), wrong


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line of a command that is refused, in this process."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 1
    wrong = capsys.readouterr().err
    one_line(wrong)
    return wrong


def beside(path: Path) -> list[str]:
    return sorted(found.name for found in path.parent.iterdir())


def scores(path: Path) -> list[tuple[Any, ...]]:
    connection, _ = load(path)
    with connection:
        return connection.execute(
            "SELECT id, benchmark, metric_value FROM evaluation_results ORDER BY id, benchmark"
        ).fetchall()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with two scores, in a folder of its own; a result file beside that folder adds two."""
    folder = tmp_path / "place"
    folder.mkdir()
    results(tmp_path / "results_1.json")
    results(tmp_path / "results_2.json", "org/two")
    (folder / "x.duckdb").write_bytes(inputs.database())
    return folder / "x.duckdb"


OLD = [("org/base", "hellaswag", 0.5), ("org/base", "winogrande", 0.625)]
NEW = [*OLD, ("org/two", "hellaswag", 0.5), ("org/two", "winogrande", 0.625)]


# ---- two at once

# Says when it is about to write, and waits for a line. Readers and writers of the test meet it there.
WAITS = """
import sys
from njsl.store import save
real = save._write
def write(*words):
    print("writing", flush=True)
    sys.stdin.readline()
    real(*words)
save._write = write
"""


def test_two_writers_and_a_reader(database: Path, tmp_path: Path) -> None:
    before = database.read_bytes()
    first = subprocess.Popen(
        [sys.executable, "-c", WAITS + GO, "import-evals", str(database), str(tmp_path / "results_2.json")],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None and first.stdout.readline() == "writing\n"
    second = store("alias", database, "benchmark", "a", "b", cwd=tmp_path)
    assert second.returncode == 1
    one_line(second.stderr, "x.duckdb: another process is changing it; try again when that is done")
    assert scores(database) == OLD and database.read_bytes() == before
    said, wrong = first.communicate("go on\n", timeout=120)
    assert first.returncode == 0 and wrong == "" and "saved" in said
    assert scores(database) == NEW and beside(database) == ["x.duckdb"]
    third = store("alias", database, "benchmark", "hellaswag", "hella", cwd=tmp_path)
    assert third.returncode == 0, third.stderr


def test_readers_beside_writers_see_a_whole_state(database: Path) -> None:
    """A process writes 5 times; meanwhile every read here is one of the states, and they come in order."""
    writes = f"""
import datetime
from pathlib import Path
from njsl.store.records import Origin, Records
from njsl.store.save import editing
for number in range(5):
    with editing(Path({str(database)!r})) as editor:
        rows = [
            {{"id": f"w/{{number}}", "benchmark": f"b{{row}}", "setting": "0-shot", "metric": "m", "metric_value": 0.5}}
            for row in range(50)
        ]
        list(editor.add([Records({{"evaluation_results": rows}}, None)]))
"""
    process = subprocess.Popen([sys.executable, "-c", writes], env=environment(), stderr=subprocess.PIPE, text=True)
    seen = []
    while process.poll() is None:
        with AnalysisStore.from_existing(database) as opened:
            seen.append((len(opened.table("models")), len(opened.table("evaluation_results"))))
    assert process.returncode == 0, process.stderr and process.stderr.read()
    assert {count - 2 for _, count in seen} <= {50 * number for number in range(6)}
    assert all(found == 2 + 50 * (models - 1) for models, found in seen)
    assert seen == sorted(seen) and len(set(seen)) > 2
    assert len(scores(database)) == 252


@pytest.mark.slow
def test_many_writers_at_once_lose_nothing(database: Path, tmp_path: Path) -> None:
    for number in range(4):
        results(tmp_path / f"results_w{number}.json", f"w/{number}", hellaswag=0.5)
    many = [
        subprocess.Popen(
            command("import-evals", database, tmp_path / f"results_w{number}.json"),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    codes = []
    for process in many:
        code, _, wrong = end(process)
        codes.append(code)
        assert code in (0, 1)
        if code:
            one_line(wrong, "another process is changing it")
    written = [f"w/{number}" for number, code in enumerate(codes) if code == 0]
    assert written and [name for name, *_ in scores(database) if name.startswith("w/")] == written
    assert beside(database) == ["x.duckdb"]


# ---- killed, interrupted, out of space

# Kills itself at a numbered point of the way to the disk: before or after each statement of the file that is written,
# before and after it is flushed, and before and after it takes its name.
DIES = """
import os, signal, sys
from pathlib import Path
from njsl.store import save
left = int(sys.argv.pop(1))
def point():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
class Dies:
    def __init__(self, connection):
        self.connection = connection
    def __getattr__(self, name):
        return getattr(self.connection, name)
    def execute(self, *words):
        point()
        return self.connection.execute(*words)
def around(real):
    def call(*words, **more):
        point()
        made = real(*words, **more)
        point()
        return made
    return call
write = save._write
save._write = lambda connection, path: write(Dies(connection), path)
os.fsync = around(os.fsync)
Path.replace = around(Path.replace)
"""


@pytest.mark.parametrize("points", [(12, 22, 23), pytest.param(range(30), marks=pytest.mark.slow)])
def test_killed_at_any_point_it_is_the_old_or_the_new(database: Path, tmp_path: Path, points: Sequence[int]) -> None:
    before = database.read_bytes()
    killed = {"old": 0, "new": 0}
    for at in points:
        database.write_bytes(before)
        code, _, wrong = end(start(DIES, str(at), "import-evals", database, tmp_path / "results_2.json", cwd=tmp_path))
        if code == 0:
            break
        assert code == -signal.SIGKILL, wrong
        state = scores(database)
        assert state == NEW or (state == OLD and database.read_bytes() == before)
        killed["new" if state == NEW else "old"] += 1
    assert killed == {"old": min(len(points), 24) - 1, "new": 1}
    assert main(["alias", str(database), "benchmark", "some", "other"]) == 0
    assert beside(database) == ["x.duckdb"]  # the leftovers are gone


@pytest.mark.slow
def test_killed_at_random_moments_it_is_the_old_or_the_new(database: Path, tmp_path: Path) -> None:
    many = {f"task_{number}": number / 3000 for number in range(3000)}
    results(tmp_path / "results_3.json", "org/three", **many)
    whole = store("import-evals", database, tmp_path / "results_3.json", "--dry-run", cwd=tmp_path)
    assert whole.returncode == 0
    before, chance = database.read_bytes(), random.Random(0)
    states = set()
    for _ in range(40):
        database.write_bytes(before)
        process = start("", "import-evals", database, tmp_path / "results_3.json", cwd=tmp_path)
        time.sleep(chance.uniform(0.2, 1.4))
        process.kill()
        end(process)
        state = len(scores(database))
        assert state == 3002 or database.read_bytes() == before
        states.add(state)
        assert {name.split(".")[-1] for name in beside(database)} <= {"duckdb", "part", "wal"}
    assert states == {2, 3002}
    assert main(["alias", str(database), "benchmark", "some", "other"]) == 0
    assert beside(database) == ["x.duckdb"]


# Interrupts itself while DuckDB works on a long statement, and says so where Python would hear it.
INTERRUPTED = """
import os, threading
from njsl.store import save
write = save._write
class Long:
    def __init__(self, connection):
        self.connection = connection
    def __getattr__(self, name):
        return getattr(self.connection, name)
    def execute(self, *words):
        if words[0] == WHEN:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            self.connection.execute(
                "SELECT count(*) FROM range(100000) a, range(1000000) b WHERE (a.range + b.range) % 7 = 3"
            )
        return self.connection.execute(*words)
save._write = lambda connection, path: write(Long(connection), path)
"""


@pytest.mark.parametrize("when", ["COMMIT", pytest.param("BEGIN", marks=pytest.mark.slow)])
def test_ctrl_c_is_130_and_changes_nothing(database: Path, tmp_path: Path, when: str) -> None:
    before = database.read_bytes()
    code, said, wrong = end(
        start(
            HEARS + INTERRUPTED.replace("WHEN", repr(when)),
            *("import-evals", database, tmp_path / "results_2.json"),
            cwd=tmp_path,
        )
    )
    assert code == 130 and said == ""
    one_line(wrong, "interrupted")
    assert database.read_bytes() == before and beside(database) == ["x.duckdb"]


def test_ctrl_c_while_reading_sources(database: Path, tmp_path: Path) -> None:
    before = database.read_bytes()
    waits = "import time\nfrom njsl.store import evals\nevals.read_evals = lambda *a, **k: time.sleep(60)\n"
    process = start(HEARS + waits, "import-evals", database, tmp_path / "results_2.json", cwd=tmp_path)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    code, said, wrong = end(process)
    assert code == 130 and said == ""
    one_line(wrong, "interrupted")
    assert database.read_bytes() == before and beside(database) == ["x.duckdb"]


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
most = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
"""


@pytest.mark.parametrize("most", [0, pytest.param(13_000, marks=pytest.mark.slow), 300_000])
def test_a_full_disk_changes_nothing(database: Path, tmp_path: Path, most: int) -> None:
    """The system refuses a file beyond a size, as it does on a full disk."""
    before = database.read_bytes()
    assert len(before) > 300_000
    words = ("import-evals", database, tmp_path / "results_2.json")
    code, said, wrong = end(start(FULL, most, *words, cwd=tmp_path))
    assert (code, said) == (1, "")
    one_line(wrong, "x.duckdb: cannot be written, nothing is changed: ")
    assert database.read_bytes() == before and beside(database) == ["x.duckdb"]
    if most == 0:
        for words_new in (("create", tmp_path / "new.duckdb"), ("export", database, tmp_path / "folder")):
            names = beside(tmp_path / "x")
            code, said, wrong = end(start(FULL, most, *words_new, cwd=tmp_path))
            assert (code, said) == (1, "")
            one_line(wrong, "cannot be written")
            assert beside(tmp_path / "x") == names


def test_a_loop_of_links_among_the_sources(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results_loop.json").symlink_to(tmp_path / "results_loop.json")
    (tmp_path / "round").symlink_to(tmp_path, target_is_directory=True)
    assert main(["import-evals", str(database), str(tmp_path)]) == 0
    assert scores(database) == NEW
    refused(capsys, "import-evals", database, tmp_path / "results_loop.json")
    refused(capsys, "add-model", database, tmp_path / "results_loop.json", "--id", "a/b")


# ---- a file that is no database any more


def damaged(body: bytes) -> dict[str, bytes]:
    """Bodies that no database has."""
    chance = random.Random(0)
    made = {"empty": b"", "text": b"no database\n" * 1000, "zeros": bytes(len(body))}
    made |= {f"cut at {size}": body[:size] for size in (1, 4096, 12288, len(body) // 2)}
    made |= {f"zeros at {place}": body[:place] + bytes(4096) + body[place + 4096 :] for place in (0, 12288)}
    for number in range(6):
        flipped = bytearray(body)
        for place in chance.sample(range(len(body)), 400):
            flipped[place] = chance.randrange(256)
        made[f"flipped {number}"] = bytes(flipped)
    return made


def test_a_damaged_database_is_one_line(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, body in damaged(database.read_bytes()).items():
        database.write_bytes(body)
        for words in (("show", database), ("import-evals", database, tmp_path / "results_2.json")):
            assert "x.duckdb: " in refused(capsys, *words), name
        assert database.read_bytes() == body and beside(database) == ["x.duckdb"]


@pytest.mark.slow
def test_a_flipped_bit_is_found_or_harmless(database: Path) -> None:
    """Blocks have checksums: what can be opened holds what was written."""
    body, chance, found = database.read_bytes(), random.Random(1), {"refused": 0, "harmless": 0}
    for _ in range(300):
        flipped = bytearray(body)
        flipped[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        database.write_bytes(flipped)
        try:
            assert scores(database) == OLD
            found["harmless"] += 1
        except StoreError as error:
            assert len(str(error).splitlines()) == 1
            found["refused"] += 1
    assert min(found.values()) > 10


def test_another_kind_of_thing_in_its_place(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "results_2.json"
    folder, loop, nowhere = tmp_path / "folder", tmp_path / "loop", tmp_path / "nowhere"
    folder.mkdir()
    loop.symlink_to(loop)
    nowhere.symlink_to(tmp_path / "gone")
    for path in (folder, loop, nowhere):
        assert path.name in refused(capsys, "import-evals", path, source)
        assert path.name in refused(capsys, "show", path)
    link = tmp_path / "link.duckdb"
    link.symlink_to(database)
    assert main(["import-evals", str(link), str(source)]) == 0
    assert link.is_symlink() and scores(database) == NEW


def test_a_database_of_a_newer_version(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = schema.VERSION + 1
    assert main(["export", str(database), str(tmp_path / "folder")]) == 0
    (tmp_path / "folder" / "schema_version.csv").write_text(f"version\n{newer}\n")
    with duckdb.connect(str(database)) as connection:
        connection.execute(f"UPDATE schema_version SET version = {newer}")
    before = database.read_bytes()
    line = f"layout version {newer}, written by a newer njsl; versions up to {schema.VERSION} are accepted: update njsl"
    assert line in refused(capsys, "show", database)
    assert line in refused(capsys, "import-evals", database, tmp_path / "results_2.json")
    assert line in refused(capsys, "create", tmp_path / "y.duckdb", "--from", tmp_path / "folder")
    assert database.read_bytes() == before


@pytest.mark.parametrize("change", ["DELETE FROM", "INSERT INTO schema_version SELECT 7; --", "ALTER TABLE"])
def test_a_database_that_does_not_say_its_version(
    database: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    with duckdb.connect(str(database)) as connection:
        if change == "ALTER TABLE":
            connection.execute("DROP TABLE schema_version; CREATE TABLE schema_version AS SELECT '2' AS version")
        else:
            connection.execute(f"{change} schema_version")
    assert "schema_version: one row with a whole number is accepted" in refused(capsys, "show", database)


# ---- hostile input

SQL = "x'; DROP TABLE models; --"


def test_sql_in_names_is_only_text(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = results(tmp_path / "results_3.json", "org/two", **{SQL: 0.5, "$(touch gone)": 0.25, '"; --': 0.75})
    assert main(["import-evals", str(database), str(source)]) == 0
    assert main(["alias", str(database), "benchmark", SQL, f"{SQL}2"]) == 0
    assert {name for _, name, _ in scores(database)} == {"hellaswag", "winogrande", f"{SQL}2", "$(touch gone)", '"; --'}
    before = database.read_bytes()
    for identity in (SQL, "../../etc/passwd", "a/../b", "a\nb", "a b", "/etc/passwd", "\x1b[31m", "", "ü/x", "a" * 300):
        source = results(tmp_path / "results_4.json", identity)
        refused(capsys, "import-evals", database, source)
        if identity not in (SQL, "../../etc/passwd"):
            continue
        refused(capsys, "import-evals", database, tmp_path / "results_2.json", "--id", identity)
        refused(capsys, "add-model", database, config(tmp_path / "config.json"), "--id", identity)
        (tmp_path / "facts.yaml").write_text(FACTS.replace("org/base", json.dumps(identity)))
        refused(capsys, "add-model", database, "--facts", tmp_path / "facts.yaml")
        (tmp_path / "features.csv").write_text(f'id,a\n"{identity.replace(chr(34), chr(34) * 2)}",1\n')
        refused(capsys, "import-features", database, tmp_path / "features.csv")
        refused(capsys, "show", database, identity)
        refused(capsys, "alias", database, "model", "org/base", identity)
    assert database.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*("config.json", "facts.yaml", "features.csv", "place"), *(f"results_{number}.json" for number in range(1, 5))]
    )


@pytest.mark.parametrize(
    "words",
    [
        ("import-evals", "DATABASE", "FILE.json"),
        ("add-model", "DATABASE", "FILE.json", "--id", "a/b"),
        ("add-model", "DATABASE", "--facts", "FILE.yaml"),
        ("import-features", "DATABASE", "FILE.csv"),
        ("add-model", "DATABASE", "FILE.csv", "--name", "A=a/b"),
    ],
)
def test_a_file_of_a_gigabyte_is_refused_at_once(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """Sparse, so nothing is on the disk; what would be read of it would stay in the peak of memory."""
    names = {"DATABASE": str(database)}
    for word in words:
        if word.startswith("FILE"):
            names[word] = str(tmp_path / word)
            with open(names[word], "wb") as file:
                file.write(b'{"results": {"')
                file.truncate(2**30)
    began, memory = time.process_time(), peak()
    assert "accepted" in refused(capsys, *(names.get(word, word) for word in words))
    assert time.process_time() - began < 2  # 0.4 where it was measured
    assert peak() - memory < 150_000  # [kB]


def peak() -> int:
    """The most memory this process has had [kB]; the kernel forgets the past first."""
    Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


DEEP = 100_000
JSONS: dict[str, bytes] = {
    "deep lists": b"[" * DEEP,
    "deep objects": b'{"results":' * DEEP + b"1" + b"}" * DEEP,
    "deep inside": b'{"results": {"a": {"acc,none": ' + b"[" * DEEP + b"]" * DEEP + b"}}}",
    "a key twice": b'{"results": {"a": {"acc,none": 0.5, "acc,none": 0.25}}, "results": {}}',
    "NaN alone": b"NaN",
    "infinity": b'{"results": {"a": {"acc,none": Infinity}}, "hidden_size": Infinity}',
    "a huge number": b'{"hidden_size": 1' + b"0" * 400 + b', "results": {"a": {"acc,none": 1' + b"0" * 400 + b"}}}",
    "a number of 5000 digits": b'{"hidden_size": ' + b"9" * 5000 + b"}",
    "1e999": b'{"hidden_size": 1e999, "results": {"a": {"acc,none": 1e999}}}',
    "no UTF-8": b'{"results": {"\xff\xfe": {}}}',
    "UTF-16": '{"results": {}}'.encode("utf-16"),
    "a lone surrogate": b'{"results": {"\\ud800": {"acc,none": 0.5}}, "model_name": "a/\\ud800"}',
    "empty": b"",
    "a null byte": b'{"results": {"a\x00": {}}}',
    "cut": b'{"results": {"a": {"acc',
    "a list": b"[]",
    "text": b'"results"',
    "results of another type": b'{"results": [1, 2], "model_type": ["llama"]}',
}


def test_hostile_json_is_one_line(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = database.read_bytes()
    for name, body in JSONS.items():
        (tmp_path / "results_x.json").write_bytes(body)
        (tmp_path / "config.json").write_bytes(body)
        assert "results_x.json: " in refused(capsys, "import-evals", database, tmp_path / "results_x.json"), name
        assert "config.json: " in refused(capsys, "add-model", database, tmp_path, "--id", "a/b"), name
    assert database.read_bytes() == before


YAMLS: dict[str, bytes] = {
    "deep lists": b"stages: " + b"[" * DEEP,
    "deep maps": b"{a: " * DEEP,
    "deep blocks": b"- " * DEEP + b"x",
    "a key twice": FACTS.encode() + b"family: other\n",
    "a bomb": b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "Python": b"!!python/object/apply:os.system ['touch gone']\n",
    "NaN": FACTS.encode() + b"composition: {total_tokens_billions: .nan}\n",
    "infinity": FACTS.encode() + b"data: {total_tokens_billions: .inf}\n",
    "no UTF-8": b"id: \xff\xfe\n",
    "empty": b"",
    "a null byte": FACTS.encode() + b"family: a\x00b\n",
    "two documents": FACTS.encode() + b"---\nid: c/d\n",
    "SQL": FACTS.replace("org/base", f'"{SQL}"').encode(),
    "a path": FACTS.replace("org/base", "../../etc/passwd").encode(),
}


def test_hostile_yaml_is_one_line(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = database.read_bytes()
    (tmp_path / "contrib").mkdir()
    for name, body in YAMLS.items():
        for path in ("facts.yaml", "contrib/org__base.yaml"):
            Path(path).write_bytes(body)
        assert "facts.yaml: " in refused(capsys, "add-model", database, "--facts", "facts.yaml"), name
        assert "contrib/org__base.yaml: " in refused(capsys, "build", "contrib", "y.duckdb"), name
    assert database.read_bytes() == before
    assert not Path("gone").exists() and not Path("y.duckdb").exists()


def test_a_contribution_leads_nowhere_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("contrib/org__base").mkdir(parents=True)
    results(Path("results_out.json"))
    for named in ("../../results_out.json", str(tmp_path / "results_out.json"), "link.json", "/etc/passwd"):
        Path("contrib/org__base.yaml").write_text(FACTS + f"results: [{json.dumps(named)}]\n")
        if named == "link.json":
            Path("contrib/org__base/link.json").symlink_to(tmp_path / "results_out.json")
        refused(capsys, "build", "contrib", "y.duckdb")
    assert not Path("y.duckdb").exists()


def test_the_sql_of_a_folder_is_never_run(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    assert main(["export", str(database), str(folder)]) == 0
    hostile = f"COPY (SELECT 42) TO '{tmp_path}/gone'; DROP TABLE models;"
    for name in ("schema.sql", "load.sql"):
        (folder / name).write_text(hostile)
    assert main(["create", str(tmp_path / "y.duckdb"), "--from", str(folder)]) == 0
    assert main(["show", str(folder)]) == 0
    assert scores(tmp_path / "y.duckdb") == OLD and not (tmp_path / "gone").exists()
    assert main(["export", str(folder), str(tmp_path / "clean")]) == 0
    assert "gone" not in (tmp_path / "clean" / "load.sql").read_text() + (tmp_path / "clean" / "schema.sql").read_text()


def test_a_view_in_a_database_is_never_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A view is SQL of a stranger: it could read any file into the database."""
    (tmp_path / "secret.txt").write_text("secret")
    path = tmp_path / "x.duckdb"
    assert main(["create", str(path)]) == 0
    columns = ", ".join(f"NULL AS {name}" for name in list(schema.tables()["models"])[1:])
    with duckdb.connect(str(path)) as connection:
        for table in (name for name in reversed(schema.tables()) if "id" in schema.tables()[name]):
            connection.execute(f"DROP TABLE {table}")
        connection.execute(
            f"CREATE VIEW models AS SELECT content AS id, {columns}, 1 AS rowid FROM read_text('{tmp_path}/secret.txt')"
        )
        assert connection.execute("SELECT id FROM models").fetchall() == [("secret",)]
    assert "no table models" in refused(capsys, "show", path)


def test_a_file_of_another_format_fetches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DuckDB would download and run an extension for a file that looks like SQLite's."""
    path = tmp_path / "x.duckdb"
    path.write_bytes(b"SQLite format 3\0" + bytes(5000))
    line = refused(capsys, "show", path)
    assert "not a valid DuckDB database" in line and "extension" not in line


def broken(table: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def break_(folder: Path) -> None:
        path = folder / f"{table}.csv"
        path.write_text(change(path.read_text()))

    return break_


def folder_for_file(folder: Path) -> None:
    (folder / "models.csv").unlink()
    (folder / "models.csv").mkdir()


FOLDERS: dict[str, Callable[[Path], None]] = {
    "a header without end": broken("models", lambda text: "x" * 300_000 + "\n"),
    "a header with half a quote": broken("models", lambda text: '"id\n'),
    "a quote without end": broken("models", lambda text: text + '"a/b\n'),
    "a row too many cells": broken("models", lambda text: text + "a/b,,,,,\n"),
    "an id twice": broken("models", lambda text: text + text.splitlines()[1] + "\n"),
    "an id that is a path": broken("models", lambda text: text + "../../etc/passwd,,,\n"),
    "SQL for an id": broken("models", lambda text: text + f"{SQL},,,\n"),
    "a formula for an id": broken("models", lambda text: text + '"=HYPERLINK(""http://x"")",,,\n'),
    "a score of nobody": broken("evaluation_results", lambda text: text.replace("org/base", "org/nobody")),
    "a score out of range": broken("evaluation_results", lambda text: text.replace("0.625", "6.25")),
    "NaN": broken("evaluation_results", lambda text: text.replace("0.625", "NaN")),
    "infinity": broken("evaluation_results", lambda text: text.replace("0.625", "inf")),
    "no date": broken("evaluation_results", lambda text: text.replace("0.625", "0.625,", 1)),
    "a version of 5000 digits": broken("schema_version", lambda text: f"version\n{'9' * 5000}\n"),
    "no version": broken("schema_version", lambda text: "version\n"),
    "a folder for a file": folder_for_file,
    "a table gone": lambda folder: (folder / "aliases.csv").unlink(),
}


def test_a_hostile_folder_is_one_line(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "good"
    assert main(["export", str(database), str(good)]) == 0
    for name, change in FOLDERS.items():
        folder = tmp_path / "folder"
        shutil.copytree(good, folder)
        change(folder)
        assert "folder" in refused(capsys, "create", tmp_path / "y.duckdb", "--from", folder), name
        shutil.rmtree(folder)
    assert not (tmp_path / "y.duckdb").exists()


def test_formulas_quotes_and_lines_in_cells_are_text(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert main(["export", str(database), str(folder)]) == 0
    awkward = ['=HYPERLINK("http://x")', 'a"b', "a\nb", "a,b", "@SUM(1)", "'; DROP TABLE models; --"]
    with (folder / "aliases.csv").open("a") as file:
        for text in awkward:
            quoted = text.replace('"', '""')
            file.write(f'benchmark,"{quoted}",x\n')
    assert main(["create", str(tmp_path / "y.duckdb"), "--from", str(folder)]) == 0
    connection, _ = load(tmp_path / "y.duckdb")
    assert [alias for (alias,) in connection.execute("SELECT alias FROM aliases").fetchall()] == awkward
    assert main(["export", str(tmp_path / "y.duckdb"), str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "models.csv").read_bytes() == (folder / "models.csv").read_bytes()


@pytest.mark.parametrize("name", ['it\'s "quoted"; ü 日本 😀', "[x]* %41$HOME", "-x@curated"])
def test_odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    results(folder / "results_1.json")
    path = str(folder / f"{name}.duckdb")
    assert main(["create", path]) == 0
    assert main(["import-evals", path, str(folder)]) == 0
    assert main(["alias", path, "benchmark", "hellaswag", "h"]) == 0
    assert main(["export", path, str(folder / "out")]) == 0
    assert main(["create", str(folder / "again"), "--from", str(folder / "out")]) == 0
    assert main(["show", path]) == main(["show", str(folder / "out")]) == 0
    assert sorted(os.listdir(folder)) == sorted(["again", "out", "results_1.json", f"{name}.duckdb"])
