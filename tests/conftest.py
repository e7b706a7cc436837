"""Fixtures every test may use: a synthetic export, and the paper's data where they are at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from export import write, write_extras

from njsl.store import AnalysisStore

FREEGEN = [f"freegen_{number:02d}" for number in range(61)]
SELECTED = [
    "total_params",
    "pretraining_summary_total_tokens_billions",
    "biases",
    "pretraining_summary_percentage_code",
    "freegen_07",
]


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic export folder; treat as read-only."""
    return write(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="session")
def store(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnalysisStore]:
    """The synthetic export opened, with the two optional files."""
    freegen, selected = write_extras(tmp_path_factory.mktemp("extras"), FREEGEN, SELECTED)
    with AnalysisStore.from_existing(export, freegen, selected) as opened:
        yield opened


@pytest.fixture(scope="session")
def paper_data() -> Path:
    """The folder ``NJSL_PAPER_DATA`` names, laid out like the published files; its tests carry the mark ``data``."""
    named = os.environ.get("NJSL_PAPER_DATA")
    if not named:
        pytest.skip("NJSL_PAPER_DATA names no folder with the paper's data")
    return Path(named).resolve()


@pytest.fixture(scope="session")
def paper_store(paper_data: Path) -> Iterator[AnalysisStore]:
    """The paper's database, checked against the published checksums."""
    from njsl.store.paper import locate

    files = locate(str(paper_data))
    with AnalysisStore.from_existing(files.export, files.freegen, files.selected, published=True) as opened:
        yield opened


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many of the tests on the paper's data ran: a green run without them says less."""
    reports = {
        outcome: sum(
            "data" in report.keywords for report in terminalreporter.getreports(outcome) if report.when != "teardown"
        )
        for outcome in ("passed", "failed", "skipped")
    }
    ran = reports["passed"] + reports["failed"]
    terminalreporter.write_line(f"tests on the paper's data: {ran} ran, {reports['skipped']} skipped")
