"""Spec 6: which translations may be stale in scalable mode, and what each descriptor must, may and need not remove.

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
from qemu.vtd.conformance.bench import DATA, P0, P1, Bench
from qemu.vtd.conformance.scalable_bench import FIRST, SECOND
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.conformance.setups import FIRST_STAGE, SECOND_STAGE, Setup

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
    g: int = DOMAIN, *, domain: int = 1, pasid: int = 0, address: int = 0, am: int = 0, ih: int = 0
) -> Callable[[Bench], int]:
    """A PASID-based IOTLB descriptor: of a PASID, or of pages of it."""
    raw = PasidIotlbDescriptor.make(
        TYPE=DescriptorType.PASID_IOTLB, G=g, DID=domain, PASID=pasid, ADDR=address, AM=am, IH=ih
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


def add(
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


def _page_moved(
    name: str, title: str, descriptors: Descriptors, *, fresh: bool, first: bool = False, also: int = 0
) -> None:
    """A uses 0x5000; its page entry is changed from P0 to P1; descriptors; A uses 0x5000 again.

    `also` is set in the page entry before and after.
    """

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        where = bench.scalable.map_first(table, 0x5000, P0) if first else bench.map(table, 0x5000, P0)
        bench.change(where, set_=also)
        bench.scalable.entry("A", FIRST if first else SECOND, table)
        bench.scalable.turn_on()
        bench.write("A", 0x5010)
        bench.memory.write_u64(where, P1 | also | (FIRST_LEAF if first else R_W))
        submit(bench, descriptors)
        bench.write("A", 0x5010)

    new = write_lines((0x5000, P0), (0x5000, P1))
    old = write_lines((0x5000, P0), (0x5000, P0))
    others = () if fresh else ((COARSER if descriptors else EVICTED, new),)
    stage, setup = ("first", FIRST_STAGE) if first else ("second", SECOND_STAGE)
    add(f"scalable.cache.{stage}.{name}", "6.5.2", title, stimulus, new if fresh else old, others, setup)


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
    "A PASID-based IOTLB invalidation of the PASID removes what a second stage translated.",
    (pasid_iotlb(),),
    fresh=True,
)
_page_moved(
    "page-by-pasid",
    "A PASID-based IOTLB invalidation of the page need not remove what a second stage translated.",
    (pasid_iotlb(SELECTIVE, address=0x5000),),
    fresh=False,
)
_page_moved("only-pasid-cache", "A PASID-cache invalidation alone keeps translations.", (pasids(),), fresh=False)
_page_moved("only-context-cache", "A context-cache invalidation keeps translations.", (contexts(),), fresh=False)


# The first stage (6.5.2.4).

_page_moved("stale", "Without an invalidation the old page is still used.", (), fresh=False, first=True)
_page_moved("by-pasid", "A PASID-based IOTLB invalidation.", (pasid_iotlb(),), fresh=True, first=True)
_page_moved(
    "other-pasid",
    "A PASID-based IOTLB invalidation of another PASID in the domain.",
    (pasid_iotlb(pasid=1),),
    fresh=False,
    first=True,
)
_page_moved(
    "other-domain",
    "A PASID-based IOTLB invalidation of the PASID in another domain.",
    (pasid_iotlb(domain=2),),
    fresh=False,
    first=True,
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
    "An IOTLB invalidation of any page of the domain removes all that a first stage translated in it.",
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
_page_moved(
    "global-page",
    "A PASID-based IOTLB invalidation removes a page whose entry has G too: the bit has no effect.",
    (pasid_iotlb(),),
    fresh=True,
    first=True,
    also=1 << 8,
)
_page_moved(
    "hint-page",
    "A PASID-based IOTLB invalidation of the page with IH = 1: the page's own entry has changed.",
    (pasid_iotlb(SELECTIVE, address=0x5000, ih=1),),
    fresh=True,
    first=True,
)


def _table_moved(level: int, ih: int) -> None:
    """A uses 0x5000; the entry of one level gets another table; the page is invalidated; A uses 0x5000 again."""

    def stimulus(bench: Bench) -> None:
        tables = bench.new_table(), bench.new_table()
        for table, page in zip(tables, (P0, P1), strict=True):
            bench.scalable.map_first(table, 0x5000, page)
        old, new = tables
        bench.scalable.entry("A", FIRST, old)
        bench.scalable.turn_on()
        bench.write("A", 0x5010)
        bench.memory.write_u64(
            bench.entry(old, 0x5000, level), bench.memory.read_u64(bench.entry(new, 0x5000, level))
        )
        submit(bench, (pasid_iotlb(SELECTIVE, address=0x5000, ih=ih),))
        bench.write("A", 0x5010)

    fresh, stale = write_lines((0x5000, P0), (0x5000, P1)), write_lines((0x5000, P0), (0x5000, P0))
    title = f"An entry of level {level} of a first stage points to another table: the page is invalidated, IH = {ih}."
    others = ((EVICTED, fresh),) if ih else ()
    id_ = f"scalable.cache.first.hint-{ih}-level-{level}"
    add(id_, "6.5.2.4", title, stimulus, stale if ih else fresh, others, FIRST_STAGE)


for _level in (4, 3, 2):
    _table_moved(_level, 0)
    _table_moved(_level, 1)


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
    add(f"scalable.cache.{stage}.range-{am}-{address:x}", "6.5.2", title, stimulus, old + expect, others, setup)


for _am, _address in ((0, 0xB000), (1, 0xA000), (1, 0xB000), (2, 0x8000), (2, 0xC000), (2, 0xF000), (3, 0x9000)):
    _range("second", _am, _address, first=False)
    _range("first", _am, _address, first=True)


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

    add(
        f"scalable.domain.{_domain:x}",
        "6.2",
        f"Domain {_domain:#x} works without caching mode, and can be invalidated.",
        _extreme,
        write_lines((0x5000, P0), (0x5000, P1)),
    )


def _write_after_read(*, first: bool) -> None:
    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        if first:
            bench.scalable.map_first(table, 0x5000, P0, write=False)
        else:
            bench.map(table, 0x5000, P0, w=0)
        bench.scalable.entry("A", FIRST if first else SECOND, table)
        bench.scalable.turn_on()
        bench.read("A", 0x5010)
        bench.write("A", 0x5010)

    stage, setup = ("first", FIRST_STAGE) if first else ("second", SECOND_STAGE)
    stimulus.__doc__ = f"A read caches a read-only page of a {stage} stage; the write that follows faults."
    lines = (
        "A read 0x5010 -> 0x800010",
        "A write 0x5010 -> blocked",
        "fault 0x85 A 0x5000 write",
        "FSTS PPF",
    )
    scenario(f"scalable.cache.{stage}.write-after-read", "7.1.3 SGN.6", *lines, setup=setup)(stimulus)


_write_after_read(first=False)
_write_after_read(first=True)
