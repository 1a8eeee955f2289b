"""Everything that a user names is opened in iommu/files; the modules that open something else are listed here."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tools.house import modules

ALLOWED = {
    "iommu.batch.trace_results": "a Parquet file that iommu.files has opened, to be continued",
    "iommu.batch.trace_rows": "a Parquet file that iommu.files has opened, in blocks",
    "iommu.cli.inspection.page": "its own style and script",
    "iommu.cli.main": "/dev/null, in the place of an output that is gone",
    "iommu.cli.reaching.page": "its own style",
    "iommu.memory": "memory that is made, not read",
    "iommu.snapshot.kernel": "a vmlinux that iommu.files has mapped",
    "iommu.snapshot.memory": "an ELF core that iommu.files has mapped",
    "iommu.snapshot.packed": "frames of a mapped file, each unpacked to the size that it must have",
    "iommu.snapshot.writer": "a snapshot that is written",
    "qemu.vtd.agent.image": "its own program",
    "qemu.vtd.apt": "its own cache, and /etc/os-release",
    "qemu.vtd.conformance.checklist.rules": "its own lists of rules",
    "qemu.vtd.conformance.export.reproducer": "what the programs that it has started wrote",
    "qemu.vtd.conformance.failed": "the private cache",
    "qemu.vtd.conformance.report.html.page": "its own style and script",
    "qemu.vtd.fuzz.lane.areas": "memory that is made, not read",
    "qemu.vtd.guard_program": "pipes of the programs that it starts, and /proc",
    "qemu.vtd.guest.carried": "the QEMU that runs, and its libraries",
    "qemu.vtd.guest.core": "a core that QEMU has just written",
    "qemu.vtd.guest.initramfs.__init__": "the private cache, and its own programs",
    "qemu.vtd.guest.kernel": "the private cache",
    "qemu.vtd.guest.modules": "modules of a kernel in the private cache",
    "qemu.vtd.guest.nested_linux": "an archive that it has built",
    "qemu.vtd.guest.restart": "an archive that it has built",
    "qemu.vtd.guest.terminal": "the keys of a terminal",
    "qemu.vtd.live.process_memory": "/proc of a running QEMU",
    "qemu.vtd.platform": "memory that is made, not read",
    "qemu.vtd.ram": "RAM that it shares with a QEMU",
    "qemu.vtd.vm.check": "/proc/self/status",
    "qemu.vtd.vm.run_directory": "the lock of a directory of its own",
}
"""Modules outside iommu/files that read, with what they read: none of it is named by a user."""

_METHODS = {"read_bytes", "read_text"}
_OF_MODULES = {
    "json": {"load", "loads"},
    "mmap": {"mmap"},
    "gzip": {"open", "decompress", "GzipFile"},
    "bz2": {"open", "decompress", "BZ2File"},
    "lzma": {"open", "decompress", "LZMAFile"},
    "zlib": {"decompress", "decompressobj"},
    "zipfile": {"ZipFile"},
    "tarfile": {"open", "TarFile"},
    "zstandard": {"ZstdDecompressor", "decompress", "open"},
    "pickle": {"load", "loads"},
    "tomllib": {"load", "loads"},
    "os": {"open", "read", "fdopen"},
    "io": {"open", "FileIO"},
    "sys": {"stdin"},
    "numpy": {"load", "fromfile", "memmap", "loadtxt"},
}
_NAMES = {"open", "ELFFile"}


def readers(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of everything in a module that opens, maps, unpacks or decodes something."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in _OF_MODULES.get(module, ()):
                yield node.lineno, f"{module}.{name}"
            case ast.Call(func=ast.Attribute(attr=name)) if name in _METHODS and not _of_pipeline(node):
                yield node.lineno, name
            case ast.Call(func=ast.Attribute(attr="open"), args=[ast.Constant(value=str(mode)), *_]) if "r" in mode:
                yield node.lineno, f'open("{mode}")'
            case ast.Call(func=ast.Name(id=name)) if name in _NAMES:
                yield node.lineno, name
            case ast.ImportFrom(module=str(module), names=names) if module in _OF_MODULES:
                for alias in names:
                    if alias.name in _OF_MODULES[module]:
                        yield node.lineno, f"{module}.{alias.name}"


def _of_pipeline(call: ast.Call) -> bool:
    """Whether it is `read_bytes(address, length)`, of guest memory: that of a path takes nothing."""
    return len(call.args) > 1


def found() -> dict[str, list[str]]:
    return {
        name: lines
        for name, path in modules().items()
        if not name.startswith("iommu.files.")
        and (lines := [f"{path.name}:{line} {what}" for line, what in readers(path.read_text())])
    }


def test_no_other_module_reads() -> None:
    new = {name: lines for name, lines in found().items() if name not in ALLOWED}
    assert not new, "read it through iommu.files, or say in ALLOWED what it is if no user names it"


def test_the_list_is_no_longer_than_it_needs_to_be() -> None:
    assert set(ALLOWED) <= set(found())


@pytest.mark.parametrize(
    "source",
    [
        "import json\njson.loads(x)",
        "from json import loads",
        "path.read_bytes()",
        "Path(x).read_text('utf-8')",
        "open(x)",
        "path.open('rb')",
        "import sys\nx = sys.stdin.buffer",
        "import os\nos.open(x, 0)",
        "import zipfile\nzipfile.ZipFile(x)",
    ],
)
def test_a_reader_is_seen(source: str) -> None:
    assert list(readers(source))


@pytest.mark.parametrize("source", ["source.open(place, given)", "browser.open(url)", "pipeline.read_bytes(1, 2)"])
def test_other_calls_are_not_taken_for_readers(source: str) -> None:
    assert not list(readers(source))
