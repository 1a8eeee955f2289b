"""How many cases a second are checked against a QEMU: by qtest, and by the agent in the guest, compared in one run.

    python -m bench.crossval [--json] [--qemu PATH] [--seconds S]        in the root of the repository

A case is a world of tables and one DMA; its fault record and data are compared with the engine's, and all of guest
RAM once a batch. Making the worlds, predicting and comparing are part of the time. `one command` waits for each qtest
command's answer, `pipelined` sends those of 50 cases together; `one QEMU` and `two QEMUs` use the agent, the two in
processes of their own. `all of RAM` is the part of a batch's time in which RAM is compared. The measurements take
turns, and each figure is the median of its rounds; the ratios are medians of the ratios within a round.
`yardstick` is ten million steps of a loop in Python, in seconds: other machines differ in it.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray

from iommu.errors import VtdError
from qemu.vtd import crew
from qemu.vtd.agent import Op
from qemu.vtd.fuzz.lane.areas import Image, Places, Words
from qemu.vtd.fuzz.lane.lane import FastLane
from qemu.vtd.fuzz.lane.result import BatchResult
from qemu.vtd.pipeline import Answer, Pipeline

ROUNDS, SECONDS = 3, 4.0
TOGETHER = 50
SEED = 13
STEPS = 10_000_000
SMALL = 512
"""Cases in a batch of the slow ways."""
ONE, PIPELINED, AGENT, TWO = "one command", "pipelined", "one QEMU", "two QEMUs"
RAM = "all of RAM"

_WRITES = {Op.WRITE_32: 4, Op.WRITE_64: 8}
_READS = {Op.READ_32: 4, Op.READ_64: 8}


class QtestLane(FastLane):
    """A lane whose operations go to QEMU by qtest.

    Attributes:
        together: the cases whose commands are sent together; 0 for one command at a time.
    """

    together = 0

    def _start(self) -> None:
        """Nothing runs meanwhile."""

    def _finish(self, what: str, operations: NDArray[np.void]) -> None:
        """Carry out the operations."""
        if self.together:
            self._pipelined(operations)
        else:
            self._one_by_one(operations)

    def _one_by_one(self, operations: NDArray[np.void]) -> None:
        qtest, at, read = self.machine.qtest, 0, 0
        steps = operations.tolist()
        while steps[at][0] != Op.END:
            op, address, value = steps[at]
            if op in _WRITES:
                qtest.write(address, value & (1 << 8 * _WRITES[op]) - 1, _WRITES[op])
            elif op in _READS:
                read = qtest.read(address, _READS[op])
                operations["value"][at] = read
            elif not read & value:
                at += address
            at += 1

    def _pipelined(self, operations: NDArray[np.void]) -> None:
        """Nothing depends on what is read: what could be left out is done too."""
        reads: list[tuple[int, Answer[int]]] = []
        pipeline = Pipeline(self.machine.qtest.exchange)
        for at, (op, address, value) in enumerate(operations.tolist()):
            if op in _WRITES:
                pipeline.write(address, value & (1 << 8 * _WRITES[op]) - 1, _WRITES[op])
            elif op in _READS:
                reads.append((at, pipeline.read(address, _READS[op])))
            if len(pipeline) >= 10 * self.together:
                pipeline.run()
        pipeline.run()
        for at, answer in reads:
            operations["value"][at] = answer.value


def checked(lane: FastLane, seconds: float, cases: int, first: int) -> tuple[int, float, int]:
    """Run batches for so long. Returns how many cases there were, the time, and the number of the next batch.

    Raises VtdError for a difference: the figures are those of cases that agree.
    """
    count, number, start = 0, first, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        result: BatchResult = lane.run(number, cases)
        if result.differences:
            raise VtdError(f"{lane.machine.build.path} differs: {result.differences[0]}")
        count, number = count + result.cases, number + 1
    return count, spent, number


class Watch:
    """Measures the comparison of RAM in a lane.

    Attributes:
        seconds: that it has taken.
    """

    def __init__(self, lane: FastLane) -> None:
        self.seconds = 0.0
        right = lane.ram.differing

        def timed(image: Image, script: Words) -> Places:
            start = time.perf_counter()
            found = right(image, script)
            self.seconds += time.perf_counter() - start
            return found

        lane.ram.differing = timed  # type: ignore[method-assign]


def _work(connection: Connection, qemu: str | None, mode: str, seed: int) -> None:
    """A process with a lane of its own: it runs for as long as each message says, and answers with cases and time."""
    try:
        with suppress(KeyboardInterrupt, EOFError), FastLane(qemu, mode, seed) as lane:
            crew.be_interruptible()
            number = checked(lane, 0.0, 0, 0)[2]
            connection.send(None)
            while (seconds := connection.recv()) is not None:
                count, spent, number = checked(lane, seconds, 0, number)
                connection.send((count, spent))
    except VtdError as error:
        connection.send(str(error))


@contextmanager
def workers(count: int, qemu: str | None, mode: str) -> Iterator[list[Connection]]:
    """Processes with a lane each, ready to run."""
    hired: list[crew.Worker] = []
    try:
        for number in range(count):
            hired.append(crew.hire(_work, qemu, mode, SEED + 1 + number))
        ours = [each.connection for each in hired]
        for each in ours:
            heard(each)
        yield ours
    finally:
        crew.end(hired)


def heard(connection: Connection) -> tuple[int, float] | None:
    """What a worker answers. Raises VtdError when it has failed."""
    if not connection.poll(120):
        raise VtdError("a worker does not answer")
    answer: tuple[int, float] | str | None = connection.recv()
    if isinstance(answer, str):
        raise VtdError(answer)
    return answer


def together(ours: list[Connection], seconds: float) -> float:
    """Cases a second of all workers, at the same time."""
    for each in ours:
        each.send(seconds)
    answers = [answer for each in ours if (answer := heard(each)) is not None]
    return sum(count / spent for count, spent in answers)


def yardstick() -> float:
    """Seconds for a loop of STEPS steps."""
    start, total = time.perf_counter(), 0
    for number in range(STEPS):
        total += number
    return time.perf_counter() - start


def measure(qemu: str | None, mode: str, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Every figure, round by round."""
    found: dict[str, list[float]] = {name: [] for name in (ONE, PIPELINED, AGENT, TWO, RAM, "yardstick")}
    with (
        workers(2, qemu, mode) as ours,  # forks, which must not share what the lanes have open
        QtestLane(qemu, mode, SEED) as slow,
        FastLane(qemu, mode, SEED) as fast,
    ):
        next_ = dict.fromkeys((ONE, PIPELINED, AGENT), 0)

        def take(name: str, lane: FastLane, cases: int) -> Callable[[], float]:
            def rate() -> float:
                count, spent, next_[name] = checked(lane, seconds, cases, next_[name])
                return count / spent

            return rate

        takers = {ONE: take(ONE, slow, SMALL), PIPELINED: take(PIPELINED, slow, SMALL), AGENT: take(AGENT, fast, 0)}
        checked(fast, 0.1, 0, 0)
        watch = Watch(fast)
        for _ in range(rounds):
            for name, rate in takers.items():
                slow.together = TOGETHER if name == PIPELINED else 0
                watch.seconds, start = 0.0, time.perf_counter()
                found[name].append(rate())
            found[RAM].append(watch.seconds / (time.perf_counter() - start))
            found[TWO].append(together(ours, seconds))
            found["yardstick"].append(yardstick())
    return found


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--qemu", help="the QEMU: a path, or a suite")
    parser.add_argument("--mode", default="legacy", help="the kind of worlds")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    try:
        found = measure(arguments.qemu, arguments.mode, arguments.rounds, arguments.seconds)
    except VtdError as error:
        print(f"bench.crossval: {error}", file=sys.stderr)
        return 2
    medians = {name: statistics.median(values) for name, values in found.items()}
    ratios = {
        f"{name} / {base}": statistics.median(
            one / other for one, other in zip(found[name], found[base], strict=True)
        )
        for name, base in ((PIPELINED, ONE), (AGENT, ONE), (AGENT, PIPELINED), (TWO, AGENT))
    }
    load = os.getloadavg()[0]
    if arguments.json:
        print(json.dumps({"figures": medians, "ratios": ratios, "rounds": found, "load": load}, indent=2))
        return 0
    for name in (ONE, PIPELINED, AGENT, TWO):
        print(f"{name:12} {medians[name]:10,.0f} checked cases a second")
    for name, ratio in ratios.items():
        print(f"{name:25} {ratio:8.1f}")
    print(f"{RAM} takes {medians[RAM]:.1%} of a batch with one QEMU")
    print(f"yardstick: {medians['yardstick']:.2f} s for {STEPS:,} steps of a loop; load {load:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
