"""What the local domain classifier sees of a text: its words, and its style.

Topic words alone fail where a class has few examples; how a text is written (citations, quoted speech, bylines,
addresses, rates of pronouns) says more from the same number. All of a document's features come from the document alone.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

VERSION = 1  # of everything here that decides a value; a classifier fitted on another one is refused
_LONGEST = 24  # characters of a word that are looked at
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+|[^\w\s]")

_GROUPS = {
    "i": "i me my mine myself i'm i've i'd i'll",
    "we": "we us our ours ourselves we're we've",
    "you": "you your yours yourself you're you'll you've",
    "he_she": "he him his himself she her hers herself",
    "they": "they them their theirs themselves",
    "it": "it its itself",
    "the": "the",
    "a": "a an",
    "of": "of",
    "and": "and",
    "to": "to",
    "in": "in",
    "be": "is are be been being am",
    "past": "was were had did said went came saw took knew thought felt looked told asked",
    "modal": "can could may might must shall should will would",
    "not": "not no never don't didn't can't won't isn't",
    "connective": "however therefore thus hence moreover furthermore whereas although respectively",
    "finding": "suggest suggests indicate indicates significant significantly observed demonstrated proposed evidence",
    "study": "study studies research results analysis method methods data hypothesis theory effect effects conclusion "
    "abstract experiment participants investigated findings",
    "scholar": "journal university professor department phd proceedings vol pp doi et al literature",
    "page": "click here posted comments comment share blog website online email page site home login subscribe follow "
    "facebook twitter read more search copyright reserved rights please contact post",
    "shop": "price buy shipping order sale product products free discount cart off available",
    "define": "called known defined refers term used also such include includes types definition example common",
    "day": "today yesterday monday tuesday wednesday thursday friday saturday sunday",
    "month": "january february march april may june july august september october november december",
    "law": "court law act section pursuant plaintiff defendant state federal statute regulation",
    "ask": "who what when where why how which whose",
    "cited": "al doi arxiv issn isbn pubmed pmid",
    "figure": "fig figure figures table tables eq",
    "address": "http https www",
    "news": "news says according reported officials police announced president government",
}
_ENDINGS = ("ed", "ing", "ly", "tion", "ment", "ity", "ness", "ism", "ence", "ance")
_MARKS = ".,;:!?\"'()[]|/-–—*#$%&@=<>+•…“”’"
_PATTERNS = {
    "bracketed_number": r"\[\d{1,3}(?:[,–-] ?\d{1,3})*\]",
    "year_in_parentheses": r"\([^()\n]{0,40}\b(?:1[89]|20)\d\d[a-z]?\)",
    "section": r"(?m)^(?:Abstract|ABSTRACT|Introduction|Methods?|Results|Discussion|Conclusions?|References|Background"
    r"|Objectives?|Purpose)\b",
    "mail": r"@\w+\.\w",
    "money": r"[$£€] ?\d",
    "clock": r"\d:\d\d",
    "speech": r"“[^”\n]{2,200}”|\"[^\"\n]{2,200}\"",
    "bullet": r"(?m)^ ?[-•*] ",
    "numbered_line": r"(?m)^ ?\d{1,3}[.)] ",
    "percent": r"\d%",
    "byline": r"(?m)^(?:By|Posted|Written|Published|Updated)\b",
    "question_answer": r"(?m)^(?:Q|A|Question|Answer) ?[:.]",
    "sentence_end": r"[.!?][\"”)]?\s",
}
_CAPITAL = re.compile(r"[A-Z][A-Za-z]*")
_COMPILED = [re.compile(pattern) for pattern in _PATTERNS.values()]
_GROUP_OF: dict[str, list[int]] = {}
for _number, _members in enumerate(_GROUPS.values()):
    for _member in _members.split():
        _GROUP_OF.setdefault(_member, []).append(_number)
_WORD_KINDS = (
    *(f"words_{name}" for name in _GROUPS),
    *(f"ending_{ending}" for ending in _ENDINGS),
    "long_words",
    "years",
    "old_years",
)
STYLE = (
    *_WORD_KINDS,
    *(f"mark_u{ord(mark):04x}" for mark in _MARKS),
    *(f"pattern_{name}" for name in _PATTERNS),
    "capitalised",
    "shouted",
    "short_lines",
    "long_lines",
    "length",
    "distinct_words",
    "sentence_words",
    "word_characters",
    "line_characters",
    "digits",
    "not_ascii",
)


@dataclass(frozen=True)
class Features:
    """Features of some documents.

    Attributes:
        hashes: 32-bit hashes of the words of all documents, one after the other; distinct within each.
        counts: how often each of them occurs in its document, >= 1.
        starts: [documents + 1] where each document's words begin.
        style: [documents, len(STYLE)] logarithms of rates and sizes; not standardised.
    """

    hashes: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    style: np.ndarray

    def __len__(self) -> int:
        return len(self.style)

    def __getitem__(self, rows: Sequence[int] | np.ndarray) -> Features:
        spans = [slice(self.starts[row], self.starts[row + 1]) for row in rows]
        lengths = [span.stop - span.start for span in spans]
        return Features(
            np.concatenate([self.hashes[span] for span in spans]) if spans else self.hashes[:0],
            np.concatenate([self.counts[span] for span in spans]) if spans else self.counts[:0],
            np.cumsum([0, *lengths]),
            self.style[rows],
        )

    def columns(self, known: np.ndarray) -> Any:
        """Counts [documents, len(known)] of the words with the hashes ``known``, which are sorted; a CSR matrix."""
        from scipy import sparse

        places = np.minimum(np.searchsorted(known, self.hashes), max(len(known) - 1, 0))
        found = known[places] == self.hashes if len(known) else np.zeros(len(places), bool)
        starts = np.concatenate([[0], np.cumsum(found)])[self.starts]
        matrix = sparse.csr_matrix((self.counts[found], places[found], starts), shape=(len(self), len(known)))
        matrix.sort_indices()
        return matrix


def features(texts: Sequence[str], max_chars: int) -> Features:
    """Features of each text from its first ``max_chars`` characters, and from its length.

    Source: Kessler, Nunberg, Schuetze 1997, "Automatic detection of text genre", ACL, for cues of style beside words.
    """
    hashes, counts, style = [], [], []
    for whole in texts:
        text = whole[:max_chars]
        words = Counter(_TOKEN.findall(text.lower()))
        known = [_word(word) for word in words]
        one, place = np.unique(
            np.fromiter((its_hash for its_hash, _ in known), np.uint32, len(known)), return_inverse=True
        )
        hashes.append(one)
        counts.append(np.bincount(place, np.fromiter(words.values(), np.float64, len(words)), len(one)))
        style.append(_style(text, len(whole), words, [kinds for _, kinds in known]))
    starts = np.cumsum([0, *map(len, hashes)])
    return Features(np.concatenate(hashes), np.concatenate(counts), starts, np.array(style))


def word_hash(word: str) -> int:
    """The 32-bit hash of a lower-case word as texts have it; of a number its number of digits alone counts."""
    word = "0" * min(len(word), 5) if word[0].isdigit() else word[:_LONGEST].replace("’", "'")
    # Python's own hash differs from process to process. A lone surrogate has no UTF-8.
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


@functools.lru_cache(maxsize=2**16)
def _word(word: str) -> tuple[int, tuple[int, ...]]:
    """Of a word: its hash, and the kinds of words it is of."""
    first = len(_GROUPS)
    kinds = list(_GROUP_OF.get(word.replace("’", "'"), ()))
    kinds += [first + number for number, ending in enumerate(_ENDINGS) if word.endswith(ending)]
    first += len(_ENDINGS)
    is_word, is_year = word[0].isalpha(), len(word) == 4 and word[0].isdigit()
    kinds += [first] * (is_word and len(word) >= 10)
    kinds += [first + 1] * (is_year and word[:2] in ("19", "20"))
    kinds += [first + 2] * (is_year and word[:2] in ("15", "16", "17", "18"))
    return word_hash(word), tuple(kinds)


def _style(text: str, length: int, words: Counter[str], kinds: Sequence[tuple[int, ...]]) -> list[float]:
    of_kind = [0] * len(_WORD_KINDS)
    n_words = n_letters = n_distinct = 0
    for (word, often), its_kinds in zip(words.items(), kinds, strict=True):
        if word[0].isalpha():
            n_words += often
            n_distinct += 1
            n_letters += often * len(word)
        for kind in its_kinds:
            of_kind[kind] += often
    per_words, per_chars = 100 / max(n_words, 1), 1000 / max(len(text), 1)
    lines = [len(line) for line in text.split("\n")]
    capitals = _CAPITAL.findall(text)
    matches = [len(pattern.findall(text)) for pattern in _COMPILED]
    matches += [len(capitals), sum(len(word) > 1 and word.isupper() for word in capitals)]
    matches += [sum(0 < size <= 40 for size in lines), sum(size >= 300 for size in lines)]
    sentences = matches[len(_COMPILED) - 1] + 1
    rates = [found * per_words + 0.1 for found in (*of_kind, *matches)]
    rates[len(of_kind) : len(of_kind)] = [text.count(mark) * per_chars + 0.3 for mark in _MARKS]
    rates += [
        length + 1,
        n_distinct / max(n_words, 1) + 0.1,
        (n_words + 1) / sentences,
        n_letters / max(n_words, 1) + 1,
        (len(text) + 1) / len(lines),
        sum(map(text.count, "0123456789")) * per_chars + 0.3,
        (len(text.encode("utf-8", "surrogatepass")) - len(text)) * per_chars + 0.3,
    ]
    return np.log(rates).tolist()
