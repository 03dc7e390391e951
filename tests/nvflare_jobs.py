"""NVFlare jobs in this process for tests: its own server and serializer around controllers and executors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from federations import Federation, PlainSite
from nvflare.apis.client import Client
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.impl.wf_comm_server import WFCommServer
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.fuel.utils import fobs

from privfl.adapters.nvflare import NamedLayout, SecureController, SecureExecutor
from privfl.fl.client import Train

NAMES = ("weights", "bias")


def arrays(vector: np.ndarray) -> dict[str, np.ndarray]:
    """Six numbers as the arrays of a small model."""
    return {"weights": vector[:4].reshape(2, 2), "bias": vector[4:]}


@dataclass
class SiteOf:
    """A site in the client's process, opened for each task: what it keeps is in `site`."""

    site: PlainSite
    client: int = field(init=False)

    def __post_init__(self) -> None:
        self.client = self.site.own.client

    def answer(self, frame: bytes, model: bytes) -> bytes:
        return self.site.answer(frame, model)

    def leave(self) -> None: ...


class Present:
    """The federation that the functions below, which a job names by strings, serve."""

    federation: Federation
    options: Mapping[str, Any]


def open_server() -> tuple[Any, NamedLayout]:
    layout = NamedLayout.of(arrays(Present.federation.initial))
    return Present.federation.server(**Present.options), layout


def open_site(name: str, train: Train) -> SiteOf:
    site = Present.federation.sites[int(name.removeprefix("site-"))]
    site.train = train
    return SiteOf(site)


class Trainer(Executor):
    """An ordinary executor: full arrays, or a difference, and metrics."""

    def __init__(self, client: int, params_type: Any = ParamsType.FULL) -> None:
        super().__init__()
        self.client, self.params_type, self.asked = client, params_type, list[str]()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        self.asked.append(task_name)
        given = FLModelUtils.from_shareable(shareable)
        meta = {"NUM_STEPS_CURRENT_ROUND": 10 * (self.client + 1)}
        if task_name == "validate":
            loss = float(np.abs(given.params["weights"]).mean()) + self.client
            return FLModelUtils.to_shareable(FLModel(metrics={"eval_loss": loss}, meta=meta))
        rng = np.random.default_rng([self.client, given.current_round])
        step = {name: (rng.normal(size=a.shape) - a) * 0.3 for name, a in given.params.items()}
        full = {name: (given.params[name] + step[name]).astype(np.float32) for name in step}
        params = full if self.params_type == ParamsType.FULL else step
        loss = {"train_loss": float(self.client)}
        return FLModelUtils.to_shareable(FLModel(self.params_type, params, metrics=loss, meta=meta))


class Engine:
    """What components ask of NVFlare's engine, for a job in this process."""

    def __init__(self, names: list[str], components: Mapping[str, Any] | None = None) -> None:
        self.clients, self.components = [Client(name, name) for name in names], dict(components or {})
        self.fired: list[str] = []

    def get_clients(self) -> list[Client]:
        return self.clients

    def validate_targets(self, names: list[str]) -> tuple[list[Client], list[str]]:
        known = {client.name: client for client in self.clients}
        return [known[name] for name in names if name in known], [name for name in names if name not in known]

    def get_all_components(self) -> dict[str, Any]:
        return self.components

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        self.fired.append(event_type)

    def new_context(self, name: str = "server") -> FLContext:
        return FLContextManager(engine=self, identity_name=name, job_id="job").new_context()


Change = Callable[[str, Shareable], Shareable | None]


@dataclass
class Job:
    """A controller under NVFlare's own task server, and an executor for each client in a thread of its own.

    What passes between them goes through NVFlare's serializer. `change` sees every answer, and may replace or lose it.
    """

    controller: SecureController
    executors: dict[str, Executor]
    change: Change = lambda name, answer: answer
    wire: list[bytes] = field(default_factory=list)
    tasks: list[tuple[str, str]] = field(default_factory=list)
    abort: Signal = field(default_factory=Signal)

    def run(self) -> None:
        """Run the workflow to its end; an error of the controller is raised here."""
        engine = Engine(list(self.executors))
        server = WFCommServer(task_check_period=0.01)
        server.controller = self.controller
        self.controller.set_communicator(server)
        with engine.new_context() as context:
            server.initialize_run(context)
            self.controller.start_controller(context)
        over = threading.Event()
        threads = [threading.Thread(target=self._client, args=(engine, c, server, over)) for c in engine.clients]
        for thread in threads:
            thread.start()
        try:
            with engine.new_context() as context:
                self.controller.control_flow(self.abort, context)
        finally:
            over.set()
            for thread in threads:
                thread.join()
            with engine.new_context() as context:
                self.controller.stop_controller(context)
                server.finalize_run(context)

    def _client(self, engine: Engine, client: Client, server: WFCommServer, over: threading.Event) -> None:
        executor = self.executors[client.name]
        while not over.is_set():
            with engine.new_context() as context:
                task, identity, data = server.process_task_request(client, context)
            if not task:
                time.sleep(0.005)
                continue
            self.tasks.append((client.name, identity))
            with engine.new_context(client.name) as context:
                answer = executor.execute(task, self._sent(data), context, self.abort)
            changed = self.change(client.name, answer)
            if changed is not None:
                with engine.new_context() as context:
                    server.process_submission(client, task, identity, self._sent(changed), context)

    def _sent(self, data: Shareable) -> Shareable:
        self.wire.append(fobs.dumps(data))
        return fobs.loads(self.wire[-1])  # type: ignore[no-any-return]


@contextmanager
def serving(fed: Federation, **options: Any) -> Any:
    """Let the named functions serve a federation."""
    Present.federation, Present.options = fed, options
    yield
    del Present.federation, Present.options


def job(fed: Federation, mechanism: str = "none", **options: Any) -> Job:
    """A job over the sites of a federation."""
    controller = SecureController("nvflare_jobs:open_server", mechanism, step_timeout=5.0, **options)
    executors: dict[str, Executor] = {
        f"site-{client}": SecureExecutor("nvflare_jobs:open_site", Trainer(client)) for client in fed.sites
    }
    return Job(controller, executors)


def started(executor: Executor, components: Mapping[str, Any]) -> Engine:
    """The engine after an executor heard that its job starts."""
    engine = Engine(["site-0"], components)
    with engine.new_context("site-0") as context:
        executor.handle_event(EventType.START_RUN, context)
    return engine
