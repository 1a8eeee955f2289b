"""Guests set up as no variant is: an APIC id that needs 32 bits, and pass-through in scalable mode."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iommu.registers import TableMode
from qemu.vtd.guest import nvme
from qemu.vtd.guest.check import inspect
from qemu.vtd.guest.deep import inspect_deeply, watched
from qemu.vtd.guest.domains import check_domains
from qemu.vtd.guest.guest import EDU
from qemu.vtd.guest.messages import apic_ids
from qemu.vtd.guest.variants import variant
from qemu.vtd.launch import MIB
from tests.qemu_vtd.guest.turns import qemu_for_guests

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.usefixtures("turn")]

FAR = 259
"""An APIC id: the second processor is in the last of so many sockets."""


async def test_interrupts_reach_a_processor_whose_apic_id_has_more_than_8_bits() -> None:
    chosen = replace(variant("x2apic"), processors=1)
    devices = (f"max-x86_64-cpu,socket-id={FAR},core-id=0,thread-id=0", EDU, nvme.DEVICE)
    extra = ("-smp", f"sockets={FAR + 1},maxcpus={FAR + 1}")
    options = {"devices": devices, "extra": extra, "command_line": "possible_cpus=2"}
    async with watched(chosen, qemu_for_guests("sid"), **options) as seen:
        assert await apic_ids(seen.guest) == [0, FAR]
        found = await inspect_deeply(seen, chosen)
    assert [each for each in found.findings if not each.agrees] == []
    destinations = {int(each.model, 16) for each in found.findings if each.what.endswith(": destination")}
    # Clusters of 16: bits 31:16 of a logical id are the cluster, bits 15:0 the processor in it.
    assert FAR in destinations or (FAR >> 4 << 16 | 1 << (FAR & 15)) in destinations


async def test_pass_through_in_scalable_mode() -> None:
    chosen = replace(variant("second-stage"), mode=TableMode.SCALABLE, command_line="intel_iommu=on,sm_on iommu=pt")
    async with watched(chosen, qemu_for_guests("sid"), memory=256 * MIB) as seen:
        found = await inspect(seen.guest, chosen)
        await check_domains(found)
        await nvme.check_nvme(found, seen.trace)
    assert [each for each in found.findings if not each.agrees] == []
    assert any(each.what == f"domain of {nvme.SOURCE}" and each.model == "pass-through" for each in found.findings)
