"""Plans: models that do not exist yet, as a user writes them down; what is not known is left out.

The keys are those of a contribution (``contrib/``), the units those of the database, the ranges and labels those of
``njsl/store/data/fields.csv``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from njsl.core.types import ConfigError, DataError
from njsl.store.schema import SHARE_TOLERANCE, Field, accepts, check_value, tables
from njsl.store.strict_yaml import Place, load, one_line, short
from njsl.store.views import CATEGORICAL, NUMERIC

LIMIT_BYTES = 100_000
SHARES = ("web_pct", "code_pct", "books_pct", "reference_pct", "academic_pct")
PRETRAINING = ("total_tokens_billions", *SHARES, "english_pct")
# Features of the regressions, then what only the exact compute reads.
ARCHITECTURE = (
    *(name for name in NUMERIC if name not in PRETRAINING),
    *CATEGORICAL,
    *("num_layers", "num_kv_heads", "head_dimension", "ffn_dimension", "vocab_size", "weight_tying", "num_experts"),
)
SECTIONS = {"architecture": ARCHITECTURE, "pretraining": PRETRAINING}
# What may be varied: percentages in steps that are added, the others in steps that multiply.
ADDED = (*SHARES, "english_pct")
MULTIPLIED = ("total_params", "total_tokens_billions")
# They go with the size: at another size what a plan says of them would be of another model.
OF_SIZE = ("dimension", "num_heads", "num_layers", "num_kv_heads", "head_dimension", "ffn_dimension")
MAX_STEPS = 1000
NAME_LENGTH = 200


@dataclass(frozen=True)
class Plan:
    """A model that does not exist yet.

    Attributes:
        name: what the ledger calls it; the id it will be published under is a good one.
        org, family: of known models it belongs with; None is an organisation or a family never seen.
        values: what is known of it, by the names of ``ARCHITECTURE`` and ``PRETRAINING``.
    """

    name: str
    org: str | None = None
    family: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def with_values(self, **values: Any) -> Plan:
        """The same plan with some values set."""
        return replace(self, values={**self.values, **values})

    def without(self, names: Collection[str]) -> Plan:
        """The same plan with some values unknown."""
        return replace(self, values={name: value for name, value in self.values.items() if name not in names})

    def number(self, name: str) -> float:
        """A value as a number, NaN where it is not known."""
        value = self.values.get(name)
        return math.nan if value is None else float(value)

    def as_json(self) -> dict[str, Any]:
        """As the ledger has it: plain values, unknown ones left out."""
        whole = {"name": self.name, "org": self.org, "family": self.family, **self.values}
        return {key: value for key, value in whole.items() if value is not None}

    @property
    def sha256(self) -> str:
        """Of everything it says, in one spelling."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()


def read_plan(path: str | Path) -> Plan:
    """A plan's YAML file: ``name``, ``org``, ``family``, ``architecture`` and ``pretraining``, all of them optional.

    Args:
        path: at most ``LIMIT_BYTES`` of UTF-8, YAML as in ``njsl.store.strict_yaml``.

    Raises:
        DataError: no such file, no YAML, a key that does not exist, a value its column does not accept, shares that
            sum to over 100, or neither parameters nor tokens nor anything else.
    """
    path = Path(path).expanduser()
    top = load(path, LIMIT_BYTES)
    entries = top.mapping(("name", "org", "family", *SECTIONS), _meant)
    said = {
        key: _text(entries[key]) for key in ("name", "org", "family") if key in entries and not entries[key].empty()
    }
    values: dict[str, Any] = {}
    for section, names in SECTIONS.items():
        if section in entries:
            for name, at in entries[section].mapping(names, _meant).items():
                if not at.empty():
                    values[name] = _value(at, column(name))
    if not values:
        raise top.error("nothing is known of this plan; architecture: and pretraining: with values are accepted")
    known = [values[name] for name in SHARES if name in values]
    if sum(known) > 100 + SHARE_TOLERANCE:
        raise entries["pretraining"].error(
            f"the shares {', '.join(n for n in SHARES if n in values)} sum to {sum(known):g}; at most "
            f"100 +- {SHARE_TOLERANCE:g} is accepted"
        )
    return Plan(said.get("name", one_line(path.stem)), said.get("org"), said.get("family"), values)


def column(name: str) -> Field:
    """The database's column behind a key of a plan."""
    return tables()["dataset_info" if name in PRETRAINING else "model_annotations"][NUMERIC.get(name, name)]


def rows(plans: Sequence[Plan], like: pd.DataFrame) -> pd.DataFrame:
    """Features of plans [plans, features], with the columns, types and labels of known models' features.

    A label that no known model has is read as missing: no predictor could know what it stands for.

    Args:
        plans: one or more.
        like: features of known models [models, features].
    """
    made: dict[str, Any] = {}
    for name in like.columns:
        if isinstance(like[name].dtype, pd.CategoricalDtype):
            labels = [plan.values.get(name) for plan in plans]
            known = set(like[name].cat.categories)
            made[name] = pd.Categorical([x if x in known else None for x in labels], dtype=like[name].dtype)
        else:
            made[name] = np.array([plan.number(name) for plan in plans], dtype="float64")
    return pd.DataFrame(made, columns=like.columns)


def steps(name: str, asked: Sequence[float]) -> list[float]:
    """The values of ``vary.NAME=[start, stop, step]``, both ends included where the steps reach them.

    Percentages are stepped by a difference: ``[0, 60, 5]`` is 0, 5, ... 60. Parameters and tokens are stepped by a
    factor: ``[1e8, 1e10, 10]`` is 1e8, 1e9, 1e10.

    Raises:
        ConfigError: not three numbers, no step forward, outside what the value can be, or more than ``MAX_STEPS``.
    """
    where = f"vary.{name}"
    if len(asked) != 3 or not all(math.isfinite(value) for value in asked):
        raise ConfigError(f"{where}: {list(asked)}; [start, stop, step] is accepted")
    start, stop, step = map(float, asked)
    multiplied = name in MULTIPLIED
    low, high = (0.0, 100.0) if name in ADDED else (column(name).low or 0.0, column(name).high or math.inf)
    if not low <= start < stop <= high:
        raise ConfigError(f"{where}: from {start:g} to {stop:g}; from a smaller to a larger one in {low:g}..{high:g}")
    if step <= (1 if multiplied else 0):
        kind = "a factor above 1, e.g. 2" if multiplied else "a difference above 0, e.g. 5"
        raise ConfigError(f"{where}: step {step:g}; {kind}, is accepted")
    # A step that ends a hair beyond the stop by rounding still counts.
    count = (math.log(stop / start) / math.log(step) if multiplied else (stop - start) / step) + 1e-9
    if count >= MAX_STEPS:
        raise ConfigError(f"{where}: more than {MAX_STEPS} steps; a larger step is accepted")
    values = [start * step**k if multiplied else start + step * k for k in range(int(count) + 1)]
    return [min(value, stop) for value in values]


def varied(plan: Plan, name: str, values: Sequence[float]) -> list[Plan]:
    """The plan at other values of one of ``ADDED`` or ``MULTIPLIED``.

    Of a share the others are rescaled by one factor, so that the sum of the known shares stays what it was; where the
    plan does not say the share itself, the shares sum to 100 then. Unknown shares stay unknown. At other sizes what the
    plan says of ``OF_SIZE`` is left out.

    Raises:
        DataError: the share would exceed the sum, or the other shares are all 0 and cannot make room.
    """
    if name not in SHARES:
        if name == "total_params":
            plan = plan.without(OF_SIZE)
        return [plan.with_values(**{name: round(value) if name == "total_params" else value}) for value in values]
    others = {
        other: float(plan.values[other]) for other in SHARES if other != name and plan.values.get(other) is not None
    }
    own = plan.values.get(name)
    total = 100.0 if own is None else sum(others.values()) + own
    made = []
    for value in values:
        # Where no other share is known there is nothing to rescale, and the whole is 100.
        room = total - value if others else 100.0 - value
        if room < -1e-9:
            raise DataError(f"vary.{name}: {value:g} is more than the {total:g} all shares of {plan.name} sum to")
        kept = sum(others.values())
        if kept == 0 and others and room > 1e-9:
            raise DataError(
                f"vary.{name}: the other shares of {plan.name} are all 0, so nobody says how they divide {room:g}; "
                "a plan with other shares above 0 is accepted"
            )
        factor = max(room, 0.0) / kept if kept else 0.0
        made.append(plan.with_values(**{other: share * factor for other, share in others.items()}, **{name: value}))
    return made


def _value(at: Place, column: Field) -> Any:
    """The value in the type of its column."""
    value = at.scalar()
    if isinstance(value, float) and column.type in ("INTEGER", "BIGINT") and value.is_integer():
        value = int(value)  # 2e9
    try:
        return check_value(column, value)
    except DataError as error:
        near = get_close_matches(str(value), column.accepted, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise at.error(f"{short(value)}; {accepts(column)}, or nothing if it is not known{hint}") from error


def _text(at: Place) -> str:
    value = at.scalar()
    text = value if isinstance(value, str) else str(value)
    if not text.isprintable() or text != text.strip() or not 0 < len(text) <= NAME_LENGTH:
        raise at.error(f"{short(text)}; a name on one line, up to {NAME_LENGTH} characters, is accepted")
    return text


def _meant(key: str, accepted: Collection[str]) -> str:
    """What was probably meant: a key of this place, one of another section, or else all there are."""
    near = get_close_matches(key, accepted, n=3, cutoff=0.6)
    if not near:
        for section, names in SECTIONS.items():
            near += [f"{section}.{name}" for name in get_close_matches(key, names, n=1, cutoff=0.8)]
    return f"did you mean {' or '.join(near)}?" if near else f"accepted are {', '.join(accepted)}"
