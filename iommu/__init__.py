"""vtdlab: an executable VT-d.

`RemappingUnit(memory, Capabilities(...))` is a remapping unit; `iommu.dmar` reads the ACPI table that describes the
units of a machine, and `System.from_dmar` makes them all.
"""

from typing import TYPE_CHECKING

from iommu.lazy import attributes

if TYPE_CHECKING:
    from iommu.engine.ats import AtsDevice, Completion, DeviceInvalidation, PageRequest, PageResponse
    from iommu.engine.attributes import Attributes, MemoryType
    from iommu.engine.audit import ReadEntry, StaleItem
    from iommu.engine.capabilities import Capabilities
    from iommu.engine.device import Device, DeviceTranslation
    from iommu.engine.entry_format import EntryFormat
    from iommu.engine.faults.events import EventKind, Message
    from iommu.engine.interrupts.request import Interrupt, InterruptOutcome, InterruptRequest, Posting
    from iommu.engine.invalidation.selector import CacheName, Selector
    from iommu.engine.mappings import Mapping
    from iommu.engine.page_requests.page_requests import PageRequestOutcome
    from iommu.engine.policy import OddAccess, Policy
    from iommu.engine.reasons import FaultReason
    from iommu.engine.request import Access, AddressType, DmaRequest, Grant, Outcome, SourceId
    from iommu.engine.steps import IgnoredWrite, Pending, Work
    from iommu.engine.trace import Step
    from iommu.engine.unit import RemappingUnit
    from iommu.errors import (
        DmarError,
        FormatError,
        MemoryAccessError,
        MisuseError,
        RoutingError,
        StateError,
        VtdError,
    )
    from iommu.fields import Layout
    from iommu.memory import AtomicMemory, FlatMemory, Memory, ProcessorCache, WriteBuffer
    from iommu.registers import QueueFault, TableMode
    from iommu.structures import DeliveryMode, ResponseCode
    from iommu.system import ScopedDevice, System

__all__ = [
    "Access",
    "AddressType",
    "AtomicMemory",
    "AtsDevice",
    "Attributes",
    "CacheName",
    "Capabilities",
    "Completion",
    "DeliveryMode",
    "Device",
    "DeviceInvalidation",
    "DeviceTranslation",
    "DmaRequest",
    "DmarError",
    "EntryFormat",
    "EventKind",
    "FaultReason",
    "FlatMemory",
    "FormatError",
    "Grant",
    "IgnoredWrite",
    "Interrupt",
    "InterruptOutcome",
    "InterruptRequest",
    "Layout",
    "Mapping",
    "Memory",
    "MemoryAccessError",
    "MemoryType",
    "Message",
    "MisuseError",
    "OddAccess",
    "Outcome",
    "PageRequest",
    "PageRequestOutcome",
    "PageResponse",
    "Pending",
    "Policy",
    "Posting",
    "ProcessorCache",
    "QueueFault",
    "ReadEntry",
    "RemappingUnit",
    "ResponseCode",
    "RoutingError",
    "ScopedDevice",
    "Selector",
    "SourceId",
    "StaleItem",
    "StateError",
    "Step",
    "System",
    "TableMode",
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
            "AtomicMemory": "memory",
            "AtsDevice": "engine.ats",
            "Attributes": "engine.attributes",
            "CacheName": "engine.invalidation.selector",
            "Capabilities": "engine.capabilities",
            "Completion": "engine.ats",
            "DeliveryMode": "structures",
            "Device": "engine.device",
            "DeviceInvalidation": "engine.ats",
            "DeviceTranslation": "engine.device",
            "DmaRequest": "engine.request",
            "DmarError": "errors",
            "EntryFormat": "engine.entry_format",
            "EventKind": "engine.faults.events",
            "FaultReason": "engine.reasons",
            "FlatMemory": "memory",
            "FormatError": "errors",
            "Grant": "engine.request",
            "IgnoredWrite": "engine.steps",
            "Interrupt": "engine.interrupts.request",
            "InterruptOutcome": "engine.interrupts.request",
            "InterruptRequest": "engine.interrupts.request",
            "Layout": "fields",
            "Mapping": "engine.mappings",
            "Memory": "memory",
            "MemoryAccessError": "errors",
            "MemoryType": "engine.attributes",
            "Message": "engine.faults.events",
            "MisuseError": "errors",
            "OddAccess": "engine.policy",
            "Outcome": "engine.request",
            "PageRequest": "engine.ats",
            "PageRequestOutcome": "engine.page_requests.page_requests",
            "PageResponse": "engine.ats",
            "Pending": "engine.steps",
            "Policy": "engine.policy",
            "Posting": "engine.interrupts.request",
            "ProcessorCache": "memory",
            "QueueFault": "registers",
            "ReadEntry": "engine.audit",
            "RemappingUnit": "engine.unit",
            "ResponseCode": "structures",
            "RoutingError": "errors",
            "Selector": "engine.invalidation.selector",
            "SourceId": "engine.request",
            "StateError": "errors",
            "StaleItem": "engine.audit",
            "Step": "engine.trace",
            "ScopedDevice": "system",
            "System": "system",
            "TableMode": "registers",
            "VtdError": "errors",
            "Work": "engine.steps",
            "WriteBuffer": "memory",
        },
    )
