"""caches.py: what is cached, what is never cached, and that nothing older than allowed is ever used."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import Policy, Selector, SourceId
from iommu.engine.caches.caches import StructureCache
from iommu.engine.caches.tables import Table
from tests.engine import naive
from tests.engine.world import ABSENT, DISK, NIC, PS, READ, RW, WRITE, R, W, World

A = 0x4000_0000


# What a unit without caching mode must not cache (4.2)


@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("leaf", [1, 2, 3])
@pytest.mark.parametrize("wrong", [0, 1 << 62 | RW])
def test_absent_and_erroneous_paging_entries_are_not_cached(levels: int, leaf: int, wrong: int) -> None:
    """An entry of any level becomes present or valid: no invalidation is needed."""
    for level in range(leaf, levels + 1):
        world = World(address_width=57, levels=(3, 4, 5))
        top = world.device(levels=levels)
        places = world.map(top, levels, A, 0x8000_0000 | RW | (PS if leaf > 1 else 0), leaf)
        right = world.memory.read_u64(places[level])
        world.put(places[level], wrong)
        world.start()
        assert world.fault(A) in (0x05, 0x0C)
        world.put(places[level], right)
        assert world.dma(A).host_address == 0x8000_0000


@pytest.mark.parametrize("wrong", [
    {"p": 0}, {"extra": 1 << 127}, {"tt": 3}, {"tt": 1}, {"levels": 5}, {"levels": 2},
])  # fmt: skip
def test_absent_and_erroneous_context_entries_are_not_cached(wrong: dict[str, Any]) -> None:
    world = World()
    world.context(**{"tt": 2, **wrong})
    world.start()
    assert world.fault(A) in (0x02, 0x03, 0x0B)
    world.context(tt=2)
    assert world.dma(A).host_address == A


@pytest.mark.parametrize("wrong", [0, 2 | 1])
def test_absent_and_erroneous_root_entries_are_not_cached(wrong: int) -> None:
    world = World()
    world.context(tt=2)
    right = world.memory.read_u64(world.root)
    world.put(world.root, wrong)
    world.start()
    assert world.fault(A) in (0x01, 0x0A)
    world.put(world.root, right)
    assert world.dma(A).host_address == A


def test_unreadable_tables_are_not_cached() -> None:
    world = World()
    top = world.device()
    places = world.map(top, 4, A, 0x9000 | RW)
    right = world.memory.read_u64(places[2])
    world.put(places[2], 1 << 40 | RW)
    world.start()
    assert world.fault(A) == 0x07
    world.put(places[2], right)
    assert world.dma(A).host_address == 0x9000


# What is shared and what is not


def test_devices_of_one_domain_share_translations_of_one_table() -> None:
    world = World()
    top = world.device(NIC, did=5)
    world.context(DISK, table=top, did=5)
    world.map(top, 4, A, 0x9000 | RW)
    world.start()
    assert world.dma(A, source_id=NIC).host_address == 0x9000
    assert world.dma(A, source_id=DISK).host_address == 0x9000
    world.map(top, 4, A, 0)
    world.invalidate_pages(3, did=5, address=A)
    assert world.fault(A, source_id=NIC) == 0x05
    assert world.fault(A, source_id=DISK) == 0x05


@pytest.mark.parametrize("dids", [(1, 2), (0, 1), (1, 0x101), (0x7FFF, 0xFFFF), (0, 0x8000)])
def test_devices_of_two_domains_share_nothing(dids: tuple[int, int]) -> None:
    world = World()
    for source_id, did, host in zip((NIC, DISK), dids, (0x9000, 0xA000), strict=True):
        world.map(world.device(source_id, did=did), 4, A, host | RW)
    world.start()
    for _ in range(2):
        assert world.dma(A, source_id=NIC).host_address == 0x9000
        assert world.dma(A, source_id=DISK).host_address == 0xA000


@pytest.mark.parametrize("bit", range(16))
def test_every_source_id_bit_selects_another_context_entry(bit: int) -> None:
    other = SourceId.of(NIC ^ 1 << bit)
    world = World()
    for source_id, did, host in ((NIC, 1, 0x9000), (other, 2, 0xA000)):
        world.map(world.device(source_id, did=did), 4, A, host | RW)
    world.start()
    for _ in range(2):
        assert world.dma(A, source_id=NIC).host_address == 0x9000
        assert world.dma(A, source_id=other).host_address == 0xA000


@pytest.mark.parametrize("leaf", [1, 2, 3])
def test_cached_page_serves_its_whole_size_and_no_more(leaf: int) -> None:
    size = 1 << 3 + 9 * leaf
    world = World()
    top = world.device()
    world.map(top, 4, A, 0x8000_0000 | RW | (PS if leaf > 1 else 0), leaf)
    world.start()
    for offset in (0, size // 2, size - 1):
        outcome = world.dma(A + offset)
        assert (outcome.host_address, outcome.page_size) == (0x8000_0000 + offset, size)
    for outside in (A - 1, A + size):
        assert world.fault(outside) == 0x05


def test_cached_permissions_are_checked() -> None:
    for entry, allowed, refused, code in ((R, READ, WRITE, 0x05), (W, WRITE, READ, 0x06)):
        world = World()
        world.map(world.device(), 4, A, 0x9000 | entry)
        world.start()
        for _ in range(2):
            assert world.dma(A, allowed).host_address == 0x9000
            assert world.fault(A, refused) == code


def test_reset_empties_the_caches() -> None:
    world = World()
    world.context(tt=2)
    world.start()
    assert world.dma(A).host_address == A
    world.unit.reset()
    world.context(tt=2, p=0)
    world.start()
    assert world.fault(A) == 0x02


# The property: a result is the translation as it was at some moment since the last covering invalidation

PAGES = [0x1000, 0x2000, 0x20_0000, 0x20_1000, 0x40_0000]
DIDS = (1, 2)
DEVICES = (NIC, DISK)
ENTRIES = [0, R, W, RW, 0x9000 | RW, 0xA000 | RW, 0xB000 | R, 0xC000 | RW | 1 << 62]
BIG_ENTRIES = [0, 0x8000_0000 | RW | PS, 0x8020_0000 | R | PS]
Verdicts = set[naive.Verdict]


class Tracked(World):
    """A world that also keeps, for every domain, page and access, all verdicts since the last covering invalidation.

    Domain d always has the same top table, so a domain stands for a context entry (None: absent).
    There are no caches of upper levels: those may join an old table to a page that was never in it at the time.
    """

    def __init__(self) -> None:
        super().__init__(policy=Policy(cache_upper_levels=False))
        self.tops = {did: self.page() for did in DIDS}
        self.leaves: dict[tuple[int, int], int] = {}
        self.middles: dict[tuple[int, int], int] = {}
        for did, page in itertools.product(DIDS, PAGES):
            places = self.map(self.tops[did], 4, page, 0)
            self.leaves[did, page], self.middles[did, page >> 21] = places[1], places[2]
        self.tables = {at: self.memory.read_u64(at) for at in self.middles.values()}
        self.contexts: dict[SourceId, set[int | None]] = {device: {1} for device in DEVICES}
        for device in DEVICES:
            self.context(device, table=self.tops[1], did=1)
        self.start()
        self.possible: dict[tuple[int, int, Any], Verdicts] = {
            (did, page, access): self.now(did, page, access)
            for did, page, access in itertools.product(DIDS, PAGES, (READ, WRITE))
        }

    def now(self, did: int, page: int, access: Any) -> Verdicts:
        """The outcome by the tables in memory now."""
        return naive.walk(self.memory.read_u64, self.capabilities, self.tops[did], 4, page, access, 1)

    def changed(self) -> None:
        """Memory was written: the outcome by the new tables is possible too."""
        for key in self.possible:
            self.possible[key] = self.possible[key] | self.now(*key)

    def set_leaf(self, did: int, page: int, entry: int) -> None:
        self.put(self.leaves[did, page], entry)
        self.changed()

    def set_middle(self, did: int, page: int, entry: int) -> None:
        """A 2 MiB page, nothing, or (with None in the test's choice) the table again."""
        at = self.middles[did, page >> 21]
        self.put(at, entry or self.tables[at])
        self.changed()

    def set_context(self, device: SourceId, did: int | None) -> None:
        self.context(device, table=self.tops[did or 1], did=did or 1, p=0 if did is None else 1)
        self.contexts[device] = self.contexts[device] | {did}

    def invalidate_context_cache(self, cirg: int, device: SourceId, did: int) -> None:
        assert self.invalidate_contexts(cirg, did=did, sid=device) == cirg
        for source_id in DEVICES:
            entry = self.memory.read_u64(self.context_address(source_id))
            high = self.memory.read_u64(self.context_address(source_id) + 8)
            live = high >> 8 & 0xFFFF if entry & 1 else None
            if cirg == 1 or (cirg == 3 and source_id == device):
                self.contexts[source_id] = {live}
            elif cirg == 2:
                self.contexts[source_id] = self.contexts[source_id] - {did} | {live}

    def invalidate_iotlb(self, iirg: int, did: int, page: int, am: int) -> None:
        assert self.invalidate_pages(iirg, did=did, address=page, am=am) == iirg
        for key in self.possible:
            domain_hit = iirg == 1 or key[0] == did
            if domain_hit and (iirg != 3 or key[1] >> 12 + am == page >> 12 + am):
                self.possible[key] = self.now(*key)

    def request(self, device: SourceId, page: int, access: Any) -> None:
        outcome = self.dma(page, access, device)
        got = ("fault", int(outcome.fault)) if outcome.fault else ("host", outcome.host_address)
        allowed = [
            {("fault", 0x02)} if did is None else self.possible[did, page, access] for did in self.contexts[device]
        ]
        assert got in set().union(*allowed)


devices, dids, pages = st.sampled_from(DEVICES), st.sampled_from(DIDS), st.sampled_from(PAGES)
steps = st.one_of(
    st.tuples(st.just(Tracked.request), devices, pages, st.sampled_from((READ, WRITE))),
    st.tuples(st.just(Tracked.request), devices, pages, st.sampled_from((READ, WRITE))),
    st.tuples(st.just(Tracked.set_leaf), dids, pages, st.sampled_from(ENTRIES)),
    st.tuples(st.just(Tracked.set_middle), dids, pages, st.sampled_from(BIG_ENTRIES)),
    st.tuples(st.just(Tracked.set_context), devices, st.sampled_from((None, *DIDS))),
    st.tuples(st.just(Tracked.invalidate_context_cache), st.sampled_from((1, 2, 3)), devices, dids),
    st.tuples(
        st.just(Tracked.invalidate_iotlb), st.sampled_from((1, 2, 3)), dids, pages, st.sampled_from((0, 1, 9, 10))
    ),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(steps, min_size=10, max_size=60))
def test_no_result_is_older_than_the_last_covering_invalidation(wanted: list[tuple[Any, ...]]) -> None:
    world = Tracked()
    for step, *arguments in wanted:
        step(world, *arguments)
    for device, page, access in itertools.product(DEVICES, PAGES, (READ, WRITE)):
        world.request(device, page, access)
    world.invalidate_context_cache(1, NIC, 0)
    world.invalidate_iotlb(1, 0, 0, 0)
    for device, page, access in itertools.product(DEVICES, PAGES, (READ, WRITE)):
        world.request(device, page, access)


def test_context_entry_with_an_unreadable_table_is_not_cached() -> None:
    """4.2, CM=0: erroneous entries are not cached; 0x03 (LCT.4.3) is an error of the context entry."""
    world = World()
    world.context(table=ABSENT)
    world.start()
    assert world.fault(0x4000_0000) == 0x03
    top = world.page()
    world.map(top, 4, 0x4000_0000, 0x9000 | RW)
    world.context(table=top)
    assert world.dma(0x4000_0000).host_address == 0x9000


def test_page_in_the_interrupt_range_is_not_cached() -> None:
    """4.2, CM=0: faulting entries are not cached."""
    world = World()
    top = world.device()
    world.map(top, 4, 0x4000_0000, 0xFEE0_0000 | RW)
    world.start()
    assert world.fault(0x4000_0000) == 0x0E
    world.map(top, 4, 0x4000_0000, 0x9000 | RW)
    assert world.dma(0x4000_0000).host_address == 0x9000


def test_dropping_one_pasid_in_every_domain_counts_what_stays() -> None:
    """The cache never holds more than its capacity, also after an invalidation that names a PASID and no domain."""
    cache = StructureCache(2)
    for pasid in (5, 6):
        cache.fill(1, pasid, 0x5000, 1, Table(0x1000, 3))
    cache.invalidate(Selector.translations(None, 5))
    for pasid in (7, 8):
        cache.fill(1, pasid, 0x5000, 1, Table(0x1000, 3))
    assert [tag for tag, levels in cache.tags() if any(levels)] == [(1, 7), (1, 8)]
