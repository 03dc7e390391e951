"""The evaluation of a run's model: on public examples, through the secure sum, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from privfl.codec import Vector
from privfl.errors import ConfigError, PrivflError, reason_of
from privfl.experiment.assemble import Assembly
from privfl.experiment.fitting import is_taken
from privfl.fl.client_state import unpack_state
from privfl.fl.evaluation import evaluate
from privfl.fl.metrics import Evaluation, Measure, MetricSums, evaluation_of
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
    model = np.asarray(model).view()
    model.flags.writeable = False  # a measure of one's own may not change the model that it is given
    learner, given = parts.learner, parts.objects
    if learner.public_measure is not None and parts.method.personal is None:
        found = _public(learner.public_measure, model)
        taken = parts.private and given.public_measure is None and is_taken(parts.config, given.data, parts.federation)
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


def _public(measure: Callable[[Vector], MetricSums], model: Vector) -> Evaluation:
    try:
        return evaluation_of(measure(model))
    except PrivflError:
        raise
    except Exception as error:
        raise ConfigError(f"the measure over the public examples failed: {reason_of(error)}") from error


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
    if parts.objects.measure is None and not any(len(client.test) for client in parts.federation.clients):
        return "no client has a test example; raise data.test_fraction, or give clients with test examples"
    return ""
