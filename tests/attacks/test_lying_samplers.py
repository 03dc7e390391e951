"""Samplers that do otherwise than they declare, and rounds that are tried more often than their draw counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import CODEC

from privfl.dp import Accountant, Everyone, FixedSize, FlatClip, Ledger, Mechanism, Poisson, TruncatedPoisson
from privfl.dp.draws import plausible
from privfl.dp.unit import CLIENT_UNIT
from privfl.engine import LoopExecutor
from privfl.errors import ConfigError, PrivacyError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.fl.dropout import RandomDropouts
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.payment import Payment
from privfl.fl.round import Parts
from privfl.fl.run import FederatedRun
from privfl.fl.sampling import PoissonSampler, secret_uniforms
from privfl.fl.store import ModelStore
from privfl.fl.survivors import SurvivorRule
from privfl.sums import PlainSum
from privfl.sums.driver import never

CENTRAL = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0}


def still(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    return ClientUpdate(np.zeros(3), 1)


class Sampler:
    """Declares what it is told to, and samples as it is told to."""

    def __init__(self, declaration: Any, choose: Callable[[int, Any], Any]) -> None:
        self.declaration, self.choose = declaration, choose

    def declare(self, population: int) -> Any:
        return self.declaration

    def sample(self, population: int, uniforms: Any) -> Any:
        return self.choose(population, uniforms)


def of_twelve(runs: Path, sampler: Sampler, **settings: Any) -> Experiment:
    return Experiment(
        train=still, initial=np.zeros(3), clients=12, runs=runs, sampler=sampler,
        overrides=CENTRAL | {"rounds": 2} | settings,
    )  # fmt: skip


def coins(population: int, uniforms: Any) -> tuple[int, ...]:
    return tuple(np.flatnonzero(uniforms(population) < 0.3).tolist())


class Poissonian(Poisson):
    """A subclass may answer anything, so only the declarations themselves are taken."""


@pytest.mark.parametrize(
    "declaration", ["poisson", None, 0.3, Poisson, {"kind": "poisson", "probability": 0.3}, Poissonian(0.001)]
)
def test_a_declaration_that_is_none_is_refused(tmp_path: Path, declaration: Any) -> None:
    with pytest.raises(ConfigError, match=r"returns one of Everyone, .*Poisson"):
        of_twelve(tmp_path, Sampler(declaration, coins)).run()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "cohort", [(0, 1, 12), (-1, 2), (2, 1), (1, 1), (0.0, 1.0), ("0", "1"), 3, None, (2**32, 2**33)]
)
@pytest.mark.parametrize("private", [False, True])
def test_a_cohort_of_others_than_the_clients_is_refused(tmp_path: Path, cohort: Any, private: bool) -> None:
    def choose(population: int, uniforms: Any) -> Any:
        uniforms(population)
        return cohort

    bare = {"privacy.placement": "none", "privacy.noise_multiplier": None}
    experiment = of_twelve(tmp_path, Sampler(Poisson(0.3), choose), **({} if private else bare))
    with pytest.raises(ConfigError, match="cohort"):
        experiment.run()


def test_a_cohort_of_numpy_integers_is_taken(tmp_path: Path) -> None:
    def choose(population: int, uniforms: Any) -> Any:
        return np.flatnonzero(uniforms(population) < 0.5)

    result = of_twelve(tmp_path, Sampler(Poisson(0.5), choose)).run()
    assert [type(client) for client in result.reports[0].dropouts] == [int] * len(result.reports[0].dropouts)
    assert result.epsilon is not None


@pytest.mark.parametrize(
    ("declaration", "settings"),
    [
        (Poisson(0.3), {}),
        (TruncatedPoisson(0.3, 5, 12), {}),
        (FixedSize(3, 12), {"privacy.adjacency": "replace_one"}),
    ],
)
def test_amplification_without_a_coin_is_refused(tmp_path: Path, declaration: Any, settings: dict[str, Any]) -> None:
    """A cohort from a list, or from a seed of the sampler's own, is known to whoever knows the program."""
    own = np.random.default_rng(0)
    for choose in (lambda n, u: (0, 1, 2), lambda n, u: tuple(sorted(own.choice(n, 3, replace=False).tolist()))):
        experiment = Experiment(
            train=still, initial=np.zeros(3), clients=12, sampler=Sampler(declaration, choose),
            overrides=CENTRAL | settings,
        )  # fmt: skip
        with pytest.raises(PrivacyError, match="none of the coins"):
            experiment.run()
        assert experiment.store.rounds() == [0]
        assert Ledger.read(experiment.files.ledger_path).releases == ()


def test_a_client_that_is_always_sampled_voids_the_draws(tmp_path: Path) -> None:
    """The cohorts have the declared size; who is in them is not what Poisson sampling gives."""

    def favorites(population: int, uniforms: Any) -> tuple[int, ...]:
        uniforms(population)
        return (0, 1, 2, 3)

    lying = of_twelve(tmp_path, Sampler(Poisson(0.3), favorites), rounds=24)
    result = lying.run()
    assert result.epsilon is not None
    everyone = of_twelve(tmp_path / "all", Sampler(Everyone(), lambda n, u: tuple(range(n))), rounds=24).run().epsilon
    assert everyone is not None
    assert result.epsilon.epsilon == everyone.epsilon
    assert any(draw.void for draw in Ledger.read(lying.files.ledger_path).draws)
    # A resumed run counts from the ledger, and finds the same.
    again = of_twelve(tmp_path / "cut", Sampler(Poisson(0.3), favorites), rounds=15)
    assert again.run().epsilon.epsilon < 0.9 * everyone.epsilon  # type: ignore[union-attr]
    more = of_twelve(tmp_path / "cut", Sampler(Poisson(0.3), favorites), rounds=24).run(resume=True)
    assert more.epsilon.epsilon == everyone.epsilon  # type: ignore[union-attr]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_honest_cohorts_are_hardly_ever_implausible(share: float) -> None:
    """The most-sampled client of 12 in 400 honest runs of 50 rounds."""
    rng = np.random.default_rng(5)
    for _ in range(400):
        times = (rng.random((50, 12)) < share).sum(axis=0)
        counted = {"participants": int(times.sum()), "max_times": int(times.max())}
        assert plausible(Poisson(share), 12, rounds=50, skipped=0, shortfall=0.0, **counted)
    assert not plausible(Poisson(share), 12, rounds=500, skipped=0, participants=1, shortfall=0.0, max_times=500)


def a_run(folder: Path, payment: Payment, dropouts: Any, **changes: Any) -> FederatedRun:
    settings: dict[str, Any] = {
        "population": 40,
        "parts": Parts(still, PlainSum(), LoopExecutor()),
        "encoding": UpdateEncoding(3, CODEC, FlatClip(1.0)),
        "mechanism": Mechanism("distributed", 2.0),
        "sampler": PoissonSampler(0.5),
        "store": ModelStore(folder),
        "seed": 0,
        "survivor_rule": SurvivorRule(0.5, 3),
        "payment": payment,
        "dropouts": dropouts,
        "uniforms": lambda seed, round: secret_uniforms(bytes(32), round),
    }
    return FederatedRun(**settings | changes)


class Killed(BaseException):
    """A kill that comes while the sum of a round runs."""


class Kill:
    """Dropouts of a declared probability; the next try numbered `kill` is killed, and the others may open nothing."""

    def __init__(self, *, fails: bool) -> None:
        self.probability, self.fails, self.kill = 0.05, fails, 0

    def __call__(self, round: int, number: int) -> Any:
        self.kill -= 1
        if self.kill == 0:
            raise Killed
        return (lambda client, step: True) if self.fails else never


def run_of(folder: Path, pattern: Any, rounds: int, *, retries: int, kills: Sequence[int] = ()) -> Ledger:
    """A run that is killed and started again, once for each number of a try in `kills`; its ledger."""
    ledger = Ledger(CLIENT_UNIT, folder / "ledger.jsonl")
    run = a_run(folder / "models", Payment(ledger, Accountant(1e-5)), pattern, retries=retries)
    for kill in kills:
        pattern.kill = kill
        with pytest.raises(Killed):
            list(run.run(np.zeros(3), rounds))
    list(run.run(np.zeros(3), rounds))
    return ledger


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("kills", [0, 1, 3])
def test_tries_that_a_kill_adds_are_counted(tmp_path: Path, kills: int, fails: bool) -> None:
    """With one retry a start tries a round twice; each kill adds as many, and each of them may turn on a client."""
    whole = run_of(tmp_path / "whole", RandomDropouts(0.05, 0), 2, retries=1)
    turn = whole.draws[0].turn
    assert turn is not None
    assert turn > 0
    when = [2] * kills if fails else [2, 1, 1][:kills]
    ledger = run_of(tmp_path / "killed", Kill(fails=fails), 2, retries=1, kills=when)
    assert [draw.turn for draw in ledger.draws[:1]] == [turn]
    # Each draw that carries the tries of a kill also counts as one of a round of its own.
    counted = [draw.turn for draw in ledger.draws if not draw.void]
    assert counted[1:] == ([turn] if not kills else [turn] * (not fails) + [pytest.approx(2 * turn, rel=0.01)] * kills)
    tries = [ledger.next_attempt(round) for round in (1, 2)]
    assert math.fsum(counted) >= turn * sum(max(2, count) for count in tries) / 2 * (1 - 1e-9)  # type: ignore[arg-type]
    if fails:
        assert tries == [2 + kills, 2]


def test_the_record_of_a_kill_reveals_nothing_of_the_tries_before_it(tmp_path: Path) -> None:
    """Killed in its first try or in its last: the published draws are the same."""
    published = []
    for kill in (1, 3):
        ledger = run_of(tmp_path / str(kill), Kill(fails=True), 1, retries=2, kills=[kill])
        ledger.publish(tmp_path / "published")
        published.append((tmp_path / "published").read_bytes())
    assert published[0] == published[1]
    assert published[0].count(b'"draw"') == 2


def test_a_kill_where_half_of_all_rounds_turn_voids_the_draws(tmp_path: Path) -> None:
    pattern = Kill(fails=True)
    pattern.probability = 0.45
    ledger = run_of(tmp_path, pattern, 1, retries=2, kills=[1])
    assert ledger.draws[-1].void


def test_seeded_tries_are_repeated_and_not_counted_again(tmp_path: Path) -> None:
    run = Experiment(
        train=still, initial=np.zeros(3), clients=12, runs=tmp_path,
        overrides=CENTRAL | {
            "rounds": 2, "privacy.noise": "simulation", "cohort.sampling": "poisson", "cohort.probability": 0.6,
            "cohort.dropout": 0.1, "privacy.placement": "distributed",
        },
    )  # fmt: skip
    next(run.each_round())
    lines = run.files.ledger_path.read_bytes()
    assert lines.count(b'"draw"') == 1
    list(run.each_round(resume=True))
    assert run.files.ledger_path.read_bytes().count(b'"draw"') == 2
