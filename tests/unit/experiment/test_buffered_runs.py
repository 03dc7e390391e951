"""Asynchronous rounds as settings: stored, resumed, priced, swept, shown, and refused where nothing prices them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from privfl.cli.app import run
from privfl.dp import PrivacyUnit, epsilon
from privfl.errors import BudgetExceeded, ConfigError, PrivacyError
from privfl.experiment import Buffer, Data, Experiment, RunFolder, load_config
from privfl.experiment.audit.subject import Subject
from privfl.experiment.comparison import Comparison
from privfl.experiment.config import to_toml
from privfl.experiment.sites import federated
from privfl.experiment.sweep import Sweep, run_sweep
from privfl.fl.arrivals import SeededTimes
from privfl.fl.sampling import EveryoneSampler

BUFFER = Buffer(size=3, concurrency=4, stragglers=0.3, slowdown=5.0, availability=0.8)
NOISE: dict[str, Any] = {
    "privacy.placement": "central",
    "privacy.clip_norm": 1.0,
    "privacy.noise_multiplier": 2.0,
    "privacy.adjacency": "zero_out",
}
INSIDE = NOISE | {"privacy.placement": "distributed", "sum.scheme": "masked"}


def an_experiment(
    runs: Path | None = None, *, buffer: Buffer | None = BUFFER, objects: dict[str, Any] | None = None, **settings: Any
) -> Experiment:
    common = {
        "data.clients": 9,
        "data.standardize": "public",
        "client.steps": 3,
        "client.batch_size": 8,
        "rounds": 5,
    }
    overrides = common | {key.replace("__", "."): value for key, value in settings.items()}
    return Experiment(
        data=Data("breast_cancer", test="public"), buffer=buffer, runs=runs, overrides=overrides, **objects or {}
    )


def facts(experiment: Experiment) -> list[tuple[Any, ...]]:
    return [
        (r.model, r.status, r.dropouts, r.ages, r.virtual_time, tuple(r.evaluation.items()), r.epsilon)
        for r in experiment.reports
    ]


def test_the_model_is_equal_over_sums() -> None:
    bare = an_experiment(rounds=3).run()
    assert [report.cohort for report in bare] == [3] * 3
    assert max(age for report in bare for age in report.ages) > 0
    times = [report.virtual_time or 0.0 for report in bare]
    assert times == sorted(times)
    assert times[0] > 0
    for settings in ({"sum.scheme": "masked"}, {"sum.scheme": "ckks"}):
        assert an_experiment(rounds=3, **settings).run().model.tobytes() == bare.model.tobytes()
    synchronous = an_experiment(rounds=1, buffer=None).run()
    assert [(report.cohort, report.virtual_time, report.ages) for report in synchronous] == [(9, None, ())]


@pytest.mark.parametrize(
    "settings",
    [
        {"keep": "last:1", "cohort.dropout": 0.2, "server.optimizer": "fedadam"},
        {"sum.scheme": "masked", "cohort.too_few": "retry", "cohort.dropout": 0.1},
        NOISE | {"privacy.noise": "simulation", "privacy.clip_quantile": 0.5, "privacy.noise_multiplier": 0.2},
    ],
    ids=["thinned", "masked", "noise"],
)
def test_a_run_that_stops_after_each_round_goes_on(tmp_path: Path, settings: dict[str, Any]) -> None:
    whole = an_experiment(tmp_path / "whole", **settings)
    whole.run()
    for _ in range(5):
        experiment = an_experiment(tmp_path / "parts", **settings)
        next(experiment.each_round(resume=True))
    assert facts(experiment) == facts(whole)
    stored = RunFolder(experiment.folder)
    assert stored.config == experiment.config
    assert [report.ages for report in stored.reports()] == [report.ages for report in whole.reports]


@pytest.mark.parametrize("settings", [NOISE, INSIDE, INSIDE | {"privacy.adjacency": "replace_one"}])
def test_noise_costs_as_much_as_as_many_rounds_of_everyone(settings: dict[str, Any]) -> None:
    experiment, everyone = an_experiment(**settings), an_experiment(buffer=None, **settings)
    planned = experiment.parts.planned_epsilon()
    assert planned == pytest.approx(everyone.parts.planned_epsilon(), rel=1e-9)
    result = experiment.run()
    assert result.epsilon is not None
    assert result.epsilon.epsilon == pytest.approx(planned, rel=1e-9)
    ledger = experiment.files.ledger
    assert {len(release.participants or ()) for release in ledger.releases} == {3}
    assert epsilon(ledger, experiment.delta).epsilon == result.epsilon.epsilon


def test_a_budget_is_kept_and_noise_is_found_for_an_epsilon() -> None:
    found = an_experiment(**NOISE | {"privacy.noise_multiplier": None, "privacy.epsilon": 4.0})
    everyone = an_experiment(buffer=None, **NOISE | {"privacy.noise_multiplier": None, "privacy.epsilon": 4.0})
    assert found.config.privacy.noise_multiplier == everyone.config.privacy.noise_multiplier
    assert 3.99 < found.parts.planned_epsilon() <= 4.0
    spending = an_experiment(**NOISE | {"privacy.epsilon": 4.0})
    with pytest.raises(BudgetExceeded):
        spending.run()
    assert 0 < len(spending.reports) < 5
    assert len(spending.files.ledger.releases) == len(spending.reports)


def test_early_stopping_and_the_best_model_go_by_public_examples() -> None:
    experiment = an_experiment(
        **NOISE, **{"server.metric": "accuracy", "server.choose": "best", "server.patience": 1, "rounds": 30}
    )
    result = experiment.run()
    assert len(result.reports) < 30
    best = max(report.evaluation["accuracy"] for report in result)
    assert experiment.evaluate(result.selected_model)["accuracy"] == best


class Devices:
    """Times that were measured somewhere: odd clients take twice as long."""

    def seconds(self, client: int, job: int) -> float:
        return 1.0 + client % 2 + job / 1000

    def available(self, client: int, time: float) -> bool:
        return True


def test_times_of_ones_own_take_the_place_of_seeded_ones() -> None:
    objects = {"times": Devices()}
    experiment = an_experiment(buffer=Buffer(size=3, concurrency=4), objects=objects)
    assert [round(report.virtual_time or 0.0) for report in experiment.run()][:2] == [2, 3]
    assert experiment.files.identity.parts["times"]["name"].endswith("Devices")
    with pytest.raises(ConfigError, match=r"buffer.stragglers and the object `times` say the same"):
        an_experiment(objects=objects)
    with pytest.raises(PrivacyError, match="`times` of your own may follow from the clients' data"):
        an_experiment(buffer=Buffer(size=3), objects=objects, **NOISE)
    seeded = SeededTimes(0, stragglers=0.3, slowdown=5.0, availability=0.8)
    same = an_experiment(buffer=Buffer(size=3, concurrency=4), objects={"times": seeded})
    assert same.run().model.tobytes() == an_experiment().run().model.tobytes()


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"buffer.size": 0}, ConfigError, "buffer.size must be at least 1"),
        ({"buffer.size": 6}, ConfigError, "buffer.size = 6 and buffer.concurrency = 4 need 10 clients"),
        ({"buffer.size": None}, ConfigError, "buffer.concurrency is about asynchronous rounds: set buffer.size"),
        ({"cohort.sampling": "fixed-size", "cohort.size": 2}, ConfigError, "cohort.sampling = 'fixed-size' samples"),
        ({"client.algorithm": "scaffold"}, ConfigError, "keep no states of clients"),
        ({"server.weighting": "examples"}, ConfigError, "does not fit asynchronous rounds"),
        (NOISE | {"privacy.adjacency": "add_remove"}, PrivacyError, "Set privacy.adjacency = 'zero_out'"),
        (NOISE | {"privacy.correlation": "toeplitz"}, ConfigError, "a client may arrive in several"),
        (
            {
                "privacy.unit": "example",
                "privacy.placement": "central",
                "privacy.clip_norm": 1.0,
                "privacy.noise_multiplier": 1.0,
                "privacy.sampling_probability": 0.1,
                "privacy.denominator": 50.0,
                "client.steps": None,
                "client.batch_size": None,
            },
            ConfigError,
            "set privacy.unit = 'client'",
        ),
        ({"sum.scheme": "masked", "buffer.size": 1}, ConfigError, "cohort of 1|1 client|one client|at least"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        an_experiment(**settings).run()


def test_objects_and_parties_that_know_no_buffers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`sampler` samples cohorts, and buffer.size lets arrivals make them"):
        an_experiment(objects={"sampler": EveryoneSampler()})
    with pytest.raises(ConfigError, match="`times` is about asynchronous rounds"):
        an_experiment(buffer=None, objects={"times": Devices()})
    with pytest.raises(ConfigError, match="rounds over a network are synchronous"):
        federated(an_experiment().parts, tuple(range(9)), ())
    with pytest.raises(ConfigError, match="audits and attacks follow clients through synchronous rounds"):
        Subject.of(an_experiment(**NOISE).parts, rounds=1)


def test_a_file_is_run_reported_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = an_experiment(**INSIDE, name="late").config
    Path("late.toml").write_text(to_toml(config))
    assert load_config("late.toml") == config
    assert run(["run", "late.toml", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rounds"] == 5
    folder = RunFolder(Path("runs/late"))
    assert folder.config.buffer == BUFFER
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["virtual_time"] for line in lines] == [r.virtual_time for r in folder.reports()]
    assert run(["runs", "list", "--json"]) == 0
    assert "late" in capsys.readouterr().out
    assert run(["report", "runs/late"]) == 0
    page = next(Path("runs/late").glob("*.html")).read_text()
    assert "asynchronous: 3 arrivals fill the buffer of a round" in page
    assert "virtual seconds" in page
    assert run(["epsilon", "--ledger", "runs/late/ledger.jsonl", "--delta", "1e-5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_sweep_goes_over_sizes_and_a_comparison_over_noise(tmp_path: Path) -> None:
    base = an_experiment(rounds=2).config
    steps = list(run_sweep(Sweep(base, {"buffer.size": (1, 3)}, 1), tmp_path, workers=1))
    assert [step.error for step in steps] == ["", ""]
    sizes = {RunFolder(path).config.buffer.size: RunFolder(path).reports()[0].cohort for path in tmp_path.iterdir()}
    assert sizes == {1: 1, 3: 3}
    comparison = Comparison.of(base, epsilons=(4.0,), seeds=1, sums=("masked",))
    for arm in comparison.arms():
        if arm.kind not in ("pooled", "local"):
            parts = Experiment(comparison.config(arm, 0)).parts
            assert parts.max_cohort == 3
            assert not parts.private or parts.unit == PrivacyUnit("client", "zero_out")
            assert arm.target is None or parts.planned_epsilon() <= arm.target * 1.001 or arm.kind != "central"
