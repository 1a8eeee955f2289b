"""Legacy mode: batch and scalar engine on random and mostly valid tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import Capabilities, FlatMemory, Memory, Policy, RemappingUnit
from tests.batch.comparing import Asked, MakeUnit, compare, started
from tests.engine.test_walk_against_naive import (
    CONTEXTS,
    END,
    ROOT,
    RandomTables,
    addresses,
    capabilities,
    page_sizes,
)

LEGACY, SCALABLE, RESERVED, ABORT = (mode << 10 for mode in range(4))
near_interrupts = st.sampled_from((0xFEDF_FFF0, 0xFEE0_0000, 0xFEEF_F000, 0xFEF0_0000))
asked = st.builds(
    Asked,
    source_id=st.integers(0, 0xFFFF),
    address=st.one_of(addresses, addresses, addresses, near_interrupts),
    write=st.booleans(),
    pasid=st.none(),
    root=st.none(),
)
policies = st.builds(
    Policy,
    permission_per_level=st.booleans(),
    levels_before_type=st.booleans(),
    pass_through_needs_most_levels=st.booleans(),
)
worlds = {
    "seed": st.integers(0, 1 << 32),
    "trouble": st.sampled_from((0.0, 0.02, 0.05, 0.2)),
    "offered": capabilities,
    "sizes": page_sizes,
    "policy": policies,
    "wanted": st.lists(asked, min_size=1, max_size=40),
}


def units(offered: dict[str, Any], sizes: tuple[bool, bool], policy: Policy, root: int = ROOT) -> MakeUnit:
    """Makes units with these capabilities."""
    what = Capabilities(**offered, page_2m=sizes[0], page_1g=sizes[1])
    return lambda memory: started(RemappingUnit(memory, what, policy), root)


def flat(tables: RandomTables) -> FlatMemory:
    """The entries that have been made up so far, and zeroes."""
    memory = FlatMemory(END)
    for address, entry in tables.entries.items():
        memory.write_u64(address, entry)
    return memory


def check(
    seed: int,
    trouble: float,
    offered: dict[str, Any],
    sizes: tuple[bool, bool],
    policy: Policy,
    wanted: list[Asked],
) -> None:
    """On a memory that is read by pages, then on a flat one."""
    tables = RandomTables(seed, trouble, offered["levels"])
    make = units(offered, sizes, policy)
    compare(make, tables, wanted)
    compare(make, flat(tables), wanted)


@settings(max_examples=80)
@given(**worlds)
def test_batch_agrees_with_the_scalar_engine(**world: Any) -> None:
    check(**world)


@pytest.mark.slow
@settings(max_examples=3_000)
@given(**worlds)
def test_batch_agrees_with_the_scalar_engine_at_length(**world: Any) -> None:
    check(**world)


@settings(max_examples=40)
@given(
    **worlds,
    modes=st.lists(st.sampled_from((LEGACY, LEGACY, LEGACY, SCALABLE, RESERVED, ABORT)), min_size=40, max_size=40),
    abort=st.booleans(),
)
def test_each_request_with_its_own_root_table(modes: list[int], abort: bool, **world: Any) -> None:
    offered = {**world["offered"], "abort_dma": abort}
    tables = RandomTables(world["seed"], world["trouble"], offered["levels"])
    pages = range(ROOT, CONTEXTS, 0x1000)
    asked = [
        each._replace(root=pages[each.address % 5] | mode) for each, mode in zip(world["wanted"], modes, strict=False)
    ]
    make = units(offered, world["sizes"], world["policy"])
    compare(make, tables, asked)
    memory: Memory = flat(tables)
    compare(make, memory, asked)
