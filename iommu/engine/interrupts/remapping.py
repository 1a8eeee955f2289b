"""Interrupt remapping and posting (spec chapter 5): request to index, index to entry, entry to interrupt."""

from __future__ import annotations

from collections.abc import Callable

from iommu.engine.caches.caches import Caches
from iommu.engine.capabilities import Capabilities
from iommu.engine.faults.events import Message
from iommu.engine.faults.log import FaultLog
from iommu.engine.interrupts.request import Interrupt, InterruptOutcome, InterruptRequest, Posting, unmodified
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import INTERRUPT, Access, AddressType, DmaRequest, Outcome, SourceId, blocked
from iommu.errors import MemoryAccessError
from iommu.memory import Memory
from iommu.registers import IRTA
from iommu.structures import (
    DeliveryMode,
    InterruptEntry,
    PostedInterruptDescriptor,
    PostedInterruptEntry,
    RemappableAddress,
    RemappableData,
    RemappedInterruptEntry,
    SourceValidation,
)

_ENTRY_SIZE = 16
_DESCRIPTOR_SIZE = 64

_RESERVED_VALIDATION = 3
_DELIVERY_MODES = frozenset(DeliveryMode)
# InterruptEntry.SQ: the source-id bits that need not match.
_UNCOMPARED = (0b000, 0b100, 0b110, 0b111)
# Where a destination field holds an 8-bit APIC id; its other bits are reserved then.
_APIC_ID_SHIFT = 8
_APIC_ID_RESERVED = 0xFFFF_00FF


class Interrupts:
    """Takes one interrupt request through the table, using and filling the interrupt-entry cache.

    `enabled` and `compatibility_passes` are GSTS.IRES and GSTS.CFIS; `table`, `size` and `extended` are what the last
    SIRTP latched: address, number of entries, and whether destinations have 32 bits.

    Args:
        memory: where posted-interrupt descriptors are, which are updated coherently.
        tables: the same memory as the unit sees the interrupt table, snooped or not.
        send: called with each notification.
    """

    def __init__(
        self,
        memory: Memory,
        tables: Memory,
        capabilities: Capabilities,
        policy: Policy,
        faults: FaultLog,
        caches: Caches,
        send: Callable[[Message], None],
    ) -> None:
        self.memory, self.tables = memory, tables
        self.capabilities, self.policy = capabilities, policy
        self.faults, self.caches, self.send = faults, caches, send
        self.enabled = False
        self.compatibility_passes = False
        self.table = 0
        self.size = 2
        self.extended = False
        offered = capabilities.offered
        self._posted_reserved = PostedInterruptEntry.reserved_mask(offered=offered)
        self._remapped_reserved = RemappedInterruptEntry.reserved_mask(offered=offered)
        if policy.posted_form_ignored:
            self._remapped_reserved &= ~InterruptEntry.IM.mask
        self._descriptor_reserved = PostedInterruptDescriptor.reserved_mask()

    # What software commands (spec 5.1.5, 11.4.4)

    def set_table(self, irta: int) -> None:
        """SIRTP: latch the IRTA register. Cached entries stay, unless the unit drops them itself (CAP.ESIRTPS)."""
        latched = IRTA(irta)
        self.table = latched.IRTA
        self.size = 2 << latched.S
        self.extended = bool(latched.EIME) and self.capabilities.extended_interrupts
        if self.capabilities.invalidate_on_interrupt_pointer:
            self.caches.drop_interrupts()

    def switch(self, enabled: int, compatibility_passes: int) -> None:
        """IRE and CFI. Turning off drops the cached entries where setting the table does."""
        if self.enabled and not enabled and self.capabilities.invalidate_on_interrupt_pointer:
            self.caches.drop_interrupts()
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
                self.admit_compatibility_format()
                return unmodified(request)
            self.check_request(request)
            index = self.index(request)
            entry = self.entry(index)
            # FPD counts even in an entry that is not present.
            fpd = InterruptEntry.FPD.get(entry)
            self.check_entry(entry, request.source_id)
            return self.post(entry) if self.is_posted(entry) else self.deliver(entry)
        except Blocked as condition:
            recorded = self.faults.report_interrupt(condition.reason, request.source_id, index, fpd)
            return InterruptOutcome(fault=condition.reason, recorded=recorded)

    def admit_compatibility_format(self) -> None:
        """Requests that say themselves where they go pass by leave of CFI, and never in extended mode (5.1.2.1)."""
        if self.extended or not self.compatibility_passes:
            raise Blocked(FaultReason.IR_25)

    def check_request(self, request: InterruptRequest) -> None:
        """Reserved fields of a remappable request: the upper data, where the data are used (spec 5.1.2.2)."""
        used = RemappableAddress.SHV.get(request.address) or self.policy.unused_data_checked
        if used and request.data & ~RemappableData.SUBHANDLE.mask:
            raise Blocked(FaultReason.IR_20)

    def index(self, request: InterruptRequest) -> int:
        """The interrupt_index (spec 5.1.3). The sum has 17 bits: it does not wrap, it is too large."""
        address = request.address
        handle = RemappableAddress.HANDLE_HIGH.get(address) << 15 | RemappableAddress.HANDLE_LOW.get(address)
        return handle + (RemappableData.SUBHANDLE.get(request.data) if RemappableAddress.SHV.get(address) else 0)

    # Entries (spec 5.1.3, 5.1.4)

    def entry(self, index: int) -> int:
        """The entry, from the cache or from memory."""
        if index >= self.size:
            raise Blocked(FaultReason.IR_21)
        cached = self.caches.interrupts.find(index)
        if cached is not None:
            return cached
        try:
            entry = int.from_bytes(self.tables.read(self.table + _ENTRY_SIZE * index, _ENTRY_SIZE), "little")
        except MemoryAccessError:
            raise Blocked(FaultReason.IR_23) from None
        if self.may_cache(entry):
            self.caches.interrupts.fill(index, entry)
        return entry

    def may_cache(self, entry: int) -> bool:
        """Without caching mode, only what is present and free of errors is remembered (spec 6.1)."""
        if self.capabilities.caching_mode and self.policy.cache_faulting:
            return True
        if not InterruptEntry.P.get(entry):
            return self.policy.absent_interrupts_cached
        return not self.has_reserved(entry) and InterruptEntry.SVT.get(entry) != _RESERVED_VALIDATION

    def check_entry(self, entry: int, source_id: SourceId) -> None:
        """Present, nothing reserved, and for this requester, in this order."""
        if not InterruptEntry.P.get(entry):
            raise Blocked(FaultReason.IR_22)
        if self.policy.source_validated_first:
            self.validate_source(entry, source_id)
            self.check_reserved(entry)
        else:
            self.check_reserved(entry)
            self.validate_source(entry, source_id)

    def check_reserved(self, entry: int) -> None:
        """Bits that must be 0, and encodings that mean nothing."""
        if self.has_reserved(entry):
            raise Blocked(FaultReason.IR_24)
        if InterruptEntry.SVT.get(entry) == _RESERVED_VALIDATION and not self.policy.reserved_validation_fails:
            raise Blocked(FaultReason.IR_24)

    def has_reserved(self, entry: int) -> bool:
        """Whether the entry, in its form, sets a reserved bit or has a reserved delivery mode (spec 9.9, 9.10)."""
        if self.is_posted(entry):
            return bool(entry & self._posted_reserved)
        if entry & self._remapped_reserved or RemappedInterruptEntry.DLM.get(entry) not in _DELIVERY_MODES:
            return True
        return not self.extended and bool(RemappedInterruptEntry.DST.get(entry) & _APIC_ID_RESERVED)

    def is_posted(self, entry: int) -> bool:
        """Only a unit with CAP.PI knows the posted form; to the others IM is a reserved bit of the remapped one."""
        return bool(InterruptEntry.IM.get(entry)) and self.capabilities.posted_interrupts

    def validate_source(self, entry: int, source_id: SourceId) -> None:
        """SVT and SQ against the requester (spec 9.9)."""
        validation = InterruptEntry.SVT.get(entry)
        if validation == SourceValidation.SOURCE_ID:
            valid = self.is_source(entry, source_id)
        elif validation == SourceValidation.BUS:
            valid = self.is_bus_within(entry, source_id.bus)
        else:
            valid = validation == SourceValidation.NONE or not self.policy.reserved_validation_fails
        if not valid:
            raise Blocked(FaultReason.IR_26)

    def is_source(self, entry: int, source_id: SourceId) -> bool:
        """The requester is the one in SID, but for the function bits that SQ leaves out."""
        return (InterruptEntry.SID.get(entry) ^ source_id) & ~_UNCOMPARED[InterruptEntry.SQ.get(entry)] == 0

    def is_bus_within(self, entry: int, bus: int) -> bool:
        """The requester's bus is one of SID 15:8 to SID 7:0."""
        first, last = InterruptEntry.SID.get(entry) >> 8, InterruptEntry.SID.get(entry) & 0xFF
        return first <= bus <= last

    # Remapping (spec 5.1.4)

    def deliver(self, raw: int) -> InterruptOutcome:
        """The interrupt that an entry in remapped form stands for; of the request, nothing remains."""
        entry = RemappedInterruptEntry(raw)
        interrupt = Interrupt(
            vector=entry.V,
            destination=self.destination(entry.DST),
            delivery_mode=entry.DLM,
            logical=bool(entry.DM),
            redirection_hint=bool(entry.RH),
            level=bool(entry.TM),
        )
        return InterruptOutcome(interrupt.message, interrupt)

    def destination(self, field: int) -> int:
        """The APIC id in a destination field of 32 bits."""
        return field if self.extended else field >> _APIC_ID_SHIFT & 0xFF

    # Posting (spec 5.2)

    def post(self, raw: int) -> InterruptOutcome:
        """Set the vector's bit in the descriptor; notify when nobody has been yet and somebody wants to know."""
        entry = PostedInterruptEntry(raw)
        where = entry.PDAH << 32 | entry.PDAL << 6
        before = self.update_descriptor(where, entry)
        if not self.notifies(before, entry):
            return InterruptOutcome(posted=Posting(where, entry.VV))
        notification = Interrupt(
            PostedInterruptDescriptor.NV.get(before), self.destination(PostedInterruptDescriptor.NDST.get(before))
        )
        self.send(notification.message)
        return InterruptOutcome(posted=Posting(where, entry.VV, notification))

    def update_descriptor(self, where: int, entry: PostedInterruptEntry) -> int:
        """One atomic read-modify-write of PIR and ON (spec 5.2.3). Returns what the descriptor was before."""
        try:
            before = int.from_bytes(self.memory.read(where, _DESCRIPTOR_SIZE), "little")
            if self.is_invalid_descriptor(before):
                raise Blocked(FaultReason.IR_28)
            after = before | 1 << entry.VV
            if self.notifies(before, entry):
                after |= PostedInterruptDescriptor.ON.mask
            self.memory.write(where, after.to_bytes(_DESCRIPTOR_SIZE, "little"))
        except MemoryAccessError:
            raise Blocked(FaultReason.IR_27) from None
        return before

    def is_invalid_descriptor(self, descriptor: int) -> bool:
        """Whether it sets a reserved bit (spec 9.11)."""
        if descriptor & self._descriptor_reserved:
            return True
        return not self.extended and bool(PostedInterruptDescriptor.NDST.get(descriptor) & _APIC_ID_RESERVED)

    def notifies(self, descriptor: int, entry: PostedInterruptEntry) -> bool:
        """A notification still outstanding is enough; SN holds back those that are not urgent."""
        if PostedInterruptDescriptor.ON.get(descriptor):
            return False
        return bool(entry.URG) or not PostedInterruptDescriptor.SN.get(descriptor)
