"""What a break is: one rule of the engine overridden, and the scenario that must notice."""

from __future__ import annotations

from typing import ClassVar

from iommu import RemappingUnit
from qemu.vtd.quirks import PARTS


class Break:
    """Mixed into an override of one part of the engine, or of the unit itself; the docstring says what is broken.

    `scenario` is the first that must fail.
    """

    scenario: ClassVar[str]

    @classmethod
    def title(cls) -> str:
        """What is broken, in one line."""
        return (cls.__doc__ or "").strip().splitlines()[0]


def unit_of(broken: type[Break]) -> type[RemappingUnit]:
    """A unit with this break."""
    if issubclass(broken, RemappingUnit):
        return broken
    part = next(name for name in PARTS if issubclass(broken, getattr(RemappingUnit, name)))
    return type("Broken", (RemappingUnit,), {part: broken})
