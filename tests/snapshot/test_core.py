"""ELF cores: memory with registers that are given by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from iommu import DmaRequest, VtdError
from iommu.snapshot import Snapshot
from iommu.snapshot.core import Given
from iommu.snapshot.saving import registers_of
from tests import command
from tests.dmar import hand
from tests.engine.living import PAGES, busy
from tests.engine.world import NIC, READ, mapped
from tests.snapshot.test_snapshot import elf

BASE = 0xFED9_0000


def firmware(*tables: bytes) -> bytes:
    """RSDP and RSDT at 0xF0000, and ACPI tables behind them (ACPI 5.2.5, 5.2.7)."""
    places, at = [], 0xF0100
    for table in tables:
        places.append(at)
        at += len(table) + 15 & ~15
    rsdt = b"RSDT" + (36 + 4 * len(tables)).to_bytes(4, "little") + bytes(28)
    rsdt += b"".join(place.to_bytes(4, "little") for place in places)
    rsdp = bytearray(b"RSD PTR \0VTDLAB\0" + (0xF0040).to_bytes(4, "little"))
    rsdp[8] = -sum(rsdp) & 0xFF
    area = bytearray(at - 0xF0000)
    area[: len(rsdp)], area[0x40 : 0x40 + len(rsdt)] = rsdp, rsdt
    for place, table in zip(places, tables, strict=True):
        area[place - 0xF0000 : place - 0xF0000 + len(table)] = table
    return bytes(area)


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """An ELF core with the tables of `mapped`, and the DMAR of a machine with one unit."""
    world = mapped(host_address_width=39)
    table = hand.table(hand.drhd(BASE, flags=1), width=39)
    place = tmp_path / "vmcore"
    place.write_bytes(elf([(0, world.memory.read(0, 0x80000)), (0xF0000, firmware(table))]))
    (tmp_path / "registers").write_bytes(registers_of(world.unit))
    return place


def test_with_the_registers_in_a_file(core: Path) -> None:
    taken = Snapshot.open(core, Given(registers=str(core.with_name("registers"))))
    (unit,) = taken.units
    assert (unit.register_base, unit.host_address_width) == (BASE, 39)
    assert taken.table is not None and taken.table.units[0].base == BASE
    assert unit.unit().translate(DmaRequest(NIC, 0x5010, READ)).host_address == 0x9010
    assert taken.system().translate(DmaRequest(NIC, 0x5010, READ)).host_address == 0x9010
    named = Snapshot.open(core, Given(registers=f"{core.with_name('registers')}@0xfed91000"))
    assert named.units[0].register_base == 0xFED9_1000


def test_with_the_root_table_only(core: Path) -> None:
    taken = Snapshot.open(core, Given(root_table="0x1000"))
    assert taken.units[0].unit().translate(DmaRequest(NIC, 0x5010, READ)).host_address == 0x9010
    assert any("capabilities" in text for text in taken.unknown)


def test_in_scalable_mode(tmp_path: Path) -> None:
    world = busy().world
    (tmp_path / "vmcore").write_bytes(elf([(0, world.memory.read(0, world.memory.size))]))
    root = hex(world.read(0x20, 8) & ~0xFFF)
    unit = Snapshot.open(tmp_path / "vmcore", Given(root_table=root, mode="scalable")).units[0].unit()
    request = DmaRequest(NIC, PAGES[0], READ, pasid=1)
    assert unit.translate(request).host_address == world.unit.translate(request).host_address is not None


def test_commands_take_them_and_write_one_file(core: Path, tmp_path: Path) -> None:
    words = ["--root-table", "0x1000", "--request", "00:04.0 read 0x5010"]
    done = command.vtd("walk", core, *words)
    assert done.returncode == 0 and b"-> host address 0x9010" in done.stdout
    done = command.vtd("snapshot", tmp_path / "all.vtd", core, "--registers", tmp_path / "registers")
    assert done.returncode == 0
    taken = Snapshot.open(tmp_path / "all.vtd")
    assert (taken.origin, taken.units[0].register_base) == ("an ELF core", BASE)
    assert taken.table is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Given(), "without registers: give --registers FILE, or --root-table ADDRESS"),
        (Given(root_table="there"), "--root-table: 'there' is not an address"),
        (Given(root_table="0x1004"), "--root-table 0x1004 is not the address of a page"),
        (Given(root_table="0x1000", mode="strange"), "--mode 'strange' is not one of legacy, scalable"),
        (Given(registers="unit@here"), "--registers: 'here' is not an address"),
        (Given(mode="legacy"), "without registers"),
    ],
)
def test_what_is_given_wrongly(given: Given, said: str, core: Path) -> None:
    with pytest.raises(VtdError, match=said):
        Snapshot.open(core, given)


def test_what_is_no_elf_core(core: Path, tmp_path: Path) -> None:
    done = command.vtd("walk", "fixtures/snapshots/read-only.zip", "--root-table", "0x1000")
    assert done.returncode == 2 and b"only these need registers that are given by hand" in done.stderr
    core.write_bytes(core.read_bytes()[:0x2000])
    with pytest.raises(VtdError, match="ends before its last byte"):
        Snapshot.open(core, Given(root_table="0x1000"))
