"""Flower apps in this process for tests: a Grid over ClientApps, and sites behind them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from federations import PlainSite
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from privfl.adapters.flower import SecureSumMod
from privfl.fl.client import ClientUpdate, Train

TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1  # a SuperLink sets these

NAMES = ("weights", "bias")
SHAPES = ((2, 2), (2,))


def arrays(vector: np.ndarray) -> ArrayRecord:
    """Six numbers as the arrays of a small model."""
    return ArrayRecord(
        {"weights": Array(vector[:4].reshape(2, 2).astype(np.float32)), "bias": Array(vector[4:].astype(np.float32))}
    )


def flat(record: ArrayRecord) -> np.ndarray:
    return np.concatenate([record[name].numpy().ravel() for name in NAMES])


def local(message: Message, client: int) -> tuple[np.ndarray, float]:
    """A training that depends on the model, the config and the client."""
    config = message.content["config"]
    model = flat(message.content["arrays"])
    pull = float(config.get("proximal-mu", 0.0))
    target = np.random.default_rng([client, int(config["server-round"])]).normal(size=model.size)
    step = (target - model) * 0.3 / (1.0 + pull)
    return (model + step).astype(np.float32), float(np.square(step).sum())


def step(model: np.ndarray, client: int) -> np.ndarray:
    """A training that depends on the model and the client alone, because Flower counts rounds from each start."""
    target = np.random.default_rng(client).normal(size=len(model))
    return ((target - model) * 0.3).astype(np.float32)


def client_app(client: int, mods: list[Any]) -> ClientApp:
    """An ordinary app: full arrays and metrics."""
    app = ClientApp()

    @app.train(mods=mods)
    def train(message: Message, context: Context) -> Message:
        model, loss = local(message, client)
        metrics = MetricRecord({"num-examples": 10 * (client + 1), "train_loss": loss})
        return Message(RecordDict({"arrays": arrays(model), "metrics": metrics}), reply_to=message)

    @app.evaluate(mods=mods)
    def evaluate(message: Message, context: Context) -> Message:
        model = flat(message.content["arrays"])
        metrics = MetricRecord({"num-examples": 3 * (client + 1), "eval_loss": float(np.abs(model - client).mean())})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


@dataclass
class SiteOf:
    """A site in the app's process, opened for each message: what it keeps is in `site`."""

    site: PlainSite
    client: int = field(init=False)
    updates: list[ClientUpdate] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = self.site.own.client

    def opened(self, context: Any, train: Train) -> SiteOf:
        def kept(*arguments: Any) -> ClientUpdate:
            self.updates.append(train(*arguments))
            return self.updates[-1]

        self.site.train = kept
        return self

    def answer(self, frame: bytes, model: bytes) -> bytes:
        return self.site.answer(frame, model)

    def leave(self) -> None: ...


def secured(site: PlainSite) -> list[Any]:
    return [SecureSumMod(SiteOf(site).opened)]


class LoopGrid(Grid):
    """Calls each node's ClientApp in this process."""

    def __init__(self, apps: dict[int, ClientApp]) -> None:
        self.apps, self.sent, self.replies = apps, list[Message](), dict[str, Message]()
        self.lost: Callable[[Message], bool] = lambda message: False
        self.change: Callable[[Message], Message] = lambda reply: reply

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        identity, node = uuid.uuid4().hex, message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = identity
        self.sent.append(message)
        if self.lost(message):
            return identity
        content = RecordDict(dict(message.content.items()))  # the node's own copy
        copy = Message(content, metadata=message.metadata)
        context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
        try:
            reply = self.apps[node](copy, context)
        except Exception as error:  # noqa: BLE001 - as the SuperNode does
            reply = Message(Error(0, str(error)), reply_to=copy)
        assert not context.state
        self.replies[identity] = self.change(reply)
        return identity

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self.replies.pop(identity) for identity in message_ids if identity in self.replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))


class Placed(LoopGrid):
    """Nodes with a configuration of their own."""

    def __init__(self, apps: dict[int, Any], configs: dict[int, dict[str, Any]]) -> None:
        super().__init__({node: self._placed(app, configs[node]) for node, app in apps.items()})

    @staticmethod
    def _placed(app: Any, config: dict[str, Any]) -> Any:
        def run(message: Any, context: Any) -> Any:
            own = Context(run_id=1, node_id=1, node_config=config, state=context.state, run_config={})
            return app(message, own)

        return run
