"""Canaries: clients whose updates are as easy to detect as the clip allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from privfl.codec import Vector
from privfl.dp import AdaptiveClip, ElementClip, LayerClip
from privfl.fl.client import ClientUpdate
from privfl.fl.encoding import UpdateEncoding
from privfl.ring import Ints
from privfl.wire import ClientId

REACH: Final = 16.0
"""A canary exceeds the clip by this factor, so a clip that does not act is seen."""

MAX_AXES: Final = 4


@dataclass(frozen=True, slots=True)
class Role:
    """The contribution of a canary to one round.

    Attributes:
        axis: The direction, counted from 0.
        sign: +1 or -1.
    """

    axis: int
    sign: int


def axes_of(length: int, rounds: int) -> int:
    """The number of directions that a canary takes in turn.

    Equal noise in two rounds is visible only if the canary's contributions in these rounds differ.

    Args:
        length: The entries of the model.
        rounds: The number of rounds.
    """
    return max(1, min(length, rounds, MAX_AXES))


def role_in(round: int, axes: int, sign: int, first: int = 0) -> Role:
    """The role of a canary in a round: directions in turn, and the sign changes after each pass over them.

    Args:
        round: The round, from 1.
        axes: The number of directions.
        sign: +1; -1 for the other contribution of `replace_one`.
        first: The first direction.
    """
    turn, axis = divmod(round - 1, axes)
    return Role(first + axis, sign if turn % 2 == 0 else -sign)


def extreme_update(encoding: UpdateEncoding, role: Role) -> ClientUpdate:
    """An update at the clip norm in one direction, with every other slot at its bound.

    Under an adaptive clip the indicator changes with the sign: the update is just within the norm, or far outside.

    Args:
        encoding: The encoding of the round, whose clip is public.
        role: Direction and sign.
    """
    clip, length, sign = encoding.clip, encoding.length, float(role.sign)
    delta = np.zeros(length)
    if isinstance(clip, ElementClip):
        bits = np.bitwise_and(np.arange(length), role.axis)
        parity = np.array([int(b).bit_count() & 1 for b in bits])
        delta[:] = sign * REACH * clip.max_abs * np.where(parity, -1.0, 1.0)
    elif isinstance(clip, LayerClip):
        for start, stop, norm in zip(clip.cuts, clip.cuts[1:], clip.norms, strict=False):
            delta[start + role.axis % (stop - start)] = sign * REACH * norm
    elif isinstance(clip, AdaptiveClip) and role.sign > 0:
        delta[role.axis % length] = clip.clip_norm
    else:
        delta[role.axis % length] = sign * REACH * clip.clip_norm
    return ClientUpdate(delta, 1, {metric.name: sign * REACH * metric.bound for metric in encoding.metrics})


def silent_update(length: int) -> ClientUpdate:
    """An update that counts as the zero vector in every slot, because it is not finite."""
    return ClientUpdate(np.full(length, math.nan), 1)


def contribution(encoding: UpdateEncoding, role: Role, rng: np.random.Generator) -> Ints:
    """The encoded contribution of a canary, before noise: int64 `[encoding.total_length]`.

    Args:
        encoding: The encoding of the round.
        role: Direction and sign.
        rng: For stochastic rounding.
    """
    return encoding.encode(extreme_update(encoding, role), rng)


@dataclass(slots=True)
class RoleTrain:
    """A training in which canaries play their roles of the round, and all other clients contribute zeros.

    Attributes:
        encoding: The encoding of the round.
        roles: The role of each canary that contributes.
    """

    encoding: UpdateEncoding
    roles: Mapping[ClientId, Role] = field(default_factory=dict)

    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        """The update of one client.

        Args:
            model: The global model, which no role depends on.
            client: The client.
            round: The round.
            rng: Not used.
        """
        role = self.roles.get(client)
        return silent_update(len(model)) if role is None else extreme_update(self.encoding, role)
