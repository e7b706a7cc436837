"""What was measured of a model's writing into a database (``store.write``), as features of that model."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from njsl.core.run import RECORD, Run
from njsl.core.types import ConfigError, DataError
from njsl.corpora import texts
from njsl.store import own, schema
from njsl.store.feature_files import read_features
from njsl.tag.aggregate import FEATURES
from njsl.tag.generate import EXPORT, model_name

_ASKED = "store.id: the model's id is required with store.write"


def names(cfg: DictConfig) -> dict[str, str]:
    """The model's id by the corpus that is its writing: one corpus, but for ``mode=aggregate``, which names its own.

    With ``mode=generate`` and no ``store.id`` it is the id under which ``train.py`` knows the model: its run's.

    Args:
        cfg: with ``store.write``.

    Raises:
        ConfigError: nobody says which model it is, or there is none.
    """
    identity = cfg.store.id
    if cfg.mode == "aggregate":
        if identity is not None:
            raise ConfigError(f"store.id: {identity}; with mode=aggregate models are named by aggregate.ids")
        return {}
    if cfg.mode not in ("generate", "tag"):
        raise ConfigError(f"store.write: mode={cfg.mode} measures no model; accepted with: generate, tag, aggregate")
    corpora = [model_name(cfg.generator)] if cfg.mode == "generate" else texts.corpus_names(cfg.corpora)
    if len(corpora) > 1:
        raise ConfigError(
            f"store.write: {len(corpora)} corpora, {', '.join(corpora)}; one, a model's writing, is accepted"
        )
    if identity is None:
        if cfg.mode == "tag":
            raise ConfigError(f"{_ASKED} and mode=tag")
        identity = _of_export(cfg)
    try:
        schema.check_row("models", {"id": identity})
    except DataError as error:
        raise ConfigError(f"store.id: {error}") from error
    return dict.fromkeys(corpora, identity)


def write(cfg: DictConfig, run: Run, console: Console) -> None:
    """Write the features of a finished run; does nothing where they are there already.

    Args:
        cfg: with ``store.write``.
        run: its folder, with ``features.csv``.
        console: says what was written.

    Raises:
        NjslError: see ``names``, ``read_features`` and ``njsl.store.own.write``.
    """
    records = read_features(run.output / FEATURES, names(cfg))
    new = own.write(Path(cfg.store.write).expanduser().absolute(), [records])
    models = ", ".join(dict.fromkeys(row["id"] for row in records.tables["model_features"]))
    console.print(
        f"stored: features of {models} in {cfg.store.write} ({new:,} new values)",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _of_export(cfg: DictConfig) -> str:
    """The id that the run of train.py has, whose export writes."""
    checkpoint = cfg.generator.get("checkpoint")
    folder = None if checkpoint is None else Path(str(checkpoint)).expanduser().resolve()
    if folder is None or folder.name != EXPORT or not (folder.parent / RECORD).is_file():
        raise ConfigError(f"{_ASKED}, since generator.checkpoint is no export of train.py")
    facts = json.loads((folder.parent / RECORD).read_text(encoding="utf-8")).get("facts", {})
    if not isinstance(facts.get("model_id"), str):
        raise ConfigError(f"{_ASKED}, since {folder.parent / RECORD} does not say it")
    return str(facts["model_id"])
