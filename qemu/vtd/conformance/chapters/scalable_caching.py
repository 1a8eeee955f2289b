"""Spec 6.1: caching mode in scalable mode: which entries may be cached while they are absent or wrong.

With caching mode a unit may cache every kind of faulty entry but those of a first stage. It need not: a unit that has
not cached the fault sees the repair at once.
"""

from __future__ import annotations

from collections.abc import Callable

from iommu import Policy
from iommu.registers import Granularity
from iommu.structures import PasidGranularity
from qemu.vtd.conformance.bench import P0, P1, Bench
from qemu.vtd.conformance.chapters.offers import UNCACHED
from qemu.vtd.conformance.chapters.scalable_caches import Descriptors, contexts, iotlb, pasids, submit
from qemu.vtd.conformance.scalable_bench import FIRST, SECOND
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.conformance.setups import FIRST_STAGE_CACHING, SECOND_STAGE_CACHING, Setup

TO_P0, TO_P1, BLOCKED = "A write 0x5010 -> 0x800010", "A write 0x5010 -> 0x801010", "A write 0x5010 -> blocked"
R_W = 3
DOMAIN, SELECTIVE = Granularity.DOMAIN, Granularity.SELECTIVE
_PASID = PasidGranularity.PASID


def _built(bench: Bench, setup: Setup) -> int:
    """Tables by which A reaches P0 through the stage that the unit has. Returns the top table."""
    table = bench.new_table()
    if setup is FIRST_STAGE_CACHING:
        bench.scalable.map_first(table, 0x5000, P0)
        bench.scalable.entry("A", FIRST, table)
    else:
        bench.map(table, 0x5000, P0)
        bench.scalable.entry("A", SECOND, table)
    return table


def _try(bench: Bench) -> None:
    """A uses 0x5000; what it causes is logged and cleared."""
    bench.write("A", 0x5010)
    bench.note_faults()
    bench.driver.clear_faults()


Place = Callable[[Bench, int], int]
"""Where an entry is, given the top table."""


def _repaired(
    name: str,
    title: str,
    reason: int,
    place: Place,
    edit: Callable[[int], int],
    descriptors: Descriptors,
    setup: Setup = SECOND_STAGE_CACHING,
) -> None:
    """A faults; the entry is repaired; A tries again without an invalidation, and once more after it."""
    faulted = (BLOCKED, f"fault {reason:#04x} A 0x5000 write", "FSTS PPF")
    never_cached = setup is FIRST_STAGE_CACHING

    def stimulus(bench: Bench) -> None:
        where = place(bench, _built(bench, setup))
        good = bench.memory.read_u64(where)
        bench.memory.write_u64(where, edit(good))
        bench.scalable.turn_on()
        _try(bench)
        bench.memory.write_u64(where, good)
        _try(bench)
        submit(bench, descriptors)
        bench.write("A", 0x5010)

    stimulus.__doc__ = title
    seen = (*faulted, TO_P0, "FSTS 0", TO_P0, "FSTS 0")
    id_ = f"scalable.caching.{name}"
    if never_cached:
        scenario(id_, "6.1", *seen, setup=setup)(stimulus)
    else:
        allowed = Allowed(UNCACHED, seen, Policy(cache_faulting=False))
        scenario(id_, "6.1", *faulted, *faulted, TO_P0, "FSTS 0", allowed=(allowed,), setup=setup)(stimulus)


def _level(level: int) -> Place:
    return lambda bench, table: bench.entry(table, 0x5000, level)


_PAGE: Descriptors = (iotlb(SELECTIVE, domain=1, address=0x5000),)
_EVERYTHING: Descriptors = (contexts(), pasids(), iotlb())

for _n in (4, 3, 2, 1):
    _repaired(
        f"second-absent-level-{_n}",
        f"An entry of level {_n} of a second stage becomes present: seen once the page is invalidated.",
        0x79,
        _level(_n),
        lambda entry: 0,
        _PAGE,
    )
    _repaired(
        f"first-absent-level-{_n}",
        f"An entry of level {_n} of a first stage becomes present: it was not cached, and is seen at once.",
        0x71,
        _level(_n),
        lambda entry: entry & ~1,
        (),
        FIRST_STAGE_CACHING,
    )
_repaired(
    "second-reserved",
    "A reserved bit of a second-stage page entry is cleared: seen at the latest after the page is invalidated.",
    0x7A,
    _level(1),
    lambda entry: entry | 1 << 51,
    _PAGE,
)
_repaired(
    "first-reserved",
    "A reserved bit of a first-stage page entry is cleared: it was not cached, and is seen at once.",
    0x72,
    _level(1),
    lambda entry: entry | 1 << 51,
    (),
    FIRST_STAGE_CACHING,
)
_repaired(
    "absent-root",
    "Half a root entry becomes present: seen at the latest after a global invalidation.",
    0x39,
    lambda bench, _: bench.scalable.root_at("A"),
    lambda entry: 0,
    _EVERYTHING,
)
_repaired(
    "absent-context",
    "A context entry becomes present: seen after an invalidation of the device with domain-id 0.",
    0x41,
    lambda bench, _: bench.scalable.context_at("A"),
    lambda entry: entry & ~1,
    (contexts(SELECTIVE, device="A", domain=0), pasids(), iotlb()),
)
_repaired(
    "absent-directory",
    "A PASID directory entry becomes present: seen after an invalidation of the PASID cache.",
    0x51,
    lambda bench, _: bench.scalable.directory_at("A"),
    lambda entry: 0,
    (pasids(), iotlb()),
)
_repaired(
    "absent-entry",
    "A PASID-table entry becomes present: seen after an invalidation of the PASID in domain 0.",
    0x59,
    lambda bench, _: bench.scalable.entry_at("A"),
    lambda entry: entry & ~1,
    (pasids(_PASID, domain=0), iotlb(DOMAIN, domain=0)),
)


@scenario("scalable.caching.second-present", "6.1", TO_P0, TO_P1, "FSTS 0", setup=SECOND_STAGE_CACHING)
def present(bench: Bench) -> None:
    """With caching mode, a page that is moved is seen after an invalidation of it, as without."""
    table = _built(bench, SECOND_STAGE_CACHING)
    bench.scalable.turn_on()
    bench.write("A", 0x5010)
    bench.memory.write_u64(bench.entry(table, 0x5000, 1), P1 | R_W)
    submit(bench, _PAGE)
    bench.write("A", 0x5010)
