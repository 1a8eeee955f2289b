"""The engine with a QEMU's quirks, as the platform that cases are compared with."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import cast

from iommu import Access, Capabilities, DmaRequest, Outcome, Policy, RemappingUnit, SourceId
from iommu.engine.invalidation.selector import Selector
from iommu.engine.reasons import Blocked
from iommu.engine.trace import Step
from iommu.registers import TableMode
from qemu.vtd.fuzz.case import Steps
from qemu.vtd.platform import ModelPlatform, Transfer
from qemu.vtd.topology import PLAIN, Topology

_UNSAFE = (range(0xA_0000, 0x10_0000), range(0xB000_0000, 0x1_0000_0000))
"""Host addresses at which QEMU has something else than RAM: a write there could do anything to the machine."""

Evicted = Mapping[int, Collection[str]]
"""What a unit has evicted before each request, by the request's number: "contexts", "translations"."""


class _Watched(RemappingUnit):
    """A unit that keeps the outcome of the last request, with the steps of its walk."""

    last: Outcome | None = None
    watched = True

    def translate(self, request: DmaRequest, *, trace: bool = False) -> Outcome:
        """See RemappingUnit."""
        self.last = super().translate(request, trace=trace or self.watched)
        return self.last


class Model(ModelPlatform):
    """A unit with some quirks.

    Attributes:
        evicted: what the unit has evicted before each request.
        prefetches: whether it reads the entries of every device after each register write that it can.
        watched: whether the steps of walks are kept, without which `decided` names no table.
        decided: for each request of the case so far, what decided it: "0x05 at second-stage entry, level 1".
        harmful: whether a DMA of the case would reach the machine itself instead of memory: it must not be run.
    """

    def __init__(
        self,
        capabilities: Capabilities,
        policy: Policy,
        unit: type[RemappingUnit],
        topology: Topology = PLAIN,
        evicted: Evicted | None = None,
    ) -> None:
        self._watched: type[RemappingUnit] = type("WatchedUnit", (_Watched, unit), {})
        super().__init__(capabilities, policy, self._watched, topology)
        self.evicted: Evicted = evicted or {}
        self.prefetches = False
        self.decided: list[str] = []
        self.harmful = False

    @property
    def watched(self) -> bool:
        """See Model."""
        return cast(_Watched, self.unit).watched

    @watched.setter
    def watched(self, watched: bool) -> None:
        cast(_Watched, self.unit).watched = watched

    def reset(self) -> None:
        """See Platform."""
        super().reset()
        self.decided, self.harmful = [], False

    def dma(self, device: str, access: Access, address: int, length: int = 4) -> Transfer:
        """See Platform."""
        self._evict(device, address)
        unit = cast(_Watched, self.unit)
        unit.last = None
        transfer = super().dma(device, access, address, length)
        if unit.last is not None:
            self.decided.append(_decision(unit.last))
            host = unit.last.host_address
            self.harmful |= host is not None and any(host in each for each in _UNSAFE)
        return transfer

    def write_register(self, offset: int, value: int, size: int) -> None:
        """See Platform."""
        super().write_register(offset, value, size)
        if self.prefetches:
            for source_id in self.source_ids.values():
                with suppress(Blocked):
                    self._prefetch(source_id)

    def _prefetch(self, source_id: SourceId) -> None:
        """Read the context entry of a device, and its PASID-table entry, as a request would. Raises Blocked."""
        translation = self.unit.translation
        if translation.mode == TableMode.SCALABLE:
            context = translation.scalable.context_of(source_id)
            translation.scalable.pasid_context_of(context, source_id, context.rid_pasid)
        else:
            translation.legacy.context_of(DmaRequest(source_id, 0, Access.READ))

    def _evict(self, device: str, address: int) -> None:
        """Drop what has been evicted before this request."""
        what, caches = self.evicted.get(len(self.decided), ()), self.unit.caches
        if "contexts" in what:
            caches.invalidate(Selector.contexts(source_id=self.source_ids[device]))
            caches.invalidate(Selector.pasids())
        if "translations" in what:
            page = address & -0x1000
            caches.invalidate(Selector.translations(addresses=range(page, page + 0x1000)))


def _decision(outcome: Outcome) -> str:
    """What an outcome came to, and the structure that decided it."""
    if outcome.fault is not None:
        what = f"{outcome.fault.value:#04x}"
    elif outcome.interrupt:
        what = "interrupt"
    else:
        what = "blocked" if outcome.host_address is None else "passed"
    steps = [step for step in outcome.trace if isinstance(step, Step)]
    if not steps:
        return f"{what} at no table"
    return f"{what} at {'cached ' if steps[-1].cached else ''}{steps[-1].structure}"


_NUMBER = re.compile(r"0x[0-9a-f]{4,}")


def reached(steps: Steps, decided: Collection[str]) -> set[str]:
    """What a case has reached: how requests were decided, and what else was observed, without addresses."""
    return {*decided, *(_NUMBER.sub("#", line) for step in steps for line in step)}
