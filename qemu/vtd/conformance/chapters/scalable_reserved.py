"""Spec 9.2 to 9.6: the reserved bits of every structure of scalable mode, one by one.

The table says which bits are reserved on a unit with a second stage alone, a host address width of 48 bits, and none
of the capabilities that give further bits a meaning.
"""

from dataclasses import dataclass

from qemu.vtd.conformance.bench import P0, Bench
from qemu.vtd.conformance.chapters.scalable_first_stage import ADDRESS as LOW_ADDRESS
from qemu.vtd.conformance.chapters.scalable_second_stage import ADDRESS, OFFSETS
from qemu.vtd.conformance.chapters.scalable_tables import TO_P0, Place, context, directory, entry, root, start
from qemu.vtd.conformance.scalable_bench import FIRST, SECOND
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import FIRST_STAGE, SECOND_STAGE, SECOND_STAGE_FEW_DOMAINS, Setup


@dataclass(frozen=True)
class Reserved:
    """A run of reserved bits of one structure: what sets it apart, and the fault it causes."""

    name: str
    msb: int
    lsb: int
    what: str


# The tables (9.2, 9.4 to 9.6).

_ROOT = (
    Reserved("low", 11, 1, "bits 11:1"),
    Reserved("width", 63, 48, "the context-table pointer beyond the host address width"),
)
_CONTEXT = (
    Reserved("low", 8, 5, "bits 8:5"),
    Reserved("device-tlb", 2, 2, "DTE, without ECAP.DT"),
    Reserved("pasid-enable", 3, 3, "PASIDE, without ECAP.PASID"),
    Reserved("page-requests", 4, 4, "PRE, without ECAP.PRS"),
    Reserved("width", 63, 48, "the directory pointer beyond the host address width"),
    Reserved("privilege", 84, 84, "RID_PRIV, without ECAP.RPRIVS"),
    Reserved("second", 127, 85, "bits 127:85"),
    Reserved("third", 191, 128, "bits 191:128"),
    Reserved("fourth", 255, 192, "bits 255:192"),
)
_DIRECTORY = (
    Reserved("low", 11, 2, "bits 11:2"),
    Reserved("width", 63, 48, "the PASID-table pointer beyond the host address width"),
)
_ENTRY = (
    Reserved("second-execute", 5, 5, "bit 5"),
    Reserved("second-dirty", 9, 9, "SSADE, without ECAP.SSADS"),
    Reserved("low", 11, 10, "bits 11:10"),
    Reserved("width", 63, 48, "the second-stage pointer beyond the host address width"),
    Reserved("above-domain", 86, 80, "bits 86:80, above the domain-id"),
    Reserved("walk-snoop", 87, 87, "PWSNP, without ECAP.SMPWCS"),
    Reserved("page-snoop", 88, 88, "PGSNP, without ECAP.SC"),
    Reserved("cache-disable", 89, 89, "CD, without ECAP.MTS"),
    Reserved("memory-type", 90, 90, "EMTE, without ECAP.MTS"),
    Reserved("below-pat", 95, 91, "bits 95:91"),
    Reserved("pat", 127, 96, "PAT, without ECAP.MTS"),
    Reserved("supervisor", 128, 128, "SRE, without a first stage"),
    Reserved("execute", 129, 129, "ERE, without a first stage"),
    Reserved("first-levels", 131, 130, "FSPM, without a first stage"),
    Reserved("write-protect", 132, 132, "WPE, without a first stage"),
    Reserved("extended-accessed", 135, 135, "EAFE, without a first stage"),
    Reserved("below-first-pointer", 139, 136, "bits 139:136"),
    Reserved("first-pointer", 191, 140, "FSPTPTR, without a first stage"),
    Reserved("fourth", 255, 192, "bits 255:192"),
    Reserved("fifth", 319, 256, "bits 319:256"),
    Reserved("sixth", 383, 320, "bits 383:320"),
    Reserved("seventh", 447, 384, "bits 447:384"),
    Reserved("eighth", 511, 448, "bits 511:448"),
)


def _each_bit(
    structure: str,
    section: str,
    code: int,
    place: Place,
    run: Reserved,
    *,
    address: int = 0x5010,
    moved: str = TO_P0,
    setup: Setup = SECOND_STAGE,
) -> None:
    """One scenario: A writes with each bit of the run set alone, and once more with none.

    `place` builds the tables and returns the entry's address; `moved` is the line of a write that is not blocked.
    """

    def stimulus(bench: Bench) -> None:
        where = place(bench)
        bench.scalable.turn_on()
        for bit in range(run.lsb, run.msb + 1):
            quadword, mask = where + bit // 64 * 8, 1 << bit % 64
            bench.change(quadword, set_=mask)
            bench.write("A", address)
            bench.note_faults()
            bench.driver.clear_faults()
            bench.change(quadword, clear=mask)
            bench.scalable.invalidate_everything()
        bench.write("A", address)

    stimulus.__doc__ = f"Reserved in the {structure.replace('-', ' ')}: {run.what}; bit by bit, then none of them."
    fault = (f"A write {address:#x} -> blocked", f"fault {code:#04x} A {address & ~0xFFF:#x} write", "FSTS PPF")
    lines = fault * (run.msb - run.lsb + 1)
    id_ = f"scalable.reserved.{structure}.{run.name}"
    scenario(id_, section, *lines, moved, "FSTS 0", setup=setup)(stimulus)


def _of(place: Place) -> Place:
    """A second stage that maps 0x5000; then the place of one of the entries that lead to it."""

    def build(bench: Bench) -> int:
        start(bench)
        return place(bench)

    return build


for _run in _ROOT:
    _each_bit("root-entry", "7.1.3 SRT.3, 9.2", 0x3A, _of(root), _run)
for _run in _CONTEXT:
    _each_bit("context-entry", "7.1.3 SCT.3, 9.4", 0x42, _of(context), _run)
for _run in _DIRECTORY:
    _each_bit("directory-entry", "7.1.3 SPD.3, 9.5", 0x52, _of(directory), _run)
for _run in _ENTRY:
    _each_bit("pasid-entry", "7.1.3 SPT.3, 9.6", 0x5A, _of(entry), _run)

_each_bit(
    "pasid-entry",
    "7.1.3 SPT.3, 9.6",
    0x5A,
    _of(entry),
    Reserved("domain", 79, 72, "domain-id bits beyond CAP.ND"),
    setup=SECOND_STAGE_FEW_DOMAINS,
)

# Second-stage entries (9.8): with SNP in a page entry and TM see scalable_second_stage.py.

_WIDTH = Reserved("width", 51, 48, "the address beyond the host address width")
_TM = Reserved("transient", 62, 62, "TM, without ECAP.DT")
_SNP_IN_TABLE = Reserved("snoop", 11, 11, "SNP, in an entry that points to a table")
# By the level and the size of the page: 1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB.
_SECOND = {
    (4, 1): (Reserved("page-size", 7, 7, "PS at level 4"), _SNP_IN_TABLE, _WIDTH, _TM),
    (3, 1): (_SNP_IN_TABLE, _WIDTH, _TM),
    (2, 1): (_SNP_IN_TABLE, _WIDTH, _TM),
    (1, 1): (_WIDTH, _TM),
    (2, 2): (Reserved("alignment", 20, 12, "address bits below 2 MiB"), _WIDTH, _TM),
    (3, 3): (Reserved("alignment", 29, 12, "address bits below 1 GiB"), _WIDTH, _TM),
}
_PAGES = {1: P0, 2: 0x800000, 3: 0}


def _second_stage(level: int, size: int) -> Place:
    """A second stage that maps ADDRESS by a page of a size; then the place of its entry of one level."""

    def build(bench: Bench) -> int:
        table = bench.new_table()
        bench.scalable.entry("A", SECOND, table)
        bench.map(table, ADDRESS, _PAGES[size], size=size)
        return bench.entry(table, ADDRESS, level)

    return build


for (_level, _size), _runs in _SECOND.items():
    for _run in _runs:
        _each_bit(
            f"second-stage-{_level}" if _size == 1 else f"second-stage-{_size}-page",
            "7.1.3 SSS.3, 9.8",
            0x7A,
            _second_stage(_level, _size),
            _run,
            address=ADDRESS + 0x10,
            moved=f"A write 0x200c0401010 -> {OFFSETS[_size]}",
        )


# A unit with a first stage alone: its PASID-table entries, and first-stage entries (9.6, 9.7).

_FIRST_ENTRY = (
    Reserved("second-width", 4, 2, "AW, without a second stage"),
    Reserved("second-pointer", 63, 12, "SSPTPTR, without a second stage"),
    Reserved("supervisor", 128, 128, "SRE, without ECAP.SRS"),
    Reserved("execute", 129, 129, "ERE, without ECAP.ERS"),
    Reserved("extended-accessed", 135, 135, "EAFE, without ECAP.EAFS"),
    Reserved("below-first-pointer", 139, 136, "bits 139:136"),
    Reserved("first-pointer-width", 191, 188, "the first-stage pointer beyond the host address width"),
)
_PS_AT_TOP = Reserved("page-size", 7, 7, "PS at level 4")
_FIRST = {
    (4, 1): (_PS_AT_TOP, _WIDTH),
    (3, 1): (_WIDTH,),
    (2, 1): (_WIDTH,),
    (1, 1): (_WIDTH,),
    (2, 2): (Reserved("alignment", 20, 13, "address bits below 2 MiB"), _WIDTH),
    (3, 3): (Reserved("alignment", 29, 13, "address bits below 1 GiB"), _WIDTH),
}


def _first_stage(level: int, size: int, address: int) -> Place:
    """A first stage that maps an address by a page of a size; then the place of its entry of one level."""

    def build(bench: Bench) -> int:
        table = bench.new_table()
        bench.scalable.entry("A", FIRST, table)
        bench.scalable.map_first(table, address, _PAGES[size], size=size)
        return bench.entry(table, address, level)

    return build


def _first_stage_entry(bench: Bench) -> int:
    """A first stage that maps 0x5000 to P0; then the place of the PASID-table entry."""
    _first_stage(1, 1, 0x5000)(bench)
    return bench.scalable.entry_at("A")


for _run in _FIRST_ENTRY:
    _each_bit("first-stage-pasid-entry", "7.1.3 SPT.3, 9.6", 0x5A, _first_stage_entry, _run, setup=FIRST_STAGE)
for (_level, _size), _runs in _FIRST.items():
    for _run in _runs:
        # With a page of 1 GiB at 0, the page that is used is P0 itself.
        _used = P0 if _size == 3 else LOW_ADDRESS
        _each_bit(
            f"first-stage-{_level}" if _size == 1 else f"first-stage-{_size}-page",
            "7.1.3 SFS.3, 9.7",
            0x72,
            _first_stage(_level, _size, _used),
            _run,
            address=_used + 0x10,
            moved=f"A write {_used + 0x10:#x} -> {'0x805010' if _size == 2 else '0x800010'}",
            setup=FIRST_STAGE,
        )
