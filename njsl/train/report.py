"""What a run prints at its end, read back from ``results.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from njsl.train.evaluate import RESULTS

_NOTE = (
    "Held-out text, apart by group (package, document) and without exact duplicates; n documents, ± one standard error "
    "over them. unigram: the entropy of the very tokens, which a model must get under."
)


def show(output: Path, console: Console) -> None:
    """Print a run's results as a table: corpora first, then other tasks.

    Args:
        output: the run's folder, with ``results.json``.
        console: where to.
    """
    found = json.loads((output / RESULTS).read_text(encoding="utf-8"))
    results, samples = found["results"], found["n-samples"]
    corpora = [name.removeprefix("heldout_") for name in results if name.startswith("heldout_")]
    console.print()
    if corpora:
        console.print(_corpora(corpora, results, samples))
    others = [name for name in results if not name.startswith(("heldout_", "last_word_"))]
    if others:
        console.print(_tasks(others, results, samples))
    console.print(_NOTE, style="dim", highlight=False)


def _corpora(names: list[str], results: dict[str, Any], samples: dict[str, Any]) -> Table:
    """One row per held-out corpus."""
    table = _table("corpus", "n", "bits/byte", "unigram", "nats/token", "unigram", "last word %")
    for name in names:
        values = results[f"heldout_{name}"]
        last = results.get(f"last_word_{name}")
        table.add_row(
            name,
            str(samples[f"heldout_{name}"]["effective"]),
            _number(values, "bits_per_byte"),
            f"{values['unigram_bits_per_byte,none']:.3f}",
            _number(values, "loss_nats"),
            f"{values['unigram_nats,none']:.3f}",
            "-" if last is None else _number(last, "acc", 100, 1),
        )
    return table


def _tasks(names: list[str], results: dict[str, Any], samples: dict[str, Any]) -> Table:
    """One row per metric of every other task."""
    table = _table("task", "n", "metric", "value")
    for name in names:
        metrics = [key for key in results[name] if "," in key and not key.partition(",")[0].endswith("_stderr")]
        for key in metrics:
            metric, _, how = key.partition(",")
            count = samples.get(name, {}).get("effective", "-")
            shown = metric if how == "none" else f"{metric} ({how})"
            table.add_row(name, str(count), shown, _number(results[name], metric, how=how))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _number(values: dict[str, Any], metric: str, scale: float = 1.0, digits: int = 3, how: str = "none") -> str:
    """A value with its standard error, where it has one."""
    value, error = values[f"{metric},{how}"], values.get(f"{metric}_stderr,{how}")
    if not isinstance(value, (int, float)):
        return str(value)
    text = f"{value * scale:.{digits}f}"
    return f"{text} ± {error * scale:.{digits}f}" if isinstance(error, (int, float)) else text
