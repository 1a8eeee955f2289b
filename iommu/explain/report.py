"""A fault as reported by a line of a kernel log, a fault recording register, or just a code."""

from __future__ import annotations

from dataclasses import dataclass

from iommu.engine.reasons import FaultReason
from iommu.engine.request import AddressType, SourceId
from iommu.errors import MisuseError
from iommu.registers import FRCD

_KINDS = {(0, 0): "write", (1, 0): "read", (0, 1): "page request", (1, 1): "atomic"}


@dataclass(frozen=True)
class FaultReport:
    """What is known about one fault. None means that the report does not say.

    Attributes:
        code: the fault reason as a number.
        source_id: the requester.
        address: of the page, for DMA; logs and records give bits 63:12.
        index: into the interrupt remapping table, for interrupts.
        kind: "read", "write", "atomic", "page request"; "interrupt".
        pasid: of the request; None also if it had none.
        address_type: of the request (ATS).
        execute, privileged: what a request with a PASID asked for.
        origin: the line of the log, or the 128 bits of the record.
    """

    code: int
    source_id: SourceId | None = None
    address: int | None = None
    index: int | None = None
    kind: str | None = None
    pasid: int | None = None
    address_type: AddressType = AddressType.UNTRANSLATED
    execute: bool = False
    privileged: bool = False
    origin: str = ""

    @property
    def reason(self) -> FaultReason | None:
        """What the code means; None if that is not public."""
        return FaultReason(self.code) if self.code in FaultReason.__members__.values() else None


def from_record(raw: int) -> FaultReport:
    """Decode a fault recording register (spec 11.4.7.6). Raises MisuseError if it holds no fault."""
    if raw < 0 or raw >> FRCD.bits:
        raise MisuseError(f"{raw:#x} is not a fault record of {FRCD.bits} bits")
    record = FRCD(raw)
    if not record.F:
        raise MisuseError(f"record {raw:#034x} holds no fault: F, bit 127, is 0")
    who, origin = SourceId.of(record.SID), f"{raw:#034x}"
    if is_interrupt(record.FR):
        return FaultReport(record.FR, who, index=record.FI >> 48, kind="interrupt", origin=origin)
    if record.AT not in list(AddressType):
        raise MisuseError(f"record {raw:#034x}: address type {record.AT} is reserved")
    return FaultReport(
        code=record.FR,
        source_id=who,
        address=record.FI,
        kind=_KINDS[record.T1, record.T2],
        pasid=record.PV if record.PP else None,
        address_type=AddressType(record.AT),
        execute=bool(record.EXE and record.PP),
        privileged=bool(record.PRIV and record.PP),
        origin=origin,
    )


def is_interrupt(code: int) -> bool:
    """Whether a fault reason is one of interrupt remapping (spec 5.1.4)."""
    return 0x20 <= code < 0x30


def guess_from_address(report: FaultReport) -> str | None:
    """What the address alone suggests; None if there is nothing special about it."""
    address = report.address
    if address is None:
        return None
    if address < 0x1000:
        return "it is in page 0 (address 0): a pointer in a descriptor or a ring was never set, or was cleared"
    if 0xFEE0_0000 <= address < 0xFEF0_0000:
        return "0xFEExxxxx is for interrupt messages: an MSI address used as a buffer, or a message sent with a PASID"
    if address >> 47:
        return "it is in the upper half: probably a kernel's virtual address in place of a DMA address"
    if 0xF000_0000 <= address < 1 << 32:
        return (
            "it is just below 4 GiB, where Linux allocates DMA addresses first: probably mapped before, now unmapped"
        )
    return None
