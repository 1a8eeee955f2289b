"""Which unit remaps what, on made-up machines: every expectation comes from the specification or from Linux."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from iommu.dmar import Dmar
from iommu.dmar.pci import PciAddress, PciFunction, PciTree, PortType
from iommu.dmar.picture import blocks, html, svg
from iommu.dmar.topology import place, unit_for
from iommu.errors import MisuseError
from tests.dmar.hand import drhd, rmrr, scope, table

NIC, USB, GPU, SATA, BRIDGE = 0x020000, 0x0C0330, 0x030000, 0x010601, 0x060400


def at(text: str) -> PciAddress:
    return PciAddress.parse(text)


def fn(text: str, class_code: int = NIC, below: int | None = None, **more: Any) -> PciFunction:
    return PciFunction(at(text), 0x8086, 0x1234, class_code, secondary=below, subordinate=below, **more)


# 00:02.0 graphics; 00:14.0 USB; 00:1c.0 port to bus 1; on it a bridge to bus 2 with two functions; 00:1d.0 port to
# bus 3 with a network card and one virtual function of it; segment 1 has a bus 0 of its own.
TREE = PciTree(
    [
        fn("00:02.0", GPU),
        fn("00:14.0", USB),
        fn("00:17.0", SATA),
        fn("00:1c.0", BRIDGE, 1, pcie_type=4, isolated=True),
        fn("01:00.0", BRIDGE, 2, pcie_type=7),
        fn("02:03.0", NIC),
        fn("02:03.1", NIC),
        fn("00:1d.0", BRIDGE, 3, pcie_type=4, isolated=True),
        fn("03:00.0", NIC, isolated=True),
        fn("03:00.1", NIC, isolated=True),
        fn("03:10.0", NIC, isolated=True, physical=at("03:00.0")),
        fn("0001:00:02.0", NIC),
    ]
)
A, B, C, ALL, OTHER = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000
TABLE = Dmar.parse(
    table(
        drhd(A, scope(1, 0, (2, 0))),
        drhd(B, scope(2, 0, (0x1C, 0))),
        drhd(C, scope(1, 0, (0x1C, 0), (0, 0), (3, 1)), scope(1, 0, (0x1D, 0), (0, 0))),
        drhd(ALL, scope(3, 0xF0, (31, 0)), flags=1),
        drhd(OTHER, scope(1, 0, (3, 0)), segment=1),
    )
)

EXPECTED = {
    "00:02.0": A,  # its own scope
    "00:14.0": ALL,  # in no scope, so INCLUDE_PCI_ALL's
    "00:1c.0": B,  # the bridge itself belongs to its sub-hierarchy
    "01:00.0": B,  # below the bridge
    "02:03.0": B,  # two bridges below
    "02:03.1": C,  # a path of three hops names it, nearer than the bridge
    "00:1d.0": ALL,  # only a hop on the way to a scope's device
    "03:00.0": C,  # a path of two hops
    "03:00.1": ALL,  # the neighbour is not named
    "03:10.0": C,  # a virtual function, where its physical function is
    "0001:00:02.0": None,  # segment 1 has no INCLUDE_PCI_ALL
}


@pytest.mark.parametrize(("address", "base"), EXPECTED.items())
def test_each_function_has_the_unit_the_specification_gives_it(address: str, base: int | None) -> None:
    unit = TABLE.unit_for(*at(address), tree=TREE)
    assert (None if unit is None else unit.base) == base


def test_order_of_the_units_does_not_matter() -> None:
    shuffled = Dmar(TABLE.header, [*reversed(TABLE.structures)])
    for address, base in EXPECTED.items():
        unit = shuffled.unit_for(*at(address), tree=TREE)
        assert (None if unit is None else unit.base) == base


def test_without_a_tree_only_single_hops_can_be_compared() -> None:
    bases = {name: getattr(TABLE.unit_for(*at(name)), "base", None) for name in EXPECTED}
    assert bases == EXPECTED | {
        **dict.fromkeys(["01:00.0", "02:03.0", "02:03.1", "03:00.0", "03:10.0"], ALL),
        "00:1c.0": B,
    }


def test_an_endpoint_scope_does_not_cover_devices_below() -> None:
    sloppy = Dmar.parse(table(drhd(A, scope(1, 0, (0x1C, 0))), drhd(ALL, flags=1)))
    units = [sloppy.unit_for(*at(text), tree=TREE) for text in ("00:1c.0", "01:00.0")]
    assert [unit.base for unit in units if unit] == [A, ALL]


def test_scopes_of_interrupt_sources_are_not_pci_scopes() -> None:
    assert (
        unit_for(Dmar.parse(table(drhd(A, scope(3, 0, (2, 0)), scope(4, 0, (20, 0))))), at("00:02.0"), TREE)[0]
        is None
    )


def test_a_path_through_a_missing_or_plain_function_names_nothing() -> None:
    assert TREE.resolve(0, 0, ((2, 0), (0, 0))) is None
    assert TREE.resolve(0, 0, ((9, 0), (0, 0))) is None
    assert TREE.resolve(0, 0, ()) is None
    found = TREE.resolve(0, 0, ((0x1C, 0), (0, 0), (3, 1)))
    assert found is not None and str(found.address) == "0000:02:03.1"


def test_a_loop_of_bridges_is_cut() -> None:
    loop = PciTree([fn("01:00.0", BRIDGE, 2), fn("02:00.0", BRIDGE, 1), fn("02:01.0")])
    assert len(loop.ancestors(at("02:01.0"))) == 2
    assert set(place(TABLE, loop)) == set(loop.functions)


WITH_RMRRS = Dmar.parse(
    table(
        drhd(ALL, flags=1),
        rmrr(0x100000, 0x100FFF, scope(1, 0, (2, 0)), scope(1, 0, (20, 0)), scope(1, 0, (0x17, 0))),
        rmrr(0x200000, 0x200FFF, scope(2, 0, (0x1C, 0))),
    )
)


def test_an_rmrr_bars_devices_from_guests_except_usb_and_graphics() -> None:
    placed = place(WITH_RMRRS, TREE)
    obstacles = {str(address)[5:]: found.obstacles for address, found in placed.items() if address.segment == 0}
    assert obstacles["00:02.0"] == obstacles["00:14.0"] == ()
    rmrr_says = "firmware needs {} mapped one to one for it (RMRR)"
    assert obstacles["00:17.0"] == (rmrr_says.format("0x100000 to 0x100fff"),)
    assert rmrr_says.format("0x200000 to 0x200fff") in obstacles["02:03.0"]
    assert placed[at("00:14.0")].regions and placed[at("02:03.1")].regions
    assert placed[at("0001:00:02.0")].obstacles == ("no unit remaps its DMA",)


def test_groups_follow_isolation() -> None:
    placed = place(WITH_RMRRS, TREE)
    groups = {str(address): found.group for address, found in placed.items()}
    assert all(found.estimated for found in placed.values())
    assert groups["0000:01:00.0"] == groups["0000:02:03.0"] == groups["0000:02:03.1"]
    assert groups["0000:00:1c.0"] != groups["0000:01:00.0"]
    assert len({groups[f"0000:03:{name}"] for name in ("00.0", "00.1", "10.0")}) == 3
    assert placed[at("02:03.0")].together == (at("02:03.1"),)


@pytest.mark.parametrize("isolated", [True, False, None])
def test_a_port_separates_only_with_acs(isolated: bool | None) -> None:
    tree = PciTree([fn("00:1c.0", BRIDGE, 1, pcie_type=4, isolated=isolated), fn("01:00.0"), fn("00:1f.0")])
    groups = {str(address)[5:]: found.group for address, found in place(WITH_RMRRS, tree).items()}
    assert (groups["00:1c.0"] != groups["01:00.0"]) == bool(isolated)
    assert groups["00:1f.0"] not in (groups["00:1c.0"], groups["01:00.0"])


def test_functions_of_one_device_are_one_group_without_acs() -> None:
    tree = PciTree([fn("00:1f.0"), fn("00:1f.3"), fn("00:1f.4", isolated=True)])
    groups = [found.group for found in place(WITH_RMRRS, tree).values()]
    assert groups[0] == groups[1] != groups[2]


def test_the_kernels_groups_are_used_where_known() -> None:
    known = PciTree([fn("00:02.0", NIC, group=7), fn("00:03.0", SATA, group=7), fn("00:04.0", NIC, group=8)])
    blocked = Dmar.parse(table(drhd(ALL, flags=1), rmrr(0x100000, 0x100FFF, scope(1, 0, (3, 0)))))
    placed = place(blocked, known)
    assert not placed[at("00:02.0")].estimated
    assert placed[at("00:02.0")].obstacles[0].startswith("0000:00:03.0 of its group: firmware needs")
    assert placed[at("00:04.0")].obstacles == ()
    assert placed[at("00:04.0")].together == ()


def config(class_code: int, secondary: int | None = None) -> bytes:
    data = bytearray(64)
    data[0:4] = b"\x86\x80\x34\x12"
    data[9:12] = class_code.to_bytes(3, "little")
    if secondary is not None:
        data[14], data[0x19], data[0x1A] = 1, secondary, secondary
    return bytes(data)


def test_a_copied_sysfs_is_read(tmp_path: Path) -> None:
    devices = tmp_path / "bus" / "pci" / "devices"
    for name, data in {
        "0000:00:1c.0": config(BRIDGE, 1),
        "0000:01:00.0": config(NIC),
        "0000:01:10.0": config(NIC),
    }.items():
        (devices / name).mkdir(parents=True)
        (devices / name / "config").write_bytes(data)
    (tmp_path / "kernel" / "iommu_groups" / "9").mkdir(parents=True)
    (devices / "0000:01:00.0" / "iommu_group").symlink_to(tmp_path / "kernel" / "iommu_groups" / "9")
    (devices / "0000:01:10.0" / "physfn").symlink_to("../0000:01:00.0")
    tree = PciTree.from_sysfs(tmp_path)
    card, virtual = tree.functions[at("01:00.0")], tree.functions[at("01:10.0")]
    assert (card.vendor, card.device, card.class_code, card.group) == (0x8086, 0x1234, NIC, 9)
    assert virtual.physical == card.address
    assert card.pcie_type is None, "64 bytes, which is what sysfs gives without privileges, do not tell"
    assert [bridge.address for bridge in tree.ancestors(card.address)] == [at("00:1c.0")]


def test_express_and_acs_are_read_from_a_whole_configuration_space(tmp_path: Path) -> None:
    data = bytearray(4096)
    data[:64] = config(BRIDGE, 1)
    data[0x34], data[0x40:0x44] = 0x40, bytes([0x10, 0, 0x42, 0])  # PCI Express capability, root port
    data[0x100:0x108] = bytes([0x0D, 0, 1, 0, 0, 0, 0x1D, 0])  # ACS with SV, RR, CR, UF switched on
    folder = tmp_path / "bus" / "pci" / "devices" / "0000:00:1c.0"
    folder.mkdir(parents=True)
    (folder / "config").write_bytes(data)
    (port,) = PciTree.from_sysfs(tmp_path).functions.values()
    assert (port.pcie_type, port.isolated) == (4, True)
    (folder / "config").write_bytes(bytes(config(BRIDGE, 1)).ljust(256, b"\0"))
    (port,) = PciTree.from_sysfs(tmp_path).functions.values()
    assert port.pcie_type == PortType.CONVENTIONAL
    data[0x106] = 0x1C
    (folder / "config").write_bytes(data)
    (port,) = PciTree.from_sysfs(tmp_path).functions.values()
    assert port.isolated is False


def test_a_saved_tree_is_the_tree() -> None:
    again = PciTree.from_plain(json.loads(json.dumps(TREE.to_plain())))
    assert again.functions == TREE.functions


def test_qemus_answer_is_read() -> None:
    nic = {"bus": 1, "slot": 0, "function": 0, "class_info": {"class": 0x0200}, "id": {"vendor": 0x8086, "device": 1}}
    port = {
        "bus": 0, "slot": 4, "function": 0, "class_info": {"class": 0x0604}, "id": {"vendor": 0x1B36, "device": 12},
        "pci_bridge": {"bus": {"number": 0, "secondary": 1, "subordinate": 1}, "devices": [nic]},
    }  # fmt: skip
    tree = PciTree.from_plain({"return": [{"bus": 0, "devices": [port]}]})
    assert tree.functions[at("01:00.0")].class_code == NIC
    assert tree.functions[at("00:04.0")].secondary == 1


@pytest.mark.parametrize("plain", [3, {"a": 1}, [{}], [{"address": "x"}], [{"devices": [{}]}], [3], "text"])
def test_data_that_is_not_a_tree_is_refused(plain: object) -> None:
    with pytest.raises(MisuseError):
        PciTree.from_plain(plain)


@pytest.mark.parametrize("text", ["", "00:1f", "00:20.0", "00:1f.8", "g0:00.0", "0000:00:1f.0 "])
def test_a_malformed_address_is_refused(text: str) -> None:
    with pytest.raises(MisuseError):
        PciAddress.parse(text)


def test_pictures_are_well_formed_and_name_every_function() -> None:
    drawn = svg(WITH_RMRRS, TREE)
    root = ET.fromstring(drawn)
    shown = "".join(root.itertext())
    assert all(str(address) in shown for address in TREE.functions)
    assert "remapped by no unit" in shown
    assert drawn in html(WITH_RMRRS, TREE, "a <title>")
    assert "a &lt;title&gt;" in html(WITH_RMRRS, TREE, "a <title>")


def test_blocks_are_in_the_order_of_the_tree() -> None:
    ((unit, rows), (nobody, rest)) = blocks(WITH_RMRRS, TREE)
    assert unit is not None and nobody is None and len(rest) == 1
    below = [(str(row.placement.function.address)[5:], row.depth) for row in rows]
    assert below[3:7] == [("00:1c.0", 0), ("01:00.0", 1), ("02:03.0", 2), ("02:03.1", 2)]
