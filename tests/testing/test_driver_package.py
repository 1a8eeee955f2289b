"""examples/driver: installed beside vtdlab as its author would, its suite passes, and finds each broken driver."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent
DRIVER = ROOT / "examples" / "driver"


class Broken(NamedTuple):
    """A driver with one mistake: `right` in its text is replaced by `wrong`.

    `tests` are the tests that fail, on all units or on those named; `said` are lines that pytest prints.
    """

    right: str
    wrong: str
    tests: str
    said: tuple[str, ...]


BROKEN = {
    "no invalidation after unmap": Broken(
        "self.memory.write_u64(self.entry(table, address), 0)\n        self.invalidate_page(domain, address)\n",
        "self.memory.write_u64(self.entry(table, address), 0)\n",
        "test_unmap",
        (
            "assert DMA to host 0xb000 == blocked_by(LGN_2)",
            "  expected: 0x05 LGN.2 write without write permission (spec 7.1.3)",
            "  stale: IOTLB, domain 2, 0x6000: stale since the entry at 0x10b030 changed; "
            "owed: IOTLB invalidation of the page 0x6000 in domain 2",
        ),
    ),
    "invalidation of another domain": Broken(
        "self.drain | domain << 16, address",
        "self.drain | domain - 1 << 16, address",
        "test_unmap[virtual] test_unmap[Skylake-SP] test_map[virtual]",
        (
            "assert DMA to host 0xb000 == blocked_by(LGN_2)",
            "  stale: IOTLB, domain 2, 0x6000: stale since the entry at 0x10d030 changed; "
            "owed: IOTLB invalidation of the page 0x6000 in domain 2",
        ),
    ),
    "invalidation of another page": Broken(
        "self.drain | domain << 16, address))",
        "self.drain | domain << 16, address + 0x1000))",
        "test_unmap[virtual] test_unmap[Skylake-SP] test_map[virtual]",
        ("assert DMA to host 0xb000 == blocked_by(LGN_2)",),
    ),
    "no invalidation of what was not present": Broken(
        "        if self.caching_mode:\n            self.invalidate_page(domain, address)\n",
        "",
        "test_map[virtual]",
        (
            "assert DMA blocked by LGN.3 == reaches(0xa000)",
            "  stale: IOTLB, domain 1, 0x6000: stale since the entry at 0x108030 changed; "
            "owed: IOTLB invalidation of the page 0x6000 in domain 1",
        ),
    ),
    "page-selective invalidation without CAP.PSI": Broken(
        "cap >> 39 & 1",
        "1",
        "test_unmap[small]",
        (
            "TimeoutError: the unit does not answer",
            "queue: stopped at the descriptor at 0x50: RESERVED (FSTS.IQE, spec 6.5.2.10)",
        ),
    ),
    "AW of another number of levels": Broken(
        "domain << 8 | self.levels - 2",
        "domain << 8 | self.levels - 1",
        "test_map test_unmap",
        (
            "assert DMA blocked by LCT.4 == reaches(0x9010)",
            "  fault: 0x03 LCT.4 invalid context entry: translation type, address width or table pointer "
            "(spec 7.1.3), recorded",
            "  where: context entry at 0x105200 is 0x00000000000001020000000000104001",
            "    ContextEntry(DID=1, AW=2, SSPTPTR=0x0000000000104000, P=1)",
            "tables: context entry at 0x105200: AW=2, which this unit does not support (spec 9.3)",
        ),
    ),
    "a reserved bit of the context entry": Broken(
        "self.memory.write_u64(entry, table | PRESENT)",
        "self.memory.write_u64(entry, table | PRESENT | 1 << 4)",
        "test_map test_unmap",
        (
            "  fault: 0x0b LCT.3 reserved bit set in a present context entry (spec 7.1.3), recorded",
            "  where: context entry at 0x105200 is 0x00000000000001010000000000104011: reserved bits 0x10",
        ),
    ),
    "SNP without ECAP.SC": Broken(
        "host | READ |",
        "host | 1 << 11 | READ |",
        "test_map[small] test_map[virtual] test_unmap[small] test_unmap[virtual]",
        (
            "  fault: 0x0c LSL.2 reserved bit set in a present second-stage entry (spec 7.1.3), recorded",
            "  where: second-stage entry, level 1 at 0x107028 is 0x0000000000009803: reserved bits 0x800 (SNP)",
        ),
    ),
    "a page without R": Broken(
        "host | READ | (WRITE if writable else 0)",
        "host | (WRITE if writable else READ)",
        "test_map",
        (
            "assert DMA blocked by LGN.3 == reaches(0x9010)",
            "  fault: 0x06 LGN.3 read without read permission (spec 7.1.3), recorded",
        ),
    ),
    "no wait for GSTS": Broken(
        "        self.wait(lambda: self.registers.read32(GSTS) & bit)\n",
        "",
        "test_map test_unmap test_interrupt",
        ("  registers: GCMD.IRE was not seen to complete: read GSTS until IRES is 1 (spec 6.9)",),
    ),
    "GCMD without what is on": Broken(
        "self.registers.read32(GSTS) & ~ONE_SHOT | bit",
        "bit",
        "",
        (
            "TimeoutError: the unit does not answer",
            "registers: write to GCMD that gives several commands at once: GCMD.SRTP and GCMD.QIE (spec 11.4.4.1)",
        ),
    ),
    "IRTA.EIME without ECAP.EIM": Broken(
        "self.interrupts | 7",
        "self.interrupts | 7 | 1 << 11",
        "test_map[small] test_map[virtual] test_unmap[small] test_unmap[virtual] test_interrupt",
        (
            "  registers: write to IRTA with reserved bits 0x800 (spec 11.2)",
            "assert an interrupt to physical destination 0x200, vector 0x41, fixed, edge == delivers(vector 0x41)",
            "  expected: physical destination 0x2, vector 0x41, fixed, edge",
        ),
    ),
    "an interrupt for every requester": Broken(
        "1 << 18 | source_id",
        "source_id",
        "test_interrupt",
        (
            "assert an interrupt to physical destination 0x2, vector 0x41, fixed, edge == blocked_by(IR_26)",
            "  expected: 0x26 IR.26 source-id validation failed (spec 5.1.4)",
        ),
    ),
}

UNITS = ("small", "virtual", "Skylake-SP")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with vtdlab and the driver, installed by pip without a network."""
    target = tmp_path_factory.mktemp("installed")
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(ROOT), str(DRIVER)]
    subprocess.run(command, check=True, capture_output=True)
    return target


def run_suite(installed: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the driver's suite, from a directory that has nothing else in it or above it that pytest would read."""
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\naddopts = -p no:asyncio\n")
    (folder / "test_toy_driver.py").write_text((DRIVER / "test_toy_driver.py").read_text())
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "CI", "BUILD_N"))}
    # Modules beside the test come first on the path: a broken driver there, then what is installed.
    unused = [word for name in ("cacheprovider", "randomly") for word in ("-p", f"no:{name}")]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *unused, "-rfE"],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_suite_passes_on_the_driver(installed: Path, tmp_path: Path) -> None:
    assert (installed / "toy_driver.py").exists()
    ran = run_suite(installed, tmp_path)
    assert ran.returncode == 0, ran.stdout
    assert "9 passed" in ran.stdout


def test_the_installed_package_is_tested(installed: Path, tmp_path: Path) -> None:
    program = "import iommu.testing, toy_driver; print(iommu.testing.__file__, toy_driver.__file__)"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(place.startswith(str(installed)) for place in ran.stdout.split())


def test_the_documentation_shows_what_is_printed(installed: Path, tmp_path: Path) -> None:
    (shown,) = re.findall(
        r"^```\n(>  .*?)^```$", (ROOT / "docs" / "embedding.md").read_text(), re.MULTILINE | re.DOTALL
    )
    broken = BROKEN["no invalidation after unmap"]
    text = (DRIVER / "toy_driver.py").read_text().replace(broken.right, broken.wrong)
    (tmp_path / "toy_driver.py").write_text(text)
    assert shown in run_suite(installed, tmp_path).stdout


# Each runs pytest anew: `make test` takes one of each kind.
FAST = {
    "no invalidation after unmap",
    "no invalidation of what was not present",
    "page-selective invalidation without CAP.PSI",
    "SNP without ECAP.SC",
    "no wait for GSTS",
    "an interrupt for every requester",
}


@pytest.mark.parametrize(
    "name", [each if each in FAST else pytest.param(each, marks=pytest.mark.slow) for each in BROKEN]
)
def test_a_broken_driver_is_found(name: str, installed: Path, tmp_path: Path) -> None:
    broken, text = BROKEN[name], (DRIVER / "toy_driver.py").read_text()
    assert text.count(broken.right) == 1
    (tmp_path / "toy_driver.py").write_text(text.replace(broken.right, broken.wrong))
    ran = run_suite(installed, tmp_path)
    assert ran.returncode == 1, ran.stdout
    failed = {line.split("::")[1].split(" - ")[0] for line in ran.stdout.splitlines() if line.startswith("FAILED")}
    expected = {test for each in _names(broken.tests) for test in each}
    assert failed == expected
    printed = {line.removeprefix("E").removeprefix("       ") for line in ran.stdout.splitlines()}
    for line in broken.said:
        assert line in {each.removeprefix("AssertionError: ") for each in printed}, ran.stdout


def _names(tests: str) -> list[list[str]]:
    """The ids of tests: those named without a unit run on each."""
    spaced = tests.replace("] ", "]\n").replace(" test", "\ntest").splitlines() if tests else []
    return [[each] if "[" in each else [f"{each}[{unit}]" for unit in UNITS] for each in spaced]
