"""The reverse question: all that a device can reach, as arrays; and who can reach an address.

`reachable` says what `RemappingUnit.mappings` says, fifty times faster. It reads the tables as they stand in memory:
nothing is cached, recorded or set. What requests to a page can do is asked of the unit's own translation, once for
all pages whose entries differ in nothing but the address.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from iommu.batch.reach_runs import U64, Runs, through
from iommu.batch.reach_tables import ALL, Budget, Meaning, Stage
from iommu.engine.caches.tables import FirstStageRoot, Root
from iommu.engine.mappings import Mapping, Reach, Requester
from iommu.engine.quiet import quiet_copy
from iommu.engine.request import SourceId
from iommu.engine.unit import RemappingUnit
from iommu.errors import MisuseError

READ, WRITE, EXECUTE = 1, 2, 4
_LETTERS = ((READ, "r"), (WRITE, "w"), (EXECUTE, "x"))
_WINDOWS = 64


def letters(rights: int) -> str:
    """Rights as letters: "rw", "r", "rwx"."""
    return "".join(letter for bit, letter in _LETTERS if rights & bit)


class Range(NamedTuple):
    """Addresses in a row that lead to host addresses in a row, with the same rights ("rw", "r", "rwx")."""

    start: int
    size: int
    host: int
    rights: str

    def __str__(self) -> str:
        ours, theirs = self.start + self.size - 1, self.host + self.size - 1
        return f"{self.start:#x}-{ours:#x} -> {self.host:#x}-{theirs:#x} {self.rights}"


@dataclass(frozen=True)
class Reachable:
    """What requests of one source-id and PASID can reach, in order of address; neighbours that continue are one.

    Attributes:
        starts, sizes, hosts: of each range the first address, the bytes, and the host address of the first.
        rights: what requests may do there: READ, WRITE, EXECUTE.
        cut_short: not all was read, for want of budget: what is listed is right, and there may be more.
        tables: the host addresses of the page tables that were read; empty where none were.
        refused: how many entries map nothing, by stage, level and reason; each table counts once.
    """

    starts: U64
    sizes: U64
    hosts: U64
    rights: NDArray[np.uint8]
    cut_short: bool = False
    tables: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    refused: Counter[tuple[str, int, str]] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[Range]:
        for at in range(len(self.starts)):
            yield self[at]

    def __getitem__(self, at: int) -> Range:
        return Range(int(self.starts[at]), int(self.sizes[at]), int(self.hosts[at]), letters(int(self.rights[at])))

    @property
    def size(self) -> int:
        """Of all ranges, in bytes."""
        # A sum of 64-bit numbers may be 2**64.
        return int((self.sizes >> np.uint64(1)).sum()) * 2 + int((self.sizes & np.uint64(1)).sum())

    def find(self, address: int) -> Range | None:
        """The range that an address is in."""
        at = int(np.searchsorted(self.starts, np.uint64(address), side="right")) - 1
        return self[at] if at >= 0 and address - int(self.starts[at]) < int(self.sizes[at]) else None

    def to(self, host: range) -> Reachable:
        """The ranges that lead into a range of host addresses, as far as they do."""
        runs = Runs(self.starts, self.sizes, self.hosts, self.rights)
        runs = runs.at(runs.overlap(host, hosts=True))
        for border in (host.start, host.stop):
            runs = runs.cut_at(border, hosts=True)
        return self._of(runs.at(runs.overlap(host, hosts=True)))

    def _of(self, runs: Runs) -> Reachable:
        return Reachable(runs.starts, runs.sizes, runs.hosts, runs.kinds, self.cut_short, self.tables, self.refused)


def reachable(
    unit: RemappingUnit,
    source_id: SourceId | int,
    pasid: int | None = None,
    *,
    addresses: range | None = None,
    privileged: bool = False,
    budget: Budget | None = None,
) -> Reachable:
    """What untranslated requests of a device can reach, by the tables as they stand in memory.

    Addresses of the interrupt range that are messages, protected memory regions, and everything that faults are not
    in it. As `RemappingUnit.mappings`, it takes for granted that entries whose accessed or dirty bits have to be set
    can be written.

    Args:
        pasid: of requests with this PASID; None for those without.
        addresses: only these; None for all.
        privileged: requests ask for privileged mode; only with a PASID.
        budget: how much work there may be; by default 2**19 tables, and 2**26 runs of pages.

    Raises:
        MisuseError: no request has such a source-id or PASID, or the addresses are not 64-bit ones in a row.
    """
    wanted = range(ALL) if addresses is None else addresses
    if wanted.step != 1 or not 0 <= wanted.start <= wanted.stop <= ALL:
        raise MisuseError(f"{wanted} is not a range of 64-bit addresses in a row")
    device = SourceId.of(source_id) if not isinstance(source_id, SourceId) else source_id
    stock = unit._translation_is_stock()
    requester = Requester(quiet_copy(unit.translation), device, pasid, stock=stock, privileged=privileged)
    tables = requester.tables()
    if tables is None or not stock:
        return _of_mappings(requester.reachable(wanted.start, wanted.stop))
    return _Question(requester, tables, budget or Budget()).answer(wanted)


def _of_mappings(found: Iterable[Mapping]) -> Reachable:
    """What was enumerated page by page: where no tables apply, or a part of the unit has to see every request."""
    each = [(one.addresses.start, one.size, one.host, _bits(Reach(*one[2:]))) for one in found]
    columns = list(zip(*each, strict=True)) or [(), (), (), ()]
    starts, sizes, hosts = (np.array(column, np.uint64) for column in columns[:3])
    runs = Runs(starts, sizes, hosts, np.array(columns[3], np.uint8)).joined()
    return Reachable(runs.starts, runs.sizes, runs.hosts, runs.kinds)


def _bits(reach: Reach | None) -> int:
    if reach is None:
        return 0
    return READ * reach.readable | WRITE * reach.writable | EXECUTE * reach.executable


class _Question:
    """What one requester reaches through tables."""

    def __init__(self, requester: Requester, tables: Root, budget: Budget) -> None:
        self.requester, self.tables, self.budget = requester, tables, budget
        self.stages: list[Stage] = []

    def answer(self, wanted: range) -> Reachable:
        """All that is reachable of these addresses."""
        runs, count = self._mapped(wanted)
        touched = np.zeros(len(runs.starts), np.bool_)
        for each in self.requester.special:
            touched |= runs.overlap(each, hosts=False)
            touched |= runs.overlap(each, hosts=True)
        special = self._special(runs.at(np.flatnonzero(touched)))
        runs = self._judged(runs.without(touched), count)
        runs = Runs.merged([runs, special]).joined()
        tables = [each for stage in self.stages for each in stage.tables]
        refused: Counter[tuple[str, int, str]] = Counter()
        for stage in self.stages:
            name = "first stage" if isinstance(stage.root, FirstStageRoot) else "second stage"
            for (level, reason), number in stage.refused.items():
                refused[name, level, reason] += number
        found = np.unique(np.concatenate(tables)) if tables else np.zeros(0, np.uint64)
        rights = runs.kinds.astype(np.uint8, copy=False)
        return Reachable(runs.starts, runs.sizes, runs.hosts, rights, self.budget.is_spent, found, refused)

    def _mapped(self, wanted: range) -> tuple[Runs, int]:
        """What the tables map, of both stages if nested; and how many kinds of runs there are."""
        first = self._stage(self.tables)
        runs = first.runs([wanted])
        second = self.tables.second if isinstance(self.tables, FirstStageRoot) else None
        if second is None:
            return runs, len(first.meanings)
        runs, below = runs.joined(), self._stage(second)
        guests = _windows(runs.hosts, runs.sizes)
        runs, kinds, cut = through(runs, below.runs(guests).joined(), self.budget.runs)
        self.budget.is_spent |= cut
        return runs._replace(kinds=runs.kinds * np.int64(len(below.meanings) or 1) + kinds).joined(), (
            len(first.meanings) * len(below.meanings)
        )

    def _stage(self, root: Root) -> Stage:
        stage = Stage(self.requester.quiet, root, self.budget)
        self.stages.append(stage)
        return stage

    def _special(self, runs: Runs) -> Runs:
        """Runs that are in a special range, or pass its border, with their rights; those without rights are left out.

        They are cut at the borders. What decides about a part is its kind, in which of the ranges its addresses are,
        and whether a host address is the address itself: one of each is asked for.
        """
        for border in self.requester.borders:
            if border < ALL:
                runs = runs.cut_at(border, hosts=True).cut_at(border, hosts=False)
        if not len(runs.starts):
            return runs._replace(kinds=runs.kinds.astype(np.uint8))
        kinds = runs.kinds.astype(np.int64) * 2 + (runs.starts == runs.hosts)
        for each in self.requester.special:
            for hosts in (False, True):
                kinds = kinds * 2 + runs.overlap(each, hosts=hosts)
        _, first, inverse = np.unique(kinds, return_index=True, return_inverse=True)
        asked = np.array([self._rights(int(runs.starts[at])) for at in first.tolist()], np.uint8)
        runs = runs._replace(kinds=asked[inverse])
        return runs.without(runs.kinds == 0)

    def _judged(self, runs: Runs, count: int) -> Runs:
        """The other runs with their rights, without those that have none: one of each kind is asked for."""
        rights = np.zeros(count, np.uint8)
        if count == 1 and len(runs.starts):
            rights[0] = self._rights(int(runs.starts[0]))
            kinds = np.full(len(runs.starts), rights[0])
        else:
            sample = np.full(count, -1, np.int64)
            sample[runs.kinds] = np.arange(len(runs.kinds))
            for kind in np.flatnonzero(sample >= 0).tolist():
                rights[kind] = self._rights(int(runs.starts[sample[kind]]))
            kinds = rights[runs.kinds]
        return runs._replace(kinds=kinds) if rights.all() else runs._replace(kinds=kinds).without(kinds == 0)

    def _rights(self, address: int) -> int:
        return _bits(self.requester.ask(address))


def _windows(starts: U64, sizes: U64) -> list[range]:
    """The ranges that hold all of these, and little else, if they are few; in order, none too many."""
    if not len(starts):
        return []
    order = np.argsort(starts)
    begins = starts[order]
    ends = np.maximum.accumulate(begins + (sizes[order] - np.uint64(1)))
    gaps = np.where(begins[1:] > ends[:-1], begins[1:] - ends[:-1], np.uint64(0))
    apart = np.flatnonzero(gaps > 1)
    if len(apart) >= _WINDOWS:
        widest = np.argpartition(gaps[apart], len(apart) - _WINDOWS + 1)[len(apart) - _WINDOWS + 1 :]
        apart = np.sort(apart[widest])
    first = begins[np.concatenate(([0], apart + 1))]
    last = ends[np.concatenate((apart, [len(ends) - 1]))]
    return [range(int(one), int(other) + 1) for one, other in zip(first, last, strict=True)]


__all__ = ["EXECUTE", "READ", "WRITE", "Budget", "Meaning", "Range", "Reachable", "letters", "reachable"]
