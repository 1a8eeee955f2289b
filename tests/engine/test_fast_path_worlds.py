"""fast_path.py: the same outcomes, memory, registers and caches as the full translation, whatever happens in between.

Two units side by side: one with the fast path, one without. They see the same requests, invalidations, table edits,
flushes and commands, in caching mode, behind a processor's cache, and with a device that has a device-TLB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import (
    Access,
    Capabilities,
    Device,
    DmaRequest,
    FlatMemory,
    Outcome,
    Policy,
    ProcessorCache,
    RemappingUnit,
    Selector,
    SourceId,
)
from tests.engine.scalable_world import SCALABLE
from tests.engine.world import GCMD, NIC, RTADDR, SRTP, TE, held

GPU = SourceId(0, 5, 0)
ROOT, CONTEXTS, DIRECTORY, PASIDS, TOP, LEVEL_3, LEVEL_2, LEVEL_1 = range(0x1000, 0x9000, 0x1000)
LIMITED, HIGH_2, HIGH_1 = 0xB000, 0xC000, 0xD000
PAGES = (0x5000, 0x6000, 0x7000, 0x20_0000, 0x21_7000, 0x40_5000, 0xFEE0_0000, 0xFEE0_1000, 1 << 40)
"""Small pages, a large one and an address within it, a page below a table that forbids writes, pages in the interrupt
range, and an address that nothing maps."""

HOSTS = (0x9000, 0xA000, 0xFEE0_0000)
LEGACY_ENTRIES = st.builds(
    lambda host, rights: host | rights, st.sampled_from(HOSTS), st.sampled_from((0, 1, 2, 3, 3, 3, 3 | 1 << 11))
)
FIRST_STAGE_ENTRIES = st.builds(
    lambda host, bits: host | bits,
    st.sampled_from(HOSTS),
    st.sampled_from((0, 1, 5, 7, 0x67, 0x67, 0x27, 0x67 | 1 << 63, 0x47)),
)


class Side:
    """One of the two units, its memory, and a device with a device-TLB."""

    def __init__(self, mode: str, *, fast: bool, coherent: bool, caching_mode: bool, capacity: int) -> None:
        self.behind = FlatMemory(16 << 20)
        self.cpu = ProcessorCache(self.behind)
        scalable = mode != "legacy"
        changes: dict[str, Any] = {"caching_mode": caching_mode, "fault_records": 4, "coherent": coherent}
        if scalable:
            capabilities = Capabilities.full(scalable_coherent=coherent, host_address_width=48, **changes)
        else:
            capabilities = Capabilities(device_tlb=True, **changes)
        self.unit = RemappingUnit(self.cpu, capabilities, Policy(cache_capacity=capacity))
        if not fast:
            self.unit._translate = self.unit.translation.translate
        self.first_stage = mode == "first stage"
        self.write_tables(scalable=scalable, snooped=coherent)
        self.cpu.flush_all()
        self.unit.mmio_write(RTADDR, ROOT | (SCALABLE if scalable else 0), 8)
        self.unit.mmio_write(GCMD, SRTP, 4)
        self.unit.mmio_write(GCMD, TE, 4)
        self.device = Device(self.unit, GPU)

    def write_tables(self, *, scalable: bool, snooped: bool) -> None:
        """Two devices in domain 1, one of them with a device-TLB; two small pages and a large one."""
        put, devices = self.cpu.write_u64, (NIC, GPU)
        put(ROOT, CONTEXTS | 1)
        for device in devices:
            if scalable:
                put(CONTEXTS + 32 * device.devfn, DIRECTORY | (1 << 3 | 1 << 2 | 1))
            else:
                put(CONTEXTS + 16 * device.devfn, TOP | 1 << 2 | 1)
                put(CONTEXTS + 16 * device.devfn + 8, 1 << 8 | 2)
        put(DIRECTORY, PASIDS | 1)
        for pasid in (0, 1):
            kind = 1 << 6 if self.first_stage else 2 << 6 | 2 << 2 | TOP
            put(PASIDS + 64 * pasid, kind | 1)
            put(PASIDS + 64 * pasid + 8, 1 | (1 << 23 if snooped else 0))
            put(PASIDS + 64 * pasid + 16, TOP if self.first_stage else 0)
        rights = 0x67 if self.first_stage else 3
        for table, below in ((TOP, LEVEL_3), (LEVEL_3, LEVEL_2), (LEVEL_2, LEVEL_1)):
            put(table, below | rights)
        for number in (5, 6, 7):
            put(LEVEL_1 + 8 * number, 0x4000 + 0x1000 * number | rights)
        put(LEVEL_2 + 8, 0x40_0000 | rights | 1 << 7)
        put(LEVEL_2 + 16, LIMITED | rights & ~2)
        for number in (5, 6):
            put(LIMITED + 8 * number, 0x9000 | rights)
        put(LEVEL_3 + 8 * 3, HIGH_2 | rights)
        put(HIGH_2 + 8 * (0xFEE0_0000 >> 21 & 511), HIGH_1 | rights)
        for number in (0, 1):
            put(HIGH_1 + 8 * number, 0x9000 | rights)

    def state(self) -> tuple[Any, ...]:
        """Memory, registers, caches, and what the device has cached."""
        unit = self.unit
        return (
            self.cpu.read(0, 0x10000),
            self.behind.read(0, 0x10000),
            [slot.value for slot in unit.registers],
            held(unit.caches),
            self.device.tlb,
            unit.drain_events(),
        )


class Step(NamedTuple):
    """One step on both sides; its result must be the same."""

    name: str
    do: Callable[[Side], object]

    def __repr__(self) -> str:
        return self.name


def dma(address: int, access: Access, pasid: int | None, length: int) -> Step:
    request = DmaRequest(NIC, address, access if length else Access.READ, length, pasid)

    def do(side: Side) -> Outcome:
        return side.unit.translate(request)

    return Step(f"{access.name} {address:#x} pasid {pasid} length {length}", do)


def device_dma(address: int, access: Access, uses_ats: bool) -> Step:
    def do(side: Side) -> Outcome:
        side.device.uses_ats = uses_ats
        return side.device.dma(address, access)

    return Step(f"device {access.name} {address:#x} {'by ATS' if uses_ats else 'untranslated'}", do)


def edit(where: int, entry: int, flush: bool) -> Step:
    def do(side: Side) -> None:
        side.cpu.write_u64(where, entry)
        if flush:
            side.cpu.flush(where, 8)

    return Step(f"[{where:#x}] = {entry:#x}{', flushed' if flush else ''}", do)


def drop(named: Selector) -> Step:
    return Step(str(named), lambda side: side.unit.invalidate(named))


def command(value: int) -> Step:
    return Step(f"GCMD {value:#x}", lambda side: side.unit.mmio_write(GCMD, value, 4))


ACCESSES = st.sampled_from((Access.READ, Access.WRITE, Access.ATOMIC))
SELECTORS = st.sampled_from(
    (
        Selector.contexts(),
        Selector.contexts(source_id=NIC),
        Selector.pasids(1),
        Selector.pasids(1, 0),
        Selector.translations(),
        Selector.translations(1),
        Selector.translations(2),
        Selector.translations(1, 0),
        Selector.translations(1, addresses=range(0x5000, 0x6000), leaf_only=True),
        Selector.translations(1, addresses=range(0x20_0000, 0x20_1000)),
        Selector.translations(1, 0, addresses=range(0x5000, 0x6000)),
    )
)


def domain_of(mode: str, domain_id: int, snooped: bool) -> Step:
    """Move NIC, or the PASID of its requests, to another domain; not flushed, so that only snooping sees it."""
    if mode == "legacy":
        return edit(CONTEXTS + 16 * NIC.devfn + 8, domain_id << 8 | 2, flush=False)
    return edit(PASIDS + 8, domain_id | (1 << 23 if snooped else 0), flush=False)


def steps(mode: str, snooped: bool) -> st.SearchStrategy[Step]:
    """Mostly requests, and everything else that the fast path could miss."""
    requests = st.builds(
        dma, st.sampled_from(PAGES), ACCESSES, st.sampled_from((None, None, 0, 1)), st.sampled_from((1, 4, 0))
    )
    entries = FIRST_STAGE_ENTRIES if mode == "first stage" else LEGACY_ENTRIES
    leaves = st.builds(edit, st.sampled_from((LEVEL_1 + 40, LEVEL_1 + 48, LEVEL_1 + 56)), entries, st.booleans())
    tables = st.builds(edit, st.sampled_from((LEVEL_2, LEVEL_3)), st.just(LEVEL_1 | 3), st.booleans())
    devices = st.builds(device_dma, st.sampled_from(PAGES[:6]), ACCESSES, st.booleans())
    commands = st.sampled_from((0, TE, SRTP | TE)).map(command)
    domains = st.builds(domain_of, st.just(mode), st.sampled_from((1, 2)), st.just(snooped))
    return requests | requests | devices | leaves | tables | domains | SELECTORS.map(drop) | commands


@pytest.mark.parametrize("mode", ["legacy", "second stage", "first stage"])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_fast_path_and_full_translation_agree_whatever_happens(mode: str, data: st.DataObject) -> None:
    options: dict[str, Any] = {
        "coherent": data.draw(st.booleans()),
        "caching_mode": data.draw(st.booleans()),
        "capacity": data.draw(st.sampled_from((1, 3, 1 << 20))),
    }
    agree(mode, data.draw(st.lists(steps(mode, options["coherent"]), min_size=5, max_size=25)), **options)


def agree(mode: str, happens: list[Step], **options: Any) -> None:
    """The same steps with and without the fast path give the same outcomes and the same state."""
    fast, full = (Side(mode, fast=fast, **options) for fast in (True, False))
    for step in happens:
        assert step.do(fast) == step.do(full), step
    assert fast.state() == full.state()


READ, WRITE = Access.READ, Access.WRITE
SPECIAL_CASES = {
    "a table further up forbids writes": [
        dma(0x5000, WRITE, None, 4),
        dma(0x6000, WRITE, None, 4),
        dma(0x40_5000, READ, None, 4),
        dma(0x40_6000, WRITE, None, 4),
    ],
    "a page is cached only if the request may use it": [
        *(edit(LEVEL_1 + 8 * number, 0x9000 | 0x65, flush=True) for number in (5, 6, 7)),
        dma(0x5000, READ, None, 4),
        dma(0x6000, READ, None, 4),
        dma(0x7000, WRITE, None, 4),
    ],
    "without a PASID the interrupt range is not DMA": [
        dma(0xFEE0_0000, READ, 0, 4),
        dma(0x5000, READ, None, 4),
        dma(0xFEE0_1000, READ, None, 4),
    ],
}


@pytest.mark.parametrize("mode", ["legacy", "second stage", "first stage"])
@pytest.mark.parametrize("happens", SPECIAL_CASES.values(), ids=SPECIAL_CASES)
def test_fast_path_and_full_translation_agree_in_special_cases(mode: str, happens: list[Step]) -> None:
    agree(mode, happens, coherent=True, caching_mode=False, capacity=1 << 20)


@pytest.mark.parametrize("mode", ["legacy", "second stage", "first stage"])
@pytest.mark.parametrize("caching_mode", [True, False])
def test_the_fast_path_is_taken_in_these_worlds(mode: str, caching_mode: bool) -> None:
    """Otherwise the test above would compare the full translation with itself."""
    side = Side(mode, fast=True, coherent=True, caching_mode=caching_mode, capacity=1 << 20)
    read = dma(0x5000, Access.READ, None, 4)
    read.do(side)
    side.unit.translation.translate = None  # type: ignore[method-assign, assignment]
    assert getattr(read.do(side), "host_address", None) == 0x9000
    assert getattr(dma(0x6000, Access.READ, None, 4).do(side), "host_address", None) == 0xA000


@pytest.mark.parametrize(
    "event",
    [
        drop(Selector.contexts()),
        drop(Selector.pasids()),
        drop(Selector.translations()),
        drop(Selector.translations(2, addresses=range(0x5000, 0x6000))),
        command(TE),
        command(TE | SRTP),
    ],
    ids=repr,
)
def test_everything_is_dropped_on(event: Step) -> None:
    """After any invalidation, and any change of mode or table, the next request takes the full translation."""
    side = Side("legacy", fast=True, coherent=True, caching_mode=False, capacity=1 << 20)
    read = dma(0x5000, Access.READ, None, 4)
    read.do(side)
    event.do(side)
    taken = []
    full = side.unit.translation.translate
    side.unit.translation.translate = lambda request: taken.append(request) or full(request)  # type: ignore[method-assign, func-returns-value]
    read.do(side)
    assert len(taken) == 1
    read.do(side)
    assert len(taken) == 1
