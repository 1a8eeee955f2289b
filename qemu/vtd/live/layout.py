"""What is at each guest-physical address, from the monitor's `info mtree -f`."""

from __future__ import annotations

import re
from typing import NamedTuple

from qemu.vtd.errors import QemuError

_VIEW = re.compile(r"^FlatView #", re.M)
_SPACE = re.compile(r'^ AS "memory",', re.M)
_LINE = re.compile(
    r"^  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ([\w/-]+)\): (.*?)(?: @[0-9a-f]{16})?(?: KVM)?$", re.M
)
_MEMORY = frozenset({"ram", "rom", "nv-ram", "nv-rom", "romd"})


class Region(NamedTuple):
    """A part of the guest-physical address space: `stop` is the first address behind it."""

    start: int
    stop: int
    kind: str
    name: str

    @property
    def is_memory(self) -> bool:
        """Whether QEMU holds its bytes; those of a physical device ("ramd") it does not."""
        return self.kind in _MEMORY


def layout_of(text: str) -> list[Region]:
    """The regions of the address space "memory", in order. Raises QemuError if the text has no such space."""
    for view in _VIEW.split(text):
        if _SPACE.search(view):
            found = _LINE.findall(view)
            return [Region(int(start, 16), int(last, 16) + 1, kind, name) for start, last, kind, name in found]
    raise QemuError("QEMU does not say where the guest's memory is (info mtree -f)")
