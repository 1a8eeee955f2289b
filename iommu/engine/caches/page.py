"""One translation as it is cached: where it leads, what it permits, and what a request needs of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from typing import NamedTuple

from iommu.engine.attributes import Attributes
from iommu.engine.reasons import FaultReason
from iommu.engine.request import INTERRUPT_RANGE, Access, AddressType, DmaRequest, Grant


class Permission(Enum):
    """What a page may lack."""

    USER = auto()
    WRITE = auto()
    READ = auto()
    EXECUTE = auto()


class Intent(NamedTuple):
    """What a request needs of the page it lands in.

    Attributes:
        read, write, execute: permissions it cannot do without.
        read_or_write: a zero-length read on a unit with CAP.ZLR, or a translation request: R or W is enough.
        user: it is not privileged.
        sets_dirty: it writes if it may: a translation request without the no-write flag counts as a write.
    """

    read: bool
    write: bool
    execute: bool = False
    read_or_write: bool = False
    user: bool = True
    sets_dirty: bool = False

    def lacks(self, kind: PageKind) -> Permission | None:
        """The permission that a page of this kind does not give, in the order of the checks (spec 3.6.1, 3.7.1).

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
"""What untranslated requests need that have a length and ask neither to execute nor for privileged mode."""


def intent_of(
    request: DmaRequest, *, privileged: bool, execute: bool, zero_length_read: bool, no_write: bool
) -> Intent:
    """What `request` needs; the arguments say which of its wishes count on this unit and in this mode."""
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
    """All of a translation except where it leads. There are few, and `kind_of` makes each only once.

    Attributes:
        size: bytes.
        readable, writable: the permissions of all levels and stages together.
        supervisor_writable: differs from `writable` where a first stage lets privileged writes through read-only
            entries.
        user, executable: come from a first stage, and are set where none took part.
        dirty: the entries of all stages that record writes have done so: a write may use this translation as it is.
        attributes: snooping and memory types.
        overlaps_interrupt_range: some of it is in the interrupt address range, before or after translation.
        fault: there is no translation, and requests are blocked for this reason (caching mode).
        refused: accesses, R and W as in Access, for which a plain request needs more than this translation.
        grant: the outcome of a plain request, except for the address.
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
        """The same kind with these flags set as well."""
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
    """One translation: `host` is the first byte of the page."""

    host: int
    kind: PageKind

    def overlaps_interrupt_range(self, address: int) -> bool:
        """Whether the page around an address, as large as this one, has some of the interrupt address range in it."""
        first = address & -self.kind.size
        return first >> 20 <= INTERRUPT_RANGE <= first + self.kind.size - 1 >> 20
