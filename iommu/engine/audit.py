"""Staleness, made visible: each cached item remembers the entries it was read from (spec 6.2, 6.5).

    unit = RemappingUnit(memory, audit=True)
    unit.audit()                    every cached item that no longer matches memory
    unit.translate(request).stale   those that this request was answered from

A unit that is not audited has none of this in it: the classes below take the places of its caches and walkers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from iommu.engine.caches.caches import Caches, StructureCache
from iommu.engine.caches.page import FaultyEntry, Table
from iommu.engine.request import SourceId
from iommu.errors import MemoryAccessError
from iommu.memory import Memory
from iommu.structures import FirstStageEntry, SecondStageEntry

DEVICE_TLB = "device-TLB"
"""What the names of devices' caches begin with."""

# Accessed, dirty and extended accessed: the unit sets them itself, and that makes nothing stale.
FIRST_STAGE_MARKS = FirstStageEntry.A.mask | FirstStageEntry.D.mask | FirstStageEntry.EA.mask
SECOND_STAGE_MARKS = SecondStageEntry.A.mask | SecondStageEntry.D.mask


class Source(NamedTuple):
    """An entry as it stood in memory when it was read: `length` bytes at `address`, `marks` the unit's own bits."""

    address: int
    length: int
    raw: int
    marks: int = 0


class StaleItem(NamedTuple):
    """A cached item that no longer matches memory.

    Attributes:
        cache: which cache it is in.
        tag: what it is found by.
        changed: the entries that have changed, as they were, each with what stands there now (None: unreadable).
        owed: the invalidation that software has not issued.
    """

    cache: str
    tag: str
    changed: tuple[tuple[Source, int | None], ...]
    owed: str

    def __str__(self) -> str:
        entries = ", ".join(f"the entry at {source.address:#x}" for source, _ in self.changed)
        return f"{self.cache}, {self.tag}: stale since {entries} changed; owed: {self.owed}"


class _Record(NamedTuple):
    """What the ledger holds of one cached item."""

    tag: str
    owed: str
    sources: tuple[Source, ...]
    still_there: Callable[[], bool]


class Ledger:
    """Who read what: the reads of the request under way, and the sources of every item that is cached.

    Attributes:
        reads: what has been read for the item that will be cached next.
        seen: all that the request under way rests on, read now or when the cached items it has met were read.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.reads: list[Source] = []
        self.seen: list[Source] = []
        self._records: dict[tuple[str, Hashable], _Record] = {}
        self._used: list[StaleItem] = []

    def forget(self) -> None:
        """The unit has been reset: its caches are new ones. What devices hold stays."""
        self._records = {key: record for key, record in self._records.items() if key[0].startswith(DEVICE_TLB)}

    def begin(self) -> None:
        """A request arrives."""
        self.reads, self.seen = [], []
        self._used = []

    def read(self, source: Source) -> None:
        """An entry has been read."""
        self.reads.append(source)
        self.seen.append(source)

    def written(self, source: Source) -> None:
        """The unit itself has marked an entry: that is what it knows of it from then on."""
        for sources in (self.reads, self.seen):
            sources[:] = [source if read[:2] == source[:2] else read for read in sources]

    def take_reads(self) -> tuple[Source, ...]:
        """What has been read since the last call: what follows belongs to another item."""
        reads, self.reads = tuple(self.reads), []
        return reads

    def fill(
        self, cache: str, key: Hashable, tag: str, owed: str, sources: tuple[Source, ...], there: Callable[[], bool]
    ) -> None:
        """An item has been cached."""
        self._records[cache, key] = _Record(tag, owed, sources, there)

    def sources(self, cache: str, key: Hashable) -> tuple[Source, ...]:
        """Where an item came from."""
        record = self._records.get((cache, key))
        return () if record is None else record.sources

    def use(self, cache: str, key: Hashable) -> None:
        """An item has been found in its cache."""
        record = self._records.get((cache, key))
        if record is not None:
            self.seen.extend(record.sources)
            if (stale := self._judge(cache, record)) is not None:
                self._used.append(stale)

    def judge(self, cache: str, key: Hashable) -> StaleItem | None:
        """One item, if it no longer matches memory."""
        record = self._records.get((cache, key))
        return None if record is None else self._judge(cache, record)

    def take_used(self) -> tuple[StaleItem, ...]:
        """The stale items that the request under way has been answered from."""
        used, self._used = tuple(self._used), []
        return used

    def audit(self) -> list[StaleItem]:
        """Every item still cached that no longer matches memory."""
        self._records = {key: record for key, record in self._records.items() if record.still_there()}
        judged = (self._judge(cache, record) for (cache, _), record in self._records.items())
        return [stale for stale in judged if stale is not None]

    def _judge(self, cache: str, record: _Record) -> StaleItem | None:
        changed = []
        for source in record.sources:
            now = self._now(source)
            if now is None or _differs(source, now):
                changed.append((source, now))
        return StaleItem(cache, record.tag, tuple(changed), record.owed) if changed else None

    def _now(self, source: Source) -> int | None:
        try:
            return int.from_bytes(self.memory.read(source.address, source.length), "little")
        except MemoryAccessError:
            return None


def _differs(source: Source, now: int) -> bool:
    """Whether the change is software's. Marks that have been set are the unit's; marks taken away are not."""
    return (source.raw ^ now) & ~source.marks != 0 or source.raw & source.marks & ~now != 0


class RecordingMemory:
    """Memory as the walkers of an audited unit see it: every read is noted. `marks` are the bits they set."""

    def __init__(self, memory: Memory, ledger: Ledger, marks: int = 0) -> None:
        self._memory, self._ledger, self._marks = memory, ledger, marks

    def read(self, address: int, length: int) -> bytes:
        """See Memory."""
        data = self._memory.read(address, length)
        self._ledger.read(Source(address, length, int.from_bytes(data, "little"), self._marks))
        return data

    def read_u64(self, address: int) -> int:
        """See Memory."""
        raw = self._memory.read_u64(address)
        self._ledger.read(Source(address, 8, raw, self._marks))
        return raw

    def write(self, address: int, data: bytes) -> None:
        """See Memory."""
        self._memory.write(address, data)
        self._ledger.written(Source(address, len(data), int.from_bytes(data, "little"), self._marks))


class Watched(NamedTuple):
    """How one cache is watched: its name, and from the arguments of `fill` an item's key, name and remedy."""

    name: str
    key: Callable[..., Hashable]
    tag: Callable[..., str]
    owed: Callable[..., str]


def watch(cache: Any, watched: Watched, ledger: Ledger) -> None:
    """Have a cache tell the ledger of everything it takes in and gives out.

    `cache.find(*arguments)` is to find what `cache.fill(*arguments, item)` has put in.
    """
    find, fill = cache.find, cache.fill

    def found(*arguments: Any) -> Any:
        item = find(*arguments)
        if item is not None:
            ledger.use(watched.name, watched.key(*arguments, item))
        return item

    def filled(*arguments: Any) -> None:
        fill(*arguments)
        *where, item = arguments
        ledger.fill(
            watched.name,
            watched.key(*arguments),
            watched.tag(*arguments),
            watched.owed(*arguments),
            ledger.take_reads(),
            lambda: find(*where) is item,
        )

    cache.find, cache.fill = found, filled


CONTEXTS = Watched(
    "context cache",
    lambda source_id, _: source_id,
    lambda source_id, _: f"source-id {SourceId.of(source_id)}",
    lambda source_id, context: (
        f"context-cache invalidation of {SourceId.of(source_id)}, "
        + (
            "with domain-id 0, then the IOTLB of its new domain"
            if isinstance(context, FaultyEntry)
            else f"then the IOTLB of domain {context.domain_id}"
        )
    ),
)
SCALABLE_CONTEXTS = CONTEXTS._replace(
    owed=lambda source_id, context: (
        f"context-cache invalidation of {SourceId.of(source_id)}, "
        + (
            "with domain-id 0, then the IOTLB of domain 0"
            if isinstance(context, FaultyEntry)
            else "then PASID cache and IOTLB"
        )
    )
)
PASIDS = Watched(
    "PASID cache",
    lambda key, _: key,
    lambda key, _: f"source-id {SourceId.of(key[0])}, PASID {key[1]:#x}",
    lambda key, process: (
        f"PASID-cache invalidation of PASID {key[1]:#x} in "
        + ("its new domain" if isinstance(process, FaultyEntry) else f"domain {process.domain_id}")
        + ", then its IOTLB"
    ),
)
TRANSLATIONS = Watched(
    "IOTLB",
    lambda domain_id, pasid, address, page: (domain_id, pasid, page.kind.size, address & -page.kind.size),
    lambda domain_id, pasid, address, page: _stage_tag(domain_id, pasid, address & -page.kind.size),
    lambda domain_id, pasid, address, page: _stage_owed(domain_id, pasid, address, page.kind.size.bit_length() - 1),
)
INTERRUPTS = Watched(
    "interrupt-entry cache",
    lambda index, _: index,
    lambda index, _: f"index {index}",
    lambda index, _: f"interrupt-entry-cache invalidation of index {index}",
)


def audited_caches(capacity: int, ledger: Ledger) -> Caches:
    """Caches that the ledger knows all about."""
    caches = Caches(capacity)
    caches.first_stage = _Structures(capacity, ledger, "first-stage structure cache")
    caches.second_stage = _Structures(capacity, ledger, "second-stage structure cache")
    watch(caches.contexts, CONTEXTS, ledger)
    watch(caches.scalable_contexts, SCALABLE_CONTEXTS, ledger)
    watch(caches.pasids, PASIDS, ledger)
    watch(caches.iotlb, TRANSLATIONS, ledger)
    watch(caches.interrupts, INTERRUPTS, ledger)
    return caches


class _Structures(StructureCache):
    """The upper entries of one stage. A walk that starts from one of them has its sources too."""

    def __init__(self, capacity: int, ledger: Ledger, name: str) -> None:
        super().__init__(capacity)
        self._ledger, self._name = ledger, name
        self._first_read = 0

    def find(self, domain_id: int, pasid: int | None, address: int, levels: int) -> tuple[int, Table] | None:
        """See StructureCache. A walk begins here: what was read before belongs to the other stage."""
        self._first_read = len(self._ledger.reads)
        known = super().find(domain_id, pasid, address, levels)
        if known is not None:
            key = domain_id, pasid, known[0], address >> 12 + 9 * known[0]
            self._ledger.use(self._name, key)
            self._ledger.reads.extend(self._ledger.sources(self._name, key))
        return known

    def fill(self, domain_id: int, pasid: int | None, address: int, level: int, table: Table) -> None:
        """See StructureCache. The last read is the entry below, which had to be readable for this to be cached."""
        super().fill(domain_id, pasid, address, level, table)
        shift = 12 + 9 * level
        tables = self._tags[domain_id, pasid]
        self._ledger.fill(
            self._name,
            (domain_id, pasid, level, address >> shift),
            f"{_stage_tag(domain_id, pasid, address >> shift << shift)}, level {level}",
            _stage_owed(domain_id, pasid, address, shift) + ", upper entries too (IH=0)",
            tuple(self._ledger.reads[self._first_read : -1]),
            lambda: tables[level].get(address >> shift) is table,
        )


def _stage_tag(domain_id: int, pasid: int | None, first: int) -> str:
    return f"domain {domain_id}" + ("" if pasid is None else f", PASID {pasid:#x}") + f", {first:#x}"


def _stage_owed(domain_id: int, pasid: int | None, address: int, shift: int) -> str:
    first = address >> shift << shift
    pages = f"{1 << shift - 12} pages from {first:#x} on" if shift > 12 else f"the page {first:#x}"
    if pasid is None:
        return f"IOTLB invalidation of {pages} in domain {domain_id}"
    return f"PASID-based IOTLB invalidation of {pages} in PASID {pasid:#x} of domain {domain_id}"
