"""The position of a run between two rounds, and the seam to its evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from privfl.codec import Vector
from privfl.fl.buffered import BaseModels
from privfl.fl.draws import DrawNotes
from privfl.fl.metrics import Evaluation
from privfl.fl.plan import RoundPlan
from privfl.fl.state_store import StateStore
from privfl.fl.store import Start, Version
from privfl.wire import ClientId

Evaluate = Callable[[Vector, Callable[[ClientId], bytes]], Evaluation]
"""(model, states) -> metrics, from public data or through a secure sum, and the reasons for those that are absent.

`states` reads the state of a client after the round; it is b"" where the training keeps none.
"""


@dataclass(slots=True)
class Progress:
    """The position of a run between two rounds.

    Attributes:
        latest: The latest stored version. A server that lets somebody else make the next model replaces it.
        start: This start of the run.
        draws: The draws of the cohorts so far; None for a run without a ledger.
        memory: The clients' states after the latest version; None for training that keeps none.
        bases: The models that the clients of asynchronous rounds train from.
    """

    latest: Version
    start: Start
    draws: DrawNotes | None
    memory: StateStore | None
    bases: BaseModels


def nothing_interrupted(round: int) -> RoundPlan | None:
    """No plan: the driver was stopped in no round."""
    return None
