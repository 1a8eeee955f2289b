"""Page requests (spec 7.4): which are accepted, and what happens to those that are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from iommu.engine.ats import AtsDevice, PageRequest, PageResponse
from iommu.engine.caches.entries import PasidContext, ScalableContext
from iommu.engine.faults.events import Message
from iommu.engine.faults.log import FaultLog
from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.invalidation.selector import Selector, pages_around
from iommu.engine.page_requests.queue import PageRequestQueue
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.register_file import RegisterFile
from iommu.engine.translation.scalable_tables import ScalableTables
from iommu.memory import Memory
from iommu.registers import TableMode
from iommu.structures import ResponseCode


class PageRequestOutcome(NamedTuple):
    """The outcome of a page request.

    Attributes:
        queued: it is in the queue.
        fault: why it was blocked; None if it was not.
        recorded: the fault was recorded in a fault recording register.
        answer: the response that the unit itself sent; None if it sent none.
    """

    queued: bool
    fault: FaultReason | None = None
    recorded: bool = False
    answer: ResponseCode | None = None


class PageRequests:
    """Checks page requests, queues them, or responds itself.

    `enabled` is GSTS.TES; `mode` is the table mode the last SRTP latched.

    Args:
        tables: the tables of scalable mode.
        devices: by source-id, those that receive the responses of the unit itself.
        send: called with each page request event message.
    """

    def __init__(
        self,
        memory: Memory,
        registers: RegisterFile,
        invalidation: Invalidation,
        faults: FaultLog,
        tables: ScalableTables,
        devices: Mapping[int, AtsDevice],
        send: Callable[[Message], None],
    ) -> None:
        self.capabilities, self.caches = registers.capabilities, invalidation.caches
        self.faults = faults
        self.tables, self.devices = tables, devices
        self.enabled = False
        self.mode: int = TableMode.LEGACY
        self._posted: list[PageRequest] = []
        # A unit without page requests still reports why it blocks them; no context can enable them there.
        self.queue = PageRequestQueue(memory, registers, send) if self.capabilities.page_requests else None

    def receive(self, request: PageRequest) -> PageRequestOutcome:
        """A page request arrives; those that were posted before it arrive first."""
        self.drain()
        return self.accept(request)

    def post(self, request: PageRequest) -> None:
        """Post a page request: it reaches the unit with the next one, or with a drain."""
        self._posted.append(request)

    def drain(self) -> None:
        """Posted page requests are queued or answered, in the order they were posted."""
        while self._posted:
            # A device that is answered may send further requests: this one is no longer among those to drain.
            request = self._posted.pop(0)
            try:
                self.accept(request)
            except BaseException:
                self._posted.insert(0, request)
                raise

    def accept(self, request: PageRequest) -> PageRequestOutcome:
        """Check a page request and queue it. With translation off it is dropped."""
        if not self.enabled:
            return PageRequestOutcome(queued=False)
        fpd = 0
        self.tables.access.begin()
        try:
            self.check_mode()
            context = self.tables.context_of(request.source_id)
            fpd = context.fpd
            pasid = self.pasid_of(context, request)
            entry = self.tables.pasid_context_of(context, request.source_id, pasid)
        except Blocked as condition:
            fpd |= condition.fpd
            recorded = self.faults.report_page_request(condition.reason, request, fpd)
            answer = self.answer(request, ResponseCode.INVALID)
            return PageRequestOutcome(queued=False, fault=condition.reason, recorded=recorded, answer=answer)
        self.caches.invalidate(affected_by(request, entry, pasid))
        return self.enqueue(request)

    def check_mode(self) -> None:
        """Check that the unit is in scalable mode (spec 7.1.3). Raises Blocked."""
        # RTA.3: a page request in legacy mode.
        if self.mode == TableMode.LEGACY:
            raise Blocked(FaultReason.RTA_3)
        # RTA.4: the unit is in abort-DMA mode.
        if self.mode == TableMode.ABORT_DMA and self.capabilities.abort_dma:
            raise Blocked(FaultReason.RTA_4)
        # RTA.1: the unit does not support the table mode.
        if self.mode != TableMode.SCALABLE or not self.capabilities.scalable_mode:
            raise Blocked(FaultReason.RTA_1)

    def pasid_of(self, context: ScalableContext, request: PageRequest) -> int:
        """The PASID of the request, or RID_PASID, if the context permits it (spec 7.1.3). Raises Blocked."""
        # SCT.8: a page request while they are not enabled.
        if not context.page_requests_enabled:
            raise Blocked(FaultReason.SCT_8)
        if request.pasid is None:
            return context.rid_pasid
        self.tables.check_pasid(context, request.pasid)
        return request.pasid

    def enqueue(self, request: PageRequest) -> PageRequestOutcome:
        """Queue the request. If there is no room the answer is success, so that the device tries again (7.4)."""
        if self.queue is not None and self.queue.put(request):
            return PageRequestOutcome(queued=True)
        return PageRequestOutcome(queued=False, answer=self.answer(request, ResponseCode.SUCCESS))

    def answer(self, request: PageRequest, code: ResponseCode) -> ResponseCode | None:
        """Send the unit's own response: one for a group, none for a stop marker. Returns the code sent."""
        if not request.last or request.is_stop_marker:
            return None
        if device := self.devices.get(request.source_id):
            device.respond(PageResponse(request.group, code, request.pasid))
        return code


def affected_by(request: PageRequest, entry: PasidContext, pasid: int) -> Selector:
    """What a page request drops from the caches, so that a retry does not use old entries (spec 6.5.3.1).

    This is an invalidation like any other, and listeners hear of it.
    """
    if entry.first is not None and entry.second is not None:
        return Selector.translations(entry.domain_id)
    page = pages_around(request.address, 0)
    if entry.first is not None:
        return Selector.translations(entry.domain_id, pasid, addresses=page)
    return Selector.translations(entry.domain_id, addresses=page)
