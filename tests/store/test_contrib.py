"""Contributions: YAML in, rows out; whatever is wrong is one line with its place."""

from __future__ import annotations

import datetime
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from njsl.core.types import DataError
from njsl.store.contrib import LIMIT_BYTES, SAYS_NOTHING, contributions, json_schema, read_facts
from njsl.store.records import Origin
from njsl.store.schema import Field, tables

ROOT = Path(__file__).parents[2]
HEAD = "id: a/b\nsource: https://x.org/card\ndate: 2024-03-01\nconfidence: reported\n"
CARD = Origin("https://x.org/card", datetime.date(2024, 3, 1), "reported")
SHARES = ("web", "code", "books", "reference", "academic")

quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def facts(folder: Path, text: str | bytes) -> Any:
    path = folder / "a__b.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_facts(path)


def refused(folder: Path, text: str | bytes) -> str:
    """The message without the file's name; always one printable line."""
    with pytest.raises(DataError) as caught:
        facts(folder, text)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'a__b.yaml'}: ") and message.isprintable()
    return message.removeprefix(f"{folder / 'a__b.yaml'}: ")


def test_every_section_becomes_rows(tmp_path: Path) -> None:
    records = facts(
        tmp_path,
        HEAD
        + """
family: b
parent: {value: c/d, source: paper.pdf, confidence: inferred}
release_date: 2024-02-29
config: config.json
architecture:
  num_layers: 30
  total_params: 1.35e8
  weight_tying: true
  biases: none
  block_type:            # nothing is said
pretraining:
  source: https://x.org/data
  date: 2024-04-01
  total_tokens_billions: 300
  web_pct: 60
  code_pct: {value: 8.5, confidence: inferred}
  partial: true
datasets:
  The Pile: {web_pct: 50, code_pct: 10, books_pct: 20, reference_pct: 5, academic_pct: 15.5}
stages:
  - name: pretraining
    learning_rate: 3e-4
    datasets:
      The Pile: 70
      Stack: {value: 30, source: config.yaml}
  - {name: sft, warmup_steps: 0, datasets: {no: }}
results: [results_1.json, results_2.json]
""",
    )
    assert records.tables == {
        "models": [
            {"id": "a/b", "family": "b", "parent": "c/d", "release_date": datetime.date(2024, 2, 29)},
        ],
        "model_annotations": [
            {"id": "a/b", "num_layers": 30, "total_params": 135_000_000, "weight_tying": True, "biases": "none"},
        ],
        "dataset_info": [
            {
                "id": "a/b",
                "pretraining_summary_total_tokens_billions": 300.0,
                "pretraining_summary_percentage_web": 60.0,
                "pretraining_summary_percentage_code": 8.5,
                "shares_partial": True,
            },
        ],
        "datasets": [
            {
                "name": "The Pile",
                "percentage_web": 50.0,
                "percentage_code": 10.0,
                "percentage_books": 20.0,
                "percentage_reference": 5.0,
                "percentage_academic": 15.5,
            },
            {"name": "Stack"},
            {"name": "no"},
        ],
        "training_stages": [
            {"id": "a/b", "stage": 1, "name": "pretraining", "learning_rate": 0.0003},
            {"id": "a/b", "stage": 2, "name": "sft", "warmup_steps": 0},
        ],
        "stage_datasets": [
            {"id": "a/b", "stage": 1, "dataset": "The Pile", "share_pct": 70.0},
            {"id": "a/b", "stage": 1, "dataset": "Stack", "share_pct": 30.0},
            {"id": "a/b", "stage": 2, "dataset": "no"},
        ],
    }
    april = datetime.date(2024, 4, 1)
    data = Origin("https://x.org/data", april, "reported")
    assert records.origin == CARD
    assert records.origins == {
        ("models", "a/b", "parent"): Origin("paper.pdf", CARD.stated_on, "inferred"),
        ("dataset_info", "a/b", "pretraining_summary_total_tokens_billions"): data,
        ("dataset_info", "a/b", "pretraining_summary_percentage_web"): data,
        ("dataset_info", "a/b", "pretraining_summary_percentage_code"): Origin(data.source, april, "inferred"),
        ("dataset_info", "a/b", "shares_partial"): data,
        ("stage_datasets", "a/b#1#Stack", "share_pct"): Origin("config.yaml", CARD.stated_on, "reported"),
    }
    assert records.left_out == []
    assert isinstance(records.tables["model_annotations"][0]["total_params"], int)
    assert isinstance(records.tables["dataset_info"][0]["pretraining_summary_total_tokens_billions"], float)


def test_head_alone_is_a_model(tmp_path: Path) -> None:
    records = facts(tmp_path, "\ufeff" + HEAD + "architecture:\nstages: ~\ndatasets: null\nresults:\nconfig:\n")
    assert records.tables == {"models": [{"id": "a/b"}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("famly: x", "line 5: famly: no such key; did you mean family?"),
        ("num_layers: 3", "line 5: num_layers: no such key; did you mean architecture.num_layers?"),
        ("warmup_steps: 3", "line 5: warmup_steps: no such key; did you mean stages.warmup_steps?"),
        ("pretraining: {percentage_web: 3}", "line 5: pretraining.percentage_web: no such key; did you mean web_pct?"),
        (
            "pretraining:\n  zzz: 3",
            "line 6: pretraining.zzz: no such key; accepted are total_tokens_billions, web_pct,",
        ),
        ("id: c/d", "line 5: id: stands twice; once is accepted"),
        ("architecture: {num_layers: 1, num_layers: 1}", "line 5: architecture.num_layers: stands twice"),
        ("architecture: 3", "line 5: architecture: 3; keys with values are accepted"),
        ("architecture: [a]", "line 5: architecture: a list; keys with values are accepted"),
        ("architecture: {num_layers: [3]}", "architecture.num_layers: a list; a single value is accepted"),
        ("architecture: {num_layers: 3.5}", "architecture.num_layers: 3.5; a whole number from 1 is accepted"),
        ("architecture: {num_layers: '3'}", "architecture.num_layers: '3'; a whole number from 1 is accepted"),
        ("architecture: {num_layers: true}", "architecture.num_layers: True; a whole number"),
        ("architecture: {num_layers: -1}", "architecture.num_layers: -1; a whole number from 1"),
        ("architecture: {num_layers: 2147483648}", "architecture.num_layers: 2147483648; a whole number"),
        (f"architecture: {{total_params: {'9' * 5000}}}", "architecture.total_params: inf; a whole number"),
        ("architecture: {weight_tying: yes}", "architecture.weight_tying: 'yes'; true or false is accepted"),
        ("architecture: {layer_norm_type: rmsnrm}", "are accepted; did you mean rmsnorm?"),
        (
            "architecture: {embedding_params: 9, total_params: 8}",
            "architecture: embedding_params: 9; a part of total_params, 8",
        ),
        ("pretraining: {english_pct: 100.5}", "pretraining.english_pct: 100.5; a number 0..100 is accepted"),
        ("pretraining: {english_pct: .nan}", "pretraining.english_pct: '.nan'; a number"),
        ("pretraining: {total_tokens_billions: 1e999}", "pretraining.total_tokens_billions: inf; a number"),
        ("pretraining: {web_pct: 60}", "the shares web, code, books, reference, academic sum to 60 with 1 of 5 known"),
        ("family: N/A", "line 5: family: 'N/A' says nothing; text is accepted, or no such line"),
        ("family: ''", "line 5: family: '' says nothing"),
        ("family: 7", "line 5: family: 7; text is accepted"),
        ('family: "a\\nb"', r"line 5: family: 'a\nb'; text is accepted"),
        ("release_date: 2024-02-30", "line 5: release_date: '2024-02-30'; a date YYYY-MM-DD is accepted"),
        ("parent: a/b", "line 5: parent: 'a/b'; another model than itself is accepted"),
        ("parent: c/../d", "line 5: parent: 'c/../d'; a Hugging Face OWNER/NAME"),
        ("parent: {source: x}", "line 5: parent.value: missing; "),
        ("parent: {value: c/d, sauce: x}", "line 5: parent.sauce: no such key; did you mean source?"),
        (
            "family: {value: x, source: /home/me/x}",
            "family.source: '/home/me/x'; an address https://... or a file's name",
        ),
        (
            "family: {value: x, confidence: sure}",
            "family.confidence: 'sure'; measured, reported, inferred are accepted",
        ),
        ("family: {value: x, date: }", "family.date: None says nothing; a date YYYY-MM-DD is accepted"),
        ("stages: {name: x}", "line 5: stages: keys with values; a list is accepted"),
        ("stages:\n- name: x\n- lr: 3", "line 7: stages[1].lr: no such key"),
        ("stages: [{}]", "line 5: stages[0]: an empty stage"),
        ("stages: [{datasets: {x: 60, y: 60}}]", "stages[0].datasets: the shares sum to 120; 100 +- 1 or less"),
        ("stages: [{datasets: {unknown: }}]", "stages[0].datasets.unknown: says nothing; a data set's name"),
        (
            "config: ../config.json",
            "line 5: config: '../config.json'; NAME.json, a file of the contribution's own folder",
        ),
        ("results: [/etc/passwd]", "line 5: results[0]: '/etc/passwd'; NAME.json"),
        ("results: [a/../../b.json]", "line 5: results[0]: 'a/../../b.json'; NAME.json"),
        ("results: ['..\\b.json']", r"line 5: results[0]: '..\\b.json'; NAME.json"),
        ("results: [a.json, a.json]", "line 5: results[1]: 'a.json' stands twice"),
        ("results: a.json", "line 5: results: 'a.json'; a list is accepted"),
        ("\tfamily: x", "line 5: found character '\\t' that cannot start any token; spaces are accepted"),
        ("family: &x y", "line 5: an anchor or an alias; one document of plain YAML is accepted"),
        ("family: *x", "line 5: an anchor or an alias"),
        ("family: !!python/object/apply:os.system [id]", "line 5: a tag; one document"),
        ("<<: {family: x}", "line 5: <<: no such key"),
        ("? [a, b]\n: 3", "line 5: a key that is no text"),
        ("family: [", "line 6: "),
        ("---\nid: c/d", "line 5: but found another document"),
        ("family: \x07", "line 5: '\\x07'; plain text is accepted"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, HEAD + text + "\n")


@pytest.mark.parametrize("key", ["id", "source", "date", "confidence"])
def test_required_keys(tmp_path: Path, key: str) -> None:
    message = "missing; id, source, date, confidence are required"
    assert refused(tmp_path, re.sub(f"^{key}:.*\n", "", HEAD, flags=re.M)) == f"line 1: {key}: {message}"
    assert refused(tmp_path, re.sub(f"^{key}:.*$", f"{key}: ~", HEAD, flags=re.M)) == f"line 1: {key}: {message}"


@pytest.mark.parametrize(
    "identity",
    ["a/b'); DROP TABLE models; --", "../../etc/passwd", "/abs", "a//b", "a/b/c", "a__b", ".a/b", "a/", "a\u200b/b",
     "1.5", "~", "[]", "x" * 201, "a/b\\\\c", "a b/c"],
)  # fmt: skip
def test_ids_that_are_none(tmp_path: Path, identity: str) -> None:
    assert refused(tmp_path, HEAD.replace("a/b", identity)).startswith("line 1: id: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty; "),
        (b"# nothing\n", "empty; "),
        (b"id: \xff\xfe", "byte 4: no UTF-8"),
        (b"\x00" * 10, "line 1: '\\x00'; "),
        (b"- a\n- b\n", "line 1: a list; keys with values are accepted"),
        (b"just words", "line 1: 'just words'; keys with values are accepted"),
        (b"[" * 90_000, "nested too deeply"),
        (b"a: " * 30_000, "line 1: mapping values are not allowed here"),
        (b"{" * 90_000, "nested too deeply"),
        (HEAD.encode() + b"family: " + b"x" * 10_000_000, f"more than {LIMIT_BYTES:,} bytes"),
        (
            b"a: &a [x,x,x,x,x,x,x,x,x]\n"
            + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)),
            "line 1: an anchor or an alias",
        ),
    ],
)
def test_hostile_files(tmp_path: Path, data: bytes, message: str) -> None:
    assert message in refused(tmp_path, data)


def test_no_file(tmp_path: Path) -> None:
    for path, what in ((tmp_path, "a folder"), (tmp_path / "x.yaml", "no such file"), (Path("a\0b"), "no such file")):
        with pytest.raises(DataError, match=f"{what}; a YAML file is accepted") as caught:
            read_facts(path)
        assert str(caught.value).isprintable()


def example(folder: Path, identity: str = "a/b", text: str = "", files: tuple[str, ...] = ()) -> Path:
    """A contribution with empty files beside it."""
    stem = identity.replace("/", "__")
    path = folder / f"{stem}.yaml"
    path.write_text(HEAD.replace("a/b", identity) + text)
    for name in files:
        (folder / stem).mkdir(exist_ok=True)
        (folder / stem / name).touch()
    return path


def test_a_folder_of_contributions(tmp_path: Path) -> None:
    example(tmp_path, "b/x")
    example(tmp_path, "gpt2", "config: c.json\nresults: [r2.json, r1.json]\n", ("c.json", "r1.json", "r2.json"))
    example(tmp_path, "a/X_y.z")
    (tmp_path / "README.md").touch()
    (tmp_path / ".DS_Store").touch()
    found = contributions(tmp_path)
    assert [contribution.id for contribution in found] == ["a/X_y.z", "b/x", "gpt2"]
    assert [contribution.path.name for contribution in found] == ["a__X_y.z.yaml", "b__x.yaml", "gpt2.yaml"]
    assert found[2].config == tmp_path / "gpt2" / "c.json"
    assert found[2].results == (tmp_path / "gpt2" / "r1.json", tmp_path / "gpt2" / "r2.json")
    assert found[0].config is None and found[0].results == ()
    assert found[1].records.tables == {"models": [{"id": "b/x"}]}


def refused_folder(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        contributions(folder)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_folders_that_are_none(tmp_path: Path) -> None:
    assert "no such folder" in refused_folder(tmp_path / "x")
    assert "holds no contribution" in refused_folder(tmp_path)
    path = example(tmp_path)
    assert "no such folder" in refused_folder(path)


def test_a_file_is_named_after_its_model(tmp_path: Path) -> None:
    example(tmp_path, "a/b").rename(tmp_path / "a__c.yaml")
    assert refused_folder(tmp_path).endswith("a__c.yaml: id: 'a/b'; a file named a__b.yaml is accepted for it")


@pytest.mark.parametrize("name", ["a__c", "notes.txt", "a__b.yml", "a__b.json", "evil\nname"])
def test_strays_are_refused(tmp_path: Path, name: str) -> None:
    example(tmp_path)
    if name == "a__c":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).touch()
    assert "belongs to no contribution" in refused_folder(tmp_path)


def test_files_and_names_belong_together(tmp_path: Path) -> None:
    path = example(tmp_path, text="results: [r.json]\n", files=("r.json", "s.json"))
    assert f"s.json: nowhere named; {path.name} lists" in refused_folder(tmp_path)
    (tmp_path / "a__b" / "s.json").unlink()
    assert contributions(tmp_path)[0].results == (tmp_path / "a__b" / "r.json",)
    (tmp_path / "a__b" / "r.json").unlink()
    assert "line 5: results[0]: 'r.json': no such file" in refused_folder(tmp_path)
    (tmp_path / "a__b" / "r.json").mkdir()
    assert "line 5: results[0]: 'r.json': no such file" in refused_folder(tmp_path)


def test_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.json").touch()
    folder = tmp_path / "contrib"
    folder.mkdir()
    example(folder, text="results: [r.json]\n", files=("r.json",))
    (folder / "a__b" / "r.json").unlink()
    (folder / "a__b" / "r.json").symlink_to(tmp_path / "secret.json")
    assert "a__b/r.json: a link" in refused_folder(folder)
    (folder / "a__b" / "r.json").unlink()
    (folder / "a__b").rmdir()
    (folder / "a__b").symlink_to(tmp_path)
    assert "a__b: a link" in refused_folder(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path: Path) -> None:
    path = example(tmp_path)
    path.chmod(0)
    assert "Permission denied" in refused_folder(tmp_path)


# The example contribution, CONTRIBUTING.md and the schema


def test_the_repositorys_contributions() -> None:
    found = {contribution.id: contribution for contribution in contributions(ROOT / "contrib")}
    smollm = found["HuggingFaceTB/SmolLM2-135M"]
    assert smollm.config is not None
    config = json.loads(smollm.config.read_text())
    hidden, ffn, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    head = hidden // config["num_attention_heads"]
    attention = 2 * hidden * hidden + 2 * hidden * head * config["num_key_value_heads"]
    blocks = layers * (attention + 3 * hidden * ffn + 2 * hidden)
    assert config["vocab_size"] * hidden + blocks + hidden == 134_515_008  # as its model page counts
    stage = smollm.records.tables["training_stages"][0]
    assert stage["batch_tokens"] == stage["batch_instances"] * stage["sequence_length"]
    assert stage["total_tokens_billions"] == pytest.approx(2_000_000 * stage["batch_tokens"] / 1e9, rel=1e-12)
    for contribution in found.values():
        assert contribution.path.read_text().startswith(
            "# yaml-language-server: $schema=../njsl/store/data/contribution.schema.json\n"
        )


def test_the_example_in_contributing_is_accepted(tmp_path: Path) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.S)
    example(tmp_path, "example-org/example-1b", files=("config.json", "results_2024-06-01T10-20-30.123456.json"))
    path = tmp_path / "example-org__example-1b.yaml"
    path.write_text(text, encoding="utf-8")
    (found,) = contributions(tmp_path)
    assert found.records.tables.keys() == {
        "models", "model_annotations", "dataset_info", "datasets", "training_stages", "stage_datasets"
    }  # fmt: skip
    path.write_text(text.replace("code_pct: 15", "code_pct: 150"), encoding="utf-8")
    (shown,) = re.findall(r"^contrib/(example-org__example-1b.yaml: line .*)$", page, flags=re.M)
    assert refused_folder(tmp_path) == f"{tmp_path}/{shown}"


def test_the_schema_file_is_the_generated_one() -> None:
    committed = (ROOT / "njsl/store/data/contribution.schema.json").read_text(encoding="utf-8")
    assert json.loads(committed) == json_schema(), (
        "run: python -m njsl.store.contrib > njsl/store/data/contribution.schema.json"
    )


# Properties


def plain_text(limit: int = 20) -> st.SearchStrategy[str]:
    letters = st.characters(categories=["L", "N", "P", "S", "Zs"])
    return st.text(letters, min_size=1, max_size=limit).filter(
        lambda text: text.isprintable() and text == text.strip() and text not in SAYS_NOTHING
    )


def sources() -> st.SearchStrategy[str]:
    return plain_text().filter(lambda text: "/" not in text) | st.just("https://x.org/a?b=c#d")


def dates() -> st.SearchStrategy[str]:
    return st.dates(datetime.date(1990, 1, 1), datetime.date(2100, 1, 1)).map(str)


def values(field: Field) -> st.SearchStrategy[Any]:
    """What a column takes, as JSON has it."""
    if field.accepted:
        return st.sampled_from(field.accepted)
    if field.type == "BOOLEAN":
        return st.booleans()
    if field.type == "DATE":
        return dates()
    if field.type == "VARCHAR":
        return st.just("c/d") if field.name == "parent" else plain_text()
    if field.type == "DOUBLE":
        return st.floats(field.low, field.high)
    return st.integers(int(field.low or 0), 2**31 - 1)


@st.composite
def blocks(draw: st.DrawFn, table: str, prefix: str = "") -> dict[str, Any]:
    """Valid values of one row by YAML key; shares sum to 100, are marked partial, or are left out."""
    fields = {name: field for name, field in tables()[table].items() if field.need != "key" and field.type != "JSON"}
    shares = {prefix + "percentage_" + name for name in SHARES}
    block: dict[str, Any] = {}
    for name, field in fields.items():
        if name not in shares | {"shares_partial"} and draw(st.booleans()):
            key = name.removeprefix("pretraining_summary_")
            key = "english_pct" if key == "percentage_english" else key
            block[key] = draw(values(field))
    if block.get("embedding_params", 0) > block.get("total_params", 2**63):
        block["embedding_params"] = block["total_params"]
    if shares <= fields.keys():
        kind = draw(st.sampled_from(["none", "whole", "partial"]))
        if kind == "whole":
            block |= {"web_pct": 50.0, "code_pct": 20, "books_pct": 0, "reference_pct": 10.5, "academic_pct": 20}
        elif kind == "partial":
            block |= {"code_pct": draw(st.floats(0, 100)), "partial": True}
    return block


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A valid contribution."""
    names = draw(st.lists(plain_text(), max_size=3, unique=True))
    stages = []
    for _ in range(draw(st.integers(0, 2))):
        used = {name: draw(st.none() | st.floats(0, 33)) for name in names if draw(st.booleans())}
        stages.append({"name": "x", **draw(blocks("training_stages")), "datasets": used})
    document = {
        "id": draw(st.sampled_from(["a/b", "owner-1/Name_2.5+x", "gpt2"])),
        "source": draw(sources()),
        "date": draw(dates()),
        "confidence": draw(st.sampled_from(["measured", "reported", "inferred"])),
        **draw(blocks("models")),
        "architecture": draw(blocks("model_annotations")),
        "pretraining": draw(blocks("dataset_info", "pretraining_summary_")),
        "datasets": {name: draw(blocks("datasets")) for name in names},
        "stages": stages,
    }
    return {key: document[key] for key in draw(st.permutations(list(document)))}


def block_style(value: Any, indent: int = 0) -> str:
    """YAML's block style; keys and scalars as JSON."""
    space = "  " * indent
    if isinstance(value, dict) and value:
        return "".join(
            f"\n{space}{json.dumps(key, ensure_ascii=False)}:{block_style(item, indent + 1)}"
            for key, item in value.items()
        )
    if isinstance(value, list) and value:
        return "".join(f"\n{space}-{block_style(item, indent + 1)}" for item in value)
    return " " + json.dumps(value, ensure_ascii=False)


def column(table: str, key: str) -> str:
    """The column of a YAML key, written down independently of the code."""
    if key == "partial":
        return "shares_partial"
    long = "pretraining_summary_" if table == "dataset_info" else ""
    if key.endswith("_pct") and key != "share_pct":
        return f"{long}percentage_{key.removesuffix('_pct')}"
    return long + key


def dated(value: Any) -> Any:
    return datetime.date.fromisoformat(value) if isinstance(value, str) else value


@quick
@given(documents(), st.booleans())
def test_facts_read_back(tmp_path: Path, document: dict[str, Any], block: bool) -> None:
    text = block_style(document) if block else json.dumps(document, ensure_ascii=False)
    records = facts(tmp_path, text)

    def row(table: str, key: dict[str, Any], block: dict[str, Any]) -> dict[str, Any]:
        return key | {column(table, name): value for name, value in block.items() if name != "datasets"}

    identity = {"id": document["id"]}
    models = {name: document[name] for name in ("family", "parent") if name in document}
    models |= {name: dated(document[name]) for name in ("release_date",) if name in document}
    expected = {
        "models": [identity | models],
        "model_annotations": [row("model_annotations", identity, document["architecture"])],
        "dataset_info": [row("dataset_info", identity, document["pretraining"])],
        "datasets": [row("datasets", {"name": name}, block) for name, block in document["datasets"].items()],
        "training_stages": [
            row("training_stages", identity | {"stage": number}, stage)
            for number, stage in enumerate(document["stages"], start=1)
        ],
        "stage_datasets": [
            identity | {"stage": number, "dataset": name} | ({} if share is None else {"share_pct": share})
            for number, stage in enumerate(document["stages"], start=1)
            for name, share in stage["datasets"].items()
        ],
    }
    empty = {"model_annotations": [identity], "dataset_info": [identity]}
    assert records.tables == {table: rows for table, rows in expected.items() if rows and rows != empty.get(table)}
    assert records.origin == Origin(document["source"], dated(document["date"]), document["confidence"])
    assert records.origins == {}


@quick
@given(documents(), sources(), dates())
def test_a_value_may_state_its_own_origin(tmp_path: Path, document: dict[str, Any], source: str, date: str) -> None:
    assume(document["architecture"] and source != document["source"])
    stated = {key: {"value": value, "source": source, "date": date} for key, value in document["architecture"].items()}
    plain = facts(tmp_path, json.dumps(document, ensure_ascii=False))
    records = facts(tmp_path, json.dumps(document | {"architecture": stated}, ensure_ascii=False))
    assert records.tables == plain.tables
    origin = Origin(source, datetime.date.fromisoformat(date), document["confidence"])
    assert records.origins == {("model_annotations", document["id"], key): origin for key in stated}
    block = {**document["architecture"], "source": source, "date": date}
    assert facts(tmp_path, json.dumps(document | {"architecture": block}, ensure_ascii=False)) == records


@quick
@given(documents(), st.data())
def test_mutated_text_is_read_or_refused(tmp_path: Path, document: dict[str, Any], data: st.DataObject) -> None:
    text = block_style(document).encode()
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 6))
        text = (
            text[:place]
            + data.draw(
                st.binary(max_size=4)
                | st.sampled_from(list(b": -{}[]&*!#\t\n'\"|>%@`?")).map(lambda code: bytes([code]))
            )
            + text[place + cut :]
        )
    try:
        records = facts(tmp_path, text)
    except DataError as error:
        assert str(error).isprintable() and str(error).startswith(str(tmp_path))
    else:
        assert records.tables["models"]


@quick
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path, data)


# Sums and comparisons of several values are no matter of the schema, nor is whether a day exists.
BEYOND_SCHEMA = re.compile("sum to|a part of total_params|than itself|'2024-02-30'")
ODD = st.sampled_from(
    [None, True, 0, -1, 1, 2.0, 1.5, 101, 2**40, 1e300, "", "N/A", "x", " x", "full", "yes", "a/b", "../x",
     "2024-01-31", "2024-02-30", "2024-1-1", [], ["x"], {}, {"value": 3}, {"value": None}, {"value": 3, "sauce": "x"},
     {"value": 1, "source": "x", "date": "2024-01-31", "confidence": "measured"}, {"value": "full", "source": "/x"}]
)  # fmt: skip


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value within, containers included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, item in items for leaf in leaves(item, (*path, key)))]


def test_schema_and_reader_agree(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    @settings(deadline=None, max_examples=150)
    @given(documents(), st.data())
    def agree(document: dict[str, Any], data: st.DataObject) -> None:
        assert validator.is_valid(document)
        path = data.draw(st.sampled_from([path for path in leaves(document) if path]))
        place: Any = document
        for key in path[:-1]:
            place = place[key]
        place[data.draw(st.sampled_from([path[-1], "sauce"])) if isinstance(place, dict) else path[-1]] = data.draw(ODD)
        try:
            facts(tmp_path, json.dumps(document, ensure_ascii=False))
        except DataError as error:
            assert BEYOND_SCHEMA.search(str(error)) or not validator.is_valid(document), error
        else:
            assert validator.is_valid(document), next(validator.iter_errors(document)).message

    agree()
