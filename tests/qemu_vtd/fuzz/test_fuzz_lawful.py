"""What the architecture leaves open is right; what it does not leave open is a difference."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import pytest

from iommu import Capabilities, RemappingUnit
from iommu.registers import CCMD, IEDATA
from iommu.structures import ContextEntry, RootEntry
from qemu.vtd.conformance.bench import P0, P1, R, W
from qemu.vtd.conformance.scenario import EVICTED
from qemu.vtd.fuzz.actions import Action, Dma, Faults, Peek, Poke, Store
from qemu.vtd.fuzz.case import FREE, ROOT, Case, Steps
from qemu.vtd.fuzz.lawful import OPEN_BITS, PREFETCHED, Terms, first_difference, freedom
from qemu.vtd.fuzz.model import Model
from qemu.vtd.quirks import POLICY

TERMS = Terms(Capabilities(), (7, 2, 22), RemappingUnit)
CONTEXTS, TOP = FREE, FREE + 0x1000
LEAF = FREE + 0x4028


def world() -> tuple[Action, ...]:
    """B in domain 1, 0x5000 mapped to P0."""
    entry = ContextEntry.make(P=1, AW=2, DID=1, SSPTPTR=TOP)
    tables = [Store(TOP + 0x1000 * n, TOP + 0x1000 * (n + 1) | R | W, 8) for n in range(3)]
    return (
        Store(ROOT, RootEntry.make(P=1, CTP=CONTEXTS), 16),
        Store(CONTEXTS + 16 * 0x28, entry, 16),
        *tables,
        Store(LEAF, P0 | R | W, 8),
    )


HIT_TWICE = Case(
    "WIDE",
    "legacy",
    (*world(), Dma("B", "write", 0x5000), Store(LEAF, P1 | R | W, 8), Dma("B", "write", 0x5000), Faults()),
)


def run(case: Case, evicted: Mapping[int, Collection[str]] | None = None) -> Steps:
    return case.observe(Model(TERMS.capabilities, POLICY, RemappingUnit, evicted=evicted))[0]


def test_a_stale_hit_is_expected_and_a_fresh_one_is_as_right() -> None:
    expected = run(HIT_TWICE)
    assert expected[8] == ("B write 0x5000 -> 0x800000",)
    fresh = run(HIT_TWICE, {1: ("translations",)})
    assert fresh[8] == ("B write 0x5000 -> 0x801000",)
    assert freedom(HIT_TWICE, expected, fresh, TERMS) == EVICTED


def test_what_is_in_no_table_is_wrong() -> None:
    expected = run(HIT_TWICE)
    wrong = (*expected[:8], ("B write 0x5000 -> 0x802000",), *expected[9:])
    assert freedom(HIT_TWICE, expected, wrong, TERMS) == ""


def test_an_eviction_long_before_is_found() -> None:
    """The context entry was evicted before the second request, and the translation before the third."""
    gone = Store(CONTEXTS + 16 * 0x28, 0, 16)
    case = replace(
        HIT_TWICE,
        actions=(*world(), Dma("B", "write", 0x5000), gone, Dma("B", "write", 0x6000), Faults(), *world()[1:2]),
    )
    case = replace(case, actions=(*case.actions, Store(LEAF, P1 | R | W, 8), Dma("B", "write", 0x5000)))
    seen = run(case, {1: ("contexts",), 2: ("translations",)})
    expected = run(case)
    assert first_difference(expected, seen) is not None
    assert freedom(case, expected, seen, TERMS) == EVICTED


def test_another_policy_is_as_right() -> None:
    """QEMU drops a fault while one of its source-id is pending; a unit need not."""
    case = Case("WIDE", "legacy", (Dma("B", "write", 0x5000), Dma("B", "write", 0x6000)))
    expected = run(case)
    policy = replace(POLICY, compress_faults=not POLICY.compress_faults)
    seen = case.observe(Model(TERMS.capabilities, policy, RemappingUnit))[0]
    assert first_difference(expected, seen) is not None
    assert freedom(case, expected, seen, TERMS).startswith("Policy.compress_faults: ")


@pytest.mark.parametrize(
    ("offset", "value", "right"),
    [(IEDATA.offset, 0xFFFF_1234, True), (IEDATA.offset, 0x1235, False), (0xF0, 7, True)],
)
def test_open_bits_of_registers(offset: int, value: int, right: bool) -> None:
    size = 4 if offset < 0xF0 else 8
    case = Case("WIDE", "off", (Poke(offset, 0x1234, size), Peek(offset, size), Peek(CCMD.offset, 8)))
    expected = run(case)
    seen = (expected[0], (f"register {offset:#x} {value:#x}",), *expected[2:])
    assert freedom(case, expected, seen, TERMS) == (OPEN_BITS if right else "")


def test_entries_may_be_read_before_they_are_needed() -> None:
    """The context entry was read after the invalidation, and before the root entry was cleared."""
    invalidate = Poke(CCMD.offset, CCMD.make(ICC=1, CIRG=1), 8)
    case = Case("WIDE", "legacy", (*world(), invalidate, Store(ROOT, 0, 16), Dma("B", "write", 0x5000)))
    model = Model(TERMS.capabilities, POLICY, RemappingUnit)
    model.prefetches = True
    seen = case.observe(model)[0]
    assert seen[8] == ("B write 0x5000 -> 0x800000",)
    assert run(case)[8] == ("B write 0x5000 -> blocked",)
    assert freedom(case, run(case), seen, TERMS) == PREFETCHED
