"""Random allocation: the sampler, its ledger, its price by PLD_accounting where that is there, and refusals."""

import json
import math
import sys

import numpy as np
import pytest
from ledgers import MASKED, PLAIN

from privfl.cli.app import run
from privfl.dp import Everyone, Ledger, Plan, Poisson, PrivacyUnit, RandomAllocation, Release, Slot, epsilon
from privfl.dp.accounting import allocation
from privfl.dp.accounting.events import exposure
from privfl.dp.accounting.history import History
from privfl.dp.draws import mean_shortfall, round_turn
from privfl.dp.unit import read_sampling, sampling_record
from privfl.errors import ConfigError, MissingExtra, UnsupportedRelease
from privfl.fl.sampling import AllocationSampler, PoissonSampler, in_round, sampled, secret_uniforms

TEN_OF_HUNDRED = RandomAllocation(10, 100)


def plan(**changes):
    return Plan(**{"sampling": TEN_OF_HUNDRED, "noise_multiplier": 1.0, "rounds": 100} | changes)


def cohorts(sampler, population, rounds):
    for round in range(1, rounds + 1):
        placed, at = in_round(sampler, round)
        yield sampled(placed, population, secret_uniforms(b"s" * 32, at), private=True)


def test_every_client_is_in_exactly_k_of_t_rounds():
    sampler = AllocationSampler(3, 7)
    found = list(cohorts(sampler, 500, 21))
    for block in range(3):
        counts = np.bincount(np.concatenate([found[7 * block + place] for place in range(7)]), minlength=500)
        assert (counts == 3).all()
    sizes = np.array([len(cohort) for cohort in found])
    assert abs(sizes.mean() - 500 * 3 / 7) < 1e-9
    assert found[:7] != found[7:14]
    assert len({frozenset(c) for c in found}) == 21
    pairs = sum(i in cohort and i + 1 in cohort for cohort in found for i in range(0, 500, 2))
    assert abs(pairs / (21 * 250) - (3 / 7) ** 2) < 0.03  # clients are independent of each other


def test_the_declaration():
    assert AllocationSampler(3, 7).declare(50) == RandomAllocation(3, 7)
    assert read_sampling(sampling_record(TEN_OF_HUNDRED)) == TEN_OF_HUNDRED
    assert TEN_OF_HUNDRED.expected_size(50) == 5.0
    assert TEN_OF_HUNDRED.sizes(4) == range(5)
    assert "exactly 10 of every 100" in TEN_OF_HUNDRED.describe()
    assert in_round(PoissonSampler(0.5), 9) == (PoissonSampler(0.5), 9)
    for wrong in ((0, 5), (6, 5), (1, 0)):
        with pytest.raises(ConfigError):
            RandomAllocation(*wrong)
        with pytest.raises(ConfigError):
            AllocationSampler(*wrong)
    with pytest.raises(ConfigError, match="place"):
        AllocationSampler(1, 2, 2)


def test_skips_are_bounded_only_where_there_are_none():
    assert round_turn(TEN_OF_HUNDRED, 50, lambda size: 0.0) == 0.0
    assert round_turn(TEN_OF_HUNDRED, 50, lambda size: 1e-9) is None
    assert mean_shortfall(TEN_OF_HUNDRED, 50, lambda size: 0.1) == pytest.approx(0.1)
    run = plan(turn=None).history()
    assert epsilon(run, 1e-5).epsilon == epsilon(plan(sampling=Everyone()).history(), 1e-5).epsilon


def release(round, noise=1.0, sampling=TEN_OF_HUNDRED, **terms):
    values = {
        "round": round, "placement": "central", "law": "rounded_gaussian", "secure": True,
        "declared_stddev": 512.0 * noise, "realized_stddev": 512.0 * noise, "norm_bound": 512.0, "length": 3,
        "sampling": sampling, "views": MASKED, "participants": (0, 1),
    }  # fmt: skip
    return Release(**values | terms)


def ledger(rounds, noises=None):
    kept = Ledger(PrivacyUnit())
    for number, noise in zip(rounds, noises or [1.0] * len(rounds), strict=True):
        kept.draw(number, TEN_OF_HUNDRED, 0.0)
        kept.reserve(release(number, noise))
    return kept


def blocks(ledgers):
    (profile,) = exposure(History.of(ledgers), "outsider").profiles
    return {(event.noise_multiplier, event.sampling): count for event, count in profile.items()}


def test_a_block_that_was_begun_counts_as_a_whole_one():
    assert blocks(ledger([1])) == {(1.0, TEN_OF_HUNDRED): 1}
    assert blocks(ledger(range(1, 101))) == {(1.0, TEN_OF_HUNDRED): 1}
    assert blocks(ledger(range(1, 102))) == {(1.0, TEN_OF_HUNDRED): 2}
    assert blocks(ledger([100, 101])) == {(1.0, TEN_OF_HUNDRED): 2}
    assert blocks(ledger([1, 2, 3], [2.0, 1.5, 2.0])) == {(1.5, TEN_OF_HUNDRED): 1}  # the least noise of the block
    assert blocks(ledger([0, 1])) == {(1.0, TEN_OF_HUNDRED): 2}
    (profile,) = exposure(plan(rounds=250).history(), "outsider").profiles
    assert list(profile.values()) == [3]
    (known,) = exposure(History.of(ledger([1, 2])), "participant").profiles
    assert [event.sampling for event in known] == [Everyone()]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"unit": PrivacyUnit("client", "zero_out")}, "add_remove"),
        ({"unit": PrivacyUnit("client", "replace_one")}, "add_remove"),
        ({"placement": "distributed", "slots": (Slot("update", 5, 2.0**14, 1.0),)}, "Gaussian noise"),
    ],
)
def test_what_is_not_priced_is_refused(settings, words):
    with pytest.raises(UnsupportedRelease, match=words):
        plan(**settings).epsilon(1e-5)


def test_mixed_questions_are_refused():
    with pytest.raises(UnsupportedRelease, match="each ledger"):
        epsilon(ledger([1, 101], [1.0, 2.0]), 1e-5)
    with pytest.raises(UnsupportedRelease, match="each ledger"):
        epsilon([ledger([1, 2]), ledger([3, 4])], 1e-5)  # two runs, or parts of one: no ledger says which
    with pytest.raises(UnsupportedRelease, match="one unit"):
        epsilon(plan().history(), 1e-5, group=2)
    with pytest.raises(UnsupportedRelease, match="at least 1e-09"):
        allocation.allocation_epsilon(1.0, TEN_OF_HUNDRED, 1, 1e-12)


def test_without_the_package_it_is_refused(monkeypatch, capsys):
    allocation._distribution.cache_clear()
    monkeypatch.setitem(sys.modules, "PLD_accounting", None)
    with pytest.raises(MissingExtra, match=r"privfl\[allocation\]"):
        plan().epsilon(1e-5)
    asked = ["epsilon", "--sampling", "allocation", "--selected", "10", "--rounds", "100", "--noise-multiplier", "1"]
    assert run(asked) == 2
    assert "privfl[allocation]" in capsys.readouterr().err
    assert run([*asked, "--cohort", "3"]) == 2
    assert run(["epsilon", "--noise-multiplier", "1", "--rounds", "3", "--selected", "2"]) == 2


def test_the_price_of_ten_of_a_hundred_rounds(capsys):
    pytest.importorskip("PLD_accounting")
    poisson = plan(sampling=Poisson(0.1)).epsilon(1e-5)
    assert poisson == pytest.approx(7.05, abs=0.01)
    coarse, figure = plan().epsilon(1e-5, quick=True), plan().epsilon(1e-5)
    assert 6.0738 < figure < 6.17  # the package's own lower bound is 6.0738, and its finest upper bound 6.1615
    assert figure <= coarse < 6.3
    assert epsilon(ledger([1]), 1e-5).epsilon == pytest.approx(4.377178, abs=1e-5)  # no more than one release gives
    report = epsilon(ledger(range(1, 101)), 1e-5)
    assert report.epsilon == figure
    assert report.accountant == allocation.NAME
    assert plan(rounds=200).epsilon(1e-5, quick=True) > coarse
    asked = ["epsilon", "--sampling", "allocation", "--selected", "10", "--rounds", "100", "--noise-multiplier", "1"]
    assert run([*asked, "--delta", "1e-5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epsilon"] == figure
    assert run([*asked, "--profile"]) == 2
    assert "--profile" in capsys.readouterr().err


def test_more_than_half_of_the_rounds_counts_as_those_rounds():
    everyone = plan(sampling=Everyone(), rounds=4).epsilon(1e-5)
    assert plan(sampling=RandomAllocation(4, 4), rounds=4).epsilon(1e-5) == everyone
    assert plan(sampling=RandomAllocation(3, 4), rounds=4).epsilon(1e-5) == plan(sampling=Everyone(), rounds=3).epsilon(
        1e-5
    )


def test_a_run_with_allocation(tmp_path):
    from privfl.data import Dataset
    from privfl.experiment import Experiment

    rng = np.random.default_rng(2)
    features = rng.normal(size=(60, 3)).astype(np.float32)
    data = Dataset("points", "binary", features, (features[:, 0] > 0).astype(np.int64), classes=("a", "b"))
    settings = {
        "name": "points", "rounds": 4, "data.clients": 12, "cohort.sampling": "allocation", "cohort.selected": 2,
        "cohort.block": 4, "privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0,
    }  # fmt: skip
    experiment = Experiment(data=data, runs=tmp_path / "runs", overrides=settings)
    reports = list(experiment.run())
    kept = Ledger.read(experiment.folder / "ledger.jsonl")
    assert {draw.sampling for draw in kept.draws} == {RandomAllocation(2, 4)}
    assert {draw.turn for draw in kept.draws} == {0.0}
    counts = np.bincount([client for line in kept.releases for client in line.participants], minlength=12)
    assert (counts == 2).all()
    assert len(reports) == 4
    assert kept.releases[0].views == PLAIN
    assert all(math.isfinite(report.epsilon) for report in reports)
