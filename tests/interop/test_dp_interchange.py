"""Ledgers as events of dp-accounting, and back: equal text, equal epsilon, and what is refused."""

import json

import dp_accounting
import dp_accounting.pld
import dp_accounting.rdp
import numpy as np
import pytest
from ledgers import MASKED

from privfl.dp import (
    Everyone,
    FixedSize,
    Ledger,
    Plan,
    Poisson,
    PrivacyUnit,
    Release,
    Slot,
    TruncatedPoisson,
    epsilon,
)
from privfl.dp.accounting.interchange import FIXED_SIZE, UNBOUNDED, event_text, export_events, import_events, read_event
from privfl.errors import ConfigError, UnsupportedRelease

REPLACE = PrivacyUnit("client", "replace_one")
SAMPLINGS = [Everyone(), Poisson(0.01), Poisson(0.3), TruncatedPoisson(0.1, 13, 100)]


def release(number, sampling, noise=1.0, **terms):
    values = {
        "round": number,
        "placement": "central",
        "law": "rounded_gaussian",
        "secure": True,
        "declared_stddev": noise * 300.0,
        "realized_stddev": noise * 400.0,
        "norm_bound": 300.0,
        "length": 3,
        "sampling": sampling,
        "views": MASKED,
        "participants": (0, 1),
    }
    return Release(**values | terms)


def kept(unit, samplings, noises, turn=0.0):
    ledger = Ledger(unit)
    for number, (sampling, noise) in enumerate(zip(samplings, noises, strict=True)):
        if unit.level == "client":
            ledger.draw(number, sampling, turn)
        ledger.reserve(release(number, sampling, noise))
    return ledger


def steps_of(ledger):
    return [(r.noise_multiplier, r.sampling) for r in ledger.releases for _ in range(r.count)]


@pytest.mark.parametrize("level", ["client", "example"])
def test_ledgers_survive_the_round_trip(level):
    rng = np.random.default_rng(0)
    for _ in range(20):
        count = int(rng.integers(1, 30))
        samplings = [SAMPLINGS[n] for n in np.sort(rng.integers(0, len(SAMPLINGS), count))]
        noises = np.round(rng.uniform(0.5, 4.0, count), 1 + int(rng.integers(0, 12)))
        ledger = kept(PrivacyUnit(level), samplings, [float(noise) for noise in noises])
        exported = export_events(ledger)
        assert read_event(exported.text) == exported.event
        again = import_events(exported.text, ledger.unit, turn=0.0 if level == "client" else None, secure=True)
        assert export_events(again).text == exported.text
        assert exported.warnings == ()
        assert steps_of(again) == steps_of(ledger)
    few = kept(PrivacyUnit(level), SAMPLINGS, [1.0, 2.0, 0.7, 3.0])
    again = import_events(export_events(few).text, few.unit, turn=0.0, secure=True)
    ours, theirs = (epsilon(part, 1e-5, cross_checks=False).epsilon for part in (few, again))
    assert ours == theirs


@pytest.mark.parametrize(("q", "z", "rounds"), [(0.01, 1.0, 1000), (0.2, 3.0, 50)])
def test_dp_accounting_gives_the_same_figure(q, z, rounds):
    history = Plan(sampling=Poisson(q), noise_multiplier=z, rounds=rounds).history()
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(read_event(export_events(history).text))
    assert accountant.get_epsilon(1e-5) == pytest.approx(epsilon(history, 1e-5).epsilon, rel=1e-3)


def test_fixed_size_sampling_has_its_warning():
    history = Plan(sampling=FixedSize(10, 100), noise_multiplier=4.0, rounds=10, unit=REPLACE).history()
    exported = export_events(history)
    assert exported.warnings == (FIXED_SIZE,)
    again = import_events(exported.text, REPLACE, turn=0.0, secure=True)
    assert export_events(again).text == exported.text
    ours = epsilon(again, 1e-5).epsilon
    assert ours == epsilon(history, 1e-5).epsilon
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    renyi = dp_accounting.rdp.RdpAccountant(neighboring_relation=relation)
    renyi.compose(exported.event)
    assert renyi.get_epsilon(1e-5) < 0.8 * ours  # the warning's reason
    with pytest.raises(dp_accounting.UnsupportedEventError):
        dp_accounting.pld.PLDAccountant(relation).compose(exported.event)


def test_what_an_event_does_not_state_is_a_warning():
    ledger = kept(PrivacyUnit(), [Poisson(0.1)] * 3, [2.0] * 3, turn=1e-9)
    (warning,) = export_events(ledger).warnings
    assert "3e-10 of delta" in warning
    ledger = kept(PrivacyUnit(), [Poisson(0.1)] * 3, [2.0] * 3, turn=None)
    exported = export_events(ledger)
    assert exported.warnings == (UNBOUNDED,)
    assert "Poisson" not in exported.text  # as privfl judges it
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(exported.event)
    assert accountant.get_epsilon(1e-5) == pytest.approx(epsilon(ledger, 1e-5).epsilon, rel=1e-4)


def test_two_openings_of_one_draw_are_one_sampled_event():
    ledger = Ledger(PrivacyUnit())
    ledger.draw(0, Poisson(0.1), 0.0)
    ledger.reserve(release(0, Poisson(0.1), 2.0))
    ledger.reserve(release(0, Poisson(0.1), 3.0, opening=1))
    exported = export_events(ledger)
    assert exported.text.count("PoissonSampled") == 1
    again = import_events(exported.text, PrivacyUnit(), turn=0.0, secure=True)
    assert export_events(again).text == exported.text
    assert epsilon(again, 1e-5).epsilon == epsilon(ledger, 1e-5).epsilon


def test_events_that_were_made_elsewhere():
    gaussian = dp_accounting.GaussianDpEvent(1.1)
    step = dp_accounting.PoissonSampledDpEvent(0.01, gaussian)
    event = dp_accounting.ComposedDpEvent(
        [
            dp_accounting.NoOpDpEvent(),
            dp_accounting.SelfComposedDpEvent(dp_accounting.ComposedDpEvent([step, gaussian]), 2),
            dp_accounting.PoissonSampledDpEvent(0.2, dp_accounting.SelfComposedDpEvent(gaussian, 3)),
        ]
    )
    text = event_text(event)
    assert read_event(text) == event
    ledger = import_events(text, PrivacyUnit(), turn=0.0)
    report = epsilon(ledger, 1e-5, assume_secure_noise=True)
    assert not report.secure  # nothing says that it was
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(dp_accounting.SelfComposedDpEvent(step, 2))
    accountant.compose(dp_accounting.SelfComposedDpEvent(gaussian, 2))
    together = dp_accounting.GaussianDpEvent(1.1 / 3**0.5)  # three looks at one cohort
    accountant.compose(dp_accounting.PoissonSampledDpEvent(0.2, together))
    assert report.epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    bare = import_events(event_text(dp_accounting.NonPrivateDpEvent()), PrivacyUnit(), turn=0.0)
    assert epsilon(bare, 1e-5).epsilon == float("inf")
    assert import_events(event_text(dp_accounting.NoOpDpEvent()), PrivacyUnit()).releases == ()
    steps = import_events(event_text(dp_accounting.SelfComposedDpEvent(step, 3000)), PrivacyUnit("example"))
    assert [line.count for line in steps.releases] == [3000]


def test_integer_noise_is_not_exported():
    slots = (Slot("update", 100, 2.0**14, 1.0),)
    run = Plan(sampling=Poisson(0.1), noise_multiplier=1.0, rounds=1, placement="distributed", slots=slots)
    with pytest.raises(UnsupportedRelease, match="skellam"):
        export_events(run.history())


NAMED = {"module_name": "dp_accounting.dp_event", "class_name": "GaussianDpEvent", "noise_multiplier": 1.0}


@pytest.mark.parametrize(
    ("record", "kind", "words"),
    [
        ("{", ConfigError, "no JSON"),
        (3, ConfigError, "module_name"),
        (NAMED | {"module_name": "os"}, ConfigError, "module_name"),
        (NAMED | {"class_name": "LaplaceDpEvent"}, UnsupportedRelease, "Laplace"),
        (NAMED | {"class_name": "__builtins__"}, UnsupportedRelease, "no release"),
        (NAMED | {"sensitivity": 2}, ConfigError, "fields"),
        (NAMED | {"noise_multiplier": "much"}, ConfigError, "number"),
        (NAMED | {"noise_multiplier": -1.0}, ConfigError, "declared_stddev"),
        (NAMED | {"class_name": "SelfComposedDpEvent", "noise_multiplier": None}, ConfigError, "fields"),
        (
            {"module_name": NAMED["module_name"], "class_name": "SelfComposedDpEvent", "event": NAMED, "count": 1.5},
            ConfigError,
            "count",
        ),
        (
            {"module_name": NAMED["module_name"], "class_name": "SelfComposedDpEvent", "event": NAMED, "count": 2**21},
            ConfigError,
            "count",
        ),
        (
            {"module_name": NAMED["module_name"], "class_name": "PoissonSampledDpEvent", "sampling_probability": 2,
             "event": NAMED},
            ConfigError,
            "probability",
        ),
    ],
)  # fmt: skip
def test_other_texts_are_refused(record, kind, words):
    text = record if isinstance(record, str) else json.dumps(record)
    with pytest.raises(kind, match=words):
        import_events(text, PrivacyUnit(), turn=0.0)
