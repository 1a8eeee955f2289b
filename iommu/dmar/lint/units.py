"""Rules about remapping units (DRHD) and their affinities (RHSA)."""

from itertools import pairwise

from iommu.dmar.kinds import Drhd, Rhsa
from iommu.dmar.lint.rules import Found, Severity, View, rule
from iommu.dmar.scopes import ScopeType

BASE, FLAGS = Drhd.offset_of("base"), Drhd.offset_of("flags")


@rule("drhd.base-zero", Severity.ERROR, "8.3", "Give the address the chipset decodes, or leave the unit out.")
def base_zero(view: View) -> Found:
    """A unit's registers are not at address 0."""
    for offset, unit in view.of(Drhd):
        if unit.base == 0:
            yield offset + BASE, "the unit has its registers at 0: it is likely disabled"


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
    """No two units have their registers at the same address."""
    seen: dict[int, int] = {}
    for offset, unit in view.of(Drhd):
        if unit.base and unit.base in seen:
            yield offset + BASE, f"the DRHD at {seen[unit.base]:#x} has its registers at {unit.base:#x} too"
        seen.setdefault(unit.base, offset)


@rule("drhd.overlap", Severity.ERROR, "8.3", "Correct base or size so that no two register sets share a page.")
def overlap(view: View) -> Found:
    """Register sets do not overlap."""
    for (_, low), (offset, high) in pairwise(sorted(view.of(Drhd), key=lambda placed: placed[1].base)):
        if low.base < high.base < low.base + low.register_bytes and low.base:
            yield offset + BASE, f"registers at {high.base:#x} are within those at {low.base:#x}"


@rule("drhd.beyond-width", Severity.ERROR, "8.3", "Correct the base or the host address width.")
def beyond_width(view: View) -> Found:
    """Registers are within the host address width."""
    for offset, unit in view.of(Drhd):
        if (unit.base + unit.register_bytes - 1) >> view.table.header.width:
            yield offset + BASE, f"registers at {unit.base:#x} are beyond {view.table.header.width} bits"


@rule("drhd.covers-nothing", Severity.WARNING, "8.3", "Name its devices, or leave the unit out.")
def covers_nothing(view: View) -> Found:
    """A unit covers some device."""
    for offset, unit in view.of(Drhd):
        if not unit.include_all and not unit.scopes:
            yield offset, f"the unit at {unit.base:#x} has neither scopes nor INCLUDE_PCI_ALL"


@rule(
    "include-all.missing",
    Severity.NOTE,
    "8.3",
    "Set INCLUDE_PCI_ALL on the segment's last unit, or make sure that the scopes name every device.",
)
def include_all_missing(view: View) -> Found:
    """One unit of a segment covers what no other names; otherwise the DMA of those devices is not remapped."""
    segments: dict[int, int] = {}
    for offset, unit in view.of(Drhd):
        segments.setdefault(unit.segment, offset)
    covered = {unit.segment for _, unit in view.of(Drhd) if unit.include_all}
    for segment, offset in segments.items():
        if segment not in covered:
            yield offset, f"no unit of segment {segment} has INCLUDE_PCI_ALL"


@rule("include-all.repeated", Severity.ERROR, "8.3", "Leave INCLUDE_PCI_ALL to one unit of each segment.")
def include_all_repeated(view: View) -> Found:
    """At most one unit of a segment has INCLUDE_PCI_ALL."""
    seen: dict[int, int] = {}
    for offset, unit in view.of(Drhd):
        if unit.include_all and unit.segment in seen:
            yield offset + FLAGS, f"segment {unit.segment} has INCLUDE_PCI_ALL at {seen[unit.segment]:#x} already"
        if unit.include_all:
            seen.setdefault(unit.segment, offset)


@rule(
    "include-all.not-last",
    Severity.ERROR,
    "8.3",
    "Move the unit with INCLUDE_PCI_ALL after its segment's others.",
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
    """A unit with INCLUDE_PCI_ALL lists no PCI devices: such scopes are superfluous or meant for another unit."""
    for placed in view.scopes_of(Drhd):
        unit = placed.owner
        if isinstance(unit, Drhd) and unit.include_all and placed.is_pci:
            kind = ScopeType(placed.scope.type).name.lower()
            yield placed.offset, f"{kind} {placed.scope} is listed under INCLUDE_PCI_ALL"


@rule("rhsa.no-unit", Severity.WARNING, "8.6", "Repeat the base address of a DRHD.")
def rhsa_no_unit(view: View) -> Found:
    """An affinity belongs to a unit of the table."""
    bases = {unit.base for unit in view.table.units}
    for offset, rhsa in view.of(Rhsa):
        if rhsa.base not in bases:
            yield offset + rhsa.offset_of("base"), f"no DRHD has its registers at {rhsa.base:#x}"


@rule("rhsa.repeated", Severity.WARNING, "8.6", "State each unit's proximity domain once.")
def rhsa_repeated(view: View) -> Found:
    """A unit is in one proximity domain."""
    seen: set[int] = set()
    for offset, rhsa in view.of(Rhsa):
        if rhsa.base in seen:
            yield offset + rhsa.offset_of("base"), f"the unit at {rhsa.base:#x} has a proximity domain already"
        seen.add(rhsa.base)
