"""delta over epsilon of a composition by tilted Fourier transforms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from privfl.dp.accounting.gaussian import probability
from privfl.dp.accounting.tilted import LESS, POINTS, Composition, Order, Transform

_TRIED: Final = 3  # transforms next to an epsilon that are asked before another one is made


class TiltedProfile:
    """delta over epsilon of a composition, in the worst order of the neighbors.

    Args:
        orders: The composition in each order of the neighbors.
        floor: The least delta that is wanted; below it the profile is an upper bound that is not close.
    """

    def __init__(self, orders: Sequence[Order], floor: float) -> None:
        self._parts = [_Part(Composition(order, math.log(floor), 2 * POINTS)) for order in orders if order]

    def delta(self, epsilon: float) -> float:
        """delta at `epsilon` >= 0, rounded up."""
        return max((probability(part.log_delta(epsilon)) for part in self._parts), default=0.0)


class _Part:
    """One order of the neighbors, with the transforms that were made for it."""

    def __init__(self, composition: Composition) -> None:
        self.composition = composition
        self._made: list[tuple[float, Transform]] = []
        self._last: list[Transform] | None = None

    def log_delta(self, epsilon: float) -> float:
        """ln of delta at `epsilon`, rounded up."""
        near = sorted(self._made, key=lambda made: abs(made[0] - epsilon))[:_TRIED]
        for _, transform in near:
            log, sharp = transform.judged(epsilon)
            if sharp:
                return log
        if epsilon > self.composition.guess:  # delta is below the floor, where no larger tilt is needed
            if self._last is None:
                self._last = self._transforms(self.composition.tilt)
            return min((transform.log_delta(epsilon) for transform in self._last), default=0.0)
        made = self.composition.transform(self.composition.tilt_for(epsilon))
        if made is not None:
            self._made.append((epsilon, made))
            log, sharp = made.judged(epsilon)
            if sharp:
                return log
        tried = [] if made is None else [made]
        tried += self._transforms(self.composition.tilt_for(epsilon), LESS)
        return min((transform.log_delta(epsilon) for transform in tried), default=0.0)

    def _transforms(self, tilt: float, parts: Sequence[float] = (1.0, *LESS)) -> list[Transform]:
        return [made for part in parts if (made := self.composition.transform(part * tilt)) is not None]
