"""Analytic gradient inversion: examples out of the update of a model's first layer, by division.

The gradient of a linear layer's weights adds up, over the examples, the residual of each unit times the input. The
gradient of its biases adds up the residuals alone. Of one example the weights divided by the biases are therefore the
input, in any number of local steps (Phong et al. 2018). Of several examples the quotients are mixtures. A softmax
regression whose weights are zero gives the mean of each class from them, because every residual is known there: an
example alone in its class comes out whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.linear import LinearTrain

Floats = npt.NDArray[np.float64]

_TINY: Final = 1e-12
_MAX_PSNR: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLayer:
    """The place of a model's first linear layer in its vector.

    Attributes:
        weights: The entries of the weights.
        bias: The entries of the biases.
        inputs: The number of inputs.
        units: The number of units.
        by_unit: True where the weights are kept unit by unit, as torch does.
        softmax: True if the layer's units are the logits of the classes.
    """

    weights: slice[int, int, None]
    bias: slice[int, int, None]
    inputs: int
    units: int
    by_unit: bool
    softmax: bool

    @classmethod
    def of(cls, train: Any, inputs: int) -> FirstLayer:
        """The first layer of a built-in model; raises `ConfigError` for a model that does not start with one.

        Args:
            train: The training.
            inputs: The number of features of an example.
        """
        if isinstance(train, LinearTrain):
            places, units = train.layers, train.model.outputs
            softmax = train.model.kind == "softmax"
            return cls(weights=places["weights"], bias=places["bias"], inputs=inputs, units=units, by_unit=False,
                       softmax=softmax)  # fmt: skip
        places = getattr(train, "layers", {})
        weights, bias = places.get("0.weight"), places.get("0.bias")
        units = 0 if bias is None else bias.stop - bias.start
        if weights is None or bias is None or weights.stop - weights.start != units * inputs:
            raise ConfigError(
                "an inversion needs a model whose first layer is linear and has biases: set model.kind to a linear "
                "model or to 'mlp'"
            )
        return cls(weights=weights, bias=bias, inputs=inputs, units=units, by_unit=True, softmax=False)

    def split(self, vector: Vector) -> tuple[Floats, Floats]:
        """The weights, float64 `[inputs, units]`, and the biases, float64 `[units]`, in a vector `[d]`."""
        flat, bias = np.asarray(vector[self.weights], np.float64), np.asarray(vector[self.bias], np.float64)
        weights = flat.reshape(self.units, self.inputs).T if self.by_unit else flat.reshape(self.inputs, self.units)
        return weights, bias


def invert_one(weights: Floats, bias: Floats) -> Floats:
    """The one input behind an update, float64 `[inputs]`: the least-squares solution x of weights = x times bias.

    Args:
        weights: The update of the weights, float64 `[inputs, units]`.
        bias: The update of the biases, float64 `[units]`.
    """
    power = float(bias @ bias)
    return weights @ bias / power if power > _TINY**2 else np.zeros(len(weights))


def invert_classes(
    weights: Floats, bias: Floats, count: int, *, mean: Floats, scale: float = 1.0, present: int | None = None
) -> tuple[Floats, Floats]:
    """The number and the mean of the examples of each class, from a softmax update at zero weights.

    Every residual is known there. With fewer examples than classes some class is absent, which reveals the scale of a
    clipped update too.

    Args:
        weights: The update of the weights, float64 `[inputs, classes]`.
        bias: The update of the biases, float64 `[classes]`.
        count: The number of examples.
        mean: The mean of reference examples, float64 `[inputs]`; used where every class is present.
        scale: The update divided by minus the mean gradient, such as the learning rate times the steps.
        present: A class that is known to be present.

    Returns:
        The numbers, float64 `[classes]`, and the means, float64 `[classes, inputs]`: the reference mean for a class
        that seems to be absent.
    """
    classes = len(bias)
    if count < classes:
        estimate = -classes * float(np.sort(bias)[: classes - count].mean())
        scale = estimate if estimate > _TINY else scale
    weights, bias = weights / scale, bias / scale
    counts = count * (bias + 1.0 / classes)
    if present is not None:
        counts[present] = max(counts[present], 1.0)
    absent = counts < 0.5
    total = count * mean
    if absent.any():  # an absent class has the residual 1/classes in every example: its weights are their sum
        total = -count * classes * weights[:, absent].mean(axis=1)
    sums = count * weights + total[:, None] / classes
    means = np.where(absent, mean[:, None], sums / np.where(absent, 1.0, counts))
    return np.maximum(counts, 0.0), means.T


def similarity(image: Floats, truth: Floats, span: float) -> tuple[float, float]:
    """The correlation of two images, and their peak signal-to-noise ratio in decibels, at most 120.

    Args:
        image: The reconstruction, float64 `[n]`.
        truth: The true example, float64 `[n]`.
        span: The difference between the largest and the smallest value of a pixel.
    """
    a, b = image - image.mean(), truth - truth.mean()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    correlation = float(a @ b) / norms if norms > _TINY else 0.0
    error = float(np.mean(np.square(image - truth)))
    psnr = _MAX_PSNR if error <= _TINY * span**2 else 10.0 * math.log10(span**2 / error)
    return correlation, min(psnr, _MAX_PSNR)
