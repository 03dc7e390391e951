"""Server optimizers against Reddi et al. 2021, algorithm 2, written out by hand."""

import math

import numpy as np
import pytest

from privfl.errors import ConfigError
from privfl.fl.optimizers import OPTIMIZERS, FedAdagrad, FedAdam, FedYogi, ServerSGD

MEANS = np.array([[0.5, -1.0, 0.0], [0.25, 2.0, -0.1], [-0.5, 0.0, 0.3]])


def by_hand(rule: str, *, eta: float, beta_1: float, beta_2: float, tau: float) -> list[float]:
    x, m, v = [1.0, 1.0, 1.0], [0.0] * 3, [tau**2] * 3
    for mean in MEANS.tolist():
        for i, g in enumerate(mean):
            m[i] = beta_1 * m[i] + (1 - beta_1) * g
            if rule == "adagrad":
                v[i] = v[i] + g * g
            elif rule == "adam":
                v[i] = beta_2 * v[i] + (1 - beta_2) * g * g
            else:
                sign = (v[i] > g * g) - (v[i] < g * g)
                v[i] = v[i] - (1 - beta_2) * g * g * sign
            x[i] += eta * m[i] / (math.sqrt(v[i]) + tau)
    return x


@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [
        ("adagrad", FedAdagrad(eta=0.3, beta_1=0.5, tau=0.01)),
        ("adam", FedAdam(eta=0.3, beta_1=0.5, beta_2=0.9, tau=0.01)),
        ("yogi", FedYogi(eta=0.3, beta_1=0.5, beta_2=0.9, tau=0.01)),
    ],
)
def test_adaptive_optimizers_follow_the_paper(rule: str, optimizer: FedAdam) -> None:
    model, moments = np.ones(3), {}
    for mean in MEANS:
        model, moments = optimizer.step(model, mean, moments)
    expected = by_hand(rule, eta=0.3, beta_1=0.5, beta_2=0.9, tau=0.01)
    np.testing.assert_allclose(model, expected, rtol=1e-12)


def test_sgd_without_momentum_adds_the_mean_and_remembers_nothing() -> None:
    model, moments = ServerSGD(eta=2.0).step(np.zeros(3, np.float32), MEANS[0], {})
    assert model.dtype == np.float32
    assert not moments
    np.testing.assert_allclose(model, [1.0, -2.0, 0.0])


def test_momentum_is_fedavgm() -> None:
    optimizer = ServerSGD(eta=1.0, momentum=0.5)
    model, moments = optimizer.step(np.zeros(3), MEANS[0], {})
    model, moments = optimizer.step(model, MEANS[1], moments)
    np.testing.assert_allclose(model, MEANS[0] + (0.5 * MEANS[0] + MEANS[1]))


def test_a_step_changes_none_of_its_arguments() -> None:
    model, mean = np.ones(3), MEANS[0].copy()
    _, moments = FedAdam().step(model, mean, {})
    kept = {name: value.copy() for name, value in moments.items()}
    FedAdam().step(model, mean, moments)
    np.testing.assert_array_equal(model, np.ones(3))
    np.testing.assert_array_equal(mean, MEANS[0])
    for name, value in kept.items():
        np.testing.assert_array_equal(moments[name], value)


@pytest.mark.parametrize("make", list(OPTIMIZERS.values()))
@pytest.mark.parametrize("eta", [0.0, -1.0, math.nan, math.inf])
def test_bad_learning_rates_are_refused(make: type[ServerSGD], eta: float) -> None:
    with pytest.raises(ConfigError, match="eta"):
        make(eta=eta)


def test_bad_moment_rates_are_refused() -> None:
    for build in (
        lambda: ServerSGD(momentum=1.0),
        lambda: FedAdam(beta_1=-0.1),
        lambda: FedAdam(beta_2=1.0),
        lambda: FedYogi(beta_2=1.5),
        lambda: FedAdagrad(tau=0.0),
    ):
        with pytest.raises(ConfigError):
            build()
