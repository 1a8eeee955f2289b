"""Random choices that lean to the edges, and to what reached something new before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TypeVar

from iommu.fields import Layout

T = TypeVar("T")

_USUAL = 16
"""The weight of a choice that none is known for."""


class Dice:
    """The random choices of one case.

    Args:
        random: where they come from.
        weights: of choices by their names; those that are not there have 16.

    Attributes:
        taken: the names of the choices that were made.
    """

    def __init__(self, random: Random, weights: Mapping[str, int]) -> None:
        self.random, self._weights = random, weights
        self.taken: set[str] = set()

    def pick(self, of: str, options: Mapping[str, int]) -> str:
        """One of these names, by their own weights and what was learnt; it is noted as "of: name"."""
        names = list(options)
        weights = [options[name] * self._weights.get(f"{of}: {name}", _USUAL) for name in names]
        name = self.random.choices(names, weights)[0]
        self.taken.add(f"{of}: {name}")
        return name

    def one_of(self, options: Sequence[T]) -> T:
        """One of these, each as likely as the others."""
        return options[self.random.randrange(len(options))]

    def chance(self, percent: int) -> bool:
        """True in so many of a hundred cases."""
        return self.random.randrange(100) < percent

    def number(self, below: int) -> int:
        """A number from 0 on."""
        return self.random.randrange(below)

    def edge(self, bits: int) -> int:
        """A number of so many bits: mostly one at an edge of its range, or with one bit."""
        most = (1 << bits) - 1
        match self.number(6):
            case 0:
                return 0
            case 1:
                return most
            case 2:
                return 1 << self.number(bits)
            case 3:
                return most ^ 1 << self.number(bits)
            case 4:
                return min(self.number(4), most)
            case _:
                return self.random.getrandbits(bits)

    def flip(self, value: int, bits: int) -> int:
        """One bit the other way. The lowest and the highest of each 64 are likelier than those between."""
        word = 64 * self.number((bits + 63) // 64)
        match self.number(4):
            case 0:
                bit = self.number(12)
            case 1:
                bit = 38 + self.number(26)
            case _:
                bit = self.number(64)
        return value ^ 1 << min(word + bit, bits - 1)

    def field(self, value: int, layout: type[Layout]) -> tuple[int, str]:
        """One field of a layout with another value, and its name."""
        part = self.one_of([each for each in layout.fields.values() if not each.ignored])
        return value & ~part.mask | self.edge(part.width) << part.lsb, part.name
