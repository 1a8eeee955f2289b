"""Spec 6.2.1: how much a unit caches. It may evict what it has cached at any time, so every outcome here is right."""

from __future__ import annotations

from iommu import Policy
from qemu.vtd.conformance.bench import P0, P1, PAGE, Bench, R, W
from qemu.vtd.conformance.scenario import EVICTED, Allowed, scenario

_FROM = 0x20_0000
"""The pages that the device uses, from here on."""
_PER_TABLE = 512
TO_P0, TO_P1 = "B write 0x5010 -> 0x800010", "B write 0x5010 -> 0x801010"


def _map_many(bench: Bench, table: int, count: int) -> None:
    """Map `count` pages, each to the same page of memory."""
    page = bench.new_table()
    for number in range(0, count, _PER_TABLE):
        leaf = bench.map(table, _FROM + number * PAGE, page)
        here = min(_PER_TABLE, count - number)
        bench.memory.write(leaf, (page | R | W).to_bytes(8, "little") * here)


def _after(count: int, capacity: int) -> None:
    """B uses 0x5000, then `count` other pages; 0x5000 is moved without an invalidation; B uses it again."""

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        where = bench.map(table, 0x5000, P0)
        _map_many(bench, table, count)
        bench.context("B", table)
        bench.turn_on()
        bench.write("B", 0x5010)
        bench.sweep("B", range(_FROM, _FROM + count * PAGE, PAGE))
        bench.memory.write_u64(where, P1 | R | W)
        bench.write("B", 0x5010)

    stimulus.__doc__ = (
        f"A page is moved after {count} others were used, without an invalidation: it may have been evicted."
    )
    evicted = Allowed(EVICTED, (TO_P0, TO_P1, "FSTS 0"), Policy(cache_capacity=capacity))
    scenario(f"cache.capacity.{count}-pages", "6.2.1", TO_P0, TO_P0, "FSTS 0", allowed=(evicted,))(stimulus)


_after(1000, 512)
_after(1030, 1024)
