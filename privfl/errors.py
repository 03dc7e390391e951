"""Every error that privfl raises on purpose.

PrivflError
|- ConfigError (ValueError)       parameters contradict each other
|  `- CapacityError               the ring is too small for cohort x clip x scale (+ noise)
|- DataError (ValueError)         a data file is absent, altered or malformed
|- WireError (ValueError)         bytes are not the canonical form
|- StateError                     a file that privfl wrote was altered or cannot be continued
|- ClientFailed                   a client's own training raised, or its process died
|- ProtocolError
|  |- LocalProtocolError          you called out of order
|  |- RemoteProtocolError         a peer broke the rules
|  |- TooFewSurvivors             no sum is opened
|  `- PlanRejected                this client's policy refuses the plan
|- PrivacyError
|  |- BudgetExceeded              raised before a client is asked
|  |- OpenedBefore                a round's noise was added to another sum before
|  `- UnsupportedRelease          this accountant cannot judge that release
`- MissingExtra (ImportError)     an optional package is not installed
"""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path


class PrivflError(Exception):
    """The root: `except PrivflError` catches everything that privfl raises on purpose.

    Every error survives a trip between processes: `args` are what the constructor takes, `__str__` makes the sentence.
    """


class ConfigError(PrivflError, ValueError):
    """Parameters contradict each other; the message names the value found and the value allowed."""


class CapacityError(ConfigError):
    """The ring cannot hold the largest possible sum; the message names the bits that would suffice."""


class DataError(PrivflError, ValueError):
    """A data file is absent, altered or malformed; the message says where to get it."""


class WireError(PrivflError, ValueError):
    """Bytes are not the canonical form of any message."""


class StateError(PrivflError):
    """Stored state cannot be used: it is altered, incomplete, expired, from another run, or in the way."""


class ClientFailed(PrivflError):
    """A client's training raised an error, or its process died.

    The message holds the type of the error and the place that raised it. The error's own text may hold a value of the
    client's data: it is in `__cause__`, which Python prints with a traceback and privfl prints and stores nowhere.

    Args:
        client: The client whose training failed.
        reason: The reason, without the text of an error that is not privfl's own; see `reason_of`.
    """

    def __init__(self, client: int, reason: str) -> None:
        super().__init__(client, reason)
        self.client = client
        self.reason = reason

    def __str__(self) -> str:
        return f"client {self.client} failed: {self.reason}"


class ProtocolError(PrivflError):
    """A secure sum cannot go on as asked."""


class LocalProtocolError(ProtocolError):
    """The caller used a session out of order, or after it ended."""


class RemoteProtocolError(ProtocolError):
    """A peer broke the rules.

    Args:
        message: The rule and the value found.
        sender: The client that broke it; None when the server is at fault or the sender is unknown.
    """

    def __init__(self, message: str, *, sender: int | None = None) -> None:
        super().__init__(message)
        self.sender = sender


class TooFewSurvivors(ProtocolError):
    """Fewer clients are left than the threshold, so there is no result.

    Attributes:
        survivors: The number of clients that are left.
        threshold: The number of clients that are needed.
        opened: True if the sum may have been seen by its opener all the same, because messages that open it were
            requested, or vectors were sent in the clear. Only an abort with `opened=False` proves that nothing was
            seen.
    """

    def __init__(self, survivors: int, threshold: int, opened: bool = False) -> None:
        super().__init__(survivors, threshold, opened)
        self.survivors = survivors
        self.threshold = threshold
        self.opened = opened

    def __str__(self) -> str:
        seen = "the sum may have been seen all the same" if self.opened else "nothing was opened"
        return f"{self.survivors} clients are left, and {self.threshold} are needed: {seen}"


class PlanRejected(ProtocolError):
    """This client's own policy refuses the plan; `reason` says which demand was not met."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"plan rejected: {self.reason}"


class PrivacyError(PrivflError):
    """A privacy figure was asked for that would not be true."""


class BudgetExceeded(PrivacyError):
    """The next round could cost more than is left; raised before any client is asked.

    Args:
        spent: The epsilon after the next round.
        budget: The epsilon that may be spent.
    """

    def __init__(self, spent: float, budget: float) -> None:
        super().__init__(spent, budget)
        self.spent = spent
        self.budget = budget

    def __str__(self) -> str:
        return f"the next round would bring epsilon to {self.spent:.4f}, above the budget of {self.budget:.4f}"


class OpenedBefore(PrivacyError):
    """The noise of a round was added to another sum before: a second sum under it would reveal their difference."""


class UnsupportedRelease(PrivacyError):
    """The accountant cannot judge that release; it never answers 0 instead."""


class MissingExtra(PrivflError, ImportError):
    """An optional package is not installed; the message is the pip line that installs it.

    Args:
        package: The name of the package.
        extra: The extra of privfl that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package, extra)
        self.package = package
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.package} is not installed; run: pip install 'privfl[{self.extra}]'"


def reason_of(error: BaseException) -> str:
    """The reason that an error gives, without any text that may hold a value of somebody's data.

    Args:
        error: An error that was caught, with its traceback.

    Returns:
        Type and text of an error that privfl raised on purpose. Of any other error the type and the place: the last
        line of code outside installed packages, by function, file and line.
    """
    kind, frames, here = type(error).__name__, traceback.extract_tb(error.__traceback__), str(Path(__file__).parent)
    if not frames:
        return kind
    if isinstance(error, PrivflError) and frames[-1].filename.startswith(here):
        return f"{kind}: {error}"
    installed = [here, *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))]
    own = [frame for frame in frames if not frame.filename.startswith(tuple(installed))]
    place = (own or frames)[-1]
    return f"{kind} in {place.name} ({Path(place.filename).name}, line {place.lineno})"
