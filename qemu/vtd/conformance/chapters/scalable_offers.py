"""Spec 9.4, 9.6, 6.5.2.6: scalable mode on units that also offer device-TLBs, snoop control or page requests.

Each capability gives bits of the tables a meaning that are reserved without it; see scalable_reserved.py for those.
"""

from __future__ import annotations

from iommu.registers import TableMode
from iommu.structures import (
    DescriptorType,
    PasidDeviceTlbDescriptor,
    PasidEntry,
    ScalableContextEntry,
    SecondStage4KPage,
)
from qemu.vtd.conformance import queue
from qemu.vtd.conformance.bench import P0, Bench
from qemu.vtd.conformance.chapters.scalable_queue import start as start_queue
from qemu.vtd.conformance.chapters.scalable_unit import refused_wide
from qemu.vtd.conformance.scalable_bench import FIRST, NESTED, SECOND
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import (
    FIRST_STAGE_DEVICE_TLB,
    FIRST_STAGE_SNOOPING,
    PAGE_REQUESTS,
    SECOND_STAGE_DEVICE_TLB,
    SECOND_STAGE_SNOOPING,
    Setup,
)
from qemu.vtd.platform import DEVICES

TO_P0, BLOCKED = "A write 0x5010 -> 0x800010", "A write 0x5010 -> blocked"
DTE, PASIDE, PRE = ScalableContextEntry.DTE.mask, ScalableContextEntry.PASIDE.mask, ScalableContextEntry.PRE.mask


def _start(bench: Bench, setup: Setup, *, context: int = 0, entry: int = 0, page: int = 0) -> None:
    """A uses 0x5000 through the stage that the unit has, with further bits in the entries that lead to it."""
    table = bench.new_table()
    if setup.capabilities.first_stage:
        where = bench.scalable.map_first(table, 0x5000, P0)
    else:
        where = bench.map(table, 0x5000, P0)
    bench.change(where, set_=page)
    bench.scalable.context("A", also=context)
    bench.scalable.entry("A", FIRST if setup.capabilities.first_stage else SECOND, table, also=entry)
    bench.scalable.turn_on()
    bench.write("A", 0x5010)


def _fault(code: int) -> tuple[str, ...]:
    return BLOCKED, f"fault {code:#04x} A 0x5000 write", "FSTS PPF"


def _bits(
    name: str,
    section: str,
    title: str,
    setup: Setup,
    *expect: str,
    context: int = 0,
    entry: int = 0,
    page: int = 0,
) -> None:
    """A writes with these bits set."""

    def stimulus(bench: Bench) -> None:
        _start(bench, setup, context=context, entry=entry, page=page)

    stimulus.__doc__ = title
    scenario(f"scalable.offers.{name}", section, *(expect or (TO_P0, "FSTS 0")), setup=setup)(stimulus)


_STAGES = {
    "first": (FIRST_STAGE_DEVICE_TLB, FIRST_STAGE_SNOOPING),
    "second": (SECOND_STAGE_DEVICE_TLB, SECOND_STAGE_SNOOPING),
}
_SNP, _PGSNP = SecondStage4KPage.SNP.mask, PasidEntry.PGSNP.mask

for _stage, (_device_tlb, _snooping) in _STAGES.items():
    _bits(f"device-tlb.{_stage}", "9.4", f"DTE is clear: a {_stage} stage works as without device-TLBs.", _device_tlb)
    _bits(
        f"device-tlb.{_stage}-dte",
        "9.4",
        f"DTE is set: untranslated requests go through a {_stage} stage as ever.",
        _device_tlb,
        context=DTE,
    )
    _bits(
        f"device-tlb.{_stage}-pre",
        "7.1.3 SCT.3",
        "PRE stays reserved on a unit with device-TLBs that takes no page requests.",
        _device_tlb,
        *_fault(0x42),
        context=DTE | PRE,
    )
    _bits(
        f"device-tlb.{_stage}-paside",
        "7.1.3 SCT.3",
        "PASIDE stays reserved on a unit with device-TLBs and without PASIDs.",
        _device_tlb,
        *_fault(0x42),
        context=DTE | PASIDE,
    )
    _bits(f"snooping.{_stage}", "9.6", f"PGSNP is clear: a {_stage} stage works as without snoop control.", _snooping)
    _bits(
        f"snooping.{_stage}-pgsnp",
        "9.6",
        f"PGSNP is set: requests through a {_stage} stage are snooped, and go where they go without it.",
        _snooping,
        entry=_PGSNP,
    )
    _bits(
        f"snooping.{_stage}-pwsnp",
        "7.1.3 SPT.3",
        "PWSNP stays reserved on a unit with snoop control and without ECAP.SMPWCS.",
        _snooping,
        *_fault(0x5A),
        entry=PasidEntry.PWSNP.mask,
    )

_bits(
    "snooping.second-both",
    "9.8",
    "PGSNP in the PASID-table entry and SNP in the page's entry.",
    SECOND_STAGE_SNOOPING,
    entry=_PGSNP,
    page=_SNP,
)
_bits(
    "device-tlb.second-snoop",
    "7.1.3 SSS.3",
    "SNP of a page entry stays reserved on a unit with device-TLBs and without snoop control.",
    SECOND_STAGE_DEVICE_TLB,
    *_fault(0x7A),
    page=_SNP,
)


# A unit with page requests (svm=on) has PASIDs too. No device here sends either; what is legal in the tables shows.

_bits("page-requests.first", "9.4", "Neither DTE, PASIDE nor PRE: a first stage works.", PAGE_REQUESTS)
_bits(
    "page-requests.first-enabled",
    "9.4",
    "DTE, PASIDE and PRE are not reserved on a unit that offers what they are for.",
    PAGE_REQUESTS,
    context=DTE | PASIDE | PRE,
)
_bits(
    "page-requests.rid-priv",
    "7.1.3 SCT.3",
    "RID_PRIV stays reserved on a unit without ECAP.RPRIVS.",
    PAGE_REQUESTS,
    *_fault(0x42),
    context=ScalableContextEntry.RID_PRIV.mask,
)
for _name in ("SRE", "ERE", "EAFE", "PGSNP"):
    _bits(
        f"page-requests.{_name.lower()}",
        "7.1.3 SPT.3",
        f"{_name} of a PASID-table entry stays reserved: the unit does not offer what it is for.",
        PAGE_REQUESTS,
        *_fault(0x5A),
        entry=PasidEntry.bits_of(_name),
    )


def _nested(name: str, setup: Setup) -> None:
    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, 0x5000, P0)
        bench.scalable.entry("A", NESTED, table)
        bench.scalable.turn_on()
        bench.write("A", 0x5010)

    stimulus.__doc__ = f"A nested translation on a unit without ECAP.NEST: {setup.name}."
    scenario(f"scalable.offers.{name}.nested", "7.1.3 SPT.4", *_fault(0x5B), setup=setup)(stimulus)


_nested("device-tlb", SECOND_STAGE_DEVICE_TLB)
_nested("snooping", SECOND_STAGE_SNOOPING)


# PASID-based invalidations of device-TLBs (6.5.2.6). No device here has a device-TLB: none answers.


def pasid_device_tlb(**fields: int) -> int:
    """A PASID-based device-TLB invalidation descriptor for A."""
    return PasidDeviceTlbDescriptor.make(TYPE=DescriptorType.PASID_DEVICE_TLB, SID=DEVICES["A"], **fields)


@scenario("scalable.device-tlb.no-answer", "6.5.2.10", "status 0x0", "FSTS ITE", setup=SECOND_STAGE_DEVICE_TLB)
def no_answer(bench: Bench) -> None:
    """A device that does not answer a PASID-based invalidation sets ITE, and the wait for it is dropped."""
    bench.memory.write_u64(queue.STATUS, 0)
    start_queue(bench, TableMode.SCALABLE, wide=True)
    bench.driver.submit(pasid_device_tlb(), queue.wait(SW=1))
    queue.status(bench)


@scenario("scalable.device-tlb.reserved", "6.5.2.6", "accepted: none", "FSTS 0", setup=SECOND_STAGE_DEVICE_TLB)
def reserved(bench: Bench) -> None:
    """Each reserved bit of a PASID-based device-TLB descriptor is refused: bits 74:65, and its upper half."""
    bench.memory.write_u64(queue.STATUS, 0)
    start_queue(bench, TableMode.SCALABLE, wide=True)
    bits = (*range(65, 75), 128, 191, 192, 255)
    accepted = [bit for bit in bits if not refused_wide(bench, pasid_device_tlb() | 1 << bit)]
    bench.note(f"accepted: {' '.join(map(str, accepted)) or 'none'}")
