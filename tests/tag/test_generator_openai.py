"""Generations from a server: retries, resume, the cap, and no secret in what is written down."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from njsl.core.types import ConfigError, DataError
from njsl.tag.generators.openai import OpenAI
from tag.openai_server import KEY, Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as state:
        yield state
    assert not state.leaks


def generator(server: Server, folder: Path, **more: Any) -> OpenAI:
    quick = {"backoff_sec": 0.01, "timeout_sec": 0.4, "retries": 2, "model": "writer", "prompt": "<s>"}
    made = OpenAI(**{**quick, "base_url": server.url, "cache": str(folder), **more})
    made.load()
    return made


def test_texts_have_their_number_and_their_seed(server: Server, tmp_path: Path) -> None:
    server.script = {"seed-12": ["429:0.01", "500"], "seed-13": ["hang:0.6"], "seed-14": ["drop", "broken"]}
    made = generator(server, tmp_path, temperature=0.7, top_p=0.9, max_new_tokens=3)
    found = made.generate(2, 6, seed=10)
    assert found == [
        {"id": str(i), "text": f"<s> text {10 + i}", "finish_reason": "stop", "n_tokens": 3} for i in range(2, 8)
    ]
    body = next(body for body in server.bodies if body["seed"] == 12)
    assert body == {
        "model": "writer", "prompt": "<s>", "temperature": 0.7, "top_p": 0.9, "max_tokens": 3, "seed": 12
    }  # fmt: skip
    assert set(server.paid.values()) == {1}


def test_what_is_paid_for_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.script = {"seed-5": ["400"]}
    with pytest.raises(DataError, match=r"gives no text for seed 5: 400 scripted 400; what is written is in the cache"):
        generator(server, tmp_path).generate(0, 10, seed=0)
    texts = generator(server, tmp_path).generate(0, 10, seed=0)
    assert len(texts) == 10 and set(server.paid.values()) == {1}
    asked = server.calls
    assert generator(server, tmp_path, concurrency=1).generate(0, 10, seed=0) == texts and server.calls == asked
    generator(server, tmp_path, temperature=0.5).generate(0, 10, seed=0)
    assert server.calls == asked + 10


def test_chat(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prompt: ''; a chat needs a message"):
        generator(server, tmp_path, api="chat", prompt="")
    server.script = {"doc-001": ["no_usage"]}
    more = {"api": "chat", "prompt": "doc-001", "concurrency": 1, "token_limit_field": "max_completion_tokens"}
    found = generator(server, tmp_path, **more).generate(0, 2, seed=7)
    assert [(one["text"], one["n_tokens"]) for one in found] == [("chat 7", 2), ("chat 8", 5)]  # 6 characters: 2 tokens
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "doc-001"}]
    assert server.bodies[0]["max_completion_tokens"] == 255


def test_a_server_that_does_not_sample_is_told(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator(server, tmp_path).generate(0, 3, seed=0)
    assert "does http" not in caplog.text
    server.script = {f"seed-{number}": ["empty"] for number in range(10, 13)}
    generator(server, tmp_path).generate(0, 3, seed=10)
    assert "texts 0 to 2 are equal; does http" in caplog.text


def test_the_cap_stops_and_a_higher_one_goes_on(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "njsl.tag")
    prices = {"input_usd_per_mtok": 1e4, "output_usd_per_mtok": 1e4, "max_new_tokens": 5}
    with pytest.raises(ConfigError, match=r"generator\.max_cost_usd: cap reached: 0\.\d+ USD paid"):
        generator(server, tmp_path, max_cost_usd=1.0, **prices).generate(0, 20, seed=0)
    assert 0 < sum(server.paid.values()) <= 6  # 15 tokens at 0.01 USD each
    generator(server, tmp_path, max_cost_usd=9.0, **prices).generate(0, 20, seed=0)
    assert set(server.paid.values()) == {1} and len(server.paid) == 20 and "USD" in caplog.text


def test_identity_names_all_but_secrets(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = generator(server, tmp_path)
    identity = made.identity()
    parameters = {"api": "completions", "prompt": "<s>", "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 255}
    assert identity == {"endpoint": server.url, "model": "writer", "parameters": parameters}
    made.generate(0, 3, seed=0)
    assert KEY not in json.dumps(identity)
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match=r"^generator\.api_key_env: the environment variable OPENAI_API_KEY is not"):
        OpenAI(model="m", prompt="x").identity()


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("top_p", 0.0), ("temperature", -1.0), ("batch_size", 0)])
def test_what_cannot_be_is_one_line(server: Server, tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^generator\.{name}: {value}; .*accepted"):
        generator(server, tmp_path, **{name: value})


def test_a_refused_key_ends_at_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-1234567")
    with pytest.raises(ConfigError, match="refuses the key in OPENAI_API_KEY") as caught:
        generator(server, tmp_path).generate(0, 4, seed=0)
    assert "sk-wrong" not in str(caught.value)
