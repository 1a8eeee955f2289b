"""A walk step by step, for people to read: what was looked at, where, what it said, what became of it.

The parts a request goes through are copied, for one request, into kinds that write down what they read and what the
caches knew. They share caches, memory and fault log with the unit, so that a traced request has the same effects as
any other; requests that are not traced go through the unit's own parts, which know nothing of this.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from iommu.engine.caches.page import FaultyEntry
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import DmaRequest, Outcome
from iommu.engine.translation.first_stage import Directory, FirstStage, Found, Place
from iommu.engine.translation.legacy import LegacyMode
from iommu.engine.translation.paging import Intent, Leaf, in_interrupt_range
from iommu.engine.translation.scalable import ScalableMode
from iommu.engine.translation.second_stage import SecondStage, Tables
from iommu.engine.translation.translation import Translation
from iommu.errors import MemoryAccessError
from iommu.fields import Layout
from iommu.registers import TableMode
from iommu.structures import (
    ContextEntry,
    FirstStage1GPage,
    FirstStage2MPage,
    FirstStage4KPage,
    FirstStageEntry,
    FirstStageTable,
    PasidDirectoryEntry,
    PasidEntry,
    RootEntry,
    ScalableContextEntry,
    ScalableRootHalf,
    SecondStage1GPage,
    SecondStage2MPage,
    SecondStage4KPage,
    SecondStageEntry,
    SecondStageTable,
)

_SECOND: dict[int, type[Layout]] = {1: SecondStage4KPage, 2: SecondStage2MPage, 3: SecondStage1GPage}
_FIRST: dict[int, type[Layout]] = {1: FirstStage4KPage, 2: FirstStage2MPage, 3: FirstStage1GPage}
_LARGE = SecondStage2MPage.PS.mask
_SIZES = {1 << 12: "4 KiB", 1 << 21: "2 MiB", 1 << 30: "1 GiB"}

Part = TypeVar("Part")


@dataclass(frozen=True)
class Step:
    """One thing the unit looked at. The last one of a blocked request says why it was blocked.

    Attributes:
        structure: what it is: "request", "root entry", "second-stage entry, level 3", "IOTLB", ...
        section: where the specification describes it.
        address: where in host memory it was read; None for what is not in memory.
        raw: what stood there; None where nothing could be read, and for most that caches knew.
        view: the same as fields; None where `raw` is.
        checked: what it was checked for and what it says, or why it blocks the request.
        cached: a cache knew it: memory was not read, and may say something else by now.
        fault: why the request was blocked here; None for every step but the last.
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
    """Takes down the steps of one request."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.purpose = ""

    def read(self, structure: str, layout: type[Layout], checked: str, where: int, read: Callable[[int], int]) -> int:
        """Read an entry by `read` and take it down, also when it cannot be read."""
        try:
            raw = read(where)
        except (Blocked, MemoryAccessError):
            self.steps.append(Step(structure + self.purpose, layout.section, where, checked="could not be read"))
            raise
        self.steps.append(
            Step(
                structure + self.purpose,
                layout.section,
                where,
                raw,
                layout(raw),
                f"{checked}{points_to(layout(raw))}",
            )
        )
        return raw

    def known(self, structure: str, section: str, checked: str, view: Layout | None = None) -> None:
        """Take down what a cache knew."""
        raw = None if view is None else view.raw
        self.steps.append(Step(structure + self.purpose, section, raw=raw, view=view, checked=checked, cached=True))

    def fail(self, reason: FaultReason, reserved: int) -> None:
        """The last step is what blocked the request."""
        last = self.steps[-1]
        why = reason.meaning
        if last.raw is not None and last.raw & reserved and "reserved" in why:
            why += f" ({last.raw & reserved:#x})"
        self.steps[-1] = replace(last, checked=why, fault=reason)


def points_to(view: Layout) -> str:
    """Where an entry leads, in words."""
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
            return f"; domain {view.DID}, {PasidEntry.PGTT.show(view.raw).lower().replace('_', ' ')}"
        case SecondStageTable() | FirstStageTable():
            return f"; table {view.ADDR:#x}"
    return ""


class _CacheOf:
    """A cache that takes down what it finds; everything else is the cache's own."""

    def __init__(self, cache: Any, found: Callable[[Any], None]) -> None:
        self._cache, self._found = cache, found

    def find(self, *key: Any) -> Any:
        item = self._cache.find(*key)
        if item is not None:
            self._found(item)
        return item

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


class _MemoryOf:
    """Memory that takes down what a stage writes: accessed and dirty bits."""

    def __init__(self, memory: Any, recorder: Recorder, section: str, layout: type[Layout]) -> None:
        self._memory, self._recorder, self._section, self._layout = memory, recorder, section, layout

    def write(self, address: int, data: bytes) -> None:
        self._memory.write(address, data)
        view = self._layout(int.from_bytes(data, "little"))
        text = "accessed or dirty set in memory"
        self._recorder.steps.append(Step("update", self._section, address, view.raw, view, text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)


class TracedLegacy(LegacyMode):
    """Legacy mode, taken down."""

    recorder: Recorder

    def read_root(self, where: int) -> int:
        return self.recorder.read("root entry", RootEntry, "present, nothing reserved", where, super().read_root)

    def read_context(self, where: int) -> int:
        checked = "present, nothing reserved, type and depth offered"
        return self.recorder.read("context entry", ContextEntry, checked, where, super().read_context)


class TracedScalable(ScalableMode):
    """Scalable mode, taken down."""

    recorder: Recorder

    def read_root(self, where: int) -> int:
        checked = "present, nothing reserved"
        return self.recorder.read("half root entry", ScalableRootHalf, checked, where, super().read_root)

    def read_context(self, where: int) -> int:
        checked = "present, nothing reserved, takes such requests"
        return self.recorder.read("context entry", ScalableContextEntry, checked, where, super().read_context)

    def read_directory(self, where: int) -> int:
        checked = "present, nothing reserved"
        return self.recorder.read(
            "PASID directory entry", PasidDirectoryEntry, checked, where, super().read_directory
        )

    def read_pasid(self, where: int) -> int:
        checked = "present, nothing reserved, type and depth offered"
        return self.recorder.read("PASID table entry", PasidEntry, checked, where, super().read_pasid)


class TracedSecondStage(SecondStage):
    """The second-stage walk, taken down. `level` is that of the entry read next; 0 outside a walk."""

    recorder: Recorder
    level: int

    def walk(self, tables: Tables, address: int, intent: Intent) -> Leaf:
        self.level = tables.levels
        leaf = super().walk(tables, address, intent)
        self.level = 0
        return leaf

    def read_entry(self, where: int, snooped: int) -> int:
        level, self.level = self.level, self.level - 1
        read = partial(super().read_entry, snooped=snooped)
        return read_paging_entry(self.recorder, "second", _SECOND, SecondStageTable, level, where, read)


class TracedFirstStage(FirstStage):
    """The first-stage walk, taken down. `level` as in the second stage."""

    recorder: Recorder
    level: int

    def walk(self, tables: Directory, address: int, intent: Intent) -> Found:
        self.level = tables.levels
        found = super().walk(tables, address, intent)
        self.level = 0
        return found

    def place_of(self, tables: Directory, address: int, level: int) -> Place:
        self.recorder.purpose = f" of the first-stage table at {address & ~0xFFF:#x}"
        place = super().place_of(tables, address, level)
        self.recorder.purpose = ""
        return place

    def read_entry(self, where: int, snooped: int) -> int:
        level, self.level = self.level, self.level - 1
        read = partial(super().read_entry, snooped=snooped)
        return read_paging_entry(self.recorder, "first", _FIRST, FirstStageTable, level, where, read)


def read_paging_entry(
    recorder: Recorder,
    stage: str,
    pages: dict[int, type[Layout]],
    table: type[Layout],
    level: int,
    where: int,
    read: Callable[[int], int],
) -> int:
    """Read a paging entry and take it down as what it is: a table's or a page's."""
    name = f"{stage}-stage entry, level {level}" if level > 0 else f"{stage}-stage entry, again"
    raw_of: list[int] = []

    def peek(place: int) -> int:
        raw_of.append(read(place))
        return raw_of[0]

    checked = "present, nothing reserved"
    raw = recorder.read(name, table, checked, where, peek)
    if level == 1 or (level <= 3 and raw & _LARGE):
        layout = pages.get(level, table)
        size = _SIZES.get(8 << 9 * level, "")
        page = raw & layout.fields["ADDR"].mask
        recorder.steps[-1] = replace(
            recorder.steps[-1], section=layout.section, view=layout(raw), checked=f"{checked}; {size} page {page:#x}"
        )
    return raw


class TracedTranslation(Translation):
    """The way of one request, taken down."""

    recorder: Recorder

    def guard(self, outcome: Outcome) -> Outcome:
        guarded = super().guard(outcome)
        if guarded is not outcome:
            text = f"{outcome.host_address:#x} lies in a protected memory region: dropped"
            self.recorder.steps.append(Step("protected memory", "11.4.8", checked=text))
        return guarded


def trace(translation: Translation, request: DmaRequest) -> Outcome:
    """The outcome of a request with the steps that led to it; its effects are those of an untraced one."""
    recorder = Recorder()
    traced = traced_copy(translation, recorder)
    recorder.steps.append(first_step(translation, request))
    outcome = traced.translate(request)
    if outcome.fault is not None:
        recorder.fail(outcome.fault, reserved_bits(translation, recorder.steps[-1].view))
    return outcome.replace(trace=tuple(recorder.steps))


def traced_copy(translation: Translation, recorder: Recorder) -> Translation:
    """A translation of the traced kinds that shares everything else with `translation`."""
    traced: Translation = _of_kind(translation, TracedTranslation, recorder)
    legacy = traced.legacy = _of_kind(translation.legacy, TracedLegacy, recorder)
    scalable = traced.scalable = _of_kind(translation.scalable, TracedScalable, recorder)
    second = legacy.second_stage = scalable.second_stage = _of_kind(legacy.second_stage, TracedSecondStage, recorder)
    first = scalable.first_stage = _of_kind(scalable.first_stage, TracedFirstStage, recorder)
    first.second_stage = second
    traced.shortcuts, traced.enabled = False, translation.enabled  # every step is to be seen
    first.level = second.level = 0
    first.memory = _MemoryOf(first.memory, recorder, "3.6.2", FirstStageEntry)
    second.memory = _MemoryOf(second.memory, recorder, "3.7.2", SecondStageEntry)
    for part in (first, second):
        part.cache = _traced_structures(part, recorder)
    legacy.caches = scalable.caches = _traced_caches(legacy.caches, recorder)
    return traced


def _of_kind(part: Part, kind: type[Any], recorder: Recorder) -> Any:
    """A copy that is of the traced kind too; what the part overrides (a quirk, say) stays overridden."""
    traced = copy.copy(part)
    traced.__class__ = type(kind.__name__, (kind, type(part)), {})
    traced.recorder = recorder  # type: ignore[attr-defined]
    return traced


def _traced_structures(part: Any, recorder: Recorder) -> Any:
    stage = "first" if isinstance(part, FirstStage) else "second"

    def found(item: tuple[int, Any]) -> None:
        level, table = item
        part.level = level
        recorder.known(f"{stage}-stage structure cache", "6.2.5", f"table of level {level} at {table.address:#x}")

    return _CacheOf(part.cache, found)


def _traced_caches(caches: Any, recorder: Recorder) -> Any:
    traced = copy.copy(caches)

    def faulty(cache: str, section: str, item: Any) -> bool:
        """What caching mode keeps of entries that are not as they should be."""
        if not isinstance(item, FaultyEntry):
            return False
        recorder.known(cache, section, "not present or erroneous when it was read")
        return True

    def context(item: Any) -> None:
        if not faulty("context cache", "6.2.2", item):
            text = f"domain {item.domain_id}, type {item.translation_type.name.lower()}"
            recorder.known("context cache", "6.2.2", text)

    def scalable_context(item: Any) -> None:
        if not faulty("context cache", "6.2.2", item):
            recorder.known("context cache", "6.2.2", f"PASID directory {item.directory:#x}")

    def process(item: Any) -> None:
        if faulty("PASID cache", "6.2.3", item):
            return
        entry = PasidEntry(item.raw)
        recorder.known("PASID cache", "6.2.3", f"valid when it was read{points_to(entry)}", entry)

    def page(item: Any) -> None:
        if item.kind.fault is not None:
            recorder.known("IOTLB", "6.2.4", "no translation when it was walked")
            return
        rights = f"{'R' if item.kind.readable else '-'}{'W' if item.kind.writable else '-'}"
        recorder.known("IOTLB", "6.2.4", f"{_SIZES[item.kind.size]} page {item.host:#x}, {rights}")

    traced.contexts = _CacheOf(caches.contexts, context)
    traced.scalable_contexts = _CacheOf(caches.scalable_contexts, scalable_context)
    traced.pasids = _CacheOf(caches.pasids, process)
    traced.iotlb = _CacheOf(caches.iotlb, page)
    return traced


def first_step(translation: Translation, request: DmaRequest) -> Step:
    """What is decided before any table is read (spec 3.4, 3.14)."""
    if request.pasid is None and in_interrupt_range(request.address):
        return Step("request", "3.14", checked="in the interrupt address range: a message, not DMA")
    if not translation.enabled:
        return Step("request", "3.4", checked="translation is off (GSTS.TES): nothing is remapped")
    mode = translation.mode
    name = TableMode(mode).name.lower().replace("_", "-") if mode in list(TableMode) else f"mode {mode}"
    text = f"translation is on, {name} mode, root table {translation.legacy.root_table:#x}"
    return Step("request", "3.4", checked=text)


def reserved_bits(translation: Translation, view: Layout | None) -> int:
    """The bits that must be 0 in such an entry on this unit."""
    if view is None:
        return 0
    capabilities = translation.capabilities
    return type(view).reserved_mask(capabilities.host_address_width, capabilities.offered)
