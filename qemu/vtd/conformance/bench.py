"""The test bench of a scenario: table builders, a driver, devices that do DMA, and a log of what was observed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from iommu import Access, AddressType, FlatMemory, Message, SourceId
from iommu.explain.report import is_interrupt
from iommu.registers import FSTS, Granularity, Register, TableMode
from iommu.structures import (
    ContextEntry,
    RootEntry,
    SecondStageEntry,
    SecondStageMapper,
    SecondStageTable,
    TranslationType,
)
from qemu.vtd.conformance.scalable_bench import ScalableTables
from qemu.vtd.driver import Driver, RecordedFault
from qemu.vtd.platform import DEVICES, Platform, Transfer, stamp

PAGE = 0x1000
TABLES = range(0x100000, 0x200000, PAGE)
"""Pages for the tables that scenarios build, allocated in order; the first is the root table."""

DATA = range(0x800000, 0x808000, PAGE)
"""The pages that DMA may reach, each filled with its own stamp."""
P0, P1, P2, P3 = DATA[:4]

R, W = SecondStageEntry.R.mask, SecondStageEntry.W.mask
"""The permissions in a second-stage entry."""

NOWHERE = 0x40_0000_0000
"""A host address where there is neither memory nor a device."""

# Of the words that a stray write changed, at most so many are shown.
_MOST = 8
_TYPES = {each.value: each.name.lower().replace("_", " ") for each in AddressType}


class Bench:
    """One scenario's machine, freshly reset, with empty tables. `log` returns what was observed, line by line.

    `scalable` builds the tables of scalable mode.
    """

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.driver = Driver(platform)
        self._lines: list[str | Transfer] = []
        platform.reset()
        for page in DATA:
            self.memory.write(page, stamp(page) * (PAGE // 4))
        self._free = iter(TABLES)
        self.root = self.new_table()
        self._context_tables: dict[int, int] = {}
        # Not `self.new_table`: a bench that refers to itself would keep the machine's memory until it is collected.
        self.scalable = ScalableTables(platform, self.driver, self.root, partial(next, self._free))

    @property
    def memory(self) -> FlatMemory:
        """The memory of the platform."""
        return self.platform.memory

    # Tables.

    def new_table(self) -> int:
        """Allocate a zeroed page; returns its address."""
        return next(self._free)

    def write_root(self, bus: int, entry: int) -> None:
        """Write a 128-bit root entry."""
        self.memory.write(self.root + 16 * bus, entry.to_bytes(16, "little"))

    def write_context(self, device: str, entry: int) -> None:
        """Write a 128-bit context entry, and a valid root entry for its bus."""
        source_id = self.platform.source_ids[device]
        if source_id.bus not in self._context_tables:
            self._context_tables[source_id.bus] = self.new_table()
            self.write_root(source_id.bus, RootEntry.make(P=1, CTP=self._context_tables[source_id.bus]))
        self.memory.write(self._context_tables[source_id.bus] + 16 * source_id.devfn, entry.to_bytes(16, "little"))

    def context(
        self,
        device: str,
        table: int = 0,
        *,
        levels: int = 4,
        domain: int = 1,
        type_: int = TranslationType.UNTRANSLATED_ONLY,
        fpd: int = 0,
        also: int = 0,
    ) -> None:
        """Write a valid context entry; `also` holds further bits to set in it."""
        entry = ContextEntry.make(P=1, FPD=fpd, TT=type_, AW=levels - 2, DID=domain, SSPTPTR=table)
        self.write_context(device, entry | also)

    def map(
        self, table: int, address: int, page: int, *, r: int = 1, w: int = 1, levels: int = 4, size: int = 1
    ) -> int:
        """Map a page in the tables at `table`, adding tables as needed; returns the address of the page's entry.

        `size` is the level of the entry: 1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB.
        """
        length = PAGE << 9 * (size - 1)
        mapper = SecondStageMapper(self.memory, partial(next, self._free), levels, root=table)
        mapper.map(address & -length, page, length, read=bool(r), write=bool(w), page_size=length)
        return self.entry(table, address, size, levels=levels)

    def entry(self, table: int, address: int, level: int, *, levels: int = 4) -> int:
        """The address of the entry for `address` at one level."""
        for above in range(levels, level, -1):
            table = SecondStageTable.ADDR.get(self.memory.read_u64(entry_address(table, address, above)))
        return entry_address(table, address, level)

    def change(self, where: int, *, set_: int = 0, clear: int = 0) -> None:
        """Change bits of a 64-bit entry in memory."""
        self.memory.write_u64(where, self.memory.read_u64(where) & ~clear | set_)

    # Software.

    def turn_on(self, mode: int = TableMode.LEGACY) -> None:
        """Set the root table, invalidate everything, enable translation: the order every driver must follow."""
        self.driver.set_root_table(self.root, mode)
        self.driver.invalidate_everything()
        self.driver.enable()

    def start(self, page: int = P0, *, w: int = 1) -> int:
        """The simplest setup: A in domain 1, 0x5000 mapped to a page, translation enabled.

        Returns the address of the page's entry.
        """
        table = self.new_table()
        where = self.map(table, 0x5000, page, w=w)
        self.context("A", table)
        self.turn_on()
        return where

    # Devices.

    def read(self, device: str, address: int) -> None:
        """A device reads 4 bytes."""
        self._lines.append(self.platform.dma(device, Access.READ, address))

    def write(self, device: str, address: int) -> None:
        """A device writes 4 bytes."""
        self._lines.append(self.platform.dma(device, Access.WRITE, address))

    def send_request(self, device: str, address: int, kind: AddressType) -> None:
        """A device sends a translation request or a translated request."""
        self._lines.append(self.platform.translation_request(device, address, kind))

    def interrupt(self, device: str, address: int, data: int = 0) -> None:
        """A device sends an interrupt request as MSI: data to an address in the interrupt range."""
        seen = show_message(self.platform.interrupt(device, address, data))
        self._lines.append(f"{device} interrupt {address:#x} {data:#x} -> {seen}")

    def write_interrupt(self, device: str, address: int, length: int = 4) -> None:
        """A device writes its pattern to an address in the interrupt range, by ordinary DMA."""
        messages = self.platform.write_interrupt(device, address, length)
        seen = ", ".join(map(show_message, messages)) or show_message(None)
        self._lines.append(f"{device} writes {length} bytes to {address:#x} -> {seen}")

    def pin(self, pin: int, entry: int) -> None:
        """An input of the I/O APIC is raised, with this redirection entry."""
        self._lines.append(f"pin {pin} {entry:#x} -> {show_message(self.platform.pin(pin, entry))}")

    def lands(self, device: str, address: int) -> int | None:
        """Where a device's write goes, without a line in the log, for sums of many writes. None when blocked."""
        return self.platform.dma(device, Access.WRITE, address).host

    def sweep(self, device: str, addresses: Sequence[int]) -> None:
        """A device writes 4 bytes at each address. Where they go does not matter: only that all are translated."""
        self.platform.sweep(device, addresses)

    def renumber(self, bus: str, number: int) -> None:
        """Software gives a bus another number."""
        self.platform.renumber(bus, number)

    # Observations.

    def note_messages(self) -> None:
        """Log the messages that the unit has sent itself."""
        for message in self.platform.messages():
            self._lines.append(f"message {message.address:#x} {message.data:#x}")

    def note_register(self, layout: type[Register]) -> None:
        """Log what a register at a fixed offset reads as."""
        value = self.platform.read_register(layout.offset, layout.bits // 8)
        self._lines.append(f"{layout.__name__} {value:#x}")

    def note_bits(self, layout: type[Register]) -> None:
        """Log the set bits of a register at a fixed offset, by name."""
        self._lines.append(show_bits(layout, self.platform.read_register(layout.offset, layout.bits // 8)))

    def note(self, line: str) -> None:
        """Log a line that is specific to the scenario."""
        self._lines.append(line)

    def note_faults(self) -> None:
        """Log the pending fault records and FSTS."""
        for fault in self.driver.faults():
            self._lines.append(show_fault(fault, self.platform.source_ids))
        self.note_bits(FSTS)

    def take_faults(self) -> None:
        """Log the pending fault records, and clear them."""
        for fault in self.driver.faults():
            self._lines.append(show_fault(fault, self.platform.source_ids))
        self.driver.clear_faults()

    def note_record(self, raw: int) -> None:
        """Log a fault record, whether or not F is set in it."""
        self._lines.append(show_fault(RecordedFault.decode(raw), self.platform.source_ids))

    def note_granularity(self, performed: Granularity) -> None:
        """Log the granularity an invalidation command reported."""
        self._lines.append(f"performed {performed.name}")

    def log_so_far(self) -> tuple[str, ...]:
        """Everything observed by a scenario that was cut short. Where reads got their data from is not known then."""
        return self._shown(_show_unsettled)

    def log(self) -> tuple[str, ...]:
        """Everything observed, in order; settles the transfers."""
        self.platform.settle()
        return self._shown(show_transfer)

    def _shown(self, show: Callable[[Transfer], str]) -> tuple[str, ...]:
        shown: list[str] = []
        for line in self._lines:
            shown += [line] if isinstance(line, str) else [show(line), *show_changes(line)]
        return tuple(shown)


def entry_address(table: int, address: int, level: int) -> int:
    """The address of a table's entry for `address`."""
    return table + (address >> 3 + 9 * level & 0x1FF) * 8


def show_message(message: Message | None) -> str:
    """The message that an interrupt request became: "0xfee03000 0x4055", or "blocked"."""
    return "blocked" if message is None else f"{message.address:#x} {message.data:#x}"


def show_transfer(transfer: Transfer) -> str:
    """A transfer as a line: "A write 0x5000 -> 0x800000", or "-> blocked"."""
    where = "blocked" if transfer.host is None else f"{transfer.host:#x}"
    return f"{_request(transfer)} -> {where}"


def _show_unsettled(transfer: Transfer) -> str:
    return f"{_request(transfer)} -> unknown" if transfer.access is Access.READ else show_transfer(transfer)


def _request(transfer: Transfer) -> str:
    return f"{transfer.device} {transfer.access.name.lower()} {transfer.address:#x}"


def show_changes(transfer: Transfer) -> list[str]:
    """What else a transfer changed in memory, a line for each word: "changed 0x103028 from 0x800003 to 0x800023"."""
    shown = [f"changed {address:#x} from {old:#x} to {new:#x}" for address, old, new in transfer.changes[:_MOST]]
    more = len(transfer.changes) - _MOST
    return [*shown, f"changed {more} more words"] if more > 0 else shown


def show_fault(fault: RecordedFault, source_ids: Mapping[str, SourceId] = DEVICES) -> str:
    """A fault record as a line: "fault 0x05 A 0x5000 write", or "fault 0x22 A index 1" for an interrupt."""
    name = next(
        (each for each, source_id in source_ids.items() if source_id == fault.source_id), str(fault.source_id)
    )
    if is_interrupt(fault.reason):
        return f"fault {fault.reason:#04x} {name} index {fault.index}"
    kind = "read" if fault.is_read else "write"
    if fault.address_type:
        kind = _TYPES.get(fault.address_type, f"AT {fault.address_type} (reserved)")
    pasid = "" if fault.pasid is None else f" PASID {fault.pasid:#x}"
    return f"fault {fault.reason:#04x} {name} {fault.page:#x} {kind}{pasid}"


def show_bits(layout: type[Register], value: int) -> str:
    """The set bits of a register by name: "FSTS PPF", or "FSTS 0". Fields of several bits are left out."""
    names = [part.name for part in layout.fields.values() if part.width == 1 and part.get(value)]
    return f"{layout.__name__} {' '.join(names) or '0'}"
