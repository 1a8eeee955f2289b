"""Stepped units: commands that take a while (spec 6.9, 11.4.4, 11.4.6, 6.5.2), and drivers that wait for them."""

from __future__ import annotations

from typing import Any

import pytest

from iommu import Pending, RemappingUnit, Work
from iommu.engine.ats import AtsDevice, Completion, DeviceInvalidation, PageResponse
from iommu.engine.steps import IgnoredWrite
from tests.engine.queueing import IECTL, IQA, IQH, IQT, ITE, QIE, Descriptor, context, device_tlb, iotlb, wait
from tests.engine.world import CCMD, DISK, FSTS, GCMD, GSTS, NIC, RTADDR, SRTP, TE, World

WBF, IRE, SIRTP, CFI = 1 << 27, 1 << 25, 1 << 24, 1 << 23
IRTA, ICS, PMEN, PLMBASE, PLMLIMIT = 0xB8, 0x9C, 0x64, 0x68, 0x6C
ICC = IVT = 1 << 63


class SteppedWorld(World):
    """A world whose unit is stepped."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.unit = RemappingUnit(self.memory, self.capabilities, options.get("policy"), stepped=True)

    def works(self) -> list[Work]:
        """What is pending, without the values."""
        return [pending.work for pending in self.unit.pending]

    def finish(self) -> None:
        """Complete everything."""
        while self.unit.step():
            pass


def mapped(**options: Any) -> SteppedWorld:
    """NIC has the page 0x5000; translation is on, nothing is pending."""
    world = SteppedWorld(**options)
    world.map(world.device(), 4, 0x5000, 0x9003)
    world.write(RTADDR, world.root, 8)
    for command in (SRTP, TE):
        world.write(GCMD, command)
        world.finish()
    return world


def with_queue(world: SteppedWorld, *descriptors: Descriptor) -> int:
    """Turn the queue on and submit descriptors. Returns the address of the queue."""
    base = world.page()
    world.write(IQA, base, 8)
    world.write(GCMD, world.read(GSTS) & TE | QIE)
    assert world.unit.step() == 1
    for number, descriptor in enumerate(descriptors):
        world.put(base + 16 * number, *descriptor)
    world.write(IQT, 16 * len(descriptors), 8)
    return base


# GCMD: the status follows the command (11.4.4.1, 11.4.4.2).


@pytest.mark.parametrize(
    ("bit", "work", "before", "during"),
    [
        (TE, Work.TRANSLATION, 0, 0),
        (SRTP, Work.ROOT_TABLE, 0, 0),
        (QIE, Work.QUEUE, 0, 0),
        (IRE, Work.INTERRUPT_REMAPPING, 0, 0),
        (SIRTP, Work.INTERRUPT_TABLE, 0, 0),
        (CFI, Work.COMPATIBILITY_INTERRUPTS, 0, 0),
        (WBF, Work.WRITE_BUFFER_FLUSH, 0, WBF),
    ],
)
def test_each_command_shows_in_the_status_when_it_is_done(bit: int, work: Work, before: int, during: int) -> None:
    """WBFS is set while the flush is in progress; every other status is set at its end."""
    world = SteppedWorld(write_buffer_flush=True)
    assert world.read(GSTS) == before
    world.write(GCMD, bit)
    assert (world.read(GSTS), world.unit.pending) == (during, [Pending(work, 1)])
    assert str(world.unit.pending[0]) == f"{work.value} 0x1"
    assert world.unit.step() == 1
    assert (world.read(GSTS), world.unit.pending) == (0 if bit == WBF else bit, [])
    assert world.unit.step() == 0


@pytest.mark.parametrize("bit", [TE, QIE, IRE, CFI])
def test_turning_off_takes_a_step_too(bit: int) -> None:
    world = SteppedWorld()
    world.write(GCMD, bit)
    world.finish()
    world.write(GCMD, 0)
    assert world.read(GSTS) == bit
    assert len(world.unit.pending) == world.unit.step() == 1
    assert world.read(GSTS) == 0


@pytest.mark.parametrize(("command", "address", "status"), [(SRTP, RTADDR, 1 << 30), (SIRTP, IRTA, 1 << 24)])
def test_a_pointer_that_is_set_again_loses_its_status_meanwhile(command: int, address: int, status: int) -> None:
    """11.4.4.2: RTPS and IRTPS are cleared when software gives the command, and set when it is done."""
    world = SteppedWorld()
    world.write(address, 0x4000, 8)
    for _ in range(2):
        world.write(GCMD, command)
        assert world.read(GSTS) == 0
        world.finish()
        assert world.read(GSTS) == status


def test_commands_that_the_unit_lacks_are_never_pending() -> None:
    world = SteppedWorld(queued_invalidation=False, interrupt_remapping=False)
    world.write(GCMD, QIE | IRE | SIRTP | CFI | WBF | 1 << 22)
    assert (world.unit.pending, world.read(GSTS)) == ([], 0)


def test_a_command_that_changes_nothing_is_not_pending() -> None:
    world = mapped()
    world.write(GCMD, TE)
    assert (world.unit.pending, world.read(GSTS)) == ([], TE | 1 << 30)


def test_one_write_with_several_commands_completes_them_one_by_one() -> None:
    """Software must not do that (11.4.4.1); the pointers are latched before remapping is turned on."""
    world = SteppedWorld(write_buffer_flush=True)
    world.write(GCMD, TE | IRE | QIE | SRTP | SIRTP | WBF)
    seen = []
    while world.unit.step():
        seen.append(world.read(GSTS))
    assert seen == [0, SRTP, SRTP | SIRTP, SRTP | SIRTP | TE, SRTP | SIRTP | TE | QIE, SRTP | SIRTP | TE | QIE | IRE]


# DMA meanwhile: as before the command.


def test_dma_uses_the_old_state_until_the_command_is_done() -> None:
    world = SteppedWorld()
    world.map(world.device(), 4, 0x5000, 0x9003)
    world.write(RTADDR, world.root, 8)
    world.write(GCMD, SRTP)
    world.finish()
    world.write(GCMD, TE)
    assert world.dma(0x5000).host_address == 0x5000
    world.finish()
    assert world.dma(0x5000).host_address == 0x9000
    world.write(GCMD, 0)
    assert world.fault(0x6000) == 0x05
    world.finish()
    assert world.dma(0x6000).host_address == 0x6000


def test_the_root_table_is_the_old_one_until_srtp_is_done() -> None:
    world = mapped(invalidate_on_root_pointer=True)
    world.write(RTADDR, world.page(), 8)
    world.write(GCMD, TE | SRTP)
    assert world.dma(0x5000).host_address == 0x9000
    world.finish()
    assert world.fault(0x5000) == 0x01


def test_protected_memory_is_on_when_prs_says_so() -> None:
    """11.4.8.1: PRS shows when EPM has taken effect; the ranges count as they are then."""
    world = SteppedWorld(protected_low=True)
    world.write(PLMBASE, 0x10_0000)
    world.write(PLMLIMIT, 0x10_0000)
    world.write(PMEN, 1 << 31)
    assert (world.read(PMEN), world.dma(0x10_0000).host_address) == (1 << 31, 0x10_0000)
    assert world.unit.pending == [Pending(Work.PROTECTED_MEMORY, 1 << 31)]
    world.finish()
    assert (world.read(PMEN), world.fault(0x10_0000)) == (1 << 31 | 1, 0)
    world.write(PMEN, 0)
    assert world.read(PMEN) == 1
    world.finish()
    assert world.read(PMEN) == 0


# Invalidation by register (11.4.6.1, 11.4.6.3).


def test_icc_is_set_until_the_contexts_are_dropped() -> None:
    world = mapped()
    world.dma(0x5000)
    world.put(world.context_address(NIC), 0, 0)
    world.write(CCMD, ICC | 1 << 61, 8)
    assert (world.read(CCMD, 8) >> 63, world.works()) == (1, [Work.CONTEXT_INVALIDATION])
    assert world.dma(0x5000).host_address == 0x9000
    assert world.unit.step() == 1
    assert (world.read(CCMD, 8) >> 63, world.read(CCMD, 8) >> 59 & 3) == (0, 1)
    assert world.fault(0x5000) == 0x02


def test_ivt_is_set_until_the_pages_are_dropped() -> None:
    world = mapped()
    world.dma(0x5000)
    places = world.map(world.device(), 4, 0x5000, 0xA003)
    world.write(CCMD, ICC | 1 << 61, 8)
    world.finish()
    world.write(world.iva, 0x5000, 8)
    world.write(world.iotlb, IVT | 3 << 60 | 1 << 32, 8)
    assert world.read(world.iotlb, 8) >> 63 == 1
    assert world.dma(0x5000).host_address == 0x9000
    world.finish()
    assert (world.read(world.iotlb, 8) >> 63, world.read(world.iotlb, 8) >> 57 & 3) == (0, 3)
    assert world.dma(0x5000).host_address == 0xA000, places


def test_the_lower_half_starts_nothing() -> None:
    world = mapped()
    world.write(CCMD, 1)
    assert world.unit.pending == []
    world.write(CCMD + 4, 1 << 31 | 1 << 29)
    assert world.works() == [Work.CONTEXT_INVALIDATION]


# Software that does not wait: 6.9 leaves open what happens. Here the write is ignored, and the unit notes it.


def test_a_second_command_while_one_is_pending_is_ignored() -> None:
    world = SteppedWorld()
    world.write(RTADDR, world.root, 8)
    world.write(GCMD, SRTP)
    world.write(GCMD, TE)
    assert world.unit.ignored_writes == [IgnoredWrite(GCMD, TE)]
    world.finish()
    assert world.read(GSTS) == 1 << 30


def test_registers_of_a_pending_invalidation_belong_to_hardware() -> None:
    world = mapped()
    world.dma(0x5000)
    world.write(world.iva, 0x5000, 8)
    world.write(world.iotlb, IVT | 3 << 60 | 1 << 32, 8)
    held = world.read(world.iva, 8), world.read(world.iotlb, 8)
    world.write(world.iva, 0x7000, 8)
    world.write(world.iotlb, 1)
    world.write(world.iotlb, IVT | 1 << 60, 8)
    assert (world.read(world.iva, 8), world.read(world.iotlb, 8)) == held
    assert [write.offset for write in world.unit.ignored_writes] == [world.iva, world.iotlb, world.iotlb]
    assert world.works() == [Work.IOTLB_INVALIDATION]
    world.finish()
    assert world.read(world.iotlb, 8) >> 57 & 3 == 3
    world.write(world.iva, 0x7000, 8)
    assert world.read(world.iva, 8) == 0x7000


def test_another_register_takes_no_command_either() -> None:
    world = mapped(protected_low=True)
    world.write(GCMD, TE | QIE)
    world.write(CCMD, ICC | 1 << 61, 8)
    world.write(world.iotlb, IVT | 1 << 60, 8)
    world.write(PMEN, 1 << 31)
    assert (world.read(CCMD, 8) >> 63, world.read(world.iotlb, 8) >> 63, world.read(PMEN)) == (0, 0, 0)
    assert world.works() == [Work.QUEUE]
    assert [write.offset for write in world.unit.ignored_writes] == [CCMD, world.iotlb, PMEN]


# The queue (6.5.2): in order, one descriptor for each step.


def test_descriptors_complete_one_by_one() -> None:
    world = mapped()
    world.dma(0x5000)
    world.put(world.context_address(NIC), 0, 0)
    status = world.page()
    with_queue(world, context(1), iotlb(1), wait(sw=1, data=7, address=status))
    assert world.unit.pending == [Pending(Work.DESCRIPTOR, offset) for offset in (0, 16, 32)]
    assert (world.read(IQH, 8), world.dma(0x5000).host_address) == (0, 0x9000)
    assert world.unit.step() == 1
    assert (world.read(IQH, 8), world.fault(0x5000)) == (16, 0x02)
    assert world.unit.step() == 1
    assert (world.read(IQH, 8), world.memory.read_u64(status)) == (32, 0)
    assert world.unit.step() == 1
    assert (world.read(IQH, 8), world.memory.read_u64(status), world.unit.step()) == (48, 7, 0)


def test_the_completion_interrupt_comes_with_its_wait_descriptor() -> None:
    world = mapped()
    world.write(IECTL, 0)
    with_queue(world, iotlb(1), wait(interrupt=1))
    assert world.unit.step() == 1
    assert (world.read(ICS), world.unit.drain_events()) == (0, [])
    assert world.unit.step() == 1
    assert (world.read(ICS), len(world.unit.drain_events())) == (1, 1)


def test_several_steps_at_once_and_the_wrap() -> None:
    world = mapped()
    base = with_queue(world)
    for offset in range(0, 0x1000, 16):
        world.put(base + offset, *iotlb(1))
    world.write(IQT, 0xFF0, 8)
    assert world.unit.step(1000) == 255
    world.write(IQT, 0x10, 8)
    assert [pending.value for pending in world.unit.pending] == [0xFF0, 0]
    assert (world.unit.step(2), world.read(IQH, 8)) == (2, 0x10)


def test_an_error_stops_the_queue_until_software_clears_it() -> None:
    """6.5.2.10; clearing IQE makes the same descriptor pending again."""
    world = mapped()
    base = with_queue(world, (0xF, 0), wait())
    assert world.unit.step() == 1
    assert (world.read(FSTS), world.read(IQH, 8), world.unit.pending) == (1 << 4, 0, [])
    world.put(base, *iotlb(1))
    world.write(FSTS, 1 << 4)
    assert world.works() == [Work.DESCRIPTOR, Work.DESCRIPTOR]
    world.finish()
    assert (world.read(FSTS), world.read(IQH, 8)) == (0, 32)


def test_a_tail_beyond_the_queue_is_found_by_a_step() -> None:
    world = mapped()
    with_queue(world)
    world.write(IQT, 0x1000, 8)
    assert (world.read(FSTS), world.works()) == (0, [Work.DESCRIPTOR])
    assert world.unit.step() == 1
    assert (world.read(FSTS), world.unit.step()) == (1 << 4, 0)


class Silent(AtsDevice):
    """A device that never answers an invalidation."""

    source_id = NIC

    def invalidate(self, invalidation: DeviceInvalidation) -> Completion:
        return Completion.TIMED_OUT

    def respond(self, response: PageResponse) -> None:
        raise AssertionError("no response is sent")


def test_a_device_that_does_not_answer_times_out_after_the_queue_is_empty() -> None:
    world = mapped(device_tlb=True)
    world.unit.attach(Silent())
    with_queue(world, device_tlb(int(NIC)))
    assert world.unit.step() == 1
    assert (world.read(FSTS), world.unit.pending) == (0, [Pending(Work.DEVICE_TIME_OUT, NIC)])
    assert world.unit.step() == 1
    assert (world.read(FSTS), world.unit.step()) == (ITE, 0)


def test_a_device_that_does_not_answer_times_out_at_the_wait_descriptor() -> None:
    world = mapped(device_tlb=True)
    world.unit.attach(Silent())
    status = world.page()
    with_queue(world, device_tlb(int(NIC)), wait(sw=1, data=7, address=status))
    world.finish()
    assert (world.read(FSTS), world.read(IQH, 8), world.memory.read_u64(status)) == (ITE, 32, 0)


def test_commands_in_registers_come_before_the_queue() -> None:
    world = mapped()
    with_queue(world, iotlb(1))
    world.write(GCMD, TE | QIE | IRE)
    assert world.works() == [Work.INTERRUPT_REMAPPING, Work.DESCRIPTOR]
    assert world.unit.step() == 1
    assert (world.read(GSTS) & IRE, world.read(IQH, 8)) == (IRE, 0)


# Faults, resets, units that are not stepped.


def test_faults_are_not_delayed() -> None:
    world = mapped()
    world.write(GCMD, TE | QIE)
    assert world.fault(0x6000, source_id=DISK) == 0x02
    assert world.record().f == 1


@pytest.mark.parametrize("warm", [False, True])
def test_a_reset_drops_what_is_pending(warm: bool) -> None:
    world = mapped()
    with_queue(world, iotlb(1))
    world.write(GCMD, TE | QIE | IRE)
    world.write(GCMD, 0)
    world.unit.warm_reset() if warm else world.unit.reset()
    assert (world.unit.pending, world.unit.ignored_writes, world.unit.step(5)) == ([], [], 0)
    world.write(GCMD, TE)
    assert world.works() == [Work.TRANSLATION]


def test_a_unit_that_is_not_stepped_has_nothing_to_do() -> None:
    world = World()
    world.write(GCMD, TE | SRTP)
    assert (world.unit.pending, world.unit.ignored_writes, world.unit.step(3)) == ([], [], 0)
    assert world.read(GSTS) == TE | SRTP


def test_pending_work_can_be_given_to_another_unit() -> None:
    """It is plain data: with the registers' values, the other unit goes on where this one was."""
    world = mapped()
    world.write(world.iva, 0x5000, 8)
    world.write(world.iotlb, IVT | 3 << 60 | 1 << 32, 8)
    other = RemappingUnit(world.memory, world.capabilities, stepped=True)
    for slot, value in zip(other.registers, [slot.value for slot in world.unit.registers], strict=True):
        slot.value = value
    assert world.unit.steps is not None
    assert other.steps is not None
    other.steps.restore(world.unit.steps.commands)
    other.mmio_write(world.iva, 0x7000, 8)
    assert (other.mmio_read(world.iva, 8), other.pending) == (0x5000, world.unit.pending)
    assert (other.step(), other.step()) == (1, 0)
    assert other.mmio_read(world.iotlb, 8) >> 57 & 3 == 3


# An example: a driver that polls, and how its time-out is tested.


class Hung(Exception):
    """The hardware did not complete a command in time."""


class PollingDriver:
    """Brings a unit up. Each read of a register that it polls is a tick of its clock; the unit may work meanwhile."""

    PATIENCE = 10

    def __init__(self, unit: RemappingUnit, *, ticks_per_step: int) -> None:
        """`ticks_per_step`: how long the unit takes for each command; 0 for a unit that hangs."""
        self.unit, self.ticks, self.ticks_per_step = unit, 0, ticks_per_step

    def wait(self, offset: int, size: int, mask: int, wanted: int) -> None:
        """Poll until the bits in `mask` are `wanted`. Raises Hung."""
        for _ in range(self.PATIENCE):
            if self.unit.mmio_read(offset, size) & mask == wanted:
                return
            self.ticks += 1
            if self.ticks_per_step and not self.ticks % self.ticks_per_step:
                self.unit.step()
        raise Hung(f"register {offset:#x}")

    def command(self, one: int) -> None:
        """Give a command of GCMD and wait for its status."""
        self.unit.mmio_write(GCMD, self.unit.mmio_read(GSTS, 4) & 0x96FF_FFFF | one, 4)
        self.wait(GSTS, 4, one, one)

    def start(self, root: int) -> None:
        """Set the root table, drop what is cached, turn translation on."""
        self.unit.mmio_write(RTADDR, root, 8)
        self.command(SRTP)
        self.unit.mmio_write(CCMD, ICC | 1 << 61, 8)
        self.wait(CCMD, 8, ICC, 0)
        self.command(TE)


def test_a_driver_that_waits_works_with_a_slow_unit() -> None:
    world = SteppedWorld()
    driver = PollingDriver(world.unit, ticks_per_step=7)
    driver.start(world.root)
    assert (world.read(GSTS), driver.ticks, world.unit.ignored_writes) == (TE | SRTP, 21, [])


@pytest.mark.parametrize(("done", "stuck"), [(0, "register 0x1c"), (1, "register 0x28"), (2, "register 0x1c")])
def test_a_driver_gives_up_on_a_unit_that_hangs(done: int, stuck: str) -> None:
    """The unit completes the first commands and then nothing more."""
    world = SteppedWorld()
    driver = PollingDriver(world.unit, ticks_per_step=1)
    whole = world.unit.step

    def step(count: int = 1) -> int:
        nonlocal done
        done -= 1
        return whole(count) if done >= 0 else 0

    world.unit.step = step  # type: ignore[method-assign]
    with pytest.raises(Hung, match=stuck):
        driver.start(world.root)
    assert not world.read(GSTS) & TE


def test_a_driver_that_does_not_wait_is_found_out() -> None:
    world = SteppedWorld()
    world.write(RTADDR, world.root, 8)
    world.write(GCMD, SRTP)
    world.write(GCMD, TE)
    world.finish()
    assert world.unit.ignored_writes
    assert not world.read(GSTS) & TE
