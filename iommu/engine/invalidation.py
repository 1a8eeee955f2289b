"""Register-based invalidation (spec 6.5.1): CCMD for the context cache, IOTLB and IVA for the IOTLB."""

from __future__ import annotations

from iommu.engine.caches import Caches
from iommu.engine.register_file import RegisterFile
from iommu.registers import CCMD, IOTLB, IVA, Granularity, TableMode

# CCMD.FM, and FM of a descriptor: which function bits of the source-id need not match.
IGNORED_FUNCTION_BITS = (0b000, 0b100, 0b110, 0b111)


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
        slots = registers.slots
        self._ccmd, self._iotlb, self._iva = slots["CCMD"], slots["IOTLB"], slots["IVA"]
        self._ccmd.effect = self._on_ccmd
        self._iotlb.effect = self._on_iotlb

    def _on_ccmd(self, written: int) -> None:
        if CCMD.ICC.get(written):
            self._ccmd.value = CCMD.CAIG.put(self._ccmd.value, self.invalidate_contexts(CCMD(self._ccmd.value)))

    def _on_iotlb(self, written: int) -> None:
        if IOTLB.IVT.get(written):
            done = self.invalidate_translations(IOTLB(self._iotlb.value), IVA(self._iva.value))
            self._iotlb.value = IOTLB.IAIG.put(self._iotlb.value, done)

    def invalidate_contexts(self, command: CCMD) -> Granularity:
        """Spec 6.5.1.1. A device-selective command goes by source-id alone, whatever domain-id it names.

        The register serves legacy mode only: in any other, nothing is done.
        """
        if self.mode != TableMode.LEGACY:
            return Granularity.NONE
        match command.CIRG:
            case Granularity.GLOBAL:
                self.caches.drop_contexts()
            case Granularity.DOMAIN:
                self.caches.drop_contexts_of_domain(command.DID)
            case Granularity.SELECTIVE:
                self.caches.drop_contexts_of_device(command.SID, IGNORED_FUNCTION_BITS[command.FM])
            case _:
                return Granularity.NONE
        return Granularity(command.CIRG)

    def invalidate_translations(self, command: IOTLB, where: IVA) -> Granularity:
        """Spec 6.5.1.2. A page-selective command the unit does not offer is not carried out.

        Address bits at and above the guest address width are ignored.
        """
        match command.IIRG:
            case Granularity.GLOBAL:
                self.caches.drop_translations()
            case Granularity.DOMAIN:
                self.caches.drop_translations_of_domain(command.DID)
            case Granularity.SELECTIVE:
                if not self.capabilities.page_selective or where.AM > self.capabilities.max_address_mask:
                    return Granularity.NONE
                self.caches.drop_translations_of_pages(
                    command.DID, where.ADDR & self._address_mask, where.AM, where.IH
                )
            case _:
                return Granularity.NONE
        return Granularity(command.IIRG)
