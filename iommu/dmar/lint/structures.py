"""Rules about structures of every kind: their types, their order, their reserved bits."""

from iommu.dmar.kinds import Andd, Unknown
from iommu.dmar.lint.rules import Found, Severity, View, rule
from iommu.dmar.structure import KINDS


@rule("structure.unknown-type", Severity.NOTE, "8.2", "Check the type; software skips types it does not know.")
def unknown_type(view: View) -> Found:
    """Structure types are those of the specification; a newer revision may have more."""
    for offset, structure in view.of(Unknown):
        if structure.type not in KINDS:
            yield offset, f"structure type {structure.type} is not known"


@rule("structure.order", Severity.WARNING, "8.2", "Sort the structures by type: DRHD, RMRR, ATSR, RHSA, ANDD, ...")
def order(view: View) -> Found:
    """Structures come in ascending order of type."""
    highest = -1
    for offset, structure in view.placed:
        if structure.type < highest:
            yield offset, f"type {structure.type} ({structure.kind}) follows type {highest}"
        highest = max(highest, structure.type)


@rule("structure.reserved", Severity.WARNING, "8.3 to 8.9", "Write 0: later revisions give these bits a meaning.")
def reserved(view: View) -> Found:
    """Reserved fields and bits are 0."""
    for offset, structure in view.placed:
        if value := getattr(structure, "reserved", 0):
            yield offset + structure.offset_of("reserved"), f"{structure.kind}: the reserved field is {value:#x}"
        for name, layout in structure.flag_layouts.items():
            if unnamed := getattr(structure, name) & layout.reserved_mask():
                yield (
                    offset + structure.offset_of(name),
                    f"{structure.kind}: reserved {name} bits are set: {unnamed:#04x}",
                )


@rule("andd.unterminated", Severity.ERROR, "8.7", "End the name with a NUL inside the structure.")
def unterminated(view: View) -> Found:
    """An object name ends in a NUL."""
    for offset, andd in view.of(Andd):
        if not andd.padding:
            yield offset + andd.fixed_size, f"the name of ACPI device {andd.device_number} has no NUL"


@rule("andd.name", Severity.WARNING, "8.7", r"Give the whole path from the root, as in \_SB.PCI0.I2C0.")
def name(view: View) -> Found:
    """An object name is a path from the root."""
    for offset, andd in view.of(Andd):
        if not andd.object_name.startswith("\\"):
            yield offset + andd.fixed_size, f"{andd.object_name!r} is not a path from the root"


@rule("andd.padding", Severity.NOTE, "8.7", "Fill the room after the name's NUL with zeros.")
def padding(view: View) -> Found:
    """Nothing but zeros follows the name."""
    for offset, andd in view.of(Andd):
        if any(andd.padding):
            message = f"the bytes after the name are {andd.padding.hex()}"
            yield offset + andd.fixed_size + len(andd.object_name), message
