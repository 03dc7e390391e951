"""Clients without an example, and training metrics that no sum holds: counted, and never zeros in a mean."""

import math

import pytest
from single_rounds import one_round, returning, said

from privfl.errors import ConfigError, PrivacyError


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
@pytest.mark.parametrize("delta", [0.0, 5.0])
@pytest.mark.parametrize("scheme", ["plain", "masked", "ckks"])
def test_a_round_in_which_no_client_has_an_example_is_not_trained(weighting: str, delta: float, scheme: str) -> None:
    train = returning([[delta]] * 3, [0, 0, 0], [{"loss": 1.0}] * 3)
    model, report = one_round(train, 1, **{"server.weighting": weighting, "sum.scheme": scheme})
    assert (report.status, report.rejected_updates, report.update_norm) == ("skipped", 0, 0.0)
    assert (report.model, dict(report.metrics)) == (report.parent, {})
    assert said(report, "no client had an example, and the model is unchanged")
    assert not model.any()


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_a_client_without_an_example_is_no_zero_in_the_mean(weighting: str) -> None:
    train = returning([[3.0], [0.0], [5.0]], [10, 0, 10], [{"loss": 1.0}, {}, {"loss": 2.0}])
    model, report = one_round(train, 1, **{"server.weighting": weighting})
    assert model[0] == pytest.approx(4.0, rel=1e-6)
    assert report.metrics["loss"] == pytest.approx(1.5)
    assert said(report, "1 client had no example and did not count")
    assert not said(report, "mean loss")


def test_rejected_updates_and_clients_without_examples_are_counted_apart() -> None:
    _, report = one_round(returning([[math.nan], [0.0], [0.0]], [10, 0, 0]), 1, **{"server.weighting": "uniform"})
    assert (report.status, report.rejected_updates) == ("skipped", 1)
    assert said(report, "1 update was not finite")
    assert said(report, "2 clients had no example and did not count")


def test_a_private_round_says_nothing_of_who_had_examples() -> None:
    train = returning([[0.0]] * 3, [0, 0, 0])
    noise = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 1.0}
    _, report = one_round(train, 1, **noise, **{"privacy.noise": "simulation"})
    assert report.status == "trained"  # the noise alone, as if every client had some
    assert not said(report, "example and")
    assert said(report, "clients without examples stay in the denominator")


METRICS = [{"loss": 1.0, "accuracy": 0.5}, {"loss": 2.0}, {"loss": 3.0, "accuracy": 0.75, "grad_norm": 7.0}]


def test_a_metric_without_a_slot_is_counted() -> None:
    _, report = one_round(returning([[1.0]] * 3, [10, 10, 30], METRICS), 1)
    assert set(report.metrics) == {"loss"}
    assert said(report, "2 clients reported training metrics that were not summed: name them in client.metrics")


@pytest.mark.parametrize("scheme", ["plain", "masked", "ckks"])
def test_metrics_that_the_settings_name_are_summed(scheme: str) -> None:
    named = {"client.metrics": ["accuracy", "grad_norm"], "sum.scheme": scheme}
    _, report = one_round(returning([[1.0]] * 3, [10, 10, 30], METRICS), 1, **named)
    assert dict(report.metrics) == pytest.approx({"loss": 2.4, "accuracy": 27.5 / 40, "grad_norm": 7.0})
    assert said(report, "mean accuracy is over 40 of 50 examples")
    assert not said(report, "not summed")


def test_a_training_lists_its_metrics() -> None:
    class Trains:
        metric_names = ("accuracy",)
        __call__ = staticmethod(returning([[1.0]] * 3, [10, 10, 30], [{"accuracy": 0.5}] * 3))

    _, report = one_round(Trains(), 1)
    assert dict(report.metrics) == {"accuracy": 0.5}
    assert not said(report, "not summed")


@pytest.mark.parametrize("name", ["weight", "empty", "unsummed", ""])
def test_a_metric_of_another_slots_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a metric cannot be named"):
        one_round(returning([[1.0]] * 3, [1, 1, 1]), 1, **{"client.metrics": [name]})


def test_no_metric_is_summed_without_noise_next_to_noise() -> None:
    noise = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 1.0}
    with pytest.raises(PrivacyError, match=r"client\.metrics are summed without noise.*privacy\.loss_bound"):
        one_round(returning([[1.0]] * 3, [1, 1, 1]), 1, **noise, **{"client.metrics": ["accuracy"]})
