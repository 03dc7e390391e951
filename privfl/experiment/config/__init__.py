"""A configuration as a value: typed sections that are checked when they are constructed, from and to TOML."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import pydantic
import tomli_w

from privfl.errors import ConfigError
from privfl.experiment.config.checked import section, setting, shown
from privfl.experiment.config.privacy import Privacy
from privfl.experiment.config.sections import Buffer, Client, Cohort, Data, Engine, Model, Server, Sum
from privfl.files import user_path

__all__ = [
    "Buffer",
    "Client",
    "Cohort",
    "Config",
    "Data",
    "Engine",
    "Model",
    "Privacy",
    "Server",
    "Sum",
    "compose",
    "from_mapping",
    "load_config",
    "read_toml",
    "to_mapping",
    "to_toml",
    "toml_text",
]

_T = TypeVar("_T")

SECTIONS: Final[Mapping[str, type]] = {
    "data": Data,
    "model": Model,
    "client": Client,
    "cohort": Cohort,
    "buffer": Buffer,
    "server": Server,
    "sum": Sum,
    "privacy": Privacy,
    "engine": Engine,
}


_MAX_NAME_BYTES: Final = 200
_MAX_SEED: Final = (1 << 63) - 1  # the largest integer of TOML
_MAX_ROUNDS: Final = 999_999  # the names of stored models have six digits


@section("")
class Config:
    """A whole experiment."""

    name: str = setting(default="run", description="The name of the run, and of its folder.")
    seed: int = setting(
        default=0,
        ge=0,
        le=_MAX_SEED,
        description="The seed of the data split, of training and of dropouts; never of secure noise.",
    )
    rounds: int = setting(default=20, ge=1, le=_MAX_ROUNDS, description="The number of rounds.")
    keep: str = setting(
        default="all",
        description="The models that are kept: all, or such as last:5 or every:10. Reports and hashes of all are kept.",
    )
    evaluate_every: int = setting(
        default=1, ge=0, description="The model is evaluated every so many rounds; 0 evaluates it after the last only."
    )
    data: Data = setting(default_factory=Data, description="The data set and its clients.")
    model: Model = setting(default_factory=Model, description="The model.")
    client: Client = setting(default_factory=Client, description="Local training.")
    cohort: Cohort = setting(default_factory=Cohort, description="The clients of a round.")
    buffer: Buffer = setting(default_factory=Buffer, description="Asynchronous rounds.")
    server: Server = setting(default_factory=Server, description="The server optimizer.")
    sum: Sum = setting(default_factory=Sum, description="The secure sum.")
    privacy: Privacy = setting(default_factory=Privacy, description="Clipping and noise.")
    engine: Engine = setting(default_factory=Engine, description="Where the run is computed.")

    @pydantic.field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name.isprintable() or not name.strip() or "/" in name or name.startswith("."):
            raise ValueError("must be usable as a folder's name")
        if len(name.encode()) > _MAX_NAME_BYTES:
            raise ValueError(f"must be usable as a folder's name, of at most {_MAX_NAME_BYTES} bytes")
        return name

    def with_overrides(self, overrides: Mapping[str, Any]) -> Config:
        """This configuration with some keys replaced.

        Args:
            overrides: Values by key, such as `{"rounds": 5, "sum.scheme": "masked"}`. None restores a default.

        Returns:
            The new configuration.

        Raises:
            ConfigError: For an unknown key, or a value that is not allowed.
        """
        tree = to_mapping(self)
        if not isinstance(overrides, Mapping) or not all(isinstance(key, str) for key in overrides):
            raise ConfigError(f'overrides are settings by key, such as {{"rounds": 5}}, not {shown(overrides)}')
        for key, value in overrides.items():
            of, _, name = key.rpartition(".")
            if of and of not in SECTIONS:
                raise ConfigError(f"unknown section {of!r} in {key!r}; allowed: {', '.join(SECTIONS)}")
            target = tree[of] if of else tree
            if value is None:
                target.pop(name, None)
            else:
                target[name] = value
        return from_mapping(tree)


def load_config(path: Path | str) -> Config:
    """The configuration in a TOML file (UTF-8, with or without a byte order mark).

    Raises:
        ConfigError: When the file cannot be read, is not TOML, or holds a key or value that is not allowed.
    """
    return from_mapping(read_toml(path))


def read_toml(path: Path | str) -> dict[str, Any]:
    """The tables of a TOML file (UTF-8, with or without a byte order mark); raises `ConfigError` if it is none."""
    path = user_path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply: a configuration has sections, and values in them") from error


def from_mapping(values: Mapping[str, Any]) -> Config:
    """A configuration from nested dictionaries, as `tomllib` reads them."""
    return compose(Config, SECTIONS, values)


def compose(top: type[_T], sections: Mapping[str, type], values: Mapping[str, Any]) -> _T:
    """A value of a class that `section` made, with its sections, from nested dictionaries.

    Args:
        top: The class of the top level.
        sections: The class of each section, by its name.
        values: The tables.

    Raises:
        ConfigError: For a key or a value that is not allowed.
    """
    parts = dict(values)
    for name, of in sections.items():
        value = parts.get(name, {})
        if isinstance(value, of):
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} must be a table, not {shown(value)}")
        parts[name] = of(**{str(key): item for key, item in value.items()})
    return top(**parts)


def to_mapping(config: Any) -> dict[str, Any]:
    """The nested dictionaries of a configuration or section, without the keys that are None; tuples become lists."""
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
    return toml_text(to_mapping(config))


def toml_text(values: Mapping[str, Any]) -> str:
    """Nested dictionaries as TOML text."""
    return tomli_w.dumps(values)
