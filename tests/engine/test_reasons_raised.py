"""One short test for each reason that the tests of its chapter raise only among many others."""

from __future__ import annotations

import pytest

from iommu import FaultReason
from iommu.engine.ats import PageRequest
from tests.engine.raising import raises
from tests.engine.scalable_world import second_stage
from tests.engine.world import ABSENT, NIC, READ, RW, TRANSLATION_REQUEST, WRITE, R, W, World, mapped


@raises(FaultReason.LRT_1)
def test_root_table_unreadable() -> None:
    assert World().start(ABSENT).fault() == 0x08


@raises(FaultReason.LRT_2)
def test_root_entry_absent() -> None:
    assert World().start().fault() == 0x01


@raises(FaultReason.LRT_3)
def test_root_entry_reserved() -> None:
    world = mapped()
    world.put(world.root + 8, 1)
    assert world.fault(0x5000) == 0x0A


@raises(FaultReason.LCT_1)
def test_context_table_unreadable() -> None:
    world = World()
    world.put(world.root, ABSENT | 1)
    assert world.start().fault() == 0x09


@raises(FaultReason.LCT_2)
def test_context_entry_absent() -> None:
    world = World()
    world.context(p=0)
    assert world.start().fault() == 0x02


@raises(FaultReason.LCT_3)
def test_context_entry_reserved() -> None:
    world = World()
    world.context(extra=1 << 4)
    assert world.start().fault() == 0x0B


@pytest.mark.parametrize(("tt", "levels"), [(3, 4), (0, 6)])
@raises(FaultReason.LCT_4)
def test_context_entry_invalid(tt: int, levels: int) -> None:
    world = World()
    world.context(tt=tt, levels=levels)
    assert world.start().fault() == 0x03


@raises(FaultReason.LCT_5)
def test_request_blocked_by_the_translation_type() -> None:
    assert mapped().fault(0x5000, kind=TRANSLATION_REQUEST) == 0x0D


@raises(FaultReason.LGN_1)
def test_address_beyond_the_guest_width() -> None:
    assert mapped().fault(1 << 48) == 0x04


@raises(FaultReason.LGN_2, FaultReason.LGN_3)
def test_permissions_missing() -> None:
    assert mapped(entry=0x9000 | R).fault(0x5000, WRITE) == 0x05
    assert mapped(entry=0x9000 | W).fault(0x5000, READ) == 0x06


@raises(FaultReason.LGN_4)
def test_host_address_in_the_interrupt_range() -> None:
    assert mapped(entry=0xFEE0_0000 | RW).fault(0x5000) == 0x0E


@raises(FaultReason.LSL_1, FaultReason.LSL_2)
def test_second_stage_unreadable_or_reserved() -> None:
    world = World()
    world.map(world.device(), 4, 0x5000, ABSENT | RW, leaf=2)
    assert world.start().fault(0x5000) == 0x07
    assert mapped(entry=0x9000 | RW | 1 << 50).fault(0x5000) == 0x0C


@raises(FaultReason.RTA_2)
def test_pasid_in_legacy_mode() -> None:
    assert mapped().fault(0x5000, pasid=1) == 0x31


# Page requests: which of them are queued is the business of test_page_requests.py.


@raises(FaultReason.RTA_3)
def test_page_request_in_legacy_mode() -> None:
    world = second_stage()
    world.latch(world.root)
    world.unit.caches.invalidate_dma()
    assert world.unit.page_request(PageRequest(NIC, 0x5000)).fault == 0x32


@pytest.mark.parametrize("fpd", [0, 1])
@raises(FaultReason.SCT_8)
def test_page_request_while_they_are_not_enabled(fpd: int) -> None:
    world = second_stage(context={"pre": 0, "fpd": fpd})
    outcome = world.unit.page_request(PageRequest(NIC, 0x5000))
    assert (outcome.fault, outcome.recorded) == (0x47, not fpd)
    assert len(world.records()) == 1 - fpd
    if not fpd:
        assert (world.record().t1, world.record().t2, world.record().source_id) == (0, 1, NIC)
