"""Spec 3.7, 6.1, 6.5: paging entries change while translation is on: tables, permissions, pages of every size.

Where the old entry is expected to be used, the new one is allowed: a unit may evict what it has cached (6.2.1).
"""

from __future__ import annotations

from iommu.registers import Granularity
from iommu.structures import ContextEntry, RootEntry, SecondStageTable
from qemu.vtd.conformance import queue
from qemu.vtd.conformance.bench import P0, P1, P2, Bench, R, W
from qemu.vtd.conformance.scenario import COARSER, EVICTED, FRACTURED, Allowed, scenario

SELECTIVE = Granularity.SELECTIVE


# Paging entries above the page.


def _table_changes(
    name: str,
    title: str,
    level: int,
    *expect: str,
    then: int = 0x5000,
    ih: int | None = None,
    allowed: tuple[str, ...] = (),
) -> None:
    """A uses 0x5000; the entry of one level is made to point to a copy of its table that leads to P1.

    Args:
        then: the page A uses afterwards.
        ih: the hint of a page-selective invalidation of 0x5000; None for no invalidation.
    """

    def stimulus(bench: Bench) -> None:
        old, new = bench.new_table(), bench.new_table()
        for page in (0x5000, 0x6000):
            bench.map(old, page, P0)
            bench.map(new, page, P1)
        bench.context("A", old)
        bench.turn_on()
        bench.write("A", 0x5000)
        entry = bench.memory.read_u64(bench.entry(new, 0x5000, level))
        bench.memory.write_u64(bench.entry(old, 0x5000, level), entry)
        if ih is not None:
            queue.start(bench)
            bench.driver.submit(queue.iotlb(SELECTIVE, DID=1, ADDR=0x5000, IH=ih), queue.wait(SW=1))
        bench.write("A", then)

    stimulus.__doc__ = title
    outcomes = (Allowed(EVICTED, allowed),) if allowed else ()
    scenario(f"cache.tables.{name}", "6.5.2.3", *expect, allowed=outcomes)(stimulus)


for _level in (4, 3, 2):
    _first, _old, _new = "A write 0x5000 -> 0x800000", "A write {} -> 0x800000", "A write {} -> 0x801000"
    _table_changes(
        f"level-{_level}",
        f"An entry of level {_level} points to another table: seen after an invalidation of the page with IH = 0.",
        _level,
        _first,
        _new.format("0x5000"),
        "FSTS 0",
        ih=0,
    )
    _table_changes(
        f"level-{_level}-hint",
        f"An entry of level {_level} points to another table: with IH = 1 the old one may still be used.",
        _level,
        _first,
        _old.format("0x5000"),
        "FSTS 0",
        ih=1,
        allowed=(_first, _new.format("0x5000"), "FSTS 0"),
    )
    _table_changes(
        f"level-{_level}-unused-page",
        f"An entry of level {_level} points to another table: a page not used before may be reached by the old one.",
        _level,
        _first,
        _old.format("0x6000"),
        "FSTS 0",
        then=0x6000,
        allowed=(_first, _new.format("0x6000"), "FSTS 0"),
    )


def _made_present(level: int) -> None:
    before = ("A write 0x5010 -> blocked", "fault 0x05 A 0x5000 write", "FSTS PPF")

    @scenario(f"cache.tables.present-level-{level}", "6.1", *before, "A write 0x5010 -> 0x800010", "FSTS 0")
    def _(bench: Bench) -> None:
        """An entry becomes present after a fault: no invalidation is needed without caching mode."""
        table = bench.new_table()
        bench.map(table, 0x5000, P0)
        where = bench.entry(table, 0x5000, level)
        entry = bench.memory.read_u64(where)
        bench.memory.write_u64(where, 0)
        bench.context("A", table)
        bench.turn_on()
        bench.write("A", 0x5010)
        bench.note_faults()
        bench.driver.clear_faults()
        bench.memory.write_u64(where, entry)
        bench.write("A", 0x5010)


def _lost(level: int, what: str, clear: int) -> None:
    faulted = ("A write 0x5010 -> blocked", "fault 0x05 A 0x5000 write", "FSTS PPF")

    def stimulus(bench: Bench) -> None:
        where = bench.start()
        table = ContextEntry.SSPTPTR.get(
            bench.memory.read_u64(RootEntry.CTP.get(bench.memory.read_u64(bench.root)) + 16 * 0x20)
        )
        bench.write("A", 0x5010)
        bench.change(bench.entry(table, 0x5000, level) if level > 1 else where, clear=clear)
        bench.driver.invalidate_translations(SELECTIVE, domain_id=1, address=0x5000)
        bench.write("A", 0x5010)

    stimulus.__doc__ = f"An entry of level {level} loses {what}: seen after an invalidation of the page."
    name = f"cache.tables.level-{level}-loses-{what.lower().replace(' and ', '-')}"
    scenario(name, "6.5.1.2", "A write 0x5010 -> 0x800010", *faulted)(stimulus)


for _level in (4, 3, 2, 1):
    _made_present(_level)
    if _level > 1:  # the page's own entry: cache.iotlb.permission-removed
        _lost(_level, "W", W)
    _lost(_level, "R and W", R | W)


# Large pages.


def _large(name: str, size: int, title: str, invalidation: dict[str, int], fresh: bool, *addresses: int) -> None:
    """A uses addresses in a large page, whose entry is then cleared; after one invalidation, who is blocked."""

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        base = 1 << (12 + 9 * (size - 1))
        where = bench.map(table, base, {2: 0x80_0000, 3: 0}[size], size=size)
        bench.context("A", table)
        bench.turn_on()
        uses = [base + address for address in addresses]
        before = [bench.lands("A", address) for address in uses]
        bench.memory.write_u64(where, 0)
        bench.driver.invalidate_translations(SELECTIVE, **{"domain_id": 1, **invalidation})
        after = [bench.lands("A", address) for address in uses]
        bench.note(f"before -> {' '.join('blocked' if host is None else f'{host:#x}' for host in before)}")
        bench.note(f"after -> {' '.join('blocked' if host is None else f'{host:#x}' for host in after)}")
        bench.driver.clear_faults()

    host_of = {address: f"{address + (0x80_0000 if size == 2 else 0):#x}" for address in addresses}
    hosts = " ".join(host_of.values())
    shift = 12 + invalidation.get("mask", 0)
    covered = {a for a in addresses if ((1 << 3 + 9 * size) + a) >> shift == invalidation["address"] >> shift}
    pieces = " ".join("blocked" if address in covered else host_of[address] for address in addresses)
    gone = " ".join("blocked" for _ in addresses)
    stimulus.__doc__ = title
    dropped = (f"before -> {hosts}", f"after -> {gone}", "FSTS 0")
    kept = (f"before -> {hosts}", f"after -> {hosts}", "FSTS 0")
    in_pieces = (f"before -> {hosts}", f"after -> {pieces}", "FSTS 0")
    if not fresh:
        allowed: tuple[Allowed, ...] = (Allowed(COARSER, dropped),)
    else:
        allowed = () if in_pieces == dropped else (Allowed(FRACTURED, in_pieces),)
    scenario(f"cache.large.{name}", "6.5.1.2", *(dropped if fresh else kept), allowed=allowed)(stimulus)


_2M, _1G = 1 << 21, 1 << 30
_large(
    "2m-one-page",
    2,
    "A page-selective invalidation of one page in a 2 MiB page drops all of it.",
    {"address": _2M + 0x5000},
    True,
    0x5010,
    0x1000,
    0x7FF0,
)
_large(
    "2m-first-page",
    2,
    "An invalidation of the first page of a 2 MiB page drops all of it.",
    {"address": _2M},
    True,
    0x7010,
)
_large(
    "2m-last-page",
    2,
    "An invalidation of the last page of a 2 MiB page drops all of it.",
    {"address": 2 * _2M - 0x1000},
    True,
    0x1010,
)
_large(
    "2m-half",
    2,
    "An invalidation of the half of a 2 MiB page that was not used drops all of it.",
    {"address": _2M + _2M // 2, "mask": 8},
    True,
    0x1010,
)
_large(
    "2m-exact",
    2,
    "An invalidation with AM = 9 drops a 2 MiB page.",
    {"address": _2M, "mask": 9},
    True,
    0x1010,
    0x7010,
)
_large(
    "2m-covered",
    2,
    "An invalidation with AM = 10 drops a 2 MiB page that is half of its range.",
    {"address": 0, "mask": 10},
    True,
    0x1010,
)
_large(
    "2m-beside",
    2,
    "An invalidation with AM = 10 of the next 4 MiB keeps a 2 MiB page.",
    {"address": 2 * _2M, "mask": 10},
    False,
    0x1010,
)
_large(
    "2m-page-below",
    2,
    "An invalidation of the page below a 2 MiB page keeps it.",
    {"address": _2M - 0x1000},
    False,
    0x1010,
)
_large(
    "2m-page-above",
    2,
    "An invalidation of the page above a 2 MiB page keeps it.",
    {"address": 2 * _2M},
    False,
    0x1010,
)
_large(
    "2m-other-domain",
    2,
    "An invalidation of a 2 MiB page in another domain keeps it.",
    {"address": _2M, "mask": 9, "domain_id": 2},
    False,
    0x1010,
)
_large(
    "1g-one-page",
    3,
    "A page-selective invalidation of one page in a 1 GiB page drops all of it.",
    {"address": _1G + 0x1234_5000},
    True,
    0x80_0010,
    0x80_7010,
)
_large(
    "1g-last-page",
    3,
    "An invalidation of the last page of a 1 GiB page drops all of it.",
    {"address": 2 * _1G - 0x1000},
    True,
    0x80_1010,
)
_large(
    "1g-2m",
    3,
    "An invalidation with AM = 9 in a 1 GiB page drops all of it.",
    {"address": _1G + 8 * _2M, "mask": 9},
    True,
    0x80_1010,
)
_large(
    "1g-exact", 3, "An invalidation with AM = 18 drops a 1 GiB page.", {"address": _1G, "mask": 18}, True, 0x80_1010
)
_large(
    "1g-page-below",
    3,
    "An invalidation of the page below a 1 GiB page keeps it.",
    {"address": _1G - 0x1000},
    False,
    0x80_1010,
)
_large(
    "1g-page-above",
    3,
    "An invalidation of the page above a 1 GiB page keeps it.",
    {"address": 2 * _1G},
    False,
    0x80_1010,
)


@scenario(
    "cache.large.split",
    "6.5.1.2",
    "A write 0x201010 -> 0x801010",
    "A write 0x201010 -> 0x800010",
    "A write 0x202010 -> 0x802010",
    "FSTS 0",
)
def split(bench: Bench) -> None:
    """A 2 MiB page is replaced by a table of 4 KiB pages: seen after an invalidation with AM = 9."""
    table = bench.new_table()
    where = bench.map(table, _2M, 0x80_0000, size=2)
    bench.context("A", table)
    bench.turn_on()
    bench.write("A", 0x20_1010)
    pages = bench.new_table()
    bench.memory.write_u64(pages + 8, P0 | R | W)
    bench.memory.write_u64(pages + 16, P2 | R | W)
    bench.memory.write_u64(where, SecondStageTable.make(R=1, W=1, ADDR=pages))
    bench.driver.invalidate_translations(SELECTIVE, domain_id=1, address=_2M, mask=9)
    bench.write("A", 0x20_1010)
    bench.write("A", 0x20_2010)


@scenario(
    "cache.large.joined",
    "6.5.1.2",
    "A write 0x201010 -> 0x800010",
    "A write 0x202010 -> 0x802010",
    "A write 0x201010 -> 0x801010",
    "A write 0x205010 -> 0x805010",
    "FSTS 0",
)
def joined(bench: Bench) -> None:
    """A table of 4 KiB pages is replaced by a 2 MiB page: seen after an invalidation with AM = 9."""
    table = bench.new_table()
    bench.map(table, 0x20_1000, P0)
    bench.map(table, 0x20_2000, P2)
    bench.context("A", table)
    bench.turn_on()
    bench.write("A", 0x20_1010)
    bench.write("A", 0x20_2010)
    bench.memory.write_u64(bench.entry(table, _2M, 2), 0x80_0000 | 1 << 7 | R | W)
    bench.driver.invalidate_translations(SELECTIVE, domain_id=1, address=_2M, mask=9)
    bench.write("A", 0x20_1010)
    bench.write("A", 0x20_5010)


# Permissions of cached pages.


@scenario(
    "cache.iotlb.read-after-write",
    "7.1.3 LGN.3",
    "A write 0x5010 -> 0x800010",
    "A read 0x5010 -> blocked",
    "fault 0x06 A 0x5000 read",
    "FSTS PPF",
)
def read_after_write(bench: Bench) -> None:
    """A write caches a page without R; a later read must fault as it would without the cache."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0, r=0)
    bench.context("A", table)
    bench.turn_on()
    bench.write("A", 0x5010)
    bench.read("A", 0x5010)


@scenario(
    "cache.iotlb.other-level-permission",
    "3.7.1",
    "A read 0x5010 -> 0x800010",
    "A write 0x5010 -> blocked",
    "fault 0x05 A 0x5000 write",
    "FSTS PPF",
)
def other_level_permission(bench: Bench) -> None:
    """A read caches a page whose W is missing two levels above; a later write must fault."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.change(bench.entry(table, 0x5000, 3), clear=W)
    bench.context("A", table)
    bench.turn_on()
    bench.read("A", 0x5010)
    bench.write("A", 0x5010)
