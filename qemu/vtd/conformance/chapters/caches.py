"""Spec 6: which cached entries may be stale, and which of them each invalidation must remove.

A unit may evict a cached entry at any time, and may invalidate more than requested (6.2.1, 6.5). Where a scenario
expects a stale entry to be used, the outcome of the new entry is therefore allowed too.
"""

from collections.abc import Callable

from iommu.registers import Granularity
from iommu.structures import SecondStageEntry
from qemu.vtd.conformance.bench import DATA, P0, P1, P2, P3, Bench
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.conformance.setups import SELF_INVALIDATING

R, W = SecondStageEntry.R.mask, SecondStageEntry.W.mask
DOMAIN, SELECTIVE = Granularity.DOMAIN, Granularity.SELECTIVE

EVICTED = "a unit may evict a cached entry at any time (6.2.1)"
COARSER = "a unit may invalidate more than requested (6.5)"

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
    _invalidation_scenario(id_, "6.5.1.2", requested, outcome)(stimulus)


def _invalidation_scenario(
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
)
def page_within_2m(bench: Bench) -> None:
    """A page-selective invalidation inside a 2 MiB page invalidates the whole page."""
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


# The context cache.


def _moved(id_: str, title: str, requested: Granularity | None, outcome: tuple[str, ...], **where: int) -> None:
    """A's context entry is used, changed to another table and domain, and used again after one invalidation, or none.

    The whole IOTLB is invalidated each time, so that only the context cache can be stale.
    """

    def stimulus(bench: Bench) -> None:
        first, second = bench.new_table(), bench.new_table()
        bench.map(first, 0x5000, P0)
        bench.map(second, 0x5000, P1)
        bench.context("A", first, domain=1)
        bench.turn_on()
        bench.write("A", 0x5010)
        bench.context("A", second, domain=2)
        if requested is not None:
            bench.note_granularity(bench.driver.invalidate_contexts(requested, **where))
        bench.driver.invalidate_translations()
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    _invalidation_scenario(id_, "6.5.1.1", requested, outcome)(stimulus)


_moved(
    "cache.context.stale",
    "Without an invalidation the old context entry is still used.",
    None,
    STALE,
)
_moved(
    "cache.context.global",
    "After a global invalidation the new context entry is used.",
    Granularity.GLOBAL,
    FRESH,
)
_moved(
    "cache.context.domain",
    "After an invalidation of the old entry's domain the new entry is used.",
    DOMAIN,
    FRESH,
    domain_id=1,
)
_moved(
    "cache.context.other-domain",
    "An invalidation of another domain leaves the old entry in use.",
    DOMAIN,
    STALE,
    domain_id=3,
)
_moved(
    "cache.context.device",
    "After a device-selective invalidation the new entry is used.",
    SELECTIVE,
    FRESH,
    domain_id=1,
    source_id=0x20,
)
_moved(
    "cache.context.other-device",
    "An invalidation of another device leaves the old entry in use.",
    SELECTIVE,
    STALE,
    domain_id=1,
    source_id=0x28,
)
_moved(
    "cache.context.function-mask-3",
    "FM=3 masks the whole function number: an invalidation of function 7 covers function 0.",
    SELECTIVE,
    FRESH,
    domain_id=1,
    source_id=0x27,
    mask=3,
)
_moved(
    "cache.context.function-mask-2",
    "FM=2 masks bits 2:1 of the function number: an invalidation of function 6 covers function 0.",
    SELECTIVE,
    FRESH,
    domain_id=1,
    source_id=0x26,
    mask=2,
)
_moved(
    "cache.context.function-mask-1",
    "FM=1 masks bit 2 of the function number: an invalidation of function 4 covers function 0.",
    SELECTIVE,
    FRESH,
    domain_id=1,
    source_id=0x24,
    mask=1,
)
_moved(
    "cache.context.function-mask-misses",
    "FM=2 does not mask bit 0: an invalidation of function 1 does not cover function 0.",
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
    """A context entry is cleared, the context cache and the IOTLB are invalidated: the device is blocked."""
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
    allowed=(Allowed(EVICTED, FRESH),),
)
def iotlb_outlives_context_invalidation(bench: Bench) -> None:
    """A context-cache invalidation alone leaves cached translations in use."""
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
    allowed=(Allowed("a unit may evict a cached entry, and one with CAP.ESRTPS must invalidate all", FRESH),),
)
def caches_outlive_srtp(bench: Bench) -> None:
    """Without CAP.ESRTPS, setting a new root table invalidates nothing: cached entries stay in use."""
    new_tables_and_srtp(bench)


@scenario("cache.root.srtp-invalidates", "6.6", *FRESH, setup=SELF_INVALIDATING)
def srtp_invalidates(bench: Bench) -> None:
    """With CAP.ESRTPS, setting the root table invalidates the context cache and the IOTLB."""
    new_tables_and_srtp(bench)


def new_tables_and_srtp(bench: Bench) -> None:
    """A's context entry is used, changed to another table, and used again after SRTP alone."""
    first, second = bench.new_table(), bench.new_table()
    bench.map(first, 0x5000, P0)
    bench.map(second, 0x5000, P1)
    bench.context("A", first)
    bench.turn_on()
    bench.write("A", 0x5010)
    bench.context("A", second)
    bench.driver.set_root_table(bench.root)
    bench.write("A", 0x5010)
