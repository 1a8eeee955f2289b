"""How fast `vtd conform` is on this machine's QEMU, and what its two quick ways save, compared in one run.

    python -m bench.conformance [--json] [--qemu PATH]        in the root of the repository

The measurements take turns, and each figure is the median of its rounds; the ratios are medians of the ratios
within a round, so that other work on the machine affects them little. `one process` runs the catalogue in this
process, `a worker for each core` as `vtd conform` does. `copies of memory` finds a DMA write by comparing two
copies of all RAM, `pages in use` as `QemuPlatform` does.
"""

import argparse
import json
import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qemu.vtd.conformance.scenario import Scenario, catalogue
from qemu.vtd.conformance.workers import run_all
from qemu.vtd.launch import sealed_memory
from qemu.vtd.platform import MEMORY_SIZE
from qemu.vtd.probe import find_qemu
from qemu.vtd.ram import Ram

ROUNDS = 3
SEARCHES = 20
# As many pages as a scenario uses: tables, the pages that DMA may reach, the reading device's buffer.
USED = range(0x100000, 0x100000 + 24 * 0x1000, 0x1000)
TARGET, WRITTEN = 0x800010, b"\x96" * 4

Rounds = Callable[[], float]
"""A function that runs one round of a measurement and returns its figure."""


def scenarios_a_second(scenarios: list[Scenario], qemu: str, workers: int) -> Rounds:
    """Run them all."""

    def run() -> float:
        start = time.perf_counter()
        run_all(scenarios, qemu, lambda _: None, workers)
        return len(scenarios) / (time.perf_counter() - start)

    return run


def seconds_a_search(search: Callable[[], bool]) -> Rounds:
    """Find a write of four bytes."""

    def run() -> float:
        start = time.perf_counter()
        for _ in range(SEARCHES):
            assert search()
        return (time.perf_counter() - start) / SEARCHES

    return run


def by_copies() -> Callable[[], bool]:
    """Two copies of all memory, into buffers that are used again, and the first chunk in which they differ."""
    memory, chunk = mmap.mmap(-1, MEMORY_SIZE), 0x4000
    before, after = bytearray(MEMORY_SIZE), bytearray(MEMORY_SIZE)
    whole = memoryview(memory)

    def search() -> bool:
        whole[TARGET : TARGET + 4] = bytes(4)
        before[:] = whole
        whole[TARGET : TARGET + 4] = WRITTEN
        after[:] = whole
        if before == after:
            return False
        found = next(at for at in range(0, MEMORY_SIZE, chunk) if before[at : at + chunk] != after[at : at + chunk])
        first = next(at for at in range(found, found + chunk) if before[at] != after[at])
        before[first : first + 4] = WRITTEN
        return first == TARGET and before == after

    return search


def by_pages(ram: Ram) -> Callable[[], bool]:
    """The pages in use, before and after."""
    for page in USED:
        ram.memory.write_u64(page, page)

    def search() -> bool:
        ram.memory.write(TARGET, bytes(4))
        before = ram.pages()
        ram.memory.write(TARGET, WRITTEN)
        return [change.address for change in ram.changes_since(before)] == [TARGET]

    return search


def measure(rounds: int, scenarios: list[Scenario], qemu: str) -> dict[str, list[float]]:
    """The figures of each measurement. They take turns, so that all run under the same load."""
    cores = len(os.sched_getaffinity(0))
    with ExitStack() as owner:
        ram = Ram(sealed_memory("bench", MEMORY_SIZE, owner), MEMORY_SIZE)
        owner.callback(ram.close)
        run: dict[str, Rounds] = {
            "one process": scenarios_a_second(scenarios, qemu, 1),
            "a worker for each core": scenarios_a_second(scenarios, qemu, cores),
            "seconds to find a write, copies of memory": seconds_a_search(by_copies()),
            "seconds to find a write, pages in use": seconds_a_search(by_pages(ram)),
        }
        found: dict[str, list[float]] = {name: [] for name in run}
        for number in range(rounds):
            for name in run if number % 2 else reversed(run):
                found[name].append(run[name]())
    return found


def ratio(found: dict[str, list[float]], name: str, base: str) -> float:
    """The ratio of two measurements: the median of the ratios within each round."""
    return statistics.median(one / other for one, other in zip(found[name], found[base], strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How fast vtd conform is.")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--qemu", help="the QEMU to run")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of each measurement ({ROUNDS})")
    options = parser.parse_args()
    scenarios = catalogue()
    found = measure(max(options.rounds, 1), scenarios, find_qemu(options.qemu))
    medians = {name: statistics.median(values) for name, values in found.items()}
    one, workers, copies, pages = found
    ratios = {f"{workers} : {one}": ratio(found, workers, one), f"{copies} : {pages}": ratio(found, copies, pages)}
    if options.json:
        print(json.dumps({"scenarios": len(scenarios), "medians": medians, "ratios": ratios}, indent=1))
        return
    print(f"{len(scenarios)} scenarios")
    for name, value in medians.items():
        shown = f"{value * 1e6:8.0f} us" if "seconds" in name else f"{value:8.0f} scenarios a second"
        print(f"{name:<44}{shown}")
    print("ratios:")
    for name, value in ratios.items():
        print(f"  {name:<84}{value:6.1f}")


if __name__ == "__main__":
    main()
