"""An OpenAI-compatible endpoint: its key, its time-outs, retries with back-off, and what its answers cost."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from njsl.core.types import ConfigError, DataError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

OPENAI = "https://api.openai.com/v1"
_NO_KEY = "none"  # the client insists on one; servers without keys ignore it
_RETRIED = (408, 409, 429)
_PER_MILLION = 1e-6


class Unanswered(Exception):
    """One request got no answer, after all retries or for good; its message is the reason, one line without the key."""


class Missing(DataError):
    """The server does not know what was handed to it earlier."""


@dataclass(frozen=True)
class Usage:
    """What an answer took.

    Attributes:
        prompt_tokens, completion_tokens: as the server counts them.
        estimated: the server did not say, and these are estimates.
    """

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False


@dataclass
class Endpoint:
    """Where requests go, and how patiently.

    Attributes:
        where: the dotted config path of the component, for messages.
        base_url: of the API; None is OpenAI's own.
        api_key_env: the environment variable with the key. With ``base_url`` it may be unset.
        connect_timeout_sec, timeout_sec: to connect, and for an answer [s].
        retries: of a request after 429, 5xx, 408, 409, time-outs and lost connections.
        backoff_sec: wait before the first retry [s]; it doubles each time. What the server asks for goes first.
        max_wait_sec: longest back-off [s]; a server that asks for more ends the run.
    """

    where: str
    base_url: str | None
    api_key_env: str
    connect_timeout_sec: float
    timeout_sec: float
    retries: int
    backoff_sec: float
    max_wait_sec: float
    answered: bool = field(default=False, init=False)
    _not_before: float = field(default=0.0, init=False)

    def check(self) -> None:
        """See that there is a client, and a key where one is needed.

        Raises:
            ConfigError: there is none.
        """
        try:
            import openai  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"{self.where}: needs the package openai; pip install 'njsl[tag]'") from error
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it would log a line for every request
        if self.base_url is not None and "@" in self.base_url:
            raise ConfigError(f"{self.where}.base_url: holds a password; the key goes into ${self.api_key_env}")
        if self.base_url is None and not self._key():
            raise ConfigError(
                f"{self.where}.api_key_env: the environment variable {self.api_key_env} is not set; set it to the "
                f"key, or give {self.where}.base_url for a server that needs none"
            )

    @property
    def name(self) -> str:
        """The URL of the API."""
        return (self.base_url or OPENAI).rstrip("/")

    def client(self) -> AsyncOpenAI:
        """A client within the running event loop; use it as a context manager. Retries are ``call``'s alone."""
        import httpx2
        import openai

        timeout = httpx2.Timeout(self.timeout_sec, connect=self.connect_timeout_sec)
        return openai.AsyncOpenAI(api_key=self._key() or _NO_KEY, base_url=self.name, timeout=timeout, max_retries=0)

    async def call(self, send: Callable[[], Awaitable[T]], missing: str | None = None) -> T:
        """Send a request until it is answered.

        Args:
            send: sends it once.
            missing: what a 404 is about; None is the model.

        Raises:
            Unanswered: the request is refused, or all retries failed.
            Missing: the server does not know what is asked about.
            ConfigError: the key or the model is refused: no request can succeed.
            DataError: the quota is used up, the server cannot be reached at all, or it asks for a long wait.
        """
        reason = ""
        for attempt in range(self.retries + 1):
            await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
            asked: float | None = None
            try:
                answer = await send()
            except Exception as error:
                reason, asked = self._failure(error, missing)
            else:
                self.answered = True
                return answer
            if attempt < self.retries:
                await self._wait(attempt, asked, reason)
        tries = f" ({self.retries + 1} tries)" if self.retries else ""
        if reason.startswith("no connection") and not self.answered:
            raise DataError(f"{self.where}.base_url: {self.name} cannot be reached{tries}: {reason}")
        raise Unanswered(f"{reason}{tries}")

    def scrub(self, text: str) -> str:
        """A server's words as one line without the key, should it send that back."""
        key = self._key()
        return " ".join((text.replace(key, "***") if key else text).split())

    async def _wait(self, attempt: int, asked: float | None, reason: str) -> None:
        if asked is not None:
            if asked > self.max_wait_sec:
                raise DataError(
                    f"{self.where}: {self.name} asks to wait {asked:.0f} s ({reason}); run again then, or raise "
                    f"{self.where}.max_wait_sec (now {self.max_wait_sec:g})"
                )
            # Who asks for a pause means all requests, not this one.
            self._not_before = max(self._not_before, time.monotonic() + asked)
            return
        wait = min(self.backoff_sec * 2.0**attempt, self.max_wait_sec)
        await asyncio.sleep(wait * random.uniform(0.75, 1.0))

    def _failure(self, error: Exception, missing: str | None) -> tuple[str, float | None]:
        """Why a try failed, and the wait [s] that the server asks for, if any.

        Raises:
            Unanswered, ConfigError, DataError: another try is of no use; else the error itself, a fault of ours.
        """
        import openai

        if isinstance(error, openai.APITimeoutError):
            return f"timed out after {self.timeout_sec:g} s", None
        if isinstance(error, openai.APIConnectionError):
            return f"no connection: {self.scrub(str(error.__cause__ or error))}", None
        if isinstance(error, openai.APIStatusError):
            reason = self.scrub(f"{error.status_code} {_message(error)}")[:300]
            self._fatal(error, reason, missing)
            if error.status_code in _RETRIED or error.status_code >= 500:
                return reason, _retry_after(error)
            raise Unanswered(reason) from None
        if isinstance(error, (ValueError, openai.APIResponseValidationError)):
            return f"an answer that is none: {self.scrub(str(error))[:200]}", None
        raise error

    def _fatal(self, error: Any, reason: str, missing: str | None) -> None:
        """End the run where no other request can fare better; the server's error may hold the key and is cut off."""
        if error.status_code in (401, 403):
            known = f"the key in {self.api_key_env}" if self._key() else f"a request without key ({self.api_key_env})"
            raise ConfigError(f"{self.where}.api_key_env: {self.name} refuses {known}: {reason}") from None
        if error.status_code == 404 and missing is not None:
            raise Missing(
                f"{self.where}: {self.name} does not know {missing} (was it another account's?): {reason}; "
                f"{self.where}.retry_failed=true asks again what was in it"
            ) from None
        if error.status_code == 404:
            raise ConfigError(f"{self.where}.model: {self.name} does not know it, or not this API: {reason}") from None
        if error.status_code == 429 and getattr(error, "code", None) == "insufficient_quota":
            raise DataError(f"{self.where}: the quota at {self.name} is used up: {reason}") from None

    def _key(self) -> str:
        return os.environ.get(self.api_key_env, "").strip()


def _message(error: Any) -> str:
    body = error.body
    inner = body.get("error", body) if isinstance(body, dict) else body
    message = inner.get("message") if isinstance(inner, dict) else inner
    return str(message or error.message)


def _retry_after(error: Any) -> float | None:
    for header, seconds in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            wait = float(error.response.headers[header]) * seconds
        except (KeyError, ValueError):  # absent, or a date, for which the own back-off serves as well
            continue
        if 0 <= wait < float("inf"):
            return wait
    return None


class CapReached(Exception):
    """The next request might pass the cost cap."""


class Budget:
    """What is paid by this start of the program, and the cap on it.

    Args:
        input_usd_per_mtok, output_usd_per_mtok: prices [USD per million tokens]; None if unknown or free.
        max_cost_usd: the cap [USD]; None is none.
        factor: on both prices.
    """

    def __init__(
        self,
        input_usd_per_mtok: float | None,
        output_usd_per_mtok: float | None,
        max_cost_usd: float | None,
        factor: float = 1.0,
    ) -> None:
        self.priced = input_usd_per_mtok is not None and output_usd_per_mtok is not None
        self._input = (input_usd_per_mtok or 0.0) * factor * _PER_MILLION
        self._output = (output_usd_per_mtok or 0.0) * factor * _PER_MILLION
        self._cap = float("inf") if max_cost_usd is None else max_cost_usd
        self._reserved = 0.0
        self.spent_usd = 0.0
        self.answers = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.estimated = 0

    def check(self, where: str) -> None:
        """See that a cap has prices to go by.

        Raises:
            ConfigError: it has none.
        """
        if self._cap < float("inf") and not self.priced:
            raise ConfigError(
                f"{where}.max_cost_usd: needs {where}.input_usd_per_mtok and {where}.output_usd_per_mtok; give them (0 "
                "where nothing is charged), or max_cost_usd=null"
            )

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What tokens cost [USD]."""
        return prompt_tokens * self._input + completion_tokens * self._output

    def fits(self, usd: float) -> bool:
        """Whether so much more keeps under the cap, with all that is under way."""
        return self.spent_usd + self._reserved + usd <= self._cap

    async def reserve(self, usd: float) -> None:
        """Set the most a request may cost aside, waiting for what is under way if that may yet leave room.

        Raises:
            CapReached: it does not fit.
        """
        while not self.fits(usd):
            if not self._reserved:
                raise CapReached
            await asyncio.sleep(0.02)
        self._reserved += usd

    def release(self, usd: float) -> None:
        """Give back what was set aside."""
        self._reserved = max(0.0, self._reserved - usd)
        if self._reserved < 1e-12:  # what sums of floats leave behind
            self._reserved = 0.0

    def pay(self, usage: Usage) -> None:
        """Count an answer."""
        self.answers += 1
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.estimated += usage.estimated
        self.spent_usd += self.price(usage.prompt_tokens, usage.completion_tokens)

    def __str__(self) -> str:
        cost = f"{self.spent_usd:.4f} USD" if self.priced else "cost unknown (no prices given)"
        unsure = f", of {self.estimated} answers estimated" if self.estimated else ""
        tokens = f"{self.prompt_tokens:,} input and {self.completion_tokens:,} output tokens{unsure}"
        return f"{self.answers} paid answers, {tokens}, {cost}"
