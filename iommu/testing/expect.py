"""What a test expects of a request, to be compared with its outcome.

assert device.dma(0x5000, Access.WRITE) == reaches(0x9000)
assert device.dma(0x6000, Access.WRITE) == blocked_by(FaultReason.LGN_2)
assert unit.remap_interrupt(request) == delivers(Interrupt(vector=0x41, destination=1))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from iommu.engine.interrupts.request import Interrupt, InterruptOutcome
from iommu.engine.reasons import FaultReason
from iommu.engine.request import Outcome


class Expectation(ABC):
    """Equal to the outcomes that are as expected, whatever else they say."""

    @abstractmethod
    def is_met_by(self, outcome: Outcome | InterruptOutcome) -> bool:
        """Whether an outcome is as expected."""

    def __eq__(self, outcome: object) -> bool:
        return self.is_met_by(outcome) if isinstance(outcome, Outcome | InterruptOutcome) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


@dataclass(eq=False)
class reaches(Expectation):
    """The request goes through to this host address."""

    host_address: int

    def is_met_by(self, outcome: Outcome | InterruptOutcome) -> bool:
        """See Expectation."""
        return isinstance(outcome, Outcome) and outcome.host_address == self.host_address

    def __repr__(self) -> str:
        return f"reaches({self.host_address:#x})"


@dataclass(eq=False)
class blocked_by(Expectation):
    """The request, of DMA or of an interrupt, is blocked by this fault, recorded or not."""

    reason: FaultReason

    def is_met_by(self, outcome: Outcome | InterruptOutcome) -> bool:
        """See Expectation."""
        return outcome.fault is self.reason

    def __repr__(self) -> str:
        return f"blocked_by({self.reason.name})"


@dataclass(eq=False)
class delivers(Expectation):
    """The interrupt request is remapped to this interrupt."""

    interrupt: Interrupt

    def is_met_by(self, outcome: Outcome | InterruptOutcome) -> bool:
        """See Expectation."""
        return isinstance(outcome, InterruptOutcome) and outcome.remapped == self.interrupt

    def __repr__(self) -> str:
        return f"delivers(vector {self.interrupt.vector:#x})"
