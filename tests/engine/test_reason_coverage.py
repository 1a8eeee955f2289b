"""Each fault reason has a test that raises it; a reason without one fails here.

Tests are marked with `@raises(FaultReason.X)`, which checks that the fault is really raised.
`python -m tests.engine.test_reason_coverage` prints the list.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from iommu import FaultReason

SECTIONS = {
    range(0x01, 0x0F): "3.4.2, 3.7",
    range(0x20, 0x2A): "5.1",
    range(0x30, 0x35): "3.4.1, 11.4.5",
    range(0x38, 0x3B): "3.4.3, 9.2",
    range(0x40, 0x49): "3.4.3, 9.4",
    range(0x50, 0x53): "3.4.3, 9.5",
    range(0x58, 0x5E): "3.4.3, 9.6",
    range(0x70, 0x78): "3.6, 9.7",
    range(0x78, 0x7E): "3.7, 9.8",
    range(0x80, 0x8A): "3.6 to 3.8",
    range(0x90, 0x92): "3.6.2",
}
"""Where the specification has the rule, by fault code."""

AWAITED: set[FaultReason] = set()
"""Reasons of parts that are not written yet; to be removed with the part."""


def raising_tests() -> dict[FaultReason, list[str]]:
    """The tests that declare each reason."""
    found: dict[FaultReason, list[str]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path == Path(__file__):
            continue
        module = importlib.import_module(f"tests.engine.{path.stem}")
        for name, test in vars(module).items():
            if name.startswith("test_"):
                for reason in getattr(test, "raises", ()):
                    found.setdefault(reason, []).append(f"{path.name}::{name}")
    return found


def section(reason: FaultReason) -> str:
    """The specification's chapter with the rule."""
    return next(where for codes, where in SECTIONS.items() if reason in codes)


@pytest.mark.parametrize("reason", FaultReason, ids=lambda reason: reason.condition)
def test_reason_is_raised_by_a_test(reason: FaultReason) -> None:
    assert section(reason)
    tests = raising_tests().get(reason, [])
    if reason in AWAITED:
        assert not tests, f"{reason} is raised now, by {tests}: strike it out of AWAITED"
    else:
        assert tests, f"no test declares @raises(FaultReason.{reason.name}): {reason}"


if __name__ == "__main__":
    listed = raising_tests()
    for each in FaultReason:
        print(f"{each.value:#04x} {each.condition:6} {section(each):14} {', '.join(listed.get(each, ['-']))}")
