"""A Hugging Face configuration, alone or beside its weights, as rows of this database.

Parameters are counted by formula. Where safetensors files lie beside the configuration their headers are counted as
well (no weight is read), and both counts must be one.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from njsl.core.types import DataError
from njsl.store.architectures import read_design
from njsl.store.design import Design
from njsl.store.records import Origin, Records, row_key
from njsl.store.schema import check_row
from njsl.store.sources import ACCEPTED_ID, FLOATS, Keys, model_id, parse_json, read_json, shown

LARGEST_HEADER = 100_000_000  # [bytes], safetensors' own limit
INDEX = "model.safetensors.index.json"
# What models keep in their checkpoints besides parameters: tables of positions, masks, scales, statistics of routing.
_BUFFER = re.compile(
    r"(^|\.)(\w*inv_freq|masked_bias|position_ids|causal_mask|embed_scale|e_score_correction_bias|(attn|attention)\.embed_positions"
    r"|embed_positions\.weights)$"
)
_MASK = re.compile(r"(^|\.)(attn|attention|transformer)\.bias$")  # a mask has two dimensions or more, a bias has one
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
_LAYER = re.compile(r"(^|\.)layers\.(\d+)\.")


def read_config(
    path: Path, identity: str | None = None, *, source: str | None = None, stated_on: datetime.date | None = None
) -> Records:
    """A model's architecture and exact size.

    Args:
        path: a ``config.json``, or a model's folder that holds one.
        identity: the model's id; None: the configuration's ``_name_or_path``, if that is ``owner/name``.
        source: an address for the provenance; None: the name of the file.
        stated_on: the day for the provenance; None: the day the file was last written.

    Returns:
        a row of ``models`` and one of ``model_annotations``.

    Raises:
        DataError: the file cannot be read, names no known architecture, lacks a size or the id, or its weights lie
            there and are of another size.
    """
    folder = path if path.is_dir() else None
    file = path / "config.json" if folder else path
    values = read_json(file)
    identity = _identity(values, identity, file)
    design = read_design(values, str(file))
    row = design.row()
    day = stated_on or datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC).date()
    origin = Origin(source or file.name, day, "measured")
    records = Records({"models": [{"id": identity}]}, origin)
    if row["activation"] is None:
        records.left_out.append(f"activation {shown(design.activation)}: no name for it here")
    weights = _weights(folder, records) if folder else []
    if weights and folder:
        counted = _measured(weights, design, values, folder, records)
        if counted is not None and counted != row["total_params"]:
            raise DataError(
                f"{folder}: the safetensors files hold {counted} parameters, config.json makes {row['total_params']}; "
                "a configuration and the weights it describes are accepted"
            )
        if counted is not None and source is None:
            records.origins["model_annotations", row_key(identity), "total_params"] = Origin(
                weights[0].name, day, "measured"
            )
    try:
        records.tables["model_annotations"] = [check_row("model_annotations", {"id": identity, **row})]
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    return records


def _identity(values: dict[str, Any], identity: str | None, file: Path) -> str:
    if identity is not None:
        found = model_id(identity)
        if found is None:
            raise DataError(f"{file}: id {shown(identity)}; {ACCEPTED_ID} is accepted")
        return found
    found = model_id(values.get("_name_or_path"))
    if found is None or "/" not in found:
        raise DataError(f"{file}: says no model id (_name_or_path); an id given by hand is accepted: {ACCEPTED_ID}")
    return found


def _weights(folder: Path, records: Records) -> list[Path]:
    """The safetensors files of one checkpoint, by its index where there is one.

    Raises:
        DataError: the index is broken, or some of its files are missing.
    """
    if (folder / INDEX).exists():
        listed = read_json(folder / INDEX, LARGEST_HEADER).get("weight_map")
        names = set(listed.values()) if isinstance(listed, dict) and _all_text(listed) else set()
        if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise DataError(f"{folder / INDEX}: weight_map: names of .safetensors files beside it are accepted")
        missing = sorted(name for name in names if not (folder / name).is_file())
        if len(missing) == len(names):
            records.left_out.append(f"{INDEX}: none of its files is here, parameters are counted by formula alone")
            return []
        if missing:
            raise DataError(f"{folder / missing[0]}: missing; all {len(names)} files of {INDEX} or none are accepted")
        return sorted(folder / name for name in names)
    return [folder / "model.safetensors"] if (folder / "model.safetensors").is_file() else []


def _all_text(listed: dict[str, Any]) -> bool:
    return all(isinstance(name, str) for name in listed.values())


def _measured(
    weights: list[Path], design: Design, values: dict[str, Any], folder: Path, records: Records
) -> int | None:
    """Parameters in the files, or None where they are packed and cannot be counted.

    Raises:
        DataError: a header is broken, or a tensor stands twice.
    """
    total, seen = 0, set()
    tied, future = design.tied, Keys(values, str(folder)).maybe_size("num_nextn_predict_layers", low=0)
    for file in weights:
        for name, dtype, shape in _header(file):
            if name in seen:
                raise DataError(f"{file}: tensor {shown(name)} stands twice; one file for each tensor is accepted")
            seen.add(name)
            layer = _LAYER.search(name)
            if future and layer and int(layer[2]) >= design.layers:
                continue  # predicts tokens further on; transformers leaves it out of the model as well
            if _BUFFER.search(name) or (_MASK.search(name) and len(shape) > 1) or (tied and _HEAD.search(name)):
                continue
            if dtype not in FLOATS:
                records.left_out.append(
                    f"{file.name}: {shown(name)} is {shown(dtype)}: packed weights cannot be counted, so parameters "
                    "are counted by formula alone"
                )
                return None
            total += math.prod(shape)
    return total


def _header(file: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Name, type and shape of each tensor of a safetensors file.

    Source: https://github.com/huggingface/safetensors, README, "Format": eight bytes of length, then JSON.

    Raises:
        DataError: it is no safetensors file.
    """
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            body = opened.read(length) if length <= LARGEST_HEADER else b""
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}; a safetensors file is accepted") from error
    if length == 0 or len(body) != length:
        raise DataError(f"{file}: no header of a safetensors file, or cut short; a whole file is accepted")
    header = parse_json(body, f"{file}: header")
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        found = tensor if isinstance(tensor, dict) else {}
        dtype, shape = found.get("dtype"), found.get("shape")
        if not (isinstance(dtype, str) and isinstance(shape, list) and all(map(_is_length, shape))):
            raise DataError(f"{file}: header: tensor {shown(name)}: a dtype and a shape of whole numbers are accepted")
        yield name, dtype, shape


def _is_length(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**40
