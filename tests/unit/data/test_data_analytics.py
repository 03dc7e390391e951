"""Federated analytics: answers of pooled data through three sums, small cells hidden, and noise that is charged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.data import Analytics, AnswerNoise, Channel
from privfl.data.analytics import SMALL, hidden_cells
from privfl.dp import Accountant, Budget, Ledger, Mechanism
from privfl.dp.unit import PrivacyUnit
from privfl.errors import BudgetExceeded, ConfigError, PrivacyError, TooFewSurvivors
from privfl.he import CkksSum, KeyStore, StandingCredentials
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum

CLIENTS = 7
RNG = np.random.default_rng(11)
PARTS = [RNG.normal(50, 12, size=20 + 17 * client) for client in range(CLIENTS)]
PARTS[2][:3] = np.nan
POOLED = np.concatenate(PARTS)
PRESENT = POOLED[~np.isnan(POOLED)]


def column(client: int) -> np.ndarray:
    return PARTS[client]


def channel(scheme: str = "plain", **changes: Any) -> Channel:
    if scheme == "plain":
        return Channel(PlainSum(), Ring(42), **changes)
    identities, directory = generate_identities(range(CLIENTS))
    if scheme == "masked":
        return Channel(MaskedSum(directory), Ring(42), credentials=identities, **changes)
    standing = {client: StandingCredentials(own, KeyStore(8)) for client, own in identities.items()}
    return Channel(CkksSum(directory), Ring(42), credentials=standing, **changes)


@pytest.mark.parametrize("scheme", ["plain", "masked", "ckks"])
def test_answers_are_those_of_the_pooled_values(scheme: str) -> None:
    asked = Analytics(column, CLIENTS, channel(scheme))
    assert asked.count().counts == (len(PRESENT),)
    assert asked.count(lambda values: values > 50).counts == (int((PRESENT > 50).sum()),)
    edges = [30.0, 40.0, 50.0, 60.0, 70.0]
    assert list(asked.histogram(edges).counts) == np.histogram(PRESENT, edges)[0].tolist()
    mean, variance = asked.moments()
    assert mean == pytest.approx(PRESENT.mean(), rel=1e-12)
    assert variance == pytest.approx(PRESENT.var(), rel=1e-10)
    if scheme == "plain":
        return
    found = asked.quantile(0.5, 0, 100, resolution=4)
    assert found.low <= np.median(PRESENT) <= found.high


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_a_quantile_lies_in_its_interval(fraction: float) -> None:
    found = Analytics(column, CLIENTS, channel(min_cell=1)).quantile(fraction, 0, 100, resolution=0.1)
    expected = np.sort(PRESENT)[int(np.ceil(fraction * len(PRESENT))) - 1]
    assert found.low <= expected <= found.high
    assert found.high - found.low <= 0.1 or found.answers < 12
    careful = Analytics(column, CLIENTS, channel()).quantile(fraction, 0, 100, resolution=1e-6)
    inside = ((careful.low < PRESENT) & (careful.high >= PRESENT)).sum()
    assert inside >= 11  # the search ended before the interval held fewer
    assert SMALL in careful.caveats
    assert careful.low <= careful.value <= careful.high


def test_small_cells_are_hidden_with_a_second_one() -> None:
    counts = [40, 3, 25, 0, 60]
    values = np.repeat(np.arange(5) + 0.5, counts)
    asked = Analytics(lambda client: values[client::CLIENTS], CLIENTS, channel())
    found = asked.histogram([0, 1, 2, 3, 4, 5])
    assert found.counts == (40, None, None, None, 60)  # 3 alone, or with the empty cell, would follow from the total
    assert SMALL in found.caveats
    assert asked.count(lambda v: v > 4).counts == (60,)
    assert asked.count(lambda v: (v > 1) & (v < 2)).counts == (None,)
    assert Analytics(asked.column, CLIENTS, channel(min_cell=1)).histogram([0, 1, 2, 3, 4, 5]).counts == tuple(counts)


@pytest.mark.parametrize(
    ("counts", "hidden"),
    [([20, 30], set()), ([0, 30], set()), ([5, 30], {0, 1}), ([5, 7, 30], {0, 1}), ([5, 5, 30], {0, 1, 2}), ([4], {0})],
)
def test_hidden_cells_hold_enough_together(counts: list[int], hidden: set[int]) -> None:
    assert hidden_cells(counts, 11) == hidden


def test_means_and_quantiles_of_few_values_are_refused() -> None:
    few = Analytics(lambda client: np.array([1.0]), CLIENTS, channel())
    with pytest.raises(PrivacyError, match="fewer than 11 values"):
        few.moments()
    with pytest.raises(PrivacyError, match="fewer than 11 values"):
        few.quantile(0.5, 0, 2, resolution=0.1)
    none = Analytics(lambda client: np.array([np.nan]), CLIENTS, channel())
    assert none.count().counts == (0,)
    assert none.moments() == (0.0, 0.0)


# --- with noise


def a_noise(**changes: Any) -> AnswerNoise:
    values: dict[str, Any] = {
        "ledger": Ledger(PrivacyUnit("client")),
        "mechanism": Mechanism("central", 0.5, "simulation"),
        "max_norm": 130.0,
    }
    return AnswerNoise(**values | changes)


def test_every_answer_is_charged_before_a_client_is_asked() -> None:
    noise, seen = a_noise(), []

    def watched(client: int) -> np.ndarray:
        seen.append(len(noise.ledger.unsettled))
        return PARTS[client]

    asked = Analytics(watched, CLIENTS, channel(), noise)
    asked.histogram([0, 50, 100])
    asked.count()
    assert set(seen) == {1}
    assert not noise.ledger.unsettled
    assert [release.round for release in noise.ledger.releases] == [1, 2]
    accountant = Accountant(1e-5, assume_secure_noise=True)
    one = a_noise()
    Analytics(column, CLIENTS, channel(), one).count()
    assert 0 < accountant.spent(one.ledger) < accountant.spent(noise.ledger)


def test_noise_is_as_declared_and_depends_on_the_round() -> None:
    """Of 400 counts the errors have the declared standard deviation: multiplier times the bound of a contribution."""
    noise = a_noise(mechanism=Mechanism("central", 0.05, "simulation"), max_norm=200.0)
    found = Analytics(column, CLIENTS, channel(), noise).histogram(np.linspace(200, 300, 401).tolist())
    assert np.std(found.counts) == pytest.approx(0.05 * 200, rel=0.15)
    again = Analytics(column, CLIENTS, channel(), noise).histogram(np.linspace(200, 300, 401).tolist())
    assert found.counts != again.counts


def test_a_client_counts_for_no_more_than_its_norm() -> None:
    noise = a_noise(mechanism=Mechanism("central", 1e-6, "simulation"), max_norm=10.0)
    found = Analytics(column, CLIENTS, channel(), noise).count()
    assert found.counts[0] == pytest.approx(10.0 * CLIENTS, abs=0.01)


def test_moments_and_quantiles_with_noise_are_close() -> None:
    noise = a_noise(mechanism=Mechanism("central", 0.01, "simulation"), max_norm=150.0)
    asked = Analytics(column, CLIENTS, channel(), noise)
    mean, variance = asked.moments(0, 100)
    assert mean == pytest.approx(np.mean([np.nanmean(part) for part in PARTS]), abs=2)
    assert variance == pytest.approx(144, rel=0.3)
    found = asked.quantile(0.5, 0, 100, resolution=2)
    assert abs(found.value - np.median(PRESENT)) < 4
    assert len(noise.ledger.releases) == 1 + found.answers
    with pytest.raises(ConfigError, match="low < high"):
        asked.moments()


def test_a_budget_ends_the_questions() -> None:
    budget = Budget(3.0, 1e-5, assume_secure_noise=True)
    noise = a_noise(budget=budget, mechanism=Mechanism("central", 2.0, "simulation"))
    asked = Analytics(column, CLIENTS, channel(), noise)
    asked.count()
    with pytest.raises(BudgetExceeded):
        asked.quantile(0.5, 0, 100, resolution=1e-9)
    assert 1 < len(noise.ledger.releases) < 40
    assert Accountant(1e-5, assume_secure_noise=True).spent(noise.ledger) <= 3.0


@pytest.mark.parametrize(("scheme", "charged"), [("plain", 1), ("masked", 0)])
def test_only_a_sum_that_nobody_can_have_seen_is_refunded(scheme: str, charged: int) -> None:
    noise = a_noise()
    lost = channel(scheme, drop=lambda client, step: client == 1)
    with pytest.raises(TooFewSurvivors):
        Analytics(column, CLIENTS, lost, noise).count()
    assert len(noise.ledger.releases) == charged


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: a_noise(ledger=Ledger(PrivacyUnit("example"))), PrivacyError),
        (lambda: a_noise(mechanism=Mechanism("distributed", 1.0)), ConfigError),
        (lambda: a_noise(max_norm=0.0), ConfigError),
        (lambda: Analytics(column, CLIENTS, channel()).histogram([1.0]), ConfigError),
        (lambda: Analytics(column, CLIENTS, channel()).quantile(1.0, 0, 1, resolution=1), ConfigError),
        (lambda: Analytics(lambda c: np.zeros((2, 2)), CLIENTS, channel()).count(), ConfigError),
        (lambda: Analytics(column, CLIENTS, Channel(PlainSum(), Ring(16)), a_noise()).count(), ConfigError),
    ],
)
def test_questions_without_sense_are_refused(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


SEXES = np.array(["f", "m", None, "x"], object)
COLUMNS = [SEXES[RNG.choice(4, size=60, p=[0.45, 0.45, 0.08, 0.02])] for _ in range(CLIENTS)]
CATEGORIES = ("f", "m", "never", "x")


def counted(name: str) -> int:
    return sum(int((texts == name).sum()) for texts in COLUMNS)


def test_categories_are_counted_and_small_ones_hidden() -> None:
    asked = Analytics(lambda client: COLUMNS[client], CLIENTS, channel("masked"))
    assert counted("x") < 11 < counted("m")
    found = asked.categories(("f", "m", "never"))
    assert found.counts == (counted("f"), counted("m"), 0)
    assert asked.categories(CATEGORIES).counts[3] is None
    assert asked.vocabulary(CATEGORIES, 20) == ("f", "m")
    with pytest.raises(PrivacyError, match="no candidate has 1000 examples"):
        asked.vocabulary(CATEGORIES, 1000)
    for wrong in ((), ("f", "f")):
        with pytest.raises(ConfigError, match="each once: undeclared values are never released"):
            asked.vocabulary(wrong, 20)
    with pytest.raises(ConfigError, match="min_count must be positive"):
        asked.vocabulary(CATEGORIES, 0)


def test_a_noisy_vocabulary_is_one_charged_release() -> None:
    ledger = Ledger(PrivacyUnit("client", "zero_out"))
    noise = AnswerNoise(ledger, Mechanism("central", 0.5), max_norm=40.0)
    asked = Analytics(lambda client: COLUMNS[client], CLIENTS, channel(), noise)
    assert asked.vocabulary(CATEGORIES, 100) == ("f", "m")  # about 190 each, and noise of stddev 20
    (release,) = ledger.releases
    assert release.realized_stddev == pytest.approx(20 * 2**12, rel=1e-3)
    assert Accountant(1e-5).report(ledger).epsilon < 12
    spent = AnswerNoise(ledger, Mechanism("central", 0.5), max_norm=40.0, budget=Budget(12.0, 1e-5))
    with pytest.raises(BudgetExceeded):
        Analytics(lambda client: pytest.fail("asked"), CLIENTS, channel(), spent).vocabulary(CATEGORIES, 100)
