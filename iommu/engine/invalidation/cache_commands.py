"""The descriptors that invalidate the unit's own caches (spec 6.5.2.1 to 6.5.2.4, 6.5.2.7)."""

from __future__ import annotations

from iommu.engine.invalidation.errors import QueueError
from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.invalidation.selector import Selector, pages_around
from iommu.engine.policy import Policy
from iommu.registers import Granularity, QueueFault
from iommu.structures import (
    ContextDescriptor,
    InterruptDescriptor,
    IotlbDescriptor,
    PasidCacheDescriptor,
    PasidGranularity,
    PasidIotlbDescriptor,
)


class CacheCommands:
    """One method for each type of descriptor. Each raises QueueError for reserved values.

    Fields that the granularity of a descriptor does not use are ignored.
    """

    def __init__(self, invalidation: Invalidation, policy: Policy) -> None:
        self.capabilities = invalidation.capabilities
        self.invalidation, self.policy = invalidation, policy

    def carry_out_selector(self, named: Selector | None) -> None:
        """Drop what a descriptor names. Raises QueueError if there is no selector: a reserved encoding."""
        if named is None:
            raise QueueError(QueueFault.RESERVED)
        self.invalidation.invalidate(named)

    def invalidate_contexts(self, command: ContextDescriptor) -> None:
        """Type 1, context cache. Raises QueueError."""
        self.carry_out_selector(self.invalidation.select_contexts(command.G, command.DID, command.SID, command.FM))

    def invalidate_translations(self, command: IotlbDescriptor) -> None:
        """Type 2, IOTLB. No request is in flight in this model: DR and DW have no effect. Raises QueueError."""
        where = command.ADDR, command.AM, command.IH
        self.carry_out_selector(self.invalidation.select_translations(command.G, command.DID, *where))

    def invalidate_interrupts(self, command: InterruptDescriptor) -> None:
        """Type 4, interrupt-entry cache. Raises QueueError."""
        self.carry_out_selector(self.select_interrupts(command))

    def select_interrupts(self, command: InterruptDescriptor) -> Selector | None:
        """All entries, or the 2**IM entries around IIDX; None if IM exceeds ECAP.MHMV."""
        if not command.G:
            return Selector.interrupts()
        if command.IM > self.capabilities.max_index_mask:
            return None
        return Selector.interrupts(command.IIDX, command.IM)

    def invalidate_pasid_translations(self, command: PasidIotlbDescriptor) -> None:
        """Type 6, PASID-based IOTLB. Raises QueueError."""
        self.carry_out_selector(self.select_pasid_translations(command))

    def select_pasid_translations(self, command: PasidIotlbDescriptor) -> Selector | None:
        """A PASID, or pages of it; None for a reserved encoding. CAP.PSI and CAP.MAMV do not apply here."""
        domain_id = self.invalidation.domain(command.DID)
        match command.G:
            case Granularity.DOMAIN:
                return Selector.translations(domain_id, command.PASID)
            case Granularity.SELECTIVE:
                addresses = pages_around(command.ADDR, command.AM)
                return Selector.translations(
                    domain_id, command.PASID, addresses=addresses, leaf_only=bool(command.IH)
                )
        return None

    def invalidate_pasids(self, command: PasidCacheDescriptor) -> None:
        """Type 7, PASID cache. Raises QueueError."""
        self.carry_out_selector(self.select_pasids(command))

    def select_pasids(self, command: PasidCacheDescriptor) -> Selector | None:
        """A domain, a PASID in it, or everything; None for the reserved granularity."""
        domain_id = self.invalidation.domain(command.DID)
        match command.G:
            case PasidGranularity.DOMAIN:
                return Selector.pasids(domain_id)
            case PasidGranularity.PASID:
                return Selector.pasids(domain_id, command.PASID)
            case PasidGranularity.GLOBAL:
                return Selector.pasids()
        return None
