"""A scenario: what software and devices do, and the literal lines that must then be observed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module

from iommu import MisuseError, Policy
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.setups import WIDE, Setup
from qemu.vtd.platform import Platform


@dataclass(frozen=True)
class Allowed:
    """Another right outcome, where the specification leaves hardware a choice.

    `policy` selects that choice on the model, where the model supports it.
    """

    because: str
    lines: tuple[str, ...]
    policy: Policy | None = None


@dataclass(frozen=True)
class Scenario:
    """One entry of the catalogue.

    Attributes:
        id: "mode.structure.what", unique.
        section: the section of the specification that gives the expected outcome.
        title: the scenario in one line.
        stimulus: performs the scenario on a fresh bench.
        expect: the lines `Bench.log` must return afterwards.
        allowed: other right outcomes.
        setup: the unit the scenario is written for.
        chapter: the file of `chapters` it stands in.
    """

    id: str
    section: str
    title: str
    stimulus: Callable[[Bench], None]
    expect: tuple[str, ...]
    allowed: tuple[Allowed, ...] = ()
    setup: Setup = WIDE
    chapter: str = ""

    def run(self, platform: Platform) -> tuple[str, ...]:
        """The outcome on this platform: the log, ending with the pending faults and FSTS. Raises Unreachable."""
        bench = Bench(platform)
        self.stimulus(bench)
        bench.note_faults()
        return bench.log()


_CATALOGUE: dict[str, Scenario] = {}

_CHAPTERS = (
    "registers",
    "context",
    "source_ids",
    "second_stage",
    "faults",
    "caches",
    "orders",
    "messages",
    "queue",
    "interrupts",
    "scalable_tables",
    "scalable_reserved",
    "scalable_second_stage",
    "scalable_first_stage",
    "scalable_faults",
    "scalable_caches",
    "scalable_queue",
)


def scenario(
    id: str, section: str, *expect: str, allowed: tuple[Allowed, ...] = (), setup: Setup = WIDE
) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Add the decorated stimulus, whose docstring is the title, to the catalogue."""

    def add(stimulus: Callable[[Bench], None]) -> Callable[[Bench], None]:
        if id in _CATALOGUE:
            raise MisuseError(f"duplicate scenario id {id}")
        title = (stimulus.__doc__ or "").strip().splitlines()[0]
        _CATALOGUE[id] = Scenario(id, section, title, stimulus, expect, allowed, setup, _chapter(stimulus))
        return stimulus

    return add


def _chapter(stimulus: Callable[[Bench], None]) -> str:
    return stimulus.__module__.rpartition(".")[2]


def catalogue(pattern: str = "*") -> list[Scenario]:
    """The scenarios whose id matches a shell pattern or contains it as text, chapter by chapter."""
    for chapter in _CHAPTERS:
        import_module(f"qemu.vtd.conformance.chapters.{chapter}")
    return list(_matching(pattern))


def _matching(pattern: str) -> Iterator[Scenario]:
    for each in _CATALOGUE.values():
        if fnmatchcase(each.id, pattern) or pattern in each.id:
            yield each
