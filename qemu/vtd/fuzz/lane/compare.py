"""A batch that has run, compared case by case; what differs goes to the scalar engine, with the QEMU's quirks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from iommu.registers import FRCD
from qemu.vtd.fuzz.lane.areas import Places
from qemu.vtd.fuzz.lane.batch import Batch
from qemu.vtd.fuzz.lane.judge import Judge, Verdict
from qemu.vtd.fuzz.lane.records import Records
from qemu.vtd.fuzz.lane.result import BatchResult, Difference
from qemu.vtd.fuzz.lane.shared import SharedRam
from qemu.vtd.fuzz.lane.story import moved, story

NOT_A_QUIRK = "order"
"""Instead of a quirk: an earlier case had written what this one read."""

Signature = tuple[int, int, int]


@dataclass
class Comparison:
    """Compares the batches of a lane.

    Args:
        mode, seed: of the lane.

    Attributes:
        causes: the quirks that explain a case, by what was expected and seen: found out once for each.
    """

    mode: str
    seed: int
    causes: dict[Signature, tuple[str, ...]] = field(default_factory=dict)

    def compare(self, batch: Batch, seen: Records, ram: SharedRam) -> BatchResult:
        """Compare records, then all of memory.

        Args:
            batch: the batch; its image holds the memory as it was at the start.
            seen: what the QEMU has recorded.
            ram: the guest's memory, as the QEMU has left it.
        """
        script = batch.steps.operations.view(np.uint64).copy()
        alive, status, expected = batch.alive, batch.steps.status, batch.expected.records
        differs = (seen.high != expected.high) | (seen.low != expected.low)
        left = np.flatnonzero(np.where(alive, differs | batch.marked, seen.high != 0))
        sampled = np.setdiff1d(np.flatnonzero(batch.sample & alive), left)
        found = self._judged(batch, seen, left, sampled)
        wrong = ram.differing(batch.side.image, script)
        if len(wrong) and len(suspects := self._suspects(batch, wrong)):
            # The scalar engine has the last word on these too.
            batch = batch.side.make(batch.number, len(batch.worlds))
            left = np.union1d(left, suspects)
            found = self._judged(batch, seen, left, np.setdiff1d(sampled, left))
            wrong = ram.differing(batch.side.image, script)
        found.cases = int(alive.sum())
        found.reasons = _counts(batch.expected.reasons[alive])
        found.recorded = _counts((seen.high[seen.high != 0] >> np.uint64(FRCD.FR.lsb - 64)).astype(np.uint8))
        if len(wrong):
            found.differences += self._of_memory(batch, wrong, ram)
            ram.clear()
        if status:
            found.differences.append(self._difference(batch, -1, "status", "FSTS 0x0", f"FSTS {status:#x}"))
        return found

    def _judged(self, batch: Batch, seen: Records, left: Places, sampled: Places) -> BatchResult:
        """Judge these cases one by one, in memory as it is when their turn comes; the image ends as it should."""
        result = BatchResult(left_to_scalar=len(left), sampled=len(sampled))
        image, writes, done, judge = batch.side.image, batch.expected.writes, 0, batch.side.judge()
        of_left = set(left.tolist())
        for case in np.union1d(left, sampled).tolist():
            writes.apply(image, done, case)
            done = case + 1
            record = int(seen.high[case]) << 64 | int(seen.low[case])
            if not batch.alive[case]:
                result.differences.append(self._difference(batch, case, "record", "no DMA", _shown(record)))
                continue
            verdict = self._verdict(judge, batch, case)
            if verdict.record != record:
                result.differences.append(
                    self._difference(batch, case, "record", _shown(verdict.record), _shown(record))
                )
            elif case in of_left and not batch.marked[case]:
                causes = self._causes(batch, case, verdict)
                result.quirks.update(causes)
                if NOT_A_QUIRK in causes:
                    result.differences += self._of_engines(batch, case)
            written = verdict.marks if verdict.host is None else (*verdict.marks, (verdict.host, verdict.data))
            for address, data in written:
                image.memory.write(address, data)
            image.touched = np.append(image.touched, np.array([address >> 3 for address, _ in written], np.int64))
        writes.apply(image, done, len(batch.worlds))
        return result

    def _verdict(self, judge: Judge, batch: Batch, case: int) -> Verdict:
        worlds = batch.worlds
        root, address = int(worlds.roots[case]), int(worlds.addresses[case])
        return judge.verdict(root, address, worlds.length, inverts=bool(worlds.choices.inverts[case]))

    def _causes(self, batch: Batch, case: int, verdict: Verdict) -> tuple[str, ...]:
        """The quirks without which the case would come to something else."""
        signature = int(batch.expected.reasons[case]), int(batch.expected.records.high[case]), verdict.record >> 64
        if signature not in self.causes:
            ids = [quirk.id for quirk in batch.side.candidates]
            needed = [id_ for id_ in ids if self._verdict(batch.side.judge(id_), batch, case) != verdict]
            self.causes[signature] = tuple(needed) or (NOT_A_QUIRK,)
        return self.causes[signature]

    def _suspects(self, batch: Batch, wrong: Places) -> Places:
        """The cases that write in these words, or were meant to."""
        rows = np.flatnonzero(batch.expected.writes.there)
        writing = rows[np.isin(batch.expected.writes.places(rows), wrong)]
        return np.union1d(writing, np.flatnonzero(np.isin(batch.worlds.slots, wrong)))

    def _of_engines(self, batch: Batch, case: int) -> list[Difference]:
        """What the batch engine got wrong about a case that no quirk explains; at most one.

        From memory as it was at the start, the scalar engine with the same quirks must expect as much.
        """
        with batch.at_start(case):
            verdict, said = self._verdict(batch.side.plain_judge, batch, case), _said(batch, case)
        if verdict == said:
            return []
        return [self._difference(batch, case, "batch engine", _described(verdict), _described(said))]

    def _of_memory(self, batch: Batch, wrong: Places, ram: SharedRam) -> list[Difference]:
        """A difference for each case whose data are wrong; one for all that belongs to none."""
        found, others = [], []
        for place in wrong.tolist():
            expected, seen = int(batch.side.image.words[place]), int(ram.words[place])
            cases = self._suspects(batch, np.array([place])).tolist()
            what = f"{place * 8:#x}: {expected:#018x}", f"{place * 8:#x}: {seen:#018x}"
            if cases:
                found.append(self._difference(batch, cases[0], "data", *what))
            else:
                others.append(what)
        if others:
            more = f" and {len(others) - 1} more words" if len(others) > 1 else ""
            found.append(self._difference(batch, -1, "stray write", others[0][0] + more, others[0][1]))
        return found

    def _difference(self, batch: Batch, case: int, what: str, expected: str, seen: str) -> Difference:
        """A difference, with all that it takes to see it again."""
        where = self.mode, self.seed, batch.number, case, what, expected, seen
        if case < 0:
            return Difference(*where)
        target = batch.side.target
        rest = target.table_mode, target.capabilities.iotlb_offset + 8
        alone = moved(target.makers[batch.own_roots], batch.worlds, case)
        return Difference(*where, story(alone, 0, *rest), story(batch.worlds, case, *rest))


def _counts(reasons: NDArray[np.uint8]) -> Counter[int]:
    return Counter({reason: count for reason, count in enumerate(np.bincount(reasons).tolist()) if count})


def _shown(record: int) -> str:
    """A fault recording register."""
    if not FRCD.F.get(record):
        return "no fault recorded"
    one = FRCD(record)
    kind = "read" if one.T1 else "write"
    pasid = f", PP {one.PP} PV {one.PV:#x}" if one.PP or one.PV else ""
    return f"fault {one.FR:#x} of a {kind} by {one.SID:#x} at {one.FI:#x}{pasid}"


def _said(batch: Batch, case: int) -> Verdict:
    """What the batch engine expects of a case, in memory as it is."""
    records, writes, image = batch.expected.records, batch.expected.writes, batch.side.image
    record = int(records.high[case]) << 64 | int(records.low[case])
    if not writes.there[case]:
        return Verdict(record, None, b"")
    host = int(writes.hosts[case])
    before = image.memory.read(host, writes.length)
    writes.apply(image, case, case + 1)
    data = image.memory.read(host, writes.length)
    image.memory.write(host, before)
    return Verdict(record, host, data)


def _described(verdict: Verdict) -> str:
    where = "nothing written" if verdict.host is None else f"{verdict.data.hex()} written to {verdict.host:#x}"
    return f"{_shown(verdict.record)}, {where}"
