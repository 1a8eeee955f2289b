"""Makes cases. `make` gives case number n of a seed and a mode, which is always the same one.

dice         random choices that lean to the edges, and to what reached something new
worlds       devices, domains and tables, and sequences of changes, invalidations and accesses (legacy, second, first)
interrupts   interrupt-remapping entries and messages
queue        the invalidation queue
registers    register accesses
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from qemu.vtd.fuzz.case import Case
from qemu.vtd.fuzz.generate import interrupts, queue, registers, worlds
from qemu.vtd.fuzz.generate.dice import Dice

MODES: dict[str, tuple[tuple[str, ...], Callable[[Dice, str], Case]]] = {
    "legacy": (("WIDE", "NARROW", "CACHING", "SNOOPING", "DEVICE_TLB"), worlds.legacy),
    "second": (("SECOND_STAGE", "SECOND_STAGE_39", "SECOND_STAGE_CACHING"), worlds.second),
    "first": (("FIRST_STAGE", "FIRST_STAGE_NO_1G", "FIRST_STAGE_CACHING"), worlds.first),
    "interrupts": (("WIDE", "EXTENDED"), interrupts.make),
    "queue": (("WIDE", "SECOND_STAGE", "DEVICE_TLB", "FIRST_STAGE"), queue.make),
    "registers": (("WIDE", "SECOND_STAGE", "EXTENDED", "NO_REMAPPING", "FIRST_STAGE"), registers.make),
}
"""Each mode with the units that its batches take in turn, and what makes its cases."""


def make(seed: int, mode: str, number: int, setup: str, weights: Mapping[str, int]) -> tuple[Case, frozenset[str]]:
    """A case, and the choices that made it.

    Args:
        seed, mode, number: which case it is.
        setup: the unit, one of those of the mode.
        weights: how much more than others each choice is taken; see `Dice`.
    """
    dice = Dice(Random(f"{seed} {mode} {number}"), weights)
    case = MODES[mode][1](dice, setup)
    return case, frozenset(dice.taken)
