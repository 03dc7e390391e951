"""A third party's verifier of privacy ledgers: it recomputes epsilon after sections 7 and 9 of SPEC.md.

    python protocols/privacy-ledger/reference.py LEDGER... --delta D --observer O

It needs numpy and scipy, imports nothing of privfl, and privfl never imports it. Next to it `ledger.py` reads files,
and `spectral.py` composes sampled releases.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from ledger import OBSERVERS, counted_sampling, demand, read, sees_through
from scipy import optimize, special
from spectral import EVERYONE, chance, spectral_epsilon

Profile = Counter  # (sampling as sorted items, looks) -> how often; a look is (law, z, norm bound, l1 bound, length)
ORDERS = sorted({*range(2, 65), *(round(64 * 1.08**i) for i in range(46))})


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
    always, units = Counter(), [defaultdict(Counter) for _ in ledgers]
    single, streams = [{} for _ in ledgers], [stream(ledger["charged"]) for ledger in ledgers]
    for n, r in ((n, r) for n, ledger in enumerate(ledgers) for r in ledger["charged"]):
        joined, once = "correlation" in r, r["sampling"]["kind"] == "one_pass"
        event = EVERYONE, (streams[n] if joined else look(r),)
        if once:  # a unit is in one round only: any of them may be that one
            each = single[n].setdefault(r["round"], Counter())
            each[event] = 1 if joined else each[event] + 1
        else:
            always[event] += r["count"]
        for unit in (r["participants"] or ()) if client else (0,):
            units[n][unit][event] = 1 if joined else units[n][unit][event] + r["count"]
    rounds = [list({frozenset(c.items()): c for c in each.values()}.values()) for each in single if each]
    passes = [sum(choice, Counter()) for choice in itertools.product(*rounds)]
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
    for n, ledger in enumerate(ledgers):
        for r in ledger["charged"]:
            groups[n, r["round"], 0 if client else r["attempt"]].append(r)
    for (n, round, _), group in groups.items():
        if group[0]["sampling"]["kind"] == "one_pass":
            continue
        demand(len(group) == 1 or all(r["count"] == 1 for r in group), "a line of many draws stands alone")
        demand(all(r["sampling"] == group[0]["sampling"] for r in group), "one draw has one sampling")
        bare = client and (turns[n, round] is None or any(r["placement"] == "local" for r in group))
        sampling = EVERYONE if bare else counted_sampling(group[0])
        profile[sampling, tuple(sorted(look(r) for r in group))] += group[0]["count"]
    found = max(compose(profile + one, delta - taken, known, factor) for one in passes)
    certain = max(compose(always + one, delta, "zero_out", factor) for one in passes)
    return min(found, certain) if observer == "outsider" else found


def stream(charged: list[dict[str, Any]]) -> tuple[Any, ...] | None:
    """The one look at a client that all rounds of correlated noise of a ledger allow."""
    found = [r for r in charged if "correlation" in r]
    if not found:
        return None
    z = min(r["declared_stddev"] for r in found) / max(r["norm_bound"] for r in found)
    square, c = 0.0, 1.0
    for i in range(max(r["round"] for r in found) - min(r["round"] for r in found) + 1):
        c *= (2 * i - 1) / (2 * i) if i else 1.0
        square += c * c
    return ("rounded_gaussian", z / math.sqrt(square), 0.0, 0.0, 0)


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Recompute the epsilon of privacy ledgers.")
    parser.add_argument("ledger", nargs="+", type=lambda path: read(Path(path).read_bytes()))
    parser.add_argument("--delta", type=float, required=True)
    parser.add_argument("--observer", choices=OBSERVERS, default="outsider")
    asked = parser.parse_args()
    secure = all(r["secure"] or r["placement"] == "none" for ledger in asked.ledger for r in ledger["charged"])
    words = "" if secure else " if the noise were secure"
    print(f"epsilon{words} {epsilon(asked.ledger, asked.delta, asked.observer):.6f} at delta {asked.delta:g}")
