"""The folder of a run's models: one file a round, written atomically, from which everything else can be derived.

`models/000012.safetensors` holds the server's state after round 12, and as metadata the model's hash, its parent's hash
and the round's report. It also names the files of the clients' states (see `privfl/fl/state_store.py`). That one write
is the moment at which a round has happened. `models/run.json` holds the run's nonce, and the round at which the run was
started or resumed last. A rule may thin the models out (see `privfl/fl/keep.py`): the file of such a round loses its
tensors, and keeps its metadata.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from privfl.codec import Vector
from privfl.errors import ConfigError, StateError
from privfl.files import atomic_write, canonical_json, read_json
from privfl.fl.keep import KEEP_ALL, Keep
from privfl.fl.plan import RUN_NONCE_BYTES, model_hash
from privfl.fl.range import Range
from privfl.fl.state import ServerState
from privfl.fl.state_store import LiveFiles, StateStore, live_record, read_live

_NAME: Final = re.compile(r"(\d{6})\.safetensors")
_KEY: Final = "privfl"
_START: Final = "run.json"
_MAX_HEADER_BYTES: Final = 100_000_000  # of the safetensors format


@dataclass(frozen=True, slots=True)
class Version:
    """A stored version of the server's state.

    Attributes:
        round: The round after which it was stored; 0 is the start.
        state: The model, the optimizer's moments, an adaptive clip norm, and the range of the sums.
        hash: The model's hash.
        parent: The hash of the model before the round.
        report: The round's report as a JSON object.
        live: The files of the clients' states that a run needs to go on after this round.
    """

    round: int
    state: ServerState
    hash: str
    parent: str
    report: Mapping[str, Any] = field(default_factory=dict)
    live: LiveFiles = ()

    @property
    def model(self) -> Vector:
        """The global model, float `[d]`."""
        return self.state.model


@dataclass(frozen=True, slots=True)
class Start:
    """One start or resumption of a run.

    Attributes:
        nonce: The run's nonce: 16 random bytes, made at its first start.
        round: The first round of this start.
        attempt: The first attempt number of that round which no earlier start can have used.
    """

    nonce: bytes
    round: int
    attempt: int

    def first_attempt(self, round: int) -> int:
        """The number of the first attempt of a round in this start."""
        return self.attempt if round == self.round else 0


@dataclass(frozen=True, slots=True)
class Sealed:
    """The stored facts of a round, which a thinned version still has.

    Attributes:
        round: The round.
        hash: The model's hash.
        parent: The hash of the model before the round.
        report: The round's report as a JSON object.
    """

    round: int
    hash: str
    parent: str
    report: Mapping[str, Any]


class ModelStore:
    """The versions of one run's global model.

    Args:
        folder: The folder of the files.
        keep: Which models are kept; all by default.
    """

    def __init__(self, folder: Path, keep: Keep = KEEP_ALL) -> None:
        self.folder, self.keep = folder, keep

    def rounds(self) -> list[int]:
        """The rounds that are stored, increasing."""
        if not self.folder.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in names if match)

    def begin(self, round: int, *, tries: int, nonce: bytes | None = None) -> Start:
        """Record durably that the run starts, or is resumed, at `round`.

        Args:
            round: The first round that will be run.
            tries: The most attempts that a start makes of one round.
            nonce: The run's nonce; by default the one of the first start, which makes it.

        Raises:
            StateError: If the record of an earlier start was altered, or is of another run.
        """
        path = self.folder / _START
        known = _read_start(path) if path.exists() else None
        if known is None:
            start = Start(nonce or os.urandom(RUN_NONCE_BYTES), round, 0)
        elif nonce is not None and nonce != known.nonce:
            raise StateError(f"{path} is of another run than this one: the two nonces differ")
        else:
            start = Start(known.nonce, round, known.first_attempt(round) + tries)
        record = {"nonce": start.nonce.hex(), "round": start.round, "attempt": start.attempt}
        atomic_write(path, canonical_json(record) + b"\n")
        return start

    @property
    def states_folder(self) -> Path:
        """The folder of the clients' states, in a run whose training keeps some."""
        return self.folder / "states"

    def states(self, version: Version | None = None) -> StateStore:
        """The clients' states after a version; by default after the latest."""
        version = version or self.latest()
        return StateStore(self.states_folder, () if version is None else version.live)

    def save(
        self,
        round: int,
        state: ServerState,
        *,
        parent: str,
        report: Mapping[str, Any],
        live: LiveFiles = (),
        oldest: int | None = None,
    ) -> Version:
        """Write the version of `round` in one atomic step, and return it.

        Args:
            round: The round after which the state holds.
            state: The server's state.
            parent: The hash of the model before the round.
            report: The round's report, any JSON object.
            live: The files of the clients' states that count from now on, which are on the disk already.
            oldest: The oldest round whose model clients still train from: it and those after it are kept by every
                rule. None where all clients train from the latest.
        """
        version = Version(round, state, model_hash(state.model), parent, report, live)
        tensors = {"model": np.ascontiguousarray(state.model)}
        tensors |= {f"moments.{name}": np.ascontiguousarray(value) for name, value in state.moments.items()}
        tensors |= {f"shared.{name}": np.ascontiguousarray(value) for name, value in state.shared.items()}
        atomic_write(self.path(round), save(tensors, metadata={_KEY: canonical_json(_facts(version)).decode()}))
        self._thin(round, round if oldest is None else oldest)
        return version

    def _thin(self, latest: int, oldest: int) -> None:
        """Take the tensors out of the versions that the rule does not keep, each in one atomic step."""
        if self.keep.kind == "all":
            return
        for round in self.rounds():
            if round < oldest and not self.keep.holds(round, latest) and (facts := self._untouched(round)):
                atomic_write(self.path(round), save({}, metadata={_KEY: canonical_json(facts).decode()}))

    def _untouched(self, round: int) -> dict[str, Any] | None:
        """The facts of a version whose model is there; None after it was taken out."""
        facts, tensors = _sealed_facts(self.path(round))
        return facts | {"seal": _seal(facts)} if tensors else None

    def load(self, round: int) -> Version:
        """The version of `round`.

        Raises:
            ConfigError: If there is no such round, or its model was not kept.
            StateError: If its model is not the one that was saved.
        """
        path = self.path(round)
        if not path.exists():
            raise ConfigError(f"no model of round {round} in {self.folder}; there are {self.rounds()}")
        data = path.read_bytes()
        try:
            tensors, facts = load(data), _metadata(data)
            model = tensors.pop("model")
            moments = {name: tensors.pop(f"moments.{name}") for name in facts["moments"]}
            shared = {name: tensors.pop(f"shared.{name}") for name, _ in facts["shared"]}
            if tensors:
                raise ValueError(f"it holds a tensor that no hash covers, {min(tensors)}")
            state = ServerState(model, moments, facts["clip_norm"], Range.read(facts["range"]), shared)
            report, live = dict(facts["report"]), read_live(facts["states"])
            version = Version(facts["round"], state, model_hash(model), str(facts["parent"]), report, live)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            if self._untouched(round) is None:
                raise ConfigError(
                    f"the model of round {round} was not kept, as the run's `keep` says: its hash and its report are "
                    "there; take another round"
                ) from error
            raise StateError(f"{path} is not a model of privfl: {error}") from error
        if version.round != round or _facts(version) != facts:
            raise StateError(f"{path}: the content does not have the hash that it was stored under")
        return version

    def latest(self) -> Version | None:
        """The version of the last round; None before the first."""
        rounds = self.rounds()
        return self.load(rounds[-1]) if rounds else None

    def sealed(self, round: int) -> Sealed:
        """The facts of a round, without reading its model.

        Raises:
            StateError: The file is not a model of privfl, or its facts are not those that were saved.
        """
        facts, _ = _sealed_facts(self.path(round))
        return Sealed(round, str(facts["hash"]), str(facts["parent"]), facts["report"])

    def history(self) -> Iterator[Sealed]:
        """The facts of all rounds, oldest first; models that are there are read and checked.

        Raises:
            StateError: A file was altered, or a parent is not the version before.
        """
        previous: Sealed | None = None
        for round in self.rounds():
            facts = self.sealed(round)
            if self._untouched(round):
                self.load(round)
            if previous is not None and facts.parent != previous.hash:
                raise StateError(f"round {round} does not descend from round {previous.round}")
            yield facts
            previous = facts

    def lineage(self) -> Iterator[Version]:
        """The versions whose models were kept, oldest first; raises `StateError` as `history` does."""
        for facts in self.history():
            if self._untouched(facts.round):
                yield self.load(facts.round)

    def reports(self) -> list[tuple[Path, Mapping[str, Any]]]:
        """The reports of all rounds with their files, oldest first, without reading the models.

        Raises:
            StateError: A file is not a model of privfl, or its report is not the one that was saved.
        """
        return [(self.path(round), report) for round in self.rounds() if (report := self.sealed(round).report)]

    @staticmethod
    def export(version: Version) -> bytes:
        """A safetensors file with the model alone, as the tensor `model`; its metadata names hash and round."""
        facts = {"hash": version.hash, "round": str(version.round)}
        return bytes(save({"model": np.ascontiguousarray(version.model)}, metadata=facts))

    def path(self, round: int) -> Path:
        """The file of a round's model and report."""
        return self.folder / f"{round:06}.safetensors"


def _facts(version: Version) -> dict[str, Any]:
    facts = {
        "round": version.round,
        "hash": version.hash,
        "parent": version.parent,
        "moments": {name: model_hash(value) for name, value in version.state.moments.items()},
        "shared": [[name, model_hash(value)] for name, value in version.state.shared.items()],  # in their order
        "states": live_record(version.live),
        "clip_norm": version.state.clip_norm,
        "range": version.state.range.record(),
        "report": dict(version.report),
    }
    return facts | {"seal": _seal(facts)}


def _seal(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(facts)).hexdigest()


def _sealed_facts(path: Path) -> tuple[dict[str, Any], bool]:
    """The facts in a file's header, which is all that is read of it, and whether tensors follow."""
    try:
        with path.open("rb") as file:
            size = file.read(8)
            head = size + file.read(min(int.from_bytes(size, "little"), _MAX_HEADER_BYTES))
            facts = _metadata(head)
            tensors = bool(file.read(1))
        seal = facts.pop("seal")
        facts["report"] = dict(facts["report"])
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is not a model of privfl: {error}") from error
    if seal != _seal(facts):
        raise StateError(f"{path}: the report is not the one that was stored")
    return facts, tensors


def _metadata(data: bytes) -> dict[str, Any]:
    # safetensors: u64 length of a JSON header, whose "__metadata__" is a map of strings.
    size = int.from_bytes(data[:8], "little")
    header = read_json(data[8 : 8 + size])
    facts: dict[str, Any] = read_json(header["__metadata__"][_KEY])
    return facts


def _read_start(path: Path) -> Start:
    try:
        record = read_json(path.read_bytes())
        start = Start(bytes.fromhex(record["nonce"]), int(record["round"]), int(record["attempt"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is not the record of a run's start: {error}") from error
    if len(start.nonce) != RUN_NONCE_BYTES:
        raise StateError(f"{path} holds a nonce of {len(start.nonce)} bytes, {RUN_NONCE_BYTES} were expected")
    return start
