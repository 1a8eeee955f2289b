"""What a device asks for, and what becomes of it."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Self

from iommu.engine.reasons import FaultReason
from iommu.errors import MisuseError

PAGE_4K = 1 << 12


class SourceId(int):
    """A PCI requester id, 16 bits: bus 15:8, device 7:3, function 2:0. `str()` is "bus:device.function".

    Raises MisuseError for a number out of its range.
    """

    def __new__(cls, bus: int, device: int, function: int) -> SourceId:
        if not (0 <= bus < 256 and 0 <= device < 32 and 0 <= function < 8):
            raise MisuseError(f"no source-id has bus {bus}, device {device}, function {function}")
        return super().__new__(cls, bus << 8 | device << 3 | function)

    @classmethod
    def of(cls, number: int) -> SourceId:
        """The source-id that a 16-bit number stands for."""
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
    """What the request does. A zero-length read is a READ of length 0."""

    READ = 1
    WRITE = 2
    ATOMIC = 3
    """An AtomicOp: reads and writes, and needs both permissions."""


class AddressType(IntEnum):
    """The PCIe AT field, as FRCD.AT records it."""

    UNTRANSLATED = 0
    TRANSLATION_REQUEST = 1
    TRANSLATED = 2


class _DmaFields(NamedTuple):
    source_id: SourceId
    address: int
    access: Access
    length: int
    pasid: int | None
    privileged: bool
    address_type: AddressType
    execute: bool
    no_write: bool


class DmaRequest(_DmaFields):
    """One memory request as it arrives at the unit.

    Attributes:
        source_id: who asks.
        address: first byte, 64 bits.
        access: read, write, or both at once.
        length: bytes; 0 for a zero-length read. A request never crosses a 4 KiB boundary.
        pasid: the PASID it carries, 20 bits, or None.
        privileged: privileged mode requested; only with a PASID.
        execute: execute requested; only with a PASID and only for a read.
        address_type: untranslated, or one of the two kinds a device with a device-TLB sends.
        no_write: a translation request that will not be used for writes (its NW flag).

    Raises:
        MisuseError: no device could send such a request.
    """

    __slots__ = ()

    def __new__(
        cls,
        source_id: SourceId,
        address: int,
        access: Access,
        length: int = 1,
        pasid: int | None = None,
        privileged: bool = False,
        address_type: AddressType = AddressType.UNTRANSLATED,
        execute: bool = False,
        no_write: bool = False,
    ) -> Self:
        fields = source_id, address, access, length, pasid, privileged, address_type, execute, no_write
        return super().__new__(cls, *fields).check()

    def check(self) -> Self:
        """Itself. Raises MisuseError when no device could send such a request; making one does this by itself."""
        if not isinstance(self.source_id, SourceId):
            raise MisuseError(f"source_id is a SourceId, not {self.source_id!r}")
        if not isinstance(self.access, Access):
            raise MisuseError(f"access is an Access, not {self.access!r}")
        if not 0 <= self.address < 1 << 64:
            raise MisuseError(f"address {self.address:#x} is not a 64-bit address")
        if self.length < 0 or (self.address & 0xFFF) + self.length > PAGE_4K:
            raise MisuseError(f"{self.length} bytes at {self.address:#x} are not within one 4 KiB page")
        if self.length == 0 and self.access is not Access.READ:
            raise MisuseError("only a read can have length 0")
        if self.pasid is not None and not 0 <= self.pasid < 1 << 20:
            raise MisuseError(f"PASID {self.pasid:#x} is not a 20-bit number")
        if self.privileged and self.pasid is None:
            raise MisuseError("only a request with a PASID can ask for privileged mode")
        if self.execute and (self.pasid is None or self.access is not Access.READ):
            raise MisuseError("only a read with a PASID can ask to execute")
        if self.no_write and self.address_type is not AddressType.TRANSLATION_REQUEST:
            raise MisuseError("no_write belongs to a translation request")
        return self


class Outcome(NamedTuple):
    """What became of a request.

    Attributes:
        host_address: where it went; None when it was blocked or is not DMA at all.
        page_size: bytes of the page that maps it; 4096 where nothing maps it (pass-through, translation off).
        fault: why it was blocked; None when it went through, or was dropped without a fault the architecture names.
        recorded: the fault reached a fault recording register.
        interrupt: the address is in the interrupt range: the request is a message, not DMA (spec 3.14).
        readable, writable, executable: the effective permissions; what a translation request is answered with.
        stale: with auditing on, the cached items that were used and no longer match memory.
        trace: with tracing on, the steps of the walk.
    """

    host_address: int | None
    page_size: int = PAGE_4K
    fault: FaultReason | None = None
    recorded: bool = False
    interrupt: bool = False
    readable: bool = True
    writable: bool = True
    executable: bool = False
    stale: tuple[object, ...] = ()
    trace: tuple[object, ...] = ()


def blocked(reason: FaultReason | None = None, *, recorded: bool = False) -> Outcome:
    """The outcome of a request that goes nowhere."""
    return Outcome(None, 0, reason, recorded, readable=False, writable=False)


INTERRUPT = Outcome(None, 0, interrupt=True, readable=False, writable=False)
