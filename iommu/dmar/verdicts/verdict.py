"""What a verdict is: what one operating system does with a table, and the source of that claim."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from iommu.dmar.declared import Part
from iommu.dmar.header import Header
from iommu.dmar.scopes import DeviceScope
from iommu.dmar.structure import StructureHead
from iommu.fields import Field

_TYPE, _LENGTH = StructureHead.TYPE, StructureHead.LENGTH
_SCOPE_TYPE, _SCOPE_LENGTH = DeviceScope.layout.fields["TYPE"], DeviceScope.layout.fields["LENGTH"]


class Effect(IntEnum):
    """What the system does in the end, from best to worst."""

    ACCEPTS = 0
    WORKS_AROUND = 1
    NO_INTERRUPT_REMAPPING = 2
    NO_DMA_REMAPPING = 3
    IGNORES_VTD = 4
    HANGS = 5

    def __str__(self) -> str:
        return _WORDS[self]


_WORDS = {
    Effect.ACCEPTS: "accepts it",
    Effect.WORKS_AROUND: "works around its faults",
    Effect.NO_INTERRUPT_REMAPPING: "does not remap interrupts",
    Effect.NO_DMA_REMAPPING: "does not remap DMA",
    Effect.IGNORES_VTD: "ignores VT-d",
    Effect.HANGS: "hangs at boot",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing the system does because of the table: the byte that causes it, what happens, in which function."""

    effect: Effect
    offset: int
    what: str
    source: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a system does with a table.

    Attributes:
        system: its name.
        effect: the worst of the reasons' effects; None where nothing is claimed because no source could be found.
        reasons: in the order in which the system meets them.
        source: the source code that the claims were read from.
    """

    system: str
    effect: Effect | None
    reasons: tuple[Reason, ...]
    source: str


Judge = Callable[[bytes], Iterator[Reason]]


def judge(system: str, source: str, judges: Judge, data: bytes) -> Verdict:
    """The verdict of the system that behaves as `judges` does."""
    reasons = tuple(judges(data))
    return Verdict(system, max((reason.effect for reason in reasons), default=Effect.ACCEPTS), reasons, source)


class Raw:
    """A table as code in C reads it: by pointer, trusting lengths where that code trusts them."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.end = min(int.from_bytes(data[4:8], "little"), len(data))

    def number(self, offset: int, length: int) -> int:
        """A little-endian number; bytes beyond the table are 0."""
        return int.from_bytes(self.data[offset : offset + length], "little")

    def head(self, offset: int) -> tuple[int, int]:
        """Type and length of the structure at `offset`."""
        return self._read(_TYPE, offset), self._read(_LENGTH, offset)

    def field(self, part: type[Part], name: str, offset: int) -> int:
        """The field `name` of a part that begins at `offset`."""
        return self._read(part.layout.fields[name.upper()], offset)

    def _read(self, field: Field[Any], offset: int) -> int:
        return self.number(offset + field.lsb // 8, field.width // 8)

    def scopes(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Offset, type and length of each device scope; stops after one whose length is 0.

        The bytes beyond the table are not known, so nothing is claimed about scopes there.
        """
        while start < min(stop, self.end):
            length = self._read(_SCOPE_LENGTH, start)
            yield start, self._read(_SCOPE_TYPE, start), length
            if length == 0:
                return
            start += length

    @property
    def start(self) -> int:
        """Offset of the first structure."""
        return Header.fixed_size
