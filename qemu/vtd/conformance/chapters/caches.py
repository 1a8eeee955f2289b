"""Spec 6: which cached translations may be stale, and which of them each invalidation must remove.

A unit may evict a cached entry at any time, and may invalidate more than requested (6.2.1, 6.5). Where a scenario
expects a stale entry to be used, the outcome of the new entry is therefore allowed too.
"""

from collections.abc import Callable

from iommu.registers import Granularity
from qemu.vtd.conformance.bench import DATA, NOWHERE, P0, P1, Bench, R, W
from qemu.vtd.conformance.chapters.context import mapped
from qemu.vtd.conformance.scenario import COARSER, EVICTED, FRACTURED, Allowed, scenario

DOMAIN, SELECTIVE = Granularity.DOMAIN, Granularity.SELECTIVE


TO_P0, TO_P1 = "A write 0x5010 -> 0x800010", "A write 0x5010 -> 0x801010"
STALE, FRESH = (TO_P0, TO_P0, "FSTS 0"), (TO_P0, TO_P1, "FSTS 0")


def with_granularity(granularity: Granularity, lines: tuple[str, ...]) -> tuple[str, ...]:
    """The same lines, with the granularity an invalidation command reported after the first."""
    return lines[0], f"performed {granularity.name}", *lines[1:]


def coarser_outcomes(requested: Granularity, lines: tuple[str, ...]) -> tuple[Allowed, ...]:
    """The other right outcomes of a command: a coarser granularity, after which the new entry is used."""
    coarser = [performed for performed in Granularity if Granularity.NONE < performed <= requested]
    outcomes = [with_granularity(performed, FRESH) for performed in coarser]
    return tuple(Allowed(COARSER, outcome) for outcome in outcomes if outcome != lines)


# The IOTLB.


def _remapped(
    id_: str, title: str, requested: Granularity | None, outcome: tuple[str, ...], *, address: int = 0, **where: int
) -> None:
    """A, in domain 1, uses 0x5000; it is remapped to another page and used again after one invalidation, or none."""

    def stimulus(bench: Bench) -> None:
        entry = bench.start()
        bench.write("A", 0x5010)
        bench.memory.write_u64(entry, P1 | R | W)
        if requested is not None:
            bench.note_granularity(bench.driver.invalidate_translations(requested, address=address, **where))
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    invalidation_scenario(id_, "6.5.1.2", requested, outcome)(stimulus)


def invalidation_scenario(
    id_: str, section: str, requested: Granularity | None, outcome: tuple[str, ...]
) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """A scenario about one invalidation command, or none, with every outcome that is right."""
    if requested is None:
        return scenario(id_, section, *outcome, allowed=(Allowed(EVICTED, FRESH),))
    lines = with_granularity(requested, outcome)
    return scenario(id_, section, *lines, allowed=coarser_outcomes(requested, lines))


_remapped(
    "cache.iotlb.stale",
    "Without an invalidation the old page is still used.",
    None,
    STALE,
)
_remapped(
    "cache.iotlb.global",
    "After a global invalidation the new page is used.",
    Granularity.GLOBAL,
    FRESH,
)
_remapped(
    "cache.iotlb.domain",
    "After a domain-selective invalidation the new page is used.",
    DOMAIN,
    FRESH,
    domain_id=1,
)
_remapped(
    "cache.iotlb.other-domain",
    "An invalidation of another domain leaves the old page in use.",
    DOMAIN,
    STALE,
    domain_id=2,
)
_remapped(
    "cache.iotlb.page",
    "After a page-selective invalidation of the page the new page is used.",
    SELECTIVE,
    FRESH,
    domain_id=1,
    address=0x5000,
)
_remapped(
    "cache.iotlb.other-page",
    "An invalidation of the adjacent page leaves the old page in use.",
    SELECTIVE,
    STALE,
    domain_id=1,
    address=0x6000,
)
_remapped(
    "cache.iotlb.page-of-other-domain",
    "An invalidation of the same page in another domain leaves the old page in use.",
    SELECTIVE,
    STALE,
    domain_id=2,
    address=0x5000,
)
_remapped(
    "cache.iotlb.page-mask",
    "An invalidation with AM=2 at 0x4000 covers 0x4000 to 0x7fff: the new page is used.",
    SELECTIVE,
    FRESH,
    domain_id=1,
    address=0x4000,
    mask=2,
)
_remapped(
    "cache.iotlb.page-mask-short",
    "An invalidation with AM=1 at 0x6000 covers 0x6000 to 0x7fff: the old page stays in use.",
    SELECTIVE,
    STALE,
    domain_id=1,
    address=0x6000,
    mask=1,
)


@scenario(
    "cache.iotlb.mask-too-large",
    "6.5.1.2",
    *(TO_P0, "performed NONE", TO_P0, "FSTS 0"),
    allowed=(Allowed(EVICTED, (TO_P0, "performed NONE", TO_P1, "FSTS 0")),),
)
def mask_too_large(bench: Bench) -> None:
    """An invalidation with AM beyond CAP.MAMV is invalid: nothing is performed, and IAIG says so."""
    where = bench.start()
    bench.write("A", 0x5010)
    bench.memory.write_u64(where, P1 | R | W)
    bench.note_granularity(bench.driver.invalidate_translations(SELECTIVE, domain_id=1, mask=19))
    bench.write("A", 0x5010)


@scenario(
    "cache.iotlb.page-within-2m",
    "6.5.1.2",
    "A write 0x205010 -> 0x805010",
    "A write 0x206010 -> blocked",
    "fault 0x05 A 0x206000 write",
    "FSTS PPF",
    allowed=(Allowed(FRACTURED, ("A write 0x205010 -> 0x805010", "A write 0x206010 -> 0x806010", "FSTS 0")),),
)
def page_within_2m(bench: Bench) -> None:
    """A page-selective invalidation inside a 2 MiB page invalidates the whole page, if it is cached as a whole."""
    table = bench.new_table()
    where = bench.map(table, 0x200000, 0x800000, size=2)
    bench.context("A", table)
    bench.turn_on()
    bench.write("A", 0x205010)
    bench.memory.write_u64(where, 0)
    bench.driver.invalidate_translations(SELECTIVE, domain_id=1, address=0x300000)
    bench.write("A", 0x206010)


@scenario(
    "cache.iotlb.unmapped-is-not-cached",
    "6.1",
    "A write 0x5010 -> blocked",
    "fault 0x05 A 0x5000 write",
    "FSTS PPF",
    "A write 0x5010 -> 0x800010",
    "FSTS 0",
)
def not_present_is_not_cached(bench: Bench) -> None:
    """Without caching mode a page can be mapped without any invalidation."""
    table = bench.new_table()
    bench.context("A", table)
    bench.turn_on()
    bench.write("A", 0x5010)
    bench.note_faults()
    bench.driver.clear_faults()
    bench.map(table, 0x5000, P0)
    bench.write("A", 0x5010)


@scenario(
    "cache.iotlb.write-after-read",
    "7.1.3 LGN.2",
    "A read 0x5010 -> 0x800010",
    "A write 0x5010 -> blocked",
    "fault 0x05 A 0x5000 write",
    "FSTS PPF",
)
def write_after_read(bench: Bench) -> None:
    """A read caches a read-only page; a later write must fault as it would without the cache."""
    bench.start(w=0)
    bench.read("A", 0x5010)
    bench.write("A", 0x5010)


@scenario(
    "cache.iotlb.permission-added",
    "6.1",
    "A read 0x5010 -> 0x800010",
    "A write 0x5010 -> 0x800010",
    "FSTS 0",
)
def permission_added(bench: Bench) -> None:
    """Write permission is added to a page and the page is invalidated: a write succeeds."""
    where = bench.start(w=0)
    bench.read("A", 0x5010)
    bench.change(where, set_=W)
    bench.driver.invalidate_translations(SELECTIVE, domain_id=1, address=0x5000)
    bench.write("A", 0x5010)


@scenario(
    "cache.iotlb.permission-removed",
    "6.5.1.2",
    "A write 0x5010 -> 0x800010",
    "A write 0x5010 -> blocked",
    "fault 0x05 A 0x5000 write",
    "FSTS PPF",
)
def permission_removed(bench: Bench) -> None:
    """Write permission is removed from a page and the page is invalidated: a write faults."""
    where = bench.start()
    bench.write("A", 0x5010)
    bench.change(where, clear=W)
    bench.driver.invalidate_translations(SELECTIVE, domain_id=1, address=0x5000)
    bench.write("A", 0x5010)


@scenario(
    "cache.iotlb.eight-pages",
    "3.7",
    *(f"A write {page - 0x7FB000:#x} -> {page:#x}" for page in DATA),
    *(f"A write {page - 0x7FB000:#x} -> {page:#x}" for page in DATA),
    "FSTS 0",
)
def eight_pages(bench: Bench) -> None:
    """Eight adjacent pages, each accessed twice, are not confused with one another."""
    table = bench.new_table()
    for page in DATA:
        bench.map(table, page - 0x7FB000, page)
    bench.context("A", table)
    bench.turn_on()
    for page in (*DATA, *DATA):
        bench.write("A", page - 0x7FB000)


# What is not cached, whatever is cached around it.


@scenario("cache.interrupt-range.not-cached", "6.1", "A write 0x5010 -> blocked", "FSTS 0", TO_P1, "FSTS 0")
def interrupt_range_is_not_cached(bench: Bench) -> None:
    """A page in the interrupt range is not cached: moved elsewhere, it can be used without an invalidation."""
    table = mapped(bench, 0xFEE0_1000)
    bench.context("A", table)
    bench.turn_on()
    bench.write("A", 0x5010)
    bench.driver.clear_faults()
    bench.note_faults()
    bench.memory.write_u64(bench.entry(table, 0x5010, 1), P1 | R | W)
    bench.write("A", 0x5010)


@scenario("cache.table.unreadable-not-cached", "6.1", "A write 0x5010 -> blocked", "FSTS 0", TO_P1, "FSTS 0")
def unreadable_table_is_not_cached(bench: Bench) -> None:
    """An entry that points where there is no memory is not cached: once it points to a table, that is used."""
    table = mapped(bench, P1)
    bench.context("A", table)
    where = bench.entry(table, 0x5010, 2)
    good = bench.memory.read_u64(where)
    bench.memory.write_u64(where, NOWHERE | R | W)
    bench.turn_on()
    bench.write("A", 0x5010)
    bench.driver.clear_faults()
    bench.note_faults()
    bench.memory.write_u64(where, good)
    bench.write("A", 0x5010)


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
