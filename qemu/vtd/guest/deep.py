"""Guests that are looked at from all sides: with an NVMe controller run by Linux, and QEMU's trace events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from qemu.vtd.guest import core, domains, events, log, messages, nvme, shown
from qemu.vtd.guest.check import Inspection, guest_of, inspect
from qemu.vtd.guest.guest import EDU, Guest
from qemu.vtd.guest.trace import Trace
from qemu.vtd.guest.variants import Variant

ROOT, ENABLED = "vtd_reg_dmar_root", "vtd_dmar_enable"
EVENTS = (*nvme.EVENTS, messages.EVENT, events.EVENT, ROOT, ENABLED)


class Watched(NamedTuple):
    """A guest that is running, and what QEMU says of it."""

    guest: Guest
    trace: Trace


@asynccontextmanager
async def watched(variant: Variant, qemu: str | None = None, **options: Any) -> AsyncIterator[Watched]:
    """A guest with both devices; `options` are further arguments of Guest. Raises GuestError."""
    with Trace(*EVENTS) as trace:
        options.setdefault("devices", (EDU, nvme.DEVICE))
        extra = [*nvme.BACKEND, *trace.arguments, *options.pop("extra", ())]
        async with guest_of(variant, qemu, extra=extra, **options) as guest:
            yield Watched(guest, trace)


async def inspect_deeply(seen: Watched, variant: Variant) -> Inspection:
    """All that `inspect` checks, and both devices' interrupts, the controller's queues, and each device's domain."""
    found = await inspect(seen.guest, variant)
    await log.check_log(found)
    if await nvme.is_driven(seen.guest):
        await nvme.check_nvme(found, seen.trace)
        await messages.check_messages(found, seen.trace)
    else:
        found.story.append("this kernel has no NVMe driver built in: its queues and MSI-X were not looked at")
    await domains.check_domains(found)
    await events.check_fault_event(found, seen.trace)
    await events.check_page_requests(found)
    await core.check_core(found)
    await shown.check_shown(found)
    return found
