"""One translation as it is cached, and the permissions that a request needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from typing import NamedTuple

from iommu.engine.attributes import Attributes
from iommu.engine.reasons import FaultReason
from iommu.engine.request import INTERRUPT_RANGE, Access, AddressType, DmaRequest, Grant


class Permission(Enum):
    """A permission that a request may need and a page may not give."""

    USER = auto()
    WRITE = auto()
    READ = auto()
    EXECUTE = auto()


class Intent(NamedTuple):
    """The permissions that a request needs.

    Attributes:
        read, write, execute: permissions that it requires.
        read_or_write: either R or W is enough: for a zero-length read on a unit with CAP.ZLR, and for a translation
            request.
        user: it is not privileged.
        sets_dirty: it sets the dirty bit if it has write permission: writes, and translation requests without NW.
    """

    read: bool
    write: bool
    execute: bool = False
    read_or_write: bool = False
    user: bool = True
    sets_dirty: bool = False

    def lacks(self, kind: PageKind) -> Permission | None:
        """The first permission that the page does not give, in the order of the checks (spec 3.6.1, 3.7.1), or None.

        An AtomicOp that lacks both R and W lacks W (doubt D-29).
        """
        writable = kind.writable if self.user else kind.supervisor_writable
        if self.user and not kind.user:
            return Permission.USER
        if self.read_or_write and not (kind.readable or writable):
            return Permission.READ
        if self.write and not writable:
            return Permission.WRITE
        if self.read and not self.read_or_write and not kind.readable:
            return Permission.READ
        return Permission.EXECUTE if self.execute and not kind.executable else None


PLAIN_INTENTS = {
    Access.READ: Intent(read=True, write=False),
    Access.WRITE: Intent(read=False, write=True, sets_dirty=True),
    Access.ATOMIC: Intent(read=True, write=True, sets_dirty=True),
}
"""The permissions that plain requests need: untranslated, with a length, neither execute nor privileged."""


def intent_of(
    request: DmaRequest, *, privileged: bool, execute: bool, zero_length_read: bool, no_write: bool
) -> Intent:
    """The permissions that `request` needs; the arguments say which of its flags apply on this unit, in this mode."""
    if request.address_type is AddressType.TRANSLATION_REQUEST:
        return Intent(False, False, execute, True, not privileged, not (request.no_write and no_write))
    return Intent(
        read=request.access is not Access.WRITE,
        write=request.access is not Access.READ,
        execute=execute,
        read_or_write=request.length == 0 and zero_length_read,
        user=not privileged,
        sets_dirty=request.access is not Access.READ,
    )


@dataclass(slots=True)
class PageKind:
    """All of a translation except the host address. There are few kinds, and `kind_of` creates each only once.

    Attributes:
        size: of the page, in bytes.
        readable, writable: the combined permissions of all levels and stages.
        supervisor_writable: the same for privileged writes, which a first stage without WPE also permits in read-only
            pages.
        user, executable: the permissions of the first stage; true if none took part.
        dirty: all dirty bits are set that the unit keeps: a write can use this translation without an update.
        attributes: snooping and memory types.
        overlaps_interrupt_range: the page overlaps the interrupt address range, before or after translation.
        fault: there is no translation: requests are blocked for this reason (caching mode).
        refused: the accesses, as a mask of Access values, that a plain request cannot make by this alone.
        grant: the outcome of a plain request, except the address.
    """

    size: int
    readable: bool
    writable: bool
    supervisor_writable: bool
    user: bool
    executable: bool
    dirty: bool
    attributes: Attributes
    overlaps_interrupt_range: bool = False
    fault: FaultReason | None = None
    refused: int = field(init=False, compare=False)
    grant: Grant = field(init=False, compare=False)

    def __post_init__(self) -> None:
        self.refused = sum(int(access) for access in (Access.READ, Access.WRITE) if self._refuses(access))
        self.grant = Grant(self.size, readable=self.readable, writable=self.writable, attributes=self.attributes)

    def _refuses(self, access: Access) -> bool:
        intent = PLAIN_INTENTS[access]
        return (
            self.overlaps_interrupt_range or (intent.sets_dirty and not self.dirty) or intent.lacks(self) is not None
        )

    def with_flags(self, *, dirty: bool = False, overlaps_interrupt_range: bool = False) -> PageKind:
        """The same kind with these flags set in addition."""
        if self.dirty >= dirty and self.overlaps_interrupt_range >= overlaps_interrupt_range:
            return self
        return kind_of(
            self.size,
            self.readable,
            self.writable,
            self.supervisor_writable,
            self.user,
            self.executable,
            self.dirty or dirty,
            self.attributes,
            self.overlaps_interrupt_range or overlaps_interrupt_range,
            self.fault,
        )


kind_of = cache(PageKind)


@dataclass(slots=True)
class Page:
    """One translation: `host` is the host address of the page."""

    host: int
    kind: PageKind

    def overlaps_interrupt_range(self, address: int) -> bool:
        """Whether the aligned range of this size around an address overlaps the interrupt address range."""
        first = address & -self.kind.size
        return first >> 20 <= INTERRUPT_RANGE <= first + self.kind.size - 1 >> 20
