"""A server on 127.0.0.1 that says to the real wandb client what it needs to hear, and keeps what the client sent."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """What arrived, request by request.

    Attributes:
        url: the value for ``WANDB_BASE_URL``.
        graphql: bodies of the GraphQL requests: ``query`` and ``variables``.
        stream: bodies of the file stream: history, summary and the run's end.
        files: uploaded files by name.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.graphql: list[dict[str, Any]] = []
        self.stream: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}

    def runs(self) -> list[dict[str, Any]]:
        """Variables of the mutations that create or update a run."""
        return [body["variables"] for body in self.graphql if "upsertBucket" in body["query"]]

    def config(self) -> dict[str, Any]:
        """The config of the last run, by key."""
        sent = [json.loads(run["config"]) for run in self.runs() if run.get("config")]
        return {key: item["value"] for key, item in sent[-1].items() if isinstance(item, dict) and "value" in item}

    def history(self) -> list[dict[str, Any]]:
        """Logged rows in the order of arrival."""
        return [json.loads(line) for line in self._lines("wandb-history.jsonl")]

    def summary(self) -> dict[str, Any]:
        """The last summary."""
        lines = self._lines("wandb-summary.json")
        return json.loads(lines[-1]) if lines else {}

    def exit_code(self) -> int | None:
        """The exit code the run ended with; None while it runs."""
        ends = [body["exitcode"] for body in self.stream if body.get("complete")]
        return ends[-1] if ends else None

    def _lines(self, name: str) -> list[str]:
        return [line for body in self.stream for line in body.get("files", {}).get(name, {}).get("content", [])]


def _answer(url: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """Data for one GraphQL request; the client reads what it asked for and skips the rest."""
    if "createRunFiles" in query:
        files = [{"name": name, "uploadUrl": f"{url}/upload/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
    if "upsertBucket" in query:
        project = {"name": variables.get("project") or "njsl", "entity": {"name": "tester"}}
        name = variables.get("name") or "run"
        bucket = {"id": "1", "name": name, "displayName": name, "config": "{}", "sweepName": None, "project": project}
        return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0}, "inserted": True}}
    user = {"id": "1", "entity": "tester", "username": "tester", "flags": "{}", "teams": {"edges": []}}
    features: list[Any] = []
    return {"viewer": user, "serverInfo": {"features": features, "cliVersionInfo": {}, "latestLocalVersionInfo": None}}


@contextmanager
def serve() -> Iterator[WandbServer]:
    """A running server; it ends with the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/graphql":
                request = json.loads(body)
                kept.graphql.append(request)
                self._reply({"data": _answer(kept.url, request["query"], request.get("variables") or {})})
            elif self.path.endswith("/file_stream"):
                kept.stream.append(json.loads(body))
                self._reply({"exitcode": None, "limits": {}})
            else:
                self._reply({})

        def do_PUT(self) -> None:
            kept.files[self.path.removeprefix("/upload/")] = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._reply({})

        def do_GET(self) -> None:
            self._reply({})

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _reply(self, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept = WandbServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
