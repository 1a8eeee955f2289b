"""`vtd guest`: a Linux guest with a device of its own, and what the model says about its tables."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qemu.vtd.guest.check import Inspection
    from qemu.vtd.guest.errors import GuestError
    from qemu.vtd.guest.kernel import Kernel
    from qemu.vtd.guest.variants import Variant

app = typer.Typer(help="Linux guests with a device of their own.", no_args_is_help=True)

VariantName = Annotated[
    str, typer.Option("--variant", metavar="NAME", help="How the guest is set up; `vtd guest variants` lists them.")
]
Qemu = Annotated[
    str | None,
    typer.Option("--qemu", metavar="QEMU", help="Path, or suite of vtd qemu install. Default: $VTD_QEMU, PATH."),
]
KernelPackage = Annotated[
    str,
    typer.Option("--kernel-package", metavar="NAME", help="A Debian kernel; NAME/SUITE for one of another suite."),
]
KernelFile = Annotated[str, typer.Option("--kernel", metavar="PATH", help="Any other kernel, with VFIO built in.")]
Accel = Annotated[str, typer.Option("--accel", metavar="NAME", help="QEMU's accelerator: tcg or kvm.")]
Nested = Annotated[
    str,
    typer.Option("--nested", metavar="KIND", help="Give the device to a machine inside the guest: qtest or linux."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_BAR_AFTER = 1.0


@app.command()
def run(
    variant: VariantName = "legacy-4-level",
    qemu: Qemu = None,
    kernel_package: KernelPackage = "linux-image-cloud-amd64",
    kernel: KernelFile = "",
    accel: Accel = "tcg",
    nested: Nested = "",
    as_json: Json = False,
) -> None:
    """Boot a guest, let a device of its own do DMA, and compare what happened with the model.

    Exit status 0 when all agrees, 1 when something differs, 2 when the guest could not be run.
    """
    from iommu.cli.output import console, late_status, print_json
    from qemu.vtd.guest.errors import GuestError
    from qemu.vtd.guest.variants import variant as named

    chosen = named(variant)
    try:
        with late_status(f"a guest: {chosen.title}", _BAR_AFTER):
            found = asyncio.run(_run(chosen, qemu, _kernel(kernel_package, kernel), accel, nested))
    except GuestError as error:
        _show_console(error)
        raise
    if as_json:
        print_json(as_dict(found))
    else:
        for line in describe(found):
            console().print(line, markup=False)
    if not found.agrees:
        raise typer.Exit(1)


async def _run(chosen: Variant, qemu: str | None, kernel: Kernel, accel: str, kind: str) -> Inspection:
    from iommu.errors import MisuseError
    from qemu.vtd.guest import nested, nested_linux
    from qemu.vtd.guest.deep import inspect_deeply, watched

    if kind == "qtest":
        return await nested.run(chosen, qemu, kernel=kernel, accel=accel)
    if kind == "linux":
        return await nested_linux.run(chosen, qemu, kernel=kernel, accel=accel)
    if kind:
        raise MisuseError(f"--nested {kind!r} is neither qtest nor linux")
    async with watched(chosen, qemu, kernel=kernel, accel=accel) as seen:
        return await inspect_deeply(seen, chosen)


def _kernel(package: str, file: str) -> Kernel:
    from pathlib import Path

    from qemu.vtd.guest import kernel

    return kernel.of_file(Path(file)) if file else kernel.of_package(package)


def _show_console(error: GuestError) -> None:
    """Print the last lines of the guest's console on stderr, above the message."""
    import sys

    from iommu.files.text import safe

    lines = "".join(f"{safe(line)}\n" for line in error.console().splitlines())
    sys.stderr.write(f"the guest's console ends with:\n{lines}" if lines else "")


def describe(found: Inspection) -> list[str]:
    """What happened in a guest, as lines for people."""
    from qemu.vtd.probe import version_text

    guest = found.guest
    lines = [
        f"QEMU {version_text(guest.build.version)} under {guest.accel}, {found.variant.title}; {guest.kernel_name} "
        f"was up after {guest.booted:.1f} s"
    ]
    lines += [f"  {line}" for line in found.story]
    for each in found.findings:
        if not each.agrees:
            lines.append(f"  DIFFERS: {each.what}: {each.witness} was seen, the model says {each.model}")
    lines += [f"  real hardware would not take this: {line}" for line in found.beyond]
    wrong = sum(not each.agrees for each in found.findings)
    return [*lines, f"{len(found.findings)} findings, {f'{wrong} differ' if wrong else 'all agree with the model'}"]


def as_dict(found: Inspection) -> dict[str, Any]:
    """The same for programs."""
    from dataclasses import asdict

    from qemu.vtd.probe import version_text

    guest = found.guest
    return {
        "qemu": version_text(guest.build.version),
        "accel": guest.accel,
        "variant": found.variant.id,
        "kernel": guest.kernel_name,
        "seconds_to_boot": round(guest.booted, 2),
        "agrees": found.agrees,
        "findings": [{**asdict(each), "agrees": each.agrees} for each in found.findings],
        "not_by_specification": found.beyond,
    }


@app.command()
def shell(
    variant: VariantName = "legacy-4-level",
    qemu: Qemu = None,
    kernel_package: KernelPackage = "linux-image-cloud-amd64",
    kernel: KernelFile = "",
    accel: Accel = "tcg",
) -> None:
    """Boot a guest and connect this terminal to its console. Ctrl-] leaves, and ends the guest."""
    from iommu.cli.output import late_status
    from qemu.vtd.guest.check import guest_of
    from qemu.vtd.guest.errors import GuestError
    from qemu.vtd.guest.terminal import connect
    from qemu.vtd.guest.variants import variant as named

    async def conversation() -> None:
        async with AsyncExitStack() as running:
            with late_status("booting a guest", _BAR_AFTER):
                booted = guest_of(named(variant), qemu, kernel=_kernel(kernel_package, kernel), accel=accel)
                guest = await running.enter_async_context(booted)
            typer.echo("a shell in the guest; leave with Ctrl-]", err=True)
            await guest.console.send("PS1='guest# '; stty echo\n")
            await connect(guest.console)

    try:
        asyncio.run(conversation())
    except GuestError as error:
        _show_console(error)
        raise


@app.command("variants")
def variants_(qemu: Qemu = None, as_json: Json = False) -> None:
    """List the ways in which a guest can be set up, and those that this QEMU cannot run."""
    from iommu.cli.output import console, print_json
    from qemu.vtd.guest.variants import VARIANTS
    from qemu.vtd.probe import find_qemu, probe

    build = probe(find_qemu(qemu))
    if as_json:
        print_json([{"id": each.id, "title": each.title, "obstacle": each.obstacle(build)} for each in VARIANTS])
        return
    for each in VARIANTS:
        obstacle = each.obstacle(build)
        console().print(f"{each.id:<16}{each.title}" + (f" (not here: {obstacle})" if obstacle else ""), markup=False)
