"""The attributes of a translation besides address and permissions: snooping and memory types (3.6.5, 3.7.4, 3.8.4).

The rules for memory types are in the public text of revision 2.4; PGSNP was added with scalable mode.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache, lru_cache
from typing import NamedTuple

from iommu.structures import SecondStage4KPage


class MemoryType(IntEnum):
    """Memory types as EMT and PAT encode them, the same as in the processor; 2 and 3 are reserved."""

    UC = 0
    WC = 1
    WT = 4
    WP = 5
    WB = 6
    UC_MINUS = 7
    """Only in PAT: uncacheable, unless an MTRR makes it WC."""


class Attributes(NamedTuple):
    """How the page itself is accessed.

    Memory types apply to devices inside the processor's coherency domain, on a unit with ECAP.MTS, before they are
    combined with the MTRRs. They are numbers as in MemoryType; reserved values are kept.

    Attributes:
        snooped: the access snoops processor caches even if the request does not ask for it (SNP, PGSNP).
        first_stage: the memory type that PAT, PCD and PWT of the page select from the PAT of the PASID entry; None
            without a first stage or ECAP.MTS.
        second_stage: EMT; None without a second stage or EMTE.
        ignores_first_stage: only `second_stage` applies (IPAT).
        uncacheable: CD: the type is UC, and the other fields do not apply.
    """

    snooped: bool = False
    first_stage: int | None = None
    second_stage: int | None = None
    ignores_first_stage: bool = False
    uncacheable: bool = False


PLAIN = Attributes()


@lru_cache(maxsize=1024)  # guests choose PAT: without a bound, they could fill the memory
def of_first_stage(*, snooped: bool, pat: int | None, uncacheable: bool) -> tuple[Attributes, ...]:
    """The attributes of first-stage pages, indexed by the three bits PAT, PCD and PWT.

    Args:
        snooped: PGSNP.
        pat: PAT of the PASID-table entry, 4 bits for each of its 8 types; None without ECAP.MTS.
        uncacheable: CD.
    """
    types = (None if pat is None else pat >> 4 * n & 7 for n in range(8))
    return tuple(Attributes(snooped, memory_type, uncacheable=uncacheable) for memory_type in types)


@cache
def of_second_stage(
    *, snooped: bool = False, memory_types: bool = False, uncacheable: bool = False
) -> tuple[Attributes, ...]:
    """The attributes of second-stage pages, indexed by `second_stage_index`. Without ECAP.SC, SNP is reserved.

    Args:
        snooped: PGSNP.
        memory_types: EMT and IPAT of the entry apply (EMTE).
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
    """EMT, IPAT and SNP of an entry that maps a page, as a five-bit number."""
    return entry >> _TYPE & 0xF | (entry >> _SNOOP & 1) << 4


def nested(first: Attributes, second: Attributes) -> Attributes:
    """The attributes of a page that both stages map (spec 3.8.4)."""
    return second._replace(snooped=first.snooped or second.snooped, first_stage=first.first_stage)
