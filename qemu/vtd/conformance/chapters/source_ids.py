"""Chapters 3.4.1 and 9.1 to 9.3: from a request's source-id to its root and context entry, on several buses."""

from collections.abc import Sequence
from dataclasses import replace

from iommu import SourceId
from iommu.structures import ContextEntry, RootEntry, TranslationType
from qemu.vtd.conformance.bench import DATA, P0, P1, Bench
from qemu.vtd.conformance.queue import SELECTIVE, context, start, wait
from qemu.vtd.conformance.scenario import COARSER, Allowed, scenario
from qemu.vtd.conformance.setups import WIDE, Setup
from qemu.vtd.conformance.topologies import CONVENTIONAL, FUNCTIONS, HOST_BRIDGE, PORTS
from qemu.vtd.topology import Topology


def _on(name: str, topology: Topology) -> Setup:
    return replace(WIDE, name=f"48-bit, {name}", topology=topology)


ON_PORTS = _on("root ports", PORTS)
ON_HOST_BRIDGE = _on("second host bridge", HOST_BRIDGE)
ON_CONVENTIONAL = _on("conventional PCI", CONVENTIONAL)
ON_FUNCTIONS = _on("functions of one device", FUNCTIONS)


# Each device by itself: only its own entries, and everything but its own entries.


def _fill(bench: Bench, table: int, but: SourceId, *, root: bool) -> None:
    """Valid entries for every source-id but one: all that share its root entry, or only its own, are left out."""
    contexts, near = bench.new_table(), bench.new_table()
    valid = ContextEntry.make(P=1, TT=TranslationType.UNTRANSLATED_ONLY, AW=2, DID=1, SSPTPTR=table)
    bench.memory.write(contexts, valid.to_bytes(16, "little") * 256)
    bench.memory.write(near, valid.to_bytes(16, "little") * 256)
    bench.memory.write(near + 16 * but.devfn, bytes(16))
    for bus in range(256):
        bench.write_root(bus, RootEntry.make(P=1, CTP=contexts))
    bench.write_root(but.bus, 0 if root else RootEntry.make(P=1, CTP=near))


def _device(id_: str, what: str, setup: Setup, device: str, *, named: str = "") -> None:
    """Three scenarios of one device. Faults are recorded under `named`, the first device with its source-id."""
    source_id = setup.topology.source_ids[device]
    blocked = f"{device} write 0x5000 -> blocked"

    def own(bench: Bench) -> None:
        table = bench.new_table()
        bench.map(table, 0x5000, P0)
        bench.context(device, table)
        bench.turn_on()
        bench.write(device, 0x5000)
        bench.write(device, 0x6000)

    def others(*, root: bool) -> None:
        def stimulus(bench: Bench) -> None:
            table = bench.new_table()
            bench.map(table, 0x5000, P0)
            _fill(bench, table, source_id, root=root)
            bench.turn_on()
            bench.write(device, 0x5000)

        code = "0x01" if root else "0x02"
        entry = "root" if root else "context"
        stimulus.__doc__ = f"{what}: no other {entry} entry is used."
        lines = blocked, f"fault {code} {named or device} 0x5000 write", "FSTS PPF"
        scenario(f"{id_}.other-{'buses' if root else 'devices'}", "3.4.1", *lines, setup=setup)(stimulus)

    own.__doc__ = f"{what}: its own entries are used, and its faults carry its source-id."
    lines = (
        f"{device} write 0x5000 -> 0x800000",
        f"{device} write 0x6000 -> blocked",
        f"fault 0x05 {named or device} 0x6000 write",
        "FSTS PPF",
    )
    scenario(f"{id_}.own", "3.4.1", *lines, setup=setup)(own)
    others(root=True)
    others(root=False)


_device("source.port", "A device behind a root port", ON_PORTS, "A")
_device("source.last-function", "Function 7 of a device behind a root port", ON_PORTS, "B")
_device("source.second-port", "A device behind a second root port", ON_PORTS, "C")
_device("source.high-devfn", "A device with devfn 0xf0", ON_PORTS, "D")
_device("source.host-bridge", "A device below a second host bridge", ON_HOST_BRIDGE, "A")
_device("source.host-bridge-port", "A device behind the second port of a second host bridge", ON_HOST_BRIDGE, "B")
_device("source.devfn-7f", "The last devfn of the context table's lower half", ON_HOST_BRIDGE, "C")
_device("source.devfn-80", "The first devfn of the context table's upper half", ON_HOST_BRIDGE, "D")
_device("source.express-bridge", "A device behind a PCI Express to PCI bridge", ON_CONVENTIONAL, "A")
_device("source.express-bridge-second", "A second device behind that bridge", ON_CONVENTIONAL, "B", named="A")
_device("source.conventional-bridge", "A device behind a conventional PCI bridge", ON_CONVENTIONAL, "C")


# Several devices and domains.


def _several(id_: str, title: str, setup: Setup, pages: Sequence[tuple[str, int]]) -> None:
    """Each device, in its own domain, has the same address mapped to a page of its own."""

    def stimulus(bench: Bench) -> None:
        for domain, (device, page) in enumerate(pages, 1):
            table = bench.new_table()
            bench.map(table, 0x5000, page)
            bench.context(device, table, domain=domain)
        bench.turn_on()
        for _ in range(2):
            for device, _page in pages:
                bench.write(device, 0x5000)

    stimulus.__doc__ = title
    lines = [f"{device} write 0x5000 -> {page:#x}" for device, page in pages]
    scenario(id_, "3.4.1", *lines, *lines, "FSTS 0", setup=setup)(stimulus)


FOUR_PAGES = list(zip("ABCD", DATA[:4], strict=True))
_several("source.several.ports", "Four devices on three buses, four domains.", ON_PORTS, FOUR_PAGES)
_several(
    "source.several.host-bridge",
    "Four devices on three buses of two host bridges, four domains.",
    ON_HOST_BRIDGE,
    FOUR_PAGES,
)
_several("source.several.functions", "Four functions of one device, four domains.", ON_FUNCTIONS, FOUR_PAGES)


@scenario(
    "source.several.one-domain",
    "3.4.1",
    "A write 0x5000 -> 0x800000",
    "C write 0x5000 -> 0x800000",
    "D write 0x5000 -> 0x800000",
    "B write 0x5000 -> 0x801000",
    "FSTS 0",
    setup=ON_PORTS,
)
def one_domain(bench: Bench) -> None:
    """Devices of one domain on three buses share its tables; another function of one of them has its own."""
    shared, own = bench.new_table(), bench.new_table()
    bench.map(shared, 0x5000, P0)
    bench.map(own, 0x5000, P1)
    for device in "ACD":
        bench.context(device, shared)
    bench.context("B", own, domain=2)
    bench.turn_on()
    for device in "ACDB":
        bench.write(device, 0x5000)


# Device-selective context-cache invalidation and its function mask (6.5.2.1).


def _all_changed(bench: Bench) -> None:
    """The contexts of all devices are cached, then changed from domain 1 to domain 2, which maps 0x6000 too."""
    old, new = bench.new_table(), bench.new_table()
    bench.map(old, 0x5000, P0)
    bench.map(new, 0x5000, P0)
    bench.map(new, 0x6000, P1)
    devices = bench.platform.topology.source_ids
    for device in devices:
        bench.context(device, old)
    bench.turn_on()
    for device in devices:
        bench.write(device, 0x5000)
    for device in devices:
        bench.context(device, new, domain=2)


def _invalidated(id_: str, title: str, setup: Setup, target: SourceId, mask: int, *, fresh: str, kept: str) -> None:
    """One device-selective invalidation by the queue and one by the register, after `_all_changed`.

    The devices in `fresh` must use the new tables. `kept` may go on using the old context, which maps less.
    """
    used = [f"{device} write 0x5000 -> 0x800000" for device in setup.topology.source_ids]
    stale = [f"{kept} write 0x6000 -> blocked"] if kept else []
    lines = used + [f"{device} write 0x6000 -> 0x801000" for device in fresh]
    last = [f"fault 0x05 {kept} 0x6000 write", "FSTS PPF"] if kept else ["FSTS 0"]
    coarser = [f"{kept} write 0x6000 -> 0x801000", "FSTS 0"]
    allowed = (Allowed(COARSER, tuple(lines + coarser)),) if kept else ()

    def queued(bench: Bench) -> None:
        _all_changed(bench)
        start(bench)
        bench.driver.submit(context(SELECTIVE, DID=1, SID=target, FM=mask), wait(SW=1))
        look(bench)

    def by_register(bench: Bench) -> None:
        _all_changed(bench)
        bench.driver.invalidate_contexts(SELECTIVE, domain_id=1, source_id=target, mask=mask)
        look(bench)

    def look(bench: Bench) -> None:
        for device in (*fresh, *kept):
            bench.write(device, 0x6000)

    queued.__doc__, by_register.__doc__ = f"By the queue: {title}", f"By CCMD: {title}"
    expect = (*lines, *stale, *last)
    scenario(f"{id_}.queue", "6.5.2.1", *expect, allowed=allowed, setup=setup)(queued)
    scenario(f"{id_}.register", "6.5.1.1", *expect, allowed=allowed, setup=setup)(by_register)


_SLOT = FUNCTIONS.source_ids["A"]
for _mask, _ignored, _fresh, _kept in (
    (0, "compares the whole source-id", "A", "C"),
    (1, "ignores function bit 2", "AC", "D"),
    (2, "ignores function bits 2 and 1", "ACD", "B"),
    (3, "ignores the function", "ABCD", ""),
):
    _invalidated(
        f"source.function-mask.{_mask}",
        f"FM = {_mask} {_ignored}.",
        ON_FUNCTIONS,
        _SLOT,
        _mask,
        fresh=_fresh,
        kept=_kept,
    )
_invalidated(
    "source.function-mask.odd-function",
    "FM = 2 keeps function bit 0 of SID: only the odd function.",
    ON_FUNCTIONS,
    SourceId.of(_SLOT | 7),
    2,
    fresh="B",
    kept="A",
)
_invalidated(
    "source.function-mask.other-bus",
    "FM = 3 compares the bus.",
    ON_PORTS,
    PORTS.source_ids["C"],
    3,
    fresh="C",
    kept="A",
)
_invalidated(
    "source.function-mask.behind-port",
    "FM = 3 reaches function 7 behind a root port.",
    ON_PORTS,
    PORTS.source_ids["A"],
    3,
    fresh="AB",
    kept="C",
)
_invalidated(
    "source.function-mask.other-device",
    "FM = 3 compares the device number.",
    ON_HOST_BRIDGE,
    HOST_BRIDGE.source_ids["C"],
    3,
    fresh="C",
    kept="D",
)


# A bus that gets another number at run time.


def _renumbered(
    id_: str, title: str, device: str, *expect: str, context_there: bool = True, invalidate: bool = False
) -> None:
    """A device has 0x5000 mapped, then its bus becomes 0x42, where it may have another page mapped."""

    def stimulus(bench: Bench) -> None:
        old, new = bench.new_table(), bench.new_table()
        bench.map(old, 0x5000, P0)
        bench.map(new, 0x5000, P1)
        bench.context(device, old)
        bench.turn_on()
        bench.write(device, 0x5000)
        bench.renumber("port1", 0x42)
        if context_there:
            bench.context(device, new, domain=2)
        if invalidate:
            bench.driver.invalidate_everything()
        bench.write(device, 0x5000)

    stimulus.__doc__ = title
    scenario(id_, "3.4.1", f"{device} write 0x5000 -> 0x800000", *expect, setup=ON_PORTS)(stimulus)


_renumbered(
    "source.renumbered.translated",
    "A device whose bus gets another number is translated by the entries of the new source-id.",
    "A",
    "A write 0x5000 -> 0x801000",
    "FSTS 0",
)
_renumbered(
    "source.renumbered.function",
    "Function 7 of that device is too.",
    "B",
    "B write 0x5000 -> 0x801000",
    "FSTS 0",
)
_renumbered(
    "source.renumbered.blocked",
    "A device whose bus gets another number is blocked where that bus has no root entry.",
    "A",
    "A write 0x5000 -> blocked",
    "fault 0x01 A 0x5000 write",
    "FSTS PPF",
    context_there=False,
)
_renumbered(
    "source.renumbered.invalidated",
    "The same after global invalidations.",
    "A",
    "A write 0x5000 -> 0x801000",
    "FSTS 0",
    invalidate=True,
)
_renumbered(
    "source.renumbered.invalidated-blocked",
    "The same after global invalidations, where the new bus has no root entry: blocked.",
    "A",
    "A write 0x5000 -> blocked",
    "fault 0x01 A 0x5000 write",
    "FSTS PPF",
    context_there=False,
    invalidate=True,
)
