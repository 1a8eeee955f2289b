"""Chapters 5.1.2 and 9.9: who sends an interrupt request: devices on several buses, ordinary DMA, the I/O APIC."""

from iommu import Policy, SourceId
from iommu.registers import GCMD
from iommu.structures import SourceValidation
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.chapters.interrupts import GOOD, address, entry, put, source, start
from qemu.vtd.conformance.chapters.source_ids import ON_CONVENTIONAL, ON_FUNCTIONS, ON_HOST_BRIDGE, ON_PORTS
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.conformance.setups import WIDE, Setup
from qemu.vtd.topology import IO_APIC

BUS = SourceValidation.BUS


def _line(device: str, index: int, outcome: str) -> str:
    return f"{device} interrupt {address(index):#x} 0x0 -> {outcome}"


# Source validation of devices behind ports and bridges (3.4.1, 9.9).


def _device(id_: str, what: str, setup: Setup, device: str, *, named: str = "") -> None:
    """A device's requests are accepted by an entry for its source-id, and by no entry for a neighbour's.

    Faults are recorded under `named`, the first device with its source-id.
    """
    own = setup.topology.source_ids[device]
    neighbours = [own ^ 1 << bit for bit in (0, 3, 7, 8, 15)]
    lines = [_line(device, 0, GOOD)]
    for index in range(1, 6):
        lines += [_line(device, index, "blocked"), f"fault 0x26 {named or device} index {index}"]

    def stimulus(bench: Bench) -> None:
        start(bench)
        for index, sid in enumerate((own, *neighbours)):
            put(bench, index, entry() | source(sid))
            bench.interrupt(device, address(index))
            bench.take_faults()

    stimulus.__doc__ = f"{what}: its interrupts carry its source-id."
    scenario(id_, "9.9 SID", *lines, "FSTS 0", setup=setup)(stimulus)


_device("ir.device.msi", "An MSI of a device on bus 0", WIDE, "A")
_device("ir.device.msix", "An MSI-X of a device on bus 0", WIDE, "B")
_device("ir.device.second-function", "An MSI-X of a second function", WIDE, "C")
_device("ir.device.port", "A device behind a root port", ON_PORTS, "A")
_device("ir.device.last-function", "Function 7 of a device behind a root port", ON_PORTS, "B")
_device("ir.device.second-port", "A device behind a second root port", ON_PORTS, "C")
_device("ir.device.high-devfn", "A device with devfn 0xf0", ON_PORTS, "D")
_device("ir.device.host-bridge", "A device below a second host bridge", ON_HOST_BRIDGE, "A")
_device("ir.device.devfn-80", "A device with devfn 0x80", ON_HOST_BRIDGE, "D")
_device("ir.device.express-bridge", "A device behind a PCI Express to PCI bridge", ON_CONVENTIONAL, "A")
_device("ir.device.express-bridge-second", "A second device behind that bridge", ON_CONVENTIONAL, "B", named="A")
_device("ir.device.conventional-bridge", "A device behind a conventional PCI bridge", ON_CONVENTIONAL, "C")


def _range(id_: str, title: str, setup: Setup, device: str, good: list[int], bad: list[int]) -> None:
    """Ranges of buses (first << 8 | last) that hold the device's bus, and ranges that do not."""
    lines = [_line(device, index, GOOD) for index in range(len(good))]
    for index in range(len(good), len(good) + len(bad)):
        lines += [_line(device, index, "blocked"), f"fault 0x26 {device} index {index}"]

    def stimulus(bench: Bench) -> None:
        start(bench)
        for index, sid in enumerate(good + bad):
            put(bench, index, entry() | source(sid, svt=BUS))
            bench.interrupt(device, address(index))
            bench.take_faults()

    stimulus.__doc__ = title
    scenario(id_, "9.9 SVT", *lines, "FSTS 0", setup=setup)(stimulus)


_range("ir.bus.one", "A range of one bus, and its neighbours.", ON_PORTS, "A", [0x0101], [0x0000, 0x0202])
_range("ir.bus.first", "The first and the last bus of a range belong to it.", ON_PORTS, "A", [0x0102, 0x0001], [])
_range("ir.bus.empty", "A range whose last bus is below its first is empty.", ON_PORTS, "A", [], [0x0200, 0x0201])
_range(
    "ir.bus.high",
    "Ranges around bus 0x81: buses are compared as unsigned numbers.",
    ON_HOST_BRIDGE,
    "A",
    [0x8181],
    [0x8080, 0x8282, 0x0080],
)
_range("ir.bus.all", "The range of all buses.", ON_HOST_BRIDGE, "A", [0x00FF], [])

for _name, _mask in (("a", 0), ("c", 1), ("d", 2), ("b", 3)):

    def _functions(bench: Bench, sq: int = _mask) -> None:
        start(bench)
        put(bench, 1, entry() | source(ON_FUNCTIONS.topology.source_ids["A"], sq=sq))
        for device in "ABCD":
            bench.interrupt(device, address(1))
            bench.take_faults()

    _functions.__doc__ = f"An entry for function 0 with SQ {_mask}, used by functions 0, 1, 4 and 6."
    _users = {0: "A", 1: "AC", 2: "ACD", 3: "ABCD"}[_mask]
    _lines: list[str] = []
    for _user in "ABCD":
        _lines += (
            [_line(_user, 1, GOOD)]
            if _user in _users
            else [_line(_user, 1, "blocked"), f"fault 0x26 {_user} index 1"]
        )
    scenario(f"ir.functions.sq-{_mask}", "9.9 SQ", *_lines, "FSTS 0", setup=ON_FUNCTIONS)(_functions)


@scenario(
    "ir.device.renumbered",
    "9.9 SID",
    _line("B", 1, "blocked"),
    "fault 0x26 B index 1",
    _line("B", 2, GOOD),
    "FSTS 0",
    setup=ON_PORTS,
)
def renumbered(bench: Bench) -> None:
    """Interrupts of a device whose bus gets another number carry the new source-id."""
    old = bench.platform.source_ids["B"]
    start(bench)
    put(bench, 1, entry() | source(old))
    put(bench, 2, entry() | source(SourceId.of(0x4200 | old.devfn)))
    bench.renumber("port1", 0x42)
    bench.interrupt("B", address(1))
    bench.take_faults()
    bench.interrupt("B", address(2))


# Interrupt requests that a device writes by ordinary DMA (3.14, 5.1.2).


def _written(id_: str, title: str, contents: int, *expect: str, device: str = "B", translating: bool = False) -> None:
    """A device writes four bytes of its pattern to the address of entry 1."""

    def stimulus(bench: Bench) -> None:
        if translating:
            bench.start()
        start(bench)
        put(bench, 1, contents)
        bench.write_interrupt(device, address(1))

    stimulus.__doc__ = title
    scenario(id_, "3.14", *expect)(stimulus)


def _dma(outcome: str, *, device: str = "B", index: int = 1, length: int = 4) -> str:
    return f"{device} writes {length} bytes to {address(index):#x} -> {outcome}"


OWN = WIDE.topology.source_ids["B"]
_written("ir.dma.unchecked", "A DWORD that a device writes is an interrupt request.", entry(), _dma(GOOD), "FSTS 0")
_written(
    "ir.dma.reader",
    "The same from another device.",
    entry(),
    _dma(GOOD, device="A"),
    "FSTS 0",
    device="A",
)
_written(
    "ir.dma.translating",
    "The same while DMA is translated: the interrupt range is not.",
    entry(),
    _dma(GOOD),
    "FSTS 0",
    translating=True,
)
_written("ir.dma.own", "It carries the device's source-id.", entry() | source(OWN), _dma(GOOD), "FSTS 0")
_written(
    "ir.dma.other-device",
    "An entry for another device blocks it.",
    entry() | source(OWN ^ 8),
    _dma("blocked"),
    "fault 0x26 B index 1",
    "FSTS PPF",
)
_written(
    "ir.dma.other-bus",
    "An entry for other buses blocks it.",
    entry() | source(0x0102, svt=BUS),
    _dma("blocked"),
    "fault 0x26 B index 1",
    "FSTS PPF",
)
_written(
    "ir.dma.not-present",
    "An entry that is not present blocks it, and the record has the device's source-id.",
    entry(P=0),
    _dma("blocked"),
    "fault 0x22 B index 1",
    "FSTS PPF",
)


@scenario("ir.dma.off", "5.1.2", f"B writes 4 bytes to {0xFEE05000:#x} -> 0xfee05000 0x96969696", "FSTS 0")
def dma_off(bench: Bench) -> None:
    """While remapping is off, such a write passes unchanged."""
    bench.write_interrupt("B", 0xFEE0_5000)


MALFORMED = "the sources disagree which requests 0x29 is for (3.14)"


def _malformed(id_: str, title: str, offset: int, length: int) -> None:
    """A write in the interrupt range that is not a DWORD."""
    where = address(1) + offset
    line = f"B writes {length} bytes to {where:#x} -> blocked"

    def stimulus(bench: Bench) -> None:
        start(bench)
        put(bench, 1, entry())
        bench.write_interrupt("B", where, length)

    stimulus.__doc__ = title
    silent = Allowed(MALFORMED, (line, "FSTS 0"), Policy(malformed_interrupt_faults=False))
    scenario(id_, "3.14", line, "fault 0x29 B index 0", "FSTS PPF", allowed=(silent,))(stimulus)


_malformed("ir.dma.one-byte", "A write of one byte is not an interrupt request.", 0, 1)
_malformed("ir.dma.two-bytes", "A write of two bytes is not an interrupt request.", 0, 2)
_malformed("ir.dma.three-bytes", "A write of three bytes is not an interrupt request.", 0, 3)
_malformed("ir.dma.eight-bytes", "A write of eight bytes is not an interrupt request.", 0, 8)
_malformed("ir.dma.unaligned", "A write of four bytes that is not aligned is not an interrupt request.", 2, 4)


@scenario(
    "ir.dma.read",
    "3.14",
    f"A read {address(1):#x} -> blocked",
    "fault 0x29 A index 0",
    "FSTS PPF",
    allowed=(
        Allowed(
            MALFORMED,
            (f"A read {address(1):#x} -> blocked", "FSTS 0"),
            Policy(malformed_interrupt_faults=False),
        ),
    ),
)
def dma_read(bench: Bench) -> None:
    """A read in the interrupt range returns nothing."""
    start(bench)
    put(bench, 1, entry())
    bench.read("A", address(1))


# The I/O APIC (5.1.5.1). Its source-id is that of its scope in the DMAR: ff:00.0.

PIN = 9
LEVEL = 1 << 15
NAME = str(IO_APIC)


def redirection(index: int, *, vector: int = 0x55, level: bool = False) -> int:
    """A redirection entry in remappable format."""
    return (index & 0x7FFF) << 49 | 1 << 48 | (LEVEL if level else 0) | (index >> 15) << 11 | vector


def _pin(id_: str, title: str, written: int, contents: int, *expect: str, index: int = 1, **options: int) -> None:
    """A pin with this redirection entry is raised; the entry of the table at `index` is present."""
    line = f"pin {PIN} {written:#x} -> {expect[0]}"

    def stimulus(bench: Bench) -> None:
        start(bench)
        put(bench, index, contents)
        if options.get("compatible"):
            bench.platform.write_register(GCMD.offset, GCMD.make(IRE=1, CFI=1), 4)
        bench.pin(PIN, written)

    stimulus.__doc__ = title
    scenario(id_, "5.1.5.1", line, *expect[1:])(stimulus)


_pin("ir.pin.edge", "An edge-triggered pin.", redirection(1), entry(), GOOD, "FSTS 0")
_pin(
    "ir.pin.level",
    "A level-triggered pin.",
    redirection(1, level=True),
    entry(TM=1),
    "0xfee03000 0xc055",
    "FSTS 0",
)
_pin(
    "ir.pin.other-vector",
    "Vector and trigger mode of the message are those of the table, not of the pin.",
    redirection(1, vector=0x77, level=True),
    entry(),
    GOOD,
    "FSTS 0",
)
_pin("ir.pin.last-index", "Bits 63:49 are the index.", redirection(255), entry(), GOOD, "FSTS 0", index=255)
_pin(
    "ir.pin.own",
    "An entry for the I/O APIC's source-id.",
    redirection(1),
    entry() | source(IO_APIC),
    GOOD,
    "FSTS 0",
)
_pin(
    "ir.pin.other-source",
    "An entry for a device blocks the I/O APIC.",
    redirection(1),
    entry() | source(0x0020),
    "blocked",
    f"fault 0x26 {NAME} index 1",
    "FSTS PPF",
)
_pin(
    "ir.pin.other-bus",
    "An entry for bus 0 blocks the I/O APIC.",
    redirection(1),
    entry() | source(0x0000, svt=BUS),
    "blocked",
    f"fault 0x26 {NAME} index 1",
    "FSTS PPF",
)
_pin(
    "ir.pin.not-present",
    "An entry that is not present blocks the I/O APIC.",
    redirection(1),
    entry(P=0),
    "blocked",
    f"fault 0x22 {NAME} index 1",
    "FSTS PPF",
)
_pin(
    "ir.pin.beyond",
    "An index beyond the table blocks the I/O APIC; bit 11 of the redirection entry is index bit 15.",
    redirection(0x8001),
    entry(),
    "blocked",
    f"fault 0x21 {NAME} index 32769",
    "FSTS PPF",
)
COMPATIBLE = 0x12 << 56 | 0x43
_pin(
    "ir.pin.compatibility",
    "A redirection entry of compatibility format is blocked while CFI is 0.",
    COMPATIBLE,
    entry(),
    "blocked",
    f"fault 0x25 {NAME} index 0",
    "FSTS PPF",
)
_pin(
    "ir.pin.compatibility-allowed",
    "A redirection entry of compatibility format passes while CFI is 1.",
    COMPATIBLE,
    entry(),
    "0xfee12000 0x43",
    "FSTS 0",
    compatible=1,
)


@scenario("ir.pin.off", "5.1.2", f"pin {PIN} {COMPATIBLE | LEVEL:#x} -> 0xfee12000 0x8043", "FSTS 0")
def pin_off(bench: Bench) -> None:
    """While remapping is off, the I/O APIC's request passes unchanged."""
    bench.pin(PIN, COMPATIBLE | LEVEL)
