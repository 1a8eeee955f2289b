"""Scalable mode, built bit by bit: root, context, PASID directory, PASID table, first, second and nested stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iommu import (
    Access,
    AddressType,
    Capabilities,
    DmaRequest,
    MemoryAccessError,
    Outcome,
    Policy,
    RemappingUnit,
    SourceId,
)
from tests.engine.meanwhile import MeanwhileMemory
from tests.engine.world import NIC, READ, RW, UNTRANSLATED, World

ATOMIC = Access.ATOMIC
SCALABLE, ABORT = 1 << 10, 3 << 10

FIRST, SECOND, NESTED, PASS = 1, 2, 3, 4
"""PGTT."""

P, WRITABLE, USER = 1 << 0, 1 << 1, 1 << 2
A1, D1, EA1, XD = 1 << 5, 1 << 6, 1 << 10, 1 << 63
"""First-stage entries."""
ALL1 = P | WRITABLE | USER
A2, D2 = 1 << 8, 1 << 9
"""Second-stage entries."""

ADDRESS, HOST, GUEST_PAGE = 0x7_1234_5000, 0x9000, 0x2_0000_7000
"""The page every builder maps, where it goes, and, nested, over which guest-physical page."""
GUEST = 0x1_0000_0000
"""Nested: a first-stage table in the host page `h` is at the guest-physical address `GUEST + h`."""
TABLE = 0xF_FFFF_FFFF_F000


class CountingMemory(MeanwhileMemory):
    """Memory that records what was written; its pages in `read_only` cannot be written."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.log: list[tuple[int, bytes]] = []
        self.read_only: set[int] = set()

    def write(self, address: int, data: bytes) -> None:
        if address >> 12 in self.read_only:
            raise MemoryAccessError(address, len(data))
        self.log.append((address, bytes(data)))
        super().write(address, data)


SAME = 64
"""A PASID with the entry of PASID 0: the first two directory entries point to the same table.

A request may not have the PASID in RID_PASID, which is 0 by default (SCT.9).
"""


class ScalableWorld(World):
    """A unit that offers everything except for `changes`, and its tables as the tests ask for them.

    `first` is where the first-stage entry of each level stands, `second` the same for the second stage of the page;
    `under` holds, nested, the second-stage places of each level's first-stage table. `levels` are the second-stage
    levels the unit walks, those of its guest width if none are given.
    """

    kind_of_memory: type[CountingMemory] = CountingMemory
    memory: CountingMemory

    def __init__(
        self,
        *,
        policy: Policy | None = None,
        size: int = 16 << 20,
        depths: tuple[int, ...] | None = None,
        audit: bool = False,
        **changes: Any,
    ) -> None:
        self.capabilities = Capabilities.full(**{"fault_records": 8, "levels": depths, **changes})
        self.memory = self.kind_of_memory(size)
        self.unit = RemappingUnit(self.memory, self.capabilities, policy, audit=audit)
        self._free = 0x1000
        self.root = self.page()
        self.frcd = self.capabilities.fault_record_offset
        self.iva = self.capabilities.iotlb_offset
        self.iotlb = self.iva + 8
        self.contexts: dict[SourceId, int] = {}
        self.pasids: dict[tuple[SourceId, int], int] = {}
        self.first: dict[int, int] = {}
        self.second: dict[int, int] = {}
        self.under: dict[int, dict[int, int]] = {}
        self.first_top = self.second_top = 0

    def pages(self, count: int) -> int:
        """The first of some pages in a row."""
        first = self.page()
        for _ in range(count - 1):
            self.page()
        return first

    def start(self, root: int | None = None) -> ScalableWorld:
        super().start(self.root | SCALABLE if root is None else root)
        return self

    # Tables

    def root_address(self, source_id: SourceId = NIC) -> int:
        """The half of the root entry that serves a device."""
        return self.root + 16 * source_id.bus + (8 if source_id.devfn >= 0x80 else 0)

    def scalable_context(
        self,
        source_id: SourceId = NIC,
        *,
        directory: int | None = None,
        pdts: int = 7,
        dte: int = 1,
        paside: int = 1,
        pre: int = 1,
        rid_pasid: int = 0,
        rid_priv: int = 0,
        fpd: int = 0,
        p: int = 1,
    ) -> int:
        """Write a context entry, by default with a new directory. Returns the address of the entry."""
        half = self.root_address(source_id)
        if not self.memory.read_u64(half):
            self.put(half, self.page() | 1)
        at = (self.memory.read_u64(half) & TABLE) + 32 * (source_id.devfn & 0x7F)
        if directory is None:
            directory = self.memory.read_u64(at) & TABLE or self.pages(32)
        self.put(at, directory | pdts << 9 | pre << 4 | paside << 3 | dte << 2 | fpd << 1 | p)
        self.put(at + 8, rid_priv << 20 | rid_pasid, 0, 0)
        self.contexts[source_id] = at
        return at

    def directory_address(self, pasid: int = 0, source_id: SourceId = NIC) -> int:
        """The address of the PASID directory entry of a PASID."""
        if source_id not in self.contexts:
            self.scalable_context(source_id)
        return (self.memory.read_u64(self.contexts[source_id]) & TABLE) + 8 * (pasid >> 6)

    def pasid_entry(
        self,
        pasid: int = 0,
        source_id: SourceId = NIC,
        *,
        pgtt: int,
        first: int = 0,
        second: int = 0,
        levels: int = 4,
        first_levels: int = 4,
        did: int = 1,
        sre: int = 1,
        ere: int = 0,
        wpe: int = 0,
        eafe: int = 0,
        ssade: int = 0,
        pwsnp: int = 1,
        pgsnp: int = 0,
        fpd: int = 0,
        p: int = 1,
    ) -> int:
        """Write a PASID-table entry; what leads to it is made when missing. Returns the entry's address."""
        directory = self.directory_address(pasid, source_id)
        if not self.memory.read_u64(directory):
            self.put(directory, self.page() | 1)
        if pasid == 0 and not self.memory.read_u64(directory + 8):
            self.put(directory + 8, self.memory.read_u64(directory))
        at = (self.memory.read_u64(directory) & TABLE) + 64 * (pasid & 0x3F)
        aw = levels - 2 if pgtt != FIRST else 0
        if pgtt == FIRST:
            ssade = 0
        self.put(at, second | ssade << 9 | pgtt << 6 | aw << 2 | fpd << 1 | p)
        self.put(at + 8, pgsnp << 24 | pwsnp << 23 | did)
        third = 0
        if pgtt in (FIRST, NESTED):
            third = first | eafe << 7 | wpe << 4 | first_levels - 4 << 2 | ere << 1 | sre
        self.put(at + 16, third, 0, 0, 0, 0, 0)
        self.pasids[source_id, pasid] = at
        return at

    def flip(self, at: int, bit: int) -> None:
        """Flip one bit of the entry at an address."""
        at += bit // 64 * 8
        self.put(at, self.memory.read_u64(at) ^ 1 << bit % 64)

    def change(self, at: int, *, clear: int = 0, add: int = 0) -> None:
        """Clear bits of a quadword, then set others."""
        self.put(at, self.memory.read_u64(at) & ~clear | add)

    def map_first(
        self, top: int, levels: int, address: int, entry: int, leaf: int = 1, between: int = ALL1
    ) -> dict[int, int]:
        """As `map`, for a first stage that is not nested."""
        places, table = {}, top
        for level in range(levels, leaf - 1, -1):
            at = places[level] = table + 8 * (address >> 3 + 9 * level & 0x1FF)
            if level == leaf:
                self.put(at, entry)
            else:
                if not self.memory.read_u64(at) & 1:
                    self.put(at, self.page() | between)
                table = self.memory.read_u64(at) & TABLE
        return places

    # Requests

    def dma(
        self,
        address: int = ADDRESS,
        access: Access = READ,
        source_id: SourceId = NIC,
        *,
        length: int = 1,
        kind: AddressType = UNTRANSLATED,
        pasid: int | None = None,
        privileged: bool = False,
        execute: bool = False,
        no_write: bool = False,
    ) -> Outcome:
        """One request; afterwards `memory.log` holds what the unit wrote."""
        self.memory.log.clear()
        return self.unit.translate(
            DmaRequest(
                source_id,
                address,
                access,
                length,
                pasid=pasid,
                privileged=privileged,
                address_type=kind,
                execute=execute,
                no_write=no_write,
            )
        )

    def fault(self, address: int = ADDRESS, access: Access = READ, source_id: SourceId = NIC, **rest: Any) -> int:
        outcome = self.dma(address, access, source_id, **rest)
        assert outcome.host_address is None, outcome
        return int(outcome.fault or 0)

    def code(self, address: int = ADDRESS, access: Access = READ, source_id: SourceId = NIC, **rest: Any) -> int:
        """The fault code of a request, 0 when it went through."""
        outcome = self.dma(address, access, source_id, **rest)
        assert (outcome.host_address is None) == (outcome.fault is not None), outcome
        return int(outcome.fault or 0)

    def bits(self, places: dict[int, int], mask: int) -> dict[int, int]:
        """What of `mask` is set at each level."""
        return {level: self.memory.read_u64(at) & mask for level, at in places.items()}


Fields = dict[str, Any]


def without(*flags: str) -> dict[str, Any]:
    """Capabilities that are not offered."""
    return dict.fromkeys(flags, False)


def first_stage(
    entry: int = HOST | ALL1,
    *,
    address: int = ADDRESS,
    leaf: int = 1,
    between: int = ALL1,
    levels: int = 4,
    pasid: int = 0,
    context: Fields | None = None,
    pasid_entry: Fields | None = None,
    **changes: Any,
) -> ScalableWorld:
    """NIC has one page by a first stage, and translation is on."""
    world = ScalableWorld(**changes)
    world.scalable_context(**(context or {}))
    world.first_top = world.page()
    world.pasid_entry(pasid, pgtt=FIRST, first=world.first_top, first_levels=levels, **(pasid_entry or {}))
    world.first = world.map_first(world.first_top, levels, address, entry, leaf, between)
    return world.start()


def second_stage(
    entry: int = HOST | RW,
    *,
    address: int = ADDRESS,
    leaf: int = 1,
    levels: int = 4,
    pasid: int = 0,
    context: Fields | None = None,
    pasid_entry: Fields | None = None,
    **changes: Any,
) -> ScalableWorld:
    """NIC has one page by a second stage, and translation is on."""
    world = ScalableWorld(**changes)
    world.scalable_context(**(context or {}))
    world.second_top = world.page()
    world.pasid_entry(pasid, pgtt=SECOND, second=world.second_top, levels=levels, **(pasid_entry or {}))
    world.second = world.map(world.second_top, levels, address, entry, leaf)
    return world.start()


def nested(
    first: int = GUEST_PAGE | ALL1,
    second: int = HOST | RW,
    *,
    address: int = ADDRESS,
    first_leaf: int = 1,
    second_leaf: int = 1,
    levels: int = 4,
    first_levels: int = 4,
    pasid: int = 0,
    context: Fields | None = None,
    pasid_entry: Fields | None = None,
    **changes: Any,
) -> ScalableWorld:
    """NIC has one page by both stages, and translation is on. Each first-stage table has a page of its own below."""
    world = ScalableWorld(**changes)
    world.scalable_context(**(context or {}))
    world.second_top = world.page()
    tables = {level: world.page() for level in range(first_levels, first_leaf - 1, -1)}
    for level, table in tables.items():
        world.under[level] = world.map(world.second_top, levels, GUEST + table, table | RW)
        at = world.first[level] = table + 8 * (address >> 3 + 9 * level & 0x1FF)
        world.put(at, first if level == first_leaf else GUEST + tables[level - 1] | ALL1)
    world.first_top = GUEST + tables[first_levels]
    page = first & TABLE & ~0x1FFF if first_leaf > 1 else first & TABLE
    reached = page | address & (1 << 3 + 9 * first_leaf) - 1 if first_leaf > 1 else page
    world.second = world.map(world.second_top, levels, reached, second, second_leaf)
    world.pasid_entry(
        pasid,
        pgtt=NESTED,
        first=world.first_top,
        second=world.second_top,
        levels=levels,
        first_levels=first_levels,
        **(pasid_entry or {}),
    )
    return world.start()


def pass_through(
    *,
    pasid: int = 0,
    context: Fields | None = None,
    pasid_entry: Fields | None = None,
    **changes: Any,
) -> ScalableWorld:
    """NIC passes through, and translation is on."""
    world = ScalableWorld(**changes)
    world.scalable_context(**(context or {}))
    world.pasid_entry(pasid, pgtt=PASS, **(pasid_entry or {}))
    return world.start()


BUILDERS: dict[int, Callable[..., ScalableWorld]] = {
    FIRST: first_stage,
    SECOND: second_stage,
    NESTED: nested,
    PASS: pass_through,
}


def build(pgtt: int, **given: Any) -> ScalableWorld:
    """A world with one page by the given type."""
    return BUILDERS[pgtt](**given)
