"""What each cache holds: entries that passed their checks, decoded, and with caching mode those that did not."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from iommu.engine.attributes import Attributes
from iommu.engine.reasons import FaultReason
from iommu.engine.request import INTERRUPT_RANGE, Grant
from iommu.structures import TranslationType

if TYPE_CHECKING:
    from iommu.engine.translation.fast_path import Shortcut
    from iommu.engine.translation.first_stage import Directory
    from iommu.engine.translation.second_stage import Tables


@dataclass(slots=True)
class FaultyEntry:
    """An entry on the way to a translation that is not present or erroneous: only caching mode keeps it (spec 6.1).

    Until it is dropped, requests that meet it are blocked for the reason it was first met for, with its FPD. In
    caching mode, domain-id 0 is the hardware's own, for entries like this (doubt D-20).
    """

    reason: FaultReason
    fpd: int
    domain_id: int = 0
    shortcut: None = None


@dataclass(slots=True)
class CachedContext:
    """A legacy context entry that passed its checks, decoded.

    `shortcut`: what the caches know of its domain; None where no pages are involved.
    """

    domain_id: int
    translation_type: TranslationType
    tables: Tables
    fpd: int
    shortcut: Shortcut | None = field(compare=False)


@dataclass(slots=True)
class PageKind:
    """What a translation is, but for where it leads. There are few, and `kind_of` makes each only once.

    `supervisor_writable` differs from `writable` where a first stage lets privileged writes through read-only
    entries. `user` and `executable` come from a first stage, and are set where none took part. `dirty` says that the
    entries of all stages that record writes have done so, so that a write may use this translation as it is.
    `guarded`: some of it is in the interrupt address range, before or after translation.
    `fault`: it is no translation at all, and requests are blocked for this.

    `refused` are the accesses, R and W as in Access, that it does not grant a plain request without a second look;
    `grant` is what such a request is told.
    """

    size: int
    readable: bool
    writable: bool
    supervisor_writable: bool
    user: bool
    executable: bool
    dirty: bool
    attributes: Attributes
    guarded: bool = False
    fault: FaultReason | None = None
    refused: int = field(init=False, compare=False)
    grant: Grant = field(init=False, compare=False)

    def __post_init__(self) -> None:
        granted = self.user and not self.guarded
        reads, writes = granted and self.readable, granted and self.writable and self.dirty
        self.refused = (0 if reads else 1) | (0 if writes else 2)
        self.grant = Grant(self.size, readable=self.readable, writable=self.writable, attributes=self.attributes)

    def but(self, *, dirty: bool = False, guarded: bool = False, executable: bool = False) -> PageKind:
        """The same kind with these flags set, too."""
        return kind_of(
            self.size,
            self.readable,
            self.writable,
            self.supervisor_writable,
            self.user,
            self.executable or executable,
            self.dirty or dirty,
            self.attributes,
            self.guarded or guarded,
            self.fault,
        )


kind_of = cache(PageKind)


@dataclass(slots=True)
class Page:
    """One translation: `host` is the first byte of the page."""

    host: int
    kind: PageKind

    def touches_interrupts(self, address: int) -> bool:
        """Whether the page around an address has some of the interrupt address range in it."""
        first = address & -self.kind.size
        return first >> 20 <= INTERRUPT_RANGE <= first + self.kind.size - 1 >> 20


class Table(NamedTuple):
    """What a paging-structure cache holds: the next table, and the permissions of the levels down to it.

    `rights` are the permission bits that all levels so far have set, as the stage's entries have them.
    `executable`: no level so far forbids it.
    """

    address: int
    rights: int
    executable: bool = True


@dataclass(slots=True)
class Process:
    """A PASID-table entry that passed its checks, decoded (spec 9.6); `raw` is the entry itself.

    `first` and `second` are the stages it has, ready to be walked; `attributes` those of pass-through.
    `shortcut` is None where there is none: for nested stages and for pass-through.
    """

    domain_id: int
    first: Directory | None
    second: Tables | None
    execute_enabled: int
    supervisor_enabled: int
    attributes: Attributes
    raw: int
    fpd: int
    shortcut: Shortcut | None = field(default=None, compare=False)


@dataclass(slots=True)
class ScalableContext:
    """A scalable-mode context entry that passed its checks, decoded (spec 9.4).

    `shortcut` as in CachedContext, for requests without PASID: that of their process, while it is cached.
    """

    directory: int
    pasids: int
    pasid_enabled: int
    device_tlb_enabled: int
    page_requests_enabled: int
    rid_pasid: int
    rid_priv: int
    fpd: int
    shortcut: Shortcut | None = field(default=None, compare=False)
