"""A standard descriptor that the parent has closed is no other file: every command behaves, and says what it lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from iommu.cli import main
from iommu.dmar.pci import PciAddress, PciFunction, PciTree
from iommu.snapshot import save
from tests.dmar import hand
from tests.engine.living import busy
from tests.every_command import commands

CASE = Path(__file__).parents[1] / "fixtures" / "fuzz-cases" / "root-entry-cleared.json"
RUNS: dict[str, str] = {
    "dmar show": "table",
    "dmar lint": "table",
    "dmar topology": "table --pci pci --save saved",
    "dmar survey": "table table --csv --html page",
    "dmar diff": "table other",
    "dmar build": "json -o built",
    "explain": "log",
    "walk": "unit.vtd --request 00:04.0",
    "reach": "unit.vtd --html page",
    "replay-trace": "trace --snapshot unit.vtd --html page",
    "snapshot": "unit.vtd again.vtd",
    "inspect": "unit.vtd --html page",
    "conform": "--qemu none --html page",
    "quirks": "",
    "fuzz": "--qemu none",
    "replay": "case --python",
    "vm": "--topology list",
    "qemu list": "",
    "qemu install": "-",
    "guest run": "--variant none",
    "guest shell": "--variant none",
    "guest variants": "--qemu none",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("closed")
    table = hand.table(hand.drhd(0xFED90000, hand.scope(1, 0, (2, 0))))
    (folder / "table").write_bytes(table)
    (folder / "other").write_bytes(hand.table(hand.drhd(0xFED91000, hand.scope(1, 0, (2, 0)))))
    (folder / "json").write_text(json.dumps({"header": {}, "structures": []}))
    (folder / "pci").write_text(json.dumps(PciTree([PciFunction(PciAddress(0, 0, 2, 0))]).to_plain()))
    (folder / "log").write_text("DMAR: [DMA Read] Request device [00:02.0] fault addr 1000 [fault reason 06] x\n")
    (folder / "trace").write_text("source_id,address,write\n00:04.0,0x5000,1\n")
    shutil.copy(CASE, folder / "case")
    save(busy().unit, folder / "unit.vtd")
    return folder


def start(words: list[str], folder: Path, *closed: int) -> subprocess.Popen[bytes]:
    """`vtd WORDS` as a process that begins without some of its descriptors."""
    command = [sys.executable, "-m", "iommu.cli.main", *words]
    shell = ["sh", "-c", " ".join(['exec "$@"', *(f"{each}>&-" for each in closed)]), "sh", *command]
    environment = os.environ | {"PYTHONPATH": str(Path(main.__file__).parents[2])}
    return subprocess.Popen(
        shell,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("name", commands())
def test_a_closed_descriptor(name: str, folder: Path) -> None:
    words = [*name.split(), *RUNS[name].split()]
    running = [start(words, folder, *closed) for closed in ((), (1,), (0, 2))]
    (output, errors), no_output, silent = (each.communicate() for each in running)
    status = running[0].returncode
    assert b"Traceback" not in errors and b"Bad file descriptor" not in errors
    assert (running[2].returncode, *map(_steady, silent)) == (status, _steady(output), b"")
    if output:
        assert no_output == (b"", errors + b"vtd: standard output: Bad file descriptor\n")
        assert running[1].returncode == 2
    else:
        assert (running[1].returncode, no_output) == (status, (b"", errors))
    for file in ("page", "saved", "built", "again.vtd"):  # nothing that was printed is in a file
        if (folder / file).exists():
            assert (folder / file).stat().st_size > 40
            assert b"Bad file descriptor" not in (folder / file).read_bytes()
            (folder / file).unlink()


def _steady(text: bytes) -> bytes:
    """Without how long it took."""
    return text.split(b"; read in")[0]


def test_every_command_is_covered() -> None:
    assert set(RUNS) == set(commands())


def test_reading_from_a_closed_input_is_no_empty_file(folder: Path) -> None:
    for words in (["dmar", "show", "-"], ["explain", "-"], ["dmar", "build", "-", "-o", "built"]):
        done = start(words, folder, 0)
        _, errors = done.communicate()
        assert done.returncode == 2
        assert errors.startswith(b"vtd: ") and errors.endswith(b": Bad file descriptor\n")


@pytest.mark.parametrize("words", [["quirks"], ["quirks", "--json"], ["--help"], ["explain", "0x05"]])
def test_a_full_disk_is_said_once(words: list[str]) -> None:
    command = [sys.executable, "-m", "iommu.cli.main", *words]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "vtd: standard output: No space left on device\n")


def test_a_table_for_a_closed_output(folder: Path) -> None:
    done = start(["dmar", "build", "json", "-o", "-"], folder, 1)
    assert done.communicate() == (b"", b"vtd: standard output: Bad file descriptor\n")
    assert done.returncode == 2


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU on PATH")
def test_a_qemu_runs_without_descriptors(folder: Path) -> None:
    """Its shared memory and its sockets would get the free numbers, and QEMU would have them closed."""
    words = ["conform", "--only", "cache.iotlb.stale", "--junit", "junit"]
    running = [start(words, folder, *closed) for closed in ((0,), (2,), (0, 1, 2))]
    ends = [each.communicate() for each in running]
    assert [each.returncode for each in running] == [0, 0, 2]
    assert ends[0][1] == b"" and ends[1][1] == b""
    assert (folder / "junit").read_bytes().startswith(b"<?xml")
