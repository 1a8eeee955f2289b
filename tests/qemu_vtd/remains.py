"""Detects what a machine could leave behind in this process: open files and child processes."""

import gc
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def open_files() -> dict[str, str]:
    """Open file descriptors and what they refer to."""
    # Units are circles: files that the memory of an earlier one maps may be closed at any time otherwise.
    gc.collect()
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found[entry.name] = str(entry.readlink())
    # The directory was itself open while it was being read.
    return {name: target for name, target in found.items() if not target.endswith("/fd")}


def _state(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process, None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    words = stat.rpartition(")")[2].split()
    return words[0], int(words[1])


def children() -> set[int]:
    """Our child processes, including those that have ended but have not been reaped."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    states = {pid: _state(pid) for pid in pids}
    return {pid for pid, state in states.items() if state is not None and state[1] == os.getpid()}


def is_gone(pid: int, within: float = 5.0) -> bool:
    """Whether a process ends within so many seconds; kills it if not."""
    deadline = time.monotonic() + within
    while (state := _state(pid)) is not None and state[0] != "Z":
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.005)
    return True


@contextmanager
def nothing_remains() -> Iterator[None]:
    """Fail when the with-block leaves a process or an open file behind."""
    files, processes = open_files(), children()
    yield
    assert children() == processes
    assert open_files() == files
