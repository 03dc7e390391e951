"""Ways to get an epsilon that is too low out of a run, and that each is refused, or said for what it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledgers import CKKS, MASKED, PLAIN, Judge

from privfl.cli.runs import _summary, list_
from privfl.cli.show import facts
from privfl.codec import FixedPoint
from privfl.data import Dataset
from privfl.dp import (
    CLIENT_UNIT,
    Accountant,
    ElementClip,
    Everyone,
    FlatClip,
    Ledger,
    Mechanism,
    NoisePlan,
    Poisson,
    Slot,
    what_if,
)
from privfl.engine import LoopExecutor
from privfl.errors import ConfigError, PrivacyError, StateError
from privfl.experiment import Experiment
from privfl.experiment.folder import find_runs
from privfl.fl.client import ClientUpdate
from privfl.fl.plan import Metric, UpdatePlan
from privfl.fl.round import Contribution, Parts
from privfl.fl.run import FederatedRun, Payment, RoundReport
from privfl.fl.sampling import EveryoneSampler, PoissonSampler, secret_uniforms
from privfl.fl.store import ModelStore
from privfl.report.run import read_run
from privfl.ring import Ring
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


def a_noise(bound: float, source: Any = "secure", length: int = 3) -> NoisePlan:
    slot = Slot("update", length, CODEC.scale, bound)
    return Mechanism("central", 2.0, source).plan([slot], cohort=4, min_survivors=1)


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
    list_(tmp_path)
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
    "update",
    [
        UpdatePlan(3, CODEC, FlatClip(1.0)),
        UpdatePlan(3, CODEC, ElementClip(0.2, 3)),
        UpdatePlan(2, CODEC, FlatClip(0.1), metrics=(Metric("loss", 1.0),)),
        UpdatePlan(2, CODEC, FlatClip(0.1), weighting="examples", max_weight=1 << 16),
    ],
)
def test_noise_that_is_planned_for_shorter_contributions_than_the_clients_make_is_refused(update: UpdatePlan) -> None:
    with pytest.raises(PrivacyError, match="integer units"):
        Contribution(still, update, a_noise(0.1), 0)
    Contribution(still, update, a_noise(math.hypot(1.0, 0.1)), 0)


def test_noise_that_does_not_cover_the_whole_vector_is_refused() -> None:
    with pytest.raises(PrivacyError, match="entries"):
        Contribution(still, UpdatePlan(3, CODEC, FlatClip(1.0)), a_noise(1.0, length=2), 0)


def test_secure_noise_over_cohorts_that_anybody_can_draw_again_is_refused(tmp_path: Path) -> None:
    def a_run(source: str = "secure", sampler: Any = TENTH, **changes: Any) -> FederatedRun:
        work = Contribution(still, UpdatePlan(3, CODEC, FlatClip(1.0)), a_noise(1.0, source), 0)
        parts = Parts(work, PlainSum(), LoopExecutor())
        payment = Payment(Ledger(CLIENT_UNIT), Accountant(1e-5), PLAIN)
        settings = {"seed": 0, "denominator": 4.0, "payment": payment} | changes
        return FederatedRun(4, parts, sampler, ModelStore(tmp_path), **settings)

    with pytest.raises(PrivacyError, match="no secret"):
        a_run()
    a_run(uniforms=lambda seed, round: secret_uniforms(bytes(32), round))
    a_run("simulation")  # its figure says of itself that it is none
    a_run(sampler=EveryoneSampler())  # there is nothing to draw


MANY = [Slot("update", 100_000, 1024.0, 1.0)]


def test_local_noise_tells_who_was_absent_and_so_claims_no_amplification() -> None:
    # Without the client its noise is missing too: over many coordinates the sum's spread counts clients.
    plan = Mechanism("local", 2.0).plan(MANY, cohort=4, min_survivors=4)
    noisy = [plan.contribute(np.zeros(100_000, np.int64)) for _ in range(4)]
    with_it, without = np.sum(noisy, axis=0).std(), np.sum(noisy[:3], axis=0).std()
    assert with_it / without == pytest.approx(math.sqrt(4 / 3), rel=0.02)
    release = plan.worst_case(round=0, sampling=Poisson(0.5), views=MASKED, cohort=range(4))
    settings: Any = {"noise_multiplier": 2.0, "rounds": 1, "delta": 1e-5, "placement": "local", "slots": MANY}
    whole = what_if(sampling=Everyone(), **settings)
    for found in (Judge(CLIENT_UNIT, 1e-5).report([release]), what_if(sampling=Poisson(0.5), **settings)):
        assert found.unit.adjacency == "zero_out"
        assert found.epsilon == whole.epsilon
        assert found.sampling == "everyone takes part in every round"


@pytest.mark.parametrize(("drawn", "silent"), [(40, 0), (60, 0), (60, 1), (60, 20), (41, 9)])
def test_distributed_noise_does_not_tell_how_many_were_drawn_or_fell_silent(drawn: int, silent: int) -> None:
    plan = Mechanism("distributed", 2.0).plan(MANY, cohort=60, min_survivors=30, survivor_share=0.6)
    drawn_plan = plan.for_cohort(drawn)
    zeros = np.zeros(100_000, np.int64)
    alive = drawn - silent
    total = sum((drawn_plan.contribute(zeros) for _ in range(alive)), zeros)
    opened = drawn_plan.opening()(total, frozenset(range(alive)))
    assert opened.std() == pytest.approx(plan.total_stddev, rel=0.012)
    assert drawn_plan.total_stddev == pytest.approx(plan.total_stddev, rel=1e-12)
    if silent >= 9:
        assert total.std() < 0.95 * plan.total_stddev  # what the opener put back is a good part of it
    # The server subtracts what it put back, a participant its own share: what is left still reaches the declared noise.
    assert drawn_plan.realized_stddev(alive) >= plan.noise_stddev
    with pytest.raises(PrivacyError, match="at most 60"):
        plan.for_cohort(61)


def test_central_noise_in_an_encrypted_sum_promises_nothing_to_those_who_hold_its_key() -> None:
    plan = a_noise(1.0)
    release = plan.worst_case(round=0, sampling=Poisson(0.5), views=CKKS, cohort=range(4))
    for observer in ("participant", "key_holder"):
        report = Judge(CLIENT_UNIT, 1e-5, observer=observer).report([release])  # type: ignore[arg-type]
        assert math.isinf(report.epsilon)
        assert "before its noise" in report.sentence
    for observer in ("outsider", "server"):
        assert Judge(CLIENT_UNIT, 1e-5, observer=observer).report([release]).epsilon < 10  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("update", "denominator", "match"),
    [
        (UpdatePlan(3, CODEC, FlatClip(1.0)), None, "denominator"),
        (UpdatePlan(3, CODEC, FlatClip(1.0), weighting="examples", max_weight=4), 4.0, "finite bound"),
        (UpdatePlan(2, CODEC, FlatClip(1.0), metrics=(Metric("loss", 0.1),)), 4.0, "outside the ledger"),
    ],
)
def test_a_private_run_has_a_public_denominator_uniform_weights_and_no_metric_beside_its_ledger(
    tmp_path: Path, update: UpdatePlan, denominator: float | None, match: str
) -> None:
    noise = a_noise(8.0, length=update.total_length)
    parts = Parts(Contribution(still, update, noise, 0), PlainSum(), LoopExecutor())
    payment = Payment(Ledger(CLIENT_UNIT), Accountant(1e-5), PLAIN)
    with pytest.raises(PrivacyError, match=match):
        FederatedRun(
            4, parts, EveryoneSampler(), ModelStore(tmp_path), seed=0, denominator=denominator, payment=payment
        )
