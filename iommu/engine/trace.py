"""A walk step by step, in readable form: what was read, where, its value, and what the unit concluded.

The parts that translate a request are copied for that request, with a table access and caches that record what is
read and found. The copies share caches, memory and fault log with the unit, so that a traced request has the same
effects as any other. Requests that are not traced use the unit's own parts and cost nothing extra.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from iommu.engine.caches.entries import FaultyEntry
from iommu.engine.caches.tables import FirstStageRoot
from iommu.engine.entry_format import EntryFormat, PagingFormat
from iommu.engine.reasons import FaultReason
from iommu.engine.request import DmaRequest, Outcome
from iommu.engine.table_access import EntryChanged, TableAccess
from iommu.engine.translation.first_stage import FirstStage
from iommu.engine.translation.paging import Leaf
from iommu.engine.translation.second_stage import SecondStage
from iommu.engine.translation.translation import Translation
from iommu.errors import MemoryAccessError
from iommu.fields import Layout
from iommu.registers import TableMode
from iommu.structures import (
    ContextEntry,
    FirstStageEntry,
    FirstStageTable,
    PasidDirectoryEntry,
    PasidEntry,
    RootEntry,
    ScalableContextEntry,
    ScalableRootHalf,
    SecondStageTable,
)

_SIZES = {1 << 12: "4 KiB", 1 << 21: "2 MiB", 1 << 30: "1 GiB"}
# What else an entry was checked for if the walk continues, besides "present, nothing reserved".
_CHECKED: dict[type[Layout], str] = {
    ContextEntry: ", type and levels offered",
    ScalableContextEntry: ", takes such requests",
    PasidEntry: ", type and levels offered",
}

Part = TypeVar("Part")


@dataclass(frozen=True)
class Step:
    """One step: something that the unit read or found. The last step of a blocked request says why it was blocked.

    Attributes:
        structure: what was read: "request", "root entry", "second-stage entry, level 3", "IOTLB", ...
        section: where the specification describes it.
        address: its host address; None if it was not read from memory.
        raw: its bits; None if it could not be read, and for most cached items.
        view: the fields of `raw`; None if `raw` is None.
        checked: what it was checked for and where it points, or why it blocks the request.
        cached: it was found in a cache: memory was not read, and may have changed since.
        fault: why the request was blocked; None for all steps except the last.
    """

    structure: str
    section: str
    address: int | None = None
    raw: int | None = None
    view: Layout | None = None
    checked: str = ""
    cached: bool = False
    fault: FaultReason | None = None

    def __str__(self) -> str:
        where = "cached" if self.cached else "" if self.address is None else f"{self.address:#x}"
        width = 0 if self.view is None else self.view.bits // 4 + 2
        raw = "" if self.raw is None else f"{self.raw:#0{width}x}"
        fault = "" if self.fault is None else f"{self.fault.value:#04x} {self.fault.condition}: "
        return "  ".join(part for part in (self.structure, where, raw, f"{fault}{self.checked}") if part)


class Recorder:
    """The steps of one request. `purpose` names what entries are read for, if not for the request itself."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.purpose = ""
        self.last: tuple[EntryFormat, int] | None = None

    def record_read(self, entry_format: EntryFormat, where: int, read: Callable[[], int]) -> int:
        """Call `read` for an entry and record the result. Raises MemoryAccessError as `read` does."""
        try:
            raw = read()
        except MemoryAccessError:
            self.read(entry_format, where, None)
            raise
        self.read(entry_format, where, raw)
        return raw

    def read(self, entry_format: EntryFormat, where: int, raw: int | None) -> None:
        """Record an entry that was read; `raw` is None if it could not be read."""
        name = entry_format.name + self.purpose
        if raw is None:
            section = entry_format.layout.section
            self.steps.append(Step(name, section, where, checked="could not be read"))
            return
        view = entry_format.layout_of(raw)(raw)
        checked = f"present, nothing reserved{_CHECKED.get(type(view), '')}{points_to(entry_format, view)}"
        self.steps.append(Step(name, view.section, where, raw, view, checked))
        self.last = entry_format, raw

    def updated(self, entry_format: EntryFormat, where: int, raw: int, checked: str) -> None:
        """Record that the unit has set accessed or dirty bits of an entry, or has tried to."""
        view = entry_format.layout_of(raw)(raw)
        section = "3.6.2" if isinstance(view, FirstStageEntry) else "3.7.2"
        self.steps.append(Step("update", section, where, raw, view, checked))

    def found(self, structure: str, section: str, checked: str, view: Layout | None = None) -> None:
        """Record an item that was found in a cache."""
        raw = None if view is None else view.raw
        self.steps.append(Step(structure + self.purpose, section, raw=raw, view=view, checked=checked, cached=True))

    def fail(self, reason: FaultReason) -> None:
        """Record in the last step why the request was blocked."""
        step, why = self.steps[-1], reason.meaning
        if step.raw is not None and self.last is not None and "reserved" in why:
            entry_format, raw = self.last
            why += f" ({raw & entry_format.reserved(raw):#x})"
        self.steps[-1] = replace(step, checked=why, fault=reason)


def points_to(entry_format: EntryFormat, view: Layout) -> str:
    """What an entry points to, in words."""
    match view:
        case RootEntry() | ScalableRootHalf():
            return f"; context table {view.CTP:#x}"
        case ScalableContextEntry():
            return f"; PASID directory {view.PASIDDIRPTR:#x}"
        case ContextEntry():
            return f"; domain {view.DID}, second-stage table {view.SSPTPTR:#x}"
        case PasidDirectoryEntry():
            return f"; PASID table {view.SMPTBLPTR:#x}"
        case PasidEntry():
            return f"; {_pasid_in_words(view)}"
        case SecondStageTable() | FirstStageTable():
            return f"; table {view.ADDR:#x}"
    if isinstance(entry_format, PagingFormat):
        return f"; {_SIZES[entry_format.page_size]} page {view.raw & entry_format.page_address:#x}"
    return ""


def _pasid_in_words(entry: PasidEntry) -> str:
    return f"domain {entry.DID}, {PasidEntry.PGTT.show(entry.raw).lower().replace('_', ' ')}"


class _TracedUpdates(TableAccess):
    """Table access of a stage: records updates. The stage itself records what it reads."""

    def __init__(self, access: TableAccess, recorder: Recorder) -> None:
        super().__init__(access.memory, access.snooped, access.unsnooped)
        self._access, self._recorder = access, recorder

    def read(self, entry_format: EntryFormat, where: int, snooped: int) -> int:
        """See TableAccess."""
        return self._access.read(entry_format, where, snooped)

    def update(self, entry_format: PagingFormat, where: int, entry: int, bits: int, failed: FaultReason) -> None:
        """See TableAccess."""
        try:
            self._access.update(entry_format, where, entry, bits, failed)
        except EntryChanged:
            self._recorder.updated(entry_format, where, entry, "changed in memory since it was read: walked again")
            raise
        self._recorder.updated(entry_format, where, entry | bits, "accessed or dirty set in memory")


class _TracedReads(_TracedUpdates):
    """Table access of a mode: records reads as well as updates."""

    def read(self, entry_format: EntryFormat, where: int, snooped: int) -> int:
        """See TableAccess."""
        return self._recorder.record_read(
            entry_format, where, lambda: self._access.read(entry_format, where, snooped)
        )


class _TracedCache:
    """A cache that records what `find` finds; everything else is delegated."""

    def __init__(self, cache: Any, found: Callable[[Any], None]) -> None:
        self._cache, self._found = cache, found

    def find(self, *key: Any) -> Any:
        item = self._cache.find(*key)
        if item is not None:
            self._found(item)
        return item

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


class TracedSecondStage(SecondStage):
    """A second stage that records the entries it reads."""

    recorder: Recorder

    def read_entry(self, entry_format: PagingFormat, where: int, snooped: int) -> int:
        """See SecondStage."""
        read = super().read_entry
        return self.recorder.record_read(entry_format, where, lambda: read(entry_format, where, snooped))


class TracedFirstStage(FirstStage):
    """A first stage that records the entries it reads, and which table a nested second-stage walk is for."""

    recorder: Recorder

    def read_entry(self, entry_format: PagingFormat, where: int, snooped: int) -> int:
        """See FirstStage."""
        read = super().read_entry
        return self.recorder.record_read(entry_format, where, lambda: read(entry_format, where, snooped))

    def locate_entry(self, tables: FirstStageRoot, address: int, level: int) -> tuple[int, Leaf | None]:
        """See FirstStage."""
        self.recorder.purpose = f" of the first-stage table at {address & ~0xFFF:#x}"
        place = super().locate_entry(tables, address, level)
        self.recorder.purpose = ""
        return place


class TracedTranslation(Translation):
    """A translation that records its steps."""

    recorder: Recorder

    def check_protected(self, outcome: Outcome) -> Outcome:
        """See Translation."""
        checked = super().check_protected(outcome)
        if checked is not outcome:
            text = f"{outcome.host_address:#x} is in a protected memory region: dropped"
            self.recorder.steps.append(Step("protected memory", "11.4.8", checked=text))
        return checked


def trace(translation: Translation, request: DmaRequest) -> Outcome:
    """Translate a request and record the steps in the outcome. The effects are those of an untraced request."""
    recorder = Recorder()
    traced = traced_copy(translation, recorder)
    recorder.steps.append(first_step(translation, request))
    outcome = traced.translate(request)
    if outcome.fault is not None:
        recorder.fail(outcome.fault)
    return outcome.replace(trace=tuple(recorder.steps))


def traced_copy(translation: Translation, recorder: Recorder) -> Translation:
    """A copy of `translation` that records its steps and shares everything else."""
    traced: Translation = _of_kind(translation, TracedTranslation, recorder)
    legacy = traced.legacy = copy.copy(translation.legacy)
    scalable = traced.scalable = copy.copy(translation.scalable)
    second = _of_kind(legacy.second_stage, TracedSecondStage, recorder)
    legacy.second_stage = scalable.second_stage = second
    first = scalable.first_stage = _of_kind(scalable.first_stage, TracedFirstStage, recorder)
    first.second_stage = second
    for mode in (legacy, scalable):
        mode.access = _TracedReads(mode.access, recorder)
    for stage in (first, second):
        stage.access = _TracedUpdates(stage.access, recorder)
    first.cache = _traced_structures("first", first.cache, recorder)
    second.cache = _traced_structures("second", second.cache, recorder)
    legacy.caches = scalable.caches = _traced_caches(legacy.caches, recorder)
    return traced


def _of_kind(part: Part, kind: type[Any], recorder: Recorder) -> Any:
    """A copy of a part whose class is also derived from `kind`. What a subclass overrides, stays overridden."""
    traced = copy.copy(part)
    traced.__class__ = type(kind.__name__, (kind, type(part)), {})
    traced.recorder = recorder  # type: ignore[attr-defined]
    return traced


def _traced_structures(stage: str, cache: Any, recorder: Recorder) -> Any:
    def found(item: tuple[int, Any]) -> None:
        level, table = item
        recorder.found(f"{stage}-stage structure cache", "6.2.5", f"table of level {level} at {table.address:#x}")

    return _TracedCache(cache, found)


def _traced_caches(caches: Any, recorder: Recorder) -> Any:
    traced = copy.copy(caches)

    def faulty(cache: str, section: str, item: Any) -> bool:
        """Record a faulty entry that caching mode has cached. Returns whether it is one."""
        if not isinstance(item, FaultyEntry):
            return False
        recorder.found(cache, section, "not present or erroneous when it was read")
        return True

    def context(item: Any) -> None:
        if not faulty("context cache", "6.2.2", item):
            text = f"domain {item.domain_id}, type {item.translation_type.name.lower()}"
            recorder.found("context cache", "6.2.2", text)

    def scalable_context(item: Any) -> None:
        if not faulty("context cache", "6.2.2", item):
            recorder.found("context cache", "6.2.2", f"PASID directory {item.directory:#x}")

    def pasid_context(item: Any) -> None:
        if faulty("PASID cache", "6.2.3", item):
            return
        entry = PasidEntry(item.raw)
        recorder.found("PASID cache", "6.2.3", f"valid when it was read; {_pasid_in_words(entry)}", entry)

    def page(item: Any) -> None:
        if item.kind.fault is not None:
            recorder.found("IOTLB", "6.2.4", "no translation when it was walked")
            return
        rights = f"{'R' if item.kind.readable else '-'}{'W' if item.kind.writable else '-'}"
        recorder.found("IOTLB", "6.2.4", f"{_SIZES[item.kind.size]} page {item.host:#x}, {rights}")

    traced.contexts = _TracedCache(caches.contexts, context)
    traced.scalable_contexts = _TracedCache(caches.scalable_contexts, scalable_context)
    traced.pasids = _TracedCache(caches.pasids, pasid_context)
    traced.iotlb = _TracedCache(caches.iotlb, page)
    return traced


def first_step(translation: Translation, request: DmaRequest) -> Step:
    """The step before any table is read (spec 3.4, 3.14)."""
    if translation.is_unsupported(request):
        return Step("request", "4.2.1", checked="refused whatever the tables say")
    if translation.is_for_interrupts(request):
        return Step("request", "3.14", checked="in the interrupt address range: a message, not DMA")
    if not translation.enabled:
        return Step("request", "3.4", checked="translation is off (GSTS.TES): nothing is remapped")
    mode = translation.mode
    name = TableMode(mode).name.lower().replace("_", "-") if mode in list(TableMode) else f"mode {mode}"
    text = f"translation is on, {name} mode, root table {translation.legacy.root_table:#x}"
    return Step("request", "3.4", checked=text)
