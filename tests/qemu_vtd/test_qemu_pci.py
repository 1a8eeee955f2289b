from itertools import pairwise

import pytest

from iommu.errors import MisuseError
from qemu.vtd import Machine
from qemu.vtd.devices import Edu, Rocker
from qemu.vtd.devices.source import DmaSource
from qemu.vtd.errors import DeviceError
from qemu.vtd.launch import DeviceSpec
from qemu.vtd.pci import MMIO_FIRST, MMIO_LIMIT, source_id
from qemu.vtd.topology import Bridge

EDU, ROCKER, SECOND_ROCKER = source_id(0, 4), source_id(0, 5), source_id(0, 5, 1)


PORT = Bridge("pcie-root-port,id=root1,slot=1,addr=03.0")
BRIDGE_BEHIND_IT = Bridge("pcie-pci-bridge,id=bridge1,bus=root1")


def test_source_ids() -> None:
    assert source_id(0x12, 0x1F, 7) == 0x12FF
    for place in [(256, 0, 0), (0, 32, 0), (0, 0, 8), (-1, 0, 0)]:
        with pytest.raises(MisuseError, match="no such PCI function"):
            source_id(*place)


def test_functions_are_found(machine: Machine) -> None:
    assert {EDU, ROCKER, SECOND_ROCKER} <= set(machine.pci.functions(0))
    assert machine.pci.functions(1) == []


def test_configuration_space(machine: Machine) -> None:
    assert machine.pci.read(EDU, 0, 4) == 0x11E81234
    assert machine.pci.read(EDU, 0, 2) == 0x1234
    assert machine.pci.read(EDU, 3, 1) == 0x11
    assert machine.pci.read(source_id(0, 20), 0, 4) == 0xFFFFFFFF
    for offset, size in [(1, 2), (0x1000, 4), (-4, 4)]:
        with pytest.raises(MisuseError, match="configuration space"):
            machine.pci.read(EDU, offset, size)


def test_configuration_writes_last_until_the_reset(machine: Machine) -> None:
    machine.pci.write(EDU, 0x04, 0, 2)
    assert machine.pci.read(EDU, 0x04, 2) == 0
    machine.reset()
    assert machine.pci.read(EDU, 0x04, 2) == 6


def test_bars_are_aligned_and_do_not_overlap(machine: Machine) -> None:
    bars = sorted((bar for of in machine.pci.bars.values() for bar in of.values()), key=lambda bar: bar.address)
    assert all(bar.address % bar.size == 0 and MMIO_FIRST <= bar.address < MMIO_LIMIT for bar in bars)
    assert all(one.address + one.size <= other.address for one, other in pairwise(bars))
    assert machine.pci.bars[EDU][0].size == 1 << 20
    assert set(machine.pci.bars[ROCKER]) == {0, 1}


def test_bars_keep_their_addresses_after_a_reset(machine: Machine) -> None:
    address = machine.pci.bar(EDU, 0)
    assert machine.qtest.read(address, 4) == 0x010000ED
    machine.reset()
    assert machine.pci.bar(EDU, 0) == address
    assert machine.qtest.read(address, 4) == 0x010000ED


def test_a_bar_that_does_not_exist(machine: Machine) -> None:
    with pytest.raises(DeviceError, match=r"00:04\.0 has no memory BAR 5"):
        machine.pci.bar(EDU, 5)


def test_64_bit_bars(machine: Machine) -> None:
    class Nvme:
        def command_line(self) -> list[str]:
            return ["-device", "nvme,serial=1,addr=07.0"]

    with Machine(machine.build.path, devices=[Nvme()]) as other:
        bar = other.pci.bars[source_id(0, 7)][0]
        assert bar.is_64_bit
        # NVMe's version register: 1.x
        assert other.qtest.read(bar.address + 8, 4) >> 16 == 1


def test_devices_behind_ports_and_bridges(machine: Machine) -> None:
    behind_port: tuple[DmaSource, list[DeviceSpec]] = Edu(0, bus="root1"), [PORT]
    behind_bridge: tuple[DmaSource, list[DeviceSpec]] = Rocker(1, bus="bridge1"), [PORT, BRIDGE_BEHIND_IT]
    for device, path in (behind_port, behind_bridge):
        with Machine(machine.build.path, devices=[*path, device]) as other:
            _moves_data(other, device)
            other.reset()
            _moves_data(other, device)
            assert device.source_id >> 8 == len(path)
            with pytest.raises(DeviceError, match="no port or bridge 'nowhere'"):
                other.bus_number("nowhere")


def test_a_bus_below_a_second_host_bridge_and_its_renumbering(machine: Machine) -> None:
    """Both change the source-id; the device works on, and a reset gives the bus its first number back."""
    host, port = Bridge("pxb-pcie,id=host,bus=pcie.0,addr=07.0,bus_nr=0x40"), Bridge("pcie-root-port,id=p,bus=host")
    device = Rocker(0, bus="p")
    with Machine(machine.build.path, devices=[host, port, device], root_buses=[0x40]) as other:
        assert device.source_id == 0x4100
        other.renumber_bus("p", 0x77)
        assert device.source_id == 0x7700
        _moves_data(other, device)
        other.reset()
        assert device.source_id == 0x4100


def _moves_data(machine: Machine, device: DmaSource) -> None:
    machine.memory.write(0x1000, bytes(64))
    device.dma_write(0x1000, 64)
    assert machine.memory.read(0x1000, 64) == device.pattern(64)
