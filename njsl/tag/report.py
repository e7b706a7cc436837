"""What a tagging run prints: what became of the records, and the features side by side."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from njsl.tag.aggregate import CORPORA, LONG


def corpora(folder: Path, console: Console) -> None:
    """Documents, what was left out, and the tokenizer."""
    record = json.loads((folder / CORPORA).read_text(encoding="utf-8"))
    tokenizer = record["tokenizer"]
    console.print(f"tokenizer: {tokenizer['name']} (sha256 {tokenizer['sha256'][:12]})", markup=False)
    for name, facts in record["corpora"].items():
        drawn = f" sampled from {facts['documents_in_corpus']:,}" if "documents_in_corpus" in facts else ""
        line = f"{name}: {facts['documents']:,} documents{drawn}, {facts['characters']:,} characters"
        if facts["empty"]:
            line += f", {facts['empty']:,} of them empty"
        for part, count in facts["removed"].items():
            line += f"; {count:,} left out by {part}"
        if facts["broken"]:
            first = min(facts["broken_files"])
            line += (
                f"; {facts['broken']:,} broken records left out in {len(facts['broken_files'])} files, "
                f"e.g. {first}, {facts['broken_reasons'][first]}"
            )
        console.print(line, markup=False, soft_wrap=True)


def features(folder: Path, console: Console) -> None:
    """A row per feature, a column per corpus: value ± standard error."""
    long = pd.read_csv(folder / LONG)
    names = list(dict.fromkeys(long["id"].astype(str)))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("feature", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for feature, part in long.groupby("feature", sort=False):
        values = part.set_index(part["id"].astype(str))
        cells = [_cell(values.loc[name]) if name in values.index else "" for name in names]
        table.add_row(str(feature), str(part["unit"].iloc[0]), *cells)
    console.print()
    # A cut number is worse than a long line.
    Console(file=console.file, width=max(console.width, 1000 if len(names) > 8 else 140)).print(table)
    ns = ", ".join(f"{name} {int(long.loc[long['id'].astype(str) == name, 'n'].max()):,}" for name in names)
    console.print(
        "value ± standard error over documents, or over groups of them where the corpus has such; [95 % interval]; "
        f"n: {ns}",
        markup=False,
        soft_wrap=True,
    )


def _cell(row: pd.Series) -> str:
    value, error, low, high = (float(row[name]) for name in ("value", "se", "low", "high"))
    if math.isnan(value):
        return "-"
    spread = high - low if not math.isnan(high - low) else error
    if math.isnan(spread) or spread == 0:
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    digits = max(0, min(6, 1 - math.floor(math.log10(spread))))
    if spread is not error:
        return f"{value:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"
