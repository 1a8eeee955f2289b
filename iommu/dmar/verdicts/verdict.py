"""What a verdict is: what one operating system does with a table, and how we know."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from iommu.dmar.layouts import HEADER_SIZE, ScopeLayout, StructureHead
from iommu.fields import Layout


class Effect(IntEnum):
    """What it comes to, from best to worst."""

    ACCEPTS = 0
    WORKS_AROUND = 1
    NO_INTERRUPT_REMAPPING = 2
    IGNORES_VTD = 3
    HANGS = 4

    def __str__(self) -> str:
        return _SAID[self]


_SAID = {
    Effect.ACCEPTS: "accepts it",
    Effect.WORKS_AROUND: "works around its faults",
    Effect.NO_INTERRUPT_REMAPPING: "does not remap interrupts",
    Effect.IGNORES_VTD: "ignores VT-d",
    Effect.HANGS: "hangs at boot",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing the system does because of the table: where it stands, what happens, which function does it."""

    effect: Effect
    offset: int
    what: str
    source: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a system does with a table.

    Attributes:
        system: its name.
        effect: the worst of the reasons; None where no source could be found, so that nothing is claimed.
        reasons: in the order in which the system comes across them.
        source: what the claims were read from.
    """

    system: str
    effect: Effect | None
    reasons: tuple[Reason, ...]
    source: str


Judge = Callable[[bytes], Iterator[Reason]]


def judge(system: str, source: str, judges: Judge, data: bytes) -> Verdict:
    """The verdict of a system whose behaviour is `judges`."""
    reasons = tuple(judges(data))
    return Verdict(system, max((reason.effect for reason in reasons), default=Effect.ACCEPTS), reasons, source)


class Raw:
    """A table as code in C reads it: by pointer, believing lengths where that code believes them."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.end = min(int.from_bytes(data[4:8], "little"), len(data))

    def number(self, offset: int, length: int) -> int:
        """A little-endian number; bytes beyond the table are 0."""
        return int.from_bytes(self.data[offset : offset + length], "little")

    def head(self, offset: int) -> tuple[int, int]:
        """Type and length of the structure at `offset`."""
        return self.field(StructureHead, "TYPE", offset), self.field(StructureHead, "LENGTH", offset)

    def field(self, layout: type[Layout], name: str, offset: int) -> int:
        """One field of a layout that begins at `offset`."""
        part: Any = layout.fields[name]
        return self.number(offset + part.lsb // 8, part.width // 8)

    def scopes(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Offset, type and length of each device scope; stops after one whose length is 0.

        What lies beyond the table is not known, so nothing is claimed of scopes there.
        """
        while start < min(stop, self.end):
            length = self.field(ScopeLayout, "LENGTH", start)
            yield start, self.field(ScopeLayout, "TYPE", start), length
            if length == 0:
                return
            start += length

    @property
    def start(self) -> int:
        """Offset of the first structure."""
        return HEADER_SIZE
