"""Spec 3.6.2, 3.7.2: accessed and dirty bits in the tables of both stages. A line says what a request changed."""

from iommu.structures import SecondStageEntry
from qemu.vtd.conformance.bench import P0, P1, Bench
from qemu.vtd.conformance.chapters import scalable_first_stage, scalable_second_stage
from qemu.vtd.conformance.chapters.scalable_first_stage import PS, RW, US, A, D, P
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import EVERYTHING, FIRST_STAGE, SECOND_STAGE, Setup

# Where the bench puts the entries that map ADDRESS, by level, and what they point to.
FIRST_AT = {4: 0x101000, 3: 0x105000, 2: 0x106418, 1: 0x107028}
SECOND_AT = {4: 0x101020, 3: 0x105018, 2: 0x106010, 1: 0x107008}
NEXT = {4: 0x105000, 3: 0x106000, 2: 0x107000, 1: P0}
LEVELS = (4, 3, 2, 1)


def changed(at: dict[int, int], level: int, before: int, after: int) -> str:
    """The line of an entry whose flags changed."""
    return f"changed {at[level]:#x} from {NEXT[level] | before:#x} to {NEXT[level] | after:#x}"


# The first stage. PASID-table entries ask for snooped walks by PWSNP, where ECAP.SMPWCS offers it.

PWSNP, EAFE = 1 << 87, 1 << 135
TABLE = P | RW | US
PAGE = P | RW | US
ADDRESS = scalable_first_stage.ADDRESS
READ_BLOCKED, WRITE_BLOCKED = scalable_first_stage.READ_BLOCKED, scalable_first_stage.WRITE_BLOCKED
READ_P0, WRITE_P0 = scalable_first_stage.READ_P0, scalable_first_stage.WRITE_P0
first_fault = scalable_first_stage.fault


def marked(level: int, before: int, after: int) -> str:
    """A first-stage entry that is changed."""
    return changed(FIRST_AT, level, before, after)


def _first(
    name: str,
    title: str,
    access: str,
    *expect: str,
    accessed: bool = False,
    dirty: bool = False,
    above: bool = True,
    write: bool = True,
    set_: int = 0,
    also: int = 0,
    setup: Setup = FIRST_STAGE,
) -> None:
    """A uses ADDRESS; A and D of the page's entry are as given, A of the others as in `above`."""

    def stimulus(bench: Bench) -> None:
        table = scalable_first_stage.start(bench, accessed=accessed, dirty=dirty, write=write, also=also)
        for level in (4, 3, 2):
            bench.change(bench.entry(table, ADDRESS, level), clear=0 if above else A)
        bench.change(bench.entry(table, ADDRESS, 1), set_=set_)
        (bench.read if access == "read" else bench.write)("A", ADDRESS + 0x10)

    stimulus.__doc__ = title
    scenario(f"scalable.first-dirty.{name}", "3.6.2", *expect, setup=setup)(stimulus)


_first(
    "read-not-snooped",
    "A read needs A in the page's entry, and the walk is not snooped.",
    "read",
    *(READ_BLOCKED, *first_fault(0x90, "read")),
)
_first(
    "write-not-snooped",
    "A write needs D in the page's entry, and the walk is not snooped.",
    "write",
    *(WRITE_BLOCKED, *first_fault(0x90)),
    accessed=True,
)
_first(
    "both-not-snooped",
    "A write needs A and D in the page's entry, and the walk is not snooped.",
    "write",
    *(WRITE_BLOCKED, *first_fault(0x90)),
)
_first(
    "table-not-snooped",
    "A is needed in the entries of tables, and the walk is not snooped.",
    "read",
    *(READ_BLOCKED, *first_fault(0x90, "read")),
    accessed=True,
    dirty=True,
    above=False,
)
_first(
    "read-of-clean",
    "A read does not need D.",
    "read",
    *(READ_P0, "FSTS 0"),
    accessed=True,
)
_first(
    "write-of-dirty",
    "Everything is set already: nothing is left for the unit to set.",
    "write",
    *(WRITE_P0, "FSTS 0"),
    accessed=True,
    dirty=True,
)
_first(
    "denied",
    "A write to a read-only page is not permitted, and sets no bit.",
    "write",
    *(WRITE_BLOCKED, *first_fault(0x85)),
    write=False,
)
_first(
    "reserved",
    "A reserved bit in the page's entry: the entry is not marked.",
    "read",
    *(READ_BLOCKED, *first_fault(0x72, "read")),
    set_=1 << 50,
)


@scenario(
    "scalable.first-dirty.write-after-read",
    "3.6.2",
    READ_P0,
    WRITE_BLOCKED,
    *first_fault(0x90),
    setup=FIRST_STAGE,
)
def write_after_read(bench: Bench) -> None:
    """A read caches a page without D: the write that follows needs D."""
    scalable_first_stage.start(bench, dirty=False)
    bench.read("A", ADDRESS + 0x10)
    bench.write("A", ADDRESS + 0x10)


@scenario(
    "scalable.first-dirty.not-cached",
    "3.6.2",
    READ_BLOCKED,
    *first_fault(0x90, "read"),
    f"A read {ADDRESS + 0x10:#x} -> {P1 + 0x10:#x}",
    "FSTS 0",
    setup=FIRST_STAGE,
)
def not_cached(bench: Bench) -> None:
    """A page without A is not cached: it is moved, with A set, and no invalidation is needed."""
    table = scalable_first_stage.start(bench, accessed=False)
    bench.read("A", ADDRESS + 0x10)
    bench.note_faults()
    bench.driver.clear_faults()
    bench.memory.write_u64(bench.entry(table, ADDRESS, 1), P1 | PAGE | A | D)
    bench.read("A", ADDRESS + 0x10)


@scenario(
    "scalable.first-dirty.interrupt-range",
    "3.6.2",
    WRITE_BLOCKED,
    *first_fault(0x87),
    setup=FIRST_STAGE,
)
def interrupt_range(bench: Bench) -> None:
    """A page in the interrupt address range: the write is blocked before the page's entry is marked."""
    table = scalable_first_stage.start(bench)
    bench.memory.write_u64(bench.entry(table, ADDRESS, 1), 0xFEE01000 | PAGE)
    bench.write("A", ADDRESS + 0x10)


@scenario(
    "scalable.first-dirty.2m",
    "3.6.2",
    "A write 0x10605010 -> 0x805010",
    f"changed 0x106418 from {0x800000 | PAGE | PS:#x} to {0x800000 | PAGE | PS | A | D:#x}",
    "FSTS 0",
    setup=EVERYTHING,
)
def large_page(bench: Bench) -> None:
    """A write to a 2 MiB page sets A and D in its level-2 entry."""
    scalable_first_stage.start(bench, size=2, page=0x800000, accessed=False, dirty=False, also=PWSNP)
    bench.write("A", ADDRESS + 0x10)


_TABLES_MARKED = tuple(marked(level, TABLE, TABLE | A) for level in (4, 3, 2))
_first(
    "read-snooped",
    "A read sets A at every level.",
    "read",
    *(READ_P0, *_TABLES_MARKED, marked(1, PAGE, PAGE | A), "FSTS 0"),
    above=False,
    also=PWSNP,
    setup=EVERYTHING,
)
_first(
    "write-snooped",
    "A write sets A at every level, and D in the page's entry.",
    "write",
    *(WRITE_P0, *_TABLES_MARKED, marked(1, PAGE, PAGE | A | D), "FSTS 0"),
    above=False,
    also=PWSNP,
    setup=EVERYTHING,
)
_first(
    "write-of-accessed-snooped",
    "A write sets D in an entry that has A already.",
    "write",
    *(WRITE_P0, marked(1, PAGE | A, PAGE | A | D), "FSTS 0"),
    accessed=True,
    also=PWSNP,
    setup=EVERYTHING,
)
_first(
    "denied-snooped",
    "A write to a read-only page marks the tables, and not the page.",
    "write",
    *(WRITE_BLOCKED, *_TABLES_MARKED, *first_fault(0x85)),
    above=False,
    write=False,
    also=PWSNP,
    setup=EVERYTHING,
)


# The second stage. No QEMU has ECAP.SSADS.

SSADE, A2, D2 = 1 << 9, SecondStageEntry.A.mask, SecondStageEntry.D.mask
R_W = 3
second_fault = scalable_second_stage.fault
SECOND_READ, SECOND_WRITE = scalable_second_stage.READ_P0, scalable_second_stage.WRITE_P0
SECOND_BLOCKED = scalable_second_stage.WRITE_BLOCKED


def _second(
    name: str,
    title: str,
    access: str,
    *expect: str,
    w: int = 1,
    also: int = SSADE | PWSNP,
    set_: int = 0,
    setup: Setup = EVERYTHING,
) -> None:
    def stimulus(bench: Bench) -> None:
        table = scalable_second_stage.start(bench, w=w, also=also)
        bench.change(bench.entry(table, scalable_second_stage.ADDRESS, 1), set_=set_)
        use = bench.read if access == "read" else bench.write
        use("A", scalable_second_stage.ADDRESS + 0x10)

    stimulus.__doc__ = title
    scenario(f"scalable.second-dirty.{name}", "3.7.2", *expect, setup=setup)(stimulus)


_TABLES_MARKED_2 = tuple(changed(SECOND_AT, level, R_W, R_W | A2) for level in (4, 3, 2))
_second(
    "read",
    "A read sets A at every level.",
    "read",
    *(SECOND_READ, *_TABLES_MARKED_2, changed(SECOND_AT, 1, R_W, R_W | A2), "FSTS 0"),
)
_second(
    "write",
    "A write sets A at every level, and D in the page's entry.",
    "write",
    *(SECOND_WRITE, *_TABLES_MARKED_2, changed(SECOND_AT, 1, R_W, R_W | A2 | D2), "FSTS 0"),
)
_second(
    "denied",
    "A write without W marks the tables, and not the page.",
    "write",
    *(SECOND_BLOCKED, *_TABLES_MARKED_2, *second_fault(0x85)),
    w=0,
)
_second(
    "reserved",
    "A reserved bit in the page's entry: only the entries above it are marked.",
    "write",
    *(SECOND_BLOCKED, *_TABLES_MARKED_2, *second_fault(0x7A)),
    set_=1 << 50,
)
_second(
    "not-snooped",
    "An update by a walk that is not snooped.",
    "write",
    *(SECOND_BLOCKED, *second_fault(0x7C)),
    also=SSADE,
)
_second("off", "Without SSADE nothing is marked.", "write", SECOND_WRITE, "FSTS 0", also=PWSNP)
_second(
    "not-offered",
    "Nothing is marked by a unit without ECAP.SSADS.",
    "write",
    SECOND_WRITE,
    "FSTS 0",
    also=0,
    setup=SECOND_STAGE,
)
