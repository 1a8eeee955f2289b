"""Linux guests in every variant: what the model reads in their tables is what they saw."""

from __future__ import annotations

import asyncio

import pytest

from qemu.vtd.guest.check import guest_of, inspect
from qemu.vtd.guest.variants import VARIANTS, variant
from qemu.vtd.probe import probe
from tests.qemu_vtd import remains
from tests.qemu_vtd.guest.turns import qemu_for_guests

pytestmark = pytest.mark.asyncio

# In `make test`: every variant on the newest QEMU, one on each other.
FAST = [*(("sid", each.id) for each in VARIANTS), ("trixie", "first-stage"), ("system", "legacy-3-level")]
SLOW = [(qemu, each.id) for qemu in ("system", "trixie") for each in VARIANTS if (qemu, each.id) not in FAST]


async def _agrees(qemu: str, id_: str) -> None:
    chosen, path = variant(id_), qemu_for_guests(qemu)
    if (why := chosen.obstacle(await asyncio.to_thread(probe, path))) is not None:
        pytest.skip(why)
    before = remains.children(), remains.open_files()
    async with guest_of(chosen, path) as guest:
        found = await inspect(guest, chosen)
        assert guest.accel == "tcg"
    differ = [each for each in found.findings if not each.agrees]
    assert not differ
    assert len(found.findings) > 30
    assert (remains.children(), remains.open_files()) == before


@pytest.mark.parametrize(("qemu", "id_"), FAST)
@pytest.mark.usefixtures("turn")
async def test_the_model_agrees_with_a_guest(qemu: str, id_: str) -> None:
    await _agrees(qemu, id_)


@pytest.mark.slow
@pytest.mark.parametrize(("qemu", "id_"), SLOW)
@pytest.mark.usefixtures("turn")
async def test_the_model_agrees_with_a_guest_on_other_qemus(qemu: str, id_: str) -> None:
    await _agrees(qemu, id_)
