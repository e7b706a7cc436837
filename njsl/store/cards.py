"""Model cards of the paper's kind as rows: what the hub says of a repository, and fields that people added.

The hub's bookkeeping (author, tags, tokenizer and the like) has no place here and is passed over in silence; everything
else that is not imported is a line of ``left_out``.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from njsl.core.types import DataError
from njsl.store.records import Origin, Records, row_key
from njsl.store.schema import check_value, tables
from njsl.store.sources import ACCEPTED_ID, FLOATS, is_address, model_id, read_json, shown

# The day the hub began to record when a repository was made: every older one bears it.
HUB_EPOCH = datetime.date(2022, 3, 2)
MASKS = frozenset({"BOOL", "U8", "I64"})  # types of causal masks and position tables; a byte may also be packed weights
INSTRUCTION = frozenset({"sft", "instruction", "instruct", "it"})
PREFERENCE = frozenset({"dpo", "rlhf", "ppo", "rlaif", "kto", "orpo", "preference"})
_HUB = frozenset(
    (
        *("id", "author", "sha", "created_at", "last_modified", "private", "gated", "disabled", "library_name", "tags"),
        *("pipeline_tag", "mask_token", "card_data", "config", "transformers_info"),
        *("safetensors", "base_model", "model_index", "training_stages"),  # read on their own
    )
)
# No configuration has any of these.
_MARKS = frozenset({"id", "sha", "created_at", "last_modified", "card_data", "safetensors", "training_stages"})
_ANNOTATIONS = {
    **{name: name for name in tables()["model_annotations"] if name != "id"},
    "positional_embedding_type": "positional_embeddings",
    "intermediate_size": "ffn_dimension",
    "mlp_experts": "num_experts",
    "mlp_experts_top_k": "experts_per_token",
}
_STAGE = {
    "name": "name",
    "total_tokens_billions": "total_tokens_billions",
    "batch_instances": "batch_instances",
    "batch_tokens": "batch_tokens",
    "sequence_length": "sequence_length",
}
_OPTIMIZER = {
    "lr": "learning_rate",
    "lr_min": "learning_rate_min",
    "lr_schedule": "learning_rate_schedule",
    "lr_warmup": "warmup_steps",
    "weight_decay": "weight_decay",
    "eps": "epsilon",
    "grad_clip": "gradient_clip",
}


def is_card(path: Path) -> bool:
    """Whether a JSON file is a model's card, good or bad, and not a configuration.

    Raises:
        DataError: the file cannot be read.
    """
    values = read_json(path)
    return "model_type" not in values and not _MARKS.isdisjoint(values)


def read_card(path: Path) -> Records:
    """A model's card.

    A value that its column does not accept is left out with a line, as are keys that are not known. Sizes are those the
    card states and the count of its safetensors files: only floating types count there, so masks stored as bytes do
    not, but a table of rotary frequencies or a mask stored as floats does, for the card does not tell them apart.
    Packed weights cannot be counted. The day the repository was made is taken for the day of publication, as a
    judgement. Whether a model was tuned is concluded from the names of its stages; that none is named says no only
    where nothing else speaks of a chat model.

    Args:
        path: a JSON file.

    Returns:
        a row of ``models``, and rows of ``model_annotations``, ``dataset_info``, ``training_stages``,
        ``stage_datasets`` and ``datasets`` where the card says something.

    Raises:
        DataError: the file cannot be read, or says no usable id.
    """
    values = read_json(path)
    identity = model_id(values.get("id"))
    if identity is None:
        raise DataError(f"{path}: id: {shown(values.get('id'))}; {ACCEPTED_ID} is accepted")
    card = _Card(values, identity, path)
    card.model()
    card.annotations()
    card.parameters()
    card.stages()
    card.tuning()
    card.rest()
    filled = {table: [row for row in rows if len(row) > 1] for table, rows in card.records.tables.items()}
    filled["models"], filled["datasets"] = card.records.tables["models"], card.records.tables.get("datasets", [])
    return replace(card.records, tables={table: rows for table, rows in filled.items() if rows})


@dataclass
class _Stage:
    """A stage that was understood: its number, its name in small letters, its tokens."""

    number: int
    name: str
    tokens: float | None


class _Card:
    """One card on its way into records."""

    def __init__(self, values: dict[str, Any], identity: str, path: Path) -> None:
        self.values = values
        self.identity = identity
        self.left_out: list[str] = []
        self.created, self.changed = self._day("created_at"), self._day("last_modified")
        day = self.changed or self.created
        day = day or datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).date()
        self.origin = Origin(path.name, day, "reported")
        self.records = Records({"models": [{"id": identity}]}, self.origin, left_out=self.left_out)
        self.said: list[_Stage] = []
        self.datasets: dict[str, set[int]] = {}  # the stages of each
        self.row: dict[str, Any] = {"id": identity}
        if path.stem.replace("_", "/", 1) != identity:
            self.left_out.append(f"the file's name {shown(path.stem)}: the card's id is {identity}")

    def model(self) -> None:
        """Release and parent."""
        row = self.records.tables["models"][0]
        if self.created is not None and self.created != HUB_EPOCH:
            row["release_date"] = self.created
            self._concluded("models", "release_date")
        elif self.created is not None:
            self.left_out.append(f"created_at {self.created}: the hub's first recorded day, older repositories bear it")
        parent = self.values.get("base_model")
        if isinstance(parent, list) and len(parent) == 1:
            parent = parent[0]
        if parent is None:
            return
        found = model_id(parent)
        if found is not None and "/" not in found and "_" in found:
            found = found.replace("_", "/", 1)  # as cards' files are named
            self.left_out.append(f"base_model {shown(parent)}: read as {found}")
        if found is None or found == self.identity:
            self.left_out.append(f"base_model: {shown(parent)}; the id of one other model is accepted")
        else:
            row["parent"] = found

    def annotations(self) -> None:
        """The fields of the architecture, under any of their names."""
        for key, name in _ANNOTATIONS.items():
            value = self._checked("model_annotations", name, self.values.get(key), key)
            if value is None:
                continue
            if name in self.row and self.row[name] != value:
                self.left_out.append(f"{key} {shown(value)}: {name} is said to be {shown(self.row[name])} as well")
                continue
            self.row[name] = value
        self.records.tables["model_annotations"] = [self.row]

    def parameters(self) -> None:
        """The count of the safetensors files, which stands above a stated one."""
        counted = self._counted()
        if counted is None:
            return
        stated = self.row.get("total_params")
        if stated is not None and stated != counted:
            self.left_out.append(f"total_params {stated}: the safetensors files count {counted}")
        self.row["total_params"] = counted
        key = ("model_annotations", row_key(self.identity), "total_params")
        self.records.origins[key] = replace(self.origin, confidence="measured")

    def _counted(self) -> int | None:
        said = self.values.get("safetensors")
        if said is None:
            return None
        counts = said.get("parameters") if isinstance(said, dict) else None
        whole = isinstance(counts, dict) and all(type(count) is int and count >= 0 for count in counts.values())
        if not isinstance(counts, dict) or not whole:
            self.left_out.append("safetensors: whole numbers of parameters by type are accepted")
            return None
        floats = sum(count for kind, count in counts.items() if kind in FLOATS)
        others = {kind: count for kind, count in counts.items() if kind not in FLOATS}
        numbers = sum(count for kind, count in others.items() if kind != "BOOL")
        quantised = isinstance(self._config().get("quantization_config"), dict)
        if quantised or others.keys() - MASKS or numbers >= floats:
            kinds = ", ".join(f"{shown(kind)[1:-1]} {shown(count)}" for kind, count in counts.items())
            self.left_out.append(f"safetensors ({kinds}): packed weights cannot be counted")
            return None
        self.left_out += [f"safetensors {kind} {shown(count)}: masks, no parameters" for kind, count in others.items()]
        return self._checked("model_annotations", "total_params", floats, "safetensors")

    def stages(self) -> None:
        """Training stages with their data sets, and the tokens of pretraining."""
        listed = self.values.get("training_stages")
        if listed is None:
            return
        most = int(tables()["training_stages"]["stage"].high or 0)
        if not isinstance(listed, list) or len(listed) > most or not all(isinstance(stage, dict) for stage in listed):
            self.left_out.append(f"training_stages: a list of up to {most} objects is accepted")
            return
        for number, stage in enumerate(listed, start=1):
            self._stage(number, stage)
        trained = [stage.tokens for stage in self.said if stage.name == "pretraining"]
        if trained and all(tokens is not None for tokens in trained):
            name = "pretraining_summary_total_tokens_billions"
            total = self._checked("dataset_info", name, sum(filter(None, trained)), "training_stages")
            if total is not None:
                self.records.tables["dataset_info"] = [{"id": self.identity, name: total}]

    def _stage(self, number: int, stage: dict[str, Any]) -> None:
        where = f"training_stages[{number - 1}]"
        row: dict[str, Any] = {"id": self.identity, "stage": number}
        optimizer = self._object(stage.get("optimizer"), f"{where}.optimizer")
        params = self._object(optimizer.get("params"), f"{where}.optimizer.params")
        said = {_STAGE[key]: (key, value) for key, value in stage.items() if key in _STAGE}
        said["optimizer"] = ("optimizer.type", optimizer.get("type"))
        said |= {_OPTIMIZER[key]: (f"optimizer.{key}", value) for key, value in params.items() if key in _OPTIMIZER}
        betas = params.get("betas")
        if isinstance(betas, list) and len(betas) == 2:
            said |= {"beta1": ("optimizer.betas", betas[0]), "beta2": ("optimizer.betas", betas[1])}
        elif betas is not None:
            self.left_out.append(f"{where}.optimizer.betas: two numbers are accepted")
        for name, (key, value) in said.items():
            checked = self._checked("training_stages", name, value, f"{where}.{key}")
            if checked is not None:
                row[name] = checked
        known = {*_STAGE, "optimizer", "data", "reference"}
        unknown = [*(stage.keys() - known), *(f"optimizer.{key}" for key in optimizer.keys() - {"type", "params"})]
        unknown += [f"optimizer.{key}" for key in params.keys() - {*_OPTIMIZER, "betas"}]
        self.left_out += [f"{where}.{shown(key)[1:-1]}: no field for it" for key in sorted(unknown)]
        self.records.tables.setdefault("training_stages", []).append(row)
        self.said.append(_Stage(number, str(row.get("name", "")).lower(), row.get("total_tokens_billions")))
        self._refer(stage.get("reference"), row, where)
        self._data(stage.get("data"), number, where)

    def _refer(self, reference: object, row: dict[str, Any], where: str) -> None:
        """A stage's own source stands above the card."""
        if reference is None:
            return
        if not is_address(reference):
            self.left_out.append(f"{where}.reference: {shown(reference)}; an address is accepted")
            return
        for name in row.keys() - {"id", "stage"}:
            key = ("training_stages", row_key(self.identity, row["stage"]), name)
            self.records.origins[key] = replace(self.origin, source=str(reference))

    def _data(self, data: object, number: int, where: str) -> None:
        for name in data if isinstance(data, list) else [data]:
            checked = self._checked("datasets", "name", name, f"{where}.data")
            if checked is None:
                continue
            if checked not in self.datasets:
                self.records.tables.setdefault("datasets", []).append({"name": checked})
            if number not in self.datasets.setdefault(checked, set()):
                used = {"id": self.identity, "stage": number, "dataset": checked}
                self.records.tables.setdefault("stage_datasets", []).append(used)
            self.datasets[checked].add(number)

    def tuning(self) -> None:
        """Instruction and preference tuning, by the names of the stages."""
        if not self.said:
            return
        for field, names in (("is_instruction_tuned", INSTRUCTION), ("is_preference_tuned", PREFERENCE)):
            if field in self.row:
                continue
            tuned = any(stage.name in names for stage in self.said)
            against = self._chats()
            if not tuned and against:
                self.left_out.append(f"{field}: no stage says so, but the card has {against}")
                continue
            self.row[field] = tuned
            self._concluded("model_annotations", field)

    def _chats(self) -> str:
        """What else speaks of a tuned model, or nothing."""
        tags, tokenizer = self.values.get("tags"), self._config().get("tokenizer_config")
        if self.values.get("base_model") is not None:
            return "a base_model"
        if isinstance(tags, list) and "conversational" in tags:
            return "the tag conversational"
        return "a chat template" if isinstance(tokenizer, dict) and tokenizer.get("chat_template") else ""

    def rest(self) -> None:
        """What the card says besides."""
        index = self.values.get("model_index")
        results = (
            [entry.get("results") for entry in index if isinstance(entry, dict)] if isinstance(index, list) else []
        )
        scores = sum(len(found) for found in results if isinstance(found, list))
        if scores:
            self.left_out.append(f"model_index: {scores} scores, which come from result files")
        for key, value in self.values.items():
            if key not in _HUB and key not in _ANNOTATIONS and value is not None:
                self.left_out.append(f"{shown(key)[1:-1]}: {shown(value)}: no field for it")

    def _config(self) -> Mapping[str, Any]:
        config = self.values.get("config")
        return config if isinstance(config, dict) else {}

    def _object(self, value: object, where: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        if value is not None:
            self.left_out.append(f"{where}: {shown(value)}; an object is accepted")
        return {}

    def _checked(self, table: str, name: str, value: Any, said_as: str) -> Any:
        """The value as the column takes it, or None with a line where it does not."""
        field = tables()[table][name]
        if isinstance(value, str):
            value = value.strip().lower() if field.accepted or name == "learning_rate_schedule" else value.strip()
            if value.lower() in ("", "n/a", "none", "unknown") and "none" not in field.accepted:
                self.left_out.append(f"{said_as}: {shown(value)}: says nothing")
                return None
        if value is None:
            return None
        try:
            return check_value(field, value)
        except DataError as error:
            self.left_out.append(f"{said_as}: {error}")
            return None

    def _day(self, key: str) -> datetime.date | None:
        value = self.values.get(key)
        try:
            return None if value is None else datetime.datetime.fromisoformat(value).date()
        except (ValueError, TypeError):
            self.left_out.append(f"{key} {shown(value)}: a time like 2023-02-08T19:25:46+00:00 is accepted")
            return None

    def _concluded(self, table: str, field: str) -> None:
        origin = replace(self.origin, confidence="inferred")
        self.records.origins[table, row_key(self.identity), field] = origin
