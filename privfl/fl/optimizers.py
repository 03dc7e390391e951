"""Server optimizers: mean update -> next model (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2).

The hyper-parameters carry the paper's names: eta (server learning rate), beta_1, beta_2, tau (degree of adaptivity). An
optimizer is a value without state. Its moments travel next to the model: a checkpoint holds both, and a resumed run
continues to the last bit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.errors import ConfigError, PrivflError, reason_of

T = TypeVar("T", bound=np.floating[Any])

Moments = Mapping[str, npt.NDArray[np.float64]]
"""The optimizer's memory by name, float64 `[d]` each; empty before the first step."""


class ServerOptimizer(Protocol):
    """A pure function (model, mean update, moments) -> (model, moments)."""

    def step(self, model: Vector, mean: npt.NDArray[np.float64], moments: Moments) -> tuple[Vector, Moments]:
        """Return the next model and the next moments; none of the arguments is changed.

        Args:
            model: The global model, float `[d]`; the next one has its dtype.
            mean: The mean update of the round, float64 `[d]`.
            moments: The moments that the previous step returned; empty before the first.
        """
        ...


@dataclass(frozen=True, slots=True)
class ServerSGD:
    """FedAvg with a server learning rate: model + eta*mean.

    With `momentum` > 0 it is FedAvgM: m <- momentum*m + mean, and model + eta*m. Hsu et al. 2019.

    Attributes:
        eta: The server's learning rate, positive.
        momentum: In [0, 1).
    """

    eta: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        _check_positive("eta", self.eta)
        _check_fraction("momentum", self.momentum)

    def step(self, model: Vector, mean: npt.NDArray[np.float64], moments: Moments) -> tuple[Vector, Moments]:
        """See `ServerOptimizer.step`."""
        if self.momentum == 0.0:
            return _add(model, self.eta * mean), {}
        m = self.momentum * moments["m"] + mean if "m" in moments else mean
        return _add(model, self.eta * m), {"m": m}


@dataclass(frozen=True, slots=True)
class _Adaptive(ABC):
    """m <- beta_1*m + (1-beta_1)*mean; v <- the subclass's rule; model + eta*m/(sqrt(v)+tau); v starts at tau^2."""

    eta: float = 0.1
    beta_1: float = 0.9
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _check_positive("eta", self.eta)
        _check_positive("tau", self.tau)
        _check_fraction("beta_1", self.beta_1)

    def step(self, model: Vector, mean: npt.NDArray[np.float64], moments: Moments) -> tuple[Vector, Moments]:
        """See `ServerOptimizer.step`."""
        m = self.beta_1 * moments["m"] if "m" in moments else np.zeros(len(mean))
        m = m + (1.0 - self.beta_1) * mean
        v = self._second(moments.get("v", np.full(len(mean), self.tau**2)), np.square(mean))
        return _add(model, self.eta * m / (np.sqrt(v) + self.tau)), {"m": m, "v": v}

    @abstractmethod
    def _second(self, v: npt.NDArray[np.float64], square: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]: ...


@dataclass(frozen=True, slots=True)
class FedAdagrad(_Adaptive):
    """FedAdagrad: v <- v + mean^2. Reddi et al. 2021, algorithm 2, with beta_1 = 0.

    Attributes:
        eta: The server's learning rate, positive.
        beta_1: The decay of the first moment, in [0, 1); 0 by default.
        tau: The degree of adaptivity, positive; a larger one makes steps more equal over coordinates.
    """

    beta_1: float = 0.0

    def _second(self, v: npt.NDArray[np.float64], square: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return v + square


@dataclass(frozen=True, slots=True)
class FedAdam(_Adaptive):
    """FedAdam: v <- beta_2*v + (1-beta_2)*mean^2. Reddi et al. 2021, algorithm 2.

    Attributes:
        eta: The server's learning rate, positive.
        beta_1: The decay of the first moment, in [0, 1).
        tau: The degree of adaptivity, positive; a larger one makes steps more equal over coordinates.
        beta_2: The decay of the second moment, in [0, 1).
    """

    beta_2: float = 0.99

    def __post_init__(self) -> None:
        super(FedAdam, self).__post_init__()
        _check_fraction("beta_2", self.beta_2)

    def _second(self, v: npt.NDArray[np.float64], square: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return self.beta_2 * v + (1.0 - self.beta_2) * square


@dataclass(frozen=True, slots=True)
class FedYogi(_Adaptive):
    """FedYogi: v <- v - (1-beta_2)*mean^2*sign(v - mean^2). Reddi et al. 2021, algorithm 2.

    Attributes:
        eta: The server's learning rate, positive.
        beta_1: The decay of the first moment, in [0, 1).
        tau: The degree of adaptivity, positive; a larger one makes steps more equal over coordinates.
        beta_2: The decay of the second moment, in [0, 1).
    """

    beta_2: float = 0.99

    def __post_init__(self) -> None:
        super(FedYogi, self).__post_init__()
        _check_fraction("beta_2", self.beta_2)

    def _second(self, v: npt.NDArray[np.float64], square: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return v - (1.0 - self.beta_2) * square * np.sign(v - square)


OPTIMIZERS: Final[Mapping[str, type[ServerSGD | FedAdagrad | FedAdam | FedYogi]]] = {
    "sgd": ServerSGD,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
}
"""The optimizers by the name that a configuration uses; "sgd" with momentum is FedAvgM."""


def stepped(
    optimizer: ServerOptimizer, model: Vector, mean: npt.NDArray[np.float64], moments: Moments
) -> tuple[Vector, Moments]:
    """Take a step of any optimizer, which may be a program's own: it cannot change its arguments, and its result fits.

    Args:
        optimizer: The optimizer.
        model: The global model, float `[d]`.
        mean: The mean update of the round, float64 `[d]`.
        moments: The moments that the previous step returned.

    Raises:
        ConfigError: If the optimizer raises an error, or the next model or a moment has another shape or dtype.
    """
    name = type(optimizer).__name__
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # a model that overflows is reported by the round
            after, memory = optimizer.step(_lent(model), _lent(mean), {key: _lent(it) for key, it in moments.items()})
        memory = {key: np.asarray(it, np.float64) for key, it in memory.items()}
    except PrivflError:
        raise
    except Exception as error:
        raise ConfigError(f"the server optimizer {name} failed: {reason_of(error)}") from error
    if not (isinstance(after, np.ndarray) and (after.shape, after.dtype) == (model.shape, model.dtype)):
        found = f"{after.dtype} {after.shape}" if isinstance(after, np.ndarray) else type(after).__name__
        raise ConfigError(
            f"the server optimizer {name} returned a model of {found}: return {model.dtype} {model.shape}, as in "
            "next.astype(model.dtype)"
        )
    if wrong := [key for key, it in memory.items() if it.shape != model.shape]:
        raise ConfigError(f"the server optimizer {name} returned {wrong[0]!r} of another shape than the model")
    return after, memory


def _lent(array: npt.NDArray[T]) -> npt.NDArray[T]:
    view = array.view()
    view.flags.writeable = False
    return view


def _add(model: Vector, step: npt.NDArray[np.float64]) -> Vector:
    return (model.astype(np.float64) + step).astype(model.dtype)


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} must be a positive finite number, not {value!r}")


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(f"{name} must be in [0, 1), not {value!r}")
