"""A run's own model into a database (``store.write``): exact figures from the config, ``run.json`` and the corpora.

Nothing of it tells an uninterrupted run from one that was killed and resumed. It needs no weights: what was trained and
measured before is written without doing it again.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig
from rich.console import Console

from njsl.core.check import build, meant
from njsl.core.run import CONFIG, RECORD, Run
from njsl.core.types import ConfigError, DataError
from njsl.corpora.tokenizer import Tokenizer
from njsl.models.llama import Llama
from njsl.store import own
from njsl.store.schema import SHARES
from njsl.train import checkpoint, population
from njsl.train.evaluate import RESULTS
from njsl.train.optim import AdamW
from njsl.train.prepare import Prepared

_OWNER = "local"
_DIGITS = 12  # of a checksum in a name
# Of a run's config: what it does, where it reports, and the design it is a point of, which make no other model.
_NOT_REPRODUCING = ("stages", "store", "logger", "callbacks", "population")


def model_id(cfg: DictConfig) -> str:
    """The model's id in a database: ``store.id``, or one made of what it learns from."""
    return cfg.store.id or f"{_OWNER}/{population.model_sha256(cfg)[:_DIGITS]}"


def check(cfg: DictConfig) -> None:
    """Refuse what could not be written at the end, before hours of training.

    Raises:
        ConfigError: a domain that is none, or results that would be another model's.
        NjslError: see ``njsl.store.own.check``.
    """
    domains(cfg)
    if cfg.store.write is None:
        return
    if cfg.evaluate.checkpoint is not None:
        raise ConfigError(
            "evaluate.checkpoint: its results are not of this run's model; null is accepted with store.write"
        )
    try:
        own.check(_target(cfg), model_id(cfg), population.model_sha256(cfg))
    except DataError as error:
        raise ConfigError(f"store.id: {error}") from error


def domains(cfg: DictConfig) -> dict[str, str | None]:
    """What each corpus of the mix counts as in the database; None where nobody says.

    Raises:
        ConfigError: a domain that is none.
    """
    found: dict[str, str | None] = {}
    for name in cfg.data_mix.weights:
        source = cfg.corpora.sources.get(name)
        said = None if source is None else source.domain
        if said is not None and said not in SHARES:
            where = f"corpora.sources.{name}.domain: {said!r}{meant(said, SHARES)}"
            raise ConfigError(f"{where}; accepted: {', '.join(SHARES)}, null")
        found[name] = said or (name if name in SHARES else None)
    return found


def write(cfg: DictConfig, run: Run, prepared: Prepared, console: Console) -> None:
    """Write the model of a run that is trained; does nothing where it is there already.

    Args:
        cfg: with ``store.write``.
        run: its folder: ``run.json``, ``config.yaml`` and, where something was measured, ``results.json``.
        prepared: the corpora it was trained on.
        console: says what was written.

    Raises:
        ConfigError: the run is not trained to its end.
        NjslError: see ``njsl.store.own.write``.
    """
    model = gather(cfg, run.output, prepared)
    new = own.write(_target(cfg), model.records())
    scores = "with its scores" if model.results else "without scores"
    console.print(
        f"stored: {model.id} in {cfg.store.write}, {scores} ({new:,} new values)",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def gather(cfg: DictConfig, folder: Path, prepared: Prepared) -> own.OwnModel:
    """What a finished run says of its model.

    Args:
        cfg: its config.
        folder: of the run.
        prepared: the corpora it was trained on.

    Raises:
        ConfigError: the run is not trained to its end.
        DataError: its results are not of this model.
    """
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    facts, tokenizer = record["facts"], Tokenizer.load(prepared.tokenizer)
    step = _trained(folder)
    if step < facts["steps"]:
        raise ConfigError(f"store.write: the run has done {step} of {facts['steps']} steps; add train to stages")
    with torch.device("meta"):
        model = build(cfg.model, vocab_size=tokenizer.vocab_size, attention=build(cfg.attention))
    sha256 = population.model_sha256(cfg)
    return own.OwnModel(
        id=model_id(cfg),
        family=f"{_OWNER}/{population.family_sha256(cfg)[:_DIGITS]}",
        sha256=sha256,
        architecture=architecture(model) | {"batch_tokens": cfg.batch_tokens, "batch_instances": _instances(cfg)},
        stage=_stage(cfg, facts["tokens"]),
        tokens=facts["taken_tokens"],
        domains=domains(cfg),
        metadata=_metadata(cfg, record, folder, prepared, tokenizer),
        source=sha256[:_DIGITS],
        day=datetime.datetime.fromisoformat(record["start"]).date(),
        results=_results(folder, facts, model),
    )


def exported_step(folder: Path) -> int | None:
    """The step whose weights a run has exported."""
    facts = json.loads((folder / RECORD).read_text(encoding="utf-8"))["facts"]
    step: int | None = facts.get("export", {}).get("step")
    return step


def architecture(model: Llama) -> dict[str, Any]:
    """The fields of ``model_annotations`` that a model itself says, exact; it may be on meta."""
    counts = model.n_params()
    kv_heads, heads = model.n_kv_heads, model.n_heads
    return {
        "dimension": model.hidden_size,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dimension": model.head_dim,
        "num_layers": model.n_layers,
        "ffn_dimension": model.intermediate_size,
        "mlp_ratio": model.intermediate_size / model.hidden_size,
        "layer_norm_type": "rmsnorm" if model.norm == "rmsnorm" else "parametric",
        "positional_embeddings": model.positions,
        "attention_variant": "full" if kv_heads == heads else "mqa" if kv_heads == 1 else "gqa",
        "biases": "all" if model.biases else "none",
        "block_type": model.block,
        "activation": model.mlp,
        "sequence_length": model.sequence_length,
        "vocab_size": model.vocab_size,
        "weight_tying": model.tied_head,
        "total_params": counts["total"],
        "embedding_params": counts["total"] - counts["non_embedding"],
        "is_instruction_tuned": False,
    }


def _target(cfg: DictConfig) -> Path:
    return Path(cfg.store.write).expanduser().absolute()


def _instances(cfg: DictConfig) -> int:
    return int(cfg.batch_tokens) // int(cfg.model.sequence_length)


def _trained(folder: Path) -> int:
    """The step that was reached: of the export, which outlives checkpoints, or of the newest of these."""
    steps = [checkpoint.step_of(found) for found in checkpoint.existing(folder / "checkpoints")]
    return max([*steps, exported_step(folder) or 0])


def _stage(cfg: DictConfig, tokens: int) -> dict[str, Any]:
    """The fields of ``training_stages``."""
    optim: AdamW = build(cfg.optim)
    return {
        "name": "pretraining",
        "batch_instances": _instances(cfg),
        "batch_tokens": cfg.batch_tokens,
        "sequence_length": cfg.model.sequence_length,
        "optimizer": "adamw",
        "learning_rate": optim.lr,
        "learning_rate_min": optim.lr_at(tokens, tokens),
        "learning_rate_schedule": "cosine",
        "warmup_steps": -(-optim.warmup_tokens // cfg.batch_tokens),
        "weight_decay": optim.weight_decay,
        "beta1": optim.betas[0],
        "beta2": optim.betas[1],
        "epsilon": optim.eps,
        "gradient_clip": optim.clip_norm,
    }


def _metadata(
    cfg: DictConfig, record: Mapping[str, Any], folder: Path, prepared: Prepared, tokenizer: Tokenizer
) -> dict[str, Any]:
    """What reproduces the model, as far as it is no column of its own; without times."""
    facts, versions = record["facts"], record["versions"]
    wandb = folder / "wandb" / "run_id.txt"
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    heldout = prepared.manifests("heldout")
    return {
        "seed": cfg.seed,
        "tokenizer_sha256": tokenizer.sha256,
        "git_sha": record["git"]["sha"],
        "git_dirty": record["git"]["dirty"],
        "wandb_run": wandb.read_text(encoding="utf-8").strip() if wandb.is_file() else None,
        "environment": {name: versions.get(name) for name in ("python", "torch")} | {"device": facts.get("device")},
        "corpora": {
            name: {
                "train_sha256": _sha256(manifest),
                "heldout_sha256": _sha256(heldout[name]),
                "tokens_taken": facts["taken_tokens"][name],
                "epochs": facts["epochs"][name],
            }
            for name, manifest in prepared.manifests().items()
        },
        "train_config": {name: value for name, value in config.items() if name not in _NOT_REPRODUCING},
    }


def _results(folder: Path, facts: Mapping[str, Any], model: Llama) -> Path | None:
    """The file with the model's scores; None where it has not been measured, or only before its last step.

    Raises:
        DataError: they are another model's.
    """
    path = folder / RESULTS
    if not path.is_file() or facts.get("evaluated", {}).get("step", facts["steps"]) != facts["steps"]:
        return None
    measured = json.loads(path.read_text(encoding="utf-8"))["config"]["model_num_parameters"]
    if measured != model.n_params()["total"]:
        raise DataError(
            f"{path}: scores of a model of {measured:,} parameters, this one has {model.n_params()['total']:,}; "
            "add evaluate to stages"
        )
    return path


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
