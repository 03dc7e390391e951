"""Noisy answers: the means and standard deviations of the features, as round 0 of the run that uses them.

With `data.standardize = "noisy"` every client contributes `(1, z, z^2)`, averaged over its examples, where z is a
feature scaled to [-1, 1] by its public range. The contributions go through the run's own sum, noise and ledger before
the first training round. The run has one ledger and one epsilon, and its budget pays for the answers too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.data import FederatedData, public_ranges, public_standardizer
from privfl.data.noised import NoisedMoments
from privfl.data.preprocess import Standardizer
from privfl.dp import Draw, Everyone, History, Ledger
from privfl.dp.accounting.history import DrawnRound
from privfl.engine import LoopExecutor
from privfl.errors import ConfigError, RemoteProtocolError, StateError, TooFewSurvivors
from privfl.experiment.config import Config
from privfl.experiment.encoding import build_encoding, build_mechanism, build_survivor_rule
from privfl.files import atomic_write, canonical_json, read_json
from privfl.fl.client import ClientUpdate
from privfl.fl.draws import DrawNotes
from privfl.fl.dropout import pattern_of
from privfl.fl.payment import Payment
from privfl.fl.plan import RUN_NONCE_BYTES, RoundPlan, model_hash
from privfl.fl.round import Parts, run_round
from privfl.fl.state import ServerState
from privfl.fl.traffic import guarded
from privfl.sums import Tap
from privfl.wire import ClientId

if TYPE_CHECKING:
    from privfl.experiment.assemble import Assembly

ROUND: Final = 0
"""The round of the answers in the ledger; training begins with round 1."""

FILE: Final = "answers.json"


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of a run, as they stand in its folder.

    Attributes:
        features: The names of the features; empty where the data set names none.
        mean: The noisy mean of each feature.
        stddev: The noisy standard deviation of each feature, positive.
        dropped: The features of 0 and 1 that are dropped, because too small a fraction of the examples has them.
        clients: The number of clients whose examples the answers describe; as private as the survivors of a round.
        ledger: The hash of the ledger's line after them.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    stddev: tuple[float, ...]
    dropped: tuple[int, ...]
    clients: int
    ledger: str

    def apply(self, federation: FederatedData) -> FederatedData:
        """The same clients with standardized features; a missing value becomes 0, and so does a dropped feature."""
        standardizer = Standardizer(np.array(self.mean), np.array(self.stddev), "noised")
        features = standardizer.apply(federation.dataset.features)
        features[:, list(self.dropped)] = 0.0
        return federation.with_features(features)

    def describe(self) -> str:
        """A sentence on what was asked, for a report."""
        dropped = f"; {len(self.dropped)} features of rare categories are dropped" if self.dropped else ""
        return (
            f"means and standard deviations of {len(self.mean)} features, from one noisy sum over all clients: round "
            f"{ROUND} of the ledger, counted in epsilon{dropped}"
        )


def read_answers(folder: Path) -> Answers | None:
    """The stored answers of a run's folder; None before they were asked for.

    Raises:
        StateError: The file was altered.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        record = read_json(path.read_text(encoding="utf-8"))
        lists = {name: tuple(record[name]) for name in ("features", "mean", "stddev", "dropped")}
        return Answers(**lists, clients=int(record["clients"]), ledger=str(record["ledger"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} was altered: put the file back, or start the run again under another name") from error


def check_answers(folder: Path, ledger: Ledger, *, rounds: int, noisy: bool) -> None:
    """Raise `StateError` where the answers of a run are not in its ledger, or are lost although it has trained.

    Args:
        folder: The run's folder.
        ledger: Its ledger.
        rounds: The number of its last stored round.
        noisy: Whether the run asks for answers.
    """
    answers = read_answers(folder)
    if answers is None and noisy and rounds:
        raise StateError(f"{folder / FILE} is lost, and {rounds} rounds were trained with its answers: put it back")
    if answers is not None and not ledger.holds(answers.ledger):
        raise StateError(
            f"the answers in {folder / FILE} are not in the ledger, which was cut short or is another run's: "
            "put back both files"
        )


@dataclass(frozen=True, slots=True)
class AnswerRound:
    """The round before training that asks for means and variances: its configuration and its public scaling.

    Attributes:
        config: The configuration of the run, with the clip norm and the noise of this round.
        center: The middle of each feature's public range, float64 `[p]`.
        width: Half the length of each feature's public range, float64 `[p]`.
        public: The scaling that follows from the ranges alone. It is used until the answers are there, and for each
            feature whose variance the noise hides.
    """

    config: Config
    center: npt.NDArray[np.float64] = field(repr=False)
    width: npt.NDArray[np.float64] = field(repr=False)
    public: Standardizer = field(repr=False)

    @property
    def length(self) -> int:
        """The entries of the summed vector: 1 + 2p."""
        return 1 + 2 * len(self.center)


def answer_round(config: Config, federation: FederatedData, sampled_fraction: float) -> AnswerRound | None:
    """The round that asks for the means and standard deviations; None where the configuration asks for none.

    Args:
        config: The configuration of the run.
        federation: The clients and their examples, not standardized.
        sampled_fraction: The fraction of the clients that a training round is expected to ask, in (0, 1].

    Raises:
        ConfigError: If the run adds no noise, hides examples and not clients, or lacks public ranges.
    """
    settings, privacy = config.data, config.privacy
    if settings.standardize != "noisy":
        for key in ("noise_multiplier", "min_category_fraction"):
            if getattr(settings, key) is not None:
                raise ConfigError(
                    f"data.{key} is about noisy answers, and data.standardize = {settings.standardize!r}: leave it "
                    "out, or set data.standardize = 'noisy'"
                )
        return None
    if privacy.placement == "none":
        raise ConfigError(
            "data.standardize = 'noisy' is charged to the ledger, and a run with privacy.placement = 'none' has none: "
            "set data.standardize = 'exact', or choose a placement"
        )
    if privacy.unit != "client":
        raise ConfigError(
            f"data.standardize = 'noisy' hides all examples of a client, and privacy.unit = {privacy.unit!r}: two "
            "units are never added. Set data.standardize = 'public', or privacy.unit = 'client'"
        )
    low, high = np.array(public_ranges(federation.dataset, "noisy"), np.float64).T
    public = public_standardizer(federation.dataset)
    length = 1 + 2 * len(low)
    multiplier = settings.noise_multiplier
    if multiplier is None and privacy.noise_multiplier is not None:
        multiplier = privacy.noise_multiplier / sampled_fraction
    own = dataclasses.replace(
        privacy,
        clip_norm=math.sqrt(length),
        clip="flat",
        clip_quantile=None,
        loss_bound=None,
        correlation="none",
        noise_multiplier=multiplier,
    )
    sum_ = dataclasses.replace(config.sum, rotation=False, clip_entries=None)
    return AnswerRound(dataclasses.replace(config, privacy=own, sum=sum_), (low + high) / 2, (high - low) / 2, public)


def check_affordable(parts: Assembly, epsilon: float) -> None:
    """Raise `ConfigError` where the answers alone cost more than the run may spend.

    Args:
        parts: The run.
        epsilon: The most that the run may spend.
    """
    asked = planned_round(parts)
    if asked is not None and (spent := parts.accountant().spent(History(parts.unit, ((asked, 1),)))) > epsilon:
        raise ConfigError(
            f"data.noise_multiplier = {_round_of(parts).config.privacy.noise_multiplier:g} spends epsilon {spent:.4g} "
            f"on the noisy answers alone, and privacy.epsilon = {epsilon:g}: raise data.noise_multiplier, or leave it "
            "out"
        )


def planned_round(parts: Assembly) -> DrawnRound | None:
    """The draw and the worst case of the round that asks; None for a run without answers.

    Args:
        parts: The run.
    """
    if parts.answer_round is None:
        return None
    worst = _plan(parts, bytes(RUN_NONCE_BYTES), 0).worst_case(parts.scheme)
    return DrawnRound(_draw(parts), (worst,))


def ask(parts: Assembly, payment: Payment, folder: Path, nonce: bytes, tap: Tap) -> Answers:
    """Ask once, in the run's folder: the answers that are stored there, or a charged round over all clients.

    The ledger is charged before a client is asked. The answers are stored before anything uses them. After a kill
    between the two, the charge stands and the next start asks in another attempt.

    Args:
        parts: The run.
        payment: The run's ledger and budget.
        folder: The run's folder.
        nonce: The run's nonce.
        tap: Sees every message.

    Raises:
        BudgetExceeded: The answers could cost too much; no client was asked.
        TooFewSurvivors: No attempt opened a sum.
        StateError: The stored answers are not in the ledger.
    """
    rounds = max(payment.ledger.releases, key=lambda release: release.round, default=None)
    check_answers(folder, payment.ledger, rounds=0 if rounds is None else rounds.round, noisy=True)
    stored = read_answers(folder)
    if stored is not None:
        return stored
    ledger, draw = payment.ledger, _draw(parts)
    repeated = parts.mechanism.source == "simulation" and not parts.credentials
    for number in range(parts.retries + 1):
        attempt = number if repeated else ledger.next_attempt(ROUND)
        plan = _plan(parts, nonce, attempt)
        if ledger.draw_of(ROUND) is None:
            payment.check(plan.worst_case(parts.scheme), draw)
            ledger.draw(ROUND, draw.sampling, draw.turn, void=draw.void)
        state, asked = (
            ServerState(_nothing(parts), {}),
            Parts(_contribution(parts), parts.scheme, LoopExecutor(), credentials=parts.credentials),
        )
        try:
            drop = pattern_of(parts.dropouts, ROUND, number)
            server = run_round(state, plan, asked, payment=payment, drop=drop, tap=guarded(tap))
        except (TooFewSurvivors, RemoteProtocolError):
            if number == parts.retries:
                raise
            continue
        outcome = server.outcome
        answers = _answers(parts, outcome.state.model, len(outcome.survivors), ledger.head)
        atomic_write(folder / FILE, canonical_json(dataclasses.asdict(answers)) + b"\n")
        server.settle()
        return answers
    raise AssertionError  # pragma: no cover - the last attempt returns or raises


def _plan(parts: Assembly, nonce: bytes, attempt: int) -> RoundPlan:
    asked, clients = _round_of(parts), parts.clients
    rule = build_survivor_rule(asked.config, parts.scheme, Everyone(), clients)
    encoding, _ = build_encoding(
        asked.config, (asked.length,), scheme=parts.scheme, sampling=Everyone(), population=clients, sizes=()
    )
    return RoundPlan(
        run=nonce,
        round=ROUND,
        attempt=attempt,
        model_hash=model_hash(_nothing(parts)),
        cohort=tuple(range(clients)),
        population=clients,
        sampling=Everyone(),
        survivor_rule=rule,
        encoding=encoding,
        mechanism=build_mechanism(asked.config),
        scheme=parts.scheme.name,
        parameters=parts.scheme.parameters,
        seed=parts.config.seed,
    )


def _draw(parts: Assembly) -> Draw:
    rule = build_survivor_rule(_round_of(parts).config, parts.scheme, Everyone(), parts.clients)
    dropout, mechanism = getattr(parts.dropouts, "probability", None), build_mechanism(_round_of(parts).config)
    notes = DrawNotes(
        Everyone(),
        parts.clients,
        lambda size: rule.shortfall(parts.scheme, size, dropout, mechanism),
        parts.retries + 1,
        parts.unit.adjacency,
    )
    return notes.next(ROUND)


def _contribution(parts: Assembly) -> Callable[..., ClientUpdate]:
    moments, federation = _moments(parts), parts.unprepared

    def contribute(model: Vector, client: ClientId, round: int, rng: Any, state: object = None) -> ClientUpdate:
        features, _ = federation.train(client)
        return ClientUpdate(moments.mean_unit(features), len(features))

    return contribute


def _answers(parts: Assembly, sums: Vector, clients: int, head: str) -> Answers:
    asked, dataset = _round_of(parts), parts.unprepared.dataset
    found, low = _moments(parts).of_sums(np.asarray(sums, np.float64)), parts.config.data.min_category_fraction
    hidden = found.std == asked.width  # the noise hides the variance
    ranges = public_ranges(dataset, "noisy")
    rare = () if low is None else (at for at, mean in enumerate(found.mean) if mean < low)
    return Answers(
        dataset.feature_names,
        tuple((asked.public.mean if hidden.all() else found.mean).tolist()),
        tuple(np.where(hidden, asked.public.std, found.std).tolist()),
        tuple(at for at in rare if tuple(ranges[at]) == (0.0, 1.0)),
        clients,
        head,
    )


def _moments(parts: Assembly) -> NoisedMoments:
    asked = _round_of(parts)
    plan = _plan(parts, bytes(RUN_NONCE_BYTES), 0)
    return NoisedMoments(asked.center, asked.width, asked.config.privacy.clip_norm or 1.0, plan.encoding.codec)


def _nothing(parts: Assembly) -> Vector:
    return np.zeros(_round_of(parts).length)


def _round_of(parts: Assembly) -> AnswerRound:
    if parts.answer_round is None:
        raise ConfigError("this run asks for no answers: set data.standardize = 'noisy'")
    return parts.answer_round
