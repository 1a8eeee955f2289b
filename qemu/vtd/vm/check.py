"""What will go wrong with a VM, found before it starts, each with what to do about it.

Where QEMU itself refuses, the tests hold each rule to QEMU's own message. The other rules name their source.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from iommu.dmar.pci import PciAddress
from qemu.vtd.devices.source import DmaSource
from qemu.vtd.errors import PropertyMissing
from qemu.vtd.probe import MODELS, Build, version_text
from qemu.vtd.vm import host
from qemu.vtd.vm.host import Finding
from qemu.vtd.vm.plan import Plan
from qemu.vtd.vm.topologies import named
from qemu.vtd.vm.words import UNIT, Device, Words, is_on, number, parse

MIB = 1 << 20
# The first release in which TCG's APIC has x2APIC mode, and intel-iommu takes eim=on with it.
X2APIC_WITHOUT_KVM = (9, 0)
_CAP_IPC_LOCK = 14
# PCI Express: a PASID has at most 20 bits.
_PASID_BITS = 20
# An APIC id of 8 bits names 255 processors: 0xff addresses all.
_PROCESSORS_WITHOUT_EIM = 255


@dataclass(frozen=True)
class Situation:
    """What is checked: the VM, its QEMU, and the limits of the process that will run it.

    Attributes:
        lock_limit: RLIMIT_MEMLOCK in bytes; None for a process that is not limited.
    """

    plan: Plan
    build: Build
    words: Words
    lock_limit: int | None

    @property
    def qemu(self) -> str:
        """The QEMU, for messages."""
        return f"QEMU {version_text(self.build.version)}"


Rule = Callable[[Situation], Iterator[Finding]]


def check(plan: Plan, build: Build) -> list[Finding]:
    """What will go wrong, by the rules of this module. QEMU is not started."""
    situation = Situation(plan, build, parse(plan.words(build)), lock_limit())
    return [finding for rule in RULES for finding in rule(situation)] + host_obstacles(plan)


def host_obstacles(plan: Plan, root: Path = Path("/")) -> list[Finding]:
    """Why the physical devices cannot be assigned."""
    wanted: tuple[PciAddress, ...] = plan.host_devices
    return [finding for each in wanted for finding in host.obstacles(each, wanted, root)]


def missing_models(plan: Plan, build: Build) -> list[Finding]:
    """The devices of the topology that this QEMU does not have."""
    topology = named(plan.topology).topology
    sources: list[DmaSource] = [place.device() for place in topology.places]
    wanted = {each.model for each in sources} | {each.arguments.split(",")[0] for each in topology.bridges}
    wanted |= {"vfio-pci"} if plan.host_devices else set()
    remedy = "choose another --topology, or a QEMU that has it: vtd qemu list"
    shown = version_text(build.version)
    return [
        Finding(f"topology {plan.topology}: QEMU {shown} has no device {each}", remedy)
        for each in sorted(wanted)
        if each in MODELS and each not in build.devices
    ]


def lock_limit() -> int | None:
    """How much memory this process may lock, in bytes; None when there is no limit for it."""
    status = Path("/proc/self/status").read_text()
    capabilities = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if capabilities >> _CAP_IPC_LOCK & 1 or soft == resource.RLIM_INFINITY else soft


def _of_unit(rule: Callable[[Situation, Device], Iterator[Finding]]) -> Rule:
    """A rule for machines that have a remapping unit."""

    def whole(situation: Situation) -> Iterator[Finding]:
        unit = situation.words.unit
        if unit is not None:
            yield from rule(situation, unit)

    return whole


@_of_unit
def _properties(situation: Situation, unit: Device) -> Iterator[Finding]:
    """Properties are renamed, added and removed between versions."""
    for name in unit.properties:
        if name in situation.build.iommu_properties:
            continue
        what = f"{UNIT} {name}: {situation.qemu} has no such property"
        try:
            (spelled,) = situation.build.spelled({name: ""})
            yield Finding(what, f"there it is called {spelled}")
        except PropertyMissing:
            offered = ", ".join(sorted(situation.build.iommu_properties - {"version"}))
            yield Finding(what, f"it has {offered}; vtd qemu list shows those of other QEMUs")


@_of_unit
def _width(situation: Situation, unit: Device) -> Iterator[Finding]:
    width = unit.properties.get("aw-bits")
    first_stage = unit.has("flts") or unit.has("fsts")
    allowed = (48,) if first_stage else (39, 48)
    if width is not None and number(width) not in allowed:
        where = " with a first stage" if first_stage else ""
        wanted = " or ".join(map(str, allowed))
        yield Finding(f"{UNIT} aw-bits={width}: {situation.qemu} takes {wanted}{where}", f"set aw-bits={allowed[-1]}")


@_of_unit
def _modes(situation: Situation, unit: Device) -> Iterator[Finding]:
    """What needs scalable mode, and what page requests (svm) need."""
    bits = number(unit.properties.get("pasid-bits", "0")) or 0
    if not unit.has("scalable-mode"):
        for name in ("flts", "fsts", "pasid-mode"):
            if unit.has(name):
                yield Finding(f"{UNIT} {name}=on: needs scalable mode", "add scalable-mode=on")
        if bits:
            yield Finding(f"{UNIT} pasid-bits={bits}: needs scalable mode", "add scalable-mode=on")
    if bits > _PASID_BITS:
        yield Finding(f"{UNIT} pasid-bits={bits}: a PASID has at most 20 bits", "set pasid-bits=20")
    if unit.has("svm"):
        needed = {
            "scalable-mode=on": unit.has("scalable-mode"),
            "device-iotlb=on": unit.has("device-iotlb"),
            "fsts=on": unit.has("fsts") or unit.has("flts"),
            "pasid-bits=20": bool(bits),
        }
        missing = [name for name, there in needed.items() if not there]
        if missing:
            yield Finding(f"{UNIT} svm=on: needs {', '.join(missing)}", f"add {','.join(missing)}")


@_of_unit
def _interrupts(situation: Situation, unit: Device) -> Iterator[Finding]:
    """Interrupt remapping under KVM, and extended interrupt mode (eim)."""
    words = situation.words
    kvm = words.accel == "kvm"
    remapping = unit.properties.get("intremap", "auto")
    extended = unit.has("eim")
    irqchip = words.machine.get("kernel-irqchip", "on")
    if kvm and is_on(remapping) and irqchip not in {"split", "off"}:
        yield Finding(f"{UNIT} intremap=on: KVM's own I/O APIC cannot be remapped", "set -M kernel-irqchip=split")
    if not extended:
        return
    if remapping != "auto" and not is_on(remapping):
        yield Finding(f"{UNIT} eim=on: needs interrupt remapping", "remove intremap=off")
    elif kvm and not words.has_split_irqchip:
        yield Finding(f"{UNIT} eim=on: under KVM it needs a split interrupt chip", "set -M kernel-irqchip=split")
    elif not kvm and situation.build.version < X2APIC_WITHOUT_KVM:
        remedy = "add --accel kvm, or take QEMU 9.0 or later: vtd qemu install trixie"
        yield Finding(f"{UNIT} eim=on: {situation.qemu} takes it only under KVM", remedy)


@_of_unit
def _processors(situation: Situation, unit: Device) -> Iterator[Finding]:
    """Processors above 255 get interrupts only with 32-bit destinations: IRTA.EIME (spec 5.1.2.1, ECAP.EIM)."""
    words, version = situation.words, situation.build.version
    if words.processors <= _PROCESSORS_WITHOUT_EIM:
        return
    what = f"-smp: {words.processors} processors"
    if words.accel != "kvm" and version < X2APIC_WITHOUT_KVM:
        yield Finding(f"{what}: {situation.qemu} has more than 255 only under KVM", "have fewer, or add --accel kvm")
    elif not unit.has("eim"):
        yield Finding(f"{what}: without eim=on, interrupts reach the first 255 only", "add eim=on to --iommu")


@_of_unit
def _assigned(situation: Situation, unit: Device) -> Iterator[Finding]:
    """What vfio-pci needs of the unit.

    Source: hw/i386/intel_iommu.c, vtd_machine_done_notify_one and vtd_dev_set_iommu_device (caching mode),
    vtd_iommu_notify_flag_changed (snoop control), vtd_check_hiod (first stage). QEMU gets to these only with a
    physical device at hand; the tests look for its messages in the program.
    """
    if not situation.words.assigned:
        return
    if not unit.has("caching-mode"):
        yield Finding("vfio-pci: without caching mode, QEMU is not told what the guest maps", "add caching-mode=on")
    if unit.has("snoop-control"):
        yield Finding("vfio-pci: QEMU refuses it with snoop-control=on", "remove snoop-control")
    if unit.has("flts") or unit.has("fsts"):
        backed = all("iommufd" in each.properties for each in situation.words.assigned)
        if situation.build.version < (11, 0):
            yield Finding(f"vfio-pci: {situation.qemu} cannot assign a device with a first stage", "leave flts out")
        elif not backed:
            yield Finding("vfio-pci: with a first stage, it needs IOMMUFD", "add -object iommufd,id=N and iommufd=N")


def _lock(situation: Situation) -> Iterator[Finding]:
    """VFIO pins all RAM, once for each device that has an address space of its own: behind a remapping unit, each.

    Source: Linux, drivers/vfio/vfio_iommu_type1.c, vfio_pin_pages_remote. Root with CAP_IPC_LOCK has no limit.
    """
    count = len(situation.words.assigned)
    needed = situation.plan.memory * (count if situation.words.unit else min(count, 1))
    limit = situation.lock_limit
    if limit is not None and limit < needed:
        what = f"vfio-pci: it locks {needed // MIB} MiB of memory, and this process may lock {limit // MIB} MiB"
        yield Finding(what, f"ulimit -l {needed // 1024} (as root, or in /etc/security/limits.conf), or run as root")


@_of_unit
def _device_tlb(situation: Situation, unit: Device) -> Iterator[Finding]:
    """A device-TLB takes both sides: device-iotlb=on (ECAP.DT) and a device with ATS."""
    devices = [each for each in situation.words.devices if each.has("ats")]
    if unit.has("device-iotlb") and not devices and not situation.words.assigned:
        what = f"{UNIT} device-iotlb=on: no device has ATS, so none will have a device-TLB"
        yield Finding(what, "add a device with ats=on: -- -device virtio-net-pci,iommu_platform=on,ats=on")
    for each in () if unit.has("device-iotlb") else devices:
        what = f"{each.model} ats=on: the unit takes no translation requests without device-iotlb=on"
        yield Finding(what, "add device-iotlb=on to --iommu")


@_of_unit
def _no_translation(situation: Situation, unit: Device) -> Iterator[Finding]:
    """CAP.SAGAW is 0 with dma-translation=off, and QEMU ignores GCMD.TE."""
    if is_on(unit.properties.get("dma-translation", "on")):
        return
    names = [place.model for place in named(situation.plan.topology).topology.places]
    names += [each.model for each in situation.words.assigned]
    if names:
        what = f"{UNIT} dma-translation=off: the DMA of {', '.join(dict.fromkeys(names))} is never translated"
        yield Finding(what, "remove it, or have none of these devices: --topology none")


def _missing(situation: Situation) -> Iterator[Finding]:
    yield from missing_models(situation.plan, situation.build)


RULES: tuple[Rule, ...] = (
    _properties,
    _width,
    _modes,
    _interrupts,
    _processors,
    _assigned,
    _lock,
    _device_tlb,
    _no_translation,
    _missing,
)
"""The rules, in the order in which findings are printed."""
