"""From a configuration to parts: what fits together, and what is refused before anybody is asked."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.codec import Vector
from privfl.data import ClientExamples, Dataset, FederatedData
from privfl.dp import ElementClip, FlatClip
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.errors import ConfigError, PrivacyError, UnsupportedRelease
from privfl.experiment import Experiment, RoundReport
from privfl.experiment.build import build_executor, build_optimizer, build_sampler
from privfl.experiment.config import Cohort, Config, Server
from privfl.fl.client import ClientUpdate
from privfl.fl.metrics import MetricSums, measure_predictions
from privfl.fl.optimizers import FedAdagrad, FedAdam, FedYogi, ServerSGD
from privfl.fl.sampling import EveryoneSampler, FixedSizeSampler, PoissonSampler, TruncatedPoissonSampler

RNG = np.random.default_rng(4)
FEATURES = RNG.normal(2.0, 3.0, size=(80, 3)).astype(np.float32)
DATA = Dataset("points", "binary", FEATURES, (FEATURES[:, 0] > 2).astype(np.int64), classes=("a", "b"))
CENTRAL = {
    "privacy.placement": "central",
    "privacy.clip_norm": 1.0,
    "privacy.noise_multiplier": 2.0,
    "privacy.noise": "simulation",
}


def an_experiment(data: Any = DATA, /, **changes: Any) -> Experiment:
    return Experiment(data=data, overrides={"rounds": 1, "data.clients": 4, "client.steps": 2} | changes)


@pytest.mark.parametrize(
    ("settings", "sampler"),
    [
        ({}, EveryoneSampler()),
        ({"sampling": "poisson", "probability": 0.5}, PoissonSampler(0.5)),
        ({"sampling": "truncated-poisson", "probability": 0.5, "cap": 3}, TruncatedPoissonSampler(0.5, 3)),
        ({"sampling": "fixed-size", "size": 2}, FixedSizeSampler(2)),
    ],
)
def test_samplers(settings: dict[str, Any], sampler: object) -> None:
    assert build_sampler(Cohort(**settings)) == sampler


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"size": 3}, "'everyone' does not take cohort.size"),
        ({"sampling": "poisson"}, "'poisson' needs cohort.probability"),
        ({"sampling": "poisson", "probability": 0.5, "cap": 3}, "does not take cohort.cap"),
        ({"sampling": "fixed-size", "probability": 0.5, "size": 3}, "does not take cohort.probability"),
        ({"sampling": "truncated-poisson", "probability": 0.5}, "needs cohort.cap"),
    ],
)
def test_samplers_take_exactly_what_they_need(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build_sampler(Cohort(**settings))


@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        ({}, ServerSGD()),
        ({"eta": 0.5, "momentum": 0.9}, ServerSGD(0.5, 0.9)),
        ({"optimizer": "fedadam", "beta_2": 0.9}, FedAdam(beta_2=0.9)),
        ({"optimizer": "fedyogi", "eta": 0.1, "tau": 1e-8}, FedYogi(eta=0.1, tau=1e-8)),
        ({"optimizer": "fedadagrad", "beta_1": 0.9}, FedAdagrad(beta_1=0.9)),
    ],
)
def test_optimizers(settings: dict[str, Any], optimizer: object) -> None:
    assert build_optimizer(Server(**settings)) == optimizer


@pytest.mark.parametrize(
    "settings",
    [{"beta_1": 0.9}, {"optimizer": "fedadagrad", "beta_2": 0.9}, {"optimizer": "fedadam", "momentum": 0.9}],
)
def test_optimizers_take_no_others_parameters(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="does not take"):
        build_optimizer(Server(**settings))


def test_executors() -> None:
    assert isinstance(build_executor(Config()), LoopExecutor)
    with build_executor(Config().with_overrides({"engine.workers": 2})) as pool:  # type: ignore[attr-defined]
        assert isinstance(pool, ProcessExecutor)
        assert pool.workers == 2
    with pytest.raises(ConfigError, match=r"client.device = 'cuda'; set engine.workers = 0"):
        build_executor(Config().with_overrides({"engine.workers": 2, "client.device": "cuda"}))


def test_the_scale_is_the_finest_at_which_the_cohort_and_its_noise_fit() -> None:
    plain, noisy = an_experiment(), an_experiment(**CENTRAL)
    for experiment, room in ((plain, 0.0), (noisy, 20 * 2.0)):
        update = experiment.encoding
        half = update.codec.ring.half
        assert 4 * update.entry_bound + room * update.codec.scale < half
        assert half / 4 < 4 * max(update.codec.bound(update.max_entry), update.entry_bound) + room * update.codec.scale
    assert isinstance(plain.encoding.clip, ElementClip)
    assert noisy.encoding.clip == FlatClip(1.0)
    assert (plain.encoding.weighting, noisy.encoding.weighting) == ("examples", "uniform")
    assert plain.encoding.metrics
    assert not noisy.encoding.metrics


def test_a_ring_without_precision_is_refused_with_the_bits_that_would_do() -> None:
    crowd = CENTRAL | {"privacy.noise_multiplier": 100.0}
    with pytest.raises(ConfigError, match=r"sum\.bits = 8 leaves no precision.* would do"):
        an_experiment(**crowd, **{"sum.bits": 8})


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"privacy.epsilon": 3.0}, PrivacyError, "placement is 'none'"),
        ({"privacy.noise_multiplier": 3.0}, PrivacyError, "placement is 'none'"),
        (CENTRAL | {"server.weighting": "examples"}, PrivacyError, "sensitivity depend on the data"),
        (CENTRAL | {"data.standardize": "exact"}, ConfigError, "without noise"),
        (CENTRAL | {"privacy.clip_norm": None}, ConfigError, "clip_norm is missing"),
        (CENTRAL | {"privacy.noise_multiplier": None}, ConfigError, "noise_multiplier is missing"),
        (CENTRAL | {"privacy.noise_multiplier": 0.0}, ConfigError, "noise_multiplier"),
        (CENTRAL | {"privacy.epsilon": -1.0}, ConfigError, "epsilon"),
        (CENTRAL | {"privacy.delta": 0.0}, ConfigError, "delta"),
        ({"cohort.sampling": "fixed-size", "cohort.size": 9}, ConfigError, "population of 4"),
        ({"model.kind": "softmax"}, ConfigError, "does not fit a binary task"),
        ({"model.kind": "mlp", "model.init": "zeros"}, ConfigError, "learn the same"),
        ({"client.momentum": 0.9}, ConfigError, "torch models"),
        ({"client.device": "cuda"}, ConfigError, "torch models"),
        ({"data.standardize": "public"}, ConfigError, "points"),
    ],
)
def test_what_cannot_work_is_refused_at_once(changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        an_experiment(**changes)


def test_a_release_that_cannot_be_judged_is_refused_before_a_client_is_asked() -> None:
    experiment = an_experiment(**CENTRAL, **{"cohort.sampling": "fixed-size", "cohort.size": 2})
    with pytest.raises(UnsupportedRelease, match="replace_one"):
        list(experiment.run())
    assert not experiment.folder.exists()


def test_text_needs_a_train_of_its_own() -> None:
    text = Dataset(
        "letters", "text", np.zeros((8, 4), np.uint8), np.zeros((8, 4), np.uint8), classes=("a", "b"), test=np.arange(2)
    )
    with pytest.raises(ConfigError, match="is text"):
        an_experiment(text, **{"data.clients": 2})


def test_the_first_model_is_zero_or_drawn_from_the_seed() -> None:
    assert not an_experiment().model.any()
    first, same, other = (an_experiment(**{"model.init": "uniform", "seed": s}).model for s in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert np.abs(first).max() <= 1 / math.sqrt(3)


def test_where_the_test_rows_are() -> None:
    local, public = an_experiment().federation, an_experiment(**CENTRAL).federation
    assert not len(local.test)
    assert all(len(client.test) for client in local.clients)
    assert len(public.test) == 16
    assert not any(len(client.test) for client in public.clients)
    published = dataclasses.replace(DATA, test=np.arange(10))
    assert len(an_experiment(published).federation.test) == 10
    assert not len(an_experiment(published, **{"data.test": "local"}).federation.test)


def test_standardization() -> None:
    for how in ("local", "exact"):
        experiment = an_experiment(**{"data.standardize": how})
        rows = [experiment.federation.train(client)[0] for client in range(4)]
        pooled = np.concatenate(rows)
        np.testing.assert_allclose(pooled.mean(axis=0), 0.0, atol=1e-5)
        np.testing.assert_allclose(pooled.std(axis=0), 1.0, atol=1e-5 if how == "exact" else 0.05)
        assert (np.abs(rows[0].mean(axis=0)) < 1e-5).all() == (how == "local")


def test_a_federation_is_taken_as_it_is() -> None:
    clients = (ClientExamples("x", np.arange(30)), ClientExamples("y", np.arange(30, 60)))
    federation = FederatedData(DATA, clients, np.arange(60, 80))
    assert an_experiment(federation).federation is federation


def test_epsilon_is_none_without_noise_and_zero_before_the_first_round() -> None:
    assert an_experiment().epsilon() is None
    experiment = an_experiment(**CENTRAL)
    before = experiment.epsilon()
    assert before is not None
    assert before.epsilon == 0
    assert not experiment.folder.exists()
    (report,) = experiment.run()
    after = experiment.epsilon()
    assert after is not None
    assert after.epsilon == pytest.approx(report.epsilon)
    # One release of a Gaussian with multiplier 2, everybody taking part: the closed form of Balle and Wang 2018.
    upper, lower = (0.5 * math.erfc(-(s * 0.25 - 2 * after.epsilon) / math.sqrt(2)) for s in (1, -1))
    assert upper - math.exp(after.epsilon) * lower == pytest.approx(1e-5, rel=1e-6)
    assert "if the noise were secure" in after.sentence
    tighter = experiment.epsilon(delta=1e-3)
    assert tighter is not None
    assert tighter.epsilon < after.epsilon


def towards_one(model: Vector, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    return ClientUpdate(1.0 - model, 10)


def test_a_model_of_your_own() -> None:
    def measure(model: Vector, client: int) -> MetricSums:
        return measure_predictions(model, np.ones(2))

    own: dict[str, Any] = {"data": DATA, "train": towards_one, "initial": np.zeros(2), "rounds": 1}
    blind = Experiment(**own)
    (report,) = blind.run()
    assert report.evaluation == {}
    np.testing.assert_allclose(blind.model, 1.0, atol=1e-6)
    (report,) = Experiment(**own, measure=measure).run()
    assert report.evaluation["mse"] == pytest.approx(0.0, abs=1e-6)


def test_a_private_run_measures_no_client_and_only_what_is_public() -> None:
    asked: list[int] = []

    def at_client(model: Vector, client: int) -> MetricSums:
        asked.append(client)
        return measure_predictions(model, np.ones(2))

    def in_public(model: Vector) -> MetricSums:
        return measure_predictions(model, np.zeros(2))

    own: dict[str, Any] = {"data": DATA, "train": towards_one, "initial": np.zeros(2), "rounds": 1}
    (report,) = Experiment(**own, measure=at_client, overrides=CENTRAL).run()
    assert report.evaluation == {}
    (report,) = Experiment(**own, measure=at_client, public_measure=in_public, overrides=CENTRAL).run()
    assert set(report.evaluation) == {"mse", "mae", "r2"}
    assert asked == []


@pytest.mark.parametrize(
    "parts",
    [
        {"train": towards_one},
        {"initial": np.zeros(2)},
        {"clients": 3},
        {"clients": 3, "train": towards_one, "initial": np.zeros(2)},
        {"credentials": {}},
    ],
)
def test_parts_of_a_model_come_together(parts: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Experiment(data=DATA, **parts)


def test_a_diverging_regression_is_reported_and_not_fatal() -> None:
    targets = (FEATURES @ [1.0, 2.0, 3.0]).astype(np.float32)
    data = Dataset("line", "regression", FEATURES, targets)
    wild = {"client.learning_rate": 5.0, "client.steps": 20, "rounds": 3, "sum.clip_entries": 1e6}
    reports = list(an_experiment(data, **wild).run())
    assert [r.status for r in reports] == ["trained"] * 3
    assert all(math.isfinite(r.evaluation["mse"]) for r in reports)


def test_a_report_survives_json() -> None:
    (report,) = an_experiment(**{"cohort.dropout": 0.3, "seed": 5}).run()
    assert RoundReport.read(report.record()) == report


def test_a_run_is_told_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('name = "filed"\nrounds = 2\n[data]\nclients = 3\n')
    experiment = Experiment.from_file(path, data=DATA, runs=tmp_path, seed=9)
    assert (experiment.config.name, experiment.config.seed, len(experiment.federation.clients)) == ("filed", 9, 3)
    assert experiment.folder == tmp_path / "filed"


@pytest.mark.parametrize("scheme", ["masked", "ckks"])
def test_metrics_travel_through_the_secure_sum(scheme: str) -> None:
    def measured(name: str) -> dict[str, float]:
        experiment = Experiment(data=DATA, overrides={"sum.scheme": name, "data.clients": 4, "rounds": 1})
        return experiment.evaluate(np.array([1.0, 0.5, -0.5, 0.1]))

    assert measured(scheme) == measured("plain")
