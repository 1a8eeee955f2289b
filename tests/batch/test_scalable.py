"""Scalable mode: batch and scalar engine on random and mostly valid tables, by every type of translation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import FlatMemory, Policy, RemappingUnit
from tests.batch.comparing import Asked, MakeUnit, compare, started
from tests.engine.scalable_world import FIRST, NESTED, PASS, SCALABLE, SECOND
from tests.engine.test_against_naive_scalable import (
    END,
    ROOT,
    RandomTables,
    addresses,
    capabilities,
    near_interrupts,
    negative,
    offer,
    pasids,
)

asked = st.builds(
    Asked,
    source_id=st.integers(0, 0xFFFF),
    address=st.one_of(addresses, addresses, addresses, addresses, negative, near_interrupts),
    write=st.booleans(),
    pasid=pasids,
    root=st.none(),
)
worlds = {
    "seed": st.integers(0, 1 << 32),
    "trouble": st.sampled_from((0.0, 0.0, 0.005, 0.02, 0.05)),
    "changes": capabilities,
    "types": st.sampled_from(((FIRST,), (SECOND,), (NESTED,), (NESTED,), (PASS,), (FIRST, SECOND, NESTED, PASS))),
    "per_level": st.sampled_from((False, False, False, True)),
    "read_only": st.sampled_from((False, False, True)),
    "wanted": st.lists(asked, min_size=1, max_size=40),
}


class Pieces(RandomTables):
    """The tables as a memory that is read in pieces of any length."""

    def read(self, address: int, length: int) -> bytes:
        return b"".join(self.read_u64(at).to_bytes(8, "little") for at in range(address, address + length, 8))

    def write(self, address: int, data: bytes) -> None:
        raise AssertionError("the batch engine writes no memory")


def flat(tables: RandomTables, *, read_only: bool) -> FlatMemory:
    """The entries that have been made up so far, and zeroes."""
    content = bytearray(END)
    for address, entry in tables.entries.items():
        content[address : address + 8] = entry.to_bytes(8, "little")
    return FlatMemory(memoryview(content).toreadonly() if read_only else content)


def check(
    seed: int,
    trouble: float,
    changes: dict[str, Any],
    types: tuple[int, ...],
    per_level: bool,
    read_only: bool,
    wanted: list[Asked],
) -> None:
    """On a memory that is read by pages, then on a flat one, which may be one that cannot be written."""
    can = offer(changes)
    tables = Pieces(seed, trouble, can, types)
    policy = Policy(permission_per_level=per_level)
    make: MakeUnit = lambda memory: started(RemappingUnit(memory, can, policy), ROOT | SCALABLE)  # noqa: E731
    compare(make, tables, wanted)
    compare(make, flat(tables, read_only=read_only), wanted, read_only=read_only)


@settings(max_examples=100)
@given(**worlds)
def test_batch_agrees_with_the_scalar_engine(**world: Any) -> None:
    check(**world)


@pytest.mark.slow
@settings(max_examples=3_000)
@given(**worlds)
def test_batch_agrees_with_the_scalar_engine_at_length(**world: Any) -> None:
    check(**world)


@settings(max_examples=30)
@given(**worlds, modes=st.lists(st.sampled_from((0, 1, 1, 1, 1, 2, 3)), min_size=40, max_size=40))
def test_each_request_with_its_own_root_table(modes: list[int], **world: Any) -> None:
    pages = range(ROOT, ROOT + 0x1_0000, 0x1000)
    wanted = [
        each._replace(root=pages[each.address % 5] | mode << 10)
        for each, mode in zip(world["wanted"], modes, strict=False)
    ]
    check(**{**world, "wanted": wanted})
