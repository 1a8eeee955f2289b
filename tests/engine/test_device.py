"""device.py, ats.py: the device-TLB, its invalidation, and devices that fail to respond (8.1, 8.2)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommu import Access, FaultReason, InterruptOutcome, Message, MisuseError, RemappingUnit, SourceId
from iommu.engine.ats import Completion, PageResponse, invalidated_range
from iommu.engine.device import Device
from iommu.structures import ResponseCode
from tests.engine.interrupting import FIXED_41_TO_5, MESSAGE_41_TO_5, Interrupting, request
from tests.engine.queueing import (
    ICE,
    IQERCD,
    IQT,
    ITE,
    Software,
    device_tlb,
    iotlb,
    pasid_device_tlb,
    pasid_iotlb,
    response,
    scalable,
    wait,
)
from tests.engine.scalable_world import ADDRESS, HOST, first_stage, second_stage
from tests.engine.world import FSTS, NIC, PS, READ, RW, WRITE, R, World, mapped

A = 0x4000_0000
STATUS = 0xF0_0000
EVERYTHING = 0x7FFF_FFFF_FFFF_F000
"""ADDR of a device-TLB invalidation of everything: bits 62:12 ones, bit 63 zero."""


def ats(count: int = 1, **changes: Any) -> tuple[Device, Software]:
    """A device with a device-TLB, on a legacy-mode unit, with `count` pages from A on."""
    world = World(device_tlb=True, **changes)
    top = world.device(tt=1)
    for n in range(count):
        world.map(top, 4, A + n * 0x1000, 0x10_0000 + n * 0x1000 | RW)
    world.start()
    return Device(world.unit, NIC), Software(world)


# Reading and writing


def test_write_reaches_the_translated_address() -> None:
    device, software = ats()
    assert device.write(A + 0x234, b"four")
    assert software.world.memory.read(0x10_0234, 4) == b"four"
    assert device.read(A + 0x232, 8) == b"\0\0four\0\0"
    assert [known.host for known in device.tlb] == [0x10_0000], "asked once, used twice"


def test_unmapped_page_cannot_be_read() -> None:
    device, software = ats()
    assert device.read(A + 0x1000) is None
    assert not device.write(A + 0x1000, b"x")
    assert device.tlb == []
    assert software.world.records() == []


def test_missing_permission_is_requested_again() -> None:
    device, software = ats()
    top = software.world.device(tt=1)
    places = software.world.map(top, 4, A, 0x9000 | R)
    software.world.unit.reset()
    software.world.start()
    assert device.read(A) == bytes(8)
    assert not device.write(A, b"x")
    software.world.put(places[1], 0x9000 | RW)
    Software(software.world).done(iotlb(1))
    assert device.write(A, b"x"), "the page that cannot be written does not hide the new one"


def test_device_without_ats_sends_untranslated_requests() -> None:
    world = mapped(0x5000, 0x9000 | RW)
    device = Device(world.unit, NIC, uses_ats=False)
    assert device.write(0x5678, b"y")
    assert world.memory.read(0x9678, 1) == b"y"
    assert device.tlb == []
    assert device.read(0x7000) is None
    assert world.record().address_type == 0


def test_translated_request_from_a_context_that_allows_none() -> None:
    world = mapped(0x5000, 0x9000 | RW, device_tlb=True)
    device = Device(world.unit, NIC)
    assert device.read(0x5000) is None
    assert (world.record().reason, world.record().address_type) == (0x0D, 1)


def test_host_address_without_memory() -> None:
    world = mapped(0x5000, 0x9000_0000 | RW, tt=1, device_tlb=True)
    device = Device(world.unit, NIC)
    assert device.dma(0x5000, READ).host_address == 0x9000_0000
    assert device.read(0x5000) is None
    assert not device.write(0x5000, b"x")


def test_request_over_a_page_boundary() -> None:
    device, _ = ats(2)
    with pytest.raises(MisuseError):
        device.dma(A + 0xFFF, READ, 2)


# Accesses of several pages: one request for each (PCI Express: no request crosses a 4 KiB boundary)

HOSTS = (0x20_0000, 0x1A_0000, 0x18_0000)


def scattered(*, uses_ats: bool, hosts: tuple[int, ...] = HOSTS, **capabilities: Any) -> tuple[Device, World]:
    """A device whose pages from A on are at `hosts`; 0 for a page that is not mapped."""
    world = World(device_tlb=True, fault_records=8, **capabilities)
    top = world.device(tt=1)
    for n, host in enumerate(hosts):
        world.map(top, 4, A + n * 0x1000, host and host | RW)
    world.start()
    return Device(world.unit, NIC, uses_ats=uses_ats), world


def stored(world: World, offset: int, length: int) -> bytes:
    """What the host pages of some bytes from A + offset on hold."""
    return bytes(world.memory.read(HOSTS[n >> 12] + (n & 0xFFF), 1)[0] for n in range(offset, offset + length))


@pytest.mark.parametrize("uses_ats", [False, True])
@pytest.mark.parametrize(("offset", "length"), [
    (0xFFF, 2), (0, 0x1000), (0, 0x3000), (0xFFE, 0x1004), (1, 0x2FFF), (0xFFF, 1), (0x1000, 1),
])  # fmt: skip
def test_access_of_several_pages(offset: int, length: int, uses_ats: bool) -> None:
    device, world = scattered(uses_ats=uses_ats)
    data = bytes(n % 251 for n in range(length))
    assert device.write(A + offset, data)
    assert stored(world, offset, length) == data
    assert device.read(A + offset, length) == data


@pytest.mark.parametrize("uses_ats", [False, True])
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_blocked_request_stops_no_other(missing: int, uses_ats: bool) -> None:
    """The others have been written. Untranslated requests that are blocked fault, each at its own address."""
    hosts = tuple(0 if n == missing else host for n, host in enumerate(HOSTS))
    device, world = scattered(uses_ats=uses_ats, hosts=hosts)
    assert not device.write(A + 0xFF0, bytes([7] * 0x1020))
    for n, (first, size) in enumerate(((0xFF0, 0x10), (0, 0x1000), (0, 0x10))):
        assert world.memory.read(HOSTS[n] + first, size) == bytes([7 * (n != missing)] * size)
    assert device.read(A + 0xFF0, 0x1020) is None
    faults = [(A + missing * 0x1000, code) for code in (5, 6)]
    assert [(record.address, record.reason) for record in world.records()] == ([] if uses_ats else faults)


def test_page_without_memory_stops_no_other() -> None:
    device, world = scattered(uses_ats=False, hosts=(HOSTS[0], 1 << 30, HOSTS[2]))
    assert not device.write(A + 0xFFF, bytes([7] * 0x1002))
    assert (world.memory.read(HOSTS[0] + 0xFFF, 1), world.memory.read(HOSTS[2], 1)) == (b"\7", b"\7")
    assert device.read(A + 0xFFF, 0x1002) is None


def test_access_without_bytes_is_a_zero_length_read() -> None:
    device, _ = scattered(uses_ats=False)
    assert device.read(A, 0) == b""
    assert device.read(A + 0x8000, 0) is None
    with pytest.raises(MisuseError):
        device.write(A, b"")


@pytest.mark.parametrize(("address", "length"), [(-1, 2), ((1 << 64) - 1, 2), (1 << 64, 1), (A, -1)])
def test_bytes_beyond_all_addresses_are_misuse(address: int, length: int) -> None:
    device, world = scattered(uses_ats=False)
    with pytest.raises(MisuseError, match="64-bit addresses"):
        device.read(address, length)
    if length > 0:
        with pytest.raises(MisuseError, match="64-bit addresses"):
            device.write(address, bytes(length))
    assert world.records() == []


# Interrupt messages (3.14, 5.1)


def test_message_is_remapped() -> None:
    world = Interrupting()
    world.irte(3, FIXED_41_TO_5)
    device = Device(world.unit, NIC)
    wanted = request(3)
    outcome = device.msi(wanted.address, wanted.data)
    assert outcome is not None
    assert (outcome.message, outcome.fault) == (MESSAGE_41_TO_5, None)
    absent = device.msi(request(4).address, 0)
    assert absent is not None
    assert (absent.fault, absent.recorded) == (FaultReason.IR_22, True)


def test_message_passes_while_remapping_is_off() -> None:
    device = Device(World().unit, NIC)
    assert device.msi(0xFEE0_1000, 0x4041) == InterruptOutcome(Message(0xFEE0_1000, 0x4041), passed=True)


@pytest.mark.parametrize("address", [0xFED0_0000 | 0xF_FFFC, 0xFEF0_0000, 1 << 32 | 0xFEE0_0000])
def test_message_outside_the_interrupt_range_is_dma(address: int) -> None:
    """It is translated like any write, and not an interrupt."""
    world = World()
    world.map(world.device(), 4, address, 0x20_0000 | RW)
    world.start()
    assert Device(world.unit, NIC, uses_ats=False).msi(address, 0x1234) is None
    assert world.memory.read_u32(0x20_0000 | address & 0xFFF) == 0x1234


@pytest.mark.parametrize(("address", "data"), [(0xFEE0_0002, 0), (0xFEE0_0000, 1 << 32), (0xFEE0_0000, -1), (-4, 0)])
def test_message_that_no_device_sends_is_misuse(address: int, data: int) -> None:
    with pytest.raises(MisuseError):
        Device(World().unit, NIC).msi(address, data)


def test_message_is_not_translated_by_a_device_tlb() -> None:
    device, world = scattered(uses_ats=True)
    assert device.msi(0xFEE0_1000, 0x4041) == InterruptOutcome(Message(0xFEE0_1000, 0x4041), passed=True)
    assert (device.tlb, world.records()) == ([], [])


def test_large_page_is_kept_whole() -> None:
    world = World(device_tlb=True)
    world.map(world.device(tt=1), 4, A, 0x20_0000 | RW | PS, 2)
    world.start()
    device = Device(world.unit, NIC)
    assert device.dma(A + 0x12345, READ).host_address == 0x21_2345
    assert device.dma(A + 0x1F_F000, WRITE).host_address == 0x3F_F000
    assert [known.addresses for known in device.tlb] == [range(A, A + 0x20_0000)]


def test_translations_by_pasid_and_privilege() -> None:
    world = first_stage(pasid=5)
    device = Device(world.unit, NIC)
    assert device.dma(ADDRESS, READ, pasid=5).host_address == HOST
    assert device.dma(ADDRESS, READ, pasid=6).host_address is None
    assert device.dma(ADDRESS, READ, pasid=5, privileged=True).host_address == HOST
    assert [(known.pasid, known.privileged) for known in device.tlb] == [(5, False), (5, True)]


def test_one_device_for_a_source_id() -> None:
    device, software = ats()
    with pytest.raises(MisuseError, match=r"00:04\.0"):
        Device(software.world.unit, NIC)
    software.world.unit.reset()
    assert software.world.unit.devices[NIC] is device


# Missing and present invalidations


def test_missing_device_tlb_invalidation_leaves_a_stale_translation() -> None:
    """Invalidating the IOTLB alone is not enough: the device keeps using what it has cached."""
    device, software = ats()
    world = software.world
    assert device.write(A, b"old")
    world.map(world.memory.read_u64(world.context_address(NIC)) & ~0xFFF, 4, A, 0)
    software.done(iotlb(2, did=1), wait(sw=1, data=1, address=STATUS))
    assert device.write(A, b"stale"), "and hits memory it no longer owns"
    assert world.memory.read(0x10_0000, 5) == b"stale"
    software.done(device_tlb(NIC, address=A), wait(sw=1, data=2, address=STATUS))
    assert not device.write(A, b"gone")
    assert world.memory.read(0x10_0000, 5) == b"stale"


def test_device_tlb_before_the_iotlb_is_the_wrong_order() -> None:
    """4.3: the upper cache refills the lower one with old data."""
    device, software = ats()
    world = software.world
    assert device.write(A, b"1")
    world.map(world.memory.read_u64(world.context_address(NIC)) & ~0xFFF, 4, A, 0)
    software.done(device_tlb(NIC, address=A))
    assert device.write(A, b"2")
    software.done(iotlb(1))
    assert device.write(A, b"3")


# Which translations are dropped (types 3 and 8)


def survivors(device: Device, first: int = A) -> set[int]:
    """The pages in the device-TLB, counted from `first`."""
    return {known.addresses.start - first >> 12 for known in device.tlb}


@pytest.mark.parametrize(
    ("address", "s", "gone"),
    [
        (A, 0, {0}),
        (A + 0x3000, 0, {3}),
        (A, 1, {0, 1}),
        (A + 0x1000, 1, {0, 1, 2, 3}),
        (A + 0x4000, 1, {4, 5}),
        (A + 0x5000, 1, {4, 5, 6, 7}),
        (A + 0x3000, 1, set(range(8))),
        (A + 0xB000, 1, set(range(8, 16))),
        (A + 0x7000, 1, set(range(16))),
        (A + 0x10000, 1, {16, 17}),
        (EVERYTHING, 1, set(range(18))),
        (EVERYTHING | 1 << 63, 1, set(range(18))),
        (A | 1 << 63, 1, set()),
    ],
)
def test_size_encoding(address: int, s: int, gone: set[int]) -> None:
    """8.2: n ones from bit 12 up, and a zero, are 2^(n+1) pages."""
    device, software = ats(18)
    for n in range(18):
        assert device.dma(A + n * 0x1000, READ).host_address is not None
    software.done(device_tlb(NIC, address=address, s=s, mip=31))
    assert survivors(device) == set(range(18)) - gone


@given(st.integers(0, 51), st.integers(0, (1 << 52) - 1))
def test_size_encoding_of_every_size(ones: int, frame: int) -> None:
    frame = frame >> ones + 1 << ones + 1 | (1 << ones) - 1
    pages = invalidated_range(frame << 12, 1)
    assert pages.stop - pages.start == 0x2000 << ones
    assert pages.start % (0x2000 << ones) == 0
    assert frame << 12 in pages
    assert invalidated_range(frame << 12, 0) == range(frame << 12, frame + 1 << 12)


def test_part_of_a_large_page_drops_it() -> None:
    world = World(device_tlb=True)
    world.map(world.device(tt=1), 4, A, 0x20_0000 | RW | PS, 2)
    world.start()
    device, software = Device(world.unit, NIC), Software(world)
    for address, left in ((A - 0x1000, 1), (A + 0x20_0000, 1), (A + 0x1F_F000, 0)):
        device.dma(A, READ)
        software.done(device_tlb(NIC, address=address))
        assert len(device.tlb) == left


def test_only_the_named_device() -> None:
    device, software = ats()
    other = Device(software.world.unit, SourceId(0, 5, 0))
    device.dma(A, READ)
    software.done(device_tlb(0x28, address=EVERYTHING, s=1))
    assert len(device.tlb) == 1
    assert other.tlb == []


PASIDS = (None, 5, 6)


@pytest.mark.parametrize(
    ("descriptor", "left"),
    [
        (device_tlb(NIC, address=ADDRESS), {5, 6}),
        (device_tlb(NIC, address=EVERYTHING, s=1), {5, 6}),
        (pasid_device_tlb(NIC, pasid=5, address=ADDRESS), {None, 6}),
        (pasid_device_tlb(NIC, pasid=5, address=ADDRESS, mip=31), {None, 6}),
        (pasid_device_tlb(NIC, pasid=5, address=EVERYTHING, s=1), {None, 6}),
        (pasid_device_tlb(NIC, pasid=5, address=ADDRESS ^ 0x1000), {None, 5, 6}),
        (pasid_device_tlb(NIC, pasid=5, address=ADDRESS & ~0x1000, s=1), {None, 6}),
        (pasid_device_tlb(NIC, pasid=7, address=EVERYTHING, s=1), {None, 5, 6}),
        (pasid_device_tlb(NIC, pasid=7, address=EVERYTHING, s=1, g=1), {None}),
        (pasid_device_tlb(NIC, pasid=7, address=ADDRESS, g=1), {None}),
        (pasid_device_tlb(NIC, pasid=7, address=ADDRESS ^ 0x1000, g=1), {None, 5, 6}),
        (pasid_device_tlb(0x1234, pasid=5, address=ADDRESS, pfsid=0xFFF), None),
    ],
)
def test_invalidation_by_pasid(descriptor: tuple[int, int], left: set[int | None] | None) -> None:
    """Type 3 takes what has no PASID; type 8 one PASID, or with G all of them."""
    world = second_stage(pasid=5)
    for pasid in (0, 6):
        world.pasid_entry(
            pasid, pgtt=2, second=world.second_top or world.memory.read_u64(world.pasids[NIC, 5]) & ~0xFFF
        )
    device, software = Device(world.unit, NIC), scalable(world)
    for tag in PASIDS:
        assert device.dma(ADDRESS, READ, pasid=tag).host_address == HOST
    software.submit(descriptor)
    if left is None:
        assert software.world.read(FSTS) == ITE
        left = set(PASIDS)
    else:
        assert software.world.read(FSTS) == 0
    assert {known.pasid for known in device.tlb} == left


def test_missing_pasid_invalidation_leaves_a_stale_translation() -> None:
    world = first_stage(pasid=5)
    device, software = Device(world.unit, NIC), scalable(world)
    assert device.write(ADDRESS, b"old", pasid=5)
    world.put(world.first[1], 0)
    software.done(pasid_iotlb(3, did=1, pasid=5, address=ADDRESS))
    assert device.write(ADDRESS, b"new", pasid=5)
    software.done(pasid_device_tlb(NIC, pasid=5, address=ADDRESS))
    assert not device.write(ADDRESS, b"end", pasid=5)
    assert world.memory.read(HOST, 3) == b"new"


# Devices that misbehave


def test_time_out() -> None:
    device, software = ats()
    device.dma(A, READ)
    device.completion = Completion.TIMED_OUT
    software.submit(device_tlb(NIC, address=A), wait(sw=1, data=1, address=STATUS))
    assert software.world.read(FSTS) == ITE
    assert software.world.read(IQERCD, 8) == NIC << 32
    assert software.world.memory.read_u32(STATUS) == 0
    assert len(device.tlb) == 1
    device.completion = Completion.DONE
    software.clear(ITE)
    software.done(device_tlb(NIC, address=A), wait(sw=1, data=2, address=STATUS))
    assert device.tlb == []
    assert software.world.memory.read_u32(STATUS) == 2


def test_a_detached_device_does_not_answer() -> None:
    device, software = ats()
    unit = software.world.unit
    device.dma(A, READ)
    unit.detach(NIC)
    software.submit(device_tlb(NIC, address=A), wait(sw=1, data=1, address=STATUS))
    assert software.world.read(FSTS) == ITE
    assert software.world.read(IQERCD, 8) == NIC << 32
    assert len(device.tlb) == 1
    with pytest.raises(MisuseError, match="no device"):
        unit.detach(NIC)
    software.clear(ITE)
    again = Device(unit, NIC)
    again.dma(A, READ)
    software.done(device_tlb(NIC, address=A))
    assert again.tlb == [] and len(device.tlb) == 1


def test_wrong_completion_stops_nothing() -> None:
    device, software = ats()
    device.completion = Completion.WRONG
    software.submit(device_tlb(NIC, address=A), wait(sw=1, data=1, address=STATUS))
    assert software.world.read(FSTS) == ICE
    assert software.world.read(IQERCD, 8) == NIC << 48
    assert software.world.memory.read_u32(STATUS) == 1
    assert software.head == software.tail
    software.clear(ICE)
    assert software.world.read(FSTS) == 0


def test_first_wrong_completion_is_the_one_reported() -> None:
    device, software = ats()
    other = Device(software.world.unit, SourceId(0, 5, 0))
    device.completion = other.completion = Completion.WRONG
    software.submit(device_tlb(NIC), device_tlb(0x28))
    assert software.world.read(IQERCD, 8) == NIC << 48
    software.clear(ICE)
    software.submit(device_tlb(0x28), device_tlb(NIC))
    assert software.world.read(IQERCD, 8) == 0x28 << 48


class Impatient(Device):
    """Writes IQT while it is being invalidated."""

    def invalidate(self, command: Any) -> Completion:
        self.unit.mmio_write(IQT, 0x20, 8)
        return super().invalidate(command)


def test_device_may_write_registers_during_an_invalidation() -> None:
    world = World(device_tlb=True)
    Impatient(world.unit, NIC)
    software = Software(world)
    software.put(*device_tlb(NIC))
    software.put(*wait(sw=1, data=1, address=STATUS))
    world.write(IQT, 0x10, 8)
    assert software.head == 0x20
    assert world.memory.read_u32(STATUS) == 1


# Page requests end to end


def test_page_is_asked_for_mapped_and_used() -> None:
    world = first_stage(pasid=5)
    world.put(world.first[1], 0)
    base = world.page()
    world.write(0xD0, base, 8)
    device, software = Device(world.unit, NIC), scalable(world)
    assert not device.write(ADDRESS, b"data", pasid=5)
    assert device.request_page(ADDRESS, pasid=5, write=True, group=3).queued
    asked = world.memory.read_u64(base + 8)
    assert (asked & ~0xFFF, asked >> 3 & 0x1FF, asked & 7) == (ADDRESS, 3, 0b111)
    world.put(world.first[1], HOST | 7)
    software.done(response(NIC, pasid=5, group=3))
    assert device.responses == [PageResponse(3, ResponseCode.SUCCESS, 5, True)]
    assert device.write(ADDRESS, b"data", pasid=5)
    assert world.memory.read(HOST, 4) == b"data"


@pytest.mark.parametrize("access", [READ, WRITE, Access.ATOMIC])
def test_atomic_needs_both(access: Access) -> None:
    device, _ = ats()
    known = device.translate(A)
    assert known is not None
    assert known._replace(writable=False).permits(access) == (access is READ)
    assert known._replace(readable=False).permits(access) == (access is WRITE)


# Staleness


def audited(*, pasid: int | None = None) -> tuple[Device, Software, int]:
    """The same on an audited unit, in scalable mode with a PASID; and the address of the entry of its one page."""
    if pasid is None:
        world: World = World(device_tlb=True)
        leaf = world.map(world.device(tt=1), 4, A, 0x10_0000 | RW)[1]
    else:
        scalable_world = first_stage(pasid=pasid)
        world, leaf = scalable_world, scalable_world.first[1]
    root = world.unit.mmio_read(0x20, 8) or world.root
    world.unit = RemappingUnit(world.memory, world.capabilities, audit=True)
    world.start(root)
    return Device(world.unit, NIC), Software(world, wide=int(pasid is not None)), leaf


@pytest.mark.parametrize("pasid", [None, 5])
def test_missing_device_tlb_invalidation_is_traced(pasid: int | None) -> None:
    """8.2: after the IOTLB is invalidated, the device still has the translation, until its TLB is invalidated."""
    device, software, leaf = audited(pasid=pasid)
    address = A if pasid is None else ADDRESS
    assert device.dma(address, WRITE, pasid=pasid).stale == ()
    software.world.put(leaf, 0)
    software.done(iotlb(1))
    (stale,) = device.unit.audit()
    assert (stale.cache, [source.address for source, _ in stale.changed]) == ("device-TLB of 00:04.0", [leaf])
    in_pasid = "" if pasid is None else f" in PASID {pasid:#x}"
    assert stale.tag == f"{address & ~0xFFF:#x}{in_pasid}"
    assert str(stale.owed) == f"device-TLB invalidation of {address & ~0xFFF:#x}{in_pasid}, after that of the IOTLB"
    late = device.dma(address, WRITE, pasid=pasid)
    assert late.host_address is not None
    assert late.stale == (stale,)
    everything = (
        device_tlb(NIC, address=EVERYTHING, s=1)
        if pasid is None
        else pasid_device_tlb(NIC, pasid=pasid, address=EVERYTHING, s=1)
    )
    software.done(everything)
    assert device.unit.audit() == []
    assert device.dma(address, WRITE, pasid=pasid).host_address is None


def test_answer_from_a_stale_cache_is_stale_in_the_device_too() -> None:
    """Wrong order: the device asked again before the IOTLB was invalidated, and got the stale translation from it."""
    device, software, leaf = audited()
    device.dma(A, WRITE)
    software.world.put(leaf, 0x9000 | RW)
    software.done(device_tlb(NIC, address=EVERYTHING, s=1))
    assert [item.cache for item in device.unit.audit()] == ["IOTLB"]
    assert device.dma(A, WRITE).host_address == 0x10_0000
    assert {item.cache for item in device.unit.audit()} == {"IOTLB", "device-TLB of 00:04.0"}
