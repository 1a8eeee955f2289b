"""Random register writes, table edits, requests and invalidations, in legacy and in scalable mode (spec 6).

Without caches each result is the naive one of the tables as they stand. With caches each entry may be seen as it
was at any moment since the last invalidation that covers it: the naive reading is asked with every such choice.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from iommu import Access, AddressType, DmaRequest, Outcome, RemappingUnit, Selector, SourceId
from tests.engine import naive, naive_scalable
from tests.engine.scalable_world import A1, A2, ALL1, D1, D2, GUEST, SCALABLE, CountingMemory, ScalableWorld
from tests.engine.world import PS, RW, SRTP, TE, R, W

DEVICES = (SourceId(0, 4, 0), SourceId(0, 4, 1))
DOMAINS = (1, 2)
PASIDS = (0, 1, 2, 3)
PAGES = (0x5000, 0x6000, 0x20_5000)
ENTRIES = (
    0,
    0,
    0x9000 | R,
    0x9000 | W,
    0x9000 | RW,
    0xA000 | RW,
    0xB000 | R,
    0x9000 | RW | 1 << 11,
    0xFEE0_0000 | RW,
)
FIRST_ENTRIES = (
    0,
    0x9000 | ALL1,
    0xA000 | ALL1,
    0x9000 | 1,
    0x9000 | 5,
    0xB000 | ALL1 | 1 << 63,
    0x9000 | 1 << 51 | 1,
)
FOREVER = -1


@dataclass
class Entry:
    """One entry of a table: what software has written there, and since which moment."""

    history: list[tuple[int, tuple[int, ...]]]
    owners: frozenset[tuple[str, int]] = field(default_factory=frozenset)

    def values(self, since: int) -> list[tuple[int, ...]]:
        """What stood here at some moment from `since` on, newest first."""
        last = max(n for n, (when, _) in enumerate(self.history) if n == 0 or when <= since)
        return list(dict.fromkeys(value for _, value in reversed(self.history[last:])))


class Machine(RuleBasedStateMachine):
    """What both modes have in common: memory with histories, a clock, and the comparison."""

    world: ScalableWorld
    caching = True
    caching_mode = False
    accessed_dirty = 0
    """SSADE: the second stage keeps accessed and dirty bits."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0
        self.entries: dict[int, Entry] = {}
        self.covered: dict[tuple[str, int], int] = {}
        self.enabled = True
        self.pages_covered: dict[tuple[int, int], int] = {}
        self.ways: dict[tuple[int, int], set[int]] = {}
        self.asked_page: int | None = None
        self.asked_at = 0
        self.exchanged: int | None = None

    def now(self) -> int:
        """A new moment."""
        self.clock += 1
        return self.clock

    def edit(self, at: int, *quadwords: int) -> None:
        """Software writes an entry."""
        self.world.put(at, *quadwords)
        entry = self.entries.setdefault(at, Entry([]))
        entry.history.append((self.now(), quadwords))

    def cover(self, *what: tuple[str, int]) -> None:
        """An invalidation has covered these."""
        for each in what:
            self.covered[each] = self.now()

    def since(self, at: int) -> int:
        """From which moment on an entry may have been cached."""
        if at == self.exchanged:
            return self.clock
        if not self.caching:
            return self.asked_at
        moments = [self.covered.get(owner, FOREVER) for owner in self.entries[at].owners]
        moments += [
            moment
            for (domain, page), moment in self.pages_covered.items()
            if page == self.asked_page and at in self.ways[domain, page]
        ]
        return max(moments, default=FOREVER)

    def pasts(self) -> Iterator[Callable[[int], int]]:
        """Memory as it may be seen: each entry that is read with each value it may have. Newest first."""
        todo: list[dict[int, int]] = [{}]
        tried = 0
        while todo and tried < 3000:
            chosen = todo.pop(0)
            given: dict[int, int] = {}

            def read(at: int, chosen: dict[int, int] = chosen, given: dict[int, int] = given) -> int:
                start = next((start for start in range(at, at - 64, -8) if start in self.entries), None)
                if start is None or at >= start + 8 * len(self.entries[start].history[-1][1]):
                    return self.world.memory.read_u64(at)
                values = self.entries[start].values(self.since(start))
                pick = given.setdefault(start, chosen.get(start, 0))
                value = values[pick][(at - start) // 8]
                if len(values[pick]) == 1 and values[pick] == self.entries[start].history[-1][1]:
                    return self.world.memory.read_u64(at)
                return value

            yield read
            tried += 1
            items = list(given.items())
            for n in range(len(chosen), len(items)):
                start, _ = items[n]
                for other in range(1, len(self.entries[start].values(self.since(start)))):
                    todo.append({**dict(items[:n]), start: other})

    def compare(self, request: DmaRequest, agrees: Callable[[Callable[[int], int], Outcome], bool]) -> None:
        """The outcome is one that some past memory would give."""
        if not self.caching:
            self.world.unit.caches.invalidate_dma()
        self.asked_at = self.clock
        outcome = self.world.unit.translate(request)
        pasts = list(self.snapshots())
        for n in range(self.world.capabilities.fault_records):
            self.world.clear_record(n)
        self.world.write(0x34, 1)
        if not self.enabled:
            passes = request.address_type is AddressType.UNTRANSLATED
            assert (outcome.host_address, outcome.fault) == (request.address if passes else None, None)
            return
        assert any(agrees(read, outcome) for read in self.pasts()), (request, outcome, pasts)

    def snapshots(self) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
        """For the message of a failure: entries with more than one value in question."""
        for at in self.entries:
            values = self.entries[at].values(self.since(at))
            if len(values) > 1:
                yield hex(at), values

    @rule(on=st.booleans())
    def switch(self, on: bool) -> None:
        """Translation on or off. Turning it off with ECAP.SMTS drops the caches (4.4), which the pasts allow for."""
        self.world.write(0x18, TE if on else 0)
        self.enabled = on

    @rule()
    def root_table_again(self) -> None:
        """SRTP with the same table; nothing is covered by it (no CAP.ESRTPS)."""
        self.world.write(0x18, SRTP | (TE if self.enabled else 0))

    @rule(offset=st.sampled_from((0x08, 0x10, 0x1C, 0x00, 0x38, 0x3C, 0x200)), value=st.integers(0, 0xFFFF_FFFF))
    def write_other_register(self, offset: int, value: int) -> None:
        """Registers that translation does not depend on."""
        self.world.write(offset, value)

    @rule(value=st.integers(0, (1 << 64) - 1))
    def write_root_table_address(self, value: int) -> None:
        """RTADDR counts only from SRTP on."""
        before = self.world.read(0x20, 8)
        self.world.write(0x20, value, 8)
        self.world.write(0x20, before, 8)

    @rule(copied=st.booleans())
    def another_unit(self, copied: bool) -> None:
        """A copy of the unit with memory of its own, or one that was saved and restored, takes its place."""
        unit = self.world.unit
        self.world.unit = copy.deepcopy(unit) if copied else RemappingUnit.restore(unit.save(), unit.memory)
        memory = self.world.unit.memory
        assert isinstance(memory, CountingMemory)
        self.world.memory = memory

    @invariant()
    def no_overflow(self) -> None:
        """Fault records are cleared after each request."""
        assert self.world.read(0x34) & 1 == 0


class LegacyMachine(Machine):
    """Legacy mode: contexts by device, second stage by domain, CCMD and IOTLB commands."""

    @initialize()
    def build(self) -> None:
        world = self.world = ScalableWorld(address_width=48, fault_records=4, caching_mode=self.caching_mode)
        self.tops = {domain: world.page() for domain in DOMAINS}
        self.leaves: dict[tuple[int, int], dict[int, int]] = {}
        for domain, page in itertools.product(DOMAINS, PAGES):
            places = world.map(self.tops[domain], 4, page, 0x9000 | RW)
            self.leaves[domain, page] = places
            self.ways[domain, page] = set(places.values())
        for domain, page in self.leaves:
            for at in self.leaves[domain, page].values():
                self.edit(at, world.memory.read_u64(at))
                self.entries[at].owners = frozenset({("domain", domain), ("iotlb", 0)})
        for number, source_id in enumerate(DEVICES):
            at = world.context_address(source_id)
            self.context(number, domain=DOMAINS[number % 2], tt=0, fpd=0, p=1)
            self.entries[at].owners = frozenset({("device", source_id), ("contexts", 0)})
        world.latch(world.root)
        world.write(0x18, TE)

    @rule(
        number=st.sampled_from((0, 1)),
        domain=st.sampled_from(DOMAINS),
        tt=st.sampled_from((0, 1, 2, 3)),
        fpd=st.sampled_from((0, 1)),
        p=st.sampled_from((0, 1, 1)),
    )
    def context(self, number: int, domain: int, tt: int, fpd: int, p: int) -> None:
        """Another context entry."""
        at = self.world.context_address(DEVICES[number])
        self.edit(at, self.tops[domain] | tt << 2 | fpd << 1 | p, domain << 8 | 2)

    @rule(
        domain=st.sampled_from(DOMAINS),
        page=st.sampled_from(PAGES),
        level=st.sampled_from((1, 1, 1, 2, 3)),
        entry=st.sampled_from(ENTRIES),
        back=st.booleans(),
    )
    def page_table(self, domain: int, page: int, level: int, entry: int, back: bool) -> None:
        """Another paging entry; upper ones also become large pages, or tables again."""
        at = self.leaves[domain, page][level]
        if level > 1 and back:
            entry = self.entries[at].history[0][1][0]
        elif level > 1 and entry:
            entry = 0x4000_0000 * (1 + (entry >> 12 & 1)) | PS | entry & 3
        self.edit(at, entry)

    @rule(granularity=st.sampled_from((1, 2, 3)), number=st.sampled_from((0, 1)), domain=st.sampled_from(DOMAINS),
          fm=st.sampled_from((0, 0, 1, 3)))  # fmt: skip
    def invalidate_contexts(self, granularity: int, number: int, domain: int, fm: int) -> None:
        """CCMD. A domain-selective command is not sure to cover an entry, as the domains of devices change."""
        done = self.world.invalidate_contexts(granularity, did=domain, sid=DEVICES[number], fm=fm)
        assert done == granularity
        if done == 1:
            self.cover(("contexts", 0))
        elif done == 3:
            ignored = (0, 4, 6, 7)[fm]
            for each in DEVICES:
                if (each ^ DEVICES[number]) & ~ignored == 0:
                    self.cover(("device", each))

    @rule(granularity=st.sampled_from((1, 2, 3)), domain=st.sampled_from(DOMAINS), page=st.sampled_from(PAGES),
          am=st.sampled_from((0, 0, 9, 18)), ih=st.booleans())  # fmt: skip
    def invalidate_pages(self, granularity: int, domain: int, page: int, am: int, ih: bool) -> None:
        """IOTLB. A page-selective command covers all entries that lead to its pages, for requests to them."""
        done = self.world.invalidate_pages(
            granularity, did=domain, address=page >> 12 + am << 12 + am, am=am, ih=int(ih)
        )
        assert done == granularity
        if done == 1:
            self.cover(("iotlb", 0))
        elif done == 2:
            self.cover(("domain", domain))
        elif not ih:
            for each in PAGES:
                if each >> 12 + am == page >> 12 + am:
                    self.pages_covered[domain, each] = self.now()

    @rule(number=st.sampled_from((0, 1)), page=st.sampled_from(PAGES), access=st.sampled_from((1, 2)),
          kind=st.sampled_from((0, 0, 0, 1, 2)), beyond=st.sampled_from((0, 0, 0, 0x1000, 1 << 50)))  # fmt: skip
    def request(self, number: int, page: int, access: int, kind: int, beyond: int) -> None:
        """A request, compared."""
        address = page + beyond
        self.asked_page = page if not beyond else None
        request = DmaRequest(DEVICES[number], address, Access(access), address_type=AddressType(kind))
        self.compare(request, lambda read, outcome: self.agrees(request, read, outcome))

    @rule(number=st.sampled_from((0, 1)), page=st.sampled_from(PAGES), entry=st.sampled_from(ENTRIES),
          granularity=st.sampled_from((0, 1, 2, 3)), paging=st.booleans(),
          tt=st.sampled_from((0, 1, 2, 3)))  # fmt: skip
    def changed_between(self, number: int, page: int, entry: int, granularity: int, paging: bool, tt: int) -> None:
        """Two requests of a device for one page, and between them a change, and perhaps an invalidation."""
        domain = self.world.memory.read_u64(self.world.context_address(DEVICES[number]) + 8) >> 8
        self.request(number, page, 1, 0, 0)
        if paging:
            self.page_table(domain, page, 1, entry, False)
            if granularity:
                self.invalidate_pages(granularity, domain, page, 0, False)
        else:
            self.context(number, domain, tt, 0, 1)
            if granularity:
                self.invalidate_contexts(granularity, number, domain, 0)
        self.request(number, page, 1, 0, 0)

    def agrees(self, request: DmaRequest, read: Callable[[int], int], outcome: Outcome) -> bool:
        """Whether the naive reading gives this outcome; for requests of a device-TLB, by the context alone."""
        context = read(self.world.context_address(request.source_id))
        tt, p = context >> 2 & 3, context & 1
        if request.address_type and p and tt in (0, 2):
            return outcome.fault == 0x0D
        if request.address_type is AddressType.TRANSLATED and p and tt == 1:
            if request.address >> self.world.capabilities.host_address_width:
                return outcome.fault == 0x04
            return outcome.host_address == request.address
        verdicts = naive.translate(
            read, self.world.capabilities, self.world.root, request.source_id, request.address, request.access
        )
        if request.address_type and p and tt == 1:
            # Permissions are answered, not asked for: whichever access the page allows.
            verdicts |= naive.translate(
                read,
                self.world.capabilities,
                self.world.root,
                request.source_id,
                request.address,
                Access.READ if request.access is Access.WRITE else Access.WRITE,
            )
            absent = {("fault", code) for code in (4, 5, 6)}
            if outcome.fault is None and outcome.host_address is None:
                return verdicts <= absent or bool(verdicts & absent)
        if outcome.fault is not None:
            return ("fault", int(outcome.fault)) in verdicts and outcome.recorded in (
                {True} if int(outcome.fault) in (1, 8, 9, 0xA) else {not context >> 1 & 1}
            )
        return ("host", outcome.host_address) in verdicts


class LegacyWithoutCaches(LegacyMachine):
    """Everything is invalidated before each request: exactly what the tables say now."""

    caching = False


class LegacyInCachingMode(LegacyMachine):
    """What is not present or erroneous is cached as well."""

    caching_mode = True


class ScalableMachine(Machine):
    """Scalable mode: each PASID has its own type and tables, and an entry whose other fields change."""

    @initialize()
    def build(self) -> None:
        world = self.world = ScalableWorld(fault_records=4, caching_mode=self.caching_mode)
        self.second = world.page()
        self.firsts: dict[int, dict[tuple[int, int], int]] = {}
        self.seconds: dict[tuple[int, int], int] = {}
        self.types = {0: 2, 1: 1, 2: 3, 3: 4}
        for page in PAGES:
            for level, at in world.map(self.second, 4, page, 0x9000 | RW).items():
                self.seconds[page, level] = at
        self.seconds_of_guest()
        for pasid, offset in ((1, 0), (2, GUEST)):
            self.firsts[pasid] = self.first_tables(offset)
        for at in self.seconds.values():
            self.edit(at, world.memory.read_u64(at))
            self.entries[at].owners = frozenset({("domain", 1), ("iotlb", 0)})
        for pasid, places in self.firsts.items():
            for at in places.values():
                self.edit(at, world.memory.read_u64(at))
                self.entries[at].owners = frozenset({("domain", 1), ("iotlb", 0), ("pasid", pasid)})
        for number, source_id in enumerate(DEVICES):
            world.scalable_context(source_id)
            self.context(number, dte=1, paside=1, rid_pasid=0, rid_priv=0, fpd=0, p=1)
            for pasid in PASIDS:
                self.pasid_entry(number, pasid, sre=1, wpe=0, fpd=0, p=1, extra=0)
        world.start()

    def seconds_of_guest(self) -> None:
        """The second stage maps all tables of the first at GUEST + their host address, by one large page."""
        for level, at in self.world.map(self.second, 4, GUEST, RW | PS, leaf=3).items():
            self.seconds[GUEST, level] = at

    def first_tables(self, offset: int) -> dict[tuple[int, int], int]:
        """First-stage tables for all pages, at guest-physical addresses if there is an offset."""
        world, places = self.world, {}
        tables = {(4, 0): world.page()}
        self.tops = {**getattr(self, "tops", {}), offset: tables[4, 0] + offset}
        for page in PAGES:
            for level in (4, 3, 2, 1):
                at = tables[level, page >> 12 + 9 * level] + 8 * (page >> 3 + 9 * level & 511)
                places[page, level] = at
                if level == 1:
                    world.put(at, (0x9000 if not offset else page) | ALL1)
                elif not world.memory.read_u64(at):
                    table = tables[level - 1, page >> 3 + 9 * level] = world.page()
                    world.put(at, table + offset | ALL1)
        return places

    @rule(
        number=st.sampled_from((0, 1)),
        dte=st.sampled_from((0, 1, 1)),
        paside=st.sampled_from((0, 1, 1, 1)),
        rid_pasid=st.sampled_from((0, 0, 1, 2, 3, 64)),
        rid_priv=st.sampled_from((0, 1)),
        fpd=st.sampled_from((0, 1)),
        p=st.sampled_from((0, 1, 1, 1)),
    )
    def context(self, number: int, dte: int, paside: int, rid_pasid: int, rid_priv: int, fpd: int, p: int) -> None:
        """Another context entry."""
        at = self.world.contexts[DEVICES[number]]
        low = self.world.memory.read_u64(at) & ~0x1F
        self.edit(at, low | paside << 3 | dte << 2 | fpd << 1 | p, rid_priv << 20 | rid_pasid, 0, 0)
        self.entries[at].owners = frozenset({("device", DEVICES[number]), ("contexts", 0)})

    @rule(
        number=st.sampled_from((0, 1)),
        pasid=st.sampled_from(PASIDS),
        sre=st.sampled_from((0, 1)),
        wpe=st.sampled_from((0, 1)),
        fpd=st.sampled_from((0, 1)),
        p=st.sampled_from((0, 1, 1, 1)),
        extra=st.sampled_from((0, 0, 0, 1 << 10)),
    )
    def pasid_entry(self, number: int, pasid: int, sre: int, wpe: int, fpd: int, p: int, extra: int) -> None:
        """Another PASID-table entry, of the same type and with the same tables."""
        pgtt, source_id = self.types[pasid], DEVICES[number]
        at = self.world.pasid_entry(
            pasid,
            source_id,
            pgtt=pgtt,
            first=self.tops.get(0 if pgtt == 1 else GUEST, 0),
            second=self.second if pgtt in (2, 3) else 0,
            sre=sre,
            wpe=wpe,
            ssade=self.accessed_dirty,
            fpd=fpd,
            p=p,
        )
        words = [self.world.memory.read_u64(at + 8 * n) for n in range(8)]
        self.edit(at, words[0] | extra, *words[1:])
        self.entries[at].owners = frozenset({("pasid entry", pasid), ("pasid entries", 0)})

    @rule(page=st.sampled_from(PAGES), level=st.sampled_from((1, 1, 2)), entry=st.sampled_from(ENTRIES),
          back=st.booleans())  # fmt: skip
    def second_stage(self, page: int, level: int, entry: int, back: bool) -> None:
        """Another second-stage entry."""
        at = self.seconds[page, level]
        if level > 1:
            entry = self.entries[at].history[0][1][0] if back else entry and 0x4000_0000 | PS | entry & 3
        self.edit(at, entry)

    @rule(pasid=st.sampled_from((1, 2)), page=st.sampled_from(PAGES), level=st.sampled_from((1, 1, 2)),
          entry=st.sampled_from(FIRST_ENTRIES), back=st.booleans())  # fmt: skip
    def first_stage(self, pasid: int, page: int, level: int, entry: int, back: bool) -> None:
        """Another first-stage entry. Nested ones go to pages the second stage may map."""
        at = self.firsts[pasid][page, level]
        if back or level > 1:
            first = self.entries[at].history[0][1][0]
            entry = first if back else 0 if entry == 0 else first & ~6 | entry & 6
        elif pasid == 2 and entry:
            entry = entry & ~(0xF000) | page
        self.edit(at, entry)

    @rule(what=st.sampled_from(("contexts", "device")), number=st.sampled_from((0, 1)))
    def invalidate_contexts(self, what: str, number: int) -> None:
        """Context cache, global or by device."""
        if what == "contexts":
            self.world.unit.caches.invalidate(Selector.contexts())
            self.cover(("contexts", 0))
        else:
            self.world.unit.caches.invalidate(Selector.contexts(source_id=DEVICES[number]))
            self.cover(("device", DEVICES[number]))

    @rule(what=st.sampled_from(("all", "domain", "pasid")), pasid=st.sampled_from(PASIDS))
    def invalidate_pasids(self, what: str, pasid: int) -> None:
        """PASID cache, by each granularity."""
        if what == "pasid":
            self.world.unit.caches.invalidate(Selector.pasids(1, pasid))
            self.cover(("pasid entry", pasid))
        else:
            if what == "all":
                self.world.unit.caches.invalidate(Selector.pasids())
            else:
                self.world.unit.caches.invalidate(Selector.pasids(1))
            self.cover(("pasid entries", 0))

    @rule(what=st.sampled_from(("all", "domain", "other domain", "pasid")), pasid=st.sampled_from((1, 2)))
    def invalidate_translations(self, what: str, pasid: int) -> None:
        """IOTLB and PASID-based IOTLB. Of the nested, the latter covers the first stage only: 4.3."""
        caches = self.world.unit.caches
        if what == "all":
            caches.invalidate(Selector.translations())
            self.cover(("iotlb", 0))
        elif what == "domain":
            caches.invalidate(Selector.translations(1))
            self.cover(("domain", 1))
        elif what == "other domain":
            caches.invalidate(Selector.translations(2))
        else:
            caches.invalidate(Selector.translations(1, pasid))
            self.cover(("pasid", pasid))

    @rule(
        number=st.sampled_from((0, 1)),
        page=st.sampled_from((*PAGES, 0x7000, 1 << 50)),
        access=st.sampled_from(Access),
        kind=st.sampled_from((0, 0, 0, 0, 1, 2)),
        pasid=st.sampled_from((None, *PASIDS, 64)),
        privileged=st.booleans(),
    )
    def request(self, number: int, page: int, access: Access, kind: int, pasid: int | None, privileged: bool) -> None:
        """A request, compared."""
        request = DmaRequest(
            DEVICES[number],
            page,
            access,
            pasid=pasid,
            privileged=privileged and pasid is not None,
            address_type=AddressType(kind),
        )
        self.compare(request, lambda read, outcome: self.agrees(request, read, outcome))

    @rule(number=st.sampled_from((0, 1)), page=st.sampled_from(PAGES), pasid=st.sampled_from((0, 1, 2)),
          what=st.sampled_from(("context", "pasid entry", "first", "second")), entry=st.sampled_from(ENTRIES),
          first=st.sampled_from(FIRST_ENTRIES), how=st.sampled_from((0, 1, 2, 3)))  # fmt: skip
    def changed_between(
        self, number: int, page: int, pasid: int, what: str, entry: int, first: int, how: int
    ) -> None:
        """Two requests of a device for one page, and between them a change, and perhaps an invalidation."""
        self.request(number, page, Access.READ, 0, pasid, False)
        if what == "context":
            self.context(number, dte=1, paside=how % 2, rid_pasid=0, rid_priv=0, fpd=0, p=1)
            if how:
                self.invalidate_contexts("contexts" if how == 1 else "device", number)
        elif what == "pasid entry":
            self.pasid_entry(number, pasid, sre=1, wpe=0, fpd=0, p=how % 2, extra=0)
            if how:
                self.invalidate_pasids(("all", "domain", "pasid")[how - 1], pasid)
        else:
            if what == "first" and pasid:
                self.first_stage(pasid, page, 1, first, False)
            else:
                self.second_stage(page, 1, entry, False)
            if how:
                self.invalidate_translations(("all", "domain", "pasid")[how - 1], max(1, pasid))
        self.request(number, page, Access.READ, 0, pasid, False)

    def agrees(self, request: DmaRequest, read: Callable[[int], int], outcome: Outcome) -> bool:
        """Whether some naive reading gives this outcome. Marks are left to the tests without caches."""
        for answer in naive_scalable.outcomes(read, self.world.capabilities, self.world.root | SCALABLE, request):
            same = (answer.host, answer.fault) == (outcome.host_address, int(outcome.fault or 0))
            # The context's FPD may be cached with the PASID entry: a change needs both invalidated (4.4).
            if same and (self.caching or answer.recorded == outcome.recorded):
                if request.address_type is not AddressType.TRANSLATION_REQUEST:
                    return True
                if answer.permissions == (outcome.readable, outcome.writable):
                    return True
        return False


class ScalableWithoutCaches(ScalableMachine):
    """Everything is invalidated before each request: exactly what the tables say now."""

    caching = False


class ScalableInCachingMode(ScalableMachine):
    """What is not present or erroneous is cached as well."""

    caching_mode = True


class ScalableWithOthers(ScalableMachine):
    """Somebody else writes an entry just before the unit sets bits in one (3.6.2, 3.7.2)."""

    accessed_dirty = 1

    @rule(number=st.sampled_from((0, 1)), pasid=st.sampled_from((0, 1, 2)), page=st.sampled_from(PAGES),
          access=st.sampled_from(Access), nth=st.integers(1, 12), own=st.booleans(),
          level=st.sampled_from((1, 2)), value=st.sampled_from(("absent", "first", "less", "other")),
          again=st.booleans())  # fmt: skip
    def changed_meanwhile(
        self, number: int, pasid: int, page: int, access: Access, nth: int, own: bool, level: int, value: str,
        again: bool,
    ) -> None:  # fmt: skip
        """A request; at its nth exchange the others write the entry that is exchanged, or another one.

        The former must not be used as it was, except that a nested walk may have cached what it led to.
        """
        if again:
            self.world.unit.caches.invalidate(Selector.translations())
            self.cover(("iotlb", 0))
        exchanges = 0

        def others(address: int) -> None:
            nonlocal exchanges
            exchanges += 1
            if exchanges != nth:
                return
            at = address if own else self.firsts[pasid][page, level] if pasid else self.seconds[page, level]
            before = self.world.memory.read_u64(at)
            start = self.entries[at].history[0][1][0]
            right = W if at in self.seconds.values() else 2
            new = {"absent": 0, "first": start, "less": before & ~right, "other": before ^ 1 << 52}[value]
            self.edit(at, new)
            if own and pasid < 2 and new != before:
                self.exchanged = at

        self.world.memory.always = others
        self.request(number, page, access, 0, pasid, False)
        self.world.memory.always = lambda _address: None
        self.exchanged = None

    @invariant()
    def only_marks_are_added(self) -> None:
        """The unit never loses what others have written: it only adds accessed and dirty bits."""
        for places, marks in (
            (self.seconds.values(), A2 | D2),
            *((p.values(), A1 | D1) for p in self.firsts.values()),
        ):
            for at in places:
                written, now = self.entries[at].history[-1][1][0], self.world.memory.read_u64(at)
                assert now & written == written and not (now ^ written) & ~marks, (hex(at), hex(written), hex(now))


class ScalableWithOthersWithoutCaches(ScalableWithOthers):
    """The same, with everything invalidated before each request."""

    caching = False


SETTINGS = settings(max_examples=60, stateful_step_count=50, deadline=None)


def machine(kind: type[Machine]) -> Any:
    """The unittest class that hypothesis makes of a machine."""
    kind.TestCase.settings = SETTINGS
    return kind.TestCase


TestLegacy = machine(LegacyMachine)
TestLegacyWithoutCaches = machine(LegacyWithoutCaches)
TestLegacyInCachingMode = machine(LegacyInCachingMode)
TestScalableInCachingMode = machine(ScalableInCachingMode)
TestScalable = machine(ScalableMachine)
TestScalableWithoutCaches = machine(ScalableWithoutCaches)
TestScalableWithOthers = machine(ScalableWithOthers)
TestScalableWithOthersWithoutCaches = machine(ScalableWithOthersWithoutCaches)
