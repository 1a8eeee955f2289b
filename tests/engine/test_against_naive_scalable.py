"""The engine against the naive reading of scalable mode, on random and mostly valid tables, updates included."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import (
    Access,
    AddressType,
    Capabilities,
    DmaRequest,
    FlatMemory,
    MemoryAccessError,
    Outcome,
    Policy,
    RemappingUnit,
    SourceId,
)
from tests.engine import naive_scalable
from tests.engine.scalable_world import FIRST, NESTED, PASS, SCALABLE, SECOND
from tests.engine.world import GCMD, RTADDR, SRTP, TE

ROOT, CONTEXTS, DIRECTORIES, PASIDS = 0x10_0000, 0x11_0000, 0x14_0000, 0x18_0000
FIRSTS, SECONDS, END = 0x20_0000, 0x40_0000, 0x60_0000
STRETCH = 0x4_0000
IGNORED1 = 0x7FF << 52 | 0xB18
IGNORED2 = 1 << 63 | 0x3FF << 52 | 0x700 | 0x7C
NEAR_A_RULE = (7, 11, 12, 13, 20, 21, 29, 38, 39, 45, 46, 51, 52, 62)
"""Bits of a paging entry whose meaning changes with the level, the type or the capabilities."""


class RandomTables:
    """Memory in which every quadword is a table entry, made up when it is first read and the same from then on.

    `trouble` is the share of entries with something wrong, of which one kind of entry has more than the others;
    `types` the PGTTs to choose from.
    """

    def __init__(self, seed: int, trouble: float, can: Capabilities, types: tuple[int, ...]) -> None:
        self.random = random.Random(seed)
        self.trouble, self.can, self.types = trouble, can, types
        self.entries: dict[int, int] = {}
        self.zones = (
            (ROOT, CONTEXTS, lambda _at: self._page(CONTEXTS, DIRECTORIES) | 1),
            (CONTEXTS, DIRECTORIES, self._context),
            (DIRECTORIES, PASIDS, lambda _at: self._page(PASIDS, FIRSTS) | self._seldom(2) | 1),
            (PASIDS, FIRSTS, self._pasid),
            (FIRSTS, SECONDS, self._first),
            (SECONDS, END, self._second),
        )
        self.worst = self.random.choice(self.zones)[0]

    def read_u64(self, address: int) -> int:
        if not ROOT <= address < END:
            raise MemoryAccessError(address, 8)
        if address not in self.entries:
            zone, make = next((first, make) for first, last, make in self.zones if first <= address < last)
            share = self.trouble * 4 if zone == self.worst else self.trouble / 4
            entry = make(address)
            self.entries[address] = self._spoil(zone, entry) if self.random.random() < share else entry
        return self.entries[address]

    def _seldom(self, bits: int) -> int:
        return self.random.choice((0, 0, 0, 0, 0, 0, 0, bits))

    def _rarely(self, bits: int) -> int:
        return bits if self.random.random() < 0.05 else 0

    def _often(self, bits: int) -> int:
        return self.random.choice((bits, bits, bits, bits, bits, bits, 0))

    def _mostly(self, bits: int) -> int:
        return 0 if self.random.random() < 0.1 else bits

    def _page(self, zone: int, end: int) -> int:
        return self.random.randrange(zone, end, 4096)

    def _context(self, at: int) -> int:
        word = at >> 3 & 3
        if word == 0:
            flags = (self._mostly(4) if self.can.device_tlb else self._rarely(4)) | self._mostly(8) | self._seldom(2)
            return self._page(DIRECTORIES, DIRECTORIES + 0x2_0000) | self._mostly(7 << 9) | flags | 1
        if word == 1:
            priv = self._seldom(1 << 20) * self.can.rid_priv
            pasid = self.random.choice((0, 0, 5, 0x1FFF, 0x2000, 0xFFFFF))
            return priv | (pasid if self.can.rid_pasid else self._seldom(pasid))
        return 0

    def _pasid(self, at: int) -> int:
        word = at >> 3 & 7
        if word == 0:
            levels = self.random.choice(self.can.levels)
            dirty = self.random.choice((0, 1 << 9))
            ssade = dirty if self.can.second_stage_dirty else self._rarely(dirty)
            kind = self.random.choice(self.types) << 6 ^ self._rarely(self.random.randrange(8) << 6)
            second = self._table(SECONDS, levels) | levels - 2 << 2
            second = second if self.can.second_stage else self._seldom(second)
            return (second | kind | ssade | self._seldom(2) | 1) ^ self._seldom(self.random.randrange(8) << 2)
        if word == 1:
            types = self.random.getrandbits(32) & 0x7777_7777 | self._seldom(8 << 4 * self.random.randrange(8))
            flags = self._often(types << 32 | 1 << 26) | self._seldom(1 << 25)
            flags = flags * self.can.memory_types | self._seldom(1 << 24) * self.can.snoop_control
            domain = self.random.getrandbits(self.can.domain_id_bits) | self._rarely(0x4000)
            return domain | self._mostly(1 << 23) * self.can.scalable_coherent | flags
        if word == 2:
            levels = self.random.choice((4, 4, 5) if self.can.first_stage_5_level else (4,) * 12 + (5,))
            bits = self._often(1) * self.can.supervisor_requests | self._often(2) * self.can.execute_requests
            bits |= self.random.choice((0, 1 << 4)) | self.random.choice((0, 1 << 7)) * self.can.extended_accessed
            first = self._table(FIRSTS, levels) | levels - 4 << 2 | bits
            first = first if self.can.first_stage else self._seldom(first)
            return (first | self._rarely(3 << 5)) ^ self._rarely(self.random.randrange(4) << 2)
        return 0

    def _table(self, zone: int, level: int) -> int:
        """A table of a level: they have a stretch each."""
        return self._page(zone + level * STRETCH, zone + (level + 1) * STRETCH)

    def _first(self, at: int) -> int:
        pick, level = self.random, max(1, (at - FIRSTS) // STRETCH)
        bits = 1 | self._mostly(2) | self._mostly(4) | self._seldom(1 << 63)
        bits |= pick.getrandbits(64) & (IGNORED1 | 1 << 5 | 1 << 6 | 1 << 10)
        if NESTED in self.types:
            bits |= self._rarely(1 << 40)
        if level > 1 and (level > 3 or pick.random() < 0.7):
            return self._table(FIRSTS, level - 1) | bits | self._rarely(1 << 7) * (level > 3)
        size = 3 + 9 * level
        target = pick.choice((pick.getrandbits(36), pick.getrandbits(38), 0xFEE0_0000, 0xC000_0000))
        bits |= self._seldom(1 << 12) | self._rarely(1 << 13)
        return target >> size << size | bits | self._large(level)

    def _second(self, at: int) -> int:
        pick, level = self.random, max(1, (at - SECONDS) // STRETCH)
        bits = pick.getrandbits(64) & IGNORED2 & ~(1 << 7) | pick.choice((3, 3, 3, 3, 3, 3, 3, 3, 1, 2))
        if level > 1 and (level > 3 or pick.random() < 0.6):
            return self._table(SECONDS, level - 1) | bits
        size = 3 + 9 * level
        # Under a first-stage table, a large page leads to the table of the same level.
        target = pick.choice((pick.getrandbits(38), 0xFEE0_0000, FIRSTS, FIRSTS, self._page(FIRSTS, SECONDS)))
        bits |= self._seldom(1 << 11) * self.can.snoop_control
        return target >> size << size | bits | self._large(level)

    def _large(self, level: int) -> int:
        return 1 << 7 if level > 1 else self.random.choice((0, 1 << 7))

    def _spoil(self, zone: int, entry: int) -> int:
        kind = self.random.randrange(8)
        if kind == 0:
            return 0
        if kind == 1:
            return entry & ~0x3F_FFFF_FFFF_F000 | self.random.getrandbits(36) << 12
        if kind == 2:
            return self.random.getrandbits(64)
        if kind > 4:
            return entry ^ 1 << (self.random.choice(NEAR_A_RULE) if zone >= FIRSTS else self.random.randrange(1, 32))
        return entry ^ 1 << self.random.randrange(64)


class Written:
    """The tables as one unit sees them: what it writes is kept apart. Addresses in `read_only` refuse it."""

    def __init__(self, tables: RandomTables, read_only: set[int]) -> None:
        self.tables, self.read_only = tables, read_only
        self.updates: dict[int, int] = {}
        self.count = 0

    def read_u64(self, address: int) -> int:
        return self.updates[address] if address in self.updates else self.tables.read_u64(address)

    def read(self, address: int, length: int) -> bytes:
        words = range(address // 8 * 8, address + length, 8)
        raw = b"".join(self.read_u64(at).to_bytes(8, "little") for at in words)
        return raw[address % 8 :][:length]

    def write(self, address: int, data: bytes) -> None:
        if address // 8 * 8 % 64 in self.read_only:
            raise MemoryAccessError(address, len(data))
        self.count += 1
        whole = bytearray(self.read(address // 8 * 8, 8))
        whole[address % 8 : address % 8 + len(data)] = data
        assert len(whole) == 8, "an update is of one entry"
        self.updates[address // 8 * 8] = int.from_bytes(whole, "little")


def agrees(answer: naive_scalable.Answer, outcome: Outcome, updates: dict[int, int], asked: bool) -> bool:
    """Whether the engine did what this reading says."""
    if (answer.host, answer.fault) != (outcome.host_address, int(outcome.fault or 0)):
        return False
    if (answer.recorded, answer.interrupt, answer.updates) != (
        outcome.recorded,
        outcome.interrupt,
        frozenset(updates.items()),
    ):
        return False
    if answer.host is not None and answer.size not in (0, outcome.page_size):
        return False
    if answer.host is not None and answer.attributes != outcome.attributes:
        return False
    return not asked or answer.permissions == (outcome.readable, outcome.writable)


flags = (
    "pass_through", "device_tlb", "snoop_control", "zero_length_read", "coherent", "second_stage_dirty", "rid_priv",
    "rid_pasid", "first_stage_5_level", "first_stage_1g", "execute_requests", "supervisor_requests", "page_1g",
    "extended_accessed", "scalable_coherent", "memory_types",
)  # fmt: skip
mostly = st.sampled_from((True, True, True, True, False))
capabilities = st.fixed_dictionaries({
    "address_width": st.sampled_from((39, 42, 48, 57)),
    "host_address_width": st.sampled_from((39, 46, 52)),
    "levels": st.sampled_from(((3,), (4,), (3, 4), (3, 4, 5), (4, 5))),
    "pasid_bits": st.sampled_from((20, 20, 20, 13)),
    "domain_id_bits": st.sampled_from((16, 16, 8)),
    "left_out": st.sampled_from(("", "", "", "", "first_stage", "second_stage", "nested")),
    **dict.fromkeys(flags, mostly),
})  # fmt: skip
BELOW_DEVICE_TLB = (
    "page_requests", "page_request_drain", "stop_markers", "no_write_requests", "invalidation_throttle",
)  # fmt: skip
BELOW_A_STAGE = {
    "first_stage": ("first_stage", "first_stage_5_level", "first_stage_1g", "extended_accessed", "nested"),
    "second_stage": ("second_stage", "second_stage_dirty", "nested"),
    "nested": ("nested",),
}
addresses = st.sampled_from((32, 36, 39, 39, 39, 39, 47, 47, 48, 57, 64)).flatmap(
    lambda bits: st.integers(0, (1 << bits) - 1)
)
negative = addresses.map(lambda address: (1 << 64) - 1 - address)
near_interrupts = st.sampled_from((0xFEDF_FFF0, 0xFEE0_0000, 0xFEEF_F000, 0xFEF0_0000))
pasids = st.sampled_from((None, None, None, 0, 1, 63, 64, 0x1FFF, 0x1FFF, 0x2000))
kinds = st.sampled_from((*[AddressType.UNTRANSLATED] * 5, AddressType.TRANSLATION_REQUEST, AddressType.TRANSLATED))


@st.composite
def requests(draw: st.DrawFn) -> DmaRequest:
    """Any request a device can send."""
    pasid, kind = draw(pasids), draw(kinds)
    access, length = draw(
        st.sampled_from(
            ((Access.READ, 1), (Access.READ, 0), (Access.WRITE, 1), (Access.WRITE, 4), (Access.ATOMIC, 1))
        )
    )
    address = draw(st.one_of(addresses, addresses, addresses, addresses, negative, near_interrupts))
    if length == 4:
        address &= -4
    return DmaRequest(
        SourceId.of(draw(st.integers(0, 0xFFFF))),
        address,
        access,
        length,
        pasid=pasid,
        privileged=pasid is not None and draw(st.booleans()),
        execute=pasid is not None and access is Access.READ and draw(st.sampled_from((False, False, True))),
        address_type=kind,
        no_write=kind is AddressType.TRANSLATION_REQUEST and draw(st.booleans()),
    )


def offer(changes: dict[str, Any]) -> Capabilities:
    """Capabilities with these changes, without the type `left_out`, and without what those exclude."""
    changes = {**changes, **dict.fromkeys(BELOW_A_STAGE.get(changes["left_out"], ()), False)}
    del changes["left_out"]
    if not changes["device_tlb"]:
        changes = {**changes, **dict.fromkeys(BELOW_DEVICE_TLB, False)}
    return Capabilities.full(**changes)


@settings(max_examples=600, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    trouble=st.sampled_from((0.0, 0.0, 0.005, 0.02, 0.05)),
    changes=capabilities,
    types=st.sampled_from(((FIRST,), (SECOND,), (NESTED,), (NESTED,), (PASS,), (FIRST, SECOND, NESTED, PASS))),
    per_level=st.sampled_from((False, False, False, True)),
    read_only=st.sampled_from((frozenset(), frozenset(), frozenset(), frozenset({8, 56}))),
    wanted=st.lists(requests(), min_size=1, max_size=8),
)
def test_engine_agrees_with_the_naive_reading(
    seed: int,
    trouble: float,
    changes: dict[str, Any],
    types: tuple[int, ...],
    per_level: bool,
    read_only: frozenset[int],
    wanted: list[DmaRequest],
) -> None:
    can = offer(changes)
    tables = RandomTables(seed, trouble, can, types)
    for request in wanted:
        memory = Written(tables, set(read_only))
        unit = RemappingUnit(memory, can, Policy(permission_per_level=per_level))
        unit.mmio_write(RTADDR, ROOT | SCALABLE, 8)
        unit.mmio_write(GCMD, SRTP, 4)
        unit.mmio_write(GCMD, TE, 4)
        outcome = unit.translate(request)
        readings = list(
            naive_scalable.outcomes(
                tables.read_u64,
                can,
                ROOT | SCALABLE,
                request,
                per_level=per_level,
                read_only=lambda at: at % 64 in read_only,
            )
        )
        asked = request.address_type is AddressType.TRANSLATION_REQUEST
        assert any(agrees(reading, outcome, memory.updates, asked) for reading in readings), (
            request, outcome, memory.updates, readings[:4],
        )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(data=st.binary(min_size=64, max_size=64), wanted=st.lists(requests(), min_size=1, max_size=8))
def test_arbitrary_memory_never_raises(data: bytes, wanted: list[DmaRequest]) -> None:
    """Whatever the bytes, each request goes through, is blocked, or is an interrupt."""
    memory = FlatMemory(bytearray(data * 256))
    unit = RemappingUnit(memory, Capabilities.full())
    unit.mmio_write(RTADDR, SCALABLE, 8)
    unit.mmio_write(GCMD, SRTP, 4)
    unit.mmio_write(GCMD, TE, 4)
    for request in wanted:
        outcome = unit.translate(request)
        assert outcome.host_address is None or outcome.fault is None
