"""Spec 7: which faults are recorded, how, and what happens on overflow."""

from iommu import Policy
from iommu.registers import FECTL, FRCD, FSTS
from iommu.structures import ContextEntry
from qemu.vtd.conformance.bench import NOWHERE, P0, Bench, R, W
from qemu.vtd.conformance.scenario import Allowed, scenario

COMPRESSION = "a fault may be dropped while another with the same source-id is pending (7.2.1)"


def unmapped(bench: Bench, *devices: str) -> None:
    """Give each device a valid context entry with nothing mapped, and enable translation."""
    for domain, device in enumerate(devices, 1):
        bench.context(device, bench.new_table(), domain=domain)
    bench.turn_on()


# Fault processing disable: qualified faults are not recorded, but the request is still blocked.


def _fpd_context(code: int, title: str, *, also: int = 0, address: int = 0x5010, **fields: int) -> None:
    """FPD with a fault in the context entry or before the walk."""

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, 0x5000, P0)
        entry = ContextEntry.make(**{"P": 1, "FPD": 1, "AW": 2, "DID": 1, "SSPTPTR": table, **fields})
        bench.write_context("A", entry | also)
        bench.turn_on()
        bench.write("A", address)

    stimulus.__doc__ = f"FPD suppresses the fault: {title}."
    scenario(f"legacy.fpd.{code:02x}", "7.1.3", f"A write {address:#x} -> blocked", "FSTS 0")(stimulus)


_fpd_context(0x02, "context entry not present", P=0)
_fpd_context(0x03, "unsupported address width", AW=3)
_fpd_context(0x0B, "reserved bit in the context entry", also=1 << 4)
_fpd_context(0x04, "address beyond the levels", AW=1, address=1 << 39 | 0x5010)


def _fpd_walk(code: int, title: str, leaf: int, *, access: str = "write", level: int = 1) -> None:
    """FPD with a fault in a second-stage entry."""

    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, 0x5000, P0)
        bench.memory.write_u64(bench.entry(table, 0x5000, level), leaf)
        bench.context("A", table, fpd=1)
        bench.turn_on()
        (bench.read if access == "read" else bench.write)("A", 0x5010)

    stimulus.__doc__ = f"FPD suppresses the fault: {title}."
    scenario(f"legacy.fpd.{code:02x}", "7.1.3", f"A {access} 0x5010 -> blocked", "FSTS 0")(stimulus)


_fpd_walk(0x05, "no write permission", P0 | R)
_fpd_walk(0x06, "no read permission", P0 | W, access="read")
_fpd_walk(0x07, "second-stage table unreadable", NOWHERE | R | W, level=2)
_fpd_walk(0x0C, "reserved bit in a page entry", P0 | R | W | 1 << 11)
_fpd_walk(0x0E, "page in the interrupt range", 0xFEE01000 | R | W)


# The record.


@scenario(
    "legacy.record.page-address", "11.4.7.6", "A write 0x5abc -> blocked", "fault 0x05 A 0x5000 write", "FSTS PPF"
)
def record_holds_the_page(bench: Bench) -> None:
    """FI holds the page address, without the offset."""
    unmapped(bench, "A")
    bench.write("A", 0x5ABC)


@scenario("legacy.record.read", "11.4.7.6", "A read 0x7000 -> blocked", "fault 0x06 A 0x7000 read", "FSTS PPF")
def record_tells_reads_from_writes(bench: Bench) -> None:
    """T1 is 1 for a read."""
    unmapped(bench, "A")
    bench.read("A", 0x7000)


@scenario(
    "legacy.record.all-bits",
    "11.4.7.6",
    "C write 0x5010 -> blocked",
    "FRCD 0x80000005000000290000000000005000",
    "fault 0x05 C 0x5000 write",
    "FSTS PPF",
)
def record_bit_by_bit(bench: Bench) -> None:
    """All 128 bits of a record: F, reason 5, source-id 0x29, page 0x5000, and 0 everywhere else, PASID included."""
    unmapped(bench, "C")
    bench.write("C", 0x5010)
    for fault in bench.driver.faults():
        bench.note(f"FRCD {fault.raw:#034x}")


@scenario(
    "legacy.record.top-table",
    "11.4.7.6",
    "C write 0x5010 -> blocked",
    "FRCD 0x80000003000000290000000000005000",
    "fault 0x03 C 0x5000 write",
    "FSTS PPF",
)
def record_of_a_top_table(bench: Bench) -> None:
    """All 128 bits of the record where the top table cannot be read: 0 in PASID, as in any record without PP."""
    bench.context("C", NOWHERE)
    bench.turn_on()
    bench.write("C", 0x5010)
    for fault in bench.driver.faults():
        bench.note(f"FRCD {fault.raw:#034x}")


@scenario(
    "legacy.record.stays-readable",
    "11.4.7.6",
    "A write 0x5010 -> blocked",
    "F 0",
    "fault 0x05 A 0x5000 write",
    "FSTS 0",
)
def record_stays_readable(bench: Bench) -> None:
    """Clearing F also clears PPF, and leaves the rest of the record readable."""
    unmapped(bench, "A")
    bench.write("A", 0x5010)
    bench.driver.clear_record(0)
    raw = bench.driver.record(0)
    bench.note(f"F {FRCD.F.get(raw)}")
    bench.note_record(raw)


@scenario(
    "legacy.record.only-f-can-be-written",
    "11.4.7.6",
    "A write 0x5010 -> blocked",
    "fault 0x05 A 0x5000 write",
    "FSTS PPF",
)
def record_is_read_only(bench: Bench) -> None:
    """Writing 0 to a record changes nothing: F is cleared by writing 1, the rest is read-only."""
    unmapped(bench, "A")
    bench.write("A", 0x5010)
    for part in range(0, 16, 8):
        bench.platform.write_register(bench.driver.capabilities.fault_record_offset + part, 0, 8)


# Status.


@scenario(
    "legacy.status.ppf-is-computed", "11.4.7.1", "A write 0x5010 -> blocked", "fault 0x05 A 0x5000 write", "FSTS PPF"
)
def ppf_cannot_be_written(bench: Bench) -> None:
    """Writing 1 to FSTS.PPF does not clear it; only clearing every F does."""
    unmapped(bench, "A")
    bench.write("A", 0x5010)
    bench.platform.write_register(FSTS.offset, FSTS.PPF.mask, 4)


@scenario(
    "legacy.overflow.other-device",
    "7.2.1",
    "A write 0x5010 -> blocked",
    "B write 0x6010 -> blocked",
    "fault 0x05 A 0x5000 write",
    "FSTS PPF PFO",
)
def overflow(bench: Bench) -> None:
    """With the only record in use, another device's fault is lost and PFO is set."""
    unmapped(bench, "A", "B")
    bench.write("A", 0x5010)
    bench.write("B", 0x6010)


@scenario(
    "legacy.overflow.blocks-recording",
    "7.2.1",
    "A write 0x5010 -> blocked",
    "B write 0x6010 -> blocked",
    "B write 0x7010 -> blocked",
    "FSTS PFO",
)
def overflow_blocks_recording(bench: Bench) -> None:
    """While PFO is set no fault is recorded, even when the record is free again."""
    unmapped(bench, "A", "B")
    bench.write("A", 0x5010)
    bench.write("B", 0x6010)
    bench.driver.clear_record(0)
    bench.write("B", 0x7010)


@scenario(
    "legacy.overflow.cleared",
    "7.2.1",
    "A write 0x5010 -> blocked",
    "B write 0x6010 -> blocked",
    "B write 0x7010 -> blocked",
    "fault 0x05 B 0x7000 write",
    "FSTS PPF",
)
def overflow_cleared(bench: Bench) -> None:
    """After F and PFO are cleared, faults are recorded again."""
    unmapped(bench, "A", "B")
    bench.write("A", 0x5010)
    bench.write("B", 0x6010)
    bench.driver.clear_faults()
    bench.write("B", 0x7010)


@scenario(
    "legacy.compression.same-device",
    "7.2.1",
    "A write 0x5010 -> blocked",
    "A write 0x6010 -> blocked",
    "fault 0x05 A 0x5000 write",
    "FSTS PPF PFO",
    allowed=(
        Allowed(
            COMPRESSION,
            (
                "A write 0x5010 -> blocked",
                "A write 0x6010 -> blocked",
                "fault 0x05 A 0x5000 write",
                "FSTS PPF",
            ),
            Policy(compress_faults=True),
        ),
    ),
)
def compression(bench: Bench) -> None:
    """A second fault of the same device overflows or is dropped by compression; the first record is kept."""
    unmapped(bench, "A")
    bench.write("A", 0x5010)
    bench.write("A", 0x6010)


@scenario(
    "legacy.compression.after-clearing",
    "7.2.1",
    "A write 0x5010 -> blocked",
    "A write 0x6010 -> blocked",
    "fault 0x05 A 0x6000 write",
    "FSTS PPF",
)
def no_compression_once_cleared(bench: Bench) -> None:
    """After the record is cleared, the device's next fault is recorded, not compressed."""
    unmapped(bench, "A")
    bench.write("A", 0x5010)
    bench.driver.clear_faults()
    bench.write("A", 0x6010)


# The fault event.


def note_control(bench: Bench) -> None:
    """Log IM and IP of FECTL."""
    control = FECTL(bench.platform.read_register(FECTL.offset, 4))
    bench.note(f"FECTL IM {control.IM} IP {control.IP}")


@scenario(
    "legacy.event.held-back",
    "7.3",
    "FECTL IM 1 IP 0",
    "A write 0x5010 -> blocked",
    "FECTL IM 1 IP 1",
    "FECTL IM 1 IP 0",
    "FSTS 0",
)
def event_held_back(bench: Bench) -> None:
    """With IM set, as after reset, a fault leaves the event pending; clearing the fault clears IP."""
    unmapped(bench, "A")
    note_control(bench)
    bench.write("A", 0x5010)
    note_control(bench)
    bench.driver.clear_faults()
    note_control(bench)


@scenario(
    "legacy.event.unmasked-late",
    "7.3",
    "A write 0x5010 -> blocked",
    "FECTL IM 1 IP 1",
    "FECTL IM 0 IP 0",
    "fault 0x05 A 0x5000 write",
    "FSTS PPF",
)
def event_unmasked_late(bench: Bench) -> None:
    """Clearing IM sends the pending event and clears IP; the fault stays pending."""
    unmapped(bench, "A")
    bench.write("A", 0x5010)
    note_control(bench)
    bench.platform.write_register(FECTL.offset, 0, 4)
    note_control(bench)


@scenario(
    "legacy.event.sent-at-once",
    "7.3",
    "A write 0x5010 -> blocked",
    "FECTL IM 0 IP 0",
    "fault 0x05 A 0x5000 write",
    "FSTS PPF",
)
def event_sent_at_once(bench: Bench) -> None:
    """With IM clear, the event is sent when the fault is recorded, and IP stays clear."""
    unmapped(bench, "A")
    bench.platform.write_register(FECTL.offset, 0, 4)
    bench.write("A", 0x5010)
    note_control(bench)


@scenario(
    "legacy.record.two-causes-one-request",
    "7.1.3",
    "A write 0x8000005010 -> blocked",
    "fault 0x04 A 0x8000005000 write",
    "FSTS PPF",
)
def width_before_walk(bench: Bench) -> None:
    """An address beyond the width is reported before an unreadable table is accessed."""
    bench.context("A", NOWHERE, levels=3)
    bench.turn_on()
    bench.write("A", 1 << 39 | 0x5010)
