"""Figures of whole runs next to what was really seen: skipped rounds, opened sums, and the noise that was added."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from privfl.dp import Ledger
from privfl.dp.unit import CLIENT_UNIT
from privfl.errors import ConfigError
from privfl.experiment import Experiment, Result
from privfl.fl.client import ClientUpdate
from privfl.he import messages as ckks
from privfl.ring import Ring
from privfl.secagg import MaskedSum, generate_identities
from privfl.secagg import messages as masked
from privfl.sums import SumTask
from privfl.wire import peek

CENTRAL = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0}
MASKED = {"sum.scheme": "masked"}
CKKS = {"sum.scheme": "ckks"}


def still(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    return ClientUpdate(np.zeros(len(model)), 1)


def an_experiment(runs: Path, clients: int, length: int = 2, **settings: Any) -> Experiment:
    common = {"rounds": 3, "evaluate_every": 0, "privacy.delta": 1e-5}
    if settings.get("sum") == "of one's own":
        credentials, directory = generate_identities(range(clients))
        own = {"sum": MaskedSum(directory, min_vectors=1), "credentials": credentials}
    else:
        own = {}
    settings.pop("sum", None)
    return Experiment(
        train=still, initial=np.zeros(length), clients=clients, runs=runs, overrides=common | CENTRAL | settings, **own
    )


# --- skipped rounds, which everybody sees ----------------------------------------------------------------------------


def skip_delta(experiment: Experiment, epsilon: float, rounds: int) -> float:
    """The least delta of the trained and skipped rounds alone at `epsilon`, for n clients against n - 1.

    It counts by itself: of the run it takes its settings, and of the sum the minimum of a task.
    """
    config, scheme = experiment.config, experiment.scheme
    fraction, stays = config.cohort.min_survivor_fraction, 1 - config.cohort.dropout
    tries, n = 1 + experiment.parts.retries, experiment.parts.clients

    def falls_short(size: int) -> float:
        try:
            task = SumTask(b"", tuple(range(size)), max(1, math.ceil(fraction * size)), 1, Ring(20), 1)
            least = scheme.min_survivors_to_open(task)
        except ConfigError:
            return 1.0
        return sum(math.comb(size, j) * stays**j * (1 - stays) ** (size - j) for j in range(min(least, size + 1)))

    def skipped(population: int) -> float:
        q = config.cohort.probability
        assert q is not None
        return float(sum(stats.binom.pmf(k, population, q) * falls_short(k) ** tries for k in range(population + 1)))

    j, odds = np.arange(rounds + 1), math.exp(epsilon)
    one, other = (stats.binom.pmf(j, rounds, skipped(population)) for population in (n, n - 1))
    return float(max(np.maximum(one - odds * other, 0).sum(), np.maximum(other - odds * one, 0).sum()))


SUMS: list[dict[str, Any]] = [
    MASKED,
    CKKS,
    {"sum": "of one's own"},
    MASKED | {"cohort.too_few": "retry"},
    MASKED | {"cohort.min_survivor_fraction": 0.9},
]
COHORTS = [(30, 0.9, 0.2), (30, 0.5, 0.01), (9, 0.7, 0.3), (40, 0.98, 0.01)]


@pytest.mark.parametrize(("clients", "probability", "dropout"), COHORTS)
@pytest.mark.parametrize("scheme", SUMS)
def test_epsilon_covers_skipped_rounds_or_counts_no_sampling(
    tmp_path: Path, scheme: dict[str, Any], clients: int, probability: float, dropout: float
) -> None:
    cohort = {"cohort.sampling": "poisson", "cohort.probability": probability, "cohort.dropout": dropout}
    # So much noise that the released models alone have hardly any epsilon.
    noise = {"privacy.noise_multiplier": 1000.0, "privacy.adjacency": "add_remove"}
    settings = cohort | noise | {"cohort.min_survivor_fraction": 0.05, "rounds": 2} | scheme
    experiment = an_experiment(tmp_path, clients, **settings)
    report = experiment.run().epsilon
    assert report is not None
    if report.unit.adjacency == "add_remove":
        assert skip_delta(experiment, report.epsilon, rounds=2) <= report.delta
    elif (clients, probability, dropout) == COHORTS[-1]:
        assert "cohort.min_survivor_fraction" in scheme, "sampling is counted where skipped rounds are this improbable"
    # The draws of the ledger are what the figure rests on: no smaller than the truth.
    ledger = Ledger(experiment.parts.unit, experiment.folder / "ledger.jsonl")
    for draw in ledger.draws:
        assert draw.turn is not None
        assert draw.turn >= skip_delta(experiment, 0.0, rounds=1) - 1e-12  # of which floating-point numbers are sure


# --- sums that were opened -------------------------------------------------------------------------------------------


class Damaging:
    """A sum whose server gets every message of one kind with its last byte flipped."""

    def __init__(self, scheme: Any, kind: int) -> None:
        self._scheme, self._kind, self.damaged = scheme, kind, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheme, name)

    def server(self, *args: Any, **more: Any) -> Any:
        outer, session = self, self._scheme.server(*args, **more)

        class Server:
            def __getattr__(self, name: str) -> Any:
                return getattr(session, name)

            def receive(self, sender: int, message: bytes) -> None:
                if peek(message, max_length=len(message))[0].kind == outer._kind:
                    outer.damaged += 1
                    message = message[:-1] + bytes([message[-1] ^ 1])
                session.receive(sender, message)

        return Server()


def damaged_run(runs: Path, kind: int, **settings: Any) -> tuple[Result, Damaging]:
    experiment = an_experiment(runs, 6, rounds=1, **settings)
    scheme = Damaging(experiment.scheme, kind)
    experiment.parts = dataclasses.replace(experiment.parts, scheme=scheme)
    return experiment.run(), scheme


@pytest.mark.parametrize("retries", ["skip", "retry"])
@pytest.mark.parametrize(
    ("scheme", "message", "seen"),
    [
        ("masked", masked.AdvertiseKeys, False),
        ("masked", masked.ShareKeys, True),  # which is found out when the sum is opened
        ("masked", masked.ConsistencyCheck, False),
        ("masked", masked.Unmask, True),
        ("ckks", ckks.Frame, False),
        ("ckks", ckks.Consent, False),
        ("ckks", ckks.Opened, True),
    ],
)
def test_a_sum_that_arrived_is_charged_though_its_message_was_refused(
    tmp_path: Path, scheme: str, message: Any, seen: bool, retries: str
) -> None:
    result, damaging = damaged_run(
        tmp_path, message.KIND, **{"sum.scheme": scheme, "cohort.too_few": retries, "cohort.retries": 1}
    )
    (report,) = result
    assert damaging.damaged >= 3
    assert report.status == "skipped"
    ledger = Ledger(CLIENT_UNIT, result.folder / "ledger.jsonl")
    attempts = 2 if retries == "retry" else 1
    assert [(release.round, release.attempt) for release in ledger.releases] == [(1, n) for n in range(attempts * seen)]
    assert result.epsilon is not None
    assert (result.epsilon.epsilon > 1) == seen


# --- noise that was added --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["masked", "ckks"])
@pytest.mark.parametrize("clients", [3, 4, 5, 8, 10])
def test_noise_shares_are_sized_for_what_the_sum_opens(tmp_path: Path, clients: int, scheme: str) -> None:
    """All shares of a cohort add up to the declared noise of the fewest clients that open, and to no more."""
    length = 20_000 if scheme == "masked" else 4000
    settings = {"sum.scheme": scheme, "privacy.placement": "distributed", "rounds": 1}
    experiment = an_experiment(tmp_path, clients, length, **settings)
    result = experiment.run()
    (release,) = Ledger(experiment.parts.unit, result.folder / "ledger.jsonl").releases
    task = SumTask(b"", tuple(range(clients)), max(1, math.ceil(clients / 2)), 1, Ring(20), 1)
    opened = experiment.scheme.min_survivors_to_open(task)
    counted = opened - 1 - experiment.parts.mechanism.colluders  # nobody counts on the noise of its own
    shares = math.sqrt(clients / counted)
    assert release.realized_stddev / release.declared_stddev == pytest.approx(math.sqrt((clients - 1) / counted))
    if scheme == "masked" and clients in (5, 10):
        assert shares <= 1.30
    # What was really added: the spread of a model that nobody moved.
    added = float(result.model.std()) * clients / (CENTRAL["privacy.noise_multiplier"] * CENTRAL["privacy.clip_norm"])
    assert added == pytest.approx(shares, rel=5 / math.sqrt(length))
