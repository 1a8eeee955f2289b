"""`RemappingUnit.mappings`: what a device can reach, compared with what requests of the device get."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import (
    Attributes,
    Capabilities,
    DmaRequest,
    FlatMemory,
    Mapping,
    MisuseError,
    Policy,
    ProcessorCache,
    RemappingUnit,
    SourceId,
)
from tests.engine import naive, naive_scalable, test_against_naive_scalable, test_walk_against_naive
from tests.engine.scalable_world import (
    A2,
    ALL1,
    D2,
    FIRST,
    HOST,
    NESTED,
    PASS,
    SAME,
    SCALABLE,
    SECOND,
    XD,
    ScalableWorld,
    build,
    first_stage,
    nested,
    second_stage,
)
from tests.engine.world import DISK, GCMD, NIC, PS, READ, RTADDR, RW, SNP, SRTP, TE, WRITE, R, W, World, held, mapped

ALL = 1 << 64
BEFORE, AFTER = range(0xFEE0_0000), range(0xFEF0_0000, ALL)
"""All addresses but the interrupt address range (3.14)."""


class Seen(NamedTuple):
    """A mapping without its attributes."""

    start: int
    stop: int
    host: int
    rights: str


def seen(unit: RemappingUnit, *which: Any, source_id: SourceId = NIC, **more: Any) -> list[Seen]:
    """The mappings of a device."""
    return [shown(each) for each in unit.mappings(source_id, *which, **more)]


def shown(each: Mapping) -> Seen:
    rights = zip("rwx", (each.readable, each.writable, each.executable), strict=True)
    return Seen(each.addresses.start, each.addresses.stop, each.host, "".join(r for r, has in rights if has))


# One unit at a time, by hand.


def test_one_page() -> None:
    assert seen(mapped().unit) == [Seen(0x5000, 0x6000, 0x9000, "rw")]
    assert seen(mapped().unit, source_id=DISK) == []


def test_neighbours_that_continue_each_other_are_one() -> None:
    world = mapped(entry=0x9000 | RW)
    top = world.memory.read_u64(world.context_address(NIC)) & ~0xFFF
    for address, entry in ((0x6000, 0xA003), (0x7000, 0xB001), (0x8000, 0xC001), (0x9000, 0xF001), (0xB000, 0x11001)):
        world.map(top, 4, address, entry)
    world.map(top, 4, 0x20_0000, 0x20_0000 | PS | R, leaf=2)
    assert seen(world.unit) == [
        Seen(0x5000, 0x7000, 0x9000, "rw"),
        Seen(0x7000, 0x9000, 0xB000, "r"),
        Seen(0x9000, 0xA000, 0xF000, "r"),
        Seen(0xB000, 0xC000, 0x11000, "r"),
        Seen(0x20_0000, 0x40_0000, 0x20_0000, "r"),
    ]


def test_pages_of_several_sizes_join() -> None:
    world = mapped(address=0x1F_F000, entry=0x1F_F000 | W)
    top = world.memory.read_u64(world.context_address(NIC)) & ~0xFFF
    world.map(top, 4, 0x20_0000, 0x20_0000 | PS | W, leaf=2)
    world.map(top, 4, 0x4000_0000, 0x4000_0000 | PS | W, leaf=3)
    assert seen(world.unit) == [
        Seen(0x1F_F000, 0x40_0000, 0x1F_F000, "w"),
        Seen(0x4000_0000, 0x8000_0000, 0x4000_0000, "w"),
    ]


def test_only_the_addresses_that_are_wanted() -> None:
    world = mapped(address=0x4000_0000, entry=PS | RW)
    top = world.memory.read_u64(world.context_address(NIC)) & ~0xFFF
    world.map(top, 4, 0x4000_0000, PS | RW, leaf=3)
    few = range(0x4000_1234, 0x4000_1238)
    assert seen(world.unit, addresses=few) == [Seen(few.start, few.stop, 0x1234, "rw")]
    assert seen(world.unit, addresses=range(0x8000_0000, ALL)) == seen(world.unit, addresses=range(0)) == []


def test_pages_with_and_without_snooping_are_apart() -> None:
    world = mapped(entry=0x9000 | RW | SNP, snoop_control=True)
    world.map(world.memory.read_u64(world.context_address(NIC)) & ~0xFFF, 4, 0x6000, 0xA000 | RW)
    assert [each.attributes for each in world.unit.mappings(NIC)] == [Attributes(snooped=True), Attributes()]


def test_translation_off_is_identity_except_for_interrupts() -> None:
    """3.4: while translation is off nothing is remapped; 3.14: requests to the range without PASID are interrupts."""
    unit = World().unit
    assert seen(unit) == [
        Seen(BEFORE.start, BEFORE.stop, 0, "rw"),
        Seen(AFTER.start, AFTER.stop, AFTER.start, "rw"),
    ]
    assert seen(unit, 0) == seen(unit), "a PASID is ignored (3.1)"
    assert next(unit.mappings(NIC, None, AFTER)).size == ALL - 0xFEF0_0000


@pytest.mark.parametrize(("pasid", "rights"), [(None, "rw"), (SAME, "rw")])
def test_pass_through_is_identity_up_to_the_host_address_width(pasid: int | None, rights: str) -> None:
    """3.9; SGN.4: beyond the host address width, SGN.8: the interrupt range as a host address."""
    unit = build(PASS, host_address_width=46).unit
    assert seen(unit, pasid) == [Seen(0, 0xFEE0_0000, 0, rights), Seen(0xFEF0_0000, 1 << 46, 0xFEF0_0000, rights)]


def test_abort_mode_lets_nothing_pass() -> None:
    world = ScalableWorld()
    world.latch(world.root | 3 << 10)
    world.write(GCMD, TE)
    assert seen(world.unit) == seen(world.unit, 5) == []


def test_a_host_page_over_the_interrupt_range_is_cut() -> None:
    """3.14: the interrupt range is not a valid result either (LGN.4)."""
    world = mapped(entry=RW)
    top = world.memory.read_u64(world.context_address(NIC)) & ~0xFFF
    world.map(top, 4, 0x4000_0000, 0xC000_0000 | PS | RW, leaf=3)
    assert seen(world.unit, addresses=range(0x4000_0000, ALL)) == [
        Seen(0x4000_0000, 0x7EE0_0000, 0xC000_0000, "rw"),
        Seen(0x7EF0_0000, 0x8000_0000, 0xFEF0_0000, "rw"),
    ]


def test_protected_memory_is_cut_out() -> None:
    """11.4.8: DMA to an enabled region is blocked."""
    world = World(protected_low=True, address_width=39, levels=(3,))
    top = world.device(levels=3)
    world.map(top, 3, 0x4000_0000, PS | RW, leaf=3)
    world.start()
    world.write(0x68, 0x20_0000)
    world.write(0x6C, 0x3F_FFFF)
    world.write(0x64, 1 << 31)
    assert seen(world.unit) == [
        Seen(0x4000_0000, 0x4020_0000, 0, "rw"),
        Seen(0x4040_0000, 0x8000_0000, 0x40_0000, "rw"),
    ]


def test_upper_half_of_a_first_stage() -> None:
    """3.6.1: addresses are canonical."""
    top = ALL - 0x1000
    world = build(FIRST, address=top)
    assert seen(world.unit, SAME) == [Seen(top, ALL, HOST, "rw")]
    assert seen(world.unit, SAME, addresses=range(top + 8, ALL)) == [Seen(top + 8, ALL, HOST + 8, "rw")]


def test_execute_permission() -> None:
    """ERE in the PASID-table entry, no XD at any level, and a PASID: a request without one asks for none."""
    world = build(FIRST, pasid_entry={"ere": 1})
    assert [each.rights for each in (*seen(world.unit, SAME), *seen(world.unit))] == ["rwx", "rw"]
    assert [each.rights for each in seen(first_stage(HOST | ALL1 | XD, pasid_entry={"ere": 1}).unit, SAME)] == ["rw"]


def test_nested_pieces() -> None:
    """3.8: a large page of the first stage over small ones of the second; both must permit."""
    guest = 0x4000_0000
    world = nested(guest | PS | ALL1, 0x9000 | R, first_leaf=2, address=0x20_0000)
    world.map(world.second_top, 4, guest + 0x1000, 0xA000 | R)
    world.map(world.second_top, 4, guest + 0x5000, 0xB000 | RW)
    world.map(world.second_top, 4, guest + 0x20_0000, 0xC000 | RW)
    assert seen(world.unit) == [
        Seen(0x20_0000, 0x20_2000, 0x9000, "r"),
        Seen(0x20_5000, 0x20_6000, 0xB000, "rw"),
    ]


@pytest.mark.parametrize("snooped", [0, 1])
def test_entries_that_the_unit_cannot_mark_map_nothing(snooped: int) -> None:
    """SSS.5, SFS.9: an accessed bit has to be set, but the walk is not snooped."""
    wanted = {"pwsnp": snooped}
    expected = ["rw"] if snooped else []
    second = second_stage(pasid_entry={**wanted, "ssade": 1})
    assert [each.rights for each in seen(second.unit)] == expected
    assert [each.rights for each in seen(first_stage(pasid_entry=wanted).unit)] == expected
    for at in second.second.values():
        second.change(at, add=A2)
    assert [each.rights for each in seen(second.unit)] == ["rw" if snooped else "r"], "D is missing for a write"


def test_the_same_page_below_entries_that_differ() -> None:
    """What leads to a page counts too: its permissions (3.7.1), and whether that can be marked (SSS.5)."""
    world = second_stage(HOST | RW | A2 | D2, address=0x5000, pasid_entry={"ssade": 1, "pwsnp": 0})
    for level in (4, 3, 2):
        world.change(world.second[level], add=A2)
    table = world.memory.read_u64(world.second[2])
    world.put(world.second[2] + 8, table & ~W)
    world.put(world.second[2] + 16, table & ~A2)
    world.put(world.second[2] + 24, table)
    assert seen(world.unit) == [
        Seen(0x5000, 0x6000, HOST, "rw"),
        Seen(0x20_5000, 0x20_6000, HOST, "r"),
        Seen(0x60_5000, 0x60_6000, HOST, "rw"),
    ]


def test_the_same_page_in_first_stage_tables_that_differ_below() -> None:
    """SFS.8: the accessed bit of an entry cannot be set where the second stage makes its table read-only."""
    world = nested(address=0x5000)
    other = world.page()
    world.put(other + 8 * 5, world.memory.read_u64(world.first[1]))
    under = world.map(world.second_top, 4, 0x3_0000_0000, other | R)
    world.put(world.first[2] + 8, 0x3_0000_0000 | ALL1)
    assert seen(world.unit) == [Seen(0x5000, 0x6000, HOST, "rw")]
    world.change(under[1], add=W)
    assert seen(world.unit) == [Seen(0x5000, 0x6000, HOST, "rw"), Seen(0x20_5000, 0x20_6000, HOST, "rw")]


def test_addresses_beyond_the_guest_address_width_are_not_mapped() -> None:
    """LGN.1; SGN.5, also of the guest address that a first stage gives."""
    world = mapped(address=(1 << 42) - 0x1000, address_width=42, levels=(4,))
    top = world.memory.read_u64(world.context_address(NIC)) & ~0xFFF
    world.map(top, 4, 1 << 42, 0xA000 | RW)
    assert seen(world.unit) == [Seen((1 << 42) - 0x1000, 1 << 42, 0x9000, "rw")]
    for page, expected in (((1 << 42) - 0x1000, 1), (1 << 42, 0)):
        assert len(seen(nested(page | ALL1, address_width=42, depths=(4,)).unit)) == expected


def test_lines_that_processors_hold_back_are_not_seen() -> None:
    behind = mapped()
    cpu = ProcessorCache(behind.memory)
    unit = RemappingUnit(cpu, Capabilities(coherent=False))
    unit.mmio_write(RTADDR, behind.root, 8)
    unit.mmio_write(GCMD, SRTP, 4)
    unit.mmio_write(GCMD, TE, 4)
    where = behind.map(behind.memory.read_u64(behind.context_address(NIC)) & ~0xFFF, 4, 0x6000, 0)[1]
    cpu.write_u64(where, 0x1_0000 | RW)
    assert [each.start for each in seen(unit)] == [0x5000]
    cpu.flush_all()
    assert [each.start for each in seen(unit)] == [0x5000, 0x6000]


def test_what_cannot_be_read_is_absent() -> None:
    world = mapped(entry=0x9000 | RW)
    top = world.memory.read_u64(world.context_address(NIC)) & ~0xFFF
    beyond = 1 << 30
    world.put(top + 8, beyond | RW)
    assert seen(world.unit) == [Seen(0x5000, 0x6000, 0x9000, "rw")]
    edge = FlatMemory(0x3000 + 8 * 16)
    for at, word in ((0x1000, 0x2001), (0x2000 + 16 * NIC.devfn, 0x3001), (0x2008 + 16 * NIC.devfn, 1 << 8 | 1)):
        edge.write_u64(at, word)
    edge.write_u64(0x3000 + 8 * 15, 0x4000_0000 | PS | RW)
    unit = RemappingUnit(edge, Capabilities(address_width=39, levels=(3,)))
    unit.mmio_write(RTADDR, 0x1000, 8)
    unit.mmio_write(GCMD, SRTP, 4)
    unit.mmio_write(GCMD, TE, 4)
    assert seen(unit) == [Seen(15 << 30, 16 << 30, 0x4000_0000, "rw")], "memory ends within the table"


def test_a_table_that_points_at_itself_is_listed_lazily() -> None:
    world = World()
    top = world.device()
    for index in range(512):
        world.put(top + 8 * index, top | RW)
    world.start()
    first = list(itertools.islice(world.unit.mappings(NIC), 3))
    assert [(each.addresses, each.host) for each in first] == [(range(n << 12, n + 1 << 12), top) for n in range(3)]
    last = seen(world.unit, addresses=range((1 << 48) - 0x1000, ALL))
    assert last == [Seen((1 << 48) - 0x1000, 1 << 48, top, "rw")]


def test_tables_that_map_nothing_are_not_read_again_and_again() -> None:
    """Three levels of 512 entries each that lead to one empty table: 2**27 ways to nothing."""
    world = World()
    top, tables = world.device(), [world.page() for _ in range(3)]
    for table, below in zip((top, *tables), tables, strict=False):
        for index in range(512):
            world.put(table + 8 * index, below | RW)
    world.start()
    assert seen(world.unit) == []


def test_permissions_that_no_page_can_have_end_the_walk() -> None:
    """Readable only, then writable only: nothing is left, whatever is below."""
    world = World()
    top, below = world.device(), world.page()
    for index in range(512):
        world.put(top + 8 * index, below | R)
        world.put(below + 8 * index, top | W)
    world.start()
    assert seen(world.unit) == []


@pytest.mark.parametrize("pgtt", [FIRST, SECOND, NESTED, PASS])
def test_nothing_is_changed(pgtt: int) -> None:
    """No cache, no fault record, no accessed or dirty bit."""
    world = build(pgtt, audit=True, pasid_entry={} if pgtt == PASS else {"ssade": int(pgtt != FIRST)})
    before = world.memory.read(0, world.memory.size)
    assert seen(world.unit, addresses=range(1 << 36)) and not seen(world.unit, 9)
    assert world.memory.read(0, world.memory.size) == before
    assert held(world.unit.caches) == held(ScalableWorld().unit.caches)
    assert world.records() == []


def test_stale_translations_are_not_mappings() -> None:
    world = mapped()
    assert world.dma(0x5000).host_address == 0x9000
    world.map(world.memory.read_u64(world.context_address(NIC)) & ~0xFFF, 4, 0x5000, 0)
    assert world.dma(0x5000).host_address == 0x9000
    assert seen(world.unit) == []


def test_registers_count_as_they_are_when_asked() -> None:
    world = mapped()
    found = world.unit.mappings(NIC)
    world.write(GCMD, 0)
    assert [shown(each) for each in found] == [Seen(0x5000, 0x6000, 0x9000, "rw")]


@pytest.mark.parametrize(
    "ask",
    [
        lambda unit: unit.mappings(0x20),
        lambda unit: unit.mappings(NIC, 1 << 20),
        lambda unit: unit.mappings(NIC, addresses=range(0, 0x8000, 2)),
        lambda unit: unit.mappings(NIC, addresses=range(-1, 5)),
        lambda unit: unit.mappings(NIC, addresses=range(ALL + 1)),
    ],
)
def test_bad_questions_are_refused_at_once(ask: Callable[[RemappingUnit], object]) -> None:
    with pytest.raises(MisuseError):
        ask(World().unit)


# Against requests, on random tables.

Verdict = tuple[int | None, int | None, bool]
"""The host address of a read, that of a write, and whether a read to execute was granted."""


def told(found: list[Mapping], address: int) -> Verdict:
    """What mappings say of an address."""
    for each in found:
        if address in each.addresses:
            host = each.host_of(address)
            return host if each.readable else None, host if each.writable else None, each.executable
    return None, None, False


def requested(unit: RemappingUnit, source_id: SourceId, pasid: int | None, address: int) -> Verdict:
    """What requests of a unit that has cached nothing get."""
    read, write = (unit.translate(DmaRequest(source_id, address, each, 1, pasid)) for each in (READ, WRITE))
    if pasid is None:
        return read.host_address, write.host_address, False
    run = unit.translate(DmaRequest(source_id, address, READ, 1, pasid, execute=True))
    return read.host_address, write.host_address, run.executable


def pages_near(found: list[Mapping], window: range, pick: random.Random) -> Iterator[int]:
    """Addresses on both sides of the borders of mappings, and some at random."""
    borders = {at for each in found for at in (each.addresses.start, each.addresses.stop)}
    chosen = pick.sample(sorted(borders), min(len(borders), 12))
    near = [*chosen, window.start, window.stop, 0xFEE0_0000, 0xFEF0_0000]
    for at in near:
        yield from (each for each in (at - 1, at) if each in window)
    for _ in range(12):
        yield pick.randrange(window.start, window.stop)


starts = (0, 0, 0x7FE0_0000, 0xC000_0000, 1 << 38, (1 << 42) - (1 << 15), (1 << 47) - (1 << 24), ALL - (1 << 25))
windows = st.tuples(st.sampled_from(starts), st.sampled_from((1 << 16, 1 << 22, 1 << 25)))


def some(found: Iterator[Mapping]) -> tuple[list[Mapping], int]:
    """The first mappings, and up to where they tell everything."""
    listed = list(itertools.islice(found, 400))
    return listed, listed[-1].addresses.stop if len(listed) == 400 else ALL


def check_order(found: list[Mapping]) -> None:
    """In order, without overlap, and no two that are one."""
    for one, other in itertools.pairwise(found):
        assert one.addresses.stop <= other.addresses.start
        assert not one.goes_on_in(other)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    trouble=st.sampled_from((0.0, 0.02, 0.05, 0.2)),
    offered=test_walk_against_naive.capabilities,
    sizes=test_walk_against_naive.page_sizes,
    number=st.integers(0, 0xFFFF),
    place=windows,
)
def test_mappings_of_legacy_mode_say_what_requests_get(
    seed: int, trouble: float, offered: dict[str, Any], sizes: tuple[bool, bool], number: int, place: tuple[int, int]
) -> None:
    tables = test_walk_against_naive.RandomTables(seed, trouble, offered["levels"])
    can = Capabilities(**offered, page_2m=sizes[0], page_1g=sizes[1])
    unit = RemappingUnit(tables, can)
    for offset, value, size in ((RTADDR, test_walk_against_naive.ROOT, 8), (GCMD, SRTP, 4), (GCMD, TE, 4)):
        unit.mmio_write(offset, value, size)
    source_id, window = SourceId.of(number), range(place[0], place[0] + place[1])
    found, end = some(unit.mappings(source_id, addresses=window))
    check_order(found)
    for address in pages_near(found, range(window.start, min(window.stop, end)), random.Random(seed)):
        says = told(found, address)
        assert says == requested(unit, source_id, None, address), hex(address)
        if address >> 20 != 0xFEE:
            for access, host in zip((READ, WRITE), says, strict=False):
                verdicts = naive.translate(
                    tables.read_u64, can, test_walk_against_naive.ROOT, number, address, access
                )
                hosts = [where if kind == "host" else None for kind, where in verdicts]
                assert host in hosts, hex(address)


scalable_worlds: dict[str, Any] = {
    "seed": st.integers(0, 1 << 32),
    "trouble": st.sampled_from((0.0, 0.0, 0.005, 0.02, 0.05)),
    "changes": test_against_naive_scalable.capabilities,
    "types": st.sampled_from(
        ((FIRST,), (SECOND,), (NESTED,), (NESTED,), (PASS,), (FIRST, SECOND, NESTED, PASS)),
    ),
    "per_level": st.sampled_from((False, False, False, True)),
}


class RandomWorld(NamedTuple):
    """Random tables in scalable mode, and a unit that uses them."""

    can: Capabilities
    tables: test_against_naive_scalable.RandomTables
    policy: Policy
    root: int

    @classmethod
    def of(
        cls, seed: int, trouble: float, changes: dict[str, Any], types: tuple[int, ...], per_level: bool
    ) -> RandomWorld:
        """Made from what `scalable_worlds` gives."""
        can = test_against_naive_scalable.offer(changes)
        tables = test_against_naive_scalable.RandomTables(seed, trouble, can, types)
        return cls(can, tables, Policy(permission_per_level=per_level), test_against_naive_scalable.ROOT | SCALABLE)

    def unit(self) -> RemappingUnit:
        """A new unit; the accessed and dirty bits that others have set are not in its memory."""
        made = RemappingUnit(test_against_naive_scalable.Written(self.tables, set()), self.can, self.policy)
        for offset, value, size in ((RTADDR, self.root, 8), (GCMD, SRTP, 4), (GCMD, TE, 4)):
            made.mmio_write(offset, value, size)
        return made


@settings(max_examples=120, deadline=None)
@given(
    **scalable_worlds,
    number=st.integers(0, 0xFFFF),
    pasid=test_against_naive_scalable.pasids,
    place=windows,
)
def test_mappings_of_scalable_mode_say_what_requests_get(
    number: int, pasid: int | None, place: tuple[int, int], **made: Any
) -> None:
    world = RandomWorld.of(**made)
    source_id, window = SourceId.of(number), range(place[0], place[0] + place[1])
    found, end = some(world.unit().mappings(source_id, pasid, window))
    check_order(found)
    for address in pages_near(found, range(window.start, min(window.stop, end)), random.Random(made["seed"])):
        says = told(found, address)
        assert says == requested(world.unit(), source_id, pasid, address), hex(address)
        for access, host in zip((READ, WRITE), says, strict=False):
            request = DmaRequest(source_id, address, access, 1, pasid)
            answers = naive_scalable.outcomes(
                world.tables.read_u64,
                world.can,
                world.root,
                request,
                per_level=made["per_level"],
            )
            assert any(answer.host == host for answer in answers), hex(address)
