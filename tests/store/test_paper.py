"""The paper's files are found in a fixed order, and only their published bytes are taken."""

from __future__ import annotations

import http.server
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from export import write

from njsl.core.types import DataError, StoreError
from njsl.store import AnalysisStore, paper

FLAT = dict(zip((paper.FREEGEN, paper.SELECTED), paper.LAYOUTS[1][1:], strict=True))
CACHED = f"njsl/paper-{paper.COMMIT[:7]}"


def flat(name: str) -> str:
    """Where a file of the repository lies in a plain folder."""
    return FLAT.get(name) or f"{paper.LAYOUTS[1][0]}/{Path(name).name}"


def clone(data: Path, folder: Path) -> Path:
    """A clone of the paper's repository, of which only the files read are there."""
    for name in paper.SHA256:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / flat(name), folder / name)
    return folder


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data at hand: no variable, an empty cache, a repository that does not answer. Returns the cache's folder."""
    monkeypatch.delenv(paper.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(paper, "REPOSITORY", f"http://127.0.0.1:{free.getsockname()[1]}/paper")
    return tmp_path / "cache" / CACHED


Serve = Callable[[Callable[[str], bytes | None]], list[str]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Serve what a function of the path returns (None: not found); yields the list of paths asked for."""
    servers = []

    def start(body_of: Callable[[str], bytes | None]) -> list[str]:
        asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                body = body_of(self.path)
                broken = body is not None and body.endswith(b"<broken>")
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"") + 100 * broken))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        monkeypatch.setattr(paper, "REPOSITORY", f"http://127.0.0.1:{server.server_port}/paper")
        return asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def error(path: str | None) -> str:
    with pytest.raises(StoreError) as caught:
        paper.locate(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def test_nothing_at_hand_names_the_ways(nowhere: Path) -> None:
    text = error(None)
    assert f"{paper.REPOSITORY}/{paper.COMMIT}/metadata/duckdb/2025_03_03.duckdb/schema.sql cannot be read" in text
    for way in (
        "store.path=DIR",
        "$NJSL_PAPER_DATA=DIR",
        "clone of the paper's repository",
        "a network to download it",
    ):
        assert way in text
    assert not files_in(nowhere)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"something else", "not the published file (its SHA-256 differs)"),
        (b"half of it<broken>", "cannot be read"),
        (None, "404"),
    ],
)
def test_a_download_that_is_not_the_file_leaves_nothing(
    nowhere: Path, serve: Serve, body: bytes | None, expected: str
) -> None:
    asked = serve(lambda _: body)
    text = error(None)
    assert expected in text and "store.path=DIR" in text
    assert asked == [f"/paper/{paper.COMMIT}/{paper.EXPORT}/schema.sql"]
    assert not files_in(nowhere)


def test_a_place_named_but_wrong_is_an_error_never_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert error(str(tmp_path / "typo")).startswith(f"{tmp_path}/typo (store.path): no such folder")
    monkeypatch.setenv(paper.VARIABLE, str(tmp_path / "other"))
    assert error(None).startswith(f"{tmp_path}/other ($NJSL_PAPER_DATA): no such folder")
    (tmp_path / "empty").mkdir()
    assert "schema.sql (store.path): missing; accepted: store.path=DIR" in error(str(tmp_path / "empty"))


def test_another_export_is_not_the_published_one(export: Path) -> None:
    text = error(str(export))
    assert text.startswith(f"{export}/schema.sql") and "SHA-256" in text
    assert paper.SHA256[f"{paper.EXPORT}/schema.sql"][:12] in text
    assert "store=folder" in text


def test_a_name_the_user_writes_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine")
    assert error("~/mine").startswith(f"{tmp_path}/mine/schema.sql")


@pytest.mark.data
def test_order_of_the_ways(
    paper_data: Path, nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    """All four at hand; they are taken away one by one, from the first."""
    asked = serve(lambda path: (paper_data / flat(path.removeprefix(f"/paper/{paper.COMMIT}/"))).read_bytes())
    named, in_variable = clone(paper_data, tmp_path / "named"), clone(paper_data, tmp_path / "variable")
    clone(paper_data, nowhere)
    monkeypatch.setenv(paper.VARIABLE, str(in_variable))
    found = paper.locate(str(named))
    assert (found.export, found.way) == (named / paper.EXPORT, "store.path")
    found = paper.locate(None)
    assert (found.export, found.way) == (in_variable / paper.EXPORT, "$NJSL_PAPER_DATA")
    monkeypatch.setenv(paper.VARIABLE, "")
    found = paper.locate(None)
    assert (found.export, found.way) == (nowhere / paper.EXPORT, "the user's cache")
    assert not asked
    shutil.rmtree(nowhere)
    found = paper.locate(None)
    assert (found.export, found.way) == (nowhere / paper.EXPORT, "downloaded from the paper's repository")
    assert sorted(asked) == sorted(f"/paper/{paper.COMMIT}/{name}" for name in paper.SHA256)
    assert paper.locate(None).way == "the user's cache"
    assert len(asked) == 7
    assert sorted(str(path.relative_to(nowhere)) for path in files_in(nowhere)) == sorted(paper.SHA256)


@pytest.mark.data
def test_a_cache_that_rotted_is_an_error(paper_data: Path, nowhere: Path) -> None:
    clone(paper_data, nowhere)
    file = nowhere / paper.EXPORT / "dataset_info.csv"
    file.write_bytes(file.read_bytes()[:-1])
    text = error(None)
    assert text.startswith(f"{file} (the user's cache): SHA-256") and "fetch it again" in text


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(paper.SHA256))
def test_one_changed_byte_in_any_file(paper_data: Path, tmp_path: Path, name: str) -> None:
    folder = clone(paper_data, tmp_path / "clone")
    with (folder / name).open("ab") as file:
        file.write(b" ")
    assert error(str(folder)).startswith(f"{folder / name} (store.path): SHA-256")


@pytest.mark.data
def test_layouts(paper_data: Path, tmp_path: Path) -> None:
    found = paper.locate(str(paper_data))
    assert found.export == paper_data / "njsl_2025_03_03"
    assert (found.freegen, found.selected) == tuple(paper_data / name for name in FLAT.values())
    cloned = clone(paper_data, tmp_path / "clone")
    found = paper.locate(str(cloned))
    assert (found.freegen, found.selected) == (cloned / paper.FREEGEN, cloned / paper.SELECTED)
    with AnalysisStore.from_existing(found.export, found.freegen, found.selected) as opened:
        assert opened.freegen_features().shape == (102, 61)
        assert len(opened.selected_features()) == 13
        assert [len(opened.table(name)) for name in ("model_annotations", "dataset_info", "evaluation_results")] == [
            121,
            124,
            27150,
        ]


@pytest.mark.data
def test_the_export_folder_alone(paper_data: Path) -> None:
    found = paper.locate(str(paper_data / "njsl_2025_03_03"))
    assert (found.freegen, found.selected) == (None, None)
    assert found.way == "store.path, the export folder alone"
    with (
        AnalysisStore.from_existing(found.export, found.freegen, found.selected) as opened,
        pytest.raises(DataError, match=r"ratios.csv"),
    ):
        opened.freegen_features()


@pytest.mark.data
def test_a_layout_with_a_file_missing(paper_data: Path, tmp_path: Path) -> None:
    folder = clone(paper_data, tmp_path / "clone")
    (folder / paper.FREEGEN).unlink()
    assert error(str(folder)).startswith(f"{folder / paper.FREEGEN} (store.path): missing")
