"""A scenario: what software and devices do, and the literal lines that must then be observed."""

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
        name: shown to users.
        capabilities: of the unit, as far as the outcomes depend on them.
        properties: of QEMU's intel-iommu, to get such a unit.
        needs: fields of Capabilities that no property sets; a unit that differs in them cannot run the scenario.
    """

    name: str
    capabilities: Capabilities
    properties: tuple[tuple[str, str], ...]
    needs: tuple[str, ...] = ()


WIDE = Setup("48-bit", Capabilities(), (("aw-bits", "48"),))
NARROW = Setup("39-bit", Capabilities(address_width=39, host_address_width=39), (("aw-bits", "39"),))
SNOOPING = Setup(
    "48-bit, snoop control", Capabilities(snoop_control=True), (*WIDE.properties, ("snoop-control", "on"))
)
# Not every QEMU can turn pass-through off.
NO_PASS_THROUGH = Setup(
    "48-bit, no pass-through", Capabilities(pass_through=False), WIDE.properties, ("pass_through",)
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
    """

    id: str
    section: str
    title: str
    stimulus: Callable[[Bench], None]
    expect: tuple[str, ...]
    allowed: tuple[Allowed, ...] = ()
    setup: Setup = WIDE

    def run(self, platform: Platform) -> tuple[str, ...]:
        """The outcome on this platform: the log, ending with the pending faults and FSTS. Raises Unreachable."""
        bench = Bench(platform)
        self.stimulus(bench)
        bench.note_faults()
        return bench.log()


_CATALOGUE: dict[str, Scenario] = {}

_CHAPTERS = ("registers", "context", "second_stage", "faults", "caches", "messages", "queue", "interrupts")


def scenario(
    id: str, section: str, *expect: str, allowed: tuple[Allowed, ...] = (), setup: Setup = WIDE
) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Add the decorated stimulus, whose docstring is the title, to the catalogue."""

    def add(stimulus: Callable[[Bench], None]) -> Callable[[Bench], None]:
        if id in _CATALOGUE:
            raise MisuseError(f"duplicate scenario id {id}")
        title = (stimulus.__doc__ or "").strip().splitlines()[0]
        _CATALOGUE[id] = Scenario(id, section, title, stimulus, expect, allowed, setup)
        return stimulus

    return add


def catalogue(pattern: str = "*") -> list[Scenario]:
    """The scenarios whose id matches a shell pattern or contains it as text, chapter by chapter."""
    for chapter in _CHAPTERS:
        import_module(f"qemu.vtd.conformance.{chapter}")
    return list(_matching(pattern))


def _matching(pattern: str) -> Iterator[Scenario]:
    for each in _CATALOGUE.values():
        if fnmatchcase(each.id, pattern) or pattern in each.id:
            yield each
