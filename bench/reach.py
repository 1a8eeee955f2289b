"""How fast the reverse question is answered, compared in one run with the enumeration page by page.

    python -m bench.reach [--json] [--rounds N]    in the root of the repository; python bench/reach.py works too

`scattered`: no page continues another, so that nothing can be joined: the worst there is. `in a row`: all of them do.
`mappings` is `RemappingUnit.mappings`, page by page. The ratios are medians of the ratios within a round.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from iommu import Capabilities, FlatMemory, RemappingUnit, SourceId
from iommu.batch import reachable
from iommu.registers import GCMD, RTADDR
from iommu.structures import ContextEntry, RootEntry, SecondStageEntry

LARGE, SMALL, ROUNDS = 1 << 24, 1 << 18, 3
NIC = SourceId(0, 4, 0)
ROOT, CONTEXTS, TABLES, HOST = 0x1000, 0x2000, 0x10000, 1 << 32
_RW = SecondStageEntry.bits_of("R", "W")


def world(pages: int, *, scattered: bool) -> RemappingUnit:
    """A device with so many pages of 4 KiB, at addresses in a row, through a second stage of four levels."""
    hosts = np.arange(pages, dtype=np.uint64)
    if scattered:
        np.random.default_rng(1).shuffle(hosts)
    entries, table, levels = HOST + (hosts << np.uint64(12)), TABLES, []
    for _ in range(4):
        levels.append((table, entries))
        count = -(-len(entries) // 512)
        entries, table = table + 4096 * np.arange(count, dtype=np.uint64), table + 4096 * count
    memory = FlatMemory(table)
    for where, values in levels:
        memory.write(where, (values | np.uint64(_RW)).astype("<u8").tobytes())
    memory.write(ROOT, RootEntry.make(P=1, CTP=CONTEXTS).to_bytes(16, "little"))
    context = ContextEntry.make(P=1, DID=1, AW=2, SSPTPTR=levels[-1][0])
    memory.write(CONTEXTS + 16 * NIC.devfn, context.to_bytes(16, "little"))
    unit = RemappingUnit(memory, Capabilities())
    unit.mmio_write(RTADDR.offset, ROOT, 8)
    unit.mmio_write(GCMD.offset, GCMD.make(SRTP=1), 4)
    unit.mmio_write(GCMD.offset, GCMD.make(TE=1), 4)
    return unit


def asked(unit: RemappingUnit, pages: int) -> Callable[[], float]:
    """Seconds of `reachable`."""

    def one_round() -> float:
        begin = time.perf_counter()
        found = reachable(unit, NIC)
        spent = time.perf_counter() - begin
        # The addresses of the interrupt range are messages (3.14).
        assert found.size in (pages << 12, (pages << 12) - (1 << 20))
        return spent

    return one_round


def enumerated(unit: RemappingUnit) -> Callable[[], float]:
    """Seconds of `RemappingUnit.mappings`."""

    def one_round() -> float:
        begin = time.perf_counter()
        for _ in unit.mappings(NIC):
            pass
        return time.perf_counter() - begin

    return one_round


def measurements(large: int = LARGE, small: int = SMALL) -> dict[str, Callable[[], float]]:
    """All measurements by name, in seconds."""
    few = world(small, scattered=True)
    return {
        f"reachable, {large >> 10} thousand pages, scattered": asked(world(large, scattered=True), large),
        f"reachable, {large >> 10} thousand pages, in a row": asked(world(large, scattered=False), large),
        f"reachable, {small >> 10} thousand pages, scattered": asked(few, small),
        f"mappings, {small >> 10} thousand pages, scattered": enumerated(few),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How fast the reverse question is answered.")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of each measurement ({ROUNDS})")
    options = parser.parse_args()
    run = measurements()
    found: dict[str, list[float]] = {name: [] for name in run}
    for _ in range(max(options.rounds, 1)):
        for name, take in run.items():
            gc.collect()
            found[name].append(take())
    *_, few, plain = found
    ratio = statistics.median(one / other for one, other in zip(found[plain], found[few], strict=True))
    medians = {name: statistics.median(values) for name, values in found.items()}
    if options.json:
        print(json.dumps({"medians": medians, "ratios": {f"{plain} : {few}": ratio}}, indent=1))
        return
    for name, seconds in medians.items():
        print(f"{name:<52}{seconds:9.3f} s")
    print(f"reachable is {ratio:.0f} times as fast as mappings")


if __name__ == "__main__":
    main()
