"""Processes that do jobs whose results are files, and that end with the process they belong to."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from njsl.core.types import DataError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from rich.progress import Progress

T = TypeVar("T")
_KILLED = "a process was killed, perhaps for memory; what is done is kept, run again"
ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}


class Workers:
    """Processes for jobs whose results are files; use it as a context manager.

    They start when they are first worth it, hold one thread each, ignore Ctrl-C, and end at once when this process
    ends, is killed, or leaves the context by an exception: all of them read a pipe that closes then.

    Args:
        progress: shows what is done.
        count: processes; None is one per core at hand.
    """

    def __init__(self, progress: Progress | None, count: int | None = None) -> None:
        self.count = count or (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        self._progress = progress
        self._pool: ProcessPoolExecutor | None = None
        self._leave = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            if kind is not None:
                self._leave.close()
            self._pool.shutdown(cancel_futures=kind is not None)
        self._leave.close()

    def run(
        self, function: Callable[[Any], None], jobs: Sequence[Any], sizes: Sequence[int], title: str, worth: int
    ) -> None:
        """Do all jobs, in any order.

        Args:
            function: of a module's top level.
            jobs: its arguments.
            sizes: of the jobs [byte], for the progress shown.
            title: what is shown.
            worth: with less than so many bytes in all, the jobs are done in this process.
        """
        if not jobs:
            return
        task = None if self._progress is None else self._progress.add_task(title, total=sum(sizes))
        for index in self._done(function, jobs, sum(sizes) < worth or len(jobs) == 1):
            if self._progress is not None and task is not None:
                self._progress.advance(task, sizes[index])

    def _done(self, function: Callable[[Any], None], jobs: Sequence[Any], here: bool) -> Iterator[int]:
        if here or self.count == 1:
            for index, job in enumerate(jobs):
                function(job)
                yield index
            return
        try:
            pool = self._started()
            with _interrupt_held():  # processes start as jobs are submitted
                futures = {pool.submit(function, job): index for index, job in enumerate(jobs)}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as error:
            raise DataError(_KILLED) from error

    def stream(self, function: Callable[[Any], T], jobs: Iterator[Any]) -> Iterator[T]:
        """Do jobs as they come, and give their results as they are done; a job waits until a process is nearly free.

        With one process everything is done in this one.

        Args:
            function: of a module's top level.
            jobs: its arguments; at most one more than there are processes is held.
        """
        if self.count == 1:
            yield from map(function, jobs)
            return
        waiting: set[Future[T]] = set()
        try:
            for job in jobs:
                pool = self._started()
                with _interrupt_held():  # processes start as jobs are submitted
                    waiting.add(pool.submit(function, job))
                if len(waiting) > self.count:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            for future in as_completed(waiting):
                yield future.result()
        except BrokenProcessPool as error:
            raise DataError(_KILLED) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            import multiprocessing
            from multiprocessing import resource_tracker

            # It would let interrupts through while it starts, and it starts with the first process.
            resource_tracker.ensure_running()
            # Not forked: this process may hold threads and locks of tokenizers and torch.
            context = multiprocessing.get_context("spawn")
            theirs, ours = context.Pipe(duplex=False)
            self._leave.callback(ours.close)
            self._pool = ProcessPoolExecutor(self.count, context, _begin, (theirs,))
        return self._pool


def _begin(pipe: Connection) -> None:
    """In a new process: one thread for the tokenizer, and an end when the parent's end of the pipe is closed."""
    os.environ |= ONE_THREAD
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def outlived() -> None:
        pipe.poll(None)
        os._exit(1)

    threading.Thread(target=outlived, daemon=True).start()


@contextmanager
def _interrupt_held() -> Iterator[None]:
    """A Ctrl-C within comes after it; processes started within are born deaf to it: a terminal sends it to all."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
