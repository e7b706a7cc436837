"""What ``add-model`` reads: configurations, model directories, model cards, Epoch's table, a YAML of further facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from njsl.core.types import DataError
from njsl.store.records import Records


def read_model_sources(
    sources: Sequence[str], identity: str | None, facts: str | None, names: Mapping[str, str]
) -> list[tuple[str, Records | DataError]]:
    """Each source under its name, read or refused.

    Args:
        sources: files and folders; a folder without ``config.json`` is one of model cards.
        identity: the id of a configuration, which has none itself; else that of ``facts``.
        facts: path of a YAML of facts, or None.
        names: Epoch's names of models -> their ids.

    Raises:
        DataError: nothing is given, or a folder that holds neither a configuration nor cards.
    """
    from njsl.store.contrib import read_facts

    more = None if facts is None else read_facts(facts)
    if more is not None and identity is None:
        identity = str(more.tables["models"][0]["id"])
    read: list[tuple[str, Records | DataError]] = []
    for path in [path for source in sources for path in _files(Path(source))]:
        try:
            read.append((str(path), _read(path, identity, names)))
        except DataError as error:
            read.append((str(path), error))
    if facts is not None and more is not None:
        read.append((facts, more))
    if not read:
        raise DataError("add-model: nothing to add; a SOURCE or --facts YAML is accepted")
    return read


def _files(path: Path) -> list[Path]:
    if not path.is_dir() or (path / "config.json").exists():
        return [path]
    cards = sorted(path.glob("*.json"))
    if not cards:
        raise DataError(f"{path}: neither config.json nor model cards (*.json) in it; one of them is accepted")
    return cards


def _read(path: Path, identity: str | None, names: Mapping[str, str]) -> Records:
    if path.suffix == ".csv":
        from njsl.store.epoch import read_epoch

        return read_epoch(path, names)
    from njsl.store.cards import is_card, read_card
    from njsl.store.checkpoints import read_config

    return read_card(path) if path.is_file() and is_card(path) else read_config(path, identity)
