"""Every way in. test_fuzz_registry.py fails on a reader or a command that is not here."""

from tests.fuzz import commands, readers
from tests.fuzz.way import Way

__all__ = ["BY_COMMANDS", "WAYS", "Way"]

WAYS = (*readers.WAYS, *commands.WAYS)

BY_COMMANDS = {
    "iommu.cli.explain": "vtd explain",
}
"""Modules whose reading only commands exercise."""
