"""A seeded sample of so many documents of a corpus, whatever its size."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from njsl.core.types import Document
from njsl.corpora import readers
from njsl.corpora.readers import Broken, Fields


def reservoir(
    files: Sequence[Path], fields: Fields, target: Path, *, size: int, seed: str, repaired: bool
) -> tuple[int, Broken]:
    """Write a simple random sample without replacement, in the order of the corpus; every document counts once.

    Two passes: the first draws places (Vitter's algorithm R), the second copies what lies there, so that memory holds
    places and no texts. What is there already is not made again.

    Args:
        files: of the corpus.
        fields: what its records call their parts.
        target: a jsonl.gz file.
        size: documents in the sample; all of them where there are no more.
        seed: of the draw.
        repaired: judge texts as they are after repair.

    Returns:
        Documents in the corpus, and its broken records.

    Raises:
        DataError: a file cannot be read.
    """
    draw = random.Random(seed)
    broken = Broken()
    chosen: list[int] = []
    total = 0
    for _ in _all(files, fields, broken, repaired):
        if total < size:
            chosen.append(total)
        elif (place := draw.randrange(total + 1)) < size:
            chosen[place] = total
        total += 1
    wanted = set(chosen)
    found = enumerate(_all(files, fields, Broken(), repaired))
    target.parent.mkdir(parents=True, exist_ok=True)
    records = (
        {"id": document.id, "group": document.group, "text": document.text}
        | ({} if document.lang is None else {"lang": document.lang})
        for place, document in found
        if place in wanted
    )
    readers.write_records(target, records)
    return total, broken


def _all(files: Sequence[Path], fields: Fields, broken: Broken, repaired: bool) -> Iterator[Document]:
    from njsl.tag.shards import repair

    for path in files:
        for block in readers.blocks(path, fields):
            yield from readers.documents(block, fields, broken, keep_empty=True, repair=repair if repaired else None)
