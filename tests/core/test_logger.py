"""The loggers; wandb is the real client, offline or against a server on 127.0.0.1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from njsl.core.logger import CsvLogger, NullLogger, WandbLogger

from .wandb_server import WandbServer, serve

# A process of its own each time: wandb keeps state per process, and writes an offline run's end at exit.
CLIENT = """
import sys
from pathlib import Path
from omegaconf import OmegaConf
from njsl.core.run import Run

output, mode, end, image = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
logger = {"_target_": "njsl.core.logger.WandbLogger", "mode": mode, "name": "first", "group": "all", "tags": ["x", "y"]}
cfg = OmegaConf.create({
    "seeds": [0, 1],
    "predictor": {"ridge": {"alpha": 1.5}},
    "store": {"path": "${oc.env:WANDB_API_KEY,none}"},
    "logger": logger,
    "paths": {"output": str(output)},
})
with Run(cfg) as run:
    run.claim()
    for step in range(3):
        run.logger.log(step, {"val/mae_frac": 0.5 - step / 10})
    if image:
        run.logger.image("figure", Path(image))
    run.logger.summary({"mae_frac": 0.25, "best_task": "hellaswag"})
    if end == "fail":
        raise SystemExit(3)
"""
KEY = "k" * 40


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with serve() as running:
        yield running


def environment(tmp_path: Path, **changes: str) -> dict[str, str]:
    """No account, no settings and no key but what the test gives."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_") and key != "NETRC"}
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    return {**kept, "HOME": str(home), **changes}


def client(
    tmp_path: Path, mode: str, end: str = "well", image: str = "", **changes: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CLIENT, str(tmp_path / "out"), mode, end, image]
    env = environment(tmp_path, **changes)
    return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)


def arrived(server: WandbServer) -> None:
    """What ``CLIENT`` logged is with the server, and the key is not."""
    sent = server.config()
    assert sent["seeds"] == [0, 1] and sent["predictor"] == {"ridge": {"alpha": 1.5}}
    rows = [(row["_step"], row["val/mae_frac"]) for row in server.history() if "val/mae_frac" in row]
    assert rows == [(0, 0.5), (1, 0.4), (2, 0.3)]
    summary = server.summary()
    assert summary["mae_frac"] == 0.25 and summary["best_task"] == "hellaswag"
    first = server.runs()[0]
    assert (first["project"], first["displayName"], first["groupName"], first["tags"]) == (
        "njsl",
        "first",
        "all",
        ["x", "y"],
    )
    everything = json.dumps([server.graphql, server.stream]) + str(server.files)
    assert KEY not in everything and sent["store"] == {"path": "$WANDB_API_KEY"}


def test_csv(tmp_path: Path) -> None:
    logger = CsvLogger(output=tmp_path)
    logger.close(failed=True)
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        logger.open()
        logger.log(0, {"a": 0.1, "b,c": 1})
        assert (tmp_path / "log.csv").read_text().endswith('0,"b,c",1.0\n')
        logger.log(1, {"a": float("nan")})
        logger.summary({"best": "x", "mae": 0.25})
        logger.image("figure", tmp_path / "x.png")
        logger.close(failed=False)
    assert (tmp_path / "log.csv").read_text() == 'step,name,value\n0,a,0.1\n0,"b,c",1.0\n1,a,nan\n,best,x\n,mae,0.25\n'


def test_null(tmp_path: Path) -> None:
    logger = NullLogger()
    logger.open()
    logger.log(0, {"a": 1.0})
    logger.summary({"a": 1.0})
    logger.image("figure", tmp_path / "x.png")
    logger.close(failed=False)


def test_wandb_online(tmp_path: Path, server: WandbServer) -> None:
    from PIL import Image

    figure = tmp_path / "figure.png"
    Image.new("RGB", (4, 4), "red").save(figure)
    done = client(tmp_path, "online", image=str(figure), WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    arrived(server)
    assert server.exit_code() == 0
    assert any(name.endswith(".png") and content == figure.read_bytes() for name, content in server.files.items())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.yaml", "run.json", "wandb"]
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_symlink() or not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_a_failed_run_ends_as_failed(tmp_path: Path, server: WandbServer) -> None:
    done = client(tmp_path, "online", "fail", WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    assert done.returncode == 3 and server.exit_code() == 1


def test_wandb_offline_and_sync(tmp_path: Path, server: WandbServer) -> None:
    done = client(tmp_path, "offline", WANDB_BASE_URL="http://127.0.0.1:9")  # nobody listens there
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (run,) = (tmp_path / "out" / "wandb").glob("offline-run-*")
    command = [str(Path(sys.executable).with_name("wandb")), "sync", str(run)]
    env = environment(tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    synced = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert synced.returncode == 0, synced.stderr
    arrived(server)


def test_wandb_disabled(tmp_path: Path) -> None:
    done = client(tmp_path, "disabled")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.yaml", "run.json"]


def test_online_without_a_key_names_the_ways_out(tmp_path: Path) -> None:
    done = client(tmp_path, "online")
    assert done.returncode == 1
    for way in ("WANDB_API_KEY", "logger.mode=offline", "logger.mode=disabled", "logger=csv"):
        assert way in done.stderr.splitlines()[-1]
    assert "ConfigError: logger.mode: online" in done.stderr and not (tmp_path / "out").exists()


def test_a_login_counts_as_a_key(tmp_path: Path, server: WandbServer) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {server.url.removeprefix('http://')}\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    done = client(tmp_path, "online", WANDB_BASE_URL=server.url, NETRC=str(netrc))
    assert (done.returncode, done.stderr) == (0, "")
    assert server.exit_code() == 0


@pytest.mark.parametrize(
    ("key", "reason"),
    [("short", "40"), (KEY, "connection refused")],
    ids=["a bad key", "no network"],
)
def test_a_start_that_fails_names_the_ways_out(tmp_path: Path, key: str, reason: str) -> None:
    code = (
        "from pathlib import Path; from njsl.core.logger import WandbLogger;"
        f"WandbLogger(output=Path({str(tmp_path)!r}), config={{}}, init_timeout_sec=2).open()"
    )
    env = environment(tmp_path, WANDB_API_KEY=key, WANDB_BASE_URL="http://127.0.0.1:9")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "ConfigError: logger: wandb could not start" in last
    assert reason in last and "logger.mode=offline" in last


def test_what_the_run_supplies() -> None:
    assert (NullLogger.supplied, CsvLogger.supplied, WandbLogger.supplied) == ((), ("output",), ("output", "config"))
