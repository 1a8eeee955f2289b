"""system.py: which unit a request, an interrupt or a register access reaches, on made-up machines."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from iommu import (
    Access,
    AddressType,
    Capabilities,
    Device,
    DmaRequest,
    FlatMemory,
    InterruptRequest,
    MisuseError,
    Outcome,
    PageRequest,
    RemappingUnit,
    RoutingError,
    SourceId,
    System,
)
from iommu.dmar import Dmar
from iommu.dmar.pci import PciAddress, PciFunction, PciTree, PortType
from tests.dmar.hand import andd, drhd, rmrr, scope, table

GCMD, RTADDR, FSTS, FECTL, FEADDR, VER = 0x18, 0x20, 0x34, 0x38, 0x40, 0x00
A, B, C, ALL, OTHER = 0xFED9_0000, 0xFED9_1000, 0xFED9_2000, 0xFED9_8000, 0xFEDA_0000
NIC, DISK = SourceId(0, 2, 0), SourceId(0, 0x17, 0)


def at(text: str) -> PciAddress:
    return PciAddress.parse(text)


def sid(text: str) -> SourceId:
    return SourceId(*at(text)[1:])


def fn(text: str, below: int | None = None, to: int | None = None, kind: int = 0, **more: Any) -> PciFunction:
    """A function; a bridge to the buses `below` to `to`."""
    return PciFunction(at(text), secondary=below, subordinate=to or below, pcie_type=kind, **more)


ROOT_PORT, TO_PCI, PCI = PortType.ROOT_PORT, PortType.EXPRESS_TO_PCI, PortType.CONVENTIONAL

# The functions of the topology tests: 00:1c.0 is a port to a PCI Express to PCI bridge, with a conventional bridge
# below; 00:1d.0 is a port to a network card with virtual functions on bus 6, one bus further than its own.
TREE = PciTree(
    [
        fn("00:02.0"),
        fn("00:17.0"),
        fn("00:1c.0", 1, 4, ROOT_PORT),
        fn("01:00.0", 2, 4, TO_PCI),
        fn("02:03.0", kind=PCI),
        fn("02:04.0", 3, 4, PCI),
        fn("03:01.0", kind=PCI),
        fn("00:1d.0", 5, 6, ROOT_PORT),
        fn("05:00.0"),
        fn("05:00.1"),
        fn("06:10.0", physical=at("05:00.0")),
    ]
)
TABLE = Dmar.parse(
    table(
        drhd(A, scope(1, 0, (2, 0))),
        drhd(B, scope(2, 0, (0x1C, 0))),
        drhd(C, scope(1, 0, (0x1D, 0), (0, 0)), scope(3, 0, (0x1D, 0), (0, 7), number=9)),
        drhd(
            ALL,
            scope(3, 0xF0, (31, 0), number=2),
            scope(4, 0xF0, (15, 0)),
            scope(5, 0, (0x15, 3), number=1),
            flags=1,
        ),
        drhd(OTHER, scope(1, 0x80, (3, 0)), scope(4, 0xF0, (15, 1), number=1), segment=1),
        andd(1, b"\\_SB.PCI0.I2C0\0"),
    )
)


def mapping(memory: FlatMemory, system: System, base: int, *sources: SourceId, host: int) -> None:
    """Turn a unit on, with page 0x5000 mapped to `host` for these source-ids (legacy mode, three levels)."""
    top = host + 0x1000  # the tables lie behind the page: root, context, three levels
    root, context, levels = top, top + 0x1000, [top + 0x2000, top + 0x3000, top + 0x4000]
    for source_id in sources:
        memory.write_u64(root + 16 * source_id.bus, context | 1)
        memory.write_u64(context + 16 * source_id.devfn, levels[0] | 1)
        memory.write_u64(context + 16 * source_id.devfn + 8, 1 << 8 | 1)
    memory.write_u64(levels[0], levels[1] | 3)
    memory.write_u64(levels[1], levels[2] | 3)
    memory.write_u64(levels[2] + 8 * 5, host | 3)
    system.mmio_write(base + RTADDR, root, 8)
    system.mmio_write(base + GCMD, 1 << 30, 4)
    system.mmio_write(base + GCMD, 1 << 31, 4)


LEGACY = Capabilities(address_width=39, host_address_width=39, queued_invalidation=True)


def world(tree: PciTree | None = TREE, dmar: Dmar = TABLE) -> tuple[FlatMemory, System]:
    memory = FlatMemory(8 << 20)
    return memory, System.from_dmar(dmar, memory, LEGACY, tree=tree)


def base_of(system: System, segment: int, source_id: SourceId) -> int | None:
    unit = system.unit_for(segment, source_id)
    return None if unit is None else next(base for base, each in system.units.items() if each is unit)


def request(source_id: SourceId, address: int = 0x5000, **more: Any) -> DmaRequest:
    return DmaRequest(source_id, address, Access.WRITE, **more)


# Making a system


def test_one_unit_for_each_drhd_with_shared_memory() -> None:
    memory, system = world()
    assert list(system.units) == [A, B, C, ALL, OTHER]
    assert len(set(map(id, system.units.values()))) == 5
    assert all(unit.memory is memory for unit in system.units.values())


def test_capabilities_for_each_unit() -> None:
    small = Dmar.parse(table(drhd(A), drhd(ALL, flags=1)))
    offered = {A: Capabilities(address_width=39), ALL: Capabilities(address_width=48)}
    system = System.from_dmar(small, FlatMemory(4096), offered)
    assert [system.units[base].capabilities.address_width for base in (A, ALL)] == [39, 48]
    with pytest.raises(MisuseError, match=f"no entry for the unit at {ALL:#x}"):
        System.from_dmar(small, FlatMemory(4096), {A: Capabilities()})
    with pytest.raises(MisuseError, match="0x1000, where the table has no unit"):
        System.from_dmar(small, FlatMemory(4096), {**offered, 0x1000: Capabilities()})


@pytest.mark.parametrize(
    ("structures", "said"),
    [
        ([rmrr(0x1000, 0x1FFF, scope(1, 0, (2, 0)))], "no remapping units"),
        ([drhd(0, flags=1)], "register base 0"),
        ([drhd(A), drhd(A, flags=1)], "overlap"),
        ([drhd(A, size=1), drhd(A + 0x1000, flags=1)], "overlap"),
    ],
)
def test_a_table_without_registers_for_each_unit_is_refused(structures: list[bytes], said: str) -> None:
    with pytest.raises(MisuseError, match=said):
        System.from_dmar(Dmar.parse(table(*structures)), FlatMemory(4096))


def test_units_of_one_s_own_kind() -> None:
    class Ours(RemappingUnit):
        pass

    memory, small = FlatMemory(4096), Dmar.parse(table(drhd(A, flags=1)))
    assert isinstance(System(small, {A: Ours(memory)}).unit_for(0, NIC), Ours)
    with pytest.raises(MisuseError, match=f"no unit for the DRHD at {A:#x}"):
        System(small, {B: Ours(memory)})


# Which unit, with a tree

WITH_TREE = {
    "00:02.0": A,  # its own scope
    "00:17.0": ALL,  # in no scope
    "00:15.3": ALL,  # a namespace device's scope
    "00:1c.0": B,  # the bridge of the scope
    "01:00.0": B,  # below it
    "03:01.0": B,  # three bridges below
    "02:1f.7": B,  # plugged in later, behind a bridge that is known (8.3.4)
    "05:00.0": C,  # at the end of a path of two hops
    "05:00.1": ALL,  # its neighbour
    "06:10.0": C,  # a virtual function has the unit of its physical function (8.3.3)
}


@pytest.mark.parametrize(("address", "base"), WITH_TREE.items())
def test_with_a_tree(address: str, base: int) -> None:
    assert base_of(world()[1], 0, sid(address)) == base


def test_a_bus_that_the_tree_does_not_have_is_refused() -> None:
    with pytest.raises(RoutingError, match="no bus 07 in segment 0"):
        world()[1].unit_for(0, sid("07:00.0"))


def test_a_virtual_bus_belongs_to_the_nearest_bridge_with_it_in_its_range() -> None:
    tree = PciTree([fn("00:01.0", 1, 9, ROOT_PORT), fn("01:00.0", 2, 4, ROOT_PORT), fn("01:01.0", 5, 5, ROOT_PORT)])
    assert [str(parent.address) for bus in (3, 5, 6) if (parent := tree.parent(PciAddress(0, bus, 0, 0)))] == [
        "0000:01:00.0",
        "0000:01:01.0",
        "0000:00:01.0",
    ]
    assert tree.parent(PciAddress(0, 10, 0, 0)) is None and tree.parent(PciAddress(1, 3, 0, 0)) is None


# Without a tree


@pytest.mark.parametrize(
    ("address", "base"),
    [("00:02.0", A), ("00:1c.0", B), ("00:17.0", ALL), ("00:15.3", ALL), ("00:1d.0", ALL)],
)
def test_without_a_tree_integrated_devices_are_routed(address: str, base: int) -> None:
    """They are on the first bus of a host bridge, where no scope but their own can cover them."""
    assert base_of(world(None)[1], 0, sid(address)) == base


def test_without_a_tree_what_may_be_below_a_bridge_is_refused() -> None:
    _, system = world(None)
    with pytest.raises(RoutingError, match=r"01:00.0 needs a PCI tree: scope 00:1c.0 of the unit at .* is a bridge"):
        system.unit_for(0, sid("01:00.0"))
    with pytest.raises(RoutingError, match="needs a PCI tree"):
        system.translate(request(sid("01:00.0")))
    hops = Dmar.parse(table(drhd(C, scope(1, 0, (0x1D, 0), (0, 0))), drhd(ALL, flags=1)))
    with pytest.raises(RoutingError, match=r"scope 00:1d.0/00.0 of the unit at .* has a path of several hops"):
        world(None, hops)[1].unit_for(0, sid("01:00.0"))


def test_without_a_tree_include_pci_all_decides_where_nothing_else_can() -> None:
    plain = Dmar.parse(table(drhd(A, scope(1, 0, (2, 0))), drhd(ALL, flags=1)))
    _, system = world(None, plain)
    assert [base_of(system, 0, sid(each)) for each in ("00:02.0", "00:02.1", "05:00.0")] == [A, ALL, ALL]


def test_without_a_tree_a_bridge_on_another_host_bridge_is_no_obstacle() -> None:
    """Start buses are the first buses of host bridges (8.3.1): bus 0x20 is on the host bridge of bus 0x18."""
    server = Dmar.parse(table(drhd(A, scope(2, 0x18, (0, 0))), drhd(B, scope(2, 0x60, (0, 0))), drhd(ALL, flags=1)))
    _, system = world(None, server)
    assert base_of(system, 0, sid("05:00.0")) == base_of(system, 0, sid("18:01.0")) == ALL
    for bus, obstacle in (("20:00.0", "18:00.0"), ("61:00.0", "60:00.0")):
        with pytest.raises(RoutingError, match=f"scope {obstacle}"):
            system.unit_for(0, sid(bus))


def test_a_bridge_in_the_scope_of_include_pci_all_itself_changes_nothing() -> None:
    _, system = world(None, Dmar.parse(table(drhd(ALL, scope(2, 0, (0x1C, 0)), flags=1))))
    assert base_of(system, 0, sid("01:00.0")) == ALL


# Errors of tables


def test_a_device_in_two_units_has_the_first() -> None:
    """As in Linux: dmar_pci_bus_add_dev stops at the first unit; the specification allows one unit only (8.3)."""
    for first, second in ((A, B), (B, A)):
        twice = Dmar.parse(table(drhd(first, scope(1, 0, (2, 0))), drhd(second, scope(1, 0, (2, 0)))))
        for tree in (None, TREE):
            assert base_of(world(tree, twice)[1], 0, NIC) == first


def test_a_device_without_a_unit_is_not_remapped() -> None:
    memory, system = world(None)
    mapping(memory, system, OTHER, sid("80:03.0"), host=0x10_0000)
    assert system.unit_for(1, NIC) is None
    assert system.translate(request(NIC, 0x5678), segment=1).host_address == 0x5678
    assert system.translate(request(NIC, 0xFEE0_0000, length=4), segment=1).interrupt
    asked = system.translate(request(NIC, address_type=AddressType.TRANSLATION_REQUEST), segment=1)
    assert asked.host_address is None and asked.fault is None
    assert system.remap_interrupt(InterruptRequest(NIC, 0xFEE0_0000, 0x41), segment=1).passed
    assert system.translate(request(NIC), segment=5).host_address == 0x5000


# Requests


def test_each_unit_translates_by_its_own_tables() -> None:
    memory, system = world()
    mapping(memory, system, A, NIC, host=0x10_0000)
    mapping(memory, system, C, sid("05:00.0"), sid("06:10.0"), host=0x20_0000)
    mapping(memory, system, ALL, DISK, host=0x30_0000)
    for _ in range(3):  # found, then kept
        found = [system.translate(request(each)).host_address for each in (NIC, sid("05:00.0"), sid("06:10.0"), DISK)]
        assert found == [0x10_0000, 0x20_0000, 0x20_0000, 0x30_0000]
    assert system.translate(request(sid("05:00.1"))).fault is not None


def test_a_unit_can_be_reset() -> None:
    memory, system = world()
    mapping(memory, system, A, NIC, host=0x10_0000)
    assert system.translate(request(NIC)).host_address == 0x10_0000
    system.units[A].reset()
    assert system.translate(request(NIC)).host_address == 0x5000
    mapping(memory, system, A, NIC, host=0x20_0000)
    assert system.translate(request(NIC)).host_address == 0x20_0000


def test_a_unit_with_a_translate_of_its_own_is_called_by_it() -> None:
    class Counting(RemappingUnit):
        asked = 0

        def translate(self, request: DmaRequest, *, trace: bool = False) -> Outcome:
            self.asked += 1
            return super().translate(request, trace=trace)

    unit = Counting(FlatMemory(4096))
    system = System(Dmar.parse(table(drhd(A, flags=1))), {A: unit})
    assert [system.translate(request(NIC)).host_address for _ in range(2)] == [0x5000] * 2
    assert unit.asked == 2


def test_segments_are_apart() -> None:
    memory, system = world(None)
    mapping(memory, system, OTHER, sid("80:03.0"), host=0x10_0000)
    assert system.translate(request(sid("80:03.0")), segment=1).host_address == 0x10_0000
    with pytest.raises(RoutingError, match="needs a PCI tree"):
        system.translate(request(sid("80:03.0")))


def test_faults_and_events_are_those_of_the_unit() -> None:
    memory, system = world()
    mapping(memory, system, A, NIC, host=0x10_0000)
    system.mmio_write(A + FEADDR, 0xFEE0_1000, 4)
    system.mmio_write(A + FECTL, 0, 4)
    assert system.translate(request(NIC, 0x6000)).recorded
    assert [system.mmio_read(base + FSTS, 4) & 2 for base in (A, ALL)] == [2, 0]
    (events,) = system.drain_events().items()
    assert events[0] == A and [event.address for event in events[1]] == [0xFEE0_1000]
    assert system.drain_events() == {}


def test_page_requests_are_those_of_the_unit() -> None:
    """A unit in legacy mode records one as a fault (7.4, RTA.3); a device without a unit has nobody to ask."""
    memory = FlatMemory(8 << 20)
    system = System.from_dmar(TABLE, memory, Capabilities.full(), tree=TREE)
    mapping(memory, system, A, NIC, host=0x10_0000)
    assert system.page_request(PageRequest(NIC, 0x5000)).recorded
    assert [system.mmio_read(base + FSTS, 4) & 2 for base in (A, ALL)] == [2, 0]
    bare = Dmar.parse(table(drhd(A, scope(1, 0, (2, 0)))))
    with pytest.raises(RoutingError, match=r"no unit takes page requests of 0000:00:17\.0"):
        world(None, bare)[1].page_request(PageRequest(DISK, 0x5000))


def test_the_units_of_a_stepped_system_complete_one_command_at_a_time() -> None:
    system = System.from_dmar(TABLE, FlatMemory(1 << 20), LEGACY, tree=TREE, stepped=True)
    system.mmio_write(A + GCMD, 1 << 30, 4)
    assert [len(unit.pending) for unit in system.units.values()].count(1) == 1
    assert system.mmio_read(A + 0x1C, 4) == 0
    assert system.units[A].step() == 1
    assert system.mmio_read(A + 0x1C, 4) == 1 << 30


@pytest.mark.parametrize(("segment", "source_id"), [(0, 0x10), (0, 70000), (-1, NIC), (0x10000, NIC)])
def test_what_is_no_segment_or_source_id_is_misuse(segment: int, source_id: Any) -> None:
    system = System.from_dmar(TABLE, FlatMemory(1 << 20), LEGACY, tree=TREE)
    for way in (system.unit_for, system.aliases):
        with pytest.raises(MisuseError, match="not a 16-bit number and a SourceId"):
            way(segment, source_id)


def test_an_audited_system_finds_what_is_stale() -> None:
    memory = FlatMemory(8 << 20)
    system = System.from_dmar(TABLE, memory, LEGACY, tree=TREE, audit=True)
    mapping(memory, system, A, NIC, host=0x10_0000)
    system.translate(request(NIC))
    memory.write_u64(0x10_5000 + 8 * 5, 0)
    assert system.translate(request(NIC)).stale


# Aliases (spec 3.11.1, 3.11.2; Linux pci_for_each_dma_alias; QEMU pci_device_get_iommu_bus_devfn)

ALIASES = {
    "05:00.0": ["05:00.0"],
    "06:10.0": ["06:10.0"],
    "01:00.0": ["01:00.0"],  # below a port: the bridge's own requests
    "02:03.0": ["02:03.0", "02:00.0"],  # the secondary bus of the PCI Express to PCI bridge
    "02:04.0": ["02:04.0", "02:00.0"],
    "03:01.0": ["03:01.0", "02:04.0", "02:00.0"],  # first the conventional bridge, then the other
}


@pytest.mark.parametrize(("address", "expected"), ALIASES.items())
def test_aliases(address: str, expected: list[str]) -> None:
    assert [str(each) for each in world()[1].aliases(0, sid(address))] == expected
    assert world(None)[1].aliases(0, sid(address)) == (sid(address),)


@pytest.mark.parametrize("kind", [PortType.CONVENTIONAL, PortType.PCI_TO_EXPRESS])
def test_a_bridge_from_conventional_pci_gives_its_own_id(kind: int) -> None:
    tree = PciTree([fn("00:1e.0", 1, 1, kind), fn("01:05.0", kind=PCI)])
    assert [str(each) for each in tree.aliases(at("01:05.0"))] == ["0000:01:05.0", "0000:00:1e.0"]


def test_the_unit_sees_the_alias() -> None:
    memory, system = world()
    mapping(memory, system, B, sid("02:00.0"), host=0x10_0000)
    assert system.translate(request(sid("03:01.0"))).host_address == 0x10_0000
    assert system.translate(request(sid("02:00.0"))).host_address == 0x10_0000
    direct = system.unit_for(0, sid("03:01.0"))
    assert direct is not None and direct.translate(request(sid("03:01.0"))).fault is not None


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda system: pickle.loads(pickle.dumps(system))])
def test_a_copy_of_a_system_is_apart_from_it(duplicate: Callable[[System], System]) -> None:
    memory, system = world()
    mapping(memory, system, B, sid("02:00.0"), host=0x10_0000)
    assert system.translate(request(sid("03:01.0"))).host_address == 0x10_0000
    other = duplicate(system)
    assert len({id(unit.memory) for unit in other.units.values()} - {id(memory)}) == 1
    other.units[B].reset()
    assert other.translate(request(sid("03:01.0"))).host_address == 0x5000
    assert system.translate(request(sid("03:01.0"))).host_address == 0x10_0000


def test_a_bridge_of_unknown_type_is_refused() -> None:
    unread = PciTree([fn("00:1c.0", 1, 1), fn("01:00.0")])
    unread = PciTree.from_plain([{**each, "pcie_type": None} for each in unread.to_plain()])
    _, system = world(unread)
    assert base_of(system, 0, sid("01:00.0")) == B
    with pytest.raises(RoutingError, match=r"bridge 0000:00:1c\.0, whose PCI Express type"):
        system.translate(request(sid("01:00.0")))
    assert system.translate(request(sid("00:1c.0"))).host_address == 0x5000


# Interrupts


def test_interrupt_sources_and_their_units() -> None:
    _, system = world()
    units = system.units
    assert system.io_apic(2) == (units[ALL], 0, sid("f0:1f.0"))
    assert system.hpet(0) == (units[ALL], 0, sid("f0:0f.0"))
    assert system.hpet(1) == (units[OTHER], 1, sid("f0:0f.1"))
    assert system.namespace_device(r"\_SB.PCI0.I2C0") == (units[ALL], 0, sid("00:15.3"))
    with pytest.raises(RoutingError, match="no scope names I/O APIC 1"):
        system.io_apic(1)
    with pytest.raises(RoutingError, match="no scope names HPET 7"):
        system.hpet(7)
    with pytest.raises(RoutingError, match="no ANDD declares an ACPI device X"):
        system.namespace_device("X")


def test_an_io_apic_behind_a_bridge_needs_the_tree() -> None:
    _, system = world()
    with pytest.raises(RoutingError, match=r"I/O APIC 9 is at 00:1d.0/00.7 .*: the PCI tree has no such function"):
        system.io_apic(9)
    with pytest.raises(RoutingError, match=r"I/O APIC 9 is at 00:1d.0/00.7 .*: needs a PCI tree"):
        world(None)[1].io_apic(9)
    system.rescan(PciTree([*TREE.functions.values(), fn("05:00.7")]))
    assert system.io_apic(9) == (system.units[C], 0, sid("05:00.7"))


def interrupting(memory: FlatMemory, system: System, base: int, irta: int, vector: int) -> None:
    """Turn interrupt remapping on, with entry 0 giving this vector to any source."""
    memory.write_u64(irta, vector << 16 | 1)
    system.mmio_write(base + 0xB8, irta, 8)
    system.mmio_write(base + GCMD, 1 << 24, 4)
    system.mmio_write(base + GCMD, 1 << 25, 4)


def test_interrupts_are_remapped_by_the_unit_of_their_source() -> None:
    memory = FlatMemory(8 << 20)
    offered = Capabilities(queued_invalidation=True, interrupt_remapping=True)
    system = System.from_dmar(TABLE, memory, offered, tree=TREE)
    for number, base in enumerate((A, B, ALL, OTHER)):
        interrupting(memory, system, base, 0x10_0000 + 0x1000 * number, 0x40 + number)

    def vector(source_id: SourceId, segment: int = 0) -> int:
        asked = InterruptRequest(source_id, 0xFEE0_0010, 0)
        outcomes = {system.remap_interrupt(asked, segment).remapped for _ in range(2)}
        (interrupt,) = outcomes
        assert interrupt is not None
        return interrupt.vector

    assert vector(NIC) == 0x40
    assert vector(sid("02:03.0")) == 0x41
    assert vector(DISK) == vector(sid("f0:1f.0")) == vector(sid("f0:0f.0")) == 0x42
    assert vector(sid("f0:0f.1"), segment=1) == 0x43
    with pytest.raises(RoutingError, match="no bus f0"):
        system.translate(request(sid("f0:1f.0")))
    with pytest.raises(MisuseError, match="not in the interrupt range"):
        system.remap_interrupt(InterruptRequest(NIC, 0x1000, 0))


def test_an_interrupt_has_the_alias_too() -> None:
    """5.1.1: an entry that expects the device itself does not get it from behind the bridge."""
    memory = FlatMemory(8 << 20)
    offered = Capabilities(queued_invalidation=True, interrupt_remapping=True)
    system = System.from_dmar(TABLE, memory, offered, tree=TREE)
    interrupting(memory, system, B, 0x10_0000, 0x40)
    for expected, passes in ((sid("02:00.0"), True), (sid("02:03.0"), False)):
        memory.write_u64(0x10_0008, 1 << 18 | expected)  # SVT: all 16 bits
        system.units[B].reset()
        interrupting(memory, system, B, 0x10_0000, 0x40)
        found = system.remap_interrupt(InterruptRequest(sid("02:03.0"), 0xFEE0_0010, 0))
        assert (found.remapped is not None, found.fault is None) == (passes, passes)


# Registers


def test_registers_are_found_by_physical_address() -> None:
    big = Dmar.parse(table(drhd(A, size=1), drhd(ALL, flags=1)))
    _, system = world(None, big)
    assert system.mmio_read(A + VER, 4) == system.units[A].mmio_read(VER, 4)
    system.mmio_write(ALL + FEADDR, 0xFEE0_2000, 4)
    assert system.units[ALL].mmio_read(FEADDR, 4) == 0xFEE0_2000
    assert system.units[A].mmio_read(FEADDR, 4) == 0
    for address in (A - 4, A + 0x2000, ALL + 0x1000, 0):
        with pytest.raises(RoutingError, match=f"no unit has registers at {address:#x}"):
            system.mmio_read(address, 4)
        with pytest.raises(RoutingError, match="no unit"):
            system.mmio_write(address, 0, 4)
    with pytest.raises(MisuseError):
        system.mmio_read(A + 2, 4)


# Hot-plug


def test_a_device_that_was_pulled_out_is_refused_until_it_is_back() -> None:
    memory, system = world()
    mapping(memory, system, A, NIC, host=0x10_0000)
    unit = system.units[A]
    device = Device(unit, NIC, uses_ats=False)
    assert system.attach(device) is unit
    system.detach(NIC)
    assert NIC not in unit.devices
    with pytest.raises(RoutingError, match=r"device 00:02\.0 of segment 0 has been detached"):
        system.translate(request(NIC))
    with pytest.raises(RoutingError, match="has been detached"):
        system.remap_interrupt(InterruptRequest(NIC, 0xFEE0_0000, 0))
    assert system.attach(device) is unit and unit.devices[NIC] is device
    assert system.translate(request(NIC)).host_address == 0x10_0000
    system.detach(NIC)
    system.rescan(TREE)
    assert system.translate(request(NIC)).host_address == 0x10_0000


def test_a_function_that_is_not_attached_can_be_pulled_out_as_well() -> None:
    _, system = world()
    system.detach(DISK)
    with pytest.raises(RoutingError, match="detached"):
        system.translate(request(DISK))


def test_attaching_needs_a_unit_and_a_free_source_id() -> None:
    _, system = world(None)
    Device(system.units[A], NIC)
    spare = RemappingUnit(FlatMemory(4096))
    with pytest.raises(MisuseError, match="attached already"):
        system.attach(Device(spare, NIC))
    with pytest.raises(RoutingError, match=r"no unit remaps the DMA of 0001:00:02\.0"):
        system.attach(Device(RemappingUnit(FlatMemory(4096)), NIC), segment=1)


def test_renumbered_bridges() -> None:
    """8.3.5: the device keeps its unit, only its source-id changes."""
    memory, system = world()
    mapping(memory, system, C, sid("05:00.0"), sid("08:00.0"), host=0x10_0000)
    assert system.translate(request(sid("05:00.0"))).host_address == 0x10_0000
    system.rescan(PciTree([fn("00:1d.0", 8, 8, ROOT_PORT), fn("08:00.0")]))
    assert system.translate(request(sid("08:00.0"))).host_address == 0x10_0000
    with pytest.raises(RoutingError, match="no bus 05"):
        system.translate(request(sid("05:00.0")))


# A second reading of the rule, from the bridge down: every function below a scope's device, and how far.


def claims(functions: list[PciFunction], start: PciFunction, distance: int = 0) -> Iterator[tuple[PciAddress, int]]:
    yield start.address, distance
    for each in functions:
        if start.secondary is not None and each.address[:2] == (start.address.segment, start.secondary):
            yield from claims(functions, each, distance + 1)


Units = list[tuple[int, bool, list[tuple[int, PciFunction]]]]
"""Register base, INCLUDE_PCI_ALL, and the scopes: type and device."""


def reread(units: Units, functions: list[PciFunction]) -> dict[PciAddress, int | None]:
    """Each function's unit: the nearest claim, then the table's order, then INCLUDE_PCI_ALL."""
    best: dict[PciAddress, tuple[int, int, int]] = {}
    for order, (base, _, scopes) in enumerate(units):
        for kind, target in scopes:
            for address, distance in claims(functions, target):
                if kind == 2 or distance == 0:
                    best[address] = min(best.get(address, (99, 0, 0)), (distance, order, base))
    rest = next((base for base, all_, _ in units if all_), None)
    return {each.address: best[each.address][2] if each.address in best else rest for each in functions}


@pytest.mark.parametrize("seed", range(40))
def test_random_machines_agree_with_a_second_reading(seed: int) -> None:
    numbers = random.Random(seed)
    functions: list[PciFunction] = []
    paths: dict[PciAddress, tuple[tuple[int, int], ...]] = {}
    buses: list[tuple[int, tuple[tuple[int, int], ...]]] = [(0, ())]
    for _ in range(25):
        bus, path = numbers.choice(buses)
        slot = numbers.randrange(32), numbers.randrange(2)
        address = PciAddress(0, bus, *slot)
        if address in paths:
            continue
        bridge = numbers.random() < 0.4
        functions.append(PciFunction(address, secondary=len(buses) if bridge else None, pcie_type=4))
        paths[address] = (*path, slot)
        if bridge:
            buses.append((len(buses), paths[address]))
    units: Units = []
    for number in range(3):
        named = [(2 if each.is_bridge else 1, each) for each in numbers.sample(functions, 3)]
        units.append((A + 0x1000 * number, False, named))
    if seed % 2:
        units.append((ALL, True, []))
    made = [
        drhd(base, *(scope(kind, 0, *paths[each.address]) for kind, each in named), flags=int(all_))
        for base, all_, named in units
    ]
    _, system = world(PciTree(functions), Dmar.parse(table(*made)))
    found = {each.address: base_of(system, 0, SourceId(*each.address[1:])) for each in functions}
    assert found == reread(units, functions)
    _, blind = world(None, Dmar.parse(table(*made)))
    for address, base in found.items():
        try:
            assert base_of(blind, 0, SourceId(*address[1:])) == base, "decided without a tree, but wrongly"
        except RoutingError:
            assert address.bus, "integrated devices need no tree"
