"""Auditing: each cached item is recorded with the entries it was read from, to find stale ones (spec 6.2, 6.5).

    unit = RemappingUnit(memory, audit=True)
    unit.audit()                    every cached item that no longer matches memory
    unit.translate(request).stale   those that were used for this request

A unit that is not audited does not pay for this: only audited units use the caches and the table access below.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol

from iommu.engine.caches.caches import Caches, StructureCache
from iommu.engine.caches.entries import FaultyEntry
from iommu.engine.caches.tables import Table
from iommu.engine.entry_format import EntryFormat, PagingFormat
from iommu.engine.invalidation.selector import CacheName, Selector
from iommu.engine.reasons import FaultReason
from iommu.engine.request import SourceId
from iommu.engine.table_access import EntryChanged, TableAccess
from iommu.errors import MemoryAccessError
from iommu.memory import Memory


class ReadEntry(NamedTuple):
    """An entry as it was when it was read: its address, its bits and its format."""

    address: int
    raw: int
    format: EntryFormat

    def differs_from(self, now: int) -> bool:
        """Whether bits that hardware reads have changed. Accessed and dirty bits that became set do not count."""
        own = self.format.accessed_dirty if isinstance(self.format, PagingFormat) else 0
        read = self.format.read_mask(self.raw) | self.format.read_mask(now)
        changed = (self.raw ^ now) & read
        return changed & ~own != 0 or changed & own & self.raw != 0


class StaleItem(NamedTuple):
    """A cached item that no longer matches memory.

    Attributes:
        cache: which cache it is in.
        tag: the tag that it is cached under.
        changed: the entries that have changed, as they were, each with its bits now (None: unreadable).
        owed: the invalidation that software owes; `RemappingUnit.invalidate(owed)` carries it out.
    """

    cache: str
    tag: str
    changed: tuple[tuple[ReadEntry, int | None], ...]
    owed: Selector

    def __str__(self) -> str:
        entries = ", ".join(f"the entry at {source.address:#x}" for source, _ in self.changed)
        return f"{self.cache}, {self.tag}: stale since {entries} changed; owed: {self.owed}"


class Describer(Protocol):
    """Describes a cached item for the ledger, only when needed, by the arguments that the cache was filled with."""

    def tag(self, *arguments: Any) -> str:
        """The tag that the item is cached under, as text."""
        ...

    def owed(self, *arguments: Any) -> Selector:
        """The invalidation that drops it."""
        ...

    def holds(self, *arguments: Any) -> bool:
        """Whether it is still cached."""
        ...


class Watcher(Describer, Protocol):
    """Watches one cache of the unit: records what it caches, by the arguments that it was filled with."""

    def key(self, *arguments: Any) -> Hashable:
        """The key of an item in the ledger."""
        ...

    def record(self, arguments: tuple[Any, ...], sources: tuple[ReadEntry, ...]) -> None:
        """Record an item that was cached."""
        ...


class Record(NamedTuple):
    """What the ledger holds of one cached item."""

    describer: Describer
    arguments: tuple[Any, ...]
    sources: tuple[ReadEntry, ...]


class Ledger:
    """The entries that the current request has read, and the sources of every cached item.

    Attributes:
        reads: the entries read for the item that will be cached next.
        seen: all entries that the current request depends on: read now, or when the cached items it used were read.
        watchers: those of the unit's own caches, in the order in which `audited_caches` lists them.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.reads: list[ReadEntry] = []
        self.seen: list[ReadEntry] = []
        self.watchers: tuple[Watcher, ...] = ()
        self._records: dict[tuple[str, Hashable], Record] = {}
        self._used: list[StaleItem] = []

    def reset(self) -> None:
        """The unit was reset and has new caches; the records of device-TLBs are kept."""
        devices = CacheName.DEVICE_TLB.value
        self._records = {key: record for key, record in self._records.items() if key[0].startswith(devices)}

    def begin(self) -> None:
        """Start a new request."""
        self.reads, self.seen = [], []
        self._used = []

    def read(self, source: ReadEntry) -> None:
        """Record that an entry was read."""
        self.reads.append(source)
        self.seen.append(source)

    def written(self, source: ReadEntry) -> None:
        """Record that the unit has set bits of an entry: its source has these bits from now on."""
        for sources in (self.reads, self.seen):
            sources[:] = [source if read.address == source.address else read for read in sources]

    def abandon_walk(self) -> None:
        """The walk starts again: nothing depends on the paging entries that it has read so far."""
        for sources in (self.reads, self.seen):
            sources[:] = [source for source in sources if not isinstance(source.format, PagingFormat)]

    def take_reads(self) -> tuple[ReadEntry, ...]:
        """The entries read since the last call: the sources of one item."""
        reads, self.reads = tuple(self.reads), []
        return reads

    def fill(
        self,
        cache: str,
        key: Hashable,
        describer: Describer,
        arguments: tuple[Any, ...],
        sources: tuple[ReadEntry, ...],
    ) -> None:
        """Record that an item was cached; `arguments` identify it to the describer."""
        self._records[cache, key] = Record(describer, arguments, sources)

    @property
    def count(self) -> int:
        """The number of items that have a record."""
        return len(self._records)

    def sources(self, cache: str, key: Hashable) -> tuple[ReadEntry, ...]:
        """The sources of an item."""
        record = self._records.get((cache, key))
        return () if record is None else record.sources

    def use(self, cache: str, key: Hashable) -> None:
        """Record that a cached item was used."""
        record = self._records.get((cache, key))
        if record is not None:
            self.seen.extend(record.sources)
            if (stale := self._check(cache, record)) is not None and stale not in self._used:
                self._used.append(stale)

    def held(self) -> dict[tuple[str, Hashable], Record]:
        """The records of what is still cached, by the name of the cache and the key, oldest first."""
        return {key: record for key, record in self._records.items() if record.describer.holds(*record.arguments)}

    def load(self, records: dict[tuple[str, Hashable], Record]) -> None:
        """Put other records in place of all."""
        self._records = records

    def check(self, cache: str, key: Hashable) -> StaleItem | None:
        """One item as a StaleItem if it no longer matches memory, otherwise None."""
        record = self._records.get((cache, key))
        return None if record is None else self._check(cache, record)

    def take_used(self) -> tuple[StaleItem, ...]:
        """The stale items that the current request has used."""
        used, self._used = tuple(self._used), []
        return used

    def audit(self) -> list[StaleItem]:
        """Every cached item that no longer matches memory."""
        self._records = self.held()
        checked = (self._check(cache, record) for (cache, _), record in self._records.items())
        return [stale for stale in checked if stale is not None]

    def _check(self, cache: str, record: Record) -> StaleItem | None:
        changed = []
        for source in record.sources:
            now = self._now(source)
            if now != source.raw and (now is None or source.differs_from(now)):
                changed.append((source, now))
        if not changed:
            return None
        describer, arguments = record.describer, record.arguments
        return StaleItem(cache, describer.tag(*arguments), tuple(changed), describer.owed(*arguments))

    def _now(self, source: ReadEntry) -> int | None:
        try:
            return int.from_bytes(self.memory.read(source.address, source.format.size), "little")
        except MemoryAccessError:
            return None


class RecordingAccess(TableAccess):
    """Table access of an audited unit: records every read and update."""

    def __init__(self, memory: Memory, snooped: Memory, unsnooped: Memory, ledger: Ledger) -> None:
        super().__init__(memory, snooped, unsnooped)
        self._ledger = ledger

    def begin(self) -> None:
        """See TableAccess."""
        self._ledger.begin()

    def read(self, entry_format: EntryFormat, where: int, snooped: int) -> int:
        """See TableAccess."""
        raw = super().read(entry_format, where, snooped)
        self._ledger.read(ReadEntry(where, raw, entry_format))
        return raw

    def update(self, entry_format: PagingFormat, where: int, entry: int, bits: int, failed: FaultReason) -> None:
        """See TableAccess."""
        try:
            super().update(entry_format, where, entry, bits, failed)
        except EntryChanged:
            self._ledger.abandon_walk()
            raise
        self._ledger.written(ReadEntry(where, entry | bits, entry_format))


class Watched(NamedTuple):
    """How one cache is watched: its name, and functions of the arguments of `fill`: key, tag, owed invalidation."""

    name: str
    key: Callable[..., Hashable]
    tag: Callable[..., str]
    owed: Callable[..., Selector]


class _Watch:
    """Reports to the ledger everything that a cache caches and finds.

    `cache.find(*arguments)` must find what `cache.fill(*arguments, item)` has cached.
    """

    def __init__(self, cache: Any, watched: Watched, ledger: Ledger) -> None:
        self.tag, self.owed = watched.tag, watched.owed
        self._watched, self._ledger = watched, ledger
        self._find, self._fill = cache.find, cache.fill
        cache.find, cache.fill = self.find, self.fill

    def find(self, *arguments: Any) -> Any:
        """See the cache."""
        item = self._find(*arguments)
        if item is not None:
            self._ledger.use(self._watched.name, self.key(*arguments, item))
        return item

    def fill(self, *arguments: Any) -> None:
        """See the cache."""
        self._fill(*arguments)
        self.record(arguments, self._ledger.take_reads())

    def record(self, arguments: tuple[Any, ...], sources: tuple[ReadEntry, ...]) -> None:
        """See Watcher."""
        self._ledger.fill(self._watched.name, self.key(*arguments), self, arguments, sources)

    def key(self, *arguments: Any) -> Hashable:
        """See Watcher."""
        return self._watched.key(*arguments)

    def holds(self, *arguments: Any) -> bool:
        """See Describer."""
        *where, item = arguments
        return self._find(*where) is item


def _context_owed(source_id: int, context: Any) -> Selector:
    """Faulty entries are cached in domain 0 (doubt D-20); their real domain is not known yet."""
    if isinstance(context, FaultyEntry):
        return Selector(cache=CacheName.CONTEXTS, domain_id=0, source_id=source_id, then=Selector.translations())
    then = Selector.translations(context.domain_id)
    return Selector(cache=CacheName.CONTEXTS, source_id=source_id, then=then)


def _scalable_context_owed(source_id: int, context: Any) -> Selector:
    if isinstance(context, FaultyEntry):
        return Selector(cache=CacheName.CONTEXTS, domain_id=0, source_id=source_id, then=Selector.translations(0))
    then = Selector(cache=CacheName.PASIDS, then=Selector.translations())
    return Selector(cache=CacheName.CONTEXTS, source_id=source_id, then=then)


def _pasid_owed(key: tuple[int, int], context: Any) -> Selector:
    """The domain of a faulty entry is not known yet: all domains are named."""
    domain_id = None if isinstance(context, FaultyEntry) else context.domain_id
    then = Selector.translations(domain_id, key[1])
    if not isinstance(context, FaultyEntry) and context.first is None:
        then = Selector.translations(domain_id)
    return Selector(cache=CacheName.PASIDS, domain_id=domain_id, pasid=key[1], then=then)


CONTEXTS = Watched(
    CacheName.CONTEXTS.value,
    lambda source_id, _: source_id,
    lambda source_id, _: f"source-id {SourceId.of(source_id)}",
    _context_owed,
)
# One source-id can have both: a unit may keep what it has cached when another table mode is latched.
SCALABLE_CONTEXTS = CONTEXTS._replace(key=lambda source_id, _: ("scalable", source_id), owed=_scalable_context_owed)
PASIDS = Watched(
    CacheName.PASIDS.value,
    lambda key, _: key,
    lambda key, _: f"source-id {SourceId.of(key[0])}, PASID {key[1]:#x}",
    _pasid_owed,
)
TRANSLATIONS = Watched(
    CacheName.TRANSLATIONS.value,
    lambda domain_id, pasid, address, page: (domain_id, pasid, page.kind.size, address & -page.kind.size),
    lambda domain_id, pasid, address, page: _stage_tag(domain_id, pasid, address & -page.kind.size),
    lambda domain_id, pasid, address, page: Selector.translations(
        domain_id, pasid, addresses=_around(address, page.kind.size), leaf_only=True
    ),
)
INTERRUPTS = Watched(
    CacheName.INTERRUPTS.value,
    lambda index, _: index,
    lambda index, _: f"index {index}",
    lambda index, _: Selector.interrupts(index),
)


def audited_caches(capacity: int, ledger: Ledger) -> Caches:
    """Caches that report to the ledger."""
    first = _Structures(capacity, ledger, "first-stage structure cache")
    second = _Structures(capacity, ledger, "second-stage structure cache")
    caches = Caches(capacity, first, second)
    ledger.watchers = (
        _Watch(caches.contexts, CONTEXTS, ledger),
        _Watch(caches.scalable_contexts, SCALABLE_CONTEXTS, ledger),
        _Watch(caches.pasids, PASIDS, ledger),
        _Watch(caches.iotlb, TRANSLATIONS, ledger),
        _Watch(caches.interrupts, INTERRUPTS, ledger),
        first,
        second,
    )
    return caches


class _Structures(StructureCache):
    """The paging-structure cache of one stage. A walk that starts from a cached table depends on its sources too."""

    def __init__(self, capacity: int, ledger: Ledger, name: str) -> None:
        super().__init__(capacity)
        self._ledger, self._name = ledger, name
        self._first_read = 0

    def find(self, domain_id: int, pasid: int | None, address: int, levels: int) -> tuple[int, Table] | None:
        """See StructureCache. A walk starts here: entries read before belong to the other stage."""
        self._first_read = len(self._ledger.reads)
        known = super().find(domain_id, pasid, address, levels)
        if known is not None:
            key = self.key(domain_id, pasid, address, *known)
            self._ledger.use(self._name, key)
            self._ledger.reads.extend(self._ledger.sources(self._name, key))
        return known

    def fill(self, domain_id: int, pasid: int | None, address: int, level: int, table: Table) -> None:
        """See StructureCache. The last read is an entry in the table itself: not a source of it."""
        super().fill(domain_id, pasid, address, level, table)
        sources = tuple(self._ledger.reads[self._first_read : -1])
        self.record((domain_id, pasid, address, level, table), sources)

    def record(self, arguments: tuple[Any, ...], sources: tuple[ReadEntry, ...]) -> None:
        """See Watcher."""
        self._ledger.fill(self._name, self.key(*arguments), self, arguments, sources)

    def key(self, domain_id: int, pasid: int | None, address: int, level: int, _table: Table) -> Hashable:
        """See Watcher."""
        return domain_id, pasid, level, address >> 12 + 9 * level

    def tag(self, domain_id: int, pasid: int | None, address: int, level: int, _table: Table) -> str:
        """See Describer."""
        return f"{_stage_tag(domain_id, pasid, address & -(4096 << 9 * level))}, level {level}"

    def owed(self, domain_id: int, pasid: int | None, address: int, level: int, _table: Table) -> Selector:
        """See Describer."""
        return Selector.translations(domain_id, pasid, addresses=_around(address, 4096 << 9 * level))

    def holds(self, domain_id: int, pasid: int | None, address: int, level: int, table: Table) -> bool:
        """See Describer."""
        return self._tags[domain_id, pasid][level].get(address >> 12 + 9 * level) is table


def _around(address: int, size: int) -> range:
    return range(address & -size, (address & -size) + size)


def _stage_tag(domain_id: int, pasid: int | None, first: int) -> str:
    return f"domain {domain_id}" + ("" if pasid is None else f", PASID {pasid:#x}") + f", {first:#x}"
