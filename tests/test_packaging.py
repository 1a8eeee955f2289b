"""Both packages can be imported from the source tree, an editable install and a wheel, together with qemu.qmp."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import qemu.qmp

import iommu
import qemu.vtd

ROOT = Path(__file__).parent.parent
IMPORTS = "import iommu, qemu.qmp, qemu.vtd; from qemu.vtd import Machine; from iommu import RemappingUnit"


def test_qemu_stays_a_namespace_package() -> None:
    assert not (ROOT / "qemu" / "__init__.py").exists()
    assert qemu.qmp.__file__
    assert qemu.vtd.__file__


def test_both_import_from_the_tree() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], cwd=ROOT, check=True)


def test_both_import_from_an_editable_install(tmp_path: Path) -> None:
    """The environment of the tests has one; from another directory, only the installed packages can be found."""
    subprocess.run([sys.executable, "-c", IMPORTS], cwd=tmp_path, check=True)


def test_both_import_from_a_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("vtdlab-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert "qemu/__init__.py" not in names
    assert {"iommu/py.typed", "iommu/__init__.py", "qemu/vtd/__init__.py"} <= set(names)
    # The order on the path after installation by pip: the wheel's files, then its dependencies.
    program = f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r}); {IMPORTS}; print(iommu.__file__)"
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert str(tmp_path) in ran.stdout


@pytest.mark.parametrize("package", [iommu, qemu.vtd], ids=["iommu", "qemu.vtd"])
def test_every_public_name_can_be_imported(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = package.nothing_like_it  # type: ignore[attr-defined]


def test_iommu_does_not_import_qemu() -> None:
    for file in (ROOT / "iommu").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.split(".")[0] == "qemu" for name in names), file
