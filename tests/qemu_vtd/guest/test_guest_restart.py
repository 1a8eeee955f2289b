"""Guests that start again: a reset, kexec and a crash kernel lead to tables that resolve again."""

from __future__ import annotations

import pytest

from qemu.vtd.guest import kernel, restart
from qemu.vtd.guest.check import Inspection
from qemu.vtd.guest.deep import watched
from qemu.vtd.guest.variants import variant
from qemu.vtd.launch import MIB
from tests.qemu_vtd.guest.turns import qemu_for_guests

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("turn")]

ROOM = 512 * MIB


def differences(found: Inspection) -> list[object]:
    """What differs; fails when nothing was compared."""
    assert found.findings
    return [each for each in found.findings if not each.agrees]


async def test_tables_resolve_after_a_reset_and_after_kexec() -> None:
    chosen, booted = variant("legacy-4-level"), kernel.of_package()
    added = restart.files(booted, kernel.busybox())
    async with watched(chosen, qemu_for_guests("sid"), kernel=booted, added=added, memory=ROOM) as seen:
        assert not differences(await restart.assigned(seen, chosen))
        resets = seen.guest.events.count("RESET")
        for again in (restart.reset, restart.kexec):
            start = seen.trace.mark()
            await again(seen)
            found = await restart.assigned(seen, chosen)
            await restart.check_new_tables(found, seen.trace, start)
            assert not differences(found)
            # A kernel that is left for another turns translation off; the other finds it off.
            assert restart.switched(seen.trace, start)[-2:] == ([1] if again is restart.reset else [0, 1])
            if again is restart.reset:
                assert seen.guest.events.count("RESET") > resets
                resets = seen.guest.events.count("RESET")
        assert seen.guest.events.count("RESET") == resets


@pytest.mark.slow
async def test_a_crash_kernel_copies_tables_that_resolve_as_before() -> None:
    chosen, booted = variant("legacy-4-level"), kernel.of_package()
    options = {"added": restart.files(booted, kernel.busybox()), "command_line": restart.RESERVE, "memory": ROOM}
    async with watched(chosen, qemu_for_guests("sid"), kernel=booted, **options) as seen:
        found = await restart.assigned(seen, chosen)
        before, start = await restart.interrupts(found), seen.trace.mark()
        assert before
        await restart.crash(seen)
        await restart.check_copied(found, before)
        await restart.check_new_tables(found, seen.trace, start)
        assert not differences(found)
        # It finds translation on, and leaves it on.
        assert restart.switched(seen.trace, start) == []
        assert seen.guest.console.panic is None
        # A driver takes the device over.
        assert not differences(await restart.assigned(seen, chosen))
