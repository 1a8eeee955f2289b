"""The invalidation queue and the page-request queue, with their events (spec 11.4.9, 11.4.11)."""

from enum import IntEnum

from iommu.fields import Rule, address, enumerated, field, flag
from iommu.registers.register import (
    EventAddress,
    EventControl,
    EventData,
    EventRegisters,
    EventUpperAddress,
    Register,
)

ROS, RW, RW1CS = Rule.ROS, Rule.RW, Rule.RW1CS


class QueueFault(IntEnum):
    """IQERCD.IQEI: what is wrong with the invalidation queue."""

    NO_INFORMATION = 0
    TAIL = 1
    """The tail is beyond the end of the queue."""
    FETCH = 2
    TYPE = 3
    """There is no such descriptor, or not on this unit, in this mode, in this width."""
    RESERVED = 4
    """A reserved field or encoding, or an address mask that is too large."""
    WIDTH = 5
    """The table mode needs descriptors of the other width."""
    ALIGNMENT = 6
    """The tail is not a multiple of the descriptors' width."""
    TABLE_MODE = 7


class IQH(Register, bits=64, offset=0x80, section="11.4.9.1", needs="queued_invalidation"):
    """Invalidation queue head: byte offset of the descriptor that hardware executes next."""

    QH = address(18, 4, "head")


class IQT(Register, bits=64, offset=0x88, section="11.4.9.2", needs="queued_invalidation"):
    """Invalidation queue tail: byte offset after the last descriptor that software has written."""

    QT = address(18, 4, "tail", rule=RW)


class IQA(Register, bits=64, offset=0x90, section="11.4.9.3", needs="queued_invalidation"):
    """Invalidation queue address."""

    IQA = address(63, 12, "queue", rule=RW)
    DW = flag(11, "descriptors of 256 bits", rule=RW)
    QS = field(2, 0, "2**QS pages of 4 KiB", rule=RW)


class ICS(Register, bits=32, offset=0x9C, section="11.4.9.4", needs="queued_invalidation"):
    """Invalidation completion status."""

    IWC = flag(0, "a wait descriptor with IF has completed", rule=RW1CS)


class IECTL(EventControl, offset=0xA0, section="11.4.9.5", needs="queued_invalidation", reset=1 << 31):
    """Invalidation event control."""


class IEDATA(EventData, offset=0xA4, section="11.4.9.6", needs="queued_invalidation"):
    """Invalidation event data."""


class IEADDR(EventAddress, offset=0xA8, section="11.4.9.7", needs="queued_invalidation"):
    """Invalidation event address, low half."""


class IEUADDR(EventUpperAddress, offset=0xAC, section="11.4.9.8", needs="queued_invalidation"):
    """Invalidation event address, high half."""


INVALIDATION_EVENT = EventRegisters(IECTL, IEDATA, IEADDR, IEUADDR)


class IQERCD(Register, bits=64, offset=0xB0, section="11.4.9.9", needs="queued_invalidation"):
    """Invalidation queue error record."""

    ICESID = field(63, 48, "source-id of the wrong completion, while FSTS.ICE is set", rule=ROS)
    ITESID = field(47, 32, "source-id of the device that timed out, while FSTS.ITE is set", rule=ROS)
    IQEI = enumerated(3, 0, QueueFault, "error of the queue, while FSTS.IQE is set", rule=ROS)


class PQH(Register, bits=64, offset=0xC0, section="11.4.11.1", needs="page_requests"):
    """Page request queue head: byte offset of the request software handles next."""

    PQH = address(18, 5, "head", rule=RW)


class PQT(Register, bits=64, offset=0xC8, section="11.4.11.2", needs="page_requests"):
    """Page request queue tail: byte offset where hardware writes next."""

    PQT = address(18, 5, "tail", rule=RW)


class PQA(Register, bits=64, offset=0xD0, section="11.4.11.3", needs="page_requests"):
    """Page request queue address."""

    PQA = address(63, 12, "queue", rule=RW)
    PQS = field(2, 0, "2**PQS pages of 4 KiB", rule=RW)


class PRS(Register, bits=32, offset=0xDC, section="11.4.11.4", needs="page_requests"):
    """Page request status."""

    PRO = flag(1, "a page request was lost", rule=RW1CS)
    PPR = flag(0, "a page request is pending", rule=RW1CS)


class PECTL(EventControl, offset=0xE0, section="11.4.11.5", needs="page_requests", reset=1 << 31):
    """Page request event control."""


class PEDATA(EventData, offset=0xE4, section="11.4.11.6", needs="page_requests"):
    """Page request event data."""


class PEADDR(EventAddress, offset=0xE8, section="11.4.11.7", needs="page_requests"):
    """Page request event address, low half."""


class PEUADDR(EventUpperAddress, offset=0xEC, section="11.4.11.8", needs="page_requests"):
    """Page request event address, high half."""


PAGE_REQUEST_EVENT = EventRegisters(PECTL, PEDATA, PEADDR, PEUADDR)
