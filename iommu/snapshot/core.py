"""Cores: memory of a real machine (kdump, makedumpfile) or of a guest (dump-guest-memory), as ELF or compressed.

A core has no registers of remapping units, so they are given by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from iommu.dmar import Dmar
from iommu.engine.capabilities import Capabilities
from iommu.engine.unit import RemappingUnit
from iommu.errors import DmarError, MisuseError
from iommu.files.reading import beginning, mapped
from iommu.memory import Memory
from iommu.registers import GCMD, RTADDR, TableMode
from iommu.snapshot.contents import Contents
from iommu.snapshot.firmware import find_dmar
from iommu.snapshot.kdump import LEFT_OUT, from_kdump
from iommu.snapshot.memory import PAGE, from_elf
from iommu.snapshot.saving import registers_of
from iommu.snapshot.unit import MOST_REGISTERS, NOT_SHOWN, WIDTH_ASSUMED, UnitSnapshot, assumed_width

MAGIC = b"\x7fELF"
_MODES = {"legacy": TableMode.LEGACY, "scalable": TableMode.SCALABLE}
_ASSUMED = (
    "the capabilities of the unit: it is taken to have all that translation uses",
    "all registers but the root-table address",
)


class Given(NamedTuple):
    """What is given by hand.

    Attributes:
        registers: a file with the register window; "@ADDRESS" behind its name gives its register base.
        root_table: the address of the root table, if there is no such file.
        mode: "legacy" or "scalable", with root_table.
    """

    registers: str | None = None
    root_table: str | None = None
    mode: str | None = None


NOTHING_GIVEN = Given()


def from_core(path: Path, given: Given) -> Contents:
    """A core with registers that are given. Raises FormatError, MisuseError and InputError."""
    return _with_registers(path, from_elf(mapped(path), str(path)), given, "an ELF core", ())


def from_compressed(path: Path, given: Given) -> Contents:
    """A core that kdump has compressed, with registers that are given. Raises MisuseError and InputError."""
    memory = from_kdump(path)
    return _with_registers(path, memory, given, "a kdump core", (LEFT_OUT,) if memory.left_out else ())


def _with_registers(path: Path, memory: Memory, given: Given, origin: str, unknown: tuple[str, ...]) -> Contents:
    dmar = find_dmar(memory)
    width, bases = 0, []
    try:
        if dmar is not None:
            table = Dmar.parse(dmar)
            width, bases = table.header.width, [unit.base for unit in table.units]
    except DmarError:
        dmar = None
    base = bases[0] if len(bases) == 1 else 0
    assumed: tuple[str, ...] = _ASSUMED
    if given.registers is not None:
        unit = _from_registers(given.registers, memory, width, base)
        assumed = () if width else (WIDTH_ASSUMED,)
    elif given.root_table is not None:
        unit = _from_root_table(given, memory, width or 52, base)
    else:
        raise MisuseError(
            f"{path} is {origin}, without registers: give --registers FILE, or --root-table ADDRESS --mode MODE"
        )
    return Contents(str(path), memory, (unit,), dmar, origin, (*NOT_SHOWN, *assumed, *unknown))


def _from_registers(text: str, memory: Memory, width: int, base: int) -> UnitSnapshot:
    name, at, address = text.rpartition("@")
    if at:
        base = _address(address, "--registers")
    data = beginning(Path(name if at else text), MOST_REGISTERS)
    return UnitSnapshot(text, data, memory, width or assumed_width(data), base)


def _from_root_table(given: Given, memory: Memory, width: int, base: int) -> UnitSnapshot:
    mode = _MODES.get(given.mode or "legacy")
    if mode is None:
        raise MisuseError(f"--mode {given.mode!r} is not one of {', '.join(_MODES)}")
    root = _address(given.root_table or "", "--root-table")
    if root % PAGE:
        raise MisuseError(f"--root-table {root:#x} is not the address of a page")
    unit = RemappingUnit(memory, Capabilities.full(host_address_width=width))
    unit.mmio_write(RTADDR.offset, RTADDR.make(RTA=root, TTM=mode), 8)
    unit.mmio_write(GCMD.offset, GCMD.make(SRTP=1), 4)
    unit.mmio_write(GCMD.offset, GCMD.make(TE=1), 4)
    return UnitSnapshot("--root-table", registers_of(unit), memory, width, base)


def _address(text: str, option: str) -> int:
    try:
        found = int(text, 0)
    except ValueError:
        found = -1
    if not 0 <= found < 1 << 64:
        raise MisuseError(f"{option}: {text!r} is not an address")
    return found
