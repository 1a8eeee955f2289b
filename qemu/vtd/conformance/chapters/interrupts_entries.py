"""Chapter 9.9, entry by entry: every reserved bit, every field of the message, and which fault comes first."""

from collections.abc import Iterable

from iommu import Policy
from iommu.structures import SourceValidation
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.chapters.interrupts import GOOD, A, address, entry, put, sent, source, start
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.platform import DEVICES

RESERVED = {
    "12-14": range(12, 15),
    "24-31": range(24, 32),
    "84-127": range(84, 128),
}
"""The reserved bits of an entry in remapped form (9.9), whatever the size of destinations."""

RESERVED_DESTINATION = {"32-39": range(32, 40), "48-63": range(48, 64)}
"""The bits of DST that are reserved while destinations have 8 bits (9.9)."""

RESERVED_MODES = (3, 6)
"""The reserved values of DLM."""

MODES = {"fixed": 0, "lowest-priority": 1, "smi": 2, "nmi": 4, "init": 5, "extint": 7}
"""The values of DLM."""


def _tries(bench: Bench, contents: Iterable[int]) -> None:
    """One entry after the other: the request that uses it, and the fault."""
    start(bench)
    for index, each in enumerate(contents):
        put(bench, index, each)
        bench.interrupt("A", address(index))
        bench.take_faults()


def _refused(id_: str, title: str, contents: list[int]) -> None:
    """Each of these entries is refused for a reserved field."""
    lines: list[str] = []
    for index in range(len(contents)):
        lines += [sent(index, "blocked"), f"fault 0x24 A index {index}"]

    def stimulus(bench: Bench) -> None:
        _tries(bench, contents)

    stimulus.__doc__ = title
    scenario(id_, "5.1.4 0x24", *lines, "FSTS 0")(stimulus)


for _bits, _range in (RESERVED | RESERVED_DESTINATION).items():
    _refused(
        f"ir.reserved.bits-{_bits}",
        f"Bits {_bits} of an entry are reserved, each of them.",
        [entry() | 1 << bit for bit in _range],
    )
_refused(
    "ir.reserved.delivery-modes",
    "Delivery modes 3 and 6 are reserved, in either trigger and destination mode.",
    [entry(DLM=mode, TM=tm, DM=dm) for mode in RESERVED_MODES for tm in (0, 1) for dm in (0, 1)],
)


def _accepted(id_: str, title: str, contents: list[int], outcomes: list[str]) -> None:
    """Each of these entries gives this message."""
    lines = [sent(index, outcome) for index, outcome in enumerate(outcomes)]

    def stimulus(bench: Bench) -> None:
        _tries(bench, contents)

    stimulus.__doc__ = title
    scenario(id_, "9.9", *lines, "FSTS 0")(stimulus)


_accepted(
    "ir.entry.ignored-bits",
    "Bits 11:8 of an entry are for software, each of them.",
    [entry() | 1 << bit for bit in range(8, 12)],
    [GOOD] * 4,
)
_accepted(
    "ir.entry.vector-bits",
    "Each bit of the vector.",
    [entry(1 << bit, 3) for bit in range(8)],
    [f"0xfee03000 {0x4000 | 1 << bit:#x}" for bit in range(8)],
)
_accepted(
    "ir.entry.destination-bits",
    "Each bit of an 8-bit destination.",
    [entry(0x55, 1 << bit) for bit in range(8)],
    [f"{0xFEE00000 | 0x1000 << bit:#x} 0x4055" for bit in range(8)],
)
for _name, _mode in MODES.items():
    _accepted(
        f"ir.entry.modes-{_name}",
        f"Delivery mode {_mode} with every destination mode, redirection hint and trigger mode.",
        [entry(DLM=_mode, DM=dm, RH=rh, TM=tm) for dm in (0, 1) for rh in (0, 1) for tm in (0, 1)],
        [
            f"{0xFEE03000 | dm << 2 | rh << 3:#x} {0x4055 | _mode << 8 | tm << 15:#x}"
            for dm in (0, 1)
            for rh in (0, 1)
            for tm in (0, 1)
        ],
    )


# What an entry may hold while another rule applies (5.1.4): the order of the checks, and FPD.

WRONG_SOURCE = source(A ^ 8)
RESERVED_BIT = 1 << 100


def _ordered(id_: str, title: str, contents: int, code: int, *, recorded: bool = True) -> None:
    """One entry with several faults, of which `code` is found first."""
    record = (f"fault {code:#04x} A index 1", "FSTS PPF") if recorded else ("FSTS 0",)

    def stimulus(bench: Bench) -> None:
        start(bench)
        put(bench, 1, contents)
        bench.interrupt("A", address(1))

    stimulus.__doc__ = title
    scenario(id_, "5.1.4", sent(1, "blocked"), *record)(stimulus)


_ordered(
    "ir.order.absent-reserved",
    "In an entry that is not present, reserved bits do not count.",
    entry(P=0) | RESERVED_BIT,
    0x22,
)
_ordered(
    "ir.order.absent-source",
    "In an entry that is not present, the source does not count.",
    entry(P=0) | WRONG_SOURCE,
    0x22,
)
_ordered(
    "ir.order.reserved-source",
    "The source is validated before the reserved bits of an entry.",
    entry() | RESERVED_BIT | WRONG_SOURCE,
    0x26,
)
for _name, _contents, _code in (
    ("absent", entry(P=0, FPD=1), 0x22),
    ("reserved", entry(FPD=1) | RESERVED_BIT, 0x24),
    ("source", entry(FPD=1) | WRONG_SOURCE, 0x26),
):
    _ordered(f"ir.fpd.{_name}", f"With FPD, the fault {_code:#x} is not recorded.", _contents, _code, recorded=False)


@scenario("ir.fpd.good", "9.9", sent(1, GOOD), "FSTS 0")
def fpd_good(bench: Bench) -> None:
    """FPD changes nothing where there is no fault."""
    start(bench)
    put(bench, 1, entry(FPD=1))
    bench.interrupt("A", address(1))


# Data beyond the subhandle (5.1.2.2). A's MSI has 16 bits of data, B's MSI-X has 32.


def _with_data(id_: str, title: str, data: int, outcome: str, *expect: str, present: int = 1, size: int = 7) -> None:
    """A request of B with SHV, to entry 5."""

    def stimulus(bench: Bench) -> None:
        start(bench, size=size)
        put(bench, 5, entry(P=present))
        bench.interrupt("B", address(3, subhandle=True), data)

    stimulus.__doc__ = title
    line = f"B interrupt {address(3, subhandle=True):#x} {data:#x} -> {outcome}"
    scenario(id_, "5.1.2.2", line, *expect)(stimulus)


RESERVED_DATA = ("blocked", "fault 0x20 B index 0", "FSTS PPF")
_with_data("ir.data.subhandle", "A 32-bit subhandle without upper bits is good.", 2, GOOD, "FSTS 0")
for _bit in range(16, 32):
    _with_data(f"ir.data.bit-{_bit}", f"Bit {_bit} of the data is reserved with SHV.", 2 | 1 << _bit, *RESERVED_DATA)
_with_data(
    "ir.data.before-entry", "Reserved data are found before an absent entry.", 0x1_0002, *RESERVED_DATA, present=0
)
_with_data("ir.data.before-index", "Reserved data are found before the index.", 0x1_0002, *RESERVED_DATA, size=0)


@scenario("ir.data.unused", "5.1.2.2", f"B interrupt {address(5):#x} 0xffffffff -> {GOOD}", "FSTS 0")
def unused_data(bench: Bench) -> None:
    """Without SHV none of the 32 bits of data count."""
    start(bench)
    put(bench, 5, entry())
    bench.interrupt("B", address(5), 0xFFFF_FFFF)


# Several faults and one record (7.2).


@scenario(
    "ir.record.other-device",
    "7.2.1",
    sent(1, "blocked"),
    f"B interrupt {address(2):#x} 0x0 -> blocked",
    "fault 0x22 A index 1",
    "FSTS PPF PFO",
)
def record_other_device(bench: Bench) -> None:
    """A second blocked request, of another device, overflows the one record."""
    start(bench)
    bench.interrupt("A", address(1))
    bench.interrupt("B", address(2))


@scenario(
    "ir.record.after-dma",
    "7.2.1",
    "A write 0x6000 -> blocked",
    f"B interrupt {address(2):#x} 0x0 -> blocked",
    "fault 0x05 A 0x6000 write",
    "FSTS PPF PFO",
)
def record_after_dma(bench: Bench) -> None:
    """A blocked interrupt request after a blocked DMA request of another device: one record for both kinds."""
    bench.start()
    start(bench)
    bench.write("A", 0x6000)
    bench.interrupt("B", address(2))


@scenario(
    "ir.record.before-dma",
    "7.2.1",
    f"B interrupt {address(2):#x} 0x0 -> blocked",
    "fault 0x22 B index 2",
    "A write 0x6000 -> blocked",
    "fault 0x05 A 0x6000 write",
    "FSTS PPF",
)
def record_before_dma(bench: Bench) -> None:
    """Cleared, the record of an interrupt's fault leaves nothing behind in that of a DMA fault."""
    bench.start()
    start(bench)
    bench.interrupt("B", address(2))
    bench.take_faults()
    bench.write("A", 0x6000)


@scenario(
    "ir.record.layout",
    "11.4.7.6",
    sent(0xA5, "blocked"),
    f"FRCD {1 << 127 | 0x22 << 96 | DEVICES['A'] << 64 | 0xA5 << 48:#x}",
    "fault 0x22 A index 165",
    "FSTS PPF",
)
def record_all_bits(bench: Bench) -> None:
    """The record of an interrupt's fault: F, the reason, the source-id, the index in bits 63:48, nothing else."""
    start(bench)
    bench.interrupt("A", address(0xA5))
    bench.note(f"FRCD {bench.driver.record(0):#x}")


# Reserved source validation (9.9).

UNKNOWN_VALIDATION = "SVT 3 is reserved; the sources disagree whether that is 0x24 or 0x26 (9.9)"
for _sq in range(4):

    def _reserved_validation(bench: Bench, sq: int = _sq) -> None:
        start(bench)
        put(bench, 1, entry() | A << 64 | sq << 80 | 3 << 82)
        bench.interrupt("A", address(1))

    _reserved_validation.__doc__ = f"SVT 3 with SQ {_sq}: blocked, even for the device in SID."
    scenario(
        f"ir.source.svt-3-sq-{_sq}",
        "9.9 SVT",
        sent(1, "blocked"),
        "fault 0x24 A index 1",
        "FSTS PPF",
        allowed=(
            Allowed(
                UNKNOWN_VALIDATION,
                (sent(1, "blocked"), "fault 0x26 A index 1", "FSTS PPF"),
                Policy(reserved_validation_fails=True),
            ),
        ),
    )(_reserved_validation)


# Every SQ, with SIDs that differ in one bit (9.9).


def _each_bit(sq: int, ignored: int) -> None:
    """SVT 1: a SID that differs in one bit is accepted only if SQ ignores that bit."""
    lines: list[str] = []
    for bit in range(16):
        good = ignored >> bit & 1
        lines += [sent(bit, GOOD)] if good else [sent(bit, "blocked"), f"fault 0x26 A index {bit}"]

    def stimulus(bench: Bench) -> None:
        _tries(bench, [entry() | source(A ^ 1 << bit, svt=SourceValidation.SOURCE_ID, sq=sq) for bit in range(16)])

    stimulus.__doc__ = f"SVT 1 with SQ {sq}: each bit of SID by itself."
    scenario(f"ir.source.bits-sq-{sq}", "9.9 SQ", *lines, "FSTS 0")(stimulus)


for _sq, _bits_ignored in enumerate((0b000, 0b100, 0b110, 0b111)):
    _each_bit(_sq, _bits_ignored)


_accepted(
    "ir.source.unchecked-each-sq",
    "With SVT 0 neither SQ nor SID counts.",
    [entry() | source(sid, svt=SourceValidation.NONE, sq=sq) for sq in range(4) for sid in (0, 0xFFFF)],
    [GOOD] * 8,
)
_accepted(
    "ir.source.bus-each-sq",
    "With SVT 2 SQ does not count.",
    [entry() | source(0x0000, svt=SourceValidation.BUS, sq=sq) for sq in range(4)],
    [GOOD] * 4,
)
