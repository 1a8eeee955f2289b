"""What Linux does with a DMAR, read from drivers/iommu/intel/{dmar,iommu,irq_remapping}.c and drivers/acpi/acpica.

Only what the table alone decides: register contents, the memory map and the PCI devices add more.
"""

from collections.abc import Callable, Iterator

from iommu.dmar.header import Header, HeaderFlags
from iommu.dmar.kinds import Andd, Atsr, Drhd, Rhsa, Rmrr, Satc
from iommu.dmar.scopes import SCOPE_TYPES, DeviceScope, ScopeType
from iommu.dmar.verdicts.verdict import Effect, Raw, Reason

SOURCE = "Linux drivers/iommu/intel/dmar.c at commit c34e9ab9a612, iommu.c and irq_remapping.c"

PAGE = 4096
# Where the scopes begin in the types whose scopes Linux reads.
_SCOPED = {kind.type_code: kind.fixed_size for kind in (Drhd, Rmrr, Atsr, Satc)}


def linux(data: bytes) -> Iterator[Reason]:
    """The reasons, in boot order, up to the one that ends the use of VT-d."""
    raw = Raw(data)
    if sum(data[: raw.end]) & 0xFF:
        what = "warns about the checksum, uses the table"
        yield Reason(Effect.WORKS_AROUND, Header.offset_of("checksum"), what, "acpi_ut_verify_checksum")
    for phase in (_detect, _parse, _namespace, _interrupts):
        for reason in phase(raw):
            yield reason
            if reason.effect >= Effect.IGNORES_VTD:
                return


def _walk(raw: Raw) -> Iterator[int]:
    """dmar_walk_remapping_entries: offsets, up to a length of 0 or a structure that passes the table's end."""
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
    """detect_intel_iommu: one bad unit and VT-d stays off; the firmware can opt out of DMA remapping."""
    for offset in _walk(raw):
        if raw.head(offset)[0] == Drhd.type_code and raw.field(Drhd, "base", offset) == 0:
            what = 'a unit at address 0: "Your BIOS is broken", VT-d stays off'
            yield Reason(Effect.IGNORES_VTD, offset + Drhd.offset_of("base"), what, "dmar_validate_one_drhd")
    yield from _passes_end(raw)
    if HeaderFlags.DMA_REMAP_OPT_OUT.get(raw.field(Header, "flags", 0)):
        what = "DMA_REMAP_OPT_OUT: DMA remapping stays off, whatever the command line says"
        source = "detect_intel_iommu since commit 1c677d8a2c3c; older kernels ignore the flag"
        yield Reason(Effect.NO_DMA_REMAPPING, Header.offset_of("flags"), what, source)


def _parse(raw: Raw) -> Iterator[Reason]:
    """parse_dmar_table."""
    if raw.field(Header, "host_address_width", 0) < 11:
        where, what = Header.offset_of("host_address_width"), '"Invalid DMAR haw": the table is refused'
        yield Reason(Effect.IGNORES_VTD, where, what, "parse_dmar_table")
    seen = _Seen()
    for offset in _walk(raw):
        code, length = raw.head(offset)
        if code in _SCOPED:
            yield from _scopes(raw, offset + _SCOPED[code], offset + length)
        if code in _PARSERS:
            yield from _PARSERS[code](raw, offset, length, seen)
    if not seen.units:
        yield Reason(Effect.IGNORES_VTD, raw.start, 'no unit: "No DMAR devices found"', "dmar_table_init")


class _Seen:
    """The units so far, as segment and base, and their bases alone."""

    def __init__(self) -> None:
        self.units: set[tuple[int, int]] = set()
        self.bases: set[int] = set()


def _scopes(raw: Raw, start: int, stop: int) -> Iterator[Reason]:
    for offset, kind, length in raw.scopes(start, stop):
        if kind not in SCOPE_TYPES:
            what = f'warns of scope type {kind} ("Unsupported device scope") and skips it'
            yield Reason(Effect.WORKS_AROUND, offset, what, "dmar_alloc_dev_scope")
        if length == 0:
            what = "loops forever at a scope of length 0"
            yield Reason(Effect.HANGS, offset + DeviceScope.offset_of("length"), what, "dmar_alloc_dev_scope")


def _drhd(raw: Raw, offset: int, _length: int, seen: _Seen) -> Iterator[Reason]:
    base, segment = raw.field(Drhd, "base", offset), raw.field(Drhd, "segment", offset)
    if (segment, base) in seen.units:
        what = f"a second DRHD for the unit at {base:#x} is skipped, with its scopes"
        yield Reason(Effect.WORKS_AROUND, offset, what, "dmar_parse_one_drhd")
    seen.units.add((segment, base))
    seen.bases.add(base)
    size = raw.field(Drhd, "size", offset)
    if size > 15:
        what = f"reads the reserved bits of the size byte as part of the size: 2^{size} pages"
        yield Reason(Effect.WORKS_AROUND, offset + Drhd.offset_of("size"), what, "dmar_parse_one_drhd")


def _rmrr(raw: Raw, offset: int, _length: int, _seen: _Seen) -> Iterator[Reason]:
    base, limit = raw.field(Rmrr, "base", offset), raw.field(Rmrr, "limit", offset)
    if base % PAGE or (limit + 1) % PAGE or limit <= base:
        what = f'"Your BIOS is broken; bad RMRR [{base:#x}-{limit:#x}]"; the kernel is tainted, the region used'
        yield Reason(Effect.WORKS_AROUND, offset + Rmrr.offset_of("base"), what, "rmrr_sanity_check")


def _rhsa(raw: Raw, offset: int, _length: int, seen: _Seen) -> Iterator[Reason]:
    base = raw.field(Rhsa, "base", offset)
    if base not in seen.bases:
        what = f'"RHSA refers to non-existent DMAR unit at {base:x}"; the kernel is tainted, the RHSA skipped'
        yield Reason(Effect.WORKS_AROUND, offset + Rhsa.offset_of("base"), what, "dmar_parse_one_rhsa")


def _andd(raw: Raw, offset: int, length: int, _seen: _Seen) -> Iterator[Reason]:
    name = offset + Andd.fixed_size
    if b"\0" not in raw.data[name : offset + length]:
        what = '"ANDD object name is not NUL-terminated": the whole table is refused'
        yield Reason(Effect.IGNORES_VTD, name, what, "dmar_parse_one_andd")


_PARSERS: dict[int, Callable[[Raw, int, int, _Seen], Iterator[Reason]]] = {
    Drhd.type_code: _drhd,
    Rmrr.type_code: _rmrr,
    Rhsa.type_code: _rhsa,
    Andd.type_code: _andd,
}


def _unit_scopes(raw: Raw) -> Iterator[tuple[int, int]]:
    """Offset and type of every scope of a DRHD."""
    for offset in _walk(raw):
        code, length = raw.head(offset)
        if code == Drhd.type_code:
            for at, kind, _ in raw.scopes(offset + Drhd.fixed_size, offset + length):
                yield at, kind


def _namespace(raw: Raw) -> Iterator[Reason]:
    """dmar_acpi_dev_scope_init: looks for each ANDD in the units' scopes, and does not check lengths again."""
    named = [offset for offset, kind in _unit_scopes(raw) if kind == ScopeType.NAMESPACE]
    used = {raw.field(DeviceScope, "enumeration_id", offset) for offset in named}
    offset = raw.start
    while offset < raw.end:
        code, length = raw.head(offset)
        number = raw.field(Andd, "device_number", offset)
        if code == Andd.type_code and number not in used:
            what = f'"No IOMMU scope found for ANDD enumeration ID {number}"; the device is not remapped'
            where = offset + Andd.offset_of("device_number")
            yield Reason(Effect.WORKS_AROUND, where, what, "dmar_acpi_insert_dev_scope")
        if length == 0:
            what = "loops forever at a structure of length 0"
            yield Reason(Effect.HANGS, offset + 2, what, "dmar_acpi_dev_scope_init")
            return
        offset += length


def _interrupts(raw: Raw) -> Iterator[Reason]:
    """parse_ioapics_under_ir: every I/O APIC must be listed by a unit, so at least one must be."""
    if not HeaderFlags.INTR_REMAP.get(raw.field(Header, "flags", 0)):
        return
    if any(kind == ScopeType.IOAPIC for _, kind in _unit_scopes(raw)):
        return
    what = '"ioapic has no mapping iommu, interrupt remapping will be disabled"'
    yield Reason(Effect.NO_INTERRUPT_REMAPPING, Header.offset_of("flags"), what, "parse_ioapics_under_ir")
