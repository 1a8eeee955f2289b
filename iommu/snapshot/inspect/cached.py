"""What a unit of the model has cached (spec 6.2). Of a QEMU or of hardware it is not known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from iommu.engine.caches.caches import Caches
from iommu.engine.caches.entries import FaultyEntry
from iommu.engine.request import SourceId


@dataclass(frozen=True)
class Cached:
    """How many entries each cache holds, and the first of them as plain data.

    A fault is the reason for which requests that use the entry are blocked (caching mode, spec 6.1).

    Attributes:
        contexts: source_id, domain_id (legacy mode only), fault.
        pasids: source_id, pasid, domain_id, fault.
        pages: domain_id, pasid, address, size, host, rights, fault: the IOTLB.
        tables: of the paging-structure caches only the number is given.
        interrupts: index, raw.
        counts: of all of them, by these names.
    """

    contexts: list[dict[str, Any]]
    pasids: list[dict[str, Any]]
    pages: list[dict[str, Any]]
    interrupts: list[dict[str, Any]]
    counts: dict[str, int]


def cached_in(caches: Caches, most: int | None = None) -> Cached:
    """What the caches hold: of each at most so many entries, all if None."""
    contexts = [*caches.contexts.items(), *caches.scalable_contexts.items()]
    pasids, interrupts = list(caches.pasids.items()), list(caches.interrupts.items())
    tagged = [sized for _, pages in caches.iotlb.tags() for sized in pages]
    structures = (caches.first_stage, caches.second_stage)
    return Cached(
        [
            {
                "source_id": str(SourceId.of(source_id)),
                "domain_id": getattr(entry, "domain_id", None),
                **_fault(entry),
            }
            for source_id, entry in contexts[:most]
        ],
        [
            {
                "source_id": str(SourceId.of(source_id)),
                "pasid": pasid,
                "domain_id": entry.domain_id,
                **_fault(entry),
            }
            for (source_id, pasid), entry in pasids[:most]
        ],
        list(islice(_pages(caches), most)),
        [{"index": index, "raw": hex(raw)} for index, raw in interrupts[:most]],
        {
            "contexts": len(contexts),
            "pasids": len(pasids),
            "pages": sum(map(len, tagged)),
            "tables": sum(len(level) for cache in structures for _, levels in cache.tags() for level in levels),
            "interrupts": len(interrupts),
        },
    )


def _fault(entry: object) -> dict[str, Any]:
    return {"fault": int(entry.reason) if isinstance(entry, FaultyEntry) else None}


def _pages(caches: Caches) -> Iterator[dict[str, Any]]:
    """The IOTLB, by domain-id and PASID."""
    for (domain_id, pasid), pages in caches.iotlb.tags():
        for sized in pages:
            for frame, page in sorted(sized.items()):
                kind = page.kind
                # Only a first stage, which is cached by PASID, has a right to execute.
                can = (("r", kind.readable), ("w", kind.writable), ("x", kind.executable and pasid is not None))
                yield {
                    "domain_id": domain_id,
                    "pasid": pasid,
                    "address": frame * kind.size,
                    "size": kind.size,
                    "host": page.host,
                    "rights": "".join(letter for letter, has in can if has),
                    "fault": None if kind.fault is None else int(kind.fault),
                }
