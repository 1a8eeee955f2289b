"""One remapping unit: its registers, and how requests pass through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

from iommu.engine.ats import AtsDevice, DeviceInvalidation, PageRequest
from iommu.engine.audit import StaleItem
from iommu.engine.capabilities import Capabilities
from iommu.engine.faults.events import EventKind, Message
from iommu.engine.interrupts.request import InterruptOutcome, InterruptRequest
from iommu.engine.invalidation.selector import CacheName, Selector
from iommu.engine.mappings import Mapping, mappings
from iommu.engine.page_requests.page_requests import PageRequestOutcome
from iommu.engine.parts import Parts
from iommu.engine.policy import Policy
from iommu.engine.request import DmaRequest, Outcome, SourceId
from iommu.engine.state import load, load_copy, save, state_for_copy
from iommu.engine.state_format import Reader
from iommu.engine.steps import IgnoredWrite, Pending, Steps
from iommu.engine.trace import trace as trace_of
from iommu.errors import MisuseError
from iommu.memory import Memory
from iommu.registers import GCMD, GSTS, IRTA, RTADDR


class RemappingUnit(Parts):
    """An executable VT-d unit: software drives it through `mmio_write`, devices through `translate`.

        unit = RemappingUnit(memory, Capabilities(address_width=48))
        unit.mmio_write(RTADDR.offset, root_table, size=8)
        unit.mmio_write(GCMD.offset, GCMD.make(SRTP=1), size=4)
        unit.mmio_write(GCMD.offset, GCMD.make(TE=1), size=4)
        unit.translate(DmaRequest(SourceId(0, 4, 0), 0x5000, Access.WRITE))

    Args:
        memory: host memory, which holds the tables. If it is a ProcessorCache, lines that have not been flushed are
            visible only to accesses that snoop; if it is a WriteBuffer, not to table walks of a unit with CAP.RWBF.
        capabilities: what the unit offers.
        policy: what it does where the architecture leaves a choice.
        audit: record the source of each cached item, for `audit()` and `Outcome.stale`; requests take longer.
        stepped: commands complete one by one, when `step` says so; otherwise at once.

    Attributes:
        on_message: called with each message that the unit sends, and the event it is for. While it is set, messages
            are not kept for `drain_events`.
        on_invalidation: called after each invalidation, before its completion is visible to software (ICC, IVT,
            GSTS, IQH, the status write of a wait descriptor): by CCMD, by the IOTLB register, by
            a descriptor, also for a device-TLB whose device is not attached, by `invalidate`, by GCMD (SRTP, SIRTP,
            IRE and TE where they drop what is cached), and by a page request, which drops its page (7.4). One
            command may make several; each is told by itself.

    Both stay over a reset. They may read registers and memory, translate, and ask for `mappings`, all of which show
    the unit as it is after the command; whatever commands the unit (`mmio_write`, `step`, `invalidate`,
    `page_request`, `reset`) or saves it raises MisuseError until they have returned.

    An exception that one of them raises passes through the call that made the unit call it, which ends there. What
    the invalidation named has been dropped, but it has not completed: ICC or IVT is still 1, GSTS is as before, and
    the invalidation queue stays at its descriptor, which it carries out again when IQT is next written, or with the
    next step. A command in a register can be given again. Whatever a message reports has been recorded, and the
    message counts as sent.

    MemoryAccessError of the memory becomes a fault. Every other exception of it passes through, KeyboardInterrupt
    included, if the access that raised it did nothing. The unit then stands before that access: do the operation
    again, and all is as if nothing had happened. A queue goes on with the descriptor that was interrupted when IQT is
    written again. This does not hold for a KeyboardInterrupt between two instructions of the unit itself.

    Units in several threads do not affect each other. One unit serves one thread at a time: take a lock around each
    call, for its devices and its memory too.

    A unit that departs from the specification in one part is a subclass that names another class for it: see Parts.
    """

    def __init__(
        self,
        memory: Memory,
        capabilities: Capabilities | None = None,
        policy: Policy | None = None,
        *,
        audit: bool = False,
        stepped: bool = False,
    ) -> None:
        super().__init__(memory, capabilities or Capabilities(), policy or Policy(), audit=audit)
        self.stepped = stepped
        self.reset()

    @property
    def on_message(self) -> Callable[[EventKind, Message], object] | None:
        """See RemappingUnit."""
        return self.listeners.on_message

    @on_message.setter
    def on_message(self, listener: Callable[[EventKind, Message], object] | None) -> None:
        self.listeners.on_message = listener

    @property
    def on_invalidation(self) -> Callable[[Selector], object] | None:
        """See RemappingUnit."""
        return self.listeners.on_invalidation

    @on_invalidation.setter
    def on_invalidation(self, listener: Callable[[Selector], object] | None) -> None:
        self.listeners.on_invalidation = listener

    def warm_reset(self) -> None:
        """Reset without loss of power: as `reset`, but sticky fields of registers keep their values (spec 11.3).

        These are all of FSTS, FRCD and IQERCD, ICS.IWC, PRS.PRO and PRS.PPR. No event is pending for them. The next
        fault record is the first again: nothing is remapped (spec 7.2.1).
        """
        sticky = self.registers.sticky()
        self.reset()
        self.registers.keep(sticky)

    def reset(self) -> None:
        """Power-good reset (spec 11.4): registers at their reset values, caches empty, nothing pending."""
        self.listeners.check_none_runs()
        if self.ledger is not None:
            self.ledger.reset()
        self.listeners.kept.clear()
        self._assemble()
        self.registers[GCMD].effect, self.registers[GCMD].kept = self._on_command, self._switched_on
        self.steps = self._hold_back() if self.stepped else None

    def _hold_back(self) -> Steps:
        """Let commands wait for `step`."""
        if self.queue is not None:
            self.queue.stepped = True
        return Steps(self.registers, self.queue)

    def save(self) -> bytes:
        """The whole state of the unit, without its memory and its devices, in the format of engine/state_format.py.

        Callbacks that a user has set are not part of it.

        Raises:
            MisuseError: the unit is in the middle of a command: a callback has called this, or a device for which the
                invalidation queue carries out a descriptor. Or the unit has parts of other classes: see
                `overrides_keep_no_state`.
        """
        self.listeners.check_none_runs()
        self._check_parts_are_known()
        return save(self)

    def _check_parts_are_known(self) -> None:
        if not self.overrides_keep_no_state and (names := self._overridden()):
            raise MisuseError(
                f"{type(self).__name__} has its own {', '.join(names)}, which may hold state that is not saved: "
                "it must say overrides_keep_no_state = True if they do not"
            )

    @classmethod
    def restore(
        cls,
        saved: bytes,
        memory: Memory,
        *,
        capabilities: Capabilities | None = None,
        policy: Policy | None = None,
    ) -> Self:
        """A unit in the state that `save` has returned. No device is attached to it.

        It is audited and stepped if the original was. Changes of memory in the meantime are to this unit what they
        would have been to the original: what it has cached is stale then.

        Args:
            memory: with the contents that the original's memory has, or had when it was saved.
            capabilities, policy: if given, those that the unit must have; they are part of its state.

        Raises:
            StateError: the bytes are not the state of a unit that is possible, or of a unit that differs.
        """
        reader = Reader(saved)
        reader.expect(capabilities, policy)
        capabilities = capabilities or reader.capabilities
        unit = cls(memory, capabilities, reader.policy, audit=reader.audited, stepped=reader.stepped)
        load(unit, reader)
        return unit

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: the saved state, with memory and devices.

        Callbacks that a user has set are not copied, nor are attributes that a subclass adds.
        """
        return state_for_copy(self, self.save())

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The inverse of `__getstate__`. The devices may not be complete yet: they refer to this unit."""
        reader = Reader(state["saved"])
        options: dict[str, bool] = {"audit": reader.audited, "stepped": reader.stepped}
        RemappingUnit.__init__(self, state["memory"], reader.capabilities, reader.policy, **options)
        load_copy(self, state, reader)

    def mmio_read(self, offset: int, size: int) -> int:
        """Read `size` bytes, 4 or 8, at `offset` from the register base, a multiple of `size`.

        Raises MisuseError for other accesses, unless `Policy.odd_accesses` says what they do.
        """
        return self.registers.read(offset, size)

    def mmio_write(self, offset: int, value: int, size: int) -> None:
        """Write `size` bytes, 4 or 8, at `offset`, a multiple of `size`.

        Raises MisuseError for a value that does not fit, and for other accesses as `mmio_read` does.
        """
        self.listeners.check_none_runs()
        self.registers.write(offset, value, size)

    @property
    def pending(self) -> list[Pending]:
        """The work that `step` completes, in its order; on a unit that is not stepped there is none."""
        return [] if self.steps is None else self.steps.pending

    @property
    def ignored_writes(self) -> list[IgnoredWrite]:
        """The register writes since the reset that a command which had not completed kept from taking effect."""
        return [] if self.steps is None else self.steps.ignored

    def step(self, count: int = 1) -> int:
        """Complete up to `count` pieces of pending work. Returns how many there were.

        Commands given in registers come first, then the descriptors of the invalidation queue, each in its order.
        """
        self.listeners.check_none_runs()
        done = 0
        while done < count and self.steps is not None and self.steps.step():
            done += 1
        return done

    def translate(self, request: DmaRequest, *, trace: bool = False) -> Outcome:
        """Translate one request; a fault is recorded.

        With `trace`, the outcome has the steps of the walk (iommu.engine.trace.Step) and is otherwise the same.
        """
        if self.ledger is None and not trace:
            return self._translate(request)
        if self.ledger is not None:
            self.ledger.begin()
        outcome = trace_of(self.translation, request) if trace else self._translate(request)
        return outcome if self.ledger is None else outcome.replace(stale=self.ledger.take_used())

    def invalidate(self, named: Selector) -> None:
        """Carry out an invalidation, and those that must follow it (`then`), without a register or a queue.

        for stale in unit.audit():
            unit.invalidate(stale.owed)
        """
        self.listeners.check_none_runs()
        step: Selector | None = named
        while step is not None:
            if step.cache is not CacheName.DEVICE_TLB:
                self.invalidation.invalidate(step)
            elif step.source_id is not None:
                command = DeviceInvalidation(step.addresses or range(0), step.pasid, step.every_pasid)
                if (device := self.devices.get(step.source_id)) is not None:
                    device.invalidate(command)
                self.listeners.device_invalidated(step.source_id, command)
            step = step.then

    def audit(self) -> list[StaleItem]:
        """Every cached item that no longer matches memory, with the invalidation that would drop it.

        Raises MisuseError if the unit was not created with `audit=True`.
        """
        if self.ledger is None:
            raise MisuseError("this unit keeps no record of its caches: make it with audit=True")
        return self.ledger.audit()

    def remap_interrupt(self, request: InterruptRequest) -> InterruptOutcome:
        """Remap one interrupt request; a fault is recorded.

        Raises MisuseError for what is not an interrupt request.
        """
        if self.ledger is not None:
            self.ledger.begin()
        return self.interrupts.remap(request.check())

    def attach(self, device: AtsDevice) -> None:
        """Attach a device: it receives device-TLB invalidations and page responses. It stays attached over a reset.

        Raises MisuseError if a device with its source-id is attached already.
        """
        if device.source_id in self.devices:
            raise MisuseError(f"a device {device.source_id} is attached already")
        self.devices[device.source_id] = device

    def detach(self, source_id: SourceId) -> None:
        """Remove an attached device: device-TLB invalidations for it now time out, and responses are lost.

        Raises MisuseError if no device with this source-id is attached.
        """
        if self.devices.pop(source_id, None) is None:
            raise MisuseError(f"no device {source_id} is attached")

    def page_request(self, request: PageRequest) -> PageRequestOutcome:
        """Handle one page request; a fault is recorded.

        Raises MisuseError for a request that no device could send.
        """
        self.listeners.check_none_runs()
        return self.page_requests.receive(request.check())

    def mappings(
        self, source_id: SourceId, pasid: int | None = None, addresses: range | None = None
    ) -> Iterator[Mapping]:
        """What a device can reach by the tables as they stand in memory, in order of address.

        No cache is used or filled, no fault is recorded, no accessed or dirty bit is set. Neighbours that continue
        each other in input and host address, with the same permissions and attributes, are one mapping. Registers
        count as they are now; each table is read when the iteration reaches it. A table that points to itself can
        describe 2**36 pages: for tables of a guest, give `addresses`, which bounds the work.

        A mapping says what untranslated requests of the device can do that are not privileged (without a PASID,
        RID_PRIV decides); other addresses are blocked for all of them, or are interrupts. It takes for granted that
        entries whose accessed or dirty bits have to be set can be written.

        Args:
            pasid: of requests with this PASID; None for those without.
            addresses: only these bytes; None for all.

        Raises:
            MisuseError: no request has such a source-id or PASID, or the addresses are not 64-bit ones in a row.
        """
        return mappings(self.translation, source_id, pasid, addresses, stock=self._translation_is_stock())

    def drain_events(self) -> list[Message]:
        """The messages the unit has sent since the last call, oldest first; none while `on_message` gets them.

        They do not say which event each is for: `on_message` does.
        """
        events = self.listeners.kept[:]
        self.listeners.kept.clear()
        return events

    def _on_command(self, written: int) -> None:
        """GCMD was written: first the one-shot commands, then the enable bits (spec 11.4.4.1)."""
        command, status = GCMD(written), self.registers[GSTS]
        if command.WBF and self._write_buffer is not None:
            self._write_buffer.flush_all()
        if command.SRTP:
            self._set_root_table()
        translating = GSTS.make(RTPS=GSTS.RTPS.get(status.value) | command.SRTP, TES=command.TE)
        table = self.registers.get(IRTA)
        interrupting = self.interrupts.command(command, status.value, 0 if table is None else table.value)
        self.translation.switch(command.TE)
        self.page_requests.enabled = bool(command.TE)
        if GSTS.TES.get(status.value) and not command.TE:
            self._on_translation_off()
        status.value = translating | interrupting
        if not (command.TE or self.interrupts.enabled):
            self.faults.restart()
        if self.queue is not None:
            status.value |= GSTS.make(QIES=self.queue.switch(command.QIE))
            self.queue.run()

    def _switched_on(self) -> int:
        """The enable bits of GCMD, as GSTS has them: each is at the same place in both (spec 11.4.4)."""
        return self.registers[GSTS].value & GCMD.bits_of("TE", "QIE", "IRE", "CFI")

    def _on_translation_off(self) -> None:
        """GCMD.TE went from 1 to 0."""
        if self.capabilities.scalable_mode and self.policy.translation_off_drops:
            self.caches.invalidate_dma()

    def _set_root_table(self) -> None:
        """SRTP: latch RTADDR. The caches are kept, unless the unit invalidates them itself (CAP.ESRTPS)."""
        latched = RTADDR(self.registers[RTADDR].value)
        self.translation.set_root_table(latched.RTA, latched.TTM)
        self.invalidation.mode = self.page_requests.mode = latched.TTM
        if self.queue is not None:
            self.queue.mode = latched.TTM
        if self.capabilities.invalidate_on_root_pointer:
            self.caches.invalidate_dma()
