"""One mechanism, four placements of its noise: on the opened sum, inside it in two ways, or at each client.

All noise is integer noise between encoding and decoding. `Mechanism` states it in real terms. `RoundNoise` is the same
in the integer units of one round: it samples the noise and writes the releases. A `RoundPlan` derives it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from privfl.checks import check_choice, check_positive, unwrap_numpy
from privfl.codec import NOISE_DEVIATIONS
from privfl.dp.mesh import MeshNoise
from privfl.dp.noise.discrete_gaussian import discrete_gaussian
from privfl.dp.noise.sampler import Entropy, rounded_gaussian, seeded_entropy
from privfl.dp.noise.skellam import skellam, skellam_reach
from privfl.dp.noise.toeplitz import MAX_GROWTH
from privfl.dp.release import CORRELATIONS, PLACEMENTS, SHARED, Correlation, DrawKnownTo, Law, Placement, Release
from privfl.dp.slots import Slot, l1_bound, norm_bound
from privfl.dp.unit import Sampling
from privfl.errors import ConfigError, LocalProtocolError
from privfl.observers import Views
from privfl.ring import Ints, Opening
from privfl.wire import ClientId

NoiseSource = Literal["secure", "simulation"]
SOURCES: Final[tuple[NoiseSource, ...]] = get_args(NoiseSource)

_UP: Final = 1 + 2.0**-40  # shares reach the declared noise in spite of rounding


@dataclass(frozen=True, slots=True)
class Mechanism:
    """Noise of standard deviation `noise_multiplier` times the norm bound of one contribution, at one placement.

    Placements:
        none: No noise and no claim.
        central: Rounded Gaussian noise where the sum is opened.
        distributed: Skellam noise shares inside the sum. They are sized for the fewest survivors that the sum opens,
            less the observer's own share and those of the colluders. In a cohort of any size, all noise shares
            together have one variance. The opener adds the missing ones, so an outsider cannot infer the cohort from
            the noise (protocols/privacy-ledger/SPEC.md, section 7).
        mesh: Skellam noise of the members of the sum's roster, which stand in for each other in pairs. The sum itself
            adds it, see privfl/dp/mesh.py.
        local: Each contribution carries the whole noise.

    Attributes:
        placement: One of "none", "central", "distributed", "mesh", "local".
        noise_multiplier: Standard deviation divided by the norm bound; positive, and 0 for placement "none".
        source: "secure" noise comes from the operating system's generator and never repeats. "simulation" noise is
            reproducible, and its figure is only "epsilon if the noise were secure".
        colluders: Clients, besides the observer, whose noise shares do not count; for distributed noise.
        discrete: Central and local noise is discrete Gaussian (Canonne et al. 2020), whose accounting is looser.
        spare: The most members of mesh noise that one coalition holds, the observer's own place included. 0 protects
            against the server and outsiders only.
        members: The clients that add mesh noise; 0 is every client of the cohort.
        min_members_to_open: The fewest members in a sum that opens; 0 is what the sum guarantees by itself.
        correlation: "toeplitz" makes central noise of a round take back part of the noise before it, for clients that
            take part once. `noise_multiplier` is then that of its fresh part. The opener adds it by `CorrelatedNoise`.

    Raises:
        ConfigError: If a value is out of range, or belongs to another placement.
    """

    placement: Placement
    noise_multiplier: float = 0.0
    source: NoiseSource = "secure"
    colluders: int = 0
    discrete: bool = False
    spare: int = 0
    members: int = 0
    min_members_to_open: int = 0
    correlation: Correlation = "none"

    def __post_init__(self) -> None:
        unwrap_numpy(self, "noise_multiplier", "colluders", "spare", "members", "min_members_to_open")
        check_choice("placement", self.placement, PLACEMENTS)
        check_choice("source", self.source, SOURCES)
        if self.discrete and self.placement not in ("central", "local"):
            raise ConfigError(f"the discrete Gaussian is for central and local noise, not {self.placement!r}")
        check_choice("correlation", self.correlation, CORRELATIONS)
        if self.correlation != "none" and (self.placement != "central" or self.discrete):
            raise ConfigError(
                f"correlation {self.correlation!r} is of central, rounded Gaussian noise, which one opener adds in "
                f"every round; for placement {self.placement!r} set correlation to 'none'"
            )
        if self.placement == "none":
            if self.noise_multiplier != 0:
                raise ConfigError(f"placement 'none' has a noise_multiplier of 0, not {self.noise_multiplier!r}")
        else:
            check_positive("noise_multiplier", self.noise_multiplier)
        self._check_counts()

    def _check_counts(self) -> None:
        for name in ("colluders", "spare", "members", "min_members_to_open"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"{name} must be an integer of at least 0, not {value!r}")
        if self.placement != "mesh":
            if (self.spare, self.members, self.min_members_to_open) != (0, 0, 0):
                raise ConfigError(
                    f"spare, members and min_members_to_open are of placement 'mesh', not of {self.placement!r}: set "
                    "them to 0"
                )
            return
        if self.colluders:
            raise ConfigError("colluders belong to distributed noise: count them and the observer in spare")
        if self.members and self.members <= max(1, self.spare):
            raise ConfigError(f"members must be 0 or at least {max(2, self.spare + 1)}, not {self.members}")
        low, high = self.spare + 1, self.members or self.min_members_to_open
        if self.min_members_to_open and not low <= self.min_members_to_open <= high:
            raise ConfigError(
                f"min_members_to_open must be 0 or in [{low}, {self.members or 'the cohort'}], not "
                f"{self.min_members_to_open}"
            )

    @property
    def claims(self) -> bool:
        """True where noise is added, and a figure can follow."""
        return self.placement != "none"

    def spread(self, sizes: Iterable[int], min_survivors: Callable[[int], int]) -> float:
        """The variance of all noise shares of a cohort divided by the declared variance; 1 unless distributed.

        It is the largest value of k / (min_survivors(k) - 1 - colluders), so in a cohort of any size the noise shares
        that count reach the declared variance.

        Args:
            sizes: The sizes that a cohort can have.
            min_survivors: The fewest vectors that the sum opens for a cohort of a given size.

        Raises:
            ConfigError: If for some size that can open no noise share would count, or if no size can open.
        """
        if self.placement != "distributed":
            return 1.0
        spread = 0.0
        for size in sizes:
            opened = min_survivors(size)
            if opened > size:
                continue  # such a cohort opens nothing
            counted = opened - 1 - self.colluders
            if counted < 1:
                raise ConfigError(
                    f"distributed noise with {self.colluders} colluders needs a sum that opens at least "
                    f"{self.colluders + 2} vectors; of {size} clients this one opens {opened}. Raise "
                    "cohort.min_survivor_fraction, or lower privacy.colluders"
                )
            spread = max(spread, size / counted)
        if not spread:
            raise ConfigError("no cohort that the sampling declares has enough clients for the sum to open")
        return spread


@dataclass(frozen=True, slots=True)
class RoundNoise:
    """A mechanism in the integer units of one round: it samples the noise and writes the releases.

    Attributes:
        mechanism: What is wanted, in real terms.
        slots: The blocks of the summed vector, all under this one noise.
        cohort: The number of clients in the round.
        spread: The variance of all noise shares divided by the declared variance, from `Mechanism.spread`.
        mesh: The mesh noise of the round, for that placement; None too for a cohort of which no sum opens.
    """

    mechanism: Mechanism
    slots: tuple[Slot, ...]
    cohort: int
    spread: float = 1.0
    mesh: MeshNoise | None = None

    @property
    def length(self) -> int:
        """Entries of the vector, all slots."""
        return sum(slot.length for slot in self.slots)

    @property
    def norm_bound(self) -> float:
        """The l2 norm bound of one contribution before noise, in integer units."""
        return norm_bound(self.slots)

    @property
    def noise_stddev(self) -> float:
        """The declared standard deviation in integer units: of the sum's noise, or of each contribution's if local."""
        return self.mechanism.noise_multiplier * self.norm_bound

    @property
    def share_stddev(self) -> float:
        """The standard deviation, in integer units, of what one client adds; 0 for central noise and for none."""
        if self.mechanism.placement == "distributed":
            return self.noise_stddev * math.sqrt(self.spread / max(1, self.cohort)) * _UP
        return self.noise_stddev if self.mechanism.placement == "local" else 0.0

    @property
    def total_stddev(self) -> float:
        """The largest standard deviation of the noise in the opened sum, in integer units, for capacity checks."""
        placement = self.mechanism.placement
        if self.mesh is not None:
            return math.sqrt(max(self.mesh.max_variance(self.cohort), self.mesh.constant))
        if self.mechanism.correlation == "toeplitz":
            return self.noise_stddev * MAX_GROWTH
        return self.noise_stddev if placement == "central" else self.share_stddev * math.sqrt(self.cohort)

    @property
    def law(self) -> Law:
        """The law of the noise."""
        placement = self.mechanism.placement
        if placement == "none":
            return "none"
        if placement in SHARED:
            return "skellam"
        return "discrete_gaussian" if self.mechanism.discrete else "rounded_gaussian"

    @property
    def noise_reach(self) -> int:
        """The bound on each entry of a client's own noise, except with probability 2^-128; 0 if it adds none."""
        placement = self.mechanism.placement
        if self.mesh is not None:
            return self.mesh.reach
        if placement == "distributed":
            return skellam_reach(self.share_stddev**2)
        return math.ceil(NOISE_DEVIATIONS * self.share_stddev) + 1 if placement == "local" else 0

    def contribute(self, ints: Ints, *, entropy: Entropy | None = None, key: tuple[int, ...] | None = None) -> Ints:
        """Add this client's own noise, if it has any: step 4 of a round. Mesh noise is added by the sum instead.

        Args:
            ints: The encoded contribution, int64 `[length]`.
            entropy: Where secure noise comes from; by default the operating system.
            key: Non-negative integers such as (seed, round, client) for simulation noise. A key must never repeat.

        Returns:
            int64 `[length]`.

        Raises:
            ConfigError: If the length is another one, or `entropy` and `key` do not fit the source.
        """
        self.check_length(ints)
        if self.mechanism.placement in ("none", "central", "mesh"):
            return ints
        source = self._entropy(entropy, key)
        if self.mechanism.placement == "distributed":
            noise = skellam(self.share_stddev**2, self.length, entropy=source)
        else:
            noise = self._gaussian(source)
        noisy: Ints = ints + noise
        return noisy

    def opening(self, *, entropy: Entropy | None = None, key: tuple[int, ...] | None = None) -> Opening:
        """Return the noise that is added where the sum is opened: step 8 of a round.

        It adds central noise, or the noise shares of the dropouts, or nothing. The noise shares that it adds count for
        outsiders only, because the opener knows them. A second call raises `LocalProtocolError`: two openings of one
        sum with different noise reveal more than one.

        Args:
            entropy: As in `contribute`.
            key: As in `contribute`.
        """
        if self.mechanism.correlation != "none":
            raise ConfigError("correlated noise has a state, which its opener keeps: take the opening of its noise")
        adds = self.mechanism.placement in ("central", "distributed")
        source = self._entropy(entropy, key) if adds else os.urandom
        return _OpenerNoise(self, source)

    def realized_stddev(self, survivors: int, members: tuple[int, int] | None = None) -> float:
        """The standard deviation, in integer units, of the noise that counts in an opened sum.

        Args:
            survivors: The vectors in the sum.
            members: For mesh noise, the members of the roster and of the sum; None counts the fewest, which is what
                was declared.
        """
        if self.mesh is not None and members is not None:
            return math.sqrt(max(self.mesh.counted_variance(*members), 0.0))
        if self.mechanism.placement != "distributed":
            return self.noise_stddev
        counted = survivors - 1 - self.mechanism.colluders
        return self.share_stddev * math.sqrt(max(counted, 0))

    def release(
        self,
        *,
        round: int,
        attempt: int,
        sampling: Sampling,
        views: Views,
        participants: Iterable[ClientId],
        worst_case: bool,
        members: tuple[int, int] | None = None,
        draw_known_to: DrawKnownTo | None = None,
    ) -> Release:
        """Return the release of one opening, for the ledger.

        Args:
            round: The round.
            attempt: The attempt of the round.
            sampling: The sampling of the cohort, as its sampler declares it.
            views: The part of the sum that each observer sees.
            participants: The cohort before the opening, the survivors after it.
            worst_case: Whether this is reserved before a client is asked, with the declared noise and no more.
            members: For mesh noise, the members of the roster and of the sum.
            draw_known_to: "site" where `sampling` is of examples that their sites sample.

        Raises:
            PrivacyError: If the noise of the survivors is below the declared noise.
        """
        taking_part = tuple(sorted(participants))
        realized = self.noise_stddev if worst_case else self.realized_stddev(len(taking_part), members)
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
            participants=taking_part,
            spare=self.mechanism.spare if self.mechanism.placement == "mesh" else None,
            draw_known_to=draw_known_to,
            correlation=self.mechanism.correlation,
        )

    def _gaussian(self, entropy: Entropy) -> Ints:
        draw = discrete_gaussian if self.mechanism.discrete else rounded_gaussian
        return draw(self.noise_stddev, self.length, entropy=entropy)

    def check_length(self, ints: Ints) -> None:
        """Raise `ConfigError` unless `ints` has one entry for each entry of the slots."""
        if ints.shape != (self.length,):
            raise ConfigError(f"the slots have {self.length} entries together, not {ints.shape}")

    def _entropy(self, entropy: Entropy | None, key: tuple[int, ...] | None) -> Entropy:
        if self.mechanism.source == "secure":
            if key is not None:
                raise ConfigError("secure noise takes no key: every party that knows the key can subtract the noise")
            return os.urandom if entropy is None else entropy
        if key is None or entropy is not None:
            raise ConfigError("simulation noise takes a key such as (seed, round, client), and no entropy")
        return seeded_entropy(*key)


@dataclass(slots=True)
class _OpenerNoise:
    noise: RoundNoise
    entropy: Entropy = field(repr=False)
    used: bool = False

    def __call__(self, total: Ints, survivors: frozenset[ClientId]) -> Ints:
        if self.used:
            raise LocalProtocolError("this sum was opened before; a second opening must be charged as a further one")
        self.used = True
        rules = self.noise
        rules.check_length(total)
        if rules.mechanism.placement == "central":
            added = rules._gaussian(self.entropy)
        elif rules.mechanism.placement == "distributed" and len(survivors) < rules.cohort:
            missing = rules.cohort - len(survivors)
            added = skellam(rules.share_stddev**2 * missing, rules.length, entropy=self.entropy)
        else:
            return total
        noisy: Ints = total + added
        return noisy
