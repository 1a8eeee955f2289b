"""Detects what a machine could leave behind in this process: open files and child processes."""

import gc
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qemu.vtd import guard


def open_files() -> dict[str, str]:
    """Open file descriptors and what they refer to, without that of our guard."""
    # Units are circles: files that the memory of an earlier one maps may be closed at any time otherwise.
    gc.collect()
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found[entry.name] = str(entry.readlink())
    # The directory was itself open while it was being read.
    known = "" if guard._guard is None else str(guard._guard.control.fileno())
    return {name: target for name, target in found.items() if not target.endswith("/fd") and name != known}


def _state(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process, None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    words = stat.rpartition(")")[2].split()
    return words[0], int(words[1])


def children() -> set[int]:
    """Our child processes and theirs, including those that have ended but have not been reaped.

    Not among them is our guard, which stays. A fork of it that has no child has said its last word, and gets a moment
    to exit.
    """
    deadline = time.monotonic() + 5
    while True:
        states = {
            int(entry.name): _state(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()
        }
        parents = {pid: state[1] for pid, state in states.items() if state is not None}
        found, more = set[int](), {os.getpid()}
        while more := {pid for pid, parent in parents.items() if parent in more}:
            found |= more
        forks = {pid for pid in found if parents[pid] == guard.pid()}
        if forks <= set(parents.values()) or time.monotonic() > deadline:
            return found - {guard.pid()}
        time.sleep(0.002)


def is_gone(pid: int, within: float = 5.0) -> bool:
    """Whether a process ends within so many seconds; kills it if not."""
    deadline = time.monotonic() + within
    while (state := _state(pid)) is not None and state[0] != "Z":
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.005)
    return True


MARK = "VTD_TEST_RUN"


def marked(mark: str) -> set[int]:
    """The processes with a mark in their environment: it does not matter who their parent is now."""
    found = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
    return found


def all_end(mark: str, within: float = 5.0) -> bool:
    """Whether all processes with a mark end within so many seconds; kills those that do not."""
    deadline = time.monotonic() + within
    while left := marked(mark):
        if time.monotonic() > deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.01)
    return True


@contextmanager
def nothing_remains() -> Iterator[None]:
    """Fail when the with-block leaves a process or an open file behind."""
    files, processes = open_files(), children()
    yield
    assert children() == processes
    assert open_files() == files
