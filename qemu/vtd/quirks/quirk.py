"""The base of all quirks: identity, section, scenarios, versions."""

from __future__ import annotations

from typing import ClassVar

Version = tuple[int, int, int]

FIRST: Version = (7, 0, 0)
"""The oldest supported QEMU; a quirk that starts here may be older."""

NEWEST: Version = (11, 1, 3)
"""The newest release that the quirks and freedoms are known for."""


class Quirk:
    """Mixed into an override of one part of the engine. The docstring's first line is the title.

    Attributes:
        id: such as "Q01"; never reused.
        section: the section of the specification that QEMU departs from.
        scenarios: ids of the conformance scenarios that show it.
        first: the first version known to have it.
        gone: the first version without it; None when every later version has it.
    """

    id: ClassVar[str]
    section: ClassVar[str]
    scenarios: ClassVar[tuple[str, ...]]
    first: ClassVar[Version] = FIRST
    gone: ClassVar[Version | None] = None

    @classmethod
    def title(cls) -> str:
        """The quirk in one line."""
        return (cls.__doc__ or "").strip().splitlines()[0]
