"""The ledger of an audited unit in its saved state: for each cached item the entries that it came from.

What devices have cached is recorded in the ledger too. It is not part of the saved state, as devices are not; a copy
of a unit takes it along with the devices.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

from iommu.engine.audit import Describer, Ledger, ReadEntry, Record
from iommu.engine.caches.caches import Caches
from iommu.engine.entry_format import EntryFormat
from iommu.engine.formats import Formats
from iommu.engine.state_format import LEDGER, READS, REFERENCES, SOURCES, Reader, Section

# The watchers of caches whose items are cached for an address, which is the third argument: IOTLB and structures.
_FOR_AN_ADDRESS = (3, 5, 6)


def numbered(formats: Formats) -> list[EntryFormat]:
    """Every format of entries that a unit can read, each at its number in the column `format`."""
    choices = [(one, other) for one in (False, True) for other in (False, True)]
    found: list[EntryFormat] = [
        *(formats.root, formats.context, formats.scalable_root, formats.scalable_context),
        *(formats.directory, formats.pasid, formats.interrupt),
    ]
    for accessed_dirty, memory_types in choices:
        found += formats.second_stage(accessed_dirty=accessed_dirty, memory_types=memory_types)
    for extended in (False, True):
        found += formats.first_stage(extended=extended)
    return found


def items(caches: Caches) -> list[list[tuple[Any, ...]]]:
    """What each cache holds, as the arguments that it was filled with; in the order of the ledger's watchers."""
    keyed = (caches.contexts, caches.scalable_contexts, caches.pasids, caches.interrupts)
    *before, interrupts = [list(cache.items()) for cache in keyed]
    pages = [
        (domain_id, pasid, frame << shift, page)
        for n, shift in enumerate((12, 21, 30))
        for (domain_id, pasid), sized in caches.iotlb.tags()
        for frame, page in sized[n].items()
    ]
    tables = [
        [
            (domain_id, pasid, frame << 12 + 9 * level, level, table)
            for (domain_id, pasid), levels in cache.tags()
            for level in range(1, 5)
            for frame, table in levels[level].items()
        ]
        for cache in (caches.first_stage, caches.second_stage)
    ]
    return [*before, pages, interrupts, *tables]


def rows(ledger: Ledger, caches: Caches, formats: Formats) -> dict[Section, list[tuple[Any, ...]]]:
    """The records of the sections of an audited unit."""
    codes = {id(each): code for code, each in enumerate(numbered(formats))}
    watchers = {id(watcher): number for number, watcher in enumerate(ledger.watchers)}
    places = [
        {watcher.key(*arguments): n for n, arguments in enumerate(cached)}
        for watcher, cached in zip(ledger.watchers, items(caches), strict=True)
    ]
    sources: dict[tuple[int, int, int], int] = {}

    def number(source: ReadEntry) -> tuple[int]:
        return (sources.setdefault((source.address, codes[id(source.format)], source.raw), len(sources)),)

    records, references = [], []
    for (_, key), record in ledger.held().items():
        cache = watchers.get(id(record.describer))
        if cache is not None:
            address = record.arguments[2] if cache in _FOR_AN_ADDRESS else 0
            records.append((cache, places[cache][key], address, len(record.sources)))
            references += [number(source) for source in record.sources]
    reads = [number(source) for source in ledger.reads]
    return {LEDGER: records, REFERENCES: references, READS: reads, SOURCES: list(sources)}


def load(ledger: Ledger, caches: Caches, formats: Formats, reader: Reader) -> None:
    """Put back the records of what the caches hold. Raises StateError."""
    sources = _sources(reader, numbered(formats))

    def referred(section: Section) -> list[ReadEntry]:
        (numbers,) = reader.columns(section)
        for n, number in enumerate(numbers):
            if number >= len(sources):
                reader.refuse(section, n, "source", number, f"there are {len(sources)} sources")
        return [sources[number] for number in numbers]

    references, at = referred(REFERENCES), 0
    cached = items(caches)
    for n, (cache, item, address, count) in enumerate(zip(*reader.columns(LEDGER), strict=True)):
        if cache >= len(cached) or item >= len(cached[cache]):
            reader.refuse(LEDGER, n, "item", item, f"cache {cache} has no such item")
        watcher, arguments = ledger.watchers[cache], cached[cache][item]
        if cache in _FOR_AN_ADDRESS:
            domain_id, pasid, _, *rest = arguments
            if watcher.key(domain_id, pasid, address, *rest) != watcher.key(*arguments):
                reader.refuse(LEDGER, n, "address", address, "the item is for other addresses")
            arguments = (domain_id, pasid, address, *rest)
        if at + count > len(references):
            reader.refuse(LEDGER, n, "sources", count, f"there are {len(references) - at} more references")
        watcher.record(arguments, tuple(references[at : at + count]))
        at += count
        if ledger.count != n + 1:
            reader.refuse(LEDGER, n, "item", item, "recorded twice")
    if at != len(references):
        reader.refuse(REFERENCES, at, "source", 0, "belongs to no item")
    ledger.reads = referred(READS)


def _sources(reader: Reader, formats: list[EntryFormat]) -> list[ReadEntry]:
    found = []
    for n, (address, code, raw) in enumerate(zip(*reader.columns(SOURCES), strict=True)):
        if code >= len(formats):
            reader.refuse(SOURCES, n, "format", code, "not the format of an entry")
        if raw >> 8 * formats[code].size:
            reader.refuse(SOURCES, n, "raw", raw, f"a {formats[code].name} has {formats[code].size} bytes")
        found.append(ReadEntry(address, raw, formats[code]))
    return found


class DeviceRecord(NamedTuple):
    """What the ledger holds of an item in a device-TLB, without the formats of the unit.

    Attributes:
        position: among the records of all caches.
        sources: address, bits, and the number of the format.
    """

    position: int
    cache: str
    key: Hashable
    describer: Describer
    arguments: tuple[Any, ...]
    sources: tuple[tuple[int, int, int], ...]


def device_records(ledger: Ledger, formats: Formats) -> list[DeviceRecord]:
    """The records of what devices have cached."""
    codes = {id(each): code for code, each in enumerate(numbered(formats))}
    return [
        DeviceRecord(
            position,
            cache,
            key,
            record.describer,
            record.arguments,
            tuple((source.address, source.raw, codes[id(source.format)]) for source in record.sources),
        )
        for position, ((cache, key), record) in enumerate(ledger.held().items())
        if record.describer not in ledger.watchers
    ]


def load_device_records(ledger: Ledger, formats: Formats, records: list[DeviceRecord]) -> None:
    """Put them back, each in its place among the records of the unit's own caches."""
    known = numbered(formats)
    merged = list(ledger.held().items())
    for each in records:
        sources = tuple(ReadEntry(address, raw, known[code]) for address, raw, code in each.sources)
        merged.insert(each.position, ((each.cache, each.key), Record(each.describer, each.arguments, sources)))
    ledger.load(dict(merged))
