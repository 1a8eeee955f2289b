"""What Xen does with a DMAR, read from xen/drivers/passthrough/vtd/{dmar,intremap}.c.

Only what the table alone decides: register contents, the memory map and the PCI devices decide more. Any error
in any structure makes Xen do without VT-d ("Failed to parse ACPI DMAR.  Disabling VT-d.").
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Iterator

from iommu.dmar.layouts import (
    STRUCTURE_TYPES,
    AtsrFlags,
    AtsrLayout,
    DrhdFlags,
    DrhdLayout,
    HeaderLayout,
    RmrrLayout,
    StructureType,
)
from iommu.dmar.verdicts.verdict import Effect, Raw, Reason

SOURCE = "Xen xen/drivers/passthrough/vtd/dmar.c at commit c447b7308b13 (August 2026), and intremap.c"

_SHORTEST = {
    StructureType.DRHD: 16,
    StructureType.RMRR: 24,
    StructureType.ATSR: 8,
    StructureType.RHSA: 20,
    StructureType.SATC: 8,
}
_SHORTEST_SCOPE = 8
# An unknown scope type has no entry in the list of devices that Xen keeps.
_COUNTED = {1, 2, 3, 4}


def xen(data: bytes) -> Iterator[Reason]:
    """The reasons, in boot order; nothing more after what ends the use of VT-d."""
    raw = Raw(data)
    if raw.field(HeaderLayout, "HOST_ADDRESS_WIDTH", 0) == 0:
        yield Reason(Effect.IGNORES_VTD, 36, '"Zero: Invalid DMAR width"', "acpi_parse_dmar")
        return
    for reason in _structures(raw):
        yield reason
        if reason.effect >= Effect.IGNORES_VTD:
            return


def _structures(raw: Raw) -> Iterator[Reason]:
    seen = _Seen()
    offset = raw.start
    while offset < raw.end:
        code, length = raw.head(offset)
        known = StructureType(code) if code in STRUCTURE_TYPES else None
        if length < (4 if known is None else _SHORTEST.get(known, 4)):
            what = f'"Invalid ACPI DMAR entry length: {length:#x}"'
            yield Reason(Effect.IGNORES_VTD, offset + 2, what, "acpi_dmar_check_length")
            return
        if offset + length > raw.end:
            what = "reads on beyond the table's end, whatever is there"
            yield Reason(Effect.WORKS_AROUND, offset + 2, what, "acpi_parse_dmar")
        if known in _PARSERS:
            yield from _PARSERS[known](raw, offset, offset + length, seen)
        offset += length
    if not seen.units:
        yield Reason(Effect.IGNORES_VTD, raw.start, "no unit, no VT-d", "acpi_parse_dmar")


class _Seen:
    """What earlier structures said."""

    def __init__(self) -> None:
        self.units = 0
        self.include_all = self.all_ports = False
        self.regions: list[tuple[int, int]] = []

    def before(self, limit: int) -> list[tuple[int, int]]:
        """The last region that begins at or below `limit`: none overlaps another, so none reaches further up."""
        place = bisect_right(self.regions, (limit, 1 << 64))
        return self.regions[place - 1 : place] if place else []


def _scopes(raw: Raw, start: int, stop: int) -> Iterator[Reason]:
    for offset, _, length in raw.scopes(start, stop):
        if length < _SHORTEST_SCOPE:
            what = '"Invalid device scope": it has no path'
            yield Reason(Effect.IGNORES_VTD, offset + 1, what, "scope_device_count")
            return


def _drhd(raw: Raw, offset: int, stop: int, seen: _Seen) -> Iterator[Reason]:
    if raw.field(DrhdLayout, "BASE", offset) in (0, (1 << 64) - 1):
        yield Reason(Effect.IGNORES_VTD, offset + 8, "a unit at address 0 or at all ones", "acpi_parse_one_drhd")
    yield from _scopes(raw, offset + 16, stop)
    everything = DrhdFlags.INCLUDE_PCI_ALL.get(raw.field(DrhdLayout, "FLAGS", offset))
    if everything and raw.field(DrhdLayout, "SEGMENT", offset) == 0:
        if seen.include_all:
            what = '"Only one INCLUDE_ALL device scope is allowed"'
            yield Reason(Effect.IGNORES_VTD, offset + 4, what, "acpi_parse_one_drhd")
        seen.include_all = True
    seen.units += 1


def _rmrr(raw: Raw, offset: int, stop: int, seen: _Seen) -> Iterator[Reason]:
    base, limit = raw.field(RmrrLayout, "BASE", offset), raw.field(RmrrLayout, "LIMIT", offset)
    for low, high in seen.before(limit):
        if base <= high:
            what = f'"Overlapping RMRRs [{low:x},{high:x}] and [{base:x},{limit:x}]"'
            yield Reason(Effect.IGNORES_VTD, offset + 8, what, "acpi_parse_one_rmrr")
    yield from _scopes(raw, offset + 24, stop)
    if not any(kind in _COUNTED for _, kind, _ in raw.scopes(offset + 24, stop)):
        what = f"the RMRR at {base:#x} names no device and is forgotten"
        yield Reason(Effect.WORKS_AROUND, offset, what, "acpi_parse_one_rmrr")
    elif base > limit:
        what = f'"RMRR [{base:x},{limit:x}] is incorrect!" (if one of its devices exists)'
        yield Reason(Effect.IGNORES_VTD, offset + 16, what, "register_one_rmrr")
    else:
        insort(seen.regions, (base, limit))


def _atsr(raw: Raw, offset: int, stop: int, seen: _Seen) -> Iterator[Reason]:
    if not AtsrFlags.ALL_PORTS.get(raw.field(AtsrLayout, "FLAGS", offset)):
        yield from _scopes(raw, offset + 8, stop)
    elif raw.field(AtsrLayout, "SEGMENT", offset) == 0:
        if seen.all_ports:
            what = '"Only one ALL_PORTS device scope is allowed"'
            yield Reason(Effect.IGNORES_VTD, offset + 4, what, "acpi_parse_one_atsr")
        seen.all_ports = True


def _satc(raw: Raw, offset: int, stop: int, _seen: _Seen) -> Iterator[Reason]:
    yield from _scopes(raw, offset + 8, stop)


_PARSERS: dict[StructureType | None, Callable[[Raw, int, int, _Seen], Iterator[Reason]]] = {
    StructureType.DRHD: _drhd,
    StructureType.RMRR: _rmrr,
    StructureType.ATSR: _atsr,
    StructureType.SATC: _satc,
}
