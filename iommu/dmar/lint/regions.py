"""Rules about reserved memory (RMRR)."""

from iommu.dmar.kinds import Drhd, Rmrr
from iommu.dmar.lint.rules import Found, Severity, View, rule

BASE, LIMIT = Rmrr.offset_of("base"), Rmrr.offset_of("limit")
PAGE = 4096


@rule("rmrr.misaligned", Severity.ERROR, "8.4", "Begin the region on a 4 KiB page and end it on a page's last byte.")
def misaligned(view: View) -> Found:
    """Regions are whole pages, since only pages can be mapped."""
    for offset, region in view.of(Rmrr):
        if region.base % PAGE:
            yield offset + BASE, f"the region begins at {region.base:#x}, within a page"
        if (region.limit + 1) % PAGE:
            yield offset + LIMIT, f"the region ends at {region.limit:#x}, within a page"


@rule("rmrr.reversed", Severity.ERROR, "8.4", "The limit is the address of the region's last byte.")
def reversed_region(view: View) -> Found:
    """Regions end after they begin."""
    for offset, region in view.of(Rmrr):
        if region.limit < region.base:
            yield offset + LIMIT, f"the region ends at {region.limit:#x}, before its base {region.base:#x}"


@rule("rmrr.overlap", Severity.ERROR, "8.4", "List shared memory once, with all its devices as scopes.")
def overlap(view: View) -> Found:
    """Regions do not overlap: Xen gives up VT-d when they do."""
    # By base, each against the one before that reaches furthest: tables may be long, so not each against each.
    furthest: tuple[int, Rmrr] | None = None
    for placed in sorted(view.of(Rmrr), key=lambda placed: placed[1].base):
        if placed[1].limit < placed[1].base:
            continue
        if furthest is not None and placed[1].base <= furthest[1].limit:
            (first, _), (second, other) = sorted([furthest, placed], key=lambda placed: placed[0])
            yield second + BASE, f"{other.base:#x} to {other.limit:#x} overlaps the RMRR at {first:#x}"
        if furthest is None or placed[1].limit > furthest[1].limit:
            furthest = placed


@rule(
    "rmrr.low-memory",
    Severity.NOTE,
    "8.4",
    "Make sure that the operating system does not need this memory itself.",
)
def low_memory(view: View) -> Found:
    """Regions are outside the first MiB, which operating systems use themselves."""
    for offset, region in view.of(Rmrr):
        if region.base < 1 << 20:
            yield offset + BASE, f"the region at {region.base:#x} is in the first MiB"


@rule("rmrr.beyond-width", Severity.ERROR, "8.4", "Correct the limit or the host address width.")
def beyond_width(view: View) -> Found:
    """Regions are within the host address width."""
    for offset, region in view.of(Rmrr):
        if max(region.base, region.limit) >> view.table.header.width:
            yield offset + LIMIT, f"the region ends at {region.limit:#x}, beyond {view.table.header.width} bits"


@rule("rmrr.no-scope", Severity.ERROR, "8.4", "Name the devices that use the region, or leave it out.")
def no_scope(view: View) -> Found:
    """A region lists the devices that use it."""
    for offset, region in view.of(Rmrr):
        if not region.scopes:
            yield offset, f"the region at {region.base:#x} has no device"


@rule(
    "rmrr.start-bus",
    Severity.WARNING,
    "8.3.1; Linux dmar_match_pci_path",
    "Start the path at the root bus and list the bridges on the way: bus numbers behind bridges change.",
)
def start_bus(view: View) -> Found:
    """A path starts at a root bus: bus 0, or one that the scopes of a unit start at."""
    roots = {(placed.segment, placed.scope.bus) for placed in view.scopes_of(Drhd)}
    for placed in view.scopes_of(Rmrr):
        bus = placed.scope.bus
        if placed.is_pci and bus and (placed.segment, bus) not in roots:
            yield placed.offset_of("bus"), f"{placed.scope} starts at bus {bus:#04x}, which no unit's scopes start at"
