"""Who reaches what, and what of it matters: domains, findings, certificates, stale translations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from iommu import Access, Capabilities, DmaRequest, FlatMemory, MisuseError, RemappingUnit, SourceId
from iommu.batch.reach import Budget, Range, reachable
from iommu.batch.reach_domains import Spaces, who_can_reach
from iommu.batch.reach_findings import Machine, findings, places
from iommu.batch.reach_hosts import Hosts
from iommu.batch.reach_never import never
from iommu.batch.reach_stale import StalePage, stale
from iommu.engine.request import AddressType
from iommu.snapshot import Snapshot
from tests.engine.scalable_world import ALL1, FIRST, HOST, NESTED, PASS, SAME, XD, P, build, first_stage
from tests.engine.world import DISK, NIC, PS, RW, R, W, World, mapped

CARELESS = Path(__file__).parents[2] / "fixtures" / "snapshots" / "careless.vtd"
CARD = SourceId(0, 9, 0)


def reached(unit: RemappingUnit, *which: int | None, **more: object) -> list[tuple[int, int, int, str]]:
    return [tuple(each) for each in reachable(unit, NIC, *which, **more)]  # type: ignore[arg-type, misc]


def test_one_page() -> None:
    assert reached(mapped().unit) == [(0x5000, 0x1000, 0x9000, "rw")]


def test_an_address_is_found_in_its_range() -> None:
    found = reachable(mapped().unit, NIC)
    assert found.find(0x5FFF) == Range(0x5000, 0x1000, 0x9000, "rw")
    assert (found.find(0x4FFF), found.find(0x6000)) == (None, None)


def test_a_part_of_the_host_addresses() -> None:
    found = reachable(mapped().unit, NIC).to(range(0x9100, 0x9180))
    assert [tuple(each) for each in found] == [(0x5100, 0x80, 0x9100, "rw")]


def test_where_nothing_translates_everything_but_interrupts_is_reached() -> None:
    unit = RemappingUnit(FlatMemory(1 << 16), Capabilities(host_address_width=39))
    assert reached(unit) == [
        (0, 0xFEE0_0000, 0, "rw"),
        (0xFEF0_0000, (1 << 64) - 0xFEF0_0000, 0xFEF0_0000, "rw"),
    ]


@pytest.mark.parametrize("which", [(0x10000,), (NIC, 1 << 20)])
def test_what_no_request_has_is_refused(which: tuple[int, ...]) -> None:
    with pytest.raises(MisuseError):
        reachable(mapped().unit, *which)


# Tables that describe more than can be listed.


def looped() -> World:
    """The top table points to itself: 512 ways at each level."""
    world = mapped()
    top = world.memory.read_u64(world.context_address(NIC)) & ~0xFFF
    world.put(top, *[top | RW] * 512)
    return world


def test_a_table_that_points_to_itself_is_read_once_for_each_level() -> None:
    world, reads = looped(), 0
    read = world.memory.read

    def counted(address: int, length: int) -> bytes:
        nonlocal reads
        reads += length
        return read(address, length)

    world.memory.read = counted  # type: ignore[method-assign]
    found = reachable(world.unit, NIC, budget=Budget(runs=10_000))
    assert found.cut_short
    assert 0 < len(found) <= 10_000
    assert reads < 100_000


def test_a_budget_of_tables_is_kept_and_what_is_listed_is_right() -> None:
    unit = mapped().unit
    assert len(reachable(unit, NIC, budget=Budget(tables=3))) == 0
    assert reachable(unit, NIC, budget=Budget(tables=3)).cut_short
    assert not reachable(unit, NIC, budget=Budget(tables=4)).cut_short


# Sets of host addresses.


def hosts(*ranges: tuple[int, int]) -> Hosts:
    return Hosts.of_ranges(range(*each) for each in ranges)


def test_ranges_that_touch_are_one() -> None:
    assert hosts((5, 8), (0, 3), (2, 5), (10, 11)).ranges() == [range(8), range(10, 11)]


@pytest.mark.parametrize("seed", range(30))
def test_sets_against_sets(seed: int) -> None:
    pick = np.random.default_rng(seed)
    several = []
    for _ in range(4):
        starts = pick.integers(0, 60, 5).tolist()
        several.append([range(start, start + int(pick.integers(1, 9))) for start in starts])
    plain = [{number for each in ranges for number in each} for ranges in several]
    made = [Hosts.of_ranges(ranges) for ranges in several]

    def back(found: Hosts) -> set[int]:
        return {number for each in found.ranges() for number in each}

    assert back(Hosts.united(made)) == set().union(*plain)
    assert back(made[0].within(made[1])) == plain[0] & plain[1]
    assert back(made[0].outside(made[1])) == plain[0] - plain[1]
    assert back(Hosts.in_two(made)) == {each for each in range(80) if sum(each in one for one in plain) >= 2}
    assert [each.size for each in made] == [len(each) for each in plain]


# Who.


def shared() -> World:
    """NIC and CARD use the same tables, DISK has its own, which leads to the same page; NIC's domain is 1."""
    world = World(pass_through=True)
    top = world.device(NIC, did=1)
    world.map(top, 4, 0x5000, 0x9_9000 | RW)
    world.context(CARD, table=top, did=1)
    world.map(world.device(DISK, did=2), 4, 0x7000, 0x9_9000 | R)
    return world.start()


def test_devices_with_the_same_tables_are_one_space() -> None:
    spaces = list(Spaces(shared().unit))
    assert [[str(one) for one in each.requesters] for each in spaces] == [["00:04.0", "00:09.0"], ["00:05.0"]]


def test_who_reaches_a_page() -> None:
    found = who_can_reach(shared().unit, range(0x9_9800, 0x9_9801))
    assert [(each.requesters[0].source_id, [tuple(one) for one in each.reach]) for each in found] == [
        (NIC, [(0x5800, 1, 0x9_9800, "rw")]),
        (DISK, [(0x7800, 1, 0x9_9800, "r")]),
    ]
    assert who_can_reach(shared().unit, range(0xA_A000, 0xA_B000)) == []


def test_devices_whose_entries_are_refused_reach_nothing() -> None:
    world = shared()
    world.context(DISK, table=world.page(), did=2, extra=1 << 60)
    assert [one.source_id for each in Spaces(world.unit) for one in each.requesters] == [NIC, CARD]


def test_each_pasid_and_privileged_requests_are_requesters() -> None:
    """A supervisor page is reached by privileged requests alone (3.6.1)."""
    world = first_stage(HOST | P, between=ALL1)
    found = {str(one): each.reach for each in Spaces(world.unit) for one in each.requesters}
    assert list(found) == ["00:04.0", f"00:04.0 PASID {SAME:#x}", f"00:04.0 PASID {SAME:#x} privileged"]
    assert [len(each) for each in found.values()] == [0, 0, 1]


def test_where_translation_is_off_every_device_reaches_everything() -> None:
    (space,) = Spaces(World().unit)
    assert (str(space.requesters[0]), space.passes) == ("every device", True)


# What matters.


def found_in(world: World, machine: Machine | None = None) -> list[tuple[str, str, int, int]]:
    asked = Spaces(world.unit)
    spaces = list(asked)
    known = machine or Machine()
    made = findings(places(world.unit, asked, spaces, known), spaces, known)
    return [(each.kind, each.what, each.reached.size, each.writable.size) for each in made.found]


def test_a_page_of_two_domains() -> None:
    assert found_in(shared()) == [("domains", "the domains 1, 2", 0x1000, 0x1000)]


def test_the_same_domain_may_share() -> None:
    world = shared()
    world.map(world.device(DISK, did=1), 4, 0x7000, 0x9_9000 | R)
    assert found_in(world) == []


@pytest.mark.parametrize(("page", "what"), [(0x1000, "the root table"), (0x3000, "a context table")])
def test_tables_of_the_unit(page: int, what: str) -> None:
    world = World()
    top = world.device()
    world.map(top, 4, 0x5000, page | R)
    assert found_in(world.start()) == [("tables", what, 0x1000, 0)]


def test_page_tables_themselves() -> None:
    world = World()
    top = world.device()
    places_of = world.map(top, 4, 0x5000, 0x9000 | RW)
    world.map(top, 4, 0x6000, places_of[1] & ~0xFFF | W)
    assert found_in(world.start()) == [("tables", "page tables", 0x1000, 0x1000)]


def test_the_kernel_registers_and_what_is_no_ram() -> None:
    world = World(host_address_width=40)
    top = world.device()
    for address, host in ((0x5000, 0x10_0000), (0x6000, 0xFED9_0000), (0x7000, 0xF_0000_0000)):
        world.map(top, 4, address, host | RW)
    machine = Machine(
        [range(16 << 20)], [("registers", range(0xFED9_0000, 0xFED9_1000))], [], range(0x10_0800, 0x20_0000)
    )
    assert found_in(world.start(), machine) == [
        ("registers", "registers", 0x1000, 0x1000),
        ("kernel", "the kernel's text", 0x800, 0x800),
        ("no RAM", "addresses without RAM", 0x1000, 0x1000),
    ]


def test_about_pass_through_nothing_else_is_said() -> None:
    world = shared()
    world.context(CARD, tt=2)
    asked = Spaces(world.unit)
    spaces = list(asked)
    made = findings(places(world.unit, asked, spaces, Machine()), spaces, Machine())
    assert [str(one) for one in made.everything] == ["00:09.0"]
    assert [each.kind for each in made.found] == ["domains"]


# Certificates.

WITHOUT_DEVICE_TLB = {"dte": 0, "pre": 0}


def test_a_proof_has_what_is_reached_and_why_not_more() -> None:
    proof = never(shared().unit, DISK, range(0xA_A000, 0xA_B000))
    assert proof.holds
    (evidence,) = proof.evidence
    assert (evidence.below, evidence.above) == (range(0x9_9000, 0x9_A000), None)
    assert proof.entries == {("second stage", level, "not present"): 511 for level in (1, 2, 3, 4)}


def test_a_counterexample_goes_through() -> None:
    world = shared()
    found = never(world.unit, DISK, range(0x9_9FFF, 0x20_0000))
    assert found.counterexample == DmaRequest(DISK, 0x7FFF, Access.READ)
    assert world.unit.translate(found.counterexample).host_address == 0x9_9FFF
    assert not found.holds


def test_translated_requests_reach_everything() -> None:
    """4.2.5: the unit lets the translated requests of a device pass if its entry allows a device-TLB."""
    world = mapped(tt=1, device_tlb=True)
    found = never(world.unit, NIC, range(0x20_0000, 0x20_1000))
    assert found.counterexample is not None
    assert found.counterexample.address_type is AddressType.TRANSLATED
    assert world.unit.translate(found.counterexample).host_address == 0x20_0000


def test_privileged_requests_count() -> None:
    found = never(first_stage(HOST | P, context=WITHOUT_DEVICE_TLB).unit, NIC, range(HOST, HOST + 1))
    assert found.counterexample is not None
    assert found.counterexample.privileged


def test_a_page_without_write_permission_is_read() -> None:
    world = first_stage(HOST | ALL1 & ~2 | XD, context=WITHOUT_DEVICE_TLB)
    found = never(world.unit, NIC, range(HOST, HOST + 1)).counterexample
    assert found is not None
    assert found.access is Access.READ
    assert never(world.unit, NIC, range(HOST)).holds


def test_a_device_without_an_entry_reaches_nothing() -> None:
    proof = never(shared().unit, SourceId(3, 0, 0), range(1 << 64))
    assert (proof.holds, proof.evidence) == (True, [])


@pytest.mark.parametrize("pgtt", [NESTED, PASS])
def test_nested_and_pass_through(pgtt: int) -> None:
    unit = build(pgtt, context=WITHOUT_DEVICE_TLB).unit
    assert never(unit, NIC, range(HOST, HOST + 0x1000)).counterexample is not None
    assert never(unit, NIC, range(0x30_0000, 0x30_1000)).holds == (pgtt == NESTED)


def test_what_is_cut_short_is_no_proof() -> None:
    world = looped()
    found = never(world.unit, NIC, range(0x9000, 0xA000))
    assert (found.holds, found.cut_short) == (False, True)


# Stale.


def test_a_page_that_was_unmapped_and_not_invalidated() -> None:
    world = mapped()
    world.dma(0x5000)
    assert not stale(world.unit, list(Spaces(world.unit)))
    entry = world.map(world.memory.read_u64(world.context_address(NIC)) & ~0xFFF, 4, 0x5000, 0)
    found = stale(world.unit, list(Spaces(world.unit)))
    assert found.pages == [StalePage(1, None, 0x5000, 0x1000, 0x9000, "rw")]
    assert found.cached["pages"] == 1
    world.put(entry[1], 0x9000 | R)
    assert [page.rights for page in stale(world.unit, list(Spaces(world.unit))).pages] == ["rw"]
    world.invalidate_pages(1)
    assert not stale(world.unit, list(Spaces(world.unit)))


def test_a_context_that_has_changed() -> None:
    world = mapped()
    world.dma(0x5000)
    world.context(NIC, table=world.page(), did=3)
    assert stale(world.unit, list(Spaces(world.unit))).contexts == [NIC]


def test_a_pasid_table_entry_that_has_changed() -> None:
    world = build(FIRST)
    world.dma()
    world.put(world.pasids[NIC, 0], 0)
    assert stale(world.unit, list(Spaces(world.unit))).pasids == [(NIC, 0)]


def test_the_careless_system_of_the_documentation() -> None:
    """fixtures/snapshots/make.py says what it does."""
    unit = Snapshot.open(CARELESS).units[0].unit()
    asked = Spaces(unit)
    spaces = list(asked)
    assert [tuple(page) for page in stale(unit, spaces).pages] == [(1, None, 0x20_0000, 0x1000, 0x34_0000, "rw")]
    machine = Machine(kernel=range(0x100_0000, 0x120_0000))
    made = findings(places(unit, asked, spaces, machine), spaces, machine)
    assert [(each.kind, [str(one) for one in each.writers], each.reached.ranges()) for each in made.found] == [
        ("tables", ["00:06.0"], [range(0x5000, 0x6000)]),
        ("kernel", ["00:05.0"], [range(0x100_0000, 0x100_4000)]),
        ("domains", ["00:04.0"], [range(0x30_7000, 0x30_8000)]),
    ]


# More of the unit's rules.


def test_protected_memory_is_not_reached() -> None:
    """11.4.8."""
    world = World(protected_low=True, address_width=39, levels=(3,))
    world.map(world.device(levels=3), 3, 0x4000_0000, PS | RW, leaf=3)
    world.start()
    for offset, value in ((0x68, 0x20_0000), (0x6C, 0x3F_FFFF), (0x64, 1 << 31)):
        world.write(offset, value)
    assert reached(world.unit) == [
        (0x4000_0000, 0x20_0000, 0, "rw"),
        (0x4040_0000, 0x3FC0_0000, 0x40_0000, "rw"),
    ]


def test_many_pages_of_two_kinds() -> None:
    """Every other page can only be read: none continues another."""
    world = World()
    table = world.map(world.device(), 4, 0, 0)[1]
    for index in range(512):
        world.put(table + 8 * index, 0x10_0000 + 0x1000 * index | (R if index % 2 else RW))
    found = reachable(world.start().unit, NIC)
    assert len(found) == 512
    assert [tuple(found[at]) for at in (0, 1, 511)] == [
        (0, 0x1000, 0x10_0000, "rw"),
        (0x1000, 0x1000, 0x10_1000, "r"),
        (0x1F_F000, 0x1000, 0x2F_F000, "r"),
    ]


def test_software_may_use_the_bits_that_hardware_ignores() -> None:
    """9.8: they part nothing."""
    world = World()
    table = world.map(world.device(), 4, 0, 0)[1]
    for index in range(4):
        world.put(table + 8 * index, 0x10_0000 + 0x1000 * index | index << 52 | RW)
    assert reached(world.start().unit) == [(0, 0x4000, 0x10_0000, "rw")]
