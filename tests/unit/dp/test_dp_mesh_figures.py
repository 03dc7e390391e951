"""The figures of mesh noise: who gets one, that it is Skellam noise of the declared variance, and what it states."""

import math
from typing import Any

import pytest

from privfl.dp import Everyone, Plan, Poisson, Slot, calibrate, what_if
from privfl.dp.ledger import Ledger
from privfl.dp.release import Release
from privfl.dp.unit import CLIENT_UNIT
from privfl.errors import ConfigError, StateError
from privfl.observers import Views

SLOTS = (Slot("update", 1000, 2.0**16, 1.0),)
MASKED: Views = {"outsider": "release", "participant": "release", "server": "sum"}
PLAIN: Views = {"outsider": "release", "participant": "release", "server": "vectors"}


def asked(**changes: Any) -> Any:
    settings = {
        "sampling": Everyone(), "noise_multiplier": 1.5, "rounds": 10, "delta": 1e-5, "placement": "mesh",
        "slots": SLOTS, "views": MASKED, "cross_checks": False,
    }  # fmt: skip
    return what_if(**(settings | changes))


def a_release(**changes: Any) -> Release:
    values: dict[str, Any] = {
        "round": 0, "placement": "mesh", "law": "skellam", "secure": True, "declared_stddev": 2048.0,
        "realized_stddev": 2100.0, "norm_bound": 1024.0, "l1_bound": 5000.0, "length": 50, "sampling": Everyone(),
        "views": MASKED, "participants": (1, 4), "spare": 1,
    }  # fmt: skip
    return Release(**(values | changes))


@pytest.mark.parametrize("observer", ["outsider", "server", "participant"])
def test_every_observer_gets_the_figure_of_shares_of_the_same_noise(observer: Any) -> None:
    mesh, shares = asked(observer=observer), asked(observer=observer, placement="distributed")
    assert mesh.epsilon == shares.epsilon
    central = asked(placement="central", slots=()).epsilon
    assert central <= mesh.epsilon < central * 1.001
    assert any("of up to 1 member," in text for text in mesh.caveats) == (observer != "outsider")


def test_with_none_spare_participants_have_no_figure_and_the_server_has() -> None:
    assert asked(observer="participant", spare=0).epsilon == math.inf
    assert math.isfinite(asked(observer="server", spare=0).epsilon)
    assert "spare is 0" in asked(observer="participant", spare=0).caveats[0]
    assert "3 members" in " ".join(asked(observer="server", spare=3).caveats)


def test_a_server_that_sees_vectors_has_no_figure() -> None:
    assert asked(observer="server", views=PLAIN).epsilon == math.inf


def test_sampling_amplifies_for_outsiders_only() -> None:
    sampled = {"sampling": Poisson(0.1)}
    assert asked(**sampled).epsilon < asked(observer="server", **sampled).epsilon
    assert asked(**sampled).epsilon == asked(placement="distributed", **sampled).epsilon


def test_calibration_and_what_is_missing() -> None:
    settings: dict[str, Any] = {"sampling": Everyone(), "rounds": 5, "placement": "mesh", "slots": SLOTS}
    plan = calibrate(epsilon=4.0, delta=1e-5, **settings)
    assert plan.epsilon(1e-5) <= 4.0
    assert plan.history().releases[0].spare == 1
    with pytest.raises(ConfigError, match="mesh noise is judged as integers"):
        Plan(**(settings | {"slots": ()}), noise_multiplier=1.0)
    with pytest.raises(ConfigError, match="spare"):
        Plan(**settings, noise_multiplier=1.0, spare=-1)
    with pytest.raises(ConfigError, match="no noise keeps epsilon finite"):
        calibrate(epsilon=4.0, delta=1e-5, **settings, observer="participant", views=MASKED, spare=0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"spare": None}, "with placement 'mesh'"),
        ({"spare": -1}, "at least 0"),
        ({"spare": True}, "at least 0"),
        ({"placement": "distributed"}, "with no other"),
        ({"law": "rounded_gaussian"}, "goes with the law 'skellam'"),
    ],
)
def test_releases_that_contradict_themselves(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        a_release(**changes)


def test_the_record_has_spare_only_where_it_means_something(tmp_path: Any) -> None:
    release = a_release()
    assert release.record()["spare"] == 1
    assert Release.read(release.record()) == release
    with pytest.raises(StateError, match="spare"):
        Release.read({key: value for key, value in release.record().items() if key != "spare"})
    shares = a_release(placement="distributed", spare=None)
    assert "spare" not in shares.record()
    with pytest.raises(StateError, match="spare"):
        Release.read(shares.record() | {"spare": None})
    assert not release.covers(a_release(spare=0))
    ledger = Ledger(CLIENT_UNIT, tmp_path / "ledger.jsonl")
    ledger.draw(0, release.sampling, 0.0)
    ledger.settle(ledger.reserve(release), a_release(realized_stddev=2200.0, participants=(1,)))
    assert Ledger.read(tmp_path / "ledger.jsonl").releases[0].spare == 1
