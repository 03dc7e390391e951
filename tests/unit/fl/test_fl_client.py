"""The result of one client's training, in whatever numbers it comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from privfl.errors import ConfigError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate


@pytest.mark.parametrize(
    ("delta", "dtype"),
    [
        ([1, -2, 3], np.float64),
        ((1.5, 2.5), np.float64),
        (np.array([1, 0], np.int8), np.float64),
        (np.array([True, False]), np.float64),
        (np.array([1.5, -2.0], np.float16), np.float32),
        (np.array([1.5, -2.0], np.float32), np.float32),
        (np.array([1.5, -2.0], np.longdouble), np.float64),
    ],
)
def test_other_numbers_become_floats(delta: Any, dtype: Any) -> None:
    got = ClientUpdate(delta, 1).delta
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, np.asarray(delta, np.float64))


def test_floats_are_not_copied() -> None:
    delta = np.ones(3, np.float32)
    assert ClientUpdate(delta, 1).delta is delta


@pytest.mark.parametrize("delta", [None, "Smith", [1.0, None], [[1.0], [2.0, 3.0]], np.ones(2, complex), 1j])
def test_what_is_no_numbers_is_refused_with_the_fix(delta: Any) -> None:
    with pytest.raises(ConfigError, match=r"a flat vector of numbers, not of .*: give np\.asarray\(delta, float\)"):
        ClientUpdate(delta, 1)


@pytest.mark.parametrize("delta", [1.0, np.ones((2, 2)), [[1, 2]]])
def test_a_delta_is_flat(delta: Any) -> None:
    with pytest.raises(ConfigError, match="a delta is a flat vector, not an array of shape"):
        ClientUpdate(delta, 1)


@pytest.mark.parametrize(
    "settings", [{"privacy.clip_norm": 0.01}, {"privacy.clip_norm": 0.01, "sum.rotation": True}, {}]
)
def test_a_half_precision_update_is_clipped_in_more_digits(settings: dict[str, Any]) -> None:
    deltas = [np.random.default_rng(c).normal(size=6).astype(np.float16) for c in range(4)]
    run = Experiment(
        train=lambda m, c, r, g: ClientUpdate(deltas[c], 1),
        initial=np.zeros(6),
        clients=4,
        rounds=1,
        overrides=settings,
    )
    run.run()
    bound = settings.get("privacy.clip_norm", np.inf)
    wide = [delta.astype(np.float64) for delta in deltas]
    right = np.mean([delta * min(1, bound / np.linalg.norm(delta)) for delta in wide], axis=0)
    np.testing.assert_allclose(run.model, right, atol=1e-5 * np.abs(right).max())


def test_metrics_become_floats_and_none_is_not_measured() -> None:
    update = ClientUpdate(np.ones(1), 1, {"loss": np.float32(0.5), "whole": 3, "none": None})  # type: ignore[dict-item]
    assert update.metrics == {"loss": 0.5, "whole": 3.0}
    assert all(type(value) is float for value in update.metrics.values())


@pytest.mark.parametrize("value", ["high", np.ones(2), [0.5], 1j, 10**400])
def test_a_metric_that_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(ConfigError, match="the metric 'loss' is not a number but a "):
        ClientUpdate(np.ones(1), 1, {"loss": value})


@pytest.mark.parametrize("metrics", [[0.5], None, 0.5])
def test_metrics_have_names(metrics: Any) -> None:
    with pytest.raises(ConfigError, match="metrics are numbers by name"):
        ClientUpdate(np.ones(1), 1, metrics)
