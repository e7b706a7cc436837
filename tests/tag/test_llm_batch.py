"""The Batch API of a local server: any order, an error file, kills at every point, and nothing paid twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from njsl.core.types import ConfigError, DataError
from njsl.tag.llm_cache import Ledger, question_key
from njsl.tag.taggers.domain_llm import ONE_CALL
from tag.judging import LABELS, batch_of, kill, tag, tagger, text
from tag.openai_server import KEY, Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as state:
        yield state
    assert not state.leaks


def test_results_in_any_order_and_an_error_file(server: Server, tmp_path: Path) -> None:
    server.script = {
        "doc-001": ["500"],
        "doc-002": ["400"],
        "doc-003": ["expired", "429:0"],
        "doc-004": ["refuse"],
        "doc-005": ["wrong"],
        "doc-006": ["truncate", "invalid"],
        "doc-007": ["500"] * 9,
    }
    ends = tag(tagger(server, tmp_path, api="batch"), batch_of(20))
    failed = {number: reason for number, (_, reason) in enumerate(ends) if reason is not None}
    assert failed == {
        2: "400 scripted 400",
        4: "refused: 'I cannot help with that.'",
        6: "invalid answer, 2 times: no JSON: 'As I see it, this is: web'",
        7: "no answer in 5 batches: 500 scripted 500",
    }
    assert all(label == LABELS[n % 8] for n, (label, _) in enumerate(ends) if n not in failed)
    counts = {int(document[4:]): count for (document, _), count in server.paid.items()}
    assert counts == {n: 2 if n in (5, 6) else 1 for n in range(20) if n not in (2, 7)}
    asked = sum(server.requests.values())
    assert tag(tagger(server, tmp_path, api="batch"), batch_of(20)) == ends
    assert tag(tagger(server, tmp_path), batch_of(20)) == ends  # the other API knows them too
    assert sum(server.requests.values()) == asked and server.calls == 0


@pytest.mark.parametrize("api", ["batch", "chat"])
def test_a_killed_run_goes_on_waiting(server: Server, tmp_path: Path, api: str) -> None:
    server.hold.set()
    kill(server, tmp_path, 12, 'api="batch", poll_sec=0.01', lambda: server.requests["GET /v1/batches/batch-0"] >= 3)
    server.hold.clear()
    assert [label for label, _ in tag(tagger(server, tmp_path, api=api), batch_of(12))] == [
        LABELS[i % 8] for i in range(12)
    ]
    assert len(server.batches) == 1 and set(server.paid.values()) == {1} and server.calls == 0


def test_a_kill_before_the_id_was_known_finds_the_batch_by_name(server: Server, tmp_path: Path) -> None:
    made = tagger(server, tmp_path, api="batch")
    server.lose_create = 1
    with pytest.raises(DataError, match=r"Batch API: 500 .* batches handed in are not lost, run again"):
        tag(tagger(server, tmp_path, api="batch", retries=0), batch_of(5))
    assert len(server.batches) == 1
    tag(made, batch_of(5))
    assert len(server.batches) == 1 and set(server.paid.values()) == {1}


def test_a_lost_answer_to_create_makes_no_second_batch(server: Server, tmp_path: Path) -> None:
    server.lose_create = 1
    tag(tagger(server, tmp_path, api="batch"), batch_of(5))
    assert len(server.batches) == 1 and set(server.paid.values()) == {1}


def test_a_kill_before_the_batch_was_made_hands_in(server: Server, tmp_path: Path) -> None:
    key = question_key("judge", ONE_CALL.version, text(0, "web"))
    Ledger(tmp_path / "cache" / "llm").open_job(server.url, "never made", [key])
    assert tag(tagger(server, tmp_path, api="batch"), batch_of(1)) == [("web", None)]


def test_refused_and_cancelled_batches_are_one_line(server: Server, tmp_path: Path) -> None:
    server.batch_status = "failed"
    with pytest.raises(DataError, match="refuses batch batch-0: line 1 is bad"):
        tag(tagger(server, tmp_path, api="batch"), batch_of(3))
    server.batch_status, server.script = "cancelled", {"doc-001": ["expired"]}
    with pytest.raises(DataError, match="batch batch-1 was cancelled; what it answered is in the cache"):
        tag(tagger(server, tmp_path, api="batch"), batch_of(3))
    server.batch_status = "completed"
    assert [label for label, _ in tag(tagger(server, tmp_path, api="batch"), batch_of(3))] == list(LABELS[:3])
    assert set(server.paid.values()) == {1}


def test_a_batch_the_server_forgot_is_asked_again_only_if_wished(server: Server, tmp_path: Path) -> None:
    ledger, key = Ledger(tmp_path / "cache" / "llm"), question_key("judge", ONE_CALL.version, text(0, "web"))
    ledger.open_job(server.url, "gone", [key])
    ledger.name_batch("gone", "batch-gone")
    with pytest.raises(DataError, match=r"does not know batch batch-gone .*retry_failed=true"):
        tag(tagger(server, tmp_path, api="batch"), batch_of(1))
    assert tag(tagger(server, tmp_path, api="batch", retry_failed=True), batch_of(1)) == [("web", None)]


def test_the_cap_hands_in_what_fits(server: Server, tmp_path: Path) -> None:
    prices = {"input_usd_per_mtok": 2000.0, "output_usd_per_mtok": 2000.0, "max_answer_tokens": 5}
    with pytest.raises(ConfigError, match="cap reached"):
        tag(tagger(server, tmp_path, api="batch", max_cost_usd=1.05, **prices), batch_of(24))
    assert 0 < sum(server.paid.values()) <= 10  # half price: 0.105 USD each
    assert all(
        reason is None
        for _, reason in tag(tagger(server, tmp_path, api="batch", max_cost_usd=None, **prices), batch_of(24))
    )
    assert set(server.paid.values()) == {1} and len(server.paid) == 24
