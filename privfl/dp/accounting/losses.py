"""The privacy loss of one Gaussian event, sampled or not, as probabilities on a grid that dominate it.

An event has a pair of neighboring outputs P and Q. Both are mixtures of Gaussians of one standard deviation, and the
loss ln(P/Q) increases with x, the output. A grid cell is the set of outputs between two losses. The probabilities of
a cell under P and Q are computed in closed form, in logarithms and from the nearer tail. Each cell is put on its two
ends in the way that keeps both probabilities ("connect the dots", Doroshenko et al. 2022). Nothing here is the
difference of two nearly equal numbers, so the tails are exact at any delta. The effect of rounding is added on the
side of caution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.dp.accounting import special

Floats = npt.NDArray[np.float64]

UNIT: Final = 2.0**-53
LOWEST: Final = -50.0  # ln of the probability below the grid, which moves up to its lowest point
_NARROW: Final = 1e-2
_PER_STDDEV: Final = 24  # nodes of a quadrature
_MAX_NODES: Final = 20_000


@dataclass(frozen=True, slots=True)
class Cells:
    """Probabilities of one step's loss on the grid `low * h, (low + 1) * h, ...`, which dominate the step.

    Attributes:
        low: Index of the lowest grid point.
        log_p: Logarithm of the probability of each grid point.
        log_infinity: Logarithm of the probability of an infinite loss.
        shift: The most by which a loss may exceed what its cell states, because of rounding.
    """

    low: int
    log_p: Floats
    log_infinity: float
    shift: float


@dataclass(frozen=True)
class GaussianPair:
    """P = sum p_j N(s_j, z^2) and Q = sum q_j N(s_j, z^2), with ln(P/Q) increasing.

    Attributes:
        z: Standard deviation of all components.
        shifts: Their means s_j.
        p: Their weights under P, which sum to 1.
        q: Their weights under Q, which sum to 1.
    """

    z: float
    shifts: tuple[float, ...]
    p: tuple[float, ...]
    q: tuple[float, ...]

    @property
    def symmetric(self) -> bool:
        """True when exchanging P and Q is the same as reflecting the outputs."""
        mirrored = sorted(zip((-s for s in self.shifts), self.q, self.p, strict=True))
        return mirrored == sorted(zip(self.shifts, self.p, self.q, strict=True))

    def loss(self, x: Floats) -> Floats:
        """ln(P/Q) at the outputs `x`."""
        return self._log_ratio(self.p, x) - self._log_ratio(self.q, x)

    def slope(self, x: Floats) -> Floats:
        """The derivative of the loss."""
        difference: Floats = (self._mean_shift(self.p, x) - self._mean_shift(self.q, x)) / self.z**2
        return difference

    def locate(self, losses: Floats) -> Floats:
        """The outputs at which the loss is each of `losses`; -inf or inf where it never is."""
        variance = self.z**2
        if self.q == (1.0, 0.0):
            # ln(1 - w + w e^t) = l, t = s (2 x - s) / (2 z^2)
            w, s = self.p[1], self.shifts[1]
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                if w < 0.5:
                    t = np.where(losses < 40.0, np.log1p(np.expm1(np.minimum(losses, 40.0)) / w), 0.0)
                    t = np.where(losses < 40.0, t, losses - math.log(w) + np.log1p(-(1 - w) * np.exp(-losses)))
                else:
                    t = losses - math.log(w) + np.log1p(-(1 - w) * np.exp(-losses))
            inside = losses > self.lowest_loss
            return np.where(inside, 0.5 * s + variance * np.where(inside, t, 0.0) / s, -np.inf)
        if len(self.shifts) == 3 and self.symmetric:
            # u - 1/u = 2 (1 - w)/(w c) sinh(l/2) with u = e^(s x/z^2 - l/2), c = e^(-s^2/(2 z^2))
            s, w = self.shifts[2], self.p[2]
            log_factor = math.log1p(-w) - math.log(w) + 0.5 * s * s / variance if w < 1 else -math.inf
            half = 0.5 * np.abs(losses)
            with np.errstate(divide="ignore"):
                log_sinh = half - math.log(2.0) + np.log(-np.expm1(-2.0 * half))
            big = log_factor + log_sinh
            t = np.where(big > 30.0, big + math.log(2.0), np.arcsinh(np.exp(np.minimum(big, 30.0))))
            located: Floats = np.sign(losses) * (half + t) * variance / s
            return located
        return self._search(losses)

    @cached_property
    def lowest_loss(self) -> float:
        """The limit of the loss at -infinity."""
        first = min(range(len(self.shifts)), key=lambda j: self.shifts[j])
        if self.q[first] == 0.0:
            return math.inf
        return math.log(self.p[first] / self.q[first]) if self.p[first] > 0 else -math.inf

    def quantile(self, weights: Sequence[float], log_tail: float, *, upper: bool) -> float:
        """An output beyond which a mixture has probability at most e^log_tail, above or below.

        Args:
            weights: The weights of the components, each at least 0.
            log_tail: Logarithm of the probability.
            upper: The tail is the one above the output, not the one below.
        """
        parts = [(s, w) for s, w in zip(self.shifts, weights, strict=True) if w > 0]
        found = []
        for s, w in parts:
            log_share = log_tail - math.log(w * len(parts))
            reach = -float(special.ndtri_exp(log_share)) if log_share < -1e-300 else -40.0
            found.append(s + self.z * reach if upper else s - self.z * reach)
        return max(found) if upper else min(found)

    def log_tail(self, weights: Sequence[float], x: float, *, upper: bool) -> float:
        """Logarithm of the probability of a mixture above or below `x`.

        Args:
            weights: The weights of the components, each at least 0.
            x: An output.
            upper: The tail is the one above `x`, not the one below.
        """
        sign = -1.0 if upper else 1.0
        terms = [
            math.log(w) + float(special.log_ndtr(sign * (x - s) / self.z))
            for s, w in zip(self.shifts, weights, strict=True)
            if w > 0
        ]
        return float(np.logaddexp.reduce(terms))

    def masses(self, weights: Sequence[float], edges: Floats) -> tuple[Floats, Floats]:
        """Logarithms of the probabilities of a mixture between neighboring edges, and bounds of their relative errors.

        Args:
            weights: The weights of the components, each at least 0.
            edges: Increasing outputs; the first may be -inf and the last inf.
        """
        total = np.full(len(edges) - 1, -np.inf)
        error = np.zeros(len(edges) - 1)
        for s, w in zip(self.shifts, weights, strict=True):
            if w > 0:
                log_mass, bound = _log_between((edges - s) / self.z)
                total, error = np.logaddexp(total, math.log(w) + log_mass), np.maximum(error, bound)
        return total, error + 4 * UNIT

    def log_density(self, weights: Sequence[float], x: Floats) -> Floats:
        """Logarithm of a mixture's density, without the constant.

        Args:
            weights: The weights of the components, each at least 0.
            x: Outputs.
        """
        exponents = [
            math.log(w) - 0.5 * ((x - s) / self.z) ** 2 for s, w in zip(self.shifts, weights, strict=True) if w > 0
        ]
        return np.asarray(np.logaddexp.reduce(exponents))

    def _terms(self, weights: Sequence[float], x: Floats) -> list[tuple[float, float, Floats]]:
        """(weight, shift, ln of N(s_j) over N(0)) of each component that is there."""
        pairs = [(w, s) for w, s in zip(weights, self.shifts, strict=True) if w > 0]
        return [(w, s, s * (2.0 * x - s) / (2.0 * self.z**2)) for w, s in pairs]

    def _log_ratio(self, weights: Sequence[float], x: Floats) -> Floats:
        terms = self._terms(weights, x)
        if len(terms) == 1:
            return terms[0][2]
        far = np.logaddexp.reduce([math.log(w) + t for w, _, t in terms])
        if max(w for w, s, _ in terms if s == 0.0) < 0.5:
            return np.asarray(far)
        highest = np.maximum.reduce([t for _, _, t in terms])
        near = np.log1p(sum(w * np.expm1(np.minimum(t, 30.0)) for w, _, t in terms))
        return np.where(highest < 30.0, near, far)

    def _mean_shift(self, weights: Sequence[float], x: Floats) -> Floats:
        terms = self._terms(weights, x)
        logs = np.array([math.log(w) + t for w, _, t in terms])
        shares = np.exp(logs - logs.max(axis=0))
        return np.asarray((shares * np.array([s for _, s, _ in terms])[:, None]).sum(axis=0) / shares.sum(axis=0))

    def _search(self, losses: Floats) -> Floats:
        """Newton's method for Q = N(0): the loss is convex then, and the search comes down from above the root."""
        variance = self.z**2
        starts = [
            (losses - math.log(w)) * variance / s + 0.5 * s
            for w, s in zip(self.p, self.shifts, strict=True)
            if w > 0 and s > 0
        ]
        x = np.minimum.reduce(starts)
        inside = losses > self.lowest_loss
        for _ in range(200):
            step = np.where(inside, (self.loss(x) - losses) / self.slope(x), 0.0)
            x = x - step
            if np.all(np.abs(step) <= 256 * UNIT * (np.abs(x) + self.z)):
                break
        return np.where(inside, x, -np.inf)


@dataclass(frozen=True)
class Loss:
    """The loss of one event in one order of the neighbors, a public mixture of pairs.

    Attributes:
        pairs: Pairs and their probabilities.
        swapped: The neighbors are exchanged: the loss is ln(Q/P) under Q.
        folded: Only losses above 0 are taken from the pair; those below are their mirror image, and the rest is 0.
            So a profile that is the same in both orders follows from its half for epsilon >= 0.
    """

    pairs: tuple[tuple[float, GaussianPair], ...]
    swapped: bool = False
    folded: bool = False

    def span(self, log_tail: float) -> tuple[float, float]:
        """The least and the largest loss, except with probability e^log_tail above and e^LOWEST below."""
        spans = [self._span(pair, log_tail) for _, pair in self.pairs]
        return min(low for low, _ in spans), max(high for _, high in spans)

    def nodes(self, log_tail: float) -> tuple[Floats, Floats]:
        """Losses and logarithms of weights of a quadrature, for planning: no bound."""
        losses, weights = [], []
        for share, pair in self.pairs:
            ends = [
                pair.quantile(w, tail, upper=upper)
                for w in (pair.p, pair.q)
                for upper in (False, True)
                for tail in (min(log_tail, LOWEST),)
            ]
            count = min(math.ceil((max(ends) - min(ends)) / pair.z * _PER_STDDEV), _MAX_NODES)
            x = np.linspace(min(ends), max(ends), count)
            loss, p, q = pair.loss(x), pair.log_density(pair.p, x), pair.log_density(pair.q, x)
            constant = math.log(share * (x[1] - x[0]) / pair.z / math.sqrt(2.0 * math.pi))
            if self.folded:
                above = loss > 0
                losses += [loss[above], -loss[above], np.zeros(1)]
                weights += [constant + p[above], constant + q[above], np.array([math.log(share) + _log_atom(pair)])]
            else:
                losses.append(-loss if self.swapped else loss)
                weights.append(constant + (q if self.swapped else p))
        all_losses, all_weights = np.concatenate(losses), np.concatenate(weights)
        there = all_losses <= self.span(log_tail)[1]
        return all_losses[there], all_weights[there]

    def cells(self, h: float, log_tail: float) -> Cells:
        """Probabilities of the loss on a grid, with the upper tail as infinite loss.

        Args:
            h: The step of the grid, positive.
            log_tail: Logarithm of the probability of that tail.
        """
        parts = [(math.log(share), cells) for share, pair in self.pairs for cells in self._cells(pair, h, log_tail)]
        low = min(cells.low for _, cells in parts)
        high = max(cells.low + len(cells.log_p) for _, cells in parts)
        log_p, infinity = np.full(high - low, -np.inf), -math.inf
        for log_share, cells in parts:
            at = slice(cells.low - low, cells.low - low + len(cells.log_p))
            log_p[at] = np.logaddexp(log_p[at], log_share + cells.log_p)
            infinity = float(np.logaddexp(infinity, log_share + cells.log_infinity))
        return Cells(low, log_p, infinity, max(cells.shift for _, cells in parts))

    def _span(self, pair: GaussianPair, log_tail: float) -> tuple[float, float]:
        if self.folded:
            high = self._at(pair, pair.quantile(pair.p, log_tail, upper=True))
            return -high, high
        if self.swapped:
            low = self._at(pair, pair.quantile(pair.q, log_tail, upper=False))
            return -self._at(pair, pair.quantile(pair.q, LOWEST, upper=True)), -low
        low = self._at(pair, pair.quantile(pair.p, LOWEST, upper=False))
        return low, self._at(pair, pair.quantile(pair.p, log_tail, upper=True))

    @staticmethod
    def _at(pair: GaussianPair, x: float) -> float:
        return float(pair.loss(np.array([x]))[0])

    def _cells(self, pair: GaussianPair, h: float, log_tail: float) -> Iterator[Cells]:
        low, high = self._span(pair, log_tail)
        if self.swapped:
            low, high = -high, -low
        first = 0 if self.folded else math.floor(low / h)
        last = max(math.ceil(high / h), first + 1)
        losses = h * np.arange(first, last + 1, dtype=np.float64)
        edges = pair.locate(losses)
        shift = _edge_error(pair, edges, losses)
        p, p_error = pair.masses(pair.p, edges)
        q, q_error = pair.masses(pair.q, edges)
        error = p_error + q_error
        ends = (float(edges[0]), float(edges[-1]))
        if self.folded or not self.swapped:
            log_p = _dots(first, p, q, error, h)
            if not self.folded:
                log_p[0] = np.logaddexp(log_p[0], pair.log_tail(pair.p, ends[0], upper=False))
            yield Cells(first, log_p, pair.log_tail(pair.p, ends[1], upper=True), shift)
        if self.folded or self.swapped:
            log_p = _dots(-last, q[::-1], p[::-1], error[::-1], h)
            log_p[0] = np.logaddexp(log_p[0], pair.log_tail(pair.q, ends[1], upper=True))
            infinity = -math.inf if self.folded else pair.log_tail(pair.q, ends[0], upper=False)
            yield Cells(-last, log_p, infinity, shift)
        if self.folded:
            yield Cells(0, np.array([_log_atom(pair) + 16 * UNIT]), -math.inf, 0.0)


def _log_atom(pair: GaussianPair) -> float:
    """ln of 1 - P(l > 0) - Q(l > 0) for P = (1 - w) N(0) + w N(s), Q = N(0), where l = 0 at s/2."""
    inside = math.erf(0.5 * pair.shifts[1] / pair.z / math.sqrt(2.0))
    return math.log(pair.p[0]) + math.log(inside) if pair.p[0] > 0 and inside > 0 else -math.inf


def _dots(low: int, log_p: Floats, log_q: Floats, error: Floats, h: float) -> Floats:
    """Probabilities of grid points low, low + 1, ... from those of the cells between them; P and Q of each are kept."""
    losses = np.arange(low, low + len(log_p)) * h
    there = np.isfinite(log_p)
    p, q = np.where(there, log_p, -1e9), np.where(there & np.isfinite(log_q), log_q, -2e9)
    rounding = error + UNIT * (8 + np.abs(p) + np.abs(q) + np.abs(losses))
    with np.errstate(over="ignore"):
        share = (-np.expm1(np.minimum(q - p + losses, 0.0)) + rounding) / -math.expm1(-h)
    share = np.clip(share, 0.0, 1.0)
    result = np.full(len(log_p) + 1, -np.inf)
    with np.errstate(divide="ignore"):
        result[:-1] = np.where(there, p + error + np.log1p(-share), -np.inf)
        result[1:] = np.logaddexp(result[1:], np.where(there, p + error + np.log(share), -np.inf))
    return result


def _edge_error(pair: GaussianPair, edges: Floats, losses: Floats) -> float:
    """Bound of the distance of the losses at `edges` from `losses`: measured, plus the rounding of the measurement."""
    there = np.isfinite(edges)
    x, wanted = edges[there], losses[there]
    if not len(x):
        return 0.0
    measured = float(np.max(np.abs(pair.loss(x) - wanted)))
    moved = float(np.max(pair.slope(x) * (np.abs(x) + max(map(abs, pair.shifts)))))
    return measured + 8 * UNIT * (moved + float(np.max(np.abs(wanted))))


def _log_between(edges: Floats) -> tuple[Floats, Floats]:
    """ln(Phi(b) - Phi(a)) for neighboring edges a < b, and bounds of the relative errors."""
    a, b = edges[:-1], edges[1:]
    flip = a > 0
    low, high = np.where(flip, -b, a), np.where(flip, -a, b)
    log_low, log_high = special.log_ndtr(low), special.log_ndtr(high)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        gap = np.where(np.isneginf(log_low), np.inf, log_high - log_low)
        far = log_high + np.log(-np.expm1(-gap))
        far_error = 8 * UNIT * (1 + np.abs(log_high)) * (1 + 1 / gap)
        across = np.log(0.5 * (special.erf(high / math.sqrt(2.0)) - special.erf(low / math.sqrt(2.0))))
        width, middle = b - a, 0.5 * (a + b)
        small = width * (1 + np.abs(middle))
        near = -0.5 * middle**2 - 0.5 * math.log(2.0 * math.pi) + np.log(width)
        near = near + np.log1p((middle**2 - 1) * width**2 / 24)
        near_error = small**4 / 1000 + 8 * UNIT * (2 + middle**2)
    mass = np.where(small < _NARROW, near, np.where(high > 0, across, far))
    error = np.where(small < _NARROW, near_error, np.where(high > 0, 16 * UNIT, far_error))
    return np.where(b > a, mass, -np.inf), np.where(b > a, error, 0.0)
