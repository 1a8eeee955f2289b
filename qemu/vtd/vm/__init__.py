"""A VM to experiment with: a remapping unit, named devices, and sockets to talk to it."""

from qemu.vtd.vm.plan import Plan
from qemu.vtd.vm.vm import Vm

__all__ = ["Plan", "Vm"]
