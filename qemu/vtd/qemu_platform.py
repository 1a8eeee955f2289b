"""A platform in QEMU: see `qemu.vtd.platform`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Self

from iommu import Access, AddressType, Capabilities, Message, MisuseError, VtdError
from iommu.dmar import Dmar
from iommu.engine.request import PAGE_4K
from iommu.memory import FlatMemory
from iommu.registers import CAP, ECAP, GCMD
from qemu.vtd import probe
from qemu.vtd.devices import Edu
from qemu.vtd.devices.source import SynchronousSource
from qemu.vtd.machine import Machine
from qemu.vtd.platform import MEMORY_SIZE, Transfer, Unreachable, page_of_stamp, renumbered
from qemu.vtd.ram import Change
from qemu.vtd.topology import PLAIN, Topology

SCRATCH = 0x9F0000
"""Where the reading device dumps its buffer, away from the memory that scenarios use."""

# The I/O APIC: index register, 0x10 above it the data; the first register of its redirection table.
_IO_APIC = 0xFEC0_0000
_IO_APIC_ENTRY = 0x10
_IO_APIC_PATH = "/machine/q35/ioapic"
_MASKED = 1 << 16

_EVENTS = ("vtd_ir_remap_msi", "vtd_irq_generate", "apic_deliver_irq")
_REMAPPED = re.compile(r"vtd_ir_remap_msi \(.*\) -> \(addr (0x[0-9a-f]+), data (0x[0-9a-f]+)\)")
_OWN = re.compile(r"vtd_irq_generate addr (0x[0-9a-f]+) data (0x[0-9a-f]+)")
_DELIVERED = re.compile(
    r"apic_deliver_irq dest (\d+) dest_mode (\d+) delivery_mode (\d+) vector (\d+) trigger_mode (\d+)"
)


class QemuPlatform:
    """A platform in QEMU.

    Use it in a with-block; QEMU ends with the block.

    Args:
        qemu: the program; see `qemu.vtd.probe.find_qemu`.
        properties: of intel-iommu, by the names of `probe.Build.spelled`.
        topology: the devices; the first edu is the one that reads.
        timeout: time limit for any single answer, in seconds.

    Attributes:
        machine: the QEMU machine.
        kept_trace: the lines of its trace, once `trace_everything` was called.

    Raises PropertyMissing for a property that this QEMU does not have.
    """

    def __init__(
        self,
        qemu: str | None = None,
        properties: Mapping[str, str | int | bool] = MappingProxyType({}),
        topology: Topology = PLAIN,
        timeout: float = 10.0,
    ) -> None:
        self.topology, self.source_ids = topology, topology.source_ids
        self._devices = {place.name: place.device() for place in topology.places}
        self._reader = next((device for device in self._devices.values() if isinstance(device, Edu)), None)
        build = probe.probe(probe.find_qemu(qemu))
        self.machine = Machine(
            build.path,
            memory=MEMORY_SIZE,
            iommu=build.spelled(properties),
            devices=[*topology.bridges, *self._devices.values()],
            root_buses=topology.root_buses,
            trace=_EVENTS,
            timeout=timeout,
        )
        self.name = f"QEMU {'.'.join(map(str, self.machine.version))}"
        self._pending: list[Transfer] = []
        self._remapped: list[Message] = []
        self._own: list[Message] = []
        self._slots_used = 0
        self.kept_trace: list[str] = []
        self._keep_trace = False

    def __enter__(self) -> Self:
        self.machine.__enter__()
        try:
            self._base = self.machine.register_base
            self.memory = self.machine.memory
            host_width = Dmar.parse(self.machine.dmar(), strict=False).header.host_address_width + 1
            cap, ecap = self.read_register(CAP.offset, 8), self.read_register(ECAP.offset, 8)
            self.capabilities = Capabilities.from_registers(cap, ecap, host_width)
        except BaseException:
            self.machine.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.close()

    def reset(self) -> None:
        """See Platform. The reader's slots are cleared, so that old data cannot be taken for a new read.

        The trace up to here is dropped: what it holds is of the scenario before, which `settle` has checked.
        """
        self.machine.reset()
        self.machine.ram.clear()
        self.source_ids = self.topology.source_ids
        self.machine.trace_lines()
        self._remapped, self._own, self.kept_trace = [], [], []
        self._pending.clear()
        if self._slots_used and self._reader is not None:
            self._reader.clear_slots(SCRATCH, self._slots_used)
            self._slots_used = 0

    def restart(self) -> None:
        """See Platform."""
        self.machine.reset()
        self.source_ids = self.topology.source_ids

    def migrate(self) -> None:
        """See Platform. The reader's buffer is lost: no read may be pending."""
        if self._pending:
            raise MisuseError("a migration loses the data that a device has read")
        self._trace()
        self.machine.migrate()
        self.memory = self.machine.memory
        self._slots_used = 0

    def read_register(self, offset: int, size: int) -> int:
        """See Platform."""
        return self.machine.qtest.read(self._base + offset, size)

    def write_register(self, offset: int, value: int, size: int) -> None:
        """See Platform."""
        self.machine.qtest.write(self._base + offset, value, size)

    def dma(self, device: str, access: Access, address: int, length: int = 4) -> Transfer:
        """See Platform. `host` of a write is known immediately, that of a read only after `settle`."""
        transfer = Transfer(device, access, address, length)
        source = self._devices[device]
        if access is Access.WRITE:
            before = self.machine.ram.pages()
            source.dma_write(address, length)
            transfer.changes = self.machine.ram.changes_since(before)
            self._take_write_back(transfer, before, source.pattern(length))
            return transfer
        if self._reader is None or source is not self._reader:
            raise Unreachable(f"device {device} ({source.model}) cannot read")
        before = self.machine.ram.pages()
        self._reader.dma_read(address, length, self._slots_used)
        transfer.changes = self.machine.ram.changes_since(before)
        self._slots_used += 1
        self._pending.append(transfer)
        return transfer

    def _take_write_back(self, transfer: Transfer, before: dict[int, bytes], pattern: bytes) -> None:
        """Find where the device's data went, and put back what was there. All other changes stay."""
        transfer.host = _find_pattern(transfer.changes, self.memory, pattern)
        if transfer.host is None:
            return
        for at in range(transfer.host, transfer.host + len(pattern)):
            page = before.get(at & -PAGE_4K)
            self.memory.write(at, bytes(1) if page is None else page[at % PAGE_4K : at % PAGE_4K + 1])
        transfer.changes = self.machine.ram.changes_since(before)

    def sweep(self, device: str, addresses: Sequence[int]) -> None:
        """See Platform. One round trip for all of them."""
        source = self._devices[device]
        if not isinstance(source, SynchronousSource):
            raise Unreachable(f"device {device} ({source.model}) cannot be told to do several writes at once")
        with self.machine.qtest.pipeline() as pipeline:
            for address in addresses:
                source.queue_write(pipeline, address, 4)

    def translation_request(self, device: str, address: int, kind: AddressType) -> Transfer:
        """See Platform."""
        raise Unreachable("no device that QEMU emulates sends translation requests or translated requests")

    def interrupt(self, device: str, address: int, data: int) -> Message | None:
        """See Platform. QEMU's trace shows what the remapping made of the request, and nothing when it blocked it."""
        source = self._devices[device]
        try:
            return self._only(self._remapped_by(lambda: source.send_msi(address, data)), device)
        except MisuseError as error:
            raise Unreachable(str(error)) from None

    def write_interrupt(self, device: str, address: int, length: int = 4) -> list[Message]:
        """See Platform."""
        return self._remapped_by(lambda: self._devices[device].dma_write(address, length))

    def pin(self, pin: int, entry: int) -> Message | None:
        """See Platform. Afterwards the pin is masked, as after a reset."""
        low, high = _IO_APIC_ENTRY + 2 * pin, _IO_APIC_ENTRY + 2 * pin + 1

        def raise_pin() -> None:
            with self.machine.qtest.pipeline() as pipeline:
                for register, value in ((high, entry >> 32), (low, entry & 0xFFFFFFFF)):
                    pipeline.write(_IO_APIC, register, 4)
                    pipeline.write(_IO_APIC + 0x10, value, 4)
                for level in (1, 0):
                    pipeline.set_irq(_IO_APIC_PATH, pin, level)
                pipeline.write(_IO_APIC, low, 4)
                pipeline.write(_IO_APIC + 0x10, _MASKED, 4)

        return self._only(self._remapped_by(raise_pin), f"pin {pin}")

    def _remapped_by(self, action: Callable[[], None]) -> list[Message]:
        """The messages that the unit passes on during an action."""
        self._trace()
        self._remapped.clear()
        action()
        remapped, self._remapped = self._trace(), []
        return remapped

    def _only(self, remapped: list[Message], source: str) -> Message | None:
        if len(remapped) > 1:
            raise VtdError(f"{self.name}: one interrupt request of {source} became {len(remapped)} messages")
        return remapped[0] if remapped else None

    def messages(self) -> list[Message]:
        """See Platform."""
        self._trace()
        own, self._own = self._own, []
        return own

    def _trace(self) -> list[Message]:
        """Read the trace: the messages of devices that the unit has passed on, and those that it has sent itself.

        Raises VtdError when one did not reach the local APICs as it is, or when they got one that is neither.
        """
        sent: Message | None = None
        lines = self.machine.trace_lines()
        if self._keep_trace:
            self.kept_trace += lines
        for line in lines:
            if (found := _REMAPPED.search(line) or _OWN.search(line)) is not None:
                self._check_delivery(sent, None)
                sent = Message(int(found[1], 16), int(found[2], 16))
                (self._remapped if found.re is _REMAPPED else self._own).append(sent)
            elif (found := _DELIVERED.search(line)) is not None:
                self._check_delivery(sent, tuple(map(int, found.groups())))
                sent = None
        self._check_delivery(sent, None)
        return self._remapped

    def _check_delivery(self, sent: Message | None, delivered: tuple[int, ...] | None) -> None:
        """Compare a message with what reached the local APICs, of whose destination the trace shows 8 bits."""
        if sent is None and delivered is None:
            return
        if sent is None:
            raise VtdError(
                f"{self.name}: the local APICs got an interrupt that the unit has not passed on: {delivered}"
            )
        address, data = sent.address, sent.data
        expected = (address >> 12 & 0xFF, address >> 2 & 1, data >> 8 & 7, data & 0xFF, data >> 15 & 1)
        if delivered != expected:
            got = "nothing" if delivered is None else f"{delivered}"
            raise VtdError(f"{self.name}: the unit sent {address:#x} {data:#x}, and the local APICs got {got}")

    def trace_everything(self) -> None:
        """Have QEMU trace all that its unit does, and keep the lines."""
        self._keep_trace = True
        self.machine.qmp("trace-event-set-state", name="vtd_*", enable=True)

    def renumber(self, bus: str, number: int) -> None:
        """See Platform. The port is on a root bus; the window to its devices' registers stays as it is."""
        self.machine.renumber_bus(bus, number)
        self.source_ids |= renumbered(self.topology, bus, number)

    def settle(self) -> None:
        """See Platform. Translation is disabled, so that the reader can dump its buffer.

        Raises VtdError as `_trace` does, for what has not been looked at so far.
        """
        self._trace()
        if not self._pending or self._reader is None:
            return
        self.write_register(GCMD.offset, 0, 4)
        self._reader.dump_buffer(SCRATCH)
        self.take_reads()

    def take_reads(self) -> None:
        """Take the data of the pending reads from the scratch memory, where the reader has dumped its buffer."""
        assert self._reader is not None, "only a reader has reads pending"
        for slot, transfer in enumerate(self._pending):
            seen = self.memory.read(SCRATCH + self._reader.slot_offset(slot), 4)
            page = page_of_stamp(seen)
            transfer.host = None if page is None else page | transfer.address & 0xFFF
        self._pending.clear()


def _find_pattern(changes: list[Change], memory: FlatMemory, pattern: bytes) -> int | None:
    """The address where `pattern` now is, because of one of these changes; None when it is not there."""
    for change in changes:
        differing = change.before ^ change.after
        first = change.address + ((differing & -differing).bit_length() - 1) // 8
        for at in range(first, max(first - len(pattern), -1), -1):
            if at + len(pattern) <= memory.size and memory.read(at, len(pattern)) == pattern:
                return at
    return None
