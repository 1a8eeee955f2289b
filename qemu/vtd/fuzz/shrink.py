"""The smallest case that still shows a difference: fewer actions first, then fewer bits in their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from qemu.vtd.fuzz.actions import Action, changed
from qemu.vtd.fuzz.case import Case

_MOST = 600
"""So many candidates are tried at most."""

Shows = Callable[[Case], bool]
"""Whether a case shows the difference that is looked for."""


def shrink(case: Case, shows: Shows, most: int = _MOST) -> Case:
    """A smaller case that shows the difference too; the same one if there is none.

    The result depends on the case and on `shows` alone.
    """
    return _Shrinking(shows, most).run(case)


class _Shrinking:
    def __init__(self, shows: Shows, most: int) -> None:
        self._shows, self._left = shows, most
        self._tried: dict[tuple[Action, ...], bool] = {}

    def run(self, case: Case) -> Case:
        """Remove actions and clear bits until neither helps."""
        while True:
            smaller = self._fewer_bits(self._fewer_actions(case))
            if smaller == case or self._left <= 0:
                return smaller
            case = smaller

    def _works(self, case: Case) -> bool:
        """Whether a candidate shows the difference. One that was tried is not tried again."""
        known = self._tried.get(case.actions)
        if known is None:
            if self._left <= 0:
                return False
            self._left -= 1
            known = self._tried[case.actions] = self._shows(case)
        return known

    def _fewer_actions(self, case: Case) -> Case:
        """Delta debugging: ever smaller pieces are left out."""
        size = max(len(case.actions) // 2, 1)
        while True:
            removed = False
            at = 0
            while at < len(case.actions):
                candidate = replace(case, actions=case.actions[:at] + case.actions[at + size :])
                if candidate.actions and self._works(candidate):
                    case, removed = candidate, True
                else:
                    at += size
            if size == 1 and not removed:
                return case
            size = max(size // 2, 1)

    def _fewer_bits(self, case: Case) -> Case:
        """Clear bits of values: all, then pieces, then one at a time."""
        for number, action in enumerate(case.actions):
            for name in action.shrinks:
                case = self._smaller_value(case, number, name)
        return case

    def _smaller_value(self, case: Case, number: int, name: str) -> Case:
        value: int = getattr(case.actions[number], name)
        bits = [bit for bit in range(value.bit_length()) if value >> bit & 1]
        size = len(bits)
        while size:
            for piece in _pieces(bits, size):
                smaller = value & ~sum(1 << bit for bit in piece)
                action = changed(case.actions[number], name, smaller)
                if action.check():
                    continue
                candidate = replace(case, actions=(*case.actions[:number], action, *case.actions[number + 1 :]))
                if self._works(candidate):
                    case, value = candidate, smaller
            bits = [bit for bit in bits if value >> bit & 1]
            size = min(size // 2, len(bits)) if size > 1 else 0
        return case


def _pieces(bits: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for at in range(0, len(bits), size):
        yield bits[at : at + size]
