"""The report of one round: what a run's folder stores next to each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

from privfl.errors import StateError
from privfl.wire import ClientId

IF_SECURE: Final = "epsilon_if_the_noise_were_secure"

COHORT_DEPENDENT: Final = frozenset(
    {
        "attempts",
        "cohort",
        "survivors",
        "dropouts",
        "bytes_up",
        "bytes_down",
        "seconds",
        "round_caveats",
        "rejected_updates",
        "client_errors",
        "ledger",
        "ages",
    }
)
"""The fields that depend on the cohort: hidden from those against whom amplification by sampling is claimed."""


@dataclass(frozen=True, slots=True)
class RoundReport:
    """The result of one round.

    Attributes:
        round: The round, from 1.
        status: "trained", or "skipped" if too few survived, nobody was sampled or no update was accepted; the model is
            then unchanged.
        attempts: How often the round was tried.
        cohort: The number of clients that were asked.
        survivors: The number of clients whose vectors are in the sum.
        dropouts: The clients of the cohort whose vectors are not in the sum.
        model: The hash of the model after the round.
        parent: The hash of the model before it.
        update_norm: The l2 norm of the mean update.
        bytes_up: Bytes of all messages of all clients.
        bytes_down: Bytes of all messages to all clients.
        seconds: The wall time without evaluation.
        epsilon: What was spent so far against an outsider; None without a claim, and after most rounds beyond 64, see
            `privfl.fl.payment.is_asked`. Unless the noise is `secure` it is only the figure that secure noise would
            have, and its record says so in the key.
        metrics: The mean training metrics.
        evaluation: The metrics of the model after the round, where they were due.
        round_caveats: What the sum does not promise, and what the round did to the clients' numbers.
        confusion: The examples of the evaluation by true class (outer) and predicted class (inner); empty where they
            are not counted.
        evaluation_caveats: What the evaluation leaves out, and why a metric is absent.
        secure: Whether all noise came from a cryptographic stream.
        clip_norm: The clip norm of this round, where it is adaptive.
        ledger: The hash of the ledger's last line when the model was stored; None for a run without a ledger. Another
            run's ledger does not hold this line.
        rejected_updates: The number of updates that were not finite and were left out; None in a round with noise,
            which does not count them.
        bits: The bits of the ring of this round's sum.
        entry_bound: The bound of each entry of an update in this round; None where a clip norm bounds it.
        client_errors: The number of clients that dropped out because their training raised an error, by the type of
            the error, in the last attempt.
        virtual_time: The virtual time at which the buffer of an asynchronous round was full, in seconds; None in a
            synchronous round.
        ages: How many rounds old each update of an asynchronous round was, in the order of the cohort.
    """

    round: int
    status: Literal["trained", "skipped"]
    attempts: int
    cohort: int
    survivors: int
    dropouts: tuple[ClientId, ...]
    model: str
    parent: str
    update_norm: float
    bytes_up: int
    bytes_down: int
    seconds: float
    epsilon: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluation: Mapping[str, float] = field(default_factory=dict)
    round_caveats: tuple[str, ...] = ()
    secure: bool = True
    clip_norm: float | None = None
    ledger: str | None = None
    rejected_updates: int | None = None
    bits: int = 0
    entry_bound: float | None = None
    evaluation_caveats: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    client_errors: Mapping[str, int] = field(default_factory=dict)
    virtual_time: float | None = None
    ages: tuple[int, ...] = ()

    @property
    def caveats(self) -> tuple[str, ...]:
        """The caveats of the round and of its evaluation."""
        return (*self.round_caveats, *self.evaluation_caveats)

    def record(self) -> dict[str, Any]:
        """The report as a JSON object; without secure noise it has no key `epsilon`."""
        values = asdict(self)
        if not values.pop("secure"):
            values[IF_SECURE] = values.pop("epsilon")
        return values

    def published(self) -> dict[str, Any]:
        """Return the version of the report that may be published next to an outsider's epsilon.

        It leaves out every value that reveals who took part, or how many.
        """
        return {name: value for name, value in self.record().items() if name not in COHORT_DEPENDENT}

    @classmethod
    def read(cls, record: Mapping[str, Any], source: Path | str = "this record") -> RoundReport:
        """The report from its JSON object.

        Args:
            record: The JSON object, from `record`.
            source: The file that holds it, for the message of an error.

        Raises:
            StateError: A key is missing or unknown, or a list is no list.
        """
        values = dict(record)
        if IF_SECURE in values:
            values["epsilon"] = values.pop(IF_SECURE)
        names = {each.name for each in fields(cls)} - {"secure"}
        problem = [f"lacks the key {name!r}" for name in sorted(names - set(values))]
        problem += [f"has the unknown key {name!r}" for name in sorted(set(values) - names)]
        try:
            for name in () if problem else ("dropouts", "round_caveats", "evaluation_caveats", "ages", "confusion"):
                values[name] = tuple(map(tuple, values[name]) if name == "confusion" else values[name])
        except TypeError:
            problem = [f"has no list under the key {name!r}"]
        if problem:
            raise StateError(f"the report in {source} {problem[0]}: start the run again under another name")
        return cls(**values, secure=IF_SECURE not in record)
