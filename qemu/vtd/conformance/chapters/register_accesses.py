"""Spec 11.2: accesses that software is not to make: of 8 and 16 bits, unaligned, or of two registers at once.

The specification says how software has to access registers, and not what any other access does. So these scenarios
allow all that a unit may reasonably do: nothing, or what was asked. What stays is that a read changes nothing (11.3),
and that a write does not change a register beside the one written, nor carry out a command that was not given.
"""

from __future__ import annotations

from collections.abc import Callable

from iommu.registers import (
    CCMD,
    FEADDR,
    FECTL,
    FEDATA,
    FEUADDR,
    FSTS,
    GCMD,
    GSTS,
    IEADDR,
    IECTL,
    IEDATA,
    IEUADDR,
    IQH,
    RTADDR,
    Granularity,
    Register,
)
from qemu.vtd.conformance import queue
from qemu.vtd.conformance.bench import P0, Bench
from qemu.vtd.conformance.chapters.register_bits import REGISTERS
from qemu.vtd.conformance.scenario import Allowed, scenario

DONE = "what such an access does is not defined (11.2): a unit may do what it asks for"
SPLIT = "a unit may take apart an access into aligned ones of 32 bits (11.2)"
IGNORED = "what such an access does is not defined (11.2): a unit may ignore it"
_WINDOW = 0xC0
"""The registers from VER to IRTA: every byte of them is read."""


def _values(bench: Bench) -> dict[int, int]:
    """Every register that keeps anything, and the fault record, by offset."""
    read = bench.platform.read_register
    values = {row.offset: read(row.offset, row.bits // 8) for row in REGISTERS.values()}
    values[GSTS.offset] = read(GSTS.offset, 4)
    record = bench.driver.record(0)
    return values | {-1: record}


def _note_changes(bench: Bench, before: dict[int, int], *expected: type[Register]) -> None:
    """Log whether a register other than those expected has changed."""
    now = _values(bench)
    changed = [f"{at:#x}" for at in now if now[at] != before[at] and at not in [one.offset for one in expected]]
    bench.note(f"changed besides: {' '.join(changed) or 'none'}")


# Reads.


def _busy(bench: Bench) -> None:
    """Give the registers something that a careless read could lose: a fault, a queue error, pending events."""
    bench.start()
    bench.write("A", 0x6010)
    queue.start(bench)
    bench.driver.submit(0)
    for layout, value in ((FEDATA, 0x1234), (FEADDR, 0xFEE0_1000), (IEDATA, 0x4321)):
        bench.platform.write_register(layout.offset, value, 4)


def _read(name: str, title: str, size: int, step: int, shift: int = 0) -> None:
    """Reads of `size` bytes all over the registers, at offsets of `shift` beyond each multiple of `step`."""
    before = "A write 0x6010 -> blocked"
    after = ("changed besides: none", "fault 0x05 A 0x6000 write", "FSTS IQE PPF")

    def stimulus(bench: Bench) -> None:
        _busy(bench)
        values, read = _values(bench), bench.platform.read_register
        whole = b"".join(read(at, 4).to_bytes(4, "little") for at in range(0, _WINDOW + 8, 4))
        offsets = range(shift, _WINDOW, step)
        seen = [read(at, size) for at in offsets]
        if not any(seen):
            kind = "0"
        else:
            same = seen == [int.from_bytes(whole[at : at + size], "little") for at in offsets]
            kind = "the bytes of the registers" if same else "something else"
        bench.note(f"read: {kind}")
        _note_changes(bench, values)

    stimulus.__doc__ = title
    allowed = tuple(
        Allowed(because, (before, f"read: {what}", *after))
        for because, what in (
            (DONE, "the bytes of the registers"),
            ("what such a read returns is not defined (11.2)", "something else"),
        )
    )
    id_ = f"registers.access.read-{name}"
    scenario(id_, "11.2, 11.3", before, "read: 0", *after, allowed=allowed)(stimulus)


_read("8", "Reads of 8 bits change nothing.", 1, 1)
_read("16", "Reads of 16 bits change nothing.", 2, 2)
_read("16-unaligned", "Unaligned reads of 16 bits change nothing.", 2, 4, shift=1)
_read("32-unaligned", "Unaligned reads of 32 bits change nothing.", 4, 4, shift=2)
_read("64-unaligned", "Unaligned reads of 64 bits change nothing.", 8, 8, shift=4)


# Writes.


def _write(
    name: str,
    title: str,
    access: tuple[int, int, int],
    register: type[Register],
    *lines: str,
    done: tuple[str, ...],
    prepare: Callable[[Bench], None] = lambda bench: None,
    then: Callable[[Bench], None] = lambda bench: None,
    because: str = DONE,
    moves: tuple[type[Register], ...] = (),
) -> None:
    """One write (offset, value, size): a unit may ignore it, or change the register as asked, and no other."""

    def stimulus(bench: Bench) -> None:
        prepare(bench)
        before = _values(bench)
        offset, value, size = access
        bench.platform.write_register(offset, value, size)
        bench.note_register(register)
        _note_changes(bench, before, register, *moves)
        then(bench)

    stimulus.__doc__ = title
    allowed = (Allowed(because, done),)
    scenario(f"registers.access.write-{name}", "11.2", *lines, allowed=allowed)(stimulus)


NONE = "changed besides: none"
_write(
    "8-fectl",
    "A write of 8 bits that would unmask the fault event.",
    (FECTL.offset + 3, 0, 1),
    FECTL,
    *("FECTL 0x80000000", NONE, "FSTS 0"),
    done=("FECTL 0x0", NONE, "FSTS 0"),
)
_write(
    "16-fedata",
    "A write of 16 bits to the data of the fault event.",
    (FEDATA.offset, 0x1234, 2),
    FEDATA,
    *("FEDATA 0x0", NONE, "FSTS 0"),
    done=("FEDATA 0x1234", NONE, "FSTS 0"),
)
_write(
    "8-rtaddr",
    "A write of 8 bits in the middle of RTADDR.",
    (RTADDR.offset + 2, 0x77, 1),
    RTADDR,
    *("RTADDR 0x12345000", NONE, "FSTS 0"),
    done=("RTADDR 0x12775000", NONE, "FSTS 0"),
    prepare=lambda bench: bench.driver.write_root_table(0x12345000),
)
_write(
    "32-unaligned",
    "An unaligned write of 32 bits in the middle of RTADDR.",
    (RTADDR.offset + 2, 0x77, 4),
    RTADDR,
    *("RTADDR 0x12345000", NONE, "FSTS 0"),
    done=("RTADDR 0x775000", NONE, "FSTS 0"),
    prepare=lambda bench: bench.driver.write_root_table(0x12345000),
)


def _repaired(bench: Bench) -> None:
    """The queue has stopped; its descriptor has been replaced."""
    queue.start(bench)
    bench.driver.submit(0)
    queue.put(bench, 0, queue.iotlb(queue.GLOBAL))


_write(
    "8-fsts",
    "A write of 8 bits that would clear IQE, and let the queue go on.",
    (FSTS.offset, FSTS.IQE.mask, 1),
    FSTS,
    *("FSTS 0x10", NONE, "FSTS IQE"),
    done=("FSTS 0x0", NONE, "FSTS 0"),
    prepare=_repaired,
    moves=(IQH,),
)
_write(
    "8-ccmd",
    "A write of 8 bits to CCMD that would start a command.",
    (CCMD.offset + 7, CCMD.make(ICC=1, CIRG=Granularity.GLOBAL) >> 56, 1),
    CCMD,
    *("CCMD 0x0", NONE, "FSTS 0"),
    done=(f"CCMD {CCMD.make(CIRG=Granularity.GLOBAL, CAIG=Granularity.GLOBAL):#x}", NONE, "FSTS 0"),
)


def _another_root_waits(bench: Bench) -> None:
    """A root table is latched; RTADDR has the address of an empty one, which is not."""
    table = bench.new_table()
    bench.map(table, 0x5000, P0)
    bench.context("A", table)
    bench.driver.set_root_table(bench.root)
    bench.driver.write_root_table(bench.new_table())


def _translate(bench: Bench) -> None:
    bench.driver.invalidate_everything()
    bench.driver.enable()
    bench.write("A", 0x5010)


RTPS, TES = GSTS.RTPS.mask, GSTS.TES.mask
_THEN = (NONE, "A write 0x5010 -> 0x800010", "FSTS 0")
_write(
    "8-gcmd",
    "A write of 8 bits to GCMD that would set TE does not latch the root table again.",
    (GCMD.offset + 3, GCMD.TE.mask >> 24, 1),
    GSTS,
    *(f"GSTS {RTPS:#x}", *_THEN),
    done=(f"GSTS {RTPS | TES:#x}", *_THEN),
    prepare=_another_root_waits,
    then=_translate,
)
_write(
    "16-gcmd",
    "A write of 16 bits to GCMD that would set TE does not latch the root table again.",
    (GCMD.offset + 2, GCMD.TE.mask >> 16, 2),
    GSTS,
    *(f"GSTS {RTPS:#x}", *_THEN),
    done=(f"GSTS {RTPS | TES:#x}", *_THEN),
    prepare=_another_root_waits,
    then=_translate,
)
_write(
    "64-unaligned-gcmd",
    "An unaligned write of 64 bits, with GCMD as its upper half, that would set TE.",
    (GCMD.offset - 4, GCMD.TE.mask << 32, 8),
    GSTS,
    *(f"GSTS {RTPS:#x}", *_THEN),
    done=(f"GSTS {RTPS | TES:#x}", *_THEN),
    prepare=_another_root_waits,
    then=_translate,
    because=SPLIT,
)


# Aligned writes of 64 bits to two registers of 32.


def _pair(lower: type[Register], upper: type[Register], values: tuple[int, int], untouched: tuple[int, int]) -> None:
    """One write to two registers; a unit may take it for two writes, do the lower one alone, or ignore it."""
    names = lower.__name__, upper.__name__

    def lines(one: int, other: int) -> tuple[str, ...]:
        return f"{names[0]} {one:#x}", f"{names[1]} {other:#x}", NONE, "FSTS 0"

    def stimulus(bench: Bench) -> None:
        before = _values(bench)
        bench.platform.write_register(lower.offset, values[0] | values[1] << 32, 8)
        bench.note_register(lower)
        bench.note_register(upper)
        _note_changes(bench, before, lower, upper)

    stimulus.__doc__ = f"A write of 64 bits to {names[0]} and {names[1]}."
    others = {lines(values[0], untouched[1]): SPLIT, lines(*untouched): IGNORED}
    right = lines(*values)
    allowed = tuple(Allowed(because, other) for other, because in others.items() if other != right)
    id_ = f"registers.access.pair-{names[0].lower()}"
    scenario(id_, "11.2", *right, allowed=allowed)(stimulus)


_pair(FECTL, FEDATA, (0, 0x1234), (1 << 31, 0))
_pair(FEADDR, FEUADDR, (0xFEE0_1000, 0x100), (0, 0))
_pair(IECTL, IEDATA, (0, 0x1234), (1 << 31, 0))
_pair(IEADDR, IEUADDR, (0xFEE0_1000, 0x100), (0, 0))
