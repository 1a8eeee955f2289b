"""interrupts.py: posted form, the descriptor and its notification."""

from __future__ import annotations

import pytest

from iommu import (
    Capabilities,
    FaultReason,
    FlatMemory,
    Interrupt,
    InterruptOutcome,
    Message,
    Posting,
    RemappingUnit,
    Selector,
)
from tests.engine.interrupting import (
    DESCRIPTOR,
    FIXED_41_TO_5,
    IRE,
    IRTA,
    ONES,
    POSTED_71,
    SIRTP,
    TABLE,
    URG,
    Interrupting,
    request,
)
from tests.engine.world import (
    GCMD,
)

# 7.5: posted form


@pytest.mark.parametrize("on", [0, 1])
@pytest.mark.parametrize("sn", [0, 1])
@pytest.mark.parametrize("urg", [0, 1])
def test_posting_and_notification(on: int, sn: int, urg: int) -> None:
    """PIR is always set. A notification is sent if none is outstanding and SN does not suppress it."""
    world = Interrupting(posted_interrupts=True)
    world.irte(0, POSTED_71 | urg * URG)
    world.descriptor(1 << 0x20, on=on, sn=sn)
    notify = {(0, 0): True, (0, 1): bool(urg)}.get((on, sn), False)
    outcome = world.interrupt(0)
    assert world.pir() == 1 << 0x20 | 1 << 0x71
    assert world.control() == 0x900 << 32 | 0xF2 << 16 | sn << 1 | (on or notify)
    assert outcome.posted is not None
    assert (outcome.posted.descriptor, outcome.posted.vector) == (DESCRIPTOR, 0x71)
    assert outcome == InterruptOutcome(posted=outcome.posted)
    # Fixed, physical, edge.
    assert outcome.posted.notification == ((0xF2, 9, 0, False, False, False) if notify else None)
    assert world.unit.drain_events() == ([Message(0xFEE0_9000, 0x40F2)] if notify else [])


def test_one_notification_until_software_clears_on() -> None:
    world = Interrupting(posted_interrupts=True)
    world.irte(0, POSTED_71)
    world.irte(1, POSTED_71 + (1 << 16) | URG)
    world.descriptor()
    for index in (0, 1, 0):
        world.interrupt(index)
    assert world.pir() == 3 << 0x71
    assert len(world.unit.drain_events()) == 1
    world.put(DESCRIPTOR + 32, world.control() & ~1)
    world.interrupt(0)
    assert len(world.unit.drain_events()) == 1


@pytest.mark.parametrize("vector", [0, 63, 64, 127, 128, 255])
def test_vector_in_pir(vector: int) -> None:
    world = Interrupting(posted_interrupts=True)
    world.irte(0, POSTED_71 & ~(0xFF << 16) | vector << 16)
    world.descriptor()
    assert world.code(0) == 0
    assert world.pir() == 1 << vector


def test_notification_in_extended_mode() -> None:
    world = Interrupting(eime=True, posted_interrupts=True)
    world.irte(0, POSTED_71)
    world.descriptor(ndst=0x1234_5678)
    assert world.code(0) == 0
    assert world.unit.drain_events() == [Message(0x1234_5600_FEE7_8000, 0x40F2)]


def test_notification_is_not_remapped() -> None:
    """Its address is not that of a remappable request, and an absent entry does not matter."""
    world = Interrupting(posted_interrupts=True)
    world.irte(0, POSTED_71)
    world.descriptor(ndst=0)
    assert world.code(0) == 0
    assert world.unit.drain_events() == [Message(0xFEE0_0000, 0x40F2)]
    assert world.records() == []


@pytest.mark.parametrize("eime", [False, True])
def test_reserved_bits_of_the_posted_form(eime: bool) -> None:
    """One bit at a time, of all 128, except for those of the address, and SVT."""
    world = Interrupting(eime=eime, posted_interrupts=True)
    reserved = {*range(2, 8), 12, 13, *range(24, 38), *range(84, 96)}
    for bit in set(range(2, 96)) - {15, *range(38, 64), 82, 83}:
        entry = POSTED_71 ^ 1 << bit
        world.irte(0, entry & ONES, entry >> 64)
        world.unit.caches.invalidate(Selector.interrupts())
        world.descriptor()
        assert world.code(0) == (0x24 if bit in reserved else 0), bit
        if bit in reserved:
            assert world.pir() == 0


@pytest.mark.parametrize("bit", [*range(6, 23), 24, 31, 32, 40, 47, 63])
def test_descriptor_address_bits(bit: int) -> None:
    """Address bits 31:6 are entry bits 63:38, address bits 63:32 entry bits 127:96."""
    world = Interrupting(posted_interrupts=True, size=32 << 20)
    entry = 1 << (32 + bit if bit < 32 else 64 + bit) | 0x71 << 16 | 1 << 15 | 1
    world.irte(0x80, entry & ONES, entry >> 64)
    outcome = world.interrupt(0x80)
    if bit <= 24:
        assert outcome.posted is not None
        assert outcome.posted.descriptor == 1 << bit
        assert world.memory.read_u64((1 << bit) + 8) == 1 << 0x71 - 64
    else:
        assert outcome.fault is FaultReason.IR_27


@pytest.mark.parametrize("eime", [False, True])
def test_reserved_bits_of_the_descriptor(eime: bool) -> None:
    """One bit at a time; the destination's in 8-bit mode too. Nothing is written when one is set."""
    world = Interrupting(eime=eime, posted_interrupts=True)
    world.irte(0, POSTED_71)
    reserved = {*range(258, 272), *range(280, 288)} | (set() if eime else {*range(288, 296), *range(304, 320)})
    for bit in range(512):
        raw = (1 << bit).to_bytes(64, "little")
        world.memory.write(DESCRIPTOR, raw)
        assert world.code(0) == (0x28 if bit in reserved else 0), bit
        if bit in reserved:
            assert world.memory.read(DESCRIPTOR, 64) == raw
        else:
            after = int.from_bytes(world.memory.read(DESCRIPTOR, 64), "little")
            assert after & ~(1 << 0x71 | 1 << 256) == 1 << bit & ~(1 << 0x71 | 1 << 256)


class Watched(FlatMemory):
    """Memory that lists the accesses to it."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.accesses: list[tuple[str, int, int]] = []

    def read(self, address: int, length: int) -> bytes:
        """Noted."""
        self.accesses.append(("read", address, length))
        return super().read(address, length)

    def write(self, address: int, data: bytes) -> None:
        """Noted."""
        self.accesses.append(("write", address, len(data)))
        super().write(address, data)


def test_pir_is_updated_before_on_and_nothing_else_is_written() -> None:
    """Vector 0x71 is in the second quadword of PIR; ON is in the fifth. While ON is set, only PIR is updated."""
    memory = Watched(16 << 20)
    unit = RemappingUnit(memory, Capabilities(posted_interrupts=True))
    memory.write_u64(TABLE, POSTED_71)
    unit.mmio_write(IRTA, TABLE, 8)
    unit.mmio_write(GCMD, SIRTP, 4)
    unit.mmio_write(GCMD, IRE, 4)
    descriptor, pir, on = ("read", DESCRIPTOR, 64), ("write", DESCRIPTOR + 8, 8), ("write", DESCRIPTOR + 32, 8)
    memory.accesses.clear()
    unit.remap_interrupt(request(0))
    assert memory.accesses == [("read", TABLE, 16), descriptor, pir, on]
    memory.accesses.clear()
    unit.remap_interrupt(request(0))
    assert memory.accesses == [descriptor, pir]


@pytest.mark.parametrize("pi", [False, True])
def test_posted_form_without_posting(pi: bool) -> None:
    """9.10: without CAP.PI, IM and URG are reserved."""
    world = Interrupting(posted_interrupts=pi)
    world.descriptor()
    world.irte(0, FIXED_41_TO_5 & ~(0xFF << 40) | 1 << 15)
    world.irte(1, FIXED_41_TO_5 | 1 << 15)
    world.irte(2, POSTED_71)
    if pi:
        assert world.interrupt(0).posted == Posting(0, 0x41, Interrupt(0, 0))
        assert world.code(2) == 0
    else:
        assert (world.code(0), world.code(1), world.code(2)) == (0x24, 0x24, 0x24)
    assert bool(world.pir()) == pi
