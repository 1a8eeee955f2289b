"""Rules about device scopes, in structures of every type."""

from collections import defaultdict

from iommu.dmar.header import Header
from iommu.dmar.kinds import Andd, Drhd
from iommu.dmar.lint.rules import Found, Placed, Severity, View, rule
from iommu.dmar.scopes import SCOPE_TYPES, ScopeType


@rule("scope.type-unknown", Severity.WARNING, "8.3.1", "Use types 1 to 5; software skips all others.")
def type_unknown(view: View) -> Found:
    """Scope types are 1 to 5."""
    for placed in view.scopes:
        if placed.scope.type not in SCOPE_TYPES:
            yield placed.offset, f"scope type {placed.scope.type} is not known"


@rule(
    "scope.type-misplaced", Severity.WARNING, "8.4, 8.5, 8.8, 8.9", "Move the scope to a structure that may have it."
)
def type_misplaced(view: View) -> Found:
    """RMRRs name PCI and namespace devices, ATSRs root ports, SATCs endpoints, SIDPs PCI devices."""
    for placed in view.scopes:
        kind = placed.scope.type
        if kind in SCOPE_TYPES and kind not in placed.owner.allowed_scopes:
            yield placed.offset, f"a {placed.owner.kind} has a scope of type {kind} ({ScopeType(kind).name})"


@rule("scope.no-path", Severity.ERROR, "8.3.1", "Give at least one {device, function} pair.")
def no_path(view: View) -> Found:
    """A scope has a path of one hop or more."""
    for placed in view.scopes:
        if not placed.scope.path:
            yield placed.offset_of("length"), "the scope has no path"


@rule("scope.device-range", Severity.ERROR, "8.3.1", "Devices are 0 to 31, functions 0 to 7.")
def device_range(view: View) -> Found:
    """Device and function numbers are in range."""
    for placed in view.scopes:
        for hop, (device, function) in enumerate(placed.scope.path):
            if device > 31 or function > 7:
                where = placed.offset + placed.scope.fixed_size + 2 * hop
                yield where, f"there is no device {device:#x} function {function:#x}"


@rule("scope.reserved", Severity.WARNING, "8.3.1", "Write 0: later revisions give these bits a meaning.")
def reserved(view: View) -> Found:
    """Reserved bytes are 0, and so are flags outside a SIDP."""
    for placed in view.scopes:
        flags = placed.owner.scope_flags
        if unnamed := placed.scope.flags & (0xFF if flags is None else flags.reserved_mask()):
            yield placed.offset_of("flags"), f"scope {placed.scope}: reserved flags are set: {unnamed:#04x}"
        if placed.scope.reserved:
            yield (
                placed.offset_of("reserved"),
                f"scope {placed.scope}: the reserved byte is {placed.scope.reserved:#04x}",
            )


@rule("scope.enumeration-id", Severity.WARNING, "8.3.1", "Only I/O APICs, HPETs and namespace devices have a number.")
def enumeration_id(view: View) -> Found:
    """PCI scopes have no enumeration id."""
    for placed in view.scopes:
        if placed.is_pci and placed.scope.enumeration_id:
            message = f"PCI scope {placed.scope} has enumeration id {placed.scope.enumeration_id}"
            yield placed.offset_of("enumeration_id"), message


@rule("scope.two-units", Severity.ERROR, "8.3.1", "List each device under the one unit that remaps it.")
def two_units(view: View) -> Found:
    """A PCI device belongs to one unit."""
    owners: dict[object, Placed] = {}
    for placed in view.scopes_of(Drhd):
        first = owners.setdefault(placed.device, placed)
        if placed.is_pci and first.owner is not placed.owner:
            yield placed.offset, f"{placed.scope} is listed by another unit at {first.offset:#x}"


@rule("scope.repeated", Severity.WARNING, "8.3.1", "List each device once.")
def repeated(view: View) -> Found:
    """A structure names a PCI device once."""
    seen: dict[object, int] = {}
    for placed in view.scopes:
        key = (id(placed.owner), placed.device)
        if placed.is_pci and key in seen:
            yield placed.offset, f"{placed.scope} is listed at {seen[key]:#x} already"
        seen.setdefault(key, placed.offset)


@rule(
    "ioapic.repeated", Severity.ERROR, "8.3.1", "List each I/O APIC once, under the unit that remaps its interrupts."
)
def ioapic_repeated(view: View) -> Found:
    """Each I/O APIC id is listed once."""
    yield from _repeated_numbers(view, ScopeType.IOAPIC, "I/O APIC")


@rule(
    "hpet.repeated",
    Severity.NOTE,
    "8.3.1",
    "Fine where each timer has a source-id of its own; otherwise list the HPET once.",
)
def hpet_repeated(view: View) -> Found:
    """An HPET is listed once; several chipsets list it once for each timer's source-id."""
    yield from _repeated_numbers(view, ScopeType.HPET, "HPET")


def _repeated_numbers(view: View, kind: ScopeType, name: str) -> Found:
    listed: defaultdict[int, list[Placed]] = defaultdict(list)
    for placed in view.scopes_of(Drhd):
        if placed.scope.type == kind:
            listed[placed.scope.enumeration_id].append(placed)
    for number, (first, *others) in listed.items():
        if others:
            sources = len({placed.device for placed in (first, *others)})
            message = f"{name} {number} is listed {len(others) + 1} times, with {sources} source-ids"
            yield others[0].offset_of("enumeration_id"), f"{message}; first at {first.offset:#x}"


@rule("interrupts.no-ioapic", Severity.ERROR, "8.3.1", "List every I/O APIC of the MADT, or clear INTR_REMAP.")
def no_ioapic(view: View) -> Found:
    """Interrupt remapping needs each I/O APIC's source-id."""
    yield from _missing(view, ScopeType.IOAPIC, "I/O APIC")


@rule("interrupts.no-hpet", Severity.NOTE, "8.3.1", "List the HPETs whose timers can send MSIs.")
def no_hpet(view: View) -> Found:
    """Interrupt remapping needs the source-id of an HPET that can send MSIs; one that cannot needs no entry."""
    yield from _missing(view, ScopeType.HPET, "HPET")


def _missing(view: View, kind: ScopeType, name: str) -> Found:
    listed = any(placed.scope.type == kind for placed in view.scopes_of(Drhd))
    if view.table.header.interrupt_remapping and view.of(Drhd) and not listed:
        yield Header.offset_of("flags"), f"INTR_REMAP is set, but no unit lists an {name}"


@rule("namespace.undeclared", Severity.ERROR, "8.7", "Add the ANDD, or correct the scope's enumeration id.")
def namespace_undeclared(view: View) -> Found:
    """A namespace scope's device is declared by an ANDD."""
    declared = {andd.device_number for _, andd in view.of(Andd)}
    for placed in view.scopes:
        if placed.scope.type == ScopeType.NAMESPACE and placed.scope.enumeration_id not in declared:
            yield placed.offset_of("enumeration_id"), f"no ANDD declares ACPI device {placed.scope.enumeration_id}"


@rule("andd.no-scope", Severity.WARNING, "8.7", "Add a namespace scope for it to the DRHD that remaps its DMA.")
def andd_no_scope(view: View) -> Found:
    """A declared device is in some unit's scope."""
    used = {p.scope.enumeration_id for p in view.scopes_of(Drhd) if p.scope.type == ScopeType.NAMESPACE}
    for offset, andd in view.of(Andd):
        if andd.device_number not in used:
            message = f"no unit has ACPI device {andd.device_number} ({andd.object_name}) in its scope"
            yield offset + andd.offset_of("device_number"), message


@rule("andd.repeated", Severity.WARNING, "8.7", "Give each declared device a number of its own.")
def andd_repeated(view: View) -> Found:
    """Device numbers are unique."""
    offsets: defaultdict[int, list[int]] = defaultdict(list)
    for offset, andd in view.of(Andd):
        offsets[andd.device_number].append(offset)
    for number, (first, *others) in offsets.items():
        for offset in others:
            yield offset + Andd.offset_of("device_number"), f"ACPI device {number} is declared at {first:#x} already"
