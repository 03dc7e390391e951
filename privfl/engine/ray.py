"""Clients in actors of a Ray cluster: how a simulation outgrows one machine. Needs the extra `ray`.

The work goes to each actor once, and the model once a round into Ray's object store. An actor is handed batches of
chunks. Where contributions may be added up, as in a plain sum, it answers a batch with one exact sum of integers. The
model is that of any other executor to the last bit. An actor that dies is replaced, and its batch is done again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any, Final

from privfl.codec import Vector
from privfl.engine.exclusive import ExclusiveExecutor
from privfl.engine.loop import perform
from privfl.errors import ClientFailed, ConfigError, MissingExtra, TooFewSurvivors
from privfl.fl.chunks import Chunk, ChunkAnswer, joined
from privfl.fl.client import Work
from privfl.wire import ClientId

try:
    import ray
except ModuleNotFoundError as error:
    raise MissingExtra("ray", "ray") from error

_BATCHES: Final = 2
"""Batches of one actor in a round: few enough to cost little, and enough that no actor waits long for the slowest."""


class RayExecutor(ExclusiveExecutor):
    """Runs chunks in actors of a Ray cluster, by default one on this machine; `close` ends the actors.

    Args:
        actors: The number of actors, at least 1; each takes one CPU of the cluster.
        initializer: Called once in each actor, such as `privfl.adapters.torch.state.one_thread` for torch.
        retries: How often the batch of an actor that died is done again.

    Raises:
        ConfigError: `actors` is below 1, or `retries` below 0.
    """

    def __init__(self, actors: int, *, initializer: Callable[[], None] | None = None, retries: int = 2) -> None:
        if actors < 1 or retries < 0:
            raise ConfigError(f"actors must be at least 1 and retries at least 0, not {actors} and {retries}")
        super().__init__()
        self.actors, self._initializer, self._retries = actors, initializer, retries
        self._work: Work | None = None
        self._shared: Any = None
        self._idle: list[Any] = []
        self._under_way: dict[Any, tuple[Any, list[Chunk], int]] = {}

    def run(
        self,
        work: Work,
        model: Vector,
        chunks: Iterable[Chunk],
        *,
        order: bytes,
        states: MutableMapping[ClientId, bytes] | None = None,
        counted: frozenset[ClientId] | None = None,
    ) -> Iterator[ChunkAnswer]:
        """Yield the answers as they are ready; see `privfl.fl.client.Executor`.

        Args:
            work: Makes the contributions of a chunk.
            model: The global model, float `[d]`.
            chunks: The cohort.
            order: The bytes of the round's plan.
            states: The state of each client, which its new state replaces; None for clients without one.
            counted: The clients whose contributions are added up in the actors; None keeps each by itself.

        Raises:
            ClientFailed: The work of a client raised an error, or too many actors died over it.
            LocalProtocolError: Another round of this executor is still under way.
            TooFewSurvivors: There is no client at all.
        """
        with self._one_round():
            if not (cohort := list(chunks)):
                raise TooFewSurvivors(0, 1)
            self._prepare(work)
            sent, size = ray.put(model), -(-len(cohort) // (self.actors * _BATCHES))
            waiting = deque((cohort[at : at + size], 0) for at in range(0, len(cohort), size))
            while waiting or self._under_way:
                while waiting and self._idle:
                    actor, (batch, tries) = self._idle.pop(), waiting.popleft()
                    before = None if states is None else {c: states[c] for chunk in batch for c in chunk}
                    answer = actor.train.remote(sent, batch, order, before, counted)
                    self._under_way[answer] = actor, batch, tries
                (ready,), _ = ray.wait(list(self._under_way), num_returns=1)
                actor, batch, tries = self._under_way.pop(ready)
                try:
                    answers, after = ray.get(ready)
                except ray.exceptions.RayActorError as error:
                    if tries == self._retries:
                        reason = f"the actor that trained it and others died, {tries + 1} times"
                        raise ClientFailed(batch[0][0], reason) from error
                    waiting.append((batch, tries + 1))
                    actor = self._actor()
                    continue
                except ray.exceptions.RayTaskError as error:
                    raise (error.cause if isinstance(error.cause, ClientFailed) else error) from None
                finally:
                    self._idle.append(actor)
                if states is not None:
                    states.update(after)
                yield from answers

    def close(self) -> None:
        """End the actors, and leave the cluster as it is; may be called again."""
        for actor in [*self._idle, *(one[0] for one in self._under_way.values())]:
            ray.kill(actor)
        self._idle, self._under_way, self._work = [], {}, None

    def _prepare(self, work: Work) -> None:
        if not ray.is_initialized():  # Ray's own workers would step back behind other processes
            options: Any = {"include_dashboard": False, "log_to_driver": False}
            ray.init(num_cpus=self.actors, _system_config={"worker_niceness": 0}, **options)
        if self._work is not work:
            self.close()
            self._work, self._shared = work, ray.put(work)
            self._idle = [self._actor() for _ in range(self.actors)]

    def _actor(self) -> Any:
        return ray.remote(num_cpus=1)(_Actor).remote(self._shared, self._initializer)


class _Actor:
    def __init__(self, work: Work, initializer: Callable[[], None] | None) -> None:
        self._work = work
        if initializer is not None:
            initializer()

    def train(self, model: Vector, batch: Sequence[Chunk], order: bytes, states: Any, counted: Any) -> Any:
        answers = [perform(self._work, model, c, order=order, states=states, counted=counted) for c in batch]
        return answers if counted is None else [joined(answers)], states
