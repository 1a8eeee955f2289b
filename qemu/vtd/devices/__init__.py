"""Emulated devices that do DMA on command, behind one interface."""

from qemu.vtd.devices.edu import Edu
from qemu.vtd.devices.iommu_testdev import IommuTestdev
from qemu.vtd.devices.rocker import Rocker
from qemu.vtd.devices.source import DmaSource, SynchronousSource

__all__ = ["DmaSource", "Edu", "IommuTestdev", "Rocker", "SynchronousSource"]
