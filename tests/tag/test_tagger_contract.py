"""What every tagger and measure promises; they are found through conf/tagger, and so are the filters."""

from __future__ import annotations

import inspect
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from njsl.core.check import build, locate
from njsl.core.types import ConfigError, Document
from njsl.corpora.tiktoken import Tiktoken
from njsl.tag.base import Batch, Encoder, Filter, Measure, Tagger
from njsl.tag.features import PUBLISHED

CONF = Path(__file__).parents[2] / "conf"
STEMS = sorted(path.stem for path in (CONF / "tagger").glob("*.yaml"))
FILTERS = sorted(path.stem for path in (CONF / "filter").glob("*.yaml"))
HARD = {
    "empty": "",
    "one character": "x",
    "a blank": " ",
    "NUL": "a\0b \0",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x85\ufffe",
    "right to left": "שלום עולם, מה שלומך? مرحبا بالعالم ١٢٣ \u202eabc\u202c",
    "emoji": "👩‍👩‍👧‍👦 é e\u0301 \U0010ffff",
    "nested code": "f(" * 3000 + ")" * 3000,
    "one long word": "a" * 20_000,
    "blank lines": "\n" * 5000,
    "English": "The quick brown fox jumps over the lazy dog. What does it want? Take 3.14 apples, and go.\n\nQ: Why?",
    "code": "def f(x):\n    y = x + 1\n    return y\n",
}


def node(group: str, stem: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / group / f"{stem}.yaml").read_text())[stem]


def component(stem: str) -> Tagger | Measure:
    """As its yaml has it; what would need a server, or a value from the config, is left to its own tests."""
    given = node("tagger", stem)
    return build({key: value for key, value in given.items() if not str(value).startswith("${")})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Tiktoken(name="cl100k_base").encoder(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("stem", STEMS)
def test_a_tagger_lives_in_the_file_of_its_name(stem: str) -> None:
    assert node("tagger", stem)["_target_"].startswith(f"njsl.tag.taggers.{stem}.")


@pytest.mark.parametrize("stem", FILTERS)
def test_a_filter_lives_in_the_file_of_its_name(stem: str) -> None:
    target = node("filter", stem)["_target_"]
    assert target.startswith(f"njsl.tag.filters.{stem}.")
    assert issubclass(locate(target, stem), Filter)  # type: ignore[arg-type]


@pytest.mark.parametrize("stem", STEMS)
def test_what_it_declares(stem: str) -> None:
    target = locate(node("tagger", stem)["_target_"], stem)
    assert inspect.isclass(target) and issubclass(target, Tagger | Measure)
    if issubclass(target, Tagger):
        assert target.columns
        for name, column in target.columns.items():
            assert column.unit and column.meaning, name
            assert column.per is None or column.per in target.columns, name
            assert column.dtype == "string" or not column.shares, name
            assert not (column.feature and column.shares), name
    else:
        assert target.figures
        assert all(figure.unit and figure.meaning for figure in target.figures.values())


def test_no_two_taggers_write_the_same_column() -> None:
    owners: dict[str, str] = {}
    for stem in STEMS:
        target = locate(node("tagger", stem)["_target_"], stem)
        for column in target.columns if issubclass(target, Tagger) else target.figures:  # type: ignore[arg-type]
            assert column not in owners, f"{column}: {owners.get(column)} and {stem}"
            owners[column] = stem


def test_the_published_features_have_a_tagger_each() -> None:
    """All 61 but for those of the domain, which two taggers give."""
    names: list[str] = []
    for stem in STEMS:
        target = locate(node("tagger", stem)["_target_"], stem)
        if issubclass(target, Measure):  # type: ignore[arg-type]
            names += [figure.feature for figure in target.figures.values() if figure.feature]
            continue
        for column in target.columns.values():
            if column.shares:
                names += [feature for feature in column.shares.values() if feature]
            elif column.feature:
                names += [column.feature] if column.per else [f"{column.feature}_mean", f"{column.feature}_std"]
    # The published table has columns for the spread of what has none: they are empty there.
    empty = {f"{name.removesuffix('_mean')}_std" for name in names if name.endswith(("pct_mean", "_english_mean"))}
    missing = set(PUBLISHED) - set(names) - empty - {"entropy_std", "pct_english_std"}
    assert not missing


def loaded(stem: str) -> Tagger | Measure:
    """A copy that has been through pickle, as processes get it; skipped where its weights are not at hand."""
    part = pickle.loads(pickle.dumps(component(stem)))
    try:
        part.load()
    except ConfigError as error:
        assert "\n" not in str(error) and f"tagger.{stem}" in str(error)
        pytest.skip(f"not at hand, and says so: {error}")
    return part


@pytest.mark.parametrize("stem", STEMS)
def test_hard_texts(stem: str, encoder: Encoder) -> None:
    part = loaded(stem)
    documents = [Document(text, f"{name}.txt", name) for name, text in HARD.items()]
    if isinstance(part, Measure):
        assert part.keep(Batch(documents, encoder)).num_rows >= 1
        return
    if part.main_process:
        pytest.skip("asks a server")
    together = part.tag_batch(Batch(documents, encoder))
    assert set(together) == set(part.columns)
    types = {"int64": int, "float64": float, "string": str}
    for index, document in enumerate(documents):
        alone = part.tag(document, encoder)
        for name, column in part.columns.items():
            value, other = alone[name], together[name][index]
            assert value is None or isinstance(value, types[column.dtype]), f"{name}: {value!r}"
            if isinstance(value, float):
                assert value == other or (math.isnan(value) and math.isnan(other)), f"{document.id}: {name}"
            else:
                assert value == other, f"{document.id}: {name}"
    for name, column in part.columns.items():
        value = part.tag(Document("", "empty", "empty"), encoder)[name]
        undefined = isinstance(column.empty, float) and math.isnan(column.empty)
        assert math.isnan(value) if undefined else value == column.empty, name
