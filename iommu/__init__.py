"""vtdlab: an executable VT-d.

`RemappingUnit(memory, Capabilities(...))` is a remapping unit; `iommu.dmar` reads the ACPI table that describes the
units of a machine, and `System.from_dmar` makes them all.
"""

from typing import TYPE_CHECKING

from iommu.lazy import attributes

if TYPE_CHECKING:
    from iommu.engine.ats import PageRequest
    from iommu.engine.attributes import Attributes, MemoryType
    from iommu.engine.capabilities import Capabilities
    from iommu.engine.device import Device
    from iommu.engine.faults.events import Message
    from iommu.engine.interrupts.request import Interrupt, InterruptOutcome, InterruptRequest, Posting
    from iommu.engine.invalidation.selector import CacheName, Selector
    from iommu.engine.policy import Policy
    from iommu.engine.reasons import FaultReason
    from iommu.engine.request import Access, AddressType, DmaRequest, Outcome, SourceId
    from iommu.engine.steps import Pending, Work
    from iommu.engine.unit import RemappingUnit
    from iommu.errors import DmarError, FormatError, MemoryAccessError, MisuseError, RoutingError, VtdError
    from iommu.memory import FlatMemory, Memory, ProcessorCache, WriteBuffer
    from iommu.system import System

__all__ = [
    "Access",
    "AddressType",
    "Attributes",
    "CacheName",
    "Capabilities",
    "Device",
    "DmaRequest",
    "DmarError",
    "FaultReason",
    "FlatMemory",
    "FormatError",
    "Interrupt",
    "InterruptOutcome",
    "InterruptRequest",
    "Memory",
    "MemoryAccessError",
    "MemoryType",
    "Message",
    "MisuseError",
    "Outcome",
    "PageRequest",
    "Pending",
    "Policy",
    "Posting",
    "ProcessorCache",
    "RemappingUnit",
    "RoutingError",
    "Selector",
    "SourceId",
    "System",
    "VtdError",
    "Work",
    "WriteBuffer",
]

if not TYPE_CHECKING:  # a type checker would take every name for a public one
    # Imported on first use, so that the command line starts without loading the engine and Construct.
    __getattr__ = attributes(
        "iommu",
        {
            "Access": "engine.request",
            "AddressType": "engine.request",
            "Attributes": "engine.attributes",
            "CacheName": "engine.invalidation.selector",
            "Capabilities": "engine.capabilities",
            "Device": "engine.device",
            "DmaRequest": "engine.request",
            "DmarError": "errors",
            "FaultReason": "engine.reasons",
            "FlatMemory": "memory",
            "FormatError": "errors",
            "Interrupt": "engine.interrupts.request",
            "InterruptOutcome": "engine.interrupts.request",
            "InterruptRequest": "engine.interrupts.request",
            "Memory": "memory",
            "MemoryAccessError": "errors",
            "MemoryType": "engine.attributes",
            "Message": "engine.faults.events",
            "MisuseError": "errors",
            "Outcome": "engine.request",
            "PageRequest": "engine.ats",
            "Pending": "engine.steps",
            "Policy": "engine.policy",
            "Posting": "engine.interrupts.request",
            "ProcessorCache": "memory",
            "RemappingUnit": "engine.unit",
            "RoutingError": "errors",
            "Selector": "engine.invalidation.selector",
            "SourceId": "engine.request",
            "System": "system",
            "VtdError": "errors",
            "Work": "engine.steps",
            "WriteBuffer": "memory",
        },
    )
