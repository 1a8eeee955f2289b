"""Rules about remapping units (DRHD) and their affinities (RHSA)."""

from itertools import pairwise

from iommu.dmar.layouts import ScopeType
from iommu.dmar.lint.rules import Found, Severity, View, rule
from iommu.dmar.model import Drhd, Rhsa

BASE = 8  # offset of the register base in a DRHD, and in an RHSA


@rule("drhd.base-zero", Severity.ERROR, "8.3", "Give the address the chipset decodes, or leave the unit out.")
def base_zero(view: View) -> Found:
    """A unit has registers."""
    for offset, unit in view.of(Drhd):
        if unit.base == 0:
            yield offset + BASE, "the unit has its registers at 0: the unit is likely disabled"


@rule("drhd.base-misaligned", Severity.ERROR, "8.3", "Registers begin on a page: clear the low 12 bits.")
def base_misaligned(view: View) -> Found:
    """Register sets begin on a 4 KiB page."""
    for offset, unit in view.of(Drhd):
        if unit.base % 4096:
            yield offset + BASE, f"registers at {unit.base:#x} do not begin on a 4 KiB page"


@rule("drhd.size-misaligned", Severity.WARNING, "8.3", "Align the register base to the size, or correct the size.")
def size_misaligned(view: View) -> Found:
    """A register set is aligned to its own size, as address decoders need it."""
    for offset, unit in view.of(Drhd):
        if unit.base % unit.register_bytes and not unit.base % 4096:
            yield (
                offset + BASE,
                f"registers at {unit.base:#x} are not aligned to their {unit.register_bytes:#x} bytes",
            )


@rule("drhd.base-duplicate", Severity.ERROR, "8.3", "One DRHD for each unit: merge the scopes.")
def base_duplicate(view: View) -> Found:
    """No two units share their registers' address."""
    seen: dict[int, int] = {}
    for offset, unit in view.of(Drhd):
        if unit.base and unit.base in seen:
            yield offset + BASE, f"registers at {unit.base:#x} are those of the DRHD at {seen[unit.base]:#x} too"
        seen.setdefault(unit.base, offset)


@rule("drhd.overlap", Severity.ERROR, "8.3", "Correct base or size so that no two register sets share a page.")
def overlap(view: View) -> Found:
    """Register sets do not overlap."""
    for (_, low), (offset, high) in pairwise(sorted(view.of(Drhd), key=lambda placed: placed[1].base)):
        if low.base < high.base < low.base + low.register_bytes and low.base:
            yield offset + BASE, f"registers at {high.base:#x} lie within those at {low.base:#x}"


@rule("drhd.beyond-width", Severity.ERROR, "8.3", "Correct the base or the host address width.")
def beyond_width(view: View) -> Found:
    """Registers are where a processor can reach them."""
    for offset, unit in view.of(Drhd):
        if (unit.base + unit.register_bytes - 1) >> view.table.header.width:
            yield offset + BASE, f"registers at {unit.base:#x} are beyond {view.table.header.width} bits"


@rule("drhd.covers-nothing", Severity.WARNING, "8.3", "Name its devices, or leave the unit out.")
def covers_nothing(view: View) -> Found:
    """A unit has devices."""
    for offset, unit in view.of(Drhd):
        if not unit.include_all and not unit.scopes:
            yield offset, f"the unit at {unit.base:#x} has neither scopes nor INCLUDE_PCI_ALL"


@rule(
    "include-all.missing",
    Severity.NOTE,
    "8.3",
    "Set INCLUDE_PCI_ALL on the segment's last unit, or see that the scopes name every device.",
)
def include_all_missing(view: View) -> Found:
    """Some unit of a segment takes what no other names; else DMA of the rest is not remapped."""
    segments: dict[int, int] = {}
    for offset, unit in view.of(Drhd):
        segments.setdefault(unit.segment, offset)
    for segment, offset in segments.items():
        if not any(unit.include_all for unit in view.table.units if unit.segment == segment):
            yield offset, f"no unit of segment {segment} has INCLUDE_PCI_ALL"


@rule("include-all.repeated", Severity.ERROR, "8.3", "Leave INCLUDE_PCI_ALL to one unit of each segment.")
def include_all_repeated(view: View) -> Found:
    """At most one unit of a segment has INCLUDE_PCI_ALL."""
    seen: dict[int, int] = {}
    for offset, unit in view.of(Drhd):
        if unit.include_all and unit.segment in seen:
            yield offset + 4, f"segment {unit.segment} has INCLUDE_PCI_ALL at {seen[unit.segment]:#x} already"
        if unit.include_all:
            seen.setdefault(unit.segment, offset)


@rule(
    "include-all.not-last", Severity.ERROR, "8.3", "Move the unit with INCLUDE_PCI_ALL behind its segment's others."
)
def include_all_not_last(view: View) -> Found:
    """Software may take the first unit that matches: INCLUDE_PCI_ALL is its segment's last."""
    after: dict[int, int] = {}
    for offset, unit in view.of(Drhd):
        if unit.segment in after and not unit.include_all:
            message = f"segment {unit.segment}: this unit follows the one with INCLUDE_PCI_ALL"
            yield offset, f"{message} at {after[unit.segment]:#x}"
        if unit.include_all:
            after.setdefault(unit.segment, offset)


@rule(
    "include-all.pci-scopes",
    Severity.WARNING,
    "8.3",
    "Leave only I/O APICs, HPETs and namespace devices in the scopes of a unit with INCLUDE_PCI_ALL.",
)
def include_all_pci_scopes(view: View) -> Found:
    """INCLUDE_PCI_ALL says it all: PCI scopes beside it are superfluous or meant for another unit."""
    for placed in view.scopes_of(Drhd):
        unit = placed.owner
        if isinstance(unit, Drhd) and unit.include_all and placed.is_pci:
            kind = ScopeType(placed.scope.type).name.lower()
            yield placed.offset, f"{kind} {placed.scope} is listed under INCLUDE_PCI_ALL"


@rule("rhsa.no-unit", Severity.WARNING, "8.6", "Repeat the base address of a DRHD.")
def rhsa_no_unit(view: View) -> Found:
    """An affinity is some unit's."""
    bases = {unit.base for unit in view.table.units}
    for offset, rhsa in view.of(Rhsa):
        if rhsa.base not in bases:
            yield offset + BASE, f"no DRHD has its registers at {rhsa.base:#x}"


@rule("rhsa.repeated", Severity.WARNING, "8.6", "State each unit's proximity domain once.")
def rhsa_repeated(view: View) -> Found:
    """A unit is in one proximity domain."""
    seen: set[int] = set()
    for offset, rhsa in view.of(Rhsa):
        if rhsa.base in seen:
            yield offset + BASE, f"the unit at {rhsa.base:#x} has a proximity domain already"
        seen.add(rhsa.base)
