"""Scalable mode: which fault comes first, FPD, fault records, and tables that are garbage (spec 7.1.3, 11.4.7.6)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from iommu import Access, FaultReason
from tests.engine.raising import raises
from tests.engine.scalable_world import (
    ADDRESS,
    ATOMIC,
    FIRST,
    HOST,
    NESTED,
    SCALABLE,
    SECOND,
    USER,
    P,
    ScalableWorld,
    build,
    first_stage,
    second_stage,
)
from tests.engine.world import (
    ABSENT,
    NIC,
    READ,
    RW,
    TRANSLATED,
    TRANSLATION_REQUEST,
    UNTRANSLATED,
    WRITE,
)

# Which fault comes first


ORDER = {
    "root absent": 0x39, "root reserved": 0x3A, "context unreadable": 0x40, "context absent": 0x41,
    "context reserved": 0x42, "large RID_PASID": 0x43, "no DTE": 0x44, "no PASIDE": 0x45, "large PASID": 0x46,
    "directory unreadable": 0x50, "directory absent": 0x51, "directory reserved": 0x52, "table unreadable": 0x58,
    "entry absent": 0x59, "entry reserved": 0x5A, "entry invalid": 0x5B, "no SRE": 0x5D, "not canonical": 0x80,
}  # fmt: skip


def spoiled(*flaws: str) -> tuple[ScalableWorld, dict[str, Any]]:
    """A first-stage world with the named flaws, and the request that meets them."""
    pasid = 1 << 13 if "large PASID" in flaws else 1
    request: dict[str, Any] = {"pasid": pasid}
    fields = {"dte": 0 if "no DTE" in flaws else 1, "pre": 0, "paside": 0 if "no PASIDE" in flaws else 1}
    world = first_stage(pasid=pasid, context={**fields, "pdts": 1 if "large PASID" in flaws else 7})
    context, directory, entry = world.contexts[NIC], world.directory_address(pasid), world.pasids[NIC, pasid]
    if "large PASID" in flaws:
        world.change(context, clear=7 << 9)
    if "large RID_PASID" in flaws:
        world.change(context, clear=7 << 9)
        world.change(context + 8, add=0xFFFFF)
    if "no DTE" in flaws:
        request["kind"] = TRANSLATION_REQUEST
    if "no SRE" in flaws:
        request["privileged"] = True
    if "not canonical" in flaws:
        request["address"] = 1 << 50
    for flaw, (at, clear, add) in {
        "entry absent": (entry, 1, 0),
        "entry reserved": (entry, 0, 1 << 10),
        "entry invalid": (entry, 7 << 6, 7 << 6),
        "no SRE": (entry + 16, 1, 0),
        "directory absent": (directory, 1, 0),
        "directory reserved": (directory, 0, 1 << 5),
        "table unreadable": (directory, ~0xFFF & (1 << 64) - 1, ABSENT),
        "context absent": (context, 1, 0),
        "context reserved": (context, 0, 1 << 6),
        "directory unreadable": (context, ~0xFFF & (1 << 64) - 1, ABSENT),
        "root absent": (world.root, 1, 0),
        "root reserved": (world.root, 0, 1 << 5),
        "context unreadable": (world.root, ~0xFFF & (1 << 64) - 1, ABSENT),
    }.items():
        if flaw in flaws:
            world.change(at, clear=clear, add=add)
    return world, request


@pytest.mark.parametrize("flaw", ORDER)
def test_each_flaw_alone(flaw: str) -> None:
    world, request = spoiled(flaw)
    assert world.fault(**request) == ORDER[flaw]


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(ORDER, 2)))
def test_earlier_check_decides(first: str, second: str) -> None:
    world, request = spoiled(first, second)
    assert world.fault(**request) == ORDER[first]


def test_unreadable_root_table_wins_over_what_the_request_is() -> None:
    world = ScalableWorld().start(ABSENT | SCALABLE)
    for kind, pasid in ((TRANSLATION_REQUEST, 5), (TRANSLATED, None)):
        assert world.fault(1 << 60, kind=kind, pasid=pasid) == 0x38


# FPD


def suppressed(flaw: str, fpd: str) -> tuple[int, int]:
    """The fault code, and how many records it leaves, with FPD set in some of the three entries."""
    world, request = spoiled(flaw)
    for name, at in (
        ("context", world.contexts[NIC]),
        ("directory", -1 if "directory unreadable" in flaw else world.directory_address(request["pasid"])),
        ("entry", world.pasids[NIC, request["pasid"]]),
    ):
        if name in fpd and at >= 0:
            world.change(at, add=2)
    return world.fault(**request), len(world.records())


UNQUALIFIED = {"root absent", "root reserved", "context unreadable", "directory unreadable", "table unreadable"}


@pytest.mark.parametrize("flaw", ORDER)
@pytest.mark.parametrize("fpd", ["", "context", "directory", "entry", "context directory entry"])
def test_fpd_of_the_entries_seen_so_far(flaw: str, fpd: str) -> None:
    seen = "context"
    if ORDER[flaw] >= 0x50:
        seen += " directory"
    if ORDER[flaw] >= 0x59:
        seen += " entry"
    quiet = flaw not in UNQUALIFIED and any(name in seen for name in fpd.split())
    assert suppressed(flaw, fpd) == (ORDER[flaw], 0 if quiet else 1)


@pytest.mark.parametrize("fpd", ["context", "directory", "entry"])
@pytest.mark.parametrize("pgtt", [FIRST, SECOND, NESTED])
def test_fpd_of_any_entry_suppresses_the_record(fpd: str, pgtt: int) -> None:
    code = 0x79 if pgtt == SECOND else 0x71
    world = build(pgtt)
    assert world.dma().recorded is False
    at = {"context": world.contexts[NIC], "directory": world.directory_address(), "entry": world.pasids[NIC, 0]}
    assert world.dma(ADDRESS + (1 << 30)).recorded
    assert [record.reason for record in world.records()] == [code]
    world.change(at[fpd], add=2)
    world.unit.caches.invalidate_dma()
    for _ in range(2):
        outcome = world.dma(ADDRESS + (1 << 30))
        assert (outcome.fault, outcome.recorded) == (code, False)
    assert world.dma().host_address == HOST
    assert len(world.records()) == 1, "still silenced when the entries are cached"
    assert world.dma(ADDRESS + (1 << 30)).recorded is False


@pytest.mark.parametrize("fpd", ["context", "directory", "entry"])
def test_fpd_is_cached_with_the_entry(fpd: str) -> None:
    world = second_stage()
    at = {"context": world.contexts[NIC], "directory": world.directory_address(), "entry": world.pasids[NIC, 0]}
    world.change(at[fpd], add=2)
    assert world.dma().host_address == HOST
    assert world.dma(0x1000).recorded is False
    assert world.records() == []


# Fault records


@pytest.mark.parametrize("pasid", [None, 1, 0xABCDE, 0xFFFFF])
@pytest.mark.parametrize(("access", "length", "t1", "t2"), [
    (READ, 1, 1, 0), (READ, 0, 1, 0), (WRITE, 1, 0, 0),
])  # fmt: skip
@raises(FaultReason.SPT_2)
def test_fields_of_the_record(pasid: int | None, access: Access, length: int, t1: int, t2: int) -> None:
    world = second_stage(pasid=2)
    for number in (0, 1, 0xABCDE, 0xFFFFF):
        world.pasid_entry(number, pgtt=SECOND, p=0)
    assert world.fault(0x1_2345_6788, access, pasid=pasid, length=length) == 0x59
    record = world.record()
    assert (record.f, record.reason, record.source_id, record.address) == (1, 0x59, NIC, 0x1_2345_6000)
    assert (record.t1, record.t2, record.address_type) == (t1, t2, 0)
    assert (record.pasid_present, record.pasid) == (int(pasid is not None), pasid or 0)
    assert (record.privileged, record.execute) == (0, 0)


@pytest.mark.parametrize("privileged", [False, True])
def test_privilege_in_the_record(privileged: bool) -> None:
    world = first_stage(pasid=9, pasid_entry={"p": 0})
    assert world.fault(pasid=9, privileged=privileged) == 0x59
    record = world.record()
    assert (record.privileged, record.execute, record.pasid) == (privileged, 0, 9)


@pytest.mark.parametrize("kind", [UNTRANSLATED, TRANSLATION_REQUEST, TRANSLATED])
def test_address_type_in_the_record(kind: Any) -> None:
    world = first_stage(context={"p": 0})
    assert world.fault(kind=kind) == 0x41
    assert world.record().address_type == kind


def test_address_bits_beyond_the_largest_width_are_not_recorded() -> None:
    world = first_stage(address_width=48)
    assert world.fault(1 << 60 | 0x5678) == 0x80
    assert world.record().address == 0x5000


# Hostile memory


@pytest.mark.parametrize("fill", [0x00, 0xFF, 0x55, 0xAA, 0x01, 0x03, 0x83])
def test_memory_full_of_one_byte(fill: int) -> None:
    world = ScalableWorld(size=1 << 16)
    world.memory.write(0, bytes([fill]) * (1 << 16))
    world.start(SCALABLE)
    for kind, pasid in itertools.product((UNTRANSLATED, TRANSLATION_REQUEST, TRANSLATED), (None, 0, 0xFFFFF)):
        if kind is not TRANSLATED or pasid is None:
            assert world.fault(0x1234, kind=kind, pasid=pasid) in (0x39, 0x3A)


@pytest.mark.parametrize("pgtt", [FIRST, SECOND, NESTED])
def test_a_page_table_that_points_at_itself_ends(pgtt: int) -> None:
    world = ScalableWorld()
    table = world.page()
    world.pasid_entry(pgtt=pgtt, first=table, second=table)
    for index in range(512):
        world.put(table + 8 * index, table | RW | P | USER)
    world.start()
    assert world.dma(0x123).host_address == table + 0x123


def test_record_of_a_fault_with_a_pasid_survives_the_tables() -> None:
    world = second_stage(pasid=3)
    assert world.fault(0x1000, pasid=3) == 0x79
    assert world.record()[:1] == (1,)
    assert world.record().pasid == 3


# FRCD contents, sheet 3.1 (H): {T1,T2} = 11 for an AtomicOp; EXE = execute requested.


@pytest.mark.parametrize("pasid", [None, 1, 0xABCDE, 0xFFFFF])
@raises(FaultReason.SPT_2)
def test_atomic_operation_in_the_record(pasid: int | None) -> None:
    world = second_stage(pasid=2)
    for number in (0, 1, 0xABCDE, 0xFFFFF):
        world.pasid_entry(number, pgtt=SECOND, p=0)
    assert world.fault(0x1_2345_6788, ATOMIC, pasid=pasid, length=4) == 0x59
    assert (world.record().t1, world.record().t2) == (1, 1)


@pytest.mark.parametrize("privileged", [False, True])
@pytest.mark.parametrize("pgtt", [FIRST, NESTED])
@raises(FaultReason.SPT_5)
def test_execute_in_the_record(pgtt: int, privileged: bool) -> None:
    world = build(pgtt, pasid=9, pasid_entry={"ere": 0})
    assert world.fault(pasid=9, privileged=privileged, execute=True) == 0x5C
    record = world.record()
    assert (record.privileged, record.execute, record.pasid) == (privileged, 1, 9)
