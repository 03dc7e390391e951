"""Questions before a run: what would it cost, how much noise does it need, how many rounds, how many people."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from privfl.checks import check_choice, check_count, check_delta, check_positive, unwrap_numpy
from privfl.dp.accounting.accountant import Accountant
from privfl.dp.accounting.accountant import epsilon as judged
from privfl.dp.accounting.events import as_seen, known_sampling, named, unsampled
from privfl.dp.accounting.history import History
from privfl.dp.accounting.report import EpsilonReport
from privfl.dp.accounting.search import clearly_above, min_root
from privfl.dp.contract import check_correlated
from privfl.dp.release import PLACEMENTS, SHARED, Correlation, DrawKnownTo, Placement, Release
from privfl.dp.slots import Slot, l1_bound, norm_bound
from privfl.dp.unit import CLIENT_UNIT, Everyone, PrivacyUnit, Sampling
from privfl.errors import ConfigError
from privfl.observers import OBSERVERS, Observer, Views

MIN_NOISE: Final = 0.05
MAX_NOISE: Final = 1e5
MAX_ROUNDS: Final = 1 << 24
MAX_POPULATION: Final = 1 << 40

NO_TURNS: Final = (
    "assumes that no round is skipped because of one client: a plain sum with central noise skips none, and the ledger "
    "of a run states the probability"
)
_OUTSIDER: Final[Views] = {"outsider": "release"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run before it is run: `rounds` equal releases. It is judged as the ledger that such a run leaves.

    Attributes:
        sampling: How cohorts are sampled; at level "example" how batches are.
        noise_multiplier: Noise standard deviation divided by the norm bound of one contribution, positive.
        rounds: Number of rounds; at level "example" of steps.
        unit: The unit whose presence is hidden.
        observer: The observer. Every observer except the outsider knows the cohorts and gets no amplification; the
            client in question then takes part in every round.
        placement: Where the noise is added.
        slots: The vector in integer units. Distributed and mesh noise is Skellam noise and needs them; other noise does
            not.
        views: The view of each observer, as the sum states it. With None only the outsider has an answer.
        turn: The probability, in [0, 1], that one client's participation decides whether a round is skipped, see
            `round_turn`. With None it is not bounded, and no amplification by sampling is claimed. Not used at level
            "example".
        spare: Members of mesh noise that one coalition may hold, the observer's own place included.
        draw_known_to: "site" where each site samples its own examples by coins that no other party knows; at level
            "example" only. Every observer then gets the amplification.
        group: How many units change together, such as the examples of one person at so many sites.
        correlation: "toeplitz" for central noise that is correlated across the rounds of one pass.

    Raises:
        ConfigError: An argument is out of range, distributed or mesh noise comes without slots, or a question about an
            observer comes without `views`.
    """

    sampling: Sampling
    noise_multiplier: float
    rounds: int
    unit: PrivacyUnit = CLIENT_UNIT
    observer: Observer = "outsider"
    placement: Placement = "central"
    slots: tuple[Slot, ...] = field(default=(), repr=False)
    views: Views | None = None
    turn: float | None = 0.0
    spare: int = 1
    draw_known_to: DrawKnownTo | None = None
    group: int = 1
    correlation: Correlation = "none"

    def __post_init__(self) -> None:
        unwrap_numpy(self, "noise_multiplier", "rounds", "turn", "group")
        check_count("group", self.group)
        if self.draw_known_to is not None and self.unit.level != "example":
            raise ConfigError("draw_known_to is about examples: set unit level 'example', or leave it out")
        check_count("rounds", self.rounds)
        check_positive("noise_multiplier", self.noise_multiplier)
        check_choice("observer", self.observer, OBSERVERS)
        check_choice("placement", self.placement, PLACEMENTS)
        if self.placement == "none":
            raise ConfigError("placement 'none' has no epsilon; use central, distributed, mesh or local")
        if self.placement in SHARED and not self.slots:
            raise ConfigError(f"{self.placement} noise is judged as integers: give the vector's slots")
        if type(self.spare) is not int or self.spare < 0:
            raise ConfigError(f"spare must be an integer of at least 0, not {self.spare!r}")
        if self.views is None and self.observer != "outsider":
            raise ConfigError(
                f"what the {named(self.observer)} sees depends on the sum: give the `views` of one (on the command "
                "line --sum), or ask for the outsider's epsilon"
            )
        if self.views is not None and self.observer not in self.views:
            raise ConfigError(f"there is no {named(self.observer)} in this sum: ask for one of {', '.join(self.views)}")
        check_correlated(self.correlation, self.sampling)
        if self.correlation != "none" and self.placement != "central":
            raise ConfigError(f"correlation {self.correlation!r} is of central noise, not of {self.placement!r}")

    @property
    def known_sampling(self) -> Sampling:
        """The sampling of the cohort, as far as it protects against the observer."""
        if self.draw_known_to == "site":
            return self.sampling
        if self.observer != "outsider" or (self.turn is None and self.unit.level == "client"):
            return unsampled(self.sampling)
        return known_sampling(self.unit, self.placement, self.sampling)

    @property
    def seen(self) -> PrivacyUnit:
        """The unit that can be promised against the observer."""
        return as_seen(self.unit, self.observer, (self.placement,), at_sites=self.draw_known_to == "site")

    def history(self) -> History:
        """The draws and releases of this run: one round, counted `rounds` times."""
        skellam = self.placement in SHARED
        bound = norm_bound(self.slots) if self.slots else 1.0
        stddev = self.noise_multiplier * bound
        release = Release(
            round=0,
            placement=self.placement,
            law="skellam" if skellam else "rounded_gaussian",
            secure=True,
            declared_stddev=stddev,
            realized_stddev=stddev,
            norm_bound=bound,
            l1_bound=l1_bound(self.slots) if skellam else None,
            length=sum(slot.length for slot in self.slots) or 1,
            sampling=self.sampling,
            views=self.views or _OUTSIDER,
            participants=(0,) if self.unit.level == "client" else None,
            spare=self.spare if self.placement == "mesh" else None,
            draw_known_to=self.draw_known_to,
            correlation=self.correlation,
        )
        return History.planned(self.unit, release, rounds=self.rounds, turn=self.turn)

    def epsilon(self, delta: float, *, quick: bool = False) -> float:
        """Epsilon at `delta`, infinite against an observer who sees the sum before its noise.

        Args:
            delta: Probability in (0, 1) with which the promise may fail.
            quick: Compute on one coarse grid, an upper bound too.
        """
        return Accountant(delta, observer=self.observer, group=self.group).spent(self.history(), quick=quick)

    def report(self, delta: float, *, cross_checks: bool = True, group: int | None = None) -> EpsilonReport:
        """The statement in full.

        Args:
            delta: Probability in (0, 1) with which the promise may fail.
            cross_checks: Ask other accountants too, where they apply.
            group: How many units change together; by default the plan's.
        """
        group = self.group if group is None else group
        report = judged(self.history(), delta, observer=self.observer, cross_checks=cross_checks, group=group)
        assumed = self.turn == 0 and self.unit.level == "client" and not isinstance(self.known_sampling, Everyone)
        return replace(report, caveats=(*report.caveats, NO_TURNS)) if assumed else report


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
    views: Views | None = None,
    turn: float | None = 0.0,
    spare: int = 1,
    correlation: Correlation = "none",
    cross_checks: bool = True,
) -> EpsilonReport:
    """Epsilon of a run before it is run.

    Args:
        sampling: See `Plan`, like all that is not named here.
        noise_multiplier: See `Plan`.
        rounds: See `Plan`.
        delta: Probability in (0, 1) with which the promise may fail.
        unit: See `Plan`.
        observer: See `Plan`.
        placement: See `Plan`.
        slots: See `Plan`.
        views: See `Plan`.
        turn: See `Plan`.
        spare: See `Plan`.
        correlation: See `Plan`.
        cross_checks: Ask other accountants too, where they apply.

    Raises:
        ConfigError: The plan makes no sense; see `Plan`.
        UnsupportedRelease: No accountant here can judge it.
    """
    plan = Plan(
        sampling=sampling, noise_multiplier=noise_multiplier, rounds=rounds, unit=unit, observer=observer,
        placement=placement, slots=tuple(slots), views=views, turn=turn, spare=spare,
        correlation=correlation,
    )  # fmt: skip
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
    views: Views | None = None,
    turn: float | None = 0.0,
    spare: int = 1,
    draw_known_to: DrawKnownTo | None = None,
    group: int = 1,
    correlation: Correlation = "none",
) -> Plan:
    """The plan with the least noise multiplier, to five digits rounded up, whose epsilon is at most `epsilon`.

    Args:
        epsilon: The target, positive.
        delta: Probability in (0, 1) with which the promise may fail.
        sampling: See `Plan`, like all that follows.
        rounds: See `Plan`.
        unit: See `Plan`.
        observer: See `Plan`.
        placement: See `Plan`.
        slots: See `Plan`.
        views: See `Plan`.
        turn: See `Plan`.
        spare: See `Plan`.
        draw_known_to: See `Plan`.
        group: See `Plan`.
        correlation: See `Plan`.

    Raises:
        ConfigError: More than 10^5 would be needed, the target is so large that 0.05 is enough, or no noise helps,
            because the observer sees the sum before it.
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
            views=views,
            turn=turn,
            spare=spare,
            draw_known_to=draw_known_to,
            group=group,
            correlation=correlation,
        )

    _check_finite(plan(1.0), delta)
    low, high = _bracket(lambda z: plan(z).epsilon(delta, quick=True), epsilon)
    unit_step = 10.0 ** (math.floor(math.log10(high)) - 4)

    def cost(steps: int, quick: bool) -> float:
        return plan(steps * unit_step).epsilon(delta, quick=quick)

    steps = min_root(cost, epsilon, math.floor(low / unit_step), math.ceil(high / unit_step))
    return plan(float(f"{steps * unit_step:.5g}"))


def max_rounds(*, epsilon: float, delta: float, plan: Plan) -> int:
    """The most rounds for which `plan` (its own number is not used) stays within `epsilon`; 0 if one is too many.

    Args:
        epsilon: The budget, positive.
        delta: Probability in (0, 1) with which the promise may fail.
        plan: The run; its number of rounds is not used.

    Raises:
        ConfigError: 2^24 rounds stay within the budget, or the observer sees the sum before its noise.
    """
    check_positive("epsilon", epsilon)
    _check_finite(plan, delta)

    def cost(minus: int, quick: bool) -> float:
        return replace(plan, rounds=-minus).epsilon(delta, quick=quick)

    if cost(-1, False) > epsilon:
        return 0
    top = 2
    while cost(-top, True) <= clearly_above(epsilon):
        if top >= MAX_ROUNDS:
            raise ConfigError(f"{MAX_ROUNDS} rounds stay within epsilon {epsilon:g}: ask for less noise")
        top *= 4
    return -min_root(cost, epsilon, -top, -1)


def min_population(
    *, epsilon: float, delta: float, plan: Plan, sampling_of: Callable[[int], Sampling], minimum: int
) -> int:
    """The smallest population, at least `minimum`, for which `plan` stays within `epsilon`.

    Args:
        epsilon: The budget, positive.
        delta: Probability in (0, 1) with which the promise may fail.
        plan: The run; its sampling is not used.
        sampling_of: The sampling of a population, such as `lambda n: Poisson(cohort / n)`.
        minimum: Where the search starts, at least 1.

    Raises:
        ConfigError: Even 2^40 are too few, or the observer sees the sum before its noise.
    """
    check_positive("epsilon", epsilon)
    check_count("minimum", minimum)
    _check_finite(plan, delta)

    def cost(population: int, quick: bool) -> float:
        return replace(plan, sampling=sampling_of(population)).epsilon(delta, quick=quick)

    if cost(minimum, False) <= epsilon:
        return minimum
    low, top = minimum, 2 * minimum
    while (value := cost(top, True)) > epsilon:
        if top >= MAX_POPULATION:
            raise ConfigError(f"no population is large enough for epsilon {epsilon:g}: add noise or run fewer rounds")
        low, top = top if value > clearly_above(epsilon) else low, 4 * top
    return min_root(cost, epsilon, low, top)


def over_rounds(plan: Plan, delta: float, rounds: Iterable[int]) -> list[tuple[int, float]]:
    """Points (rounds, epsilon) for a plot.

    Args:
        plan: The run; its number of rounds is not used.
        delta: Probability in (0, 1) with which the promise may fail.
        rounds: The numbers of rounds to ask about.
    """
    return [(n, replace(plan, rounds=n).epsilon(delta, quick=True)) for n in rounds]


def over_delta(plan: Plan, deltas: Iterable[float]) -> list[tuple[float, float]]:
    """Points (delta, epsilon) for a plot.

    Args:
        plan: The run.
        deltas: The deltas to ask about, each in (0, 1).
    """
    return [(delta, plan.epsilon(delta, quick=True)) for delta in deltas]


def default_delta(population: int) -> tuple[float, str]:
    """Return a delta for `population` units, and the reason for it: min(1e-5, 1/population^1.1).

    Delta is the probability of a failure that may reveal anything about a unit, so it has to be well below one divided
    by the number of units. A value below 1e-5 is rounded down to two significant digits.
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
    while cost(z) <= clearly_above(epsilon):
        z /= 2.0
        if z < MIN_NOISE:
            raise ConfigError(f"epsilon {epsilon:g} is no constraint: a noise multiplier of {2 * z:g} is enough")
    return z, high


def _check_finite(plan: Plan, delta: float) -> None:
    report = replace(plan, rounds=1).report(delta, cross_checks=False)
    if math.isinf(report.epsilon):
        raise ConfigError(
            f"no noise keeps epsilon finite against the {named(plan.observer)} ({report.caveats[0]}): choose "
            "another placement of the noise, another sum, or the outsider"
        )
