"""QEMUs that die, hang, lie or answer nonsense: each is the result of its scenario, and the run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from iommu import Access, Capabilities, RemappingUnit, VtdError
from iommu.registers import CCMD, FRCD, FSTS, GSTS, RTADDR
from qemu.vtd.conformance import machines as machines_module
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.judge import Result, Verdict
from qemu.vtd.conformance.runner import conform
from qemu.vtd.conformance.scenario import Scenario, catalogue
from qemu.vtd.conformance.setups import SNOOPING, WIDE, Setup
from qemu.vtd.devices import Rocker
from qemu.vtd.errors import QemuDied
from qemu.vtd.platform import ModelPlatform
from qemu.vtd.probe import Build
from qemu.vtd.qemu_platform import QemuPlatform
from tests.qemu_vtd.remains import nothing_remains
from tests.qemu_vtd.test_qemu_probe import fake_qemu

EXPECT = ("A write 0x5010 -> 0x800010", "FSTS 0")


def writes(bench: Bench) -> None:
    bench.start()
    bench.write("A", 0x5010)


def plain(name: str, setup: Setup = WIDE) -> Scenario:
    return Scenario(f"test.{name}", "1", "A write.", writes, EXPECT, setup=setup, chapter="test")


def during(name: str, act: Callable[[QemuPlatform], object]) -> Scenario:
    """The same, but something happens to QEMU after the write."""

    def stimulus(bench: Bench) -> None:
        writes(bench)
        if isinstance(bench.platform, QemuPlatform):
            act(bench.platform)
            bench.driver.status()

    return Scenario(f"test.{name}", "1", "A write.", stimulus, EXPECT, chapter="test")


def run(build: Build, *scenarios: Scenario) -> list[Result]:
    with nothing_remains():
        return conform(scenarios, build.path).results


@pytest.mark.parametrize(
    ("act", "said", "why"),
    [
        (
            lambda platform: os.kill(platform.machine.pid, signal.SIGSEGV),
            "QEMU ended by SIGSEGV",
            "QEMU ended by SIGSEGV",
        ),
        (
            lambda platform: platform.machine.qtest.exchange(["outb 0x10000 0x0"]),
            "QEMU ended by SIGABRT",
            "assertion failed",
        ),
        (lambda platform: platform.machine.qmp("quit"), "QEMU ended, status 0", "QEMU ended, status 0"),
        (lambda platform: platform.machine.qtest.exchange(["no such command"]), "qtest", "no such command"),
        (lambda platform: platform.machine.qmp("no-such-command"), "QMP no-such-command", "QMP no-such-command"),
        (lambda platform: {"a": 1}["missing"], "KeyError: 'missing'", "test_conformance_bad_qemus.py, line"),
    ],
    ids=["killed", "aborts", "exits", "refuses", "refuses QMP", "unforeseen"],
)
def test_what_ends_a_scenario_is_its_outcome_and_the_run_goes_on(
    build: Build, act: Callable[[QemuPlatform], object], said: str, why: str
) -> None:
    first, broken, last = run(build, plain("first"), during("broken", act), plain("last"))
    assert (first.verdict, last.verdict) == (Verdict.AGREES, Verdict.AGREES)
    assert broken.verdict is Verdict.DIFFERS
    assert broken.qemu is not None
    assert broken.qemu[0] == EXPECT[0]
    assert broken.qemu[-1].startswith(f"cut short: {said}")
    assert why in broken.why


def test_a_qemu_whose_unit_does_not_do_what_a_driver_waits_for_is_only_reset(build: Build) -> None:
    """Starting a QEMU takes longer than all else, and every scenario may end in this way."""
    pids = []

    def act(platform: QemuPlatform) -> None:
        pids.append(platform.machine.pid)
        raise VtdError("GSTS.TES did not become 1")

    one, two, last = run(build, during("one", act), during("two", act), plain("last"))
    assert one.qemu == two.qemu == (EXPECT[0], "cut short: GSTS.TES did not become 1")
    assert last.verdict is Verdict.AGREES
    assert pids[0] == pids[1]


def test_a_qemu_that_hangs_is_replaced(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines_module, "_ANSWER_SECONDS", 1.0)

    def stop(platform: QemuPlatform) -> None:
        os.kill(platform.machine.pid, signal.SIGSTOP)

    hung, last = run(build, during("hung", stop), plain("last"))
    assert hung.qemu == (EXPECT[0], "cut short: QEMU did not answer")
    assert "no answer from QEMU within 1 s" in hung.why
    assert last.verdict is Verdict.AGREES


def test_a_qemu_that_always_hangs_is_given_up(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines_module, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(machines_module, "_NEXT_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(machines_module, "_HANGS", 2)

    def stop(platform: QemuPlatform) -> None:
        os.kill(platform.machine.pid, signal.SIGSTOP)

    results = run(build, *[during(str(number), stop) for number in range(4)])
    assert [result.verdict for result in results] == [Verdict.DIFFERS] * 4
    assert [result.qemu is None for result in results] == [False, False, True, True]
    assert results[3].why == "not run: before, QEMU did not answer 2 times"


def test_a_qemu_that_dies_between_two_scenarios_is_named_with_both(build: Build) -> None:
    def kill_later(bench: Bench) -> None:
        writes(bench)
        if isinstance(bench.platform, QemuPlatform):
            pid = bench.platform.machine.pid
            right = bench.platform.machine.reset

            def killed() -> None:
                os.kill(pid, signal.SIGKILL)
                right()

            bench.platform.machine.reset = killed  # type: ignore[method-assign]

    killing = Scenario("test.killing", "1", "A write.", kill_later, EXPECT, chapter="test")
    first, second, third = run(build, killing, plain("second"), plain("third"))
    assert first.verdict is Verdict.AGREES
    assert second.verdict is Verdict.DIFFERS
    assert second.qemu == EXPECT
    assert second.why == "in the reset after test.killing: QEMU ended by SIGKILL"
    assert third.verdict is Verdict.AGREES


def test_a_stray_write_is_part_of_the_outcome(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noticed anywhere in memory, and the scenario goes on."""
    right = Rocker.dma_write

    def and_elsewhere(device: Rocker, address: int, length: int) -> None:
        right(device, address, length)
        device.host.memory.write_u64(0x912340, 0x55)

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, 0x5000, 0x800000)
        bench.context("B", table)
        bench.turn_on()
        bench.write("B", 0x5010)
        bench.write("B", 0x5020)

    monkeypatch.setattr(Rocker, "dma_write", and_elsewhere)
    expect = ("B write 0x5010 -> 0x800010", "B write 0x5020 -> 0x800020", "FSTS 0")
    (result,) = run(build, Scenario("test.stray", "1", "Writes.", stimulus, expect, chapter="test"))
    assert result.verdict is Verdict.DIFFERS
    assert result.qemu == (expect[0], "changed 0x912340 from 0x0 to 0x55", *expect[1:])


def test_a_large_stray_write_is_not_listed_in_full(build: Build) -> None:
    with QemuPlatform(build.path, {"aw-bits": 48}) as platform:
        platform.reset()
        bench = Bench(platform)
        bench.start()
        device = platform._devices["B"]
        device.dma_write = lambda *_: platform.memory.write(0x900000, b"x" * 0x2000)  # type: ignore[method-assign]
        bench.write("B", 0x5000)
        lines = bench.log()
    assert lines[0] == "B write 0x5000 -> blocked"
    assert len(lines) == 1 + 8 + 1
    assert lines[-1] == "changed 1016 more words"


class Double(ModelPlatform):
    """The model in the place of a QEMU, with a register that misbehaves."""

    fault = ""

    def __init__(self, build: Build) -> None:
        super().__init__(WIDE.capabilities)
        self.machine = self
        self.version = build.version

    def __enter__(self) -> Double:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def read_register(self, offset: int, size: int) -> int:
        value = super().read_register(offset, size)
        match self.fault, offset:
            case "status", GSTS.offset:
                return 0
            case "busy", CCMD.offset:
                return value | CCMD.ICC.mask
            case "record", FSTS.offset:
                return FSTS.make(PPF=1)
            case "record", 0x220:
                return 0x5000
            case "record", 0x228:
                return FRCD.make(F=1, AT=3, FR=2, SID=0x20, T1=1) >> 64
        return value


@pytest.mark.parametrize(
    ("fault", "last"),
    [
        ("status", "cut short: GSTS.RTPS did not become 1"),
        ("busy", "cut short: CCMD.ICC did not become 0"),
        ("record", "FSTS PPF"),
    ],
)
def test_a_unit_that_misbehaves(build: Build, monkeypatch: pytest.MonkeyPatch, fault: str, last: str) -> None:
    monkeypatch.setattr(Double, "fault", fault)
    monkeypatch.setattr(machines_module, "QemuPlatform", lambda *_: Double(build))
    one, two = run(build, plain("one"), plain("two"))
    assert (one.verdict, two.verdict) == (Verdict.DIFFERS, Verdict.DIFFERS)
    assert one.qemu is not None
    assert one.qemu[-1] == last
    if fault == "record":
        assert one.qemu[1] == "fault 0x02 A 0x5000 AT 3 (reserved)"


def test_a_capability_that_nobody_expects_is_a_finding(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Double(build)
    other.capabilities = Capabilities(domain_id_bits=8)
    monkeypatch.setattr(machines_module, "QemuPlatform", lambda *_: other)
    (result,) = run(build, plain("one"))
    assert result.verdict is Verdict.DIFFERS
    assert result.why == "the unit has domain_id_bits=8, not 16"
    assert result.qemu == EXPECT


def test_a_property_that_this_qemu_does_not_have_is_not_applicable(build: Build) -> None:
    other = Setup("other", Capabilities(), (("aw-bits", "48"), ("no-such-thing", "on")))
    one, two = run(build, plain("one", other), plain("two"))
    assert (one.verdict, one.qemu) == (Verdict.NOT_APPLICABLE, None)
    assert one.why == "its intel-iommu has no property no-such-thing"
    assert two.verdict is Verdict.AGREES


REFUSING = """#!/bin/sh
case "$*" in *snoop-control=on*) echo "intel-iommu: no such unit today" >&2; exit 1;; esac
exec {qemu} "$@"
"""


@pytest.mark.parametrize(("refused", "verdict"), [("", Verdict.DIFFERS), ("no such unit", Verdict.NOT_APPLICABLE)])
def test_a_unit_that_this_qemu_refuses(
    build: Build, script: Callable[[str], str], refused: str, verdict: Verdict
) -> None:
    other = Setup("other", SNOOPING.capabilities, SNOOPING.properties, refused=refused)
    wrapper = script(REFUSING.format(qemu=build.path))
    with nothing_remains():
        report = conform([plain("other", other), plain("wide")], wrapper)
    one, two = report.results
    assert (one.verdict, one.qemu) == (verdict, None)
    assert "no such unit" in one.why
    assert two.verdict is Verdict.AGREES


# Answers the probe itself, and is a real QEMU otherwise.
LYING = """#!/bin/sh
case "$*" in *"-M none"*) exec {fake} "$@";; esac
exec {qemu} "$@"
"""


def lying(build: Build, tmp_path: Path, devices: list[str]) -> str:
    """A wrapper around QEMU that says it is 98.7, while its newest machine is another."""
    fake = tmp_path / "fake"
    machines = [{"name": build.machine, "alias": "q35"}]
    fake.write_text(fake_qemu((98, 7, 0), ["intel-iommu", *devices], sorted(build.iommu_properties), machines))
    wrapper = tmp_path / "qemu"
    wrapper.write_text(LYING.format(fake=fake, qemu=build.path))
    for path in (fake, wrapper):
        path.chmod(0o700)
    return str(wrapper)


def test_a_qemu_that_lies_about_its_version_is_named(build: Build, tmp_path: Path) -> None:
    report = conform([plain("one")], lying(build, tmp_path, ["edu", "rocker"]))
    assert report.version == (98, 7, 0)
    assert report.doubts == (f"it says that it is QEMU 98.7.0, but its newest machine is {build.machine}",)
    assert report.passed


def vtd(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "iommu.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])


def test_other_qemus_are_run_and_every_file_is_written(build: Build, tmp_path: Path) -> None:
    """One QEMU is none, one has no device; the third is run."""
    junit, html, scenario = tmp_path / "junit.xml", tmp_path / "report.html", catalogue()[0].id
    lacking = lying(build, tmp_path, ["edu"])
    ran = vtd(
        *("conform", "--only", scenario, "--json", "--junit", str(junit), "--html", str(html)),
        *("--qemu", "/bin/true", "--qemu", lacking, "--qemu", build.path),
    )
    assert ran.returncode == 2
    document = json.loads(ran.stdout)
    assert not document["passed"]
    assert [each["qemu"] for each in document["unusable"]] == ["/bin/true", lacking]
    assert document["unusable"][1]["why"] == "QEMU 98.7.0 has no device rocker"
    assert [each["passed"] for each in document["runs"]] == [True]
    assert ran.stderr.splitlines()[1] == "vtd: QEMU 98.7.0 has no device rocker"
    suites = ElementTree.parse(junit).getroot()
    assert [suite.get("errors", "0") for suite in suites] == ["0", "1", "1"]
    assert "QEMU 98.7.0 has no device rocker" in html.read_text()


DYING = """#!/bin/sh
case "$*" in *"-M none"*) exec {qemu} "$@";; esac
kill -SEGV $$
"""


def test_a_qemu_that_never_starts_is_unusable(build: Build, script: Callable[[str], str]) -> None:
    ran = vtd("conform", "--only", catalogue()[0].id, "--qemu", script(DYING.format(qemu=build.path)))
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr == "vtd: QEMU ended by SIGSEGV\n"


def test_the_model_can_predict_that_qemu_ends() -> None:
    """So can a quirk: a QEMU that aborts at a register write departs from the specification like any other."""

    class Aborting(RemappingUnit):
        def mmio_write(self, offset: int, value: int, size: int) -> None:
            if offset == RTADDR.offset:
                raise VtdError(QemuDied(-signal.SIGABRT).how)
            super().mmio_write(offset, value, size)

    seen = plain("one").run(ModelPlatform(WIDE.capabilities, unit=Aborting))
    assert seen == ("cut short: QEMU ended by SIGABRT",)


def test_a_read_that_was_cut_short_is_not_called_blocked() -> None:
    bench = Bench(ModelPlatform(Capabilities()))
    bench.start()
    bench.read("A", 0x5000)
    bench.write("A", 0x5010)
    assert bench.log_so_far() == ("A read 0x5000 -> unknown", "A write 0x5010 -> 0x800010")
    assert bench.platform.dma("A", Access.READ, 0x5000).host == 0x800000
