"""Translation requests and translated requests in scalable mode (spec 4.1, 4.2): who may send them, what they get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from iommu import AddressType, FaultReason, Outcome
from tests.engine.raising import raises
from tests.engine.scalable_world import (
    A1,
    A2,
    ADDRESS,
    ALL1,
    BUILDERS,
    D1,
    D2,
    FIRST,
    GUEST_PAGE,
    HOST,
    NESTED,
    SAME,
    SECOND,
    USER,
    WRITABLE,
    XD,
    P,
    ScalableWorld,
    first_stage,
    nested,
    pass_through,
    second_stage,
)
from tests.engine.world import ABSENT, NIC, PS, READ, RW, TRANSLATED, TRANSLATION_REQUEST, UNTRANSLATED, WRITE, R, W

WALKED: dict[int, Callable[..., ScalableWorld]] = {pgtt: BUILDERS[pgtt] for pgtt in (FIRST, SECOND, NESTED)}
FIRST_FLAGS = P | USER


def ask(world: ScalableWorld, address: int = ADDRESS, **rest: Any) -> Outcome:
    """A translation request."""
    return world.dma(address, kind=TRANSLATION_REQUEST, **rest)


def has_no_permissions(answer: Outcome) -> bool:
    """A successful completion without any permission."""
    return (answer.fault, answer.readable, answer.writable, answer.recorded) == (None, False, False, False)


# Who may


@raises(FaultReason.SCT_5)
def test_both_kinds_need_device_tlbs_enabled() -> None:
    for builder in WALKED.values():
        world = builder(context={"dte": 0, "pre": 0})
        for kind, pasid in ((TRANSLATION_REQUEST, None), (TRANSLATION_REQUEST, SAME), (TRANSLATED, None)):
            assert world.fault(kind=kind, pasid=pasid) == 0x44
        assert world.code() == 0


@pytest.mark.parametrize("pgtt", WALKED)
@pytest.mark.parametrize("pasid", [None, SAME])
@pytest.mark.parametrize("access", [READ, WRITE])
def test_answer_is_the_translation(pgtt: int, pasid: int | None, access: Any) -> None:
    world = WALKED[pgtt]()
    for _ in range(2):
        answer = ask(world, access=access, pasid=pasid)
        assert (answer.host_address, answer.page_size, answer.fault) == (HOST, 4096, None)
        assert (answer.readable, answer.writable) == (True, True)
    assert world.records() == []


@pytest.mark.parametrize("entry", [R, W, RW])
@pytest.mark.parametrize("warm", [False, True])
def test_permissions_by_second_stage(entry: int, warm: bool) -> None:
    world = second_stage(HOST | entry)
    if warm:
        assert world.code(access=READ if entry & R else WRITE) == 0
    answer = ask(world)
    assert (answer.host_address, answer.readable, answer.writable) == (HOST, bool(entry & R), bool(entry & W))


@pytest.mark.parametrize("entry", [FIRST_FLAGS, FIRST_FLAGS | WRITABLE])
@pytest.mark.parametrize("warm", [False, True])
def test_permissions_by_first_stage(entry: int, warm: bool) -> None:
    world = first_stage(HOST | entry)
    if warm:
        assert world.code() == 0
    answer = ask(world)
    assert (answer.host_address, answer.readable, answer.writable) == (HOST, True, bool(entry & WRITABLE))


@pytest.mark.parametrize("first", [FIRST_FLAGS, FIRST_FLAGS | WRITABLE])
@pytest.mark.parametrize("second", [R, RW])
def test_permissions_by_both_stages(first: int, second: int) -> None:
    world = nested(GUEST_PAGE | first, HOST | second)
    for _ in range(2):
        answer = ask(world)
        assert (answer.host_address, answer.readable) == (HOST, True)
        assert answer.writable == bool(first & WRITABLE and second & W)


def test_permissions_over_all_levels() -> None:
    for builder, clear in ((first_stage, WRITABLE), (second_stage, W)):
        for level in range(2, 5):
            world = builder()
            world.change((world.first or world.second)[level], clear=clear)
            answer = ask(world)
            assert (answer.host_address, answer.readable, answer.writable) == (HOST, True, False)


def test_supervisor_without_write_protection_is_granted_writes() -> None:
    for wpe in (0, 1):
        world = first_stage(HOST | P, pasid_entry={"wpe": wpe})
        answer = ask(world, pasid=SAME, privileged=True)
        assert (answer.host_address, answer.readable, answer.writable) == (HOST, True, not wpe)


@pytest.mark.parametrize(("xd", "execute", "executable"), [
    (0, True, True), (0, False, False), (XD, True, False), (XD, False, False),
])  # fmt: skip
def test_execute_permission_only_if_asked_and_allowed(xd: int, execute: bool, executable: bool) -> None:
    world = first_stage(HOST | ALL1 | xd, pasid_entry={"ere": 1})
    for _ in range(2):
        answer = ask(world, pasid=SAME, execute=execute)
        assert answer.fault is None
        assert answer.executable == executable


# What is merely not there


@pytest.mark.parametrize("pgtt", WALKED)
def test_absent_page_is_a_success_without_permissions(pgtt: int) -> None:
    world = WALKED[pgtt]()
    for _ in range(2):
        assert has_no_permissions(ask(world, ADDRESS + 0x1000))
        assert has_no_permissions(ask(world, ADDRESS + (1 << 30), pasid=SAME))
    assert world.records() == []


def test_page_without_permission_is_a_success_without_permissions() -> None:
    world = first_stage(HOST | P)
    assert has_no_permissions(ask(world))
    assert ask(world, pasid=SAME, privileged=True).host_address == HOST
    assert has_no_permissions(ask(world)), "also when a supervisor has it cached"
    world = nested(second=0)
    assert has_no_permissions(ask(world))
    assert world.records() == []


def test_address_beyond_the_guest_width_is_a_success_without_permissions() -> None:
    world = second_stage()
    for bit in range(48, 64):
        assert has_no_permissions(ask(world, 1 << bit))
    assert world.records() == []


# What is wrong


@raises(FaultReason.SRT_2, FaultReason.SCT_2, FaultReason.SCT_3)
@raises(FaultReason.SPT_3, FaultReason.SPT_4, FaultReason.SSS_3)
def test_configuration_faults_block_translation_requests() -> None:
    def blocked_by(code: int, at: int, *, clear: int = 0, add: int = 0) -> None:
        world = second_stage(host_address_width=46)
        world.change(at, clear=clear, add=add)
        assert ask(world).fault == code
        assert (world.record().reason, world.record().address_type) == (code, 1)

    like = second_stage(host_address_width=46)
    blocked_by(0x39, like.root, clear=1)
    blocked_by(0x41, like.contexts[NIC], clear=1)
    blocked_by(0x42, like.contexts[NIC], add=1 << 6)
    blocked_by(0x5A, like.pasids[NIC, 0], add=1 << 10)
    blocked_by(0x5B, like.pasids[NIC, 0], add=7 << 2)
    blocked_by(0x7A, like.second[1], add=1 << 50)


@pytest.mark.parametrize(
    ("place", "clear"), [("directory", 1), ("entry", 1), ("first", 1)], ids=["0x51", "0x59", "0x71"]
)
def test_what_is_not_present_is_a_success_without_permissions(place: str, clear: int) -> None:
    """7.1.3: from the PASID directory on."""
    world = first_stage()
    at = {"directory": world.directory_address(), "entry": world.pasids[NIC, 0], "first": world.first[4]}[place]
    world.change(at, clear=clear)
    assert has_no_permissions(ask(world))
    assert world.records() == []


def test_faults_of_the_first_stage_are_a_success_without_permissions() -> None:
    """7.1.3: reserved bits, tables that cannot be read, and updates that are not possible."""
    reserved = first_stage(HOST | ALL1 | 1 << 50, host_address_width=46)
    unreadable = first_stage()
    unreadable.pasid_entry(pgtt=FIRST, first=ABSENT)
    unsnooped = first_stage(pasid_entry={"pwsnp": 0})
    for world in (reserved, unreadable, unsnooped):
        assert has_no_permissions(ask(world))
        assert world.records() == []


@raises(FaultReason.SSS_4)
def test_second_stage_tables_that_cannot_be_read_are_not_a_success() -> None:
    world = second_stage()
    world.pasid_entry(pgtt=SECOND, second=ABSENT)
    assert ask(world).fault == 0x7B


@pytest.mark.parametrize("pgtt", WALKED)
@raises(FaultReason.SGN_8)
def test_answer_in_the_interrupt_range_is_blocked(pgtt: int) -> None:
    world = {
        FIRST: lambda: first_stage(0xFEE0_0000 | ALL1),
        SECOND: lambda: second_stage(0xFEE0_0000 | RW),
        NESTED: lambda: nested(second=0xFEE0_0000 | RW),
    }[pgtt]()
    assert ask(world).fault == 0x87


@pytest.mark.parametrize("kind", [UNTRANSLATED, TRANSLATION_REQUEST])
@pytest.mark.parametrize("pgtt", WALKED)
def test_answer_is_a_page_beside_the_interrupt_range(pgtt: int, kind: AddressType) -> None:
    """SGN.8.2: no byte of a translation may be in the range; of an untranslated request, its own address counts."""
    beside = ADDRESS & ~0x1F_FFFF
    large = {
        FIRST: lambda: first_stage(0xFEE0_0000 | ALL1 | PS, leaf=2),
        SECOND: lambda: second_stage(0xFEE0_0000 | RW | PS, leaf=2),
        NESTED: lambda: nested(0x40_4000_0000 | ALL1 | PS, 0xFEE0_0000 | RW | PS, first_leaf=2, second_leaf=2),
    }[pgtt]()
    for _ in range(2):
        outcome = large.dma(beside | 0x10_0000, kind=kind)
        assert outcome.host_address == (0xFEF0_0000 if kind is UNTRANSLATED else None)
        assert int(outcome.fault or 0) == (0 if kind is UNTRANSLATED else 0x87)


def test_small_page_of_a_large_one_beside_the_interrupt_range() -> None:
    """Nested: the translation is the smaller of both pages, which is not in the range."""
    world = nested(0x40_4000_0000 | ALL1 | PS, 0xFEF0_0000 | RW, first_leaf=2)
    world.map(world.second_top, 4, 0x40_4000_0000, 0xFEF0_0000 | RW)
    assert ask(world, ADDRESS & ~0x1F_FFFF).host_address == 0xFEF0_0000


@pytest.mark.parametrize("no_write", [False, True])
@pytest.mark.parametrize("supported", [False, True])
def test_question_about_the_interrupt_range(no_write: bool, supported: bool) -> None:
    """7.1.3, S.1 and S.2: untranslated writes alone, whatever the tables say. NW counts if the unit knows it."""
    for builder in BUILDERS.values():
        world = builder(no_write_requests=supported)
        answer = ask(world, 0xFEE0_1000, no_write=no_write)
        assert (answer.host_address, answer.fault, answer.interrupt) == (None, None, False)
        assert (answer.readable, answer.writable) == (False, not (no_write and supported))
        assert world.records() == []


@raises(FaultReason.SCT_5)
def test_question_about_the_interrupt_range_of_a_device_that_may_not_ask() -> None:
    """4.2.3: the faults of the context come first."""
    assert ask(second_stage(context={"dte": 0, "pre": 0}), 0xFEE0_1000).fault == 0x44


def test_question_about_the_interrupt_range_with_a_pasid() -> None:
    """4.2.3: translated as any other; passed through, it gets no permission and no fault (SGN.8.2)."""
    world = second_stage(address=0xFEE0_1000)
    assert ask(world, 0xFEE0_1000, pasid=SAME).host_address == HOST
    world = pass_through()
    assert has_no_permissions(ask(world, 0xFEE0_1000, pasid=SAME))
    assert world.records() == []


# Sizes


@pytest.mark.parametrize("leaf", [2, 3])
def test_size_of_the_page(leaf: int) -> None:
    size = 1 << 3 + 9 * leaf
    assert ask(first_stage(0x1_4000_0000 | ALL1 | PS, leaf=leaf)).page_size == size
    assert ask(second_stage(0x1_4000_0000 | RW | PS, leaf=leaf)).page_size == size


# Accessed and dirty, 8.1


def leaves(world: ScalableWorld) -> tuple[int, int]:
    """A and D of both leaves."""
    first = world.memory.read_u64(world.first[1]) & (A1 | D1) if world.first else 0
    second = world.memory.read_u64(world.second[1]) & (A2 | D2) if world.second else 0
    return first, second


def test_request_that_may_write_sets_dirty() -> None:
    world = first_stage()
    assert ask(world).writable
    assert leaves(world) == (A1 | D1, 0)
    world = second_stage(pasid_entry={"ssade": 1})
    assert ask(world).writable
    assert leaves(world) == (0, A2 | D2)
    world = nested(pasid_entry={"ssade": 1})
    assert ask(world).writable
    assert leaves(world) == (A1 | D1, A2 | D2)


def test_request_that_gets_no_write_permission_sets_no_dirty() -> None:
    world = first_stage(HOST | P | USER)
    assert not ask(world).writable
    assert leaves(world) == (A1, 0)
    world = second_stage(HOST | R, pasid_entry={"ssade": 1})
    assert not ask(world).writable
    assert leaves(world) == (0, A2)


@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("pgtt", WALKED)
def test_no_write_request_gets_write_permission_only_for_what_is_dirty(pgtt: int, dirty: bool) -> None:
    world = WALKED[pgtt](pasid_entry={"ssade": 1})
    if dirty:
        assert world.code(access=WRITE) == 0
    answer = ask(world, no_write=True)
    assert (answer.host_address, answer.readable, answer.writable) == (HOST, True, dirty)
    first, second = leaves(world)
    assert (bool(first & D1), bool(second & D2)) == (dirty and pgtt != SECOND, dirty and pgtt != FIRST)


def test_no_write_is_ignored_without_its_capability() -> None:
    world = first_stage(no_write_requests=False)
    assert ask(world, no_write=True).writable
    assert leaves(world) == (A1 | D1, 0)


def test_no_write_has_no_effect_without_dirty_bits() -> None:
    answer = ask(second_stage(), no_write=True)
    assert (answer.host_address, answer.readable, answer.writable) == (HOST, True, True)


def test_no_write_then_write_sets_dirty() -> None:
    world = first_stage()
    assert not ask(world, no_write=True).writable
    assert ask(world).writable
    assert leaves(world) == (A1 | D1, 0)


# Translated requests (4.2.5)


@pytest.mark.parametrize("pgtt", WALKED)
def test_translated_requests_are_not_walked(pgtt: int) -> None:
    world = WALKED[pgtt]()
    world.scalable_context(directory=ABSENT)
    for address in (0, ADDRESS, 0x12_3456_7000):
        for access in (READ, WRITE):
            assert world.dma(address, access, kind=TRANSLATED).host_address == address
            assert world.memory.log == []


@pytest.mark.parametrize("fpd", [0, 1])
@raises(FaultReason.SGN_8)
def test_translated_request_to_the_interrupt_range_is_blocked(fpd: int) -> None:
    """4.2.5, SGN.8.3. The context comes first: SCT.5 where DTE is 0, and its FPD."""
    for build in (second_stage, pass_through):
        world = build(context={"fpd": fpd})
        assert world.fault(0xFEE0_1000, WRITE, kind=TRANSLATED, length=4) == 0x87
        assert len(world.records()) == 1 - fpd
        assert build(context={"dte": 0, "pre": 0}).fault(0xFEE0_1000, kind=TRANSLATED) == 0x44


@raises(FaultReason.SCT_2, FaultReason.SCT_3, FaultReason.SRT_2)
def test_translated_requests_are_checked_against_the_context() -> None:
    world = second_stage()
    world.change(world.contexts[NIC], add=1 << 6)
    assert world.fault(kind=TRANSLATED) == 0x42
    world.change(world.contexts[NIC], clear=1)
    assert world.fault(kind=TRANSLATED) == 0x41
    world.change(world.root, clear=1)
    assert world.fault(kind=TRANSLATED) == 0x39
    assert [record.address_type for record in world.records()] == [2, 2, 2]


@pytest.mark.parametrize("pgtt", WALKED)
def test_no_write_request_gets_no_write_permission_from_the_cache_either(pgtt: int) -> None:
    """8.1: W is granted to a no-write request only where D is set already; the second answer is the first again."""
    world = WALKED[pgtt](pasid_entry={"ssade": 1})
    for _ in range(2):
        answer = ask(world, no_write=True)
        assert (answer.host_address, answer.readable, answer.writable) == (HOST, True, False)
    first, second = leaves(world)
    assert (first & D1, second & D2) == (0, 0)


@raises(FaultReason.SGN_4)
def test_translated_request_beyond_the_host_width_is_blocked() -> None:
    """SGN.4.1."""
    world = second_stage(host_address_width=46)
    assert world.dma((1 << 46) - 1, kind=TRANSLATED).host_address == (1 << 46) - 1
    for bit in range(46, 64):
        assert world.fault(1 << bit, kind=TRANSLATED) == 0x83
    assert (world.record().reason, world.record().address_type) == (0x83, 2)


@pytest.mark.parametrize("address", [ADDRESS, 0xFEE0_1000, 1 << 63])
def test_translated_request_with_a_pasid_is_unsupported(address: int) -> None:
    """4.2.1: always, and not reported."""
    for build in (second_stage, pass_through):
        world = build()
        assert world.fault(address, WRITE, kind=TRANSLATED, pasid=SAME) == 0
        assert world.records() == []
