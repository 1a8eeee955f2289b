"""Load a snapshot and make a unit from it."""

from __future__ import annotations

import json
import mmap
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iommu.engine.capabilities import Capabilities
from iommu.engine.invalidation.selector import Selector
from iommu.engine.policy import Policy
from iommu.engine.unit import RemappingUnit
from iommu.errors import FormatError, MisuseError
from iommu.explain.report import FaultReport, from_record
from iommu.memory import Memory
from iommu.registers import CAP, ECAP, GCMD, GSTS, IRTA, PHMBASE, PHMLIMIT, PLMBASE, PLMLIMIT, PMEN, RTADDR, VER
from iommu.snapshot.memory import PiecewiseMemory, from_elf

FORMAT = "vtdlab-snapshot-1"
STATE = "state.bin"

# Software writes these once, before it enables anything.
_SETTINGS = (RTADDR, IRTA, PLMBASE, PLMLIMIT, PHMBASE, PHMLIMIT, PMEN)


@dataclass(frozen=True)
class Snapshot:
    """The registers of one unit, and memory.

    Attributes:
        name: the path it was loaded from.
        registers: the register window, from its start.
        memory: the memory that holds its tables.
        host_address_width: in bits.
        register_base: the physical address of the window; for display only.
        state: what `RemappingUnit.save` has returned; None if the snapshot has no state.bin.
    """

    name: str
    registers: bytes
    memory: Memory
    host_address_width: int
    register_base: int
    state: bytes | None = None

    def register(self, offset: int, size: int) -> int:
        """The register at `offset`, of `size` bytes; bytes that were not saved read as 0."""
        return int.from_bytes(self.registers[offset : offset + size], "little")

    def capabilities(self) -> Capabilities:
        """What the unit can do, decoded from VER, CAP and ECAP. Raises MisuseError if they contradict each other."""
        return Capabilities.from_registers(
            self.register(CAP.offset, 8),
            self.register(ECAP.offset, 8),
            self.host_address_width,
            self.register(VER.offset, 4) & 0xFF,
        )

    def unit(self, policy: Policy | None = None, kind: type[RemappingUnit] = RemappingUnit) -> RemappingUnit:
        """A unit of the model in the state of this one.

        Registers do not show all of it. Without state.bin nothing is cached, no fault is recorded, the queues are
        off, and SRTP and SIRTP are taken to have latched what RTADDR and IRTA hold.

        Args:
            policy: with state.bin, the one that the unit must have.
            kind: the class of the unit.

        Raises MisuseError as `capabilities` does, and StateError for a state.bin that is malformed or of a unit that
        differs.
        """
        if self.state is not None:
            return kind.restore(self.state, self.memory, capabilities=self.capabilities(), policy=policy)
        unit = kind(self.memory, self.capabilities(), policy)
        for layout in _SETTINGS:
            unit.mmio_write(layout.offset, self.register(layout.offset, layout.bits // 8), layout.bits // 8)
        status = GSTS(self.register(GSTS.offset, 4))
        unit.mmio_write(GCMD.offset, GCMD.make(SRTP=status.RTPS | status.TES, SIRTP=status.IRTPS | status.IRES), 4)
        unit.mmio_write(GCMD.offset, GCMD.make(TE=status.TES, IRE=status.IRES, CFI=status.CFIS), 4)
        return unit

    def unit_without_caches(self) -> RemappingUnit:
        """The unit with nothing cached: it reads the tables as they are in memory. Raises as `unit` does."""
        unit = self.unit()
        unit.caches.invalidate_dma()
        unit.caches.invalidate(Selector.interrupts())
        return unit

    def faults(self) -> list[FaultReport]:
        """The recorded faults that are not yet cleared. Raises MisuseError as `capabilities` does."""
        capabilities = self.capabilities()
        places = (capabilities.fault_record_offset + 16 * n for n in range(capabilities.fault_records))
        records = (self.register(place, 16) for place in places)
        return [from_record(raw) for raw in records if raw >> 127]


def load(path: Path | str) -> Snapshot:
    """Read a snapshot: a directory or a zip file. Raises FormatError, MisuseError, and OSError for the files."""
    path = Path(path)
    files = _from_zip(path) if path.is_file() else _from_directory(path)
    settings = _settings(files)
    registers = bytes(_needed(files, "registers.bin"))
    if len(registers) < RTADDR.offset + 8:
        raise FormatError(
            f"{len(registers)} bytes are too few for a register window", offset=0, where="registers.bin", field="size"
        )
    if "memory.elf" in files:
        memory = from_elf(files["memory.elf"])
    else:
        base = _number(settings, "memory_base", 0)
        memory = PiecewiseMemory([(base, _needed(files, "memory.bin"))])
    width = _number(settings, "host_address_width", 64)
    state = bytes(files[STATE]) if STATE in files else None
    return Snapshot(str(path), registers, memory, width, _number(settings, "register_base", 0), state)


def _from_directory(path: Path) -> dict[str, memoryview]:
    """The files of a directory, mapped privately: writes stay in this process."""
    files = {}
    for name in ("unit.json", "registers.bin", "memory.bin", "memory.elf", STATE):
        place = path / name
        if place.is_file() and place.stat().st_size:
            with place.open("rb") as file:
                files[name] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    if not files and not path.is_dir():
        raise MisuseError(f"there is no snapshot at {path}")
    return files


def _from_zip(path: Path) -> dict[str, memoryview]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {Path(name).name: memoryview(bytearray(archive.read(name))) for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise MisuseError(f"{path} is not a snapshot: neither a directory nor a readable zip file") from error


def _needed(files: dict[str, memoryview], name: str) -> memoryview:
    if name not in files:
        raise MisuseError(f"the snapshot has no {name}, or it is empty")
    return files[name]


def _settings(files: dict[str, memoryview]) -> dict[str, Any]:
    try:
        settings = json.loads(_needed(files, "unit.json").tobytes())
    except ValueError as error:
        raise FormatError(f"not JSON: {error}", offset=0, where="unit.json", field="text") from error
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise FormatError(f"the format is not {FORMAT}", offset=0, where="unit.json", field="format")
    return settings


def _number(settings: dict[str, Any], name: str, missing: int) -> int:
    """A setting that is a number, or a string like "0x1000"; `missing` if it is not given."""
    value = settings.get(name, missing)
    try:
        number = int(value, 0) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 64:
        raise FormatError(f"{value!r} is not a 64-bit number", offset=0, where="unit.json", field=name)
    return number
