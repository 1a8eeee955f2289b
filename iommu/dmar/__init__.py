"""The ACPI DMAR table (spec chapter 8): read any, build any.

from iommu.dmar import Dmar

table = Dmar.parse(data)          # raises DmarError with offset, structure, field, value
table.units                       # the DRHDs
table.build() == data             # always, also for damaged tables read with strict=False
"""

from iommu.dmar.dmar import Dmar
from iommu.dmar.header import Header
from iommu.dmar.kinds import Andd, Atsr, Drhd, Rhsa, Rmrr, Satc, Sidp, Unknown
from iommu.dmar.lint import Finding, Severity
from iommu.dmar.pci import PciTree
from iommu.dmar.scopes import DeviceScope
from iommu.dmar.structure import Structure
from iommu.dmar.table import Table
from iommu.errors import DmarError

__all__ = [
    "Andd",
    "Atsr",
    "DeviceScope",
    "Dmar",
    "DmarError",
    "Drhd",
    "Finding",
    "Header",
    "PciTree",
    "Rhsa",
    "Rmrr",
    "Satc",
    "Severity",
    "Sidp",
    "Structure",
    "Table",
    "Unknown",
]
