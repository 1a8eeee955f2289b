"""What `vtd inspect` prints for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from iommu.cli.explain import describe
from iommu.cli.output import bytes_size, counted, line, print_indented
from iommu.engine.present import Problem
from iommu.files.text import safe
from iommu.snapshot.inspect.devices import Device, Space, rights_of
from iommu.snapshot.inspect.inspection import Inspection, UnitInspection
from iommu.snapshot.inspect.queue import Command

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_MOST = 8

Line = tuple[int, "Text"]
"""A line with its indentation."""


def show(out: Console, found: Inspection, *, everything: bool) -> None:
    """Print everything; without `everything` of long lists the first lines only."""
    for number, lines in enumerate(parts_of(found, None if everything else _MOST)):
        if number:
            out.print()
        for indent, text in lines:
            print_indented(out, text, indent)


def parts_of(found: Inspection, most: int | None) -> Iterator[list[Line]]:
    """The parts of the output, none of them empty; `most` lines of each long list."""
    yield list(_machine(found))
    for unit in found.units:
        for part in (_unit, _devices, _interrupts, _queue, _cached, _faults, _problems):
            if lines := list(part(unit, most)):
                yield lines


def _machine(found: Inspection) -> Iterator[Line]:
    units = counted(len(found.units), "unit")
    of = f" of {safe(found.origin)}" if found.origin else ""
    yield 0, line(("snapshot", "bold"), f" {safe(found.name)}: {units}{of}")
    if found.tables_only:
        yield 2, line("only tables, queues and records are in it")
    for text in found.unknown:
        yield 2, line((f"unknown: {safe(text)}", "dim"))


def _unit(found: UnitInspection, _most: int | None) -> Iterator[Line]:
    unit = found.unit
    yield 0, line((f"unit at {unit.register_base:#x}", "bold"), f", version {unit.version}")
    if unit.on:
        yield 2, line("on: ", (", ".join(unit.on), "green"))
    else:
        yield 2, line(("switched off: DMA and interrupts go where they are addressed to", "yellow"))
    if unit.on and unit.off:
        yield 2, line("off: ", (", ".join(unit.off), "yellow"))
    yield 2, line(f"{unit.mode}, root table {unit.root_table:#x}")
    if unit.interrupt_table:
        bits = 32 if unit.extended else 8
        entries = counted(unit.interrupt_entries, "entry", "entries")
        yield 2, line(f"interrupt table {unit.interrupt_table:#x}, {entries}, destinations of {bits} bits")
    if unit.protected:
        yield 2, line("protected memory regions are on")
    yield 2, line(f"can: {', '.join(unit.capabilities)}")


# Devices.


def _devices(found: UnitInspection, _most: int | None) -> Iterator[Line]:
    yield 0, line(("devices", "bold"), "" if found.devices else ": none has an entry")
    if "translation" in found.unit.off and found.devices:
        yield 2, line(("translation is off: this is what would apply if it were switched on", "yellow"))
    shown: dict[int, str] = {}
    for group in _alike(found.devices):
        first = group[0]
        names = ", ".join(device.name for device in group)
        parts = [f"domain {first.domain_id}", first.kind]
        if first.pasid is not None and first.without_pasid:
            parts.append(f"PASID {first.pasid:#x} for requests without one")
        yield 2, line((names, "bold cyan"), f"  {', '.join([*parts, *first.flags])}")
        for problem in first.problems:
            yield 4, line((f"hardware would refuse this: {problem.name}, {problem.what}", "red"))
        if first.space is None:
            continue
        if first.space in shown:
            yield 4, line(f"the same page tables as {shown[first.space]}")
            continue
        shown[first.space] = first.name
        yield from _space(found.spaces[first.space])
    if found.cut_short:
        yield 2, line(("cut short: there are more tables or devices than are read without --all", "yellow"))
    for domain, devices in found.mixed_domains:
        names = ", ".join(device.name for device in devices[:_MOST])
        yield (
            2,
            line((f"domain {domain} has several page tables, which the IOTLB cannot keep apart: {names}", "yellow")),
        )


def _alike(devices: list[Device]) -> list[list[Device]]:
    """The devices, those of which the same is said together."""
    groups: dict[object, list[Device]] = {}
    for each in devices:
        said = tuple((problem.name, problem.what) for problem in each.problems)
        key = each.domain_id, each.kind, each.flags, each.space, each.pasid, each.without_pasid, said
        groups.setdefault(key, []).append(each)
    return list(groups.values())


def _space(space: Space) -> Iterator[Line]:
    if not space.stages:
        yield 4, line("every host address, as it is")
        return
    for stage in space.stages:
        where = "guest address " if len(space.stages) > 1 and stage.stage == "first stage" else ""
        yield 4, line(f"{stage.stage}, {stage.levels} levels, at {where}{stage.address:#x}")
    if not space.count and not space.cut_short:
        there = sum(space.pages.values())
        yield (
            4,
            line(
                f"no request gets through: {counted(there, 'page')} in the tables" if there else "nothing is mapped"
            ),
        )
        return
    least = "at least " if space.cut_short else ""
    pages = ", ".join(
        f"{counted(count, 'page')} of {bytes_size(size)}" + (f" ({stage})" if len(space.stages) > 1 else "")
        for (stage, size), count in sorted(space.pages.items())
    )
    total = f"{least}{counted(space.count, 'range')}, {bytes_size(space.size)}"
    yield 4, line((total, "bold"), f"; {pages or 'no page'} in {counted(space.tables, 'table')}")
    for each in space.ranges:
        first, last = each.addresses.start, each.addresses.stop - 1
        yield 6, line(f"{first:#x}-{last:#x} -> {each.host:#x}  ", (rights_of(each), "green"))
    if (more := space.count - len(space.ranges)) > 0:
        yield 6, line((f"... {more} more (--all)", "dim"))
    if space.cut_short:
        yield 4, line(("cut short: the tables describe more than is read without --all", "yellow"))


# Interrupts, queue.


def _interrupts(found: UnitInspection, most: int | None) -> Iterator[Line]:
    if not found.unit.interrupt_table:
        return
    free = found.unit.interrupt_entries - len(found.interrupts)
    in_use = counted(len(found.interrupts), "entry", "entries")
    yield 0, line(("interrupts", "bold"), f": {in_use} in use, {free} free")
    by_requester: dict[str, list[str]] = {}
    for row in found.interrupts:
        by_requester.setdefault(row.requester, []).append(f"{row.number:#x}  {row}")
    for requester, rows in by_requester.items():
        yield 2, line((requester, "bold cyan"))
        yield from _first(4, rows, most)


def _queue(found: UnitInspection, _most: int | None) -> Iterator[Line]:
    queue = found.queue
    if queue is None:
        return
    if not queue.on:
        yield 0, line(("invalidation queue", "bold"), ": off")
        return
    waiting = len(queue.waiting) + queue.more
    yield (
        0,
        line(
            ("invalidation queue", "bold"),
            f" at {queue.address:#x}, {queue.size // queue.width} descriptors of {queue.width} bytes; "
            f"head {queue.head:#x}, tail {queue.tail:#x}, {waiting or 'none'} waiting",
        ),
    )
    for text in queue.stopped:
        yield 2, line((text, "bold red"))
    for text in queue.notes:
        yield 2, line((text, "yellow"))
    if queue.unreadable:
        yield 2, line(("there is no memory at a part of it", "red"))
    yield from _commands("before the head, the newest last", queue.done)
    yield from _commands("waiting, the next first", queue.waiting)
    if queue.more > 0:
        yield 4, line((f"... {queue.more} more (--all)", "dim"))


def _commands(title: str, commands: tuple[Command, ...]) -> Iterator[Line]:
    if commands:
        yield 2, line(f"{title}:")
        for each in commands:
            yield 4, line(f"{each.offset:#06x}  {each.words}")


def _cached(found: UnitInspection, _most: int | None) -> Iterator[Line]:
    if found.cached is not None and any(found.cached.counts.values()):
        held = ", ".join(f"{count} {name}" for name, count in found.cached.counts.items() if count)
        yield 0, line(("cached", "bold"), f": {held} (--json lists them); above are the tables as they are in memory")


# Faults, problems.


def _faults(found: UnitInspection, _most: int | None) -> Iterator[Line]:
    yield 0, line(("faults", "bold"), "" if found.faults or found.odd_records else ": none is recorded")
    for text in found.odd_records:
        yield 2, line((text, "red"))
    for fault in found.faults:
        yield from ((2, text) for text in describe(fault))


def _problems(found: UnitInspection, most: int | None) -> Iterator[Line]:
    count = counted(len(found.problems), "entry", "entries")
    yield 0, line(("what hardware would refuse", "bold"), f": {count if found.problems else 'nothing found'}")
    for problem, alike in found.kinds_of_problems:
        if problem.raw is None:
            yield 2, line((str(problem), "red"))
            continue
        yield (
            2,
            line(
                (f"{problem.name}: {problem.what} (spec {problem.section})", "red"),
                f", {alike} times" if alike > 1 else "",
            ),
        )
        where = [each for each in found.problems if (each.name, each.what) == (problem.name, problem.what)]
        yield from _first(4, [f"at {each.where:#x}: {_raw(each)}" for each in where], most)


def _raw(problem: Problem) -> str:
    return f"{problem.raw or 0:#x}"


def _first(indent: int, texts: Iterable[str], most: int | None) -> Iterator[Line]:
    """The first lines of a list, with the number of the others."""
    every = list(texts)
    shown = every if most is None or len(every) <= most + 1 else every[:most]
    yield from ((indent, line(text)) for text in shown)
    if len(shown) < len(every):
        yield indent, line((f"... {len(every) - len(shown)} more (--all)", "dim"))
