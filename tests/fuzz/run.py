"""Runs of changed inputs: each in bounds of time and memory, on all cores, every input made again from its number."""

from __future__ import annotations

import os
import re
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from iommu.dmar.survey_workers import begin_worker
from tests.fuzz.limits import TooMuch, limited, stop_at_hard_limit
from tests.fuzz.way import Way

_BATCH = 200
_KEPT = Path(__file__).resolve().parents[2] / "fixtures" / "fuzz"
_SMALL = 1 << 17
_ALSO = 5
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"")


@dataclass
class Result:
    """What a batch of inputs did.

    Attributes:
        inputs: how many were read.
        refused: how many of them were refused, by the form of the message, each with the number of the first.
        slowest: seconds of the processor for one input, and its number.
        findings: numbers of inputs that did what none may do, and what that was.
    """

    way: str
    inputs: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, 0)
    findings: dict[int, str] = field(default_factory=dict)

    def add(self, other: Result) -> None:
        """Take in another batch."""
        self.inputs += other.inputs
        self.refused += other.refused
        self.first = {**other.first, **self.first}
        self.slowest = max(self.slowest, other.slowest)
        self.findings.update(other.findings)


def kept(way: Way) -> Path:
    """Where inputs of a way are kept: a zip of them."""
    return _KEPT / f"{way.name.replace(' ', '-')}.zip"


def keep(way: Way, seed: int, result: Result) -> None:
    """Keep the first input of each form of refusal, and of those that were read, the first few; small ones only."""
    seeds = way.seeds()
    numbers = [*sorted(result.first.values()), *range(_ALSO)]
    inputs = {f"{seed}-{number}": way.input(seed, number, seeds) for number in numbers}
    kept(way).parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(kept(way), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in inputs.items():
            if len(data) <= _SMALL:
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


def one(way: Way, data: bytes, place: Path) -> tuple[str, str]:
    """Read an input in its bounds: why it was refused, and what is wrong with what happened; empty for neither."""
    try:
        with limited():
            return way.refusal(data, place), ""
    except TooMuch as cost:
        return "", f"{cost}\n{traceback.format_exc(limit=-6)}"
    except Exception:
        return "", traceback.format_exc(limit=-8)


def batch(way: Way, seed: int, start: int, count: int) -> Result:
    """The inputs from `start` on."""
    result, seeds = Result(way.name), way.seeds()
    with TemporaryDirectory(dir="/dev/shm") as folder:
        place = Path(folder) / "input"
        for number in range(start, start + count):
            data = way.input(seed, number, seeds)
            began = time.process_time()
            refused, wrong = one(way, data, place)
            result.slowest = max(result.slowest, (time.process_time() - began, number))
            result.inputs += 1
            if refused:
                form = _NUMBERS.sub("#", refused.replace(str(place), "FILE"))[:120]
                result.refused[form] += 1
                result.first.setdefault(form, number)
            if wrong:
                result.findings[number] = wrong
    return result


def run(ways: list[Way], seed: int, count: int, seconds: float, processes: int | None = None) -> Iterator[Result]:
    """Batches of inputs, of one way after the other in turns, until `count` of each are read or the time is over.

    A worker that dies ends the run, with a finding for the first input of each batch that was being read.
    """
    processes, ends = processes or os.cpu_count() or 1, time.monotonic() + seconds
    jobs = ((way, start) for start in range(0, count, _BATCH) for way in ways)
    with ProcessPoolExecutor(processes, initializer=_begin) as pool:
        running: dict[Future[Result], tuple[Way, int]] = {}
        while True:
            for way, start in islice(jobs, 2 * processes - len(running) if time.monotonic() < ends else 0):
                size = min(_BATCH, count - start)
                running[pool.submit(_named, way.name, seed, start, size)] = way, start
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                way, start = running.pop(each)
                try:
                    yield each.result()
                except BrokenProcessPool:
                    yield Result(
                        way.name, findings={start: "a worker died while it read this input or those behind it"}
                    )
                    ends = 0.0


def _begin() -> None:
    begin_worker()
    stop_at_hard_limit()


def _named(name: str, seed: int, start: int, count: int) -> Result:
    from tests.fuzz.registry import WAYS

    return batch(next(way for way in WAYS if way.name == name), seed, start, count)
