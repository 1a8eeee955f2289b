"""page_requests.py, queue.py: which requests are queued, and the responses to the others (8.4, 8.5)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import Capabilities, FlatMemory, Message, MisuseError, RemappingUnit, SourceId
from iommu.engine.ats import PageRequest, PageResponse
from iommu.engine.attributes import PLAIN
from iommu.engine.caches.entries import PasidContext, ScalableContext
from iommu.engine.device import Device
from iommu.engine.page_requests.page_requests import PageRequestOutcome
from iommu.structures import ResponseCode
from tests.engine.queueing import response, scalable, wait
from tests.engine.scalable_world import ADDRESS, PASS, SCALABLE, ScalableWorld, first_stage, nested, second_stage
from tests.engine.world import ABSENT, FSTS, GCMD, NIC, RTADDR, SRTP, TE, World

PQH, PQT, PQA, PRS = 0xC0, 0xC8, 0xD0, 0xDC
PECTL, PEDATA, PEADDR, PEUADDR = 0xE0, 0xE4, 0xE8, 0xEC
PPR, PRO = 1, 2
STATUS = 0xF0_0000
SUCCESS, INVALID, FAILURE = ResponseCode.SUCCESS, ResponseCode.INVALID, ResponseCode.FAILURE


class Pager:
    """A device that may send page requests, and the page request queue."""

    def __init__(self, world: ScalableWorld | None = None, *, pqs: int = 0, on: bool = True, **changes: Any) -> None:
        self.world = world or ScalableWorld(**changes)
        self.size = 0x1000 << pqs
        self.base = self.world.pages(1 << pqs)
        self.device = Device(self.world.unit, NIC)
        self.world.write(PQA, self.base | pqs, 8)
        if on and not world:
            self.world.scalable_context()
            self.every_pasid()
            self.world.start()

    def every_pasid(self, source_id: SourceId = NIC) -> None:
        """Every PASID passes through: all directory entries point to one table."""
        for pasid in range(64):
            self.world.pasid_entry(pasid, source_id, pgtt=PASS)
        directory = self.world.directory_address(0, source_id)
        size = 0x400 << (self.world.memory.read_u64(self.world.contexts[source_id]) >> 9 & 7)
        for at in range(directory, directory + size, 8):
            self.world.put(at, self.world.memory.read_u64(directory))

    def ask(self, address: int = ADDRESS, **how: Any) -> PageRequestOutcome:
        """One page request."""
        return self.device.request_page(address, **how)

    def fill(self) -> None:
        """Fill the queue."""
        for _ in range(self.size // 32 - 1):
            assert self.ask(last=False).queued
        assert self.world.read(PRS) == PPR

    def event(self) -> Message:
        """Program the page request event, unmasked. Returns its message."""
        for offset, value in ((PEDATA, 0x99), (PEADDR, 0xFEE0_2000), (PEUADDR, 2), (PECTL, 0)):
            self.world.write(offset, value)
        return Message(0x2_FEE0_2000, 0x99)

    @property
    def tail(self) -> int:
        """PQT."""
        return self.world.read(PQT, 8)

    def queued(self, n: int = 0) -> list[int]:
        """Descriptor n, as quadwords."""
        return [self.world.memory.read_u64(self.base + 32 * n + 8 * word) for word in range(4)]


# Fields of the descriptor (layouts 2.12)


def test_descriptor_of_a_plain_request() -> None:
    pager = Pager()
    assert pager.ask(0x1234_5678_9ABC) == PageRequestOutcome(queued=True)
    assert pager.queued() == [0x01 | NIC << 16, 0x1234_5678_9000 | 1 << 2 | 1, 0, 0]
    assert pager.tail == 32


@pytest.mark.parametrize(
    ("how", "first", "second"),
    [
        ({"pasid": 5}, 1 << 8 | 5 << 32, 0b101),
        ({"pasid": 0xABCDE}, 1 << 8 | 0xABCDE << 32, 0b101),
        ({"pasid": 1, "execute": True}, 1 << 8 | 1 << 32 | 1 << 52, 0b101),
        ({"pasid": 1, "privileged": True}, 1 << 8 | 1 << 32 | 1 << 53, 0b101),
        ({"write": True}, 0, 0b111),
        ({"read": False, "write": True}, 0, 0b110),
        ({"last": False}, 0, 0b001),
        ({"read": False}, 0, 0b100),
        ({"group": 0x1FF}, 0, 0x1FF << 3 | 0b101),
    ],
)
def test_descriptor_fields(how: dict[str, Any], first: int, second: int) -> None:
    pager = Pager()
    assert pager.ask(0xFFFF_8000_0000_0000, **how).queued
    assert pager.queued() == [0x01 | NIC << 16 | first, 0xFFFF_8000_0000_0000 | second, 0, 0]


@pytest.mark.parametrize(
    "how",
    [{"pasid": 1 << 20}, {"pasid": -1}, {"execute": True}, {"privileged": True}, {"group": 512}, {"group": -1}],
)
def test_requests_no_device_can_send(how: dict[str, Any]) -> None:
    with pytest.raises(MisuseError):
        Pager().ask(**how)


@pytest.mark.parametrize("address", [-1, 1 << 64])
def test_addresses_no_device_can_send(address: int) -> None:
    with pytest.raises(MisuseError, match="64-bit"):
        Pager().ask(address)


def test_source_id_has_its_type() -> None:
    with pytest.raises(MisuseError, match="SourceId"):
        World().unit.page_request(PageRequest(0x20, 0))  # type: ignore[arg-type]


# Checks, in their order


def record(world: World) -> tuple[int, ...]:
    """Code, T1, T2, source-id, address, PASID, EXE, PRIV, AT of the only record."""
    (found,) = world.records()
    r = found
    return r.reason, r.t1, r.t2, r.source_id, r.address, r.pasid, r.execute, r.privileged, r.address_type


def test_legacy_mode() -> None:
    world = World().start()
    assert world.unit.page_request(PageRequest(NIC, 0x5123)) == PageRequestOutcome(False, 0x32, True, INVALID)  # type: ignore[arg-type]
    assert record(world) == (0x32, 0, 1, NIC, 0x5000, 0, 0, 0, 0)


@pytest.mark.parametrize(("ttm", "offered"), [(1, {}), (2, {}), (3, {}), (2, {"abort_dma": True})])
def test_table_modes_the_unit_lacks(ttm: int, offered: dict[str, Any]) -> None:
    world = World(**offered)
    world.start(world.root | ttm << 10)
    assert world.unit.page_request(PageRequest(NIC, 0)).fault == 0x30


def test_abort_mode_blocks_requests() -> None:
    world = World(abort_dma=True)
    world.start(world.root | 3 << 10)
    outcome = world.unit.page_request(PageRequest(NIC, 0))
    assert (outcome.queued, int(outcome.fault or 0), outcome.recorded) == (False, 0x33, True)


def test_translation_off_drops_requests() -> None:
    pager = Pager(on=False)
    pager.world.scalable_context()
    pager.world.latch(pager.world.root | SCALABLE)
    assert pager.ask() == PageRequestOutcome(queued=False)
    assert pager.world.read(FSTS) == 0
    assert pager.device.responses == []


@pytest.mark.parametrize(
    ("context", "how", "code"),
    [
        ({"p": 0}, {}, 0x41),
        ({"p": 0, "pre": 0}, {}, 0x41),
        ({"pre": 0}, {}, 0x47),
        ({"pre": 0, "paside": 0}, {"pasid": 1}, 0x47),
        ({"pre": 0, "pdts": 0}, {"pasid": 1 << 13}, 0x47),
        ({"paside": 0}, {"pasid": 1}, 0x45),
        ({"pdts": 0}, {"pasid": 1 << 13}, 0x46),
        ({"pdts": 0}, {"pasid": (1 << 13) - 1}, 0),
        ({"dte": 0}, {}, 0x43),
        ({"pdts": 0, "rid_pasid": 1 << 13}, {}, 0x43),
        ({"rid_pasid": 1}, {"pasid": 1}, 0x48),
        ({"pdts": 0, "paside": 0}, {}, 0),
    ],
)
def test_checks_of_the_context(context: dict[str, Any], how: dict[str, Any], code: int) -> None:
    pager = Pager(on=False)
    pager.world.scalable_context(**context)
    pager.every_pasid()
    pager.world.start()
    outcome = pager.ask(**how)
    assert (outcome.fault or 0, outcome.queued) == (code, not code)
    if code:
        assert outcome.recorded
        assert pager.tail == 0
        assert record(pager.world) == (code, 0, 1, NIC, ADDRESS, how.get("pasid", 0), 0, 0, 0)


def test_root_faults() -> None:
    pager = Pager(on=False)
    pager.world.start()
    assert pager.ask().fault == 0x39
    pager.world.put(pager.world.root, 1 | 2)
    assert pager.ask().fault == 0x3A
    pager.world.put(pager.world.root, 1 | ABSENT)
    assert pager.ask().fault == 0x40
    pager.world.latch(ABSENT | SCALABLE)
    assert pager.ask().fault == 0x38


@pytest.mark.parametrize(("context", "how"), [({"p": 0}, {}), ({"pre": 0}, {}), ({"paside": 0}, {"pasid": 1})])
def test_fpd_suppresses_the_record_but_not_the_fault(context: dict[str, Any], how: dict[str, Any]) -> None:
    pager = Pager(on=False)
    pager.world.scalable_context(fpd=1, **context)
    pager.world.start()
    outcome = pager.ask(**how)
    assert outcome.fault
    assert not outcome.recorded
    assert pager.world.records() == []


def test_narrow_pasids() -> None:
    """7.1.3: only the directory limits the PASID of a page request, not ECAP.PSS."""
    pager = Pager(pasid_bits=15)
    assert pager.ask(pasid=0x8000).queued
    assert pager.ask(pasid=0x7FFF).queued


def test_record_of_a_privileged_execute_request() -> None:
    pager = Pager(on=False)
    pager.world.scalable_context(pre=0)
    pager.world.start()
    pager.ask(pasid=0xABCDE, privileged=True, execute=True, write=True)
    assert record(pager.world) == (0x47, 0, 1, NIC, ADDRESS, 0xABCDE, 1, 1, 0)


def test_unit_without_page_requests() -> None:
    less: dict[str, Any] = {"page_requests": False, "page_request_drain": False, "stop_markers": False}
    pager = Pager(on=False, **less)
    pager.world.scalable_context(pre=0)
    pager.world.start()
    assert pager.ask().fault == 0x47
    assert pager.world.read(PQA, 8) == pager.world.read(PRS) == 0


def test_unit_without_a_queue_whose_context_enables_page_requests() -> None:
    """No table can enable them there, but an overridden part might."""
    world = ScalableWorld(page_requests=False, page_request_drain=False, stop_markers=False)
    world.start()
    found = ScalableContext(0, 1 << 20, 1, 1, 1, 0, 0, 0)
    world.unit.translation.scalable.context_of = lambda _: found  # type: ignore[method-assign, assignment]
    entry = PasidContext(1, None, None, 0, 0, PLAIN, 0, 0)
    world.unit.translation.scalable.pasid_context_of = lambda *_: entry  # type: ignore[method-assign]
    assert world.unit.page_request(PageRequest(NIC, 0)) == PageRequestOutcome(queued=False, answer=SUCCESS)


def test_response_to_a_blocked_request() -> None:
    """7.4.1: an invalid request, for the last of a group that is not a stop marker."""
    pager = Pager(on=False)
    pager.world.start()
    assert pager.ask(last=False, group=4).answer is None
    assert pager.ask(read=False, group=4).answer is None, "a stop marker"
    assert pager.ask(pasid=7, group=4).answer == INVALID
    assert pager.device.responses == [PageResponse(4, INVALID, 7, True)]


def test_pasid_tables_are_read() -> None:
    """7.1.3: their faults block page requests too, with or without a PASID; FPD of the entry counts."""
    pager = Pager(on=False)
    pager.world.scalable_context()
    pager.world.start()
    assert pager.ask().fault == pager.ask(pasid=5).fault == 0x51
    pager.world.pasid_entry(5, pgtt=PASS, p=0)
    assert pager.ask(pasid=5).fault == 0x59
    pager.world.pasid_entry(5, pgtt=PASS, p=0, fpd=1)
    assert not pager.ask(pasid=5).recorded
    pager.world.pasid_entry(5, pgtt=7)
    assert pager.ask(pasid=5).fault == 0x5B
    pager.world.pasid_entry(5, pgtt=PASS)
    assert pager.ask(pasid=5).queued


# The queue


@pytest.mark.parametrize("pqs", [0, 1, 7])
def test_room_and_wrap(pqs: int) -> None:
    """2^(PQS+7) descriptors, one of which stays free."""
    pager = Pager(pqs=pqs)
    entries = 1 << pqs + 7
    pager.fill()
    assert pager.tail == (entries - 1) * 32
    assert not pager.ask().queued
    pager.world.write(PQH, 64, 8)
    pager.world.write(PRS, PRO)
    assert pager.ask(0x7000).queued
    assert pager.tail == 0
    assert pager.queued(entries - 1)[1] >> 12 == 7
    assert pager.ask(0x8000).queued
    assert (pager.tail, pager.queued()[1] >> 12) == (32, 8)
    assert not pager.ask().queued


def test_overflow_stays_until_cleared() -> None:
    """PRO=1: nothing is queued, even if there is room again."""
    pager = Pager()
    pager.fill()
    assert pager.ask(group=1).answer == SUCCESS
    assert pager.world.read(PRS) == PPR | PRO
    pager.world.write(PQH, pager.tail, 8)
    assert pager.ask(group=2) == PageRequestOutcome(queued=False, answer=SUCCESS)
    pager.world.write(PRS, PPR)
    assert pager.world.read(PRS) == PRO
    assert not pager.ask(group=3).queued
    pager.world.write(PRS, PRO)
    assert pager.ask(group=4).queued
    assert [answer.group for answer in pager.device.responses] == [1, 2, 3]


def test_response_to_an_overflow() -> None:
    """7.4.1: success, for the last of a group that is not a stop marker."""
    pager = Pager()
    pager.fill()
    assert pager.ask(last=False, group=9) == PageRequestOutcome(queued=False)
    assert pager.ask(read=False, group=9) == PageRequestOutcome(queued=False)
    assert pager.ask(group=9, pasid=3) == PageRequestOutcome(queued=False, answer=SUCCESS)
    assert pager.ask(group=9, read=False, write=True) == PageRequestOutcome(queued=False, answer=SUCCESS)
    assert pager.device.responses == [PageResponse(9, SUCCESS, 3, True), PageResponse(9, SUCCESS, None, True)]


def test_automatic_answer_without_an_attached_device() -> None:
    pager = Pager()
    pager.world.scalable_context(SourceId(0, 9, 0))
    pager.every_pasid(SourceId(0, 9, 0))
    pager.fill()
    assert pager.world.unit.page_request(PageRequest(SourceId(0, 9, 0), 0)).answer == SUCCESS
    assert pager.device.responses == []


@pytest.mark.parametrize("offered", [False, True])
def test_stop_marker_that_finds_no_room(offered: bool) -> None:
    """With ECAP.SMS it is dropped silently; otherwise it is an overflow as usual."""
    pager = Pager(stop_markers=offered)
    pager.fill()
    assert pager.ask(pasid=1, read=False) == PageRequestOutcome(queued=False)
    assert pager.world.read(PRS) == (PPR if offered else PPR | PRO)


def test_request_for_nothing_within_a_group_is_not_a_stop_marker() -> None:
    pager = Pager()
    pager.fill()
    assert not pager.ask(pasid=1, read=False, last=False).queued
    assert pager.world.read(PRS) == PPR | PRO


def test_stop_marker_is_queued() -> None:
    pager = Pager()
    assert pager.ask(0, pasid=5, read=False).queued
    assert pager.queued() == [0x01 | 1 << 8 | NIC << 16 | 5 << 32, 1 << 2, 0, 0]


@pytest.mark.parametrize("base", [ABSENT, (1 << 52) - 0x1000])
def test_queue_beyond_memory_is_an_overflow(base: int) -> None:
    pager = Pager()
    pager.world.write(PQA, base, 8)
    assert pager.ask() == PageRequestOutcome(queued=False, answer=SUCCESS)
    assert pager.world.read(PRS) == PRO
    assert pager.tail == 0


def test_tail_beyond_the_queue_is_taken_into_it() -> None:
    pager = Pager()
    pager.world.write(PQT, 0x7FFE0, 8)
    pager.world.write(PQH, 64, 8)
    assert pager.ask().queued
    assert pager.tail == 0
    assert pager.queued(127)[0] == 0x01 | NIC << 16


# The event


def test_event_for_the_first_request_only() -> None:
    pager = Pager()
    message = pager.event()
    pager.ask()
    pager.ask()
    assert pager.world.unit.drain_events() == [message]
    assert pager.world.read(PRS) == PPR
    pager.world.write(PRS, PPR)
    assert pager.world.read(PRS) == 0
    pager.ask()
    assert pager.world.unit.drain_events() == [message]


def test_overflow_raises_no_event_while_a_request_is_pending() -> None:
    pager = Pager()
    message = pager.event()
    pager.fill()
    pager.ask()
    assert pager.world.unit.drain_events() == [message]
    pager.world.write(PRS, PPR | PRO)
    pager.ask()
    assert pager.world.read(PRS) == PRO
    assert pager.world.unit.drain_events() == [message]


def test_masked_event_is_held_and_dropped_when_serviced() -> None:
    pager = Pager()
    message = pager.event()
    pager.world.write(PECTL, 1 << 31)
    pager.ask()
    assert pager.world.read(PECTL) == 3 << 30
    pager.world.write(PRS, PRO)
    assert pager.world.read(PECTL) == 3 << 30, "PPR is set still"
    pager.world.write(PRS, PPR)
    assert pager.world.read(PECTL) == 1 << 31
    pager.ask()
    pager.world.write(PECTL, 0)
    assert pager.world.unit.drain_events() == [message]


def test_requests_within_a_group() -> None:
    """7.5: each request sets PPR."""
    pager = Pager()
    message = pager.event()
    assert pager.ask(last=False).queued
    assert pager.world.read(PRS) == PPR
    assert pager.world.unit.drain_events() == [message]


# Other effects of a request


@pytest.mark.parametrize("page", [0, 0x1000])
def test_page_asked_for_is_forgotten(page: int) -> None:
    """8.4 step 3: so that a retry does not use old entries; other pages are kept."""
    world = first_stage(pasid=5)
    pager = Pager(world)
    assert world.dma(pasid=5).fault is None
    world.put(world.first[1], 0)
    assert world.dma(pasid=5).fault is None
    assert pager.ask(ADDRESS ^ page, pasid=5).queued
    assert (world.dma(pasid=5).fault == 0x71) == (not page)


@pytest.mark.parametrize("page", [0, 0x1000])
def test_what_is_forgotten_depends_on_the_type(page: int) -> None:
    """6.5.3.1: the page of a second stage; nested, the whole domain."""
    for build, code in ((second_stage, 0 if page else 0x79), (nested, 0x79)):
        world = build(pasid=5)
        pager = Pager(world)
        assert world.dma(pasid=5).fault is None
        world.put(world.second[1], 0)
        assert pager.ask(ADDRESS ^ page, pasid=5).queued
        assert world.code(pasid=5) == code


def test_upper_entries_are_dropped_too() -> None:
    world = first_stage(pasid=5)
    pager = Pager(world)
    assert world.dma(pasid=5).fault is None
    world.put(world.first[3], 0)
    assert pager.ask(pasid=5).queued
    assert world.dma(pasid=5).fault == 0x71


# Responses by descriptor (type 9), and draining


@pytest.mark.parametrize(
    ("code", "seen"),
    [(0, SUCCESS), (1, INVALID), (15, FAILURE), (2, FAILURE), (14, FAILURE)],
)
def test_response_descriptor(code: int, seen: ResponseCode) -> None:
    pager = Pager()
    scalable(pager.world).done(response(NIC, code=code, pasid=0xABCDE, group=0x155))
    assert pager.device.responses == [PageResponse(0x155, seen, 0xABCDE, True)]


def test_response_without_pasid_and_not_last() -> None:
    pager = Pager()
    scalable(pager.world).done(response(NIC, group=1, last=0))
    assert pager.device.responses == [PageResponse(1, SUCCESS, None, False)]


def test_response_without_an_attached_device() -> None:
    pager = Pager()
    scalable(pager.world).done(response(0x1234))
    assert pager.device.responses == []


@pytest.mark.parametrize("pd", [0, 1])
def test_page_drain(pd: int) -> None:
    """A wait descriptor with PD completes after posted requests have reached the queue."""
    pager = Pager()
    for group in range(3):
        pager.world.unit.page_requests.post(PageRequest(NIC, ADDRESS, group=group))
    assert pager.tail == 0
    scalable(pager.world).done(wait(pd=pd, sw=1, data=1, address=STATUS))
    assert pager.tail == (96 if pd else 0)
    assert pager.ask(group=3).queued
    assert [pager.queued(n)[1] >> 3 & 0x1FF for n in range(4)] == [0, 1, 2, 3]


# Bad input


@settings(max_examples=150, deadline=None)
@given(
    pqa=st.integers(0, (1 << 64) - 1),
    offsets=st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1)),
    ttm=st.integers(0, 3),
    entries=st.lists(st.integers(0, (1 << 64) - 1), min_size=8, max_size=8),
    requests=st.lists(
        st.builds(
            PageRequest, st.just(NIC), st.integers(0, (1 << 64) - 1), st.one_of(st.none(), st.integers(0, 0xFFFFF)),
            st.booleans(), st.booleans(), group=st.integers(0, 511), last=st.booleans(),
            execute=st.just(False), privileged=st.just(False),
        ), max_size=8,
    ),
)  # fmt: skip
def test_random_requests(
    pqa: int, offsets: tuple[int, int], ttm: int, entries: list[int], requests: list[PageRequest]
) -> None:
    memory = FlatMemory(64 << 10)
    memory.write_u64(0x1000, 0x2001)
    for n, entry in enumerate(entries):
        memory.write_u64(0x2000 + 32 * NIC + 8 * n, entry & 0x1F | 0x3000 if n == 0 else entry & 1)
    unit = RemappingUnit(memory, Capabilities.full())
    unit.mmio_write(RTADDR, 0x1000 | ttm << 10, 8)
    unit.mmio_write(GCMD, SRTP, 4)
    unit.mmio_write(GCMD, TE, 4)
    unit.mmio_write(PQA, pqa, 8)
    unit.mmio_write(PQH, offsets[0], 4)
    unit.mmio_write(PQT, offsets[1], 4)
    for request in requests:
        outcome = unit.page_request(request)
        assert not (outcome.queued and (outcome.fault or outcome.answer is not None))
