import numpy as np
import pytest

from privfl.data import ClientExamples, Dataset, FederatedData, Grouping
from privfl.errors import ConfigError, DataError


def small(**changes: object) -> Dataset:
    given: dict[str, object] = {
        "name": "small",
        "task": "binary",
        "features": np.arange(12, dtype=np.float32).reshape(6, 2),
        "targets": np.array([0, 1, 0, 1, 1, 0]),
        "feature_names": ("a", "b"),
        "classes": ("no", "yes"),
    }
    return Dataset(**(given | changes))  # type: ignore[arg-type]


def test_arrays_are_read_only_and_the_callers_own_stay_writeable() -> None:
    own = np.zeros((6, 2), np.float32)
    data = small(features=own)
    for array in (data.features, data.targets, data.test, data.train_indices()):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1
    own[0, 0] = 5.0
    assert data.features[0, 0] == 5.0  # a view, not a copy


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": np.zeros((6, 2))}, "float64"),
        ({"features": np.zeros(6, np.float32)}, r"\[n, p\]"),
        ({"features": np.zeros((6, 0), np.float32), "feature_names": ()}, "n, p >= 1"),
        ({"features": np.full((6, 2), np.inf, np.float32)}, "infinite"),
        ({"feature_names": ("a",)}, "1 names for 2"),
        ({"targets": np.zeros(5, np.int64)}, "targets must be int64"),
        ({"targets": np.zeros(6, np.float32)}, "not float32"),
        ({"targets": np.array([0, 1, 2, 0, 0, 0])}, r"outside \[0, 2\)"),
        ({"targets": np.array([0, -1, 0, 0, 0, 0])}, r"outside \[0, 2\)"),
        ({"classes": ("one",)}, "2 classes, not 1"),
        ({"test": np.array([0, 6])}, r"within \[0, 6\)"),
        ({"test": np.array([1, 1])}, "held twice"),
        ({"groupings": (Grouping("g", np.zeros(5, np.int64), ("x",)),)}, "has 5 examples"),
        ({"task": "regression", "targets": np.full(6, np.nan, np.float32)}, "not finite"),
    ],
)
def test_what_is_no_data_set_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        small(**changes)


def test_an_unknown_task_names_the_known() -> None:
    with pytest.raises(ConfigError, match="binary, multiclass, regression, text, own, not 'ranking'"):
        small(task="ranking")


def test_missing_values_are_allowed_and_text_is_bytes() -> None:
    assert np.isnan(small(features=np.full((6, 2), np.nan, np.float32)).features).all()
    codes = np.zeros((3, 4), np.uint8)
    text = Dataset("t", "text", codes, codes, classes=("a",))
    assert (text.example_count, text.width) == (3, 4)
    with pytest.raises(DataError, match="outside"):
        Dataset("t", "text", codes + np.uint8(1), codes, classes=("a",))


def test_groupings_are_found_by_name() -> None:
    data = small(groupings=(Grouping("site", np.array([0, 0, 1, 1, 1, 0]), ("x", "y")),))
    assert data.grouping().name == data.grouping("site").name == "site"
    with pytest.raises(ConfigError, match="by country; it has: site"):
        data.grouping("country")
    with pytest.raises(ConfigError, match="by anything; it has: none"):
        small().grouping()
    with pytest.raises(DataError, match=r"within \[0, 1\)"):
        Grouping("site", np.array([0, 1]), ("x",))


def test_a_federation_hands_out_rows_by_client() -> None:
    data = small(test=np.array([5]))
    fed = FederatedData(
        data,
        (ClientExamples("a", np.array([0, 2]), np.array([4])), ClientExamples("b", np.array([1, 3]))),
        np.array([5]),
    )
    assert fed.names == ("a", "b")
    np.testing.assert_array_equal(fed.sizes, [2, 2])
    np.testing.assert_array_equal(fed.train(0)[0], data.features[[0, 2]])
    np.testing.assert_array_equal(fed.train(1)[1], [1, 1])
    np.testing.assert_array_equal(fed.local_test(0)[1], [1])
    assert len(fed.local_test(1)[1]) == 0
    np.testing.assert_array_equal(fed.public_test()[0], data.features[[5]])
    np.testing.assert_array_equal(fed.all_train()[0], data.features[[0, 2, 1, 3]])
    np.testing.assert_array_equal(fed.all_test()[0], data.features[[4, 5]])
    np.testing.assert_array_equal(fed.label_counts(), [[2, 0], [0, 2]])
    doubled = fed.with_features(data.features * 2)
    np.testing.assert_array_equal(doubled.train(0)[0], 2 * data.features[[0, 2]])
    assert fed.fingerprint() == FederatedData(data, fed.clients, fed.test).fingerprint() != doubled.fingerprint()
    assert fed.fingerprint() != FederatedData(data, fed.clients[::-1], fed.test).fingerprint()


@pytest.mark.parametrize(
    ("clients", "words"),
    [
        ((), "at least one client"),
        ((ClientExamples("a", np.array([], np.int64)),), "no example to train on"),
        ((ClientExamples("a", np.array([0, 0])),), "held twice"),
        ((ClientExamples("a", np.array([0])), ClientExamples("b", np.array([1]), np.array([0]))), "held twice"),
        ((ClientExamples("a", np.array([5])),), "held twice"),
        ((ClientExamples("a", np.array([6])),), r"within \[0, 6\)"),
        ((ClientExamples("a", np.array([-1])),), r"within \[0, 6\)"),
    ],
)
def test_a_row_has_one_holder(clients: tuple[ClientExamples, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FederatedData(small(), clients, np.array([5]))


def test_a_regression_has_no_label_counts() -> None:
    data = small(task="regression", targets=np.zeros(6, np.float32), classes=())
    with pytest.raises(ConfigError, match="regression task"):
        FederatedData(data, (ClientExamples("a", np.arange(6)),)).label_counts()
