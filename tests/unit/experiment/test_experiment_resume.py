"""Going on after a kill, step by step: what is charged, what is refused, what is left on the disk."""

import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.data import Dataset
from privfl.dp import Ledger
from privfl.dp.unit import CLIENT_UNIT
from privfl.errors import BudgetExceeded, ConfigError, StateError
from privfl.experiment import Experiment, RoundReport, load_config
from privfl.files import canonical_json
from privfl.fl.state import ServerState
from privfl.fl.store import ModelStore

SECURE = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 4.0}
FEATURES = np.random.default_rng(3).normal(size=(60, 3)).astype(np.float32)
DATA = Dataset("points", "binary", FEATURES, (FEATURES[:, 0] > 0).astype(np.int64), classes=("a", "b"))


def an_experiment(runs: Path, **changes: Any) -> Experiment:
    return Experiment(data=DATA, runs=runs, overrides={"rounds": 3, "data.clients": 4, "client.steps": 2} | changes)


class Killed(BaseException):
    """Stands for kill -9."""


def kill_at(
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    call: int,
    run: Callable[[], object],
    *,
    after: bool = False,
) -> None:
    genuine, count = getattr(owner, name), 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == call and not after:
            raise Killed
        value = genuine(*args, **kwargs)
        if count == call:
            raise Killed
        return value

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, counting)
        with pytest.raises(Killed):
            run()


def test_the_folder_of_a_run(tmp_path: Path) -> None:
    experiment = an_experiment(tmp_path, **SECURE, name="mine")
    reports = list(experiment.run())
    folder = tmp_path / "mine"
    assert {path.name for path in folder.iterdir()} == {
        "config.toml", "run.json", "metrics.jsonl", "ledger.jsonl", "models", "cohorts.key", "versions.json", "lock",
    }  # fmt: skip
    assert load_config(folder / "config.toml") == experiment.config
    lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    assert lines == [canonical_json(report.record()) for report in reports] == [
        canonical_json(report.record()) for report in experiment.reports
    ]  # fmt: skip
    assert ModelStore(folder / "models").rounds() == [0, 1, 2, 3]
    assert stat.S_IMODE((folder / "cohorts.key").stat().st_mode) == 0o600
    assert len((folder / "cohorts.key").read_bytes()) == 32
    assert [r.round for r in Ledger(CLIENT_UNIT, folder / "ledger.jsonl").releases] == [1, 2, 3]


def test_a_run_without_noise_keeps_neither_ledger_nor_secret(tmp_path: Path) -> None:
    list(an_experiment(tmp_path).run())
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.toml", "run.json", "metrics.jsonl", "models", "versions.json", "lock"}


def test_a_second_run_in_one_folder_is_refused_unless_it_resumes(tmp_path: Path) -> None:
    list(an_experiment(tmp_path).run())
    with pytest.raises(ConfigError, match="resume"):
        list(an_experiment(tmp_path).run())
    assert list(an_experiment(tmp_path).each_round(resume=True)) == []
    more = an_experiment(tmp_path, rounds=5)
    assert [report.round for report in more.each_round(resume=True)] == [4, 5]
    assert [report.round for report in more.reports] == [1, 2, 3, 4, 5]
    assert load_config(tmp_path / "run" / "config.toml").rounds == 5


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"client.learning_rate": 0.2}, {"sum.scheme": "masked"}, {"cohort.dropout": 0.1}, SECURE],
)
def test_a_run_under_other_settings_is_not_resumed(tmp_path: Path, changes: dict[str, Any]) -> None:
    list(an_experiment(tmp_path).run())
    with pytest.raises(StateError, match="other settings"):
        list(an_experiment(tmp_path, **changes).run(resume=True))


def test_where_a_run_is_computed_may_change(tmp_path: Path) -> None:
    list(an_experiment(tmp_path / "a", rounds=4).run())
    list(an_experiment(tmp_path / "b", rounds=2).run())
    moved = an_experiment(tmp_path / "b", rounds=4, **{"engine.workers": 2, "data.folder": "elsewhere"})
    list(moved.run(resume=True))
    assert moved.model.tobytes() == an_experiment(tmp_path / "a").model.tobytes()


def test_a_run_that_started_from_another_model_is_not_resumed(tmp_path: Path) -> None:
    def train(model: Any, client: int, round: int, rng: Any) -> Any:
        raise AssertionError("nobody is asked")

    def start(value: float, rounds: int) -> list[RoundReport]:
        experiment = Experiment(data=DATA, train=train, initial=np.full(2, value), runs=tmp_path, rounds=rounds)
        return list(experiment.run(resume=True))

    ModelStore(tmp_path / "run" / "models").save(0, ServerState(np.zeros(2)), parent="", report={})
    with pytest.raises(StateError, match=r"config\.toml"):
        start(0.0, 1)
    start_of_all = Experiment(data=DATA, train=train, initial=np.zeros(2), runs=tmp_path)
    (tmp_path / "run" / "config.toml").write_text("rounds = 1\n")
    record = {"data": start_of_all.federation.fingerprint(), "clients": 10, "nonce": "00" * 16}
    record |= {"parts": start_of_all.parts.objects.notes(), "settings": hashlib.sha256(b'{"rounds":1}').hexdigest()}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(StateError, match="another model"):
        start(1.0, 1)


@pytest.mark.parametrize("change", ["a feature", "a target", "a note"])
def test_a_run_over_other_data_is_not_resumed(tmp_path: Path, change: str) -> None:
    list(an_experiment(tmp_path).run())
    features, targets = DATA.features.copy(), DATA.targets.copy()
    if change == "a feature":
        features[7, 1] += 1
    elif change == "a target":
        targets[7] = 1 - targets[7]
    else:
        record = json.loads((tmp_path / "run" / "run.json").read_text()) | {"data": "0" * 64}
        (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    data = Dataset("points", "binary", features, targets, classes=("a", "b"))
    again = Experiment(data=data, runs=tmp_path, overrides={"rounds": 4, "data.clients": 4, "client.steps": 2})
    with pytest.raises(StateError, match="other data"):
        list(again.run(resume=True))


def test_what_a_killed_write_left_behind_is_removed_on_return(tmp_path: Path) -> None:
    list(an_experiment(tmp_path).run())
    left = [
        tmp_path / "run" / ".metrics.jsonl.0123456789abcdef",
        tmp_path / "run/models/.000004.safetensors.00000000ffffffff",
    ]
    for path in left:
        path.write_bytes(b"cut short")
    (tmp_path / "run" / ".mine").write_text("of somebody else")
    list(an_experiment(tmp_path, rounds=4).run(resume=True))
    assert not any(path.exists() for path in left)
    assert (tmp_path / "run" / ".mine").exists()


def test_a_killed_try_stays_charged_after_a_second_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> object:
        return list(an_experiment(tmp_path, **SECURE).run(resume=True))

    kill_at(monkeypatch, ModelStore, "save", 3, run)  # round 2 was opened and not stored
    kill_at(monkeypatch, Ledger, "reserve", 2, run, after=True)  # round 2 is done again; round 3 only reserved
    run()
    ledger = Ledger(CLIENT_UNIT, tmp_path / "run" / "ledger.jsonl")
    assert [(r.round, r.attempt) for r in ledger.releases] == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]
    # What the try that was killed before its opening would have opened nobody knows: it is never settled.
    assert [(ledger.reserved(t).round, ledger.reserved(t).attempt) for t in ledger.unsettled] == [(3, 0)]


def test_a_kill_at_the_settling_of_secure_noise_leaves_the_charge_and_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> object:
        return list(an_experiment(tmp_path, **SECURE).run(resume=True))

    kill_at(monkeypatch, Ledger, "settle", 2, run)
    run()
    ledger = Ledger(CLIENT_UNIT, tmp_path / "run" / "ledger.jsonl")
    assert [(r.round, r.attempt) for r in ledger.releases] == [(1, 0), (2, 0), (2, 1), (3, 0)]
    assert [(ledger.reserved(t).round, ledger.reserved(t).attempt) for t in ledger.unsettled] == [(2, 0)]


def test_metrics_that_a_kill_left_behind_are_written_again(tmp_path: Path) -> None:
    list(an_experiment(tmp_path).run())
    metrics = tmp_path / "run" / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:50])
    list(an_experiment(tmp_path).run(resume=True))
    assert metrics.read_bytes() == whole


def test_a_damaged_secret_is_told(tmp_path: Path) -> None:
    poisson = SECURE | {"cohort.sampling": "poisson", "cohort.probability": 0.5}
    list(an_experiment(tmp_path, **poisson).run())
    (tmp_path / "run" / "cohorts.key").write_bytes(b"short")
    with pytest.raises(StateError, match="5 bytes"):
        list(an_experiment(tmp_path, **poisson, rounds=4).run(resume=True))


def test_cohorts_of_a_private_run_come_from_its_secret_and_not_from_the_seed(tmp_path: Path) -> None:
    poisson = SECURE | {"cohort.sampling": "poisson", "cohort.probability": 0.5, "data.clients": 30, "rounds": 1}
    sizes = set()
    for name in ("a", "b", "c"):
        experiment = an_experiment(tmp_path, **poisson, name=name)
        list(experiment.run())
        (release,) = Ledger(CLIENT_UNIT, tmp_path / name / "ledger.jsonl").releases
        sizes.add(release.participants)
    assert len(sizes) == 3
    assert len({(tmp_path / name / "cohorts.key").read_bytes() for name in ("a", "b", "c")}) == 3


def test_the_budget_stops_the_run_and_its_models_stay(tmp_path: Path) -> None:
    experiment = an_experiment(tmp_path, **SECURE, **{"privacy.epsilon": 2.0, "rounds": 50})
    with pytest.raises(BudgetExceeded):
        list(experiment.run())
    report = experiment.epsilon()
    assert report is not None
    assert 1 <= len(experiment.reports) < 50
    assert report.epsilon <= 2.0
    assert experiment.store.rounds()[-1] == len(experiment.reports)
