"""Spec 6: cached root, context, PASID directory and PASID-table entries: when software must invalidate them.

As in scalable_caches.py, the outcome of the new entry is allowed wherever a stale one may be used.
"""

from collections.abc import Callable

from iommu.structures import PasidDirectoryEntry, PasidGranularity
from qemu.vtd.conformance.bench import NOWHERE, P0, P1, P2, P3, Bench
from qemu.vtd.conformance.chapters.scalable_caches import (
    COARSER,
    DOMAIN,
    EVICTED,
    SELECTIVE,
    Descriptors,
    add,
    contexts,
    iotlb,
    pasid_iotlb,
    pasids,
    submit,
    write_lines,
)
from qemu.vtd.conformance.scalable_bench import PASS_THROUGH, SECOND
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import SECOND_STAGE, SECOND_STAGE_SELF_INVALIDATING, Setup

# The PASID cache (6.2.3, 6.5.2.2): the entry is changed to another table, in another domain.


def _entry_changed(name: str, title: str, descriptors: Descriptors, *, fresh: bool) -> None:
    """A uses 0x5000; then its PASID-table entry names other tables and domain 2; descriptors; A uses 0x6000."""

    def stimulus(bench: Bench) -> None:
        old, new = bench.new_table(), bench.new_table()
        for table, first, second in ((old, P0, P1), (new, P2, P3)):
            bench.map(table, 0x5000, first)
            bench.map(table, 0x6000, second)
        bench.scalable.entry("A", SECOND, old)
        bench.scalable.turn_on()
        bench.write("A", 0x5010)
        bench.scalable.entry("A", SECOND, new, domain=2)
        submit(bench, descriptors)
        bench.write("A", 0x6010)

    stale, changed = write_lines((0x5000, P0), (0x6000, P1)), write_lines((0x5000, P0), (0x6000, P3))
    others = () if fresh else ((COARSER if descriptors else EVICTED, changed),)
    section = "6.5.2.2"
    add(f"scalable.cache.entry.{name}", section, title, stimulus, changed if fresh else stale, others)


_PASID, _OF_DOMAIN = PasidGranularity.PASID, PasidGranularity.DOMAIN
_entry_changed("stale", "Without an invalidation the old entry may still be used.", (), fresh=False)
_entry_changed("global", "A global PASID-cache invalidation.", (pasids(),), fresh=True)
_entry_changed("domain", "A PASID-cache invalidation of the old domain.", (pasids(_OF_DOMAIN, domain=1),), fresh=True)
_entry_changed(
    "new-domain",
    "A PASID-cache invalidation of the new domain: the cached entry belongs to the old one.",
    (pasids(_OF_DOMAIN, domain=2),),
    fresh=False,
)
_entry_changed(
    "pasid", "A PASID-cache invalidation of the PASID in the old domain.", (pasids(_PASID, domain=1),), fresh=True
)
_entry_changed(
    "other-pasid", "A PASID-cache invalidation of another PASID.", (pasids(_PASID, domain=1, pasid=1),), fresh=False
)
_entry_changed(
    "pasid-new-domain",
    "A PASID-cache invalidation of the PASID in the new domain.",
    (pasids(_PASID, domain=2),),
    fresh=False,
)
_entry_changed("only-context-cache", "A context-cache invalidation alone.", (contexts(),), fresh=False)
_entry_changed("only-iotlb", "An IOTLB invalidation alone.", (iotlb(),), fresh=False)


def _new_tables(name: str, section: str, title: str, domain: int, descriptors: Descriptors) -> None:
    """A uses 0x5000; then its PASID-table entry names other tables; descriptors; A uses 0x5000 again."""

    def stimulus(bench: Bench) -> None:
        old, new = bench.new_table(), bench.new_table()
        bench.map(old, 0x5000, P0)
        bench.map(new, 0x5000, P2)
        bench.scalable.entry("A", SECOND, old)
        bench.scalable.turn_on()
        bench.write("A", 0x5010)
        bench.scalable.entry("A", SECOND, new, domain=domain)
        submit(bench, descriptors)
        bench.write("A", 0x5010)

    add(f"scalable.cache.entry.{name}", section, title, stimulus, write_lines((0x5000, P0), (0x5000, P2)))


_new_tables(
    "new-tables",
    "6.5.3.3",
    "The entry names other tables in the same domain: PASID-cache and domain-selective IOTLB invalidations.",
    1,
    (pasids(_PASID, domain=1), iotlb(DOMAIN, domain=1)),
)
_new_tables(
    "new-domain-same-page",
    "6.2.4",
    "The entry names other tables in a domain where nothing is cached: a PASID-cache invalidation is enough.",
    2,
    (pasids(_PASID, domain=1),),
)


def _start(bench: Bench) -> int:
    """A's second stage maps 0x5000 to P0, and A has used it. Returns the address of its PASID-table entry."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    where = bench.scalable.entry("A", SECOND, table)
    bench.scalable.turn_on()
    bench.write("A", 0x5010)
    return where


EVERYTHING_OF_A: Descriptors = (
    contexts(SELECTIVE, device="A"),
    pasids(_OF_DOMAIN, domain=1),
    iotlb(DOMAIN, domain=1),
)
"""What has to follow a change of A's context entry (6.5.3.3)."""


def _cleared(name: str, title: str, code: int, damage: Callable[[Bench], None], descriptors: Descriptors) -> None:
    def stimulus(bench: Bench) -> None:
        _start(bench)
        damage(bench)
        submit(bench, descriptors)
        bench.write("A", 0x5010)

    lines = (
        "A write 0x5010 -> 0x800010",
        "A write 0x5010 -> blocked",
        f"fault {code:#04x} A 0x5000 write",
        "FSTS PPF",
    )
    stimulus.__doc__ = title
    scenario(f"scalable.cache.{name}", "6.5.3.3", *lines, setup=SECOND_STAGE)(stimulus)


_cleared(
    "entry.cleared",
    "P of the PASID-table entry is cleared, and all invalidations follow.",
    0x59,
    lambda bench: bench.change(bench.scalable.entry_at("A"), clear=1),
    (pasids(_PASID, domain=1), iotlb(DOMAIN, domain=1)),
)
_cleared(
    "directory.cleared",
    "P of the PASID directory entry is cleared, and all invalidations follow.",
    0x51,
    lambda bench: bench.change(bench.scalable.directory_at("A"), clear=1),
    (pasids(_OF_DOMAIN, domain=1), iotlb(DOMAIN, domain=1)),
)
_cleared(
    "context.cleared",
    "P of the context entry is cleared, and all invalidations follow.",
    0x41,
    lambda bench: bench.change(bench.scalable.context_at("A"), clear=1),
    EVERYTHING_OF_A,
)
_cleared(
    "root.cleared",
    "P of the root entry is cleared, and everything is invalidated.",
    0x39,
    lambda bench: bench.change(bench.scalable.root_at("A"), clear=1),
    (contexts(), pasids(), iotlb()),
)


@scenario(
    "scalable.cache.entry.cleared-with-fpd",
    "6.5.3.3",
    "A write 0x5010 -> 0x800010",
    "A write 0x5010 -> blocked",
    "FSTS 0",
    setup=SECOND_STAGE,
)
def entry_cleared_with_fpd(bench: Bench) -> None:
    """P of the PASID-table entry is cleared: FPD of the context entry suppresses only the fault."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    where = bench.scalable.entry("A", SECOND, table)
    bench.scalable.context("A", fpd=1)
    bench.scalable.turn_on()
    bench.write("A", 0x5010)
    bench.change(where, clear=1)
    submit(bench, (pasids(_PASID, domain=1), iotlb(DOMAIN, domain=1)))
    bench.write("A", 0x5010)


# What was not present is not cached without caching mode (6.1).


def _made_present(name: str, code: int, place: Callable[[Bench], int]) -> None:
    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, 0x5000, P0)
        bench.scalable.entry("A", SECOND, table)
        where = bench.entry(table, 0x5000, 1) if name == "page" else place(bench)
        entry = bench.memory.read_u64(where)
        bench.memory.write_u64(where, 0 if name == "page" else entry & ~1)
        bench.scalable.turn_on()
        bench.write("A", 0x5010)
        bench.note_faults()
        bench.driver.clear_faults()
        bench.memory.write_u64(where, entry)
        bench.write("A", 0x5010)

    lines = (
        "A write 0x5010 -> blocked",
        f"fault {code:#04x} A 0x5000 write",
        "FSTS PPF",
        "A write 0x5010 -> 0x800010",
    )
    stimulus.__doc__ = f"A {name} entry that becomes present is used without an invalidation."
    scenario(f"scalable.cache.present.{name}", "6.1", *lines, "FSTS 0", setup=SECOND_STAGE)(stimulus)


_made_present("root", 0x39, lambda bench: bench.scalable.root_at("A"))
_made_present("context", 0x41, lambda bench: bench.scalable.context_at("A"))
_made_present("directory", 0x51, lambda bench: bench.scalable.directory_at("A"))
_made_present("pasid", 0x59, lambda bench: bench.scalable.entry_at("A"))
_made_present("page", 0x79, lambda _: 0)


# The context cache (6.2.2, 6.5.2.1): the context entry is changed to another directory.


def _context_changed(name: str, title: str, descriptors: Descriptors, *, fresh: bool) -> None:
    """A uses 0x5000; its context entry then names another directory, with other tables; A uses 0x6000."""

    def stimulus(bench: Bench) -> None:
        old, new = bench.new_table(), bench.new_table()
        for table, first, second in ((old, P0, P1), (new, P2, P3)):
            bench.map(table, 0x5000, first)
            bench.map(table, 0x6000, second)
        bench.scalable.entry("A", SECOND, old)
        bench.scalable.turn_on()
        bench.write("A", 0x5010)
        bench.memory.write_u64(bench.scalable.context_at("A"), 0)
        bench.scalable.entry("A", SECOND, new, domain=2)
        submit(bench, descriptors)
        bench.write("A", 0x6010)

    stale, changed = write_lines((0x5000, P0), (0x6000, P1)), write_lines((0x5000, P0), (0x6000, P3))
    others = () if fresh else ((COARSER if descriptors else EVICTED, changed),)
    add(f"scalable.cache.context.{name}", "6.5.2.1", title, stimulus, changed if fresh else stale, others)


_context_changed("stale", "Without an invalidation the old context entry may still be used.", (), fresh=False)
_context_changed("global", "Global context-cache and PASID-cache invalidations.", (contexts(), pasids()), fresh=True)
_context_changed(
    "device",
    "The invalidations that have to follow a change of one device's context entry.",
    EVERYTHING_OF_A,
    fresh=True,
)
_context_changed(
    "domain",
    "Context entries have no domain in scalable mode: a domain-selective invalidation removes all of them.",
    (contexts(DOMAIN, domain=7), pasids()),
    fresh=True,
)
_context_changed(
    "other-device",
    "Invalidations of the context of another device.",
    (contexts(SELECTIVE, device="B"), pasids()),
    fresh=False,
)
_context_changed("only-pasid-cache", "A PASID-cache invalidation alone.", (pasids(),), fresh=False)


# Pass-through and stages (6.5.3.3): the type of the entry is changed.


_PASID_GONE: Descriptors = (pasids(_PASID, domain=1), pasid_iotlb(), iotlb(DOMAIN, domain=1))
"""What has to follow a change of a PASID-table entry (6.5.3.3)."""


def _type_changed(
    name: str,
    title: str,
    old: int,
    new: int | None,
    *expect: str,
    descriptors: Descriptors = _PASID_GONE,
) -> None:
    """A uses P0 by an entry of one type; the entry then has another, or P is cleared; A uses P0 again."""

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, P0, P1)
        where = bench.scalable.entry("A", old, table if old == SECOND else 0)
        bench.scalable.turn_on()
        bench.write("A", P0 + 0x10)
        if new is None:
            bench.change(where, clear=1)
        else:
            bench.scalable.entry("A", new, table if new == SECOND else 0)
        submit(bench, descriptors)
        bench.write("A", P0 + 0x10)

    stimulus.__doc__ = title
    scenario(f"scalable.cache.type.{name}", "6.5.3.3", *expect, setup=SECOND_STAGE)(stimulus)


_THROUGH, _TRANSLATED = "A write 0x800010 -> 0x800010", "A write 0x800010 -> 0x801010"
_BLOCKED = ("A write 0x800010 -> blocked", "fault 0x59 A 0x800000 write", "FSTS PPF")
_type_changed(
    "from-pass-through",
    "From pass-through to a second stage, with the invalidations of the PASID.",
    PASS_THROUGH,
    SECOND,
    *(_THROUGH, _TRANSLATED, "FSTS 0"),
)
_type_changed(
    "to-pass-through",
    "From a second stage to pass-through, with the invalidations of the PASID.",
    SECOND,
    PASS_THROUGH,
    *(_TRANSLATED, _THROUGH, "FSTS 0"),
)
_type_changed(
    "pass-through-cleared",
    "P of an entry for pass-through is cleared, with the invalidations of the PASID.",
    PASS_THROUGH,
    None,
    *(_THROUGH, *_BLOCKED),
)
_type_changed(
    "pass-through-cleared-with-context",
    "P of an entry for pass-through is cleared, and the device's context entry is invalidated too.",
    PASS_THROUGH,
    None,
    *(_THROUGH, *_BLOCKED),
    descriptors=(*EVERYTHING_OF_A, pasid_iotlb()),
)


# Setting the root-table pointer (6.6).


def _new_root(bench: Bench) -> None:
    """A has used its tables; then SRTP latches a root table whose tables map 0x5000 to P1. A uses it again."""
    _start(bench)
    bench.scalable.root = bench.new_table()
    table = bench.new_table()
    bench.map(table, 0x5000, P1)
    bench.scalable.entry("A", SECOND, table)
    bench.driver.set_root_table(bench.scalable.root, 1)


def _srtp(name: str, title: str, descriptors: Descriptors, *, fresh: bool, setup: Setup = SECOND_STAGE) -> None:
    def stimulus(bench: Bench) -> None:
        _new_root(bench)
        submit(bench, descriptors)
        bench.write("A", 0x5010)

    stale, changed = write_lines((0x5000, P0), (0x5000, P0)), write_lines((0x5000, P0), (0x5000, P1))
    others = () if fresh else ((EVICTED, changed),)
    add(f"scalable.cache.srtp.{name}", "6.6", title, stimulus, changed if fresh else stale, others, setup)


_srtp("alone", "Without ESRTPS, SRTP alone may leave everything cached.", (), fresh=False)
_srtp("invalidated", "SRTP and the three global invalidations.", (contexts(), pasids(), iotlb()), fresh=True)
_srtp("self-invalidating", "With ESRTPS, SRTP is enough.", (), fresh=True, setup=SECOND_STAGE_SELF_INVALIDATING)


# The IOTLB (6.5.1.1).


@scenario(
    "scalable.cache.iotlb.outlives-context-entry",
    "6.5.1.1",
    "A write 0x5010 -> 0x800010",
    "A write 0x5010 -> blocked",
    "fault 0x41 A 0x5000 write",
    "FSTS PPF",
    setup=SECOND_STAGE,
)
def no_context_no_iotlb(bench: Bench) -> None:
    """A context entry is cleared and the context cache invalidated: cached translations are of no use any more."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.scalable.entry("A", SECOND, table)
    bench.scalable.turn_on()
    bench.write("A", 0x5010)
    bench.memory.write(bench.scalable.context_at("A"), bytes(32))
    submit(bench, (contexts(),))
    bench.write("A", 0x5010)


@scenario(
    "scalable.cache.iotlb.outlives-directory-entry",
    "6.5.3.3",
    "A write 0x5010 -> 0x800010",
    "A write 0x5010 -> blocked",
    "FSTS 0",
    setup=SECOND_STAGE,
)
def no_directory_no_iotlb(bench: Bench) -> None:
    """P of a PASID directory entry with FPD is cleared, and the PASID cache invalidated: the device is blocked."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.scalable.entry("A", SECOND, table)
    bench.scalable.turn_on()
    bench.write("A", 0x5010)
    bench.memory.write_u64(bench.scalable.directory_at("A"), PasidDirectoryEntry.FPD.mask)
    submit(bench, (pasids(),))
    bench.write("A", 0x5010)


@scenario(
    "scalable.cache.entry.directory-with-fpd",
    "7.1.3",
    "A write 0x5010 -> 0x800010",
    "A write 0x6010 -> blocked",
    "fault 0x58 A 0x6000 write",
    "FSTS PPF",
    setup=SECOND_STAGE,
)
def directory_with_fpd(bench: Bench) -> None:
    """A PASID directory entry gets FPD and a table that cannot be read, which is recorded whatever FPD says."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.scalable.entry("A", SECOND, table)
    bench.scalable.turn_on()
    bench.write("A", 0x5010)
    entry = PasidDirectoryEntry.make(P=1, FPD=1, SMPTBLPTR=NOWHERE)
    bench.memory.write_u64(bench.scalable.directory_at("A"), entry)
    submit(bench, (pasids(),))
    bench.write("A", 0x6010)
