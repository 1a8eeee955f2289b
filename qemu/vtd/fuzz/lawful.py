"""Whether what a QEMU did is one of the outcomes that the architecture allows.

What the engine with the version's quirks does is expected. It keeps what it has cached until it is told to drop it;
hardware may drop anything at any time, or more than it was told to. It takes the choices of `quirks.POLICY`; others are
as right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from iommu import Capabilities, RemappingUnit
from iommu.engine.policy import CHOICES
from qemu.vtd.conformance.chapters import register_bits
from qemu.vtd.conformance.scenario import EVICTED
from qemu.vtd.fuzz.actions import Dma
from qemu.vtd.fuzz.case import Case, Steps
from qemu.vtd.fuzz.model import Evicted, Model
from qemu.vtd.quirks import POLICY, Version, profile
from qemu.vtd.topology import PLAIN

_OPEN: dict[int, tuple[int, str]] = {
    row.offset: (row.kept ^ row.freedom[0], row.freedom[1])
    for row in register_bits.REGISTERS.values()
    if row.freedom is not None
}
"""By the offset of a register, the bits that hardware may have or not, and why."""
_IVA_READ = "what a read of IVA returns is not defined (11.4.6.4)"
_REGISTER = re.compile(r"register (0x[0-9a-f]+) (0x[0-9a-f]+)")

_OPTIONS = (("translations",), ("contexts",), ("contexts", "translations"))
_MOST_RUNS = 200
_CHOICES = [name for name in CHOICES if isinstance(getattr(POLICY, name), bool)]


@dataclass(frozen=True)
class Terms:
    """What a QEMU is held to: its unit's capabilities, its version's quirks.

    `unit` is the engine with the quirks; by default with those of the version.
    """

    capabilities: Capabilities
    version: Version
    unit: type[RemappingUnit] | None = None

    def model(self, evicted: Evicted | None = None) -> Model:
        """The model of such a unit."""
        return Model(self.capabilities, POLICY, self.unit or profile(self.version), PLAIN, evicted)

    def specification(self) -> Model:
        """The model without quirks."""
        return Model(self.capabilities, POLICY, RemappingUnit)


def first_difference(expected: Steps, seen: Steps) -> int | None:
    """The first step in which two runs of a case differ; None when they are the same."""
    for number, (one, other) in enumerate(zip(expected, seen, strict=False)):
        if one != other:
            return number
    return None if len(expected) == len(seen) else min(len(expected), len(seen))


def freedom(case: Case, expected: Steps, seen: Steps, terms: Terms) -> str:
    """The freedom of the architecture that makes another outcome right than the expected one; empty without one."""
    if because := _register_bits(expected, seen, terms.capabilities.iotlb_offset):
        return because
    if _Search(case, seen, terms).evictions():
        return EVICTED
    for name in _CHOICES:
        changes: dict[str, Any] = {name: not getattr(POLICY, name)}
        policy = replace(POLICY, **changes)
        model = Model(terms.capabilities, policy, terms.unit or profile(terms.version), PLAIN)
        if first_difference(case.observe(model)[0], seen) is None:
            return f"Policy.{name}: {CHOICES[name].meaning}"
    return ""


def _register_bits(expected: Steps, seen: Steps, iva: int) -> str:
    """Why registers may read as they do, if nothing else differs; empty if they may not."""
    why = ""
    if len(expected) != len(seen):
        return ""
    for right, other in zip(expected, seen, strict=True):
        if right == other:
            continue
        registers = [_REGISTER.fullmatch(line) for line in (*right, *other)]
        if len(registers) != 2 or registers[0] is None or registers[1] is None:
            return ""
        offset = int(registers[0][1], 16)
        bits, because = (-1, _IVA_READ) if iva <= offset < iva + 8 else _OPEN.get(offset, (0, ""))
        if (int(registers[0][2], 16) ^ int(registers[1][2], 16)) & ~bits:
            return ""
        why = because
    return why


class _Search:
    """A search for the cached items that a unit must have dropped to do what was seen."""

    def __init__(self, case: Case, seen: Steps, terms: Terms) -> None:
        self.case, self.seen = case, seen
        self.model = terms.model()
        self.requests = [number for number, action in enumerate(case.actions) if isinstance(action, Dma)]
        self.runs = 0

    def evictions(self) -> bool:
        """Whether there are such."""
        return bool(self.requests) and self._from({}, -1)

    def _from(self, evicted: dict[int, Sequence[str]], before: int) -> bool:
        """Whether there are, beyond those given, which get as far as step `before`."""
        differs = self._differs(evicted)
        if differs is None:
            return True
        if differs <= before or self.runs >= _MOST_RUNS:
            return False
        # An eviction before the request in question is likeliest; one before an earlier request may be behind it.
        for request in reversed([n for n, step in enumerate(self.requests) if step <= differs]):
            if request in evicted:
                continue
            for option in _OPTIONS:
                if self._from({**evicted, request: option}, differs):
                    return True
        return False

    def _differs(self, evicted: Evicted) -> int | None:
        self.runs += 1
        self.model.evicted = evicted
        return first_difference(self.case.observe(self.model)[0], self.seen)
