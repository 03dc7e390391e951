"""What a run without noise does to its clients' numbers is right, counted in a caveat, or refused; never silent."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from single_rounds import THREE, a_federation, one_round, returning, said

from privfl.errors import ConfigError, PrivflError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.fl.range import TOLERANCE, WIDE_BITS

# --- updates that are not finite ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("scheme", ["plain", "masked"])
def test_a_client_that_is_not_finite_is_out_of_numerator_and_denominator(
    weighting: str, bad: float, scheme: str
) -> None:
    train = returning([[3.0, 3.0], [bad, 3.0], [3.0, 3.0]], [100, 100, 100])
    model, report = one_round(train, 2, **{"server.weighting": weighting, "sum.scheme": scheme})
    np.testing.assert_allclose(model, 3.0, rtol=1e-6)
    assert (report.status, report.rejected_updates, report.survivors) == ("trained", 1, 3)
    assert said(report, "1 update was not finite (NaN or infinity) and left out")


def test_a_metric_that_is_not_finite_leaves_its_client_out() -> None:
    losses = [{"loss": 1.0}, {"loss": math.nan}, {"loss": 2.0}]
    model, report = one_round(returning([[1.0], [9.0], [3.0]], [10, 10, 10], losses), 1)
    assert model[0] == pytest.approx(2.0)
    assert report.metrics["loss"] == pytest.approx(1.5)
    assert report.rejected_updates == 1


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_a_round_of_rejected_updates_alone_is_not_trained(weighting: str) -> None:
    train = returning([[math.nan, 1.0]] * 3, [5, 6, 7])
    model, report = one_round(train, 2, **{"server.weighting": weighting, "server.momentum": 0.9})
    assert (report.status, report.rejected_updates, report.update_norm) == ("skipped", 3, 0.0)
    assert report.model == report.parent
    assert not model.any()
    assert not report.metrics
    assert said(report, "3 updates were not finite")


def test_a_private_run_says_what_becomes_of_updates_that_are_not_finite() -> None:
    train = returning([[math.nan], [1.0], [1.0]], [5, 5, 5])
    noise = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 1e-6}
    model, report = one_round(train, 1, **noise, **{"privacy.noise": "simulation"})
    assert model[0] == pytest.approx(2 / 3, abs=1e-3)  # zero by contract, in a public denominator
    assert report.rejected_updates is None
    assert said(report, "not finite counts as zero")


# --- entries, weights and metrics beyond the plan --------------------------------------------------------------------


@pytest.mark.parametrize("value", [100.0, -3e4, 2e9])
@pytest.mark.parametrize("scheme", ["plain", "masked", "ckks"])
def test_entries_beyond_the_first_bound_come_through_whole(value: float, scheme: str) -> None:
    model, report = one_round(returning([[value, 1.0]] * 3, [100] * 3), 2, **{"sum.scheme": scheme})
    assert model[0] == pytest.approx(value, rel=1e-6)
    assert report.attempts == 2
    assert said(report, "clipped")


def test_a_bound_that_the_user_gave_is_kept_and_what_it_cut_is_counted() -> None:
    model, report = one_round(
        returning([[100.0, 1.0], [9.0, 9.0], [0.0, 1.0]], [1, 1, 1]), 2, **{"sum.clip_entries": 8.0}
    )
    assert model[0] == pytest.approx(16 / 3, rel=1e-6)
    assert (report.attempts, report.entry_bound) == (1, 8.0)
    assert said(report, "3 entries of updates were clipped to the bound of 8")


@pytest.mark.parametrize("norm", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("scheme", ["plain", "masked"])
def test_a_clip_norm_by_entries_is_kept_and_what_it_cut_is_counted(norm: float, scheme: str) -> None:
    deltas = [[1e5, -1e5, 0.0, 0.0], [0.0, norm / 4, 0.0, 0.0], [-norm, 0.0, 0.0, 0.0]]
    train = returning(deltas, [1, 1, 1])
    model, report = one_round(train, 4, **{"privacy.clip_norm": norm, "privacy.clip": "entries", "sum.scheme": scheme})
    np.testing.assert_allclose(model, np.array([0.0, -norm / 4, 0.0, 0.0]) / 3, atol=1e-5 * norm)
    assert (report.attempts, report.entry_bound) == (1, norm / 2)
    assert said(report, "3 entries of updates were clipped to the bound of")


def test_updates_beyond_a_clip_norm_are_counted() -> None:
    train = returning([[3.0, 4.0], [0.3, 0.4], [30.0, 40.0]], [1, 1, 1])
    model, report = one_round(train, 2, **{"privacy.clip_norm": 1.0})
    np.testing.assert_allclose(model, np.array([0.6 + 0.3 + 0.6, 0.8 + 0.4 + 0.8]) / 3, rtol=1e-5)
    assert said(report, "2 updates were clipped to the norm of 1")


def test_a_grown_bound_stays_for_later_rounds_and_a_resumed_run(tmp_path: Any) -> None:
    def train(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        return ClientUpdate(np.full(2, 100.0 if round == 1 else 50.0), 10)

    own: dict[str, Any] = {"data": THREE, "train": train, "initial": np.zeros(2), "runs": tmp_path}
    Experiment(rounds=2, **own).run()
    resumed = Experiment(rounds=2, **own)
    reports = list(resumed.run(resume=True))
    assert [(report.attempts, report.entry_bound) for report in reports] == [(2, 512.0), (1, 512.0)]
    np.testing.assert_allclose(resumed.model, 150.0, rtol=1e-6)


@pytest.mark.parametrize("counts", [(100, 300, 600), (1, 10_000, 7), (1, 1, 50_000)])
def test_weights_beyond_the_data_come_through_whole(counts: tuple[int, ...]) -> None:
    model, report = one_round(returning([[0.0], [1.0], [2.0]], counts), 1)
    assert model[0] == pytest.approx(np.average([0, 1, 2], weights=counts), rel=1e-6)
    assert said(report, "more examples than were planned for") == (max(counts) > THREE.sizes.max())


@pytest.mark.parametrize("scheme", ["plain", "masked", "ckks"])
def test_weights_whose_total_leaves_the_ring_are_summed_again(scheme: str) -> None:
    sizes, counts = [1, 1, 300], (300, 299, 300)  # within the largest weight, and three times the planned total
    train = returning([[8.0, -8.0], [8.0, 8.0], [8.0, 8.0]], counts)
    model, report = one_round(train, 2, data=a_federation(sizes), **{"sum.scheme": scheme})
    np.testing.assert_allclose(model, [8.0, 8.0 * (299 + 300 - 300) / 899], rtol=1e-6)
    assert report.attempts == 2
    assert len(report.dropouts) == 0


@pytest.mark.parametrize("examples", [2.5, math.nan, "many", None])
def test_weights_that_are_no_whole_numbers_are_refused(examples: Any) -> None:
    with pytest.raises(ConfigError, match="whole number"):
        ClientUpdate(np.ones(2), examples)


@pytest.mark.parametrize("examples", [np.int32(7), np.float64(7.0), 7.0, np.uint8(7)])
def test_whole_weights_of_any_type_are_taken(examples: Any) -> None:
    update = ClientUpdate(np.ones(2), examples)
    assert (update.examples, type(update.examples)) == (7, int)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((1000.0, 1000.0, 1000.0), 1000.0), ((1.0, None, 3.0), 2.0), ((None, None, None), None),
        ((-5e12, 1e12, 1e12), -1e12), ((1e-6, 2e-6, 3e-6), 2e-6),
    ],
)  # fmt: skip
def test_the_training_loss_is_the_mean_of_the_losses_that_were_reported(
    losses: tuple[float | None, ...], expected: float | None
) -> None:
    metrics = [{} if loss is None else {"loss": loss} for loss in losses]
    _, report = one_round(returning([[1.0]] * 3, [100] * 3, metrics), 1)
    assert report.metrics.get("loss") == (None if expected is None else pytest.approx(expected, rel=1e-3))
    some = any(loss is None for loss in losses) and expected is not None
    assert said(report, "mean loss is over 200 of 300 examples") == some


# --- precision ------------------------------------------------------------------------------------------------------


def test_one_giant_client_costs_no_precision() -> None:
    sizes = [200_000, *[5] * 400]
    rng = np.random.default_rng(0)
    deltas = rng.normal(size=(401, 6)) * 0.05
    expected = np.average(deltas, axis=0, weights=sizes)
    model, report = one_round(returning(deltas, sizes), 6, data=a_federation(sizes))
    assert np.abs(model - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert not said(report, "precision")


def test_a_cohort_without_the_giant_is_summed_finely_too() -> None:
    sizes = [2_000_000, *[1] * 9]
    train = returning([[0.001]] * 10, sizes)
    cohort = {"cohort.sampling": "fixed-size", "cohort.size": 2}
    run = Experiment(data=a_federation(sizes), train=train, initial=np.zeros(1), rounds=6, overrides=cohort)
    before = 0.0
    for report in run.each_round():
        after = float(run.store.load(report.round).model[0])
        assert after - before == pytest.approx(0.001, rel=TOLERANCE) or said(report, "precision")
        before = after
    assert not any(said(report, "precision") for report in run.reports)  # such a round is repeated with a finer sum


@pytest.mark.parametrize("size", [1e-3, 1e-5])
def test_small_updates_get_the_wide_ring(size: float) -> None:
    deltas = np.random.default_rng(1).normal(size=(3, 4)) * size
    model, report = one_round(returning(deltas, [7, 7, 7]), 4)
    expected = deltas.mean(axis=0)
    assert np.abs(model - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert report.bits == WIDE_BITS or size > 1e-4
    assert not said(report, "limited")


def test_bits_that_the_user_gave_are_kept_and_the_precision_is_stated() -> None:
    model, report = one_round(returning([[1e-5]] * 3, THREE.sizes), 1, **{"sum.bits": 20})
    assert (report.bits, report.attempts) == (20, 1)
    assert said(report, "precision of the sum is limited")
    assert abs(model[0] - 1e-5) < 1e-3


def test_statistics_in_the_thousands_survive_next_to_small_entries() -> None:
    deltas = [[5000.0, 0.01], [7000.0, 0.02], [6000.0, 0.03]]
    model, _ = one_round(returning(deltas, [7, 7, 7]), 2)
    assert model[0] == pytest.approx(6000.0, rel=1e-7)
    assert model[1] == pytest.approx(0.02, abs=TOLERANCE * 6000)


# --- the first vector -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("initial", [np.zeros(2, int), [0, 0], [0.0, 0.0], (0, 0), np.zeros(2, np.uint8)], ids=repr)
def test_integers_and_lists_become_a_first_vector_of_floats(initial: Any) -> None:
    run = Experiment(data=THREE, train=returning([[0.0] * 2, [0.5] * 2, [1.0] * 2], [9] * 3), initial=initial, rounds=1)
    run.run()
    np.testing.assert_allclose(run.model, 0.5, rtol=1e-6)
    assert run.model.dtype == np.float64


@pytest.mark.parametrize(
    "initial",
    [
        np.zeros(2, np.float16),
        np.zeros((2, 1)),
        np.zeros(2, complex),
        "zeros",
        [[1.0], [2.0, 3.0]],
        np.array([np.nan]),
        [],
    ],
    ids=repr,
)
def test_a_first_vector_that_no_run_can_hold_is_refused(initial: Any) -> None:
    with pytest.raises(ConfigError, match="`initial`"):
        Experiment(data=THREE, train=returning([[0.0]] * 3, [9] * 3), initial=initial)


# --- everything at once ---------------------------------------------------------------------------------------------

ODD = st.one_of(
    st.floats(-10, 10, allow_nan=False),
    st.floats(width=32),
    st.sampled_from([0.0, math.nan, math.inf, 8.0, 1e-9, -1e6]),
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_round_is_the_bare_loop_or_carries_a_caveat_or_is_refused(data: st.DataObject) -> None:
    clients = data.draw(st.integers(1, 6), "clients")
    deltas = np.array(data.draw(st.lists(st.lists(ODD, min_size=3, max_size=3), min_size=clients, max_size=clients)))
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=clients, max_size=clients), "sizes")
    examples = data.draw(
        st.lists(st.integers(0, 5000), min_size=clients, max_size=clients) | st.just(sizes), "examples"
    )
    weighting = data.draw(st.sampled_from(["uniform", "examples"]), "weighting")
    bits = data.draw(st.sampled_from([None, None, 24, 48]), "bits")
    losses = data.draw(st.lists(ODD | st.none(), min_size=clients, max_size=clients), "losses")
    metrics = [{} if loss is None else {"loss": loss} for loss in losses]
    overrides = {"server.weighting": weighting} | ({} if bits is None else {"sum.bits": bits})
    try:
        model, report = one_round(returning(deltas, examples, metrics), 3, data=a_federation(sizes), **overrides)
    except PrivflError:
        return
    finite = [np.isfinite(d).all() and math.isfinite(m.get("loss", 0.0)) for d, m in zip(deltas, metrics, strict=True)]
    weights = np.array(examples if weighting == "examples" else np.minimum(examples, 1), float) * finite
    assert report.rejected_updates == clients - sum(finite)
    if not weights.sum():
        assert (report.status, model.any()) == ("skipped", False)
        assert len(report.caveats) > 1
        return
    expected = np.average(np.where(np.isfinite(deltas), deltas, 0.0), axis=0, weights=weights)
    close = np.abs(model - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert close or said(report, "precision of the sum is limited") or said(report, "clipped to")
    had = [(m["loss"], w) for m, w in zip(metrics, weights, strict=True) if w and abs(m.get("loss", math.inf)) <= 2**64]
    mean = sum(loss * w for loss, w in had) / sum(w for _, w in had) if had else None
    assert report.metrics.get("loss") == (mean if mean is None else pytest.approx(mean, rel=1e-6, abs=1e-9))


def test_standardized_diabetes_learns_as_with_an_unlimited_range() -> None:
    """The diabetes targets are in the hundreds, and so are the first updates."""
    common = {
        "data.name": "diabetes", "data.standardize": "exact", "data.clients": 5, "client.learning_rate": 0.05,
        "client.epochs": 5, "client.batch_size": 16,
    }  # fmt: skip

    def scores(**more: Any) -> list[float]:
        run = Experiment(rounds=20, evaluate_every=5, overrides=common | more).run()
        return [report.evaluation["r2"] for report in run.reports if report.evaluation]

    unlimited = scores(**{"sum.clip_entries": 1e6, "sum.bits": 60})
    assert scores() == pytest.approx(unlimited, abs=1e-6)
    assert len(unlimited) == 4


def test_three_sums_give_one_model_where_rounds_are_repeated_and_updates_rejected() -> None:
    def train(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        delta = rng.normal(size=5) * 10.0 ** (3 - 2 * round)
        delta[0] = math.nan if (client, round) == (3, 2) else delta[0]
        return ClientUpdate(delta, (400, 3, 2, 50, 1)[client], {"loss": float(rng.normal() * 1e5)} if client else {})

    found = []
    for scheme in ("plain", "masked", "ckks"):
        own: dict[str, Any] = {"data": a_federation([100, 3, 2, 50, 1]), "train": train, "initial": np.zeros(5)}
        run = Experiment(rounds=4, overrides={"sum.scheme": scheme}, **own).run()
        found.append([(r.model, r.attempts, r.bits, r.rejected_updates, dict(r.metrics)) for r in run.reports])
    assert found[0] == found[1] == found[2]
    assert [row[3] for row in found[0]] == [0, 1, 0, 0]
    assert found[0][0][1] > 1


@pytest.mark.parametrize("clip", ["flat", "entries"])
def test_a_bound_of_entries_next_to_a_norm_is_refused(clip: str) -> None:
    settings = {"sum.clip_entries": 8.0, "privacy.clip_norm": 1.0, "privacy.clip": clip}
    with pytest.raises(
        ConfigError, match=r"sum\.clip_entries = 8 has no effect next to privacy\.clip_norm.*remove one"
    ):
        Experiment(overrides=settings)
