"""The subject of an audit: the parts of a run, one observer, and which clients it knows."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from privfl.dp import AdaptiveClip, Everyone, FixedSize, Mechanism, OnePass, PrivacyUnit, TruncatedPoisson
from privfl.dp.accounting.events import as_seen
from privfl.dp.noise.toeplitz import column_of
from privfl.errors import ConfigError
from privfl.experiment.assemble import Assembly
from privfl.experiment.audit.canaries import axes_of
from privfl.experiment.schemes import SCHEMES
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.plan import RUN_NONCE_BYTES, RoundPlan
from privfl.fl.sampling import CohortSampler, Uniforms, declared, in_round, sampled, secret_uniforms
from privfl.fl.slots import UPDATE
from privfl.fl.survivors import SurvivorRule, cohort_sizes, mesh_of
from privfl.observers import Observer, View
from privfl.sums import SecureSum
from privfl.wire import ClientId

AuditedDropouts = Literal["fewest", "none"]
"""The clients that drop out: as many as the sum survives, or nobody."""

CANARY: Final[ClientId] = 0
_LABEL: Final = b"privfl/1 audit cohort"
NO_MODEL: Final = "0" * 64


def secret_coins(seed: int, round: int) -> Uniforms:
    """The coins of a round's cohort from a secret of the trial, as a run with secure noise samples them.

    Args:
        seed: The seed of the trial.
        round: The round.
    """
    return secret_uniforms(hashlib.sha256(_LABEL + seed.to_bytes(8, "little")).digest(), round)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The parts of a run that is audited, against one observer.

    Attributes:
        scheme: The secure sum.
        credentials: One per client; None for a sum without.
        encoding: How updates become integers, in the first round.
        mechanism: The noise.
        survivor_rule: The fewest survivors of a round.
        sampler: The cohort sampler.
        population: The number of clients.
        rounds: The rounds of one trial.
        unit: The unit of the claim.
        observer: The observer against which the claim holds.
        dropouts: Who drops out.
        drop_step: The client's step from which on a dropout sends nothing.
        coins: The coins of a round's cohort, by (seed of the trial, round).
        canaries: The number of canaries; their names are 0, 1, ...
        steady: True if each canary keeps to one direction; otherwise it takes several in turn.
    """

    scheme: SecureSum
    credentials: object
    encoding: UpdateEncoding
    mechanism: Mechanism
    survivor_rule: SurvivorRule
    sampler: CohortSampler
    population: int
    rounds: int
    unit: PrivacyUnit
    observer: Observer = "outsider"
    dropouts: AuditedDropouts = "fewest"
    drop_step: int = 0
    coins: Callable[[int, int], Uniforms] = secret_coins
    canaries: int = 1
    steady: bool = False

    def __post_init__(self) -> None:
        if self.observer not in self.scheme.views:
            names = ", ".join(self.scheme.views)
            raise ConfigError(f"there is no {self.observer} in {self.scheme.name}: ask for one of {names}")
        if self.population <= len(self.known) and self.mechanism.placement != "local":
            raise ConfigError(
                f"{self.population} clients are too few for a canary next to the {len(self.known)} whose noise the "
                f"{self.observer} knows: set data.clients higher, or privacy.colluders lower"
            )

    @classmethod
    def of(
        cls, parts: Assembly, *, observer: Observer = "outsider", dropouts: AuditedDropouts = "fewest", rounds: int
    ) -> Subject:
        """The subject of an assembled run.

        Args:
            parts: The parts of the run.
            observer: The observer against which the claim holds.
            dropouts: Who drops out.
            rounds: The rounds of one trial.

        Raises:
            ConfigError: If the run has asynchronous rounds, or the sum has no such observer.
        """
        if parts.config.buffer.size is not None:
            raise ConfigError("audits and attacks follow clients through synchronous rounds: leave buffer.size out")
        description = SCHEMES.get(parts.config.sum.scheme) if parts.objects.sum is None else None
        return cls(
            scheme=parts.scheme,
            credentials=parts.credentials,
            encoding=parts.encoding,
            mechanism=parts.mechanism,
            survivor_rule=parts.survivor_rule,
            sampler=parts.sampler,
            population=parts.clients,
            rounds=rounds,
            unit=parts.unit,
            observer=observer,
            dropouts=dropouts,
            drop_step=description.vector_step if description else 0,
        )

    @property
    def seeded(self) -> Subject:
        """The same subject with noise from a seeded stream through the same samplers."""
        return dataclasses.replace(self, mechanism=dataclasses.replace(self.mechanism, source="simulation"))

    @property
    def view(self) -> View:
        """The part of the sum that the observer sees."""
        return self.scheme.views[self.observer]

    @property
    def adjacency(self) -> str:
        """The difference of the two worlds, as far as the claim goes against this observer."""
        return as_seen(self.unit, self.observer, (self.mechanism.placement,)).adjacency

    @property
    def leaves(self) -> bool:
        """True if the canary is no member of the cohort in the world without it; else it contributes zeros there."""
        return self.adjacency == "add_remove"

    @property
    def hidden(self) -> bool:
        """True if cohorts are sampled and the observer does not know them."""
        return self.observer == "outsider" and not isinstance(declared(self.sampler, self.population), Everyone)

    @property
    def known(self) -> frozenset[ClientId]:
        """The clients whose contributions the observer knows: its own, and those of its colluders.

        Noise at each client counts on no other client's noise, so every other client colludes with the observer.
        """
        if self.observer == "outsider":
            return frozenset()
        if self.mechanism.placement == "local":
            return frozenset(range(self.canaries, self.population))
        if self.mechanism.placement == "mesh":  # the coalition of the claim; a participant is one of it
            count = max(self.mechanism.spare, int(self.observer != "server"))
        else:
            count = self.mechanism.colluders + (self.observer != "server")
        return frozenset(range(self.population - count, self.population))

    @property
    def adaptive(self) -> bool:
        """True if the clip norm changes from round to round."""
        return isinstance(self.encoding.clip, AdaptiveClip)

    @property
    def axes(self) -> int:
        """The number of directions that a canary takes in turn."""
        return 1 if self.steady or self.once else axes_of(self.encoding.length, self.rounds)

    @property
    def once(self) -> bool:
        """True if each client takes part in one round of a trial, the canary in the first."""
        return isinstance(declared(self.sampler, self.population), OnePass)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """The weight of each round in the best linear test for a steady canary, float64 `[rounds]`.

        A canary that takes part in every round changes its sign each time. One that takes part once is in the noise of
        later rounds too, where that noise takes back the noise of the first.
        """
        if not self.once:
            return np.where(np.arange(self.rounds) % 2 == 0, 1.0, -1.0)
        if self.mechanism.correlation == "none":
            return np.array([1.0, *[0.0] * (self.rounds - 1)])
        column = column_of(self.rounds)
        weights: npt.NDArray[np.float64] = np.correlate(column, column, "full")[self.rounds - 1 :]
        return weights

    def cohort(self, seed: int, round: int, present: frozenset[ClientId]) -> tuple[ClientId, ...]:
        """The cohort of one round of a trial.

        An observer who knows the cohort is given one with the canary in every round, as the claim counts.

        Args:
            seed: The seed of the trial.
            round: The round.
            present: The canaries that exist; the others never take part.
        """
        sampler, at = in_round(self.sampler, round)
        cohort = set(sampled(sampler, self.population, self.coins(seed, at)))
        canaries = frozenset(range(self.canaries))
        if not self.hidden and not self.once:
            missing = canaries - cohort
            cohort |= missing
            self._trim(cohort, canaries | self.known)
        return tuple(sorted(cohort - (canaries - present) if self.leaves else cohort))

    def _trim(self, cohort: set[ClientId], needed: frozenset[ClientId]) -> None:
        """Keep a cohort within the largest size of its sampling, without losing one of `needed`."""
        sampling = declared(self.sampler, self.population)
        if isinstance(sampling, FixedSize | TruncatedPoisson):
            top = max(sampling.sizes(self.population))
            for client in sorted(cohort - needed)[: max(0, len(cohort) - top)]:
                cohort.remove(client)

    def opens(self, size: int) -> bool:
        """True if a cohort of `size` clients can open."""
        return self.survivor_rule.opened(self.scheme, size) <= size

    def survivors(self, cohort: tuple[ClientId, ...]) -> frozenset[ClientId]:
        """The clients of a cohort that stay: the canaries first, then those that the observer knows, then others.

        Args:
            cohort: The clients that are asked.
        """
        if self.dropouts == "none":
            return frozenset(cohort)
        count = max(self.survivor_rule.opened(self.scheme, len(cohort)), self._stay_for_noise(len(cohort)))
        known = self.known
        ranked = sorted(cohort, key=lambda client: (client >= self.canaries, client not in known, client))
        count = max(count, sum(client < self.canaries for client in cohort))
        return frozenset(ranked[:count])

    def _stay_for_noise(self, size: int) -> int:
        """The survivors of whom enough are members of mesh noise, with any choice of members; 0 for other noise."""
        if self.mechanism.placement != "mesh":
            return 0
        sizes = cohort_sizes(declared(self.sampler, self.population), self.population, size)
        mesh = mesh_of(self.mechanism, self.survivor_rule, self.scheme, size, len(sizes))
        return 0 if mesh is None else size - mesh.members + mesh.min_members_to_open

    def plan(
        self,
        cohort: tuple[ClientId, ...],
        *,
        round: int,
        seed: int,
        encoding: UpdateEncoding | None = None,
        model_hash: str = NO_MODEL,
    ) -> RoundPlan:
        """The plan of one round.

        Args:
            cohort: The clients that are asked.
            round: The round.
            seed: The seed of the trial.
            encoding: The encoding of the round; by default that of the first.
            model_hash: The hash of the model.
        """
        return RoundPlan(
            run=bytes(RUN_NONCE_BYTES),
            round=round,
            model_hash=model_hash,
            cohort=cohort,
            population=self.population,
            sampling=declared(self.sampler, self.population),
            survivor_rule=self.survivor_rule,
            encoding=self.encoding if encoding is None else encoding,
            mechanism=self.mechanism,
            scheme=self.scheme.name,
            parameters=self.scheme.parameters,
            seed=seed,
        )

    def side_columns(self) -> np.ndarray:
        """The columns of the vector outside of the update."""
        update = self.encoding.places[UPDATE]
        return np.array([i for i in range(self.encoding.total_length) if not update.start <= i < update.stop], np.intp)
