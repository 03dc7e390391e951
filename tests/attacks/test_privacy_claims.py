"""Ways to get an epsilon that is too low out of a run, and that each is refused, or said for what it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import a_plan

from privfl.cli.app import run as command
from privfl.cli.runs import _summary
from privfl.cli.show import facts
from privfl.codec import FixedPoint
from privfl.crypto import MemoryDirectory
from privfl.data import Dataset
from privfl.dp import (
    Accountant,
    ElementClip,
    Everyone,
    FlatClip,
    Ledger,
    Mechanism,
    Poisson,
    RoundNoise,
    Slot,
    epsilon,
    what_if,
)
from privfl.dp.unit import CLIENT_UNIT
from privfl.engine import LoopExecutor
from privfl.errors import ConfigError, PrivacyError, StateError
from privfl.experiment import Experiment
from privfl.experiment.folder import find_runs
from privfl.fl.client import ClientUpdate
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.payment import Payment
from privfl.fl.report import RoundReport
from privfl.fl.round import Parts
from privfl.fl.run import FederatedRun
from privfl.fl.sampling import EveryoneSampler, PoissonSampler, secret_uniforms
from privfl.fl.slots import Metric
from privfl.fl.store import ModelStore
from privfl.fl.survivors import SurvivorRule, noise_spread
from privfl.he import CkksSum
from privfl.report.run import read_run
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum

CODEC = FixedPoint(2.0**16, Ring(40))
TENTH = PoissonSampler(0.1)
CENTRAL = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0}


def an_experiment(runs: Path, **settings: Any) -> Experiment:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(60, 3)).astype(np.float32)
    data = Dataset("points", "binary", features, (features[:, 0] > 0).astype(np.int64), classes=("a", "b"))
    common = {"name": "run", "rounds": 3, "data.clients": 4, "client.steps": 1}
    return Experiment(data=data, runs=runs, overrides=common | settings)


def still(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    return ClientUpdate(np.zeros(3), 1, {})


def a_run(folder: Path, source: Any = "secure", sampler: Any = None, **changes: Any) -> FederatedRun:
    settings: dict[str, Any] = {
        "population": 4,
        "parts": Parts(still, PlainSum(), LoopExecutor()),
        "encoding": UpdateEncoding(3, CODEC, FlatClip(1.0)),
        "mechanism": Mechanism("central", 2.0, source),
        "sampler": EveryoneSampler() if sampler is None else sampler,
        "store": ModelStore(folder),
        "seed": 0,
        "payment": Payment(Ledger(CLIENT_UNIT), Accountant(1e-5)),
    }
    return FederatedRun(**settings | changes)


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_ledger_that_was_lost_or_cut_short_beside_its_models_gives_no_figure(tmp_path: Path, kept: int) -> None:
    experiment = an_experiment(tmp_path, **CENTRAL)
    list(experiment.run())
    whole = experiment.epsilon()
    assert whole is not None and whole.epsilon > 0  # noqa: PT018 - for the type checker
    path = tmp_path / "run" / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)  # whole lines: the chain of what is left is sound
    path.write_bytes(b"".join(lines[:kept]))
    if not kept:
        path.unlink()
    with pytest.raises(StateError, match="not in the ledger"):
        an_experiment(tmp_path, **CENTRAL).epsilon()
    with pytest.raises(StateError, match="not in the ledger"):
        list(an_experiment(tmp_path, **CENTRAL, rounds=4).run(resume=True))


def test_the_figure_of_seeded_noise_is_nowhere_called_an_epsilon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = an_experiment(tmp_path, **CENTRAL, **{"privacy.noise": "simulation"})
    reports = list(experiment.run())
    assert "epsilon if the noise were secure" in facts(reports[-1], 8.0)
    assert b'"epsilon"' not in (tmp_path / "run" / "metrics.jsonl").read_bytes()
    latest = experiment.store.latest()
    assert latest is not None
    assert "epsilon" not in latest.report
    assert RoundReport.read(latest.report) == reports[-1]
    (listed,) = (_summary(run) for run in find_runs(tmp_path))
    assert listed["epsilon_if_the_noise_were_secure"] == reports[-1].epsilon
    assert "epsilon" not in listed
    assert command(["runs", "list", "--runs", str(tmp_path)]) == 0
    assert "secure" in capsys.readouterr().out


@pytest.mark.parametrize("lost", [False, True])
def test_no_page_is_written_about_a_run_whose_ledger_is_lost_or_cut_short(tmp_path: Path, lost: bool) -> None:
    list(an_experiment(tmp_path, **CENTRAL).run())
    path = tmp_path / "run" / "ledger.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    if lost:
        path.unlink()
    with pytest.raises(StateError, match="ledger"):
        read_run(tmp_path / "run")


def test_a_delta_of_zero_is_refused_and_not_taken_for_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="delta"):
        an_experiment(tmp_path, **CENTRAL).epsilon(delta=0.0)


@pytest.mark.parametrize(
    ("encoding", "norm"),
    [
        (UpdateEncoding(3, CODEC, FlatClip(1.0)), 1.0),
        (UpdateEncoding(3, CODEC, ElementClip(0.2, 3)), 0.2 * math.sqrt(3)),
        (UpdateEncoding(2, CODEC, FlatClip(0.1), metrics=(Metric("loss", 1.0),)), math.hypot(0.1, 1.0)),
    ],
)
def test_the_noise_covers_every_slot_of_the_vector_that_is_summed(encoding: UpdateEncoding, norm: float) -> None:
    plan = a_plan(PlainSum(), np.zeros(encoding.length), encoding=encoding, mechanism=Mechanism("central", 2.0))
    noise = plan.noise(PlainSum())
    assert noise.length == encoding.total_length
    assert noise.noise_stddev == pytest.approx(2.0 * CODEC.scale * norm, rel=1e-12)
    assert (noise.opening()(np.zeros(noise.length, np.int64), frozenset()) != 0).all()


def test_secure_noise_over_cohorts_that_anybody_can_sample_again_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="no secret"):
        a_run(tmp_path, sampler=TENTH)
    a_run(tmp_path, sampler=TENTH, uniforms=lambda seed, round: secret_uniforms(bytes(32), round))
    a_run(tmp_path, "simulation", TENTH)  # its figure says of itself that it is none
    a_run(tmp_path)  # there is nothing to sample


MANY = (Slot("update", 100_000, 1024.0, 1.0),)


def a_release(noise: RoundNoise, sampling: Any, scheme: Any, cohort: int) -> Ledger:
    """A ledger with the worst case of one round."""
    ledger = Ledger(CLIENT_UNIT)
    ledger.draw(0, sampling, 0.0)
    settings: Any = {"round": 0, "attempt": 0, "sampling": sampling, "views": scheme.views}
    ledger.reserve(noise.release(**settings, participants=range(cohort), worst_case=True))
    return ledger


def test_local_noise_reveals_who_was_absent_and_so_claims_no_amplification() -> None:
    # Without the client its noise is missing too: over many coordinates the sum's spread counts clients.
    noise = RoundNoise(Mechanism("local", 2.0), MANY, 4)
    noisy = [noise.contribute(np.zeros(100_000, np.int64)) for _ in range(4)]
    with_it, without = np.sum(noisy, axis=0).std(), np.sum(noisy[:3], axis=0).std()
    assert with_it / without == pytest.approx(math.sqrt(4 / 3), rel=0.02)
    ledger = a_release(noise, Poisson(0.5), MaskedSum(mode="semi-honest"), 4)
    settings: Any = {"noise_multiplier": 2.0, "rounds": 1, "delta": 1e-5, "placement": "local", "slots": MANY}
    whole = what_if(sampling=Everyone(), **settings)
    for found in (epsilon(ledger, 1e-5), what_if(sampling=Poisson(0.5), **settings)):
        assert found.unit.adjacency == "zero_out"
        assert found.epsilon == whole.epsilon
        assert found.sampling == "everyone takes part in every round"


@pytest.mark.parametrize(("sampled", "silent"), [(40, 0), (60, 0), (60, 1), (60, 20), (41, 9)])
def test_distributed_noise_does_not_reveal_how_many_were_sampled_or_dropped_out(sampled: int, silent: int) -> None:
    mechanism, rule = Mechanism("distributed", 2.0), SurvivorRule(0.6, 30)
    spread = noise_spread(mechanism, rule, PlainSum(), Poisson(0.9).sizes(60))
    noise = RoundNoise(mechanism, MANY, sampled, spread)
    largest = RoundNoise(mechanism, MANY, 60, spread)
    zeros = np.zeros(100_000, np.int64)
    alive = sampled - silent
    total = sum((noise.contribute(zeros) for _ in range(alive)), zeros)
    opened = noise.opening()(total, frozenset(range(alive)))
    assert opened.std() == pytest.approx(largest.total_stddev, rel=0.012)
    assert noise.total_stddev == pytest.approx(largest.total_stddev, rel=1e-12)
    if silent >= 9:
        assert total.std() < 0.95 * largest.total_stddev  # what the opener added is a good part of it
    # The server subtracts what it added, a participant its own share: what is left still reaches the declared noise.
    assert noise.realized_stddev(alive) >= noise.noise_stddev


def test_central_noise_in_an_encrypted_sum_promises_nothing_to_those_who_hold_its_key() -> None:
    noise = RoundNoise(Mechanism("central", 2.0), (Slot("update", 3, CODEC.scale, 1.0),), 4)
    ledger = a_release(noise, Poisson(0.5), CkksSum(MemoryDirectory({})), 4)
    for observer in ("participant", "key_holder"):
        report = epsilon(ledger, 1e-5, observer=observer)  # type: ignore[arg-type]
        assert math.isinf(report.epsilon)
        assert "before its noise" in report.sentence
    for observer in ("outsider", "server"):
        assert epsilon(ledger, 1e-5, observer=observer).epsilon < 10  # type: ignore[arg-type]


def test_a_private_round_has_uniform_weights_and_the_public_denominator_of_its_sampling() -> None:
    weighted = UpdateEncoding(3, CODEC, FlatClip(1.0), weighting="examples", max_weight=4)
    noise = Mechanism("central", 2.0)
    with pytest.raises(PrivacyError, match=r"server\.weighting"):
        a_plan(PlainSum(), np.zeros(3), encoding=weighted, mechanism=noise)
    for survivors in (1, 2, 3):
        plan = a_plan(PlainSum(), np.zeros(3), mechanism=noise)
        mean = plan.decode(np.full(3, 3 * 2**16, np.int64), survivors).mean
        np.testing.assert_allclose(mean, 1.0)


def test_a_ledger_without_the_last_charges_of_a_retried_round_or_without_a_skipped_round_gives_no_figure(
    tmp_path: Path,
) -> None:
    late = {
        "sum.scheme": "masked",
        "privacy.placement": "distributed",
        "cohort.min_survivor_fraction": 0.8,
        "cohort.dropout": 0.4,
        "data.clients": 6,
    }
    retried = an_experiment(tmp_path, **CENTRAL | late, **{"cohort.too_few": "retry", "cohort.retries": 6, "rounds": 1})
    retried.run()
    skipped = an_experiment(tmp_path, **CENTRAL | late, name="skipped")
    assert skipped.run().reports[-1].status == "skipped"
    ledger = retried.files.ledger
    assert ledger is not None
    assert len(ledger.releases) > 1  # tries that failed after the opening had begun
    for experiment in (retried, skipped):
        path = experiment.files.ledger_path
        lines = path.read_bytes().splitlines(keepends=True)
        for kept in range(1, len(lines)):
            path.write_bytes(b"".join(lines[:kept]))
            if b'"type":"refund"' in b"".join(lines[kept:]) and experiment is skipped:
                continue  # a charge too many
            with pytest.raises(StateError, match="not in the ledger"):
                experiment.files.epsilon()


def zeros(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    return ClientUpdate(np.zeros(3), 1)


def of_a_hundred(runs: Path, **own: Any) -> Experiment:
    return Experiment(train=zeros, initial=np.zeros(3), clients=100, runs=runs, **own)


class AllDeclaredAsFew:
    def declare(self, population: int) -> Any:
        return Poisson(0.1)

    def sample(self, population: int, uniforms: Any) -> tuple[int, ...]:
        uniforms(population)  # takes the coins, and does not use them
        return tuple(range(population))


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_sampler_that_is_refuted_by_its_last_cohort_gets_no_amplification(tmp_path: Path, rounds: int) -> None:
    settings = {"overrides": CENTRAL, "rounds": rounds}
    honest = of_a_hundred(tmp_path / "honest", **settings).run()
    lying = of_a_hundred(tmp_path / "lying", sampler=AllDeclaredAsFew(), **settings).run()
    assert honest.epsilon is not None
    assert lying.epsilon is not None
    assert lying.epsilon.epsilon == honest.epsilon.epsilon == lying.reports[-1].epsilon
    assert lying.epsilon.unit.adjacency == "zero_out"
    longer = of_a_hundred(tmp_path / "lying", sampler=AllDeclaredAsFew(), overrides=CENTRAL, rounds=rounds + 1)
    assert longer.run(resume=True).reports[-1].epsilon == longer.files.epsilon().epsilon  # type: ignore[union-attr]


@pytest.mark.parametrize(("opener", "blind"), [("server", "server"), ("client", "participant")])
def test_a_sum_whose_opener_claims_to_see_the_release_only_is_refused(tmp_path: Path, opener: str, blind: str) -> None:
    class Blind(PlainSum):
        @property
        def views(self) -> Any:
            return dict(super().views) | {"server": "vectors", "participant": "sum"} | {blind: "release"}

    scheme = Blind()
    scheme.opener = opener  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="sees the release only"):
        of_a_hundred(tmp_path, sum=scheme, overrides=CENTRAL).run()


def test_a_delta_above_one_in_all_clients_is_told(tmp_path: Path) -> None:
    experiment = of_a_hundred(tmp_path, overrides=CENTRAL, rounds=1)
    experiment.run()
    for delta, told in ((0.5, True), (0.01, True), (0.001, False)):
        report = experiment.epsilon(delta=delta)
        assert report is not None
        assert any("not below 1/100" in caveat for caveat in report.caveats) == told


def test_an_interrupted_round_is_not_settled_by_the_settings_of_another_run(tmp_path: Path) -> None:
    payment = Payment(Ledger(CLIENT_UNIT), Accountant(1e-5, assume_secure_noise=True))
    list(a_run(tmp_path, "simulation", payment=payment).run(np.zeros(3), 1))
    (settled,) = payment.ledger.releases
    crashed = Payment(Ledger(CLIENT_UNIT), payment.accountant)  # killed between the model and the ledger
    crashed.ledger.draw(1, settled.sampling, 0.0)
    crashed.ledger.reserve(settled)
    stronger = a_run(tmp_path, mechanism=Mechanism("central", 20.0, "simulation"), payment=crashed)
    list(stronger.run(np.zeros(3), 1))
    assert crashed.ledger.releases == (settled,)


def test_the_ledger_of_another_run_with_more_noise_gives_no_figure(tmp_path: Path) -> None:
    noisy = CENTRAL | {"privacy.noise_multiplier": 50.0}
    for name, settings in (("a", CENTRAL), ("b", noisy)):
        an_experiment(tmp_path, **settings, name=name).run()
    (tmp_path / "a" / "ledger.jsonl").write_bytes((tmp_path / "b" / "ledger.jsonl").read_bytes())
    with pytest.raises(StateError, match="another run's"):
        an_experiment(tmp_path, **CENTRAL, name="a").epsilon()
    with pytest.raises(StateError, match="another run's"):
        an_experiment(tmp_path, **CENTRAL, name="a", rounds=4).run(resume=True)
