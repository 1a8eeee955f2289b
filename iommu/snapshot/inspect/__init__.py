"""What a running system has set up: units, devices, page tables, interrupts, the queue, faults, from a snapshot."""

from iommu.snapshot.inspect.devices import Device, Limits, Space
from iommu.snapshot.inspect.inspection import Inspection, UnitInspection, inspect, inspect_unit

__all__ = ["Device", "Inspection", "Limits", "Space", "UnitInspection", "inspect", "inspect_unit"]
