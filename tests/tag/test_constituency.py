"""syntax_constituency: measures derived by hand, and stanza's own models built and saved here."""

import math
import pickle
import re
import shutil
import socket
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest

from njsl.core.types import ConfigError, Document
from njsl.tag.base import Batch
from njsl.tag.taggers.syntax_constituency import SyntaxConstituency, measures, word_depths
from tag import tiny_stanza

TEXT = "The dog sees a cat. I sleep."


@dataclass
class Tree:
    children: list["Tree"] = field(default_factory=list)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("stanza")
    tiny_stanza.build(made)
    return made


@pytest.fixture(scope="module")
def tagger(folder):
    made = pickle.loads(pickle.dumps(SyntaxConstituency(path=str(folder), device="cpu")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
        made.load()
    return made


def document(text):
    return Document(text, "1", "1")


def read(text):
    from stanza.models.constituency.tree_reader import read_trees

    return read_trees(text)[0]


def test_depths_by_hand():
    # Edges below S: The: NP, DT, The. sees: VP, VBZ, sees. a: VP, NP, DT, a. The full stop: ., "."
    tree = read("(ROOT (S (NP (DT The) (NN dog)) (VP (VBZ sees) (NP (DT a) (NN cat))) (. .)))")
    assert word_depths(tree) == [3, 3, 3, 4, 4, 2]
    assert word_depths(read("(ROOT (UH Yes))")) == [1]


def test_deep_trees_need_no_recursion():
    tree = Tree()
    for _ in range(100_000):
        tree = Tree([tree, Tree()])
    # ROOT's only child that counts is 99,999 deep; below it each level has one more word.
    assert word_depths(tree) == [99_999, *range(99_999, 0, -1)]


def test_measures_by_hand():
    # A sentence of six words, four deep, and one of three words, three deep: means weigh 6 to 3.
    found = measures([[3, 3, 3, 4, 4, 2], [3, 3, 2]])
    assert found["const_tree_depth_max"] == 4
    assert found["const_tree_depth_mean"] == pytest.approx((6 * 4 + 3 * 3) / 9)
    assert found["const_word_depth_mean"] == 3  # 27 / 9
    assert found["const_word_depth_std"] == pytest.approx(math.sqrt((1 + 1 + 1 + 1) / 9))
    assert found["const_words_per_sentence_mean"] == 5  # (6 * 6 + 3 * 3) / 9
    assert found["const_words_per_sentence_std"] == pytest.approx(math.sqrt((6 * 1 + 3 * 4) / 9))
    assert (found["const_words"], found["const_sentences"]) == (9, 2)


def test_features_have_the_published_names():
    names = [column.feature for column in SyntaxConstituency.columns.values() if column.feature]
    stems = "const_tree_depth_max const_tree_depth_mean const_word_depth_mean const_word_depth_std"
    stems += " words_per_sent_mean words_per_sent_std num_words num_sentences"
    assert names == [f"const_parse_{stem}" for stem in stems.split()]


def test_a_saved_model_is_loaded_and_parses(tagger, folder):
    import stanza

    options = {"dir": str(folder), "download_method": None, "use_gpu": False, "verbose": False}
    sentences = stanza.Pipeline("en", processors="tokenize,pos,constituency", **options)(TEXT).sentences
    assert [[word.text for word in sentence.words] for sentence in sentences] == [
        ["The", "dog", "sees", "a", "cat", "."],
        ["I", "sleep", "."],
    ]
    # A word's depth counted by the brackets of the printed tree: those open at it, less those of ROOT and the top.
    depths = []
    for sentence in sentences:
        depth, found = 0, []
        for bracket, label, word in re.findall(r"(\()(\S+)|([^\s()]+)|\)", str(sentence.constituency)):
            depth += 1 if bracket else -1 if not word and not label else 0
            if word:
                found.append(depth - 1)
        depths.append(found)
    found = tagger.tag(document(TEXT), None)
    assert found["const_tree_depth_max"] == max(map(max, depths))
    assert found["const_word_depth_mean"] == pytest.approx(np.mean(np.concatenate(depths)))
    assert found["const_word_depth_std"] == pytest.approx(np.std(np.concatenate(depths)))
    assert found["const_tree_depth_mean"] == pytest.approx((6 * max(depths[0]) + 3 * max(depths[1])) / 9)
    assert found["const_words_per_sentence_mean"] == 5
    assert (found["const_words"], found["const_sentences"], found["const_truncated"]) == (9, 2, 0)


def test_long_documents_are_read_up_to_the_limit(folder, tagger):
    short = SyntaxConstituency(path=str(folder), device="cpu", max_chars=19)
    short.load()
    first = tagger.tag(document(TEXT[:19]), None)
    assert first["const_sentences"] == 1
    assert short.tag(document(TEXT[:19]), None) == first
    assert short.tag(document(TEXT * 1_800_000), None) == {**first, "const_truncated": 1}  # 50.4 MB


def test_batches_do_not_matter(folder, tagger):
    single = SyntaxConstituency(path=str(folder), device="cpu", batch_sentences=1)
    single.load()
    documents = [document(text) for text in (TEXT * 3, "I sleep.", "", "A cat sleeps in the house. " * 60, "x")]
    together = tagger.tag_batch(Batch(documents, None))
    for at, one in enumerate(documents):
        expected = {name: values[at] for name, values in together.items()}
        np.testing.assert_equal(tagger.tag(one, None), expected)
        np.testing.assert_equal(single.tag(one, None), expected)


@pytest.mark.parametrize("text", ["", " \n"])
def test_texts_without_words(tagger, text):
    found = tagger.tag(document(text), None)
    np.testing.assert_equal(found, {name: column.empty for name, column in tagger.columns.items()})


@pytest.mark.parametrize(
    "text", ["x", "\0", "a\0b", "שלום עולם, מה שלומך?", "(" * 300, "and " * 300, "a\n\n" * 50, "\u200b"]
)
def test_awkward_text_passes(tagger, text):
    found = tagger.tag(document(text), None)
    assert set(found) == set(tagger.columns)
    assert found["const_words"] >= 1


def test_absent_models_say_how_to_get_them(tmp_path, folder):
    with pytest.raises(
        ConfigError, match=r"tagger.syntax_constituency.path: no stanza models in .*stanza.download\('en'"
    ):
        SyntaxConstituency(path=str(tmp_path)).load()
    with pytest.raises(ConfigError, match=r"cannot load the models .*stanza.download"):
        SyntaxConstituency(path=str(folder), package="unheard_of").load()
    for name, content in (("gone", None), ("broken", b"no model")):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        parser = copy / "en" / "constituency" / "tiny.pt"
        parser.unlink()
        if content is not None:
            parser.write_bytes(content)
        with pytest.raises(ConfigError, match="cannot load the models") as caught:
            SyntaxConstituency(path=str(copy)).load()
        assert "\n" not in str(caught.value)


def test_default_folder_is_stanza_s(monkeypatch, tmp_path):
    monkeypatch.setattr("stanza.resources.common.DEFAULT_MODEL_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"no stanza models in .*nowhere"):
        SyntaxConstituency().load()


def test_missing_stanza(monkeypatch):
    monkeypatch.setitem(sys.modules, "stanza", None)
    with pytest.raises(ConfigError, match="pip install stanza"):
        SyntaxConstituency().load()


@pytest.mark.parametrize("name", ["max_chars", "batch_sentences"])
def test_limits_say_what_is_accepted(name):
    with pytest.raises(ConfigError, match=rf"tagger.syntax_constituency.{name}: 0; at least 1 is accepted"):
        SyntaxConstituency(**{name: 0}).load()
