"""Caching mode (CAP.CM, spec 6.1; sheet 4.2 and 4.4): an entry that becomes present needs an invalidation.

Each structure is read while faulty, repaired in memory, and used again. Only in caching mode it is still faulty,
until the invalidation that the sheet requires. Without caching mode, and by policy, the repair is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from iommu import DmaRequest, Policy, RemappingUnit
from iommu.engine.invalidation.selector import Selector, pages_around
from tests.engine.scalable_world import ADDRESS, ALL1, HOST, ScalableWorld, first_stage, nested, second_stage
from tests.engine.world import ABSENT, NIC, READ, RW, WRITE, R, World

CONTEXT_DEVICE, DOMAIN, PAGE = 3, 2, 3


@dataclass
class Case:
    """A world whose one entry at `at` is faulty until `good` is written there, and what drops it from the caches."""

    world: World
    at: int
    good: tuple[int, ...]
    code: int
    invalidate: Callable[[], object]
    access: Any = READ

    def now(self) -> int:
        outcome = self.world.dma(ADDRESS, self.access)
        return int(outcome.fault or 0)

    def repair(self) -> None:
        self.world.put(self.at, *self.good)


def legacy(at: str, bad: tuple[int, ...], code: int, access: Any = READ) -> Callable[..., Case]:
    """A legacy world with `bad` in its root entry, context entry or page entry."""

    def build(**changes: Any) -> Case:
        world = World(fault_records=8, **changes)
        top = world.page()
        context = world.context(table=top, did=5)
        places = world.map(top, 4, ADDRESS, HOST | RW)
        where = {"root": world.root, "context": context, **{f"level {n}": place for n, place in places.items()}}[at]
        good = tuple(world.memory.read_u64(where + 8 * n) for n in range(len(bad)))
        world.put(where, *bad)
        world.start()
        by_device = at in ("root", "context")

        def invalidate() -> None:
            # Faulty contexts are cached in domain 0.
            if by_device:
                assert world.invalidate_contexts(CONTEXT_DEVICE, did=0, sid=NIC) == CONTEXT_DEVICE
            else:
                assert world.invalidate_pages(PAGE, did=5, address=ADDRESS) == PAGE

        return Case(world, where, good, code, invalidate, access)

    return build


def scalable(at: str, bad: tuple[int, ...], code: int, builder: Any = second_stage) -> Callable[..., Case]:
    """The same in scalable mode."""

    def build(**changes: Any) -> Case:
        world: ScalableWorld = builder(**changes)
        caches = world.unit.caches
        context, pasid_entry = world.contexts[NIC], world.pasids[NIC, 0]
        where, invalidate = {
            "half root": (world.root_address(), lambda: caches.invalidate(Selector.contexts(source_id=NIC))),
            "context": (context, lambda: caches.invalidate(Selector.contexts(source_id=NIC))),
            "directory": (world.directory_address(), lambda: caches.invalidate(Selector.pasids(1, 0))),
            "pasid": (pasid_entry, lambda: caches.invalidate(Selector.pasids(1, 0))),
            "page": (
                world.second.get(1, 0),
                lambda: caches.invalidate(Selector.translations(1, addresses=pages_around(ADDRESS, 0))),
            ),
            "first": (world.first.get(1, 0), lambda: None),
        }[at]
        good = tuple(world.memory.read_u64(where + 8 * n) for n in range(len(bad)))
        world.put(where, *bad)
        return Case(world, where, good, code, invalidate)

    return build


CASES = {
    "root entry, absent": legacy("root", (0,), 0x01),
    "root entry, reserved": legacy("root", (0x3001 | 1 << 1,), 0x0A),
    "context entry, absent": legacy("context", (0,), 0x02),
    "context entry, reserved": legacy("context", (1, 1 << 40 | 2), 0x0B),
    "context entry, type": legacy("context", (3 << 2 | 1,), 0x03),
    "page, absent, read": legacy("level 1", (0,), 0x06),
    "page, absent, write": legacy("level 1", (0,), 0x05, WRITE),
    "table, absent": legacy("level 2", (0,), 0x06),
    "page, reserved": legacy("level 1", (HOST | RW | 1 << 11,), 0x0C),
    "page, interrupt range": legacy("level 1", (0xFEE0_0000 | RW,), 0x0E),
    "page, read-only": legacy("level 1", (HOST | R,), 0x05, WRITE),
    "scalable, half root entry, absent": scalable("half root", (0,), 0x39),
    "scalable, half root entry, reserved": scalable("half root", (0x3001 | 1 << 1,), 0x3A),
    "scalable, context entry, absent": scalable("context", (0,), 0x41),
    "scalable, context entry, reserved": scalable("context", (1, 1 << 40), 0x42),
    "scalable, directory entry, absent": scalable("directory", (0,), 0x51),
    "scalable, directory entry, reserved": scalable("directory", (0x3001 | 1 << 3,), 0x52),
    "scalable, PASID entry, absent": scalable("pasid", (0,), 0x59),
    "scalable, PASID entry, reserved": scalable("pasid", (1 << 10 | 2 << 6 | 2 << 2 | 1,), 0x5A),
    "scalable, PASID entry, type": scalable("pasid", (5 << 6 | 2 << 2 | 1,), 0x5B),
    "scalable, second stage, absent": scalable("page", (0,), 0x79),
    "scalable, second stage, reserved": scalable("page", (HOST | RW | 1 << 62 | 1 << 51,), 0x7A),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", ["off", "on", "on, not used"])
def test_what_becomes_present_needs_an_invalidation_in_caching_mode_only(name: str, mode: str) -> None:
    policy = Policy(cache_faulting=mode != "on, not used")
    width = {"host_address_width": 48} if name.startswith("scalable, second") else {}
    case = CASES[name](caching_mode=mode != "off", policy=policy, **width)
    assert case.now() == case.code
    assert case.now() == case.code
    case.repair()
    assert case.now() == (case.code if mode == "on" else 0)
    case.invalidate()
    assert case.now() == 0


@pytest.mark.parametrize("builder", [first_stage, nested])
@pytest.mark.parametrize("bad", [0, HOST | ALL1 | 1 << 51, HOST | 1])
def test_faulty_first_stage_entry_is_never_cached(builder: Any, bad: int) -> None:
    """4.2: a faulting first-stage translation is not cached, even with CM=1."""
    case = scalable("first", (bad,), 0, builder)(caching_mode=True, host_address_width=48)
    assert case.now() in (0x71, 0x72, 0x81)
    case.repair()
    assert case.now() == 0


@pytest.mark.parametrize("bad", [ABSENT | 1, ABSENT | 3])
def test_what_cannot_be_read_is_not_cached(bad: int) -> None:
    """No entry is faulty: there is none."""
    case = legacy("root", (bad & ~2,), 0x09)(caching_mode=True)
    assert case.now() == 0x09
    case.repair()
    assert case.now() == 0


def test_absent_page_is_absent_for_every_access() -> None:
    """In legacy mode the fault is told by what the request wanted, from the cache as from the table."""
    case = CASES["page, absent, read"](caching_mode=True)
    assert case.now() == 0x06
    case.repair()
    assert case.world.fault(ADDRESS, WRITE) == 0x05
    assert case.world.fault(ADDRESS, READ, length=0) == 0x06


def test_absent_page_covers_no_other_page() -> None:
    case = CASES["page, absent, read"](caching_mode=True)
    assert case.now() == 0x06
    top = 0x2000
    case.world.map(top, 4, ADDRESS + 0x1000, 0xA000 | RW)
    assert case.world.dma(ADDRESS + 0x1000).host_address == 0xA000


def test_fpd_of_an_absent_context_is_cached_with_it() -> None:
    """7.1.3: FPD counts in an entry that is not present; the cached one still does."""
    case = legacy("context", (1 << 1,), 0x02)(caching_mode=True)
    assert case.now() == 0x02
    case.world.put(case.at, 0)
    assert case.now() == 0x02
    assert case.world.records() == []


@pytest.mark.parametrize(("did", "dropped"), [(0, True), (5, False)])
def test_absent_context_is_in_domain_0(did: int, dropped: bool) -> None:
    """Doubt D-20: a domain-selective command drops it with domain-id 0."""
    case = CASES["context entry, absent"](caching_mode=True)
    assert case.now() == 0x02
    case.repair()
    assert case.world.invalidate_contexts(DOMAIN, did=did) == DOMAIN
    assert (case.now() == 0) == dropped


def test_page_is_not_cached_before_its_accessed_bit_is_set() -> None:
    """A denied write leaves A of the page's entry alone (sheet 2.6); a later read still has to set it."""
    world = second_stage(HOST | R, pasid_entry={"ssade": 1}, caching_mode=True)
    assert world.fault(access=WRITE) == 0x85
    assert world.memory.read_u64(world.second[1]) >> 8 & 3 == 0
    assert world.dma().host_address == HOST
    assert world.memory.read_u64(world.second[1]) >> 8 & 3 == 1


def test_audit_names_the_absent_entry_and_the_owed_invalidation() -> None:
    case = CASES["context entry, absent"](caching_mode=True)
    world = case.world
    unit = world.unit = RemappingUnit(world.memory, world.capabilities, audit=True)
    world.start()
    assert case.now() == 0x02
    assert unit.audit() == []
    case.repair()
    (stale,) = unit.audit()
    assert (stale.cache, stale.tag) == ("context cache", "source-id 00:04.0")
    assert "domain-id 0" in str(stale.owed)
    outcome = world.dma(ADDRESS)
    assert outcome.fault == 0x02
    assert outcome.stale == (stale,)


def test_trace_shows_that_the_fault_was_cached() -> None:
    for name in ("context entry, absent", "scalable, PASID entry, absent", "scalable, second stage, absent"):
        case = CASES[name](caching_mode=True)
        assert case.now() == case.code
        case.repair()
        outcome = case.world.unit.translate(DmaRequest(NIC, ADDRESS, case.access), trace=True)
        last: Any = outcome.trace[-1]
        assert (last.cached, last.fault) == (True, case.code)
