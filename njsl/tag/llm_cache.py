"""The ledger of paid answers: one SQLite file that outlives any run, also one that is killed."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from njsl.core.types import DataError

FOLDER, FILE = "llm", "answers.sqlite"  # the folder lies in the cache folder
_CHUNK = 500  # keys per query; SQLite takes 999 at least
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT NOT NULL, attempt INTEGER NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL, reply TEXT NOT NULL,
    superseded INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (key, attempt));
CREATE TABLE IF NOT EXISTS jobs (
    name TEXT PRIMARY KEY, endpoint TEXT NOT NULL, batch TEXT, done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS questions (key TEXT NOT NULL, job TEXT NOT NULL, PRIMARY KEY (key, job));
"""


@dataclass(frozen=True)
class Reply:
    """What came back for a question, as it came: what it means is decided anew whenever it is read.

    Attributes:
        content: the answer's text.
        finish: the server's reason to stop, e.g. ``stop`` or ``length``.
        refusal: the model's words, if it refused.
        prompt_tokens, completion_tokens: paid for; 0 where nothing was.
        error: why there is no answer after all retries.
    """

    content: str = ""
    finish: str = "stop"
    refusal: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Job:
    """A batch that was handed in, or was about to be.

    Attributes:
        name: ours; the batch carries it in its metadata.
        batch: the server's id of it; None if a kill came before that was known.
        keys: of its questions.
    """

    name: str
    batch: str | None
    keys: tuple[str, ...]


def question_key(model: str, prompt: str, text: str) -> str:
    """What names a question: 32 hexadecimal digits.

    Args:
        model: asked.
        prompt: version and stage of the prompt.
        text: as it is sent.
    """
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return hashlib.sha256(json.dumps([model, prompt, digest]).encode()).hexdigest()[:32]


class Ledger:
    """All answers ever paid for, and the batches under way.

    Every method that writes is done when it is on disk.

    Args:
        folder: made if need be.

    Raises:
        DataError: the file there is no ledger, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"{path}: cannot be used as the cache of answers: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def replies(self, keys: Sequence[str]) -> dict[str, list[Reply]]:
        """The replies that count for each question, in the order of their attempts; questions without are left out."""
        found: dict[str, list[Reply]] = {}
        for start in range(0, len(keys), _CHUNK):
            some = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, reply FROM answers WHERE superseded = 0 AND key IN ({marks}) ORDER BY key, attempt"
            for key, reply in self._db.execute(query, some):
                found.setdefault(key, []).append(Reply(**json.loads(reply)))
        return found

    def add(self, model: str, prompt: str, replies: Iterable[tuple[str, Reply]], done: str | None = None) -> None:
        """Write replies, each as the next attempt of its question.

        Args:
            model, prompt: for people who look into the file; the key holds them.
            replies: key and reply.
            done: the name of the job that is done with them.
        """
        with self._transaction():
            self._db.executemany(
                "INSERT INTO answers (key, attempt, model, prompt, reply) VALUES "
                "(?1, (SELECT COALESCE(MAX(attempt) + 1, 0) FROM answers WHERE key = ?1), ?2, ?3, ?4)",
                [(key, model, prompt, json.dumps(asdict(reply))) for key, reply in replies],
            )
            if done is not None:
                self._db.execute("UPDATE jobs SET done = 1 WHERE name = ?", [done])

    def supersede(self, keys: Iterable[str]) -> None:
        """Have the replies so far count no longer."""
        with self._transaction():
            self._db.executemany("UPDATE answers SET superseded = 1 WHERE key = ?", [(key,) for key in keys])

    def open_jobs(self, endpoint: str, keys: Iterable[str]) -> list[Job]:
        """Jobs that are not done and hold any of these questions, the oldest first."""
        wanted = set(keys)
        rows = self._db.execute(
            "SELECT name, batch FROM jobs WHERE endpoint = ? AND done = 0 ORDER BY rowid", [endpoint]
        ).fetchall()
        jobs = []
        for name, batch in rows:
            held = tuple(key for (key,) in self._db.execute("SELECT key FROM questions WHERE job = ?", [name]))
            if wanted.intersection(held):
                jobs.append(Job(name, batch, held))
        return jobs

    def open_job(self, endpoint: str, name: str, keys: Sequence[str]) -> None:
        """Note that a batch is about to be handed in."""
        with self._transaction():
            self._db.execute("INSERT INTO jobs (name, endpoint) VALUES (?, ?)", [name, endpoint])
            self._db.executemany("INSERT INTO questions (key, job) VALUES (?, ?)", [(key, name) for key in keys])

    def name_batch(self, name: str, batch: str) -> None:
        """Note the server's id of a batch."""
        self._db.execute("UPDATE jobs SET batch = ? WHERE name = ?", [batch, name])

    def drop_job(self, name: str) -> None:
        """Forget a job of which the server did nothing."""
        with self._transaction():
            self._db.execute("DELETE FROM questions WHERE job = ?", [name])
            self._db.execute("DELETE FROM jobs WHERE name = ?", [name])

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    """All or nothing; the connection itself commits every single statement."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._db.execute("COMMIT" if error is None else "ROLLBACK")
