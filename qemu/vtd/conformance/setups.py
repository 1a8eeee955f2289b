"""The units that scenarios are written for, and the QEMU properties that give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iommu import Capabilities
from qemu.vtd.topology import PLAIN, Topology


@dataclass(frozen=True)
class Setup:
    """The unit a scenario is written for.

    Attributes:
        name: shown to users.
        capabilities: of the unit, as far as the outcomes depend on them.
        properties: of QEMU's intel-iommu, to get such a unit, by the names of `probe.Build.spelled`.
        needs: fields of Capabilities that no property sets; a unit that differs in them cannot run the scenario.
        refused: what a QEMU says that has the properties, but cannot give such a unit. Any other QEMU that does not
            start is a finding.
        topology: the devices below the unit.
    """

    name: str
    capabilities: Capabilities
    properties: tuple[tuple[str, str], ...]
    needs: tuple[str, ...] = ()
    refused: str = ""
    topology: Topology = PLAIN

    @property
    def machine(self) -> tuple[tuple[tuple[str, str], ...], Topology]:
        """What a QEMU is started with: scenarios that have it in common share a QEMU."""
        return self.properties, self.topology


WIDE = Setup("48-bit", Capabilities(), (("aw-bits", "48"),))
NARROW = Setup("39-bit", Capabilities(address_width=39, host_address_width=39), (("aw-bits", "39"),))
SNOOPING = Setup(
    "48-bit, snoop control", Capabilities(snoop_control=True), (*WIDE.properties, ("snoop-control", "on"))
)
DEVICE_TLB = Setup("48-bit, device-TLBs", Capabilities(device_tlb=True), (*WIDE.properties, ("device-iotlb", "on")))
# Not every QEMU can turn pass-through off.
NO_PASS_THROUGH = Setup(
    "48-bit, no pass-through", Capabilities(pass_through=False), WIDE.properties, ("pass_through",)
)
FEW_DOMAINS = Setup("48-bit, 256 domains", Capabilities(domain_id_bits=8), WIDE.properties, ("domain_id_bits",))
NO_1G_PAGES = Setup("48-bit, no 1 GiB pages", Capabilities(page_1g=False), WIDE.properties, ("page_1g",))
SELF_INVALIDATING = Setup(
    "48-bit, ESRTPS",
    Capabilities(invalidate_on_root_pointer=True),
    WIDE.properties,
    ("invalidate_on_root_pointer",),
)
CACHING = Setup("48-bit, caching mode", Capabilities(caching_mode=True), (*WIDE.properties, ("caching-mode", "on")))
NO_REMAPPING = Setup(
    "48-bit, no interrupt remapping",
    Capabilities(interrupt_remapping=False, max_index_mask=0),
    (*WIDE.properties, ("intremap", "off")),
)
# Without KVM, 7.2 cannot have it.
EXTENDED = Setup(
    "48-bit, extended interrupts",
    Capabilities(extended_interrupts=True),
    (*WIDE.properties, ("eim", "on")),
    refused="eim=on requires",
)
NO_DRAIN = Setup(
    "48-bit, no draining",
    Capabilities(drain_reads=False, drain_writes=False),
    (*WIDE.properties, ("dma-drain", "off")),
)
# CAP.SAGAW is 0.
NO_TRANSLATION = Setup(
    "48-bit, no DMA translation", Capabilities(levels=()), (*WIDE.properties, ("dma-translation", "off"))
)
STALE_TM = Setup("48-bit, device-TLB and TM", DEVICE_TLB.capabilities, (*DEVICE_TLB.properties, ("stale-tm", "on")))


# Scalable mode. QEMU's units have one of the two stages, never both, and neither ECAP.RPS nor ECAP.SMPWCS.


def _scalable(name: str, width: int, *extra: tuple[str, str], needs: tuple[str, ...] = (), **has: Any) -> Setup:
    unit = Capabilities(address_width=width, host_address_width=width, scalable_mode=True, **has)
    return Setup(name, unit, (("aw-bits", str(width)), ("scalable-mode", "on"), *extra), needs)


_FLTS = ("flts", "on")
SECOND_STAGE = _scalable("scalable, second stage", 48, second_stage=True)
SECOND_STAGE_SELF_INVALIDATING = _scalable(
    "scalable, second stage, ESRTPS",
    48,
    needs=("invalidate_on_root_pointer",),
    second_stage=True,
    invalidate_on_root_pointer=True,
)
SECOND_STAGE_39 = _scalable("scalable, second stage, 39-bit", 39, second_stage=True)
SECOND_STAGE_SNOOPING = _scalable(
    "scalable, second stage, snoop control", 48, ("snoop-control", "on"), second_stage=True, snoop_control=True
)
SECOND_STAGE_DEVICE_TLB = _scalable(
    "scalable, second stage, device-TLB", 48, ("device-iotlb", "on"), second_stage=True, device_tlb=True
)
SECOND_STAGE_CACHING = _scalable(
    "scalable, second stage, caching mode", 48, ("caching-mode", "on"), second_stage=True, caching_mode=True
)
SECOND_STAGE_FEW_DOMAINS = _scalable(
    "scalable, second stage, 256 domains", 48, needs=("domain_id_bits",), second_stage=True, domain_id_bits=8
)
SECOND_STAGE_NO_PASS_THROUGH = _scalable(
    "scalable, second stage, no pass-through", 48, ("pt", "off"), second_stage=True, pass_through=False
)
FIRST_STAGE = _scalable("scalable, first stage", 48, _FLTS, first_stage=True, first_stage_1g=True)
FIRST_STAGE_NO_1G = _scalable("scalable, first stage, no 1 GiB pages", 48, _FLTS, ("fs1gp", "off"), first_stage=True)
FIRST_STAGE_CACHING = _scalable(
    "scalable, first stage, caching mode",
    48,
    *(_FLTS, ("caching-mode", "on")),
    first_stage=True,
    first_stage_1g=True,
    caching_mode=True,
)
FIRST_STAGE_SNOOPING = _scalable(
    "scalable, first stage, snoop control",
    48,
    *(_FLTS, ("snoop-control", "on")),
    first_stage=True,
    first_stage_1g=True,
    snoop_control=True,
)
FIRST_STAGE_DEVICE_TLB = _scalable(
    "scalable, first stage, device-TLB",
    48,
    *(_FLTS, ("device-iotlb", "on")),
    first_stage=True,
    first_stage_1g=True,
    device_tlb=True,
)
FIRST_STAGE_NO_LEVELS = _scalable(
    "scalable, first stage, no DMA translation",
    48,
    *(_FLTS, ("dma-translation", "off")),
    first_stage=True,
    first_stage_1g=True,
    levels=(),
)
# What no QEMU has: both stages, nested, RID_PASID, and accessed and dirty bits in either stage.
EVERYTHING = Setup(
    "scalable, everything",
    Capabilities.scalable(),
    SECOND_STAGE.properties,
    ("first_stage", "nested", "rid_pasid", "scalable_coherent", "second_stage_dirty"),
)
PAGE_REQUESTS = _scalable(
    "scalable, page requests",
    48,
    *(_FLTS, ("pasid-bits", "20"), ("device-iotlb", "on"), ("svm", "on")),
    first_stage=True,
    first_stage_1g=True,
    pasid=True,
    device_tlb=True,
    page_requests=True,
    page_request_drain=True,
)
