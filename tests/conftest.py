"""Settings for all tests: hypothesis tries the same examples in every run, so that results are reproducible.

`make test-slow`, or HYPOTHESIS_PROFILE=search, tries new examples.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.qemu_vtd.guest.turns import turn
from tests.qemu_vtd.suites import NOT_TESTED, UNKNOWN

__all__ = ["turn"]

# pytest-xdist sets it for its workers; commands would fold their output to it, also in a pipe.
os.environ.pop("COLUMNS", None)

# No deadline: a busy machine must not make a test fail. Speed is measured in bench/.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """End the summary with the QEMUs that were not tested, and with what a QEMU newer than known does otherwise."""
    yield
    skipped = {str(each.longrepr[2]) for each in terminalreporter.getreports("skipped") if each.longrepr}
    for reason in sorted(each for each in skipped if NOT_TESTED in each):
        terminalreporter.write_sep("!", reason.removeprefix("Skipped: "), red=True, bold=True)
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == UNKNOWN:
                terminalreporter.write_sep("!", name, yellow=True, bold=True)
                terminalreporter.write_line(str(text))
