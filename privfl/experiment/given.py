"""The objects that a program gives an experiment in place of built-ins, and what a run's folder notes of them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np

from privfl.checks import check_count, check_type, unwrap_numpy
from privfl.codec import Vector
from privfl.data import ClientExamples, Dataset, FederatedData
from privfl.dp import ElementClip, FlatClip, LayerClip, Mechanism
from privfl.errors import ConfigError
from privfl.experiment.config import Config
from privfl.experiment.fingerprint import fingerprint, name_of
from privfl.fl.algorithms import Algorithm
from privfl.fl.arrivals import ClientTimes
from privfl.fl.client import Executor, Train
from privfl.fl.client_state import Stateful
from privfl.fl.dropout import Dropouts
from privfl.fl.metrics import Measure, MetricSums
from privfl.fl.optimizers import ServerOptimizer
from privfl.fl.sampling import CohortSampler
from privfl.sums import SecureSum
from privfl.wire import ClientId

_MESH: Final = ("spare", "members", "min_members_to_open")
_INSTEAD: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "algorithm": ("client", ("algorithm", "proximal", "local_layers")),
    "sampler": ("cohort", ("sampling", "probability", "size", "cap")),
    "times": ("buffer", ("spread", "stragglers", "slowdown", "availability", "period")),
    "optimizer": ("server", ("optimizer", "eta", "momentum", "beta_1", "beta_2", "tau")),
    "sum": ("sum", ("scheme", "key_sums")),
    "mechanism": ("privacy", ("placement", "noise_multiplier", "noise", "colluders", "correlation", *_MESH)),
    "clip": ("privacy", ("clip_norm", "clip", "clip_quantile", "clip_learning_rate")),
    "executor": ("engine", ("workers",)),
    "dropouts": ("cohort", ("dropout",)),
}
_PROTOCOLS: Final[Mapping[str, type]] = {
    "algorithm": Algorithm,
    "sampler": CohortSampler,
    "times": ClientTimes,
    "optimizer": ServerOptimizer,
    "sum": SecureSum,
    "executor": Executor,
}


def first_vector(initial: object) -> Vector:
    """The first model as flat floats: lists and integers become float64.

    Raises:
        ConfigError: If it is not a flat vector of finite numbers, or of half precision, which would lose small updates.
    """
    try:
        vector = np.asarray(initial)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors that numpy cannot read
        raise ConfigError(
            "`initial` is a flat vector of numbers that numpy can read: give np.zeros(length), or "
            "tensor.detach().float().cpu().numpy()"
        ) from error
    if vector.ndim != 1 or vector.dtype.kind not in "fiu" or not len(vector):
        raise ConfigError(
            f"`initial` is a flat vector of numbers, not {vector.dtype} of shape {vector.shape}: give np.zeros(length)"
        )
    if vector.dtype.kind != "f":
        vector = vector.astype(np.float64)
    if vector.dtype.itemsize not in (4, 8):
        raise ConfigError(
            f"`initial` is {vector.dtype}, in which updates would be rounded away or which no run stores: give "
            "initial.astype(np.float32)"
        )
    if not np.isfinite(vector).all():
        raise ConfigError("`initial` holds a NaN or an infinity: every model would; give finite numbers")
    return vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The objects that a program gave; None where the configuration names a built-in.

    Attributes:
        data: The data set, or the clients and their examples.
        clients: The number of clients of a `train` that has its own data.
        train: The local training, with `initial` as its first model, float `[d]`.
        initial: The first model.
        measure: The sums over a client's own test examples.
        public_measure: The sums over test examples that belong to nobody.
        algorithm: The algorithm of federated training.
        sampler: The cohort sampler.
        times: The times of clients on the virtual clock of asynchronous rounds.
        optimizer: The server optimizer.
        sum: The secure sum, with the credentials of its clients.
        credentials: One per client.
        mechanism: The noise, which becomes the configuration's.
        clip: The clip of an update.
        executor: What executes the clients; the caller closes it.
        dropouts: The simulated dropouts.
    """

    data: Dataset | FederatedData | None = None
    clients: int | None = None
    train: Train | Stateful | None = None
    initial: Vector | None = None
    measure: Measure | None = None
    public_measure: Callable[[Vector], MetricSums] | None = None
    algorithm: Algorithm | None = None
    sampler: CohortSampler | None = None
    times: ClientTimes | None = None
    optimizer: ServerOptimizer | None = None
    sum: SecureSum | None = None
    credentials: Mapping[ClientId, Any] | None = None
    mechanism: Mechanism | None = None
    clip: FlatClip | LayerClip | ElementClip | None = None
    executor: Executor | None = None
    dropouts: Dropouts | None = None

    def check(self, config: Config) -> None:
        """Raise `ConfigError` for objects that lack their companions, or that contradict the configuration."""
        if (self.train is None) != (self.initial is None):
            raise ConfigError("give `train` and `initial` together: a model of your own needs its first vector")
        if self.clients is not None and (self.train is None or self.data is not None):
            raise ConfigError("`clients` counts the clients of a `train` that has its own data: give `train` alone")
        if self.clients is not None:
            unwrap_numpy(self, "clients")
            check_count("clients", self.clients)
        if self.train is not None and self.data is None and self.clients is None:
            raise ConfigError(
                "a `train` of your own needs its clients: give `data`, or `clients=5` where `train` has its own data"
            )
        check_type("credentials", self.credentials, Mapping, type(None))
        if self.credentials is not None and self.sum is None:
            raise ConfigError("`credentials` belong to a `sum` of your own: give that object too")
        self._check_kinds()
        for name, (section, keys) in _INSTEAD.items():
            if getattr(self, name) is None:
                continue
            settings = getattr(config, section)
            default = type(settings)()
            for key in keys:
                if getattr(settings, key) != getattr(default, key):
                    raise ConfigError(f"{section}.{key} and the object `{name}` say the same: leave one of them out")

    def _check_kinds(self) -> None:
        for name in (*_PROTOCOLS, "mechanism", "clip"):
            if isinstance(getattr(self, name), type):
                raise ConfigError(f"`{name}` is an object, not the class {getattr(self, name).__name__}: call it")
        if self.clip is not None and not isinstance(self.clip, FlatClip | LayerClip | ElementClip):
            raise ConfigError(f"`clip` is a FlatClip, LayerClip or ElementClip, not a {type(self.clip).__name__}")
        for name, protocol in _PROTOCOLS.items():
            needed = [method for method in vars(protocol) if not method.startswith("_")]
            missing = [method for method in needed if not hasattr(getattr(self, name), method)]
            if missing and getattr(self, name) is not None:
                raise ConfigError(
                    f"`{name}` needs {', '.join(needed)}; {name_of(getattr(self, name))} has no {missing[0]}"
                )
        for name in ("train", "measure", "public_measure", "dropouts"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise ConfigError(f"`{name}` is called: give a function, not a {type(getattr(self, name)).__name__}")

    def applied(self, config: Config) -> Config:
        """The configuration with the objects that settings can state: the mechanism, and a clip's norm."""
        privacy = config.privacy
        if (mechanism := self.mechanism) is not None:
            if type(mechanism) is not Mechanism or mechanism.discrete:
                raise ConfigError("`mechanism` is a Mechanism without `discrete`: no other noise is accounted for here")
            privacy = dataclasses.replace(
                privacy,
                placement=mechanism.placement,
                noise_multiplier=mechanism.noise_multiplier or None,
                noise=mechanism.source,
                colluders=mechanism.colluders,
                correlation=mechanism.correlation,
            )
            if mechanism.placement == "mesh":
                privacy = dataclasses.replace(
                    privacy,
                    spare=mechanism.spare,
                    members=mechanism.members or None,
                    min_members_to_open=mechanism.min_members_to_open or None,
                )
        if self.clip is not None:
            privacy = dataclasses.replace(privacy, clip_norm=self.clip.clip_norm)
        return dataclasses.replace(config, privacy=privacy)

    def notes(self) -> dict[str, dict[str, str]]:
        """The name and fingerprint of each object that a result depends on, by argument."""
        given = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        for name in ("data", "clients", "initial", "credentials", "executor", "mechanism"):
            del given[name]  # noted elsewhere, or without influence on a result
        notes = {
            name: {"name": name_of(it), "fingerprint": fingerprint(it)} for name, it in given.items() if it is not None
        }
        if self.data is not None:
            dataset = self.data.dataset if isinstance(self.data, FederatedData) else self.data
            notes["data"] = {"name": dataset.name, "fingerprint": ""}
        elif self.clients is not None:
            notes["data"] = {"name": f"the own data of {self.clients} clients", "fingerprint": ""}
        return notes

    def stand_in(self) -> FederatedData:
        """Clients without examples, for a `train` that has its own data."""
        count = self.clients or 1
        nothing = Dataset("none", "regression", np.zeros((count, 1), np.float32), np.zeros(count, np.float32))
        rows = (ClientExamples(f"client {client}", np.array([client])) for client in range(count))
        return FederatedData(nothing, tuple(rows))


def described_part(part: str, note: Mapping[str, str] | None) -> str:
    """A part of a run in words, for an error.

    Args:
        part: The argument of `Experiment`.
        note: The name and fingerprint of the object that a program gave; None for the built-in part.
    """
    if note is None:
        return f"the built-in {part}"
    return f"the {part} {note['name']} ({note['fingerprint'] or 'by its hash'})"


def describe_parts(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The objects that a program gave, by argument and name."""
    return {part: str(note["name"]) for part, note in parts.items()}


def refuse_argument(name: str, cls: type, allowed: Iterable[str]) -> NoReturn:
    """Raise `ConfigError` for an argument that a class does not take, with the closest one that it takes.

    Args:
        name: The argument.
        cls: The class.
        allowed: The arguments that it takes.
    """
    close = difflib.get_close_matches(name, list(allowed), 1)
    meant = f"did you mean {close[0]}=?" if close else "settings without an argument go into `overrides`"
    raise ConfigError(f"{cls.__name__} has no argument {name!r}; {meant}")
