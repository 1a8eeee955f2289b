"""Each device that has an entry, and what its page tables map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from iommu.engine.caches.tables import FirstStageRoot, Root
from iommu.engine.entry_format import PagingFormat
from iommu.engine.mappings import Mapping
from iommu.engine.present import Entry, Problem, Table, Tables
from iommu.engine.request import SourceId
from iommu.engine.unit import RemappingUnit
from iommu.snapshot.inspect.meter import CutShort, MeteredMemory
from iommu.structures import (
    ContextEntry,
    PasidEntry,
    PasidTranslationType,
    ScalableContextEntry,
    TranslationType,
)


@dataclass(frozen=True)
class StageRoot:
    """Where the page tables of a stage are: for a nested first stage, `address` is a guest address."""

    stage: str
    address: int
    levels: int


@dataclass
class Space:
    """What page tables map: for all devices that use them in the same way.

    Attributes:
        stages: the stages, the first before the second; empty for pass-through.
        ranges: the first mapped ranges; all if all were asked for.
        count, size: of all ranges, in bytes.
        rights: by permission, "rw": the bytes that have it.
        pages: by stage and page size in bytes, how many entries map a page.
        tables: how many tables there are.
        cut_short: reading stopped early: the counts are too low.
    """

    stages: tuple[StageRoot, ...]
    ranges: list[Mapping] = field(default_factory=list)
    count: int = 0
    size: int = 0
    rights: Counter[str] = field(default_factory=Counter)
    pages: Counter[tuple[str, int]] = field(default_factory=Counter)
    tables: int = 0
    cut_short: bool = False


@dataclass(frozen=True)
class Device:
    """A present context entry, or in scalable mode a present PASID-table entry of one.

    Attributes:
        source_id: of the device.
        pasid: None in legacy mode.
        without_pasid: requests without PASID are translated by this entry.
        domain_id: of the entry.
        kind: the translation type in words.
        entry: the host address of the entry.
        context: the host address of the context entry.
        flags: what else its entries say, a phrase each.
        problems: why a unit refuses requests that reach the entry, for entries on the way to the page tables.
        space: the number of the page tables, in `Devices.spaces`; None if the entry selects none that can be read.
    """

    source_id: SourceId
    pasid: int | None
    without_pasid: bool
    domain_id: int
    kind: str
    entry: int
    context: int
    flags: tuple[str, ...]
    problems: tuple[Problem, ...]
    space: int | None

    @property
    def name(self) -> str:
        """The device; with the PASID if this is about requests that have one."""
        return str(self.source_id) if self.without_pasid else f"{self.source_id} PASID {self.pasid:#x}"


@dataclass(frozen=True)
class Limits:
    """How much is read and kept; None for no limit.

    Attributes:
        structures, space, spaces: bytes of tables: above the page tables, of one set of page tables, of all of them.
        devices: how many are listed.
        ranges: of one set of page tables.
        commands: of the invalidation queue, before its head and after it.
        cached: entries of each cache.
    """

    structures: int | None = 8 << 20
    space: int | None = 8 << 20
    spaces: int | None = 24 << 20
    devices: int | None = 4096
    ranges: int | None = 6
    commands: int | None = 8
    cached: int | None = 4096

    @classmethod
    def none(cls) -> Limits:
        """No limits."""
        return cls(**dict.fromkeys(cls.__dataclass_fields__))


class Devices:
    """The devices of a unit, and the page tables they use.

    Args:
        tables: of the unit as it is.
        lenient: the same unit with nothing reserved: says what the page tables map.
        memory: the memory of both.

    Attributes:
        found: the devices, by source-id and PASID.
        spaces: the page tables, in the order in which the devices come to them.
        problems: what the unit refuses, each entry once.
        cut_short: there are more devices, or tables, than the limits allow.
    """

    def __init__(self, tables: Tables, lenient: RemappingUnit, memory: MeteredMemory, limits: Limits) -> None:
        self.tables, self.lenient, self.memory, self.limits = tables, lenient, memory, limits
        self.found: list[Device] = []
        self.spaces: list[Space] = []
        self.problems: dict[tuple[str, int], Problem] = {}
        self.cut_short = False
        self._numbers: dict[object, int] = {}
        self._sources: list[tuple[SourceId, int | None, tuple[Table, ...]]] = []

    def read(self) -> None:
        """Read everything, within the limits."""
        self.memory.allowance = self.limits.structures
        try:
            for device in self._devices():
                if self.limits.devices is not None and len(self.found) == self.limits.devices:
                    self.cut_short = True
                    break
                self.found.append(device)
        except CutShort:
            self.cut_short = True
        self.memory.allowance = self.limits.spaces
        for space, source in zip(self.spaces, self._sources, strict=True):
            self._fill(space, *source)

    # From the root table to the entries that select page tables.

    def _devices(self) -> Iterator[Device]:
        root = self.tables.root()
        for entry in [] if root is None else self._entries(root):
            for table in entry.below:
                bus, upper = (entry.number, 0) if table.kind == "context" else (entry.number >> 1, entry.number & 1)
                for context in self._entries(table):
                    source_id = SourceId.of(bus << 8 | upper << 7 | context.number)
                    if table.kind == "context":
                        yield self._legacy(source_id, context, self._wrong(entry, context))
                    else:
                        yield from self._scalable(source_id, context, self._wrong(entry, context))

    def _entries(self, table: Table) -> list[Entry]:
        """The entries of a table; what is wrong with them is noted."""
        entries = self.tables.entries(table)
        for entry in entries:
            if entry.problem is not None:
                self.problems[entry.problem.name, entry.where] = entry.problem
        return entries

    @staticmethod
    def _wrong(*entries: Entry) -> tuple[Problem, ...]:
        return tuple(entry.problem for entry in entries if entry.problem is not None)

    def _legacy(self, source_id: SourceId, context: Entry, problems: tuple[Problem, ...]) -> Device:
        entry = ContextEntry(context.raw)
        passes = entry.TT == TranslationType.PASS_THROUGH
        kinds = {
            TranslationType.UNTRANSLATED_ONLY.value: "second stage",
            TranslationType.WITH_DEVICE_TLB.value: "second stage, device-TLB allowed",
            TranslationType.PASS_THROUGH.value: "pass-through",
        }
        key = context.raw & ~ContextEntry.bits_of("DID", "AVAIL", "FPD") & ~_refused(context)
        return Device(
            source_id,
            None,
            True,
            entry.DID,
            kinds.get(entry.TT, f"TT={entry.TT}, which is reserved"),
            context.where,
            context.where,
            ("faults not recorded (FPD)",) if entry.FPD else (),
            problems,
            self._space(key, context, source_id, None, passes=passes),
        )

    def _scalable(self, source_id: SourceId, context: Entry, problems: tuple[Problem, ...]) -> Iterator[Device]:
        entry = ScalableContextEntry(context.raw)
        decoded = self.tables.unit.translation.scalable.decode_context(context.raw)
        flags = [
            text
            for is_set, text in (
                (entry.FPD, "faults not recorded (FPD)"),
                (entry.DTE, "device-TLB allowed"),
                (entry.PRE, "page requests allowed"),
            )
            if is_set
        ]
        for table in context.below:
            for directory in self._entries(table):
                for below in directory.below:
                    for each in self._entries(below):
                        pasid = directory.number << 6 | each.number
                        wrong = problems + self._wrong(directory, each)
                        without = pasid == decoded.rid_pasid
                        yield self._pasid(source_id, pasid, without, context, each, flags, wrong)

    def _pasid(
        self,
        source_id: SourceId,
        pasid: int,
        without_pasid: bool,
        context: Entry,
        own: Entry,
        flags: list[str],
        problems: tuple[Problem, ...],
    ) -> Device:
        entry = PasidEntry(own.raw)
        kinds = {kind.value: kind.name.lower().replace("_", " ") for kind in PasidTranslationType}
        kinds[PasidTranslationType.PASS_THROUGH.value] = "pass-through"
        device = ScalableContextEntry(context.raw)
        passes = entry.PGTT == PasidTranslationType.PASS_THROUGH
        asked = None if without_pasid else pasid
        selected = own.raw & ~PasidEntry.bits_of("DID", "FPD") & ~_refused(own)
        key = selected, *((None, device.RID_PRIV) if asked is None else (device.PASIDE, None))
        own_flags = [
            *flags,
            *(["faults of this PASID not recorded (FPD)"] if entry.FPD else []),
            *(["privileged (RID_PRIV)"] if without_pasid and device.RID_PRIV else []),
            *([] if without_pasid or device.PASIDE else ["not in use: requests with PASID are blocked (PASIDE=0)"]),
        ]
        return Device(
            source_id,
            pasid,
            without_pasid,
            entry.DID,
            kinds.get(entry.PGTT, f"PGTT={entry.PGTT}, which is reserved"),
            own.where,
            context.where,
            tuple(own_flags),
            problems,
            self._space(key, own, source_id, asked, passes=passes),
        )

    # Page tables.

    def _space(
        self, key: object, entry: Entry, source_id: SourceId, pasid: int | None, *, passes: bool
    ) -> int | None:
        """The number of the page tables of an entry."""
        if not entry.below and not passes:
            return None
        if key not in self._numbers:
            self._numbers[key] = len(self.spaces)
            roots = [_stage_root(table.stage) for table in entry.below if table.stage is not None]
            self.spaces.append(Space(tuple(roots[::-1])))
            self._sources.append((source_id, pasid, entry.below))
        return self._numbers[key]

    def _fill(self, space: Space, source_id: SourceId, pasid: int | None, tops: tuple[Table, ...]) -> None:
        """Read the page tables, and what they map: each for half of what a space may take."""
        most = None if self.limits.space is None else self.limits.space // 2
        try:
            with self.memory.lend(most):
                self._count(space, tops)
        except CutShort:
            space.cut_short = True
        try:
            with self.memory.lend(most):
                self._map(space, source_id, pasid)
        except CutShort:
            space.cut_short = True

    def _count(self, space: Space, tops: tuple[Table, ...]) -> None:
        for table, entries in self.tables.reachable(tops, set()):
            own = self.tables.format_of(table)
            assert isinstance(own, PagingFormat)
            space.tables += 1
            stage = _stage_name(table.stage)
            pages = sum(not entry.below for entry in entries)
            if own.page.layout is not own.table.layout and pages:
                space.pages[stage, own.page_size] += pages
            for entry in entries:
                if entry.problem is not None:
                    self.problems.setdefault((entry.problem.name, entry.where), entry.problem)

    def _map(self, space: Space, source_id: SourceId, pasid: int | None) -> None:
        for mapping in self.lenient.mappings(source_id, pasid):
            if self.limits.ranges is None or len(space.ranges) < self.limits.ranges:
                space.ranges.append(mapping)
            space.count += 1
            space.size += mapping.size
            space.rights[rights_of(mapping)] += mapping.size


def _refused(entry: Entry) -> int:
    """The reserved bits that are set in an entry."""
    return 0 if entry.problem is None else entry.problem.bits


def rights_of(mapping: Mapping) -> str:
    """The permissions of a mapping: "rw", "r", "rwx"."""
    letters = (("r", mapping.readable), ("w", mapping.writable), ("x", mapping.executable))
    return "".join(letter for letter, has in letters if has)


def _stage_root(stage: Root) -> StageRoot:
    return StageRoot(_stage_name(stage), stage.address, stage.levels)


def _stage_name(stage: Root | None) -> str:
    return "first stage" if isinstance(stage, FirstStageRoot) else "second stage"
