"""DMA remapping, scalable mode (spec 3.4.3): from the PASID-table entry through its stages to the page."""

from __future__ import annotations

from iommu.engine.attributes import nested
from iommu.engine.caches.page import Page, Process, ScalableContext, kind_of
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import AddressType, DmaRequest, Outcome, blocked, unmapped
from iommu.engine.translation.fast_path import Shortcut
from iommu.engine.translation.first_stage import Directory, Found, check, is_canonical
from iommu.engine.translation.paging import Intent, Leaf, as_translated, in_interrupt_range, intent_of, through
from iommu.engine.translation.scalable_tables import ScalableTables
from iommu.engine.translation.second_stage import SCALABLE, Tables

# What a translation request is answered with instead of a fault: nothing is mapped, as far as the device can tell.
_MERELY_NOT_MAPPED = (
    FaultReason.SFS_2,
    FaultReason.SSS_2,
    FaultReason.SGN_1,
    FaultReason.SGN_2,
    FaultReason.SGN_3,
    FaultReason.SGN_5,
    FaultReason.SGN_6,
    FaultReason.SGN_7,
)


class ScalableMode(ScalableTables):
    """Takes a request through scalable root, context and PASID tables, and then through the stages these name."""

    def translate(self, request: DmaRequest) -> Outcome:
        """The outcome of a request. Raises Blocked with the FPD that applies."""
        context = self.context_of(request.source_id)
        try:
            pasid = self.admit(context, request)
            if request.address_type is AddressType.TRANSLATED:
                return as_translated(request, self.capabilities.host_address_width)
            process = self.process_of(context, request.source_id, pasid)
        except Blocked as condition:
            raise Blocked(condition.reason, condition.fpd | context.fpd) from None
        if request.pasid is None and not context.rid_priv:
            context.shortcut = process.shortcut
        try:
            return self.through(context, process, pasid, request)
        except Blocked as condition:
            raise Blocked(condition.reason, condition.fpd | process.fpd) from None

    def shortcut(self, request: DmaRequest) -> Shortcut | None:
        """What is known of the PASID of a request; None where the request has to go the long way."""
        context, pasid = self.find_context(request.source_id), request.pasid
        if not isinstance(context, ScalableContext) or pasid is None or request.privileged or request.execute:
            return None
        if not context.pasid_enabled or pasid >= context.pasids or pasid >> self._pasid_bits:
            return None
        process = self._find_process((request.source_id, pasid))
        return None if process is None else process.shortcut

    # The stages (spec 3.6 to 3.9).

    def through(self, context: ScalableContext, process: Process, pasid: int, request: DmaRequest) -> Outcome:
        """From a valid PASID-table entry to the host address."""
        intent = self.intent(context, request)
        if process.first is not None:
            self.admit_mode(process, intent)
        try:
            if process.first is not None:
                return self.through_first(process, process.first, pasid, intent, request)
            if process.second is not None:
                return self.through_second(process, process.second, intent, request)
            return self.pass_through(request, process)
        except Blocked as condition:
            # A translation request for what is merely not mapped is answered, without permissions.
            if request.address_type and condition.reason in _MERELY_NOT_MAPPED:
                return blocked()
            raise

    def intent(self, context: ScalableContext, request: DmaRequest) -> Intent:
        """What the request needs. Without a PASID it is as privileged as the context says, and never executes."""
        capabilities = self.capabilities
        with_pasid = request.pasid is not None
        return intent_of(
            request,
            privileged=request.privileged and capabilities.supervisor_requests
            if with_pasid
            else bool(context.rid_priv),
            execute=request.execute and capabilities.execute_requests,
            zero_length_read=capabilities.zero_length_read,
            no_write=capabilities.no_write_requests,
        )

    def admit_mode(self, process: Process, intent: Intent) -> None:
        """Execute and supervisor requests have to be enabled. Raises Blocked: SPT.5, SPT.6."""
        if intent.execute and not process.execute_enabled:
            raise Blocked(FaultReason.SPT_5)
        if not intent.user and not process.supervisor_enabled:
            raise Blocked(FaultReason.SPT_6)

    def pass_through(self, request: DmaRequest, process: Process) -> Outcome:
        """The host address is the address (spec 3.9)."""
        if request.address >> self.capabilities.host_address_width:
            raise Blocked(FaultReason.SGN_4)
        if in_interrupt_range(request.address):
            raise Blocked(FaultReason.SGN_8)
        return unmapped(request.address, process.attributes)

    def through_second(self, process: Process, tables: Tables, intent: Intent, request: DmaRequest) -> Outcome:
        """Second stage alone (spec 3.7)."""
        if not self.second_stage.covers(tables, request.address):
            raise Blocked(FaultReason.SGN_5)
        page = self.cached_page(process.domain_id, None, intent, request)
        if page is not None:
            if page.kind.fault is not None:
                raise Blocked(page.kind.fault)
            self.permit(page, intent)
            return self.answer(self.outcome(page, intent, request), page, request)
        leaf = self.walk_second(tables, intent, request)
        page, _, _ = leaf
        self.permit(page, intent)
        outcome = self.outcome(page, intent, request)
        page = self.second_stage.mark_page(tables, leaf, dirty=intent.dirties and page.kind.writable)
        if tables.marks or not self.caches_faulting:
            self.caches.iotlb.fill(process.domain_id, None, request.address, page)
        return self.answer(outcome, page, request)

    def walk_second(self, tables: Tables, intent: Intent, request: DmaRequest) -> Leaf:
        """The page, from the tables; caching mode remembers it before it is known whether the request may use it.

        Not where the page's own entry has still to be marked: what is cached could be used then without that.
        """
        if not self.caches_faulting:
            return self.second_stage.walk(tables, request.address, intent)
        iotlb = self.caches.iotlb
        leaf = self.second_stage.walk_or_remember(tables, request.address, intent, iotlb)
        if not tables.marks:
            iotlb.fill(tables.domain_id, None, request.address, leaf[0])
        return leaf

    def permit(self, page: Page, intent: Intent) -> None:
        """Whether a second-stage page permits the request. Raises Blocked: SGN.6, SGN.7."""
        if intent.lacks(page.kind.readable, page.kind.writable):
            raise Blocked(SCALABLE.permission_of(intent, page.kind.readable, page.kind.writable))

    def through_first(
        self, process: Process, tables: Directory, pasid: int, intent: Intent, request: DmaRequest
    ) -> Outcome:
        """First stage, alone or nested in a second (spec 3.6, 3.8)."""
        if not is_canonical(request.address, tables.levels):
            raise Blocked(FaultReason.SGN_1)
        page = self.cached_page(process.domain_id, pasid, intent, request)
        if page is not None:
            check(page.kind, intent)
            return self.answer(self.outcome(page, intent, request), page, request)
        found = self.first_stage.walk(tables, request.address, intent)
        if tables.second is None:
            page = found.page
            outcome = self.outcome(page, intent, request)
            page = self.first_stage.mark_page(tables, found, dirty=dirties(page, intent))
        else:
            outcome, page = self.through_nested(tables, tables.second, found, intent, request)
        self.caches.iotlb.fill(process.domain_id, pasid, request.address, page)
        return self.answer(outcome, page, request)

    def through_nested(
        self, tables: Directory, second: Tables, found: Found, intent: Intent, request: DmaRequest
    ) -> tuple[Outcome, Page]:
        """The page of a first stage is a guest address: the second stage maps it (spec 3.8)."""
        guest = found.page.host | request.address & found.page.kind.size - 1
        if not self.second_stage.covers(second, guest):
            raise Blocked(FaultReason.SGN_5)
        leaf = self.second_stage.walk(second, guest, intent)
        behind, _, _ = leaf
        self.permit(behind, intent)
        both = combine(found.page, behind, guest)
        outcome = self.outcome(both, intent, request)
        dirty = dirties(both, intent)
        first = self.first_stage.mark_page(tables, found, dirty=dirty)
        last = self.second_stage.mark_page(second, leaf, dirty=dirty)
        return outcome, Page(both.host, both.kind.but(dirty=first.kind.dirty and last.kind.dirty))

    def cached_page(self, domain_id: int, pasid: int | None, intent: Intent, request: DmaRequest) -> Page | None:
        """The IOTLB's page; none where a write has still to be recorded in the tables."""
        page = self.caches.iotlb.find(domain_id, pasid, request.address)
        if page is None or (intent.dirties and not page.kind.dirty):
            return None
        return page

    def outcome(self, page: Page, intent: Intent, request: DmaRequest) -> Outcome:
        """The host address within the page. No DMA may reach the interrupt range through a translation."""
        host = page.host | request.address & page.kind.size - 1
        if in_interrupt_range(host):
            raise Blocked(FaultReason.SGN_8)
        outcome = through(host, page)
        if intent.user and not intent.execute:
            return outcome
        writable = page.kind.writable if intent.user else page.kind.supervisor_writable
        return outcome.replace(writable=writable, executable=intent.execute and page.kind.executable)

    def answer(self, outcome: Outcome, page: Page, request: DmaRequest) -> Outcome:
        """A translation request that will not write is told of write permission only where D is set already."""
        if request.no_write and self.capabilities.no_write_requests and not page.kind.dirty:
            return outcome.replace(writable=False)
        return outcome


def dirties(page: Page, intent: Intent) -> bool:
    """Whether the request is recorded as a write: it is one, or may become one by what it is told."""
    return intent.dirties and (page.kind.writable if intent.user else page.kind.supervisor_writable)


def combine(first: Page, second: Page, guest: int) -> Page:
    """A nested translation: the smaller of the two pages, and the permissions of both (spec 3.8)."""
    one, other = first.kind, second.kind
    size = min(one.size, other.size)
    host = second.host | guest & other.size - 1
    kind = kind_of(
        size,
        one.readable and other.readable,
        one.writable and other.writable,
        one.supervisor_writable and other.writable,
        one.user,
        one.executable,
        one.dirty and other.dirty,
        nested(one.attributes, other.attributes),
    )
    return Page(host & -size, kind)
