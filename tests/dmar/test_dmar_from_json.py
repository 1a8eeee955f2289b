"""JSON of tables and PCI trees in which a field is wrong: one line with the field and its value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iommu.dmar.pci import PciTree
from iommu.errors import MisuseError
from tests import command

GOOD: dict[str, Any] = {"address": "0000:00:01.0"}
BUS = {
    "devices": [
        {
            "bus": 0,
            "slot": 1,
            "function": 0,
            "id": {"vendor": 0x8086, "device": 1},
            "class_info": {"class": 0x604},
            "pci_bridge": {"bus": {"secondary": 1, "subordinate": 1}},
        }
    ]
}


@pytest.mark.parametrize("length", [10**30, 10**18, 1 << 31, 1 << 16, -1])
def test_a_length_beyond_its_field(length: int, tmp_path: Path) -> None:
    andd = {"kind": "ANDD", "reserved": 0, "device_number": 1, "object_name": "x", "length": length}
    (tmp_path / "json").write_text(json.dumps({"header": {}, "structures": [andd]}))
    done = command.vtd("dmar", "build", tmp_path / "json", "-o", tmp_path / "table")
    assert done.returncode == 2
    assert done.stderr.decode() == f"vtd: structures[0].length: {length} is not a number of 16 bits\n"
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("vendor", "abc", "'abc' is not a whole number"),
        ("vendor", 1.5, "1.5 is not a whole number"),
        ("vendor", 65536, "65536 is not from 0x0 to 0xffff"),
        ("class_code", "x", "'x' is not a whole number"),
        ("class_code", None, "None is not a whole number"),
        ("class_code", 2.5, "2.5 is not a whole number"),
        ("group", [1], r"\[1\] is not a whole number"),
        ("group", {}, "{} is not a whole number"),
        ("device", None, "None is not a whole number"),
        ("isolated", 1, "1 is neither true nor false"),
        ("physical", 5, "5 is not a text"),
        ("physical", "x", "'x' is not an address such as 0000:00:1f.0"),
        ("address", "y" * 999, "'yyy.*yyy' is not an address such as 0000:00:1f.0"),
    ],
)
def test_a_saved_tree_with_a_field_of_the_wrong_kind(field: str, value: object, said: str) -> None:
    with pytest.raises(MisuseError, match=rf"^PCI tree\[1\].{field}: {said}$"):
        PciTree.from_plain([{"address": "0000:00:00.0"}, GOOD | {field: value}])


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({"a": 1}, "PCI tree: a list of functions, or QEMU's answer to query-pci, is needed: {'a': 1}"),
        (None, "PCI tree: a list of functions, or QEMU's answer to query-pci, is needed: None"),
        ({"return": 5}, "PCI tree.return: a list of functions, or QEMU's answer to query-pci, is needed: 5"),
        (["abc"], r"PCI tree\[0\]: an object is needed, not str"),
        ([{}], r"PCI tree\[0\]: 'address' is missing"),
        ([GOOD | {"colour": 1}], r"PCI tree\[0\]: unknown key 'colour'"),
        ([BUS, {"devices": {}}], r"PCI tree\[1\].devices: {} is not a list"),
        ([BUS, {"devices": [{}]}], r"PCI tree\[1\].devices\[0\]: 'id' is missing"),
    ],
)
def test_what_is_no_tree(plain: object, said: str) -> None:
    with pytest.raises(MisuseError, match=f"^{said}$"):
        PciTree.from_plain(plain)


def test_an_answer_of_qemu_with_buses_below_each_other_for_ever() -> None:
    assert len(PciTree.from_plain([BUS]).functions) == 1
    bus = BUS
    for _ in range(300):
        device = BUS["devices"][0]
        bus = {"devices": [device | {"pci_bridge": device["pci_bridge"] | bus}]}  # type: ignore[operator]
    with pytest.raises(MisuseError, match="more than 256 buses below each other"):
        PciTree.from_plain([bus])
