"""Every break of the engine that the catalogue must notice, by wing."""

from __future__ import annotations

from tests.qemu_vtd.conformance.breaks import (
    caches,
    faults,
    finer,
    first_stage,
    interrupts,
    offers,
    queue,
    registers,
    scalable,
    translation,
)
from tests.qemu_vtd.conformance.breaks.broken import Break

BREAKS: dict[str, tuple[type[Break], ...]] = {
    "registers": registers.BREAKS,
    "translation": translation.BREAKS,
    "scalable mode": (*scalable.BREAKS, *first_stage.BREAKS),
    "caches, invalidation": caches.BREAKS,
    "queue": queue.BREAKS,
    "faults": faults.BREAKS,
    "interrupts": interrupts.BREAKS,
    "one bit, one step": finer.BREAKS,
    "what units offer": offers.BREAKS,
}
"""The breaks by wing."""
