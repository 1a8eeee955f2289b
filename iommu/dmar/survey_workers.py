"""Processes that share the work of a survey, and end with the process that started them, whatever ends it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

from iommu.errors import VtdError

T = TypeVar("T")
R = TypeVar("R")

_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def in_processes(work: Callable[[T], R], items: Sequence[T], count: int) -> Generator[R, None, None]:
    """What `work` returns for each item, in order. When the iterator is closed, the processes are killed.

    Raises VtdError when one of them ends early: out of memory, for instance.
    """
    pool, workers = ProcessPoolExecutor(count, initializer=begin_worker), list[BaseProcess]()
    try:
        others = multiprocessing.active_children()
        # A signal in between would end a new process with a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            results = pool.map(work, items)
            workers += [each for each in multiprocessing.active_children() if each not in others]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        yield from results
    except BrokenProcessPool:
        pool.shutdown()
        raise VtdError(_ending(workers)) from None
    except BaseException:
        for each in workers:
            each.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


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


def _ending(workers: Sequence[BaseProcess]) -> str:
    """How the first worker ended. The pool has ended the others with SIGTERM.

    A worker that ended before the pool had said which processes it started is not among `workers`.
    """
    codes = [each.exitcode for each in workers if each.exitcode]
    code = next((code for code in codes if code != -signal.SIGTERM), None)
    if code is None:
        return "a worker process was killed; it may be that memory ran out"
    how = f"was killed (signal {-code}); it may be that memory ran out" if code < 0 else f"ended (status {code})"
    return f"a worker process {how}"
