import os

import pytest

from iommu.errors import MisuseError
from qemu.vtd import Machine
from qemu.vtd.devices import Edu
from qemu.vtd.errors import DeviceError
from qemu.vtd.probe import Build

DUMP = 0x20000
# The last slot from which the longest read still fits.
LAST_LONG = (Edu.BUFFER_SIZE - 2 * Edu.longest) // Edu.SLOT_SIZE


@pytest.fixture
def edu(machine: Machine) -> Edu:
    return next(device for device in machine.devices if isinstance(device, Edu))


def test_each_read_keeps_its_own_slot(machine: Machine, edu: Edu) -> None:
    data = [os.urandom(edu.SLOT_SIZE) for _ in range(edu.SLOTS)]
    for slot, one in enumerate(data):
        machine.memory.write(0x1000 + 0x100 * slot, one)
        edu.dma_read(0x1000 + 0x100 * slot, len(one), slot)
    edu.dump_buffer(DUMP)
    for slot, one in enumerate(data):
        assert machine.memory.read(DUMP + edu.slot_offset(slot), edu.SLOT_SIZE) == one


def test_reads_leave_the_pattern_alone(machine: Machine, edu: Edu) -> None:
    machine.memory.write(0x1000, b"\xaa" * 1024)
    for slot in (0, LAST_LONG // 2, LAST_LONG):
        edu.dma_read(0x1000, edu.longest, slot)
    edu.dma_write(DUMP, edu.longest)
    assert machine.memory.read(DUMP, edu.longest) == edu.pattern(edu.longest)


def test_the_buffer_survives_a_reset(machine: Machine, edu: Edu) -> None:
    machine.memory.write(0x1000, b"8 bytes!")
    edu.dma_read(0x1000, 8, 5)
    machine.reset()
    edu.dump_buffer(DUMP)
    assert machine.memory.read(DUMP + edu.slot_offset(5), 8) == b"8 bytes!"
    assert machine.memory.read(DUMP, edu.longest) == edu.pattern(edu.longest)


def test_its_pattern_is_known_without_a_machine(edu: Edu) -> None:
    assert Edu(4).pattern(300) == edu.pattern(300)
    assert 0 not in edu.pattern(300)


def test_a_read_without_memory_overwrites_its_slot(machine: Machine, edu: Edu) -> None:
    machine.memory.write(0x1000, b"earlier!")
    edu.dma_read(0x1000, 8, 3)
    edu.dma_read(1 << 40, 8, 3)
    edu.dump_buffer(DUMP)
    assert machine.memory.read(DUMP + edu.slot_offset(3), 8) != b"earlier!"


def test_transfers_beyond_the_buffer_are_refused(edu: Edu) -> None:
    for slot, length in [(edu.SLOTS, 1), (-1, 1), (LAST_LONG + 1, edu.longest), (0, edu.longest + 1)]:
        with pytest.raises(MisuseError):
            edu.dma_read(0x1000, length, slot)
    room = edu.BUFFER_SIZE - edu.slot_offset(edu.SLOTS - 1)
    with pytest.raises(MisuseError, match="exceed the buffer"):
        edu.dma_read(0x1000, room + 1, edu.SLOTS - 1)
    edu.dma_read(0x1000, room, edu.SLOTS - 1)


def test_starting_leaves_memory_as_it_was(build: Build) -> None:
    with Machine(build.path, devices=[Edu(4)]) as machine:
        assert machine.memory.read(0, machine.memory.size) == bytes(machine.memory.size)


def test_a_transfer_that_does_not_end(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    with Machine(build.path, devices=[edu := Edu(4)], skip_idle_time=False) as machine:
        # Real time: 100 ms a transfer.
        edu.dma_write(0x1000, 8)
        assert machine.memory.read(0x1000, 8) == edu.pattern(8)
        monkeypatch.setattr("qemu.vtd.devices.edu._SECONDS", 0.01)
        with pytest.raises(DeviceError, match="did not finish"):
            edu.dma_write(0x1000, 8)
