"""mapper.py: mappings are those requested, after any operations; the engine translates by every mapping."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import Access, Capabilities, DmaRequest, FaultReason, FlatMemory, MisuseError, RemappingUnit, SourceId
from iommu.registers import GCMD, RTADDR
from iommu.structures import FirstStageMapper, PageAllocator, SecondStageMapper

K4, M2, G1 = 1 << 12, 1 << 21, 1 << 30
NIC = SourceId(0, 4, 0)
Stage = type[SecondStageMapper] | type[FirstStageMapper]
STAGES = [SecondStageMapper, FirstStageMapper]


def make(stage: Stage = SecondStageMapper, levels: int = 4, **options: Any) -> Any:
    """A mapper over 32 MiB; `tables` on it is the allocator."""
    memory = FlatMemory(32 << 20)
    tables = PageAllocator(0x10_0000, 32 << 20)
    mapper: Any = stage(memory, tables, levels, **options)
    mapper.tables = tables
    return mapper


def entries(mapper: Any, address: int, host: int, length: int, **flags: Any) -> list[tuple[int, ...]]:
    mapper.map(address, host, length, **flags)
    return [(page.address, page.host, page.size) for page in mapper.mappings(address, length)]


# Entries, bit by bit (spec 9.7, 9.8).


@pytest.mark.parametrize(
    ("flags", "low"),
    [
        ({}, 0x3),
        ({"write": False}, 0x1),
        ({"read": False}, 0x2),
        ({"snoop": True}, 0x803),
        ({"accessed": True}, 0x103),
        ({"dirty": True}, 0x203),
    ],
)
@pytest.mark.parametrize(("size", "large"), [(K4, 0), (M2, 0x80), (G1, 0x80)])
def test_second_stage_entries(flags: dict[str, bool], low: int, size: int, large: int) -> None:
    mapper = make()
    mapper.map(3 * G1, 5 * G1, size, **flags)
    assert mapper.memory.read_u64(mapper.lookup(3 * G1).where) == 5 * G1 | low | large


@pytest.mark.parametrize(
    ("flags", "bits"),
    [
        ({}, 0x7),
        ({"write": False}, 0x5),
        ({"user": False}, 0x3),
        ({"execute": False}, 0x7 | 1 << 63),
        ({"accessed": True, "dirty": True}, 0x67),
    ],
)
@pytest.mark.parametrize(("size", "large"), [(K4, 0), (M2, 0x80), (G1, 0x80)])
def test_first_stage_entries(flags: dict[str, bool], bits: int, size: int, large: int) -> None:
    mapper = make(FirstStageMapper)
    mapper.map(3 * G1, 5 * G1, size, **flags)
    assert mapper.memory.read_u64(mapper.lookup(3 * G1).where) == 5 * G1 | bits | large


@pytest.mark.parametrize(("stage", "low"), [(SecondStageMapper, 0x3), (FirstStageMapper, 0x7)])
def test_upper_entries_give_every_permission(stage: Stage, low: int) -> None:
    mapper = make(stage)
    mapper.map(0, 0, K4)
    table = mapper.root
    for _ in range(3):
        entry = mapper.memory.read_u64(table)
        assert entry & 0xFFF == low
        table = entry & ~0xFFF


def test_tables_are_indexed_by_nine_bits_a_level() -> None:
    mapper = make(levels=5)
    mapper.map(3 << 48 | 5 << 39 | 7 << 30 | 9 << 21 | 11 << 12, 0x9000, K4)
    table = mapper.root
    for index in (3, 5, 7, 9):
        table = mapper.memory.read_u64(table + 8 * index) & ~0xFFF
    assert mapper.memory.read_u64(table + 8 * 11) == 0x9003


# Page sizes.


def test_largest_page_that_fits() -> None:
    pages = entries(make(), G1 - M2 - K4, 4 * G1 - M2 - K4, K4 + M2 + G1 + M2 + K4)
    assert pages == [
        (G1 - M2 - K4, 4 * G1 - M2 - K4, K4),
        (G1 - M2, 4 * G1 - M2, M2),
        (G1, 4 * G1, G1),
        (2 * G1, 5 * G1, M2),
        (2 * G1 + M2, 5 * G1 + M2, K4),
    ]


def test_host_address_counts_for_the_page_size_too() -> None:
    assert {size for *_, size in entries(make(), M2, M2 + K4, M2)} == {K4}


def test_page_sizes_that_the_unit_lacks_are_not_chosen() -> None:
    assert {size for *_, size in entries(make(page_sizes=[K4, M2]), G1, G1, G1)} == {M2}
    assert {size for *_, size in entries(make(page_sizes=[K4]), M2, M2, M2)} == {K4}


def test_page_size_that_is_asked_for() -> None:
    assert {size for *_, size in entries(make(), 0, 0, 4 * M2, page_size=K4)} == {K4}
    assert {size for *_, size in entries(make(), 0, 0, G1, page_size=M2)} == {M2}


# Splitting, unmapping, tables.


@pytest.mark.parametrize("stage", STAGES)
def test_unmapping_a_part_splits_a_page_and_keeps_its_flags(stage: Stage) -> None:
    mapper = make(stage)
    mapper.map(G1, 3 * G1, G1, write=False, accessed=True)
    before = mapper.lookup(G1).entry
    assert mapper.unmap(G1 + 5 * M2 + 7 * K4, K4) == K4
    assert mapper.lookup(G1 + 5 * M2 + 7 * K4) is None
    near, far = mapper.lookup(G1 + 5 * M2 + 8 * K4), mapper.lookup(G1 + 6 * M2)
    assert (near.host, near.size) == (3 * G1 + 5 * M2 + 8 * K4, K4)
    assert (far.host, far.size) == (3 * G1 + 6 * M2, M2)
    assert near.entry.raw & 0x17F == before.raw & 0x17F
    assert far.entry.raw & 0xFFF == before.raw & 0xFFF
    assert sum(page.size for page in mapper.mappings()) == G1 - K4


def test_memory_type_keeps_its_meaning_when_a_first_stage_page_is_split() -> None:
    """PAT is bit 12 of a large page and bit 7 of a small one (spec 9.7)."""
    mapper = make(FirstStageMapper)
    mapper.map_entries(0, G1, G1, 0x87)
    assert mapper.lookup(0).entry.raw == G1 | 1 << 12 | 0x87
    mapper.unmap(0, K4)
    assert mapper.lookup(K4).entry.raw == G1 | K4 | 0x87
    assert mapper.lookup(M2).entry.raw == G1 | M2 | 1 << 12 | 0x87


def test_unmapping_whole_large_pages_needs_no_table() -> None:
    mapper = make()
    mapper.map(G1, G1, G1 + 2 * M2)
    used = mapper.tables.used
    assert mapper.unmap(G1, G1 + M2) == G1 + M2
    assert [page.address for page in mapper.mappings()] == [2 * G1 + M2]
    assert mapper.tables.used == used


def test_unmapping_what_is_not_mapped() -> None:
    mapper = make()
    mapper.map(0x5000, 0x9000, K4)
    assert mapper.unmap(0, G1) == K4
    assert mapper.unmap(0, G1) == 0


def test_empty_tables_stay_without_release() -> None:
    kept, pruned = make(), make()
    pruned.release = pruned.tables.free
    for mapper in (kept, pruned):
        mapper.map(0x5000, 0x9000, 2 * K4)
        mapper.unmap(0x5000, K4)
        assert mapper.tables.used == 4
        mapper.unmap(0x6000, K4)
    assert (kept.tables.used, pruned.tables.used) == (4, 1)
    assert pruned.memory.read(pruned.root, K4) == bytes(K4)
    pruned.map(0x5000, 0xA000, K4)
    assert pruned.lookup(0x5000).host == 0xA000


def test_existing_tables_are_used() -> None:
    first = make()
    first.map(0x5000, 0x9000, K4)
    second = SecondStageMapper(first.memory, first.tables, root=first.root)
    assert [page.host for page in second.mappings()] == [0x9000]


def test_upper_half_of_the_first_stage() -> None:
    mapper = make(FirstStageMapper)
    top = (1 << 64) - K4
    mapper.map(top, 0x9000, K4)
    mapper.map((1 << 64) - (1 << 47), 0xA000, K4)
    assert [page.address for page in mapper.mappings()] == [(1 << 64) - (1 << 47), top]
    assert mapper.unmap(top, K4) == K4


# What is refused, with nothing written.


@pytest.mark.parametrize(
    ("address", "host", "length"),
    [(1, 0, K4), (0, 1, K4), (0, 0, 1), (0, 0, 0), (-K4, 0, K4), (0, -K4, K4), (1 << 48, 0, K4), (0, 1 << 52, K4)],
)
@pytest.mark.parametrize("stage", STAGES)
def test_invalid_ranges_are_refused(stage: Stage, address: int, host: int, length: int) -> None:
    mapper = make(stage)
    with pytest.raises(MisuseError):
        mapper.map(address, host, length)
    assert mapper.tables.used == 1


@pytest.mark.parametrize("address", [(1 << 47) - K4, 1 << 47, 1 << 63, (1 << 64) - K4])
def test_ranges_that_are_not_canonical_are_refused(address: int) -> None:
    with pytest.raises(MisuseError):
        make(FirstStageMapper).map(address, 0, 2 * K4)


def test_mapped_ranges_are_refused() -> None:
    mapper = make()
    mapper.map(M2, 0, M2)
    used = mapper.tables.used
    with pytest.raises(MisuseError, match="0x200000 is mapped already, to 0x0"):
        mapper.map(0, 0, G1)
    assert mapper.tables.used == used
    assert mapper.lookup(0) is None


@pytest.mark.parametrize(
    "make_one",
    [
        lambda: make(levels=2),
        lambda: make(FirstStageMapper, levels=3),
        lambda: make(page_sizes=[M2]),
        lambda: make(page_sizes=[K4, 1 << 39]),
        lambda: make().map(0, 0, K4, read=False, write=False),
        lambda: make().map(0, 0, K4, page_size=M2),
        lambda: make().map(0, 0, K4, page_size=5),
        lambda: PageAllocator(0x1000, 0x1000),
        lambda: PageAllocator(0x1000, 0x2001),
    ],
)
def test_misuse_is_refused(make_one: Any) -> None:
    with pytest.raises(MisuseError):
        make_one()


def test_allocator() -> None:
    pages = PageAllocator(0x1000, 0x4000)
    assert [pages(), pages(), pages()] == [0x1000, 0x2000, 0x3000]
    with pytest.raises(MisuseError, match="no page is left"):
        pages()
    pages.free(0x2000)
    assert (pages.used, pages(), pages.used) == (2, 0x2000, 3)
    pages.free(0x2000)
    for page in (0x2000, 0x2800, 0x4000, 0):
        with pytest.raises(MisuseError):
            pages.free(page)


# Against a dictionary.

BASE = G1 - 4 * M2
"""The range of the random operations crosses a 1 GiB boundary."""
STARTS = st.integers(0, 8 * 512) | st.integers(0, 8).map(lambda large: large * 512)
RANGES = st.tuples(STARTS, st.sampled_from([1, 2, 3, 511, 512, 513, 1024, 2048]))


@settings(max_examples=60, deadline=None)
@given(
    stage=st.sampled_from(STAGES),
    prune=st.booleans(),
    steps=st.lists(st.tuples(st.booleans(), RANGES, st.integers(0, 3), st.booleans()), max_size=12),
)
def test_random_operations(stage: Stage, prune: bool, steps: list[tuple[bool, tuple[int, int], int, bool]]) -> None:
    mapper = make(stage)
    mapper.release = mapper.tables.free if prune else None
    pages: dict[int, tuple[int, bool]] = {}
    for is_map, (start, count), shift, write in steps:
        address = BASE + start * K4
        wanted = range(address, address + count * K4, K4)
        if not is_map:
            assert mapper.unmap(address, count * K4) == K4 * sum(pages.pop(page, None) is not None for page in wanted)
            continue
        host = address + shift * 7 * M2 + (shift % 2) * K4
        if any(page in pages for page in wanted):
            with pytest.raises(MisuseError):
                mapper.map(address, host, count * K4, write=write)
        else:
            mapper.map(address, host, count * K4, write=write)
            pages |= {page: (page - address + host, write) for page in wanted}
    found = {
        page.address + offset: (page.host + offset, bool(page.entry.raw & 2))
        for page in mapper.mappings()
        for offset in range(0, page.size, K4)
    }
    assert found == pages
    if prune and not pages:
        assert mapper.tables.used == 1


# Against the engine.


def unit_over(mapper: Any, stage: Stage, levels: int) -> RemappingUnit:
    """A unit in which NIC goes through the mapper's tables; entries as plain numbers (spec 9.1 to 9.6)."""
    memory, root = mapper.memory, 0x1000
    put = memory.write_u64
    put(root, 0x2001)
    if stage is SecondStageMapper:
        put(0x2000 + 16 * NIC.devfn, mapper.root | 1)
        put(0x2008 + 16 * NIC.devfn, 1 << 8 | levels - 2)
        unit = RemappingUnit(memory, Capabilities(address_width=12 + 9 * levels, host_address_width=52))
    else:
        put(0x2000 + 32 * NIC.devfn, 0x3001)
        put(0x3000, 0x4001)
        # P, first stage; domain 1, walk snooped; first-stage table, 4 or 5 levels.
        put(0x4000, 1 << 6 | 1)
        put(0x4008, 1 | 1 << 23)
        put(0x4010, mapper.root | (levels - 4) << 2)
        unit = RemappingUnit(memory, Capabilities.full(host_address_width=52))
        root |= 1 << 10
    unit.mmio_write(RTADDR.offset, root, 8)
    unit.mmio_write(GCMD.offset, GCMD.make(SRTP=1), 4)
    unit.mmio_write(GCMD.offset, GCMD.make(TE=1), 4)
    return unit


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from([(SecondStageMapper, 3), (SecondStageMapper, 4), (SecondStageMapper, 5)])
    | st.sampled_from([(FirstStageMapper, 4), (FirstStageMapper, 5)]),
    start=st.integers(0, 3 * 512 * 512),
    count=st.sampled_from([1, 2, 512, 513, 1025, 512 * 512, 512 * 512 + 1]),
    host=st.integers(0, 1 << 22),
    same_offset=st.booleans(),
    write=st.booleans(),
    picks=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=8),
)
def test_engine_reads_every_mapping_back(
    case: tuple[Stage, int],
    start: int,
    count: int,
    host: int,
    same_offset: bool,
    write: bool,
    picks: list[int],
) -> None:
    stage, levels = case
    mapper = make(stage, levels)
    target = (1 << 40) + (start if same_offset else host) * K4
    mapper.map(start * K4, target, count * K4, write=write)
    unit = unit_over(mapper, stage, levels)
    for pick in [0, count * K4 - 1, *picks]:
        offset = pick % (count * K4)
        read = unit.translate(DmaRequest(NIC, start * K4 + offset, Access.READ))
        assert (read.host_address, read.writable) == (target + offset, write)
        assert read.page_size == mapper.lookup(start * K4 + offset).size
        wrote = unit.translate(DmaRequest(NIC, start * K4 + offset, Access.WRITE))
        assert wrote.host_address == (target + offset if write else None)
    beyond = unit.translate(DmaRequest(NIC, (start + count) * K4, Access.READ))
    absent = FaultReason.LGN_3 if stage is SecondStageMapper else FaultReason.SFS_2
    assert beyond.fault is absent


class CountedMemory(FlatMemory):
    """Memory that counts how often it is written."""

    writes = 0

    def write(self, address: int, data: bytes) -> None:
        self.writes += 1
        super().write(address, data)


@pytest.mark.parametrize("stage", STAGES)
def test_whole_tables_are_written_at_once(stage: Stage) -> None:
    memory = CountedMemory(32 << 20)
    mapper: Any = stage(memory, PageAllocator(0x10_0000, 32 << 20))
    mapper.map(3 * K4, 1 << 32, G1, page_size=K4)
    # 511 whole tables and two that are not, with the tables above them; no entry by itself.
    assert memory.writes < 530
    assert mapper.lookup(3 * K4 + G1 - 1).host == (1 << 32) + G1 - K4


@pytest.mark.parametrize(
    ("stage", "levels"), [*((SecondStageMapper, n) for n in (3, 4, 5)), *((FirstStageMapper, n) for n in (4, 5))]
)
@pytest.mark.parametrize("size", [K4, M2, G1])
def test_whole_tables_hold_what_single_pages_do(stage: Stage, levels: int, size: int) -> None:
    """Over the end of a table of tables, in the middle of one, and where a table is there already."""
    start, pages = (M2 * 510 - 5 * K4, 2100) if size == K4 else (0, 512 if size == M2 else 300)
    at_once, singly = make(stage, levels), make(stage, levels)
    for mapper in (at_once, singly):
        mapper.map(M2 * 512 * (size == K4) + 7 * size, 0, K4)
        mapper.unmap(M2 * 512 * (size == K4) + 7 * size, K4)
    at_once.map(start, 1 << 40, pages * size, page_size=size)
    for number in range(pages):
        singly.map(start + number * size, (1 << 40) + number * size, size, page_size=size)
    one, other = ([(page.address, page.host, page.size) for page in it.mappings()] for it in (at_once, singly))
    assert one == other
    assert at_once.tables.used == singly.tables.used


def test_what_was_filled_before_the_allocator_fails_stays_mapped() -> None:
    memory = FlatMemory(1 << 20)
    mapper = SecondStageMapper(memory, PageAllocator(0x1000, 0x9000))
    with pytest.raises(MisuseError, match="no page is left"):
        mapper.map(0, 1 << 32, G1, page_size=K4)
    mapped = list(mapper.mappings())
    assert [page.host for page in mapped] == [(1 << 32) + number * K4 for number in range(len(mapped))]
    assert len(mapped) == 5 * 512, "three of the eight pages are upper tables"


def test_a_gibibyte_of_small_pages_takes_less_than_half_a_second() -> None:
    mapper = make()
    start = time.perf_counter()
    mapper.map(0, 1 << 32, G1, page_size=K4)
    assert time.perf_counter() - start < 0.5
    assert mapper.tables.used == 1 + 1 + 1 + 512
