"""The rule for survivors of a round, and its meaning for the noise that clients add inside the sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from privfl.checks import unwrap_numpy
from privfl.dp import Mechanism, RoundNoise
from privfl.dp.mesh import MeshNoise
from privfl.dp.slots import Slot
from privfl.dp.unit import Everyone, Sampling
from privfl.errors import ConfigError
from privfl.sums import SecureSum

_MAX_EXACT_SIZES: Final = 128
_SPREADS: Final[dict[Any, float]] = {}
_UP: Final = 1 + 2.0**-40  # above all rounding, so noise reaches what was declared


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

    def shortfall(
        self, scheme: SecureSum, size: int, dropout: float | None, mechanism: Mechanism | None = None
    ) -> float | None:
        """A bound on the probability that a cohort of `size` opens nothing.

        Args:
            scheme: The sum.
            size: The number of clients that were sampled.
            dropout: The probability that one client drops out, independently of all others; None if not known.
            mechanism: The noise, which may ask for members of its own; None asks for none.

        Returns:
            The bound of `SecureSum.shortfall`; None where there is none.
        """
        if dropout is None or (mechanism is not None and not mesh_is_certain(mechanism, self, scheme, size)):
            return None
        return scheme.shortfall(size, dropout, min_survivors=self.of(size))


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
    if isinstance(sampling, Everyone):
        size = max(sampling.sizes(population))
    else:
        size = max(1, min(sampling.sizes(population)))
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


def round_noise(
    mechanism: Mechanism,
    slots: Sequence[Slot],
    size: int,
    *,
    rule: SurvivorRule,
    scheme: SecureSum,
    sampling: Sampling,
    population: int,
    key: tuple[int, ...] = (),
) -> RoundNoise:
    """The noise of a round in integer units, sized for what the sum can open.

    Args:
        mechanism: The noise in real terms.
        slots: The blocks of the summed vector.
        size: The size of the cohort.
        rule: The fewest survivors of a round.
        scheme: The sum.
        sampling: The sampling of the cohort.
        population: The number of clients.
        key: The start of the key of simulation noise that the sum adds, such as (seed, round).

    Raises:
        ConfigError: If no cohort that opens has noise that counts, or the sum cannot add noise of this placement.
    """
    sizes = cohort_sizes(sampling, population, size)
    noise = RoundNoise(mechanism, tuple(slots), size, noise_spread(mechanism, rule, scheme, sizes))
    if mechanism.placement != "mesh":
        return noise
    if not getattr(scheme, "roster_noise", False):
        raise ConfigError(
            f"privacy.placement = 'mesh' needs a sum whose clients know the roster, and {scheme.name} gives them none: "
            "set sum.scheme = 'masked', or choose 'distributed' or 'central'"
        )
    constant = 0.0 if isinstance(sampling, Everyone) else _mesh_constant(mechanism, rule, scheme, sizes)
    mesh = mesh_of(mechanism, rule, scheme, size, len(sizes))
    if mesh is None:
        return noise
    variance = noise.noise_stddev**2 * _UP
    seeded = key if mechanism.source == "simulation" else None
    return replace(noise, mesh=replace(mesh, variance=variance, constant=constant * variance * _UP, key=seeded))


def mesh_of(mechanism: Mechanism, rule: SurvivorRule, scheme: SecureSum, size: int, sizes: int) -> MeshNoise | None:
    """Mesh noise of variance 1 for a cohort, or None where its sum never opens.

    Of any list of survivors that the sum opens, at least members - (size - opened) are members. A mechanism that asks
    for more has its sums refused by every client until that many are there.

    Args:
        mechanism: The noise.
        rule: The fewest survivors of a round.
        scheme: The sum.
        size: The size of the cohort.
        sizes: How many sizes a cohort can have. Above 128 the rule alone is asked for large cohorts.

    Raises:
        ConfigError: If the sum of such a cohort opens and no noise would count, or it needs more members to open than
            the mechanism states.
    """
    members, certain = _members(mechanism, rule, scheme, size, sizes)
    wanted = mechanism.min_members_to_open
    if certain > members or max(wanted, certain) > members:
        return None
    if 0 < wanted < certain and sizes == 1:
        raise ConfigError(
            f"privacy.min_members_to_open = {wanted} is below the {certain} members that any opened sum of {size} "
            f"clients has ({scheme.name} needs that many vectors): set it to {certain} or more, or leave it out"
        )
    opened = max(wanted, certain)
    if opened <= mechanism.spare or members < 2:
        raise ConfigError(
            f"mesh noise with spare = {mechanism.spare} needs a sum that opens at least {mechanism.spare + 1} of 2 or "
            f"more members; of {size} clients this one opens {max(opened, 0)} of {members}. Raise "
            "cohort.min_survivor_fraction or privacy.min_members_to_open, or lower privacy.spare"
        )
    return MeshNoise(1.0, members, mechanism.spare, opened)


def _members(mechanism: Mechanism, rule: SurvivorRule, scheme: SecureSum, size: int, sizes: int) -> tuple[int, int]:
    """The members of a cohort, and how many of them any opened sum has; more than the members if none opens."""
    members = min(mechanism.members or size, size)
    exact = sizes <= _MAX_EXACT_SIZES or size <= _MAX_EXACT_SIZES
    opened = rule.opened(scheme, size) if exact else rule.of(size)
    return members, members + 1 if opened > size else members - (size - opened)


def mesh_is_certain(mechanism: Mechanism, rule: SurvivorRule, scheme: SecureSum, size: int) -> bool:
    """True if every sum that the rule and the scheme open has the members that the mechanism asks for.

    Args:
        mechanism: The noise.
        rule: The fewest survivors of a round.
        scheme: The sum.
        size: The size of the cohort.
    """
    return mechanism.min_members_to_open <= max(0, _members(mechanism, rule, scheme, size, 1)[1])


def _mesh_constant(mechanism: Mechanism, rule: SurvivorRule, scheme: SecureSum, sizes: range) -> float:
    """The variance to which the server fills up mesh noise where cohorts are sampled, divided by the declared one.

    It is the largest that any opened sum of any cohort has. The noise then has one law, however many were sampled or
    stayed.
    """
    key = (mechanism, rule, sizes, scheme.name, tuple(sorted(scheme.parameters.items())))
    if key not in _SPREADS:
        meshes = (mesh_of(mechanism, rule, scheme, size, len(sizes)) for size in sizes if size)
        found = max((mesh.max_variance(mesh.members) for mesh in meshes if mesh is not None), default=0.0)
        if not found:
            raise ConfigError("no cohort that the sampling declares has enough clients for the sum to open")
        _SPREADS[key] = found
    return _SPREADS[key]


def check_some_open(rule: SurvivorRule, scheme: SecureSum, sampling: Sampling, population: int) -> None:
    """Refuse a run in which no cohort that the sampling can produce is large enough for the sum to open.

    Args:
        rule: The fewest survivors that a round asks for.
        scheme: The sum.
        sampling: How cohorts are sampled.
        population: The number of clients that exist.

    Raises:
        ConfigError: If no round can open.
    """
    sizes = sampling.sizes(population)
    top = max(sizes)
    if any(rule.opened(scheme, size) <= size for size in reversed(sizes)):
        return
    opened = scheme.min_survivors_of(top, min(rule.of(top), top))  # raises with the sum's own reason
    raise ConfigError(
        f"no round can open: at least {max(opened, rule.of(top))} of the {top} clients of the largest cohort must "
        "survive. Lower cohort.min_survivor_fraction, or ask more clients"
    )
