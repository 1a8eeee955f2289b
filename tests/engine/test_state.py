"""state.py: a restored unit is the same unit; what is not the state of a unit is refused with a StateError."""

from __future__ import annotations

import copy
import pickle
import zlib
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import (
    Capabilities,
    Device,
    DmaRequest,
    FlatMemory,
    MemoryAccessError,
    Message,
    MisuseError,
    Policy,
    ProcessorCache,
    RemappingUnit,
    Selector,
    SourceId,
    StateError,
)
from iommu.engine import state
from iommu.engine.ats import Completion, DeviceInvalidation
from iommu.engine.invalidation.queue import Queue
from iommu.engine.policy import CHOICES, OddAccess
from iommu.engine.state_format import (
    COMMANDS,
    CONTEXTS,
    FIRST_TABLES,
    FIRST_TAGS,
    HUGE,
    IGNORED,
    KINDS,
    LARGE,
    LATCHED,
    LEDGER,
    OVERDUE,
    READS,
    REFERENCES,
    REGISTERS,
    SECOND_TABLES,
    SECOND_TAGS,
    SECTIONS,
    SMALL,
    SOURCES,
    TAGS,
    Reader,
    Section,
    build,
)
from iommu.engine.translation.legacy import LegacyMode
from iommu.registers import QueueFault
from iommu.snapshot.memory import PiecewiseMemory
from iommu.structures import ResponseCode
from tests.engine import queueing as q
from tests.engine.alike import differences
from tests.engine.living import (
    DRAIN,
    GPU,
    PAGES,
    STEPS,
    UNITS,
    Living,
    Step,
    busy,
    dma,
    hanging,
    interrupt,
    invalidate,
    page_request,
    submit,
    take,
    write,
)
from tests.engine.world import FECTL, GCMD, NIC, WRITE, mapped

WAYS = ("restore", "deepcopy", "pickle")


# The same unit.


@settings(max_examples=150, deadline=None)
@given(UNITS, st.lists(STEPS, max_size=40), st.sampled_from(WAYS), st.lists(STEPS, max_size=25))
def test_restored_unit_does_what_the_original_does(
    unit: dict[str, Any], before: list[Step], way: str, after: list[Step]
) -> None:
    original = Living(**unit)
    for step in before:
        take(original, step)
    if way == "restore" and unit["audit"]:
        # The ledger of what a device has cached goes with the device, which is not part of a saved unit.
        original.device.tlb.clear()
    restored = original.restored(way)
    assert restored.state() == original.state()
    for step in after:
        assert take(restored, step) == take(original, step), step
    assert restored.state() == original.state()


@settings(max_examples=60, deadline=None)
@given(UNITS, st.lists(STEPS, max_size=40))
def test_nothing_of_a_unit_is_lost(unit: dict[str, Any], before: list[Step]) -> None:
    """An attribute that is added to any part of a unit and not saved is found here."""
    original = Living(**unit)
    for step in before:
        take(original, step)
    original.device.tlb.clear()
    if original.unit.ledger is not None:
        original.unit.audit()
    restored = original.restored("restore")
    assert restored.unit.save() == original.unit.save()
    assert differences(original.unit, restored.unit) == []


@settings(max_examples=40, deadline=None)
@given(UNITS, st.lists(STEPS, max_size=40), st.sampled_from(("deepcopy", "pickle")))
def test_nothing_of_a_copy_is_lost(unit: dict[str, Any], before: list[Step], way: str) -> None:
    original = Living(**unit)
    for step in before:
        take(original, step)
    if original.unit.ledger is not None:
        original.unit.audit()
    copied = original.restored(way)
    assert copied.unit is not original.unit and copied.device.unit is copied.unit
    assert differences(original.unit, copied.unit) == []


def test_busy_unit_has_no_number_as_after_reset() -> None:
    unit, new = busy(audit=True).unit, RemappingUnit(FlatMemory(4096), Capabilities.full())
    values = {each.path: (attrgetter(each.path)(unit), attrgetter(each.path)(new)) for each in state.LATCHED_NUMBERS}
    assert [path for path, (one, other) in values.items() if one == other] == []
    reader = Reader(unit.save())
    empty = [section for section in SECTIONS if not reader.count(section)]
    assert empty == [OVERDUE, COMMANDS, IGNORED, CONTEXTS]
    assert Reader(busy(legacy=True).unit.save()).count(CONTEXTS)
    stepped = Reader(hanging().unit.save())
    assert all(stepped.count(section) for section in (OVERDUE, COMMANDS, IGNORED))


@pytest.mark.parametrize("path", [each.path for each in state.LATCHED_NUMBERS])
def test_a_lost_number_is_noticed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose: each latched number in turn is left as after reset."""
    living = busy()
    owner, _, lost = path.rpartition(".")
    kind = type(attrgetter(owner)(living.unit))

    def losing(part: Any, name: str, value: Any) -> None:
        if (type(part), name) != (kind, lost):
            setattr(part, name, value)

    monkeypatch.setattr(state, "setattr", losing, raising=False)
    assert any(lost in difference for difference in differences(living.unit, living.restored("restore").unit))


NEVER_EMPTY = (LATCHED, REGISTERS)


@pytest.mark.parametrize(
    "section", [each for each in SECTIONS if each not in NEVER_EMPTY], ids=lambda section: section.name
)
def test_a_lost_section_is_noticed(section: Section, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose: each section in turn is saved without its records, and with it what refers to them."""
    living = busy(audit=section in (SOURCES, LEDGER, REFERENCES, READS), legacy=section is CONTEXTS)
    if section in (OVERDUE, COMMANDS, IGNORED):
        living = hanging()
    if living.unit.ledger is not None:
        living.unit.audit()
    lost = {section}
    if section in (KINDS, TAGS):
        lost |= {KINDS, TAGS, SMALL, LARGE, HUGE}
    lost |= {FIRST_TAGS: {FIRST_TABLES}, SECOND_TAGS: {SECOND_TABLES}}.get(section, set())
    monkeypatch.setattr(state, "build", lambda *unit, **rest: build(unit[0], unit[1], emptied(unit[2], lost), **rest))
    try:
        restored = living.restored("restore")
    except StateError:
        return  # what is left contradicts itself
    assert differences(living.unit, restored.unit)


def emptied(sections: dict[Section, list[bytes]], lost: set[Section]) -> dict[Section, list[bytes]]:
    return {section: [] if section in lost else records for section, records in sections.items()}


# Copies.


def test_copy_is_apart_from_the_original() -> None:
    world = mapped()
    assert world.dma(0x5000).host_address == 0x9000
    other = copy.deepcopy(world.unit)
    other.memory.write(0x9000, b"other")
    other.invalidate(Selector.translations())
    other.mmio_write(GCMD, 0, 4)
    assert world.memory.read(0x9000, 5) == bytes(5)
    assert world.dma(0x5000).host_address == 0x9000
    assert other.translate(DmaRequest(NIC, 0x5000, WRITE)).host_address == 0x5000


@pytest.mark.parametrize("first", ["unit", "device"])
@pytest.mark.parametrize("audit", [False, True])
def test_devices_and_their_unit_refer_to_each_other_in_a_copy(first: str, audit: bool) -> None:
    living = Living(audit=audit)
    assert living.device.read(PAGES[0]) == bytes(8)
    pair: dict[str, Any] = {"unit": living.unit, "device": living.device}
    if first == "device":
        pair = dict(reversed(pair.items()))
    for copied in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        unit, device = copied["unit"], copied["device"]
        assert device.unit is unit and unit.devices == {GPU: device}
        assert device.tlb == living.device.tlb
        unit.memory.write_u64(living.entries[3], 0)
        if audit:
            *_, owned_by_device = unit.audit()
            assert "device-TLB of 00:05.0" in str(owned_by_device)
            unit.invalidate(owned_by_device.owed)
            assert device.tlb == []


def test_memory_of_a_copy_takes_no_space_for_zeroes() -> None:
    memory = FlatMemory(1 << 30)
    memory.write(0x1234_5678, b"here")
    memory.write((1 << 30) - 1, b"x")
    pickled = pickle.dumps(memory)
    assert len(pickled) < 0x3000
    for other in (pickle.loads(pickled), copy.deepcopy(memory)):
        assert (other.size, other.read(0x1234_5678, 4), other.read((1 << 30) - 1, 1)) == (1 << 30, b"here", b"x")


@pytest.mark.parametrize("size", [8, 4096, 4104, (1 << 20) + 24])
def test_copy_of_memory_over_a_buffer_is_apart_from_it(size: int) -> None:
    buffer = bytearray(b"\1" * size)
    for memory in (FlatMemory(buffer), FlatMemory(memoryview(bytes(buffer)))):
        other = copy.deepcopy(memory)
        buffer[-1] = 2
        assert other.read(0, size) == b"\1" * size
        assert other.read_u64(size - 8) == 0x0101_0101_0101_0101
        buffer[-1] = 1
    with pytest.raises(MemoryAccessError):
        other.write(0, b"read only")


def test_processor_cache_is_copied_with_its_lines() -> None:
    cpu = ProcessorCache(FlatMemory(1 << 20))
    cpu.write(0x5000, b"cached")
    for other in (copy.deepcopy(cpu), pickle.loads(pickle.dumps(cpu))):
        assert other.behind.read(0x5000, 6) == bytes(6)
        other.flush_all()
        assert (other.behind.read(0x5000, 6), cpu.behind.read(0x5000, 6)) == (b"cached", bytes(6))


def test_unit_over_any_memory() -> None:
    """The memory is not part of the state: another kind of memory with the same contents does."""
    world = mapped()
    world.dma(0x5000)
    memory = PiecewiseMemory([(0, bytearray(world.memory.read(0, 0x10000)))])
    restored = RemappingUnit.restore(world.unit.save(), memory)
    for unit in (restored, copy.deepcopy(restored)):
        assert unit.translate(DmaRequest(NIC, 0x5000, WRITE)).host_address == 0x9000


class OwnLegacyMode(LegacyMode):
    """A part of a unit that is overridden."""


class OwnUnit(RemappingUnit):
    LegacyMode = OwnLegacyMode
    overrides_keep_no_state = True


def test_subclass_is_restored_as_that_subclass() -> None:
    world = mapped()
    own = OwnUnit(world.memory, world.capabilities)
    for other in (OwnUnit.restore(own.save(), world.memory), copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        assert type(other) is OwnUnit and type(other.translation.legacy) is OwnLegacyMode


def test_a_unit_whose_overridden_parts_may_hold_state_is_not_saved() -> None:
    """What such parts add to the state would be lost without a word."""

    class Counting(Queue):
        rounds = 0

        def run(self) -> None:
            self.rounds += 1
            super().run()

    class Departing(RemappingUnit):
        Queue = Counting

    unit = Departing(FlatMemory(4096))
    for way in (unit.save, lambda: copy.copy(unit), lambda: copy.deepcopy(unit), lambda: pickle.dumps(unit)):
        with pytest.raises(MisuseError, match="Departing has its own Queue, which may hold state that is not saved"):
            way()


def test_stale_items_are_stale_in_a_restored_unit() -> None:
    living = Living(audit=True)
    for page in PAGES:
        living.unit.translate(DmaRequest(NIC, page, WRITE))
    saved = living.unit.save()
    for where in living.entries[:8]:
        living.world.put(where, 0)
    restored = RemappingUnit.restore(saved, living.unit.memory)
    request = DmaRequest(NIC, PAGES[0], WRITE)
    stale = [str(each) for each in restored.translate(request).stale]
    assert stale == [str(each) for each in living.unit.translate(request).stale] != []
    assert [str(each) for each in restored.audit()] == [str(each) for each in living.unit.audit()] != []


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_part_of_the_state(name: str) -> None:
    default = CHOICES[name].default
    others: dict[type, list[Any]] = {bool: [not default], int: [7], ResponseCode: [None, *ResponseCode]}
    others |= {QueueFault: list(QueueFault), OddAccess: list(OddAccess)}
    for value in others[type(default)]:
        unit = RemappingUnit(FlatMemory(4096), policy=Policy(**{name: value}))
        assert RemappingUnit.restore(unit.save(), unit.memory).policy == unit.policy


def test_events_and_fault_position_survive() -> None:
    """The message of a fault waits, and the next fault goes to the next record (7.2.1)."""
    world = mapped(fault_records=4)
    world.write(FECTL, 0)
    assert world.fault(0x7000) == 0x05
    unit = RemappingUnit.restore(world.unit.save(), world.memory)
    assert unit.drain_events() == world.unit.drain_events() == [Message(0, 0)]
    unit.mmio_write(world.frcd + 12, 1 << 31, 4)
    unit.translate(DmaRequest(NIC, 0x8000, WRITE))
    assert unit.mmio_read(world.frcd + 16, 8) == 0x8000


def test_a_unit_is_not_saved_in_the_middle_of_a_descriptor() -> None:
    living = Living()
    said = []

    class Saving(Device):
        def invalidate(self, command: DeviceInvalidation) -> Completion:
            with pytest.raises(MisuseError, match="carries out a descriptor") as caught:
                self.unit.save()
            said.append(caught)
            return Completion.DONE

    source_id = SourceId(0, 7, 0)
    Saving(living.unit, source_id)
    living.queue.submit(q.device_tlb(source_id))
    assert len(said) == 1
    living.unit.save()


# What is refused.


def with_checksum(saved: bytes) -> bytes:
    """The bytes with the checksum that belongs to them."""
    return saved[:12] + zlib.crc32(saved[16:]).to_bytes(4, "little") + saved[16:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda saved: b"", r"offset 0x0, header\.size = 0x0"),
        (lambda saved: saved[:40], r"header\.size = 0x28"),
        (lambda saved: b"X" + saved[1:], r"offset 0x0, header\.magic"),
        (lambda saved: saved[:8] + b"\1" + saved[9:], r"offset 0x8, header\.format = 0x1: only format 2"),
        (lambda saved: saved[:-1], r"offset 0xc, header\.checksum"),
        (lambda saved: with_checksum(saved[:-1]), r"header\.counts"),
        (lambda saved: with_checksum(saved + b"\0"), r"header\.counts"),
        (lambda saved: with_checksum(saved[:16] + b"\2" + saved[17:]), r"offset 0x10, header\.audited = 0x2"),
        (lambda saved: with_checksum(saved[:19] + b"\xff" + saved[20:]), r"header\.cap = .*host_address_width"),
        (
            lambda saved: with_checksum(saved.replace(b"cache_pasids", b"cache_nobody")),
            r"policy = 0x1: 'cache_nobody'",
        ),
        (
            lambda saved: with_checksum(saved[:-17] + b"\xff" * 17),
            r"second-stage tables\[\d+\]\.frame = 0xf+: out of",
        ),
    ],
)
def test_malformed_state(change: Any, said: str) -> None:
    unit = busy().unit
    with pytest.raises(StateError, match=said) as caught:
        RemappingUnit.restore(change(unit.save()), unit.memory)
    assert "\n" not in str(caught.value)


def test_other_capabilities_and_policy_are_refused() -> None:
    world = mapped()
    saved, own = world.unit.save(), world.capabilities
    unit = RemappingUnit.restore(saved, world.memory, capabilities=own, policy=Policy())
    assert unit.capabilities == own
    with pytest.raises(StateError, match=r"header\.cap = .* differs from the capabilities given"):
        RemappingUnit.restore(saved, world.memory, capabilities=Capabilities(fault_records=8))
    with pytest.raises(StateError, match=r"header\.host_address_width = 0x30: .* given, 0x28"):
        RemappingUnit.restore(saved, world.memory, capabilities=Capabilities(host_address_width=40))
    with pytest.raises(StateError, match=r"header\.policy = 0x1: cache_pasids differs"):
        RemappingUnit.restore(saved, world.memory, policy=Policy(cache_pasids=False))


def test_counts_are_checked_before_anything_is_read() -> None:
    """A header that claims 2**32 - 1 records of each kind costs nothing."""
    unit = busy().unit
    saved = bytearray(unit.save())
    counts = 16 + 4 + 16
    for n in range(len(SECTIONS)):
        saved[counts + 4 * n : counts + 4 * n + 4] = b"\xff" * 4
        with pytest.raises(StateError, match=r"header\.counts"):
            RemappingUnit.restore(with_checksum(bytes(saved)), unit.memory)


STATES = {
    "scalable": busy(audit=True).unit.save(),
    "legacy": busy(legacy=True, audit=True).unit.save(),
    "plain": mapped().unit.save(),
    "stepped": hanging().unit.save(),
}
AFTER = [
    *(dma(source_id, page, WRITE, pasid, kind) for source_id in (NIC, GPU) for page in PAGES
      for pasid in (None, 0, 1, 2, 3) for kind in (0, 1)),
    *(interrupt(n, NIC) for n in range(6)),
    *(write(0x34, (1 << 32) - 1, 4), write(0x38, 0, 4), write(0xA0, 0, 4), write(0xE0, 0, 4)),
    *(page_request(GPU, PAGES[0], 1, posted, True) for posted in (True, False)),
    *(submit(each) for each in (q.wait(interrupt=1), q.device_tlb(GPU), q.wait(pd=1), q.iotlb(3, did=1, am=9))),
    *(invalidate(Selector.translations()), DRAIN),
]  # fmt: skip


def places(saved: bytes) -> list[int]:
    """The offsets worth changing: all of the header but the policy, and both ends of the numbers of each record."""
    reader, found = Reader(saved), list(range(16, 36))
    for section in SECTIONS:
        for n in range(min(reader.count(section), 40)):
            at = reader._starts[section] + n * section.size
            found += [at + section.offset_of(name) for name in section._columns] + [at + section.size - 1]
    return found


PLACES = {name: places(saved) for name, saved in STATES.items()}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(STATES)), st.data())
def test_changed_state_is_refused_or_answers(name: str, data: st.DataObject) -> None:
    saved = bytearray(STATES[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.one_of(st.sampled_from(PLACES[name]), st.integers(16, len(saved) - 1)))
        saved[at] = data.draw(st.one_of(st.sampled_from((0, 1, 0xFF)), st.integers(0, 0xFF)))
    cut = data.draw(st.one_of(st.none(), st.none(), st.none(), st.integers(0, len(saved))))
    answers(name, with_checksum(bytes(saved[:cut])))


def answers(name: str, saved: bytes) -> None:
    """Either a StateError, or a unit that answers everything without an exception."""
    living = Living(legacy=name == "legacy", audit=name not in ("plain", "stepped"))
    try:
        living.unit = living.world.unit = RemappingUnit.restore(saved, living.unit.memory)
    except StateError as error:
        assert "\n" not in str(error)
        return
    living.device = Device(living.unit, GPU)
    for slot in living.unit.registers:
        living.unit.mmio_read(slot.offset, 4)
    for step in AFTER:
        take(living, step)
    list(map(str, living.unit.pending))
    living.unit.step(20)
    living.unit.translate(DmaRequest(NIC, PAGES[0], WRITE), trace=True)
    if living.unit.ledger is not None:
        for stale in living.unit.audit():
            living.unit.invalidate(stale.owed)
    living.unit.save()
