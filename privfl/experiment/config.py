"""An experiment as a value: what a TOML file says, checked key by key."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from privfl.errors import ConfigError

_T = TypeVar("_T")
_LARGEST_INT = 1 << 53  # above, an integer would silently become another number
_WORDS = {bool: "true or false", int: "an integer", float: "a finite number", str: "text"}


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Which data, and how it is spread over clients.

    `partition` is "iid", "dirichlet:0.5", "shards:2", "quantity:1.5" or "natural". `least` is the fewest rows a client
    gets. `test` "local": each client holds a share of its rows back, and is evaluated at home; "public": the test rows
    belong to nobody. Without it: what the set's publisher decided, else local, and public where noise is added.
    `standardize`: "local" by each client's own rows, "exact" by means and variances that come through the secure sum
    (refused where noise is added), "public" by ranges that were published with the data.
    """

    name: str = "breast_cancer"
    folder: str | None = None
    clients: int = 10
    partition: str = "iid"
    least: int = 1
    test: Literal["local", "public"] | None = None
    test_fraction: float = 0.2
    standardize: Literal["none", "local", "exact", "public"] = "none"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Linear models run on numpy; "mlp" (with `hidden` layer widths) and "cnn" on torch. "auto": linear, by task.

    `init` "zeros" or "uniform" (torch's start of a linear layer, drawn from the run's seed). Without it: zeros for
    linear models, and uniform for networks, which could not learn from zeros.
    """

    kind: Literal["auto", "linear", "logistic", "softmax", "mlp", "cnn"] = "auto"
    hidden: tuple[int, ...] = (200, 200)
    l2: float = 0.0
    init: Literal["zeros", "uniform"] | None = None


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Local training: `steps` minibatches, or `epochs` passes where steps is absent."""

    learning_rate: float = 0.1
    epochs: int = 1
    steps: int | None = None
    batch_size: int | None = None
    momentum: float = 0.0
    update: Literal["delta", "gradient"] = "delta"
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class CohortConfig:
    """Who takes part; `min_survivors` is a share of the cohort, `dropout` a simulated chance of silence."""

    sampling: Literal["everyone", "poisson", "truncated-poisson", "fixed-size"] = "everyone"
    probability: float | None = None
    size: int | None = None
    cap: int | None = None
    min_survivors: float = 0.5
    too_few: Literal["skip", "retry"] = "skip"
    retries: int = 2
    dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The server optimizer under its paper's names (Reddi et al. 2021), and how updates are weighted.

    Without `weighting`: by examples, and uniformly where noise is added, because weights would change the sensitivity.
    """

    optimizer: Literal["sgd", "fedadam", "fedyogi", "fedadagrad"] = "sgd"
    eta: float | None = None
    momentum: float = 0.0
    beta_1: float | None = None
    beta_2: float | None = None
    tau: float | None = None
    weighting: Literal["uniform", "examples"] | None = None


@dataclass(frozen=True, slots=True)
class SumConfig:
    """The secure sum, and the ring it counts in: 31 bits fit a word of 32 and the 48-bit prime of CKKS.

    `rotation` turns updates by a seeded Hadamard transform before they are rounded (see `privfl.rotation`).
    `key_sums` sums of a CKKS run are made under one session key, as long as all who take part hold it.
    """

    scheme: Literal["plain", "masked", "ckks"] = "plain"
    bits: int = 31
    rounding: Literal["nearest", "stochastic"] = "nearest"
    clip_entries: float = 8.0
    rotation: bool = False
    key_sums: int = 1


@dataclass(frozen=True, slots=True)
class PrivacyConfig:
    """Clipping and noise. `epsilon` is a budget at `delta` against an outsider.

    Without `delta` it is the smaller of 1e-5 and 1/clients^1.1. `clip_norm` also clips without noise; `clip` says how:
    "flat" by the norm of the whole update, "layers" each layer to an equal share of it, "entries" each entry.
    `clip_quantile` lets a flat clip follow that quantile of the updates' norms from `clip_norm` on, at
    `clip_learning_rate` (Andrew et al. 2021). `loss_bound` releases the mean training loss, clamped to it, as a noised
    block of the vector; without it no training metric leaves a private run. `colluders` are tolerated by distributed
    noise.
    """

    placement: Literal["none", "central", "distributed", "local"] = "none"
    clip_norm: float | None = None
    clip: Literal["flat", "layers", "entries"] = "flat"
    clip_quantile: float | None = None
    clip_learning_rate: float = 0.2
    loss_bound: float | None = None
    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    adjacency: Literal["add_remove", "replace_one", "zero_out"] = "add_remove"
    noise: Literal["secure", "simulation"] = "secure"
    colluders: int = 0


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """`workers` = 0 trains clients one after another in this process; above, in so many processes.

    `sum_workers` cores share a secure sum of long vectors: threads of a masked sum, processes of a CKKS sum. No result
    depends on either.
    """

    workers: int = 0
    sum_workers: int = 1


@dataclass(frozen=True, slots=True)
class Config:
    """A whole experiment. `evaluate_every` rounds the model is measured; 0: at the end only."""

    name: str = "run"
    seed: int = 0
    rounds: int = 20
    evaluate_every: int = 1
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    client: ClientConfig = field(default_factory=ClientConfig)
    cohort: CohortConfig = field(default_factory=CohortConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    sum: SumConfig = field(default_factory=SumConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        for name, value, least in (
            ("rounds", self.rounds, 1),
            ("seed", self.seed, 0),
            ("evaluate_every", self.evaluate_every, 0),
            ("data.clients", self.data.clients, 1),
            ("sum.key_sums", self.sum.key_sums, 1),
            ("engine.workers", self.engine.workers, 0),
            ("engine.sum_workers", self.engine.sum_workers, 1),
            ("cohort.retries", self.cohort.retries, 0),
        ):
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")
        if not 0 < self.data.test_fraction < 1:
            raise ConfigError(f"data.test_fraction is a share in (0, 1), not {self.data.test_fraction}")
        if not 0 < self.cohort.min_survivors <= 1:
            raise ConfigError(f"cohort.min_survivors is a share in (0, 1], not {self.cohort.min_survivors}")
        if not 0 <= self.cohort.dropout < 1:
            raise ConfigError(f"cohort.dropout is a probability in [0, 1), not {self.cohort.dropout}")
        if not self.name.isprintable() or not self.name or "/" in self.name or self.name.startswith("."):
            raise ConfigError(f"name must be usable as a folder's name, not {self.name!r}")

    def with_overrides(self, overrides: Mapping[str, Any]) -> Config:
        """This configuration with some keys replaced: `{"rounds": 5, "sum.scheme": "masked"}`."""
        tree = to_mapping(self)
        for key, value in overrides.items():
            section, _, name = key.rpartition(".")
            if section and not isinstance(tree.get(section), dict):
                raise ConfigError(f"unknown section {section!r} in {key!r}")
            target = tree[section] if section else tree
            if value is None:
                target.pop(name, None)
            else:
                target[name] = value
        return from_mapping(Config, tree)


def load_config(path: Path) -> Config:
    """The configuration in a TOML file; raises `ConfigError` naming the key, the value found and those allowed."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error
    try:
        return from_mapping(Config, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def from_mapping(of: type[_T], values: Mapping[str, Any], where: str = "") -> _T:
    """A configuration dataclass from nested dictionaries, with every key and type checked."""
    hints = get_type_hints(of)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"unknown key {where + unknown[0]!r}; allowed: {', '.join(sorted(hints))}")
    return of(**{name: _convert(hints[name], value, where + name) for name, value in values.items()})


def to_mapping(config: Any) -> dict[str, Any]:
    """The inverse: nested dictionaries without the keys that are None; tuples become lists."""
    result: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            result[item.name] = to_mapping(value)
        elif value is not None:
            result[item.name] = list(value) if isinstance(value, tuple) else value
    return result


def to_toml(config: Config) -> str:
    """The configuration as TOML text that `load_config` reads back to an equal value."""
    tree = to_mapping(config)
    lines = [f"{key} = {_literal(value)}" for key, value in tree.items() if not isinstance(value, dict)]
    for section, values in tree.items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]", *(f"{key} = {_literal(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, not {value!r}")
        return from_mapping(hint, value, where + ".")  # type: ignore[arg-type]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise ConfigError(f"{where} must be one of {', '.join(map(repr, arguments))}, not {value!r}")
        return value
    if origin in (types.UnionType, Union):
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} must be a list, not {value!r}")
        return tuple(_convert(arguments[0], item, f"{where}[{at}]") for at, item in enumerate(value))
    if hint is float and type(value) is int and abs(value) <= _LARGEST_INT:
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise ConfigError(f"{where} must be {_WORDS[hint]}, not {value!r}")
    return value
