"""Which scenarios failed last time, kept in the private cache for --failed-first."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from iommu.files.writing import write_file
from qemu.vtd.conformance.runner import Report
from qemu.vtd.conformance.scenario import Scenario
from qemu.vtd.private_cache import private, root
from qemu.vtd.probe import find_qemu


def failed_before(qemu: str) -> frozenset[str]:
    """The ids of the scenarios that failed when last run on the program at that path."""
    return frozenset(_read().get(_key(qemu), ()))


def failed_first(
    scenarios: Sequence[Scenario], qemu: str | None, run: Callable[[Sequence[Scenario]], Report]
) -> Iterator[Report]:
    """Run the scenarios that failed before on this QEMU, then the others.

    Yields a report of the first part when there is one, then a report of all.
    """
    before = failed_before(find_qemu(qemu))
    again = [scenario for scenario in scenarios if scenario.id in before]
    others = [scenario for scenario in scenarios if scenario.id not in before]
    if not again:
        yield run(others)
        return
    first = run(again)
    yield first
    if not others:
        yield first
        return
    second = run(others)
    order = {scenario.id: number for number, scenario in enumerate(scenarios)}
    results = sorted([*first.results, *second.results], key=lambda result: order[result.scenario.id])
    yield replace(second, results=results, seconds=first.seconds + second.seconds)


def record_failed(report: Report) -> None:
    """Note which of these scenarios fail now. What is noted of others stays."""
    noted, key = _read(), _key(report.path)
    before = frozenset(noted.get(key, ()))
    run = {result.scenario.id for result in report.results}
    now = sorted((before - run) | {result.scenario.id for result in report.failures})
    if now == sorted(before):
        return
    noted[key] = now
    if not now:
        del noted[key]
    private(root())
    write_file(_file(), json.dumps(noted, indent=1).encode())


def _file() -> Path:
    return root() / "failed.json"


def _key(qemu: str) -> str:
    return str(Path(qemu).resolve())


def _read() -> dict[str, Collection[str]]:
    """What is noted, by program; nothing when the file is missing or damaged, for it is only a help."""
    try:
        noted = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(noted, dict) or not all(isinstance(ids, list) for ids in noted.values()):
        return {}
    return noted
