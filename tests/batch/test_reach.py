"""`reachable`: the same as what requests get, and as `RemappingUnit.mappings` enumerates page by page."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import Capabilities, Mapping, RemappingUnit, SourceId
from iommu.batch.reach import Range, Reachable, reachable
from tests.engine import test_against_naive_scalable, test_walk_against_naive
from tests.engine.test_mappings import RandomWorld, Verdict, requested, scalable_worlds, starts
from tests.engine.world import GCMD, RTADDR, SRTP, TE

# The tables have no end, and a nested one of 2 MiB can be thousands of pieces.
windows = st.tuples(st.sampled_from(starts), st.sampled_from((1 << 14, 1 << 16, 1 << 21)))


def shown(found: Reachable) -> list[Range]:
    return list(found)


def told(found: Reachable, address: int) -> Verdict:
    """What the ranges say of an address: the host address of a read, that of a write, and if a read may execute."""
    each = found.find(address)
    if each is None:
        return None, None, False
    host = each.host + address - each.start
    return host if "r" in each.rights else None, host if "w" in each.rights else None, "x" in each.rights


def without_attributes(found: Iterator[Mapping]) -> list[Range]:
    """Mappings as ranges: those that differ only in memory types or snooping are one."""
    ranges: list[Range] = []
    for each in found:
        rights = zip("rwx", (each.readable, each.writable, each.executable), strict=True)
        one = Range(each.addresses.start, each.size, each.host, "".join(r for r, has in rights if has))
        last = ranges[-1] if ranges else None
        if last and last.start + last.size == one.start and last.host + last.size == one.host and last[3] == one[3]:
            ranges[-1] = last._replace(size=last.size + one.size)
        else:
            ranges.append(one)
    return ranges


def places(found: Reachable, window: range, pick: random.Random) -> Iterator[int]:
    """Addresses on both sides of the ends of ranges, and some at random."""
    ends = {at for each in islice(found, 200) for at in (each.start, each.start + each.size)}
    chosen = pick.sample(sorted(ends), min(len(ends), 8))
    for at in (*chosen, window.start, window.stop, 0xFEE0_0000, 0xFEF0_0000):
        yield from (each for each in (at - 1, at) if each in window)
    for _ in range(8):
        yield pick.randrange(window.start, window.stop)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    trouble=st.sampled_from((0.0, 0.02, 0.05, 0.2)),
    offered=test_walk_against_naive.capabilities,
    sizes=test_walk_against_naive.page_sizes,
    number=st.integers(0, 0xFFFF),
    place=windows,
)
def test_legacy_mode_is_as_requests_are_translated(
    seed: int, trouble: float, offered: dict[str, Any], sizes: tuple[bool, bool], number: int, place: tuple[int, int]
) -> None:
    tables = test_walk_against_naive.RandomTables(seed, trouble, offered["levels"])
    unit = RemappingUnit(tables, Capabilities(**offered, page_2m=sizes[0], page_1g=sizes[1]))
    for offset, value, size in ((RTADDR, test_walk_against_naive.ROOT, 8), (GCMD, SRTP, 4), (GCMD, TE, 4)):
        unit.mmio_write(offset, value, size)
    source_id, window = SourceId.of(number), range(place[0], place[0] + place[1])
    found = reachable(unit, source_id, addresses=window)
    assert not found.cut_short
    assert shown(found) == without_attributes(unit.mappings(source_id, addresses=window))
    for address in places(found, window, random.Random(seed)):
        assert told(found, address) == requested(unit, source_id, None, address), hex(address)


@settings(max_examples=100, deadline=None)
@given(
    **scalable_worlds,
    number=st.integers(0, 0xFFFF),
    pasid=test_against_naive_scalable.pasids,
    place=windows,
)
def test_scalable_mode_is_as_requests_are_translated(
    number: int, pasid: int | None, place: tuple[int, int], **made: Any
) -> None:
    world = RandomWorld.of(**made)
    source_id, window = SourceId.of(number), range(place[0], place[0] + place[1])
    found = reachable(world.unit(), source_id, pasid, addresses=window)
    listed = list(islice(world.unit().mappings(source_id, pasid, window), 20_000))
    if len(listed) < 20_000 and not found.cut_short:
        assert shown(found) == without_attributes(iter(listed))
    for address in places(found, window, random.Random(made["seed"])):
        says = told(found, address)
        if not found.cut_short or says != (None, None, False):
            assert says == requested(world.unit(), source_id, pasid, address), hex(address)
