"""The training of a site in a child process, which holds no key and dies with the agent."""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.engine.child import follow_parent, serve
from privfl.errors import ClientFailed, ConfigError
from privfl.experiment.workers import single_threaded
from privfl.files import canonical_json
from privfl.fl.client import ClientUpdate, Train
from privfl.fl.client_state import ClientState, Stateful, pack_state, unpack_state
from privfl.fl.examples import ExampleGradients
from privfl.fl.plan import RoundPlan
from privfl.ring import Ints
from privfl.site.examples import NO_GRADIENTS, OwnExamples
from privfl.site.installed import Evaluate, Installed
from privfl.wire import ClientId

TRAINING_FRACTION: Final = 0.9
"""The part of `answer_after` that training may take; the rest is for encoding, noise and the disk."""

_DELTA: Final = "delta"
_BLOCK: Final = "block "


class ChildTraining:
    """A site's training and evaluation in a forked child, which dies with this process.

    Fork it before any key is read and before any thread or socket is made: the child then holds none of them. Where
    this process has loaded torch before, the child runs torch in one thread.

    Args:
        make: Makes the training function, alone or with an evaluation, in the child.
        seconds: The longest time that one training may take; None sets no limit.
    """

    def __init__(
        self, make: Callable[[], Train | Stateful | ExampleGradients | Installed], *, seconds: float | None = None
    ) -> None:
        self._seconds, self._late = seconds, 0
        self._lock = threading.Lock()
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        child = _Child(make)
        follow = follow_parent()
        target, arguments = serve, (child.handle, theirs, follow, child.begin)
        self._process = context.Process(target=target, args=arguments, kwargs={"probe": False}, daemon=True)
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """False once the child has died; it is never started again, because the keys are read by now."""
        return self._process.is_alive()

    @property
    def pid(self) -> int | None:
        """The child's process."""
        return self._process.pid

    def close(self) -> None:
        """End the child."""
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        """Train in the child; see `Train`.

        Raises:
            ClientFailed: The training raised an error, took too long, or its process died.
        """
        return self._worked("train", model, client, round, rng=rng)[0]

    def with_state(
        self, model: Vector, client: ClientId, round: int, rng: np.random.Generator, state: ClientState
    ) -> tuple[ClientUpdate, ClientState]:
        """Train in the child from a client's state; see `Stateful`.

        Args:
            model: The model.
            client: The client.
            round: The round.
            rng: The client's own randomness.
            state: Its state before the round.

        Returns:
            The update and the state after it.

        Raises:
            ClientFailed: As in a call.
        """
        update, after = self._worked("train", model, client, round, rng=rng, state=pack_state(state))
        return update, unpack_state(after)

    def evaluate(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        """Evaluate in the child, as an update of one zero with the examples and the metrics.

        Args:
            model: The model.
            client: The client.
            round: The round.
            rng: Not used.

        Raises:
            ClientFailed: As in a call, or the policy names no evaluation.
        """
        return self._worked("evaluate", model, client, round, rng=rng)[0]

    def sampled_sum(self, plan: RoundPlan, model: Vector, client: ClientId, coins: bytes) -> tuple[Ints, str]:
        """Sum over examples in the child; see `privfl.site.examples.SiteSums`.

        Args:
            plan: The plan of the round.
            model: The model.
            client: The client.
            coins: The secret of the attempt.

        Raises:
            ClientFailed: As in a call, or the training gives no gradients of single examples.
        """
        facts = {"coins": coins.hex(), "round": plan.round}
        reply = self._answer("sum", facts, client, model, plan.to_bytes())
        failed, _, total = reply.partition(b"\n")
        return np.frombuffer(total, np.int64), json.loads(failed)

    def norms(self, model: Vector, client: ClientId) -> npt.NDArray[np.float64]:
        """The norm of the gradient of each person; see `OwnExamples.norms`.

        Args:
            model: The model.
            client: The client.

        Raises:
            ClientFailed: As in `sampled_sum`.
        """
        return np.frombuffer(self._answer("norms", {}, client, model), np.float64)

    def learner(self) -> Learner:
        """The training as a round takes it. Waits until the child has made it.

        Raises:
            ConfigError: The training function could not be made, or is none.
        """
        with self._lock:
            try:
                kind = json.loads(self._reply(canonical_json({"work": "describe"}) + b"\n", 0, None))
            except _InChild as error:
                raise ConfigError(f"the training function could not be made: {error.reason}\n{error.trace}") from error
            except (EOFError, OSError) as error:
                raise ConfigError("the process that makes the training function has died") from error
        if kind["stateful"]:
            return Stateful(self.with_state)
        if kind["examples"]:
            return ChildBoth(self) if kind["trains"] else ChildExamples(self)
        if kind["trains"]:
            return self.__call__
        raise ConfigError(
            "training.entry must return a training function, a privfl.fl.Stateful, or gradients of single examples "
            "such as privfl.fl.linear.LinearTrain"
        )

    def _worked(
        self, work: str, model: Vector, client: ClientId, round: int, *, rng: np.random.Generator, state: bytes = b""
    ) -> tuple[ClientUpdate, bytes]:
        facts = {"round": round, "rng": rng.bit_generator.state}
        reply = self._answer(work, facts, client, model, state)
        head, _, rest = reply.partition(b"\n")
        found = json.loads(head)
        blocks, after = unpack_state(rest[: found["arrays"]]), rest[found["arrays"] :]
        rng.bit_generator.state = found["rng"]
        delta = blocks.pop(_DELTA)
        named = {name.removeprefix(_BLOCK): array for name, array in blocks.items()}
        return ClientUpdate(delta, found["examples"], found["metrics"], named, found["steps"]), after

    def _answer(self, work: str, facts: Mapping[str, Any], client: ClientId, model: Vector, data: bytes = b"") -> bytes:
        head = {"work": work, "kind": model.dtype.name, "client": client, "length": len(model), **facts}
        request = b"\n".join((canonical_json(head), model.tobytes() + data))
        with self._lock:
            try:
                end = None if self._seconds is None else time.monotonic() + self._seconds
                return self._reply(request, client, end)
            except _InChild as error:
                raise ClientFailed(client, f"{error.reason}\n{error.trace}") from error
            except (EOFError, OSError) as error:
                raise ClientFailed(client, "the process that trains has died: start the agent again") from error

    def _reply(self, request: bytes, client: ClientId, end: float | None) -> bytes:
        while self._late:  # the replies of trainings that took too long
            self._receive(client, end)
            self._late -= 1
        self._pipe.send_bytes(b"r" + bytes(4) + request)
        self._late += 1
        reply = self._receive(client, end)
        self._late -= 1
        if reply[:1] == b"f":
            error, _, trace = json.loads(reply[1:])
            raise _InChild(error, trace)
        return reply[1:]

    def _receive(self, client: ClientId, end: float | None) -> bytes:
        if end is not None and not self._pipe.poll(max(0.0, end - time.monotonic())):
            raise ClientFailed(client, f"the training took longer than {self._seconds:g} s")
        return self._pipe.recv_bytes()


class ChildExamples:
    """The examples of a child whose training gives gradients: a `SiteSums`.

    Args:
        child: The child.
    """

    def __init__(self, child: ChildTraining) -> None:
        self.sampled_sum = child.sampled_sum


class ChildBoth(ChildExamples):
    """The same, of a training that trains whole clients, too.

    Args:
        child: The child.
    """

    def __init__(self, child: ChildTraining) -> None:
        super().__init__(child)
        self._child = child

    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        """Train in the child; see `Train`."""
        return self._child(model, client, round, rng)


Learner = Train | Stateful | ChildExamples
"""A training in a child as a round takes it."""


class _InChild(Exception):
    """The child raised an error."""

    def __init__(self, reason: str, trace: str) -> None:
        super().__init__(reason)
        self.reason, self.trace = reason, trace


class _Child:
    """The child's side: it makes what the site installed, and answers requests with updates."""

    def __init__(self, make: Callable[[], Train | Stateful | ExampleGradients | Installed]) -> None:
        self._make, self._installed = make, cast("Installed", None)

    def begin(self) -> None:
        if "torch" in sys.modules:  # forked from a process that used torch, whose threads do not exist here
            single_threaded()
        made = self._make()
        self._installed = made if isinstance(made, Installed) else Installed(made)

    def handle(self, place: int, common: bytes, request: bytes) -> bytes:
        head, _, data = request.partition(b"\n")
        facts = json.loads(head)
        train = self._installed.train
        if facts["work"] == "describe":
            examples, trains = isinstance(train, ExampleGradients), callable(train)
            return json.dumps(
                {"stateful": isinstance(train, Stateful), "examples": examples, "trains": trains}
            ).encode()
        model = np.frombuffer(data, facts["kind"], facts["length"])
        rest = data[model.nbytes :]
        if facts["work"] in ("sum", "norms"):
            return self._of_examples(facts, model, rest)
        state, rng = b"", np.random.default_rng()
        rng.bit_generator.state = facts["rng"]
        given = model, facts["client"], facts["round"], rng
        if facts["work"] == "evaluate":
            update = _evaluated(self._installed.evaluate, model)
        elif isinstance(train, Stateful):
            update, after = train(*given, unpack_state(rest))
            state = pack_state(after)
        else:
            update = cast("Train", train)(*given)
        # Python's own JSON keeps a NaN, which the encoding counts as a rejected update.
        arrays = pack_state({_DELTA: update.delta} | {_BLOCK + name: array for name, array in update.blocks.items()})
        reply: dict[str, Any] = {
            "arrays": len(arrays),
            "steps": update.steps,
            "examples": update.examples,
            "metrics": {name: float(value) for name, value in update.metrics.items()},
            "rng": rng.bit_generator.state,
        }
        return json.dumps(reply).encode() + b"\n" + arrays + state

    def _of_examples(self, facts: Mapping[str, Any], model: Vector, order: bytes) -> bytes:
        if not isinstance(self._installed.train, ExampleGradients):
            raise ConfigError(NO_GRADIENTS)
        own = OwnExamples(self._installed.train)
        if facts["work"] == "norms":
            return own.norms(model, facts["client"]).tobytes()
        plan, coins = RoundPlan.from_bytes(order), bytes.fromhex(facts["coins"])
        total, failed = own.sampled_sum(plan, model, facts["client"], coins)
        return json.dumps(failed).encode() + b"\n" + total.tobytes()


def _evaluated(evaluate: Evaluate | None, model: Vector) -> ClientUpdate:
    if evaluate is None:
        raise ConfigError("this site evaluates nothing: set training.evaluate in policy.toml")
    examples, metrics = evaluate(model)
    return ClientUpdate(np.zeros(1), examples, dict(metrics))
