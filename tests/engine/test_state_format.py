"""state_format.py: a change of the layout of a saved state is a new format."""

from __future__ import annotations

import zlib

from iommu import Capabilities, Policy, Work
from iommu.engine.formats import Formats
from iommu.engine.state import LATCHED_NUMBERS
from iommu.engine.state_format import FORMAT, SECTIONS
from iommu.engine.state_ledger import numbered


def layout() -> str:
    """All that decides what the bytes of a state mean, as text."""
    sections = [f"{section.name}: {section._columns}" for section in SECTIONS]
    formats = [entry.name for entry in numbered(Formats(Capabilities.full(), Policy()))]
    return "\n".join(
        (*sections, *(number.path for number in LATCHED_NUMBERS), *formats, *(work.name for work in Work))
    )


def test_another_layout_is_another_format() -> None:
    """If this fails, the layout has changed: raise FORMAT, and put the new pair here."""
    assert (FORMAT, hex(zlib.crc32(layout().encode()))) == (2, "0xf1143bde")
