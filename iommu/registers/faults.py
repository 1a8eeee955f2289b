"""Fault status, fault event, fault recording (spec 11.4.7)."""

from collections.abc import Sequence

from iommu.fields import Rule, address, field, flag
from iommu.registers.control import CAP
from iommu.registers.register import (
    EventAddress,
    EventControl,
    EventData,
    EventRegisters,
    EventUpperAddress,
    Register,
)

ROS, RW1CS = Rule.ROS, Rule.RW1CS


class FSTS(Register, bits=32, offset=0x34, section="11.4.7.1"):
    """Fault status."""

    FRI = field(15, 8, "fault recording register with the first pending fault", rule=ROS)
    ITE = flag(6, "device-TLB invalidation timed out", rule=RW1CS, needs="device_tlb")
    ICE = flag(5, "wrong device-TLB invalidation completion", rule=RW1CS, needs="device_tlb")
    IQE = flag(4, "invalidation queue error", rule=RW1CS, needs="queued_invalidation")
    PPF = flag(1, "a fault recording register holds a fault", rule=ROS)
    PFO = flag(0, "a fault was lost: overflow", rule=RW1CS)


class FECTL(EventControl, offset=0x38, section="11.4.7.2", reset=1 << 31):
    """Fault event control."""


class FEDATA(EventData, offset=0x3C, section="11.4.7.3"):
    """Fault event data."""


class FEADDR(EventAddress, offset=0x40, section="11.4.7.4"):
    """Fault event address, low half."""


class FEUADDR(EventUpperAddress, offset=0x44, section="11.4.7.5"):
    """Fault event address, high half."""


FAULT_EVENT = EventRegisters(FECTL, FEDATA, FEADDR, FEUADDR)


class AFLOG(Register, bits=64, offset=0x58, section="11.4.7.7", needs="advanced_fault_log"):
    """Advanced fault log: withdrawn from the architecture; no unit here offers CAP.AFL, so it reads as 0."""


class FRCD(Register, bits=128, section="11.4.7.6"):
    """Fault recording registers."""

    F = flag(127, "holds a fault", rule=RW1CS)
    T1 = flag(126, "request type together with T2: T1 T2 = 00 write, 10 read, 01 page request, 11 atomic", rule=ROS)
    AT = field(125, 124, "address type: 0 untranslated, 1 translation request, 2 translated", rule=ROS)
    PV = field(123, 104, "PASID, where PP is 1", rule=ROS)
    FR = field(103, 96, "fault reason", rule=ROS)
    PP = flag(95, "the request had a PASID", rule=ROS)
    EXE = flag(94, "execute requested", rule=ROS)
    PRIV = flag(93, "privileged mode requested", rule=ROS)
    T2 = flag(92, "see T1", rule=ROS)
    SID = field(79, 64, "source-id", rule=ROS)
    FI = address(63, 12, "page address", rule=ROS)

    @classmethod
    def places(cls, cap: int, ecap: int) -> Sequence[int]:
        """CAP.NFR + 1 of them, where CAP.FRO says."""
        first = 16 * CAP.FRO.get(cap)
        return range(first, first + 16 * (CAP.NFR.get(cap) + 1), 16)
