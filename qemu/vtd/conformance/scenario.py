"""A scenario: what software and devices do, and what must then be seen, literally."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module

from iommu import Capabilities, MisuseError, Policy
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.platform import Platform


@dataclass(frozen=True)
class Setup:
    """The unit a scenario is written for.

    Attributes:
        name: for people.
        capabilities: the unit's, as far as the outcomes depend on them.
        properties: of QEMU's intel-iommu that make it so.
        needs: what of the capabilities no property can bring about: a unit that differs cannot show the scenario.
    """

    name: str
    capabilities: Capabilities
    properties: tuple[tuple[str, str], ...]
    needs: tuple[str, ...] = ()


WIDE = Setup("48-bit", Capabilities(), (("aw-bits", "48"),))
NARROW = Setup("39-bit", Capabilities(address_width=39, host_address_width=39), (("aw-bits", "39"),))
SNOOPING = Setup(
    "48-bit, snoop control, no pass-through",
    Capabilities(snoop_control=True, pass_through=False),
    (*WIDE.properties, ("pt", "off"), ("snoop-control", "on")),
)
FEW_DOMAINS = Setup("48-bit, 256 domains", Capabilities(domain_id_bits=8), WIDE.properties, ("domain_id_bits",))
NO_1G_PAGES = Setup("48-bit, no 1 GiB pages", Capabilities(page_1g=False), WIDE.properties, ("page_1g",))
SELF_INVALIDATING = Setup(
    "48-bit, ESRTPS",
    Capabilities(invalidate_on_root_pointer=True),
    WIDE.properties,
    ("invalidate_on_root_pointer",),
)


@dataclass(frozen=True)
class Allowed:
    """Another right outcome, where the architecture leaves hardware a choice.

    `policy` is the choice by name, where the model can make it too.
    """

    because: str
    lines: tuple[str, ...]
    policy: Policy | None = None


@dataclass(frozen=True)
class Scenario:
    """One entry of the catalogue.

    Attributes:
        id: "mode.structure.what", unique.
        section: of the specification, where the expected outcome comes from.
        title: one line for people.
        stimulus: what happens, on a fresh bench.
        expect: the lines `Bench.log` must hold afterwards.
        allowed: other right outcomes.
        setup: the unit it is written for.
    """

    id: str
    section: str
    title: str
    stimulus: Callable[[Bench], None]
    expect: tuple[str, ...]
    allowed: tuple[Allowed, ...] = ()
    setup: Setup = WIDE

    def run(self, platform: Platform) -> tuple[str, ...]:
        """What is seen on this platform, the pending faults and FSTS last. Raises Unreachable."""
        bench = Bench(platform)
        self.stimulus(bench)
        bench.note_faults()
        return bench.log()


_CATALOGUE: dict[str, Scenario] = {}

_CHAPTERS = ("registers", "context", "second_stage", "faults", "caches")


def scenario(
    id: str, section: str, *expect: str, allowed: tuple[Allowed, ...] = (), setup: Setup = WIDE
) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Add the decorated stimulus, whose docstring is the title, to the catalogue."""

    def add(stimulus: Callable[[Bench], None]) -> Callable[[Bench], None]:
        if id in _CATALOGUE:
            raise MisuseError(f"two scenarios are called {id}")
        title = (stimulus.__doc__ or "").strip().splitlines()[0]
        _CATALOGUE[id] = Scenario(id, section, title, stimulus, expect, allowed, setup)
        return stimulus

    return add


def catalogue(pattern: str = "*") -> list[Scenario]:
    """The scenarios whose id matches a shell pattern, or contains it, chapter by chapter."""
    for chapter in _CHAPTERS:
        import_module(f"qemu.vtd.conformance.{chapter}")
    return list(_matching(pattern))


def _matching(pattern: str) -> Iterator[Scenario]:
    for each in _CATALOGUE.values():
        if fnmatchcase(each.id, pattern) or pattern in each.id:
            yield each
