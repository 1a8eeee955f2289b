"""Context and PASID entries as they are cached: checked and decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from iommu.engine.attributes import Attributes
from iommu.engine.caches.tables import FirstStageRoot, SecondStageRoot
from iommu.engine.reasons import Blocked, FaultReason
from iommu.structures import TranslationType

Key_contra = TypeVar("Key_contra", contravariant=True)
Item = TypeVar("Item")


@dataclass(slots=True)
class FaultyEntry:
    """An entry that is not present or erroneous; cached only in caching mode (spec 6.1).

    Until it is invalidated, requests that use it are blocked with the same reason and FPD. In caching mode, domain-id
    0 is reserved for entries like this (doubt D-20).
    """

    reason: FaultReason
    fpd: int
    domain_id: int = 0


@dataclass(slots=True)
class CachedContext:
    """A legacy-mode context entry (spec 9.3)."""

    domain_id: int
    translation_type: TranslationType
    tables: SecondStageRoot
    fpd: int


@dataclass(slots=True)
class ScalableContext:
    """A scalable-mode context entry (spec 9.4). `pasids` is the number of PASIDs that its directory covers."""

    directory: int
    pasids: int
    pasid_enabled: int
    device_tlb_enabled: int
    page_requests_enabled: int
    rid_pasid: int
    rid_priv: int
    fpd: int


@dataclass(slots=True)
class PasidContext:
    """A PASID-table entry (spec 9.6); `raw` is the entry itself.

    `first` and `second` are the stages that it selects; `attributes` apply to pass-through.
    """

    domain_id: int
    first: FirstStageRoot | None
    second: SecondStageRoot | None
    execute_enabled: int
    supervisor_enabled: int
    attributes: Attributes
    raw: int
    fpd: int


class Cache(Protocol[Key_contra, Item]):
    """What `read_through` needs of a cache."""

    def find(self, key: Key_contra, /) -> Item | FaultyEntry | None: ...

    def fill(self, key: Key_contra, item: Item | FaultyEntry, /) -> None: ...


def read_through(
    cache: Cache[Key_contra, Item], key: Key_contra, read: Callable[[], Item], *, cache_faulty: bool
) -> Item:
    """An entry from a cache; if it is not cached, it is read from memory by `read`, and cached.

    Args:
        cache_faulty: in caching mode, an entry that is not present or erroneous is cached as a FaultyEntry.

    Raises Blocked as `read` does, or as it did when the FaultyEntry was cached.
    """
    known = cache.find(key)
    # Any fault that caching mode caches: it was cached in place of the entry (6.1).
    if isinstance(known, FaultyEntry):
        raise Blocked(known.reason, known.fpd)
    if known is not None:
        return known
    try:
        item = read()
    except Blocked as condition:
        if cache_faulty and condition.reason.cached:
            cache.fill(key, FaultyEntry(condition.reason, condition.fpd))
        raise
    cache.fill(key, item)
    return item
