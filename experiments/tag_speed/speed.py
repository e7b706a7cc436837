"""How fast tag.py is: documents per CPU-second of one process, two processes against one, and the peak of memory."""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHARACTERS = 1500
SIX = "[lengths,keywords,language,ngram_entropy]"  # characters, tokens, type-token ratio, keywords, language, entropy
SPARE = {"OMP_NUM_THREADS": "1"}


def pieces(text: str) -> Iterator[str]:
    """Cut at the last blank before 1,500 characters."""
    start = 0
    while start + CHARACTERS < len(text):
        end = text.rfind(" ", start + CHARACTERS // 2, start + CHARACTERS)
        end = start + CHARACTERS if end < 0 else end
        yield text[start:end]
        start = end


def web() -> list[str] | None:
    """Documents of the labelled FineWeb sample, where the paper's data are at hand."""
    folder = os.environ.get("NJSL_PAPER_DATA")
    if not folder:
        return None
    csv.field_size_limit(1 << 24)
    with open(Path(folder) / "fineweb_domains_gpt4omini.csv", newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    return list(pieces("\n\n".join(texts)))


def docstrings() -> list[str]:
    """Of the Python environment at hand."""
    import platformdirs

    from njsl.corpora import python_env
    from njsl.corpora.readers import Broken, read

    cache = Path(os.environ.get("NJSL_CACHE") or platformdirs.user_cache_path("njsl"))
    files = python_env.extract(cache / "text" / "python_env", parts={"nl": 6.0}, seed=0)["nl"]
    texts = [document.text for file in files for document in read(file, text_field="text", broken=Broken())]
    return list(pieces("\n\n".join(texts)))


def write(path: Path, texts: Sequence[str], documents: int) -> Path:
    """So many documents in a jsonl, going round; each repetition is rotated, so that no two are the same."""
    with open(path, "w", encoding="utf-8") as file:
        for i in range(documents):
            text = texts[i % len(texts)]
            turn = (i // len(texts)) * 7 % len(text)
            record = {"id": str(i), "text": text[turn:] + text[:turn]}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path


def run(path: Path, *overrides: str) -> tuple[float, float, float]:
    """One run of tag.py: CPU seconds of all its processes, wall seconds, peak of their memory together [GiB]."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "tag.py"), "corpora=jsonl", f"corpora.path={path}", *overrides]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        process = subprocess.Popen(
            [*command, f"hydra.run.dir={folder}/run"], env=os.environ | SPARE, stdout=subprocess.DEVNULL
        )
        peak = Peak(process.pid)
        if process.wait() != 0:
            raise SystemExit(f"failed: {' '.join(command)}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.monotonic() - began, peak.gib()


class Peak(threading.Thread):
    """The largest sum of resident memory of a process and its children, looked at ten times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self._bytes, self._over = pid, 0, threading.Event()
        self.start()

    def run(self) -> None:
        import psutil

        while not self._over.wait(0.1):
            try:
                parent = psutil.Process(self.pid)
                self._bytes = max(
                    self._bytes, sum(one.memory_info().rss for one in [parent, *parent.children(recursive=True)])
                )
            except psutil.NoSuchProcess:
                return

    def gib(self) -> float:
        """Of all that was seen until now."""
        self._over.set()
        self.join()
        return self._bytes / 2**30


def rate(title: str, folder: Path, texts: Sequence[str], documents: int, *overrides: str) -> None:
    """Print documents per CPU-second of one process, with and without its start."""
    path, small = write(folder / "many.jsonl", texts, documents), write(folder / "few.jsonl", texts, 10)
    start = min(run(small, "workers=1", *overrides)[0] for _ in range(2))
    cpu = min(run(path, "workers=1", *overrides)[0] for _ in range(2))
    print(
        f"{title}: {documents:,} documents of {sum(map(len, texts)) / len(texts):,.0f} characters: "
        f"{documents / (cpu - start):,.0f} per CPU-second ({documents / cpu:,.0f} with the start of {start:.1f} s)",
        flush=True,
    )


def main() -> None:
    known = ("rate", "workers", "memory")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", nargs="+", choices=known, default=list(known))
    parser.add_argument("--documents", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=2, help="of one worker and two")
    parser.add_argument("--gib", type=float, default=2.0, help="size of the corpus whose peak of memory is measured")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        prose = web()
        kind = "web text (FineWeb)" if prose else "docstrings"
        prose = prose or docstrings()
        if "rate" in given.sections:
            for title, texts in ((kind, prose), ("docstrings", docstrings())):
                rate(f"one process, {title}", folder, texts, given.documents, f"tagger={SIX}")
        if "workers" in given.sections:
            path = write(folder / "many.jsonl", prose, 4 * given.documents)
            rounds = [[run(path, f"tagger={SIX}", f"workers={n}")[1] for n in (1, 2)] for _ in range(given.rounds)]
            told = ", ".join(f"{one:.1f} s / {two:.1f} s = {one / two:.2f}" for one, two in rounds)
            print(f"two workers against one, {4 * given.documents:,} documents: {told}", flush=True)
        if "memory" in given.sections:
            count = int(given.gib * 2**30 / (CHARACTERS + 40))
            path = write(folder / "large.jsonl", prose, count)
            cpu, wall, peak = run(path, f"tagger={SIX}", "workers=2")
            print(
                f"peak of memory, two workers, corpus of {path.stat().st_size / 2**30:.2f} GiB: {peak:.2f} GiB "
                f"({cpu:,.0f} CPU-s, {wall:,.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
