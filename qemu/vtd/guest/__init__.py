"""Linux guests with assigned devices: real drivers, real tables, real DMA."""

from qemu.vtd.guest.guest import Guest

__all__ = ["Guest"]
