"""A third party's verifier of privacy ledgers: it recomputes epsilon after sections 7 and 9 of SPEC.md.

    python protocols/privacy-ledger/reference.py LEDGER... --delta D --observer O

It needs numpy and scipy, imports nothing of privfl, and privfl never imports it. Next to it `ledger.py` reads files,
and `passes.py` prices rounds in which each client takes part once.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from ledger import EVERYONE, OBSERVERS, chance, counted_sampling, demand, read, sees_through
from passes import passes, stream
from scipy import optimize, special, stats

Profile = Counter  # (sampling as sorted items, looks) -> how often; a look is (law, z, norm bound, l1 bound, length)
MAX_POINTS, ORDERS = 2**20, sorted({*range(2, 65), *(round(64 * 1.08**i) for i in range(46))})


def look(r: dict[str, Any]) -> tuple[Any, ...]:
    z, law = r["declared_stddev"] / r["norm_bound"], r["law"].replace("float", "rounded")
    demand(law != "skellam" or r["l1_bound"] is not None, "Skellam noise needs an l1 bound")
    bounds = (0.0, 0.0, 0) if law == "rounded_gaussian" else (r["norm_bound"], r["l1_bound"] or 0.0, r["length"])
    return (law, z, *bounds)


def epsilon(ledgers: list[dict[str, Any]], delta: float, observer: str = "outsider") -> float:
    """The epsilon that the ledgers (from `read`) guarantee together at `delta`, rounded up."""
    demand(len({tuple(ledger["unit"]) for ledger in ledgers}) == 1, "ledgers of different units do not add up")
    level, adjacency = ledgers[0]["unit"]
    client, factor = level == "client", 2 if adjacency == "replace_one" else 1
    releases = [r for ledger in ledgers for r in ledger["charged"]]
    for r in releases:
        demand(observer in r["views"], "this sum has no such observer")
        demand(observer == "outsider" or not client or r["participants"] is not None, "participants are withheld")
    if any(sees_through(observer, r) for r in releases):
        return math.inf
    numbered = [(n, r) for n, ledger in enumerate(ledgers) for r in ledger["charged"]]
    always, units = Counter(), [defaultdict(Counter) for _ in ledgers]
    streams = [stream(ledger["charged"]) for ledger in ledgers]
    event = lambda n, r: (EVERYONE, (streams[n] if "correlation" in r else look(r),))
    one_of_each = passes(ledgers, event)
    for n, r in numbered:
        if r["sampling"]["kind"] != "one_pass":
            always[event(n, r)] += r["count"]
        for unit in (r["participants"] or ()) if client else (0,):
            before = 0 if "correlation" in r else units[n][unit][event(n, r)]
            units[n][unit][event(n, r)] = before + r["count"]
    hidden = not client and all(r.get("draw_known_to") == "site" for r in releases)
    if observer != "outsider" and not hidden:
        profiles = list(next(filter(None, units), {}).values())
        if sum(map(bool, units)) > 1:  # each numbers its clients itself: any client of one may be any client of another
            joint = [Counter({e: max(p[e] for p in k.values()) for p in k.values() for e in p}) for k in units]
            profiles = [sum(joint, Counter())]
        return max((compose(profile, delta, adjacency, factor) for profile in profiles), default=0.0)
    draws = {(n, d["round"]): d for n, ledger in enumerate(ledgers) for d in ledger["draws"]}
    void = [any("void" in d for d in ledger["draws"]) for ledger in ledgers]  # it takes back all turns of its ledger
    turns = {key: None if void[key[0]] else d["turn"] for key, d in draws.items()}
    taken = math.fsum(chance(draws[key]["sampling"]) * t for key, t in turns.items() if t is not None) * (1 + 2.0**-50)
    if taken > delta / 2:
        turns, taken = dict.fromkeys(turns), 0.0
    carried = client and any(r["placement"] == "local" for r in releases)
    known = "zero_out" if adjacency == "add_remove" and (carried or None in turns.values()) else adjacency
    groups, profile = defaultdict(list), Counter()
    for n, r in ((n, r) for n, r in numbered if r["sampling"]["kind"] != "one_pass"):
        groups[n, r["round"], 0 if client else r["attempt"]].append(r)
    for (n, round, _), group in groups.items():
        demand(len(group) == 1 or all(r["count"] == 1 for r in group), "a line of many draws stands alone")
        demand(all(r["sampling"] == group[0]["sampling"] for r in group), "one draw has one sampling")
        bare = client and (turns[n, round] is None or any(r["placement"] == "local" for r in group))
        sampling = EVERYONE if bare else counted_sampling(group[0])
        profile[sampling, tuple(sorted(look(r) for r in group))] += group[0]["count"]
    found = max(compose(profile + one, delta - taken, known, factor) for one in one_of_each)
    certain = max(compose(always + one, delta, "zero_out", factor) for one in one_of_each)
    return min(found, certain) if observer == "outsider" else found


def compose(profile: Profile, delta: float, adjacency: str, factor: int) -> float:
    kinds = {dict(sampling)["kind"] for sampling, _ in profile}
    demand("fixed_size" not in kinds or adjacency != "add_remove", "fixed size has no add_remove figure")
    demand("random_allocation" not in kinds, "random allocation is not priced here")
    demand("truncated_poisson" not in kinds or factor == 1, "truncated Poisson has no replace_one figure")
    groups = [(c * n, (z * b) ** 2) for (_, looks), c in profile.items() for law, z, b, _, n in looks if n]
    if not groups:
        return likened(profile, delta, factor)
    uneven = 2.0**-49 if any(one[0] == "skellam" for _, looks in profile for one in looks) else 0.0
    cohort = max([2**18, *(dict(s).get("cap", dict(s).get("size", 0)) for s, _ in profile)])
    compared = compared_epsilon(lambda remaining: likened(profile, remaining, factor), groups, delta, uneven, cohort)
    found = min(compared, renyi_epsilon(profile, delta, factor))
    demand(math.isfinite(found), "this integer noise is not judged")
    return found


def compared_epsilon(gaussian: Any, groups: list[Any], delta: float, uneven: float, cohort: int) -> float:
    """Integer noise judged as the Gaussian that it resembles, from (noise coordinates, variance) of all releases."""
    low, high, count = min(m for _, m in groups), max(m for _, m in groups), sum(n for n, _ in groups)
    log_t1 = math.log(2.0**-20 * delta)
    cut = 2.1 * (math.log(4 * count) - log_t1)
    first = gaussian(delta / 2) if low >= 1024 and cut <= low / 4 else math.inf
    if first > 600:
        return math.inf
    second = math.fsum(n * (0.22 / m + uneven) ** 2 for n, m in groups)
    bernstein = lambda b, u: b * u / 3 + math.sqrt((b * u / 3) ** 2 + 2 * second * u)
    g1 = second + math.exp(log_t1) + bernstein(cut**2 / (24 * low) + uneven * cut, math.log(2.0) - log_t1)
    g2 = second + bernstein(3 / (8 * low) + 2 * uneven + 2048 * high * uneven**2, first - log_t1)
    own = count * 2.0**-98 * cohort * (1 + math.exp(first))
    left = (delta * (1 - 2.0**-20) - own) * math.exp(-g1) - delta * 2.0**-20
    return math.inf if left < delta / 2 else (gaussian(left) + g1 + g2) * (1 + 1e-12)


def likened(profile: Profile, delta: float, factor: int) -> float:
    """The figure of Gaussian looks, or of Gaussian looks in place of all integer ones."""
    sampled, inverse = Counter(), 0.0
    for (sampling, looks), count in profile.items():
        one = math.fsum(look[1] ** -2 for look in looks)
        if sampling == EVERYONE:
            inverse += count * one
        else:
            sampled[sampling, one**-0.5] += count
    if sampled:
        return spectral_epsilon(sampled, inverse**-0.5 / factor if inverse else math.inf, delta, factor)
    return gaussian_epsilon(inverse**-0.5 / factor, delta) if inverse else 0.0


def gaussian_epsilon(z: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8."""

    def excess(e: float) -> float:
        first, second = special.log_ndtr(0.5 / z - e * z), e + special.log_ndtr(-0.5 / z - e * z)
        return float(first + math.log(-math.expm1(min(second - first, -1e-300))) - math.log(delta)) + 1e-9

    return optimize.brentq(excess, 0.0, 0.5 / z**2 + 40 / z, xtol=1e-13) * (1 + 1e-9) if excess(0.0) > 0 else 0.0


def renyi_epsilon(profile: Profile, delta: float, factor: int) -> float:
    """Agarwal, Kairouz and Liu 2021, corollary 3.6; section 9; Canonne, Kamath and Steinke 2020, proposition 12."""
    total, a, k = np.zeros(len(ORDERS)), np.array(ORDERS, float), np.arange(ORDERS[-1] + 1.0)
    for (sampling, looks), count in profile.items():
        one = np.zeros_like(k)
        for law, z, norm, l1, _ in looks:
            m, n1 = (z * norm) ** 2, l1 * factor
            extra = np.minimum(((2 * k - 1) * (factor * norm) ** 2 + 6 * n1) / (4 * m * m), 1.5 * n1 / m) if m else 0.0
            one += k * factor**2 / (2 * z * z) + (extra if law == "skellam" else 0.0)
        kind, q = dict(sampling)["kind"], dict(sampling).get("probability", 1.0)
        if kind != "everyone" and (kind != "poisson" or factor == 2):
            return math.inf
        if q < 1:
            power = k * math.log(q) + np.maximum(k - 1, 0) * np.where(k < 2, 0.0, one) - special.gammaln(k + 1)
            rest = lambda n, q=q: (n - k[: n + 1]) * math.log1p(-q) - special.gammaln(n - k[: n + 1] + 1)
            sums = [special.logsumexp(power[: n + 1] + rest(n)) + special.gammaln(n + 1) for n in ORDERS]
            total += count * np.array(sums) / (a - 1)
        else:
            total += count * one[ORDERS]
    figures = (total + np.log1p(-1 / a) - (math.log(delta) + np.log(a)) / (a - 1)) * (1 + 1e-12) + 1e-12
    return max(0.0, float(figures.min()))


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
    between = lambda y: np.where(y[1:] < 0, np.diff(special.ndtr(y)), -np.diff(special.ndtr(-y)))
    cells = lambda mean: between((x - mean) / z)
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
        scale, size, below, above = k(lam), 0.0, 0.0, edge
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Recompute the epsilon of privacy ledgers.")
    parser.add_argument("ledger", nargs="+", type=lambda path: read(Path(path).read_bytes()))
    parser.add_argument("--delta", type=float, required=True)
    parser.add_argument("--observer", choices=OBSERVERS, default="outsider")
    asked = parser.parse_args()
    secure = all(r["secure"] or r["placement"] == "none" for ledger in asked.ledger for r in ledger["charged"])
    words = "" if secure else " if the noise were secure"
    print(f"epsilon{words} {epsilon(asked.ledger, asked.delta, asked.observer):.6f} at delta {asked.delta:g}")
