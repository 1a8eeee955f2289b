"""queue.py: what the queue refuses and with which IQEI, and how it continues (5.2, 5.4)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import Capabilities, FlatMemory, Message, Policy, RemappingUnit
from iommu.registers import QueueFault
from tests.engine.queueing import (
    ICS,
    IQA,
    IQERCD,
    IQH,
    IQT,
    ITE,
    QIE,
    Software,
    context,
    device_tlb,
    interrupt,
    iotlb,
    legacy,
    pasid_cache,
    pasid_device_tlb,
    pasid_iotlb,
    response,
    scalable,
    wait,
)
from tests.engine.world import ABSENT, FEADDR, FECTL, FEDATA, FSTS, GCMD, NIC, RTADDR, SRTP, World

STATUS = 0xF0_0000
HARMLESS = wait(fn=1)
TAIL, FETCH, TYPE, RESERVED, WIDTH, ALIGNMENT, MODE = range(1, 8)


def test_error_codes() -> None:
    names = ["NO_INFORMATION", "TAIL", "FETCH", "TYPE", "RESERVED", "WIDTH", "ALIGNMENT", "TABLE_MODE"]
    assert [code.name for code in QueueFault] == names
    assert [code.value for code in QueueFault] == list(range(8))


# Code 1 and 6: the tail


@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize("qs", [0, 3])
def test_tail_beyond_the_queue(wide: int, qs: int) -> None:
    software = legacy(wide=wide, qs=qs, scalable_mode=True, second_stage=True)
    for tail in (software.size, software.size + software.width, 0x7FFE0):
        software.world.write(IQT, tail, 8)
        assert (software.error, software.head) == (TAIL, 0)
        software.world.write(IQT, 0, 8)
        software.clear()
        assert software.world.read(FSTS) == 0


def test_tail_beyond_the_largest_queue_does_not_fit_the_register() -> None:
    software = legacy(qs=7)
    software.world.write(IQT, 0x80000, 8)
    assert software.world.read(IQT, 8) == 0
    assert software.world.read(FSTS) == 0


def test_tail_between_wide_descriptors() -> None:
    software = legacy(wide=1, scalable_mode=True, second_stage=True)
    software.world.write(IQT, 0x10, 8)
    assert (software.error, software.head) == (ALIGNMENT, 0)
    software.put(*HARMLESS)
    software.ring()
    assert software.head == 0, "nothing is fetched while IQE is set"
    software.clear()
    assert software.head == 32


# Code 2: memory


@pytest.mark.parametrize("base", [ABSENT, (1 << 48) - 0x1000])
def test_queue_beyond_memory(base: int) -> None:
    software = legacy(on=False)
    software.world.write(IQA, base, 8)
    software.switch(1)
    assert software.refused(HARMLESS) == FETCH


def test_queue_that_ends_beyond_memory() -> None:
    software = legacy(on=False, size=1 << 20)
    software.world.write(IQA, (1 << 20) - 0x1000 | 1, 8)
    software.switch(1)
    for offset in range(0, 0x1000, 16):
        software.world.put((1 << 20) - 0x1000 + offset, *HARMLESS)
    software.world.write(IQT, 0x1010, 8)
    assert (software.error, software.head) == (FETCH, 0x1000)


@pytest.mark.parametrize("fault", [QueueFault.FETCH, QueueFault.NO_INFORMATION])
@pytest.mark.parametrize("taken", [False, True])
def test_status_address_beyond_memory(fault: QueueFault, taken: bool) -> None:
    """D-14."""
    software = legacy(policy=Policy(status_write_fault=fault, status_write_fault_taken=taken))
    software.submit(wait(sw=1, interrupt=1, address=ABSENT), HARMLESS)
    assert software.error == fault
    assert software.head == (16 if taken else 0)
    assert software.world.read(ICS) == 0
    if not taken:
        software.world.put(software.base, *HARMLESS)
    software.clear()
    assert software.head == 32


# Code 3: the type


@pytest.mark.parametrize("number", [0, *range(10, 128)])
@pytest.mark.parametrize("mode", [legacy, scalable])
def test_unknown_type(number: int, mode: object) -> None:
    software = legacy() if mode is legacy else scalable()
    assert software.refused(HARMLESS, (number & 15 | number >> 4 << 9, 0)) == TYPE


@pytest.mark.parametrize("number", range(1, 10))
@pytest.mark.parametrize("high", [1, 4, 7])
def test_upper_type_bits_count(number: int, high: int) -> None:
    assert scalable().refused((number | high << 9, 0)) == TYPE


def test_device_tlb_types_need_the_capability() -> None:
    less: dict[str, Any] = {
        "device_tlb": False,
        "page_requests": False,
        "page_request_drain": False,
        "stop_markers": False,
    }
    less |= {"no_write_requests": False, "invalidation_throttle": False}
    assert legacy().refused(device_tlb(NIC)) == TYPE
    assert scalable(**less).refused(device_tlb(NIC)) == TYPE
    assert scalable(**less).refused(pasid_device_tlb(NIC)) == TYPE
    assert scalable(**less).refused(response(NIC)) == TYPE


def test_page_response_needs_page_requests() -> None:
    less: dict[str, Any] = {"page_requests": False, "page_request_drain": False, "stop_markers": False}
    assert scalable(**less).refused(response(NIC)) == TYPE
    scalable().done(response(NIC))


def test_interrupt_type_needs_interrupt_remapping() -> None:
    assert legacy(interrupt_remapping=False).refused(interrupt(0)) == TYPE


@pytest.mark.parametrize("number", [6, 7, 8, 9])
def test_pasid_types_in_legacy_mode(number: int) -> None:
    """Whatever the width of the queue."""
    software = scalable()
    software.world.write(RTADDR, software.world.root, 8)
    software.world.write(GCMD, 1 << 31 | QIE | SRTP)
    assert software.refused((number | 1 << 5, 0)) == TYPE
    narrow = legacy(scalable_mode=True, second_stage=True)
    assert narrow.refused((number | 1 << 5, 0)) == TYPE


@pytest.mark.parametrize("number", range(1, 10))
def test_narrow_queue_in_abort_mode(number: int) -> None:
    """6.5.2.10: no descriptor of 128 bits is valid in it."""
    software = Software(
        World(scalable_mode=True, second_stage=True, abort_dma=True, device_tlb=True, page_requests=True)
    )
    software.world.latch(3 << 10)
    assert software.refused((number | 1 << 5, 0)) == WIDTH


# Code 4: reserved fields and encodings

LEGAL = {
    1: (context(3), {*range(4, 6), *range(16, 50)}),
    2: (iotlb(1), {4, *range(6, 8), *range(16, 32), *range(64, 71), *range(76, 128)}),
    3: (device_tlb(NIC), {*range(12, 21), *range(32, 65), *range(76, 128)} - {*range(48, 52)}),
    4: (interrupt(0), {4, *range(27, 48)}),
    5: (wait(fn=1), {*range(4, 8), *range(32, 64), *range(66, 128)}),
    6: (pasid_iotlb(3), {*range(16, 52), *range(64, 71), *range(76, 128)}),
    7: (pasid_cache(0), {4, *range(16, 52)}),
    8: (pasid_device_tlb(NIC), {*range(4, 9), *range(12, 64), 64, *range(75, 128)}),
    9: (response(NIC), {4, *range(12, 52), *range(66, 76)}),
}
"""By type: a descriptor without reserved bits, and the bits that may be flipped in it without making it illegal."""
TYPE_BITS = {0, 1, 2, 3, 9, 10, 11}
GRANULARITY_BITS = {1: {4, 5}, 2: {4, 5}, 6: {4, 5}, 7: {4, 5}}


@pytest.mark.parametrize("number", LEGAL)
def test_reserved_bits(number: int) -> None:
    """Every one of the 256 bits that is not in a field, and no other; encodings are tested below."""
    (low, high), allowed = LEGAL[number]
    encodings = GRANULARITY_BITS.get(number, set())
    for bit in set(range(256)) - TYPE_BITS - encodings:
        software = scalable(domain_id_bits=16)
        words = [low, high, 0, 0]
        words[bit // 64] ^= 1 << bit % 64
        software.submit((words[0], words[1], words[2], words[3]))
        refused = bool(software.world.read(FSTS) & 16)
        assert refused == (bit not in allowed), bit
        if refused:
            assert (software.error, software.head) == (RESERVED, 0)


@pytest.mark.parametrize("bit", [*range(12, 16), *range(52, 64)])
def test_physical_function_needs_the_throttling_capability(bit: int) -> None:
    for low, high in (device_tlb(NIC), pasid_device_tlb(NIC)):
        assert scalable(invalidation_throttle=False).refused((low | 1 << bit, high)) == RESERVED


def test_page_drain_needs_the_capability() -> None:
    assert scalable(page_request_drain=False).refused(wait(fn=1, pd=1)) == RESERVED
    scalable().done(wait(fn=1, pd=1))


@pytest.mark.parametrize(
    "descriptor",
    [context(0), iotlb(0), pasid_iotlb(0), pasid_iotlb(1), pasid_cache(2)],
)  # fmt: skip
def test_reserved_granularities(descriptor: tuple[int, int]) -> None:
    assert scalable().refused(HARMLESS, descriptor) == RESERVED


@pytest.mark.parametrize("largest", [0, 9, 18])
def test_address_mask_limit(largest: int) -> None:
    """Only where it counts: in page-selective commands; P_IOTLB is not limited."""
    for am in (largest + 1, 63):
        assert legacy(max_address_mask=largest).refused(iotlb(3, am=am)) == RESERVED
        legacy(max_address_mask=largest).done(iotlb(1, am=am), iotlb(2, am=am))
        scalable(max_address_mask=largest).done(pasid_iotlb(3, am=am))
    legacy(max_address_mask=largest).done(iotlb(3, am=largest))


def test_page_selective_needs_the_capability() -> None:
    assert legacy(page_selective=False).refused(iotlb(3)) == RESERVED
    legacy(page_selective=False).done(iotlb(2))
    scalable(page_selective=False).done(pasid_iotlb(3))


@pytest.mark.parametrize("largest", [0, 7, 15])
def test_index_mask_limit(largest: int) -> None:
    for im in (largest + 1, 31):
        assert legacy(max_index_mask=largest).refused(interrupt(1, im=im)) == RESERVED
        legacy(max_index_mask=largest).done(interrupt(0, im=im))
    legacy(max_index_mask=largest).done(interrupt(1, im=largest))


# Code 5 and 7: width and table mode


def test_narrow_queue_in_scalable_mode() -> None:
    software = scalable()
    software.switch(0)
    software.world.write(IQT, 0, 8)
    software.world.write(IQA, software.base, 8)
    software.width = 16
    software.switch(1)
    assert software.refused(HARMLESS) == WIDTH


@pytest.mark.parametrize(("scalable_mode", "abort_dma"), [(False, False), (True, False), (False, True)])
def test_wide_queue_in_legacy_mode(scalable_mode: bool, abort_dma: bool) -> None:
    """Allowed where either capability is offered."""
    software = legacy(wide=1, scalable_mode=scalable_mode, second_stage=scalable_mode, abort_dma=abort_dma)
    if scalable_mode or abort_dma:
        software.done(context(1), iotlb(1), interrupt(0), HARMLESS)
    else:
        assert software.refused(HARMLESS) == WIDTH


@pytest.mark.parametrize(
    ("ttm", "offered", "code"),
    [
        (0, {}, 0),
        (1, {}, MODE),
        (2, {}, MODE),
        (3, {}, MODE),
        (2, {"scalable_mode": True, "second_stage": True, "abort_dma": True}, MODE),
        (3, {"abort_dma": True}, WIDTH),
        (1, {"abort_dma": True}, MODE),
        (3, {"scalable_mode": True, "second_stage": True}, MODE),
        (1, {"scalable_mode": True, "second_stage": True}, WIDTH),
    ],
)
def test_table_mode(ttm: int, offered: dict[str, Any], code: int) -> None:
    """The mode that SRTP latched last, with the queue on or off."""
    software = Software(World(**offered))
    software.done(HARMLESS)
    software.world.write(RTADDR, ttm << 10, 8)
    software.done(HARMLESS)
    software.world.latch(ttm << 10)
    assert software.world.read(FSTS) == 0, "the mode matters to descriptors, and there is none"
    if code:
        assert software.refused(HARMLESS) == code
    else:
        software.done(HARMLESS)


def test_type_is_checked_before_reserved_fields() -> None:
    assert legacy().refused((0x1FF0 | 6, 3)) == TYPE


# Recovery (5.4)


def test_queue_resumes_at_the_bad_descriptor() -> None:
    """Suggested test 12: without a new IQT; later descriptors were not processed."""
    software = legacy()
    software.submit(HARMLESS, (0, 0), wait(sw=1, data=5, address=STATUS))
    assert (software.error, software.head) == (TYPE, 16)
    assert software.world.memory.read_u32(STATUS) == 0
    software.world.put(software.base + 16, *HARMLESS)
    software.clear()
    assert software.head == software.tail
    assert software.world.memory.read_u32(STATUS) == 5
    assert software.world.read(FSTS) == 0


def test_unrepaired_descriptor_is_an_error_again() -> None:
    software = legacy()
    assert software.refused((0, 0)) == TYPE
    software.world.put(software.base, *iotlb(0))
    software.clear()
    assert (software.error, software.head) == (RESERVED, 0)


def test_tail_written_meanwhile_counts() -> None:
    software = legacy()
    assert software.refused((0, 0)) == TYPE
    software.submit(HARMLESS)
    assert software.head == 0
    software.world.put(software.base, *HARMLESS)
    software.clear()
    assert software.head == 32


def test_error_raises_the_fault_event_once() -> None:
    software = legacy()
    software.world.write(FEDATA, 0x55)
    software.world.write(FEADDR, 0xFEE0_0000)
    assert software.refused((0, 0)) == TYPE
    assert software.world.unit.drain_events() == [Message(0xFEE0_0000, 0x55)]
    software.clear(1 << 5)
    assert software.world.unit.drain_events() == []
    software.clear()
    assert software.world.unit.drain_events() == [Message(0xFEE0_0000, 0x55)], "it is bad still"


def test_error_while_a_fault_is_pending_raises_no_second_event() -> None:
    software = legacy()
    assert software.world.fault() == 0x01
    assert len(software.world.unit.drain_events()) == 1
    assert software.refused((0, 0)) == TYPE
    assert software.world.unit.drain_events() == []
    assert len(software.world.records()) == 1, "no record is written for the queue"


def test_masked_error_event_is_held() -> None:
    software = legacy()
    software.world.write(FECTL, 1 << 31)
    assert software.refused((0, 0)) == TYPE
    assert software.world.read(FECTL) == 3 << 30
    software.world.put(software.base, *HARMLESS)
    software.clear()
    assert software.world.read(FECTL) == 1 << 31


def test_switching_off_and_on_with_an_error() -> None:
    """FSTS keeps it: nothing is fetched until it is cleared."""
    software = legacy()
    assert software.refused((0, 0)) == TYPE
    software.switch(0)
    software.world.put(software.base, *HARMLESS)
    software.switch(1)
    assert software.head == 0
    software.clear()
    assert software.head == 16


# Time-outs (no device answers here; test_device.py has devices)


def dt(**options: bool) -> Software:
    """A legacy-mode unit with device-TLBs and no device."""
    return legacy(device_tlb=True, **options)


def test_time_out_aborts_the_wait() -> None:
    """5.4: its status is not written; afterwards the queue continues after it."""
    software = dt()
    software.submit(device_tlb(0x123), wait(sw=1, data=1, interrupt=1, address=STATUS), HARMLESS)
    assert software.world.read(FSTS) == ITE
    assert software.world.read(IQERCD, 8) == 0x123 << 32
    assert software.head == 32
    software.clear(ITE)
    assert (software.world.read(FSTS), software.head) == (0, 48)
    assert software.world.memory.read_u32(STATUS) == 0
    assert software.world.read(ICS) == 0


def test_time_out_without_a_wait() -> None:
    software = dt()
    software.submit(device_tlb(0x123), iotlb(1), device_tlb(0x456))
    assert software.world.read(FSTS) == ITE
    assert software.world.read(IQERCD, 8) == 0x123 << 32
    assert software.head == 48


def test_waits_before_a_time_out_have_completed() -> None:
    software = dt()
    software.submit(wait(sw=1, data=1, address=STATUS), device_tlb(1), wait(sw=1, data=2, address=STATUS))
    assert software.world.memory.read_u32(STATUS) == 1


def test_error_after_a_time_out_sets_both() -> None:
    software = dt()
    software.submit(device_tlb(0x123), (0, 0))
    assert software.world.read(FSTS) == ITE | 16
    assert software.world.read(IQERCD, 8) == 0x123 << 32 | TYPE
    software.world.put(software.base + 16, *HARMLESS)
    software.clear(16)
    assert software.head == 16, "ITE stops fetching too"
    software.clear(ITE)
    assert software.head == 32


# Bad input

CAPABILITIES = [
    Capabilities(),
    Capabilities.full(),
    Capabilities(device_tlb=True, page_selective=False, interrupt_remapping=False),
    Capabilities.full(abort_dma=False, device_tlb=False, page_requests=False, page_request_drain=False,
                      stop_markers=False, no_write_requests=False, invalidation_throttle=False),
]  # fmt: skip
WORDS = st.one_of(
    st.integers(0, (1 << 64) - 1), st.builds(lambda t, g: t | g << 4, st.integers(0, 15), st.integers(0, 15))
)


@settings(max_examples=300, deadline=None)
@given(
    capabilities=st.sampled_from(CAPABILITIES),
    ttm=st.integers(0, 3),
    iqa=st.builds(lambda page, wide, qs: page << 12 | wide << 11 | qs, st.sampled_from([0, 1, 6, 7, 1 << 30]),
                  st.integers(0, 1), st.integers(0, 7)),
    tails=st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=4),
    words=st.lists(WORDS, max_size=64),
    moves=st.booleans(),
)  # fmt: skip
def test_random_descriptors(
    capabilities: Capabilities, ttm: int, iqa: int, tails: list[int], words: list[int], moves: bool
) -> None:
    """Never an exception, never an endless loop: a base or a tail beyond everything included."""
    memory = FlatMemory(32 << 10)
    for n, word in enumerate(words):
        memory.write_u64(0x1000 + 8 * n, word)
    unit = RemappingUnit(memory, capabilities, Policy(queue_moves_while_on=moves))
    unit.mmio_write(RTADDR, ttm << 10, 8)
    unit.mmio_write(GCMD, SRTP, 4)
    unit.mmio_write(IQA, iqa, 8)
    unit.mmio_write(GCMD, QIE, 4)
    for tail in tails:
        unit.mmio_write(IQT, tail, 4)
        unit.mmio_write(IQA, iqa ^ 0x803, 8)
        head = unit.mmio_read(IQH, 8)
        assert head < 0x1000 << (unit.mmio_read(IQA, 8) & 7)
        unit.mmio_write(FSTS, 0x70, 4)
