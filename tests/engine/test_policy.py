"""policy.py: invalid choices and defaults."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from iommu import Access, DmaRequest, MisuseError, Policy
from iommu.engine.policy import CHOICES
from tests.engine.world import NIC, World


@pytest.mark.parametrize("capacity", [0, -1])
def test_cache_without_room_is_misuse(capacity: int) -> None:
    with pytest.raises(MisuseError, match="cache_capacity is at least 1"):
        Policy(cache_capacity=capacity)


def test_cache_of_one_entry_is_enough() -> None:
    world = World(policy=Policy(cache_capacity=1))
    world.start()
    assert world.unit.translate(DmaRequest(NIC, 0x5000, Access.READ)).fault is not None


def test_every_field_is_declared_with_a_reason() -> None:
    assert list(CHOICES) == [each.name for each in fields(Policy)]
    for name, choice in CHOICES.items():
        assert choice.doubt or choice.section or choice.sources, name
        assert not choice.doubt or re.fullmatch(r"D-\d+", choice.doubt)
        assert choice.meaning and not choice.meaning.endswith("."), name
