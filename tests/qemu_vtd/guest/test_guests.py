"""Linux guests in every variant: what the model reads in their tables is what they saw."""

from __future__ import annotations

import asyncio

import pytest

from qemu.vtd.guest.deep import inspect_deeply, watched
from qemu.vtd.guest.variants import VARIANTS, variant
from qemu.vtd.launch import MIB
from qemu.vtd.probe import probe
from tests.qemu_vtd import remains
from tests.qemu_vtd.guest.breaks import BREAKS
from tests.qemu_vtd.guest.noticing import unnoticed
from tests.qemu_vtd.guest.turns import qemu_for_guests

pytestmark = pytest.mark.asyncio

# In `make test`: every variant, one of them on each QEMU that is not the newest.
_OTHERS = {"second-stage": "trixie", "legacy-3-level": "system"}
FAST = [(_OTHERS.get(each.id, "sid"), each.id) for each in VARIANTS]
SLOW = [(qemu, each.id) for qemu in ("system", "trixie", "sid") for each in VARIANTS if (qemu, each.id) not in FAST]


async def _agrees(qemu: str, id_: str) -> None:
    chosen, path = variant(id_), qemu_for_guests(qemu)
    if (why := chosen.obstacle(await asyncio.to_thread(probe, path))) is not None:
        pytest.skip(why)
    before = remains.children(), remains.open_files()
    async with watched(chosen, path, memory=256 * MIB) as seen:
        found = await inspect_deeply(seen, chosen)
        assert seen.guest.accel == "tcg"
        if (qemu, id_) in FAST and id_ in BREAKS:
            assert await unnoticed(found, seen) == []
    differ = [each for each in found.findings if not each.agrees]
    assert not differ
    assert len(found.findings) > 80
    assert (remains.children(), remains.open_files()) == before


async def test_at_least_ten_breaks_are_shown_to_the_guests_of_make_test() -> None:
    assert set(BREAKS) <= {id_ for _, id_ in FAST}
    assert sum(map(len, BREAKS.values())) >= 10


@pytest.mark.parametrize(("qemu", "id_"), FAST)
@pytest.mark.usefixtures("turn")
async def test_the_model_agrees_with_a_guest(qemu: str, id_: str) -> None:
    await _agrees(qemu, id_)


@pytest.mark.slow
@pytest.mark.parametrize(("qemu", "id_"), SLOW)
@pytest.mark.usefixtures("turn")
async def test_the_model_agrees_with_a_guest_on_other_qemus(qemu: str, id_: str) -> None:
    await _agrees(qemu, id_)
