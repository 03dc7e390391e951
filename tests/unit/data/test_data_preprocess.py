import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from privfl import data
from privfl.codec import FixedPoint, square_norm
from privfl.data import Channel, ClientExamples, Dataset, FederatedData
from privfl.data.moments import MAX_ABS, MomentCodec, client_moments
from privfl.data.noised import NoisedMoments
from privfl.errors import CapacityError, ConfigError, TooFewSurvivors
from privfl.ring import Ints, Ring
from privfl.sums import PlainSum

PLAIN = Channel(PlainSum())


def federate(features: npt.NDArray[np.float32], clients: int) -> FederatedData:
    rows = len(features)
    dataset = Dataset("toy", "regression", features, np.zeros(rows, np.float32))
    held = np.array_split(np.random.default_rng(7).permutation(rows), clients)
    return FederatedData(dataset, tuple(ClientExamples(f"c{i}", part) for i, part in enumerate(held)))


def awkward(rows: int = 997) -> npt.NDArray[np.float32]:
    """Columns of very different sizes, of which the third would cancel away in sum(x^2) - mean^2 of floats."""
    rng = np.random.default_rng(3)
    columns = rng.normal(size=(rows, 6)) * [1, 1e-5, 1, 1e9, 1e-7, 30] + [0, 3e-5, 1e6, -1e3, 0, 65]
    columns[:, 5] = np.round(columns[:, 5])
    return columns.astype(np.float32)


# --- exact


def test_the_exact_standardizer_is_that_of_the_pooled_rows() -> None:
    features = awkward()
    found = data.exact_standardizer(federate(features, 9), PLAIN)
    wide = features.astype(np.longdouble)
    np.testing.assert_allclose(found.mean, wide.mean(axis=0).astype(float), rtol=1e-12)
    np.testing.assert_allclose(found.std, wide.std(axis=0).astype(float), rtol=1e-12)
    assert found.origin == "exact"
    assert found.survivors == set(range(9))
    assert found.caveats == ("plain sum: the server saw every client's vector",)


@pytest.mark.parametrize("bits", [8, 17, 32, 48, 64])
def test_any_ring_gives_the_same_bits(bits: int) -> None:
    fed = federate(awkward(200), 5)
    narrow = data.exact_standardizer(fed, Channel(PlainSum(), Ring(bits)))
    wide = data.exact_standardizer(fed, PLAIN)
    np.testing.assert_array_equal(narrow.mean, wide.mean)
    np.testing.assert_array_equal(narrow.std, wide.std)


def test_who_holds_which_row_does_not_matter() -> None:
    features = awkward()
    one, many = (data.exact_standardizer(federate(features, clients), PLAIN) for clients in (1, 200))
    np.testing.assert_allclose(one.mean, many.mean, rtol=1e-13, atol=1e-20)
    np.testing.assert_allclose(one.std, many.std, rtol=1e-12)


def test_a_constant_column_has_deviation_one_exactly() -> None:
    features = np.full((101, 4), np.float32(0.1))
    features[:, 1] = -3e8
    features[:, 2] = 0
    features[:, 3] = 1e-30  # below the resolution: as good as zero
    found = data.exact_standardizer(federate(features, 7), PLAIN)
    np.testing.assert_array_equal(found.std, 1.0)
    np.testing.assert_array_equal(found.mean, [np.float32(0.1), -3e8, 0, 0])
    assert (found.apply(features[:, :])[:, :3] == 0).all()


def test_a_constant_double_gives_exact_moments() -> None:
    rows = np.full((1000, 1), 0.1)  # whose float mean is not 0.1
    assert rows.mean() != 0.1
    counts, sums, squares = client_moments(rows)
    assert counts[0] * squares[0] == sums[0] ** 2


def test_missing_values_are_left_out_and_imputed_by_the_mean() -> None:
    features = awkward(300)[:, [0, 2, 5]]
    hidden = np.random.default_rng(5).random(features.shape) < 0.3
    features[hidden] = np.nan
    features[:, 2] = np.nan  # nobody measured this
    fed = federate(features, 6)
    found = data.exact_standardizer(fed, PLAIN)
    wide = features[:, :2].astype(np.float64)
    np.testing.assert_allclose(found.mean[:2], np.nanmean(wide, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std[:2], np.nanstd(wide, axis=0), rtol=1e-9)
    assert (found.mean[2], found.std[2]) == (0.0, 1.0)
    ready = data.standardize(fed, found).dataset.features
    assert np.isfinite(ready).all()
    assert (ready[np.isnan(features)] == 0).all()
    filled = data.impute(fed, found).dataset.features
    np.testing.assert_array_equal(filled[~np.isnan(features)], features[~np.isnan(features)])
    assert (filled[np.isnan(features[:, 0]), 0] == np.float32(found.mean[0])).all()


def test_only_survivors_are_described() -> None:
    features = np.zeros((4, 1), np.float32)
    features[:, 0] = [1, 3, 100, 100]
    dataset = Dataset("toy", "regression", features, np.zeros(4, np.float32))
    fed = FederatedData(dataset, (ClientExamples("a", np.array([0, 1])), ClientExamples("b", np.array([2, 3]))))
    with pytest.raises(TooFewSurvivors):
        data.exact_standardizer(fed, Channel(PlainSum(), min_cell=1, drop=lambda client, step: client == 1))
    found = data.exact_standardizer(
        fed, Channel(PlainSum(), min_cell=1, drop=lambda client, step: client == 1, min_survivors=1)
    )
    assert (found.mean[0], found.std[0], found.survivors) == (2.0, 1.0, {0})


def test_only_training_rows_are_read() -> None:
    features = np.array([[1], [3], [1e6]], np.float32)
    dataset = Dataset("toy", "regression", features, np.zeros(3, np.float32))
    for fed in (
        FederatedData(dataset, (ClientExamples("a", np.array([0, 1]), np.array([2])),)),
        FederatedData(dataset, (ClientExamples("a", np.array([0, 1])),), np.array([2])),
    ):
        assert data.exact_standardizer(fed, Channel(PlainSum(), min_cell=1)).mean[0] == 2.0


def test_negative_sums_survive_the_limbs() -> None:
    codec = MomentCodec(2, 3, Ring(16))
    rows = [np.array([[-5.5, 2.0**62], [0.25, -1.0]]), np.array([[-1e-9, 7.0]]), np.zeros((0, 2))]
    total = np.sum([codec.encode(part) for part in rows], axis=0)
    assert int(np.abs(codec.encode(rows[0])).max()) <= codec.bound
    counts, sums, squares = codec.decode(total)
    parts = [client_moments(part) for part in rows]
    for kind, found in enumerate((counts, sums, squares)):
        assert found == [sum(part[kind][column] for part in parts) for column in range(2)]
    assert counts == [3, 3]
    assert sums[0] < 0 < squares[0]


def test_the_widest_sums_fit_their_limbs() -> None:
    codec = MomentCodec(1, 1, Ring(34))
    assert codec.limb == 32  # four limbs would be too few for the sum, eight for the squares
    edge = np.array([[np.nextafter(MAX_ABS, 0)], [-np.nextafter(MAX_ABS, 0)], [np.nextafter(MAX_ABS, 0)]])
    assert codec.decode(codec.encode(edge)) == client_moments(edge)


def test_what_cannot_be_summed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"beyond 9\.22337e"):
        client_moments(np.array([[MAX_ABS]]))
    with pytest.raises(ConfigError, match="beyond"):
        client_moments(np.array([[-np.inf]]))
    with pytest.raises(ConfigError, match=r"expected \[k, 2\]"):
        MomentCodec(2, 1, Ring(64)).encode(np.zeros((3, 1)))
    with pytest.raises(ConfigError, match="at least 1, not 0 and 1"):
        MomentCodec(0, 1, Ring(64))
    with pytest.raises(CapacityError, match="200 clients leave no bit in a ring of 8: 10 bits would suffice"):
        MomentCodec(1, 200, Ring(8))
    assert MomentCodec(1, 200, Ring(10)).limb == 1


def test_too_many_rows_are_refused_before_they_are_read() -> None:
    endless = np.broadcast_to(np.zeros((1, 1), np.float32), (1 << 32, 1))
    with pytest.raises(ConfigError, match="less than 4294967296 examples"):
        client_moments(endless)


def test_text_is_not_standardized() -> None:
    codes = np.zeros((4, 4), np.uint8)
    fed = FederatedData(Dataset("play", "text", codes, codes, classes=("a",)), (ClientExamples("a", np.arange(4)),))
    with pytest.raises(ConfigError, match="play is text"):
        data.exact_standardizer(fed, PLAIN)
    with pytest.raises(ConfigError, match="play is text"):
        data.local_standardize(fed)
    for step in (data.standardize, data.impute):
        with pytest.raises(ConfigError, match="play is text"):
            step(fed, data.public_standardize([0] * 4, [1] * 4))


def test_a_one_class_hospital_with_constant_columns_gives_no_nan(data_folder: Path) -> None:
    fed = data.partition(data.load("heart", data_folder), "natural")
    found = data.exact_standardizer(fed, PLAIN)
    pooled = fed.all_train()[0].astype(np.float64)
    np.testing.assert_allclose(found.mean, pooled.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, pooled.std(axis=0), rtol=1e-12)
    ready = data.standardize(fed, found)
    assert np.isfinite(ready.dataset.features).all()
    # Switzerland alone, as if nobody else took part: its cholesterol is a constant 0.
    alone = FederatedData(fed.dataset, (fed.clients[2],))
    own = data.exact_standardizer(alone, PLAIN)
    constant = alone.train(0)[0].std(axis=0) == 0
    assert constant.any()
    np.testing.assert_array_equal(own.std[constant], 1.0)
    assert np.isfinite(data.standardize(fed, own).dataset.features).all()


# --- local


def test_each_client_may_use_its_own_rows_alone(data_folder: Path) -> None:
    fed = data.partition(data.load("heart", data_folder), "natural")
    ready = data.local_standardize(fed)
    assert np.isfinite(ready.dataset.features).all()
    for client in range(4):
        raw, test = fed.train(client)[0].astype(np.float64), fed.local_test(client)[0].astype(np.float64)
        std = np.where(raw.std(axis=0) > 0, raw.std(axis=0), 1.0)
        np.testing.assert_allclose(ready.train(client)[0], (raw - raw.mean(axis=0)) / std, atol=1e-5)
        np.testing.assert_allclose(ready.local_test(client)[0], (test - raw.mean(axis=0)) / std, atol=1e-5)


def test_rows_that_nobody_holds_have_no_local_mean() -> None:
    dataset = Dataset("toy", "regression", normal(3), np.zeros(3, np.float32))
    with pytest.raises(ConfigError, match="1 test examples of toy belong to no client"):
        data.local_standardize(FederatedData(dataset, (ClientExamples("a", np.array([0, 1])),), np.array([2])))


# --- public


def test_public_constants_are_applied_as_given() -> None:
    found = data.public_standardize([1, 2], [2, 4])
    np.testing.assert_array_equal(found.apply(np.array([[3, 2], [1, np.nan]])), [[1, 0], [0, 0]])
    assert found.origin == "public"


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ([0], [0], "positive"),
        ([0], [-1], "positive"),
        ([0], [np.nan], "finite"),
        ([np.inf], [1], "finite"),
        ([0, 0], [1], "one length"),
        ([], [], "one length"),
    ],
)
def test_constants_that_cannot_be_divided_by_are_refused(mean: list[float], std: list[float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        data.public_standardize(mean, std)


def test_an_outlier_stays_finite_and_a_wrong_width_is_refused() -> None:
    tight = data.public_standardize([0], [1e-30])
    assert np.isfinite(tight.apply(np.array([[1e30], [-1e30]]))).all()
    with pytest.raises(ConfigError, match=r"expected \[k, 1\]"):
        tight.apply(np.zeros((3, 2)))
    with pytest.raises(ConfigError, match=r"expected \[k, 1\]"):
        tight.impute(np.zeros(3))


# --- noised


def plan(**changes: object) -> NoisedMoments:
    given: dict[str, object] = {
        "center": np.zeros(3),
        "width": np.full(3, 4.0),
        "clip_norm": math.sqrt(7),
        "codec": FixedPoint(2.0**20, Ring(48)),
    }
    return NoisedMoments(**(given | changes))  # type: ignore[arg-type]


def silent(total: Ints, survivors: frozenset[int]) -> Ints:
    return total


def normal(rows: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(11)
    return (rng.normal(size=(rows, 3)) * [1, 0.5, 0.2] + [0.5, -1, 0]).astype(np.float32)


NARROW = Channel(PlainSum(), Ring(48))


@pytest.mark.parametrize("unit", ["client", "example"])
def test_without_noise_the_bounded_sums_come_close(unit: str) -> None:
    features = normal(3000)
    found = data.noised_standardizer(federate(features, 10), NARROW, plan(unit=unit, max_examples=300), opening=silent)
    np.testing.assert_allclose(found.mean, features.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(found.std, features.std(axis=0), rtol=0.02)
    assert (found.origin, found.survivors) == ("noised", set(range(10)))
    assert found.caveats


def test_central_noise_of_the_promised_size_leaves_a_usable_answer() -> None:
    features, bounded = normal(3000), plan(unit="example", max_examples=300)
    rng = np.random.default_rng(0)

    def opening(total: Ints, survivors: frozenset[int]) -> Ints:
        return total + np.rint(rng.normal(0, bounded.norm_bound, len(total))).astype(np.int64)

    found = data.noised_standardizer(federate(features, 10), NARROW, bounded, opening=opening)
    assert np.abs(found.mean - features.mean(axis=0)).max() < 0.05
    assert (np.abs(found.mean - features.mean(axis=0)) > 1e-6).all()  # the noise is there


def test_shares_of_noise_are_added_by_the_clients() -> None:
    seen = []

    def share(client: int, vector: Ints) -> Ints:
        seen.append(client)
        return vector + np.where(np.arange(len(vector)) == 1, 1000 * (client + 1), 0)

    fed, bounded = federate(normal(30), 3), plan()
    plain = data.noised_standardizer(fed, NARROW, bounded, opening=silent)
    shared = data.noised_standardizer(fed, NARROW, bounded, share=share, share_bound=3000)
    assert seen == [0, 1, 2]
    np.testing.assert_allclose(shared.mean - plain.mean, [4 * 6000 / 2**20 / 3, 0, 0], atol=1e-12)
    # A share may be wider than a contribution, as far as it was announced.
    wide = 2 * bounded.bound
    data.noised_standardizer(fed, NARROW, bounded, share=lambda client, vector: vector + wide, share_bound=wide)
    with pytest.raises(ConfigError, match="beyond the task's bound"):
        data.noised_standardizer(fed, NARROW, bounded, share=lambda client, vector: vector + wide, share_bound=9)


@pytest.mark.parametrize("clip_norm", [0.3, 1.0, 2.0, math.sqrt(7)])
def test_one_unit_never_moves_the_sum_by_more_than_its_bound(clip_norm: float) -> None:
    rng = np.random.default_rng(1)
    by_client, by_row = plan(clip_norm=clip_norm), plan(clip_norm=clip_norm, unit="example", max_examples=40)
    limit = math.floor(by_client.norm_bound**2)
    for _ in range(20):
        rows = rng.normal(size=(40, 3)) * 10.0 ** rng.integers(-3, 6)
        rows[rng.random(rows.shape) < 0.1] = np.nan
        assert square_norm(by_client.contribution(rows)) <= limit
        step = by_row.contribution(rows) - by_row.contribution(rows[1:])
        assert square_norm(step) <= limit
        assert np.abs(by_row.contribution(rows)).max() <= by_row.bound


def test_a_client_without_rows_contributes_nothing() -> None:
    assert not plan().contribution(np.zeros((0, 3))).any()
    assert not plan(unit="example").contribution(np.zeros((0, 3))).any()


def test_where_the_noise_leaves_nothing_the_public_guess_stays() -> None:
    guess = plan(center=np.array([1.0, 2, 3]))
    for count in (0, -5):
        found = guess.standardizer(np.array([count, 9, 9, 9, 9, 9, 9]) * 2**20)
        np.testing.assert_array_equal(found.mean, guess.center)
        np.testing.assert_array_equal(found.std, guess.width)
    found = guess.standardizer(np.array([10, 5, -99, 0, 1, 99, 0]) * 2**20)
    np.testing.assert_array_equal(found.mean, [1 + 4 * 0.5, 2 - 4, 3])
    np.testing.assert_array_equal(found.std, 4.0)  # variances of -0.15, 0 and 0: the public width


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unit": "row"}, "client, example, not 'row'"),
        ({"center": np.zeros(2)}, "one length"),
        ({"width": np.zeros(3)}, "positive"),
        ({"center": np.full(3, np.nan)}, "finite"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"clip_norm": math.inf}, "clip_norm"),
        ({"clip_norm": math.nan}, "clip_norm"),
        ({"max_examples": 0}, "max_examples"),
    ],
)
def test_a_plan_without_sense_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(**changes)


def test_a_run_that_does_not_fit_its_plan_is_refused() -> None:
    fed = federate(normal(30), 3)
    with pytest.raises(ConfigError, match="exactly one of them"):
        data.noised_standardizer(fed, NARROW, plan())
    with pytest.raises(ConfigError, match="exactly one of them"):
        data.noised_standardizer(fed, NARROW, plan(), opening=silent, share=lambda client, vector: vector)
    with pytest.raises(ConfigError, match="64 bits and the codec 48"):
        data.noised_standardizer(fed, PLAIN, plan(), opening=silent)
    with pytest.raises(ConfigError, match="for 2 features, toy has 3"):
        data.noised_standardizer(fed, NARROW, plan(center=np.zeros(2), width=np.ones(2)), opening=silent)
    with pytest.raises(ConfigError, match="10 examples, and max_examples allows 9"):
        data.noised_standardizer(fed, NARROW, plan(unit="example", max_examples=9), opening=silent)
    with pytest.raises(ConfigError, match=r"expected \[k, 3\]"):
        plan().contribution(np.zeros((3, 2)))


def test_public_ranges_of_the_census_leave_one_hot_columns_as_they_are(data_folder):
    adult = data.load("adult", data_folder)
    known = data.public_standardizer(adult)
    assert len(known.mean) == adult.width
    numbers = known.apply(adult.features)[:, :5]
    assert np.abs(numbers.mean(axis=0)).max() < 2
    np.testing.assert_array_equal(known.apply(adult.features)[:, 5:], adult.features[:, 5:])
