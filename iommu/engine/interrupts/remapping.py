"""Interrupt remapping (spec 5.1): request to index, index to entry, entry to interrupt."""

from __future__ import annotations

from collections.abc import Callable

from iommu.engine.caches.caches import Caches
from iommu.engine.capabilities import Capabilities
from iommu.engine.faults.events import Message
from iommu.engine.faults.log import FaultLog
from iommu.engine.formats import Formats
from iommu.engine.interrupts.posting import InterruptPosting
from iommu.engine.interrupts.request import Interrupt, InterruptOutcome, InterruptRequest, destination, unmodified
from iommu.engine.invalidation.selector import Selector
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import INTERRUPT, Access, AddressType, DmaRequest, Outcome, SourceId, blocked
from iommu.engine.table_access import TableAccess
from iommu.errors import MemoryAccessError
from iommu.registers import IRTA
from iommu.structures import (
    InterruptEntry,
    RemappableAddress,
    RemappableData,
    RemappedInterruptEntry,
    SourceValidation,
)

# InterruptEntry.SQ: the source-id bits that need not match.
_IGNORED_SOURCE_BITS = (0b000, 0b100, 0b110, 0b111)


class Interrupts:
    """Takes one interrupt request through the table, using and filling the interrupt-entry cache.

    `enabled` and `compatibility_passes` are GSTS.IRES and GSTS.CFIS; `table`, `size` and `extended` are what the last
    SIRTP latched: address, number of entries, and whether destinations have 32 bits.

    Args:
        access: how the unit reads the interrupt table.
        send: called with each notification of a posted interrupt.
    """

    def __init__(
        self,
        access: TableAccess,
        capabilities: Capabilities,
        policy: Policy,
        formats: Formats,
        faults: FaultLog,
        caches: Caches,
        send: Callable[[Message], None],
    ) -> None:
        self.access, self.capabilities, self.policy, self.formats = access, capabilities, policy, formats
        self.faults, self.caches = faults, caches
        self.posting = InterruptPosting(access.memory, formats, send)
        self.enabled = False
        self.compatibility_passes = False
        self.table = 0
        self.size = 2
        self.extended = False

    # What software commands (spec 5.1.5, 11.4.4)

    def set_table(self, irta: int) -> None:
        """SIRTP: latch the IRTA register. Cached entries stay, unless the unit drops them itself (CAP.ESIRTPS)."""
        latched = IRTA(irta)
        self.table = latched.IRTA
        self.size = 2 << latched.S
        self.extended = bool(latched.EIME) and self.capabilities.extended_interrupts
        if self.capabilities.invalidate_on_interrupt_pointer:
            self.caches.invalidate(Selector.interrupts())

    def switch(self, enabled: int, compatibility_passes: int) -> None:
        """IRE and CFI. Turning off drops the cached entries where setting the table does."""
        if self.enabled and not enabled and self.capabilities.invalidate_on_interrupt_pointer:
            self.caches.invalidate(Selector.interrupts())
        self.enabled = bool(enabled)
        self.compatibility_passes = bool(compatibility_passes)

    # What arrives in the interrupt address range (spec 3.14)

    def message(self, request: DmaRequest) -> Outcome:
        """A memory request without PASID in the range: an interrupt message, or an error that is never translated.

        0x29 is a fault of interrupt remapping, and of untranslated requests: while remapping is off, and for the
        requests of a device with a device-TLB, the error has no name.
        """
        if request.address_type is not AddressType.UNTRANSLATED:
            return blocked()
        if self.is_message(request):
            return INTERRUPT
        if not (self.enabled and self.policy.malformed_interrupt_faults):
            return blocked()
        # IR.29: a request in the interrupt range that is not an interrupt message.
        reason = FaultReason.IR_29
        return blocked(reason, recorded=self.faults.report_interrupt(reason, request.source_id, 0, 0))

    def is_message(self, request: DmaRequest) -> bool:
        """Whether it writes one DWORD."""
        return request.access is Access.WRITE and request.length == 4 and request.address % 4 == 0

    # Requests (spec 5.1.2)

    def remap(self, request: InterruptRequest) -> InterruptOutcome:
        """Where the interrupt goes, or why it does not; faults are recorded on the way."""
        if not self.enabled:
            return unmodified(request)
        # The fault record has index 0 until there is one.
        index = fpd = 0
        try:
            if not RemappableAddress.IF.get(request.address):
                self.check_compatibility_format()
                return unmodified(request)
            self.check_request(request)
            index = self.index(request)
            entry = self.entry(index)
            # FPD counts even in an entry that is not present.
            fpd = InterruptEntry.FPD.get(entry)
            self.check_entry(entry, request.source_id)
            if self.formats.is_posted(entry):
                return self.posting.post(entry, extended=self.extended)
            return self.deliver(entry)
        except Blocked as condition:
            recorded = self.faults.report_interrupt(condition.reason, request.source_id, index, fpd)
            return InterruptOutcome(fault=condition.reason, recorded=recorded)

    def check_compatibility_format(self) -> None:
        """Compatibility-format requests pass if CFI allows it, never in extended mode (5.1.2.1). Raises Blocked."""
        # IR.25: interrupts of compatibility format are blocked.
        if self.extended or not self.compatibility_passes:
            raise Blocked(FaultReason.IR_25)

    def check_request(self, request: InterruptRequest) -> None:
        """Reserved fields of a remappable request: the upper data, where the data are used (spec 5.1.2.2)."""
        used = RemappableAddress.SHV.get(request.address) or self.policy.unused_data_checked
        # IR.20: a reserved field is set in the request.
        if used and request.data & ~RemappableData.SUBHANDLE.mask:
            raise Blocked(FaultReason.IR_20)

    def index(self, request: InterruptRequest) -> int:
        """The interrupt_index (spec 5.1.3). The sum has 17 bits: it does not wrap, it is too large."""
        address = request.address
        handle = RemappableAddress.HANDLE_HIGH.get(address) << 15 | RemappableAddress.HANDLE_LOW.get(address)
        return handle + (RemappableData.SUBHANDLE.get(request.data) if RemappableAddress.SHV.get(address) else 0)

    # Entries (spec 5.1.3, 5.1.4)

    def entry(self, index: int) -> int:
        """The entry, from the cache or from memory. Raises Blocked."""
        # IR.21: the index is beyond the table.
        if index >= self.size:
            raise Blocked(FaultReason.IR_21)
        cached = self.caches.interrupts.find(index)
        if cached is not None:
            return cached
        entry = self.read_entry(self.table + self.formats.interrupt.size * index)
        if self.may_cache(entry):
            self.caches.interrupts.fill(index, entry)
        return entry

    def read_entry(self, where: int) -> int:
        """An entry in memory. Raises Blocked."""
        try:
            return self.access.read(self.formats.interrupt, where, int(self.capabilities.coherent))
        except MemoryAccessError:
            # IR.23: the entry could not be read.
            raise Blocked(FaultReason.IR_23) from None

    def may_cache(self, entry: int) -> bool:
        """Without caching mode, only what is present and free of errors is cached (spec 6.1)."""
        if self.capabilities.caching_mode and self.policy.cache_faulting:
            return True
        if not InterruptEntry.P.get(entry):
            return self.policy.absent_interrupts_cached
        return not self.reserved(entry) and self.formats.source_validation(entry) is not None

    def reserved(self, entry: int) -> int:
        """The bits of an entry that must be 0 and are not."""
        return entry & self.formats.reserved_in_interrupt(entry, extended=self.extended)

    def check_entry(self, entry: int, source_id: SourceId) -> None:
        """Present, nothing reserved, and for this requester, in this order. Raises Blocked."""
        # IR.22: the entry is not present.
        if not InterruptEntry.P.get(entry):
            raise Blocked(FaultReason.IR_22)
        if self.policy.source_validated_first:
            self.validate_source(entry, source_id)
        # IR.24: a reserved field is set in the entry.
        if self.reserved(entry):
            raise Blocked(FaultReason.IR_24)
        self.validate_source(entry, source_id)

    def validate_source(self, entry: int, source_id: SourceId) -> None:
        """SVT and SQ against the requester (spec 9.9). Raises Blocked."""
        validation = self.formats.source_validation(entry)
        if validation is SourceValidation.SOURCE_ID:
            valid = self.matches_source_id(entry, source_id)
        elif validation is SourceValidation.BUS:
            valid = self.is_bus_in_range(entry, source_id.bus)
        else:
            valid = validation is SourceValidation.NONE or not self.policy.reserved_validation_fails
        # IR.26: the entry is for another requester.
        if not valid:
            raise Blocked(FaultReason.IR_26)

    def matches_source_id(self, entry: int, source_id: SourceId) -> bool:
        """The requester is the one in SID, except for the function bits that SQ leaves out."""
        return (InterruptEntry.SID.get(entry) ^ source_id) & ~_IGNORED_SOURCE_BITS[InterruptEntry.SQ.get(entry)] == 0

    def is_bus_in_range(self, entry: int, bus: int) -> bool:
        """The requester's bus is one of SID 15:8 to SID 7:0."""
        first, last = InterruptEntry.SID.get(entry) >> 8, InterruptEntry.SID.get(entry) & 0xFF
        return first <= bus <= last

    # Remapping (spec 5.1.4)

    def deliver(self, raw: int) -> InterruptOutcome:
        """The interrupt that an entry in remapped form stands for; of the request, nothing remains."""
        entry = RemappedInterruptEntry(raw)
        interrupt = Interrupt(
            vector=entry.V,
            destination=destination(entry.DST, extended=self.extended),
            delivery_mode=entry.DLM,
            logical=bool(entry.DM),
            redirection_hint=bool(entry.RH),
            level=bool(entry.TM),
        )
        return InterruptOutcome(interrupt.message, interrupt)
