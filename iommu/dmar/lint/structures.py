"""Rules about structures of every kind: their types, their order, their reserved bits."""

from iommu.dmar.layouts import STRUCTURE_TYPES, AtsrFlags, DrhdFlags, DrhdSize, SatcFlags
from iommu.dmar.lint.rules import Found, Severity, View, rule
from iommu.dmar.model import Andd, Atsr, Drhd, Satc, Unknown

_FLAGS = {Drhd: DrhdFlags, Atsr: AtsrFlags, Satc: SatcFlags}


@rule("structure.unknown-type", Severity.NOTE, "8.2", "Check the type; software skips what it does not know.")
def unknown_type(view: View) -> Found:
    """A type from after this was written, or a mistake."""
    for offset, structure in view.of(Unknown):
        if structure.type not in STRUCTURE_TYPES:
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
    """Reserved fields and flags are 0."""
    for offset, structure in view.placed:
        if field := getattr(structure, "reserved", 0):
            yield offset + 4 + (type(structure) in _FLAGS), f"{structure.kind}: the reserved field is {field:#x}"
        if (layout := _FLAGS.get(type(structure))) is not None:
            unnamed = getattr(structure, "flags", 0) & layout.reserved_mask()
            if unnamed:
                yield offset + 4, f"{structure.kind}: reserved flags are set: {unnamed:#04x}"
        if isinstance(structure, Drhd) and (unnamed := structure.size & DrhdSize.reserved_mask()):
            yield offset + 5, f"DRHD: reserved bits of the size byte are set: {unnamed:#04x}"


@rule("andd.unterminated", Severity.ERROR, "8.7", "End the name with a NUL inside the structure.")
def unterminated(view: View) -> Found:
    """An object name ends in a NUL."""
    for offset, andd in view.of(Andd):
        if not andd.padding:
            yield offset + 8, f"the name of ACPI device {andd.device_number} has no NUL"


@rule("andd.name", Severity.WARNING, "8.7", r"Give the whole path from the root, as in \_SB.PCI0.I2C0.")
def name(view: View) -> Found:
    """An object name is a path from the root."""
    for offset, andd in view.of(Andd):
        if not andd.object_name.startswith("\\"):
            yield offset + 8, f"{andd.object_name!r} is no path from the root"


@rule("andd.padding", Severity.NOTE, "8.7", "Fill the room after the name's NUL with zeros.")
def padding(view: View) -> Found:
    """Nothing but zeros follows the name."""
    for offset, andd in view.of(Andd):
        if any(andd.padding):
            yield offset + 8 + len(andd.object_name), f"after the name stands {andd.padding.hex()}"
