"""Whether what a QEMU did is one of the outcomes that the architecture allows.

What the engine with the version's quirks does is expected. It keeps what it has cached until it is told to drop it;
hardware may drop anything at any time, or more than it was told to. It takes the choices of `quirks.POLICY`; other
ones are as right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from iommu import Capabilities, Policy, RemappingUnit
from iommu.engine.policy import CHOICES
from iommu.registers import CCMD, IOTLB
from qemu.vtd.conformance.chapters import register_bits
from qemu.vtd.conformance.scenario import EVICTED
from qemu.vtd.fuzz.actions import Dma
from qemu.vtd.fuzz.case import Case, Steps
from qemu.vtd.fuzz.model import Evicted, Model
from qemu.vtd.quirks import POLICY, Version, profile
from qemu.vtd.topology import PLAIN

PREFETCHED = "a unit may read context and PASID-table entries before a request needs them (6.2)"
OPEN_BITS = "a unit may lack these bits, or perform more than asked; what IVA reads as is not defined (11.4.6)"
_OPEN: dict[int, int] = {
    row.offset: row.kept ^ row.freedom[0] for row in register_bits.REGISTERS.values() if row.freedom is not None
}
"""By the offset of a register, the bits that hardware may have or not."""
_REGISTER = re.compile(r"register (0x[0-9a-f]+) (0x[0-9a-f]+)")

_OPTIONS = (("translations",), ("contexts",), ("contexts", "translations"))
_MOST_RUNS = 64
_KEEPING = replace(POLICY, cache_pasids=True, cache_upper_levels=True)
"""What a unit may keep beyond what every QEMU keeps."""
_CHOICES = [name for name in CHOICES if isinstance(getattr(POLICY, name), bool)]


@dataclass(frozen=True)
class Terms:
    """What a QEMU is held to: its unit's capabilities, its version's quirks.

    `unit` is the engine with the quirks; by default with those of the version.
    """

    capabilities: Capabilities
    version: Version
    unit: type[RemappingUnit] | None = None

    def model(self, policy: Policy = POLICY) -> Model:
        """The model of such a unit."""
        return Model(self.capabilities, policy, self.unit or profile(self.version), PLAIN)

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
    if first_difference(with_open_bits(expected, seen, terms.capabilities.iotlb_offset), seen) is None:
        return OPEN_BITS
    if any(_Search(case, seen, terms.model(policy)).evictions() for policy in (POLICY, _KEEPING)):
        return EVICTED
    eager = terms.model(_KEEPING)
    eager.prefetches = True
    if _Search(case, seen, eager).evictions():
        return PREFETCHED
    for name in _CHOICES:
        changes: dict[str, Any] = {name: not getattr(POLICY, name)}
        policy = replace(POLICY, **changes)
        if first_difference(case.observe(terms.model(policy))[0], seen) is None:
            return f"Policy.{name}: {CHOICES[name].meaning}"
    return ""


def with_open_bits(expected: Steps, seen: Steps, iva: int) -> Steps:
    """What is expected, with those bits of registers as seen that hardware may have or not. `iva` is IVA's offset."""
    return tuple(
        right if right == other else _as_open(right, other, iva)
        for right, other in zip_longest(expected, seen, fillvalue=())
    )[: len(expected)]


def _as_open(expected: tuple[str, ...], seen: tuple[str, ...], iva: int) -> tuple[str, ...]:
    if len(expected) != 1 or len(seen) != 1:
        return expected
    right, other = _REGISTER.fullmatch(expected[0]), _REGISTER.fullmatch(seen[0])
    if right is None or other is None or right[1] != other[1]:
        return expected
    offset, wanted, had = (int(text, 16) for text in (right[1], right[2], other[2]))
    performed = CCMD.CAIG if offset == CCMD.offset else IOTLB.IAIG if offset == iva + 8 else None
    if performed is not None:
        bits = performed.mask if 1 <= performed.get(had) <= performed.get(wanted) else 0
    else:
        bits = -1 if iva <= offset < iva + 8 else _OPEN.get(offset, 0)
    return expected if (wanted ^ had) & ~bits else seen


class _Search:
    """A search for the cached items that a unit must have dropped to do what was seen."""

    def __init__(self, case: Case, seen: Steps, model: Model) -> None:
        self.case, self.seen, self.model = case, seen, model
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
