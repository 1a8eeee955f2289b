"""inspect: tables that are built here by hand are shown as they are, also where a unit would refuse them."""

from __future__ import annotations

import io
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from iommu import Access, Capabilities, DmaRequest, FlatMemory, MisuseError, Policy, RemappingUnit, SourceId
from iommu.cli.inspection.show import parts_of, show
from iommu.dmar import Dmar
from iommu.registers import GCMD, IQA, IQT, IRTA, RTADDR, TableMode
from iommu.snapshot import Snapshot, UnitSnapshot, save
from iommu.snapshot.inspect import Inspection, Limits, UnitInspection, inspect_unit
from iommu.snapshot.inspect.cached import cached_in
from iommu.snapshot.inspect.interrupts import names_of
from iommu.snapshot.inspect.queue import command_in_words
from iommu.snapshot.saving import registers_of
from iommu.structures import (
    ContextDescriptor,
    ContextEntry,
    DeliveryMode,
    DeviceTlbDescriptor,
    FirstStageMapper,
    InterruptDescriptor,
    IotlbDescriptor,
    PageAllocator,
    PageResponseDescriptor,
    PasidCacheDescriptor,
    PasidDeviceTlbDescriptor,
    PasidDirectoryEntry,
    PasidEntry,
    PasidIotlbDescriptor,
    PasidTranslationType,
    PostedInterruptEntry,
    RemappedInterruptEntry,
    RootEntry,
    ScalableContextEntry,
    ScalableRootHalf,
    SecondStageMapper,
    SourceValidation,
    TranslationType,
    WaitDescriptor,
)
from tests.command import vtd
from tests.engine.living import busy

NIC, DISK, GPU = SourceId(0, 4, 0), SourceId(0, 5, 0), SourceId(1, 0, 7)
FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
ROOT, CONTEXTS, CONTEXTS_1 = 0x1000, 0x2000, 0x3000


class System:
    """A unit with a root table at 0x1000, and context tables for buses 0 and 1 behind it."""

    def __init__(self, capabilities: Capabilities, policy: Policy | None = None) -> None:
        self.memory = FlatMemory(1 << 20)
        self.allocate = PageAllocator(0x4000, self.memory.size)
        self.unit = RemappingUnit(self.memory, capabilities, policy)

    def put(self, address: int, entry: int, size: int) -> None:
        self.memory.write(address, entry.to_bytes(size, "little"))

    def start(self, mode: TableMode, *, on: int = 1) -> System:
        self.unit.mmio_write(RTADDR.offset, ROOT | RTADDR.make(TTM=mode), 8)
        self.unit.mmio_write(GCMD.offset, GCMD.make(SRTP=1), 4)
        self.unit.mmio_write(GCMD.offset, GCMD.make(TE=on), 4)
        return self

    def inspect(self, limits: Limits | None = None) -> UnitInspection:
        width = self.unit.capabilities.host_address_width
        taken = UnitSnapshot("made here", registers_of(self.unit), self.memory, width, 0xFED9_0000)
        return inspect_unit(taken, limits)


class Legacy(System):
    def __init__(self, **capabilities: Any) -> None:
        super().__init__(Capabilities(**{"host_address_width": 39, **capabilities}))
        self.put(ROOT, RootEntry.make(P=1, CTP=CONTEXTS), 16)
        self.put(ROOT + 16, RootEntry.make(P=1, CTP=CONTEXTS_1), 16)

    def context(self, device: SourceId, **fields: int) -> int:
        where = (CONTEXTS, CONTEXTS_1)[device.bus] + 16 * device.devfn
        self.put(where, ContextEntry.make(P=1, **fields), 16)
        return where


class Scalable(System):
    def __init__(self, **capabilities: Any) -> None:
        super().__init__(Capabilities.scalable(**capabilities))
        self.put(ROOT, ScalableRootHalf.make(P=1, CTP=CONTEXTS), 8)

    def pasids(self, device: SourceId, entries: dict[int, int], **fields: int) -> int:
        """Give a device a PASID directory. Returns the address of its PASID table."""
        directory, table = self.allocate(), self.allocate()
        self.put(CONTEXTS + 32 * device.devfn, ScalableContextEntry.make(P=1, PASIDDIRPTR=directory, **fields), 32)
        self.put(directory, PasidDirectoryEntry.make(P=1, SMPTBLPTR=table), 8)
        for pasid, entry in entries.items():
            self.put(table + 64 * pasid, entry, 64)
        return table


def second(root: int, **fields: int) -> int:
    return PasidEntry.make(P=1, PGTT=PasidTranslationType.SECOND_STAGE, AW=2, SSPTPTR=root, **fields)


# Devices and what they reach.


def test_devices_of_legacy_mode() -> None:
    system = Legacy(device_tlb=True)
    pages = SecondStageMapper(system.memory, system.allocate)
    pages.map(0x5000, 0x9000, 0x3000)
    pages.map(0x8000, 0x9000, 0x1000, write=False)
    pages.map(0x4000_0000, 0x20_0000, 0x20_0000)
    system.context(NIC, DID=7, AW=2, SSPTPTR=pages.root)
    system.context(DISK, DID=7, AW=2, SSPTPTR=pages.root, TT=TranslationType.WITH_DEVICE_TLB, FPD=1)
    where = system.context(GPU, DID=8, AW=2, TT=TranslationType.PASS_THROUGH)
    found = system.start(TableMode.LEGACY).inspect()
    assert [(each.name, each.domain_id, each.kind) for each in found.devices] == [
        ("00:04.0", 7, "second stage"),
        ("00:05.0", 7, "second stage, device-TLB allowed"),
        ("01:00.7", 8, "pass-through"),
    ]
    assert found.devices[1].flags == ("faults not recorded (FPD)",)
    assert found.devices[2].entry == where == 0x3070
    space = found.spaces[found.devices[0].space or 0]
    assert [(each.stage, each.address, each.levels) for each in space.stages] == [("second stage", pages.root, 4)]
    assert [(each.addresses, each.host, each.writable) for each in space.ranges] == [
        (range(0x5000, 0x8000), 0x9000, True),
        (range(0x8000, 0x9000), 0x9000, False),
        (range(0x4000_0000, 0x4020_0000), 0x20_0000, True),
    ]
    assert (space.count, space.size) == (3, 0x20_4000)
    assert space.rights == {"rw": 0x20_3000, "r": 0x1000}
    assert space.pages == {("second stage", 0x1000): 4, ("second stage", 0x20_0000): 1}
    assert space.tables == 5  # one each of levels 4, 3 and 1, and two of level 2
    assert found.spaces[found.devices[2].space or 0].stages == ()
    assert found.problems == []


def test_pasids_and_page_tables_that_are_shared() -> None:
    system = Scalable()
    first = FirstStageMapper(system.memory, system.allocate)
    first.map(0x7000_0000, 0x9000, 0x1000)
    entry = PasidEntry.make(P=1, PGTT=PasidTranslationType.FIRST_STAGE, PWSNP=1, DID=3, FSPTPTR=first.root)
    pages = SecondStageMapper(system.memory, system.allocate)
    pages.map(0x5000, 0x9000, 0x1000)
    system.pasids(NIC, {0: second(pages.root, DID=2), 9: entry}, PASIDE=1, RID_PASID=0)
    system.pasids(DISK, {1: second(pages.root, DID=2), 2: entry}, RID_PASID=1)
    found = system.start(TableMode.SCALABLE).inspect()
    assert [(each.name, each.pasid, each.kind, each.without_pasid) for each in found.devices] == [
        ("00:04.0", 0, "second stage", True),
        ("00:04.0 PASID 0x9", 9, "first stage", False),
        ("00:05.0", 1, "second stage", True),
        ("00:05.0 PASID 0x2", 2, "first stage", False),
    ]
    nic, process, disk, blocked = found.devices
    assert nic.space == disk.space
    assert process.space != blocked.space
    assert blocked.flags == ("not in use: requests with PASID are blocked (PASIDE=0)",)
    assert found.spaces[process.space or 0].ranges[0].addresses == range(0x7000_0000, 0x7000_1000)
    assert found.spaces[blocked.space or 0].count == 0
    assert found.mixed_domains == []


def test_nested_tables_are_read_through_the_second_stage() -> None:
    """The guest's tables are at guest addresses from 0x8_0000 on; the second stage maps them, and its page."""
    system = Scalable()
    guest = FirstStageMapper(system.memory, PageAllocator(0x8_0000, 0x9_0000))
    guest.map(0x5000, 0xA_0000, 0x1000)
    # The same, read by a unit whose second stage moves the guest's memory by 0x1_0000.
    for address in range(0x8_0000, 0x9_0000, 0x1000):
        system.memory.write(address + 0x1_0000, system.memory.read(address, 0x1000))
        system.memory.write(address, bytes(0x1000))
    pages = SecondStageMapper(system.memory, system.allocate)
    pages.map(0x8_0000, 0x9_0000, 0x3_0000, page_size=0x1000)
    entry = PasidEntry.make(
        P=1, PGTT=PasidTranslationType.NESTED, PWSNP=1, DID=2, AW=2, SSPTPTR=pages.root, FSPTPTR=guest.root
    )
    system.pasids(NIC, {0: entry})
    (space,) = system.start(TableMode.SCALABLE).inspect().spaces
    assert [(each.stage, each.address) for each in space.stages] == [
        ("first stage", 0x8_0000),
        ("second stage", pages.root),
    ]
    assert space.pages == {("first stage", 0x1000): 1, ("second stage", 0x1000): 0x30}
    assert [(each.addresses, each.host) for each in space.ranges] == [(range(0x5000, 0x6000), 0xB_0000)]


def test_two_page_tables_under_one_domain_id() -> None:
    system = Legacy()
    for device in (NIC, DISK):
        pages = SecondStageMapper(system.memory, system.allocate)
        pages.map(0x5000, 0x9000, 0x1000)
        system.context(device, DID=7, AW=2, SSPTPTR=pages.root)
    ((domain, devices),) = system.start(TableMode.LEGACY).inspect().mixed_domains
    assert (domain, [device.name for device in devices]) == (7, ["00:04.0", "00:05.0"])


def test_tables_are_shown_while_translation_is_off() -> None:
    system = Legacy()
    pages = SecondStageMapper(system.memory, system.allocate)
    pages.map(0x5000, 0x9000, 0x1000)
    system.context(NIC, DID=7, AW=2, SSPTPTR=pages.root)
    found = system.start(TableMode.LEGACY, on=0).inspect()
    assert found.unit.on == ()
    assert found.spaces[0].ranges[0].addresses == range(0x5000, 0x6000)


# What hardware would refuse.


def test_refused_entries_are_followed() -> None:
    """A reserved bit on each level, and addresses beyond 39 bits: all is shown, with what is wrong."""
    system = Legacy()
    pages = SecondStageMapper(system.memory, system.allocate)
    pages.map(0x5000, 0x9000, 0x1000)
    pages.map(0x7000, 1 << 39, 0x1000)
    where = system.context(NIC, DID=7, AW=2, SSPTPTR=pages.root)
    system.memory.write_u64(where, system.memory.read_u64(where) | 1 << 5)
    system.memory.write_u64(pages.root, system.memory.read_u64(pages.root) | 1 << 11)
    found = system.start(TableMode.LEGACY).inspect()
    leaf = pages.lookup(0x7000)
    assert leaf is not None
    assert [(each.name, each.where, each.bits, each.section) for each in found.problems] == [
        ("context entry", 0x2200, 1 << 5, "9.3"),
        ("second-stage entry, level 4", pages.root, 1 << 11, "9.8"),
        ("second-stage entry, level 1", leaf.where, 1 << 39, "9.8"),
    ]
    assert [str(each) for each in found.devices[0].problems] == [
        "context entry at 0x2200: reserved bits 0x20 (spec 9.3)"
    ]
    assert [(each.addresses, each.host) for each in found.spaces[0].ranges] == [
        (range(0x5000, 0x6000), 0x9000),
        (range(0x7000, 0x8000), 1 << 39),
    ]


def test_values_that_the_unit_does_not_have() -> None:
    system = Legacy(address_width=39)
    system.context(NIC, DID=7, AW=2, SSPTPTR=0x9000)
    found = system.start(TableMode.LEGACY).inspect()
    assert [str(each) for each in found.problems] == [
        "context entry at 0x2200: AW=2, which this unit does not support (spec 9.3)"
    ]
    assert found.devices[0].space is None


def test_a_table_without_memory() -> None:
    system = Legacy()
    system.context(NIC, DID=7, AW=2, SSPTPTR=1 << 30)
    found = system.start(TableMode.LEGACY).inspect()
    assert [str(each) for each in found.problems] == [
        "second-stage entry, level 4: there is no memory at 0x40000000, in the table at 0x40000000"
    ]


# Tables that were made to waste time.


@pytest.mark.parametrize("target", [0, 0xFEE0_0000], ids=["pages that can be reached", "pages that cannot"])
def test_a_table_that_points_to_itself_is_cut_short(target: int) -> None:
    """Its 512 entries describe 2**36 pages of 4 KiB. In the second case each is in the interrupt address range."""
    system = Legacy()
    top = system.allocate()
    for number in range(512):
        system.memory.write_u64(top + 8 * number, top | 3)
    if target:
        last = system.allocate()
        for number in range(512):
            system.memory.write_u64(last + 8 * number, target + 0x1000 * (number & 0xFF) | 3)
            system.memory.write_u64(top + 8 * number, (last if number & 1 else top) | 3)
    system.context(NIC, DID=7, AW=2, SSPTPTR=top)
    begun = time.monotonic()
    found = system.start(TableMode.LEGACY).inspect(Limits(space=1 << 20))
    assert time.monotonic() - begun < 10
    assert found.spaces[0].cut_short
    assert len(found.spaces[0].ranges) <= 6


def test_directories_without_end_are_cut_short() -> None:
    """128 context entries share a directory of 2**14 entries, all of which point to one PASID table."""
    system = Scalable()
    pages = SecondStageMapper(system.memory, system.allocate)
    table = system.allocate()
    for pasid in range(64):
        system.put(table + 64 * pasid, second(pages.root, DID=2), 64)
    directory = 0x8_0000
    for number in range(1 << 14):
        system.memory.write_u64(directory + 8 * number, table | 1)
    for devfn in range(128):
        system.put(CONTEXTS + 32 * devfn, ScalableContextEntry.make(P=1, PDTS=7, PASIDDIRPTR=directory), 32)
    found = system.start(TableMode.SCALABLE).inspect(Limits(devices=100))
    assert found.cut_short
    assert len(found.devices) == 100
    found = system.inspect(Limits(structures=1 << 18))
    assert found.cut_short


def test_without_limits_nothing_is_cut_short() -> None:
    system = Legacy()
    pages = SecondStageMapper(system.memory, system.allocate)
    for number in range(20):
        pages.map(0x5000 + 0x2000 * number, 0x9000, 0x1000)
    system.context(NIC, DID=7, AW=2, SSPTPTR=pages.root)
    assert len(system.start(TableMode.LEGACY).inspect().spaces[0].ranges) == 6
    (space,) = system.inspect(Limits.none()).spaces
    assert (space.count, len(space.ranges), space.cut_short) == (20, 20, False)


# Interrupts.


def test_interrupt_entries() -> None:
    system = Legacy(posted_interrupts=True)
    table = system.allocate()
    own = {"SVT": SourceValidation.SOURCE_ID, "SID": int(NIC)}
    for number, entry in {
        0: RemappedInterruptEntry.make(P=1, DST=5 << 8, V=0x31, DM=1, TM=1, **own),
        1: RemappedInterruptEntry.make(P=1, DST=6 << 8, V=0x32, DLM=DeliveryMode.LOWEST_PRIORITY, SQ=3, **own),
        2: RemappedInterruptEntry.make(P=1, V=0x33, SVT=SourceValidation.BUS, SID=0x0120),
        3: PostedInterruptEntry.make(P=1, IM=1, PDAH=1, PDAL=0x40 >> 6, VV=0x34, URG=1, **own),
        4: RemappedInterruptEntry.make(P=1, DST=1, V=0x35),
        6: RemappedInterruptEntry.make(V=0x36),
    }.items():
        system.put(table + 16 * number, entry, 16)
    system.unit.mmio_write(IRTA.offset, table | IRTA.make(S=3), 8)
    system.unit.mmio_write(GCMD.offset, GCMD.make(SIRTP=1), 4)
    found = system.start(TableMode.LEGACY).inspect()
    assert [(row.number, row.requester, str(row)) for row in found.interrupts] == [
        (0, "00:04.0", "vector 0x31 to logical 0x5, fixed, level"),
        (1, "00:04.0, function ignored", "vector 0x32 to physical 0x6, lowest priority, edge"),
        (2, "buses 01 to 20", "vector 0x33 to physical 0x0, fixed, edge"),
        (3, "00:04.0", "virtual vector 0x34, posted to 0x100000040, urgent"),
        (4, "any requester", "vector 0x35 to physical 0x0, fixed, edge"),
    ]
    assert found.unit.interrupt_entries == 16
    # Without EIME, only bits 15:8 of the destination are defined.
    assert [(each.where, each.bits, each.section) for each in found.problems] == [(table + 64, 1 << 32, "9.9")]


def test_requesters_that_only_the_dmar_knows() -> None:
    """q35-plain.dmar lists an I/O APIC as ff:00.0, for the unit at 0xfed90000."""
    table = Dmar.parse((FIXTURES / "dmar" / "q35-plain.dmar").read_bytes())
    assert names_of(table, 0xFED9_0000) == {0xFF00: "I/O APIC"}
    assert names_of(table, 0xFED9_1000) == names_of(None, 0) == {}
    found = inspect_unit(running(), names={int(NIC): "HPET"})
    assert found.interrupts[0].requester == "00:04.0 (HPET)"


# The invalidation queue.


def queued(*descriptors: int, **capabilities: Any) -> System:
    """A legacy-mode queue of 256 descriptors at 0x8_0000, with these submitted."""
    system = Legacy(**capabilities).start(TableMode.LEGACY)
    for number, descriptor in enumerate(descriptors):
        system.put(0x8_0000 + 16 * number, descriptor, 16)
    system.unit.mmio_write(IQA.offset, 0x8_0000, 8)
    system.unit.mmio_write(GCMD.offset, GCMD.make(TE=1, QIE=1), 4)
    system.unit.mmio_write(IQT.offset, 16 * len(descriptors), 8)
    return system


def test_the_last_commands_of_the_queue() -> None:
    system = queued(
        ContextDescriptor.make(TYPE=1, G=3, DID=7, SID=int(NIC)),
        IotlbDescriptor.make(TYPE=2, G=3, DID=7, ADDR=0x4000, AM=2),
        WaitDescriptor.make(TYPE=5, SW=1, FN=1, STADDR=0x9000, STDATA=3),
    )
    queue = system.inspect().queue
    assert queue is not None
    assert (queue.on, queue.address, queue.size, queue.head, queue.tail) == (True, 0x8_0000, 0x1000, 0x30, 0x30)
    assert [(each.offset, each.words) for each in queue.done] == [
        (0x00, "context-cache invalidation of 00:04.0 with domain-id 7"),
        (0x10, "IOTLB invalidation of 4 pages from 0x4000 on in domain 7, upper entries too (IH=0)"),
        (0x20, "wait, then write 0x3 to 0x9000, fence"),
    ]
    assert (queue.waiting, queue.more, queue.stopped) == ((), 0, ())
    assert [each.offset for each in (system.inspect(Limits(commands=2)).queue or queue).done] == [0x10, 0x20]


def test_the_queue_wraps() -> None:
    wait = WaitDescriptor.make(TYPE=5, FN=1)
    system = queued(*[wait] * 255)
    system.put(0x8_0FF0, wait, 16)
    system.unit.mmio_write(IQT.offset, 0x20, 8)
    queue = system.inspect(Limits(commands=4)).queue
    assert queue is not None
    assert queue.head == 0x20
    assert [each.offset for each in queue.done] == [0xFE0, 0xFF0, 0, 0x10]


def test_why_the_queue_has_stopped() -> None:
    """6.5.2, 11.4.9.9: a reserved bit of the second descriptor; the third waits behind it."""
    global_ = IotlbDescriptor.make(TYPE=2, G=1)
    queue = queued(global_, global_ | 1 << 8, global_).inspect().queue
    assert queue is not None
    assert queue.stopped == (
        "stopped at its head (FSTS.IQE, IQERCD.IQEI=4): a descriptor has a reserved field or value",
    )
    assert [each.words for each in queue.waiting] == [
        "IOTLB invalidation of everything; reserved bits 0x100",
        "IOTLB invalidation of everything",
    ]


def test_a_device_that_does_not_answer() -> None:
    """FSTS.ITE: no device is attached for the device-TLB invalidation before the wait."""
    system = queued(
        DeviceTlbDescriptor.make(TYPE=3, SID=int(NIC)), WaitDescriptor.make(TYPE=5, FN=1), device_tlb=True
    )
    queue = system.inspect().queue
    assert queue is not None
    assert queue.stopped == ("stopped (FSTS.ITE): device 00:04.0 did not answer an invalidation in time",)


def test_a_queue_without_memory() -> None:
    system = queued()
    system.unit.mmio_write(GCMD.offset, GCMD.make(TE=1), 4)
    system.unit.mmio_write(IQA.offset, 1 << 32, 8)
    system.unit.mmio_write(GCMD.offset, GCMD.make(TE=1, QIE=1), 4)
    system.unit.mmio_write(IQT.offset, 0x10, 8)
    queue = system.inspect().queue
    assert queue is not None
    assert queue.unreadable
    assert queue.stopped == (
        "stopped at its head (FSTS.IQE, IQERCD.IQEI=2): "
        "a descriptor could not be read, or a status could not be written",
    )


@pytest.mark.parametrize(
    ("descriptor", "words"),
    [
        (ContextDescriptor.make(TYPE=1, G=1), "context-cache invalidation of everything"),
        (ContextDescriptor.make(TYPE=1), "ContextDescriptor with a reserved value: ContextDescriptor(TYPE=CONTEXT)"),
        (
            DeviceTlbDescriptor.make(TYPE=3, SID=int(NIC), ADDR=0x1000, S=1),
            "device-TLB invalidation of 4 pages from 0x0 on for 00:04.0",
        ),
        (InterruptDescriptor.make(TYPE=4), "interrupt-entry-cache invalidation of everything"),
        (InterruptDescriptor.make(TYPE=4, G=1, IIDX=8, IM=2), "interrupt-entry-cache invalidation of index 8 to 11"),
        (WaitDescriptor.make(TYPE=5, IF=1), "wait, then an interrupt"),
        (
            PasidIotlbDescriptor.make(TYPE=6, G=3, DID=1, PASID=5, AM=63),
            f"PASID-based IOTLB invalidation of {1 << 63} pages from 0x0 on in PASID 0x5 of domain 1, "
            "upper entries too (IH=0)",
        ),
        (PasidCacheDescriptor.make(TYPE=7, G=1, DID=1, PASID=5), "PASID-cache invalidation of PASID 0x5 in domain 1"),
        (
            PasidDeviceTlbDescriptor.make(TYPE=8, SID=int(NIC), PASID=5, ADDR=0x3000),
            "device-TLB invalidation of the page 0x3000 in PASID 0x5 for 00:04.0",
        ),
        (
            PageResponseDescriptor.make(TYPE=9, RID=int(NIC), PP=1, PASID=5, PRGI=2, RC=1),
            "page response to 00:04.0, PASID 0x5, group 2: invalid",
        ),
        (14, "type 14, which does not exist"),
    ],
)
def test_descriptors_in_words(descriptor: int, words: str) -> None:
    unit = RemappingUnit(FlatMemory(1 << 12), Capabilities.full())
    assert command_in_words(unit, descriptor) == words


# Anything at all.


def test_a_fault_record_that_is_not_possible() -> None:
    """Address type 3 is reserved (11.4.7.6); the other record is shown."""
    taken = running()
    cap = int.from_bytes(taken.registers[8:16], "little")
    records, registers = (cap >> 24 & 0x3FF) * 16, bytearray(taken.registers)
    registers[records + 15] |= 3 << 4
    found = inspect_unit(replace(taken, registers=bytes(registers)))
    assert found.faults == []
    assert [text.split(": ")[1] for text in found.odd_records] == ["address type 3 is reserved"]


def running() -> UnitSnapshot:
    (unit,) = Snapshot.open(FIXTURES / "snapshots" / "running.zip").units
    return unit


@pytest.mark.parametrize("seed", range(60))
def test_damaged_registers_and_tables_are_shown_or_refused(seed: int) -> None:
    """Bits of registers and tables are flipped: the result is an inspection, or one clear error."""
    chance, taken = random.Random(seed), running()
    registers, memory = bytearray(taken.registers), FlatMemory(1 << 18)
    memory.write(0, taken.memory.read(0, memory.size))
    for _ in range(chance.randrange(6)):
        registers[chance.choice([*range(8, 0x28), *range(0x34, 0x38), *range(0x80, 0x100)])] ^= 1 << chance.randrange(
            8
        )
    for _ in range(chance.randrange(30)):
        table = chance.choice(
            [0x1000, 0x2000, 0x3000, 0xD000, 0xE000, 0xF000, 0x1_0000, 0x1_4000, 0x1_7000, 0x1_8000]
        )
        at = table + chance.randrange(chance.choice([64, 4096]))
        memory.write(at, bytes([memory.read(at, 1)[0] ^ 1 << chance.randrange(8)]))
    damaged = replace(taken, registers=bytes(registers), memory=memory)
    try:
        found = inspect_unit(damaged, Limits(structures=1 << 18, space=1 << 18, spaces=1 << 18))
    except MisuseError as error:
        assert "\n" not in str(error)
        return
    assert list(parts_of(Inspection("damaged", "", (), False, [found]), 8))


# The command.


@pytest.mark.parametrize("width", [40, 80])
def test_lines_fit_a_terminal(width: int) -> None:
    out = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, soft_wrap=True)
    show(out, Inspection("running.zip", "", ("what is cached",), False, [inspect_unit(running())]), everything=False)
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(len(text) for text in lines) <= width
    assert "    first stage, 4 levels, at 0x1000" in lines


def test_json(tmp_path: Path) -> None:
    system = Legacy()
    pages = SecondStageMapper(system.memory, system.allocate)
    pages.map(0x5000, 0x9000, 0x1000)
    system.context(NIC, DID=7, AW=2, SSPTPTR=pages.root)
    system.start(TableMode.LEGACY).unit.translate(DmaRequest(NIC, 0x6000, Access.READ))
    save(system.unit, tmp_path / "taken")
    done = vtd("inspect", str(tmp_path / "taken"), "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    machine = json.loads(done.stdout)
    (found,) = machine["units"]
    assert found["devices"][0]["source_id"] == "00:04.0"
    assert found["spaces"][0]["ranges"] == [{"address": 0x5000, "size": 0x1000, "host": 0x9000, "rights": "rw"}]
    assert found["faults"][0]["condition"] == "LGN.3"
    assert found["problems"] == []
    assert machine["unknown"] == []  # state.bin has it


def test_what_a_model_has_cached(tmp_path: Path) -> None:
    system = Legacy(caching_mode=True)
    pages = SecondStageMapper(system.memory, system.allocate)
    pages.map(0x5000, 0x9000, 0x1000)
    system.context(NIC, DID=7, AW=2, SSPTPTR=pages.root)
    unit = system.start(TableMode.LEGACY).unit
    for address in (0x5000, 0x6000):
        unit.translate(DmaRequest(NIC, address, Access.READ))
    save(unit, tmp_path / "taken")
    (found,) = json.loads(vtd("inspect", str(tmp_path / "taken"), "--json").stdout)["units"]
    assert found["cached"]["contexts"] == [{"source_id": "00:04.0", "domain_id": 7, "fault": None}]
    hit, miss = sorted(found["cached"]["pages"], key=lambda page: page["address"])
    page = {"domain_id": 7, "pasid": None, "size": 0x1000}
    assert hit == {**page, "address": 0x5000, "host": 0x9000, "rights": "rw", "fault": None}
    assert (miss["address"], miss["rights"]) == (0x6000, "")  # caching mode keeps also what is not there
    assert found["cached"]["interrupts"] == found["cached"]["pasids"] == []
    counts = found["cached"]["counts"]
    assert (counts["contexts"], counts["pages"], counts["interrupts"]) == (1, 2, 0) and counts["tables"] > 0
    shown = vtd("inspect", str(tmp_path / "taken")).stdout.decode()
    assert "cached: 1 contexts, 2 pages, " in shown


def test_what_a_busy_model_has_cached() -> None:
    """Each cache of it holds something; a limit cuts the lists and not the counts."""
    caches = busy().world.unit.caches
    whole, cut = cached_in(caches), cached_in(caches, 1)
    lists = (whole.contexts, whole.pasids, whole.pages, whole.interrupts)
    names = ("contexts", "pasids", "pages", "interrupts")
    assert [len(each) for each in lists] == [whole.counts[name] for name in names]
    assert all(count > 0 for count in whole.counts.values())
    assert cut.counts == whole.counts and [len(getattr(cut, name)) for name in names] == [1] * 4
    assert {each["pasid"] for each in whole.pasids} >= {1, 2}
    assert whole.interrupts[0]["raw"] == hex(dict(caches.interrupts.items())[whole.interrupts[0]["index"]])


def test_what_is_not_a_snapshot_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no snapshot")
    for path in (tmp_path / "absent", tmp_path / "notes.txt"):
        done = vtd("inspect", str(path))
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.startswith(b"vtd: ")
        assert done.stderr.count(b"\n") == 1
