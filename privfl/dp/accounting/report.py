"""An epsilon with all that it rests on, and in plain words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any, Final

from privfl.dp.unit import PrivacyUnit
from privfl.errors import ConfigError, UnsupportedRelease
from privfl.observers import Observer

if TYPE_CHECKING:
    from privfl.dp.accounting.curves import PrivacyCurve

Points = list[tuple[float, float]]

_MAX_USEFUL: Final = 20.0
"""The epsilon above which a report says that it protects nobody in practice."""

_AGAINST: Final[Mapping[Observer, str]] = {
    "outsider": "somebody who sees the released models but not who took part in which round",
    "participant": "another participant, who sees the models, knows who took part, and knows its own noise",
    "server": "the server, which also sees the traffic and any sum it opens",
    "key_holder": "the key holder, who opens the sum",
}
_NEIGHBORS: Final[Mapping[str, str]] = {
    "add_remove": "took part or not",
    "replace_one": "had these data or any other",
    "zero_out": "contributed or sent zeros",
}


def format_epsilon(epsilon: float, digits: int = 4) -> str:
    """Epsilon in text, always rounded up: what is printed is never below what was computed.

    Args:
        epsilon: The figure; infinity is written out.
        digits: Decimals.
    """
    if math.isinf(epsilon):
        return "infinity"
    return str(Decimal(epsilon).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING))


def delta_caveat(delta: float, population: int) -> str:
    """A sentence on a delta that is too large to mean anything, or an empty string for a delta below 1/population.

    Args:
        delta: The delta of a claim, in (0, 1).
        population: The number of units, at least 1.
    """
    if delta * population < 1:
        return ""
    return f"delta {delta:g} is not below 1/{population}: publishing the data of a random unit keeps this promise"


def check_small_delta(delta: float, population: int, *, setting: str, flag: str) -> None:
    """Refuse a delta that one unit in `population` would use up.

    Args:
        delta: The delta of a claim.
        population: The number of units.
        setting: The name of the setting or option that holds the delta; the error shows it.
        flag: The option that allows such a delta; the error shows it.

    Raises:
        ConfigError: If the delta is at least 1/population.
    """
    caveat = delta_caveat(delta, population)
    if caveat:
        raise ConfigError(f"{caveat}. Set {setting} below {1 / population:g}, or {flag} if that is meant")


ALPHAS: Final = tuple(n / 100 for n in range(101))
"""The false positive rates of a trade-off curve, unless others are asked for."""


@dataclass(frozen=True, slots=True)
class EpsilonReport:
    """Epsilon at one delta for one unit against one observer.

    Attributes:
        epsilon: The figure, an upper bound; infinite where nothing is promised.
        delta: Probability with which the promise may fail.
        accountant: What computed the figure.
        unit: The unit that is promised.
        sampling: How cohorts were sampled as far as it counts, in words.
        observer: The observer against which the promise holds.
        rounds: Rounds of clients, or steps over examples.
        secure: False when some noise was not from a cryptographic stream. The figure is then only what it would be if
            the noise were secure, and `label` says so.
        cross_checks: Other accountants' figures by name, each an upper bound of its own.
        caveats: Assumptions in words.
        group: How many units change together.
        curve: Makes the curve behind the figure: the promise of the same releases at every epsilon. None where the
            report was made without one.
    """

    epsilon: float
    delta: float
    accountant: str
    unit: PrivacyUnit
    sampling: str
    observer: Observer
    rounds: int
    secure: bool = True
    cross_checks: Mapping[str, float] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    group: int = 1
    curve: Callable[[], PrivacyCurve] | None = field(default=None, repr=False, compare=False)

    def profile(self, epsilons: Iterable[float] | None = None) -> Points:
        """(epsilon, delta) points, each an upper bound; by default 61 from 0 to 1.5 times the figure.

        Raises:
            ConfigError: A negative epsilon, or a report without a curve.
        """
        top = 1.5 * self.epsilon if math.isfinite(self.epsilon) and self.epsilon > 0 else 1.0
        return self._curve().profile([top * n / 60 for n in range(61)] if epsilons is None else epsilons)

    def tradeoff(self, alphas: Iterable[float] | None = None) -> Points:
        """(alpha, beta) points: a test of false positive rate alpha misses at least beta; by default 101 alphas.

        Raises:
            ConfigError: An alpha outside [0, 1], or a report without a curve.
        """
        return self._curve().tradeoff(ALPHAS if alphas is None else alphas)

    @property
    def advantage(self) -> float:
        """The most by which a test's true positive rate exceeds its false positive rate."""
        return self._curve().advantage

    def bayes_risk(self, prior: float = 0.5) -> float:
        """The least probability of error of any guess whether the unit is present.

        Args:
            prior: The probability in (0, 1), before the release, that it is.
        """
        return self._curve().bayes_risk(prior)

    def posterior_odds(self, prior: float) -> tuple[float, float]:
        """The least and the greatest odds of presence after the release, each except with probability `delta`.

        They bound the privacy loss itself, so the greatest is above e^epsilon times the odds of the prior.

        Args:
            prior: The probability in (0, 1), before the release, that the unit is present.
        """
        return self._curve().posterior_odds(prior, self.delta)

    def _curve(self) -> PrivacyCurve:
        if self.curve is None:
            raise ConfigError("this report has no curve: ask privfl.dp.epsilon(...) or Plan.report(...) for one")
        return self.curve()

    @property
    def label(self) -> str:
        """The name of the figure."""
        return "epsilon" if self.secure else "epsilon if the noise were secure"

    def __str__(self) -> str:
        return f"{self.label} {format_epsilon(self.epsilon)} at delta {self.delta:g}"

    @property
    def sentence(self) -> str:
        """The promise of the number, and the observer against whom it holds."""
        against = f"{_AGAINST[self.observer]}"
        if math.isinf(self.epsilon):
            return f"Nothing is promised against {against}: {self.caveats[0] if self.caveats else 'no noise'}."
        who = "client (with all its data)" if self.unit.level == "client" else "example of the data"
        if self.group > 1:
            who = f"group of {self.group} {self.unit.level}s"
        wrong = self.guess + (", which is no protection in practice" if self.epsilon > _MAX_USEFUL else "")
        promise = f"Against {against}: a guess whether any single {who} {_NEIGHBORS[self.unit.adjacency]} {wrong}"
        return promise + ("." if self.secure else " - if the noise were secure, which it is not in this run.")

    @property
    def guess(self) -> str:
        """The promise as the errors of a guess between two equally likely neighbors, for a sentence about that guess.

        The errors come from the curve where it is known. Otherwise they are those that epsilon and delta imply.
        """
        try:
            risk = self.bayes_risk()
        except (ConfigError, UnsupportedRelease):
            risk = (1 - self.delta) / (1 + math.exp(min(self.epsilon, 700)))
        errors = math.floor(100 * risk)
        few = f"at least {errors} of 100 cases" if errors else "possibly less than 1 of 100 cases"
        return f"is wrong in {few}; a coin is wrong in 50"

    def as_dict(self) -> dict[str, Any]:
        """The report for `--json`; an infinite epsilon is the string "infinity".

        Without secure noise there is no key `epsilon`: the figure stands under `epsilon_if_the_noise_were_secure`.
        """
        name = "epsilon" if self.secure else "epsilon_if_the_noise_were_secure"
        return {
            name: json_figure(self.epsilon),
            "delta": self.delta,
            "accountant": self.accountant,
            "unit": self.unit.level,
            "adjacency": self.unit.adjacency,
            "sampling": self.sampling,
            "observer": self.observer,
            "rounds": self.rounds,
            "group": self.group,
            "cross_checks": {key: json_figure(value) for key, value in self.cross_checks.items()},
            "caveats": list(self.caveats),
            "sentence": self.sentence,
        }


def json_figure(value: float) -> float | str:
    """An epsilon for `--json`: the figure, or "infinity"."""
    return "infinity" if math.isinf(value) else value
