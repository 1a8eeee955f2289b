"""Everyone who reaches anything: the requesters of a unit, those that are translated alike together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from iommu.batch.reach import Reachable, reachable
from iommu.batch.reach_tables import Budget
from iommu.engine.present import Entry, Table, Tables
from iommu.engine.reasons import Blocked
from iommu.engine.request import SourceId
from iommu.engine.unit import RemappingUnit
from iommu.registers import TableMode
from iommu.structures import (
    ContextEntry,
    PasidEntry,
    PasidTranslationType,
    ScalableContextEntry,
    TranslationType,
)

Key = tuple[object, ...]


class Requester(NamedTuple):
    """Requests of one kind.

    Attributes:
        source_id: of the device; None for all devices (translation is off).
        pasid: of requests with this PASID; None for those without.
        privileged: requests with the PASID that ask for privileged mode.
        domain_id: of the entry that translates them; None where none does.
        translated: the device may send translated requests: the unit lets these reach every host address.
    """

    source_id: SourceId | None
    pasid: int | None = None
    privileged: bool = False
    domain_id: int | None = None
    translated: bool = False

    def __str__(self) -> str:
        device = "every device" if self.source_id is None else str(self.source_id)
        words = "" if self.pasid is None else f" PASID {self.pasid:#x}"
        return device + words + (" privileged" if self.privileged else "")


@dataclass(frozen=True)
class Space:
    """What requesters reach that are translated alike.

    Attributes:
        kind: the translation in words.
        requesters: who they are.
        reach: what they reach.
        structures: the host addresses of the pages of the tables above the page tables, each with what it is.
    """

    kind: str
    requesters: list[Requester]
    reach: Reachable

    @property
    def passes(self) -> bool:
        """No page tables: every host address is reached as it is."""
        return self.kind in (PASS_THROUGH, OFF)


PASS_THROUGH, OFF = "pass-through", "translation is off"


@dataclass
class Spaces:
    """Finds all requesters of a unit whose entries it accepts, and what each reaches.

    Attributes:
        found: in order of the first requester.
        structures: the tables above the page tables: what each is, its host address, and its size in bytes.
        cut_short: there are more requesters, or tables, than were read.
    """

    unit: RemappingUnit
    requesters: int | None = 1 << 16
    structures: set[tuple[str, int, int]] = field(default_factory=set)
    cut_short: bool = False

    def __post_init__(self) -> None:
        self._tables = Tables(self.unit)
        self._left = None if self.requesters is None else 4 * self.requesters

    def groups(self) -> list[tuple[str, list[Requester]]]:
        """The requesters that are translated alike, with the translation in words."""
        translation = self.unit.translation
        if not translation.enabled:
            return [(OFF, [Requester(None)])]
        groups: dict[Key, tuple[str, list[Requester]]] = {}
        for count, (kind, key, requester) in enumerate(self._requesters()):
            if count == self.requesters:
                self.cut_short = True
                break
            groups.setdefault(key, (kind, []))[1].append(requester)
        return list(groups.values())

    def __iter__(self) -> Iterator[Space]:
        """What each group reaches. `structures` and `cut_short` are known from the first on."""
        for kind, requesters in self.groups():
            yield self.space(kind, requesters)

    def space(self, kind: str, requesters: list[Requester], budget: Budget | None = None) -> Space:
        """What a group reaches."""
        one = requesters[0]
        device = SourceId.of(0) if one.source_id is None else one.source_id
        found = reachable(self.unit, device, one.pasid, privileged=one.privileged, budget=budget)
        return Space(kind, requesters, found)

    # From the root table to the entries that select page tables.

    def _requesters(self) -> Iterator[tuple[str, Key, Requester]]:
        root = self._tables.root()
        if root is None or (root.kind == "scalable_root" and not self.unit.capabilities.scalable_mode):
            return
        legacy = self.unit.translation.mode == TableMode.LEGACY
        for entry in self._entries("root table", root):
            for table in entry.below:
                first = entry.number << 8 if legacy else entry.number << 7
                for context in self._entries("context table", table):
                    source_id = SourceId.of(first + context.number)
                    if legacy:
                        yield self._legacy(source_id, context)
                    else:
                        yield from self._scalable(source_id, context)

    def _entries(self, what: str, table: Table) -> list[Entry]:
        """The entries of a table that the unit accepts."""
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self.cut_short = True
                return []
        size = self._tables.format_of(table).size * table.length
        self.structures.add((what, table.address, size))
        return [entry for entry in self._tables.entries(table) if entry.problem is None]

    @staticmethod
    def _legacy(source_id: SourceId, context: Entry) -> tuple[str, Key, Requester]:
        entry = ContextEntry(context.raw)
        passes = entry.TT == TranslationType.PASS_THROUGH
        translated = entry.TT == TranslationType.WITH_DEVICE_TLB
        # Of pass-through, too: AW may be one that the unit refuses there.
        key = context.raw & ~ContextEntry.bits_of("DID", "AVAIL", "FPD")
        kind = PASS_THROUGH if passes else "second stage"
        return kind, (key,), Requester(source_id, None, False, entry.DID, translated)

    def _scalable(self, source_id: SourceId, context: Entry) -> Iterator[tuple[str, Key, Requester]]:
        scalable = self.unit.translation.scalable
        try:
            scalable.check_context_entry(context.raw, 0)
        except Blocked:
            return
        device = scalable.decode_context(context.raw)
        entry = ScalableContextEntry(context.raw)
        for table in context.below:
            for directory in self._entries("PASID directory", table):
                for below in directory.below:
                    for own in self._entries("PASID table", below):
                        pasid = directory.number << 6 | own.number
                        yield from self._pasid(source_id, pasid, own, device.rid_pasid, entry)

    def _pasid(
        self, source_id: SourceId, pasid: int, own: Entry, rid_pasid: int, device: ScalableContextEntry
    ) -> Iterator[tuple[str, Key, Requester]]:
        entry = PasidEntry(own.raw)
        kinds = {each.value: each.name.lower().replace("_", " ") for each in PasidTranslationType}
        kinds[PasidTranslationType.PASS_THROUGH.value] = PASS_THROUGH
        kind = kinds.get(entry.PGTT, "")
        key = own.raw & ~PasidEntry.bits_of("DID", "FPD")
        if pasid == rid_pasid:
            yield kind, (key, None, device.RID_PRIV), Requester(source_id, None, False, entry.DID, bool(device.DTE))
            return
        if not device.PASIDE or pasid >> self.unit.capabilities.pasid_bits:
            return
        yield kind, (key, False), Requester(source_id, pasid, False, entry.DID)
        if entry.SRE and entry.PGTT in (PasidTranslationType.FIRST_STAGE, PasidTranslationType.NESTED):
            yield kind, (key, True), Requester(source_id, pasid, True, entry.DID)


class Access(NamedTuple):
    """Requesters that are translated alike, and the ranges by which they reach what was asked for."""

    requesters: list[Requester]
    reach: Reachable


def who_can_reach(unit: RemappingUnit, host: range) -> list[Access]:
    """Who reaches any of a range of host addresses, and from which addresses, by the tables as they are in memory.

    This is about untranslated requests; `Requester.translated` says who can send others too.
    """
    found = [Access(space.requesters, space.reach.to(host)) for space in Spaces(unit)]
    return [each for each in found if len(each.reach)]
