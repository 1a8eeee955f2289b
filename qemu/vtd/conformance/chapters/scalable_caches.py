"""Spec 6: what may be stale in scalable mode, and what each descriptor must, may and need not remove.

Where a scenario expects a stale entry to be used, the outcome of the new one is allowed too: a unit may cache less,
and may invalidate more than it is asked to.
"""

from collections.abc import Callable, Iterable

from iommu.registers import Granularity
from iommu.structures import (
    ContextDescriptor,
    DescriptorType,
    IotlbDescriptor,
    PasidCacheDescriptor,
    PasidGranularity,
    PasidIotlbDescriptor,
)
from qemu.vtd.conformance.bench import DATA, P0, P1, P2, P3, Bench
from qemu.vtd.conformance.scalable_bench import FIRST, PASS_THROUGH, SECOND
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.conformance.setups import FIRST_STAGE, SECOND_STAGE, SECOND_STAGE_SELF_INVALIDATING, Setup

GLOBAL, DOMAIN, SELECTIVE = Granularity.GLOBAL, Granularity.DOMAIN, Granularity.SELECTIVE
EVICTED = "a unit may evict a cached entry at any time (6.2.1)"
COARSER = "a unit may invalidate more than it was asked to (6.5)"

R_W = 3
FIRST_LEAF = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6
"""P, R/W, U/S, A and D of a first-stage page entry."""


def contexts(g: int = GLOBAL, *, device: str = "", fm: int = 0, domain: int = 0) -> Callable[[Bench], int]:
    """A context-cache descriptor, of a device if one is named."""

    def make(bench: Bench) -> int:
        sid = bench.platform.source_ids[device] if device else 0
        return ContextDescriptor.make(TYPE=DescriptorType.CONTEXT, G=g, DID=domain, SID=sid, FM=fm)

    return make


def pasids(g: int = PasidGranularity.GLOBAL, *, domain: int = 0, pasid: int = 0) -> Callable[[Bench], int]:
    """A PASID-cache descriptor."""
    raw = PasidCacheDescriptor.make(TYPE=DescriptorType.PASID_CACHE, G=g, DID=domain, PASID=pasid)
    return lambda _: raw


def iotlb(g: int = GLOBAL, *, domain: int = 0, address: int = 0, am: int = 0) -> Callable[[Bench], int]:
    """An IOTLB descriptor."""
    raw = IotlbDescriptor.make(TYPE=DescriptorType.IOTLB, G=g, DID=domain, ADDR=address, AM=am)
    return lambda _: raw


def pasid_iotlb(
    g: int = DOMAIN, *, domain: int = 1, pasid: int = 0, address: int = 0, am: int = 0
) -> Callable[[Bench], int]:
    """A PASID-based IOTLB descriptor: of a PASID, or of pages of it."""
    raw = PasidIotlbDescriptor.make(
        TYPE=DescriptorType.PASID_IOTLB, G=g, DID=domain, PASID=pasid, ADDR=address, AM=am
    )
    return lambda _: raw


Descriptors = tuple[Callable[[Bench], int], ...]


def submit(bench: Bench, descriptors: Descriptors) -> None:
    """Submit the descriptors, if there are any."""
    if descriptors:
        bench.driver.submit(*(make(bench) for make in descriptors))


def write_lines(*pages: tuple[int, int]) -> tuple[str, ...]:
    """The lines of A's writes at offset 0x10 of a page, with the page where each ends up."""
    return tuple(f"A write {page + 0x10:#x} -> {host + 0x10:#x}" for page, host in pages)


def _add(
    id_: str,
    section: str,
    title: str,
    stimulus: Callable[[Bench], None],
    expect: tuple[str, ...],
    others: Iterable[tuple[str, tuple[str, ...]]] = (),
    setup: Setup = SECOND_STAGE,
) -> None:
    """Add a scenario; `others` are further right outcomes, each with its reason."""
    stimulus.__doc__ = title
    allowed = tuple(Allowed(because, (*lines, "FSTS 0")) for because, lines in others)
    scenario(id_, section, *expect, "FSTS 0", allowed=allowed, setup=setup)(stimulus)


# A page entry is changed. The second stage (6.2.4).


def _page_moved(name: str, title: str, descriptors: Descriptors, *, fresh: bool, first: bool = False) -> None:
    """A uses 0x5000; its page entry is changed from P0 to P1; descriptors; A uses 0x5000 again."""

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        where = bench.scalable.map_first(table, 0x5000, P0) if first else bench.map(table, 0x5000, P0)
        bench.scalable.entry("A", FIRST if first else SECOND, table)
        bench.scalable.turn_on()
        bench.write("A", 0x5010)
        bench.memory.write_u64(where, P1 | (FIRST_LEAF if first else R_W))
        submit(bench, descriptors)
        bench.write("A", 0x5010)

    new = write_lines((0x5000, P0), (0x5000, P1))
    old = write_lines((0x5000, P0), (0x5000, P0))
    others = () if fresh else ((COARSER if descriptors else EVICTED, new),)
    stage, setup = ("first", FIRST_STAGE) if first else ("second", SECOND_STAGE)
    _add(f"scalable.cache.{stage}.{name}", "6.5.2", title, stimulus, new if fresh else old, others, setup)


_page_moved("stale", "Without an invalidation the old page is still used.", (), fresh=False)
_page_moved("global", "A global IOTLB invalidation.", (iotlb(),), fresh=True)
_page_moved("domain", "An IOTLB invalidation of the domain.", (iotlb(DOMAIN, domain=1),), fresh=True)
_page_moved("other-domain", "An IOTLB invalidation of another domain.", (iotlb(DOMAIN, domain=2),), fresh=False)
_page_moved("page", "An IOTLB invalidation of the page.", (iotlb(SELECTIVE, domain=1, address=0x5000),), fresh=True)
_page_moved(
    "other-page",
    "An IOTLB invalidation of the adjacent page.",
    (iotlb(SELECTIVE, domain=1, address=0x6000),),
    fresh=False,
)
_page_moved(
    "page-of-other-domain",
    "An IOTLB invalidation of the page in another domain.",
    (iotlb(SELECTIVE, domain=2, address=0x5000),),
    fresh=False,
)
_page_moved(
    "by-pasid",
    "A PASID-based IOTLB invalidation is about first stages.",
    (pasid_iotlb(),),
    fresh=False,
)
_page_moved(
    "page-by-pasid",
    "A PASID-based IOTLB invalidation of the page is about first stages.",
    (pasid_iotlb(SELECTIVE, address=0x5000),),
    fresh=False,
)
_page_moved("only-pasid-cache", "A PASID-cache invalidation alone keeps translations.", (pasids(),), fresh=False)
_page_moved("only-context-cache", "A context-cache invalidation keeps translations.", (contexts(),), fresh=False)


# The first stage (6.5.2.4).

_page_moved("stale", "Without an invalidation the old page is still used.", (), fresh=False, first=True)
_page_moved("by-pasid", "A PASID-based IOTLB invalidation.", (pasid_iotlb(),), fresh=True, first=True)
_page_moved(
    "other-pasid", "The same of another PASID in the domain.", (pasid_iotlb(pasid=1),), fresh=False, first=True
)
_page_moved(
    "other-domain", "The same of the PASID in another domain.", (pasid_iotlb(domain=2),), fresh=False, first=True
)
_page_moved(
    "page-by-pasid",
    "A PASID-based IOTLB invalidation of the page.",
    (pasid_iotlb(SELECTIVE, address=0x5000),),
    fresh=True,
    first=True,
)
_page_moved(
    "other-page-by-pasid",
    "A PASID-based IOTLB invalidation of the adjacent page.",
    (pasid_iotlb(SELECTIVE, address=0x6000),),
    fresh=False,
    first=True,
)
_page_moved(
    "page-of-other-pasid",
    "A PASID-based IOTLB invalidation of the page in another PASID.",
    (pasid_iotlb(SELECTIVE, pasid=1, address=0x5000),),
    fresh=False,
    first=True,
)
_page_moved("global", "A global IOTLB invalidation.", (iotlb(),), fresh=True, first=True)
_page_moved("domain", "An IOTLB invalidation of the domain.", (iotlb(DOMAIN, domain=1),), fresh=True, first=True)
_page_moved(
    "domain-other", "An IOTLB invalidation of another domain.", (iotlb(DOMAIN, domain=2),), fresh=False, first=True
)
_page_moved(
    "page",
    "An IOTLB invalidation of whatever page of the domain removes all that a first stage translated in it.",
    (iotlb(SELECTIVE, domain=1, address=0x9000),),
    fresh=True,
    first=True,
)
_page_moved(
    "page-other-domain",
    "An IOTLB invalidation of a page of another domain.",
    (iotlb(SELECTIVE, domain=2, address=0x5000),),
    fresh=False,
    first=True,
)
_page_moved(
    "only-pasid-cache", "A PASID-cache invalidation alone keeps translations.", (pasids(),), fresh=False, first=True
)


# Every page of a range (6.5.2.3, 6.5.2.4): eight pages, of which four are invalidated.

_RANGE = range(0x8000, 0x10000, 0x1000)


def _range(stage: str, am: int, address: int, *, first: bool) -> None:
    """Eight pages are used, then all moved to the next page; 2**AM of them are invalidated, and all used again."""
    size = 0x1000 << am
    inside = range(address & -size, (address & -size) + size)
    moved = {page: DATA[number] for number, page in enumerate(_RANGE)}

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        places = {
            page: bench.scalable.map_first(table, page, host) if first else bench.map(table, page, host)
            for page, host in moved.items()
        }
        bench.scalable.entry("A", FIRST if first else SECOND, table)
        bench.scalable.turn_on()
        for page in _RANGE:
            bench.write("A", page + 0x10)
        for page, where in places.items():
            bench.memory.write_u64(where, moved[page] ^ 0x1000 | (FIRST_LEAF if first else R_W))
        make = pasid_iotlb if first else iotlb
        submit(bench, (make(SELECTIVE, domain=1, address=address, am=am),))
        for page in _RANGE:
            bench.write("A", page + 0x10)

    old = write_lines(*moved.items())
    new = write_lines(*((page, host ^ 0x1000) for page, host in moved.items()))
    expect = tuple(new[n] if page in inside else old[n] for n, page in enumerate(_RANGE))
    others = [] if expect == new else [(COARSER, old + new)]
    title = f"An address mask of {am} at {address:#x}: every page of the range, and no page beside it."
    setup = FIRST_STAGE if first else SECOND_STAGE
    _add(f"scalable.cache.{stage}.range-{am}-{address:x}", "6.5.2", title, stimulus, old + expect, others, setup)


for _am, _address in ((0, 0xB000), (1, 0xA000), (1, 0xB000), (2, 0x8000), (2, 0xC000), (2, 0xF000), (3, 0x9000)):
    _range("second", _am, _address, first=False)
    _range("first", _am, _address, first=True)


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
    _add(f"scalable.cache.entry.{name}", section, title, stimulus, changed if fresh else stale, others)


_PASID, _OF_DOMAIN = PasidGranularity.PASID, PasidGranularity.DOMAIN
_entry_changed("stale", "Without an invalidation the old entry may still be used.", (), fresh=False)
_entry_changed("global", "A global PASID-cache invalidation.", (pasids(),), fresh=True)
_entry_changed("domain", "One of the old domain.", (pasids(_OF_DOMAIN, domain=1),), fresh=True)
_entry_changed(
    "new-domain",
    "One of the new domain; the cached entry is of the old.",
    (pasids(_OF_DOMAIN, domain=2),),
    fresh=False,
)
_entry_changed("pasid", "One of the PASID in the old domain.", (pasids(_PASID, domain=1),), fresh=True)
_entry_changed("other-pasid", "One of another PASID.", (pasids(_PASID, domain=1, pasid=1),), fresh=False)
_entry_changed("pasid-new-domain", "One of the PASID in the new domain.", (pasids(_PASID, domain=2),), fresh=False)
_entry_changed("only-context-cache", "A context-cache invalidation alone.", (contexts(),), fresh=False)
_entry_changed("only-iotlb", "An IOTLB invalidation alone.", (iotlb(),), fresh=False)


@scenario(
    "scalable.cache.entry.new-tables",
    "6.5.3.3",
    *write_lines((0x5000, P0), (0x5000, P2)),
    "FSTS 0",
    setup=SECOND_STAGE,
)
def entry_new_tables(bench: Bench) -> None:
    """The entry names other tables in the same domain: PASID-cache and domain-selective IOTLB invalidations."""
    old, new = bench.new_table(), bench.new_table()
    bench.map(old, 0x5000, P0)
    bench.map(new, 0x5000, P2)
    bench.scalable.entry("A", SECOND, old)
    bench.scalable.turn_on()
    bench.write("A", 0x5010)
    bench.scalable.entry("A", SECOND, new)
    submit(bench, (pasids(_PASID, domain=1), iotlb(DOMAIN, domain=1)))
    bench.write("A", 0x5010)


@scenario(
    "scalable.cache.entry.new-domain-same-page",
    "6.2.4",
    *write_lines((0x5000, P0), (0x5000, P2)),
    "FSTS 0",
    setup=SECOND_STAGE,
)
def entry_new_domain(bench: Bench) -> None:
    """The entry names other tables in a domain where nothing is cached: a PASID-cache invalidation is enough."""
    old, new = bench.new_table(), bench.new_table()
    bench.map(old, 0x5000, P0)
    bench.map(new, 0x5000, P2)
    bench.scalable.entry("A", SECOND, old)
    bench.scalable.turn_on()
    bench.write("A", 0x5010)
    bench.scalable.entry("A", SECOND, new, domain=2)
    submit(bench, (pasids(_PASID, domain=1),))
    bench.write("A", 0x5010)


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
    """P of the PASID-table entry is cleared; FPD of the context entry suppresses the fault, and no more than that."""
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
    stimulus.__doc__ = f"What was not present works once it is, without an invalidation: the {name} entry."
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
    _add(f"scalable.cache.context.{name}", "6.5.2.1", title, stimulus, changed if fresh else stale, others)


_context_changed("stale", "Without an invalidation the old context entry may still be used.", (), fresh=False)
_context_changed("global", "Global context-cache and PASID-cache invalidations.", (contexts(), pasids()), fresh=True)
_context_changed("device", "What drivers do for one device.", EVERYTHING_OF_A, fresh=True)
_context_changed(
    "domain",
    "Context entries have no domain in scalable mode: a domain-selective invalidation is of all.",
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


@scenario(
    "scalable.cache.type.from-pass-through",
    "6.5.3.3",
    "A write 0x800010 -> 0x800010",
    "A write 0x800010 -> 0x801010",
    "FSTS 0",
    setup=SECOND_STAGE,
)
def from_pass_through(bench: Bench) -> None:
    """From pass-through to a second stage, with the invalidations of the PASID."""
    table = bench.new_table()
    bench.map(table, P0, P1)
    bench.scalable.entry("A", PASS_THROUGH)
    bench.scalable.turn_on()
    bench.write("A", P0 + 0x10)
    bench.scalable.entry("A", SECOND, table)
    submit(bench, (pasids(_PASID, domain=1), pasid_iotlb(), iotlb(DOMAIN, domain=1)))
    bench.write("A", P0 + 0x10)


@scenario(
    "scalable.cache.type.to-pass-through",
    "6.5.3.3",
    "A write 0x800010 -> 0x801010",
    "A write 0x800010 -> 0x800010",
    "FSTS 0",
    setup=SECOND_STAGE,
)
def to_pass_through(bench: Bench) -> None:
    """From a second stage to pass-through, with the invalidations of the PASID."""
    table = bench.new_table()
    bench.map(table, P0, P1)
    bench.scalable.entry("A", SECOND, table)
    bench.scalable.turn_on()
    bench.write("A", P0 + 0x10)
    bench.scalable.entry("A", PASS_THROUGH)
    submit(bench, (pasids(_PASID, domain=1), pasid_iotlb(), iotlb(DOMAIN, domain=1)))
    bench.write("A", P0 + 0x10)


@scenario(
    "scalable.cache.type.pass-through-cleared",
    "6.5.3.3",
    "A write 0x800010 -> 0x800010",
    "A write 0x800010 -> blocked",
    "fault 0x59 A 0x800000 write",
    "FSTS PPF",
    setup=SECOND_STAGE,
)
def pass_through_cleared(bench: Bench) -> None:
    """An entry of pass-through is cleared, with the invalidations of the PASID."""
    where = bench.scalable.entry("A", PASS_THROUGH)
    bench.scalable.turn_on()
    bench.write("A", P0 + 0x10)
    bench.change(where, clear=1)
    submit(bench, (pasids(_PASID, domain=1), pasid_iotlb(), iotlb(DOMAIN, domain=1)))
    bench.write("A", P0 + 0x10)


@scenario(
    "scalable.cache.type.pass-through-cleared-with-context",
    "6.5.3.3",
    "A write 0x800010 -> 0x800010",
    "A write 0x800010 -> blocked",
    "fault 0x59 A 0x800000 write",
    "FSTS PPF",
    setup=SECOND_STAGE,
)
def pass_through_cleared_with_context(bench: Bench) -> None:
    """The same with an invalidation of the device's context entry as well."""
    where = bench.scalable.entry("A", PASS_THROUGH)
    bench.scalable.turn_on()
    bench.write("A", P0 + 0x10)
    bench.change(where, clear=1)
    submit(bench, (*EVERYTHING_OF_A, pasid_iotlb()))
    bench.write("A", P0 + 0x10)


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
    _add(f"scalable.cache.srtp.{name}", "6.6", title, stimulus, changed if fresh else stale, others, setup)


_srtp("alone", "Without ESRTPS, SRTP alone may leave everything cached.", (), fresh=False)
_srtp("invalidated", "SRTP and the three global invalidations.", (contexts(), pasids(), iotlb()), fresh=True)
_srtp("self-invalidating", "With ESRTPS, SRTP is enough.", (), fresh=True, setup=SECOND_STAGE_SELF_INVALIDATING)


# Two devices, and domains (6.2).


@scenario(
    "scalable.domain.two-devices",
    "6.2",
    "A write 0x5010 -> 0x800010",
    "B write 0x5010 -> 0x801010",
    "A write 0x5010 -> 0x800010",
    "B write 0x5010 -> 0x801010",
    "FSTS 0",
    setup=SECOND_STAGE,
)
def two_devices(bench: Bench) -> None:
    """Two devices with the same PASID 0 in directories of their own, in two domains."""
    for device, page, domain in (("A", P0, 1), ("B", P1, 2)):
        table = bench.new_table()
        bench.map(table, 0x5000, page)
        bench.scalable.entry(device, SECOND, table, domain=domain)
    bench.scalable.turn_on()
    for _ in range(2):
        bench.write("A", 0x5010)
        bench.write("B", 0x5010)


@scenario(
    "scalable.domain.shared-directory",
    "9.5",
    "A write 0x5010 -> 0x800010",
    "B write 0x5010 -> 0x800010",
    "FSTS 0",
    setup=SECOND_STAGE,
)
def shared_directory(bench: Bench) -> None:
    """Two devices with one PASID directory."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.scalable.entry("A", SECOND, table)
    tables = bench.scalable
    entry = bench.memory.read(tables.context_at("A"), 32)
    bench.memory.write(tables.context_at("B"), entry)
    tables.turn_on()
    bench.write("A", 0x5010)
    bench.write("B", 0x5010)


for _domain in (0, 0xFFFF):

    def _extreme(bench: Bench, *, domain: int = _domain) -> None:
        table = bench.new_table()
        where = bench.map(table, 0x5000, P0)
        bench.scalable.entry("A", SECOND, table, domain=domain)
        bench.scalable.turn_on()
        bench.write("A", 0x5010)
        bench.memory.write_u64(where, P1 | R_W)
        submit(bench, (iotlb(DOMAIN, domain=domain),))
        bench.write("A", 0x5010)

    _add(
        f"scalable.domain.{_domain:x}",
        "6.2",
        f"Domain {_domain:#x} works without caching mode, and can be invalidated.",
        _extreme,
        write_lines((0x5000, P0), (0x5000, P1)),
    )


@scenario(
    "scalable.cache.second.write-after-read",
    "7.1.3 SGN.6",
    "A read 0x5010 -> 0x800010",
    "A write 0x5010 -> blocked",
    "fault 0x85 A 0x5000 write",
    "FSTS PPF",
    setup=SECOND_STAGE,
)
def second_write_after_read(bench: Bench) -> None:
    """A read-only page is cached by a read; the write that follows faults."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0, w=0)
    bench.scalable.entry("A", SECOND, table)
    bench.scalable.turn_on()
    bench.read("A", 0x5010)
    bench.write("A", 0x5010)


@scenario(
    "scalable.cache.first.write-after-read",
    "7.1.3 SGN.6",
    "A read 0x5010 -> 0x800010",
    "A write 0x5010 -> blocked",
    "fault 0x85 A 0x5000 write",
    "FSTS PPF",
    setup=FIRST_STAGE,
)
def first_write_after_read(bench: Bench) -> None:
    """The same with a first stage."""
    table = bench.new_table()
    bench.scalable.map_first(table, 0x5000, P0, write=False)
    bench.scalable.entry("A", FIRST, table)
    bench.scalable.turn_on()
    bench.read("A", 0x5010)
    bench.write("A", 0x5010)
