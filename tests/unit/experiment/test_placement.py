"""The choice behind `privacy.placement = "private"`, and the numbers of mesh noise that are left out."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.crypto import MemoryDirectory
from privfl.dp import Everyone, Ledger, Poisson
from privfl.errors import ConfigError
from privfl.experiment import Experiment
from privfl.experiment.config import Config
from privfl.experiment.encoding import build_mechanism
from privfl.experiment.placement import placement_of, with_placement
from privfl.fl.client import ClientUpdate
from privfl.he import CkksSum
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum

MASKED, CKKS, PLAIN = MaskedSum(MemoryDirectory({})), CkksSum(MemoryDirectory({})), PlainSum()


def chosen(scheme: Any, clients: int = 5, sampling: Any = None, **privacy: Any) -> Any:
    settings = {"placement": "private", "clip_norm": 1.0, "noise_multiplier": 1.0} | privacy
    config = Config().with_overrides({f"privacy.{key}": value for key, value in settings.items()})
    return with_placement(config, scheme, sampling or Everyone(), clients).privacy


def test_the_least_noise_that_protects_against_the_server() -> None:
    assert chosen(MASKED).placement == "mesh"
    assert chosen(CKKS).placement == "distributed"
    with pytest.raises(ConfigError, match=r"plain-sum/1 sees all.*'masked'"):
        chosen(PLAIN)
    assert chosen(PLAIN, placement="central").placement == "central"


def test_reports_name_the_placement_that_was_chosen() -> None:
    for scheme, placement in (("masked", "mesh"), ("ckks", "distributed")):
        config = Config().with_overrides({"privacy.placement": "private", "sum.scheme": scheme})
        assert placement_of(config) == placement
    assert placement_of(Config()) == "none"


def test_all_of_few_are_members_and_the_planner_chooses_of_many() -> None:
    few = chosen(MASKED, 32)
    assert (few.members, few.min_members_to_open) == (None, None)
    many = chosen(MASKED, 80, spare=3)
    assert 3 < many.min_members_to_open <= many.members < 80
    sampled = chosen(MASKED, 80, sampling=Poisson(0.5), spare=3)
    assert (sampled.members, sampled.min_members_to_open) == (None, None)
    given = chosen(MASKED, 10, members=6)
    assert (given.members, given.min_members_to_open) == (6, 6)  # nobody drops out in this configuration
    assert chosen(MASKED, 10, members=6, min_members_to_open=4).min_members_to_open == 4
    assert chosen(MASKED, 10, members=10).min_members_to_open is None


@pytest.mark.parametrize(
    ("privacy", "reason"),
    [
        ({"placement": "central", "members": 3}, "privacy.members = 3 is about mesh noise"),
        ({"placement": "distributed", "min_members_to_open": 3}, "privacy.min_members_to_open = 3 is about mesh noise"),
        ({"members": 9}, "above the 5 clients"),
    ],
)
def test_numbers_of_mesh_noise_elsewhere(privacy: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        chosen(MASKED, **privacy)


def test_the_choice_is_made_before_a_mechanism_is_built() -> None:
    config = Config().with_overrides({"privacy.placement": "private", "privacy.noise_multiplier": 1.0})
    with pytest.raises(ConfigError, match="assemble it"):
        build_mechanism(config)


def run_of(tmp_path: Path, entries: int = 4, **overrides: Any) -> Experiment:
    settings = {
        "sum.scheme": "masked", "privacy.placement": "private", "privacy.clip_norm": 1.0,
        "privacy.noise_multiplier": 1.0, "evaluate_every": 0, "data.clients": 5,
    }  # fmt: skip
    return Experiment(
        clients=5,
        train=lambda model, client, round, rng: ClientUpdate(np.zeros(entries), 1),
        initial=np.zeros(entries),
        rounds=1,
        runs=tmp_path,
        overrides=settings | overrides,
    )


def test_a_run_of_five_pays_a_quarter_more_than_central_noise(tmp_path: Path) -> None:
    run = run_of(tmp_path, 20_000)
    list(run.run())
    ratio = float(run.model.var()) * 25
    assert 1.25 * 0.95 < ratio < 1.28 * 1.03  # the standard error of the ratio is 1 %
    (release,) = Ledger.read(run.folder / "ledger.jsonl").releases
    assert (release.placement, release.spare) == ("mesh", 1)
    for observer in ("server", "participant", "outsider"):
        report = run.epsilon(observer)
        assert report is not None
        assert math.isfinite(report.epsilon)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"privacy.min_members_to_open": 2}, "is below the 4 members"),
        ({"privacy.spare": 4}, "opens at least 5"),
        ({"sum.scheme": "ckks", "privacy.placement": "mesh"}, "ckks-sum/1 gives them none"),
        ({"sum.scheme": "plain", "privacy.placement": "mesh"}, "plain-sum/1 gives them none"),
    ],
)
def test_a_run_that_cannot_keep_the_promise_is_refused(tmp_path: Path, overrides: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        list(run_of(tmp_path, **overrides).run())


def test_simulated_mesh_noise_repeats_to_the_last_bit(tmp_path: Path) -> None:
    models = []
    for name in ("a", "b"):
        run = run_of(tmp_path / name, **{"privacy.noise": "simulation"})
        list(run.run())
        models.append(run.model)
    np.testing.assert_array_equal(*models)
    assert np.abs(models[0]).max() > 0
