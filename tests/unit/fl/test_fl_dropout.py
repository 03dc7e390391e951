"""Simulated dropouts."""

import numpy as np
import pytest

from privfl.errors import ConfigError
from privfl.fl.dropout import RandomDropouts, nobody
from privfl.sums.driver import never


def silences(dropouts: RandomDropouts, steps: int, clients: int = 4000) -> np.ndarray:
    """How many clients are silent from each step on, int `[steps]`."""
    drop = dropouts(3, 0)
    return np.array([sum(drop(client, step) for client in range(clients)) for step in range(steps)])


def test_the_chance_is_that_of_falling_silent_in_the_whole_sum() -> None:
    silent = silences(RandomDropouts(0.3, 1), 5)
    assert abs(silent[-1] - 1200) < 5 * (4000 * 0.3 * 0.7) ** 0.5
    first = np.diff(silent, prepend=0)
    assert (abs(first - 240) < 5 * 240**0.5).all()  # from a uniformly random step on


def test_a_plain_sum_has_one_step_only() -> None:
    assert abs(silences(RandomDropouts(0.3, 1, steps=1), 1)[0] - 1200) < 150


def test_silence_lasts_and_repeats() -> None:
    drop, again = RandomDropouts(0.5, 7)(2, 1), RandomDropouts(0.5, 7)(2, 1)
    for client in range(50):
        pattern = [drop(client, step) for step in range(6)]
        assert pattern == sorted(pattern)
        assert pattern == [again(client, step) for step in range(6)]


def test_rounds_attempts_and_seeds_differ() -> None:
    patterns = {
        tuple(RandomDropouts(0.5, seed)(round, attempt)(client, 4) for client in range(64))
        for seed, round, attempt in ((0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0))
    }
    assert len(patterns) == 4


def test_without_a_chance_nobody_is_asked() -> None:
    assert RandomDropouts(0.0, 1)(1, 0) is never
    assert nobody(1, 0) is never


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_bad_chances_are_refused(probability: float) -> None:
    with pytest.raises(ConfigError, match="probability"):
        RandomDropouts(probability, 0)
