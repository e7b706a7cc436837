"""A local OpenAI-compatible server that misbehaves by script and counts what it is paid for.

Documents carry a name ``doc-NUMBER`` and their true label as ``label=LABEL``. What happens to a document is a list of
actions, taken one per request; then it answers well:

``429:SECONDS`` with retry-after, ``500``, ``400``, ``401``, ``404``, ``quota``; ``hang:SECONDS`` answers too late;
``drop`` closes the connection; ``page`` sends a web page with status 200; ``broken`` sends half a body that is no JSON;
``refuse``, ``filter``; ``truncate`` stops within the JSON; ``invalid`` is no JSON; ``wrong`` is no label of the list;
``loose`` is right with capitals, quotes and a full stop; ``no_usage`` leaves the token counts out; in batches also
``expired``; as a completion ``empty``.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-0123456789abcdef"
PROMPT_TOKENS, COMPLETION_TOKENS = 100, 5
_FREE = ("429", "500", "400", "401", "404", "quota", "hang", "drop", "page", "broken", "expired")


class Server:
    """The server's state; tests read and write it.

    Attributes:
        script: document to its actions that are left.
        delay_sec: before each answer.
        paid: (document, stage) to answers that were sent whole.
        requests: method and path to how often.
        peak: most completions at once.
        leaks: bodies in which the key was found.
        bodies: of completions.
        batch_status: what batches end in.
        lose_create: so many answers to ``POST /batches`` are lost after the batch was made.
        on_create: called when a batch was made, before the answer.
        hold: batches stay in progress while it is set.
    """

    def __init__(self) -> None:
        self.script: dict[str, list[str]] = {}
        self.delay_sec = 0.0
        self.key: str | None = KEY
        self.paid: Counter[tuple[str, str]] = Counter()
        self.requests: Counter[str] = Counter()
        self.retry_counts: Counter[str] = Counter()
        self.peak = 0
        self.leaks: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.batch_status = "completed"
        self.lose_create = 0
        self.hold = threading.Event()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()
        self.url = ""
        self._now = 0

    @property
    def calls(self) -> int:
        """Completions asked for, paid or not."""
        return self.requests["POST /v1/chat/completions"] + self.requests["POST /v1/completions"]

    def action(self, document: str) -> str:
        with self.lock:
            left = self.script.get(document) or ["ok"]
            return left.pop(0) if self.script.get(document) else left[0]

    def enter(self, step: int) -> None:
        with self.lock:
            self._now += step
            self.peak = max(self.peak, self._now)

    def completion(self, body: dict[str, Any], action: str) -> dict[str, Any]:
        """A chat completion's JSON."""
        text = body["messages"][-1]["content"]
        stage, answers = stage_of(body["messages"][0]["content"])
        label = re.search(r"label=(\w+)", text)
        truth = label.group(1) if label else "unknown"
        right = truth if truth in answers else answers[-1]
        content: str | None = json.dumps({"label": right}) if "response_format" in body else right
        finish, refusal = "stop", None
        if stage == "generate":
            content = f"chat {body['seed']}"
        if action == "refuse":
            content, refusal = None, "I cannot\nhelp with that."
        elif action == "filter":
            content, finish = "", "content_filter"
        elif action == "truncate":
            content, finish = str(content)[:6], "length"
        elif action == "invalid":
            content = "As I see it, this is: web"
        elif action == "wrong":
            content = '{"label": "sports"}' if "response_format" in body else "sports"
        elif action == "loose":
            content = f' "{right.capitalize()}."\n'
        answer: dict[str, Any] = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": finish,
                    "message": {"role": "assistant", "content": content, "refusal": refusal},
                }
            ],
        }
        if action != "no_usage":
            answer["usage"] = usage(PROMPT_TOKENS, COMPLETION_TOKENS)
        with self.lock:
            self.paid[document_of(text), stage] += 1
        return answer

    def finish_batch(self, batch: dict[str, Any]) -> None:
        """Answer a batch: results in reverse order, failed rows in a file of their own."""
        good, bad = [], []
        for line in self.files[batch["input_file_id"]].splitlines():
            row = json.loads(line)
            action = self.action(document_of(row["body"]["messages"][-1]["content"]))
            kind = action.partition(":")[0]
            answer: dict[str, Any] = {"id": "r", "custom_id": row["custom_id"], "error": None}
            if kind == "expired":
                error = {"code": "batch_expired", "message": "not in time"}
                bad.append(answer | {"response": None, "error": error})
            elif kind in _FREE:
                error = {"error": {"message": f"scripted {kind}"}}
                bad.append(answer | {"response": {"status_code": int(kind), "body": error}})
            else:
                body = self.completion(row["body"], kind)
                good.append(answer | {"response": {"status_code": 200, "body": body}})
        batch["status"] = self.batch_status
        for name, rows in (("output_file_id", good), ("error_file_id", bad)):
            if rows:
                batch[name] = f"file-{len(self.files)}"
                self.files[batch[name]] = "".join(json.dumps(row) + "\n" for row in reversed(rows)).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *words: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers.get("content-length", 0))))

    def _serve(self, raw: bytes) -> None:
        state: Server = self.server.state
        path = self.path.partition("?")[0]
        with state.lock:
            state.requests[f"{self.command} {path}"] += 1
            if state.key is not None and state.key.encode() in raw:
                state.leaks.append(path)
        if state.key is not None and (sent := self.headers.get("authorization")) != f"Bearer {state.key}":
            return self._error(401, f"Incorrect API key provided: {sent}")
        if path == "/v1/chat/completions":
            return self._chat(json.loads(raw))
        if path == "/v1/completions":
            return self._generate(json.loads(raw))
        if path == "/v1/files":
            content = raw.split(b'filename="questions.jsonl"')[1].split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 2)[0]
            if not content.lstrip().startswith(b"{"):
                return self._error(400, "no jsonl")
            lines = [line for line in content.split(b"\n") if line.startswith(b"{")]
            name = f"file-{len(state.files)}"
            state.files[name] = b"\n".join(lines)
            return self._json({"id": name, "object": "file", "bytes": len(content), "purpose": "batch"})
        if path.startswith("/v1/files/"):
            return self._send(200, state.files[path.split("/")[3]], "application/octet-stream")
        return self._batches(path, raw)

    def _batches(self, path: str, raw: bytes) -> None:
        state: Server = self.server.state
        if self.command == "POST":
            batch = json.loads(raw) | {"id": f"batch-{len(state.batches)}", "object": "batch", "status": "validating"}
            state.batches[batch["id"]] = batch
            if state.lose_create:
                state.lose_create -= 1
                return self._error(500, "created, but you never knew")
            return self._json(batch)
        if path == "/v1/batches":
            return self._json({"object": "list", "data": list(state.batches.values()), "has_more": False})
        found = state.batches.get(path.split("/")[3])
        if found is None:
            return self._error(404, "no such batch")
        if found["status"] == "validating":
            found["status"] = "in_progress"
        elif found["status"] == "in_progress" and not state.hold.is_set():
            if state.batch_status == "failed":
                found |= {"status": "failed", "errors": {"data": [{"message": "line 1 is bad"}]}}
            else:
                state.finish_batch(found)
        return self._json(found)

    def _chat(self, body: dict[str, Any]) -> None:
        state: Server = self.server.state
        state.bodies.append(body)
        document = document_of(body["messages"][-1]["content"])
        state.enter(1)
        try:
            time.sleep(state.delay_sec)
            kind, _, seconds = state.action(document).partition(":")
            if self._failed(kind, seconds):
                return
            self._json(state.completion(body, kind))
        finally:
            state.enter(-1)

    def _generate(self, body: dict[str, Any]) -> None:
        state: Server = self.server.state
        state.bodies.append(body)
        kind, _, seconds = state.action(f"seed-{body['seed']}").partition(":")
        if self._failed(kind, seconds):
            return
        tokens = min(body["max_tokens"], 5)
        text = "" if kind == "empty" else f"{body['prompt']} text {body['seed']}"
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        state.paid[f"seed-{body['seed']}", "generate"] += 1
        answer = {"id": "x", "object": "text_completion", "created": 0, "model": body["model"], "choices": [choice]}
        self._json(answer | {"usage": usage(10, tokens)})

    def _failed(self, kind: str, seconds: str) -> bool:
        """Whether the action is a failure; then it was acted."""
        if kind == "hang":
            time.sleep(float(seconds))
        if kind in ("hang", "drop"):
            self.close_connection = True
        elif kind == "429":
            self._error(429, "slow down", {"retry-after": seconds or "0"})
        elif kind == "quota":
            self._error(429, "you have no money left", code="insufficient_quota")
        elif kind == "page":
            self._send(200, b"<html>a proxy says hello</html>", "text/html")
        elif kind == "broken":
            self._send(200, b'{"id": "x", "choices": [', "application/json")
        elif kind in _FREE:
            self._error(int(kind), f"scripted {kind}")
        return kind in _FREE

    def _error(self, status: int, message: str, headers: dict[str, str] | None = None, code: str | None = None) -> None:
        body = json.dumps({"error": {"message": message, "type": "scripted", "code": code}}).encode()
        self._send(status, body, "application/json", headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    state: Server

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that time out or are killed close their end; that is what is tested."""


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def document_of(text: str) -> str:
    found = re.search(r"doc-\d+", text)
    return found.group() if found else "?"


def stage_of(system: str) -> tuple[str, list[str]]:
    """The stage a prompt belongs to, named by its first answer, and the answers it accepts; none: a free text."""
    last = re.search(r"words alone: (.*)\.$", system)
    answers = last.group(1).split(", ") if last else re.findall(r"^- (\w+):", system, re.MULTILINE)
    stage = answers[0] if last else "all" if answers else "generate"
    return stage, answers or ["?"]


@contextmanager
def serving() -> Iterator[Server]:
    """A server at work."""
    state = Server()
    http = _Quiet(("127.0.0.1", 0), _Handler)
    http.state = state
    state.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()
