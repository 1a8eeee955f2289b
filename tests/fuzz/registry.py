"""Every way in. test_fuzz_registry.py fails on a reader or a command that is not here."""

from tests.fuzz import commands, readers
from tests.fuzz.way import Way

__all__ = ["BY_COMMANDS", "WAYS", "Way"]

WAYS = (*readers.WAYS, *commands.WAYS)

BY_COMMANDS = {
    "iommu.cli.explain": "vtd explain: a log, by its name",
    "iommu.snapshot.kdump": "libkdumpfile, where it is installed: tests/snapshot damages cores for it",
    "qemu.vtd.guest.nested_linux": "vtd guest run --kernel: the kernel goes to QEMU as it is",
    "qemu.vtd.guest.restart": "vtd guest run --kernel: as above",
}
"""Modules whose reading no function alone exercises: what does."""
