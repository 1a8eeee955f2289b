"""Differences that are alike: the same kind of thing was expected and seen, and the same structure decided it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from iommu.registers import registers_of
from iommu.structures import DESCRIPTORS, Descriptor
from qemu.vtd.fuzz.actions import Dma, Faults, Load, Msi, Peek, Pin, Poke, Submit
from qemu.vtd.fuzz.case import Found
from qemu.vtd.fuzz.lawful import Terms, first_difference, with_open_bits

_NUMBER = re.compile(r"0x[0-9a-f]{3,}")
_CUT = "cut short"


@dataclass(frozen=True, order=True)
class Likeness:
    """What differences of a group have in common.

    Attributes:
        kind: of the action at which they differ: "dma", "peek" ...; "end" for the faults that are left.
        where: the structure, register or descriptor that decided it.
        expected, seen: the first lines that differ, without addresses and names of devices.
    """

    kind: str
    where: str
    expected: str
    seen: str

    def __str__(self) -> str:
        return f"{self.kind}, {self.where}: {self.expected or 'nothing'}, and QEMU: {self.seen or 'nothing'}"


def likeness(found: Found, terms: Terms) -> Likeness:
    """The group of a difference."""
    expected_steps = with_open_bits(found.expected, found.seen, terms.capabilities.iotlb_offset)
    step = first_difference(expected_steps, found.seen)
    assert step is not None, "a case that was found differs"
    right = _lines(found.expected, step)
    other = _lines(found.seen, step)
    line = next((n for n, (one, two) in enumerate(zip(right, other, strict=False)) if one != two), None)
    if line is None:
        line = min(len(right), len(other))
    expected, seen = (_plain(lines[line]) if line < len(lines) else "" for lines in (right, other))
    kind = found.case.actions[step].name if step < len(found.case.actions) else "end"
    if seen.startswith(_CUT) or expected.startswith(_CUT):
        kind = "end of QEMU" if "QEMU" in seen + expected else "cut short"
    return Likeness(kind, _where(found, terms, step), expected, seen)


def _lines(steps: tuple[tuple[str, ...], ...], step: int) -> tuple[str, ...]:
    return steps[step] if step < len(steps) else ()


def _plain(line: str) -> str:
    """A line without addresses and names of devices."""
    return _NUMBER.sub("#", re.sub(r"(^|fault 0x[0-9a-f]{2} )[ABC] ", r"\1device ", line))


def _where(found: Found, terms: Terms, step: int) -> str:
    """What decided the action, by the model; the last request for what only looks."""
    actions = found.case.actions
    action = actions[step] if step < len(actions) else None
    match action:
        case Peek() | Poke():
            unit = terms.capabilities
            for each in registers_of(unit.cap, unit.ecap, unit.offered):
                if each.offset <= action.offset < each.end:
                    return each.layout.__name__
            return f"offset {action.offset:#x}"
        case Load():
            return "memory"
        case Submit():
            return _descriptor(action.descriptor)
        case Msi() | Pin():
            return "interrupt"
    requests = [number for number, each in enumerate(actions[: step + 1]) if isinstance(each, Dma)]
    others = [each for each in actions[:step] if isinstance(each, Msi | Pin | Submit)]
    if isinstance(action, Dma | Faults) or action is None:
        if requests:
            model = terms.model()
            found.case.observe(model)
            if len(model.decided) >= len(requests):
                return model.decided[len(requests) - 1].partition(" at ")[2]
        if others:
            last = others[-1]
            return _descriptor(last.descriptor) if isinstance(last, Submit) else "interrupt"
    return "no table"


def _descriptor(raw: int) -> str:
    layout = DESCRIPTORS.get(Descriptor.TYPE.get(raw))
    return layout.__name__ if layout is not None else "unknown descriptor"
