"""Chapter 6: what may be stale, and what each invalidation must make fresh.

A unit may forget at any time, and may invalidate more than it was asked to (6.2.1, 6.5): where a scenario looks at
something stale, the fresh outcome is right too.
"""

from collections.abc import Callable

from iommu.registers import Granularity
from iommu.structures import SecondStageEntry
from qemu.vtd.conformance.bench import DATA, P0, P1, P2, P3, Bench
from qemu.vtd.conformance.scenario import SELF_INVALIDATING, Allowed, scenario

R, W = SecondStageEntry.R.mask, SecondStageEntry.W.mask
DOMAIN, SELECTIVE = Granularity.DOMAIN, Granularity.SELECTIVE

FORGOT = "a unit may drop a cached entry at any time (6.2.1)"
COARSER = "a unit may invalidate more than it was asked to (6.5)"

TO_P0, TO_P1 = "A write 0x5010 -> 0x800010", "A write 0x5010 -> 0x801010"
STALE, FRESH = (TO_P0, TO_P0, "FSTS 0"), (TO_P0, TO_P1, "FSTS 0")


def answered(granularity: Granularity, lines: tuple[str, ...]) -> tuple[str, ...]:
    """The same lines with what an invalidation command answered in between."""
    return lines[0], f"performed {granularity.name}", *lines[1:]


def freedom(asked: Granularity, lines: tuple[str, ...]) -> tuple[Allowed, ...]:
    """What else is right after a command that was performed as asked: any coarser one, and so a fresh entry."""
    coarser = [performed for performed in Granularity if Granularity.NONE < performed <= asked]
    outcomes = [answered(performed, FRESH) for performed in coarser]
    return tuple(Allowed(COARSER, outcome) for outcome in outcomes if outcome != lines)


# The IOTLB.


def _remapped(
    id_: str, title: str, asked: Granularity | None, outcome: tuple[str, ...], *, address: int = 0, **where: int
) -> None:
    """0x5000 of A, in domain 1, is used, moved to another page, and used again after one invalidation."""

    def stimulus(bench: Bench) -> None:
        entry = bench.start()
        bench.write("A", 0x5010)
        bench.memory.write_u64(entry, P1 | R | W)
        if asked is not None:
            bench.note_granularity(bench.driver.invalidate_translations(asked, address=address, **where))
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    _judge(id_, "6.5.1.2", asked, outcome)(stimulus)


def _judge(
    id_: str, section: str, asked: Granularity | None, outcome: tuple[str, ...]
) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """A scenario about one command, or about none, with all the outcomes that are right."""
    if asked is None:
        return scenario(id_, section, *outcome, allowed=(Allowed(FORGOT, FRESH),))
    lines = answered(asked, outcome)
    return scenario(id_, section, *lines, allowed=freedom(asked, lines))


_remapped(
    "cache.iotlb.stale",
    "Without an invalidation the old page is still in use.",
    None,
    STALE,
)
_remapped(
    "cache.iotlb.global",
    "A global invalidation makes the new page visible.",
    Granularity.GLOBAL,
    FRESH,
)
_remapped(
    "cache.iotlb.domain",
    "So does one of the domain.",
    DOMAIN,
    FRESH,
    domain_id=1,
)
_remapped(
    "cache.iotlb.other-domain",
    "One of another domain does not.",
    DOMAIN,
    STALE,
    domain_id=2,
)
_remapped(
    "cache.iotlb.page",
    "One of the page does.",
    SELECTIVE,
    FRESH,
    domain_id=1,
    address=0x5000,
)
_remapped(
    "cache.iotlb.other-page",
    "One of the page beside it does not.",
    SELECTIVE,
    STALE,
    domain_id=1,
    address=0x6000,
)
_remapped(
    "cache.iotlb.page-of-other-domain",
    "One of the page in another domain does not.",
    SELECTIVE,
    STALE,
    domain_id=2,
    address=0x5000,
)
_remapped(
    "cache.iotlb.page-mask",
    "One of the four pages around it does: AM=2 at 0x4000 covers 0x4000 to 0x7fff.",
    SELECTIVE,
    FRESH,
    domain_id=1,
    address=0x4000,
    mask=2,
)
_remapped(
    "cache.iotlb.page-mask-short",
    "One of two pages that end before it does not: AM=1 at 0x6000.",
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
    allowed=(Allowed(FORGOT, (TO_P0, "performed NONE", TO_P1, "FSTS 0")),),
)
def mask_too_large(bench: Bench) -> None:
    """AM beyond CAP.MAMV is no request: the unit performs nothing and says so."""
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
)
def page_within_2m(bench: Bench) -> None:
    """A page-selective invalidation inside a 2 MiB page drops the whole of it."""
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
    """A read-only page is read, and so cached; then a write faults as it would have without the cache."""
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
    """Adding a permission, with the invalidation it takes."""
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
    """Removing a permission, with the invalidation it takes."""
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
    """Eight neighbouring pages, each hit twice, stay apart."""
    table = bench.new_table()
    for page in DATA:
        bench.map(table, page - 0x7FB000, page)
    bench.context("A", table)
    bench.turn_on()
    for page in (*DATA, *DATA):
        bench.write("A", page - 0x7FB000)


# The context cache.


def _moved(id_: str, title: str, asked: Granularity | None, outcome: tuple[str, ...], **where: int) -> None:
    """A's context entry is used, pointed at another table and domain, and used again after one invalidation.

    The IOTLB is invalidated as a whole each time, so that only the context cache can be stale.
    """

    def stimulus(bench: Bench) -> None:
        first, second = bench.new_table(), bench.new_table()
        bench.map(first, 0x5000, P0)
        bench.map(second, 0x5000, P1)
        bench.context("A", first, domain=1)
        bench.turn_on()
        bench.write("A", 0x5010)
        bench.context("A", second, domain=2)
        if asked is not None:
            bench.note_granularity(bench.driver.invalidate_contexts(asked, **where))
        bench.driver.invalidate_translations()
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    _judge(id_, "6.5.1.1", asked, outcome)(stimulus)


_moved(
    "cache.context.stale",
    "Without an invalidation the old context entry is still in use.",
    None,
    STALE,
)
_moved(
    "cache.context.global",
    "A global invalidation makes the new entry visible.",
    Granularity.GLOBAL,
    FRESH,
)
_moved(
    "cache.context.domain",
    "So does one of the domain the old entry named.",
    DOMAIN,
    FRESH,
    domain_id=1,
)
_moved(
    "cache.context.other-domain",
    "One of another domain does not.",
    DOMAIN,
    STALE,
    domain_id=3,
)
_moved(
    "cache.context.device",
    "One of the device does.",
    SELECTIVE,
    FRESH,
    domain_id=1,
    source_id=0x20,
)
_moved(
    "cache.context.other-device",
    "One of another device does not.",
    SELECTIVE,
    STALE,
    domain_id=1,
    source_id=0x28,
)
_moved(
    "cache.context.function-mask-3",
    "One of a neighbouring function, with all function bits masked, does.",
    SELECTIVE,
    FRESH,
    domain_id=1,
    source_id=0x27,
    mask=3,
)
_moved(
    "cache.context.function-mask-2",
    "Function 6 with bits 2:1 masked is function 0 as well.",
    SELECTIVE,
    FRESH,
    domain_id=1,
    source_id=0x26,
    mask=2,
)
_moved(
    "cache.context.function-mask-1",
    "Function 4 with bit 2 masked is function 0 as well.",
    SELECTIVE,
    FRESH,
    domain_id=1,
    source_id=0x24,
    mask=1,
)
_moved(
    "cache.context.function-mask-misses",
    "Function 1 with bits 2:1 masked is not function 0.",
    SELECTIVE,
    STALE,
    domain_id=1,
    source_id=0x21,
    mask=2,
)


@scenario(
    "cache.context.two-functions-one-command",
    "6.5.1.1",
    "B write 0x5010 -> 0x800010",
    "C write 0x5010 -> 0x801010",
    "B write 0x5010 -> 0x802010",
    "C write 0x5010 -> 0x803010",
    "FSTS 0",
)
def two_functions_one_command(bench: Bench) -> None:
    """One device-selective command with a function mask covers two functions."""
    tables = [bench.new_table() for _ in range(4)]
    for table, page in zip(tables, (P0, P1, P2, P3), strict=True):
        bench.map(table, 0x5000, page)
    bench.context("B", tables[0], domain=1)
    bench.context("C", tables[1], domain=2)
    bench.turn_on()
    bench.write("B", 0x5010)
    bench.write("C", 0x5010)
    bench.context("B", tables[2], domain=1)
    bench.context("C", tables[3], domain=2)
    bench.driver.invalidate_contexts(SELECTIVE, domain_id=1, source_id=0x28, mask=1 + 2)
    bench.driver.invalidate_translations()
    bench.write("B", 0x5010)
    bench.write("C", 0x5010)


@scenario(
    "cache.context.not-present-is-not-cached",
    "6.1",
    "A write 0x5010 -> blocked",
    "fault 0x02 A 0x5000 write",
    "FSTS PPF",
    "A write 0x5010 -> 0x800010",
    "FSTS 0",
)
def context_not_present_is_not_cached(bench: Bench) -> None:
    """Without caching mode a context entry can be made present without any invalidation."""
    bench.write_context("A", 0)
    bench.turn_on()
    bench.write("A", 0x5010)
    bench.note_faults()
    bench.driver.clear_faults()
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.context("A", table)
    bench.write("A", 0x5010)


@scenario(
    "cache.context.removed",
    "6.5.1.1",
    TO_P0,
    "A write 0x5010 -> blocked",
    "fault 0x02 A 0x5000 write",
    "FSTS PPF",
)
def context_removed(bench: Bench) -> None:
    """A context entry is cleared, with both invalidations that takes: the device is out."""
    bench.start()
    bench.write("A", 0x5010)
    bench.write_context("A", 0)
    bench.driver.invalidate_contexts(SELECTIVE, domain_id=1, source_id=0x20)
    bench.driver.invalidate_translations(DOMAIN, domain_id=1)
    bench.write("A", 0x5010)


@scenario(
    "cache.iotlb.outlives-context-invalidation",
    "6.5.1.1",
    TO_P0,
    TO_P0,
    "FSTS 0",
    allowed=(Allowed(FORGOT, FRESH),),
)
def iotlb_outlives_context_invalidation(bench: Bench) -> None:
    """A context invalidation alone leaves the translations made through the old entry in use."""
    where = bench.start()
    bench.write("A", 0x5010)
    bench.memory.write_u64(where, P1 | R | W)
    bench.driver.invalidate_contexts(SELECTIVE, domain_id=1, source_id=0x20)
    bench.write("A", 0x5010)


@scenario(
    "cache.root.outlives-srtp",
    "6.6",
    TO_P0,
    TO_P0,
    "FSTS 0",
    allowed=(Allowed("a unit may forget, and one with CAP.ESRTPS must", FRESH),),
)
def caches_outlive_srtp(bench: Bench) -> None:
    """Setting a new root table without ESRTPS invalidates nothing: what is cached stays in use."""
    new_tables_and_srtp(bench)


@scenario("cache.root.srtp-invalidates", "6.6", *FRESH, setup=SELF_INVALIDATING)
def srtp_invalidates(bench: Bench) -> None:
    """With CAP.ESRTPS, setting the root table invalidates both caches by itself."""
    new_tables_and_srtp(bench)


def new_tables_and_srtp(bench: Bench) -> None:
    """A's context entry is used, pointed at another table, and used again after SRTP alone."""
    first, second = bench.new_table(), bench.new_table()
    bench.map(first, 0x5000, P0)
    bench.map(second, 0x5000, P1)
    bench.context("A", first)
    bench.turn_on()
    bench.write("A", 0x5010)
    bench.context("A", second)
    bench.driver.set_root_table(bench.root)
    bench.write("A", 0x5010)
