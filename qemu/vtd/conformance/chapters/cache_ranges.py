"""Spec 6.5.1, 6.5.2: the exact reach of an invalidation: every page of its range, every device, every domain.

A unit may invalidate more than requested (6.5), and evict what is cached at any time (6.2.1). Wherever something is
expected to be stale, everything being fresh is therefore allowed too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from iommu.registers import Granularity
from qemu.vtd.conformance import queue
from qemu.vtd.conformance.bench import P0, P1, PAGE, Bench
from qemu.vtd.conformance.queue import DOMAIN, GLOBAL, SELECTIVE
from qemu.vtd.conformance.scenario import COARSER, Allowed, scenario

Invalidate = Callable[[Bench], None]


def ranges(addresses: Iterable[int]) -> str:
    """Pages as ranges: "0x4000-0x7fff 0x9000-0x9fff"."""
    runs: list[list[int]] = []
    for address in sorted(addresses):
        if runs and runs[-1][1] == address:
            runs[-1][1] += PAGE
        else:
            runs.append([address, address + PAGE])
    return " ".join(f"{first:#x}-{end - 1:#x}" for first, end in runs) or "nothing"


def by_register(granularity: Granularity, **where: int) -> Invalidate:
    """An IOTLB invalidation by register."""
    return lambda bench: bench.note_granularity(bench.driver.invalidate_translations(granularity, **where))


def by_queue(granularity: Granularity, *, domain_id: int = 0, address: int = 0, mask: int = 0) -> Invalidate:
    """An IOTLB invalidation by queue, waited for."""

    def invalidate(bench: Bench) -> None:
        queue.start(bench)
        bench.driver.submit(queue.iotlb(granularity, DID=domain_id, ADDR=address, AM=mask), queue.wait(SW=1))
        queue.status(bench)

    return invalidate


def done_by(way: str, granularity: Granularity) -> str:
    """The line of an invalidation that has been carried out."""
    return f"performed {granularity.name}" if way == "register" else f"status {queue.DATA:#x}"


def remap(bench: Bench, pages: Iterable[int], invalidate: Invalidate) -> None:
    """A uses pages of domain 1, all mapped to one host page; all are moved; which see that after an invalidation."""
    pages = list(pages)
    table = bench.new_table()
    entries = [bench.map(table, page, P0) for page in pages]
    bench.context("A", table)
    bench.turn_on()
    for page in pages:
        bench.lands("A", page)
    for entry in entries:
        bench.change(entry, set_=P1)
    invalidate(bench)
    hosts = {page: bench.lands("A", page) for page in pages}
    bench.note(f"fresh -> {ranges(page for page, host in hosts.items() if host == P1)}")
    bench.note(f"stale -> {ranges(page for page, host in hosts.items() if host == P0)}")


def _mask(am: int, address: int, pages: tuple[int, ...], way: str) -> None:
    """A page-selective invalidation with an address mask, looked at on several pages in it and around it."""
    size = PAGE << am
    covered = [page for page in pages if page // size == address // size]
    kept = [page for page in pages if page // size != address // size]
    where = {"domain_id": 1, "address": address, "mask": am}

    def stimulus(bench: Bench) -> None:
        remap(bench, pages, (by_register if way == "register" else by_queue)(SELECTIVE, **where))

    def lines(fresh: Iterable[int], stale: Iterable[int]) -> tuple[str, ...]:
        return done_by(way, SELECTIVE), f"fresh -> {ranges(fresh)}", f"stale -> {ranges(stale)}", "FSTS 0"

    low = " at an address within the range" if address % size else ""
    stimulus.__doc__ = f"By {way}, AM = {am}{low}: each page of the range is dropped, the pages around it are kept."
    id_ = f"cache.range.{way}-{am}{'-unaligned' if low else ''}"
    section = "6.5.1.2" if way == "register" else "6.5.2.3"
    scenario(id_, section, *lines(covered, kept), allowed=(Allowed(COARSER, lines(pages, ())),))(stimulus)


for _way in ("register", "queue"):
    for _am in range(5):
        _all = range(0x40000 - 2 * PAGE, 0x40000 + (PAGE << _am) + 2 * PAGE, PAGE)
        _mask(_am, 0x40000, tuple(_all), _way)
    _mask(3, 0x45000, tuple(range(0x3E000, 0x4A000, PAGE)), _way)
    for _am in (5, 9, 12, 18):
        _size = PAGE << _am
        _inside = (_size, _size + PAGE, _size + _size // 2, _size + 5 * _size // 8, 2 * _size - PAGE)
        _mask(_am, _size, (_size - PAGE, *_inside, 2 * _size), _way)


# Several devices and domains.


def _domains(
    name: str, title: str, domains: dict[str, int], invalidate: Invalidate, done: str, fresh: str, section: str
) -> None:
    """Devices in domains, each with its own table; all use two pages, all are moved; who sees that afterwards."""

    def stimulus(bench: Bench) -> None:
        entries = []
        for device, domain in domains.items():
            table = bench.new_table()
            entries += [bench.map(table, page, P0) for page in (0x5000, 0x6000)]
            bench.context(device, table, domain=domain)
        bench.turn_on()
        uses = [(device, page) for device in domains for page in (0x5000, 0x6000)]
        for device, page in uses:
            bench.lands(device, page)
        for entry in entries:
            bench.change(entry, set_=P1)
        invalidate(bench)
        seen = [f"{device} {page:#x}" for device, page in uses if bench.lands(device, page) == P1]
        bench.note(f"fresh -> {', '.join(seen) or 'nothing'}")

    everything = ", ".join(f"{device} {page:#x}" for device in domains for page in (0x5000, 0x6000))
    stimulus.__doc__ = title
    allowed = () if fresh == everything else (Allowed(COARSER, (done, f"fresh -> {everything}", "FSTS 0")),)
    scenario(f"cache.domains.{name}", section, done, f"fresh -> {fresh}", "FSTS 0", allowed=allowed)(stimulus)


_LONG = {"A": 0x1234, "B": 0x0034, "C": 0x1200}
for _way, _by, _section in (("register", by_register, "6.5.1.2"), ("queue", by_queue, "6.5.2.3")):
    _domains(
        f"{_way}-global",
        f"By {_way}, a global invalidation drops the translations of every domain.",
        {"A": 1, "B": 2, "C": 3},
        _by(GLOBAL),
        done_by(_way, GLOBAL),
        "A 0x5000, A 0x6000, B 0x5000, B 0x6000, C 0x5000, C 0x6000",
        _section,
    )
    _domains(
        f"{_way}-domain",
        f"By {_way}, a domain-selective invalidation drops every page of its domain and none of the others.",
        {"A": 1, "B": 2, "C": 3},
        _by(DOMAIN, domain_id=2),
        done_by(_way, DOMAIN),
        "B 0x5000, B 0x6000",
        _section,
    )
    _domains(
        f"{_way}-long-id",
        f"By {_way}, all 16 bits of the domain-id are compared.",
        _LONG,
        _by(DOMAIN, domain_id=0x1234),
        done_by(_way, DOMAIN),
        "A 0x5000, A 0x6000",
        _section,
    )
    _domains(
        f"{_way}-page",
        f"By {_way}, a page-selective invalidation drops one page in one domain.",
        {"A": 1, "B": 2, "C": 3},
        _by(SELECTIVE, domain_id=2, address=0x6000),
        done_by(_way, SELECTIVE),
        "B 0x6000",
        _section,
    )
    _domains(
        f"{_way}-page-long-id",
        f"By {_way}, a page-selective invalidation compares all 16 bits of the domain-id.",
        _LONG,
        _by(SELECTIVE, domain_id=0x1200, address=0x5000),
        done_by(_way, SELECTIVE),
        "C 0x5000",
        _section,
    )
    _domains(
        f"{_way}-domain-0",
        f"By {_way}, domain 0 is a domain like any other without caching mode.",
        {"A": 0, "B": 2},
        _by(DOMAIN, domain_id=0),
        done_by(_way, DOMAIN),
        "A 0x5000, A 0x6000",
        _section,
    )


@scenario("cache.domains.shared", "6.5.1.2", "performed SELECTIVE", "A 0x801000, B 0x801000", "FSTS 0")
def shared(bench: Bench) -> None:
    """Two devices share a domain and its table: a page-selective invalidation drops the page for both."""
    table = bench.new_table()
    entry = bench.map(table, 0x5000, P0)
    for device in "AB":
        bench.context(device, table)
    bench.turn_on()
    for device in "AB":
        bench.lands(device, 0x5000)
    bench.change(entry, set_=P1)
    by_register(SELECTIVE, domain_id=1, address=0x5000)(bench)
    bench.note(", ".join(f"{device} {bench.lands(device, 0x5000) or 0:#x}" for device in "AB"))


# The context cache: source-ids under each function mask.

SOURCES = (0x1F, *range(0x20, 0x28), 0x28, 0x120)
"""A is 00:04.0, source-id 0x20: its functions, its neighbours, and the same device number on another bus."""
MATCHING = {0: (0x20,), 1: (0x20, 0x24), 2: (0x20, 0x22, 0x24, 0x26), 3: tuple(range(0x20, 0x28))}
"""The source-ids that name A under each FM: 0 compares every bit, 1 all but bit 2, 2 all but 2:1, 3 all but 2:0."""


def _function_mask(mask: int, way: str) -> None:
    def stimulus(bench: Bench) -> None:
        tables = [bench.new_table(), bench.new_table()]
        for table, page in zip(tables, (P0, P1), strict=True):
            bench.map(table, 0x5000, page)
        bench.context("A", tables[0])
        bench.turn_on()
        if way == "queue":
            queue.start(bench)
        seen = [f"{source:#x}" for source in SOURCES if _drops(bench, tables, way, source, mask)]
        bench.note(f"dropped by -> {' '.join(seen)}")

    stimulus.__doc__ = f"By {way}, FM = {mask}: which source-ids drop the context entry of 00:04.0."
    section = "6.5.1.1" if way == "register" else "6.5.2.1"
    expect = " ".join(f"{source:#x}" for source in MATCHING[mask])
    every = " ".join(f"{source:#x}" for source in SOURCES)
    allowed = (Allowed(COARSER, (f"dropped by -> {every}", "FSTS 0")),)
    scenario(f"cache.sources.{way}-fm-{mask}", section, f"dropped by -> {expect}", "FSTS 0", allowed=allowed)(
        stimulus
    )


def _drops(bench: Bench, tables: list[int], way: str, source: int, mask: int) -> bool:
    """Whether a device-selective invalidation makes the unit see A's new context entry."""

    def everything() -> None:
        if way == "queue":
            bench.driver.submit(queue.context(GLOBAL), queue.iotlb(GLOBAL), queue.wait(SW=1))
        else:
            bench.driver.invalidate_everything()

    bench.context("A", tables[0])
    everything()
    bench.lands("A", 0x5000)
    bench.context("A", tables[1])
    if way == "queue":
        descriptor = queue.context(SELECTIVE, DID=1, SID=source, FM=mask)
        bench.driver.submit(descriptor, queue.iotlb(GLOBAL), queue.wait(SW=1))
    else:
        bench.driver.invalidate_contexts(SELECTIVE, domain_id=1, source_id=source, mask=mask)
        bench.driver.invalidate_translations()
    return bench.lands("A", 0x5000) == P1


for _way in ("register", "queue"):
    for _fm in MATCHING:
        _function_mask(_fm, _way)
