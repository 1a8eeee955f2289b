"""The register window of a unit: which registers there are, and where."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from iommu.registers.control import CAP, CCMD, ECAP, GCMD, GSTS, IOTLB, IRTA, IVA, RTADDR, VER
from iommu.registers.faults import AFLOG, FEADDR, FECTL, FEDATA, FEUADDR, FRCD, FSTS
from iommu.registers.protected import PHMBASE, PHMLIMIT, PLMBASE, PLMLIMIT, PMEN
from iommu.registers.queues import (
    ICS,
    IEADDR,
    IECTL,
    IEDATA,
    IEUADDR,
    IQA,
    IQERCD,
    IQH,
    IQT,
    PEADDR,
    PECTL,
    PEDATA,
    PEUADDR,
    PQA,
    PQH,
    PQT,
    PRS,
)
from iommu.registers.ranges import MTRRBASE, MTRRCAP, MTRRDEF, MTRRFIX, MTRRMASK
from iommu.registers.register import Register
from iommu.registers.unimplemented import (
    ECCAP,
    ECEO,
    ECMD,
    ECRSP,
    ECSTS,
    PERFCAP,
    PERFCFGOFF,
    PERFCNTROFF,
    PERFFRZOFF,
    PERFINTRADDR,
    PERFINTRCTL,
    PERFINTRDATA,
    PERFINTRSTS,
    PERFINTRUADDR,
    PERFOVFOFF,
    VCCAP,
    VCMD,
    VCMD_EO,
    VCRSP,
)

REGISTERS: tuple[type[Register], ...] = (
    *(VER, CAP, ECAP, GCMD, GSTS, RTADDR, CCMD),
    *(FSTS, FECTL, FEDATA, FEADDR, FEUADDR, AFLOG),
    *(PMEN, PLMBASE, PLMLIMIT, PHMBASE, PHMLIMIT),
    *(IQH, IQT, IQA, ICS, IECTL, IEDATA, IEADDR, IEUADDR, IQERCD),
    IRTA,
    *(PQH, PQT, PQA, PRS, PECTL, PEDATA, PEADDR, PEUADDR),
    *(MTRRCAP, MTRRDEF, MTRRFIX, MTRRBASE, MTRRMASK),
    *(PERFCAP, PERFCFGOFF, PERFFRZOFF, PERFOVFOFF, PERFCNTROFF),
    *(PERFINTRSTS, PERFINTRCTL, PERFINTRDATA, PERFINTRADDR, PERFINTRUADDR),
    *(ECMD, ECEO, ECRSP, ECSTS, ECCAP),
    *(VCMD, VCMD_EO, VCRSP, VCCAP),
    *(IVA, IOTLB),
    FRCD,
)
"""Every register that has a place in the window: those at fixed offsets first, in their order."""


class Placed(NamedTuple):
    """A register of a unit, or one element of an array, with its offset in bytes."""

    offset: int
    layout: type[Register]

    @property
    def end(self) -> int:
        """The offset of the byte after it."""
        return self.offset + self.layout.bits // 8


def registers_of(cap: int, ecap: int, offered: Collection[str]) -> list[Placed]:
    """The registers of a unit, in order of their offsets.

    Args:
        cap, ecap: the unit's registers of these names.
        offered: its capabilities, by the names that `Register.needs` uses.
    """
    there = (layout for layout in REGISTERS if not layout.needs or layout.needs in offered)
    placed = (Placed(offset, layout) for layout in there for offset in layout.places(cap, ecap))
    return sorted(placed, key=lambda each: each.offset)
