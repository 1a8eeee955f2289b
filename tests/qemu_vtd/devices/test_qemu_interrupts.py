"""Interrupts that devices and I/O APIC pins send, as QEMU's trace shows them."""

import re
from collections.abc import Iterator

import pytest

from iommu import Access, Message
from iommu.errors import MisuseError
from qemu.vtd.devices import IommuTestdev
from qemu.vtd.errors import DeviceError
from qemu.vtd.platform import ModelPlatform, Unreachable, request_of_pin
from qemu.vtd.probe import Build
from qemu.vtd.qemu_platform import QemuPlatform

ADDRESS = 0xFEE0_5000


@pytest.fixture(scope="module")
def platform(build: Build) -> Iterator[QemuPlatform]:
    with QemuPlatform(build.path) as running:
        yield running


@pytest.mark.parametrize(("device", "data"), [("A", 0xABCD), ("B", 0x1234_ABCD), ("C", 0)])
def test_a_device_sends_what_it_is_told(platform: QemuPlatform, device: str, data: int) -> None:
    for _ in range(2):
        assert platform.interrupt(device, ADDRESS, data) == Message(ADDRESS, data)


def test_an_msi_has_16_bits_of_data(platform: QemuPlatform) -> None:
    with pytest.raises(Unreachable, match="0x10000 does not fit"):
        platform.interrupt("A", ADDRESS, 0x1_0000)


def test_a_device_that_cannot() -> None:
    with pytest.raises(MisuseError, match="iommu-testdev cannot send interrupts"):
        IommuTestdev(6).send_msi(ADDRESS, 0)


def test_a_capability_that_is_missing(platform: QemuPlatform) -> None:
    with pytest.raises(DeviceError, match=re.escape("00:04.0 has no capability 0x11")):
        platform.machine.pci.capability(platform.source_ids["A"], 0x11)


@pytest.mark.parametrize("entry", [0x12 << 56 | 0x43, 0x12 << 56 | 1 << 15 | 1 << 11 | 0x143])
def test_a_pin_sends_its_redirection_entry(platform: QemuPlatform, entry: int) -> None:
    """Also a second time: no level-triggered pin stays busy."""
    request = request_of_pin(entry)
    for _ in range(2):
        assert platform.pin(9, entry) == Message(request.address, request.data)


def test_a_dword_written_by_dma_is_a_message_on_both_platforms(platform: QemuPlatform) -> None:
    for each in (platform, ModelPlatform()):
        assert each.write_interrupt("B", ADDRESS) == [Message(ADDRESS, 0x9696_9696)]
        assert each.write_interrupt("B", ADDRESS, 2) == []
        assert each.dma("B", Access.WRITE, ADDRESS).host is None
