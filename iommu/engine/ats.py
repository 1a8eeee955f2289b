"""What a unit and a device with a device-TLB send each other besides memory requests (spec chapter 4, 7.6)."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple, Protocol

from iommu.engine.request import SourceId
from iommu.errors import MisuseError
from iommu.structures import ResponseCode


class Completion(Enum):
    """The completion of a device-TLB invalidation."""

    DONE = auto()
    TIMED_OUT = auto()
    """It does not answer: the unit times out, FSTS.ITE."""
    WRONG = auto()
    """It sends a completion that was not expected, or a malformed one: FSTS.ICE."""


class DeviceInvalidation(NamedTuple):
    """An invalidation as a device receives it: it must drop its translations of these addresses.

    Attributes:
        addresses: a range of bytes, aligned to its own size, of at most 2**64.
        pasid: only translations with this PASID; None for those without a PASID.
        every_pasid: translations with any PASID; `pasid` is ignored.
    """

    addresses: range
    pasid: int | None = None
    every_pasid: bool = False


class PageRequest(NamedTuple):
    """A device asks software to make a page present (spec 7.4).

    Attributes:
        source_id: the requester.
        address: any address in the page; the low 12 bits are ignored.
        pasid: the PASID it carries, 20 bits, or None.
        read, write, execute, privileged: the access it needs the page for.
        group: page request group index, 9 bits; a group gets a single response.
        last: the last request of its group.
    """

    source_id: SourceId
    address: int
    pasid: int | None = None
    read: bool = True
    write: bool = False
    execute: bool = False
    privileged: bool = False
    group: int = 0
    last: bool = True

    @property
    def is_stop_marker(self) -> bool:
        """Whether it is a stop marker: it ends the use of a PASID, requests no access and gets no response."""
        return self.last and not (self.read or self.write)

    def check(self) -> PageRequest:
        """Returns itself. Raises MisuseError when no device could send such a request."""
        if not isinstance(self.source_id, SourceId):
            raise MisuseError(f"source_id is a SourceId, not {self.source_id!r}")
        if not 0 <= self.address < 1 << 64:
            raise MisuseError(f"address {self.address:#x} is not a 64-bit address")
        if self.pasid is not None and not 0 <= self.pasid < 1 << 20:
            raise MisuseError(f"PASID {self.pasid:#x} is not a 20-bit number")
        if (self.privileged or self.execute) and self.pasid is None:
            raise MisuseError("only a page request with a PASID can ask for privileged mode or to execute")
        if not 0 <= self.group < 1 << 9:
            raise MisuseError(f"page request group {self.group:#x} is not a 9-bit number")
        return self


class PageResponse(NamedTuple):
    """The response to a group of page requests, from software or from the unit itself."""

    group: int
    code: ResponseCode
    pasid: int | None = None
    last: bool = True


class AtsDevice(Protocol):
    """The interface of a device that is attached to a unit."""

    source_id: SourceId

    def invalidate(self, command: DeviceInvalidation) -> Completion:
        """Drop the translations it has cached, or fail to."""
        ...

    def respond(self, response: PageResponse) -> None:
        """Receive the response to a group of page requests."""
        ...


def invalidated_range(address: int, sized: int) -> range:
    """The bytes that ADDR and S of a device-TLB descriptor name (spec 6.5.2.5).

    Without S, one page. With S, the lowest clear bit of ADDR gives the size: bit 12 for two pages, bit 13 for four,
    and so on. If no bit is clear, the range is all addresses.
    """
    frame = address >> 12
    order = (~frame & frame + 1).bit_length() if sized else 0
    order = min(order, 52)
    first = frame >> order << order
    return range(first << 12, first + (1 << order) << 12)
