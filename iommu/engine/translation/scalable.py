"""DMA remapping, scalable mode (spec 3.4.3): from the PASID-table entry through its stages to the host address."""

from __future__ import annotations

from iommu.engine.caches.caches import Caches
from iommu.engine.caches.entries import PasidContext, ScalableContext
from iommu.engine.caches.page import Intent, Page, intent_of
from iommu.engine.caches.tables import Root
from iommu.engine.capabilities import Capabilities
from iommu.engine.formats import Formats
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import (
    AddressType,
    DmaRequest,
    Outcome,
    as_translated,
    asks_for_interrupts,
    blocked,
    identity,
    in_interrupt_range,
    untranslated_only,
)
from iommu.engine.table_access import TableAccess
from iommu.engine.translation.first_stage import FirstStage
from iommu.engine.translation.paging import Paging, Stage
from iommu.engine.translation.scalable_tables import ScalableTables
from iommu.engine.translation.second_stage import SecondStage


class ScalableMode(ScalableTables, Paging):
    """Translates through the root, context and PASID tables of scalable mode, and the stages that these select."""

    def __init__(
        self,
        access: TableAccess,
        capabilities: Capabilities,
        policy: Policy,
        formats: Formats,
        first_stage: FirstStage,
        second_stage: SecondStage,
        caches: Caches,
    ) -> None:
        super().__init__(access, capabilities, policy, formats, caches)
        self.first_stage, self.second_stage = first_stage, second_stage

    def translate(self, request: DmaRequest) -> Outcome:
        """Translate a request. Raises Blocked with the FPD that applies."""
        try:
            return self.translate_by_tables(request)
        except Blocked as condition:
            # A translation request for a page that is not mapped gets a success completion without permissions.
            if request.address_type is AddressType.TRANSLATION_REQUEST and condition.reason.not_mapped:
                return blocked()
            raise

    def translate_by_tables(self, request: DmaRequest) -> Outcome:
        """From the source-id to the host address. Raises Blocked with the FPD that applies."""
        context = self.context_of(request.source_id)
        try:
            pasid = self.effective_pasid(context, request)
            if request.address_type is AddressType.TRANSLATED:
                return as_translated(
                    request, self.capabilities.host_address_width, FaultReason.SGN_4, FaultReason.SGN_8
                )
            if asks_for_interrupts(request):
                return untranslated_only(request, no_write=self.capabilities.no_write_requests)
            pasid_context = self.pasid_context_of(context, request.source_id, pasid)
        except Blocked as condition:
            raise Blocked(condition.reason, condition.fpd | context.fpd) from None
        try:
            return self.translate_by(context, pasid_context, request)
        except Blocked as condition:
            raise Blocked(condition.reason, condition.fpd | pasid_context.fpd) from None

    def single_stage(self, request: DmaRequest) -> tuple[Stage, Root] | None:
        """The stage that plain requests like this one use, if all is cached and there is just one stage."""
        context = self.caches.scalable_contexts.find(request.source_id)
        if not isinstance(context, ScalableContext) or not self.intent(context, request).user:
            return None
        try:
            pasid = self.effective_pasid(context, request)
        except Blocked:
            return None
        found = self.caches.pasids.find((request.source_id, pasid))
        if not isinstance(found, PasidContext) or (found.first is not None and found.second is not None):
            return None
        if found.first is not None:
            return self.first_stage, found.first
        return None if found.second is None else (self.second_stage, found.second)

    # The stages (spec 3.6 to 3.9).

    def translate_by(self, context: ScalableContext, pasid_context: PasidContext, request: DmaRequest) -> Outcome:
        """From a valid PASID-table entry to the host address. Raises Blocked."""
        intent = self.intent(context, request)
        first, second = pasid_context.first, pasid_context.second
        # SPT.5: execute requested on a unit without execute requests.
        if request.execute and not self.capabilities.execute_requests:
            raise Blocked(FaultReason.SPT_5)
        if first is not None:
            self.check_request_flags(pasid_context, intent)
            return self.translate_stage(self.first_stage, first, intent, request)
        if second is not None:
            return self.translate_stage(self.second_stage, second, intent, request)
        return self.pass_through(request, pasid_context)

    def intent(self, context: ScalableContext, request: DmaRequest) -> Intent:
        """The permissions that the request needs. Without a PASID, RID_PRIV says if it is privileged."""
        capabilities = self.capabilities
        return intent_of(
            request,
            privileged=bool(context.rid_priv) if request.pasid is None else request.privileged,
            execute=request.execute,
            zero_length_read=capabilities.zero_length_read,
            no_write=capabilities.no_write_requests,
        )

    def check_request_flags(self, pasid_context: PasidContext, intent: Intent) -> None:
        """Check that execute and supervisor requests are enabled. Raises Blocked."""
        # SPT.5: execute requested while it is not enabled.
        if intent.execute and not pasid_context.execute_enabled:
            raise Blocked(FaultReason.SPT_5)
        # SPT.6: supervisor requested while it is not enabled.
        if not intent.user and not pasid_context.supervisor_enabled:
            raise Blocked(FaultReason.SPT_6)

    def outcome(self, tables: Root, page: Page, intent: Intent, request: DmaRequest) -> Outcome:
        """See Paging. The answer to a translation request is a whole page: none of it may be for interrupts."""
        # SGN.8: the page of a translation request overlaps the interrupt range.
        asks = request.address_type is AddressType.TRANSLATION_REQUEST
        if asks and page.overlaps_interrupt_range(page.host):
            raise Blocked(FaultReason.SGN_8)
        return super().outcome(tables, page, intent, request)

    def pass_through(self, request: DmaRequest, pasid_context: PasidContext) -> Outcome:
        """Pass-through: the address is the host address (spec 3.9). Raises Blocked."""
        # SGN.4: the address is beyond the host address width.
        if request.address >> self.capabilities.host_address_width:
            raise Blocked(FaultReason.SGN_4)
        if in_interrupt_range(request.address):
            # SGN.8 is not for translation requests in pass-through: those with a PASID get no permission.
            if request.address_type is AddressType.TRANSLATION_REQUEST:
                return blocked()
            # SGN.8: the host address is in the interrupt range.
            raise Blocked(FaultReason.SGN_8)
        return identity(request.address, pasid_context.attributes)
