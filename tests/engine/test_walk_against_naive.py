"""The engine against the naive reading of the text, on random and mostly valid tables."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import Access, Capabilities, DmaRequest, FlatMemory, MemoryAccessError, RemappingUnit, SourceId
from tests.engine import naive
from tests.engine.world import GCMD, RTADDR, SRTP, TE

ROOT, CONTEXTS, TABLES, END = 0x10_0000, 0x20_0000, 0x30_0000, 0x80_0000
IGNORED = 1 << 63 | 0x3FF << 52 | 0x700 | 0x7C
"""Bits of a second-stage entry that hardware does not look at."""
NEAR_A_RULE = (1, 2, 3, 4, 7, 11, 12, 20, 21, 29, 38, 39, 45, 46, 51, 52, 62)
"""Bits of a quadword whose meaning changes with the kind of entry, the level or the capabilities."""


class RandomTables:
    """Memory in which every quadword is a table entry, made up when it is first read and the same from then on.

    `trouble` is the share of entries with something wrong; one kind of entry has more of them than the others.
    """

    def __init__(self, seed: int, trouble: float, levels: tuple[int, ...]) -> None:
        self.random = random.Random(seed)
        self.trouble = trouble
        self.levels = levels
        self.worst = self.random.choice((ROOT, CONTEXTS, TABLES))
        self.entries: dict[int, int] = {}

    def read(self, address: int, length: int) -> bytes:
        return b"".join(self.read_u64(at).to_bytes(8, "little") for at in range(address, address + length, 8))

    def write(self, address: int, data: bytes) -> None:
        raise AssertionError(f"legacy mode writes no memory, yet {len(data)} bytes to {address:#x}")

    def read_u64(self, address: int) -> int:
        if not 0 <= address < END:
            raise MemoryAccessError(address, 8)
        if address not in self.entries:
            kind = next(zone for zone in (TABLES, CONTEXTS, ROOT, 0) if address >= zone)
            share = self.trouble * 4 if kind == self.worst else self.trouble / 4
            entry = self._entry(address)
            self.entries[address] = self._spoil(entry) if self.random.random() < share else entry
        return self.entries[address]

    def _page(self, zone: int, end: int) -> int:
        return self.random.randrange(zone, end, 4096)

    def _entry(self, address: int) -> int:
        pick = self.random
        high = bool(address & 8)
        if address < CONTEXTS:
            return 0 if high else self._page(CONTEXTS, TABLES) | 1
        if address < TABLES:
            if high:
                aw = pick.choice(self.levels) - 2 if pick.random() < 0.9 else pick.randrange(8)
                domain = pick.randrange(256) | pick.choice((*[0] * 15, 0x4000))
                return aw | pick.randrange(16) << 3 | domain << 8
            # A pointer beyond the host's width is reserved for the types that walk, and ignored by pass-through.
            tt = pick.choice((0,) * 18 + (4, 4, 4, 8, 8, 8, 8, 12))
            beyond = pick.choice((0, 0, 0, 1 << 52)) if tt == 8 else 0
            return self._page(TABLES, END) | beyond | tt | pick.choice((0, 2)) | 1
        ignored = pick.getrandbits(64) & IGNORED
        permission = pick.choice((3, 3, 3, 3, 3, 3, 1, 2))
        size = pick.choice((0, 0, 0, 0, 12, 21, 30))
        if size < 21:
            return self._page(TABLES, END) | ignored | permission
        target = pick.choice((pick.getrandbits(38), 0xFEE0_0000, 0xFEC0_0000, 0xC000_0000)) >> size << size
        # What is reserved in some pages on some units: the lower address bits of a large one, SNP, TM.
        odd = pick.choice(
            (0,) * 12 + (1 << 11, 1 << 11, 1 << 62, 1 << 62, 1 << size - 1, 1 << size - 1, 1 << size - 1)
        )
        return target | odd | ignored | permission | 1 << 7

    def _spoil(self, entry: int) -> int:
        kind = self.random.randrange(8)
        if kind == 0:
            return 0
        if kind == 1:
            return entry & ~0x3F_FFFF_FFFF_F000 | self.random.getrandbits(36) << 12
        if kind == 2:
            return self.random.getrandbits(64)
        if kind > 4:
            return entry ^ 1 << self.random.choice(NEAR_A_RULE)
        return entry ^ 1 << self.random.randrange(64)


capabilities = st.fixed_dictionaries({
    "address_width": st.sampled_from((39, 42, 48, 57)),
    "host_address_width": st.sampled_from((39, 46, 52)),
    "levels": st.sampled_from(((3,), (4,), (3, 4), (3, 4, 5), (4, 5))),
    "domain_id_bits": st.sampled_from((8, 16)),
    "pass_through": st.booleans(),
    "device_tlb": st.booleans(),
    "snoop_control": st.booleans(),
    "zero_length_read": st.booleans(),
})  # fmt: skip
page_sizes = st.sampled_from(((False, False), (True, False), (True, True)))
addresses = st.sampled_from((32, 39, 39, 39, 48, 57, 64)).flatmap(lambda bits: st.integers(0, (1 << bits) - 1))
kinds = st.sampled_from(((Access.READ, 1), (Access.READ, 0), (Access.WRITE, 1)))
requests = st.lists(st.tuples(st.integers(0, 0xFFFF), addresses, kinds), min_size=1, max_size=8)
Request = tuple[int, int, tuple[Access, int]]


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    trouble=st.sampled_from((0.0, 0.02, 0.05, 0.2)),
    offered=capabilities,
    sizes=page_sizes,
    wanted=requests,
)
def test_engine_agrees_with_the_naive_reading(
    seed: int,
    trouble: float,
    offered: dict[str, Any],
    sizes: tuple[bool, bool],
    wanted: list[Request],
) -> None:
    tables = RandomTables(seed, trouble, offered["levels"])
    what = Capabilities(**offered, page_2m=sizes[0], page_1g=sizes[1])
    for number, address, (access, length) in wanted:
        if address >> 20 == 0xFEE:
            continue
        unit = RemappingUnit(tables, what)
        unit.mmio_write(RTADDR, ROOT, 8)
        unit.mmio_write(GCMD, SRTP, 4)
        unit.mmio_write(GCMD, TE, 4)
        outcome = unit.translate(DmaRequest(SourceId.of(number), address, access, length))
        got = ("fault", int(outcome.fault)) if outcome.fault else ("host", outcome.host_address)
        assert got in naive.translate(tables.read_u64, what, ROOT, number, address, access, length)
        if outcome.host_address is not None:
            assert outcome.host_address % outcome.page_size == address % outcome.page_size


@settings(max_examples=150, deadline=None)
@given(data=st.binary(min_size=64, max_size=64), levels=st.sampled_from((3, 4, 5)), wanted=requests)
def test_arbitrary_memory_never_raises(data: bytes, levels: int, wanted: list[Request]) -> None:
    """Whatever the bytes, each request goes through, is blocked with a known reason, or is an interrupt."""
    memory = FlatMemory(bytearray(data * 256))
    unit = RemappingUnit(memory, Capabilities(address_width=57, levels=(levels,), host_address_width=52))
    unit.mmio_write(GCMD, SRTP, 4)
    unit.mmio_write(GCMD, TE, 4)
    for number, address, (access, length) in wanted:
        outcome = unit.translate(DmaRequest(SourceId.of(number), address, access, length))
        assert outcome.interrupt or (outcome.host_address is None) == (outcome.fault is not None)
