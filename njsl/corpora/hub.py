"""Datasets of the Hugging Face hub, streamed to files once; a stream that breaks off is taken up where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.progress import Progress

from njsl.core.config import SourceConfig
from njsl.core.run import write_atomic
from njsl.core.types import ConfigError, DataError
from njsl.corpora.readers import SUFFIXES, find, is_unicode, write_records

_MIB = 1 << 20
_FILE_BYTES = 64 * _MIB  # text per written file; also what is streamed again after a break
_BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}


def stream(
    folder: Path,
    source: SourceConfig,
    text_field: str,
    progress: Progress | None = None,
    *,
    group_field: str | None = None,
) -> list[Path]:
    """Write the texts of a dataset as jsonl.gz.

    Records without a text that is a non-empty string of valid Unicode are left out, and counted in ``stream.json``.

    Args:
        folder: of this dataset alone; what is complete in it is only looked up.
        source: ``dataset`` is a name on the hub, or a local file or folder; ``max_mib`` bounds the text [MiB].
        text_field: what the files call a record's text; the dataset too, unless ``source.text_field`` says otherwise.
        group_field: a record's group, if it has any; the files call it as the dataset does.
        progress: shows how much text is there.

    Returns:
        The files, in the order of the dataset.

    Raises:
        ConfigError: ``dataset`` is missing.
        DataError: no network, no such dataset, subset or split, or no such field.
    """
    if not source.dataset:
        raise ConfigError("corpora.sources: kind=hf needs dataset=NAME, a dataset of the hub or a local path.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "stream.json"
    asked = [source.dataset, source.subset, source.split, source.text_field, source.max_mib, text_field, group_field]
    state: dict[str, Any] = {"asked": asked, "files": [], "records": 0, "left_out": 0, "bytes": 0}
    if record.exists() and (earlier := json.loads(record.read_text("utf-8")))["asked"] == asked:
        state = earlier
    if not state.get("complete"):
        for part in _chunks(source, text_field, group_field, state, progress):
            name = f"{len(state['files']):05d}.jsonl.gz"
            write_records(folder / name, part)
            # After the file: what a kill leaves without its line here is streamed again.
            state["files"].append(name)
            write_atomic(record, json.dumps(state, indent=1) + "\n")
        if not state["files"]:
            named = source.text_field or text_field
            raise DataError(f"{_where(source)}: none of its {state['records']} records has a text in {named!r}.")
        state["complete"] = True
        write_atomic(record, json.dumps(state, indent=1) + "\n")
    return [folder / name for name in state["files"]]


def _chunks(
    source: SourceConfig, text_field: str, group_field: str | None, state: dict[str, Any], progress: Progress | None
) -> Iterator[list[dict[str, Any]]]:
    """Records of one file after another; ``state`` says how far each reaches when it is given out."""
    theirs = source.text_field or text_field
    limit = None if source.max_mib is None else int(source.max_mib * _MIB)
    task = None if progress is None else progress.add_task(f"text of {source.dataset}", total=source.max_mib)
    dataset = _open(source)
    if "stream" in state:
        dataset.load_state_dict(state["stream"])
    waiting: list[dict[str, Any]] = []
    waiting_bytes = 0
    for row in _rows(source, dataset):
        number = state["records"]
        text, identity = row.get(theirs), row.get("id")
        for name in (theirs, *([] if group_field is None else [group_field])):
            if name not in row:
                raise DataError(f"{_where(source)}: record {number} has no field {name!r}; it has: {', '.join(row)}.")
        size = len(text.encode("utf-8")) if isinstance(text, str) and is_unicode(text) else 0
        if limit is not None and state["bytes"] + size > limit:
            break
        state["records"] += 1
        if size:
            kept = {"id": number if identity is None else identity, text_field: text}
            waiting.append(kept if group_field is None else kept | {group_field: row[group_field]})
            waiting_bytes += size
            state["bytes"] += size
        else:
            state["left_out"] += 1
        if waiting_bytes >= _FILE_BYTES:
            state["stream"] = dataset.state_dict()
            yield waiting
            waiting, waiting_bytes = [], 0
        if progress is not None and task is not None:
            progress.update(task, completed=state["bytes"] / _MIB)
    if waiting:
        state["stream"] = dataset.state_dict()
        yield waiting


def _open(source: SourceConfig) -> Any:
    """The dataset as a stream; a local file or folder of jsonl, parquet or arrow is opened without the hub."""
    import datasets

    try:
        local = Path(str(source.dataset))
        if not local.exists():
            return datasets.load_dataset(source.dataset, source.subset, split=source.split, streaming=True)
        files = find(local, ["**"]) if local.is_dir() else [local]
        kinds = {_BUILDERS.get(file.suffix, "json") for file in files}
        if len(kinds) > 1 or not all(file.name.endswith(SUFFIXES) for file in files):
            raise DataError(f"{local}: expected files of one kind among {', '.join(SUFFIXES)}.")
        return datasets.load_dataset(
            kinds.pop(), data_files={source.split: [str(file) for file in files]}, split=source.split, streaming=True
        )
    except DataError:
        raise
    # The hub's client raises errors of many kinds, its transport's among them.
    except Exception as error:
        raise _unreachable(source, error) from error


def _rows(source: SourceConfig, dataset: Any) -> Iterator[dict[str, Any]]:
    rows = iter(dataset)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise _unreachable(source, error) from error
        yield row


def _unreachable(source: SourceConfig, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:300] or "no reason given"
    return DataError(
        f"{_where(source)}: cannot be streamed, {type(error).__name__}: {reason}; expected a dataset on the hub and a "
        f"network, or a local path. corpora=python_env and corpora=jsonl need neither."
    )


def _where(source: SourceConfig) -> str:
    subset = "" if source.subset is None else f", subset {source.subset}"
    return f"corpora.sources: dataset {source.dataset}{subset}, split {source.split}"
