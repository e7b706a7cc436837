"""``python -m njsl.store VERB DATABASE ...``: look at, add to, check and export a database of models.

Exit codes: 0 done; 1 refused or failed, in one line on stderr; 3 ``check`` found an error or ``diff`` a difference;
130 interrupted. Whatever fails leaves the database as it was.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from njsl.core.types import DataError, NjslError
from njsl.store import report, schema
from njsl.store.edit import RULES, Outcome
from njsl.store.records import Records

FOUND = 3
PAPER_SOURCE = "arXiv 2503.03862, database of 2025-03-03"
PAPER_DATE = datetime.date(2025, 3, 3)
MODEL_SOURCES = (
    "a Hugging Face config.json, a model directory, model cards (files, or a folder of them), or Epoch's table (.csv)"
)
ON_CONFLICT = (
    "of a value that differs from the database's: keep the database's, or replace it (the old one goes to the table "
    "history); without this the source is refused"
)


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        words: the command line without the program's name; the process's own where None.

    Returns:
        The exit code.
    """
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
        arguments = _parser().parse_args(words)
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except NjslError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:  # the reader of a pipe has seen enough
        _silence()
        return 1
    except OSError as error:  # a path the system does not look up, a full disk under stdout
        if error.filename is None:
            _silence()
        print(f"{error.filename or 'output'}: {error.strerror or error}"[:500], file=sys.stderr)
        return 1
    except RuntimeError as error:
        if str(error) != "Query interrupted":  # as DuckDB says Ctrl-C
            raise
        return _interrupted()


def _interrupted() -> int:
    print("interrupted; a database holds the whole change or none of it", file=sys.stderr)
    return 130


def _silence() -> None:
    """What stdout still holds has nowhere to go; the interpreter would say so at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DataError(f"{self.prog}: {message}; see {self.prog} --help")


class _Verb(_Parser):
    """A verb's words in any order: argparse takes an optional SOURCE only before the options."""

    apart = False  # options and positionals are being read one after the other

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.apart:
            return super().parse_known_args(args, namespace)
        self.apart = True
        return self.parse_known_intermixed_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m njsl.store", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB", parser_class=_Verb)

    def verb(name: str, run: Any, text: str, database: str = "") -> argparse.ArgumentParser:
        found = verbs.add_parser(name, help=text, description=text)
        found.set_defaults(run=run)
        found.add_argument("--json", action="store_true", help="print one JSON document instead of text")
        if database:
            found.add_argument("database", help=database)
        return found

    def imports(found: argparse.ArgumentParser) -> None:
        found.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
        found.add_argument("--on-conflict", choices=RULES, help=ON_CONFLICT)

    file = "a database file"
    source = "'micro', 'paper', a database file or an export folder"
    found = verb("create", _create, "make a new database file, empty or from another database", "the new file")
    found.add_argument("--from", dest="origin", metavar="SOURCE", help=source)

    found = verb("show", _show, "list the tables, or one model's profile, or which model has which task", source)
    found.add_argument("model", nargs="?", metavar="MODEL", help="one model's facts, sources, labels and scores")
    found.add_argument("--coverage", action="store_true", help="a matrix of models by tasks")
    found.add_argument("--view", choices=("raw", "curated"), default="raw")

    found = verb(
        "add-model", _add_model, "add models: dimensions, parameters, training, each value with its source", file
    )
    found.add_argument("sources", nargs="*", metavar="SOURCE", help=MODEL_SOURCES)
    found.add_argument("--id", help="the model's OWNER/NAME, for a config.json or a model directory")
    found.add_argument("--facts", metavar="YAML", help="what the configuration does not say; see CONTRIBUTING.md")
    found.add_argument(
        "--name", action="append", default=[], metavar="NAME=ID", help="Epoch's name of a model, and the model's id"
    )
    imports(found)

    found = verb(
        "import-evals", _import_evals, "import results of lm-evaluation-harness and of the Open LLM Leaderboard", file
    )
    found.add_argument("sources", nargs="+", metavar="PATH", help="result files, or folders of them")
    found.add_argument("--id", help="the model's OWNER/NAME, where the file does not say or says a path")
    found.add_argument(
        "--shots", action="append", default=[], metavar="TASK=N", help="shots of a task whose file does not say them"
    )
    imports(found)

    found = verb(
        "import-features", _import_features, "import features of generations, as tag.py mode=aggregate writes", file
    )
    found.add_argument("sources", nargs="+", metavar="CSV")
    imports(found)

    found = verb(
        "alias", _alias, "another spelling of a model's or a benchmark's name; its rows move to the name", file
    )
    found.add_argument("kind", choices=("model", "benchmark"))
    found.add_argument("alias", help="the other spelling")
    found.add_argument("name", help="the spelling in this database")
    imports(found)

    found = verb("check", _check, "look for what is wrong or odd; exit code 3 where something is wrong", source)

    found = verb("diff", _diff, "what differs between two databases or views; exit code 3 where anything does")
    for side in ("left", "right"):
        found.add_argument(side, metavar="SOURCE[@VIEW]", help=f"{source}; @raw or @curated for a view of it")

    found = verb("export", _export, "write an export folder: schema.sql, load.sql and a file per table", source)
    found.add_argument("folder", help="a new folder")
    found.add_argument("--parquet", action="store_true", help="Parquet instead of CSV")

    found = verb("build", _build, "make a new database file from a folder of contributions")
    found.add_argument("folder", help="the folder, e.g. contrib")
    found.add_argument("database", help="the new file")
    found.add_argument("--from", dest="origin", metavar="SOURCE", help=f"on top of {source}")
    imports(found)
    return parser


def _create(arguments: argparse.Namespace) -> int:
    from njsl.store.save import check_new, create

    path = Path(arguments.database)
    check_new(path)
    connection = _loaded(arguments.origin)
    create(path, connection)
    counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in schema.tables()}
    rows = ", ".join(f"{counts[name]} {name}" for name in counts if counts[name] and name != "schema_version")
    return _print(arguments, {"database": str(path), "rows": counts}, [f"{path}: {rows or 'empty'}"])


def _show(arguments: argparse.Namespace) -> int:
    from njsl.store.show import coverage, overview, profile
    from njsl.store.store import AnalysisStore

    with AnalysisStore.open(arguments.database) as store:
        if arguments.model:
            found = profile(store, arguments.model, arguments.view)
            return _print(arguments, found, report.of_model(found))
        if arguments.coverage:
            table = coverage(store, arguments.view)
            labels = {
                str(name): {str(task): float(value) for task, value in row.dropna().items()}
                for name, row in table.iterrows()
            }
            return _print(arguments, {"tasks": list(table), "labels": labels}, report.of_coverage(table))
        tables = overview(store)
        lines = [f"{table['table']:<20}{table['rows']:>9,}  {', '.join(table['columns'])}" for table in tables]
        return _print(
            arguments, {"version": store.version, "tables": tables}, [f"layout version {store.version}", *lines]
        )


def _add_model(arguments: argparse.Namespace) -> int:
    from njsl.store.models import read_model_sources

    sources = read_model_sources(arguments.sources, arguments.id, arguments.facts, _pairs("--name", arguments.name))
    return _import(arguments, sources)


def _import_evals(arguments: argparse.Namespace) -> int:
    from njsl.store.evals import read_evals, result_files

    shots = {}
    for task, count in _pairs("--shots", arguments.shots).items():
        if not re.fullmatch("[0-9]{1,4}", count):
            raise DataError(f"--shots {task}={count[:60]}: TASK=N with a whole number N of up to 4 digits is accepted")
        shots[task] = int(count)
    paths = [file for path in arguments.sources for file in result_files(Path(path))]
    return _import(arguments, _read(paths, lambda path: read_evals(path, identity=arguments.id, shots=shots)))


def _import_features(arguments: argparse.Namespace) -> int:
    from njsl.store.feature_files import read_features

    return _import(arguments, _read([Path(path) for path in arguments.sources], read_features))


def _alias(arguments: argparse.Namespace) -> int:
    from njsl.store.save import editing

    with editing(Path(arguments.database), save=not arguments.dry_run) as editor:
        outcome = editor.alias(arguments.kind, arguments.alias, arguments.name, arguments.on_conflict)
    return _report(arguments, [(f"{arguments.kind} {arguments.alias} -> {arguments.name}", outcome)])


def _check(arguments: argparse.Namespace) -> int:
    from njsl.store.store import AnalysisStore
    from njsl.store.verify import ERRORS

    with AnalysisStore.open(arguments.database) as store:
        found = store.verify()
    wrong = found["check"].isin(ERRORS)
    lines = report.of_findings(found, ERRORS)
    lines.append(f"{arguments.database}: {wrong.sum()} findings are wrong, {(~wrong).sum()} are odd")
    _print(arguments, {"wrong": int(wrong.sum()), "findings": found.to_dict(orient="records")}, lines)
    return FOUND if wrong.any() else 0


def _diff(arguments: argparse.Namespace) -> int:
    from njsl.store.compare import differences
    from njsl.store.store import AnalysisStore

    (left, left_view), (right, right_view) = _source_and_view(arguments.left), _source_and_view(arguments.right)
    with AnalysisStore.open(left) as a, AnalysisStore.open(right) as b:
        found = differences(a, b, left_view, right_view)
    _print(arguments, [row._asdict() for row in found], [*map(str, found), f"{len(found)} differences"])
    return FOUND if found else 0


def _export(arguments: argparse.Namespace) -> int:
    from njsl.store.save import export

    connection = _loaded(arguments.database)
    folder = Path(arguments.folder)
    export(connection, tuple(schema.tables()), folder, "parquet" if arguments.parquet else "csv")
    return _print(arguments, {"folder": str(folder)}, [f"{folder}: {len(schema.tables())} tables"])


def _build(arguments: argparse.Namespace) -> int:
    from njsl.store.checkpoints import read_config
    from njsl.store.contrib import contributions
    from njsl.store.edit import Editor
    from njsl.store.evals import read_evals
    from njsl.store.save import check_new, create

    path = Path(arguments.database)
    check_new(path)
    sources: list[tuple[str, Records | DataError]] = []
    for one in contributions(arguments.folder):
        sources.append((str(one.path), one.records))
        said = one.records.origin
        readers = {result: partial(read_evals, identity=one.id) for result in one.results}
        if one.config is not None and said is not None:
            name = f"{one.config.parent.name}/{one.config.name}"
            reader = partial(read_config, identity=one.id, source=name, stated_on=said.stated_on)
            readers = {one.config: reader, **readers}
        for file, reader in readers.items():
            sources += _read([file], reader)
    connection = _loaded(arguments.origin)
    editor = Editor(connection, datetime.date.today())
    outcomes = _take(editor, sources, arguments.on_conflict)
    refused = any(outcome.reason for _, outcome in outcomes)
    if not refused and not arguments.dry_run:
        editor.flush()
        create(path, connection)
    return _report(arguments, outcomes, whole=True)


def _import(arguments: argparse.Namespace, sources: Iterable[tuple[str, Records | DataError]]) -> int:
    from njsl.store.save import editing

    with editing(Path(arguments.database), save=not arguments.dry_run) as editor:
        outcomes = _take(editor, sources, arguments.on_conflict)
    return _report(arguments, outcomes)


def _take(
    editor: Any, sources: Iterable[tuple[str, Records | DataError]], rule: str | None
) -> list[tuple[str, Outcome]]:
    read = list(sources)
    taken = iter(editor.add([records for _, records in read if isinstance(records, Records)], rule))
    return [
        (name, next(taken) if isinstance(records, Records) else Outcome(reason=str(records))) for name, records in read
    ]


def _read(paths: Iterable[Path], reader: Any) -> list[tuple[str, Records | DataError]]:
    """Each file through a reader; a refusal is kept in its place."""
    read: list[tuple[str, Records | DataError]] = []
    for path in paths:
        try:
            read.append((str(path), reader(path)))
        except DataError as error:
            read.append((str(path), error))
    return read


def _report(arguments: argparse.Namespace, outcomes: list[tuple[str, Outcome]], *, whole: bool = False) -> int:
    """Say what became of each source; ``whole``: all of them are saved or none."""
    lines, documents = report.of_import(outcomes, arguments.on_conflict, added=arguments.json)
    refused = sum(outcome.reason is not None for _, outcome in outcomes)
    state = (
        "dry run, nothing is changed"
        if arguments.dry_run
        else "nothing is changed"
        if refused == len(outcomes) or (refused and whole)
        else "saved"
    )
    lines.append(f"{arguments.database}: {len(outcomes) - refused} of {len(outcomes)} sources imported; {state}")
    result = {"database": arguments.database, "dry_run": arguments.dry_run, "refused": refused, "sources": documents}
    _print(arguments, result, lines)
    if refused:
        first = next(
            f"{name}: {outcome.reason.removeprefix(f'{name}: ')}" for name, outcome in outcomes if outcome.reason
        )
        raise DataError(f"{arguments.database}: {refused} of {len(outcomes)} sources refused; {first}")
    return 0


def _loaded(source: str | None) -> Any:
    """A connection in memory with all tables of this layout, from a source or empty."""
    from njsl.store.edit import Editor
    from njsl.store.load import empty, load, upgrade
    from njsl.store.store import MICRO

    if source is None:
        return empty()
    if source != "paper":
        path = MICRO if source == "micro" else Path(os.path.expanduser(source))
        connection, version = load(path)
        upgrade(connection, version, path.resolve().name, datetime.date.today())
        return connection
    from njsl.store.feature_files import read_features
    from njsl.store.paper import locate

    paper = locate(None)
    connection, version = load(paper.export)
    upgrade(connection, version, PAPER_SOURCE, PAPER_DATE)
    if paper.freegen is not None:
        editor = Editor(connection, PAPER_DATE)
        for outcome in editor.add([read_features(paper.freegen)]):
            if outcome.reason is not None:
                raise DataError(outcome.reason)
        editor.flush()
    return connection


def _source_and_view(text: str) -> tuple[str, str | None]:
    source, sign, view = text.rpartition("@")
    if not sign or Path(text).exists():
        return text, None
    if view not in ("raw", "curated"):
        raise DataError(f"{text}: view {view!r}; @raw and @curated are accepted")
    return source, view


def _pairs(option: str, given: Iterable[str]) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, sign, value = text.rpartition("=")
        if not sign or not name or not value:
            raise DataError(f"{option} {text}: NAME=VALUE is accepted")
        pairs[name] = value
    return pairs


def _print(arguments: argparse.Namespace, document: Any, lines: Iterable[str]) -> int:
    if arguments.json:
        print(json.dumps(document, ensure_ascii=False, default=str))
    else:
        print("\n".join(lines))
    return 0


if __name__ == "__main__":
    gc.disable()  # a short process whose many small objects live to its end: looking for garbage takes a fifth of it
    sys.exit(main())
