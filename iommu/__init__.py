"""vtdlab: an executable VT-d.

RemappingUnit(memory, Capabilities(...)) is one remapping unit; iommu.dmar reads the ACPI table that describes them.
"""

from iommu.engine.capabilities import Capabilities
from iommu.engine.faults import Message
from iommu.engine.policy import Policy
from iommu.engine.reasons import FaultReason
from iommu.engine.request import Access, AddressType, DmaRequest, Outcome, SourceId
from iommu.engine.unit import RemappingUnit
from iommu.errors import DmarError, FormatError, MemoryAccessError, MisuseError, VtdError
from iommu.memory import FlatMemory, Memory

__all__ = [
    "Access",
    "AddressType",
    "Capabilities",
    "DmaRequest",
    "DmarError",
    "FaultReason",
    "FlatMemory",
    "FormatError",
    "Memory",
    "MemoryAccessError",
    "Message",
    "MisuseError",
    "Outcome",
    "Policy",
    "RemappingUnit",
    "SourceId",
    "VtdError",
]
