"""A QEMU process ends with its owner, however the owner ends."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from qemu.vtd import Machine, guard
from qemu.vtd.errors import QemuNotFound, QemuUnsuitable
from qemu.vtd.probe import Build
from qemu.vtd.process import Process
from tests.qemu_vtd.remains import MARK, all_end, children, is_gone, marked, nothing_remains

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


WRAPPERS = {
    "does not exec": '"{qemu}" "$@"',
    "leaves a child": 'sleep 1000 & exec "{qemu}" "$@"',
    "in another session": 'setsid "{qemu}" "$@"',
    "leaves a daemon": '(setsid sh -c "sleep 1000 & sleep 1000" &) ; "{qemu}" "$@"; exit 0',
}


@pytest.fixture(params=WRAPPERS)
def wrapper(build: Build, script: Callable[[str], str], request: pytest.FixtureRequest) -> str:
    """A script that runs QEMU, but not in its own place."""
    return script("#!/bin/sh\n" + WRAPPERS[request.param].format(qemu=build.path) + "\n")


def test_what_a_wrapper_starts_ends_with_an_owner_that_is_killed(wrapper: str) -> None:
    mark = uuid.uuid4().hex
    command, folder = [sys.executable, "-c", OWNER, wrapper], Path(__file__).parents[2]
    environment = os.environ | {MARK: mark}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) in marked(mark)
        process.kill()
    assert all_end(mark)


def test_what_a_wrapper_starts_ends_with_the_machine(wrapper: str) -> None:
    with nothing_remains(), Machine(wrapper) as machine:
        assert machine.qmp("query-status")["running"]


def test_a_wrapper_that_ends_before_qemu_ends_it(build: Build, script: Callable[[str], str]) -> None:
    path = script(f'#!/bin/sh\nsetsid "{build.path}" "$@" &\n')
    with nothing_remains(), pytest.raises(QemuUnsuitable, match="does not behave like a QEMU: QEMU ended, status 0"):
        Machine(path)


def test_without_the_fork_that_guards_it_a_process_is_killed() -> None:
    with nothing_remains():
        process = Process(["sh", "-c", "echo $PPID; exec sleep 100"], [])
        while not (lines := process.stderr()):
            pass
        os.kill(int(lines[0]), signal.SIGKILL)
        assert is_gone(process.pid)
        assert (process.died().status, process.stderr()) == (-signal.SIGKILL, lines)


def test_a_guard_that_was_killed_is_replaced(build: Build) -> None:
    with Machine(build.path) as machine:
        first = guard.pid()
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert is_gone(first)
        with Machine(build.path) as other:
            assert other.qmp("query-status")["running"] and machine.qmp("query-status")["running"]
        assert guard.pid() not in (None, first)
    assert not {pid for pid in children() if pid != guard.pid()}


def test_output_without_end_takes_no_memory() -> None:
    """Neither in a file that it is written to, nor in the fork that reads it."""
    with nothing_remains():
        process = Process(["sh", "-c", "echo $PPID; head -c 50000000 /dev/zero | tr '\\0' x; echo; sleep 100"], [])
        keeper = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
        while not process.stderr() or len(process.stderr()[-1]) < 10000:
            time.sleep(0.01)
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{keeper}/status").read_text())
        assert peak is not None and int(peak[1]) < 40_000
        assert Path(f"/proc/{process.pid}/fd/1").stat().st_size < 1_000_000
        process.end()


def test_it_inherits_what_a_program_of_ours_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors by their numbers, in any order, and no others; the environment and the folder of this moment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VTD_SAID", "now \udcff")
    with nothing_remains(), ExitStack() as opened:
        files = [opened.enter_context(TemporaryFile("w+")) for _ in range(3)]
        numbers = [file.fileno() for file in files]
        say = "; ".join(f"echo {number} >/proc/$$/fd/{number}" for number in numbers)
        process = Process(["sh", "-c", f"{say}; pwd; echo $VTD_SAID; ls /proc/$$/fd"], [*reversed(numbers)])
        lines = process.died().stderr
        for file in files:
            file.seek(0)
            assert file.read() == f"{file.fileno()}\n"
    assert lines[:2] == [str(tmp_path), "now \N{REPLACEMENT CHARACTER}"]
    assert sorted(map(int, lines[2:])) == sorted([0, 1, 2, *numbers])


def test_a_program_that_is_not_there() -> None:
    with nothing_remains(), pytest.raises(QemuNotFound, match="cannot run /nowhere/qemu: No such file"):
        Process(["/nowhere/qemu"], [])
