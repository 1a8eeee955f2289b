"""The plugin in pytest runs of its own: fixtures, what a failed test prints, and what it costs others: nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent.parent
EMBEDDING = (ROOT / "docs" / "embedding.md").read_text()


@pytest.fixture(autouse=True)
def elsewhere(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are errors; a long explanation is cut short as on a terminal, not printed whole as in CI."""
    pytester.makeini("[pytest]\nfilterwarnings = error\naddopts = -p no:asyncio")
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)


def test_the_first_test_of_the_documentation(pytester: pytest.Pytester) -> None:
    """It has five lines, and passes on the driver in examples/."""
    (text,) = re.findall(r"^```py\n(.*?)^```$", EMBEDDING, re.MULTILINE | re.DOTALL)
    assert len(text.split("\n\n\n")[1].strip().splitlines()) == 5
    pytester.makepyfile(test_first=text, toy_driver=(ROOT / "examples" / "driver" / "toy_driver.py").read_text())
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_every_fixture_is_documented(pytester: pytest.Pytester) -> None:
    listed = pytester.runpytest_subprocess("--fixtures").stdout.str()
    fixtures = set(re.findall(r"^(vtd_\w+) ", listed, re.MULTILINE))
    assert fixtures == set(re.findall(r"^\| `(vtd_\w+)` \|", EMBEDDING, re.MULTILINE))
    assert "no docstring" not in listed


def test_a_failed_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from iommu import Access, SourceId
        from iommu.testing import assert_clean, reaches

        def test_translation(vtd_registers, vtd_device):
            vtd_registers.write64(0x20, 0x1000)
            for command in (1 << 30, 1 << 31):
                vtd_registers.write32(0x18, command)
                assert vtd_registers.read32(0x1C) & command
            assert vtd_device(SourceId(0, 4, 0)).dma(0x5000, Access.READ) == reaches(0x9000)

        def test_conduct(vtd_unit, vtd_registers):
            vtd_registers.write32(0x18, 1)
            assert_clean(vtd_unit)
        """
    )
    ran = pytester.runpytest_subprocess()
    ran.assert_outcomes(failed=2)
    ran.stdout.fnmatch_lines(
        [
            "E       assert DMA blocked by LRT.2 == reaches(0x9000)",
            "E         fault: 0x01 LRT.2 root entry not present (spec 7.1.3), recorded",
            "E         where: root entry at 0x1000 is 0x00000000000000000000000000000000",
            "E         walk:",
            "E           request  translation is on, legacy mode, root table 0x1000",
            "*- vtd_unit at the end of the test -*",
            "fault: 0x01 LRT.2 root entry not present (spec 7.1.3): read of 00:04.0, address 0x5000",
            "E       AssertionError: the unit is not clean:",
            "E         registers: write to GCMD with reserved bits 0x1 (spec 11.2)",
            "",
            "test_a_failed_test.py:*: AssertionError",
            "=*",
        ],
        consecutive=False,
    )
    assert ran.stdout.str().count("vtd_unit at the end of the test") == 1


def test_a_driver_that_fails_to_start(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def driver(vtd_registers):
            vtd_registers.write32(0x30, 0)
            raise TimeoutError("no answer")

        def test_driver(driver):
            pass

        def test_other():
            assert False
        """
    )
    ran = pytester.runpytest_subprocess()
    ran.assert_outcomes(errors=1, failed=1)
    ran.stdout.fnmatch_lines(
        [
            "*- vtd_unit at the end of the test -*",
            "registers: write of offset 0x30, where this unit has no register (spec 11.4)",
        ]
    )
    assert ran.stdout.str().count("vtd_unit at the end of the test") == 1


def test_fixtures_can_be_replaced(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from iommu import Capabilities, FlatMemory, Policy

        @pytest.fixture
        def vtd_memory():
            return FlatMemory(1 << 20)

        @pytest.fixture
        def vtd_policy():
            return Policy(compress_faults=True)

        @pytest.mark.parametrize("vtd_capabilities", [Capabilities(caching_mode=True)])
        def test_replaced(vtd_unit, vtd_memory, vtd_registers):
            assert vtd_unit.memory is vtd_memory and vtd_memory.size == 1 << 20
            assert vtd_unit.policy.compress_faults
            assert vtd_registers.read64(8) >> 7 & 1

        def test_default(vtd_registers):
            assert not vtd_registers.read64(8) >> 7 & 1
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_devices_and_registers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from iommu import SourceId

        def test_devices(vtd_device, vtd_unit):
            nic = vtd_device(SourceId(0, 4, 0))
            assert vtd_device(SourceId(0, 4, 0)) is nic
            assert vtd_device(SourceId(0, 5, 0)) is not nic
            assert nic.unit is vtd_unit and not nic.uses_ats

        def test_registers(vtd_registers):
            vtd_registers.write64(0x20, 0x1_0000_2000)
            vtd_registers.write32(0x20, 0x3000)
            assert vtd_registers.read64(0x20) == 0x1_0000_3000
            assert vtd_registers.read32(0x24) == 1
        """
    )
    pytester.runpytest_subprocess("-n", "2").assert_outcomes(passed=2)


def test_it_costs_nothing_where_it_is_not_used(pytester: pytest.Pytester) -> None:
    """Neither the model nor what it depends on is imported, even by a failed comparison."""
    pytester.makeconftest(
        """
        import sys

        def pytest_sessionfinish():
            ours = {"iommu", "qemu", "construct", "typer", "rich", "elftools"}
            print("imported", *sorted(name for name in sys.modules if name.split(".")[0] in ours))
        """
    )
    pytester.makepyfile("def test_other():\n    assert [1] == [2]")
    ran = pytester.runpytest_subprocess("-s")
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["*imported iommu iommu.lazy iommu.testing iommu.testing.plugin"])


def test_only_the_plugin_needs_pytest() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None; import iommu.testing; "
        "print(*(getattr(iommu.testing, name).__name__ for name in iommu.testing.__all__))"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "assert_clean" in ran.stdout
