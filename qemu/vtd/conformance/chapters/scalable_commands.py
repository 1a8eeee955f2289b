"""Spec 6.5.1, 11.4.4, 11.4.6: what commands by register do in scalable mode."""

from __future__ import annotations

from collections.abc import Callable

from iommu import Policy
from iommu.registers import GCMD, GSTS, Granularity, TableMode
from qemu.vtd.conformance.bench import P0, P1, Bench
from qemu.vtd.conformance.scalable_bench import SECOND
from qemu.vtd.conformance.scenario import Allowed, scenario
from qemu.vtd.conformance.setups import SECOND_STAGE

R_W = 3
TO_P0, TO_P1 = "A write 0x5010 -> 0x800010", "A write 0x5010 -> 0x801010"


def _on(bench: Bench) -> int:
    """Scalable mode without a queue, whose commands by register would be ignored. Returns the page's entry."""
    table = bench.new_table()
    where = bench.map(table, 0x5000, P0)
    bench.scalable.entry("A", SECOND, table)
    bench.driver.set_root_table(bench.root, TableMode.SCALABLE)
    bench.driver.enable()
    return where


def _contexts(name: str, granularity: Granularity) -> None:
    def stimulus(bench: Bench) -> None:
        _on(bench)
        bench.write("A", 0x5010)
        source_id = bench.platform.source_ids["A"]
        bench.note_granularity(bench.driver.invalidate_contexts(granularity, domain_id=1, source_id=source_id))

    stimulus.__doc__ = f"CCMD serves legacy mode alone: in scalable mode a {name} command invalidates nothing."
    lines = TO_P0, "performed NONE", "FSTS 0"
    scenario(f"scalable.command.contexts-{name}", "11.4.6.1", *lines, setup=SECOND_STAGE)(stimulus)


_contexts("global", Granularity.GLOBAL)
_contexts("device", Granularity.SELECTIVE)


def _moved(bench: Bench, between: Callable[[Bench], None]) -> None:
    """A uses 0x5000; its page entry is changed from P0 to P1; a command; A uses 0x5000 again."""
    where = _on(bench)
    bench.write("A", 0x5010)
    bench.memory.write_u64(where, P1 | R_W)
    between(bench)
    bench.write("A", 0x5010)


@scenario("scalable.command.translations", "11.4.6.3", TO_P0, "performed NONE", TO_P0, "FSTS 0", setup=SECOND_STAGE)
def translations(bench: Bench) -> None:
    """The IOTLB register serves legacy mode alone: in scalable mode a command drops nothing."""
    _moved(
        bench,
        lambda bench: bench.note_granularity(bench.driver.invalidate_translations(Granularity.DOMAIN, domain_id=1)),
    )


def _off_and_on(bench: Bench) -> None:
    for command in (0, GCMD.TE.mask):
        bench.platform.write_register(GCMD.offset, command, 4)
        bench.note_bits(GSTS)


@scenario(
    "scalable.command.off-and-on",
    "11.4.4.1",
    *(TO_P0, "GSTS RTPS", "GSTS TES RTPS", TO_P1, "FSTS 0"),
    allowed=(
        Allowed(
            "one public source alone says that a unit with scalable mode then drops what is cached",
            (TO_P0, "GSTS RTPS", "GSTS TES RTPS", TO_P0, "FSTS 0"),
            Policy(translation_off_drops=False),
        ),
    ),
    setup=SECOND_STAGE,
)
def off_and_on(bench: Bench) -> None:
    """A unit with scalable mode drops what it has cached for DMA when translation is turned off."""
    _moved(bench, _off_and_on)
