"""A scenario: what software and devices do, and the literal lines that must then be observed."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path

from iommu import MisuseError, Policy, VtdError
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.setups import WIDE, Setup
from qemu.vtd.errors import QemuDied, QemuTimeout
from qemu.vtd.platform import Platform, Unreachable


@dataclass(frozen=True)
class Allowed:
    """Another right outcome, where the specification leaves hardware a choice.

    `policy` selects that choice on the model, where the model supports it.
    """

    because: str
    lines: tuple[str, ...]
    policy: Policy | None = None


EVICTED = "a unit may evict a cached entry at any time (6.2.1)"
COARSER = "a unit may invalidate more than requested (6.5)"
"""Why a fresh entry is right where a stale one is expected."""

FRACTURED = "a unit may cache a large page in pieces, and need only drop those that are named (6.5.3.2)"
"""Why a stale entry is right where a fresh one is expected."""


@dataclass(frozen=True)
class Observation:
    """A scenario's outcome on one platform.

    Attributes:
        lines: the log; of a scenario that was cut short, its last line says by what.
        cause: what cut it short; None when nothing did.
        begun: whether the scenario had begun; it has not when the reset before it fails.
    """

    lines: tuple[str, ...]
    cause: Exception | None = None
    begun: bool = True


def describe(error: Exception) -> str:
    """An error in one line: its message, and of an unforeseen one its type and place."""
    if isinstance(error, VtdError):
        return " ".join(str(error).split())
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


def _in_short(error: Exception) -> str:
    """The same, without what depends on the build of a QEMU or on a line number of ours: it is compared."""
    if isinstance(error, QemuDied | QemuTimeout):
        return error.how
    return describe(error) if isinstance(error, VtdError) else f"{type(error).__name__}: {error}"


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
        return self.observe(platform).lines

    def observe(self, platform: Platform) -> Observation:
        """The same, with what cut the scenario short, if anything did: it is an outcome like any other."""
        bench: Bench | None = None
        try:
            bench = Bench(platform)
            self.stimulus(bench)
            bench.note_faults()
            return Observation(bench.log())
        except Unreachable:
            raise
        except Exception as cause:  # a unit that misbehaves can cause any: its registers may hold any value
            so_far = () if bench is None else bench.log_so_far()
            return Observation((*so_far, f"cut short: {_in_short(cause)}"), cause, begun=bench is not None)


_CATALOGUE: dict[str, Scenario] = {}

_CHAPTERS = (
    "registers",
    "register_bits",
    "register_commands",
    "register_accesses",
    "context",
    "source_ids",
    "second_stage",
    "reserved",
    "faults",
    "near_misses",
    "fault_order",
    "fault_status",
    "fault_event",
    "caches",
    "cache_contexts",
    "cache_ranges",
    "cache_changes",
    "cache_tables",
    "cache_capacity",
    "messages",
    "queue",
    "queue_fields",
    "queue_pointers",
    "queue_recovery",
    "queue_completion",
    "device_tlb",
    "legacy_on_scalable",
    "interrupts",
    "interrupts_entries",
    "interrupts_sources",
    "interrupts_table",
    "interrupts_caches",
    "interrupts_extended",
    "reset",
    "migration",
    "offers",
    "further_offers",
    "no_translation",
    "scalable_unit",
    "scalable_commands",
    "scalable_tables",
    "scalable_reserved",
    "scalable_second_stage",
    "scalable_first_stage",
    "scalable_faults",
    "scalable_caches",
    "scalable_cache_entries",
    "scalable_queue",
    "scalable_marks",
    "scalable_offers",
    "scalable_caching",
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


def of_chapter(scenarios: list[Scenario], chapter: str | None) -> list[Scenario]:
    """Those of a chapter; all for None. Raises MisuseError when there is no such chapter."""
    if chapter is None:
        return scenarios
    name = chapter.replace(" ", "_").replace("-", "_")
    if name not in _CHAPTERS:
        raise MisuseError(f"no chapter {chapter!r}; the chapters are {', '.join(_CHAPTERS)}")
    return [each for each in scenarios if each.chapter == name]


def _matching(pattern: str) -> Iterator[Scenario]:
    for each in _CATALOGUE.values():
        if fnmatchcase(each.id, pattern) or pattern in each.id:
            yield each
