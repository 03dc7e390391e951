"""The views of the server in the units of the model, and in words."""

from __future__ import annotations

from collections.abc import Sequence

from privfl.experiment.attack.cases import Case
from privfl.experiment.attack.inversion import Floats
from privfl.experiment.config import Client
from privfl.fl.plan import RoundPlan
from privfl.ring import Ints


def mean_update(plan: RoundPlan, vector: Ints, clients: int) -> Floats:
    """The mean update, float64 `[d]`, of the contributions in a view.

    Args:
        plan: The plan of the round.
        vector: The vector that it saw, int64 `[total_length]`.
        clients: The number of contributions in it.
    """
    mean, _ = plan.encoding.decode(vector, float(clients))
    return mean[: plan.encoding.model_length]


def server_sees(case: Case) -> str:
    """The view of the server in a case, in two or three words."""
    words = {"vectors": "each update", "sum": "the sum", "release": "the mean"}
    return words[case.subject.view] + (", noised" if case.report is not None else "")


def update_factor(client: Client, examples: int) -> float:
    """The length of an update in mean gradients: 1 for a gradient, and the learning rate times the steps otherwise.

    Args:
        client: The settings of the local training.
        examples: The number of examples of a client.
    """
    if client.update == "gradient":
        return 1.0
    per_epoch = 1 if client.batch_size is None else -(-examples // client.batch_size)
    steps = client.steps if client.steps is not None else client.epochs * per_epoch
    return client.learning_rate * steps


def noise_in_words(cases: Sequence[Case], configured_clip: bool) -> tuple[str, ...]:
    """The noise and the clip norm of the cases with noise, in a sentence each; nothing without such cases.

    Args:
        cases: The cases.
        configured_clip: True if the configuration has a clip norm.
    """
    noised = [case for case in cases if case.report is not None]
    if not noised or noised[0].report is None:
        return ()
    config, report = noised[0].parts.config, noised[0].report
    origin = (
        "as the configuration says"
        if configured_clip
        else "the median norm of a first update over examples of the attacker"
    )
    where = (
        f"The cases with an epsilon are a {config.sum.scheme} sum with {config.privacy.placement} noise. Each epsilon "
        f"holds against the server, for the data of one client ({report.unit.adjacency}), at delta {report.delta:g}."
    )
    return where, f"They clip to {config.privacy.clip_norm:.4g}, {origin}."
