"""What a dry run of an import would do: sources by outcome, and the values that differ by field or benchmark."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any


def reason(source: dict[str, Any]) -> str:
    """A refusal without what is particular to its file."""
    text = source["reason"].removeprefix(f"{source['source']}: ").split(";")[0]
    return re.sub(r"^\d+ values? differs? .*", "values differ from the database's", re.sub(r"^'/.*?'", "a path", text))


def place(conflict: dict[str, Any]) -> str:
    """Where a value differs: a column, or a benchmark's family and setting."""
    if conflict["table"] != "evaluation_results":
        return f"{conflict['table']}.{conflict['field']}"
    _, benchmark, setting, metric, *_ = conflict["key"].split("#")
    return f"{re.split('[_-]', benchmark)[0]} {setting} {metric}, {conflict['field']}"


def main() -> None:
    """Print one document's tables."""
    title, path = sys.argv[1:]
    sources = json.loads(Path(path).read_text())["sources"]
    outcomes = Counter("imported" if source["reason"] is None else f"refused: {reason(source)}" for source in sources)
    print(f"\n{title}: {len(sources)} files")
    for outcome, count in outcomes.most_common():
        print(f"  {count:>6} {outcome}")
    print(f"  {sum(source['new'] for source in sources):>6} values new")
    print(f"  {sum(source['equal'] for source in sources):>6} values equal")
    differ = Counter(place(conflict) for source in sources for conflict in source["conflicts"])
    print(f"  {sum(differ.values()):>6} values differ")
    for where, count in differ.most_common():
        print(f"         {count:>6} {where}")


if __name__ == "__main__":
    main()
