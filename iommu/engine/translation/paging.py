"""What both stages of paging share: what a request wants of a page, and what a walk hands back."""

from __future__ import annotations

from typing import NamedTuple

from iommu.engine.caches.page import Page
from iommu.engine.request import INTERRUPT_RANGE, Access, AddressType, DmaRequest, Outcome, blocked, unmapped


class Intent(NamedTuple):
    """What a request needs of the page it lands in.

    Attributes:
        read, write, execute: permissions it cannot do without.
        any_will_do: a zero-length read on a unit with CAP.ZLR, or a translation request: R or W is enough.
        user: it is not privileged.
        dirties: it writes if it may: a translation request without the no-write flag counts as a write.
    """

    read: bool
    write: bool
    execute: bool = False
    any_will_do: bool = False
    user: bool = True
    dirties: bool = False

    def lacks(self, readable: int, writable: int) -> bool:
        """Whether these permissions are not enough."""
        if self.any_will_do:
            return not (readable or writable)
        return bool((self.read and not readable) or (self.write and not writable))


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
        any_will_do=request.length == 0 and zero_length_read,
        user=not privileged,
        dirties=request.access is not Access.READ,
    )


Leaf = tuple[Page, int, int]
"""The end of a walk: the page, and where the entry stands that maps it, and its bits: it may have to be marked."""


def in_interrupt_range(host: int) -> bool:
    """Whether a host address lies in the interrupt address range."""
    return host >> 20 == INTERRUPT_RANGE


def as_translated(request: DmaRequest, host_address_width: int) -> Outcome:
    """A translated request is not walked; an address that no translation can have given it is blocked (spec 4.2)."""
    if request.address >> host_address_width or in_interrupt_range(request.address):
        return blocked()
    return unmapped(request.address)


def through(host: int, page: Page) -> Outcome:
    """The outcome of a request that a page maps."""
    return Outcome(host, page.kind.grant)
