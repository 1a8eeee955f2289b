"""Memory requests of devices, and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from iommu.engine.attributes import PLAIN, Attributes
from iommu.engine.reasons import Blocked, FaultReason
from iommu.errors import MisuseError

PAGE_4K = 1 << 12
INTERRUPT_RANGE = 0xFEE
"""Address bits 31:20 of the interrupt address range; bits 63:32 are 0 (spec 3.14)."""


def in_interrupt_range(address: int) -> bool:
    """Whether an address is in the interrupt address range."""
    return address >> 20 == INTERRUPT_RANGE


class SourceId(int):
    """A PCI requester id, 16 bits: bus 15:8, device 7:3, function 2:0. `str()` is "bus:device.function".

    Raises MisuseError for a number out of its range.
    """

    def __new__(cls, bus: int, device: int, function: int) -> SourceId:
        if not (0 <= bus < 256 and 0 <= device < 32 and 0 <= function < 8):
            raise MisuseError(f"no source-id has bus {bus}, device {device}, function {function}")
        return super().__new__(cls, bus << 8 | device << 3 | function)

    def __reduce__(self) -> tuple[Any, tuple[int, int, int]]:
        """For copies and pickles."""
        return SourceId, (self.bus, self >> 3 & 31, self & 7)

    @classmethod
    def of(cls, number: int) -> SourceId:
        """The source-id with this 16-bit value. Raises MisuseError for a number that does not fit."""
        return cls(number >> 8, number >> 3 & 31, number & 7)

    @property
    def bus(self) -> int:
        """Bus number, index into the root table."""
        return self >> 8

    @property
    def devfn(self) -> int:
        """Device and function, index into the context table."""
        return self & 0xFF

    def __str__(self) -> str:
        return f"{self >> 8:02x}:{self >> 3 & 31:02x}.{self & 7}"

    __repr__ = __str__


class Access(IntEnum):
    """The kind of access. A zero-length read is a READ of length 0."""

    READ = 1
    WRITE = 2
    ATOMIC = 3
    """An AtomicOp: it reads and writes, and needs both permissions."""


class AddressType(IntEnum):
    """The PCIe AT field, as FRCD.AT records it."""

    UNTRANSLATED = 0
    TRANSLATION_REQUEST = 1
    TRANSLATED = 2


@dataclass(slots=True, unsafe_hash=True)
class DmaRequest:
    """One memory request as it arrives at the unit. It is checked when it is created; do not change it afterwards.

    Attributes:
        source_id: the requester.
        address: first byte, 64 bits.
        access: read, write or AtomicOp.
        length: bytes; 0 for a zero-length read. A request never crosses a 4 KiB boundary.
        pasid: the PASID it carries, 20 bits, or None.
        privileged: privileged mode is requested; only with a PASID.
        execute: execute permission is requested; only with a PASID and only for a read.
        address_type: untranslated, or one of the two types that only a device with a device-TLB sends.
        no_write: the NW flag of a translation request: the translation will not be used for writes.

    Raises:
        MisuseError: no device could send such a request.
    """

    # Slots, and not frozen: requests are created and read a million times a second.
    source_id: SourceId
    address: int
    access: Access
    length: int = 1
    pasid: int | None = None
    privileged: bool = False
    address_type: AddressType = AddressType.UNTRANSLATED
    execute: bool = False
    no_write: bool = False

    def __post_init__(self) -> None:
        self._check_types()
        if not 0 <= self.address < 1 << 64:
            raise MisuseError(f"address {self.address:#x} is not a 64-bit address")
        if self.length < 0 or (self.address & 0xFFF) + self.length > PAGE_4K:
            raise MisuseError(f"{self.length} bytes at {self.address:#x} are not within one 4 KiB page")
        if self.length == 0 and self.access is not Access.READ:
            raise MisuseError("only a read can have length 0")
        if self.pasid is None:
            if self.privileged:
                raise MisuseError("only a request with a PASID can ask for privileged mode")
        elif not 0 <= self.pasid < 1 << 20:
            raise MisuseError(f"PASID {self.pasid:#x} is not a 20-bit number")
        if self.execute and (self.pasid is None or self.access is not Access.READ):
            raise MisuseError("only a read with a PASID can ask to execute")
        if self.no_write and self.address_type is not AddressType.TRANSLATION_REQUEST:
            raise MisuseError("no_write belongs to a translation request")

    def _check_types(self) -> None:
        """Checks the types: plain integers would be misread later. Raises MisuseError."""
        if not isinstance(self.source_id, SourceId):
            raise MisuseError(f"source_id is a SourceId, not {self.source_id!r}")
        if not isinstance(self.access, Access):
            raise MisuseError(f"access is an Access, not {self.access!r}")
        if not isinstance(self.address_type, AddressType):
            raise MisuseError(f"address_type is an AddressType, not {self.address_type!r}")
        if not isinstance(self.address, int) or not isinstance(self.length, int):
            raise MisuseError(f"address and length are numbers, not {self.address!r} and {self.length!r}")


class Grant(NamedTuple):
    """All of an outcome except the address: the same for every request to one page. See Outcome."""

    page_size: int = PAGE_4K
    fault: FaultReason | None = None
    recorded: bool = False
    interrupt: bool = False
    readable: bool = True
    writable: bool = True
    executable: bool = False
    attributes: Attributes = PLAIN
    stale: tuple[object, ...] = ()
    trace: tuple[object, ...] = ()


@dataclass(slots=True, unsafe_hash=True)
class Outcome:
    """The outcome of a request.

    Attributes:
        host_address: the translated address; None when the request was blocked, or is not DMA. In the answer to a
            translation request that is `writable`, None allows untranslated requests only (the U flag).
        grant: everything else, readable as properties of the outcome.
    """

    host_address: int | None
    grant: Grant

    @property
    def page_size(self) -> int:
        """Size in bytes of the page that maps the address; 4096 if none does (pass-through, translation off)."""
        return self.grant.page_size

    @property
    def fault(self) -> FaultReason | None:
        """Why it was blocked; None when it was not, or was dropped without a fault."""
        return self.grant.fault

    @property
    def recorded(self) -> bool:
        """Whether the fault was recorded in a fault recording register."""
        return self.grant.recorded

    @property
    def interrupt(self) -> bool:
        """Whether the request is an interrupt message, not DMA: its address is in the interrupt range (spec 3.14)."""
        return self.grant.interrupt

    @property
    def readable(self) -> bool:
        """The effective permission to read. A translation request is answered with this and the next two."""
        return self.grant.readable

    @property
    def writable(self) -> bool:
        """The effective permission to write."""
        return self.grant.writable

    @property
    def executable(self) -> bool:
        """The effective permission to execute, if it was requested."""
        return self.grant.executable

    @property
    def attributes(self) -> Attributes:
        """Snooping and memory types of the access."""
        return self.grant.attributes

    @property
    def stale(self) -> tuple[object, ...]:
        """On an audited unit, the cached items that were used and no longer match memory."""
        return self.grant.stale

    @property
    def trace(self) -> tuple[object, ...]:
        """If the request was traced, the steps of the walk."""
        return self.grant.trace

    def replace(self, **changes: Any) -> Outcome:
        """A copy with some fields of the grant replaced."""
        return Outcome(self.host_address, self.grant._replace(**changes))


_IDENTITY = Grant()
_BLOCKED = Grant(page_size=0, readable=False, writable=False)
INTERRUPT = Outcome(None, _BLOCKED._replace(interrupt=True))


def identity(host_address: int, attributes: Attributes = PLAIN) -> Outcome:
    """The outcome of a request whose host address is its own address, without a page that maps it."""
    return Outcome(host_address, _IDENTITY if attributes is PLAIN else _IDENTITY._replace(attributes=attributes))


def as_translated(
    request: DmaRequest, host_address_width: int, beyond: FaultReason, interrupt_range: FaultReason
) -> Outcome:
    """The outcome of a translated request, without a walk (4.2.5). Raises Blocked with the reasons of the mode.

    Args:
        beyond: for an address beyond the host address width.
        interrupt_range: for one in the interrupt range.
    """
    # LGN.1, SGN.4: the address is beyond the host address width.
    if request.address >> host_address_width:
        raise Blocked(beyond)
    # LGN.4, SGN.8: the address is in the interrupt range.
    if in_interrupt_range(request.address):
        raise Blocked(interrupt_range)
    return identity(request.address)


def asks_for_interrupts(request: DmaRequest) -> bool:
    """Whether it is a translation request without PASID for the interrupt range."""
    asks = request.address_type is AddressType.TRANSLATION_REQUEST and request.pasid is None
    return asks and in_interrupt_range(request.address)


def untranslated_only(request: DmaRequest, *, no_write: bool) -> Outcome:
    """The answer to it: untranslated writes alone, and with NW nothing (7.1.3, S.1 and S.2).

    Args:
        no_write: the unit supports the flag NW.
    """
    return Outcome(None, _BLOCKED._replace(writable=not (request.no_write and no_write)))


def blocked(reason: FaultReason | None = None, *, recorded: bool = False) -> Outcome:
    """The outcome of a request that is blocked."""
    return Outcome(None, _BLOCKED if reason is None else _BLOCKED._replace(fault=reason, recorded=recorded))
