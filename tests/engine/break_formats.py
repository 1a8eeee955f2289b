"""A pytest plugin that breaks one entry rule for a run: `BREAK=Name pytest -p tests.engine.break_formats ...`."""

from __future__ import annotations

import os

from iommu.engine import formats, unit
from tests.engine.breaks import BREAKS

if name := os.environ.get("BREAK"):
    formats.Formats = unit.RemappingUnit.Formats = BREAKS[name]  # type: ignore[misc]
