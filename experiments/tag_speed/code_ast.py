"""Documents per CPU-second of code_ast on real Python code, beside tree-sitter's parser alone."""

from __future__ import annotations

import random
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from njsl.core.types import Document
from njsl.tag import grammars
from njsl.tag.base import Batch
from njsl.tag.taggers.code_ast import CodeAst

SIZE_BYTES = 1500


def whole(files: list[Path], count: int) -> Iterator[str]:
    """Files of about 1.5 KB."""
    small = (text for path in files if 1000 <= len(text := path.read_bytes().decode(errors="ignore")) <= 2200)
    for text, _ in zip(small, range(count), strict=False):
        yield text


def pieces(files: list[Path], count: int) -> Iterator[str]:
    """Pieces of files, cut at line ends; most begin within a block or a string, so that they do not parse."""
    for path in files:
        piece = ""
        for line in path.read_bytes().decode(errors="ignore").splitlines(keepends=True):
            piece += line
            if len(piece) >= SIZE_BYTES:
                yield piece
                piece, count = "", count - 1
            if not count:
                return


def cpu_sec(work: Callable[[], object], repeats: int = 3) -> float:
    """CPU time of the quickest of some runs [s]."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def rows(count: int = 1000) -> list[dict[str, str | float]]:
    """Per kind of document: bytes, share without errors, documents per CPU-second of the parser and of code_ast."""
    files = sorted(Path(sysconfig.get_path("purelib")).rglob("*.py"))
    random.Random(0).shuffle(files)
    tagger, parser = CodeAst(), grammars.grammar("python").parser
    tagger.load()
    found: list[dict[str, str | float]] = []
    for name, texts in (("whole files", list(whole(files, count))), ("pieces", list(pieces(files, count)))):
        sources = [text.encode() for text in texts]
        batch = Batch([Document(text, str(at), str(at), "python") for at, text in enumerate(texts)], None)  # type: ignore[arg-type]
        parsed = sum(error == 0 for error in tagger.tag_batch(batch)["code_error_frac"])
        parse_sec = cpu_sec(lambda sources=sources: [parser.parse(source) for source in sources])  # type: ignore[misc]
        tag_sec = cpu_sec(lambda batch=batch: tagger.tag_batch(batch))  # type: ignore[misc]
        found.append(
            {
                "documents": name,
                "mean_bytes": sum(map(len, sources)) / len(sources),
                "without_error_frac": parsed / len(sources),
                "parse_per_cpu_sec": len(sources) / parse_sec,
                "code_ast_per_cpu_sec": len(sources) / tag_sec,
            }
        )
    return found


if __name__ == "__main__":
    for row in rows():
        print(
            "  ".join(
                f"{name} {value:.2f}" if isinstance(value, float) else f"{value:12}" for name, value in row.items()
            )
        )
