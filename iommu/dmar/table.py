"""The whole table: header, structures, and the way to and from bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from iommu.dmar import plain
from iommu.dmar.header import TEXTS, Header
from iommu.dmar.layouts import HEADER_SIZE, HeaderLayout
from iommu.dmar.lint import Finding, lint
from iommu.dmar.model import Drhd, Structure
from iommu.dmar.pci import PciAddress, PciTree
from iommu.dmar.reader import FAST, Decoders, Report, read_structures
from iommu.dmar.topology import unit_for
from iommu.errors import DmarError

# Where the identifiers stand among the header's fields.
_TEXTS = [position for position, name in enumerate(reversed(HeaderLayout.fields)) if name in TEXTS]


@dataclass(slots=True)
class Dmar:
    """A DMAR table.

    Attributes:
        header: see Header.
        structures: in the table's order.
        trailing: bytes after the last structure that could be read; only in a damaged table or file.
        problems: what `parse(strict=False)` found damaged, in reading order.
    """

    header: Header = field(default_factory=Header)
    structures: list[Structure] = field(default_factory=list)
    trailing: bytes = b""
    problems: list[DmarError] = field(default_factory=list, compare=False)

    @classmethod
    def parse(cls, data: bytes, strict: bool = True, *, decoders: Decoders = FAST) -> Dmar:
        """The table in `data`, which `build()` gives back byte for byte.

        A wrong checksum is no error: lint finds it.

        Args:
            strict: raise at the first damage. Otherwise read all that can be read and list the damage in `problems`.
            decoders: what reads the fixed parts; see reader.py.

        Raises:
            DmarError: the data is damaged, or so far from a DMAR that there is nothing to read.
        """
        problems: list[DmarError] = []

        def report(problem: DmarError) -> None:
            if strict:
                raise problem
            problems.append(problem)

        data = bytes(data)
        header = _read_header(data, decoders)
        end = _end_of_table(header, len(data), report)
        structures, stop = read_structures(data, end, report, decoders)
        return cls(header, structures, data[stop:], problems)

    @property
    def units(self) -> list[Drhd]:
        """The remapping units."""
        return [structure for structure in self.structures if isinstance(structure, Drhd)]

    @property
    def nbytes(self) -> int:
        """Bytes the table takes when built."""
        return HEADER_SIZE + sum(structure.nbytes for structure in self.structures) + len(self.trailing)

    def build(self) -> bytes:
        """The table's bytes, with length and checksum as the header states them; filled in where it states none.

        Raises MisuseError for a value that does not fit its field.
        """
        body = b"".join(structure.build() for structure in self.structures) + self.trailing
        data = self.header.build(HEADER_SIZE + len(body)) + body
        if self.header.checksum is None:
            at = HeaderLayout.CHECKSUM.lsb // 8
            data = data[:at] + bytes([-sum(data) & 0xFF]) + data[at + 1 :]
        return data

    def seal(self) -> None:
        """Let every length and the checksum be right again, as after a change of a table that was parsed."""
        self.header.length = self.header.checksum = None
        for structure in self.structures:
            structure.declared_length = None

    def placed(self) -> list[tuple[int, Structure]]:
        """Each structure with its offset in the built table."""
        offset, result = HEADER_SIZE, []
        for structure in self.structures:
            result.append((offset, structure))
            offset += structure.nbytes
        return result

    def unit_for(
        self, segment: int, bus: int, device: int, function: int, tree: PciTree | None = None
    ) -> Drhd | None:
        """The unit that remaps a PCI function's DMA, or None (spec 8.3, 8.3.1).

        Bridge scopes and paths of several hops need the machine's PCI tree: without one, a function below a bridge
        that a scope names is taken for INCLUDE_PCI_ALL's.
        """
        return unit_for(self, PciAddress(segment, bus, device, function), tree)[0]

    def lint(self) -> list[Finding]:
        """What is wrong or odd about the table, by offset; see iommu.dmar.lint."""
        return lint(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON: lossless, and the inverse of `from_dict`. docs/dmar.schema.json describes it."""
        result: dict[str, Any] = {
            "header": plain.header_to_dict(self.header),
            "structures": [plain.structure_to_dict(offset, structure) for offset, structure in self.placed()],
        }
        if self.trailing:
            result["trailing"] = self.trailing.hex()
        return result

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Dmar:
        """The table that `to_dict` described. Offsets are ignored; lengths and checksum may be left out.

        Raises MisuseError, naming the place, for what is missing, unknown or of the wrong type.
        """
        top = plain.Reader(data, "table", {"header", "structures", "trailing", "source"})
        structures = [plain.read_structure(item, f"structures[{n}]") for n, item in enumerate(top.list("structures"))]
        return cls(plain.read_header(top.take("header")), structures, top.hex("trailing"))


def _read_header(data: bytes, decoders: Decoders) -> Header:
    """Raises DmarError when there is no header to read."""
    if data[:4] != b"DMAR":
        message = f"not a DMAR: it begins with {data[:4]!r}" if data else "not a DMAR: it is empty"
        raise DmarError(message, offset=0, where="header", field="SIGNATURE")
    if len(data) < HEADER_SIZE:
        message = f"the file ends after {len(data)} bytes, a DMAR takes at least {HEADER_SIZE}"
        raise DmarError(message, offset=len(data), where="header", field=_header_field_at(len(data)))
    values = list(decoders[HeaderLayout](data, 0))
    for position in _TEXTS:
        values[position] = values[position].decode("latin-1").rstrip("\0")
    return Header(*values)


def _header_field_at(offset: int) -> str:
    return next(name for name, part in HeaderLayout.fields.items() if part.lsb <= 8 * offset <= part.msb)


def _end_of_table(header: Header, available: int, report: Report) -> int:
    """The offset where the structures end, as far as header and file agree."""
    length = header.length or 0
    if length < HEADER_SIZE:
        message = f"a DMAR takes at least {HEADER_SIZE} bytes"
    elif length > available:
        message = f"the file ends after {available} bytes"
    elif length < available:
        message = f"{available - length} bytes follow the table"
    else:
        return length
    report(DmarError(message, offset=4, where="header", field="LENGTH", value=length))
    return min(length, available) if length >= HEADER_SIZE else available
