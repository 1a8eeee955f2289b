"""VT-d as QEMU emulates it."""

from qemu.vtd.machine import Machine
from qemu.vtd.probe import find_qemu

__all__ = ["Machine", "find_qemu"]
