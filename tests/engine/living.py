"""A unit that uses everything a unit has, and steps that software and devices can take with it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st

from iommu import (
    Access,
    AddressType,
    Device,
    DmaRequest,
    InterruptRequest,
    Outcome,
    PageRequest,
    Policy,
    Selector,
    SourceId,
)
from iommu.engine.ats import Completion
from tests.engine import queueing as q
from tests.engine.interrupting import IRE, POSTED_71, SIRTP, request
from tests.engine.scalable_world import ALL1, FIRST, GUEST, NESTED, PASS, SCALABLE, SECOND, ScalableWorld
from tests.engine.world import GCMD, GSTS, NIC, PS, RW, TE, held

GPU, ABSENT_DEVICE = SourceId(0, 5, 0), SourceId(0, 6, 0)
PAGES = (0x5000, 0x6000, 0x20_5000, 0xFEE0_1000, 0x4000_0000, 0x8000_0000)
"""The second stage maps the last two by a page of 2 MiB and one of 1 GiB."""
IRTA, PQH, PQT, PQA, PRS, PECTL = 0xB8, 0xC0, 0xC8, 0xD0, 0xDC, 0xE0
INTERRUPT_TABLE = 0x20_0000
DESCRIPTOR = 0x8_0040
"""The posted-interrupt descriptor that POSTED_71 names."""
HOST, MARK = 0x31_0000, 0x30_0000
"""Where pages go, and where wait descriptors write."""


class Living:
    """A unit with legacy or scalable tables, interrupts, both queues, and a device with a device-TLB.

    GPU has the device; NIC is a requester without one. In legacy mode both are in domain 1. In scalable mode, PASIDs
    0 to 3 have a second stage, a first stage, a nested one and pass-through.
    """

    def __init__(
        self,
        *,
        legacy: bool = False,
        audit: bool = False,
        stepped: bool = False,
        capacity: int = 1 << 20,
        **changes: Any,
    ) -> None:
        policy = Policy(cache_capacity=capacity)
        changes = {"fault_records": 3, **changes}
        world = self.world = ScalableWorld(policy=policy, size=4 << 20, audit=audit, **changes)
        self.unit = world.unit
        self.device = Device(self.unit, GPU)
        self.second = world.page()
        self.entries: list[int] = []
        for page in PAGES:
            leaf = {PAGES[-2]: 2, PAGES[-1]: 3}.get(page, 1)
            places = world.map(self.second, 4, page, RW | PS if leaf > 1 else HOST | RW, leaf)
            self.entries += places.values()
        if legacy:
            for source_id in (NIC, GPU):
                self.entries.append(world.context(source_id, table=self.second, tt=1))
            world.latch(world.root)
        else:
            self.build_scalable()
            world.latch(world.root | SCALABLE)
        world.write(GCMD, TE | world.read(GSTS) & 0x96FF_FFFF)
        self.queue = q.Software(world, wide=not legacy)
        self.build_events()
        if stepped:
            self.unit.stepped, self.unit.steps = True, self.unit._hold_back()

    def build_scalable(self) -> None:
        """The tables of scalable mode. All first-stage tables are mapped for the guest by one large page."""
        world = self.world
        world.map(self.second, 4, GUEST, RW | PS, leaf=3)
        first, nested = world.page(), world.page()
        for page in PAGES:
            self.entries += world.map_first(first, 4, page, HOST + 0x1000 | ALL1).values()
        tables = {4: nested, 3: world.page(), 2: world.page(), 1: world.page()}
        for level, table in tables.items():
            self.entries.append(table + 8 * (PAGES[0] >> 3 + 9 * level & 511))
            world.put(self.entries[-1], (GUEST + tables[level - 1] if level > 1 else PAGES[0]) | ALL1)
        for source_id in (NIC, GPU):
            self.entries.append(world.scalable_context(source_id))
            for pasid, pgtt in enumerate((SECOND, FIRST, NESTED, PASS)):
                top = GUEST + nested if pgtt == NESTED else first
                self.entries.append(world.pasid_entry(pasid, source_id, pgtt=pgtt, first=top, second=self.second))

    def build_events(self) -> None:
        """Interrupt table, page request queue, and where the events go."""
        world = self.world
        world.put(INTERRUPT_TABLE, 0x0000_0500_0041_0001, 0)
        world.put(INTERRUPT_TABLE + 16, POSTED_71, 0)
        world.put(DESCRIPTOR + 32, 0x900 << 32 | 0xF2 << 16)
        self.entries += [INTERRUPT_TABLE + 16 * n for n in range(4)]
        world.write(IRTA, INTERRUPT_TABLE | 1 << 11 | 3, 8)
        world.write(GCMD, world.read(GSTS) & 0x96FF_FFFF | SIRTP)
        world.write(GCMD, world.read(GSTS) & 0x96FF_FFFF | IRE)
        world.write(PQA, world.page(), 8)
        assert world._free <= DESCRIPTOR
        for control, vector in ((0x38, 0x51), (0xA0, 0x52), (PECTL, 0x53)):
            world.write(control, 0)
            world.write(control + 4, vector)
            world.write(control + 8, 0xFEE0_1000)

    def state(self) -> tuple[Any, ...]:
        """What can be seen of it."""
        unit = self.unit
        return (
            [slot.value for slot in unit.registers],
            held(unit.caches),
            self.world.memory.read(0, 0x40_0000),
            unit.listeners.kept,
            [str(pending) for pending in unit.pending],
            unit.ignored_writes,
            self.device.tlb,
            self.device.responses,
            unit.ledger and [str(stale) for stale in unit.audit()],
        )

    def restored(self, way: str) -> Living:
        """Another one in the same state, with memory of its own: by "restore", "deepcopy" or "pickle"."""
        if way == "deepcopy":
            return copy.deepcopy(self)
        if way == "pickle":
            return pickle.loads(pickle.dumps(self))  # type: ignore[no-any-return]
        other = copy.copy(self)
        other.world, other.queue = copy.copy(self.world), copy.copy(self.queue)
        other.queue.world = other.world
        other.world.memory = copy.deepcopy(self.world.memory)
        other.unit = other.world.unit = type(self.unit).restore(self.unit.save(), other.world.memory)
        other.device = Device(other.unit, GPU, uses_ats=self.device.uses_ats)
        other.device.tlb, other.device.completion = self.device.tlb[:], self.device.completion
        other.device.responses = self.device.responses[:]
        return other


class Step(NamedTuple):
    """One step; on units in the same state its result is the same."""

    name: str
    do: Callable[[Living], object]

    def __repr__(self) -> str:
        return self.name


def dma(source_id: SourceId, page: int, access: Access, pasid: int | None, kind: int) -> Step:
    ask = DmaRequest(source_id, page, access, 4, pasid, address_type=AddressType(kind))
    return Step(f"{ask}", lambda living: living.unit.translate(ask))


def traced(page: int, access: Access) -> Step:
    ask = DmaRequest(NIC, page, access)
    return Step(f"traced {ask}", lambda living: living.unit.translate(ask, trace=True))


def device(page: int, access: Access, pasid: int | None, completion: Completion) -> Step:
    def do(living: Living) -> object:
        living.device.completion = completion
        return living.device.dma(page, access, pasid=pasid)

    return Step(f"device {access.name} {page:#x} pasid {pasid}", do)


def edit(number: int, bit: int) -> Step:
    def do(living: Living) -> None:
        living.world.flip(living.entries[number % len(living.entries)], bit)

    return Step(f"flip bit {bit} of entry {number}", do)


def write(offset: int, value: int, size: int) -> Step:
    return Step(f"[{offset:#x}] = {value:#x}", lambda living: living.unit.mmio_write(offset, value, size))


def read(offset: int) -> Step:
    return Step(f"read {offset:#x}", lambda living: living.unit.mmio_read(offset, 4))


def command(toggled: int) -> Step:
    """GCMD: the enable bits with some of them changed, or a one-shot command."""
    return Step(
        f"GCMD ^ {toggled:#x}",
        lambda living: living.world.write(GCMD, (living.world.read(GSTS) & 0x96FF_FFFF) ^ toggled),
    )


def submit(descriptor: tuple[int, int]) -> Step:
    return Step(f"descriptor {descriptor[0]:#x}", lambda living: living.queue.submit(descriptor))


def interrupt(handle: int, source_id: SourceId) -> Step:
    ask: InterruptRequest = request(handle, source=source_id)
    return Step(f"interrupt {handle}", lambda living: living.unit.remap_interrupt(ask))


def page_request(source_id: SourceId, page: int, pasid: int | None, posted: bool, last: bool) -> Step:
    ask = PageRequest(source_id, page, pasid, last=last)
    if posted:
        return Step(f"posted {ask}", lambda living: living.unit.page_requests.post(ask))
    return Step(f"{ask}", lambda living: living.unit.page_request(ask))


def invalidate(named: Selector) -> Step:
    return Step(f"invalidate {named}", lambda living: living.unit.invalidate(named))


def complete(count: int) -> Step:
    return Step(f"step {count}", lambda living: living.unit.step(count))


DRAIN = Step("drain events", lambda living: living.unit.drain_events())

_sources, _pages = st.sampled_from((NIC, NIC, GPU, ABSENT_DEVICE)), st.sampled_from(PAGES)
_pasids, _access = st.sampled_from((None, None, 0, 1, 2, 3)), st.sampled_from((Access.READ, Access.WRITE))
_descriptors = st.sampled_from(
    (
        *(q.context(1), q.context(2, did=1), q.context(3, did=1, sid=NIC)),
        *(q.iotlb(1), q.iotlb(2, did=1), q.iotlb(3, did=1, address=PAGES[0]), q.iotlb(3, did=1, address=0, am=9)),
        *(q.interrupt(0), q.interrupt(1, index=1), q.device_tlb(GPU, address=PAGES[0]), q.device_tlb(ABSENT_DEVICE)),
        *(q.wait(interrupt=1), q.wait(sw=1, data=7, address=MARK), q.wait(pd=1, fn=1), q.wait(sw=1, address=1 << 50)),
        *(q.pasid_iotlb(2, did=1, pasid=1), q.pasid_iotlb(3, did=1, pasid=2, address=PAGES[0])),
        *(q.pasid_cache(1, did=1, pasid=1), q.pasid_cache(3), q.pasid_device_tlb(GPU, pasid=1, address=PAGES[0])),
        *(q.response(GPU, group=3), (15, 0), (q.context(1)[0] | 1 << 9, 0)),
    )
)
_selectors = st.sampled_from(
    (
        *(Selector.translations(), Selector.translations(1), Selector.contexts(), Selector.pasids()),
        *(Selector.interrupts(1), Selector.translations(None, 1), Selector.translations(1, 2)),
    )
)
# Masks, status, addresses of queues and tables, protected memory, CCMD, IVA; IQT and PQH move the queues.
_offsets = (0x34, 0x38, 0x64, 0x68, 0x6C, 0x70, 0x88, 0x90, 0x9C, 0xA0, 0xB8, 0xC0, 0xD0, 0xDC, 0xE0, 0x20, 0x28)
_values = st.one_of(
    st.sampled_from((0, 1, 2, 0x10, 0x20, 1 << 31, 1 << 30, (1 << 32) - 1)), st.integers(0, (1 << 32) - 1)
)

STEPS = st.one_of(
    st.builds(dma, _sources, _pages, _access, _pasids, st.sampled_from((0, 0, 0, 1, 2))),
    st.builds(dma, _sources, _pages, _access, _pasids, st.just(0)),
    st.builds(traced, _pages, _access),
    st.builds(device, _pages, _access, st.sampled_from((None, 1)), st.sampled_from(Completion)),
    st.builds(edit, st.integers(0, 99), st.sampled_from((0, 1, 2, 5, 12, 13, 51, 63))),
    st.builds(write, st.sampled_from(_offsets), _values, st.just(4)),
    st.builds(read, st.sampled_from((*range(0, 0x100, 4), 0x220, 0x22C))),
    st.builds(command, st.sampled_from((0, TE, 1 << 30, SIRTP, IRE, 1 << 23, q.QIE, TE | 1 << 30))),
    st.builds(submit, _descriptors),
    st.builds(submit, _descriptors),
    st.builds(interrupt, st.integers(0, 17), st.sampled_from((NIC, GPU))),
    st.builds(page_request, _sources, _pages, _pasids, st.booleans(), st.booleans()),
    st.builds(invalidate, _selectors),
    st.builds(complete, st.sampled_from((1, 1, 1, 9))),
    st.builds(
        write, st.sampled_from((0x28, 0xF8)), st.sampled_from((1 << 63 | 1 << 61, 1 << 63 | 1 << 60)), st.just(8)
    ),
    st.just(DRAIN),
)
"""Any step."""

UNITS = st.fixed_dictionaries(
    {
        "legacy": st.booleans(),
        "audit": st.booleans(),
        "stepped": st.booleans(),
        "caching_mode": st.booleans(),
        "capacity": st.sampled_from((1, 3, 1 << 20)),
    }
)
"""The arguments of Living."""


def take(living: Living, step: Step) -> object:
    """The result of a step; stale items and traces as text, as they refer to the formats of their unit."""
    result = step.do(living)
    if isinstance(result, Outcome):
        return result.replace(stale=tuple(map(str, result.stale)), trace=tuple(map(str, result.trace)))
    return result


def busy(**changes: Any) -> Living:
    """A unit in which no latched number is as it is after reset."""
    living = Living(**{"caching_mode": True, **changes})
    steps = [
        *(
            dma(source_id, page, Access.WRITE, pasid, 0)
            for source_id in (NIC, GPU)
            for page in PAGES
            for pasid in (None, 1, 2)
        ),
        *(interrupt(0, NIC), interrupt(1, NIC), interrupt(3, NIC), command(1 << 23)),
        *(submit(q.wait(interrupt=1)), page_request(GPU, PAGES[0], 1, True, True)),
        *(write(0x64, 1 << 31, 4), write(0x68, 0, 4), write(0x6C, 0x100_0000, 4)),
        *(write(0x22C, 1 << 31, 4), write(0x34, 1, 4), dma(NIC, 0x7000, Access.WRITE, 1, 0)),
    ]
    for step in steps:
        take(living, step)
    return living


def hanging() -> Living:
    """A stepped unit that nobody steps any more: with a command, a descriptor and a device that does not answer."""
    living = Living(stepped=True)
    living.queue.submit(q.device_tlb(ABSENT_DEVICE), q.iotlb(1))
    for step in (complete(1), write(0x28, 1 << 63 | 1 << 61, 8), command(TE)):
        take(living, step)
    return living
