"""Documents per CPU-second of each filter and of n-gram entropy: `python experiments/tag_speed/filters.py`.

Documents: docstrings of the installed packages, joined and cut to 1,500 characters.
"""

import ast
import json
import os
import sys
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", RAYON_NUM_THREADS="1")

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from njsl.core.types import Document
from njsl.corpora.tiktoken import Tiktoken
from njsl.tag.base import Batch
from njsl.tag.filters.decontaminate import Decontaminate
from njsl.tag.filters.near_duplicates import NearDuplicates
from njsl.tag.filters.repetition import Repetition
from njsl.tag.taggers.ngram_entropy import NgramEntropy

CHARS, DOCUMENTS, BATCH = 1500, int(sys.argv[1]) if len(sys.argv) > 1 else 8192, 256


def documents() -> list[Document]:
    """Docstrings of site-packages in the order of the files' names."""
    text, found = "", []
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                text += (ast.get_docstring(node) or "") + "\n\n"
        while len(text) >= CHARS and len(found) < DOCUMENTS:
            found.append(Document(text[:CHARS], str(len(found)), str(path)))
            text = text[CHARS:]
        if len(found) == DOCUMENTS:
            break
    return found


def timed(name: str, started: float, count: int, unit: str = "documents") -> None:
    """Print a rate."""
    print(f"{name:32} {count / (time.process_time() - started):12,.0f} {unit}/CPU-s", flush=True)


def main() -> None:
    """Print a line per filter and step."""
    corpus = documents()
    encoder = Tiktoken(name="cl100k_base").encoder(Path(tempfile.gettempdir()))
    batches = [Batch(corpus[i : i + BATCH], encoder) for i in range(0, len(corpus), BATCH)]
    with tempfile.TemporaryDirectory() as name, Progress(disable=True) as progress:
        folder = Path(name)
        benchmark = folder / "benchmark.jsonl"
        benchmark.write_text("".join(json.dumps({"question": d.text}) + "\n" for d in corpus[::50]))
        for part in (Repetition(), Decontaminate(files=[str(benchmark)]), NearDuplicates()):
            own = folder / type(part).__name__
            own.mkdir()
            started = time.process_time()
            part.prepare({"corpus": lambda: iter(corpus)}, own, progress)
            timed(f"{type(part).__name__}.prepare", started, len(corpus))
            part.load(own)
            started = time.process_time()
            left_out = sum(reason is not None for batch in batches for reason in part.reasons(batch, "corpus"))
            timed(f"{type(part).__name__}.reasons", started, len(corpus))
            print(f"{'':32} {left_out:12,} left out of {len(corpus):,}")
        for batch in batches:
            assert len(batch.tokens)  # counted before the clock starts
        for n in (1, 2, 3):
            entropy = NgramEntropy(n=n, budget_tokens=None, memory_mib=4096)
            started = time.process_time()
            kept = [entropy.keep(batch) for batch in batches]
            timed(f"NgramEntropy.keep, n={n}", started, len(corpus))
            part = folder / f"kept{n}.parquet"
            pq.write_table(pa.Table.from_batches(kept), part, compression="zstd")
            (folder / f"scratch{n}").mkdir()
            started = time.process_time()
            figures = entropy.measure([part], folder / f"scratch{n}", encoder)
            timed(f"NgramEntropy.measure, n={n}", started, int(figures["entropy_tokens"]), "tokens")
            print(f"{'':32} {figures['entropy_tokens']:12,} tokens, {figures['entropy_mean']:.3f} bits")


main()
