"""Copies of the parts that translate requests, which cache nothing; one also records no fault and sets no bit."""

from __future__ import annotations

import copy
from typing import Any

from iommu.engine.entry_format import PagingFormat
from iommu.engine.reasons import FaultReason
from iommu.engine.request import INTERRUPT, DmaRequest, Outcome
from iommu.engine.table_access import TableAccess
from iommu.engine.translation.translation import Translation


class _Unchanged(TableAccess):
    """Table access that updates nothing."""

    def update(self, entry_format: PagingFormat, where: int, entry: int, bits: int, failed: FaultReason) -> None:
        """See TableAccess."""


class _Nothing:
    """A cache that holds nothing; a fault log, and interrupt remapping, without an effect."""

    def find(self, *_key: Any) -> None:
        """Nothing is cached."""

    def fill(self, *_item: Any) -> None:
        """Nothing is kept."""

    def remove(self, _key: Any) -> None:
        """There is nothing to remove."""

    def report(self, *_fault: Any) -> bool:
        """No fault is recorded."""
        return False

    def message(self, _request: DmaRequest) -> Outcome:
        """An interrupt message reaches no memory, whatever becomes of it."""
        return INTERRUPT


class _NoCaches:
    """The caches of a unit that caches nothing."""

    contexts = scalable_contexts = pasids = iotlb = _Nothing()


def quiet_copy(translation: Translation) -> Translation:
    """A copy that caches nothing, records nothing and sets no bits, with the registers as they are now."""
    access = translation.scalable.second_stage.access
    parts: Any = _copy(translation, _Unchanged(access.memory, access.snooped, access.unsnooped))
    parts.faults = parts.interrupts = _Nothing()
    quiet: Translation = parts
    return quiet


def uncached_copy(translation: Translation) -> Translation:
    """A copy that caches nothing; otherwise it does what the unit does, with the registers as they are now."""
    return _copy(translation, translation.scalable.second_stage.access)


def _copy(translation: Translation, access: TableAccess) -> Translation:
    """A copy that caches nothing and accesses tables by `access`."""
    parts: Any = copy.copy(translation)
    legacy, scalable = copy.copy(translation.legacy), copy.copy(translation.scalable)
    first, second = copy.copy(scalable.first_stage), copy.copy(scalable.second_stage)
    parts.legacy, parts.scalable = legacy, scalable
    parts.protected = copy.copy(translation.protected)
    part: Any
    for part in (legacy, scalable):
        part.caches, part.access, part.second_stage = _NoCaches, access, second
    for part in (first, second):
        part.cache, part.access = _Nothing(), access
    scalable.first_stage, first.second_stage = first, second
    made: Translation = parts
    return made
