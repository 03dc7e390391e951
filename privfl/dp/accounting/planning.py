"""Questions before a run: what would it cost, how much noise does it need, how many rounds, how many people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from privfl.checks import check_count, check_delta, check_positive
from privfl.dp.accounting.accountant import DROPOUTS, PUBLIC_COUNTS, SKIPS, as_seen, compose, cross_figures
from privfl.dp.accounting.events import EVERYONE, Event, Noise, Profile, known_sampling
from privfl.dp.accounting.report import EpsilonReport
from privfl.dp.release import Placement
from privfl.dp.slots import Slot, l1_bound, norm_bound
from privfl.dp.unit import CLIENT_UNIT, Everyone, FixedSize, Observer, PrivacyUnit, Sampling
from privfl.errors import ConfigError

MIN_NOISE: Final = 0.05
MAX_NOISE: Final = 1e5
MAX_ROUNDS: Final = 1 << 24
MAX_POPULATION: Final = 1 << 40

_ZERO_IS_REPLACE: Final = "zero_out under fixed-size sampling is bounded by replace_one: zeros are other data too"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run before it is run: `rounds` equal releases with `noise_multiplier`.

    `placement` "distributed" asks for Skellam noise, which needs the vector's `slots` (integer units) besides; with
    "central" or "local" noise they are not used. Observers other than the outsider know the cohorts and get no
    amplification; for them the unit is one that takes part in every round.
    """

    sampling: Sampling
    noise_multiplier: float
    rounds: int
    unit: PrivacyUnit = CLIENT_UNIT
    observer: Observer = "outsider"
    placement: Placement = "central"
    slots: tuple[Slot, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds)
        check_positive("noise_multiplier", self.noise_multiplier)
        if self.placement == "none":
            raise ConfigError("placement 'none' has no epsilon; use central, distributed or local")
        if self.placement == "distributed" and not self.slots:
            raise ConfigError("distributed noise is judged as integers: give the vector's slots")

    @property
    def known_sampling(self) -> Sampling:
        """How the cohort was drawn, as far as it protects against the observer."""
        return known_sampling(self.unit, self.placement, self.sampling) if self.observer == "outsider" else EVERYONE

    @property
    def seen(self) -> PrivacyUnit:
        """What can be promised of the unit."""
        return as_seen(self.unit, self.observer, (self.placement,))

    def profile(self) -> Profile:
        """What is composed."""
        if self.placement == "distributed":
            look = Noise("skellam", self.noise_multiplier, norm_bound(self.slots), l1_bound(self.slots))
        else:
            look = Noise("rounded_gaussian", float(self.noise_multiplier))
        return Counter({Event((look,), self.known_sampling): self.rounds})

    def epsilon(self, delta: float, *, quick: bool = False) -> float:
        """Epsilon at `delta`; `quick`: on one coarse grid, an upper bound too."""
        return compose(self.profile(), self.seen, delta, observer=self.observer, quick=quick)[0]

    def report(self, delta: float, *, cross_checks: bool = True) -> EpsilonReport:
        """The statement in full."""
        profile, seen = self.profile(), self.seen
        epsilon, accountant = compose(profile, seen, delta, observer=self.observer)
        caveats = [DROPOUTS]
        if seen.level == "client" and seen.adjacency == "add_remove":
            caveats.append(PUBLIC_COUNTS)
        if self.unit.level == "client" and not isinstance(self.known_sampling, Everyone):
            caveats.append(SKIPS)
        if self.observer != "outsider":
            caveats.append(f"for a {self.unit.level} that takes part in every round")
        elif isinstance(self.known_sampling, FixedSize) and self.unit.adjacency == "zero_out":
            caveats.append(_ZERO_IS_REPLACE)
        return EpsilonReport(
            epsilon,
            delta,
            accountant,
            seen,
            self.known_sampling.describe(),
            self.observer,
            self.rounds,
            cross_checks=cross_figures(profile, seen, delta) if cross_checks else {},
            caveats=tuple(caveats),
        )


def what_if(
    *,
    sampling: Sampling,
    noise_multiplier: float,
    rounds: int,
    delta: float,
    unit: PrivacyUnit = CLIENT_UNIT,
    observer: Observer = "outsider",
    placement: Placement = "central",
    slots: Sequence[Slot] = (),
    cross_checks: bool = True,
) -> EpsilonReport:
    """Epsilon of a run before it is run; see `Plan`."""
    plan = Plan(
        sampling=sampling,
        noise_multiplier=noise_multiplier,
        rounds=rounds,
        unit=unit,
        observer=observer,
        placement=placement,
        slots=tuple(slots),
    )
    return plan.report(delta, cross_checks=cross_checks)


def calibrate(
    *,
    epsilon: float,
    delta: float,
    sampling: Sampling,
    rounds: int,
    unit: PrivacyUnit = CLIENT_UNIT,
    observer: Observer = "outsider",
    placement: Placement = "central",
    slots: Sequence[Slot] = (),
) -> Plan:
    """The plan with the least noise multiplier, to five digits rounded up, whose epsilon is at most `epsilon`.

    Raises `ConfigError` when more than 10^5 would be needed, or when the target is so large that 0.05 is enough.
    """
    check_positive("epsilon", epsilon)
    check_delta(delta)

    def plan(noise_multiplier: float) -> Plan:
        return Plan(
            sampling=sampling,
            noise_multiplier=noise_multiplier,
            rounds=rounds,
            unit=unit,
            observer=observer,
            placement=placement,
            slots=tuple(slots),
        )

    low, high = _bracket(lambda z: plan(z).epsilon(delta, quick=True), epsilon)
    unit_step = 10.0 ** (math.floor(math.log10(high)) - 4)

    def cost(steps: int, quick: bool) -> float:
        return plan(steps * unit_step).epsilon(delta, quick=quick)

    steps = _least(cost, epsilon, math.floor(low / unit_step), math.ceil(high / unit_step))
    return plan(float(f"{steps * unit_step:.5g}"))


def max_rounds(*, epsilon: float, delta: float, plan: Plan) -> int:
    """The most rounds for which `plan` (its own number is not used) stays within `epsilon`; 0 if one is too many."""
    check_positive("epsilon", epsilon)

    def cost(minus: int, quick: bool) -> float:
        return replace(plan, rounds=-minus).epsilon(delta, quick=quick)

    if cost(-1, False) > epsilon:
        return 0
    top = 2
    while cost(-top, True) <= _clearly(epsilon):
        if top >= MAX_ROUNDS:
            raise ConfigError(f"{MAX_ROUNDS} rounds stay within epsilon {epsilon:g}: ask for less noise")
        top *= 4
    return -_least(cost, epsilon, -top, -1)


def min_population(
    *, epsilon: float, delta: float, plan: Plan, sampling_of: Callable[[int], Sampling], minimum: int
) -> int:
    """The smallest population, at least `minimum`, for which `plan` stays within `epsilon`.

    `sampling_of` gives the sampling of a population, such as `lambda n: Poisson(cohort / n)`. Raises `ConfigError`
    when even 2^40 are too few.
    """
    check_positive("epsilon", epsilon)
    check_count("minimum", minimum)

    def cost(population: int, quick: bool) -> float:
        return replace(plan, sampling=sampling_of(population)).epsilon(delta, quick=quick)

    if cost(minimum, False) <= epsilon:
        return minimum
    low, top = minimum, 2 * minimum
    while (value := cost(top, True)) > epsilon:
        if top >= MAX_POPULATION:
            raise ConfigError(f"no population is large enough for epsilon {epsilon:g}: add noise or run fewer rounds")
        low, top = top if value > _clearly(epsilon) else low, 4 * top
    return _least(cost, epsilon, low, top)


def over_rounds(plan: Plan, delta: float, rounds: Iterable[int]) -> list[tuple[int, float]]:
    """(rounds, epsilon) points for a plot."""
    return [(n, replace(plan, rounds=n).epsilon(delta, quick=True)) for n in rounds]


def over_delta(plan: Plan, deltas: Iterable[float]) -> list[tuple[float, float]]:
    """(delta, epsilon) points for a plot."""
    return [(delta, plan.epsilon(delta, quick=True)) for delta in deltas]


def default_delta(population: int) -> tuple[float, str]:
    """A delta for `population` units, and why: min(1e-5, 1/population^1.1).

    Delta is the probability of a failure that may reveal anything about a unit, so that it has to be well below one
    over the number of units.
    """
    check_count("population", population)
    delta = min(1e-5, population**-1.1)
    if delta < 1e-5:  # two digits, rounded down
        step = 10.0 ** (math.floor(math.log10(delta)) - 1)
        delta = float(f"{math.floor(delta / step * (1 - 1e-12)) * step:.1e}")
    return delta, (
        f"delta {delta:g} by default for {population} units: the smaller of 1e-5 and 1/population^1.1, because delta "
        "bounds the probability of a failure that may reveal anything about a unit"
    )


def _bracket(cost: Callable[[float], float], epsilon: float) -> tuple[float, float]:
    """(low, high), powers of two, with cost(low) clearly above `epsilon` and cost(high) not above it."""
    z = 1.0
    while cost(z) > epsilon:
        z *= 2.0
        if z > MAX_NOISE:
            raise ConfigError(f"epsilon {epsilon:g} needs a noise multiplier above {MAX_NOISE:g}")
    high = z
    while cost(z) <= _clearly(epsilon):
        z /= 2.0
        if z < MIN_NOISE:
            raise ConfigError(f"epsilon {epsilon:g} is no constraint: a noise multiplier of {2 * z:g} is enough")
    return z, high


def _clearly(epsilon: float) -> float:
    """A coarse figure above this belongs to a fine one above `epsilon`."""
    return 1.001 * epsilon + 0.002


def _least(cost: Callable[[int, bool], float], target: float, low: int, high: int) -> int:
    """The least n in (low, high] with cost(n) <= target, for a falling cost that is above it at `low`, not at `high`.

    cost(n, True) is quick and never below cost(n, False). The quick root is found first by interpolation; the fine
    figure there, over the slope, says how far below it the fine root is; a gallop from there ends the search.
    """
    bad, sure, even = low, high, False
    left, right = cost(low, True), cost(high, True)
    while right <= target and high - low > max(1, abs(high) // 20_000):
        share = 0.5 if even or right <= 0 else math.log(left / target) / math.log(left / right)
        even = not even
        middle = low + min(max(round(share * (high - low)), 1), high - low - 1)
        value = cost(middle, True)
        low, left, high, right = (low, left, middle, value) if value <= target else (middle, value, high, right)
    slope = (left - right) / (high - low)
    start = high - math.floor((target - cost(high, False)) / slope) if slope > 0 else high
    return _gallop(lambda n: cost(n, False) <= target, min(max(start, bad + 1), sure), bad, sure)


def _gallop(good: Callable[[int], bool], start: int, low: int, high: int) -> int:
    """The least good n in (low, high], searched in doubling steps from `start`; `low` is not good, `high` is."""
    step = 1
    if start == high or good(start):
        high = start
        while high - step > low and good(high - step):
            high, step = high - step, 2 * step
        low = max(low, high - step)
    else:
        low = start
        while low + step < high and not good(low + step):
            low, step = low + step, 2 * step
        high = min(high, low + step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high
