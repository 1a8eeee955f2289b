"""The processes of a survey end with it, and when one of them is killed, a line says so."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from iommu.dmar.survey_workers import in_processes
from iommu.errors import VtdError
from tests.dmar.hand import drhd, table


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables enough for seconds of work."""
    folder = tmp_path_factory.mktemp("survey") / "tables"
    folder.mkdir()
    (folder.parent / "table").write_bytes(table(*[drhd(0x1000 * number, flags=0) for number in range(1, 200)]))
    for number in range(3000):
        (folder / f"{number}").symlink_to(folder.parent / "table")
    return folder


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextmanager
def surveying(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", list[int]]]:
    """`vtd dmar survey` in a group of its own, and its workers."""
    program = "import iommu.dmar.survey as s; s.cpu_count = lambda: 2; import iommu.cli.main as m; m.main()"
    command = [sys.executable, "-c", program, "dmar", "survey", str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            while len(workers := children(process.pid)) < 2:
                assert process.poll() is None
                time.sleep(0.01)
            yield process, workers
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, True), (signal.SIGKILL, False)],
)
def test_the_workers_end_with_the_survey(many: Path, number: signal.Signals, group: bool) -> None:
    with surveying(many) as (process, workers):
        (os.killpg if group else os.kill)(process.pid, number)
        out, error = process.communicate(timeout=10)
        deadline = time.monotonic() + 5
        while not all(map(has_ended, workers)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert (out, error) == ("", "")
    assert process.returncode == (-number if number is signal.SIGKILL else 128 + number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_is_one_line(many: Path, number: signal.Signals) -> None:
    with surveying(many) as (process, workers):
        os.kill(workers[1], number)
        out, error = process.communicate(timeout=10)
        assert has_ended(workers[0])
    assert (process.returncode, out) == (2, "")
    assert error == f"vtd: a worker process was killed (signal {number:d}); it may be that memory ran out\n"


def test_workers_that_leave_and_workers_that_are_not_needed() -> None:
    with pytest.raises(VtdError, match=r"a worker process ended \(status 7\)"):
        list(in_processes(os._exit, [7, 7], 2))
    before = set(children(os.getpid()))
    with closing(in_processes(time.sleep, [0.0, 60.0, 60.0], 2)) as results:
        assert next(results) is None
    assert set(children(os.getpid())) <= before


KILLED_WHILE_IT_WRITES = """
import resource, time
from contextlib import closing
from iommu.dmar.survey_workers import in_processes

with closing(in_processes(bytes, [1, 1 << 29], 2)) as results:
    next(results)
    # A pool that reads ahead is in the middle of the second result once its memory has grown.
    before, deadline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic() + 3
    while time.monotonic() < deadline and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (1 << 16):
        time.sleep(0.001)
"""


def test_a_worker_that_is_killed_while_it_writes() -> None:
    subprocess.run([sys.executable, "-c", KILLED_WHILE_IT_WRITES], check=True, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_cursor_is_there_afterwards(many: Path, number: signal.Signals) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "iommu.cli.main", "dmar", "survey", str(many)]
    with (
        os.fdopen(ours, "rb", buffering=0) as terminal,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs) as process,
    ):
        os.close(theirs)
        drawn = terminal.read(65536)
        process.send_signal(number)
        with suppress(OSError):  # the end of a terminal
            while data := terminal.read(65536):
                drawn += data
    assert b"tables" in drawn
    assert drawn.rfind(b"\x1b[?25h") >= drawn.rfind(b"\x1b[?25l")


def test_signals_that_are_ignored() -> None:
    """By nohup, and by a shell for its background jobs."""
    program = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "import iommu.cli.main as main; print(1, flush=True)\n"
        "main.make_app = lambda: lambda: [print(2, flush=True), signal.pause(), signal.pause()]; main.main()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() + process.stdout.readline() == b"1\n2\n"
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
    assert process.returncode == 128 + signal.SIGTERM
