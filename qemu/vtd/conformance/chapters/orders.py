"""Spec 7.1.3: two things are wrong at once, and the first in the order of checks is reported.

Also what is cached beside pages: FPD, and nothing of a request that was blocked.
"""

from collections.abc import Callable

from iommu import Policy
from iommu.structures import ContextEntry, RootEntry, SecondStageEntry
from qemu.vtd.conformance.bench import NOWHERE, P0, P1, Bench
from qemu.vtd.conformance.scenario import Allowed, scenario

R, W = SecondStageEntry.R.mask, SecondStageEntry.W.mask
ADDRESS, BEYOND = 0x5010, 1 << 39 | 0x5010
"""An address of the page that is mapped, and one beyond three levels."""
RESERVED_TYPE = 3
INTERRUPT_PAGE = 0xFEE0_1000

Stimulus = Callable[[Bench], None]


def _blocked(
    id_: str, code: int, title: str, *, address: int = ADDRESS, allowed: int = 0
) -> Callable[[Stimulus], None]:
    """A write of A after the decorated preparation: blocked for this reason, or for the allowed one."""

    def add(prepare: Stimulus) -> None:
        def stimulus(bench: Bench) -> None:
            prepare(bench)
            bench.turn_on()
            bench.write("A", address)

        stimulus.__doc__ = title
        write = f"A write {address:#x} -> blocked"
        right, other = (
            (write, f"fault {each:#04x} A {address & ~0xFFF:#x} write", "FSTS PPF") for each in (code, allowed)
        )
        because = "the permission may be reported at the level that lacks it (doubt D-4)"
        freedom = (Allowed(because, other, Policy(permission_per_level=True)),) if allowed else ()
        scenario(f"order.{id_}", "7.1.3", *right, allowed=freedom)(stimulus)

    return add


# Root and context entry.


@_blocked(
    "root.reserved-before-context", 0x0A, "A reserved bit of the root entry before a context table without memory."
)
def root_reserved(bench: Bench) -> None:
    bench.write_root(0, RootEntry.make(P=1, CTP=NOWHERE) | 1 << 1)


@_blocked("root.absent-before-context", 0x01, "An absent root entry before a context table without memory.")
def root_absent(bench: Bench) -> None:
    bench.write_root(0, RootEntry.make(P=0, CTP=NOWHERE))


@_blocked(
    "context.reserved-before-type", 0x0B, "A reserved bit of the context entry before a reserved translation type."
)
def context_reserved_type(bench: Bench) -> None:
    bench.context("A", bench.new_table(), also=1 << 4 | ContextEntry.TT.put(0, RESERVED_TYPE))


@_blocked(
    "context.reserved-before-width", 0x0B, "A reserved bit of the context entry before a width that is not offered."
)
def context_reserved_width(bench: Bench) -> None:
    bench.context("A", bench.new_table(), levels=5, also=1 << 4)


@_blocked(
    "context.type-before-address",
    0x03,
    "A reserved translation type before an address beyond the width.",
    address=BEYOND,
)
def context_type(bench: Bench) -> None:
    bench.context("A", bench.new_table(), levels=3, also=ContextEntry.TT.put(0, RESERVED_TYPE))


# The second-stage walk.


def _mapped(bench: Bench, page: int = P0) -> int:
    """Map the page of ADDRESS for A; returns the top table."""
    table = bench.new_table()
    bench.map(table, ADDRESS, page)
    bench.context("A", table)
    return table


@_blocked(
    "walk.reserved-before-table", 0x0C, "A reserved bit of an entry before the table without memory it points to."
)
def walk_reserved(bench: Bench) -> None:
    table = _mapped(bench)
    bench.memory.write_u64(bench.entry(table, ADDRESS, 3), NOWHERE | R | W | 1 << 11)


@_blocked(
    "walk.table-before-permission",
    0x07,
    "A table without memory below an entry that lacks W.",
    allowed=0x05,
)
def walk_table(bench: Bench) -> None:
    table = _mapped(bench)
    bench.memory.write_u64(bench.entry(table, ADDRESS, 3), NOWHERE | R)


@_blocked(
    "walk.permission-before-interrupt-range", 0x05, "A missing permission before a page in the interrupt range."
)
def walk_permission(bench: Bench) -> None:
    bench.change(bench.entry(_mapped(bench, INTERRUPT_PAGE), ADDRESS, 1), clear=W)


@_blocked(
    "walk.reserved-before-interrupt-range",
    0x0C,
    "A reserved bit of a page entry before a page in the interrupt range.",
)
def walk_reserved_page(bench: Bench) -> None:
    bench.change(bench.entry(_mapped(bench, INTERRUPT_PAGE), ADDRESS, 1), set_=1 << 11)


# What is cached beside pages.

TO_P0, TO_P1 = "A write 0x5010 -> 0x800010", "A write 0x5010 -> 0x801010"
UNMAPPED = "A write 0x6010 -> blocked"
RECORDED = ("fault 0x05 A 0x6000 write", "FSTS PPF")
EVICTED = "a unit may evict a cached entry at any time (6.2.1)"


def _fpd(bench: Bench, *, invalidated: bool) -> None:
    """A page is used while FPD is set, FPD is cleared, and another page, which is not mapped, is used."""
    table = bench.new_table()
    bench.map(table, ADDRESS, P0)
    bench.context("A", table, fpd=1)
    bench.turn_on()
    bench.write("A", ADDRESS)
    bench.context("A", table)
    if invalidated:
        bench.driver.invalidate_contexts()
    bench.write("A", 0x6010)


@scenario(
    "cache.fpd.stale", "6.2.1", TO_P0, UNMAPPED, "FSTS 0", allowed=(Allowed(EVICTED, (TO_P0, UNMAPPED, *RECORDED)),)
)
def fpd_stale(bench: Bench) -> None:
    """FPD is cached with its context entry: once cleared in memory, it counts until an invalidation."""
    _fpd(bench, invalidated=False)


@scenario("cache.fpd.invalidated", "6.5.1.1", TO_P0, UNMAPPED, *RECORDED)
def fpd_invalidated(bench: Bench) -> None:
    """After an invalidation of the context cache the FPD in memory counts."""
    _fpd(bench, invalidated=True)


@scenario("cache.interrupt-range.not-cached", "6.1", "A write 0x5010 -> blocked", "FSTS 0", TO_P1, "FSTS 0")
def interrupt_range_is_not_cached(bench: Bench) -> None:
    """A page in the interrupt range is not cached: moved elsewhere, it can be used without an invalidation."""
    table = _mapped(bench, INTERRUPT_PAGE)
    bench.turn_on()
    bench.write("A", ADDRESS)
    bench.driver.clear_faults()
    bench.note_faults()
    bench.memory.write_u64(bench.entry(table, ADDRESS, 1), P1 | R | W)
    bench.write("A", ADDRESS)


@scenario("cache.table.unreadable-not-cached", "6.1", "A write 0x5010 -> blocked", "FSTS 0", TO_P1, "FSTS 0")
def unreadable_table_is_not_cached(bench: Bench) -> None:
    """An entry that points where there is no memory is not cached: once it points to a table, that is used."""
    table = _mapped(bench, P1)
    where = bench.entry(table, ADDRESS, 2)
    good = bench.memory.read_u64(where)
    bench.memory.write_u64(where, NOWHERE | R | W)
    bench.turn_on()
    bench.write("A", ADDRESS)
    bench.driver.clear_faults()
    bench.note_faults()
    bench.memory.write_u64(where, good)
    bench.write("A", ADDRESS)


@scenario(
    "cache.interrupt-range.beside-tables",
    "3.14",
    "A write 0xfec00010 -> 0x800010",
    "A write 0xfee01010 -> blocked",
    "FSTS 0",
)
def large_page_around_the_interrupt_range(bench: Bench) -> None:
    """Tables of the pages below 0xfee00000 are in use: a write to 0xfee01010 is still an interrupt message."""
    table = bench.new_table()
    bench.map(table, 0xFEC0_0000, P0)
    bench.map(table, 0xFEE0_1000, P0)
    bench.context("A", table)
    bench.turn_on()
    bench.write("A", 0xFEC0_0010)
    bench.write("A", 0xFEE0_1010)


@scenario("registers.invalidation.while-off", "6.5.1", TO_P0, "performed GLOBAL", "performed GLOBAL", TO_P1, "FSTS 0")
def invalidation_while_off(bench: Bench) -> None:
    """Commands by register work while translation is off: what was cached before is not used afterwards."""
    entry = bench.start()
    bench.write("A", ADDRESS)
    bench.driver.disable()
    bench.memory.write_u64(entry, P1 | R | W)
    bench.note_granularity(bench.driver.invalidate_contexts())
    bench.note_granularity(bench.driver.invalidate_translations())
    bench.driver.enable()
    bench.write("A", ADDRESS)
