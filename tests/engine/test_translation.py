"""translation.py: root and context entries, translation types, address limits, and which fault comes first."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from iommu import AddressType, Capabilities, FaultReason, FlatMemory, Policy, RemappingUnit, SourceId
from tests.engine.raising import raises
from tests.engine.world import (
    ABSENT,
    GCMD,
    NIC,
    PS,
    READ,
    RW,
    SRTP,
    TE,
    TM,
    TRANSLATED,
    TRANSLATION_REQUEST,
    UNTRANSLATED,
    WRITE,
    R,
    W,
    World,
    mapped,
)

HAWS = (39, 46, 52)
KINDS = tuple(AddressType)


def flip(at: int, world: World, bit: int) -> None:
    """Flip one of the 128 bits of an entry."""
    at += bit // 64 * 8
    world.put(at, world.memory.read_u64(at) ^ 1 << bit % 64)


# Root entry


@pytest.mark.parametrize(("haw", "bit"), [
    (haw, bit) for haw in HAWS for bit in [*range(1, 12), *range(haw, 64), *range(64, 128)]
])  # fmt: skip
def test_reserved_bit_of_the_root_entry(haw: int, bit: int) -> None:
    world = mapped(host_address_width=haw)
    flip(world.root, world, bit)
    assert world.fault(0x5000) == 0x0A
    flip(world.root, world, 0)
    assert world.fault(0x5000) == 0x01


@pytest.mark.parametrize("haw", HAWS)
def test_context_table_anywhere_below_the_host_width(haw: int) -> None:
    """Each bit of CTP is used: a pointer to absent memory is unreadable, not reserved."""
    for bit in range(24, haw):
        world = mapped(host_address_width=haw)
        world.put(world.root, 1 << bit | 1)
        assert world.fault(0x5000) == 0x09


def test_absent_root_entry_ignores_all_its_other_bits() -> None:
    world = mapped()
    world.put(world.root, (1 << 64) - 2, (1 << 64) - 1)
    assert world.fault(0x5000) == 0x01


def test_unreadable_root_table() -> None:
    world = World()
    world.start(ABSENT)
    assert world.fault() == 0x08


def test_root_table_at_the_end_of_memory() -> None:
    """The last page of the table exists, the next one does not."""
    world = World()
    world.start(world.memory.size - 4096)
    assert world.fault(source_id=SourceId(255, 31, 7)) == 0x01
    world.latch(world.memory.size)
    assert world.fault(source_id=SourceId(0, 0, 0)) == 0x08


@pytest.mark.parametrize("bus", [0, 1, 2, 127, 128, 254, 255])
@pytest.mark.parametrize("devfn", [0, 1, 7, 8, 0x7F, 0x80, 0xFF])
def test_bus_and_devfn_select_the_entries(bus: int, devfn: int) -> None:
    source_id = SourceId.of(bus << 8 | devfn)
    world = World()
    contexts = world.page()
    world.put(world.root + 16 * bus, contexts | 1)
    top = world.page()
    world.put(contexts + 16 * devfn, top | 1, 1 << 8 | 2)
    world.map(top, 4, 0x5000, 0x9000 | RW)
    world.start()
    assert world.dma(0x5000, source_id=source_id).host_address == 0x9000
    for bit in range(16):
        assert world.fault(0x5000, source_id=SourceId.of(source_id ^ 1 << bit)) == (0x02 if bit < 8 else 0x01)


# Context entry


def context_cases() -> list[tuple[int, int, int]]:
    """(host width, translation type, reserved bit)."""
    cases = []
    for haw in HAWS:
        for tt in (0, 1, 2):
            bits = [*range(4, 12), 71, *range(88, 128)]
            bits += range(haw, 64) if tt != 2 else []
            cases += [(haw, tt, bit) for bit in bits]
    return cases


@pytest.mark.parametrize(("haw", "tt", "bit"), context_cases())
def test_reserved_bit_of_the_context_entry(haw: int, tt: int, bit: int) -> None:
    world = mapped(tt=tt, host_address_width=haw, device_tlb=True)
    at = world.context_address(NIC)
    flip(at, world, bit)
    assert world.fault(0x5000) == 0x0B
    flip(at, world, 0)
    assert world.fault(0x5000) == 0x02


@pytest.mark.parametrize("bits", range(4, 17, 2))
def test_domain_id_bits_the_unit_does_not_have_are_reserved(bits: int) -> None:
    for bit in range(16):
        world = mapped(did=0 if bit == 0 else 1, domain_id_bits=bits)
        flip(world.context_address(NIC), world, 72 + bit)
        assert int(world.dma(0x5000).fault or 0) == (0x0B if bit >= bits else 0)


@pytest.mark.parametrize("tt", [0, 1, 2])
def test_ignored_bits_of_the_context_entry(tt: int) -> None:
    for bits in range(1 << 4):
        world = mapped(tt=tt, device_tlb=True)
        at = world.context_address(NIC) + 8
        world.put(at, world.memory.read_u64(at) | bits << 3)
        assert world.dma(0x5000).host_address == (0x5000 if tt == 2 else 0x9000)


@pytest.mark.parametrize("haw", HAWS)
def test_pass_through_ignores_the_table_pointer(haw: int) -> None:
    for bit in range(12, 64):
        world = World(host_address_width=haw)
        world.context(tt=2, table=1 << bit)
        assert world.start().dma(0x5000).host_address == 0x5000


@pytest.mark.parametrize("haw", HAWS)
def test_second_stage_table_anywhere_below_the_host_width(haw: int) -> None:
    for bit in range(24, haw):
        world = World(host_address_width=haw)
        world.context(table=1 << bit)
        assert world.start().fault() == 0x03


@pytest.mark.parametrize("fpd", [0, 1])
def test_absent_context_entry_ignores_all_but_fpd(fpd: int) -> None:
    world = mapped()
    world.put(world.context_address(NIC), (1 << 64) - 4 | fpd << 1, (1 << 64) - 1)
    assert world.fault(0x5000) == 0x02
    assert len(world.records()) == 1 - fpd


def test_unreadable_context_table() -> None:
    world = World()
    world.put(world.root, ABSENT | 1)
    assert world.start().fault() == 0x09


@pytest.mark.parametrize("tt", range(4))
@pytest.mark.parametrize("device_tlb", [False, True])
@pytest.mark.parametrize("pass_through", [False, True])
def test_translation_types_by_capability(tt: int, device_tlb: bool, pass_through: bool) -> None:
    world = mapped(tt=tt, device_tlb=device_tlb, pass_through=pass_through)
    supported = (True, device_tlb, pass_through, False)[tt]
    outcome = world.dma(0x5000)
    assert int(outcome.fault or 0) == (0 if supported else 0x03)
    assert outcome.host_address == (None if not supported else 0x5000 if tt == 2 else 0x9000)


@pytest.mark.parametrize("aw", range(8))
@pytest.mark.parametrize("levels", [
    chosen for count in (1, 2, 3) for chosen in itertools.combinations((3, 4, 5), count)
])  # fmt: skip
@pytest.mark.parametrize("tt", [0, 2])
def test_address_widths_by_capability(aw: int, levels: tuple[int, ...], tt: int) -> None:
    world = World(levels=levels)
    top = world.page()
    for depth in (3, 4, 5):
        if aw + 2 == depth:
            world.map(top, depth, 0x5000, 0x9000 | RW)
    world.context(table=top, levels=aw + 2, tt=tt)
    outcome = world.start().dma(0x5000)
    if aw + 2 in levels:
        assert outcome.host_address == (0x5000 if tt == 2 else 0x9000)
    else:
        assert outcome.fault == 0x03


# Requests against translation types


@pytest.mark.parametrize(("tt", "kind", "code"), [
    (0, UNTRANSLATED, 0), (0, TRANSLATION_REQUEST, 0x0D), (0, TRANSLATED, 0x0D),
    (1, UNTRANSLATED, 0), (1, TRANSLATION_REQUEST, 0), (1, TRANSLATED, 0),
    (2, UNTRANSLATED, 0), (2, TRANSLATION_REQUEST, 0x0D), (2, TRANSLATED, 0x0D),
])  # fmt: skip
@pytest.mark.parametrize("warm", [False, True])
def test_request_types_against_translation_types(tt: int, kind: AddressType, code: int, warm: bool) -> None:
    """The same when the context entry is cached already."""
    world = mapped(tt=tt, device_tlb=True)
    if warm:
        assert world.dma(0x5000).fault is None
    assert int(world.dma(0x5000, kind=kind).fault or 0) == code
    if code:
        assert world.record().address_type == kind


@pytest.mark.parametrize("address", [0x5000, 0x6000, 0x12_3456_7000])
def test_translated_request_is_not_walked(address: int) -> None:
    world = mapped(tt=1, device_tlb=True)
    assert world.dma(address, kind=TRANSLATED).host_address == address


def test_translated_request_needs_no_page_table() -> None:
    world = World(device_tlb=True)
    world.context(tt=1, table=ABSENT)
    world.start()
    assert world.dma(0x5000, kind=TRANSLATED).host_address == 0x5000
    assert world.fault(0x5000) == 0x03


@pytest.mark.parametrize("entry", [R, W, RW])
@pytest.mark.parametrize("access", [READ, WRITE])
def test_translation_request_answers_with_the_permissions(entry: int, access: Any) -> None:
    world = mapped(entry=0x9000 | entry, tt=1, device_tlb=True)
    for _ in range(2):
        answer = world.dma(0x5000, access, kind=TRANSLATION_REQUEST)
        assert (answer.host_address, answer.fault) == (0x9000, None)
        assert (answer.readable, answer.writable) == (bool(entry & R), bool(entry & W))
    assert world.records() == []


@pytest.mark.parametrize("address", [0x6000, 0x12_3456_7000, 1 << 48, 1 << 63])
def test_translation_request_without_a_page_is_a_success_without_permissions(address: int) -> None:
    world = mapped(tt=1, device_tlb=True)
    answer = world.dma(address, kind=TRANSLATION_REQUEST)
    assert (answer.fault, answer.readable, answer.writable) == (None, False, False)
    assert world.records() == []


def test_configuration_faults_block_translation_requests() -> None:
    for entry, code in ((0x9000 | RW | 1 << 11, 0x0C), (0xFEE0_0000 | RW, 0x0E)):
        world = mapped(entry=entry, tt=1, device_tlb=True)
        assert world.fault(0x5000, kind=TRANSLATION_REQUEST) == code
        assert world.record().reason == code
        assert world.record().address_type == 1
    world = World(device_tlb=True)
    world.context(tt=1, table=ABSENT)
    assert world.start().fault(kind=TRANSLATION_REQUEST) == 0x03


# Before any table is read


@pytest.mark.parametrize("ttm", [1, 2, 3])
@pytest.mark.parametrize(("kind", "pasid"), [*((kind, None) for kind in KINDS), (0, 5), (1, 5)])
def test_table_mode_that_is_not_offered(ttm: int, kind: int, pasid: int | None) -> None:
    world = mapped(tt=1, device_tlb=True)
    world.latch(world.root | ttm << 10)
    assert world.fault(0x5000, kind=AddressType(kind), pasid=pasid) == 0x30
    assert world.record().reason == 0x30


@pytest.mark.parametrize("pasid", [0, 1, 0xFFFFF])
@pytest.mark.parametrize("kind", [UNTRANSLATED, TRANSLATION_REQUEST])
@pytest.mark.parametrize("privileged", [False, True])
def test_pasid_in_legacy_mode(pasid: int, kind: AddressType, privileged: bool) -> None:
    world = mapped(tt=1, device_tlb=True)
    assert world.dma(0x5000).fault is None
    assert world.fault(0x5000, READ, kind=kind, pasid=pasid, privileged=privileged) == 0x31
    record = world.record()
    assert (record.reason, record.pasid_present, record.pasid) == (0x31, 1, pasid)
    assert (record.privileged, record.execute) == (privileged, 0)


def test_pasid_and_table_mode_come_before_the_root_table() -> None:
    world = World()
    world.start(ABSENT)
    assert world.fault(pasid=1) == 0x31
    world.latch(ABSENT | 2 << 10)
    assert world.fault() == 0x30


@pytest.mark.parametrize("address", [0, 0x5000, 0xFEDF_FFFF, 0xFEF0_0000, (1 << 48) - 1, 1 << 48, (1 << 64) - 1])
@pytest.mark.parametrize("access", [READ, WRITE])
def test_translation_off_lets_everything_through(address: int, access: Any) -> None:
    world = World(host_address_width=39, address_width=39)
    assert world.dma(address, access).host_address == address
    assert world.records() == []


@pytest.mark.parametrize("address", [0x5000, 0xFEE0_1000])
@pytest.mark.parametrize("kind", [TRANSLATION_REQUEST, TRANSLATED])
def test_translation_off_refuses_requests_of_device_tlbs(kind: AddressType, address: int) -> None:
    """4.2.1: an unsupported request, which is not reported."""
    world = World(device_tlb=True)
    for pasid in (None, 3):
        assert world.fault(address, kind=kind, pasid=pasid, length=4) == 0
    assert world.records() == []


def test_translation_off_ignores_a_pasid() -> None:
    """3.1. In the interrupt range too, the request is one without PASID."""
    world = World()
    assert world.dma(0x5000, pasid=3).host_address == 0x5000
    message = world.dma(0xFEE0_1000, pasid=3, length=4)
    assert (message.interrupt, message.host_address) == (True, None)
    assert world.records() == []


@pytest.mark.parametrize("tt", [None, 0, 2])
@pytest.mark.parametrize("zero_length_read", [False, True])
def test_zero_length_read_of_the_interrupt_range_passes(tt: int | None, zero_length_read: bool) -> None:
    """3.14: it bypasses remapping, whatever the tables say, and CAP.ZLR too."""
    world = World(zero_length_read=zero_length_read)
    if tt is not None:
        world.map(world.device(tt=tt), 4, 0xFEE0_1000, 0x9000 | RW)
        world.start()
    outcome = world.dma(0xFEE0_1000, READ, length=0)
    assert (outcome.host_address, outcome.interrupt, outcome.fault) == (0xFEE0_1000, False, None)
    assert world.records() == []


def test_question_about_the_interrupt_range() -> None:
    """7.1.3, S.1: untranslated writes alone, whatever the tables say; LCT.5 comes first."""
    for tt in (0, 1):
        world = World(device_tlb=True)
        world.map(world.device(tt=tt), 4, 0xFEE0_1000, 0x9000 | RW)
        answer = world.start().dma(0xFEE0_1000, kind=TRANSLATION_REQUEST)
        assert (answer.host_address, answer.readable, answer.writable) == (None, False, tt == 1)
        assert int(answer.fault or 0) == (0 if tt == 1 else 0x0D)


def test_answer_is_a_page_beside_the_interrupt_range() -> None:
    """LGN.4 knows no range of addresses: the output address counts."""
    world = World(device_tlb=True)
    world.map(world.device(tt=1), 4, 0x4000_0000, 0xFEE0_0000 | RW | PS, leaf=2)
    world.start()
    assert world.dma(0x4010_0000, kind=TRANSLATION_REQUEST).host_address == 0xFEF0_0000
    assert world.fault(0x4000_0000, kind=TRANSLATION_REQUEST) == 0x0E


@raises(FaultReason.LGN_1)
def test_translated_request_beyond_the_host_width() -> None:
    """7.1.3, LGN.1.2."""
    world = mapped(tt=1, device_tlb=True, host_address_width=46)
    assert world.dma((1 << 46) - 1, kind=TRANSLATED).host_address == (1 << 46) - 1
    for bit in (46, 63):
        assert world.fault(1 << bit, kind=TRANSLATED) == 0x04
    assert (world.record().reason, world.record().address_type) == (0x04, 2)


@raises(FaultReason.LGN_4)
@pytest.mark.parametrize("fpd", [0, 1])
def test_translated_request_to_the_interrupt_range(fpd: int) -> None:
    """4.2.5, 7.1.3. The context comes first: LCT.5 where it does not allow translated requests, and its FPD."""
    world = World(device_tlb=True)
    world.device(tt=1, fpd=fpd)
    world.start()
    assert world.fault(0xFEE0_1000, kind=TRANSLATED, length=4) == 0x0E
    assert len(world.records()) == 1 - fpd
    assert mapped(tt=0).fault(0xFEE0_1000, kind=TRANSLATED, length=4) == 0x0D


def test_translated_request_with_a_pasid_is_unsupported() -> None:
    """4.2.1: whatever the tables say, and not reported."""
    world = mapped(tt=1, device_tlb=True)
    assert world.fault(0x5000, kind=TRANSLATED, pasid=3) == 0
    assert world.records() == []


# Interrupt range of the input


@pytest.mark.parametrize(("address", "inside"), [
    (0xFEDF_FFFC, False), (0xFEE0_0000, True), (0xFEE0_1004, True), (0xFEEF_FFFC, True), (0xFEF0_0000, False),
    (0x1_FEE0_0000, False), (0xFEE0_0000 << 12, False), (0x80_FEE0_0000, False),
])  # fmt: skip
@pytest.mark.parametrize("tt", [None, 0, 2])
def test_interrupt_range_is_not_dma(address: int, inside: bool, tt: int | None) -> None:
    """With translation off (None), by second stage, and passed through."""
    world = World()
    if tt is not None:
        world.map(world.device(tt=tt), 4, address, 0x9000 | RW)
        world.start()
    outcome = world.dma(address, length=4)
    assert outcome.interrupt == inside
    assert (outcome.host_address is None) == inside
    assert outcome.fault is None
    assert world.records() == []


def test_interrupt_range_needs_no_tables() -> None:
    world = World()
    world.start(ABSENT | 2 << 10)
    assert world.dma(0xFEE0_0000, length=4).interrupt


def test_read_of_the_interrupt_range_is_not_translated() -> None:
    world = mapped(address=0xFEE0_0000)
    assert world.dma(0xFEE0_0000, READ).host_address is None


def test_interrupt_range_with_a_pasid_is_not_an_interrupt() -> None:
    assert mapped().fault(0xFEE0_0000, pasid=1) == 0x31


# Address limits


@pytest.mark.parametrize("address_width", [32, 39, 40, 48, 50, 57])
@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("access", [READ, WRITE])
def test_largest_address_by_second_stage(address_width: int, levels: int, access: Any) -> None:
    limit = min(address_width, 12 + 9 * levels)
    for bit in range(limit, 64):
        world = World(address_width=address_width, levels=(levels,))
        world.map(world.device(levels=levels), levels, (1 << limit) - 4096, 0x9000 | RW)
        if bit == limit:
            assert world.start().dma((1 << limit) - 1, access).host_address == 0x9FFF
        assert world.start().fault(1 << bit, access) == 0x04
        assert world.fault((1 << bit) | 0x5000, access, length=0 if access == READ else 1) == 0x04


@pytest.mark.parametrize("haw", HAWS)
@pytest.mark.parametrize("address_width", [39, 48])
def test_largest_address_by_pass_through(haw: int, address_width: int) -> None:
    """The guest width does not matter, only the host's."""
    world = World(address_width=address_width, host_address_width=haw)
    world.context(tt=2, levels=3)
    world.start()
    for bit in range(12, 64):
        if bit < haw:
            assert world.dma(1 << bit).host_address == 1 << bit
        else:
            assert world.fault(1 << bit) == 0x04
    assert world.dma((1 << haw) - 1).host_address == (1 << haw) - 1


def test_pass_through_neither_checks_permissions_nor_reads_tables() -> None:
    world = World()
    world.context(tt=2, table=ABSENT)
    world.start()
    for access in (READ, WRITE):
        assert world.dma(0x7_1234_5678, access).host_address == 0x7_1234_5678


# Two things wrong at once


def spoiled_context(*flaws: str, levels: int = 4) -> tuple[World, dict[str, Any]]:
    """A world whose context entry has the named flaws, and the request that meets them."""
    world = World(levels=(3, 4), device_tlb="dt" in flaws)
    extra, table = 0, world.page()
    request: dict[str, Any] = {}
    if "reserved" in flaws:
        extra |= 1 << 127
    if "tt" in flaws:
        extra |= 3 << 2
    if "aw" in flaws:
        levels = 5
    if "table" in flaws:
        table = ABSENT
    if "kind" in flaws:
        request["kind"] = TRANSLATION_REQUEST
    if "address" in flaws:
        request["address"] = 1 << 60
    world.context(table=table, levels=levels, extra=extra, p=0 if "absent" in flaws else 1)
    return world.start(), request


ORDER = ("absent", "reserved", "tt", "kind")
CODES = {"absent": 0x02, "reserved": 0x0B, "tt": 0x03, "kind": 0x0D, "aw": 0x03, "address": 0x04, "table": 0x03}


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations((*ORDER, "address", "table"), 2)))
def test_earlier_check_of_the_context_entry_wins(first: str, second: str) -> None:
    """1.2, steps 6 to 12; the order of steps 9 and 10 (D-1) is left out."""
    world, request = spoiled_context(first, second, "dt")
    assert world.fault(**request) == CODES[first]


@pytest.mark.parametrize("second", ["address", "table"])
def test_address_width_wins_over_what_the_walk_would_find(second: str) -> None:
    world, request = spoiled_context("aw", second)
    assert world.fault(**request) == 0x03
    assert world.records()[0].reason == 0x03


def test_root_entry_reserved_wins_over_unreadable_context_table() -> None:
    world = World()
    world.put(world.root, ABSENT | 1, 1)
    assert world.start().fault() == 0x0A


def test_address_limit_wins_over_the_tables() -> None:
    world = mapped(entry=0x9000 | RW | TM)
    assert world.fault(0x5000 | 1 << 48) == 0x04


# Hostile memory


@pytest.mark.parametrize("fill", [0x00, 0xFF, 0x55, 0xAA, 0x01, 0x03, 0x83])
def test_memory_full_of_one_byte(fill: int) -> None:
    memory = FlatMemory(bytearray([fill]) * (1 << 16))
    unit = RemappingUnit(memory, Capabilities(device_tlb=True))
    unit.mmio_write(GCMD, SRTP, 4)
    unit.mmio_write(GCMD, TE, 4)
    world = World()
    world.unit = unit
    for kind in KINDS:
        assert world.fault(0x1234, kind=kind) in (0x01, 0x0A)


def test_everything_in_one_page() -> None:
    """Root table, context table and page tables are the same page: no exception."""
    world = World()
    for index in range(512):
        world.put(world.root + 8 * index, world.root | 1 if index % 2 == 0 else 0)
    world.start()
    for access in (READ, WRITE):
        for devfn in (0, 1, 0xFF):
            assert world.fault(0, access, SourceId.of(devfn)) == 0x03


def test_translation_request_when_permissions_are_checked_per_level() -> None:
    world = World(device_tlb=True, policy=Policy(permission_per_level=True))
    world.map(world.device(tt=1), 4, 0x5000, 0x9000 | R)
    answer = world.start().dma(0x5000, WRITE, kind=TRANSLATION_REQUEST)
    assert (answer.readable, answer.writable) == (True, False)


@pytest.mark.parametrize("haw", [39, 46, 51])
def test_reserved_translation_type_does_not_make_the_pointer_reserved(haw: int) -> None:
    """1.3: pointer bits beyond the host width are reserved for types 00 and 01."""
    world = World(host_address_width=haw)
    world.context(tt=3, table=1 << 60)
    assert world.start().fault() == 0x03


def test_interrupt_range_is_not_dma_even_beside_a_cached_table() -> None:
    """The 2 MiB around it share a table; having walked that does not open the range."""
    world = World()
    top = world.device()
    world.map(top, 4, 0xFEF0_0000, 0x9000 | 3)
    world.map(top, 4, 0xFEE0_1000, 0xA000 | 3)
    world.start()
    assert world.dma(0xFEF0_0000).host_address == 0x9000
    assert world.dma(0xFEE0_1000).host_address is None
    assert world.dma(0xFEE0_1000, length=4).interrupt


def test_cached_large_page_around_the_interrupt_range_does_not_swallow_messages() -> None:
    """3.14: an address in the range is a message, even if a cached large page covers it."""
    world = World()
    top = world.page()
    world.context(table=top)
    world.map(top, 4, 0xFEE0_0000, 0x4000_0000 | RW | PS, 2)
    world.start()
    for _ in range(2):
        assert world.dma(0xFEF0_1000).host_address == 0x4010_1000
        assert world.dma(0xFEE0_0000, WRITE, length=4).interrupt


@pytest.mark.parametrize(("first", "code"), [(False, 0x0D), (True, 0x03)])
@pytest.mark.parametrize("kind", [TRANSLATION_REQUEST, TRANSLATED])
def test_levels_or_type_first(first: bool, code: int, kind: AddressType) -> None:
    """Doubt D-1: both are wrong."""
    world = World(policy=Policy(levels_before_type=first), device_tlb=True, levels=(4,))
    world.context(table=world.page(), levels=3)
    world.start()
    assert world.fault(0x5000, kind=kind) == code
    assert world.fault(0x5000) == 0x03


@pytest.mark.parametrize("deepest", [False, True])
@pytest.mark.parametrize("levels", [3, 4])
def test_pass_through_with_fewer_levels(deepest: bool, levels: int) -> None:
    """Doubt D-2: tolerated, or 0x04."""
    world = World(policy=Policy(pass_through_needs_most_levels=deepest), levels=(3, 4))
    world.context(tt=2, levels=levels)
    world.start()
    outcome = world.dma(0x5000)
    assert int(outcome.fault or 0) == (0x04 if deepest and levels == 3 else 0)
