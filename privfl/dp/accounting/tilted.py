"""Composition of privacy losses by tilted Fourier transforms: at any delta, with its own error counted in.

A loss distribution on a grid (`losses`) is weighted by e^(lambda l) before it is transformed. Lambda is such that the
mean of the composed losses is the epsilon that is sought. What decides about delta is then in the middle of the
distribution and not in a tail below the rounding of the transform. The figure contains the 2-norm error of transform,
power and inverse (Higham 2002, theorem 24.2), the losses beyond the window and every other rounding. There is no
absolute slack, so there is no lower limit for delta. Where the error of the transform would decide, it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.dp.accounting.losses import UNIT, Cells, Floats, Loss
from privfl.dp.accounting.saddle import LossMoments, bisect, first_power, log_estimate, moments_of, root
from privfl.errors import UnsupportedRelease

POINTS: Final = 80  # grid points in a standard deviation
_MAX_STEP: Final = 1 << 18  # grid points of one step
_MAX_WINDOW: Final = 1 << 22
_BELOW: Final = 25.0  # e^-25 of the tilted sum may be below the window, and wraps around to its top
_LOST: Final = 20 * math.log(2.0)  # the tails may take 2^-20 of delta
_WRAPPED: Final = 10.0  # e^-10 of delta may wrap around from above the window
_CLOSE: Final = 1e-4
_NEAR: Final = 1e-3  # an epsilon this near to the tilted mean needs no other tilt
_HALVINGS: Final = 4
_WORTH: Final = 1e-2  # a share of the error in delta above which less tilt is tried
LESS: Final = (0.85, 0.5, 0.25)  # parts of the tilt that are tried then
_COARSEST: Final = 4.0
_TOO_MUCH: Final = 0.5
_REACH: Final = 50.0
_NOTHING: Final = 1e-12  # the tilted probability of points that are not summed one by one

Complexes = npt.NDArray[np.complex128]

Order = Sequence[tuple[Loss, int]]
"""All events in one order of the neighbors, and how often each is composed."""


def tilted_epsilon(orders: Sequence[Order], delta: float, *, quick: bool = False) -> float:
    """The least epsilon >= 0 at `delta`, rounded up, of the composition in the worst order of the neighbors.

    Args:
        orders: The composition in each order of the neighbors; one if both are the same.
        delta: In (0, 1).
        quick: Compute on one grid of 80 points in a standard deviation. The figure is within 3e-4 of itself, and above.

    Raises:
        UnsupportedRelease: The rounding of the transforms would decide about the figure.
    """
    searches = [_Search(order, math.log(delta)) for order in orders if order]
    while searches and not quick:
        worst = max(searches, key=lambda search: search.figure)
        if not worst.refine():
            break
    worst_figure = max((search.figure for search in searches), default=0.0)
    if not math.isfinite(worst_figure):
        raise UnsupportedRelease(
            f"no accountant here resolves a delta of {delta:g} for these releases, because rare events with little "
            "noise decide about it: choose a larger delta, or a larger noise multiplier"
        )
    return worst_figure


class _Search:
    """The search for epsilon in one order of the neighbors, on finer and finer grids."""

    def __init__(self, order: Order, log_delta: float) -> None:
        self.composition = Composition(order, log_delta)
        self.figure, share = self.composition.epsilon()
        guess = self.composition.guess
        if math.isfinite(self.figure) and abs(self.figure - guess) > 0.1 * self.figure:
            self.composition = self.composition.on(points=POINTS, tilt=self.composition.tilt_for(self.figure))
            figure, share = self.composition.epsilon()
            self.figure = min(self.figure, figure)
        self.done = self.composition.at_limit or share > _WORTH
        step = 1.0
        while share > _WORTH and step < _COARSEST:
            # The error of a transform does not shrink with the step, but its bound grows with the transform.
            step, before = 2.0 * step, self.figure
            figure, share = self.composition.on(points=POINTS, coarser=step).epsilon()
            self.figure = min(before, figure)
            if figure > before:
                break

    def refine(self) -> bool:
        """Halve the grid's step, if it can be; returns True if another halving may improve the figure."""
        if self.done:
            return False
        before, points = self.figure, 2 * self.composition.points
        self.composition = self.composition.on(points=points, tilt=self.composition.tilt_for(before))
        self.figure = min(before, self.composition.epsilon()[0])
        self.done = self.composition.at_limit or points >= POINTS << _HALVINGS
        return before - self.figure >= _CLOSE * before


class Composition:
    """One order of the neighbors on one grid.

    Args:
        order: The events and their counts.
        log_delta: Logarithm of the least delta that is asked for.
        points: Grid points in the smallest standard deviation of an event's loss.
        tilt: The lambda for which the grid is planned; by default it is computed from `log_delta`.
        coarser: Factor by which the step of the grid is multiplied, at least 1.
    """

    def __init__(
        self,
        order: Order,
        log_delta: float,
        points: int = POINTS,
        tilt: float | None = None,
        coarser: float = 1.0,
    ) -> None:
        self.order, self.log_delta, self.points = order, log_delta, points
        self.count = sum(count for _, count in order)
        self.log_tail = log_delta - _LOST - math.log(self.count) - 0.1
        self._nodes = [(*loss.nodes(self.log_tail), count) for loss, count in order]
        self.tilt, self.guess = self._plan() if tilt is None else (tilt, self._moments(tilt).mean)
        plain, tilted = self._moments(0.0), self._moments(self.tilt)
        spans = [loss.span(self.log_tail) for loss, _ in order]
        low, high, _ = self._window(self.tilt)
        floors = [max(top - bottom for bottom, top in spans) / _MAX_STEP, (high - low) / (0.9 * _MAX_WINDOW)]
        step = min(*plain.stddevs, *tilted.stddevs) / points
        self.at_limit = step <= max(floors)
        self.h = (max(step, *floors) or plain.scale) * coarser
        self.cells = [(loss.cells(self.h, self.log_tail), count) for loss, count in order]
        infinite = [math.log(count) + cells.log_infinity for cells, count in self.cells]
        self.log_infinity = float(np.logaddexp.reduce(infinite))
        self.shift = sum(count * cells.shift for cells, count in self.cells)

    def on(self, *, points: int, tilt: float | None = None, coarser: float = 1.0) -> Composition:
        """See `Composition`: the same events on another grid. By default `tilt` is the lambda of this composition."""
        return Composition(self.order, self.log_delta, points, self.tilt if tilt is None else tilt, coarser)

    def epsilon(self) -> tuple[float, float]:
        """The least epsilon at e^log_delta, or infinity where it cannot be resolved, and the error's share in delta."""
        tilt, guess = self.tilt, self.guess
        best, best_share = math.inf, 1.0
        for _ in range(3):
            best, best_share = min((best, best_share), self._at(tilt, guess))
            if not math.isfinite(best) or best_share > _WORTH or abs(best - guess) <= _NEAR * best:
                break
            tilt, guess = self.tilt_for(best), best
        if best_share > _WORTH:
            for part in LESS:
                best, best_share = min((best, best_share), self._at(part * tilt, guess))
        return best, best_share

    def _at(self, tilt: float, guess: float) -> tuple[float, float]:
        """Epsilon under a tilt, and the share of the error in delta."""
        transform = self.transform(tilt)
        if transform is None:
            return math.inf, 1.0
        figure = transform.epsilon(self.log_delta, guess)
        return figure, transform.error_share(figure, self.log_delta) if math.isfinite(figure) else 1.0

    def tilt_for(self, epsilon: float) -> float:
        """The lambda at which the tilted mean is `epsilon`; 0 where the plain mean is above it."""
        plain = self._moments(0.0)
        if plain.mean >= epsilon:
            return 0.0
        high = 1.0 / plain.scale
        while (tilted := self._moments(high)).mean < epsilon and tilted.variance > 0 and high < 1e12 / plain.scale:
            high *= 2.0
        return bisect(lambda tilt: self._moments(tilt).mean < epsilon, 0.0, high)

    def transform(self, tilt: float) -> Transform | None:
        """The composed distribution under a tilt."""
        exact = _cumulant(self.cells, self.h, tilt)
        low, high, power = self._window(tilt)
        start, size = math.floor(low / self.h) - 2, 16
        while True:
            while (start + size) * self.h <= high and size <= _MAX_WINDOW:
                size *= 2
            log_top = _cumulant(self.cells, self.h, tilt + power).log - (tilt + power) * (start + size) * self.h
            if size > _MAX_WINDOW:
                return None
            if log_top <= self.log_delta - _LOST:
                break
            high += 0.25 * (high - low)
        values, norm, rounding = self._convolve(tilt, start, size)
        error = 8 * UNIT * (self.count + 8) * (math.log2(size) + 1) * norm
        above = np.cumsum(values[::-1])[::-1]  # the probability of each point and all above it
        reach = int(np.searchsorted(-above, -_NOTHING))
        rest = float(above[reach]) * (1 + 1e-9) if reach < size else 0.0
        return Transform(self, tilt, exact.log + rounding, start, values, error, log_top, reach, rest)

    def _convolve(self, tilt: float, start: int, size: int) -> tuple[Floats, float, float]:
        """The tilted distribution on `size` points from `start`, the largest 2-norm of a step, and ln of a rounding."""
        product: Complexes = np.ones(size // 2 + 1, np.complex128)
        offset, norm, rounding = 0, 0.0, 0.0
        for cells, count in self.cells:
            exponents = cells.log_p + tilt * self.h * (cells.low + np.arange(len(cells.log_p)))
            weights = np.exp(exponents - exponents.max())
            total = weights.sum()
            weights /= total
            relevant = weights > 1e-20
            farthest = np.abs(cells.low + np.flatnonzero(relevant)[[0, -1]]).max() * self.h
            log_total = abs(float(exponents.max() + math.log(total)))
            rounding += 4 * UNIT * count * (64 + log_total + 2 * tilt * farthest)
            folded = np.zeros(size)
            for at in range(0, len(weights), size):
                part = weights[at : at + size]
                folded[: len(part)] += part
            norm = max(norm, float(np.linalg.norm(folded)))
            offset += count * cells.low
            product = product * _power(np.fft.rfft(folded), count)
        values = np.fft.irfft(product, size)
        return np.maximum(np.roll(values, offset - start), 0.0), norm, rounding

    def _plan(self) -> tuple[float, float]:
        """A tilt and an estimate of epsilon: the saddle point with a normal integral around it."""
        plain = self._moments(0.0)
        mean, scale = plain.mean, plain.scale
        if log_estimate(plain, 0.0, mean) <= self.log_delta:
            low = min(0.0, mean)
            if mean <= 0 or log_estimate(plain, 0.0, 0.0) <= self.log_delta:
                return 0.0, 0.0
            return 0.0, bisect(lambda e: log_estimate(plain, 0.0, e) > self.log_delta, low, mean)

        def too_small(tilt: float) -> bool:
            moments = self._moments(tilt)
            return moments.stddev > 0 and log_estimate(moments, tilt, moments.mean) > self.log_delta

        high = 1.0 / scale
        while too_small(high) and high < 1e12 / scale:
            high *= 2.0
        tilt = bisect(too_small, 0.0, high)
        epsilon = self._moments(tilt).mean
        if epsilon <= 0.0:
            return self.tilt_for(0.0), 0.0
        return tilt, epsilon

    def _window(self, tilt: float) -> tuple[float, float, float]:
        """The losses between which the tilted sum is, and the power for the bound on what is above."""
        here = self._moments(tilt)

        def too_near(power: float) -> bool:
            there = self._moments(tilt + power)
            plain = there.log - (tilt + power) * there.mean
            wrapped = there.log - power * there.mean - tilt * here.mean
            return plain > self.log_delta - _LOST - 0.5 or wrapped > self.log_delta - _WRAPPED

        def too_high(power: float) -> bool:
            there = self._moments(tilt - power)
            return there.log - here.log + power * there.mean > -_BELOW

        scale = 1.0 / here.scale
        above, below = first_power(too_near, scale), first_power(too_high, scale)
        return self._moments(tilt - below).mean, self._moments(tilt + above).mean, above

    def _moments(self, tilt: float) -> LossMoments:
        return moments_of(((losses, weights, count) for losses, weights, count in self._nodes), tilt)


@dataclass(frozen=True, slots=True)
class Transform:
    """The composed distribution under one tilt, from which delta follows at every epsilon near the tilted mean.

    Attributes:
        composition: What was composed.
        tilt: The lambda.
        log_total: ln of the expectation of e^(lambda l), rounded up.
        start: Index of the first grid point.
        values: Tilted probabilities, at least 0.
        error: Bound of the 2-norm of their errors.
        log_top: ln of a bound of the probability above the window.
        reach: The number of points that are summed one by one.
        rest: The tilted probability of the points above them.
    """

    composition: Composition
    tilt: float
    log_total: float
    start: int
    values: Floats
    error: float
    log_top: float
    reach: int
    rest: float

    def log_delta(self, epsilon: float) -> float:
        """ln of delta at `epsilon`, rounded up; 0 below the window. Losses below both the window and `epsilon` wrap
        around to the top of the window and add to delta."""
        return self.judged(epsilon)[0]

    def judged(self, epsilon: float) -> tuple[float, bool]:
        """ln of delta at `epsilon`, as `log_delta` gives it, and True if the transform resolves it.

        It resolves delta if the error of the transform and the bound of the tail are a negligible part of delta."""
        if epsilon < self.start * self.composition.h:
            return 0.0, False
        body, noise = self._sums(epsilon)
        log_body = self.log_total - self.tilt * epsilon + math.log(body) if body > 0 else -math.inf
        sharp = noise <= 1e-4 * body and self.log_top <= log_body - 10.0
        return self._total(epsilon, body + noise), sharp

    def error_share(self, epsilon: float, log_delta: float) -> float:
        """The part of e^log_delta that is the error of the transform.

        Args:
            epsilon: The epsilon at which delta was computed.
            log_delta: The logarithm of delta.
        """
        _, noise = self._sums(epsilon)
        if noise <= 0:
            return 0.0
        return math.exp(min(self.log_total - self.tilt * epsilon + math.log(noise) - log_delta, 1.0))

    def epsilon(self, log_delta: float, guess: float) -> float:
        """Return the minimum epsilon, at least 0, with at most this delta; infinity if the error exceeds half of delta.

        Args:
            log_delta: The natural logarithm of delta.
            guess: An epsilon to start the search from.
        """
        if max(self.log_top, self.composition.log_infinity) >= log_delta:
            return math.inf

        def excess(epsilon: float) -> float:
            return self.log_delta(epsilon) - log_delta

        h = self.composition.h
        bottom = max(self.start * h, 0.0)
        if excess(bottom) <= 0.0:
            return bottom * (1 + 1e-12)
        step = max(1e-3 * guess, h)
        high = max(guess, bottom) + step
        while excess(high) > 0.0:
            step *= 2.0
            high += step
            if high > (self.start + 2 * len(self.values)) * h:
                return math.inf
        low = max(guess - step, bottom)
        while low > bottom and excess(low) <= 0.0:
            step *= 2.0
            low, high = max(low - step, bottom), low
        figure = root(excess, low, high)
        if self.error_share(figure, log_delta) > _TOO_MUCH:
            return math.inf
        return (figure + self.composition.shift) * (1 + 1e-12)

    def _sums(self, epsilon: float) -> tuple[float, float]:
        h, tilt = self.composition.h, self.tilt
        first = max(math.floor(epsilon / h) + 1 - self.start, 0)
        size = len(self.values)
        if first >= size:
            return 0.0, 0.0
        last = max(self.reach, first + 1)
        if tilt > 0:
            last = min(last, first + 1 + math.ceil(_REACH / (tilt * h)))
        above = np.maximum((self.start + np.arange(first, last)) * h - epsilon, 0.0)
        value = np.exp(-tilt * above) * -np.expm1(-above)
        body = float(np.dot(self.values[first:last], value)) * (1 + 1e-12)
        norm, rest = float(np.linalg.norm(value)), 0.0
        if last < size:  # their values are at most e^(-tilt above)
            most = math.exp(-tilt * max((self.start + last) * h - epsilon, 0.0))
            rest = most * (self.rest if last >= self.reach else 1.0 + 1e-9)
            norm = math.hypot(norm, most * math.sqrt(size - last))
        return body, (self.error * norm + rest) * (1 + 1e-12)

    def _total(self, epsilon: float, sums: float) -> float:
        rest = float(np.logaddexp(self.log_top, self.composition.log_infinity))
        if sums <= 0:
            return rest
        return float(np.logaddexp(self.log_total - self.tilt * epsilon + math.log(sums), rest))


def _cumulant(parts: Sequence[tuple[Cells, int]], h: float, tilt: float) -> LossMoments:
    nodes = ((h * np.arange(c.low, c.low + len(c.log_p), dtype=np.float64), c.log_p, count) for c, count in parts)
    return moments_of(nodes, tilt)


def _power(transformed: Complexes, count: int) -> Complexes:
    """The power by repeated squaring; its relative error is that of fewer than `count` multiplications."""
    power: Complexes = np.ones_like(transformed)
    while count:
        if count & 1:
            power = power * transformed
        count >>= 1
        if count:
            transformed = transformed * transformed
    return power
