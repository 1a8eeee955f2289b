"""Failed comparisons in words, exactly as pytest prints them below `assert`."""

from __future__ import annotations

import pytest

from iommu import (
    Access,
    Capabilities,
    Device,
    DmaRequest,
    FaultReason,
    FlatMemory,
    Interrupt,
    InterruptOutcome,
    Message,
    Posting,
    SourceId,
)
from iommu.engine.reasons import Fact
from iommu.explain.report import FaultReport
from iommu.structures import ContextEntry, PageAllocator, RootEntry, SecondStageMapper
from iommu.testing import Misuse, WatchedUnit, blocked_by, delivers, reaches
from iommu.testing.words import compared

NIC = SourceId(0, 4, 0)


@pytest.fixture
def memory() -> FlatMemory:
    return FlatMemory(1 << 20)


@pytest.fixture
def pages(memory: FlatMemory) -> SecondStageMapper:
    """0x5000 is mapped to 0x9000, in tables from 0x3000 on."""
    pages = SecondStageMapper(memory, PageAllocator(0x3000, 0x8000), levels=3)
    pages.map(0x5000, 0x9000, 0x1000)
    return pages


@pytest.fixture
def unit(memory: FlatMemory, pages: SecondStageMapper) -> WatchedUnit:
    memory.write_u64(0x1000, RootEntry.make(P=1, CTP=0x2000))
    memory.write(
        0x2000 + 16 * NIC.devfn, ContextEntry.make(P=1, AW=1, DID=7, SSPTPTR=pages.root).to_bytes(16, "little")
    )
    unit = WatchedUnit(memory, Capabilities(address_width=39))
    unit.mmio_write(0x20, 0x1000, 8)
    unit.mmio_write(0x18, 1 << 30, 4)
    unit.mmio_write(0x18, 1 << 31, 4)
    return unit


@pytest.fixture
def nic(unit: WatchedUnit) -> Device:
    return Device(unit, NIC, uses_ats=False)


def test_a_blocked_request(nic: Device) -> None:
    assert compared("==", nic.dma(0x6008, Access.WRITE), reaches(0xA008)) == [
        "DMA blocked by LGN.2 == reaches(0xa008)",
        "fault: 0x05 LGN.2 write without write permission (spec 7.1.3), recorded",
        "where: second-stage entry, level 1 at 0x5030 is 0x0000000000000000",
        "walk:",
        "  request  translation is on, legacy mode, root table 0x1000",
        "  root entry  0x1000  0x00000000000000000000000000002001  present, nothing reserved; context table 0x2000",
        "  context entry  0x2200  0x00000000000007010000000000003001  present, nothing reserved, type and levels "
        "offered; domain 7, second-stage table 0x3000",
        "  second-stage entry, level 3  0x3000  0x0000000000004003  present, nothing reserved; table 0x4000",
        "  second-stage entry, level 2  0x4000  0x0000000000005003  present, nothing reserved; table 0x5000",
    ]


def test_a_reserved_bit(nic: Device, memory: FlatMemory) -> None:
    memory.write_u64(0x2200, memory.read_u64(0x2200) | 1 << 4)
    lines = compared("==", nic.dma(0x5000, Access.READ), reaches(0x9000))
    assert lines is not None
    assert lines[:4] == [
        "DMA blocked by LCT.3 == reaches(0x9000)",
        "fault: 0x0b LCT.3 reserved bit set in a present context entry (spec 7.1.3), recorded",
        "where: context entry at 0x2200 is 0x00000000000007010000000000003011: reserved bits 0x10",
        "  ContextEntry(DID=7, AW=1, SSPTPTR=0x0000000000003000, P=1)",
    ]


def test_a_field_that_this_unit_does_not_have(nic: Device, pages: SecondStageMapper) -> None:
    pages.map(0x7000, 0xB000, 0x1000, snoop=True)
    lines = compared("==", nic.dma(0x7000, Access.READ), reaches(0xB000))
    assert lines is not None
    assert lines[2:4] == [
        "where: second-stage entry, level 1 at 0x5038 is 0x000000000000b803: reserved bits 0x800 (SNP)",
        "  SecondStage4KPage(ADDR=0x000000000000b000, SNP=1, W=1, R=1)",
    ]


def test_a_stale_answer(nic: Device, pages: SecondStageMapper) -> None:
    nic.dma(0x5000, Access.WRITE)
    pages.unmap(0x5000, 0x1000)
    assert compared("==", nic.dma(0x5000, Access.WRITE), blocked_by(FaultReason.LGN_2)) == [
        "DMA to host 0x9000 == blocked_by(LGN_2)",
        "expected: 0x05 LGN.2 write without write permission (spec 7.1.3)",
        "stale: IOTLB, domain 7, 0x5000: stale since the entry at 0x5028 changed; "
        "owed: IOTLB invalidation of the page 0x5000 in domain 7",
        "walk:",
        "  request  translation is on, legacy mode, root table 0x1000",
        "  context cache  cached  domain 7, type untranslated_only",
        "  IOTLB  cached  4 KiB page 0x9000, RW",
    ]


def test_a_fault_raised_by_what_is_cached(nic: Device, pages: SecondStageMapper) -> None:
    pages.map(0x7000, 0xB000, 0x1000, write=False)
    nic.dma(0x7000, Access.READ)
    lines = compared("==", nic.dma(0x7000, Access.WRITE), reaches(0xB000))
    assert lines is not None
    assert lines[1:3] == [
        "fault: 0x05 LGN.2 write without write permission (spec 7.1.3), recorded",
        "where: IOTLB, cached",
    ]


def test_the_expectation_on_the_left(nic: Device) -> None:
    lines = compared("==", reaches(0xA000), nic.dma(0x5000, Access.READ))
    assert lines is not None
    assert lines[0] == "DMA to host 0x9000 == reaches(0xa000)"


def test_two_outcomes_differ_in_fields(unit: WatchedUnit, pages: SecondStageMapper) -> None:
    pages.map(0x7000, 0xB000, 0x1000, write=False, accessed=True)
    untraced = unit.translate(DmaRequest(NIC, 0x5000, Access.READ), trace=False)
    other = unit.translate(DmaRequest(NIC, 0x7000, Access.READ), trace=False)
    assert compared("==", untraced, other) == [
        "DMA to host 0x9000 == DMA to host 0xb000",
        "host_address: 0x9000, expected 0xb000",
        "writable: True, expected False",
    ]


FIXED = Interrupt(vector=0x41, destination=2)
LOGICAL = Interrupt(0x41, 0x200, delivery_mode=1, logical=True, redirection_hint=True, level=True)


@pytest.mark.parametrize(
    ("outcome", "expected", "lines"),
    [
        (
            InterruptOutcome(remapped=LOGICAL, message=LOGICAL.message),
            delivers(FIXED),
            [
                "an interrupt to logical destination 0x200, vector 0x41, lowest priority, level, redirection hint == "
                "delivers(vector 0x41)",
                "expected: physical destination 0x2, vector 0x41, fixed, edge",
            ],
        ),
        (
            InterruptOutcome(fault=FaultReason.IR_22, recorded=True),
            delivers(FIXED),
            [
                "an interrupt blocked by IR.22 == delivers(vector 0x41)",
                "expected: physical destination 0x2, vector 0x41, fixed, edge",
                "fault: 0x22 IR.22 interrupt-remapping entry not present (spec 5.1.4), recorded",
            ],
        ),
        (
            InterruptOutcome(posted=Posting(0x3000, 0x61, FIXED)),
            blocked_by(FaultReason.IR_26),
            [
                "an interrupt posted to the descriptor at 0x3000, vector 0x61, with a notification to physical "
                "destination 0x2, vector 0x41, fixed, edge == blocked_by(IR_26)",
                "expected: 0x26 IR.26 source-id validation failed (spec 5.1.4)",
            ],
        ),
        (
            InterruptOutcome(Message(0xFEE00000, 0x41), passed=True),
            blocked_by(FaultReason.IR_25),
            [
                "an interrupt that passed unmodified == blocked_by(IR_25)",
                "expected: 0x25 IR.25 compatibility-format interrupt blocked (spec 5.1.4)",
            ],
        ),
        (
            InterruptOutcome(fault=FaultReason.IR_22, recorded=True),
            InterruptOutcome(fault=FaultReason.IR_26),
            [
                "an interrupt blocked by IR.22 == an interrupt blocked by IR.26",
                "fault: 0x22 IR.22 interrupt-remapping entry not present (spec 5.1.4), expected 0x26 IR.26 source-id "
                "validation failed (spec 5.1.4)",
                "recorded: True, expected False",
                "fault: 0x22 IR.22 interrupt-remapping entry not present (spec 5.1.4), recorded",
            ],
        ),
    ],
)
def test_interrupts(outcome: InterruptOutcome, expected: object, lines: list[str]) -> None:
    assert compared("==", outcome, expected) == lines


@pytest.mark.parametrize(
    ("op", "left", "right", "line"),
    [
        ("is", FaultReason.LGN_2, None, "0x05 LGN.2 write without write permission (spec 7.1.3) is None"),
        (
            "is",
            FaultReason.LGN_2,
            FaultReason.LGN_3,
            "0x05 LGN.2 write without write permission (spec 7.1.3) is "
            "0x06 LGN.3 read without read permission (spec 7.1.3)",
        ),
        ("==", None, FaultReason.IR_21, "None == 0x21 IR.21 interrupt index beyond the table (spec 5.1.4)"),
        (
            "==",
            Message(0xFEE01000, 0x31),
            Message(0xFEE02000, 0x31),
            "message 0x31 to 0xfee01000 == message 0x31 to 0xfee02000",
        ),
        ("==", FIXED, None, "physical destination 0x2, vector 0x41, fixed, edge == None"),
    ],
)
def test_single_values(op: str, left: object, right: object, line: str) -> None:
    assert compared(op, left, right) == [line]


def test_lists() -> None:
    misuse = Misuse("write to GCMD with reserved bits 0x1", "11.2")
    fault = FaultReport(5, NIC, address=0x6000, kind="write", pasid=3)
    interrupt = FaultReport(0x22, NIC, index=4, kind="interrupt")
    assert compared("==", [misuse, misuse], []) == ["2 items == 0 items", *[str(misuse)] * 2]
    assert compared("==", [fault], [interrupt]) == [
        "1 item == 1 item",
        "0x05 LGN.2 write without write permission (spec 7.1.3): write of 00:04.0, address 0x6000, PASID 0x3",
        "expected: 0x22 IR.22 interrupt-remapping entry not present (spec 5.1.4): interrupt of 00:04.0, index 0x4",
    ]


def test_stale_items_say_what_is_owed(unit: WatchedUnit, nic: Device, pages: SecondStageMapper) -> None:
    nic.dma(0x5000, Access.WRITE)
    pages.unmap(0x5000, 0x1000)
    assert compared("==", unit.audit(), []) == [
        "1 item == 0 items",
        "IOTLB, domain 7, 0x5000: stale since the entry at 0x5028 changed; "
        "owed: IOTLB invalidation of the page 0x5000 in domain 7",
    ]


@pytest.mark.parametrize(
    ("op", "left", "right"),
    [
        ("==", 1, 2),
        ("==", [], []),
        ("==", [1], [Message(1, 2)]),
        ("in", FaultReason.LGN_2, [FaultReason.LGN_3]),
        ("!=", FaultReason.LGN_2, FaultReason.LGN_2),
        ("==", FaultReason.LGN_2, 5),
        ("==", Fact.NONE, None),
        ("==", reaches(1), reaches(2)),
    ],
)
def test_other_values_are_left_to_pytest(op: str, left: object, right: object) -> None:
    assert compared(op, left, right) is None


def test_expectations_compare_with_outcomes_only(nic: Device) -> None:
    outcome = nic.dma(0x5000, Access.READ)
    assert outcome == reaches(0x9000) and reaches(0x9000) == outcome
    assert outcome != reaches(0xA000) and outcome != blocked_by(FaultReason.LGN_3) and outcome != delivers(FIXED)
    assert nic.dma(0x6000, Access.READ) == blocked_by(FaultReason.LGN_3)
    assert InterruptOutcome(remapped=FIXED) == delivers(FIXED) and InterruptOutcome(remapped=FIXED) != reaches(0x9000)
    assert InterruptOutcome(fault=FaultReason.IR_22) == blocked_by(FaultReason.IR_22)
    assert reaches(1) != 1
    assert repr(reaches(0x9000)) == "reaches(0x9000)"
