"""Tokenizers of models: trained on the mix at hand, or made elsewhere; all end up as a Hugging Face tokenizer folder.

Text is data: what looks like a special token in it (``</s>``, ``<|endoftext|>``) stays text and never ends a document.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from njsl.core.run import write_atomic
from njsl.core.types import ConfigError, DataError

if TYPE_CHECKING:
    from rich.progress import Progress
    from tokenizers import Tokenizer as Backend

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
EOS = "<|endoftext|>"
# What ends a document where a tokenizer's files do not say it, in order of preference.
_USUAL_ENDS = (EOS, "</s>", "<|end_of_text|>", "<eos>", "<｜end▁of▁sentence｜>")
_BYTES = 256


class TrainedBPE:
    """Byte-level BPE trained on the mix's training text; digits stand alone.

    Attributes:
        needs_text: whether ``make`` reads text.
    """

    needs_text: ClassVar[bool] = True

    def __init__(self, *, vocab_size: int, sample_mib: float) -> None:
        """Args:
            vocab_size: ids, the 256 bytes and the end of a document among them; fewer where the text yields fewer.
            sample_mib: text it is trained on [MiB].

        Raises:
            ConfigError: fewer ids than bytes, or no text.
        """
        if vocab_size <= _BYTES:
            raise ConfigError(f"tokenizer.vocab_size: expected at least {_BYTES + 1}, got {vocab_size}")
        if not sample_mib > 0:
            raise ConfigError(f"tokenizer.sample_mib: expected a number above 0, got {sample_mib:g}")
        self.vocab_size, self.sample_mib = vocab_size, sample_mib

    def identity(self) -> str:
        """Names what it makes of the same text."""
        return _hash("bpe", str(self.vocab_size), str(self.sample_mib), _version())

    def make(self, texts: Callable[[], Iterator[str]], folder: Path, progress: Progress | None) -> None:
        """Train it and write the folder.

        Args:
            texts: text, as much as wanted is read.
            folder: the new tokenizer folder.
            progress: shows the text read.

        Raises:
            DataError: there is no text.
        """
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, pre_tokenizers, trainers

        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[EOS],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(self._sample(texts(), progress), trainer)
        if backend.get_vocab_size() <= _BYTES + 1:
            raise DataError("tokenizer: no text to train on: the corpora of the mix hold no training documents")
        _save(backend, EOS, folder)

    def encoder(self, cache: Path) -> Tokenizer:
        """Refused: what it would count depends on the text it is trained on.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("tokenizer: tag.py counts with a tokenizer that is there: tiktoken, hf or sentencepiece")

    def _sample(self, texts: Iterator[str], progress: Progress | None) -> Iterator[str]:
        left = total = round(self.sample_mib * 2**20)
        task = None if progress is None else progress.add_task("tokenizer: reading", total=total)
        for text in texts:
            yield text
            left -= len(text.encode())
            if progress is not None and task is not None:
                progress.update(task, completed=min(total, total - left))
            if left <= 0:
                break
        if progress is not None and task is not None:
            # Merging follows, of unknown length.
            progress.update(task, description="tokenizer: training", total=None)


class HuggingFace:
    """A tokenizer of Hugging Face's ``tokenizers``, as it is."""

    needs_text: ClassVar[bool] = False

    def __init__(self, *, path: str) -> None:
        """Args:
            path: a folder with ``tokenizer.json``, or that file.

        Raises:
            ConfigError: there is none.
        """
        given = Path(path)
        self._file = given / FILE if given.is_dir() else given
        if not self._file.is_file():
            raise ConfigError(
                f"tokenizer.path: no {FILE} at {given}; expected that file or a folder with it "
                "(a SentencePiece model is read by tokenizer=sentencepiece)"
            )

    def identity(self) -> str:
        """Names what it makes: the tokenizer's own files."""
        beside = (path.read_bytes() for path in self._beside() if path.is_file())
        return _hash("hf", hashlib.sha256(self._file.read_bytes() + b"\0".join(beside)).hexdigest(), _version())

    def make(self, texts: Callable[[], Iterator[str]], folder: Path, progress: Progress | None) -> None:
        """Write the folder; no text is read.

        Raises:
            DataError: the file is no tokenizer, or nothing in it ends a document.
        """
        backend = _read(self._file)
        # Both are settings of some past use; either would silently change what is encoded.
        backend.no_truncation()
        backend.no_padding()
        _save(backend, self._eos(backend), folder)

    def encoder(self, cache: Path) -> Tokenizer:
        """The tokenizer at work; its folder is made in the cache.

        Raises:
            DataError: as ``make``.
        """
        return _cached(self, cache, self._file)

    def _beside(self) -> tuple[Path, Path]:
        return self._file.with_name(CONFIG), self._file.with_name("special_tokens_map.json")

    def _eos(self, backend: Backend) -> str:
        for path in self._beside():
            if path.is_file():
                named = _json(path).get("eos_token")
                content = named.get("content") if isinstance(named, dict) else named
                if isinstance(content, str) and backend.token_to_id(content) is not None:
                    return content
        for content in _USUAL_ENDS:
            if backend.token_to_id(content) is not None:
                return content
        raise DataError(f"{self._file}: nothing ends a document; give eos_token in a {CONFIG} beside it")


class SentencePiece:
    """A SentencePiece BPE model such as Llama-2's, turned into the equal tokenizer of Hugging Face's ``tokenizers``."""

    needs_text: ClassVar[bool] = False

    def __init__(self, *, path: str) -> None:
        """Args:
            path: the model's file, mostly called ``tokenizer.model``.

        Raises:
            ConfigError: there is no such file.
        """
        self._file = Path(path)
        if not self._file.is_file():
            raise ConfigError(f"tokenizer.path: no file {self._file}; expected a SentencePiece model (tokenizer.model)")

    def identity(self) -> str:
        """Names what it makes: the model's bytes."""
        return _hash("sentencepiece", hashlib.sha256(self._file.read_bytes()).hexdigest(), _version())

    def make(self, texts: Callable[[], Iterator[str]], folder: Path, progress: Progress | None) -> None:
        """Write the folder; no text is read.

        Raises:
            DataError: no SentencePiece model, or one with features that have no equal.
        """
        from tokenizers import AddedToken, Regex, decoders, models, normalizers
        from tokenizers import Tokenizer as Backend

        model = self._model()
        kinds = type(model.pieces[0])
        pieces = [(piece.piece, piece.score, piece.type) for piece in model.pieces]
        vocab = {text: index for index, (text, _, _) in enumerate(pieces)}
        rule = model.normalizer_spec
        normal = {text: score for text, score, kind in pieces if kind == kinds.NORMAL}
        backend = Backend(
            models.BPE(
                vocab=vocab,
                merges=_merges(normal),
                unk_token=pieces[model.trainer_spec.unk_id][0],
                fuse_unk=True,
                byte_fallback=bool(model.trainer_spec.byte_fallback),
            )
        )
        steps: list[Any] = []
        if rule.precompiled_charsmap:
            steps.append(normalizers.Precompiled(rule.precompiled_charsmap))
        if rule.remove_extra_whitespaces:
            steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
        if rule.add_dummy_prefix:
            steps.append(normalizers.Prepend("▁"))
        steps.append(normalizers.Replace(" ", "▁"))
        if rule.remove_extra_whitespaces:
            steps.append(normalizers.Replace(Regex(r"▁+\z"), ""))
        backend.normalizer = normalizers.Sequence(steps)
        undo: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence([*undo, *([decoders.Strip(" ", 1, 0)] if rule.add_dummy_prefix else [])])
        special = [text for text, _, kind in pieces if kind in (kinds.CONTROL, kinds.UNKNOWN)]
        backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
        _save(backend, pieces[model.trainer_spec.eos_id][0], folder)

    def encoder(self, cache: Path) -> Tokenizer:
        """The tokenizer at work; its folder is made in the cache.

        Raises:
            DataError: as ``make``.
        """
        return _cached(self, cache, self._file)

    def _model(self) -> Any:
        """The model's content, which the tokenizer can express without loss."""
        import sentencepiece.sentencepiece_model_pb2 as format_

        model: Any = format_.ModelProto()  # type: ignore[attr-defined]  # protobuf makes the class at run time
        try:
            model.ParseFromString(self._file.read_bytes())
        except Exception as error:  # protobuf's own class, which moved between its versions
            raise DataError(f"{self._file}: no SentencePiece model ({error})") from error
        if not model.pieces:
            raise DataError(f"{self._file}: no SentencePiece model: it holds no pieces")
        kinds = type(model.pieces[0])
        faults = {
            "is no BPE model": model.trainer_spec.model_type != model.trainer_spec.BPE,
            "has user-defined symbols": any(piece.type == kinds.USER_DEFINED for piece in model.pieces),
            "has unused pieces": any(piece.type == kinds.UNUSED for piece in model.pieces),
            "marks spaces at the end of words": model.trainer_spec.treat_whitespace_as_suffix,
            "does not write spaces as ▁": not model.normalizer_spec.escape_whitespaces,
            "has no piece that ends a document": not 0 <= model.trainer_spec.eos_id < len(model.pieces),
        }
        for fault, present in faults.items():
            if present:
                raise DataError(
                    f"{self._file}: this SentencePiece model {fault}, which has no exact equal in tokenizer.json; "
                    "accepted: BPE models of Llama-2's kind, or its tokenizer.json by tokenizer=hf"
                )
        return model


class Tokenizer:
    """A tokenizer folder at work.

    Attributes:
        name: what people call it.
        vocab_size: ids, that is the rows which the model's embedding needs.
        eos_id: ends every document.
        sha256: of ``tokenizer.json``, in hexadecimal.
    """

    def __init__(self, backend: Backend, eos: str, sha256: str, name: str = "") -> None:
        self.name = name
        self._folder: Path | None = None
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend = backend
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        eos_id = backend.token_to_id(eos)
        assert eos_id is not None
        self.eos_id = eos_id
        self.sha256 = sha256

    @classmethod
    def load(cls, folder: Path, name: str | None = None) -> Tokenizer:
        """Open a tokenizer folder.

        Args:
            folder: with ``tokenizer.json`` and ``tokenizer_config.json``.
            name: what people call it; None is the folder's own.

        Raises:
            DataError: a file is missing or broken, or text could end a document.
        """
        path, config = Path(folder) / FILE, Path(folder) / CONFIG
        for file in (path, config):
            if not file.is_file():
                raise DataError(f"{file}: missing; expected a Hugging Face tokenizer folder with {FILE} and {CONFIG}")
        backend, eos = _read(path), _json(config).get("eos_token")
        eos = eos.get("content") if isinstance(eos, dict) else eos
        if not isinstance(eos, str) or backend.token_to_id(eos) is None:
            raise DataError(f"{config}: eos_token {eos!r} is no token of {FILE}; it must name what ends a document")
        tokenizer = cls(
            backend, eos, hashlib.sha256(path.read_bytes()).hexdigest(), name or Path(folder).resolve().name
        )
        tokenizer._folder = Path(folder)
        if tokenizer.eos_id in tokenizer.encode([eos])[0]:
            raise DataError(f"{path}: the text {eos!r} would end a document; mark it as special in added_tokens")
        return tokenizer

    def __reduce__(self) -> tuple[Any, ...]:
        assert self._folder is not None
        return Tokenizer.load, (self._folder, self.name)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, int64, without special tokens."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int64) for encoding in encodings]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of token ids, special tokens by their names."""
        return self._backend.decode([int(token) for token in ids], skip_special_tokens=False)


def _cached(tokenizer: HuggingFace | SentencePiece, cache: Path, file: Path) -> Tokenizer:
    folder = cache / "tokenizers" / tokenizer.identity()[:16]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.make(lambda: iter(()), folder, None)
    return Tokenizer.load(folder, file.parent.resolve().name if file.name == FILE else file.stem)


def _merges(normal: dict[str, float]) -> list[tuple[str, str]]:
    """Merges in the order in which SentencePiece would make them: the best scored result first."""
    rank = {text: index for index, text in enumerate(normal)}
    found = []
    for text, score in normal.items():
        splits = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        whole = [(left, right) for left, right in splits if left in rank and right in rank]
        found += [(-score, rank[text], rank[left], rank[right], left, right) for left, right in whole]
    return [(left, right) for *_, left, right in sorted(found)]


def _save(backend: Backend, eos: str, folder: Path) -> None:
    """Write a tokenizer folder, whole or not at all.

    Raises:
        DataError: text could end a document.
    """
    content = json.loads(backend.to_str())
    for token in content["added_tokens"]:
        # Only special tokens can be kept from matching text.
        token["special"] |= token["content"] == eos
    beside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    write_atomic(beside / FILE, json.dumps(content, indent=1, ensure_ascii=False))
    # Training knows one special token: it ends a document, and so stands before the next one too.
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos,
        "bos_token": eos,
        "clean_up_tokenization_spaces": False,
    }
    write_atomic(beside / CONFIG, json.dumps(config, indent=1, ensure_ascii=False))
    Tokenizer.load(beside)
    os.replace(beside, folder)


def _read(path: Path) -> Backend:
    from tokenizers import Tokenizer as Backend

    try:
        return Backend.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise DataError(f"{path}: no tokenizer of Hugging Face's tokenizers ({error})") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: broken ({error})") from error
    return value if isinstance(value, dict) else {}


def _version() -> str:
    """The library's version belongs to the identity: its training and its normalisers may change."""
    import importlib.metadata

    return importlib.metadata.version("tokenizers")


def _hash(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()
