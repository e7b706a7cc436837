"""What ``python -m njsl.store`` prints: lines for people, documents for programs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from njsl.store import schema
from njsl.store.edit import Outcome
from njsl.store.records import row_key, shown_key

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 10  # lines per source and kind; --json has all
MORE = "    ... and {} more; --json lists all"
FACTS = ("models", "model_annotations", "dataset_info")


def of_import(outcomes: list[tuple[str, Outcome]], rule: str | None, *, added: bool) -> tuple[list[str], list[Any]]:
    """What became of each source: lines, and a document each.

    Args:
        outcomes: by the source's name.
        rule: the rule for values that differ.
        added: the documents list what is new, which may be much.
    """
    lines, documents = [], []
    for name, outcome in outcomes:
        differ = "" if not outcome.conflicts else f", {len(outcome.conflicts)} differ"
        differ += f" ({rule})" if differ and rule else ""
        reason = outcome.reason and outcome.reason.removeprefix(f"{name}: ")
        new = outcome.new
        lines.append(f"{name}: refused: {reason}" if reason else f"{name}: {new} new, {outcome.equal} equal{differ}")
        news = list(_news(outcome) if added else islice(_news(outcome), SHOWN))
        lines += [f"  + {line}" for line in news if not reason]
        lines += [MORE.format(new - SHOWN)] if new > SHOWN and not reason else []
        for mark, block in (("!", outcome.conflicts), ("-", outcome.left_out)):
            lines += [f"  {mark} {line}" for line in block[:SHOWN]]
            lines += [MORE.format(len(block) - SHOWN)] if len(block) > SHOWN else []
        documents.append({
            "source": name,
            "status": "refused" if reason else "imported",
            "reason": reason,
            "new": new,
            "equal": outcome.equal,
            "added": news if added else [],
            "conflicts": [vars(conflict) for conflict in outcome.conflicts],
            "left_out": outcome.left_out,
        })  # fmt: skip
    return lines, documents


def _news(outcome: Outcome) -> Iterator[str]:
    for table, row, names in outcome.added:
        place = shown_key(table, row_key(*(row[name] for name in schema.keys(table))))
        yield from (f"{place} {name} = {row[name]}" for name in names) if names else [place]


def of_findings(found: pd.DataFrame, wrong: tuple[str, ...]) -> list[str]:
    """Lines of ``AnalysisStore.verify()``, by check; ``wrong`` names those that are more than odd."""
    lines = []
    for name, rows in found.groupby("check", sort=True):
        lines.append(f"{name}: {len(rows)} ({'wrong' if name in wrong else 'odd'})")
        lines += [
            f"  {row.table} {row.id} {row.field} {row.value}: {row.message}" for row in rows.head(SHOWN).itertuples()
        ]
        lines += [MORE.format(len(rows) - SHOWN)] if len(rows) > SHOWN else []
    return lines


def of_model(found: dict[str, Any]) -> list[str]:
    """Lines of ``show.profile``; sources are numbered and stand at the end."""
    origins = {row["field"]: row for row in found.get("provenance", []) if row["subject"] in FACTS}
    sources = list(dict.fromkeys(row["source"] for row in origins.values()))
    lines = [found["id"]]
    for name, value in found["facts"].items():
        origin = origins.get(name)
        if origin is not None:
            number = sources.index(origin["source"]) + 1
            lines.append(f"  {name:<44}{value!s:<20}{origin['confidence']}, {origin['stated_on']} [{number}]")
        elif value is not False:
            lines.append(f"  {name:<44}{value}")
    for stage in found.get("training_stages", []):
        lines.append("  stage " + ", ".join(f"{name} {value}" for name, value in stage.items()))
        mix = [row for row in found["stage_datasets"] if row["stage"] == stage["stage"]]
        lines += [f"    {row['dataset']} {row.get('share_pct', '')}".rstrip() for row in mix]
    lines += [f"  alias {name}" for name in found.get("aliases", [])]
    lines += [f"  {task:<44}{value:.4f}" for task, value in found["labels"].items()]
    lines.append(f"  {len(found['scores'])} scores, {len(found.get('model_features', []))} features; --json lists them")
    return [*lines, *(f"  [{number}] {source}" for number, source in enumerate(sources, 1))]


def of_coverage(table: pd.DataFrame) -> list[str]:
    """A matrix of models by tasks, from ``show.coverage``."""
    width = max((len(name) for name in table.index), default=2) + 2
    head = [f"{place}: {task}" for place, task in enumerate(table, 1)]
    lines = ["  ".join(head), " " * width + "".join(f"{place:>4}" for place in range(1, len(head) + 1))]
    for name, row in zip(table.index, table.notna().to_numpy(), strict=True):
        lines.append(f"{name:<{width}}" + "".join("   x" if there else "   ." for there in row))
    lines.append(f"{len(table)} models".ljust(width) + "".join(f"{count:>4}" for count in table.notna().sum()))
    return lines
