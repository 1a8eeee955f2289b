"""Invalidation by register (spec 6.5.1): CCMD for the context cache, IOTLB and IVA for the IOTLB.

The queue's descriptors of the same names (6.5.2) carry out the same commands.
"""

from __future__ import annotations

from iommu.engine.caches.caches import Caches
from iommu.engine.register_file import RegisterFile
from iommu.registers import CCMD, GSTS, IOTLB, IVA, Granularity, TableMode

# CCMD.FM, and FM of a descriptor: which function bits of the source-id need not match.
IGNORED_FUNCTION_BITS = (0b000, 0b100, 0b110, 0b111)

# From this major version on there is no invalidation by register.
_QUEUE_ONLY = 6


class Invalidation:
    """Carries out the commands at once and answers with the granularity performed; NONE means a bad request.

    The start bit is seen in what was written, so writing the lower half first and the upper half last works.
    `mode` is the table mode the last SRTP latched.
    """

    def __init__(self, registers: RegisterFile, caches: Caches) -> None:
        self.capabilities = registers.capabilities
        self.caches = caches
        self.mode: int = TableMode.LEGACY
        self._address_mask = (1 << registers.capabilities.address_width) - 1
        self._status = registers[GSTS]
        self._ccmd, self._iotlb, self._iva = registers[CCMD], registers[IOTLB], registers[IVA]
        self._ccmd.effect = self._on_ccmd
        self._iotlb.effect = self._on_iotlb

    def _on_ccmd(self, written: int) -> None:
        if CCMD.ICC.get(written):
            done, command = Granularity.NONE, CCMD(self._ccmd.value)
            # The register serves legacy mode only.
            if self.by_register() and self.mode == TableMode.LEGACY:
                done = self.invalidate_contexts(command.CIRG, command.DID, command.SID, command.FM)
            self._ccmd.value = CCMD.CAIG.put(self._ccmd.value, done)

    def _on_iotlb(self, written: int) -> None:
        if IOTLB.IVT.get(written):
            done, command, where = Granularity.NONE, IOTLB(self._iotlb.value), IVA(self._iva.value)
            if self.by_register():
                done = self.invalidate_translations(command.IIRG, command.DID, where.ADDR, where.AM, where.IH)
            self._iotlb.value = IOTLB.IAIG.put(self._iotlb.value, done)

    def by_register(self) -> bool:
        """Whether the registers do anything: not beside the queue (spec 6.5.2), nor from version 6 on."""
        return self.capabilities.version >> 4 < _QUEUE_ONLY and not GSTS.QIES.get(self._status.value)

    def invalidate_contexts(self, asked: int, domain_id: int, source_id: int, function_mask: int) -> Granularity:
        """Spec 6.5.1.1, 6.5.2.1. A device-selective command goes by source-id alone, whatever domain-id it names."""
        match asked:
            case Granularity.GLOBAL:
                self.caches.drop_contexts()
            case Granularity.DOMAIN:
                self.caches.drop_contexts_of_domain(domain_id)
            case Granularity.SELECTIVE:
                self.caches.drop_contexts_of_device(source_id, IGNORED_FUNCTION_BITS[function_mask])
            case _:
                return Granularity.NONE
        return Granularity(asked)

    def invalidate_translations(
        self, asked: int, domain_id: int, address: int, mask: int, leaf_only: int
    ) -> Granularity:
        """Spec 6.5.1.2, 6.5.2.3. A page-selective command the unit does not offer is not carried out.

        Address bits at and above the guest address width are ignored.
        """
        match asked:
            case Granularity.GLOBAL:
                self.caches.drop_translations()
            case Granularity.DOMAIN:
                self.caches.drop_translations_of_domain(domain_id)
            case Granularity.SELECTIVE:
                if not self.capabilities.page_selective or mask > self.capabilities.max_address_mask:
                    return Granularity.NONE
                self.caches.drop_translations_of_pages(domain_id, address & self._address_mask, mask, leaf_only)
            case _:
                return Granularity.NONE
        return Granularity(asked)
