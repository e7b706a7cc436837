"""Near-duplicates: planted ones are found as often as probability says, others are not."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from njsl.core.types import ConfigError, DataError, Document
from njsl.tag.base import Batch
from njsl.tag.filters.near_duplicates import NearDuplicates, bands_and_rows


class NoTokens:
    name, sha256, vocab_size = "none", "", 1

    def encode(self, texts: object) -> list[np.ndarray]:
        raise AssertionError("filters count no tokens")


def text(seed: int, words: int = 300) -> str:
    return " ".join(random.Random(seed).choices([f"w{i}" for i in range(10_000)], k=words))


def reasons(folder: Path, filter_: NearDuplicates, corpora: Mapping[str, Sequence[str]]) -> dict[str, list[str | None]]:
    folder.mkdir(exist_ok=True)
    documents = {name: [Document(t, f"{name}{i}", "g") for i, t in enumerate(texts)] for name, texts in corpora.items()}
    with Progress(disable=True) as progress:
        filter_.prepare({name: lambda some=some: iter(some) for name, some in documents.items()}, folder, progress)
    assert [path.name for path in folder.iterdir()] == ["left_out.arrow"]
    filter_.load(folder)
    return {name: filter_.reasons(Batch(some, NoTokens()), name) if some else [] for name, some in documents.items()}


def test_by_hand(tmp_path: Path) -> None:
    first = text(0)
    found = reasons(
        tmp_path,
        NearDuplicates(),
        {
            "a": [text(1), first, text(2), first, first.upper().replace(" ", ",\n")],
            "b": [first + " end", "", text(3), ""],
        },
    )
    assert found == {
        "a": [None, None, None, "near-duplicate of a1", "near-duplicate of a1"],
        "b": ["near-duplicate of a1 of a", None, None, "near-duplicate of b1"],
    }


def test_within_corpora_only(tmp_path: Path) -> None:
    found = reasons(tmp_path, NearDuplicates(across=False), {"a": [text(0)], "b": [text(0), text(0)]})
    assert found == {"a": [None], "b": [None, "near-duplicate of b0"]}


def test_short_documents(tmp_path: Path) -> None:
    texts = ["one two", "one two!", "two one", "...", "...", "!!!", "one two three four", "\0", "one", "\0"]
    found = reasons(tmp_path, NearDuplicates(), {"a": texts})["a"]
    assert [index for index, reason in enumerate(found) if reason] == [1, 4, 9]


def test_nothing_to_read(tmp_path: Path) -> None:
    assert reasons(tmp_path, NearDuplicates(), {"a": []}) == {"a": []}
    assert reasons(tmp_path / "b", NearDuplicates(), {"a": [text(0)], "b": []}) == {"a": [None], "b": []}


def test_chains_are_one_cluster(tmp_path: Path) -> None:
    # Each has 936 of its 996 runs in common with the one before: J = 936 / 1056 = .886, .698 with the third.
    words = text(0, 5000).split()
    chain = [" ".join(words[start : start + 1000]) for start in range(0, 3000, 60)]
    order = list(range(len(chain)))
    random.Random(0).shuffle(order)
    found = reasons(tmp_path, NearDuplicates(threshold=0.75), {"a": [chain[index] for index in order]})["a"]
    assert found == [None] + ["near-duplicate of a0"] * (len(chain) - 1)


def pair(seed: int, shared: int, own: int) -> tuple[str, str]:
    """Two texts with ``shared`` 5-word runs in common and ``own`` each that the other has not."""
    words = text(seed, shared + 4).split()
    return tuple(" ".join(words + [f"{seed}x{side}x{i}" for i in range(own)]) for side in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize(("shared", "own"), [(190, 10), (180, 20), (170, 30), (100, 100)])
def test_recall_is_what_bands_promise(tmp_path: Path, shared: int, own: int) -> None:
    filter_ = NearDuplicates(threshold=0.7, recall=0.9)
    jaccard = shared / (shared + 2 * own)
    # Found if k >= .7 * 128 of the numbers agree, and all of some band. Both grow with k, so it is at least the product
    # of their probabilities; rensa's numbers agree more evenly than independent ones, so above .7 that is too low.
    enough = sum(math.comb(128, k) * jaccard**k * (1 - jaccard) ** (128 - k) for k in range(math.ceil(0.7 * 128), 129))
    candidate = 1 - (1 - jaccard**filter_.rows) ** filter_.bands
    pairs = [pair(seed, shared, own) for seed in range(400)]
    found = reasons(tmp_path, filter_, {"a": [t for both in pairs for t in both]})["a"]
    assert found[::2] == [None] * 400
    rate = sum(reason == f"near-duplicate of a{2 * i}" for i, reason in enumerate(found[1::2])) / 400
    spread = 3 * math.sqrt(max(enough * (1 - enough), 0.01) / 400)
    print(f"J {jaccard:.3f}: candidates {candidate:.3f}, similar enough {enough:.3f}, found {rate:.3f}")
    assert enough * candidate - spread <= rate <= (candidate if jaccard > 0.7 else enough) + spread


def test_strangers_stay(tmp_path: Path) -> None:
    texts = [text(seed, 100) for seed in range(1000)]
    assert reasons(tmp_path, NearDuplicates(threshold=0.5), {"a": texts})["a"] == [None] * 1000


def test_bands_and_rows() -> None:
    # 1 - (1 - .8**7)**18 = .9855, 1 - (1 - .8**8)**16 = .947.
    assert bands_and_rows(0.8, 128, 0.95) == (18, 7)
    assert bands_and_rows(0.8, 128, 0.94) == (16, 8)
    assert bands_and_rows(1.0, 128, 0.95) == (1, 128)


def test_little_memory_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [t for seed in range(60) for t in pair(seed, 190, 5)]
    expected = reasons(tmp_path / "a", NearDuplicates(), {"a": texts})
    monkeypatch.setattr(NearDuplicates, "_block", lambda _: 7)
    assert reasons(tmp_path / "b", NearDuplicates(), {"a": texts}) == expected
    assert (tmp_path / "a/left_out.arrow").read_bytes() == (tmp_path / "b/left_out.arrow").read_bytes()


def test_every_process_finds_the_same(tmp_path: Path) -> None:
    code = (
        f"import sys; from pathlib import Path; sys.path[:0] = [{str(Path(__file__).parents[2])!r}];"
        "from tests.tag.test_near_duplicates import *;"
        "reasons(Path(sys.argv[1]), NearDuplicates(), {'a': [t for seed in range(40) for t in pair(seed, 180, 15)]})"
    )
    for seed in ("1", "2"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], check=True, env={"PYTHONHASHSEED": seed})
    assert (tmp_path / "1/left_out.arrow").read_bytes() == (tmp_path / "2/left_out.arrow").read_bytes()


def test_resume(tmp_path: Path) -> None:
    filter_, texts = NearDuplicates(), [text(0), text(0)]
    (tmp_path / "signatures.u32").write_bytes(b"left by a kill")
    expected = reasons(tmp_path, filter_, {"a": texts})

    def unread() -> Iterator[Document]:
        raise AssertionError("read again")

    with Progress(disable=True) as progress:
        NearDuplicates().prepare({"a": unread}, tmp_path, progress)
    assert reasons(tmp_path, NearDuplicates(), {"a": texts}) == expected


def test_ids_must_be_unique(tmp_path: Path) -> None:
    same = [Document(text(0), "x", "g"), Document(text(0), "x", "g")]
    with Progress(disable=True) as progress, pytest.raises(DataError, match="a: several documents have the id 'x'"):
        NearDuplicates().prepare({"a": lambda: iter(same)}, tmp_path, progress)


GROWTH = """
import resource, sys
from pathlib import Path
import numpy as np
from rich.progress import Progress
from njsl.core.types import Document
from njsl.tag.filters.near_duplicates import NearDuplicates
def documents():
    for i in range(int(sys.argv[2])):
        yield Document(" ".join(map(str, np.random.default_rng(i // 2).integers(0, 9999, 200))), str(i), "g")
with Progress(disable=True) as progress:
    NearDuplicates(memory_mib=1).prepare({"a": documents}, Path(sys.argv[1]), progress)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow(tmp_path: Path) -> None:
    peaks = []
    for count in (10_000, 50_000):  # 40,000 more have 20 MB of signatures and 40 MB of text; half are duplicates
        (tmp_path / str(count)).mkdir()
        command = [sys.executable, "-c", GROWTH, str(tmp_path / str(count)), str(count)]
        peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    print(peaks)
    assert peaks[1] - peaks[0] < 12


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"threshold": 0.0}, "threshold: expected a similarity above 0, up to 1, got 0"),
        ({"recall": 1.0}, "recall: expected a probability above 0 and below 1, got 1"),
        ({"words": 0}, "words: expected at least 1, got 0"),
        ({"permutations": 1}, "permutations: expected at least 2, got 1"),
        ({"seed": 2**32}, "seed: expected a seed below 2**32, got 4294967296"),
        (
            {"threshold": 0.01},
            "recall: 128 permutations find a pair of similarity 0.01 with a probability of at most 0.72",
        ),
    ],
)
def test_bad_parameters(parameters: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        NearDuplicates(**parameters)
    assert f"filter.near_duplicates.{message}" in str(error.value)
