"""The plan of a round: the only truth about it. Everything that a party computes with is derived from the plan.

A plan travels as canonical bytes (protocols/round-plan), and its digest enters every key of the sum. Encoding, noise,
decoding, the client's policy check and the ledger's entries are methods of the plan. Nothing else carries a scale, a
clip, a seed, a scheme's name or a model's hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.dp import CorrelatedNoise, Mechanism, Release, RoundNoise
from privfl.dp.contract import check_opener
from privfl.dp.correlated import opening_of
from privfl.dp.unit import Everyone, Level, Sampling
from privfl.errors import CapacityError, ConfigError, TooFewSurvivors
from privfl.fl.bases import Base, check_jobs, model_hash_of
from privfl.fl.chunks import EACH_ALONE, Chunking
from privfl.fl.claims import check_claim
from privfl.fl.client import CENTRAL_STREAM, NOISE_STREAM
from privfl.fl.decoded import Decoded
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.examples import check_plan
from privfl.fl.planwire import read_plan, write_plan
from privfl.fl.survivors import SurvivorRule, round_noise
from privfl.observers import Observer
from privfl.ring import Ints
from privfl.sums import Opening, SecureSum, SumTask
from privfl.sums.base import KeyedOpening, identity
from privfl.wire import SERVER, ClientId

RUN_NONCE_BYTES: Final = 16
NO_NOISE: Final = Mechanism("none")

EVALUATION: Final = 1 << 31
"""The first attempt number of plans that evaluate a model. Attempts that train have lower numbers."""

_LABEL: Final = b"privfl/1 round-plan digest"
_MODEL_HASH_DIGITS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """One round: which model, which clients, how many must survive, and how their updates are summed and noised.

    Attributes:
        run: The nonce of the run, 16 random bytes made with the run's folder.
        round: The round, from 1. Round 0 asks for statistics of the data before the training.
        attempt: The attempt of the round, from 0; the same number stands in the ledger. A plan from attempt
            `EVALUATION` on evaluates the model.
        model_hash: The `model_hash` of the global model, 64 hexadecimal digits.
        cohort: The clients that are asked, increasing.
        state_rounds: For each client of the cohort the last round that it survived, from whose state it goes on; 0 for
            a client without a state. Empty where clients keep no states.
        population: The number of clients that exist.
        sampling: How the cohort was sampled, as the sampler declares.
        survivor_rule: The fewest survivors that the round asks for, by the size of the cohort.
        encoding: How an update becomes integers in this round.
        mechanism: The noise; placement "none" claims nothing.
        scheme: The name of the sum, such as "masked-sum/1".
        parameters: The sum's own parameters, as `SecureSum.parameters` states them.
        seed: A public number that keys the clients' training and simulation noise, in [0, 2^64).
        chunking: How a simulation trains the cohort: in which chunks, and each client alone or a chunk at once.
        bases: For each client of an asynchronous round the model it trained from, and the weight of its update.

    Raises:
        ConfigError: If a value is out of range, or the cohort is not one that the sampling can produce.
        PrivacyError: If noise is combined with weights by example count, or with slots that count.
    """

    run: bytes
    round: int
    attempt: int = 0
    model_hash: str
    cohort: tuple[ClientId, ...]
    state_rounds: tuple[int, ...] = ()
    population: int
    sampling: Sampling
    survivor_rule: SurvivorRule = SurvivorRule()
    encoding: UpdateEncoding
    mechanism: Mechanism = NO_NOISE
    scheme: str
    parameters: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    seed: int
    chunking: Chunking = EACH_ALONE
    bases: tuple[Base, ...] = ()
    _derived: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.run, bytes) or len(self.run) != RUN_NONCE_BYTES:
            raise ConfigError(f"run must be the run's nonce of {RUN_NONCE_BYTES} bytes")
        for name, value, low, high in (
            ("round", self.round, 0, 1 << 32),
            ("attempt", self.attempt, 0, 1 << 32),
            ("population", self.population, 1, SERVER),
            ("seed", self.seed, 0, (1 << 64) - 1),
        ):
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"{name} must be an integer in [{low}, {high}], not {value!r}")
        if len(self.model_hash) != _MODEL_HASH_DIGITS or set(self.model_hash) - set("0123456789abcdef"):
            raise ConfigError("model_hash must be 64 hexadecimal digits, from model_hash(model)")
        self._check_clients()
        check_jobs(self)
        self._check_sampling()
        if type(self.scheme) is not str or not isinstance(self.parameters, Mapping):
            raise ConfigError("scheme and parameters must be those of a sum: scheme.name and scheme.parameters")
        for key, parameter in self.parameters.items():
            if type(key) is not str or type(parameter) not in (str, int, float, bool):
                raise ConfigError(f"the sum's parameter {key!r} must be text, a number or a truth value")
        if self.mechanism.claims:
            check_claim(self.mechanism, self.encoding, self.sampling)
        check_plan(self)

    def _check_clients(self) -> None:
        if any(type(c) is not int or not 0 <= c < SERVER for c in self.cohort):
            raise ConfigError("cohort must hold identities in [0, 2^32 - 2]")
        if list(self.cohort) != sorted(set(self.cohort)):
            raise ConfigError("cohort must be strictly increasing")
        if self.state_rounds and len(self.state_rounds) != len(self.cohort):
            named, asked = len(self.state_rounds), len(self.cohort)
            raise ConfigError(f"state_rounds must name a round for each of the {asked} clients, not {named}")
        if any(type(r) is not int or not 0 <= r < max(1, self.round) for r in self.state_rounds):
            raise ConfigError(f"state_rounds must hold rounds before round {self.round}, and 0 for no state")

    def _check_sampling(self) -> None:
        """Raise `ConfigError` unless the declared sampling can have produced this cohort of this population."""
        if (declared := getattr(self.sampling, "population", self.population)) != self.population:
            raise ConfigError(
                f"the cohort is declared as sampled from {declared} clients, and {self.population} exist: the sampler "
                "must declare the population that it was given"
            )
        if len(self.cohort) not in self.sampling.sizes(self.population) and not self.bases:
            raise ConfigError(
                f"a cohort of {len(self.cohort)} of {self.population} clients is not one of: {self.sampling.describe()}"
            )

    # --- what follows from the plan alone ---------------------------------------------------------------------------

    @property
    def evaluates(self) -> bool:
        """True for a plan by which clients measure the model and train nothing: its update has one entry, zero."""
        return self.attempt >= EVALUATION

    @property
    def level(self) -> Level:
        """The unit that the noise hides: a client with all its examples, or one example."""
        return "client" if self.encoding.examples is None else "example"

    @property
    def min_survivors(self) -> int:
        """The fewest survivors that this round asks for; the sum may need more, see `SecureSum.min_survivors_of`."""
        return self.survivor_rule.of(len(self.cohort))

    @property
    def denominator(self) -> float | None:
        """The public denominator of a private mean; None counts survivors.

        It is the expected size of a cohort where sampling is claimed, and the size of the cohort where anybody may
        know the cohort. A sum over examples states its own. None of them depends on who survives.
        """
        if self.encoding.examples is not None:
            return self.encoding.examples.denominator
        if not self.mechanism.claims:
            return None
        if isinstance(self.sampling, Everyone):
            return float(max(1, len(self.cohort)))
        return self.sampling.expected_size(self.population)

    def decode(self, total: Ints, survivors: int) -> Decoded:
        """Read an opened sum.

        Args:
            total: The opened sum, int64 `[encoding.total_length]`.
            survivors: The number of vectors in it.

        Returns:
            The means of the update, the blocks and the metrics, the next clip norm if it is adaptive, and the counts.
        """
        encoding, clients = self.encoding, float(survivors) if self.denominator is None else self.denominator
        whole, metrics = encoding.decode(total, clients)
        next_clip_norm = encoding.next_clip_norm(total, clients)
        at, blocks = encoding.model_length, dict[str, npt.NDArray[np.float64]]()
        for block in encoding.blocks:
            blocks[block.name] = whole[at : at + block.length]
            at += block.length
        mean, denominator = whole[: encoding.model_length], encoding.denominator(total, clients)
        return Decoded(mean, blocks, denominator, metrics, next_clip_norm, encoding.counted(total, survivors))

    def state_round(self, client: ClientId) -> int:
        """The last round that a client of the cohort survived, from whose state it goes on; 0 for none.

        Raises:
            ConfigError: If the plan keeps no states, or does not ask this client.
        """
        if not self.state_rounds:
            raise ConfigError(f"the plan of round {self.round} is of training without states: give a `Train`")
        if client not in self.cohort:
            raise ConfigError(f"client {client} is not in the cohort of round {self.round}")
        return self.state_rounds[self.cohort.index(client)]

    def check_model(self, model: Vector, client: ClientId | None = None) -> None:
        """Raise `ConfigError` unless `model` is the one that the plan names, for the server or for a client.

        Args:
            model: Float `[d]`.
            client: The client that trains from it; None for the server.
        """
        if model_hash(model) != model_hash_of(self, client):
            raise ConfigError(f"round {self.round}: the model does not have the hash that the plan names")

    def to_bytes(self) -> bytes:
        """The canonical bytes of the plan; see protocols/round-plan/SPEC.md."""
        if "bytes" not in self._derived:
            self._derived["bytes"] = write_plan(self)
        return bytes(self._derived["bytes"])

    @classmethod
    def from_bytes(cls, data: bytes) -> RoundPlan:
        """The plan from its canonical bytes; raises `WireError` for any others."""
        return read_plan(cls, data)

    def digest(self) -> bytes:
        """32 bytes: SHA-256 of the canonical bytes under a label."""
        return hashlib.sha256(_LABEL + self.to_bytes()).digest()

    # --- what follows from the plan and the sum that it names -------------------------------------------------------

    def check_scheme(self, scheme: SecureSum) -> None:
        """Raise `ConfigError` unless `scheme` is the sum that the plan names, and its opener sees what it opens."""
        opener: Observer = "server" if scheme.opener == "server" else "participant"
        if scheme.views.get(opener) == "release":
            raise ConfigError(f"{scheme.name} is opened by a {opener}, and states that this one sees the release only")
        check_opener(self.mechanism.correlation, scheme.opener, scheme.name)
        if scheme.name != self.scheme:
            raise ConfigError(f"the plan names the sum {self.scheme!r}, and this is {scheme.name!r}")
        if dict(scheme.parameters) != dict(self.parameters):
            names = sorted(set(scheme.parameters) | set(self.parameters))
            other = [n for n in names if scheme.parameters.get(n) != self.parameters.get(n)]
            raise ConfigError(f"the plan's parameters of {self.scheme} differ from this sum's in: {', '.join(other)}")

    def check_openable(self, scheme: SecureSum) -> None:
        """Raise `TooFewSurvivors` if the cohort is smaller than what the sum opens; nobody has to be asked then.

        An empty cohort passes only if the rule and the sum open any number of vectors; noise alone is released then.
        """
        size = len(self.cohort)
        opened = max(self.survivor_rule.opened(scheme, size), int(not self.mechanism.claims))
        if opened > size:
            raise TooFewSurvivors(size, opened)
        if self.mechanism.placement == "mesh" and self.noise(scheme).mesh is None:
            raise TooFewSurvivors(size, max(opened, self.mechanism.min_members_to_open))

    def task(self, scheme: SecureSum) -> SumTask:
        """The sum of this round; raises `CapacityError` if the ring is too small for all contributions."""

        def make() -> SumTask:
            encoding, noise = self.encoding, self.noise(scheme)
            bound = encoding.entry_bound + noise.noise_reach
            if self.mechanism.placement == "mesh" and noise.mesh is None:
                raise ConfigError(f"a cohort of {len(self.cohort)} clients has too few members of mesh noise: ask more")
            self._check_room()
            # Weights are planned by their total, which bounds every sum, where single bounds would not fit the ring.
            half, limited = encoding.codec.ring.half, encoding.max_total_weight > 0
            max_sum = half - 1 if limited and len(self.cohort) * bound >= half else 0
            return SumTask(
                self.digest(),
                self.cohort,
                self.min_survivors,
                encoding.total_length,
                encoding.codec.ring,
                bound,
                max_sum,
                noise.mesh,
            )

        task: SumTask = self._under(scheme, "task", make)
        return task

    def _check_room(self) -> None:
        """Raise `CapacityError` if the slots that count, or a planned total of weights, could leave the ring."""
        encoding, clients = self.encoding, len(self.cohort)
        half, top = encoding.codec.ring.half, encoding.codec.bound(encoding.max_entry)
        full = Fraction(encoding.max_total_weight, encoding.max_weight)
        if encoding.count_bound * clients >= half or full * top + clients * bool(full) >= half:
            raise CapacityError(
                f"{clients} clients, counts up to {encoding.count_bound} and weights of {float(full):g} times "
                f"entries up to {top}, do not fit a ring of {encoding.codec.ring.bits} bits"
            )

    def noise(self, scheme: SecureSum) -> RoundNoise:
        """The mechanism in the integer units of this round, with noise shares sized for what the sum can open."""

        def make() -> RoundNoise:
            size = len(self.cohort)
            return round_noise(
                self.mechanism,
                self.encoding.slots,
                size,
                rule=self.survivor_rule,
                scheme=scheme,
                sampling=self.sampling,
                population=self.population,
                key=(self.seed, self.round),
            )

        noise: RoundNoise = self._under(scheme, "noise", make)
        return noise

    def noise_stddev(self, scheme: SecureSum) -> float:
        """The declared standard deviation of the noise in the model's unit; 0 without noise."""
        return self.noise(scheme).noise_stddev / self.encoding.codec.scale

    def opening(self, scheme: SecureSum, correlated: CorrelatedNoise | None = None) -> Opening:
        """The noise that is added where the sum is opened, or nothing; `ConfigError` where its state is missing.

        Args:
            scheme: The sum that the plan names.
            correlated: The noise of the run, where the mechanism correlates it across rounds; only its opener has it.
        """
        noise = self.noise(scheme)
        if self.mechanism.correlation != "none":
            return opening_of(correlated, noise, self.round)
        if self.mechanism.placement in ("none", "local", "mesh"):
            return identity
        if self.mechanism.source == "secure":
            return KeyedOpening(lambda entropy: noise.opening(entropy=entropy))
        return KeyedOpening(lambda entropy: noise.opening(key=(self.seed, self.round, 0, CENTRAL_STREAM)))

    def add_noise(self, scheme: SecureSum, client: ClientId, vector: Ints) -> Ints:
        """One client's encoded contribution with its own noise, if it adds any: int64 `[total_length]`.

        Mesh noise is added by the sum, which knows the roster.

        Args:
            scheme: The sum that the plan names.
            client: The client that contributes; its identity enters the key of simulation noise.
            vector: Its encoded contribution, int64 `[encoding.total_length]`.
        """
        key = None if self.mechanism.source == "secure" else (self.seed, self.round, client, NOISE_STREAM)
        return self.noise(scheme).contribute(vector, key=key)

    def release(
        self,
        scheme: SecureSum,
        participants: Iterable[ClientId],
        *,
        worst_case: bool,
        members: tuple[int, int] | None = None,
    ) -> Release:
        """The charge of this round in the ledger.

        Args:
            scheme: The sum that the plan names.
            participants: The cohort before the opening, the survivors after it.
            worst_case: Whether this is the reservation before a client is asked.
            members: For mesh noise, the members of the roster and of the sum, as the sum counted them.

        Raises:
            PrivacyError: If the noise of the survivors is below the declared noise.
        """
        examples = self.encoding.examples
        return self.noise(scheme).release(
            round=self.round,
            attempt=self.attempt,
            sampling=self.sampling if examples is None else examples.sampling,
            draw_known_to=None if examples is None else "site",
            views=scheme.views,
            participants=participants,
            worst_case=worst_case,
            members=members,
        )

    def worst_case(self, scheme: SecureSum) -> Release:
        """The reservation in the ledger before a client is asked: the whole cohort takes part."""
        return self.release(scheme, self.cohort, worst_case=True)

    def _under(self, scheme: SecureSum, name: str, make: Any) -> Any:
        """A value derived under `scheme`, computed once; every client of a simulation asks for it."""
        known = self._derived.get(name)
        if known is None or known[0] is not scheme:
            self.check_scheme(scheme)
            known = self._derived[name] = (scheme, make())
        return known[1]


def model_hash(model: Vector) -> str:
    """64 hex digits: SHA-256 of dtype, length and little-endian bytes of a flat model."""
    header = f"{model.dtype.name}:{len(model)}\n".encode()
    digest = hashlib.sha256(header)
    digest.update(np.ascontiguousarray(model, model.dtype.newbyteorder("<")).data)
    return digest.hexdigest()
