"""What steers a campaign: choices that led to something new are taken more often from then on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_USUAL = 16
_MOST = 8 * _USUAL
_GAIN = 4
_FADES = 8
"""After so many batches, a quarter of what a choice has gained is gone."""


class Learning:
    """What was reached so far, and the weights of choices that follow from it.

    Attributes:
        reached: everything that was reached.
        weights: of the choices that gained; all others have the usual weight, which `Dice` knows.
        batches: how many were learnt from.
    """

    def __init__(
        self, reached: Iterable[str] = (), weights: Mapping[str, int] | None = None, batches: int = 0
    ) -> None:
        self.reached, self.weights, self.batches = set(reached), dict(weights or {}), batches

    def learn(self, reached: Mapping[str, Iterable[str]]) -> None:
        """Take what a batch has reached, each with the choices that led there."""
        self.batches += 1
        if self.batches % _FADES == 0:
            faded = {choice: weight - (weight - _USUAL + 3) // 4 for choice, weight in self.weights.items()}
            self.weights = {choice: weight for choice, weight in faded.items() if weight > _USUAL}
        for what in sorted(reached.keys() - self.reached):
            self.reached.add(what)
            for choice in reached[what]:
                self.weights[choice] = min(self.weights.get(choice, _USUAL) + _GAIN, _MOST)
