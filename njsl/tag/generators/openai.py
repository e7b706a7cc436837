"""Free generations from an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from njsl.core.run import cache_folder
from njsl.core.types import ConfigError, DataError, NjslError
from njsl.tag.llm import OVERHEAD_TOKENS, quarter, usage_of
from njsl.tag.llm_cache import FOLDER, Ledger, Reply, question_key
from njsl.tag.llm_endpoint import Budget, CapReached, Endpoint, Unanswered

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)

_WHERE = "generator"


class OpenAI:
    """Texts that a model behind an API writes, text number ``i`` with the seed ``seed + i``.

    Whether equal seeds give equal texts is up to the server. A text that was paid for lies in the cache and is not
    asked for again: a killed run pays again at most for the requests in flight.

    Args:
        api: ``completions`` goes on from the prompt; ``chat`` sends it as the user's message.
        model: its name at the endpoint.
        base_url: of the endpoint, up to and with ``/v1``; None is OpenAI.
        api_key_env: the environment variable that holds the key; it may be unset if ``base_url`` is given.
        prompt: of every text; many servers refuse the empty one.
        count: how many texts.
        temperature: 0 .. 2.
        top_p: above 0, up to 1.
        max_new_tokens: a text that has not ended by then is cut there.
        token_limit_field: what the endpoint calls that.
        batch_size: texts that are written at once.
        concurrency: requests at once.
        connect_timeout_sec, timeout_sec: to connect and for an answer [s].
        retries: of a request after 429, 5xx, time-outs and lost connections.
        backoff_sec: wait before the first retry [s], doubled for each further one; ``retry-after`` goes first.
        max_wait_sec: longest wait [s].
        input_usd_per_mtok, output_usd_per_mtok: prices [USD per million tokens]; None if not known.
        max_cost_usd: at most so much is paid by one start of the program [USD]; None is no cap.
        cache: texts lie in its folder ``llm``; None is the user's cache folder.
    """

    # How a run goes, not what it writes: these may differ when it is resumed.
    operational: ClassVar[tuple[str, ...]] = (
        "api_key_env",
        "backoff_sec",
        "cache",
        "concurrency",
        "connect_timeout_sec",
        "input_usd_per_mtok",
        "max_cost_usd",
        "max_wait_sec",
        "output_usd_per_mtok",
        "retries",
        "timeout_sec",
    )

    def __init__(
        self,
        *,
        api: Literal["completions", "chat"] = "completions",
        model: str,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        prompt: str,
        count: int = 1000,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 255,
        token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        batch_size: int = 20,
        concurrency: int = 16,
        connect_timeout_sec: float = 10.0,
        timeout_sec: float = 300.0,
        retries: int = 6,
        backoff_sec: float = 1.0,
        max_wait_sec: float = 120.0,
        input_usd_per_mtok: float | None = None,
        output_usd_per_mtok: float | None = None,
        max_cost_usd: float | None = None,
        cache: str | None = None,
    ) -> None:
        self.api = api
        self.model = model
        self.base_url = base_url
        self.api_key_env = api_key_env
        self.prompt = prompt
        self.count = count
        self.temperature = temperature
        self.top_p = top_p
        self.max_new_tokens = max_new_tokens
        self.token_limit_field = token_limit_field
        self.batch_size = batch_size
        self.concurrency = concurrency
        self.connect_timeout_sec = connect_timeout_sec
        self.timeout_sec = timeout_sec
        self.retries = retries
        self.backoff_sec = backoff_sec
        self.max_wait_sec = max_wait_sec
        self.input_usd_per_mtok = input_usd_per_mtok
        self.output_usd_per_mtok = output_usd_per_mtok
        self.max_cost_usd = max_cost_usd
        self.cache = cache

    def identity(self) -> dict[str, Any]:
        """What the texts depend on beside the seed, fit for JSON, without any secret.

        Raises:
            ConfigError: no key where one is needed, or a parameter out of its range.
        """
        self._endpoint().check()
        self._check()
        named = ("api", "prompt", "temperature", "top_p", "max_new_tokens")
        parameters = {name: getattr(self, name) for name in named}
        return {"endpoint": self._endpoint().name, "model": self.model, "parameters": parameters}

    def load(self) -> None:
        """Open the cache.

        Raises:
            ConfigError: as ``identity``, or a cost cap without prices.
            DataError: the cache cannot be used.
        """
        self._stands_for = json.dumps(self.identity(), sort_keys=True)
        self._budget = Budget(self.input_usd_per_mtok, self.output_usd_per_mtok, self.max_cost_usd)
        self._budget.check(_WHERE)
        self._at = self._endpoint()
        self._ledger = Ledger(cache_folder(self.cache) / FOLDER)

    def generate(self, first: int, count: int, seed: int) -> list[dict[str, Any]]:
        """Write texts number ``first`` to ``first + count - 1``.

        Returns:
            Per text ``id`` (its number), ``text`` (without the prompt), ``finish_reason`` (the server's: ``stop``,
            ``length``, ``content_filter``) and ``n_tokens`` (the server's; else a quarter of the characters).

        Raises:
            ConfigError: the key or the model is refused, or the cost cap is reached.
            DataError: a text cannot be had after all retries; the others are in the cache.
        """
        prompts = {i: f"generate/{seed + i}/{self._stands_for}" for i in range(first, first + count)}
        keys = {i: question_key(self.model, name, self.prompt) for i, name in prompts.items()}
        have = self._ledger.replies(list(keys.values()))
        missing = [i for i, key in keys.items() if key not in have]
        if missing:
            asyncio.run(self._write(missing, keys, seed))
            have = self._ledger.replies(list(keys.values()))
            log.info("generator: texts %d to %d; so far %s", first, first + count - 1, self._budget)
        replies = {i: have[key][0] for i, key in keys.items()}
        if self.temperature > 0 and count > 1 and len({one.content for one in replies.values()}) == 1:
            log.warning("generator: texts %d to %d are equal; does %s sample?", first, first + count - 1, self._at.name)
        return [
            {"id": str(i), "text": one.content, "finish_reason": one.finish, "n_tokens": one.completion_tokens}
            for i, one in replies.items()
        ]

    async def _write(self, missing: list[int], keys: dict[int, str], seed: int) -> None:
        faults: list[NjslError] = []
        queue = iter(missing)

        async with self._at.client() as client:

            async def worker() -> None:
                for i in queue:
                    if faults:
                        return
                    try:
                        reply = await self._one(client, seed + i)
                        self._ledger.add(self.model, "generate", [(keys[i], reply)])
                    except NjslError as error:
                        faults.append(error)

            await asyncio.gather(*(worker() for _ in range(min(self.concurrency, len(missing)))))
        if faults:
            raise faults[0]

    async def _one(self, client: AsyncOpenAI, seed: int) -> Reply:
        body: dict[str, Any] = {"model": self.model, "temperature": self.temperature, "top_p": self.top_p, "seed": seed}
        body[self.token_limit_field] = self.max_new_tokens
        size = quarter([self.prompt])[0] + OVERHEAD_TOKENS

        async def send() -> Reply:
            if self.api == "chat":
                messages: Any = [{"role": "user", "content": self.prompt}]
                answer: Any = await client.chat.completions.create(messages=messages, **body)
            else:
                answer = await client.completions.create(prompt=self.prompt, **body)
            return self._reply(answer if isinstance(answer, str) else answer.model_dump(warnings=False), size)

        most = self._budget.price(size, self.max_new_tokens)
        try:
            await self._budget.reserve(most)
        except CapReached:
            raise ConfigError(
                f"{_WHERE}.max_cost_usd: cap reached: {self._budget.spent_usd:.4f} USD paid; what is written is in the "
                f"cache, raise {_WHERE}.max_cost_usd and run again"
            ) from None
        try:
            return await self._at.call(send)
        except Unanswered as reason:
            raise DataError(
                f"{_WHERE}: {self._at.name} gives no text for seed {seed}: {reason}; what is written is in the "
                "cache, run again"
            ) from None
        finally:
            self._budget.release(most)

    def _reply(self, answer: Any, size: int) -> Reply:
        try:
            choice = answer["choices"][0]
            text = choice["message"].get("content") if self.api == "chat" else choice["text"]
            finish, usage = choice.get("finish_reason") or "stop", answer.get("usage")
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError("no completion") from error
        # A broken surrogate pair cannot be written as UTF-8.
        text = (text or "").encode("utf-8", "replace").decode("utf-8")
        spent = usage_of(usage, size, len(text))
        self._budget.pay(spent)
        return Reply(text, str(finish), None, spent.prompt_tokens, spent.completion_tokens)

    def _endpoint(self) -> Endpoint:
        return Endpoint(
            _WHERE,
            self.base_url,
            self.api_key_env,
            connect_timeout_sec=self.connect_timeout_sec,
            timeout_sec=self.timeout_sec,
            retries=self.retries,
            backoff_sec=self.backoff_sec,
            max_wait_sec=self.max_wait_sec,
        )

    def _check(self) -> None:
        for name, fault in self._faults():
            raise ConfigError(f"{_WHERE}.{name}: {getattr(self, name)!r}; {fault}")

    def _faults(self) -> Iterator[tuple[str, str]]:
        for name in ("count", "max_new_tokens", "batch_size", "concurrency"):
            if getattr(self, name) < 1:
                yield name, "at least 1 is accepted"
        for name in ("retries", "backoff_sec", "max_wait_sec", "temperature"):
            if getattr(self, name) < 0:
                yield name, "0 or more is accepted"
        if not 0 < self.top_p <= 1:
            yield "top_p", "accepted: above 0, up to 1"
        if self.api == "chat" and not self.prompt:
            yield "prompt", "a chat needs a message"
