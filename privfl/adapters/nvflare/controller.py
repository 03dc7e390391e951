"""The server's half in an NVFlare job: a controller that runs secure sums in place of exchanges of models.

Each client gets a task of its own in each step, because a task that clients share holds one frame for all. An answer
counts as that of the client whose connection brought it; a name inside the answer plays no part.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from nvflare.apis.controller_spec import Task
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable

from privfl.adapters.federation import FRAME, LAYOUT, MODEL, STEP_TIMEOUT, Server
from privfl.adapters.layout import NamedLayout
from privfl.adapters.nvflare.tasks import EVALUATES, TASK, named_function
from privfl.errors import ConfigError
from privfl.wire import ClientId

log = logging.getLogger(__name__)

_POLL: Final = 0.05
_ANSWERED: Final = "answered"

_Answers = queue.Queue[tuple[ClientId, bytes]]


class Aborted(Exception):
    """NVFlare aborted the job; the run's folder goes on where it stood."""


class SecureController(Controller):  # type: ignore[misc]  # nvflare ships no types that this check reads
    """The workflow of a federation: all rounds that the charter still allows.

    NVFlare exports a job by reading an attribute for each argument, so each argument is an attribute of its name. None
    of the first two has a default: a job that lost one does not start.

    Args:
        open_server: "module:function" of a function without arguments. It returns the server of the federation, not
            entered, and the layout of its model.
        mechanism: The placement of noise that the job was written for: "none", "central", "distributed", "mesh" or
            "local". The job ends before its first task if the charter states another.
        step_timeout: The seconds that the clients have for one step. Those that have not answered have dropped out.
        evaluate: Whether each round is followed by a secure sum of the sites' evaluation metrics.
    """

    def __init__(
        self, open_server: str, mechanism: str, step_timeout: float = STEP_TIMEOUT, evaluate: bool = False
    ) -> None:
        super().__init__()
        self.open_server, self.mechanism = open_server, mechanism
        self.step_timeout, self.evaluate = step_timeout, evaluate

    def start_controller(self, fl_ctx: Any) -> None:
        """See `Controller.start_controller`; raises `ConfigError` where the server's function is absent."""
        named_function(self.open_server, "open_server")

    def control_flow(self, abort_signal: Any, fl_ctx: Any) -> None:
        """Run the rounds that are left.

        Args:
            abort_signal: NVFlare's signal; the round that it interrupts goes on in the next job on the same folder.
            fl_ctx: NVFlare's context.

        Raises:
            ConfigError: If the charter states another placement of noise than `mechanism`, or another model.
            BudgetExceeded: If a round could cost more than the budget; the last paid model is stored.
        """
        opened, layout = named_function(self.open_server, "open_server")()
        with opened as server:
            placement = server.charter.terms.mechanism.placement
            if placement != self.mechanism:
                raise ConfigError(
                    f"this job was written for mechanism = {self.mechanism!r}, and the charter states {placement!r}"
                )
            if layout.size != len(server.model):
                raise ConfigError(f"the layout has {layout.size} entries, and the run's model {len(server.model)}")
            try:
                while server.round < server.rounds:
                    report = server.train_round(self._post(server, layout, abort_signal, fl_ctx))
                    log.info("round %d: %s", report.round, report.status)
                    if self.evaluate and report.status == "trained":
                        server.evaluate(self._post(server, layout, abort_signal, fl_ctx, evaluates=True))
            except Aborted:
                log.warning("the job was aborted after round %d", server.round)

    def stop_controller(self, fl_ctx: Any) -> None:
        """See `Controller.stop_controller`."""

    def process_result_of_unknown_task(
        self, client: Any, task_name: str, client_task_id: str, result: Shareable, fl_ctx: Any
    ) -> None:
        """Ignore an answer to a task that is over.

        Args:
            client: The client whose connection brought it.
            task_name: The name of the task.
            client_task_id: NVFlare's number of the delivery.
            result: The answer.
            fl_ctx: NVFlare's context.
        """
        log.info("%s answered a task that is over", client.name)

    def _post(self, server: Server, layout: NamedLayout, abort: Any, fl_ctx: Any, *, evaluates: bool = False) -> _Post:
        return _Post(self, server.names, layout, abort, fl_ctx, evaluates=evaluates)


class _Post:
    """The transport of one round: tasks to clients, and the answers that their connections brought."""

    def __init__(
        self,
        controller: SecureController,
        names: Mapping[str, ClientId],
        layout: NamedLayout,
        abort: Any,
        fl_ctx: Any,
        *,
        evaluates: bool,
    ) -> None:
        self._controller, self._names, self._layout = controller, names, layout
        self._abort, self._context, self._evaluates = abort, fl_ctx, evaluates

    def exchange(self, frames: Mapping[ClientId, bytes], model: bytes) -> Iterable[tuple[ClientId, bytes]]:
        """See `Transport.exchange`."""
        answers: _Answers = queue.Queue()  # its lock is the one around delivery: NVFlare calls from several threads
        tasks = []
        for name in self._clients():
            client = self._names[name]
            if client in frames:
                task = self._task(frames[client], model, answers)
                self._controller.send(task=task, fl_ctx=self._context, targets=[name])
                tasks.append(task)
        try:
            yield from self._answers(tasks, answers)
        finally:
            for task in tasks:
                _list_once(task)
                if task.completion_status is None:
                    self._controller.cancel_task(task, fl_ctx=self._context)

    def _clients(self) -> list[str]:
        """The names of the connected clients that are sites of the federation."""
        connected = sorted(client.name for client in self._context.get_engine().get_clients())
        strangers = [name for name in connected if name not in self._names]
        if strangers:
            log.error("no sites of this federation: %s; a client's name must be the site's", ", ".join(strangers))
        return [name for name in connected if name in self._names]

    def _task(self, frame: bytes, model: bytes, answers: _Answers) -> Task:
        data = Shareable()
        data[FRAME] = frame
        if model:
            data[MODEL], data[LAYOUT], data[EVALUATES] = model, self._layout.to_text(), self._evaluates

        def received(client_task: Any, fl_ctx: Any) -> None:
            name = client_task.client.name  # of the connection, which NVFlare authenticated
            result, client_task.result = client_task.result, None
            _list_once(client_task.task)
            answer = result.get(FRAME)
            if result.get_return_code() != ReturnCode.OK:
                log.warning("%s refused: its own log states the reason", name)
            elif type(answer) is not bytes or MODEL in result or "DXO" in result:
                log.error("%s replied in the clear: its job runs without SecureExecutor", name)
            else:
                answers.put((self._names[name], answer))
            client_task.task.set_prop(_ANSWERED, True)

        return Task(name=TASK, data=data, result_received_cb=received)

    def _answers(self, tasks: list[Task], answers: _Answers) -> Iterator[tuple[ClientId, bytes]]:
        """Yield answers until each task is over or the step's time is."""
        end = time.monotonic() + self._controller.step_timeout
        while True:
            if self._abort.triggered:
                raise Aborted
            over = all(map(_over, tasks)) or time.monotonic() >= end
            try:
                yield answers.get(block=not over, timeout=_POLL)
            except queue.Empty:
                if over:
                    return


def _over(task: Task) -> bool:
    return task.completion_status is not None or bool(task.get_prop(_ANSWERED))


def _list_once(task: Task) -> None:
    """List each delivery of a task once.

    NVFlare 2.9 lists it again when a restarted client fetches its task while tasks of other clients stand, and the
    thread that watches all tasks then ends with a KeyError.
    """
    task.client_tasks[:] = {delivery.id: delivery for delivery in task.client_tasks}.values()
