"""A device with a device-TLB (spec chapter 4): it requests translations from the unit, caches and uses them."""

from __future__ import annotations

from typing import NamedTuple

from iommu.engine.ats import Completion, DeviceInvalidation, PageRequest, PageResponse
from iommu.engine.invalidation.selector import CacheName, Selector
from iommu.engine.page_requests.page_requests import PageRequestOutcome
from iommu.engine.request import Access, AddressType, DmaRequest, Outcome, SourceId, blocked
from iommu.engine.unit import RemappingUnit
from iommu.errors import MemoryAccessError


class DeviceTranslation(NamedTuple):
    """A cached translation: `addresses` are mapped to host addresses from `host` on."""

    addresses: range
    host: int
    readable: bool
    writable: bool
    pasid: int | None
    privileged: bool

    def permits(self, access: Access) -> bool:
        """Whether the device may use it for this access."""
        return (self.readable or not access & Access.READ) and (self.writable or not access & Access.WRITE)


class Device:
    """A requester that is attached to a unit. It uses what it has cached until an invalidation drops it.

    On an audited unit its translations are audited, too.

        device = Device(unit, SourceId(0, 4, 0))
        device.write(0x5000, b"data")

    Attributes:
        uses_ats: it sends translated requests; otherwise all its requests are untranslated.
        tlb: the translations it has cached, oldest first.
        completion: how it completes invalidations; with TIMED_OUT it does not drop anything.
        responses: the responses to its page requests, oldest first.

    Raises:
        MisuseError: a device with this source-id is attached already.
    """

    def __init__(self, unit: RemappingUnit, source_id: SourceId, *, uses_ats: bool = True) -> None:
        self.unit, self.source_id, self.uses_ats = unit, source_id, uses_ats
        self.tlb: list[DeviceTranslation] = []
        self.completion = Completion.DONE
        self.responses: list[PageResponse] = []
        self._cache = f"{CacheName.DEVICE_TLB.value} of {source_id}"
        unit.attach(self)

    # Memory.

    def read(
        self, address: int, length: int = 8, *, pasid: int | None = None, privileged: bool = False
    ) -> bytes | None:
        """The bytes at an address, within one 4 KiB page; None if the request was blocked or memory is absent."""
        host = self.dma(address, Access.READ, length, pasid=pasid, privileged=privileged).host_address
        try:
            return None if host is None else self.unit.memory.read(host, length)
        except MemoryAccessError:
            return None

    def write(self, address: int, data: bytes, *, pasid: int | None = None, privileged: bool = False) -> bool:
        """Store bytes at an address, within one 4 KiB page. Returns whether they reached memory."""
        host = self.dma(address, Access.WRITE, len(data), pasid=pasid, privileged=privileged).host_address
        try:
            if host is not None:
                self.unit.memory.write(host, data)
        except MemoryAccessError:
            return False
        return host is not None

    def dma(
        self, address: int, access: Access, length: int = 1, *, pasid: int | None = None, privileged: bool = False
    ) -> Outcome:
        """One memory request: with ATS it is translated first, from the cache or by a translation request."""
        plain = DmaRequest(self.source_id, address, access, length, pasid, privileged)
        if not self.uses_ats:
            return self.unit.translate(plain)
        known = self.translate(address, access, pasid=pasid, privileged=privileged)
        if known is None:
            return blocked()
        host = known.host + address - known.addresses.start
        translated = DmaRequest(self.source_id, host, access, length, address_type=AddressType.TRANSLATED)
        outcome, ledger = self.unit.translate(translated), self.unit.ledger
        stale = None if ledger is None else ledger.check(self._cache, known)
        return outcome if stale is None else outcome.replace(stale=(stale, *outcome.stale))

    # Translations (spec 4.1).

    def translate(
        self, address: int, access: Access = Access.READ, *, pasid: int | None = None, privileged: bool = False
    ) -> DeviceTranslation | None:
        """A translation that permits the access, cached or requested now; None if the unit does not grant it."""
        for known in self.tlb:
            tag = known.pasid, known.privileged
            if address in known.addresses and tag == (pasid, privileged) and known.permits(access):
                return known
        return self.ask(address, access, pasid=pasid, privileged=privileged)

    def ask(
        self, address: int, access: Access, *, pasid: int | None = None, privileged: bool = False
    ) -> DeviceTranslation | None:
        """Send a translation request, and cache the answer if it grants the access."""
        kind = AddressType.TRANSLATION_REQUEST
        request = DmaRequest(self.source_id, address, access, 1, pasid, privileged, kind)
        answer = self.unit.translate(request)
        if answer.host_address is None:
            return None
        within = address & answer.page_size - 1
        pages = range(address - within, address - within + answer.page_size)
        host = answer.host_address - within
        found = DeviceTranslation(pages, host, answer.readable, answer.writable, pasid, privileged)
        if not found.permits(access):
            return None
        self.tlb.append(found)
        self._record(found)
        return found

    def _record(self, found: DeviceTranslation) -> None:
        """On an audited unit, record the sources of a translation: every entry that the answer depended on."""
        ledger = self.unit.ledger
        if ledger is not None:
            ledger.fill(self._cache, found, self, (found,), tuple(ledger.seen))

    # For the ledger of an audited unit (iommu.engine.audit.Describer).

    def tag(self, found: DeviceTranslation) -> str:
        """The tag of a cached translation, as text."""
        within = "" if found.pasid is None else f" in PASID {found.pasid:#x}"
        return f"{found.addresses.start:#x}{within}"

    def owed(self, found: DeviceTranslation) -> Selector:
        """The invalidation that drops it."""
        return Selector(
            cache=CacheName.DEVICE_TLB, source_id=self.source_id, addresses=found.addresses, pasid=found.pasid
        )

    def holds(self, found: DeviceTranslation) -> bool:
        """Whether it is still cached."""
        return any(known is found for known in self.tlb)

    def invalidate(self, command: DeviceInvalidation) -> Completion:
        """Drop what the unit names (spec 6.5.2.5, 6.5.2.6)."""
        if self.completion is not Completion.TIMED_OUT:
            self.tlb = [known for known in self.tlb if not self.covers(command, known)]
        return self.completion

    def covers(self, command: DeviceInvalidation, known: DeviceTranslation) -> bool:
        """Whether an invalidation names a cached translation: one that overlaps, with the right PASID."""
        right = known.pasid is not None if command.every_pasid else known.pasid == command.pasid
        ours, theirs = known.addresses, command.addresses
        return right and ours.start < theirs.stop and theirs.start < ours.stop

    # Page requests (spec 7.4).

    def request_page(
        self,
        address: int,
        *,
        pasid: int | None = None,
        read: bool = True,
        write: bool = False,
        execute: bool = False,
        privileged: bool = False,
        group: int = 0,
        last: bool = True,
    ) -> PageRequestOutcome:
        """Send a page request; its response will be in `responses`."""
        request = PageRequest(self.source_id, address, pasid, read, write, execute, privileged, group, last)
        return self.unit.page_request(request)

    def respond(self, response: PageResponse) -> None:
        """Receive the response to a group of page requests."""
        self.responses.append(response)
