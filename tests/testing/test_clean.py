"""assert_clean and recorded_faults: each thing that software can leave behind, in one line each."""

from __future__ import annotations

import pytest

from iommu import Access, Capabilities, Device, FaultReason, FlatMemory, MisuseError, RemappingUnit, SourceId
from iommu.engine.ats import Completion
from iommu.structures import ContextEntry, PageAllocator, RootEntry, SecondStageMapper
from iommu.testing import WatchedUnit, assert_clean, recorded_faults

NIC, DISK = SourceId(0, 4, 0), SourceId(0, 5, 0)
LGN_2, LCT_2 = FaultReason.LGN_2, FaultReason.LCT_2


class Machine:
    """A unit under correct software: 0x5000 of NIC is mapped to 0x9000."""

    def __init__(self, **capabilities: bool | int) -> None:
        memory = self.memory = FlatMemory(1 << 20)
        self.pages = SecondStageMapper(memory, PageAllocator(0x3000, 0x8000), levels=4)
        self.pages.map(0x5000, 0x9000, 0x1000)
        memory.write_u64(0x1000, RootEntry.make(P=1, CTP=0x2000))
        entry = ContextEntry.make(P=1, AW=2, DID=7, SSPTPTR=self.pages.root)
        memory.write(0x2000 + 16 * NIC.devfn, entry.to_bytes(16, "little"))
        self.unit = WatchedUnit(memory, Capabilities(**capabilities))  # type: ignore[arg-type]
        self.unit.mmio_write(0x20, 0x1000, 8)
        self.command(1 << 30)
        self.command(1 << 31)
        self.nic = Device(self.unit, NIC, uses_ats=False)

    def command(self, bit: int) -> None:
        self.unit.mmio_write(0x18, self.unit.mmio_read(0x1C, 4) & 0x96FF_FFFF | bit, 4)
        assert self.unit.mmio_read(0x1C, 4) & bit

    def submit(self, low: int) -> None:
        """One descriptor, in a queue at 0xA000."""
        self.unit.mmio_write(0x90, 0xA000, 8)
        self.command(1 << 26)
        self.memory.write_u64(0xA000, low)
        self.unit.mmio_write(0x88, 16, 8)


def complaints(unit: RemappingUnit, *faults: FaultReason) -> list[str]:
    with pytest.raises(AssertionError) as raised:
        assert_clean(unit, faults=faults)
    first, *rest = str(raised.value).splitlines()
    assert first == "the unit is not clean:"
    return rest


def test_a_clean_unit() -> None:
    machine = Machine()
    machine.nic.dma(0x5000, Access.WRITE)
    assert_clean(machine.unit)
    assert recorded_faults(machine.unit) == []


def test_stale() -> None:
    machine = Machine()
    machine.nic.dma(0x5000, Access.WRITE)
    machine.pages.unmap(0x5000, 0x1000)
    assert complaints(machine.unit) == [
        "  stale: IOTLB, domain 7, 0x5000: stale since the entry at 0x6028 changed; "
        "owed: IOTLB invalidation of the page 0x5000 in domain 7"
    ]


def test_faults() -> None:
    machine = Machine(fault_records=2)
    machine.nic.dma(0x6000, Access.WRITE)
    Device(machine.unit, DISK, uses_ats=False).dma(0x5000, Access.READ)
    lgn_2 = "  fault: 0x05 LGN.2 write without write permission (spec 7.1.3): write of 00:04.0, address 0x6000"
    lct_2 = "  fault: 0x02 LCT.2 context entry not present (spec 7.1.3): read of 00:05.0, address 0x5000"
    assert complaints(machine.unit) == [lgn_2, lct_2]
    assert complaints(machine.unit, LCT_2) == [lgn_2]
    assert_clean(machine.unit, faults=[LCT_2, LGN_2])
    assert complaints(machine.unit, LCT_2, LGN_2, LGN_2) == [
        "  fault: not recorded, though expected: 0x05 LGN.2 write without write permission"
    ]
    machine.nic.dma(0x7000, Access.WRITE)
    assert complaints(machine.unit, LCT_2, LGN_2) == [
        "  fault: more were lost: this unit can record 2, and they were not cleared (FSTS.PFO, spec 7.2.1)"
    ]


def test_faults_are_read_from_the_record_that_fsts_names() -> None:
    """FSTS.FRI names the first record while faults are pending, even after software has cleared it (11.4.7.1)."""
    machine = Machine(fault_records=3)
    for address in (0x6000, 0x7000):
        machine.nic.dma(address, Access.WRITE)
    for record in (0x220, 0x230):
        machine.unit.mmio_write(record + 12, 1 << 31, 4)
    for address in (0x8000, 0xA000):
        machine.nic.dma(address, Access.WRITE)
    assert [fault.address for fault in recorded_faults(machine.unit)] == [0x8000, 0xA000]


def test_a_queue_that_stopped() -> None:
    machine = Machine()
    machine.submit(0xF)
    assert complaints(machine.unit) == ["  queue: stopped at the descriptor at 0x0: TYPE (FSTS.IQE, spec 6.5.2.10)"]


@pytest.mark.parametrize(
    ("completion", "line"),
    [
        (Completion.TIMED_OUT, "  queue: a device-TLB invalidation timed out (FSTS.ITE, spec 6.5.2.10)"),
        (Completion.WRONG, "  queue: a device-TLB invalidation was completed wrongly (FSTS.ICE, spec 6.5.2.10)"),
    ],
)
def test_device_tlb_invalidations(completion: Completion, line: str) -> None:
    machine = Machine(device_tlb=True)
    machine.nic.completion = completion
    machine.submit(3 | NIC << 32)
    assert line in complaints(machine.unit)


def test_misused_registers_and_a_command_not_waited_for() -> None:
    machine = Machine()
    machine.unit.mmio_write(0x18, 1 << 31 | 1 << 26 | 1, 4)
    assert complaints(machine.unit) == [
        "  registers: write to GCMD with reserved bits 0x1 (spec 11.2)",
        "  registers: GCMD.QIE was not seen to complete: read GSTS until QIES is 1 (spec 6.9)",
    ]


def test_a_unit_of_another_class() -> None:
    """An audited unit has no record of how its registers were used; one that is not audited cannot be judged."""
    audited = RemappingUnit(FlatMemory(1 << 20), audit=True)
    audited.mmio_write(0x18, 1, 4)
    assert_clean(audited)
    with pytest.raises(MisuseError, match="audit=True"):
        assert_clean(RemappingUnit(FlatMemory(1 << 20)))
