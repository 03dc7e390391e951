"""Unique values are planted in everything that a client holds; no error, log, output, folder or report has them."""

import json
import logging
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.cli.app import run
from privfl.codec import FixedPoint
from privfl.data import Dataset, FederatedData, partition
from privfl.data.folder import number
from privfl.data.shakespeare import encode_text, speeches
from privfl.errors import ClientFailed, ConfigError, PrivflError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.fl.metrics import MetricSums, measure_predictions, measure_scores
from privfl.ring import Ring
from privfl.sums import PlainSum, SumTask

PLANTED = 73519.0625  # exact in float32, and in no other number of a run
NAME = "Zwetschgenbaum"
X = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def traces() -> list[bytes]:
    """The planted values as text, and as the bytes that a file or a message would hold."""
    texts = [b"73519", NAME.encode()]
    return texts + [struct.pack(order + kind, PLANTED) for order in "<>" for kind in "fd"]


def assert_clean(*parts: str | bytes) -> None:
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        for trace in traces():
            assert trace not in data


def message_of(provoke: Callable[[], Any]) -> str:
    with pytest.raises(PrivflError) as caught:
        provoke()
    error: BaseException | None = caught.value
    found = []
    while error is not None:  # a chain is printed with a traceback
        found += [str(error), repr(error), *getattr(error, "__notes__", ())]
        error = None if error.__suppress_context__ and error.__cause__ is None else error.__cause__ or error.__context__
    return "\n".join(found)


def planted(**wrong: Any) -> Dataset:
    features = X.copy()
    features[::9, 1] = PLANTED
    values = {"features": features, "targets": Y, "feature_names": ("a", "b", "c"), "classes": ("no", "yes")} | wrong
    task = values.pop("task", "binary")
    return Dataset("mine", task, **values)


def with_value(value: float) -> np.ndarray:
    features = np.full((120, 3), PLANTED, np.float32)
    features[4, 1] = value
    return features


def one_update(delta: np.ndarray, metrics: dict[str, float] | None = None, examples: int = 10) -> dict[str, Any]:
    update = ClientUpdate(delta, examples, metrics or {})
    return {"train": lambda model, client, round, rng: update, "initial": np.zeros(3), "clients": 4}


def a_task() -> SumTask:
    return SumTask(b"planted", (0, 1, 2), 1, 2, Ring(31), 1000)


BROKEN: dict[str, Callable[[], Any]] = {
    "an infinite feature": lambda: planted(features=with_value(np.inf)),
    "a missing feature": lambda: Experiment(data=planted(features=with_value(np.nan))),
    "a label outside": lambda: planted(targets=np.where(np.arange(120) == 3, 73519, Y)),
    "labels of another type": lambda: planted(targets=Y + PLANTED),
    "a target that is not finite": lambda: planted(
        task="regression", classes=(), targets=np.where(Y, PLANTED, np.inf).astype(np.float32)
    ),
    "a feature too large to standardize": lambda: Experiment(
        data=planted(features=with_value(3e38)), overrides={"data.standardize": "exact"}
    ),
    "a group outside": lambda: partition(planted(), "natural:nobody"),
    "an update of another shape": lambda: Experiment(rounds=1, **one_update(np.full(4, PLANTED))).run(),
    "an update that is no vector": lambda: ClientUpdate(np.full((2, 2), PLANTED), 10),
    "an update that is not finite": lambda: FixedPoint(1.0, Ring(31)).encode_entries(
        np.array([PLANTED, np.nan]), max_abs=1e9
    ),
    "an update too large": lambda: FixedPoint(2.0**60, Ring(31)).encode(np.array([PLANTED, 1.0]), max_norm=1e9),
    "an entry beyond the bound": lambda: PlainSum().client(a_task(), 0, np.array([73519, 1])),
    "a vector of floats": lambda: PlainSum().client(a_task(), 0, np.array([PLANTED, 1.0])),
    "a metric that is text": lambda: Experiment(
        rounds=1, measure=lambda m, c: MetricSums({"rows": np.ones(1), "x": NAME}), **one_update(np.zeros(3))
    ).run(),
    "a number of examples below 0": lambda: Experiment(
        rounds=1, measure=lambda m, c: MetricSums({"rows": np.array([-PLANTED])}), **one_update(np.zeros(3))
    ).run(),
    "text in a file of numbers": lambda: number("heart", "x.data", NAME, place="column 3"),
    "a number that is not finite": lambda: number("heart", "x.data", "nan", place="column 3"),
    "a speech without a name": lambda: speeches(f"{NAME} said this\n"),
    "a character outside": lambda: encode_text(f"{NAME}\u20ac"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_error_holds_no_value_of_a_client(what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert_clean(message_of(BROKEN[what]), caplog.text)


class Own(ConfigError):
    """A program may derive an error of its own from privfl's."""


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["raise", "drop"])
@pytest.mark.parametrize("kind", [KeyError, ValueError, Own, OSError])
def test_a_clients_own_error_does_not_leave_it(
    tmp_path: Path, kind: type[Exception], how: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Its type, place and number do. Its text is in `__cause__` alone, which no copy of the error carries along."""
    caplog.set_level(logging.DEBUG)

    def train(model: np.ndarray, client: int, round: int, rng: Any) -> ClientUpdate:
        if client == 1:
            raise kind(f"no entry {PLANTED} for {NAME}")
        return ClientUpdate(rng.normal(size=3), 10)

    settings = {"cohort.on_client_error": how, "engine.workers": workers}
    run = Experiment(rounds=2, runs=tmp_path, train=train, initial=np.zeros(3), clients=5, overrides=settings)
    if how == "drop":
        reports = list(run.run())
        assert [report.client_errors for report in reports] == [{kind.__name__: 1}] * 2
        assert_clean(*(json.dumps(report.record()) for report in reports))
    else:
        with pytest.raises(ClientFailed) as caught:
            run.run()
        error = caught.value
        assert NAME in str(error.__cause__)
        assert_clean(str(error), repr(error), *getattr(error, "__notes__", ()), pickle.dumps(error), repr(vars(error)))
        assert f"{kind.__name__} in train (test_no_personal_value.py, line " in str(error)
    assert_clean(caplog.text, *_files(tmp_path))


@pytest.mark.parametrize("scheme", ["plain", "masked"])
def test_an_error_of_a_measure_names_the_client_and_no_value(tmp_path: Path, scheme: str) -> None:
    def measure(model: np.ndarray, client: int) -> MetricSums:
        return MetricSums({"rows": np.ones(1), "mine": np.array([{}[f"{PLANTED} {NAME}"]])})

    settings = {"sum.scheme": scheme}
    with pytest.raises(ClientFailed, match="client 0 failed: KeyError in measure") as caught:
        Experiment(rounds=1, runs=tmp_path, measure=measure, overrides=settings, **one_update(np.zeros(3))).run()
    assert_clean(str(caught.value), repr(caught.value), *_files(tmp_path))


def _files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("scheme", ["plain", "masked"])
@pytest.mark.parametrize("wrong", [PLANTED, np.nan])
def test_a_run_leaves_no_value_in_folder_report_output_or_masked_wire(
    tmp_path: Path, scheme: str, wrong: float, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Client 1 alone holds the values: an update, a training metric, and what it measures."""
    caplog.set_level(logging.DEBUG)
    wire: list[bytes] = []

    def train(model: np.ndarray, client: int, round: int, rng: Any) -> ClientUpdate:
        mine = np.array([PLANTED, 1.0, wrong]) if client == 1 else rng.normal(size=3)
        return ClientUpdate(mine, 10, {"loss": PLANTED if client == 1 else 1.5})

    def measure(model: np.ndarray, client: int) -> MetricSums:
        value = wrong if client == 1 else 1.25
        return MetricSums({"rows": np.array([8.0]), "mine": np.array([value])})

    experiment = Experiment(
        rounds=2, runs=tmp_path, train=train, initial=np.zeros(3), clients=5, measure=measure, name="r",
        overrides={"sum.scheme": scheme}, tap=lambda direction, client, message: wire.append(bytes(message)),
    )  # fmt: skip
    try:
        experiment.run()
    except PrivflError as error:
        assert_clean(str(error))
    assert_clean(*_files(tmp_path), caplog.text)
    if scheme == "masked":
        assert_clean(*wire)
    for verb in (["runs", "list"], ["runs", "show", "r"], ["report", "r", "--to", str(tmp_path / "r.html")]):
        run([*verb, "--runs", str(tmp_path)])
    captured = capfd.readouterr()
    assert_clean(captured.out, captured.err, *_files(tmp_path))


@pytest.mark.parametrize("private", [False, True])
def test_a_run_over_planted_examples_leaves_none_of_them(
    tmp_path: Path, private: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 1.0}
    settings = {"data.clients": 4, "client.learning_rate": 1e-9} | (noise if private else {})
    result = Experiment(data=planted(), rounds=2, runs=tmp_path, name="r", overrides=settings).run()
    assert_clean(*_files(tmp_path), json.dumps([dict(report.record()) for report in result]))
    run(["report", "r", "--runs", str(tmp_path), "--to", str(tmp_path / "r.html")])
    captured = capfd.readouterr()
    assert_clean(captured.out, captured.err, *_files(tmp_path), repr(planted()), repr(result))


def test_what_holds_values_does_not_show_them() -> None:
    data = planted()
    federation = partition(data, "iid", clients=3, seed=0)
    assert isinstance(federation, FederatedData)
    update = ClientUpdate(np.full(3, PLANTED), 10)
    scores = measure_scores(np.full((2, 1), PLANTED), np.array([0, 1]), np.full(2, PLANTED))
    wide = SumTask(b"planted", (0, 1, 2), 1, 2, Ring(31), 100_000)
    assert_clean(repr(PlainSum().client(wide, 0, np.array([73519, 1]))))
    assert_clean(*map(repr, (data, federation, update, scores, measure_predictions(np.ones(1), np.full(1, PLANTED)))))
