"""Rules about the header, and about the damage that the reader found."""

from iommu.dmar.header import Header, HeaderFlags
from iommu.dmar.kinds import Drhd
from iommu.dmar.lint.rules import Found, Severity, View, rule


@rule("header.checksum", Severity.ERROR, "ACPI 5.2.6", "Let the last code that writes the table set the checksum.")
def checksum(view: View) -> Found:
    """All bytes of the table add up to 0."""
    table, at = view.table, Header.offset_of("checksum")
    data = table.build()
    rest = sum(data[: table.header.length]) & 0xFF
    if rest:
        yield at, f"the checksum is {data[at]:#04x}, it should be {(data[at] - rest) & 0xFF:#04x}"


@rule("table.damaged", Severity.ERROR, "8.1 to 8.9", "Correct the length; what follows it cannot be relied on.")
def damaged(view: View) -> Found:
    """Lengths agree with each other, and every byte belongs to something."""
    for problem in view.table.problems:
        yield problem.offset, str(problem).split(", ", 1)[1]


@rule("header.revision", Severity.NOTE, "8.1", "Write 1, the revision that public descriptions of the layout have.")
def revision(view: View) -> Found:
    """The table's revision is 1."""
    if view.table.header.revision != 1:
        yield Header.offset_of("revision"), f"the revision is {view.table.header.revision}"


@rule("header.width", Severity.ERROR, "8.1", "Give the processor's physical address width, less one.")
def width(view: View) -> Found:
    """No x86 processor with VT-d has fewer than 32 or more than 52 physical address bits."""
    bits = view.table.header.width
    if not 32 <= bits <= 52:
        yield Header.offset_of("host_address_width"), f"no processor has a host address width of {bits} bits"


@rule("header.reserved", Severity.WARNING, "8.1", "Write 0: later revisions give these bits a meaning.")
def reserved(view: View) -> Found:
    """Reserved flags and bytes are 0."""
    header = view.table.header
    if unnamed := header.flags & HeaderFlags.reserved_mask():
        yield Header.offset_of("flags"), f"reserved flags are set: {unnamed:#04x}"
    if any(header.reserved):
        yield Header.offset_of("reserved"), f"the reserved bytes are {header.reserved.hex()}"


@rule(
    "header.x2apic-without-remapping",
    Severity.WARNING,
    "8.1",
    "Set INTR_REMAP too if interrupts can be remapped; otherwise clear X2APIC_OPT_OUT, which then has no meaning.",
)
def x2apic_without_remapping(view: View) -> Found:
    """X2APIC_OPT_OUT has a meaning only with INTR_REMAP."""
    header = view.table.header
    if header.x2apic_opt_out and not header.interrupt_remapping:
        yield Header.offset_of("flags"), "X2APIC_OPT_OUT is set without INTR_REMAP"


@rule(
    "header.dma-remap-opt-out",
    Severity.NOTE,
    "8.1 since revision 5.2",
    "Clear the flag unless DMA remapping must stay off: while it is off, devices can reach all memory.",
)
def dma_remap_opt_out(view: View) -> Found:
    """Firmware that lists remapping units lets software remap DMA."""
    if view.table.header.dma_remapping_opt_out:
        yield Header.offset_of("flags"), "DMA_REMAP_OPT_OUT is set: software is asked to leave DMA remapping off"


@rule("table.no-units", Severity.ERROR, "8.1", "List the remapping units, or do not publish the table.")
def no_units(view: View) -> Found:
    """A table lists a remapping unit."""
    if not view.of(Drhd):
        yield Header.fixed_size, "there is no DRHD"
