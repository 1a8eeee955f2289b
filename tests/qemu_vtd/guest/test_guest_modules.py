"""guest/modules.py: a module loads after those that it needs."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path

import pytest

from qemu.vtd.guest.errors import NothingToBoot
from qemu.vtd.guest.modules import in_order

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def module(folder: Path, name: str, needs: str) -> Path:
    """An object file that says what a kernel module says."""
    source = f'__attribute__((section(".modinfo"), used)) static const char needs[] = "depends={needs}";'
    path = folder / f"{name}.ko"
    subprocess.run(["gcc", "-x", "c", "-c", "-", "-o", path], input=source.encode(), check=True)
    return path


def test_needed_modules_come_first(tmp_path: Path) -> None:
    for name, needs in (("vfio-pci", "vfio-pci-core,vfio"), ("vfio-pci-core", "irqbypass,vfio"), ("vfio", ""),
                        ("irqbypass", ""), ("other", "vfio")):  # fmt: skip
        module(tmp_path, name, needs)
    assert list(in_order(tmp_path, ["vfio-pci"])) == ["irqbypass", "vfio", "vfio_pci_core", "vfio_pci"]


def test_what_is_built_in_is_left_out(tmp_path: Path) -> None:
    module(tmp_path, "vfio-pci", "vfio,pci-stub")
    assert list(in_order(tmp_path, ["vfio-pci", "vfio_iommu_type1"])) == ["vfio_pci"]


def test_compressed_modules_are_unpacked(tmp_path: Path) -> None:
    plain = module(tmp_path, "vfio", "")
    data = plain.read_bytes()
    (tmp_path / "vfio.ko.xz").write_bytes(lzma.compress(data))
    plain.unlink()
    assert in_order(tmp_path, ["vfio"]) == {"vfio": data}


@pytest.mark.parametrize(("name", "data"), [("vfio.ko", b"no ELF file"), ("vfio.ko.xz", b"no archive")])
def test_what_is_no_module_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(NothingToBoot, match=name):
        in_order(tmp_path, ["vfio"])
