"""Hugging Face models at work for taggers and generators: found, loaded, and fed in batches.

A folder is read as it is and never looked up anywhere; a name is taken from the local cache of the hub, and fetched
where that has none. Code that comes with a model is never run.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from njsl.core.types import ConfigError, DataError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]
Kind = Literal["AutoModelForCausalLM", "AutoModelForSequenceClassification"]

# Values are rounded to so many decimals. What padding does to a float32 stays below the tolerance.
DECIMALS, TOLERANCE = 3, 2e-5
# Longer windows cost memory for logits and gain next to nothing.
LONGEST_WINDOW = 4096
# Larger batches are slower on a CPU: their activations leave its cache. Measured with BERT base, 512 to 8192.
BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384}
# At most so many logits in one forward pass (256 MiB in float32), unless a single row has more.
MOST_LOGITS = 2**26
_MAX_LENGTH_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")
_UNKNOWN_LENGTH = 2048
_UNLIMITED = 10**9  # tokenizers without a limit say 1e30
_SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")
_WEIGHTS = ("*.safetensors", "*.bin")


def find(model: str, revision: str | None, where: str) -> Path:
    """The folder of a model.

    Args:
        model: a folder, or a name on the hub.
        revision: a branch, tag or commit on the hub; None is its main branch.
        where: the dotted config path of the model, for messages.

    Raises:
        ConfigError: there is no such folder, and neither the cache nor the hub has that name; or a folder with a
            revision.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(
                f"{where}: {model} is a folder, and revision={revision} names one on the hub; leave it out"
            )
        return folder
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        raise ConfigError(f"{where}: {model}: no such folder; expected one with config, weights and tokenizer")
    from huggingface_hub import snapshot_download

    error: Exception = FileNotFoundError("it has no weights there")
    try:
        for local in (True, False):
            # One kind of weights is enough; the newer kind is looked for first.
            for weights in _WEIGHTS:
                wanted: dict[str, Any] = {"local_files_only": local, "allow_patterns": [*_SETTINGS, weights]}
                try:
                    found = Path(snapshot_download(model, revision=revision, **wanted))
                except FileNotFoundError as missing:  # the cache has none, or the hub is out of reach
                    error = missing
                    break
                if any(found.glob(weights)):
                    return found
    # The hub's client has errors of many kinds: of the name, of access, of the network.
    except Exception as raised:
        error = raised
    raise ConfigError(
        f"{where}: {model} is no folder and cannot be had from the hub ({one_line(error)}); give a folder with its "
        f"config, weights and tokenizer as {where}=FOLDER, or run `hf download {model}` once where there is a network"
    ) from error


def load(kind: Kind, folder: Path, *, where: str, device: Device, dtype: str = "float32") -> tuple[Any, Any]:
    """A model in evaluation mode, and its tokenizer, as ``transformers`` loads them.

    Args:
        kind: the class of ``transformers`` that reads it.
        folder: with config, weights and tokenizer.
        where: the dotted config path of the component, for messages.
        device: ``auto`` is a GPU where there is one.
        dtype: what it computes in, a name in ``torch``.

    Raises:
        ConfigError: no such device, or a package for this kind of model is not installed.
        DataError: the folder holds no whole model of that kind with a tokenizer, or no causal one.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{where}.device: cuda, but torch sees no GPU; accepted: auto, cpu")
    on = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    named = f"{where}: {folder}"
    with _quiet():
        import transformers

        import njsl.models.hf  # noqa: F401  (makes our own architecture known to transformers)

        reader: Any = getattr(transformers, kind)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            model, report = reader.from_pretrained(
                folder, dtype=getattr(torch, dtype), output_loading_info=True, **options
            )
        except ImportError as error:
            raise ConfigError(f"{named} needs a package that is not installed: {one_line(error)}") from error
        # transformers has no error of its own: what is wrong in a folder comes out as nearly any.
        except Exception as error:
            raise DataError(f"{named} cannot be read as {kind} with its tokenizer: {one_line(error)}") from error
    lacking = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if lacking:  # transformers would only warn, and leave them random
        raise DataError(
            f"{named} lacks {len(lacking)} of the weights of {kind}, or has them in another shape: {lacking[0]}"
        )
    vocabulary = model.get_input_embeddings().num_embeddings
    # Some tokenizers have a token to pad with that their model was never given.
    plain = set(tokenizer.get_vocab().values()) - set(tokenizer.get_added_vocab().values())
    if len(plain) < 2 or max(plain) >= vocabulary:
        raise DataError(
            f"{named}: its tokenizer gives {len(plain)} ids, its model knows {vocabulary}; expected its own"
        )
    model = model.to(on).eval()
    if kind == "AutoModelForCausalLM":
        _require_causal(model, named)
    return model, tokenizer


def window(model: Any, tokenizer: Any) -> int:
    """The longest input of a model [tokens]."""
    config = model.config.get_text_config()
    lengths = [getattr(config, name, None) for name in _MAX_LENGTH_NAMES] + [tokenizer.model_max_length]
    known = [length for length in lengths if isinstance(length, int) and 1 < length < _UNLIMITED]
    return known[0] if known else _UNKNOWN_LENGTH


def prefix_id(model: Any, tokenizer: Any, where: str) -> int:
    """The token before a text's first: BOS, where there is none EOS.

    Raises:
        DataError: it has neither.
    """
    config = model.config.get_text_config()
    known = [tokenizer.bos_token_id, getattr(config, "bos_token_id", None), *stop_ids(model, tokenizer)]
    for token in known:
        if isinstance(token, int) and 0 <= token < model.get_input_embeddings().num_embeddings:
            return token
    raise DataError(f"{where}: its model has neither a BOS nor an EOS token to start a text with")


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a text, the tokenizer's first; there may be none."""
    found = [tokenizer.eos_token_id]
    for config in (getattr(model, "generation_config", None), model.config.get_text_config()):
        ids = getattr(config, "eos_token_id", None)
        found += ids if isinstance(ids, list) else [ids]
    return list(dict.fromkeys(token for token in found if isinstance(token, int)))


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Which rows go through a model together: alike lengths, so that padding is small, and the longest first.

    Args:
        lengths: of the rows [tokens].
        batch_tokens: at most so many in a batch, padding included, unless one row has more.

    Yields:
        Indices into ``lengths``; each index once.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    while order:
        size = max(1, batch_tokens // max(1, lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def may_round_either_way(value: float) -> bool:
    """Whether the tolerance around a value holds a point where rounding to ``DECIMALS`` changes.

    Where not, a value computed in a batch and one computed alone round to the same. So a value of a batch that may
    round either way is computed anew, alone, and what is written does not depend on batches.
    """
    scaled = value * 10**DECIMALS
    return abs(scaled - int(scaled // 1) - 0.5) <= TOLERANCE * 10**DECIMALS


def files(folder: Path) -> list[Path]:
    """What a model is: its config, weights and tokenizer, sorted."""
    return sorted({path for pattern in (*_SETTINGS, *_WEIGHTS) for path in folder.glob(pattern)})


def fingerprint(folder: Path) -> str:
    """SHA-256 over names and bytes of a model's files."""
    digest = hashlib.sha256()
    for path in files(folder):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def one_line(error: BaseException) -> str:
    """The first sentence or so of another package's error."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _require_causal(model: Any, named: str) -> None:
    """Encoders load as causal models too, see what they predict, and would score too well."""
    import torch

    size = model.get_input_embeddings().num_embeddings
    tokens_T: torch.Tensor = torch.arange(8, device=model.device) % size
    other_T = tokens_T.clone()
    other_T[-1] = (other_T[-1] + size // 2) % size
    with torch.inference_mode():
        before, after = (
            model(input_ids=ids_T[None], use_cache=False).logits[0, :-1].float() for ids_T in (tokens_T, other_T)
        )
    # Rounding alone may differ, where other tokens take other paths through the model.
    if (before - after).abs().max() > torch.finfo(model.dtype).eps ** 0.5 * before.std():
        raise DataError(f"{named} is no causal language model: it predicts a token from later ones")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within, transformers neither warns nor draws bars; what is wrong comes out as an error of ours."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
