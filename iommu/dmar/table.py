"""The table as data: header, structures, and the way to and from bytes and plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from iommu.dmar import plain
from iommu.dmar.header import TEXTS, Header
from iommu.dmar.kinds import Drhd
from iommu.dmar.reader import FAST, HEADER_SIZE, Decoders, Report, read_structures
from iommu.dmar.structure import Structure
from iommu.errors import DmarError
from iommu.files.documents import Reader

# Positions of the identifiers among the header's fields.
_TEXTS = [position for position, name in enumerate(reversed(Header.layout.fields)) if name in TEXTS]


@dataclass(slots=True)
class Table:
    """A DMAR's content. Lint, topology, difference and pictures are functions of it; Dmar offers them as methods.

    Attributes:
        header: see Header.
        structures: in the table's order.
        trailing: bytes after the last structure that could be read; only in a damaged table or file.
        problems: the damage that `parse(strict=False)` found, in reading order.
    """

    header: Header = field(default_factory=Header)
    structures: list[Structure] = field(default_factory=list)
    trailing: bytes = b""
    problems: list[DmarError] = field(default_factory=list, compare=False)

    @classmethod
    def parse(cls, data: bytes, strict: bool = True, *, decoders: Decoders = FAST) -> Self:
        """The table in `data`, which `build()` gives back byte for byte.

        A wrong checksum is not an error here: lint finds it.

        Args:
            strict: raise at the first damage. Otherwise read all that can be read and list the damage in `problems`.
            decoders: what reads the fixed parts; see reader.py.

        Raises:
            DmarError: the data is damaged, or so far from a DMAR that nothing can be read.
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
            at = Header.offset_of("checksum")
            data = data[:at] + bytes([-sum(data) & 0xFF]) + data[at + 1 :]
        return data

    def seal(self) -> None:
        """Discard the stated lengths and checksum, so that `build()` fills in the right ones."""
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
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The table that `to_dict` described. Offsets are ignored; lengths and checksum may be left out.

        Raises MisuseError, naming the place, for what is missing, unknown or of the wrong type.
        """
        top = Reader(data, "table", {"header", "structures", "trailing", "source"})
        structures = [plain.read_structure(item, f"structures[{n}]") for n, item in enumerate(top.list("structures"))]
        return cls(plain.read_header(top.take("header")), structures, top.hex("trailing"))


def _read_header(data: bytes, decoders: Decoders) -> Header:
    """Raises DmarError when the header cannot be read."""
    if data[:4] != b"DMAR":
        message = f"not a DMAR: it begins with {data[:4]!r}" if data else "not a DMAR: it is empty"
        raise DmarError(message, offset=0, where="header", field="SIGNATURE")
    if len(data) < HEADER_SIZE:
        message = f"the file ends after {len(data)} bytes, a DMAR takes at least {HEADER_SIZE}"
        raise DmarError(message, offset=len(data), where="header", field=_header_field_at(len(data)))
    values = list(decoders[Header.layout](data, 0))
    for position in _TEXTS:
        values[position] = values[position].decode("latin-1").rstrip("\0")
    return Header(*values)


def _header_field_at(offset: int) -> str:
    return next(name for name, part in Header.layout.fields.items() if part.lsb <= 8 * offset <= part.msb)


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
