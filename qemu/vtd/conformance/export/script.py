"""A recorded scenario as a script: qtest commands, comments that say what each does, and what is to be observed.

# RTADDR: RTA=0x0000000000100000
writeq 0xfed90020 0x100000
readl 0xfed9001c == 0x40000000                  repeated until it reads so
readl 0xfed90034 ? 0x2 FSTS                     compared; FSTS is what it is called
readq 0xfed90228 ? 0x80000005/0xff000000 FRCD   compared in the bits of a mask
trace vtd_irq_generate ? none messages          compared with QEMU's trace: messages as ADDRESS,DATA
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import zip_longest

from iommu import Access
from iommu.engine.request import PAGE_4K
from qemu.vtd.conformance.export.recording import RecordedModel, RecordedQemu, Step
from qemu.vtd.conformance.stimulus.fields import RegisterNames, fields_text
from qemu.vtd.conformance.stimulus.tables import Table
from qemu.vtd.platform import stamp

# Drivers wait for these; what else they read is an observation.
_AWAITED = ("GSTS", "CCMD", "IOTLB")


class Script:
    """The script of a scenario that was run on a QEMU and on the model.

    Args:
        platform: the QEMU.
        tables: those that the scenario builds.
        right: what the values are taken from that the specification has.
        explained: the model with the version's other quirks: bits that these explain are not compared.

    Attributes:
        text: the script.
        events: the trace events that it looks at.
    """

    def __init__(
        self,
        platform: RecordedQemu,
        tables: list[Table],
        right: RecordedModel | RecordedQemu,
        explained: RecordedModel,
    ) -> None:
        self._platform, self._tables, self.events = platform, tables, set[str]()
        self._registers = RegisterNames(platform.capabilities)
        steps = platform.recording.steps
        self._expected, self._others = (
            _matched(steps, right.recording.steps),
            _matched(steps, explained.recording.steps),
        )
        self._pending: list[tuple[Step, Step]] = []
        self._reached = {
            step.transfer.host & ~3
            for recording in (platform.recording, right.recording)
            for step in recording.steps
            if step.transfer is not None and step.transfer.host is not None
        }
        self._used = {step.about[0] for step in steps if step.kind == "dma"}
        self._observed: set[str] = set()
        self.text = "".join(f"{line}\n" for number in range(len(steps)) for line in self._lines(number))

    def _lines(self, number: int) -> Iterator[str]:
        """The lines of one step."""
        step, expected = self._platform.recording.steps[number], self._expected.get(number)
        if step.kind != "read" and step.lines:
            self._observed.clear()
        match step.kind:
            case "memory":
                yield from self._memory(step)
            case "look":
                yield from self._look(step, expected)
            case "read":
                yield from self._read(step, expected, self._others.get(number))
            case "write":
                offset, value, size = step.about
                yield f"# {self._register(offset, value, size)}"
                yield from _plain(step)
            case "set-up":
                yield from self._set_up(step)
            case "renumber" | "other":
                if step.kind == "renumber":
                    yield "# Bus {} gets number {:#x}.".format(*step.about)
                yield from _plain(step)
            case "dma":
                yield from self._dma(step, expected)
            case "settle":
                yield from self._settle(step)
            case "interrupt" | "messages":
                yield from self._messages(step, expected)

    def _set_up(self, step: Step) -> Iterator[str]:
        """PCI, or a device, if the scenario uses it."""
        (device,) = step.about
        if not device:
            yield "# What firmware does: PCI configuration space at 0xb0000000, BARs, bus mastering."
            yield from _plain(step)
        elif device in self._used and step.lines:
            yield f"# {step.device}: the bytes that it is to write, moved into its buffer."
            yield from _plain(step)

    # Memory.

    def _memory(self, step: Step) -> Iterator[str]:
        address, data = step.about
        if not step.lines:
            return
        if len(data) == PAGE_4K and data == data[:4] * (PAGE_4K // 4):
            for place in sorted(host for host in self._reached if host & ~0xFFF == address):
                yield f"# Memory that DMA reaches: {place:#x}"
                yield f"write {place:#x} 0x4 0x{data[:4].hex()}"
            return
        yield f"# {self._entry(address, data)}"
        yield from _plain(step)

    def _look(self, step: Step, expected: Step | None) -> Iterator[str]:
        """Memory that software reads, if the unit has written there, on QEMU or as the specification has it."""
        if expected is not None and (step.changed or expected.changed):
            address, length = step.about
            yield f"read {address:#x} {length:#x} ? 0x{expected.data.hex()} memory at {address:#x}"

    def _entry(self, address: int, data: bytes) -> str:
        """What software writes to memory, in words."""
        for table in self._tables:
            index, rest = divmod(address - table.start, table.size)
            if not rest and 0 <= index < table.length // table.size and len(data) == table.size:
                raw, place = int.from_bytes(data, "little"), table.place(index)
                name = f"{table.name}, {place}" if place else table.name
                return f"{name}: {fields_text(table.layout(raw), raw) or '0'}"
        return f"memory, {len(data)} bytes at {address:#x}"

    # Registers.

    def _register(self, offset: int, value: int, size: int) -> str:
        """A register's value in words."""
        name, fields = self._registers.describe(offset, size, value)
        return f"{name}: {fields or f'{value:#x}'}"

    def _read(self, step: Step, expected: Step | None, other: Step | None) -> Iterator[str]:
        """A register that is read: awaited, or observed. One that is read only on QEMU says nothing."""
        if expected is None:
            return
        offset, size = step.about
        ((command, _),) = step.lines[-1:]
        name, _ = self._registers.describe(offset, size, 0)
        if step.value == expected.value and name in _AWAITED:
            yield f"{command} == {step.value:#x}"
            return
        explained = 0 if other is None else expected.value ^ other.value
        if command in self._observed:
            return
        self._observed.add(command)
        mask = f"/{((1 << 8 * size) - 1) & ~explained:#x}" if explained else ""
        yield f"# VT-d: {self._register(offset, expected.value, size)}"
        if step.value != expected.value:
            yield f"# {self._platform.name}: {self._register(offset, step.value, size)}"
        yield f"{command} ? {expected.value:#x}{mask} {name}"

    # Devices.

    def _dma(self, step: Step, expected: Step | None) -> Iterator[str]:
        _, access, address, length = step.about
        if step.transfer is None or expected is None or expected.transfer is None:
            yield from _plain(step)
            return
        seen, right = step.transfer.host, expected.transfer.host
        yield f"# {step.device} {access.name.lower()}s {length} bytes at {address:#x}. VT-d: {_where(right)}." + (
            "" if seen == right else f" {self._platform.name}: {_where(seen)}."
        )
        yield from _plain(step)
        entries = {change.address: change.before for change in step.transfer.changes}
        entries |= {change.address: change.after for change in expected.transfer.changes}
        for address, value in sorted(entries.items()):
            yield f"read {address:#x} 0x8 ? 0x{value.to_bytes(8, 'little').hex()} the entry at {address:#x}"
        if access is Access.READ:
            self._pending.append((step, expected))
            return
        size = self._platform.memory.size
        for host, wanted in ((right, step.pattern), (seen, step.replaced)):
            if host is not None and host + length <= size and not (host == seen == right and wanted != step.pattern):
                yield f"read {host:#x} {length:#x} ? 0x{wanted.hex()} memory at {host:#x} after the write"
        if seen is not None:
            yield f"write {seen:#x} {length:#x} 0x{step.replaced.hex()}"

    def _settle(self, step: Step) -> Iterator[str]:
        """The data that a device has read, dumped to memory."""
        if not step.lines:
            return
        yield "# Translation off; then edu writes the buffer with the data that it has read to memory."
        pending, self._pending = iter(self._pending), []
        for command, answer in _collapsed(step):
            if not command.startswith("read "):
                yield _line(command, answer)
                continue
            read, expected = next(pending)
            host = None if expected.transfer is None else expected.transfer.host
            wanted = bytes(4) if host is None else stamp(host & ~0xFFF)
            yield f"{command} ? 0x{wanted.hex()} data read at {read.about[2]:#x}"

    def _messages(self, step: Step, expected: Step | None) -> Iterator[str]:
        event = "vtd_ir_remap_msi" if step.kind == "interrupt" else "vtd_irq_generate"
        if step.kind == "interrupt":
            _, address, data = step.about
            yield f"# {step.device} sends an MSI: {data:#x} to {address:#x}."
        else:
            yield "# Messages of the unit itself since the last look."
        yield from _plain(step)
        if expected is not None:
            self.events.add(event)
            wanted = ";".join(f"{message.address:#x},{message.data:#x}" for message in expected.messages) or "none"
            what = "the interrupt" if step.kind == "interrupt" else "messages"
            yield "# No qtest command shows this: the value is taken from QEMU's trace."
            yield f"trace {event} ? {wanted} {what}"


def _matched(steps: list[Step], theirs: list[Step]) -> dict[int, Step]:
    """By the number of a step: the same step among others, if it is there."""
    matcher = SequenceMatcher(None, [step.key for step in steps], [step.key for step in theirs], autojunk=False)
    return {block.a + n: theirs[block.b + n] for block in matcher.get_matching_blocks() for n in range(block.size)}


def _collapsed(step: Step) -> list[tuple[str, str]]:
    """The commands of a step; of one that was repeated until it read what was awaited, the last."""
    following = [command for command, _ in step.lines[1:]]
    pairs = zip_longest(step.lines, following)
    return [(command, answer) for (command, answer), after in pairs if command != after or not answer]


def _plain(step: Step) -> list[str]:
    return [_line(command, answer) for command, answer in _collapsed(step)]


def _line(command: str, answer: str) -> str:
    """A command; a reading one waits for its answer."""
    if not answer:
        return command
    return f"{command} == {answer if command.startswith('read ') else f'{int(answer, 16):#x}'}"


def _where(host: int | None) -> str:
    return "blocked" if host is None else f"reaches {host:#x}"
