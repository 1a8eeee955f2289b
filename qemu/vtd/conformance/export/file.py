"""Writes a scenario as a file that runs it on a QEMU with nothing installed but Python, fit for a bug report.

The scenario is run on a QEMU while every qtest command and every change of memory is recorded, and on the model. The
file performs what was recorded, and compares what it reads with what the model read.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence

from iommu import MisuseError, VtdError
from iommu.registers import FRCD, FSTS
from qemu.vtd.conformance.export import reproducer
from qemu.vtd.conformance.export.recording import RecordedModel, RecordedQemu
from qemu.vtd.conformance.export.script import Script
from qemu.vtd.conformance.judge import missing_capabilities
from qemu.vtd.conformance.report.words import with_reason
from qemu.vtd.conformance.scenario import Allowed, Scenario, catalogue
from qemu.vtd.conformance.stimulus.events import record
from qemu.vtd.conformance.stimulus.tables import tables_of
from qemu.vtd.platform import Platform
from qemu.vtd.private_cache import PROGRAM
from qemu.vtd.quirks import POLICY, QUIRKS, Quirk, quirks_of, unit_with

_WIDTH = 110
_HOW = (
    "Run it as: python3 FILE [QEMU]. It needs Python 3.9 and a QEMU, nothing else. It starts QEMU with ARGUMENTS, a "
    "firmware that halts, and a qtest connection, and sends it the qtest commands in SCRIPT. A line with '==' is "
    "repeated until it reads so. A line with '?' is an observation: what it reads is compared with what VT-d demands "
    "(in the bits of a mask). The exit status is 1 if an observation is not as expected."
)
_TRACED = (
    "No qtest command shows an interrupt message. QEMU is started with -trace for them, and the lines with 'trace' "
    "compare what it has written."
)
_FILE = '''#!/usr/bin/env python3
"""{about}
"""

ARGUMENTS = [{arguments}
]

SCRIPT = """
{script}"""

{code}

if __name__ == "__main__":
    sys.exit(run(sys.argv[1] if len(sys.argv) > 1 else "{program}", ARGUMENTS, SCRIPT))
'''


def find(id_: str) -> Scenario:
    """The scenario of that id, or the first one of the quirk of that id. Raises MisuseError."""
    for quirk in QUIRKS:
        if quirk.id == id_.upper():
            id_ = quirk.scenarios[0]
    for scenario in catalogue(id_):
        if scenario.id == id_:
            return scenario
    raise MisuseError(f"no scenario and no quirk {id_!r}; vtd conform -v and vtd quirks list them")


def export(scenario: Scenario, qemu: str | None) -> str:
    """The text of the file.

    Raises VtdError when this QEMU cannot run the scenario, or qtest commands alone cannot.
    """
    setup = scenario.setup
    with RecordedQemu(qemu, dict(setup.properties), setup.topology) as platform:
        if missing := missing_capabilities(setup, platform.capabilities):
            raise VtdError(f"{scenario.id}: {platform.name} does not offer {missing}")
        seen = scenario.run(platform)
        lawful = next((allowed for allowed in scenario.allowed if allowed.lines == seen), None)
        policy = lawful.policy if lawful is not None and lawful.policy is not None else POLICY
        quirks = quirks_of(platform.machine.version)
        claimed = [quirk for quirk in quirks if scenario.id in quirk.scenarios]
        others = unit_with([quirk for quirk in quirks if quirk not in claimed])
        right = RecordedModel(platform.capabilities, setup.topology, policy)
        explained = RecordedModel(platform.capabilities, setup.topology, policy, others)
        expected = scenario.run(right)
        if expected not in (scenario.expect, *(allowed.lines for allowed in scenario.allowed)):
            raise VtdError(f"{scenario.id}: the model does not do what the specification says")
        if scenario.run(explained) == seen:
            # Quirks that claim other scenarios show in this one too: nothing is left out of the comparison for them.
            explained = right
        if seen != expected and any("PPF" in lines[-1] for lines in (seen, expected)):
            for each in (platform, right, explained):
                _look_at_faults(each)
        # A choice that the specification leaves to hardware, and that the model does not make, is as right as any.
        tables = tables_of(record(scenario).events)
        script = Script(platform, tables, platform if lawful is not None and seen != expected else right, explained)
        arguments = platform.machine.arguments()
    arguments += [word for event in sorted(script.events) for word in ("-trace", event)]
    about = _about(scenario, claimed, lawful, [("Expected:", scenario.expect), (f"{platform.name}:", seen)])
    if script.events:
        about += "\n\n" + textwrap.fill(_TRACED, _WIDTH)
    code = inspect.getsource(reproducer).partition('"""\n\n')[2]
    return _FILE.format(about=about, arguments=_listed(arguments), script=script.text, code=code, program=PROGRAM)


def _look_at_faults(platform: Platform) -> None:
    """Read the first fault record and FSTS: a driver that has seen no fault has not."""
    platform.read_register(FSTS.offset, 4)
    offset = platform.capabilities.fault_record_offset
    if FRCD.F.get(platform.read_register(offset + 8, 8) << 64):
        platform.read_register(offset, 8)


def _about(
    scenario: Scenario,
    quirks: list[type[Quirk]],
    lawful: Allowed | None,
    outcomes: list[tuple[str, tuple[str, ...]]],
) -> str:
    """The head of the file: what departs, what is expected and seen, how to run it."""
    parts = [quirk.title() for quirk in quirks] or [scenario.title]
    parts += [f"Scenario {scenario.id}, VT-d {scenario.section}: {scenario.title}"]
    parts += [f"VT-d {quirk.section}: {quirk.hardware}" for quirk in quirks]
    parts += [f"In QEMU's source: hw/i386/intel_iommu.c, {quirk.function}." for quirk in quirks]
    parts += [f"VT-d allows what this QEMU does: {lawful.because}."] if lawful is not None else []
    lines = [textwrap.fill(part, _WIDTH) for part in parts]
    for heading, outcome in outcomes:
        lines.append("\n".join([heading, *(f"    {with_reason(line)}" for line in outcome)]))
    return "\n\n".join([*lines, textwrap.fill(_HOW, _WIDTH)])


def _listed(arguments: Sequence[str]) -> str:
    """QEMU's arguments, one option with its value a line."""
    lines = ""
    for word in arguments:
        lines += f"\n    {word!r}," if word.startswith("-") else f" {word!r},"
    return lines
