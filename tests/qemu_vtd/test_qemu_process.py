"""What becomes of a QEMU when the process that owns it comes to harm."""

import os
import signal
import subprocess
import sys
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
    """The whole process group is signalled, as a terminal does it: QEMU must not hear of it before its owner."""
    with owner(build) as (process, qemu):
        os.killpg(process.pid, number)
        _, error = process.communicate(timeout=5)
        assert is_gone(qemu)
    if number is signal.SIGINT:
        assert "KeyboardInterrupt" in error
        assert "QemuDied" not in error


def test_qemu_is_out_of_the_terminals_reach(build: Build) -> None:
    with Machine(build.path) as machine:
        assert os.getsid(machine.pid) == machine.pid != os.getsid(0)


def test_output_is_kept_and_its_last_lines_are_told() -> None:
    with nothing_remains():
        process = Process(["sh", "-c", "seq 100000; echo; echo last words >&2; exit 3"], [])
        died = process.died()
    assert died.stderr[-2:] == ["100000", "last words"]
    assert len(died.stderr) < 10000
    assert (died.status, str(died)) == (3, "QEMU ended, status 3: last words")
    process.end()
    assert process.stderr() == died.stderr


def test_what_a_process_started_ends_with_it() -> None:
    process = Process(["sh", "-c", "sleep 100 & echo $!; wait"], [])
    while not (lines := process.stderr()):
        pass
    process.end()
    assert is_gone(int(lines[0]))


def test_a_process_whose_parent_is_already_gone_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were we dead before the kernel heard whom to watch, init would be the parent."""
    words = _guard(os.getpid())
    if not words:
        pytest.skip("this system's setpriv, if any, knows no parent-death signal")
    assert words[-1] == str(os.getpid())
    words = (*words[:-1], "1")
    monkeypatch.setattr("qemu.vtd.process._guard", lambda us: words)
    with nothing_remains():
        died = Process(["sh", "-c", "echo begun"], []).died()
        assert (died.status, died.stderr) == (1, [])


def test_without_setpriv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qemu.vtd.process._guard", lambda us: ())
    with nothing_remains():
        with pytest.raises(QemuNotFound, match="cannot run /nowhere/qemu: No such file"):
            Process(["/nowhere/qemu"], [])
        Process(["sleep", "100"], []).end()
