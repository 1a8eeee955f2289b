"""The VMM of docs/embedding.md under a guest that changes its tables at random, and keeps its own record of them.

The expected shadow comes from that record, and from what the specification says of each invalidation (6.5); the
engine is asked only in addition.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from iommu import Access, Capabilities, DmaRequest, FlatMemory, SourceId
from iommu.dmar import Dmar, Drhd
from iommu.structures import PageAllocator, SecondStageMapper

PAGE_OF_DOCS = Path(__file__).parent.parent / "docs" / "embedding.md"
PAGE, LARGE = 0x1000, 0x20_0000
BASE = 0xFED9_0000
GCMD, RTADDR, CCMD, IVA, IOTLB, IQT, IQA = 0x18, 0x20, 0x28, 0xF0, 0xF8, 0x88, 0x90
TE, SRTP, QIE = 1 << 31, 1 << 30, 1 << 26
GLOBAL, DOMAIN, SELECTIVE = 1, 2, 3
DEVICES = (SourceId(0, 4, 0), SourceId(0, 5, 0))
SLOTS = [*range(0, 24 * PAGE, PAGE), LARGE - PAGE, LARGE, LARGE + 5 * PAGE, 2 * LARGE - PAGE]
"""The addresses that are looked at: single pages, and those of a large one."""
SINGLE = SLOTS[:25]
STATUS = 0x70_0000

Value = tuple[int, bool, bool] | None
"""What a device gets at an address: host address, readable, writable."""


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """Everything that the page defines."""
    known: dict[str, Any] = {"__name__": "example"}
    for text in re.findall(r"^```python\n(.*?)^```$", PAGE_OF_DOCS.read_text(), re.M | re.S):
        exec(compile(text, PAGE_OF_DOCS.name, "exec"), known)
    return known


def both(leaf: tuple[int, int], upper: int) -> Value:
    """What an entry maps below another one: the permissions are those that both have (3.7.1)."""
    host, rights = leaf[0], leaf[1] & upper
    return (host, bool(rights & 1), bool(rights & 2)) if rights else None


class Context(NamedTuple):
    """A device's context entry as the guest wrote it: `space` is a number, "pass", or None for not present."""

    space: int | str | None
    domain: int


class Guest:
    """A guest with two devices and three address spaces, and what it knows of them.

    Attributes:
        possible: for each device, the contexts since an invalidation of the context cache last covered it.
        leaves, uppers: for each space and address, what the entry that maps it, and the entry of the top table, have
            been since an invalidation of its domain last covered it.
        lawful: for each device and address, every value that it may have: each entry may be an older one by itself.
    """

    def __init__(self, names: dict[str, Any], seed: int) -> None:
        self.pick = random.Random(seed)
        self.memory = FlatMemory(8 << 20)
        can = Capabilities(
            caching_mode=True, queued_invalidation=True, pass_through=True, address_width=39, host_address_width=39
        )
        self.vmm = names["Vmm"](Dmar(structures=[Drhd(base=BASE, flags=1)]), self.memory, list(DEVICES), can)
        allocate = PageAllocator(0x1000, STATUS)
        self.root, self.contexts, self.queue = allocate(), allocate(), allocate()
        self.spaces = [SecondStageMapper(self.memory, allocate, 3) for _ in range(3)]
        self.upper = [3, 3, 3]
        self.record: list[dict[int, tuple[int, int]]] = [{}, {}, {}]
        self.written = [Context(None, 0), Context(None, 0)]
        self.tail = self.statuses = self.on = self.queued = 0
        self.put(self.root, self.contexts | 1, 0)
        for space in range(3):
            # So that there is an entry in the top table.
            self.spaces[space].map(8 * LARGE, 0, PAGE)
        self.possible: list[set[Context]] = [{context} for context in self.written]
        self.leaves = [{address: {(0, 0)} for address in SLOTS} for _ in range(3)]
        self.uppers = [{address: {3} for address in SLOTS} for _ in range(3)]
        self.lawful: list[dict[int, set[Value]]] = [{}, {}]
        self.command(SRTP, RTADDR, self.root)
        self.switch()

    # Memory and registers.

    def put(self, at: int, *quadwords: int) -> None:
        for n, quadword in enumerate(quadwords):
            self.memory.write_u64(at + 8 * n, quadword)

    def write(self, offset: int, value: int, size: int = 8) -> None:
        self.vmm.mmio_write(BASE + offset, value, size)

    def command(self, once: int = 0, offset: int = 0, value: int = 0) -> None:
        if offset:
            self.write(offset, value)
        self.write(GCMD, self.on * TE | self.queued * QIE | once, 4)

    def submit(self, *descriptors: tuple[int, int]) -> None:
        """Queue descriptors and a wait for their status; the unit has written that when the tail is written."""
        self.statuses += 1
        for descriptor in (*descriptors, (5 | 1 << 5 | self.statuses << 32, STATUS)):
            self.put(self.queue + self.tail, *descriptor)
            self.tail = (self.tail + 16) % PAGE
        self.write(IQT, self.tail)
        assert self.memory.read_u32(STATUS) == self.statuses

    # What the guest knows.

    def leaf(self, space: int, address: int) -> tuple[int, int]:
        """The host address and the permissions of the entry that maps an address, by the guest's own record."""
        page = LARGE if LARGE <= address < 2 * LARGE else address
        host, rights = self.record[space].get(page, (0, 0))
        return (host + address - page, rights) if rights else (0, 0)

    def value(self, context: Context, address: int) -> Value:
        """What a device with this context gets."""
        if not self.on or context.space == "pass":
            return address, True, True
        if not isinstance(context.space, int):
            return None
        return both(self.leaf(context.space, address), self.upper[context.space])

    def since(self, context: Context, address: int) -> set[Value]:
        """What a device with this context may get: every value since its domain was last invalidated."""
        if self.on and isinstance(context.space, int):
            leaves, uppers = self.leaves[context.space][address], self.uppers[context.space][address]
            return {both(leaf, upper) for leaf in leaves for upper in uppers}
        return {self.value(context, address)}

    def changed(self, space: int) -> None:
        """The tables of a space were written: the new values are lawful too, where the space may be used."""
        for address in SLOTS:
            self.leaves[space][address].add(self.leaf(space, address))
            self.uppers[space][address].add(self.upper[space])
            for possible, lawful in zip(self.possible, self.lawful, strict=True):
                for context in possible:
                    if self.on and context.space == space:
                        lawful[address] |= self.since(context, address)

    def settled(self, domain: int | None, addresses: range) -> None:
        """An invalidation covered these addresses in a domain, or in all."""
        for address in filter(addresses.__contains__, SLOTS):
            for space in range(3):
                if domain in (None, 4 + space):
                    self.leaves[space][address] = {self.leaf(space, address)}
                    self.uppers[space][address] = {self.upper[space]}
            for possible, lawful in zip(self.possible, self.lawful, strict=True):
                # While the unit may use an older context, its translations may be those of another domain.
                if len(possible) == 1 and domain in (None, next(iter(possible)).domain):
                    lawful[address] = self.since(next(iter(possible)), address)

    # Changes.

    def map(self) -> None:
        space, address = self.pick.randrange(3), self.pick.choice(SINGLE)
        self.unmap_one(space, address)
        self.map_one(space, address)
        self.changed(space)

    def map_one(self, space: int, address: int, host: int | None = None, rights: int | None = None) -> None:
        """A new page, or with `host` the same one with other permissions."""
        host = self.pick.randrange(1 << 27) * PAGE if host is None else host
        if host >> 20 == 0xFEE:
            host += 1 << 20
        rights = rights or self.pick.randrange(1, 4)
        self.spaces[space].map(address, host, PAGE, read=bool(rights & 1), write=bool(rights & 2))
        self.record[space][address] = host, rights

    def unmap_one(self, space: int, address: int) -> None:
        if self.record[space].pop(address, None):
            self.spaces[space].unmap(address, PAGE)

    def unmap(self) -> None:
        space, address = self.pick.randrange(3), self.pick.choice(SINGLE)
        self.unmap_one(space, address)
        self.changed(space)

    def protect(self) -> None:
        """Other permissions, or another host page, of a page that is mapped."""
        space = self.pick.randrange(3)
        mapped = [address for address in SINGLE if address in self.record[space]]
        if mapped:
            address = self.pick.choice(mapped)
            host, _ = self.record[space][address]
            self.unmap_one(space, address)
            self.map_one(space, address, host)
            self.changed(space)

    def map_large(self) -> None:
        space = self.pick.randrange(3)
        if self.record[space].pop(LARGE, None):
            self.spaces[space].unmap(LARGE, LARGE)
        else:
            host = self.pick.randrange(1, 1 << 10) * LARGE
            self.spaces[space].map(LARGE, host, LARGE, page_size=LARGE)
            self.record[space][LARGE] = host, 3
        self.changed(space)

    def protect_all(self) -> None:
        """Other permissions in the entry of the top table."""
        space = self.pick.randrange(3)
        top = self.spaces[space].root
        self.upper[space] = self.pick.randrange(1, 4)
        self.put(top, self.memory.read_u64(top) & ~3 | self.upper[space])
        self.changed(space)

    def change_context(self) -> None:
        device = self.pick.randrange(2)
        space: int | str | None = self.pick.choice((0, 0, 0, 1, 1, 1, 2, 2, 2, "pass", None))
        domain, entry = 0, (0, 0)
        if isinstance(space, int):
            domain, entry = 4 + space, (self.spaces[space].root | 1, 4 + space << 8 | 1)
        elif space == "pass":
            domain, entry = 8, (2 << 2 | 1, 8 << 8 | 1)
        self.put(self.contexts + 16 * DEVICES[device].devfn, *entry)
        context = self.written[device] = Context(space, domain)
        self.possible[device].add(context)
        for address in SLOTS:
            self.lawful[device][address] |= self.since(context, address)

    def switch(self) -> None:
        """Translation off; or on again, after everything was invalidated. It takes effect at once (11.4.4)."""
        if not self.on:
            self.invalidate_contexts(GLOBAL)
            self.invalidate_pages(GLOBAL)
        self.on = 1 - self.on
        self.command()
        for context, lawful in zip(self.written, self.lawful, strict=True):
            lawful.update({address: {self.value(context, address)} for address in SLOTS})

    def switch_queue(self) -> None:
        self.queued = 1 - self.queued
        self.tail = 0
        if self.queued:
            self.write(IQT, 0)
            self.write(IQA, self.queue)
        self.command()

    # Invalidations (6.5.1, 6.5.2), by the queue while it is on, otherwise by register.

    def invalidate_contexts(self, granularity: int, domain: int = 0, source_id: int = 0) -> None:
        if self.queued:
            self.submit((1 | granularity << 4 | domain << 16 | source_id << 32, 0))
        else:
            self.write(CCMD, 1 << 63 | granularity << 61 | source_id << 16 | domain)
        if granularity == GLOBAL:
            self.possible = [{context} for context in self.written]
            for context, lawful in zip(self.written, self.lawful, strict=True):
                lawful.update({address: self.since(context, address) for address in SLOTS})

    def invalidate_pages(
        self, granularity: int, domain: int = 0, address: int = 0, mask: int = 0, leaf: int = 0
    ) -> None:
        if self.queued:
            self.submit((2 | granularity << 4 | domain << 16, address | leaf << 6 | mask))
        else:
            self.write(IVA, address | leaf << 6 | mask)
            self.write(IOTLB, 1 << 63 | granularity << 60 | domain << 32)
        size = PAGE << mask
        named = range(address & -size, (address & -size) + size) if granularity == SELECTIVE else range(1 << 39)
        if granularity and not leaf:
            self.settled(None if granularity == GLOBAL else domain, named)

    def proper(self) -> None:
        """What a driver does after a change of a domain's pages."""
        domain = self.pick.randrange(4, 7)
        if self.pick.random() < 0.05:
            self.invalidate_pages(DOMAIN, domain)
        else:
            mask = self.pick.choice((0, 0, 0, 2, 5, 9))
            self.invalidate_pages(SELECTIVE, domain, self.pick.choice(SLOTS) & -(PAGE << mask), mask)

    def proper_context(self) -> None:
        """What a driver does after a change of context: the context cache, then the IOTLB."""
        # An entry that was not present is cached with domain-id 0 (6.1): a global invalidation covers it too.
        self.invalidate_contexts(GLOBAL)
        self.check()
        if self.pick.random() < 0.8:
            self.invalidate_pages(DOMAIN, self.pick.choice(self.written).domain)
        else:
            self.invalidate_pages(GLOBAL)

    def improper(self) -> None:
        """Too little, too early, or for another domain: it covers nothing more than it names."""
        match self.pick.randrange(5):
            case 0:
                self.invalidate_pages(SELECTIVE, self.pick.choice((1, 8, 4)), self.pick.choice(SLOTS), 0, 1)
            case 1:
                self.invalidate_contexts(DOMAIN, self.pick.choice((1, 5, 8)))
            case 2:
                self.invalidate_contexts(SELECTIVE, self.pick.choice((1, 5)), self.pick.choice(DEVICES))
            case 3:
                self.invalidate_pages(DOMAIN, self.pick.choice((0, 1, 3)))
            case 4 if not self.queued:
                self.invalidate_pages(0)  # a reserved granularity does nothing, and is reported as that

    ACTIONS: tuple[tuple[Callable[[Guest], None], int], ...] = (
        (map, 300),
        (unmap, 150),
        (protect, 150),
        (map_large, 6),
        (protect_all, 10),
        (change_context, 12),
        (switch, 1),
        (switch_queue, 5),
        (proper, 300),
        (proper_context, 16),
        (improper, 50),
    )

    # The shadow.

    def check(self) -> None:
        """Each page of each shadow has a value that the guest allows."""
        for device, lawful in zip(DEVICES, self.lawful, strict=True):
            pages = self.vmm.containers[device].pages
            for address in SLOTS:
                assert pages.get(address) in lawful[address], (device, hex(address), pages.get(address))

    def check_against_the_engine(self) -> None:
        """Where nothing is due, the shadow is what `mappings` says; and DMA gets what is lawful."""
        for device, lawful in zip(DEVICES, self.lawful, strict=True):
            unit, pages = self.vmm.system.unit_for(0, device), self.vmm.containers[device].pages
            found = {
                address: (mapping.host_of(address), mapping.readable, mapping.writable)
                for mapping in unit.mappings(device, addresses=range(2 * LARGE))
                for address in SLOTS
                if address in mapping.addresses
            }
            for address in SLOTS:
                if len(lawful[address]) == 1:
                    assert pages.get(address) == found.get(address)
            address = self.pick.choice(SLOTS)
            got = self.vmm.system.translate(DmaRequest(device, address, Access.READ)).host_address
            assert got in [value[0] if value and value[1] else None for value in lawful[address]]


def run(guest: Guest, count: int) -> dict[str, int]:
    """Random actions, and a check after each. Returns how often each was made."""
    actions, weights = zip(*Guest.ACTIONS, strict=True)
    made = dict.fromkeys((action.__name__ for action in actions), 0)
    for number, action in enumerate(guest.pick.choices(actions, weights, k=count)):
        if not guest.on and guest.pick.random() < 0.1:
            guest.switch()
        action(guest)
        guest.check()
        if number % 16 == 0:
            guest.check_against_the_engine()
        made[action.__name__] += 1
    return made


@pytest.mark.parametrize("seed", [10, pytest.param(11, marks=pytest.mark.slow)])
def test_shadow_is_lawful_after_each_of_100_000_actions(names: dict[str, Any], seed: int) -> None:
    made = run(Guest(names, seed), 50_000)
    assert all(made.values()), made
