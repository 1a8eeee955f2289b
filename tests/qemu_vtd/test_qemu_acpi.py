import pytest

from iommu.dmar import Dmar
from iommu.errors import FormatError
from qemu.vtd import Machine, acpi
from qemu.vtd.errors import DeviceError


def _table(signature: bytes, length: int = 36) -> bytes:
    return (signature + length.to_bytes(4, "little")).ljust(length, b"\1")


def test_tables_are_split() -> None:
    one, other, second = _table(b"FACP"), _table(b"DMAR", 50), _table(b"FACP", 40)
    assert acpi.split(one + other + second + bytes(100)) == {"FACP": [one, second], "DMAR": [other]}
    assert acpi.split(b"") == {}


@pytest.mark.parametrize("data", [_table(b"DMAR")[:-1], b"DMAR\x08\0\0\0", b"DM"])
def test_a_truncated_table(data: bytes) -> None:
    with pytest.raises(FormatError, match="cut short"):
        acpi.split(data)


def test_the_tables_of_a_machine(machine: Machine) -> None:
    tables = machine.acpi_tables()
    assert {"DSDT", "FACP", "APIC", "MCFG", "DMAR"} <= set(tables)
    assert all(len(one) == int.from_bytes(one[4:8], "little") for found in tables.values() for one in found)


def test_fetching_them_leaves_memory_as_it_was(machine: Machine) -> None:
    size = machine.memory.size
    image = (bytes(range(253)) * (size // 253 + 1))[:size]
    machine.memory.write(0, image)
    machine.acpi_tables()
    assert machine.memory.read(0, len(image)) == image


def test_the_register_base_comes_from_the_dmar(machine: Machine) -> None:
    assert [unit.base for unit in Dmar.parse(machine.dmar()).units] == [0xFED90000]
    assert machine.register_base == 0xFED90000
    # VER: architecture version 1.0
    assert machine.qtest.read(machine.register_base, 4) == 0x10


def test_a_machine_without_a_unit_has_no_dmar(machine: Machine) -> None:
    with Machine(machine.build.path) as other, pytest.raises(DeviceError, match="no remapping unit"):
        _ = other.register_base


def test_a_file_that_is_not_there(machine: Machine) -> None:
    with pytest.raises(DeviceError, match="opt/nothing"):
        acpi.FirmwareConfig(machine.qtest, machine.memory).read("opt/nothing")
