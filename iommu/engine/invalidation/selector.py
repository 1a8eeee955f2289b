"""An invalidation as a value: what to invalidate, independent of the register or descriptor used (spec 6.5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from iommu.engine.request import PAGE_4K, SourceId


class CacheName(Enum):
    """The caches that can be invalidated (spec 6.2)."""

    CONTEXTS = "context cache"
    PASIDS = "PASID cache"
    TRANSLATIONS = "IOTLB"
    """Including the paging-structure caches."""
    INTERRUPTS = "interrupt-entry cache"
    DEVICE_TLB = "device-TLB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """The cached items that an invalidation names. A unit may drop more than these, never fewer.

    `str()` describes it in words; `RemappingUnit.invalidate` carries it out.

    Attributes:
        cache: the cache to invalidate.
        domain_id: items of this domain only; None for all.
        pasid: items of this PASID only. For translations this is a PASID-based invalidation: without addresses, it
            also drops what a second stage alone translated in the domain, for which no PASID is kept.
        every_pasid: for a device-TLB: items of every PASID.
        source_id: items of this requester only; None for all.
        ignored: source-id bits that are ignored in the comparison.
        addresses: translations that overlap this range of bytes. With a domain but no PASID, all translations of the
            domain that a first stage took part in are dropped too: their addresses are not those of the second
            stage. Without a domain, only the addresses count.
        leaf_only: the hint IH: cached upper entries may stay.
        indices: the interrupt-remapping entries of this range.
        then: an invalidation that must follow.
    """

    cache: CacheName
    domain_id: int | None = None
    pasid: int | None = None
    every_pasid: bool = False
    source_id: int | None = None
    ignored: int = 0
    addresses: range | None = None
    leaf_only: bool = False
    indices: range | None = None
    then: Selector | None = None

    @classmethod
    def contexts(cls, domain_id: int | None = None, *, source_id: int | None = None, ignored: int = 0) -> Selector:
        """The context cache: all of it, a domain, or the devices that match a source-id."""
        return cls(cache=CacheName.CONTEXTS, domain_id=domain_id, source_id=source_id, ignored=ignored)

    @classmethod
    def pasids(cls, domain_id: int | None = None, pasid: int | None = None) -> Selector:
        """The PASID cache: all of it, a domain, or a PASID in it."""
        return cls(cache=CacheName.PASIDS, domain_id=domain_id, pasid=pasid)

    @classmethod
    def translations(
        cls,
        domain_id: int | None = None,
        pasid: int | None = None,
        *,
        addresses: range | None = None,
        leaf_only: bool = False,
    ) -> Selector:
        """The IOTLB and the paging-structure caches: all, a domain, a PASID in it, or some pages of either."""
        return cls(
            cache=CacheName.TRANSLATIONS, domain_id=domain_id, pasid=pasid, addresses=addresses, leaf_only=leaf_only
        )

    @classmethod
    def interrupts(cls, index: int | None = None, mask: int = 0) -> Selector:
        """The interrupt-entry cache: all of it, or the 2**mask entries around an index."""
        if index is None:
            return cls(cache=CacheName.INTERRUPTS)
        first = index >> mask << mask
        return cls(cache=CacheName.INTERRUPTS, indices=range(first, first + (1 << mask)))

    @classmethod
    def device_tlb(
        cls, source_id: int, addresses: range, pasid: int | None = None, every_pasid: bool = False
    ) -> Selector:
        """A device-TLB: some pages, as a DeviceInvalidation names them."""
        cache = CacheName.DEVICE_TLB
        return cls(cache=cache, source_id=source_id, addresses=addresses, pasid=pasid, every_pasid=every_pasid)

    def matches(self, source_id: int) -> bool:
        """Whether the selector names a source-id."""
        return self.source_id is None or (source_id ^ self.source_id) & ~self.ignored == 0

    def __str__(self) -> str:
        words = {
            CacheName.CONTEXTS: self._contexts,
            CacheName.PASIDS: self._pasids,
            CacheName.TRANSLATIONS: self._translations,
            CacheName.INTERRUPTS: self._interrupts,
            CacheName.DEVICE_TLB: self._device_tlb,
        }[self.cache]()
        return words if self.then is None else f"{words}, then {self.then.in_short()}"

    def in_short(self) -> str:
        """A shorter form of `str()`, for the later items of a list of invalidations."""
        if self.cache is CacheName.TRANSLATIONS and self.addresses is None:
            whole = "all of the IOTLB" if self.domain_id is None else f"the IOTLB of domain {self.domain_id}"
            words = whole if self.pasid is None else f"the IOTLB of PASID {self.pasid:#x} in domain {self.domain_id}"
            return words if self.then is None else f"{words}, then {self.then.in_short()}"
        return str(self)

    def _contexts(self) -> str:
        if self.source_id is None:
            return "context-cache invalidation of " + _everything_or_domain(self.domain_id)
        tag = "" if self.domain_id is None else f" with domain-id {self.domain_id}"
        return f"context-cache invalidation of {SourceId.of(self.source_id)}{tag}"

    def _pasids(self) -> str:
        if self.pasid is None:
            return "PASID-cache invalidation of " + _everything_or_domain(self.domain_id)
        domain = "its new domain" if self.domain_id is None else f"domain {self.domain_id}"
        return f"PASID-cache invalidation of PASID {self.pasid:#x} in {domain}"

    def _translations(self) -> str:
        domain = "" if self.domain_id is None else f" in domain {self.domain_id}"
        if self.addresses is None:
            if self.pasid is None:
                return "IOTLB invalidation of " + _everything_or_domain(self.domain_id)
            return f"PASID-based IOTLB invalidation of PASID {self.pasid:#x}{domain}"
        upper = "" if self.leaf_only else ", upper entries too (IH=0)"
        if self.pasid is None:
            return f"IOTLB invalidation of {pages(self.addresses)}{domain}{upper}"
        where = f"PASID {self.pasid:#x} of domain {self.domain_id}"
        return f"PASID-based IOTLB invalidation of {pages(self.addresses)} in {where}{upper}"

    def _interrupts(self) -> str:
        if self.indices is None:
            return "interrupt-entry-cache invalidation of everything"
        if len(self.indices) == 1:
            return f"interrupt-entry-cache invalidation of index {self.indices.start}"
        return f"interrupt-entry-cache invalidation of index {self.indices.start} to {self.indices.stop - 1}"

    def _device_tlb(self) -> str:
        addresses = self.addresses or range(0)
        is_page = addresses.stop - addresses.start <= PAGE_4K
        where = f"{addresses.start:#x}" if is_page else pages(addresses)
        within = " in every PASID" if self.every_pasid else "" if self.pasid is None else f" in PASID {self.pasid:#x}"
        return f"device-TLB invalidation of {where}{within}, after that of the IOTLB"


def _everything_or_domain(domain_id: int | None) -> str:
    return "everything" if domain_id is None else f"domain {domain_id}"


def pages(addresses: range) -> str:
    """A range of pages in words."""
    size = addresses.stop - addresses.start  # `len` cannot tell 2**63 and more
    if size <= PAGE_4K:
        return f"the page {addresses.start:#x}"
    return f"{size // PAGE_4K} pages from {addresses.start:#x} on"


def pages_around(address: int, mask: int) -> range:
    """The bytes of the 2**mask pages of 4 KiB around an address (spec 6.5.1.2): address bits below are ignored."""
    size = PAGE_4K << mask
    return range(address & -size, (address & -size) + size)
