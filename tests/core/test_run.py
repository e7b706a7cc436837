"""A run folder is claimed, resumed or refused, and says how its run ended."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from njsl.core import run as module
from njsl.core.run import Run, code_sha256, git_state, public_config, redact, write_atomic
from njsl.core.types import ConfigError, DataError


@pytest.fixture(autouse=True)
def code(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One hash for all tests: the package may be edited while they run."""
    monkeypatch.setattr(module, "code_sha256", lambda: "0" * 64)
    yield


def config(output: Path, **changes: Any) -> DictConfig:
    base = {
        "seeds": [0, 1],
        "predictor": {"ridge": {"alpha": 1.0}},
        "workers": 1,
        "logger": {"_target_": "njsl.core.logger.CsvLogger"},
        "paths": {"output": str(output)},
    }
    return OmegaConf.create({**base, **changes})


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_fresh_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["predict.py", "features=scale", "+x.api_key=abc"])
    out = tmp_path / "deep" / "out"
    with Run(config(out)) as run:
        run.record(models=92)
        assert not out.exists()
        run.claim(database="ab" * 32)
        assert (record(out)["state"], record(out)["end"], record(out)["facts"]) == ("running", None, {"models": 92})
        run.logger.log(0, {"mae": 0.5})
        run.record(rows=3)
        assert record(out)["facts"] == {"models": 92, "rows": 3}
        assert not run.finished
    done = record(out)
    assert done["argv"] == ["predict.py", "features=scale", "+x.api_key=***"]
    assert (done["state"], done["exit_reason"], done["seeds"]) == ("finished", "finished", [0, 1])
    assert done["start"] <= done["end"] and done["end"].endswith("+00:00")
    assert done["versions"]["numpy"] and done["versions"]["xgboost"] and done["versions"]["python"]
    assert set(done["git"]) == {"sha", "dirty"}
    assert done["identity"]["inputs"] == {"database": "ab" * 32}
    assert set(done["identity"]["config"]) == {"seeds", "predictor"}
    shown = OmegaConf.to_container(OmegaConf.load(out / "config.yaml"))
    assert isinstance(shown, dict) and shown["seeds"] == [0, 1] and "paths" not in shown
    assert sorted(path.name for path in out.iterdir()) == ["config.yaml", "log.csv", "run.json"]


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (DataError("a.csv: 3 rows, expected 30"), "failed", "failed: a.csv: 3 rows, expected 30"),
        (ZeroDivisionError("by\nzero"), "failed", "failed: ZeroDivisionError: by zero"),
        (KeyboardInterrupt(), "interrupted", "interrupted"),
        (SystemExit(1), "failed", "failed: SystemExit: 1"),
        (SystemExit(0), "finished", "finished"),
    ],
)
def test_exit_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, state: str, reason: str
) -> None:
    closed: list[bool] = []
    with pytest.raises(type(error)), Run(config(tmp_path)) as run:
        run.claim()
        monkeypatch.setattr(run.logger, "close", lambda failed: closed.append(failed))
        raise error
    assert (record(tmp_path)["state"], record(tmp_path)["exit_reason"]) == (state, reason)
    assert closed == [state != "finished"]


def test_nothing_is_written_before_the_claim(tmp_path: Path) -> None:
    with pytest.raises(DataError), Run(config(tmp_path)) as run:
        run.record(rows=1)
        run.logger.log(0, {"x": 1.0})
        raise DataError("no data")
    assert files(tmp_path) == {}


def test_resume(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Run(config(tmp_path)) as run:
        run.claim(database="a")
        run.logger.log(0, {"x": 1.0})
        run.record(models=92)
        raise KeyboardInterrupt
    first = record(tmp_path)
    with Run(config(tmp_path, workers=2, logger={"_target_": "njsl.core.logger.NullLogger"})) as run:
        run.claim(database="a")
        assert not run.finished
        assert record(tmp_path)["state"] == "running"
    again = record(tmp_path)
    assert again["start"] == first["start"] and len(again["resumed_at"]) == 1
    assert (again["state"], again["exit_reason"], again["facts"]) == ("finished", "finished", {"models": 92})


def test_a_log_is_written_anew_on_resume(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt, None):
        try:
            with Run(config(tmp_path)) as run:
                run.claim()
                run.logger.log(0, {"x": 1.0})
                if error:
                    raise error
        except KeyboardInterrupt:
            pass
    assert (tmp_path / "log.csv").read_text() == "step,name,value\n0,x,1.0\n"


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    for _ in range(2):
        with Run(config(tmp_path)) as run:
            run.claim(database="a")
            if not run.finished:
                run.logger.log(0, {"x": 1.0})
                before = None
        before, earlier = files(tmp_path), before
        assert earlier in (None, before)
    with Run(config(tmp_path)) as run:
        run.claim(database="a")
        assert run.finished
        run.logger.log(1, {"x": 2.0})
        run.record(late=1)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "inputs", "message"),
    [
        ({"seeds": [0]}, {}, r"\(seeds: \[0, 1\] -> \[0\]\); choose another hydra\.run\.dir"),
        ({"predictor": {"ridge": {"alpha": 2.0}}}, {}, r"\(predictor\.ridge\.alpha: 1\.0 -> 2\.0\)"),
        ({"predictor": {"svr": {}}}, {}, r"predictor\.svr: nothing -> \{\}; predictor\.ridge: \{'alpha': 1\.0\} -> no"),
        ({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, {}, r"a: nothing -> 1; b: .*; c: [^;]* and 2 more\)"),
        ({}, {"database": "b" * 64}, r"\(database: aaaaaaaaaaaa -> bbbbbbbbbbbb\)"),
    ],
)
def test_another_identity_is_refused(
    tmp_path: Path, changes: dict[str, Any], inputs: dict[str, str], message: str
) -> None:
    first = {"database": "a" * 64}
    with pytest.raises(KeyboardInterrupt), Run(config(tmp_path)) as run:
        run.claim(**first)
        raise KeyboardInterrupt
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=message), Run(config(tmp_path, **changes)) as run:
        run.claim(**{**first, **inputs})
    assert files(tmp_path) == before


def test_other_code_or_versions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), Run(config(tmp_path)) as run:
        run.claim()
        raise KeyboardInterrupt
    monkeypatch.setattr(module, "code_sha256", lambda: "1" * 64)
    with pytest.raises(ConfigError, match=r"another run \(code\); choose"), Run(config(tmp_path)) as run:
        run.claim()
    monkeypatch.undo()
    monkeypatch.setattr(module, "code_sha256", lambda: "0" * 64)
    changed = json.loads((tmp_path / "run.json").read_text())
    changed["identity"]["versions"]["numpy"] = "1.0"
    (tmp_path / "run.json").write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match=r"\(versions\.numpy: 1\.0 -> "), Run(config(tmp_path)) as run:
        run.claim()


def test_folders_that_are_none_of_ours(tmp_path: Path) -> None:
    file, other, broken = tmp_path / "file", tmp_path / "other", tmp_path / "broken"
    file.write_text("x")
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    broken.mkdir()
    (broken / "run.json").write_text('{"state": ')
    for folder, message in ((file, "is a file"), (other, "is not empty and no run folder"), (broken, "is broken")):
        with pytest.raises(ConfigError, match=message), Run(config(folder)):
            pass
    assert files(tmp_path) == {"file": b"x", "other/thesis.tex": b"x", "broken/run.json": b'{"state": '}


def test_a_kill_during_the_first_write_leaves_a_fresh_folder(tmp_path: Path) -> None:
    (tmp_path / ".run.json.tmp").write_text('{"argv"')
    with Run(config(tmp_path)) as run:
        run.claim()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "log.csv", "run.json"]


def test_an_unusable_logger_is_known_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    out = tmp_path / "out"
    with (
        pytest.raises(ConfigError, match=r"logger\.mode=offline"),
        Run(config(out, logger={"_target_": "njsl.core.logger.WandbLogger"})),
    ):
        pass
    with pytest.raises(ConfigError, match="logger: expected a component"), Run(config(out, logger="csv")):
        pass
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("features=scale", "features=scale"),
        ("+columns=[total_tokens]", "+columns=[total_tokens]"),
        ("total_tokens=300", "total_tokens=300"),
        ("key_metric=mae", "key_metric=mae"),
        ("tokens=3", "tokens=3"),
        ("+logger.api_key=abc", "+logger.api_key=***"),
        ("api_key=abc def", "api_key=***"),
        ("x.TOKEN=abc", "x.TOKEN=***"),
        ("++a.b.password=abc", "++a.b.password=***"),
        ("secret=abc", "secret=***"),
        ("+hydra.job.env_set.WANDB_API_KEY=abc", "+hydra.job.env_set.WANDB_API_KEY=***"),
        ("+x={api_key: abc, depth: 3}", "+x={api_key: ***, depth: 3}"),
        ("+x={token:'a b',depth:3}", "+x={token:***,depth:3}"),
        ("name=my-wandb-key-value", "name=***"),
    ],
)
def test_redaction(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "my-wandb-key-value")
    assert redact(text) == shown


def test_values_from_the_environment_are_named_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NJSL_TEST_FOLDER", "/a/private/place")
    monkeypatch.setenv("WANDB_API_KEY", "my-wandb-key-value")
    cfg = config(
        tmp_path, store={"path": "${oc.env:NJSL_TEST_FOLDER}/x", "again": "${.path}", "token": "my-token-value"}
    )
    assert public_config(cfg)["store"] == {
        "path": "$NJSL_TEST_FOLDER/x",
        "again": "$NJSL_TEST_FOLDER/x",
        "token": "***",
    }
    assert cfg.store.path == "/a/private/place/x"
    with pytest.raises(DataError), Run(cfg) as run:
        run.claim()
        raise DataError("the server says my-wandb-key-value is wrong")
    for content in files(tmp_path).values():
        assert b"private" not in content and b"my-wandb-key-value" not in content and b"my-token-value" not in content


def test_write_atomic(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    write_atomic(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    write_atomic(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.csv"]


def test_code_and_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert code_sha256() == code_sha256() and len(code_sha256()) == 64
    package = tmp_path / "njsl"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(module.njsl, "__file__", str(package / "__init__.py"))
    empty = code_sha256()
    (package / "x.py").write_text("a = 1\n")
    one = code_sha256()
    (package / "x.py").write_text("a = 2\n")
    (package / "note.txt").write_text("no code")
    assert len({empty, one, code_sha256()}) == 3
    assert git_state() == {"sha": None, "dirty": None}


def test_a_single_field_may_be_free_when_a_run_is_resumed(tmp_path: Path) -> None:
    free = ["predictor.ridge.alpha", "predictor.other.gone"]
    with pytest.raises(KeyboardInterrupt), Run(config(tmp_path)) as run:
        run.claim(free=free)
        raise KeyboardInterrupt
    with Run(config(tmp_path, predictor={"ridge": {"alpha": 2.0}})) as run:
        run.claim(free=free)
    other = config(tmp_path, predictor={"ridge": {"alpha": 2.0, "beta": 1}})
    with pytest.raises(ConfigError, match=r"predictor\.ridge\.beta: nothing -> 1"), Run(other) as run:
        run.claim(free=free)
