"""What `vtd reach` prints for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from iommu.batch.reach import Range, Reachable
from iommu.batch.reach_domains import Requester, Space
from iommu.batch.reach_findings import Finding
from iommu.batch.reach_never import Certificate
from iommu.batch.reach_stale import Stale
from iommu.cli.output import bytes_size, counted, line, print_indented
from iommu.cli.reaching.found import MachineReach, UnitReach, Wanted
from iommu.files.text import safe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_MOST, _MOST_NAMES = 8, 8
Line = tuple[int, "Text"]
"""A line with its indentation."""


def show(out: Console, found: MachineReach, wanted: Wanted) -> None:
    """Print what is reached, and what of it matters; of long lists the first lines, unless all is wanted."""
    for indent, text in lines_of(found, wanted, None if wanted.everything else _MOST):
        print_indented(out, text, indent)


def lines_of(found: MachineReach, wanted: Wanted, most: int | None) -> Iterator[Line]:
    """The lines; `most` ranges of each list."""
    of = f" of {safe(found.origin)}" if found.origin else ""
    yield 0, line(("snapshot", "bold"), f" {safe(found.name)}: {counted(len(found.units), 'unit')}{of}")
    if found.ram is None:
        yield 2, line("only tables are in it: which addresses are RAM is not known")
    for unit in found.units:
        yield 0, line("")
        yield 0, line((f"unit at {unit.register_base:#x}", "bold"))
        yield from _spaces(unit, wanted, most)
        yield from _findings(unit, wanted, most)
        yield from _stale(unit)


def _spaces(unit: UnitReach, wanted: Wanted, most: int | None) -> Iterator[Line]:
    shown = [space for space in unit.spaces if any(map(wanted.shows, space.requesters))]
    reached = [(space, space.reach if wanted.host is None else space.reach.to(wanted.host)) for space in shown]
    if wanted.host is not None:
        reached = [each for each in reached if len(each[1])]
    if not reached:
        yield 2, line(("nothing is reached" if wanted.host is None else "nobody reaches it", "green"))
    for space, reach in reached:
        yield 2, line((names(space.requesters), "bold cyan"), f"  {domains(space)}{space.kind}")
        yield from ((4, text) for text in _ranges(space, reach, most))
        if translated := [one for one in space.requesters if one.translated]:
            yield 4, line((f"translated requests of {names(translated)} reach every host address", "yellow"))
    if unit.cut_short:
        yield 2, line(("cut short: there is more than is read without --all", "yellow"))


def _ranges(space: Space, reach: Reachable, most: int | None) -> Iterator[Text]:
    if not len(reach):
        yield line("no request gets through")
        return
    if space.passes:
        yield line("every host address, as it is:")
    else:
        least = "at least " if reach.cut_short else ""
        yield line((f"{least}{counted(len(reach), 'range')}, {bytes_size(reach.size)}", "bold"))
    yield from _first((range_line(each) for each in first(reach, most)), len(reach), most)


def first(reach: Reachable, most: int | None) -> list[Range]:
    """The first ranges."""
    return [reach[at] for at in range(len(reach) if most is None else min(most, len(reach)))]


def range_line(each: Range) -> Text:
    """A range: addresses, host addresses, rights."""
    ours, theirs = each.start + each.size - 1, each.host + each.size - 1
    return line(f"  {each.start:#x}-{ours:#x} -> {each.host:#x}-{theirs:#x}  ", (each.rights, "green"))


def _first(lines: Iterable[Text], count: int, most: int | None) -> Iterator[Text]:
    yield from lines
    if most is not None and count > most:
        yield line((f"  ... {count - most} more (--all)", "dim"))


def names(requesters: Sequence[Requester]) -> str:
    """The requesters, the first of many."""
    more = f" and {len(requesters) - _MOST_NAMES} more" if len(requesters) > _MOST_NAMES else ""
    return ", ".join(map(str, requesters[:_MOST_NAMES])) + more


def domains(space: Space) -> str:
    """The domains of the requesters: "domain 1, "."""
    numbers = sorted({one.domain_id for one in space.requesters if one.domain_id is not None})
    return f"domain{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}, " if numbers else ""


def _findings(unit: UnitReach, wanted: Wanted, most: int | None) -> Iterator[Line]:
    found = [each for each in unit.findings.found if any(map(wanted.shows, each.requesters))]
    everything = [one for one in unit.findings.everything if wanted.shows(one)]
    if wanted.host is not None:
        return
    yield 2, line(("what matters", "bold"), "" if found or everything else ": nothing of what is looked for")
    if everything:
        yield 4, line((f"{names(everything)} reaches everything: no page tables limit it", "red"))
    for each in found:
        yield 4, line((sentence(each), "red" if each.writable else "yellow"))
        shown = each.reached.ranges(most)
        yield 6, line(", ".join(f"{one.start:#x}-{one.stop - 1:#x}" for one in shown))
        if len(each.reached.firsts) > len(shown):
            yield 6, line((f"... {len(each.reached.firsts) - len(shown)} more ranges (--all)", "dim"))


def sentence(found: Finding) -> str:
    """A finding in one line."""
    size, writable = found.reached.size, found.writable.size
    if found.kind == "domains":
        readers = [one for one in found.requesters if one not in found.writers]
        parts = [f"{names(who)} can {how} it" for who, how in ((found.writers, "write"), (readers, "read")) if who]
        return f"{bytes_size(size)} is in {found.what}: {', '.join(parts)}"
    how = "can read" if not writable else "can write" if writable == size else "can read, and partly write,"
    return f"{names(found.requesters)} {how} {bytes_size(size)} of {found.what}"


def _stale(unit: UnitReach) -> Iterator[Line]:
    if unit.caches_unknown:
        yield 2, line("stale: what the unit has cached is not known, so it may let more through than its tables")
    if unit.stale is None:
        return
    cached = ", ".join(f"{number} {what}" for what, number in unit.stale.cached.items())
    yield 2, line(("stale", "bold"), f": {cached} cached; {_counts(unit.stale)}")
    for page in unit.stale.pages[:_MOST]:
        pasid = "" if page.pasid is None else f" PASID {page.pasid:#x}"
        last = page.address + page.size - 1
        text = f"domain {page.domain_id}{pasid}: {page.address:#x}-{last:#x} -> {page.host:#x} {page.rights}"
        yield 4, line((text, "red"))
    if len(unit.stale.pages) > _MOST:
        yield 4, line((f"... {len(unit.stale.pages) - _MOST} more (--json)", "dim"))
    if unit.stale.contexts:
        yield 4, line((f"contexts of {', '.join(map(str, unit.stale.contexts[:_MOST]))}", "red"))
    if unit.stale.pasids:
        listed = ", ".join(f"{device} PASID {pasid:#x}" for device, pasid in unit.stale.pasids[:_MOST])
        yield 4, line((f"PASID-table entries of {listed}", "red"))


def _counts(found: Stale) -> str:
    if not found:
        return "all as the tables say"
    parts = [
        counted(len(found.contexts), "context"),
        counted(len(found.pasids), "PASID-table entry", "PASID-table entries"),
        counted(len(found.pages), "page"),
    ]
    return f"the tables no longer say so of {', '.join(part for part in parts if not part.startswith('0 '))}"


# The certificate.


def certificate_lines(found: Certificate) -> Iterator[Line]:
    """A proof, or that there is none."""
    wanted = f"{found.never.start:#x}-{found.never.stop - 1:#x}"
    if found.counterexample is not None:
        yield 0, line((f"{found.source_id} reaches {wanted}", "bold red"))
        return
    yield (
        0,
        line((f"{found.source_id} never reaches {wanted}", "bold green"), ", as long as its tables stay as they are"),
    )
    if not found.evidence:
        yield 2, line("the device has no entry that the unit accepts: all its requests are blocked")
    for each in found.evidence:
        yield 2, line((str(each.requester), "bold cyan"), f"  {each.kind}")
        yield (
            4,
            line(f"reaches {counted(len(each.reach), 'range')}, {bytes_size(each.reach.size)}, none of them there"),
        )
        for where, side in ((each.below, "below"), (each.above, "above")):
            if where is not None:
                yield 4, line(f"nearest {side}: {where.start:#x}-{where.stop - 1:#x}")
        if len(each.reach.tables):
            yield 4, line(f"by {counted(len(each.reach.tables), 'page table')}, whose other entries map nothing:")
        for (stage, level, reason), count in sorted(each.reach.refused.items(), key=_by_level):
            yield 6, line(f"{stage}, level {level}: {counted(count, 'entry', 'entries')} {reason}")


def _by_level(each: tuple[tuple[str, int, str], int]) -> tuple[str, int, str]:
    (stage, level, reason), _ = each
    return stage, -level, reason
