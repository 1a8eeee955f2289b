"""Every capability that a field, a register or another capability needs exists."""

from __future__ import annotations

import pytest

from iommu import structures
from iommu.engine.capabilities import CAPABILITIES, NOT_MODELLED, PROTECTED_MEMORY
from iommu.fields import Layout
from iommu.registers import REGISTERS

FLAGS = {name for name, one in CAPABILITIES.items() if isinstance(one.default, bool)}
LAYOUTS: list[type[Layout]] = [
    *REGISTERS,
    *(each for each in vars(structures).values() if isinstance(each, type) and issubclass(each, Layout)),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=[layout.__name__ for layout in LAYOUTS])
def test_needs_of_fields_exist(layout: type[Layout]) -> None:
    assert {part.needs for part in layout.fields.values() if part.needs} <= FLAGS


def test_needs_of_registers_exist() -> None:
    needed = {register.needs for register in REGISTERS if register.needs}
    assert needed <= FLAGS | {PROTECTED_MEMORY} | set(NOT_MODELLED)
    assert set(NOT_MODELLED) <= needed, "capabilities that are not modelled are listed only for their registers"


@pytest.mark.parametrize("name", CAPABILITIES)
def test_needs_of_capabilities_exist(name: str) -> None:
    one = CAPABILITIES[name]
    assert {*one.needs, *one.needs_one_of, *filter(None, [one.excluded_by])} <= FLAGS - {name}


def test_layouts_of_entries_and_descriptors_are_included() -> None:
    assert {"ContextEntry", "PasidEntry", "WaitDescriptor", "IRTA"} <= {layout.__name__ for layout in LAYOUTS}
