"""Processes that share the work of a survey, and end with the process that started them, whatever ends it.

Each worker has a pipe of its own. The standard pools share one: they hang when a worker is killed while it writes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

from iommu.errors import VtdError

T = TypeVar("T")
R = TypeVar("R")

_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def in_processes(work: Callable[[T], R], items: Sequence[T], count: int) -> Generator[R, None, None]:
    """What `work` returns for each item, in order. When the iterator is closed, the processes are killed.

    Raises VtdError when one of them ends early: out of memory, for instance. `work` itself may not raise.
    """
    workers = list[_Worker[T, R]]()
    try:
        # A signal in between would end a new process with a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            for _ in range(min(count, len(items))):
                workers.append(_Worker(work))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        yield from _in_order(workers, items)
    finally:
        for each in workers:
            each.end()


def _in_order(workers: Sequence[_Worker[T, R]], items: Sequence[T]) -> Generator[R, None, None]:
    waiting, done, next_number = list(enumerate(items))[::-1], dict[int, R](), 0
    for each in workers:
        each.give(*waiting.pop())
    while next_number < len(items):
        for connection in wait([each.connection for each in workers if each.number is not None]):
            worker = next(each for each in workers if each.connection is connection)
            number, result = worker.take()
            done[number] = result
            if waiting:
                worker.give(*waiting.pop())
        while next_number in done:
            yield done.pop(next_number)
            next_number += 1


class _Worker(Generic[T, R]):
    """A process that works on one item at a time.

    Attributes:
        connection: where its results come from.
        number: the number of the item it works on; None when it has none.
    """

    def __init__(self, work: Callable[[T], R]) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.number: int | None = None
        self._process = multiprocessing.Process(target=_serve, args=(work, theirs), daemon=True)
        self._process.start()
        # The only other copy is the worker's: when it ends, its pipe does.
        theirs.close()

    def give(self, number: int, item: T) -> None:
        """Send an item."""
        self.number = number
        try:
            self.connection.send(item)
        except OSError:
            raise self._ended() from None

    def take(self) -> tuple[int, R]:
        """The number of its item and the result."""
        try:
            result: R = self.connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        number, self.number = self.number, None
        assert number is not None, "it was given an item"
        return number, result

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _ended(self) -> VtdError:
        self._process.join()
        code = self._process.exitcode or 0
        how = f"was killed (signal {-code}); it may be that memory ran out" if code < 0 else f"ended (status {code})"
        return VtdError(f"a worker process {how}")


def _serve(work: Callable[[T], R], connection: Connection) -> None:
    begin_worker()
    while True:
        connection.send(work(connection.recv()))


def begin_worker() -> None:
    """The start of a worker. Ctrl-C is for the process that started it, which then ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a worker"
    wait([parent.sentinel])
    os._exit(1)
