"""Verdicts: what each operating system would do with a table; each claim names the code that does it."""

from iommu.dmar.verdicts.linux import SOURCE as LINUX_SOURCE
from iommu.dmar.verdicts.linux import linux
from iommu.dmar.verdicts.verdict import Effect, Reason, Verdict, judge
from iommu.dmar.verdicts.xen import SOURCE as XEN_SOURCE
from iommu.dmar.verdicts.xen import xen

__all__ = ["Effect", "Reason", "Verdict", "verdicts"]


def verdicts(data: bytes) -> list[Verdict]:
    """One verdict for each system, from a table's bytes. Windows has no public source, so nothing is claimed."""
    return [
        judge("Linux", LINUX_SOURCE, linux, data),
        judge("Xen", XEN_SOURCE, xen, data),
        Verdict("Windows", None, (), "no public source"),
    ]
