"""What one input may cost: a second of the processor, half a minute of waiting, 512 MiB of memory."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 1.0
WAIT = 30.0
BYTES = 512 << 20
_HARD = 8 << 30
"""Of private memory, after which the process gets no more: it must not take the machine with it."""


class TooMuch(BaseException):
    """An input has cost more than it may. Not an Exception: nothing that reads may catch it."""


def stop_at_hard_limit() -> None:
    """Let this process have no more than 8 GiB of private memory."""
    resource.setrlimit(resource.RLIMIT_DATA, (_HARD, _HARD))


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Raise TooMuch when the block takes more than it may; for the main thread."""

    def stop(number: int, _frame: object) -> None:
        what = (
            f"over {seconds:g} s of the processor" if number == signal.SIGPROF else f"still waiting after {WAIT:g} s"
        )
        raise TooMuch(what)

    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    used = _peak()
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WAIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    if (more := _peak() - used) > BYTES:
        raise TooMuch(f"{more >> 20} MiB of memory")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
