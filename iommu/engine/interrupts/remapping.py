"""Interrupt remapping (spec 5.1): from a request to an index, an entry, and an interrupt."""

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
from iommu.engine.request import INTERRUPT, Access, DmaRequest, Outcome, SourceId, blocked, identity
from iommu.engine.table_access import TableAccess
from iommu.errors import MemoryAccessError
from iommu.registers import GCMD, GSTS, IRTA
from iommu.structures import (
    InterruptEntry,
    RemappableAddress,
    RemappableData,
    RemappedInterruptEntry,
    SourceValidation,
)

# By SQ of an entry: the source-id bits that are ignored in the comparison.
_IGNORED_SOURCE_BITS = (0b000, 0b100, 0b110, 0b111)


class Interrupts:
    """Remaps interrupt requests by the table, through the interrupt-entry cache.

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

    # Commands of software (spec 6.7, 11.4.4)

    def command(self, command: GCMD, status: int, irta: int) -> int:
        """Carry out SIRTP, IRE and CFI of GCMD, if the unit has them. Returns their bits of GSTS.

        Args:
            status: GSTS as it was.
            irta: the IRTA register.
        """
        if not self.capabilities.interrupt_remapping:
            return 0
        if command.SIRTP:
            self.set_table(irta)
        self.switch(command.IRE, command.CFI)
        return GSTS.make(IRTPS=GSTS.IRTPS.get(status) | command.SIRTP, IRES=command.IRE, CFIS=command.CFI)

    def set_table(self, irta: int) -> None:
        """SIRTP: latch the IRTA register. Cached entries are kept, unless the unit has CAP.ESIRTPS."""
        latched = IRTA(irta)
        self.table = latched.IRTA
        self.size = 2 << latched.S
        self.extended = bool(latched.EIME) and self.capabilities.extended_interrupts
        if self.capabilities.invalidate_on_interrupt_pointer:
            self.caches.invalidate(Selector.interrupts())

    def switch(self, enabled: int, compatibility_passes: int) -> None:
        """Apply IRE and CFI. With CAP.ESIRTPS, turning remapping off drops the cached entries."""
        turned_off = self.enabled and not enabled
        self.enabled = bool(enabled)
        self.compatibility_passes = bool(compatibility_passes)
        if turned_off and self.capabilities.invalidate_on_interrupt_pointer:
            self.caches.invalidate(Selector.interrupts())

    # Memory requests in the interrupt address range (spec 3.14)

    def message(self, request: DmaRequest) -> Outcome:
        """An untranslated request without PASID in the range: an interrupt message, or else blocked.

        It is never translated. A zero-length read passes. The fault 0x29 applies while interrupt remapping is on;
        otherwise requests are blocked without a fault.
        """
        if self.is_message(request):
            return INTERRUPT
        if request.length == 0:
            return identity(request.address)
        reason = self.refusal()
        if reason is None:
            return blocked()
        return blocked(reason, recorded=self.faults.report_interrupt(reason, request.source_id, 0, 0))

    def refusal(self) -> FaultReason | None:
        """The fault of a request that is not an interrupt message; None if it is blocked without one."""
        # IR.29: a request in the interrupt range that is not an interrupt message.
        return FaultReason.IR_29 if self.enabled and self.policy.malformed_interrupt_faults else None

    def is_message(self, request: DmaRequest) -> bool:
        """Whether it writes one aligned DWORD."""
        return request.access is Access.WRITE and request.length == 4 and request.address % 4 == 0

    # Requests (spec 5.1.2)

    def remap(self, request: InterruptRequest) -> InterruptOutcome:
        """Remap an interrupt request; faults are recorded."""
        if not self.enabled:
            return unmodified(request)
        # The fault record has index 0 until the index is known.
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
        """Check the reserved bits of a remappable request: the upper data if SHV is set (5.1.2.2). Raises Blocked."""
        # IR.20: a reserved field is set in the request.
        if RemappableAddress.SHV.get(request.address) and request.data & ~RemappableData.SUBHANDLE.mask:
            raise Blocked(FaultReason.IR_20)

    def index(self, request: InterruptRequest) -> int:
        """The interrupt_index (spec 5.1.3). The sum may have 17 bits: it does not wrap, and is beyond every table."""
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
        """Whether an entry may be cached: without caching mode, only if it is present and valid (spec 6.1)."""
        if not self.policy.cache_interrupts:
            return False
        if self.capabilities.caching_mode and self.policy.cache_faulting:
            return True
        valid = not self.reserved(entry) and self.formats.source_validation(entry) is not None
        return bool(InterruptEntry.P.get(entry)) and valid

    def reserved(self, entry: int) -> int:
        """The reserved bits that are set in an entry."""
        return entry & self.formats.reserved_in_interrupt(entry, extended=self.extended)

    def check_entry(self, entry: int, source_id: SourceId) -> None:
        """Check an entry: present, source valid, no reserved bit set, in this order (spec 5.1.4). Raises Blocked."""
        # IR.22: the entry is not present.
        if not InterruptEntry.P.get(entry):
            raise Blocked(FaultReason.IR_22)
        self.validate_source(entry, source_id)
        # IR.24: a reserved field is set in the entry.
        if self.reserved(entry):
            raise Blocked(FaultReason.IR_24)

    def validate_source(self, entry: int, source_id: SourceId) -> None:
        """Check the source-id against SVT, SQ and SID (spec 9.9). Raises Blocked."""
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
        """Whether the source-id is SID, ignoring the function bits that SQ names."""
        return (InterruptEntry.SID.get(entry) ^ source_id) & ~_IGNORED_SOURCE_BITS[InterruptEntry.SQ.get(entry)] == 0

    def is_bus_in_range(self, entry: int, bus: int) -> bool:
        """Whether a bus is in the range from SID 15:8 to SID 7:0."""
        first, last = InterruptEntry.SID.get(entry) >> 8, InterruptEntry.SID.get(entry) & 0xFF
        return first <= bus <= last

    # Remapping (spec 5.1.4)

    def deliver(self, raw: int) -> InterruptOutcome:
        """The interrupt that an entry in remapped form describes. Nothing of the request is used."""
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
