"""Spec 6: the context cache: which entries may be stale, and which of them each invalidation must remove.

Where a stale entry is expected to be used, the fresh one is allowed: a unit may evict what it has cached (6.2.1).
"""

from iommu.registers import Granularity
from qemu.vtd.conformance.bench import NOWHERE, P0, P1, P2, P3, Bench, R, W
from qemu.vtd.conformance.chapters.caches import DOMAIN, FRESH, SELECTIVE, STALE, TO_P0, invalidation_scenario
from qemu.vtd.conformance.scenario import EVICTED, Allowed, scenario
from qemu.vtd.conformance.setups import SELF_INVALIDATING


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
    invalidation_scenario(id_, "6.5.1.1", requested, outcome)(stimulus)


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
    "cache.context.unreadable-top",
    "6.2.2, 7.1.3 LCT.4",
    "A write 0x5010 -> blocked",
    "fault 0x03 A 0x5000 write",
    TO_P0,
    "FSTS 0",
)
def unreadable_top(bench: Bench) -> None:
    """A context entry whose top table cannot be read is not cached: once corrected it is used at once."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.context("A", NOWHERE)
    bench.turn_on()
    bench.write("A", 0x5010)
    bench.take_faults()
    bench.context("A", table)
    bench.write("A", 0x5010)


@scenario(
    "cache.iotlb.outlives-context-entry",
    "6.5.1.1",
    TO_P0,
    "A write 0x5010 -> blocked",
    "fault 0x02 A 0x5000 write",
    "FSTS PPF",
)
def no_context_no_iotlb(bench: Bench) -> None:
    """A context entry is cleared and the context cache invalidated: cached translations are of no use any more."""
    bench.start()
    bench.write("A", 0x5010)
    bench.write_context("A", 0)
    bench.driver.invalidate_contexts(SELECTIVE, domain_id=1, source_id=0x20)
    bench.write("A", 0x5010)


@scenario(
    "cache.iotlb.outlives-root-entry",
    "6.5.1.1",
    TO_P0,
    "A write 0x5010 -> blocked",
    "fault 0x01 A 0x5000 write",
    "FSTS PPF",
)
def no_root_no_iotlb(bench: Bench) -> None:
    """A root entry is cleared and the context cache invalidated: cached translations are of no use any more."""
    bench.start()
    bench.write("A", 0x5010)
    bench.write_root(0, 0)
    bench.driver.invalidate_contexts()
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


# FPD is cached with its entry.

UNMAPPED = "A write 0x6010 -> blocked"
RECORDED = ("fault 0x05 A 0x6000 write", "FSTS PPF")


def _fpd(bench: Bench, *, invalidated: bool) -> None:
    """A page is used while FPD is set, FPD is cleared, and another page, which is not mapped, is used."""
    table = bench.new_table()
    bench.map(table, 0x5010, P0)
    bench.context("A", table, fpd=1)
    bench.turn_on()
    bench.write("A", 0x5010)
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
