"""system.py on the DMARs of real machines: they make systems that route as a second reading of the facts says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iommu import FlatMemory, MisuseError, RoutingError, SourceId, System
from iommu.dmar import Dmar
from tests.dmar.hand import TABLES, facts_of, needs_corpus

pytestmark = needs_corpus

FREE = 29, 6
"""A function that no table names."""


def expected(units: list[dict[str, Any]], bus: int, slot: tuple[int, int]) -> int | str | None:
    """A unit's base, None, or "?" where a PCI tree is needed: read out of iasl's facts, not by our reader or rule.

    All tables of the corpus are of segment 0, where every machine's first host bridge has bus 0.
    """
    pci = [(unit, each) for unit in units for each in unit["scopes"] if each["type"] in (1, 2)]
    for unit in units:
        for each in unit["scopes"]:
            if each["type"] in (1, 2, 5) and (each["bus"], each["path"]) == (bus, [list(slot)]):
                return int(unit["base"])
    bases = [unit["base"] for unit in units if unit["flags"] & 1]
    rest = bases[0] if bases else None
    hosts = sorted({0, *(each["bus"] for _, each in pci)})
    if bus not in hosts:
        host = [each for each in hosts if each < bus][-1]
        for unit, each in pci:
            leads_below = each["type"] == 2 or len(each["path"]) > 1
            if each["bus"] == host and leads_below and unit["base"] != rest:
                return "?"
    return rest


def of_machine(path: Path) -> tuple[System, list[dict[str, Any]]] | None:
    """The system, and the facts of its units; None for the machines whose firmware gives a unit no registers."""
    units = [each for each in facts_of(path)["structures"] if each["kind"] == "DRHD"]
    table = Dmar.parse(path.read_bytes())
    if all(unit["base"] for unit in units):
        return System.from_dmar(table, FlatMemory(4096)), units
    with pytest.raises(MisuseError, match="register base 0"):
        System.from_dmar(table, FlatMemory(4096))
    return None


def routed(system: System, bus: int, slot: tuple[int, int]) -> int | str | None:
    try:
        unit = system.unit_for(0, SourceId(bus, *slot))
    except RoutingError as error:
        assert "needs a PCI tree" in str(error)
        return "?"
    return None if unit is None else next(base for base, each in system.units.items() if each is unit)


@pytest.mark.parametrize("path", TABLES, ids=[path.stem for path in TABLES])
def test_every_bus_and_every_named_device_is_routed_as_the_facts_say(path: Path) -> None:
    if (found := of_machine(path)) is None:
        return
    system, units = found
    named = {(each["bus"], tuple(each["path"][0])) for unit in units for each in unit["scopes"]}
    for bus, slot in sorted(named | {(bus, FREE) for bus in range(256)}):
        assert routed(system, bus, slot) == expected(units, bus, slot), (bus, slot)


@pytest.mark.parametrize("path", TABLES, ids=[path.stem for path in TABLES])
def test_every_interrupt_source_is_found(path: Path) -> None:
    if (found := of_machine(path)) is None:
        return
    system, units = found
    firsts: dict[tuple[int, int], tuple[int, dict[str, Any]]] = {}
    for unit in units:
        for each in unit["scopes"]:
            firsts.setdefault((each["type"], each["enumeration_id"]), (unit["base"], each))
    for (kind, number), (base, each) in firsts.items():
        if kind in (3, 4):
            source = system.io_apic(number) if kind == 3 else system.hpet(number)
            assert source == (system.units[base], 0, SourceId(each["bus"], *each["path"][0]))


def test_most_machines_need_no_tree() -> None:
    """Of 168: how many are refused, route every device without a PCI tree, and route only some."""
    refused = whole = partly = 0
    for path in TABLES:
        if (found := of_machine(path)) is None:
            refused += 1
        elif any(routed(found[0], bus, FREE) == "?" for bus in range(256)):
            partly += 1
        else:
            whole += 1
    assert (refused, whole, partly) == (1, 155, 12)
