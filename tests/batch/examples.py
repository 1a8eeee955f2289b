"""Examples for the comparisons of batch and scalar engine, from a seed: quicker than by hypothesis."""

from __future__ import annotations

from random import Random
from typing import Any

from iommu import Policy
from tests.batch.comparing import Asked
from tests.engine import examples

EDGES = (0xFEE0_0000, 0xFEEF_FFFF, 0xFEF0_0000, (1 << 64) - 1)


def legacy(pick: Random) -> dict[str, Any]:
    """For test_legacy.check."""
    wanted = [
        Asked(
            pick.getrandbits(16),
            pick.choice((pick.getrandbits(39), pick.getrandbits(39), pick.getrandbits(64), pick.choice(EDGES))),
            pick.random() < 0.5,
            pick.choice((None, None, None, 5)),
        )
        for _ in range(40)
    ]
    policy = Policy(
        permission_per_level=pick.random() < 0.5,
        levels_before_type=pick.random() < 0.5,
        pass_through_needs_most_levels=pick.random() < 0.5,
    )
    return {**examples.legacy(pick), "policy": policy, "wanted": wanted}


def scalable(pick: Random) -> dict[str, Any]:
    """For test_scalable.check."""
    wanted = [
        Asked(
            pick.getrandbits(16),
            _address(pick),
            pick.random() < 0.5,
            pick.choice((None, None, None, 0, 1, 63, 64, 0x1FFF, 0x2000)),
        )
        for _ in range(40)
    ]
    per_level, read_only = pick.random() < 0.3, pick.random() < 0.3
    return {**examples.scalable(pick), "per_level": per_level, "read_only": read_only, "wanted": wanted}


def _address(pick: Random) -> int:
    kind = pick.random()
    if kind < 0.05:
        return pick.choice(EDGES)
    address = pick.getrandbits(pick.choice((32, 36, 39, 39, 39, 47, 47, 48, 57, 64)))
    return address if kind < 0.8 else (1 << 64) - 1 - address
