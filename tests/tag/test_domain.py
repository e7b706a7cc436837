"""The local domain classifier as a tagger, and the features it reads."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from njsl.core.types import ConfigError, DataError, Document
from njsl.tag.base import Batch
from njsl.tag.domain_features import STYLE, features, word_hash
from njsl.tag.domain_model import CLASSES, DomainModel, fit
from njsl.tag.taggers.domain import Domain
from tag.conftest import Words
from tag.labelled_text import documents

KNOWN = ["web", "reference", "books", "academic"]
MAX_CHARS = 600
HARD = ["", " \n", "x", "a\0b", "שלום עולם", "\ud800 lone", "f(" * 3000 + ")" * 3000, "a" * 10_000, "3.14 1999"]


# Of ten documents of each class one goes to the next class.
CONFUSION = (9 * np.eye(len(KNOWN), dtype=int) + np.eye(len(KNOWN), k=1, dtype=int)).tolist()
CONFUSION[-1][-1] = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of synthetic text, saved as ``mode=distil`` saves it."""
    frame = documents(0)
    frame = frame[frame.prediction.isin(KNOWN)]
    labels = frame.prediction.map(KNOWN.index).to_numpy()
    model = fit(features(frame.text.tolist(), MAX_CHARS), labels, KNOWN, seed=0, max_chars=MAX_CHARS)
    root = tmp_path_factory.mktemp("cache")
    model.save(root / "domain_classifier" / "tiny", {"confusion": CONFUSION})
    return root / "domain_classifier" / "tiny"


def tagger(folder: Path) -> Domain:
    part = pickle.loads(pickle.dumps(Domain(classifier=folder.name, cache=str(folder.parents[1]))))
    assert isinstance(part, Domain)
    part.load()
    return part


def batch(texts: list[str]) -> Batch:
    return Batch([Document(text, str(number), "x") for number, text in enumerate(texts)], Words())


def style_of(text: str, max_chars: int = 10**6) -> dict[str, float]:
    return dict(zip(STYLE, np.exp(features([text], max_chars).style[0]), strict=True))


def test_style_by_hand() -> None:
    # 10 words of 28 letters, 9 of them distinct: the man walked the dog wanted x y z w; 50 characters.
    text = 'the man walked, the dog [12] wanted 1999 "x y z w"'
    assert len(text) == 50
    style = style_of(text)
    assert style["words_the"] == pytest.approx(100 * 2 / 10 + 0.1)
    assert style["ending_ed"] == pytest.approx(100 * 2 / 10 + 0.1)
    assert style["years"] == pytest.approx(100 * 1 / 10 + 0.1)
    assert style["mark_u002c"] == pytest.approx(1000 * 1 / 50 + 0.3)
    assert style["pattern_bracketed_number"] == pytest.approx(100 * 1 / 10 + 0.1)
    assert style["pattern_speech"] == pytest.approx(100 * 1 / 10 + 0.1)
    assert style["digits"] == pytest.approx(1000 * 6 / 50 + 0.3)
    assert style["distinct_words"] == pytest.approx(9 / 10 + 0.1)
    assert style["word_characters"] == pytest.approx(28 / 10 + 1)
    assert style["length"] == pytest.approx(51)
    assert style["short_lines"] == pytest.approx(0.1)


def test_what_makes_a_paper_a_byline_and_a_shop() -> None:
    paper = style_of("Abstract\nIt was shown by Smith et al. (Smith, 2004) that A is B [1, 2].")
    assert paper["pattern_section"] > 1 and paper["pattern_year_in_parentheses"] > 1 and paper["words_cited"] > 1
    assert style_of("By John Doe\nPosted 10:31")["pattern_byline"] > 10
    assert style_of("now only $20 at www.shop.com")["pattern_money"] > 10
    assert style_of("it’s what I’ve said")["words_i"] == style_of("it's what I've said")["words_i"]


def test_words_are_counted_once_each() -> None:
    found = features(["a dog a cat a 17 and 23 and 456"], 10**6)
    counts = dict(zip(found.hashes.tolist(), found.counts.tolist(), strict=True))
    assert counts[zlib.crc32(b"a")] == 3 and counts[zlib.crc32(b"00")] == 2 and counts[zlib.crc32(b"000")] == 1
    known = np.array(sorted(word_hash(word) for word in ("a", "17", "never")))
    columns = found.columns(known).toarray()[0]
    assert dict(zip(known.tolist(), columns.tolist(), strict=True)) == {
        word_hash("a"): 3,
        word_hash("99"): 2,
        word_hash("never"): 0,
    }


def test_a_selection_of_rows_is_that_of_the_texts() -> None:
    texts = ["one two", "", "two three two", "x"]
    some = features(texts, 100)[np.array([2, 1])]
    alone = features(["two three two", ""], 100)
    for name in ("hashes", "counts", "starts", "style"):
        assert np.array_equal(getattr(some, name), getattr(alone, name)), name


def test_labels_and_probabilities(folder: Path) -> None:
    part = tagger(folder)
    frame = documents(9)
    frame = frame[frame.prediction.isin(KNOWN)]
    values = part.tag_batch(batch(frame.text.tolist()))
    assert (np.array(values["domain"]) == frame.prediction.to_numpy()).mean() > 0.75
    p = np.stack([np.asarray(values[f"domain_p_{label}"]) for label in KNOWN])
    assert p.sum(axis=0) == pytest.approx(np.ones(len(frame)), abs=3e-6) and (p >= 0).all()
    assert np.isnan(np.asarray(values["domain_p_code"])).all()
    assert set(values) == set(part.columns) and set(part.columns["domain"].shares or {}) == set(CLASSES)


def test_shares_come_corrected(folder: Path) -> None:
    """1,000 documents, all of the first class: nine tenths are found as such, one tenth as the second."""
    part = tagger(folder)
    found = part.corrected("domain", {KNOWN[0]: 900, KNOWN[1]: 100})
    figure, share = found[f"domain_{KNOWN[0]}_pct_corrected"]
    assert share == pytest.approx(100, abs=0.01)
    assert figure.interval is not None
    low, high = (found[end][1] for end in figure.interval)
    assert low < 100 <= high + 1e-9
    assert set(part.described()["domain"].shares or {}) == set(KNOWN)


def test_batches_and_order_do_not_matter(folder: Path) -> None:
    part = tagger(folder)
    texts = [*documents(4).text.tolist(), *HARD]
    together = part.tag_batch(batch(texts))
    for index in range(0, len(texts), 7):
        alone = part.tag_batch(batch([texts[index]]))
        for name in part.columns:
            np.testing.assert_array_equal(np.asarray(alone[name])[0], np.asarray(together[name])[index])


def test_hard_texts(folder: Path) -> None:
    values = tagger(folder).tag_batch(batch(HARD))
    assert [label is None for label in values["domain"]] == [True, True] + [False] * (len(HARD) - 2)
    assert list(values["domain_chars_read"]) == [min(len(text), MAX_CHARS) for text in HARD]
    assert np.isfinite(np.asarray(values["domain_p_web"])[2:]).all()


def test_only_the_beginning_is_read_and_the_length(folder: Path) -> None:
    part = tagger(folder)
    words = "A lake is a body of water. " * 100
    one, other = (part.tag(Document(words[:MAX_CHARS] + tail, "x", "x"), Words()) for tail in ("a" * 99, "!" * 99))
    np.testing.assert_equal(one, other)  # NaN equals itself here


def test_no_hash_of_python_s_own(folder: Path) -> None:
    """Another process with another PYTHONHASHSEED says the same."""
    code = (
        "import sys; from njsl.tag.domain_model import load; from pathlib import Path;"
        "p = load(Path(sys.argv[1]), 'x', 'y')[0].probabilities(['Click here to share. It was 1999.']);"
        "print(p.tobytes().hex())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code, str(folder)], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_before_it_was_distilled(tmp_path: Path) -> None:
    part = Domain(classifier="default", cache=str(tmp_path))
    for use in (part.load, part.inputs):
        with pytest.raises(ConfigError, match=r"tagger\.domain\.classifier: no classifier in .*mode=distil") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_folder_serves_as_well_as_a_name(folder: Path) -> None:
    part = Domain(classifier=str(folder))
    part.load()
    assert [path.name for path in part.inputs()] == ["classifier.json", "classifier.npz"]


@pytest.mark.parametrize("damage", ["torn", "other", "version", "json"])
def test_a_damaged_classifier_is_one_line(folder: Path, tmp_path: Path, damage: str) -> None:
    facts, arrays = (folder / "classifier.json").read_text(), (folder / "classifier.npz").read_bytes()
    if damage == "torn":
        arrays = arrays[:100]
    elif damage == "other":
        arrays += b"x"
    elif damage == "version":
        facts = json.dumps(json.loads(facts) | {"features": 0})
    else:
        facts = facts[:20]
    (tmp_path / "classifier.json").write_text(facts)
    (tmp_path / "classifier.npz").write_bytes(arrays)
    with pytest.raises(DataError, match=r"tagger\.domain\.classifier") as caught:
        Domain(classifier=str(tmp_path)).load()
    assert "\n" not in str(caught.value)


def test_two_classes(tmp_path: Path) -> None:
    """A linear model of two classes has one row of weights; ours has two."""
    texts = ["Click here! Buy now"] * 10 + ["She said nothing to him"] * 10
    model = fit(features(texts, 100), np.repeat([0, 1], 10), ["web", "books"], seed=0, max_chars=100)
    assert isinstance(model, DomainModel)
    assert model.decide(model.probabilities(["Click now!", "He said nothing"])).tolist() == [0, 1]
