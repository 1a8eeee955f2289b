"""How fast the engine is, compared in one run: translations, a plain walk of the same tables, tables built, states.

    python -m bench.engine [--json]        in the root of the repository; python bench/engine.py works too

The measurements take turns, and each figure is the median of its rounds. The ratios are medians of the ratios within
a round, so that other work on the machine affects them little. `cold` translates pages for the first time, through
4-level tables; `cached` repeats 64 pages. The plain walk is the minimum that a walk by the specification needs in
Python: shifts and masks, no caches, no objects. `bare` is a unit without the code for tracing, auditing and
listeners. `invalidations` are those of a page by register, with a listener only if they are `told`.
`eight devices` takes turns among the devices of eight units: first all of them on one unit, then routed by a DMAR.
A unit is saved and restored with 10,000 pages and the tables above them in its caches.
"""

import argparse
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from iommu import (
    Access,
    CacheName,
    Capabilities,
    DmaRequest,
    FlatMemory,
    Outcome,
    RemappingUnit,
    Selector,
    SourceId,
    System,
)
from iommu.dmar import DeviceScope, Dmar, Drhd
from iommu.engine.caches.caches import Caches
from iommu.registers import GCMD, IOTLB, RTADDR, Granularity
from iommu.structures import (
    ContextEntry,
    FirstStageMapper,
    PageAllocator,
    PasidDirectoryEntry,
    PasidEntry,
    PasidTranslationType,
    RootEntry,
    ScalableContextEntry,
    ScalableRootHalf,
    SecondStageMapper,
)

ROUNDS = 7
COLD, CACHED, HOT_PAGES, SIZE = 40_000, 100_000, 64, 1 << 30
SAVED = 10_000
NIC = SourceId(0, 4, 0)
EIGHT = [SourceId(0, 4 + number, 0) for number in range(8)]
ROOT, CONTEXTS, DIRECTORY, PASIDS, TABLES, TOP = 0x1000, 0x2000, 0x3000, 0x4000, 0x10000, 16 << 20
HOST = 1 << 32

Rounds = Callable[[], float]
"""A function that runs one round of a measurement and returns its figure."""


def tables(first_stage: bool) -> tuple[FlatMemory, int]:
    """Memory with 1 GiB mapped in pages of 4 KiB, already accessed and dirty; and the address of the top table."""
    memory, allocate = FlatMemory(TOP), PageAllocator(TABLES, TOP)
    if first_stage:
        first = FirstStageMapper(memory, allocate)
        first.map(0, HOST, SIZE, accessed=True, dirty=True, page_size=4096)
        return memory, first.root
    second = SecondStageMapper(memory, allocate)
    second.map(0, HOST, SIZE, page_size=4096)
    return memory, second.root


class BareCaches(Caches):
    """Caches that tell nobody of invalidations."""

    def invalidate(self, named: Selector) -> None:
        """See Caches: the part of it that the measured commands need."""
        if named.cache is CacheName.TRANSLATIONS:
            self.iotlb.invalidate(named)
            self.first_stage.invalidate(named)
            self.second_stage.invalidate(named)
        self._on_change()


class Bare(RemappingUnit):
    """A unit without the code for tracing, auditing and listeners."""

    def reset(self) -> None:
        """See RemappingUnit."""
        super().reset()
        self.caches.__class__ = BareCaches

    def mmio_write(self, offset: int, value: int, size: int) -> None:
        """See RemappingUnit."""
        self.registers.write(offset, value, size)

    def translate(self, request: DmaRequest, *, trace: bool = False) -> Outcome:
        """See RemappingUnit."""
        return self._translate(request)


def legacy(kind: type[RemappingUnit] = RemappingUnit, *, audit: bool = False) -> Callable[[], RemappingUnit]:
    """A function that makes units in legacy mode, with nothing cached."""
    memory, top = tables(first_stage=False)
    put(memory, ROOT, RootEntry.make(P=1, CTP=CONTEXTS), 16)
    put(memory, CONTEXTS + 16 * NIC.devfn, ContextEntry.make(P=1, DID=1, AW=2, SSPTPTR=top), 16)
    return lambda: start(kind(memory, Capabilities(), audit=audit), ROOT)


def scalable(stage: PasidTranslationType) -> Callable[[], RemappingUnit]:
    """A function that makes units in scalable mode, with nothing cached."""
    first_stage = stage is PasidTranslationType.FIRST_STAGE
    memory, top = tables(first_stage)
    entry = PasidEntry.make(P=1, PGTT=stage, DID=1, PWSNP=1)
    entry |= PasidEntry.make(FSPTPTR=top) if first_stage else PasidEntry.make(AW=2, SSPTPTR=top)
    put(memory, ROOT, ScalableRootHalf.make(P=1, CTP=CONTEXTS), 8)
    put(memory, CONTEXTS + 32 * NIC.devfn, ScalableContextEntry.make(P=1, PASIDDIRPTR=DIRECTORY), 32)
    put(memory, DIRECTORY, PasidDirectoryEntry.make(P=1, SMPTBLPTR=PASIDS), 8)
    put(memory, PASIDS, entry, 64)
    return lambda: start(RemappingUnit(memory, Capabilities.full()), RTADDR.make(RTA=ROOT, TTM=1))


def eight_devices() -> tuple[FlatMemory, list[DmaRequest]]:
    """Tables of legacy mode for eight devices, and requests of each in turn."""
    memory, top = tables(first_stage=False)
    put(memory, ROOT, RootEntry.make(P=1, CTP=CONTEXTS), 16)
    for device in EIGHT:
        put(memory, CONTEXTS + 16 * device.devfn, ContextEntry.make(P=1, DID=1, AW=2, SSPTPTR=top), 16)
    hot = enumerate(addresses(HOT_PAGES))
    return memory, [DmaRequest(EIGHT[number % 8], address, Access.WRITE, 64) for number, address in hot]


def one_unit(memory: FlatMemory) -> RemappingUnit:
    """A unit for eight devices."""
    return start(RemappingUnit(memory, Capabilities()), ROOT)


def eight_units(memory: FlatMemory) -> System:
    """A system with a unit for each of eight devices."""
    scopes = [DeviceScope(1, device.bus, ((device >> 3, 0),)) for device in EIGHT]
    units = [Drhd(base=0xFED9_0000 + 0x1000 * number, scopes=[scope]) for number, scope in enumerate(scopes)]
    system = System.from_dmar(Dmar(structures=[*units]), memory, Capabilities())
    for unit in system.units.values():
        start(unit, ROOT)
    return system


def put(memory: FlatMemory, address: int, entry: int, length: int) -> None:
    """Write a table entry."""
    memory.write(address, entry.to_bytes(length, "little"))


def start(unit: RemappingUnit, root: int) -> RemappingUnit:
    """Latch the root table and turn translation on."""
    unit.mmio_write(RTADDR.offset, root, 8)
    unit.mmio_write(GCMD.offset, GCMD.make(SRTP=1), 4)
    unit.mmio_write(GCMD.offset, GCMD.make(TE=1), 4)
    return unit


def addresses(count: int) -> list[int]:
    """Different pages in random order."""
    return [page << 12 for page in random.Random(4).sample(range(SIZE >> 12), count)]


def request(address: int) -> DmaRequest:
    """A write to one page."""
    return DmaRequest(NIC, address, Access.WRITE, 64)


def cold(make_unit: Callable[[], RemappingUnit], count: int) -> Rounds:
    """Translations per second of pages that are not cached."""
    requests = [request(address) for address in addresses(count)]

    def one_round() -> float:
        unit = make_unit()
        translate = unit.translate
        begin = time.perf_counter()
        for each in requests:
            translate(each)
        spent = time.perf_counter() - begin
        assert translate(requests[-1]).host_address == HOST + requests[-1].address
        return count / spent

    return one_round


def cached(make_unit: Callable[[], RemappingUnit], count: int) -> Rounds:
    """Translations per second of pages that are cached."""
    return repeated(make_unit(), [request(address) for address in addresses(HOT_PAGES)], count)


def repeated(unit: RemappingUnit | System, hot: list[DmaRequest], count: int) -> Rounds:
    """Translations per second of requests that are repeated."""
    for each in hot:
        assert unit.translate(each).host_address == HOST + each.address

    def one_round() -> float:
        translate = unit.translate
        begin = time.perf_counter()
        for _ in range(count // HOT_PAGES):
            for each in hot:
                translate(each)
        return count // HOT_PAGES * HOT_PAGES / (time.perf_counter() - begin)

    return one_round


def invalidations(kind: type[RemappingUnit], count: int, *, told: bool = False) -> Rounds:
    """Invalidations of a page per second, by register. `told`: with a listener that does nothing."""
    unit = legacy(kind)()
    unit.translate(request(0))
    if told:
        unit.on_invalidation = lambda _named: None
    where, command = unit.capabilities.iotlb_offset, IOTLB.make(IVT=1, IIRG=Granularity.SELECTIVE, DID=1)

    def one_round() -> float:
        write = unit.mmio_write
        begin = time.perf_counter()
        for _ in range(count):
            write(where, 0x5000, 8)
            write(where + 8, command, 8)
        return count / (time.perf_counter() - begin)

    return one_round


def plain(count: int) -> Rounds:
    """Translations per second of the plain walk, through the tables of legacy mode."""
    memory, top = tables(first_stage=False)
    put(memory, ROOT, RootEntry.make(P=1, CTP=CONTEXTS), 16)
    put(memory, CONTEXTS + 16 * NIC.devfn, ContextEntry.make(P=1, DID=1, AW=2, SSPTPTR=top), 16)
    words = memoryview(memory.read(0, TOP)).cast("Q")
    pages = addresses(count)

    def one_round() -> float:
        begin = time.perf_counter()
        for address in pages:
            host = plain_walk(words, NIC, address, write=True)
        spent = time.perf_counter() - begin
        assert host == HOST + pages[-1]
        return count / spent

    return one_round


def plain_walk(words: "memoryview[int]", source_id: int, address: int, *, write: bool) -> int:
    """Legacy mode by shifts and masks (spec 3.4.2, 3.7): the host address, or the negative of the fault code."""
    at = ROOT + (source_id >> 8) * 16 >> 3
    root = words[at]
    if not root & 1:
        return -0x01
    if root & 0xFFFF_0000_0000_0FFE or words[at + 1]:
        return -0x0A
    at = (root & 0xFFFF_FFFF_F000) + (source_id & 0xFF) * 16 >> 3
    low, high = words[at], words[at + 1]
    if not low & 1:
        return -0x02
    if low & 0xFFFF_0000_0000_0FF0 or high & 0xFFFF_FFFF_FF00_0080:
        return -0x0B
    if low & 0xC or high & 7 != 2:
        return -0x03
    if address >> 48:
        return -0x04
    table, permissions = low & 0xFFFF_FFFF_F000, 3
    for shift in (39, 30, 21, 12):
        entry = words[table + (address >> shift & 0x1FF) * 8 >> 3]
        permissions &= entry
        if not permissions:
            return -0x05 if write else -0x06
        is_page = shift == 12 or (shift <= 30 and entry & 0x80)
        if entry & (0x000F_0000_0000_0800 | (0 if is_page else 0x80)):
            return -0x0C
        if is_page:
            break
        table = entry & 0xFFFF_FFFF_F000
    if not permissions & (2 if write else 1):
        return -0x05 if write else -0x06
    host = (entry & 0xFFFF_FFFF_F000 & -(1 << shift)) | address & (1 << shift) - 1
    return -0x0E if host >> 20 == 0xFEE else host


def mapper(first_stage: bool) -> Rounds:
    """Seconds to map 1 GiB in pages of 4 KiB."""

    def one_round() -> float:
        begin = time.perf_counter()
        tables(first_stage)
        return time.perf_counter() - begin

    return one_round


def filled(make_unit: Callable[[], RemappingUnit], count: int) -> RemappingUnit:
    """A unit with this many pages in its IOTLB."""
    unit = make_unit()
    for address in addresses(count):
        unit.translate(request(address))
    return unit


def saving(unit: RemappingUnit) -> Rounds:
    """Seconds to save a unit."""

    def one_round() -> float:
        begin = time.perf_counter()
        unit.save()
        return time.perf_counter() - begin

    return one_round


def restoring(unit: RemappingUnit) -> Rounds:
    """Seconds to restore a unit."""
    saved = unit.save()

    def one_round() -> float:
        begin = time.perf_counter()
        restored = RemappingUnit.restore(saved, unit.memory)
        spent = time.perf_counter() - begin
        assert restored.save() == saved
        return spent

    return one_round


def measurements(cold_pages: int = COLD, hits: int = CACHED, saved: int = SAVED) -> dict[str, Rounds]:
    """All measurements by name; those with "seconds" in their name are times, the others are rates."""
    second = scalable(PasidTranslationType.SECOND_STAGE)
    first = scalable(PasidTranslationType.FIRST_STAGE)
    unit, audited = filled(legacy(), saved), filled(legacy(audit=True), saved)
    memory, of_eight = eight_devices()
    return {
        "plain walk": plain(cold_pages),
        "legacy, cold": cold(legacy(), cold_pages),
        "legacy, cold, bare": cold(legacy(Bare), cold_pages),
        "legacy, cached": cached(legacy(), hits),
        "legacy, cached, bare": cached(legacy(Bare), hits),
        "eight devices, cached": repeated(one_unit(memory), of_eight, hits),
        "eight devices, cached, eight units": repeated(eight_units(memory), of_eight, hits),
        "legacy, cold, audited": cold(legacy(audit=True), cold_pages),
        "scalable second stage, cold": cold(second, cold_pages),
        "scalable second stage, cached": cached(second, hits),
        "first stage, cold": cold(first, cold_pages),
        "first stage, cached": cached(first, hits),
        "invalidations": invalidations(RemappingUnit, hits // 4),
        "invalidations, bare": invalidations(Bare, hits // 4),
        "invalidations, told": invalidations(RemappingUnit, hits // 4, told=True),
        "seconds to map 1 GiB, second stage": mapper(first_stage=False),
        "seconds to map 1 GiB, first stage": mapper(first_stage=True),
        "seconds to save": saving(unit),
        "seconds to save, audited": saving(audited),
        "seconds to restore": restoring(unit),
        "seconds to restore, audited": restoring(audited),
    }


def measure(rounds: int) -> dict[str, list[float]]:
    """The figures of each measurement. They take turns, so that all run under the same load.

    Every other round is in reverse order, and garbage is collected first, so that the order favours none of them.
    """
    run = measurements()
    found: dict[str, list[float]] = {name: [] for name in run}
    for number in range(rounds):
        for name in run if number % 2 else reversed(run):
            gc.collect()
            found[name].append(run[name]())
    return found


def ratio(found: dict[str, list[float]], name: str, base: str) -> float:
    """The ratio of two measurements: the median of the ratios within each round."""
    return statistics.median(one / other for one, other in zip(found[name], found[base], strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How fast the engine is.")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of each measurement ({ROUNDS})")
    options = parser.parse_args()
    found = measure(max(options.rounds, 1))
    ratios = {
        f"{name} : {base}": ratio(found, name, base)
        for name, base in [
            *((name, "plain walk") for name in found if not name.startswith(("seconds", "invalidations"))),
            ("legacy, cold", "legacy, cold, bare"),
            ("legacy, cached", "legacy, cached, bare"),
            ("invalidations", "invalidations, bare"),
            ("invalidations, told", "invalidations, bare"),
            ("eight devices, cached", "eight devices, cached, eight units"),
        ]
    }
    medians = {name: statistics.median(values) for name, values in found.items()}
    sizes = {f"state{what}": len(filled(legacy(audit=bool(what)), SAVED).save()) for what in ("", ", audited")}
    if options.json:
        print(json.dumps({"medians": medians, "sizes": sizes, "ratios": ratios}, indent=1))
        return
    for name, value in medians.items():
        what = "invalidations" if name.startswith("invalidations") else "translations"
        shown = f"{value:10.3f} s" if "seconds" in name else f"{value / 1000:8.0f} thousand {what} per second"
        print(f"{name:<36}{shown}")
    for name, size in sizes.items():
        print(f"{name:<36}{size / 1000:8.0f} thousand bytes")
    print("ratios:")
    for name, value in ratios.items():
        print(f"  {name:<50}{value:6.2f}")


if __name__ == "__main__":
    main()
