"""A device with a device-TLB (spec chapter 4): it requests translations from the unit, caches and uses them."""

from __future__ import annotations

from typing import NamedTuple

from iommu.engine.ats import Completion, DeviceInvalidation, PageRequest, PageResponse
from iommu.engine.interrupts.request import InterruptOutcome, InterruptRequest
from iommu.engine.invalidation.selector import CacheName, Selector
from iommu.engine.page_requests.page_requests import PageRequestOutcome
from iommu.engine.request import (
    PAGE_4K,
    Access,
    AddressType,
    DmaRequest,
    Outcome,
    SourceId,
    blocked,
    in_interrupt_range,
)
from iommu.engine.unit import RemappingUnit
from iommu.errors import MemoryAccessError, MisuseError


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
        """The bytes at an address, read with one request for each 4 KiB page.

        Returns None if a request was blocked or memory is absent; the other requests are sent nevertheless. Raises
        MisuseError for bytes beyond 64-bit addresses.
        """
        found = []
        for piece, size in _pieces(address, length):
            host = self.dma(piece, Access.READ, size, pasid=pasid, privileged=privileged).host_address
            try:
                found.append(None if host is None else self.unit.memory.read(host, size))
            except MemoryAccessError:
                found.append(None)
        read = [data for data in found if data is not None]
        return b"".join(read) if len(read) == len(found) else None

    def write(self, address: int, data: bytes, *, pasid: int | None = None, privileged: bool = False) -> bool:
        """Store bytes at an address, with one request for each 4 KiB page.

        Returns whether all reached memory. As writes are posted, a blocked one stops no other: those before it and
        after it are done. Raises MisuseError for bytes beyond 64-bit addresses, before anything is sent.
        """
        done = True
        for piece, size in _pieces(address, len(data)):
            host = self.dma(piece, Access.WRITE, size, pasid=pasid, privileged=privileged).host_address
            try:
                if host is not None:
                    self.unit.memory.write(host, data[piece - address : piece - address + size])
            except MemoryAccessError:
                host = None
            done = done and host is not None
        return done

    def msi(self, address: int, data: int) -> InterruptOutcome | None:
        """Send an interrupt message: a write of one doubleword, without PASID and untranslated (spec 3.14, 5.1).

        Returns None if the address is not in the interrupt range: the write is DMA then, and not an interrupt.

        Args:
            address: a multiple of 4.
            data: 32 bits.

        Raises MisuseError for other numbers.
        """
        if address % 4 or not 0 <= data < 1 << 32:
            raise MisuseError(f"no device sends the message {data:#x} to {address:#x}: 32 bits to a multiple of 4")
        if not in_interrupt_range(address):
            self.write(address, data.to_bytes(4, "little"))
            return None
        outcome = self.unit.translate(DmaRequest(self.source_id, address, Access.WRITE, length=4))
        if outcome.interrupt:
            return self.unit.remap_interrupt(InterruptRequest(self.source_id, address, data))
        return InterruptOutcome(fault=outcome.fault, recorded=outcome.recorded)

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


def _pieces(address: int, length: int) -> list[tuple[int, int]]:
    """The requests that a device makes of an access, as addresses and lengths: none crosses a 4 KiB boundary."""
    if not 0 <= address <= address + length <= 1 << 64:
        raise MisuseError(f"{length} bytes at {address:#x} are not at 64-bit addresses")
    starts = [address, *range((address | PAGE_4K - 1) + 1, address + length, PAGE_4K)]
    ends = [*starts[1:], address + length]
    return [(start, end - start) for start, end in zip(starts, ends, strict=True)]
