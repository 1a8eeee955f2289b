"""What software and devices do in a case, one action after the other."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from iommu import Access
from iommu.errors import MisuseError
from iommu.files.documents import Reader, shown
from iommu.registers import FRCD, FSTS
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.platform import MEMORY_SIZE

_WORD = (1 << 64) - 1
_DEVICES = ("A", "B", "C")
_LARGEST = 64
_WINDOW = 0x1000


@dataclass(frozen=True)
class Action:
    """One action. Its fields are numbers and texts, which is what files hold and what shrinking makes smaller.

    Attributes:
        name: what it is called in a file.
        shrinks: the fields whose bits may be cleared when a case is shrunk.
    """

    name: ClassVar[str]
    shrinks: ClassVar[tuple[str, ...]] = ()

    def perform(self, bench: Bench) -> None:
        """Do it. What is observed goes to the bench's log."""
        raise NotImplementedError

    def python(self) -> str:
        """The same as a line of a scenario."""
        raise NotImplementedError

    def check(self) -> str:
        """What makes it impossible, in a few words; empty when it is possible."""
        return ""

    def plain(self) -> dict[str, Any]:
        """For a file: numbers are in hex."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {"do": self.name} | {key: hex(each) if isinstance(each, int) else each for key, each in values.items()}


@dataclass(frozen=True)
class Store(Action):
    """Software writes `size` bytes of memory."""

    name = "store"
    shrinks = ("value",)
    address: int
    value: int
    size: int

    def perform(self, bench: Bench) -> None:
        """See Action."""
        bench.memory.write(self.address, self.value.to_bytes(self.size, "little"))

    def python(self) -> str:
        """See Action."""
        if self.size == 8:
            return f"bench.memory.write_u64({self.address:#x}, {self.value:#x})"
        return f'bench.memory.write({self.address:#x}, ({self.value:#x}).to_bytes({self.size}, "little"))'

    def check(self) -> str:
        """See Action."""
        if not 0 < self.size <= _LARGEST or self.value >> 8 * self.size:
            return f"{self.value:#x} does not fit in {self.size} bytes, of which there can be {_LARGEST}"
        return "" if self.address + self.size <= MEMORY_SIZE else f"{self.address:#x} is beyond memory"


@dataclass(frozen=True)
class Load(Action):
    """Software looks at `size` bytes of memory."""

    name = "load"
    address: int
    size: int

    def perform(self, bench: Bench) -> None:
        """See Action."""
        value = int.from_bytes(bench.memory.read(self.address, self.size), "little")
        bench.note(f"memory {self.address:#x} {value:#x}")

    def python(self) -> str:
        """See Action."""
        read = f"bench.memory.read({self.address:#x}, {self.size})"
        return f"bench.note(f\"memory {self.address:#x} {{int.from_bytes({read}, 'little'):#x}}\")"

    def check(self) -> str:
        """See Action."""
        if not 0 < self.size <= _LARGEST:
            return f"{self.size} bytes: there can be 1 to {_LARGEST}"
        return "" if self.address + self.size <= MEMORY_SIZE else f"{self.address:#x} is beyond memory"


@dataclass(frozen=True)
class Poke(Action):
    """Software writes a register."""

    name = "poke"
    shrinks = ("value",)
    offset: int
    value: int
    size: int

    def perform(self, bench: Bench) -> None:
        """See Action."""
        bench.platform.write_register(self.offset, self.value, self.size)

    def python(self) -> str:
        """See Action."""
        return f"bench.platform.write_register({self.offset:#x}, {self.value:#x}, {self.size})"

    def check(self) -> str:
        """See Action."""
        return _register(self.offset, self.size) or (
            f"{self.value:#x} does not fit in {self.size} bytes" if self.value >> 8 * self.size else ""
        )


@dataclass(frozen=True)
class Peek(Action):
    """Software reads a register."""

    name = "peek"
    offset: int
    size: int

    def perform(self, bench: Bench) -> None:
        """See Action."""
        bench.note(f"register {self.offset:#x} {bench.platform.read_register(self.offset, self.size):#x}")

    def python(self) -> str:
        """See Action."""
        read = f"bench.platform.read_register({self.offset:#x}, {self.size})"
        return f'bench.note(f"register {self.offset:#x} {{{read}:#x}}")'

    def check(self) -> str:
        """See Action."""
        return _register(self.offset, self.size)


@dataclass(frozen=True)
class Submit(Action):
    """Software puts a descriptor in the queue, which the case's start has turned on, and tells the unit."""

    name = "submit"
    shrinks = ("descriptor",)
    descriptor: int

    def perform(self, bench: Bench) -> None:
        """See Action."""
        bench.driver.submit(self.descriptor)

    def python(self) -> str:
        """See Action."""
        return f"bench.driver.submit({self.descriptor:#x})"

    def check(self) -> str:
        """See Action."""
        return "a descriptor has 256 bits at most" if self.descriptor >> 256 else ""


@dataclass(frozen=True)
class Dma(Action):
    """A device reads or writes 4 bytes."""

    name = "dma"
    shrinks = ("address",)
    device: str
    access: str
    address: int

    def perform(self, bench: Bench) -> None:
        """See Action."""
        move = bench.read if self.access == "read" else bench.write
        move(self.device, self.address)

    def python(self) -> str:
        """See Action."""
        return f'bench.{self.access}("{self.device}", {self.address:#x})'

    def check(self) -> str:
        """See Action."""
        if self.access not in ("read", "write"):
            return f"{shown(self.access)} is neither read nor write"
        if self.access == "read" and self.device != "A":
            return "only A reads"
        if self.address & 0xFFF > 0xFFC:
            return f"4 bytes at {self.address:#x} are not within one page"
        return _device(self.device)

    @property
    def kind(self) -> Access:
        """The access as the engine has it."""
        return Access.READ if self.access == "read" else Access.WRITE


@dataclass(frozen=True)
class Msi(Action):
    """A device sends an interrupt request."""

    name = "msi"
    shrinks = ("address", "data")
    device: str
    address: int
    data: int

    def perform(self, bench: Bench) -> None:
        """See Action."""
        bench.interrupt(self.device, self.address, self.data)

    def python(self) -> str:
        """See Action."""
        return f'bench.interrupt("{self.device}", {self.address:#x}, {self.data:#x})'

    def check(self) -> str:
        """See Action."""
        if self.address >> 20 != 0xFEE or self.address & 3:
            return f"{self.address:#x} is not the address of a DWORD in the interrupt range"
        most = 16 if self.device == "A" else 32
        return f"{self.data:#x} has more than {most} bits" if self.data >> most else _device(self.device)


@dataclass(frozen=True)
class Pin(Action):
    """An input of the I/O APIC is raised."""

    name = "pin"
    shrinks = ("entry",)
    pin: int
    entry: int

    def perform(self, bench: Bench) -> None:
        """See Action."""
        bench.pin(self.pin, self.entry)

    def python(self) -> str:
        """See Action."""
        return f"bench.pin({self.pin}, {self.entry:#x})"

    def check(self) -> str:
        """See Action."""
        if not 0 < self.pin < 24:  # QEMU takes pin 0 for pin 2
            return f"{self.pin} is not a pin from 1 to 23"
        return "" if self.entry <= _WORD else "a redirection entry has 64 bits"


@dataclass(frozen=True)
class Faults(Action):
    """Software takes the pending faults."""

    name = "faults"

    def perform(self, bench: Bench) -> None:
        """See Action."""
        bench.take_faults()

    def python(self) -> str:
        """See Action."""
        return "bench.take_faults()"


@dataclass(frozen=True)
class Messages(Action):
    """The messages that the unit has sent itself are looked at."""

    name = "messages"

    def perform(self, bench: Bench) -> None:
        """See Action."""
        bench.note_messages()

    def python(self) -> str:
        """See Action."""
        return "bench.note_messages()"


ACTIONS: dict[str, type[Action]] = {
    each.name: each for each in (Store, Load, Poke, Peek, Submit, Dma, Msi, Pin, Faults, Messages)
}
"""Every kind of action by its name."""

RECORDS = FRCD, FSTS
"""The registers that `Faults` reads and clears."""


def parse(plain: Any, where: str) -> Action:
    """An action from a file. Raises MisuseError that names the place."""
    reader = Reader(plain, where)
    name = reader.text("do")
    if name not in ACTIONS:
        raise MisuseError(f"{where}.do: {shown(name)} is not one of {', '.join(ACTIONS)}")
    kind = ACTIONS[name]
    values: dict[str, Any] = {}
    for each in fields(kind):
        text = reader.text(each.name)
        values[each.name] = text if each.type == "str" else _number(text, f"{where}.{each.name}")
    Reader(plain, where, {"do", *values})
    action = kind(**values)
    if problem := action.check():
        raise MisuseError(f"{where}: {name}: {problem}")
    return action


def changed(action: Action, field: str, value: int) -> Action:
    """The same action with another value of one field."""
    return replace(action, **{field: value})


def _number(text: str, where: str) -> int:
    """A number in hex, of 512 bits at most."""
    digits = text.removeprefix("0x")
    if digits == text or not 0 < len(digits) <= 2 * _LARGEST or not set(digits) <= set("0123456789abcdef"):
        raise MisuseError(f"{where}: {shown(text)} is not a number in hex, such as 0x5000")
    return int(digits, 16)


def _register(offset: int, size: int) -> str:
    if size not in (1, 2, 4, 8):
        return f"a register access has 1, 2, 4 or 8 bytes, not {size}"
    return "" if offset + size <= _WINDOW else f"{offset:#x} is not in the register window"


def _device(name: str) -> str:
    return "" if name in _DEVICES else f"{shown(name)} is none of the devices {', '.join(_DEVICES)}"
