"""The evaluation of a run's model: on public examples, through the secure sum, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from privfl.codec import Vector
from privfl.data import Dataset
from privfl.experiment.assemble import Assembly
from privfl.fl.client_state import unpack_state
from privfl.fl.evaluation import evaluate
from privfl.fl.metrics import Evaluation, Measure, evaluation_of
from privfl.fl.tuning import TunedMeasure
from privfl.wire import ClientId

TAKEN: Final = (
    "the public test examples were taken from the given data set: metrics over them carry no noise, and epsilon does "
    "not cover the people in them; give test examples of your own to avoid this"
)


def evaluation(parts: Assembly, model: Vector, states: Callable[[ClientId], bytes], *, context: bytes) -> Evaluation:
    """Evaluate a model as the run's settings allow.

    Args:
        parts: The run. With noise it is evaluated on public examples only.
        model: Float `[d]`.
        states: Reads the state of a client, which holds the layers that are its own.
        context: Binds a sum over the clients' own examples; never repeated, because no client enters one task twice.

    Returns:
        The metrics, and a caveat for each that is absent, or that shows something of examples that have an owner.
    """
    learner, given = parts.learner, parts.given
    if learner.public_measure is not None and parts.method.personal is None:
        found = evaluation_of(learner.public_measure(model))
        taken = parts.private and given.public_measure is None and is_taken(parts)
        return Evaluation(found.metrics, (*found.caveats, *((TAKEN,) if taken else ())), found.confusion)
    reason, measure = _reason(parts), _measure(parts, states)
    if reason or measure is None:
        return Evaluation({}, (f"nothing is evaluated: {reason}",))
    clients = tuple(range(parts.clients))
    return evaluate(parts.scheme, measure, model, clients, context=context, credentials=parts.credentials)


def _measure(parts: Assembly, states: Callable[[ClientId], bytes]) -> Measure | None:
    """The measure of a client: of its own layers where it has some, and after tuning where that is asked for."""
    measure, personal, tuning = parts.learner.measure, parts.method.personal, parts.config.client.tuning
    if measure is None:
        return None
    if personal is not None:
        own = personal(measure)
        return lambda model, client: own(model, client, unpack_state(states(client)))
    return TunedMeasure(measure, parts.learner.plain_train, tuning, parts.config.seed) if tuning else measure


def is_taken(parts: Assembly) -> bool:
    """True if the public test examples were taken from a user's own examples without being named as tests."""
    dataset, settings = parts.given.data, parts.config.data
    if not isinstance(dataset, Dataset):
        # a named data set is published; clients that a program gave bring their public tests
        return dataset is None and parts.federation.dataset.own and settings.test_path is None
    return not len(dataset.test) or settings.dealing.startswith("natural")


def _reason(parts: Assembly) -> str:
    if parts.method.personal is not None and len(parts.federation.test):
        return "some layers are the clients' own, and public test examples belong to nobody; set data.test = 'local'"
    if parts.learner.measure is None:
        return "a `train` of your own needs a `measure`, or a `public_measure` over examples that belong to nobody"
    if parts.private:
        return (
            "the test examples belong to clients, and sums over them carry no noise; give public test examples "
            "(data.test = 'public', FederatedData(test=...) or `public_measure`)"
        )
    if parts.given.measure is None and not any(len(client.test) for client in parts.federation.clients):
        return "no client has a test example; raise data.test_fraction, or give clients with test examples"
    return ""
