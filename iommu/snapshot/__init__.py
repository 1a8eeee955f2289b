"""The state of a machine's units in files, or out of a running machine: registers, and the memory that holds tables.

`Snapshot.open(path)` reads every form that is a file or a folder; `iommu.snapshot.sources` has the others.
"""

from typing import TYPE_CHECKING

from iommu.lazy import attributes

if TYPE_CHECKING:
    from iommu.snapshot.saving import save
    from iommu.snapshot.snapshot import Snapshot
    from iommu.snapshot.unit import UnitSnapshot

__all__ = ["Snapshot", "UnitSnapshot", "save"]

if not TYPE_CHECKING:  # a type checker would take every name for a public one
    # Imported on first use, so that the command line starts without loading the engine.
    __getattr__ = attributes(
        "iommu.snapshot",
        {"Snapshot": "snapshot", "UnitSnapshot": "unit", "save": "saving"},
    )
