"""`vtd vm --check`: the rules find what QEMU refuses, and nothing else; QEMU's own message is the witness."""

from __future__ import annotations

import json
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from iommu.dmar.pci import PciAddress
from iommu.registers import GCMD, GSTS
from qemu.vtd import Machine
from qemu.vtd.private_cache import PROGRAM
from qemu.vtd.probe import Build, version_text
from qemu.vtd.vm import Plan, Vm, check
from qemu.vtd.vm.check import Situation
from qemu.vtd.vm.plan import unit_properties
from qemu.vtd.vm.vm import refusal
from qemu.vtd.vm.words import Device, parse
from tests.command import vtd

MIB = 1 << 20
DEVICE = PciAddress(0, 3, 0, 0)


def can_use_kvm() -> bool:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError:
        return False
    return True


def found(plan: Plan, build: Build) -> list[str]:
    return [each.what for each in check.check(plan, build)]


@pytest.mark.parametrize(
    "unit",
    [
        "aw-bits=39",
        "aw-bits=48",
        "aw-bits=40",
        "aw-bits=57",
        "aw-bits=x",
        "eim=on",
        "eim=on,intremap=off",
        "intremap=off",
        "scalable-mode",
        "scalable-mode=on,aw-bits=39",
        "flts=on",
        "scalable-mode=on,flts=on",
        "scalable-mode=on,fsts=on,aw-bits=48",
        "scalable-mode=on,flts=on,aw-bits=39",
        "scalable-mode=on,flts=off,aw-bits=39",
        "pasid-mode=on",
        "scalable-mode=on,pasid-mode=on",
        "pasid-bits=20",
        "scalable-mode=on,pasid-bits=20",
        "scalable-mode=on,pasid-bits=21",
        "scalable-mode=on,svm=on",
        "scalable-mode=on,flts=on,pasid-bits=8,svm=on",
        "scalable-mode=on,flts=on,svm=on,device-iotlb=on",
        "svm=on",
        "no-such-property=1",
        "dma-drain=on",
        "x-scalable-mode=on",
        "caching-mode=on,snoop-control=on",
    ],
)
def test_what_qemu_refuses_of_a_unit_is_found_and_nothing_else(qemu: Build, unit: str) -> None:
    # Without a device that has ATS, device-iotlb=on alone would be found, which QEMU takes.
    plan = Plan("none", unit_properties(unit), extra=("-device", "e1000,id=a"))
    of_rules = [each for each in found(plan, qemu) if "no device has ATS" not in each]
    said = refusal(plan, qemu)
    assert bool(of_rules) == (said is not None), (of_rules, said)


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ("aw-bits=40", r"aw-bits are: 39, 48"),
        ("eim=on,intremap=off", r"eim=on cannot be selected without intremap=on"),
        ("no-such-property=1", r"Property 'intel-iommu.no-such-property' not found"),
    ],
)
def test_the_reason_is_qemu_s(qemu: Build, unit: str, message: str) -> None:
    said = refusal(Plan("none", unit_properties(unit)), qemu)
    assert said is not None and re.search(message, said)


def test_more_than_255_processors(qemu: Build) -> None:
    """From 9.0 on QEMU takes them without eim, and the guest cannot use those above 255."""
    extra = ("-cpu", "max", "-smp", "256")
    plan = Plan("none", {"eim": "on"}, extra=extra)
    said = refusal(plan, qemu)
    if qemu.version < check.X2APIC_WITHOUT_KVM:
        assert said is not None and "requires" in said
        assert any("256 processors" in each for each in found(plan, qemu))
        assert found(Plan("none", extra=extra), qemu)
    else:
        assert said is None
        assert found(plan, qemu) == []
        assert found(Plan("none", extra=extra), qemu) == [
            "-smp: 256 processors: without eim=on, interrupts reach the first 255 only"
        ]
    assert found(Plan("none", extra=("-smp", "255")), qemu) == []


@pytest.mark.skipif(not can_use_kvm(), reason="no KVM")
@pytest.mark.parametrize(
    ("unit", "irqchip"),
    [
        ("intremap=on", "on"),
        ("intremap=on", "split"),
        ("eim=on", "on"),
        ("eim=on,intremap=on", "on"),
        ("eim=on", "split"),
        ("intremap=off", "on"),
    ],
)
def test_interrupts_under_kvm(qemu: Build, unit: str, irqchip: str) -> None:
    plan = Plan(
        "none", unit_properties(unit), accel="kvm", extra=("-M", f"kernel-irqchip={irqchip}", "-cpu", "qemu64")
    )
    said, of_rules = refusal(plan, qemu), found(plan, qemu)
    if said is not None and not re.search("intremap|Interrupt Remapping|eim", said):
        pytest.skip(f"KVM does not work here: {said}")
    assert bool(of_rules) == (said is not None), (of_rules, said)


def test_a_device_that_the_qemu_does_not_have(qemu: Build) -> None:
    for model in ("rocker", "pcie-root-port"):
        without = Build(**{**vars(qemu), "devices": qemu.devices - {model}})
        (line,) = found(Plan("ports"), without)
        assert line == f"topology ports: QEMU {version_text(qemu.version)} has no device {model}"
    assert check.missing_models(Plan("ports"), qemu) == []


def test_names_by_version(qemu: Build) -> None:
    """In the user's own -device, names stay as they are."""
    new = "scalable-mode" in qemu.iommu_properties
    wrong, right = ("x-scalable-mode", "scalable-mode") if new else ("scalable-mode", "x-scalable-mode")
    plan = Plan("none", None, extra=("-device", f"intel-iommu,{wrong}=on"))
    (finding,) = check.check(plan, qemu)
    assert finding.what.startswith(f"intel-iommu {wrong}: QEMU")
    assert finding.remedy == f"there it is called {right}"
    said = refusal(plan, qemu)
    assert said is not None and f"{wrong}' not found" in said
    assert found(Plan("none", None, extra=("-device", f"intel-iommu,{right}=on")), qemu) == []


@pytest.mark.parametrize("translating", [True, False])
def test_without_dma_translation_qemu_ignores_the_enable_bit(qemu: Build, translating: bool) -> None:
    """The rule for dma-translation=off: QEMU starts, and never translates."""
    with Machine(qemu.path, iommu={"dma-translation": translating}) as machine:
        machine.qtest.write(machine.register_base + GCMD.offset, GCMD.make(TE=1), 4)
        enabled = GSTS.TES.get(machine.qtest.read(machine.register_base + GSTS.offset, 4))
    assert bool(enabled) == translating
    plan = Plan("plain", {"dma-translation": "on" if translating else "off"})
    assert found(plan, qemu) == (
        [] if translating else ["intel-iommu dma-translation=off: the DMA of edu, rocker is never translated"]
    )


# Rules for assigned devices: QEMU comes to them only with a physical device. They name their source.


@pytest.mark.parametrize(
    ("message", "since", "until"),
    [
        ("to enable device assignment with|Device assignment is not allowed without", (0,), (99,)),
        ("Snoop Control with vhost or VFIO is not supported", (0,), (99,)),
        ("host device is uncompatible with stage-1 translation", (10, 0), (10, 1)),
        ("Need IOMMUFD backend when f[ls]ts=on", (11, 0), (99,)),
    ],
)
def test_the_program_has_the_messages(
    qemu: Build, message: str, since: tuple[int, ...], until: tuple[int, ...]
) -> None:
    if not since <= qemu.version < until:
        pytest.skip("of other versions")
    with Vm(Plan("none"), qemu.path) as vm:
        # Those of other suites are started by a loader of their own, which is then /proc/PID/exe.
        mapped = re.search(rf"/\S*/{PROGRAM}$", Path(f"/proc/{vm.pid}/maps").read_text(), re.MULTILINE)
    assert mapped is not None
    program = Path(mapped[0]).read_bytes()
    assert re.search(message.encode(), program)


@pytest.fixture
def assigned(build: Build) -> Iterator[Plan]:
    """A plan with an assigned device among the user's own options: nothing is looked up in this machine."""
    yield Plan("none", extra=("-device", f"vfio-pci,host={DEVICE}"))


def rules(plan: Plan, build: Build, limit: int | None = None) -> list[str]:
    situation = Situation(plan, build, parse(plan.words(build)), limit)
    return [each.what for rule in check.RULES for each in rule(situation)]


def test_caching_mode(build: Build, assigned: Plan) -> None:
    assert rules(assigned, build) == ["vfio-pci: without caching mode, QEMU is not told what the guest maps"]
    assert rules(Plan("none", {"caching-mode": "on"}, extra=assigned.extra), build) == []
    assert rules(Plan("none", None, extra=assigned.extra), build) == []
    assert rules(Plan("none", host_devices=(DEVICE,)), build) == [], "it is set where devices are assigned"
    assert rules(Plan("none", {"caching-mode": "off"}, host_devices=(DEVICE,)), build) != []


def test_snoop_control(build: Build) -> None:
    plan = Plan("none", {"snoop-control": "on"}, host_devices=(DEVICE,))
    assert rules(plan, build) == ["vfio-pci: QEMU refuses it with snoop-control=on"]


def test_a_first_stage_with_an_assigned_device(qemu: Build) -> None:
    plan = Plan("none", {"scalable-mode": "on", "flts": "on"}, host_devices=(DEVICE,))
    lines = [each for each in rules(plan, qemu) if each.startswith("vfio-pci")]
    assert len(lines) == 1 and ("IOMMUFD" in lines[0]) == (qemu.version >= (11, 0))


@pytest.mark.parametrize(
    ("limit", "devices", "unit", "enough"),
    [
        (None, 2, {}, True),
        (512 * MIB, 1, {}, True),
        (512 * MIB - 1, 1, {}, False),
        (512 * MIB, 2, {}, False),
        (1024 * MIB, 2, {}, True),
        (512 * MIB, 2, None, True),
        (8 * MIB, 0, {}, True),
    ],
)
def test_lock_limit(build: Build, limit: int | None, devices: int, unit: dict[str, str] | None, enough: bool) -> None:
    """Behind a remapping unit each device pins all memory; without one they share an address space."""
    addresses = tuple(PciAddress(0, 3, number, 0) for number in range(devices))
    lines = rules(Plan("none", unit, host_devices=addresses), build, limit)
    assert bool(lines) != enough


def test_the_limit_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    status = Path("/proc/self/status").read_text()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4096, 8192))
    monkeypatch.setattr(Path, "read_text", lambda _: re.sub(r"CapEff:.*", "CapEff:\t0000000000000000", status))
    assert check.lock_limit() == 4096
    monkeypatch.setattr(Path, "read_text", lambda _: re.sub(r"CapEff:.*", "CapEff:\t0000000000004000", status))
    assert check.lock_limit() is None


def test_device_tlb(build: Build) -> None:
    nic = ("-device", "virtio-net-pci,iommu_platform=on,ats=on")
    assert rules(Plan("none", {"device-iotlb": "on"}), build) == [
        "intel-iommu device-iotlb=on: no device has ATS, so none will have a device-TLB"
    ]
    assert rules(Plan("none", extra=nic), build) == [
        "virtio-net-pci ats=on: the unit takes no translation requests without device-iotlb=on"
    ]
    assert rules(Plan("none", {"device-iotlb": "on"}, extra=nic), build) == []


# The command.


def test_nothing_wrong(qemu: Build) -> None:
    done = vtd("vm", "--check", "--qemu", qemu.path)
    assert done.returncode == 0
    assert done.stdout.decode().endswith(" starts it; nothing was found that will go wrong\n")
    assert json.loads(vtd("vm", "--check", "--json", "--qemu", qemu.path).stdout)["findings"] == []


def test_a_line_for_each_finding_and_status_1(build: Build) -> None:
    done = vtd("vm", "--check", "--qemu", build.path, "--iommu", "aw-bits=40,eim=on,intremap=off")
    assert done.returncode == 1
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("takes 39 or 48: set aw-bits=48")


def test_what_no_rule_knows_is_said_in_qemu_s_words(build: Build) -> None:
    done = vtd("vm", "--check", "--qemu", build.path, "--", "-device", "no-such-device")
    assert done.returncode == 1
    assert done.stdout.decode() == (
        "QEMU does not start: -device no-such-device: 'no-such-device' is not a valid device model name: "
        "see the options given to it\n"
    )


def test_a_warning_or_a_hint_is_not_taken_for_the_reason(qemu: Build) -> None:
    """From 9.0 on it prints a hint after the reason; 7.2 has another reason."""
    said = refusal(Plan("none", {}, extra=("-smp", "256", "-device", "virtio-net-pci")), qemu)
    assert said is not None and re.search("requires (x2APIC feature in CPU|kernel irqchip)", said)


@pytest.mark.parametrize("text", ["{", "{]", "[1]", ""])
def test_a_device_that_cannot_be_read_is_left_to_qemu(build: Build, text: str) -> None:
    done = vtd("vm", "--check", "--qemu", build.path, "--", "-device", text)
    assert done.returncode == 1 and done.stdout.decode().startswith("QEMU does not start: ")


# QEMU's command line.


def test_words() -> None:
    machine = ["-M", "q35,kernel-irqchip=on", "-machine", "type=q35,kernel-irqchip=split"]
    devices = ["-device", "a,b=c,,d,e", "-device", '{"driver": "f", "g": true, "h": 7}']
    words = parse([*machine, "-accel", "kvm,x=1", "-accel", "tcg", "-smp", "2,sockets=4,cores=8", *devices])
    assert words.accel == "kvm" and words.processors == 32 and words.has_split_irqchip
    assert words.devices == (Device("a", {"b": "c,d", "e": "on"}), Device("f", {"g": "on", "h": "7"}))
    assert parse(["-smp", "cpus=2,maxcpus=300"]).processors == 300
    assert parse(["-enable-kvm"]).accel == "kvm"
    assert parse(["-M", "q35,accel=kvm:tcg"]).accel == "kvm"


def test_the_plan_of_a_linux(build: Build, tmp_path: Path) -> None:
    file = tmp_path / "kernel"
    file.touch()
    words = Plan(kernel=file, initrd=file).words(build)
    assert words[words.index("-kernel") + 1] == str(file)
    assert words[words.index("-append") + 1] == "console=ttyS0 intel_iommu=on no_timer_check"
    given = Plan(kernel=file, append="quiet").words(build)
    assert given[given.index("-append") + 1] == "quiet"


def test_formats_of_disks(build: Build, tmp_path: Path) -> None:
    for content, format_ in ((b"QFI\xfb", "qcow2"), (b"\xeb\x3c", "raw")):
        file = tmp_path / format_
        file.write_bytes(content)
        assert any(f"format={format_},snapshot=on" in word for word in Plan(disk=file).words(build))


def test_a_device_in_json_that_is_nested_too_deeply_is_left_to_qemu() -> None:
    assert parse(["-device", '{"driver": "edu", "a": ' + "[" * 100_000 + "}"]).devices == (Device("", {}),)
