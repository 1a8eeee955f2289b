"""Physical devices: what is checked before one is assigned, on a made-up machine, and QEMU's own refusal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from iommu.dmar.pci import PciAddress, PciTree
from qemu.vtd.errors import QemuDied, QemuUnsuitable
from qemu.vtd.probe import Build
from qemu.vtd.vm import Plan, Vm, host
from qemu.vtd.vm import vm as vm_module
from tests.command import vtd
from tests.dmar.hand import drhd, rmrr, scope, table
from tests.qemu_vtd.remains import nothing_remains

NIC, AUDIO, MODEM, STORAGE, LOST = (
    PciAddress.parse(each) for each in ("01:00.0", "01:00.1", "00:1f.0", "02:00.0", "1:00:00.0")
)
CLASSES = {NIC: 0x020000, AUDIO: 0x040300, MODEM: 0x070300, STORAGE: 0x010802, LOST: 0x020000}
GROUPS = {NIC: 7, AUDIO: 7, MODEM: 3, STORAGE: 9, LOST: 11}
DMAR = table(
    drhd(0xFED91000, flags=1), rmrr(0x7B000000, 0x7B0FFFFF, scope(1, 2, (0, 0)), scope(1, 0, (31, 0))), flags=1
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine: NIC and AUDIO in one group, MODEM and STORAGE in an RMRR, LOST in a segment without a unit."""
    for address, class_code in CLASSES.items():
        folder = tmp_path / "sys/bus/pci/devices" / str(address)
        folder.mkdir(parents=True)
        (folder / "config").write_bytes((bytes(9) + class_code.to_bytes(3, "little")).ljust(64, b"\0"))
        group = tmp_path / "sys/kernel/iommu_groups" / str(GROUPS[address])
        group.mkdir(parents=True, exist_ok=True)
        (folder / "iommu_group").symlink_to(group)
        file = tmp_path / "dev/vfio" / group.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for driver in ("vfio-pci", "e1000e", "pci-stub", "snd_hda_intel"):
        (tmp_path / "sys/bus/pci/drivers" / driver).mkdir(parents=True)
    tables = tmp_path / "sys/firmware/acpi/tables"
    tables.mkdir(parents=True)
    (tables / "DMAR").write_bytes(DMAR)
    return tmp_path


def bind(root: Path, address: PciAddress, driver: str) -> None:
    link = root / f"sys/bus/pci/devices/{address}/driver"
    link.unlink(missing_ok=True)
    link.symlink_to(root / "sys/bus/pci/drivers" / driver)


def whats(root: Path, address: PciAddress, *others: PciAddress) -> list[str]:
    return [each.what for each in host.obstacles(address, (address, *others), root)]


@pytest.mark.parametrize("mate", [None, "vfio-pci", "pci-stub"])
def test_a_device_that_can_be_assigned(root: Path, mate: str | None) -> None:
    bind(root, NIC, "vfio-pci")
    if mate:
        bind(root, AUDIO, mate)
    assert whats(root, NIC) == []


def test_its_driver_is_not_vfio_pci_and_stays(root: Path) -> None:
    bind(root, NIC, "e1000e")
    (finding,) = host.obstacles(NIC, root=root)
    assert finding.what == "host device 0000:01:00.0: its driver is e1000e, not vfio-pci"
    device = "/sys/bus/pci/devices/0000:01:00.0"
    assert finding.remedy == (
        f"as root: modprobe vfio-pci; echo vfio-pci > {device}/driver_override; "
        f"echo 0000:01:00.0 > {device}/driver/unbind; echo 0000:01:00.0 > /sys/bus/pci/drivers_probe"
    )
    assert (root / device[1:] / "driver").resolve().name == "e1000e"


def test_it_has_no_driver(root: Path) -> None:
    (finding,) = host.obstacles(NIC, root=root)
    assert "its driver is none" in finding.what and "unbind" not in finding.remedy


def test_a_group_is_assigned_as_a_whole(root: Path) -> None:
    bind(root, NIC, "vfio-pci")
    bind(root, AUDIO, "snd_hda_intel")
    assert whats(root, NIC) == [
        "host device 0000:01:00.0: 0000:01:00.1 of its IOMMU group 7 has the driver snd_hda_intel"
    ]
    assert whats(root, NIC, AUDIO) == [], "it has a line of its own when it is assigned too"
    assert whats(root, AUDIO, NIC) == ["host device 0000:01:00.1: its driver is snd_hda_intel, not vfio-pci"]


@pytest.mark.parametrize("address", [MODEM, STORAGE])
def test_firmware_s_memory(root: Path, address: PciAddress) -> None:
    assert whats(root, address) == [
        f"host device {address}: firmware needs 0x7b000000 to 0x7b0fffff mapped one to one for it (RMRR)"
    ]


def test_no_unit(root: Path) -> None:
    assert whats(root, LOST) == [f"host device {LOST}: no unit remaps its DMA"]


def test_the_reasons_are_those_of_vtd_dmar_topology(root: Path) -> None:
    tree = PciTree.from_sysfs(root / "sys")
    from iommu.dmar import Dmar
    from iommu.dmar.topology import place

    for address, placement in place(Dmar.parse(DMAR), tree).items():
        if placement.obstacles:
            assert whats(root, address) == [f"host device {address}: {why}" for why in placement.obstacles]


def test_no_such_device(root: Path) -> None:
    assert whats(root, PciAddress(0, 9, 0, 0)) == ["host device 0000:09:00.0: this machine has no such device"]


def test_no_pci(tmp_path: Path) -> None:
    (line,) = whats(tmp_path, NIC)
    assert line.startswith("host device 0000:01:00.0: ") and "no such folder" in line


@pytest.mark.parametrize(("table_there", "also"), [(True, ""), (False, ", and the machine has no DMAR table")])
def test_no_group(root: Path, table_there: bool, also: str) -> None:
    (root / f"sys/bus/pci/devices/{NIC}/iommu_group").unlink()
    if not table_there:
        (root / "sys/firmware/acpi/tables/DMAR").unlink()
    assert whats(root, NIC) == [f"host device {NIC}: the kernel has no IOMMU group for it{also}"]


def test_a_group_and_no_table(root: Path) -> None:
    (root / "sys/firmware/acpi/tables/DMAR").unlink()
    (finding,) = host.obstacles(NIC, root=root)
    assert finding.what.endswith("DMAR: No such file or directory")
    assert "only machines with VT-d" in finding.remedy


def test_a_table_that_only_root_may_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str | Path, *arguments: int, **named: int) -> int:
        if Path(path).name == "DMAR":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    bind(root, NIC, "vfio-pci")
    opened = os.open
    monkeypatch.setattr(os, "open", refuse)
    (finding,) = host.obstacles(NIC, root=root)
    assert finding.what.endswith("DMAR: Permission denied") and "as root" in finding.remedy


def test_a_table_that_is_none(root: Path) -> None:
    (root / "sys/firmware/acpi/tables/DMAR").write_bytes(b"not a table")
    (line,) = whats(root, NIC)
    assert line.startswith(f"host device {NIC}: DMAR: ")


def test_a_group_file_that_cannot_be_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bind(root, NIC, "vfio-pci")
    monkeypatch.setattr(os, "access", lambda *_: False)
    (finding,) = host.obstacles(NIC, root=root)
    assert finding.what == f"host device {NIC}: {root}/dev/vfio/7 cannot be opened"
    assert finding.remedy.startswith("as root: chown ")


def test_the_vm_gets_it_and_qemu_has_the_last_word(build: Build, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it goes without the hardware: QEMU looks for the group in the real sysfs."""
    bind(root, NIC, "vfio-pci")
    plan = Plan("none", host_devices=(NIC,))
    words = plan.words(build)
    assert f"vfio-pci,host={NIC}" in words and "intel-iommu,caching-mode=on" in words
    monkeypatch.setattr(
        vm_module, "host_obstacles", lambda plan: host.obstacles(plan.host_devices[0], plan.host_devices, root)
    )
    with nothing_remains(), pytest.raises(QemuDied, match=r"vfio-pci,host=0000:01:00\.0"), Vm(plan, build.path):
        pass
    bind(root, NIC, "e1000e")
    with pytest.raises(QemuUnsuitable, match="its driver is e1000e, not vfio-pci; as root: "), Vm(plan, build.path):
        pass


def test_on_this_machine_the_refusal_is_one_line(build: Build) -> None:
    address = "0000:ff:1f.7"
    for check, status in (((), 2), (("--check",), 1)):
        done = vtd("vm", "--host-device", address, *check)
        assert done.returncode == status
        (line,) = (done.stdout + done.stderr).decode().splitlines()
        assert f"host device {address}: " in line
