"""What software may do with registers: each rule broken in one access, and the accesses of correct software."""

from __future__ import annotations

import re

import pytest

from iommu import Capabilities, FlatMemory, MisuseError
from iommu.testing import Registers, WatchedUnit

GCMD, GSTS, RTADDR, CCMD, FSTS, PMEN, IQT, IRTA, PRS = 0x18, 0x1C, 0x20, 0x28, 0x34, 0x64, 0x88, 0xB8, 0xDC
IVA, IOTLB = 0xF0, 0xF8
TE, SRTP, WBF, QIE = 1 << 31, 1 << 30, 1 << 27, 1 << 26


def unit(**capabilities: bool | int) -> WatchedUnit:
    return WatchedUnit(FlatMemory(1 << 20), Capabilities(**capabilities))  # type: ignore[arg-type]


def said(watched: WatchedUnit) -> list[str]:
    return [str(misuse) for misuse in watched.misuses]


def test_correct_software_is_not_reported() -> None:
    """The sequence of 11.4.4.1, invalidations by register, and a status register written back."""
    watched = unit(protected_low=True)
    registers = Registers(watched)
    registers.write64(RTADDR, 0x1000)
    for bit in (SRTP, TE):
        registers.write32(GCMD, registers.read32(GSTS) & 0x96FF_FFFF | bit)
        assert registers.read32(GSTS) & bit
    registers.write64(CCMD, 1 << 63 | 1 << 61)
    assert not registers.read64(CCMD) >> 63
    registers.write64(IVA, 0xFFFF_FFFF_FFFF_F000)  # an address of a device, not of the host: 64 bits on any unit
    registers.write32(IOTLB + 4, (1 << 63 | 1 << 60) >> 32)
    assert not registers.read32(IOTLB + 4) >> 31
    registers.write32(PMEN, 1 << 31)
    assert registers.read32(PMEN) & 1
    registers.write32(GCMD, registers.read32(GSTS) & 0x96FF_FFFF)  # changes nothing: nothing to wait for
    registers.write32(FSTS, registers.read32(FSTS) | 1)
    assert said(watched) == []
    assert watched.conduct.pending is None


@pytest.mark.parametrize(
    ("offset", "value", "size", "report"),
    [
        (0x30, 0, 4, "write of offset 0x30, where this unit has no register (spec 11.4)"),
        (
            PRS,
            0,
            4,
            "write of offset 0xdc, where this unit has no register: PRS needs the capability page_requests "
            "(spec 11.4)",
        ),
        (GCMD, 0, 8, "write of 8 bytes at offset 0x18, which reaches GCMD and GSTS at once (spec 11.2)"),
        (GCMD, 1 << 29, 4, "write to GCMD with reserved bits 0x20000000 (spec 11.2)"),
        (RTADDR, 1 << 48, 8, "write to RTADDR with reserved bits 0x1000000000000 (spec 11.2)"),
        (RTADDR + 4, 1 << 16, 4, "write to RTADDR with reserved bits 0x1000000000000 (spec 11.2)"),
        (IRTA, 1 << 11, 8, "write to IRTA with reserved bits 0x800 (spec 11.2)"),
        (IQT, 8, 8, "write to IQT with reserved bits 0x8 (spec 11.2)"),
        (
            GCMD,
            TE | SRTP,
            4,
            "write to GCMD that gives several commands at once: GCMD.TE and GCMD.SRTP (spec 11.4.4.1)",
        ),
    ],
)
def test_a_write_against_a_rule(offset: int, value: int, size: int, report: str) -> None:
    watched = unit()
    watched.mmio_write(offset, value, size)
    assert said(watched) == [report]


def test_a_read_of_no_register() -> None:
    watched = unit()
    assert watched.mmio_read(0x30, 4) == 0
    assert said(watched) == ["read of offset 0x30, where this unit has no register (spec 11.4)"]


def test_the_same_bits_are_not_reserved_with_the_capability() -> None:
    watched = unit(extended_interrupts=True, host_address_width=52)
    watched.mmio_write(IRTA, 1 << 11, 8)
    watched.mmio_write(RTADDR, 1 << 48, 8)
    assert said(watched) == []


def test_turning_translation_off_by_accident() -> None:
    """A one-shot command without the bits that are on turns these off."""
    watched = unit()
    for command in (SRTP, TE):
        watched.mmio_write(GCMD, command, 4)
        watched.mmio_read(GSTS, 4)
    watched.mmio_write(GCMD, SRTP, 4)
    assert said(watched) == [
        "write to GCMD that gives several commands at once: GCMD.TE and GCMD.SRTP (spec 11.4.4.1)"
    ]


ICC, IVT, EPM = 1 << 63 | 1 << 61, 1 << 63 | 1 << 60, 1 << 31


@pytest.mark.parametrize(
    ("first", "second", "report"),
    [
        ((GCMD, SRTP, 4), (GCMD, TE, 4), "GCMD before GCMD.SRTP: GSTS until RTPS is 1"),
        ((GCMD, QIE, 4), (PMEN, EPM, 4), "PMEN before GCMD.QIE: GSTS until QIES is 1"),
        ((GCMD, WBF, 4), (GCMD, QIE, 4), "GCMD before GCMD.WBF: GSTS until WBFS is 0"),
        ((CCMD, ICC, 8), (IOTLB, IVT, 8), "IOTLB before CCMD.ICC: CCMD until ICC is 0"),
        ((IOTLB, IVT, 8), (GCMD, TE, 4), "GCMD before IOTLB.IVT: IOTLB until IVT is 0"),
        ((PMEN, EPM, 4), (GCMD, SRTP, 4), "GCMD before PMEN.EPM: PMEN until PRS is 1"),
    ],
)
def test_a_command_before_the_last_one_is_complete(
    first: tuple[int, int, int], second: tuple[int, int, int], report: str
) -> None:
    watched = unit(protected_low=True, write_buffer_flush=True)
    watched.mmio_write(*first)
    watched.mmio_write(*second)
    written, last, how = re.split(" before |: ", report)
    assert said(watched) == [f"write to {written} before {last} was seen to complete: read {how} (spec 6.9)"]


def test_reading_another_register_or_half_is_not_waiting() -> None:
    watched = unit()
    watched.mmio_write(CCMD, 1 << 63 | 1 << 61, 8)
    watched.mmio_read(GSTS, 4)
    watched.mmio_read(CCMD, 4)
    assert watched.conduct.pending is not None
    watched.mmio_read(CCMD + 4, 4)
    assert watched.conduct.pending is None


def test_a_command_is_waited_for_until_its_status_says_so() -> None:
    """A unit whose status lags behind: reading it once is not enough."""
    watched = unit()
    watched.mmio_write(GCMD, QIE, 4)
    watched.conduct.on_read(GSTS, 0, 4)
    assert watched.conduct.pending is not None
    watched.conduct.on_read(GSTS, QIE, 4)
    assert watched.conduct.pending is None


def test_an_access_that_is_refused_is_not_reported_too() -> None:
    watched = unit()
    for access in (lambda: watched.mmio_write(0x1A, 0, 4), lambda: watched.mmio_read(0x1A, 4)):
        with pytest.raises(MisuseError, match="not a multiple"):
            access()
    assert said(watched) == []


def test_a_reset_drops_the_reports() -> None:
    watched = unit()
    watched.mmio_write(GCMD, TE | SRTP, 4)
    watched.reset()
    assert said(watched) == []
    assert watched.conduct.pending is None
