"""The base of all quirks: what each has to declare."""

from __future__ import annotations

import re
from enum import Enum
from inspect import cleandoc
from typing import ClassVar

from iommu.errors import MisuseError

Version = tuple[int, int, int]

FIRST: Version = (7, 0, 0)
"""The oldest supported QEMU; a quirk that starts here may be older."""

TRIED: tuple[Version, ...] = ((7, 2, 22), (10, 0, 13), (11, 1, 3))
"""The QEMUs that the catalogue is run on: every quirk is observed on those of its versions."""

NEWEST = max(TRIED)
"""The newest release that the quirks and freedoms are known for."""


def version_text(version: Version) -> str:
    """A version as text: "7.2.22"."""
    return ".".join(map(str, version))


def parse_version(text: str) -> Version:
    """A version from text: "10.0" or "10.0.13". Raises MisuseError."""
    found = re.fullmatch(r"(\d{1,4})(?:\.(\d{1,4}))?(?:\.(\d{1,4}))?", text)
    if found is None:
        raise MisuseError(f"{text!r} is not a version of QEMU, such as 10.0 or 7.2.22")
    major, minor, micro = (int(part or 0) for part in found.groups())
    return major, minor, micro


class Severity(Enum):
    """What a quirk means for the author of a driver, the most dangerous first. The value is what people read."""

    FAILS_ON_HARDWARE = "Works in QEMU, fails on hardware"
    FAILS_IN_QEMU = "Works on hardware, fails in QEMU"
    EITHER = "May work on one and fail on the other"
    REPORT_DIFFERS = "Only what the unit reports differs"


class Quirk:
    """Mixed into an override of one part of the engine.

    The docstring says what QEMU does; its first line is the title.

    Attributes:
        id: such as "Q01"; never reused.
        severity: what it means for the author of a driver.
        section: the section of the specification that QEMU departs from.
        hardware: what the specification has hardware do, in a sentence or two.
        driver: the consequence for a driver, in a sentence or two.
        function: where in QEMU's source it comes from, by the names of functions, separated by commas.
        scenarios: ids of the conformance scenarios that show it.
        first: the first version known to have it.
        gone: the first version without it; None when every later version has it.
        comes_first: of the overrides of a method, its own is called before those of other quirks.
    """

    id: ClassVar[str]
    severity: ClassVar[Severity]
    section: ClassVar[str]
    hardware: ClassVar[str]
    driver: ClassVar[str]
    function: ClassVar[str]
    scenarios: ClassVar[tuple[str, ...]]
    first: ClassVar[Version] = FIRST
    gone: ClassVar[Version | None] = None
    comes_first: ClassVar[bool] = False

    @classmethod
    def title(cls) -> str:
        """The quirk in one line."""
        return cls.behaviour().splitlines()[0]

    @classmethod
    def behaviour(cls) -> str:
        """What QEMU does: the whole docstring."""
        return cleandoc(cls.__doc__ or "")

    @classmethod
    def versions(cls) -> str:
        """The versions that have it, as text."""
        until = f", gone in {version_text(cls.gone)}" if cls.gone else ""
        return f"{version_text(cls.first)} and later{until}"

    @classmethod
    def observed(cls) -> list[str]:
        """The QEMUs that it was observed on."""
        return [version_text(version) for version in TRIED if cls.is_in(version)]

    @classmethod
    def is_in(cls, version: Version) -> bool:
        """Whether that QEMU version has it."""
        return cls.first <= version and (cls.gone is None or version < cls.gone)
