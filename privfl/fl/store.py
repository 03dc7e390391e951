"""The run's folder: one file a round, written atomically, from which everything else can be derived again.

`models/000012.safetensors` holds the model after round 12, the optimizer's moments, and as metadata its hash, its
parent's hash and the round's report. That one write is the moment at which a round has happened.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from privfl.codec import Vector
from privfl.errors import ConfigError, StateError
from privfl.files import atomic_write, canonical_json
from privfl.fl.plan import model_hash

_NAME: Final = re.compile(r"(\d{6})\.safetensors")
_KEY: Final = "privfl"


@dataclass(frozen=True, slots=True)
class Version:
    """The model after a round: float `[d]`, the optimizer's moments, hash and parent's hash, and the round's report."""

    round: int
    model: Vector = field(repr=False)
    moments: Mapping[str, npt.NDArray[np.float64]] = field(repr=False)
    hash: str
    parent: str
    report: Mapping[str, Any] = field(default_factory=dict)


class ModelStore:
    """The versions of one run's global model, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rounds(self) -> list[int]:
        """The rounds that are stored, increasing."""
        if not self.folder.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in names if match)

    def save(
        self,
        round: int,
        model: Vector,
        moments: Mapping[str, npt.NDArray[np.float64]],
        *,
        parent: str,
        report: Mapping[str, Any],
    ) -> Version:
        """Write the version of `round` in one atomic step, and return it."""
        version = Version(round, model, moments, model_hash(model), parent, report)
        tensors = {"model": np.ascontiguousarray(model)}
        tensors |= {f"moments.{name}": np.ascontiguousarray(value) for name, value in moments.items()}
        atomic_write(self._path(round), save(tensors, metadata={_KEY: canonical_json(_facts(version)).decode()}))
        return version

    def load(self, round: int) -> Version:
        """The version of `round`; raises `StateError` if its model is not the one that was saved."""
        path = self._path(round)
        if not path.exists():
            raise ConfigError(f"no model of round {round} in {self.folder}; there are {self.rounds()}")
        data = path.read_bytes()
        try:
            tensors = load(data)
            facts = _metadata(data)
            model = tensors.pop("model")
            moments = {name.removeprefix("moments."): value for name, value in tensors.items()}
            version = Version(
                facts["round"], model, moments, model_hash(model), str(facts["parent"]), dict(facts["report"])
            )
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise StateError(f"{path} is not a model of privfl: {error}") from error
        if version.round != round or _facts(version) != facts:
            raise StateError(f"{path}: the content does not have the hash that it was stored under")
        return version

    def latest(self) -> Version | None:
        """The version of the last round; None before the first."""
        rounds = self.rounds()
        return self.load(rounds[-1]) if rounds else None

    def lineage(self) -> Iterator[Version]:
        """All versions, oldest first; raises `StateError` where a parent is not the version before."""
        previous: Version | None = None
        for round in self.rounds():
            version = self.load(round)
            if previous is not None and version.parent != previous.hash:
                raise StateError(f"round {round} does not descend from round {previous.round}")
            yield version
            previous = version

    @staticmethod
    def export(version: Version) -> bytes:
        """A safetensors file with the model alone, as the tensor `model`; its metadata names hash and round."""
        facts = {"hash": version.hash, "round": str(version.round)}
        return bytes(save({"model": np.ascontiguousarray(version.model)}, metadata=facts))

    def _path(self, round: int) -> Path:
        return self.folder / f"{round:06}.safetensors"


def _facts(version: Version) -> dict[str, Any]:
    facts = {
        "round": version.round,
        "hash": version.hash,
        "parent": version.parent,
        "moments": {name: model_hash(value) for name, value in version.moments.items()},
        "report": dict(version.report),
    }
    return facts | {"seal": hashlib.sha256(canonical_json(facts)).hexdigest()}


def _metadata(data: bytes) -> dict[str, Any]:
    # safetensors: u64 length of a JSON header, whose "__metadata__" is a map of strings.
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    facts: dict[str, Any] = json.loads(header["__metadata__"][_KEY])
    return facts
