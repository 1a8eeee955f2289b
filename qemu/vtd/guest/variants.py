"""How guests are set up: the modes in which Linux builds its tables, and what each is expected to look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from iommu.errors import MisuseError
from iommu.registers import TableMode
from qemu.vtd.errors import PropertyMissing
from qemu.vtd.probe import Build


@dataclass(frozen=True)
class Variant:
    """One set-up of a guest.

    Attributes:
        id: its name on the command line.
        title: what it is, in a line.
        iommu: properties of intel-iommu, besides those that all have.
        mode: the table mode that Linux selects.
        first_stage: it translates by a first stage.
        levels: of the page tables that Linux builds for a device that it assigns.
        command_line: kernel parameters.
        processor, processors: QEMU's model, and how many.
        extended: interrupts have destinations of 32 bits (IRTA.EIME).
        since: the first QEMU that can run it without KVM.
        why_since: why no older one can.
    """

    id: str
    title: str
    iommu: Mapping[str, str | int | bool] = field(default_factory=dict)
    mode: TableMode = TableMode.LEGACY
    first_stage: bool = False
    levels: int = 4
    command_line: str = ""
    processor: str = "qemu64"
    processors: int = 1
    extended: bool = False
    since: tuple[int, int] = (7, 0)
    why_since: str = ""

    @property
    def properties(self) -> dict[str, str | int | bool]:
        """All properties of intel-iommu. An assigned device needs caching mode."""
        return {"intremap": True, "caching-mode": True, **self.iommu}

    def obstacle(self, build: Build) -> str | None:
        """Why a QEMU cannot run it; None when it can."""
        if build.version[:2] < self.since:
            return self.why_since
        try:
            build.spelled(self.properties)
        except PropertyMissing as error:
            return str(error).split("; it has ")[0]
        return None


_SCALABLE = {"scalable-mode": True}
VARIANTS = (
    Variant("legacy-3-level", "legacy mode, tables of 3 levels", {"aw-bits": 39}, levels=3),
    Variant("legacy-4-level", "legacy mode, tables of 4 levels", {"aw-bits": 48}),
    Variant(
        "second-stage",
        "scalable mode, second stage",
        {**_SCALABLE, "aw-bits": 48},
        TableMode.SCALABLE,
        command_line="intel_iommu=on,sm_on",
    ),
    Variant(
        "first-stage",
        "scalable mode, first stage",
        {**_SCALABLE, "aw-bits": 48, "flts": True},
        TableMode.SCALABLE,
        first_stage=True,
        command_line="intel_iommu=on,sm_on",
    ),
    Variant(
        "x2apic",
        "x2APIC: interrupts with destinations of 32 bits",
        {"aw-bits": 48, "eim": True},
        processor="max",
        processors=2,
        extended=True,
        since=(9, 0),
        why_since="before 9.0, eim=on needs KVM",
    ),
    Variant("pass-through", "pass-through for the guest's own devices", {"aw-bits": 48}, command_line="iommu=pt"),
    Variant(
        "svm",
        "shared virtual memory: PASIDs, device-TLB, page requests",
        {**_SCALABLE, "aw-bits": 48, "flts": True, "pasid-bits": 20, "svm": True, "device-iotlb": True,
         "snoop-control": True},
        TableMode.SCALABLE,
        first_stage=True,
        command_line="intel_iommu=on,sm_on",
    ),
)  # fmt: skip


def variant(id_: str) -> Variant:
    """A variant by its name. Raises MisuseError."""
    found = next((each for each in VARIANTS if each.id == id_), None)
    if found is None:
        raise MisuseError(f"there is no variant {id_!r}; there are {', '.join(each.id for each in VARIANTS)}")
    return found
