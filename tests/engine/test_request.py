"""request.py: source-ids, and the requests no device could send."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommu import Access, DmaRequest, MisuseError, SourceId
from tests.engine.world import NIC, READ, WRITE, World


@given(st.integers(0, 255), st.integers(0, 31), st.integers(0, 7))
def test_source_id_is_bus_device_function(bus: int, device: int, function: int) -> None:
    source_id = SourceId(bus, device, function)
    assert source_id == bus * 256 + device * 8 + function
    assert (source_id.bus, source_id.devfn) == (bus, device * 8 + function)
    assert str(source_id) == f"{bus:02x}:{device:02x}.{function}"
    assert SourceId.of(int(source_id)) == source_id


@pytest.mark.parametrize("parts", [
    (-1, 0, 0), (256, 0, 0), (0, -1, 0), (0, 32, 0), (0, 0, -1), (0, 0, 8),
])  # fmt: skip
def test_source_id_out_of_range_is_misuse(parts: tuple[int, int, int]) -> None:
    with pytest.raises(MisuseError):
        SourceId(*parts)


@pytest.mark.parametrize("number", [-1, 1 << 16, 1 << 32])
def test_source_id_of_a_number_out_of_range_is_misuse(number: int) -> None:
    with pytest.raises(MisuseError):
        SourceId.of(number)


@pytest.mark.parametrize("wrong", [
    {"address": -1}, {"address": 1 << 64}, {"length": -1}, {"length": 4097}, {"address": 0xFFF, "length": 2},
    {"address": 0x1800, "length": 0x801}, {"length": 0, "access": WRITE}, {"pasid": -1}, {"pasid": 1 << 20},
    {"privileged": True}, {"source_id": -1}, {"source_id": 1 << 16}, {"execute": True}, {"no_write": True},
    {"execute": True, "pasid": 1, "access": WRITE},
])  # fmt: skip
@pytest.mark.parametrize("on", [False, True])
def test_request_no_device_could_send_is_misuse(wrong: dict[str, Any], on: bool) -> None:
    world = World()
    if on:
        world.start()
    request = {"source_id": NIC, "address": 0x5000, "access": READ, **wrong}
    with pytest.raises(MisuseError):
        world.unit.translate(DmaRequest(**request))
    assert world.records() == []


@pytest.mark.parametrize("right", [
    {"address": 0}, {"address": (1 << 64) - 1}, {"length": 4096}, {"address": 0xFFF, "length": 1},
    {"address": 0x1800, "length": 0x800}, {"length": 0}, {"address": (1 << 64) - 1, "length": 0},
])  # fmt: skip
def test_request_at_the_edge_is_accepted(right: dict[str, Any]) -> None:
    request = DmaRequest(**{"source_id": NIC, "address": 0x5000, "access": READ, **right})
    assert World().unit.translate(request).host_address == request.address


def test_accesses_are_read_and_write() -> None:
    assert {Access.READ, Access.WRITE} <= set(Access)


@pytest.mark.parametrize("wrong", [{"source_id": 0x20}, {"access": 2}, {"address_type": 1}, {"address": 1.0}])
def test_argument_of_the_wrong_type_is_misuse(wrong: dict[str, Any]) -> None:
    request = DmaRequest(SourceId(0, 4, 0), 0x5000, Access.WRITE)
    with pytest.raises(MisuseError):
        replace(request, **wrong)
