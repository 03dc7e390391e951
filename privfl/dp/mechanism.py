"""One mechanism, three places for its noise: on the opened sum, in shares inside the sum, or whole at each client.

All noise is integer noise between encoding and decoding. `Mechanism` says what is wanted in real terms; `plan` turns
it, for one codec and cohort, into integer terms: a `NoisePlan`, which adds the noise and writes the releases.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, get_args

import numpy as np

from privfl.checks import check_choice, check_count, check_positive
from privfl.codec import NOISE_DEVIATIONS
from privfl.dp.noise.discrete_gaussian import discrete_gaussian
from privfl.dp.noise.sampler import Entropy, rounded_gaussian, seeded_entropy
from privfl.dp.noise.skellam import skellam, skellam_reach
from privfl.dp.release import PLACEMENTS, Law, Placement, Release
from privfl.dp.slots import Slot, l1_bound, norm_bound
from privfl.dp.unit import Sampling
from privfl.errors import ConfigError, LocalProtocolError, PrivacyError
from privfl.observers import Views
from privfl.ring import Ints
from privfl.wire import ClientId

NoiseSource = Literal["secure", "simulation"]
SOURCES: Final[tuple[NoiseSource, ...]] = get_args(NoiseSource)

_UP: Final = 1 + 2.0**-40  # so that shares reach the declared noise in spite of rounding

Opening = Callable[[Ints, frozenset[ClientId]], Ints]
"""What happens to the sum where it is opened (the same shape as privfl.sums.Opening)."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """Noise of deviation noise_multiplier times the norm bound of one contribution, at `placement`.

    `central`: rounded Gaussian noise where the sum is opened. `distributed`: Skellam shares inside the sum, sized so
    that `least survivors - 1 - colluders` of them reach the declared noise: an observer subtracts its own share, and
    the `colluders` theirs. All shares of a cohort together have one variance, whatever its size, and the opener puts
    the shares of those who fell silent back: so the noise that an outsider meets tells nothing of the cohort, on which
    amplification by sampling rests (protocols/privacy-ledger, section 7). `local`: each contribution carries the
    whole noise. `none`: no noise and no claim.
    `discrete`: central and local noise is discrete Gaussian (Canonne et al. 2020), whose accounting is looser.
    `source`: "secure" noise comes from the operating system's generator and never repeats; "simulation" noise is
    reproducible, and its figure is only "epsilon if the noise were secure".
    """

    placement: Placement
    noise_multiplier: float = 0.0
    source: NoiseSource = "secure"
    colluders: int = 0
    discrete: bool = False

    def __post_init__(self) -> None:
        check_choice("placement", self.placement, PLACEMENTS)
        check_choice("source", self.source, SOURCES)
        if self.discrete and self.placement not in ("central", "local"):
            raise ConfigError(f"the discrete Gaussian is for central and local noise, not {self.placement!r}")
        if self.placement == "none":
            if self.noise_multiplier != 0:
                raise ConfigError(f"placement 'none' has a noise_multiplier of 0, not {self.noise_multiplier!r}")
        else:
            check_positive("noise_multiplier", self.noise_multiplier)
        if not isinstance(self.colluders, int) or self.colluders < 0:
            raise ConfigError(f"colluders must be an integer of at least 0, not {self.colluders!r}")

    def plan(
        self, slots: Sequence[Slot], *, cohort: int, min_survivors: int, survivor_share: float | None = None
    ) -> NoisePlan:
        """This mechanism in integer units, for contributions made of `slots`, and cohorts of up to `cohort`.

        Of a cohort of k, max(`min_survivors`, ceil(`survivor_share` k)) must survive; without a share it is
        min_survivors/cohort. Raises `ConfigError` when no share would be left beside those of the observer and the
        colluders.
        """
        check_count("cohort", cohort)
        check_count("min_survivors", min_survivors)
        if min_survivors > cohort:
            raise ConfigError(f"min_survivors must be at most the cohort of {cohort}, not {min_survivors}")
        counted = min_survivors - 1 - self.colluders
        if self.placement == "distributed" and counted < 1:
            raise ConfigError(
                f"distributed noise needs at least {self.colluders + 2} survivors with {self.colluders} colluders, "
                f"not {min_survivors}"
            )
        spread = 1.0
        if self.placement == "distributed":
            spread = self._spread(cohort, min_survivors, survivor_share or min_survivors / cohort)
        return NoisePlan(self, tuple(slots), cohort, spread, cohort)

    def _spread(self, cohort: int, least: int, share: float) -> float:
        """Variance of all shares over the declared: the most that k shares are over those that count, of any k."""
        if not 0 < share <= 1:
            raise ConfigError(f"survivor_share must be in (0, 1], not {share!r}")
        sizes = np.arange(least, cohort + 1, dtype=np.float64)
        counted = np.maximum(least, np.ceil(share * sizes)) - 1 - self.colluders
        return float((sizes / counted).max())


@dataclass(frozen=True, slots=True)
class NoisePlan:
    """A mechanism in integer units, made by `Mechanism.plan`, for a cohort of `drawn` clients (at most `cohort`).

    `spread`: variance of all shares of distributed noise together, over the declared one.
    """

    mechanism: Mechanism
    slots: tuple[Slot, ...]
    cohort: int
    spread: float
    drawn: int

    def for_cohort(self, drawn: int) -> NoisePlan:
        """This plan for a round whose cohort has `drawn` clients; only shares of distributed noise depend on it."""
        if not 0 <= drawn <= self.cohort:
            raise PrivacyError(f"the plan is for a cohort of at most {self.cohort}, not {drawn}")
        return replace(self, drawn=max(1, drawn)) if self.mechanism.placement == "distributed" else self

    @property
    def length(self) -> int:
        """Entries of the vector, all blocks."""
        return sum(s.length for s in self.slots)

    @property
    def norm_bound(self) -> float:
        """l2 norm bound (integer units) of one contribution before noise."""
        return norm_bound(self.slots)

    @property
    def noise_stddev(self) -> float:
        """Declared deviation (integer units): of the sum's noise, or of each contribution's when local; 0 for none."""
        return self.mechanism.noise_multiplier * self.norm_bound

    @property
    def share_stddev(self) -> float:
        """Deviation (integer units) of what one client adds; 0 when central or none."""
        if self.mechanism.placement == "distributed":
            return self.noise_stddev * math.sqrt(self.spread / self.drawn) * _UP
        return self.noise_stddev if self.mechanism.placement == "local" else 0.0

    @property
    def total_stddev(self) -> float:
        """Largest deviation (integer units) of the noise in the opened sum, for capacity checks."""
        placement = self.mechanism.placement
        return self.noise_stddev if placement == "central" else self.share_stddev * math.sqrt(self.drawn)

    @property
    def law(self) -> Law:
        """The law of the noise."""
        placement = self.mechanism.placement
        if placement == "none":
            return "none"
        if placement == "distributed":
            return "skellam"
        return "discrete_gaussian" if self.mechanism.discrete else "rounded_gaussian"

    @property
    def entry_bound(self) -> int:
        """What no entry of a contribution exceeds, noise included, but for a probability below 2^-128.

        For `SumTask.bound`. The entry of a clipped block is at most its norm bound; noise is given 20 deviations.
        """
        return max(math.floor(s.norm_bound) for s in self.slots) + self.noise_reach

    @property
    def noise_reach(self) -> int:
        """What no entry of a client's own noise exceeds, but for a probability below 2^-128; 0 when it adds none."""
        placement = self.mechanism.placement
        if placement == "distributed":
            return skellam_reach(self.share_stddev**2)
        return math.ceil(NOISE_DEVIATIONS * self.share_stddev) + 1 if placement == "local" else 0

    def contribute(self, ints: Ints, *, entropy: Entropy | None = None, key: tuple[int, ...] | None = None) -> Ints:
        """Step 4 of a round, at the client: int64 `[length]` -> int64 `[length]`, with this client's noise if any.

        Secure noise takes `entropy` (by default the operating system's). Simulation noise takes `key`, non-negative
        integers such as (seed, round, client), which must never repeat.
        """
        self._check_length(ints)
        if self.mechanism.placement in ("none", "central"):
            return ints
        source = self._entropy(entropy, key)
        if self.mechanism.placement == "distributed":
            noise = skellam(self.share_stddev**2, self.length, entropy=source)
        else:
            noise = self._gaussian(source)
        noisy: Ints = ints + noise
        return noisy

    def opening(self, *, entropy: Entropy | None = None, key: tuple[int, ...] | None = None) -> Opening:
        """Step 8 of a round, where the sum is opened: adds central noise, or the shares of those who fell silent, or
        nothing. It runs once; see `contribute`.

        The shares that it puts back count for outsiders only, since the opener knows them. A second call raises
        `LocalProtocolError`: two openings of one sum with different noise tell more than one.
        """
        adds = self.mechanism.placement in ("central", "distributed")
        source = self._entropy(entropy, key) if adds else os.urandom
        return _OpenerNoise(self, source)

    def worst_case(
        self,
        *,
        round: int,
        attempt: int = 0,
        sampling: Sampling,
        views: Views,
        cohort: Iterable[ClientId],
    ) -> Release:
        """What is to be reserved before a client is asked: declared noise, and all of the cohort took part."""
        participants = tuple(sorted(cohort))
        if len(participants) > self.cohort:
            raise PrivacyError(f"the plan is for a cohort of at most {self.cohort}, not {len(participants)}")
        return self._release(
            self.noise_stddev,
            participants,
            round=round,
            attempt=attempt,
            sampling=sampling,
            views=views,
        )

    def release(
        self,
        *,
        round: int,
        attempt: int = 0,
        sampling: Sampling,
        views: Views,
        survivors: Iterable[ClientId],
    ) -> Release:
        """What is to be settled after the opening. Raises `PrivacyError` when the surviving noise is below declared."""
        participants = tuple(sorted(survivors))
        return self._release(
            self.realized_stddev(len(participants)),
            participants,
            round=round,
            attempt=attempt,
            sampling=sampling,
            views=views,
        )

    def realized_stddev(self, survivors: int) -> float:
        """Deviation (integer units) of the noise that counts when `survivors` vectors are in the sum."""
        if self.mechanism.placement != "distributed":
            return self.noise_stddev
        counted = survivors - 1 - self.mechanism.colluders
        return self.share_stddev * math.sqrt(max(counted, 0))

    def _release(
        self,
        realized: float,
        participants: tuple[ClientId, ...],
        *,
        round: int,
        attempt: int,
        sampling: Sampling,
        views: Views,
    ) -> Release:
        if self.mechanism.placement != "none" and realized < self.noise_stddev:
            raise PrivacyError(
                f"the surviving noise has deviation {realized:.6g}, and {self.noise_stddev:.6g} was declared: no "
                "epsilon can be claimed"
            )
        return Release(
            round=round,
            attempt=attempt,
            placement=self.mechanism.placement,
            law=self.law,
            secure=self.mechanism.source == "secure",
            declared_stddev=self.noise_stddev,
            realized_stddev=realized,
            norm_bound=self.norm_bound,
            l1_bound=l1_bound(self.slots) if self.law == "skellam" else None,
            length=self.length,
            sampling=sampling,
            views=views,
            participants=participants,
        )

    def _gaussian(self, entropy: Entropy) -> Ints:
        draw = discrete_gaussian if self.mechanism.discrete else rounded_gaussian
        return draw(self.noise_stddev, self.length, entropy=entropy)

    def _check_length(self, ints: Ints) -> None:
        if ints.shape != (self.length,):
            raise ConfigError(f"the blocks have {self.length} entries together, not {ints.shape}")

    def _entropy(self, entropy: Entropy | None, key: tuple[int, ...] | None) -> Entropy:
        if self.mechanism.source == "secure":
            if key is not None:
                raise ConfigError("secure noise takes no key: whoever knows the key can subtract the noise")
            return os.urandom if entropy is None else entropy
        if key is None or entropy is not None:
            raise ConfigError("simulation noise takes a key such as (seed, round, client), and no entropy")
        return seeded_entropy(*key)


@dataclass(slots=True)
class _OpenerNoise:
    plan: NoisePlan
    entropy: Entropy = field(repr=False)
    used: bool = False

    def __call__(self, total: Ints, survivors: frozenset[ClientId]) -> Ints:
        if self.used:
            raise LocalProtocolError("this sum was opened before; a second opening must be charged as a further one")
        self.used = True
        plan = self.plan
        plan._check_length(total)
        noise = None
        if plan.mechanism.placement == "central":
            noise = plan._gaussian(self.entropy)
        elif plan.mechanism.placement == "distributed" and len(survivors) < plan.drawn:
            missing = plan.drawn - len(survivors)
            noise = skellam(plan.share_stddev**2 * missing, plan.length, entropy=self.entropy)
        if noise is None:
            return total
        noisy: Ints = total + noise
        return noisy
