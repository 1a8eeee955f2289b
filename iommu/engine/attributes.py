"""What a translation says besides address and permissions: snooping and memory types (spec 3.6.5, 3.7.4, 3.8.4).

The public text of revision 2.4 names the rules for memory types; PGSNP came with scalable mode.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from typing import NamedTuple

from iommu.structures import SecondStage4KPage


class MemoryType(IntEnum):
    """The types by their numbers in EMT and PAT, which are those of the processor; 2 and 3 are reserved."""

    UC = 0
    WC = 1
    WT = 4
    WP = 5
    WB = 6
    UC_MINUS = 7
    """Only in PAT: uncacheable unless an MTRR says WC."""


class Attributes(NamedTuple):
    """What the tables say of the access to the page itself.

    Memory types count for devices inside the processor's coherency domain, on a unit with ECAP.MTS; the MTRRs have
    still to be combined with them. They are numbers as in MemoryType, reserved ones included.

    Attributes:
        snooped: it snoops processor caches, whatever the request says (SNP, PGSNP).
        first_stage: the memory type that PAT, PCD and PWT choose from PAT of the PASID entry; None without one.
        second_stage: EMT; None without second stage or EMTE.
        ignores_first_stage: `second_stage` counts alone (IPAT).
        uncacheable: CD: UC, whatever the rest says.
    """

    snooped: bool = False
    first_stage: int | None = None
    second_stage: int | None = None
    ignores_first_stage: bool = False
    uncacheable: bool = False


PLAIN = Attributes()


@cache
def of_first_stage(*, snooped: bool, pat: int | None, uncacheable: bool) -> tuple[Attributes, ...]:
    """The attributes of first-stage pages by PAT, PCD and PWT, as a number of three bits.

    Args:
        snooped: PGSNP.
        pat: PAT of the PASID-table entry, 4 bits for each of its 8 types; None without memory types.
        uncacheable: CD.
    """
    types = (None if pat is None else pat >> 4 * n & 7 for n in range(8))
    return tuple(Attributes(snooped, memory_type, uncacheable=uncacheable) for memory_type in types)


@cache
def of_second_stage(
    *, snooped: bool = False, memory_types: bool = False, uncacheable: bool = False
) -> tuple[Attributes, ...]:
    """The attributes of second-stage pages by `second_stage_index`; without ECAP.SC no entry gets here with SNP.

    Args:
        snooped: PGSNP.
        memory_types: EMT and IPAT of the entry count (EMTE).
        uncacheable: CD.
    """
    found = []
    for index in range(32):
        snoops = snooped or index >> 4 == 1
        emt, ignores = (index & 7, bool(index >> 3 & 1)) if memory_types else (None, False)
        found.append(Attributes(snoops, None, emt, ignores, uncacheable))
    return tuple(found)


_TYPE = SecondStage4KPage.EMT.lsb
_SNOOP = SecondStage4KPage.SNP.lsb


def second_stage_index(entry: int) -> int:
    """EMT, IPAT and SNP of an entry that maps a page, as a number of five bits."""
    return entry >> _TYPE & 0xF | (entry >> _SNOOP & 1) << 4


def nested(first: Attributes, second: Attributes) -> Attributes:
    """Those of a page that both stages map (spec 3.8.4)."""
    return second._replace(snooped=first.snooped or second.snooped, first_stage=first.first_stage)
