"""One way in: what reads an input, which inputs to begin with, and how to change them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from iommu.errors import VtdError

_LONGEST = 500

Mutation = Callable[[bytes, Random], bytes]


@dataclass(frozen=True)
class Way:
    """A way in.

    Attributes:
        name: a word or two, which is also its folder in fixtures/fuzz.
        seeds: the inputs that are changed.
        change: makes another input of one.
        read: reads an input, which is in a file too. It raises VtdError, or OSError, for what it refuses.
        modules: those whose reading it exercises, see test_fuzz_registry.py.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    change: Mutation
    read: Callable[[bytes, Path], object]
    modules: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def input(self, seed: int, number: int, seeds: Sequence[bytes]) -> bytes:
        """Input `number` of a run with this seed: always the same bytes."""
        numbers = Random(f"{seed} {self.name} {number}")
        return self.change(numbers.choice(seeds), numbers)

    def refusal(self, data: bytes, place: Path) -> str:
        """Read an input; the message if it was refused, empty if not. What else is raised is a finding."""
        place.write_bytes(data)
        try:
            self.read(data, place)
        except (VtdError, OSError) as error:
            message = str(error)
            if not message or "\n" in message or len(message) > _LONGEST:
                raise AssertionError(f"not a message of one line: {message!r}") from error
            return message
        return ""
