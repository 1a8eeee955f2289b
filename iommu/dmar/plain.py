"""Tables as plain data (dictionaries, lists, numbers, strings), which is what JSON holds.

Every key is a field; a few keys appear only in damaged tables: `rest`, `padding` and `trailing`, bytes in hex that
belong to no field. Offsets are for readers; building ignores them.
"""

from __future__ import annotations

from typing import Any

from iommu.dmar.header import Header
from iommu.dmar.kinds import Andd, Unknown
from iommu.dmar.scopes import DeviceScope
from iommu.dmar.structure import KINDS, Scoped, Structure, StructureHead
from iommu.dmar.wire import encode_text
from iommu.errors import MisuseError
from iommu.files.documents import Reader, shown

Plain = dict[str, Any]
_LENGTHS = range(1 << StructureHead.LENGTH.width)
_SCOPE_KEYS = {"offset", "path", "padding", *(name.lower() for name in DeviceScope.layout.fields)}


def header_to_dict(header: Header) -> Plain:
    """The header, every field."""
    result: Plain = {name.lower(): getattr(header, name.lower()) for name in reversed(header.layout.fields)}
    result["reserved"] = header.reserved.hex()
    return result


def structure_to_dict(offset: int, structure: Structure) -> Plain:
    """One structure, which is at `offset` in its table."""
    plain: Plain = {
        "kind": structure.kind,
        "type": structure.type,
        "offset": offset,
        "length": structure.length,
        **{name: getattr(structure, name) for name in structure.fixed_fields},
    }
    if isinstance(structure, Scoped):
        plain["scopes"] = []
        at = offset + structure.fixed_size
        for scope in structure.scopes:
            plain["scopes"].append(_scope(at, scope))
            at += scope.nbytes
    elif isinstance(structure, Andd):
        plain["object_name"] = structure.object_name
        if any(structure.padding) or structure.declared_length is not None:
            plain["padding"] = structure.padding.hex()
    elif isinstance(structure, Unknown):
        plain["data"] = structure.data.hex()
    if structure.rest:
        plain["rest"] = structure.rest.hex()
    return plain


def _scope(offset: int, scope: DeviceScope) -> Plain:
    plain: Plain = {
        "offset": offset,
        "type": scope.type,
        "length": scope.nbytes,
        "flags": scope.flags,
        "reserved": scope.reserved,
        "enumeration_id": scope.enumeration_id,
        "bus": scope.bus,
        "path": [list(hop) for hop in scope.path],
    }
    if scope.padding:
        plain["padding"] = scope.padding.hex()
    return plain


def read_header(plain: Any) -> Header:
    """The inverse of `header_to_dict`; fields left out take their defaults. Raises MisuseError."""
    reader = Reader(plain, "header", {name.lower() for name in Header.layout.fields})
    header = Header()
    for name, part in Header.layout.fields.items():
        key = name.lower()
        if key not in reader.plain:
            continue
        if key == "reserved":
            header.reserved = reader.hex(key)
        else:
            setattr(header, key, reader.text(key) if part.octets else reader.number(key))
    return header


def read_structure(plain: Any, where: str) -> Structure:
    """The inverse of `structure_to_dict`; `where` names the place in error messages. Raises MisuseError."""
    classes: list[type[Structure]] = [*KINDS.values(), Unknown]
    known = {cls.kind: cls for cls in classes}
    kind = Reader(plain, where).text("kind")
    if kind not in known:
        raise MisuseError(f"{where}.kind: {shown(kind)} is none of {', '.join(known)}")
    cls = known[kind]
    reader = Reader(plain, where, {"kind", "type", "offset", "length", "rest", *cls.fixed_fields, *_tail_keys(cls)})
    numbers: dict[str, Any] = {name: reader.number(name) for name in cls.fixed_fields}
    if reader.number("length", 0) not in _LENGTHS:
        raise MisuseError(f"{where}.length: {shown(reader.number('length'))} is not a number of 16 bits")
    structure = cls(**numbers)
    structure.rest = reader.hex("rest")
    if isinstance(structure, Scoped):
        items = reader.list("scopes")
        structure.scopes = [_read_scope(item, f"{where}.scopes[{n}]") for n, item in enumerate(items)]
    elif isinstance(structure, Andd):
        _read_name(structure, reader)
    elif isinstance(structure, Unknown):
        structure.code, structure.data = reader.number("type"), reader.hex("data")
    elif reader.number("type", structure.type) != structure.type:
        raise MisuseError(f"{where}.type: a {kind} has type {structure.type}")
    length = reader.number("length", structure.nbytes)
    structure.declared_length = None if length == structure.nbytes else length
    return structure


def _tail_keys(cls: type[Structure]) -> set[str]:
    """The keys of what follows the fixed part."""
    if issubclass(cls, Scoped):
        return {"scopes"}
    return {"object_name", "padding"} if cls is Andd else {"data"} if cls is Unknown else set()


def _read_name(structure: Andd, reader: Reader) -> None:
    structure.object_name = reader.text("object_name")
    if "padding" in reader.plain:
        structure.padding = reader.hex("padding")
    elif "length" in reader.plain:
        room = reader.number("length") - structure.fixed_size
        structure.padding = bytes(max(0, room - len(encode_text(structure.object_name, reader.where))))


def _read_scope(plain: Any, where: str) -> DeviceScope:
    reader = Reader(plain, where, _SCOPE_KEYS)
    path = []
    for hop in reader.list("path"):
        if not (isinstance(hop, list) and len(hop) == 2 and all(type(number) is int for number in hop)):
            raise MisuseError(f"{where}.path: {shown(hop)} is not [device, function]")
        path.append((hop[0], hop[1]))
    return DeviceScope(
        type=reader.number("type"),
        bus=reader.number("bus", 0),
        path=tuple(path),
        enumeration_id=reader.number("enumeration_id", 0),
        flags=reader.number("flags", 0),
        reserved=reader.number("reserved", 0),
        padding=reader.hex("padding"),
    )
