"""What Linux does with a DMAR, read from drivers/iommu/intel/{dmar,iommu,irq_remapping}.c and drivers/acpi/acpica.

Only what the table alone decides: register contents, the memory map and the PCI devices decide more.
"""

from collections.abc import Callable, Iterator

from iommu.dmar.layouts import (
    SCOPE_TYPES,
    AnddLayout,
    DrhdLayout,
    HeaderFlags,
    HeaderLayout,
    RhsaLayout,
    RmrrLayout,
    ScopeType,
    StructureType,
)
from iommu.dmar.verdicts.verdict import Effect, Raw, Reason

SOURCE = "Linux drivers/iommu/intel/dmar.c at commit c34e9ab9a612, iommu.c and irq_remapping.c"

PAGE = 4096
_SCOPED = {StructureType.DRHD: 16, StructureType.RMRR: 24, StructureType.ATSR: 8, StructureType.SATC: 8}


def linux(data: bytes) -> Iterator[Reason]:
    """The reasons, in boot order; nothing more after what ends the use of VT-d."""
    raw = Raw(data)
    if sum(data[: raw.end]) & 0xFF:
        yield Reason(Effect.WORKS_AROUND, 9, "warns of the checksum, uses the table", "acpi_ut_verify_checksum")
    for phase in (_detect, _parse, _namespace, _interrupts):
        for reason in phase(raw):
            yield reason
            if reason.effect >= Effect.IGNORES_VTD:
                return


def _walk(raw: Raw) -> Iterator[int]:
    """dmar_walk_remapping_entries: offsets, ended by a length of 0 or by what passes the table's end."""
    offset = raw.start
    while offset < raw.end:
        length = raw.head(offset)[1]
        if length == 0 or offset + length > raw.end:
            return
        yield offset
        offset += length


def _passes_end(raw: Raw) -> Iterator[Reason]:
    offset = raw.start
    while offset < raw.end and (length := raw.head(offset)[1]):
        if offset + length > raw.end:
            what = "a structure passes the table's end: VT-d stays off"
            yield Reason(Effect.IGNORES_VTD, offset + 2, what, "dmar_walk_remapping_entries")
        offset += length


def _detect(raw: Raw) -> Iterator[Reason]:
    """detect_intel_iommu: one bad unit and VT-d stays off."""
    for offset in _walk(raw):
        if raw.head(offset)[0] == StructureType.DRHD and raw.field(DrhdLayout, "BASE", offset) == 0:
            what = 'a unit at address 0: "Your BIOS is broken", VT-d stays off'
            yield Reason(Effect.IGNORES_VTD, offset + 8, what, "dmar_validate_one_drhd")
    yield from _passes_end(raw)


def _parse(raw: Raw) -> Iterator[Reason]:
    """parse_dmar_table."""
    if raw.field(HeaderLayout, "HOST_ADDRESS_WIDTH", 0) < 11:
        yield Reason(Effect.IGNORES_VTD, 36, '"Invalid DMAR haw": the table is refused', "parse_dmar_table")
    units: set[tuple[int, int]] = set()
    for offset in _walk(raw):
        code, length = raw.head(offset)
        if code in _SCOPED:
            yield from _scopes(raw, offset + _SCOPED[StructureType(code)], offset + length)
        if code in _PARSERS:
            yield from _PARSERS[code](raw, offset, length, units)
    if not units:
        yield Reason(Effect.IGNORES_VTD, raw.start, 'no unit: "No DMAR devices found"', "dmar_table_init")


def _scopes(raw: Raw, start: int, stop: int) -> Iterator[Reason]:
    for offset, kind, length in raw.scopes(start, stop):
        if kind not in SCOPE_TYPES:
            what = f'warns of scope type {kind} ("Unsupported device scope") and skips it'
            yield Reason(Effect.WORKS_AROUND, offset, what, "dmar_alloc_dev_scope")
        if length == 0:
            what = "a scope of length 0 is read for ever"
            yield Reason(Effect.HANGS, offset + 1, what, "dmar_alloc_dev_scope")


def _drhd(raw: Raw, offset: int, _length: int, units: set[tuple[int, int]]) -> Iterator[Reason]:
    base, segment = raw.field(DrhdLayout, "BASE", offset), raw.field(DrhdLayout, "SEGMENT", offset)
    if (segment, base) in units:
        what = f"a second DRHD for the unit at {base:#x} is skipped, with its scopes"
        yield Reason(Effect.WORKS_AROUND, offset, what, "dmar_parse_one_drhd")
    units.add((segment, base))
    size = raw.field(DrhdLayout, "SIZE", offset)
    if size > 15:
        what = f"takes the reserved bits of the size byte for part of the size: 2^{size} pages"
        yield Reason(Effect.WORKS_AROUND, offset + 5, what, "dmar_parse_one_drhd")


def _rmrr(raw: Raw, offset: int, _length: int, _units: set[tuple[int, int]]) -> Iterator[Reason]:
    base, limit = raw.field(RmrrLayout, "BASE", offset), raw.field(RmrrLayout, "LIMIT", offset)
    if base % PAGE or (limit + 1) % PAGE or limit <= base:
        what = f'"Your BIOS is broken; bad RMRR [{base:#x}-{limit:#x}]"; the kernel is tainted, the region used'
        yield Reason(Effect.WORKS_AROUND, offset + 8, what, "rmrr_sanity_check")


def _rhsa(raw: Raw, offset: int, _length: int, units: set[tuple[int, int]]) -> Iterator[Reason]:
    base = raw.field(RhsaLayout, "BASE", offset)
    if base not in {unit for _, unit in units}:
        what = f'"RHSA refers to non-existent DMAR unit at {base:x}"; the kernel is tainted, the RHSA skipped'
        yield Reason(Effect.WORKS_AROUND, offset + 8, what, "dmar_parse_one_rhsa")


def _andd(raw: Raw, offset: int, length: int, _units: set[tuple[int, int]]) -> Iterator[Reason]:
    if b"\0" not in raw.data[offset + 8 : offset + length]:
        what = '"ANDD object name is not NUL-terminated": the whole table is refused'
        yield Reason(Effect.IGNORES_VTD, offset + 8, what, "dmar_parse_one_andd")


_PARSERS: dict[int, Callable[[Raw, int, int, set[tuple[int, int]]], Iterator[Reason]]] = {
    StructureType.DRHD: _drhd,
    StructureType.RMRR: _rmrr,
    StructureType.RHSA: _rhsa,
    StructureType.ANDD: _andd,
}


def _namespace(raw: Raw) -> Iterator[Reason]:
    """dmar_acpi_dev_scope_init: looks for each ANDD in the units' scopes, and does not check lengths again."""
    used = set()
    for offset in _walk(raw):
        code, length = raw.head(offset)
        if code == StructureType.DRHD:
            scopes = raw.scopes(offset + 16, offset + length)
            used |= {raw.number(at + 4, 1) for at, kind, _ in scopes if kind == ScopeType.NAMESPACE}
    offset = raw.start
    while offset < raw.end:
        code, length = raw.head(offset)
        number = raw.field(AnddLayout, "DEVICE_NUMBER", offset)
        if code == StructureType.ANDD and number not in used:
            what = f'"No IOMMU scope found for ANDD enumeration ID {number}"; the device is not remapped'
            yield Reason(Effect.WORKS_AROUND, offset + 7, what, "dmar_acpi_insert_dev_scope")
        if length == 0:
            what = "a structure of length 0 is read for ever"
            yield Reason(Effect.HANGS, offset + 2, what, "dmar_acpi_dev_scope_init")
            return
        offset += length


def _interrupts(raw: Raw) -> Iterator[Reason]:
    """parse_ioapics_under_ir: every I/O APIC must be under some unit; without any listed, none is."""
    if not HeaderFlags.INTR_REMAP.get(raw.field(HeaderLayout, "FLAGS", 0)):
        return
    for offset in _walk(raw):
        code, length = raw.head(offset)
        if code == StructureType.DRHD:
            for _, kind, _ in raw.scopes(offset + 16, offset + length):
                if kind == ScopeType.IOAPIC:
                    return
    what = '"ioapic has no mapping iommu, interrupt remapping will be disabled"'
    yield Reason(Effect.NO_INTERRUPT_REMAPPING, 37, what, "parse_ioapics_under_ir")
