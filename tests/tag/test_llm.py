"""The language model as judge, against a local server that answers as badly as real ones do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from njsl.core import config
from njsl.core.check import build, check
from njsl.core.types import ConfigError, DataError, Document
from njsl.tag.base import Batch
from njsl.tag.llm_cache import Ledger, Reply, question_key
from njsl.tag.llm_endpoint import Budget, CapReached, Usage
from njsl.tag.taggers.domain_llm import LAST_STAGE, ONE_CALL, STAGES, DomainLLM
from tag.judging import LABELS, ROOT, Quarter, batch_of, kill, tag, tagger, text
from tag.openai_server import COMPLETION_TOKENS, KEY, PROMPT_TOKENS, Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as state:
        yield state
    assert not state.leaks


FAULTS: dict[int, tuple[list[str], str | None]] = {
    # number: what the server does, and the reason that is given (None: it is labelled in the end)
    0: (["429:0.05", "429:0.05"], None),
    1: (["500", "500", "500"], None),
    2: (["hang:0.6"], None),
    3: (["drop", "page", "broken"], None),
    4: (["refuse"], "refused: 'I cannot help with that.'"),
    5: (["filter"], "stopped by the server's content filter"),
    6: (["truncate"], None),
    7: (["truncate", "truncate"], "invalid answer, 2 times: truncated, no JSON: '{\"labe'"),
    8: (["invalid"], None),
    9: (["invalid", "wrong"], 'invalid answer, 2 times: none of the labels: \'{"label": "sports"}\''),
    10: (["500"] * 4, "500 scripted 500 (4 tries)"),
    11: (["429:0.01"] * 4, "429 slow down (4 tries)"),
    12: (["hang:0.6"] * 4, "timed out after 0.4 s (4 tries)"),
    13: (["400"], "400 scripted 400"),
    14: (["no_usage"], None),
}
PAID_TWICE = {6: 2, 7: 2, 8: 2, 9: 2}  # an invalid answer is paid for, and asked for once more
UNPAID = {10, 11, 12, 13}


def test_every_document_ends_labelled_or_failed_and_nothing_is_paid_twice(server: Server, tmp_path: Path) -> None:
    server.script = {f"doc-{number:03d}": list(actions) for number, (actions, _) in FAULTS.items()}
    batch = batch_of(30)
    ends = tag(tagger(server, tmp_path), batch)
    for number, (label, reason) in enumerate(ends):
        expected = FAULTS.get(number, ([], None))[1]
        assert (label, reason) == ((LABELS[number % 8], None) if expected is None else (None, expected)), number
    expected_paid = {(f"doc-{n:03d}", "all"): PAID_TWICE.get(n, 1) for n in range(30) if n not in UNPAID}
    assert server.paid == expected_paid
    asked = server.calls
    assert tag(tagger(server, tmp_path), batch) == ends  # a new object: all it knows is on disk
    assert server.calls == asked


def test_multistage_asks_in_the_papers_order_and_forgives_form(server: Server, tmp_path: Path) -> None:
    loose = [f"doc-{number:03d}" for number in range(8)]
    server.script = {name: ["loose"] * 5 for name in loose} | {"doc-008": ["wrong", "wrong"], "doc-009": ["invalid"]}
    batch = batch_of(10)
    ends = tag(tagger(server, tmp_path, flow="multistage"), batch)
    assert [label for label, _ in ends[:8]] == list(LABELS)
    assert ends[8] == (None, "incoherent: invalid answer, 2 times: none of the labels: 'sports'")
    assert ends[9] == ("books", None)
    stages = {name: [stage for doc, stage in server.paid if doc == name] for name in (*loose, "doc-009")}
    path = ["incoherent", "code", "web", "academic", "books"]
    by_label = dict(zip(LABELS, stages.values(), strict=False))
    assert by_label["incoherent"] == path[:1] and by_label["code"] == path[:2] and by_label["web"] == path[:3]
    assert by_label["academic"] == path[:4] and by_label["unknown"] == by_label["reference"] == path
    asked = server.calls
    assert tag(tagger(server, tmp_path, flow="multistage"), batch) == ends and server.calls == asked


def test_short_texts_cost_nothing_and_long_ones_are_cut(server: Server, tmp_path: Path) -> None:
    texts = ["", "x", "  " * 60, "\0" * 49, text(1, "web") + "y" * 5000, text(2, "books") + "\0\ud800 שלום"]
    batch = Batch([Document(t, str(i), str(i)) for i, t in enumerate(texts)], Quarter())
    ends = tag(tagger(server, tmp_path, max_chars=200), batch)
    assert ends == [("incoherent", None)] * 4 + [("web", None), ("books", None)]
    sent = {body["messages"][1]["content"] for body in server.bodies}
    assert sent == {texts[4][:200], texts[5].replace("\0", " ").replace("\ud800", "?")}


def test_equal_texts_are_asked_about_once(server: Server, tmp_path: Path) -> None:
    batch = Batch([Document(text(1, "web"), str(i), str(i)) for i in range(20)], Quarter())
    assert tag(tagger(server, tmp_path), batch) == [("web", None)] * 20
    assert server.calls == 1


def test_requests_are_parallel_up_to_the_limit(server: Server, tmp_path: Path) -> None:
    server.delay_sec = 0.02
    tag(tagger(server, tmp_path, concurrency=4), batch_of(20))
    assert server.peak == 4


def test_the_request_holds_schema_labels_and_limits(server: Server, tmp_path: Path) -> None:
    tag(tagger(server, tmp_path, token_limit_field="max_tokens", max_answer_tokens=9), batch_of(1))
    tag(tagger(server, tmp_path, temperature=None, flow="multistage", model="other"), batch_of(1))
    first, second = server.bodies[:2]
    schema = first["response_format"]["json_schema"]
    assert schema["strict"] and schema["schema"]["properties"]["label"]["enum"] == list(ONE_CALL.answers)
    assert (first["max_tokens"], first["temperature"], first["model"]) == (9, 0.0, "judge")
    assert "temperature" not in second and "response_format" not in second and second["max_completion_tokens"] == 32


def test_tokens_and_cost_are_told_before_and_after(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "njsl.tag")
    prices = {"input_usd_per_mtok": 2.0, "output_usd_per_mtok": 10.0}
    tag(tagger(server, tmp_path, **prices), batch_of(10))
    words = caplog.text
    assert "10 texts, 10 of them to ask about" in words and "(the tokenizer chosen), at most " in words
    # 10 answers of 100 tokens at 2 USD and 5 tokens at 10 USD per million: 10 * (200 + 50) / 1e6
    assert "10 documents labelled (0 too short to ask about), 0 failed; 10 answers paid now" in words
    assert "10 paid answers, 1,000 input and 50 output tokens, 0.0025 USD" in words
    assert (PROMPT_TOKENS, COMPLETION_TOKENS) == (100, 5)


def test_the_cost_cap_stops_cleanly_and_a_higher_one_goes_on(server: Server, tmp_path: Path) -> None:
    server.delay_sec = 0.01
    prices = {"input_usd_per_mtok": 1000.0, "output_usd_per_mtok": 1000.0, "max_answer_tokens": 5}
    batch = batch_of(24)
    with pytest.raises(
        ConfigError, match=r"^tagger\.domain_llm\.max_cost_usd: cap reached: \d+ of 24 texts label"
    ) as e:
        tag(tagger(server, tmp_path, max_cost_usd=1.05, **prices), batch)
    paid = sum(server.paid.values())
    # An answer costs 0.105 USD and is estimated at more (the prompt has over 300 tokens): never more than the cap.
    assert 0 < paid <= 10 and f"{0.105 * paid:.4f} USD paid" in str(e.value) and "\n" not in str(e.value)
    assert all(reason is None for _, reason in tag(tagger(server, tmp_path, max_cost_usd=50.0, **prices), batch))
    assert set(server.paid.values()) == {1} and len(server.paid) == 24


def test_a_cap_needs_prices(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_cost_usd: needs .*input_usd_per_mtok"):
        tagger(server, tmp_path, max_cost_usd=1.0)


def test_a_run_killed_in_the_middle_pays_again_at_most_for_what_was_in_flight(server: Server, tmp_path: Path) -> None:
    server.delay_sec = 0.05
    kill(server, tmp_path, 60, 'api="chat", concurrency=4', lambda: sum(server.paid.values()) >= 20)
    time.sleep(0.1)  # what was in flight is served all the same
    before = sum(server.paid.values())
    assert 20 <= before < 60
    ends = tag(tagger(server, tmp_path), batch_of(60))
    assert [label for label, _ in ends] == [LABELS[i % 8] for i in range(60)]
    again = [document for document, count in server.paid.items() if count > 1]
    assert len(again) <= 4 and max(server.paid.values()) <= 2 and len(server.paid) == 60


@pytest.mark.parametrize(
    ("action", "kind", "message"),
    [
        ("404", ConfigError, r"^tagger\.domain_llm\.model: http\S+ does not know it"),
        ("quota", DataError, r"^tagger\.domain_llm: the quota at http\S+ is used up: 429 you have no money left"),
        ("429:999", DataError, r"asks to wait 999 s \(429 slow down\)"),
    ],
)
def test_what_no_request_survives_ends_the_run_in_one_line(
    server: Server, tmp_path: Path, action: str, kind: type[Exception], message: str
) -> None:
    server.script = {"doc-003": [action] * 9}
    with pytest.raises(kind, match=message) as caught:
        tag(tagger(server, tmp_path, concurrency=1), batch_of(10))
    assert "\n" not in str(caught.value)
    server.script = {}
    assert all(reason is None for _, reason in tag(tagger(server, tmp_path), batch_of(10)))
    assert set(server.paid.values()) == {1}


def test_a_refused_key_ends_the_run_and_is_not_told(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-9876543210")
    with pytest.raises(ConfigError, match=r"api_key_env: http\S+ refuses the key in OPENAI_API_KEY: 401") as caught:
        tag(tagger(server, tmp_path), batch_of(3))
    assert "Bearer ***" in str(caught.value) and caught.value.__suppress_context__
    assert "sk-wrong" not in str(caught.value) + caplog.text


def test_a_missing_key_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    made = DomainLLM(model="judge", api_key_env="NO_SUCH_KEY", cache=str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=r"^tagger\.domain_llm\.api_key_env: the environment variable NO_SUCH_KEY is"):
        made.load()
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ConfigError, match="base_url: holds a password"):
        DomainLLM(model="judge", base_url="http://me:secret@host/v1", cache=str(tmp_path)).load()


def test_a_server_without_keys_needs_none(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server.key = None
    assert tag(tagger(server, tmp_path), batch_of(1)) == [("web", None)]


def test_the_key_is_in_no_file_and_no_log(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    server.script = {"doc-001": ["401"], "doc-000": ["invalid", "wrong"]}
    with pytest.raises(ConfigError):
        tag(tagger(server, tmp_path), batch_of(4))
    tag(tagger(server, tmp_path, api="batch"), batch_of(6))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and all(KEY.encode() not in path.read_bytes() for path in written)
    shown = capfd.readouterr()
    assert KEY not in caplog.text + shown.out + shown.err


def test_an_unreachable_server_ends_the_run_and_nothing_counts_as_failed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"base_url: http://127\.0\.0\.1:9/v1 cannot be reached \(2 tries\): no connect"
    ):
        tag(tagger(server, tmp_path, base_url="http://127.0.0.1:9/v1", retries=1), batch_of(3))
    assert all(reason is None for _, reason in tag(tagger(server, tmp_path), batch_of(3)))


def test_a_server_that_dies_ends_the_run_and_nothing_counts_as_failed(server: Server, tmp_path: Path) -> None:
    server.script = {f"doc-{number:03d}": ["500"] * 2 for number in range(5, 40)}
    with pytest.raises(DataError, match=r"6 documents in a row got no answer .* 500 scripted 500"):
        tag(tagger(server, tmp_path, retries=0, concurrency=1, give_up_after=6), batch_of(40))
    server.script = {}
    assert all(reason is None for _, reason in tag(tagger(server, tmp_path), batch_of(40)))
    assert set(server.paid.values()) == {1}


def test_failures_are_asked_again_only_if_wished(server: Server, tmp_path: Path) -> None:
    server.script = {"doc-001": ["refuse"], "doc-002": ["400"], "doc-003": ["400"] * 2}
    failed = tag(tagger(server, tmp_path), batch_of(4))
    assert [label for label, _ in failed] == ["web", None, None, None]
    again = tagger(server, tmp_path, retry_failed=True)
    assert [label for label, _ in tag(again, batch_of(4))] == ["web", "books", "reference", None]
    asked = server.calls
    tag(again, batch_of(4))
    tag(tagger(server, tmp_path), batch_of(4))
    assert server.calls == asked


def test_the_ledger_numbers_attempts_and_keeps_what_is_superseded(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add("m", "p", [("a", Reply("one")), ("b", Reply("two"))])
    ledger.add("m", "p", [("a", Reply("three"))])
    assert ledger.replies(["a", "b", "c"]) == {"a": [Reply("one"), Reply("three")], "b": [Reply("two")]}
    ledger.supersede(["a"])
    ledger.add("m", "p", [("a", Reply("four"))])
    assert Ledger(tmp_path).replies(["a"]) == {"a": [Reply("four")]}
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "answers.sqlite").write_text("no database at all, but long enough to be taken for one" * 9)
    with pytest.raises(DataError, match="cannot be used as the cache of answers"):
        Ledger(tmp_path / "broken")


def test_keys_tell_model_prompt_and_text_apart() -> None:
    keys = {question_key(*parts) for parts in (("m", "p", "t"), ("n", "p", "t"), ("m", "q", "t"), ("m", "p", "u"))}
    assert len(keys) == 4
    versions = [prompt.version for prompt in (ONE_CALL, *STAGES, LAST_STAGE)]
    assert len(set(versions)) == 6


def test_the_budget_waits_for_what_is_under_way() -> None:
    async def story() -> None:
        budget = Budget(1e6, 1e6, 10.0)  # one USD per token
        await budget.reserve(8.0)
        waiting = asyncio.create_task(budget.reserve(5.0))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        budget.pay(Usage(3, 1))
        budget.release(8.0)
        await waiting  # 4 spent and 5 reserved
        budget.release(5.0)
        with pytest.raises(CapReached):
            await budget.reserve(6.5)

    asyncio.run(story())


def test_the_yaml_composes_and_builds(tmp_path: Path) -> None:
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        chosen = ["tagger=domain_llm", "generator=openai", "generator.prompt=x", "generator.model=m"]
        cfg = compose("tag", overrides=[*chosen, f"paths.cache={tmp_path}", f"paths.output={tmp_path}/o"])
    check(cfg, config.TagConfig)
    made = build(cfg.tagger.domain_llm)
    assert isinstance(made, DomainLLM) and made.cache == str(tmp_path)
    assert set(DomainLLM.operational) < set(cfg.tagger.domain_llm)
