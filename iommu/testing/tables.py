"""What is wrong in the tables that software has set up: reserved bits and values that this unit does not support."""

from __future__ import annotations

from iommu.engine.present import Tables
from iommu.engine.unit import RemappingUnit


def table_problems(unit: RemappingUnit) -> list[str]:
    """The present entries that the unit would refuse (spec chapter 9), a line each, table by table.

    These are the tables that the last SRTP and SIRTP have latched, with all that they point to. What an entry that is
    refused points to is not read, nor are first-stage tables that a second stage does not map.
    """
    return [str(problem) for problem in Tables(unit).problems()]
