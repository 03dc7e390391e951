"""Parts of all engines' adapters: the server and the site as they see them, and the names of a message."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import numpy as np

from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.charter import Charter
from privfl.fl.client import ClientUpdate
from privfl.fl.exchange import Transport
from privfl.fl.frames import SiteEndpoint
from privfl.fl.metrics import Evaluation
from privfl.fl.report import RoundReport
from privfl.wire import ClientId

FRAME: Final = "frame"
MODEL: Final = "model"
LAYOUT: Final = "layout"

STEP_TIMEOUT: Final = 600.0
"""The seconds that sites have for one step, unless an adapter is given another number."""


class Server(Protocol):
    """The server of a federation, such as `privfl.experiment.server.FederationServer`."""

    @property
    def charter(self) -> Charter:
        """The charter of the run."""
        ...

    @property
    def clients(self) -> tuple[ClientId, ...]:
        """The sites."""
        ...

    @property
    def names(self) -> Mapping[str, ClientId]:
        """The sites by their names."""
        ...

    @property
    def round(self) -> int:
        """The last stored round."""
        ...

    @property
    def rounds(self) -> int:
        """The last round that the charter allows."""
        ...

    @property
    def model(self) -> Vector:
        """The latest model."""
        ...

    def train_round(self, transport: Transport, model: Vector | None = None) -> RoundReport:
        """Run one round.

        Args:
            transport: Carries the frames.
            model: The model that the strategy made.
        """
        ...

    def evaluate(self, transport: Transport, model: Vector | None = None) -> Evaluation:
        """Sum the metrics of a model over the sites' test examples.

        Args:
            transport: Carries the frames.
            model: The model that the strategy made.
        """
        ...

    def adopt(self, model: Vector) -> None:
        """Store the model that a strategy made."""
        ...


class InAppSite(SiteEndpoint, Protocol):
    """A site in the app's own process."""

    @property
    def client(self) -> ClientId:
        """The identity of the site in the directory."""
        ...

    def leave(self) -> None:
        """Give the site's folder back until the next message."""
        ...


@contextlib.contextmanager
def opened(site: InAppSite) -> Iterator[InAppSite]:
    """The site for one message, which is left afterwards."""
    try:
        yield site
    finally:
        site.leave()


def no_training(model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
    """Raise `ConfigError`: only a frame of step 0 brings a model to train.

    Args:
        model: Not used, like the other arguments of a training.
        client: See model.
        round: See model.
        rng: See model.
    """
    raise ConfigError("a frame of step 0 came without its model")
