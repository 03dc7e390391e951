"""The server's half in a Flower app: a Grid that runs secure sums in place of exchanges of models.

A strategy sends its messages through the Grid and gets one reply back: the mean, its metrics, and the weight 1. The
exchanges in between go to the nodes as frames; no reply with arrays or counts is taken from a node.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from privfl.adapters.federation import FRAME, LAYOUT, MODEL, STEP_TIMEOUT, Server
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
from privfl.adapters.flower.strategies import check_strategy
from privfl.errors import ConfigError
from privfl.files import canonical_json
from privfl.wire import ClientId

log = logging.getLogger(__name__)

GREETING_TIMEOUT: Final = 60.0
"""The seconds in which a node must state its site; a node that is not there costs each round so much."""


class SecureGrid(Grid):  # type: ignore[misc]  # flwr ships no types that this check reads
    """A Grid for `strategy.start(grid=...)` whose replies are means of secure sums.

    Every node that the strategy chooses is asked, and the choice counts as "everyone" in the ledger: Flower's own
    sampling is no secret, so nothing is amplified by it.

    Args:
        grid: Flower's Grid, as the server app gets it.
        server: The server of the federation, entered.
        strategy: The strategy that will use this Grid.
        layout: The layout of the model's arrays: `ArrayLayout.of(initial_arrays)`.
        nodes: The site at each node, where it is known; by default every node is asked.
        step_timeout: The seconds that the nodes have for one step. Those that have not answered have dropped out.
        greeting_timeout: The seconds in which a node that was never asked must state its site. Nodes whose first
            process starts slowly, as in a simulation on a busy machine, need more.
        poll: The seconds between two looks for replies.
        sleep: Waits a number of seconds.

    Raises:
        ConfigError: If the strategy needs single updates, or the layout is not one of the server's model.
    """

    def __init__(
        self,
        grid: Grid,
        server: Server,
        strategy: object,
        layout: ArrayLayout,
        *,
        nodes: Mapping[int, ClientId] | None = None,
        step_timeout: float = STEP_TIMEOUT,
        greeting_timeout: float = GREETING_TIMEOUT,
        poll: float = 0.2,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        check_strategy(strategy)
        if layout.size != len(server.model):
            raise ConfigError(f"the layout has {layout.size} entries, and the run's model {len(server.model)}")
        self._grid, self._server, self._layout = grid, server, layout
        self._weight = str(getattr(strategy, "weighted_by_key", "num-examples"))
        self._timeout, self._greeting, self._poll, self._sleep = step_timeout, greeting_timeout, poll, sleep
        self._nodes: dict[int, ClientId] = dict(nodes or {})
        self._ask_nodes = nodes is None

    @property
    def arrays(self) -> ArrayRecord:
        """The latest model: what `initial_arrays` must be when a run is resumed, and its start otherwise."""
        return self._layout.arrays(self._server.model)

    @property
    def rounds_left(self) -> int:
        """The rounds that the charter still allows: `num_rounds` of this start."""
        return self._server.rounds - self._server.round

    def finish(self, arrays: ArrayRecord) -> None:
        """Store the strategy's last model, which it made from the mean of the last round.

        Args:
            arrays: The arrays of the strategy's result.
        """
        if self._server.round:
            self._server.adopt(self._layout.flatten(arrays))

    def set_run(self, run: Any) -> None:
        """See `Grid.set_run`."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """See `Grid.run`."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """See `Grid.create_message`."""
        return self._grid.create_message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        """See `Grid.get_node_ids`."""
        return [int(node) for node in self._grid.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Raise `ConfigError`: single messages to nodes would bring single replies."""
        raise ConfigError("messages to single nodes would bring replies in the clear: use strategy.start")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Raise `ConfigError`, as `push_messages` does."""
        raise ConfigError("replies of single nodes are in the clear: use strategy.start")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run a round or an evaluation, and return its one reply; an empty list if too few clients survived.

        Args:
            messages: The strategy's messages, all with one content.
            timeout: The strategy's limit; a step never takes longer.

        Raises:
            ConfigError: A message is neither of training nor of evaluation, or the messages differ from node to node.
            BudgetExceeded: If the round could cost more than the budget; the last paid model is stored.
        """
        asked = list(messages)
        if not asked:
            return []
        first = asked[0]
        kind = str(first.metadata.message_type).partition(".")[0]
        if kind not in ("train", "evaluate"):
            raise ConfigError(
                f"a {kind!r} message would bring replies in the clear: only train and evaluate are summed"
            )
        if any(message.content is not first.content and message.content != first.content for message in asked):
            raise ConfigError("the strategy sends each node another content, and a round has one model for all")
        name, arrays = one_record(first.content.array_records, "ArrayRecord")
        others = {key: value for key, value in first.content.items() if key != name}
        names = canonical_json({"arrays": name, "evaluates": kind == "evaluate"}).decode()
        limit = self._timeout if timeout is None else min(self._timeout, timeout)
        nodes = [int(message.metadata.dst_node_id) for message in asked]
        extra = {LAYOUT: self._layout.to_text(), NAMES: names}
        post = _Post(self, first, nodes, limit=limit, others=others, extra=extra)
        vector = self._layout.flatten(arrays)
        if kind == "evaluate":
            found = self._server.evaluate(post, vector)
            return [self._reply(first, {}, found.metrics)] if found.metrics else []
        report = self._server.train_round(post, vector)
        if report.status != "trained":
            return []
        return [self._reply(first, {name: self.arrays}, report.metrics)]

    def _reply(self, to: Message, records: dict[str, Any], metrics: Mapping[str, float]) -> Message:
        values = MetricRecord({**metrics, self._weight: 1})
        return Message(RecordDict({**records, "metrics": values}), reply_to=to)

    def post(self, contents: Mapping[int, RecordDict], like: Message, limit: float) -> Iterable[Message]:
        """Send one message to each node, and yield the replies as they come.

        Args:
            contents: The content for each node.
            like: The message whose type, group and lifetime are used.
            limit: The seconds after which no reply is waited for.
        """
        meta = like.metadata
        sent = [
            Message(
                content=content,
                dst_node_id=node,
                message_type=meta.message_type,
                ttl=meta.ttl,
                group_id=meta.group_id or None,
            )
            for node, content in contents.items()
        ]
        waiting = {identity for identity in self._grid.push_messages(sent) if identity}
        end = time.monotonic() + limit
        while waiting:
            replies = list(self._grid.pull_messages(list(waiting)))
            waiting -= {reply.metadata.reply_to_message_id for reply in replies}
            yield from replies
            if not waiting or time.monotonic() >= end:
                return
            if not replies:
                self._sleep(self._poll)

    def sites(self, nodes: Sequence[int], like: Message, limit: float) -> Mapping[int, ClientId]:
        """The site at each node; nodes that have not stated theirs are asked. A wrong statement helps nobody.

        Args:
            nodes: The nodes that the strategy chose.
            like: A message of the strategy.
            limit: The seconds that the nodes have.
        """
        new = [node for node in nodes if node not in self._nodes] if self._ask_nodes else []
        greeting = {node: RecordDict({KEY: ConfigRecord({HELLO: 1})}) for node in new}
        for reply in self.post(greeting, like, min(limit, self._greeting)):
            record = frame_record(reply.content) if reply.has_content() else None
            client = record.get(CLIENT) if record is not None else None
            if type(client) is int and client in self._server.clients:
                self._nodes[int(reply.metadata.src_node_id)] = client
            else:
                log.warning("node %d states no site of this federation", reply.metadata.src_node_id)
        if absent := [node for node in new if node not in self._nodes]:
            log.warning("not asked, because they stated no site in %g s: nodes %s", self._greeting, absent)
        return {node: self._nodes[node] for node in nodes if node in self._nodes}


class _Post:
    """The transport of one round: frames to nodes, and answers from the nodes that were asked."""

    def __init__(
        self,
        grid: SecureGrid,
        like: Message,
        nodes: Sequence[int],
        *,
        limit: float,
        others: Mapping[str, Any],
        extra: Mapping[str, str],
    ) -> None:
        self._grid, self._like, self._nodes, self._limit = grid, like, nodes, limit
        self._others, self._extra = others, extra

    def exchange(self, frames: Mapping[ClientId, bytes], model: bytes) -> Iterable[tuple[ClientId, bytes]]:
        """See `Transport.exchange`."""
        sites = self._grid.sites(self._nodes, self._like, self._limit)
        contents = {}
        for node, client in sites.items():
            if client not in frames:
                continue
            if model:
                content = frame_content(frames[client], {MODEL: model, **self._extra})
                content.update(self._others)
            else:
                content = frame_content(frames[client])
            contents[node] = content
        for reply in self._grid.post(contents, self._like, self._limit):
            node = int(reply.metadata.src_node_id)
            if not reply.has_content():
                continue  # an error reply: the node's own log states the reason
            record = frame_record(reply.content)
            answer = record.get(FRAME) if record is not None else None
            if type(answer) is not bytes or len(reply.content) != 1 or node not in sites:
                log.error("node %d replied in the clear: its app runs without SecureSumMod or a relay", node)
                continue
            yield sites[node], answer
