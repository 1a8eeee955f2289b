"""interrupts.py: the entry that an interrupt request selects, the checks, and the resulting interrupt."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import (
    Capabilities,
    DmaRequest,
    FaultReason,
    FlatMemory,
    InterruptOutcome,
    InterruptRequest,
    Message,
    MisuseError,
    Policy,
    RemappingUnit,
    Selector,
    SourceId,
)
from tests.engine.interrupting import (
    CFI,
    DESCRIPTOR,
    EIME,
    FIXED_41_TO_5,
    IRE,
    IRTA,
    MESSAGE_41_TO_5,
    ONES,
    POSTED_71,
    SIRTP,
    TABLE,
    Interrupting,
    recorded,
    request,
)
from tests.engine.raising import raises
from tests.engine.world import (
    ABSENT,
    FEADDR,
    FECTL,
    FEDATA,
    GCMD,
    GSTS,
    NIC,
    READ,
    TE,
    WRITE,
    mapped,
)

# 6.2, 6.3: commands, status, latch


def test_commands_show_in_the_status() -> None:
    world = Interrupting(start=False)
    for levels in (0, IRE, CFI, IRE | CFI, 0):
        world.command(levels)
        assert world.read(GSTS) == levels
    world.set_table(TABLE)
    assert world.read(GSTS) == SIRTP
    world.command(IRE)
    assert world.read(GSTS) == IRE | SIRTP


def test_commands_leave_translation_alone() -> None:
    world = mapped()
    world.write(GCMD, TE | IRE | SIRTP)
    assert world.read(GSTS) == TE | 1 << 30 | IRE | SIRTP
    assert world.dma(0x5000).host_address == 0x9000


def test_commands_have_no_effect_without_the_capability() -> None:
    world = Interrupting(interrupt_remapping=False)
    world.irte(0)
    assert (world.read(GSTS), world.read(IRTA, 8)) == (0, 0)
    assert world.interrupt(0).passed


def test_table_takes_effect_with_the_command() -> None:
    world = Interrupting(s=0)
    world.irte(0)
    world.irte(2)
    world.write(IRTA, 0x30_0000 | 1, 8)
    assert (world.code(0), world.code(2)) == (0, 0x21)
    world.command(IRE)
    assert (world.code(0), world.code(2)) == (0, 0x21)
    world.set_table(TABLE | 1)
    assert (world.code(0), world.code(2)) == (0, 0)


def test_extended_mode_takes_effect_with_the_command() -> None:
    world = Interrupting(extended_interrupts=True)
    world.irte(0, FIXED_41_TO_5 | 1 << 63)
    world.write(IRTA, TABLE | EIME | 7, 8)
    assert world.code(0) == 0x24
    world.set_table(TABLE | EIME | 7)
    assert world.code(0) == 0


def test_extended_mode_needs_the_capability() -> None:
    world = Interrupting(eime=True, extended_interrupts=False)
    world.irte(0)
    assert world.interrupt(0).message == MESSAGE_41_TO_5
    world.irte(1, FIXED_41_TO_5 | 1 << 63)
    assert world.code(1) == 0x24


@pytest.mark.parametrize("s", range(16))
def test_table_size(s: int) -> None:
    world = Interrupting(s=s)
    last = 2 ** (s + 1) - 1
    world.irte(last)
    assert world.code(last) == 0
    assert world.code(0xFFFF, last + 1 - 0xFFFF if s == 15 else None) == 0x21
    assert world.code(min(last + 1, 0xFFFF), 1 if s == 15 else None) == 0x21


def test_reset_turns_it_off() -> None:
    world = Interrupting()
    world.irte(0)
    world.interrupt(0)
    world.unit.reset()
    assert world.interrupt(0).passed
    world.command(IRE)
    assert world.unit.interrupts.table == 0
    assert world.code(2) == 0x21


# 7.1: requests


@pytest.mark.parametrize("wrong", [
    {"source_id": 0x20}, {"source_id": -1}, {"address": 0xFEDF_FFFC}, {"address": 0xFEF0_0000}, {"address": -1},
    {"address": 0x1_FEE0_0000}, {"address": 0x5000}, {"data": -1}, {"data": 1 << 32},
])  # fmt: skip
@pytest.mark.parametrize("on", [False, True])
def test_invalid_interrupt_request_is_misuse(wrong: dict[str, Any], on: bool) -> None:
    world = Interrupting(start=on)
    with pytest.raises(MisuseError):
        world.unit.remap_interrupt(InterruptRequest(**{"source_id": NIC, "address": 0xFEE0_0010, "data": 0, **wrong}))
    assert world.records() == []


@pytest.mark.parametrize("address", [0xFEE0_0000, 0xFEEF_FFFF, 0xFEE0_0010, 0xFEE1_2344])
@pytest.mark.parametrize("cfi", [0, CFI])
def test_everything_passes_while_remapping_is_off(address: int, cfi: int) -> None:
    world = Interrupting(start=False)
    world.set_table(TABLE)
    world.command(cfi)
    outcome = world.unit.remap_interrupt(InterruptRequest(NIC, address, 0xFFFF_FFFF))
    assert outcome == InterruptOutcome(Message(address, 0xFFFF_FFFF), passed=True)


@pytest.mark.parametrize("bit", range(16))
def test_handle_bits(bit: int) -> None:
    world = Interrupting(s=15)
    world.irte(1 << bit)
    place = 2 if bit == 15 else 5 + bit
    address = 0xFEE0_0010 | 1 << place
    assert world.unit.remap_interrupt(InterruptRequest(NIC, address, 0)).message == MESSAGE_41_TO_5
    for ignored in (1, 2, 3):
        assert world.unit.remap_interrupt(InterruptRequest(NIC, address | ignored, 0)).fault is None


@pytest.mark.parametrize(("handle", "sub"), [(0, 5), (5, 0), (2, 3), (0x7FFF, 0x8000), (0xFFFF, 0), (0, 0xFFFF)])
def test_index_is_the_sum(handle: int, sub: int) -> None:
    world = Interrupting(s=15)
    world.irte(handle + sub)
    assert world.interrupt(handle, sub).message == MESSAGE_41_TO_5


def test_without_subhandle_the_data_are_not_used() -> None:
    world = Interrupting()
    world.irte(3)
    for data in (0, 1, 0xFFFF, 0xFFFF_FFFF):
        assert world.interrupt(3, data=data).message == MESSAGE_41_TO_5


def test_sum_does_not_wrap() -> None:
    world = Interrupting(s=15)
    world.irte(0)
    assert world.code(0xFFFF, 1) == 0x21
    assert world.last_record() == recorded(0x21, 0)
    assert world.code(0xFFFF, 0xFFFF) == 0x21


@pytest.mark.parametrize("bit", range(16, 32))
def test_reserved_data(bit: int) -> None:
    world = Interrupting()
    world.irte(3)
    assert world.code(0, 3, data=3 | 1 << bit) == 0x20
    assert world.last_record() == recorded(0x20, 0)


def test_data_that_are_not_used_are_ignored() -> None:
    """5.1.2.2: without SHV, all of them."""
    world = Interrupting()
    world.irte(3)
    assert world.code(3, data=1 << 16) == 0
    assert world.code(3, data=0xFFFF) == 0


# 7.2: the order of the checks


@raises(*(FaultReason(code) for code in (0x20, 0x21, 0x22, 0x23, 0x24, 0x26, 0x27, 0x28)))
def test_order_of_the_faults() -> None:
    """Everything is wrong at once; each repair uncovers the next fault."""
    world = Interrupting(s=0, posted_interrupts=True)
    world.set_table(ABSENT)
    assert world.code(2, 0, data=1 << 31) == 0x20
    assert world.code(2, 0) == 0x21
    assert world.code(1, 0) == 0x23
    world.set_table(TABLE)
    bad_posted = POSTED_71 | 1 << 12
    other = 1 << 18 | 0x9999  # SVT 01, another SID
    world.irte(1, bad_posted & ~1, other)
    assert world.code(1, 0) == 0x22
    world.irte(1, bad_posted, other)
    assert world.code(1, 0) == 0x26
    world.irte(1, bad_posted, (ABSENT >> 32) << 32)
    assert world.code(1, 0) == 0x24
    world.unit.caches.invalidate(Selector.interrupts())
    world.irte(1, POSTED_71, (ABSENT >> 32) << 32)
    assert world.code(1, 0) == 0x27
    world.unit.caches.invalidate(Selector.interrupts())
    world.irte(1, POSTED_71)
    world.descriptor()
    world.put(DESCRIPTOR + 32, world.control() | 1 << 2)
    assert world.code(1, 0) == 0x28
    world.descriptor()
    assert world.code(1, 0) == 0
    assert [record.reason for record in world.records()] == [0x20, 0x21, 0x23, 0x22, 0x26, 0x24, 0x27, 0x28]


def test_source_and_reserved_fields_both_wrong() -> None:
    """5.1.4: the source is validated first."""
    world = Interrupting()
    world.irte(0, FIXED_41_TO_5 | 1 << 12, 1 << 18 | 0x9999)
    assert world.code(0) == 0x26
    world.irte(0, FIXED_41_TO_5 | 1 << 12, 1 << 18 | NIC)
    assert world.code(0) == 0x24
    world.irte(0, FIXED_41_TO_5, 1 << 18 | 0x9999)
    assert world.code(0) == 0x26


@pytest.mark.parametrize("fails", [False, True])
def test_reserved_validation_type(fails: bool) -> None:
    """Doubt D-10."""
    world = Interrupting(policy=Policy(reserved_validation_fails=fails))
    world.irte(0, FIXED_41_TO_5, 3 << 18 | NIC)
    assert world.code(0) == (0x26 if fails else 0x24)
    world.irte(0, FIXED_41_TO_5 | 1 << 12, 3 << 18 | NIC)
    assert world.code(0) == (0x26 if fails else 0x24)


# 3.1, 7.6: what is recorded


def faulty(code: int, fpd: int) -> tuple[Interrupting, InterruptRequest, int]:
    """A world, a request that raises `code` there under an entry with that FPD, and the index to be recorded."""
    world = Interrupting(s=7, posted_interrupts=True)
    wanted, index = request(0x40, 2), 0x42
    low, high = FIXED_41_TO_5, 0
    world.descriptor()
    match code:
        case 0x20:
            wanted, index = wanted._replace(data=1 << 16), 0
        case 0x21:
            wanted, index = request(0x8123), 0x8123
        case 0x22:
            low &= ~1
        case 0x23:
            world.set_table(ABSENT | 7)
        case 0x24:
            low |= 1 << 12
        case 0x25:
            wanted, index = wanted._replace(address=0xFEE0_5000), 0
        case 0x26:
            high = 1 << 18
        case 0x27:
            low, high = POSTED_71, (ABSENT >> 32) << 32
        case 0x28:
            low = POSTED_71
            world.put(DESCRIPTOR + 32, 1 << 15)
    world.irte(0x42, low | fpd << 1, high)
    return world, wanted, index


@pytest.mark.parametrize("fpd", [0, 1])
@pytest.mark.parametrize("code", range(0x20, 0x29))
def test_interrupt_fault_record(code: int, fpd: int) -> None:
    world, wanted, index = faulty(code, fpd)
    before = world.memory.read(0, 0x41_0000)
    outcome = world.unit.remap_interrupt(wanted)
    silent = bool(fpd) and code in (0x22, 0x24, 0x26, 0x27, 0x28)
    assert outcome == InterruptOutcome(fault=FaultReason(code), recorded=not silent)
    assert world.last_record() == ((0, 0) if silent else recorded(code, index))
    assert world.read(0x34) == (0 if silent else 2)
    assert world.memory.read(0, 0x41_0000) == before
    assert world.unit.drain_events() == []


def test_fault_event_is_not_remapped() -> None:
    """The message of the unit itself is not remapped, whatever the table holds."""
    world = Interrupting()
    world.write(FECTL, 0)
    world.write(FEADDR, 0xFEE0_0010)
    world.write(FEDATA, 0x55)
    assert world.code(0) == 0x22
    assert world.unit.drain_events() == [Message(0xFEE0_0010, 0x55)]
    world.irte(0)
    assert world.code(0) == 0


def test_interrupt_faults_are_compressed() -> None:
    world = Interrupting(policy=Policy(compress_faults=True))
    assert [world.interrupt(index).recorded for index in (0, 1)] == [True, False]


# 7.3: compatibility format


@pytest.mark.parametrize("eime", [False, True])
@pytest.mark.parametrize("cfi", [False, True])
@pytest.mark.parametrize("address", [0xFEE0_0000, 0xFEE0_500C, 0xFEEF_FFEF])
def test_compatibility_format(eime: bool, cfi: bool, address: int) -> None:
    world = Interrupting(eime=eime, cfi=cfi)
    outcome = world.unit.remap_interrupt(InterruptRequest(NIC, address, 0xC041))
    if cfi and not eime:
        assert outcome == InterruptOutcome(Message(address, 0xC041), passed=True)
        assert world.records() == []
    else:
        assert outcome == InterruptOutcome(fault=FaultReason.IR_25, recorded=True)
        assert world.last_record() == recorded(0x25)


@raises(FaultReason.IR_25)
def test_compatibility_format_that_is_not_allowed() -> None:
    world = Interrupting()
    assert world.unit.remap_interrupt(InterruptRequest(NIC, 0xFEE0_0000, 0)).fault is FaultReason.IR_25


def test_allowing_the_compatibility_format_does_not_affect_the_remappable() -> None:
    world = Interrupting(cfi=True)
    assert world.code(0) == 0x22
    world.irte(0)
    assert world.interrupt(0).message == MESSAGE_41_TO_5


# 7.4: remapped form


def test_message_in_apic_mode() -> None:
    world = Interrupting()
    for dlm, dm, rh, tm in itertools.product((0, 1, 2, 4, 5, 7), (0, 1), (0, 1), (0, 1)):
        world.irte(0, 0xA500 << 32 | 0x93 << 16 | 0xF << 8 | dlm << 5 | tm << 4 | rh << 3 | dm << 2 | 1)
        world.unit.caches.invalidate(Selector.interrupts())
        outcome = world.interrupt(0)
        assert outcome.message == (0xFEEA_5000 | rh << 3 | dm << 2, tm << 15 | 1 << 14 | dlm << 8 | 0x93)
        assert outcome.remapped == (0x93, 0xA5, dlm, bool(dm), bool(rh), bool(tm))
        assert outcome == InterruptOutcome(outcome.message, outcome.remapped)
    assert world.unit.drain_events() == []


@pytest.mark.parametrize(("destination", "address"), [
    (0, 0xFEE0_0000), (0xFF, 0xFEEF_F000), (0x100, 0x0000_0100_FEE0_0000), (0x1234_5678, 0x1234_5600_FEE7_8000),
    (0xFFFF_FFFF, 0xFFFF_FF00_FEEF_F000),
])  # fmt: skip
def test_message_in_extended_mode(destination: int, address: int) -> None:
    world = Interrupting(eime=True)
    world.irte(0, destination << 32 | 0x41 << 16 | 1)
    outcome = world.interrupt(0)
    assert outcome.message == (address, 0x4041)
    assert outcome.remapped is not None
    assert outcome.remapped.destination == destination


@pytest.mark.parametrize("eime", [False, True])
@pytest.mark.parametrize("pi", [False, True])
def test_reserved_bits_of_the_remapped_form(eime: bool, pi: bool) -> None:
    """One bit at a time, of all 128; IM turns the entry into one of the other form."""
    world = Interrupting(eime=eime, posted_interrupts=pi)
    reserved = {*range(12, 15), *range(24, 32), *range(84, 128)}
    reserved |= set() if eime else {*range(32, 40), *range(48, 64)}
    reserved |= set() if pi else {15}
    for bit in set(range(2, 128)) - {5, 6, 7, 15, 82, 83} | ({15} if not pi else set()):
        entry = FIXED_41_TO_5 ^ 1 << bit
        world.irte(0, entry & ONES, entry >> 64)
        world.unit.caches.invalidate(Selector.interrupts())
        assert world.code(0) == (0x24 if bit in reserved else 0), bit


@pytest.mark.parametrize("dlm", range(8))
def test_delivery_modes(dlm: int) -> None:
    world = Interrupting()
    world.irte(0, FIXED_41_TO_5 | dlm << 5)
    assert world.code(0) == (0x24 if dlm in (3, 6) else 0)


def test_not_present_hides_everything_else() -> None:
    world = Interrupting()
    world.irte(0, ONES & ~3, ONES)
    assert (world.code(0), world.interrupt(0).recorded) == (0x22, True)
    world.irte(0, ONES & ~1, ONES)
    assert not world.interrupt(0).recorded


SIDS = [0x0020, 0x0021, 0x0024, 0x0026, 0x0027, 0x0028, 0x1220, 0x1224, 0x0000, 0xFFFF, 0x2010, 0x1020]
REQUESTERS = [*SIDS, 0x1500, 0x15FF, 0x0F00, 0x1000, 0x2000, 0x20FF, 0x2100]


@pytest.mark.parametrize("svt", range(4))
@pytest.mark.parametrize("sq", range(4))
def test_source_validation(svt: int, sq: int) -> None:
    """Every type and qualifier, against the sheet's masks and bus range."""
    world = Interrupting(fault_records=1)
    mask = (0xFFFF, 0xFFFB, 0xFFF9, 0xFFF8)[sq]
    for sid in SIDS:
        world.irte(0, FIXED_41_TO_5, svt << 18 | sq << 16 | sid)
        world.unit.caches.invalidate(Selector.interrupts())
        for requester in REQUESTERS:
            bus = requester // 256
            expected = {
                0: 0,
                1: 0 if requester & mask == sid & mask else 0x26,
                2: 0 if sid // 256 <= bus <= sid % 256 else 0x26,
                3: 0x24,
            }[svt]
            assert world.code(0, source=SourceId.of(requester)) == expected, (hex(sid), hex(requester))


@given(svt=st.integers(0, 2), sq=st.integers(0, 3), sid=st.integers(0, 0xFFFF), flips=st.integers(0, 0xFFFF))
@settings(max_examples=200, deadline=None)
def test_source_validation_anywhere(svt: int, sq: int, sid: int, flips: int) -> None:
    world = Interrupting()
    requester = sid ^ flips
    world.irte(0, FIXED_41_TO_5, svt << 18 | sq << 16 | sid)
    if svt == 0:
        valid = True
    elif svt == 1:
        ignored = [[], [2], [2, 1], [2, 1, 0]][sq]
        valid = all(bit in ignored for bit in range(16) if flips >> bit & 1)
    else:
        valid = requester >> 8 in range(sid >> 8, (sid & 0xFF) + 1)
    assert world.code(0, source=SourceId.of(requester)) == (0 if valid else 0x26)


def test_source_validation_of_a_posted_entry() -> None:
    world = Interrupting(posted_interrupts=True)
    world.descriptor()
    world.irte(0, POSTED_71, 1 << 18 | NIC + 1)
    assert (world.code(0), world.pir()) == (0x26, 0)
    assert world.code(0, source=SourceId.of(NIC + 1)) == 0


# 1.1.2, D-6: what else arrives in the range

MALFORMED: list[dict[str, Any]] = [
    {"access": READ, "length": 4}, {"access": READ, "length": 1}, {"length": 1}, {"length": 2}, {"length": 3},
    {"length": 5}, {"length": 8}, {"length": 4, "address": 0xFEE0_0011}, {"length": 4, "address": 0xFEE0_0012},
]  # fmt: skip


def dma_request(address: int = 0xFEE0_0010, access: Any = WRITE, length: int = 4) -> Any:
    """An untranslated memory request without PASID."""
    return DmaRequest(NIC, address, access, length)


@pytest.mark.parametrize("wrong", MALFORMED)
@pytest.mark.parametrize("faults", [False, True])
@pytest.mark.parametrize("on", [False, True])
def test_request_in_the_range_that_is_not_a_message(wrong: dict[str, Any], faults: bool, on: bool) -> None:
    """Doubt D-6; with remapping off there is no fault. The request is blocked in both cases."""
    world = Interrupting(start=on, policy=Policy(malformed_interrupt_faults=faults))
    outcome = world.unit.interrupts.message(dma_request(**wrong))
    assert (outcome.host_address, outcome.interrupt) == (None, False)
    named = faults and on
    assert (outcome.fault, outcome.recorded) == ((FaultReason.IR_29, True) if named else (None, False))
    assert world.last_record() == (recorded(0x29) if named else (0, 0))


@pytest.mark.parametrize("on", [False, True])
def test_zero_length_read_in_the_range(on: bool) -> None:
    """3.14: it passes."""
    world = Interrupting(start=on)
    outcome = world.unit.interrupts.message(dma_request(access=READ, length=0))
    assert (outcome.host_address, outcome.interrupt, outcome.fault) == (0xFEE0_0010, False, None)
    assert world.records() == []


@raises(FaultReason.IR_29)
def test_read_in_the_range() -> None:
    assert Interrupting().unit.interrupts.message(dma_request(access=READ)).fault is FaultReason.IR_29


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("address", [0xFEE0_0000, 0xFEE0_0010, 0xFEEF_FFFC])
def test_message_in_the_range(address: int, on: bool) -> None:
    world = Interrupting(start=on)
    outcome = world.unit.interrupts.message(dma_request(address))
    assert (outcome.host_address, outcome.interrupt, outcome.fault) == (None, True, None)
    assert world.records() == []


# Bad input


@pytest.mark.parametrize("capabilities", [Capabilities(), Capabilities.full()])
def test_memory_of_ones(capabilities: Capabilities) -> None:
    memory = FlatMemory(bytearray(b"\xff" * (1 << 16)))
    unit = RemappingUnit(memory, capabilities)
    unit.mmio_write(IRTA, 0x1000 | EIME | 15, 8)
    unit.mmio_write(GCMD, SIRTP, 4)
    unit.mmio_write(GCMD, IRE, 4)
    codes = {int(unit.remap_interrupt(request(handle)).fault or 0) for handle in range(0, 0x10000, 0x111)}
    assert codes == {0x23, 0x24}


@pytest.mark.parametrize("irta", [ONES, ONES & ~0x7FF, 0xFFFF_FFFF_F00F, 0xFF_F000])
def test_table_beyond_memory(irta: int) -> None:
    world = Interrupting(posted_interrupts=True, extended_interrupts=True)
    world.set_table(irta)
    assert world.code(0x4000 if irta == 0xFF_F000 else 0) in (0x21, 0x23)


def test_descriptor_in_the_interrupt_table() -> None:
    """An entry of the table is its own descriptor: it is posted once, without a loop."""
    world = Interrupting(posted_interrupts=True)
    world.irte(0, TABLE << 32 | 5 << 16 | 1 << 15 | 1)
    assert world.interrupt(0).posted is not None
    assert world.memory.read_u64(TABLE) == TABLE << 32 | 5 << 16 | 1 << 15 | 1 << 5 | 1
