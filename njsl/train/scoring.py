"""A causal language model's folder, read as it is, and its score of text: nats and greedy hits, token by token."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch.nn import functional as F

from njsl.core.types import ConfigError, DataError

# Tensors: B sequences, T positions, V vocabulary; arrays: N tokens of one text.

# Longer windows cost memory for logits (a vocabulary of 128k: 1 GiB in bf16) and gain next to nothing.
LONGEST_WINDOW = 4096
# At most so many logits in one forward pass (512 MiB in fp32), unless a single window has more.
MOST_LOGITS = 2**27
# Logits turned into fp32 log-probabilities at once.
_CHUNK_LOGITS = 2**24
_MAX_LENGTH_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")
_UNKNOWN_LENGTH = 2048


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of one text's tokens.

    Attributes:
        nll_N: minus the log-probability of each token given all before it [nats], float64.
        greedy_N: whether each token was the likeliest.
    """

    nll_N: np.ndarray
    greedy_N: np.ndarray


class Scorer:
    """A Hugging Face causal language model of one folder, ready to score text.

    Args:
        folder: a checkpoint as ``save_pretrained`` writes it, with its tokenizer, or a folder with one ``.gguf`` file.
        device: where it runs. On a CPU in fp32, elsewhere in the precision it was saved in.
        batch_size: at most so many windows per forward pass.

    Attributes:
        model, tokenizer: as ``transformers`` loads them.
        window: longest input [tokens]; ``stride`` is how far it moves over longer texts.
        prefix_id: the token before a text's first: BOS, where there is none EOS.
        vocab_size: ids the model knows.

    Raises:
        ConfigError: a package for this kind of file is not installed.
        DataError: no such folder, no complete causal language model in it, or no tokenizer.
    """

    def __init__(self, folder: Path, *, device: torch.device, batch_size: int) -> None:
        self.folder, self.batch_size = folder, batch_size
        self.model, self.tokenizer = _load(folder, device)
        self.window = _window(self.model, self.tokenizer)
        self.stride = max(1, self.window // 2)
        self.vocab_size = int(self.model.get_input_embeddings().num_embeddings)
        ids = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.model.config.get_text_config())
        known = [*ids[:2], getattr(ids[2], "bos_token_id", None), getattr(ids[2], "eos_token_id", None)]
        starts = [token for token in known if isinstance(token, int) and 0 <= token < self.vocab_size]
        if not starts:
            raise DataError(f"{_named(folder)} has neither a BOS nor an EOS token to start a text with")
        self.prefix_id = starts[0]
        self._require_causal()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text [N], without special tokens; their literal strings in a text stay text.

        Raises:
            DataError: the tokenizer has ids the model does not know.
        """
        if not texts:
            return []
        ids = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)
        encoded = [np.asarray(one, dtype=np.int64) for one in ids["input_ids"]]
        largest = max((int(ids_N.max()) for ids_N in encoded if len(ids_N)), default=0)
        if largest >= self.vocab_size:
            raise DataError(
                f"{_named(self.folder)}: its tokenizer gives token {largest}, its model knows {self.vocab_size}; "
                "expected the tokenizer the model was trained with"
            )
        return encoded

    def score(self, texts: Sequence[np.ndarray], firsts: Sequence[int] | None = None) -> list[Scores]:
        """Score token ids [N] of texts, each given ``prefix_id`` and every token before it that the window holds.

        A text longer than the window is read in windows that overlap by half, and every token is scored once: in the
        first window that holds it.

        Args:
            texts: token ids [N] of each.
            firsts: per text the first token that is wanted; windows before it are not read, and their scores are NaN
                and False. None wants all.

        Raises:
            DataError: a token's log-probability is not finite.
        """
        firsts = firsts if firsts is not None else [0] * len(texts)
        scores = [Scores(np.full(len(ids_N), np.nan), np.zeros(len(ids_N), dtype=bool)) for ids_N in texts]
        inputs = [np.concatenate(([self.prefix_id], ids_N[:-1])) for ids_N in texts]
        spans = [
            (text, *span)
            for text, (ids_N, wanted) in enumerate(zip(texts, firsts, strict=True))
            for span in self._spans(len(ids_N))
            if span[2] > wanted
        ]
        # Alike lengths together, so that padding is small; the longest first, so that memory runs out at once or never.
        spans.sort(key=lambda span: (span[1] - span[3], span))
        at = 0
        while at < len(spans):
            length = spans[at][3] - spans[at][1]
            batch = spans[at : at + min(self.batch_size, max(1, MOST_LOGITS // (length * self.vocab_size)))]
            at += len(batch)
            tokens_BT = torch.full((len(batch), length), self.prefix_id, dtype=torch.long)
            for row, (text, start, _, end) in enumerate(batch):
                tokens_BT[row, : end - start] = torch.from_numpy(inputs[text][start:end])
            logits_BTV = self._logits(tokens_BT)
            for row, (text, start, first, end) in enumerate(batch):
                targets_N = torch.from_numpy(texts[text][first:end]).to(logits_BTV.device)
                nll_N, greedy_N = _compare(logits_BTV[row, first - start : end - start], targets_N)
                scores[text].nll_N[first:end], scores[text].greedy_N[first:end] = nll_N, greedy_N
        if not all(np.isfinite(score.nll_N[wanted:]).all() for score, wanted in zip(scores, firsts, strict=True)):
            raise DataError(f"{_named(self.folder)}: its log-probabilities are not finite; expected a trained model")
        return scores

    def _spans(self, length: int) -> Iterator[tuple[int, int, int]]:
        """Windows over a text of ``length`` tokens: start, first token scored, end; the last two partition the text."""
        first = 0
        while first < length:
            end = min(length, self.window if first == 0 else first + self.stride)
            yield max(0, end - self.window), first, end
            first = end

    @torch.inference_mode()
    def _logits(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        # Padding stands on the right, where nothing that counts can see it: no mask is needed.
        return self.model(input_ids=tokens_BT.to(self.model.device), use_cache=False).logits

    def _require_causal(self) -> None:
        """Encoders load as causal models too, see what they predict, and would score too well."""
        length = min(8, self.window)
        tokens_T = torch.arange(length) % self.vocab_size
        other_T = tokens_T.clone()
        other_T[-1] = (other_T[-1] + self.vocab_size // 2) % self.vocab_size
        before, after = (self._logits(ids_T[None])[0, :-1].float() for ids_T in (tokens_T, other_T))
        # Rounding alone may differ, where other tokens take other paths through the model.
        if (before - after).abs().max() > torch.finfo(self.model.dtype).eps ** 0.5 * before.std():
            raise DataError(f"{_named(self.folder)} is no causal language model: it predicts a token from later ones")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within, what other packages print, warn and draw is kept off the console; rich bars of ours still show."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(_Sink(sys.stdout)), contextlib.redirect_stderr(_Sink(sys.stderr)):
            yield
    finally:
        logging.disable(disabled)


class _Sink(io.StringIO):
    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        # Where rich writes instead, if a stream has it.
        self.rich_proxied_file = getattr(stream, "rich_proxied_file", stream)

    def write(self, text: str) -> int:
        return len(text)


def _load(folder: Path, device: torch.device) -> tuple[Any, Any]:
    if not folder.is_dir():
        raise DataError(f"{_named(folder)} is no folder; expected a Hugging Face checkpoint")
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    ggufs = sorted(folder.glob("*.gguf"))
    if not (folder / "config.json").exists():
        if len(ggufs) != 1:
            raise DataError(f"{_named(folder)} has no config.json and {len(ggufs)} .gguf files; expected one of either")
        options["gguf_file"] = ggufs[0].name
    dtype = torch.float32 if device.type == "cpu" or "gguf_file" in options else "auto"
    with quiet():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        import njsl.models.hf  # noqa: F401  (makes our own architecture known to transformers)

        reader: Any = AutoModelForCausalLM
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            model, loaded = reader.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
        except ImportError as error:
            raise ConfigError(f"{_named(folder)} needs a package that is not installed: {_line(error)}") from error
        # transformers has no error of its own: what is wrong in a folder comes out as nearly any.
        except Exception as error:
            raise DataError(
                f"{_named(folder)} cannot be read as a causal language model with its tokenizer: {_line(error)}"
            ) from error
    lacking = sorted(loaded["missing_keys"]) + sorted(str(key) for key in loaded["mismatched_keys"])
    if lacking:
        raise DataError(
            f"{_named(folder)} lacks {len(lacking)} of the model's weights, or has them in another shape: {lacking[0]}"
        )
    return model.to(device).eval(), tokenizer


def _window(model: Any, tokenizer: Any) -> int:
    config = model.config.get_text_config()
    lengths = [getattr(config, name, None) for name in _MAX_LENGTH_NAMES] + [tokenizer.model_max_length]
    # Tokenizers without a limit say 1e30.
    known = [length for length in lengths if isinstance(length, int) and 1 < length < 1e9]
    return min(LONGEST_WINDOW, known[0] if known else _UNKNOWN_LENGTH)


def _compare(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-probability [nats] of each target, and whether it is the likeliest token."""
    size = max(1, _CHUNK_LOGITS // logits_NV.shape[-1])
    nll, greedy = [], []
    for some_NV, some_N in zip(torch.split(logits_NV, size), torch.split(targets_N, size), strict=True):
        nll.append(F.cross_entropy(some_NV.float(), some_N, reduction="none").cpu())
        greedy.append((some_NV.argmax(dim=-1) == some_N).cpu())
    return torch.cat(nll).double().numpy(), torch.cat(greedy).numpy()


def _named(folder: Path) -> str:
    return f"evaluate.checkpoint: {folder}"


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
