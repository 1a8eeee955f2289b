"""`vtd vm`: a VM with a remapping unit, for one's own experiments."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qemu.vtd.probe import Build
    from qemu.vtd.vm.host import Finding
    from qemu.vtd.vm.plan import Plan
    from qemu.vtd.vm.vm import Vm

Qemu = Annotated[
    str | None,
    typer.Option("--qemu", metavar="QEMU", help="Path, or suite of vtd qemu install. Default: $VTD_QEMU, PATH."),
]
TopologyName = Annotated[
    str, typer.Option("--topology", metavar="NAME", help="The devices; --topology list prints which there are.")
]
Iommu = Annotated[
    str, typer.Option("--iommu", metavar="PROPERTIES", help='Of intel-iommu: "aw-bits=48,caching-mode=on"; or none.')
]
Memory = Annotated[str, typer.Option("--memory", metavar="SIZE", help="RAM: 512M, 2G.")]
Accel = Annotated[str, typer.Option("--accel", metavar="NAME", help="QEMU's accelerator: tcg or kvm.")]
Kernel = Annotated[Path | None, typer.Option("--kernel", metavar="FILE", help="A Linux to boot.")]
Initrd = Annotated[Path | None, typer.Option("--initrd", metavar="FILE", help="Its initial RAM disk.")]
Append = Annotated[
    str, typer.Option("--append", metavar="TEXT", help="Its parameters. Default: a console, and VT-d on.")
]
Disk = Annotated[
    Path | None, typer.Option("--disk", metavar="FILE", help="A disk image to boot. It is never written to.")
]
HostDevice = Annotated[
    list[str] | None,
    typer.Option("--host-device", metavar="BDF", help="A physical device to assign, bound to vfio-pci."),
]
Check = Annotated[bool, typer.Option("--check", help="Only say what will go wrong, and what to do.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Extra = Annotated[list[str] | None, typer.Argument(metavar="[-- QEMU OPTIONS]", help="Further options for QEMU.")]


def vm(
    qemu: Qemu = None,
    topology: TopologyName = "plain",
    iommu: Iommu = "",
    memory: Memory = "512M",
    accel: Accel = "tcg",
    kernel: Kernel = None,
    initrd: Initrd = None,
    append: Append = "",
    disk: Disk = None,
    host_device: HostDevice = None,
    check: Check = False,
    as_json: Json = False,
    extra: Extra = None,
) -> None:
    """Run a VM with a remapping unit until Ctrl-C, and print how to talk to it.

    Without --kernel and --disk its processor halts, and it is driven from outside, over its qtest socket.

    Exit status 0 when it was ended, or ended by itself; 2 when it could not be run. With --check, 1 when something
    will go wrong.
    """
    from iommu.dmar.pci import PciAddress
    from qemu.vtd.vm.plan import Plan, size, unit_properties

    if topology == "list":
        _list(as_json)
        return
    plan = Plan(
        topology,
        unit_properties(iommu),
        size(memory),
        accel,
        kernel,
        initrd,
        append,
        disk,
        tuple(PciAddress.parse(each) for each in host_device or ()),
        tuple(extra or ()),
    )
    if check:
        _check(plan, qemu, as_json)
    else:
        _run(plan, qemu, as_json)


def _list(as_json: bool) -> None:
    from iommu.cli.output import console, print_json
    from qemu.vtd.vm.topologies import TOPOLOGIES

    if as_json:
        print_json([{"name": name, "title": each.title} for name, each in TOPOLOGIES.items()])
        return
    for name, each in TOPOLOGIES.items():
        console().print(f"{name:<14}{each.title}", markup=False)


def _check(plan: Plan, qemu: str | None, as_json: bool) -> None:
    from iommu.cli.output import console, print_json
    from qemu.vtd.probe import find_qemu, probe, version_text

    build = probe(find_qemu(qemu))
    found = _findings(plan, build)
    if as_json:
        print_json({"qemu": version_text(build.version), "findings": [each._asdict() for each in found]})
    else:
        for each in found:
            console().print(f"{each.what}: {each.remedy}", markup=False)
        if not found:
            console().print(f"QEMU {version_text(build.version)} starts it; nothing was found that will go wrong")
    if found:
        raise typer.Exit(1)


def _findings(plan: Plan, build: Build) -> list[Finding]:
    """What the rules find; where they find nothing, what QEMU itself says when it is started for a moment.

    With physical devices it is not started: that would reset them.
    """
    from qemu.vtd.vm.check import check
    from qemu.vtd.vm.host import Finding
    from qemu.vtd.vm.vm import refusal

    found = check(plan, build)
    if found or plan.host_devices:
        return found
    said = refusal(plan, build)
    return [] if said is None else [Finding(f"QEMU does not start: {said}", "see the options given to it")]


def _run(plan: Plan, qemu: str | None, as_json: bool) -> None:
    from iommu.cli.output import console, print_json
    from qemu.vtd.vm.check import check
    from qemu.vtd.vm.vm import Vm

    with _ended_by_signals(), Vm(plan, qemu) as running:
        for each in check(plan, running.build):
            print(f"vtd: warning: {each.what}: {each.remedy}", file=sys.stderr)
        if as_json:
            print_json(as_dict(running))
        else:
            for line in describe(running):
                console().print(line, markup=False)
        sys.stdout.flush()
        running.wait()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Leave the block on SIGINT, SIGTERM and SIGHUP; all of them are ways to end the VM, and no error.

    A shell starts background jobs with SIGINT ignored, so it is set too.
    """
    ends = {number: signal.signal(number, signal.default_int_handler) for number in _ENDING}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, before in ends.items():
            signal.signal(number, before)


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def describe(running: Vm) -> list[str]:
    """How to talk to a VM, as lines for people."""
    from qemu.vtd.probe import version_text

    ready, plan = running.ready, running.plan
    base = "no remapping unit" if ready.register_base is None else f"remapping unit at {ready.register_base:#x}"
    lines = [f"QEMU {version_text(running.build.version)} under {plan.accel}, process {running.pid}; {base}"]
    lines += [f"  {name:<8} {path}" for name, path in ready.sockets.items()]
    lines.append("devices")
    for each in ready.devices:
        known = "source-id unknown" if each.source_id is None else f"source-id {each.source_id:#06x}"
        lines.append(f"  {each.address}  {known}  {each.name}")
    if not ready.devices:
        lines.append("  its firmware has not numbered the PCI buses")
    lines += ["talk to it", f"  qmp      socat - UNIX-CONNECT:{ready.sockets['qmp']}"]
    lines.append(
        '           {"execute": "qmp_capabilities"} first, then any command, such as {"execute": "query-pci"}'
    )
    lines.append(f"  qtest    socat - UNIX-CONNECT:{ready.sockets['qtest']}")
    if ready.register_base is not None:
        lines.append(f"           readq {ready.register_base + 8:#x} reads CAP")
    if plan.boots:
        lines.append(f"  console  socat -,rawer,escape=0x1d UNIX-CONNECT:{ready.sockets['console']}")
    else:
        lines.append("  console  nothing: its processor halts, and the qtest socket drives it")
    return [*lines, "Ctrl-C ends it"]


def as_dict(running: Vm) -> dict[str, Any]:
    """The same for programs."""
    from qemu.vtd.probe import version_text

    ready, plan = running.ready, running.plan
    return {
        "qemu": version_text(running.build.version),
        "path": running.build.path,
        "pid": running.pid,
        "accel": plan.accel,
        "topology": plan.topology,
        "register_base": ready.register_base,
        "sockets": {name: str(path) for name, path in ready.sockets.items()},
        "devices": [
            {"address": str(each.address), "source_id": each.source_id, "name": each.name} for each in ready.devices
        ],
    }
