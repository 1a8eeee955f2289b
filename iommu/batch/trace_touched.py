"""Who touched what: the host addresses that each device of a trace has read and written, and its faults."""

from __future__ import annotations

from collections import Counter

import numpy as np

from iommu.batch.arrays import NO_ADDRESS
from iommu.batch.reach_hosts import Hosts
from iommu.batch.trace_results import Results
from iommu.engine.reasons import FaultReason
from iommu.engine.request import SourceId

_PAGE, _MOST_RANGES, _MOST_DEVICES = 12, 1 << 14, 512


class Touched:
    """Takes results; what it keeps is bounded: of many scattered pages, those near to each other become one.

    Attributes:
        reads, writes: what each device has touched, in whole pages; of the first 512 devices.
        requests: how many there were of each device.
        faults: how many, by device and reason.
    """

    def __init__(self) -> None:
        self.reads: dict[SourceId, Hosts] = {}
        self.writes: dict[SourceId, Hosts] = {}
        self.requests: Counter[SourceId] = Counter()
        self.faults: Counter[tuple[SourceId, FaultReason]] = Counter()

    def add(self, results: Results) -> None:
        """Take a chunk of results."""
        rows, hosts, reasons = results
        for number in np.unique(rows.source_ids).tolist():
            device, own = SourceId.of(number), rows.source_ids == number
            self.requests[device] += int(own.sum())
            counts = np.bincount(reasons[own], minlength=256)
            for code in np.flatnonzero(counts).tolist():
                if code:
                    self.faults[device, FaultReason(code)] += int(counts[code])
            for kept, which in ((self.writes, rows.writes), (self.reads, ~rows.writes)):
                if device in kept or len(kept) < _MOST_DEVICES:
                    before = kept.get(device, Hosts.of_ranges(()))
                    kept[device] = _bounded(Hosts.united([before, _pages(hosts[own & which])]))


def _pages(hosts: np.typing.NDArray[np.uint64]) -> Hosts:
    pages = np.unique(hosts[hosts != NO_ADDRESS] >> np.uint64(_PAGE))
    return Hosts.of(pages << np.uint64(_PAGE), (pages << np.uint64(_PAGE)) | np.uint64((1 << _PAGE) - 1))


def _bounded(hosts: Hosts) -> Hosts:
    shift = _PAGE
    while len(hosts.firsts) > _MOST_RANGES:
        shift += 1
        rest = np.uint64((1 << shift) - 1)
        hosts = Hosts.of(hosts.firsts & ~rest, hosts.lasts | rest)
    return hosts
