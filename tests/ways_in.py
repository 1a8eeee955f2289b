"""Every way in: the functions that read what comes from outside. Each takes bytes, and raises only VtdError.

They are what `vtd` calls for the contents of a file; how files are opened is tested in tests/files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from iommu import FlatMemory, RemappingUnit
from iommu.dmar import Dmar
from iommu.dmar.inputs import tables_in
from iommu.dmar.pci import PciTree
from iommu.explain import explain
from iommu.files.documents import parse_json
from iommu.files.reading import as_text
from iommu.snapshot import Snapshot
from iommu.snapshot.core import NOTHING_GIVEN, Given


def table(data: bytes) -> object:
    """`vtd dmar show TABLE`."""
    return Dmar.parse(data).to_dict()


def damaged_table(data: bytes) -> object:
    """`vtd dmar lint TABLE`."""
    return Dmar.parse(data, strict=False).lint()


def file_of_tables(data: bytes) -> object:
    """`vtd dmar show FILE`: gzip, dumps as text, images, rows of tables."""
    return tables_in(data, "input")


def table_as_json(data: bytes) -> object:
    """`vtd dmar build JSON`."""
    return Dmar.from_dict(parse_json(data, "input")).build()


def pci_tree(data: bytes) -> object:
    """`vtd dmar topology --pci JSON`."""
    return PciTree.from_plain(parse_json(data, "input")).to_plain()


def log(data: bytes) -> object:
    """`vtd explain LOG`."""
    return explain(as_text(data, "input"))


def saved_state(data: bytes) -> object:
    """`RemappingUnit.restore`."""
    return RemappingUnit.restore(data, FlatMemory(1 << 16))


def snapshot(data: bytes) -> object:
    """`vtd inspect FILE`: the one-file form, a zip of a folder, an ELF core."""
    with tempfile.TemporaryDirectory(prefix="vtd-ways-in-") as folder:
        path = Path(folder) / "input"
        path.write_bytes(data)
        taken = Snapshot.open(path, Given(root_table="0x1000") if data.startswith(b"\x7fELF") else NOTHING_GIVEN)
        return [unit.unit() for unit in taken.units], taken.table


def snapshot_settings(data: bytes) -> object:
    """`vtd inspect FOLDER`: its unit.json."""
    with tempfile.TemporaryDirectory(prefix="vtd-ways-in-") as folder:
        for name, contents in (("unit.json", data), ("registers.bin", bytes(4096)), ("memory.bin", bytes(4096))):
            (Path(folder) / name).write_bytes(contents)
        return Snapshot.open(folder).memory.read(0, 1)


WAYS_IN: dict[str, Callable[[bytes], object]] = {
    each.__name__: each
    for each in (
        table,
        damaged_table,
        file_of_tables,
        table_as_json,
        pci_tree,
        log,
        saved_state,
        snapshot,
        snapshot_settings,
    )
}
