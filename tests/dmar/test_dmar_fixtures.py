"""The tables in fixtures/dmar: made up because the corpus lacks their like, or captured from QEMU machines."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from iommu.dmar import Dmar, Drhd
from iommu.dmar.pci import PciAddress, PciTree
from iommu.dmar.topology import place
from iommu.dmar.verdicts import verdicts
from tests.dmar.hand import ROOT
from tests.dmar.made_up import FOLDER, SAMPLES

MACHINES = sorted((ROOT / "fixtures" / "dmar").glob("*.dmar"))
each_machine = pytest.mark.parametrize("path", MACHINES, ids=[path.stem for path in MACHINES])


def tree_of(path: Path) -> PciTree:
    return PciTree.from_plain(json.loads(path.with_suffix(".pci.json").read_text()))


def machine(name: str) -> tuple[Dmar, PciTree]:
    path = ROOT / "fixtures" / "dmar" / f"{name}.dmar"
    return Dmar.parse(path.read_bytes()), tree_of(path)


@pytest.mark.parametrize("name", SAMPLES)
def test_made_up_tables_are_what_they_claim(name: str) -> None:
    sample, data = SAMPLES[name], (FOLDER / f"{name}.dmar").read_bytes()
    assert data == sample.data
    table = Dmar.parse(data, strict=False)
    assert table.build() == data
    assert {finding.rule for finding in table.lint()} == sample.rules
    linux, xen, _ = verdicts(data)
    assert (linux.effect, xen.effect) == (sample.linux, sample.xen)


def test_no_fixture_is_left_over() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(SAMPLES)
    assert len(MACHINES) >= 6


@pytest.mark.skipif(shutil.which("iasl") is None, reason="no iasl")
@pytest.mark.parametrize("name", ["good", "two-segments", "three-hops"])
def test_iasl_accepts_the_good_ones_and_compiles_them_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    (tmp_path / "table.dat").write_bytes(SAMPLES[name].data)
    subprocess.run(["iasl", "-d", "table.dat"], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run(["iasl", "-p", "again", "table.dsl"], cwd=tmp_path, check=True, capture_output=True)
    again = (tmp_path / "again.aml").read_bytes()
    # iasl names itself as the compiler, which changes the compiler fields and the checksum.
    assert (
        again[:9] + again[10:28] + again[36:]
        == SAMPLES[name].data[:9] + SAMPLES[name].data[10:28] + SAMPLES[name].data[36:]
    )


@each_machine
def test_qemus_tables_are_sound_except_for_the_checksum_that_firmware_fills_in(path: Path) -> None:
    table = Dmar.parse(path.read_bytes())
    assert table.build() == path.read_bytes()
    assert {finding.rule for finding in table.lint() if finding.severity} == {"header.checksum"}
    table.seal()
    sealed = Dmar.parse(table.build())
    assert sum(table.build()) & 0xFF == 0
    assert not [finding for finding in sealed.lint() if finding.severity]


@each_machine
def test_qemus_one_unit_covers_every_function(path: Path) -> None:
    table, tree = Dmar.parse(path.read_bytes()), tree_of(path)
    placed = place(table, tree)
    assert len(placed) >= 3
    assert {found.unit.base if found.unit else None for found in placed.values()} == {0xFED90000}


def test_widths_and_flags_are_those_the_machines_were_started_with() -> None:
    assert machine("q35-48-bits")[0].header.width == 48
    assert machine("q35-plain")[0].header.width == 39
    assert not machine("q35-plain")[0].header.interrupt_remapping
    assert machine("q35-root-ports")[0].header.interrupt_remapping
    kinds = [structure.kind for structure in machine("q35-device-iotlb")[0].structures]
    assert kinds == ["DRHD", "ATSR"]


def test_a_scope_names_the_bridge_above_a_device() -> None:
    for name, device, bridge in [
        ("q35-root-ports", "01:00.0", "00:04.0"),
        ("q35-pcie-pci-bridge", "02:01.0", "00:04.0"),
        ("q35-pxb-pcie", "21:00.0", "20:00.0"),
    ]:
        table, tree = machine(name)
        found = place(table, tree)[PciAddress.parse(device)]
        assert isinstance(found.unit, Drhd)
        assert str(found.scope) == bridge


def test_two_cards_behind_a_conventional_bridge_go_together() -> None:
    table, tree = machine("q35-pcie-pci-bridge")
    found = place(table, tree)[PciAddress.parse("02:01.0")]
    assert found.together == (PciAddress.parse("02:02.0"),)
