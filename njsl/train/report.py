"""What a run prints at its end, read back from ``results.json``."""

from __future__ import annotations

import json
from pathlib import Path


def show(output, console):
    print(json.dumps(json.loads((output / "results.json").read_text())["results"], indent=1))
