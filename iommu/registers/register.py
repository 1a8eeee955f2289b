"""What a register is, and the events' registers, which come in sets of four."""

from typing import Any, ClassVar

from iommu.fields import Layout, Rule, address, field, flag

RW = Rule.RW


class Register(Layout):
    """A register: a layout with an `offset` from the register base, in bytes, and a `reset` value.

    `needs` names the capability without which there is no such register: it reads as 0 and writes are ignored.
    """

    offset: ClassVar[int] = -1
    reset: ClassVar[int] = 0
    needs: ClassVar[str] = ""

    def __init_subclass__(cls, *, offset: int = -1, reset: int = 0, needs: str = "", **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls.offset, cls.reset, cls.needs = offset, reset, needs or cls.needs

    @classmethod
    def mask_of(cls, rule: Rule) -> int:
        """All bits that software accesses by `rule`."""
        return sum(part.mask for part in cls.fields.values() if part.rule is rule)


class EventControl(Register, bits=32):
    """One event's mask: the fault, invalidation and page request events have one each."""

    IM = flag(31, "hold the event back", rule=RW)
    IP = flag(30, "an event is held back")


class EventData(Register, bits=32):
    """One event's message data."""

    IMD = field(15, 0, "message data", rule=RW)


class EventAddress(Register, bits=32):
    """One event's message address, low half."""

    MA = address(31, 2, "message address", rule=RW)


class EventUpperAddress(Register, bits=32):
    """One event's message address, high half."""

    MUA = field(31, 0, "message address 63:32", rule=RW)
