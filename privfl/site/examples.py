"""Sums over a site's own examples: sampled by the site's own coins, once for each attempt, also after a crash."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.crypto.keystream import read_keystream
from privfl.errors import ConfigError
from privfl.files import atomic_write
from privfl.fl.examples import ExampleGradients, Indices, sampled_sum
from privfl.fl.plan import RoundPlan
from privfl.ring import Ints
from privfl.site.log import SiteLog
from privfl.sums.base import Entropy
from privfl.wire import ClientId

Gradients = npt.NDArray[np.floating[Any]]

NO_GRADIENTS: Final = (
    "the training function gives no gradients of single examples: have training.entry return one with `people` and "
    "`gradients`, such as privfl.fl.linear.LinearTrain"
)

_COIN_BYTES: Final = 32
_DIGEST_BYTES: Final = 32
_MAX_TRACEBACK: Final = 4000


@runtime_checkable
class SiteSums(Protocol):
    """The examples of a site: they are sampled by given coins, clipped and summed where the data are."""

    def sampled_sum(self, plan: RoundPlan, model: Vector, client: ClientId, coins: bytes) -> tuple[Ints, str]:
        """Return the site's contribution to a step before its noise.

        Args:
            plan: The plan of the round.
            model: The global model, float `[d]`.
            client: The site.
            coins: The secret, 32 bytes, from which every coin of the step follows.

        Returns:
            int64 `[d]`, and the traceback of the first gradient that failed; empty if none did.
        """
        ...


@dataclass(frozen=True, slots=True)
class OwnExamples:
    """A `SiteSums` over a training in this process.

    The gradient of a person that raises an error counts as zero, and the others count as they are. So one person's
    examples never decide what becomes of the others' gradients.

    Attributes:
        train: Gives the gradients.
    """

    train: ExampleGradients

    def sampled_sum(self, plan: RoundPlan, model: Vector, client: ClientId, coins: bytes) -> tuple[Ints, str]:
        """See `SiteSums.sampled_sum`.

        Args:
            plan: The plan of the round.
            model: The global model, float `[d]`.
            client: The site.
            coins: The secret of the step.
        """
        each = _EachPerson(self.train)
        total = sampled_sum(each, plan, model, client, entropy=read_keystream(coins))
        return total, each.failed

    def norms(self, model: Vector, client: ClientId) -> npt.NDArray[np.float64]:
        """The l2 norm of the gradient of each person of the site, for `privfl site try`; NaN where it is not finite.

        Args:
            model: The model, float `[d]`.
            client: The site.
        """
        each = _EachPerson(self.train, of_failed=np.nan)
        people = np.arange(self.train.people(client))
        parts = [np.linalg.norm(part.astype(np.float64), axis=1) for part in each.gradients(model, client, people)]
        norms = np.concatenate([np.zeros(0), *parts])
        return np.where(np.isfinite(norms), norms, np.nan)


class _EachPerson:
    """A training whose errors cost the person at whom they happen, and nobody else.

    Args:
        train: The training.
        of_failed: The entries of a gradient that failed.
    """

    def __init__(self, train: ExampleGradients, of_failed: float = 0.0) -> None:
        self._train, self._of_failed, self.failed = train, of_failed, ""

    def people(self, client: ClientId) -> int:
        """See `ExampleGradients.people`."""
        return self._train.people(client)

    def gradients(self, model: Vector, client: ClientId, chosen: Indices) -> Iterator[Gradients]:
        """See `ExampleGradients.gradients`.

        Args:
            model: The global model.
            client: The client.
            chosen: The numbers of the people.
        """
        done = 0
        try:
            for part in self._train.gradients(model, client, chosen):
                done += len(part)
                yield part
        except Exception:  # noqa: BLE001 (each person's examples may raise any error)
            for person in chosen[done:]:
                yield self._one(model, client, person)

    def _one(self, model: Vector, client: ClientId, person: np.intp) -> Gradients:
        try:
            parts = list(self._train.gradients(model, client, np.array([person])))
        except Exception:  # noqa: BLE001 (the same)
            self.failed = self.failed or traceback.format_exc()[-_MAX_TRACEBACK:]
            return np.full((1, len(model)), self._of_failed)
        if sum(map(len, parts)) != 1:
            raise ConfigError("`gradients` must give one gradient for each person: sum those of one person's examples")
        return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class OwnCoins:
    """An `ExampleSums` for one attempt at a site.

    Attributes:
        sums: The examples.
        coins: The secret of the attempt.
        log: The log of the site.
    """

    sums: SiteSums
    coins: bytes
    log: SiteLog

    def example_sum(self, plan: RoundPlan, model: Vector, client: ClientId) -> Ints:
        """See `ExampleSums.example_sum`.

        Args:
            plan: The plan of the round.
            model: The global model.
            client: The site.
        """
        total, failed = self.sums.sampled_sum(plan, model, client, self.coins)
        if failed:
            self.log.note("gradients failed", traceback=failed)
        return total


class NoExamples:
    """An `ExampleSums` of a training that failed: zeros."""

    def example_sum(self, plan: RoundPlan, model: Vector, client: ClientId) -> Ints:
        """Zeros, int64 `[plan.encoding.length]`.

        Args:
            plan: The plan of the round.
            model: Not used.
            client: Not used.
        """
        return np.zeros(plan.encoding.length, np.int64)


class SiteCoins:
    """The coins of rounds that were entered and not answered: a crash in between must not sample again.

    A site that sampled until a training went well would choose samples by their content, which no accountant covers.

    Args:
        folder: The folder of the rounds in progress.
        entropy: A source of random bytes.
    """

    def __init__(self, folder: Path, entropy: Entropy = os.urandom) -> None:
        self._folder, self._entropy = folder, entropy

    def of(self, charter: str, plan: RoundPlan) -> bytes:
        """The secret of an attempt: durable before it is used, and the same after a crash.

        Args:
            charter: The digest of the charter.
            plan: The plan of the attempt.
        """
        path, digest = self._path(charter), plan.digest()
        kept = path.read_bytes() if path.exists() else b""
        if kept[:_DIGEST_BYTES] != digest or len(kept) != _DIGEST_BYTES + _COIN_BYTES:
            kept = digest + self._entropy(_COIN_BYTES)
            atomic_write(path, kept)
        return kept[_DIGEST_BYTES:]

    def forget(self, charter: str) -> None:
        """Remove the secret of a round whose contribution is saved."""
        self._path(charter).unlink(missing_ok=True)

    def _path(self, charter: str) -> Path:
        return self._folder / f"{charter}.coins"
