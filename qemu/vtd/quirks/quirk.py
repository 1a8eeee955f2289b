"""What every quirk states about itself."""

from __future__ import annotations

from typing import ClassVar

Version = tuple[int, int, int]

FIRST: Version = (7, 0, 0)
"""The oldest QEMU that is supported at all: a quirk from then on may well be older."""


class Quirk:
    """Mixed into an override of one part of the engine. The docstring's first line is the title.

    Attributes:
        id: "Q01", for good.
        section: of the specification, that QEMU departs from.
        scenarios: ids of the conformance scenarios that show it.
        first: the first version that has it, as far as is known.
        gone: the first version without it; None while there is none.
    """

    id: ClassVar[str]
    section: ClassVar[str]
    scenarios: ClassVar[tuple[str, ...]]
    first: ClassVar[Version] = FIRST
    gone: ClassVar[Version | None] = None

    @classmethod
    def title(cls) -> str:
        """One line for people."""
        return (cls.__doc__ or "").strip().splitlines()[0]
