"""Testing a VT-d driver with pytest: the plugin's fixtures are in plugin.py, and these are the names for assertions.

def test_dma_reaches_the_buffer(vtd_registers, vtd_memory, vtd_device):
    driver = Driver(vtd_registers, vtd_memory)
    driver.map(NIC, 0x5000, 0x9000)
    assert vtd_device(NIC).dma(0x5000, Access.WRITE) == reaches(0x9000)

Only plugin.py needs pytest.
"""

from typing import TYPE_CHECKING

from iommu.lazy import attributes

if TYPE_CHECKING:
    from iommu.testing.clean import assert_clean, recorded_faults
    from iommu.testing.conduct import Misuse
    from iommu.testing.expect import blocked_by, delivers, reaches
    from iommu.testing.tables import table_problems
    from iommu.testing.unit import Registers, WatchedUnit

__all__ = [
    "Misuse",
    "Registers",
    "WatchedUnit",
    "assert_clean",
    "blocked_by",
    "delivers",
    "reaches",
    "recorded_faults",
    "table_problems",
]

if not TYPE_CHECKING:  # a type checker would take every name for a public one
    # Imported on first use: pytest loads the plugin at every start, wherever this package is installed.
    __getattr__ = attributes(
        "iommu.testing",
        {
            "Misuse": "conduct",
            "Registers": "unit",
            "WatchedUnit": "unit",
            "assert_clean": "clean",
            "blocked_by": "expect",
            "delivers": "expect",
            "reaches": "expect",
            "recorded_faults": "clean",
            "table_problems": "tables",
        },
    )
