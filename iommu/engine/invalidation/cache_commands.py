"""What the descriptors for the unit's own caches do, and when they are refused (spec 6.5.2.1 to 6.5.2.4, 6.5.2.7)."""

from __future__ import annotations

from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.policy import Policy
from iommu.registers import Granularity, QueueFault
from iommu.structures import (
    ContextDescriptor,
    InterruptDescriptor,
    IotlbDescriptor,
    PasidCacheDescriptor,
    PasidIotlbDescriptor,
)


class QueueError(Exception):
    """Inside the engine: the queue cannot go on. Never leaves the unit.

    `taken`: the descriptor counts as taken all the same; the head moves past it.
    """

    def __init__(self, code: QueueFault, *, taken: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.taken = taken


class CacheCommands:
    """One method for each type of descriptor. They raise QueueError for what is reserved."""

    def __init__(self, invalidation: Invalidation, policy: Policy) -> None:
        self.capabilities = invalidation.capabilities
        self.invalidation, self.caches = invalidation, invalidation.caches
        self.policy = policy

    def invalidate_contexts(self, command: ContextDescriptor) -> None:
        """Type 1."""
        if not self.invalidation.invalidate_contexts(command.G, command.DID, command.SID, command.FM):
            raise QueueError(QueueFault.RESERVED)

    def invalidate_translations(self, command: IotlbDescriptor) -> None:
        """Type 2. Nothing is in flight in this model: draining, DR and DW, changes nothing."""
        where = command.ADDR, command.AM, command.IH
        if not self.invalidation.invalidate_translations(command.G, command.DID, *where):
            raise QueueError(QueueFault.RESERVED)

    def invalidate_interrupts(self, command: InterruptDescriptor) -> None:
        """Type 4."""
        if not command.G:
            self.caches.drop_interrupts()
        elif command.IM > self.capabilities.max_index_mask:
            raise QueueError(QueueFault.RESERVED)
        else:
            self.caches.drop_interrupts(command.IIDX, command.IM)

    def invalidate_process(self, command: PasidIotlbDescriptor) -> None:
        """Type 6. The limits of the page-selective type 2 do not hold here."""
        where = command.ADDR, command.AM, command.IH
        match command.G:
            case Granularity.DOMAIN if any(where):
                raise QueueError(QueueFault.RESERVED)
            case Granularity.DOMAIN:
                self.caches.drop_translations_of_pasid(command.DID, command.PASID)
                if self.policy.pasid_invalidation_drops_second_stage:
                    self.caches.drop_translations_of_domain(command.DID)
            case Granularity.SELECTIVE:
                self.caches.drop_translations_of_pasid_pages(command.DID, command.PASID, *where)
            case _:
                raise QueueError(QueueFault.RESERVED)

    def invalidate_pasids(self, command: PasidCacheDescriptor) -> None:
        """Type 7, whose granularities are numbered in its own way."""
        match command.G:
            case 0:
                self.caches.drop_pasids_of_domain(command.DID)
            case 1:
                self.caches.drop_pasid(command.DID, command.PASID)
            case 3:
                self.caches.drop_pasids()
            case _:
                raise QueueError(QueueFault.RESERVED)
