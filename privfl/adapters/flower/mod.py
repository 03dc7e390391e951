"""The client's half in a Flower app: a mod that answers frames through a site, around an unchanged train function."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from flwr.app import ConfigRecord, Error, Message, RecordDict

from privfl.adapters.federation import FRAME, LAYOUT, MODEL, InAppSite, no_training, opened
from privfl.adapters.flower.records import (
    CLIENT,
    HELLO,
    KEY,
    NAMES,
    ArrayLayout,
    frame_content,
    frame_record,
    one_record,
)
from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.files import read_json
from privfl.fl.client import ClientUpdate, Train
from privfl.wire import ClientId

log = logging.getLogger(__name__)

REFUSED: Final = "this node answers frames of a secure sum only; its own log states the reason"
"""The one text of every error reply: an error may depend on data, so it does not leave the node."""

_CODE: Final = 0

Next = Callable[[Message, Any], Message]


OpenSite = Callable[[Any, Train], InAppSite]
"""(context of the app, train) -> the site. It is called for each message: Flower may start a process for each."""


class SecureSumMod:
    """The mod of a train or evaluate function whose arrays and counts must not leave the node.

    The function stays as it is: it gets the model's arrays and the strategy's config, and returns full arrays and
    metrics. The mod hands them to the site, which answers with a frame of the secure sum. A message without a frame
    gets one fixed error reply, and the function is not called.

    Args:
        open_site: Opens this node's site; for example `lambda context, train: Site(home, train=train)`.
        weighted_by_key: The metric that holds the number of examples, as in the strategy.
    """

    def __init__(self, open_site: OpenSite, *, weighted_by_key: str = "num-examples") -> None:
        self._open_site, self._weight = open_site, weighted_by_key

    def __call__(self, message: Message, context: Any, call_next: Next) -> Message:
        """Answer one message.

        Args:
            message: The message that arrived.
            context: The context of the app; nothing is kept in its state.
            call_next: The app's own function.
        """
        try:
            return Message(self._answer(message, context, call_next), reply_to=message)
        except Exception:
            log.exception("a message was refused")
            return Message(Error(_CODE, REFUSED), reply_to=message)

    def _answer(self, message: Message, context: Any, call_next: Next) -> RecordDict:
        record = frame_record(message.content)
        if record is None:
            raise ConfigError("the message holds no frame: the server must send through SecureGrid")
        if HELLO in record:
            with opened(self._open_site(context, no_training)) as site:
                return RecordDict({KEY: ConfigRecord({CLIENT: int(site.client)})})
        frame, model = record[FRAME], record.get(MODEL, b"")
        if type(frame) is not bytes or type(model) is not bytes:
            raise ConfigError("frame and model are bytes")
        training = self._training(message, context, call_next) if model else no_training
        with opened(self._open_site(context, training)) as site:
            return frame_content(site.answer(frame, model))

    def _training(self, message: Message, context: Any, call_next: Next) -> Train:
        """The app's function as a training of a flat model."""

        def train(model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
            record = message.content[KEY]
            layout = ArrayLayout.from_text(str(record[LAYOUT]))
            if layout.size != len(model):
                raise ConfigError(f"the layout has {layout.size} entries, and the model {len(model)}")
            names = read_json(str(record[NAMES]))
            if message.content.array_records:
                raise ConfigError("arrays came next to the frame: the signed model is the only one that is trained on")
            others = {name: value for name, value in message.content.items() if name != KEY}
            message.content = RecordDict({**others, str(names["arrays"]): layout.arrays(model)})
            reply = call_next(message, context)
            return self._update(reply, layout, model, evaluates=bool(names["evaluates"]))

        return train

    def _update(self, reply: Message, layout: ArrayLayout, model: Vector, *, evaluates: bool) -> ClientUpdate:
        _, metrics = one_record(reply.content.metric_records, "MetricRecord")
        values = dict(metrics)
        if self._weight not in values:
            raise ConfigError(f"the reply holds no metric {self._weight!r}: give the number of examples")
        examples = values.pop(self._weight)
        if any(isinstance(value, list) for value in [examples, *values.values()]):
            raise ConfigError("the metrics of a secure sum are single numbers, not lists")
        if evaluates:
            return ClientUpdate(np.zeros(1), examples, {name: float(value) for name, value in values.items()})
        _, arrays = one_record(reply.content.array_records, "ArrayRecord")
        delta = layout.flatten(arrays).astype(np.float64) - model
        return ClientUpdate(delta, examples, {name: float(value) for name, value in values.items()})
