"""The ACPI DMAR table (spec chapter 8): read any, build any.

from iommu.dmar import Dmar

table = Dmar.parse(data)          # raises DmarError with offset, structure, field, value
table.units                       # the DRHDs
table.build() == data             # always, also for damaged tables read with strict=False
"""

from iommu.dmar.header import Header
from iommu.dmar.lint import Finding, Severity
from iommu.dmar.model import Andd, Atsr, DeviceScope, Drhd, Rhsa, Rmrr, Satc, Sidp, Structure, Unknown
from iommu.dmar.table import Dmar
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
    "Rhsa",
    "Rmrr",
    "Satc",
    "Severity",
    "Sidp",
    "Structure",
    "Unknown",
]
