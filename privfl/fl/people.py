"""The people behind examples: those of one person at one site share a coin and a clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from privfl.errors import ConfigError
from privfl.wire import ClientId

Persons = Callable[[ClientId], npt.NDArray[Any]]
"""Client -> a label `[n]` for each of its examples; examples with equal labels are of one person."""


@dataclass(frozen=True, slots=True)
class PeoplePart:
    """Some people and their examples.

    Attributes:
        examples: The numbers of the examples, those of one person next to each other.
        starts: The place of each person's first example; None where each has one.
    """

    examples: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp] | None

    def sums(self, gradients: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The sum over each person's examples.

        Args:
            gradients: Of each example, float `[len(examples), d]`.

        Returns:
            float `[people, d]`.
        """
        if self.starts is None:
            return gradients
        return np.stack([np.add.reduce(one, axis=0) for one in np.split(gradients, self.starts[1:])])


def people_of(persons: Persons | None, client: ClientId, examples: int) -> int:
    """The number of people at a client.

    Args:
        persons: The person of each example; None counts each example by itself.
        client: The client.
        examples: The number of its examples.
    """
    return examples if persons is None else len(np.unique(_labels(persons, client, examples)))


def parts_of(
    persons: Persons | None, client: ClientId, examples: int, chosen: npt.NDArray[np.intp], size: int
) -> Iterator[PeoplePart]:
    """Yield the chosen people in parts of about `size` examples.

    Args:
        persons: The person of each example; None counts each example by itself.
        client: The client.
        examples: The number of its examples.
        chosen: The numbers of the people, increasing.
        size: The examples of a part, at least 1; a person with more has a part alone.
    """
    if persons is None:
        yield from (PeoplePart(chosen[start : start + size], None) for start in range(0, len(chosen), size))
        return
    _, person = np.unique(_labels(persons, client, examples), return_inverse=True)
    order = np.argsort(person, kind="stable")
    firsts = np.searchsorted(person[order], np.arange(person.max(initial=-1) + 2))
    held: list[npt.NDArray[np.intp]] = []
    for number in chosen:
        own = order[firsts[number] : firsts[number + 1]]
        if held and sum(map(len, held)) + len(own) > size:
            yield _joined(held)
            held = []
        held.append(own)
    if held:
        yield _joined(held)


def _joined(held: list[npt.NDArray[np.intp]]) -> PeoplePart:
    starts = np.cumsum([0, *(len(own) for own in held[:-1])])
    return PeoplePart(np.concatenate(held), starts)


def _labels(persons: Persons, client: ClientId, examples: int) -> npt.NDArray[Any]:
    labels = np.asarray(persons(client))
    if labels.shape != (examples,):
        raise ConfigError(f"`persons` names {labels.shape} people for {examples} examples: give one label for each")
    return labels
