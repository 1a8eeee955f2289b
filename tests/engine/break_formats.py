"""A pytest plugin: every unit has the broken rules that BROKEN_FORMATS names (tests/engine/breaks.py).

BROKEN_FORMATS=RootBitsUnchecked pytest -p tests.engine.break_formats tests/engine/test_translation.py
"""

from __future__ import annotations

import os

import pytest

from iommu import RemappingUnit
from tests.engine.breaks import BREAKS


def pytest_configure(config: pytest.Config) -> None:
    """Break the rules before any test module is imported."""
    broken = os.environ["BROKEN_FORMATS"]
    RemappingUnit.Formats = next(each for each in BREAKS if each.__name__ == broken)
