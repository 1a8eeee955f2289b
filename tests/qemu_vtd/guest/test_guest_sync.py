"""Guests without an event loop: every call of Guest, each done when it returns."""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys

import pytest

from iommu import Access, DmaRequest, MisuseError
from qemu.vtd.errors import QmpError
from qemu.vtd.guest import Guest, SyncGuest
from qemu.vtd.guest.check import DEVICE, PATTERN, guest_of
from qemu.vtd.guest.errors import GuestError
from qemu.vtd.guest.variants import variant
from qemu.vtd.probe import find_qemu
from tests.qemu_vtd import remains


def test_it_has_every_public_call_of_a_guest() -> None:
    """Also the blocks; what needs none of both is reached through `guest`."""
    waits = (inspect.iscoroutinefunction, lambda call: hasattr(call, "__wrapped__"))
    calls = {name for name, call in vars(Guest).items() if not name.startswith("_") and any(w(call) for w in waits)}
    assert calls - {"close", "doing", "within"} <= vars(SyncGuest).keys()
    assert {"run", "assign", "map", "copy", "unit", "snapshot"} <= calls


@pytest.mark.usefixtures("turn")
def test_a_guest_from_start_to_end() -> None:
    before = remains.children(), remains.open_files()
    with SyncGuest(guest_of(variant("legacy-4-level"))) as guest:
        assert guest.run("echo alive") == "alive\n"
        with pytest.raises(GuestError, match="'false' ended with status 1"):
            guest.run("false")
        with pytest.raises(QmpError, match="no-such-command"):
            guest.qmp("no-such-command")
        guest.assign("0000:00:03.0")
        frames = guest.map(0x100_0000, 0x2000)
        guest.copy(0x100_0000, 0x100_1000, 16)
        with guest.unit() as unit:
            assert guest.qmp("query-status")["running"] is False
            assert unit.translate(DmaRequest(DEVICE, 0x100_1000, Access.READ)).host_address == frames[1]
        assert guest.qmp("query-status")["running"] is True
        assert guest.memory.read_u64(frames[1]) == 0x100_0000 + PATTERN
        with pytest.raises(ZeroDivisionError), guest.paused():
            raise ZeroDivisionError
        assert guest.qmp("query-status")["running"] is True
        assert list(guest.events) == ["STOP", "RESUME"] * 2
        assert guest.dmar()[:4] == b"DMAR"
    assert (remains.children(), remains.open_files()) == before
    with pytest.raises(MisuseError, match="the guest is not running"):
        guest.run("true")


def test_one_that_cannot_start() -> None:
    before = remains.children(), remains.open_files()
    with pytest.raises(Exception, match="not today"), SyncGuest(Guest(find_qemu(), refuse=lambda _: "not today")):
        pass
    assert (remains.children(), remains.open_files()) == before


SCRIPT = """
from qemu.vtd.guest import SyncGuest
from qemu.vtd.guest.check import guest_of
from qemu.vtd.guest.variants import variant
try:
    with SyncGuest(guest_of(variant("legacy-4-level"))) as guest:
        print(guest.guest._process.pid, flush=True)
        guest.run("sleep 60", 60)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.usefixtures("turn")
def test_ctrl_c_during_a_call_ends_the_guest() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    qemu = int(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=20)
    assert (process.returncode, said, errors) == (0, "interrupted\n", "")
    assert remains.is_gone(qemu)
