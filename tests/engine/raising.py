"""`@raises(FaultReason.X)`: a test that raises that fault. test_reason_coverage.py checks that each has one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import pytest

from iommu import FaultReason
from iommu.engine.faults.log import FaultLog

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@contextmanager
def seen_faults() -> Iterator[set[FaultReason]]:
    """The faults that units report meanwhile, whether they are recorded or suppressed by FPD."""
    seen: set[FaultReason] = set()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in vars(FaultLog) if name.startswith("report")]:
            original = getattr(FaultLog, name)

            def watched(*given: Any, _original: Any = original, **named: Any) -> Any:
                seen.update(item for item in (*given, *named.values()) if isinstance(item, FaultReason))
                return _original(*given, **named)

            patch.setattr(FaultLog, name, watched)
        yield seen


def raises(*reasons: FaultReason) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Declares that a test raises these faults, each time it is run, and fails it when it does not."""

    def decorate(test: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(test)
        def checked(*given: Parameters.args, **named: Parameters.kwargs) -> Result:
            with seen_faults() as seen:
                result = test(*given, **named)
            assert set(reasons) <= seen, f"it raises {seen}, but not {set(reasons) - seen}"
            return result

        vars(checked)["raises"] = reasons
        return checked

    return decorate
