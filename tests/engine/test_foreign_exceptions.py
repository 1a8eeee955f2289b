"""Exceptions of the embedding program's memory: they pass through, and the operation can be repeated.

Two equal units do the same. The memory of one raises at some access; then the operation is done again, and everything
is as in the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import Access, DmaRequest, PageRequest, SourceId
from iommu.engine.device import Device
from tests.engine.failing import FailingMemory, Unplugged
from tests.engine.interrupting import FIXED_41_TO_5, IRE, IRTA, SIRTP, request
from tests.engine.queueing import (
    QIE,
    Software,
    context,
    device_tlb,
    interrupt,
    iotlb,
    pasid_cache,
    pasid_iotlb,
    wait,
)
from tests.engine.scalable_world import (
    ADDRESS,
    ALL1,
    FIRST,
    GUEST,
    HOST,
    NESTED,
    SCALABLE,
    SECOND,
    ScalableWorld,
)
from tests.engine.world import DISK, FECTL, FSTS, GCMD, NIC, RW, TE, held

PQA, PECTL, IECTL = 0xD0, 0xE0, 0xA0
TABLE, DESCRIPTOR, STATUS = 0x8_0000, 0x9_0040, 0xF_0000
SIZE = 1 << 20
PAGES = (ADDRESS, ADDRESS ^ 0x1000, ADDRESS ^ 0x40_0000, 1 << 50)


class Whole(ScalableWorld):
    """A unit with everything: PASID 0 by the second stage, 1 by the first, 2 nested; interrupts; both queues.

    NIC has a device-TLB, DISK does not use any.
    """

    kind_of_memory = FailingMemory
    memory: FailingMemory

    def __init__(self, *, audit: bool, caching_mode: bool) -> None:
        super().__init__(size=SIZE, audit=audit, caching_mode=caching_mode)
        for device in (NIC, DISK):
            self.tables(device)
        posted = DESCRIPTOR << 32 | 0x71 << 16 | 1 << 15 | 1
        self.put(TABLE, FIXED_41_TO_5, 0, posted, 0)
        self.put(DESCRIPTOR + 32, 0x900 << 32 | 0xF2 << 16)
        self.write(IRTA, TABLE | 3, 8)
        self.write(GCMD, SIRTP)
        self.write(GCMD, IRE)
        self.latch(self.root | SCALABLE)
        self.write(GCMD, IRE | TE)
        self.nic, self.disk = Device(self.unit, NIC), Device(self.unit, DISK, uses_ats=False)
        self.software = Software(self, wide=1)
        self.write(PQA, self.page(), 8)
        for control in (PECTL, IECTL, FECTL):
            self.write(control, 0)

    def tables(self, device: SourceId) -> None:
        """Two pages of a device by each kind of stage, except one page nested."""
        second, first, under = self.page(), self.page(), self.page()
        for page in PAGES[:2]:
            self.map(second, 4, page, HOST | RW)
            self.map_first(first, 4, page, HOST | ALL1)
        nested = [self.page() for _ in range(4)]
        for level, table, below in zip((4, 3, 2, 1), nested, [*nested[1:], HOST], strict=True):
            self.map(under, 4, GUEST + table, table | RW)
            self.put(table + 8 * (ADDRESS >> 3 + 9 * level & 0x1FF), GUEST + below | ALL1)
        self.map(under, 4, GUEST + HOST, HOST | RW)
        self.pasid_entry(0, device, pgtt=SECOND, second=second, ssade=1)
        self.pasid_entry(1, device, pgtt=FIRST, first=first, eafe=1)
        self.pasid_entry(2, device, pgtt=NESTED, first=GUEST + nested[0], second=under, ssade=1)

    def everything(self) -> dict[str, Any]:
        """All that can be seen of the unit and its devices."""
        return {
            "registers": [self.read(offset) for offset in range(0, 0x400, 4)],
            "caches": held(self.unit.caches),
            "messages": self.unit.drain_events(),
            "memory": self.memory.read(0, SIZE),
            "device-TLB": self.nic.tlb,
            "responses": self.nic.responses,
            "stale": [str(item) for item in self.unit.audit()] if self.unit.ledger else [],
        }


class Operation(NamedTuple):
    """What software prepares in memory, and the operation of the unit, which can be repeated."""

    prepare: Callable[[Whole], object]
    act: Callable[[Whole], object]


def translated(pasid: int | None, page: int, access: Access, device: SourceId, trace: bool) -> Operation:
    """A memory request."""
    wanted = DmaRequest(device, page, access, pasid=pasid)
    return Operation(lambda _: None, lambda world: world.unit.translate(wanted, trace=trace))


def remapped(handle: int) -> Operation:
    """An interrupt: remapped, posted, or faulty."""
    return Operation(lambda _: None, lambda world: world.unit.remap_interrupt(request(handle)))


def device_reads(page: int, ats: bool) -> Operation:
    """A read of a device."""
    return Operation(lambda _: None, lambda world: (world.nic if ats else world.disk).read(page, 8))


def device_writes(page: int, ats: bool) -> Operation:
    """A write of a device."""
    return Operation(lambda _: None, lambda world: (world.nic if ats else world.disk).write(page, b"data"))


def asked(pasid: int | None, posted: int) -> Operation:
    """A page request, after others that are posted."""

    def prepare(world: Whole) -> None:
        for group in range(posted):
            world.unit.page_requests.post(PageRequest(NIC, ADDRESS, group=group + 1))

    return Operation(prepare, lambda world: world.nic.request_page(ADDRESS, pasid=pasid))


def submitted(descriptors: list[tuple[int, ...]], posted: int, off: bool) -> Operation:
    """Descriptors; the operation is the write of the tail, or turning the queue on."""

    def prepare(world: Whole) -> None:
        world.write(FSTS, 0x7F)
        for group in range(posted):
            world.unit.page_requests.post(PageRequest(NIC, ADDRESS, group=group + 1))
        if off:
            world.software.switch(0)
            world.software.tail = 0
        for descriptor in descriptors:
            world.software.put(*descriptor)
        if off:
            world.software.ring()

    def act(world: Whole) -> None:
        if off:
            world.write(GCMD, IRE | TE | QIE)
        else:
            world.software.ring()

    return Operation(prepare, act)


def edited(at: int, low: int) -> Operation:
    """Software changes an entry of the second stage's leaf table, and invalidates nothing."""

    def prepare(world: Whole) -> None:
        entry = world.memory.read_u64(world.pasids[NIC, 0]) & ~0xFFF
        for level in (4, 3, 2):
            entry = world.memory.read_u64(entry + 8 * (PAGES[at] >> 3 + 9 * level & 0x1FF)) & 0xF_FFFF_FFFF_F000
        world.put(entry + 8 * (PAGES[at] >> 12 & 0x1FF), HOST | low)

    return Operation(prepare, lambda _: None)


DESCRIPTORS = st.sampled_from((
    context(1), iotlb(1), pasid_cache(3), pasid_iotlb(2, did=1), pasid_iotlb(2, did=1, pasid=1), interrupt(0),
    device_tlb(NIC, address=ADDRESS), device_tlb(0x1234, address=ADDRESS),
    wait(sw=1, data=0x55, address=STATUS), wait(interrupt=1),
    wait(sw=1, data=7, address=STATUS + 4, interrupt=1, pd=1), (0xF, 0),
))  # fmt: skip
OPERATIONS = st.one_of(
    st.builds(
        translated,
        st.sampled_from((None, 0, 1, 2, 3)),
        st.sampled_from(PAGES),
        st.sampled_from(Access),
        st.sampled_from((NIC, DISK)),
        st.booleans(),
    ),
    st.builds(remapped, st.sampled_from((0, 1, 2))),
    st.builds(device_reads, st.sampled_from(PAGES), st.booleans()),
    st.builds(device_writes, st.sampled_from(PAGES), st.booleans()),
    st.builds(asked, st.sampled_from((None, 1)), st.integers(0, 2)),
    st.builds(submitted, st.lists(DESCRIPTORS, min_size=1, max_size=4), st.integers(0, 2), st.booleans()),
    st.builds(edited, st.sampled_from((0, 1)), st.sampled_from((0, 1, 2, 3))),
)
FAILURES = st.tuples(st.integers(0, 14), st.sampled_from((Unplugged, KeyboardInterrupt)))


@settings(deadline=None)
@given(
    st.booleans(),
    st.booleans(),
    st.lists(st.tuples(OPERATIONS, FAILURES), min_size=1, max_size=6),
)
def test_operation_that_an_exception_ends_can_be_repeated(
    audit: bool, caching_mode: bool, steps: list[tuple[Operation, tuple[int, type[BaseException]]]]
) -> None:
    disturbed, other = (Whole(audit=audit, caching_mode=caching_mode) for _ in range(2))
    for operation, (access, error) in steps:
        for world in (disturbed, other):
            operation.prepare(world)
        expected = operation.act(other)
        raised = error()
        disturbed.memory.arm(access, raised)
        try:
            outcome = operation.act(disturbed)
        except (Unplugged, KeyboardInterrupt) as caught:
            assert caught is raised
            assert disturbed.memory.disarm()
            outcome = operation.act(disturbed)
        assert not disturbed.memory.disarm(), "the exception was lost"
        if not isinstance(outcome, tuple) and hasattr(outcome, "replace") and hasattr(outcome, "trace"):
            outcome, expected = outcome.replace(trace=()), expected.replace(trace=())  # type: ignore[attr-defined]
        assert outcome == expected
        assert disturbed.everything() == other.everything()
