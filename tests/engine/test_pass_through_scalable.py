"""Pass-through by a PASID-table entry (spec 3.8): the address is the host address, within two limits."""

from __future__ import annotations

import pytest

from iommu import Access, FaultReason
from tests.engine.raising import raises
from tests.engine.scalable_world import ADDRESS, ATOMIC, SAME, pass_through
from tests.engine.world import READ, TRANSLATION_REQUEST, WRITE


@pytest.mark.parametrize("haw", [39, 46, 52])
@raises(FaultReason.SGN_4)
def test_host_width_is_the_limit(haw: int) -> None:
    """The guest width does not matter."""
    world = pass_through(host_address_width=haw, address_width=48)
    for bit in range(12, 64):
        for pasid in (None, SAME):
            assert world.code(1 << bit, pasid=pasid) == (0 if bit < haw else 0x83), f"bit {bit}"
    assert world.dma((1 << haw) - 1).host_address == (1 << haw) - 1


@pytest.mark.parametrize(("address", "code"), [
    (0xFEDF_FFFF, 0), (0xFEE0_0000, 0x87), (0xFEE1_2345, 0x87), (0xFEEF_FFFF, 0x87), (0xFEF0_0000, 0),
    (0x1_FEE0_0000, 0),
])  # fmt: skip
@pytest.mark.parametrize("access", [READ, WRITE, ATOMIC])
def test_interrupt_range_with_a_pasid_is_blocked(address: int, code: int, access: Access) -> None:
    world = pass_through()
    outcome = world.dma(address, access, pasid=SAME)
    assert (int(outcome.fault or 0), outcome.interrupt) == (code, False)


@raises(FaultReason.SGN_8)
def test_interrupt_range_is_reported_as_a_fault_with_the_pasid() -> None:
    world = pass_through(pasid=6)
    assert world.fault(0xFEE0_0000, WRITE, pasid=6) == 0x87
    assert (world.record().reason, world.record().pasid) == (0x87, 6)


@pytest.mark.parametrize("access", [READ, WRITE, ATOMIC])
def test_pass_through_checks_no_permissions_and_reads_no_tables(access: Access) -> None:
    world = pass_through(pasid_entry={"second": 1 << 40, "ssade": 1})
    for privileged in (False, True):
        outcome = world.dma(access=access, pasid=SAME, privileged=privileged)
        assert (outcome.host_address, outcome.readable, outcome.writable) == (ADDRESS, True, True)
        assert world.memory.log == []


def test_zero_length_read() -> None:
    assert pass_through(zero_length_read=False).dma(length=0).host_address == ADDRESS


def test_translation_request_is_answered_with_the_address_itself() -> None:
    answer = pass_through().dma(kind=TRANSLATION_REQUEST)
    assert (answer.host_address, answer.fault, answer.readable, answer.writable) == (ADDRESS, None, True, True)
