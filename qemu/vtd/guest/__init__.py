"""Linux guests with assigned devices: real drivers, real tables, real DMA."""

from typing import TYPE_CHECKING

from iommu.lazy import attributes

if TYPE_CHECKING:
    from qemu.vtd.guest.guest import Guest
    from qemu.vtd.guest.sync import SyncGuest

__all__ = ["Guest", "SyncGuest"]

if not TYPE_CHECKING:  # a type checker would take every name for a public one
    __getattr__ = attributes("qemu.vtd.guest", {"Guest": "guest", "SyncGuest": "sync"})
