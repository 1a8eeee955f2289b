"""The batch engine broken on purpose, in one place each: a comparison that lets one pass would prove nothing.

test_breaks.py sees that each is noticed by the comparison with the scalar engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from iommu.batch import decoding, first_stage, legacy, marks, scalable, second_stage, translator, walk, ways

LEGACY, SCALABLE, REPLAY = "legacy", "scalable", "replay"
Patch = Callable[[pytest.MonkeyPatch], object]


class Break(NamedTuple):
    """What is broken, the mode whose comparison has to notice, and how it is done."""

    what: str
    mode: str
    patch: Patch


def after_init(kind: Any, change: Callable[[Any], None]) -> Patch:
    """Change each new object of a class."""
    init: Any = kind.__init__

    def broken(self: Any, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        change(self)

    return lambda patch: patch.setattr(kind, "__init__", broken)


def put(**attributes: Any) -> Callable[[Any], None]:
    """Set attributes."""
    return lambda found: found.__dict__.update(attributes)


def changed(where: Any, name: str, value: Any) -> Patch:
    """Replace a function or a number."""
    return lambda patch: patch.setattr(where, name, value)


def nothing(*arguments: Any, **_options: Any) -> Any:
    """No fault for any row."""
    return np.zeros(len(arguments[1]), np.uint8)


def outside(addresses: Any) -> Any:
    """No address is in the interrupt range."""
    return np.zeros(len(addresses), np.bool_)


BREAKS = [
    Break("reserved bits in entries for tables are not checked", LEGACY, after_init(walk.Level, put(table=0))),
    Break("reserved bits of pages are not checked", LEGACY, after_init(walk.Level, put(page=0))),
    Break("every entry is present", LEGACY, after_init(walk.Level, put(present=-1))),
    Break("large pages are not known", LEGACY, after_init(walk.Level, lambda o: put(size_bit=-(o.size_bit < 0))(o))),
    Break("the offset is that in a small page", LEGACY, after_init(walk.Level, put(offset=0xFFF))),
    Break("permissions are not checked", LEGACY, changed(second_stage.SecondStageWalk, "missing", nothing)),
    Break("guest addresses are not limited", LEGACY, after_init(second_stage.SecondStageWalk, put(bits=64))),
    Break("the interrupt range is open", LEGACY, changed(ways, "_in_range", outside)),
    Break("pass-through is not limited", LEGACY, after_init(ways.PassThrough, put(_beyond=0))),
    Break("low bits of addresses in context entries are lost", LEGACY, changed(legacy, "LOW", 0)),
    Break("the reserved bits that do not decide are not looked at", LEGACY,
          changed(decoding.Meanings, "_reserved_among_details", lambda _self, _entry: np.zeros(2, np.int64))),
    Break("what is not present has the reason of a read", LEGACY,
          changed(walk.Wanted, "bits", lambda _self, rows=None: np.int64(1))),
    Break("permissions are checked at the page alone", LEGACY,
          after_init(second_stage.SecondStageWalk, put(_per_level=False))),
    Break("the interrupt range is translated", LEGACY,
          changed(translator.Call, "_interrupts", lambda _self, *_rest: None)),
    Break("low bits of addresses in PASID entries are lost", SCALABLE, changed(scalable, "LOW", 0)),
    Break("every address is canonical", SCALABLE, after_init(first_stage.FirstStageWalk, put(bits=63))),
    Break("everybody is a supervisor", SCALABLE, after_init(first_stage.FirstStageWalk, put(_user=False))),
    Break("every first-stage entry can be updated", SCALABLE,
          changed(first_stage.FirstStageWalk, "_failing", lambda _self, _words, _under: None)),
    Break("every second-stage entry can be updated", SCALABLE,
          changed(second_stage.SecondStageWalk, "no_update", lambda _self, _words: None)),
    Break("extended-accessed is not a bit to set", SCALABLE,
          after_init(first_stage.FirstStageWalk, put(_used=1 << 5))),
    Break("tables of a nested stage need no permission", SCALABLE,
          after_init(first_stage.FirstStageWalk, put(_reads_table=walk.Wanted(None, 0, 0, 0)))),
    Break("any PASID is permitted", SCALABLE,
          changed(scalable.ScalableContexts, "_refused", lambda _self, contexts, _pasids: contexts[0] * 0)),
    Break("no bit is set", REPLAY, changed(marks.Marks, "store", lambda _self, _memory, _dirty: 0)),
    Break("an update is not a write to the table's page", REPLAY,
          changed(first_stage.FirstStageWalk, "_dirties", lambda _self, _under: None)),
    Break("blocked requests mark their pages", REPLAY,
          changed(ways, "_through", lambda _reason, count: np.arange(count))),
    Break("the first of two faults is the second", SCALABLE,
          lambda patch: [patch.setattr(where, "first_of", swapped) for where in (ways, first_stage)]),
]  # fmt: skip


def swapped(one: Any, other: Any) -> Any:
    """The last fault of each request."""
    return walk.first_of(other, one)
