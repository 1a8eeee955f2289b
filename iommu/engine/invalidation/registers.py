"""Invalidation by register (spec 6.5.1): CCMD for the context cache, IOTLB and IVA for the IOTLB.

The descriptors of types 1 and 2 (6.5.2) have the same operands and are decoded here too.
"""

from __future__ import annotations

from iommu.engine.caches.caches import Caches
from iommu.engine.invalidation.selector import Selector, pages_around
from iommu.engine.register_file import RegisterFile
from iommu.memory import WriteBuffer
from iommu.registers import CCMD, GSTS, IOTLB, IVA, Granularity, TableMode

# By FM of CCMD or of a descriptor: the function bits of the source-id that are ignored.
IGNORED_FUNCTION_BITS = (0b000, 0b100, 0b110, 0b111)

# From this major version on, invalidation by register is not supported.
_QUEUE_ONLY = 6


class Invalidation:
    """Carries out commands at once and reports the granularity performed; NONE for an invalid command.

    A command starts when a write sets the start bit, so software can write the lower half first.
    `mode` is the table mode the last SRTP latched. `write_buffer` is flushed before each invalidation (spec 6.8).
    """

    def __init__(self, registers: RegisterFile, caches: Caches) -> None:
        self.capabilities = registers.capabilities
        self.caches = caches
        self.mode: int = TableMode.LEGACY
        self.write_buffer: WriteBuffer | None = None
        self._address_mask = (1 << registers.capabilities.address_width) - 1
        self._domain_mask = (1 << registers.capabilities.domain_id_bits) - 1
        self._status = registers[GSTS]
        self._ccmd, self._iotlb, self._iva = registers[CCMD], registers[IOTLB], registers[IVA]
        self._ccmd.effect = self._on_ccmd
        self._iotlb.effect = self._on_iotlb

    def _on_ccmd(self, written: int) -> None:
        if CCMD.ICC.get(written):
            command, named = CCMD(self._ccmd.value), None
            if self.registers_active():
                named = self.select_contexts(command.CIRG, command.DID, command.SID, command.FM)
            done = self._carry_out(named, command.CIRG)
            self._ccmd.value = CCMD.CAIG.put(self._ccmd.value, done) & ~CCMD.ICC.mask

    def _on_iotlb(self, written: int) -> None:
        if IOTLB.IVT.get(written):
            command, where, named = IOTLB(self._iotlb.value), IVA(self._iva.value), None
            if self.registers_active():
                named = self.select_translations(command.IIRG, command.DID, where.ADDR, where.AM, where.IH)
            done = self._carry_out(named, command.IIRG)
            self._iotlb.value = IOTLB.IAIG.put(self._iotlb.value, done) & ~IOTLB.IVT.mask

    def _carry_out(self, named: Selector | None, asked: int) -> Granularity:
        """Carry out a command, if it is valid. Returns the granularity performed."""
        if named is None:
            return Granularity.NONE
        self.invalidate(named)
        return Granularity(asked)

    def registers_active(self) -> bool:
        """Whether commands by register are carried out: not while the queue is on (6.5.2), nor from version 6 on."""
        queue_only = self.capabilities.version >> 4 >= _QUEUE_ONLY or GSTS.QIES.get(self._status.value)
        return not queue_only and self.registers_serve_mode()

    def registers_serve_mode(self) -> bool:
        """Whether the table mode has commands by register: legacy mode alone has (11.4.6.1, 11.4.6.3)."""
        return self.mode == TableMode.LEGACY

    def invalidate(self, named: Selector) -> None:
        """Drop what the selector names from the unit's caches."""
        if self.write_buffer is not None:
            self.write_buffer.flush_all()
        self.caches.invalidate(named)

    def domain(self, domain_id: int) -> int:
        """The domain-id of a command: bits beyond CAP.ND are ignored."""
        return domain_id & self._domain_mask

    def select_contexts(self, asked: int, domain_id: int, source_id: int, function_mask: int) -> Selector | None:
        """The selector of a context-cache command (spec 6.5.1.1, 6.5.2.1); None for a reserved granularity."""
        match asked:
            case Granularity.GLOBAL:
                return Selector.contexts()
            case Granularity.DOMAIN:
                return Selector.contexts(self.domain(domain_id))
            case Granularity.SELECTIVE:
                ignored = IGNORED_FUNCTION_BITS[function_mask]
                return Selector.contexts(self.domain(domain_id), source_id=source_id, ignored=ignored)
        return None

    def select_translations(
        self, asked: int, domain_id: int, address: int, mask: int, leaf_only: int
    ) -> Selector | None:
        """The selector of an IOTLB command (spec 6.5.1.2, 6.5.2.3); None if the command is invalid.

        It is invalid if its granularity is reserved, or if it is page-selective and the unit lacks CAP.PSI or the
        mask exceeds CAP.MAMV. Address bits at and above the guest address width are ignored.
        """
        match asked:
            case Granularity.GLOBAL:
                return Selector.translations()
            case Granularity.DOMAIN:
                return Selector.translations(self.domain(domain_id))
            case Granularity.SELECTIVE:
                if not self.capabilities.page_selective or mask > self.capabilities.max_address_mask:
                    return None
                addresses = pages_around(address & self._address_mask, mask)
                return Selector.translations(self.domain(domain_id), addresses=addresses, leaf_only=bool(leaf_only))
        return None
