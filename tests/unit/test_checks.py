"""Numbers out of numpy arrays, wherever a number is taken that a sweep may vary."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.checks import unwrap_numpy
from privfl.data import load, partition
from privfl.dp import (
    AdaptiveClip,
    ElementClip,
    Everyone,
    FixedSize,
    FlatClip,
    Mechanism,
    Poisson,
    PrivacyUnit,
    Slot,
    TruncatedPoisson,
    calibrate,
    what_if,
)
from privfl.errors import ConfigError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.fl.dropout import RandomDropouts
from privfl.fl.sampling import FixedSizeSampler
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring

VALUES: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (Poisson, (0.25,)),
    (TruncatedPoisson, (0.25, 3, 10)),
    (FixedSize, (3, 10)),
    (lambda length, scale, bound: Slot("update", length, scale, bound), (3, 64.0, 1.0)),
    (lambda multiplier, colluders: Mechanism("distributed", multiplier, "secure", colluders), (1.5, 2)),
    (FlatClip, (0.5,)),
    (ElementClip, (0.5, 7)),
    (AdaptiveClip, (0.5, 1 << 12, 1 << 6, 0.5, 0.25)),
    (SurvivorRule, (0.5, 2)),
    (Ring, (20,)),
]
KINDS: list[tuple[type[np.integer[Any]], type[np.floating[Any]]]] = [
    (np.int64, np.float64),
    (np.uint16, np.float32),
    (np.int32, np.longdouble),
]


@pytest.mark.parametrize(("integer", "real"), KINDS)
@pytest.mark.parametrize(("make", "values"), VALUES)
def test_numpy_scalars_are_the_numbers_that_they_are(
    make: Callable[..., Any], values: tuple[Any, ...], integer: Any, real: Any
) -> None:
    scalars = [integer(value) if isinstance(value, int) else real(value) for value in values]
    made, plain = make(*scalars), make(*values)
    assert made == plain
    for item in dataclasses.fields(made):
        assert not isinstance(getattr(made, item.name), np.generic), item.name


@pytest.mark.parametrize("wrong", [np.float64(2.5), np.int64(0), np.float64("nan"), np.bool_(True), np.str_("3")])
def test_what_is_no_such_number_is_still_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="length must be an integer of at least 1"):
        Slot("update", wrong, 1.0, 1.0)


def test_a_sweep_over_arrays_is_one_over_numbers() -> None:
    for rounds in np.arange(1, 4):
        for multiplier in np.logspace(0, 1, 2):
            swept = what_if(sampling=Poisson(np.float64(0.1)), noise_multiplier=multiplier, rounds=rounds, delta=1e-5)
            plain = what_if(sampling=Poisson(0.1), noise_multiplier=float(multiplier), rounds=int(rounds), delta=1e-5)
            assert swept == plain
    for size in np.array([10, 20]):
        unit = PrivacyUnit("client", "replace_one")
        found = calibrate(epsilon=np.float64(4), delta=1e-5, sampling=FixedSize(size, 100), rounds=size, unit=unit)
        plain = calibrate(epsilon=4.0, delta=1e-5, sampling=FixedSize(int(size), 100), rounds=int(size), unit=unit)
        assert found == plain


def test_a_run_of_numpy_scalars_is_one_of_numbers(tmp_path: Path) -> None:
    """Through plan, ledger and folder, whose bytes know no numpy."""
    data = partition(load("breast_cancer"), "iid", 6, 0)

    def train(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        return ClientUpdate(np.full(3, 0.1 * client), 1)

    models, figures = [], []
    for name, integer, real in (("plain", int, float), ("numpy", np.int64, np.float32)):
        result = Experiment(
            name=name,
            data=data,
            train=train,
            initial=np.zeros(3),
            rounds=integer(2),
            seed=integer(3),
            sampler=FixedSizeSampler(integer(4)),
            dropouts=RandomDropouts(real(0.25), integer(3)),
            clip=FlatClip(real(0.5)),
            mechanism=Mechanism("local", real(2.0), "simulation", integer(0)),
            runs=tmp_path,
            overrides={"privacy.adjacency": "replace_one", "evaluate_every": integer(0)},
        ).run()
        models.append(result.model)
        figures.append(result.epsilon)
    np.testing.assert_array_equal(*models)
    assert figures[0] == figures[1]


def test_only_the_named_fields_are_looked_at() -> None:
    @dataclasses.dataclass(frozen=True)
    class Two:
        one: Any
        other: Any

        def __post_init__(self) -> None:
            unwrap_numpy(self, "one")

    made = Two(np.int8(3), np.int8(3))
    assert (type(made.one), type(made.other)) == (int, np.int8)
    assert Two(np.arange(2), None).one.shape == (2,)
    assert Everyone() == Everyone()
