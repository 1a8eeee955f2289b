"""`vtd dmar show`, for people: one block for the header, one for each structure."""

from collections.abc import Iterator

from rich.text import Text

from iommu.cli.output import bytes_size, console, line
from iommu.dmar import Andd, DeviceScope, Dmar, Drhd, Rhsa, Rmrr, Structure, Unknown
from iommu.dmar.header import HeaderFlags
from iommu.dmar.kinds import DrhdFlags, ScopeFlags
from iommu.dmar.scopes import SCOPE_TYPES, ScopeType
from iommu.fields import Layout
from iommu.files.text import safe

Piece = str | tuple[str, str]  # text, or text and its style

_SCOPES = {
    ScopeType.ENDPOINT: "endpoint",
    ScopeType.BRIDGE: "bridge",
    ScopeType.IOAPIC: "I/O APIC",
    ScopeType.HPET: "HPET",
    ScopeType.NAMESPACE: "ACPI device",
}


def print_table(table: Dmar) -> None:
    """Print a table; fields that are always 0 in a sound table appear only where they are not."""
    out = console()
    for text in describe_table(table):
        out.print(text)


def describe_table(table: Dmar) -> Iterator[Text]:
    """The lines."""
    header = table.header
    maker = f"{safe(header.oem_id.strip())} {safe(header.oem_table_id.strip())}".strip()
    compiler = safe(header.compiler_id.strip())
    length = table.nbytes if header.length is None else header.length
    checksum = 0 if header.checksum is None else header.checksum
    right = "right" if not sum(table.build()) & 0xFF else "wrong"
    yield line(("DMAR", "bold"), f"  {maker}  revision {header.revision}, {length} bytes")
    yield line(f"  checksum            {checksum:#04x}, {right}")
    yield line(f"  OEM revision        {header.oem_revision:#x}")
    yield line(f"  made by             {compiler or 'an unnamed tool'}, revision {header.compiler_revision:#x}")
    yield line(f"  host address width  {header.width} bits")
    yield line("  flags               ", (flag_names(HeaderFlags, header.flags), "cyan"))
    if any(header.reserved):
        yield line(("  reserved            ", "red"), header.reserved.hex())
    for offset, structure in table.placed():
        yield Text()
        yield from describe_structure(offset, structure)
    if table.trailing:
        yield Text()
        yield line(("bytes after the last structure  ", "red"), table.trailing.hex())


def describe_structure(offset: int, structure: Structure) -> Iterator[Text]:
    """A structure and its scopes."""
    yield line((f"{offset:#05x}  ", "dim"), (f"{structure.kind:<7}", "bold"), *_summary(structure))
    if getattr(structure, "reserved", 0):
        yield line(("         reserved     ", "red"), f"{getattr(structure, 'reserved', 0):#x}")
    for scope in structure.offered_scopes:
        yield line(f"         {scope_name(scope):<14}", (str(scope), "green"), *_scope_extras(scope))
    if structure.rest:
        yield line(("         unread bytes  ", "red"), structure.rest.hex())
    if structure.declared_length is not None:
        yield line(("         length field  ", "red"), f"{structure.declared_length}, but {structure.nbytes} bytes")


def _summary(structure: Structure) -> list[Piece]:
    match structure:
        case Drhd():
            size = bytes_size(structure.register_bytes)
            flags = flag_names(DrhdFlags, structure.flags)
            reserved = structure.size & ~0xF
            odd = f"  size byte {structure.size:#04x}" if reserved else ""
            return [
                f"segment {structure.segment}  registers ",
                (f"{structure.base:#x}", "yellow"),
                f" ({size})",
                odd,
                ("" if flags == "none" else f"  {flags}", "cyan"),
            ]
        case Rmrr():
            count = structure.limit - structure.base + 1
            shown = bytes_size(count) if count > 0 else "reversed"
            return [
                f"segment {structure.segment}  memory ",
                (f"{structure.base:#x} to {structure.limit:#x}", "yellow"),
                f" ({shown})",
            ]
        case Rhsa():
            return [
                "registers ",
                (f"{structure.base:#x}", "yellow"),
                f" are in proximity domain {structure.proximity_domain}",
            ]
        case Andd():
            return [f"ACPI device {structure.device_number} is ", (safe(structure.object_name), "green")]
        case Unknown():
            return [f"type {structure.type}, {structure.length} bytes  ", structure.data.hex()]
    return _fields(structure)


def _fields(structure: Structure) -> list[Piece]:
    """Every field by its name, and the names of the flags at the end."""
    numbers, flags = [], list[Piece]()
    for name in structure.fixed_fields:
        if name in structure.flag_layouts:
            flags.append((f"  {flag_names(structure.flag_layouts[name], getattr(structure, name))}", "cyan"))
        elif name != "reserved":
            numbers.append(f"{name.replace('_', ' ')} {structure.show(name)}")
    return ["  ".join(numbers), *flags]


def scope_name(scope: DeviceScope) -> str:
    """The kind of device a scope names, with its number where it has one."""
    name = _SCOPES.get(ScopeType(scope.type)) if scope.type in SCOPE_TYPES else None
    if name is None:
        return f"scope type {scope.type}"
    numbered = scope.type in {ScopeType.IOAPIC, ScopeType.HPET, ScopeType.NAMESPACE}
    return f"{name} {scope.enumeration_id}" if numbered else name


def _scope_extras(scope: DeviceScope) -> list[Piece]:
    extras: list[Piece] = []
    if scope.flags:
        extras.append((f"  {flag_names(ScopeFlags, scope.flags)}", "cyan"))
    if scope.enumeration_id and scope.type in {ScopeType.ENDPOINT, ScopeType.BRIDGE}:
        extras.append((f"  enumeration id {scope.enumeration_id}", "red"))
    if scope.reserved:
        extras.append((f"  reserved {scope.reserved:#x}", "red"))
    if scope.padding:
        extras.append((f"  half a hop {scope.padding.hex()}", "red"))
    return extras


def flag_names(layout: type[Layout], value: int) -> str:
    """The names of the flags that are set, and the set bits that have no name."""
    names = [part.name for part in reversed(layout.fields.values()) if value & part.mask]
    if unnamed := value & layout.reserved_mask():
        names.append(f"reserved {unnamed:#x}")
    return ", ".join(names) or "none"
