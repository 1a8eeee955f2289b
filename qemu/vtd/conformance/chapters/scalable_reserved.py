"""Spec 9.2 to 9.6: the reserved bits of every structure of scalable mode, one by one.

The table says which bits are reserved on a unit with a second stage alone, a host address width of 48 bits, and none
of the capabilities that give further bits a meaning.
"""

from dataclasses import dataclass

from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.chapters.scalable_tables import CONTEXT, DIRECTORY, ENTRY, ROOT, TO_P0, Place, start
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import SECOND_STAGE


@dataclass(frozen=True)
class Reserved:
    """A run of reserved bits of one structure: what sets it apart, and the fault it causes."""

    name: str
    msb: int
    lsb: int
    what: str


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


def _each_bit(structure: str, section: str, condition: str, code: int, place: Place, run: Reserved) -> None:
    """One scenario: A writes with each bit of the run set alone, and once more with none."""

    def stimulus(bench: Bench) -> None:
        start(bench)
        where = place(bench)
        bench.scalable.turn_on()
        for bit in range(run.lsb, run.msb + 1):
            quadword, mask = where + bit // 64 * 8, 1 << bit % 64
            bench.change(quadword, set_=mask)
            bench.write("A", 0x5010)
            bench.note_faults()
            bench.driver.clear_faults()
            bench.change(quadword, clear=mask)
            bench.scalable.invalidate_everything()
        bench.write("A", 0x5010)

    stimulus.__doc__ = f"Reserved in the {structure.replace('-', ' ')}: {run.what}; bit by bit, then none of them."
    fault = ("A write 0x5010 -> blocked", f"fault {code:#04x} A 0x5000 write", "FSTS PPF")
    lines = fault * (run.msb - run.lsb + 1)
    id_ = f"scalable.reserved.{structure}.{run.name}"
    scenario(id_, f"7.1.3 {condition}, {section}", *lines, TO_P0, "FSTS 0", setup=SECOND_STAGE)(stimulus)


for _run in _ROOT:
    _each_bit("root-entry", "9.2", "SRT.3", 0x3A, ROOT, _run)
for _run in _CONTEXT:
    _each_bit("context-entry", "9.4", "SCT.3", 0x42, CONTEXT, _run)
for _run in _DIRECTORY:
    _each_bit("directory-entry", "9.5", "SPD.3", 0x52, DIRECTORY, _run)
for _run in _ENTRY:
    _each_bit("pasid-entry", "9.6", "SPT.3", 0x5A, ENTRY, _run)
