"""Spec 7.2, 11.4.7: a fault record bit by bit, and the bits of FSTS cleared in every order."""

from __future__ import annotations

from collections.abc import Callable

from iommu import Policy
from iommu.registers import FSTS, IQT
from qemu.vtd.conformance import queue
from qemu.vtd.conformance.bench import P0, Bench
from qemu.vtd.conformance.chapters.faults import COMPRESSION, unmapped
from qemu.vtd.conformance.scenario import Allowed, scenario

F = 1 << 31
"""FRCD.F in a 32-bit access to the last quarter of a record."""
PFO, IQE = FSTS.PFO.mask, FSTS.IQE.mask
BY_A, BY_B = "A write 0x5010 -> blocked", "B write 0x6010 -> blocked"
RECORD_A, RECORD_B = "fault 0x05 A 0x5000 write", "fault 0x05 B 0x6000 write"


def start(bench: Bench) -> None:
    """A in domain 1 and B in domain 2 with nothing mapped; translation on."""
    unmapped(bench, "A", "B")


def write_record(bench: Bench, offset: int, value: int, size: int = 4) -> None:
    """Write part of the fault recording register."""
    bench.platform.write_register(bench.driver.capabilities.fault_record_offset + offset, value, size)


def note_record(bench: Bench) -> None:
    """Log all 128 bits of the fault recording register, read in quarters."""
    at = bench.driver.capabilities.fault_record_offset
    quarters = [bench.platform.read_register(at + 4 * n, 4) for n in range(4)]
    bench.note(f"FRCD {' '.join(f'{quarter:08x}' for quarter in reversed(quarters))}")


def note_without_pasid(bench: Bench) -> None:
    """Log the fault recording register without PV, which means nothing in a record without PASID."""
    raw = bench.driver.record(0)
    bench.note(f"FRCD {raw >> 96 & 0xF00000FF:08x} {raw & (1 << 96) - 1:024x}")


def clear_status(bench: Bench, bits: int) -> None:
    """Write ones to FSTS."""
    bench.platform.write_register(FSTS.offset, bits, 4)


# The record.


@scenario(
    "fault.record.read",
    "11.4.7.6",
    "A read 0xfffffffff010 -> blocked",
    "FRCD c0000006 00000020 0000ffff fffff000",
    "fault 0x06 A 0xfffffffff000 read",
    "FSTS PPF",
)
def record_of_a_read(bench: Bench) -> None:
    """The record of a read of the last page: F and T1, reason 6, source-id 0x20, 48 bits of address, and no PASID."""
    start(bench)
    bench.read("A", 0xFFFF_FFFF_F010)
    note_record(bench)


@scenario(
    "fault.record.before-any-table",
    "11.4.7.6",
    "B write 0x123456789abc -> blocked",
    "FRCD 80000001 00000028 00001234 56789000",
    "fault 0x01 B 0x123456789000 write",
    "FSTS PPF",
)
def record_before_any_table(bench: Bench) -> None:
    """A fault found in the root entry is recorded with the page of the request too."""
    bench.turn_on()
    bench.write("B", 0x1234_5678_9ABC)
    note_record(bench)


@scenario(
    "fault.record.not-replaced",
    "7.2.1",
    BY_A,
    "B write 0x6010 -> blocked",
    "FRCD 80000005 00000020 00000000 00005000",
    RECORD_A,
    "FSTS PPF PFO",
)
def record_not_replaced(bench: Bench) -> None:
    """A fault that is lost by overflow changes no bit of the record."""
    start(bench)
    bench.write("A", 0x5010)
    bench.write("B", 0x6010)
    note_record(bench)


@scenario(
    "fault.record.next-after-clearing",
    "7.2.1",
    BY_A,
    BY_B,
    "FRCD 80000005 00000028 00000000 00006000",
    RECORD_B,
    "FSTS PPF",
)
def next_after_clearing(bench: Bench) -> None:
    """Once F is cleared, another device's fault replaces every field of the old record."""
    start(bench)
    bench.write("A", 0x5010)
    write_record(bench, 12, F)
    bench.write("B", 0x6010)
    note_record(bench)


@scenario(
    "fault.record.index",
    "11.4.7.1",
    BY_A,
    "FSTS 0x2",
    BY_B,
    "FSTS 0x2",
    RECORD_B,
    "FSTS PPF",
)
def record_index(bench: Bench) -> None:
    """With one record, FRI is 0 for each fault; the other bits of FSTS are 0 beside PPF."""
    start(bench)
    bench.write("A", 0x5010)
    bench.note_register(FSTS)
    write_record(bench, 12, F)
    bench.write("B", 0x6010)
    bench.note_register(FSTS)


@scenario("fault.record.stays-while-off", "7.2.1", BY_A, RECORD_A, "FSTS PPF", RECORD_A, "FSTS PPF")
def record_stays_while_off(bench: Bench) -> None:
    """Turning translation off leaves the record and PPF pending."""
    start(bench)
    bench.write("A", 0x5010)
    bench.note_faults()
    bench.driver.disable()


@scenario("fault.record.off-and-on", "7.2.1", BY_A, BY_B, RECORD_B, "FSTS PPF")
def record_off_and_on(bench: Bench) -> None:
    """After translation was off, the next fault is recorded in the only record there is."""
    start(bench)
    bench.write("A", 0x5010)
    bench.driver.clear_faults()
    bench.driver.disable()
    bench.turn_on()
    bench.write("B", 0x6010)


# What clears F, and what does not.


def _written(name: str, title: str, cleared: bool, *parts: tuple[int, int, int]) -> None:
    """A record with F, and writes to parts of it: offset, value, size."""

    def stimulus(bench: Bench) -> None:
        start(bench)
        bench.write("A", 0x5010)
        for offset, value, size in parts:
            write_record(bench, offset, value, size)
        note_without_pasid(bench)

    stimulus.__doc__ = title
    raw = f"FRCD {'00000005' if cleared else '80000005'} 000000200000000000005000"
    expect = (BY_A, raw, "FSTS 0") if cleared else (BY_A, raw, RECORD_A, "FSTS PPF")
    scenario(f"fault.clear.{name}", "11.4.7.6", *expect)(stimulus)


_ONES = 0xFFFF_FFFF
_written(
    "by-last-quarter", "F is cleared by 32 bits of ones at byte 12, which change no other bit.", True, (12, _ONES, 4)
)
_written(
    "by-upper-half",
    "F is cleared by 64 bits of ones at byte 8, which change no other bit.",
    True,
    (8, _ONES << 32 | _ONES, 8),
)
_written("not-by-first-quarter", "Ones written to bytes 0 to 3 of a record change nothing.", False, (0, _ONES, 4))
_written("not-by-second-quarter", "Ones written to bytes 4 to 7 of a record change nothing.", False, (4, _ONES, 4))
_written("not-by-third-quarter", "Ones written to bytes 8 to 11 of a record change nothing.", False, (8, _ONES, 4))
_written(
    "not-by-lower-half", "64 bits of ones at byte 0 of a record change nothing.", False, (0, _ONES << 32 | _ONES, 8)
)
_written(
    "not-without-f",
    "Ones beside F, in the last quarter and in the upper half, change nothing.",
    False,
    (12, _ONES >> 1, 4),
    (8, (1 << 63) - 1, 8),
)
_written("twice", "Clearing F a second time changes nothing.", True, (12, F, 4), (12, F, 4))


# PPF, PFO and IQE in every order.

Step = Callable[[Bench], None]


def clear_f(bench: Bench) -> None:
    """Clear F."""
    write_record(bench, 12, F)


def clear_pfo(bench: Bench) -> None:
    """Clear PFO."""
    clear_status(bench, PFO)


def clear_iqe(bench: Bench) -> None:
    """Clear IQE, after the tail was brought back to the head: the bad descriptor is not fetched again."""
    bench.platform.write_register(IQT.offset, 0, 8)
    clear_status(bench, IQE)


def clear_all(bench: Bench) -> None:
    """Write ones to all of FSTS."""
    bench.platform.write_register(IQT.offset, 0, 8)
    clear_status(bench, 0xFFFF_FFFF)


def _order(name: str, title: str, steps: tuple[Step, ...], *expect: str) -> None:
    """A's fault recorded, B's lost, and the queue stopped; then steps of clearing, FSTS logged after each."""

    def stimulus(bench: Bench) -> None:
        start(bench)
        bench.write("A", 0x5010)
        bench.write("B", 0x6010)
        queue.start(bench)
        bench.driver.submit(0)
        bench.note_register(FSTS)
        for step in steps:
            step(bench)
            bench.note_register(FSTS)

    stimulus.__doc__ = title
    scenario(f"fault.status.{name}", "11.4.7.1", BY_A, BY_B, "FSTS 0x13", *expect)(stimulus)


_LEFT = (RECORD_A, "FSTS PPF")
_order(
    "f-pfo-iqe",
    "F, PFO, IQE are cleared in this order, each alone.",
    (clear_f, clear_pfo, clear_iqe),
    "FSTS 0x11",
    "FSTS 0x10",
    "FSTS 0x0",
    "FSTS 0",
)
_order(
    "pfo-iqe-f",
    "PFO, IQE, F are cleared in this order, each alone.",
    (clear_pfo, clear_iqe, clear_f),
    "FSTS 0x12",
    "FSTS 0x2",
    "FSTS 0x0",
    "FSTS 0",
)
_order(
    "iqe-f-pfo",
    "IQE, F, PFO are cleared in this order, each alone.",
    (clear_iqe, clear_f, clear_pfo),
    "FSTS 0x3",
    "FSTS 0x1",
    "FSTS 0x0",
    "FSTS 0",
)
_order(
    "all-at-once",
    "Ones in all of FSTS clear PFO and IQE; PPF stays until F is cleared.",
    (clear_all, clear_f),
    "FSTS 0x2",
    "FSTS 0x0",
    "FSTS 0",
)
_order(
    "zeros",
    "Zeros in FSTS clear nothing.",
    (lambda bench: clear_status(bench, 0),),
    "FSTS 0x13",
    RECORD_A,
    "FSTS IQE PPF PFO",
)
_order(
    "ppf-alone",
    "A one in FSTS.PPF or in FRI clears nothing.",
    (lambda bench: clear_status(bench, 0xFF02),),
    "FSTS 0x13",
    RECORD_A,
    "FSTS IQE PPF PFO",
)


@scenario("fault.overflow.again", "7.2.1", BY_A, BY_B, "FSTS 0x2", BY_B, "FSTS 0x3", RECORD_A, "FSTS PPF PFO")
def overflow_again(bench: Bench) -> None:
    """PFO cleared while the record is still in use: the next fault of another device sets it again."""
    start(bench)
    bench.write("A", 0x5010)
    bench.write("B", 0x6010)
    clear_pfo(bench)
    bench.note_register(FSTS)
    bench.write("B", 0x6010)
    bench.note_register(FSTS)


@scenario(
    "fault.overflow.between-functions",
    "7.2.1",
    *("B write 0x6010 -> blocked", "C write 0x7010 -> blocked"),
    "fault 0x05 B 0x6000 write",
    "FSTS PPF PFO",
)
def overflow_between_functions(bench: Bench) -> None:
    """Two functions of a device have different source-ids: their faults are not one."""
    unmapped(bench, "B", "C")
    bench.write("B", 0x6010)
    bench.write("C", 0x7010)


@scenario(
    "fault.compression.other-reason",
    "7.2.1",
    BY_A,
    "A write 0x6010 -> blocked",
    RECORD_A,
    "FSTS PPF PFO",
    allowed=(
        Allowed(
            COMPRESSION,
            (BY_A, "A write 0x6010 -> blocked", RECORD_A, "FSTS PPF"),
            Policy(compress_faults=True),
        ),
    ),
)
def compression_other_reason(bench: Bench) -> None:
    """A second fault of the same device with another reason is dropped or overflows; the first record is kept."""
    start(bench)
    bench.write("A", 0x5010)
    bench.write_root(0, 0)
    bench.driver.invalidate_everything()
    bench.write("A", 0x6010)


# Fault processing disable.


@scenario("fault.fpd.one-device-only", "7.1.3", BY_A, BY_B, RECORD_B, "FSTS PPF")
def one_device_only(bench: Bench) -> None:
    """FPD of one device does not silence another's faults."""
    bench.context("A", bench.new_table(), fpd=1)
    bench.context("B", bench.new_table(), domain=2)
    bench.turn_on()
    bench.write("A", 0x5010)
    bench.write("B", 0x6010)


@scenario("fault.fpd.no-fault-no-effect", "7.1.3", "A write 0x5010 -> 0x800010", "FSTS 0")
def fpd_without_fault(bench: Bench) -> None:
    """FPD changes nothing for a request that does not fault."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.context("A", table, fpd=1)
    bench.turn_on()
    bench.write("A", 0x5010)


@scenario("fault.fpd.overflow-not-set", "7.2.1", BY_A, BY_B, RECORD_A, "FSTS PPF")
def fpd_sets_no_overflow(bench: Bench) -> None:
    """A fault that FPD silences sets no PFO while the record is in use."""
    bench.context("A", bench.new_table())
    bench.context("B", bench.new_table(), domain=2, fpd=1)
    bench.turn_on()
    bench.write("A", 0x5010)
    bench.write("B", 0x6010)
