"""What a batch has come to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

Step = tuple[str, *tuple[int | str, ...]]
"""An action: its name and its values in the order of the action's fields, as in qemu.vtd.fuzz.actions."""


@dataclass(frozen=True)
class Difference:
    """A case in which a QEMU did not do what the engine with its quirks does.

    Attributes:
        mode: of the worlds.
        seed, batch, case: where it was: the same numbers make the same case again.
        what: "record" of the fault, "data", "stray write", "status" of the faults: what differs. "batch engine" if
            the QEMU does what the scalar engine says, and the batch engine says otherwise.
        expected, seen: both, as text.
        actions: what rebuilds the case on the fuzzer's small machine, its tables and data moved there; empty for what
            belongs to no case.
        original: the same at the addresses that it was seen with.
    """

    mode: str
    seed: int
    batch: int
    case: int
    what: str
    expected: str
    seen: str
    actions: tuple[Step, ...] = ()
    original: tuple[Step, ...] = ()

    def __str__(self) -> str:
        where = f"{self.mode}, seed {self.seed}, batch {self.batch}, case {self.case}"
        return f"{where}: {self.what}: expected {self.expected}, seen {self.seen}"


@dataclass
class BatchResult:
    """A batch that was compared.

    Attributes:
        cases: how many were.
        seconds: from the end of the batch before, or of the machine's start, to the end of this one.
        reasons: the fault reasons that were reached, and how often; 0 is none.
        recorded: those that the QEMU has recorded.
        left_to_scalar: cases that the batch engine had expected otherwise, and the scalar engine had to judge.
        quirks: the ids of the quirks that explain them, and how often; "order" where an earlier case had changed what
            the case read.
        sampled: cases that the scalar engine has judged beyond those.
        differences: what no quirk explains.
    """

    cases: int = 0
    seconds: float = 0.0
    reasons: Counter[int] = field(default_factory=Counter)
    recorded: Counter[int] = field(default_factory=Counter)
    left_to_scalar: int = 0
    quirks: Counter[str] = field(default_factory=Counter)
    sampled: int = 0
    differences: list[Difference] = field(default_factory=list)
