"""Spec 11.4.2, 11.4.4: a unit whose CAP.SAGAW is 0: it has no second-stage tables, and remaps interrupts as ever.

Such a unit still has GCMD.TE: with it, every context entry that asks for a second stage is wrong.
"""

from __future__ import annotations

from iommu.registers import CAP, GCMD, GSTS, Granularity, TableMode
from iommu.structures import TranslationType
from qemu.vtd.conformance import queue
from qemu.vtd.conformance.bench import P0, P1, Bench
from qemu.vtd.conformance.chapters import interrupts
from qemu.vtd.conformance.scalable_bench import FIRST
from qemu.vtd.conformance.scenario import scenario
from qemu.vtd.conformance.setups import FIRST_STAGE_NO_LEVELS, NO_TRANSLATION, Setup


def _switch_on(bench: Bench, mode: int = TableMode.LEGACY) -> None:
    """Set TE, without waiting for TES."""
    bench.driver.set_root_table(bench.root, mode)
    bench.platform.write_register(GCMD.offset, GCMD.TE.mask, 4)
    bench.note_bits(GSTS)


def _says(name: str, setup: Setup) -> None:
    def stimulus(bench: Bench) -> None:
        cap = CAP(bench.platform.read_register(CAP.offset, 8))
        bench.note(f"CAP SAGAW {cap.SAGAW} MGAW {cap.MGAW}")

    stimulus.__doc__ = "No width of second-stage tables is offered; the guest address width is reported still."
    scenario(f"setup.no-translation.{name}", "11.4.2", "CAP SAGAW 0 MGAW 47", "FSTS 0", setup=setup)(stimulus)


_says("says", NO_TRANSLATION)
_says("first-stage-says", FIRST_STAGE_NO_LEVELS)


@scenario(
    "setup.no-translation.off",
    "11.4.4.1",
    *("GSTS 0", "A write 0x800010 -> 0x800010", "A read 0x801010 -> 0x801010", "FSTS 0"),
    setup=NO_TRANSLATION,
)
def off(bench: Bench) -> None:
    """While TE is 0, DMA goes through as it is."""
    bench.note_bits(GSTS)
    bench.write("A", 0x80_0010)
    bench.read("A", 0x80_1010)


@scenario(
    "setup.no-translation.empty-root",
    "7.1.3 LRT.2",
    *("GSTS TES RTPS", "A write 0x800010 -> blocked", "fault 0x01 A 0x800000 write", "FSTS PPF"),
    setup=NO_TRANSLATION,
)
def empty_root(bench: Bench) -> None:
    """TE works as on any unit: with an empty root table, DMA is blocked."""
    _switch_on(bench)
    bench.write("A", 0x80_0010)


def _context(name: str, title: str, type_: int, levels: int) -> None:
    def stimulus(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, 0x80_0000, P1, levels=levels)
        bench.context("A", table, type_=type_, levels=levels)
        _switch_on(bench)
        bench.write("A", 0x80_0010)

    stimulus.__doc__ = title
    lines = "GSTS TES RTPS", "A write 0x800010 -> blocked", "fault 0x03 A 0x800000 write", "FSTS PPF"
    scenario(f"setup.no-translation.{name}", "7.1.3 LCT.4", *lines, setup=NO_TRANSLATION)(stimulus)


for _levels in (3, 4):
    _context(
        f"{_levels}-levels",
        f"A context entry with {_levels} levels: the unit does not offer them.",
        TranslationType.UNTRANSLATED_ONLY,
        _levels,
    )
_context(
    "pass-through",
    "A context entry for pass-through has to name a width too, and the unit offers none.",
    TranslationType.PASS_THROUGH,
    4,
)


@scenario(
    "setup.no-translation.first-stage",
    "11.4.2, 3.6",
    *("GSTS TES RTPS", "A write 0x5010 -> 0x800010", "FSTS 0"),
    setup=FIRST_STAGE_NO_LEVELS,
)
def first_stage(bench: Bench) -> None:
    """CAP.SAGAW is about second stages: with a first stage alone, the unit translates."""
    table = bench.new_table()
    bench.scalable.map_first(table, 0x5000, P0)
    bench.scalable.entry("A", FIRST, table)
    _switch_on(bench, TableMode.SCALABLE)
    bench.write("A", 0x5010)


@scenario(
    "setup.no-translation.commands",
    "11.4.6",
    *("performed GLOBAL", "performed GLOBAL", "FSTS 0"),
    setup=NO_TRANSLATION,
)
def commands(bench: Bench) -> None:
    """Invalidations by register are carried out."""
    bench.note_granularity(bench.driver.invalidate_contexts(Granularity.GLOBAL))
    bench.note_granularity(bench.driver.invalidate_translations(Granularity.GLOBAL))


@scenario("setup.no-translation.queue", "6.5.2", f"status {queue.DATA:#x}", "FSTS 0", setup=NO_TRANSLATION)
def queue_works(bench: Bench) -> None:
    """The invalidation queue works."""
    queue.start(bench)
    bench.driver.submit(queue.context(queue.GLOBAL), queue.iotlb(queue.GLOBAL), queue.wait(SW=1))
    queue.status(bench)


@scenario(
    "setup.no-translation.interrupt",
    "5.1.4",
    f"A interrupt {interrupts.address(1):#x} 0x0 -> 0xfee03000 0x4055",
    f"A interrupt {interrupts.address(2):#x} 0x0 -> blocked",
    "fault 0x22 A index 2",
    "FSTS PPF",
    setup=NO_TRANSLATION,
)
def interrupt(bench: Bench) -> None:
    """Interrupts are remapped, and blocked where no entry is present."""
    interrupts.start(bench)
    interrupts.put(bench, 1, interrupts.entry())
    for index in (1, 2):
        bench.interrupt("A", interrupts.address(index))
