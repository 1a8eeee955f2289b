"""Rules about device translation caches: ATSR, SATC, SIDP."""

from iommu.dmar.kinds import Atsr, Satc, ScopeFlags, Sidp
from iommu.dmar.lint.rules import Found, Placed, Severity, View, rule
from iommu.dmar.scopes import ScopeType


@rule("atsr.all-ports-with-scopes", Severity.WARNING, "8.5", "Clear ALL_PORTS or remove the scopes.")
def all_ports_with_scopes(view: View) -> Found:
    """With ALL_PORTS, no root port is listed."""
    for offset, atsr in view.of(Atsr):
        if atsr.all_ports and atsr.scopes:
            yield offset + atsr.offset_of("flags"), "ALL_PORTS is set, but root ports are listed too"


@rule("atsr.no-scope", Severity.WARNING, "8.5", "Set ALL_PORTS, list the root ports, or leave the structure out.")
def no_scope(view: View) -> Found:
    """Without ALL_PORTS, the root ports are listed."""
    for offset, atsr in view.of(Atsr):
        if not atsr.all_ports and not atsr.scopes:
            yield offset + atsr.offset_of("flags"), "there is neither ALL_PORTS nor a root port"


@rule("atsr.repeated", Severity.ERROR, "8.5; Xen acpi_parse_one_atsr", "State ALL_PORTS once for each segment.")
def repeated(view: View) -> Found:
    """ALL_PORTS is set once for a segment."""
    seen: dict[int, int] = {}
    for offset, atsr in view.of(Atsr):
        if atsr.all_ports and atsr.segment in seen:
            message = f"segment {atsr.segment} has ALL_PORTS at {seen[atsr.segment]:#x} already"
            yield offset + atsr.offset_of("flags"), message
        if atsr.all_ports:
            seen.setdefault(atsr.segment, offset)


@rule("satc.no-scope", Severity.WARNING, "8.8", "List the devices, or leave the structure out.")
def satc_no_scope(view: View) -> Found:
    """A SATC lists a device."""
    for offset, satc in view.of(Satc):
        if not satc.scopes:
            yield offset, "the SATC has no device"


@rule("sidp.no-scope", Severity.WARNING, "8.9", "List the devices, or leave the structure out.")
def sidp_no_scope(view: View) -> Found:
    """A SIDP lists a device."""
    for offset, sidp in view.of(Sidp):
        if not sidp.scopes:
            yield offset, "the SIDP has no device"


@rule("satc.repeated", Severity.WARNING, "8.8", "List each device in one SATC.")
def satc_repeated(view: View) -> Found:
    """A device is in one SATC."""
    seen: dict[object, Placed] = {}
    for placed in view.scopes_of(Satc):
        first = seen.setdefault(placed.device, placed)
        if first.owner is not placed.owner:
            yield placed.offset, f"{placed.scope} is in the SATC at {first.offset:#x} already"


@rule("sidp.disagrees", Severity.WARNING, "8.8, 8.9", "Let SATC and SIDP agree about ATC_REQUIRED.")
def sidp_disagrees(view: View) -> Found:
    """For a device that is in both, SIDP and SATC state the same ATC_REQUIRED."""
    required = {
        placed.device: placed.owner.atc_required for placed in view.scopes_of(Satc) if isinstance(placed.owner, Satc)
    }
    for placed in view.scopes_of(Sidp):
        stated = bool(ScopeFlags.ATC_REQUIRED.get(placed.scope.flags))
        if placed.scope.type == ScopeType.ENDPOINT and required.get(placed.device, stated) != stated:
            other = "requires" if required[placed.device] else "does not require"
            message = f"the SATC {other} the cache of {placed.scope}, the SIDP disagrees"
            yield placed.offset_of("flags"), message


@rule("sidp.repeated", Severity.WARNING, "8.9", "State a device's properties once.")
def sidp_repeated(view: View) -> Found:
    """A device's properties are stated once."""
    seen: dict[object, Placed] = {}
    for placed in view.scopes_of(Sidp):
        first = seen.setdefault(placed.device, placed)
        if first.owner is not placed.owner:
            yield placed.offset, f"{placed.scope} is in the SIDP at {first.offset:#x} already"
