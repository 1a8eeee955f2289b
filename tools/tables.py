"""Generate the tables in the documentation, and its picture of the packages, from the code.

    python -m tools.tables            write them into docs/
    python -m tools.tables --check    exit status 1 if a page is not current

Two marks in the page enclose a table; everything else on the page is written by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from enum import IntEnum
from functools import partial
from pathlib import Path

from iommu.engine.capabilities import CAPABILITIES, NOT_MODELLED, bit_of, is_in
from iommu.engine.declaration import Capability
from iommu.engine.policy import CHOICES
from iommu.engine.presets import PRESETS
from iommu.registers import CAP
from qemu.vtd.conformance.checklist import AREAS, RULES, Rule
from qemu.vtd.conformance.report.quirks import as_markdown
from qemu.vtd.quirks import QUIRKS
from tests.engine.breaks import BREAKS
from tests.qemu_vtd.conformance.breaks.every import BREAKS as ENGINE_BREAKS
from tools.house import picture

DOCS = Path(__file__).parent.parent / "docs"


def capabilities() -> str:
    """Every capability: field, register bit, default, prerequisites, meaning."""
    rows = (
        (f"`{name}`", f"{bit_of(one)}{_bits(one)}", _default(one), _needs(one), one.meaning)
        for name, one in CAPABILITIES.items()
    )
    return _table(("field", "register", "default", "needs", "what the unit can do, or what is counted"), rows)


def not_modelled() -> str:
    """The capabilities that are not modelled."""
    rows = ((f"{'CAP' if is_in(CAP, part) else 'ECAP'}.{part.name}", part.meaning) for part in NOT_MODELLED.values())
    return _table(("register", "meaning"), rows)


def presets() -> str:
    """Every preset."""
    rows = (
        (f"`{name}`", f"{one.cap:#x}", f"{one.ecap:#x}", str(one.host_address_width), one.what)
        for name, one in PRESETS.items()
    )
    return _table(("preset", "CAP", "ECAP", "host width", "machine"), rows)


def policy() -> str:
    """Every choice of the policy."""
    rows = (
        (f"`{name}`", _value(one.default), one.meaning, one.doubt or one.section, one.sources)
        for name, one in CHOICES.items()
    )
    return _table(("field", "default", "what it says", "doubt or section", "public sources"), rows)


def breaks() -> str:
    """The entry rules that are broken on purpose, and what notices each."""
    rows = (
        (
            one.rule,
            (one.__doc__ or "").strip().splitlines()[0],
            one.unit,
            one.mode,
            one.scenario and f"`{one.scenario}`",
        )
        for one in BREAKS.values()
    )
    return _table(("rule", "broken so", "unit tests", "oracle", "scenario"), rows)


def quirks() -> str:
    """Every quirk, a section each."""
    return "\n" + "\n".join(as_markdown(quirk) for quirk in sorted(QUIRKS, key=lambda quirk: quirk.id)) + "\n"


def engine_breaks() -> str:
    """The rules of the engine that are broken on purpose, and the scenario that notices each."""
    rows = ((wing, one.title(), f"`{one.scenario}`") for wing, breaks in ENGINE_BREAKS.items() for one in breaks)
    return _table(("wing", "broken so", "scenario"), rows)


def checklist(area: str) -> str:
    """The rules of one area, and what stands behind each."""
    rows = (
        (f"`{rule.id}`", rule.section, rule.text, _tests(rule), _shown_by(rule))
        for rule in RULES
        if rule.area == area
    )
    return _table(("rule", "section", "what it says", "engine tests", "scenarios, or why there are none"), rows)


def _tests(rule: Rule) -> str:
    """The tests of a rule, each file with its functions."""
    files: dict[str, list[str]] = {}
    for node in rule.tests:
        file, _, name = node.partition("::")
        files.setdefault(file.rpartition("/")[2], []).append(f"`{name}`")
    return "; ".join(f"{file}: {', '.join(names)}" for file, names in files.items())


def _shown_by(rule: Rule) -> str:
    if rule.not_modelled:
        return f"not modelled: {rule.not_modelled}"
    return ", ".join(f"`{each}`" for each in rule.scenarios) or f"model only: {rule.model_only}"


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "capabilities": ("capabilities.md", capabilities),
    "not modelled": ("capabilities.md", not_modelled),
    "presets": ("capabilities.md", presets),
    "policy": ("engine.md", policy),
    "house": ("architecture.md", picture),
    "breaks": ("conformance.md", breaks),
    "quirks": ("quirks.md", quirks),
    "engine breaks": ("conformance.md", engine_breaks),
    **{f"checklist {area}": ("checklist.md", partial(checklist, area)) for area in AREAS},
}
"""For the name in each mark: the page of the table, and the function that makes it."""


def with_tables(page: str, text: str) -> str:
    """The text of a page with its tables up to date. Raises ValueError if a mark is missing."""
    for mark, (home, make) in TABLES.items():
        if home == page:
            begin, end = f"<!-- table: {mark} (python -m tools.tables) -->\n", "<!-- end of table -->\n"
            before, _, rest = text.partition(begin)
            if not rest or end not in rest:
                raise ValueError(f"docs/{page} has no table {mark!r}: {begin.strip()} ... {end.strip()}")
            text = f"{before}{begin}{make()}{end}{rest.partition(end)[2]}"
    return text


def stale_pages(*, write: bool) -> list[str]:
    """The pages whose tables are not current; `write` updates them."""
    stale = []
    for page in dict.fromkeys(home for home, _ in TABLES.values()):
        path = DOCS / page
        text = path.read_text()
        if (wanted := with_tables(page, text)) != text:
            stale.append(page)
            if write:
                path.write_text(wanted)
    return stale


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _bits(one: Capability) -> str:
    """The bits of a field, numbered as in the specification."""
    if one.part is None:
        return ""
    return f" ({one.part.msb})" if one.part.width == 1 else f" ({one.part.msb}:{one.part.lsb})"


def _needs(one: Capability) -> str:
    text = ", ".join(f"`{name}`" for name in one.needs)
    alternatives = " or ".join(f"`{name}`" for name in one.needs_one_of)
    excluded = f"not `{one.excluded_by}`" if one.excluded_by else ""
    return ", ".join(filter(None, (text, alternatives, excluded)))


def _default(one: Capability) -> str:
    """A default as people read it: register offsets and versions in hexadecimal."""
    offset = one.allowed is not None and one.allowed.step == 16
    return hex(one.default) if offset or one.source == "VER" else _value(one.default)


def _value(value: object) -> str:
    """A default as people read it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, IntEnum):
        return value.name
    return "by width" if value == () else str(value)


def main(arguments: list[str]) -> int:
    """Write the tables, or check them. Returns the exit status."""
    check = arguments == ["--check"]
    if arguments and not check:
        print("usage: python -m tools.tables [--check]", file=sys.stderr)
        return 2
    stale = stale_pages(write=not check)
    for page in stale:
        print(f"docs/{page} {'is not current' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
