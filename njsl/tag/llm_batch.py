"""The Batch API: hand questions in, wait, collect; a killed run goes on waiting, and nothing is handed in twice."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from njsl.core.types import DataError
from njsl.tag.llm_cache import Job, Ledger, Reply
from njsl.tag.llm_endpoint import Endpoint, Missing, Unanswered

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

log = logging.getLogger(__name__)

# OpenAI's limits on one batch are 50,000 requests and 200 MB (platform.openai.com/docs/guides/batch).
MAX_REQUESTS = 50_000
MAX_BYTES = 190_000_000
NAME = "njsl"  # the key in a batch's metadata under which it carries its name
_ENDED = ("completed", "failed", "expired", "cancelled")
_PASSING = (408, 409, 429)
_REPORT_SEC = 300.0

Parse = Callable[[Any, int], Reply]


class Batches:
    """The batches of one endpoint and model.

    Args:
        endpoint: where.
        client: open.
        ledger: what is under way and what has come back.
        model: asked.
        poll_sec: between two looks at a batch [s].
        give_up_lost: ask again what was in a batch that the server does not know any longer.

    Attributes:
        last_error: why a request that may be tried again had no answer.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        client: AsyncOpenAI,
        ledger: Ledger,
        model: str,
        poll_sec: float,
        give_up_lost: bool,
    ) -> None:
        self._endpoint = endpoint
        self._client = client
        self._ledger = ledger
        self._model = model
        self._poll_sec = poll_sec
        self._give_up_lost = give_up_lost
        self.last_error = "none given"

    async def resume(self, prompt: str, keys: Mapping[str, Any], parse: Parse) -> None:
        """Wait for the batches of an earlier run that hold any of these questions.

        Raises:
            DataError, ConfigError: as ``submit``.
        """
        for job in self._ledger.open_jobs(self._endpoint.name, keys):
            batch = job.batch or await self._find(job.name)
            if batch is None:
                self._ledger.drop_job(job.name)  # killed before it was handed in
                continue
            log.info("waiting for batch %s of an earlier run, %d requests", batch, len(job.keys))
            self._ledger.name_batch(job.name, batch)
            try:
                await self._collect(prompt, Job(job.name, batch, job.keys), parse)
            except Missing as error:
                if not self._give_up_lost:
                    raise
                log.warning("%s; its questions are asked again", error)
                self._ledger.drop_job(job.name)

    async def submit(self, prompt: str, bodies: Mapping[str, dict[str, Any]], parse: Parse) -> None:
        """Hand questions in and collect the answers; what may be tried again is left without reply.

        Args:
            prompt: its version, for the ledger.
            bodies: of the requests, by key.
            parse: a completion's reply.

        Raises:
            DataError: the server refuses a batch, cancels it, or cannot be asked about it any longer.
            ConfigError: the key or the model is refused.
        """
        jobs = [await self._hand_in(*part) for part in _parts(bodies)]
        for job in jobs:
            await self._collect(prompt, job, parse)

    async def _hand_in(self, keys: tuple[str, ...], content: bytes) -> Job:
        files, batches = self._client.files, self._client.batches
        upload = await self._call(lambda: files.create(file=("questions.jsonl", content), purpose="batch"))
        name = uuid.uuid4().hex
        self._ledger.open_job(self._endpoint.name, name, keys)
        first = True

        async def create() -> str:
            nonlocal first
            # An answer that got lost may stand for a batch that was made: look before another try.
            made = None if first else await self._find_once(name)
            first = False
            if made is not None:
                return made
            batch = await batches.create(
                input_file_id=upload.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={NAME: name},
            )
            return batch.id

        batch = await self._call(create)
        self._ledger.name_batch(name, batch)
        log.info("batch %s handed in, %d requests", batch, len(keys))
        return Job(name, batch, keys)

    async def _find(self, name: str) -> str | None:
        """The id of the batch with our name, if the server has it."""
        return await self._call(lambda: self._find_once(name))

    async def _find_once(self, name: str) -> str | None:
        async for batch in self._client.batches.list(limit=100):
            if (batch.metadata or {}).get(NAME) == name:
                return batch.id
        return None

    async def _collect(self, prompt: str, job: Job, parse: Parse) -> None:
        batch = await self._wait(job)
        rows: list[dict[str, Any]] = []
        for file in (batch.output_file_id, batch.error_file_id):
            if file is not None:
                rows += _rows(file, await self._call(functools.partial(self._text, file), missing=f"file {file}"))
        asked, replies = set(job.keys), []
        for row in rows:
            key, reply = row.get("custom_id"), self._reply(row, parse)
            if reply is not None and key in asked:
                replies.append((key, reply))
        if batch.status == "failed" and not rows:
            faults = batch.errors.data if batch.errors and batch.errors.data else []
            reason = self._endpoint.scrub(faults[0].message or "") if faults else ""
            self._ledger.drop_job(job.name)
            refused = f"{self._endpoint.where}: {self._endpoint.name} refuses batch {job.batch}"
            raise DataError(f"{refused}: {reason or 'no reason given'}")
        self._ledger.add(self._model, prompt, replies, done=job.name)
        log.info("batch %s %s, %d of %d requests settled", job.batch, batch.status, len(replies), len(job.keys))
        if batch.status == "cancelled":
            raise DataError(
                f"{self._endpoint.where}: batch {job.batch} was cancelled; what it answered is in the cache, run again "
                "for the rest"
            )

    async def _wait(self, job: Job) -> Batch:
        assert job.batch is not None
        name, said = job.batch, time.monotonic()
        while True:
            batch = await self._call(lambda: self._client.batches.retrieve(name), missing=f"batch {name}")
            if batch.status in _ENDED:
                return batch
            if time.monotonic() - said > _REPORT_SEC:
                said = time.monotonic()
                log.info("batch %s is %s", name, batch.status)
            await asyncio.sleep(self._poll_sec)

    async def _text(self, file: str) -> str:
        return (await self._client.files.content(file)).text

    def _reply(self, row: dict[str, Any], parse: Parse) -> Reply | None:
        """A row's reply; None where another try may help."""
        response = row.get("response") or {}
        status = response.get("status_code")
        if status == 200:
            try:
                return parse(response.get("body"), 0)
            except ValueError as fault:
                self.last_error = self._endpoint.scrub(str(fault))
                return None
        error = row.get("error") or (response.get("body") or {}).get("error") or {}
        told = error if isinstance(error, str) else error.get("message") or error.get("code") or "no reason given"
        reason = self._endpoint.scrub(f"{status} {told}" if status else str(told))[:300]
        passing = status is None or status in _PASSING or status >= 500
        if passing:
            self.last_error = reason
        return None if passing else Reply(error=reason)

    async def _call(self, send: Callable[[], Any], missing: str | None = None) -> Any:
        """A request about a batch, of which none can be done without."""
        try:
            return await self._endpoint.call(send, missing)
        except Unanswered as reason:
            raise DataError(
                f"{self._endpoint.where}: {self._endpoint.name}, Batch API: {reason}; batches handed in are not lost, "
                "run again"
            ) from None


def _parts(bodies: Mapping[str, dict[str, Any]]) -> Iterator[tuple[tuple[str, ...], bytes]]:
    """Requests as files within the limits: keys and content."""
    keys: list[str] = []
    lines: list[bytes] = []
    size = 0
    for key, body in bodies.items():
        row = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        if keys and (len(keys) == MAX_REQUESTS or size + len(line) > MAX_BYTES):
            yield tuple(keys), b"".join(lines)
            keys, lines, size = [], [], 0
        keys.append(key)
        lines.append(line)
        size += len(line)
    if keys:
        yield tuple(keys), b"".join(lines)


def _rows(file: str, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            yield row
        else:
            log.warning("line %d of the server's file %s is no JSON object and left out", number, file)
