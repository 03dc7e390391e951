"""Objects in place of built-ins: they run, they are noted, and a run does not go on with another one."""

import datetime as dt
import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.codec import Vector
from privfl.crypto import generate_identities
from privfl.data import Dataset, load, partition
from privfl.dp import FlatClip, Mechanism
from privfl.engine import LoopExecutor
from privfl.errors import ConfigError, StateError
from privfl.experiment import Client, Cohort, Data, Experiment, Privacy, Server, Sum
from privfl.experiment.fingerprint import fingerprint, name_of
from privfl.experiment.folder import RunFolder
from privfl.fl.client import ClientUpdate
from privfl.fl.dropout import nobody
from privfl.fl.metrics import MetricSums, measure_predictions
from privfl.fl.optimizers import FedAdam, ServerSGD
from privfl.fl.sampling import EveryoneSampler, FixedSizeSampler, PoissonSampler
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum

FEATURES = np.random.default_rng(5).normal(size=(60, 3)).astype(np.float32)
DATA = Dataset("points", "binary", FEATURES, (FEATURES[:, 0] > 0).astype(np.int64), classes=("a", "b"))


def towards_one(model: Vector, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    return ClientUpdate(1.0 - model, 10)


def towards_two(model: Vector, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    return ClientUpdate(2.0 - model, 10)


def squared(model: Vector, client: int) -> MetricSums:
    return measure_predictions(model, np.zeros(len(model)))


@dataclass(frozen=True)
class Odd:
    """The clients with an odd number."""

    offset: int = 1

    def declare(self, population: int) -> Any:
        return EveryoneSampler().declare(population)

    def sample(self, population: int, uniforms: Any) -> tuple[int, ...]:
        return tuple(range(self.offset, population, 2))

    def expected_size(self, population: int) -> float:
        return float(len(range(self.offset, population, 2)))

    def largest_size(self, population: int) -> int:
        return len(range(self.offset, population, 2))


class Halving(ServerSGD):
    """Half of each step."""

    def step(self, *args: Any, **settings: Any) -> Any:
        return super().step(*args, **settings)


def masked(clients: int) -> dict[str, Any]:
    credentials, directory = generate_identities(range(clients))
    return {"sum": MaskedSum(directory), "credentials": credentials}


def test_sections_and_objects_make_one_run(tmp_path: Path) -> None:
    result = Experiment(
        data=DATA,
        client=Client(steps=2),
        server=Server(weighting="uniform"),
        sampler=Odd(),
        optimizer=ServerSGD(0.5),
        measure=squared,
        executor=LoopExecutor(),
        dropouts=nobody,
        clip=FlatClip(3.0),
        rounds=2,
        runs=tmp_path,
        overrides={"data.clients": 8},
        **masked(8),
    ).run()
    assert [report.cohort for report in result] == [4, 4]
    assert set(result.evaluation) == {"mse", "mae", "r2"}
    assert result.accuracy is None
    assert result.epsilon is None
    parts = RunFolder(result.folder).identity.parts
    assert set(parts) == {"data", "sampler", "optimizer", "measure", "sum", "dropouts", "clip"}
    assert parts["sum"]["name"] == "privfl.secagg.scheme.MaskedSum"
    assert all(len(note["fingerprint"]) == 16 for part, note in parts.items() if part != "data")


def test_the_model_does_not_depend_on_how_a_part_is_named() -> None:
    def model(**parts: Any) -> Any:
        return Experiment(data=DATA, rounds=2, overrides={"data.clients": 6}, **parts).run().model.tobytes()

    assert model(sum=Sum("masked")) == model(sum=PlainSum()) == model(**masked(6)) == model()
    assert model(server=Server("fedadam", eta=0.1)) == model(optimizer=FedAdam(eta=0.1)) != model()
    assert model(cohort=Cohort("fixed-size", size=3)) == model(sampler=FixedSizeSampler(3))
    assert model(privacy=Privacy(clip_norm=0.01)) == model(clip=FlatClip(0.01)) != model()
    simulated = Privacy("central", 1.0, noise_multiplier=2.0, noise="simulation")
    assert model(privacy=simulated) == model(
        privacy=Privacy(clip_norm=1.0), mechanism=Mechanism("central", 2.0, "simulation")
    )


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"sampler": EveryoneSampler(), "cohort": Cohort("fixed-size", size=2)}, "cohort.sampling and the object"),
        ({"optimizer": ServerSGD(), "server": Server("fedadam")}, "server.optimizer and the object"),
        ({"clip": FlatClip(1.0), "privacy": Privacy(clip_norm=1.0)}, "privacy.clip_norm and the object"),
        ({"mechanism": Mechanism("central", 1.0), "privacy": Privacy("central", 1.0)}, "privacy.placement and the"),
        ({"dropouts": nobody, "cohort": Cohort(dropout=0.1)}, "cohort.dropout and the object"),
        ({"mechanism": Mechanism("central", 1.0, discrete=True), "clip": FlatClip(1.0)}, "without `discrete`"),
        ({"sum": "masked"}, r"sum must be a section Sum\(...\), not 'masked'"),
        ({"data": "digits"}, r"data must be a section Data\(...\), not 'digits'"),
        ({"rouns": 3}, "no argument 'rouns'; did you mean rounds="),
        ({"learning_rate": 3}, "settings without an argument go into `overrides`"),
        ({"rounds": 0}, r"rounds must be in \[1, 999999\]"),
        ({"rounds": 1_000_000}, "rounds must be in"),
        ({"seed": 1 << 64}, "seed must be in"),
        ({"name": "x" * 201}, "of at most 200 bytes"),
        ({"name": " "}, "usable as a folder"),
        ({"overrides": [1]}, "settings by key"),
        ({"overrides": {1: 1}}, "settings by key"),
        ({"config": {}}, "first argument is a Config, not a dict"),
        ({"sampler": PoissonSampler}, "an object, not the class PoissonSampler"),
        ({"optimizer": ServerSGD}, "an object, not the class ServerSGD"),
        ({"mechanism": Mechanism}, "an object, not the class Mechanism"),
        ({"clip": 1.0}, "is a FlatClip, LayerClip or ElementClip, not a float"),
        ({"tap": None}, "`tap` is called"),
        ({"credentials": [1]}, "credentials must be of type Mapping"),
        ({"config": Data()}, "first argument is a Config, not a Data"),
        ({"sampler": ServerSGD()}, "`sampler` needs declare, .*ServerSGD has no declare"),
        ({"optimizer": "fedadam"}, "`optimizer` needs step"),
        ({"executor": 4}, "`executor` needs run, close"),
        ({"measure": 3}, "`measure` is called: give a function, not a int"),
    ],
)
def test_contradictions_and_mistakes_are_told(parts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Experiment(**({"data": DATA} | parts))


PAIRS: list[tuple[str, Any, Any]] = [
    ("train", towards_one, towards_two),
    ("train", towards_one, functools.partial(towards_one)),
    ("train", lambda model, client, round, rng: ClientUpdate(1 - model, 1),
     lambda model, client, round, rng: ClientUpdate(2 - model, 1)),
    ("sampler", Odd(1), Odd(0)),
    ("sampler", EveryoneSampler(), None),
    ("optimizer", ServerSGD(0.5), ServerSGD(0.25)),
    ("optimizer", ServerSGD(0.5), Halving(0.5)),
    ("measure", squared, None),
    ("clip", FlatClip(1.0), FlatClip(2.0)),
    ("dropouts", nobody, None),
    ("sum", PlainSum(), None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "first", "second"), PAIRS)
def test_a_run_does_not_go_on_with_another_object(tmp_path: Path, name: str, first: Any, second: Any) -> None:
    def start(it: Any, rounds: int) -> Experiment:
        own = {"train": towards_one, "initial": np.zeros(2)} | {name: it}
        return Experiment(data=DATA, rounds=rounds, runs=tmp_path, overrides={"data.clients": 4}, **own)

    start(first, 2).run()
    with pytest.raises(StateError, match=f"was started with .*{name}|other settings"):
        start(second, 4).run(resume=True)
    assert len(start(first, 3).run(resume=True)) == 3


def scaled(factor: Any) -> Callable[..., ClientUpdate]:
    def train(model: Vector, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        return ClientUpdate(factor * np.ones(2), 1)

    return train


class Trainer:
    """A training with a setting, and a state that changes while it is used."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._used = 0

    def __call__(self, *_: Any) -> ClientUpdate:
        self._used += 1
        return ClientUpdate(np.full(2, self.rate), 1)


def test_a_fingerprint_sees_what_is_computed_and_not_where() -> None:
    assert fingerprint(scaled(2)) == fingerprint(scaled(2)) != fingerprint(scaled(3))
    assert fingerprint(scaled(np.arange(2))) != fingerprint(scaled(np.arange(1, 3)))
    used = Trainer(0.5)
    used(), used()
    assert fingerprint(used) == fingerprint(Trainer(0.5)) != fingerprint(Trainer(0.25))
    assert fingerprint(used.__call__) != fingerprint(used)
    assert fingerprint(functools.partial(towards_one, round=1)) != fingerprint(functools.partial(towards_one, round=2))
    assert name_of(towards_one).endswith(".towards_one")
    assert name_of(functools.partial(towards_one)) == name_of(towards_one)
    scope: dict[str, Any] = {}
    exec("f = lambda x: x + 1\ng = lambda x: x + 2\nh = lambda x: x + 1", scope)  # noqa: S102 - code without a source
    assert fingerprint(scope["f"]) == fingerprint(scope["h"]) != fingerprint(scope["g"])


@dataclass(frozen=True)
class Rates:
    client: float


class Slotted:
    __slots__ = ("rate",)

    def __init__(self, rate: float) -> None:
        self.rate = rate


class Kind(enum.Enum):
    FIRST = "1"
    SECOND = "2"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Rates(0.1), Rates(0.2)),
        (Kind.FIRST, Kind.SECOND),
        (frozenset({1}), frozenset({2})),
        (1j, 2j),
        (range(3), range(4)),
        (Path("a"), Path("b")),
        (dt.date(2026, 1, 1), dt.date(2026, 1, 2)),
        (np.float32(0.1), np.float32(0.2)),
        (functools.partial(towards_one, round=1), functools.partial(towards_one, round=2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_setting_is_seen_as_a_field_and_where_it_is_closed_over(first: Any, second: Any) -> None:
    assert fingerprint(Trainer(first)) == fingerprint(Trainer(first)) != fingerprint(Trainer(second))
    assert fingerprint(scaled(first)) == fingerprint(scaled(first)) != fingerprint(scaled(second))


def test_two_functions_of_one_line_are_two() -> None:
    first, second = (lambda x: x + 1), (lambda x: x + 2)
    assert fingerprint(first) != fingerprint(second)


@pytest.mark.parametrize(
    ("mechanism", "settings"),
    [
        (Mechanism("mesh", 1.0, spare=2, members=6, min_members_to_open=5), {"data.clients": 8}),
        (Mechanism("mesh", 1.0, spare=0), {"data.clients": 8}),
        (Mechanism("mesh", 1.0, spare=3), {"data.clients": 40}),
        (Mechanism("central", 1.0, correlation="toeplitz"), {"cohort.sampling": "one-pass", "cohort.size": 2}),
        (Mechanism("distributed", 1.0, "simulation", 2), {"data.clients": 9}),
    ],
    ids=["mesh", "spare", "members", "correlation", "colluders"],
)
def test_a_mechanism_is_the_noise_of_the_run_as_it_was_given(mechanism: Mechanism, settings: dict[str, Any]) -> None:
    overrides = {"sum.scheme": "masked", **settings}
    run = Experiment(data=load("breast_cancer"), rounds=1, mechanism=mechanism, clip=FlatClip(1.0), overrides=overrides)
    assert run.parts.mechanism == mechanism
    with pytest.raises(ConfigError, match="say the same"):
        Experiment(rounds=1, mechanism=mechanism, privacy=Privacy(spare=4), overrides=overrides)


def test_slots_and_sets_are_seen_too() -> None:
    assert fingerprint(Slotted(0.1)) == fingerprint(Slotted(0.1)) != fingerprint(Slotted(0.2))
    assert fingerprint(scaled({3, 1, 2})) == fingerprint(scaled({1, 2, 3})) != fingerprint(scaled({1, 2}))


def test_an_object_may_state_its_own_fingerprint() -> None:
    class Own:
        def __init__(self, version: str) -> None:
            self.version, self.noise = version, np.random.default_rng().random()

        def fingerprint(self) -> str:
            return self.version

    assert fingerprint(Own("1")) == fingerprint(Own("1")) != fingerprint(Own("2"))


def test_a_train_without_data_needs_its_clients(tmp_path: Path) -> None:
    asked: set[int] = set()

    def train(model: Vector, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        asked.add(client)
        return ClientUpdate(np.full(3, float(client)), 100 + client)

    own: dict[str, Any] = {"train": train, "initial": np.zeros(3), "rounds": 1, "runs": tmp_path}
    with pytest.raises(ConfigError, match="clients=5"):
        Experiment(**own)
    result = Experiment(clients=5, **own).run()
    assert asked == set(range(5))
    np.testing.assert_allclose(result.model, 2.0, atol=1e-6)  # the mean over clients: nobody's examples are known
    assert result.evaluation == {}
    weighted = Experiment(clients=5, server=Server(weighting="examples"), **own | {"runs": tmp_path / "weighted"}).run()
    expected = np.average(np.arange(5.0), weights=100 + np.arange(5))
    np.testing.assert_allclose(
        weighted.model, expected, rtol=1e-6
    )  # the first attempt learned how large the weights are
    assert weighted.reports[0].attempts == 2
    with pytest.raises(StateError, match=r"other settings|other clients"):
        Experiment(clients=6, **own).run(resume=True)


def test_data_and_clients_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="give `train` alone"):
        Experiment(data=DATA, clients=4, train=towards_one, initial=np.zeros(2))


def test_data_is_a_section_a_set_or_clients() -> None:
    hospitals = partition(load("breast_cancer"), "iid", 4, 0)
    assert Experiment(data=hospitals).federation is hospitals
    assert len(Experiment(data=DATA).federation.clients) == 10
    section = Experiment(data=Data("breast_cancer", clients=3, partition="dirichlet:1", standardize="public"))
    assert (section.federation.dataset.name, len(section.federation.clients)) == ("breast_cancer", 3)


@pytest.mark.parametrize("clients", [True, 3.0, 0, -3, "3", [3]])
def test_a_number_of_clients_that_is_none_is_refused(clients: Any) -> None:
    with pytest.raises(ConfigError, match="clients must be an integer of at least 1"):
        Experiment(train=lambda *given: None, initial=[0.0], clients=clients)  # type: ignore[arg-type]
