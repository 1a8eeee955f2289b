"""Processes that work for this one, each with QEMUs of its own: forks, which end when this process ends."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

# How long a worker may take to end its QEMU before it is killed.
_END_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1


@dataclass(eq=False)
class Worker:
    """A worker as the first process sees it."""

    process: BaseProcess
    connection: Connection


def hire(work: Callable[..., None], *arguments: Any) -> Worker:
    """Start a process that calls `work` with its connection and these arguments.

    It cannot be interrupted before it calls `be_interruptible`.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(work, theirs, os.getpid(), *arguments), daemon=True)
    # A Ctrl-C in between would end the new process with a traceback.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    theirs.close()
    return Worker(process, ours)


def dismiss(worker: Worker, last: object) -> int | None:
    """Send a worker the message that ends it, and wait for that. Returns its exit status."""
    with suppress(BrokenPipeError):
        worker.connection.send(last)
    worker.connection.close()
    worker.process.join(_END_SECONDS)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
    status = worker.process.exitcode
    worker.process.close()
    return status


def end(workers: Iterable[Worker]) -> None:
    """Interrupt workers, each of which ends its QEMUs; kill those that do not end."""
    all_ = list(workers)
    try:
        for worker in all_:
            if worker.process.pid is not None and worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGINT)
        for worker in all_:
            worker.process.join(_END_SECONDS)
    finally:
        for worker in all_:
            worker.process.kill()
            worker.process.join()
            worker.process.close()
            worker.connection.close()


def be_interruptible() -> None:
    """Called by a worker once an interruption can do no harm: what it has to end is in a with-block."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _work(work: Callable[..., None], connection: Connection, parent: int, *arguments: Any) -> None:
    # Ctrl-C goes to the first process alone, which interrupts the others; and whatever ends it ends them.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    # Memory is shared with the first process until it is written to, and garbage collection writes to every object.
    gc.freeze()
    work(connection, *arguments)
