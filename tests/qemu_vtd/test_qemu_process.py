"""A QEMU process ends with its owner, however the owner ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qemu.vtd import Machine
from qemu.vtd.errors import QemuNotFound
from qemu.vtd.probe import Build
from qemu.vtd.process import Process, _guard
from tests.qemu_vtd.remains import is_gone, nothing_remains

OWNER = """
import sys
import time
from qemu.vtd import Machine
with Machine(sys.argv[1], iommu={}) as machine:
    print(machine.pid, flush=True)
    while True:
        machine.reset()
"""


@contextmanager
def owner(build: Build) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A process that owns a busy machine, and the pid of its QEMU."""
    command = [sys.executable, "-c", OWNER, build.path]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def test_qemu_ends_with_an_owner_that_is_killed(build: Build) -> None:
    with owner(build) as (process, qemu):
        process.kill()
        process.wait(5)
        assert is_gone(qemu)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_qemu_ends_with_an_owner_that_is_interrupted(build: Build, number: signal.Signals) -> None:
    """The whole process group is signalled, as by a terminal: QEMU must not receive the signal before its owner."""
    with owner(build) as (process, qemu):
        os.killpg(process.pid, number)
        _, error = process.communicate(timeout=5)
        assert is_gone(qemu)
    if number is signal.SIGINT:
        assert "KeyboardInterrupt" in error
        assert "QemuDied" not in error


def test_qemu_has_its_own_session(build: Build) -> None:
    with Machine(build.path) as machine:
        assert os.getsid(machine.pid) == machine.pid != os.getsid(0)


def test_output_is_kept_and_its_last_lines_are_reported() -> None:
    with nothing_remains():
        process = Process(["sh", "-c", "seq 100000; echo; echo last words >&2; exit 3"], [])
        died = process.died()
    assert died.stderr[-2:] == ["100000", "last words"]
    assert len(died.stderr) < 10000
    assert (died.status, str(died)) == (3, "QEMU ended, status 3: last words")
    process.end()
    assert process.stderr() == died.stderr


def test_a_process_may_end_by_itself_before_it_is_killed() -> None:
    """A QEMU built with coverage writes its data then."""
    with nothing_remains():
        process = Process(["sh", "-c", "trap 'echo data; exit' TERM; echo ready; while :; do sleep 0.01; done"], [])
        while not process.stderr():
            pass
        process.end()
    assert process.stderr()[-1] == "data"


def test_a_process_that_does_not_end_by_itself_is_killed_soon() -> None:
    with nothing_remains():
        process = Process(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"], [])
        while not process.stderr():
            pass
        begin = time.monotonic()
        process.end()
    assert time.monotonic() - begin < 3


def test_child_processes_end_with_their_parent() -> None:
    process = Process(["sh", "-c", "sleep 100 & echo $!; wait"], [])
    while not (lines := process.stderr()):
        pass
    process.end()
    assert is_gone(int(lines[0]))


def test_a_process_whose_parent_has_already_ended_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the owner ends before the death signal is set, the process has another parent, such as init."""
    words = _guard(os.getpid())
    if not words:
        pytest.skip("no setpriv with --pdeathsig on this system")
    assert words[-1] == str(os.getpid())
    words = (*words[:-1], "1")
    monkeypatch.setattr("qemu.vtd.process._guard", lambda parent: words)
    with nothing_remains():
        died = Process(["sh", "-c", "echo begun"], []).died()
        assert (died.status, died.stderr) == (1, [])


def test_without_setpriv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qemu.vtd.process._guard", lambda parent: ())
    with nothing_remains():
        with pytest.raises(QemuNotFound, match="cannot run /nowhere/qemu: No such file"):
            Process(["/nowhere/qemu"], [])
        Process(["sleep", "100"], []).end()
