"""What Xen does with a DMAR, read from xen/drivers/passthrough/vtd/{dmar,intremap}.c.

Only what the table alone decides: register contents, the memory map and the PCI devices add more. Any error in any
structure makes Xen do without VT-d ("Failed to parse ACPI DMAR.  Disabling VT-d.").
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Iterator

from iommu.dmar.header import Header
from iommu.dmar.kinds import Atsr, AtsrFlags, Drhd, DrhdFlags, Rhsa, Rmrr, Satc
from iommu.dmar.scopes import DeviceScope
from iommu.dmar.structure import StructureHead
from iommu.dmar.verdicts.verdict import Effect, Raw, Reason

SOURCE = "Xen xen/drivers/passthrough/vtd/dmar.c at commit c447b7308b13 (August 2026), and intremap.c"

# Xen checks the length of the types it knows; of any other structure it needs the head.
_SHORTEST = {kind.type_code: kind.fixed_size for kind in (Drhd, Rmrr, Atsr, Rhsa, Satc)}
_HEAD = StructureHead.bits // 8
_SHORTEST_SCOPE = DeviceScope.fixed_size + 2
# The scope types for which Xen adds an entry to its list of devices.
_COUNTED = {1, 2, 3, 4}


def xen(data: bytes) -> Iterator[Reason]:
    """The reasons, in boot order, up to the one that ends the use of VT-d."""
    raw = Raw(data)
    if raw.field(Header, "host_address_width", 0) == 0:
        where = Header.offset_of("host_address_width")
        yield Reason(Effect.IGNORES_VTD, where, '"Zero: Invalid DMAR width"', "acpi_parse_dmar")
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
        if length < _SHORTEST.get(code, _HEAD):
            what = f'"Invalid ACPI DMAR entry length: {length:#x}"'
            yield Reason(Effect.IGNORES_VTD, offset + 2, what, "acpi_dmar_check_length")
            return
        if offset + length > raw.end:
            what = "reads on beyond the table's end"
            yield Reason(Effect.WORKS_AROUND, offset + 2, what, "acpi_parse_dmar")
        if code in _PARSERS:
            yield from _PARSERS[code](raw, offset, offset + length, seen)
        offset += length
    if not seen.units:
        yield Reason(Effect.IGNORES_VTD, raw.start, "no unit, no VT-d", "acpi_parse_dmar")


class _Seen:
    """What earlier structures have stated."""

    def __init__(self) -> None:
        self.units = 0
        self.include_all = self.all_ports = False
        self.regions = _Regions()


class _Regions:
    """Regions of which none overlaps another, by address; in chunks, as each insertion moves what follows it."""

    def __init__(self) -> None:
        self._chunks: list[list[tuple[int, int]]] = [[]]
        self._firsts = [(0, 0)]

    def before(self, limit: int) -> list[tuple[int, int]]:
        """The last region that begins at or below `limit`: none overlaps another, so none reaches further up."""
        last = limit, 1 << 64
        chunk = self._chunks[bisect_right(self._firsts, last) - 1]
        place = bisect_right(chunk, last)
        return chunk[place - 1 : place] if place else []

    def add(self, base: int, limit: int) -> None:
        """One more, which overlaps none."""
        number = bisect_right(self._firsts, (base, limit)) - 1
        chunk = self._chunks[number]
        insort(chunk, (base, limit))
        if len(chunk) > _MOST_IN_CHUNK:
            upper = chunk[_MOST_IN_CHUNK // 2 :]
            del chunk[_MOST_IN_CHUNK // 2 :]
            self._chunks.insert(number + 1, upper)
            self._firsts.insert(number + 1, upper[0])


_MOST_IN_CHUNK = 1000


def _scopes(raw: Raw, start: int, stop: int) -> Iterator[Reason]:
    for offset, _, length in raw.scopes(start, stop):
        if length < _SHORTEST_SCOPE:
            what = '"Invalid device scope": it has no path'
            yield Reason(Effect.IGNORES_VTD, offset + DeviceScope.offset_of("length"), what, "scope_device_count")
            return


def _drhd(raw: Raw, offset: int, stop: int, seen: _Seen) -> Iterator[Reason]:
    if raw.field(Drhd, "base", offset) in (0, (1 << 64) - 1):
        where, what = offset + Drhd.offset_of("base"), "a unit at address 0 or at all ones"
        yield Reason(Effect.IGNORES_VTD, where, what, "acpi_parse_one_drhd")
    yield from _scopes(raw, offset + Drhd.fixed_size, stop)
    everything = DrhdFlags.INCLUDE_PCI_ALL.get(raw.field(Drhd, "flags", offset))
    if everything and raw.field(Drhd, "segment", offset) == 0:
        if seen.include_all:
            what = '"Only one INCLUDE_ALL device scope is allowed"'
            yield Reason(Effect.IGNORES_VTD, offset + Drhd.offset_of("flags"), what, "acpi_parse_one_drhd")
        seen.include_all = True
    seen.units += 1


def _rmrr(raw: Raw, offset: int, stop: int, seen: _Seen) -> Iterator[Reason]:
    base, limit = raw.field(Rmrr, "base", offset), raw.field(Rmrr, "limit", offset)
    for low, high in seen.regions.before(limit):
        if base <= high:
            what = f'"Overlapping RMRRs [{low:x},{high:x}] and [{base:x},{limit:x}]"'
            yield Reason(Effect.IGNORES_VTD, offset + Rmrr.offset_of("base"), what, "acpi_parse_one_rmrr")
    scopes = offset + Rmrr.fixed_size
    yield from _scopes(raw, scopes, stop)
    if not any(kind in _COUNTED for _, kind, _ in raw.scopes(scopes, stop)):
        what = f"the RMRR at {base:#x} names no device and is dropped"
        yield Reason(Effect.WORKS_AROUND, offset, what, "acpi_parse_one_rmrr")
    elif base > limit:
        what = f'"RMRR [{base:x},{limit:x}] is incorrect!" (if one of its devices exists)'
        yield Reason(Effect.IGNORES_VTD, offset + Rmrr.offset_of("limit"), what, "register_one_rmrr")
    else:
        seen.regions.add(base, limit)


def _atsr(raw: Raw, offset: int, stop: int, seen: _Seen) -> Iterator[Reason]:
    if not AtsrFlags.ALL_PORTS.get(raw.field(Atsr, "flags", offset)):
        yield from _scopes(raw, offset + Atsr.fixed_size, stop)
    elif raw.field(Atsr, "segment", offset) == 0:
        if seen.all_ports:
            what = '"Only one ALL_PORTS device scope is allowed"'
            yield Reason(Effect.IGNORES_VTD, offset + Atsr.offset_of("flags"), what, "acpi_parse_one_atsr")
        seen.all_ports = True


def _satc(raw: Raw, offset: int, stop: int, _seen: _Seen) -> Iterator[Reason]:
    yield from _scopes(raw, offset + Satc.fixed_size, stop)


_PARSERS: dict[int, Callable[[Raw, int, int, _Seen], Iterator[Reason]]] = {
    Drhd.type_code: _drhd,
    Rmrr.type_code: _rmrr,
    Atsr.type_code: _atsr,
    Satc.type_code: _satc,
}
