"""Sampled Gaussian releases composed by tilted Fourier transforms, for `reference.py` (section 7 of SPEC.md)."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from ledger import demand
from scipy import optimize, special, stats

EVERYONE, MAX_POINTS = (("kind", "everyone"),), 2**20


def chance(sampling: dict[str, Any]) -> float:
    fixed = sampling["kind"] == "fixed_size"
    return sampling["size"] / sampling["population"] if fixed else sampling.get("probability", 1.0)


def mixture(q: float, z: float, h: float, replaced: bool) -> tuple[int, Any, Any, float]:
    """Cells of the loss between multiples of h: the first multiple, P and Q of each cell, and P above the last.

    P = (1-q) N(0) + q N(1) of stddev z; Q = N(0), or (1-q) N(0) + q N(-1) where a unit is `replaced`.
    """
    rest, log_q = (math.log1p(-q) if q < 1 else -math.inf), math.log(q)
    loss = lambda x, sign=1: np.logaddexp(rest, log_q + (2 * sign * x - 1) / (2 * z * z))
    top = float(loss(1 + 13 * z) - (loss(1 + 13 * z, -1) if replaced else 0.0))
    low = -top if replaced else max(rest, float(loss(-13 * z)))
    first, last = math.floor(low / h), math.floor(top / h)
    e = np.arange(first + 1, last + 1) * h
    if replaced:  # q c u^2 - (1-q)(e^|l| - 1) u - e^|l| q c = 0 for u = e^(x/z^2), c = e^(-1/(2z^2)); x is odd in l
        size, qc = np.maximum(np.abs(e), 1e-300), log_q - 0.5 / z**2
        middle = rest + size + np.log(-np.expm1(-size))
        root = np.logaddexp(middle, 0.5 * np.logaddexp(2 * middle, math.log(4) + 2 * qc + size))
        x = np.sign(e) * z * z * (root - math.log(2) - qc)
    else:
        x = 0.5 + z * z * (e + np.log(-np.expm1(np.minimum(rest - e, -1e-300))) - log_q)
    x = np.concatenate([[-np.inf], x])

    def cells(mean: float) -> Any:
        y = (x - mean) / z
        return np.where(y[1:] < 0, np.diff(special.ndtr(y)), -np.diff(special.ndtr(-y)))

    above = lambda mean: float(special.ndtr((mean - x[-1]) / z))
    p = (1 - q) * cells(0.0) + q * cells(1.0)
    other = (1 - q) * cells(0.0) + q * cells(-1.0) if replaced else cells(0.0)
    return first, p, other, (1 - q) * above(0.0) + q * above(1.0)


def dots(first: int, p: Any, q: Any, h: float) -> tuple[int, Any]:
    """Mass of P on multiples of h that keeps P and Q of each cell: "connect the dots", rounded up."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = -np.expm1(np.log(q) - np.log(p) + (first + np.arange(len(p))) * h) / -np.expm1(-h)
    share = np.clip(np.nan_to_num(share, nan=1.0) + 1e-13 / h, 0.0, 1.0)
    return first, np.append(p * (1 - share), 0.0) + np.append(0.0, p * share)


def losses(sampling: Any, z: float, h: float, factor: int, added: bool) -> tuple[int, Any, float]:
    """One event's loss distribution on the grid: first multiple of h, masses, mass at infinity."""
    s = dict(sampling)
    if s["kind"] == "fixed_size":  # Zhu, Dong and Wang 2022: the losses above 0 of one pair, mirrored below it
        first, p, q, above = mixture(s["size"] / s["population"], z / 2, h, False)
        p, q = p[-first:], q[-first:]
        masses = np.append(dots(-len(p), q[::-1], p[::-1], h)[1], np.zeros(len(p)))
        masses[len(p) :] += dots(0, p, q, h)[1]
        masses[len(p)] += max(0.0, 1 - above - p.sum() - q.sum())
        return -len(p), masses, above
    parts = [(1.0, s.get("probability", 1.0), z, factor == 2)]
    if s["kind"] == "truncated_poisson":  # cut off or not; if it is, the unit takes the place of another one
        n, cap = s["population"], s["cap"]
        cut = float(stats.binom.sf(cap - 1, n - 1, s["probability"]))
        inside = float(stats.binom.sf(cap, n, s["probability"])) * cap / cut / n if cut else 0.0
        parts = [(1 - cut, s["probability"], z, False), (cut, min(1.0, inside), z / 2, True)]
    found = []
    for weight, q, stddev, replaced in parts:
        if not weight or not q:
            found.append((0, np.array([weight]), 0.0))
            continue
        first, p, other, above = mixture(q, stddev, h, replaced)
        if added and not replaced:  # the neighbors exchanged: the loss is negated
            first, p, other, above = -first - len(p), other[::-1], p[::-1], 0.0
        start, masses = dots(first, p, other, h)
        found.append((start, weight * masses, weight * above))
    low, high = min(start for start, _, _ in found), max(start + len(m) for start, m, _ in found)
    total = np.zeros(high - low)
    for start, masses, _ in found:
        total[start - low : start - low + len(masses)] += masses
    return low, total, sum(above for _, _, above in found)


def spectral_epsilon(sampled: Counter[Any], z_rest: float, delta: float, factor: int) -> float:
    """Losses composed by tilted Fourier transforms, on grids made finer until that changes little, in both orders."""
    events, worst = [*sampled.items(), *([((EVERYONE, z_rest), 1)] if math.isfinite(z_rest) else [])], 0.0
    for added in (False, True):
        h = min(0.08 * min(1.0, chance(dict(s)) / z + 1e-3) / z for (s, z), _ in events)
        best, points = math.inf, 0
        while points < MAX_POINTS:
            parts = [(losses(s, z, h, 1 if s == EVERYONE else factor, added), c) for (s, z), c in events]
            found, points = on_grid(parts, h, delta)
            best, before = min(best, found), best
            if before - best < 2e-4 * max(best, 0.1) and before < math.inf:
                break
            h /= 2
        demand(math.isfinite(best), "this delta is not resolved")
        worst = max(worst, best)
    return worst


def on_grid(parts: list[Any], h: float, delta: float) -> tuple[float, int]:
    """The least epsilon of a composition of (distribution, count), and the points of the transform."""
    grids = [(h * (start + np.flatnonzero(m)), np.log(m[m > 0]), c) for (start, m, _), c in parts]
    lost = -math.expm1(sum(c * math.log1p(-inf) for (_, _, inf), c in parts))
    k = lambda s: math.fsum(c * float(special.logsumexp(p + s * at)) for at, p, c in grids)
    least = lambda f: optimize.minimize_scalar(lambda u: f(math.exp(u)), bounds=(-7, 9), method="bounded").x
    tilt, best, points = math.exp(least(lambda s: (k(s) - math.log(delta)) / s)), math.inf, 0
    for lam in (tilt, tilt / 3):
        moments = [(at, np.exp(p + lam * at - special.logsumexp(p + lam * at)), c) for at, p, c in grids]
        mean = sum(c * float(w @ at) for at, w, c in moments)
        var = sum(c * float(w @ at**2 - (w @ at) ** 2) for at, w, c in moments)
        points = 2 ** math.ceil(math.log2(48 * math.sqrt(var) / h + 4096))
        while True:  # until what lies above the window, and would wrap around to its lower end, is negligible
            low = round(mean / h) - points // 2
            edge = (low + points) * h
            s = math.exp(least(lambda s, edge=edge: k(s) - s * edge))
            fixed = math.exp(min(0.0, k(s) - s * edge)) + lost
            if fixed - lost <= delta * 2.0**-20 or points >= MAX_POINTS:
                break
            points *= 2
        product, largest = np.ones(points // 2 + 1, complex), 0.0
        for at, w, c in moments:
            folded = np.bincount(np.rint(at / h).astype(np.int64) % points, w, points)
            product *= np.fft.rfft(folded) ** c
            largest = max(largest, math.sqrt(folded @ folded))
        r = np.maximum(np.roll(np.fft.irfft(product, points), -(low % points)), 0.0)
        at = (low + np.arange(points)) * h
        error = 8 * 2.0**-53 * (sum(c for _, c in parts) + 8) * math.log2(points) * largest  # Higham, theorem 24.2
        scale, size = k(lam), 0.0
        below, above = 0.0, edge
        while above - below > 1e-6 * above + 1e-9:
            e = (below + above) / 2
            cut = np.searchsorted(at, e, "right")
            v = np.exp(-lam * (at[cut:] - e)) * -np.expm1(e - at[cut:])
            known, size = float(r[cut:] @ v), error * math.sqrt(v @ v)
            over = math.exp(min(scale - lam * e, 700.0)) * (known + size) + fixed > delta
            below, above = (e, above) if over else (below, e)
        best = min(best, above if above < edge else math.inf)
        if size < 0.01 * known:
            break
    return best, points
