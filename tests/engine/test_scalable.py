"""Scalable mode up to the PASID-table entry (spec 3.4.3, 9.2 to 9.6): checks, their order, faults."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from iommu import Access, FaultReason, Policy, SourceId
from tests.engine.raising import raises
from tests.engine.scalable_world import (
    ABORT,
    ADDRESS,
    ALL1,
    ATOMIC,
    BUILDERS,
    FIRST,
    HOST,
    NESTED,
    PASS,
    SAME,
    SCALABLE,
    SECOND,
    USER,
    ScalableWorld,
    build,
    first_stage,
    pass_through,
    second_stage,
    without,
)
from tests.engine.world import (
    ABSENT,
    FSTS,
    NIC,
    READ,
    RW,
    TE,
    TRANSLATED,
    TRANSLATION_REQUEST,
    UNTRANSLATED,
    WRITE,
)

HAWS = (39, 46, 52)
GOES_TO = {FIRST: HOST, SECOND: HOST, NESTED: HOST, PASS: ADDRESS}


@pytest.mark.parametrize("pgtt", BUILDERS)
@pytest.mark.parametrize("pasid", [None, SAME])
@pytest.mark.parametrize("access", [READ, WRITE, ATOMIC])
def test_every_type_translates(pgtt: int, pasid: int | None, access: Access) -> None:
    world = build(pgtt)
    for _ in range(2):
        outcome = world.dma(ADDRESS + 0x123, access, pasid=pasid)
        assert (outcome.host_address, outcome.page_size) == (GOES_TO[pgtt] + 0x123, 4096)
        assert (outcome.fault, outcome.recorded, outcome.interrupt) == (None, False, False)
    assert world.records() == []


# Table mode

KINDS = [
    (UNTRANSLATED, None), (UNTRANSLATED, 0),
    (TRANSLATION_REQUEST, None), (TRANSLATION_REQUEST, 0), (TRANSLATED, None),
]  # fmt: skip
"""Every kind of request that the tables decide about, with its PASID."""


@pytest.mark.parametrize("ttm", [1, 2, 3])
@raises(FaultReason.RTA_1)
def test_table_mode_that_is_not_offered(ttm: int) -> None:
    world = ScalableWorld(**without(*SCALABLE_ONLY), abort_dma=False)
    world.start(world.root | ttm << 10)
    for kind, pasid in KINDS:
        assert world.fault(kind=kind, pasid=pasid) == 0x30
    assert world.records()[0].reason == 0x30


SCALABLE_ONLY = {
    "scalable_mode", "scalable_coherent", "first_stage", "first_stage_5_level", "first_stage_1g", "second_stage",
    "second_stage_dirty", "nested", "pasid", "rid_pasid", "rid_priv", "supervisor_requests", "execute_requests",
    "extended_accessed", "page_requests", "page_request_drain", "stop_markers",
}  # fmt: skip


@raises(FaultReason.RTA_1)
def test_reserved_table_mode() -> None:
    world = second_stage()
    world.latch(world.root | 2 << 10)
    world.unit.caches.invalidate_dma()
    assert world.fault() == 0x30


@pytest.mark.parametrize("root", [None, ABSENT])
@raises(FaultReason.RTA_4)
def test_abort_dma_mode_aborts_all(root: int | None) -> None:
    world = second_stage()
    world.latch((world.root if root is None else root) | ABORT)
    for (kind, pasid), access in itertools.product(KINDS, (READ, WRITE)):
        outcome = world.dma(access=access, kind=kind, pasid=pasid)
        assert (outcome.host_address, int(outcome.fault or 0), outcome.interrupt) == (None, 0x33, False)
        assert (outcome.readable, outcome.writable) == (False, False)
        assert outcome.recorded
        world.clear_record(world.read(FSTS) >> 8)


def test_abort_dma_mode_leaves_interrupts_alone() -> None:
    world = second_stage()
    world.latch(world.root | ABORT)
    assert world.dma(0xFEE0_0000, WRITE, length=4).interrupt


def test_abort_dma_mode_aborts_nothing_while_translation_is_off() -> None:
    world = ScalableWorld()
    world.latch(world.root | ABORT)
    assert world.dma().host_address == ADDRESS


@pytest.mark.parametrize("pgtt", BUILDERS)
def test_translation_off_serves_untranslated_requests(pgtt: int) -> None:
    """A PASID is ignored (3.1); the other kinds are unsupported requests (4.2.1)."""
    world = build(pgtt)
    world.write(0x18, 0)
    for pasid in (None, 0, 3):
        assert world.dma(pasid=pasid).host_address == ADDRESS
        for kind in (TRANSLATION_REQUEST, TRANSLATED):
            assert world.fault(kind=kind, pasid=pasid) == 0
    assert world.records() == []
    world.write(0x18, TE)
    assert world.dma().host_address == GOES_TO[pgtt]


def test_interrupt_range_without_a_pasid_is_an_interrupt() -> None:
    for pgtt in BUILDERS:
        outcome = build(pgtt).dma(0xFEE0_1000, WRITE, length=4)
        assert (outcome.interrupt, outcome.host_address, outcome.fault) == (True, None, None)


# Root entry


@raises(FaultReason.SRT_1)
def test_unreadable_root_table() -> None:
    world = ScalableWorld().start(ABSENT | SCALABLE)
    assert world.fault() == 0x38


@raises(FaultReason.SRT_2)
def test_absent_half_of_the_root_entry() -> None:
    world = second_stage()
    world.put(world.root, (1 << 64) - 2)
    assert world.fault() == 0x39
    assert world.record().reason == 0x39


@raises(FaultReason.SRT_3)
def test_reserved_bits_of_the_half_in_use() -> None:
    for haw in HAWS:
        for bit in [*range(1, 12), *range(haw, 64)]:
            world = second_stage(host_address_width=haw)
            world.flip(world.root, bit)
            assert world.fault() == 0x3A
            world.flip(world.root, 0)
            assert world.fault() == 0x39


@pytest.mark.parametrize("devfn", [0, 0x7F, 0x80, 0xFF])
@pytest.mark.parametrize("bus", [0, 1, 128, 255])
def test_only_the_half_in_use_is_checked(bus: int, devfn: int) -> None:
    source_id = SourceId.of(bus << 8 | devfn)
    world = second_stage(context={"source_id": source_id})
    # The page was made for NIC's PASID entry: use the same directory.
    world.scalable_context(source_id, directory=world.memory.read_u64(world.contexts[NIC]) & ~0xFFF)
    other = world.root_address(source_id) ^ 8
    world.put(other, (1 << 64) - 1 if bus or devfn >= 0x80 else world.memory.read_u64(other))
    assert world.dma(source_id=source_id).host_address == HOST
    world.put(other, 0)
    world.unit.caches.invalidate_dma()
    assert world.dma(source_id=source_id).host_address == HOST
    world.put(other ^ 8, 0)
    world.unit.caches.invalidate_dma()
    assert world.fault(source_id=source_id) == 0x39


@pytest.mark.parametrize("devfn", [0, 1, 7, 8, 0x7F, 0x80, 0xFF])
def test_bus_and_devfn_select_the_entries(devfn: int) -> None:
    for bus in (0, 1, 127, 128, 255):
        source_id = SourceId.of(bus << 8 | devfn)
        world = ScalableWorld()
        world.pasid_entry(0, source_id, pgtt=PASS)
        world.start()
        assert world.dma(source_id=source_id).host_address == ADDRESS
        for bit in range(16):
            expected = 0x41 if bit < 7 else 0x39
            assert world.fault(source_id=SourceId.of(source_id ^ 1 << bit)) == expected


# Context entry


@raises(FaultReason.SCT_1)
def test_unreadable_context_table() -> None:
    world = second_stage()
    world.put(world.root, ABSENT | 1)
    assert world.fault() == 0x40


@pytest.mark.parametrize("fpd", [0, 1])
@raises(FaultReason.SCT_2)
def test_absent_context_entry_ignores_all_but_fpd(fpd: int) -> None:
    world = second_stage()
    world.put(world.contexts[NIC], (1 << 64) - 4 | fpd << 1, *[(1 << 64) - 1] * 3)
    assert world.fault() == 0x41
    assert len(world.records()) == 1 - fpd


@pytest.mark.parametrize("haw", HAWS)
@raises(FaultReason.SCT_3)
def test_reserved_bits_of_the_context_entry(haw: int) -> None:
    for bit in [*range(5, 9), *range(haw, 64), *range(85, 256)]:
        world = second_stage(host_address_width=haw)
        at = world.contexts[NIC]
        world.flip(at, bit)
        assert world.fault() == 0x42, f"bit {bit}"
        world.flip(at, 0)
        assert world.fault() == 0x41


@pytest.mark.parametrize(("field", "flags"), [
    ("dte", ("device_tlb", "page_requests", "page_request_drain", "stop_markers", "no_write_requests",
             "invalidation_throttle")),
    ("pre", ("page_requests", "page_request_drain", "stop_markers")),
    ("rid_priv", ("rid_priv",)),
])  # fmt: skip
@raises(FaultReason.SCT_3)
def test_context_field_is_reserved_without_its_capability(field: str, flags: tuple[str, ...]) -> None:
    world = second_stage(context={"dte": 0, "pre": 0}, **without(*flags))
    assert world.dma().host_address == HOST
    world.unit.caches.invalidate_dma()
    fields: dict[str, Any] = {"dte": 0, "pre": 0, field: 1}
    world.scalable_context(**fields)
    assert world.fault() == 0x42


@raises(FaultReason.SCT_5)
def test_device_tlb_requests_need_dte() -> None:
    world = second_stage(context={"dte": 0, "pre": 0})
    assert world.dma().host_address == HOST
    for kind in (TRANSLATION_REQUEST, TRANSLATED):
        assert world.fault(kind=kind) == 0x44
    assert [record.address_type for record in world.records()] == [1, 2]


@raises(FaultReason.SCT_6)
def test_pasids_need_paside() -> None:
    world = second_stage(context={"paside": 0})
    assert world.dma().host_address == HOST
    for pasid in (0, 1, 0xFFFFF):
        assert world.fault(pasid=pasid) == 0x45


@pytest.mark.parametrize("pdts", range(8))
@raises(FaultReason.SPD_2)
def test_pasids_up_to_the_directory_size(pdts: int) -> None:
    """2^(PDTS+7) directory entries, each for 64 PASIDs."""
    limit = 1 << pdts + 13
    world = second_stage(pasid=limit - 1, context={"pdts": pdts})
    assert world.dma(pasid=limit - 1).host_address == HOST
    assert world.fault(pasid=SAME) == 0x51
    if pdts < 7:
        for bit in range(pdts + 13, 20):
            assert world.fault(pasid=1 << bit) == 0x46
            assert world.fault(pasid=1 << bit | limit - 1) == 0x46


@raises(FaultReason.SCT_7)
def test_pasid_beyond_the_directory() -> None:
    world = second_stage(context={"pdts": 0})
    assert world.dma(pasid=SAME).host_address == HOST
    assert world.fault(pasid=1 << 13) == 0x46


@pytest.mark.parametrize("bits", [13, 16, 19])
@raises(FaultReason.SGN_10)
def test_pasid_wider_than_the_unit_supports(bits: int) -> None:
    """7.1.3: the directory is large enough, and ECAP.PSS too small. FPD of the context entry counts."""
    for fpd in (0, 1):
        world = second_stage(pasid=(1 << bits) - 1, pasid_bits=bits, context={"fpd": fpd})
        assert world.dma(pasid=(1 << bits) - 1).host_address == HOST
        outcome = world.dma(pasid=1 << bits)
        assert (int(outcome.fault or 0), outcome.recorded) == (0x89, not fpd)


@pytest.mark.parametrize("rid_pasid", [0, 5, 0xFFFFF])
@raises(FaultReason.SCT_9)
def test_rid_pasid_is_for_requests_without_a_pasid(rid_pasid: int) -> None:
    """7.1.3; without ECAP.RPS it is 0."""
    world = second_stage(pasid=rid_pasid, context={"rid_pasid": rid_pasid}, rid_pasid=rid_pasid > 0)
    assert world.dma().host_address == HOST
    for kind in (UNTRANSLATED, TRANSLATION_REQUEST):
        assert world.fault(pasid=rid_pasid, kind=kind) == 0x48


# Requests without a PASID


@pytest.mark.parametrize("rid_pasid", [0, 1, 63, 64, 0x1234, 0xFFFFF])
def test_rid_pasid_selects_the_entry(rid_pasid: int) -> None:
    world = second_stage(pasid=rid_pasid, context={"rid_pasid": rid_pasid})
    assert world.dma().host_address == HOST
    assert world.fault(pasid=rid_pasid ^ 1) == 0x59


def test_without_rps_requests_use_pasid_0() -> None:
    world = second_stage(pasid=0, rid_pasid=False)
    assert world.dma().host_address == HOST


@raises(FaultReason.SCT_3)
def test_without_rps_rid_pasid_is_reserved() -> None:
    """9.4."""
    world = second_stage(pasid=0, context={"rid_pasid": 5}, rid_pasid=False)
    assert world.fault() == 0x42


@pytest.mark.parametrize("pdts", range(7))
@raises(FaultReason.SCT_4)
def test_rid_pasid_beyond_the_directory(pdts: int) -> None:
    """7.1.3: it makes the entry invalid, for requests with a PASID too."""
    limit = 1 << pdts + 13
    world = second_stage(pasid=limit - 1, context={"rid_pasid": limit - 1, "pdts": pdts})
    assert world.dma().host_address == HOST
    world.unit.caches.invalidate_dma()
    world.scalable_context(rid_pasid=limit, pdts=pdts)
    assert world.fault() == 0x43
    assert world.fault(pasid=limit - 1) == 0x43


@raises(FaultReason.SCT_4)
def test_page_requests_need_the_device_tlb() -> None:
    """7.1.3: DTE = 0 and PRE = 1 make the entry invalid, for every request."""
    world = second_stage(context={"dte": 0, "pre": 1})
    for kind in (UNTRANSLATED, TRANSLATION_REQUEST, TRANSLATED):
        assert world.fault(kind=kind) == 0x43


@pytest.mark.parametrize(("rid_priv", "code"), [(0, 0x81), (1, 0)])
def test_rid_priv_makes_requests_without_a_pasid_privileged(rid_priv: int, code: int) -> None:
    world = first_stage(HOST | ALL1 & ~USER, context={"rid_priv": rid_priv})
    assert world.code() == code
    assert world.fault(pasid=SAME) == 0x81, "RID_PRIV is for requests without a PASID"


@raises(FaultReason.SPT_6)
def test_rid_priv_needs_sre() -> None:
    world = first_stage(context={"rid_priv": 1}, pasid_entry={"sre": 0})
    assert world.fault() == 0x5D
    assert world.dma(pasid=SAME).host_address == HOST


def test_record_of_a_request_without_a_pasid_shows_none() -> None:
    world = second_stage(pasid=7, context={"rid_pasid": 7, "rid_priv": 1})
    assert world.fault(0x1000) == 0x79
    record = world.record()
    assert (record.pasid_present, record.pasid, record.privileged, record.execute) == (0, 0, 0, 0)


# PASID directory


@raises(FaultReason.SPD_1)
def test_unreadable_pasid_directory() -> None:
    world = second_stage()
    world.scalable_context(directory=ABSENT)
    assert world.fault() == 0x50


@raises(FaultReason.SPD_2)
def test_absent_directory_entry_ignores_all_but_fpd() -> None:
    world = second_stage()
    world.put(world.directory_address(), (1 << 64) - 4)
    assert world.fault() == 0x51
    assert len(world.records()) == 1


@pytest.mark.parametrize("haw", HAWS)
@raises(FaultReason.SPD_3)
def test_reserved_bits_of_the_directory_entry(haw: int) -> None:
    for bit in [*range(2, 12), *range(haw, 64)]:
        world = second_stage(host_address_width=haw)
        at = world.directory_address()
        world.flip(at, bit)
        assert world.fault() == 0x52
        world.flip(at, 0)
        assert world.fault() == 0x51


@pytest.mark.parametrize("haw", HAWS)
def test_tables_anywhere_below_the_host_width(haw: int) -> None:
    """Each pointer bit is used: a pointer to absent memory is unreadable, not reserved."""
    for bit in range(24, haw):
        world = second_stage(host_address_width=haw)
        world.put(world.root, 1 << bit | 1)
        assert world.fault() == 0x40
        world = second_stage(host_address_width=haw)
        world.scalable_context(directory=1 << bit)
        assert world.fault() == 0x50
        world = second_stage(host_address_width=haw)
        world.put(world.directory_address(), 1 << bit | 1)
        assert world.fault() == 0x58
        world = second_stage(host_address_width=haw)
        world.pasid_entry(pgtt=SECOND, second=1 << bit)
        assert world.fault() == 0x7B
        world = first_stage(host_address_width=haw)
        world.pasid_entry(pgtt=FIRST, first=1 << bit)
        assert world.fault() == 0x73


# PASID table


@raises(FaultReason.SPT_1)
def test_unreadable_pasid_table() -> None:
    world = second_stage()
    world.put(world.directory_address(), ABSENT | 1)
    assert world.fault() == 0x58


@raises(FaultReason.SPT_2)
def test_absent_pasid_entry_ignores_all_but_fpd() -> None:
    world = second_stage()
    world.put(world.pasids[NIC, 0], (1 << 64) - 4, *[(1 << 64) - 1] * 7)
    assert world.fault() == 0x59
    assert len(world.records()) == 1


ALWAYS_RESERVED = [10, 11, *range(80, 87), *range(91, 96), *range(192, 512)]


@pytest.mark.parametrize("pgtt", BUILDERS)
@raises(FaultReason.SPT_3)
def test_reserved_bits_of_the_pasid_entry(pgtt: int) -> None:
    world = build(pgtt)
    at = world.pasids[NIC, 0]
    for bit in ALWAYS_RESERVED:
        world.flip(at, bit)
        assert world.fault() == 0x5A, f"bit {bit}"
        world.flip(at, bit)
    world.flip(at, 10)
    world.flip(at, 0)
    assert world.fault() == 0x59


@pytest.mark.parametrize("pgtt", [FIRST, NESTED])
@raises(FaultReason.SPT_3)
def test_reserved_bits_of_the_first_stage_part(pgtt: int) -> None:
    for haw in HAWS:
        world = build(pgtt, host_address_width=haw)
        for bit in [*range(136, 140), *range(128 + haw, 192)]:
            world.flip(world.pasids[NIC, 0], bit)
            assert world.fault() == 0x5A, f"bit {bit}"
            world.flip(world.pasids[NIC, 0], bit)


@pytest.mark.parametrize("pgtt", [SECOND, NESTED, PASS])
@raises(FaultReason.SPT_3)
def test_second_stage_pointer_beyond_the_host_width(pgtt: int) -> None:
    for haw in HAWS:
        world = build(pgtt, host_address_width=haw)
        for bit in range(haw, 64):
            world.flip(world.pasids[NIC, 0], bit)
            assert world.fault() == 0x5A, f"bit {bit}"
            world.flip(world.pasids[NIC, 0], bit)


@pytest.mark.parametrize("pgtt", [SECOND, NESTED, FIRST])
@raises(FaultReason.SPT_3)
def test_memory_type_fields_are_reserved_without_memory_types(pgtt: int) -> None:
    """ECAP.MTS: CD, EMTE and PAT, whose types have three bits each."""
    for offered in (False, True):
        world = build(pgtt, memory_types=offered)
        for bit in [89, 90, *range(96, 128)]:
            world.flip(world.pasids[NIC, 0], bit)
            reserved = not offered or (bit >= 96 and bit % 4 == 3)
            assert world.code() == (0x5A if reserved else 0), f"bit {bit}"
            world.flip(world.pasids[NIC, 0], bit)
            world.unit.caches.invalidate_dma()


@pytest.mark.parametrize(("pgtt", "bit", "flag"), [
    (SECOND, 9, "second_stage_dirty"), (NESTED, 9, "second_stage_dirty"),
    (FIRST, 87, "scalable_coherent"), (SECOND, 87, "scalable_coherent"), (NESTED, 87, "scalable_coherent"),
    (FIRST, 88, "snoop_control"), (SECOND, 88, "snoop_control"), (NESTED, 88, "snoop_control"),
])  # fmt: skip
@raises(FaultReason.SPT_3)
def test_pasid_field_is_reserved_without_its_capability(pgtt: int, bit: int, flag: str) -> None:
    entry = (HOST | ALL1 | 1 << 5,) if pgtt == FIRST else ()
    for offered in (True, False):
        world = BUILDERS[pgtt](*entry, pasid_entry={"pwsnp": 0, "ssade": 0}, **{flag: offered})
        for at in world.first.values():
            world.change(at, add=1 << 5)
        assert world.code() == 0
        world.unit.caches.invalidate_dma()
        world.flip(world.pasids[NIC, 0], bit)
        assert world.code() in ((0, 0x7C) if offered else (0x5A,))


@pytest.mark.parametrize("pgtt", BUILDERS)
@raises(FaultReason.SPT_3)
def test_old_execute_bits_are_reserved_without_execute_requests(pgtt: int) -> None:
    """The second stage's enable, bit 5, and the first stage's, bit 129."""
    world = build(pgtt, execute_requests=False)
    for bit in (5, 129) if pgtt in (FIRST, NESTED) else (5,):
        world.flip(world.pasids[NIC, 0], bit)
        assert world.fault() == 0x5A
        world.flip(world.pasids[NIC, 0], bit)


def test_pass_through_ignores_the_second_stage_fields() -> None:
    for bit in [*range(2, 5), 9, *range(12, 39), 87]:
        world = pass_through(pasid_entry={"pwsnp": 0})
        at = world.pasids[NIC, 0]
        world.put(at, world.memory.read_u64(at) & ~0x1C)
        world.flip(at, bit)
        assert world.dma().host_address == ADDRESS, f"bit {bit}"


def test_every_bit_of_a_domain_id_counts() -> None:
    """Two PASIDs with other domain-ids never share a translation."""
    for bit in range(16):
        world = second_stage()
        other = world.page()
        world.map(other, 4, ADDRESS, 0xA000 | RW)
        world.pasid_entry(1, pgtt=SECOND, second=other, did=1 ^ 1 << bit)
        assert world.dma(pasid=SAME).host_address == HOST
        assert world.dma(pasid=1).host_address == 0xA000


@pytest.mark.parametrize("pgtt", range(8))
@pytest.mark.parametrize("missing", ["", "first_stage", "second_stage", "nested", "pass_through"])
def test_translation_types_by_capability(pgtt: int, missing: str) -> None:
    missing_flags = {
        "": (),
        "first_stage": ("first_stage", "nested", "first_stage_5_level", "first_stage_1g", "extended_accessed"),
        "second_stage": ("second_stage", "nested", "second_stage_dirty"),
        "nested": ("nested",),
        "pass_through": ("pass_through",),
    }[missing]
    needs = {FIRST: "first_stage", SECOND: "second_stage", NESTED: "nested", PASS: "pass_through"}
    if pgtt in needs:
        world = build(pgtt, **without(*missing_flags))
        at = world.pasids[NIC, 0]
        if missing == "second_stage":
            # The fields of a stage that the unit lacks are reserved; only the type is tested here.
            world.put(at, world.memory.read_u64(at) & 0x1C3)
        if missing == "first_stage":
            world.put(at + 16, 0)
    else:
        world = pass_through(**without(*missing_flags))
        at = world.pasids[NIC, 0]
        world.put(at, 1 | pgtt << 6)
    offered = pgtt in needs and needs[pgtt] not in missing_flags
    assert world.code() == (0 if offered else 0x5B)


@raises(FaultReason.SPT_4)
def test_reserved_translation_types() -> None:
    world = pass_through()
    for pgtt in (0, 5, 6, 7):
        world.put(world.pasids[NIC, 0], 1 | pgtt << 6)
        assert world.fault() == 0x5B


@pytest.mark.parametrize("aw", range(8))
@pytest.mark.parametrize("levels", [(3,), (4,), (5,), (3, 4), (4, 5), (3, 4, 5)])
@pytest.mark.parametrize("pgtt", [SECOND, NESTED])
def test_address_widths_by_capability(aw: int, levels: tuple[int, ...], pgtt: int) -> None:
    depth = aw + 2 if aw + 2 in (3, 4, 5) else 4
    world = build(pgtt, levels=depth, depths=levels)
    at = world.pasids[NIC, 0]
    world.change(at, clear=7 << 2, add=aw << 2)
    assert world.code() == (0 if aw + 2 in levels else 0x5B)


@pytest.mark.parametrize("fspm", range(4))
@pytest.mark.parametrize("five", [False, True])
@pytest.mark.parametrize("pgtt", [FIRST, NESTED])
def test_paging_modes_by_capability(fspm: int, five: bool, pgtt: int) -> None:
    depth = {"levels" if pgtt == FIRST else "first_levels": 5 if fspm == 1 else 4}
    world = build(pgtt, first_stage_5_level=five, **depth)
    world.change(world.pasids[NIC, 0] + 16, clear=3 << 2, add=fspm << 2)
    assert world.code() == (0 if fspm == 0 or (fspm == 1 and five) else 0x5B)


@pytest.mark.parametrize("fspm", [2, 3])
def test_the_other_types_have_no_paging_mode(fspm: int) -> None:
    for pgtt in (SECOND, PASS):
        world = build(pgtt)
        world.change(world.pasids[NIC, 0] + 16, add=fspm << 2)
        assert world.code() == 0


@pytest.mark.parametrize("pgtt", [FIRST, NESTED])
@raises(FaultReason.SPT_6)
def test_privileged_requests_need_sre(pgtt: int) -> None:
    world = build(pgtt, pasid_entry={"sre": 0})
    assert world.fault(pasid=SAME, privileged=True) == 0x5D
    assert world.record().privileged == 1
    assert world.dma(pasid=SAME).host_address == HOST


@pytest.mark.parametrize("pgtt", [SECOND, PASS])
def test_privilege_and_execute_are_ignored_without_a_first_stage(pgtt: int) -> None:
    world = build(pgtt)
    assert world.dma(pasid=SAME, privileged=True).host_address == GOES_TO[pgtt]
    assert world.dma(pasid=SAME, execute=True).host_address == GOES_TO[pgtt]


@raises(FaultReason.SPT_6)
def test_privileged_requests_without_srs() -> None:
    """7.1.3, 9.6: SRE is reserved, so that it is 0."""
    world = first_stage(HOST | ALL1 & ~USER, pasid_entry={"sre": 0}, supervisor_requests=False)
    assert world.fault(pasid=SAME, privileged=True) == 0x5D


@pytest.mark.parametrize("pgtt", BUILDERS)
@raises(FaultReason.SPT_5)
def test_execute_requests_need_ers(pgtt: int) -> None:
    """7.1.3, SPT.5, up to version 7: whatever the type; a translation request gets no permission."""
    world = build(pgtt, execute_requests=False, version=0x70)
    assert world.fault(pasid=SAME, execute=True) == 0x5C
    assert (world.record().reason, world.record().execute) == (0x5C, 1)
    asked = world.dma(pasid=SAME, execute=True, kind=TRANSLATION_REQUEST)
    assert (asked.fault, asked.host_address, asked.readable, asked.writable) == (None, None, False, False)
    assert world.dma(pasid=SAME).host_address == GOES_TO[pgtt]


@pytest.mark.parametrize("kind", [UNTRANSLATED, TRANSLATION_REQUEST])
@pytest.mark.parametrize("version", [0x70, 0x7F, 0x80, 0xFF])
def test_execute_requests_by_version(version: int, kind: Any) -> None:
    """7.1.3, RTA.5, from version 8 on; it is not qualified: FPD does not hide it."""
    world = first_stage(pasid_entry={"ere": 1}, context={"fpd": 1}, version=version)
    outcome = world.dma(pasid=SAME, execute=True, kind=kind)
    if version < 0x80:
        assert outcome.host_address == HOST
    else:
        assert (outcome.fault, outcome.recorded) == (FaultReason.RTA_5, True)
    assert world.dma(pasid=SAME).host_address == HOST


@raises(FaultReason.RTA_5)
def test_version_8_refuses_execute_requests_before_any_table_is_read() -> None:
    """Legacy mode knows no PASID at all, and abort-DMA mode aborts: RTA.2 and RTA.4 stay what they are."""
    world = ScalableWorld(version=0x80)
    for rtaddr, code in ((SCALABLE, 0x34), (0, 0x31), (ABORT, 0x33)):
        world.start(ABSENT | rtaddr)
        assert world.fault(pasid=SAME, execute=True) == code


@pytest.mark.parametrize("pgtt", [FIRST, NESTED])
@raises(FaultReason.SPT_5)
def test_execute_requests_need_ere(pgtt: int) -> None:
    world = build(pgtt, pasid_entry={"ere": 0})
    assert world.fault(pasid=SAME, execute=True) == 0x5C
    assert world.dma(pasid=SAME).host_address == HOST
    world = build(pgtt, pasid_entry={"ere": 1})
    assert world.dma(pasid=SAME, execute=True).host_address == HOST


@pytest.mark.parametrize("drops", [True, False])
def test_turning_translation_off_drops_the_caches_by_policy(drops: bool) -> None:
    """Sheet 4.4, of units with ECAP.SMTS; a policy, since it has one source."""
    world = second_stage(policy=Policy(translation_off_drops=drops))
    assert world.dma().host_address == HOST
    world.put(world.second[1], 0xA000 | RW)
    world.write(0x18, 0)
    world.write(0x18, 1 << 31)
    assert world.dma().host_address == (0xA000 if drops else HOST)


@pytest.mark.parametrize("cached", [True, False])
def test_pasid_entries_are_cached_unless_the_policy_says_otherwise(cached: bool) -> None:
    """6.2.3: a unit may cache fewer entries than it could. Neither page has been used before the entry changes."""
    world = second_stage(policy=Policy(cache_pasids=cached))
    assert world.dma(ADDRESS).host_address == HOST
    world.change(world.pasids[NIC, 0], clear=1)
    assert world.fault(ADDRESS ^ 0x1000) == (0x79 if cached else 0x59)
