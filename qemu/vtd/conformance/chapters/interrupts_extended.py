"""Chapter 5.1, extended interrupt mode (IRTA.EIME): destinations of 32 bits, and no compatibility format."""

from iommu.registers import GCMD, IRTA
from iommu.structures import RemappedInterruptEntry
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.chapters.interrupts import GOOD, TABLE, A, address, entry, put, sent, source
from qemu.vtd.conformance.chapters.interrupts_entries import MODES, RESERVED
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import EXTENDED


def to(destination: int, **fields: int) -> int:
    """An entry for a 32-bit destination."""
    return RemappedInterruptEntry.make(**{"P": 1, "V": 0x55, "DST": destination} | fields)


def start(bench: Bench, *contents: int, extended: bool = True) -> None:
    """Turn remapping on with 32-bit destinations, and with these entries."""
    bench.memory.write(TABLE, bytes(0x1000))
    for index, each in enumerate(contents):
        put(bench, index, each)
    bench.driver.set_interrupt_table(TABLE, extended=extended)
    bench.driver.enable_interrupts()


def _accepted(id_: str, title: str, contents: list[int], outcomes: list[str]) -> None:
    """Each of these entries gives this message."""
    lines = [sent(index, outcome) for index, outcome in enumerate(outcomes)]

    def stimulus(bench: Bench) -> None:
        start(bench, *contents)
        for index in range(len(contents)):
            bench.interrupt("A", address(index))

    stimulus.__doc__ = title
    scenario(f"ir.extended.{id_}", "9.9 DST", *lines, "FSTS 0", setup=EXTENDED)(stimulus)


_accepted(
    "destination-bits",
    "Each bit of a 32-bit destination: bits 7:0 go to address bits 19:12, bits 31:8 to address bits 63:40.",
    [to(1 << bit) for bit in range(32)],
    [f"{0xFEE00000 | (1 << bit + 12 if bit < 8 else 1 << bit + 32):#x} 0x4055" for bit in range(32)],
)
_accepted(
    "destination",
    "A destination with many bits, physical and logical, with and without the hint.",
    [to(0x12345678, DM=dm, RH=rh) for dm in (0, 1) for rh in (0, 1)],
    [f"{0x1234_5600_FEE7_8000 | dm << 2 | rh << 3:#x} 0x4055" for dm in (0, 1) for rh in (0, 1)],
)
_accepted("broadcast", "Destination 0xffffffff.", [to(0xFFFFFFFF)], ["0xffffff00feeff000 0x4055"])
_accepted(
    "delivery-modes",
    "Every delivery mode, edge and level.",
    [to(0x100, DLM=mode, TM=tm) for mode in MODES.values() for tm in (0, 1)],
    [f"0x100fee00000 {0x4055 | mode << 8 | tm << 15:#x}" for mode in MODES.values() for tm in (0, 1)],
)
_accepted("source", "Source validation is the same.", [to(0x100) | source(A)], ["0x100fee00000 0x4055"])


def _refused(bits: str, contents: list[int]) -> None:
    """Each of these entries is refused for a reserved bit."""
    lines: list[str] = []
    for index in range(len(contents)):
        lines += [sent(index, "blocked"), f"fault 0x24 A index {index}"]

    def stimulus(bench: Bench) -> None:
        start(bench, *contents)
        for index in range(len(contents)):
            bench.interrupt("A", address(index))
            bench.take_faults()

    stimulus.__doc__ = f"Bits {bits} of an entry are reserved in this mode too."
    scenario(f"ir.extended.bits-{bits}", "5.1.4 0x24", *lines, "FSTS 0", setup=EXTENDED)(stimulus)


for _bits, _range in RESERVED.items():
    _refused(_bits, [to(3) | 1 << bit for bit in _range])


def _compatibility(id_: str, title: str, *, allowed: int, extended: bool, passes: bool) -> None:
    """A request of compatibility format."""
    line = "A interrupt 0xfee05000 0x41 -> "
    lines = (f"{line}0xfee05000 0x41", "FSTS 0") if passes else (f"{line}blocked", "fault 0x25 A index 0", "FSTS PPF")

    def stimulus(bench: Bench) -> None:
        start(bench, extended=extended)
        bench.platform.write_register(GCMD.offset, GCMD.make(IRE=1, CFI=allowed), 4)
        bench.interrupt("A", 0xFEE0_5000, 0x41)

    stimulus.__doc__ = title
    scenario(f"ir.extended.{id_}", "5.1.2.1", *lines, setup=EXTENDED)(stimulus)


_compatibility(
    "compatibility",
    "In extended mode a request of compatibility format is blocked while CFI is 0.",
    allowed=0,
    extended=True,
    passes=False,
)
_compatibility(
    "compatibility-allowed",
    "In extended mode a request of compatibility format is blocked even if CFI is 1.",
    allowed=1,
    extended=True,
    passes=False,
)
_compatibility(
    "off-compatibility-allowed",
    "Without EIME, CFI counts on a unit that could have the mode.",
    allowed=1,
    extended=False,
    passes=True,
)


@scenario("ir.extended.off", "9.9 DST", sent(0, GOOD), "FSTS 0", setup=EXTENDED)
def extended_off(bench: Bench) -> None:
    """Without EIME destinations have 8 bits, on a unit that could have the mode."""
    start(bench, entry(), extended=False)
    bench.interrupt("A", address(0))


@scenario(
    "ir.extended.latched",
    "6.7",
    sent(0, "0x300fee00000 0x4055"),
    sent(0, GOOD),
    "FSTS 0",
    setup=EXTENDED,
)
def latched(bench: Bench) -> None:
    """EIME is latched by SIRTP, like the address of the table."""
    start(bench, entry())
    bench.platform.write_register(IRTA.offset, IRTA.make(IRTA=TABLE, S=7), 8)
    bench.interrupt("A", address(0))
    bench.platform.write_register(GCMD.offset, GCMD.make(IRE=1, SIRTP=1), 4)
    bench.interrupt("A", address(0))


@scenario(
    "ir.extended.pin",
    "5.1.5.1",
    "pin 9 0x1000000000055 -> 0x1234500fee67000 0x4055",
    "FSTS 0",
    setup=EXTENDED,
)
def pin(bench: Bench) -> None:
    """An I/O APIC pin reaches a 32-bit destination."""
    start(bench, to(0x01234567))
    bench.pin(9, 1 << 48 | 0x55)


@scenario(
    "ir.extended.msix",
    "9.9 DST",
    f"B interrupt {address(0):#x} 0x0 -> 0x1234500fee67000 0x4055",
    "FSTS 0",
    setup=EXTENDED,
)
def msix(bench: Bench) -> None:
    """An MSI-X reaches a 32-bit destination."""
    start(bench, to(0x01234567))
    bench.interrupt("B", address(0))
