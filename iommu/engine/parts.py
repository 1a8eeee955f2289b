"""The parts of a unit, and how they are put together."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from iommu.engine.ats import AtsDevice
from iommu.engine.audit import Ledger, RecordingAccess, audited_caches
from iommu.engine.caches.caches import Caches
from iommu.engine.capabilities import Capabilities
from iommu.engine.faults.events import EventKind
from iommu.engine.faults.log import FaultLog
from iommu.engine.formats import Formats
from iommu.engine.interrupts.remapping import Interrupts
from iommu.engine.invalidation.queue import Queue
from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.listeners import Listeners
from iommu.engine.page_requests.page_requests import PageRequests
from iommu.engine.policy import Policy
from iommu.engine.register_file import RegisterFile
from iommu.engine.table_access import TableAccess
from iommu.engine.translation.fast_path import FastPath
from iommu.engine.translation.first_stage import FirstStage
from iommu.engine.translation.legacy import LegacyMode
from iommu.engine.translation.protected_memory import ProtectedMemory
from iommu.engine.translation.scalable import ScalableMode
from iommu.engine.translation.second_stage import SecondStage
from iommu.engine.translation.translation import Translation
from iommu.memory import Memory, walked, write_buffer


class Parts:
    """The parts of a unit. What stays over a reset is made once, everything else by `_assemble`.

    The class attributes name the classes of the parts. A unit that departs from the specification in one part is a
    subclass of RemappingUnit that overrides that attribute.
    """

    RegisterFile: ClassVar[type[RegisterFile]] = RegisterFile
    Formats: ClassVar[type[Formats]] = Formats
    FaultLog: ClassVar[type[FaultLog]] = FaultLog
    SecondStage: ClassVar[type[SecondStage]] = SecondStage
    FirstStage: ClassVar[type[FirstStage]] = FirstStage
    LegacyMode: ClassVar[type[LegacyMode]] = LegacyMode
    ScalableMode: ClassVar[type[ScalableMode]] = ScalableMode
    Translation: ClassVar[type[Translation]] = Translation
    Invalidation: ClassVar[type[Invalidation]] = Invalidation
    Interrupts: ClassVar[type[Interrupts]] = Interrupts
    Queue: ClassVar[type[Queue]] = Queue
    PageRequests: ClassVar[type[PageRequests]] = PageRequests

    overrides_keep_no_state: ClassVar[bool] = False
    """Whether all the state of overridden parts is in attributes of the original ones: it can be saved and copied."""

    def __init__(self, memory: Memory, capabilities: Capabilities, policy: Policy, *, audit: bool) -> None:
        self.memory, self.capabilities, self.policy = memory, capabilities, policy
        self.ledger = Ledger(memory) if audit else None
        self.devices: dict[int, AtsDevice] = {}
        self.listeners = Listeners()
        self._write_buffer = write_buffer(memory) if capabilities.write_buffer_flush else None

    def _assemble(self) -> None:
        """Create the parts: registers at their reset values, caches empty, nothing pending."""
        capacity = self.policy.cache_capacity
        self.registers = self.RegisterFile(self.capabilities, self.policy)
        self.caches = Caches(capacity) if self.ledger is None else audited_caches(capacity, self.ledger)
        self.caches.invalidated = self.listeners.invalidated
        self.formats = self.Formats(self.capabilities, self.policy)
        self.faults = self.FaultLog(self.registers, self.policy, partial(self.listeners.message, EventKind.FAULT))
        self.invalidation = self.Invalidation(self.registers, self.caches)
        self.invalidation.write_buffer = self._write_buffer
        self._build_translation(self._table_access())
        self._build_queues()

    def _table_access(self) -> TableAccess:
        """The unit's access to its tables, through what stands between the processors and the memory."""
        memory = self.memory
        views = walked(memory, behind_buffer=self._write_buffer is not None)
        return TableAccess(memory, *views) if self.ledger is None else RecordingAccess(memory, *views, self.ledger)

    def _build_translation(self, access: TableAccess) -> None:
        """Create the stages, the modes, interrupt remapping, and the translation that selects among them."""
        capabilities, policy, formats, caches = self.capabilities, self.policy, self.formats, self.caches
        second = self.SecondStage(access, capabilities, policy, caches.second_stage)
        first = self.FirstStage(access, policy, caches.first_stage, second)
        legacy = self.LegacyMode(access, capabilities, policy, formats, second, caches)
        scalable = self.ScalableMode(access, capabilities, policy, formats, first, second, caches)
        send = partial(self.listeners.message, EventKind.POSTED_INTERRUPT)
        self.interrupts = self.Interrupts(access, capabilities, policy, formats, self.faults, caches, send)
        protected = ProtectedMemory(self.registers)
        self.translation = self.Translation(
            capabilities, policy, legacy, scalable, self.faults, protected, self.interrupts
        )
        fast = self.ledger is None and self._translation_is_stock()
        self._translate = FastPath(self.translation, caches, access).translate if fast else self.translation.translate

    def _overridden(self) -> list[str]:
        """The names of the parts that a subclass overrides."""
        return [name for name, own in vars(Parts).items() if isinstance(own, type) and getattr(self, name) is not own]

    def _translation_is_stock(self) -> bool:
        """Whether no part that translates requests is overridden: an override must see every request."""
        return _TRANSLATING.isdisjoint(self._overridden())

    def _build_queues(self) -> None:
        """Create the page request queue, and the invalidation queue if the unit has one."""
        memory, registers, policy = self.memory, self.registers, self.policy
        tables, devices = self.translation.scalable, self.devices
        send = partial(self.listeners.message, EventKind.PAGE_REQUEST)
        self.page_requests = self.PageRequests(
            memory, registers, self.invalidation, self.faults, tables, devices, send
        )
        told, drain = self.listeners.device_invalidated, self.page_requests.drain
        send = partial(self.listeners.message, EventKind.INVALIDATION)
        self.queue = (
            self.Queue(memory, registers, self.invalidation, self.faults, policy, devices, told, drain, send)
            if self.capabilities.queued_invalidation
            else None
        )


_TRANSLATING = frozenset({"SecondStage", "FirstStage", "LegacyMode", "ScalableMode", "Translation"})
