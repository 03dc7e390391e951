"""What the accountant takes, in processor time: 2 s a figure, 5 s for truncated Poisson, 8 s to calibrate."""

import time
from collections.abc import Callable

import pytest

from privfl.dp import Everyone, Poisson, PrivacyUnit, Sampling, TruncatedPoisson, calibrate, what_if
from privfl.dp.accounting import compose as accounts
from privfl.dp.unit import CLIENT_UNIT


def ask(sampling: Sampling, z: float, rounds: int, unit: PrivacyUnit = CLIENT_UNIT) -> float:
    report = what_if(sampling=sampling, noise_multiplier=z, rounds=rounds, delta=1e-5, unit=unit, cross_checks=False)
    return report.epsilon


def min_noise(epsilon: float) -> float:
    return calibrate(epsilon=epsilon, delta=1e-5, sampling=Poisson(0.1), rounds=100).noise_multiplier


@pytest.mark.parametrize(
    ("limit", "question", "answer"),
    [
        pytest.param(2.0, lambda: ask(Poisson(0.01), 1.0, 1000), 1.82824, id="poisson-0.01"),
        pytest.param(2.0, lambda: ask(Poisson(0.1), 0.8, 100), 10.9764, id="poisson-0.1"),
        pytest.param(2.0, lambda: ask(Everyone(), 1.0, 1), 4.377178, id="closed-form"),
        pytest.param(
            2.0, lambda: ask(Everyone(), 1.0, 1, PrivacyUnit("client", "replace_one")), 9.997256, id="replace-one"
        ),
        pytest.param(5.0, lambda: ask(TruncatedPoisson(0.1, 130, 1000), 0.8, 100), 12.109, id="truncated"),
        pytest.param(8.0, lambda: min_noise(1.0), 3.9417, id="calibrate-1"),
        pytest.param(8.0, lambda: min_noise(2.0), 2.2478, id="calibrate-2"),
        pytest.param(8.0, lambda: min_noise(8.0), 0.9360, id="calibrate-8"),
    ],
)
def test_the_accountant_is_quick(limit: float, question: Callable[[], float], answer: float) -> None:
    ask(Poisson(0.5), 5.0, 1)  # the import of dp_accounting and scipy is not the accountant's time
    for cache in (accounts._gaussian, accounts._distribution):
        cache.cache_clear()
    accounts._FINE.clear()
    started = time.process_time()
    found = question()
    assert time.process_time() - started <= limit
    assert found == pytest.approx(answer, abs=1e-3)
