"""Everything in vtdlab that needs QEMU: machines, DMA sources, platforms, the conformance catalogue, quirks.

There is no `qemu/__init__.py`: `qemu` is a namespace package, shared with `qemu.qmp`.
"""

from typing import TYPE_CHECKING

from iommu.lazy import attributes

if TYPE_CHECKING:
    from qemu.vtd.machine import Machine
    from qemu.vtd.platform import ModelPlatform, Platform
    from qemu.vtd.presets import preset
    from qemu.vtd.probe import find_qemu
    from qemu.vtd.qemu_platform import QemuPlatform

__all__ = ["Machine", "ModelPlatform", "Platform", "QemuPlatform", "find_qemu", "preset"]

if not TYPE_CHECKING:  # hidden from type checkers, which would otherwise accept any name
    __getattr__ = attributes(
        "qemu.vtd",
        {
            "Machine": "machine",
            "ModelPlatform": "platform",
            "Platform": "platform",
            "QemuPlatform": "qemu_platform",
            "find_qemu": "probe",
            "preset": "presets",
        },
    )
