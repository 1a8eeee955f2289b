"""What a register is, and the registers of an event, which come in sets of four."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from iommu.fields import Layout, Rule, address, field, flag

RW = Rule.RW


class Register(Layout):
    """A register, or an array of them: a layout with a place in the register window and a `reset` value.

    `offset` is counted in bytes from the register base; an array has `offsets` instead. A register whose place
    depends on the unit overrides `places`. `needs` names the capability without which there is no such register: it
    reads as 0 and writes are ignored. A field with `needs` reads as 0 and ignores writes in the same way.
    """

    offset: ClassVar[int] = -1
    offsets: ClassVar[Sequence[int]] = ()
    reset: ClassVar[int] = 0
    needs: ClassVar[str] = ""

    def __init_subclass__(
        cls, *, offset: int = -1, offsets: Sequence[int] = (), reset: int = 0, needs: str = "", **rest: Any
    ) -> None:
        super().__init_subclass__(**rest)
        cls.offset, cls.reset, cls.needs = offset, reset, needs or cls.needs
        cls.offsets = (offset,) if offset >= 0 else offsets

    @classmethod
    def places(cls, cap: int, ecap: int) -> Sequence[int]:
        """The offsets of this register in a unit with these CAP and ECAP: one, or one for each of an array."""
        return cls.offsets

    @classmethod
    def mask_of(cls, *rules: Rule) -> int:
        """All bits that software accesses by one of `rules`."""
        return sum(part.mask for part in cls.fields.values() if part.rule in rules)


class EventControl(Register, bits=32):
    """One event's mask: the fault, invalidation and page request events have one each."""

    IM = flag(31, "masked: the message is held back", rule=RW)
    IP = flag(30, "pending: a message is held back")


class EventData(Register, bits=32):
    """One event's message data."""

    IMD = field(15, 0, "message data", rule=RW)


class EventAddress(Register, bits=32):
    """One event's message address, low half."""

    MA = address(31, 2, "message address", rule=RW)


class EventUpperAddress(Register, bits=32):
    """One event's message address, high half."""

    MUA = field(31, 0, "message address 63:32", rule=RW)


class EventRegisters(NamedTuple):
    """The four registers of one event."""

    control: type[EventControl]
    data: type[EventData]
    address: type[EventAddress]
    upper_address: type[EventUpperAddress]
