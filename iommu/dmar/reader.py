"""Bytes to typed objects: one explicit loop over structures and one over scopes, with any decoder of the fixed parts.

The loop decides what is damaged. Each damage goes to a `report` function as a DmarError: a strict reader raises it, a
lenient one collects it and goes on. Either way no byte is lost: what cannot be understood stays as `rest` of its
structure or as the table's trailing bytes.

Two sets of decoders exist for the fixed parts, and a test shows that they are equal: FAST is generated from the
layouts (wire.py), construct_decoders() are the layouts' own Construct.
"""

from collections.abc import Callable
from typing import Any

from iommu.dmar.header import Header
from iommu.dmar.kinds import Unknown
from iommu.dmar.scopes import DeviceScope, Path
from iommu.dmar.structure import KINDS, Scoped, Structure, StructureHead
from iommu.dmar.wire import Decode, decoder
from iommu.errors import DmarError
from iommu.fields import Layout

Report = Callable[[DmarError], None]

HEADER_SIZE = Header.fixed_size
HEAD_SIZE = StructureHead.bits // 8
SCOPE_SIZE = DeviceScope.fixed_size


class Decoders(dict[type[Layout], Decode]):
    """The decoder of each layout, made on first use."""

    def __init__(self, make: Callable[[type[Layout]], Decode]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, layout: type[Layout]) -> Decode:
        return self.setdefault(layout, self._make(layout))


FAST = Decoders(decoder)


def construct_decoders() -> Decoders:
    """Decoders made of the layouts' Construct: slow, and the declaration itself."""
    return Decoders(_construct_decoder)


def _construct_decoder(layout: type[Layout]) -> Decode:
    whole, size, names = layout.construct(), layout.bits // 8, list(reversed(layout.fields))

    def decode(data: bytes, offset: int) -> tuple[Any, ...]:
        parsed: Any = whole.parse(data[offset : offset + size])
        return tuple(parsed[name] for name in names)

    return decode


def read_structures(data: bytes, end: int, report: Report, decoders: Decoders = FAST) -> tuple[list[Structure], int]:
    """All structures of a table whose last byte is before `end`, and the offset where understanding stopped."""
    head = decoders[StructureHead]
    structures: list[Structure] = []
    offset = HEADER_SIZE
    while offset < end:
        if end - offset < HEAD_SIZE:
            report(_error(f"{end - offset} bytes left, too few for a structure", offset, "table", "TYPE"))
            break
        code, length = head(data, offset)
        if length < HEAD_SIZE:
            report(_error(f"a structure takes at least {HEAD_SIZE} bytes", offset + 2, _name(code), "LENGTH", length))
            break
        stop = offset + length
        if stop > end:
            message = f"the structure would end at {stop:#x}, the table ends at {end:#x}"
            report(_error(message, offset + 2, _name(code), "LENGTH", length))
            stop = end
        structure = _read_structure(data, offset, stop, code, report, decoders)
        if length != stop - offset:
            structure.declared_length = length
        structures.append(structure)
        offset = stop
    return structures, offset


def _read_structure(data: bytes, offset: int, stop: int, code: int, report: Report, decoders: Decoders) -> Structure:
    """The structure whose bytes are data[offset:stop], at least its type and length."""
    kind = KINDS.get(code)
    if kind is None:
        return Unknown(code, data[offset + HEAD_SIZE : stop])
    body = offset + kind.fixed_size
    if body > stop:
        message = f"a {kind.kind} takes at least {body - offset} bytes"
        report(_error(message, offset + 2, kind.kind, "LENGTH", stop - offset))
        return Unknown(code, data[offset + HEAD_SIZE : stop])
    values = decoders[kind.layout](data, offset)[2:]
    if issubclass(kind, Scoped):
        scopes, body = _read_scopes(data, body, stop, kind.kind, report, decoders)
        scoped = kind(*values, scopes=scopes)
        if body < stop:
            scoped.rest = data[body:stop]
        return scoped
    structure = kind(*values)
    structure.rest = structure.take_tail(data[body:stop])
    if structure.rest:
        report(_error(f"a {kind.kind} takes {body - offset} bytes", offset + 2, kind.kind, "LENGTH", stop - offset))
    return structure


def _read_scopes(
    data: bytes, offset: int, stop: int, where: str, report: Report, decoders: Decoders
) -> tuple[list[DeviceScope], int]:
    """The device scopes in data[offset:stop], and the offset where understanding stopped."""
    decode = decoders[DeviceScope.layout]
    scopes = []
    while offset < stop:
        if stop - offset < SCOPE_SIZE:
            report(_error(f"{stop - offset} bytes left, too few for a device scope", offset, where, "SCOPE"))
            break
        kind, length, flags, reserved, enumeration_id, bus = decode(data, offset)
        if length < SCOPE_SIZE or offset + length > stop:
            message = f"a device scope here takes {SCOPE_SIZE} to {stop - offset} bytes"
            report(_error(message, offset + 1, f"{where}.SCOPE", "LENGTH", length))
            break
        at = offset + SCOPE_SIZE
        if length == SCOPE_SIZE + 2:  # nearly all have one hop
            path: Path = ((data[at], data[at + 1]),)
        else:
            path = tuple(zip(data[at : offset + length : 2], data[at + 1 : offset + length : 2], strict=False))
        scope = DeviceScope(kind, bus, path, enumeration_id, flags, reserved)
        if length & 1:
            report(_error("an odd length leaves half a hop", offset + 1, f"{where}.SCOPE", "LENGTH", length))
            scope.padding = data[offset + length - 1 : offset + length]
        scopes.append(scope)
        offset += length
    return scopes, offset


def _name(code: int) -> str:
    return KINDS[code].kind if code in KINDS else f"structure type {code:#x}"


def _error(message: str, offset: int, where: str, name: str, value: int | None = None) -> DmarError:
    return DmarError(message, offset=offset, where=where, field=name, value=value)
