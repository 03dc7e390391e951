"""Runs of one pass with correlated noise: what they release, what a crash changes, and what is refused."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.dp import CorrelatedNoise, Ledger, epsilon
from privfl.dp.accounting.gaussian import gaussian_epsilon
from privfl.dp.noise.toeplitz import column_norm
from privfl.errors import ConfigError, PrivacyError, PrivflError, StateError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.fl.sampling import OnePassSampler, in_round
from privfl.fl.store import ModelStore

ROUNDS, SIZE = 5, 3
SETTINGS: dict[str, Any] = {
    "name": "stream", "rounds": ROUNDS, "cohort.sampling": "one-pass", "cohort.size": SIZE,
    "privacy.placement": "central", "privacy.correlation": "toeplitz", "privacy.clip_norm": 1.0,
    "privacy.noise_multiplier": 2.0, "privacy.delta": 1e-5, "evaluate_every": 0,
}  # fmt: skip


class Killed(BaseException):
    """Stands for a process that ends at once."""


def a_run(runs: Path, **changes: Any) -> Experiment:
    def train(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        drift = float(os.environ.get("DRIFT", "0"))  # a training that does not repeat
        return ClientUpdate(np.full(6, 0.01 * client + drift) + 0.1 * model, 1)

    return Experiment(train=train, initial=np.zeros(6), clients=SIZE * ROUNDS, runs=runs, overrides=SETTINGS | changes)


def released(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    """Every sum that leaves the opener, with its round."""
    found: list[tuple[int, bytes]] = []
    genuine = CorrelatedNoise._add

    def noting(self: CorrelatedNoise, noise: Any, round: int, *args: Any) -> Any:
        noisy = genuine(self, noise, round, *args)
        found.append((round, noisy.tobytes()))
        return noisy

    monkeypatch.setattr(CorrelatedNoise, "_add", noting)
    return found


def killed_after(monkeypatch: pytest.MonkeyPatch, target: object, name: str, times: int, *, before: bool) -> None:
    """The process ends at the given call of a method, before it or after it."""
    genuine, count = getattr(target, name), 0

    def method(*args: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        if count == times and before:
            raise Killed
        result = genuine(*args, **more)
        if count == times:
            raise Killed
        return result

    monkeypatch.setattr(target, name, method)


@pytest.mark.parametrize("scheme", ["plain", "masked"])
def test_each_client_takes_part_once_and_pays_the_column_norm(tmp_path: Path, scheme: str) -> None:
    run = a_run(tmp_path, **{"sum.scheme": scheme})
    result = run.run()
    ledger = Ledger.read(run.files.ledger_path)
    asked = [client for release in ledger.releases for client in release.participants or ()]
    assert asked == list(range(SIZE * ROUNDS))
    price = gaussian_epsilon(2.0 / column_norm(ROUNDS), 1e-5)
    for observer in ("outsider", "participant"):
        report = run.epsilon(observer)
        assert report is not None
        assert report.epsilon == pytest.approx(price, rel=1e-12)
    assert run.parts.planned_epsilon() == pytest.approx(price, rel=1e-12)
    spent = [report.epsilon for report in result.reports]
    assert spent == pytest.approx([gaussian_epsilon(2.0 / column_norm(r), 1e-5) for r in range(1, ROUNDS + 1)])


def test_the_noise_of_the_model_is_that_of_the_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = released(monkeypatch)
    run = a_run(tmp_path, **{"privacy.noise": "simulation", "seed": 4})
    run.run()
    noise = CorrelatedNoise(key=(4,))
    plan = run.parts.worst_case()[1]
    assert [round for round, _ in found] == list(range(1, ROUNDS + 1))
    model = np.zeros(6)
    for _, total in found:
        update = np.frombuffer(total, np.int64) / run.encoding.codec.scale / SIZE
        model = model + update
    np.testing.assert_allclose(run.model, model, rtol=1e-12)
    assert plan.correlation == "toeplitz"
    assert noise.rounds == frozenset()


@pytest.mark.parametrize(
    ("target", "name", "before"),
    [
        (Ledger, "settle", True),
        (Ledger, "settle", False),
        (CorrelatedNoise, "_append", True),
        (CorrelatedNoise, "_append", False),
        (CorrelatedNoise, "_add", False),
        (ModelStore, "save", True),
        (ModelStore, "save", False),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.parametrize("scheme", ["plain", "masked"])
def test_a_round_is_released_once_however_often_it_is_run(  # noqa: PLR0917 - parameters of pytest
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any, name: str, before: bool, times: int, scheme: str
) -> None:
    found, changes = released(monkeypatch), {"sum.scheme": scheme}
    with monkeypatch.context() as patched:
        killed_after(patched, target, name, times, before=before)
        with pytest.raises(Killed):
            a_run(tmp_path, **changes).run()
    run = a_run(tmp_path, **changes)
    result = run.run(resume=True)
    assert [report.status for report in result.reports] == ["trained"] * ROUNDS
    assert {round for round, _ in found} == set(range(1, ROUNDS + 1))
    assert len({round for round, _ in found}) == len(set(found))  # no round has two releases
    price = gaussian_epsilon(2.0 / column_norm(ROUNDS), 1e-5)
    for observer in ("outsider", "participant"):
        assert epsilon(Ledger.read(run.files.ledger_path), 1e-5, observer=observer).epsilon == pytest.approx(price)


def test_a_round_that_another_sum_was_opened_in_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = released(monkeypatch)
    with monkeypatch.context() as patched:
        killed_after(patched, ModelStore, "save", 3, before=True)  # after the start and one round
        with pytest.raises(Killed):
            a_run(tmp_path).run()
    monkeypatch.setenv("DRIFT", "0.001")
    reports = a_run(tmp_path).run(resume=True).reports
    assert [report.status for report in reports] == ["trained", "skipped", "trained", "trained", "trained"]
    assert any("opened before over other contributions" in caveat for caveat in reports[1].round_caveats)
    assert [round for round, _ in found] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("lost", ["the file", "its last line"])
def test_a_lost_file_of_noise_ends_the_run(tmp_path: Path, lost: str) -> None:
    steps = a_run(tmp_path).each_round()
    next(steps), next(steps)
    steps.close()
    path = tmp_path / "stream" / "noise.jsonl"
    if lost == "the file":
        path.unlink()
    else:
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(StateError, match="the opener's noise does not know of it"):
        a_run(tmp_path).run(resume=True)


def test_a_copied_folder_goes_on_with_the_same_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = a_run(tmp_path / "a").each_round()
    next(steps), next(steps)
    steps.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    found = released(monkeypatch)
    for folder in ("a", "b"):
        a_run(tmp_path / folder).run(resume=True)
    assert found[:3] == found[3:]


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"sum.scheme": "ckks"}, ConfigError, "the same opener in every round"),
        ({"cohort.sampling": "everyone", "cohort.size": None}, ConfigError, "set cohort.sampling = 'one-pass'"),
        ({"cohort.sampling": "fixed-size"}, ConfigError, "set cohort.sampling = 'one-pass'"),
        (
            {"cohort.sampling": "poisson", "cohort.probability": 0.5, "cohort.size": None},
            ConfigError,
            "set cohort.sampling = 'one-pass'",
        ),
        ({"privacy.placement": "distributed"}, ConfigError, "for placement 'distributed'"),
        ({"privacy.placement": "local"}, ConfigError, "for placement 'local'"),
        ({"privacy.placement": "mesh", "sum.scheme": "masked"}, ConfigError, "for placement 'mesh'"),
        ({"privacy.placement": "none", "privacy.noise_multiplier": None}, PrivacyError, "choose 'central'"),
        ({"privacy.clip_quantile": 0.5, "privacy.noise_multiplier": 0.2}, ConfigError, "leave privacy.clip_quantile"),
        ({"rounds": 6}, ConfigError, "5 rounds of cohort.size = 3 ask all 15 clients"),
        ({"cohort.size": None}, ConfigError, "needs cohort.size"),
    ],
)
def test_what_is_refused_before_anybody_is_asked(
    tmp_path: Path, changes: dict[str, Any], error: type[PrivflError], why: str
) -> None:
    with pytest.raises(error, match=why):
        a_run(tmp_path, **changes).run()
    assert not (tmp_path / "stream" / "noise.jsonl").exists()


def test_the_sampler_of_one_pass() -> None:
    def coins(count: int) -> Any:
        raise AssertionError

    sampler = OnePassSampler(4)
    cohorts = [in_round(sampler, r)[0].sample(10, coins) for r in (1, 2, 3)]
    assert cohorts == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    with pytest.raises(ConfigError, match="round 4 has nobody left"):
        in_round(sampler, 4)[0].sample(10, coins)
    for bad in (0, -1):
        with pytest.raises(ConfigError):
            OnePassSampler(bad)
