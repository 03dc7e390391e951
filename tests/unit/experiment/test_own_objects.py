"""What a program's own optimizer, measure or first vector does wrong is a typed error or a caveat; never silent."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from privfl.data import load, partition
from privfl.dp import Everyone
from privfl.errors import ConfigError, PrivflError, StateError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.fl.metrics import MetricSums
from privfl.fl.report import RoundReport

THREE = partition(load("breast_cancer"), "iid", clients=3, seed=0)


def returning(deltas: Sequence[Any], examples: Sequence[int]) -> Callable[..., ClientUpdate]:
    """A training function that returns one fixed update a client."""
    return lambda model, client, round, rng: ClientUpdate(np.array(deltas[client], float), examples[client])


def said(report: RoundReport, word: str) -> bool:
    return any(word in caveat for caveat in report.caveats)


class OwnOptimizer:
    def __init__(self, step: Callable[..., Any]) -> None:
        self.step = step


def with_optimizer(step: Callable[..., Any]) -> tuple[np.ndarray, RoundReport]:
    train = returning([[1.0, 2.0]] * 3, [1, 1, 1])
    run = Experiment(data=THREE, train=train, initial=np.zeros(2, np.float32), rounds=1, optimizer=OwnOptimizer(step))
    (report,) = run.run()
    return run.model, report


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda model, mean, moments: (model + mean, {}), r"a model of float64 \(2,\): return float32 \(2,\)"),
        (lambda model, mean, moments: (model[:1], {}), r"a model of float32 \(1,\)"),
        (lambda model, mean, moments: ([0.0, 0.0], {}), "a model of list"),
        (lambda model, mean, moments: (model, {"m": np.ones(3)}), "returned 'm' of another shape than the model"),
        (lambda model, mean, moments: None, "OwnOptimizer failed: TypeError"),
        (lambda model, mean, moments: (model.__iadd__(1), {}), "OwnOptimizer failed: ValueError in <lambda>"),
        (lambda model, mean, moments: 1 / 0, "OwnOptimizer failed: ZeroDivisionError in <lambda>"),
    ],
)
def test_an_optimizer_of_ones_own_cannot_store_another_model(step: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_optimizer(step)


@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e300])
def test_a_model_that_is_not_finite_is_a_caveat(factor: float) -> None:
    _, report = with_optimizer(lambda model, mean, moments: ((model + factor * mean).astype(model.dtype), {}))
    assert said(report, "the model after this round is not finite")


def test_a_model_that_overflows_by_itself_is_a_caveat() -> None:
    train = returning([[3e38, 1.0]] * 3, [1, 1, 1])
    run = Experiment(data=THREE, train=train, initial=np.array([3e38, 0.0], np.float32), rounds=2)
    assert said(list(run.run())[-1], "the model after this round is not finite")


@pytest.mark.parametrize("name", ["measure", "public_measure"])
def test_a_measure_cannot_change_the_model(name: str) -> None:
    def writes(model: np.ndarray, *client: int) -> MetricSums:
        model[0] = 99.0
        return MetricSums({"rows": 1.0, "a": 1.0})  # type: ignore[dict-item]

    run = Experiment(data=THREE, train=returning([[1.0]] * 3, [1] * 3), initial=np.zeros(1), rounds=1, **{name: writes})
    with pytest.raises(PrivflError, match="ValueError in writes"):
        run.run()


def test_an_error_over_public_examples_is_named_without_its_text() -> None:
    def fails(model: np.ndarray) -> MetricSums:
        raise KeyError("Smith")

    run = Experiment(
        data=THREE, train=returning([[1.0]] * 3, [1] * 3), initial=np.zeros(1), rounds=1, public_measure=fails
    )
    with pytest.raises(ConfigError, match="the measure over the public examples failed: KeyError in fails") as caught:
        run.run()
    assert "Smith" not in str(caught.value)


@pytest.mark.parametrize("clients", [0, -1, 2.5, True, "3"])
def test_a_number_of_clients_is_a_count(clients: Any) -> None:
    with pytest.raises(ConfigError, match="clients must be"):
        Experiment(train=returning([[1.0]] * 3, [1] * 3), initial=np.zeros(1), clients=clients)


class Unreadable:
    """As a tensor of bfloat16, or one that requires a gradient."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        raise self.error("numpy cannot read this")


@pytest.mark.parametrize("error", [TypeError, RuntimeError, ValueError])
def test_a_first_vector_that_numpy_cannot_read_is_refused_with_the_fix(error: type[Exception]) -> None:
    with pytest.raises(ConfigError, match=r"that numpy can read: give np\.zeros"):
        Experiment(train=returning([[1.0]] * 3, [1] * 3), initial=Unreadable(error), clients=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [64])
def test_weights_beyond_the_widest_ring_have_a_remedy_that_is_possible(bits: int) -> None:
    train = returning([[1.0]] * 3, [2**53, 1, 1])
    settings = {"server.weighting": "examples", "sum.bits": bits}
    run = Experiment(data=THREE, train=train, initial=np.zeros(1), rounds=1, overrides=settings)
    with pytest.raises(ConfigError, match="divide all weights by one factor"):
        run.run()


class OwnSampler:
    """A sampler that declares and samples everybody until a method fails."""

    def __init__(self, failing: str) -> None:
        self.failing = failing

    def declare(self, population: int) -> Everyone:
        if self.failing == "declare":
            raise ZeroDivisionError("a private value")
        return Everyone()

    def sample(self, population: int, uniforms: Any) -> tuple[int, ...]:
        if self.failing == "sample":
            raise KeyError("a private value")
        return tuple(range(population))


def failing(*given: Any) -> bool:
    raise KeyError("a private value")


OWN: dict[str, tuple[dict[str, Any], str]] = {
    "declare": (
        {"sampler": OwnSampler("declare")},
        r"declare\(\) of the sampler OwnSampler failed: ZeroDivisionError in",
    ),
    "sample": ({"sampler": OwnSampler("sample")}, r"sample\(\) of the sampler OwnSampler failed: KeyError in sample"),
    "dropouts": ({"dropouts": failing}, r"`dropouts` failed for \(1, 0\): KeyError in failing .* leave `dropouts` out"),
    "none": (
        {"dropouts": lambda round, number: None},
        "`dropouts` returned a NoneType for round 1: return a function of",
    ),
    "pattern": (
        {"dropouts": lambda round, number: failing},
        r"that `dropouts` returned failed for \(0, 0\): KeyError in",
    ),
    "tap": ({"tap": failing}, "`tap` failed at a message up of client 0: KeyError in failing .* leave `tap` out"),
}


@pytest.mark.parametrize("name", OWN)
def test_an_error_of_a_sampler_dropouts_or_tap_names_the_object_and_the_step(name: str) -> None:
    given, message = OWN[name]
    train = returning([[1.0]] * 3, [1] * 3)
    with pytest.raises(ConfigError, match=message) as caught:
        Experiment(data=THREE, train=train, initial=np.zeros(1), rounds=1, **given).run()
    assert "a private value" not in str(caught.value)


@pytest.mark.parametrize("name", ["dropouts", "none", "pattern", "tap"])
def test_an_error_of_dropouts_or_tap_in_the_noisy_answers_is_named(name: str) -> None:
    given, message = OWN[name]
    settings = {
        "data.standardize": "noisy",
        "privacy.placement": "central",
        "privacy.clip_norm": 1.0,
        "privacy.noise_multiplier": 2.0,
        "privacy.allow_large_delta": True,
        "privacy.delta": 1e-2,
    }
    with pytest.raises(ConfigError, match=message.replace(r"\(1, 0\)", r"\(0, 0\)").replace("round 1", "round 0")):
        Experiment(data=THREE, rounds=1, overrides=settings, **given).run()


def test_an_error_of_privfl_passes_through_a_program_s_own_parts() -> None:
    def refusing(*given: Any) -> Any:
        raise StateError("mine")

    for name in ("dropouts", "tap"):
        with pytest.raises(StateError, match="mine"):
            Experiment(data=THREE, rounds=1, **{name: refusing}).run()
