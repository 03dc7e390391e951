"""The minibatches of many clients next to each other, for trainings that take a step of all of them at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.errors import ConfigError

_SEGMENT: Final = 1 << 18
"""Feature values that are gathered at a time: 1 MiB of float32, which is in the cache when its steps are taken."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One client's part of a chunk.

    Attributes:
        features: float `[n, ...]`.
        targets: `[n]`: class numbers, or values.
        batches: The numbers of the examples of each minibatch.
    """

    features: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    batches: list[npt.NDArray[np.intp]]


@dataclass(frozen=True, slots=True, eq=False)
class Corrections:
    """The additions of an algorithm to every gradient of clients that are trained at once.

    Attributes:
        constants: A vector for each client, float `[clients, parameters]`, in their order; None adds none.
        proximal: The factor of the pull towards the global model.
    """

    constants: npt.NDArray[Any] | None = None
    proximal: float = 0.0

    def of(self, places: Sequence[int]) -> Corrections:
        """The same for some of the clients, in the order of `places`."""
        return self if self.constants is None else Corrections(self.constants[list(places)], self.proximal)

    def __bool__(self) -> bool:
        return self.constants is not None or self.proximal != 0.0


NO_CORRECTIONS: Final = Corrections()


@dataclass(frozen=True, slots=True)
class Segment:
    """Some steps of a chunk, whose clients are in the order of `by_steps`.

    Attributes:
        steps: The minibatches, by their numbers.
        active: For each of these steps the number of clients that take it: the first ones.
        size: The examples of the largest minibatch.
    """

    steps: slice[int, int, None]
    active: tuple[int, ...]
    size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(clients, steps, examples of a minibatch)."""
        return self.active[0], len(self.active), self.size


def check_width(features: Any, width: int, *, flattens: bool = False) -> None:
    """Raise `ConfigError` unless each example has as many features as the model takes, on one axis.

    Args:
        features: The features of a client's examples, an array or tensor `[n, ...]`.
        width: The features that the model takes.
        flattens: Whether the model takes features on several axes, too.
    """
    shape = tuple(features.shape[1:])
    found = math.prod(shape)
    if found == width and (len(shape) != 1 if not flattens else not shape):
        raise ConfigError(
            f"the model takes {width} features on one axis, and an example has the shape {shape}: return "
            "features.reshape(len(features), -1) from the client's rows"
        )
    if found != width:
        raise ConfigError(
            f"the model takes {width} features, and an example has {found}: return {width} features for each example "
            f"from the client's rows, or give a model that takes {found}"
        )


def by_steps(lessons: Sequence[Lesson]) -> list[int]:
    """The places of the lessons, those with the most minibatches first: a step is then taken by the first ones."""
    return sorted(range(len(lessons)), key=lambda place: -len(lessons[place].batches))


def segments(lessons: Sequence[Lesson], width: int, *, times: int = 1) -> Iterator[Segment]:
    """The steps of a chunk, as many at a time as are gathered together.

    Args:
        lessons: The lessons in the order of `by_steps`.
        width: The features of an example.
        times: So many times as much is gathered at a time, for a device that is far from this memory.
    """
    steps = [len(lesson.batches) for lesson in lessons]
    if not steps or not steps[0]:
        return
    size = max(len(batch) for lesson in lessons for batch in lesson.batches)
    span = max(1, times * _SEGMENT // (len(lessons) * size * width))
    for first in range(0, steps[0], span):
        numbers = range(first, min(first + span, steps[0]))
        active = tuple(sum(count > number for count in steps) for number in numbers)
        yield Segment(slice(numbers.start, numbers.stop), active, size)


def gather(lessons: Sequence[Lesson], segment: Segment, x: Any, y: Any, weights: Any) -> None:
    """Fill in the examples of a segment, with zeros and no weight behind a short minibatch.

    Args:
        lessons: The lessons in the order of `by_steps`.
        segment: The steps.
        x: Receives the features, `[clients, steps, batch, width]`.
        y: Receives the targets, `[clients, steps, batch]`; zero before.
        weights: Receives one divided by the size of each minibatch, `[clients, steps, batch]`; zero before.
    """
    size, width = x.shape[2:]
    for place in range(segment.active[0]):
        lesson = lessons[place]
        batches = lesson.batches[segment.steps]
        features = lesson.features.reshape(len(lesson.features), -1)
        flat_x, flat_y, flat_weights = x[place].reshape(-1, width), y[place].reshape(-1), weights[place].reshape(-1)
        if all(len(batch) == size for batch in batches[:-1]):  # only the last one is short
            count = size * (len(batches) - 1) + len(batches[-1])
            numbers = batches[0] if len(batches) == 1 else np.concatenate(batches)
            if features.dtype == flat_x.dtype:
                np.take(features, numbers, 0, out=flat_x[:count], mode="clip")  # the mode that makes no copy
            else:
                flat_x[:count] = features[numbers]
            flat_x[count:] = 0
            flat_y[:count] = lesson.targets[numbers]
            flat_weights[: count - len(batches[-1])] = 1 / size
            flat_weights[count - len(batches[-1]) : count] = 1 / len(batches[-1])
            continue
        flat_x[:] = 0
        for number, batch in enumerate(batches):
            put = slice(number * size, number * size + len(batch))
            flat_x[put], flat_y[put], flat_weights[put] = features[batch], lesson.targets[batch], 1 / len(batch)
