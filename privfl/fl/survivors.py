"""The rule for survivors of a round, and its meaning for noise shares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from privfl.checks import unwrap_numpy
from privfl.dp import Mechanism
from privfl.dp.unit import Everyone, Sampling
from privfl.errors import ConfigError
from privfl.sums import SecureSum

_MAX_EXACT_SIZES: Final = 128
_SPREADS: Final[dict[Any, float]] = {}


@dataclass(frozen=True, slots=True)
class SurvivorRule:
    """The fewest survivors that a round asks for, by the size of its cohort.

    Attributes:
        fraction: The fraction of a cohort that must survive, in [0, 1]; the count is rounded up.
        floor: The fewest survivors for a cohort of any size. With a fraction of 0 and a floor of 0 every sum opens.

    Raises:
        ConfigError: If a value is out of range.
    """

    fraction: float = 0.5
    floor: int = 1

    def __post_init__(self) -> None:
        unwrap_numpy(self, "fraction", "floor")
        if not 0 <= self.fraction <= 1:
            raise ConfigError(f"the fraction of survivors must be in [0, 1], not {self.fraction!r}")
        if type(self.floor) is not int or self.floor < 0:
            raise ConfigError(f"the floor of survivors must be an integer of at least 0, not {self.floor!r}")

    def of(self, size: int) -> int:
        """The fewest survivors that are asked for in a cohort of `size` clients."""
        return max(self.floor, math.ceil(self.fraction * size))

    def opened(self, scheme: SecureSum, size: int) -> int:
        """Return the fewest vectors that the sum opens under this rule; size + 1 if it never opens.

        Args:
            scheme: The sum.
            size: The size of the cohort.
        """
        if self.of(size) > size:
            return size + 1
        try:
            return scheme.min_survivors_of(size, self.of(size))
        except ConfigError:
            return size + 1

    def shortfall(self, scheme: SecureSum, size: int, dropout: float | None) -> float | None:
        """A bound on the probability that a cohort of `size` opens nothing.

        Args:
            scheme: The sum.
            size: The number of clients that were sampled.
            dropout: The probability that one client drops out, independently of all others; None if not known.

        Returns:
            The bound of `SecureSum.shortfall`; None where there is none.
        """
        return None if dropout is None else scheme.shortfall(size, dropout, min_survivors=self.of(size))


def cohort_sizes(sampling: Sampling, population: int, size: int) -> range:
    """Return the sizes of cohorts whose noise must be indistinguishable from that of a cohort of `size`.

    Amplification by sampling needs noise that reveals nothing of the cohort, so there it is every size that can be
    sampled. Where anybody may know the cohort it is its own size.

    Args:
        sampling: The sampling of the cohort.
        population: The number of clients.
        size: The size of the cohort.
    """
    return range(size, size + 1) if isinstance(sampling, Everyone) else sampling.sizes(population)


def nominal_cohort(sampling: Sampling, population: int) -> tuple[int, ...]:
    """Return a cohort that the sampling can produce, for questions about a round before anybody is sampled.

    Args:
        sampling: The sampling of the cohort.
        population: The number of clients.
    """
    size = population if isinstance(sampling, Everyone) else max(1, min(sampling.sizes(population)))
    return tuple(range(size))


def noise_spread(mechanism: Mechanism, rule: SurvivorRule, scheme: SecureSum, sizes: range) -> float:
    """The variance of all noise shares of a cohort divided by the declared variance, for cohorts of any of `sizes`.

    Above 128 possible sizes the rule alone is asked for the larger ones. The sum never opens fewer vectors than the
    rule demands, so the noise can only be larger than needed.

    Args:
        mechanism: The noise.
        rule: The fewest survivors of a round.
        scheme: The sum, which may need more survivors than the rule.
        sizes: The sizes that a cohort can have, from `cohort_sizes`.

    Raises:
        ConfigError: If in some cohort that opens no noise share would count.
    """
    if mechanism.placement != "distributed":
        return 1.0
    parameters = tuple(sorted(scheme.parameters.items()))
    key = (mechanism.colluders, rule, sizes, scheme.name, parameters)
    if key not in _SPREADS:
        exact = len(sizes) <= _MAX_EXACT_SIZES

        def opened(size: int) -> int:
            return rule.opened(scheme, size) if exact or size <= _MAX_EXACT_SIZES else rule.of(size)

        if len(_SPREADS) >= 256:
            _SPREADS.clear()
        _SPREADS[key] = mechanism.spread((size for size in sizes if size), opened)
    return _SPREADS[key]
