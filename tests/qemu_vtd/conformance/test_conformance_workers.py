"""Workers: the same results as one process gives, whatever ends a worker, and nothing left when the run is ended."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.judge import Result, Verdict
from qemu.vtd.conformance.scenario import Scenario, catalogue
from qemu.vtd.conformance.workers import run_all
from qemu.vtd.probe import Build
from qemu.vtd.qemu_platform import QemuPlatform
from tests.qemu_vtd.remains import MARK, all_end, marked, nothing_remains


def run(scenarios: list[Scenario], build: Build, workers: int) -> dict[str, Result]:
    results: list[Result] = []
    with nothing_remains():
        run_all(scenarios, build.path, results.append, workers)
    assert len({result.scenario.id for result in results}) == len(results) == len(scenarios)
    return {result.scenario.id: result for result in results}


def test_two_workers_give_the_results_of_one_process(build: Build) -> None:
    scenarios = catalogue()[::25]
    assert len({scenario.setup.machine for scenario in scenarios}) > 2
    assert run(scenarios, build, 1) == run(scenarios, build, 2)


def test_a_worker_that_dies_loses_one_scenario(build: Build) -> None:
    def stimulus(bench: Bench) -> None:
        if isinstance(bench.platform, QemuPlatform):
            os.kill(os.getpid(), signal.SIGKILL)

    killing = Scenario("test.killing", "1", "Kills.", stimulus, ("FSTS 0",), chapter="test")
    scenarios = catalogue()[:20]
    results = run([*scenarios[:10], killing, *scenarios[10:]], build, 2)
    assert results["test.killing"].verdict is Verdict.DIFFERS
    assert results["test.killing"].why == "the process that ran it ended, status -9"
    for scenario in scenarios:
        assert results[scenario.id].verdict is not Verdict.DIFFERS


def test_an_error_in_the_caller_ends_the_workers(build: Build) -> None:
    def fail(result: Result) -> None:
        raise RuntimeError

    with nothing_remains(), pytest.raises(RuntimeError):
        run_all(catalogue()[:40], build.path, fail, 2)


@contextmanager
def conforming(
    build: Build, only: str = "*", stderr: int = subprocess.PIPE
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`vtd conform` with two workers, and the mark of its processes."""
    mark = uuid.uuid4().hex
    program = """
import sys
from iommu.cli.main import main
from qemu.vtd.conformance import workers
workers.os.sched_getaffinity = lambda _: {0, 1}
sys.argv = ["vtd", "conform", "--only", sys.argv[1]]
main()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, only],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
        env=os.environ | {MARK: mark, "VTD_QEMU": build.path},
        cwd=Path(__file__).parents[3],
    ) as process:
        try:
            yield process, mark
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
def test_workers_and_their_qemus_end_with_the_run(build: Build, number: signal.Signals, group: bool) -> None:
    with conforming(build) as (process, mark):
        # It, two workers, a guard, and with two forks of that two QEMUs.
        while len(marked(mark)) < 8:
            assert process.poll() is None
            time.sleep(0.01)
        (os.killpg if group else os.kill)(process.pid, number)
        out, error = process.communicate(timeout=10)
        assert all_end(mark)
    assert process.returncode == (-number if number is signal.SIGKILL else 128 + number)
    assert (out, error) == ("", "")


def test_the_bar_counts_the_results_of_all_workers(build: Build) -> None:
    """On a terminal, where the report is read by another program."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal, conforming(build, "queue.", theirs) as (process, _):
        os.close(theirs)
        assert process.stdout is not None
        drawn = b""
        with suppress(OSError):  # Linux reports the end of a terminal as an error
            while piece := terminal.read(4096):
                drawn += piece
        report = process.stdout.read()
        assert process.wait(10) == 0
    counted = [int(number) for number in re.findall(rb"(\d+)/\d+", drawn)]
    assert counted == sorted(counted)
    assert len(set(counted)) > 3
    assert f"{len(catalogue('queue.'))} scenarios:" in report
