"""Devices, domains and tables, and what happens to them: access, change, invalidate some of it, access again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from iommu.fields import Layout
from iommu.registers import CCMD, IOTLB, IVA, Granularity
from iommu.structures import (
    ContextDescriptor,
    ContextEntry,
    DescriptorType,
    FirstStageTable,
    InterruptDescriptor,
    IotlbDescriptor,
    PasidCacheDescriptor,
    PasidDirectoryEntry,
    PasidEntry,
    PasidIotlbDescriptor,
    PasidTranslationType,
    RootEntry,
    ScalableContextEntry,
    ScalableRootHalf,
    SecondStageTable,
    TranslationType,
)
from iommu.structures.first_stage import FIRST_STAGE_PAGES
from iommu.structures.second_stage import SECOND_STAGE_PAGES
from qemu.vtd.conformance.bench import DATA, NOWHERE
from qemu.vtd.fuzz.actions import Action, Dma, Faults, Poke, Store, Submit
from qemu.vtd.fuzz.case import FREE, ROOT, SETUPS, Case
from qemu.vtd.fuzz.generate.dice import Dice
from qemu.vtd.platform import DEVICES

PAGE = 0x1000
_SIZES = {1: PAGE, 2: PAGE << 9, 3: PAGE << 18}
# Host addresses of large pages that hold the pages of DATA, and the offset of those pages in them.
_LARGE = {2: (DATA[0], 0), 3: (0, DATA[0])}


@dataclass
class _Entry:
    """An entry in memory: where, its value and size in bytes, its layout, and what it is in a word."""

    address: int
    value: int
    size: int
    layout: type[Layout]
    name: str


@dataclass
class _Domain:
    """Tables that devices share.

    Attributes:
        number: the domain-id.
        levels: of the tables.
        top: the address of the top table.
        mapped: the pages: input address, level and host page.
    """

    number: int
    levels: int
    top: int
    mapped: list[tuple[int, int, int]] = field(default_factory=list)
    tables: dict[tuple[int, int], int] = field(default_factory=dict)


class World:
    """What a case has set up so far, and the actions that did it."""

    def __init__(self, dice: Dice, setup: str, *, scalable: bool, first: bool, queue: bool) -> None:
        self.dice, self.unit = dice, SETUPS[setup].capabilities
        self.scalable, self.first, self.queue = scalable, first, queue
        self.actions: list[Action] = []
        self.entries: dict[int, _Entry] = {}
        self.domains: list[_Domain] = []
        self.of: dict[str, _Domain] = {}
        self.last: tuple[str, int] | None = None
        self._free = FREE
        self._contexts: dict[int, int] = {}

    # Tables.

    def page(self) -> int:
        """A page that nothing uses."""
        self._free += PAGE
        return self._free - PAGE

    def store(self, address: int, value: int, size: int, layout: type[Layout], name: str) -> None:
        """Write an entry."""
        self.entries[address] = _Entry(address, value, size, layout, name)
        self.actions.append(Store(address, value, size))

    def domain(self, number: int) -> _Domain:
        """A new domain with empty tables."""
        levels = 4 if self.first else self.dice.one_of(self.unit.levels)
        found = _Domain(number, levels, self.page())
        self.domains.append(found)
        return found

    def map(self, domain: _Domain, address: int, level: int, host: int, *, r: int = 1, w: int = 1) -> None:
        """Map a page, with the tables that lead to it."""
        table = domain.top
        for above in range(domain.levels, level, -1):
            key = above, address >> 12 + 9 * (above - 1)
            if key not in domain.tables:
                domain.tables[key] = self.page()
                self._paging(table, address, above, domain.tables[key], 0, 1, 1)
            table = domain.tables[key]
        self._paging(table, address, level, host, level, r, w)
        domain.mapped.append((address, level, host))

    def _paging(self, table: int, address: int, level: int, target: int, page: int, r: int, w: int) -> None:
        """Write a paging entry: of a page if `page` is its level, of a table if it is 0."""
        where = table + 8 * (address >> 12 + 9 * (level - 1) & 0x1FF)
        kind = f"level {level} {'page' if page else 'table'}"
        if self.first:
            layout: type[Layout] = FIRST_STAGE_PAGES[level] if page else FirstStageTable
            marks = {"A": 1, "D": int(bool(page))} if self.dice.chance(70) else {}
            value = layout.make(P=r, RW=w, US=1, ADDR=target, **marks)
        else:
            layout = SECOND_STAGE_PAGES[level] if page else SecondStageTable
            value = layout.make(R=r, W=w, ADDR=target)
        if page > 1:
            value |= 1 << 7
        self.store(where, value, 8, layout, kind)

    # Devices.

    def attach(self, device: str, domain: _Domain) -> None:
        """Give a device a domain: a context entry, or in scalable mode all that leads to a PASID entry."""
        self.of[device] = domain
        source_id = DEVICES[device]
        if not self.scalable:
            if 0 not in self._contexts:
                self._contexts[0] = self.page()
                root = RootEntry.make(P=1, CTP=self._contexts[0])
                self.store(ROOT, root, 16, RootEntry, "root entry")
            type_ = TranslationType.UNTRANSLATED_ONLY
            if self.dice.pick("context", {"tables": 30, "pass-through": 1}) == "pass-through":
                type_ = TranslationType.PASS_THROUGH
            entry = ContextEntry.make(P=1, TT=type_, AW=domain.levels - 2, DID=domain.number, SSPTPTR=domain.top)
            self.store(self._contexts[0] + 16 * source_id.devfn, entry, 16, ContextEntry, "context entry")
            return
        if 0 not in self._contexts:
            self._contexts[0] = self.page()
            self.store(ROOT, ScalableRootHalf.make(P=1, CTP=self._contexts[0]), 8, ScalableRootHalf, "root entry")
        directory, table = self.page(), self.page()
        context = ScalableContextEntry.make(P=1, PDTS=self.dice.number(3), PASIDDIRPTR=directory)
        where = self._contexts[0] + 32 * source_id.devfn
        self.store(where, context, 32, ScalableContextEntry, "context entry")
        pasid = PasidDirectoryEntry.make(P=1, SMPTBLPTR=table)
        self.store(directory, pasid, 8, PasidDirectoryEntry, "directory entry")
        self.store(table, self._pasid_entry(domain), 64, PasidEntry, "PASID entry")

    def _pasid_entry(self, domain: _Domain) -> int:
        kind = self.dice.pick("PASID entry", {"tables": 30, "pass-through": 1})
        if kind == "pass-through":
            aw = max(self.unit.levels) - 2 if self.unit.second_stage else 0
            return PasidEntry.make(P=1, PGTT=PasidTranslationType.PASS_THROUGH, DID=domain.number, AW=aw)
        if self.first:
            type_ = PasidTranslationType.FIRST_STAGE
            return PasidEntry.make(P=1, PGTT=type_, DID=domain.number, AW=2, FSPTPTR=domain.top)
        type_ = PasidTranslationType.SECOND_STAGE
        return PasidEntry.make(P=1, PGTT=type_, DID=domain.number, AW=domain.levels - 2, SSPTPTR=domain.top)

    # What happens.

    def access(self) -> None:
        """A device reads or writes, at a mapped page or at an edge; mostly the faults are then taken."""
        device = self.dice.pick("device", {"A": 4, "B": 9, "C": 5})
        domain = self.of.get(device)
        address = self._address(domain)
        if self.last is not None and self.dice.pick("access", {"other": 3, "again": 2}) == "again":
            device, address = self.last
            address ^= 4 * self.dice.number(0x400) & 0xFFC
        self.last = device, address
        access = "read" if device == "A" and self.dice.chance(60) else "write"
        if device == "A" and address >> 20 == 0xFEE:
            # What A writes there is a system management interrupt, which makes the processor run.
            access = "read"
        self.actions.append(Dma(device, access, address))
        if self.dice.chance(85):
            self.actions.append(Faults())

    def _address(self, domain: _Domain | None) -> int:
        mapped = [] if domain is None else domain.mapped
        other = [] if not self.domains else self.dice.one_of(self.domains).mapped
        where = self.dice.pick("address", {"mapped": 20, "other domain": 2, "beside": 2, "edge": 2})
        pages = mapped if where in ("mapped", "beside") else other if where == "other domain" else []
        if not pages:
            return self._edge_address()
        address, level, _ = self.dice.one_of(pages)
        if where == "beside":
            return (address + self.dice.one_of((-4, _SIZES[level]))) & (1 << 64) - 4
        offset = self.dice.number(8) * PAGE if level > 1 else 0
        inside = _LARGE[level][1] + offset if level > 1 else 0
        return address + inside + 4 * self.dice.one_of((0, 1, self.dice.number(0x400), 0x3FF))

    def _edge_address(self) -> int:
        width = self.dice.one_of((12, 21, 30, 39, 48, 57, 63))
        return self.dice.one_of(
            ((1 << width) - 4, 1 << width, 0xFEDF_FFFC, 0xFEE0_0000, 0xFEF0_0000, 0, (1 << 64) - 4)
        )

    def change(self) -> None:
        """Change an entry in memory, and say nothing to the unit."""
        if not self.entries:
            return
        entry = self.dice.one_of(list(self.entries.values()))
        how = self.dice.pick(f"change {entry.name}", {"bit": 6, "field": 6, "clear": 3, "other page": 3, "ones": 1})
        value = entry.value
        match how:
            case "bit":
                value = self.dice.flip(value, 8 * entry.size)
            case "field":
                value, name = self.dice.field(value, entry.layout)
                self.dice.taken.add(f"field {entry.name}: {name}")
            case "clear":
                value = 0
            case "other page" if "ADDR" in entry.layout.fields:
                part = entry.layout.fields["ADDR"]
                value = value & ~part.mask | self.dice.one_of((DATA[5], DATA[6], NOWHERE)) & part.mask
            case "ones":
                value = (1 << 8 * entry.size) - 1
        self.store(entry.address, value, entry.size, entry.layout, entry.name)

    def restore(self) -> None:
        """Map a page again, or another one, or give a device another domain."""
        what = self.dice.pick("set up", {"page": 4, "device": 2})
        if what == "device":
            self.attach(self.dice.one_of(("A", "B", "C")), self.dice.one_of(self.domains))
        else:
            self._map_one(self.dice.one_of(self.domains))

    def _map_one(self, domain: _Domain) -> None:
        level = int(self.dice.pick("page size", {"1": 6, "2": 3, "3": 2}))
        size = _SIZES[level]
        top = (1 << 9 * domain.levels + 12) - size if not self.first else (1 << 47) - size
        bases = (0, 0x5000, 0x1F_F000, 0x20_0000, 0x3FFF_F000, 0x4000_0000, 0xFEDF_F000, 0xFEE0_0000, 0xFEF0_0000)
        address = (self.dice.one_of((*bases, top, self.dice.number(1 << 9 * domain.levels + 12))) & -size) % (
            top + size
        )
        host = self.dice.one_of((*DATA, NOWHERE, 0xFEE0_0000)) if level == 1 else _LARGE[level][0]
        permissions = self.dice.pick("permissions", {"rw": 8, "r": 3, "w": 2, "none": 1})
        if self.first:
            self.map(domain, address, level, host, r=int(permissions != "none"), w=int("w" in permissions))
        else:
            self.map(domain, address, level, host, r=int("r" in permissions), w=int("w" in permissions))

    def invalidate(self) -> None:
        """Invalidate something: mostly what has to be, sometimes something else."""
        domain = self.dice.one_of(self.domains)
        number = domain.number if self.dice.chance(80) else self.dice.one_of((0, 1, 2, 3, 0xFF))
        address, level, _ = self.dice.one_of(domain.mapped) if domain.mapped else (0x5000, 1, 0)
        if self.dice.chance(20):
            address += _SIZES[level] * self.dice.one_of((-1, 1))
            address &= (1 << 64) - PAGE
        mask = self.dice.one_of((0, 1, 9 * (level - 1), 9 * level)) if self.dice.chance(70) else self.dice.number(19)
        device = DEVICES[self.dice.one_of(("A", "B", "C"))]
        if self.queue:
            self._by_queue(number, address, mask, device)
        else:
            self._by_register(number, address, mask, device)

    def _by_register(self, number: int, address: int, mask: int, device: int) -> None:
        options = {"pages": 6, "domain": 3, "all": 2, "contexts": 3, "contexts of domain": 2}
        what = self.dice.pick("invalidate", options | {"contexts of device": 3, "root pointer": 1})
        base = self.unit.iotlb_offset
        match what:
            case "pages":
                self.actions.append(Poke(base, IVA.make(ADDR=address, AM=mask, IH=self.dice.number(2)), 8))
                command = IOTLB.make(IVT=1, IIRG=Granularity.SELECTIVE, DID=number)
                self.actions.append(Poke(base + 8, command, 8))
            case "domain":
                self.actions.append(Poke(base + 8, IOTLB.make(IVT=1, IIRG=Granularity.DOMAIN, DID=number), 8))
            case "all":
                self.actions.append(Poke(base + 8, IOTLB.make(IVT=1, IIRG=Granularity.GLOBAL), 8))
            case "contexts":
                self.actions.append(Poke(CCMD.offset, CCMD.make(ICC=1, CIRG=Granularity.GLOBAL), 8))
            case "contexts of domain":
                command = CCMD.make(ICC=1, CIRG=Granularity.DOMAIN, DID=number)
                self.actions.append(Poke(CCMD.offset, command, 8))
            case "contexts of device":
                command = CCMD.make(
                    ICC=1, CIRG=Granularity.SELECTIVE, DID=number, SID=device, FM=self.dice.one_of((0, 0, 1, 3))
                )
                self.actions.append(Poke(CCMD.offset, command, 8))
            case "root pointer":
                # SRTP, with TE as it is.
                self.actions.append(Poke(0x18, 0xC000_0000, 4))

    def _by_queue(self, number: int, address: int, mask: int, device: int) -> None:
        options = {"pages": 6, "domain": 3, "all": 2, "contexts": 3, "contexts of domain": 2, "contexts of device": 3}
        if self.scalable:
            options |= {"PASID pages": 5, "PASID": 3, "PASID entries": 3, "PASID entry": 2}
        what = self.dice.pick("submit", options)
        of = DescriptorType
        match what:
            case "pages" | "domain" | "all":
                granularity = {"all": 1, "domain": 2, "pages": 3}[what]
                pages = {"ADDR": address, "AM": mask, "IH": self.dice.number(2)} if what == "pages" else {}
                descriptor = IotlbDescriptor.make(TYPE=of.IOTLB, G=granularity, DID=number, **pages)
            case "PASID pages":
                pages = {"ADDR": address, "AM": mask, "IH": self.dice.number(2)}
                descriptor = PasidIotlbDescriptor.make(TYPE=of.PASID_IOTLB, G=3, DID=number, **pages)
            case "PASID":
                descriptor = PasidIotlbDescriptor.make(TYPE=of.PASID_IOTLB, G=2, DID=number)
            case "PASID entries" | "PASID entry":
                descriptor = PasidCacheDescriptor.make(TYPE=of.PASID_CACHE, G=what == "PASID entry", DID=number)
            case _:
                granularity = {"contexts": 1, "contexts of domain": 2}.get(what, 3)
                fields = {"SID": device, "FM": self.dice.one_of((0, 0, 1, 3))} if granularity == 3 else {}
                descriptor = ContextDescriptor.make(TYPE=of.CONTEXT, G=granularity, DID=number, **fields)
        self.actions.append(Submit(descriptor))
        if self.dice.chance(3):
            self.actions.append(Submit(InterruptDescriptor.make(TYPE=of.INTERRUPT)))


def _sequence(world: World) -> None:
    """Set up domains and devices, damage something or not, then access, change and invalidate."""
    dice = world.dice
    numbers = dice.one_of(((1,), (1, 2), (1, 3), (5, 0xFF)))
    for number in numbers:
        domain = world.domain(number)
        for _ in range(1 + dice.number(3)):
            world._map_one(domain)
    for device in ("A", "B", "C"):
        if device == "B" or dice.chance(60):
            world.attach(device, dice.one_of(world.domains))
    if dice.pick("start", {"whole": 2, "damaged": 2}) == "damaged":
        world.change()
    world.access()
    doings: dict[str, Callable[[], None]] = {
        "access": world.access,
        "change": world.change,
        "set up": world.restore,
        "invalidate": world.invalidate,
    }
    weights = {"access": 6, "change": 4, "set up": 2, "invalidate": 4}
    for _ in range(2 + dice.number(7)):
        doings[dice.pick("then", weights)]()
    world.access()


def legacy(dice: Dice, setup: str) -> Case:
    """Legacy mode, invalidated by registers or by the queue."""
    queue = dice.pick("legacy", {"registers": 2, "queue": 1}) == "queue"
    world = World(dice, setup, scalable=False, first=False, queue=queue)
    _sequence(world)
    return Case(setup, "legacy, queue" if queue else "legacy", tuple(world.actions))


def second(dice: Dice, setup: str) -> Case:
    """Scalable mode with a second stage; sometimes such a unit in legacy mode."""
    if dice.pick("mode", {"scalable": 8, "legacy": 1}) == "legacy":
        return legacy(dice, setup)
    world = World(dice, setup, scalable=True, first=False, queue=True)
    _sequence(world)
    return Case(setup, "scalable", tuple(world.actions))


def first(dice: Dice, setup: str) -> Case:
    """Scalable mode with a first stage."""
    world = World(dice, setup, scalable=True, first=True, queue=True)
    _sequence(world)
    return Case(setup, "scalable", tuple(world.actions))
