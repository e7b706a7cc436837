"""A language model as judge: questions with a fixed set of answers, each paid for once.

What is guaranteed: an answer is on disk before the next request of its worker, so a killed run pays again at most for
the requests in flight (``concurrency`` of them) whose answers were lost with it, or that timed out here and were served
there all the same. A batch is found again by its id, or by its name in the server's list: nothing of it is paid again.
Two runs at the same time know nothing of each other's requests in flight.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from njsl.core.types import ConfigError, DataError, NjslError
from njsl.tag.llm_batch import Batches
from njsl.tag.llm_cache import Ledger, Reply, question_key
from njsl.tag.llm_endpoint import Budget, CapReached, Endpoint, Unanswered, Usage

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)

INVALID_RETRIES = 1  # an invalid answer is asked for once more
OVERHEAD_TOKENS = 12  # per request, for roles and separators; a round figure
_CHARS_PER_TOKEN = 4
_REPORT_SEC = 30.0

Count = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True)
class Prompt:
    """A question about a text.

    Attributes:
        version: of its words, with its stage; part of the cache's key.
        system: the instruction; the text itself is the user's message.
        answers: all that is accepted.
        structured: whether the answer is a JSON object ``{"label": ANSWER}`` under a schema, or the bare words.
    """

    version: str
    system: str
    answers: tuple[str, ...]
    structured: bool

    def parse(self, content: str) -> str:
        """The answer in a reply.

        Raises:
            ValueError: there is none of ``answers``; says what there is.
        """
        if not self.structured:
            # What models add to the bare word: case, quotes, a full stop, a space for the underscore.
            word: Any = content.strip().strip("\"'`*“”‘’.").strip().lower().replace(" ", "_")
        else:
            try:
                found = json.loads(content)
            except (ValueError, RecursionError):
                raise ValueError(f"no JSON: {_short(content)}") from None
            word = found.get("label") if isinstance(found, dict) else None
        if word not in self.answers:
            raise ValueError(f"none of the labels: {_short(content)}")
        return str(word)

    @property
    def response_format(self) -> dict[str, Any] | None:
        """The JSON schema of the answer, as the API wants it."""
        if not self.structured:
            return None
        label = {"type": "string", "enum": list(self.answers)}
        schema = {
            "type": "object",
            "properties": {"label": label},
            "required": ["label"],
            "additionalProperties": False,
        }
        return {"type": "json_schema", "json_schema": {"name": "label", "strict": True, "schema": schema}}


@dataclass(frozen=True)
class Verdict:
    """The end of a question: ``answer`` or ``failure``, the other is None."""

    answer: str | None = None
    failure: str | None = None


def verdict(prompt: Prompt, replies: Sequence[Reply]) -> Verdict | None:
    """What the replies to a question amount to; None as long as it should be asked (again)."""
    invalid: list[str] = []
    for reply in replies:
        if reply.error is not None:
            return Verdict(failure=reply.error)
        if reply.refusal is not None:
            return Verdict(failure=f"refused: {_short(reply.refusal)}")
        if reply.finish == "content_filter":
            return Verdict(failure="stopped by the server's content filter")
        try:
            return Verdict(prompt.parse(reply.content))
        except ValueError as error:
            invalid.append(f"truncated, {error}" if reply.finish == "length" else str(error))
    if len(invalid) > INVALID_RETRIES:
        return Verdict(failure=f"invalid answer, {len(invalid)} times: {invalid[-1]}")
    return None


@dataclass
class Judge:
    """Asks a model, with a cache, a budget and an end.

    Attributes:
        endpoint, budget, ledger: where, for how much, and what is known already.
        api: one request per question, or batches of them.
        model: its name there.
        temperature: of the sampling; None sends none.
        max_answer_tokens: longer answers are cut off.
        token_limit_field: what the server calls that.
        concurrency: requests at once.
        give_up_after: so many questions in a row without any answer end the run, and none of them counts as failed.
        poll_sec: between two looks at a batch [s].
        retry_failed: ask again what failed in an earlier run.
    """

    endpoint: Endpoint
    budget: Budget
    ledger: Ledger
    api: Literal["chat", "batch"]
    model: str
    temperature: float | None
    max_answer_tokens: int
    token_limit_field: str
    concurrency: int
    give_up_after: int
    poll_sec: float
    retry_failed: bool

    def __post_init__(self) -> None:
        self._asked: set[str] = set()  # in this process: an old failure of these is a fresh one
        self._streak: list[tuple[str, Reply]] = []  # questions in a row without any answer, not written down yet
        self._stop: NjslError | None = None
        self._capped = False
        self._said = 0.0

    def ask(self, prompt: Prompt, texts: Sequence[str], count: Count | None) -> list[Verdict]:
        """Judge texts; equal ones are asked about once.

        Args:
            prompt: what is asked.
            texts: what it is asked about.
            count: tokens of texts, for the estimates; None takes a quarter of the characters.

        Returns:
            One verdict per text.

        Raises:
            ConfigError: the key or the model is refused, or the cost cap is reached.
            DataError: the server cannot be reached or answers nothing.
        """
        keys = [question_key(self.model, prompt.version, text) for text in texts]
        wanted = dict(zip(keys, texts, strict=True))
        if self.retry_failed:
            self._forget_failures(prompt, list(wanted))
        todo = self._open(prompt, wanted)
        log.info("%s: %d texts, %d of them to ask about", prompt.version, len(wanted), len(todo))
        if todo:
            asyncio.run(self._run(prompt, wanted, todo, count))
        found = self.ledger.replies(list(wanted))
        ended = {key: verdict(prompt, found.get(key, [])) for key in wanted}
        missing = sum(end is None for end in ended.values())
        if missing:
            assert self._capped, "only the cap leaves questions open without an error"
            raise ConfigError(
                f"{self.endpoint.where}.max_cost_usd: cap reached: {len(wanted) - missing} of {len(wanted)} texts "
                f"labelled ({prompt.version}) and in the cache, {self.budget.spent_usd:.4f} USD paid; raise "
                f"{self.endpoint.where}.max_cost_usd and run again"
            )
        self._asked.update(wanted)
        return [end for end in (ended[key] for key in keys) if end is not None]

    def body(self, prompt: Prompt, text: str) -> dict[str, Any]:
        """A request's body."""
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": text}]
        body: dict[str, Any] = {"model": self.model, "messages": messages}
        body[self.token_limit_field] = self.max_answer_tokens
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if prompt.response_format is not None:
            body["response_format"] = prompt.response_format
        return body

    def reply(self, answer: Any, prompt_tokens: int) -> Reply:
        """What is kept of a completion.

        Args:
            answer: as the server's JSON has it.
            prompt_tokens: counted where the server does not say.

        Raises:
            ValueError: it is no completion.
        """
        try:
            choice = answer["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason") or "stop"
            content, refusal, usage = message.get("content"), message.get("refusal"), answer.get("usage")
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"no chat completion: {_short(str(answer))}") from error
        if content is not None and not isinstance(content, str):
            raise ValueError(f"no chat completion: {_short(str(answer))}")
        content = self.endpoint.scrub(content or "")
        refusal = self.endpoint.scrub(str(refusal)) if refusal else None
        spent = usage_of(usage, prompt_tokens, len(content))
        self.budget.pay(spent)
        return Reply(content, finish, refusal, spent.prompt_tokens, spent.completion_tokens)

    def _forget_failures(self, prompt: Prompt, keys: list[str]) -> None:
        old = self.ledger.replies([key for key in keys if key not in self._asked])
        ended = {key: verdict(prompt, replies) for key, replies in old.items()}
        self.ledger.supersede(key for key, end in ended.items() if end is not None and end.failure is not None)

    def _open(self, prompt: Prompt, wanted: dict[str, str]) -> dict[str, str]:
        """The questions without a verdict."""
        found = self.ledger.replies(list(wanted))
        return {key: text for key, text in wanted.items() if verdict(prompt, found.get(key, [])) is None}

    async def _run(self, prompt: Prompt, wanted: dict[str, str], todo: dict[str, str], count: Count | None) -> None:
        async with self.endpoint.client() as client:
            batches = Batches(self.endpoint, client, self.ledger, self.model, self.poll_sec, self.retry_failed)
            # Whatever was handed in is paid for: wait for it, also if single requests are chosen now.
            await batches.resume(prompt.version, todo, self.reply)
            todo = self._open(prompt, wanted)
            sizes = self._sizes(prompt, todo, count)
            self._estimate(prompt, sizes, count)
            if self.api == "chat":
                await self._chat(client, prompt, todo, sizes)
                return
            await self._batch(batches, prompt, todo, sizes)

    async def _batch(self, batches: Batches, prompt: Prompt, todo: dict[str, str], sizes: dict[str, int]) -> None:
        most = self.endpoint.retries + 1 + INVALID_RETRIES
        tries: Counter[str] = Counter()
        while todo:
            some = list(self._affordable(todo, sizes))
            self._capped = len(some) < len(todo)
            if not some:
                return
            tries.update(some)
            await batches.submit(prompt.version, {key: self.body(prompt, todo[key]) for key in some}, self.reply)
            todo = self._open(prompt, todo)
            reply = Reply(error=f"no answer in {most} batches: {batches.last_error}")
            self.ledger.add(self.model, prompt.version, [(key, reply) for key in todo if tries[key] == most])
            todo = {key: text for key, text in todo.items() if tries[key] < most}

    async def _chat(self, client: AsyncOpenAI, prompt: Prompt, todo: dict[str, str], sizes: dict[str, int]) -> None:
        self._stop, self._capped, self._streak = None, False, []
        self._said = time.monotonic()
        queue = iter(enumerate(todo.items()))

        async def worker() -> None:
            for number, (key, text) in queue:
                if self._stop is not None or self._capped:
                    return
                try:
                    await self._settle(client, prompt, key, text, sizes[key])
                except CapReached:
                    self._capped = True
                except NjslError as error:
                    # The others end their own request first: it is paid for.
                    self._stop = self._stop or error
                self._progress(number, len(todo))

        await asyncio.gather(*(worker() for _ in range(min(self.concurrency, len(todo)))))
        if self._stop is not None:
            raise self._stop
        self._write_streak(prompt)

    async def _settle(self, client: AsyncOpenAI, prompt: Prompt, key: str, text: str, size: int) -> None:
        """Ask until there is a verdict."""
        body, most = self.body(prompt, text), self.budget.price(size, self.max_answer_tokens)

        async def send() -> Reply:
            answer = await client.chat.completions.create(**body)
            # A server that is none answers with a page, which the client hands on as a string.
            return self.reply(answer if isinstance(answer, str) else answer.model_dump(warnings=False), size)

        while verdict(prompt, self.ledger.replies([key]).get(key, [])) is None:
            await self.budget.reserve(most)
            try:
                reply = await self.endpoint.call(send)
            except Unanswered as reason:
                self._streak.append((key, Reply(error=str(reason))))
                if len(self._streak) >= self.give_up_after:
                    raise DataError(
                        f"{self.endpoint.where}: {len(self._streak)} documents in a row got no answer from "
                        f"{self.endpoint.name}, the last: {reason}; what was answered is in the cache, run again"
                    ) from None
                return
            finally:
                self.budget.release(most)
            self.ledger.add(self.model, prompt.version, [(key, reply)])
            self._write_streak(prompt)

    def _write_streak(self, prompt: Prompt) -> None:
        """The server answers others: these failures are the questions' own."""
        if self._streak:
            self.ledger.add(self.model, prompt.version, self._streak)
            self._streak = []

    def _sizes(self, prompt: Prompt, todo: dict[str, str], count: Count | None) -> dict[str, int]:
        """Input tokens per question, estimated."""
        count = count or quarter
        own = count([prompt.system])[0] + count([json.dumps(prompt.response_format)])[0] + OVERHEAD_TOKENS
        return dict(zip(todo, (own + size for size in count(list(todo.values()))), strict=True))

    def _estimate(self, prompt: Prompt, sizes: dict[str, int], count: Count | None) -> None:
        tokens, out = sum(sizes.values()), self.max_answer_tokens * len(sizes)
        how = "characters / 4" if count is None else "the tokenizer chosen"
        cost = f"at most {self.budget.price(tokens, out):.4f} USD" if self.budget.priced else "no prices given"
        log.info("%s: about %s input tokens (%s), %s", prompt.version, f"{tokens:,}", how, cost)

    def _affordable(self, todo: dict[str, str], sizes: dict[str, int]) -> Iterator[str]:
        total = 0.0
        for key in todo:
            total += self.budget.price(sizes[key], self.max_answer_tokens)
            if not self.budget.fits(total):
                return
            yield key

    def _progress(self, number: int, total: int) -> None:
        if time.monotonic() - self._said > _REPORT_SEC:
            self._said = time.monotonic()
            log.info("%d of %d asked about; %s", number + 1, total, self.budget)


def quarter(texts: Sequence[str]) -> list[int]:
    """Tokens of texts by the rule of thumb: four characters each, rounded up."""
    return [-(-len(text) // _CHARS_PER_TOKEN) for text in texts]


def usage_of(usage: Any, prompt_tokens: int, characters: int) -> Usage:
    """What the server says an answer took; if it does not, ``prompt_tokens`` and a quarter of the characters."""
    try:
        return Usage(int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
    except (TypeError, KeyError, ValueError):
        return Usage(prompt_tokens, -(-characters // _CHARS_PER_TOKEN), estimated=True)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 80 else line[:77] + "...")
