"""Adaptive clipping, noised blocks and the rotation through real runs: rounds, sums, ledger, resuming."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.data import ClientExamples, Dataset, FederatedData
from privfl.dp import Ledger
from privfl.dp.slots import norm_bound
from privfl.errors import ConfigError, PrivacyError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.fl.report import RoundReport

CLIENTS, WIDTH = 60, 20
ROWS = FederatedData(
    Dataset("points", "regression", np.zeros((CLIENTS, 1), np.float32), np.zeros(CLIENTS, np.float32)),
    tuple(ClientExamples(f"client {i}", np.array([i])) for i in range(CLIENTS)),
)


def of_norm_one(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    update = rng.normal(size=WIDTH)
    return ClientUpdate(update / np.linalg.norm(update), 1, {"loss": 0.75})


def an_experiment(runs: Path, clients: int = CLIENTS, **settings: Any) -> Experiment:
    few = FederatedData(ROWS.dataset, ROWS.clients[:clients])
    common = {
        "name": "run",
        "rounds": 60,
        "sum.bits": 40,
        "privacy.placement": "central",
        "privacy.noise_multiplier": 1.0,
        "privacy.clip_norm": 1.0,
        "privacy.clip_quantile": 0.5,
        "privacy.noise": "simulation",
    }
    return Experiment(data=few, train=of_norm_one, initial=np.zeros(WIDTH), runs=runs, overrides=common | settings)


@pytest.mark.parametrize("scheme", ["plain", pytest.param("masked", marks=pytest.mark.slow)])
@pytest.mark.parametrize("start", [0.1, 10.0])
def test_from_norms_of_one_the_clip_finds_them_within_60_rounds(tmp_path: Path, scheme: str, start: float) -> None:
    settings = {"sum.scheme": scheme, "privacy.clip_norm": start, "privacy.noise": "secure"}
    # A masked sum costs what the square of the clients costs: a few tell the quantile well enough.
    experiment = an_experiment(tmp_path, clients=60 if scheme == "plain" else 12, **settings)
    reports = list(experiment.run())
    norms = [report.clip_norm for report in reports]
    assert norms[0] == start
    latest = experiment.store.latest()
    assert latest is not None
    assert 0.8 <= (latest.state.clip_norm or 0.0) <= 1.25
    assert all(0.75 <= norm <= 1.35 for norm in norms[50:] if norm is not None)
    # One noise over the vector, the same integers in every round, and so one price: 1/z^2 = sum 1/z_b^2.
    releases = Ledger.read(experiment.folder / "ledger.jsonl").releases
    assert len(releases) == 60
    ((noise, bound),) = {(r.declared_stddev, r.norm_bound) for r in releases}
    assert noise == bound == pytest.approx(norm_bound(experiment.encoding.slots), rel=1e-12)
    units, half = (slot.norm_bound for slot in experiment.encoding.slots)
    assert norm_bound(experiment.encoding.slots) == pytest.approx(np.hypot(units, half))
    spent = experiment.epsilon()
    assert spent is not None
    assert spent.secure


def test_a_resumed_run_goes_on_with_the_clip_to_the_last_bit(tmp_path: Path) -> None:
    whole = [r.model for r in an_experiment(tmp_path / "a", rounds=6).run()]
    list(an_experiment(tmp_path / "b", rounds=3).run())
    rest = list(an_experiment(tmp_path / "b", rounds=6).each_round(resume=True))
    assert [r.model for r in rest] == whole[3:]
    assert rest[0].clip_norm != 1.0


def test_an_optimizer_with_moments_keeps_the_clip_beside_them(tmp_path: Path) -> None:
    settings = {"server.optimizer": "fedadam", "rounds": 4}
    experiment = an_experiment(tmp_path, **settings)
    whole = [r.clip_norm for r in experiment.run()]
    latest = experiment.store.latest()
    assert latest is not None
    assert set(latest.state.moments) == {"m", "v"}
    assert latest.state.clip_norm is not None
    assert len(set(whole)) == 4


ALL = {"privacy.loss_bound": 2.0, "sum.rotation": True, "rounds": 3, "privacy.noise_multiplier": 0.5}


@pytest.mark.parametrize("blocks", [{}, ALL])
def test_three_sums_agree_to_the_last_bit(tmp_path: Path, blocks: dict[str, Any]) -> None:
    found = set()
    for scheme in ("plain", "masked", "ckks"):
        settings = {"sum.scheme": scheme, "sum.bits": 36, "rounds": 2} | blocks
        experiment = an_experiment(tmp_path, clients=12, name=scheme, **settings)
        reports = list(experiment.run())
        spent = experiment.epsilon()
        assert spent is not None
        found.add((reports[-1].model, reports[-1].clip_norm, spent.epsilon))
    assert len(found) == 1


def test_workers_do_not_change_the_model(tmp_path: Path) -> None:
    models = {
        list(an_experiment(tmp_path, name=f"w{n}", **{"engine.workers": n}, **ALL).run())[-1].model for n in (0, 2)
    }
    assert len(models) == 1


def test_the_loss_is_a_noised_block_with_a_price(tmp_path: Path) -> None:
    experiment = an_experiment(tmp_path, rounds=12, **{"privacy.loss_bound": 2.0, "privacy.clip_quantile": None})
    losses = [report.metrics["loss"] for report in experiment.run()]
    assert len(set(losses)) == 12
    assert np.mean(losses) == pytest.approx(0.75, abs=3 * 0.2 / 12**0.5)  # a deviation of 1/20 of the range [-2, 2]
    assert np.std(losses) == pytest.approx(0.2, rel=0.7)
    names = [slot.name for slot in experiment.encoding.slots]
    assert names == ["update", "loss"]
    (worst, *_) = Ledger.read(experiment.folder / "ledger.jsonl").releases
    assert worst.norm_bound > experiment.encoding.slots[0].norm_bound


def test_without_a_bound_no_metric_leaves_a_private_run(tmp_path: Path) -> None:
    (report,) = an_experiment(tmp_path, rounds=1).run()
    assert report.metrics == {}
    assert report.evaluation == {}


def test_a_report_tells_where_the_clip_stood(tmp_path: Path) -> None:
    experiment = an_experiment(tmp_path, rounds=2)
    reports = list(experiment.run())
    lines = (experiment.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["clip_norm"] for line in lines] == [r.clip_norm for r in reports]
    assert [RoundReport.read(json.loads(line)) for line in lines] == reports


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"privacy.clip": "layers"}, ConfigError, "whole update"),
        ({"privacy.placement": "none", "privacy.noise_multiplier": None}, ConfigError, "under the noise"),
        ({"privacy.clip_quantile": 1.5}, ConfigError, "quantile"),
        ({"privacy.noise_multiplier": 50.0}, ConfigError, "allow a stddev"),
        ({"privacy.loss_bound": -1.0}, ConfigError, "greater than 0"),
        ({"server.weighting": "examples"}, PrivacyError, "sensitivity"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, settings: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        an_experiment(tmp_path, **settings)
