"""DMA remapping (spec 3): the checks before any table is read, and the choice of the mode."""

from __future__ import annotations

from collections.abc import Callable

from iommu.engine.caches.tables import Root
from iommu.engine.capabilities import Capabilities
from iommu.engine.faults.log import FaultLog
from iommu.engine.interrupts.remapping import Interrupts
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import AddressType, DmaRequest, Outcome, blocked, identity, in_interrupt_range
from iommu.engine.translation.legacy import LegacyMode
from iommu.engine.translation.paging import Stage
from iommu.engine.translation.protected_memory import ProtectedMemory
from iommu.engine.translation.scalable import ScalableMode
from iommu.registers import TableMode

# From this major version on, a request that asks for execute permission is a fault of the root table address.
_WITHOUT_EXECUTE = 8


class Translation:
    """Translates requests.

    `enabled` is GSTS.TES, `mode` the table mode that the last SRTP latched. `changed` is called when one of them, the
    root table or the protected memory has changed. `protects_remapped`: protected memory is blocked for remapped
    requests too.
    """

    def __init__(
        self,
        capabilities: Capabilities,
        policy: Policy,
        legacy: LegacyMode,
        scalable: ScalableMode,
        faults: FaultLog,
        protected: ProtectedMemory,
        interrupts: Interrupts,
    ) -> None:
        self.capabilities, self.policy = capabilities, policy
        self.legacy, self.scalable, self.faults, self.protected = legacy, scalable, faults, protected
        self.interrupts = interrupts
        self.mode: int = TableMode.LEGACY
        self.enabled = False
        self.changed: Callable[[], None] = lambda: None
        protected.changed = self._on_change
        self.protects_remapped = policy.protect_remapped or capabilities.version >= 0x20

    def switch(self, enabled: int) -> None:
        """Turn translation on or off (GCMD.TE)."""
        self.enabled = bool(enabled)
        self._on_change()

    def _on_change(self) -> None:
        self.changed()

    def set_root_table(self, address: int, mode: int) -> None:
        """SRTP: latch the root table and the table mode."""
        self.legacy.root_table = self.scalable.root_table = address
        self.mode = mode
        self.changed()

    def single_stage(self, request: DmaRequest) -> tuple[Stage, Root] | None:
        """The stage that plain requests like this one use, if it is cached and nothing else affects them."""
        if not self.enabled or self.protected.ranges:
            return None
        if self.mode == TableMode.LEGACY:
            return self.legacy.single_stage(request)
        if self.mode == TableMode.SCALABLE and self.capabilities.scalable_mode:
            return self.scalable.single_stage(request)
        return None

    def translate(self, request: DmaRequest) -> Outcome:
        """Translate a request; faults are recorded."""
        if self.is_unsupported(request):
            return blocked()
        if self.is_for_interrupts(request):
            return self.interrupts.message(request)
        if not self.enabled:
            outcome = identity(request.address)
            return self.check_protected(outcome) if self.protected.ranges else outcome
        try:
            outcome = self.translate_by_mode(request)
        except Blocked as condition:
            return blocked(condition.reason, recorded=self.report(condition, request))
        # Below version 2, regions may protect only against requests that are not remapped; identity mappings count as
        # such.
        if self.protected.ranges and (self.protects_remapped or outcome.host_address == request.address):
            return self.check_protected(outcome)
        return outcome

    def is_unsupported(self, request: DmaRequest) -> bool:
        """Whether the request is refused before anything is looked at, and not reported (spec 4.2.1).

        That is every translation or translated request while translation is off, and every translated request with a
        PASID: ECAP.PTRS is not modelled.
        """
        if not self.enabled:
            return request.address_type is not AddressType.UNTRANSLATED
        return request.address_type is AddressType.TRANSLATED and request.pasid is not None

    def is_for_interrupts(self, request: DmaRequest) -> bool:
        """Whether the request is untranslated, without PASID, and in the interrupt range (spec 3.14).

        A PASID is ignored while translation is off (3.1).
        """
        return (
            in_interrupt_range(request.address)
            and request.address_type is AddressType.UNTRANSLATED
            and (request.pasid is None or not self.enabled)
        )

    def report(self, condition: Blocked, request: DmaRequest) -> bool:
        """Report the fault of a blocked request. Returns whether it was recorded."""
        return self.faults.report(condition.reason, request, condition.fpd)

    def translate_by_mode(self, request: DmaRequest) -> Outcome:
        """Translate in the mode that RTADDR.TTM selected when it was latched. Raises Blocked."""
        if self.mode == TableMode.LEGACY:
            return self.legacy.translate(request)
        if self.mode == TableMode.SCALABLE and self.capabilities.scalable_mode:
            # RTA.5: execute requested, which no unit knows from version 8 on.
            if request.execute and self.capabilities.version >> 4 >= _WITHOUT_EXECUTE:
                raise Blocked(FaultReason.RTA_5)
            return self.scalable.translate(request)
        # RTA.4: the unit is in abort-DMA mode.
        if self.mode == TableMode.ABORT_DMA and self.capabilities.abort_dma:
            raise Blocked(FaultReason.RTA_4)
        # RTA.1: the unit does not support the table mode.
        raise Blocked(FaultReason.RTA_1)

    def check_protected(self, outcome: Outcome) -> Outcome:
        """Block a host address in a protected region; no fault is recorded (spec 11.4.8)."""
        if outcome.host_address is not None and self.protected.blocks(outcome.host_address):
            return blocked()
        return outcome
